package gate

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kido/internal/probe"
	"kido/internal/wire"
)

const (
	// MaxPolicy is the longest policy file, in bytes, that is read.
	MaxPolicy = 1 << 20
	// DefaultState is the state folder where a policy names none.
	DefaultState = "/var/lib/kido-gate"
	// DefaultTimeout caps an init job where a policy names no time-out.
	DefaultTimeout = 10 * time.Minute
)

// Policy is what a gate may do, and for whom: all that is not in it is denied.
// It comes from a file of lines (see [ParsePolicy]) that only root, or the user
// that the gate runs as, can change (see [LoadPolicy]).
type Policy struct {
	Host       string        // this host's name in the site
	State      string        // folder of the state files, absolute
	Prober     string        // program that makes the probes a gate cannot; "" for none
	Become     []string      // argv in front of every command of an adapter; nil for none
	Systemctl  string        // program by which systemd is told what to do, behind Become; "": over the bus
	Timeout    time.Duration // cap on any init job, whole milliseconds
	Services   []PolicyService
	Watches    []Watch
	Principals []Principal
	Revoked    []string // fingerprints of keys that may do nothing, in a certificate neither
	Grants     []Grant
}

// PolicyService is a service of this host as its init knows it.
type PolicyService struct {
	Name    string
	Adapter string // "systemd", "sysv", "openrc", "command" or "external"
	Unit    string // the unit's or script's name; "" for command and external

	// The argvs of a command service, programs absolute. Start and Stop are
	// there; nil is none.
	Start, Stop, Restart, Reload, Status []string

	PIDFile string       // absolute; sysv and openrc default to /run/UNIT.pid; "" for systemd
	Ready   []probe.Spec // all must answer; none: up is ready
	Wait    *Wait        // how its own start is held; nil: it is not
	Budget  *Budget      // of those who may make it fresh and not restart it; nil: none
	Members *Members     // of its pool, where this host keeps slots of it; nil: whom they say
	// Failures is how many tries in a row must fail before an external service is taken
	// to have been away; 0: its probes tell its incarnations, or init does.
	Failures uint64
	Peers    []Peer // the upstreams to which its connections are counted
}

// Peer is an upstream instance and where the connections to it lead.
type Peer struct {
	Upstream  string   // "oracle@db1"
	Addresses []string // "ADDRESS:PORT"
}

// Members are the instances that slots of a pool are for, and how many there are:
// what holds for whoever may take one and not free it, for a slot of what does not
// exist would keep all others out for ever.
type Members struct {
	Most      uint64   // may be down at once
	Instances []string // "web@web1"
}

// Budget is how often a service may be made fresh by whoever may do no more than
// that: a key that was stolen can make up one token after the other.
type Budget struct {
	Reactions uint64        // 1 to [MaxBudget]
	Within    time.Duration // in so long, whole milliseconds
}

// Wait is how the start of a service by its own init is held until what it needs
// is ready (see [Waiter]).
type Wait struct {
	Timeout time.Duration // at most so long, whole milliseconds
	Grace   time.Duration // how long a run may take to reach this host once all answers
	Leave   bool          // after Timeout it is not started
	Await   [][]string    // of each list one instance must be ready, as its watch sees it
}

// Watch is an instance of another host with the probes that are made of it from
// here.
type Watch struct {
	Instance string // "oracle@db1"
	Ready    []probe.Spec
}

// Principal names one or more identities (see [Caller]).
type Principal struct {
	Name       string
	Identities []string // "SHA256:…", a CertificateIdentity, IdentityUnexposed, IdentityLocal; no two principals share one
}

// Grant lets a principal use verbs on one service, or VerbProbe on one watch.
type Grant struct {
	Principal string
	Service   string      // or the watch's instance
	Verbs     []wire.Verb // in the order of wire.Verbs
}

