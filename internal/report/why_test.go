package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

// night is when the tests ask.
var night = time.Date(2026, 10, 2, 3, 14, 0, 0, time.UTC)

// clockOf reads a time of that night.
func clockOf(text string) time.Time {
	t, err := time.Parse(time.TimeOnly, text)
	if err != nil {
		panic(err)
	}
	return time.Date(2026, 10, 2, t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// journalOf makes the history of a run: a plan of steps "ACTION INSTANCE [< STEP…]"
// (or "leave INSTANCE: REASON"), then its events.
func journalOf(name, at, command string, steps []string, events ...run.Event) History {
	words := strings.Fields(command)
	p := &plan.Plan{Request: plan.Request{Verb: plan.Verb(words[0]), Targets: words[1:]}}
	for _, text := range steps {
		if rest, ok := strings.CutPrefix(text, "leave "); ok {
			name, reason, _ := strings.Cut(rest, ": ")
			p.Alone = append(p.Alone, plan.Note{Instance: name, Reason: reason})
			continue
		}
		text, reason, _ := strings.Cut(text, ": ")
		f := strings.Fields(text)
		s := plan.Step{ID: len(p.Steps), Action: plan.Action(f[0]), Name: f[1], Reason: reason}
		if reason == "" {
			s.Reason = "you asked for it"
		}
		if len(f) > 2 {
			for _, n := range f[3:] {
				s.After = append(s.After, plan.Edge{Step: int(n[0] - '0')})
			}
		}
		p.Steps = append(p.Steps, s)
	}
	h := History{ID: "20261002-031200-" + name, Events: []run.Event{{
		Time: clockOf(at), Begin: &run.BeginEvent{Plan: p, Site: "shop", By: "alice@admin"},
	}}}
	for _, e := range events {
		if e.Step != nil {
			s := *e.Step
			s.Instance = p.Steps[s.ID].Name
			e.Step = &s
		}
		h.Events = append(h.Events, e)
	}
	return h
}

func (h History) live() History { h.Live = true; return h }

func (h History) carried(from string) History { h.From = from; return h }

func ev(at string, e run.StepEvent) run.Event { return run.Event{Time: clockOf(at), Step: &e} }

func over(at string, o run.Outcome) run.Event {
	return run.Event{Time: clockOf(at), End: &run.EndEvent{Outcome: o}}
}

func on(upstream, token string) wire.Vector {
	return wire.NewVector(wire.Entry{Instance: upstream, Token: token})
}

// wished are the events of a request of an explicit verb that worked.
func wished(step int, at, verb, had, has string) []run.Event {
	return []run.Event{
		ev(at, run.StepEvent{ID: step, Phase: run.PhaseActing, Verb: verb, Token: had, Slot: true}),
		ev(at, run.StepEvent{ID: step, Phase: run.PhaseSettling, Acted: true, Token: has, Code: wire.CodeDone, Slot: true}),
		ev(at, run.StepEvent{ID: step, Phase: run.PhaseDone, Token: has}),
	}
}

// ensuring is the event of an ENSURE about to be sent.
func ensuring(step int, at, own, up, had, has string) run.Event {
	return ev(at, run.StepEvent{
		ID: step, Phase: run.PhaseActing, Verb: "ensure", Reaction: wire.ReactRestart, Token: own,
		Basis: on(up, had), New: on(up, has), Owes: []string{up}, Slot: true,
	})
}

// ensured are the events of an ENSURE that worked.
func ensured(step int, at, own, own2, up, had, has string) []run.Event {
	return []run.Event{
		ensuring(step, at, own, up, had, has),
		ev(at, run.StepEvent{ID: step, Phase: run.PhaseSettling, Acted: true, Token: own2, Basis: on(up, has), Code: wire.CodeDone, Slot: true}),
		ev(at, run.StepEvent{ID: step, Phase: run.PhaseDone, Token: own2, Basis: on(up, has)}),
	}
}

func events(all ...any) (list []run.Event) {
	for _, e := range all {
		switch e := e.(type) {
		case run.Event:
			list = append(list, e)
		case []run.Event:
			list = append(list, e...)
		}
	}
	return list
}

// Restart of the database and its dependent, each by the same run.
var (
	oracleAndWeb = []string{"restart oracle@db1", "ensure web@web1 < 0"}
	renewed      = wished(0, "03:12:01", "restart", "aaaa1111", "bbbb2222")
	followed     = ensured(1, "03:12:07", "w1", "w2", "oracle@db1", "aaaa1111", "bbbb2222")
	cascaded     = journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, followed, over("03:12:09", run.OutcomeDone))...)
)

// reloading is the event of an ENSURE about to be sent that comes to a reload.
func reloading(step int, at, had, has string) run.Event {
	e := ensuring(step, at, "w1", "oracle@db1", had, has)
	e.Step.Reaction, e.Step.Slot = wire.ReactReload, false
	return e
}

// A reload, a run whose gate had nothing to reload, and one that finds what follows of that.
var (
	reloaded = journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed,
		reloading(1, "03:12:07", "aaaa1111", "bbbb2222"),
		ev("03:12:07", run.StepEvent{ID: 1, Phase: run.PhaseSettling, Acted: true, Token: "w1", Basis: on("oracle@db1", "bbbb2222"), Code: wire.CodeDone}),
		ev("03:12:08", run.StepEvent{ID: 1, Phase: run.PhaseDone, Token: "w1", Basis: on("oracle@db1", "bbbb2222")}), over("03:12:09", run.OutcomeDone))...)
	spared = journalOf("bbbbb", "03:13:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"}, events(
		reloading(1, "03:13:01", "bbbb2222", "cccc3333"),
		ev("03:13:01", run.StepEvent{
			ID: 1, Phase: run.PhaseAlready, Code: wire.CodeAlready, Word: "no connection from before is held: there is nothing to reload",
			Token: "w1", Basis: on("oracle@db1", "cccc3333"),
		}), over("03:13:01", run.OutcomeDone))...)
	found = journalOf("ccccc", "03:13:30", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"},
		ev("03:13:31", run.StepEvent{ID: 1, Phase: run.PhaseAlready, Word: "it is up and fresh", Token: "w1", Basis: on("oracle@db1", "cccc3333")}), over("03:13:31", run.OutcomeDone))
	fresh = journalOf("ddddd", "03:11:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"},
		ev("03:11:01", run.StepEvent{ID: 1, Phase: run.PhaseAlready, Word: "it is up and fresh", Token: "w1", Basis: on("oracle@db1", "aaaa1111")}), over("03:11:01", run.OutcomeDone))
)

func up(own string, basis wire.Vector) *wire.Status {
	return &wire.Status{Instance: "web@web1", State: wire.StateUp, Token: own, Settled: true, Ready: true, Wanted: wire.WantedUp, Generation: 3, Basis: basis}
}

