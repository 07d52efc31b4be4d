package plan_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"kido/internal/plan"
	"kido/internal/site"
)

// pick chooses one of several; the first is the usual one.
func pick[T any](random *rand.Rand, usual T, others ...T) T {
	if random.IntN(3) > 0 {
		return usual
	}
	return others[random.IntN(len(others))]
}

// randomSite has dependencies of every kind along the numbers of its services.
func randomSite(random *rand.Rand) *site.Site {
	n := 2 + random.IntN(12)
	hosts := []string{"h0", "h1", "h2", "h3"}
	s := &site.Site{Name: "random"}
	for i := range n {
		v := &site.Service{Name: fmt.Sprintf("s%02d", i), MaxUnavailable: 1}
		for _, h := range random.Perm(len(hosts))[:1+random.IntN(len(hosts))] {
			v.Hosts = append(v.Hosts, hosts[h])
		}
		for up := range i {
			if random.IntN(4) > 0 {
				continue
			}
			v.After = append(v.After, site.Dependency{
				Upstream:  fmt.Sprintf("s%02d", up),
				OnRestart: pick(random, site.ReactionRestart, site.ReactionReload, site.ReactionStopFirst, site.ReactionNone),
				Strength:  pick(random, site.Requires, site.Wants),
				Of:        pick(random, site.OfAll, site.OfAny),
				SameHost:  random.IntN(4) == 0,
			})
		}
		s.Services = append(s.Services, v)
	}
	random.Shuffle(n, func(i, j int) { s.Services[i], s.Services[j] = s.Services[j], s.Services[i] })
	return s
}

// upstreams is the plain reading of a site: by dependent instance.
func upstreams(s *site.Site) map[site.Instance]map[site.Instance]site.Dependency {
	hosts := map[string][]string{}
	for _, v := range s.Services {
		hosts[v.Name] = v.Hosts
	}
	all := map[site.Instance]map[site.Instance]site.Dependency{}
	for _, v := range s.Services {
		for _, d := range v.Instances() {
			all[d] = map[site.Instance]site.Dependency{}
			for _, dep := range v.After {
				for _, host := range hosts[dep.Upstream] {
					if !dep.SameHost || host == d.Host {
						all[d][site.Instance{Service: dep.Upstream, Host: host}] = dep
					}
				}
			}
		}
	}
	return all
}

// before is the transitive closure of the edges of a plan: by action and name.
func before(t *testing.T, p *plan.Plan) map[string]map[string]bool {
	t.Helper()
	key := func(s plan.Step) string {
		if s.Action == plan.ActHold {
			return "hold " + s.Name
		}
		return s.Name
	}
	all := map[string]map[string]bool{}
	for i, s := range p.Steps {
		if s.ID != i || all[key(s)] != nil {
			t.Fatalf("step %d has the number %d, or is the second for %s", i, s.ID, key(s))
		}
		reached := map[string]bool{}
		last := -1
		for _, e := range s.After {
			if e.Step <= last || e.Step >= i {
				t.Fatalf("step %d: edges %v are not sorted, or not to earlier steps", i, s.After)
			}
			last = e.Step
			first := key(p.Steps[e.Step])
			reached[first] = true
			for more := range all[first] {
				reached[more] = true
			}
		}
		all[key(s)] = reached
	}
	return all
}

// TestProperties holds what every plan must be against a plain reading of
// random sites.
func TestProperties(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 6))
	verbs := []plan.Verb{plan.Up, plan.Down, plan.Start, plan.Stop, plan.Restart, plan.Reload, plan.Announce}
	for range 3000 {
		s := randomSite(random)
		ups := upstreams(s)
		topology := plan.New(s)
		all := topology.Instances()
		var chosen []site.Instance
		for _, i := range all {
			if random.IntN(4) == 0 {
				chosen = append(chosen, i)
			}
		}
		if len(chosen) == 0 {
			chosen = all
		}
		verb := verbs[random.IntN(len(verbs))]
		p, err := topology.Make(plan.Request{Verb: verb}, chosen, nil)
		if err != nil {
			t.Fatal(err)
		}
		order := before(t, p)
		has := map[site.Instance]bool{}
		for _, step := range p.Steps {
			has[step.Instance] = true
			if step.Reason == "" {
				t.Fatalf("%s %s has no reason", step.Action, step.Name)
			}
		}

		// Who must have a step.
		want := map[site.Instance]bool{}
		for _, i := range chosen {
			want[i] = true
		}
		for changed := true; changed; {
			changed = false
			for d, deps := range ups {
				down := map[string][2]int{} // of each upstream service: wanted down, all
				for u, dep := range deps {
					switch {
					case (verb == plan.Restart || verb == plan.Announce) && want[u] && dep.OnRestart != site.ReactionNone:
						changed = changed || !want[d]
						want[d] = true
					case verb == plan.Up && want[d]:
						changed = changed || !want[u]
						want[u] = true
					case verb == plan.Down && dep.Strength == site.Requires:
						n := down[u.Service]
						if want[u] {
							n[0]++
						}
						n[1]++
						down[u.Service] = n
					}
				}
				for service, n := range down {
					of := deps[site.Instance{Service: service, Host: hostOf(deps, service)}].Of
					if n[0] == n[1] || of != site.OfAny && n[0] > 0 {
						changed = changed || !want[d]
						want[d] = true
					}
				}
			}
		}
		for _, i := range all {
			announcedInVain := verb == plan.Announce && slices.Contains(chosen, i) && !has[i]
			if has[i] != want[i] && !announcedInVain {
				t.Fatalf("%s %v: step for %s: %v\n%s", verb, chosen, i, has[i], sketch(p, true))
			}
		}

		// In which order.
		for d, deps := range ups {
			for u, dep := range deps {
				if !has[u] || !has[d] {
					continue
				}
				first, second := u.String(), d.String()
				if verb == plan.Down || verb == plan.Stop {
					first, second = second, first
				}
				if !order[second][first] {
					t.Fatalf("%s: %s does not wait for %s\n%s", verb, second, first, sketch(p, true))
				}
				_, held := order["hold "+d.String()]
				renewed := slices.Contains(chosen, u)
				if verb == plan.Restart && renewed && dep.OnRestart == site.ReactionStopFirst {
					if !held || !order[u.String()]["hold "+d.String()] || !order[d.String()]["hold "+d.String()] {
						t.Fatalf("%s is not held while %s restarts\n%s", d, u, sketch(p, true))
					}
				}
			}
		}

		// The order of services in the file changes ties only.
		shuffled := &site.Site{Name: s.Name, Services: slices.Clone(s.Services)}
		random.Shuffle(len(s.Services), func(i, j int) {
			shuffled.Services[i], shuffled.Services[j] = shuffled.Services[j], shuffled.Services[i]
		})
		q, err := plan.New(shuffled).Make(plan.Request{Verb: verb}, chosen, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := fmt.Sprint(order), fmt.Sprint(before(t, q)); a != b {
			t.Fatalf("the order of the file changes the order of steps:\n%s\n%s", sketch(p, false), sketch(q, false))
		}
	}
}

func hostOf(deps map[site.Instance]site.Dependency, service string) string {
	for u := range deps {
		if u.Service == service {
			return u.Host
		}
	}
	return ""
}
