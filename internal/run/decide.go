package run

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"kido/internal/plan"
	"kido/internal/rule"
	"kido/internal/site"
	"kido/internal/wire"
)

// choice is what comes of a survey: exactly one field is set.
type choice struct {
	end     Phase         // the step is over
	wait    Phase         // look again soon: blocked or settling
	every   time.Duration // waiting: look again just then; 0: sooner at first
	retry   bool          // the look itself failed: an attempt is used up
	silent  bool          // with retry: the host did not answer
	request *wire.Request // act
	word    string
	hint    string
}

// unseen decides where there is no status to decide by.
func (s *step) unseen() (c choice, yes bool) {
	word := s.self.obs.Err
	switch code := s.self.code; {
	case word == "":
		return choice{}, false
	case code == wire.CodeRefused:
		return choice{end: PhaseRefused, word: word, hint: "grant it in the policy of " + s.Instance.Host}, true
	case code == wire.CodeUnknown && s.Action == plan.ActRestart && s.self.obs.Status != nil:
		return choice{}, false // it mends what is unknown, and needs nothing of the old record
	case code == wire.CodeUnknown && s.Action == plan.ActHold:
		// It cannot be stopped first, which must not keep its upstream from what was
		// asked for: unknown itself, that could never be made known again.
		return choice{end: PhaseWaived, word: "it is not stopped first: " + word}, true
	case code == wire.CodeUnknown:
		return choice{end: PhaseFailed, word: word, hint: fmt.Sprintf("`kido restart %s` makes it known again, by a restart", s.Name)}, true
	case code == wire.CodeBusy:
		return choice{wait: PhaseBlocked, word: word}, true
	case s.self.final:
		return choice{end: PhaseFailed, word: word, hint: s.self.hint}, true
	}
	return choice{retry: true, silent: s.self.code == "", word: word, hint: s.self.hint}, true
}

// decide is what a step does after a survey.
func (r *Run) decide(s *step) choice {
	if c, yes := s.unseen(); yes {
		return c
	}
	st := *s.self.obs.Status
	switch s.Action {
	case plan.ActWait:
		if st.State == wire.StateDown {
			return choice{end: PhaseFailed, word: "it is down", hint: fmt.Sprintf("start it first, or: kido up %s", s.Instance.Service)}
		}
		return r.ready(s, st)
	case plan.ActStop, plan.ActHold:
		return r.decideStop(s, st)
	}
	if st.State == wire.StateFailed && s.acted && !s.died {
		s.died = true
		return choice{retry: true, word: "it died: " + st.Word}
	}
	return r.rivalry(s, r.decideUp(s, st))
}

// decideUp is for the steps that leave an instance up.
func (r *Run) decideUp(s *step, st wire.Status) choice {
	need := r.topo.Need(s.Instance, r.statusFor(s), r.seenFrom(s))
	s.owes = s.owes[:0]
	for _, d := range need.Debts {
		s.owes = append(s.owes, d.Upstream)
	}
	for _, b := range need.Passed {
		s.owes = append(s.owes, b.Upstream)
	}
	request := wire.Request{
		Service: s.Instance.Service, Run: r.id, Timeout: s.svc.Timeout.Start,
		Generation: st.Generation, New: need.New,
	}
	switch s.Action {
	case plan.ActReload:
		if s.acted {
			return r.ready(s, st)
		}
		request.Verb = wire.VerbReload
		if len(need.Blocked) > 0 || need.Reaction != wire.ReactReload {
			request.New = st.Basis // it pays no debt
		}
		return choice{request: &request}
	case plan.ActRestart:
		if s.own == nil {
			own := st.Token
			s.own = &own
		}
		over := st.State == wire.StateUp && st.Token != *s.own || st.State == wire.StateBlind && s.acted
		if !over {
			if len(need.Blocked) > 0 {
				return r.blocked(s, need.Blocked)
			}
			request.Verb, request.Own = wire.VerbRestart, *s.own
			return choice{request: &request}
		}
	case plan.ActStart:
		if !s.running() {
			if len(need.Blocked) > 0 {
				return r.blocked(s, need.Blocked)
			}
			request.Verb = wire.VerbStart
			return choice{request: &request}
		}
	}
	return r.fresh(s, st, need, request)
}

