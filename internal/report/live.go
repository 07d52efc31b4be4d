package report

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"kido/internal/run"
)

// live is the view for terminals: what is said for good scrolls by above a
// block of lines that is drawn anew in place, one for each step that is under
// way as far as there is room, and one for all the others.
//
// Between two frames the cursor stands at the beginning of the line below the
// block, which the block leaves free. So what a terminal echoes (^C) is wiped by
// the next frame, and whatever writes after kido was killed begins on a line of
// its own.
type live struct {
	board  *board
	size   func() (width, height int)
	now    func() time.Time
	colour bool

	drawn []int // the cells of each line of the block on the screen
	width int   // of the screen when it was drawn
	beat  int   // counts frames
}

func (v *live) take(e run.Event, at time.Time) { v.board.apply(e, at) }

func (v *live) output(last bool) []byte {
	if last {
		v.board.close()
	}
	var said []string
	for _, l := range v.board.news() {
		if !l.passing {
			said = append(said, v.permanent(l))
		}
	}
	width, height := v.size()
	var frame []row
	if !last {
		frame = v.frame(width, height)
	}
	return v.draw(said, frame, width)
}

// draw says lines for good, and draws the block anew below them.
func (v *live) draw(said []string, frame []row, width int) []byte {
	if len(said)+len(frame)+len(v.drawn) == 0 {
		return nil
	}
	var out bytes.Buffer
	out.WriteByte('\r')
	if n := v.rows(width); n > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", n)
	}
	if len(said) > 0 || width != v.width {
		out.WriteString("\x1b[J") // a line that wraps does not overwrite all below it
	}
	for _, l := range said {
		out.WriteString(l)
		out.WriteString("\r\n")
	}
	v.drawn, v.width = v.drawn[:0], width
	for _, l := range frame {
		v.drawn = append(v.drawn, utf8.RuneCountInString(l.text))
		out.WriteString(v.paint(l.tone, l.text[:l.tinted]))
		out.WriteString(l.text[l.tinted:])
		out.WriteString("\x1b[K\r\n")
	}
	out.WriteString("\x1b[J")
	v.beat++
	return out.Bytes()
}

// rows is how many rows of the screen the block takes now. Where the screen has
// become narrower the terminal has wrapped it, as nearly all do.
func (v *live) rows(width int) (n int) {
	for _, cells := range v.drawn {
		n += max(1, (cells+width-1)/width)
	}
	return n
}

// tone is the colour of what is said, as a terminal's SGR parameter.
type tone string

const (
	toneNone tone = ""
	toneFine tone = "32" // green
	toneWait tone = "33" // yellow
	toneBad  tone = "31" // red
	toneDim  tone = "2"
)

func (v *live) paint(t tone, s string) string {
	if t == toneNone || s == "" || !v.colour {
		return s
	}
	return "\x1b[" + string(t) + "m" + s + "\x1b[0m"
}

// glyph marks a line; the second is for terminals that have only ASCII.
type glyph [2]string

var (
	glyphFine    = glyph{"✓", "+"}
	glyphBad     = glyph{"✗", "!"}
	glyphAside   = glyph{"-", "-"}
	glyphWait    = glyph{"·", "."}
	glyphSpinner = [2][]string{{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}, {"|", "/", "-", `\`}}
)

func (v *live) glyph(g glyph) string {
	if v.board.ascii {
		return g[1]
	}
	return g[0]
}

func (v *live) spinner() string {
	turns := glyphSpinner[0]
	if v.board.ascii {
		turns = glyphSpinner[1]
	}
	return turns[v.beat%len(turns)]
}

// permanent writes a line that is said for good; it may wrap.
func (v *live) permanent(l line) string {
	switch text := l.text; {
	case l.trouble:
		return v.paint(toneBad, text)
	case l.phase == run.PhaseDone:
		return v.paint(toneFine, v.glyph(glyphFine)) + " " + text
	case l.phase == run.PhaseFailed, l.phase == run.PhaseRefused:
		return v.paint(toneBad, v.glyph(glyphBad)+" "+text)
	case l.phase == run.PhaseSkipped:
		return v.paint(toneWait, v.glyph(glyphAside)) + " " + text
	case l.phase != "":
		return v.paint(toneDim, v.glyph(glyphAside)+" "+text)
	}
	return l.text
}

// row is a line of the block: clean, and narrower than the screen.
type row struct {
	text   string
	tone   tone
	tinted int // so many bytes of text have the tone
}

// frame is the block, at most height-1 lines of at most width-1 cells.
func (v *live) frame(width, height int) []row {
	b := v.board
	if b.ended || b.begun.IsZero() || height < 2 {
		return nil
	}
	var active []*step
	var waiting, well, failed, skipped int
	for i := range b.steps {
		switch s := &b.steps[i]; {
		case s.Phase == "" || s.Phase == run.PhaseWaiting:
			waiting++
		case !s.Phase.Final():
			active = append(active, s)
		case s.Phase.Well():
			well++
		case s.Phase == run.PhaseFailed, s.Phase == run.PhaseRefused:
			failed++
		default:
			skipped++
		}
	}
	room := height - 1
	others := waiting+well+failed+skipped > 0
	hidden := 0
	if others || len(active) > room {
		room--
		if hidden = len(active) - room; hidden > 0 {
			slices.SortStableFunc(active, func(x, y *step) int { return cmp.Compare(urgency(x), urgency(y)) })
			active = active[:room]
			slices.SortFunc(active, func(x, y *step) int { return cmp.Compare(x.ID, y.ID) })
		}
	}
	now := v.now()
	rows := v.active(active, width, now)
	if others || hidden > 0 {
		text := "  " + v.others(hidden, waiting, well, failed, skipped) + "  " + elapsed(now.Sub(b.begun))
		if b.interrupted {
			text = "  interrupted: waiting for what was begun;" + text[1:]
		}
		text = fit(text, width-1)
		rows = append(rows, row{text, toneDim, len(text)})
	}
	return rows
}

// urgency ranks what a person should see where there is no room for all.
func urgency(s *step) int {
	switch s.Phase {
	case run.PhaseActing, run.PhaseSettling:
		return 0
	case run.PhaseRetry, run.PhaseOnHold:
		return 1
	case run.PhaseBlocked:
		return 2
	}
	return 3
}

func (v *live) active(steps []*step, width int, now time.Time) []row {
	name := min(v.board.width, max(8, width/2-8))
	rows := make([]row, 0, len(steps)+1)
	for _, s := range steps {
		mark, t := v.spinner(), toneNone
		switch s.Phase {
		case run.PhaseRetry, run.PhaseOnHold:
			t = toneBad
		case run.PhaseSlot, run.PhaseBlocked:
			mark, t = v.glyph(glyphWait), toneWait
		case run.PhaseSettling:
			t = toneWait
		}
		took := ""
		if !s.begun.IsZero() {
			took = elapsed(now.Sub(s.begun))
		}
		what := fit(clean(s.name, v.board.ascii), name)
		what += strings.Repeat(" ", name-cells(what))
		text := fit(fmt.Sprintf("%s %s %6s  %s", mark, what, took, clean(s.words(now), v.board.ascii)), width-1)
		rows = append(rows, row{text, t, min(len(mark), len(text))})
	}
	return rows
}

// others counts what the block does not show one by one.
func (v *live) others(hidden, waiting, well, failed, skipped int) string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{hidden, "more under way"}, {waiting, "waiting"}, {well, "done"}, {failed, "failed"}, {skipped, "not begun"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	dots := "… "
	if v.board.ascii {
		dots = "... "
	}
	return dots + strings.Join(parts, ", ")
}
