package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", path, got, want)
	}
}

// story is a run told event by event, at times of its own.
type story struct {
	plan   *plan.Plan
	begun  time.Time
	events []run.Event
}

const id = "20261001-120000-abcde"

func tell(verb plan.Verb, target string, steps ...plan.Step) *story {
	s := &story{
		plan:  &plan.Plan{Request: plan.Request{Verb: verb, Targets: []string{target}}},
		begun: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC),
	}
	for n, st := range steps {
		st.ID = n
		s.plan.Steps = append(s.plan.Steps, st)
	}
	return s.add(0, run.Event{Begin: &run.BeginEvent{Plan: s.plan, Site: "shop"}})
}

func (s *story) add(at time.Duration, e run.Event) *story {
	e.Time, e.Run = s.begun.Add(at), id
	s.events = append(s.events, e)
	return s
}

// step adds an event of a step, so many milliseconds after the beginning.
func (s *story) step(ms int, id int, phase run.Phase, word string, more ...func(*run.StepEvent)) *story {
	e := &run.StepEvent{ID: id, Instance: s.plan.Steps[id].Name, Phase: phase, Word: word}
	at := time.Duration(ms) * time.Millisecond
	for _, m := range more {
		m(e)
	}
	if phase == run.PhaseRetry {
		next := s.begun.Add(at + 4*time.Second)
		e.Next = &next
	}
	return s.add(at, run.Event{Step: e})
}

func (s *story) end(ms int, o run.Outcome) *story {
	return s.add(time.Duration(ms)*time.Millisecond, run.Event{End: &run.EndEvent{Outcome: o}})
}

func acts(v wire.Verb, r wire.Reaction) func(*run.StepEvent) {
	return func(e *run.StepEvent) { e.Verb, e.Reaction = string(v), r }
}

func acted(e *run.StepEvent)                    { e.Acted = true }
func attempt(n int) func(*run.StepEvent)        { return func(e *run.StepEvent) { e.Attempt = n } }
func hint(h string) func(*run.StepEvent)        { return func(e *run.StepEvent) { e.Hint = h } }
func poorly(w string) func(*run.StepEvent)      { return func(e *run.StepEvent) { e.Degraded = w } }
func owes(all ...string) func(*run.StepEvent)   { return func(e *run.StepEvent) { e.Owes = all } }
func does(a plan.Action, name string) plan.Step { return plan.Step{Action: a, Name: name} }

const since = "oracle@db1 has a new incarnation since web@web1 was started"

