package run

import (
	"fmt"
	"time"

	"kido/internal/plan"
	"kido/internal/rule"
	"kido/internal/site"
	"kido/internal/wire"
)

// runner is the place of probes that are asked where the run itself is.
const runner = ""

// question is what a read asks: the status of an instance, or what the host at, or
// the runner, sees when it probes the instance.
type question struct {
	at       string // host
	instance site.Instance
	probe    bool
}

// read is the latest answer to a question and whether it is being asked again.
type read struct {
	asked, answered int // seq; answered < asked while it is out
	obs             plan.Observation
	code            wire.Code
	hint            string
	final           bool // asking again is pointless
	streak          int  // ready answers in a row
	out             bool
	token           string        // the incarnation that was last seen
	since           time.Duration // since when
}

// call is a request that is out, and what its reply is for.
type call struct {
	kind callKind
	step int // -1 where it is for no one step
	ask  question
	slot held
	try  int // giving a slot back is tried again
}

type callKind int

const (
	callRead  callKind = iota // a survey
	callAct                   // the request of a step
	callTake                  // a slot, for a step
	callGive                  // a slot back: one's own, or one that is over
	callLook                  // a status: is another run's slot over?
	callFence                 // of another run's slot; or a step's instance has no record yet
)

// startSurvey begins to read the instance, then its ancestors level by level.
func (r *Run) startSurvey(s *step) {
	if s.levels == nil {
		s.levels = r.questions(s)
	}
	s.surveying, s.level, s.since = true, 0, r.seq
}

func (r *Run) questions(s *step) [][]question {
	status := func(i site.Instance) question { return question{at: i.Host, instance: i} }
	levels := [][]question{{status(s.Instance)}}
	switch s.Action {
	case plan.ActStop, plan.ActHold:
		return levels
	}
	var seen []question
	if s.svc.Asked(site.FromRunner) {
		seen = append(seen, question{at: runner, instance: s.Instance, probe: true})
	}
	if s.Action == plan.ActWait && len(seen) > 0 {
		levels = append(levels, seen)
	}
	if s.Action == plan.ActWait {
		return levels
	}
	for _, level := range r.topo.Ancestors(s.Instance) {
		var qs []question
		for _, i := range level {
			qs = append(qs, status(i))
		}
		levels = append(levels, qs)
	}
	if rivals := r.topo.Rivals(s.Instance); len(rivals) > 0 {
		var qs []question
		for _, i := range rivals {
			qs = append(qs, status(i))
		}
		levels = append(levels, qs)
	}
	for _, i := range r.topo.ProbedFrom(s.Instance, site.FromRunner) {
		seen = append(seen, question{at: runner, instance: i, probe: true})
	}
	if s.svc.Adapter.Kind != site.KindPlain { // nothing there can probe
		for _, i := range r.topo.ProbedFrom(s.Instance, site.FromDependent) {
			seen = append(seen, question{at: s.Instance.Host, instance: i, probe: true})
		}
	}
	if len(seen) > 0 {
		levels = append(levels, seen)
	}
	return levels
}

// survey asks what is still to be asked; it reports whether all is answered.
// Reads are shared between steps: a read counts for whoever needed it no later
// than it was asked.
func (r *Run) survey(s *step) bool {
	for ; s.level < len(s.levels); s.level++ {
		complete := true
		for _, q := range s.levels[s.level] {
			complete = r.ask(q, s.since) && complete
		}
		if !complete {
			return false
		}
		if s.level == 0 {
			// The compare-and-set must use what was read before the upstreams.
			self := *r.reads[s.levels[0][0]]
			s.self = &self
			s.heard(self.obs.Status)
			if self.obs.Status == nil {
				return true // it says all there is to decide by; and its host, which may be off, is asked once
			}
		}
		s.since = r.seq
	}
	if !rule.Holds(rule.SelfFirst) {
		if !r.ask(s.levels[0][0], s.since) {
			return false
		}
		self := *r.reads[s.levels[0][0]]
		s.self = &self
	}
	return true
}

// ask reports whether q has an answer to a read asked at seq since or later,
// and asks otherwise, once at a time.
func (r *Run) ask(q question, since int) bool {
	a := r.reads[q]
	if a == nil {
		a = &read{}
		r.reads[q] = a
	}
	if !a.out && a.answered > 0 && a.asked >= since {
		return true
	}
	if !a.out {
		a.out, a.asked = true, r.seq
		request := wire.Request{Verb: wire.VerbStatus, Service: q.instance.Service, Run: r.id}
		if q.probe {
			request.Verb, request.Service = wire.VerbProbe, q.instance.String()
		}
		r.call(call{step: -1, ask: q}, q.at, request)
	}
	return false
}

