package sim

import (
	"flag"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/plan"
	"kido/internal/rule"
	"kido/internal/run"
	"kido/internal/wire"
)

var (
	deep       = flag.Bool("search.deep", false, "one fault more, and half as many moves again, in every search")
	oneSearch  = flag.String("search.name", "", "only this search")
	searchMost = flag.Int("search.most", 600_000, "how many states a search visits at most")
)

// bound is a scenario small enough to visit every state of it.
type bound struct {
	*scenario
	of   []kind // the faults that there may be
	many uint8  // of all of them together
	// moves is how many moves it goes, those that are urgent not counted; 0: to the end.
	moves int
	// hands: what is restarted, stopped or started by hand, or dies; none: everything.
	hands []string
	// split: what a STATUS finds is found at three times, as it is; else at one.
	split bool
	// restless: it is not let come to rest, for nobody may be there to tell.
	restless bool
	// given changes the world in which it begins.
	given func(*world)
	// check is an invariant of its own, after a move; "" where it holds.
	check func(*world, move) string
}

// finding is what came of a search.
type finding struct {
	broken string // the first violation, "" for none
	path   []move // the shortest way to it
	states int    // worlds that are not alike
	depth  int    // moves to the farthest of them
	whole  bool   // there are no others
	took   time.Duration
}

func (f finding) String() string {
	s := fmt.Sprintf("%d states, depth %d, %.0f states/s", f.states, f.depth, float64(f.states)/f.took.Seconds())
	if f.broken == "" && !f.whole {
		s += ", and more that were not visited"
	}
	return s
}

// sum stands for a key: 128 bits, so that no two of some millions share one.
type sum [2]uint64

// searcher remembers where a search has been.
type searcher struct {
	bound
	seeds  [2]maphash.Seed
	seen   map[sum]struct{}
	good   map[sum]struct{} // states without faults from which all comes to a good end
	visits []visit
	every  int // of so many states one is let come to rest
}

// visit says how a search got to a state: which of its choices, from which state.
type visit struct {
	from   int32
	choice uint16
}

// search visits every state within a bound, breadth first, until an invariant is
// violated or it has seen most of them. States that were met before, which keys
// tell, are not visited again: so the first violation is a shortest one.
//
// Where one move is as good now as later, the others wait for it; see urgent.
func search(b bound, every int) finding {
	begun := time.Now()
	s := &searcher{
		bound: b, every: every, seen: map[sum]struct{}{}, good: map[sum]struct{}{},
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
	}
	f := s.run()
	f.states, f.took = len(s.visits), time.Since(begun)
	return f
}

func (s *searcher) run() (f finding) {
	type state struct {
		*world
		visit int32
	}
	start := s.begin()
	s.seen[s.sum(start)] = struct{}{}
	s.visits = []visit{{from: -1}}
	for level := []state{{start, 0}}; len(level) > 0; f.depth++ {
		if s.moves > 0 && f.depth == s.moves {
			return f
		}
		var next []state
		for i, from := range level {
			level[i].world = nil
			choices := slices.Clone(s.choices(from.world))
			for n, m := range choices {
				w := from.world
				if n < len(choices)-1 {
					w = from.clone()
				}
				s.do(w, m)
				key := s.sum(w)
				if _, met := s.seen[key]; met && w.broken == "" {
					continue
				}
				s.seen[key] = struct{}{}
				s.visits = append(s.visits, visit{from.visit, uint16(n)})
				if broken := s.violated(w, key); broken != "" {
					f.broken, f.path = broken, s.way()
					f.depth = len(f.path)
					return f
				}
				next = append(next, state{w, int32(len(s.visits) - 1)})
			}
			if len(s.visits) >= *searchMost {
				return f
			}
		}
		level = next
	}
	f.whole = true
	return f
}

func (s *searcher) begin() *world {
	w := newWorld(s.scenario)
	w.left = budget{}
	for _, k := range s.of {
		w.left[k] = s.many
	}
	if s.given != nil {
		s.given(w)
	}
	return w
}

func (s *searcher) sum(w *world) sum {
	key := w.key()
	return sum{maphash.Bytes(s.seeds[0], key), maphash.Bytes(s.seeds[1], key)}
}