func seenAs(s *wire.Status, v plan.Verdict) Look {
	return Look{Asked: true, Self: plan.Observation{Status: s}, Need: v}
}

func owing(had, has string) plan.Verdict {
	return plan.Verdict{Reaction: wire.ReactRestart, Debts: []plan.Debt{{Upstream: "oracle@db1", Had: had, Has: has}}}
}

// held is the journal of a run that puts web@web1 on hold, with app@app1 behind it.
func held(events ...run.Event) History {
	return journalOf("aaaaa", "03:12:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0", "ensure app@app1 < 1"}, events...)
}

func (l Look) beside(other string, s *wire.Status) Look {
	l.Others = map[string]*wire.Status{other: s}
	return l
}

// How it stands now is told with the time that is left of a hold.
func TestWhyPresentOnHold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		left time.Duration
		need plan.Verdict
		want string
	}{
		{0, plan.Verdict{}, "up and ready, fresh"},
		{90 * time.Second, plan.Verdict{}, "up and ready, fresh, on hold for 1m30s yet"},
		{time.Hour, owing("o1", "o2"), "up and ready, owes oracle@db1 a restart, on hold for 1h00m yet"},
	} {
		s := up("w1", on("oracle@db1", "o1"))
		s.OnHold = c.left
		if e := Explain(Question{Now: night, Look: []Look{seenAs(s, c.need)}})[0]; e.Present != c.want {
			t.Errorf("now: %s, want %s", e.Present, c.want)
		}
	}
}

