package gate

import (
	"fmt"
	"math"
	"testing"
	"time"

	"kido/internal/initsys"
	"kido/internal/wire"
)

// world is one instance, its init and its state file, in memory. It performs
// effects the way a machine does: a job that was begun goes on when the gate
// that began it dies.
type world struct {
	state    wire.State
	life     int // counts the starts: the incarnation
	restarts int // stops of something that was up, followed by a start
	reloads  int
	disk     []byte // the state file; nil: none
	held     initsys.Action
	running  initsys.Action // the job that init is at, "" for none
	broken   bool           // starts fail
	deaf     bool           // restarts report success and do nothing
	fullDisk bool
	stale    int // connections from before; -1: they cannot be counted
	counts   int
	asked    Asked
	age      time.Duration // that init tells
	waiter   bool          // init has begun to start it, and a waiter holds that back
	seen     int           // the generation that the waiter has seen
	now      time.Duration
}

func (w *world) token() string {
	if w.state != wire.StateUp {
		return ""
	}
	return fmt.Sprintf("life:%d", w.life)
}

func (w *world) moment() Moment { return Moment{"boot", w.now} }

func (w *world) look() Look {
	if w.waiter {
		return Look{State: wire.StateDown, Held: true}
	}
	return Look{State: w.state, Token: w.token(), Age: w.age}
}

// wait lets the waiter look at the record, and init start what it lets go.
func (w *world) wait(t *testing.T) {
	t.Helper()
	if r := w.record(t); w.waiter && int(r.Generation) != w.seen {
		w.letGo()
	}
}

func (w *world) letGo() {
	w.waiter = false
	if w.state = wire.StateFailed; !w.broken {
		w.state = wire.StateUp
		w.life++
	}
}

