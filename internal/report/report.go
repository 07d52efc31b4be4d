// Package report turns what happens into what a person, or a script, reads: the
// events of a run into progress lines, a live view or JSON, and the state of a
// site into a table.
//
// A [Progress] owns the file that it was given until it is closed. It never
// holds a run up: events are folded in at once and written by a goroutine, so a
// stopped terminal or a reader that is slow delays only Close. It changes no
// mode of a terminal and hides nothing, so there is nothing to restore even
// where kido is killed.
//
// Words that come from hosts are not trusted: whatever is written is one line
// for each thing said, bounded, and free of control characters.
package report

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"kido/internal/plan"
	"kido/internal/run"
)

// frameTime is how long a frame of the live view stands.
const frameTime = 100 * time.Millisecond

// Options say how a run is shown.
type Options struct {
	JSON  bool // every event, encoded, one on a line
	Quiet bool // only what is not well at the end
	// Past holds the events of the earlier parts of a run that is resumed.
	Past []run.Event
}

// Progress shows one run. Its methods may be called from several goroutines.
type Progress struct {
	mu   sync.Mutex // guards view
	view view
	now  func() time.Time

	news  chan struct{} // there is something to write
	quit  chan struct{}
	done  chan struct{}
	close sync.Once
}

// view folds events and says what to write.
type view interface {
	take(e run.Event, at time.Time)
	// output returns what is to be written now; after the last nothing follows.
	output(last bool) []byte
}

// New begins to show a run that executes p on w: as JSON lines or quietly where
// o says so; live, in place, where w is a terminal that can; as plain lines
// otherwise. A live view respects NO_COLOR, and is ASCII where the locale is not
// UTF-8.
func New(w *os.File, p *plan.Plan, o Options) *Progress {
	return open(w, p, o, os.Getenv)
}

func open(w *os.File, p *plan.Plan, o Options, getenv func(string) string) *Progress {
	if o.JSON {
		return start(w, &lines{}, 0)
	}
	if o.Quiet || !onTerminal(w, getenv) {
		return start(w, &plain{board: newBoard(p, o.Past, false), quiet: o.Quiet}, 0)
	}
	return start(w, &live{
		board: newBoard(p, o.Past, !isUTF8(getenv)), size: sizeOf(w), now: time.Now,
		colour: getenv("NO_COLOR") == "",
	}, frameTime)
}

// onTerminal reports whether what is written to w is seen at once, and may be
// written over.
func onTerminal(w *os.File, getenv func(string) string) bool {
	able := getenv("TERM") != "" && getenv("TERM") != "dumb"
	return able && term.IsTerminal(int(w.Fd()))
}

// sizeOf asks how large the terminal behind w is now.
func sizeOf(w *os.File) func() (width, height int) {
	return func() (width, height int) {
		width, height, err := term.GetSize(int(w.Fd()))
		if err != nil || width == 0 || height == 0 {
			return 80, 24
		}
		return width, height
	}
}

// start writes what the view says: on news, or every frame where that is not 0.
func start(w io.Writer, v view, frame time.Duration) *Progress {
	p := &Progress{view: v, now: time.Now, news: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go p.write(w, frame)
	return p
}

// Event takes the next event of the run. Those after Close are dropped.
func (p *Progress) Event(e run.Event) {
	p.mu.Lock()
	p.view.take(e, p.now())
	p.mu.Unlock()
	p.tell()
}

// tell has what is new written.
func (p *Progress) tell() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// Close writes what is left and gives the file back; it does not close it. It
// may be called again.
func (p *Progress) Close() {
	p.close.Do(func() { close(p.quit) })
	<-p.done
}

func (p *Progress) write(w io.Writer, frame time.Duration) {
	defer close(p.done)
	news := p.news
	var ticks <-chan time.Time
	if frame > 0 {
		ticker := time.NewTicker(frame)
		defer ticker.Stop()
		news, ticks = nil, ticker.C
	}
	for last, broken := false, false; !last; {
		select {
		case <-news:
		case <-ticks:
		case <-p.quit:
			last = true
		}
		p.mu.Lock()
		out := p.view.output(last)
		p.mu.Unlock()
		if len(out) > 0 && !broken {
			// A reader that is gone is no reason to stop the run.
			_, err := w.Write(out)
			broken = err != nil
		}
	}
}

// lines is the view for scripts.
type lines struct{ out []byte }

func (v *lines) take(e run.Event, _ time.Time) {
	record, err := e.Encode()
	if err != nil {
		return // an event that cannot be encoded never got past the journal
	}
	v.out = append(appendASCII(v.out, record), '\n')
}

func (v *lines) output(bool) []byte {
	out := v.out
	v.out = nil
	return out
}

// plain is the view for pipes, logs and dumb terminals.
type plain struct {
	board *board
	quiet bool
}

func (v *plain) take(e run.Event, at time.Time) { v.board.apply(e, at) }

func (v *plain) output(last bool) []byte {
	if last {
		v.board.close()
	}
	var out []byte
	for _, l := range v.board.news() {
		if l.trouble || !v.quiet {
			out = append(out, l.text...)
			out = append(out, '\n')
		}
	}
	return out
}
