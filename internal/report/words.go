package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

// maxLine bounds a line, in cells.
const maxLine = 400

// words says in which phase a step is, and why.
func (s *step) words(now time.Time) string {
	took := elapsed(now.Sub(s.begun))
	switch s.Phase {
	case run.PhaseLooking:
		return "looking"
	case run.PhaseSlot:
		return because("waiting for its turn", s.Word)
	case run.PhaseBlocked:
		if name, _, _ := strings.Cut(s.Word, " "); strings.Contains(name, "@") {
			return "waiting for " + s.Word + s.patience(now)
		}
		return because("waiting", s.Word) + s.patience(now)
	case run.PhaseActing:
		why := s.Word
		if why == "" && s.action != plan.ActEnsure {
			why = s.reason
		}
		if why == "" {
			return s.acting()
		}
		return fmt.Sprintf("%s (%s)", s.acting(), why)
	case run.PhaseSettling:
		return because("waiting until ready", s.Word) + s.patience(now)
	case run.PhaseRetry:
		return because(fmt.Sprintf("retry in %s (attempt %d)", elapsed(s.due.Sub(now)), s.Attempt+1), s.Word)
	case run.PhaseOnHold:
		return because(fmt.Sprintf("on hold for %s yet", elapsed(s.due.Sub(now))), s.Word)
	case run.PhaseDone:
		switch {
		case s.earlier:
			return because("done earlier", s.Word)
		case s.action == plan.ActStop:
			return because("stopped in "+took, s.Word)
		case s.action == plan.ActHold:
			return because("stopped in "+took+", owes a start", s.Word)
		}
		return s.degraded(because("done in "+took, s.Word))
	case run.PhaseAlready:
		if s.action == plan.ActWait {
			return s.degraded("ready")
		}
		return s.degraded(because("nothing to do", s.Word))
	case run.PhaseWaived:
		return because("left alone", s.Word)
	case run.PhaseFailed, run.PhaseSkipped:
		return because(string(s.Phase), s.Word)
	case run.PhaseRefused:
		return because("refused", strings.TrimPrefix(s.Word, "refused: "))
	case run.PhaseLeft:
		return because("not finished", s.Word)
	}
	return "waiting"
}

// degraded adds to what came of a step what is not as it should be all the same.
func (s *step) degraded(text string) string {
	if s.Degraded == "" {
		return text
	}
	return text + ", but degraded: " + s.Degraded
}

// patience is how much of the time is over that a step may wait: ", 41s of 5m00s".
func (s *step) patience(now time.Time) string {
	if s.Limit == 0 {
		return ""
	}
	return Patience(time.Duration(s.Waited)*time.Millisecond+now.Sub(s.heard), time.Duration(s.Limit)*time.Millisecond)
}

// Patience is what is said behind what is waited for.
func Patience(waited, limit time.Duration) string {
	if waited = max(waited, 0); waited < time.Second {
		return "" // what takes a moment needs no excuse
	}
	return fmt.Sprintf(", %s of %s", elapsed(waited), elapsed(limit))
}

// acting names what is being done. An ENSURE is named by what it comes to.
func (s *step) acting() string {
	switch wire.Verb(s.Verb) {
	case wire.VerbStart:
		return "starting"
	case wire.VerbStop:
		return "stopping"
	case wire.VerbRestart:
		return "restarting"
	case wire.VerbReload:
		return "reloading"
	}
	switch {
	case s.Reaction == wire.ReactReload:
		return "reloading"
	case s.held:
		return "starting"
	case s.Reaction == wire.ReactRestart:
		return "restarting"
	}
	return "making it fresh"
}

// trouble says how a step did not end well, after the name of its instance;
// what is shared may be said of several at once, after "was" or "were".
func (s *step) trouble() (text string, shared bool) {
	owes := "owes a " + s.debt() + " to " + list(s.Owes)
	switch {
	case s.Phase == run.PhaseLeft && len(s.Owes) > 0:
		return owes + ": not finished", false
	case s.Phase == run.PhaseLeft:
		return "not finished", true
	case s.Phase == run.PhaseSkipped && len(s.Owes) == 0:
		return because("skipped", s.Word), true
	case len(s.Owes) > 0:
		return because(owes, s.Word), false
	case s.Phase == run.PhaseFailed:
		return because("failed", s.Word), false
	}
	return "was " + s.words(time.Time{}), false
}

func (s *step) debt() string {
	if s.reaction == "" {
		return "reaction"
	}
	return string(s.reaction)
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// list names a few: "a", "a and b", "a, b and 3 more".
func list(names []string) string {
	switch len(names) {
	case 0:
		return ""
	case 1:
		return names[0]
	case 2:
		return names[0] + " and " + names[1]
	}
	return fmt.Sprintf("%s, %s and %d more", names[0], names[1], len(names)-2)
}

// elapsed writes a duration for people: 0.1s, 4s, 12s, 3m05s, 2h07m.
func elapsed(d time.Duration) string {
	if d = max(d, 0); d < 9950*time.Millisecond {
		tenths := max(1, d.Round(100*time.Millisecond)/(100*time.Millisecond))
		if tenths%10 == 0 {
			return fmt.Sprintf("%ds", tenths/10)
		}
		return fmt.Sprintf("%d.%ds", tenths/10, tenths%10)
	}
	switch d = d.Round(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// age writes a duration with one unit: 40s, 3m, 2h, 4d.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// clean makes one line of s that does no more to a terminal than to advance its
// cursor: control characters, bidirectional and other invisible ones, and bytes
// that are not UTF-8 are written as Go escapes; where ascii, all that is not
// ASCII is. What is longer than maxLine cells is cut.
func clean(s string, ascii bool) string {
	var b strings.Builder
	for n := 0; s != ""; {
		r, size := utf8.DecodeRuneInString(s)
		piece := s[:size]
		switch {
		case r == utf8.RuneError && size == 1:
			piece = fmt.Sprintf(`\x%02x`, s[0])
		case r == '\t':
			piece = " "
		case !unicode.IsPrint(r) || ascii && r >= utf8.RuneSelf:
			quoted := strconv.QuoteRuneToASCII(r)
			piece = quoted[1 : len(quoted)-1]
		}
		if n += cells(piece); n > maxLine {
			b.WriteString("...")
			break
		}
		b.WriteString(piece)
		s = s[size:]
	}
	return b.String()
}

// cells is how wide clean text is at most. Terminals do not agree on what is
// wide, so all that is not ASCII counts as two: a line that is cut early does
// no harm, and one that wraps spoils a live view.
func cells(s string) (n int) {
	for _, r := range s {
		n++
		if r >= utf8.RuneSelf {
			n++
		}
	}
	return n
}

// fit cuts clean text to a number of cells.
func fit(s string, width int) string {
	if cells(s) <= width {
		return s
	}
	mark := ".."[:min(2, width)]
	room := width - len(mark)
	for i, r := range s {
		if room -= cells(string(r)); room < 0 {
			return s[:i] + mark
		}
	}
	return s
}

// appendASCII appends encoded JSON with everything that may move a cursor or
// hide text escaped, which outside ASCII is found in strings only.
func appendASCII(out, text []byte) []byte {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			out = append(out, text[:size]...)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[size:]
	}
	return out
}

// isUTF8 reports whether the locale says that a terminal takes UTF-8.
func isUTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}