func TestWhySentence(t *testing.T) {
	t.Parallel()
	away := "web1 (192.168.0.50:22): connect: no route to host"
	next := clockOf("03:14:20")
	down := up("", on("oracle@db1", "aaaa1111"))
	down.State, down.Ready, down.Wanted, down.Word = wire.StateDown, false, wire.WantedDown, ""
	aged := up("w9", on("oracle@db1", "bbbb2222"))
	aged.Age = 4 * time.Minute
	other := up("w9", on("oracle@db1", "cccc3333"))
	unready := up("w2", on("oracle@db1", "bbbb2222"))
	unready.Ready, unready.Word = false, "HTTP 503"
	failed := up("", on("oracle@db1", "bbbb2222"))
	failed.State, failed.Ready, failed.Word = wire.StateFailed, false, "exit status 1"
	lost := up("", nil)
	lost.State, lost.Ready, lost.Generation, lost.Word = wire.StateFailed, false, 0, "no process"
	heldDown := up("", on("oracle@db1", "bbbb2222"))
	heldDown.State, heldDown.Ready, heldDown.Wanted = wire.StateDown, false, wire.WantedHeld
	heldDown.OnHold = time.Hour // which is not what keeps it down
	plain := up("", on("oracle@db1", "cccc3333"))
	plain.State = wire.StateBlind
	onHold := up("w1", on("oracle@db1", "o1"))
	onHold.OnHold = 59*time.Minute + 30*time.Second
	putOnHold := ev("03:13:00", run.StepEvent{
		ID: 1, Phase: run.PhaseOnHold, Word: "its budget of reactions is spent", Code: wire.CodeOnHold, Owes: []string{"oracle@db1"},
		Hint: "it goes on by itself when all is calm, or by: kido release web@web1",
	})
	endedHeld := ev("03:13:00", run.StepEvent{
		ID: 1, Phase: run.PhaseFailed, Word: "on hold: its budget, 1 in 1h, is spent", Owes: []string{"oracle@db1"},
		Hint: "calm its upstreams, then: kido release web@web1",
	})
	behindHeld := held(endedHeld, ev("03:13:00", run.StepEvent{ID: 2, Phase: run.PhaseSkipped, Word: "web@web1 failed", Owes: []string{"web@web1"}}), over("03:13:01", run.OutcomeIncomplete))

	for _, c := range []struct {
		name     string
		instance string // "": web@web1
		runs     []History
		look     Look
		answer   Answer
		sentence string // without the subject
		next     string
		evidence []string // each in one of the lines
	}{
		{
			name: "restarted", runs: []History{cascaded}, look: seenAs(up("w2", on("oracle@db1", "bbbb2222")), plan.Verdict{}),
			answer: AnswerDone, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation.",
			evidence: []string{
				"run 20261002-031200-aaaaa: kido restart oracle, by alice@admin",
				"oracle@db1: told to restart: alice@admin asked for it",
				"oracle@db1: restarted: it was aaaa1111, and is bbbb2222",
				"web@web1: told to restart: oracle@db1 is bbbb2222, and it was started against aaaa1111",
				"web@web1: restarted: it was w1, and is w2", "web@web1: ready",
			},
		},
		{
			name: "its own restart", runs: []History{journalOf("aaaaa", "03:12:00", "restart web@web1", []string{"restart web@web1"}, events(wished(0, "03:12:01", "restart", "w1", "w2"), over("03:12:02", run.OutcomeDone))...)},
			answer: AnswerDone, sentence: "was restarted at 03:12:01: alice@admin asked for it (kido restart web@web1).",
		},
		{
			name: "started from down", runs: []History{journalOf("aaaaa", "03:12:00", "up web", []string{"start oracle@db1: it is down, and web@web1 needs it", "start web@web1 < 0: it is down, and you asked for it"}, events(wished(0, "03:12:01", "start", "", "o1"), wished(1, "03:12:05", "start", "", "w1"))...)},
			answer: AnswerDone, sentence: "was started at 03:12:05: it was down, and alice@admin asked for it (kido up web).",
		},
		{
			name: "needed by another", instance: "oracle@db1",
			runs:   []History{journalOf("aaaaa", "03:12:00", "up web", []string{"start oracle@db1: it is down, and web@web1 needs it"}, wished(0, "03:12:01", "start", "", "o1")...)},
			answer: AnswerDone, sentence: "was started at 03:12:01: it was down, and web@web1 needs it (kido up web by alice@admin).",
		},
		{
			name: "reloaded", runs: []History{journalOf("aaaaa", "03:12:00", "reload web", []string{"reload web@web1"}, wished(0, "03:12:01", "reload", "w1", "w1")...)},
			answer: AnswerDone, sentence: "was reloaded at 03:12:01: alice@admin asked for it (kido reload web).",
		},
		{
			name: "held and started again",
			runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle",
				[]string{"hold web@web1: stops before oracle@db1 restarts", "restart oracle@db1 < 0", "ensure web@web1 < 0 1"},
				events(wished(0, "03:12:01", "stop", "w1", ""), wished(1, "03:12:02", "restart", "o1", "o2"),
					ev("03:12:05", run.StepEvent{ID: 2, Phase: run.PhaseActing, Verb: "ensure", Basis: on("oracle@db1", "o1"), New: on("oracle@db1", "o2"), Owes: []string{"oracle@db1"}}),
					ev("03:12:06", run.StepEvent{ID: 2, Phase: run.PhaseSettling, Acted: true, Token: "w2", Basis: on("oracle@db1", "o2")}))...)},
			answer: AnswerDone, sentence: "was started at 03:12:06, after oracle@db1 had a new incarnation; run 20261002-031200-aaaaa was cut off before it was seen ready.",
			next:     "kido resume 20261002-031200-aaaaa goes on with it",
			evidence: []string{"web@web1: told to stop, for a while: it stops before oracle@db1 restarts", "web@web1: started: it is w2"},
		},
		{
			name: "yesterday", runs: []History{{ID: cascaded.ID, Events: cascaded.Events}},
			look:   Look{Asked: true, Self: plan.Observation{Err: away}},
			answer: AnswerDone, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation.",
		},
		{
			name: "the upstream of the upstream",
			runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", []string{"restart oracle@db1", "ensure app@app1 < 0", "ensure web@web1 < 1"},
				events(renewed, ensured(1, "03:12:03", "p1", "p2", "oracle@db1", "aaaa1111", "bbbb2222"), ensured(2, "03:12:05", "w1", "w2", "app@app1", "p1", "p2"), over("03:12:06", run.OutcomeDone))...)},
			answer: AnswerDone, sentence: "was restarted at 03:12:05 because app@app1 had a new incarnation, which followed oracle@db1.",
			evidence: []string{"oracle@db1: restarted", "app@app1: restarted", "web@web1: restarted"},
		},
		{
			name: "an incarnation that nobody on record made",
			runs: []History{journalOf("aaaaa", "03:12:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"},
				events(ev("03:12:01", run.StepEvent{ID: 0, Phase: run.PhaseAlready, Token: "bbbb2222", Word: "it is ready"}), followed, over("03:12:09", run.OutcomeDone))...)},
			answer: AnswerDone, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation.",
			evidence: []string{"oracle@db1: seen as bbbb2222, and it was aaaa1111: a new incarnation, which no run on record made"},
		},
		{
			name: "nothing on record against which",
			runs: []History{journalOf("aaaaa", "03:12:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"},
				ev("03:12:05", run.StepEvent{ID: 1, Phase: run.PhaseActing, Verb: "ensure", Reaction: wire.ReactRestart, Token: "w1", New: on("oracle@db1", "o1"), Owes: []string{"oracle@db1"}}),
				ev("03:12:06", run.StepEvent{ID: 1, Phase: run.PhaseSettling, Acted: true, Token: "w2", Basis: on("oracle@db1", "o1")}),
				ev("03:12:07", run.StepEvent{ID: 1, Phase: run.PhaseDone, Token: "w2", Basis: on("oracle@db1", "o1")}), over("03:12:07", run.OutcomeDone))},
			answer: AnswerDone, sentence: "was restarted at 03:12:06: it was not on record against which oracle@db1 it was started.",
		},
		{
			name: "a journal of an earlier kido, without tokens",
			runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb,
				ev("03:12:05", run.StepEvent{ID: 1, Phase: run.PhaseActing, Verb: "ensure", Reaction: wire.ReactRestart, Owes: []string{"oracle@db1"}}),
				ev("03:12:06", run.StepEvent{ID: 1, Phase: run.PhaseSettling, Acted: true}),
				ev("03:12:07", run.StepEvent{ID: 1, Phase: run.PhaseDone}), over("03:12:07", run.OutcomeDone))},
			answer: AnswerDone, sentence: "was restarted at 03:12:06 because oracle@db1 had a new incarnation.",
		},
		{
			name: "two runs", runs: []History{
				journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, ev("03:12:08", run.StepEvent{ID: 1, Phase: run.PhaseAlready, Word: "it is up and fresh", Token: "w2", Basis: on("oracle@db1", "bbbb2222")}), over("03:12:08", run.OutcomeDone))...),
				journalOf("bbbbb", "03:12:02", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"}, events(followed, over("03:12:07", run.OutcomeDone))...),
			},
			answer:   AnswerDone,
			sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation, by run 20261002-031200-bbbbb; so run 20261002-031200-aaaaa (kido restart oracle by alice@admin) had no reason to do it again.",
		},
		{
			name: "restarted by another kido, for which a run was too late", runs: []History{
				journalOf("aaaaa", "03:12:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"}, events(ensuring(1, "03:12:06", "w1", "oracle@db1", "aaaa1111", "bbbb2222"),
					ev("03:12:08", run.StepEvent{ID: 1, Phase: run.PhaseAlready, Code: wire.CodeAlready, Word: "its basis is current", Token: "w2", Basis: on("oracle@db1", "bbbb2222")}), over("03:12:08", run.OutcomeDone))...),
			},
			answer:   AnswerElsewhere,
			sentence: "has been in incarnation w2 since 03:12:08 or before, and no run on record caused that: its record has changed too, so a kido on another machine did it, or its own start was held for its upstreams.",
			next:     "if another machine runs kido, carry its journals here: kido why --journals DIR web@web1",
		},
		{
			name: "stopped on purpose", runs: []History{
				journalOf("aaaaa", "03:11:00", "stop web", []string{"stop web@web1"}, events(wished(0, "03:11:01", "stop", "w1", ""), over("03:11:02", run.OutcomeDone))...),
				journalOf("bbbbb", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, ev("03:12:03", run.StepEvent{ID: 1, Phase: run.PhaseActing, Verb: "ensure", New: on("oracle@db1", "bbbb2222"), Basis: on("oracle@db1", "aaaa1111"), Owes: []string{"oracle@db1"}}),
					ev("03:12:03", run.StepEvent{ID: 1, Phase: run.PhaseWaived, Word: "it was stopped on purpose"}), over("03:12:08", run.OutcomeDone))...),
			},
			look:   seenAs(down, plan.Verdict{}),
			answer: AnswerNot, sentence: "was not restarted: it was stopped on purpose at 03:11:01: alice@admin asked for it (kido stop web).",
			next:     "kido start web@web1 wants it again",
			evidence: []string{"web@web1: stopped", "web@web1: left alone: it was stopped on purpose"},
		},
		{
			name: "stopped, and no more", runs: []History{journalOf("aaaaa", "03:11:00", "down oracle", []string{"stop web@web1: it needs oracle@db1"}, events(wished(0, "03:11:01", "stop", "w1", ""), over("03:11:02", run.OutcomeDone))...)},
			look:   seenAs(down, plan.Verdict{}),
			answer: AnswerDone, sentence: "was stopped on purpose at 03:11:01: it needs oracle@db1 (kido down oracle by alice@admin).",
			next: "kido start web@web1 wants it again",
		},
		{
			name: "stopped by hand", runs: []History{cascaded}, look: seenAs(down, plan.Verdict{}),
			answer: AnswerElsewhere, sentence: "is down, and no run on record stopped it: by hand, by its init, or never started; that counts as on purpose.",
			next: "kido start web@web1 wants it again",
		},
		{
			name:     "its host is away, and a run tries on",
			runs:     []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, tries(away, next))...).live()},
			look:     Look{Asked: true, Self: plan.Observation{Err: away}},
			answer:   AnswerUnderWay,
			sentence: "was not restarted yet: its host cannot be reached: " + away + "; it owes oracle@db1 a restart, next try at 03:14:20.",
			evidence: []string{"web@web1: tried 8 times, last 03:13:50: " + away + "; next try at 03:14:20", "oracle@db1: restarted: it was aaaa1111, and is bbbb2222"},
		},
		{
			name: "its host was away, and the run has ended",
			runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, tries(away, next),
				ev("03:13:58", run.StepEvent{ID: 1, Phase: run.PhaseFailed, Word: away, Owes: []string{"oracle@db1"}}), over("03:13:58", run.OutcomeIncomplete))...)},
			look:     seenAs(up("w1", on("oracle@db1", "aaaa1111")), owing("aaaa1111", "bbbb2222")),
			answer:   AnswerNot,
			sentence: "was not restarted: its host could not be reached at 03:13:58: " + away + "; it owes oracle@db1 a restart.",
			next:     "kido resume 20261002-031200-aaaaa goes on with it",
			evidence: []string{"web@web1: failed, after 9 tries up to 03:13:58: " + away},
		},
		{
			name: "the upstream is booting", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed[:2])...).live()},
			look: seenAs(up("w1", on("oracle@db1", "aaaa1111")), plan.Verdict{
				Blocked: []plan.Block{{Upstream: "oracle@db1", Why: "the database system is starting up"}},
			}),
			answer:   AnswerUnderWay,
			sentence: "was not restarted yet: oracle@db1 is not ready: the database system is starting up (for 1m59s, by run 20261002-031200-aaaaa).",
			evidence: []string{"oracle@db1: restarted: it was aaaa1111, and is bbbb2222"},
		},
		{
			name: "the upstream is booting, and no run is at work", runs: []History{cascaded},
			look: Look{Asked: true, Self: plan.Observation{Status: up("w2", on("oracle@db1", "bbbb2222"))}, Need: plan.Verdict{
				Blocked: []plan.Block{{Upstream: "oracle@db1", Why: "the database system is starting up"}},
			}, Others: map[string]*wire.Status{"oracle@db1": {Age: 41 * time.Second}}},
			answer: AnswerNot, sentence: "was not restarted: oracle@db1 is not ready: the database system is starting up (for 41s).",
			next: "kido why oracle@db1",
		},
		{
			name: "no slot", runs: []History{pool(journalOf("aaaaa", "03:12:00", "restart oracle", []string{"restart oracle@db1", "ensure web@web1 < 0", "ensure web@web2 < 0"},
				events(renewed, ensuring(2, "03:12:05", "x1", "oracle@db1", "aaaa1111", "bbbb2222"))...)).live()},
			look:     seenAs(up("w1", on("oracle@db1", "aaaa1111")), owing("aaaa1111", "bbbb2222")),
			answer:   AnswerUnderWay,
			sentence: "was not restarted yet: at most 1 of web at once (max_unavailable), and it waits for web@web2.",
		},
		{
			name: "at it", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, followed[:1])...).live()},
			look:   Look{Asked: true, Self: plan.Observation{Err: "busy"}},
			answer: AnswerUnderWay, sentence: "is about to be restarted, asked for at 03:12:07 because oracle@db1 had a new incarnation.",
		},
		{
			name: "not ready yet", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, followed[:2])...).live()},
			look:   seenAs(unready, plan.Verdict{}),
			answer: AnswerUnderWay, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation; it is not ready yet: HTTP 503.",
		},
		{
			name: "on hold, and a run waits", runs: []History{held(putOnHold).live()},
			answer: AnswerUnderWay, sentence: "was not restarted yet: it was put on hold: its budget of reactions is spent; it owes oracle@db1 a restart.",
			next: "it goes on by itself when all is calm, or by: kido release web@web1", evidence: []string{"web@web1: put on hold: its budget of reactions is spent"},
		},
		{
			name: "on hold as it is seen, and a run waits", runs: []History{held(putOnHold).live()}, look: seenAs(onHold, owing("o1", "o2")),
			answer: AnswerUnderWay, sentence: "was not restarted yet: it is on hold for 59m30s yet, as it reacted too often; it owes oracle@db1 a restart.",
			next: "it goes on by itself when all is calm, or by: kido release web@web1",
		},
		{
			name: "released, and a run waits", runs: []History{held(putOnHold).live()}, look: seenAs(up("w1", on("oracle@db1", "o1")), owing("o1", "o2")),
			answer: AnswerUnderWay, sentence: "was not restarted yet: it was put on hold at 03:13:00, and nothing holds it any more; run 20261002-031200-aaaaa goes on within seconds; it owes oracle@db1 a restart.",
		},
		{
			name: "released, and a run waits for its upstream", runs: []History{held(putOnHold).live()}, look: seenAs(up("w1", on("oracle@db1", "o1")), plan.Verdict{
				Blocked: []plan.Block{{Upstream: "oracle@db1", Why: "starting up"}},
			}),
			answer: AnswerUnderWay, sentence: "was not restarted yet: oracle@db1 is not ready: starting up (run 20261002-031200-aaaaa).",
		},
		{
			name: "on hold", runs: []History{held(endedHeld, over("03:13:01", run.OutcomeIncomplete))}, look: seenAs(onHold, owing("o1", "o2")),
			answer: AnswerNot, sentence: "was not restarted: it is on hold for 59m30s yet, as it reacted too often; it owes oracle@db1 a restart.",
			next:     "kido resume 20261002-031200-aaaaa goes on with it; first: calm its upstreams, then: kido release web@web1",
			evidence: []string{"web@web1: put on hold: its budget, 1 in 1h, is spent"},
		},
		{
			name: "on hold, and it cannot be asked", runs: []History{held(endedHeld, over("03:13:01", run.OutcomeIncomplete))},
			answer: AnswerNot, sentence: "was not restarted: it was put on hold: its budget, 1 in 1h, is spent; it owes oracle@db1 a restart.",
			next: "kido resume 20261002-031200-aaaaa goes on with it; first: calm its upstreams, then: kido release web@web1",
		},
		{
			name: "put on hold by another machine", runs: []History{cascaded}, look: seenAs(onHold, owing("o1", "o2")),
			answer: AnswerNot, sentence: "was not restarted: it is on hold for 59m30s yet, as it reacted too often; it owes oracle@db1 a restart.",
			next: "calm its upstreams, then: kido release web@web1",
		},
		{
			name: "released", runs: []History{held(endedHeld, over("03:13:01", run.OutcomeIncomplete))}, look: seenAs(up("w1", on("oracle@db1", "o1")), owing("o1", "o2")),
			answer: AnswerNot, sentence: "was not restarted: it was put on hold at 03:13:00, and nothing holds it any more; it owes oracle@db1 a restart.",
			next:     "kido announce oracle@db1",
			evidence: []string{"web@web1: put on hold: its budget, 1 in 1h, is spent"},
		},
		{
			name: "released, and its run was cut off", runs: []History{held(putOnHold)}, look: seenAs(up("w1", on("oracle@db1", "o1")), owing("o1", "o2")),
			answer: AnswerNot, sentence: "was not restarted: it was put on hold at 03:13:00, and nothing holds it any more; it owes oracle@db1 a restart.",
			next: "kido announce oracle@db1",
		},
		{
			name: "released, and it waits for its upstream", runs: []History{held(endedHeld, over("03:13:01", run.OutcomeIncomplete))}, look: seenAs(up("w1", on("oracle@db1", "o1")), plan.Verdict{
				Blocked: []plan.Block{{Upstream: "oracle@db1", Why: "starting up"}},
			}),
			answer: AnswerNot, sentence: "was not restarted: oracle@db1 is not ready: starting up.", next: "kido why oracle@db1",
		},
		{
			name: "released, and it has failed", runs: []History{held(endedHeld, over("03:13:01", run.OutcomeIncomplete))}, look: seenAs(failed, plan.Verdict{Own: "it has failed"}),
			answer: AnswerNot, sentence: "has failed (exit status 1), and was not restarted: it was put on hold at 03:13:00, and nothing holds it any more.",
			next: "kido resume 20261002-031200-aaaaa goes on with it",
		},
		{
			name: "behind one on hold", instance: "app@app1", runs: []History{behindHeld},
			look:   seenAs(up("p1", nil), plan.Verdict{Blocked: []plan.Block{{Upstream: "web@web1", Why: "stale itself"}}}).beside("web@web1", onHold),
			answer: AnswerNot, sentence: "was not restarted: behind web@web1, which is on hold; it owes web@web1 a restart.",
			next:     "kido resume 20261002-031200-aaaaa goes on with it; first: calm its upstreams, then: kido release web@web1",
			evidence: []string{"web@web1: put on hold: its budget, 1 in 1h, is spent", "app@app1: not begun: web@web1 is on hold"},
		},
		{
			name: "behind one on hold, and nobody asked", instance: "app@app1", runs: []History{behindHeld},
			answer: AnswerNot, sentence: "was not restarted: behind web@web1, which is on hold; it owes web@web1 a restart.",
			next: "kido resume 20261002-031200-aaaaa goes on with it; first: calm its upstreams, then: kido release web@web1",
		},
		{
			name: "behind one that was released", instance: "app@app1", runs: []History{behindHeld},
			look:   seenAs(up("p1", nil), plan.Verdict{Blocked: []plan.Block{{Upstream: "web@web1", Why: "stale itself"}}}).beside("web@web1", up("w1", nil)),
			answer: AnswerNot, sentence: "was not restarted: behind web@web1, which was on hold then; it owes web@web1 a restart.",
			next: "kido resume 20261002-031200-aaaaa goes on with it",
		},
		{
			name: "it died, and its record is gone", runs: []History{cascaded}, look: seenAs(lost, owing("", "bbbb2222")),
			answer: AnswerNot, sentence: "has failed (no process), and was not restarted yet: kido has no record of which oracle@db1 it was started against; it owes oracle@db1 a restart.",
			next: "kido announce oracle@db1",
		},
		{
			name: "it died, and owes", runs: []History{cascaded}, look: seenAs(failed, owing("bbbb2222", "cccc3333")),
			answer: AnswerNot, sentence: "has failed (exit status 1), and was not restarted: no run on record has dealt with the new incarnation of oracle@db1; it owes oracle@db1 a restart.",
			next: "kido announce oracle@db1",
		},
		{
			name: "it is held down, and owes", runs: []History{cascaded}, look: seenAs(heldDown, owing("bbbb2222", "cccc3333")),
			answer: AnswerNot, sentence: "is down, and was not restarted: no run on record has dealt with the new incarnation of oracle@db1; it owes oracle@db1 a restart.",
			next: "kido announce oracle@db1",
		},
		{
			name: "its record cannot be believed", runs: []History{cascaded},
			look: Look{Asked: true, Self: plan.Observation{
				Err: "unknown: its state file cannot be believed (line 3: torn): what it was started against is unknown; `kido restart web@web1` makes it known again",
			}},
			answer: AnswerNot, sentence: "is left alone, for what it was started against is unknown: its state file cannot be believed (line 3: torn).",
			next: "kido restart web@web1 makes it known again", evidence: []string{"web@web1: restarted: it was w1, and is w2"},
		},
		{
			name:   "cut off before its turn",
			runs:   []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, renewed...)},
			look:   seenAs(up("w1", on("oracle@db1", "aaaa1111")), owing("aaaa1111", "bbbb2222")),
			answer: AnswerNot, sentence: "was not restarted: run 20261002-031200-aaaaa was cut off before its turn; it owes oracle@db1 a restart.",
			next: "kido resume 20261002-031200-aaaaa goes on with it",
		},
		{
			name:   "carried before its turn",
			runs:   []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, renewed...).carried("/media/db1")},
			answer: AnswerNot, sentence: "was not restarted: the journal of run 20261002-031200-aaaaa was carried here before its turn.",
			next: "kido resume 20261002-031200-aaaaa goes on with it, on the machine of that run", evidence: []string{"by alice@admin, from /media/db1"},
		},
		{
			name:   "cut off while the gate was at work, which did it",
			runs:   []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, followed[:1])...)},
			look:   seenAs(up("w2", on("oracle@db1", "bbbb2222")), plan.Verdict{}),
			answer: AnswerDone, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation.",
		},
		{
			name:   "cut off while the gate was at work",
			runs:   []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, followed[:1])...)},
			answer: AnswerNot, sentence: "was to be restarted at 03:12:07 because oracle@db1 had a new incarnation: run 20261002-031200-aaaaa was cut off before it heard what came of it.",
			next: "kido resume 20261002-031200-aaaaa goes on with it",
		},
		{
			name: "refused", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed,
				ev("03:12:05", run.StepEvent{ID: 1, Phase: run.PhaseRefused, Word: "web1: the policy does not grant this", Hint: "grant it in the policy of web1", Owes: []string{"oracle@db1"}}), over("03:12:06", run.OutcomeRefused))...)},
			answer: AnswerNot, sentence: "was not restarted: refused: web1: the policy does not grant this; it owes oracle@db1 a restart.",
			next: "kido resume 20261002-031200-aaaaa goes on with it; first: grant it in the policy of web1",
		},
		{
			name: "behind a failure", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb,
				ev("03:12:01", run.StepEvent{ID: 0, Phase: run.PhaseActing, Verb: "restart", Token: "o1"}),
				ev("03:12:05", run.StepEvent{ID: 0, Phase: run.PhaseFailed, Word: "its restart failed: ORA-01034"}),
				ev("03:12:05", run.StepEvent{ID: 1, Phase: run.PhaseSkipped, Word: "oracle@db1 failed"}), over("03:12:06", run.OutcomeFailed))},
			answer: AnswerNot, sentence: "was not restarted: behind oracle@db1, which failed.",
			next:     "kido resume 20261002-031200-aaaaa goes on with it",
			evidence: []string{"oracle@db1: failed: its restart failed: ORA-01034", "web@web1: not begun: oracle@db1 failed"},
		},
		{
			name: "interrupted", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed,
				ev("03:12:05", run.StepEvent{ID: 1, Phase: run.PhaseLeft, Word: "interrupted", Owes: []string{"oracle@db1"}}), over("03:12:06", run.OutcomeInterrupted))...)},
			answer: AnswerNot, sentence: "was not restarted: run 20261002-031200-aaaaa was interrupted before its turn; it owes oracle@db1 a restart.",
			next: "kido resume 20261002-031200-aaaaa goes on with it",
		},
		{
			name: "restarted, and not ready in time", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, followed[:2],
				ev("03:13:07", run.StepEvent{ID: 1, Phase: run.PhaseFailed, Word: "not ready in 1m: HTTP 503"}), over("03:13:07", run.OutcomeIncomplete))...)},
			answer: AnswerNot, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation; but then: not ready in 1m: HTTP 503.",
			next: "kido resume 20261002-031200-aaaaa goes on with it",
		},
		{
			name: "failed, and well by now", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, followed[:2],
				ev("03:13:07", run.StepEvent{ID: 1, Phase: run.PhaseFailed, Word: "not ready in 1m: HTTP 503"}), over("03:13:07", run.OutcomeIncomplete))...)},
			look:   seenAs(up("w2", on("oracle@db1", "bbbb2222")), plan.Verdict{}),
			answer: AnswerDone, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation.",
		},
		{
			name: "it died since", runs: []History{cascaded}, look: seenAs(failed, plan.Verdict{Own: "it has failed"}),
			answer: AnswerDone, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation; it has failed since: exit status 1.",
		},
		{
			name: "no reason to", runs: []History{journalOf("aaaaa", "03:12:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"},
				ev("03:12:05", run.StepEvent{ID: 1, Phase: run.PhaseAlready, Word: "it is up and fresh", Token: "w1", Basis: on("oracle@db1", "o1")}), over("03:12:06", run.OutcomeDone))},
			answer: AnswerNot, sentence: "was not restarted: it was started or reloaded after the present incarnation of oracle@db1: there is no reason to.",
		},
		{
			name: "reloaded, and then there was nothing to reload", runs: []History{reloaded, spared}, look: seenAs(up("w1", on("oracle@db1", "cccc3333")), plan.Verdict{}),
			answer:   AnswerDone,
			sentence: "was reloaded at 03:12:07 because oracle@db1 had a new incarnation; for the incarnation of oracle@db1 since then run 20261002-031200-bbbbb (kido announce oracle by alice@admin) had nothing left to do: no connection from before is held: there is nothing to reload.",
			evidence: []string{
				"web@web1: told to reload: oracle@db1 is cccc3333, and it was started against bbbb2222",
				"web@web1: nothing to do: no connection from before is held: there is nothing to reload",
			},
		},
		{
			name: "the same, and seen by a run since", runs: []History{reloaded, spared, found}, look: seenAs(up("w1", on("oracle@db1", "cccc3333")), plan.Verdict{}),
			answer:   AnswerDone,
			sentence: "was reloaded at 03:12:07 because oracle@db1 had a new incarnation; for the incarnation of oracle@db1 since then run 20261002-031200-bbbbb (kido announce oracle by alice@admin) had nothing left to do: no connection from before is held: there is nothing to reload.",
			evidence: []string{"run 20261002-031200-ccccc", "web@web1: nothing to do: it is up and fresh"},
		},
		{
			name: "the same, without the gate's word", runs: []History{reloaded, journalOf("bbbbb", "03:13:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"}, events(
				reloading(1, "03:13:01", "bbbb2222", "cccc3333"),
				ev("03:13:01", run.StepEvent{ID: 1, Phase: run.PhaseAlready, Word: "it is up and fresh", Token: "w1", Basis: on("oracle@db1", "cccc3333")}), over("03:13:01", run.OutcomeDone))...)},
			answer:   AnswerDone,
			sentence: "was reloaded at 03:12:07 because oracle@db1 had a new incarnation; for the incarnation of oracle@db1 since then run 20261002-031200-bbbbb (kido announce oracle by alice@admin) had nothing left to do.",
		},
		{
			name: "there was nothing to reload", runs: []History{spared}, look: seenAs(up("w1", on("oracle@db1", "cccc3333")), plan.Verdict{}),
			answer:   AnswerNot,
			sentence: "was not reloaded: run 20261002-031200-bbbbb (kido announce oracle by alice@admin) had nothing left to do: no connection from before is held: there is nothing to reload.",
		},
		{
			name: "reloaded, and then by another kido, as a run found", runs: []History{reloaded, found}, look: seenAs(up("w1", on("oracle@db1", "cccc3333")), plan.Verdict{}),
			answer:   AnswerDone,
			sentence: "was reloaded at 03:12:07 because oracle@db1 had a new incarnation; run 20261002-031200-ccccc (kido announce oracle by alice@admin) found that it follows the incarnation of oracle@db1 since then, which no run on record told it to: a kido on another machine did.",
			next:     "if another machine runs kido, carry its journals here: kido why --journals DIR web@web1",
		},
		{
			name: "reloaded, and then by another kido", runs: []History{reloaded}, look: seenAs(up("w1", on("oracle@db1", "cccc3333")), plan.Verdict{}),
			answer:   AnswerElsewhere,
			sentence: "has followed a new incarnation of oracle@db1 since it was reloaded at 03:12:07, and no run on record told it to: its record has changed, so a kido on another machine reloaded it, or saw that there was nothing to reload.",
			next:     "if another machine runs kido, carry its journals here: kido why --journals DIR web@web1",
			evidence: []string{"web@web1: reloaded", "oracle@db1: seen as cccc3333, and it was bbbb2222: a new incarnation, which no run on record made"},
		},
		{
			name: "reloaded by another kido, after a run on record", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", []string{"restart oracle@db1", "leave web@web1: ordered after oracle but does not react to its restarts"}, events(renewed, over("03:12:02", run.OutcomeDone))...), fresh},
			look:     seenAs(up("w1", on("oracle@db1", "bbbb2222")), plan.Verdict{}),
			answer:   AnswerElsewhere,
			sentence: "has followed a new incarnation of oracle@db1, and no run on record told it to: its record has changed, so a kido on another machine reloaded it, or saw that there was nothing to reload.",
			next:     "if another machine runs kido, carry its journals here: kido why --journals DIR web@web1",
			evidence: []string{"oracle@db1: restarted: it was aaaa1111, and is bbbb2222"},
		},
		{
			name: "a plain one, by another kido", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, ensured(1, "03:12:07", "", "", "oracle@db1", "aaaa1111", "bbbb2222"), over("03:12:09", run.OutcomeDone))...)}, look: seenAs(plain, plan.Verdict{}),
			answer:   AnswerElsewhere,
			sentence: "has followed a new incarnation of oracle@db1 since it was restarted at 03:12:07, and no run on record told it to: its record has changed, so a kido on another machine did it.",
			next:     "if another machine runs kido, carry its journals here: kido why --journals DIR web@web1",
		},
		{
			name: "cut off while the gate was at work, which reloaded it", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", oracleAndWeb, events(renewed, reloading(1, "03:12:07", "aaaa1111", "bbbb2222"))...), fresh},
			look:     seenAs(up("w1", on("oracle@db1", "bbbb2222")), plan.Verdict{}),
			answer:   AnswerDone,
			sentence: "was to be reloaded at 03:12:07 because oracle@db1 had a new incarnation: run 20261002-031200-aaaaa was cut off before it heard what came of it, and it is fresh now.",
		},
		{
			name: "restarted by hand", runs: []History{cascaded}, look: seenAs(aged, plan.Verdict{}),
			answer: AnswerElsewhere, sentence: "has been in incarnation w9 since about 03:10:00, and no run on record caused that: it was restarted by hand, by its init, or from another machine.",
			evidence: []string{"web@web1: seen as w9, and it was w2: a new incarnation, which no run on record made"},
		},
		{
			name: "restarted by another kido", runs: []History{cascaded}, look: seenAs(other, plan.Verdict{}),
			answer: AnswerElsewhere, sentence: "has been in incarnation w9 since 03:14:00 or before, and no run on record caused that: its record has changed too, so a kido on another machine did it, or its own start was held for its upstreams.",
			next: "if another machine runs kido, carry its journals here: kido why --journals DIR web@web1",
		},
		{
			name: "an upstream restarted by hand", instance: "oracle@db1", runs: []History{
				cascaded, journalOf("bbbbb", "03:13:00", "announce oracle", []string{"wait oracle@db1"}, ev("03:13:01", run.StepEvent{ID: 0, Phase: run.PhaseAlready, Word: "it is ready", Token: "cccc3333"}), over("03:13:02", run.OutcomeDone)),
			},
			answer: AnswerElsewhere, sentence: "has been in incarnation cccc3333 since 03:13:01 or before, and no run on record caused that: it was restarted by hand, by its init, or from another machine.",
		},
		{
			name: "a run speaks late of an incarnation that is over", runs: []History{
				cascaded, journalOf("bbbbb", "03:12:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"},
					ensuring(1, "03:12:07", "w1", "oracle@db1", "aaaa1111", "bbbb2222"),
					ev("03:12:08", run.StepEvent{ID: 1, Phase: run.PhaseRetry, Word: away, Token: "w1", Basis: on("oracle@db1", "aaaa1111"), Attempt: 1}),
					ev("03:12:10", run.StepEvent{ID: 1, Phase: run.PhaseAlready, Word: "it is up and fresh", Token: "w2", Basis: on("oracle@db1", "bbbb2222")}), over("03:12:10", run.OutcomeDone)),
			},
			answer: AnswerDone, sentence: "was restarted at 03:12:07 because oracle@db1 had a new incarnation, by run 20261002-031200-aaaaa; so run 20261002-031200-bbbbb (kido announce oracle by alice@admin) had no reason to do it again.",
		},
		{
			name: "nobody was told", runs: []History{cascaded}, look: Look{
				Asked: true, Self: plan.Observation{Status: up("w2", on("oracle@db1", "bbbb2222"))},
				Need: owing("bbbb2222", "cccc3333"), Others: map[string]*wire.Status{"oracle@db1": {Age: time.Minute}},
			},
			answer: AnswerNot, sentence: "was not restarted: no run on record has dealt with the new incarnation of oracle@db1, of about 03:13:00; it owes oracle@db1 a restart.",
			next:     "kido announce oracle@db1",
			evidence: []string{"oracle@db1: seen as cccc3333, and it was bbbb2222: a new incarnation, which no run on record made"},
		},
		{
			name: "left alone, and owes", runs: []History{journalOf("aaaaa", "03:12:00", "start oracle", []string{"start oracle@db1", "leave web@web1: owes a reaction to oracle@db1 afterwards"}, events(wished(0, "03:12:01", "start", "", "o2"), over("03:12:02", run.OutcomeDone))...)},
			look:   seenAs(up("w1", on("oracle@db1", "o1")), owing("o1", "o2")),
			answer: AnswerNot, sentence: "was not restarted: run 20261002-031200-aaaaa (kido start oracle by alice@admin) left it alone; it owes oracle@db1 a restart.",
			next: "kido announce oracle@db1", evidence: []string{"it leaves web@web1 alone: owes a reaction to oracle@db1 afterwards"},
		},
		{
			name: "left alone", runs: []History{journalOf("aaaaa", "03:12:00", "restart oracle", []string{"restart oracle@db1", "leave web@web1: ordered after oracle but does not react to its restarts"}, events(renewed, over("03:12:02", run.OutcomeDone))...)},
			answer: AnswerNot, sentence: "was left alone at 03:12:00 by kido restart oracle (run 20261002-031200-aaaaa): ordered after oracle but does not react to its restarts.",
		},
		{
			name: "only waited for", instance: "oracle@db1", runs: []History{journalOf("aaaaa", "03:12:00", "announce oracle", []string{"wait oracle@db1"}, ev("03:12:01", run.StepEvent{ID: 0, Phase: run.PhaseAlready, Word: "it is ready", Token: "o1"}), over("03:12:02", run.OutcomeDone))},
			answer: AnswerNothing, sentence: "was only waited for: run 20261002-031200-aaaaa (kido announce oracle by alice@admin) found it ready at 03:12:01, and no run on record did anything to it.",
		},
		{name: "nothing, and nobody asked", answer: AnswerNothing, sentence: "is not spoken of by any run on record."},
		{name: "nothing, and fresh", look: seenAs(up("w1", nil), plan.Verdict{}), answer: AnswerNothing, sentence: "is not spoken of by any run on record, and it is fresh."},
		{
			name: "nothing, and owes", look: seenAs(up("w1", nil), owing("", "o1")),
			answer: AnswerNot, sentence: "was not restarted yet: kido has no record of which oracle@db1 it was started against; it owes oracle@db1 a restart.", next: "kido announce oracle@db1",
		},
		{name: "nothing, and away", look: Look{Asked: true, Self: plan.Observation{Err: away}}, answer: AnswerNothing, sentence: "is not spoken of by any run on record, and it cannot be asked."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.look.Instance = "web@web1"
			if c.instance != "" {
				c.look.Instance = c.instance
			}
			e := Explain(Question{Runs: c.runs, Now: night, Look: []Look{c.look}})[0]
			if want := c.look.Instance + " " + c.sentence; e.Sentence != want || e.Answer != c.answer {
				t.Errorf("%s: %s\nwant\n%s: %s", e.Answer, e.Sentence, c.answer, want)
			}
			if e.Next != c.next {
				t.Errorf("next: %q, want %q", e.Next, c.next)
			}
			var text strings.Builder
			for n, l := range e.Evidence {
				fmt.Fprintf(&text, "%s: %s\n", l.Instance, l.What)
				if n > 0 && l.Time.Before(e.Evidence[n-1].Time) {
					t.Errorf("not the oldest first: %s", l.What)
				}
			}
			for _, want := range c.evidence {
				if !strings.Contains(text.String(), want) {
					t.Errorf("no evidence %q in\n%s", want, text.String())
				}
			}
		})
	}
}

