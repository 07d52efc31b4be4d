package verify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kido/internal/wire"
)

// order, I1: what a run asks to be started against was ready before, and what is
// on record as a basis was ready before the life that runs began, or was reloaded.
func (c *checker) order() {
	for _, instance := range names(c.asks) {
		for _, a := range c.asks[instance] {
			for _, e := range a.New {
				u := c.life(e.Instance, e.Token)
				switch {
				case u == nil || u.ready != never && u.ready < a.at:
				case !c.witnessed[e.Instance] && (u.told.Run != a.Run || u.began > a.at):
					// Another run may have found it ready, and had no reason to write that down.
				default:
					c.violated(Order, instance, []int{u.began, a.at, u.ready}, "%s was to be started against life %s of %s, which was not ready", instance, e.Token, e.Instance)
				}
			}
		}
	}
	for n, f := range c.facts {
		if f.What != Recorded || f.Wanted == wire.WantedDown {
			continue
		}
		l := c.running(f.Instance, n)
		for _, e := range f.Basis {
			u := c.life(e.Instance, e.Token)
			if l == nil || u == nil || u.ready != never && slices.ContainsFunc(l.looks, func(at int) bool { return at > u.ready && at < n }) {
				continue
			}
			c.violated(Order, f.Instance, []int{l.began, u.began, u.ready, n}, "%s is on record as started against life %s of %s, and was started before that was ready", f.Instance, e.Token, e.Instance)
		}
	}
	c.starts()
}

// starts is I1 where no run's requests are known: a life that found an upstream
// not ready must have been begun while one was.
func (c *checker) starts() {
	for _, e := range c.site.Edges {
		if !e.Hard || len(c.asks[e.Dependent]) > 0 || !c.witnessed[e.Upstream] {
			continue
		}
		for _, l := range c.lives[e.Dependent] {
			saw, known := c.facts[l.began].Saw.Get(e.Upstream)
			if l.by == BySomeone || !known || saw != None {
				continue
			}
			since := never
			if b := l.before; b != nil {
				since = max(b.began, b.ended)
			}
			if !slices.ContainsFunc(c.lives[e.Upstream], func(u *life) bool {
				return u.ready != never && u.ready < l.began && (u.ended == never || u.ended > since)
			}) {
				c.violated(Order, e.Dependent, []int{since, l.began}, "life %s of %s began when %s was not ready, and had not been since %s ran last", l.token, e.Dependent, e.Upstream, e.Dependent)
			}
		}
	}
}

// replaced reports whether a life was begun in the place of one that kido ended in
// order to begin it. Anything else that is down, and wanted, may be started again.
func (c *checker) replaced(l *life) bool {
	if l.told != nil && !c.witnessed[l.instance] {
		return l.told.Token != ""
	}
	b := l.before
	if b == nil || b.ended == never {
		return false
	}
	by := c.facts[b.ended].By
	return (by == ByKido || by == "") && !c.stopped(b)
}

// stopped reports whether a run had asked for the end of a life as such.
func (c *checker) stopped(l *life) bool {
	return c.last(l.instance, l.ended, func(a *ask) bool { return a.Verb == wire.VerbStop && a.open(l.ended) }) != nil
}

// causes are the requests that can have begun a life, the first to be over first.
func (c *checker) causes(l *life) []*ask {
	if l.told != nil {
		return []*ask{l.told}
	}
	var all []*ask
	for _, a := range c.asks[l.instance] {
		if a.starts() && a.open(l.began) {
			all = append(all, a)
		}
	}
	end := func(a *ask) int {
		if a.closed == never {
			return len(c.facts)
		}
		return a.closed
	}
	slices.SortStableFunc(all, func(a, b *ask) int { return end(a) - end(b) })
	return all
}

