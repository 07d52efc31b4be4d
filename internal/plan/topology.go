package plan

import (
	"kido/internal/graph"
	"kido/internal/site"
)

// Topology is a site seen as instances and the dependencies between them.
// Instances are numbered in the order of the site file: service by service,
// within a service host by host.
type Topology struct {
	site      *site.Site
	instances []site.Instance
	service   []int32 // of each instance
	first     []int32 // instance of each service; one more than services
	services  *index
	wide      map[site.Instance]int32 // instances of services on many hosts only

	deps  []dependency // of all services, one after another
	depAt []int32      // where those of each service begin; one more than services

	starts *graph.Graph // upstream instance → dependent instance
	order  []int32      // of starts; short where there is a cycle
}

// dependency is a site.Dependency in a form that is quick to walk over.
type dependency struct {
	upstream int32 // service
	reaction reaction
	soft     bool // strength wants
	any      bool // of any
	sameHost bool
	ifStale  bool // it is followed only where connections from before are held
}

type reaction uint8

const (
	reactNone reaction = iota
	reactReload
	reactRestart
	reactStopFirst
)

func reactionOf(r site.Reaction) reaction {
	switch r {
	case site.ReactionNone:
		return reactNone
	case site.ReactionReload:
		return reactReload
	case site.ReactionStopFirst:
		return reactStopFirst
	}
	return reactRestart
}

func (r reaction) site() site.Reaction {
	switch r {
	case reactNone:
		return site.ReactionNone
	case reactReload:
		return site.ReactionReload
	case reactStopFirst:
		return site.ReactionStopFirst
	}
	return site.ReactionRestart
}

// batch is how many names are looked up at once: as many as the first-level
// cache holds.
const batch = 512

// manyHosts is from where on an index beats walking over a service's hosts.
const manyHosts = 16

// New works out the instances of a site and their edges.
func New(s *site.Site) *Topology {
	t := &Topology{
		site:  s,
		first: make([]int32, 0, len(s.Services)+1),
		depAt: make([]int32, 0, len(s.Services)+1),
		wide:  map[site.Instance]int32{},
	}
	instances, edges := 0, 0
	for _, v := range s.Services {
		instances += len(v.Hosts)
		edges += len(v.After)
	}
	t.instances = make([]site.Instance, 0, instances)
	t.service = make([]int32, 0, instances)
	names := make([]string, len(s.Services))
	for n, v := range s.Services {
		names[n] = v.Name
		t.first = append(t.first, int32(len(t.instances)))
		for _, host := range v.Hosts {
			i := site.Instance{Service: v.Name, Host: host}
			if len(v.Hosts) > manyHosts {
				t.wide[i] = int32(len(t.instances))
			}
			t.instances = append(t.instances, i)
			t.service = append(t.service, int32(n))
		}
	}
	t.first = append(t.first, int32(len(t.instances)))

	t.services = newIndex(names)
	t.deps = make([]dependency, 0, edges)
	queries := make([]query, 0, batch)
	resolve := func() {
		t.services.find(queries)
		for i, q := range queries {
			t.deps[len(t.deps)-len(queries)+i].upstream = q.number
		}
		queries = queries[:0]
	}
	for _, v := range s.Services {
		t.depAt = append(t.depAt, int32(len(t.deps)))
		for i := range v.After {
			d := &v.After[i]
			t.deps = append(t.deps, dependency{
				-1, reactionOf(d.OnRestart),
				d.Strength == site.Wants, d.Of == site.OfAny, d.SameHost, d.IfStale,
			})
			if queries = append(queries, query{name: d.Upstream}); len(queries) == batch {
				resolve()
			}
		}
	}
	resolve()
	t.depAt = append(t.depAt, int32(len(t.deps)))

	pairs := make([]graph.Edge, 0, len(t.deps))
	for i := range t.all() {
		for _, dep := range t.depsOf(i) {
			for u, end := t.upstreams(i, dep); u < end; u++ {
				pairs = append(pairs, graph.Edge{From: u, To: i})
			}
		}
	}
	t.starts = graph.Build(len(t.instances), pairs)
	t.order, _ = t.starts.Order()
	return t
}

// Instances lists all instances of the site in the order of its file. The list
// is not to be changed.
func (t *Topology) Instances() []site.Instance { return t.instances }

