package install

import (
	"fmt"
	"strings"

	"kido/internal/keys"
	"kido/internal/plan"
	"kido/internal/site"
)

// Grants lists what the key of a host may do at the gates of others, by what the
// site file says, in the order of its hosts: what [PolicyOf] gives it there.
func Grants(s *site.Site, host string) (all []keys.Grant) {
	topo := plan.New(s)
	targets := announcedBy(s)[host]
	if len(targets) == 0 {
		return nil
	}
	p := peerOf(topo, host, targets, followersIn(topo))
	for _, h := range s.Hosts {
		if h.Name == host || !p.reaches(s, h.Name) {
			continue
		}
		b := newPolicy(s, h.Name)
		b.peer(p, []string{principalRunner})
		var may []string
		for _, g := range b.finish().Grants {
			words := []string{g.Service}
			for _, v := range g.Verbs {
				words = append(words, string(v))
			}
			may = append(may, strings.Join(words, " "))
		}
		all = append(all, keys.Grant{Host: h.Name, May: strings.Join(may, "; ")})
	}
	return all
}

// KeyComment is the comment of a host's key: of which host it is, and what it may
// do.
func KeyComment(s *site.Site, host string) string {
	return fmt.Sprintf("kido %s: %s announces what it started", s.Name, host)
}
