package sim

import (
	"slices"

	"kido/internal/gate"
	"kido/internal/rule"
	"kido/internal/wire"
)

// keeper is a host that keeps the slots of a pool, with its file of them.
type keeper struct {
	host    int8
	service string
	now     gate.Pool
	before  gate.Pool // what a power cut may bring back, where unsynced
	pending bool
}

// keepPools gives every pool its keepers.
func (w *world) keepPools() {
	for _, v := range w.layouts[0].site.Services {
		for _, h := range v.Keepers() {
			w.keepers = append(w.keepers, keeper{
				host: int8(slices.Index(w.hosts, h)), service: v.Name, now: gate.Pool{Service: v.Name},
			})
		}
	}
}

func (w *world) keeper(host int8, service string) *keeper {
	for i := range w.keepers {
		if k := &w.keepers[i]; k.host == host && k.service == service {
			return k
		}
	}
	return nil
}

// release is what kido release sends to an instance.
func (w *world) release(k int8) {
	q := wire.Request{Verb: wire.VerbRelease, Service: service(w.names[k])}
	w.mails = append(w.mails, mail{node: k, host: w.at[k], q: q, orphan: true})
}

// askPool is a request for a slot, or about one. It is one move: a gate that dies
// at it is like a request or a reply that is lost.
func (w *world) askPool(m mail) {
	k := w.keeper(m.host, m.q.Service)
	if k == nil {
		w.reply(m, wire.Reply{Code: wire.CodeRefused, Word: "the policy has no such service"})
		return
	}
	next, r := k.now.Step(m.q)
	if !slices.Equal(next.Slots, k.now.Slots) {
		if !k.pending {
			k.before = k.now
		}
		k.now, k.pending = next, !rule.Holds(rule.DurableFirst)
	}
	if w.telling {
		w.say("    pool of %s at %s: %s %v", k.service, w.hosts[k.host], r.Code, k.now.Slots)
	}
	w.reply(m, r)
}
