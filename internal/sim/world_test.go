package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

// world is a site at one time, with all that is under way. It offers moves, and
// makes them happen.
type world struct {
	sc *scenario
	*ground
	left     budget
	machines []machine
	nodes    []node
	keepers  []keeper
	gates    []gateProc
	mails    []mail
	runners  []runner

	now     time.Duration // simulated, for people
	seq     int32         // counts moves
	lastJob int16
	calm    bool // no more faults: everybody keeps trying
	// stirred: what is true of the nodes has changed, so what follows from it must
	// be found out again.
	stirred     bool
	stirredTime time.Duration
	stirredAt   int32    // in moves
	current     []uint32 // by layout: the nodes that are up and current, see invariant_test.go

	broken  string // the first invariant that was violated, with what happened
	seen    tally  // counts what happens; nil: nobody wants to know
	telling bool
	told    []string
	scratch []move
}

// machine is a host.
type machine struct {
	on      bool
	cut     uint32 // the hosts that it does not reach
	revoked bool
	boots   int8
}

// mender is what operators are called who turn up only to mend.
const mender = "mender "

// newWorld is a site in which all is up, current, and on record.
func newWorld(sc *scenario) *world {
	g := sc.on()
	w := &world{sc: sc, ground: g, left: sc.faults, machines: make([]machine, len(g.hosts)), nodes: make([]node, len(g.names))}
	for h := range w.machines {
		w.machines[h].on = true
	}
	for i := range g.specs {
		s := &g.specs[i]
		r := runner{spec: s, host: int8(slices.Index(g.hosts, s.host))}
		if s.other {
			r.layout = 1
		}
		w.runners = append(w.runners, r)
	}
	for _, k := range g.layouts[0].order {
		n := &w.nodes[k]
		n.script = isScript(g.layouts[0].site.Service(service(g.names[k])).Adapter.Kind)
		w.begin(k, cause{who: byInit})
		w.becomesReady(k)
		rec := gate.Record{Instance: g.names[k], Generation: 1, Wanted: wire.WantedUp, Seen: wire.StateUp, Own: n.unit()}
		for _, e := range g.layouts[0].edges[k] {
			for _, u := range e.ups {
				if !e.none {
					rec.Basis = rec.Basis.With(g.names[u], w.nodes[u].token())
				}
			}
		}
		n.disk.now = content{rec: rec, there: true}
		n.disk.old = n.disk.now
	}
	for i := range w.runners {
		w.runners[i].due = false // that was long ago
	}
	w.keepPools()
	w.check()
	return w
}

// clone returns a world that goes on from here by itself.
func (w *world) clone() *world {
	c := *w
	c.machines, c.nodes = slices.Clone(w.machines), slices.Clone(w.nodes)
	for i := range c.nodes {
		n := &c.nodes[i]
		// Lives are changed in place only in their last element.
		n.lives, n.ended, n.jobs = slices.Clone(n.lives), slices.Clip(n.ended), slices.Clone(n.jobs)
		n.reactions = slices.Clip(n.reactions)
	}
	c.keepers = slices.Clone(w.keepers)
	c.gates, c.mails, c.runners = slices.Clone(w.gates), slices.Clone(w.mails), slices.Clone(w.runners)
	for i := range c.runners {
		if r := &c.runners[i]; r.run != nil {
			r.run = r.run.Clone()
		}
	}
	c.current, c.told, c.scratch, c.seen = slices.Clone(w.current), slices.Clip(w.told), nil, nil
	return &c
}

// tell has the story kept from here on. It begins with what there is, and with what
// each runner is to type.
func (w *world) tell() {
	w.telling = true
	for _, line := range strings.Split(w.sc.text, "\n") {
		if service, _, ok := strings.Cut(line, timesBegin); ok {
			w.say("%s}", strings.TrimSpace(service))
		}
	}
	for _, s := range w.specs {
		w.say("%s at %s: kido %s %s", s.name, s.host, s.verb, strings.Join(s.targets, " "))
	}
}

// say adds a line to the story.
func (w *world) say(format string, args ...any) {
	if w.telling {
		w.told = append(w.told, fmt.Sprintf("%8.1fs  ", w.now.Seconds())+fmt.Sprintf(format, args...))
	}
}

// story is what has happened since the world was told to keep it.
func (w *world) story() string { return strings.Join(w.told, "\n") }