// do makes a move, and then all that are urgent.
func (s *searcher) do(w *world, m move) {
	for ok := true; ok && w.broken == ""; m, ok = s.urgent(w) {
		w.do(m)
		if m.kind.fault() { // they are counted together
			left := w.left[m.kind]
			for _, k := range s.of {
				w.left[k] = left
			}
		}
		if s.check != nil && w.broken == "" {
			if word := s.check(w, m); word != "" {
				w.fail("in "+s.name, "%s", word)
			}
		}
	}
}

// choices are the moves to be tried in a state.
func (s *searcher) choices(w *world) []move {
	moves := w.moves()
	for i, m := range moves {
		if m.kind == replies {
			return moves[i : i+2] // it arrives, or is lost
		}
	}
	next, timed := move{}, false
	if !s.untimed { // time passes only where nobody is at work, for who waits least
		next, timed = w.fair()
		moves = w.moves()
	}
	return slices.DeleteFunc(moves, func(m move) bool {
		return timed && m.kind.ofTime() && m != next || m.kind.ofLife() && len(s.hands) > 0 && !slices.Contains(s.hands, w.names[m.on])
	})
}

// ofTime reports whether a move lets time pass.
func (k kind) ofTime() bool { return k == ticks || k == waited || k == waitsNot }

// ofLife reports whether a move ends or begins an incarnation, by no hand of kido's.
func (k kind) ofLife() bool {
	switch k {
	case handRestart, handStop, handStart, insideRestart, dies:
		return true
	}
	return false
}

// urgent is a move that nobody can tell from being made later, or that only makes
// two moves of one.
//
//   - A reply reaches its runner at once. For the runner a late reply is a late
//     request, or a late gate; and who is killed before it hears a reply might as
//     well be killed before the gate replies.
//   - A STATUS is read at one time. The gate says ready only of an incarnation that
//     was the same before and after the probes, so what it says was so when they
//     were asked; the bounds that are split hold that.
//   - A gate that holds the lock goes on at once, if no fault is left that could
//     strike it or its instance, and no job of anybody else's is there: all others
//     wait for the lock.
//   - An instance on which nobody depends, alone in its pool, is ready at once.
func (s *searcher) urgent(w *world) (move, bool) {
	for _, m := range w.moves() {
		switch m.kind {
		case replies:
			if w.left[replyLost] == 0 || w.mails[m.at].err != "" {
				return m, true
			}
		case performs:
			g := &w.gates[m.at]
			if g.mail.q.Verb == wire.VerbStatus && !s.split || w.undisturbed(g) {
				return m, true
			}
		case isReady:
			if w.left[goesDeaf] == 0 && w.leaf(m.on) {
				return m, true
			}
		}
	}
	return move{}, false
}

// undisturbed reports whether a gate that acts has its instance for itself.
func (w *world) undisturbed(g *gateProc) bool {
	n := &w.nodes[g.node]
	return g.mail.q.Verb != wire.VerbStatus && g.lock && w.left == budget{} && n.wait == nil && rule.Holds(rule.OneAtATime) &&
		!slices.ContainsFunc(n.jobs, func(j job) bool { return j.id != g.job })
}

// leaf reports whether nobody looks at a node but who restarts it.
func (w *world) leaf(k int8) bool {
	for _, p := range w.pools {
		if len(p.nodes) > 1 && slices.Contains(p.nodes, k) {
			return false
		}
	}
	return !slices.ContainsFunc(w.layouts[0].edges, func(es []edge) bool {
		return slices.ContainsFunc(es, func(e edge) bool { return slices.Contains(e.ups, k) })
	})
}

// violated is what is wrong with a state: an invariant, or that it cannot come to a
// good end any more.
func (s *searcher) violated(w *world, key sum) string {
	if w.broken != "" || s.restless || key[0]%uint64(s.every) != 0 && len(w.mails)+len(w.gates) > 0 {
		return w.broken
	}
	c := w.clone()
	c.peace()
	var met []sum
	for range enough {
		timed := c.sc
		c.sc = s.scenario // times do not tell good from bad
		key := s.sum(c)
		c.sc = timed
		if _, good := s.good[key]; good || c.broken != "" {
			break
		}
		met = append(met, key)
		if m, ok := c.fair(); ok && c.seq-c.stirredAt < still {
			c.do(m)
		} else if !c.mendSomething() {
			c.complete()
			s.allUp(c)
			break
		}
	}
	if c.broken == "" {
		for _, key := range met {
			s.good[key] = struct{}{}
		}
	}
	return c.broken
}