func (w *world) record(t *testing.T) Record {
	t.Helper()
	r, err := ParseRecord(w.disk, "web@web1")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// finish lets init end what it was told.
func (w *world) finish() {
	do := w.running
	w.running = ""
	start := func() {
		w.state = wire.StateFailed
		if !w.broken {
			w.state = wire.StateUp
			w.life++
		}
	}
	switch {
	case do == initsys.Reload:
		w.reloads++
	case do == initsys.Stop:
		w.state = wire.StateDown
	case do == initsys.Start && w.state != wire.StateUp:
		start()
	case do == initsys.Restart && !w.deaf:
		w.restarts++
		start()
	}
}

func (w *world) perform(e Effect) Event {
	switch e := e.(type) {
	case Lock:
		return Locked{OK: true}
	case Load:
		if w.disk == nil {
			return Loaded{Record: Record{Instance: "web@web1"}, Now: w.moment()}
		}
		r, err := ParseRecord(w.disk, "web@web1")
		if err != nil {
			return Loaded{Unreadable: err.Error(), Now: w.moment()}
		}
		return Loaded{Record: r, Now: w.moment()}
	case Idle:
		w.finish()
		return Looked{Look: w.look()}
	case See:
		return Looked{Look: w.look(), Waiting: w.running != ""}
	case Unlock:
		return Unlocked{}
	case Ask:
		return w.asked
	case Count:
		w.counts++
		if w.stale < 0 {
			return Counted{Err: "no such table"}
		}
		return Counted{Stale: w.stale}
	case Save:
		if w.fullDisk {
			return Stored{Err: "no space left on device"}
		}
		w.disk = e.Record.Format()
		return Stored{}
	case Prepare:
		w.held = e.Do
		return Prepared{Child: &initsys.Child{Boot: "boot", PID: 7, Start: 1}, Boot: "boot"}
	case Go:
		w.running, w.held = w.held, ""
		return Gone{}
	case Await:
		w.finish()
		return Ended{}
	case Settle:
		if e.Released && w.waiter {
			w.letGo()
		}
		return Looked{Look: w.look()}
	}
	panic(fmt.Sprintf("no such effect: %T", e))
}

// request carries q through; with crash ≥ 0 the gate dies before (even) or
// after (odd) effect number crash/2. ok is false where it died.
func (w *world) request(q wire.Request, crash int) (r wire.Reply, ok bool) {
	m, effect := NewMachine("web@web1", q).Step(Begin{})
	for n := 0; ; n++ {
		if a, ok := effect.(Answer); ok {
			return a.Reply, true
		}
		if crash == 2*n {
			w.held = "" // a child that was not told to go ends by itself
			return wire.Reply{}, false
		}
		ev := w.perform(effect)
		if crash == 2*n+1 {
			w.held = ""
			return wire.Reply{}, false
		}
		m, effect = m.Step(ev)
	}
}

func (w *world) status(t *testing.T) wire.Status {
	t.Helper()
	w.finish()
	r, _ := w.request(wire.Request{Verb: wire.VerbStatus, Service: "web"}, -1)
	if r.Status == nil {
		t.Fatalf("STATUS: %+v", r)
	}
	return *r.Status
}

func vector(token string) wire.Vector {
	return wire.NewVector(wire.Entry{Instance: "db@db1", Token: token})
}

func ensure(expect, next wire.Vector) wire.Request {
	return wire.Request{Verb: wire.VerbEnsure, Service: "web", Reaction: wire.ReactRestart, Expect: expect, New: next}
}

func upSince(basis wire.Vector) *world {
	w := &world{state: wire.StateUp, life: 1, asked: Asked{Ready: true}}
	w.disk = Record{Instance: "web@web1", Generation: 3, Wanted: wire.WantedUp, Seen: wire.StateUp, Own: "life:1", Basis: basis}.Format()
	return w
}

func TestEnsure(t *testing.T) {
	old, next := vector("a"), vector("b")
	down := func(wanted wire.Wanted, state wire.State) *world {
		w := upSince(old)
		w.state = state
		w.disk = Record{Instance: "web@web1", Generation: 3, Wanted: wanted, Seen: state, Basis: old}.Format()
		return w
	}
	reload := ensure(old, next)
	reload.Reaction = wire.ReactReload
	ifStale := reload
	ifStale.Lives = []wire.Life{{Upstream: "db@db1", Age: time.Minute}}
	restartIfStale := ensure(old, next)
	restartIfStale.Lives = ifStale.Lives
	holding := func(n int, basis wire.Vector) *world {
		w := upSince(basis)
		w.stale = n
		return w
	}
	for _, c := range []struct {
		name              string
		w                 *world
		q                 wire.Request
		code              wire.Code
		basis             wire.Vector
		restarts, reloads int
		state             wire.State
	}{
		{"a stale one is restarted", upSince(old), ensure(old, next), wire.CodeDone, next, 1, 0, wire.StateUp},
		{"a current one is left alone", upSince(next), ensure(old, next), wire.CodeAlready, next, 0, 0, wire.StateUp},
		{"someone else was here", upSince(vector("c")), ensure(old, next), wire.CodeStale, vector("c"), 0, 0, wire.StateUp},
		{"a reload", upSince(old), reload, wire.CodeDone, next, 0, 1, wire.StateUp},
		{"a reload if stale, and it holds some", holding(3, old), ifStale, wire.CodeDone, next, 0, 1, wire.StateUp},
		{"a reload if stale, and it holds none", holding(0, old), ifStale, wire.CodeAlready, next, 0, 0, wire.StateUp},
		{"a reload if stale, and nobody can count", holding(-1, old), ifStale, wire.CodeDone, next, 0, 1, wire.StateUp},
		{"a reload if stale, and someone else was here", holding(0, vector("c")), ifStale, wire.CodeStale, vector("c"), 0, 0, wire.StateUp},
		{"a restart never asks", holding(0, old), restartIfStale, wire.CodeDone, next, 1, 0, wire.StateUp},
		{"nothing on record", &world{state: wire.StateUp, life: 1}, ensure(nil, next), wire.CodeDone, next, 1, 0, wire.StateUp},
		{"stopped by hand", down(wire.WantedUp, wire.StateDown), ensure(old, next), wire.CodeWaived, next, 0, 0, wire.StateDown},
		{"stopped by kido", down(wire.WantedDown, wire.StateDown), ensure(old, next), wire.CodeWaived, next, 0, 0, wire.StateDown},
		{"stopped by kido, and failed at it", down(wire.WantedDown, wire.StateFailed), ensure(old, next), wire.CodeWaived, next, 0, 0, wire.StateFailed},
		{"held by a run", down(wire.WantedHeld, wire.StateDown), ensure(old, next), wire.CodeDone, next, 0, 0, wire.StateUp},
		{"failed", down(wire.WantedUp, wire.StateFailed), ensure(old, next), wire.CodeDone, next, 0, 0, wire.StateUp},
		{"failed, and never seen", &world{state: wire.StateFailed}, ensure(nil, next), wire.CodeDone, next, 0, 0, wire.StateUp},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := c.w.request(c.q, -1)
			if r.Code != c.code {
				t.Fatalf("replied %s (%s), want %s", r.Code, r.Word, c.code)
			}
			if s := c.w.status(t); !s.Basis.Equal(c.basis) || s.State != c.state || s.Intent {
				t.Errorf("left state %s, basis %v, intent %t; want %s, %v, none", s.State, s.Basis, s.Intent, c.state, c.basis)
			}
			if c.w.restarts != c.restarts || c.w.reloads != c.reloads {
				t.Errorf("%d restarts and %d reloads, want %d and %d", c.w.restarts, c.w.reloads, c.restarts, c.reloads)
			}
		})
	}
}

