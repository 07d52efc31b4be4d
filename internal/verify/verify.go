// Package verify judges by a history whether the protocol kept its promises. It
// shares no code with what it judges: it knows no gate, no runner and no plan, but
// only what services wrote down of their own lives, what runs wrote down of their
// requests, and what was on record in the end.
//
// A history is a list of facts in the order in which they are believed to have
// happened; [Merge] says how far the order of several writers can be believed.
// [Check] returns what contradicts an invariant, each with the facts that do.
// What a history does not tell is not held against anybody: a checker of half the
// facts finds less, and accuses nobody wrongly.
package verify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kido/internal/wire"
)

// Site is what a history is held against, as plain data.
type Site struct {
	Edges []Edge
	// Pools are the services, each with its max_unavailable. Of others nothing is
	// counted.
	Pools map[string]int
}

// Edge is a dependency of one instance on another to whose restarts it reacts.
type Edge struct {
	Dependent, Upstream string
	// Hard says that the dependent must not be started without it: not one that is
	// only wanted, nor one of several of which any will do.
	Hard bool
}

// Options say how much is promised and what is to be believed.
type Options struct {
	// EachRun counts max_unavailable in each run by itself, not over all of them: as
	// far as the slots go where most of their keepers cannot be asked.
	EachRun bool
	// Skew is how far two runners' times of one moment may differ at most: by their
	// clocks, and by how late they hear of it. Instances that were down together for
	// less than that may have been down one after the other.
	Skew time.Duration
}

// Invariant is what was promised.
type Invariant string

// The invariants.
const (
	Order        Invariant = "I1 order"        // nothing is started against what was not ready
	Economy      Invariant = "I2 economy"      // one restart by kido for one basis
	NoLoss       Invariant = "I3 no loss"      // in the end nothing is owed
	Barrier      Invariant = "I4 barrier"      // an upstream is itself current first
	Availability Invariant = "I5 availability" // at most max_unavailable are down by kido's hand
	OnPurpose    Invariant = "on purpose"      // what was stopped on purpose stays so
	// Sound is what any history must be: it is the writer, or two of one instance
	// at once, that contradicts it.
	Sound Invariant = "sound"
)

// Violation is a contradiction between an invariant and a history.
type Violation struct {
	Invariant Invariant
	Instance  string
	Sentence  string // what is wrong
	Facts     []Fact // that contradict each other, in their order
}

// String is the sentence, and a line for each fact with its place and time.
func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", v.Invariant, v.Sentence)
	for _, f := range v.Facts {
		fmt.Fprintf(&b, "\n  %s", f.Evidence())
	}
	return b.String()
}

// Evidence is a fact in words, after its place and time.
func (f Fact) Evidence() string {
	return fmt.Sprintf("%s  %s  %s", f.Where(), f.At.UTC().Format("2006-01-02T15:04:05.000Z"), f.tell())
}

// Check returns what in a history contradicts an invariant, in the order of the
// first fact of each.
func Check(s Site, facts []Fact, o Options) []Violation {
	c := &checker{
		site: s, options: o, facts: facts, upstreams: map[string][]Edge{}, about: map[string][]int{},
		lives: map[string][]*life{}, asks: map[string][]*ask{}, witnessed: map[string]bool{},
	}
	for _, e := range s.Edges {
		c.upstreams[e.Dependent] = append(c.upstreams[e.Dependent], e)
	}
	for n, f := range facts {
		c.about[f.Instance] = append(c.about[f.Instance], n)
		switch f.What {
		case Began, Ready, Reloaded, Ended:
			c.witnessed[f.Instance] = true
		}
	}
	c.read()
	c.order()
	c.economy()
	c.purpose()
	c.barrier()
	c.loss()
	c.debts()
	c.availability()
	c.slots()
	slices.SortStableFunc(c.found, func(v, w violation) int { return cmp.Compare(v.at, w.at) })
	all := make([]Violation, len(c.found))
	for n, v := range c.found {
		all[n] = v.Violation
	}
	return all
}

