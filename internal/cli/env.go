package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/plan"
	"kido/internal/site"
)

const etc = "/etc/kido"

// load reads the site file that the flags or their defaults name.
func (a *app) load() (*site.Site, error) {
	file := a.siteFile
	if file == "" {
		file = "site.yaml"
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			file = filepath.Join(etc, "site.yaml")
		}
	}
	s, err := site.Load(file)
	_, bad := errors.AsType[site.Errors](err)
	switch {
	case err == nil, bad:
		return s, err
	case errors.Is(err, os.ErrNotExist) && a.siteFile == "":
		return nil, usageError("write one (kido check --example prints a start), or name yours with --site", "there is no site file: neither ./site.yaml nor %s", file)
	}
	return nil, usageError("name a file that can be read: --site FILE, or $KIDO_SITE", "%w", err)
}

// hostOf finds the host that an argument names.
func hostOf(s *site.Site, name string) (*site.Host, error) {
	if h := s.Host(name); h != nil {
		return h, nil
	}
	hint := "hosts of the site: " + hostNames(s)
	_, err := s.Resolve([]string{"@" + name})
	if target, ok := errors.AsType[*site.TargetError](err); ok && target.Hint != "" {
		hint = target.Hint
	}
	return nil, usageError(hint, "no such host: %q", name)
}

// resolve loads the site and finds the instances that the targets name.
func (a *app) resolve(targets []string) (*plan.Topology, []site.Instance, error) {
	s, err := a.load()
	if err != nil {
		return nil, nil, err
	}
	instances, err := s.Resolve(targets)
	return plan.New(s), instances, err
}

// reach is resolve with the fleet to ask them; the caller closes it.
func (a *app) reach(targets []string) (*plan.Topology, []site.Instance, *fleet, error) {
	topo, instances, err := a.resolve(targets)
	if err != nil {
		return nil, nil, nil, err
	}
	fleet, err := a.open(topo.Site())
	return topo, instances, fleet, err
}

// state is the folder of journals and of what is known of plain targets; it is
// made where it is missing.
func (a *app) state() (string, error) {
	dir := a.stateDir
	if dir == "" && os.Geteuid() == 0 {
		dir = "/var/lib/kido"
	}
	if dir == "" {
		base := os.Getenv("XDG_STATE_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", usageError("name a folder with --state", "there is no place for the journal: %w", err)
			}
			base = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(base, "kido")
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", &failure{status: exitFailed, err: fmt.Errorf("cannot make the folder of journals: %w", err), hint: "name another with --state"}
	}
	return dir, nil
}

// hereOf decides which host of the site this machine is, "" for none.
func (a *app) hereOf(s *site.Site) (string, error) {
	switch {
	case a.here == "none":
		return "", nil
	case a.here != "":
		h, err := hostOf(s, a.here)
		if err != nil {
			return "", fmt.Errorf("--here: %w", err)
		}
		if _, err := os.Stat(a.gatePolicy()); errors.Is(err, os.ErrNotExist) {
			return "", usageError(fmt.Sprintf("look over what \"kido policy %s\" prints, and put it there; or reach this host over SSH: --here none", h.Name),
				"the gate of this machine, %s, has no policy: %s is not there", h.Name, a.gatePolicy())
		}
		return h.Name, nil
	}
	// A machine may be called otherwise than its host in the site: the policy of
	// its gate knows. Without one it is reached over SSH like any other host.
	p, err := gate.LoadPolicy(a.gatePolicy())
	if err != nil || s.Host(p.Host) == nil {
		return "", nil //nolint:nilerr // a policy that cannot be used makes no gate
	}
	return p.Host, nil
}

// gatePolicy is the policy file of this machine's gate. A gate takes none that
// others than root and its own user could have written, so to name another one
// gives nobody more than he has.
func (a *app) gatePolicy() string {
	if a.policy != "" {
		return a.policy
	}
	return gate.DefaultPolicy
}

func hostNames(s *site.Site) string {
	var names []string
	for _, h := range s.Hosts {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	if len(names) > 8 {
		names = append(names[:8], "…")
	}
	return strings.Join(names, ", ")
}