// A restart that reports success and changes nothing must not be believed: the
// basis would say what is not so (I1).
func TestRestartThatDoesNothing(t *testing.T) {
	w := upSince(vector("a"))
	w.deaf = true
	r, _ := w.request(ensure(vector("a"), vector("b")), -1)
	if r.Code != wire.CodeFailed {
		t.Fatalf("replied %s, want failed", r.Code)
	}
	if s := w.status(t); !s.Basis.Equal(vector("a")) {
		t.Errorf("basis is %v, want the old one", s.Basis)
	}
}

// Whatever the effect at which a gate dies, the debt is still there afterwards
// or was paid, and paying it costs one restart in all (I1, I2, I3).
func TestCrashAtEveryEffect(t *testing.T) {
	old, next := vector("a"), vector("b")
	crashes := 0
	for first := 0; ; first++ {
		ended := false
		for second := -1; second < 24; second++ {
			w := upSince(old)
			_, ended = w.request(ensure(old, next), first)
			if !ended {
				crashes++
				s := w.status(t)
				w.request(ensure(s.Basis, next), second)
			}
			// The runner reads, asks, and reads again until nothing is owed.
			for range 4 {
				if s := w.status(t); s.Intent || !s.Basis.Equal(next) {
					w.request(ensure(s.Basis, next), -1)
				}
			}
			s := w.status(t)
			if s.State != wire.StateUp || !s.Basis.Equal(next) || s.Intent {
				t.Fatalf("crash at %d and %d: ends %s with basis %v, intent %t", first, second, s.State, s.Basis, s.Intent)
			}
			if w.restarts != 1 {
				t.Fatalf("crash at %d and %d: restarted %d times, want once", first, second, w.restarts)
			}
		}
		if ended {
			break
		}
	}
	if crashes < 100 {
		t.Fatalf("only %d crashes were tried", crashes)
	}
}

func TestFailedStartIsTriedAgainByTheNextRequest(t *testing.T) {
	w := upSince(vector("a"))
	w.broken = true
	q := ensure(vector("a"), vector("b"))
	if r, _ := w.request(q, -1); r.Code != wire.CodeFailed {
		t.Fatalf("replied %s, want failed", r.Code)
	}
	if s := w.status(t); !s.Intent || !s.Basis.Equal(vector("a")) {
		t.Fatalf("after a failed start: intent %t, basis %v; want the debt on record", s.Intent, s.Basis)
	}
	w.broken = false
	if r, _ := w.request(q, -1); r.Code != wire.CodeDone {
		t.Fatalf("replied %s (%s), want done", r.Code, r.Word)
	}
	if w.restarts != 1 {
		t.Errorf("restarted %d times, want once: the second was a start", w.restarts)
	}
}

