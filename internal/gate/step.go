package gate

import (
	"fmt"
	"time"

	"kido/internal/initsys"
	"kido/internal/rule"
	"kido/internal/wire"
)

// Machine carries one request for one instance through the protocol. It is a
// value: Step returns the machine after an event and the one effect to be
// performed next, whose outcome is the next event. It does no I/O and reads no
// clock, so a simulator drives the very rules that ship.
//
// The order of the effects is the protocol: lock, load, wait for init, recover,
// compare, prepare, store the intent, go, wait for the job, look, store the
// result, reply. Each store is durable before the next effect.
type Machine struct {
	q        wire.Request
	at       phase
	rec      Record // as on disk
	aside    bool   // the file on disk was unreadable and must be set aside before a store
	torn     string // why it was unreadable
	now      Moment // when it was loaded
	loadedAt uint64 // the generation that was loaded: what a compare-and-set compares with
	look     Look   // the latest look at the instance
	next     Record // what is being stored
	try      attempt
	acted    bool       // an attempt of this request has succeeded
	after    wire.Reply // what to reply after the last store, where that was all there was to do
	first    string     // STATUS: the token before the probes
	asked    Asked      // STATUS: what they said
}

// phase says what the event that is waited for will be used for.
type phase int

const (
	reading    phase = iota // STATUS: the look under the lock
	concluding              // STATUS: storing what became of an intent
	rereading               // STATUS: the look after the probes
	idling                  // waiting for init before anything is decided
	recovering              // storing what became of an intent
	intending               // storing the intent of an attempt
	settling                // looking whether an attempt worked
	releasing               // storing the intent of a held start, and looking whether it came up
	finishing               // storing the last record: then reply
)

// attempt is one change that init is told to make.
type attempt struct {
	intent Intent
	resume bool // it completes a change that an earlier request left behind
	ended  Ended
}

// NewMachine begins a request; its first effect comes from Step(Begin{}).
func NewMachine(instance string, q wire.Request) Machine {
	return Machine{q: q, rec: Record{Instance: instance}}
}

// Look is what the adapter saw of the instance.
type Look struct {
	State wire.State
	Token string        // "" unless State is up and the incarnation is known
	Age   time.Duration // since it was up; 0 where unknown
	Begun time.Duration // how long ago its start began; 0 where unknown
	Word  string
	// Held says that init is about to start it, and a [Waiter] holds that back;
	// State is down then.
	Held bool
	Err  string // the adapter could not look; State is "" then
}

func (l Look) up() bool { return l.State == wire.StateUp && l.Token != "" }

// The events: what became of the effect that Step returned last.
type (
	Event interface{ event() }

	Begin  struct{}
	Locked struct {
		OK  bool
		Err string // it could not be tried
	}
	// Loaded carries the state file; a missing file is the zero record with no
	// error, an unreadable one is Unreadable.
	Loaded struct {
		Record     Record
		Now        Moment
		Unreadable string // why: its content cannot be believed
		Err        string // it could not be read at all
	}
	Looked struct {
		Look    Look
		Waiting bool // init, or the child that was asked about, is at work yet
	}
	Unlocked struct{}
	Asked    struct { // the probes' answer
		Ready    bool
		Degraded bool
		Untried  bool // not ready, as nothing could be asked
		Word     string
		// Life is the instance's own word of its incarnation, wire.LifeUntold where it is
		// to have one and did not say it, "" where no probe tells.
		Life string
		Age  time.Duration // of that life; 0 where unknown
		Held []wire.Held
	}
	Counted struct { // the connections from before
		Stale int
		Err   string // they could not be counted
	}
	Stored   struct{ Err string }
	Prepared struct {
		Child *initsys.Child
		Boot  string // the present boot
		Err   string
		// Unsupported says that the instance has no such action.
		Unsupported bool
	}
	Gone  struct{ Err string }
	Ended struct { // of the job
		Err     string // init reported failure
		Running bool   // the wait ended before the job did
		Output  string
	}
)

