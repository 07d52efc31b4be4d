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
	"strings"
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
	// maxLosses is how often a request may change nothing, because another
	// runner was there first, before that counts as a failed attempt.
	maxLosses = 20
)

// Options are what a user may set for one run.
type Options struct {
	// KeepTrying goes on with a step that has used up its attempts, at the
	// longest delay, until it works or the run is interrupted.
	KeepTrying bool
	// MaxFailures ends the whole run's beginnings once so many steps have
	// failed; 0 leaves it to the services.
	MaxFailures int
	// Seed makes jitter repeatable.
	Seed uint64
}

// Run is the state of one run. It is not safe for concurrent use.
type Run struct {
	id    string
	site  *site.Site
	topo  *plan.Topology
	plan  *plan.Plan
	opts  Options
	rng   *rand.Rand
	steps []*step
	reads map[question]*read
	calls map[int]call // outstanding, by number
	pools map[string]*pool

	seq         int // counts events: the order of reads
	nextCall    int
	now         time.Duration
	interrupted bool
	ended       bool
	effects     []Effect
}

// question is what a read asks: the status of an instance, or what the host At
// sees when it probes the instance.
type question struct {
	at       string // host
	instance site.Instance
	probe    bool
}

// read is the latest answer to a question and whether it is being asked again.
type read struct {
	asked, answered int // seq; answered < asked while it is out
	obs             plan.Observation
	code            wire.Code
	hint            string
	final           bool // asking again is pointless
	out             bool
}

type call struct {
	step int // -1 for a read
	ask  question
}

// pool counts the instances of a service that may be down by our hand, and
// those of them that did not come back.
type pool struct{ taken, failed int }

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
	attempt  int
	changes  int
	losses   int
	answers  int           // ready answers in a row
	pause    time.Duration // before the next look
	wake     time.Duration // when to look again; 0: not waiting
	deadline time.Duration // 0: not running
	owes     []string
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
		rng:   rand.New(rand.NewPCG(o.Seed, o.Seed)),
		reads: map[question]*read{}, calls: map[int]call{}, pools: map[string]*pool{},
	}
	for _, s := range p.Steps {
		r.steps = append(r.steps, &step{Step: s, svc: r.site.Service(s.Instance.Service), phase: PhaseWaiting, owes: presumed(p, s, r.site)})
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
// goal reached where it had been; only stops that ended well are left so.
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
		case e.Step.Phase.Well() && (s.Action == plan.ActHold || s.Action == plan.ActStop):
			// Not to be done again: someone may have started it since.
			s.phase, s.word = e.Step.Phase, e.Step.Word
		case e.Step.Phase == PhaseDone || e.Step.Phase == PhaseSettling && e.Step.Acted:
			s.acted, s.before = true, true
		}
		if e.Step.Own != nil {
			s.own = e.Step.Own
		}
		// What was out when the run was cut off may be down by our hand yet.
		if slot := e.Step.Slot && !e.Step.Phase.Well(); slot != s.slot {
			s.slot = slot
			if slot {
				r.pools[s.Instance.Service].taken++
			} else {
				r.pools[s.Instance.Service].taken--
			}
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
		case s.Action != plan.ActEnsure && s.phase == PhaseFailed:
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
	if p := r.pools[s.Instance.Service]; !r.free(s) || s.phase == PhaseSlot && p.taken >= s.svc.MaxUnavailable {
		return false
	}
	s.deadline = r.now + r.patience(s)
	r.enter(s, PhaseLooking, "", false)
	return true
}