// Service finds a service by name; nil where there is none.
func (p *Policy) Service(name string) *PolicyService {
	i := slices.IndexFunc(p.Services, func(s PolicyService) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Services[i]
}

// Watch finds a watch by its instance; nil where there is none.
func (p *Policy) Watch(instance string) *Watch {
	i := slices.IndexFunc(p.Watches, func(w Watch) bool { return w.Instance == instance })
	if i < 0 {
		return nil
	}
	return &p.Watches[i]
}

// Principal is the name of the principal that has an identity, "" where none has.
func (p *Policy) Principal(identity string) string {
	i := slices.IndexFunc(p.Principals, func(r Principal) bool { return slices.Contains(r.Identities, identity) })
	if i < 0 {
		return ""
	}
	return p.Principals[i].Name
}

// Authorise returns nil where the policy grants who the verb on the service (or
// on the watch's instance), and an error that says which line is missing
// otherwise. A service that does not exist is refused in the same words as one
// that is not granted, so that a key cannot list what is here.
func (p *Policy) Authorise(who Caller, verb wire.Verb, service string) error {
	if who.Key != "" && slices.Contains(p.Revoked, who.Key) { // sshd looks once, when a connection begins
		return fmt.Errorf("%s: the key %s is revoked", p.Host, wire.Quote(who.Key))
	}
	if verb == wire.VerbProbe && !strings.Contains(service, "@") {
		verb = wire.VerbStatus // a status runs the same probes, and says less
	}
	name := p.Principal(who.Identity)
	if name == "" {
		switch who.Identity {
		case IdentityUnexposed:
			return fmt.Errorf("%s: sshd does not say which key came in, and no principal is %s: set ExposeAuthInfo yes in sshd_config for this user", p.Host, IdentityUnexposed)
		case IdentityLocal:
			return fmt.Errorf("%s: the policy has no principal for whoever runs the gate on this host: add a line: principal NAME %s", p.Host, IdentityLocal)
		}
		what := "key"
		if isCertificateIdentity(who.Identity) {
			what = "certificate"
		}
		return fmt.Errorf("%s: the policy has no principal with the %s %s: add a line: principal NAME %[3]s", p.Host, what, wire.Quote(who.Identity))
	}
	for _, g := range p.Grants {
		if g.Principal == name && g.Service == service && slices.Contains(g.Verbs, verb) {
			return nil
		}
	}
	return fmt.Errorf("%s: the policy does not grant this: add a line: %s", p.Host, wire.FormatLine("grant", name, service, string(verb)))
}

// bounded is a request within what the policy says of the service, for whoever may
// not undo what he does. The budget is the policy's: with a looser one a stolen key
// could restart the service for ever, and with a stricter one put it on hold for all
// others. So are the members of a pool, and how many may be down.
func (p *Policy) bounded(who Caller, q wire.Request) (wire.Request, error) {
	s := p.Service(q.Service)
	switch {
	case q.Verb == wire.VerbEnsure && p.Authorise(who, wire.VerbRestart, q.Service) != nil:
		q.Budget, q.Within = 0, 0
		if b := s.Budget; b != nil {
			q.Budget, q.Within = b.Reactions, b.Within
		}
	case q.Verb == wire.VerbTake && s.Members != nil && p.Authorise(who, wire.VerbRelease, q.Service) != nil:
		if q.Most = s.Members.Most; !slices.Contains(s.Members.Instances, q.Member) {
			return q, fmt.Errorf("%s: %s is no member of the pool: kido install brings what the site file says", p.Host, wire.Quote(q.Member))
		}
	}
	return q, nil
}

// Format writes the one spelling of p: [ParsePolicy] reads it back to an equal
// policy.
func (p *Policy) Format() string {
	var b strings.Builder
	line := func(fields ...string) { b.WriteString(wire.FormatLine(fields...) + "\n") }
	inner := func(word string, args ...string) {
		if len(args) > 0 {
			b.WriteString("  ")
			line(append([]string{word}, args...)...)
		}
	}
	ready := func(specs []probe.Spec) {
		for _, s := range specs {
			inner("ready", s.Fields()...)
		}
	}
	line("kido-policy", "1")
	line("host", p.Host)
	line("state", p.State)
	if p.Prober != "" {
		line("prober", p.Prober)
	}
	if len(p.Become) > 0 {
		line(append([]string{"become"}, p.Become...)...)
	}
	if p.Systemctl != "" {
		line("systemctl", p.Systemctl)
	}
	line("timeout", milliseconds(p.Timeout))
	for _, s := range p.Services {
		if s.Unit != "" {
			line("service", s.Name, s.Adapter, s.Unit)
		} else {
			line("service", s.Name, s.Adapter)
		}
		for _, c := range s.commands() {
			inner(c.word, *c.argv...)
		}
		if s.PIDFile != "" {
			inner("pidfile", s.PIDFile)
		}
		ready(s.Ready)
		if s.Failures > 0 {
			inner("failures", strconv.FormatUint(s.Failures, 10))
		}
		if w := s.Wait; w != nil {
			inner("wait", milliseconds(w.Timeout), milliseconds(w.Grace), map[bool]string{true: waitLeave, false: waitStart}[w.Leave])
			for _, any := range w.Await {
				inner("await", any...)
			}
		}
		if b := s.Budget; b != nil {
			inner("budget", strconv.FormatUint(b.Reactions, 10), milliseconds(b.Within))
		}
		if m := s.Members; m != nil {
			inner("pool", append([]string{strconv.FormatUint(m.Most, 10)}, m.Instances...)...)
		}
		for _, peer := range s.Peers {
			inner("peer", append([]string{peer.Upstream}, peer.Addresses...)...)
		}
	}
	for _, w := range p.Watches {
		line("watch", w.Instance)
		ready(w.Ready)
	}
	for _, r := range p.Principals {
		line(append([]string{"principal", r.Name}, r.Identities...)...)
	}
	for _, key := range p.Revoked {
		line("revoked", key)
	}
	for _, g := range p.Grants {
		fields := []string{"grant", g.Principal, g.Service}
		for _, v := range g.Verbs {
			fields = append(fields, string(v))
		}
		line(fields...)
	}
	return b.String()
}

// The adapters that a service line can name.
const (
	adapterSystemd = "systemd"
	adapterSysV    = "sysv"
	adapterOpenRC  = "openrc"
	adapterCommand = "command"
	// An external service is none of kido's: it is only looked at from here.
	adapterExternal = "external"
)

var adapters = []string{adapterSystemd, adapterSysV, adapterOpenRC, adapterCommand, adapterExternal}

// What becomes of a start that was held in vain.
const (
	waitStart = "start"
	waitLeave = "leave"
)

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

type command struct {
	word string
	argv *[]string
}

// commands lists the actions of a command service in the order of a file.
func (s *PolicyService) commands() []command {
	return []command{
		{"start", &s.Start},
		{"stop", &s.Stop},
		{"restart", &s.Restart},
		{"reload", &s.Reload},
		{"status", &s.Status},
	}
}

// ParsePolicy reads a policy: lines of fields as package wire writes them. For
// people's sake it also takes indentation, runs of blanks, empty lines, quotes
// where none are needed, and comments from a # to the end of the line. An error
// names the first line that is wrong and what to write there.
func ParsePolicy(text string) (*Policy, error) {
	r := policyReader{
		policy: &Policy{State: DefaultState, Timeout: DefaultTimeout},
		given:  map[string]int{},
	}
	for i, line := range strings.Split(text, "\n") {
		r.line = i + 1
		f, err := splitFields(line)
		if err == nil && len(f) > 0 {
			err = r.read(f[0], f[1:])
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", r.line, err)
		}
	}
	if err := r.finish(); err != nil {
		return nil, err
	}
	return r.policy, nil
}

type policyReader struct {
	policy *Policy
	line   int
	given  map[string]int // what may be there once → the line where it is
	block  string         // the word that opened the block which inner words belong to
}

// once fails where what was given before.
func (r *policyReader) once(what string) error {
	if line, ok := r.given[what]; ok {
		return fmt.Errorf("%s is on line %d already: keep one of the two", what, line)
	}
	r.given[what] = r.line
	return nil
}

var (
	outerWords = []string{"host", "state", "prober", "become", "systemctl", "timeout", "service", "watch", "principal", "revoked", "grant"}
	innerWords = []string{"start", "stop", "restart", "reload", "status", "pidfile", "ready", "failures", "wait", "await", "budget", "pool", "peer"}
)

func (r *policyReader) read(word string, args []string) error {
	const head = "kido-policy"
	if r.given[head] == 0 {
		if word != head || !slices.Equal(args, []string{"1"}) {
			return errors.New("not a policy that this gate reads: the first line must be: kido-policy 1")
		}
		return r.once(head)
	}
	if slices.Contains(innerWords, word) {
		if r.block == "" {
			return fmt.Errorf("%s stands outside of a service: put it below a line: service NAME command", word)
		}
		return r.inner(word, args)
	}
	r.block = ""
	p := r.policy
	switch word {
	case "host", "state", "prober", "become", "systemctl", "timeout":
		if err := r.once(word); err != nil {
			return err
		}
	}
	switch word {
	case "host":
		return single(word, args, &p.Host, checkName)
	case "state":
		return single(word, args, &p.State, checkPath)
	case "prober":
		return single(word, args, &p.Prober, checkPath)
	case "become":
		p.Become = args
		return checkArgv(word, args)
	case "systemctl":
		return single(word, args, &p.Systemctl, checkPath)
	case "timeout":
		return readTimeout(args, &p.Timeout)
	case "service":
		return r.service(args)
	case "watch":
		return r.watch(args)
	case "principal":
		return r.principal(args)
	case "revoked":
		return r.revoked(args)
	case "grant":
		return r.grant(args)
	}
	return fmt.Errorf("%s is not a word of a policy%s", wire.Quote(word), meant(word, slices.Concat(outerWords, innerWords)))
}

func (r *policyReader) service(args []string) error {
	if len(args) < 2 {
		return errors.New("a service line is: service NAME systemd UNIT, or: service NAME sysv SCRIPT, openrc SCRIPT, or: service NAME command")
	}
	s := PolicyService{Name: args[0], Adapter: args[1]}
	if err := checkName("service", s.Name); err != nil {
		return err
	}
	if err := r.once("service " + s.Name); err != nil {
		return err
	}
	switch s.Adapter {
	case adapterCommand:
		if len(args) != 2 {
			return errors.New("a command service takes nothing more on its line: put start, stop and pidfile on lines of their own below it")
		}
	case adapterExternal:
		if len(args) != 2 {
			return errors.New("an external service takes nothing more on its line: put its probes on lines that begin with ready below it")
		}
	case adapterSystemd:
		if len(args) != 3 {
			return fmt.Errorf("a systemd service names its unit: service %s systemd UNIT", s.Name)
		}
		s.Unit = args[2]
		if err := checkUnit(s.Unit); err != nil {
			return err
		}
	case adapterSysV, adapterOpenRC:
		if len(args) != 3 {
			return fmt.Errorf("a %[2]s service names its script: service %[1]s %[2]s SCRIPT", s.Name, s.Adapter)
		}
		s.Unit = args[2]
		if err := checkName("script", s.Unit); err != nil {
			return err
		}
		s.PIDFile = "/run/" + s.Unit + ".pid"
	default:
		return fmt.Errorf("%s is not an adapter%s: there are: %s", wire.Quote(s.Adapter), meant(s.Adapter, adapters), strings.Join(adapters, ", "))
	}
	r.policy.Services = append(r.policy.Services, s)
	r.block = "service " + s.Name
	return nil
}

func (r *policyReader) watch(args []string) error {
	if len(args) != 1 {
		return errors.New("a watch line is: watch SERVICE@HOST")
	}
	service, host, ok := strings.Cut(args[0], "@")
	if !ok {
		return fmt.Errorf("%s is not an instance: write SERVICE@HOST", wire.Quote(args[0]))
	}
	if err := checkName("service", service); err != nil {
		return err
	}
	if err := checkName("host", host); err != nil {
		return err
	}
	if err := r.once("watch " + args[0]); err != nil {
		return err
	}
	r.policy.Watches = append(r.policy.Watches, Watch{Instance: args[0]})
	r.block = "watch " + args[0]
	return nil
}

// inner reads a line that belongs to the service or watch above it.
func (r *policyReader) inner(word string, args []string) error {
	p := r.policy
	ofService := strings.HasPrefix(r.block, "service ")
	if word == "ready" {
		spec, err := probe.ParseSpec(args)
		if err != nil {
			return fmt.Errorf("ready: %w", err)
		}
		if ofService {
			s := &p.Services[len(p.Services)-1]
			s.Ready = append(s.Ready, spec)
		} else {
			w := &p.Watches[len(p.Watches)-1]
			w.Ready = append(w.Ready, spec)
		}
		return nil
	}
	if !ofService {
		return errors.New("a watch takes only lines that begin with ready: its service is started and stopped at its own host")
	}
	switch word {
	case "await":
		return r.await(args, &p.Services[len(p.Services)-1])
	case "peer":
		return r.peer(args, &p.Services[len(p.Services)-1])
	}
	if err := r.once(word + " of " + r.block); err != nil {
		return err
	}
	s := &p.Services[len(p.Services)-1]
	switch {
	case s.Adapter == adapterExternal && word != "failures":
		return fmt.Errorf("%s: an external service is only looked at: drop this line", word)
	case word == "wait":
		return readWait(args, &s.Wait)
	case word == "budget":
		return readBudget(args, &s.Budget)
	case word == "failures":
		if s.Adapter != adapterExternal {
			return errors.New("failures is for an external service: init tells the incarnations of this one")
		}
		n, err := strconv.ParseUint(strings.Join(args, " "), 10, 8)
		if s.Failures = n; err != nil || n == 0 || n > 100 {
			return errors.New("a failures line is: failures 1 to 100")
		}
		return nil
	case word == "pool":
		return readMembers(args, s)
	case word == "pidfile" && s.Adapter != adapterSystemd:
		return single(word, args, &s.PIDFile, checkPath)
	case s.Adapter != adapterCommand:
		return fmt.Errorf("%s: %s itself knows this of %s: drop this line", word, s.Adapter, s.Unit)
	}
	for _, c := range s.commands() {
		if c.word == word {
			*c.argv = args
		}
	}
	return checkArgv(word, args)
}

func readWait(args []string, to **Wait) error {
	bad := errors.New("a wait line is: wait TIMEOUT GRACE start, or: wait TIMEOUT GRACE leave, in milliseconds")
	if len(args) != 3 || args[2] != waitStart && args[2] != waitLeave {
		return bad
	}
	w := Wait{Leave: args[2] == waitLeave}
	if readTimeout(args[:1], &w.Timeout) != nil {
		return bad
	}
	if args[1] != "0" && readTimeout(args[1:2], &w.Grace) != nil {
		return bad
	}
	*to = &w
	return nil
}

func readBudget(args []string, to **Budget) error {
	bad := fmt.Errorf("a budget line is: budget REACTIONS WITHIN, 1 to %d in so many milliseconds", MaxBudget)
	if len(args) != 2 {
		return bad
	}
	n, err := strconv.ParseUint(args[0], 10, 64)
	b := Budget{Reactions: n}
	if err != nil || n < 1 || n > MaxBudget || readTimeout(args[1:], &b.Within) != nil {
		return bad
	}
	*to = &b
	return nil
}

func readMembers(args []string, s *PolicyService) error {
	bad := fmt.Errorf("a pool line is: pool MOST %s@HOST …", s.Name)
	if len(args) < 2 {
		return bad
	}
	n, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil || n < 1 {
		return bad
	}
	for _, i := range args[1:] {
		service, host, ok := strings.Cut(i, "@")
		if !ok || service != s.Name || checkName("host", host) != nil {
			return bad
		}
	}
	s.Members = &Members{Most: n, Instances: args[1:]}
	return nil
}

// await reads a line of instances of which one must be ready.
func (r *policyReader) await(args []string, s *PolicyService) error {
	if s.Wait == nil {
		return fmt.Errorf("await stands before its wait: put a line above it: wait %s 10000 start", milliseconds(DefaultTimeout))
	}
	if len(args) == 0 {
		return errors.New("an await line is: await SERVICE@HOST …")
	}
	if err := r.once("await " + strings.Join(args, " ") + " of " + r.block); err != nil {
		return err
	}
	s.Wait.Await = append(s.Wait.Await, args)
	return nil
}

// MaxPeers bounds the upstreams of a service and the addresses of each.
const MaxPeers = 256

func (r *policyReader) peer(args []string, s *PolicyService) error {
	if len(args) < 2 || len(args) > MaxPeers {
		return errors.New("a peer line is: peer SERVICE@HOST ADDRESS:PORT …")
	}
	service, host, _ := strings.Cut(args[0], "@")
	if err := errors.Join(checkName("service", service), checkName("host", host)); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	if n := len(s.Peers); n >= MaxPeers || n > 0 && s.Peers[n-1].Upstream >= args[0] {
		return fmt.Errorf("peer: at most %d, sorted, each once", MaxPeers)
	}
	for _, a := range args[1:] {
		if err := (probe.Spec{Kind: probe.KindTCP, Target: a}).Check(); err != nil {
			return fmt.Errorf("peer: %w", err)
		}
	}
	s.Peers = append(s.Peers, Peer{args[0], args[1:]})
	return nil
}

func (r *policyReader) principal(args []string) error {
	if len(args) < 2 {
		return errors.New("a principal line is: principal NAME SHA256:… (or unexposed, or local)")
	}
	who := Principal{Name: args[0], Identities: args[1:]}
	if err := checkName("principal", who.Name); err != nil {
		return err
	}
	if err := r.once("principal " + who.Name); err != nil {
		return err
	}
	for _, id := range who.Identities {
		if err := checkIdentity(id); err != nil {
			return err
		}
		if err := r.once("a principal with " + id); err != nil {
			return err
		}
	}
	r.policy.Principals = append(r.policy.Principals, who)
	return nil
}

func (r *policyReader) revoked(args []string) error {
	if len(args) != 1 || !isFingerprint(args[0]) {
		return errors.New("a revoked line is: revoked SHA256:…, as ssh-keygen -lf prints it")
	}
	if err := r.once("revoked " + args[0]); err != nil {
		return err
	}
	r.policy.Revoked = append(r.policy.Revoked, args[0])
	return nil
}

func (r *policyReader) grant(args []string) error {
	if len(args) < 3 {
		return errors.New("a grant line is: grant PRINCIPAL SERVICE VERB …")
	}
	g := Grant{Principal: args[0], Service: args[1]}
	if err := r.once("grant " + g.Principal + " " + g.Service); err != nil {
		return err
	}
	for _, v := range args[2:] {
		if !slices.Contains(wire.Verbs(), wire.Verb(v)) {
			return fmt.Errorf("%s is not a verb%s", wire.Quote(v), meant(v, spell(wire.Verbs())))
		}
		if slices.Contains(g.Verbs, wire.Verb(v)) {
			return fmt.Errorf("%s is there twice", v)
		}
		g.Verbs = append(g.Verbs, wire.Verb(v))
	}
	slices.SortFunc(g.Verbs, func(a, b wire.Verb) int {
		return slices.Index(wire.Verbs(), a) - slices.Index(wire.Verbs(), b)
	})
	r.policy.Grants = append(r.policy.Grants, g)
	return nil
}

// finish checks what needs the whole file.
func (r *policyReader) finish() error {
	p := r.policy
	if r.given["kido-policy"] == 0 {
		return errors.New("the policy is empty: the first line must be: kido-policy 1")
	}
	if p.Host == "" {
		return errors.New("the policy does not say which host this is: add a line: host NAME")
	}
	at := func(what, format string, args ...any) error {
		return fmt.Errorf("line %d: %s: %w", r.given[what], what, fmt.Errorf(format, args...))
	}
	for _, s := range p.Services {
		if s.Adapter == adapterCommand && (s.Start == nil || s.Stop == nil || s.PIDFile == "") {
			return at("service "+s.Name, "a command service needs the lines start, stop and pidfile")
		}
		if s.Adapter == adapterExternal {
			switch tells := slices.ContainsFunc(s.Ready, probe.Spec.TellsLife); {
			case len(s.Ready) == 0:
				return at("service "+s.Name, "there is nothing to look at: add a line such as: ready tcp ADDRESS:PORT")
			case tells == (s.Failures > 0):
				return at("service "+s.Name, "an external service needs a line failures N just where no probe tells its incarnation")
			}
		}
		if err := p.checkProber(s.Ready); err != nil {
			return at("service "+s.Name, "%w", err)
		}
		if s.Wait == nil {
			continue
		}
		for _, any := range s.Wait.Await {
			for _, instance := range any {
				if p.Watch(instance) == nil {
					return at("await "+strings.Join(any, " ")+" of service "+s.Name, "there is no watch %s: add a line: watch %[1]s, and below it how it is probed from here", wire.Quote(instance))
				}
			}
		}
	}
	for _, w := range p.Watches {
		if len(w.Ready) == 0 {
			return at("watch "+w.Instance, "there is nothing to probe: add a line such as: ready tcp ADDRESS:PORT")
		}
		if err := p.checkProber(w.Ready); err != nil {
			return at("watch "+w.Instance, "%w", err)
		}
	}
	var names, things []string
	for _, who := range p.Principals {
		names = append(names, who.Name)
	}
	for _, s := range p.Services {
		things = append(things, s.Name)
	}
	for _, w := range p.Watches {
		things = append(things, w.Instance)
	}
	for _, g := range p.Grants {
		what := "grant " + g.Principal + " " + g.Service
		switch {
		case !slices.Contains(names, g.Principal):
			return at(what, "there is no principal %s%s", wire.Quote(g.Principal), meant(g.Principal, names))
		case !slices.Contains(things, g.Service):
			return at(what, "there is no service or watch %s%s", wire.Quote(g.Service), meant(g.Service, things))
		case p.Service(g.Service) != nil && slices.Contains(g.Verbs, wire.VerbProbe):
			return at(what, "probe is for a watch, status runs the probes of a service")
		case p.Watch(g.Service) != nil && !slices.Equal(g.Verbs, []wire.Verb{wire.VerbProbe}):
			return at(what, "a watch can only be probed: its service is told what to do at its own host")
		}
	}
	return nil
}

// checkProber fails where a probe needs more than a gate can do.
func (p *Policy) checkProber(specs []probe.Spec) error {
	for _, s := range specs {
		if !s.Local() && p.Prober == "" {
			return fmt.Errorf("this %s probe is made by another program: add a line before the services: prober /usr/local/bin/kido", s.Kind)
		}
	}
	return nil
}

func spell[T ~string](words []T) []string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = string(w)
	}
	return all
}