// The effects: what the driver is to do.
type (
	Effect interface{ effect() }

	Lock   struct{}                       // → Locked
	Load   struct{}                       // → Loaded
	Idle   struct{ Child *initsys.Child } // wait until init, and this child, are at rest, and look → Looked
	See    struct{ Child *initsys.Child } // look once, also whether this child is at work → Looked
	Unlock struct{}                       // → Unlocked
	// Ask runs the readiness probes of what was seen once, and counts the connections to
	// the upstreams where they are asked for, → Asked.
	Ask struct {
		Of   Look
		Held bool
	}
	Count struct{ Lives []wire.Life } // the connections that are older than these → Counted
	Save  struct {                    // durably; Aside keeps the unreadable file under another name → Stored
		Record Record
		Aside  bool
	}
	Prepare struct{ Do initsys.Action } // → Prepared
	Go      struct{}                    // let the prepared job begin → Gone
	Await   struct{}                    // its end → Ended
	// Settle looks until it is so, bounded, → Looked. Released: it is init's own
	// start that is waited for, and may take as long as a job.
	Settle struct{ Up, Released bool }
	Answer struct{ Reply wire.Reply } // give the job and the lock back, then reply: the end
)

func (Begin) event()    {}
func (Locked) event()   {}
func (Loaded) event()   {}
func (Looked) event()   {}
func (Unlocked) event() {}
func (Asked) event()    {}
func (Counted) event()  {}
func (Stored) event()   {}
func (Prepared) event() {}
func (Gone) event()     {}
func (Ended) event()    {}

func (Lock) effect()    {}
func (Load) effect()    {}
func (Idle) effect()    {}
func (See) effect()     {}
func (Unlock) effect()  {}
func (Ask) effect()     {}
func (Count) effect()   {}
func (Save) effect()    {}
func (Prepare) effect() {}
func (Go) effect()      {}
func (Await) effect()   {}
func (Settle) effect()  {}
func (Answer) effect()  {}

// Step takes the outcome of the last effect and returns the next one.
func (m Machine) Step(ev Event) (Machine, Effect) {
	switch ev := ev.(type) {
	case Begin:
		return m, Lock{}
	case Locked:
		if ev.Err != "" {
			return m.reply(wire.CodeError, "cannot lock it: "+ev.Err)
		}
		if !ev.OK {
			return m, Answer{wire.Reply{Code: wire.CodeBusy, Word: "another request is at work on " + m.rec.Instance}}
		}
		return m, Load{}
	case Loaded:
		return m.loaded(ev)
	case Looked:
		m.look = ev.Look
		switch {
		case ev.Look.Err != "":
			return m.reply(wire.CodeError, "cannot tell its state: "+ev.Look.Err)
		case m.at == reading:
			return m.read(ev.Waiting)
		case m.at == rereading && m.first != "" && !m.look.up():
			// The record is of the moment when it was up, and would be told with a
			// state that somebody is about to change it from.
			m.look = Look{}
			return m.reply(wire.CodeBusy, "it went down while it was looked at")
		case m.at == rereading:
			return m.answerStatus()
		case m.at == settling:
			return m.settled()
		case m.at == releasing:
			return m.released()
		case ev.Waiting && rule.Holds(rule.WaitForInit):
			return m.reply(wire.CodeBusy, "init is still at work on it")
		default:
			return m.recover()
		}
	case Unlocked:
		if m.first == "" && m.look.State != wire.StateBlind {
			return m.answerStatus()
		}
		return m, Ask{Of: m.look, Held: m.q.Held}
	case Asked:
		m.asked = ev
		m.at = rereading
		return m, See{}
	case Counted:
		return m.counted(ev)
	case Stored:
		return m.stored(ev)
	case Prepared:
		if ev.Unsupported {
			return m.reply(wire.CodeInvalid, fmt.Sprintf("it has no %s: %s", m.try.intent.Do, ev.Err))
		}
		if ev.Err != "" {
			return m.reply(wire.CodeError, fmt.Sprintf("cannot prepare its %s: %s", m.try.intent.Do, ev.Err))
		}
		m.try.intent.Child, m.try.intent.Boot = ev.Child, ev.Boot
		if !rule.Holds(rule.IntentFirst) {
			return m, Go{}
		}
		r := m.rec
		r.Intent = &m.try.intent
		if m.q.Verb == wire.VerbEnsure && !m.try.resume {
			r.Hold = Moment{}
			if m.q.Budget > 0 { // what a person asks for is not counted
				r.Reactions = r.reacted(m.now)
			}
		}
		return m.store(intending, r)
	case Gone:
		if ev.Err != "" { // not begun: the intent on file says so to whoever comes next
			return m.reply(wire.CodeFailed, fmt.Sprintf("cannot begin its %s: %s", m.try.intent.Do, ev.Err))
		}
		return m, Await{}
	case Ended:
		m.try.ended = ev
		if ev.Running {
			return m.reply(wire.CodeFailed, fmt.Sprintf("its %s has not ended in time and goes on", m.try.intent.Do))
		}
		m.at = settling
		return m, Settle{Up: m.try.intent.Do != initsys.Stop}
	}
	return m.reply(wire.CodeError, fmt.Sprintf("the gate was told %T out of turn", ev))
}

