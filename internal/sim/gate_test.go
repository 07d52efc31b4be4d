package sim

import (
	"slices"
	"time"

	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/rule"
	"kido/internal/wire"
)

// gateProc is a gate that serves one request. It performs what gate.Instance
// performs, in the same order; what neither changes anything nor can be overtaken
// under the lock goes in one move.
type gateProc struct {
	node int8
	m    gate.Machine
	next gate.Effect
	mail mail // the request, and who waits for the reply
	lock bool
	// child is the held back process of a script that is to begin.
	child  int
	do     initsys.Action
	intent gate.Intent   // on record
	loaded gate.Moment   // when it read the record
	asked  bool          // STATUS: the probes were tried
	seenAt int32         // STATUS: when it was looked at, in moves
	job    int16         // of init
	over   bool          // that has ended
	failed bool          // badly
	since  time.Duration // when its next effect was due
}

// serve starts a gate for a request that has arrived.
func (w *world) serve(m mail) {
	g := gateProc{node: m.node, mail: m}
	g.m, g.next = gate.NewMachine(w.names[m.node], m.q).Step(gate.Begin{})
	w.gates = append(w.gates, g)
	w.coast(len(w.gates) - 1)
}

// look is what the adapter of a node sees. Like gate.performer's.
func (n *node) look() gate.Look {
	held := n.wait != nil
	switch {
	case !n.up && held && (n.script || len(n.jobs) > 0):
		return gate.Look{State: wire.StateDown, Held: true, Word: "its start waits for what it needs"}
	case len(n.jobs) > 0 && (!n.script || !n.up && n.busy()):
		return gate.Look{State: wire.StateBusy}
	case n.up && n.nameless:
		return gate.Look{State: wire.StateUp, Word: "it runs, and there is no pid file"}
	case n.up:
		return gate.Look{State: wire.StateUp, Token: n.unit()}
	}
	if n.failed {
		return gate.Look{State: wire.StateFailed}
	}
	return gate.Look{State: wire.StateDown}
}

// atRest reports whether neither init nor a child on record is at work.
func (n *node) atRest(c *initsys.Child) bool {
	return n.look().State != wire.StateBusy && !n.childAtWork(c)
}

// can reports whether the next effect of a gate has an outcome by now.
func (w *world) can(g *gateProc) bool {
	n := &w.nodes[g.node]
	switch e := g.next.(type) {
	case gate.Lock:
		return !rule.Holds(rule.OneAtATime) || !w.locked(g.node)
	case gate.Idle:
		return n.atRest(e.Child)
	case gate.Await:
		return g.over
	case gate.Settle:
		return n.settled(e)
	}
	return true
}

// settled is what a Settle waits for. Like gate.performer's.
func (n *node) settled(e gate.Settle) bool {
	l := n.look()
	up := l.State == wire.StateUp && l.Token != ""
	switch {
	case e.Released && l.State == wire.StateFailed:
		return true
	case e.Released && l.State == wire.StateDown && !l.Held:
		return len(n.jobs) == 0
	}
	return l.State != wire.StateBusy && e.Up == up && (e.Up || l.State != wire.StateUp)
}

// hopeless reports whether what a gate waits for cannot come any more unless
// somebody else begins something.
func (w *world) hopeless(g *gateProc) bool {
	_, settling := g.next.(gate.Settle)
	n := &w.nodes[g.node]
	return settling && len(n.jobs) == 0 && !n.nameless
}

func (w *world) locked(k int8) bool {
	return slices.ContainsFunc(w.gates, func(g gateProc) bool { return g.node == k && g.lock })
}

// coast lets a gate go on as far as nobody else can tell the difference.
func (w *world) coast(at int) {
	for at >= 0 && w.quiet(&w.gates[at]) {
		at = w.perform(at)
	}
}

// quiet reports whether the next effect can be performed in the same move.
func (w *world) quiet(g *gateProc) bool {
	switch g.next.(type) {
	case gate.Lock, gate.Idle:
		return w.can(g)
	case gate.Load, gate.Unlock, gate.Prepare, gate.Answer:
		return true
	case gate.See:
		return !g.asked
	}
	return false
}

// perform performs the next effect of a gate; it returns -1 once the gate has
// ended.
func (w *world) perform(at int) int {
	g := &w.gates[at]
	n := &w.nodes[g.node]
	var ev gate.Event
	switch e := g.next.(type) {
	case gate.Lock:
		g.lock = true
		ev = gate.Locked{OK: true}
	case gate.Load:
		l := n.disk.load(w.names[g.node])
		if g.mail.q.Verb == wire.VerbEnsure && l.Unreadable == "" && l.Record.Generation == 0 {
			w.count(oneMore, nothingOnIt)
		}
		l.Now = w.moment(w.at[g.node])
		g.loaded = l.Now
		ev = l
	case gate.Idle:
		ev = gate.Looked{Look: n.look()}
	case gate.See:
		if !g.asked {
			g.seenAt = w.seq
		}
		look := n.look()
		ev = gate.Looked{Look: look, Waiting: look.State == wire.StateBusy || n.childAtWork(e.Child)}
	case gate.Unlock:
		g.lock = false
		ev = gate.Unlocked{}
	case gate.Ask:
		g.asked = true
		ev = w.asked(n)
	case gate.Save:
		w.save(g, e, true)
		ev = gate.Stored{}
	case gate.Prepare:
		g.do = e.Do
		boot := bootNames[w.machines[w.at[g.node]].boots]
		p := gate.Prepared{Boot: boot}
		if n.script {
			g.child = w.freePID(g.node)
			p.Child = &initsys.Child{Boot: boot, PID: g.child}
		}
		ev = p
	case gate.Go:
		w.acts(g)
		g.job = w.order(g.node, job{action: g.do, cause: w.causeOf(g), child: g.child})
		g.over = g.job == 0
		ev = gate.Gone{}
	case gate.Await:
		end := gate.Ended{}
		if g.failed {
			end.Err = "exit status 1"
		}
		ev = end
	case gate.Settle:
		ev = gate.Looked{Look: n.look()}
	case gate.Answer:
		w.answer(g, e.Reply)
		w.gates = slices.Delete(w.gates, at, at+1)
		return -1
	default:
		w.fail("the world", "it has no such effect: %T", e)
	}
	g.m, g.next = g.m.Step(ev)
	g.since = w.now
	return at
}

