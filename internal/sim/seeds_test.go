package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kido/internal/site"
)

var (
	seedCount  = flag.Int("sim.seeds", 0, "how many seeds TestSeeds plays; 0: 10000, 300 with -short or -race")
	oneSeed    = flag.Int64("sim.seed", -1, "play this one seed, and tell its story")
	everything = flag.Bool("sim.all", false, "tell how often everything has happened in TestSeeds")
	million    = flag.Bool("sim.million", false, "play a million seeds")
)

// TestSeeds plays a story for every seed: which faults there are and how often, who
// does what and when, all by the seed. After the faults the world comes to rest, and
// nothing may be lost. Every invariant is checked after every move.
func TestSeeds(t *testing.T) {
	if *oneSeed >= 0 {
		w, moves := playSeed(uint64(*oneSeed), true)
		t.Logf("%s, %d moves\n%s", w.sc.name, moves, w.story())
		if w.broken != "" {
			t.Error(w.broken)
		}
		return
	}
	count := *seedCount
	switch {
	case *million:
		count = 1_000_000
	case count > 0:
	case raced || testing.Short():
		count = 300
	default:
		count = 10_000
	}
	begun := time.Now()
	var moves, failed atomic.Int64
	var mu sync.Mutex
	seen := tally{}
	t.Run("chunks", func(t *testing.T) {
		const chunk = 100
		for from := 0; from < count; from += chunk {
			t.Run(fmt.Sprint(from), func(t *testing.T) {
				t.Parallel()
				here := tally{}
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					seen.add(here)
				}()
				for seed := from; seed < min(from+chunk, count) && failed.Load() < 5; seed++ {
					w, n := playSeed(uint64(seed), false)
					moves.Add(int64(n))
					here.add(w.seen)
					if w.broken != "" {
						failed.Add(1)
						w, _ = playSeed(uint64(seed), true)
						t.Errorf("%s: seed %d: %s\n%s\nreplay: go test ./internal/sim -run 'TestSeeds$' -sim.seed=%d -v", w.sc.name, seed, w.broken, w.story(), seed)
					}
				}
			})
		}
	})
	took := time.Since(begun).Seconds()
	t.Logf("%d seeds, %d moves: %.0f seeds/s, %.0f moves/s on %d processors", count, moves.Load(), float64(count)/took, float64(moves.Load())/took, runtime.GOMAXPROCS(0))
	if count >= 10_000 && failed.Load() == 0 {
		seen.check(t, count)
	}
	if *everything {
		t.Logf("what has happened:\n%s", seen)
	}
}

// swarm is what a seed makes of a scenario: faults that are on, and how often.
type swarm struct {
	rng    *rand.Rand
	often  int // of a thousand moves, faults
	length int // moves, before all goes well
	// lasting: what is cut stays so until all goes well.
	lasting bool
}

func playSeed(seed uint64, telling bool) (*world, int) {
	s := swarm{rng: rand.New(rand.NewPCG(seed, 0x6b69646f))}
	sc := scenarios[s.rng.IntN(len(scenarios))]
	s.often, s.length = 10+s.rng.IntN(120), 50+s.rng.IntN(350)
	var b budget
	for k := gateDies; k < kinds; k++ {
		if s.rng.IntN(3) == 0 {
			b[k] = uint8(1 + s.rng.IntN(3))
		}
	}
	// Two records at once that only a restart mends may each need the other one. And
	// a run that dies with a slot for such a record leaves one that only a person can
	// free, for a fence needs a record.
	b[unreadable] = min(b[unreadable], 1)
	if slices.ContainsFunc(sc.on().layouts[0].site.Services, func(v *site.Service) bool { return v.Keepers() != nil }) {
		b[unreadable] = 0
	}
	s.lasting = s.rng.IntN(4) == 0
	if s.lasting {
		b[linkCut], b[hostCut] = 3, 2
	}
	w := newWorld(sc.with(b))
	w.seen = tally{}
	if s.rng.IntN(4) == 0 {
		for k := range w.nodes {
			if s.rng.IntN(2) == 0 {
				w.unsee(int8(k))
			}
		}
	}
	if telling {
		w.tell()
	}
	for range s.length {
		m, ok := s.pick(w.moves())
		if !ok || w.broken != "" {
			break
		}
		w.do(m)
	}
	w.rest()
	return w, int(w.seq)
}

// unsee has a node as kido finds it that has never seen it start.
func (w *world) unsee(k int8) {
	n := &w.nodes[k]
	n.disk.now, n.disk.old, n.unseen = content{}, content{}, true
}

// weight is how likely a move is beside the others of its sort: faults, or none.
func (s *swarm) weight(m move) int {
	switch m.kind {
	case powerCut:
		if m.n > 0 {
			return 50 // there is seldom something to lose
		}
		return 1
	case heals:
		if s.lasting {
			return 0
		}
		return 2
	case arrives:
		if m.n > 0 {
			return 1 // who waited for its reply has given up: let it be late
		}
	case begins, resumes, boots, granted, waited, waitsNot:
		return 2
	case ticks:
		return 3
	}
	switch {
	case m.kind == jobDies, m.kind == initLies, m.kind == startsBlind:
		return 4 // there is seldom such a job
	case m.kind.fault():
		return 1
	}
	return 12
}

func (s *swarm) pick(all []move) (move, bool) {
	var sums [2]int // by whether they are faults
	loss := false
	for _, m := range all {
		sums[sort(m)] += s.weight(m)
		loss = loss || m.kind == powerCut && m.n > 0
	}
	often := s.often
	if loss {
		often = max(often, 200)
	}
	from := 0
	if s.rng.IntN(1000) < often && sums[1] > 0 || sums[0] == 0 {
		from = 1
	}
	if sums[from] == 0 {
		return move{}, false
	}
	n := s.rng.IntN(sums[from])
	for _, m := range all {
		if sort(m) == from {
			if n -= s.weight(m); n < 0 {
				return m, true
			}
		}
	}
	return move{}, false
}

// sort is 1 for a fault.
func sort(m move) int {
	if m.kind.fault() {
		return 1
	}
	return 0
}
