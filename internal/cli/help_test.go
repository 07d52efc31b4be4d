package cli

import (
	"bytes"
	"os"
	"regexp"
	"slices"
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

// README's table of commands knows every one that is for a site, and no others.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "\n## The commands\n")
	table, _, end := strings.Cut(table, "\n\n`-o json`")
	if !found || !end {
		t.Fatal("README.md has no table of commands")
	}
	told := map[string]bool{}
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		for _, name := range regexp.MustCompile("`(?:kido )?([a-z]+)").FindAllStringSubmatch(cell, -1) {
			told[name[1]] = true
		}
	}
	apart := []string{"completion", "version", "help", "demo"}
	for _, c := range (&app{}).root().Commands() {
		name := c.Name()
		if c.Runnable() && !slices.Contains(apart, name) && !told[name] {
			t.Errorf("README.md's table does not name kido %s", name)
		}
		delete(told, name)
	}
	for name := range told {
		t.Errorf("README.md's table names %q, which is no command", name)
	}
}