func single(word string, args []string, to *string, check func(what, value string) error) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one value", word)
	}
	*to = args[0]
	return check(word, args[0])
}

func readTimeout(args []string, to *time.Duration) error {
	if len(args) == 1 {
		ms, err := strconv.ParseUint(args[0], 10, 64)
		if err == nil && ms > 0 && ms <= uint64(1<<63-1)/uint64(time.Millisecond) {
			*to = time.Duration(ms) * time.Millisecond
			return nil
		}
	}
	return errors.New("timeout takes a number of milliseconds: 600000 is ten minutes")
}

// checkName holds names to what is safe as a file name, on a command line and
// in a log.
func checkName(what, name string) error {
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || strings.IndexByte("._-", c) < 0) {
			return fmt.Errorf("%s %s: a name is letters, digits, and after the first also . _ -", what, wire.Quote(name))
		}
	}
	if name == "" || len(name) > 128 {
		return fmt.Errorf("%s: a name has 1 to 128 bytes", what)
	}
	return nil
}

// checkUnit holds a unit's name to what systemd takes and what can be logged;
// the adapter knows the rest.
func checkUnit(name string) error {
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 && c != '-' || strings.IndexByte(`:-_.\@`, c) < 0) {
			return fmt.Errorf("unit %s: a unit's name is letters, digits and : - _ . \\ @", wire.Quote(name))
		}
	}
	if !strings.Contains(name, ".") {
		return fmt.Errorf("unit %s: write it whole, as in %[1]s.service", wire.Quote(name))
	}
	return nil
}

