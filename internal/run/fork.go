package run

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"kido/internal/plan"
	"kido/internal/site"
	"kido/internal/wire"
)

// stride is how much time a search that uses [Run.Key] lets pass at once.
const stride = time.Minute

// Clone returns a run that goes on from here by itself: for a search that visits
// every state once, and goes on from each in every way that it can.
func (r *Run) Clone() *Run {
	c := *r
	c.effects = nil
	c.steps = make([]*step, len(r.steps))
	steps := make([]step, len(r.steps))
	for i, s := range r.steps {
		steps[i] = *s
		steps[i].owes = slices.Clone(s.owes)
		if s.claim != nil {
			claim := *s.claim
			claim.granted, claim.unsure = slices.Clone(claim.granted), slices.Clone(claim.unsure)
			steps[i].claim = &claim
		}
		c.steps[i] = &steps[i]
	}
	c.reads = make(map[question]*read, len(r.reads))
	for q, a := range r.reads {
		a := *a
		c.reads[q] = &a
	}
	c.calls = maps.Clone(r.calls)
	c.chores = make(map[wire.Slot]*chore, len(r.chores))
	for h, o := range r.chores {
		o := *o
		c.chores[h] = &o
	}
	c.silent = maps.Clone(r.silent)
	c.pools = make(map[string]*pool, len(r.pools))
	for name, p := range r.pools {
		p := *p
		c.pools[name] = &p
	}
	return &c
}

// Key appends what can influence the future of a run: for a search that visits
// every state once, and lets a minute pass at once or no time. Two runs of one
// topology with the same options and equal keys answer the same next input, after
// no time or a minute, with the same effects, and have equal keys again, but for
//
//   - the numbers of calls: they come in the same order, no more;
//   - words, and what else an event tells people (latest token, debts, attempts),
//     with how often one and the same failure is put on record;
//   - times, which are over, up to a minute away, or later. So jitter cannot
//     matter: no pause is longer, unless the site says so. What is later may be a
//     deadline: a search that is to see it pass lets the longest one pass at once.
func (r *Run) Key(b []byte) []byte {
	k := keyer(b)
	k.text(r.id)
	k.flags(r.interrupted, r.ended)
	k.number(r.failures)
	for _, p := range r.plan.Steps { // two runs may follow two plans
		k.text(p.Name)
		k.text(string(p.Action))
		k.number(len(p.After))
		for _, e := range p.After {
			k.number(e.Step)
			k.flags(e.Soft)
		}
	}
	for _, s := range r.steps {
		r.keyStep(&k, s)
	}
	for _, name := range slices.Sorted(maps.Keys(r.pools)) {
		p := r.pools[name]
		k.number(p.taken)
		k.number(p.lost)
		k.number(p.failed)
	}
	k.number(len(r.calls)) // what is out: with it, which reads are
	for _, n := range slices.Sorted(maps.Keys(r.calls)) {
		c := r.calls[n]
		k.number(int(c.kind))
		k.number(c.step)
		k.question(c.ask)
		k.held(c.slot)
		k.number(c.try)
	}
	r.keyChores(&k)
	r.keyProbes(&k)
	r.keySettling(&k)
	return k
}

// keySettling adds which incarnations have been up for long enough to be followed.
func (r *Run) keySettling(k *keyer) {
	for _, i := range r.topo.Instances() {
		a := r.reads[question{at: i.Host, instance: i}]
		if window := r.site.Service(i.Service).Settle; window > 0 && a != nil {
			k.text(a.token)
			k.flags(r.now-a.since >= window, r.now-a.since+stride >= window)
		}
	}
}

// keyStep adds what a step will go by. A step that has ended only counts for
// others by how it did, and nobody looks at its survey any more.
func (r *Run) keyStep(k *keyer, s *step) {
	k.text(string(s.phase))
	if s.phase.Final() {
		k.flags(s.away)
		return
	}
	if k.flags(s.claim != nil); s.claim != nil {
		k.claim(s)
	}
	k.flags(s.acted, s.before, s.died, s.slot, s.sent, s.away, s.own != nil, s.surveying)
	if s.own != nil {
		k.text(*s.own)
	}
	k.flags(s.spared != "")
	k.number(r.tries(s))
	k.number(s.changes)
	k.number(s.losses)
	k.number(s.answers)
	k.flags(s.pause > stride, s.patience > stride)
	k.until(r.now, s.wake)
	k.until(r.now, s.deadline)
	if !s.surveying {
		return // the next survey believes no older read
	}
	k.number(s.level)
	if s.level > 0 {
		k.read(s.self)
	}
	for level, qs := range s.levels[:s.level] {
		for _, q := range qs {
			if level > 0 {
				k.read(r.reads[q])
			}
		}
	}
	now := s.levels[0] // looked at once more
	if s.level < len(s.levels) {
		now = s.levels[s.level]
	}
	for _, q := range now {
		a := r.reads[q]
		early := a.asked >= s.since // or else it is asked again, once it is answered
		k.flags(early, a.out)
		if early && !a.out {
			k.read(a)
		}
	}
}

