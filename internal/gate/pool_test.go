package gate

import (
	"context"
	"reflect"
	"testing"

	"kido/internal/wire"
)

func slot(verb wire.Verb, member, run string, generation uint64) wire.Request {
	return wire.Request{Verb: verb, Service: "web", Member: member, Run: run, Generation: generation, Most: 1}
}

func TestPool(t *testing.T) {
	p := Pool{Service: "web"}
	for n, c := range []struct {
		q     wire.Request
		want  wire.Code
		slots []wire.Slot
	}{
		{slot(wire.VerbTake, "web@web1", "", 7), wire.CodeInvalid, nil},
		{slot(wire.VerbTake, "web@web1", "a", 7), wire.CodeDone, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 7}}},
		{slot(wire.VerbTake, "web@web1", "a", 7), wire.CodeAlready, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 7}}},
		// Another run may see to the same member: it cannot be down twice. Each gives
		// back its own.
		{slot(wire.VerbTake, "web@web1", "b", 8), wire.CodeDone, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 7}, {Member: "web@web1", Run: "b", Generation: 8}}},
		{slot(wire.VerbTake, "web@web2", "c", 3), wire.CodeBusy, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 7}, {Member: "web@web1", Run: "b", Generation: 8}}},
		{slot(wire.VerbGive, "web@web1", "b", 8), wire.CodeDone, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 7}}},
		{slot(wire.VerbTake, "web@web2", "b", 3), wire.CodeBusy, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 7}}},
		{slot(wire.VerbTake, "web@web1", "a", 9), wire.CodeDone, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 9}}},
		{slot(wire.VerbGive, "web@web1", "a", 7), wire.CodeAlready, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 9}}},
		{slot(wire.VerbGive, "web@web1", "b", 9), wire.CodeAlready, []wire.Slot{{Member: "web@web1", Run: "a", Generation: 9}}},
		{slot(wire.VerbGive, "web@web1", "a", 9), wire.CodeDone, nil},
		{slot(wire.VerbTake, "web@web2", "b", 3), wire.CodeDone, []wire.Slot{{Member: "web@web2", Run: "b", Generation: 3}}},
		{slot(wire.VerbRelease, "web@web1", "", 0), wire.CodeAlready, []wire.Slot{{Member: "web@web2", Run: "b", Generation: 3}}},
		{slot(wire.VerbRelease, "web@web2", "", 0), wire.CodeDone, nil},
	} {
		var r wire.Reply
		p, r = p.Step(c.q)
		if r.Code != c.want || len(p.Slots) != len(c.slots) || len(c.slots) > 0 && !reflect.DeepEqual(p.Slots, c.slots) {
			t.Errorf("%d: %s of %s by %s: %s, %+v; want %s, %+v", n, c.q.Verb, c.q.Member, c.q.Run, r.Code, p.Slots, c.want, c.slots)
		}
		if r.Code == wire.CodeBusy && !reflect.DeepEqual(r.Slots, p.Slots) {
			t.Errorf("%d: busy, and does not say for whom: %+v", n, r.Slots)
		}
	}
}

// A pool is kept on disk, and one that cannot be believed is unknown, not empty.
func TestKeep(t *testing.T) {
	dir := folder(t)
	g := &Gate{policy: &Policy{Host: "web1"}, dir: dir}
	s := &PolicyService{Name: "web"}
	keep := func(q wire.Request) wire.Code { return g.keep(context.Background(), s, q).Code }
	if code := keep(slot(wire.VerbTake, "web@web1", "a", 7)); code != wire.CodeDone {
		t.Fatalf("take: %s", code)
	}
	if code := keep(slot(wire.VerbTake, "web@web2", "b", 7)); code != wire.CodeBusy {
		t.Errorf("take by another: %s", code)
	}
	if err := dir.WriteFile("web.pool", []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := keep(slot(wire.VerbTake, "web@web2", "b", 7)); code != wire.CodeUnknown {
		t.Errorf("take from what cannot be read: %s", code)
	}
	if code := keep(slot(wire.VerbRelease, "web@web1", "", 0)); code != wire.CodeDone {
		t.Errorf("release: %s", code)
	}
	if text, err := dir.ReadFile("web.pool.unreadable"); err != nil || string(text) != "garbage" {
		t.Errorf("set aside: %q, %v", text, err)
	}
	if code := keep(slot(wire.VerbTake, "web@web2", "b", 7)); code != wire.CodeDone {
		t.Errorf("take after that: %s", code)
	}
}
