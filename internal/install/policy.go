package install

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/plan"
	"kido/internal/probe"
	"kido/internal/site"
	"kido/internal/wire"
)

// The principals of a policy that are not named after a key's file.
const (
	principalHere   = "here"
	principalRunner = "runner"
)

// certified are the identities of who comes with a certificate for a principal
// that any of some authorities has signed.
func certified(authorities []Key, principal string) (ids []string) {
	for _, k := range authorities {
		ids = append(ids, gate.CertificateIdentity(k.Fingerprint, principal))
	}
	return ids
}

// PolicyFor is the policy of one host for a site with one key that may do
// everything: that of identities (see gate.Principal). It needs no privileges
// of its own: commands are run as the user of the gate.
func PolicyFor(s *site.Site, host string, identities []string) (*gate.Policy, []string) {
	b := newPolicy(s, host)
	b.whole(principalRunner, identities)
	b.whole(principalHere, []string{gate.IdentityLocal})
	return b.finish(), b.warnings
}

// PolicyOf is the policy that [Make] puts at a host: it may be used by whoever
// runs the gate there, by the people whose keys are in the keyring, each with
// all verbs, and by the hosts that announce an upstream of what is here, each
// with what its cascades need and no more. Whoever may come with a key may come
// with a certificate of the keyring's authorities as well.
func PolicyOf(s *site.Site, host string, keys *Keyring) (*gate.Policy, []string) {
	b := newPolicy(s, host)
	b.warnings = append(b.warnings, keys.Warnings...)
	b.whole(principalHere, []string{gate.IdentityLocal})
	for _, p := range keys.People {
		b.whole(p.Name, append(fingerprints(p.Keys), certified(keys.Authorities, gate.PersonPrincipal(p.Name))...))
	}
	for _, p := range peers(b.topo, host) {
		ids := append(fingerprints(keys.Hosts[p.host]), certified(keys.Authorities, gate.HostPrincipal(p.host))...)
		if len(ids) == 0 {
			if word := keys.Coming.missing("the key of "+p.host+" is not known yet",
				"enrol it (put its public key at keys/"+p.host+".pub beside the site file), then run this again", "kido enroll "+p.host+" brings it"); word != "" {
				b.warn("%s", word)
			}
			continue
		}
		b.peer(p, ids)
	}
	if slices.ContainsFunc(b.policy.Services, needsRoot) {
		b.policy.Become = become
	}
	b.policy.Revoked = fingerprints(keys.Revoked)
	return b.finish(), b.warnings
}

// become is how the gate's user runs a command as root.
var become = []string{sudoProgram, "-n"}

// needsRoot reports whether what the gate runs for a service is a command, and
// not a word to an init that knows who may say it. An external service is only probed.
func needsRoot(s gate.PolicyService) bool {
	return s.Adapter != string(site.KindSystemd) && s.Adapter != string(site.KindExternal)
}

// policyBuilder collects a host's policy.
type policyBuilder struct {
	topo     *plan.Topology
	host     string
	policy   *gate.Policy
	granted  map[string]map[string]map[wire.Verb]bool // principal → service or watch → verbs
	warnings []string
}

