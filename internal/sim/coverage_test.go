package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"kido/internal/gate"
	"kido/internal/run"
	"kido/internal/wire"
)

// happening is something that stories are to be about: a fault that never strikes,
// or a reply that no gate gives, proves nothing.
type happening struct{ what, which string }

// tally counts what happens in stories.
type tally map[happening]int

func (w *world) count(what, which string) {
	if w.seen != nil {
		w.seen[happening{what, which}]++
	}
}

// The kinds of happenings beside the moves, and the replies, which go by their verb.
const (
	aMove    = "move"
	aVerdict = "waiter"
	aPhase   = "step"
	anEnd    = "run"
	oneMore  = "besides"
)

// Some happenings that no move and no reply tells of.
const (
	lostInCut    = "a power cut has lost what was written"
	nothingOnIt  = "an ENSURE of what nothing is on record of"
	reachOnly    = "most keepers of a pool cannot be asked"
	heldIsLetGo  = "a gate lets a held start go"
	resumedDebt  = "a gate completes what an earlier one began"
	fencedMember = "the fence of somebody else's slot"
)

func (w *world) countMove(m move) {
	if w.seen == nil {
		return
	}
	name := words[m.kind]
	switch m.kind {
	case saveDies, saveFails, runnerDoomed: // each of its ways
		name = strings.Replace(name, "{what}", m.what, 1)
	case powerCut:
		if m.n > 0 {
			w.count(oneMore, lostInCut)
		}
	}
	w.count(aMove, name)
}

// must lists what has to happen.
func must() (all []happening) {
	for k := range kinds {
		ways := map[kind][]string{saveDies: saveDeaths[:], saveFails: saveFailures[:], runnerDoomed: deaths[beforeJournal:]}[k]
		if ways == nil {
			ways = []string{"{what}"}
		}
		for _, way := range ways {
			all = append(all, happening{aMove, strings.Replace(words[k], "{what}", way, 1)})
		}
	}
	for verb, codes := range replyCodes {
		for _, c := range codes {
			all = append(all, happening{string(verb), string(c)})
		}
	}
	for _, word := range verdicts {
		all = append(all, happening{aVerdict, word})
	}
	for _, p := range []run.Phase{
		run.PhaseSlot, run.PhaseLooking, run.PhaseBlocked, run.PhaseActing, run.PhaseSettling, run.PhaseRetry, run.PhaseOnHold,
		run.PhaseDone, run.PhaseAlready, run.PhaseWaived, run.PhaseFailed, run.PhaseRefused, run.PhaseSkipped, run.PhaseLeft,
	} {
		all = append(all, happening{aPhase, string(p)})
	}
	for _, o := range []run.Outcome{run.OutcomeDone, run.OutcomeFailed, run.OutcomeIncomplete, run.OutcomeRefused, run.OutcomeInterrupted} {
		all = append(all, happening{anEnd, string(o)})
	}
	for _, word := range []string{lostInCut, nothingOnIt, reachOnly, heldIsLetGo, resumedDebt, fencedMember} {
		all = append(all, happening{oneMore, word})
	}
	return all
}

// replyCodes are the replies that a gate gives to each verb. Not among them:
// invalid, which is for a request that no runner sends; and busy to one that an
// operator typed, for which a gate must wait too long at the right moment. Refused
// comes before the verb is looked at, and is counted once.
var replyCodes = map[wire.Verb][]wire.Code{
	wire.VerbStatus:  {wire.CodeOK, wire.CodeUnknown, wire.CodeBusy},
	wire.VerbEnsure:  {wire.CodeDone, wire.CodeAlready, wire.CodeStale, wire.CodeWaived, wire.CodeFailed, wire.CodeBusy, wire.CodeOnHold, wire.CodeUnknown, wire.CodeError},
	wire.VerbStart:   {wire.CodeDone, wire.CodeAlready, wire.CodeStale, wire.CodeFailed, wire.CodeError},
	wire.VerbStop:    {wire.CodeDone, wire.CodeAlready, wire.CodeStale, wire.CodeFailed, wire.CodeError},
	wire.VerbRestart: {wire.CodeDone, wire.CodeAlready, wire.CodeStale, wire.CodeFailed, wire.CodeError},
	wire.VerbReload:  {wire.CodeDone, wire.CodeStale, wire.CodeFailed},
	wire.VerbFence:   {wire.CodeDone, wire.CodeAlready},
	wire.VerbRelease: {wire.CodeDone, wire.CodeAlready, wire.CodeUnknown},
	wire.VerbTake:    {wire.CodeDone, wire.CodeAlready, wire.CodeBusy},
	wire.VerbGive:    {wire.CodeDone, wire.CodeAlready},
	wire.VerbProbe:   {wire.CodeOK},
	anyVerb:          {wire.CodeRefused},
}

// anyVerb stands for all of them.
const anyVerb wire.Verb = "any verb"

// verdicts are how the words begin in which a waiter says why it lets go.
var verdicts = []string{
	"it runs already", "init is not about to start it", "kido itself starts it", "it was stopped on purpose",
	"a run of kido found all that it needs ready", "all that it needs answers", "not started", "started all the same",
}

func (w *world) countVerdict(v gate.Verdict) {
	word, _, _ := strings.Cut(v.Word, ",")
	w.count(aVerdict, word)
}

// add adds up tallies.
func (t tally) add(other tally) {
	for h, n := range other {
		t[h] += n
	}
}

// least is how often everything must happen in ten thousand stories.
const least = 10

// check holds that everything happens often enough in so many stories.
func (t tally) check(test *testing.T, stories int) {
	test.Helper()
	var rare []string
	for _, h := range must() {
		if n := t[h]; n < least*stories/10_000 {
			rare = append(rare, fmt.Sprintf("%s: %s: %d times", h.what, h.which, n))
		}
	}
	if len(rare) > 0 {
		slices.Sort(rare)
		test.Errorf("too rare in %d stories:\n  %s\nof all this:\n%s", stories, strings.Join(rare, "\n  "), t)
	}
}

// String is a table, the rare first.
func (t tally) String() string {
	all := slices.SortedFunc(maps.Keys(t), func(a, b happening) int {
		return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(t[a], t[b]), cmp.Compare(a.which, b.which))
	})
	var b strings.Builder
	for _, h := range all {
		fmt.Fprintf(&b, "%9d  %s: %s\n", t[h], h.what, h.which)
	}
	return b.String()
}
