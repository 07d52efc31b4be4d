package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// kill is one place where programs are killed in the midst of a restart.
type kill struct {
	host  string // of the gate; "" for none
	gate  string // the gate's point
	armed bool   // the gate is killed only from when it told the service to start
	kido  string // the runner's point; "" for none
}

func (k kill) String() string {
	var all []string
	if k.host != "" {
		all = append(all, "gate of "+k.host+" at "+k.gate)
		if k.armed {
			all[0] += " with the work done"
		}
	}
	if k.kido != "" {
		all = append(all, "kido at "+k.kido)
	}
	return strings.Join(all, " and ")
}

// TestKillEverywhere kills gate and runner by SIGKILL, each at every point that it
// passes in a restart, and both at once. The run goes on by itself where the
// runner lives; else the same command again goes on with it. In the end the
// upstream and its dependent were restarted once, and all is on record.
func TestKillEverywhere(t *testing.T) {
	t.Parallel()
	const sites = 4
	free := make(chan *site, sites)
	for range sites {
		s := newSite(t, layout{units: []unit{
			{name: "db", on: []string{"db1"}},
			{name: "web", on: []string{"web1"}, after: []string{"db: restart"}},
		}})
		s.up(t)
		free <- s
	}
	s := <-free
	kills, last := points(t, s)
	free <- s
	t.Logf("%d places", len(kills))
	for _, k := range kills {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			s := <-free
			defer func() { free <- s }()
			s.killed(t, k, k.kido == last)
		})
	}
}

// points learns from a restart in which nothing is killed where that can be. last
// is the runner's point at which all is done and on record.
func points(t *testing.T, s *site) (kills []kill, last string) {
	t.Helper()
	for _, h := range s.hosts {
		if err := os.Remove(h.passed); err != nil {
			t.Fatal(err)
		}
	}
	passed := filepath.Join(s.dir, "passed")
	s.begin(t, []string{"KIDO_FAILPOINT_LOG=" + passed}, "restart", "db").end(t).want(t, 0)
	all := unique(s.read(t, passed))
	for _, p := range all {
		kills = append(kills, kill{kido: p})
		if strings.HasPrefix(p, "run.after.journal#") {
			last = p
		}
	}
	for i, h := range s.hosts {
		// The runner hears of its dead gate, and dies of it.
		kido := fmt.Sprintf("run.after.call#%d", i+1)
		if !slices.Contains(all, kido) {
			t.Fatalf("the runner does not pass %s: %v", kido, all)
		}
		gate := unique(s.read(t, h.passed))
		for _, want := range []string{"gate.before.gate.Go#1", "gate.save.written#2", "gate.before.reply#1"} {
			if !slices.Contains(gate, want) {
				t.Fatalf("the gate of %s does not pass %s: %v", h.name, want, gate)
			}
		}
		for _, p := range gate {
			kills = append(kills, kill{host: h.name, gate: p}, kill{host: h.name, gate: p, kido: kido})
		}
		const reply = "gate.before.reply#1"
		kills = append(kills, kill{host: h.name, gate: reply, armed: true}, kill{host: h.name, gate: reply, armed: true, kido: kido})
	}
	return kills, last
}

func unique(text string) []string {
	all := strings.Fields(text)
	slices.Sort(all)
	return slices.Compact(all)
}

func (s *site) killed(t *testing.T, k kill, over bool) {
	n := len(s.history(t))
	var files, env []string
	arm := func(file, point string) {
		s.write(t, file, point)
		files = append(files, file)
	}
	if k.host != "" {
		h := s.host(t, k.host)
		if k.armed {
			arm(filepath.Join(s.folder(t, map[string]string{"db1": "db@db1", "web1": "web@web1"}[k.host]), armFile), k.gate)
			files = append(files, h.failpoint)
		} else {
			arm(h.failpoint, k.gate)
		}
	}
	code := 0
	if k.kido != "" {
		file := filepath.Join(s.dir, "failpoint")
		arm(file, k.kido)
		env, code = []string{"KIDO_FAILPOINT=" + file}, -1
	}
	s.begin(t, env, "restart", "db").end(t).want(t, code)
	for _, file := range files {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("nothing was killed: %s is still there", file)
		}
	}
	switch {
	case over: // it was through: the same again would be another restart
		s.must(t, 0, "announce", "db")
	case code != 0:
		s.must(t, 0, "restart", "db").want(t, 0, "going on with run")
	}
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1})
	h.against(t, "web@web1", "db@db1")
	s.allFresh(t)
}