// fail notes the first violation of an invariant.
func (w *world) fail(invariant, format string, args ...any) {
	if w.broken == "" {
		w.broken = invariant + ": " + fmt.Sprintf(format, args...)
		w.say("VIOLATED %s", w.broken)
	}
}

// pass lets time pass for all.
func (w *world) pass(d time.Duration) {
	w.now += d
	for i := range w.runners {
		w.runners[i].now += d
	}
	for k := range w.nodes {
		if h := w.nodes[k].wait; h != nil {
			later := *h
			later.now += d
			w.nodes[k].wait = &later
		}
	}
}

// moves lists all that may happen next, in a fixed order. The list is good until
// the next call.
func (w *world) moves() []move {
	w.scratch = w.scratch[:0]
	w.movesOfMails()
	w.movesOfGates()
	w.movesOfNodes()
	w.movesOfRunners()
	w.movesOfHosts()
	return w.scratch
}

func (w *world) may(m move) {
	m.ground = w.ground
	w.scratch = append(w.scratch, m)
}

// might offers a fault, if there is one of its kind left.
func (w *world) might(m move) {
	if w.left[m.kind] > 0 {
		w.may(m)
	}
}

func (w *world) movesOfMails() {
	for i := range w.mails {
		m := &w.mails[i]
		v := move{on: m.node, by: m.by, at: int16(i), what: m.what()}
		with := func(k kind) move { v.kind = k; return v }
		switch {
		case m.reply:
			w.may(with(replies))
			if m.err == "" {
				w.might(with(replyLost))
			}
			continue
		case m.orphan:
			v.n = 1
			w.may(with(arrives))
			w.might(with(lost))
			continue
		}
		w.may(with(arrives))
		w.might(with(refused))
		w.might(with(lost))
		if m.q.Verb != wire.VerbStatus && m.q.Verb != wire.VerbProbe {
			w.might(with(late))
			w.might(with(repeated))
		}
	}
}

func (w *world) movesOfGates() {
	for i := range w.gates {
		g := &w.gates[i]
		v := move{on: g.node, by: g.mail.by, at: int16(i), what: effectName(g.next)}
		with := func(k kind) move { v.kind = k; return v }
		switch can := w.can(g); {
		case can:
			w.may(with(performs))
		case w.hopeless(g):
			w.may(with(waitsNot))
		default:
			w.might(with(slow))
		}
		if g.mail.q.Verb != wire.VerbStatus {
			w.might(with(gateDies))
		}
		if _, saving := g.next.(gate.Save); saving {
			for n, what := range saveDeaths {
				v.n, v.what = int8(n), what
				w.might(with(saveDies))
			}
			for n, what := range saveFailures {
				v.n, v.what = int8(n), what
				w.might(with(saveFails))
			}
		}
	}
}

func (w *world) movesOfNodes() {
	for k := range w.nodes {
		n := &w.nodes[k]
		v := move{on: int8(k), by: -1}
		with := func(k kind) move { v.kind = k; return v }
		if !w.machines[w.at[k]].on {
			continue
		}
		for at := range n.jobs {
			v.at, v.what = int16(at), w.nextOf(v.on, at)
			if v.what == "" {
				continue
			}
			w.may(with(goesOn))
			if j := &n.jobs[at]; j.cause.who == byGate && v.what != doNought {
				if j.action == initsys.Restart && !j.begun && n.up {
					w.might(with(initLies))
				}
				if n.script && j.begun {
					w.might(with(jobDies))
				}
			}
			if v.what == doStart {
				w.might(with(startFails))
				if n.script {
					w.might(with(startsBlind))
				}
			}
		}
		v.at, v.what = 0, ""
		if n.up && !n.ready && !n.nameless {
			w.may(with(isReady))
		}
		if n.nameless {
			w.may(with(namesItself))
		}
		if h := n.wait; h != nil {
			if w.sight(v.on) != h.saw {
				w.may(with(sees))
			} else if _, ok := h.remains(); ok {
				w.may(with(waited))
			}
		}
		if n.up {
			w.might(with(dies))
		}
		if n.ready {
			w.might(with(goesDeaf))
			if w.sc.probeWord {
				w.might(with(insideRestart))
			}
		}
		w.might(with(unreadable))
		w.might(with(released))
		if len(n.jobs) > 1 || slices.ContainsFunc(n.jobs, func(j job) bool { return j.cause.who == byHand }) {
			continue
		}
		w.might(with(handRestart))
		if n.up {
			w.might(with(handStop))
		} else {
			w.might(with(handStart))
		}
	}
}

