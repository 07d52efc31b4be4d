package cli

import (
	"fmt"
	"net"
	"net/url"

	"github.com/spf13/cobra"

	"kido/internal/gate"
	"kido/internal/keys"
	"kido/internal/plan"
	"kido/internal/probe"
	"kido/internal/site"
	"kido/internal/wire"
)

func (a *app) policyCommand() *cobra.Command {
	var runner string
	var unexposed bool
	c := &cobra.Command{
		Use:   "policy HOST",
		Short: "print the policy that belongs at a host's gate",
		Long: `Print what belongs in /etc/kido/policy at HOST, owned by root and mode 0644:
the services of that host, how their init knows them, their probes, and that the
key of this site may use them. Nothing is connected to.

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
			var public string
			if runner == "" {
				public, err = publicKey(s.Identity)
			} else {
				public, err = readKey(runner)
			}
			if err != nil {
				return err
			}
			fingerprint, err := keys.Fingerprint(public)
			if err != nil {
				return usageError("name the public key file of the site's runner: --key FILE", "%s: %w", runner, err)
			}
			identities := []string{fingerprint}
			if unexposed {
				identities = append(identities, gate.IdentityUnexposed)
			}
			p, err := policyFor(s, args[0], identities)
			if err != nil {
				return err
			}
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

// policyFor is the policy of one host as the site has it.
func policyFor(s *site.Site, host string, identities []string) (*gate.Policy, error) {
	p := &gate.Policy{
		Host: host, State: gate.DefaultState, Timeout: gate.DefaultTimeout,
		Principals: []gate.Principal{
			{Name: "runner", Identities: identities},
			{Name: "here", Identities: []string{gate.IdentityLocal}},
		},
	}
	var verbs []wire.Verb
	for _, v := range wire.Verbs() {
		if v != wire.VerbProbe {
			verbs = append(verbs, v)
		}
	}
	for _, v := range s.Services {
		for _, i := range v.Instances() {
			if i.Host != host || v.Adapter.Kind == site.KindPlain {
				continue
			}
			switch v.Adapter.Kind {
			case site.KindCommand, site.KindSysV:
			default:
				return nil, usageError("use sysv or command for now", "service %s: this version of kido-gate has no %s adapter yet", v.Name, v.Adapter.Kind)
			}
			p.Timeout = max(p.Timeout, v.Timeout.Start, v.Timeout.Stop)
			p.Services = append(p.Services, gate.PolicyService{
				Name: v.Name, Adapter: string(v.Adapter.Kind), Unit: v.Adapter.Unit,
				Start: v.Adapter.Start, Stop: v.Adapter.Stop, Restart: v.Adapter.Restart,
				Reload: v.Adapter.Reload, Status: v.Adapter.Status, PIDFile: v.Adapter.PIDFile,
				Ready: probesOf(s, v, host, site.FromHost),
			})
			for _, who := range p.Principals {
				p.Grants = append(p.Grants, gate.Grant{Principal: who.Name, Service: v.Name, Verbs: verbs})
			}
		}
	}
	for _, w := range watches(s, host) {
		p.Watches = append(p.Watches, w)
		for _, who := range p.Principals {
			p.Grants = append(p.Grants, gate.Grant{Principal: who.Name, Service: w.Instance, Verbs: []wire.Verb{wire.VerbProbe}})
		}
	}
	return p, nil
}

// watches lists the upstream instances that are probed from a host.
func watches(s *site.Site, host string) []gate.Watch {
	var all []gate.Watch
	seen := map[site.Instance]bool{}
	topo := plan.New(s)
	for _, i := range topo.Instances() {
		if i.Host != host {
			continue
		}
		for _, u := range topo.ProbedFrom(i) {
			if seen[u] {
				continue
			}
			seen[u] = true
			all = append(all, gate.Watch{Instance: u.String(), Ready: probesOf(s, s.Service(u.Service), u.Host, site.FromDependent)})
		}
	}
	return all
}

// probesOf lists the probes of a service's instance that are to be asked from a
// place, with every address filled in.
func probesOf(s *site.Site, v *site.Service, host string, from site.ProbeFrom) []probe.Spec {
	address := s.Host(host).Address
	var specs []probe.Spec
	for _, p := range v.Ready {
		if p.From != from {
			continue
		}
		spec := probe.Spec{Status: p.Status, Timeout: p.Timeout}
		switch {
		case p.TCP != "":
			spec.Kind, spec.Target = probe.KindTCP, fill(p.TCP, address)
		case p.HTTP != "":
			u, err := url.Parse(p.HTTP)
			if err != nil {
				continue // package site does not let such a probe pass
			}
			u.Host = fill(u.Host, address)
			spec.Kind, spec.Target = probe.Kind(u.Scheme), u.String()
		default:
			spec.Kind, spec.Argv = probe.KindExec, p.Exec
		}
		specs = append(specs, spec)
	}
	return specs
}

// fill puts the instance's address into a "host:port" that has no host.
func fill(hostport, address string) string {
	host, port, err := net.SplitHostPort(hostport)
	switch {
	case hostport == "": // a URL such as http:///health
		if ip := net.ParseIP(address); ip != nil && ip.To4() == nil {
			return "[" + address + "]"
		}
		return address
	case err == nil && host == "":
		return net.JoinHostPort(address, port)
	}
	return hostport
}
