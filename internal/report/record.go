package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

// History is one run as its journal has it.
type History struct {
	ID     string
	Live   bool   // its runner is at work
	From   string // where its journal was carried from; "" for a run of this machine
	Events []run.Event
}

// record is what several runs did and saw, put in one order: that of the clocks
// of their runners, which is good enough for people.
type record struct {
	parts []*part // the oldest first
	facts []*fact // the oldest first
	acts  []*act  // the oldest first
}

// part is a run from where it was begun, or gone on with, to where it ended or
// was cut off.
type part struct {
	id      string
	from    string
	by      string // "alice@admin"; "somebody" where the journal does not say
	plan    *plan.Plan
	begun   time.Time
	resumed bool
	live    bool // its runner is at work on it now
	over    bool // it came to its end
	facts   []*fact
}

// fact is one event of a step.
type fact struct {
	run.StepEvent
	*part
	at   time.Time
	step plan.Step
}

// act is one request that changes something, and what came of it.
type act struct {
	*fact         // its acting event
	answer *fact  // the gate's word that it was done; nil where none is on record
	end    *fact  // the end of its step; nil where it has none, or more was done after
	has    string // the incarnation that it led to; "" where that is not known
	undone bool   // the gate did nothing
}

// newRecord reads the histories of runs. A journal that says of a step what its
// plan does not have is read as far as it makes sense.
func newRecord(runs []History) *record {
	r := &record{}
	for _, h := range runs {
		r.read(h)
	}
	slices.SortStableFunc(r.parts, func(a, b *part) int { return a.begun.Compare(b.begun) })
	slices.SortStableFunc(r.facts, func(a, b *fact) int { return a.at.Compare(b.at) })
	slices.SortStableFunc(r.acts, func(a, b *act) int { return a.at.Compare(b.at) })
	for _, a := range r.acts {
		r.resolve(a)
	}
	return r
}

func (r *record) read(h History) {
	var p *part
	var pl *plan.Plan
	open := map[int]*act{} // by step
	for _, e := range h.Events {
		switch {
		case e.Begin != nil:
			if e.Begin.Plan != nil {
				pl = e.Begin.Plan
			}
			if pl == nil {
				return
			}
			p = &part{id: h.ID, from: h.From, by: e.Begin.By, plan: pl, begun: e.Time, resumed: e.Begin.Resumed}
			if p.by == "" {
				p.by = "somebody"
			}
			r.parts = append(r.parts, p)
			clear(open)
		case p == nil:
			return
		case e.End != nil:
			p.over = true
		case e.Step != nil && e.Step.ID >= 0 && e.Step.ID < len(pl.Steps):
			f := &fact{StepEvent: *e.Step, at: e.Time, part: p, step: pl.Steps[e.Step.ID]}
			p.facts = append(p.facts, f)
			r.facts = append(r.facts, f)
			switch a := open[f.ID]; {
			case f.Phase == run.PhaseActing:
				open[f.ID] = &act{fact: f}
				r.acts = append(r.acts, open[f.ID])
			case a == nil:
			case f.Acted:
				a.answer = f
				if !same(f.Token, a.Token) { // else the answer did not say
					a.has = f.Token
				}
			case f.Phase.Final() && a.answer != nil:
				a.end = f
			case f.Phase == run.PhaseRefused, f.Phase == run.PhaseWaived, f.Code == wire.CodeAlready, f.Code == wire.CodeError, f.Code == wire.CodeInvalid, f.Code == wire.CodeUnknown:
				a.undone = true
			}
		}
	}
	if p != nil {
		p.live = h.Live && !p.over
	}
}

