// Package wire is the protocol between a runner and a gate: the only package
// that both programs share, and standard library only.
//
// A runner opens one SSH session, sends the exec request [Command], writes one
// request to the gate's standard input and closes it; the gate writes one reply
// to its standard output and ends. Both are short texts of lines (see
// [FormatLine]) with exactly one spelling: what [ParseRequest] and [ParseReply]
// accept, Format writes back to the same bytes. The words are those of the
// design: token, basis, intent, generation, ready.
package wire

import (
	"slices"
	"strings"
	"time"
)

const (
	// Command is what a runner asks sshd to execute; the key's forced command
	// replaces it, and the gate finds it in SSH_ORIGINAL_COMMAND.
	Command = "kido/1"
	// MaxRequest and MaxReply bound a whole message, in bytes. The reader fails
	// on one byte more, so neither side can be made to read without end.
	MaxRequest = 64 << 10
	MaxReply   = 64 << 10
	// MaxWord bounds a name or a token in a message, in bytes, so that what was
	// taken from a request can always be written to a state file and read again.
	MaxWord = 512
)

// Verb is what a request asks for.
type Verb string

// The verbs. Their spelling is protocol.
const (
	VerbStatus  Verb = "status"  // read, change nothing
	VerbEnsure  Verb = "ensure"  // make fresh: compare-and-set on the basis
	VerbStart   Verb = "start"   // want it up
	VerbStop    Verb = "stop"    // want it down, or hold it for a run
	VerbRestart Verb = "restart" // one new incarnation: compare-and-set on the own token
	VerbReload  Verb = "reload"  // same incarnation, configuration and connections anew
	VerbProbe   Verb = "probe"   // run this host's probes of an instance, its own or another host's
	VerbFence   Verb = "fence"   // let no request pass any more that expects this generation
	VerbTake    Verb = "take"    // a slot of the pool: one more instance may be down
	VerbGive    Verb = "give"    // that slot back
	VerbRelease Verb = "release" // a person's word: end a hold, or free the slots of an instance
)

// Verbs lists all verbs, in the order in which documents name them.
func Verbs() []Verb {
	return []Verb{VerbStatus, VerbEnsure, VerbStart, VerbStop, VerbRestart, VerbReload, VerbProbe, VerbFence, VerbTake, VerbGive, VerbRelease}
}

// Entry says which incarnation of one upstream instance a dependent was
// (re)started against.
type Entry struct {
	Instance string `json:"instance"` // "oracle@db1"
	Token    string `json:"token"`    // compared for equality only
}

// Vector is a basis: entries sorted by instance, each instance once. The nil
// and the empty vector are the same. Vectors are values: no method but Extend
// changes one.
type Vector []Entry

// NewVector sorts entries; of several for one instance the last wins.
func NewVector(entries ...Entry) Vector {
	v := Vector{}
	for _, e := range entries {
		v = v.With(e.Instance, e.Token)
	}
	return v
}

// Get returns the token on record for an upstream instance.
func (v Vector) Get(instance string) (token string, ok bool) {
	i, ok := v.find(instance)
	if !ok {
		return "", false
	}
	return v[i].Token, true
}

// With returns v with one entry set.
func (v Vector) With(instance, token string) Vector {
	i, ok := v.find(instance)
	w := slices.Clone(v)
	if ok {
		w[i].Token = token
		return w
	}
	return slices.Insert(w, i, Entry{instance, token})
}

// Extend adds an entry to a vector that is being read and that nobody else has
// yet; ok is false where it does not belong behind all others. It takes constant
// time, where With copies: so what a hostile message costs grows with its length.
func (v *Vector) Extend(instance, token string) (ok bool) {
	if n := len(*v); n > 0 && (*v)[n-1].Instance >= instance {
		return false
	}
	*v = append(*v, Entry{instance, token})
	return true
}

// Equal reports whether both hold the same entries.
func (v Vector) Equal(w Vector) bool { return slices.Equal(v, w) }

func (v Vector) find(instance string) (int, bool) {
	return slices.BinarySearchFunc(v, instance, func(e Entry, name string) int { return strings.Compare(e.Instance, name) })
}

