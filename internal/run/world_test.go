package run_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/wire"
)

// world is a site in memory: every instance with its init and its gate, which
// is the shipping step function. One goroutine, one seed: a story can be told
// again.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	topo  *plan.Topology
	nodes map[site.Instance]*node
	pools map[site.Instance]gate.Pool // by keeper
	// refuse is what every gate answers to a verb.
	dark   map[string]bool // hosts, "" for the runner's own, from which no probe gets through
	refuse map[wire.Verb]wire.Code
	story  []string
	now    time.Duration // of every host
	looks  int           // STATUS requests so far
	lie    wire.Code     // what every gate answers to a request that would change something; "": the truth
	mute   wire.Code     // what every gate answers to a STATUS, without a status
}

// node is one instance.
type node struct {
	name    string
	state   wire.State
	life    int
	seen    map[string]string // upstream → its token when this life began
	starts  map[string]int    // basis to be → restarts by a gate for it
	disk    []byte
	held    initsys.Action
	running initsys.Action
	broken  int // this many starts fail
	deaf    bool
	age     time.Duration // as init has it; 0: it does not say
	poorly  string        // what is not as it should be, though it answers
	cut     bool          // its host cannot be reached
	barred  bool          // its host is not the one whose key is pinned
}

func newWorld(t *testing.T, seed uint64, text string) *world {
	s, err := site.Parse("site.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, seed)), topo: plan.New(s), nodes: map[site.Instance]*node{}, pools: map[site.Instance]gate.Pool{}}
	for _, i := range w.topo.Instances() {
		w.nodes[i] = &node{name: i.String(), state: wire.StateUp, life: 1, starts: map[string]int{}}
	}
	for _, i := range w.topo.Instances() {
		n := w.nodes[i]
		n.seen = w.tokens(i)
		basis := wire.Vector{}
		for u, token := range n.seen {
			basis = basis.With(u, token)
		}
		n.disk = gate.Record{Instance: n.name, Generation: 1, Wanted: wire.WantedUp, Seen: wire.StateUp, Own: n.token(), Basis: basis}.Format()
	}
	return w
}

// emptyRecord is what is on record of an instance that no gate has met.
func emptyRecord(name string) []byte { return gate.Record{Instance: name}.Format() }

func (w *world) say(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nthe story:\n  %s", fmt.Sprintf(format, args...), strings.Join(w.story, "\n  "))
}

func (n *node) token() string {
	if n.state != wire.StateUp {
		return ""
	}
	return fmt.Sprintf("%s:%d", n.name, n.life)
}

// tokens are those of the direct upstreams of i that are in its basis, now.
func (w *world) tokens(i site.Instance) map[string]string {
	all := map[string]string{}
	for _, d := range w.topo.Site().Service(i.Service).After {
		if d.OnRestart == site.ReactionNone {
			continue
		}
		for _, u := range w.topo.Site().Service(d.Upstream).Instances() {
			if !d.SameHost || u.Host == i.Host {
				all[u.String()] = w.nodes[u].token()
			}
		}
	}
	return all
}

// restartByHand is somebody's systemctl restart.
func (w *world) restartByHand(i site.Instance) {
	n := w.nodes[i]
	n.state, n.life, n.seen = wire.StateUp, n.life+1, w.tokens(i)
	w.say("%s is restarted by hand: life %d", n.name, n.life)
}

// finish lets init end what it was told for i.
func (w *world) finish(i site.Instance) {
	n := w.nodes[i]
	do := n.running
	n.running = ""
	start := func() {
		if n.broken > 0 {
			n.broken--
			n.state = wire.StateFailed
			w.say("%s: init: the start fails", n.name)
			return
		}
		n.state, n.life, n.seen = wire.StateUp, n.life+1, w.tokens(i)
		w.say("%s: init: life %d begins", n.name, n.life)
	}
	switch {
	case do == initsys.Stop:
		n.state = wire.StateDown
		w.say("%s: init: stopped", n.name)
	case do == initsys.Start && n.state != wire.StateUp:
		start()
	case do == initsys.Restart:
		rec, err := gate.ParseRecord(n.disk, n.name)
		if err != nil || rec.Intent == nil {
			w.fail("%s is restarted without an intent on record: %v", n.name, err)
		}
		n.starts[fmt.Sprint(rec.Intent.New)]++
		start()
	}
}

// serve carries a request through the gate of i. With crash ≥ 0 the gate dies
// around that effect, and there is no reply.
func (w *world) serve(i site.Instance, q wire.Request, crash int) (wire.Reply, error) {
	if q.Verb == wire.VerbProbe {
		u := w.nodes[instance(q.Service)]
		return wire.Reply{Code: wire.CodeOK, Status: &wire.Status{
			Instance: q.Service, State: wire.StateBlind, Settled: true, Ready: u.state == wire.StateUp && !u.deaf && !w.dark[i.Host], Word: "connection refused",
		}}, nil
	}
	n := w.nodes[i]
	if n.barred {
		return wire.Reply{}, &run.CallError{Err: fmt.Errorf("%s: another host key", i.Host), Hint: "kido keys pin " + i.Host, Final: true, Unsent: true}
	}
	if n.cut {
		return wire.Reply{}, &run.CallError{Err: fmt.Errorf("%s: no route to host", i.Host), Unsent: true}
	}
	if q.Verb == wire.VerbStatus {
		w.looks++
	}
	if code := w.refuse[q.Verb]; code != "" {
		return wire.Reply{Code: code, Word: "the policy does not grant this"}, nil
	}
	if q.Verb == wire.VerbTake || q.Verb == wire.VerbGive {
		p := w.pools[i]
		p.Service = i.Service
		next, r := p.Step(q)
		w.pools[i] = next
		w.say("%s: pool: %s of %s by %s → %s", n.name, q.Verb, q.Member, q.Run, r.Code)
		return r, nil
	}
	if w.mute != "" && q.Verb == wire.VerbStatus {
		return wire.Reply{Code: w.mute}, nil
	}
	if w.lie != "" && q.Verb != wire.VerbStatus {
		return wire.Reply{Code: w.lie, Word: "so it says"}, nil
	}
	look := func() gate.Event {
		return gate.Looked{Look: gate.Look{State: n.state, Token: n.token(), Age: n.age}}
	}
	m, effect := gate.NewMachine(n.name, q).Step(gate.Begin{})
	for k := 0; ; k++ {
		if a, ok := effect.(gate.Answer); ok {
			n.held = ""
			if q.Verb != wire.VerbStatus {
				w.say("%s: gate: %s → %s %s", n.name, q.Verb, a.Reply.Code, a.Reply.Word)
			}
			return a.Reply, nil
		}
		if k == crash {
			w.say("%s: the gate dies before %T", n.name, effect)
			n.held = ""
			return wire.Reply{}, fmt.Errorf("%s: the gate was ended by signal 9", i.Host)
		}
		var ev gate.Event
		switch e := effect.(type) {
		case gate.Lock:
			ev = gate.Locked{OK: true}
		case gate.Load:
			l := gate.Loaded{Now: gate.Moment{Boot: "b", At: w.now}}
			r, err := gate.ParseRecord(n.disk, n.name)
			if l.Record = r; err != nil {
				l.Unreadable = err.Error()
			}
			ev = l
		case gate.Idle:
			w.finish(i)
			ev = look()
		case gate.See:
			ev = gate.Looked{Look: gate.Look{State: n.state, Token: n.token(), Age: n.age}, Waiting: n.running != ""}
		case gate.Unlock:
			ev = gate.Unlocked{}
		case gate.Settle:
			ev = look()
		case gate.Ask:
			ev = gate.Asked{Ready: true, Degraded: n.poorly != "", Word: n.poorly}
			if n.deaf {
				ev = gate.Asked{Word: "starting up"}
			}
		case gate.Save:
			n.disk = e.Record.Format()
			ev = gate.Stored{}
		case gate.Count:
			ev = gate.Counted{}
		case gate.Prepare:
			n.held = e.Do
			ev = gate.Prepared{Child: &initsys.Child{Boot: "b", PID: 1, Start: 1}}
		case gate.Go:
			n.running, n.held = n.held, ""
			ev = gate.Gone{}
		case gate.Await:
			w.finish(i)
			ev = gate.Ended{}
		default:
			w.fail("no such effect: %T", e)
		}
		m, effect = m.Step(ev)
	}
}

// faults says how often, in percent, what goes wrong.
type faults struct{ lost, replyLost, gateDies, runnerDies int }

func (w *world) percent(p int) bool { return w.rng.IntN(100) < p }

// runner is one run in the world, its clock and its journal.
type runner struct {
	w       *world
	id      string
	plan    *plan.Plan
	run     *run.Run
	now     time.Duration
	wake    time.Duration
	journal []run.Event
	pending []run.Call
	acting  map[string]bool // instances that a call which changes them is out for, or not yet ready again
	most    map[string]int  // service → the most of them at once
	opts    run.Options
}

func (w *world) runner(id string, q plan.Request, o run.Options) *runner {
	targets, err := w.topo.Site().Resolve(q.Targets)
	if err != nil {
		w.t.Fatal(err)
	}
	seen := plan.Observed{}
	for _, i := range w.topo.Instances() {
		if r, err := w.serve(i, wire.Request{Verb: wire.VerbStatus, Service: i.Service}, -1); err == nil {
			seen[i] = plan.Observation{Status: r.Status}
		}
	}
	p, err := w.topo.Make(q, targets, seen)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &runner{w: w, id: id, plan: p, acting: map[string]bool{}, most: map[string]int{}, opts: o}
	r.run = run.New(id, w.topo, p, o)
	r.step(run.Begin{})
	return r
}

func (r *runner) step(in run.Input) {
	for _, e := range r.run.Step(r.now, in) {
		switch e := e.(type) {
		case run.Publish:
			if e.Durable {
				r.journal = append(r.journal, e.Event)
			}
			if s := e.Event.Step; s != nil {
				r.w.say("%s: %s %s %s %s", r.id, s.Instance, s.Phase, s.Verb, s.Word)
				if s.Phase.Final() {
					delete(r.acting, s.Instance)
				}
			}
		case run.Call:
			r.pending = append(r.pending, e)
			n := r.w.nodes[site.Instance{Service: e.Request.Service, Host: e.Host}]
			up := n != nil && n.state == wire.StateUp
			if up && e.Request.Verb == wire.VerbRestart || up && e.Request.Verb == wire.VerbEnsure && e.Request.Reaction == wire.ReactRestart {
				r.acting[e.Request.Service+"@"+e.Host] = true
				many := 0
				for name := range r.acting {
					if strings.HasPrefix(name, e.Request.Service+"@") {
						many++
					}
				}
				r.most[e.Request.Service] = max(r.most[e.Request.Service], many)
			}
		case run.Wake:
			r.wake = e.At
		}
	}
}

// turn lets one thing happen; it reports whether the run has ended.
func (r *runner) turn(f faults) bool {
	if _, ended := r.run.Outcome(); ended {
		return true
	}
	w := r.w
	if f.runnerDies > 0 && w.percent(f.runnerDies) {
		w.say("%s dies and is started again", r.id)
		// Its requests go on by themselves: some arrive yet, some never.
		for _, c := range r.pending {
			if w.percent(50) {
				_, _ = w.serve(site.Instance{Service: c.Request.Service, Host: c.Host}, c.Request, -1)
			}
		}
		r.pending, r.acting = nil, map[string]bool{}
		r.run = run.New(r.id, w.topo, r.plan, r.opts)
		if err := r.run.Replay(r.journal); err != nil {
			w.fail("replay: %v", err)
		}
		r.step(run.Begin{})
		return false
	}
	if len(r.pending) == 0 {
		if r.wake <= r.now {
			w.fail("%s is stuck: nothing is out and nothing is due", r.id)
		}
		r.now = r.wake
		r.step(run.Tick{})
		return false
	}
	k := w.rng.IntN(len(r.pending))
	c := r.pending[k]
	r.pending = append(r.pending[:k], r.pending[k+1:]...)
	r.now += time.Millisecond
	a := run.Answered{ID: c.ID}
	target := site.Instance{Service: c.Request.Service, Host: c.Host}
	var err error
	switch {
	case w.percent(f.lost):
		err = &run.CallError{Err: fmt.Errorf("%s: connection refused", c.Host), Unsent: true}
	case w.percent(f.gateDies):
		a.Reply, err = w.serve(target, c.Request, w.rng.IntN(11))
	default:
		a.Reply, err = w.serve(target, c.Request, -1)
		if w.percent(f.replyLost) {
			w.say("the reply of %s is lost", target)
			a.Reply, err = wire.Reply{}, fmt.Errorf("%s: connection lost", c.Host)
		}
	}
	if err != nil {
		a.Err = err.Error()
		if ce, ok := err.(*run.CallError); ok { //nolint:errorlint // made right above
			a.Final, a.Unsent, a.Hint = ce.Final, ce.Unsent, ce.Hint
			if ce.Unsent {
				delete(r.acting, target.String())
			}
		}
	}
	r.step(a)
	return false
}

// finish lets the run go on, without further faults, to its end.
func (r *runner) finish() run.Outcome {
	for n := 0; !r.turn(faults{}); n++ {
		if n > 100_000 {
			r.w.fail("%s does not end", r.id)
		}
	}
	o, _ := r.run.Outcome()
	return o
}

// fresh fails unless every instance is up and was started against what its
// upstreams are now (I3), and unless what its record says is so (I1).
func (w *world) fresh() {
	w.t.Helper()
	for _, i := range w.topo.Instances() {
		n := w.nodes[i]
		w.finish(i)
		if n.state != wire.StateUp {
			w.fail("I3: %s is %s", n.name, n.state)
		}
		r, err := w.serve(i, wire.Request{Verb: wire.VerbStatus, Service: i.Service}, -1)
		if err != nil || r.Status == nil || r.Status.Intent {
			w.fail("I3: the status of %s: %+v, %v", n.name, r.Status, err)
		}
		for u, token := range w.tokens(i) {
			if n.seen[u] != token {
				w.fail("I3: %s was started against %s %q, which is %q now", n.name, u, n.seen[u], token)
			}
			if on, _ := r.Status.Basis.Get(u); on != token {
				w.fail("I1: the basis of %s has %s %q, which is %q now", n.name, u, on, token)
			}
		}
	}
}

// honest fails if a record says of a running instance what is not so (I1).
func (w *world) honest() {
	w.t.Helper()
	for _, i := range w.topo.Instances() {
		n := w.nodes[i]
		rec, err := gate.ParseRecord(n.disk, n.name)
		if err != nil {
			w.fail("the record of %s: %v", n.name, err)
		}
		for _, e := range rec.Basis {
			if w.reloads(i, e.Instance) {
				continue // a reload leaves it in its old life
			}
			// The hand of a test may have restarted it since the record was
			// written, which makes it newer than it says; older it may not be.
			if rec.Own == n.token() && n.token() != "" && n.seen[e.Instance] != "" && lifeOf(n.seen[e.Instance]) < lifeOf(e.Token) {
				w.fail("I1: the basis of %s says %s, it was started against %q", n.name, e.Token, n.seen[e.Instance])
			}
		}
	}
}

// reloads reports whether an instance only reloads when an upstream was restarted.
func (w *world) reloads(i site.Instance, upstream string) bool {
	service, _, _ := strings.Cut(upstream, "@")
	return slices.ContainsFunc(w.topo.Site().Service(i.Service).After, func(d site.Dependency) bool {
		return d.Upstream == service && d.OnRestart == site.ReactionReload
	})
}

func lifeOf(token string) (n int) {
	_, life, _ := strings.Cut(token, ":")
	_, _ = fmt.Sscan(life, &n)
	return n
}

// once fails if a gate restarted an instance twice against the same vector (I2).
func (w *world) once() {
	w.t.Helper()
	for _, n := range w.nodes {
		for vector, count := range n.starts {
			if count > 1 {
				w.fail("I2: %s was restarted %d times against %s", n.name, count, vector)
			}
		}
	}
}
