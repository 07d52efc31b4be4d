package plan

import (
	"fmt"
	"slices"
	"strings"

	"kido/internal/graph"
	"kido/internal/site"
	"kido/internal/wire"
)

// ConflictError says that a request would bring up instances that must never
// be up together.
type ConflictError struct {
	Conflicts []Conflict // never empty
}

// Conflict is an instance that was to be started and one that forbids it.
type Conflict struct {
	Instance string `json:"instance"`
	With     string `json:"with"`
	Up       bool   `json:"up"` // With is up; otherwise it was to be started too
}

func (e *ConflictError) Error() string {
	var all []string
	for _, c := range e.Conflicts {
		why := "was to be started too"
		if c.Up {
			why = "is up"
		}
		all = append(all, fmt.Sprintf("%s conflicts with %s, which %s", c.Instance, c.With, why))
	}
	return strings.Join(all, "; ")
}

// Hint says what to do about it: "stop it first: kido stop standby@db1".
func (e *ConflictError) Hint() string {
	first := e.Conflicts[0]
	if first.Up {
		return "stop it first: kido stop " + first.With
	}
	return fmt.Sprintf("name one of the two only: %s or %s", first.Instance, first.With)
}

// Make plans a request. The targets are the instances that its words stand
// for; where it has none the whole site is meant. It fails with a
// *ConflictError where a conflict forbids a start that was asked for by name.
func (t *Topology) Make(req Request, targets []site.Instance, obs Observed) (*Plan, error) {
	m := &maker{
		Topology: t,
		req:      req,
		whole:    len(targets) == 0,
		target:   make([]bool, t.all()),
		action:   make([]Action, t.all()),
		reason:   make([]string, t.all()),
		likely:   make([]bool, t.all()),
		renewed:  make([]bool, t.all()),
		hold:     make([]bool, t.all()),
		note:     map[int32]string{},
	}
	if m.whole && len(req.Targets) > 0 {
		return nil, fmt.Errorf("%s names no instance; see the hosts of the site's services", strings.Join(req.Targets, " "))
	}
	if len(t.order) < len(t.instances) {
		return nil, fmt.Errorf("the site's dependencies go round in a circle: %s", t.round(t.starts))
	}
	for i := range m.target {
		m.target[i] = m.whole
	}
	for _, target := range targets {
		i, ok := t.lookup(target)
		if !ok {
			return nil, fmt.Errorf("no such instance: %s; see the hosts of that service in the site file", target)
		}
		m.target[i] = true
	}
	if len(obs) > 0 {
		m.obs = make([]Observation, t.all())
		for instance, o := range obs {
			if i, ok := t.lookup(instance); ok {
				m.obs[i] = o
			}
		}
	}
	m.judge = judge{t: t, read: m.observed, memo: map[int32]*standing{}}

	var err error
	switch req.Verb {
	case Up, Start:
		err = m.start()
	case Down, Stop:
		m.stop()
	case Restart, Announce:
		err = m.react()
	case Reload:
		m.reload()
	default:
		err = fmt.Errorf("unknown verb %q", req.Verb)
	}
	if err != nil {
		return nil, err
	}
	return m.plan()
}

// maker decides instance by instance; plan then turns it into steps.
type maker struct {
	*Topology
	req    Request
	whole  bool
	target []bool
	obs    []Observation // nil: nothing is known of any instance
	judge  judge

	action []Action // "": no step
	reason []string
	likely []bool
	hold   []bool           // stop it before its own step
	note   map[int32]string // why it has no step
	// renewed: as far as is known the instance will have a new incarnation.
	renewed []bool
}

func (m *maker) observed(i int32) Observation {
	if m.obs == nil {
		return Observation{}
	}
	return m.obs[i]
}

// status is what was observed of i; nil where nothing is known.
func (m *maker) status(i int32) *wire.Status { return m.observed(i).Status }

func (m *maker) up(i int32) bool {
	s := m.status(i)
	return s != nil && s.State == wire.StateUp
}

// down reports whether it is known to be down, for whatever reason.
func (m *maker) down(i int32) bool {
	s := m.status(i)
	return s != nil && (s.State == wire.StateDown || s.State == wire.StateFailed)
}

func (m *maker) onPurpose(i int32) bool {
	s := m.status(i)
	return s != nil && OnPurpose(s)
}

func (m *maker) declared(i int32) *site.Service { return m.site.Services[m.service[i]] }

func (m *maker) plain(i int32) bool { return m.declared(i).Adapter.Kind == site.KindPlain }

