package probe_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kido/internal/probe"
)

// said are the answers that a part of a combination can be, by the host of its target.
var said = map[string]probe.Answer{
	"yes":      {Ready: true},
	"also":     {Ready: true},
	"no":       probe.NotReady("connection refused"),
	"starting": probe.NotReady("it is starting up"),
	"standby":  probe.Answer{Ready: true}.Degrade("read-only"),
	"full":     probe.Answer{Ready: true}.Degrade("nearly full"),
	"untold":   probe.Untried("permission denied"),
	"db":       probe.Alive("2026-01-01 10:00", time.Hour),
	"cache":    probe.Alive("run-5", time.Minute),
	"ageless":  probe.Alive("x", 0),
	"old":      probe.Alive("2026-01-01 10:00", time.Hour).Degrade("read-only"),
}

// combined reads "all(a any(b c) not(d))".
func combined(text string) probe.Spec {
	open := func(name string) probe.Spec { return probe.Spec{Kind: probe.Kind(name)} }
	stack := []probe.Spec{{}}
	for _, word := range strings.Fields(strings.NewReplacer("(", "( ", ")", " )").Replace(text)) {
		top := &stack[len(stack)-1]
		name, opens := strings.CutSuffix(word, "(")
		switch {
		case opens:
			stack = append(stack, open(name))
		case word == ")":
			whole := *top
			stack = stack[:len(stack)-1]
			below := &stack[len(stack)-1]
			below.Of = append(below.Of, whole)
		default:
			kind := probe.KindTCP
			if said[word].Life != "" {
				kind = probe.KindRedis
			}
			top.Of = append(top.Of, probe.Spec{Kind: kind, Target: word + ":1"})
		}
	}
	return stack[0].Of[0]
}

