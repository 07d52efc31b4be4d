package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kido/internal/failpoint"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/remote"
	"kido/internal/site"
)

func (a *app) keys() *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "make, list, lock, carry and change keys; pin those of hosts",
		Long: `Each host that announces, and each person, has an ed25519 key pair for kido
alone. At a host its line locks it to one command. Host keys are pinned before
the first connection; kido never trusts one on first use.

kido enroll does all of this over your own ssh; with these commands it is done
by hand.`,
		Args: noSuchCommand, SuggestionsMinimumDistance: 2,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(
		a.keysNew(),
		a.keysList(),
		a.keysLine(),
		a.keysPin(),
		a.keysExport(),
		a.keysImport(),
	)
	c.AddCommand(a.keysRotate(), a.keysRevoke())
	c.AddCommand(a.keysAuthority(), a.keysSign(), a.keysShow())
	return c
}

func (a *app) keysNew() *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "make this machine's key pair",
		Long: `Make an ed25519 key pair where the site file says (identity; by default
id_ed25519 beside it): this machine's own, of no other host or person. Its
comment says what it is for. The private key is for its owner alone (mode 0600),
and is never printed, overwritten or carried anywhere.`,
		Args: exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			comment, err := a.keyComment(s)
			if err != nil {
				return err
			}
			public, err := keys.New(s.Identity, comment)
			if err != nil {
				return err
			}
			if a.json() {
				fingerprint, err := keys.Fingerprint(public)
				if err != nil {
					return err
				}
				return a.writeJSON(map[string]string{"identity": s.Identity, "public": public, "fingerprint": fingerprint})
			}
			fmt.Fprintln(a.text(), public)
			if !a.quiet {
				fmt.Fprintf(a.stderr, "private key: %s\nnext: kido enroll takes its public half to the hosts; by hand: kido keys export, or its line for a host: kido keys line HOST --from ADDRESS\n", s.Identity)
			}
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
			if _, err := hostOf(s, args[0]); err != nil {
				return err
			}
			if len(from) == 0 {
				return usageError("give the address that this machine has as the host sees it: --from 192.168.0.100", "--from is missing: without an address a stolen key could be used from anywhere")
			}
			identity := s.Identity
			if c.Flags().Changed("plain") {
				identity = plainKey(s, args[0])
			} else if _, err := gatedHosts(s, args); err != nil && !c.Flags().Changed("gate") {
				return err // there is no gate to lock it to, as far as is known
			}
			public, err := publicKey(identity)
			if err != nil {
				return err
			}
			revoked, err := loadRevoked(ringOf(s))
			if err != nil {
				return err
			}
			if revoked.has(public) {
				return usageError("make another: kido keys rotate", "%s.pub is revoked (%s): no host may take it", identity, filepath.Join(ringOf(s), install.RevokedFile))
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
			if a.json() {
				return a.writeJSON(map[string]string{"host": args[0], "line": line})
			}
			_, err = fmt.Fprintln(a.stdout, line)
			return err
		},
		ValidArgsFunction: a.completeHosts,
	}
	c.Flags().StringSliceVar(&from, "from", nil, "`address` or network that the key may be used from")
	c.Flags().StringVar(&gatePath, "gate", install.GateProgram, "`path` of the gate at the host")
	c.Flags().StringVar(&command, "plain", "", "lock the key to this `command` instead of the gate")
	return c
}

// keyComment says in a public key what the key is for: of which host it is, and what
// that does with it, or at which machine kido uses it. What it may do there is for the
// line to say that lets it in.
func (a *app) keyComment(s *site.Site) (string, error) {
	h, err := a.hostHere(s)
	if err != nil {
		return "", err
	}
	if h != nil {
		return install.KeyComment(s, h.Name), nil
	}
	machine, err := os.Hostname()
	if err != nil {
		machine = "unknown"
	}
	return fmt.Sprintf("kido %s: kido at %s logs in with it", s.Name, machine), nil
}

// publicKey is the public half of a key that kido signs with.
func publicKey(identity string) (string, error) {
	public, err := keys.Public(identity)
	if errors.Is(err, os.ErrNotExist) {
		return "", usageError("make the site's key first: kido keys new", "%w", err)
	}
	if err != nil {
		return "", usageError("ssh-keygen -y -f "+identity+" prints it anew", "%w", err)
	}
	return public, nil
}

// readKey is what a file of a public key holds; whether that is one is said by
// who uses it.
func readKey(file string) (string, error) {
	const most = 64 << 10                                          // no key is as long
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold kido
	if err != nil {
		return "", usageError("", "cannot read the public key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return "", usageError("", "cannot read the public key: %w", err)
	}
	return string(text), nil
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
		Args:    exactly(2, "HOST FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			h, err := hostOf(s, args[0])
			if err != nil {
				return err
			}
			public, err := readKey(args[1])
			if err != nil {
				return err
			}
			line, err := keys.Pin(h.Address, h.Port, public)
			if err != nil {
				return usageError("give the host's own /etc/ssh/ssh_host_ed25519_key.pub", "%s: %w", args[1], err)
			}
			fingerprint, err := keys.Fingerprint(public)
			if err != nil {
				return err
			}
			if _, err := appendLine(s.KnownHosts, line); err != nil {
				return fmt.Errorf("cannot pin the key of %s: %w", h.Name, err)
			}
			if a.json() {
				return a.writeJSON(map[string]string{"host": h.Name, "file": s.KnownHosts, "fingerprint": fingerprint})
			}
			fmt.Fprintf(a.text(), "%s: pinned %s in %s\n", h.Name, fingerprint, s.KnownHosts)
			a.warn(otherPins(s, h, fingerprint))
			return nil
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault // a file
			}
			return a.completeHosts(c, args, start)
		},
	}
}

// otherPins warns of each other key that is pinned for a host: one that the
// host no longer has is a key that somebody else may have.
func otherPins(s *site.Site, h *site.Host, fingerprint string) (warnings []error) {
	pins, err := remote.LoadPins(s.KnownHosts)
	if err != nil {
		return []error{fmt.Errorf("another line of the pinned keys is wrong, and kido connects to nothing before it is mended: %w", err)}
	}
	for _, p := range pins.Lookup(h.Name, h.Address, h.Port) {
		if p.Fingerprint() != fingerprint {
			warnings = append(warnings, fmt.Errorf("%s is pinned for %s too (%s): remove that line if the host no longer has that key", p.Fingerprint(), h.Name, p))
		}
	}
	return warnings
}

// appendLine adds a line to a file that others only read; changed reports whether
// it was not there already.
func appendLine(path, line string) (changed bool, err error) {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return false, err
	}
	text, line := string(old), strings.TrimSpace(line)
	if slices.Contains(strings.Split(text, "\n"), line) {
		return false, nil
	}
	if text != "" && text[len(text)-1] != '\n' {
		text += "\n"
	}
	return replaceFile(path, text+line+"\n")
}

// replaceFile writes a file that others only read, as a whole or not at all;
// changed reports whether it was another.
func replaceFile(path, text string) (changed bool, err error) {
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return false, nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
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
		failpoint.Hit("file.written")
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		failpoint.Hit("file.renamed")
		err = syncFolder(filepath.Dir(path))
	}
	return err == nil, err
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