// Around lists the instances whose status Make wants to know for a request
// about targets, in the order of the site file: the targets, all that comes
// after them, all that comes before any of these, and what conflicts with one
// of them. No targets mean the whole site.
func (t *Topology) Around(targets []site.Instance) []site.Instance {
	if len(targets) == 0 {
		return t.instances
	}
	starts := make([]int32, 0, len(targets))
	for _, target := range targets {
		if i, ok := t.lookup(target); ok {
			starts = append(starts, i)
		}
	}
	after := t.starts.Reach(starts, true)
	starts = starts[:0]
	for i := range t.all() {
		if after[i] {
			starts = append(starts, i)
		}
	}
	around := t.starts.Reach(starts, false)
	var rivals []int32
	for i := range t.all() {
		if !around[i] {
			continue
		}
		for _, r := range t.Rivals(t.instances[i]) {
			if k, ok := t.lookup(r); ok {
				rivals = append(rivals, k)
			}
		}
	}
	for _, k := range rivals {
		around[k] = true
	}
	var all []site.Instance
	for i := range t.all() {
		if around[i] {
			all = append(all, t.instances[i])
		}
	}
	return all
}

// all is the number of instances, in the type in which they are counted.
func (t *Topology) all() int32 { return int32(len(t.instances)) }

func (t *Topology) name(i int32) string { return t.instances[i].String() }

func (t *Topology) depsOf(i int32) []dependency {
	n := t.service[i]
	return t.deps[t.depAt[n]:t.depAt[n+1]]
}

// upstreams are the instances that dep of instance i is about: begin … end-1.
func (t *Topology) upstreams(i int32, dep dependency) (begin, end int32) {
	if dep.upstream < 0 {
		return 0, 0
	}
	if !dep.sameHost {
		return t.first[dep.upstream], t.first[dep.upstream+1]
	}
	u, ok := t.on(dep.upstream, t.instances[i].Host)
	if !ok {
		return 0, 0
	}
	return u, u + 1
}

// on finds the instance of a service on a host.
func (t *Topology) on(service int32, host string) (i int32, ok bool) {
	begin, end := t.first[service], t.first[service+1]
	if end-begin > manyHosts {
		i, ok = t.wide[site.Instance{Service: t.site.Services[service].Name, Host: host}]
		return i, ok
	}
	for i := begin; i < end; i++ {
		if t.instances[i].Host == host {
			return i, true
		}
	}
	return 0, false
}

func (t *Topology) lookup(i site.Instance) (int32, bool) {
	service, ok := t.services.number(i.Service)
	if !ok {
		return 0, false
	}
	return t.on(service, i.Host)
}

// Ancestors lists the instances whose status Need has to know, in levels, roots
// first: all upstreams of a level's instances are in levels before it. A runner
// reads d itself first, because the basis that an ENSURE expects must not be
// newer than the tokens it is given, and then level after level, each instance
// by one atomic STATUS: the order in which the protocol's model was searched.
func (t *Topology) Ancestors(d site.Instance) [][]site.Instance {
	foot, ok := t.lookup(d)
	if !ok {
		return nil
	}
	var levels [][]site.Instance
	put := func(i int32, level int) {
		for len(levels) <= level {
			levels = append(levels, nil)
		}
		levels[level] = append(levels[level], t.instances[i])
	}
	level := map[int32]int{foot: 0}
	var visit func(i int32) int
	visit = func(i int32) int {
		own := 0
		for _, dep := range t.depsOf(i) {
			if dep.reaction == reactNone {
				continue
			}
			for u, end := t.upstreams(i, dep); u < end; u++ {
				at, met := level[u]
				if !met {
					level[u] = 0
					at = visit(u)
					level[u] = at
					put(u, at)
				}
				own = max(own, at+1)
			}
		}
		return own
	}
	last := max(visit(foot), 1) - 1
	// Of those it is only ordered after the readiness counts: the later read,
	// the better.
	for _, dep := range t.depsOf(foot) {
		for u, end := t.upstreams(foot, dep); u < end; u++ {
			if _, met := level[u]; !met {
				level[u] = last
				put(u, last)
			}
		}
	}
	return levels
}