func TestCombine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]probe.Answer{
		"all(yes)":                     {Ready: true},
		"all(yes also)":                {Ready: true},
		"all(no)":                      {Word: "connection refused"},
		"all(yes no starting)":         {Word: "tcp no:1: connection refused"},
		"all(starting no)":             {Word: "tcp starting:1: it is starting up"},
		"all(untold no)":               {Word: "tcp no:1: connection refused"}, // it is not ready, whatever the other is
		"all(yes untold)":              {Untried: true, Word: "tcp untold:1: permission denied"},
		"all(yes standby full)":        {Ready: true, Degraded: true, Word: "tcp standby:1: read-only"},
		"all(standby no)":              {Word: "tcp no:1: connection refused"},
		"all(db yes)":                  {Ready: true, Life: "2026-01-01_10:00", Age: time.Hour},
		"all(db cache)":                {Ready: true, Life: "2026-01-01_10:00+run-5", Age: time.Minute},
		"all(cache ageless db)":        {Ready: true, Life: "run-5+x+2026-01-01_10:00"},
		"all(ageless yes)":             {Ready: true, Life: "x"},
		"all(old cache)":               {Ready: true, Degraded: true, Word: "redis old:1: read-only", Life: "2026-01-01_10:00+run-5", Age: time.Minute},
		"all(all(db cache) yes)":       {Ready: true, Life: "2026-01-01_10:00+run-5", Age: time.Minute},
		"any(yes)":                     {Ready: true},
		"any(no yes)":                  {Ready: true},
		"any(standby yes)":             {Ready: true},
		"any(no full standby)":         {Ready: true, Degraded: true, Word: "tcp full:1: nearly full"},
		"any(db cache)":                {Ready: true}, // which of them answers is no incarnation
		"any(no starting)":             {Word: "tcp no:1: connection refused; tcp starting:1: it is starting up"},
		"any(no untold)":               {Untried: true, Word: "tcp no:1: connection refused; tcp untold:1: permission denied"},
		"any(untold yes)":              {Ready: true},
		"not(no)":                      {Ready: true},
		"not(yes)":                     {Word: "tcp yes:1 is ready, and is not to be"},
		"not(standby)":                 {Word: "tcp standby:1 is ready, and is not to be"},
		"not(db)":                      {Word: "redis db:1 is ready, and is not to be"},
		"not(untold)":                  {Untried: true, Word: "tcp untold:1: permission denied"},
		"not(any(no untold))":          {Untried: true, Word: "any of (tcp no:1, tcp untold:1): tcp no:1: connection refused; tcp untold:1: permission denied"},
		"not(all(no untold))":          {Ready: true},
		"not(not(yes))":                {Ready: true},
		"not(not(no))":                 {Word: "not tcp no:1 is ready, and is not to be"},
		"all(any(no yes) not(no))":     {Ready: true},
		"all(any(no starting) db)":     {Word: "any of (tcp no:1, tcp starting:1): tcp no:1: connection refused; tcp starting:1: it is starting up"},
		"all(not(yes) db)":             {Word: "not tcp yes:1: tcp yes:1 is ready, and is not to be"},
		"all(all(all(all(yes))))":      {Ready: true},
		"all(all(all(all(all(yes)))))": {Untried: true, Word: "all: all: all: all: all: combinations go 4 deep at most"},
	} {
		s := combined(text)
		var mu sync.Mutex
		asked := 0
		got := probe.Make(t.Context(), s, func(_ context.Context, part probe.Spec) probe.Answer {
			mu.Lock()
			asked++
			mu.Unlock()
			return said[strings.TrimSuffix(part.Target, ":1")]
		})
		if got.Took <= 0 {
			t.Errorf("%s took %v", text, got.Took)
		}
		if got.Took = 0; got != want {
			t.Errorf("%s: got %+v, want %+v", text, got, want)
		}
		if leaves := strings.Count(s.Described(), ":1"); asked != leaves && !want.Untried {
			t.Errorf("%s: %d of %d parts were asked", text, asked, leaves)
		}
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	if a := probe.Together(nil, nil); a != (probe.Answer{Ready: true}) {
		t.Errorf("of none: %+v", a)
	}
	specs := make([]probe.Spec, 16)
	for i := range specs {
		specs[i] = probe.Spec{Kind: probe.KindTCP, Target: fmt.Sprintf("h:%d", i)}
	}
	together := func(answers []probe.Answer) probe.Answer { return probe.Together(specs[:len(answers)], answers) }
	lives := map[string]bool{}
	for _, parts := range [][]string{{"db"}, {"db", "cache"}, {"cache", "db"}, {"db", "db"}} {
		var answers []probe.Answer
		for _, name := range parts {
			answers = append(answers, said[name])
		}
		lives[together(answers).Life] = true
	}
	if len(lives) != 4 {
		t.Errorf("got %v", lives)
	}
	hour, minute, none := probe.Alive("a", time.Hour), probe.Alive("b", time.Minute), probe.Alive("c", 0)
	for _, x := range []struct {
		of  []probe.Answer
		age time.Duration
	}{{[]probe.Answer{hour, minute}, time.Minute}, {[]probe.Answer{hour, {Ready: true}}, time.Hour}, {[]probe.Answer{hour, none}, 0}, {[]probe.Answer{none, hour}, 0}} {
		if got := together(x.of).Age; got != x.age {
			t.Errorf("%+v together are %v old, want %v", x.of, got, x.age)
		}
	}
	no, late, fine := probe.NotReady("it sleeps"), probe.Answer{Ready: true}.Degrade("it yawns"), probe.Answer{Ready: true}
	for _, x := range []struct {
		of   int
		said []probe.Answer
		word string
	}{
		{1, []probe.Answer{no}, "it sleeps"},
		{1, []probe.Answer{late}, "it yawns"},
		{2, []probe.Answer{no}, "tcp h:0: it sleeps"}, // the other was not asked
		{2, []probe.Answer{fine, no}, "tcp h:1: it sleeps"},
		{2, []probe.Answer{fine, late}, "tcp h:1: it yawns"},
		{2, []probe.Answer{probe.Untried("no such program"), no}, "tcp h:1: it sleeps"},
		{2, []probe.Answer{no, {}}, "tcp h:0: it sleeps"},
		{2, []probe.Answer{{}, fine}, ""},
	} {
		if got := probe.Together(specs[:x.of], x.said).Word; got != x.word {
			t.Errorf("%+v of %d: got %q, want %q", x.said, x.of, got, x.word)
		}
	}
	many := make([]probe.Answer, 16)
	for i := range many {
		many[i] = probe.Alive(strings.Repeat("x", 100), 0)
	}
	before := together(many).Life
	many[15] = probe.Alive(strings.Repeat("x", 99)+"y", 0)
	if after := together(many).Life; before == after || len(after) > 128 {
		t.Errorf("the last of many lives changed, and theirs from %q to %q", before, after)
	}
}

