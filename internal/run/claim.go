package run

import (
	"fmt"
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
	// slotPause is the time between two tries to get a slot that another run has.
	slotPause = time.Second
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
	refused    string // why one of the keepers could not be counted on; "" for none
	loose      bool   // a request that was sent with it may be on its way yet
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
		s.claim.granted, s.claim.loose = old.granted, old.loose && old.generation == s.claim.generation
	}
	s.phase = PhaseLooking
	r.takeNext(s)
	return false
}

// takeNext asks the next keeper, or sends the request that the slot is for.
func (r *Run) takeNext(s *step) {
	c := s.claim
	all := s.svc.Keepers()
	if c.next < len(all) {
		r.call(call{kind: callTake, step: s.ID, slot: r.slotOf(s, all[c.next])}, all[c.next], wire.Request{
			Verb: wire.VerbTake, Service: s.svc.Name, Run: r.id,
			Member: s.Name, Generation: c.generation, Most: uint64(s.svc.MaxUnavailable),
		})
		return
	}
	c.asking = false
	if most := len(all)/2 + 1; len(c.granted) < most {
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
		if got { // the step has ended meanwhile
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
		s.claim.asking = false
		r.crowded(s, c.slot, in.Reply)
		return
	case in.Err != "":
		s.claim.refused = in.Err
	default:
		s.claim.refused = fmt.Sprintf("%s: %s", c.slot.keeper, in.Reply.Word)
	}
	s.claim.next++
	r.takeNext(s)
}

// crowded waits for others to be done, and sees to those who are not going to say
// so themselves.
func (r *Run) crowded(s *step, at held, reply wire.Reply) {
	word := reply.Word
	for _, slot := range reply.Slots {
		h := held{at.service, at.keeper, slot}
		o := r.chores[h]
		if o == nil {
			o = &chore{since: r.now, word: fmt.Sprintf("%s is being seen to by run %s", slot.Member, slot.Run)}
			r.chores[h] = o
			r.bePatient(s, s.svc.Timeout.Ready) // the pool gets on
		}
		word = fmt.Sprintf("at most %d of %s at once: %s", s.svc.MaxUnavailable, s.svc.Name, o.word)
		if member, ok := r.member(s.svc, slot.Member); ok && !o.out && !r.uses(slot) {
			o.out = true
			r.call(call{kind: callLook, step: -1, slot: h}, member.Host, wire.Request{Verb: wire.VerbStatus, Service: member.Service, Run: r.id})
		}
	}
	r.wait(s, PhaseBlocked, word, slotPause)
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
	o := r.chores[c.slot]
	o.out = false
	st := in.Reply.Status
	switch {
	case in.Reply.Code == wire.CodeBusy:
		o.word = fmt.Sprintf("%s is being seen to by run %s", c.slot.Member, c.slot.Run)
	case st == nil || st.Instance != c.slot.Member:
		o.word = fmt.Sprintf("%s may be down by the hand of run %s, and does not answer; `kido release %[1]s` frees its slot", c.slot.Member, c.slot.Run)
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
		if in.Reply.Code == wire.CodeUnknown {
			r.chores[c.slot].word = fmt.Sprintf("%s may be down by the hand of run %s, and its record is unknown; `kido release %[1]s` frees its slot", c.slot.Member, c.slot.Run)
		}
		return
	}
	s := r.steps[c.step]
	if s.claim == nil || !s.claim.asking {
		return
	}
	s.claim = nil
	if in.Reply.Code == wire.CodeDone || in.Reply.Code == wire.CodeAlready {
		s.phase = PhaseLooking
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
	for _, keeper := range r.site.Service(h.service).Keepers() {
		h.keeper = keeper
		r.give(h)
	}
}

// give frees a slot at a keeper.
func (r *Run) give(h held) {
	r.call(call{kind: callGive, step: -1, slot: h}, h.keeper, wire.Request{
		Verb: wire.VerbGive, Service: h.service, Run: h.Run, Member: h.Member, Generation: h.Generation,
	})
}

// giveClaim frees the slot of a step at all its keepers; not as long as a request
// may come to the instance with it: who needs the slot then fences it.
func (r *Run) giveClaim(s *step) {
	c := s.claim
	s.claim = nil
	if c == nil || c.loose && (s.latest == nil || s.latest.Generation == c.generation) {
		return
	}
	for _, keeper := range c.granted {
		r.give(held{s.svc.Name, keeper, wire.Slot{Member: s.Name, Run: r.id, Generation: c.generation}})
	}
}