// behind reports whether a step must not be begun any more, and why.
func (r *Run) behind(s *step) (string, bool) {
	p := r.pools[s.Instance.Service]
	// Those that failed keep their slots, so there may be none to wait for.
	if p.failed >= s.svc.MaxFailures || s.phase == PhaseSlot && p.failed >= s.svc.MaxUnavailable {
		return fmt.Sprintf("%d of %s failed: the rest is left as it is", p.failed, s.svc.Name), true
	}
	if failed := r.failures(); r.opts.MaxFailures > 0 && failed >= r.opts.MaxFailures {
		return fmt.Sprintf("%d steps failed: nothing more is begun", failed), true
	}
	var anyLost map[string]bool // set → all of it has ended, none well
	for _, e := range s.After {
		before := r.steps[e.Step]
		lost := before.phase.Final() && !before.phase.Well()
		switch {
		case e.Any != "":
			if anyLost == nil {
				anyLost = map[string]bool{}
			}
			all, seen := anyLost[e.Any]
			anyLost[e.Any] = lost && (all || !seen)
		case lost && !e.Soft:
			return before.Name + map[Phase]string{
				PhaseFailed: " failed", PhaseRefused: " was refused", PhaseSkipped: " was not begun", PhaseLeft: " was left",
			}[before.phase], true
		}
	}
	for _, lost := range anyLost {
		if lost {
			return "none of the upstreams of which it needs one is ready", true
		}
	}
	return "", false
}

func (r *Run) failures() (n int) {
	for _, p := range r.pools {
		n += p.failed
	}
	return n
}

// free reports whether all steps before s have ended (of an any-set, one well).
func (r *Run) free(s *step) bool {
	var anyWell map[string]bool
	for _, e := range s.After {
		phase := r.steps[e.Step].phase
		if e.Any != "" {
			if anyWell == nil {
				anyWell = map[string]bool{}
			}
			anyWell[e.Any] = anyWell[e.Any] || phase.Well()
		} else if !phase.Final() {
			return false
		}
	}
	for _, well := range anyWell {
		if !well {
			return false
		}
	}
	return true
}

// patience is how long a step may wait for readiness: its own, or that of what
// it waits for, whichever is longer.
func (r *Run) patience(s *step) time.Duration {
	d := s.svc.Timeout.Ready
	for _, e := range s.After {
		d = max(d, r.steps[e.Step].svc.Timeout.Ready)
	}
	return d
}

// ---- observing ---------------------------------------------------------------

// startSurvey begins to read the instance, then its ancestors level by level.
func (r *Run) startSurvey(s *step) {
	if s.levels == nil {
		s.levels = r.questions(s)
	}
	s.surveying, s.level, s.since = true, 0, r.seq
}

func (r *Run) questions(s *step) [][]question {
	status := func(i site.Instance) question { return question{at: i.Host, instance: i} }
	levels := [][]question{{status(s.Instance)}}
	switch s.Action {
	case plan.ActStop, plan.ActHold, plan.ActWait:
		return levels
	}
	for _, level := range r.topo.Ancestors(s.Instance) {
		var qs []question
		for _, i := range level {
			qs = append(qs, status(i))
		}
		levels = append(levels, qs)
	}
	if s.svc.Adapter.Kind == site.KindPlain {
		return levels // nothing there can probe
	}
	var seen []question
	for _, i := range r.topo.ProbedFrom(s.Instance) {
		seen = append(seen, question{at: s.Instance.Host, instance: i, probe: true})
	}
	if len(seen) > 0 {
		levels = append(levels, seen)
	}
	return levels
}

// survey asks what is still to be asked; it reports whether all is answered.
// Reads are shared between steps: a read counts for whoever needed it no later
// than it was asked.
func (r *Run) survey(s *step) bool {
	for ; s.level < len(s.levels); s.level++ {
		complete := true
		for _, q := range s.levels[s.level] {
			complete = r.ask(q, s.since) && complete
		}
		if !complete {
			return false
		}
		if s.level == 0 {
			// The compare-and-set must use what was read before the upstreams.
			self := *r.reads[s.levels[0][0]]
			s.self = &self
		}
		s.since = r.seq
	}
	return true
}

// ask reports whether q has an answer to a read asked at seq since or later,
// and asks otherwise, once at a time.
func (r *Run) ask(q question, since int) bool {
	a := r.reads[q]
	if a == nil {
		a = &read{}
		r.reads[q] = a
	}
	if !a.out && a.answered > 0 && a.asked >= since {
		return true
	}
	if !a.out {
		a.out, a.asked = true, r.seq
		request := wire.Request{Verb: wire.VerbStatus, Service: q.instance.Service, Run: r.id}
		if q.probe {
			request.Verb, request.Service = wire.VerbProbe, q.instance.String()
		}
		r.call(call{step: -1, ask: q}, q.at, request)
	}
	return false
}

