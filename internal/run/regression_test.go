package run_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/wire"
)

// An intent that a power cut left on the announced upstream holds up nobody.
func TestIntentOnAnnouncedUpstream(t *testing.T) {
	w := newWorld(t, 1, pair)
	db := instance("db@h1")
	// kido restart db; the gate dies after Go (power cut): the intent is on file
	st, _ := w.serve(db, wire.Request{Verb: wire.VerbStatus, Service: "db"}, -1)
	_, err := w.serve(db, wire.Request{Verb: wire.VerbRestart, Service: "db", Own: st.Status.Token, Generation: st.Status.Generation}, 6)
	if err == nil {
		t.Fatal("no crash")
	}
	// the host boots again: init starts db; boot hook announces it
	w.nodes[db].running = ""
	w.restartByHand(db)
	r := w.runner("boot", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
	o := r.finish()
	if o != run.OutcomeDone {
		w.fail("announce after power cut in a restart: %s %v", o, r.phases())
	}
	w.fresh()
}

// A resumed down stops what was started again meanwhile.
func TestResumedDown(t *testing.T) {
	w := newWorld(t, 1, pair)
	r := w.runner("down", plan.Request{Verb: plan.Down, Targets: []string{"db"}}, run.Options{})
	for {
		n := 0
		for _, p := range r.phases() {
			if p == run.PhaseDone {
				n++
			}
		}
		if n == 3 {
			break
		}
		r.turn(faults{})
	}
	// Ctrl-C here. The operator thinks better of it:
	w.runner("up", plan.Request{Verb: plan.Up}, run.Options{}).finish()
	w.fresh()
	// next week: kido down db again -> cutOff finds "down", goOn
	again := run.New("down", w.topo, r.plan, run.Options{})
	if err := again.Replay(r.journal); err != nil {
		t.Fatal(err)
	}
	r.run, r.pending = again, nil
	r.step(run.Begin{})
	o := r.finish()
	for i, n := range w.nodes {
		if n.state == wire.StateUp {
			w.fail("outcome %s, but %s is up", o, i)
		}
	}
}

// Long delays, doubled many times, stay within bounds.
func TestLongDelays(t *testing.T) {
	text := header + strings.ReplaceAll(service("db", "h1", ""), "attempts: 6", "attempts: 6, delay: 30s, max: 60s") + service("web", "h2", ", after: {db: restart}")
	text = strings.ReplaceAll(text, "retry: {attempts: 6}", "retry: {attempts: 6, delay: 30s, max: 60s}")
	w := newWorld(t, 1, text)
	w.nodes[instance("web@h2")].cut = true
	w.restartByHand(instance("db@h1"))
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{KeepTrying: true})
	for n := 0; n < 300; n++ {
		r.turn(faults{})
	}
}

// What is only wanted, and cannot be seen from the dependent, is passed over.
func TestProbeFromDependentOfWhatIsOnlyWanted(t *testing.T) {
	text := header + service("db", "h1", "") + service("cache", "h2", ", ready: [{tcp: ':11211', from: dependent}]") +
		service("web", "h3", ", after: {db: restart, cache: {strength: wants}}")
	w := newWorld(t, 1, text)
	w.nodes[instance("cache@h2")].state = wire.StateFailed
	w.restartByHand(instance("db@h1"))
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("%s %v", o, r.phases())
	}
}

// What the runner itself must see, nothing follows before it does, nor counts as done.
func TestProbeFromRunner(t *testing.T) {
	text := header + service("db", "h1", ", ready: [{tcp: ':1521', from: runner}]") + service("web", "h3", ", after: {db: restart}")
	for name, q := range map[string]plan.Request{
		"announced":   {Verb: plan.Announce, Targets: []string{"db"}},
		"restarted":   {Verb: plan.Restart, Targets: []string{"db"}},
		"for another": {Verb: plan.Restart, Targets: []string{"web"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, text)
			w.dark = map[string]bool{"": true}
			w.restartByHand(instance("db@h1"))
			life := w.nodes[instance("web@h3")].life
			r := w.runner("run", q, run.Options{KeepTrying: true})
			for range 30 {
				r.turn(faults{})
			}
			if n := w.nodes[instance("web@h3")]; n.life != life {
				w.fail("web was restarted against what the runner does not see")
			}
			if _, over := r.run.Outcome(); over {
				w.fail("over: %v", r.phases())
			}
			if !strings.Contains(strings.Join(w.story, "\n"), "as seen from the runner: connection refused") {
				w.fail("nobody was told why")
			}
			w.dark[""] = false
			if o := r.finish(); o != run.OutcomeDone {
				w.fail("%s %v", o, r.phases())
			}
			if n := w.nodes[instance("web@h3")]; n.life != life+1 {
				w.fail("web is in life %d, was in %d", n.life, life)
			}
		})
	}
}