// Request is one question to a gate.
type Request struct {
	Verb    Verb
	Service string // the service at the gate's host; for VerbProbe the instance to be probed, "oracle@db1", or the service
	Run     string // the run that asks, for the gate's log; may be empty

	// Timeout bounds the init job of a verb that changes something; 0 leaves
	// it to the gate's policy, which also caps it. Whole milliseconds.
	Timeout time.Duration

	// Reaction is how an ENSURE makes the instance fresh.
	Reaction Reaction
	// Expect is the basis that the runner read (VerbEnsure); New is the one to
	// be on record after the verb (all verbs that leave the instance up).
	Expect, New Vector

	// Own is the incarnation to be ended (VerbRestart), "" for "it was not up".
	Own string
	// Generation is the one that the runner read; start, stop, restart and
	// reload are refused as stale where it has moved, so that a late or
	// repeated request undoes nothing. So is an ENSURE, but for 0: nothing was on
	// record. With VerbTake and VerbGive it is that of Member.
	Generation uint64
	// Hold makes a stop part of a run that still owes the start: a later
	// ENSURE starts the instance again instead of leaving it alone.
	Hold bool

	// Down says that the runner saw the instance down, and has no slot for a restart:
	// where it is up by now the ENSURE is stale.
	Down bool

	// Member is the instance of the pool that a slot is for (VerbTake, VerbGive,
	// VerbRelease).
	Member string
	// Most is how many instances of the pool may be down at once (VerbTake).
	Most uint64

	// Held asks for the connections to the upstreams as well (VerbStatus).
	Held bool

	// Lives are upstreams and the ages of their present lives (whole milliseconds),
	// sorted by instance: where there are any, a reload is made only if the host holds a
	// connection to one of them that is older than that.
	Lives []Life

	// Budget is how many reactions the instance may have Within a time (whole
	// milliseconds) before an ENSURE that nobody asked for in person is refused
	// as on hold; 0: no limit.
	Budget uint64
	Within time.Duration
}

// Life is an upstream instance and how old its present life is.
type Life struct {
	Upstream string
	Age      time.Duration
}

// Reaction is how a dependent is made fresh.
type Reaction string

// The reactions that reach a gate.
const (
	ReactRestart Reaction = "restart"
	ReactReload  Reaction = "reload"
)

// Code is the first word of a reply: what came of the request.
type Code string

// The codes. Their spelling is protocol.
const (
	CodeOK      Code = "ok"      // status and probe: answered
	CodeDone    Code = "done"    // it was done now, and is on record
	CodeAlready Code = "already" // nothing to do: it was so already
	CodeStale   Code = "stale"   // someone else was here since you read: read again
	CodeWaived  Code = "waived"  // stopped on purpose: left so, the debt is recorded as waived
	CodeFailed  Code = "failed"  // it was tried and did not work; the intent stays
	CodeBusy    Code = "busy"    // another request or an init job holds the instance, or others the slots: ask again
	CodeOnHold  Code = "on-hold" // its budget of reactions is spent: not now
	CodeUnknown Code = "unknown" // the state file cannot be read: unknown, not empty
	CodeRefused Code = "refused" // the policy does not let this key do this here
	CodeInvalid Code = "invalid" // the request is not well formed, or asks for what the adapter cannot do
	CodeError   Code = "error"   // the gate itself failed; nothing was changed
)

// Codes lists all codes.
func Codes() []Code {
	return []Code{CodeOK, CodeDone, CodeAlready, CodeStale, CodeWaived, CodeFailed, CodeBusy, CodeOnHold, CodeUnknown, CodeRefused, CodeInvalid, CodeError}
}

// State is what init, or the adapter for it, says of an instance.
type State string

// The states. Their spelling is protocol.
const (
	StateUp     State = "up"
	StateDown   State = "down"   // inactive: nobody wants it to run
	StateFailed State = "failed" // it should run, and died or did not start
	StateBusy   State = "busy"   // init has a job for it
	StateBlind  State = "blind"  // cannot be told (a plain target)
)

