package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

// brief shortens a token to what a person can recognise: the pid of one that
// names a process, else its first digits. It goes further where it would read
// like the token beside it.
func brief(token, beside string) string {
	if token == "" {
		return "none"
	}
	short := func(t string) string {
		if p := strings.Split(t, ":"); len(p) == 3 {
			return "pid " + p[1]
		}
		return t[:min(len(t), 8)]
	}
	if unit, life, ok := strings.Cut(token, "+"); ok {
		if unit == wire.Unit(beside) && token != beside {
			return "life " + differing(life, beside) // of the same unit: only itself can tell
		}
		token, beside = unit, wire.Unit(beside)
	}
	text := short(token)
	if beside != token && text == short(beside) {
		return token
	}
	return text
}

// differing is what tells a life from another, where it has several parts.
func differing(life, beside string) string {
	_, other, _ := strings.Cut(beside, "+")
	others := strings.Split(other, "/")
	for i, p := range strings.Split(life, "/") {
		if len(others) <= i || p != others[i] {
			return p
		}
	}
	return life
}

// pick takes as evidence what a run said of the instance, and why it had to.
func (w *why) pick(e *episode) {
	w.begun = append(w.begun, e.part)
	for _, f := range e.facts {
		w.picked[f] = true
		for _, u := range f.Owes {
			w.pickIn(e.part, u)
		}
	}
	for _, a := range w.r.of(w.Instance) {
		if a.part == e.part {
			w.trace(a)
		}
	}
	// What stood before it in that run, as far as it did not end well.
	for _, s := range e.steps {
		for _, edge := range s.After {
			if edge.Step < 0 || edge.Step >= len(e.plan.Steps) {
				continue
			}
			for _, f := range e.part.facts {
				if f.ID == edge.Step && f.Phase.Final() && !f.Phase.Well() {
					w.pickStep(f)
				}
			}
		}
	}
}

// pickIn takes what was done to an instance in the run of a part, whichever part.
func (w *why) pickIn(p *part, instance string) {
	for _, a := range w.r.of(instance) {
		if a.id == p.id {
			w.pickAct(a)
		}
	}
}

// pickStep takes all that a run said of the step of a fact.
func (w *why) pickStep(f *fact) {
	for _, g := range f.part.facts {
		if g.ID == f.ID {
			w.picked[g] = true
		}
	}
}

// pickLast takes the last that was done to the instance.
func (w *why) pickLast() {
	if a := w.lastDone(); a != nil {
		w.pickAct(a)
	}
}

// lastDone is the last that was done to the instance, nil for nothing on record.
func (w *why) lastDone() *act {
	for _, a := range slices.Backward(w.r.of(w.Instance)) {
		if a.done() {
			return a
		}
	}
	return nil
}

// pickAct takes a request, what came of it, and what it was for.
func (w *why) pickAct(a *act) {
	if w.picked[a.fact] {
		return
	}
	w.picked[a.fact] = true
	for _, f := range []*fact{a.answer, a.end} {
		if f != nil {
			w.picked[f] = true
		}
	}
	w.trace(a)
}

// trace takes what a request was for.
func (w *why) trace(a *act) {
	for _, c := range a.changes() {
		if cause := w.r.cause(c.Instance, c.Has); cause != nil {
			w.pickAct(cause)
		} else if c.Has != "" {
			w.strange(c.Instance, c.Had, c.Has)
		}
	}
}

// strange is evidence for an incarnation that no run on record made.
func (w *why) strange(instance, had, has string) {
	if slices.ContainsFunc(w.more, func(e Evidence) bool { return e.Instance == instance && e.Token == has }) {
		return
	}
	what := "seen as " + brief(has, had)
	if had != "" {
		what += ", and it was " + brief(had, has)
	}
	what += ": a new incarnation, which no run on record made"
	e := Evidence{Time: w.q.Now, Instance: instance, What: what, Token: has}
	if f := w.r.sighting(instance, has); f != nil {
		e.Time, e.Run, e.part = f.at, f.id, f.part
	}
	w.more = append(w.more, e)
}

// evidence puts in order what was picked, or all that there is.
func (w *why) evidence() []Evidence {
	if w.q.All || !w.q.Since.IsZero() {
		for _, e := range w.episodes {
			w.pick(e)
		}
		had := ""
		for _, f := range w.r.lives(w.Instance) {
			if had != "" && w.r.cause(w.Instance, f.Token) == nil {
				w.strange(w.Instance, had, f.Token)
			}
			had = f.Token
		}
	}
	all := slices.Clone(w.more)
	steps := map[*part]map[int]bool{}
	for _, f := range w.r.facts {
		if !w.picked[f] || steps[f.part][f.ID] {
			continue
		}
		if steps[f.part] == nil {
			steps[f.part] = map[int]bool{}
		}
		steps[f.part][f.ID] = true
		all = append(all, w.fold(f)...)
	}
	told := map[*part]bool{}
	for _, p := range w.begun {
		told[p] = true
	}
	for _, e := range all {
		told[e.part] = true
	}
	for _, p := range w.r.parts {
		if told[p] {
			all = append(all, w.beginning(p))
		}
	}
	slices.SortStableFunc(all, func(a, b Evidence) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(min(len(a.Instance), 1), min(len(b.Instance), 1)))
	})
	if since := w.q.Since; !since.IsZero() {
		all = slices.DeleteFunc(all, func(e Evidence) bool {
			return e.Time.Before(since) && (e.Last == nil || e.Last.Before(since))
		})
	}
	if all == nil {
		all = []Evidence{}
	}
	return all
}