func (m Machine) loaded(ev Loaded) (Machine, Effect) {
	if ev.Err != "" {
		return m.reply(wire.CodeError, "cannot read its state file: "+ev.Err)
	}
	m.rec.Generation = 0
	if ev.Unreadable != "" && !rule.Holds(rule.UnknownNotEmpty) {
		ev.Record, ev.Unreadable = Record{Instance: m.rec.Instance}, ""
	}
	if ev.Unreadable == "" {
		m.rec = ev.Record
	}
	m.torn, m.aside, m.now = ev.Unreadable, ev.Unreadable != "", ev.Now
	m.loadedAt = m.rec.Generation
	switch {
	case m.q.Verb == wire.VerbStatus:
		m.at = reading
		return m, See{Child: m.child()}
	case m.aside && m.q.Verb != wire.VerbRestart:
		// Unknown is not empty: an intent may have been on file, so nothing
		// may be concluded. A restart that a person asks for needs nothing of
		// the old state, and mends it.
		return m.reply(wire.CodeUnknown, m.unreadable())
	}
	m.at = idling
	if !rule.Holds(rule.WaitForInit) {
		return m, See{}
	}
	return m, Idle{Child: m.child()}
}

func (m Machine) child() *initsys.Child {
	if m.rec.Intent == nil {
		return nil
	}
	return m.rec.Intent.Child
}

func (m Machine) unreadable() string {
	return fmt.Sprintf("its state file cannot be believed (%s): what it was started against is unknown; `kido restart %s` makes it known again", m.torn, m.rec.Instance)
}

// read is the look under the lock: token, basis and intent belong together. What
// became of an intent is put on record, for later it could not be told any more:
// an instance that somebody then stops by hand would be taken for one that is owed
// its start.
func (m Machine) read(working bool) (Machine, Effect) {
	if m.look.up() {
		m.first = m.look.Token
	}
	if r, ok := m.concluded(); ok && !working && m.look.State != wire.StateBusy {
		if !m.look.Held {
			return m.store(concluding, r)
		}
		m.rec = r // only told: its waiter would take a change for the word of a run
	}
	return m, Unlock{} // probes take their time, and must hold up nobody
}

// answerStatus answers a STATUS: token, probes, token again. A pair that differs
// is not settled, and what is not settled is not ready.
func (m Machine) answerStatus() (Machine, Effect) {
	r := wire.Reply{Code: wire.CodeOK, Status: m.status()}
	if m.aside {
		r.Code, r.Word = wire.CodeUnknown, m.unreadable()
	}
	s := r.Status
	s.Settled = m.look.up() && (m.look.Token == m.first || !rule.Holds(rule.TokenProbeToken)) || m.look.State == wire.StateBlind
	s.Ready = s.Settled && m.asked.Ready
	s.Held = m.asked.Held
	if m.look.up() && rule.Holds(rule.InnerLife) {
		s.Life, s.Age = m.asked.Life, m.age()
	}
	s.Degraded = s.Ready && m.asked.Degraded
	switch {
	case s.Settled:
		s.Word = m.asked.Word
	case m.look.up():
		s.Word = "it was restarted while it was looked at"
	}
	return m, Answer{r}
}

// age is that of the whole incarnation, 0 where it is unknown. The younger part of it
// counts; and where the instance tells a life and not how old that is, init's word does
// not stand for it: an age that is too high makes connections from before look fresh.
func (m Machine) age() time.Duration {
	switch told := m.asked.Age; {
	case m.asked.Life == "", m.asked.Life == wire.LifeUntold:
		return m.look.Age
	case m.look.Age == 0:
		return told
	default:
		return min(told, m.look.Age)
	}
}

