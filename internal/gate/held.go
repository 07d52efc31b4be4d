package gate

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"kido/internal/sockets"
	"kido/internal/wire"
)

const (
	// countTime bounds a count of connections, names looked up included: a status
	// must not hang on it.
	countTime = 2 * time.Second
	// countSlack, and a part of it, is taken off the age of a life: the upstream tells it
	// in whole seconds, the message took its time, and two hosts' clocks are not equally
	// fast. To count one connection too many costs a reload, and one too few a reaction.
	countSlack = 2 * time.Second
	countDrift = 1000 // a thousandth: ten times what package sockets allows the other way
)

// held is how this host's connections to a service's upstreams stand; nil where
// nothing is to be counted, or cannot be.
func (g *Gate) held(ctx context.Context, s *PolicyService) []wire.Held {
	all, err := s.connections(ctx)
	if err != nil {
		return nil // it is for people: what is wrong is said where it decides something
	}
	var held []wire.Held
	for i, peer := range s.Peers {
		h := wire.Held{Upstream: peer.Upstream}
		for _, c := range all[i] {
			if c.Closed {
				h.Closed++
				continue
			}
			h.Open++
			h.Silent = append(h.Silent, c.Silent.Truncate(time.Second))
		}
		slices.SortFunc(h.Silent, func(a, b time.Duration) int { return cmp.Compare(b, a) })
		h.Silent = h.Silent[:min(len(h.Silent), wire.MaxSilent)]
		held = append(held, h)
	}
	return held
}

// stale counts this host's connections to some upstreams that are older than those
// upstreams' lives.
func (g *Gate) stale(ctx context.Context, s *PolicyService, lives []wire.Life) (n int, err error) {
	all, err := s.connections(ctx)
	if err != nil {
		return 0, err
	}
	for _, life := range lives {
		i := slices.IndexFunc(s.Peers, func(p Peer) bool { return p.Upstream == life.Upstream })
		if i < 0 {
			return 0, fmt.Errorf("the policy does not say where %s is", wire.Quote(life.Upstream))
		}
		n += sockets.Stale(all[i], reckoned(life.Age))
	}
	return n, nil
}

// reckoned is an age that a life has reached for certain. Never 0: that would be
// unknown.
func reckoned(age time.Duration) time.Duration {
	return max(time.Millisecond, age-countSlack-age/countDrift)
}

// connections lists this host's connections to each peer of a service.
func (s *PolicyService) connections(ctx context.Context) ([][]sockets.Connection, error) {
	if len(s.Peers) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	places := make([][]netip.AddrPort, len(s.Peers))
	var every []netip.AddrPort
	for i, p := range s.Peers {
		for _, a := range p.Addresses {
			found, err := resolve(ctx, a)
			if err != nil {
				return nil, err
			}
			places[i] = append(places[i], found...)
		}
		every = append(every, places[i]...)
	}
	found, err := sockets.To(ctx, every)
	if err != nil {
		return nil, err
	}
	all := make([][]sockets.Connection, len(s.Peers))
	for i := range s.Peers {
		for _, c := range found {
			if slices.Contains(places[i], c.Remote) {
				all[i] = append(all[i], c)
			}
		}
	}
	return all, nil
}

// resolve looks up the addresses of an "ADDRESS:PORT".
func resolve(ctx context.Context, hostport string) (found []netip.AddrPort, err error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, a := range addrs {
		found = append(found, netip.AddrPortFrom(a.Unmap(), uint16(n))) // and no zone, as in the kernel's list
	}
	return found, err
}
