package site

import (
	"fmt"
	"slices"
	"strings"

	"kido/internal/graph"
)

// check looks names up and holds the rules that concern more than one value.
func (d *decoder) check(s *siteDraft) {
	for i := range s.drafts {
		v := &s.drafts[i]
		d.kind, d.name = "service", v.Name
		d.checkHosts(s, v)
		d.fillAdapter(v)
		d.checkReady(v)
		v.MaxUnavailable = v.maxUnavailable.of(len(v.Hosts))
		if v.MaxFailures == 0 {
			v.MaxFailures = v.MaxUnavailable
		}
	}
	for i := range s.drafts {
		v := &s.drafts[i]
		d.kind, d.name = "service", v.Name
		d.checkEdges(s, v)
	}
	d.checkAsked(s)
	d.kind = ""
	start := d.checkOrder(s)
	d.checkConflicts(s, start)
	d.checkGroups(s)
}

func (d *decoder) checkHosts(s *siteDraft, v *serviceDraft) {
	v.Hosts = make([]string, len(v.hosts))
	v.placed = len(v.hosts) > 0
	for i, n := range v.hosts {
		v.Hosts[i] = n.value
		if s.hostAt != nil && s.hostAt[n.value] == nil {
			v.placed = false
			d.errorf(n, d.suggest(n.value, s.hostNames), "no such host %q", n.value)
		}
	}
}

// fillAdapter fills in what an adapter's other values imply.
func (d *decoder) fillAdapter(v *serviceDraft) {
	switch a := &v.Adapter; a.Kind {
	case KindSystemd:
		if a.Unit != "" && !strings.HasSuffix(a.Unit, ".service") {
			a.Unit += ".service"
		}
		if strings.Contains(a.Unit, "@.") {
			d.errorf(v.adapterKey, "name an instance of it, as in "+strings.Replace(a.Unit, "@.", "@main.", 1), "systemd: %s is a template and never runs itself", a.Unit)
		}
	case KindSysV, KindOpenRC:
		if v.pidfileKey == nil {
			a.PIDFile = "/run/" + a.Unit + ".pid"
		}
	case KindPlain:
		if a.User == "" {
			a.User = "root"
		}
	}
}

// upstream finds a service by the name that a node holds.
func (d *decoder) upstream(s *siteDraft, n *node, what string) (*serviceDraft, bool) {
	i, ok := s.index[n.value]
	if !ok {
		hint := d.suggest(n.value, s.serviceNames)
		if _, group := s.groups[n.value]; group {
			hint = "it is a group; name its services"
		} else if s.hostAt[n.value] != nil {
			hint = "it is a host, and this wants a service"
		}
		d.errorf(n, hint, "no such %s %q", what, n.value)
		return nil, false
	}
	if n.value == d.name {
		d.errorf(n, "", "a service cannot be its own %s", what)
		return nil, false
	}
	return &s.drafts[i], true
}

func (d *decoder) checkEdges(s *siteDraft, v *serviceDraft) {
	good := v.after[:0]
	for _, e := range v.after {
		up, ok := d.upstream(s, e.at, "upstream")
		if !ok {
			continue
		}
		if e.SameHost && v.placed && up.placed && !share(v, up) {
			d.errorf(e.at, "without \"when: same-host\" it waits for "+up.Name+" on other hosts", "%s runs on none of the same hosts", up.Name)
		}
		d.checkReaction(v, &e)
		if up.Adapter.Kind == KindPlain && e.OnRestart != ReactionNone {
			d.errorf(e.at, fmt.Sprintf("write \"%s: none\" for the order alone, or put a gate at its host", up.Name),
				"%s is plain: one start of it cannot be told from the next, so nothing can follow its restarts", up.Name)
		}
		if up.Adapter.Kind == KindExternal && e.OnRestart == ReactionStopFirst {
			d.errorf(e.reactionAt, fmt.Sprintf("write \"%s: restart\", reload or none", up.Name), "%s is external: kido learns of its restarts afterwards, and can stop nothing before them", up.Name)
		}
		d.checkCondition(v, up, e)
		good = append(good, e)
	}
	v.after = good
	slices.SortFunc(v.after, func(a, b edgeDraft) int { return strings.Compare(a.Upstream, b.Upstream) })
	for _, e := range v.after {
		v.After = append(v.After, e.Dependency)
	}
	v.stopAfter = slices.DeleteFunc(v.stopAfter, func(n *node) bool {
		up, ok := d.upstream(s, n, "service to be stopped after")
		if ok && up.Adapter.Kind == KindExternal {
			d.errorf(n, "", "%s is external: kido does not stop it", up.Name)
		}
		return !ok
	})
	for _, n := range v.stopAfter {
		v.StopAfter = append(v.StopAfter, n.value)
	}
}

