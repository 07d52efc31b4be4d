package cli

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// Help is read on a console of 80 columns, at night: every page fits, says how
// the command is called, and every command and flag has a word said of it.
func TestHelp(t *testing.T) {
	t.Parallel()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s: nothing is said of it", c.CommandPath())
		}
		var page bytes.Buffer
		c.SetOut(&page)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(page.String()) {
			if line = strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(line) > helpWidth {
				t.Errorf("%s --help: wider than %d: %s", c.CommandPath(), helpWidth, line)
			}
		}
		usage := "Usage: " + c.CommandPath()
		if c.Runnable() && !strings.Contains(page.String(), usage) {
			t.Errorf("%s --help does not say %q:\n%s", c.CommandPath(), usage, page.String())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit((&app{}).root())
}