// TestCombineTime: parts are asked at the same time, within the time of the whole, and an
// any that has its answer waits for no more.
func TestCombineTime(t *testing.T) {
	t.Parallel()
	part := func(target string, timeout time.Duration) probe.Spec {
		return probe.Spec{Kind: probe.KindTCP, Target: target + ":1", Timeout: timeout}
	}
	for name, x := range map[string]struct {
		spec probe.Spec
		want probe.Answer
	}{
		"all at once": {probe.Spec{Kind: probe.KindAll, Of: []probe.Spec{part("second", 0), part("second", 0), part("second", 0)}}, probe.Answer{Ready: true, Took: time.Second}},
		"as long as the longest of its parts": {
			probe.Spec{Kind: probe.KindAll, Of: []probe.Spec{part("yes", time.Second), part("hung", 20*time.Second), part("hung", 5*time.Second)}},
			probe.Answer{Word: "tcp hung:1: no answer within 20s", Took: 20 * time.Second},
		},
		"no longer than the whole": {
			probe.Spec{Kind: probe.KindAll, Timeout: 2 * time.Second, Of: []probe.Spec{part("hung", 20*time.Second)}},
			probe.Answer{Word: "no answer within 2s", Took: 2 * time.Second},
		},
		"no longer than itself": {
			probe.Spec{Kind: probe.KindAny, Timeout: 20 * time.Second, Of: []probe.Spec{part("hung", time.Second), part("no", 0)}},
			probe.Answer{Word: "tcp hung:1: no answer within 1s; tcp no:1: connection refused", Took: time.Second},
		},
		"any that has its answer": {probe.Spec{Kind: probe.KindAny, Of: []probe.Spec{part("hung", 0), part("second", 0)}}, probe.Answer{Ready: true, Took: time.Second}},
		"any that has a bad answer": {
			probe.Spec{Kind: probe.KindAny, Of: []probe.Spec{part("hung", 0), part("standby", 0)}},
			probe.Answer{Ready: true, Degraded: true, Word: "tcp standby:1: read-only", Took: 3 * time.Second},
		},
		"not what does not answer": {probe.Spec{Kind: probe.KindNot, Of: []probe.Spec{part("hung", 0)}}, probe.Answer{Ready: true, Took: 3 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				got := probe.Make(t.Context(), x.spec, slowly)
				if got != x.want {
					t.Errorf("got %+v, want %+v", got, x.want)
				}
			})
		})
	}
}

func slowly(ctx context.Context, part probe.Spec) probe.Answer {
	second := time.NewTimer(time.Second)
	defer second.Stop()
	switch part.Target {
	case "second:1":
		select {
		case <-second.C:
			return probe.Answer{Ready: true}
		case <-ctx.Done():
		}
	case "hung:1":
		<-ctx.Done()
	default:
		return said[strings.TrimSuffix(part.Target, ":1")]
	}
	return part.Why(ctx, ctx.Err())
}

// TestCombineInterrupted: what is cut off from outside says nothing about the service,
// least of all that it is down.
func TestCombineInterrupted(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"not(hung)", "all(yes not(hung))", "any(not(hung))", "not(not(not(hung)))"} {
		synctest.Test(t, func(t *testing.T) {
			for _, end := range []func(context.Context) (context.Context, context.CancelFunc){
				func(ctx context.Context) (context.Context, context.CancelFunc) {
					return context.WithTimeout(ctx, time.Second)
				},
				func(ctx context.Context) (context.Context, context.CancelFunc) {
					ctx, cancel := context.WithCancel(ctx)
					time.AfterFunc(time.Second, cancel)
					return ctx, cancel
				},
			} {
				ctx, cancel := end(t.Context())
				if a := probe.Make(ctx, combined(text), slowly); a.Ready || !a.Untried || a.Took != time.Second {
					t.Errorf("%s: got %+v", text, a)
				}
				cancel()
			}
		})
	}
}

