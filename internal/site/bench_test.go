package site_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"kido/internal/site"
)

// The structs that encoding/json fills with the same data: no positions, no
// checks, durations left as text.
type jsonSite struct {
	Site     string                 `json:"site"`
	Hosts    map[string]string      `json:"hosts"`
	Services map[string]jsonService `json:"services"`
}

type jsonService struct {
	Hosts          []string          `json:"hosts"`
	Systemd        string            `json:"systemd"`
	After          map[string]string `json:"after"`
	MaxUnavailable int               `json:"max_unavailable"`
	Timeout        jsonTimeout       `json:"timeout"`
	Ready          []jsonProbe       `json:"ready"`
}

type jsonTimeout struct {
	Start string `json:"start"`
	Stop  string `json:"stop"`
}

type jsonProbe struct {
	TCP      string `json:"tcp"`
	HTTP     string `json:"http"`
	Interval string `json:"interval"`
}

// large makes the same site twice, as people write it and as JSON.
func large(services int) (asYAML, asJSON []byte) {
	var y bytes.Buffer
	j := jsonSite{Site: "large", Hosts: map[string]string{}, Services: map[string]jsonService{}}
	fmt.Fprintf(&y, "site: %s\nhosts:\n", j.Site)
	hosts := max(services/10, 3)
	for i := range hosts {
		name, address := fmt.Sprintf("host%d", i), fmt.Sprintf("10.0.%d.%d", i/256, i%256)
		j.Hosts[name] = address
		fmt.Fprintf(&y, "  %s: %s\n", name, address)
	}
	y.WriteString("services:\n")
	for i := range services {
		name := fmt.Sprintf("service%d", i)
		s := jsonService{
			Hosts:          []string{fmt.Sprintf("host%d", i%hosts), fmt.Sprintf("host%d", (i+1)%hosts)},
			Systemd:        name + ".service",
			After:          map[string]string{},
			MaxUnavailable: 1,
			Timeout:        jsonTimeout{"2m", "30s"},
			Ready:          []jsonProbe{{TCP: fmt.Sprintf(":%d", 1024+i%60000), Interval: "2s"}, {HTTP: "http://:80/health", Interval: "5s"}},
		}
		fmt.Fprintf(&y, "  %s:\n    hosts: [%s, %s]\n    systemd: %s\n", name, s.Hosts[0], s.Hosts[1], s.Systemd)
		if i > 2 {
			one, two := fmt.Sprintf("service%d", i/2), fmt.Sprintf("service%d", i-1)
			s.After[one], s.After[two] = "restart", "reload"
			fmt.Fprintf(&y, "    after:\n      %s: restart\n      %s: reload\n", one, two)
		}
		fmt.Fprintf(&y, "    max_unavailable: 1\n    timeout: {start: %s, stop: %s}\n", s.Timeout.Start, s.Timeout.Stop)
		fmt.Fprintf(&y, "    ready:\n      - tcp: %s\n        interval: 2s\n      - http: http://:80/health\n        interval: 5s\n", s.Ready[0].TCP)
		j.Services[name] = s
	}
	asJSON, err := json.Marshal(j)
	if err != nil {
		panic(err)
	}
	return y.Bytes(), asJSON
}

// BenchmarkLoad turns by turn reads the same 10,000 services with encoding/json
// into structs and with this package into a validated Site, and reports the
// ratio of the times.
func BenchmarkLoad(b *testing.B) {
	asYAML, asJSON := large(10_000)
	var theirs, ours time.Duration
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		var j jsonSite
		if err := json.Unmarshal(asJSON, &j); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		s, err := site.Parse("site.yaml", asYAML)
		if err != nil {
			b.Fatal(err)
		}
		ours += time.Since(middle)
		theirs += middle.Sub(begin)
		if len(s.Services) != len(j.Services) || len(s.Warnings()) != 0 {
			b.Fatalf("%d services, not %d; %d warnings", len(s.Services), len(j.Services), len(s.Warnings()))
		}
	}
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-encoding/json")
	b.ReportMetric(ours.Seconds()*1000/float64(b.N), "ms-ours")
	b.ReportMetric(theirs.Seconds()*1000/float64(b.N), "ms-encoding/json")
}