// resolve finds the incarnation that a request led to where no answer says: the
// next that is seen of the instance, where that was started against what the
// request asked for.
func (r *record) resolve(a *act) {
	if a.undone || !a.renews() {
		return
	}
	if a.has != "" { // as the answer named it; a later look may name it whole
		i := slices.IndexFunc(r.facts, func(f *fact) bool {
			return f.Instance == a.Instance && f.at.After(a.at) && len(f.Token) > len(a.has) && same(f.Token, a.has)
		})
		if i >= 0 {
			a.has = r.facts[i].Token
		}
		return
	}
	for _, f := range r.facts {
		if f.Instance == a.Instance && f.at.After(a.at) && f.Token != "" && !same(f.Token, a.Token) {
			if f.Basis.Equal(a.New) && r.cause(a.Instance, f.Token) == nil {
				a.has = f.Token
			}
			return
		}
	}
}

// see adds what was seen of an instance now to what the runs saw.
func (r *record) see(at time.Time, s *wire.Status) {
	now := &fact{
		StepEvent: run.StepEvent{Instance: s.Instance, Token: cmp.Or(s.Incarnation(), s.Token), Basis: s.Basis},
		at:        at, part: &part{},
	}
	r.facts = append(r.facts, now)
	for _, a := range r.acts {
		if a.Instance == s.Instance {
			r.resolve(a)
		}
	}
}

// of lists what was asked of an instance.
func (r *record) of(instance string) (all []*act) {
	for _, a := range r.acts {
		if a.Instance == instance {
			all = append(all, a)
		}
	}
	return all
}

// cause finds the request that an incarnation comes from, nil where no run on
// record made it.
func (r *record) cause(instance, token string) *act {
	for _, a := range slices.Backward(r.acts) {
		if token != "" && a.Instance == instance && same(a.has, token) && a.renews() {
			return a
		}
	}
	return nil
}

// sighting finds the first fact that speaks of an incarnation.
func (r *record) sighting(instance, token string) *fact {
	for _, f := range r.facts {
		asked, _ := f.New.Get(instance)
		against, _ := f.Basis.Get(instance)
		if f.Instance == instance && f.Token == token || asked == token || against == token {
			return f
		}
	}
	return nil
}

// lives lists the incarnations of an instance by the facts that saw each first:
// a run may speak again of an incarnation that is over.
func (r *record) lives(instance string) (all []*fact) {
	for _, f := range r.facts {
		if f.Instance != instance || f.Token == "" {
			continue
		}
		i := slices.IndexFunc(all, func(g *fact) bool { return same(g.Token, f.Token) })
		switch {
		case i < 0:
			all = append(all, f)
		case len(all[i].Token) < len(f.Token): // now it is known whole
			whole := *all[i]
			whole.Token = f.Token
			all[i] = &whole
		}
	}
	return all
}

// same reports whether two tokens are of one incarnation, as far as they tell: the
// answer to a request names what init calls it, a look its own word as well.
func same(a, b string) bool {
	if a == b {
		return true
	}
	unit := wire.Unit(a)
	return unit != "" && unit == wire.Unit(b) && (a == unit || b == unit)
}

// episode is what one part of a run has to do with one instance.
type episode struct {
	*part
	steps []plan.Step // at most a hold and another; none where the plan leaves it alone
	facts []*fact
	note  string // why the plan leaves it alone
}

// episodes are in the order in which their last words were said.
func (r *record) episodes(instance string) (all []*episode) {
	for _, p := range r.parts {
		e := &episode{part: p}
		for _, s := range p.plan.Steps {
			if s.Name == instance {
				e.steps = append(e.steps, s)
			}
		}
		for _, n := range p.plan.Alone {
			if n.Instance == instance {
				e.note = n.Reason
			}
		}
		for _, f := range p.facts {
			if f.Instance == instance {
				e.facts = append(e.facts, f)
			}
		}
		if e.note != "" || len(e.steps) > 0 {
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b *episode) int { return a.when().Compare(b.when()) })
	return all
}

// when is the time of the last that is on record of it.
func (e *episode) when() time.Time {
	if len(e.facts) == 0 {
		return e.begun
	}
	return e.facts[len(e.facts)-1].at
}

// step is the one that the others lead to.
func (e *episode) step() plan.Step { return e.steps[len(e.steps)-1] }

