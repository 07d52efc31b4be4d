package install

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"kido/internal/gate"
	"kido/internal/site"
)

// TestPeers: where connections to upstreams lead. A neighbour is reached by names of its
// host's own as well, which lead elsewhere from another host; and of more upstreams than a gate takes the rest is left out, or
// it would take nothing at all.
func TestPeers(t *testing.T) {
	t.Parallel()
	var hosts, names strings.Builder
	for n := range 300 {
		fmt.Fprintf(&hosts, ", c%03d: 192.0.2.9", n)
		fmt.Fprintf(&names, ", c%03d", n)
	}
	s, err := site.Parse("/src/site.yaml", []byte(`site: x
hosts: {db1: 192.0.2.1, web1: 192.0.2.2`+hosts.String()+`}
services:
  db: {hosts: [db1, web1], systemd: db, ready: [{exec: [/x]}], listens: ":5432"}
  cloud: {hosts: [web1], external: true, ready: [{tcp: "cloud.example:80"}]}
  inner: {hosts: [db1, web1], systemd: inner, ready: [{exec: [/x]}], listens: "localhost:7"}
  cache: {hosts: [c000`+strings.TrimPrefix(names.String(), ", c000")+`], systemd: cache, ready: [{tcp: ":11211"}]}
  web: {hosts: web1, systemd: web, after: [db, cloud, inner]}
  wide: {hosts: web1, systemd: wide, after: cache}
`))
	if err != nil {
		t.Fatal(err)
	}
	p, _ := PolicyFor(s, "web1", nil)
	if _, err := gate.ParsePolicy(p.Format()); err != nil {
		t.Errorf("the gate does not take it: %v", err)
	}
	want := []gate.Peer{
		{Upstream: "cloud@web1", Addresses: []string{"cloud.example:80"}},
		{Upstream: "db@db1", Addresses: []string{"192.0.2.1:5432"}},
		{Upstream: "db@web1", Addresses: []string{"192.0.2.2:5432", "127.0.0.1:5432", "[::1]:5432"}},
		{Upstream: "inner@web1", Addresses: []string{"localhost:7", "127.0.0.1:7", "[::1]:7"}},
	}
	if got := p.Service("web").Peers; !slices.EqualFunc(got, want, func(a, b gate.Peer) bool {
		return a.Upstream == b.Upstream && slices.Equal(a.Addresses, b.Addresses)
	}) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := len(p.Service("wide").Peers); n != gate.MaxPeers {
		t.Errorf("%d peers of 300 upstreams, want %d", n, gate.MaxPeers)
	}
}
