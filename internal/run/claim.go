package run

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"kido/internal/plan"
	"kido/internal/rule"
	"kido/internal/site"
	"kido/internal/wire"
)

const (
	// courtesy is how long a run leaves another one's slot alone that has not
	// been used yet. To take it away sooner would be as safe, and rude.
	courtesy = 30 * time.Second
	// slotPause is the time between two tries to get a slot that another run has,
	// and up to half as long again: of several that wait each may get one keeper.
	slotPause = time.Second
	// gives is how often a slot is given back to a keeper that does not answer.
	gives = 3
)

// claim is a step's hold on a slot of its pool against all other runs. Each
// keeper gives one for a generation of the instance's record: a request that
// expects that generation can pass at most once, and not at all once another run
// has fenced it. So a slot needs no time-out, and no clock.
type claim struct {
	generation uint64
	asking     bool // a keeper is being asked; the ones before it have been
	next       int  // the keeper to be asked
	granted    []string
	unsure     []string    // keepers whose answer was lost: they may have given one
	busy       bool        // a keeper had none to give
	taken      []wire.Slot // those of others there
	refused    string      // why one of the keepers could not be counted on; "" for none
	loose      bool        // a request that was sent with it may be on its way yet
	request    wire.Request
	word       string
}

// held is a slot at one of its keepers.
type held struct {
	service, keeper string
	wire.Slot
}

// chore is what a run does about a slot that is in its way.
type chore struct {
	since time.Duration // when it was first met
	out   bool          // its member is being asked
	word  string        // how it stands
}

// claimed reports whether a step that has a slot of its own run may send its
// request: no other run must have all slots. Otherwise it begins to ask for one.
func (r *Run) claimed(s *step, c choice) bool {
	if !s.slot || len(s.svc.Keepers()) == 0 {
		return true
	}
	old := s.claim
	s.claim = &claim{generation: s.self.obs.Status.Generation, asking: true, request: *c.request, word: c.word}
	s.claim.request.Generation = s.claim.generation
	if s.claim.generation == 0 && c.request.Verb == wire.VerbEnsure {
		// Nothing is on record yet, and to an ENSURE 0 is any generation: a fence
		// puts one there that it can expect.
		r.call(call{kind: callFence, step: s.ID}, s.Instance.Host, wire.Request{Verb: wire.VerbFence, Service: s.svc.Name, Run: r.id})
		return false
	}
	if old != nil {
		s.claim.granted, s.claim.unsure = old.granted, old.unsure
		s.claim.loose = old.loose && old.generation == s.claim.generation
	}
	s.phase = PhaseLooking
	r.takeNext(s)
	return false
}

// takeNext asks the next keeper, or sends the request that the slot is for.
func (r *Run) takeNext(s *step) {
	c := s.claim
	all := s.svc.Keepers()
	for ; c.next < len(all); c.next++ {
		if at, silent := r.silent[all[c.next]]; silent && r.now-at < courtesy {
			c.refused = all[c.next] + " did not answer a moment ago" // and each try costs the time of a connection
			continue
		}
		r.call(call{kind: callTake, step: s.ID, slot: r.slotOf(s, all[c.next])}, all[c.next], wire.Request{
			Verb: wire.VerbTake, Service: s.svc.Name, Run: r.id,
			Member: s.Name, Generation: c.generation, Most: uint64(s.svc.MaxUnavailable),
		})
		return
	}
	c.asking = false
	most := len(all)/2 + 1
	if len(c.granted) < most && c.busy {
		r.wait(s, PhaseBlocked, r.tend(s, c.taken), slotPause+time.Duration(rand.New(&r.rng).Int64N(int64(slotPause/2))))
		return
	}
	if len(c.granted) < most {
		// Most of the keepers cannot be asked. To wait for them would leave a pool
		// on dead connections because other machines are off.
		c.word = fmt.Sprintf("the slots of %s are counted within reach only: %s", s.svc.Name, c.refused)
	}
	r.send(s, c.request, c.word)
}