// cascade is the restart of a database with much that happens downstream.
func cascade() *story {
	const refused = "web2: connect: no route to host"
	oracle := does(plan.ActRestart, "oracle@db1")
	oracle.Reason = "you asked for it"
	s := tell(plan.Restart, "oracle", oracle,
		does(plan.ActHold, "batch@db1"), does(plan.ActEnsure, "web@web1"), does(plan.ActEnsure, "web@web2"),
		does(plan.ActEnsure, "web@web3"), does(plan.ActEnsure, "web@web4"), does(plan.ActEnsure, "batch@db1"),
		does(plan.ActEnsure, "cache@web2"), does(plan.ActEnsure, "mail@m1"))
	s.plan.Alone = []plan.Note{{Instance: "cron@db1", Reason: "ordered after oracle but does not react to its restarts"}}
	ensure := acts(wire.VerbEnsure, wire.ReactRestart)
	return s.
		step(10, 1, run.PhaseLooking, "").
		step(20, 1, run.PhaseActing, "", acts(wire.VerbStop, "")).
		step(1220, 1, run.PhaseDone, "").
		step(1230, 0, run.PhaseLooking, "").
		step(1300, 0, run.PhaseActing, "", acts(wire.VerbRestart, ""), attempt(1)).
		step(4300, 0, run.PhaseSettling, "", acted).
		step(4400, 0, run.PhaseSettling, "connected, but the database system is starting up").
		step(5400, 0, run.PhaseDone, "").
		step(5410, 2, run.PhaseLooking, "").
		step(5410, 3, run.PhaseLooking, "").
		step(5410, 4, run.PhaseLooking, "").
		step(5410, 5, run.PhaseLooking, "").
		step(5410, 6, run.PhaseLooking, "").
		step(5500, 2, run.PhaseActing, since, ensure, owes("oracle@db1"), attempt(1)).
		step(5510, 3, run.PhaseRetry, refused, attempt(1)).
		step(5520, 4, run.PhaseWaived, "it was stopped on purpose").
		step(5530, 5, run.PhaseSlot, "at most 1 of web at once").
		step(5540, 6, run.PhaseActing, "", ensure).
		step(5900, 2, run.PhaseSettling, "", acted).
		step(6000, 2, run.PhaseSettling, "connection refused").
		step(6100, 2, run.PhaseSettling, "answered 1 of 3 times").
		step(6200, 2, run.PhaseSettling, "answered 2 of 3 times").
		step(6300, 2, run.PhaseSettling, "connection refused").
		step(8710, 2, run.PhaseDone, "").
		step(8720, 5, run.PhaseLooking, "").
		step(8730, 5, run.PhaseBlocked, "oracle@db1: connection refused").
		step(8800, 5, run.PhaseAlready, "it is up and fresh").
		step(9000, 6, run.PhaseDone, "").
		step(9510, 3, run.PhaseLooking, "").
		step(9520, 3, run.PhaseActing, "oracle@db1 has a new incarnation since web@web2 was started", ensure, owes("oracle@db1"), attempt(2)).
		step(9900, 3, run.PhaseFailed, refused, owes("oracle@db1"), hint("is web2 up? then: kido resume")).
		step(9900, 7, run.PhaseSkipped, "web@web2 was failed").
		step(9990, 8, run.PhaseRefused, "refused: no grant for mail", hint("grant it in the policy of m1")).
		end(10000, run.OutcomeRefused)
}

// show plays a story to a view at the story's own times.
func (s *story) show(v view) []byte {
	var out []byte
	for _, e := range s.events {
		v.take(e, e.Time)
		out = append(out, v.output(false)...)
	}
	return append(out, v.output(true)...)
}

func TestGolden(t *testing.T) {
	t.Parallel()
	interrupted := tell(plan.Up, "web", does(plan.ActStart, "oracle@db1"), does(plan.ActEnsure, "web@web1"), does(plan.ActEnsure, "web@web2"), does(plan.ActEnsure, "web@web3")).
		step(0, 0, run.PhaseActing, "", acts(wire.VerbStart, "")).
		step(100, 1, run.PhaseLeft, "interrupted").
		step(100, 2, run.PhaseLeft, "interrupted").
		step(100, 3, run.PhaseLeft, "interrupted").
		step(900, 0, run.PhaseSettling, "", acted).
		step(900, 0, run.PhaseLeft, "interrupted").
		end(900, run.OutcomeInterrupted)
	down := tell(plan.Down, "web", does(plan.ActStop, "web@web1"), does(plan.ActStop, "oracle@db1")).
		step(0, 0, run.PhaseAlready, "it is down").
		step(10, 1, run.PhaseActing, "", acts(wire.VerbStop, "")).
		step(75_000, 1, run.PhaseDone, "").
		end(75_000, run.OutcomeDone)
	fresh := tell(plan.Announce, "oracle", does(plan.ActWait, "oracle@db1"), does(plan.ActEnsure, "web@web1"), does(plan.ActEnsure, "web@web2")).
		step(0, 0, run.PhaseAlready, "it is ready", poorly("read-only")).
		step(10, 1, run.PhaseAlready, "it is up and fresh").
		step(10, 2, run.PhaseDone, "", poorly("answered after 3s")).
		end(20, run.OutcomeDone)
	held := tell(plan.Restart, "oracle", does(plan.ActHold, "web@web1"), does(plan.ActRestart, "oracle@db1"), does(plan.ActEnsure, "web@web1")).
		step(0, 0, run.PhaseFailed, "its stop script ended with status 1", hint("see its log")).
		step(10, 1, run.PhaseSkipped, "web@web1 failed").
		step(20, 2, run.PhaseSkipped, "oracle@db1 was skipped").
		end(20, run.OutcomeFailed)
	nothing := tell(plan.Announce, "web").end(0, run.OutcomeDone)
	cut := tell(plan.Reload, "web", does(plan.ActReload, "web@web1")).step(0, 0, run.PhaseActing, "", acts(wire.VerbReload, ""))
	for _, c := range []struct {
		name  string
		story *story
	}{{"cascade", cascade()}, {"interrupted", interrupted}, {"down", down}, {"fresh", fresh}, {"held", held}, {"nothing", nothing}, {"cut", cut}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			golden(t, c.name+".txt", c.story.show(&plain{board: newBoard(c.story.plan, nil, false)}))
			golden(t, c.name+".quiet.txt", c.story.show(&plain{board: newBoard(c.story.plan, nil, false), quiet: true}))
			golden(t, c.name+".jsonl", c.story.show(&lines{}))
		})
	}
}

