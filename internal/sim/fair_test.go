package sim

import (
	"slices"
	"time"

	"kido/internal/initsys"
	"kido/internal/plan"
)

const (
	// enough is how many moves of fair play any world comes to rest within.
	enough = 100_000
	// still is how many moves, and stillTime how much time, may change nothing:
	// whoever acts yet only asks again and again for what nobody is going to do.
	still     = 600
	stillTime = 90 * time.Second
	// settleTime is that of package gate.
	settleTime = 10 * time.Second
	// attempts is how often an operator goes on with what has failed.
	attempts = 3
)

// rest plays fairly until nothing is left to do: no more faults, links and keys
// work, hosts boot, time passes only where nobody is at work, and an operator mends
// what only a person can. Then all that was wanted must be so (I3).
func (w *world) rest() {
	w.left, w.calm = budget{}, true
	w.say("from here on nothing goes wrong")
	w.stirredAt, w.stirredTime = w.seq, w.now
	for i := range w.runners {
		w.runners[i].doomed, w.runners[i].full = 0, false
	}
	for range enough {
		if w.broken != "" {
			return
		}
		m, ok := w.fair()
		switch {
		case ok && (w.seq-w.stirredAt < still || w.now-w.stirredTime < stillTime):
			w.do(m)
		case !w.mendSomething():
			w.complete()
			return
		}
	}
	w.fail("I3 no loss", "there is no end to it")
}

// fair is the move of fair play; ok is false where there is none.
func (w *world) fair() (best move, ok bool) { return w.fairOf(func(move) bool { return true }) }

// fairOf is the move of fair play among some.
func (w *world) fairOf(among func(move) bool) (best move, ok bool) {
	var bestAt time.Duration
	for _, m := range w.moves() {
		var at time.Duration
		switch m.kind {
		case ticks:
			r := &w.runners[m.by]
			at = max(r.wake-r.now, 0) + 1
		case waited:
			d, _ := w.nodes[m.on].wait.remains()
			at = d + 1
		case waitsNot:
			at = max(w.gates[m.at].since+settleTime-w.now, 0) + 1
		case resumes:
			r := &w.runners[m.by]
			at = max(r.wake-r.now, 0) + 1
			if r.spec.hook == "" && r.resumed >= attempts {
				continue
			}
		case begins:
			if w.runners[m.by].spec.hook == "" {
				continue // who has not typed it by now does not
			}
		}
		if m.kind.fault() || !among(m) {
			continue
		}
		if !ok || at < bestAt {
			best, bestAt, ok = m, at, true
			if at == 0 {
				return best, true
			}
		}
	}
	return best, ok
}

// mendSomething does what only a person does; it reports whether there was
// anything.
func (w *world) mendSomething() bool {
	unknown := slices.ContainsFunc(w.nodes, func(n node) bool { return n.rolled || n.unseen })
	if (unknown || w.sc.other != "") && len(w.runners) == len(w.specs) {
		// Who rolls a machine back, has just brought kido to a site, or has a site file
		// that others have not, says so to kido in the end: nobody else can know.
		w.mend(plan.Up)
		return true
	}
	for k := range w.nodes {
		n := &w.nodes[k]
		if n.disk.now.damaged && !w.mended(int8(k)) {
			w.mend(plan.Restart, w.names[k])
			return true
		}
	}
	for k := range w.nodes {
		if n := &w.nodes[k]; n.left && !n.up && !n.purpose && !w.mended(int8(k)) {
			w.mend(plan.Up, w.names[k]) // who has it left down, starts it
			return true
		}
	}
	for k := range w.nodes {
		if hold := w.nodes[k].disk.now.rec.Hold; hold.At > w.now && hold.Boot == w.moment(w.at[k]).Boot {
			w.say("%s, which is on hold, is released", w.names[k])
			w.release(int8(k))
			w.stirredAt, w.stirredTime = w.seq, w.now
			return true
		}
	}
	for k := range w.nodes {
		if n := &w.nodes[k]; !n.up && n.broken {
			w.say("%s, which died, is started by hand", w.names[k])
			n.broken = false
			w.hand(int8(k), initsys.Start)
			w.stirredAt, w.stirredTime = w.seq, w.now
			return true
		}
	}
	return false
}

// mended reports whether an operator tries that already, or has done so.
func (w *world) mended(k int8) bool {
	return slices.ContainsFunc(w.runners[len(w.specs):], func(r runner) bool { return slices.Contains(r.spec.targets, w.names[k]) })
}
