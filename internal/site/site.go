// Package site turns the text of a site file into a validated, immutable Site.
//
// A Site that [Load] or [Parse] returns is whole: every name resolves, there is
// no cycle, every default is filled in. All problems of a file are reported at
// once, each with file:line:column. The package reads the one file it is given
// and nothing else, and has no state.
package site

import (
	"slices"
	"time"

	"kido/internal/probe"
)

// Site is all hosts, services and dependencies. It is never changed after it
// was parsed, and may be read by many goroutines.
type Site struct {
	Name     string
	File     string              // as given to Load
	Hosts    []*Host             // in the order of the file
	Services []*Service          // in the order of the file
	Groups   map[string][]string // group → service names, sorted, groups in groups resolved

	Identity   string // private key file; absolute, default: id_ed25519 beside the site file
	KnownHosts string // pinned host keys; absolute, default: known_hosts beside the site file

	// Notify is the argv that a runner calls, with the event as JSON on its standard
	// input, when something is put on hold, fails or is refused; nil: nobody is told.
	Notify []string

	hosts    map[string]*Host
	services map[string]*Service
	warnings Errors
}

// Host is a machine reached over SSH.
type Host struct {
	Name    string
	Address string // IP address or name; default: Name
	Port    int    // default 22
	User    string // default "kido" (a gated target's user)
}

// Service is what runs on one or more hosts.
type Service struct {
	Name  string
	Hosts []string // names, in the order of the file; never empty
	Line  int      // where the file declares it

	Adapter Adapter
	Ready   []Probe // all must answer; none: up is ready

	// Listens is where connections to an instance lead, "host:port"; a missing host is
	// the instance's address. Default: where its first probe that connects does; "": nowhere.
	Listens string
	// Failures (KindExternal) is how many tries in a row must fail before it is taken to
	// have been away, where no probe tells its incarnation; default 3.
	Failures int

	After     []Dependency // sorted by upstream
	StopAfter []string     // services that are stopped before this one; overrides the reverse of After for that pair
	Conflicts []string     // services that are never up on the same host at the same time as this one; symmetric

	// MaxUnavailable is how many instances may be down by kido's hand at once,
	// at least 1. Given as a count or as "25%" of the instances, rounded down,
	// at least 1. Default 1.
	MaxUnavailable int
	// MaxFailures is how many instances may fail in one run before the rest of
	// the service is left alone. Default: MaxUnavailable.
	MaxFailures int

	Timeout Timeouts
	Retry   Retry
	Wait    Wait
	Budget  Budget
	// Settle is how long an incarnation must have been up before its dependents
	// follow it; default 0.
	Settle time.Duration
}

// Adapter says how a host's init knows a service. Exactly one kind is set.
type Adapter struct {
	Kind AdapterKind
	Unit string // KindSystemd: the unit's whole name; KindSysV, KindOpenRC: the script's

	// Commands of KindCommand: argv, the program as an absolute path. Start and
	// Stop are required; without Restart it is stop, then start; without Reload
	// there is no reload; without Status the pid file tells.
	Start, Stop, Restart, Reload, Status []string

	// PIDFile (KindCommand, KindSysV, KindOpenRC) holds the main process's
	// number: with its start time it is the incarnation. KindCommand requires it;
	// the others default to /run/UNIT.pid.
	PIDFile string

	// Action (KindPlain) is what the fixed command behind the key does, as far
	// as kido can know: ReactionRestart (default) or ReactionReload.
	Action Reaction
	// Key (KindPlain) is the private key file for this service's locked key;
	// default: the site's identity.
	Key string
	// User (KindPlain) overrides the host's user; default root, as in the memo.
	User string
}

// AdapterKind names an init system or what stands in for one.
type AdapterKind string

// The adapters; a service names exactly one, as a key of the site file.
const (
	KindSystemd AdapterKind = "systemd"
	KindSysV    AdapterKind = "sysv"
	KindOpenRC  AdapterKind = "openrc"
	KindCommand AdapterKind = "command"
	KindPlain   AdapterKind = "plain" // no kido there: the key runs one fixed command
	// KindExternal is a service that is none of kido's: it is neither started nor
	// stopped, and looked at from each of its hosts.
	KindExternal AdapterKind = "external"
)

// Dependency is an edge from a service to one upstream.
type Dependency struct {
	Upstream  string
	OnRestart Reaction // default "restart"; of a plain service: its adapter's Action
	Strength  Strength // default "requires"
	Of        Of       // default "all"
	SameHost  bool     // when: same-host: web@h1 depends on Upstream@h1 only
	// IfStale (a reload): only where connections from before the upstream's new
	// incarnation are held.
	IfStale bool
	Line    int
}

// Reaction is what a dependent does when an upstream has a new incarnation.
type Reaction string

