package site

import (
	"fmt"
	"slices"
	"strings"
)

// TargetError says that a target is not in the site.
type TargetError struct {
	Target string // as asked for
	Why    string // "no such service, group or instance"
	Hint   string // "did you mean \"oracle\"?"; may be empty
}

// Error is one line, without the hint.
func (e *TargetError) Error() string { return fmt.Sprintf("target %q: %s", e.Target, e.Why) }

// Resolve turns targets into instances: a service, an instance (web@web1), a
// group, or all of a host (@web1); no target means the whole site. The
// instances come in the order of the file, each once. The error is a
// *TargetError for the first target that names nothing.
func (s *Site) Resolve(targets []string) ([]Instance, error) {
	services, instances, hosts := map[string]bool{}, map[Instance]bool{}, map[string]bool{}
	for _, t := range targets {
		name, host, instance := strings.Cut(t, "@")
		group, isGroup := s.Groups[name]
		v := s.services[name]
		switch {
		case instance && s.hosts[host] == nil:
			return nil, unknown(t, host, "no such host", s.hostNames())
		case instance && name == "":
			if !slices.ContainsFunc(s.Services, func(v *Service) bool { return slices.Contains(v.Hosts, host) }) {
				return nil, &TargetError{t, "no service runs on host " + host, ""}
			}
			hosts[host] = true
		case instance && v == nil:
			return nil, unknown(t, name, "no such service", s.serviceNames())
		case instance && !slices.Contains(v.Hosts, host):
			return nil, &TargetError{t, fmt.Sprintf("service %s is not on host %s", name, host), fmt.Sprintf("it is on %s", strings.Join(v.Hosts, ", "))}
		case instance:
			instances[Instance{name, host}] = true
		case v != nil:
			services[name] = true
		case isGroup:
			for _, member := range group {
				services[member] = true
			}
		case s.hosts[name] != nil:
			return nil, &TargetError{t, "no such service or group", fmt.Sprintf("for all on host %s say %q", name, "@"+name)}
		default:
			return nil, unknown(t, name, "no such service or group", append(s.serviceNames(), s.groupNames()...))
		}
	}
	var all []Instance
	for _, v := range s.Services {
		for _, h := range v.Hosts {
			i := Instance{v.Name, h}
			if len(targets) == 0 || services[v.Name] || hosts[h] || instances[i] {
				all = append(all, i)
			}
		}
	}
	return all, nil
}

func unknown(target, name, why string, names []string) error {
	return &TargetError{target, why, didYouMean(name, names)}
}

func (s *Site) hostNames() []string {
	names := make([]string, len(s.Hosts))
	for i, h := range s.Hosts {
		names[i] = h.Name
	}
	return names
}

func (s *Site) serviceNames() []string {
	names := make([]string, len(s.Services))
	for i, v := range s.Services {
		names[i] = v.Name
	}
	return names
}

func (s *Site) groupNames() []string {
	names := make([]string, 0, len(s.Groups))
	for name := range s.Groups {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
