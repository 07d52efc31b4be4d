package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/prove"
	"kido/internal/remote"
	"kido/internal/site"
)

// proveHelp says what --prove does.
const proveHelp = `With --prove the site's key is tried at HOST, from here, as a thief would try it:
other commands, terminals, forwarding, files, the environment, what its policy
does not grant, too much and too slow, other ways to log in. It says how each was
refused, and changes nothing there: what could act is sent in a form that cannot,
or left out. At a plain target nothing is tried that would run its command. It
takes about 20 seconds, costs the host a few dozen connections, and is in its logs
as as many refused sessions and a few failed logins.`

// proof is what was tried as one user of a host.
type proof struct {
	User    string       `json:"user"`
	Plain   bool         `json:"plain,omitempty"`
	Results []proofEntry `json:"results"`
	Error   string       `json:"error,omitempty"`

	config prove.Config
	err    error
}

type proofEntry struct {
	Group   string        `json:"group"`
	Name    string        `json:"name"`
	What    string        `json:"what"`
	Outcome prove.Outcome `json:"outcome"`
	How     string        `json:"how"`
}

// prove tries the site's key at a host as a thief would. It fails where something
// was not refused, and is incomplete where something could not be tried.
func (a *app) prove(ctx context.Context, host string) error {
	s, err := a.load()
	if err != nil {
		return err
	}
	h, err := hostOf(s, host)
	if err != nil {
		return err
	}
	proofs, err := a.proofs(s, h)
	if err != nil {
		return err
	}
	for _, p := range proofs {
		if !a.json() {
			fmt.Fprintf(a.text(), "%s@%s, with %s\n", p.config.Target.User, h.Name, p.config.Target.Key)
			if p.Plain {
				fmt.Fprintln(a.text(), "a plain target: whatever runs there is its one command, so only what runs nothing is tried")
			}
		}
		p.err = prove.Run(ctx, p.config, func(r prove.Result) {
			p.Results = append(p.Results, proofEntry{r.Group, r.Name, r.What, r.Outcome, r.How})
			if !a.json() {
				a.proven(r)
			}
		})
		if ctx.Err() != nil {
			return &failure{status: exitInterrupted, err: errors.New("interrupted"), hint: "nothing was changed, and nothing is left to be finished"}
		}
		if p.err != nil {
			p.Error = p.err.Error()
		}
	}
	return a.proved(h, proofs)
}

// proofs lists as which users the keys of this site lead to a host.
func (a *app) proofs(s *site.Site, h *site.Host) ([]*proof, error) {
	pins, err := remote.LoadPins(s.KnownHosts)
	if err != nil {
		hint := "kido keys pin HOST FILE writes a good line"
		if re, ok := errors.AsType[*remote.Error](err); ok {
			hint = re.Hint
		}
		return nil, usageError(hint, "%w", err)
	}
	var all []*proof
	add := func(user, key string) *proof {
		if user == "" {
			user = "root"
		}
		if key == "" {
			key = s.Identity
		}
		p := &proof{User: user, Results: []proofEntry{}, config: prove.Config{
			Target: remote.Target{Name: h.Name, Address: h.Address, Port: h.Port, User: user, Key: key}, HostKeys: pins,
		}}
		if !slices.ContainsFunc(all, func(o *proof) bool { return o.config.Target == p.config.Target }) {
			all = append(all, p)
		}
		return p
	}
	gated, plain := false, false
	for _, v := range s.Services {
		if slices.Contains(v.Hosts, h.Name) {
			plain = plain || v.Adapter.Kind == site.KindPlain
			gated = gated || v.Adapter.Kind != site.KindPlain
		}
	}
	if gated || !plain {
		policy, err := a.granted(s, h.Name)
		if err != nil {
			return nil, err
		}
		add(h.User, "").config.Policy = policy
	}
	for _, v := range s.Services {
		if slices.Contains(v.Hosts, h.Name) && v.Adapter.Kind == site.KindPlain {
			add(v.Adapter.User, v.Adapter.Key).Plain = true
		}
	}
	for _, p := range all {
		p.config.Others = others(all, p.config.Target.Key)
	}
	return all, nil
}

