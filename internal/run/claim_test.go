package run_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/gate"
	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/wire"
)

var pool = header + service("db", "h4", "") + service("web", "h1, h2, h3", ", after: {db: restart}")

func announce(w *world, id string) *runner {
	return w.runner(id, plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{KeepTrying: true})
}

// free fails unless every slot was given back.
func (w *world) free() {
	w.t.Helper()
	for i, p := range w.pools {
		if len(p.Slots) > 0 {
			w.fail("%s still keeps %+v", i, p.Slots)
		}
	}
}

// until lets a runner go on until it is so.
func (r *runner) until(so func() bool) {
	for n := 0; !so(); n++ {
		if n > 10_000 || r.turn(faults{}) {
			r.w.fail("%s has ended, or gets nowhere", r.id)
		}
	}
}

// sends reports whether a request of this verb is out.
func (r *runner) sends(verb wire.Verb) bool {
	for _, c := range r.pending {
		if c.Request.Verb == verb {
			return true
		}
	}
	return false
}

func TestSlots(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	r := announce(w, "r")
	r.until(func() bool { return r.sends(wire.VerbEnsure) })
	for _, h := range []string{"web@h1", "web@h2", "web@h3"} {
		if n := len(w.pools[instance(h)].Slots); n != 1 {
			w.fail("%s has given %d slots before the ENSURE", h, n)
		}
	}
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.once()
	w.free()
}

// Two runs take turns, and neither leaves a slot behind.
func TestTwoRunsOnePool(t *testing.T) {
	for seed := range uint64(100) {
		w := newWorld(t, seed, pool)
		w.restartByHand(instance("db@h4"))
		rs := []*runner{announce(w, "one"), announce(w, "two")}
		for n := 0; n < 20_000; n++ {
			over := 0
			for _, r := range rs {
				if r.turn(faults{}) {
					over++
				}
			}
			if over == len(rs) {
				break
			}
			down := map[string]bool{}
			for _, r := range rs {
				for name := range r.acting {
					if strings.HasPrefix(name, "web@") && !w.void(r, name) {
						down[name] = true
					}
				}
			}
			if len(down) > 1 {
				w.fail("seed %d: I5: %v may be down at once", seed, down)
			}
		}
		w.fresh()
		w.once()
		w.free()
	}
}

// void reports whether what a runner has sent to an instance cannot touch it any
// more, or has not been sent.
func (w *world) void(r *runner, name string) bool {
	for _, c := range r.pending {
		if c.Request.Service+"@"+c.Host == name && c.Request.Verb == wire.VerbEnsure {
			return c.Request.Generation != w.generation(name)
		}
	}
	return w.nodes[instance(name)].seen["db@h4"] != w.nodes[instance("db@h4")].token()
}

func (w *world) generation(name string) uint64 {
	i := instance(name)
	r, _ := w.serve(i, wire.Request{Verb: wire.VerbStatus, Service: i.Service}, -1)
	return r.Status.Generation
}

// A run that died with a slot does not keep it for ever: another one fences what
// it may have sent, which then comes too late.
func TestSlotOfADeadRun(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	dead := announce(w, "dead")
	dead.until(func() bool { return dead.sends(wire.VerbEnsure) })
	late := dead.pending[0]
	r := announce(w, "r")
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.free()
	life := w.nodes[instance("web@"+late.Host)].life
	w.restartByHand(instance("db@h4"))
	reply, err := w.serve(site.Instance{Service: "web", Host: late.Host}, late.Request, -1)
	if err != nil || reply.Code == wire.CodeDone || w.nodes[instance("web@"+late.Host)].life != life {
		w.fail("the late request: %s, %v", reply.Code, err)
	}
}

// While an instance is down by the hand of a run that has died, no other one of
// its pool is touched.
func TestSlotOfWhatIsDown(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	dead := announce(w, "dead")
	dead.until(func() bool { return dead.sends(wire.VerbEnsure) })
	late := dead.pending[0]
	first := instance("web@" + late.Host)
	w.nodes[first].deaf = true
	if reply, err := w.serve(first, late.Request, -1); err != nil || reply.Code != wire.CodeDone {
		w.fail("%+v, %v", reply, err)
	}
	r := announce(w, "r")
	for r.now < 10*time.Minute {
		r.turn(faults{})
	}
	for name, n := range w.nodes {
		if name.Service == "web" && name != first && n.life != 1 {
			w.fail("%s was touched beside %s, which is not ready", name, first)
		}
	}
	w.nodes[first].deaf = false
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.free()
}