// economy, I2: for one basis kido replaces a life once; for one wish, of a person
// who asks for a restart, too.
func (c *checker) economy() {
	for _, instance := range names(c.lives) {
		if len(c.asks[instance]) == 0 {
			c.sameSights(instance)
			continue
		}
		used := map[string]*life{} // by basis, and by wish
		for _, l := range c.lives[instance] {
			if l.by != ByKido && l.by != "" {
				continue
			}
			causes := c.causes(l)
			if len(causes) == 0 && l.by == ByKido {
				c.violated(Economy, instance, []int{l.began}, "life %s of %s was begun by kido, and no run had asked for it", l.token, instance)
			}
			var before *life
			var cause *ask
			for _, a := range causes {
				if before = used[wish(a)]; before == nil || !c.replaced(l) {
					cause = a
					break
				}
			}
			if cause == nil && len(causes) > 0 {
				a := causes[0]
				why := fmt.Sprintf("against %s twice", list(a.New))
				if a.Verb != wire.VerbEnsure {
					why = fmt.Sprintf("twice for one %s of run %s", a.Verb, a.Run)
				}
				c.violated(Economy, instance, []int{before.began, a.at, l.began}, "%s was restarted by kido %s: in life %s, and in life %s again", instance, why, before.token, l.token)
				cause = a
			}
			if cause != nil {
				used[wish(cause)], used[basis(cause)] = l, l
			}
		}
	}
}

// wish tells requests apart of which each may end in one restart.
func wish(a *ask) string {
	switch a.Verb {
	case wire.VerbRestart:
		return fmt.Sprintf("restart %q %q", a.Run, a.Own)
	case wire.VerbStart:
		return fmt.Sprintf("start %q", a.Run)
	}
	return basis(a)
}

func basis(a *ask) string { return fmt.Sprintf("basis %q", a.New) }

// sameSights is I2 where no run's requests are known: no two lives of one boot saw
// the same lives of all upstreams.
func (c *checker) sameSights(instance string) {
	met := map[string]*life{}
	for _, l := range c.lives[instance] {
		saw := c.facts[l.began].Saw
		if l.by == BySomeone || len(saw) == 0 || slices.ContainsFunc(saw, func(e wire.Entry) bool { return e.Token == None }) {
			continue
		}
		key := fmt.Sprintf("%q %q", l.boot, saw)
		if b := met[key]; b != nil {
			c.violated(Economy, instance, []int{b.began, l.began}, "%s was started twice against %s", instance, list(saw))
		}
		met[key] = l
	}
}

// purpose: what a person has stopped is started by no request that came after, but
// for one that asks for its start.
func (c *checker) purpose() {
	for _, instance := range names(c.lives) {
		for _, l := range c.lives[instance] {
			b := l.before
			if l.by != ByKido || b == nil || b.ended == never || !c.witnessed[instance] {
				continue
			}
			stop := c.last(instance, b.ended, func(a *ask) bool { return a.Verb == wire.VerbStop && a.open(b.ended) })
			if c.facts[b.ended].By != BySomeone && (stop == nil || stop.Hold) {
				continue
			}
			causes := c.causes(l)
			if len(causes) == 0 || slices.ContainsFunc(causes, func(a *ask) bool { return a.Verb != wire.VerbEnsure || a.at < b.ended }) {
				continue
			}
			c.violated(OnPurpose, instance, []int{b.ended, causes[0].at, l.began}, "%s was stopped on purpose, and started again as if it had not been", instance)
		}
	}
}

// barrier, I4: an upstream that something is started against was itself current:
// its own upstreams are those that the run knows, and not older ones.
func (c *checker) barrier() {
	for _, dependent := range names(c.asks) {
		for _, a := range c.asks[dependent] {
			if !a.starts() {
				continue
			}
			for _, e := range c.upstreams[dependent] {
				t, asked := a.New.Get(e.Upstream)
				if !e.Hard || !asked {
					continue
				}
				for _, f := range c.upstreams[e.Upstream] {
					if f.Hard {
						c.behind(a, e.Upstream, t, f.Upstream)
					}
				}
			}
		}
	}
}

// behind holds life t of upstream u of a request against its own upstream w.
func (c *checker) behind(a *ask, u, t, w string) {
	bases, places := c.bases(u, t, a.at)
	var has []string
	for _, v := range bases {
		if x, ok := v.Get(w); ok {
			has = append(has, x)
		}
	}
	if len(has) == 0 || slices.Contains(has, None) {
		return // nobody says what it was started against
	}
	if x, ok := a.New.Get(w); ok {
		if !slices.Contains(has, x) {
			c.violated(Barrier, a.Instance, append(places, a.at), "%s was to be started against life %s of %s and life %s of %s, which was itself started against %s", a.Instance, x, w, t, u, strings.Join(has, ", "))
		}
		return
	}
	x, place := c.known(a, w)
	if x != "" && !slices.ContainsFunc(has, func(y string) bool { return x == y || !c.older(w, y, x) }) {
		c.violated(Barrier, a.Instance, append(places, place, a.at), "%s was to be started against life %s of %s, which was itself started against %s, not yet against life %s of %s", a.Instance, t, u, strings.Join(has, ", "), x, w)
	}
}