// A hold stops what a run will start again; it must neither make a run start
// what was down before, nor lose a start that was owed before.
func TestHold(t *testing.T) {
	hold := func(w *world) wire.Reply {
		s := w.status(t)
		r, _ := w.request(wire.Request{Verb: wire.VerbStop, Service: "web", Hold: true, Generation: s.Generation}, -1)
		return r
	}
	t.Run("up", func(t *testing.T) {
		w := upSince(vector("a"))
		if r := hold(w); r.Code != wire.CodeDone || w.state != wire.StateDown {
			t.Fatalf("replied %s, state %s", r.Code, w.state)
		}
		if r, _ := w.request(ensure(vector("a"), vector("b")), -1); r.Code != wire.CodeDone || w.state != wire.StateUp {
			t.Errorf("ENSURE replied %s, state %s: want it started", r.Code, w.state)
		}
	})
	t.Run("down on purpose", func(t *testing.T) {
		w := upSince(vector("a"))
		w.state = wire.StateDown
		hold(w)
		if r, _ := w.request(ensure(vector("a"), vector("b")), -1); r.Code != wire.CodeWaived {
			t.Errorf("ENSURE replied %s: want it left as it was", r.Code)
		}
	})
	t.Run("owed its start", func(t *testing.T) {
		w := upSince(vector("a"))
		w.broken = true
		w.request(ensure(vector("a"), vector("b")), -1)
		w.state, w.broken = wire.StateDown, false // an init that calls a failed start inactive
		hold(w)
		if r, _ := w.request(ensure(vector("a"), vector("b")), -1); r.Code != wire.CodeDone || w.state != wire.StateUp {
			t.Errorf("ENSURE replied %s, state %s: want it started", r.Code, w.state)
		}
	})
}

// A late or repeated request undoes nothing.
func TestLateRequests(t *testing.T) {
	w := upSince(vector("a"))
	s := w.status(t)
	start := wire.Request{Verb: wire.VerbStart, Service: "web", Generation: s.Generation, New: vector("a")}
	stop := wire.Request{Verb: wire.VerbStop, Service: "web", Generation: s.Generation}
	if r, _ := w.request(stop, -1); r.Code != wire.CodeDone {
		t.Fatalf("stop: %s", r.Code)
	}
	if r, _ := w.request(start, -1); r.Code != wire.CodeStale || w.state != wire.StateDown {
		t.Errorf("a start from before the stop: %s, state %s; want stale and down", r.Code, w.state)
	}
	s = w.status(t)
	start.Generation = s.Generation
	if r, _ := w.request(start, -1); r.Code != wire.CodeDone {
		t.Fatalf("start: %s (%s)", r.Code, r.Word)
	}
	if r, _ := w.request(stop, -1); r.Code != wire.CodeStale || w.state != wire.StateUp {
		t.Errorf("the stop again: %s, state %s; want stale and up", r.Code, w.state)
	}
	s = w.status(t)
	restart := wire.Request{Verb: wire.VerbRestart, Service: "web", Own: s.Token, Generation: s.Generation, New: vector("a")}
	for i, want := range []wire.Code{wire.CodeDone, wire.CodeAlready} {
		if r, _ := w.request(restart, -1); r.Code != want || w.restarts != 1 {
			t.Errorf("restart no. %d: %s after %d restarts, want %s after 1", i+1, r.Code, w.restarts, want)
		}
	}
}

// Unreadable is unknown: nothing is concluded from it, and only a restart that
// a person asks for makes it known again.
func TestUnreadableState(t *testing.T) {
	w := upSince(vector("b"))
	w.disk[20] ^= 1
	if s := w.status(t); s.State != wire.StateUp {
		t.Errorf("STATUS says %s: the instance itself can be seen", s.State)
	}
	for _, verb := range []wire.Verb{wire.VerbEnsure, wire.VerbStart, wire.VerbStop, wire.VerbReload} {
		if r, _ := w.request(wire.Request{Verb: verb, Service: "web", New: vector("b")}, -1); r.Code != wire.CodeUnknown {
			t.Errorf("%s replied %s, want unknown", verb, r.Code)
		}
	}
	r, _ := w.request(wire.Request{Verb: wire.VerbRestart, Service: "web", Own: "life:1", New: vector("b")}, -1)
	if s := w.status(t); r.Code != wire.CodeDone || !s.Basis.Equal(vector("b")) {
		t.Errorf("restart replied %s (%s) and left basis %v", r.Code, r.Word, s.Basis)
	}
}

func TestFullDiskChangesNothing(t *testing.T) {
	w := upSince(vector("a"))
	w.fullDisk = true
	r, _ := w.request(ensure(vector("a"), vector("b")), -1)
	if r.Code != wire.CodeError || w.restarts != 0 {
		t.Errorf("replied %s after %d restarts; want an error and none", r.Code, w.restarts)
	}
}

