package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"kido/internal/site"
)

var (
	seedCount = flag.Int("sim.seeds", 0, "how many seeds TestSeeds plays; 0: 10000, 300 with -short or -race")
	oneSeed   = flag.Int64("sim.seed", -1, "play this one seed, and tell its story")
	million   = flag.Bool("sim.million", false, "play a million seeds")
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
	t.Run("chunks", func(t *testing.T) {
		const chunk = 100
		for from := 0; from < count; from += chunk {
			t.Run(fmt.Sprint(from), func(t *testing.T) {
				t.Parallel()
				for seed := from; seed < min(from+chunk, count) && failed.Load() < 5; seed++ {
					w, n := playSeed(uint64(seed), false)
					moves.Add(int64(n))
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
}

// swarm is what a seed makes of a scenario: faults that are on, and how often.
type swarm struct {
	rng    *rand.Rand
	often  int // of a thousand moves, faults
	length int // moves, before all goes well
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
	w := newWorld(sc.with(b))
	w.telling = telling
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

// weight is how likely a move is beside the others that are no faults.
func weight(m move) int {
	switch m.kind {
	case arrives:
		if m.n > 0 {
			return 1 // who waited for its reply has given up: let it be late
		}
	case begins, resumes, heals, boots, granted, waited, waitsNot:
		return 2
	case ticks:
		return 3
	}
	return 12
}

func (s *swarm) pick(all []move) (move, bool) {
	fault := s.rng.IntN(1000) < s.often
	sum, other := 0, 0
	for _, m := range all {
		if m.kind.fault() {
			other++
		} else {
			sum += weight(m)
		}
	}
	if sum == 0 && other == 0 {
		return move{}, false
	}
	if other > 0 && (fault || sum == 0) {
		n := s.rng.IntN(other)
		for _, m := range all {
			if m.kind.fault() {
				if n--; n < 0 {
					return m, true
				}
			}
		}
	}
	n := s.rng.IntN(max(sum, 1))
	for _, m := range all {
		if !m.kind.fault() {
			if n -= weight(m); n < 0 {
				return m, true
			}
		}
	}
	return move{}, false
}