func (r *Run) call(c call, host string, q wire.Request) {
	r.nextCall++
	r.calls[r.nextCall] = c
	r.effects = append(r.effects, Call{ID: r.nextCall, Host: host, Request: q})
}

func (r *Run) answered(in Answered) {
	c, ok := r.calls[in.ID]
	if !ok {
		return // late: its call was given up
	}
	delete(r.calls, in.ID)
	switch c.kind {
	case callRead:
		r.read(c, in)
	case callAct:
		r.replied(r.steps[c.step], in)
	case callTake:
		r.taken(c, in)
	case callLook:
		r.looked(c, in)
	case callFence:
		r.fenced(c, in)
	case callGive:
		r.given(c, in)
	}
}

// read takes the answer to a question.
func (r *Run) read(c call, in Answered) {
	a := r.reads[c.ask]
	a.out, a.answered = false, r.seq
	a.code, a.final, a.hint = in.Reply.Code, in.Final, in.Hint
	a.obs = plan.Observation{Status: in.Reply.Status, Err: in.Err}
	switch {
	case in.Err != "":
	case in.Reply.Code == wire.CodeRefused:
		a.obs, a.final = plan.Observation{Err: "refused: " + in.Reply.Word}, true
	case in.Reply.Code != wire.CodeOK || in.Reply.Status == nil:
		a.obs.Err = in.Reply.Word
		if a.obs.Err == "" {
			a.obs.Err = fmt.Sprintf("the gate at %s answered %s", c.ask.at, in.Reply.Code)
		}
	case !c.ask.probe && in.Reply.Status.Instance != c.ask.instance.String():
		a.obs = plan.Observation{Err: fmt.Sprintf("the gate at %s answered for %s", c.ask.at, wire.Quote(in.Reply.Status.Instance))}
		a.final = true
	}
	if st := a.obs.Status; st != nil && st.Incarnation() != a.token {
		a.token, a.since = st.Incarnation(), r.now
	}
	a.streak++
	if a.obs.Err != "" || !a.obs.Status.Ready {
		a.streak = 0
	}
}

func (r *Run) status(i site.Instance) plan.Observation {
	if a := r.reads[question{at: i.Host, instance: i}]; a != nil && a.answered > 0 {
		return a.obs
	}
	return plan.Observation{Err: "it was not looked at"}
}

// seenFrom says why the instance's own host finds an upstream not ready, "" where
// it does not or was not asked.
func (r *Run) seenFrom(s *step) func(site.Instance) string {
	return func(u site.Instance) string {
		if why := r.unseenFrom(runner, u); why != "" || s.svc.Adapter.Kind == site.KindPlain {
			return why // nothing at a plain target can probe for it; what others asked may be old
		}
		return r.unseenFrom(s.Instance.Host, u)
	}
}

// counting reports whether a place has found an instance ready, and not yet as many
// times in a row as it is to.
func (r *Run) counting(place string, i site.Instance) bool {
	from := site.FromDependent
	if place == runner {
		from = site.FromRunner
	}
	a := r.reads[question{at: place, instance: i, probe: true}]
	return a != nil && a.streak > 0 && a.streak < successes(r.site.Service(i.Service), from)
}

// unseenFrom says why a place finds an instance not ready, "" where it does not or
// was not asked.
func (r *Run) unseenFrom(place string, u site.Instance) string {
	a := r.reads[question{at: place, instance: u, probe: true}]
	if a == nil || a.answered == 0 {
		return ""
	}
	from, here := site.FromDependent, "as seen from "+place
	if place == runner {
		from, here = site.FromRunner, "as seen from the runner"
	}
	switch n := successes(r.site.Service(u.Service), from); {
	case a.obs.Err != "":
		return fmt.Sprintf("%s: %s", here, a.obs.Err)
	case !a.obs.Status.Ready:
		return fmt.Sprintf("%s: %s", here, a.obs.Status.Word)
	case a.streak < n:
		return fmt.Sprintf("%s: answered %d of %d times", here, a.streak, n)
	}
	return ""
}