// bootNames are those of the boots of a host.
var bootNames = [...]string{"b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9"}

// moment is the clock of a host.
func (w *world) moment(host int8) gate.Moment {
	return gate.Moment{Boot: bootNames[w.machines[host].boots], At: w.now.Truncate(time.Millisecond)}
}

// freePID is the least process number that nothing on a node names.
func (w *world) freePID(k int8) int {
	n := &w.nodes[k]
	for pid := 1; ; pid++ {
		on := func(c content) bool { in := c.rec.Intent; return in != nil && in.Child != nil && in.Child.PID == pid }
		if !on(n.disk.now) && !on(n.disk.before) && !on(n.disk.old) && !n.childAtWork(&initsys.Child{PID: pid}) &&
			!slices.ContainsFunc(w.gates, func(g gateProc) bool { return g.node == k && g.child == pid }) {
			return pid
		}
	}
}

// save puts the record of a gate on disk.
func (w *world) save(g *gateProc, e gate.Save, durable bool) {
	k, n := g.node, &w.nodes[g.node]
	if e.Record.Instance != w.names[k] {
		w.fail("I6 confinement", "a gate asked about %s writes the record of %s", w.names[k], e.Record.Instance)
	}
	if e.Aside {
		n.forgot = g.mail.q.Verb == wire.VerbRestart // only that may make it known again
	}
	before := n.disk.now.rec
	n.disk.put(e.Record, durable)
	w.stirred = true
	g.intent = gate.Intent{}
	if e.Record.Intent != nil {
		g.intent = *e.Record.Intent
	}
	w.recorded(g, before, e.Record)
	if w.telling {
		w.say("    %s", recordWords(e.Record))
	}
}

// waitNoMore ends a gate's waiting.
func (w *world) waitNoMore(at int) {
	g := &w.gates[at]
	n := &w.nodes[g.node]
	var ev gate.Event
	switch g.next.(type) {
	case gate.Lock:
		ev = gate.Locked{}
	case gate.Idle:
		ev = gate.Looked{Look: n.look(), Waiting: true}
	case gate.Await:
		ev = gate.Ended{Err: "it takes too long", Running: true}
	default:
		ev = gate.Looked{Look: n.look()}
	}
	g.m, g.next = g.m.Step(ev)
	w.coast(at)
}

// saveBadly is a save that fails, and says so.
func (w *world) saveBadly(at int, how int8) {
	g := &w.gates[at]
	if how == fsyncFails {
		w.save(g, g.next.(gate.Save), false)
	}
	g.m, g.next = g.m.Step(gate.Stored{Err: saveFailures[how]})
	w.coast(at)
}

// dieSaving is a gate that dies within a save.
func (w *world) dieSaving(at int, how int8) {
	if g := &w.gates[at]; how != tempWritten {
		w.save(g, g.next.(gate.Save), how == saved)
	}
	w.kill(at)
}

// kill ends a gate: the kernel gives its lock back, and a child that was not told
// to go ends, too. What init has begun goes on.
func (w *world) kill(at int) {
	g := w.gates[at]
	w.gates = slices.Delete(w.gates, at, at+1)
	w.hangUp(g.mail, "the gate was ended by signal 9", false)
}

func (w *world) causeOf(g *gateProc) cause {
	c := cause{who: byGate, by: g.mail.by, run: g.mail.run, verb: g.mail.q.Verb, vector: digest(g.mail.q.New), start: g.do == initsys.Start, final: g.do == initsys.Stop && g.intent.Wanted == wire.WantedDown}
	if g.intent.Do != "" {
		c.vector = digest(g.intent.New)
	}
	return c
}

// effectName is what a story calls an effect.
func effectName(e gate.Effect) string {
	switch e.(type) {
	case gate.Lock:
		return "Lock"
	case gate.Load:
		return "Load"
	case gate.Idle:
		return "Idle"
	case gate.See:
		return "See"
	case gate.Unlock:
		return "Unlock"
	case gate.Ask:
		return "Ask"
	case gate.Save:
		return "Save"
	case gate.Prepare:
		return "Prepare"
	case gate.Go:
		return "Go"
	case gate.Await:
		return "Await"
	case gate.Settle:
		return "Settle"
	case gate.Answer:
		return "Answer"
	}
	return "?"
}

// digest tells vectors apart.
func digest(v wire.Vector) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	mix := func(s string) {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * prime
		}
		h = (h ^ 0xff) * prime
	}
	for _, e := range v {
		mix(e.Instance)
		mix(e.Token)
	}
	return h
}