// A resumed run does not show again what its earlier part has stopped, and
// counts it.
func TestResumed(t *testing.T) {
	t.Parallel()
	past := tell(plan.Down, "oracle", does(plan.ActStop, "web@web1"), does(plan.ActStop, "oracle@db1"), does(plan.ActRestart, "cache@c1"), does(plan.ActEnsure, "app@a1")).
		step(0, 0, run.PhaseActing, "", acts(wire.VerbStop, "")).
		step(500, 0, run.PhaseDone, "").
		step(500, 2, run.PhaseDone, "").
		step(500, 3, run.PhaseDone, "")
	now := &story{plan: past.plan, begun: past.begun.Add(time.Hour)}
	now.add(0, run.Event{Begin: &run.BeginEvent{Resumed: true}}).
		step(0, 1, run.PhaseActing, "", acts(wire.VerbStop, ""))
	v := &live{board: newBoard(past.plan, past.events, true), size: sized(80, 24), now: func() time.Time { return now.begun }}
	screen := newVT(80, 24)
	for _, e := range now.events {
		v.take(e, e.Time)
	}
	screen.Write(v.output(false))
	if got, want := screen.screen(), "| oracle@db1   0.1s  stopping\n  ... 2 waiting, 1 done  0.1s\n"; got != want {
		t.Errorf("screen:\n%swant:\n%s", got, want)
	}
	now.step(1000, 1, run.PhaseDone, "").
		step(1000, 2, run.PhaseLooking, "").
		step(1100, 2, run.PhaseDone, "").
		step(1100, 3, run.PhaseActing, since, acts(wire.VerbEnsure, wire.ReactRestart)). // a new debt meanwhile
		step(2000, 3, run.PhaseDone, "").
		end(2000, run.OutcomeDone)
	got := string(now.show(&plain{board: newBoard(past.plan, past.events, false)}))
	if want := "oracle@db1: stopping\noracle@db1: stopped in 1s\ncache@c1: done earlier\n" +
		"app@a1: restarting (" + since + ")\napp@a1: done in 0.9s\n2 done, 2 done earlier (2s)\n"; got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

// What a step says while nothing changes does not fill a log, for days if need
// be.
func TestNoFlood(t *testing.T) {
	t.Parallel()
	s := tell(plan.Announce, "oracle", does(plan.ActEnsure, "web@web1"))
	for n := 1; n <= 1000; n++ {
		s.step(n, 0, run.PhaseLooking, "").
			step(n, 0, run.PhaseActing, since, acts(wire.VerbEnsure, wire.ReactRestart), attempt(n)).
			step(n, 0, run.PhaseRetry, fmt.Sprintf("read tcp 10.0.0.1:%d: connection reset", 30000+n), attempt(n))
	}
	got := string(s.show(&plain{board: newBoard(s.plan, nil, false)}))
	if n := strings.Count(got, ": restarting ("); n != 1 {
		t.Errorf("said %d times that it restarts, want once:\n%s", n, got)
	}
	if n := strings.Count(got, ": retry in "); n < 5 || n > 15 {
		t.Errorf("%d lines of 1000 retries:\n%s", n, got)
	}
	many := tell(plan.Announce, "oracle", does(plan.ActEnsure, "web@web1"))
	for n := range 1000 {
		many.step(n, 0, run.PhaseSettling, strings.Repeat("x", n+1))
	}
	if n := bytes.Count(many.show(&plain{board: newBoard(many.plan, nil, false)}), []byte("until ready")); n > maxSaid {
		t.Errorf("%d lines of one wait", n)
	}
}

// Each restart that was really done is told.
func TestEveryRestartIsSaid(t *testing.T) {
	t.Parallel()
	s := tell(plan.Announce, "oracle", does(plan.ActEnsure, "web@web1"))
	for n := range 3 {
		s.step(10*n, 0, run.PhaseActing, since, acts(wire.VerbEnsure, wire.ReactRestart)).
			step(10*n+1, 0, run.PhaseSettling, "", acted)
	}
	if n := bytes.Count(s.show(&plain{board: newBoard(s.plan, nil, false)}), []byte(": restarting (")); n != 3 {
		t.Errorf("said %d restarts of 3", n)
	}
}

var hostile = []string{
	"\x1b]0;owned\a\x1b[2J\x1b[1;1Hweb@web1: done in 1s",
	"two\nweb@web9: done in 1s\r\nlines",
	"\xff\xfe not UTF-8 \x80",
	"\u202egnihtemos\u2066 hidden\u200b\ufeff",
	"C1 \u009b31m and \u0085 and DEL \x7f",
	"接続拒否 " + strings.Repeat("幅", 300),
	strings.Repeat("long ", 4000),
	strings.Repeat("\x00", 4000),
}

func hostileStory(word string) *story {
	bad := func(e *run.StepEvent) { e.Hint, e.Owes = word, []string{word, word} }
	s := tell(plan.Restart, "oracle", does(plan.ActRestart, "oracle@db1"), does(plan.ActEnsure, "web@web1"))
	s.plan.Steps[0].Reason = word
	s.plan.Alone = []plan.Note{{Instance: "cron@db1", Reason: word}}
	return s.
		step(0, 0, run.PhaseActing, "", acts(wire.VerbRestart, "")).
		step(10, 0, run.PhaseSettling, word).
		step(10, 1, run.PhaseRetry, word, bad).
		step(20, 0, run.PhaseBlocked, word).
		step(30, 0, run.PhaseFailed, word, bad).
		step(40, 1, run.PhaseSkipped, word, hint(word)).
		end(50, run.OutcomeIncomplete)
}

func checkHostile(t *testing.T, word string) {
	t.Helper()
	tame := hostileStory("tame").show(&plain{board: newBoard(hostileStory("tame").plan, nil, false)})
	s := hostileStory(word)
	out := s.show(&plain{board: newBoard(s.plan, nil, false)})
	checkPrintable(t, out)
	if bytes.Count(out, []byte("\n")) > bytes.Count(tame, []byte("\n")) {
		t.Errorf("%q made lines of its own:\n%s", word, out)
	}
	for line := range bytes.Lines(out) {
		if len(line) > 4*maxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	record := s.show(&lines{})
	checkPrintable(t, record)
	n := 0
	for line := range bytes.Lines(record) {
		e, err := run.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		if e.Step != nil && e.Step.Phase == run.PhaseFailed && e.Step.Word != strings.ToValidUTF8(word, "\ufffd") && utf8.ValidString(word) {
			t.Errorf("%q came back as %q", word, e.Step.Word)
		}
		n++
	}
	if n != len(s.events) {
		t.Errorf("%d JSON lines of %d events", n, len(s.events))
	}
	for _, ascii := range []bool{false, true} {
		screen := newVT(40, 5)
		s.watch(t, screen, &live{board: newBoard(s.plan, nil, ascii), size: screen.size, colour: true})
	}
	var table bytes.Buffer
	if err := WriteStatus(&table, Status{Instances: []Instance{{Name: "web@web1", State: Unknown, Why: word, Owes: []string{word}}}}); err != nil {
		t.Fatal(err)
	}
	checkPrintable(t, table.Bytes())
	if n := bytes.Count(table.Bytes(), []byte("\n")); n != 2 {
		t.Errorf("%q made a table of %d lines", word, n)
	}
}

func checkPrintable(t *testing.T, out []byte) {
	t.Helper()
	for i := 0; i < len(out); {
		r, size := utf8.DecodeRune(out[i:])
		if r != '\n' && !unicode.IsPrint(r) || r == utf8.RuneError && size == 1 {
			t.Fatalf("%q is put out, at %q", out[i:i+size], out[max(0, i-40):i+size])
		}
		i += size
	}
}

func TestHostileWords(t *testing.T) {
	t.Parallel()
	for n, word := range hostile {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			checkHostile(t, word)
		})
	}
}

