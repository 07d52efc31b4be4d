package sim

import (
	"slices"
	"time"

	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/wire"
)

// waiter holds the start of a node at boot, as gate.Hold does.
type waiter struct {
	gate.Waiter
	await [][]int8 // of each list one must be ready
	grace time.Duration
	limit time.Duration
	now   time.Duration
	saw   gate.Sight    // at its latest look
	since time.Duration // what it saw ready has been so
}

// hold begins to hold a node, where its site asks for it.
func (w *world) hold(k int8) {
	v := w.layouts[0].site.Service(service(w.names[k]))
	if v.Wait.Off || len(v.After) == 0 {
		return
	}
	h := &waiter{grace: v.Wait.Grace, limit: v.Wait.Timeout}
	for _, e := range w.layouts[0].edges[k] {
		switch {
		case e.wants:
		case e.any:
			h.await = append(h.await, e.ups)
		default:
			for _, u := range e.ups {
				h.await = append(h.await, []int8{u})
			}
		}
	}
	if len(h.await) == 0 {
		return
	}
	h.Waiter = gate.NewWaiter(gate.Wait{Timeout: h.limit, Grace: h.grace, Leave: v.Wait.Leave})
	w.nodes[k].wait = h
	w.look(k)
}

// sight is what the waiter of a node sees now.
func (w *world) sight(k int8) gate.Sight {
	n := &w.nodes[k]
	h := n.wait
	s := gate.Sight{Generation: h.saw.Generation, Wanted: h.saw.Wanted, Up: n.up, Ready: true}
	if l := n.disk.load(w.names[k]); l.Unreadable == "" {
		s.Generation, s.Wanted = l.Record.Generation, l.Record.Wanted
		if in := l.Record.Intent; in != nil && in.Do != initsys.Stop {
			// Of an intent without a process only the lock tells whether anybody
			// is at work on it: an earlier boot's is not.
			s.Starting = n.childAtWork(in.Child) || in.Child == nil && w.locked(k) && slices.ContainsFunc(w.gates, func(g gateProc) bool {
				return g.node == k && g.lock && g.intent.Do != ""
			})
		}
	}
	s.CalledOff = !n.up && !n.failed && !n.script && len(n.jobs) == 0
	for _, some := range h.await {
		if !slices.ContainsFunc(some, func(u int8) bool { return w.nodes[u].ready && w.reaches(w.at[k], w.at[u]) }) {
			s.Ready = false
		}
	}
	return s
}

// look lets a waiter take what it sees.
func (w *world) look(k int8) {
	n := &w.nodes[k]
	h := *n.wait // clones share the old one
	s := w.sight(k)
	if s.Ready && !h.saw.Ready {
		h.since = h.now
	}
	h.saw = s
	var v gate.Verdict
	h.Waiter, v = h.Step(h.now, h.saw)
	n.wait = &h
	if !v.Over {
		return
	}
	w.countVerdict(v)
	if w.telling {
		w.say("    waiter of %s: %s", w.names[k], v.Word)
	}
	n.wait = nil
	if !v.Leave {
		return
	}
	n.jobs = slices.DeleteFunc(n.jobs, func(j job) bool { return j.boot })
	n.left = true
	if w.locked(k) {
		return // a gate is at work on it: it decides
	}
	l := n.disk.load(w.names[k])
	if l.Unreadable != "" || l.Record.Wanted == wire.WantedDown {
		return
	}
	r := l.Record
	r.Generation++
	r.Wanted, r.Seen = wire.WantedHeld, wire.StateDown
	n.disk.put(r, true)
	n.purpose = false // its boot wanted it up
	w.stirred = true
}

// remains is the time until a waiter would let go by itself; ok is false where
// nothing would come of waiting.
func (h *waiter) remains() (d time.Duration, ok bool) {
	for _, d := range []time.Duration{max(h.since+h.grace-h.now, 0), max(h.limit-h.now, 0)} {
		if _, v := h.Step(h.now+d, h.saw); v.Over {
			return d, true
		}
	}
	return 0, false
}

func service(name string) string {
	s, _ := split(name)
	return s
}

func split(name string) (service, host string) {
	i := slices.Index([]byte(name), '@')
	return name[:i], name[i+1:]
}
