package sim

import (
	"fmt"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

// The invariants, on the truth.
//
//	I1 order         a basis u=t: the running life was begun, or reloaded where that
//	                 is the reaction, after incarnation t of u had become ready
//	I2 economy       a gate ends a running life for an ENSURE at most once for each
//	                 basis, and never one that was begun for that very basis; one
//	                 restart that was asked for ends at most one life
//	I3 no loss       after the faults everything wanted is up, current and on record
//	I4 barrier       what an ENSURE names was ready and current since its runner
//	                 first read the basis that it changes
//	I5 availability  at most max_unavailable of a pool are down, or not yet ready
//	                 again, by kido's hand
//	I6 confinement   a gate writes no record but that of the instance it was asked about
//	I7 purpose       what was stopped on purpose is started only by who asks for that
//	I8 promises      who says done has had it so at one instant
//	I9 calm          there are no more reactions that nobody asked for in person than
//	                 the budget allows, and what is followed was up for its settle window
//
// A start of a unit that somebody else starts at the same moment may end that life:
// the surplus restart of a gate that is only given the verb restart. It counts only
// against lives that were begun for the very basis.
//
// A record that was rolled back excuses its own instance from I2 (what was done
// since is done again), I9 and I7 (a stop on purpose is forgotten), for good; a
// damaged one from I2 and I9 (what it was started against, and how often, is unknown). Two site files that do not
// agree on what an instance depends on excuse that instance from I2, for each of
// their runners puts right what the other one has left. From nothing else.

// everyRun is how I5 counts: false, each run apart; true, all together. A run that
// cannot ask most of a pool's keepers goes on all the same, says so, and is counted
// apart.
const everyRun = true

// check looks at what may have changed with every move.
func (w *world) check() {
	if w.broken != "" {
		return
	}
	for k := range w.nodes {
		n := &w.nodes[k]
		if n.ready {
			n.present().readyAt = w.seq
		}
	}
	if w.stirred {
		w.stirred, w.stirredAt, w.stirredTime = false, w.seq, w.now
		w.findCurrent()
		w.available()
		for k := range w.nodes {
			w.ordered(int8(k))
		}
	}
	for i := range w.runners {
		if r := &w.runners[i]; r.state == running {
			r.good |= w.current[r.layout]
		}
	}
}

// ordered is I1.
func (w *world) ordered(k int8) {
	n := &w.nodes[k]
	c := &n.disk.now
	if !c.there {
		return
	}
	w.afterAll(k, c.rec.Basis)
	in := c.rec.Intent
	if in != nil && in.Do != initsys.Stop && n.up && !n.nameless && n.unit() != in.Own {
		w.afterAll(k, in.New) // whoever looks next takes it for done
	}
}

func (w *world) afterAll(k int8, basis wire.Vector) {
	n := &w.nodes[k]
	for _, e := range basis {
		u, ok := w.byName[e.Instance]
		if !ok {
			continue
		}
		t := w.nodes[u].incarnation(e.Token)
		if t == nil {
			continue // long gone
		}
		after := w.nodes[u].everReady // whoever starts it now
		if l := n.present(); l != nil {
			after = l.after[u]
			if l.reloaded != nil && w.reloads(k, u) {
				after = l.reloaded[u]
			}
		}
		if t.rank > after {
			w.fail("I1 order", "%s is on record as started against %s %s, and its life was begun before that was ready", w.names[k], e.Instance, e.Token)
		}
	}
}

func (w *world) reloads(k, u int8) bool {
	return slices.ContainsFunc(w.layouts[0].edges[k], func(e edge) bool { return e.reload && slices.Contains(e.ups, u) })
}

// findCurrent works out which nodes are ready and current now: begun after the
// present incarnations of all that they require had become ready, and these
// current in turn.
func (w *world) findCurrent() {
	if w.current == nil {
		w.current = make([]uint32, len(w.layouts))
	}
	for at := range w.layouts {
		l := &w.layouts[at]
		var current uint32
		for _, k := range l.order {
			if n := &w.nodes[k]; n.up && n.everReady == n.rank && w.follows(l, k, current) {
				current |= 1 << k
			}
		}
		for k := range w.nodes {
			if !w.nodes[k].ready {
				current &^= 1 << k
			}
		}
		w.current[at] = current
	}
}

func (w *world) follows(l *layout, k int8, current uint32) bool {
	p := w.nodes[k].present()
	for _, e := range l.edges[k] {
		if e.none || e.wants {
			continue
		}
		met := 0
		for _, u := range e.ups {
			after := p.after[u]
			if e.reload && p.reloaded != nil {
				after = p.reloaded[u]
			}
			if current&(1<<u) != 0 && after >= w.nodes[u].rank {
				met++
			}
		}
		if met < len(e.ups) && (!e.any || met == 0) {
			return false
		}
	}
	return true
}

// available is I5.
func (w *world) available() {
	for _, p := range w.pools {
		if len(p.nodes) < 2 {
			continue
		}
		for _, k := range p.nodes {
			by := w.nodes[k].downBy
			if by == 0 {
				continue
			}
			down := 0
			for _, o := range p.nodes {
				if d := &w.nodes[o]; d.downBy == by || everyRun && d.downBy != 0 && !d.unslotted && !w.nodes[k].unslotted {
					down++
				}
			}
			if down > p.most {
				w.fail("I5 availability", "%d of the pool of %s are down at once, at most %d may be", down, w.names[k], p.most)
			}
		}
	}
}

// begun is called when a life begins: I7.
func (w *world) begun(k int8, c cause) {
	n := &w.nodes[k]
	if n.purpose && c.who == byGate && c.verb == wire.VerbEnsure && !n.rolled {
		w.fail("I7 purpose", "%s was stopped on purpose, and a cascade has started it", w.names[k])
	}
	n.purpose, n.unsaid = false, false
}

// ending is called before a life ends: I2.
func (w *world) ending(k int8, c cause) {
	n := &w.nodes[k]
	if c.who != byGate || c.verb == wire.VerbStop {
		return
	}
	if !c.start {
		n.downBy = int16(c.by)<<8 | c.run&0xff
		n.unslotted = w.runners[c.by].unslotted&(1<<k) != 0
	}
	if n.rolled || n.forgot || w.disputed&(1<<k) != 0 {
		return
	}
	l := n.present()
	switch {
	case c.verb == wire.VerbEnsure && l.begunBy.who == byGate && l.begunBy.vector == c.vector:
		w.fail("I2 economy", "%s is restarted, though its life was begun for that very basis", w.names[k])
	case c.start:
	case c.verb == wire.VerbEnsure && !w.note(n, c.vector):
		w.fail("I2 economy", "%s is restarted a second time for the same basis", w.names[k])
	case c.verb == wire.VerbRestart && !w.note(n, uint64(c.by)<<16|uint64(c.run)):
		w.fail("I2 economy", "%s is restarted a second time by one request of %s", w.names[k], w.runners[c.by].spec.name)
	}
}

// note reports whether something happens to a node for the first time.
func (w *world) note(n *node, what uint64) bool {
	if slices.Contains(n.ended, what) {
		return false
	}
	n.ended = append(slices.Clip(n.ended), what)
	return true
}

// stoppedByHand is called when somebody's own stop is done. What kido has on record
// as owed it may start again: nobody can tell it from a stop of kido's.
func (w *world) stoppedByHand(k int8) {
	n := &w.nodes[k]
	rec := &n.disk.now.rec
	atWork := slices.ContainsFunc(w.gates, func(g gateProc) bool { return g.node == k })
	n.downBy = 0
	n.purpose = !atWork && n.wait == nil && len(n.jobs) == 1 && rec.Intent == nil && rec.Wanted != wire.WantedHeld && !n.disk.now.damaged
	n.unsaid = !n.purpose
}

// recorded is called when a gate has put a record on disk: what a verb of an
// operator says of purpose.
func (w *world) recorded(g *gateProc, before, r gate.Record) {
	n := &w.nodes[g.node]
	stopped := before.Intent != nil && before.Intent.Do == initsys.Stop && before.Intent.Wanted == wire.WantedDown
	switch verb := g.mail.q.Verb; {
	case verb == wire.VerbStop || stopped: // by whoever finds out that it happened
		if r.Wanted == wire.WantedDown && r.Intent == nil && !n.up {
			// A held start hides that it has failed, and the record says down.
			n.purpose, n.downBy = n.failed == (r.Seen == wire.StateFailed), 0
			n.unsaid = !n.purpose
		}
	case verb == wire.VerbStart || verb == wire.VerbRestart:
		n.purpose = false
	}
	switch {
	case g.mail.q.Verb == wire.VerbRelease:
		n.reactions = nil
	case g.mail.q.Verb != wire.VerbEnsure:
	case r.Intent == nil:
		n.waived = false
	case g.do == "":
	case before.Intent == nil:
		w.reacts(g, before)
	default:
		w.count(oneMore, resumedDebt)
	}
	if g.do == "" && r.Intent != nil && r.Intent.Do == initsys.Start {
		w.count(oneMore, heldIsLetGo)
		w.acts(g) // it lets a held start go
	}
}

// reacts is called when a gate has put on record that it is going to act on an
// ENSURE: I9. What a run has stopped is owed its start at any rate.
func (w *world) reacts(g *gateProc, before gate.Record) {
	n, q := &w.nodes[g.node], &g.mail.q
	if q.Budget == 0 {
		return // somebody asked for it in person
	}
	recent := 0
	for _, m := range n.reactions {
		if m.Boot == g.loaded.Boot && g.loaded.At-m.At < q.Within {
			recent++
		}
	}
	if uint64(recent) >= q.Budget && before.Wanted != wire.WantedHeld && !n.rolled && !n.forgot {
		w.fail("I9 calm", "%s has a reaction too many: %d in %s are allowed", w.names[g.node], q.Budget, q.Within)
	}
	n.reactions = append(slices.Clip(n.reactions), g.loaded)
}

// followed is called when a gate starts a node against an incarnation: I9. A clock
// that jumps shortens a window, and a search has no time that is the same for all.
func (w *world) followed(g *gateProc, l *layout, u int8, t string) {
	n, r := &w.nodes[g.node], &w.runners[g.mail.by]
	window := l.site.Service(service(w.names[u])).Settle
	if window == 0 || r.skewed || w.sc.untimed {
		return
	}
	if on, _ := n.disk.now.rec.Basis.Get(w.names[u]); on == t {
		return // that is nothing new
	}
	if of := w.nodes[u].incarnation(t); of != nil && w.now-of.at < window {
		w.fail("I9 calm", "%s follows %s %s, which is up for %s only", w.names[g.node], w.names[u], t, w.now-of.at)
	}
}

// leftDown is called when a run says that it leaves a node down. Where it could not
// read the upstreams, what the node will be started against is not on record: who
// starts it by hand has it restarted once more than need be, at the next run.
func (w *world) leftDown(k int8) {
	n := &w.nodes[k]
	for _, e := range w.layouts[0].edges[k] {
		for _, u := range e.ups {
			if on, _ := n.disk.now.rec.Basis.Get(w.names[u]); on != w.nodes[u].token() && !e.none {
				n.waived = true
			}
		}
	}
}

// acts is called when a gate is about to act on a request: I4.
func (w *world) acts(g *gateProc) {
	q := &g.mail.q
	if q.Verb != wire.VerbEnsure || g.mail.since == 0 || g.intent.Do != "" && !g.intent.New.Equal(q.New) {
		return // it completes what an earlier request had begun
	}
	l := w.layoutOf(&w.runners[g.mail.by])
	for _, e := range l.edges[g.node] {
		if e.wants || e.any || e.none {
			continue
		}
		for _, u := range e.ups {
			t, ok := q.New.Get(w.names[u])
			if !ok {
				continue
			}
			w.followed(g, l, u, t)
			if why := w.wasGood(l, u, w.nodes[u].incarnation(t), g.mail.since); why != "" {
				w.fail("I4 barrier", "%s is started against %s %s, which since its basis was read %s", w.names[g.node], w.names[u], t, why)
			}
		}
	}
}

// wasGood says why an incarnation was not ready and current since, "" where it was.
func (w *world) wasGood(l *layout, u int8, t *life, since int32) string {
	if t == nil || t.readyAt < since {
		return "was at no time ready"
	}
	for _, e := range l.edges[u] {
		if e.wants || e.none {
			continue
		}
		met := 0
		for _, a := range e.ups {
			after := t.after[a]
			if e.reload && t.reloaded != nil {
				after = t.reloaded[a]
			}
			if slices.ContainsFunc(w.nodes[a].lives, func(of life) bool {
				return of.rank <= after && w.wasGood(l, a, &of, since) == ""
			}) {
				met++
			}
		}
		if met < len(e.ups) && (!e.any || met == 0) {
			return "was at no time current itself"
		}
	}
	return ""
}

// promised is called when a run has ended: I8.
func (w *world) promised(k int8, o run.Outcome) {
	r := &w.runners[k]
	last := map[int]run.Phase{}
	for _, e := range r.journal {
		if e.Step != nil {
			last[e.Step.ID] = e.Step.Phase
		}
	}
	owes := false
	for _, s := range r.plan.Steps {
		p := last[s.ID]
		owes = owes || !p.Well()
		if o != run.OutcomeDone || p == run.PhaseWaived {
			continue
		}
		switch s.Action {
		case plan.ActEnsure, plan.ActStart, plan.ActRestart:
			if r.good&(1<<w.index[s.Instance]) == 0 {
				w.fail("I8 promises", "%s says done, and at no time of its run was %s ready and current", r.spec.name, s.Name)
			}
		}
	}
	if o != run.OutcomeDone && !owes {
		w.fail("I8 promises", "%s ends %s, and owes nothing", r.spec.name, o)
	}
}

// complete is I3: what must be so once nothing is left to do. It excuses what was
// stopped on purpose, what cannot be started without that, and who waits for that.
func (w *world) complete() {
	l := &w.layouts[0]
	var left uint32
	for _, k := range l.order {
		n := &w.nodes[k]
		if !n.up && (n.purpose || n.unsaid) || w.blocked(l, k, left) {
			left |= 1 << k
			continue
		}
		w.completeOne(l, k)
	}
	for i := range w.runners {
		r := &w.runners[i]
		switch {
		case r.state != running:
		case r.wake == 0 && !w.awaits(int8(i)):
			w.fail("I3 no loss", "%s has not ended, and nothing is out and nothing is due", r.spec.name)
		case left == 0:
			w.fail("I3 no loss", "%s has not ended", r.spec.name)
		}
	}
}

// awaits reports whether anything is under way to a runner.
func (w *world) awaits(k int8) bool {
	return slices.ContainsFunc(w.mails, func(m mail) bool { return m.by == k && !m.orphan }) ||
		slices.ContainsFunc(w.gates, func(g gateProc) bool { return g.mail.by == k && !g.mail.orphan })
}

// blocked reports whether something that a node requires is left as it is.
func (w *world) blocked(l *layout, k int8, left uint32) bool {
	for _, e := range l.edges[k] {
		some := 0
		for _, u := range e.ups {
			if left&(1<<u) != 0 {
				some++
			}
		}
		if !e.wants && some > 0 && (!e.any || some == len(e.ups)) {
			return true
		}
	}
	return false
}

func (w *world) completeOne(l *layout, k int8) {
	n := &w.nodes[k]
	st := w.status(k).Status
	switch {
	case !n.up || !n.ready:
		w.fail("I3 no loss", "%s is not up and ready in the end", w.names[k])
		return
	case st == nil || st.Intent:
		w.fail("I3 no loss", "%s has an intent on record in the end", w.names[k])
		return
	}
	for _, e := range l.edges[k] {
		for _, u := range e.ups {
			up := &w.nodes[u]
			if e.none || !up.up {
				continue
			}
			p := n.present()
			after := p.after[u]
			if e.reload && p.reloaded != nil {
				after = p.reloaded[u]
			}
			if on, _ := st.Basis.Get(w.names[u]); on != up.token() && (!n.waived || after < up.rank) {
				w.fail("I3 no loss", "the basis of %s has %s %q in the end, which is %q", w.names[k], w.names[u], on, up.token())
			}
			if after < up.rank {
				w.fail("I3 no loss", "%s was started before %s %s was ready, in the end", w.names[k], w.names[u], up.token())
			}
		}
	}
}

// recordWords is what a story says of a record.
func recordWords(r gate.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "on record: %s, basis %s", r.Wanted, vectorWords(r.Basis))
	if in := r.Intent; in != nil {
		fmt.Fprintf(&b, "; intent: %s of %q for %s", in.Do, in.Own, vectorWords(in.New))
	}
	return b.String()
}

func vectorWords(v wire.Vector) string {
	var all []string
	for _, e := range v {
		all = append(all, e.Instance+"="+e.Token)
	}
	return "[" + strings.Join(all, " ") + "]"
}