// Up without a main process that can be named says nothing yet: no intent is
// judged by it, nothing is started a second time.
func TestUpWithoutTokenDecidesNothing(t *testing.T) {
	for _, in := range []*Intent{
		{Verb: wire.VerbEnsure, Do: initsys.Restart, Own: "life:1", New: vector("b"), Wanted: wire.WantedUp},
		{Verb: wire.VerbStop, Do: initsys.Stop, Own: "life:1", New: vector("a"), Wanted: wire.WantedDown},
	} {
		m, _ := NewMachine("web@web1", ensure(vector("a"), vector("b"))).Step(Begin{})
		m, _ = m.Step(Locked{OK: true})
		m, _ = m.Step(Loaded{Record: Record{Instance: "web@web1", Generation: 3, Wanted: wire.WantedUp, Seen: wire.StateUp, Basis: vector("a"), Intent: in}})
		_, effect := m.Step(Looked{Look: Look{State: wire.StateUp, Word: "no pid file yet"}})
		if a, ok := effect.(Answer); !ok || a.Reply.Code != wire.CodeBusy {
			t.Errorf("with an intent to %s: %#v, want it to answer busy", in.Do, effect)
		}
	}
}

// What a person does by hand counts: an instance that was held, and was started
// and stopped by hand since, is stopped on purpose; one that was stopped on
// purpose, and started by hand since, has failed when it failed.
func TestByHandCounts(t *testing.T) {
	t.Run("held, started, stopped", func(t *testing.T) {
		w := upSince(vector("a"))
		s := w.status(t)
		w.request(wire.Request{Verb: wire.VerbStop, Service: "web", Hold: true, Generation: s.Generation}, -1)
		w.state, w.life = wire.StateUp, w.life+1
		w.request(ensure(vector("a"), vector("a")), -1)
		w.state = wire.StateDown
		if r, _ := w.request(ensure(vector("a"), vector("b")), -1); r.Code != wire.CodeWaived {
			t.Errorf("ENSURE replied %s, want waived", r.Code)
		}
	})
	t.Run("waived, started, failed", func(t *testing.T) {
		w := upSince(vector("a"))
		w.state = wire.StateDown
		w.request(ensure(vector("a"), vector("b")), -1)
		w.state, w.life = wire.StateUp, w.life+1
		w.state = wire.StateFailed
		if r, _ := w.request(ensure(vector("b"), vector("c")), -1); r.Code != wire.CodeDone || w.state != wire.StateUp {
			t.Errorf("ENSURE replied %s, state %s: want it started", r.Code, w.state)
		}
	})
}

// An intent whose outcome can be told is told by a mere look: a hook that only
// waits for its upstream must not be held up by a run that was cut off.
func TestStatusConcludes(t *testing.T) {
	for crash := range 24 {
		w := upSince(vector("a"))
		if _, ended := w.request(ensure(vector("a"), vector("b")), crash); ended {
			break
		}
		s := w.status(t)
		if s.State == wire.StateUp && s.Intent {
			t.Errorf("crash at %d: up, and an intent is on record yet", crash)
		}
		if want := vector(map[bool]string{true: "b", false: "a"}[w.life == 2]); !s.Basis.Equal(want) {
			t.Errorf("crash at %d: in life %d its basis is %v, want %v", crash, w.life, s.Basis, want)
		}
	}
	// A stop that was cut off after it happened is a hold, or on purpose, as it
	// was meant.
	for _, hold := range []bool{true, false} {
		w := upSince(vector("a"))
		s := w.status(t)
		w.request(wire.Request{Verb: wire.VerbStop, Service: "web", Hold: hold, Generation: s.Generation}, 14)
		want := map[bool]wire.Wanted{true: wire.WantedHeld, false: wire.WantedDown}[hold]
		if s := w.status(t); s.State != wire.StateDown || s.Wanted != want || s.Intent {
			t.Errorf("hold %t, cut off: %s, wanted %s, intent %t", hold, s.State, s.Wanted, s.Intent)
		}
	}
}

