package cli

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"kido/internal/plan"
	"kido/internal/probe"
	"kido/internal/site"
	"kido/internal/wire"
)

// refusing is a prober that counts what it is asked.
type refusing struct{ tries atomic.Int64 }

func (r *refusing) Try(context.Context, probe.Spec) probe.Answer {
	r.tries.Add(1)
	return probe.NotReady("connection refused")
}

// TestSightsAskOnce: what many wait for is asked once, and told to all of them: a
// database that has just come up is not to be stormed by a mere look.
func TestSightsAskOnce(t *testing.T) {
	t.Parallel()
	var hosts, names strings.Builder
	for n := range 100 {
		fmt.Fprintf(&hosts, ", w%d: 192.0.2.2", n)
		fmt.Fprintf(&names, ", w%d", n)
	}
	s, err := site.Parse("/src/site.yaml", []byte("site: x\nhosts: {db1: 192.0.2.1"+hosts.String()+"}\nservices:\n"+
		"  db: {hosts: db1, systemd: db, ready: [{tcp: ':1', from: runner}]}\n"+
		"  web: {hosts: ["+names.String()[2:]+"], systemd: web, after: db}\n"))
	if err != nil {
		t.Fatal(err)
	}
	topo, db := plan.New(s), site.Instance{Service: "db", Host: "db1"}
	up := wire.Status{State: wire.StateUp, Token: "new", Ready: true, Settled: true, Wanted: wire.WantedUp}
	seen := plan.Observed{}
	for _, i := range topo.Instances() {
		is := up
		is.Instance, is.Basis = i.String(), wire.NewVector(wire.Entry{Instance: db.String(), Token: "old"})
		seen[i] = plan.Observation{Status: &is}
	}
	asked := &refusing{}
	f := &fleet{site: s, prober: asked}
	all := f.sights(context.Background(), topo, topo.Instances(), seen)
	if n := asked.tries.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	for _, i := range topo.Instances() {
		want := "as seen from the runner: connection refused"
		if i == db {
			want = ""
		}
		if got := all[i].why(db); got != want {
			t.Errorf("%s: %q, want %q", i, got, want)
		}
	}
}

// TestUnpinnedIsHere: who has the address of a host himself needs no key of it, but to
// know that he is it.
func TestUnpinnedIsHere(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("/src/site.yaml", []byte("site: x\nhosts: {db1: 192.0.2.1, web1: 192.0.2.2, near: 127.0.0.1, named: db.example}\nservices:\n"+
		"  db: {hosts: [db1, web1, near, named], systemd: db}\n  old: {hosts: db1, plain: restart, after: db}\n"))
	if err != nil {
		t.Fatal(err)
	}
	own := []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1)}, &net.IPNet{IP: net.ParseIP("192.0.2.1")}, &net.UnixAddr{}}
	for _, c := range []struct {
		f             fleet
		service, host string
		here          bool
	}{
		{fleet{}, "db", "db1", true},
		{fleet{}, "", "db1", true},
		{fleet{}, "db", "web1", false},
		{fleet{}, "db", "near", false},
		{fleet{}, "db", "named", false},
		{fleet{}, "old", "db1", false},            // it is let in by its key, wherever it comes from
		{fleet{told: true}, "db", "db1", false},   // --here none
		{fleet{here: "web1"}, "db", "db1", false}, // two of the site with one address
	} {
		c.f.site = s
		hint := c.f.unpinned(s.Service(c.service), c.host, own)
		if here := strings.Contains(hint, "say so: --here "+c.host+" "); here != c.here || strings.Contains(hint, "keys pin") == c.here {
			t.Errorf("%+v: %s", c, hint)
		}
	}
}