func FuzzHostileWords(f *testing.F) {
	for _, word := range hostile {
		f.Add(word)
	}
	f.Fuzz(checkHostile)
}

func TestElapsed(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0.1s", 0: "0.1s", 149 * time.Millisecond: "0.1s", 3210 * time.Millisecond: "3.2s",
		4 * time.Second: "4s", 9949 * time.Millisecond: "9.9s", 9950 * time.Millisecond: "10s",
		59*time.Second + 499*time.Millisecond: "59s", 59*time.Second + 500*time.Millisecond: "1m00s" /* not 60s */, 60 * time.Second: "1m00s",
		185 * time.Second: "3m05s", 127 * time.Minute: "2h07m",
	} {
		if got := elapsed(d); got != want {
			t.Errorf("elapsed(%v) = %s, want %s", d, got, want)
		}
	}
}

// A reader that does not read holds nothing up but Close; one that is gone does
// not even that.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := cascade()
	p := New(w, s.plan, Options{JSON: true})
	const rounds = 200 // many times what a pipe holds
	for range rounds {
		for _, e := range s.events {
			p.Event(e)
		}
	}
	n := 0
	all := make(chan struct{})
	go func() {
		defer close(all)
		for in := bufio.NewScanner(r); n < rounds*len(s.events) && in.Scan(); {
			n++
		}
	}()
	p.Close()
	<-all
	if want := rounds * len(s.events); n != want {
		t.Errorf("%d lines of %d came through", n, want)
	}
	r.Close()
	gone := New(w, s.plan, Options{})
	for _, e := range s.events {
		gone.Event(e)
	}
	gone.Close()
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	s := cascade()
	for _, v := range []view{&lines{}, &plain{board: newBoard(s.plan, nil, false)}, &live{board: newBoard(s.plan, nil, false), size: sized(80, 24), now: time.Now}} {
		p := start(io.Discard, v, time.Millisecond)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for _, e := range s.events {
					p.Event(e)
				}
				p.Close()
				p.Event(s.events[1])
				p.Close()
			})
		}
		wg.Wait()
	}
}

// Nothing is shown of a run that never began.
func TestCloseAtOnce(t *testing.T) {
	t.Parallel()
	s := cascade()
	for _, v := range []view{&lines{}, &plain{board: newBoard(s.plan, nil, false)}, &live{board: newBoard(s.plan, nil, false), size: sized(80, 24), now: time.Now}} {
		var out bytes.Buffer
		p := start(&out, v, 0)
		p.Close()
		p.Close()
		if out.Len() > 0 {
			t.Errorf("%T wrote %q", v, out.String())
		}
	}
}

func TestEventsOfUnknownSteps(t *testing.T) {
	t.Parallel()
	p := &plan.Plan{}
	b := newBoard(p, []run.Event{{Step: &run.StepEvent{ID: -1}}, {Step: &run.StepEvent{ID: 3}}}, false)
	b.apply(run.Event{Step: &run.StepEvent{ID: 7, Phase: run.PhaseFailed}}, time.Now())
	if l := b.news(); len(l) != 0 {
		t.Errorf("said %v", l)
	}
}

func TestStatusJSON(t *testing.T) {
	t.Parallel()
	out, err := json.MarshalIndent(site(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", append(out, '\n'))
}