func (r *Run) slotOf(s *step, keeper string) held {
	return held{s.svc.Name, keeper, wire.Slot{Member: s.Name, Run: r.id, Generation: s.claim.generation}}
}

// taken takes a keeper's reply.
func (r *Run) taken(c call, in Answered) {
	s := r.steps[c.step]
	got := in.Reply.Code == wire.CodeDone || in.Reply.Code == wire.CodeAlready
	if s.claim == nil || !s.claim.asking || s.claim.generation != c.slot.Generation {
		if got || in.Err != "" && !in.Unsent { // the step has ended meanwhile
			r.give(c.slot)
		}
		return
	}
	switch {
	case got:
		if !slices.Contains(s.claim.granted, c.slot.keeper) {
			s.claim.granted = append(s.claim.granted, c.slot.keeper)
		}
	case in.Reply.Code == wire.CodeBusy:
		s.claim.granted = slices.DeleteFunc(s.claim.granted, func(k string) bool { return k == c.slot.keeper })
		s.claim.busy, s.claim.taken = true, in.Reply.Slots
		r.tend(s, in.Reply.Slots) // what is over is freed, also where the others are enough
	case in.Err != "":
		s.claim.refused = in.Err
		r.silent[c.slot.keeper] = r.now
		if !in.Unsent {
			s.claim.unsure = append(s.claim.unsure, c.slot.keeper)
		}
	default:
		s.claim.refused = fmt.Sprintf("%s: %s", c.slot.keeper, in.Reply.Word)
	}
	s.claim.next++
	r.takeNext(s)
}

// tend sees to the slots that others have at a keeper: who has died is not going to
// give them back. It says how they stand.
func (r *Run) tend(s *step, taken []wire.Slot) string {
	word := fmt.Sprintf("at most %d of %s at once", s.svc.MaxUnavailable, s.svc.Name)
	for _, slot := range taken {
		o := r.chores[slot]
		if o == nil {
			o = &chore{since: r.now, word: fmt.Sprintf("%s is being seen to by run %s", slot.Member, slot.Run)}
			r.chores[slot] = o
			r.bePatient(s, s.svc.Timeout.Ready) // the pool gets on
		}
		member, ok := r.member(s.svc, slot.Member)
		if !ok {
			o.word = fmt.Sprintf("%s, which is not in this site file, has a slot of run %s; `kido release --slot %[1]s` frees it", slot.Member, slot.Run)
		}
		word = fmt.Sprintf("at most %d of %s at once: %s", s.svc.MaxUnavailable, s.svc.Name, o.word)
		if ok && !o.out && !r.uses(slot) {
			o.out = true
			r.call(call{kind: callLook, step: -1, slot: held{service: s.svc.Name, Slot: slot}}, member.Host, wire.Request{Verb: wire.VerbStatus, Service: member.Service, Run: r.id})
		}
	}
	return word
}

// uses reports whether a slot is this run's own, and needed: one from before it
// was cut off is not.
func (r *Run) uses(slot wire.Slot) bool {
	return slot.Run == r.id && slices.ContainsFunc(r.steps, func(s *step) bool { return s.Name == slot.Member && s.claim != nil })
}

func (r *Run) member(v *site.Service, name string) (site.Instance, bool) {
	for _, i := range v.Instances() {
		if i.String() == name {
			return i, true
		}
	}
	return site.Instance{}, false
}

