// Package run executes a plan and resumes one that was cut off.
//
// [Run] is a pure step function: it takes one event at a time and returns the
// effects to be performed, reads no clock and does no I/O, so the very code that
// ships can be driven by a simulator. [Drive] is the thin driver around it: it
// makes every transition durable in the journal before it acts on it, sends the
// requests, and keeps the time.
//
// All kinds of steps go through one loop: observe, decide, act, and observe
// again until the goal holds. Observing follows the protocol: the dependent's
// own status first, then its upstreams' from the root down. So what a step did
// is never believed, only what is seen afterwards; a request that was lost, late
// or repeated is harmless; and a step that finds its goal reached does nothing.
package run

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"kido/internal/plan"
	"kido/internal/site"
	"kido/internal/wire"
)

const (
	// firstPause is the first pause between two looks at something that is not
	// ready yet; it doubles up to the probe's interval.
	firstPause = 50 * time.Millisecond
	// maxChanges is how many times one step succeeds and has to act again,
	// before it gives up: on a flapping upstream, or on a gate that lies.
	maxChanges = 5
	// minKnock is the shortest delay between two tries at a host that does not
	// answer, however soon it is to be found back.
	minKnock = time.Second
	// maxLosses is how often a request may change nothing, because another
	// runner was there first, before that counts as a failed attempt.
	maxLosses = 20
)

// Options are what a user may set for one run.
type Options struct {
	// KeepTrying goes on with a step that has used up its attempts, at the
	// longest delay, until it works or the run is interrupted.
	KeepTrying bool
	// MaxFailures is after how many failed steps nothing more is begun; 0
	// leaves it to the services.
	MaxFailures int
	// Seed makes jitter repeatable.
	Seed uint64
}

// Run is the state of one run. It is not safe for concurrent use.
type Run struct {
	id     string
	site   *site.Site
	topo   *plan.Topology
	plan   *plan.Plan
	opts   Options
	rng    rand.PCG
	steps  []*step
	reads  map[question]*read
	calls  map[int]call // outstanding, by number
	pools  map[string]*pool
	chores map[wire.Slot]*chore     // about slots of other runs
	silent map[string]time.Duration // hosts of keepers that did not answer, and when

	seq         int // counts events: the order of reads
	nextCall    int
	now         time.Duration
	failures    int
	interrupted bool
	ended       bool
	effects     []Effect
}

// pool counts instances of a service. A host that could not be reached counts
// in none: it must not stop the others.
type pool struct {
	taken  int // may be down by our hand
	lost   int // of those, will not come back in this run
	failed int // failed after a request had been sent
}

// step is the state of one step of the plan.
type step struct {
	plan.Step
	svc    *site.Service
	phase  Phase
	word   string
	levels [][]question // what a survey reads, in order; the first is the instance itself

	surveying bool
	level     int
	since     int // a read counts for the present level if it was asked at this seq or later
	self      *read

	own      *string // restart: the incarnation to end
	acted    bool    // something was done for it in this run
	before   bool    // only before the run was cut off
	died     bool    // it failed since
	slot     bool
	claim    *claim       // of that slot against other runs; nil: none
	sent     bool         // a request that changes something may have reached the gate
	away     bool         // it failed because its host never answered
	latest   *wire.Status // the last that was heard of the instance, by a read or a reply
	told     bool         // that it is blocked is on record
	lamented string       // why it was to be tried again, as the journal has it last
	spared   string       // why its gate found nothing to do; "": it was not asked, or did
	attempt  int
	changes  int
	losses   int
	answers  int           // ready answers in a row
	pause    time.Duration // before the next look
	wake     time.Duration // when to look again; 0: not waiting
	deadline time.Duration // 0: not running
	patience time.Duration // how long it is from when it was set
	owes     []string
	held     bool // a hold of this run is about the same instance
}

// The effects of a Step, to be performed in order.
type (
	Effect interface{ effect() }
	// Publish tells the world; where Durable, the event must be in the journal
	// before any effect after it is performed.
	// The driver fills in the wall clock: the time of the event and, where the
	// step is tried again After a while, when that is.
	Publish struct {
		Event   Event
		Durable bool
		After   time.Duration
	}
	// Call sends a request to the gate of a host; its outcome is an Answered.
	Call struct {
		ID      int
		Host    string
		Request wire.Request
	}
	// Wake asks for a Tick at that time since the run began.
	Wake struct{ At time.Duration }
)

func (Publish) effect() {}
func (Call) effect()    {}
func (Wake) effect()    {}