// last is the latest fact of its step, nil before the first.
func (e *episode) last() *fact {
	if n := len(e.facts) - 1; n >= 0 && e.facts[n].ID == e.step().ID {
		return e.facts[n]
	}
	return nil
}

// act is the last that was asked for in it, nil for nothing.
func (e *episode) act(r *record) *act {
	for _, a := range slices.Backward(r.acts) {
		if a.part == e.part && len(e.steps) > 0 && a.Instance == e.step().Name {
			return a
		}
	}
	return nil
}

// phase is where its step stands: waiting before the first fact, "" without one.
func (e *episode) phase() run.Phase {
	if len(e.steps) == 0 {
		return ""
	}
	if f := e.last(); f != nil {
		return f.Phase
	}
	return run.PhaseWaiting
}

// title names a run with what was typed, and by whom.
func (p *part) title() string { return fmt.Sprintf("run %s (%s by %s)", p.id, p.command(), p.by) }

// command is what was typed.
func (p *part) command() string {
	return strings.Join(append([]string{"kido", string(p.plan.Request.Verb)}, p.plan.Request.Targets...), " ")
}

// short is enough of a run's name to tell it from others on one page.
func (p *part) short() string { return p.id[strings.LastIndexByte(p.id, '-')+1:] }

// leads is the basis that a request leads to; empty where that is not on record.
func (a *act) leads() wire.Vector {
	if a.answer != nil && len(a.answer.Basis) > 0 {
		return a.answer.Basis
	}
	return a.New
}

// done reports whether it is known to have been done.
func (a *act) done() bool { return a.answer != nil || a.has != "" }

// renews reports whether it makes a new incarnation.
func (a *act) renews() bool { d := a.deed(); return d != "reload" && d != "stop" }

// deed names what was asked for.
func (f *fact) deed() string {
	switch v := wire.Verb(f.Verb); {
	case v != wire.VerbEnsure:
		return f.Verb
	case f.Reaction != "":
		return string(f.Reaction)
	}
	return string(wire.VerbStart) // it was not up
}

// unreached reports whether a step is not well because its host could not be
// asked; such an error names the host first.
func (f *fact) unreached() bool {
	_, host, _ := strings.Cut(f.Instance, "@")
	return (f.Phase == run.PhaseRetry || f.Phase == run.PhaseFailed) && f.Code == "" &&
		(strings.HasPrefix(f.Word, host+" (") || strings.HasPrefix(f.Word, host+": "))
}

// endedOnHold begins the runner's word for a step of a run that does not wait
// until a hold is over: there it ends as failed.
const endedOnHold = "on hold: "

// onHold reports whether its instance is on hold: its budget of reactions is spent.
func (f *fact) onHold() bool {
	return f.Phase == run.PhaseOnHold || f.Phase == run.PhaseFailed && strings.HasPrefix(f.Word, endedOnHold)
}

// held is the gate's or the runner's word for why it is on hold.
func (f *fact) held() string { return strings.TrimPrefix(f.Word, endedOnHold) }

// change is an upstream whose incarnation is not the one on record.
type change struct {
	Instance string `json:"instance"`
	Had      string `json:"had,omitempty"` // "": none on record
	Has      string `json:"has,omitempty"` // "": not on record
}

// changes lists the upstreams that a request follows.
func (f *fact) changes() (all []change) {
	if wire.Verb(f.Verb) != wire.VerbEnsure {
		return nil
	}
	for _, u := range f.Owes {
		had, _ := f.Basis.Get(u)
		has, _ := f.New.Get(u)
		if had != has || has == "" { // of an earlier kido the journal has no tokens
			all = append(all, change{u, had, has})
		}
	}
	return all
}

// past is the form of a deed after "was".
func past(deed string) string {
	switch deed {
	case "stop":
		return "stopped"
	case "restart", "start", "reload":
		return deed + "ed"
	}
	return "acted on"
}
