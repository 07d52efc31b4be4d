package site

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// The drafts are the file as read, before names are looked up. They keep the
// nodes that a later message may have to point at.

type fileDraft struct {
	site, identity, knownHosts        string
	notify                            []string
	siteKey                           *node
	defaults, hosts, services, groups *node
}

type defaultsDraft struct {
	maxUnavailable quantity
	timeout        Timeouts
	retry          Retry
	wait           Wait
	budget         Budget
	settle         time.Duration
	user           string
	port           int
}

// quantity is a count or a percentage of a service's instances.
type quantity struct {
	value   int
	percent bool
	at      *node
}

func (q quantity) of(instances int) int {
	if q.percent {
		return max(1, instances*q.value/100)
	}
	return max(1, q.value)
}

type serviceDraft struct {
	*Service
	at             *node // its name
	hostsKey       *node
	hosts          []*node
	placed         bool // all its hosts exist
	adapterKey     *node
	commandKey     *node // command's own start and stop are there
	pidfileKey     *node
	readyKey       *node
	probes         []probeDraft
	unclear        bool // its probes are not all understood
	listensAt      *node
	failuresKey    *node
	ours           []*node // keys that an external service does not have
	after          []edgeDraft
	stopAfter      []*node
	conflicts      []*node
	maxUnavailable quantity
}

type edgeDraft struct {
	Dependency
	at         *node // the upstream's name
	reactionAt *node // nil where it is the default
	ifAt       *node // nil where there is no condition
	ofSaid     bool  // and not the default
	when       string
}

type hostDraft struct {
	Host
	portKey *node
}

type groupDraft struct {
	at      *node
	members []*node
}

var fileFields = []field[fileDraft]{
	{"site", func(d *decoder, n *node, f *fileDraft) {
		f.siteKey = d.key
		if f.site = d.text(n, "site"); f.site != "" {
			d.checkName(n, "site")
		}
	}},
	textField("identity", func(f *fileDraft) *string { return &f.identity }),
	textField("known_hosts", func(f *fileDraft) *string { return &f.knownHosts }),
	argvField("notify", func(f *fileDraft) *[]string { return &f.notify }),
	{"defaults", func(d *decoder, n *node, f *fileDraft) { f.defaults = n }},
	{"hosts", func(d *decoder, n *node, f *fileDraft) { f.hosts = n }},
	{"services", func(d *decoder, n *node, f *fileDraft) { f.services = n }},
	{"groups", func(d *decoder, n *node, f *fileDraft) { f.groups = n }},
}

var defaultsFields = []field[defaultsDraft]{
	{"max_unavailable", func(d *decoder, n *node, f *defaultsDraft) { f.maxUnavailable = d.quantity(n, "max_unavailable") }},
	{"timeout", func(d *decoder, n *node, f *defaultsDraft) { object(d, n, "timeout", timeoutFields, &f.timeout) }},
	{"retry", func(d *decoder, n *node, f *defaultsDraft) { object(d, n, "retry", retryFields, &f.retry) }},
	{"wait", func(d *decoder, n *node, f *defaultsDraft) { d.wait(n, &f.wait) }},
	{"budget", func(d *decoder, n *node, f *defaultsDraft) { d.budget(n, &f.budget) }},
	durationField("settle", func(f *defaultsDraft) *time.Duration { return &f.settle }),
	{"user", func(d *decoder, n *node, f *defaultsDraft) { f.user = d.user(n) }},
	countField("port", 1, 65535, func(f *defaultsDraft) *int { return &f.port }),
}

var timeoutFields = []field[Timeouts]{
	durationField("start", func(t *Timeouts) *time.Duration { return &t.Start }),
	durationField("stop", func(t *Timeouts) *time.Duration { return &t.Stop }),
	durationField("ready", func(t *Timeouts) *time.Duration { return &t.Ready }),
	durationField("connect", func(t *Timeouts) *time.Duration { return &t.Connect }),
}

var retryFields = []field[Retry]{
	countField("attempts", 1, 100, func(r *Retry) *int { return &r.Attempts }),
	durationField("delay", func(r *Retry) *time.Duration { return &r.Delay }),
	durationField("max", func(r *Retry) *time.Duration { return &r.Max }),
}

var waitFields = []field[Wait]{
	durationField("timeout", func(w *Wait) *time.Duration { return &w.Timeout }),
	durationField("grace", func(w *Wait) *time.Duration { return &w.Grace }),
	{"otherwise", func(d *decoder, n *node, w *Wait) {
		var word string
		choose(d, n, "otherwise", &word, waitStart, waitLeave)
		w.Leave = word == waitLeave
	}},
}

