package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRestart: each dependent is restarted once, in order, after the upstream
// was ready; and then there is nothing left to do.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	n := s.up(t)
	slow := s.holdAt(t, "db@db1", holdFile) // up, and not ready
	run := s.begin(t, nil, "restart", "db")
	slow.reached(t)
	// kido has asked, and was told that it is not ready.
	until(t, "kido says that it waits", func() bool { return strings.Contains(run.out.String(), "waiting until ready") })
	s.since(t, n).counts(t, map[string]int{"db@db1": 1})
	slow.release(t)
	run.end(t).want(t, 0)

	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
	ready := h.at(t, "db@db1", readied)
	for _, web := range []string{"web@web1", "web@web2"} {
		if h.at(t, web, stopped) < ready {
			t.Errorf("%s was stopped before db@db1 was ready:\n%s", web, h)
		}
		h.against(t, web, "db@db1")
	}
	s.allFresh(t)

	n = len(s.history(t))
	s.must(t, 0, "announce", "db").want(t, 0, "nothing to do: it is up and fresh")
	if h := s.since(t, n); len(h) > 0 {
		t.Errorf("there was nothing to do:\n%s", h)
	}
}

// TestRolling: of four web servers at most two are down at any time, and of a
// pool of which one is not, no more than one.
func TestRolling(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, line string
		most       int
	}{{"one", "max_unavailable: 1", 1}, {"half", "max_unavailable: 50%", 2}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := shop()
			l.units[1].on = []string{"web1", "web2", "web3", "web4"}
			l.units[1].more = []string{c.line}
			s := newSite(t, l)
			n := s.up(t)
			s.must(t, 0, "restart", "db")
			down, most := 0, 0
			h := s.since(t, n)
			for _, e := range h {
				switch {
				case !strings.HasPrefix(e.Instance, "web@"):
				case e.What == stopped:
					down++
				case e.What == readied:
					down--
				}
				most = max(most, down)
			}
			if most > c.most || down != 0 {
				t.Errorf("%d were down at once, at most %d may be; %d are in the end:\n%s", most, c.most, down, h)
			}
			h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1, "web@web3": 1, "web@web4": 1})
			s.allFresh(t)
		})
	}
}

// session is how the log of sshd tells of one.
const session = "Starting session: forced-command"

// TestTwoRunnersAtOnce: two kido that know nothing of one another, and the same
// event: one restart each.
func TestTwoRunnersAtOnce(t *testing.T) {
	t.Parallel()
	l := shop()
	l.units[1].on = []string{"web1", "web2", "web3"}
	l.units[1].more = []string{"max_unavailable: 3"}
	s := newSite(t, l)
	n := s.up(t)
	s.byHand(t, "db@db1", "restart")
	// The first to come is held in the midst of its work, until the other has
	// seen all of the same debts.
	slow := s.holdAt(t, "web@web1", startFile)
	first := s.begin(t, nil, "announce", "db", "--state", filepath.Join(s.dir, "one"))
	slow.reached(t)
	sessions := strings.Count(s.host(t, "web1").sshd.Log(), session)
	second := s.begin(t, nil, "announce", "db", "--state", filepath.Join(s.dir, "two"))
	s.host(t, "web1").sshd.WaitLog(session, sessions+1)
	slow.release(t)
	first.end(t).want(t, 0)
	second.end(t).want(t, 0)
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1, "web@web3": 1})
	s.allFresh(t)
}

// TestStoppedOnPurpose: what was stopped by `kido stop` or by hand stays so
// through a cascade, which says it, and starts fresh later.
func TestStoppedOnPurpose(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	n := s.up(t)
	s.must(t, 0, "stop", "web@web1")
	s.byHand(t, "web@web2", "stop")
	s.must(t, 0, "restart", "db").want(t, 0, "stopped on purpose")
	s.since(t, n).counts(t, map[string]int{"db@db1": 1})
	st := s.status(t)
	st.want(t, 0)
	for _, web := range []string{"web@web1", "web@web2"} {
		if !st.of(t, web).OnPurpose {
			t.Errorf("%s is not said to be stopped on purpose: %s", web, st.result)
		}
	}
	s.must(t, 0, "up")
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
	h.against(t, "web@web1", "db@db1")
	s.allFresh(t)
}

// three is a chain of three services on three hosts.
func three(reaction string) layout {
	return layout{units: []unit{
		{name: "db", on: []string{"h1"}},
		{name: "app", on: []string{"h2"}, after: []string{"db: " + reaction}},
		{name: "web", on: []string{"h3"}, after: []string{"app: " + reaction}},
	}}
}

