package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"kido/internal/prove"
)

// TestProvenFits: what came of an attempt fits into a terminal of 80 columns, and is
// whole.
func TestProvenFits(t *testing.T) {
	t.Parallel()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	how := `gate: "this key runs kido requests and nothing else; it was asked for \"kido/1` + strings.Repeat(" id", 40) + `..."`
	a := &app{stdout: out}
	a.proven(prove.Result{Attempt: prove.Attempt{Name: "env SSH_ORIGINAL_COMMAND", What: "what it is"}, Outcome: prove.Refused, How: how})
	a.proven(prove.Result{Attempt: prove.Attempt{Name: "pty", What: "a terminal"}, Outcome: prove.NotRefused, How: "sshd: grants it"})
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > helpWidth {
			t.Errorf("wider than %d: %s", helpWidth, line)
		}
	}
	if got, want := strings.Join(strings.Fields(string(text)), " "), "refused env SSH_ORIGINAL_COMMAND "+how+" NOT refused pty sshd: grants it tried was: a terminal"; got != want {
		t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
}
