package netprobe

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"kido/internal/probe"
)

// dns looks a name up as this host's programs do, the files of this host included, or
// asks a server of its own.
func (p Prober) dns(ctx context.Context, s probe.Spec) probe.Answer {
	server := s.Options["server"]
	if _, err := netip.ParseAddr(server); err == nil {
		server = net.JoinHostPort(server, "53")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var asked atomic.Bool
	dialer := net.Dialer{KeepAlive: -1}
	resolver := net.Resolver{PreferGo: true}
	// A resolver goes on to ask, for whoever else may want to know, where a lookup is over.
	resolver.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
		asked.Store(true)
		c, err := dialer.DialContext(ctx, network, cmp.Or(server, address))
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { c.Close() })
		return c, nil
	}
	all, err := resolver.LookupNetIP(ctx, "ip", s.Target)
	if server != "" && err == nil && !asked.Load() {
		return probe.Untried("%s is in /etc/hosts, so the server was not asked", s.Target)
	}
	if err != nil {
		return s.Why(ctx, err)
	}
	var words []string
	for _, ip := range all {
		words = append(words, ip.Unmap().String())
	}
	slices.Sort(words)
	words = slices.Compact(words)
	if want := s.Options["address"]; want != "" && !slices.Contains(words, want) {
		const few = 4
		if n := len(words); n > few {
			words = append(words[:few], "…")
		}
		return probe.NotReady("resolves to %s, not to %s", strings.Join(words, ", "), want)
	}
	return probe.Answer{Ready: true}
}
