package sim

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"kido/internal/gate"
	"kido/internal/plan"
	"kido/internal/rule"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/wire"
)

// runner is somebody who runs kido: an operator, once, or the hook of an
// instance, at each of its starts. Like package cli and run.Drive.
type runner struct {
	spec   *spec
	host   int8
	layout int8
	state  condition
	due    bool  // a hook: its instance has a new life
	number int16 // counts its runs; a resumed one is the same run
	life   int16 // counts its processes

	run     *run.Run
	plan    *plan.Plan
	journal []run.Event // as on disk
	now     time.Duration
	wake    time.Duration // 0: none
	doomed  int8          // it dies in its next step, see deaths
	full    bool          // its journal cannot be written
	skewed  bool          // its clock has jumped
	outcome run.Outcome
	resumed int8 // in fair play: how often

	reads map[int8][2]since // of each node: bases, and when they were first read
	// unslotted are the nodes for which it could not ask most keepers of their pool.
	unslotted uint32
	good      uint32 // nodes that were up, ready and current at one instant of this run
}

// since is when a runner first read a basis.
type since struct {
	basis uint64
	at    int32
}

// condition is what a runner is doing.
type condition uint8

const (
	resting condition = iota // it has not begun, or there is nothing to do
	running
	cutOff // it was killed, or has failed: it may go on
	over
)

// The effects of its step at which a doomed runner dies.
const (
	beforeJournal int8 = iota + 1
	beforeCalls
	amidCalls
)

var deaths = [...]string{
	beforeJournal: "before it writes its journal", beforeCalls: "between journal and calls", amidCalls: "amid its calls",
}

const (
	// tries is the pause after which a hook tries again what it gave up.
	tries = 10 * time.Second
	// leap is how far a clock jumps, and how much time a search lets pass at once.
	leap   = 10 * time.Minute
	stride = time.Minute
)

func (r *runner) noteRead(k int8, basis uint64, at int32) {
	old := r.reads[k]
	if old[0].basis == basis && old[0].at > 0 {
		return
	}
	// Worlds share what they were cloned from.
	reads := make(map[int8][2]since, len(r.reads)+1)
	for n, s := range r.reads {
		reads[n] = s
	}
	reads[k] = [2]since{{basis, at}, old[0]}
	r.reads = reads
}

func (r *runner) readSince(k int8, basis uint64) int32 {
	for _, s := range r.reads[k] {
		if s.at > 0 && s.basis == basis {
			return s.at
		}
	}
	return 0
}

func (w *world) layoutOf(r *runner) *layout { return &w.layouts[r.layout] }

// mayBegin reports whether a runner has something to begin.
func (w *world) mayBegin(r *runner) bool {
	if !w.machines[r.host].on {
		return false
	}
	if r.spec.hook != "" {
		return r.due
	}
	return r.state == resting
}

// begin begins a run, as kido does when its verb is typed.
func (w *world) beginRun(k int8) {
	r := &w.runners[k]
	r.due = false
	r.life++ // whoever ran until now is overtaken
	r.number++
	r.journal, r.reads, r.good, r.unslotted = nil, nil, 0, 0
	l := w.layoutOf(r)
	q := plan.Request{Verb: r.spec.verb, Targets: r.spec.targets}
	targets, err := l.site.Resolve(q.Targets)
	if err == nil {
		if len(q.Targets) == 0 {
			targets = nil
		}
		r.plan, err = l.topo.Make(q, targets, w.observe(r, targets))
	}
	if err != nil {
		w.fail("the scenario", "%s: %v", r.spec.name, err)
		return
	}
	w.drive(k)
}

// drive starts a process of a runner's present run.
func (w *world) drive(k int8) {
	r := &w.runners[k]
	r.state, r.outcome, r.now, r.wake, r.doomed = running, "", 0, 0, 0
	r.run = run.New(r.spec.name+"#"+strconv.Itoa(int(r.number)), w.layoutOf(r).topo, r.plan, run.Options{
		KeepTrying: r.spec.keepTrying, Seed: uint64(r.number),
	})
	if err := r.run.Replay(r.journal); err != nil {
		w.fail("the journal", "%s: %v", r.spec.name, err)
		return
	}
	w.feed(k, run.Begin{})
}

