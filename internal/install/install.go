// Package install sets a host up for kido, exactly as far as the site file asks
// for it, and takes it back.
//
// [Make] works out what a host needs, from the site, the public keys and facts
// about the host; it does no I/O. A [Machine] looks at the host, compares, and
// performs the difference. It promises: every file is replaced as a whole; what
// sshd, sudo or the gate would refuse is not put in place; what somebody else
// wrote or changed is kept aside or left alone, and said; after an interruption
// at any point sshd and init work as before, and the next run completes it; a
// run that finds everything in place changes nothing.
package install

import (
	"cmp"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/plan"
	"kido/internal/remote"
	"kido/internal/site"
)

// Where things are at a host. The programs and the user are named in keys' lines
// and in sshd's configuration, so they are the same everywhere.
const (
	gateUser    = "kido"
	GateProgram = "/usr/local/sbin/kido-gate" // what a key's line runs
	kidoProgram = "/usr/local/bin/kido"
	sudoProgram = "/usr/bin/sudo"

	folder      = "/etc/kido"
	siteFile    = folder + "/site.yaml"
	keysFolder  = folder + "/keys"
	peopleKeys  = keysFolder + "/" + PeopleFolder
	authorities = keysFolder + "/" + AuthoritiesFolder
	keyFile     = gate.KeyFile
	refusedFile = gate.RevokedFile
	sshdConfig  = "/etc/ssh/sshd_config"

	// Where the keyring has authorities.
	authoritiesFile = gate.AuthoritiesFile
	principalsFile  = gate.PrincipalsFile

	sshdDropIn   = "/etc/ssh/sshd_config.d/50-kido.conf"
	polkitFile   = "/etc/polkit-1/rules.d/50-kido.rules"
	sudoersFile  = "/etc/sudoers.d/kido"
	logrotateDir = "/etc/logrotate.d"
)

// Source is a site as it is to be installed: a file, and what is beside it.
type Source struct {
	File       string // absolute
	Text       string
	Keys       *Keyring
	KnownHosts string // text; "" where there is none
}

// Facts are what Make must know about a host beside the site.
type Facts struct {
	Init Init

	SSHD        bool   // there is one
	SSHDInclude bool   // sshd_config includes its folder
	Exempt      string // sshd's PerSourcePenaltyExemptList but for ours: "none", or somebody else's; "" where it counts no bad tries
	Sudo        string // why sudo cannot be used, "" where it can
	Polkit      string // why polkit takes no rules, "" where it does
	Systemctl   string // the program, absolute

	Units      map[string]Unit   // systemd: by the name in the site
	Scripts    map[string]Script // SysV: by name
	Sequential bool              // SysV: scripts start one by one in the order of their numbers
	Logrotate  bool

	// Unreadable says of files that the host's probes name why the gate cannot use them:
	// above all since its user cannot read them.
	Unreadable map[string]string

	// The programs to be installed, absolute; "" where they are not to be found.
	Kido, Gate string
}

// Unit is what systemd says of a unit.
type Unit struct {
	ID      string // its primary name
	Missing bool
	Trap    string // what makes it deceptive to depend on
	Along   string // other units that go down with it, blanks between
}

// Script is what the head of an init script says.
type Script struct {
	Provides string // the first facility
	Start    int    // its number in the order of start; 0 where it has none
}

func (f Facts) unit(name string) string {
	if u := f.Units[name]; u.ID != "" && !u.Missing {
		return u.ID
	}
	return name
}

func (f Facts) script(name string) Script {
	s := f.Scripts[name]
	if s.Provides == "" {
		s.Provides = name
	}
	return s
}

// Assume is what a well-kept host of an init system is like.
func Assume(init Init) Facts {
	return Facts{Init: init, SSHD: true, SSHDInclude: true, Systemctl: "/usr/bin/systemctl", Kido: kidoProgram, Gate: GateProgram}
}

// File is a file that a host needs.
type File struct {
	Path  string
	Mode  fs.FileMode
	Text  string
	From  string // a program to be copied, instead of Text
	Block bool   // Text is one marked block at the end of a file that is somebody else's
	check check
	lock  *lock    // of checkSSHD and checkKeys
	whose *account // nil: root
}

// check is what must accept a file before it is put in place.
type check int

