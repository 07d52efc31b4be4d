package run_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/wire"
)

// header is the hosts of all sites here.
const header = `
site: shop
hosts: {h1: 192.0.2.1, h2: 192.0.2.2, h3: 192.0.2.3, h4: 192.0.2.4}
services:
`

func service(name, hosts, more string) string {
	return fmt.Sprintf("  %s: {hosts: [%s], sysv: %s, timeout: {ready: 30s}, retry: {attempts: 6}%s}\n", name, hosts, name, more)
}

var (
	pair    = header + service("db", "h1", "") + service("web", "h2, h3, h4", ", after: {db: restart}, max_unavailable: 2, max_failures: 3")
	diamond = header + service("a", "h1", "") + service("b", "h2", ", after: {a: restart}") +
		service("c", "h3", ", after: {a: restart}") + service("d", "h4", ", after: {b: restart, c: restart}")
	chain = header + service("a", "h1", "") + service("b", "h2, h3", ", after: {a: restart}, max_unavailable: 2") +
		service("c", "h2, h3", ", after: {b: {on_restart: restart, when: same-host}}")
	stopFirst = header + service("db", "h1", "") + service("web", "h2, h3", ", after: {db: stop-first}")
)

func instance(name string) site.Instance {
	service, host, _ := strings.Cut(name, "@")
	return site.Instance{Service: service, Host: host}
}

func (r *runner) phases() map[string]run.Phase {
	all := map[string]run.Phase{}
	for _, e := range r.journal {
		if e.Step != nil {
			all[e.Step.Instance] = e.Step.Phase
		}
	}
	return all
}

func TestRestartReachesTheDependentsOnce(t *testing.T) {
	for name, text := range map[string]string{"pair": pair, "stop first": stopFirst} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, text)
			r := w.runner("run", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
			if o := r.finish(); o != run.OutcomeDone {
				w.fail("outcome %s", o)
			}
			w.fresh()
			w.once()
			for _, i := range w.topo.Instances() {
				if w.nodes[i].life != 2 {
					w.fail("%s is in life %d, want 2", i, w.nodes[i].life)
				}
			}
		})
	}
}

func TestDiamondRestartsItsFootOnce(t *testing.T) {
	for seed := range uint64(50) {
		w := newWorld(t, seed, diamond)
		w.restartByHand(instance("a@h1"))
		w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"a"}}, run.Options{}).finish()
		w.fresh()
		if life := w.nodes[instance("d@h4")].life; life != 2 {
			w.fail("the foot is in life %d, want 2", life)
		}
	}
}

func TestNothingToDo(t *testing.T) {
	w := newWorld(t, 1, pair)
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	for name, phase := range r.phases() {
		if phase != run.PhaseAlready {
			w.fail("%s ended %s, want already", name, phase)
		}
	}
	for i, n := range w.nodes {
		if n.life != 1 {
			w.fail("%s was restarted for nothing", i)
		}
	}
}

