// Package initsys is the gate's view of an init system: one small interface
// that SysV scripts and plain commands fill now, systemd and OpenRC next, and
// one conformance suite that each adapter passes on the real thing
// (initsystest.Run). Standard library only: it is linked into the gate.
//
// An adapter acts for one unit. It keeps no state between calls: all that must
// outlive a crash of the gate goes through [Job.Child] into the gate's state
// file. Callers hold the instance's lock; adapters do not lock.
//
// What an adapter runs, it runs by way of this very program, held back until
// told to go (see [RunChild], which main calls first): so a process is on
// record before it can do anything, and lives on when the gate is killed.
package initsys

import (
	"context"
	"errors"
	"slices"
	"time"
)

// State is what init says of the unit.
type State int

// The states. They are not written anywhere; the wire has its own words.
const (
	Down   State = iota + 1 // inactive: not running, and not by failure
	Up                      // running
	Failed                  // it should run, and died or did not start (a stale pid file, LSB status 1 or 2)
	Busy                    // init itself has a job for it
	Blind                   // cannot be told: there is only an exit status (a plain target)
)

// Observation is one look at a unit.
type Observation struct {
	State State
	// Token is the incarnation: boot id and main pid with its start time, or
	// what the init system has instead. "" unless State is Up; Up without a
	// token is not settled: it runs, and the pid file does not tell as what yet.
	Token string
	// Age is how long this incarnation has run, 0 where unknown. For people.
	Age time.Duration
	// Word says more, for people: "pid file /run/x.pid names pid 12, which is gone".
	Word string
}

// Action is what a unit can be told.
type Action string

// The actions.
const (
	Start   Action = "start"
	Stop    Action = "stop"
	Restart Action = "restart" // starts a unit that is down
	Reload  Action = "reload"
)

// Actions lists all actions.
func Actions() []Action { return []Action{Start, Stop, Restart, Reload} }

// ErrUnsupported is returned by Prepare for an action that the unit has not,
// and by Wait where only the init script itself can tell.
var ErrUnsupported = errors.New("the unit has no such action")

// Child identifies a process across the death of the gate that started it.
type Child struct {
	Boot  string // boot id
	PID   int
	Start uint64 // start time in clock ticks since boot: field 22 of /proc/PID/stat
}

// Unit is one service as its init knows it.
type Unit interface {
	// Observe looks once and does not wait. It fails only where it cannot look.
	Observe(ctx context.Context) (Observation, error)
	// Prepare readies one action without starting it.
	Prepare(ctx context.Context, a Action) (Job, error)
}

// Job is one prepared action. The order is Prepare, Child (to be put on
// record), Go, Wait, Close; Close alone cancels a job that was not begun.
type Job interface {
	// Child is the process that will carry the action out, already there but
	// held back; ok is false where init itself does the work (systemd).
	Child() (c Child, ok bool)
	// Go lets the action begin. After Go it runs to its end, whatever becomes
	// of this process: it is in a session of its own.
	Go() error
	// Wait waits for the end of the action: of the script, not of the daemon
	// that it leaves behind. A nil error says that init reported success; a
	// daemon may still be on its way then, see [Settle]. An [ExitError] says
	// how the script failed. ctx only ends the waiting.
	Wait(ctx context.Context) error
	// Output is the end of what the action wrote, at most 2 KiB.
	Output() string
	// Close releases what the job holds here; before Go it cancels it.
	Close() error
}

// Settle observes u again and again until it is in one of the states in want,
// where Up asks for a token too, or ctx ends. It returns the last observation,
// and an error where that is none of those wanted. A start script may return
// before its daemon has written its pid file, and a stop script before the
// process is gone; some leave the file behind, so that who stops a unit wants
// Down or Failed.
func Settle(ctx context.Context, u Unit, want ...State) (Observation, error) {
	const first, last = 5 * time.Millisecond, 250 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	var seen Observation
	for pause := first; ; pause = min(2*pause, last) {
		o, err := u.Observe(ctx)
		if err == nil {
			seen = o
			if slices.Contains(want, o.State) && (o.State != Up || o.Token != "") {
				return o, nil
			}
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			// An observation that ctx itself cut off tells nothing.
			if err == nil || errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx)) {
				err = context.Cause(ctx)
			}
			return seen, err
		}
	}
}