const (
	checkNothing check = iota
	checkSSHD
	checkKeys
	checkSudo
)

// Owner is the user and group that a file belongs to.
func (File) Owner() string { return "root" }

// Shown is a file as [Result] has it.
type Shown struct {
	Path  string `json:"path"`
	Mode  string `json:"mode"` // octal
	Owner string `json:"owner"`
	Text  string `json:"text,omitempty"`
	From  string `json:"from,omitempty"`  // copied from there, instead of Text
	Block bool   `json:"block,omitempty"` // Text is at the end of the file
}

// Shown is f in full.
func (f File) Shown() Shown {
	return Shown{f.Path, fmt.Sprintf("%04o", f.Mode), f.Owner(), f.Text, f.From, f.Block}
}

// Result is what `kido install -o json` writes.
type Result struct {
	Host      string      `json:"host"`
	Changed   []string    `json:"changed"`             // paths, in order; with --print and --dry-run those that would be
	Commands  []string    `json:"commands,omitempty"`  // as Changed
	Steps     []ShownStep `json:"steps,omitempty"`     // what would be done, in order; with --dry-run only
	Files     []Shown     `json:"files,omitempty"`     // all that the host needs; with --print only
	PublicKey string      `json:"publicKey,omitempty"` // with which the host announces
	NextKey   string      `json:"nextKey,omitempty"`   // that is to take its place: see keys.Rotation
	HostKeys  []string    `json:"hostKeys,omitempty"`  // its sshd's: lines of .pub files
	Behind    []string    `json:"behind,omitempty"`    // what its hooks could not announce by now, with why
	Warnings  []string    `json:"warnings,omitempty"`
}

// ShownStep is a step as [Result] has it. Of a file with a text there is the
// difference, of any other what it is known by.
type ShownStep struct {
	What   string  `json:"what"`             // "write /etc/kido/policy", "run systemctl daemon-reload"
	Mode   string  `json:"mode,omitempty"`   // octal, of a file that is written
	Diff   string  `json:"diff,omitempty"`   // unified
	Before *Digest `json:"before,omitempty"` // what is there now
	After  *Digest `json:"after,omitempty"`
}

