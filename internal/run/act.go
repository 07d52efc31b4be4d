package run

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"kido/internal/rule"
	"kido/internal/site"
	"kido/internal/wire"
)

func (r *Run) act(s *step, c choice) {
	switch {
	case c.end != "":
		r.end(s, c.end, c.word, c.hint)
	case c.retry:
		r.retry(s, failure{word: c.word, hint: c.hint, silent: c.silent})
	case c.wait == PhaseOnHold:
		r.onHold(s, c.word, c.every)
	case c.wait != "":
		r.wait(s, c.wait, c.word, c.every)
	case s.changes >= maxChanges && r.opts.KeepTrying:
		s.changes = 0
		s.attempt = max(s.attempt, s.svc.Retry.Attempts) // a long pause
		r.retry(s, failure{word: c.word, acted: true})
	case s.changes >= maxChanges:
		r.end(s, PhaseFailed, fmt.Sprintf("it was seen to %d times and is not as it should be: %s", s.changes, c.word),
			"see whether an upstream restarts again and again; then: kido up "+s.Name)
	case !r.takeSlot(s, *c.request):
		r.enter(s, PhaseSlot, fmt.Sprintf("at most %d of %s at once", s.svc.MaxUnavailable, s.svc.Name), false)
	case r.claimed(s, c):
		r.send(s, *c.request, c.word)
	}
}

// send asks for a change, once that is on record.
func (r *Run) send(s *step, q wire.Request, word string) {
	s.phase, s.word = PhaseActing, word
	ev := s.event()
	ev.Verb, ev.Own, ev.Owes, ev.Attempt = string(q.Verb), s.own, slices.Clone(s.owes), s.attempt+1
	ev.New = q.New
	if s.running() {
		ev.Reaction = q.Reaction
	}
	r.publish(ev, true)
	r.call(call{kind: callAct, step: s.ID}, s.Instance.Host, q)
}

// running reports whether the instance may have been up when it was looked at.
func (s *step) running() bool {
	st := s.self.obs.Status
	return st == nil || st.State == wire.StateUp || st.State == wire.StateBlind
}

// takeSlot counts what makes an instance unavailable; a start does not, and a
// reload keeps it answering.
func (r *Run) takeSlot(s *step, q wire.Request) bool {
	takes := q.Verb == wire.VerbRestart || q.Verb == wire.VerbEnsure && q.Reaction != wire.ReactReload
	return s.slot || !takes || !s.running() || r.reserve(s)
}

func (r *Run) reserve(s *step) bool {
	p := r.pools[s.Instance.Service]
	if p.taken >= s.svc.MaxUnavailable && rule.Holds(rule.AtMostSoMany) {
		return false
	}
	p.taken++
	s.slot = true
	return true
}