// Hosts that are off do not keep the others of their pool on dead connections.
func TestKeepersAway(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	w.nodes[instance("web@h1")].cut = true
	w.nodes[instance("web@h2")].cut = true
	r := announce(w, "r")
	r.until(func() bool { return w.nodes[instance("web@h3")].life == 2 })
	w.nodes[instance("web@h1")].cut = false
	w.nodes[instance("web@h2")].cut = false
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.free()
}

// A run that was cut off in the midst of it goes on with its own slot, and gives
// it back.
func TestSlotOfAResumedRun(t *testing.T) {
	for turns := range 60 {
		t.Run(fmt.Sprint(turns), func(t *testing.T) {
			w := newWorld(t, 1, pool)
			w.restartByHand(instance("db@h4"))
			r := announce(w, "r")
			for range turns {
				r.turn(faults{})
			}
			r.turn(faults{runnerDies: 100})
			if o := r.finish(); o != run.OutcomeDone {
				w.fail("outcome %s", o)
			}
			w.fresh()
			w.once()
			// What was given to the run before it died, and is not on its record, the
			// next one clears up.
			w.restartByHand(instance("db@h4"))
			if o := announce(w, "next").finish(); o != run.OutcomeDone {
				w.fail("outcome %s", o)
			}
			w.fresh()
		})
	}
}

// An instance of which nothing is on record yet has no generation to expect.
func TestSlotForTheFirstTime(t *testing.T) {
	w := newWorld(t, 1, pool)
	for i, n := range w.nodes {
		if i.Service == "web" {
			n.disk = emptyRecord(n.name)
		}
	}
	if o := announce(w, "r").finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.free()
}

// What reacts too often by itself is left alone until all is calm, and a person
// can end that.
func TestHold(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", "")+service("web", "h2", ", after: {db: restart}, budget: {reactions: 2, within: 10m}"))
	web := w.nodes[instance("web@h2")]
	for range 2 {
		w.restartByHand(instance("db@h1"))
		if o := announce(w, "r").finish(); o != run.OutcomeDone {
			w.fail("outcome %s", o)
		}
	}
	w.restartByHand(instance("db@h1"))
	if o := w.runner("once", plan.Request{Verb: plan.Announce, Targets: []string{"db"}}, run.Options{}).finish(); o != run.OutcomeIncomplete || web.life != 3 {
		w.fail("outcome %s, life %d", o, web.life)
	}
	r := announce(w, "waits")
	r.until(func() bool { return r.phases()["web@h2"] == run.PhaseOnHold })
	if web.life != 3 {
		w.fail("life %d", web.life)
	}
	if reply, _ := w.serve(instance("web@h2"), wire.Request{Verb: wire.VerbRelease, Service: "web"}, -1); reply.Code != wire.CodeDone {
		w.fail("release: %+v", reply)
	}
	if o := r.finish(); o != run.OutcomeDone || web.life != 4 || r.now > time.Minute {
		w.fail("outcome %s, life %d, after %s", o, web.life, r.now)
	}
	w.restartByHand(instance("db@h1"))
	if o := announce(w, "r").finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.restartByHand(instance("db@h1"))
	r = announce(w, "calm")
	r.until(func() bool { return r.phases()["web@h2"] == run.PhaseOnHold })
	w.now += 10 * time.Minute
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	// What a person asks for is never on hold.
	w.restartByHand(instance("db@h1"))
	w.runner("up", plan.Request{Verb: plan.Up}, run.Options{}).finish()
	w.fresh()
}

// An incarnation is followed once it has been up for its settle window.
func TestSettle(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", ", settle: 5s")+service("web", "h2", ", after: {db: restart}"))
	w.restartByHand(instance("db@h1"))
	r := announce(w, "r")
	r.until(func() bool { return r.now > 3*time.Second })
	if life := w.nodes[instance("web@h2")].life; life != 1 {
		w.fail("life %d after %s", life, r.now)
	}
	w.restartByHand(instance("db@h1")) // it begins anew
	r.until(func() bool { return w.nodes[instance("web@h2")].life == 2 })
	if r.now < 8*time.Second {
		w.fail("followed after %s", r.now)
	}
	r.finish()
	w.fresh()
	w.once()
}