// dependents counts those of each service that are such.
func (s *siteDraft) dependents(such func(*serviceDraft) bool) []int {
	n := make([]int, len(s.drafts))
	for i := range s.drafts {
		if !such(&s.drafts[i]) {
			continue
		}
		for _, e := range s.drafts[i].after {
			n[s.index[e.Upstream]]++
		}
	}
	return n
}

// checkAsked refuses a probe for which nobody is left who asks it: the service would
// be ready without it.
func (d *decoder) checkAsked(s *siteDraft) {
	dependents := s.dependents(func(*serviceDraft) bool { return true })
	gated := s.dependents(func(v *serviceDraft) bool { return v.Adapter.Kind != KindPlain })
	for i := range s.drafts {
		v := &s.drafts[i]
		d.kind, d.name = "service", v.Name
		for j := range v.probes {
			p := &v.probes[j]
			switch {
			case p.From != FromDependent || gated[i] > 0 || v.Adapter.Kind == KindExternal:
			case dependents[i] == 0:
				d.errorf(p.from, "leave it out, or say from: runner", "nobody asks this probe: nothing depends on %s", v.Name)
			default:
				d.errorf(p.from, "leave it out, or say from: runner", "nobody asks this probe: what depends on %s is plain, and has no gate", v.Name)
			}
		}
	}
}

// checkReaction fills in the default, and refuses what the adapter cannot do.
func (d *decoder) checkReaction(v *serviceDraft, e *edgeDraft) {
	plain := v.Adapter.Kind == KindPlain
	if e.OnRestart == "" {
		e.OnRestart = ReactionRestart
		if plain && v.Adapter.Action != "" {
			e.OnRestart = v.Adapter.Action
		}
		return
	}
	switch {
	case plain && v.Adapter.Action == "":
		// Which of them is wrong is not known.
	case plain && e.OnRestart == ReactionStopFirst:
		d.errorf(e.reactionAt, "a plain target can only "+string(v.Adapter.Action), "stop-first is not possible for a plain target")
	case plain && e.OnRestart != ReactionNone && e.OnRestart != v.Adapter.Action:
		d.errorf(e.reactionAt, fmt.Sprintf("write \"%s: %s\" here, or \"plain: %s\" if that is what the key's command does", e.Upstream, v.Adapter.Action, e.OnRestart),
			"the plain target's key runs %s, not %s", v.Adapter.Action, e.OnRestart)
	case v.commandKey != nil && e.OnRestart == ReactionReload && v.Adapter.Reload == nil:
		d.errorf(e.reactionAt, fmt.Sprintf("add reload: [/path/of/program] to the command in line %d", v.commandKey.line), "the command has no reload")
	}
}

// checkCondition holds the rules of a reaction that is only sometimes needed.
func (d *decoder) checkCondition(v, up *serviceDraft, e edgeDraft) {
	switch {
	case !e.IfStale || e.reactionAt != nil && !slices.Contains(reactions, Reaction(e.reactionAt.value)):
	case e.OnRestart != ReactionReload:
		d.errorf(e.ifAt, "write on_restart: reload as well, or leave the condition out", "if: %s goes with a reload only, not with %s", staleConnections, e.OnRestart)
	case v.Adapter.Kind == KindPlain:
		d.errorf(e.ifAt, "leave the condition out", "if: %s wants a gate at the dependent's host to count them, and %s is plain", staleConnections, v.Name)
	case up.Listens == "" && !up.unclear:
		d.errorf(e.ifAt, fmt.Sprintf("give %s a probe that connects to it, or \"listens: :PORT\"", up.Name), "if: %s: there is no address of %s to count connections to", staleConnections, up.Name)
	}
}

func share(a, b *serviceDraft) bool {
	return slices.ContainsFunc(a.Hosts, func(h string) bool { return slices.Contains(b.Hosts, h) })
}

// link is one edge of the start or stop order with the place that asks for it.
type link struct {
	graph.Edge
	at *node
}