func (w *world) movesOfRunners() {
	for i := range w.runners {
		r := &w.runners[i]
		v := move{on: -1, by: int8(i)}
		with := func(k kind) move { v.kind = k; return v }
		if w.mayBegin(r) {
			w.may(with(begins))
		} else if r.state == cutOff && w.machines[r.host].on {
			w.may(with(resumes))
		}
		if r.state != running {
			continue
		}
		if r.wake > 0 {
			w.may(with(ticks))
		}
		w.might(with(runnerDies))
		w.might(with(clockJumps))
		w.might(with(interrupted))
		if !r.full {
			w.might(with(journalFull))
		}
		for n := beforeJournal; n <= amidCalls && r.doomed == 0; n++ {
			v.n, v.what = n, deaths[n]
			w.might(with(runnerDoomed))
		}
	}
}

func (w *world) movesOfHosts() {
	for i := range w.machines {
		h := &w.machines[i]
		v := move{on: int8(i), by: -1}
		with := func(k kind) move { v.kind = k; return v }
		if !h.on {
			w.may(with(boots))
			continue
		}
		if h.revoked {
			w.may(with(granted))
		} else {
			w.might(with(keyRevoked))
		}
		w.might(with(reboot))
		w.might(with(hostCut))
		w.might(with(snapshot))
		w.might(with(rollback))
		if w.left[powerCut] > 0 {
			w.movesOfPower(v)
		}
		for o := i + 1; o < len(w.machines); o++ {
			v.by = int8(o)
			if h.cut&(1<<o) != 0 {
				w.may(with(heals))
			} else {
				w.might(with(linkCut))
			}
		}
	}
}

// movesOfPower offers a power cut in every way that leaves something else on disk:
// of each file that is not synced the new content, or the old.
func (w *world) movesOfPower(v move) {
	v.kind = powerCut
	unsynced := 0
	for k := range w.nodes {
		if w.at[k] == v.on && w.nodes[k].disk.pending {
			unsynced++
		}
	}
	for i := range w.keepers {
		if k := &w.keepers[i]; k.host == v.on && k.pending {
			unsynced++
		}
	}
	for n := range 1 << min(unsynced, 3) {
		v.n = int8(n)
		v.what = "all that was written is there"
		if n > 0 {
			v.what = fmt.Sprintf("what was not synced is lost (%b)", n)
		}
		w.may(v)
	}
}

// do makes a move happen, and checks the invariants.
func (w *world) do(m move) {
	w.seq++
	if m.kind.fault() {
		w.left[m.kind]--
	}
	w.countMove(m)
	if w.telling {
		mark := ""
		if m.kind.fault() {
			mark = "! "
		}
		w.say("%s%s", mark, m)
	}
	switch {
	case m.kind.ofHost():
		w.doHost(m)
	case m.on < 0:
		w.doRunner(m)
	default:
		w.doNode(m)
	}
	w.check()
}

func (w *world) doNode(m move) {
	n := &w.nodes[m.on]
	at := int(m.at)
	switch m.kind {
	case arrives:
		w.arrive(at)
	case refused:
		w.hangUp(w.take(at), "connection refused", true)
	case lost:
		w.hangUp(w.take(at), "connection lost", false)
	case late:
		w.hangUp(w.mails[at], "timed out", false)
		w.mails[at].orphan = true
	case repeated:
		twin := w.mails[at]
		twin.orphan = true
		w.mails = append(w.mails, twin)
	case replies:
		w.hear(at)
	case replyLost:
		w.mails[at].err, w.mails[at].r = "connection lost", wire.Reply{}
	case performs:
		if at = w.perform(at); at >= 0 {
			w.coast(at)
		}
	case waitsNot, slow:
		w.waitNoMore(at)
	case gateDies:
		w.kill(at)
	case saveDies:
		w.dieSaving(at, m.n)
	case saveFails:
		w.saveBadly(at, m.n)
	case goesOn, startFails, startsBlind, initLies, jobDies:
		w.advance(m.on, at, m.kind)
	case isReady:
		w.becomesReady(m.on)
	case namesItself:
		n.nameless = false
		w.stirred = true
	case sees:
		w.look(m.on)
	case waited:
		d, _ := n.wait.remains()
		if w.sc.untimed {
			h := *n.wait
			h.now += d
			n.wait = &h
		} else {
			w.pass(d)
		}
		w.look(m.on)
	case dies:
		w.die(m.on)
	case goesDeaf:
		n.ready = false
		w.stirred = true
	case insideRestart:
		w.end(m.on, cause{who: inside}, false)
		w.begin(m.on, cause{who: inside})
	case unreadable:
		n.disk.now, n.disk.pending = content{damaged: true}, false
	case released:
		w.release(m.on)
	case handRestart:
		w.hand(m.on, initsys.Restart)
	case handStop:
		w.hand(m.on, initsys.Stop)
	case handStart:
		w.hand(m.on, initsys.Start)
	}
}

