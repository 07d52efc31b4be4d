package cli

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"kido/internal/demo"
)

func (a *app) demo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "see it work: a small site on this machine alone",
		Long: `Make a small site on this machine's loopback, a database host and three web
hosts, each with an SSH server, a host key, a gate and a real service of its
own, and show what happens there when the database is restarted: without kido,
with kido, with a web host that is down meanwhile, and once more.

It needs no other machine, no root, no sshd and no network. It takes about ten
seconds, checks all that it claims, and leaves nothing behind but what gates
write to the system's log. Exit status 1 if a claim does not hold.`,
		Args: exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if a.json() {
				return usageError("kido demo -o text", "kido demo is for people: it has no JSON")
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			err = demo.Run(c.Context(), demo.Options{Program: program, Out: a.stdout, Kido: a.sub})
			if _, ok := errors.AsType[*demo.InterruptedError](err); ok {
				return &failure{status: exitInterrupted, err: err}
			}
			return err
		},
	}
}

// sub runs another command of kido inside this one, as a call of its own that
// says everything to out.
func (a *app) sub(ctx context.Context, out *os.File, args ...string) (status int) {
	b := &app{stdin: a.stdin, stdout: out, stderr: out}
	root := b.root()
	root.SetArgs(args)
	root.SetIn(b.stdin)
	root.SetOut(out)
	root.SetErr(out)
	return b.exit(root.ExecuteContext(ctx))
}
