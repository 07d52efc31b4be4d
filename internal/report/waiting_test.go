package report

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"kido/internal/wire"
)

// tellWait plays a wait for two to a view: one answers late, the other comes and goes.
func tellWait(v *waitView, show func(last bool)) {
	at := v.begun
	v.now = func() time.Time { return at }
	show(false)
	for _, s := range []struct {
		after time.Duration
		n     int
		a     wire.Probed
		more  string
	}{
		{50 * time.Millisecond, 0, wire.Probed{Word: "connection refused"}, ""},
		{time.Second, 1, wire.Probed{Ready: true, Took: 420 * time.Microsecond}, ""},
		{time.Second, 0, wire.Probed{Word: "connection refused"}, ""},
		{10 * time.Second, 0, wire.Probed{Word: "connected, but: the database system is \x1b[31mstarting up\n起動"}, ""},
		{time.Second, 1, wire.Probed{Word: "no answer within 3s"}, ""},
		{time.Second, 0, wire.Probed{Ready: true, Life: "1700000000"}, "answered 1 of 2 times"},
		{time.Second, 0, wire.Probed{Ready: true, Life: "1700000000"}, ""},
		{time.Second, 1, wire.Probed{Ready: true, Degraded: true, Word: "read-only: it is a standby"}, ""},
	} {
		at = at.Add(s.after)
		v.answer(s.n, s.a, s.more, at)
		show(false)
	}
	show(true)
}

func TestWaitLines(t *testing.T) {
	t.Parallel()
	names := []string{"postgres db1:5432", "tcp web1:80"}
	for name, x := range map[string]struct {
		options WaitOptions
		ascii   bool
		want    string
	}{
		"lines": {WaitOptions{Limit: time.Minute}, false, `kido: waits for postgres db1:5432: connection refused, 0.1s of 1m00s
kido: tcp web1:80 is ready after 1.1s
kido: waits for postgres db1:5432: connected, but: the database system is \x1b[31mstarting up\n起動, 12s of 1m00s
kido: waits for tcp web1:80: no answer within 3s, 13s of 1m00s
kido: waits for postgres db1:5432: answered 1 of 2 times, 14s of 1m00s
kido: postgres db1:5432 is ready after 15s
kido: tcp web1:80 is degraded after 16s: read-only: it is a standby
`},
		"for ever, verbose, ASCII": {WaitOptions{Verbose: true}, true, `kido: postgres db1:5432: not ready in 0.00ms: connection refused
kido: waits for postgres db1:5432: connection refused, 0.1s
kido: tcp web1:80: ready in 0.42ms
kido: tcp web1:80 is ready after 1.1s
kido: postgres db1:5432: not ready in 0.00ms: connection refused
kido: postgres db1:5432: not ready in 0.00ms: connected, but: the database system is \x1b[31mstarting up\n\u8d77\u52d5
kido: waits for postgres db1:5432: connected, but: the database system is \x1b[31mstarting up\n\u8d77\u52d5, 12s
kido: tcp web1:80: not ready in 0.00ms: no answer within 3s
kido: waits for tcp web1:80: no answer within 3s, 13s
kido: postgres db1:5432: ready in 0.00ms, life 1700000000
kido: waits for postgres db1:5432: answered 1 of 2 times, 14s
kido: postgres db1:5432: ready in 0.00ms, life 1700000000
kido: postgres db1:5432 is ready after 15s
kido: tcp web1:80: degraded in 0.00ms: read-only: it is a standby
kido: tcp web1:80 is degraded after 16s: read-only: it is a standby
`},
		"quiet": {WaitOptions{Quiet: true, Verbose: true}, false, ""},
	} {
		v := newWaitView(names, x.options, x.ascii)
		var out bytes.Buffer
		tellWait(v, func(last bool) { out.Write(v.output(last)) })
		if out.String() != x.want {
			t.Errorf("%s: it says\n%s\nwant\n%s", name, out.String(), x.want)
		}
	}
}

