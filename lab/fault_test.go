package lab

import (
	"fmt"
	"strings"
	"testing"

	"kido/internal/run"
)

// TestFaults breaks the network, the machines and their power while the cascade of
// a database's restart is under way, and mends them. Nothing is lost, and nothing
// is done twice. Then the whole site is stopped and started.
func TestFaults(t *testing.T) {
	t.Parallel()
	for kind, parts := range map[Kind][]part{Systemd: faults, SysV: chosen(faults)} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newTrio(t, kind)
			s.play(parts...)
			s.play(wholeSite...)
		})
	}
}

// faults each begin with all machines on and everything fresh.
var faults = []part{
	{"partition of db and app before it connects", func(s *trio) {
		s.Partition(dbHost, appHost)
		s.restart(dbHost)
		s.waitTried(dbHost, appHost, 2)
		s.Heal()
	}, each(1, 1, 1), false},
	{"partition of db and web before it connects", func(s *trio) {
		s.Partition(dbHost, webHost)
		s.restart(dbHost)
		s.waitTried(dbHost, webHost, 2)
		s.Heal()
	}, each(1, 1, 1), false},
	{"partition of all before it connects", func(s *trio) {
		s.Partition(dbHost, appHost)
		s.Partition(dbHost, webHost)
		s.Partition(appHost, webHost)
		s.restart(dbHost)
		s.waitTried(dbHost, appHost, 2)
		s.Heal()
	}, each(1, 1, 1), false},
	{"partition while a request is out", func(s *trio) {
		s.pause(webHost, "before")
		s.restart(dbHost)
		s.paused(webHost, "before")
		s.loseReply(webHost)
		s.Heal()
		s.resume(webHost, "before")
	}, each(1, 1, 1), false},
	{"partition after the restart and before the reply", func(s *trio) {
		s.pause(webHost, "after")
		s.restart(dbHost)
		s.paused(webHost, "after")
		s.loseReply(webHost, func() { s.resume(webHost, "after") })
		s.Heal()
	}, each(1, 1, 1), false},
	{"web is unplugged", func(s *trio) {
		s.Unplug(webHost)
		s.restart(dbHost)
		s.waitTried(dbHost, webHost, 2)
		s.Plug(webHost)
	}, each(1, 1, 1), false},
	{"db is unplugged", func(s *trio) {
		s.Unplug(dbHost)
		s.restart(dbHost)
		s.waitTried(dbHost, appHost, 2)
		s.Plug(dbHost)
	}, each(1, 1, 1), false},
	{"web is frozen", func(s *trio) {
		s.Freeze(webHost)
		s.restart(dbHost)
		s.waitTried(dbHost, webHost, 2)
		s.Thaw(webHost)
	}, each(1, 1, 1), true},
	{"web is off all the time", func(s *trio) {
		s.Poweroff(webHost)
		s.restart(dbHost)
		s.waitTried(dbHost, webHost, 3)
		s.Boot(webHost)
	}, each(1, 1, 1), false},
	{"db dies when app is done and web is not", func(s *trio) {
		s.pause(webHost, "before")
		s.restart(dbHost)
		s.paused(webHost, "before")
		s.PowerCut(dbHost)
		s.resume(webHost, "before")
		s.waitReady(webHost) // as what would see the next life of db is not to count twice
		s.Boot(dbHost)
	}, each(2, 2, 2), true},
	{"web dies before its restart", func(s *trio) {
		s.pause(webHost, "before")
		s.restart(dbHost)
		s.paused(webHost, "before")
		s.PowerCut(webHost)
		s.unpause(webHost, "before")
		s.Boot(webHost)
	}, each(1, 1, 1), true},
	{"web dies after its restart and before that is on record", func(s *trio) {
		s.pause(webHost, "after")
		s.restart(dbHost)
		s.paused(webHost, "after")
		s.PowerCut(webHost)
		s.unpause(webHost, "after")
		s.Boot(webHost)
	}, each(1, 1, 2), false},
}

