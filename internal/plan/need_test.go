package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"kido/internal/plan"
	"kido/internal/site"
	"kido/internal/wire"
)

// verdict writes a verdict in short.
func verdict(v plan.Verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "new")
	for _, e := range v.New {
		fmt.Fprintf(&b, " %s=%s", e.Instance, e.Token)
	}
	if v.Reaction != "" {
		fmt.Fprintf(&b, "\n%s", v.Reaction)
	}
	if v.Own != "" {
		fmt.Fprintf(&b, "\nown: %s", v.Own)
	}
	for _, d := range v.Debts {
		fmt.Fprintf(&b, "\ndebt %s %s→%s: %s", d.Upstream, d.Had, d.Has, d.Why)
	}
	for _, x := range v.Blocked {
		fmt.Fprintf(&b, "\nblocked %s: %s", x.Upstream, x.Why)
	}
	return b.String()
}

func TestNeed(t *testing.T) {
	const services = `
site: s
hosts: {h: 10.0.0.1, i: 10.0.0.2, j: 10.0.0.3}
services:
  db: {hosts: [h], systemd: db.service}
  log: {hosts: [h], systemd: log.service}
  app: {hosts: [h, i], systemd: app.service, after: {db: restart}}
  side: {hosts: [i, j], systemd: side.service}
  old: {hosts: [h], plain: {}}
  web:
    hosts: [i]
    systemd: web.service
    after:
      app: {of: any}
      db: restart
      log: none
      old: none
      side: {strength: wants, on_restart: reload, when: same-host}
`
	const current = `db@h up d1
log@h up l1
app@h up a1 db@h=d1
app@i up a2 db@h=d1
side@i up s1
side@j up s2
old@h blind
web@i up w1 app@h=a1 app@i=a2 db@h=d1 side@i=s1`
	for _, c := range []struct {
		name     string
		observed string
		change   func(plan.Observed)
		want     string
	}{
		{"fresh", "", nil, "new app@h=a1 app@i=a2 db@h=d1 side@i=s1"},
		{"a new incarnation, and the upstream in between still stale", "db@h up d2", nil, `new app@h=a1 app@i=a2 db@h=d2 side@i=s1
restart
debt db@h d1→d2: db@h has a new incarnation since web@i was started
blocked app@h: stale itself: db@h has a new incarnation since app@h was started
blocked app@i: stale itself: db@h has a new incarnation since app@i was started`},
		{"one of any is through", "db@h up d2\napp@i up a3 db@h=d2", nil, `new app@h=a1 app@i=a3 db@h=d2 side@i=s1
restart
debt app@i a2→a3: app@i has a new incarnation since web@i was started
debt db@h d1→d2: db@h has a new incarnation since web@i was started`},
		{"an upstream that boots", "db@h booting d2", nil, `new app@h=a1 app@i=a2 db@h=d2 side@i=s1
restart
debt db@h d1→d2: db@h has a new incarnation since web@i was started
blocked app@h: stale itself: db@h has a new incarnation since app@h was started
blocked app@i: stale itself: db@h has a new incarnation since app@i was started
blocked db@h: connected, but the database system is starting up`},
		{"an upstream that is down on purpose", "db@h purpose", nil, `new app@h=a1 app@i=a2 db@h=d1 side@i=s1
blocked app@h: waits itself for db@h: stopped on purpose
blocked app@i: waits itself for db@h: stopped on purpose
blocked db@h: stopped on purpose`},
		{"an upstream that cannot be reached", "db@h unreachable\napp@h failed\napp@i held", nil, `new app@h=a1 app@i=a2 db@h=d1 side@i=s1
blocked app@h: it has failed
blocked app@i: it is held: a run that stopped it still owes its start
blocked db@h: no route to host`},
		{"a wanted one is passed over", "side@i down", nil, "new app@h=a1 app@i=a2 db@h=d1 side@i=s1"},
		{"a wanted one is back: reload", "side@i up s9", nil, `new app@h=a1 app@i=a2 db@h=d1 side@i=s9
reload
debt side@i s1→s9: side@i has a new incarnation since web@i was started`},
		{"reload and restart make restart", "side@i up s9\napp@h up a9 db@h=d1", nil, `new app@h=a9 app@i=a2 db@h=d1 side@i=s9
restart
debt app@h a1→a9: app@h has a new incarnation since web@i was started
debt side@i s1→s9: side@i has a new incarnation since web@i was started`},
		{"order only: readiness counts, the token does not", "log@h up l9", nil, "new app@h=a1 app@i=a2 db@h=d1 side@i=s1"},
		{"order only and down", "log@h down", nil, "new app@h=a1 app@i=a2 db@h=d1 side@i=s1\nblocked log@h: stopped on purpose"},
		{"a plain target has no token but may be unready", "old@h blind", func(o plan.Observed) {
			o[instance("old@h")].Status.Ready = false
		}, "new app@h=a1 app@i=a2 db@h=d1 side@i=s1\nblocked old@h: its state cannot be told"},
		{"entries of strangers are dropped without a debt", "web@i up w1 app@h=a1 app@i=a2 db@h=d1 gone@h=g1 log@h=l0 side@i=s1 side@j=s0", nil, "new app@h=a1 app@i=a2 db@h=d1 side@i=s1"},
		{"nothing on record", "web@i up w1", nil, `new app@h=a1 app@i=a2 db@h=d1 side@i=s1
restart
debt app@h →a1: nothing on record for app@h: kido has not seen web@i start since
debt app@i →a2: nothing on record for app@i: kido has not seen web@i start since
debt db@h →d1: nothing on record for db@h: kido has not seen web@i start since
debt side@i →s1: nothing on record for side@i: kido has not seen web@i start since`},
		{"not settled", "", func(o plan.Observed) { o[instance("db@h")].Status.Settled = false }, `new app@h=a1 app@i=a2 db@h=d1 side@i=s1
blocked app@h: waits itself for db@h: not settled: its incarnation changed while it was probed
blocked app@i: waits itself for db@h: not settled: its incarnation changed while it was probed
blocked db@h: not settled: its incarnation changed while it was probed`},
		{"an unfinished change upstream", "", func(o plan.Observed) {
			s := o[instance("app@h")].Status
			s.Intent, s.IntentVerb = true, wire.VerbRestart
			o[instance("app@i")].Status.Intent = true
		}, `new app@h=a1 app@i=a2 db@h=d1 side@i=s1
blocked app@h: an unfinished restart is on record
blocked app@i: an unfinished change is on record`},
		{"it is held itself", "web@i held - app@h=a1 app@i=a2 db@h=d1 side@i=s1", nil, `new app@h=a1 app@i=a2 db@h=d1 side@i=s1
restart
own: it is held: a run that stopped it still owes its start`},
		{"nothing is known of itself", "web@i unreachable", nil, "new\nblocked web@i: no route to host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			obs := observe(strings.Split(current, "\n")...)
			if c.observed != "" {
				for i, o := range observe(strings.Split(c.observed, "\n")...) {
					obs[i] = o
				}
			}
			if c.change != nil {
				c.change(obs)
			}
			topology := plan.New(parse(t, services))
			asked := []string{}
			got := topology.Need(instance("web@i"), func(i site.Instance) plan.Observation {
				asked = append(asked, i.String())
				return obs[i]
			}, nil)
			if verdict(got) != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", verdict(got), c.want)
			}
			want := []string{"web@i"}
			for _, level := range topology.Ancestors(instance("web@i")) {
				for _, i := range level {
					want = append(want, i.String())
				}
			}
			if !slices.Equal(asked, want) {
				t.Errorf("asked %v, want %v", asked, want)
			}
		})
	}
}