// statusFor answers Need with the survey's own reading of the instance itself.
func (r *Run) statusFor(s *step) func(site.Instance) plan.Observation {
	return func(i site.Instance) plan.Observation {
		if i == s.Instance {
			return s.self.obs
		}
		return r.status(i)
	}
}

// fresh brings an instance that is meant to run to a current basis.
func (r *Run) fresh(s *step, st wire.Status, need plan.Verdict, request wire.Request) choice {
	switch {
	case s.running() && need.Fresh():
		c := r.ready(s, st)
		if len(need.Passed) > 0 && c.end.Well() {
			c.word = fmt.Sprintf("it goes on without %s for now: %s", need.Passed[0].Upstream, need.Passed[0].Why)
		}
		return c
	case plan.OnPurpose(&st) && (len(need.Debts) == 0 || len(need.Blocked) > 0):
		return choice{end: PhaseWaived, word: "it was stopped on purpose"}
	case st.State == wire.StateBusy:
		return choice{wait: PhaseBlocked, word: "init is at work on it"}
	case len(need.Blocked) > 0:
		return r.blocked(s, need.Blocked)
	case r.automatic() && st.OnHold > 0 && st.Wanted != wire.WantedHeld:
		return choice{wait: PhaseOnHold, every: st.OnHold, word: "its budget of reactions is spent"}
	}
	if c, young := r.settling(need.Debts); young {
		return c
	}
	request.Verb, request.Down = wire.VerbEnsure, !s.running()
	if b := s.svc.Budget; r.automatic() {
		request.Budget, request.Within = uint64(b.Reactions), b.Within
	}
	request.Expect, request.Reaction, request.Lives = st.Basis, need.Reaction, need.Lives
	if !rule.Holds(rule.WholeVector) && len(need.Debts) > 0 {
		request.New = st.Basis.With(need.Debts[0].Upstream, need.Debts[0].Has)
	}
	word := ""
	if len(need.Debts) > 0 {
		word = need.Debts[0].Why
	}
	return choice{request: &request, word: word}
}

// automatic reports whether nobody in person asked for what the run does.
func (r *Run) automatic() bool { return r.plan.Request.Verb == plan.Announce }

// settling waits until the upstreams with a new incarnation have been up for a
// while: one that dies young is not worth following.
func (r *Run) settling(debts []plan.Debt) (choice, bool) {
	for _, d := range debts {
		service, host, _ := strings.Cut(d.Upstream, "@")
		u := site.Instance{Service: service, Host: host}
		window := r.site.Service(service).Settle
		a := r.reads[question{at: host, instance: u}]
		if window == 0 || a == nil || a.obs.Status == nil || !rule.Holds(rule.Settle) {
			continue
		}
		if left := window - max(a.obs.Status.Age, r.now-a.since); left > 0 {
			return choice{wait: PhaseBlocked, every: left, word: fmt.Sprintf("%s began a moment ago: it is followed once it has been up for %s", d.Upstream, window)}, true
		}
	}
	return choice{}, false
}

// blocked waits for the upstreams that stand in the way; but not for one that
// is down on purpose, for nobody is going to start it.
func (r *Run) blocked(s *step, by []plan.Block) choice {
	word := by[0].Why
	if !strings.HasPrefix(word, by[0].Upstream) {
		word = by[0].Upstream + ": " + word
	}
	if n := len(by) - 1; n > 0 {
		word += fmt.Sprintf(" (and %d more)", n)
	}
	hopeless := map[bool]int{} // by whether any one of several would do
	several := 0
	hint := "kido up " + s.Name
	var every time.Duration // answers that are counted come no faster than the probe
	for _, b := range by {
		service, host, _ := strings.Cut(b.Upstream, "@")
		u := site.Instance{Service: service, Host: host}
		for _, place := range []string{s.Instance.Host, runner} {
			if r.counting(place, u) {
				every = interval(r.site.Service(service))
			}
		}
		st := r.status(u).Status
		switch a := r.reads[question{at: host, instance: u}]; {
		case a != nil && a.final && a.code == "": // nor can it be asked before somebody has mended that
			hopeless[b.Any]++
			hint = cmp.Or(a.hint, hint)
		case st != nil && plan.OnPurpose(st):
			hopeless[b.Any]++
			word = b.Upstream + " is down, and nobody is going to start it"
		case r.failedHere(u):
			hopeless[b.Any]++ // it was waited for already
		}
		if b.Any {
			several++
		}
	}
	if (hopeless[false] > 0 || several > 0 && hopeless[true] == several) && !r.opts.KeepTrying {
		return choice{end: PhaseSkipped, word: word, hint: hint}
	}
	return choice{wait: PhaseBlocked, word: word, every: every}
}