const (
	waitNone  = "none"
	waitStart = "start"
	waitLeave = "leave"
)

var budgetFields = []field[Budget]{
	countField("reactions", 1, 30, func(b *Budget) *int { return &b.Reactions }),
	durationField("within", func(b *Budget) *time.Duration { return &b.Within }),
}

var builtinBudget = Budget{Reactions: 10, Within: 10 * time.Minute}

// budget reads a budget of reactions: "none", or a mapping.
func (d *decoder) budget(n *node, b *Budget) {
	if n.kind == mapping {
		if *b == (Budget{}) { // the site's defaults said none
			*b = builtinBudget
		}
		object(d, n, "budget", budgetFields, b)
		return
	}
	var word string
	if choose(d, n, "budget", &word, "none"); word == "none" {
		*b = Budget{}
	}
}

// wait reads how a start is held: "none", or a mapping.
func (d *decoder) wait(n *node, w *Wait) {
	if n.kind == mapping {
		w.Off = false
		object(d, n, "wait", waitFields, w)
		return
	}
	var word string
	choose(d, n, "wait", &word, waitNone)
	w.Off = word == waitNone
}

var hostFields = []field[hostDraft]{
	{"address", func(d *decoder, n *node, h *hostDraft) { d.address(n, h) }},
	{"port", func(d *decoder, n *node, h *hostDraft) {
		if h.portKey != nil {
			d.errorf(d.key, "leave it out of the address", "the port is given twice")
			return
		}
		h.portKey = d.key
		h.Port = d.count(n, "port", 1, 65535)
	}},
	{"user", func(d *decoder, n *node, h *hostDraft) { h.User = d.user(n) }},
}

var serviceFields = []field[serviceDraft]{
	{"hosts", func(d *decoder, n *node, s *serviceDraft) { s.hostsKey, s.hosts = d.key, d.names(n, "hosts") }},
	unitField(KindSystemd),
	unitField(KindSysV),
	unitField(KindOpenRC),
	{"command", func(d *decoder, n *node, s *serviceDraft) {
		if d.adapter(s, KindCommand) {
			d.command(n, s)
		}
	}},
	{"plain", func(d *decoder, n *node, s *serviceDraft) {
		if d.adapter(s, KindPlain) {
			d.plain(n, &s.Adapter)
		}
	}},
	{"pidfile", func(d *decoder, n *node, s *serviceDraft) {
		s.pidfileKey, s.Adapter.PIDFile = d.key, d.absolute(n, "pidfile")
	}},
	{"external", func(d *decoder, n *node, s *serviceDraft) {
		if d.adapter(s, KindExternal) && (n.kind != scalar || n.tag != "!!bool" || strings.ToLower(n.value) != "true") {
			d.errorf(n, "write true, or leave it out of a service that kido starts", "external can only be true, not %s", describe(n))
		}
	}},
	{"ready", func(d *decoder, n *node, s *serviceDraft) {
		before := d.mistakes
		s.readyKey, s.probes = d.key, d.probes(n)
		s.unclear = d.mistakes > before
	}},
	{"listens", func(d *decoder, n *node, s *serviceDraft) {
		s.listensAt = n
		if host, port, ok := d.hostPort(n, "listens", 0); ok {
			s.Listens = net.JoinHostPort(host, port)
		}
	}},
	{"failures", func(d *decoder, n *node, s *serviceDraft) {
		s.failuresKey = d.key
		s.Failures = d.count(n, "failures", 1, 100)
	}},
	{"after", func(d *decoder, n *node, s *serviceDraft) { s.after = d.after(n) }},
	{"stop_after", func(d *decoder, n *node, s *serviceDraft) { s.stopAfter = d.names(n, "stop_after") }},
	{"conflicts", func(d *decoder, n *node, s *serviceDraft) { s.conflicts = d.names(n, "conflicts") }},
	{"max_unavailable", func(d *decoder, n *node, s *serviceDraft) {
		s.maxUnavailable = d.quantity(n, "max_unavailable")
	}},
	countField("max_failures", 1, 1_000_000, func(s *serviceDraft) *int { return &s.MaxFailures }),
	{"timeout", func(d *decoder, n *node, s *serviceDraft) { object(d, n, "timeout", timeoutFields, &s.Timeout) }},
	{"retry", func(d *decoder, n *node, s *serviceDraft) { object(d, n, "retry", retryFields, &s.Retry) }},
	{"wait", func(d *decoder, n *node, s *serviceDraft) { d.wait(n, &s.Wait) }},
	{"budget", func(d *decoder, n *node, s *serviceDraft) { d.budget(n, &s.Budget) }},
	durationField("settle", func(s *serviceDraft) *time.Duration { return &s.Settle }),
}

