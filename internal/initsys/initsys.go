// Package initsys is the gate's view of an init system: one small interface
// that systemd, SysV scripts, OpenRC and plain commands fill, and one
// conformance suite that each adapter passes on the real thing
// (initsystest.Run). It is linked into the gate, so beyond the standard library
// there is only a D-Bus client, for systemd.
//
// An adapter acts for one unit. It keeps no state between calls, but for
// systemd's connection to the bus: all that must outlive a crash of the gate
// goes through [Job.Child] into the gate's state file. Callers hold the
// instance's lock; adapters do not lock.
//
// What a script's adapter runs, it runs by way of this very program, held back
// until told to go (see [RunChild], which main calls first): so a process is on
// record before it can do anything, and lives on when the gate is killed. With
// systemd there is no such process: a job is queued by one call, and init's own
// from then on.
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
	// systemd's invocation id. "" unless State is Up; Up without a token is not
	// settled: it runs, and the pid file does not tell as what yet.
	Token string
	// Age is how long this incarnation has run, 0 where unknown. For people.
	Age time.Duration
	// Begun is how long ago its start began, 0 where unknown. A unit of systemd's is
	// active, and counts its age, only when that has ended: its log may say so before.
	Begun time.Duration
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
	// Observe looks once and does not wait. It fails only where it cannot look,
	// or has no answer after half a minute.
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
	// Output is the end of what the action wrote, at most 2 KiB; "" where init
	// keeps it in a log of its own.
	Output() string
	// Close releases what the job holds here; before Go it cancels it.
	Close() error
}

// lookTime bounds one look at a unit, in whose course a status script or the
// bus may hang.
const lookTime = 30 * time.Second

// Watcher is a Unit whose init says when something happens, so that whoever
// waits for a state need not look again and again.
type Watcher interface {
	Unit
	// Changed returns a channel that is closed once the unit may have changed
	// since the call, or init can no longer be heard. So ask for the channel,
	// look, and wait for it. Where it fails, look again after a pause instead.
	Changed(ctx context.Context) (<-chan struct{}, error)
}

// Until observes u until enough says so of an observation or its error, or ctx
// ends, and returns the last observation. It looks at least once; ctx ends the
// waiting, never a look. A [Watcher] is looked at when it has changed, any other
// unit more and more slowly.
func Until(ctx context.Context, u Unit, enough func(Observation, error) bool) (Observation, error) {
	const first, last = 2 * time.Millisecond, 200 * time.Millisecond
	watcher, _ := u.(Watcher)
	for pause := first; ; pause = min(2*pause, last) {
		var changed <-chan struct{}
		if watcher != nil {
			changed, _ = watcher.Changed(ctx)
		}
		o, err := u.Observe(context.WithoutCancel(ctx))
		if enough(o, err) {
			return o, err
		}
		var again <-chan time.Time
		if changed == nil || err != nil { // what went wrong need not say when it is over
			again = time.After(pause)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return o, err
		}
	}
}

// Settle waits until u is in one of the states in want, where Up asks for a
// token too, or ctx ends. It returns the last observation, and an error where
// that is none of those wanted. A start script may return before its daemon has
// written its pid file, and a stop script before the process is gone; some leave
// the file behind, so that who stops a unit wants Down or Failed.
func Settle(ctx context.Context, u Unit, want ...State) (Observation, error) {
	var seen Observation
	wanted := false
	_, err := Until(ctx, u, func(o Observation, err error) bool {
		if err == nil {
			seen = o
			wanted = slices.Contains(want, o.State) && (o.State != Up || o.Token != "")
		}
		return wanted
	})
	if err == nil && !wanted {
		err = context.Cause(ctx)
	}
	return seen, err
}
