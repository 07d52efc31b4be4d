package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"kido/internal/initsys"
	"kido/internal/probe"
	"kido/internal/wire"
)

// ask makes one try of a service's probes, and works out which life answered.
func (g *Gate) ask(ctx context.Context, s *PolicyService, of Look) Asked {
	begun := present()
	life := lifeOf(of.Token, of.Begun)
	a := g.each(ctx, s.Ready, life, true)
	asked := Asked{Ready: a.Ready, Degraded: a.Degraded, Untried: a.Untried, Word: a.Word, Life: a.Life, Age: a.Age}
	switch {
	case s.Failures > 0 && a.Untried:
		asked.Life = wire.LifeUntold // nothing was learned: that is no outage
	case s.Failures > 0:
		return g.remember(ctx, s, asked, begun)
	case asked.Life == "" && slices.ContainsFunc(s.Ready, probe.Spec.TellsLife):
		asked.Life = wire.LifeUntold
	}
	return asked
}

// strayed adds to what is said of an instance that has failed, or could not be started,
// that its probes answer all the same: who restarts a service past its init leaves a
// failed unit behind. It is a word for people, and makes nothing ready.
func (g *Gate) strayed(ctx context.Context, s *PolicyService, unit initsys.Unit, q wire.Request, r wire.Reply) wire.Reply {
	st, failed := r.Status, r.Code == wire.CodeFailed
	switch {
	case st == nil || st.Wanted != wire.WantedUp,
		!failed && q.Verb != wire.VerbStatus,
		st.State != wire.StateFailed && !(failed && st.State == wire.StateDown),
		!slices.ContainsFunc(s.Ready, answering),
		!g.each(ctx, s.Ready, probe.Life{}, false).Ready:
		return r
	}
	if o, err := unit.Observe(ctx); err != nil || states[o.State] != st.State {
		return r // it was started meanwhile
	}
	yet := fmt.Sprintf("yet its probes answer: it seems to run outside of its unit; stop it there, then: kido start %s", st.Instance)
	st.Word = strings.TrimPrefix(st.Word+", "+yet, ", ")
	if failed {
		r.Word += ", " + yet
	}
	return r
}

// lifeOf is an incarnation whose start began so long ago, which is 0 where unknown.
func lifeOf(token string, begun time.Duration) probe.Life {
	life := probe.Life{Token: token}
	if begun > 0 {
		life.Since = time.Now().Add(-begun)
	}
	return life
}

// each makes one try of each probe, until one says no. The life that they tell is of
// one incarnation: where others were asked in between, it is asked for again.
func (g *Gate) each(ctx context.Context, probes []probe.Spec, life probe.Life, tell bool) probe.Answer {
	answers := make([]probe.Answer, 0, len(probes))
	for _, p := range probes {
		p.Life = life
		a := g.prober.Try(ctx, p)
		if !a.Ready { // and one of several lives, which a strict probe tells all the same, is none of the whole
			a.Life, a.Age = "", 0
			return probe.Together(probes, append(answers, a))
		}
		answers = append(answers, a)
	}
	whole := probe.Together(probes, answers)
	if !tell || whole.Life == "" || len(probes) == 1 {
		return whole
	}
	for i, p := range probes {
		if answers[i].Life == "" || i == len(probes)-1 && !slices.ContainsFunc(answers[:i], func(a probe.Answer) bool { return a.Life != "" }) {
			continue // told last of all: nothing was asked since
		}
		p.Life = life
		if again := g.prober.Try(ctx, p); !again.Ready || again.Life != answers[i].Life {
			return probe.NotReady("it was restarted inside its unit while it was looked at")
		}
	}
	return whole
}

// probe answers a VerbProbe: each probe on its own, whatever the others say.
func (g *Gate) probe(ctx context.Context, of string) wire.Reply {
	status := &wire.Status{Instance: of, State: wire.StateBlind, Settled: true}
	var specs []probe.Spec
	var life probe.Life
	if w := g.policy.Watch(of); w != nil {
		specs = w.Ready
	} else {
		s := g.policy.Service(of)
		status.Instance, specs = of+"@"+g.policy.Host, s.Ready
		if unit, err := g.unit(s); err == nil {
			defer release(unit)
			if o, err := unit.Observe(ctx); err == nil {
				life = lifeOf(o.Token, o.Begun)
			}
		}
	}
	reply := wire.Reply{Code: wire.CodeOK, Status: status}
	answers := make([]probe.Answer, len(specs))
	var all sync.WaitGroup
	for i, p := range specs {
		p.Life = life
		all.Go(func() { answers[i] = g.prober.Try(ctx, p) })
	}
	all.Wait()
	for i, p := range specs {
		reply.Probes = append(reply.Probes, probed(p, answers[i]))
	}
	whole := probe.Together(specs, answers)
	status.Ready, status.Degraded, status.Word = whole.Ready, whole.Degraded, whole.Word
	return reply
}

// answering reports whether a probe that is ready had its answer from something that runs
// now: a file or a line of a log outlives its service.
func answering(p probe.Spec) bool {
	switch sort, _ := probe.SortOf(p.Kind); sort.Form {
	case probe.FormAddress, probe.FormURL, probe.FormArgv:
		return true
	}
	switch p.Kind {
	case probe.KindAll:
		return slices.ContainsFunc(p.Of, answering)
	case probe.KindAny:
		return !slices.ContainsFunc(p.Of, func(part probe.Spec) bool { return !answering(part) })
	}
	return false
}

func probed(p probe.Spec, a probe.Answer) wire.Probed {
	return wire.Probed{
		About: probe.Printable(p.Described()), Ready: a.Ready, Degraded: a.Degraded, Word: a.Word,
		Took: a.Took.Truncate(time.Microsecond), Life: a.Life,
	}
}
