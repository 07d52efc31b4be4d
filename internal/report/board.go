package report

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

// maxSaid is how many different lines are said of a step that only waits.
const maxSaid = 20

// board is a run as it stands, folded from its events.
type board struct {
	plan  *plan.Plan
	ascii bool
	steps []step // by ID
	width int    // of the longest name of an instance, in cells
	run   string
	begun time.Time // zero: no event yet
	last  time.Time // of the latest event
	// interrupted: nothing more is begun.
	interrupted bool
	ended       bool
	fresh       []line // not taken by news yet
}

// step is one step of the plan and the latest that is known of it.
type step struct {
	name          string // of its instance
	action        plan.Action
	reason        string          // why it is in the plan
	earlier       bool            // it was done in an earlier part of the run
	held          bool            // an earlier step stopped it, owing the start
	run.StepEvent                 // the latest; Phase is "" before the first
	reaction      wire.Reaction   // the latest that was asked for
	begun         time.Time       // zero: it waits for its turn
	due           time.Time       // of the next attempt, by this machine's clock
	heard         time.Time       // when the latest event arrived
	said          map[string]bool // since it last did something
}

// line is something said for good.
type line struct {
	text    string    // clean
	phase   run.Phase // of the step that ended with it; "" for none
	passing bool      // a step is on its way: a live view shows that itself
	trouble bool      // said even to those who want to be told only of trouble
}

// newBoard is the board of a run that executes p. Past holds the events of its
// earlier parts; where ascii, all that is said is ASCII.
func newBoard(p *plan.Plan, past []run.Event, ascii bool) *board {
	b := &board{plan: p, ascii: ascii, steps: make([]step, len(p.Steps))}
	held := map[string]bool{}
	for i, s := range p.Steps {
		b.steps[i] = step{name: s.Name, action: s.Action, reason: s.Reason, held: held[s.Name]}
		b.width = max(b.width, cells(clean(s.Name, ascii)))
		held[s.Name] = held[s.Name] || s.Action == plan.ActHold
	}
	for _, e := range past {
		s := b.step(e.Step)
		if s == nil {
			continue
		}
		s.earlier = e.Step.Phase == run.PhaseDone
		if e.Step.Phase.Well() && s.stops() {
			s.StepEvent = *e.Step // the run does not look at it again
		}
	}
	return b
}

func (s *step) stops() bool { return s.action == plan.ActStop || s.action == plan.ActHold }

func (b *board) step(e *run.StepEvent) *step {
	if e == nil || e.ID < 0 || e.ID >= len(b.steps) {
		return nil
	}
	return &b.steps[e.ID]
}

// news returns the lines since the last call.
func (b *board) news() []line {
	l := b.fresh
	b.fresh = nil
	return l
}

// say keeps a line until it is taken, which may be long: so it is cut here.
func (b *board) say(l line) {
	l.text = clean(l.text, b.ascii)
	b.fresh = append(b.fresh, l)
}

// apply folds in one event, which arrived at a time.
func (b *board) apply(e run.Event, at time.Time) {
	if b.begun.IsZero() {
		b.begun = at
	}
	b.run, b.last = e.Run, at
	switch {
	case e.Begin != nil && !e.Begin.Resumed:
		for _, n := range b.plan.Alone {
			b.say(line{text: n.Instance + ": left alone: " + n.Reason})
		}
	case e.Step != nil:
		if s := b.step(e.Step); s != nil {
			b.move(s, e, at)
		}
	case e.End != nil:
		b.sum(e.End)
	}
}

// close ends a board whose run did not come to its end.
func (b *board) close() {
	if !b.ended && !b.begun.IsZero() {
		b.sum(nil)
	}
}

func (b *board) move(s *step, e run.Event, at time.Time) {
	s.StepEvent, s.heard = *e.Step, at
	switch s.Phase {
	case run.PhaseWaiting, run.PhaseSlot:
		s.begun = time.Time{}
	default:
		if s.begun.IsZero() {
			s.begun = at
		}
	}
	switch s.Phase {
	case run.PhaseRetry, run.PhaseOnHold:
		s.due = at
		if s.Next != nil {
			s.due = at.Add(s.Next.Sub(e.Time))
		}
	case run.PhaseActing:
		s.reaction, s.earlier = s.Reaction, false
	case run.PhaseSettling:
		if s.Acted {
			s.said = nil // what comes now is another story
		}
	case run.PhaseLeft:
		b.interrupt()
		return
	}
	if s.Phase.Final() {
		b.say(line{text: s.name + ": " + s.words(at), phase: s.Phase})
	} else if s.news() {
		b.say(line{text: s.name + ": " + s.words(at), passing: true})
	}
}