func (r *Run) call(c call, host string, q wire.Request) {
	r.nextCall++
	r.calls[r.nextCall] = c
	r.effects = append(r.effects, Call{ID: r.nextCall, Host: host, Request: q})
}

func (r *Run) answered(in Answered) {
	c, ok := r.calls[in.ID]
	if !ok {
		return // late: its call was given up
	}
	delete(r.calls, in.ID)
	if c.step >= 0 {
		r.replied(r.steps[c.step], in)
		return
	}
	a := r.reads[c.ask]
	a.out, a.answered = false, r.seq
	a.code, a.final, a.hint = in.Reply.Code, in.Final, in.Hint
	a.obs = plan.Observation{Status: in.Reply.Status, Err: in.Err}
	switch {
	case in.Err != "":
	case in.Reply.Code == wire.CodeRefused:
		a.obs, a.final = plan.Observation{Err: "refused: " + in.Reply.Word}, true
	case in.Reply.Code != wire.CodeOK || in.Reply.Status == nil:
		a.obs.Err = in.Reply.Word
		if a.obs.Err == "" {
			a.obs.Err = fmt.Sprintf("the gate at %s answered %s", c.ask.at, in.Reply.Code)
		}
	case !c.ask.probe && in.Reply.Status.Instance != c.ask.instance.String():
		a.obs = plan.Observation{Err: fmt.Sprintf("the gate at %s answered for %s", c.ask.at, wire.Quote(in.Reply.Status.Instance))}
		a.final = true
	}
}

func (r *Run) status(i site.Instance) plan.Observation {
	if a := r.reads[question{at: i.Host, instance: i}]; a != nil && a.answered > 0 {
		return a.obs
	}
	return plan.Observation{Err: "it was not looked at"}
}

// seenFrom says which upstream the instance's own host finds not ready.
func (r *Run) seenFrom(s *step) (blocks []plan.Block) {
	for _, level := range s.levels {
		for _, q := range level {
			if !q.probe {
				continue
			}
			obs := r.reads[q].obs
			switch {
			case obs.Err != "":
				blocks = append(blocks, plan.Block{Upstream: q.instance.String(), Why: fmt.Sprintf("%s as seen from %s: %s", q.instance, q.at, obs.Err)})
			case !obs.Status.Ready:
				blocks = append(blocks, plan.Block{Upstream: q.instance.String(), Why: fmt.Sprintf("%s as seen from %s: %s", q.instance, q.at, obs.Status.Word)})
			}
		}
	}
	return blocks
}

// ---- deciding ----------------------------------------------------------------

// choice is what comes of a survey: exactly one field is set.
type choice struct {
	end     Phase         // the step is over
	wait    Phase         // look again soon: blocked or settling
	retry   bool          // the look itself failed: an attempt is used up
	request *wire.Request // act
	word    string
	hint    string
}