// What is ready, but not as it should be, holds up nobody; it is said of what the run
// itself saw of it.
func TestDegraded(t *testing.T) {
	w := newWorld(t, 1, pair)
	w.nodes[instance("db@h1")].poorly = "read-only"
	r := w.runner("run", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	for _, e := range r.journal {
		if s := e.Step; s != nil && s.Phase.Final() && (s.Degraded == "read-only") != (s.Instance == "db@h1") {
			w.fail("%s ended %s, degraded: %q", s.Instance, s.Phase, s.Degraded)
		}
	}
}

// A host that is away keeps its debt, holds up nobody else, and pays when it is
// back.
func TestHostThatIsAway(t *testing.T) {
	w := newWorld(t, 1, pair)
	w.restartByHand(instance("db@h1"))
	w.nodes[instance("web@h3")].cut = true
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
	if o := r.finish(); o != run.OutcomeIncomplete {
		w.fail("outcome %s, want incomplete", o)
	}
	if p := r.phases(); p["web@h2"] != run.PhaseDone || p["web@h4"] != run.PhaseDone || p["web@h3"] != run.PhaseFailed {
		w.fail("phases %v", p)
	}
	w.nodes[instance("web@h3")].cut = false
	if o := w.runner("again", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{}).finish(); o != run.OutcomeDone {
		w.fail("outcome %s, want done", o)
	}
	w.fresh()
	w.once()
}

// A host that is away is tried for as long as it takes, and so often that it
// hears of what is new while the start of its services is yet held.
func TestKeepTrying(t *testing.T) {
	w := newWorld(t, 1, pair)
	w.restartByHand(instance("db@h1"))
	w.nodes[instance("web@h3")].cut = true
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{KeepTrying: true})
	knock := w.topo.Site().Service("web").Wait.Grace / 3
	for r.now < time.Hour {
		if pause := r.wake - r.now; len(r.pending) == 0 && pause > knock {
			w.fail("at %s it waits %s", r.now, pause)
		}
		if r.turn(faults{}) {
			w.fail("it gave up after %s", r.now)
		}
	}
	if n := len(r.journal); n > 40 {
		w.fail("after an hour of tries there are %d records", n)
	}
	w.nodes[instance("web@h3")].cut = false
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.once()
}

func TestStoppedOnPurposeStaysSo(t *testing.T) {
	w := newWorld(t, 1, pair)
	if o := w.runner("stop", plan.Request{Verb: plan.Stop, Targets: []string{"web@h2"}}, run.Options{}).finish(); o != run.OutcomeDone {
		w.fail("stop: %s", o)
	}
	r := w.runner("run", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	if n := w.nodes[instance("web@h2")]; n.state != wire.StateDown {
		w.fail("it is %s", n.state)
	}
	if p := r.phases()["web@h2"]; p != run.PhaseWaived {
		w.fail("its phase is %s, want waived", p)
	}
	if o := w.runner("start", plan.Request{Verb: plan.Up, Targets: []string{"web"}}, run.Options{}).finish(); o != run.OutcomeDone {
		w.fail("up: %s", o)
	}
	w.fresh()
	if n := w.nodes[instance("web@h2")]; n.life != 2 {
		w.fail("it is in life %d, want 2: its debt was waived", n.life)
	}
}

func TestUpAndDown(t *testing.T) {
	w := newWorld(t, 1, chain)
	if o := w.runner("down", plan.Request{Verb: plan.Down}, run.Options{}).finish(); o != run.OutcomeDone {
		w.fail("down: %s", o)
	}
	for i, n := range w.nodes {
		if n.state != wire.StateDown {
			w.fail("%s is %s", i, n.state)
		}
	}
	if o := w.runner("up", plan.Request{Verb: plan.Up}, run.Options{}).finish(); o != run.OutcomeDone {
		w.fail("up: %s", o)
	}
	w.fresh()
	for i, n := range w.nodes {
		if n.life != 2 {
			w.fail("%s was started %d times", i, n.life-1)
		}
	}
}

// A host that is off when the whole site goes down keeps nothing else up; what
// depends on it there is said to have failed.
func TestDownWithAHostAway(t *testing.T) {
	w := newWorld(t, 1, pair)
	w.nodes[instance("web@h3")].cut = true
	r := w.runner("run", plan.Request{Verb: plan.Down}, run.Options{})
	if o := r.finish(); o != run.OutcomeFailed {
		w.fail("outcome %s, want failed", o)
	}
	for i, n := range w.nodes {
		if up := n.state == wire.StateUp; up != n.cut {
			w.fail("%s up: %v", i, up)
		}
	}
}

func TestFailureHoldsItsSlotAndStopsThePool(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", "")+service("web", "h2, h3, h4", ", after: {db: restart}"))
	w.restartByHand(instance("db@h1"))
	for _, i := range w.topo.Instances()[1:] {
		w.nodes[i].broken = 100
	}
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
	if o := r.finish(); o != run.OutcomeIncomplete {
		w.fail("outcome %s", o)
	}
	count := map[run.Phase]int{}
	for _, p := range r.phases() {
		count[p]++
	}
	if count[run.PhaseFailed] != 1 || count[run.PhaseSkipped] != 2 {
		w.fail("phases %v: want one web failed and two left as they are", count)
	}
}

func TestInterrupt(t *testing.T) {
	w := newWorld(t, 1, pair)
	r := w.runner("run", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
	for !slices.ContainsFunc(r.journal, func(e run.Event) bool { return e.Step != nil && e.Step.Phase == run.PhaseActing }) {
		r.turn(faults{})
	}
	r.step(run.Interrupt{})
	if _, ended := r.run.Outcome(); ended {
		w.fail("it ended while a request was out")
	}
	if o := r.finish(); o != run.OutcomeInterrupted {
		w.fail("outcome %s", o)
	}
	if w.nodes[instance("db@h1")].life != 2 || w.nodes[instance("web@h2")].life != 1 {
		w.fail("it did not stop at the safe point")
	}
	again := run.New("run", w.topo, r.plan, run.Options{})
	if err := again.Replay(r.journal); err != nil {
		w.fail("replay: %v", err)
	}
	r.run, r.pending = again, nil
	r.step(run.Begin{})
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("resumed: %s", o)
	}
	w.fresh()
	w.once()
	if life := w.nodes[instance("db@h1")].life; life != 2 {
		w.fail("db is in life %d: the resumed run restarted it again", life)
	}
}

// Two runners at once, on the same event: one restart each.
func TestTwoRunners(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(t, seed, diamond)
		w.restartByHand(instance("a@h1"))
		q := plan.Request{Verb: plan.Announce, Targets: []string{"a"}}
		r1, r2 := w.runner("one", q, run.Options{Seed: seed}), w.runner("two", q, run.Options{Seed: seed + 1})
		for range 400 {
			r := r1
			if w.percent(50) {
				r = r2
			}
			r.turn(faults{})
		}
		for _, r := range []*runner{r1, r2} {
			if o := r.finish(); o != run.OutcomeDone {
				w.fail("outcome %s", o)
			}
		}
		w.fresh()
		w.once()
		for _, i := range w.topo.Instances() {
			if life := w.nodes[i].life; life != 2 {
				w.fail("%s is in life %d, want 2", i, life)
			}
		}
	}
}

