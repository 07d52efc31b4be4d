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
	"strings"
	"syscall"

	"github.com/spf13/cobra"

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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)
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
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.siteFile, "site", "s", os.Getenv("KIDO_SITE"), "site `file` (default: ./site.yaml, else /etc/kido/site.yaml; $KIDO_SITE)")
	flags.StringVar(&a.stateDir, "state", os.Getenv("KIDO_STATE"), "`folder` of journals (default: /var/lib/kido for root, else ~/.local/state/kido; $KIDO_STATE)")
	flags.StringVar(&a.here, "here", os.Getenv("KIDO_HERE"), "`host` of the site that this machine is: its gate is run directly, not over SSH (default: the one with this machine's name, if it has a gate; \"none\" for no host; $KIDO_HERE)")
	flags.StringVarP(&a.output, "output", "o", "text", "`format`: text or json")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "say only what went wrong")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError("see: "+c.CommandPath()+" --help", "%w", err)
	})
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "text" && a.output != "json" {
			return usageError("use: -o text or -o json", "no such output format: %q", a.output)
		}
		return nil
	}
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddGroup(&cobra.Group{ID: "look", Title: "Look, change nothing:"}, &cobra.Group{ID: "act", Title: "Act:"}, &cobra.Group{ID: "set", Title: "Set up:"})
	for id, commands := range map[string][]*cobra.Command{
		"look": {a.check(), a.graph(), a.plan(), a.status()},
		"act":  append(a.verbs(), a.resume()),
		"set":  {a.keys(), a.policy(), a.demo()},
	} {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.version(), exitStatusTopic())
	return root
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
	case strings.HasPrefix(err.Error(), "unknown command"):
		status, hint = exitUsage, "see: kido --help"
	}
	fmt.Fprintln(a.stderr, "kido:", strings.ReplaceAll(err.Error(), "\n\n", "\n"))
	if hint != "" {
		fmt.Fprintln(a.stderr, "hint:", hint)
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

func exitStatusTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-status",
		Short: "what the exit statuses mean",
		Long: `The exit statuses of kido:

  0    done: all that was asked for holds now
  1    failed: what was asked for itself did not work
  2    the call or the site file is wrong; nothing was started
  3    incomplete: debts remain, and are on record; ` + "`kido status`" + ` lists them
  4    refused: a gate's policy does not allow it
  130  interrupted; ` + "`kido resume`" + ` finishes what was begun`,
	}
}
