package cli

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Version is what `kido version` says; a release sets it when it is linked.
var Version = "0.1.0-dev"

// exactly checks the number of arguments; what names each of them.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := atMost(n)(c, args); err != nil {
			return err
		}
		return atLeast(n, what)(c, args)
	}
}

func atMost(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return usageError("see: "+c.CommandPath()+" --help", "%s: %q is one argument too many", c.CommandPath(), args[n])
		}
		return nil
	}
}

func atLeast(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n {
			return usageError("see: "+c.CommandPath()+" --help", "%s: %s is missing", c.CommandPath(), strings.Fields(what)[len(args)])
		}
		return nil
	}
}

// noSuchCommand is the check of the arguments of a command that only has
// commands below it.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see: " + c.CommandPath() + " --help"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean: " + strings.Join(near, ", ") + "?"
	}
	return usageError(hint, "no such command: %s %s", c.CommandPath(), args[0])
}

// completeTargets offers what can be a target. Errors are silent: a shell that
// completes is no place for them.
func (a *app) completeTargets(_ *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	s, err := a.load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var all []string
	for _, v := range s.Services {
		all = append(all, v.Name)
		if strings.Contains(start, "@") {
			for _, i := range v.Instances() {
				all = append(all, i.String())
			}
		}
	}
	for g := range s.Groups {
		all = append(all, g)
	}
	if strings.HasPrefix(start, "@") {
		for _, h := range s.Hosts {
			all = append(all, "@"+h.Name)
		}
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeHosts(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	s, err := a.load()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var all []string
	for _, h := range s.Hosts {
		all = append(all, h.Name)
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			toolchain := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				toolchain = info.GoVersion
			}
			if a.json() {
				return a.writeJSON(map[string]string{"version": Version, "go": toolchain, "protocol": "kido/1"})
			}
			_, err := fmt.Fprintf(a.stdout, "kido %s, protocol kido/1, %s\n", Version, toolchain)
			return err
		},
	}
}
