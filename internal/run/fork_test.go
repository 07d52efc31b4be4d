package run

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/plan"
	"kido/internal/site"
	"kido/internal/wire"
)

// TestForkNamesEveryField fails where the state of a run has grown. A field that
// Clone shares lets two branches of a search disturb one another; one that Key
// leaves out lets a search skip what it has not seen.
func TestForkNamesEveryField(t *testing.T) {
	for _, known := range []struct {
		state  reflect.Type
		fields string
	}{
		{reflect.TypeFor[Run](), "id site topo plan opts rng steps reads calls pools chores silent seq nextCall now failures interrupted ended effects"},
		{reflect.TypeFor[step](), "Step svc phase word levels surveying level since self own acted before died slot claim sent away latest lamented attempt changes losses answers pause wake deadline patience owes held told spared"},
		{reflect.TypeFor[pool](), "taken lost failed"},
		{reflect.TypeFor[read](), "asked answered obs code hint final streak out token since"},
		{reflect.TypeFor[call](), "kind step ask slot try"},
		{reflect.TypeFor[question](), "at instance probe"},
		{reflect.TypeFor[held](), "service keeper Slot"},
		{reflect.TypeFor[claim](), "generation asking next granted unsure busy taken refused loose request word"},
		{reflect.TypeFor[chore](), "since out word"},
		{reflect.TypeFor[plan.Observation](), "Status Err"},
		{reflect.TypeFor[wire.Status](), "Instance State Token Life Age Settled Ready Degraded Word Generation Wanted Basis Intent IntentVerb OnHold Held"},
	} {
		for f := range known.state.Fields() {
			if !slices.Contains(strings.Fields(known.fields), f.Name) {
				t.Errorf("%s has a field %s: see to it in Clone and Key (fork.go), then name it here", known.state, f.Name)
			}
		}
	}
}

// walks are sites and requests that bring a run into all its kinds of states.
var walks = map[string]struct {
	text    string
	request plan.Request
	opts    Options
}{
	"one": {`
site: s
hosts: {a: 10.0.0.1, b: 10.0.0.2}
services:
  db: {hosts: [a], systemd: db.service, ready: [{tcp: ":1"}], timeout: {ready: 24h}}
  web: {hosts: [b], systemd: web.service, after: {db: restart}, timeout: {ready: 24h}}
`, plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, Options{KeepTrying: true}},
	"pool": {`
site: s
hosts: {a: 10.0.0.1, b: 10.0.0.2, c: 10.0.0.3}
services:
  db: {hosts: [a], systemd: db.service, ready: [{tcp: ":1", successes: 2}, {tcp: ":2", from: dependent, successes: 2}], timeout: {ready: 24h}}
  web: {hosts: [b, c], systemd: web.service, after: {db: restart}, ready: [{tcp: ":3", successes: 2}], timeout: {ready: 24h}}
`, plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, Options{}},
	"diamond": {`
site: s
hosts: {a: 10.0.0.1}
services:
  root: {hosts: [a], systemd: root.service, ready: [{tcp: ":1"}], timeout: {ready: 24h}}
  left: {hosts: [a], systemd: left.service, after: {root: restart}, ready: [{tcp: ":1"}], timeout: {ready: 24h}}
  right: {hosts: [a], systemd: right.service, after: {root: reload}, ready: [{tcp: ":1"}], timeout: {ready: 24h}}
  foot: {hosts: [a], systemd: foot.service, after: {left: restart, right: {on_restart: restart, strength: wants}}, timeout: {ready: 24h}}
`, plan.Request{Verb: plan.Up}, Options{MaxFailures: 2}},
	"stop first": {`
site: s
hosts: {a: 10.0.0.1, b: 10.0.0.2}
services:
  db: {hosts: [a], systemd: db.service, ready: [{tcp: ":1"}], timeout: {ready: 24h}}
  web: {hosts: [b], systemd: web.service, after: {db: stop-first}, timeout: {ready: 24h}}
`, plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, Options{}},
}

