package report

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

func sized(width, height int) func() (int, int) {
	return func() (int, int) { return width, height }
}

func (t *vt) size() (int, int) { return t.width, t.height }

// watch plays a story to a live view on a terminal, and returns what was seen
// after each event.
func (s *story) watch(t *testing.T, screen *vt, v *live) []string {
	t.Helper()
	var seen []string
	at := s.begun
	v.now = func() time.Time { return at }
	draw := func(last bool) {
		t.Helper()
		screen.Write(v.output(last))
		if len(v.drawn) > max(0, screen.height-1) {
			t.Errorf("a block of %d lines on a screen of %d", len(v.drawn), screen.height)
		}
		if screen.x != 0 || screen.pending {
			t.Error("the cursor is not at the beginning of a line")
		}
		// A line of the block that wraps would push the cursor further down.
		for n := range len(v.drawn) {
			if screen.rows[screen.y-1-n].wraps {
				t.Errorf("line %d of the block wraps:\n%s", n, screen.screen())
			}
		}
		seen = append(seen, screen.screen())
	}
	for _, e := range s.events {
		at = e.Time
		v.take(e, at)
		draw(false)
	}
	draw(true)
	if screen.strange != nil {
		t.Errorf("sent to the terminal: %v", screen.strange)
	}
	return seen
}

// said is what a live view leaves behind: the lines of the story for good.
func (s *story) said(ascii bool) string {
	v := &live{board: newBoard(s.plan, nil, ascii)}
	var all strings.Builder
	add := func() {
		for _, l := range v.board.news() {
			if !l.passing {
				all.WriteString(v.permanent(l) + "\n")
			}
		}
	}
	for _, e := range s.events {
		v.take(e, e.Time)
		add()
	}
	v.board.close()
	add()
	return all.String()
}

func TestLive(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{80, 24}, {40, 5}, {200, 60}, {12, 3}, {1, 1}, {20, 2}} {
		for _, ascii := range []bool{false, true} {
			name := fmt.Sprintf("%dx%d", size[0], size[1])
			if ascii {
				name += "-ascii"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := cascade()
				screen := newVT(size[0], size[1])
				seen := s.watch(t, screen, &live{board: newBoard(s.plan, nil, ascii), size: screen.size, colour: true})
				if got, want := screen.all(), s.said(ascii); got != want {
					t.Errorf("left on the terminal:\n%s\nwant:\n%s", got, want)
				}
				if size[0] == 80 || size[0] == 40 {
					var film strings.Builder
					for n, frame := range seen {
						fmt.Fprintf(&film, "---- %d\n%s", n, frame)
					}
					golden(t, name+".screens", []byte(film.String()))
				}
			})
		}
	}
}

// Where there is no room for all, those that are at work are shown, and the
// others counted.
func TestLiveCollapses(t *testing.T) {
	t.Parallel()
	var steps []plan.Step
	for n := range 300 {
		steps = append(steps, does(plan.ActEnsure, fmt.Sprintf("web@web%d", n)))
	}
	s := tell(plan.Announce, "oracle", steps...)
	for n := range 60 {
		s.step(0, n, run.PhaseLooking, "")
		if n < 30 {
			s.step(10, n, run.PhaseAlready, "it is up and fresh")
		}
	}
	s.step(20, 58, run.PhaseActing, since, acts(wire.VerbEnsure, wire.ReactRestart)).
		step(30, 57, run.PhaseFailed, "no").
		step(30, 56, run.PhaseRetry, "no", attempt(1))
	screen := newVT(80, 5)
	seen := s.watch(t, screen, &live{board: newBoard(s.plan, nil, true), size: screen.size})
	got := strings.Join(strings.Split(seen[len(s.events)-1], "\n")[:4], "\n")
	want := strings.Join([]string{
		"/ web@web30    0.1s  looking",
		"/ web@web56    0.1s  retry in 4s (attempt 2): no",
		"/ web@web58    0.1s  restarting (oracle@db1 has a new incarnation since web@w..",
		"  ... 26 more under way, 240 waiting, 30 done, 1 failed  0.1s",
	}, "\n")
	if strings.Map(still, got) != strings.Map(still, want) {
		t.Errorf("screen:\n%s\nwant:\n%s", got, want)
	}
}