func (r *Run) decide(s *step) choice {
	switch obs := s.self.obs; {
	case s.self.code == wire.CodeRefused:
		return choice{end: PhaseRefused, word: obs.Err, hint: "grant it in the policy of " + s.Instance.Host}
	case s.self.code == wire.CodeUnknown && s.Action == plan.ActRestart:
		// It mends what is unknown; nothing of the old record is needed.
	case s.self.code == wire.CodeUnknown:
		return choice{end: PhaseFailed, word: obs.Err, hint: fmt.Sprintf("`kido restart %s` makes it known again, by a restart", s.Name)}
	case s.self.code == wire.CodeBusy:
		return choice{wait: PhaseBlocked, word: obs.Err}
	case obs.Err != "" && s.self.final:
		return choice{end: PhaseFailed, word: obs.Err, hint: s.self.hint}
	case obs.Err != "":
		return choice{retry: true, word: obs.Err, hint: s.self.hint}
	}
	var st wire.Status
	if s.self.obs.Status != nil {
		st = *s.self.obs.Status
	}
	switch s.Action {
	case plan.ActWait:
		if st.State == wire.StateDown {
			return choice{end: PhaseFailed, word: "it is down", hint: fmt.Sprintf("start it first, or: kido up %s", s.Instance.Service)}
		}
		return r.ready(s, st)
	case plan.ActStop, plan.ActHold:
		return r.decideStop(s, st)
	}
	need := r.topo.Need(s.Instance, r.statusFor(s))
	need.Blocked = append(need.Blocked, r.seenFrom(s)...)
	s.owes = s.owes[:0]
	for _, d := range need.Debts {
		s.owes = append(s.owes, d.Upstream)
	}
	running := st.State == wire.StateUp || st.State == wire.StateBlind
	request := wire.Request{
		Service: s.Instance.Service, Run: r.id, Timeout: s.svc.Timeout.Start,
		Generation: st.Generation, New: need.New,
	}
	switch s.Action {
	case plan.ActReload:
		if s.acted {
			return r.ready(s, st)
		}
		request.Verb = wire.VerbReload
		if len(need.Blocked) > 0 || need.Reaction != wire.ReactReload {
			request.New = st.Basis // it pays no debt
		}
		return choice{request: &request}
	case plan.ActRestart:
		if s.own == nil {
			own := st.Token
			s.own = &own
		}
		over := st.State == wire.StateUp && st.Token != *s.own || st.State == wire.StateBlind && s.acted
		if !over {
			if len(need.Blocked) > 0 {
				return r.blocked(need.Blocked)
			}
			request.Verb, request.Own = wire.VerbRestart, *s.own
			return choice{request: &request}
		}
	case plan.ActStart:
		if !running {
			if len(need.Blocked) > 0 {
				return r.blocked(need.Blocked)
			}
			request.Verb = wire.VerbStart
			return choice{request: &request}
		}
	}
	return r.fresh(s, st, need, request)
}

// statusFor answers Need with the survey's own reading of the instance itself.
func (r *Run) statusFor(s *step) func(site.Instance) plan.Observation {
	return func(i site.Instance) plan.Observation {
		if i == s.Instance {
			return s.self.obs
		}
		return r.status(i)
	}
}

// fresh brings an instance that is meant to run to a current basis.
func (r *Run) fresh(s *step, st wire.Status, need plan.Verdict, request wire.Request) choice {
	running := st.State == wire.StateUp || st.State == wire.StateBlind
	switch {
	case running && need.Fresh():
		return r.ready(s, st)
	case plan.OnPurpose(&st) && (len(need.Debts) == 0 || len(need.Blocked) > 0):
		return choice{end: PhaseWaived, word: "it was stopped on purpose"}
	case st.State == wire.StateFailed && s.acted && !s.died:
		s.died = true
		return choice{retry: true, word: "it died: " + st.Word}
	case st.State == wire.StateBusy:
		return choice{wait: PhaseBlocked, word: "init is at work on it"}
	case len(need.Blocked) > 0:
		return r.blocked(need.Blocked)
	}
	request.Verb, request.Generation = wire.VerbEnsure, 0
	request.Expect, request.Reaction = st.Basis, need.Reaction
	word := ""
	if len(need.Debts) > 0 {
		word = need.Debts[0].Why
	}
	return choice{request: &request, word: word}
}

// blocked waits for the upstreams that stand in the way; but not for one that
// is down on purpose, for nobody is going to start it.
func (r *Run) blocked(by []plan.Block) choice {
	word := by[0].Why
	if !strings.HasPrefix(word, by[0].Upstream) {
		word = by[0].Upstream + ": " + word
	}
	if n := len(by) - 1; n > 0 {
		word += fmt.Sprintf(" (and %d more)", n)
	}
	for _, b := range by {
		service, host, _ := strings.Cut(b.Upstream, "@")
		st := r.status(site.Instance{Service: service, Host: host}).Status
		if st != nil && plan.OnPurpose(st) && !r.opts.KeepTrying {
			return choice{end: PhaseSkipped, word: fmt.Sprintf("%s is down, and nobody is going to start it", b.Upstream), hint: "kido up " + b.Upstream}
		}
	}
	return choice{wait: PhaseBlocked, word: word}
}