// TestUpAndDown: the whole site comes up upstreams first, each once its
// upstreams are ready, and goes down the other way.
func TestUpAndDown(t *testing.T) {
	t.Parallel()
	s := newSite(t, three("restart"))
	slow := s.holdAt(t, "db@h1", holdFile)
	run := s.begin(t, nil, "up")
	slow.reached(t)
	until(t, "kido says that it waits", func() bool { return strings.Contains(run.out.String(), "waiting until ready") })
	slow.release(t)
	run.end(t).want(t, 0)
	h := s.history(t)
	h.counts(t, map[string]int{"db@h1": 1, "app@h2": 1, "web@h3": 1})
	if h.at(t, "db@h1", readied) > h.at(t, "app@h2", started) || h.at(t, "app@h2", readied) > h.at(t, "web@h3", started) {
		t.Errorf("out of order:\n%s", h)
	}
	s.allFresh(t)
	n := len(h)
	s.must(t, 0, "down")
	h = s.since(t, n)
	if len(h) != 3 || h.at(t, "web@h3", stopped) != 0 || h.at(t, "app@h2", stopped) != 1 || h.at(t, "db@h1", stopped) != 2 {
		t.Errorf("out of order:\n%s", h)
	}
	s.must(t, 0, "up", "web")
	s.since(t, n+3).counts(t, map[string]int{"db@h1": 1, "app@h2": 1, "web@h3": 1})
	s.allFresh(t)
}

// TestChain: through a chain each is restarted once, after its own upstream.
func TestChain(t *testing.T) {
	t.Parallel()
	s := newSite(t, three("restart"))
	n := s.up(t)
	s.must(t, 0, "restart", "db")
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@h1": 1, "app@h2": 1, "web@h3": 1})
	h.against(t, "app@h2", "db@h1")
	h.against(t, "web@h3", "app@h2")
	s.allFresh(t)
}

// TestStopFirst: a dependent that stops first is down before the upstream stops,
// and starts once that is ready.
func TestStopFirst(t *testing.T) {
	t.Parallel()
	l := shop()
	l.units[1].after = []string{"db: stop-first"}
	s := newSite(t, l)
	n := s.up(t)
	s.must(t, 0, "restart", "db")
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
	for _, web := range []string{"web@web1", "web@web2"} {
		if h.at(t, web, stopped) > h.at(t, "db@db1", stopped) || h.at(t, web, started) < h.at(t, "db@db1", readied) {
			t.Errorf("%s was up while db@db1 was not:\n%s", web, h)
		}
	}
	s.allFresh(t)
}

// TestReload: a reload is enough: once, and no new incarnation.
func TestReload(t *testing.T) {
	t.Parallel()
	l := shop()
	l.units[1].after = []string{"db: reload"}
	s := newSite(t, l)
	n := s.up(t)
	s.must(t, 0, "restart", "db")
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1})
	for _, web := range []string{"web@web1", "web@web2"} {
		e := h[h.at(t, web, reloaded)]
		if db := h[h.at(t, "db@db1", readied)]; e.Saw["db@db1"] != db.Own {
			t.Errorf("%s was reloaded against %s, want %s:\n%s", web, e.Saw["db@db1"], db.Own, h)
		}
	}
	s.allFresh(t)
	n += len(h)
	s.must(t, 0, "announce", "db")
	if h := s.since(t, n); len(h) > 0 {
		t.Errorf("there was nothing to do:\n%s", h)
	}
}

// TestAnyOf: one ready upstream of several is enough to go on.
func TestAnyOf(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{units: []unit{
		{name: "db", on: []string{"db1", "db2"}},
		{name: "web", on: []string{"web1"}, after: []string{"db: {on_restart: restart, of: any}"}},
	}})
	n := s.up(t)
	s.byHand(t, "db@db2", "stop")
	s.must(t, 0, "restart", "db@db1")
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1})
	if saw := h[h.at(t, "web@web1", started)].Saw; saw["db@db2"] != "-" {
		t.Errorf("db@db2 was up: %v", saw)
	}
	h.at(t, "db@db1", readied)
	if st := s.status(t, "web"); !st.of(t, "web@web1").Fresh {
		t.Errorf("web@web1 is not fresh: %s", st.result)
	}
}

// TestSameHost: an upstream's restart concerns the dependent on its own host
// alone.
func TestSameHost(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{units: []unit{
		{name: "cache", on: []string{"h1", "h2"}},
		{name: "app", on: []string{"h1", "h2"}, after: []string{"cache: {on_restart: restart, when: same-host}"}},
	}})
	n := s.up(t)
	s.must(t, 0, "restart", "cache@h1")
	h := s.since(t, n)
	h.counts(t, map[string]int{"cache@h1": 1, "app@h1": 1})
	h.against(t, "app@h1", "cache@h1")
	s.allFresh(t)
}

// TestFailingStart: a dependent that does not start is tried again, its own words
// are shown, its debt stays on record; mended, it is paid once.
func TestFailingStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	n := s.up(t)
	fail := filepath.Join(s.folder(t, "web@web1"), failFile)
	s.write(t, fail, "cannot bind to port 80: it is in use")
	s.must(t, 3, "restart", "db").want(t, 3, "cannot bind to port 80", "web@web1")
	st := s.status(t)
	st.want(t, 3)
	if i := st.of(t, "web@web1"); i.Ready || i.Fresh {
		t.Errorf("web@web1 cannot be fresh: %s", st.result)
	}
	if err := os.Remove(fail); err != nil {
		t.Fatal(err)
	}
	s.must(t, 0, "resume")
	s.must(t, 0, "announce", "db")
	s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
	s.allFresh(t)
}