// Of several, one that is stopped on purpose does not end the wait for another.
func TestAnyOfWaitsForTheOther(t *testing.T) {
	text := header + service("db", "h1, h2", "") + service("web", "h3", ", after: {db: {of: any}}")
	w := newWorld(t, 1, text)
	w.nodes[instance("web@h3")].state = wire.StateDown
	w.nodes[instance("db@h1")].state = wire.StateDown // stopped on purpose
	w.nodes[instance("db@h2")].deaf = true            // just booting
	r := w.runner("run", plan.Request{Verb: plan.Start, Targets: []string{"web"}}, run.Options{})
	for n := 0; n < 20; n++ {
		if r.turn(faults{}) {
			break
		}
	}
	w.nodes[instance("db@h2")].deaf = false
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("%s %v", o, r.phases())
	}
}

// What a run has stopped comes back, also where the stop was cut off.
func TestHeldComesBack(t *testing.T) {
	text := strings.ReplaceAll(stopFirst, "attempts: 6", "attempts: 1")
	w := newWorld(t, 1, text)
	r := w.runner("run", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
	died := 0
	for n := 0; ; n++ {
		if _, ended := r.run.Outcome(); ended {
			break
		}
		// the gate of the first hold dies after Await (stop done, not recorded)
		for k, c := range r.pending {
			if c.Request.Hold && died == 0 {
				died++
				r.pending = append(r.pending[:k], r.pending[k+1:]...)
				target := site.Instance{Service: c.Request.Service, Host: c.Host}
				_, err := w.serve(target, c.Request, 7)
				r.step(run.Answered{ID: c.ID, Err: fmt.Sprint(err)})
				break
			}
		}
		r.turn(faults{})
	}
	o, _ := r.run.Outcome()
	for i, n := range w.nodes {
		if n.state != wire.StateUp {
			w.fail("outcome %s; %s is %s by kido's hand; phases %v", o, i, n.state, r.phases())
		}
	}
}

// The time to become ready counts from the restart, however long that took.
func TestSlowRestartWithLostReply(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", "")+service("web", "h2", ", after: {db: restart}"))
	r := w.runner("run", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
	lost := false
	for n := 0; n < 100000; n++ {
		if _, ended := r.run.Outcome(); ended {
			break
		}
		for k, c := range r.pending {
			if c.Request.Verb == wire.VerbRestart && !lost {
				lost = true
				r.pending = append(r.pending[:k], r.pending[k+1:]...)
				target := site.Instance{Service: c.Request.Service, Host: c.Host}
				_, _ = w.serve(target, c.Request, -1)
				w.nodes[target].deaf = true
				r.now += 40 * time.Second // a database that takes its time to stop; ready: 30s
				r.step(run.Answered{ID: c.ID, Err: "connection lost"})
				break
			}
		}
		if lost && r.now > 45*time.Second { // ready 5 s after it was started
			w.nodes[instance("db@h1")].deaf = false
		}
		r.turn(faults{})
	}
	if o, _ := r.run.Outcome(); o != run.OutcomeDone {
		w.fail("%s %v", o, r.phases())
	}
}

// What a pool costs in looks grows with the pool, not with its square.
func TestLooksOfAPool(t *testing.T) {
	const n = 80
	hosts, names := "db: 192.0.2.1", []string{}
	for k := range n {
		hosts += fmt.Sprintf(", w%d: 192.0.2.%d", k, k+2)
		names = append(names, fmt.Sprintf("w%d", k))
	}
	w := newWorld(t, 1, "site: s\nhosts: {"+hosts+"}\nservices:\n"+service("db", "db", "")+
		service("web", strings.Join(names, ", "), ", after: {db: restart}"))
	w.restartByHand(instance("db@db"))
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
	w.looks = 0
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	if w.looks > 10*n {
		t.Errorf("%d looks for %d instances", w.looks, n)
	}
}

// What was itself asked for and not done is a failure, not a debt.
func TestStartBehindWhatIsDown(t *testing.T) {
	w := newWorld(t, 1, pair)
	for _, n := range w.nodes {
		n.state = wire.StateDown
	}
	r := w.runner("run", plan.Request{Verb: plan.Start, Targets: []string{"web@h2"}}, run.Options{})
	if o := r.finish(); o != run.OutcomeFailed || r.phases()["web@h2"] != run.PhaseSkipped {
		w.fail("outcome %s, %v", o, r.phases())
	}
}

// With --keep-trying an upstream may restart as often as it likes.
func TestKeepTryingThroughManyRestarts(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", "")+service("web", "h2", ", after: {db: restart}, budget: none"))
	w.restartByHand(instance("db@h1"))
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{KeepTrying: true})
	life := 0
	for n := 0; n < 100000; n++ {
		if l := w.nodes[instance("web@h2")].life; l != life && life < 20 {
			life = l
			r.now += time.Hour
			w.restartByHand(instance("db@h1"))
		}
		if r.turn(faults{}) {
			break
		}
	}
	if o, _ := r.run.Outcome(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
}

// What dies young is started again after a pause each time, and not for ever.
func TestStartThatDiesYoung(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", ""))
	db := w.nodes[instance("db@h1")]
	db.state = wire.StateDown
	r := w.runner("run", plan.Request{Verb: plan.Up, Targets: []string{"db"}}, run.Options{})
	for !r.turn(faults{}) {
		if db.state == wire.StateUp {
			db.state = wire.StateFailed
			w.say("it dies")
		}
	}
	if o, _ := r.run.Outcome(); o != run.OutcomeFailed || r.now < 5*time.Second || db.life > 7 {
		w.fail("outcome %s after %s and %d starts", o, r.now, db.life-1)
	}
}

// What failed to start, and whose upstream has changed since, is started once.
func TestOneStartForWhatDied(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", "")+service("web", "h2", ", after: {db: restart}"))
	db, web := instance("db@h1"), instance("web@h2")
	w.restartByHand(db)
	w.nodes[web].broken = 1000
	q := plan.Request{Verb: plan.Announce, Targets: []string{"db"}}
	w.runner("one", q, run.Options{}).finish()
	w.nodes[web].broken = 0
	w.restartByHand(db)
	life := w.nodes[web].life
	w.runner("two", q, run.Options{}).finish()
	if n := w.nodes[web].life - life; n != 1 {
		w.fail("web was down, and was started %d times for one debt", n)
	}
}

// Several runs of different verbs at once, dying gates and daemons: then one up
// makes all fresh, and nothing was restarted twice for one basis.
func TestMixedVerbs(t *testing.T) {
	texts := []string{
		pair, diamond, chain, stopFirst,
		header + service("a", "h1", "") + service("b", "h2", ", after: {a: {strength: wants}}") + service("c", "h3", ", after: {b: reload, a: restart}"),
	}
	for k, text := range texts {
		for seed := range uint64(40) {
			w := newWorld(t, seed, text)
			first := w.topo.Instances()[0]
			last := w.topo.Instances()[len(w.topo.Instances())-1]
			var rs []*runner
			for n, q := range []plan.Request{
				{Verb: plan.Restart, Targets: []string{first.Service}},
				{Verb: plan.Announce, Targets: []string{first.Service}},
				{Verb: plan.Stop, Targets: []string{last.String()}},
				{Verb: plan.Up},
			} {
				if n < 2 || w.percent(50) {
					rs = append(rs, w.runner(fmt.Sprint("r", n), q, run.Options{Seed: seed}))
				}
			}
			for range 300 {
				rs[w.rng.IntN(len(rs))].turn(faults{lost: 4, replyLost: 4, gateDies: 6, runnerDies: 1})
				w.honest()
				if w.percent(1) {
					x := w.nodes[w.topo.Instances()[w.rng.IntN(len(w.nodes))]]
					if x.state == wire.StateUp {
						x.state = wire.StateFailed
						w.say("%s crashes", x.name)
					}
				}
			}
			for _, r := range rs {
				r.finish()
			}
			o := w.runner("up", plan.Request{Verb: plan.Up}, run.Options{Seed: seed}).finish()
			if o != run.OutcomeDone {
				w.fail("text %d seed %d: up: %s", k, seed, o)
			}
			w.freshButReload()
			w.once()
		}
	}
}

// freshButReload is fresh, but for what a reload leaves in its old life.
func (w *world) freshButReload() {
	w.t.Helper()
	for _, i := range w.topo.Instances() {
		n := w.nodes[i]
		if n.state != wire.StateUp {
			w.fail("I3: %s is %s", n.name, n.state)
		}
		for _, d := range w.topo.Site().Service(i.Service).After {
			if d.OnRestart == site.ReactionReload {
				continue
			}
			for _, u := range w.topo.Site().Service(d.Upstream).Instances() {
				if d.SameHost && u.Host != i.Host {
					continue
				}
				if n.seen[u.String()] != w.nodes[u].token() {
					w.fail("I3: %s was started against %s %q, which is %q now", n.name, u, n.seen[u.String()], w.nodes[u].token())
				}
			}
		}
	}
}

func TestUpOfAnyOf(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, header+service("db", "h1, h2", "")+service("web", "h3", ", after: {db: {of: any}}"))
		w.nodes[instance("db@h1")].state = wire.StateFailed
		r := w.runner("up", plan.Request{Verb: plan.Up}, run.Options{})
		o := r.finish()
		v := w.topo.Need(instance("web@h3"), func(i site.Instance) plan.Observation {
			r, _ := w.serve(i, wire.Request{Verb: wire.VerbStatus, Service: i.Service}, -1)
			return plan.Observation{Status: r.Status}
		}, nil)
		if o == run.OutcomeDone && len(v.Debts) > 0 {
			w.fail("seed %d up: done; yet: %+v", seed, v.Debts)
		}
	}
}

