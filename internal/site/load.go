package site

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Load reads and validates a site file. What is wrong in the file comes back
// as Errors, a file that cannot be read as the error of the system.
func Load(file string) (*Site, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("site file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("site file: %w", err)
	}
	return Parse(file, text)
}

// Parse validates the text of a site file. The file's name is used in errors
// and to find the folder to which paths in the file are relative. Any error
// about the text is Errors.
func Parse(file string, text []byte) (*Site, error) {
	d := &decoder{reporter: reporter{file: file, source: strings.TrimPrefix(string(text), "\ufeff")}}
	s := d.parse()
	if len(d.problems) > 0 {
		return nil, d.sorted()
	}
	if err := s.locate(); err != nil {
		return nil, err
	}
	d.warn(s)
	s.warnings = d.sorted()
	return s.Site, nil
}

// siteDraft is a Site with what the checks need beside it.
type siteDraft struct {
	*Site
	hostAt map[string]*node // nil where there are no hosts to be looked up
	drafts []serviceDraft   // as Services
	index  map[string]int32 // service → drafts; nil where there are none to be looked up
	groups map[string]groupDraft
	names  []string // of groups, in the order of the file

	serviceNames, hostNames []string // for suggestions
}

func (d *decoder) parse() *siteDraft {
	root := d.document()
	if root == nil {
		return nil
	}
	var f fileDraft
	understood := object(d, root, "the site file", fileFields, &f)
	s := &siteDraft{
		Site:   &Site{Name: f.site, File: d.file, Identity: f.identity, KnownHosts: f.knownHosts, Notify: f.notify},
		groups: map[string]groupDraft{},
	}
	if understood {
		for _, need := range []struct {
			key   string
			given bool
		}{{"site", f.siteKey != nil}, {"hosts", f.hosts != nil}, {"services", f.services != nil}} {
			if !need.given {
				d.errorf(root, "", "the site file has no key %q", need.key)
			}
		}
	}
	// Whatever the order in the file, defaults are needed before what they
	// are for.
	builtin := defaultsDraft{
		maxUnavailable: quantity{value: 1},
		timeout:        Timeouts{Start: 90 * time.Second, Stop: 90 * time.Second, Ready: 300 * time.Second, Connect: 10 * time.Second},
		retry:          Retry{Attempts: 4, Delay: time.Second, Max: 30 * time.Second},
		wait:           Wait{Timeout: 300 * time.Second, Grace: 10 * time.Second},
		budget:         builtinBudget,
		user:           "kido",
		port:           22,
	}
	if f.defaults != nil {
		object(d, f.defaults, "defaults", defaultsFields, &builtin)
	}
	if f.hosts != nil {
		d.hosts(f.hosts, builtin, s)
	}
	if f.services != nil {
		d.services(f.services, builtin, s)
	}
	if f.groups != nil {
		d.groups(f.groups, s)
	}
	d.check(s)
	return s
}

func (d *decoder) hosts(n *node, defaults defaultsDraft, s *siteDraft) {
	if n.kind == mapping {
		s.hostAt = map[string]*node{}
	}
	s.Site.hosts = map[string]*Host{}
	d.named(n, "hosts", func(name, value *node) {
		d.kind, d.name = "host", name.value
		d.checkName(name, "host")
		h := hostDraft{Host: Host{Name: name.value, Address: name.value, Port: defaults.port, User: defaults.user}}
		switch {
		case value.kind == mapping:
			object(d, value, "", hostFields, &h)
		case value.tag == "!!null":
			d.errorf(name, "write its address, or {} where its name is its address", "no address")
		default:
			d.address(value, &h)
		}
		s.hostAt[h.Name] = name
		s.Site.hosts[h.Name] = &h.Host
		s.Hosts = append(s.Hosts, &h.Host)
		s.hostNames = append(s.hostNames, h.Name)
		d.kind = ""
	})
}

