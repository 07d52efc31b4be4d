package gate

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kido/internal/initsys"
	"kido/internal/wire"
)

// steady is a unit that is up and has no actions.
type steady struct{}

func (steady) Observe(context.Context) (initsys.Observation, error) {
	return initsys.Observation{State: initsys.Up, Token: "t"}, nil
}

func (steady) Prepare(context.Context, initsys.Action) (initsys.Job, error) {
	return nil, initsys.ErrUnsupported
}

func folder(t *testing.T) *os.Root {
	t.Helper()
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

// A probe that hangs holds up nobody who has something to do.
func TestProbesHoldNoLock(t *testing.T) {
	probing, done := make(chan bool), make(chan bool)
	i := &Instance{Name: "web@web1", Key: "web", Unit: steady{}, Dir: folder(t), Timeout: time.Minute, Ask: func(context.Context, Ask) Asked {
		probing <- true
		<-done
		return Asked{Ready: true}
	}}
	answer := make(chan wire.Reply)
	go func() { answer <- i.Do(context.Background(), wire.Request{Verb: wire.VerbStatus}) }()
	<-probing
	if r := i.Do(context.Background(), wire.Request{Verb: wire.VerbEnsure}); r.Code != wire.CodeAlready {
		t.Errorf("ENSURE meanwhile: %s (%s)", r.Code, r.Word)
	}
	close(done)
	if r := <-answer; r.Code != wire.CodeOK || !r.Status.Ready {
		t.Errorf("STATUS: %+v", r)
	}
}

// Unknown must not turn into empty by a write that fails half way.
func TestUnreadableStaysUnknown(t *testing.T) {
	dir := folder(t)
	if err := dir.WriteFile("web.state", []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := (&Instance{Name: "web@web1", Key: "web", Dir: dir}).performer(0)
	save := func() error { return p.file.save(Record{Instance: "web@web1"}.Format(), true) }
	if err := os.MkdirAll(filepath.Join(dir.Name(), "web.state.new", "x"), 0o700); err != nil { // in the way of the write
		t.Fatal(err)
	}
	if err := save(); err == nil {
		t.Fatal("the write did not fail")
	}
	if l := p.load().(Loaded); l.Unreadable == "" {
		t.Errorf("then it reads as %+v", l)
	}
	if err := dir.RemoveAll("web.state.new"); err != nil {
		t.Fatal(err)
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
	if text, err := dir.ReadFile("web.state.unreadable"); err != nil || string(text) != "garbage" {
		t.Errorf("set aside: %q, %v", text, err)
	}
}