// still stops the spinner.
func still(r rune) rune {
	if strings.ContainsRune(`|/-\`, r) {
		return '|'
	}
	return r
}

// A terminal that becomes narrower wraps what is on it; the block is still
// wiped, whole and with nothing above it.
func TestLiveResize(t *testing.T) {
	t.Parallel()
	s := cascade()
	for _, sizes := range [][][2]int{
		{{80, 24}, {40, 24}, {100, 24}, {30, 24}},
		{{80, 24}, {80, 10}, {80, 40}, {20, 30}},
	} {
		screen := newVT(sizes[0][0], sizes[0][1])
		at := s.begun
		v := &live{board: newBoard(s.plan, nil, false), size: screen.size, now: func() time.Time { return at }}
		for n, e := range s.events {
			at = e.Time
			v.take(e, at)
			screen.Write(v.output(false))
			if n%4 == 3 {
				next := sizes[n/4%len(sizes)]
				screen.resize(next[0], next[1])
			}
		}
		screen.Write(v.output(true))
		if got, want := screen.all(), s.said(false); got != want {
			t.Errorf("%v: left on the terminal:\n%s\nwant:\n%s", sizes, got, want)
		}
	}
}

// What the terminal echoes while the view stands does not stay.
func TestLiveEcho(t *testing.T) {
	t.Parallel()
	s := cascade()
	screen := newVT(80, 24)
	at := s.begun
	v := &live{board: newBoard(s.plan, nil, false), size: screen.size, now: func() time.Time { return at }}
	for _, e := range s.events {
		at = e.Time
		v.take(e, at)
		screen.Write(v.output(false))
		if !v.board.ended {
			screen.Write([]byte("^C"))
		}
	}
	screen.Write(v.output(true))
	if got, want := screen.all(), s.said(false); got != want {
		t.Errorf("left on the terminal:\n%s\nwant:\n%s", got, want)
	}
}

func TestNoColour(t *testing.T) {
	t.Parallel()
	s := cascade()
	for colour, want := range map[bool]bool{true: true, false: false} {
		v := &live{board: newBoard(s.plan, nil, false), size: sized(80, 24), now: func() time.Time { return s.begun }, colour: colour}
		if got := bytes.Contains(s.show(v), []byte("m")) && bytes.Contains(s.show(v), []byte("\x1b[31m")); got != want {
			t.Errorf("colour %v: coloured is %v", colour, got)
		}
	}
}

// The whole thing on a real pseudo-terminal.
func TestPTY(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{80, 24}, {40, 5}} {
		t.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(t *testing.T) {
			t.Parallel()
			master, tty := openPTY(t, size[0], size[1])
			before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			screen := newVT(size[0], size[1])
			var mu sync.Mutex
			changed := make(chan struct{}, 1)
			go func() {
				buf := make([]byte, 4096)
				for {
					n, err := master.Read(buf)
					mu.Lock()
					screen.Write(buf[:n])
					mu.Unlock()
					select {
					case changed <- struct{}{}:
					default:
					}
					if err != nil {
						return
					}
				}
			}()
			wait := func(what string) {
				t.Helper()
				deadline := time.After(30 * time.Second)
				for {
					mu.Lock()
					all := screen.all()
					mu.Unlock()
					if strings.Contains(all, what) {
						return
					}
					select {
					case <-changed:
					case <-deadline:
						t.Fatalf("%q did not come; the terminal:\n%s", what, all)
					}
				}
			}
			s := cascade()
			p := open(tty, s.plan, Options{}, env("TERM=xterm", "LANG=C.UTF-8", "NO_COLOR=1"))
			middle := len(s.events) / 2
			for _, e := range s.events[:middle] {
				p.Event(e)
			}
			wait("web@web1")
			wait("… ")
			for _, e := range s.events[middle:] {
				p.Event(e)
			}
			p.Close()
			p.Close()
			fmt.Fprint(tty, "$")
			wait("$")
			// The times differ: they are this machine's.
			mu.Lock()
			defer mu.Unlock()
			if got, want := timeless(screen.all()), timeless(s.said(false)+"$\n"); got != want {
				t.Errorf("left on the terminal:\n%s\nwant:\n%s", got, want)
			}
			if screen.strange != nil {
				t.Errorf("sent to the terminal: %v", screen.strange)
			}
			after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if *before != *after {
				t.Error("the modes of the terminal were changed")
			}
		})
	}
}

// timeless replaces durations.
func timeless(s string) string {
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" \n(),", r) }) {
		if _, err := time.ParseDuration(word); err == nil {
			s = strings.ReplaceAll(s, word, "TIME")
		}
	}
	return s
}

func openPTY(t *testing.T, width, height int) (master, tty *os.File) {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Skipf("SKIPPED, no pseudo-terminal here: %v; mount /dev/pts", err)
	}
	t.Cleanup(func() {
		tty.Close()
		master.Close()
	})
	if err := pty.Setsize(master, &pty.Winsize{Cols: uint16(width), Rows: uint16(height)}); err != nil {
		t.Fatal(err)
	}
	return master, tty
}

func env(all ...string) func(string) string {
	return func(name string) string {
		for _, e := range all {
			if k, v, _ := strings.Cut(e, "="); k == name {
				return v
			}
		}
		return ""
	}
}

// Which view is chosen.
func TestViewChosen(t *testing.T) {
	t.Parallel()
	_, tty := openPTY(t, 80, 24)
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, r)
	t.Cleanup(func() {
		pipe.Close()
		r.Close()
	})
	for _, c := range []struct {
		name string
		file *os.File
		o    Options
		env  []string
		want string
	}{
		{"terminal", tty, Options{}, []string{"TERM=xterm", "LANG=en_GB.UTF-8"}, "live colour"},
		{"terminal without colour", tty, Options{}, []string{"TERM=xterm", "LC_ALL=C.utf8", "NO_COLOR=1"}, "live"},
		{"not UTF-8", tty, Options{}, []string{"TERM=xterm", "LC_ALL=C", "LANG=en_GB.UTF-8"}, "live ascii colour"},
		{"dumb", tty, Options{}, []string{"TERM=dumb"}, "plain"},
		{"no TERM", tty, Options{}, nil, "plain"},
		{"pipe", pipe, Options{}, []string{"TERM=xterm"}, "plain"},
		{"quiet", tty, Options{Quiet: true}, []string{"TERM=xterm"}, "quiet"},
		{"json", tty, Options{JSON: true, Quiet: true}, []string{"TERM=xterm"}, "lines"},
	} {
		p := open(c.file, &plan.Plan{}, c.o, env(c.env...))
		p.Close()
		got := "lines"
		switch v := p.view.(type) {
		case *plain:
			got = "plain"
			if v.quiet {
				got = "quiet"
			}
		case *live:
			got = "live"
			if v.board.ascii {
				got += " ascii"
			}
			if v.colour {
				got += " colour"
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
