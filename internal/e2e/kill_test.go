package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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
	s.state = filepath.Join(s.dir, fmt.Sprintf("journals%d", n)) // kido keeps no more than some
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
	case code != 0 && s.begun(t):
		s.must(t, 0, "restart", "db").want(t, 0, "going on with run")
	case code != 0:
		s.must(t, 0, "restart", "db")
	}
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1})
	h.against(t, "web@web1", "db@db1")
	s.allFresh(t)
	s.verify(t)
}

// begun reports whether a run is on record in the present folder of journals.
func (s *site) begun(t *testing.T) bool {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.state, "runs", "*.journal"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(names, func(name string) bool { return s.read(t, name) != "" })
}

// TestKillTwoRunners lets two runners, that know nothing of one another, at a
// diamond with a pool of two at its foot, of which one may be down, and kills them
// and the gates at random points. Each goes on until it is through. However they
// meet, what the services wrote contradicts no invariant.
//
// KIDO_KILL_SEED=N plays round N again, as far as two programs at once can be.
func TestKillTwoRunners(t *testing.T) {
	t.Parallel()
	const sites, rounds = 2, 5
	base := uint64(time.Now().UnixNano())
	first, many := base, uint64(rounds)
	if text := os.Getenv("KIDO_KILL_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, many = seed, 1
	}
	for n := range uint64(sites) {
		t.Run(fmt.Sprint("site ", n+1), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, layout{units: []unit{
				{name: "db", on: []string{"h1"}},
				{name: "app", on: []string{"h2"}, after: []string{"db: restart"}},
				{name: "web", on: []string{"h3", "h4"}, after: []string{"db: restart", "app: restart"}},
			}})
			s.up(t)
			s.states = append(s.states, filepath.Join(s.dir, "one"), filepath.Join(s.dir, "two"))
			kido, gate := s.pointsOf(t, "announce", "db")
			for round := range many {
				seed := first + n*many + round
				t.Run(fmt.Sprint("KIDO_KILL_SEED=", seed), func(t *testing.T) {
					s.killBoth(t, rand.New(rand.NewPCG(seed, seed)), kido, gate)
				})
			}
		})
	}
}

// pointsOf are the points that kido and the gates pass when a database that was
// restarted by hand is announced.
func (s *site) pointsOf(t *testing.T, args ...string) (kido, gate []string) {
	t.Helper()
	for _, h := range s.hosts {
		if err := os.Remove(h.passed); err != nil {
			t.Fatal(err)
		}
	}
	s.byHand(t, "db@h1", "restart")
	passed := filepath.Join(s.dir, "passed")
	s.begin(t, []string{"KIDO_FAILPOINT_LOG=" + passed}, args...).end(t).want(t, 0)
	for _, h := range s.hosts {
		gate = append(gate, strings.Fields(s.read(t, h.passed))...)
	}
	return unique(s.read(t, passed)), unique(strings.Join(gate, "\n"))
}

func (s *site) killBoth(t *testing.T, rng *rand.Rand, kido, gate []string) {
	one := func(of []string) string { return of[rng.IntN(len(of))] }
	commands := [][]string{{"announce", "db"}, {"announce", "db"}}
	switch rng.IntN(4) {
	case 0:
		s.byHand(t, "db@h1", "restart")
	case 1:
		s.byHand(t, "db@h1", "restart")
		s.byHand(t, "app@h2", "restart")
	case 2:
		commands[0] = []string{"restart", "db"}
	case 3: // of a pool of which one may be down
		commands = [][]string{{"restart", "web@h3"}, {"restart", "web@h4"}}
	}
	var armed []string
	for range rng.IntN(3) {
		h := s.hosts[rng.IntN(len(s.hosts))]
		point := one(gate)
		t.Logf("the gate of %s is killed at %s", h.name, point)
		s.write(t, h.failpoint, point)
		armed = append(armed, h.failpoint)
	}
	var both sync.WaitGroup
	said := make([]string, 2)
	for n, args := range commands {
		var env []string
		if rng.IntN(3) > 0 {
			file, point := filepath.Join(s.dir, fmt.Sprint("failpoint", n)), one(kido)
			t.Logf("runner %d, kido %s, is killed at %s", n, strings.Join(args, " "), point)
			s.write(t, file, point)
			armed, env = append(armed, file), []string{"KIDO_FAILPOINT=" + file}
		}
		both.Go(func() {
			kido := func(args ...string) (ok bool) {
				cmd := s.command(t.Context(), append(args, "--state", s.states[len(s.states)-2+n])...)
				cmd.Env = append(cmd.Env, env...)
				out, err := cmd.CombinedOutput()
				said[n] += fmt.Sprintf("kido %s: %v\n%s", strings.Join(args, " "), err, out)
				return err == nil
			}
			// Where the first was cut off, it is gone on with before anything else: what
			// holds a slot without using it is left alone for half a minute.
			for again := kido(args...); !again && t.Context().Err() == nil; again = kido("resume") && kido("announce", "db") {
			}
		})
	}
	both.Wait()
	defer func() {
		if t.Failed() {
			t.Logf("runner 0:\n%srunner 1:\n%s", said[0], said[1])
		}
	}()
	for _, file := range armed {
		if err := os.Remove(file); err == nil {
			t.Logf("nobody came by %s", file)
		}
	}
	s.must(t, 0, "announce", "db")
	s.allFresh(t)
	s.verify(t)
}
