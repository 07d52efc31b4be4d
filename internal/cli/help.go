package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is how wide help may be, in cells.
const helpWidth = 80

func init() {
	cobra.EnableCommandSorting = false // help lists up, down, start, … in the order in which they are learned
}

// usage writes what follows the long text of a command's help.
func usage(c *cobra.Command) error {
	w := c.OutOrStderr()
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(w, "Usage: %s COMMAND\n", c.CommandPath())
	} else {
		fmt.Fprintf(w, "Usage: %s\n", c.UseLine())
	}
	if c.HasExample() {
		fmt.Fprintf(w, "\nExamples:\n%s\n", c.Example)
	}
	list := func(title string, of func(*cobra.Command) bool) {
		for _, sub := range c.Commands() {
			if sub.Hidden || !of(sub) {
				continue
			}
			if title != "" {
				fmt.Fprintf(w, "\n%s\n", title)
				title = ""
			}
			fmt.Fprintf(w, "  %-12s%s\n", sub.Name(), sub.Short)
		}
	}
	for _, g := range c.Groups() {
		list(g.Title, func(sub *cobra.Command) bool { return sub.GroupID == g.ID })
	}
	list("Commands:", func(sub *cobra.Command) bool { return sub.GroupID == "" && sub.Runnable() })
	list("Topics, as in kido help json:", func(sub *cobra.Command) bool { return !sub.Runnable() })
	fmt.Fprintf(w, "\nFlags:\n%s", c.LocalFlags().FlagUsagesWrapped(helpWidth))
	if c.HasAvailableInheritedFlags() {
		var names []string
		c.InheritedFlags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
		fmt.Fprintf(w, "and those of every command, see %s --help:\n  %s\n", c.Root().Name(), strings.Join(names, ", "))
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nMore of each: %s COMMAND --help\n", c.CommandPath())
	}
	return nil
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "help on a command or a topic",
		GroupID: "more",
		RunE: func(c *cobra.Command, args []string) error {
			of, rest, err := c.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = noSuchCommand(of, rest)
			}
			if err != nil {
				return err
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			of, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			for _, sub := range of.Commands() {
				if !sub.Hidden {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// topics are the pages of help that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{
			Use:   "exit-status",
			Short: "what the exit statuses mean",
			Long: `The exit statuses of kido:

  0    done: all that was asked for holds now
  1    failed: what was asked for itself did not work
  2    the call or the site file is wrong; nothing was started
  3    incomplete: debts remain, and are on record; kido status lists them
  4    refused: a gate's policy does not allow it
  130  interrupted; kido resume finishes what was begun`,
		},
		{
			Use:   "json",
			Short: "what -o json writes",
			Long: `What kido writes to standard output with -o json. What is wrong goes to standard
error in words, and the exit statuses are the same. A field that is empty may be
missing; there may be more fields than these.

  check        one object: good, problems and warnings, each a list of file,
               line, column, message, hint; blind, the services of whose
               restarts inside their units nothing tells
  graph        one object: site, nodes (name, hosts), edges (from, to,
               onRestart, strength, of)
  plan VERB    one object: request (verb, targets), steps (id, instance,
  VERB -n      action, reason, likely, after), atOnce, leftAlone (instance,
               reason)
  status       one object: site, instances (instance, state, ready, degraded,
               fresh, onPurpose, age and onHold in seconds, why, owes, waits,
               next, staleConnections: upstream, stale, held of so many in all),
               runs that are not finished (run, begun, verb, targets,
               outcome, live)
  probe        a list: instance, from, probe, answer (ready, degraded, not-ready
               or unknown), took in seconds, word, life
  why          one object: site, instances (instance, answer, sentence, now,
               next, evidence: time, run, instance, phase, what, by, command,
               from, token, follows, tries, last); answer is done, under-way,
               not-done, elsewhere or nothing
  verify       one object: site, good, runs, hosts, from, to, live, others,
               damaged, violations (invariant, instance, sentence, evidence:
               file, line, time, fact)
  audit        for every host one object: host, findings (rule, severity, place:
               file, line, option, users, except; found, why, mend)
  audit --prove
               one object: host, good, users (user, plain, error, results:
               group, name, what, outcome, how)
  audit --rules
               a list: id, severity, title, why, source
  wait         one object: ready, took in seconds, probes, a list as of probe,
               with ready and tries
  release      a list: instance, keeper (where it is about a slot), done, word
  up down start stop restart reload announce resume
               one object a line, each an event as it happens: time, run, and
               one of begin (plan, resumed, site), step (id, instance, phase,
               word, hint, owes, attempt, next, …), end (outcome, word).
               The last line has end: its outcome is done, failed, incomplete,
               refused or interrupted
  resume --forget RUN
               one object: run, forgotten
  keys new     one object: identity (file), public, fingerprint
  keys list    one object: keys, a list of kind, name, state, type, fingerprint,
               from, may, file, line, comment
  keys line    one object: host, line
  keys pin     one object: host, file, fingerprint
  keys export  one object: site, host or person, address, port, from, publicKey,
               hostKey, grants (host, may), check, bundle, compact
  keys import  as keys export, without the last two; compared, changed, replaced
  enroll       for every host and round one object, as install has it
  install      one object: host, changed and commands (with --print and
               --dry-run what would be), files (--print: path, mode, owner,
               text or from), steps (--dry-run: what, mode, diff, before and
               after: size, sha256), publicKey, nextKey, hostKeys, behind
               (what could not be announced by now), warnings
  policy       one object: host, policy
  version      one object: version, go, protocol

Times are those of this machine, as RFC 3339 has them, and for people: kido
itself compares none of two machines.`,
		},
	}
}

func (a *app) completion() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "print what makes a shell complete commands, targets and hosts",
		Long: `Print the completion script of a shell. Targets and hosts come from the site
file at the time of completion; no host is asked.`,
		Example: `  source <(kido completion bash)                      # this shell; it needs
                                                      # Debian's bash-completion
  kido completion bash > /etc/bash_completion.d/kido  # every new one
  kido completion zsh > "${fpath[1]}/_kido"
  kido completion fish > ~/.config/fish/completions/kido.fish`,
		Args:      exactly(1, "SHELL"),
		ValidArgs: shells,
		RunE: func(c *cobra.Command, args []string) error {
			switch root := c.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			}
			return usageError("there are: "+strings.Join(shells, ", "), "no completion for this shell: %q", args[0])
		},
	}
}