// beginning is the evidence for a run itself.
func (w *why) beginning(p *part) Evidence {
	e := Evidence{Time: p.begun, Run: p.id, By: p.by, Command: p.command(), From: p.from, part: p}
	e.What = fmt.Sprintf("run %s: %s, by %s", p.id, p.command(), p.by)
	if p.resumed {
		e.What = fmt.Sprintf("run %s is gone on with, by %s", p.id, p.by)
	}
	if p.from != "" {
		e.What += ", from " + p.from
	}
	for _, n := range p.plan.Alone {
		if n.Instance == w.Instance {
			e.What += "; it leaves " + w.Instance + " alone: " + n.Reason
		}
	}
	return e
}

// fold tells the picked facts of the step of f. Tries that came to the same are
// one line.
func (w *why) fold(f *fact) (all []Evidence) {
	var asked *fact // not told yet
	same := ""      // what the last line says, if that is of a try
	for _, g := range f.part.facts {
		if g.ID != f.ID || !w.picked[g] {
			continue
		}
		key := ""
		if g.Phase == run.PhaseRetry {
			key = signature(g.Word)
		}
		if g.Phase == run.PhaseActing && same != "" {
			asked = g
			continue
		}
		if key != "" && key == same {
			last := &all[len(all)-1]
			last.Tries, last.Last = max(g.Attempt, last.Tries+1), &g.at
			last.What = fmt.Sprintf("tried %d times, last %s: %s", last.Tries, w.clock(g.at), g.Word)
			w.due(last, g)
			asked = nil
			continue
		}
		if asked != nil {
			all = append(all, w.tell(asked))
			asked = nil
		}
		if last := len(all) - 1; g.Phase == run.PhaseFailed && same != "" && same == signature(g.Word) {
			all[last].Phase, all[last].Tries, all[last].Last = g.Phase, all[last].Tries+1, &g.at
			all[last].What = fmt.Sprintf("failed, after %d tries up to %s: %s", all[last].Tries, w.clock(g.at), g.Word)
			same = ""
			continue
		}
		all = append(all, w.tell(g))
		same = key
	}
	if asked != nil {
		all = append(all, w.tell(asked))
	}
	return all
}

// signature is what words have in common that differ only in numbers, which
// count, or name a port; it is never empty.
func signature(words string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, words) + "."
}

// due adds when a run tries again.
func (w *why) due(e *Evidence, f *fact) {
	if f.Next != nil && f.part.live && f.Next.After(w.q.Now) {
		e.What += "; next try" + w.at(*f.Next)
	}
}

// tell is the evidence for one fact.
func (w *why) tell(f *fact) Evidence {
	e := Evidence{Time: f.at, Run: f.id, Instance: f.Instance, Phase: f.Phase, Token: f.Token, part: f.part}
	if f.onHold() {
		e.What = because("put on hold", f.held())
		return e
	}
	switch f.Phase {
	case run.PhaseActing:
		e.Follows = f.changes()
		e.What = "told to " + f.deed()
		if wire.Verb(f.Verb) == wire.VerbEnsure && f.Reaction == "" {
			e.What = "told to become fresh" // it was not up: its gate knows whether on purpose
		}
		if f.step.Action == plan.ActHold {
			e.What += ", for a while"
		}
		var of []string
		for _, c := range e.Follows {
			switch {
			case c.Has == "":
				of = append(of, c.Instance+" has a new incarnation")
			case c.Had == "":
				of = append(of, fmt.Sprintf("%s is %s, and against which it was started is not on record", c.Instance, brief(c.Has, "")))
			default:
				of = append(of, fmt.Sprintf("%s is %s, and it was started against %s", c.Instance, brief(c.Has, c.Had), brief(c.Had, c.Has)))
			}
		}
		switch {
		case len(of) > 0:
			e.What += ": " + strings.Join(of, ", ")
		case f.Word != "":
			e.What += ": " + f.Word
		default:
			e.What += ": " + f.wish()
		}
	case run.PhaseSettling:
		e.What = "done"
		if a := w.asking(f); a != nil {
			e.What = past(a.deed())
			if a.renews() && f.Token != "" && a.Token != "" {
				e.What += fmt.Sprintf(": it was %s, and is %s", brief(a.Token, f.Token), brief(f.Token, a.Token))
			} else if a.renews() && f.Token != "" {
				e.What += ": it is " + brief(f.Token, "")
			}
		}
		e.What = because(e.What, f.Word)
	case run.PhaseRetry:
		e.Tries = f.Attempt
		e.What = fmt.Sprintf("try %d failed: %s", f.Attempt, f.Word)
		w.due(&e, f)
	case run.PhaseDone:
		e.What = "ready"
		if f.step.Action == plan.ActStop || f.step.Action == plan.ActHold {
			e.What = "down"
		}
		e.What = because(e.What, f.Word)
	case run.PhaseAlready:
		e.What = because("nothing to do", f.Word)
		if f.step.Action == plan.ActWait {
			e.What = "ready"
			if f.Token != "" {
				e.What += ", as " + brief(f.Token, "")
			}
		}
	case run.PhaseWaived:
		e.What = because("left alone", f.Word)
	case run.PhaseRefused:
		e.What = "refused: " + strings.TrimPrefix(f.Word, "refused: ")
	case run.PhaseSkipped:
		e.What = because("not begun", f.Word)
		if up := w.before(f); up != nil {
			e.What = fmt.Sprintf("not begun: %s is on hold", up.Instance)
		}
	case run.PhaseLeft:
		e.What = because("not finished", f.Word)
	default:
		e.What = because(string(f.Phase), f.Word)
	}
	return e
}

// asking finds the request that a fact is the answer to.
func (w *why) asking(f *fact) *act {
	for _, a := range w.r.of(f.Instance) {
		if a.answer == f {
			return a
		}
	}
	return nil
}
