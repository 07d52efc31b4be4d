package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"kido/internal/gate"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/site"
)

func (a *app) policyCommand() *cobra.Command {
	var runner string
	var unexposed bool
	c := &cobra.Command{
		Use:   "policy HOST",
		Short: "print the policy that belongs at a host's gate",
		Long: `Print what belongs in /etc/kido/policy at HOST, owned by root and mode 0644:
the services of that host, how their init knows them, their probes, and who may
use them. Nothing is connected to.

With public keys in a folder keys beside the site file it is the policy that
kido install writes: each person's key may do everything, each host's only what
its own announcements need. Without, or with --key, one key may do everything.

The policy is all that a key can reach: look it over before you put it there.`,
		Example: "  kido policy web1 > policy.web1",
		Args:    exactly(1, "HOST"),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			if _, err := hostOf(s, args[0]); err != nil {
				return err
			}
			p, warnings, err := policyOf(s, args[0], runner, unexposed)
			if err != nil {
				return err
			}
			a.warnText(warnings)
			if a.json() {
				return a.writeJSON(map[string]string{"host": p.Host, "policy": p.Format()})
			}
			_, err = fmt.Fprint(a.stdout, p.Format())
			return err
		},
		ValidArgsFunction: a.completeHosts,
	}
	c.Flags().StringVar(&runner, "key", "", "public key `file` that the policy is for (default: the site's identity)")
	c.Flags().BoolVar(&unexposed, "unexposed", false, "also serve keys that sshd does not name (no ExposeAuthInfo): any key whose forced command is the gate")
	return c
}

// policyOf is the policy of a host for the keys that are known, or for one.
func policyOf(s *site.Site, host, runner string, unexposed bool) (*gate.Policy, []string, error) {
	var public string
	if runner == "" {
		ring, err := keyring(s)
		if err != nil {
			return nil, nil, err
		}
		if !ring.Empty() && !unexposed {
			p, warnings := install.PolicyOf(s, host, ring)
			return p, warnings, nil
		}
		if public, err = publicKey(s.Identity); err != nil {
			return nil, nil, err
		}
	} else {
		var err error
		if public, err = readKey(runner); err != nil {
			return nil, nil, err
		}
	}
	fingerprint, err := keys.Fingerprint(public)
	if err != nil {
		return nil, nil, usageError("name the public key file of the site's runner: --key FILE", "%s: %w", runner, err)
	}
	identities := []string{fingerprint}
	if unexposed {
		identities = append(identities, gate.IdentityUnexposed)
	}
	p, warnings := install.PolicyFor(s, host, identities)
	return p, warnings, nil
}

// keyring reads the public keys beside the site file.
func keyring(s *site.Site) (*install.Keyring, error) {
	ring, err := install.LoadKeyring(filepath.Join(filepath.Dir(s.File), "keys"), s)
	if err != nil {
		return nil, &failure{status: exitUsage, err: err}
	}
	return ring, nil
}
