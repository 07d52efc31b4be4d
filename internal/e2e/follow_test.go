package e2e

import (
	"os"
	"testing"
)

// TestFollow: with an init that restarts nothing along with the database, kido
// stays, and announces every new start of it, by whatever hand; what a start
// overtakes is owed against the next one.
func TestFollow(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	n := s.up(t)
	follower := s.begin(t, nil, "announce", "db", "--follow", "--keep-trying", "--here", "db1", "--policy", s.host(t, "db1").policy)
	for range 2 {
		s.byHand(t, "db@db1", "restart")
		until(t, "both web servers were restarted", func() bool {
			h := s.since(t, n)
			return len(h.of("web@web1", readied)) == 1 && len(h.of("web@web2", readied)) == 1
		})
		s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
		n = len(s.history(t))
	}

	// web1 is held up in its restart; meanwhile the database starts once more.
	slow := s.holdAt(t, "web@web1", startFile)
	s.byHand(t, "db@db1", "restart")
	slow.reached(t)
	s.byHand(t, "db@db1", "restart")
	slow.release(t)
	until(t, "all are fresh", func() bool {
		st := s.status(t)
		return st.of(t, "web@web1").Fresh && st.of(t, "web@web2").Fresh
	})
	if err := follower.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	follower.end(t)
	s.allFresh(t)

	s.kido(t, "announce", "db", "--follow", "--here", "none").want(t, 2, "none of the targets runs on this host")
}