// Words that change with every try do not fill a log.
func TestWaitLinesBounded(t *testing.T) {
	t.Parallel()
	v := newWaitView([]string{"a"}, WaitOptions{}, false)
	for n := range 1000 {
		v.answer(0, wire.Probed{Word: fmt.Sprint("number ", n)}, "", v.begun)
	}
	if n := strings.Count(string(v.output(true)), "\n"); n != maxSaid {
		t.Errorf("%d lines, want %d", n, maxSaid)
	}
}

func TestWaitInPlace(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{80, 24}, {40, 3}, {40, 2}, {12, 3}, {1, 1}} {
		screen := newVT(size[0], size[1])
		v := newWaitView([]string{"postgres db1:5432", "tcp web1:80"}, WaitOptions{Limit: time.Minute}, false)
		v.screen = &live{size: screen.size}
		var film strings.Builder
		tellWait(v, func(last bool) {
			screen.Write(v.output(last))
			for n := range len(v.screen.drawn) {
				if screen.rows[screen.y-1-n].wraps {
					t.Errorf("%v: line %d wraps:\n%s", size, n, screen.screen())
				}
			}
			film.WriteString(screen.screen())
		})
		if screen.strange != nil {
			t.Errorf("%v: sent to the terminal: %v", size, screen.strange)
		}
		want := "kido: tcp web1:80 is ready after 1.1s\nkido: postgres db1:5432 is ready after 15s\nkido: tcp web1:80 is degraded after 16s: read-only: it is a standby\n"
		if got := screen.all(); got != want {
			t.Errorf("%v: left on the terminal:\n%s\nwant\n%s", size, got, want)
		}
		if size[0] == 80 {
			for _, line := range []string{
				"0.1s of 1m00s: waits for postgres db1:5432\n0.1s of 1m00s: waits for tcp web1:80\n",
				"2.1s of 1m00s: waits for postgres db1:5432: connection refused\n",
				"13s of 1m00s: waits for tcp web1:80: no answer within 3s\n",
			} {
				if !strings.Contains(film.String(), line) {
					t.Errorf("never on the screen: %s\n%s", line, film.String())
				}
			}
		}
		if size == [2]int{40, 2} && !strings.Contains(film.String(), "0.1s of 1m00s: and for 2 more") {
			t.Errorf("what has no room is not counted:\n%s", film.String())
		}
	}
}

func TestWriteProbes(t *testing.T) {
	t.Parallel()
	rows := []Probe{
		Answered("oracle@db1", "db1", wire.Probed{About: "tcp db1:1521", Ready: true, Took: 420 * time.Microsecond}),
		Answered("oracle@db1", Here, wire.Probed{About: "oracle db1:1521", Word: "ORA-01034: \x1b[31mnot available", Took: 12400 * time.Microsecond}),
		Answered("oracle@db1", "web1", wire.Probed{Ready: true, Degraded: true, Word: "read-only", Took: 3050 * time.Millisecond, Life: "17"}),
		{Instance: "oracle@db1", From: "web2", Answer: Unknown, Word: "no route to host"},
	}
	for lives, want := range map[bool]string{
		false: `INSTANCE    FROM  PROBE            ANSWER     TIME    WORD
oracle@db1  db1   tcp db1:1521     ready      0.42ms
oracle@db1  here  oracle db1:1521  not ready  12ms    ORA-01034: \x1b[31mnot available
oracle@db1  web1  -                degraded   3.05s   read-only
oracle@db1  web2  -                unknown    -       no route to host
`,
		true: `INSTANCE    FROM  PROBE            ANSWER     TIME    LIFE  WORD
oracle@db1  db1   tcp db1:1521     ready      0.42ms  -
oracle@db1  here  oracle db1:1521  not ready  12ms    -     ORA-01034: \x1b[31mnot available
oracle@db1  web1  -                degraded   3.05s   17    read-only
oracle@db1  web2  -                unknown    -       -     no route to host
`,
	} {
		var out bytes.Buffer
		if err := WriteProbes(&out, rows, lives); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("it is\n%s\nwant\n%s", out.String(), want)
		}
	}
	for n, well := range []bool{true, false, true, false} {
		if rows[n].Well() != well {
			t.Errorf("%v: well is %v", rows[n], !well)
		}
	}
}