// checkOrder reports cycles in the start order, then in the stop order. It
// returns the start order without the edges of reported cycles.
func (d *decoder) checkOrder(s *siteDraft) *graph.Graph {
	size := 0
	for i := range s.drafts {
		size += len(s.drafts[i].after)
	}
	links := make([]link, 0, size)
	for i := range s.drafts {
		for _, e := range s.drafts[i].after {
			links = append(links, link{graph.Edge{From: s.index[e.Upstream], To: int32(i)}, e.at})
		}
	}
	start, links := d.acyclic(s.serviceNames, links, "cycle in the start order", "after")

	// Services stop in the reverse order, but for the pairs that have an order
	// of their own.
	own := map[graph.Edge]bool{}
	var stops []link
	for i := range s.drafts {
		for _, n := range s.drafts[i].stopAfter {
			l := link{graph.Edge{From: s.index[n.value], To: int32(i)}, n}
			stops = append(stops, l)
			own[l.Edge] = true
		}
	}
	if len(own) == 0 {
		return start
	}
	for _, l := range links {
		if !own[l.Edge] {
			stops = append(stops, link{graph.Edge{From: l.To, To: l.From}, l.at})
		}
	}
	d.acyclic(s.serviceNames, stops, "cycle in the stop order", "stopped after")
	return start
}

// acyclic reports each cycle edge by edge and takes it out, so that the next
// one shows. It ends after a hundred: every one costs a walk through the site.
func (d *decoder) acyclic(names []string, links []link, what, word string) (*graph.Graph, []link) {
	for found := 0; ; found++ {
		edges := make([]graph.Edge, len(links))
		for i, l := range links {
			edges[i] = l.Edge
		}
		g := graph.Build(len(names), edges)
		if _, ok := g.Order(); ok || found == 100 {
			return g, links
		}
		cycle := g.Cycle()
		slices.Reverse(cycle) // now each node is after the next one
		on := make(map[graph.Edge]int, len(cycle))
		for i, node := range cycle {
			on[graph.Edge{From: cycle[(i+1)%len(cycle)], To: node}] = i
		}
		places := make([]*node, len(cycle))
		links = slices.DeleteFunc(links, func(l link) bool {
			i, ok := on[l.Edge]
			if ok && places[i] == nil {
				places[i] = l.at
			}
			return ok
		})
		d.reportCycle(names, cycle, places, what, word)
	}
}

// reportCycle says "web (line 14) after app (line 20) after web", beginning
// with the edge that comes first in the file.
func (d *decoder) reportCycle(names []string, cycle []int32, places []*node, what, word string) {
	const most = 20
	first := 0
	for i, at := range places {
		if at.line < places[first].line || at.line == places[first].line && at.column < places[first].column {
			first = i
		}
	}
	var b strings.Builder
	for k := range cycle {
		i := (first + k) % len(cycle)
		if k == most && len(cycle) > most+1 {
			fmt.Fprintf(&b, "… %d more … %s ", len(cycle)-most, word)
			break
		}
		fmt.Fprintf(&b, "%s (line %d) %s ", names[cycle[i]], places[i].line, word)
	}
	d.errorf(places[first], "one of these has to go", "%s: %s%s", what, b.String(), names[cycle[first]])
}

func (d *decoder) checkConflicts(s *siteDraft, start *graph.Graph) {
	for i := range s.drafts {
		v := &s.drafts[i]
		d.kind, d.name = "service", v.Name
		var upstreams, dependents []bool
		for _, n := range v.conflicts {
			other, ok := d.upstream(s, n, "conflicting service")
			if !ok {
				continue
			}
			if other.Adapter.Kind == KindExternal {
				d.errorf(n, "", "%s is external: kido does not know where it is up", other.Name)
				continue
			}
			v.Conflicts = append(v.Conflicts, other.Name)
			other.Conflicts = append(other.Conflicts, v.Name)
			if !share(v, other) {
				continue
			}
			if upstreams == nil {
				upstreams = start.Reach([]int32{int32(i)}, false)
				dependents = start.Reach([]int32{int32(i)}, true)
			}
			j := s.index[other.Name]
			if upstreams[j] || dependents[j] {
				a, b := v.Name, other.Name
				if dependents[j] {
					a, b = b, a
				}
				d.errorf(n, "they would have to be up at the same time on one host", "conflicts with %s, but %s depends on %s", other.Name, a, b)
			}
		}
	}
	d.kind = ""
	for _, v := range s.Services {
		slices.Sort(v.Conflicts)
		v.Conflicts = slices.Compact(v.Conflicts)
	}
}