// The reactions.
const (
	ReactionRestart   Reaction = "restart"    // bounce after ready
	ReactionReload    Reaction = "reload"     // at least once: see the design
	ReactionStopFirst Reaction = "stop-first" // stop before the upstream's planned restart, start after
	ReactionNone      Reaction = "none"       // order only: never in a basis
)

// Strength says what an upstream's failure means for the dependent.
type Strength string

// The strengths.
const (
	Requires Strength = "requires" // hard: behind a failure the dependent is not touched
	Wants    Strength = "wants"    // soft: order where both work, go on where the upstream does not
)

// Of says how many instances of the upstream are waited for.
type Of string

// The quantifiers.
const (
	OfAll Of = "all"
	OfAny Of = "any" // one ready instance is enough
)

// Probe is one readiness check. A host that its target leaves out is the instance's
// address. Its time-out is set.
type Probe struct {
	probe.Spec

	// From is where it is asked: at the upstream's own host (default), at each
	// dependent's host, before that dependent is touched, or where kido runs.
	From ProbeFrom

	Interval  time.Duration // between tries; default 1s
	Successes int           // in a row; default 1
}

// ProbeFrom is where a probe is asked.
type ProbeFrom string

// The places.
const (
	FromHost      ProbeFrom = "host"
	FromDependent ProbeFrom = "dependent"
	FromRunner    ProbeFrom = "runner"
)

// Timeouts of a service.
type Timeouts struct {
	Start   time.Duration // init's start or restart job; default 90s
	Stop    time.Duration // init's stop job; default 90s
	Ready   time.Duration // from up to ready: the start deadline; default 300s
	Connect time.Duration // TCP and SSH handshake together; default 10s
}

// Wait is how the start of an instance by its own host's init, at boot, is held
// until its upstreams are ready.
type Wait struct {
	Off     bool          // it is not held
	Timeout time.Duration // at most so long; default 300s
	// Grace is how long a run may take to reach the host, and tell it of a new
	// incarnation, once the upstreams answer; default 10s.
	Grace time.Duration
	Leave bool // after Timeout it is left down, until a run starts it; default: it is started
}

// Retry of a failed step.
type Retry struct {
	Attempts int           // in all, at least 1; default 4
	Delay    time.Duration // before the second; doubles, jittered; default 1s
	Max      time.Duration // longest delay; default 30s
}

// Budget is how many reactions an instance may have within a time, before those
// that nobody asked for in person are put on hold.
type Budget struct {
	Reactions int           // 1 to 30, default 10; 0: no limit
	Within    time.Duration // default 10m
}

// Instance is one service on one host.
type Instance struct {
	Service string
	Host    string
}

// String is "web@web1".
func (i Instance) String() string { return i.Service + "@" + i.Host }

// Host finds a host by name; nil where there is none.
func (s *Site) Host(name string) *Host { return s.hosts[name] }

// Service finds a service by name; nil where there is none.
func (s *Site) Service(name string) *Service { return s.services[name] }

// Asked reports whether a probe of the service is to be asked from a place.
func (v *Service) Asked(from ProbeFrom) bool {
	return slices.ContainsFunc(v.Ready, func(p Probe) bool { return p.From == from })
}

// keepers is how many hosts of a pool keep its slots.
const keepers = 3

// Keepers lists the hosts whose gates keep the slots of a service, by which at most
// MaxUnavailable of its instances are down at once whichever runs are at work: the
// first ones in the file. A slot is one that most of them have given. There are
// none where all of it may be down, or where no gate is.
func (v *Service) Keepers() []string {
	if v.Adapter.Kind == KindPlain || v.Adapter.Kind == KindExternal || len(v.Hosts) <= v.MaxUnavailable {
		return nil
	}
	return v.Hosts[:min(len(v.Hosts), keepers)]
}

// Blind lists, in the order of the file, the services that others react to while no
// probe at their own host tells one incarnation from the next: a restart inside the
// unit, by a database's own administrator for instance, is not seen. Those without
// a unit of kido's are not among them.
func (s *Site) Blind() []*Service {
	followed := map[string]bool{}
	for _, v := range s.Services {
		for _, dep := range v.After {
			followed[dep.Upstream] = followed[dep.Upstream] || dep.OnRestart != ReactionNone
		}
	}
	var blind []*Service
	for _, v := range s.Services {
		unitless := v.Adapter.Kind == KindPlain || v.Adapter.Kind == KindExternal
		if followed[v.Name] && !unitless && !v.TellsLife() {
			blind = append(blind, v)
		}
	}
	return blind
}

// TellsLife reports whether a probe at the host of an instance tells its incarnation.
func (v *Service) TellsLife() bool {
	return slices.ContainsFunc(v.Ready, func(p Probe) bool { return p.From == FromHost && p.TellsLife() })
}

// Instances lists the instances of a service in the order of its hosts.
func (v *Service) Instances() []Instance {
	all := make([]Instance, len(v.Hosts))
	for i, h := range v.Hosts {
		all[i] = Instance{v.Name, h}
	}
	return all
}