// tries are the tries at a host that is away, as far as a journal has them.
func tries(word string, next time.Time) (all []run.Event) {
	for n, at := range []string{"03:12:05", "03:12:10", "03:12:40", "03:13:50"} {
		all = append(all, ev(at, run.StepEvent{ID: 1, Phase: run.PhaseRetry, Word: word, Owes: []string{"oracle@db1"}, Attempt: 1 << n, Next: &next}))
	}
	return all
}

func pool(h History) History {
	h.Events[0].Begin.Plan.AtOnce = map[string]int{"web": 1}
	return h
}

func TestWriteWhy(t *testing.T) {
	t.Parallel()
	hostile := journalOf("ccccc", "03:13:00", "announce oracle", []string{"wait oracle@db1", "ensure web@web1 < 0"}, events(
		ensuring(1, "03:13:01", "w2", "oracle@db1", "bbbb2222", "cccc3333"),
		ev("03:13:02", run.StepEvent{ID: 1, Phase: run.PhaseRetry, Code: wire.CodeFailed, Word: "its restart failed: \x1b]0;pwned\a\nweb@web1 is well \u202e", Attempt: 1}),
		ensuring(1, "03:13:03", "w2", "oracle@db1", "bbbb2222", "cccc3333"),
		ev("03:13:04", run.StepEvent{ID: 1, Phase: run.PhaseRetry, Code: wire.CodeFailed, Word: "its restart failed: \x1b]0;pwned\a\nweb@web1 is well \u202e", Attempt: 2}),
		ev("03:13:05", run.StepEvent{ID: 1, Phase: run.PhaseLeft, Word: "interrupted", Owes: []string{"oracle@db1"}}), over("03:13:06", run.OutcomeInterrupted))...)
	q := Question{
		Runs: []History{cascaded, hostile}, Now: night,
		Look: []Look{seenAs(up("w2", on("oracle@db1", "bbbb2222")), owing("bbbb2222", "cccc3333"))},
		All:  true,
	}
	q.Look[0].Instance = "web@web1"
	var out bytes.Buffer
	if err := WriteWhy(&out, Explain(q), q.Now); err != nil {
		t.Fatal(err)
	}
	golden(t, "why.txt", out.Bytes())

	// On another day the times have their date.
	out.Reset()
	q.Now = q.Now.Add(24 * time.Hour)
	if err := WriteWhy(&out, Explain(q), q.Now); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(out.Bytes(), []byte("\n  2026-10-02 03:12:00  aaaaa  run 20261002-031200-aaaaa")) {
		t.Errorf("no dates:\n%s", out.Bytes())
	}

	// Of several it is a sentence each.
	out.Reset()
	if err := WriteWhy(&out, append(Explain(q), Explain(q)...), q.Now); err != nil || bytes.Count(out.Bytes(), []byte("\n")) != 2 {
		t.Errorf("%v:\n%s", err, out.Bytes())
	}

	out.Reset()
	if err := WriteWhyJSON(&out, "shop", Explain(q)); err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsAny(out.Bytes(), "\x1b\a\u202e") {
		t.Errorf("the JSON is not safe to show:\n%s", out.Bytes())
	}
	var back struct{ Instances []Explanation }
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back.Instances) != 1 || len(back.Instances[0].Evidence) == 0 {
		t.Errorf("%v: %+v", err, back)
	}
}