// The events of a Step.
type (
	Input interface{ input() }
	Begin struct{}
	// Answered is the outcome of a Call: a reply, or why there is none.
	Answered struct {
		ID    int
		Reply wire.Reply
		Err   string
		Hint  string
		Final bool // asking again is pointless: a refused key, a changed host key
		// Unsent says that the request cannot have reached the gate.
		Unsent  bool
		changes bool // the driver's: it was no mere read
	}
	Tick struct{}
	// Interrupt asks to stop at a safe point.
	Interrupt struct{}
)

func (Begin) input()     {}
func (Answered) input()  {}
func (Tick) input()      {}
func (Interrupt) input() {}

// New prepares to execute p from its beginning.
func New(id string, t *plan.Topology, p *plan.Plan, o Options) *Run {
	r := &Run{
		id: id, site: t.Site(), topo: t, plan: p, opts: o,
		rng:   *rand.NewPCG(o.Seed, o.Seed),
		reads: map[question]*read{}, calls: map[int]call{}, pools: map[string]*pool{},
		chores: map[wire.Slot]*chore{}, silent: map[string]time.Duration{},
	}
	held := map[site.Instance]bool{} // holds come first
	for _, s := range p.Steps {
		r.steps = append(r.steps, &step{Step: s, svc: r.site.Service(s.Instance.Service), phase: PhaseWaiting, owes: presumed(p, s, r.site), held: held[s.Instance]})
		if s.Action == plan.ActHold {
			held[s.Instance] = true
		}
		if r.pools[s.Instance.Service] == nil {
			r.pools[s.Instance.Service] = &pool{}
		}
	}
	return r
}

// presumed lists the upstreams to which a dependent must be taken to owe a
// reaction as long as it cannot be asked: those that this plan renews, or that
// were announced.
func presumed(p *plan.Plan, s plan.Step, in *site.Site) (owes []string) {
	if s.Action != plan.ActEnsure {
		return nil
	}
	for _, e := range s.After {
		up := p.Steps[e.Step]
		for _, d := range in.Service(s.Instance.Service).After {
			if d.Upstream == up.Instance.Service && d.OnRestart != site.ReactionNone && up.Action != plan.ActHold {
				owes = append(owes, up.Name)
			}
		}
	}
	return owes
}

// Replay takes the events of an earlier part of the same run, in order, so that
// Step(Begin{}) goes on from there. Every step is looked at anew, and finds its
// goal reached where it had been; only holds that ended well are left so.
func (r *Run) Replay(events []Event) error {
	for _, e := range events {
		if e.Step == nil {
			continue
		}
		if e.Step.ID < 0 || e.Step.ID >= len(r.steps) || r.steps[e.Step.ID].Name != e.Step.Instance {
			return fmt.Errorf("journal of run %s speaks of step %d, %s, which its plan does not have", r.id, e.Step.ID, e.Step.Instance)
		}
		s := r.steps[e.Step.ID]
		switch {
		case e.Step.Phase.Well() && s.Action == plan.ActHold:
			// Not to be done again: its start may have come since.
			s.phase, s.word = e.Step.Phase, e.Step.Word
		case e.Step.Phase == PhaseDone || e.Step.Phase == PhaseSettling && e.Step.Acted:
			s.acted, s.before = true, true
		}
		if e.Step.Own != nil {
			s.own = e.Step.Own
		}
		// What was out when the run was cut off may be down by our hand yet.
		slot, p := e.Step.Slot && !e.Step.Phase.Well(), r.pools[s.Instance.Service]
		switch {
		case slot && !s.slot:
			p.taken++
		case s.slot && !slot:
			p.taken--
		}
		s.slot, s.claim = slot, nil
		if slot {
			s.sent = true
			s.claim = &claim{generation: e.Step.Generation, granted: slices.Clone(s.svc.Keepers()), loose: true}
		}
	}
	return nil
}

// Outcome says how the run ended; ok is false while it has not.
func (r *Run) Outcome() (o Outcome, ok bool) {
	if !r.ended {
		return "", false
	}
	o = OutcomeDone
	for _, s := range r.steps {
		switch {
		case s.phase.Well():
		case r.interrupted:
			return OutcomeInterrupted, true
		case s.phase == PhaseRefused:
			return OutcomeRefused, true
		case s.Action != plan.ActEnsure && (s.phase == PhaseFailed || s.phase == PhaseSkipped):
			o = OutcomeFailed
		case o != OutcomeFailed:
			o = OutcomeIncomplete
		}
	}
	return o, true
}

// Step takes one event, at a time since the run began, and returns what is to
// be done.
func (r *Run) Step(now time.Duration, in Input) []Effect {
	r.now = max(r.now, now)
	r.seq++
	r.effects = nil
	switch in := in.(type) {
	case Answered:
		r.answered(in)
	case Interrupt:
		r.interrupted = true
	}
	r.advance()
	return r.effects
}