// allUp holds that what nobody stops is up in the end.
func (s *searcher) allUp(w *world) {
	if slices.Contains(s.of, handStop) || slices.ContainsFunc(s.runners, func(r spec) bool { return r.verb == plan.Stop || r.verb == plan.Down }) {
		return
	}
	for k := range w.nodes {
		if !w.nodes[k].up {
			w.fail("I3 no loss", "%s is down in the end, and nobody has stopped it", w.names[k])
		}
	}
}

// peace ends all faults. From here on time passes for all alike, so that nobody
// waits for ever.
func (w *world) peace() {
	w.sc = w.sc.with(budget{})
	w.sc.untimed = false
	w.left, w.calm = budget{}, true
	w.stirredAt = w.seq
	for i := range w.runners {
		w.runners[i].doomed, w.runners[i].full = 0, false
	}
}

// way is the choices that lead to the latest visit.
func (s *searcher) way() (path []move) {
	var taken []uint16
	for v := s.visits[len(s.visits)-1]; v.from >= 0; v = s.visits[v.from] {
		taken = append(taken, v.choice)
	}
	w := s.begin()
	for _, n := range slices.Backward(taken) {
		m := s.choices(w)[n]
		path = append(path, m)
		s.do(w, m)
	}
	return path
}

// tell is the story of a way, and, where nothing is wrong at its end, of how all
// comes to rest then.
func (b bound) tell(path []move) string {
	s := &searcher{bound: b}
	w := s.begin()
	w.tell()
	for _, m := range path {
		s.do(w, m)
	}
	if w.broken == "" && !b.restless {
		w.peace()
		w.rest()
	}
	return w.story()
}

// hookOf announces each start of an instance.
func hookOf(name string) spec {
	service, host := split(name)
	return spec{name: "hook of " + name, host: host, verb: plan.Announce, targets: []string{service}, keepTrying: true, hook: name}
}

// small is a scenario in which any timer may fire at any time: all may be slow.
func small(name, text string, runners ...spec) *scenario {
	return &scenario{name: name, text: text, runners: runners, untimed: true}
}

// prompt is a scenario in which no time passes as long as anybody is at work.
func prompt(name, text string, runners ...spec) *scenario {
	return &scenario{name: name, text: text, runners: runners}
}

// telling is a scenario in which a probe tells of restarts inside a unit.
func telling(sc *scenario) *scenario {
	sc.probeWord = true
	return sc
}

// announcer is somebody at a desk who announces a service, and waits.
func announcer(n int, target string) spec {
	s := op(n, plan.Announce, target)
	s.keepTrying = true
	return s
}

// patient is a site whose deadlines no search comes to by its strides.
func patient(services ...string) string {
	return strings.ReplaceAll(siteOf(services...), "ready: 30s", "ready: 24h")
}

var (
	twoTiers  = patient("db h1", "web h2: after: {db: restart}")
	twoOld    = patient("db h1: sysv: db", "web h2: sysv: web, after: {db: restart}")
	smallPool = patient("db h1", "web h2, h3: after: {db: restart}, max_unavailable: 1")
	rhombus   = patient("a h1", "b h2: after: {a: restart}", "c h3: after: {a: restart}", "d h4: after: {b: restart, c: restart}")
)