// A reload that failed owes no start to what is stopped by hand afterwards.
func TestReloadOwesNoStart(t *testing.T) {
	w := upSince(vector("a"))
	q := ensure(vector("a"), vector("b"))
	q.Reaction = wire.ReactReload
	w.request(q, 13) // told, and cut off
	w.running = ""
	w.state = wire.StateDown
	if r, _ := w.request(ensure(vector("a"), vector("b")), -1); r.Code != wire.CodeWaived {
		t.Errorf("ENSURE replied %s, want waived", r.Code)
	}
}

// A failed start that is made up for serves the newest basis at once.
func TestOneStartForTwoDebts(t *testing.T) {
	w := upSince(vector("a"))
	w.broken = true
	w.request(ensure(vector("a"), vector("b")), -1)
	w.broken = false
	late, q := ensure(vector("a"), vector("b")), ensure(vector("a"), vector("c"))
	late.Generation, q.Generation = 3, w.status(t).Generation
	r, _ := w.request(q, -1)
	if s := w.status(t); r.Code != wire.CodeDone || !s.Basis.Equal(vector("c")) || w.life != 2 {
		t.Errorf("replied %s (%s), basis %v, life %d; want done, c, 2", r.Code, r.Word, s.Basis, w.life)
	}
	if r, _ := w.request(late, -1); r.Code != wire.CodeStale {
		t.Errorf("one that comes late: %s (%s)", r.Code, r.Word)
	}
}

// One that was read before the intent was written has the older news of the two.
func TestLateNewsDoesNotReplaceAnIntent(t *testing.T) {
	w := upSince(vector("a"))
	w.broken = true
	w.request(ensure(vector("a"), vector("c")), -1)
	w.broken = false
	late := ensure(vector("a"), vector("b"))
	late.Generation = 3
	w.request(late, -1)
	if s := w.status(t); !s.Basis.Equal(vector("c")) || w.life != 2 {
		t.Errorf("basis %v, life %d; want c, 2", s.Basis, w.life)
	}
}

// Once its record has moved on, no ENSURE passes that was given a slot for what it
// was before; one that needs no slot goes by the basis alone.
func TestFence(t *testing.T) {
	w := upSince(vector("a"))
	q := ensure(vector("a"), vector("b"))
	q.Generation = 3
	fence := wire.Request{Verb: wire.VerbFence, Service: "web", Generation: 3}
	if r, _ := w.request(fence, -1); r.Code != wire.CodeDone || r.Status.Generation != 4 {
		t.Fatalf("fence: %s, generation %d", r.Code, r.Status.Generation)
	}
	if r, _ := w.request(fence, -1); r.Code != wire.CodeAlready || r.Status.Generation != 4 {
		t.Errorf("fence again: %s, generation %d", r.Code, r.Status.Generation)
	}
	if r, _ := w.request(q, -1); r.Code != wire.CodeStale || w.life != 1 {
		t.Errorf("the late ENSURE: %s, life %d", r.Code, w.life)
	}
	q.Generation = 4
	if r, _ := w.request(q, -1); r.Code != wire.CodeDone || w.life != 2 {
		t.Errorf("one that looked again: %s (%s), life %d", r.Code, r.Word, w.life)
	}
}

// A fence neither starts what is owed its start nor forgets that it is.
func TestFenceLeavesAnIntent(t *testing.T) {
	w := upSince(vector("a"))
	w.broken = true
	w.request(ensure(vector("a"), vector("b")), -1)
	w.broken = false
	g := w.status(t).Generation
	r, _ := w.request(wire.Request{Verb: wire.VerbFence, Service: "web", Generation: g}, -1)
	if s := w.status(t); r.Code != wire.CodeDone || !s.Intent || s.State != wire.StateFailed || s.Generation != g+1 {
		t.Errorf("%s, then %+v", r.Code, s)
	}
}