// tries is the attempt of a step, as far as its number still makes a difference.
func (r *Run) tries(s *step) int {
	n, delay := s.svc.Retry.Attempts, s.svc.Retry.Delay
	for doublings := 1; delay < s.svc.Retry.Max && doublings < s.attempt; doublings++ {
		delay *= 2
		n = max(n, doublings+1)
	}
	return min(s.attempt, n)
}

// keyProbes adds what hosts have seen of others: answers in a row count from
// survey to survey, and for whoever else is at that host.
func (r *Run) keyProbes(k *keyer) {
	var probes []question
	for q, a := range r.reads {
		if q.probe && a.answered > 0 {
			probes = append(probes, q)
		}
	}
	slices.SortFunc(probes, func(a, b question) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.instance.Service, b.instance.Service), cmp.Compare(a.instance.Host, b.instance.Host))
	})
	k.number(len(probes))
	for _, q := range probes {
		a := r.reads[q]
		k.question(q)
		k.flags(a.obs.Err != "", a.obs.Status != nil && a.obs.Status.Ready)
		k.number(min(a.streak, successes(r.site.Service(q.instance.Service), site.FromDependent)))
	}
}

// keyChores adds what is known of slots that are in the way, or were.
func (r *Run) keyChores(k *keyer) {
	k.number(len(r.chores))
	for _, slot := range slices.SortedFunc(maps.Keys(r.chores), func(a, b wire.Slot) int {
		return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Run, b.Run), cmp.Compare(a.Generation, b.Generation))
	}) {
		o := r.chores[slot]
		k.held(held{Slot: slot})
		k.flags(o.out, r.now-o.since >= courtesy)
	}
	k.number(len(r.silent))
	for _, host := range slices.Sorted(maps.Keys(r.silent)) {
		k.text(host)
		k.flags(r.now-r.silent[host] < courtesy)
	}
}

// keyer writes a key: every value in a way that tells where it ends.
type keyer []byte

func (k *keyer) number(n int) { *k = binary.AppendVarint(*k, int64(n)) }

func (k *keyer) text(s string) {
	k.number(len(s))
	*k = append(*k, s...)
}

func (k *keyer) flags(flags ...bool) {
	var bits byte
	for i, f := range flags {
		if f {
			bits |= 1 << i
		}
	}
	*k = append(*k, bits)
}

// until says whether there is such a time, and how far away it is.
func (k *keyer) until(now, at time.Duration) {
	k.flags(at != 0, at > now, at > now+stride)
}

func (k *keyer) question(q question) {
	k.text(q.at)
	k.text(q.instance.Service)
	k.text(q.instance.Host)
	k.flags(q.probe)
}

func (k *keyer) held(h held) {
	k.text(h.keeper)
	k.text(h.Member)
	k.text(h.Run)
	*k = binary.AppendUvarint(*k, h.Generation)
}

// claim adds how far a step has come with its slot, and whether it can tell that
// no request is on its way with it.
func (k *keyer) claim(s *step) {
	c := s.claim
	*k = binary.AppendUvarint(*k, c.generation)
	k.flags(c.asking, c.loose, s.latest != nil && s.latest.Generation != c.generation)
	k.number(c.next)
	for _, some := range [][]string{c.granted, c.unsure} {
		k.number(len(some))
		for _, keeper := range some {
			k.text(keeper)
		}
	}
	k.flags(c.busy)
	k.number(len(c.taken))
	for _, slot := range c.taken {
		k.held(held{Slot: slot})
	}
	if c.asking {
		*k = append(*k, c.request.Format()...)
	}
}

func (k *keyer) read(a *read) {
	k.text(string(a.code))
	k.flags(a.final)
	k.observation(a.obs)
}

func (k *keyer) observation(o plan.Observation) {
	k.flags(o.Err != "", o.Status != nil)
	if s := o.Status; s != nil {
		k.text(string(s.State))
		k.text(s.Token)
		k.text(s.Life)
		k.text(string(s.Wanted))
		k.flags(s.Settled, s.Ready, s.Intent, s.OnHold > 0, s.OnHold > stride)
		*k = binary.AppendUvarint(*k, s.Generation)
		k.vector(s.Basis)
	}
}

func (k *keyer) vector(v wire.Vector) {
	k.number(len(v))
	for _, e := range v {
		k.text(e.Instance)
		k.text(e.Token)
	}
}
