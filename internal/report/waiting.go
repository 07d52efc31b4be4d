package report

import (
	"fmt"
	"os"
	"time"

	"kido/internal/run"
	"kido/internal/wire"
)

// WaitOptions say how a wait is shown.
type WaitOptions struct {
	Limit   time.Duration // how long it may take; 0: for ever
	Quiet   bool          // nothing at all
	Verbose bool          // every answer
}

// Waiting shows what is waited for: on a terminal in place, else a line where
// something changes.
type Waiting struct {
	progress *Progress
	view     *waitView
}

// Wait begins to show on w that what has these names is waited for.
func Wait(w *os.File, names []string, o WaitOptions) *Waiting {
	return openWait(w, names, o, os.Getenv)
}

func openWait(w *os.File, names []string, o WaitOptions, getenv func(string) string) *Waiting {
	inPlace := !o.Quiet && onTerminal(w, getenv)
	v := newWaitView(names, o, inPlace && !isUTF8(getenv))
	frame := time.Duration(0)
	if inPlace {
		v.screen = &live{size: sizeOf(w)}
		frame = frameTime
	}
	return &Waiting{start(w, v, frame), v}
}

// Answer takes what the nth of the names answered. More says what is yet to come
// where that was good and is not enough; "" where it is enough.
func (w *Waiting) Answer(n int, a wire.Probed, more string) {
	p := w.progress
	p.mu.Lock()
	w.view.answer(n, a, more, p.now())
	p.mu.Unlock()
	p.tell()
}

// Close writes what is left and gives the file back.
func (w *Waiting) Close() { w.progress.Close() }

// waitView is the view of a wait.
type waitView struct {
	options WaitOptions
	ascii   bool
	screen  *live // only its block; nil: there is none
	now     func() time.Time
	begun   time.Time
	all     []awaited
	fresh   []string // lines not written yet
}

// awaited is one of what is waited for.
type awaited struct {
	name string
	word string // what is missing
	well bool
	said map[string]bool // since it was last well
}

func newWaitView(names []string, o WaitOptions, ascii bool) *waitView {
	v := &waitView{options: o, ascii: ascii, now: time.Now, begun: time.Now(), all: make([]awaited, len(names))}
	for n, name := range names {
		v.all[n] = awaited{name: clean(name, ascii), said: map[string]bool{}}
	}
	return v
}

func (v *waitView) say(format string, args ...any) {
	if !v.options.Quiet {
		v.fresh = append(v.fresh, "kido: "+clean(fmt.Sprintf(format, args...), v.ascii))
	}
}

func (v *waitView) answer(n int, a wire.Probed, more string, at time.Time) {
	w := &v.all[n]
	was := w.well
	w.well, w.word = a.Ready && more == "", because(more, a.Word)
	if more == "" {
		w.word = a.Word
	}
	if v.options.Verbose {
		v.say("%s: %s", w.name, because(answered(a), a.Word))
	}
	switch {
	case w.well && !was:
		v.say("%s", because(fmt.Sprintf("%s is %s after %s", w.name, spoken(answerOf(a)), elapsed(at.Sub(v.begun))), a.Word))
		clear(w.said)
	case !w.well && v.screen == nil && !w.said[w.word] && len(w.said) < maxSaid:
		w.said[w.word] = true
		v.say("%s, %s", w.waits(), v.took(at))
	}
}

// answered says what came of one try.
func answered(a wire.Probed) string {
	text := fmt.Sprintf("%s in %s", spoken(answerOf(a)), precise(a.Took))
	if a.Life != "" {
		text += ", life " + a.Life
	}
	return text
}

func (w *awaited) waits() string { return because("waits for "+w.name, w.word) }

func (v *waitView) took(at time.Time) string {
	took := elapsed(at.Sub(v.begun))
	if v.options.Limit > 0 {
		took += " of " + elapsed(v.options.Limit)
	}
	return took
}

// take is no event's: a wait is no run.
func (*waitView) take(run.Event, time.Time) {}

func (v *waitView) output(last bool) []byte {
	said := v.fresh
	v.fresh = nil
	if v.screen == nil {
		var out []byte
		for _, l := range said {
			out = append(append(out, l...), '\n')
		}
		return out
	}
	width, height := v.screen.size()
	var frame []row
	if !last {
		frame = v.frame(width, height)
	}
	return v.screen.draw(said, frame, width)
}

// frame is a line for each that is not well, as far as there is room.
func (v *waitView) frame(width, height int) (frame []row) {
	took, room, hidden := v.took(v.now()), height-1, 0
	for n := range v.all {
		w := &v.all[n]
		switch {
		case w.well:
		case len(frame) == room:
			hidden++
		default:
			frame = append(frame, row{text: fit(took+": "+clean(w.waits(), v.ascii), width-1)})
		}
	}
	if hidden > 0 && room > 0 {
		frame[room-1] = row{text: fit(fmt.Sprintf("%s: and for %d more", took, hidden+1), width-1)}
	}
	return frame
}