// TestFinish: what every kind takes to an answer.
func TestFinish(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		kind    probe.Kind
		options map[string]string
		answer  probe.Answer
		took    time.Duration
		want    probe.Answer
	}{
		"in time":              {probe.KindTCP, options("slow", "20"), said["yes"], 20 * time.Millisecond, probe.Answer{Ready: true}},
		"late":                 {probe.KindTCP, options("slow", "20"), said["yes"], 21 * time.Millisecond, probe.Answer{Ready: true, Degraded: true, Word: "answered after 21ms"}},
		"late, strictly":       {probe.KindTCP, options("slow", "20", "strict", "yes"), said["yes"], 21 * time.Millisecond, probe.Answer{Word: "answered after 21ms"}},
		"late and bad":         {probe.KindTCP, options("slow", "20"), said["standby"], time.Second, said["standby"]},
		"late and not ready":   {probe.KindTCP, options("slow", "20"), said["no"], time.Second, said["no"]},
		"bad, strictly":        {probe.KindTCP, options("strict", "yes"), said["standby"], 0, probe.Answer{Word: "read-only"}},
		"life":                 {probe.KindRedis, nil, said["cache"], 0, said["cache"]},
		"late life":            {probe.KindRedis, options("slow", "20"), said["cache"], time.Second, probe.Answer{Ready: true, Degraded: true, Word: "answered after 1s", Life: "run-5", Age: time.Minute}},
		"life not asked for":   {probe.KindRedis, options("token", "no"), said["cache"], 0, said["yes"]},
		"life of who has none": {probe.KindTCP, nil, said["cache"], 0, said["yes"]},
		"life kept back":       {probe.KindRedis, nil, said["yes"], 0, probe.Answer{Word: "it does not tell its incarnation"}},
		"not ready, no life":   {probe.KindRedis, nil, said["starting"], 0, said["starting"]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := probe.Spec{Kind: x.kind, Target: "a:1", Options: x.options}
				a := probe.Make(t.Context(), s, func(context.Context, probe.Spec) probe.Answer {
					<-time.After(x.took) // of the bubble's time
					return x.answer
				})
				if x.want.Took = x.took; a != x.want {
					t.Errorf("got %+v, want %+v", a, x.want)
				}
			})
		})
	}
}

func TestAlive(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                  "",
		" run-5\n":                          "run-5",
		`2026-01-01 "10:00" \x`:             `2026-01-01__10:00___x`,
		strings.Repeat("x", 128):            strings.Repeat("x", 128),
		strings.Repeat("x", 129):            "sha256:",
		"起動 10:00":                          "sha256:",
		"a\x00b":                            "sha256:",
		"sha256:" + strings.Repeat("0", 64): "sha256:" + strings.Repeat("0", 64),
	} {
		a := probe.Alive(text, time.Hour)
		if !a.Ready || a.Life != want && (want != "sha256:" || !strings.HasPrefix(a.Life, want) || len(a.Life) != 71) {
			t.Errorf("%q became %+v", text, a)
		}
		if again := probe.Alive(a.Life, 0); again.Life != a.Life {
			t.Errorf("%q became %q, and that %q", text, a.Life, again.Life)
		}
	}
	for _, pair := range [][2]string{{"起動", "停止"}, {"a\x00", "a\x01"}, {strings.Repeat("x", 200) + "1", strings.Repeat("x", 200) + "2"}} {
		if a, b := probe.Alive(pair[0], 0), probe.Alive(pair[1], 0); a.Life == b.Life {
			t.Errorf("%q and %q are one life", pair[0], pair[1])
		}
	}
	if a := probe.Alive("x", -time.Second); a.Age != 0 {
		t.Errorf("age %v", a.Age)
	}
}
