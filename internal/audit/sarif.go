package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
)

// SARIF is reports as the Static Analysis Results Interchange Format has them
// (OASIS, SARIF 2.1.0): an object to be written as JSON, with one run for each
// host. version is the program's.
func SARIF(version string, reports []Report) any {
	log := sarifLog{
		Schema:  "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
		Version: "2.1.0",
		Runs:    []sarifRun{},
	}
	driver := sarifDriver{Name: "kido audit", Version: version}
	index := map[string]int{}
	for i, r := range Rules {
		index[r.ID] = i
		driver.Rules = append(driver.Rules, sarifRule{
			ID: r.ID, Name: pascal(r.ID), Short: sarifText{r.Title}, Full: sarifText{r.Why},
			Help: sarifText{r.Why + " Source: " + r.Source + "."}, Default: sarifDefault{string(r.Severity)},
		})
	}
	for _, report := range reports {
		run := sarifRun{Tool: sarifTool{driver}, Automation: sarifAutomation{"kido audit/" + report.Host}, Results: []sarifResult{}}
		for _, f := range report.Findings {
			run.Results = append(run.Results, sarifResult{
				RuleID: f.Rule, RuleIndex: index[f.Rule], Level: string(f.Severity),
				Message:      sarifText{fmt.Sprintf("%s. %s Mend: %s", f.Found, f.Why, f.Mend)},
				Locations:    []sarifLocation{locate(report.Host, f.Place)},
				Fingerprints: map[string]string{"kido/v1": fingerprint(report.Host, f)},
			})
		}
		log.Runs = append(log.Runs, run)
	}
	return log
}

// fingerprint is the same for a finding that is found again, on whatever line.
func fingerprint(host string, f Finding) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{host, f.Rule, f.Place.File, f.Place.Option, f.Found}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

func locate(host string, p Place) sarifLocation {
	l := sarifLocation{Logical: []sarifLogical{{Name: host + ": " + p.String()}}}
	if strings.HasPrefix(p.File, "/") {
		uri := url.URL{Scheme: "file", Path: p.File}
		l.Physical = &sarifPhysical{Artifact: sarifArtifact{uri.String()}}
		if p.Line > 0 {
			l.Physical.Region = &sarifRegion{p.Line}
		}
	}
	return l
}

// pascal is a rule's id as SARIF wants its name: key-weak is KeyWeak.
func pascal(id string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(id, "-") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool       `json:"tool"`
		Automation sarifAutomation `json:"automationDetails"`
		Results    []sarifResult   `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifAutomation struct {
		ID string `json:"id"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string       `json:"id"`
		Name    string       `json:"name"`
		Short   sarifText    `json:"shortDescription"`
		Full    sarifText    `json:"fullDescription"`
		Help    sarifText    `json:"help"`
		Default sarifDefault `json:"defaultConfiguration"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifDefault struct {
		Level string `json:"level"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
	}
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
	}
)