// ready ends a step whose instance is as it should be once it answers.
func (r *Run) ready(s *step, st wire.Status) choice {
	if !st.Ready {
		s.answers = 0
		word := st.Word
		if word == "" {
			word = "it is " + string(st.State)
		}
		return choice{wait: PhaseSettling, word: word}
	}
	s.answers++
	if s.answers < successes(s.svc) {
		return choice{wait: PhaseSettling, word: fmt.Sprintf("answered %d of %d times", s.answers, successes(s.svc))}
	}
	switch {
	case s.before:
		return choice{end: PhaseAlready, word: "it was done before this run was cut off"}
	case s.acted:
		return choice{end: PhaseDone}
	case s.Action == plan.ActWait:
		return choice{end: PhaseAlready, word: "it is ready"}
	case s.Action == plan.ActRestart:
		return choice{end: PhaseDone, word: "it was started anew meanwhile"}
	case st.State == wire.StateBlind:
		return choice{end: PhaseAlready, word: "it was told to follow its upstreams as they are now"}
	default:
		return choice{end: PhaseAlready, word: "it is up and fresh"}
	}
}

func (r *Run) decideStop(s *step, st wire.Status) choice {
	hold := s.Action == plan.ActHold
	down := st.State == wire.StateDown || st.State == wire.StateFailed
	switch {
	case down && !st.Intent && (hold || s.acted || st.Wanted == wire.WantedDown):
		if s.acted {
			return choice{end: PhaseDone}
		}
		return choice{end: PhaseAlready, word: "it is down"}
	case st.State == wire.StateBusy:
		return choice{wait: PhaseBlocked, word: "init is at work on it"}
	}
	return choice{request: &wire.Request{
		Verb: wire.VerbStop, Service: s.Instance.Service, Run: r.id,
		Timeout: s.svc.Timeout.Stop, Generation: st.Generation, Hold: hold,
	}}
}

// ---- acting ------------------------------------------------------------------

func (r *Run) act(s *step, c choice) {
	switch {
	case c.end != "":
		r.end(s, c.end, c.word, c.hint)
	case c.retry:
		r.retry(s, c.word, c.hint, false)
	case c.wait != "":
		r.wait(s, c.wait, c.word)
	case s.changes >= maxChanges:
		r.end(s, PhaseFailed, fmt.Sprintf("it was seen to %d times and is not as it should be: %s", s.changes, c.word),
			"see whether an upstream restarts again and again; then: kido up "+s.Name)
	case !r.takeSlot(s, *c.request):
		r.enter(s, PhaseSlot, fmt.Sprintf("at most %d of %s at once", s.svc.MaxUnavailable, s.svc.Name), false)
	default:
		s.phase, s.word = PhaseActing, c.word
		ev := s.event()
		ev.Verb, ev.Own, ev.Owes, ev.Attempt = string(c.request.Verb), s.own, slices.Clone(s.owes), s.attempt+1
		if s.running() {
			ev.Reaction = c.request.Reaction
		}
		r.publish(ev, true)
		r.call(call{step: s.ID}, s.Instance.Host, *c.request)
	}
}

// running reports whether the instance may have been up when it was looked at.
func (s *step) running() bool {
	st := s.self.obs.Status
	return st == nil || st.State == wire.StateUp || st.State == wire.StateBlind
}

// takeSlot counts what makes an instance unavailable; a start does not, and a
// reload keeps it answering.
func (r *Run) takeSlot(s *step, q wire.Request) bool {
	takes := q.Verb == wire.VerbRestart || q.Verb == wire.VerbEnsure && q.Reaction != wire.ReactReload
	if s.slot || !takes || !s.running() {
		return true
	}
	p := r.pools[s.Instance.Service]
	if p.taken >= s.svc.MaxUnavailable {
		return false
	}
	p.taken++
	s.slot = true
	return true
}

