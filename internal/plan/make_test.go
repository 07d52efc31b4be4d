package plan_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"kido/internal/plan"
	"kido/internal/site"
	"kido/internal/wire"
)

// shop has every kind of dependency once.
const shop = `
site: shop
hosts:
  db1: 192.168.0.100
  app1: 192.168.0.40
  app2: 192.168.0.41
  web1: 192.168.0.50
  web2: 192.168.0.51
  web3: 192.168.0.52
  old1: 192.168.0.60
services:
  oracle:
    hosts: [db1]
    systemd: dbora.service
  cache:
    hosts: [app1, app2]
    systemd: memcached.service
  app:
    hosts: [app1, app2]
    systemd: app.service
    after:
      oracle: stop-first
      cache: {when: same-host, on_restart: reload}
  batch:
    hosts: [app1]
    systemd: batch.service
    after: {oracle: none}
  mail:
    hosts: [app2]
    systemd: mail.service
  web:
    hosts: [web1, web2, web3]
    systemd: httpd.service
    max_unavailable: 2
    after:
      oracle: restart
      app: {of: any}
      mail: {strength: wants}
  legacy:
    hosts: [old1]
    plain: {}
    after: {oracle: restart}
`

func parse(t *testing.T, text string) *site.Site {
	t.Helper()
	s, err := site.Parse("site.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// targets resolves services and instances, which is all that is needed here.
func targets(s *site.Site, words ...string) []site.Instance {
	var all []site.Instance
	for _, word := range words {
		if service, host, ok := strings.Cut(word, "@"); ok {
			all = append(all, site.Instance{Service: service, Host: host})
		} else {
			all = append(all, s.Service(word).Instances()...)
		}
	}
	return all
}

func instance(name string) site.Instance {
	service, host, _ := strings.Cut(name, "@")
	return site.Instance{Service: service, Host: host}
}

// observe reads "web@web1 STATE TOKEN upstream=token …". The states are wire's,
// and "purpose" for stopped on purpose, "held", "booting" for up but not ready.
func observe(lines ...string) plan.Observed {
	obs := plan.Observed{}
	for _, line := range lines {
		f := strings.Fields(line)
		s := &wire.Status{Instance: f[0], Generation: 1, Settled: true, Wanted: wire.WantedUp}
		switch f[1] {
		case "purpose":
			s.State, s.Wanted = wire.StateDown, wire.WantedDown
		case "held":
			s.State, s.Wanted = wire.StateDown, wire.WantedHeld
		case "booting":
			s.State, s.Word = wire.StateUp, "connected, but the database system is starting up"
		case "unreachable":
			obs[instance(f[0])] = plan.Observation{Err: "no route to host"}
			continue
		default:
			s.State = wire.State(f[1])
			s.Ready = s.State == wire.StateUp || s.State == wire.StateBlind
		}
		for i, field := range f[2:] {
			if name, token, ok := strings.Cut(field, "="); ok {
				s.Basis = s.Basis.With(name, token)
			} else if i == 0 {
				s.Token = field
			}
		}
		obs[instance(f[0])] = plan.Observation{Status: s}
	}
	return obs
}

// sketch writes a plan in short: one line a step with what it waits for, "~"
// for soft and "|" for any; "-" in front where there is likely nothing to do.
func sketch(p *plan.Plan, reasons bool) string {
	var b strings.Builder
	for _, s := range p.Steps {
		if !s.Likely {
			b.WriteString("- ")
		}
		fmt.Fprintf(&b, "%s %s", s.Action, s.Name)
		for i, e := range s.After {
			b.WriteString([]string{" <", ","}[min(i, 1)])
			fmt.Fprintf(&b, " %s", p.Steps[e.Step].Name)
			if p.Steps[e.Step].Action == plan.ActHold {
				b.WriteString("(hold)")
			}
			if e.Soft {
				b.WriteString("~")
			}
		}
		if reasons {
			b.WriteString(": " + s.Reason)
		}
		b.WriteString("\n")
	}
	for _, a := range p.Alone {
		fmt.Fprintf(&b, "alone %s: %s\n", a.Instance, a.Reason)
	}
	return b.String()
}

func TestMake(t *testing.T) {
	const current = `oracle@db1 up o1
cache@app1 up c1
cache@app2 up c2
app@app1 up a1 oracle@db1=o1 cache@app1=c1
app@app2 up a2 oracle@db1=o1 cache@app2=c2
batch@app1 up b1
mail@app2 up m1
web@web1 up w1 oracle@db1=o1 app@app1=a1 app@app2=a2 mail@app2=m1
web@web2 up w2 oracle@db1=o1 app@app1=a1 app@app2=a2 mail@app2=m1
web@web3 up w3 oracle@db1=o1 app@app1=a1 app@app2=a2 mail@app2=m1`
	for _, c := range []struct {
		name    string
		verb    plan.Verb
		targets string
		// observed replaces lines of current; "unknown": nothing is known.
		observed string
		reasons  bool
		want     string
	}{
		{
			name: "up brings its upstreams", verb: plan.Up, targets: "web@web1", observed: "unknown", reasons: true, want: `
start oracle@db1: app@app1 needs it
start cache@app1: app@app1 needs it
start cache@app2: app@app2 needs it
start app@app1 < oracle@db1, cache@app1: web@web1 needs it
start app@app2 < oracle@db1, cache@app2: web@web1 needs it
start mail@app2: web@web1 needs it
start web@web1 < oracle@db1, app@app1~, app@app2~, mail@app2~: you asked for it
`,
		},
		{
			name: "up of what is up pays debts", verb: plan.Up, targets: "web@web2", reasons: true,
			observed: "oracle@db1 up o2\nmail@app2 failed\nbatch@app1 down", want: `
- start oracle@db1: it is up
- start cache@app1: it is up
- start cache@app2: it is up
start app@app1 < oracle@db1, cache@app1: oracle@db1 has a new incarnation since app@app1 was started
start app@app2 < oracle@db1, cache@app2: oracle@db1 has a new incarnation since app@app2 was started
start mail@app2: it has failed, and web@web2 needs it
start web@web2 < oracle@db1, app@app1~, app@app2~, mail@app2~: app@app1, app@app2 and 1 more will have new incarnations
alone web@web1: owes a reaction to app@app1, app@app2 and 1 more afterwards: kido announce app@app1 makes it fresh
alone web@web3: owes a reaction to app@app1, app@app2 and 1 more afterwards: kido announce app@app1 makes it fresh
`,
		},
		{
			name: "up wants again what was stopped on purpose", verb: plan.Up, targets: "mail", reasons: true,
			observed: "mail@app2 purpose", want: `
start mail@app2: it is stopped on purpose, and you asked for it
alone web@web1: owes a reaction to mail@app2 afterwards: kido announce mail@app2 makes it fresh
alone web@web2: owes a reaction to mail@app2 afterwards: kido announce mail@app2 makes it fresh
alone web@web3: owes a reaction to mail@app2 afterwards: kido announce mail@app2 makes it fresh
`,
		},
		{
			name: "up of a plain target can only ensure", verb: plan.Up, targets: "legacy", observed: "unknown", want: `
start oracle@db1
ensure legacy@old1 < oracle@db1
`,
		},
		{
			name: "start takes the targets only, in an order that may lead through others", verb: plan.Start,
			targets: "web@web1 cache legacy", observed: "unknown", want: `
start cache@app1
start cache@app2
start web@web1 < cache@app1~, cache@app2~
alone legacy@old1: it is a plain target: its key runs one fixed command, and kido cannot tell whether it is up, nor start it
`,
		},
		{
			name: "start with part of an any-set", verb: plan.Start, targets: "web@web1 app@app1", observed: "unknown", want: `
start app@app1
start web@web1 < app@app1~
`,
		},
		{
			name: "stop says who stays", verb: plan.Stop, targets: "oracle app@app2", observed: "web@web2 purpose\nweb@web3 unreachable", want: `
stop app@app2
stop oracle@db1 < app@app2
alone app@app1: stays up though oracle@db1 stops: kido down oracle@db1 stops it first
alone batch@app1: stays up though oracle@db1 stops: kido down oracle@db1 stops it first
alone web@web1: stays up though oracle@db1 stops: kido down oracle@db1 stops it first
alone web@web3: stays as it is though oracle@db1 stops: kido down oracle@db1 stops it first
alone legacy@old1: stays as it is though oracle@db1 stops: kido down oracle@db1 stops it first
`,
		},
		{
			name: "down takes all that needs it", verb: plan.Down, targets: "oracle", observed: "web@web3 down", reasons: true, want: `
stop batch@app1: it needs oracle@db1
stop web@web1: it needs app@app1
stop web@web2: it needs app@app1
- stop web@web3: it is down already
stop app@app1 < web@web1, web@web2, web@web3: it needs oracle@db1
stop app@app2 < web@web1, web@web2, web@web3: it needs oracle@db1
stop oracle@db1 < batch@app1, web@web1, web@web2, web@web3, app@app1, app@app2: you asked for it
alone legacy@old1: it is a plain target: its key runs one fixed command, and kido cannot stop it
`,
		},
		{
			name: "down leaves those that have another, or only want it", verb: plan.Down, targets: "mail", observed: "web@web2 down", want: `
stop mail@app2
alone web@web1: stays up though mail@app2 stops: it wants it but does not require it
alone web@web3: stays up though mail@app2 stops: it wants it but does not require it
`,
		},
		{
			name: "down of all of an any-set", verb: plan.Down, targets: "app", want: `
stop web@web1
stop web@web2
stop web@web3
stop app@app1 < web@web1, web@web2, web@web3
stop app@app2 < web@web1, web@web2, web@web3
`,
		},
		{
			name: "down of one of an any-set", verb: plan.Down, targets: "app@app2", want: `
stop app@app2
alone web@web1: stays up though app@app2 stops: any one of app is enough, and app@app1 is not stopped
alone web@web2: stays up though app@app2 stops: any one of app is enough, and app@app1 is not stopped
alone web@web3: stays up though app@app2 stops: any one of app is enough, and app@app1 is not stopped
`,
		},
		{
			name: "restart holds those that stop first", verb: plan.Restart, targets: "oracle", reasons: true,
			observed: "app@app2 purpose\nweb@web2 purpose", want: `
hold app@app1: stops before oracle@db1 restarts
restart oracle@db1 < app@app1(hold): you asked for it
ensure app@app1 < app@app1(hold)~, oracle@db1~: oracle@db1 will have a new incarnation
- ensure app@app2 < oracle@db1: stopped on purpose: stays so; its debt is waived
ensure web@web1 < oracle@db1, app@app1~, app@app2~: oracle@db1 and app@app1 will have new incarnations
- ensure web@web2 < oracle@db1, app@app1~, app@app2~: stopped on purpose: stays so; its debt is waived
ensure web@web3 < oracle@db1, app@app1~, app@app2~: oracle@db1 and app@app1 will have new incarnations
ensure legacy@old1 < oracle@db1: oracle@db1 will have a new incarnation
alone batch@app1: ordered after oracle but does not react to its restarts
`,
		},
		{
			name: "nothing comes of what stays down", verb: plan.Restart, targets: "cache", observed: "app@app1 down\napp@app2 purpose", reasons: true, want: `
restart cache@app1: you asked for it
restart cache@app2: you asked for it
- ensure app@app1 < cache@app1: stopped on purpose: stays so; its debt is waived
- ensure app@app2 < cache@app2: stopped on purpose: stays so; its debt is waived
`,
		},
		{
			name: "restart of both ends starts the held one once", verb: plan.Restart, targets: "oracle app@app1 web@web1", want: `
hold app@app1
hold app@app2
restart oracle@db1 < app@app1(hold), app@app2(hold)
ensure app@app1 < app@app1(hold)~, oracle@db1~
ensure app@app2 < app@app2(hold)~, oracle@db1~
restart web@web1 < oracle@db1, app@app1~, app@app2~
ensure web@web2 < oracle@db1, app@app1~, app@app2~
ensure web@web3 < oracle@db1, app@app1~, app@app2~
ensure legacy@old1 < oracle@db1
alone batch@app1: ordered after oracle but does not react to its restarts
`,
		},
		{
			name: "a reload is no new incarnation", verb: plan.Restart, targets: "cache@app1", reasons: true, want: `
restart cache@app1: you asked for it
ensure app@app1 < cache@app1: cache@app1 will have a new incarnation
- ensure web@web1 < app@app1~: fresh: started after app@app1, app@app2 and 2 more became ready
- ensure web@web2 < app@app1~: fresh: started after app@app1, app@app2 and 2 more became ready
- ensure web@web3 < app@app1~: fresh: started after app@app1, app@app2 and 2 more became ready
`,
		},
		{
			name: "reload takes the targets only", verb: plan.Reload, targets: "web legacy", observed: "web@web2 down", reasons: true, want: `
reload web@web1: you asked for it
- reload web@web2: it is down: there is nothing to reload
reload web@web3: you asked for it
alone legacy@old1: it is a plain target: its key runs one fixed command, and kido cannot reload it
`,
		},
		{
			name: "announce with nothing known", verb: plan.Announce, targets: "oracle mail", observed: "unknown", reasons: true, want: `
wait oracle@db1: you announced it
ensure app@app1 < oracle@db1: you announced oracle@db1: made fresh if it is stale
ensure app@app2 < oracle@db1: you announced oracle@db1: made fresh if it is stale
wait mail@app2: you announced it
ensure web@web1 < oracle@db1, app@app1~, app@app2~, mail@app2~: comes after app@app1: made fresh if it is stale
ensure web@web2 < oracle@db1, app@app1~, app@app2~, mail@app2~: comes after app@app1: made fresh if it is stale
ensure web@web3 < oracle@db1, app@app1~, app@app2~, mail@app2~: comes after app@app1: made fresh if it is stale
ensure legacy@old1 < oracle@db1: you announced oracle@db1: made fresh if it is stale
alone batch@app1: ordered after oracle but does not react to its restarts
`,
		},
		{
			name: "announce where all is fresh", verb: plan.Announce, targets: "oracle", reasons: true, observed: "legacy@old1 blind oracle@db1=o1", want: `
- wait oracle@db1: you announced it
- ensure app@app1 < oracle@db1: fresh: started or reloaded after cache@app1 and oracle@db1 became ready
- ensure app@app2 < oracle@db1: fresh: started or reloaded after cache@app2 and oracle@db1 became ready
- ensure web@web1 < oracle@db1, app@app1~, app@app2~: fresh: started after app@app1, app@app2 and 2 more became ready
- ensure web@web2 < oracle@db1, app@app1~, app@app2~: fresh: started after app@app1, app@app2 and 2 more became ready
- ensure web@web3 < oracle@db1, app@app1~, app@app2~: fresh: started after app@app1, app@app2 and 2 more became ready
- ensure legacy@old1 < oracle@db1: fresh: started after oracle@db1 became ready
alone batch@app1: ordered after oracle but does not react to its restarts
`,
		},
		{
			name: "announce of a database that boots", verb: plan.Announce, targets: "oracle", reasons: true,
			observed: "oracle@db1 booting\napp@app1 held a1\napp@app2 failed\nweb@web1 unreachable\nlegacy@old1 blind\nweb@web3 up w3", want: `
wait oracle@db1: you announced it; now: connected, but the database system is starting up
ensure app@app1 < oracle@db1: it is held: a run that stopped it still owes its start
ensure app@app2 < oracle@db1: it has failed
ensure web@web1 < oracle@db1, app@app1~, app@app2~: app@app1 and app@app2 will have new incarnations (not reached: no route to host)
ensure web@web2 < oracle@db1, app@app1~, app@app2~: app@app1 and app@app2 will have new incarnations
ensure web@web3 < oracle@db1, app@app1~, app@app2~: app@app1 and app@app2 will have new incarnations
ensure legacy@old1 < oracle@db1: waits for oracle@db1: connected, but the database system is starting up
alone batch@app1: ordered after oracle but does not react to its restarts
`,
		},
		{
			name: "announce of what has no dependents", verb: plan.Announce, targets: "web@web1", want: `
alone web@web1: nothing reacts to its restarts
`,
		},
		{
			name: "announce of an upstream and its dependent", verb: plan.Announce, targets: "cache@app1 app@app1", observed: "unknown", want: `
wait cache@app1
ensure app@app1 < cache@app1
ensure web@web1 < app@app1~
ensure web@web2 < app@app1~
ensure web@web3 < app@app1~
`,
		},
		{
			name: "the whole site restarts", verb: plan.Restart, observed: "unknown", want: `
hold app@app1
hold app@app2
restart oracle@db1 < app@app1(hold), app@app2(hold)
restart cache@app1
restart cache@app2
ensure app@app1 < app@app1(hold)~, oracle@db1~, cache@app1~
ensure app@app2 < app@app2(hold)~, oracle@db1~, cache@app2~
restart batch@app1 < oracle@db1
restart mail@app2
restart web@web1 < oracle@db1, app@app1~, app@app2~, mail@app2~
restart web@web2 < oracle@db1, app@app1~, app@app2~, mail@app2~
restart web@web3 < oracle@db1, app@app1~, app@app2~, mail@app2~
restart legacy@old1 < oracle@db1
`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := parse(t, shop)
			var obs plan.Observed
			if c.observed != "unknown" {
				obs = observe(strings.Split(current, "\n")...)
				if c.observed != "" {
					for i, o := range observe(strings.Split(c.observed, "\n")...) {
						obs[i] = o
					}
				}
			}
			words := strings.Fields(c.targets)
			p, err := plan.New(s).Make(plan.Request{Verb: c.verb, Targets: words}, targets(s, words...), obs)
			if err != nil {
				t.Fatal(err)
			}
			if got := "\n" + sketch(p, c.reasons); got != c.want {
				t.Errorf("got:%s\nwant:%s", got, c.want)
			}
		})
	}
}

func TestAtOnce(t *testing.T) {
	s := parse(t, shop)
	p, err := plan.New(s).Make(plan.Request{Verb: plan.Restart, Targets: []string{"oracle"}}, targets(s, "oracle"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.AtOnce); got != "map[app:1 web:2]" {
		t.Errorf("AtOnce = %s", got)
	}
	// Who only reloads need not take turns.
	s = parse(t, `
site: pool
hosts: {h1: 10.0.0.1, h2: 10.0.0.2, h3: 10.0.0.3}
services:
  db: {hosts: h1, systemd: db}
  web: {hosts: [h2, h3], systemd: web, after: {db: reload}}
`)
	if p, err = plan.New(s).Make(plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, targets(s, "db"), nil); err != nil {
		t.Fatal(err)
	}
	if p.AtOnce != nil {
		t.Errorf("of a reload: %v", p.AtOnce)
	}
}

func TestStopOrder(t *testing.T) {
	s := parse(t, `
site: s
hosts: {h: 10.0.0.1, i: 10.0.0.2}
services:
  a: {hosts: [h, i], systemd: a.service}
  b: {hosts: [h, i], systemd: b.service, after: {a: {when: same-host}}, stop_after: [a]}
  c: {hosts: [h], systemd: c.service, after: {b: {strength: wants}}}
  d: {hosts: [h], systemd: d.service, after: {c: {on_restart: stop-first}}, stop_after: [e]}
  e: {hosts: [h], systemd: e.service, after: {c: {on_restart: stop-first}}}
`)
	for _, c := range []struct {
		verb    plan.Verb
		targets string
		want    string
	}{
		{plan.Stop, "", `
stop a@i
stop e@h
stop d@h < e@h
stop c@h < e@h, d@h
stop b@h < a@h, c@h~
stop b@i < a@i, c@h~
`},
		{plan.Stop, "e b@h c d", `
stop e@h
stop d@h < e@h
stop c@h < e@h, d@h
stop b@h < c@h~
`},
		{plan.Stop, "b@h e", `
stop e@h
stop b@h < e@h~
`},
		{plan.Restart, "c", `
hold e@h
hold d@h < e@h(hold)
restart c@h < e@h(hold), d@h(hold)
ensure d@h < d@h(hold)~, c@h~
ensure e@h < e@h(hold)~, c@h~
`},
	} {
		words := strings.Fields(c.targets)
		p, err := plan.New(s).Make(plan.Request{Verb: c.verb, Targets: words}, targets(s, words...), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := "\n" + sketch(p, false)
		if i := strings.Index(got, "alone"); i >= 0 {
			got = got[:i]
		}
		if got = strings.Replace(got, "stop a@h\n", "", 1); got != c.want {
			t.Errorf("%s %s:%s\nwant:%s", c.verb, c.targets, got, c.want)
		}
	}
}

func TestConflicts(t *testing.T) {
	s := parse(t, `
site: s
hosts: {h: 10.0.0.1, i: 10.0.0.2}
services:
  blue: {hosts: [h, i], systemd: blue.service, conflicts: [green]}
  green: {hosts: [h], systemd: green.service}
  web: {hosts: [i], systemd: web.service, after: {green: restart}}
`)
	for _, c := range []struct {
		name     string
		verb     plan.Verb
		targets  string
		observed string
		want     string // sketch, or the error and its hint
	}{
		{"the other is up", plan.Start, "blue", "green@h up g1", "blue@h conflicts with green@h, which is up; stop it first: kido stop green@h"},
		{"brought in by up", plan.Up, "web", "blue@h up b1", "green@h conflicts with blue@h, which is up; stop it first: kido stop blue@h"},
		{"restart would start it", plan.Restart, "green", "blue@h up b1\ngreen@h down", "green@h conflicts with blue@h, which is up; stop it first: kido stop blue@h"},
		{"both asked for", plan.Start, "blue green", "", "green@h conflicts with blue@h, which was to be started too; name one of the two only: green@h or blue@h"},
		{"it is up itself", plan.Start, "blue@h", "blue@h up b1\ngreen@h down", "- start blue@h\n"},
		{"the other is down", plan.Start, "blue@h", "green@h down", "start blue@h\n"},
		{"whole site, one is up", plan.Up, "", "green@h up g1", "start blue@i\n- start green@h\nstart web@i < green@h\nalone blue@h: conflicts with green@h, which is up\n"},
		{"whole site, neither is", plan.Up, "", "", "start blue@h\nstart blue@i\nstart web@i\nalone green@h: conflicts with blue@h, which comes first in the site file\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			obs := plan.Observed{}
			if c.observed != "" {
				obs = observe(strings.Split(c.observed, "\n")...)
			}
			words := strings.Fields(c.targets)
			p, err := plan.New(s).Make(plan.Request{Verb: c.verb, Targets: words}, targets(s, words...), obs)
			var got string
			if conflict, ok := errors.AsType[*plan.ConflictError](err); ok {
				got = conflict.Error() + "; " + conflict.Hint()
			} else if err != nil {
				t.Fatal(err)
			} else {
				got = sketch(p, false)
			}
			if got != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

func TestMakeErrors(t *testing.T) {
	dep := func(name string) []site.Dependency { return []site.Dependency{{Upstream: name}} }
	circle := &site.Site{Services: []*site.Service{
		{Name: "a", Hosts: []string{"h"}, After: dep("b")}, {Name: "b", Hosts: []string{"h"}, After: dep("a")},
	}}
	stopCircle := &site.Site{Services: []*site.Service{
		{Name: "a", Hosts: []string{"h"}, StopAfter: []string{"b"}}, {Name: "b", Hosts: []string{"h"}, StopAfter: []string{"a"}},
	}}
	for _, c := range []struct {
		site    *site.Site
		request plan.Request
		targets []site.Instance
		want    string
	}{
		{circle, plan.Request{Verb: plan.Up}, nil, "the site's dependencies go round in a circle: a@h → b@h → a@h"},
		{stopCircle, plan.Request{Verb: plan.Stop}, nil, "the site's stop order goes round in a circle: a@h → b@h → a@h; see stop_after"},
		{stopCircle, plan.Request{Verb: "jump"}, nil, `unknown verb "jump"`},
		{stopCircle, plan.Request{Verb: plan.Up, Targets: []string{"@x"}}, nil, "@x names no instance; see the hosts of the site's services"},
		{stopCircle, plan.Request{Verb: plan.Up}, []site.Instance{{Service: "a", Host: "x"}}, "no such instance: a@x; see the hosts of that service in the site file"},
	} {
		if _, err := plan.New(c.site).Make(c.request, c.targets, nil); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
}
