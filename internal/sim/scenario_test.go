package sim

import (
	"fmt"
	"slices"
	"sync"

	"kido/internal/plan"
	"kido/internal/site"
)

// scenario is a site, who acts in it, and what may go wrong there. It is never
// changed once a world was made of it.
type scenario struct {
	name string
	text string // the site file
	// other is the site file of runners whose copy differs; "" for none.
	other   string
	runners []spec
	faults  budget
	// probeWord: a probe adds a word of its own to the tokens, so that a restart
	// inside the unit, which init does not see, is a new incarnation, too.
	probeWord   bool
	autoRestart bool // init starts a daemon again that has died
	hooks       bool // upstreams have hooks that announce each of their starts
	// untimed: when one timer fires no time passes for anybody else. A search
	// wants it so: any timer may then fire at any time.
	untimed bool

	once   sync.Once
	ground *ground
}

// spec is somebody who runs kido.
type spec struct {
	name    string // also the id of the run
	host    string // where: a partition or a power cut there is its own
	verb    plan.Verb
	targets []string
	// keepTrying is the flag of that name.
	keepTrying bool
	// hook is the instance whose starts make it run, "" for a person.
	hook string
	// other: it goes by the scenario's other site file.
	other bool
}

// budget is how often each kind of fault may yet happen.
type budget [kinds]uint8

// faults is a budget by what it allows.
func faults(allowed map[kind]uint8) (b budget) {
	for k, n := range allowed {
		b[k] = n
	}
	return b
}

// ground is what all worlds of a scenario share.
type ground struct {
	layouts []layout // as the site file has it, and as the other one does
	names   []string // of nodes
	at      []int8   // host of each node
	hosts   []string
	index   map[site.Instance]int8
	byName  map[string]int8
	pools   []pool
	specs   []spec
	// disputed are the nodes of whose upstreams two site files tell different things.
	disputed uint32
}

// layout is one site file, seen from the nodes.
type layout struct {
	site  *site.Site
	topo  *plan.Topology
	edges [][]edge // of each node, by its number in the ground
	order []int8   // nodes, upstreams first
}

// edge is a dependency of one node, with the instances that it is about.
type edge struct {
	ups                      []int8
	reload, wants, any, none bool
}

// pool is a service with several instances.
type pool struct {
	nodes []int8
	most  int
}

// on makes the ground of a scenario, once.
func (sc *scenario) on() *ground {
	sc.once.Do(func() {
		g := &ground{index: map[site.Instance]int8{}, byName: map[string]int8{}}
		texts := []string{sc.text}
		if sc.other != "" {
			texts = append(texts, sc.other)
		}
		for n, text := range texts {
			s, err := site.Parse("site.yaml", []byte(text))
			if err != nil {
				panic(fmt.Sprintf("scenario %s: %v", sc.name, err)) // a scenario is code
			}
			l := layout{site: s, topo: plan.New(s)}
			if n == 0 {
				g.people(s, l.topo)
			}
			l.connect(g)
			g.layouts = append(g.layouts, l)
			for k := range g.names {
				if len(l.edges[k]) != len(g.layouts[0].edges[k]) {
					g.disputed |= 1 << k
				}
			}
		}
		g.specs = append(g.specs, sc.runners...)
		if sc.hooks {
			g.hook(sc)
		}
		sc.ground = g
	})
	return sc.ground
}

func (g *ground) people(s *site.Site, topo *plan.Topology) {
	for _, h := range s.Hosts {
		g.hosts = append(g.hosts, h.Name)
	}
	for _, i := range topo.Instances() {
		g.index[i], g.byName[i.String()] = int8(len(g.names)), int8(len(g.names))
		g.names = append(g.names, i.String())
		g.at = append(g.at, int8(slices.Index(g.hosts, i.Host)))
	}
	for _, v := range s.Services {
		p := pool{most: v.MaxUnavailable}
		for _, h := range v.Hosts {
			p.nodes = append(p.nodes, g.index[site.Instance{Service: v.Name, Host: h}])
		}
		g.pools = append(g.pools, p)
	}
}

// hook gives every upstream the hook that announces its starts.
func (g *ground) hook(sc *scenario) {
	l := &g.layouts[0]
	for n, name := range g.names {
		followed := slices.ContainsFunc(l.edges, func(es []edge) bool {
			return slices.ContainsFunc(es, func(e edge) bool { return !e.none && slices.Contains(e.ups, int8(n)) })
		})
		if followed {
			service, host := split(name)
			// Every second hook goes by the other file, if there is one.
			g.specs = append(g.specs, spec{
				name: "hook of " + name, host: host, verb: plan.Announce, targets: []string{service}, keepTrying: true, hook: name,
				other: sc.other != "" && n%2 == 1,
			})
		}
	}
}

func (l *layout) connect(g *ground) {
	l.edges = make([][]edge, len(g.names))
	placed := make([]bool, len(g.names))
	for _, i := range l.topo.Instances() {
		n := g.index[i]
		for _, d := range l.site.Service(i.Service).After {
			e := edge{
				reload: d.OnRestart == site.ReactionReload, none: d.OnRestart == site.ReactionNone,
				wants: d.Strength == site.Wants, any: d.Of == site.OfAny,
			}
			for _, h := range l.site.Service(d.Upstream).Hosts {
				if !d.SameHost || h == i.Host {
					e.ups = append(e.ups, g.index[site.Instance{Service: d.Upstream, Host: h}])
				}
			}
			l.edges[n] = append(l.edges[n], e)
		}
	}
	var place func(n int8)
	place = func(n int8) {
		if placed[n] {
			return
		}
		placed[n] = true
		for _, e := range l.edges[n] {
			for _, u := range e.ups {
				place(u)
			}
		}
		l.order = append(l.order, n)
	}
	for n := range g.names {
		place(int8(n))
	}
}

// with is the scenario with another budget, on the same ground.
func (sc *scenario) with(b budget) *scenario {
	c := &scenario{
		name: sc.name, text: sc.text, other: sc.other, runners: sc.runners, faults: b,
		probeWord: sc.probeWord, autoRestart: sc.autoRestart, hooks: sc.hooks, untimed: sc.untimed,
	}
	c.once.Do(func() { c.ground = sc.on() })
	return c
}