type violation struct {
	Violation
	at int
}

// checker is a history in the form in which the invariants ask for it. Places in
// the history are indices of its facts, never is none.
type checker struct {
	site      Site
	options   Options
	facts     []Fact
	upstreams map[string][]Edge // by dependent
	about     map[string][]int  // the facts of each instance
	witnessed map[string]bool   // instances that speak for themselves
	lives     map[string][]*life
	asks      map[string][]*ask
	found     []violation
}

const never = -1

// life is an incarnation of an instance: as it says itself, or where it says
// nothing, as a gate has said that it began one.
type life struct {
	instance, token     string
	by                  Hand
	boot                string
	began, ready, ended int
	looks               []int // facts that say what it saw: its beginning and its reloads
	before              *life
	told                *ask // the request whose reply names it
}

// ask is a request of a run.
type ask struct {
	Fact
	at       int
	answered int
	// closed is from where on it cannot be at work any more. One that was not
	// answered, or failed, may be, as its intent is carried out by a later one.
	closed int
}

// open reports whether a request may be what was at work at a place.
func (a *ask) open(at int) bool { return a.at < at && (a.closed == never || a.closed > at) }

// starts reports whether a request may begin a life.
func (a *ask) starts() bool {
	return a.Verb == wire.VerbEnsure || a.Verb == wire.VerbStart || a.Verb == wire.VerbRestart
}

// violated puts a violation on the list; places that are never are left out.
func (c *checker) violated(i Invariant, instance string, places []int, format string, args ...any) {
	places = slices.DeleteFunc(slices.Clone(places), func(n int) bool { return n == never })
	slices.Sort(places)
	v := violation{Violation{Invariant: i, Instance: instance, Sentence: fmt.Sprintf(format, args...)}, places[0]}
	for _, n := range slices.Compact(places) {
		v.Facts = append(v.Facts, c.facts[n])
	}
	c.found = append(c.found, v)
}

// life finds a life by its token; nil where the history has none such.
func (c *checker) life(instance, token string) *life {
	for _, l := range slices.Backward(c.lives[instance]) {
		if l.token == token {
			return l
		}
	}
	return nil
}

// at is the life of an instance at a place, also one that has ended by then.
func (c *checker) at(instance string, place int) *life {
	for _, l := range slices.Backward(c.lives[instance]) {
		if l.began < place {
			return l
		}
	}
	return nil
}

// running is the life of an instance at a place; nil where it was down.
func (c *checker) running(instance string, place int) *life {
	if l := c.at(instance, place); l != nil && (l.ended == never || l.ended > place) {
		return l
	}
	return nil
}

// last is the last of an instance's requests before a place of which so is true.
func (c *checker) last(instance string, place int, so func(*ask) bool) *ask {
	for _, a := range slices.Backward(c.asks[instance]) {
		if a.at < place && so(a) {
			return a
		}
	}
	return nil
}

// names lists the keys of a map, sorted.
func names[T any](of map[string]T) []string { return slices.Sorted(maps.Keys(of)) }

// read takes the facts one by one, and tells where they cannot all be true.
func (c *checker) read() {
	for n, f := range c.facts {
		c.mentions(n, f)
		switch f.What {
		case Began:
			c.began(n, f)
		case Ready, Reloaded, Ended:
			c.lived(n, f)
		case Asked:
			c.asks[f.Instance] = append(c.asks[f.Instance], &ask{Fact: f, at: n, answered: never, closed: never})
		case Answered:
			c.told(n, f)
		case Seen, Found:
			for _, a := range c.asks[f.Instance] {
				if a.Run == f.Run && a.closed == never {
					a.closed = n
				}
			}
			if l := c.life(f.Instance, f.Token); l != nil && l.ready == never && !c.witnessed[f.Instance] {
				l.ready = n
			}
		}
	}
}