// replied takes the reply to the request of a step.
func (r *Run) replied(s *step, in Answered) {
	s.answers = 0
	s.phase = PhaseLooking
	if code := in.Reply.Code; !in.Unsent && code != wire.CodeRefused && code != wire.CodeInvalid {
		s.sent = true
		if s.claim != nil && in.Reply.Code == "" {
			s.claim.loose = true
		}
	}
	if code := in.Reply.Code; code != wire.CodeBusy && !in.Unsent {
		// It may have been at work until now: readiness is waited for from here.
		s.pause = 0
		r.bePatient(s, s.svc.Timeout.Ready)
	}
	s.heard(in.Reply.Status)
	switch in.Reply.Code {
	case wire.CodeDone:
		if !s.acted { // it works: but what dies again and again runs out of attempts
			s.attempt = 0
		}
		s.acted, s.before, s.died, s.losses, s.spared = true, false, false, 0, ""
		s.changes++
		s.phase, s.word = PhaseSettling, in.Reply.Word
		ev := s.event()
		ev.Acted, ev.Code = true, wire.CodeDone
		r.publish(ev, true)
		if !rule.Holds(rule.LookAgain) {
			r.end(s, PhaseDone, "", "")
		}
	case wire.CodeAlready, wire.CodeWaived, wire.CodeStale: // the next look tells what is so now
		if s.spared = ""; in.Reply.Code == wire.CodeAlready {
			s.spared = in.Reply.Word
		}
		if s.losses++; s.losses > maxLosses {
			s.losses = 0
			r.retry(s, failure{word: in.Reply.Word, acted: true, code: in.Reply.Code})
		}
	case wire.CodeBusy:
		r.wait(s, PhaseBlocked, in.Reply.Word, 0)
	case wire.CodeOnHold:
		left := holdPause
		if st := in.Reply.Status; st != nil && st.OnHold > 0 {
			left = st.OnHold
		}
		r.onHold(s, in.Reply.Word, left)
	case wire.CodeRefused:
		r.end(s, PhaseRefused, in.Reply.Word, "grant it in the policy of "+s.Instance.Host)
	case wire.CodeInvalid:
		r.end(s, PhaseFailed, in.Reply.Word, fmt.Sprintf("is kido-gate at %s as new as this kido? kido enroll %[1]s brings it", s.Instance.Host))
	case wire.CodeUnknown:
		r.end(s, PhaseFailed, in.Reply.Word, in.Hint)
	default: // failed, error, or no reply at all
		word := in.Err
		if word == "" {
			word = in.Reply.Word
			if in.Reply.Output != "" {
				word += "; it said: " + lastLine(in.Reply.Output)
			}
		}
		if in.Unsent {
			r.giveSlot(s)
		}
		if in.Final {
			r.end(s, PhaseFailed, word, in.Hint)
			return
		}
		r.retry(s, failure{word: word, hint: in.Hint, acted: true, silent: in.Reply.Code == "", code: in.Reply.Code})
	}
}

// wait looks again after a pause, until the deadline.
func (r *Run) wait(s *step, phase Phase, word string, every time.Duration) {
	if r.now >= s.deadline {
		r.retry(s, failure{word: fmt.Sprintf("not ready in %s: %s", s.patience, word)})
		return
	}
	if !s.sent {
		r.giveSlot(s) // it is as it was
	}
	s.pause = min(max(2*s.pause, firstPause), interval(s.svc))
	if every > 0 {
		s.pause = every
	}
	// A little more, by chance: the runs of a thousand hosts do not ask in step.
	s.wake = r.now + s.pause + time.Duration(rand.New(&r.rng).Int64N(int64(s.pause/5)+1))
	// What it was waiting for is asked later: once is enough for that.
	first := phase == PhaseBlocked && !s.told
	s.told = s.told || first
	r.enter(s, phase, word, first)
}

// holdPause is how often an instance on hold is looked at: a person may have
// released it.
const holdPause = 15 * time.Second

// onHold waits until the budget of an instance has room again; where nobody is
// going to wait, its debt stays.
func (r *Run) onHold(s *step, word string, left time.Duration) {
	if !r.opts.KeepTrying {
		r.end(s, PhaseFailed, "on hold: "+word, "calm its upstreams, then: kido release "+s.Name)
		return
	}
	if !s.acted {
		r.giveSlot(s)
	}
	r.bePatient(s, s.svc.Timeout.Ready)
	s.wake = r.now + min(left, holdPause)
	if s.phase == PhaseOnHold {
		return
	}
	s.phase, s.word = PhaseOnHold, word
	ev := s.event()
	ev.Owes, ev.Hint, ev.Code = slices.Clone(s.owes), "it goes on by itself when all is calm, or by: kido release "+s.Name, wire.CodeOnHold
	r.effects = append(r.effects, Publish{Event: Event{Run: r.id, Step: &ev}, Durable: true, After: left})
}

// failure is why an attempt came to nothing.
type failure struct {
	word, hint string
	acted      bool // a request was sent
	silent     bool // the host did not answer
	code       wire.Code
}

