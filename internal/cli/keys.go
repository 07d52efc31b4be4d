package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kido/internal/keys"
	"kido/internal/site"
)

func (a *app) keys() *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "make the site's key, its line for a host, and pin a host's key",
		Long: `The site's key is an ed25519 key pair without passphrase, for kido alone. At each
host its line locks it to one command. Host keys are pinned before the first
connection; kido never trusts one on first use.`,
		Args: exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.keysNew(), a.keysLine(), a.keysPin())
	return c
}

func (a *app) keysNew() *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "make the site's key pair",
		Long: `Make an ed25519 key pair where the site file says (identity; by default
id_ed25519 beside it). The private key is never printed and never overwritten.`,
		Args: exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			host, err := os.Hostname()
			if err != nil {
				host = "unknown"
			}
			public, err := keys.New(s.Identity, fmt.Sprintf("kido %s, made on %s", s.Name, host))
			if err != nil {
				return err
			}
			fmt.Fprintf(a.text(), "%s\n", public)
			fmt.Fprintf(a.stderr, "private key: %s\nnext: put its line at each host: kido keys line HOST\n", s.Identity)
			return nil
		},
	}
}

func (a *app) keysLine() *cobra.Command {
	var from []string
	var gatePath, command string
	c := &cobra.Command{
		Use:   "line HOST",
		Short: "print the authorized_keys line that locks the key at a host",
		Long: `Print the line for the key file at HOST: the site's public key, usable from the
given addresses only, and for one command only. For a gated host that is the
gate. With --plain it is COMMAND, as in a memo of old: nothing of kido is needed
at the host.`,
		Example: "  kido keys line web1 --from 192.168.0.100\n  kido keys line web1 --from 192.168.0.100 --plain '/etc/init.d/httpd restart'",
		Args:    exactly(1, "HOST"),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			if s.Host(args[0]) == nil {
				return usageError("hosts of the site: "+hostNames(s), "no such host: %q", args[0])
			}
			if len(from) == 0 {
				return usageError("give the address that this machine has as the host sees it: --from 192.168.0.100", "without an address a stolen key could be used from anywhere")
			}
			identity := s.Identity
			if c.Flags().Changed("plain") {
				identity = plainKey(s, args[0])
			}
			public, err := keys.Public(identity)
			if err != nil {
				return &failure{status: exitFailed, err: err, hint: "make the key first: kido keys new"}
			}
			var line string
			if c.Flags().Changed("plain") {
				line, err = keys.PlainLine(from, command, public)
			} else {
				line, err = keys.GateLine(keys.LineOptions{From: from, Gate: gatePath, Public: public})
			}
			if err != nil {
				return &failure{status: exitUsage, err: err}
			}
			fmt.Fprintln(a.stdout, line)
			return nil
		},
		ValidArgsFunction: a.completeHosts,
	}
	c.Flags().StringSliceVar(&from, "from", nil, "`address` or network that the key may be used from")
	c.Flags().StringVar(&gatePath, "gate", "/usr/local/sbin/kido-gate", "`path` of the gate at the host")
	c.Flags().StringVar(&command, "plain", "", "lock the key to this `command` instead of the gate")
	return c
}

// plainKey is the private key for a host's plain service: its own where the
// site names one.
func plainKey(s *site.Site, host string) string {
	for _, v := range s.Services {
		for _, i := range v.Instances() {
			if i.Host == host && v.Adapter.Kind == site.KindPlain && v.Adapter.Key != "" {
				return v.Adapter.Key
			}
		}
	}
	return s.Identity
}

func (a *app) keysPin() *cobra.Command {
	return &cobra.Command{
		Use:   "pin HOST FILE",
		Short: "pin a host's public key, carried here from the host",
		Long: `Add the public key in FILE to the pinned host keys of the site. FILE is the
host's own /etc/ssh/ssh_host_ed25519_key.pub, carried here by a way that you
trust: what an unknown network answers is not one.`,
		Example: "  kido keys pin web1 /media/floppy/ssh_host_ed25519_key.pub",
		Args:    exactly(2, "HOST or FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			h := s.Host(args[0])
			if h == nil {
				return usageError("hosts of the site: "+hostNames(s), "no such host: %q", args[0])
			}
			public, err := keys.Public(strings.TrimSuffix(args[1], ".pub"))
			if err != nil {
				return &failure{status: exitUsage, err: err}
			}
			line, err := keys.Pin(h.Address, h.Port, public)
			if err != nil {
				return &failure{status: exitUsage, err: err}
			}
			if err := appendLine(s.KnownHosts, line); err != nil {
				return err
			}
			fingerprint, err := keys.Fingerprint(public)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.text(), "%s: pinned %s in %s\n", h.Name, fingerprint, s.KnownHosts)
			return nil
		},
		ValidArgsFunction: a.completeHosts,
	}
}

// appendLine adds a line to a file that others only read, as a whole or not at
// all; a line that is there already is not added again.
func appendLine(path, line string) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	text := string(old)
	if slices.Contains(strings.Split(text, "\n"), strings.TrimSpace(line)) {
		return nil
	}
	if text != "" && text[len(text)-1] != '\n' {
		text += "\n"
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".known_hosts.*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text + strings.TrimSpace(line) + "\n")
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