// bases are what life t of an instance is said to have been started against, before
// a place, and where that is said.
func (c *checker) bases(instance, t string, place int) (all []wire.Vector, places []int) {
	add := func(v wire.Vector, at int) {
		if len(v) > 0 {
			all, places = append(all, v), append(places, at)
		}
	}
	if l := c.life(instance, t); l != nil && c.witnessed[instance] {
		for _, at := range l.looks {
			if at < place {
				add(c.facts[at].Saw, at)
			}
		}
	}
	for _, n := range c.about[instance] {
		if n >= place {
			break
		}
		switch f := c.facts[n]; f.What {
		case Asked:
			// What it asks for may have become the basis of t: unless t is the very
			// life that it wants replaced.
			if f.Token != t || f.Reaction == wire.ReactReload || f.Verb == wire.VerbReload {
				add(f.New, n)
			}
			fallthrough
		case Answered, Seen, Found:
			if f.Token == t {
				add(f.Basis, n)
			}
		}
	}
	return all, places
}

// known is the newest life of an instance that the run of a request must have
// known: what it wrote down of it, or what was ready when the run began.
func (c *checker) known(a *ask, instance string) (token string, place int) {
	for n, f := range slices.Backward(c.facts[:a.at]) {
		if f.Run != a.Run {
			continue
		}
		if f.Instance == instance && f.Token != "" && (f.What == Seen || f.What == Found || f.What == Answered) {
			return f.Token, n
		}
		if f.What == Opened {
			if l := c.running(instance, n); l != nil && l.ready != never && l.ready < n {
				return l.token, l.ready
			}
			return "", never
		}
	}
	return "", never
}

// older reports whether a life of an instance is known to be older than another.
func (c *checker) older(instance, token, than string) bool {
	first := func(token string) int {
		return slices.IndexFunc(c.facts, func(f Fact) bool {
			if f.Instance == instance && f.Token == token {
				return true
			}
			for _, v := range []wire.Vector{f.Saw, f.New, f.Basis} {
				if t, ok := v.Get(instance); ok && t == token {
					return true
				}
			}
			return false
		})
	}
	return first(token) < first(than)
}

// loss, I3: at rest whatever is wanted runs, and has connected to the lives of its
// upstreams that run; and its record says so.
func (c *checker) loss() {
	records := map[string]int{}
	for n, f := range c.facts {
		switch f.What {
		case Recorded:
			records[f.Instance] = n
		case Rested:
			c.atRest(n, records)
			records = map[string]int{}
		}
	}
}

func (c *checker) atRest(rest int, records map[string]int) {
	for _, instance := range names(c.lives) {
		if !c.witnessed[instance] {
			continue
		}
		switch l := c.at(instance, rest); {
		case l == nil:
		case l.ended != never && l.ended < rest:
			if by := c.facts[l.ended].By; by == ByItself || (by == ByKido || by == "") && !c.stopped(l) {
				c.violated(NoLoss, instance, []int{l.ended, rest}, "%s is down, and nobody has stopped it on purpose", instance)
			}
		case l.ready == never || l.ready > rest:
			c.violated(NoLoss, instance, []int{l.began, rest}, "%s runs and never became ready", instance)
		}
	}
	for _, e := range c.site.Edges {
		d, u := c.running(e.Dependent, rest), c.running(e.Upstream, rest)
		if d == nil || u == nil || !c.witnessed[e.Dependent] || !c.witnessed[e.Upstream] || u.ready == never {
			continue
		}
		look := d.began
		for _, n := range d.looks {
			if n < rest {
				look = n
			}
		}
		if saw, ok := c.facts[look].Saw.Get(e.Upstream); ok && saw != u.token {
			c.violated(NoLoss, e.Dependent, []int{look, u.ready, rest}, "%s runs against life %s of %s, which lives as %s now", e.Dependent, saw, e.Upstream, u.token)
		}
		if n, ok := records[e.Dependent]; ok {
			if has, _ := c.facts[n].Basis.Get(e.Upstream); has != u.token {
				c.violated(NoLoss, e.Dependent, []int{u.ready, n, rest}, "%s is on record as started against %q of %s, which lives as %s now", e.Dependent, has, e.Upstream, u.token)
			}
		}
	}
}