// concluded is the record once the instance has told what became of its intent;
// ok is false where there is none, or where the change is still owed: what was to
// be up, and is down, must be started again.
func (m Machine) concluded() (r Record, ok bool) {
	in := m.rec.Intent
	if in == nil || m.tokenless() {
		return m.rec, false
	}
	r = m.rec
	r.Intent = nil
	switch {
	case m.look.State == wire.StateBlind: // cannot be told: as if it had not happened
	case in.Do == initsys.Stop && !m.look.up(): // the stop happened
		r.Wanted, r.Seen = in.Wanted, m.look.State
	case in.Do == initsys.Stop: // it did not
	case m.look.up() && m.look.Token != in.Own && rule.Holds(rule.CommitMoved): // a new incarnation, begun after the new basis was read
		r.Wanted, r.Seen, r.Basis, r.Own = in.Wanted, m.look.State, in.New, m.look.Token
	case m.look.up(): // it did not happen
	case in.Do == initsys.Reload: // whatever brought it down, it was not the reload
	case !rule.Holds(rule.DownIsOwed):
	default:
		return m.rec, false
	}
	return r, true
}

// tokenless is up without a main process that can be named: it says nothing yet.
func (m Machine) tokenless() bool { return m.look.State == wire.StateUp && m.look.Token == "" }

// recover finds out what became of an intent, by the instance itself.
func (m Machine) recover() (Machine, Effect) {
	in := m.rec.Intent
	if m.tokenless() {
		return m.reply(wire.CodeBusy, "it is up, but its incarnation cannot be told yet: "+m.look.Word)
	}
	if in == nil || m.held() { // a held start serves an intent as well: see release
		return m.decide()
	}
	if r, ok := m.concluded(); ok {
		return m.store(recovering, r)
	}
	switch m.q.Verb {
	case wire.VerbFence, wire.VerbRelease: // neither is about what is owed
		return m.decide()
	case wire.VerbStop: // it is down, and owed its start: a stop on purpose ends that, a hold does not
		r := m.rec
		r.Intent, r.Wanted, r.Seen = nil, wire.WantedHeld, m.look.State
		return m.store(recovering, r)
	case wire.VerbReload:
		return m.reply(wire.CodeFailed, "it is not running: there is nothing to reload")
	}
	again := *in
	again.Do = initsys.Start
	if m.q.Generation == m.loadedAt {
		// Its runner has read it since the intent was written, and the upstreams after
		// that: one start serves the old debt and the new.
		again.New = m.q.New
	}
	return m.attempt(attempt{intent: again, resume: true})
}

// decide compares what is asked for with what is, and begins an attempt where
// they differ.
func (m Machine) decide() (Machine, Effect) {
	running := m.look.up() || m.look.State == wire.StateBlind
	switch m.q.Verb {
	case wire.VerbEnsure:
		return m.ensure(running)
	case wire.VerbStop:
		return m.stop(running)
	case wire.VerbFence:
		return m.fence()
	case wire.VerbRelease:
		return m.unhold()
	}
	// The explicit verbs. What is so already needs no compare-and-set.
	switch {
	case m.held() && m.q.Verb != wire.VerbReload && m.q.Generation == m.loadedAt:
		return m.release()
	case m.q.Verb == wire.VerbStart && running:
		return m.achieved("it is up")
	case m.q.Verb == wire.VerbRestart && m.look.up() && m.look.Token != m.q.Own && rule.Holds(rule.OwnIncarnation):
		return m.achieved("it was started anew since you looked")
	case m.q.Generation != m.loadedAt && !m.acted && rule.Holds(rule.Generation):
		return m.reply(wire.CodeStale, "its record has changed since you looked")
	case m.q.Verb == wire.VerbReload && m.rec.Generation != m.loadedAt:
		// An intent was concluded just now: the basis that the runner read is older.
		return m.reply(wire.CodeStale, "what was under way when you looked has ended since")
	case m.q.Verb == wire.VerbReload && !running:
		return m.reply(wire.CodeFailed, "it is not running: there is nothing to reload")
	}
	do := map[wire.Verb]initsys.Action{
		wire.VerbStart: initsys.Start, wire.VerbRestart: initsys.Restart, wire.VerbReload: initsys.Reload,
	}[m.q.Verb]
	if do == "" {
		return m.reply(wire.CodeInvalid, fmt.Sprintf("%s is not a verb for an instance", m.q.Verb))
	}
	if do == initsys.Restart && !running {
		do = initsys.Start
	}
	return m.attempt(m.toward(do))
}