func (b *policyBuilder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

func newPolicy(s *site.Site, host string) *policyBuilder {
	b := &policyBuilder{
		topo: plan.New(s), host: host, granted: map[string]map[string]map[wire.Verb]bool{},
		policy: &gate.Policy{Host: host, State: gate.DefaultState, Timeout: gate.DefaultTimeout},
	}
	watched := map[site.Instance][]probe.Spec{}
	var order []site.Instance
	watch := func(u site.Instance, specs []probe.Spec) {
		if _, ok := watched[u]; !ok {
			order = append(order, u)
		}
		for _, p := range specs {
			if !slices.ContainsFunc(watched[u], func(q probe.Spec) bool { return slices.Equal(p.Fields(), q.Fields()) }) {
				watched[u] = append(watched[u], p)
			}
		}
	}
	for _, i := range b.topo.Instances() {
		v := s.Service(i.Service)
		if i.Host != host || v.Adapter.Kind == site.KindPlain {
			continue
		}
		for _, u := range b.topo.ProbedFrom(i, site.FromDependent) {
			watch(u, Probes(s, s.Service(u.Service), u.Host, site.FromDependent))
		}
		held := b.wait(v)
		if held != nil {
			for _, some := range held.Await {
				for _, name := range some {
					service, h, _ := strings.Cut(name, "@")
					watch(site.Instance{Service: service, Host: h}, seenFrom(s, s.Service(service), h, host))
				}
			}
		}
		a := v.Adapter
		b.policy.Timeout = max(b.policy.Timeout, v.Timeout.Start, v.Timeout.Stop)
		b.policy.Services = append(b.policy.Services, gate.PolicyService{
			Name: v.Name, Adapter: string(a.Kind), Unit: a.Unit,
			Start: a.Start, Stop: a.Stop, Restart: a.Restart, Reload: a.Reload, Status: a.Status,
			PIDFile: a.PIDFile, Ready: Probes(s, v, host, site.FromHost), Wait: held,
			Budget: budgetOf(v), Members: membersAt(v, host), Failures: failuresOf(v), Peers: peersOf(s, i),
		})
	}
	for _, u := range order {
		b.policy.Watches = append(b.policy.Watches, gate.Watch{Instance: u.String(), Ready: watched[u]})
	}
	return b
}

// failuresOf is how many tries must fail before a service is taken to have been
// away; 0 where something tells its incarnations.
func failuresOf(v *site.Service) uint64 {
	if v.Adapter.Kind != site.KindExternal || v.TellsLife() {
		return 0
	}
	return uint64(v.Failures)
}

// peersOf are the upstreams of an instance to which its host's connections are
// counted: all of which it is known where they listen, for what does not react to a
// restart holds on to what is left of it.
func peersOf(s *site.Site, i site.Instance) []gate.Peer {
	var all []gate.Peer
	for _, dep := range s.Service(i.Service).After {
		for _, u := range upstreams(s, i, dep) {
			up := s.Service(u.Service)
			if name, _, err := net.SplitHostPort(up.Listens); err != nil || u.Host != i.Host && site.Loopback(name) {
				continue // on another host than its own that leads to something else
			}
			at := []string{fill(up.Listens, s.Host(u.Host).Address)}
			if _, port, err := net.SplitHostPort(up.Listens); err == nil && u.Host == i.Host && up.Adapter.Kind != site.KindExternal {
				at = append(at, net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)) // a neighbour is mostly called so
			}
			all = append(all, gate.Peer{Upstream: u.String(), Addresses: at})
		}
	}
	slices.SortFunc(all, func(a, b gate.Peer) int { return strings.Compare(a.Upstream, b.Upstream) })
	return all[:min(len(all), gate.MaxPeers)] // of the others nothing is known, so that whoever reacts to them does
}

// budgetOf is how often a host's key may make a service fresh; nil: as often as it
// likes, and so where the service reacts to nothing.
func budgetOf(v *site.Service) *gate.Budget {
	if len(v.After) == 0 || v.Budget.Reactions == 0 {
		return nil
	}
	return &gate.Budget{Reactions: uint64(v.Budget.Reactions), Within: v.Budget.Within}
}

// membersAt are those of a pool of which a host keeps slots; nil where it does not.
func membersAt(v *site.Service, host string) *gate.Members {
	if !slices.Contains(v.Keepers(), host) {
		return nil
	}
	m := &gate.Members{Most: uint64(v.MaxUnavailable)}
	for _, i := range v.Instances() {
		m.Instances = append(m.Instances, i.String())
	}
	return m
}

// wait is how a service's own start is held here; nil where it is not.
func (b *policyBuilder) wait(v *site.Service) *gate.Wait {
	if v.Wait.Off || len(v.After) == 0 {
		return nil
	}
	s := b.topo.Site()
	w := &gate.Wait{Timeout: v.Wait.Timeout, Grace: v.Wait.Grace, Leave: v.Wait.Leave}
	for _, dep := range v.After {
		var seen, unseen []string
		for _, u := range upstreams(s, site.Instance{Service: v.Name, Host: b.host}, dep) {
			if len(seenFrom(s, s.Service(u.Service), u.Host, b.host)) > 0 {
				seen = append(seen, u.String())
			} else {
				unseen = append(unseen, u.String())
			}
		}
		for _, u := range unseen {
			b.warn("cannot see from here whether %s is ready, so the start of %s is not held for it: give it a tcp or http probe, or one with from: dependent", u, v.Name)
		}
		switch {
		case dep.Of == site.OfAny && len(unseen) > 0:
			// The one that cannot be seen may be the one that is enough.
		case dep.Of == site.OfAny && len(seen) > 0:
			w.Await = append(w.Await, seen)
		default:
			for _, u := range seen {
				w.Await = append(w.Await, []string{u})
			}
		}
	}
	if len(w.Await) == 0 {
		return nil
	}
	return w
}

// upstreams lists the instances that a dependency of d is about.
func upstreams(s *site.Site, d site.Instance, dep site.Dependency) []site.Instance {
	up := s.Service(dep.Upstream)
	if !dep.SameHost {
		return up.Instances()
	}
	if slices.Contains(up.Hosts, d.Host) {
		return []site.Instance{{Service: up.Name, Host: d.Host}}
	}
	return nil
}