// Reactions that nobody asked for in person have a budget; when it is spent the
// instance is left alone until the oldest is out of it, or a person says so.
func TestBudget(t *testing.T) {
	w := upSince(vector("0"))
	at := 0
	react := func(person bool) wire.Reply {
		q := ensure(w.record(t).Basis, vector(fmt.Sprint(at+1)))
		if !person {
			q.Budget, q.Within = 3, time.Minute
		}
		r, _ := w.request(q, -1)
		if r.Code == wire.CodeDone {
			at++
		}
		return r
	}
	for n := range 3 {
		w.now = time.Duration(n) * 10 * time.Second
		if r := react(false); r.Code != wire.CodeDone {
			t.Fatalf("reaction %d: %s (%s)", n, r.Code, r.Word)
		}
	}
	for range 2 { // the hold is on record from the first
		if r := react(false); r.Code != wire.CodeOnHold || w.life != 4 {
			t.Fatalf("one too many: %s, life %d", r.Code, w.life)
		}
		if s := w.status(t); s.OnHold != 40*time.Second {
			t.Errorf("on hold for %s, want 40s", s.OnHold)
		}
	}
	if r := react(true); r.Code != wire.CodeDone || w.status(t).OnHold != 0 {
		t.Errorf("a person's: %s", r.Code)
	}
	if r := react(false); r.Code != wire.CodeOnHold {
		t.Errorf("and again by itself: %s", r.Code)
	}
	release := wire.Request{Verb: wire.VerbRelease, Service: "web"}
	if r, _ := w.request(release, -1); r.Code != wire.CodeDone || w.status(t).OnHold != 0 {
		t.Errorf("release: %s", r.Code)
	}
	if r, _ := w.request(release, -1); r.Code != wire.CodeAlready {
		t.Errorf("release again: %s", r.Code)
	}
	if r := react(false); r.Code != wire.CodeDone {
		t.Errorf("after a release: %s (%s)", r.Code, r.Word)
	}
	react(false)
	react(false)
	w.now = 5 * time.Minute
	if r := react(false); r.Code != wire.CodeDone {
		t.Errorf("when all is calm: %s (%s)", r.Code, r.Word)
	}
}

// However long a budget is, its hold is one that can be read, and that ends.
func TestLongBudget(t *testing.T) {
	for _, within := range []time.Duration{10 * 365 * 24 * time.Hour, math.MaxInt64 / time.Millisecond * time.Millisecond} {
		w := upSince(vector("0"))
		w.now = time.Minute
		for n, want := range []wire.Code{wire.CodeDone, wire.CodeOnHold} {
			q := ensure(w.record(t).Basis, vector(fmt.Sprint(n+1)))
			q.Budget, q.Within = 1, within
			if r, _ := w.request(q, -1); r.Code != want {
				t.Errorf("1 in %s, reaction %d: %s (%s)", within, n, r.Code, r.Word)
			}
		}
		if s := w.status(t); s.OnHold != 24*time.Hour {
			t.Errorf("1 in %s: on hold for %s, want a day", within, s.OnHold)
		}
	}
}

// A runner that saw it down has no slot for a restart: what somebody else has
// started since is stale to it.
func TestStartOnly(t *testing.T) {
	w := upSince(vector("a"))
	q := ensure(vector("a"), vector("b"))
	q.Down = true
	if r, _ := w.request(q, -1); r.Code != wire.CodeStale || w.life != 1 {
		t.Errorf("up by now: %s, life %d", r.Code, w.life)
	}
	w.state = wire.StateFailed
	if r, _ := w.request(q, -1); r.Code != wire.CodeDone || w.life != 2 {
		t.Errorf("down as it was: %s (%s), life %d", r.Code, r.Word, w.life)
	}
}

// A reload that finds what somebody else has just finished does not put the older
// basis back that its runner read.
func TestReloadKeepsANewerBasis(t *testing.T) {
	var w *world
	for crash := 0; w == nil || w.life == 1; crash++ { // a gate dies with the restart done, and not on record
		w = upSince(vector("a"))
		w.request(ensure(vector("a"), vector("b")), crash)
	}
	r := w.record(t)
	if r.Intent == nil {
		t.Fatalf("no intent is left: %+v", r)
	}
	q := wire.Request{Verb: wire.VerbReload, Service: "web", Generation: r.Generation, New: r.Basis}
	if reply, _ := w.request(q, -1); reply.Code != wire.CodeStale {
		t.Errorf("the reload: %s (%s)", reply.Code, reply.Word)
	}
	if s := w.status(t); !s.Basis.Equal(vector("b")) {
		t.Errorf("its basis is %v", s.Basis)
	}
}