// A rival that could not be asked when the plan was made is asked before the
// start: two that conflict are never both up by kido's hand.
func TestConflictThatWasNotSeen(t *testing.T) {
	w := newWorld(t, 1, header+service("old", "h1", "")+service("new", "h1", ", conflicts: [old]"))
	w.nodes[instance("new@h1")].state = wire.StateDown
	w.nodes[instance("old@h1")].cut = true
	r := w.runner("start", plan.Request{Verb: plan.Start, Targets: []string{"new"}}, run.Options{})
	w.nodes[instance("old@h1")].cut = false
	if o := r.finish(); o != run.OutcomeFailed || w.nodes[instance("new@h1")].state != wire.StateDown {
		w.fail("outcome %s, and new is %s", o, w.nodes[instance("new@h1")].state)
	}
	w.nodes[instance("old@h1")].state = wire.StateDown
	if o := w.runner("again", plan.Request{Verb: plan.Start, Targets: []string{"new"}}, run.Options{}).finish(); o != run.OutcomeDone {
		w.fail("with old down: %s", o)
	}
}

// A start deadline is the service's own, not that of what its run stops first;
// and what has failed is not waited for a second time.
func TestDeadlineIsItsOwn(t *testing.T) {
	text := header + "  db: {hosts: [h1], sysv: db, timeout: {ready: 8s}, retry: {attempts: 1}}\n" +
		"  web: {hosts: [h2], sysv: web, after: {db: stop-first}}\n"
	w := newWorld(t, 1, text)
	r := w.runner("run", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
	w.nodes[instance("db@h1")].deaf = true
	if o := r.finish(); o != run.OutcomeFailed || r.now > 20*time.Second {
		w.fail("outcome %s after %s", o, r.now)
	}
}

// Answers in a row are counted an interval apart, at the host, from the dependent's and
// from the runner's.
func TestSuccessesInARow(t *testing.T) {
	for from, least := range map[string]time.Duration{"host": 4 * time.Second, "dependent": 4 * time.Second, "runner": 4 * time.Second} {
		text := header + "  db: {hosts: [h1], sysv: db, ready: [{tcp: ':1', interval: 2s, successes: 3, from: " + from + "}]}\n" +
			service("web", "h2", ", after: {db: restart}")
		w := newWorld(t, 1, text)
		w.restartByHand(instance("db@h1"))
		r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
		if o := r.finish(); o != run.OutcomeDone || r.now < least {
			w.fail("from the %s: outcome %s after %s, want at least %s", from, o, r.now, least)
		}
	}
}

// What a soft dependent passes over stays on record as owed.
func TestSoftDependentOwes(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", "")+service("web", "h2", ", after: {db: {strength: wants}}"))
	w.restartByHand(instance("db@h1"))
	w.nodes[instance("db@h1")].deaf = true
	r := w.runner("up", plan.Request{Verb: plan.Up, Targets: []string{"web"}}, run.Options{})
	r.finish()
	for _, e := range r.journal {
		if e.Step != nil && e.Step.Instance == "web@h2" && e.Step.Phase.Final() && len(e.Step.Owes) == 0 {
			w.fail("web@h2 ended %s (%s) and owes nothing", e.Step.Phase, e.Step.Word)
		}
	}
}

// Why a gate found nothing to do stands in the journal: the next look would only say that
// all is well.
func TestSparedSaysWhy(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", ", listens: :1521")+service("web", "h2", ", after: {db: {on_restart: reload, if: stale-connections}}"))
	w.runner("first", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{}).finish()
	w.restartByHand(instance("db@h1"))
	w.nodes[instance("db@h1")].age = time.Second
	r := w.runner("second", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
	r.finish()
	var last *run.StepEvent
	for _, e := range r.journal {
		if e.Step != nil && e.Step.Instance == "web@h2" {
			last = e.Step
		}
	}
	if last == nil || last.Phase != run.PhaseAlready || last.Code != wire.CodeAlready || last.Word != "no connection from before is held: there is nothing to reload" {
		w.fail("web@h2 ended with %+v", last)
	}
}

// Who cannot be asked before somebody has mended something is not waited for.
func TestBarredUpstreamIsNotWaitedFor(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", "")+service("web", "h2", ", after: {db: restart}"))
	w.nodes[instance("db@h1")].barred = true
	r := w.runner("restart", plan.Request{Verb: plan.Restart, Targets: []string{"web"}}, run.Options{})
	r.finish()
	if r.now > 10*time.Second {
		w.fail("it waited until %v", r.now)
	}
	for _, e := range r.journal {
		if e.Step != nil && e.Step.Instance == "web@h2" && e.Step.Phase.Final() && (e.Step.Phase != run.PhaseSkipped || !strings.Contains(e.Step.Word, "another host key") || e.Step.Hint != "kido keys pin h1") {
			w.fail("web@h2 ended %s: %s (%s)", e.Step.Phase, e.Step.Word, e.Step.Hint)
		}
	}
}

// A host that does not answer is asked one thing a try: all else would cost the
// time of another connection, and its service's own start is held only so long.
func TestSilentHostIsAskedOnce(t *testing.T) {
	w := newWorld(t, 1, header+"  db: {hosts: [h1], sysv: db, ready: [{tcp: ':1', from: dependent}]}\n"+service("web", "h2", ", after: {db: restart}"))
	w.restartByHand(instance("db@h1"))
	w.nodes[instance("web@h2")].cut = true
	r := w.runner("run", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{})
	asked := map[int]bool{}
	for !r.turn(faults{}) {
		for _, c := range r.pending {
			if c.Host == "h2" {
				asked[c.ID] = true
			}
		}
	}
	tries := w.topo.Site().Service("web").Retry.Attempts
	if len(asked) != tries {
		w.fail("h2 was asked %d times in %d tries", len(asked), tries)
	}
}