// retry uses up an attempt: the next one comes after a jittered delay that
// doubles, unless there is none.
func (r *Run) retry(s *step, f failure) {
	s.attempt++
	late := r.now >= s.deadline && !f.acted
	if (s.attempt >= s.svc.Retry.Attempts || late) && !r.opts.KeepTrying {
		s.away = f.silent && !s.sent
		r.end(s, PhaseFailed, f.word, f.hint)
		return
	}
	if !s.sent {
		r.giveSlot(s)
	}
	delay := s.svc.Retry.Delay
	for n := 1; n < s.attempt && delay < s.svc.Retry.Max; n++ {
		delay *= 2
	}
	delay = min(delay, s.svc.Retry.Max)
	if w := s.svc.Wait; f.silent && r.opts.KeepTrying && !w.Off {
		// Once the host is back, its service's own start is held only so long for
		// a run to tell it of new incarnations.
		delay = min(delay, max(w.Grace/3, minKnock))
	}
	delay = delay/2 + time.Duration(rand.New(&r.rng).Int64N(int64(delay/2)+1))
	s.wake = r.now + delay
	if late {
		s.deadline = s.wake + s.patience
	}
	s.phase, s.word = PhaseRetry, f.word
	ev := s.event()
	ev.Attempt, ev.Owes, ev.Hint, ev.Code, ev.Silent = s.attempt, slices.Clone(s.owes), f.hint, f.code, f.silent
	// A host may be away for weeks, and the journal is not to grow with every try.
	doubled := s.attempt&(s.attempt-1) == 0
	news := f.acted || doubled || s.lamented != f.word
	s.lamented = f.word
	r.effects = append(r.effects, Publish{Event: Event{Run: r.id, Step: &ev}, Durable: news, After: delay})
}

func (r *Run) giveSlot(s *step) {
	if s.slot {
		r.pools[s.Instance.Service].taken--
		s.slot = false
	}
	r.giveClaim(s)
}

func (r *Run) end(s *step, phase Phase, word, hint string) {
	p := r.pools[s.Instance.Service]
	if phase == PhaseFailed {
		r.failures++
	}
	switch {
	case phase.Well() || !s.sent:
		r.giveSlot(s)
	case phase == PhaseFailed:
		p.failed++
	}
	if s.slot { // it may be down by our hand, so it keeps its slot
		p.lost++
	}
	s.phase, s.word, s.wake = phase, word, 0
	ev := s.event()
	ev.Hint = hint
	if phase == PhaseAlready && word != "" && word == s.spared {
		ev.Code = wire.CodeAlready
	}
	if !phase.Well() || len(s.owes) > 0 && phase != PhaseWaived {
		ev.Owes = slices.Clone(s.owes)
	}
	r.publish(ev, true)
}

// enter puts a step into a phase; what has not changed is not said again.
func (r *Run) enter(s *step, phase Phase, word string, durable bool) {
	same := s.phase == phase && s.word == word
	s.phase, s.word = phase, word
	if !same || durable {
		ev := s.event()
		if (phase == PhaseBlocked || phase == PhaseSettling) && s.deadline > r.now {
			ev.Limit, ev.Waited = s.patience.Milliseconds(), (s.patience - s.deadline + r.now).Milliseconds()
		}
		r.publish(ev, durable)
	}
}

func (s *step) event() StepEvent {
	ev := StepEvent{ID: s.ID, Instance: s.Name, Phase: s.phase, Word: s.word, Slot: s.slot}
	if st := s.latest; st != nil {
		ev.Token, ev.Basis = cmp.Or(st.Incarnation(), st.Token), st.Basis
		if st.Ready && st.Degraded && (s.phase == PhaseDone || s.phase == PhaseAlready) {
			ev.Degraded = st.Word
		}
	}
	if s.slot && s.claim != nil {
		ev.Generation = s.claim.generation
	}
	return ev
}

// heard takes what a gate said of the instance itself.
func (s *step) heard(st *wire.Status) {
	if st != nil && st.Instance == s.Name {
		s.latest = st
	}
}

func (r *Run) publish(e StepEvent, durable bool) {
	r.effects = append(r.effects, Publish{Event: Event{Run: r.id, Step: &e}, Durable: durable})
}

func interval(v *site.Service) time.Duration {
	d := time.Second
	for i, p := range v.Ready {
		if i == 0 || p.Interval < d {
			d = p.Interval
		}
	}
	return d
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
