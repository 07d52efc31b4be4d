package demo

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// teller writes what the demo says, in colour only on a terminal.
type teller struct {
	out    *os.File
	colour bool
	err    error // the first: nobody listens any more
}

func newTeller(out *os.File) *teller {
	return &teller{out: out, colour: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(out.Fd()))}
}

// The colours, as parameters of SGR.
const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
	cyan  = "1;36"
)

func (t *teller) in(colour, text string) string {
	if !t.colour || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (t *teller) printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.out, format, args...)
	}
}

// Every block but the title begins with an empty line.

func (t *teller) title(text string) { t.printf("%s\n", t.in(bold, text)) }

func (t *teller) scene(number int, title string) { t.heading(fmt.Sprintf("%d. %s", number, title)) }

func (t *teller) heading(text string) {
	const width = 76
	t.printf("\n%s\n", t.in(cyan, "── "+text+" "+strings.Repeat("─", max(0, width-len(text)))))
}

func (t *teller) text(format string, args ...any) { t.printf("\n"+format+"\n", args...) }

func (t *teller) quote(text string) {
	t.printf("\n")
	for line := range strings.Lines(text) {
		t.printf("    %s\n", t.in(faint, strings.TrimSuffix(line, "\n")))
	}
}

func (t *teller) command(prompt string, words ...string) {
	t.printf("\n%s\n", t.in(bold, prompt+" "+strings.Join(words, " ")))
}

func (t *teller) status(status int) {
	t.printf("%s\n", t.in(faint, fmt.Sprintf("(exit status %d)", status)))
}

// sign is the one letter for a thing that is as it should be, or is not.
func (t *teller) sign(good bool) string {
	if good {
		return t.in(green, "✓")
	}
	return t.in(red, "✗")
}

func (t *teller) pages(all tally) {
	t.printf("\n")
	for _, one := range all.hosts {
		t.printf("  %d pages of %s ", len(one.good), one.name)
		for _, good := range one.good {
			t.printf("%s", t.sign(good))
		}
		if one.why != "" {
			t.printf("  %s", t.in(faint, one.why))
		}
		t.printf("\n")
	}
	t.printf("  %d asked, %d failed\n", all.asked, all.failed)
}

func (t *teller) verdict(claims []claim, took time.Duration) {
	t.heading("What was claimed, and checked")
	t.printf("\n")
	for _, c := range claims {
		t.printf("  %s %s\n", t.sign(c.so), c.text)
	}
	t.printf("\n%s\n", t.in(faint, fmt.Sprintf("%.1f s", took.Seconds())))
}