// news reports whether the phase of a step is worth a line that was not said
// before. Numbers do not make a difference: they count, or name a port.
func (s *step) news() bool {
	key := string(s.Phase) + s.Verb + s.Word[:min(len(s.Word), maxLine)]
	switch s.Phase {
	case run.PhaseLooking, run.PhaseWaiting:
		return false
	case run.PhaseSettling:
		if s.Acted || s.Word == "" {
			return false
		}
	case run.PhaseRetry:
		// All of the first, then ever fewer: it may go on for days.
		if n := s.Attempt; n < 4 || n&(n-1) == 0 {
			return true
		}
	}
	key = strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, key)
	if s.said[key] || len(s.said) >= maxSaid {
		return false
	}
	if s.said == nil {
		s.said = map[string]bool{}
	}
	s.said[key] = true
	return true
}

// interrupt says once that the run goes to a safe point, and what that waits
// for. That a step is left is said at the end, for all of them together.
func (b *board) interrupt() {
	if b.interrupted {
		return
	}
	b.interrupted = true
	var acting []string
	for i := range b.steps {
		if b.steps[i].Phase == run.PhaseActing {
			acting = append(acting, b.steps[i].name)
		}
	}
	text := "interrupted: nothing more is begun"
	if len(acting) > 0 {
		text += "; waiting for " + list(acting)
	}
	b.say(line{text: text})
}

// sum says what came of the run; end is nil where it did not come to its end.
func (b *board) sum(end *run.EndEvent) {
	b.ended = true
	took := ""
	if !b.last.Equal(b.begun) {
		took = fmt.Sprintf(" (%s)", elapsed(b.last.Sub(b.begun)))
	}
	verdicts := b.verdicts()
	b.say(line{text: tally(verdicts) + took})
	b.troubles(verdicts)
	switch {
	case end == nil:
		b.say(line{text: "run " + b.run + ": cut off; kido resume goes on with it", trouble: true})
	case end.Outcome != run.OutcomeDone:
		text := "run " + b.run + ": " + string(end.Outcome)
		if end.Word != "" {
			text += ": " + end.Word
		}
		b.say(line{text: text + "; kido resume goes on with it", trouble: true})
	}
}

// verdicts is for each instance the step that tells how it ended: the first
// that did not end well, else the last.
func (b *board) verdicts() []*step {
	place := make(map[string]int, len(b.steps))
	all := make([]*step, 0, len(b.steps))
	for i := range b.steps {
		s := &b.steps[i]
		n, met := place[s.name]
		switch {
		case !met:
			place[s.name] = len(all)
			all = append(all, s)
		case all[n].Phase.Well() || !all[n].Phase.Final():
			all[n] = s
		}
	}
	return all
}

// The words of the tally, in the order in which they are said.
var results = []string{
	"done", "done earlier", "ready", "already fresh", "already down", "left alone",
	"failed", "refused", "skipped", "not finished",
}

func tally(verdicts []*step) string {
	count := map[string]int{}
	for _, s := range verdicts {
		count[s.result()]++
	}
	var parts []string
	for _, r := range results {
		if n := count[r]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, r))
		}
	}
	if len(parts) == 0 {
		return "nothing to do"
	}
	return strings.Join(parts, ", ")
}

func (s *step) result() string {
	switch s.Phase {
	case run.PhaseDone:
		if s.earlier {
			return "done earlier"
		}
		return "done"
	case run.PhaseAlready:
		switch {
		case s.stops():
			return "already down"
		case s.action == plan.ActWait:
			return "ready"
		}
		return "already fresh"
	case run.PhaseWaived:
		return "left alone"
	case run.PhaseFailed, run.PhaseRefused, run.PhaseSkipped:
		return string(s.Phase)
	}
	return "not finished"
}

// troubles says for each instance that is not well what is wrong and what to do
// about it. Those that were not touched and have one reason share a line.
func (b *board) troubles(verdicts []*step) {
	hints := map[string]bool{}
	together := map[string]int{} // what is said of several → their place in groups
	var groups [][]string
	var said []string
	for _, s := range verdicts {
		if !s.Phase.Final() || s.Phase.Well() {
			continue
		}
		if text, shared := s.trouble(); shared {
			n, met := together[text]
			if !met {
				n = len(groups)
				together[text] = n
				groups, said = append(groups, nil), append(said, text)
			}
			groups[n] = append(groups[n], s.name)
		} else {
			b.say(line{text: s.name + " " + text, trouble: true})
		}
		if s.Hint != "" && !hints[s.Hint] {
			hints[s.Hint] = true
			b.say(line{text: "hint: " + s.Hint, trouble: true})
		}
	}
	for n, names := range groups {
		verb := " was "
		if len(names) > 1 {
			verb = " were "
		}
		b.say(line{text: list(names) + verb + said[n], trouble: true})
	}
}