// replied takes the reply to the request of a step.
func (r *Run) replied(s *step, in Answered) {
	s.answers, s.pause = 0, 0
	s.phase = PhaseLooking
	switch in.Reply.Code {
	case wire.CodeDone:
		if !s.acted { // it works: but what dies again and again runs out of attempts
			s.attempt = 0
		}
		s.acted, s.before, s.died, s.losses = true, false, false, 0
		s.changes++
		s.deadline = r.now + s.svc.Timeout.Ready
		s.phase, s.word = PhaseSettling, in.Reply.Word
		ev := s.event()
		ev.Acted = true
		r.publish(ev, true)
	case wire.CodeAlready, wire.CodeWaived, wire.CodeStale: // the next look tells what is so now
		if s.losses++; s.losses > maxLosses {
			s.losses = 0
			r.retry(s, in.Reply.Word, "", true)
		}
	case wire.CodeBusy:
		r.wait(s, PhaseBlocked, in.Reply.Word)
	case wire.CodeRefused:
		r.end(s, PhaseRefused, in.Reply.Word, "grant it in the policy of "+s.Instance.Host)
	case wire.CodeUnknown, wire.CodeInvalid:
		r.end(s, PhaseFailed, in.Reply.Word, in.Hint)
	default: // failed, error, or no reply at all
		word := in.Err
		if word == "" {
			word = in.Reply.Word
			if in.Reply.Output != "" {
				word += "; it said: " + lastLine(in.Reply.Output)
			}
		}
		if in.Unsent {
			r.giveSlot(s)
		}
		if in.Final {
			r.end(s, PhaseFailed, word, in.Hint)
			return
		}
		r.retry(s, word, in.Hint, true)
	}
}

// wait looks again after a pause, until the deadline.
func (r *Run) wait(s *step, phase Phase, word string) {
	if r.now >= s.deadline {
		r.retry(s, fmt.Sprintf("not ready in %s: %s", r.patience(s), word), "", false)
		return
	}
	s.pause = min(max(2*s.pause, firstPause), interval(s.svc))
	s.wake = r.now + s.pause
	r.enter(s, phase, word, false)
}

// retry uses up an attempt: the next one comes after a jittered delay that
// doubles, unless there is none.
func (r *Run) retry(s *step, word, hint string, acted bool) {
	s.attempt++
	late := r.now >= s.deadline && !acted
	if (s.attempt >= s.svc.Retry.Attempts || late) && !r.opts.KeepTrying {
		r.end(s, PhaseFailed, word, hint)
		return
	}
	delay := s.svc.Retry.Max
	if shift := s.attempt - 1; shift < 30 {
		delay = min(delay, s.svc.Retry.Delay<<shift)
	}
	delay = delay/2 + time.Duration(r.rng.Int64N(int64(delay/2)+1))
	s.wake = r.now + delay
	if late {
		s.deadline = s.wake + r.patience(s)
	}
	s.phase, s.word = PhaseRetry, word
	ev := s.event()
	ev.Attempt, ev.Owes, ev.Hint = s.attempt, slices.Clone(s.owes), hint
	r.effects = append(r.effects, Publish{Event: Event{Run: r.id, Step: &ev}, Durable: true, After: delay})
}

func (r *Run) giveSlot(s *step) {
	if s.slot {
		r.pools[s.Instance.Service].taken--
		s.slot = false
	}
}

func (r *Run) end(s *step, phase Phase, word, hint string) {
	switch {
	case phase.Well() || phase == PhaseRefused:
		r.giveSlot(s)
	case s.slot: // it may be down by our hand, so it keeps its slot
		r.pools[s.Instance.Service].failed++
	}
	s.phase, s.word, s.wake = phase, word, 0
	ev := s.event()
	ev.Hint = hint
	if !phase.Well() {
		ev.Owes = slices.Clone(s.owes)
	}
	r.publish(ev, true)
}

// enter puts a step into a phase; what has not changed is not said again.
func (r *Run) enter(s *step, phase Phase, word string, durable bool) {
	same := s.phase == phase && s.word == word
	s.phase, s.word = phase, word
	if !same || durable {
		r.publish(s.event(), durable)
	}
}

func (s *step) event() StepEvent {
	return StepEvent{ID: s.ID, Instance: s.Name, Phase: s.phase, Word: s.word, Slot: s.slot}
}

func (r *Run) publish(e StepEvent, durable bool) {
	r.effects = append(r.effects, Publish{Event: Event{Run: r.id, Step: &e}, Durable: durable})
}

func interval(v *site.Service) time.Duration {
	d := time.Second
	for i, p := range v.Ready {
		if i == 0 || p.Interval < d {
			d = p.Interval
		}
	}
	return d
}

func successes(v *site.Service) int {
	n := 1
	for _, p := range v.Ready {
		n = max(n, p.Successes)
	}
	return n
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