func checkPath(what, path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("%s: %s is not an absolute path in its shortest form", what, wire.Quote(path))
	}
	return nil
}

func checkArgv(word string, argv []string) error {
	if len(argv) == 0 {
		return fmt.Errorf("%s takes a program and its arguments", word)
	}
	return checkPath(word, argv[0])
}

func checkIdentity(id string) error {
	if id == IdentityUnexposed || id == IdentityLocal || isFingerprint(id) || isCertificateIdentity(id) {
		return nil
	}
	return fmt.Errorf("%s is not an identity%s: write the SHA256:… that ssh-keygen -lf KEY.pub prints, for a certificate %s, or %s, or %s",
		wire.Quote(id), meant(id, []string{IdentityUnexposed, IdentityLocal}), CertificateIdentity("SHA256:…", "host/NAME"), IdentityUnexposed, IdentityLocal)
}

// splitFields is wire.ParseLine for text that people wrote.
func splitFields(line string) ([]string, error) {
	if strings.HasSuffix(line, "\r") {
		return nil, errors.New("the line ends in a carriage return: save the file with Unix line ends")
	}
	var fields []string
	for rest := line; ; {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" || rest[0] == '#' {
			return fields, nil
		}
		end := strings.IndexAny(rest, " \t")
		if end < 0 {
			end = len(rest)
		}
		field := rest[:end]
		if rest[0] == '"' {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, fmt.Errorf("field %d: the double quote is not closed, or a backslash in it stands alone", len(fields)+1)
			}
			if field, err = strconv.Unquote(quoted); err != nil {
				return nil, fmt.Errorf("field %d: %s is not a quoted string", len(fields)+1, wire.Quote(quoted))
			}
			end = len(quoted)
		} else if wire.Quote(field) != field {
			return nil, fmt.Errorf("field %d: write %s", len(fields)+1, strconv.QuoteToASCII(field))
		}
		if strings.IndexByte(field, 0) >= 0 {
			return nil, fmt.Errorf("field %d: a NUL byte cannot be passed to a program", len(fields)+1)
		}
		if end < len(rest) && rest[end] != ' ' && rest[end] != '\t' {
			return nil, fmt.Errorf("field %d: put a blank after the closing quote", len(fields)+1)
		}
		fields, rest = append(fields, field), rest[end:]
	}
}

// meant is ": did you mean X?" where one of words is near to word, else "".
func meant(word string, words []string) string {
	best, at := "", 1+len(word)/3
	for _, w := range words {
		if d := distance(word, w); d <= at && w != word {
			best, at = w, d-1
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + best + "?"
}

// distance is the number of letters to insert, drop or change between a and b.
// A misspelt word that is long is cut: it is compared, not stored.
func distance(a, b string) int {
	a = a[:min(len(a), 256)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// LoadPolicy reads the policy at path. It refuses a file that anyone but root
// and the user of this process could have written: file and folders up to the
// root must belong to one of the two, and be writable by no one else. (A sticky
// folder passes: in it others cannot replace what is not theirs.) Symbolic
// links on the way are refused.
func LoadPolicy(path string) (*Policy, error) {
	f, err := openTrusted(path, ownerOf(path))
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	defer f.Close()
	text, err := wire.ReadAll(f, MaxPolicy)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	p, err := ParsePolicy(string(text))
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	return p, nil
}
