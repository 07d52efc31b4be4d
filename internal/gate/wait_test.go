package gate

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kido/internal/initsys"
	"kido/internal/probe"
	"kido/internal/wire"
)

func TestWaiter(t *testing.T) {
	t.Parallel()
	const s = time.Second
	wait := Wait{Timeout: 60 * s, Grace: 10 * s}
	leave := wait
	leave.Leave = true
	ready := Sight{Generation: 3, Wanted: wire.WantedUp, Ready: true}
	not := Sight{Generation: 3, Wanted: wire.WantedUp, Word: "db: refused"}
	told := Sight{Generation: 4, Wanted: wire.WantedUp}
	type at struct {
		time.Duration
		Sight
	}
	for _, c := range []struct {
		name  string
		wait  Wait
		sees  []at
		over  bool
		leave bool
		word  string
	}{
		{"nothing answers", wait, []at{{0, not}, {59 * s, not}}, false, false, "db: refused"},
		{"never", wait, []at{{0, not}, {60 * s, not}}, true, false, "started all the same"},
		{"never, and left", leave, []at{{0, not}, {60 * s, not}}, true, true, "not started"},
		{"answers, and a run may come", wait, []at{{0, ready}, {9 * s, ready}}, false, false, "may be about to tell"},
		{"answers, and no run came", wait, []at{{0, ready}, {10 * s, ready}}, true, false, "all that it needs answers"},
		{"answers again: the grace begins anew", wait, []at{{0, ready}, {5 * s, not}, {6 * s, ready}, {15 * s, ready}}, false, false, "may be"},
		{"a run tells", wait, []at{{0, not}, {s, told}}, true, false, "a run of kido"},
		{"a record of before the wait tells nothing", wait, []at{{0, told}, {s, told}}, false, false, ""},
		{"stopped meanwhile", wait, []at{{0, not}, {s, Sight{Generation: 4, Wanted: wire.WantedDown}}}, true, true, "stopped on purpose"},
		{"a gate is at work", wait, []at{{0, Sight{Starting: true}}}, true, false, "kido itself"},
		{"called off", leave, []at{{0, not}, {s, Sight{Generation: 3, CalledOff: true}}}, true, false, "not about to start it"},
		{"up already", leave, []at{{0, Sight{Up: true}}}, true, false, "runs already"},
		{"never, though it answered once", wait, []at{{0, ready}, {s, not}, {60 * s, not}}, true, false, "started all the same"},
		{"ready at the last moment", leave, []at{{0, not}, {50 * s, ready}, {60 * s, ready}}, true, false, "answers"},
	} {
		w := NewWaiter(c.wait)
		var v Verdict
		for i, see := range c.sees {
			if v.Over {
				t.Errorf("%s: over before look %d: %+v", c.name, i, v)
			}
			w, v = w.Step(see.Duration, see.Sight)
		}
		if v.Over != c.over || v.Leave != c.leave || !strings.Contains(v.Word, c.word) {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

// heldSince is an instance at whose start at boot a waiter looks, started last
// against basis.
func heldSince(basis wire.Vector, in *Intent) *world {
	w := &world{state: wire.StateDown, life: 1, waiter: true, seen: 3}
	w.disk = Record{Instance: "web@web1", Generation: 3, Wanted: wire.WantedUp, Seen: wire.StateUp, Own: "life:1", Basis: basis, Intent: in}.Format()
	return w
}

// TestHeldStart: whatever is asked for while init's own start is held, that start
// serves it: the instance is started once, and its basis is what was ready.
func TestHeldStart(t *testing.T) {
	t.Parallel()
	old, next := vector("a"), vector("b")
	cut := func(do initsys.Action, wanted wire.Wanted) *Intent {
		return &Intent{Verb: wire.VerbEnsure, Do: do, Own: "life:1", New: vector("between"), Wanted: wanted}
	}
	for _, c := range []struct {
		name string
		w    *world
		q    wire.Request
		code wire.Code
		want wire.Vector
		life int
	}{
		{"ensure", heldSince(old, nil), ensure(old, next), wire.CodeDone, next, 2},
		{"ensure of what is current", heldSince(next, nil), ensure(next, next), wire.CodeDone, next, 2},
		{"ensure with an old look", heldSince(old, nil), ensure(vector("x"), next), wire.CodeStale, old, 1},
		{"ensure behind a restart that was cut off", heldSince(old, cut(initsys.Restart, wire.WantedUp)), ensure(old, next), wire.CodeDone, next, 2},
		{"ensure behind a stop that was cut off", heldSince(old, cut(initsys.Stop, wire.WantedDown)), ensure(old, next), wire.CodeDone, next, 2},
		{"start", heldSince(old, nil), wire.Request{Verb: wire.VerbStart, Generation: 3, New: next}, wire.CodeDone, next, 2},
		{"restart", heldSince(old, nil), wire.Request{Verb: wire.VerbRestart, Generation: 3, New: next}, wire.CodeDone, next, 2},
		{"start with an old look", heldSince(old, nil), wire.Request{Verb: wire.VerbStart, Generation: 2, New: next}, wire.CodeStale, old, 1},
		{"reload", heldSince(old, nil), wire.Request{Verb: wire.VerbReload, Generation: 3}, wire.CodeFailed, old, 1},
		{"hold", heldSince(old, nil), wire.Request{Verb: wire.VerbStop, Hold: true, Generation: 3}, wire.CodeDone, old, 1},
	} {
		if st := c.w.status(t); st.State != wire.StateDown || st.Wanted != wire.WantedHeld {
			t.Errorf("%s: STATUS before: %+v", c.name, st)
		}
		r, _ := c.w.request(c.q, -1)
		if r.Code != c.code || !c.w.record(t).Basis.Equal(c.want) || c.w.life != c.life || c.w.restarts != 0 {
			t.Errorf("%s: %s (%s), basis %v, life %d, %d restarts", c.name, r.Code, r.Word, c.w.record(t).Basis, c.w.life, c.w.restarts)
		}
	}
}

// A start that is let go and never comes is owed: it was not stopped on purpose.
func TestHeldStartNeverComes(t *testing.T) {
	t.Parallel()
	w := heldSince(vector("a"), nil)
	// The gate dies once the intent is on file, and the start that the waiter then
	// lets go is not made: a unit that it needs has failed.
	for effect := 0; w.record(t).Intent == nil; effect++ {
		w.request(ensure(vector("a"), vector("b")), effect)
	}
	w.waiter = false
	if st := w.status(t); st.State != wire.StateDown || st.Wanted != wire.WantedUp || !st.Intent {
		t.Errorf("then: %+v", st)
	}
	q := ensure(vector("a"), vector("c"))
	q.Generation = w.status(t).Generation
	if r, _ := w.request(q, -1); r.Code != wire.CodeDone || w.life != 2 || !w.record(t).Basis.Equal(vector("c")) {
		t.Errorf("asked again: %s (%s), life %d, %+v", r.Code, r.Word, w.life, w.record(t))
	}
}

// A held start that fails is said to have failed, and is owed.
func TestHeldStartFails(t *testing.T) {
	t.Parallel()
	w := heldSince(vector("a"), nil)
	w.broken = true
	if r, _ := w.request(ensure(vector("a"), vector("b")), -1); r.Code != wire.CodeFailed {
		t.Errorf("%s (%s)", r.Code, r.Word)
	}
	if st := w.status(t); st.State != wire.StateFailed || st.Wanted != wire.WantedUp {
		t.Errorf("then: %+v", st)
	}
}

// Stopping what is about to be started ends its start: init is told, and the
// record tells the waiter.
func TestHeldStartIsStopped(t *testing.T) {
	t.Parallel()
	w := heldSince(vector("a"), nil)
	r, _ := w.request(wire.Request{Verb: wire.VerbStop, Generation: 3}, -1)
	if rec := w.record(t); r.Code != wire.CodeDone || rec.Wanted != wire.WantedDown || rec.Intent != nil || w.life != 1 {
		t.Errorf("%s (%s): %+v", r.Code, r.Word, rec)
	}
}

// TestHeldStartCrash: the gate dies at every point; whatever the waiter then
// sees, the instance is started once, and a runner that asks again finds it fresh
// or makes it so.
func TestHeldStartCrash(t *testing.T) {
	t.Parallel()
	old, next := vector("a"), vector("b")
	for crash := 0; ; crash++ {
		w := heldSince(old, nil)
		_, finished := w.request(ensure(old, next), crash)
		w.wait(t)
		for range 3 {
			st := w.status(t)
			if st.State == wire.StateUp && st.Basis.Equal(next) {
				break
			}
			w.request(ensure(st.Basis, next), -1)
		}
		if st := w.status(t); w.life != 2 || !st.Basis.Equal(next) || st.Intent || w.waiter {
			t.Errorf("crash %d: life %d, held %v, %+v", crash, w.life, w.waiter, st)
		}
		if finished {
			return
		}
	}
}

// TestHoldForReal is the whole of it with real files and a real process: a waiter holds,
// a run tells, the start goes on, and is what the run asked for.
func TestHoldForReal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	g, err := Open(parsed(t, fmt.Sprintf(`kido-policy 1
host web1
state %[1]s
service web command
  start /bin/false
  stop /bin/false
  pidfile %[1]s/pid
  wait 600000 600000 start
  await oracle@db1
watch oracle@db1
  ready tcp %[2]s
principal here local
grant here web status ensure
`, dir, db.Addr())), probe.Local{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ask := func(q wire.Request) wire.Reply {
		q.Service = "web"
		return g.Serve(context.Background(), Caller{Identity: IdentityLocal}, q)
	}

	answering := make(chan bool, 1)
	held := make(chan bool, 1)
	go func() {
		start, err := g.Hold(context.Background(), "web", func(word string) {
			if strings.Contains(word, "may be about to tell") {
				answering <- true
			}
		})
		if err != nil {
			t.Error(err)
		}
		held <- start
	}()
	<-answering
	st := ask(wire.Request{Verb: wire.VerbStatus}).Status
	if st == nil || st.State != wire.StateDown || st.Wanted != wire.WantedHeld {
		t.Fatalf("while it is held: %+v", st)
	}
	told := make(chan wire.Reply, 1)
	go func() { told <- ask(ensure(nil, vector("b"))) }()
	if !<-held {
		t.Error("it is not to be started")
	}
	service := exec.Command("/bin/sleep", "600")
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = service.Process.Kill(); _ = service.Wait() }()
	if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Append(nil, service.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := <-told; r.Code != wire.CodeDone {
		t.Errorf("ENSURE: %s (%s)", r.Code, r.Word)
	}
	if st := ask(wire.Request{Verb: wire.VerbStatus}).Status; st.State != wire.StateUp || !st.Basis.Equal(vector("b")) {
		t.Errorf("then: %+v", st)
	}
	if r := ask(ensure(vector("b"), vector("b"))); r.Code != wire.CodeAlready {
		t.Errorf("again: %s (%s)", r.Code, r.Word)
	}
}

// TestHoldInVain: what is left down is owed its start.
func TestHoldInVain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	g, err := Open(parsed(t, fmt.Sprintf(`kido-policy 1
host web1
state %[1]s
service web command
  start /bin/false
  stop /bin/false
  pidfile %[1]s/pid
  wait 1 0 leave
  await oracle@db1
watch oracle@db1
  ready exec /bin/false
principal here local
grant here web status
`, dir)), probe.Local{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	start, err := g.Hold(context.Background(), "web", nil)
	if err != nil || start {
		t.Errorf("start %v, %v", start, err)
	}
	if st := g.Serve(context.Background(), Caller{Identity: IdentityLocal}, wire.Request{Verb: wire.VerbStatus, Service: "web"}).Status; st == nil || st.Wanted != wire.WantedHeld {
		t.Errorf("then: %+v", st)
	}
}