// Whatever goes wrong on the way: once it stops, all is fresh (I3), nothing was
// restarted twice for the same reason (I2), and never too many of a pool at
// once (I5).
func TestFaults(t *testing.T) {
	sites := map[string]struct{ text, verb, target string }{
		"pair announce":    {pair, "announce", "db"},
		"pair restart":     {pair, "restart", "db"},
		"diamond announce": {diamond, "announce", "a"},
		"diamond restart":  {diamond, "restart", "a"},
		"chain restart":    {chain, "restart", "a"},
		"stop first":       {stopFirst, "restart", "db"},
	}
	for name, c := range sites {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(120) {
				w := newWorld(t, seed, c.text)
				first := w.topo.Instances()[0]
				if c.verb == "announce" {
					w.restartByHand(first)
				}
				q := plan.Request{Verb: plan.Verb(c.verb), Targets: []string{c.target}}
				r := w.runner("run", q, run.Options{KeepTrying: true, Seed: seed})
				f := faults{lost: 10, replyLost: 10, gateDies: 15, runnerDies: 2}
				for n := 0; n < 150; n++ {
					if w.percent(2) && c.text != stopFirst {
						w.nodes[w.topo.Instances()[w.rng.IntN(len(w.nodes))]].broken = 1
					}
					if r.turn(f) {
						break
					}
				}
				if o := r.finish(); o != run.OutcomeDone {
					w.fail("seed %d: outcome %s", seed, o)
				}
				w.fresh()
				w.once()
				if life := w.nodes[first].life; life != 2 && c.verb == "announce" {
					w.fail("seed %d: %s is in life %d, want 2", seed, first, life)
				}
				for svc, most := range r.most {
					if limit := w.topo.Site().Service(svc).MaxUnavailable; most > limit {
						w.fail("seed %d: I5: %d of %s at once, at most %d", seed, most, svc, limit)
					}
				}
			}
		})
	}
}

