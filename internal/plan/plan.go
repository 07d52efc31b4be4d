// Package plan holds the ordering rules and nothing else does: from a site, a
// request and what was observed it makes a Plan, a graph of steps each with its
// reason. It is pure: no I/O, no clock, no goroutine; the same input gives the
// same output, byte for byte.
//
// It answers two kinds of question about a [Topology]. [Topology.Make] says
// which instances a request touches, in which order, and what is left alone and
// why. [Topology.Need], asked by the runner again and again while it executes,
// says for one dependent what its basis must become, whether its upstreams let
// it be touched now, and why.
//
// A Topology is never changed after [New] and may be read by many goroutines.
package plan

import (
	"slices"

	"kido/internal/site"
	"kido/internal/wire"
)

// Verb is what was asked for.
type Verb string

// The verbs. Their spelling is the command line's and the journal's.
const (
	Up       Verb = "up"       // targets and all they need, in order; pay their debts
	Down     Verb = "down"     // targets and all that needs them, in reverse order
	Start    Verb = "start"    // only the targets, in order
	Stop     Verb = "stop"     // only the targets, in reverse order
	Restart  Verb = "restart"  // the targets, then what they made stale downstream
	Reload   Verb = "reload"   // only the targets
	Announce Verb = "announce" // the targets are up: make what is stale downstream fresh
)

// Request is a verb and its targets; no targets mean the whole site.
type Request struct {
	Verb    Verb     `json:"verb"`
	Targets []string `json:"targets,omitempty"` // service, instance (web@web1), group, or @host
}

// Observation is what is known of one instance before the plan is made. Where
// an instance is missing from an Observed nothing is known, and the plan says
// what would be done if need be.
type Observation struct {
	Status *wire.Status
	Err    string // why there is no status: "web2: no route to host"
}

// Observed is what is known, by instance.
type Observed map[site.Instance]Observation

// Action is what a step does to its instance.
type Action string

// The actions. Their spelling is the journal's and -o json's.
const (
	// ActStart wants it up and starts it; where it is up already but stale, it
	// makes it fresh. So a plan need not know the state to be right.
	ActStart   Action = "start"
	ActStop    Action = "stop"    // stop it on purpose
	ActHold    Action = "hold"    // stop it, owing the start (stop-first)
	ActRestart Action = "restart" // one new incarnation, asked for
	ActReload  Action = "reload"  // asked for
	ActEnsure  Action = "ensure"  // make it fresh if it is stale, by its reaction
	ActWait    Action = "wait"    // touch nothing: wait until it is ready
)

// Step is one thing to do to one instance. An instance has at most one step,
// but for a hold, which comes before its ensure. A hold does not count towards
// max_unavailable: all of them must be done before the upstream restarts.
type Step struct {
	ID       int           `json:"id"` // index in Plan.Steps
	Instance site.Instance `json:"-"`
	Name     string        `json:"instance"` // Instance.String()
	Action   Action        `json:"action"`
	Reason   string        `json:"reason"`
	// Likely is false where what was observed says that the step will find
	// nothing to do unless something changes.
	Likely bool   `json:"likely"`
	After  []Edge `json:"after,omitempty"` // sorted by step
}

// Edge says that a step begins only after another has ended well.
type Edge struct {
	Step int  `json:"step"`
	Soft bool `json:"soft,omitempty"` // go on also where that step failed
}

// Note is an instance that the plan leaves alone, and why.
type Note struct {
	Instance string `json:"instance"`
	Reason   string `json:"reason"`
}

// Plan is what a request comes to. Steps are in topological order, ties in the
// order of the site file.
type Plan struct {
	Request Request `json:"request"`
	Steps   []Step  `json:"steps"`
	// AtOnce is max_unavailable of every service that has more restarts and
	// ensures here than may be under way at once. The runner counts: steps of
	// one pool do not wait for one another by edges.
	AtOnce map[string]int `json:"atOnce,omitempty"`
	Alone  []Note         `json:"leftAlone,omitempty"` // in the order of the site file
}

// Debt is one reason why a dependent is stale.
type Debt struct {
	Upstream string // "oracle@db1"
	Had      string // token in the dependent's basis; "" for none on record
	Has      string // token now
	// Why is the sentence: "oracle@db1 has a new incarnation since web@web2 was started".
	Why string
}

// Verdict is what Need says of one dependent now.
type Verdict struct {
	// New is the basis that an ENSURE would leave. Entries of upstreams that
	// are passed over (soft, or not the ready one of any) are carried over;
	// those of instances that are upstreams no more are gone, which is no debt.
	New      wire.Vector
	Reaction wire.Reaction // restart wherever one stale edge asks for it
	Debts    []Debt        // empty: its basis is current; sorted by upstream
	// Lives, where there are any: a reload is needed only where connections are held that
	// are older than these lives of upstreams. Sorted by upstream.
	Lives []wire.Life
	// Own says why the instance needs an ENSURE whatever its basis: it is held,
	// it has failed, or an unfinished change is on record. Mostly empty.
	Own string
	// Blocked says why the instance may not be touched now: an upstream that is
	// not ready, not settled or itself stale; or nothing is known of the
	// instance, which then stands here itself. Empty: go. Sorted by upstream.
	Blocked []Block
	// Passed are the upstreams that it has not followed yet and that it passes
	// over for now: a debt once they are ready. Sorted by upstream.
	Passed []Block
}

// Fresh reports whether there is nothing to do and nothing to wait for.
func (v Verdict) Fresh() bool { return len(v.Debts) == 0 && len(v.Blocked) == 0 && v.Own == "" }

// Behind says which new incarnations of its upstreams it has yet to follow, and which
// of these upstreams it passes over and has not followed, without their tokens.
func (v Verdict) Behind(of []site.Instance) []Debt {
	all := slices.Clone(v.Debts)
	for _, b := range v.Passed {
		if slices.ContainsFunc(of, func(i site.Instance) bool { return i.String() == b.Upstream }) {
			all = append(all, Debt{Upstream: b.Upstream, Why: b.Upstream + ": " + b.Why})
		}
	}
	return all
}

// Block is one upstream that stands in the way.
type Block struct {
	Upstream string
	Why      string // "connected, but the database system is starting up"
	Any      bool   // one of several of which any one would do
}