func (m *maker) external(i int32) bool { return m.declared(i).Adapter.Kind == site.KindExternal }

// alone leaves an external instance alone, for it takes no orders from here.
func (m *maker) alone(i int32) { m.leave(i, "is external: kido only looks at it") }

func (m *maker) step(i int32, a Action, reason string, likely bool) {
	if o := m.observed(i); o.Status == nil && o.Err != "" {
		reason += " (not reached: " + o.Err + ")"
	}
	m.action[i], m.reason[i], m.likely[i] = a, reason, likely
}

func (m *maker) leave(i int32, format string, args ...any) {
	if m.note[i] == "" {
		m.note[i] = fmt.Sprintf(format, args...)
	}
}

// cannot notes that a plain target takes no orders.
func (m *maker) cannot(i int32, verb string) {
	m.leave(i, "it is a plain target: its key runs one fixed command, and kido cannot %s it", verb)
}

// list names instances: "a@x", "a@x and b@y", "a@x, b@y and 3 more".
func (m *maker) list(all []int32) string {
	switch len(all) {
	case 1:
		return m.name(all[0])
	case 2:
		return m.name(all[0]) + " and " + m.name(all[1])
	}
	return fmt.Sprintf("%s, %s and %d more", m.name(all[0]), m.name(all[1]), len(all)-2)
}

const asked = "you asked for it"

// start plans up and start.
func (m *maker) start() error {
	in := slices.Clone(m.target)
	needs := make([]int32, m.all()) // who, +1, brought an instance in
	if m.req.Verb == Up && !m.whole {
		for _, d := range slices.Backward(m.order) {
			if !in[d] {
				continue
			}
			for _, dep := range m.depsOf(d) {
				for u, end := m.upstreams(d, dep); u < end; u++ {
					if !in[u] || needs[u] > d+1 {
						in[u], needs[u] = true, d+1
					}
				}
			}
		}
	}
	if err := m.avoidConflicts(in, func(i int32) bool { return !m.up(i) }); err != nil {
		return err
	}
	for _, i := range m.order {
		if !in[i] {
			continue
		}
		who := asked
		if needs[i] > 0 && !m.target[i] {
			who = m.name(needs[i]-1) + " needs it"
		}
		s := m.status(i)
		switch {
		case m.external(i):
			m.step(i, ActWait, who+"; it is external: waited for", s == nil || !s.Ready)
		case m.plain(i) && m.req.Verb == Start:
			m.cannot(i, "tell whether it is up, nor start")
		case m.plain(i):
			m.ensure(i, who)
		case s == nil:
			m.step(i, ActStart, who, true)
		case s.State == wire.StateUp:
			m.ensure(i, who)
			m.action[i] = ActStart
		case OnPurpose(s) && s.Wanted == wire.WantedDown && s.Generation > 0:
			m.step(i, ActStart, "it is stopped on purpose, and "+who, true)
			m.renewed[i] = true
		default:
			m.step(i, ActStart, stateWord(s)+", and "+who, true)
			m.renewed[i] = s.State != wire.StateBusy
		}
	}
	for d := range m.all() {
		if m.action[d] != "" || m.down(d) {
			continue
		}
		if causes := m.causes(d, reactReload); len(causes) > 0 {
			m.leave(d, "owes a reaction to %s afterwards: kido announce %s makes it fresh", m.list(causes), m.name(causes[0]))
		}
	}
	return nil
}