// failedHere reports whether a step of this very run has failed for an instance.
func (r *Run) failedHere(i site.Instance) bool {
	return slices.ContainsFunc(r.steps, func(s *step) bool { return s.Instance == i && s.phase == PhaseFailed })
}

// rivalry stops what would start an instance beside one that it conflicts with.
func (r *Run) rivalry(s *step, c choice) choice {
	if c.request == nil || s.running() {
		return c
	}
	for _, i := range r.topo.Rivals(s.Instance) {
		obs := r.status(i)
		switch {
		case obs.Err != "" || obs.Status == nil:
			return choice{retry: true, word: fmt.Sprintf("it conflicts with %s, which cannot be told to be down: %s", i, obs.Err)}
		case obs.Status.State != wire.StateDown && obs.Status.State != wire.StateFailed:
			return choice{end: PhaseFailed, word: fmt.Sprintf("it conflicts with %s, which is %s", i, obs.Status.State), hint: "stop that first: kido stop " + i.String()}
		}
	}
	return c
}

// ready ends a step whose instance is as it should be once it answers.
func (r *Run) ready(s *step, st wire.Status) choice {
	word := r.unseenFrom(runner, s.Instance)
	if !st.Ready {
		word = cmp.Or(st.Word, "it is "+string(st.State))
	}
	if word != "" {
		s.answers = 0
		c := choice{wait: PhaseSettling, word: word}
		if st.Ready && r.counting(runner, s.Instance) {
			c.every = interval(s.svc)
		}
		return c
	}
	s.answers++
	if n := successes(s.svc, site.FromHost); s.answers < n {
		return choice{wait: PhaseSettling, every: interval(s.svc), word: fmt.Sprintf("answered %d of %d times", s.answers, n)}
	}
	switch {
	case s.before:
		return choice{end: PhaseAlready, word: "it was done earlier in this run"}
	case s.acted:
		return choice{end: PhaseDone}
	case s.Action == plan.ActWait:
		return choice{end: PhaseAlready, word: "it is ready"}
	case s.Action == plan.ActRestart:
		return choice{end: PhaseDone, word: "it was started anew meanwhile"}
	case st.State == wire.StateBlind:
		return choice{end: PhaseAlready, word: "it was told to follow its upstreams as they are now"}
	default:
		return choice{end: PhaseAlready, word: cmp.Or(s.spared, "it is up and fresh")}
	}
}

func (r *Run) decideStop(s *step, st wire.Status) choice {
	hold := s.Action == plan.ActHold
	down := st.State == wire.StateDown || st.State == wire.StateFailed
	switch {
	case down && !st.Intent && (hold || s.acted || st.Wanted == wire.WantedDown):
		if s.acted {
			return choice{end: PhaseDone}
		}
		return choice{end: PhaseAlready, word: "it is down"}
	case st.State == wire.StateBusy:
		return choice{wait: PhaseBlocked, word: "init is at work on it"}
	}
	return choice{request: &wire.Request{
		Verb: wire.VerbStop, Service: s.Instance.Service, Run: r.id,
		Timeout: s.svc.Timeout.Stop, Generation: st.Generation, Hold: hold,
	}}
}

// successes is how many answers in a row make a service ready, as seen from a
// place.
func successes(v *site.Service, from site.ProbeFrom) int {
	n := 1
	for _, p := range v.Ready {
		if p.From == from {
			n = max(n, p.Successes)
		}
	}
	return n
}
