package plan

import "kido/internal/site"

// Site is the site that the topology was made of.
func (t *Topology) Site() *site.Site { return t.site }

// ProbedFrom lists the upstream instances of d that have a probe to be asked
// from a place, in the order of the site file.
func (t *Topology) ProbedFrom(d site.Instance, from site.ProbeFrom) []site.Instance {
	i, ok := t.lookup(d)
	if !ok {
		return nil
	}
	var probed []site.Instance
	for _, dep := range t.depsOf(i) {
		if !t.site.Services[dep.upstream].Asked(from) {
			continue
		}
		for u, end := t.upstreams(i, dep); u < end; u++ {
			probed = append(probed, t.instances[u])
		}
	}
	return probed
}

// Rivals lists the instances that must not be up while d is: those of services
// that conflict with its own, on the same host.
func (t *Topology) Rivals(d site.Instance) []site.Instance {
	i, ok := t.lookup(d)
	if !ok {
		return nil
	}
	var rivals []site.Instance
	for _, other := range t.site.Services[t.service[i]].Conflicts {
		if u, ok := t.lookup(site.Instance{Service: other, Host: d.Host}); ok {
			rivals = append(rivals, t.instances[u])
		}
	}
	return rivals
}
