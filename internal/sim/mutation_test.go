//go:build mutations

package sim

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kido/internal/rule"
)

var oneRule = flag.String("mutation", "", "switch off only this rule")

// seedsAtMost is how many stories a missing rule may go unnoticed in: of all kinds,
// and then of those in the small world of the search.
const seedsAtMost = 500

// mutations says of every rule in which search it is missed.
var mutations = []struct {
	rule rule.Rule
	in   string
}{
	{rule.OneAtATime, "a pair"},
	{rule.WaitForInit, "a pair"},
	{rule.IntentFirst, "a pair"},
	{rule.DurableFirst, "a power cut"},
	{rule.CommitMoved, "a pair"},
	{rule.DownIsOwed, "a pair with scripts"},
	{rule.CompareAndSet, "an upstream that flaps"},
	{rule.SameIsAlready, "a restart of a script"},
	{rule.UnknownNotEmpty, "a damaged record"},
	{rule.JudgeByInstance, "a pair with scripts"},
	{rule.Generation, "stop, then start"},
	{rule.OwnIncarnation, "a restart asked for"},
	{rule.OnPurpose, "by hand"},
	{rule.HoldOwesStart, "stop first"},
	{rule.HeldStart, "a stop that a boot cuts off"},
	{rule.Slot, "a pool"},
	{rule.Fence, "a pool and one that is late"},
	{rule.Budget, "a budget"},
	{rule.TokenProbeToken, "a slow look"},
	{rule.InnerLife, "a restart inside the unit"},
	{rule.SelfFirst, "an upstream that flaps"},
	{rule.ReadyFirst, "a pair"},
	{rule.Barrier, "a chain"},
	{rule.Settle, "a settle window"},
	{rule.WholeVector, "a diamond"},
	{rule.LookAgain, "a pair"},
	{rule.JournalFirst, "a restart cut off"},
	{rule.AtMostSoMany, "a pool that nobody keeps"},
	{rule.AnnounceAgain, "an announcement"},
	{rule.Grace, "a boot with a prompt hook"},
	{rule.ToldLetsGo, "a boot that is called off"},
}

// TestMutation switches off each rule of the protocol in turn: both the simulator
// and the search must find what it prevents. A rule whose absence one of them does
// not notice is not needed, or not tested.
func TestMutation(t *testing.T) {
	if word, broken := missInSeeds(nil); broken != "" {
		t.Errorf("nothing is switched off, and in %s: %s", word, broken)
	}
	var table strings.Builder
	for _, m := range mutations {
		if *oneRule != "" && *oneRule != string(m.rule) {
			continue
		}
		t.Run(string(m.rule), func(t *testing.T) {
			rule.Without(m.rule, func() {
				begun := time.Now()
				b := searches[slices.IndexFunc(searches, func(b bound) bool { return b.name == m.in })]
				played, broken := missInSeeds(&b)
				if broken == "" {
					t.Errorf("%s is switched off, and %s", m.rule, played)
				}
				f := search(b, 1)
				if f.broken == "" {
					t.Errorf("%s is switched off, and nothing is noticed in %s: %s", m.rule, b.name, f)
				} else {
					t.Logf("without %s, in %s: %s\n%s", m.rule, b.name, f.broken, b.tell(f.path))
				}
				fmt.Fprintf(&table, "%s | %s | %s: %s | %s | %.1fs\n", m.rule, played, b.name, f, f.broken, time.Since(begun).Seconds())
			})
		})
	}
	t.Log("rule | seeds | search | what it prevents | time\n" + table.String())
}

// missInSeeds plays seeds until an invariant is violated: at first of all scenarios,
// then, if b is not nil, of b.
func missInSeeds(b *bound) (word, broken string) {
	for seed := range uint64(seedsAtMost) {
		if w, _ := playSeed(seed, false); w.broken != "" {
			return fmt.Sprintf("%d seeds", seed+1), w.broken
		}
	}
	for seed := uint64(0); b != nil && seed < 10*seedsAtMost; seed++ {
		if broken := b.playSeed(seed); broken != "" {
			return fmt.Sprintf("%d seeds, and %d of the small world", seedsAtMost, seed+1), broken
		}
	}
	return "nothing is noticed in the seeds", ""
}

// playSeed plays a story within a bound, and returns what is violated.
func (b bound) playSeed(seed uint64) string {
	s := &searcher{bound: b}
	p := swarm{rng: rand.New(rand.NewPCG(seed, 0)), often: 200}
	w := s.begin()
	for range 100 {
		m, ok := p.pick(s.choices(w))
		if !ok || w.broken != "" {
			break
		}
		s.do(w, m)
	}
	if w.broken == "" && !b.restless {
		w.peace()
		w.rest()
		s.allUp(w)
	}
	return w.broken
}

// TestEveryRule holds that no rule is left out.
func TestEveryRule(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../rule/rule.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []rule.Rule
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			name, err := strconv.Unquote(s.(*ast.ValueSpec).Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rule.Rule(name))
		}
	}
	for _, r := range all {
		n := 0
		for _, m := range mutations {
			if m.rule == r {
				n++
			}
		}
		if n != 1 {
			t.Errorf("rule %s is %d times in the table of mutations, not once", r, n)
		}
	}
	if len(all) != len(mutations) {
		t.Errorf("%d rules, %d mutations", len(all), len(mutations))
	}
}