// avoidConflicts takes out of in what must not be started. Only where the whole
// site is meant it chooses; what was asked for by name is an error.
func (m *maker) avoidConflicts(in []bool, starting func(int32) bool) error {
	var found []Conflict
	for i := range m.all() {
		for _, other := range m.declared(i).Conflicts {
			service, ok := m.services.number(other)
			if !ok || !in[i] || !starting(i) {
				continue
			}
			k, ok := m.on(service, m.instances[i].Host)
			both := ok && in[k] && k < i && starting(k)
			switch {
			case !ok || !m.up(k) && !both:
			case !m.whole:
				found = append(found, Conflict{m.name(i), m.name(k), m.up(k)})
			case m.up(k):
				in[i] = false
				m.leave(i, "conflicts with %s, which is up", m.name(k))
			default:
				in[i] = false
				m.leave(i, "conflicts with %s, which comes first in the site file", m.name(k))
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	return &ConflictError{found}
}

// causes lists the upstreams of d that will have a new incarnation to which d
// reacts at least that strongly; those that were asked for come first.
func (m *maker) causes(d int32, atLeast reaction) []int32 {
	var all []int32
	for _, dep := range m.depsOf(d) {
		if dep.reaction < atLeast {
			continue
		}
		for u, end := m.upstreams(d, dep); u < end; u++ {
			if m.renewed[u] {
				all = append(all, u)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b int32) int {
		switch {
		case m.target[a] == m.target[b]:
			return 0
		case m.target[a]:
			return -1
		}
		return 1
	})
	return all
}

// ensure gives d an ensure with what is known of its debts as the reason;
// where nothing is known the reason is why.
func (m *maker) ensure(d int32, why string) {
	if causes := m.causes(d, reactReload); len(causes) > 0 {
		what := " will have a new incarnation"
		if len(causes) > 1 {
			what = " will have new incarnations"
		}
		m.step(d, ActEnsure, m.list(causes)+what, true)
		m.renewed[d] = len(m.causes(d, reactRestart)) > 0
		return
	}
	s := m.status(d)
	if s == nil {
		m.step(d, ActEnsure, why, true)
		return
	}
	switch v := m.judge.of(d).verdict; {
	case v.Own != "":
		m.step(d, ActEnsure, v.Own, true)
		m.renewed[d] = s.State != wire.StateUp || v.Reaction == wire.ReactRestart
	case len(v.Debts) > 0:
		m.step(d, ActEnsure, owed(m.name(d), s, v.Debts), true)
		m.renewed[d] = v.Reaction == wire.ReactRestart
	case len(v.Blocked) > 0:
		m.step(d, ActEnsure, fmt.Sprintf("waits for %s: %s", v.Blocked[0].Upstream, v.Blocked[0].Why), true)
	default:
		m.step(d, ActEnsure, m.fresh(d), false)
	}
}

// owed puts all debts of an instance in one sentence.
func owed(name string, s *wire.Status, debts []Debt) string {
	var changed []Debt
	for _, d := range debts {
		if d.Had != "" {
			changed = append(changed, d)
		}
	}
	switch {
	case len(changed) == 0 && s.Generation == 0:
		return "nothing on record: kido has not seen it start yet"
	case len(changed) == 0:
		return debts[0].Why
	case len(changed) == 1:
		return changed[0].Why
	}
	return fmt.Sprintf("%s and %d more have new incarnations since %s was started", changed[0].Upstream, len(changed)-1, name)
}

func (m *maker) fresh(d int32) string {
	var after []int32
	since := "started after "
	for _, dep := range m.depsOf(d) {
		if dep.reaction == reactNone {
			continue
		}
		if dep.reaction == reactReload {
			since = "started or reloaded after "
		}
		for u, end := m.upstreams(d, dep); u < end; u++ {
			if s := m.status(u); s != nil && s.Incarnation() != "" && m.judge.of(u).why == "" {
				after = append(after, u)
			}
		}
	}
	if len(after) == 0 {
		return stateWord(m.status(d))
	}
	return "fresh: " + since + m.list(after) + " became ready"
}

// react plans restart and announce: the targets, and what they make stale.
func (m *maker) react() error {
	if m.req.Verb == Restart {
		starting := func(i int32) bool { return m.down(i) }
		if err := m.avoidConflicts(m.target, starting); err != nil {
			return err
		}
	}
	followed := m.followed()
	waived := make([]bool, m.all()) // left down: nothing comes of it downstream
	for _, d := range m.order {
		behind := int32(-1)
		for _, dep := range m.depsOf(d) {
			if dep.reaction == reactNone {
				continue
			}
			for u, end := m.upstreams(d, dep); u < end && behind < 0; u++ {
				if m.action[u] != "" && !waived[u] {
					behind = u
				}
			}
		}
		switch {
		case m.target[d] && m.req.Verb == Restart && m.external(d):
			m.alone(d)
		case m.target[d] && m.req.Verb == Restart:
			m.step(d, ActRestart, asked, true)
			m.renewed[d] = true
		case behind >= 0 && m.onPurpose(d):
			// The step starts nothing: its gate puts the waived debt on record.
			m.step(d, ActEnsure, "stopped on purpose: stays so; its debt is waived", false)
			waived[d] = true
		case behind >= 0 && m.action[behind] == ActWait:
			m.ensure(d, "you announced "+m.name(behind)+": made fresh if it is stale")
		case behind >= 0:
			m.ensure(d, "comes after "+m.name(behind)+": made fresh if it is stale")
		case m.target[d] && followed[d]:
			m.wait(d)
		case m.target[d] && !m.whole:
			m.leave(d, "nothing reacts to its restarts")
		}
		m.holdFirst(d)
	}
	for d := range m.all() {
		if m.action[d] != "" {
			continue
		}
		for _, dep := range m.depsOf(d) {
			for u, end := m.upstreams(d, dep); u < end && dep.reaction == reactNone; u++ {
				if m.action[u] != "" {
					m.leave(d, "ordered after %s but does not react to its restarts", m.instances[u].Service)
				}
			}
		}
	}
	return nil
}

// followed marks the instances to whose restarts some other reacts.
func (m *maker) followed() []bool {
	followed := make([]bool, m.all())
	for d := range m.all() {
		for _, dep := range m.depsOf(d) {
			for u, end := m.upstreams(d, dep); u < end && dep.reaction != reactNone; u++ {
				followed[u] = true
			}
		}
	}
	return followed
}

func (m *maker) wait(i int32) {
	reason, ready := "you announced it", false
	if o := m.observed(i); o.Status != nil {
		if why := notReady(o); why != "" {
			reason += "; now: " + why
		} else {
			ready = true
		}
	}
	m.step(i, ActWait, reason, !ready)
}

// holdFirst makes d stop before an upstream restarts, where it reacts so. One
// stop and one start are then all that d needs, even where it is a target.
func (m *maker) holdFirst(d int32) {
	if m.action[d] == "" || m.down(d) || m.plain(d) {
		return
	}
	if len(m.causes(d, reactStopFirst)) > 0 {
		m.hold[d], m.renewed[d] = true, true
		m.action[d] = ActEnsure
	}
}

// stop plans down and stop.
func (m *maker) stop() {
	for _, d := range m.order {
		because, aside := int32(-1), "" // what it cannot do without; why it may stay
		for _, dep := range m.depsOf(d) {
			begin, end := m.upstreams(d, dep)
			stopping, others := int32(-1), int32(-1)
			for u := end - 1; u >= begin; u-- {
				switch {
				case m.action[u] != "":
					stopping = u
				case !m.down(u):
					others = u
				}
			}
			switch {
			case stopping < 0:
			case dep.soft && aside == "":
				aside = fmt.Sprintf("%s though %s stops: it wants it but does not require it", m.stays(d), m.name(stopping))
			case dep.any && others >= 0 && aside == "":
				aside = fmt.Sprintf("%s though %s stops: any one of %s is enough, and %s is not stopped",
					m.stays(d), m.name(stopping), m.instances[stopping].Service, m.name(others))
			case dep.soft, dep.any && others >= 0:
			case because < 0:
				because = stopping
			}
		}
		reason := asked
		if !m.target[d] {
			switch {
			case because >= 0 && m.req.Verb == Down:
				reason = "it needs " + m.name(because)
			case m.down(d):
				continue
			case because >= 0:
				m.leave(d, "%s though %s stops: kido down %s stops it first", m.stays(d), m.name(because), m.name(because))
				continue
			default:
				if aside != "" {
					m.leave(d, "%s", aside)
				}
				continue
			}
		}
		switch {
		case m.external(d):
			m.alone(d)
		case m.plain(d):
			m.cannot(d, "stop")
		case m.down(d):
			m.step(d, ActStop, stateWord(m.status(d))+" already", false)
		default:
			m.step(d, ActStop, reason, true)
		}
	}
}

func (m *maker) stays(i int32) string {
	if m.up(i) {
		return "stays up"
	}
	return "stays as it is"
}

func (m *maker) reload() {
	for _, i := range m.order {
		a := m.declared(i).Adapter
		switch {
		case !m.target[i]:
		case a.Kind == site.KindExternal:
			m.alone(i)
		case a.Kind == site.KindPlain:
			m.cannot(i, "reload")
		case a.Kind == site.KindCommand && len(a.Reload) == 0:
			m.leave(i, "has no reload command in the site file")
		case m.down(i):
			m.step(i, ActReload, stateWord(m.status(i))+": there is nothing to reload", false)
		default:
			m.step(i, ActReload, asked, true)
		}
	}
}

// plan turns the decisions into steps and edges: holds first, in stop order,
// then all others in start order; or, for a stop, all in stop order.
func (m *maker) plan() (*Plan, error) {
	p := &Plan{Request: m.req, Steps: []Step{}}
	l := &linker{maker: m, main: newPlaces(m.all()), slab: make([]Edge, 0, len(m.deps))}
	stopping := m.req.Verb == Down || m.req.Verb == Stop
	order, direction := m.order, m.starts
	if stopping || slices.Contains(m.hold, true) {
		l.stops = m.stops()
		stopOrder, ok := l.stops.Order()
		if !ok {
			return nil, fmt.Errorf("the site's stop order goes round in a circle: %s; see stop_after", m.round(l.stops))
		}
		if stopping {
			order, direction = stopOrder, l.stops
		} else {
			m.planHolds(p, l, stopOrder)
		}
	}
	p.Steps = slices.Grow(p.Steps, len(order))
	for _, i := range order {
		if m.action[i] != "" {
			l.main[i] = p.add(m.instances[i], m.action[i], m.reason[i], m.likely[i])
		}
	}
	l.detour = bridges(direction, order, l.main)
	for _, i := range order {
		switch {
		case !l.main.has(i):
			continue
		case stopping:
			l.stop(i, l.main)
		default:
			l.start(i)
		}
		p.Steps[l.main[i]].After = l.edges()
	}
	m.limits(p)
	for i := range m.all() {
		if why, ok := m.note[i]; ok && m.action[i] == "" {
			p.Alone = append(p.Alone, Note{m.name(i), why})
		}
	}
	return p, nil
}

func (m *maker) planHolds(p *Plan, l *linker, stopOrder []int32) {
	l.holds = newPlaces(m.all())
	for _, i := range stopOrder {
		if m.hold[i] {
			reason := "stops before " + m.list(m.causes(i, reactStopFirst)) + " restarts"
			l.holds[i] = p.add(m.instances[i], ActHold, reason, true)
			l.stop(i, l.holds) // holds before it have their steps already
			p.Steps[l.holds[i]].After = l.edges()
		}
	}
}

func (p *Plan) add(i site.Instance, a Action, reason string, likely bool) int32 {
	id := len(p.Steps)
	p.Steps = append(p.Steps, Step{ID: id, Instance: i, Name: i.String(), Action: a, Reason: reason, Likely: likely})
	return int32(id)
}

// limits fills in AtOnce.
func (m *maker) limits(p *Plan) {
	count := make([]int, len(m.site.Services))
	for i := range m.all() {
		// A reload keeps it answering: all of a pool are reloaded at once.
		restarts := func(dep dependency) bool { return dep.reaction > reactReload }
		if m.action[i] == ActRestart || m.action[i] == ActEnsure && slices.ContainsFunc(m.depsOf(i), restarts) {
			count[m.service[i]]++
		}
	}
	for n, v := range m.site.Services {
		if count[n] > max(v.MaxUnavailable, 1) {
			if p.AtOnce == nil {
				p.AtOnce = map[string]int{}
			}
			p.AtOnce[v.Name] = max(v.MaxUnavailable, 1)
		}
	}
}

// places is the step of each instance; -1: none.
type places []int32

func newPlaces(n int32) places {
	p := make(places, n)
	for i := range p {
		p[i] = -1
	}
	return p
}

func (p places) has(i int32) bool { return p != nil && p[i] >= 0 }

// linker gathers what one step after another waits for.
type linker struct {
	*maker
	main, holds places
	detour      map[int32][]int32
	stops       *graph.Graph // where things go down; otherwise nil
	keys        []uint64     // of the step at hand: step waited for, place in kinds
	kinds       []Edge       // Step left open
	slab        []Edge       // all edges of the plan
}

// wait adds that the step at hand begins after another. Of several kinds of
// waiting for one step the first counts.
func (l *linker) wait(step int32, kind Edge) {
	if last := len(l.kinds) - 1; last < 0 || l.kinds[last] != kind {
		l.kinds = append(l.kinds, kind)
	}
	l.keys = append(l.keys, uint64(step)<<32|uint64(len(l.kinds)-1))
}

// edges ends the step at hand: its edges, sorted by step.
func (l *linker) edges() []Edge {
	slices.Sort(l.keys) // numbers sort many times faster than edges
	begin, last := len(l.slab), -1
	for _, key := range l.keys {
		if step := int(key >> 32); step != last {
			last = step
			edge := l.kinds[uint32(key)]
			edge.Step = step
			l.slab = append(l.slab, edge)
		}
	}
	l.keys, l.kinds = l.keys[:0], l.kinds[:0]
	return slices.Clip(l.slab[begin:])
}

// start adds what the step of d waits for, where things come up.
//
// Of an any-set it waits until all are through, well or not, so that one start or
// one reaction serves them all; then Need judges. So it does for what was held:
// it is down by kido's hand and must come back wherever it can.
func (l *linker) start(d int32) {
	for _, dep := range l.depsOf(d) {
		begin, end := l.upstreams(d, dep)
		kind := Edge{Soft: dep.soft || l.hold[d] || dep.any && end-begin > 1}
		for u := begin; u < end; u++ {
			if l.main.has(u) {
				l.wait(l.main[u], kind)
			}
		}
	}
	for _, u := range l.detour[d] {
		l.wait(l.main[u], Edge{Soft: true})
	}
	if l.holds == nil {
		return
	}
	if l.holds.has(d) {
		l.wait(l.holds[d], Edge{Soft: true})
	}
	for _, next := range l.starts.Next(d) {
		if !l.holds.has(next) {
			continue
		}
		if dep := l.dependency(next, d); dep != nil && dep.reaction == reactStopFirst {
			l.wait(l.holds[next], Edge{Soft: dep.soft})
		}
	}
}

// stop adds what the stop or hold of i waits for; at says which steps those
// are.
func (l *linker) stop(i int32, at places) {
	for _, first := range l.stops.Prev(i) {
		if !at.has(first) {
			continue
		}
		dep := l.dependency(first, i)
		if dep == nil {
			dep = l.dependency(i, first)
		}
		l.wait(at[first], Edge{Soft: dep != nil && dep.soft})
	}
	for _, first := range l.detour[i] {
		l.wait(at[first], Edge{Soft: true})
	}
}

// dependency is that of d's service on u's; nil where there is none.
func (t *Topology) dependency(d, u int32) *dependency {
	deps := t.depsOf(d)
	i := slices.IndexFunc(deps, func(dep dependency) bool { return dep.upstream == t.service[u] })
	if i < 0 {
		return nil
	}
	return &deps[i]
}

// bridges finds the order between steps that comes only by way of instances
// without one: for each instance with a step those with a step before it. What
// is in between is not touched, so it is an order and no more.
func bridges(g *graph.Graph, order []int32, at places) map[int32][]int32 {
	between := make([]bool, g.Len()) // no step, but one somewhere before
	found := false
	for _, i := range order {
		if at.has(i) {
			continue
		}
		between[i] = slices.ContainsFunc(g.Prev(i), func(p int32) bool { return at.has(p) || between[p] })
		found = found || between[i]
	}
	if !found {
		return nil
	}
	all := map[int32][]int32{}
	seen := newPlaces(int32(g.Len())) // by whom last
	for _, i := range order {
		if !at.has(i) {
			continue
		}
		stack := []int32{i}
		for len(stack) > 0 {
			top := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for _, p := range g.Prev(top) {
				switch {
				case seen[p] == i:
				case between[p]:
					seen[p] = i
					stack = append(stack, p)
				case at.has(p) && top != i:
					seen[p] = i
					all[i] = append(all[i], p)
				}
			}
		}
	}
	return all
}

// stops is the graph of the stop order: the reverse of the start order but
// where a service's StopAfter says otherwise.
func (t *Topology) stops() *graph.Graph {
	pairs := make([]graph.Edge, 0, len(t.deps))
	for i := range t.all() {
		after := t.site.Services[t.service[i]].StopAfter
		for _, dep := range t.depsOf(i) {
			for u, end := t.upstreams(i, dep); u < end; u++ {
				if slices.Contains(after, t.instances[u].Service) {
					pairs = append(pairs, graph.Edge{From: u, To: i})
				} else {
					pairs = append(pairs, graph.Edge{From: i, To: u})
				}
			}
		}
		for _, name := range after {
			first, ok := t.services.number(name)
			if !ok {
				continue
			}
			for x := t.first[first]; x < t.first[first+1]; x++ {
				// Where one depends on the other they are ordered above, and
				// host by host where so declared.
				if t.dependency(i, x) == nil && t.dependency(x, i) == nil {
					pairs = append(pairs, graph.Edge{From: x, To: i})
				}
			}
		}
	}
	return graph.Build(len(t.instances), pairs)
}

// round names a cycle edge by edge.
func (t *Topology) round(g *graph.Graph) string {
	cycle := g.Cycle()
	var names []string
	for _, i := range append(cycle, cycle[0]) {
		names = append(names, t.name(i))
	}
	return strings.Join(names, " → ")
}