// ensure is the heart: one compare-and-set on the whole basis.
func (m Machine) ensure(running bool) (Machine, Effect) {
	same := m.rec.Basis.Equal(m.q.New) && (rule.Holds(rule.SameIsAlready) || m.acted)
	switch {
	case same && running:
		return m.achieved("its basis is current")
	case !m.rec.Basis.Equal(m.q.Expect) && rule.Holds(rule.CompareAndSet):
		return m.reply(wire.CodeStale, "its basis has changed since you looked")
	case m.q.Generation != 0 && m.q.Generation != m.loadedAt && rule.Holds(rule.CompareAndSet):
		return m.reply(wire.CodeStale, "its record has changed since you looked")
	case m.q.Down && running && !m.acted && rule.Holds(rule.Slot):
		return m.reply(wire.CodeStale, "it was started since you looked")
	case m.held():
		return m.release()
	case !running && m.onPurpose():
		if same {
			return m.reply(wire.CodeWaived, "it was stopped on purpose")
		}
		// Whatever starts it from now on starts it after these incarnations
		// were ready: the debt is settled without a restart.
		r := m.rec
		r.Wanted, r.Seen, r.Basis = wire.WantedDown, m.look.State, m.q.New
		return m.note(r, wire.CodeWaived, "it was stopped on purpose: its debt is waived, it will start fresh")
	case m.spent() && m.wanted() != wire.WantedHeld: // what a run has stopped is owed its start
		return m.onHold()
	case !running:
		return m.attempt(m.toward(initsys.Start))
	case m.q.Reaction == wire.ReactReload && len(m.q.Lives) > 0:
		return m, Count{Lives: m.q.Lives}
	case m.q.Reaction == wire.ReactReload:
		return m.attempt(m.toward(initsys.Reload))
	default:
		return m.attempt(m.toward(initsys.Restart))
	}
}

// counted reloads where connections are held that are older than the upstreams'
// present lives. Without any the instance is as good as reloaded: what it opens from
// now on leads to those lives, for they were ready before this request was made.
func (m Machine) counted(ev Counted) (Machine, Effect) {
	if ev.Err != "" || ev.Stale > 0 {
		return m.attempt(m.toward(initsys.Reload))
	}
	r := m.rec
	r.Wanted, r.Seen, r.Basis, r.Own = wire.WantedUp, m.look.State, m.q.New, m.look.Token
	return m.note(r, wire.CodeAlready, "no connection from before is held: there is nothing to reload")
}

// fence sees to it that no request passes any more that expects the generation
// of this one: whoever has a slot for it has lost it.
func (m Machine) fence() (Machine, Effect) {
	if m.q.Generation != m.loadedAt {
		return m.reply(wire.CodeAlready, "its record has moved on")
	}
	return m.note(m.rec, wire.CodeDone, "requests that were on their way to it are void")
}

// spent reports whether a reaction that nobody asked for in person is one too
// many.
func (m Machine) spent() bool {
	return m.q.Budget > 0 && uint64(len(m.rec.recent(m.now, m.q.Within))) >= m.q.Budget && rule.Holds(rule.Budget)
}

// maxHold bounds a hold: with a longer budget it begins anew as often as somebody
// asks. Who names a time that no clock has would leave a record that cannot be read.
const maxHold = 24 * time.Hour

// onHold puts on record that its reactions are on hold, and until when: when the
// oldest of those in the budget is out of it.
func (m Machine) onHold() (Machine, Effect) {
	recent := m.rec.recent(m.now, m.q.Within)
	left := recent[uint64(len(recent))-m.q.Budget] - m.now.At + m.q.Within
	until := Moment{m.now.Boot, m.now.At + min(left, maxHold)}
	word := fmt.Sprintf("its budget of reactions, %d in %s, is spent: it is left alone for now", m.q.Budget, m.q.Within)
	if m.rec.Hold == until {
		return m.reply(wire.CodeOnHold, word)
	}
	r := m.rec
	r.Hold = until
	return m.note(r, wire.CodeOnHold, word)
}