// loseReply cuts a machine, at which a request is at work, off from the others,
// lets something be done then, and waits until those who have sent a request there
// have given it up.
func (s *trio) loseReply(host int, meanwhile ...func()) {
	s.t.Helper()
	instance := fmt.Sprintf("%s@h%d", serviceOn[host], host)
	last := func(runner int) (phase run.Phase) {
		v, ok := s.look(runner)
		if !ok {
			return ""
		}
		for _, e := range v.run {
			if e.Step != nil && e.Step.Instance == instance {
				phase = e.Step.Phase
			}
		}
		return phase
	}
	var out []int
	s.Until("a request is out", func() bool {
		out = nil
		for _, runner := range upstreamsOf[host] {
			if last(runner) == run.PhaseActing {
				out = append(out, runner)
			}
		}
		return len(out) > 0
	})
	for _, runner := range upstreamsOf[host] {
		s.Partition(runner, host)
	}
	for _, do := range meanwhile {
		do()
	}
	for _, runner := range out {
		s.Until("the request is given up", func() bool { return last(runner) == run.PhaseRetry })
	}
}

// wholeSite stops and starts everything in order, or what there is of it.
var wholeSite = []part{
	{"down and up", func(s *trio) {
		s.op.must(0, "down")
		s.inOrder("stop", webHost, appHost, dbHost)
		s.op.must(0, "up")
		s.inOrder("start", dbHost, appHost, webHost)
	}, each(1, 1, 1), true},
	{"what was stopped on purpose stays so", func(s *trio) {
		s.op.must(0, "stop", "web")
		s.restart(dbHost)
		s.waitAnnounced(dbHost, appHost)
		s.PowerCut(dbHost)
		s.Boot(dbHost)
		s.waitAnnounced(dbHost, appHost)
		if n := times(s.since(webHost), "start"); n > 0 {
			s.t.Errorf("web was started %d times, though stopped on purpose:\n%s", n, s.story())
		}
		for _, i := range s.status().Instances {
			if i.OnPurpose != (i.Name == "web@h3") {
				s.t.Errorf("status, when web alone is stopped on purpose: %+v", i)
			}
		}
		s.op.must(0, "up")
	}, each(2, 2, 1), true},
	{"down and up while app's machine is off", func(s *trio) {
		s.Poweroff(appHost)
		s.says(s.op.must(1, "down"), "app@h2 failed: h2", "db@h1: stopped")
		s.inOrder("stop", webHost, dbHost)
		s.says(s.op.must(1, "up"), "app@h2 failed: h2", "web@h3 was skipped: app@h2 failed")
		s.inOrder("start", dbHost)
		if n := times(s.since(webHost), "start"); n > 0 {
			s.t.Errorf("web was started without app:\n%s", s.story())
		}
		s.Boot(appHost)
		s.waitReady(appHost)
		s.op.must(0, "resume")
		s.inOrder("start", dbHost, appHost, webHost)
	}, each(1, 1, 1), true},
}

// says fails the test unless all words are in what kido said.
func (s *trio) says(out string, words ...string) {
	s.t.Helper()
	for _, word := range words {
		if !strings.Contains(out, word) {
			s.t.Errorf("kido does not say %q:\n%s", word, out)
		}
	}
}

// waitAnnounced waits until the present life of each service has been announced.
func (s *trio) waitAnnounced(hosts ...int) {
	s.t.Helper()
	for _, host := range hosts {
		s.Until(serviceOn[host]+" is ready, and has told", func() bool {
			v, ok := s.look(host)
			return ok && v.life() != "" && v.announced()
		})
	}
}

// inOrder fails the test unless the services have done something last in this
// order; a start comes after the one before was ready.
func (s *trio) inOrder(what string, hosts ...int) {
	s.t.Helper()
	var before witnessed
	for n, host := range hosts {
		for _, e := range s.since(host) {
			if e.What == what && n > 0 && e.At.Before(before.At) {
				s.t.Errorf("%s: %s came before %s of %s:\n%s", serviceOn[host], what, before.What, serviceOn[hosts[n-1]], s.story())
			}
		}
		before = witnessed{}
		for _, e := range s.since(host) {
			if e.What == what || what == "start" && e.What == "ready" {
				before = e
			}
		}
		if before.What == "" {
			s.t.Errorf("%s: no %s", serviceOn[host], what)
		}
	}
}