// Digest is what a file is known by that is not shown.
type Digest struct {
	Size   int    `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Folder is a folder that a host needs.
type Folder struct {
	Path  string
	Mode  fs.FileMode
	Owner string
}

// Setup is all that a host needs.
type Setup struct {
	Host      string
	Init      Init
	Folders   []Folder
	Files     []File // in the order in which they are to be put in place
	Hooks     []Hook
	Announced []site.Instance // by the hooks
	Key       string          // private key that must be there; "" for none
	Comment   string          // of that key
	SSHD      bool            // there is one, to read its configuration again
	InPlace   bool            // the source is the copy at the host
	Pins      string          // file of pinned host keys
	Later     bool            // nothing is announced now: the hooks begin with the next start
	Warnings  []string
}

// Make works out what a host needs. An error says what the site asks for and the
// host cannot give.
func Make(src Source, host string, f Facts) (*Setup, error) {
	s, err := site.Parse(siteFile, []byte(src.Text)) // relative paths are those of the copy
	if err != nil {
		return nil, err
	}
	h := s.Host(host)
	if h == nil {
		return nil, fmt.Errorf("no such host in the site file: %q", host)
	}
	m := &maker{Setup: Setup{Host: host, Init: f.Init}, site: s, topo: plan.New(s), src: src, facts: f}
	policy, warnings := PolicyOf(s, host, src.Keys)
	m.Warnings = warnings
	if len(policy.Services) == 0 {
		return nil, fmt.Errorf("host %s: nothing of kido is needed there: no service of it has a gate", host)
	}
	if h.User != gateUser {
		return nil, fmt.Errorf("host %s: its gate would run as the user %s, whose login shell it has to be: drop user from the site file, kido makes one named %s", host, h.User, gateUser)
	}
	m.Folders = []Folder{{folder, 0o755, "root"}, {gate.DefaultState, 0o700, gateUser}}
	if err := m.programs(); err != nil {
		return nil, err
	}
	m.copies()
	m.secrets(policy)
	rights, err := m.privileges(policy)
	if err != nil {
		return nil, err
	}
	if _, err := gate.ParsePolicy(policy.Format()); err != nil {
		return nil, fmt.Errorf("host %s: its gate would not take the policy: %w", host, err)
	}
	m.file(File{Path: gate.DefaultPolicy, Mode: 0o644, Text: policy.Format()})
	m.Files = append(m.Files, rights...)
	if err := m.access(policy); err != nil {
		return nil, err
	}
	if err := m.hooks(policy); err != nil {
		return nil, err
	}
	return &m.Setup, nil
}

type maker struct {
	Setup
	site  *site.Site
	topo  *plan.Topology
	src   Source
	facts Facts

	depths map[string]int // by service, as far as worked out
}

func (m *maker) file(f File) { m.Files = append(m.Files, f) }

func (m *maker) warn(format string, args ...any) {
	m.Warnings = append(m.Warnings, fmt.Sprintf(format, args...))
}

func (m *maker) programs() error {
	for _, p := range []struct{ path, from string }{{GateProgram, m.facts.Gate}, {kidoProgram, m.facts.Kido}} {
		if p.from == "" {
			return fmt.Errorf("the program %s is not to be found: put it beside kido, or at %s", filepath.Base(p.path), p.path)
		}
		m.file(File{Path: p.path, Mode: 0o755, From: p.from})
	}
	return nil
}

// copies are the site file and what beside it belongs at this host, so that the
// next run can do without the source. Where the source is the copy, it is the
// administrator's own.
func (m *maker) copies() {
	announced := announcedBy(m.site)[m.Host]
	if len(announced) > 0 {
		m.Key = m.site.Identity
		m.Comment = KeyComment(m.site, m.Host)
	}
	m.Pins = m.site.KnownHosts
	if m.src.File == siteFile {
		m.InPlace = true
		m.pins(announced)
		return
	}
	m.file(File{Path: siteFile, Mode: 0o644, Text: m.src.Text})
	if pins := m.pins(announced); pins != "" {
		m.file(File{Path: m.site.KnownHosts, Mode: 0o644, Text: pins})
	}
	var files []string
	for _, p := range peers(m.topo, m.Host) {
		if len(m.src.Keys.Hosts[p.host]) > 0 {
			files = append(files, p.host+".pub")
		}
	}
	for _, p := range m.src.Keys.People {
		files = append(files, PeopleFolder+"/"+p.Name+".pub")
	}
	for file := range m.src.Keys.texts {
		if file == RevokedFile || strings.HasPrefix(file, AuthoritiesFolder+"/") {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	for _, folder := range []string{keysFolder, peopleKeys, authorities} {
		if slices.ContainsFunc(files, func(file string) bool { return strings.HasPrefix(keysFolder+"/"+file, folder+"/") }) {
			m.Folders = append(m.Folders, Folder{folder, 0o755, "root"})
		}
	}
	for _, file := range files {
		m.file(File{Path: keysFolder + "/" + file, Mode: 0o644, Text: m.src.Keys.texts[file]})
	}
}

// pins are the lines of known_hosts for the hosts that cascades from here reach.
func (m *maker) pins(announced []site.Instance) string {
	if len(announced) == 0 {
		return ""
	}
	self := peerOf(m.topo, m.Host, announced, followersIn(m.topo))
	around := slices.Clone(self.around)
	for _, v := range self.pools {
		around = append(around, v.Instances()...)
	}
	var hosts []*site.Host
	for _, i := range around {
		if h := m.site.Host(i.Host); h.Name != m.Host && !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	known, err := remote.ParsePins([]byte(m.src.KnownHosts), "known_hosts")
	if err != nil {
		m.warn("the pinned host keys are left out: %v", err)
		return ""
	}
	lines := strings.Split(m.src.KnownHosts, "\n")
	keep := make([]bool, len(lines))
	for n, line := range lines {
		keep[n] = strings.HasPrefix(strings.TrimSpace(line), "@revoked")
	}
	for _, h := range hosts {
		pins := known.Lookup(h.Name, h.Address, h.Port)
		if len(pins) == 0 {
			if word := m.src.Keys.Coming.missing("no host key of "+h.Name+" is pinned, so nothing from here reaches it",
				"carry its /etc/ssh/ssh_host_ed25519_key.pub by a way that you trust, then: kido keys pin "+h.Name+" FILE, and run this again", "kido enroll "+h.Name+" pins it"); word != "" {
				m.warn("%s", word)
			}
		}
		for _, p := range pins {
			keep[p.Line-1] = true
		}
	}
	var b strings.Builder
	for n, line := range lines {
		if keep[n] {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// privileges let the gate's user do what the policy has it do, and nothing else.
// Units are told over the bus where polkit takes rules, else by sudo: then it says
// so in the policy.
func (m *maker) privileges(policy *gate.Policy) (files []File, err error) {
	var units []string
	for _, v := range policy.Services {
		if v.Adapter == string(site.KindSystemd) {
			units = append(units, m.facts.unit(v.Unit))
		}
	}
	if len(units) > 0 && m.facts.Init == Systemd {
		switch {
		case m.facts.Polkit == "":
			slices.Sort(units)
			files = append(files, File{Path: polkitFile, Mode: 0o644, Text: polkitRules(slices.Compact(units))})
		case m.facts.Sudo == "":
			policy.Become, policy.Systemctl = become, m.facts.Systemctl
		default:
			return nil, fmt.Errorf("host %s: the gate needs polkit or sudo to restart units and nothing else: %s; or: %s", m.Host, m.facts.Polkit, m.facts.Sudo)
		}
	}
	if len(policy.Become) == 0 {
		return files, nil
	}
	if m.facts.Sudo != "" {
		return nil, fmt.Errorf("host %s: the gate needs sudo to run the services' commands and nothing else: %s", m.Host, m.facts.Sudo)
	}
	text, err := sudoers(policy)
	if err != nil {
		return nil, err
	}
	return append(files, File{Path: sudoersFile, Mode: 0o440, Text: text, check: checkSudo}), nil
}

// hooks hang kido into the host's init.
func (m *maker) hooks(policy *gate.Policy) error {
	announced := announcedBy(m.site)[m.Host]
	m.Announced = announced
	bare := len(policy.Become) > 0
	logs := false
	for _, p := range policy.Services {
		v := m.site.Service(p.Name)
		unit, err := m.unitOf(v)
		if err != nil {
			return err
		}
		if p.Wait != nil {
			beside := m.beside(v)
			switch {
			case unit == "":
				m.warn("service %s: the init of this host does not know it: to have its start held, run %s --wait %[1]s before it", v.Name, GateProgram)
			case m.numbered(v, unit, beside):
				m.hook(hold(m.Init, v, unit, beside, onlyLooks(policy, p), m.facts))
				m.late(v, unit)
			}
		}
		if i := (site.Instance{Service: v.Name, Host: m.Host}); slices.Contains(announced, i) {
			h, file := announce(m.Init, i, unit, m.facts, bare, v.TellsLife())
			m.hook(h, file)
			logs = logs || m.Init != Systemd
		}
	}
	if logs {
		m.Folders = append(m.Folders, Folder{"/var/log/kido", 0o750, "root"})
		if m.facts.Logrotate {
			m.file(File{Path: logrotateDir + "/kido", Mode: 0o644, Text: "# " + written + `
/var/log/kido/*.log {
    monthly
    rotate 12
    compress
    delaycompress
    missingok
    notifempty
    copytruncate
}
`})
		}
	}
	return nil
}

func (m *maker) hook(h Hook, f File) {
	m.Hooks = append(m.Hooks, h)
	m.file(f)
}

// unitOf is the name under which this host's init knows a service; "" where it
// does not.
func (m *maker) unitOf(v *site.Service) (string, error) {
	kind, name := v.Adapter.Kind, v.Adapter.Unit
	switch {
	case kind == site.KindCommand, kind == site.KindExternal:
		return "", nil
	case string(kind) == string(m.Init):
		if m.Init != Systemd {
			return name, nil
		}
		u := m.facts.Units[name]
		if u.Along != "" {
			m.warn("service %s: systemd stops and restarts %s along with %s, so whoever may restart the one restarts the other", v.Name, u.Along, u.ID)
		}
		switch {
		case u.Missing:
			m.warn("service %s: systemd has no unit %s yet", v.Name, name)
		case u.Trap != "":
			m.warn("service %s: %s", v.Name, u.Trap)
		}
		return m.facts.unit(name), nil
	case m.Init == Systemd && kind == site.KindSysV:
		unit := name + ".service"
		if !m.facts.Units[unit].Missing && m.facts.Units[unit].ID != "" {
			m.warn("service %s: systemd has a unit %s: write systemd: %[2]s, it tells more than the script", v.Name, m.facts.unit(unit))
		}
		return m.facts.unit(unit), nil
	}
	return "", fmt.Errorf("service %s is known to %s, and host %s has %s: say in the site file how that knows it (%s: NAME)", v.Name, kind, m.Host, m.Init, m.Init)
}

// beside lists the scripts at this host that the hook of a service must come
// after: those of every service that does not depend on it. Init may start one
// script after the other, and what was behind the hook would wait with it: what
// the hook waits for, by way of other hosts, or somebody else's upstream. Of two
// that are both held the one nearer to the root goes first.
func (m *maker) beside(v *site.Service) (scripts []string) {
	if m.Init == Systemd {
		return nil // it holds nothing but the service itself
	}
	behind := m.behind(v)
	for _, u := range m.site.Services {
		switch {
		case u == v, behind[u.Name], !slices.Contains(u.Hosts, m.Host), string(u.Adapter.Kind) != string(m.Init), u.Adapter.Unit == v.Adapter.Unit:
		case m.held(u) && cmp.Or(cmp.Compare(m.depth(u), m.depth(v)), cmp.Compare(u.Name, v.Name)) > 0:
		case !slices.Contains(scripts, u.Adapter.Unit):
			scripts = append(scripts, u.Adapter.Unit)
		}
	}
	slices.Sort(scripts)
	return scripts
}

// behind is the names of all services that depend on one, directly or not.
func (m *maker) behind(v *site.Service) map[string]bool {
	found := map[string]bool{}
	for grown := true; grown; {
		grown = false
		for _, u := range m.site.Services {
			for _, dep := range u.After {
				if !found[u.Name] && (dep.Upstream == v.Name || found[dep.Upstream]) {
					found[u.Name], grown = true, true
				}
			}
		}
	}
	return found
}

// held reports whether a service's own start is held.
func (m *maker) held(v *site.Service) bool { return len(v.After) > 0 && !v.Wait.Off }

// depth is how many services a service comes after, one behind the other. Each is
// worked out once: a ladder of diamonds has many ways down.
func (m *maker) depth(v *site.Service) int {
	if n, ok := m.depths[v.Name]; ok {
		return n
	}
	n := 0
	for _, dep := range v.After {
		n = max(n, 1+m.depth(m.site.Service(dep.Upstream)))
	}
	if m.depths == nil {
		m.depths = map[string]int{}
	}
	m.depths[v.Name] = n
	return n
}

// numbered reports whether there is a place for a script that waits between
// those beside it and the one that it holds. Only where scripts go by their
// numbers can that be lacking, and it warns then.
func (m *maker) numbered(v *site.Service, unit string, beside []string) bool {
	if !m.facts.Sequential {
		return true
	}
	own := m.facts.script(unit).Start
	for _, name := range beside {
		if up := m.facts.script(name).Start; up >= holdAt(own) {
			m.warn("service %s: its start is not held: %s depends on %s of this host, and has no start number that leaves room for a hook behind it (%02d, %02d): give %[2]s a number of %02[6]d or more (chkconfig), then run this again", v.Name, unit, name, own, up, up+2)
			return false
		}
	}
	return true
}

// late warns where a held start cannot be what the site asks for.
func (m *maker) late(v *site.Service, unit string) {
	if m.Init == Systemd {
		return
	}
	if v.Wait.Leave {
		m.warn("service %s: %s starts %s whatever became of the hook before it: after %s it is started all the same", v.Name, m.Init, unit, v.Wait.Timeout)
	}
	own := m.facts.script(unit).Start
	for _, name := range []string{"sshd", "ssh"} {
		if sshd := m.facts.Scripts[name].Start; m.facts.Sequential && own > 0 && sshd >= own {
			m.warn("service %s: %s starts after %s (%02d, %02d), so no run can reach this host while the start is held: give %[2]s a lower number (chkconfig)", v.Name, name, unit, sshd, own)
		}
	}
}