// unhold ends a hold: the budget is as if nothing had been spent.
func (m Machine) unhold() (Machine, Effect) {
	if len(m.rec.Reactions) == 0 && m.rec.Hold == (Moment{}) {
		return m.reply(wire.CodeAlready, "it is not on hold")
	}
	r := m.rec
	r.Reactions, r.Hold = nil, Moment{}
	return m.note(r, wire.CodeDone, "its budget of reactions is whole again")
}

// release serves a request by the start that init has begun and a waiter holds
// back: it comes after the new basis was read ready, so that basis will be its own.
// It is an intent until the instance is up: a start that never comes is owed. The
// waiter sees the record change, and lets the start go.
func (m Machine) release() (Machine, Effect) {
	m.try = m.toward(initsys.Start)
	r := m.rec
	r.Intent, r.Wanted, r.Seen, r.Hold = &m.try.intent, wire.WantedUp, m.look.State, Moment{}
	return m.store(releasing, r)
}

// released judges by the instance what became of the start that was let go.
func (m Machine) released() (Machine, Effect) {
	if !m.look.up() {
		return m.reply(wire.CodeFailed, fmt.Sprintf("its own start, which was held, did not bring it up: it is %s%s", m.look.State, colon(m.look.Word)))
	}
	return m.settled()
}

func colon(word string) string {
	if word == "" {
		return ""
	}
	return ": " + word
}

// onPurpose tells an instance that is down because someone wants it down from
// one that failed or that a run has stopped and still owes the start.
func (m Machine) onPurpose() bool {
	return m.wanted() == wire.WantedDown && rule.Holds(rule.OnPurpose)
}

// held reports whether init's own start of the instance waits for its upstreams.
func (m Machine) held() bool { return m.look.Held && rule.Holds(rule.HeldStart) }

// wanted is the wanted state as record and instance have it together: what
// somebody did by hand counts.
func (m Machine) wanted() wire.Wanted {
	switch {
	case m.look.State == wire.StateUp, m.look.State == wire.StateBlind:
		return wire.WantedUp
	case m.rec.Wanted == wire.WantedHeld, m.look.Held:
		return wire.WantedHeld
	case m.rec.Intent != nil:
		return wire.WantedUp // owed its start
	case m.look.State == wire.StateDown:
		return wire.WantedDown
	case m.rec.Wanted == wire.WantedDown && m.rec.Seen != wire.StateDown:
		return wire.WantedDown // stopping it left it failed
	}
	return wire.WantedUp // it was started since, and failed
}

func (m Machine) stop(running bool) (Machine, Effect) {
	want := wire.WantedDown
	if m.q.Hold && rule.Holds(rule.HoldOwesStart) {
		want = wire.WantedHeld
	}
	switch {
	case m.look.State == wire.StateBlind:
		return m.reply(wire.CodeInvalid, "a plain target runs its one command: it cannot be stopped")
	case !running && !m.look.Held && (m.q.Hold || m.rec.Wanted == want && m.look.State == wire.StateDown):
		// A hold starts nothing later that was not up before.
		return m.achieved("it is down")
	case m.q.Generation != m.loadedAt && rule.Holds(rule.Generation):
		return m.reply(wire.CodeStale, "its record has changed since you looked")
	case m.look.State == wire.StateDown && !m.look.Held:
		r := m.rec
		r.Wanted, r.Seen = want, m.look.State
		return m.note(r, wire.CodeDone, "it was down; now it is wanted so")
	}
	return m.attempt(attempt{intent: Intent{
		Verb: wire.VerbStop, Do: initsys.Stop, Own: m.look.Token, Wanted: want, New: m.rec.Basis,
	}})
}

// achieved replies that it is so: done where this very request brought it
// about by completing an earlier one, already otherwise.
func (m Machine) achieved(word string) (Machine, Effect) {
	if m.acted {
		return m.reply(wire.CodeDone, "")
	}
	if m.look.up() && m.rec.Wanted != wire.WantedUp {
		// Somebody started it by hand: from now on it is not held or stopped.
		r := m.rec
		r.Wanted, r.Seen = wire.WantedUp, m.look.State
		return m.note(r, wire.CodeAlready, word)
	}
	return m.reply(wire.CodeAlready, word)
}

// toward is the attempt that serves the request as it stands.
func (m Machine) toward(do initsys.Action) attempt {
	return attempt{intent: Intent{Verb: m.q.Verb, Do: do, Own: m.look.Token, New: m.q.New, Wanted: wire.WantedUp}}
}