func TestAncestors(t *testing.T) {
	topology := plan.New(parse(t, `
site: s
hosts: {h: 10.0.0.1}
services:
  a: {hosts: [h], systemd: a.service}
  b: {hosts: [h], systemd: b.service, after: [a]}
  c: {hosts: [h], systemd: c.service, after: [a, b]}
  x: {hosts: [h], systemd: x.service}
  y: {hosts: [h], systemd: y.service, after: {x: none}}
  d: {hosts: [h], systemd: d.service, after: {a: restart, c: restart, y: none}}
`))
	for name, want := range map[string]string{
		"a@h": "[]", "y@h": "[[x@h]]", "c@h": "[[a@h] [b@h]]", "d@h": "[[a@h] [b@h] [c@h y@h]]", "z@h": "[]",
	} {
		if got := fmt.Sprint(topology.Ancestors(instance(name))); got != want {
			t.Errorf("Ancestors(%s) = %s, want %s", name, got, want)
		}
	}
}

func TestAround(t *testing.T) {
	topology := plan.New(parse(t, `
site: s
hosts: {h: 10.0.0.1, i: 10.0.0.2}
services:
  a: {hosts: [h], systemd: a.service}
  b: {hosts: [h], systemd: b.service, after: [a]}
  other: {hosts: [h], systemd: other.service}
  d: {hosts: [i], systemd: d.service, after: [b, other]}
  rival: {hosts: [h, i], systemd: rival.service, conflicts: [d]}
  far: {hosts: [i], systemd: far.service}
`))
	for target, want := range map[string]string{
		"b@h": "[a@h b@h other@h d@i rival@i]", "far@i": "[far@i]", "": "[a@h b@h other@h d@i rival@h rival@i far@i]",
	} {
		var of []site.Instance
		if target != "" {
			of = []site.Instance{instance(target)}
		}
		if got := fmt.Sprint(topology.Around(of)); got != want {
			t.Errorf("Around(%s) = %s, want %s", target, got, want)
		}
	}
}