// debts is I3 by the journals: what a run has left owing was paid by a later one.
func (c *checker) debts() {
	owing := map[string]int{}
	for n, f := range c.facts {
		switch {
		case f.What == Found:
			delete(owing, f.Instance)
		case len(f.Owes) > 0:
			owing[f.Instance] = n
		}
	}
	for _, instance := range names(owing) {
		n := owing[instance]
		f := c.facts[n]
		if c.witnessed[instance] && slices.ContainsFunc(c.facts[n:], func(f Fact) bool { return f.What == Rested }) {
			continue // the services themselves have told
		}
		c.violated(NoLoss, instance, []int{n}, "%s owes a reaction to %s since run %s, and no run has paid that", instance, strings.Join(f.Owes, ", "), f.Run)
	}
}

func service(instance string) string {
	name, _, _ := strings.Cut(instance, "@")
	return name
}

// availability, I5, by the services' own word: between the end that kido made and
// readiness again an instance is down by its hand.
func (c *checker) availability() {
	type absence struct {
		at  int
		run string // "" where it cannot be told
	}
	down := map[string]absence{}
	for n, f := range c.facts {
		switch f.What {
		case Ready:
			delete(down, f.Instance)
			continue
		case Asked:
			if f.Verb == wire.VerbStop {
				delete(down, f.Instance) // down by somebody's wish
			}
			continue
		case Ended:
		default:
			continue
		}
		l, most := c.life(f.Instance, f.Token), c.site.Pools[service(f.Instance)]
		if f.By != ByKido || most == 0 || l == nil || c.stopped(l) {
			continue
		}
		down[f.Instance] = absence{n, c.runAt(f.Instance, n)}
		places := []int{}
		for _, d := range names(down) {
			if service(d) == service(f.Instance) && (!c.options.EachRun || down[d].run != "" && down[d].run == down[f.Instance].run) {
				places = append(places, down[d].at)
			}
		}
		if len(places) > most {
			c.violated(Availability, f.Instance, places, "%d of %s were down by kido's hand at once, at most %d may be", len(places), service(f.Instance), most)
		}
	}
}

// runAt is the run on whose request an instance is worked at; "" where several may
// be meant.
func (c *checker) runAt(instance string, place int) string {
	run := ""
	for _, a := range c.asks[instance] {
		switch {
		case !a.open(place):
		case run == "":
			run = a.Run
		case run != a.Run:
			return ""
		}
	}
	return run
}

// slots is I5 by the journals, where the services tell nothing: what a run restarts
// is down at some time between its request and the reply. When it was ready again
// another run may have seen before this one did, so no more is counted.
func (c *checker) slots() {
	type span struct {
		*ask
		from, to time.Time
	}
	pools := map[string][]span{}
	for _, instance := range names(c.asks) {
		for _, a := range c.asks[instance] {
			if !a.Slot || a.answered == never || c.witnessed[instance] {
				continue
			}
			if code := c.facts[a.answered].Code; code == wire.CodeDone || code == wire.CodeFailed {
				pool := service(instance)
				pools[pool] = append(pools[pool], span{a, a.At.Add(c.options.Skew / 2), c.facts[a.answered].At.Add(-c.options.Skew / 2)})
			}
		}
	}
	for _, pool := range names(pools) {
		most := c.site.Pools[pool]
		for _, s := range pools[pool] {
			down, places := map[string]bool{}, []int{}
			for _, t := range pools[pool] { // those that are down as s begins
				if !t.from.After(s.from) && t.to.After(s.from) && s.to.After(s.from) && (!c.options.EachRun || t.Run == s.Run) {
					down[t.Instance] = true
					places = append(places, t.at, t.answered)
				}
			}
			if most > 0 && len(down) > most {
				c.violated(Availability, s.Instance, places, "%d of %s were down by kido's hand at once, at most %d may be", len(down), pool, most)
			}
		}
	}
}
