package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// TestWantedAndUnseen: what only wants an upstream, and does not see it from its own
// host, is passed over, and said to be behind; a hook's announcement says so, too, and does
// not go on and on.
func TestWantedAndUnseen(t *testing.T) {
	t.Parallel()
	l := shop()
	l.units[0].ready = []string{`{file: "$ROOT/sight", from: dependent}`}
	l.units[1].after = []string{"db: {strength: wants}"}
	s := newSite(t, l)
	sight := func(host string) string { return filepath.Join(s.host(t, host).dir, "sight") }
	for _, web := range []string{"web1", "web2"} {
		s.write(t, sight(web), "")
	}
	s.must(t, 0, "up")

	if err := os.Remove(sight("web1")); err != nil {
		t.Fatal(err)
	}
	s.byHand(t, "db@db1", "restart")
	s.must(t, 0, "announce", "db").want(t, 0, "web@web1: nothing to do: it goes on without db@db1 for now: as seen from web1: ", "web@web2: done in ")
	s.must(t, 3, "announce", "--keep-trying", "db").want(t, 3,
		"kido: web@web1 is behind: db@db1 has a new incarnation since web@web1 was started", "hint: see why with: kido status; then: kido announce db")
	s.must(t, 0, "status").want(t, 0, "waits for db@db1")

	s.write(t, sight("web1"), "")
	s.must(t, 0, "announce", "db").want(t, 0, "web@web1: done in ")
	s.must(t, 0, "status")
}
