package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kido/internal/failpoint"
	"kido/internal/wire"
)

// Caller sends one request to the gate of a host and returns its reply. It
// bounds its own time; ctx ends it early.
type Caller interface {
	Call(ctx context.Context, host string, q wire.Request) (wire.Reply, error)
}

// CallError is an error of a [Caller] that says what it means for the run.
// Any other error counts as one that may pass by itself, and the request as one
// that may have arrived.
type CallError struct {
	Err    error
	Hint   string // what a person can do
	Final  bool   // asking again is pointless
	Unsent bool   // the request cannot have reached the gate
}

func (e *CallError) Error() string { return e.Err.Error() }
func (e *CallError) Unwrap() error { return e.Err }

// Recorder is the journal: Append returns once the records are durable.
type Recorder interface {
	Append(records ...[]byte) error
}

// Drive performs a run's effects until it has ended, and returns its outcome.
// Every durable event is in the journal before what follows it is done; where
// the journal fails, nothing more is begun and Drive returns its error once the
// requests that are out have been answered.
//
// When ctx is done the run stops at a safe point: what was begun is waited
// for, nothing more is begun. watch, if not nil, is told every event, in order,
// from this goroutine.
func Drive(ctx context.Context, r *Run, c Caller, j Recorder, watch func(Event)) (Outcome, error) {
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel() // reads that nobody waits for any more
	d := &driver{run: r, caller: c, journal: j, watch: watch, calls: calls, begun: time.Now(), answers: make(chan Answered, 64)}
	interrupt := ctx.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var in Input = Begin{}
	for {
		wake, err := d.step(in)
		if err != nil {
			return OutcomeFailed, d.drain(err)
		}
		if o, ended := r.Outcome(); ended {
			return o, nil
		}
		timer.Stop()
		if wake > 0 {
			timer.Reset(wake - time.Since(d.begun))
		}
		select {
		case in = <-d.answers:
		case <-timer.C:
			in = Tick{}
		case <-interrupt:
			in, interrupt = Interrupt{}, nil
		}
	}
}

type driver struct {
	run     *Run
	caller  Caller
	journal Recorder
	watch   func(Event)
	calls   context.Context
	begun   time.Time // monotonic
	answers chan Answered
	out     int // calls that change something and are not answered yet
}

// step performs the effects of one input. All durable events among them are
// written in one go, before the first call is made.
func (d *driver) step(in Input) (wake time.Duration, err error) {
	if a, ok := in.(Answered); ok && a.changes {
		d.out--
	}
	now := time.Now()
	effects := d.run.Step(now.Sub(d.begun), in)
	var records [][]byte
	var events []Event
	for _, e := range effects {
		p, ok := e.(Publish)
		if !ok {
			continue
		}
		p.Event.Time = now.Round(0)
		if p.After > 0 {
			next := p.Event.Time.Add(p.After)
			p.Event.Step.Next = &next
		}
		events = append(events, p.Event)
		if p.Durable {
			record, err := p.Event.Encode()
			if err != nil {
				return 0, err
			}
			records = append(records, record)
		}
	}
	if len(records) > 0 {
		failpoint.Hit("run.before.journal")
		if err := d.journal.Append(records...); err != nil {
			return 0, err
		}
		failpoint.Hit("run.after.journal")
	}
	if d.watch != nil {
		for _, e := range events {
			d.watch(e)
		}
	}
	for _, e := range effects {
		switch e := e.(type) {
		case Call:
			d.call(e)
		case Wake:
			wake = e.At
		}
	}
	return wake, nil
}

func (d *driver) call(c Call) {
	changes := c.Request.Verb != wire.VerbStatus && c.Request.Verb != wire.VerbProbe
	if changes {
		d.out++
		failpoint.Hit("run.before.call")
	}
	go func() {
		a := Answered{ID: c.ID, changes: changes}
		var err error
		a.Reply, err = d.caller.Call(d.calls, c.Host, c.Request)
		if err != nil {
			a.Err = err.Error()
			if ce, ok := errors.AsType[*CallError](err); ok {
				a.Final, a.Unsent, a.Hint = ce.Final, ce.Unsent, ce.Hint
			}
		}
		if changes {
			failpoint.Hit("run.after.call")
		}
		select {
		case d.answers <- a:
		case <-d.calls.Done():
		}
	}()
}

// drain waits for the requests that are out: their gates finish them anyway,
// and a runner that says it ended should have.
func (d *driver) drain(err error) error {
	for d.out > 0 {
		if a := <-d.answers; a.changes {
			d.out--
		}
	}
	return fmt.Errorf("the run stopped: its journal failed: %w", err)
}