func (m Machine) attempt(a attempt) (Machine, Effect) {
	m.try = a
	return m, Prepare{Do: a.intent.Do}
}

// settled judges an attempt by the instance, not by what init said of it.
func (m Machine) settled() (Machine, Effect) {
	t := m.try
	blind := m.look.State == wire.StateBlind
	switch {
	case blind && t.ended.Err != "":
		return m.failed("")
	case blind: // the exit status is all there is
	case t.intent.Do == initsys.Stop && m.look.State != wire.StateDown && m.look.State != wire.StateFailed:
		return m.failed("it is " + string(m.look.State))
	case t.intent.Do == initsys.Stop:
	case !rule.Holds(rule.JudgeByInstance) && t.ended.Err == "":
	case !m.look.up():
		return m.failed("it is " + string(m.look.State))
	case t.intent.Do == initsys.Restart && m.look.Token == t.intent.Own:
		return m.failed("it is the same incarnation as before")
	case t.intent.Do == initsys.Reload && m.look.Token == t.intent.Own && t.ended.Err != "":
		return m.failed("") // nothing but init can tell whether a reload worked
	}
	r := m.rec
	r.Intent = nil
	r.Wanted, r.Seen, r.Basis, r.Own = t.intent.Wanted, m.look.State, t.intent.New, m.look.Token
	m.acted = true
	if t.resume {
		return m.store(recovering, r)
	}
	return m.store(finishing, r)
}

// failed leaves the intent on file: the next request finds out what to make of it.
func (m Machine) failed(but string) (Machine, Effect) {
	word := fmt.Sprintf("its %s failed", m.try.intent.Do)
	for _, w := range []string{m.try.ended.Err, but, m.look.Word} {
		if w != "" {
			word += ": " + w
		}
	}
	return m.reply(wire.CodeFailed, word)
}

func (m Machine) store(at phase, r Record) (Machine, Effect) {
	r.Generation++
	m.at, m.next = at, r
	return m, Save{Record: r, Aside: m.aside}
}

// note stores what there is to be told of the instance, which is not touched, and
// then replies.
func (m Machine) note(r Record, code wire.Code, word string) (Machine, Effect) {
	m.after = wire.Reply{Code: code, Word: word}
	return m.store(finishing, r)
}

func (m Machine) stored(ev Stored) (Machine, Effect) {
	if m.at == concluding {
		if ev.Err != "" { // it is told all the same: whoever comes next finds the same
			m.next.Generation = m.rec.Generation
		}
		m.rec = m.next
		return m, Unlock{}
	}
	if ev.Err != "" {
		code := wire.CodeError // nothing was changed yet
		if m.try.intent.Do != "" && m.at != intending && m.at != releasing {
			code = wire.CodeFailed // it was, and the intent still tells
		}
		return m.reply(code, "cannot write its state file: "+ev.Err)
	}
	m.rec, m.aside, m.torn = m.next, false, ""
	switch m.at {
	case intending:
		return m, Go{}
	case recovering:
		return m.decide()
	case releasing:
		return m, Settle{Up: true, Released: true}
	}
	switch {
	case m.after.Code != "":
		return m.reply(m.after.Code, m.after.Word)
	case m.try.ended.Err != "":
		return m.reply(wire.CodeDone, "though init reported: "+m.try.ended.Err)
	}
	return m.reply(wire.CodeDone, "")
}

func (m Machine) reply(code wire.Code, word string) (Machine, Effect) {
	return m, Answer{wire.Reply{Code: code, Word: word, Output: m.try.ended.Output, Status: m.status()}}
}

// status is what is known now, without readiness; nil before the first look.
func (m Machine) status() *wire.Status {
	if m.look.State == "" {
		return nil
	}
	s := &wire.Status{
		Instance: m.rec.Instance, State: m.look.State, Age: m.look.Age, Word: m.look.Word,
		Generation: m.rec.Generation, Wanted: m.wanted(), Basis: m.rec.Basis,
	}
	if m.look.up() {
		s.Token = m.look.Token
	}
	if left := m.rec.Hold.At - m.now.At; m.rec.Hold.Boot == m.now.Boot && left > 0 {
		s.OnHold = (left + time.Second - 1).Truncate(time.Second)
	}
	if in := m.rec.Intent; in != nil {
		s.Intent, s.IntentVerb = true, in.Verb
	}
	return s
}