var commandFields = []field[Adapter]{
	argvField("start", func(a *Adapter) *[]string { return &a.Start }),
	argvField("stop", func(a *Adapter) *[]string { return &a.Stop }),
	argvField("restart", func(a *Adapter) *[]string { return &a.Restart }),
	argvField("reload", func(a *Adapter) *[]string { return &a.Reload }),
	argvField("status", func(a *Adapter) *[]string { return &a.Status }),
}

var plainFields = []field[Adapter]{
	choiceField("action", func(a *Adapter) *Reaction { return &a.Action }, plainActions...),
	textField("key", func(a *Adapter) *string { return &a.Key }),
	{"user", func(d *decoder, n *node, a *Adapter) { a.User = d.user(n) }},
}

var plainActions = []Reaction{ReactionRestart, ReactionReload}

var reactions = []Reaction{ReactionRestart, ReactionReload, ReactionStopFirst, ReactionNone}

var edgeFields = []field[edgeDraft]{
	{"on_restart", func(d *decoder, n *node, e *edgeDraft) { d.reaction(n, e) }},
	choiceField("strength", func(e *edgeDraft) *Strength { return &e.Strength }, Requires, Wants),
	{"of", func(d *decoder, n *node, e *edgeDraft) {
		e.ofSaid = true
		choose(d, n, "of", &e.Of, OfAll, OfAny)
	}},
	choiceField("when", func(e *edgeDraft) *string { return &e.when }, sameHost),
	{"if", func(d *decoder, n *node, e *edgeDraft) {
		var word string
		choose(d, n, "if", &word, staleConnections)
		e.ifAt, e.IfStale = n, word == staleConnections
	}},
}

const (
	sameHost         = "same-host"
	staleConnections = "stale-connections"
)

func unitField(kind AdapterKind) field[serviceDraft] {
	return field[serviceDraft]{string(kind), func(d *decoder, n *node, s *serviceDraft) {
		if !d.adapter(s, kind) {
			return
		}
		s.Adapter.Unit = d.unitName(n, string(kind))
	}}
}

func (d *decoder) unitName(n *node, what string) string {
	unit := d.text(n, what)
	if unit != "" && !wellFormed(unit, 255, "_", "_.-:@\\") {
		d.errorf(n, "the name only, as init knows it", "%s: %q is not the name of a unit or init script", what, unit)
		return ""
	}
	return unit
}

// adapters are the keys that say how a service is controlled.
const adapters = "systemd, sysv, openrc, command, plain and external"

// adapter notes which adapter a service has; it is false for a second one.
func (d *decoder) adapter(s *serviceDraft, kind AdapterKind) bool {
	if s.adapterKey != nil {
		d.errorf(d.key, "a service has exactly one of "+adapters,
			"%s as well as %s in line %d", kind, s.adapterKey.value, s.adapterKey.line)
		return false
	}
	s.adapterKey, s.Adapter.Kind = d.key, kind
	return true
}

func (d *decoder) command(n *node, s *serviceDraft) {
	if n.kind != mapping {
		d.errorf(n, "write command: {start: [/path/of/program, argument], stop: [/path/of/program]}", "command must be a mapping, not %s", describe(n))
		return
	}
	if !object(d, n, "command", commandFields, &s.Adapter) {
		return
	}
	s.commandKey = n
	for _, need := range []struct {
		key  string
		argv []string
	}{{"start", s.Adapter.Start}, {"stop", s.Adapter.Stop}} {
		if need.argv == nil {
			d.errorf(n, "", "command has no %s", need.key)
		}
	}
}

func (d *decoder) plain(n *node, a *Adapter) {
	if n.kind == mapping {
		a.Action = ReactionRestart
		object(d, n, "plain", plainFields, a)
		return
	}
	choose(d, n, "plain", &a.Action, plainActions...)
}

// argv reads a command line as a list. A mistake leaves it empty but not nil.
func (d *decoder) argv(n *node, what string) []string {
	argv := []string{}
	if n.kind != sequence {
		d.errorf(n, "write a list, [/path/of/program, argument]; no shell takes it apart", "%s must be a list, not %s", what, describe(n))
		return argv
	}
	for i, item := range d.list(n, what) {
		// An argument may well be empty, or look like a number.
		switch {
		case item.kind != scalar || item.tag == "!!null":
			d.errorf(item, "", "%s: an argument must be text, not %s", what, describe(item))
		case strings.ContainsRune(item.value, 0):
			d.errorf(item, "", "%s: an argument holds a NUL character", what)
		case i == 0 && !path.IsAbs(item.value):
			d.errorf(item, "", "%s: the program %q must be an absolute path", what, item.value)
		default:
			argv = append(argv, item.value)
		}
	}
	return argv
}