// looked takes the status of an instance that has a slot in the way.
func (r *Run) looked(c call, in Answered) {
	o := r.chores[c.slot.Slot]
	o.out = false
	st := in.Reply.Status
	switch {
	case in.Reply.Code == wire.CodeBusy:
		o.word = fmt.Sprintf("%s is being seen to by run %s", c.slot.Member, c.slot.Run)
	case st == nil || st.Instance != c.slot.Member:
		o.word = fmt.Sprintf("%s may be down by the hand of run %s, and does not answer; `kido release --slot %[1]s` frees its slot", c.slot.Member, c.slot.Run)
	case st.Generation != c.slot.Generation && (st.Ready || plan.OnPurpose(st)) && !st.Intent:
		// Nothing can pass with it any more, and what has is over.
		r.giveAll(c.slot)
	case st.Generation == c.slot.Generation && r.now-o.since >= courtesy && !rule.Holds(rule.Fence):
		r.giveAll(c.slot)
	case st.Generation == c.slot.Generation && r.now-o.since >= courtesy:
		host := st.Instance[len(c.slot.service)+1:]
		r.call(call{kind: callFence, step: -1, slot: c.slot}, host, wire.Request{
			Verb: wire.VerbFence, Service: c.slot.service, Run: r.id, Generation: c.slot.Generation,
		})
	case st.Generation != c.slot.Generation:
		o.word = fmt.Sprintf("%s is not ready yet, after run %s", c.slot.Member, c.slot.Run)
	}
}

// fenced goes on after a fence of the step's own instance; one of another's is
// seen by the next look.
func (r *Run) fenced(c call, in Answered) {
	if c.step < 0 {
		switch in.Reply.Code {
		case wire.CodeUnknown, wire.CodeRefused, wire.CodeInvalid:
			if r.chores[c.slot.Slot] == nil {
				return // it was freed meanwhile
			}
			r.chores[c.slot.Slot].word = fmt.Sprintf("%s has a slot of run %s, which cannot be taken away (%s); `kido release --slot %[1]s` frees it", c.slot.Member, c.slot.Run, in.Reply.Word)
		}
		return
	}
	s := r.steps[c.step]
	if s.claim == nil || !s.claim.asking {
		return
	}
	request := s.claim.request
	s.claim = nil
	switch in.Reply.Code {
	case wire.CodeDone, wire.CodeAlready:
		s.phase = PhaseLooking
		return
	case wire.CodeRefused, wire.CodeInvalid:
		// Its gate or policy is older than slots: as where keepers cannot be asked.
		r.send(s, request, fmt.Sprintf("the slots of %s are counted within reach only: %s", s.svc.Name, in.Reply.Word))
		return
	case wire.CodeBusy:
		r.wait(s, PhaseBlocked, in.Reply.Word, 0)
		return
	}
	word := in.Err
	if word == "" {
		word = in.Reply.Word
	}
	r.retry(s, failure{word: word, hint: in.Hint, silent: in.Reply.Code == "", code: in.Reply.Code})
}

// giveAll frees a slot wherever it may be.
func (r *Run) giveAll(h held) {
	delete(r.chores, h.Slot)
	for _, keeper := range r.site.Service(h.service).Keepers() {
		h.keeper = keeper
		r.give(h)
	}
}

// give frees a slot at a keeper.
func (r *Run) give(h held) {
	r.call(call{kind: callGive, step: -1, slot: h}, h.keeper, r.giving(h))
}

func (*Run) giving(h held) wire.Request {
	return wire.Request{Verb: wire.VerbGive, Service: h.service, Run: h.Run, Member: h.Member, Generation: h.Generation}
}

// given tries again where a keeper has not answered: a slot that stays is cleared up
// by the next run that needs it, but only if its member answers then.
func (r *Run) given(c call, in Answered) {
	if in.Err == "" || in.Final || c.try+1 >= gives || c.slot.Run != r.id {
		return
	}
	c.try++
	r.call(c, c.slot.keeper, r.giving(c.slot))
}

// giveClaim frees the slot of a step at all its keepers; not as long as a request
// may come to the instance with it: who needs the slot then fences it.
func (r *Run) giveClaim(s *step) {
	c := s.claim
	s.claim = nil
	if c == nil || c.loose && (s.latest == nil || s.latest.Generation == c.generation) {
		return
	}
	for _, keeper := range slices.Concat(c.granted, c.unsure) {
		r.give(held{s.svc.Name, keeper, wire.Slot{Member: s.Name, Run: r.id, Generation: c.generation}})
	}
}
