package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// midway makes a site whose next restart of db is held where app@h2 is being
// restarted and web@h3 waits for that.
func midway(t testing.TB) (s *site, n int, slow *hold) {
	t.Helper()
	s = newSite(t, three("restart"))
	n = s.up(t)
	return s, n, s.holdAt(t, "app@h2", startFile)
}

// leftOnRecord waits until the journal says that a step was left undone.
func (s *site) leftOnRecord(t testing.TB, instance string) {
	t.Helper()
	until(t, instance+" is on record as left", func() bool {
		names, err := filepath.Glob(filepath.Join(s.state, "runs", "*.journal"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			for line := range strings.Lines(s.read(t, name)) {
				if strings.Contains(line, `"instance":"`+instance+`","phase":"left"`) {
					return true
				}
			}
		}
		return false
	})
}

// TestInterrupt: after a signal kido waits for what it has begun, begins nothing
// more, and says what is left; then a resume finishes it and repeats nothing.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]os.Signal{"Ctrl-C": os.Interrupt, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, n, slow := midway(t)
			run := s.begin(t, nil, "restart", "db")
			slow.reached(t)
			if err := run.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			s.leftOnRecord(t, "web@h3")
			slow.release(t) // kido must be there to hear of it
			run.end(t).want(t, 130, "web@h3 owes a reaction to app@h2", "kido resume")
			s.since(t, n).counts(t, map[string]int{"db@h1": 1, "app@h2": 1})
			st := s.status(t)
			st.owes(t, "web@h3", "app@h2")
			if i := st.of(t, "app@h2"); !i.Fresh {
				t.Errorf("app@h2 was restarted and is not fresh: %s", st.result)
			}

			s.must(t, 0, "resume")
			s.since(t, n).counts(t, map[string]int{"db@h1": 1, "app@h2": 1, "web@h3": 1})
			s.allFresh(t)
			s.must(t, 0, "resume").want(t, 0, "nothing to resume")
		})
	}
}

// TestInterruptTwice: a second Ctrl-C ends kido at once; the gate ends what it has
// begun all the same.
func TestInterruptTwice(t *testing.T) {
	t.Parallel()
	s, n, slow := midway(t)
	run := s.begin(t, nil, "restart", "db")
	slow.reached(t)
	if err := run.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.leftOnRecord(t, "web@h3")
	if err := run.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	run.end(t).want(t, -1)
	slow.release(t)
	s.must(t, 0, "restart", "db").want(t, 0, "going on with run")
	s.since(t, n).counts(t, map[string]int{"db@h1": 1, "app@h2": 1, "web@h3": 1})
	s.allFresh(t)
}

// TestTerminalClosed: when the terminal is closed in the midst of a run, kido
// stops at a safe point, and what is owed is on record.
func TestTerminalClosed(t *testing.T) {
	t.Parallel()
	s, n, slow := midway(t)
	cmd := s.command(t.Context(), "restart", "db")
	cmd.Env = append(cmd.Env, "TERM=xterm")
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	slow.reached(t)
	if err := terminal.Close(); err != nil {
		t.Fatal(err)
	}
	s.leftOnRecord(t, "web@h3")
	slow.release(t)
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("kido ended with %v, want exit status 130", cmd.ProcessState)
	}
	s.since(t, n).counts(t, map[string]int{"db@h1": 1, "app@h2": 1})
	s.status(t).owes(t, "web@h3", "app@h2")
	s.must(t, 0, "resume")
	s.since(t, n).counts(t, map[string]int{"db@h1": 1, "app@h2": 1, "web@h3": 1})
	s.allFresh(t)
}
