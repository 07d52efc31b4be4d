package plan

import (
	"cmp"
	"fmt"
	"slices"

	"kido/internal/rule"
	"kido/internal/site"
	"kido/internal/wire"
)

// OnPurpose reports whether an instance is down because somebody wants it so:
// stopped by kido, or found inactive without a run that owes it a start.
// Cascades leave it alone.
func OnPurpose(s *wire.Status) bool {
	if s.Wanted == wire.WantedHeld || s.Intent {
		return false
	}
	return s.State == wire.StateDown || s.State == wire.StateFailed && s.Wanted == wire.WantedDown
}

// Need says what dependent d needs now. It asks status once for d, then for all
// its ancestors in the order of Ancestors; what status returns is one atomic
// STATUS of the instance, or why there is none.
//
// An upstream that d reacts to must be ready, settled and itself current: its
// own basis equal to its upstreams' tokens now, and they current likewise.
// Behind one that is not, a dependent that requires it is blocked; one that
// wants it, or any one of several of which another is current, passes over it.
//
// seen, where not nil, says why d's own host finds one of its upstreams not
// ready, "" where it does not.
func (t *Topology) Need(d site.Instance, status func(site.Instance) Observation, seen func(site.Instance) string) Verdict {
	i, ok := t.lookup(d)
	if !ok {
		return Verdict{Blocked: []Block{{Upstream: d.String(), Why: "no such instance in the site"}}}
	}
	read := map[site.Instance]Observation{d: status(d)}
	for _, level := range t.Ancestors(d) {
		for _, u := range level {
			read[u] = status(u)
		}
	}
	j := judge{t: t, read: func(i int32) Observation { return read[t.instances[i]] }, memo: map[int32]*standing{}}
	if seen != nil {
		j.seen = func(from, u int32) string {
			if from != i {
				return ""
			}
			return seen(t.instances[u])
		}
	}
	v := j.of(i).verdict
	if read[d].Status == nil {
		return v
	}
	for _, dep := range t.depsOf(i) {
		if dep.reaction == reactNone && !dep.soft {
			v.Blocked = append(v.Blocked, j.notReady(i, dep)...)
		}
	}
	sortBlocks(v.Blocked)
	return v
}

// judge works out how instances stand, each once.
type judge struct {
	t    *Topology
	read func(int32) Observation
	seen func(from, u int32) string // why from finds u not ready; may be nil
	memo map[int32]*standing
}

// why says why dependent i must not be started against its upstream u.
func (j *judge) why(i, u int32) string {
	why := j.of(u).why
	if why == "" && j.seen != nil {
		why = j.seen(i, u)
	}
	return why
}

// standing is what is known of an instance and what follows from it.
type standing struct {
	Observation
	verdict Verdict // order-only dependencies left out
	// why others must not be started against it; empty: it is ready, settled
	// and current.
	why string
}

func (j *judge) of(i int32) *standing {
	if s, met := j.memo[i]; met {
		return s
	}
	s := &standing{Observation: j.read(i), why: "it depends on itself"}
	j.memo[i] = s
	s.verdict = j.verdict(i, s.Observation)
	s.why = s.weigh()
	return s
}

func (s *standing) weigh() string {
	if why := notReady(s.Observation); why != "" {
		return why
	}
	if s.Status.State == wire.StateBlind || !rule.Holds(rule.Barrier) {
		return "" // no more can be known
	}
	switch v := s.verdict; {
	case s.Status.Intent:
		return v.Own
	case len(v.Debts) > 0:
		return "stale itself: " + v.Debts[0].Why
	case len(v.Blocked) > 0:
		return fmt.Sprintf("waits itself for %s: %s", v.Blocked[0].Upstream, v.Blocked[0].Why)
	}
	return ""
}

// notReady says why an instance is not ready, or nothing.
func notReady(o Observation) string {
	s := o.Status
	switch {
	case s == nil:
		return cmp.Or(o.Err, "nothing is known of it")
	case OnPurpose(s):
		return "stopped on purpose"
	case s.Ready && s.State == wire.StateBlind:
		return ""
	case s.Ready && (!s.Settled || s.Incarnation() == ""):
		return "not settled: its incarnation changed while it was probed"
	case s.Ready, s.Token != "" && !rule.Holds(rule.ReadyFirst):
		return ""
	case s.Word != "":
		return s.Word
	case s.State == wire.StateUp:
		return "not ready"
	}
	return stateWord(s)
}

func stateWord(s *wire.Status) string {
	switch s.State {
	case wire.StateDown:
		if s.Wanted == wire.WantedHeld {
			return cmp.Or(s.Word, "it is held: a run that stopped it still owes its start")
		}
		return "it is down"
	case wire.StateFailed:
		return "it has failed"
	case wire.StateBusy:
		return "init has a job for it"
	case wire.StateBlind:
		return "its state cannot be told"
	}
	return "it is up"
}