// A restart by hand mends a state file that cannot be believed, in a pool as well.
func TestSlotOfWhatIsUnknown(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.nodes[instance("web@h2")].disk = []byte("garbage")
	r := w.runner("r", plan.Request{Verb: plan.Restart, Targets: []string{"web@h2"}}, run.Options{})
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.free()
}

// A key that is refused in the midst of it leaves the slot where it is: the instance
// is down by this run's hand.
func TestRefusedAmidst(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	r := announce(w, "r")
	r.until(func() bool { return r.sends(wire.VerbEnsure) })
	first := instance("web@" + r.pending[0].Host)
	w.nodes[first].deaf = true
	r.until(func() bool { return w.nodes[first].life == 2 })
	w.mute = wire.CodeRefused
	if o := r.finish(); o != run.OutcomeRefused {
		w.fail("outcome %s", o)
	}
	for i, p := range w.pools {
		if len(p.Slots) != 1 || p.Slots[0].Member != first.String() {
			w.fail("%s keeps %+v", i, p.Slots)
		}
	}
}

// cutOff ends a runner by kill -9: what it has sent is nobody's to wait for. Then it
// goes on with its journal.
func (r *runner) cutOff() (sent []run.Call) {
	sent, r.pending, r.acting = r.pending, nil, map[string]bool{}
	r.run = run.New(r.id, r.w.topo, r.plan, r.opts)
	if err := r.run.Replay(r.journal); err != nil {
		r.w.fail("replay: %v", err)
	}
	r.step(run.Begin{})
	return sent
}

// A run that was cut off knows which slot it has, and gives it back.
func TestResumedRunGivesItsSlotBack(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	r := announce(w, "r")
	r.until(func() bool { return r.sends(wire.VerbEnsure) })
	for _, c := range r.cutOff() {
		if _, err := w.serve(site.Instance{Service: c.Request.Service, Host: c.Host}, c.Request, -1); err != nil {
			w.fail("%v", err)
		}
	}
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.once()
	w.free()
}

// It keeps the slot as long as a request may be on its way with it: whoever needs
// it fences that first.
func TestLooseSlotIsKept(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	r := announce(w, "r")
	r.until(func() bool { return r.sends(wire.VerbEnsure) })
	late := r.cutOff()[0]
	first := instance("web@" + late.Host)
	w.nodes[first].state = wire.StateDown // by hand, and nothing can be done about it
	r.until(func() bool {
		return slices.ContainsFunc(r.pending, func(c run.Call) bool { return c.Request.Service == "web" })
	})
	w.nodes[instance("db@h4")].deaf = true
	r.until(func() bool { return r.phases()[first.String()] == run.PhaseWaived })
	for n := 0; n < 20; n++ {
		r.turn(faults{})
	}
	for _, i := range []string{"web@h1", "web@h2", "web@h3"} {
		if s := w.pools[instance(i)].Slots; len(s) != 1 || s[0].Member != first.String() {
			w.fail("%s keeps %+v", i, s)
		}
	}
	w.nodes[instance("db@h4")].deaf = false
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	if reply, _ := w.serve(first, late.Request, -1); reply.Code == wire.CodeDone {
		w.fail("the late request: %s", reply.Code)
	}
}