func TestWhySince(t *testing.T) {
	t.Parallel()
	q := Question{Runs: []History{cascaded}, Now: night, Since: clockOf("03:12:05"), Look: []Look{{Instance: "web@web1"}}}
	e := Explain(q)[0]
	if len(e.Evidence) != 3 || e.Evidence[0].What != "told to restart: oracle@db1 is bbbb2222, and it was started against aaaa1111" {
		t.Errorf("%+v", e.Evidence)
	}
}

// What a journal says must never be a panic: it may come from anywhere.
func TestWhyNonsense(t *testing.T) {
	t.Parallel()
	for _, h := range []History{
		{},
		{ID: "x", Events: []run.Event{{}}},
		{ID: "x", Events: []run.Event{{End: &run.EndEvent{}}}},
		{ID: "x", Events: []run.Event{{Begin: &run.BeginEvent{Resumed: true}}, {Step: &run.StepEvent{ID: 0, Instance: "web@web1"}}}},
		journalOf("x", "03:12:00", "restart oracle", oracleAndWeb, run.Event{Step: &run.StepEvent{ID: 0, Phase: run.PhaseSettling, Acted: true}}, ev("03:12:01", run.StepEvent{ID: 1, Phase: "?"})),
		{ID: "x", Events: []run.Event{
			{Begin: &run.BeginEvent{Plan: &plan.Plan{Steps: []plan.Step{{Name: "web@web1", After: []plan.Edge{{Step: 9}, {Step: -1}}}}}}},
			{Step: &run.StepEvent{ID: 7, Instance: "web@web1"}},
			{Step: &run.StepEvent{ID: -1}},
			{Step: &run.StepEvent{Instance: "web@web1", Phase: run.PhaseSkipped}},
		}},
	} {
		for _, live := range []bool{false, true} {
			h.Live = live
			if e := Explain(Question{Runs: []History{h}, Now: night, All: true, Look: []Look{{Instance: "web@web1"}, {Instance: "oracle@db1"}, {Instance: ""}}}); len(e) != 3 {
				t.Errorf("%d explanations", len(e))
			}
		}
	}
}
