// Package rule names the rules of the protocol, one by one, as docs/protocol.md
// explains them. The code that keeps a rule says so where it does, by [Holds].
//
// In ordinary builds every rule holds, and the compiler leaves no trace of the
// question. With the build tag mutations a test can switch one off, to see that
// the simulator and the search both find what it prevents: a rule whose absence
// nothing notices is either not needed or not tested.
package rule

// Rule is one rule of the protocol.
type Rule string

// The rules of a gate.
const (
	OneAtATime      Rule = "one-at-a-time"     // one request at a time holds an instance's lock
	WaitForInit     Rule = "wait-for-init"     // nothing is decided while init, or the process on record, is at work
	IntentFirst     Rule = "intent-first"      // the intent is on record before init is told
	DurableFirst    Rule = "durable-first"     // and on disk, not only written
	CommitMoved     Rule = "commit-moved"      // an intent whose instance is in a new incarnation has happened
	DownIsOwed      Rule = "down-is-owed"      // an intent whose instance is down has not: the start is owed
	CompareAndSet   Rule = "compare-and-set"   // an ENSURE changes only the record that its runner read
	SameIsAlready   Rule = "same-is-already"   // a basis that is the wanted one needs nothing
	UnknownNotEmpty Rule = "unknown-not-empty" // a state file that cannot be believed is unknown, not empty
	JudgeByInstance Rule = "judge-by-instance" // the instance says whether it worked, not init's exit status
	Generation      Rule = "generation"        // an explicit verb changes only the record that its runner read
	OwnIncarnation  Rule = "own-incarnation"   // a restart ends the incarnation that its runner saw, no later one
	OnPurpose       Rule = "on-purpose"        // what was stopped on purpose stays so
	HoldOwesStart   Rule = "hold-owes-start"   // what a run has stopped is owed its start
	HeldStart       Rule = "held-start"        // a start that init has begun serves the request; no other is made
	Slot            Rule = "slot"              // a member of a pool is restarted only with a slot at the pool
	Fence           Rule = "fence"             // that slot is taken from another run only once nothing can pass with it
	Budget          Rule = "budget"            // so many reactions in a time that nobody asked for in person, then a hold
	TokenProbeToken Rule = "token-probe-token" // ready is said only of an incarnation that was the same before and after
	InnerLife       Rule = "inner-life"        // what an instance itself says of its incarnation is part of its token
)

// The rules of a runner.
const (
	SelfFirst     Rule = "self-first"      // the dependent's basis is read before its upstreams
	ReadyFirst    Rule = "ready-first"     // an upstream must be ready
	Barrier       Rule = "barrier"         // and current itself
	Settle        Rule = "settle"          // and not have begun a moment ago
	WholeVector   Rule = "whole-vector"    // one ENSURE carries all upstreams
	LookAgain     Rule = "look-again"      // only what is seen afterwards counts as done
	JournalFirst  Rule = "journal-first"   // what is about to be asked for is on record first
	AtMostSoMany  Rule = "at-most-so-many" // a run has at most max_unavailable of a pool down at once
	AnnounceAgain Rule = "announce-again"  // an announcement goes on until nothing is owed
)

// The rules of a start that is held at boot.
const (
	Grace      Rule = "grace"        // once all answers, a run has a grace to tell of new incarnations
	ToldLetsGo Rule = "told-lets-go" // a changed record ends the wait
)