func (d *decoder) services(n *node, defaults defaultsDraft, s *siteDraft) {
	count := len(n.content) / 2
	if n.kind == mapping {
		s.index = make(map[string]int32, count)
	}
	s.Site.services = make(map[string]*Service, count)
	s.drafts = make([]serviceDraft, 0, count)
	d.named(n, "services", func(name, value *node) {
		d.kind, d.name = "service", name.value
		d.checkName(name, "service")
		v := serviceDraft{
			Service:        &Service{Name: name.value, Line: name.line, Timeout: defaults.timeout, Retry: defaults.retry, Wait: defaults.wait, Budget: defaults.budget, Settle: defaults.settle},
			at:             name,
			maxUnavailable: defaults.maxUnavailable,
		}
		if value.tag == "!!null" {
			d.errorf(name, "it needs at least hosts and one of "+adapters, "nothing is said of it")
		} else if object(d, value, "", serviceFields, &v) {
			d.missing(&v)
			d.noteOurs(value, &v)
		}
		s.index[v.Name] = int32(len(s.drafts))
		s.drafts = append(s.drafts, v)
		s.Site.services[v.Name] = v.Service
		s.Services = append(s.Services, v.Service)
		s.serviceNames = append(s.serviceNames, v.Name)
		d.kind = ""
	})
}

// missing says what a service must have and has not.
func (d *decoder) missing(v *serviceDraft) {
	if v.hostsKey == nil {
		d.errorf(v.at, "hosts: [name, …] says where it runs", "it has no hosts")
	}
	switch a := &v.Adapter; {
	case v.adapterKey == nil:
		d.errorf(v.at, "give it exactly one of "+adapters, "it has no adapter")
	case v.pidfileKey != nil && (a.Kind == KindSystemd || a.Kind == KindPlain || a.Kind == KindExternal):
		d.errorf(v.pidfileKey, "", "pidfile goes with command, sysv and openrc, not with %s", a.Kind)
	case v.pidfileKey == nil && a.Kind == KindCommand:
		d.errorf(v.at, "the main process's number and start time tell one incarnation from the next", "command needs a pidfile")
	}
}

// noteOurs notes the keys that an external service does not have.
func (d *decoder) noteOurs(n *node, v *serviceDraft) {
	if v.Adapter.Kind != KindExternal {
		return
	}
	content, _ := d.pairs(n, "")
	for i := 0; i+1 < len(content); i += 2 {
		if ours[content[i].value] != "" {
			v.ours = append(v.ours, content[i])
		}
	}
}

func (d *decoder) groups(n *node, s *siteDraft) {
	d.named(n, "groups", func(name, value *node) {
		d.kind, d.name = "group", name.value
		d.checkName(name, "group")
		g := groupDraft{at: name}
		if value.tag == "!!null" {
			d.errorf(name, "list its services: [web, cache]", "it is empty")
		} else {
			g.members = d.names(value, "it")
		}
		s.groups[name.value] = g
		s.names = append(s.names, name.value)
		d.kind = ""
	})
}

// locate makes the paths of key files absolute and fills in their defaults.
func (s *siteDraft) locate() error {
	folder, err := filepath.Abs(filepath.Dir(s.File))
	if err != nil {
		return fmt.Errorf("folder of site file %s: %w", s.File, err)
	}
	at := func(p, otherwise string) string {
		switch {
		case p == "":
			return otherwise
		case filepath.IsAbs(p):
			return filepath.Clean(p)
		}
		return filepath.Join(folder, p)
	}
	s.Identity = at(s.Identity, filepath.Join(folder, "id_ed25519"))
	s.KnownHosts = at(s.KnownHosts, filepath.Join(folder, "known_hosts"))
	for _, v := range s.Services {
		if v.Adapter.Kind == KindPlain {
			v.Adapter.Key = at(v.Adapter.Key, s.Identity)
		}
	}
	return nil
}

// Warnings lists what is legal in the file but rarely meant, sorted by
// position. It is not to be changed.
func (s *Site) Warnings() []*Error { return slices.Clip(s.warnings) }