func (w *world) doRunner(m move) {
	r := &w.runners[m.by]
	switch m.kind {
	case begins:
		w.killRunner(m.by)
		w.beginRun(m.by)
	case resumes:
		w.goOn(m.by)
	case ticks:
		w.tick(m.by)
	case runnerDies:
		w.killRunner(m.by)
	case runnerDoomed:
		r.doomed = m.n
	case interrupted:
		w.feed(m.by, run.Interrupt{})
	case journalFull:
		r.full = true
	case clockJumps:
		r.now += leap
		r.skewed = true
	}
}

func (w *world) doHost(m move) {
	h := &w.machines[m.on]
	switch m.kind {
	case heals:
		w.link(m.on, m.by, false)
	case linkCut:
		w.link(m.on, m.by, true)
	case hostCut:
		for o := range w.machines {
			if int8(o) != m.on {
				w.link(m.on, int8(o), true)
			}
		}
	case keyRevoked:
		h.revoked = true
	case granted:
		h.revoked = false
	case powerCut:
		w.off(m.on, m.n)
	case reboot:
		w.off(m.on, 0)
	case boots:
		w.boot(m.on)
	case snapshot:
		for k := range w.nodes {
			if w.at[k] == m.on {
				w.nodes[k].disk.old = w.nodes[k].disk.now
			}
		}
	case rollback:
		for k := range w.nodes {
			if n := &w.nodes[k]; w.at[k] == m.on {
				n.disk.now, n.disk.pending = n.disk.old, false
				n.rolled = true
			}
		}
		w.stirred = true
	}
}

// off is the end of all that runs on a host. Bit by bit of old says which of the
// files that were not synced are as before.
func (w *world) off(host, old int8) {
	w.machines[host].on = false
	for at := len(w.gates) - 1; at >= 0; at-- {
		if w.at[w.gates[at].node] == host {
			w.kill(at)
		}
	}
	for k := range w.nodes {
		n := &w.nodes[k]
		if w.at[k] != host {
			continue
		}
		if n.disk.pending {
			n.disk.cut(old&1 != 0)
			old >>= 1
		}
		w.end(int8(k), cause{who: byInit}, false)
		n.jobs, n.wait, n.failed, n.broken, n.downBy = nil, nil, false, false, 0
	}
	for i := range w.keepers {
		if k := &w.keepers[i]; k.host == host && k.pending {
			if old&1 != 0 {
				k.now = k.before
			}
			k.pending = false
			old >>= 1
		}
	}
	for k := range w.runners {
		if w.runners[k].host == host {
			w.killRunner(int8(k))
		}
	}
	w.stirred = true
}

// boot starts a host, and with it all its services.
func (w *world) boot(host int8) {
	w.machines[host].on = true
	w.machines[host].boots++
	for k := range w.nodes {
		if w.at[k] != host {
			continue
		}
		w.order(int8(k), job{action: initsys.Start, cause: cause{who: byInit}, boot: true})
	}
	for k := range w.nodes {
		if w.at[k] == host {
			w.hold(int8(k))
		}
	}
}

// mend lets an operator turn up who has seen what is wrong.
func (w *world) mend(verb plan.Verb, targets ...string) {
	s := &spec{
		name: fmt.Sprintf("%s%d", mender, len(w.runners)-len(w.specs)+1), host: w.hosts[0],
		verb: verb, targets: targets, keepTrying: true,
	}
	w.runners = append(w.runners, runner{spec: s})
	w.stirredAt, w.stirredTime = w.seq, w.now
	w.beginRun(int8(len(w.runners) - 1))
}