// granted is what the gate of a host is to grant. A host's own copy of the site has
// the keys that come there, and not the one with which it goes elsewhere.
func (a *app) granted(s *site.Site, host string) (*gate.Policy, error) {
	me, err := a.hereOf(s)
	if err != nil {
		return nil, err
	}
	if me == "" {
		policy, _, err := policyOf(s, host, "", false)
		return policy, err
	}
	ring, err := keyring(s)
	if err != nil {
		return nil, err
	}
	public, err := publicKey(s.Identity)
	if err != nil {
		return nil, err
	}
	fingerprint, err := keys.Fingerprint(public)
	if err != nil {
		return nil, err
	}
	ring.Hosts[me] = append(ring.Hosts[me], install.Key{Public: public, Fingerprint: fingerprint})
	policy, _ := install.PolicyOf(s, host, ring)
	return policy, nil
}

// others lists the users that a thief would try a key for, and that it does not
// lead to: root, and whoever runs this.
func others(all []*proof, key string) (names []string) {
	candidates := []string{"root"}
	if me, err := user.Current(); err == nil {
		candidates = append(candidates, me.Username)
	}
	for _, name := range candidates {
		leads := slices.ContainsFunc(all, func(p *proof) bool { return p.config.Target.User == name && p.config.Target.Key == key })
		if !leads && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// provenRow is a line of it: what came of it, what was tried, how.
const provenRow = "%-12s %-24s %s"

// proven says what came of one attempt.
func (a *app) proven(r prove.Result) {
	mark, to := string(r.Outcome), a.text()
	switch r.Outcome {
	case prove.NotRefused:
		mark, to = "NOT refused", io.Writer(a.stdout)
	case prove.NotTried:
		mark, to = "not tried", a.stdout
	case prove.LeftOut:
		mark = "left out"
	}
	how := wrapped(r.How, helpWidth-len(fmt.Sprintf(provenRow, "", "", "")))
	if r.Outcome == prove.NotRefused {
		how = append(how, "tried was: "+r.What)
	}
	name := r.Name
	for _, line := range how {
		fmt.Fprintf(to, provenRow+"\n", mark, name, line)
		mark, name = "", ""
	}
}

// proved sums up, and says it all where a script reads it.
func (a *app) proved(h *site.Host, proofs []*proof) error {
	tried := map[prove.Outcome]int{}
	var errs []error
	for _, p := range proofs {
		for _, r := range p.Results {
			tried[r.Outcome]++
		}
		if p.err != nil {
			errs = append(errs, fmt.Errorf("%s@%s: %w", p.User, h.Name, p.err))
		}
	}
	if a.json() {
		if err := a.writeJSON(struct {
			Host  string   `json:"host"`
			Good  bool     `json:"good"`
			Users []*proof `json:"users"`
		}{h.Name, tried[prove.NotRefused]+tried[prove.NotTried]+len(errs) == 0, proofs}); err != nil {
			return err
		}
	} else if len(tried) > 0 {
		parts := []string{count(tried[prove.Refused], "attempt", "refused")}
		for _, o := range []struct {
			outcome prove.Outcome
			words   string
		}{{prove.NotRefused, "NOT refused"}, {prove.NotTried, "could not be tried"}, {prove.LeftOut, "left out"}} {
			if n := tried[o.outcome]; n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", n, o.words))
			}
		}
		fmt.Fprintf(a.text(), "%s: %s\n", h.Name, strings.Join(parts, ", "))
	}
	status := exitDone
	switch {
	case tried[prove.NotRefused] > 0:
		status = exitFailed
	case tried[prove.NotTried] > 0 || len(errs) > 0:
		status = exitIncomplete
	default:
		return nil
	}
	f := &failure{status: status, err: errors.Join(errs...)}
	if len(errs) > 0 {
		f.hint = "kido status reaches the host in the same way, and says more"
		if re, ok := errors.AsType[*remote.Error](f.err); ok && re.Hint != "" {
			f.hint = re.Hint
		}
	}
	return f
}