// TestBarrier is the diamond a → b, c → d searched to the end: a runner may be
// cut off between any two reads, a may restart at any time, other runners and
// this one ensure b, c and d whenever Need lets them. Then d is never ensured
// before b and c are current with what was read of a, and one restart of a
// costs d one restart (I2, I4).
func TestBarrier(t *testing.T) {
	topology := plan.New(parse(t, `
site: s
hosts: {h: 10.0.0.1}
services:
  a: {hosts: [h], systemd: a.service}
  b: {hosts: [h], systemd: b.service, after: [a]}
  c: {hosts: [h], systemd: c.service, after: [a]}
  d: {hosts: [h], systemd: d.service, after: [b, c]}
`))
	const restarts = 2
	type node struct {
		token int8
		basis [2]int8 // of the upstreams, in the order of ups
	}
	ups := [4][]int8{nil, {0}, {0}, {1, 2}}
	names := [4]string{"a@h", "b@h", "c@h", "d@h"}
	// runner has read so many of its reads: the target, then its ancestors.
	type runner struct {
		target, reads int8
		seen          [4]node
	}
	type world struct {
		nodes  [4]node
		runner [2]runner
	}
	order := [4][]int8{}
	for d := range ups {
		order[d] = []int8{int8(d)}
		for _, level := range topology.Ancestors(instance(names[d])) {
			for _, i := range level {
				order[d] = append(order[d], int8(slices.Index(names[:], i.String())))
			}
		}
	}
	status := func(nodes [4]node) func(site.Instance) plan.Observation {
		return func(i site.Instance) plan.Observation {
			n := slices.Index(names[:], i.String())
			s := &wire.Status{
				Instance: i.String(), State: wire.StateUp, Token: fmt.Sprint(nodes[n].token),
				Settled: true, Ready: true, Generation: 1, Wanted: wire.WantedUp,
			}
			for k, u := range ups[n] {
				s.Basis = s.Basis.With(names[u], fmt.Sprint(nodes[n].basis[k]))
			}
			return plan.Observation{Status: s}
		}
	}
	type question struct {
		target int8
		seen   [4]node
	}
	verdicts := map[question]plan.Verdict{}
	need := func(r runner) plan.Verdict {
		q := question{r.target, r.seen}
		v, known := verdicts[q]
		if !known {
			v = topology.Need(instance(names[r.target]), status(r.seen), nil)
			verdicts[q] = v
		}
		return v
	}

	start := world{}
	seen := map[world]bool{start: true}
	queue := []world{start}
	worst := int8(0)
	visit := func(w world) {
		if !seen[w] {
			seen[w] = true
			queue = append(queue, w)
		}
	}
	for len(queue) > 0 {
		w := queue[0]
		queue = queue[1:]
		worst = max(worst, w.nodes[3].token)
		if w.nodes[0].token < restarts {
			next := w
			next.nodes[0].token++
			visit(next)
		}
		for i, r := range w.runner {
			idle := w
			idle.runner[i] = runner{}
			switch {
			case r.target == 0: // choose a dependent
				for d := int8(1); d <= 3; d++ {
					next := w
					next.runner[i].target = d
					visit(next)
				}
			case int(r.reads) < len(order[r.target]):
				next := w
				at := order[r.target][r.reads]
				next.runner[i].seen[at] = w.nodes[at]
				next.runner[i].reads++
				visit(next)
				visit(idle)
			default: // one ENSURE: compare and set
				v := need(r)
				d := r.target
				if len(v.Debts) > 0 && len(v.Blocked) == 0 && w.nodes[d].basis == r.seen[d].basis {
					for k, u := range ups[d] {
						token, _ := v.New.Get(names[u])
						idle.nodes[d].basis[k] = int8(token[0] - '0')
						if d == 3 && r.seen[u].basis[0] != r.seen[0].token {
							t.Fatalf("d is ensured against %s, which is stale: %+v", names[u], w)
						}
					}
					idle.nodes[d].token++
				}
				visit(idle)
			}
		}
	}
	if worst != restarts {
		t.Errorf("%d restarts of a cost d up to %d, in %d states", restarts, worst, len(seen))
	}
}