// mentions holds a fact against the lives that it speaks of: nobody can have seen
// one before it began.
func (c *checker) mentions(n int, f Fact) {
	spoken := slices.Concat(f.Saw, f.New, f.Basis)
	if f.What == Asked || f.What == Seen || f.What == Found {
		spoken = append(spoken, wire.Entry{Instance: f.Instance, Token: f.Token})
	}
	told := wire.Vector{} // each once
	for _, e := range spoken {
		if e.Token == "" || e.Token == None || !c.witnessed[e.Instance] || c.life(e.Instance, e.Token) != nil {
			continue
		}
		if _, again := told.Get(e.Instance); !again {
			told = told.With(e.Instance, e.Token)
			c.violated(Sound, f.Instance, []int{n}, "there is talk of life %s of %s, which had not begun", e.Token, e.Instance)
		}
	}
}

func (c *checker) began(n int, f Fact) {
	before := c.at(f.Instance, n)
	switch same := c.life(f.Instance, f.Token); {
	case f.Token == "":
		c.violated(Sound, f.Instance, []int{n}, "a life of %s has no token", f.Instance)
	case same != nil:
		c.violated(Sound, f.Instance, []int{same.began, n}, "life %s of %s began twice", f.Token, f.Instance)
		return
	case before != nil && before.ended == never && before.boot == f.Boot:
		c.violated(Sound, f.Instance, []int{before.began, n}, "life %s of %s began, and life %s had not ended", f.Token, f.Instance, before.token)
	}
	c.lives[f.Instance] = append(c.lives[f.Instance], &life{
		instance: f.Instance, token: f.Token, by: f.By, boot: f.Boot,
		began: n, ready: never, ended: never, looks: []int{n}, before: before,
	})
}

func (c *checker) lived(n int, f Fact) {
	l := c.life(f.Instance, f.Token)
	word := map[What]string{Ready: "was ready", Reloaded: "was reloaded", Ended: "ended"}[f.What]
	switch {
	case l == nil:
		c.violated(Sound, f.Instance, []int{n}, "life %s of %s %s and never began", f.Token, f.Instance, word)
		return
	case l.ended != never:
		c.violated(Sound, f.Instance, []int{l.ended, n}, "life %s of %s %s after its end", f.Token, f.Instance, word)
		return
	case l != c.at(f.Instance, n):
		c.violated(Sound, f.Instance, []int{c.at(f.Instance, n).began, n}, "life %s of %s %s when the next one had begun", f.Token, f.Instance, word)
	}
	switch {
	case f.What == Reloaded:
		l.looks = append(l.looks, n)
	case f.What == Ended:
		l.ended = n
	case l.ready != never:
		c.violated(Sound, f.Instance, []int{l.ready, n}, "life %s of %s became ready twice", f.Token, f.Instance)
	default:
		l.ready = n
	}
}

func (c *checker) told(n int, f Fact) {
	a := c.last(f.Instance, n, func(a *ask) bool { return a.Run == f.Run && a.answered == never })
	if a == nil {
		if f.Code != wire.CodeDone {
			return // it may be about a slot, or a hold
		}
		c.violated(Sound, f.Instance, []int{n}, "run %s has a reply about %s, and had not asked", f.Run, f.Instance)
		return
	}
	a.answered = n
	if f.Code != wire.CodeDone {
		return
	}
	a.closed = n
	if f.Token == "" || !a.starts() {
		return
	}
	l := c.life(f.Instance, f.Token)
	switch {
	case l == nil && c.witnessed[f.Instance]:
		c.violated(Sound, f.Instance, []int{a.at, n}, "the gate says done of life %s of %s, which never began", f.Token, f.Instance)
	case l == nil && f.Token != a.Token:
		c.lives[f.Instance] = append(c.lives[f.Instance], &life{
			instance: f.Instance, token: f.Token, by: ByKido,
			began: n, ready: never, ended: never, before: c.life(f.Instance, a.Token), told: a,
		})
	case l != nil && l.told == nil && l.began > a.at:
		l.told = a
	}
}