// searches are small worlds. Those in which two act at once are the heart; the
// others are there for what it takes something more to see. Their bounds are what
// an ordinary test run has the time for.
var searches = []bound{
	{
		scenario: small("a pair", twoTiers, hookOf("db@h1"), op(1, plan.Up)),
		of:       []kind{handRestart, gateDies, saveDies, late, repeated, replyLost, runnerDies, startFails, dies}, many: 2, moves: 22,
	},
	{
		scenario: small("a pair with scripts", twoOld, hookOf("db@h1"), op(1, plan.Up)),
		of:       []kind{handRestart, gateDies, late, startsBlind, startFails, jobDies, initLies}, many: 2, hands: []string{"db@h1"}, moves: 26,
	},
	{
		scenario: telling(small("a restart inside the unit", twoTiers, hookOf("db@h1"), op(1, plan.Announce, "db"))),
		of:       []kind{insideRestart, handRestart, late}, many: 1, hands: []string{"db@h1"},
	},
	{
		scenario: small("an upstream that flaps", twoTiers, hookOf("db@h1"), op(1, plan.Up)),
		of:       []kind{handRestart, late}, many: 2, hands: []string{"db@h1"},
	},
	{
		scenario: small("a restart cut off", twoTiers, op(1, plan.Restart, "web"), op(2, plan.Up)),
		of:       []kind{gateDies, runnerDoomed, late}, many: 1,
	},
	{
		scenario: small("a daemon that dies", twoTiers, announcer(1, "db"), announcer(2, "db")),
		of:       []kind{dies, repeated, startFails}, many: 2, hands: []string{"web@h2"},
	},
	{
		// A script that is at work yet leaves the old daemon up.
		scenario: small("a restart of a script", twoOld, op(1, plan.Restart, "web"), announcer(2, "db")),
		of:       []kind{gateDies, late}, many: 1,
	},
	{
		scenario: small("a power cut", twoTiers, hookOf("db@h1")),
		of:       []kind{handRestart, powerCut, saveFails}, many: 2, hands: []string{"db@h1"},
	},
	{
		scenario: small("a damaged record", twoTiers, hookOf("db@h1")),
		of:       []kind{handRestart, unreadable, gateDies}, many: 2, hands: []string{"db@h1"}, moves: 24,
	},
	{
		scenario: small("a slow look", twoTiers, hookOf("db@h1"), op(1, plan.Up)),
		of:       []kind{handRestart, dies}, many: 2, split: true, moves: 15,
	},
	{
		scenario: small("by hand", twoTiers, hookOf("db@h1"), op(1, plan.Up)),
		of:       []kind{handRestart, handStop, handStart, gateDies}, many: 2, moves: 20,
	},
	{
		scenario: small("a restart asked for", twoTiers, hookOf("db@h1"), op(1, plan.Restart, "db")),
		of:       []kind{gateDies, late, repeated, runnerDies}, many: 1,
	},
	{
		scenario: small("stop, then start", twoTiers, op(1, plan.Stop, "web"), op(2, plan.Start, "web")),
		of:       []kind{late, repeated}, many: 1, moves: 30, check: lastWord,
	},
	{
		scenario: small("stop first", patient("db h1", "web h2: after: {db: stop-first}"), hookOf("db@h1"), op(1, plan.Restart, "db")),
		of:       []kind{gateDies, late, runnerDies, startFails}, many: 1,
	},
	{
		scenario: small("an announcement", patient("db h1", "web h2: after: {db: restart}", "app h3: after: {db: restart}"), announcer(1, "db")),
		of:       []kind{handRestart}, many: 2, hands: []string{"db@h1"}, restless: true, check: announced,
	},
	{
		scenario: small("a boot", twoTiers, hookOf("db@h1")),
		of:       []kind{reboot, powerCut, handRestart, gateDies}, many: 2,
	},
	{
		scenario: prompt("a boot with a prompt hook", twoTiers, hookOf("db@h1")),
		given:    dark, check: startsOnce,
	},
	{
		scenario: prompt("a boot of scripts with a prompt hook", twoOld, hookOf("db@h1")),
		given:    dark, check: startsOnce,
	},
	{
		scenario: small("a boot that is called off", twoOld, op(1, plan.Stop, "web")),
		given:    dark, restless: true, check: staysDown,
	},
	{
		scenario: small("a stop that a boot cuts off", twoTiers, op(1, plan.Stop, "web"), announcer(2, "db")),
		of:       []kind{reboot}, many: 1, moves: 22, restless: true, given: news,
	},
	{
		scenario: prompt("a settle window", patient("db h1: settle: 30s", "web h2: after: {db: restart}"), hookOf("db@h1")),
		given:    news,
	},
	{
		scenario: prompt("a budget", patient("db h1", "web h2: after: {db: restart}, budget: {reactions: 1, within: 10m}"), hookOf("db@h1")),
		of:       []kind{handRestart}, many: 2, hands: []string{"db@h1"},
	},
	{
		scenario: small("two upstreams", patient("a h1", "b h2", "web h3: after: {a: restart, b: restart}"), hookOf("a@h1"), hookOf("b@h2")),
		of:       []kind{handRestart, gateDies, late}, many: 2, hands: []string{"a@h1", "b@h2"},
	},
	{
		scenario: small("a chain", patient("a h1", "b h2: after: {a: restart}", "c h3: after: {b: restart}"), hookOf("a@h1"), hookOf("b@h2")),
		of:       []kind{handRestart, gateDies, late}, many: 2, hands: []string{"a@h1"}, moves: 30,
	},
	{
		scenario: small("a diamond", rhombus, hookOf("a@h1")),
		of:       []kind{handRestart, gateDies}, many: 2, hands: []string{"a@h1"}, moves: 36,
	},
	{
		scenario: small("a pool", smallPool, hookOf("db@h1"), op(1, plan.Up)),
		of:       []kind{handRestart}, many: 1, hands: []string{"db@h1"}, moves: 18,
	},
	{
		scenario: small("a pool and one that is late", smallPool, op(1, plan.Up, "web@h2"), op(2, plan.Up, "web@h3")),
		of:       []kind{runnerDies}, many: 1, moves: 25, restless: true, given: news,
	},
	{
		// Whoever kept its slots does not know of that any more: all that a run can
		// do is to count for itself.
		scenario: small("a pool that nobody keeps", smallPool, hookOf("db@h1")),
		of:       []kind{handRestart}, many: 1, hands: []string{"db@h1"}, given: func(w *world) { w.keepers = nil },
	},
}