// goOn is kido resume, or the next try of a hook.
func (w *world) goOn(k int8) {
	r := &w.runners[k]
	if r.plan != nil { // or else it goes on at once
		w.pass(max(r.wake-r.now, 0))
	}
	if r.spec.hook != "" || r.plan == nil {
		w.beginRun(k)
		return
	}
	r.life++
	if w.calm {
		r.resumed++
	}
	w.drive(k)
}

// observe is the look before a run: each instance once, who is out of reach left
// out.
func (w *world) observe(r *runner, targets []site.Instance) plan.Observed {
	l := w.layoutOf(r)
	seen := plan.Observed{}
	for _, i := range l.topo.Around(targets) {
		k := w.index[i]
		h := &w.machines[w.at[k]]
		if !h.on || !w.reaches(r.host, w.at[k]) || h.revoked {
			seen[i] = plan.Observation{Err: "no answer"}
			continue
		}
		if w.locked(k) {
			seen[i] = plan.Observation{Err: "busy"}
			continue
		}
		st := w.status(k)
		if st.Code != wire.CodeOK {
			seen[i] = plan.Observation{Status: st.Status, Err: st.Word}
			continue
		}
		seen[i] = plan.Observation{Status: st.Status}
	}
	return seen
}

// status is what a gate would answer to a STATUS that nothing disturbs.
func (w *world) status(k int8) wire.Reply {
	n := &w.nodes[k]
	m, next := gate.NewMachine(w.names[k], wire.Request{Verb: wire.VerbStatus, Service: service(w.names[k])}).Step(gate.Begin{})
	for {
		var ev gate.Event
		switch e := next.(type) {
		case gate.Lock:
			ev = gate.Locked{OK: true}
		case gate.Load:
			l := n.disk.load(w.names[k])
			l.Now = w.moment(w.at[k])
			ev = l
		case gate.See:
			look := n.look()
			ev = gate.Looked{Look: look, Waiting: look.State == wire.StateBusy || n.childAtWork(e.Child)}
		case gate.Unlock:
			ev = gate.Unlocked{}
		case gate.Ask:
			ev = w.asked(n)
		case gate.Answer:
			return e.Reply
		}
		m, next = m.Step(ev)
	}
}

// feed gives a runner an input and performs what comes of it: the journal first,
// then the calls.
func (w *world) feed(k int8, in run.Input) {
	r := &w.runners[k]
	effects := r.run.Step(r.now, in)
	doomed := r.doomed
	r.doomed, r.wake = 0, 0
	if doomed == beforeJournal {
		w.killRunner(k)
		return
	}
	if rule.Holds(rule.JournalFirst) {
		if !w.write(k, effects) {
			return
		}
		if doomed == beforeCalls {
			w.killRunner(k)
			return
		}
	}
	sent := 0
	for _, e := range effects {
		switch e := e.(type) {
		case run.Publish:
			w.published(k, e.Event)
		case run.Call:
			if sent++; sent == 2 && doomed == amidCalls {
				w.killRunner(k)
				return
			}
			w.post(k, e)
		case run.Wake:
			r.wake = e.At
		}
	}
	if doomed > 0 {
		w.killRunner(k)
		return
	}
	if !rule.Holds(rule.JournalFirst) && !w.write(k, effects) {
		return
	}
	if o, ended := r.run.Outcome(); ended {
		w.runEnded(k, o)
	}
}

// write appends the durable events of a step to the journal. It reports false
// where that fails, which ends the run.
func (w *world) write(k int8, effects []run.Effect) bool {
	r := &w.runners[k]
	if r.full {
		if slices.ContainsFunc(effects, func(e run.Effect) bool { p, ok := e.(run.Publish); return ok && p.Durable }) {
			r.full = false
			w.killRunner(k)
			return false
		}
	}
	for _, e := range effects {
		if p, ok := e.(run.Publish); ok && p.Durable {
			r.journal = append(slices.Clip(r.journal), p.Event)
		}
	}
	return true
}