// own says why an instance needs an ENSURE whatever its basis.
func own(s *wire.Status) string {
	switch {
	case s.Wanted == wire.WantedHeld, s.State == wire.StateFailed && !OnPurpose(s):
		return stateWord(s)
	case s.Intent:
		return fmt.Sprintf("an unfinished %s is on record", cmp.Or(s.IntentVerb, "change"))
	}
	return ""
}

// verdict compares the basis of instance i with its upstreams.
func (j *judge) verdict(i int32, o Observation) Verdict {
	var v Verdict
	if o.Status == nil {
		// Unknown is not empty: without its basis nothing can be compared.
		v.Blocked = []Block{{Upstream: j.t.name(i), Why: notReady(o)}}
		return v
	}
	v.Own = own(o.Status)
	stale, all := reactNone, reactNone // the strongest reaction asked for
	unless := true                     // of every debt: only if connections from before are held
	for _, dep := range j.t.depsOf(i) {
		if dep.reaction == reactNone {
			continue
		}
		all = max(all, dep.reaction)
		begin, end := j.t.upstreams(i, dep)
		var blocks []Block
		for u := begin; u < end; u++ {
			if why := j.why(i, u); why != "" {
				blocks = append(blocks, Block{j.t.name(u), why, dep.any})
			}
		}
		blocked := !dep.soft && len(blocks) > 0 && (!dep.any || len(blocks) == int(end-begin))
		if blocked {
			v.Blocked = append(v.Blocked, blocks...)
		}
		for u := begin; u < end; u++ {
			s, name, why := j.of(u), j.t.name(u), j.why(i, u)
			had, onRecord := o.Status.Basis.Get(name)
			has := ""
			if s.Status != nil {
				has = s.Status.Incarnation()
			}
			switch {
			case why != "" && (!blocked || has == ""): // passed over, or waited for
				if !blocked && moved(had, s.Status) {
					v.Passed = append(v.Passed, Block{name, why, dep.any})
				}
				if onRecord {
					v.New = append(v.New, wire.Entry{Instance: name, Token: had})
				}
			case has != "":
				v.New = append(v.New, wire.Entry{Instance: name, Token: has})
				if had != has {
					v.Debts = append(v.Debts, j.debt(i, name, had, has))
					stale = max(stale, dep.reaction)
					if unless = unless && dep.ifStale && s.Status.Age > 0; unless {
						v.Lives = append(v.Lives, wire.Life{Upstream: name, Age: s.Status.Age})
					}
				}
			}
		}
	}
	slices.SortFunc(v.New, func(a, b wire.Entry) int { return cmp.Compare(a.Instance, b.Instance) })
	slices.SortFunc(v.Debts, func(a, b Debt) int { return cmp.Compare(a.Upstream, b.Upstream) })
	sortBlocks(v.Blocked)
	sortBlocks(v.Passed)
	if slices.SortFunc(v.Lives, func(a, b wire.Life) int { return cmp.Compare(a.Upstream, b.Upstream) }); !unless || v.Own != "" || stale != reactReload {
		v.Lives = nil
	}
	if stale == reactNone && v.Own != "" {
		stale = cmp.Or(all, reactRestart)
	}
	switch stale {
	case reactReload:
		v.Reaction = wire.ReactReload
	case reactRestart, reactStopFirst:
		v.Reaction = wire.ReactRestart
	}
	return v
}

// moved reports whether an upstream, of which nothing may be known, is certainly in
// another incarnation than had.
func moved(had string, s *wire.Status) bool {
	switch {
	case s == nil || s.Token == "":
		return false
	case s.Incarnation() == "": // init's part of it is known
		return s.Token != wire.Unit(had)
	}
	return s.Incarnation() != had
}

func (j *judge) debt(i int32, upstream, had, has string) Debt {
	name := j.t.name(i)
	why := fmt.Sprintf("%s has a new incarnation since %s was started", upstream, name)
	switch {
	case had == "":
		why = fmt.Sprintf("nothing on record for %s: kido has not seen %s start since", upstream, name)
	case had == wire.Unit(has): // and has tells a life
		why = fmt.Sprintf("a probe of %s tells its incarnation now, and which one %s was started against is not known", upstream, name)
	case has == wire.Unit(had):
		why = fmt.Sprintf("no probe of %s tells its incarnation any more, so that it may be another one since %s was started", upstream, name)
	}
	return Debt{upstream, had, has, why}
}

// notReady lists the upstreams of an order-only dependency that stand in the
// way of instance i.
func (j *judge) notReady(i int32, dep dependency) []Block {
	var blocks []Block
	begin, end := j.t.upstreams(i, dep)
	for u := begin; u < end; u++ {
		if why := notReady(j.read(u)); why != "" {
			blocks = append(blocks, Block{j.t.name(u), why, dep.any})
		}
	}
	if dep.any && len(blocks) < int(end-begin) {
		return nil
	}
	return blocks
}

func sortBlocks(b []Block) {
	slices.SortFunc(b, func(a, b Block) int { return cmp.Compare(a.Upstream, b.Upstream) })
}
