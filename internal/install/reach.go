package install

import (
	"slices"

	"kido/internal/keys"
	"kido/internal/plan"
	"kido/internal/probe"
	"kido/internal/site"
)

// Reach lists the instances at whose gates, or with whose plain keys, a host's
// announcements ask for something: each is granted the verb STATUS there. None:
// the host has no key of its own.
func Reach(s *site.Site, host string) []site.Instance {
	targets := announcedBy(s)[host]
	if len(targets) == 0 {
		return nil
	}
	topo := plan.New(s)
	p := peerOf(topo, host, targets, followersIn(topo))
	all := slices.Clone(p.around)
	for _, v := range p.pools {
		for _, i := range v.Instances() {
			if !slices.Contains(all, i) {
				all = append(all, i)
			}
		}
	}
	return all
}

// Next is the public half of the key that is to take the place of a setup's; ""
// where none is.
func (m *Machine) Next(setup *Setup) (string, error) {
	if setup.Key == "" || !m.exists(setup.Key+".pub") {
		return "", nil
	}
	r, err := keys.LoadRotation(m.path(setup.Key))
	return r.Next, err
}

// KidoProgram is kido at a host.
const KidoProgram = kidoProgram

// Reachable reports whether a probe that is meant for the instance's own host means
// the same from elsewhere.
func Reachable(p probe.Spec) bool { return reachable(p) }