// seenFrom lists the probes that tell from a place whether an instance of v at
// host is ready.
func seenFrom(s *site.Site, v *site.Service, host, place string) []probe.Spec {
	specs := Probes(s, v, host, site.FromDependent)
	if len(specs) > 0 && host != place {
		// Where the site says what to ask from there, that is it: the way may well be
		// another than the instance's own, and a firewall stand in that one.
		return specs
	}
	for _, p := range Probes(s, v, host, site.FromHost) {
		// Of a login that only its own host has, elsewhere is seen that it listens: less,
		// but more than nothing for a start that is to be held.
		listens := probe.Spec{Kind: probe.KindTCP, Target: p.Address(), Timeout: p.Timeout}
		switch {
		case host == place || reachable(p):
			specs = append(specs, p)
		case p.Address() != "" && reachable(listens):
			specs = append(specs, listens)
		}
	}
	return specs
}

// reachable reports whether a probe that is meant for the instance's own host
// means the same elsewhere.
func reachable(p probe.Spec) bool {
	if len(p.Of) > 0 {
		return !slices.ContainsFunc(p.Of, func(part probe.Spec) bool { return !reachable(part) })
	}
	sort, _ := probe.SortOf(p.Kind)
	for name := range p.Options {
		if o, _ := sort.Option(name); o.Source { // it is at that host, and need not be at another
			return false
		}
	}
	name, _, err := net.SplitHostPort(p.Address())
	return err == nil && !site.Loopback(name)
}

// principals are the names under which identities are granted something: a key
// that belongs to a principal already keeps it, and so may do what either may;
// the others become one of the given name, or near it where that is taken.
func (b *policyBuilder) principals(name string, identities []string) (names []string) {
	p := b.policy
	fresh := gate.Principal{Name: name}
	for _, id := range identities {
		if old := p.Principal(id); old == "" {
			fresh.Identities = append(fresh.Identities, id)
		} else if !slices.Contains(names, old) {
			names = append(names, old)
		}
	}
	if len(fresh.Identities) == 0 {
		return names
	}
	for slices.ContainsFunc(p.Principals, func(q gate.Principal) bool { return q.Name == fresh.Name }) {
		fresh.Name += "-key"
	}
	p.Principals = append(p.Principals, fresh)
	return append(names, fresh.Name)
}

func (b *policyBuilder) grant(principal, what string, verbs ...wire.Verb) {
	if b.granted[principal] == nil {
		b.granted[principal] = map[string]map[wire.Verb]bool{}
	}
	if b.granted[principal][what] == nil {
		b.granted[principal][what] = map[wire.Verb]bool{}
	}
	for _, v := range verbs {
		b.granted[principal][what][v] = true
	}
}

// whole lets identities do everything that the gate can.
func (b *policyBuilder) whole(name string, identities []string) {
	for _, name := range b.principals(name, identities) {
		for _, v := range b.policy.Services {
			for _, verb := range wire.Verbs() {
				if verb != wire.VerbProbe {
					b.grant(name, v.Name, verb)
				}
			}
		}
		for _, w := range b.policy.Watches {
			b.grant(name, w.Instance, wire.VerbProbe)
		}
	}
}

// peer lets the keys of a host do what the cascades of its own services need.
func (b *policyBuilder) peer(p peer, identities []string) {
	for _, name := range b.principals(p.host, identities) {
		for _, i := range p.around {
			if i.Host != b.host || b.policy.Service(i.Service) == nil {
				continue
			}
			b.grant(name, i.Service, wire.VerbStatus)
			if !p.after[i] {
				continue
			}
			b.grant(name, i.Service, wire.VerbEnsure)
			for _, u := range b.topo.ProbedFrom(i, site.FromDependent) {
				b.grant(name, u.String(), wire.VerbProbe)
			}
		}
		for _, v := range p.pools {
			if b.policy.Service(v.Name) != nil {
				b.grant(name, v.Name, wire.VerbStatus, wire.VerbFence)
			}
			if slices.Contains(v.Keepers(), b.host) {
				b.grant(name, v.Name, wire.VerbTake, wire.VerbGive)
			}
		}
	}
}

// finish writes the grants in the order of principals, services and watches.
func (b *policyBuilder) finish() *gate.Policy {
	p := b.policy
	var things []string
	for _, v := range p.Services {
		things = append(things, v.Name)
	}
	for _, w := range p.Watches {
		things = append(things, w.Instance)
	}
	for _, who := range p.Principals {
		for _, what := range things {
			g := gate.Grant{Principal: who.Name, Service: what}
			for _, v := range wire.Verbs() {
				if b.granted[who.Name][what][v] {
					g.Verbs = append(g.Verbs, v)
				}
			}
			if len(g.Verbs) > 0 {
				p.Grants = append(p.Grants, g)
			}
		}
	}
	foreign := func(p probe.Spec) bool { return !p.Local() }
	if slices.ContainsFunc(p.Services, func(v gate.PolicyService) bool { return slices.ContainsFunc(v.Ready, foreign) }) ||
		slices.ContainsFunc(p.Watches, func(w gate.Watch) bool { return slices.ContainsFunc(w.Ready, foreign) }) {
		p.Prober = kidoProgram
	}
	return p
}

