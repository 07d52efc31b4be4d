package report

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

var now = time.Date(2026, 10, 1, 14, 5, 0, 0, time.UTC)

func site() Status {
	next, past := now.Add(4*time.Second), now.Add(-time.Hour)
	return Status{
		Site: "shop",
		Instances: []Instance{
			{Name: "oracle@db1", State: "up", Ready: true, Fresh: true, Age: 3*time.Minute + 12*time.Second},
			{Name: "web@web1", State: "up", Ready: true, Fresh: true, Age: 40 * time.Second},
			{Name: "web@web2", State: "up", Ready: true, Age: 4*24*time.Hour + time.Hour, Owes: []string{"oracle@db1"}, Next: &next, Why: "the last try failed"},
			{Name: "web@web3", State: "down", OnPurpose: true, Owes: []string{"oracle@db1"}},
			{Name: "web@web4", State: "unknown", Why: "web4: connect: no route to host", Next: &past},
			{Name: "web@web5", State: "unknown", Why: "web5: connect: no route to host", Owes: []string{"oracle@db1"}, Next: &next},
			{Name: "web@web6", State: "busy", Fresh: true, Next: &next},
			{Name: "batch@db1", State: "failed", Why: "it has failed"},
			{Name: "report@web10", State: "up", Ready: true, Age: 47 * time.Hour, Waits: []string{"web@web2", "web@web4", "web@web5"}},
			{Name: "old@db2", State: "blind", Ready: true, Fresh: true},
			{Name: "mail@db2", State: "up", Ready: true, Degraded: true, Fresh: true, Why: "answered after 2s"},
		},
		Runs: []Run{
			{ID: "20261001-120000-abcde", Begun: now.Add(-2 * time.Hour), Verb: "restart", Targets: []string{"oracle"}},
			{ID: "20261001-130000-bcdef", Begun: now.Add(-time.Hour), Verb: "announce", Targets: []string{"oracle", "cache"}, Outcome: "incomplete"},
			{ID: "20261001-140000-cdefg", Begun: now.Add(-5 * time.Minute), Verb: "up", Live: true},
		},
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := writeStatus(&out, site(), now); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.txt", out.Bytes())
}

func TestStatusOfManyAndOfNone(t *testing.T) {
	t.Parallel()
	s := Status{}
	for n := range 1000 {
		s.Instances = append(s.Instances, Instance{Name: fmt.Sprintf("web@web%d", n), State: "up", Ready: true, Fresh: true})
	}
	var out bytes.Buffer
	if err := WriteStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 1003 {
		t.Errorf("%d lines", n)
	}
	if !bytes.HasSuffix(out.Bytes(), []byte("\n1000 instances: 1000 ready and fresh\n")) {
		t.Errorf("ends with %q", out.Bytes()[out.Len()-80:])
	}
	out.Reset()
	if err := WriteStatus(&out, Status{}); err != nil || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestOwing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		i    Instance
		want bool
	}{
		{"fresh", Instance{State: "up", Ready: true, Fresh: true}, false},
		{"owes", Instance{State: "up", Ready: true, Owes: []string{"oracle@db1"}}, true},
		{"not ready", Instance{State: "up", Fresh: true}, true},
		{"unknown", Instance{State: Unknown, Ready: true, Fresh: true}, true},
		{"on purpose", Instance{State: "down", OnPurpose: true, Owes: []string{"oracle@db1"}}, false},
		{"behind another", Instance{State: "up", Ready: true, Waits: []string{"web@web1"}}, false},
		{"unfinished", Instance{State: "up", Ready: true}, true},
	} {
		s := Status{Instances: []Instance{{State: "up", Ready: true, Fresh: true}, c.i}}
		if got := s.Owing(); got != c.want {
			t.Errorf("%s: owing is %v", c.name, got)
		}
	}
}