// TestNeedLives: a reload that is made only where connections from before are held
// names the lives that these must be older than, and any other debt makes it unconditional.
func TestNeedLives(t *testing.T) {
	s, err := site.Parse("site.yaml", []byte(`
site: s
hosts: {h: 10.0.0.1, i: 10.0.0.2}
services:
  db: {hosts: [h], systemd: db.service, ready: [{tcp: ":1"}]}
  cache: {hosts: [h], systemd: cache.service, ready: [{tcp: ":2"}]}
  log: {hosts: [h], systemd: log.service, ready: [{tcp: ":3"}]}
  web:
    hosts: [i]
    systemd: web.service
    after:
      db: {on_restart: reload, if: stale-connections}
      cache: {on_restart: reload, if: stale-connections}
      log: reload
`))
	if err != nil {
		t.Fatal(err)
	}
	topo := plan.New(s)
	up := func(token, life string) *wire.Status {
		return &wire.Status{State: wire.StateUp, Token: token, Life: life, Settled: true, Ready: true, Age: 7e9, Wanted: wire.WantedUp}
	}
	for name, x := range map[string]struct {
		change func(db, cache, log, web *wire.Status)
		debts  int
		lives  string
	}{
		"fresh":                       {func(_, _, _, _ *wire.Status) {}, 0, "[]"},
		"inside the unit":             {func(db, _, _, _ *wire.Status) { db.Life = "2" }, 1, "[{db@h 7s}]"},
		"both":                        {func(db, cache, _, _ *wire.Status) { db.Life, cache.Token = "2", "c2" }, 2, "[{cache@h 7s} {db@h 7s}]"},
		"and one that always reloads": {func(db, _, log, _ *wire.Status) { db.Life, log.Token = "2", "l2" }, 2, "[]"},
		"of an unknown age":           {func(db, _, _, _ *wire.Status) { db.Life, db.Age = "2", 0 }, 1, "[]"},
		"an unfinished change":        {func(db, _, _, web *wire.Status) { db.Life, web.Intent, web.IntentVerb = "2", true, wire.VerbReload }, 1, "[]"},
		"a life that is not told":     {func(db, _, _, _ *wire.Status) { db.Life, db.Ready, db.Word = wire.LifeUntold, false, "starting up" }, 0, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			db, cache, log, web := up("d", "1"), up("c", ""), up("l", ""), up("w", "")
			web.Basis = wire.NewVector(wire.Entry{Instance: "db@h", Token: "d+1"}, wire.Entry{Instance: "cache@h", Token: "c"}, wire.Entry{Instance: "log@h", Token: "l"})
			x.change(db, cache, log, web)
			all := map[string]*wire.Status{"db@h": db, "cache@h": cache, "log@h": log, "web@i": web}
			v := topo.Need(site.Instance{Service: "web", Host: "i"}, func(i site.Instance) plan.Observation {
				return plan.Observation{Status: all[i.String()]}
			}, nil)
			if len(v.Debts) != x.debts || fmt.Sprint(v.Lives) != x.lives {
				t.Errorf("debts %v, lives %v; want %d and %s", v.Debts, v.Lives, x.debts, x.lives)
			}
			if name == "inside the unit" && v.New[1].Token != "d+2" {
				t.Errorf("new basis %v", v.New)
			}
		})
	}
}