// peer is a host whose announcements reach another one.
type peer struct {
	host   string
	after  map[site.Instance]bool // what its cascades make fresh
	around []site.Instance        // that, and what they have to look at
	pools  []*site.Service        // whose slots they need
}

// peers lists the other hosts whose cascades reach a host, in the order of the
// site file.
func peers(topo *plan.Topology, host string) []peer {
	announced := announcedBy(topo.Site())
	followers := followersIn(topo)
	var all []peer
	for _, h := range topo.Site().Hosts {
		targets := announced[h.Name]
		if h.Name == host || len(targets) == 0 {
			continue
		}
		if p := peerOf(topo, h.Name, targets, followers); p.reaches(topo.Site(), host) {
			all = append(all, p)
		}
	}
	return all
}

// peerOf works out what cascades from targets at a host come to.
func peerOf(topo *plan.Topology, host string, targets []site.Instance, followers map[site.Instance][]site.Instance) peer {
	p := peer{host: host, after: map[site.Instance]bool{}, around: topo.Around(targets)}
	for next := slices.Clone(targets); len(next) > 0; next = next[1:] {
		for _, d := range followers[next[0]] {
			if !p.after[d] {
				p.after[d] = true
				next = append(next, d)
			}
		}
	}
	for _, v := range topo.Site().Services {
		if v.Keepers() != nil && slices.ContainsFunc(v.Instances(), func(i site.Instance) bool { return p.after[i] }) {
			p.pools = append(p.pools, v)
		}
	}
	return p
}

// reaches reports whether its cascades have something to ask of a host's gate.
func (p peer) reaches(s *site.Site, host string) bool {
	return slices.ContainsFunc(p.around, func(i site.Instance) bool {
		return i.Host == host && s.Service(i.Service).Adapter.Kind != site.KindPlain
	}) || slices.ContainsFunc(p.pools, func(v *site.Service) bool { return slices.Contains(v.Hosts, host) })
}

// announcedBy lists, for each host, its instances that something reacts to.
func announcedBy(s *site.Site) map[string][]site.Instance {
	followed := map[string]bool{}
	sameHost := map[site.Instance]bool{}
	for _, v := range s.Services {
		for _, dep := range v.After {
			switch {
			case dep.OnRestart == site.ReactionNone:
			case dep.SameHost:
				for _, h := range v.Hosts {
					sameHost[site.Instance{Service: dep.Upstream, Host: h}] = true
				}
			default:
				followed[dep.Upstream] = true
			}
		}
	}
	all := map[string][]site.Instance{}
	for _, v := range s.Services {
		for _, i := range v.Instances() {
			if v.Adapter.Kind != site.KindPlain && (followed[v.Name] || sameHost[i]) {
				all[i.Host] = append(all[i.Host], i)
			}
		}
	}
	return all
}

// followersIn lists, for each instance, those that react to its restart.
func followersIn(topo *plan.Topology) map[site.Instance][]site.Instance {
	s := topo.Site()
	all := map[site.Instance][]site.Instance{}
	for _, d := range topo.Instances() {
		for _, dep := range s.Service(d.Service).After {
			if dep.OnRestart == site.ReactionNone {
				continue
			}
			for _, u := range upstreams(s, d, dep) {
				all[u] = append(all[u], d)
			}
		}
	}
	return all
}

// Probes lists the probes of a service's instance that are to be asked from a
// place, with every address filled in.
func Probes(s *site.Site, v *site.Service, host string, from site.ProbeFrom) []probe.Spec {
	address := s.Host(host).Address
	var specs []probe.Spec
	for _, p := range v.Ready {
		if p.From != from {
			continue
		}
		specs = append(specs, about(p.Spec, address))
	}
	return specs
}

// about is a probe of the instance at an address, where it names none itself.
func about(spec probe.Spec, address string) probe.Spec {
	sort, _ := probe.SortOf(spec.Kind)
	switch sort.Form {
	case probe.FormAddress:
		spec.Target = fill(spec.Target, address)
	case probe.FormURL:
		if u, err := url.Parse(spec.Target); err == nil { // package site lets no other pass
			u.Host = fill(u.Host, address)
			spec.Target = u.String()
		}
	case probe.FormParts:
		spec.Of = slices.Clone(spec.Of)
		for i, part := range spec.Of {
			spec.Of[i] = about(part, address)
		}
	}
	return spec
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