// checkGroups resolves groups into services.
func (d *decoder) checkGroups(s *siteDraft) {
	s.Groups = make(map[string][]string, len(s.groups))
	if s.index == nil {
		return
	}
	index := make(map[string]int32, len(s.names))
	for i, name := range s.names {
		index[name] = int32(i)
	}
	var links []link
	for i, name := range s.names {
		g := s.groups[name]
		d.kind, d.name = "group", name
		if at, ok := s.index[name]; ok {
			d.errorf(g.at, "", "there is a service of that name in line %d", s.drafts[at].Line)
			continue
		}
		for _, n := range g.members {
			if inner, ok := index[n.value]; ok {
				links = append(links, link{graph.Edge{From: inner, To: int32(i)}, n})
			} else if _, ok := s.index[n.value]; !ok {
				hint := d.suggest(n.value, slices.Concat(s.serviceNames, s.names))
				if hint == "" && s.hostAt[n.value] != nil {
					hint = "it is a host; a group holds services and groups"
				}
				d.errorf(n, hint, "no such service or group %q", n.value)
			}
		}
	}
	d.kind = ""
	inside, _ := d.acyclic(s.names, links, "a group holds itself", "holds")
	order, _ := inside.Order()
	for _, i := range order {
		var all []string
		for _, n := range s.groups[s.names[i]].members {
			if _, ok := s.index[n.value]; ok {
				all = append(all, n.value)
			} else {
				all = append(all, s.Groups[n.value]...)
			}
		}
		slices.Sort(all)
		s.Groups[s.names[i]] = slices.Compact(all)
	}
}

// warn reports what is legal but rarely meant. Only a site without errors is
// asked.
func (d *decoder) warn(s *siteDraft) {
	used := make(map[string]bool, len(s.hostAt))
	for i := range s.drafts {
		for _, h := range s.drafts[i].Hosts {
			used[h] = true
		}
	}
	dependents := s.dependents(func(*serviceDraft) bool { return true })
	for _, h := range s.Hosts {
		if !used[h.Name] {
			d.errorf(s.hostAt[h.Name], "", "host %s: no service runs there", h.Name)
		}
	}
	for i := range s.drafts {
		v := &s.drafts[i]
		d.kind, d.name = "service", v.Name
		if dependents[i] > 0 && v.Ready == nil {
			d.errorf(v.at, "ready then only means that init says up; add ready: {tcp: \":PORT\"}, for instance", "it has dependents but no readiness probe")
		}
		for _, e := range v.after {
			up := &s.drafts[s.index[e.Upstream]]
			if v.Adapter.Kind == KindPlain && up.Asked(FromDependent) {
				d.errorf(e.at, "give "+up.Name+" a probe from: runner, too, if that matters to "+v.Name, "it is plain, and has no gate: it does not ask %s's probes from: dependent", up.Name)
			}
			if up.Adapter.Kind == KindExternal && len(up.Hosts) > 1 && share(v, up) && !e.SameHost && !e.ofSaid {
				d.errorf(e.at, fmt.Sprintf("write \"%s: {on_restart: %s, when: same-host}\" to go by what each host sees itself, or \"of: all\" if it is meant", up.Name, e.OnRestart),
					"it waits for what all %d hosts see of %s: one that cannot reach it holds the others", len(up.Hosts), up.Name)
			}
		}
		for j := range v.probes {
			for _, n := range v.probes[j].absent {
				if v.probes[j].From != FromRunner {
					d.errorf(n, "name a file that the user kido may read: {file: /PATH}", "the gate that reads this secret is started by sshd, and has no environment variables or credentials of a unit")
				}
			}
		}
		if v.Adapter.Kind == KindSystemd && v.Adapter.Unit == "postgresql.service" {
			d.errorf(v.adapterKey, "name the cluster's own unit, as in postgresql@15-main (pg_lsclusters lists them)", "on Debian postgresql.service is an empty unit above the real ones: it stays up when a cluster dies, and knows nothing of its restarts")
		}
		if at := v.maxUnavailable.at; at != nil && len(v.Hosts) > 1 && v.MaxUnavailable >= len(v.Hosts) {
			d.errorf(at, "all of it may be down at once", "max_unavailable is %d of %d instances", v.MaxUnavailable, len(v.Hosts))
		}
	}
	d.kind = ""
}
