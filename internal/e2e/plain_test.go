package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// memo is a database, and a web server of the memo: nothing of kido is there, its
// key is locked to one command.
func memo(t testing.TB) (s *site, command string) {
	t.Helper()
	s = newSite(t, layout{attempts: 2, units: []unit{
		{name: "db", on: []string{"db1"}},
		{name: "web", on: []string{"web1"}, after: []string{"db: restart"}, plain: true},
	}})
	return s, fmt.Sprintf("%s %s restart %s", self(t), argService, s.folder(t, "web@web1"))
}

// memoLine is the key line of the memo, word for word but for address and path.
func (s *site) memoLine(t testing.TB, command string) string {
	t.Helper()
	key := s.read(t, s.dir, "id_ed25519.pub")
	return `from="127.0.0.1",no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty,command="` + command + `" ` + key
}

// TestMemo: the memo's own key line is enough: the web server is restarted once,
// after the database was ready, and a second run finds nothing to do.
func TestMemo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		line func(s *site, command string) string
	}{
		{"the memo's line", func(s *site, command string) string { return s.memoLine(t, command) }},
		{"the line that kido prints", func(s *site, command string) string {
			return s.must(t, 0, "keys", "line", "web1", "--from", "127.0.0.1", "--plain", command).out
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, command := memo(t)
			s.host(t, "web1").sshd.SetKeys(c.line(s, command))
			s.must(t, 0, "up")
			n := len(s.history(t))
			s.must(t, 0, "restart", "db")
			h := s.since(t, n)
			h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1})
			h.against(t, "web@web1", "db@db1")
			s.status(t).want(t, 0)

			s.must(t, 0, "announce", "db").want(t, 0, "nothing to do")
			if h := s.since(t, n+len(h)); len(h) > 0 {
				t.Errorf("there was nothing to do:\n%s", h)
			}
		})
	}
}

// TestMemoFails: when the one command fails, its own words are shown, and the debt
// is kept until it works.
func TestMemoFails(t *testing.T) {
	t.Parallel()
	s, command := memo(t)
	s.host(t, "web1").sshd.SetKeys(s.memoLine(t, command))
	s.must(t, 0, "up")
	n := len(s.history(t))
	fail := filepath.Join(s.folder(t, "web@web1"), failFile)
	s.write(t, fail, "httpd: syntax error on line 7")
	s.must(t, 3, "restart", "db").want(t, 3, "httpd: syntax error on line 7", "the command ended with status 1", "web@web1 owes")
	s.status(t).want(t, 3)
	if err := os.Remove(fail); err != nil {
		t.Fatal(err)
	}
	s.must(t, 0, "resume")
	s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web1": 1})
	s.status(t).want(t, 0)
}

// TestUnlockedKey: a key that could run anything is called out.
func TestUnlockedKey(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{true, false} {
		t.Run(fmt.Sprintf("plain=%t", plain), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, layout{units: []unit{
				{name: "db", on: []string{"db1"}},
				{name: "web", on: []string{"web1"}, after: []string{"db: restart"}, plain: plain},
			}})
			s.must(t, 0, "up", "db")
			s.host(t, "web1").sshd.SetKeys(`from="127.0.0.1" ` + s.read(t, s.dir, "id_ed25519.pub"))
			s.must(t, 3, "restart", "db").want(t, 3, "this key is not locked", `hint: put restrict,command="…"`)
			if h := s.history(t).of("web", started); len(h) > 0 {
				t.Errorf("it was started:\n%s", h)
			}
		})
	}
}
