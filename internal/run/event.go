package run

import (
	"encoding/json"
	"fmt"
	"time"

	"kido/internal/plan"
	"kido/internal/wire"
)

// Event is one thing that happened in a run. Events are the run's journal, in
// order, and the one stream that progress, history and reports are made of.
type Event struct {
	Time time.Time `json:"time"` // wall clock of the runner, for people only
	Run  string    `json:"run"`

	// Exactly one of these is set.
	Begin *BeginEvent `json:"begin,omitempty"`
	Step  *StepEvent  `json:"step,omitempty"`
	End   *EndEvent   `json:"end,omitempty"`
}

// BeginEvent opens a run, and each resumption of it.
type BeginEvent struct {
	Plan    *plan.Plan `json:"plan,omitempty"` // nil where the run is resumed
	Resumed bool       `json:"resumed,omitempty"`
	Site    string     `json:"site,omitempty"`
	// By is the user and machine of the runner, "root@db1"; for people.
	By string `json:"by,omitempty"`
}

// StepEvent says in which phase a step is now.
type StepEvent struct {
	ID       int    `json:"id"`
	Instance string `json:"instance"`
	Phase    Phase  `json:"phase"`
	Word     string `json:"word,omitempty"` // why, for people
	Hint     string `json:"hint,omitempty"` // what to do next
	// Verb is the request that is about to be sent (PhaseActing).
	Verb string `json:"verb,omitempty"`
	// Reaction is what an ensure comes to (PhaseActing).
	Reaction wire.Reaction `json:"reaction,omitempty"`
	// Acted says that the request was carried out (PhaseSettling).
	Acted bool `json:"acted,omitempty"`
	// Token is the instance's incarnation as the last answer has it; "" where it
	// was not up or did not say.
	Token string `json:"token,omitempty"`
	// Basis is what the instance was started against as the last answer has it.
	Basis wire.Vector `json:"basis,omitempty"`
	// New is the basis that the request asks for (PhaseActing).
	New wire.Vector `json:"new,omitempty"`
	// Degraded is what is not as it should be, though it is ready (PhaseDone,
	// PhaseAlready).
	Degraded string `json:"degraded,omitempty"`
	// Silent says that its host did not answer (PhaseRetry).
	Silent bool `json:"silent,omitempty"`
	// Code is what a gate answered to the request (PhaseSettling, PhaseRetry); of
	// PhaseAlready where Word is the gate's.
	Code wire.Code `json:"code,omitempty"`
	// Own is the incarnation that a restart is to end, read when the run first
	// looked: a resumed run must not end its successor.
	Own *string `json:"own,omitempty"`
	// Slot says that the instance may be down by this run's hand: it counts
	// against max_unavailable.
	Slot bool `json:"slot,omitempty"`
	// Generation is that of the instance's record for which it has a slot against
	// other runs; 0: against none.
	Generation uint64 `json:"generation,omitempty"`
	// Owes names the upstreams whose new incarnations the instance has not
	// followed yet.
	Owes []string `json:"owes,omitempty"`
	// Limit is how long what it waits for may take, and Waited how long that has been
	// already (PhaseBlocked, PhaseSettling), in milliseconds; 0: nothing is waited for.
	Limit  int64 `json:"limit,omitempty"`
	Waited int64 `json:"waited,omitempty"`
	// Attempt counts from 1; Next is when the next one is due.
	Attempt int        `json:"attempt,omitempty"`
	Next    *time.Time `json:"next,omitempty"`
}

// EndEvent closes a run. A run without one was cut off, and can be resumed.
type EndEvent struct {
	Outcome Outcome `json:"outcome"`
	Word    string  `json:"word,omitempty"`
}

// Phase is where a step stands. The spelling is the journal's.
type Phase string

// The phases; those from PhaseDone on are final.
const (
	PhaseWaiting  Phase = "waiting"  // for the steps before it
	PhaseSlot     Phase = "slot"     // for max_unavailable
	PhaseLooking  Phase = "looking"  // reading the instance and its upstreams
	PhaseBlocked  Phase = "blocked"  // an upstream is not ready or not current yet
	PhaseActing   Phase = "acting"   // a request that changes something is out
	PhaseSettling Phase = "settling" // it was done: waiting until it is ready
	PhaseRetry    Phase = "retry"    // failed; tried again later
	PhaseOnHold   Phase = "on-hold"  // reacted too often of late: left alone until all is calm

	PhaseDone    Phase = "done"    // it was done, and it is ready
	PhaseAlready Phase = "already" // nothing was to be done
	PhaseWaived  Phase = "waived"  // stopped on purpose: left so
	PhaseFailed  Phase = "failed"
	PhaseRefused Phase = "refused" // the gate's policy does not allow it
	PhaseSkipped Phase = "skipped" // not begun: behind a failure
	PhaseLeft    Phase = "left"    // not finished: the run was interrupted
)

// Final reports whether a step in this phase is over.
func (p Phase) Final() bool {
	switch p {
	case PhaseDone, PhaseAlready, PhaseWaived, PhaseFailed, PhaseRefused, PhaseSkipped, PhaseLeft:
		return true
	}
	return false
}

// Well reports whether a step ended as it should.
func (p Phase) Well() bool { return p == PhaseDone || p == PhaseAlready || p == PhaseWaived }

// Outcome is how a run ended.
type Outcome string

// The outcomes, each with its exit status on the command line.
const (
	OutcomeDone        Outcome = "done"        // 0
	OutcomeFailed      Outcome = "failed"      // 1: what was asked for itself did not work
	OutcomeIncomplete  Outcome = "incomplete"  // 3: debts remain
	OutcomeRefused     Outcome = "refused"     // 4
	OutcomeInterrupted Outcome = "interrupted" // 130: it can be resumed
)

// Encode writes an event as one journal record.
func (e Event) Encode() ([]byte, error) { return json.Marshal(e) }

// Decode reads what Encode wrote.
func Decode(record []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(record, &e); err != nil {
		return Event{}, fmt.Errorf("journal record is not an event of a run: %w", err)
	}
	return e, nil
}