// advance moves every step as far as it can go. A step that ends may free
// others, so it goes round until nothing moves.
func (r *Run) advance() {
	if r.ended {
		return
	}
	for moved := true; moved; {
		moved = false
		for _, s := range r.steps {
			moved = r.move(s) || moved
		}
	}
	if r.over() {
		r.ended = true
		o, _ := r.Outcome()
		r.effects = append(r.effects, Publish{Event: Event{Run: r.id, End: &EndEvent{Outcome: o}}, Durable: true})
		return
	}
	var next time.Duration
	for _, s := range r.steps {
		if at := s.wake; at > 0 && !s.phase.Final() && (next == 0 || at < next) {
			next = at
		}
	}
	if next > 0 {
		r.effects = append(r.effects, Wake{next})
	}
}

func (r *Run) over() bool {
	for _, s := range r.steps {
		if !s.phase.Final() {
			return false
		}
	}
	for _, c := range r.calls { // slots are given back first
		if c.kind == callTake || c.kind == callGive && c.slot.Run == r.id {
			return false
		}
	}
	return true
}

// move lets one step go on; it reports whether its phase may have freed another.
func (r *Run) move(s *step) bool {
	switch {
	case s.phase.Final() || s.phase == PhaseActing:
		return false
	case r.interrupted:
		r.end(s, PhaseLeft, "interrupted", "")
		return true
	case s.claim != nil && s.claim.asking:
		return false
	case s.phase == PhaseWaiting || s.phase == PhaseSlot:
		return r.begin(s)
	case s.wake > r.now:
		return false
	}
	s.wake = 0
	if !s.surveying {
		r.startSurvey(s)
	}
	if !r.survey(s) {
		return false
	}
	s.surveying = false
	r.act(s, r.decide(s))
	return s.phase.Final() || s.phase == PhaseSlot
}

// begin starts a step whose turn has come.
func (r *Run) begin(s *step) bool {
	if word, behind := r.behind(s); behind {
		r.end(s, PhaseSkipped, word, "")
		return true
	}
	// Whoever waited for a slot looks again only with one: else the whole pool
	// would look whenever one is free.
	if !r.free(s) || s.phase == PhaseSlot && !r.reserve(s) {
		return false
	}
	r.bePatient(s, r.upstreamPatience(s))
	r.enter(s, PhaseLooking, "", false)
	return true
}

// behind reports whether a step must not be begun any more, and why.
func (r *Run) behind(s *step) (string, bool) {
	p := r.pools[s.Instance.Service]
	// Those that are lost keep their slots, so there may be none to wait for.
	// What this run has stopped comes back all the same; who waits for a slot runs.
	if s.held && s.phase != PhaseSlot {
		return "", false
	}
	if p.failed >= s.svc.MaxFailures || s.phase == PhaseSlot && p.lost >= s.svc.MaxUnavailable {
		return fmt.Sprintf("%d of %s failed: the rest is left as it is", p.failed, s.svc.Name), true
	}
	if r.opts.MaxFailures > 0 && r.failures >= r.opts.MaxFailures {
		return fmt.Sprintf("%d of the steps failed: nothing more is begun", r.failures), true
	}
	for _, e := range s.After {
		before := r.steps[e.Step]
		if s.Action == plan.ActStop && before.away {
			continue // one host that is off does not keep the whole site up
		}
		if !e.Soft && before.phase.Final() && !before.phase.Well() {
			return before.Name + map[Phase]string{
				PhaseFailed: " failed", PhaseRefused: " was refused", PhaseSkipped: " was not begun", PhaseLeft: " was left",
			}[before.phase], true
		}
	}
	return "", false
}

// free reports whether all steps before s have ended.
func (r *Run) free(s *step) bool {
	return !slices.ContainsFunc(s.After, func(e plan.Edge) bool { return !r.steps[e.Step].phase.Final() })
}

// upstreamPatience is how long a step may wait before it has done anything: as
// long as what it waits for may take to become ready, or it itself.
func (r *Run) upstreamPatience(s *step) time.Duration {
	d := s.svc.Timeout.Ready
	for _, e := range s.After {
		before := r.steps[e.Step]
		if before.Action == plan.ActHold {
			continue
		}
		d = max(d, before.svc.Timeout.Ready)
	}
	return d
}

// bePatient sets the deadline of a step.
func (r *Run) bePatient(s *step, d time.Duration) { s.patience, s.deadline = d, r.now+d }