// States lists all states.
func States() []State { return []State{StateUp, StateDown, StateFailed, StateBusy, StateBlind} }

// Wanted is whether an instance is meant to run.
type Wanted string

// The wanted states. Their spelling is protocol and state file.
const (
	WantedUp   Wanted = "up"
	WantedDown Wanted = "down" // stopped on purpose: cascades leave it so
	WantedHeld Wanted = "held" // stopped by a run that still owes the start
)

// Status is what a gate knows of one instance, read in one go under its lock.
type Status struct {
	Instance string
	State    State
	Token    string // own incarnation, as init tells it; "" unless State is StateUp
	// Life is what the instance itself says of its incarnation, by a probe: it also
	// changes where it was restarted inside its unit. "" where no probe tells;
	// LifeUntold where one is to, and did not.
	Life       string
	Age        time.Duration // of the incarnation; 0 where unknown; whole milliseconds
	Settled    bool          // the token was the same before and after the probes
	Ready      bool          // up, settled, and all probes answered
	Degraded   bool          // ready, but not as it should be: Word says what is wrong
	Word       string        // why not ready, as the probe or the adapter put it
	Generation uint64        // counts the writes of the state file; 0: nothing on record yet
	Wanted     Wanted
	Basis      Vector
	Intent     bool // an unfinished change is on record
	IntentVerb Verb // what it is; "" without an intent
	// OnHold is for how long yet its reactions are on hold, as its budget is
	// spent; 0: they are not. Whole seconds, rounded up.
	OnHold time.Duration
	// Held is what the instance's host has of connections to its upstreams, sorted by
	// upstream; nil where nobody counts them.
	Held []Held
}

// LifeUntold is the Life of an instance that could not be asked for it.
const LifeUntold = "?"

// Incarnation is the token by which others compare: init's, and the instance's own
// word where it has one. "" where it is not known.
func (s *Status) Incarnation() string {
	switch {
	case s.Token == "" || s.Life == LifeUntold:
		return ""
	case s.Life == "":
		return s.Token
	}
	return s.Token + lifeMark + s.Life
}

const lifeMark = "+" // between the two parts of a token

// Unit is the part of an incarnation's token that init tells.
func Unit(token string) string {
	unit, _, _ := strings.Cut(token, lifeMark)
	return unit
}

// Held is how a host's connections to one upstream instance stand.
type Held struct {
	Upstream string
	Open     uint64 // established, as far as this host knows
	Closed   uint64 // closed by the upstream, and held all the same
	// Silent is how long nothing has come on those that are open: the longest times, at
	// most MaxSilent of them, descending. Whole seconds.
	Silent []time.Duration
}

// MaxSilent is how many times of a Held are told.
const MaxSilent = 64

// Stale counts the connections that are older than the upstream's present life, of
// an age: those that it has closed, and those on which nothing has come in all that
// time. A connection that was made in this life has had an answer in it.
func (h Held) Stale(age time.Duration) int {
	n := int(h.Closed)
	for _, silent := range h.Silent {
		if silent > age {
			n++
		}
	}
	return n
}

// Reply is a gate's answer.
type Reply struct {
	Code   Code
	Word   string // why, in one line, for people; "" where the code says it all
	Output string // the end of what the init script wrote, bounded; "" where there was none
	// Status is the instance after the request; nil where the gate could not
	// or would not look.
	Status *Status
	// Slots are those of the pool that are taken (VerbTake, VerbGive).
	Slots []Slot
	// Probes are the answers one by one (VerbProbe).
	Probes []Probed
}

// Probed is what one probe said.
type Probed struct {
	About    string // "postgres 10.0.0.1:5432"
	Ready    bool
	Degraded bool
	Word     string
	Took     time.Duration // whole microseconds
	Life     string
}

// Slot lets one instance of a pool be down: for a request of a run that expects
// a generation of the instance's record. Once the record has moved on no such
// request passes, and who sees the instance ready then may free the slot.
type Slot struct {
	Member     string // "web@web1"
	Run        string
	Generation uint64
}