// The upstream restarts again and again while two runners are at it, and old
// requests arrive late: a basis never says more than is so (I1), nothing is
// restarted twice against the same upstreams (I2), and one more announcement
// finds the rest (I3).
func TestUpstreamRestartsMeanwhile(t *testing.T) {
	for _, text := range []string{pair, diamond, chain} {
		for seed := range uint64(150) {
			w := newWorld(t, seed, text)
			first := w.topo.Instances()[0]
			w.restartByHand(first)
			q := plan.Request{Verb: plan.Announce, Targets: []string{first.Service}}
			both := []*runner{w.runner("one", q, run.Options{Seed: seed}), w.runner("two", q, run.Options{Seed: seed + 1})}
			var late []run.Call
			for n := range 120 {
				r := both[w.rng.IntN(2)]
				if n < 80 && w.percent(3) {
					w.restartByHand(first)
				}
				for _, c := range r.pending {
					if c.Request.Verb == wire.VerbEnsure && w.percent(20) {
						late = append(late, c)
					}
				}
				if len(late) > 0 && w.percent(10) {
					c := late[0]
					late = late[1:]
					w.say("a request from before arrives")
					_, _ = w.serve(site.Instance{Service: c.Request.Service, Host: c.Host}, c.Request, -1)
				}
				r.turn(faults{lost: 3, replyLost: 3, gateDies: 3})
				w.honest()
			}
			for _, r := range both {
				r.finish()
			}
			w.runner("last", q, run.Options{KeepTrying: true}).finish()
			w.fresh()
			w.once()
		}
	}
}

func TestReplayRefusesAnotherPlan(t *testing.T) {
	w := newWorld(t, 1, pair)
	r := w.runner("run", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
	err := r.run.Replay([]run.Event{{Step: &run.StepEvent{ID: 99, Instance: "db@h1"}}})
	if err == nil {
		t.Error("it took a step that the plan does not have")
	}
}

func TestEventRoundTrip(t *testing.T) {
	own := ""
	e := run.Event{Time: time.Unix(1, 0).UTC(), Run: "r", Step: &run.StepEvent{ID: 1, Instance: "web@h1", Phase: run.PhaseActing, Own: &own}}
	rec, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := run.Decode(rec)
	if err != nil || got.Step.Own == nil || *got.Step.Own != "" || got.Step.Phase != run.PhaseActing {
		t.Errorf("%s came back as %+v, %v", rec, got.Step, err)
	}
	if _, err := run.Decode([]byte("{")); err == nil || errors.Is(err, nil) {
		t.Error("half a record was taken")
	}
}

// A gate that says done and does nothing must not keep a run busy for ever.
func TestGateThatLies(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeDone, wire.CodeAlready, wire.CodeStale, wire.CodeWaived} {
		for _, verb := range []plan.Verb{plan.Restart, plan.Announce, plan.Stop, plan.Reload} {
			w := newWorld(t, 1, pair)
			w.restartByHand(instance("db@h1"))
			w.lie = code
			r := w.runner("run", plan.Request{Verb: verb, Targets: []string{"db"}}, run.Options{})
			if verb == plan.Reload && code == wire.CodeDone {
				continue // nothing but the gate's word tells of a reload
			}
			if o := r.finish(); o == run.OutcomeDone {
				w.fail("%s with a gate that only says %s: done", verb, code)
			}
		}
	}
}

// Nor can one that answers without saying anything end it other than by a word.
func TestGateThatSaysNothing(t *testing.T) {
	for _, code := range wire.Codes() {
		for _, verb := range []plan.Verb{plan.Restart, plan.Announce, plan.Stop, plan.Reload, plan.Up} {
			w := newWorld(t, 1, pair)
			w.mute = code
			r := w.runner("run", plan.Request{Verb: verb, Targets: []string{"db"}}, run.Options{})
			if o := r.finish(); o == run.OutcomeDone {
				w.fail("%s with a gate that answers %s and no status: done", verb, code)
			}
		}
	}
}
