package site

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kido/internal/probe"
)

// TestSecretsAreNotShown: whatever stands where a secret's place should be named.
func TestSecretsAreNotShown(t *testing.T) {
	text, err := os.ReadFile("testdata/structural/secrets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	planted := []string{"hunter2", "12341234"}
	for _, secret := range planted {
		if !strings.Contains(string(text), secret) {
			t.Fatalf("%s is not planted", secret)
		}
	}
	texts := []string{string(text)}
	// The same where what stands beside it is no YAML, and where no secret was meant.
	for _, line := range []string{
		`password: hunter2: x`, `"password": "hunter2" "`, `Passwd : [hunter2`, `bearer:	hunter2: y`, `{password: hunter2, ]`,
		`pasword: hunter2`, `headers: {Authorization: Bearer hunter2, : }`, `headers: {Cookie: hunter2 }}`,
	} {
		texts = append(texts, "site: x\nservices:\n  a:\n    ready:\n      - http: http://:80\n        "+line+"\n")
	}
	for _, text := range texts {
		_, err := Parse("site.yaml", []byte(text))
		if err == nil {
			t.Errorf("no mistake in %s", text)
			continue
		}
		for _, secret := range planted {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s shows %s:\n%v", text, secret, err)
			}
		}
	}
}

// TestOneLineIsShown: a whole site on one line is shown, where no secret can be on it.
func TestOneLineIsShown(t *testing.T) {
	text := `{"site": "x", "hosts": {"h": "10.0.0.1"}, "services": {"a": {"hosts": "h", "systemd": "a", "ready": {"redis": ":1", "password": {"file": "/x"}, "rle": "any"}}}}`
	_, err := Parse("site.yaml", []byte(text))
	if err == nil || !strings.Contains(err.Error(), `{"file": "/x"}, "rle": "any"}`) {
		t.Error(err)
	}
}

// TestEveryOption writes every option of every kind, and finds it in the probe as a
// line has it.
func TestEveryOption(t *testing.T) {
	schema := compiledSchema(t)
	values := map[spelling][2]string{ // in a site file, in a line
		spelledText: {`"x"`, "x"}, spelledPath: {"/x", "file:/x"}, spelledSecret: {"{file: /x}", "file:/x"},
		spelledToken: {"{json: a.b}", "json:a.b"}, spelledTime: {"1.5s", "1500"}, spelledNumber: {"7", "7"}, spelledCodes: {"[200, 404]", "200,404"},
	}
	without := map[probe.Kind]map[string]string{ // what a kind cannot be without
		probe.KindPostgres: {"user": "u"}, probe.KindMySQL: {"user": "u"}, probe.KindOracle: {"user": "u", "service": "s", "password": "{file: /x}"},
		probe.KindLog: {"match": "x", "begins": "y"},
	}
	examples := map[probe.Form]string{
		probe.FormAddress: `":1"`, probe.FormPath: "/x", probe.FormLog: "/x", probe.FormName: "x", probe.FormUnit: "x", probe.FormArgv: "[/x]",
	}
	options := 0
	for _, kind := range probe.Kinds() {
		s, _ := probe.SortOf(kind)
		if s.Form == probe.FormParts {
			continue
		}
		target := examples[s.Form]
		if s.Form == probe.FormURL {
			target = string(kind) + "://:1/"
		}
		for _, name := range slices.Sorted(maps.Keys(s.Options)) {
			o := s.Options[name]
			x := values[spellingOf(name, o)]
			key, line := name, name
			switch {
			case len(o.Values) > 0:
				x = [2]string{spelled(o.Values[0]), o.Values[0]}
			case strings.HasSuffix(name, "."):
				key, line, x = name[:len(name)-1]+"s", name+"X-A", [2]string{"{X-A: b}", "b"}
			case spellingOf(name, o) == spelledText:
				for _, text := range []string{"10.0.0.1:53", "10.0.0.1", "x"} {
					if o.Check(text) == nil {
						x = [2]string{strconv.Quote(text), text}
					}
				}
			}
			pairs := maps.Clone(without[kind])
			if pairs == nil {
				pairs = map[string]string{}
			}
			also := func(key, value string) {
				if _, ok := s.Options[key]; ok {
					pairs[key] = value
				}
			}
			switch name {
			case "password":
				also("user", "u")
			case "user":
				also("password", "{file: /x}")
			case "sasl":
				also("user", "u")
				also("password", "{file: /x}")
			case "sid":
				delete(pairs, "service")
			case "cert":
				also("key", "/x")
			case "key":
				also("cert", "/x")
			}
			if slices.Contains([]string{"ca", "cert", "key", "name"}, name) {
				also("tls", "true")
			}
			pairs[key] = x[0]
			text := fmt.Sprintf("site: x\nhosts: {h: 10.0.0.1}\nservices:\n  a:\n    hosts: h\n    systemd: a\n    ready:\n      - %s: %s\n", keyOf(s), target)
			for _, key := range slices.Sorted(maps.Keys(pairs)) {
				text += fmt.Sprintf("        %s: %s\n", key, pairs[key])
			}
			got, err := Parse("site.yaml", []byte(text))
			if err != nil {
				t.Errorf("%s\n%v", text, err)
				continue
			}
			if p := got.Services[0].Ready[0]; p.Kind != kind || p.Options[line] != x[1] {
				t.Errorf("%s\n%q", text, p.Fields())
			}
			if err := schema.Validate(plainValue(t, text)); err != nil {
				t.Errorf("%s\n%v", text, err)
			}
			options++
		}
	}
	if options < 100 {
		t.Errorf("%d options were tried", options)
	}
}

// TestBlind: whose restarts inside the unit nobody sees.
func TestBlind(t *testing.T) {
	for _, test := range []struct {
		up, reaction string
		blind        bool
	}{
		{`systemd: up`, "restart", true},
		{`systemd: up, ready: {tcp: ":1"}`, "reload", true},
		{`systemd: up, ready: {tcp: ":1"}`, "none", false},
		{`systemd: up, ready: [{tcp: ":1"}, {redis: ":1"}]`, "restart", false},
		{`systemd: up, ready: {redis: ":1", token: false}`, "restart", true},
		{`systemd: up, ready: {redis: ":1", from: dependent}`, "restart", true},
		{`systemd: up, ready: {all: [{tcp: ":1"}, {redis: ":1"}]}`, "restart", false},
		{`systemd: up, ready: {any: [{tcp: ":1"}, {redis: ":1"}]}`, "restart", true},
		{`systemd: up, ready: {exec: [/x], token: output}`, "restart", false},
		{`systemd: up, ready: {http: "http://:1/", token: {header: X}}`, "restart", false},
		{`plain: restart`, "none", false},
		{`external: true, ready: {tcp: "x:1"}`, "restart", false},
	} {
		text := fmt.Sprintf("site: x\nhosts: {h: 10.0.0.1}\nservices:\n  down: {hosts: h, systemd: d, after: {up: %s}}\n  up: {hosts: h, %s}\n", test.reaction, test.up)
		s, err := Parse("site.yaml", []byte(text))
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		if blind := s.Blind(); (len(blind) == 1 && blind[0].Name == "up") != test.blind {
			t.Errorf("%s\nblind: %v", text, blind)
		}
	}
}