// A restart that a person asks for, of what is owed its start, is one start against
// what was read for it.
func TestRestartOfWhatIsOwed(t *testing.T) {
	w := upSince(vector("a"))
	w.broken = true
	w.request(ensure(vector("a"), vector("b")), -1)
	w.broken = false
	s := w.status(t)
	q := wire.Request{Verb: wire.VerbRestart, Service: "web", Own: s.Token, Generation: s.Generation, New: vector("c")}
	if r, _ := w.request(q, -1); r.Code != wire.CodeDone || w.life != 2 {
		t.Fatalf("%s (%s), life %d", r.Code, r.Word, w.life)
	}
	if s := w.status(t); !s.Basis.Equal(vector("c")) {
		t.Errorf("its basis is %v, and so it would be restarted once more", s.Basis)
	}
}

// What goes down while it is probed is told as busy: its record and its state would
// be of two moments, and it would look stopped on purpose.
func TestStatusIsOfOneMoment(t *testing.T) {
	w := upSince(vector("a"))
	m, effect := NewMachine("web@web1", wire.Request{Verb: wire.VerbStatus, Service: "web"}).Step(Begin{})
	for {
		if a, ok := effect.(Answer); ok {
			if a.Reply.Code != wire.CodeBusy || a.Reply.Status != nil {
				t.Errorf("%s, %+v", a.Reply.Code, a.Reply.Status)
			}
			return
		}
		if _, ok := effect.(Ask); ok {
			w.state = wire.StateDown
		}
		m, effect = m.Step(w.perform(effect))
	}
}

// What a STATUS found out is on record: stopped by hand after that, the instance is
// not taken for one that is owed its start.
func TestStatusPutsOnRecord(t *testing.T) {
	var w *world
	for crash := 0; w == nil || w.life == 1; crash++ {
		w = upSince(vector("a"))
		w.request(ensure(vector("a"), vector("b")), crash)
	}
	w.status(t)
	w.state = wire.StateDown
	if r, _ := w.request(ensure(vector("b"), vector("c")), -1); r.Code != wire.CodeWaived || w.life != 2 {
		t.Errorf("%s (%s), life %d", r.Code, r.Word, w.life)
	}
}

// A full disk keeps nobody from looking.
func TestStatusOnAFullDisk(t *testing.T) {
	w := upSince(vector("a"))
	w.broken = true
	w.request(ensure(vector("a"), vector("b")), -1)
	w.letGo()
	w.broken, w.fullDisk = false, true
	w.letGo()
	if s := w.status(t); s.State != wire.StateUp || s.Intent || !s.Basis.Equal(vector("b")) || w.record(t).Intent == nil {
		t.Errorf("%+v", s)
	}
}

// TestStatusTellsLife: what the instance itself says of its incarnation is told only
// of one that is up, and together with init's token.
func TestStatusTellsLife(t *testing.T) {
	w := upSince(vector("a"))
	w.asked = Asked{Ready: true, Degraded: true, Word: "read-only", Life: "17", Age: time.Hour, Held: []wire.Held{{Upstream: "db@db1", Open: 1}}}
	s := w.status(t)
	if s.Incarnation() != "life:1+17" || !s.Ready || !s.Degraded || s.Word != "read-only" || s.Age != time.Hour || len(s.Held) != 1 {
		t.Errorf("told %+v", s)
	}
	// Its age is that of the younger part, and unknown where the life has none.
	for _, x := range []struct{ unit, told, want time.Duration }{
		{2 * time.Hour, time.Hour, time.Hour}, {time.Minute, time.Hour, time.Minute}, {time.Hour, 0, 0},
	} {
		w.age, w.asked = x.unit, Asked{Ready: true, Life: "17", Age: x.told}
		if got := w.status(t).Age; got != x.want {
			t.Errorf("a life of %v in a unit of %v is %v old; want %v", x.told, x.unit, got, x.want)
		}
	}
	w.asked = Asked{Word: "starting up", Life: wire.LifeUntold}
	if s := w.status(t); s.Incarnation() != "" || s.Token != "life:1" || s.Ready || s.Degraded {
		t.Errorf("of one that does not say it: %+v", s)
	}
	w.state = wire.StateDown
	if s := w.status(t); s.Life != "" || s.Incarnation() != "" {
		t.Errorf("of one that is down: %+v", s)
	}
}