// Whenever a run with stop-first is cut off, what it has done is not done again.
func TestStopFirstCutOff(t *testing.T) {
	for turns := range 40 {
		w := newWorld(t, 1, stopFirst)
		r := w.runner("r", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
		for range turns {
			r.turn(faults{})
		}
		if _, ended := r.run.Outcome(); ended {
			break
		}
		for _, c := range r.cutOff() {
			_, _ = w.serve(site.Instance{Service: c.Request.Service, Host: c.Host}, c.Request, -1)
		}
		if o := r.finish(); o != run.OutcomeDone {
			w.fail("cut off after %d turns: outcome %s", turns, o)
		}
		for name, n := range w.nodes {
			if n.life != 2 {
				w.fail("cut off after %d turns: %s is in life %d", turns, name, n.life)
			}
		}
		w.free()
	}
}

// within lets a runner go on for a while, or to its end.
func (r *runner) within(d time.Duration) {
	for until := r.now + d; r.now < until && !r.turn(faults{}); {
	}
}

// An instance that is down by the hand of a run that died may need the very restart
// that it owes to become ready: its own slot is not in its way.
func TestSlotOfTheVeryMember(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	dead := announce(w, "dead")
	dead.until(func() bool { return dead.sends(wire.VerbEnsure) })
	late := dead.pending[0]
	first := instance("web@" + late.Host)
	if reply, err := w.serve(first, late.Request, -1); err != nil || reply.Code != wire.CodeDone {
		w.fail("%+v, %v", reply, err)
	}
	w.restartByHand(instance("db@h4"))
	w.nodes[first].deaf = true // its health page asks the database, by a dead connection
	r := announce(w, "r")
	r.until(func() bool { return w.nodes[first].life == 3 })
	w.nodes[first].deaf = false
	if o := r.finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	w.fresh()
	w.free()
}

// One slot that was left at one keeper, of an instance that is off now, does not stop
// the pool: most of the keepers are enough.
func TestSlotAtOneKeeper(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h4", "")+service("web", "h1, h2, h3, h4", ", after: {db: restart}"))
	w.pools[instance("web@h1")] = gate.Pool{Service: "web", Slots: []wire.Slot{{Member: "web@h4", Run: "old", Generation: 7}}}
	w.restartByHand(instance("db@h4"))
	w.nodes[instance("web@h4")].cut = true
	r := announce(w, "r")
	r.until(func() bool {
		return w.nodes[instance("web@h1")].life+w.nodes[instance("web@h2")].life+w.nodes[instance("web@h3")].life == 6
	})
}

// A slot that was given with an answer that was lost is given back, too.
func TestSlotWhoseAnswerWasLost(t *testing.T) {
	w := newWorld(t, 1, pool)
	w.restartByHand(instance("db@h4"))
	r := announce(w, "r")
	for !r.turn(faults{}) {
		for k, c := range r.pending {
			if c.Request.Verb == wire.VerbTake && c.Host == "h3" {
				r.pending = slices.Delete(r.pending, k, k+1)
				_, _ = w.serve(instance("web@"+c.Host), c.Request, -1)
				r.step(run.Answered{ID: c.ID, Err: "connection lost"})
				break
			}
		}
	}
	w.fresh()
	w.free()
}

// A host whose policy or gate is of a time before slots, and of which nothing is on
// record, is restarted as it was then.
func TestGateOfBefore(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeRefused, wire.CodeInvalid} {
		w := newWorld(t, 1, pool)
		w.refuse = map[wire.Verb]wire.Code{wire.VerbFence: code, wire.VerbTake: code, wire.VerbGive: code}
		for i, n := range w.nodes {
			if i.Service == "web" {
				n.disk = emptyRecord(n.name)
			}
		}
		if o := announce(w, "r").finish(); o != run.OutcomeDone {
			w.fail("%s: outcome %s", code, o)
		}
		w.fresh()
	}
}

// What a run has stopped is started again, whatever its budget says.
func TestHeldInSpiteOfItsBudget(t *testing.T) {
	w := newWorld(t, 1, header+service("db", "h1", "")+service("web", "h2", ", after: {db: stop-first}, budget: {reactions: 1, within: 10m}"))
	w.restartByHand(instance("db@h1"))
	if o := announce(w, "one").finish(); o != run.OutcomeDone {
		w.fail("outcome %s", o)
	}
	p := w.runner("p", plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, run.Options{})
	p.until(func() bool { return w.nodes[instance("db@h1")].life == 3 }) // and there it is cut off
	if state := w.nodes[instance("web@h2")].state; state != wire.StateDown {
		w.fail("web is %s", state)
	}
	r := announce(w, "r")
	r.within(time.Minute)
	w.fresh()
}

// A slot of what is not in the site says so, and how to be rid of it.
func TestSlotOfWhatHasLeft(t *testing.T) {
	w := newWorld(t, 1, pool)
	for _, k := range []string{"web@h1", "web@h2", "web@h3"} {
		w.pools[instance(k)] = gate.Pool{Service: "web", Slots: []wire.Slot{{Member: "web@h9", Run: "old", Generation: 7}}}
	}
	w.restartByHand(instance("db@h4"))
	r := announce(w, "r")
	r.within(time.Minute)
	if !strings.Contains(strings.Join(w.story, "\n"), "`kido release --slot web@h9` frees it") {
		w.fail("nobody says how to be rid of it")
	}
}