// walker takes a run through a random world.
type walker struct {
	*Run
	rng *rand.Rand
	at  time.Duration
}

func newWalker(t *testing.T, name string, seed uint64) *walker {
	walk := walks[name]
	s, err := site.Parse("site.yaml", []byte(walk.text))
	if err != nil {
		t.Fatal(err)
	}
	topo := plan.New(s)
	targets, err := s.Resolve(walk.request.Targets)
	if err != nil {
		t.Fatal(err)
	}
	p, err := topo.Make(walk.request, targets, nil)
	if err != nil {
		t.Fatal(err)
	}
	walk.opts.Seed = seed // jitter must not matter
	w := &walker{Run: New("r", topo, p, walk.opts), rng: rand.New(rand.NewPCG(seed, 0))}
	w.Step(0, Begin{})
	return w
}

// next is an input, by the rank of its call; the time that passes before it.
func (w *walker) next() (in Input, rank int, after time.Duration) {
	if n := w.rng.IntN(100); n == 0 {
		return Interrupt{}, 0, 0
	} else if n < 3 {
		return Tick{}, 0, 25 * time.Hour // longer than all deadlines
	} else if n < 20 || len(w.calls) == 0 {
		return Tick{}, 0, stride
	}
	rank = w.rng.IntN(len(w.calls))
	numbers := slices.Sorted(maps.Keys(w.calls))
	c := w.calls[numbers[rank]]
	return w.answer(c), rank, 0
}

func one[E any](rng *rand.Rand, of ...E) E { return of[rng.IntN(len(of))] }

func (w *walker) answer(c call) Answered {
	i, codes := c.ask.instance, []wire.Code{wire.CodeOK}
	switch c.kind {
	case callAct:
		i = w.steps[c.step].Instance
		codes = []wire.Code{wire.CodeDone, wire.CodeDone, wire.CodeAlready, wire.CodeStale, wire.CodeBusy, wire.CodeFailed, wire.CodeOnHold}
	case callLook, callFence:
		if i, codes = (site.Instance{Service: c.slot.service, Host: strings.TrimPrefix(c.slot.Member, c.slot.service+"@")}), []wire.Code{wire.CodeOK}; c.step >= 0 {
			i, codes = w.steps[c.step].Instance, []wire.Code{wire.CodeDone, wire.CodeDone, wire.CodeBusy}
		}
	case callTake, callGive:
		codes = []wire.Code{wire.CodeDone, wire.CodeDone, wire.CodeAlready, wire.CodeBusy}
	}
	word := one(w.rng, "this", "that")
	switch w.rng.IntN(30) {
	case 0:
		return Answered{Err: word, Unsent: true}
	case 1:
		return Answered{Err: word}
	case 2:
		return Answered{Reply: wire.Reply{Code: one(w.rng, wire.CodeBusy, wire.CodeUnknown, wire.CodeRefused), Word: word}}
	}
	if code := one(w.rng, codes...); c.kind == callTake || c.kind == callGive {
		r := wire.Reply{Code: code, Word: word}
		if code == wire.CodeBusy {
			r.Slots = []wire.Slot{{Member: c.slot.service + "@" + one(w.rng, w.site.Service(c.slot.service).Hosts...), Run: "other", Generation: uint64(1 + w.rng.IntN(2))}}
		}
		return Answered{Reply: r}
	}
	s := &wire.Status{
		Instance: i.String(), State: wire.StateUp, Token: i.Service + "1", Settled: true, Ready: w.rng.IntN(4) > 0,
		Word: word, Generation: uint64(one(w.rng, 1, 1, 1, 2, 0)), Wanted: wire.WantedUp, Intent: w.rng.IntN(20) == 0,
	}
	switch w.rng.IntN(12) {
	case 0:
		s.State, s.Token, s.Ready = wire.StateFailed, "", false
	case 1:
		s.State, s.Token, s.Ready = wire.StateDown, "", false
	case 2:
		s.Token = i.Service + "2"
	}
	for _, d := range w.site.Service(i.Service).After {
		for _, u := range w.site.Service(d.Upstream).Instances() {
			s.Basis = s.Basis.With(u.String(), u.Service+one(w.rng, "1", "1", "1", "0"))
		}
	}
	return Answered{Reply: wire.Reply{Code: one(w.rng, codes...), Word: word, Status: s}}
}