// dark is a site after a power cut.
func dark(w *world) {
	for h := range w.machines {
		w.off(int8(h), 0)
	}
}

// news is that the first instance has a new incarnation.
func news(w *world) {
	w.end(0, cause{who: byHand}, false)
	w.begin(0, cause{who: byHand})
	w.becomesReady(0)
	w.check()
}

// lastWord: once op1 and op2 are done, no stop of op1's comes.
func lastWord(w *world, m move) string {
	op1, op2 := &w.runners[0], &w.runners[1]
	if m.kind == goesOn && !w.nodes[1].up && op1.state == over && op2.state == over && op2.outcome == run.OutcomeDone {
		return "a late stop undoes a start"
	}
	return ""
}

// announced: an announcement ends when nothing is owed any more.
func announced(w *world, m move) string {
	db := &w.nodes[0]
	if m.kind != replies || w.runners[m.by].state != over || !db.ready {
		return ""
	}
	for k := range w.nodes[1:] {
		n := &w.nodes[1+k]
		if token, _ := n.disk.now.rec.Basis.Get(w.names[0]); n.up && token != db.token() {
			return "an announcement ends, and something is owed"
		}
	}
	return ""
}

// staysDown: what is stopped before its boot has come to it is not started.
func staysDown(w *world, _ move) string {
	if op := &w.runners[0]; op.state == over && op.outcome == run.OutcomeDone && w.nodes[1].up {
		return "it was stopped while its start was held, and it is up"
	}
	return ""
}

// startsOnce: who tells of a boot in time costs no second start.
func startsOnce(w *world, _ move) string {
	if len(w.nodes[1].ended) > 0 {
		return "it is started twice in one boot"
	}
	return ""
}

// TestSearch visits every state of small sites.
func TestSearch(t *testing.T) {
	for _, b := range searches {
		t.Run(strings.ReplaceAll(b.name, " ", "_"), func(t *testing.T) {
			switch {
			case *oneSearch != "" && b.name != *oneSearch:
				t.Skip("not asked for")
			case raced && b.name != "a restart cut off":
				t.Skip("one small search is enough for the race detector")
			}
			if *deep {
				b.many++
				b.moves += b.moves / 2
			}
			f := search(b, 16)
			t.Logf("%s: %s", b.name, f)
			if f.broken != "" {
				t.Errorf("%s: %s\n%s", b.name, f.broken, b.tell(f.path))
			}
		})
	}
}