// published is what a run says of itself.
func (w *world) published(k int8, e run.Event) {
	r := &w.runners[k]
	if s := e.Step; s != nil && s.Phase == run.PhaseActing {
		// It says so where it could not ask most of the keepers.
		if bit := uint32(1) << w.byName[s.Instance]; strings.Contains(s.Word, "within reach only") {
			r.unslotted |= bit
			w.count(oneMore, reachOnly)
		} else {
			r.unslotted &^= bit
		}
	}
	if s := e.Step; s != nil {
		w.count(aPhase, string(s.Phase))
		if s.Phase == run.PhaseWaived {
			w.leftDown(w.byName[s.Instance])
		}
	}
	if s := e.Step; w.telling && s != nil {
		w.say("    %s: %s %s %s %s", w.runners[k].spec.name, s.Instance, s.Phase, s.Verb, s.Word)
	}
}

// killRunner ends a runner's process.
func (w *world) killRunner(k int8) {
	r := &w.runners[k]
	if r.state != running {
		return
	}
	r.state = cutOff
	w.leave(k)
}

// leave is the end of a runner's process: nobody waits for a reply any more, and
// requests that change something go on by themselves.
func (w *world) leave(k int8) {
	r := &w.runners[k]
	r.run, r.wake = nil, 0
	if !w.sc.untimed {
		r.wake = r.now + tries
	}
	r.life++
	w.mails = slices.DeleteFunc(w.mails, func(m mail) bool {
		return m.by == k && (m.reply || m.q.Verb == wire.VerbStatus || m.q.Verb == wire.VerbProbe)
	})
	for i := range w.mails {
		if w.mails[i].by == k {
			w.mails[i].orphan = true
		}
	}
}

// runEnded is the end of a run that has come to one.
func (w *world) runEnded(k int8, o run.Outcome) {
	r := &w.runners[k]
	if w.telling {
		w.say("    %s ends: %s", r.spec.name, o)
	}
	w.count(anEnd, string(o))
	w.promised(k, o)
	r.outcome = o
	w.leave(k)
	switch {
	case o != run.OutcomeDone:
		r.state = cutOff
	case r.spec.verb != plan.Announce || !r.spec.keepTrying || !rule.Holds(rule.AnnounceAgain) || !w.owing(r):
		r.state = over
		if r.spec.hook != "" {
			r.state = resting
		}
	default: // an announcement goes on until nothing is owed
		r.state = cutOff
		r.plan = nil
	}
}

// owing reports whether something downstream of a runner's targets is seen to owe
// a reaction. Like package cli.
func (w *world) owing(r *runner) bool {
	l := w.layoutOf(r)
	targets, _ := l.site.Resolve(r.spec.targets)
	seen := w.observe(r, targets)
	status := func(i site.Instance) plan.Observation { return seen[i] }
	p, err := l.topo.Make(plan.Request{Verb: r.spec.verb, Targets: r.spec.targets}, targets, seen)
	if err != nil {
		return false
	}
	for _, s := range p.Steps {
		st := seen[s.Instance].Status
		if s.Action == plan.ActEnsure && st != nil && !plan.OnPurpose(st) && len(l.topo.Need(s.Instance, status, nil).Behind(targets)) > 0 {
			return true
		}
	}
	return false
}

// tick lets time pass until a runner's timer fires.
func (w *world) tick(k int8) {
	r := &w.runners[k]
	d := max(r.wake-r.now, 0)
	if w.sc.untimed {
		r.now += stride
	} else {
		w.pass(d)
	}
	w.feed(k, run.Tick{})
}

// announce makes the hooks of an instance that has a new life due.
func (w *world) announce(k int8) {
	for i := range w.runners {
		if r := &w.runners[i]; r.spec.hook == w.names[k] {
			r.due = true
		}
	}
}
