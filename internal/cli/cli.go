// Package cli is the command kido: its commands, flags, exit statuses and what
// a person reads. It is the only place where the parts are wired together.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kido/internal/demo"
	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/probe/netprobe"
	"kido/internal/site"
)

// The exit statuses. They are part of what kido promises, and documented in
// `kido help exit-status`.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitIncomplete  = 3
	exitRefused     = 4
	exitInterrupted = 130
)

// failure is an error that knows its exit status and what to do next.
type failure struct {
	status int
	err    error // nil: all has been said
	hint   string
}

func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit status %d", f.status)
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// usageError is a call that cannot be understood.
func usageError(hint, format string, args ...any) error {
	return &failure{status: exitUsage, err: fmt.Errorf(format, args...), hint: hint}
}

// The hidden first arguments with which kido runs itself.
const (
	argProbe = "probe-child" // a probe that a gate delegates
	argGate  = "gate"        // the demo's gates
)

// Main runs kido with args, which do not hold the program's name, and returns
// the exit status.
func Main(args []string, stdin, stdout, stderr *os.File) int {
	initsys.RunChild() // does not return where this process is the child of a gate's job
	if len(args) > 0 {
		switch args[0] {
		case argProbe:
			return netprobe.ServeChild(stdin, stdout)
		case argGate:
			return gate.Main(args[1:], stdin, stdout, stderr)
		case demo.ArgDatabase, demo.ArgWeb:
			return demo.Service(args, stdout, stderr)
		}
	}
	// The first signal asks for a safe point; after it the default is back, so
	// that a second one ends kido at once. A closed terminal is no reason to
	// leave work half done either.
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		signal.Stop(signals) // first: who sees that the signal has worked may send the next
		interrupt()
	}()
	signal.Ignore(syscall.SIGPIPE)
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return a.exit(root.ExecuteContext(ctx))
}

// app is one call of kido.
type app struct {
	stdin, stdout, stderr *os.File

	siteFile string
	stateDir string
	here     string
	policy   string // of this machine's gate
	output   string
	quiet    bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kido",
		Short: "control the order in which services start across machines",
		Long: `kido controls the order in which services start across machines.

It reads one file, site.yaml: the hosts, the services on them, and which service
depends on which. When an upstream was restarted, kido brings its dependents on
other machines back, in order, over SSH keys that can do nothing else.

  kido check                 is the site file good?
  kido plan restart oracle   what would be done now, and why
  kido restart oracle        do it
  kido status                what is up, fresh, or owes a restart

On the upstream's own host, once it is up:

  kido announce oracle       make all that depends on it fresh

No machine at hand? Try: kido demo`,
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              noSuchCommand,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
		Version:           Version,
	}
	root.SetVersionTemplate("kido {{.Version}}\n")
	root.Flags().Bool("version", false, "print the version")
	root.SetUsageFunc(usage)
	a.globalFlags(root)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		hint := "see: " + c.CommandPath() + " --help"
		if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok && bad.GetFlag().Value.Type() == "duration" {
			hint = "write a time with its unit: 500ms, 5s, 2m, 1h30m"
		}
		return usageError(hint, "%w", err)
	})
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		if all := formats(c); !slices.Contains(all, a.output) {
			return usageError("use: -o "+strings.Join(all, " or -o "), "no such output format: %q", a.output)
		}
		return nil
	}
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"look", "Look, change nothing:", []*cobra.Command{a.check(), a.graph(), a.plan(), a.status(), a.probe(), a.why(), a.verify(), a.audit()}},
		{"act", "Act:", append(a.verbs(), a.wait(), a.resume(), a.release())},
		{"set", "Set up:", []*cobra.Command{a.enroll(), a.keys(), a.install(), a.policyCommand(), a.demo()}},
		{"more", "More:", []*cobra.Command{a.completion(), a.version()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.SetHelpCommand(helpCommand())
	root.AddCommand(topics()...)
	return root
}

// moreFormats is a command's annotation: its output formats beside text and json.
const moreFormats = "kido/formats"

// formats lists the output formats of a command.
func formats(c *cobra.Command) []string {
	all := []string{"text", "json"}
	if more := c.Annotations[moreFormats]; more != "" {
		all = append(all, more)
	}
	return all
}

// globalFlags adds the flags that every command takes. Those that an
// environment variable can set have no default in the help: what is set where
// the help is read says nothing about where it matters.
func (a *app) globalFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	for _, f := range []struct {
		to                     *string
		name, short, env, text string
	}{
		{&a.siteFile, "site", "s", "KIDO_SITE", "site `file` (default: ./site.yaml, else /etc/kido/site.yaml)"},
		{&a.stateDir, "state", "", "KIDO_STATE", "`folder` of journals (default: /var/lib/kido for root, else ~/.local/state/kido)"},
		{&a.here, "here", "", "KIDO_HERE", "`host` of the site that this machine is: its gate is run directly, not over SSH; none: it is not in the site (default: the host with this machine's name, where the gate has a policy)"},
		{&a.policy, "policy", "", "KIDO_POLICY", "policy `file` of this machine's gate (default: " + gate.DefaultPolicy + ")"},
	} {
		flags.StringVarP(f.to, f.name, f.short, os.Getenv(f.env), f.text+" [$"+f.env+"]")
		flags.Lookup(f.name).DefValue = ""
	}
	flags.StringVarP(&a.output, "output", "o", "text", "`format`: text or json (default: text; see: kido help json)")
	flags.Lookup("output").DefValue = ""
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "say only what went wrong")
	_ = root.RegisterFlagCompletionFunc("output", func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return formats(c), cobra.ShellCompDirectiveNoFileComp
	})
	_ = root.RegisterFlagCompletionFunc("here", func(c *cobra.Command, _ []string, start string) ([]string, cobra.ShellCompDirective) {
		return a.completeHosts(c, nil, start)
	})
	_ = root.MarkPersistentFlagFilename("site", "yaml", "yml")
	_ = root.MarkPersistentFlagDirname("state")
}

// exit says what went wrong and returns the exit status.
func (a *app) exit(err error) int {
	if err == nil {
		return exitDone
	}
	f, ok := errors.AsType[*failure](err)
	if ok && f.err == nil {
		return f.status
	}
	if problems, ok := errors.AsType[site.Errors](err); ok {
		fmt.Fprintln(a.stderr, problems)
		fmt.Fprintf(a.stderr, "kido: %s; nothing was started\n", count(len(problems), "problem", "in the site file"))
		return exitUsage
	}
	status, hint := exitFailed, ""
	switch target, isTarget := errors.AsType[*site.TargetError](err); {
	case ok:
		status, hint = f.status, f.hint
	case isTarget:
		status, hint = exitUsage, target.Hint
	}
	// Whoever is at the other end may have a word in it.
	say := &printable{to: a.stderr}
	fmt.Fprintln(say, "kido:", err)
	if hint != "" {
		fmt.Fprintln(say, "hint:", hint)
	}
	return status
}

func count(n int, noun, rest string) string {
	if n != 1 {
		noun += "s"
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", n, noun, rest))
}

// text is where what a person reads goes: nowhere with --quiet.
func (a *app) text() io.Writer {
	if a.quiet {
		return io.Discard
	}
	return a.stdout
}

func (a *app) json() bool { return a.output == "json" }