// numbered gives an answer the number of the call that has this rank.
func (r *Run) numbered(in Input, rank int) Input {
	if a, ok := in.(Answered); ok {
		a.ID = slices.Sorted(maps.Keys(r.calls))[rank]
		return a
	}
	return in
}

// outcome is all that matters of the effects of an input, and what comes then.
func (r *Run) outcome(in Input, rank int, after time.Duration) string {
	c := r.Clone()
	var b strings.Builder
	for _, e := range c.Step(r.now+after, c.numbered(in, rank)) {
		switch e := e.(type) {
		case Call:
			fmt.Fprintf(&b, "%s %+v\n", e.Host, e.Request)
		case Wake:
			fmt.Fprintf(&b, "wake %v\n", e.At > c.now+stride)
		case Publish:
			s := e.Event.Step
			switch {
			case !e.Durable || s != nil && (s.Phase == PhaseRetry || s.Phase == PhaseBlocked):
			case s == nil:
				fmt.Fprintf(&b, "%+v\n", e.Event.End)
			default:
				own := "?"
				if s.Own != nil {
					own = *s.Own
				}
				fmt.Fprintf(&b, "%d %s %s %s %v %v %s %s %v\n", s.ID, s.Phase, s.Verb, s.Reaction, s.Acted, s.New, s.Code, own, s.Slot)
			}
		}
	}
	fmt.Fprintf(&b, "%x", c.Key(nil))
	return b.String()
}

// TestKey takes runs through random worlds: those that meet in one key go on
// alike, whatever their history.
func TestKey(t *testing.T) {
	for name := range walks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			met := map[string]*Run{}
			states, meetings := 0, 0
			for seed := range uint64(400) {
				w := newWalker(t, name, seed)
				for n := 0; n < 60 && !w.ended; n++ {
					in, rank, after := w.next()
					key := string(w.Key(nil))
					states++
					if other := met[key]; other == nil {
						met[key] = w.Clone()
					} else if a, b := w.outcome(in, rank, after), other.outcome(in, rank, after); a != b {
						t.Fatalf("seed %d: after %d inputs, two runs have one key, and go on with\n%s\nand\n%s", seed, n, a, b)
					} else {
						meetings++
					}
					w.at += after
					w.Step(w.at, w.numbered(in, rank))
				}
			}
			t.Logf("%d states, %d keys, %d meetings", states, len(met), meetings)
			if meetings < states/10 {
				t.Errorf("of %d states only %d had a key that was there already: it says too much", states, meetings)
			}
		})
	}
}

// TestClone lets clones go astray beside their original, which leaves no trace in
// it: it answers as one that was never cloned, and so does a clone that is given
// the same.
func TestClone(t *testing.T) {
	for name := range walks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(50) {
				w, alone := newWalker(t, name, seed), newWalker(t, name, seed)
				for n := 0; n < 40 && !w.ended; n++ {
					in, rank, after := w.next()
					w.at += after
					in = w.numbered(in, rank)
					alike := w.Clone()
					astray := &walker{Run: w.Clone(), rng: rand.New(rand.NewPCG(seed, uint64(n))), at: w.at}
					for range 5 {
						in, rank, after := astray.next()
						astray.at += after
						astray.Step(astray.at, astray.numbered(in, rank))
					}
					want := alone.Step(w.at, in)
					for who, r := range map[string]*Run{"a run that was cloned": w.Run, "its clone": alike} {
						if got := r.Step(w.at, in); !reflect.DeepEqual(got, want) {
							t.Fatalf("seed %d: after %d inputs, %s answers %+v with\n%+v\nand one that never was with\n%+v", seed, n, who, in, got, want)
						}
					}
				}
			}
		})
	}
}