func (d *decoder) absolute(n *node, what string) string {
	p := d.text(n, what)
	if p != "" && !path.IsAbs(p) {
		d.errorf(n, "", "%s: %q must be an absolute path", what, p)
		return ""
	}
	return p
}

func (d *decoder) user(n *node) string {
	u := d.text(n, "user")
	if strings.ContainsAny(u, " :/@") {
		d.errorf(n, "", "%q is not the name of a user", u)
		return ""
	}
	return u
}

func (d *decoder) quantity(n *node, what string) quantity {
	if n.kind == scalar && n.tag == "!!str" {
		number, ok := strings.CutSuffix(n.value, "%")
		p, err := strconv.Atoi(number)
		if !ok || err != nil || p < 1 || p > 100 {
			d.errorf(n, `write a number, or a percentage from "1%" to "100%"`, "%s: %q is not a percentage", what, n.value)
			return quantity{}
		}
		return quantity{p, true, n}
	}
	return quantity{d.count(n, what, 1, 1_000_000), false, n}
}

func (d *decoder) reaction(n *node, e *edgeDraft) {
	e.reactionAt = n
	choose(d, n, "on_restart", &e.OnRestart, reactions...)
}

func (d *decoder) after(n *node) []edgeDraft {
	var edges []edgeDraft
	edge := func(at *node) *edgeDraft {
		edges = append(edges, edgeDraft{
			Dependency: Dependency{Upstream: at.value, Strength: Requires, Of: OfAll, Line: at.line},
			at:         at,
		})
		return &edges[len(edges)-1]
	}
	if n.kind != mapping {
		for _, name := range d.names(n, "after") {
			edge(name)
		}
		return edges
	}
	d.named(n, "after", func(name, value *node) {
		e := edge(name)
		switch {
		case value.kind == mapping:
			object(d, value, "after "+name.value, edgeFields, e)
		case value.tag == "!!null":
			d.errorf(name, fmt.Sprintf("write %q for the default", name.value+": restart"), "after: %s has no reaction", name.value)
		default:
			d.reaction(value, e)
		}
		e.SameHost = e.when == sameHost
	})
	return edges
}

// address reads a host's address with or without a port.
func (d *decoder) address(n *node, h *hostDraft) {
	text := d.text(n, "address")
	if text == "" {
		return
	}
	host, port := text, ""
	// A bare IPv6 address has colons, and no port.
	if strings.HasPrefix(text, "[") || strings.Count(text, ":") == 1 {
		if inner, ok := strings.CutSuffix(text, "]"); ok {
			host = strings.TrimPrefix(inner, "[")
		} else {
			var err error
			if host, port, err = net.SplitHostPort(text); err != nil || !validPort(port) {
				d.errorf(n, "", "address: %q is not address:port", text)
				return
			}
		}
	}
	if !validAddress(host) {
		d.errorf(n, "", "address: %q is neither an IP address nor a host name", host)
		return
	}
	h.Address = host
	if port == "" {
		return
	}
	if h.portKey != nil {
		d.errorf(n, "leave it out of the address", "the port is given twice")
		return
	}
	h.portKey = n
	h.Port, _ = strconv.Atoi(port)
}

func validPort(s string) bool {
	p, err := strconv.ParseUint(s, 10, 16)
	return err == nil && p > 0 && s[0] != '0'
}

func validAddress(s string) bool {
	if strings.Contains(s, ":") {
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if !wellFormed(label, 63, "_", "-_") {
			return false
		}
	}
	return len(s) <= 253
}

// checkName holds the rule for names of sites, hosts, services and groups.
func (d *decoder) checkName(n *node, what string) {
	if !wellFormed(n.value, 63, "", "._-") {
		d.errorf(n, "a name has letters, digits, '.', '_' and '-', begins with a letter or digit, and is at most 63 long",
			"%q cannot be the name of a %s", n.value, what)
	}
}

// wellFormed reports whether s is 1 to longest letters and digits, with one of
// first in front and any of others behind as they may be too.
func wellFormed(s string, longest int, first, others string) bool {
	allowed := first
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && strings.IndexByte(allowed, c) < 0 {
			return false
		}
		allowed = others
	}
	return s != "" && len(s) <= longest
}