// TestNeedTold: what a probe has begun to tell of an upstream, or tells no more, is its
// own reason; and what is known of one that tells nothing just now is not lost.
func TestNeedTold(t *testing.T) {
	s, err := site.Parse("site.yaml", []byte(`
site: s
hosts: {h: 10.0.0.1, i: 10.0.0.2}
services:
  db: {hosts: [h], systemd: db.service, ready: [{redis: ":1"}]}
  must: {hosts: [i], systemd: must.service, after: [db]}
  may: {hosts: [i], systemd: may.service, after: {db: {strength: wants}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	topo := plan.New(s)
	for name, x := range map[string]struct {
		had, unit, life string
		debt            string // of what requires it
		passed          bool   // by what wants it
	}{
		"the same":                  {"d+1", "d", "1", "", false},
		"another life":              {"d+1", "d", "2", "db@h has a new incarnation since must@i was started", false},
		"another start":             {"d+1", "e", "1", "db@h has a new incarnation since must@i was started", false},
		"it tells now":              {"d", "d", "1", "a probe of db@h tells its incarnation now, and which one must@i was started against is not known", false},
		"it tells no more":          {"d+1", "d", "", "no probe of db@h tells its incarnation any more, so that it may be another one since must@i was started", false},
		"untold just now":           {"d+1", "d", wire.LifeUntold, "", false},
		"untold, and another start": {"d+1", "e", wire.LifeUntold, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			need := func(service string) plan.Verdict {
				return topo.Need(site.Instance{Service: service, Host: "i"}, func(i site.Instance) plan.Observation {
					st := &wire.Status{State: wire.StateUp, Token: "u", Settled: true, Ready: true, Wanted: wire.WantedUp}
					if i.Service == "db" {
						st.Token, st.Life, st.Ready = x.unit, x.life, x.life != wire.LifeUntold
					} else {
						st.Basis = wire.NewVector(wire.Entry{Instance: "db@h", Token: x.had})
					}
					return plan.Observation{Status: st}
				}, nil)
			}
			v := need("must")
			if (len(v.Debts) == 1) != (x.debt != "") || x.debt != "" && v.Debts[0].Why != x.debt {
				t.Errorf("debts %v, want %q", v.Debts, x.debt)
			}
			db, other := []site.Instance{{Service: "db", Host: "h"}}, []site.Instance{{Service: "must", Host: "i"}}
			if v := need("may"); (len(v.Passed) == 1) != x.passed {
				t.Errorf("passed %v, want %t", v.Passed, x.passed)
			} else if (len(v.Behind(db)) == 1) != (x.passed || x.debt != "") || (len(v.Behind(other)) == 1) != (x.debt != "") {
				t.Errorf("behind its upstream: %v, and another: %v", v.Behind(db), v.Behind(other))
			}
		})
	}
}
