package install

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/keys"
	"kido/internal/site"
)

// lock is what sshd is told so that whoever comes to the gate's user gets the gate
// and nothing else.
type lock struct {
	exempt string   // a line for every user; "" for none
	match  string   // the Match block
	asks   []string // connections that must be held to it, as sshd -C has them
}

// matchBlock locks the user of the gate to the gate, whatever a key's line or a
// certificate says or fails to say. It names no other user, so it shuts out nobody.
func matchBlock(authorities bool) string {
	trusted := "    TrustedUserCAKeys none\n"
	if authorities {
		trusted = `    TrustedUserCAKeys ` + authoritiesFile + `
    AuthorizedPrincipalsFile ` + principalsFile + `
    AuthorizedPrincipalsCommand none
`
	}
	return `Match User ` + gateUser + `
    AuthorizedKeysFile ` + keyFile + `
    AuthorizedKeysCommand none
    RevokedKeys ` + refusedFile + `
` + trusted + `    ForceCommand ` + GateProgram + `
    ExposeAuthInfo yes
    AuthenticationMethods publickey
    DisableForwarding yes
    PermitTunnel no
    PermitTTY no
    PermitUserRC no
`
}

// file is the lock as a file of its own, or as the end of sshd_config where that
// includes no folder: there the block is closed, for whatever is appended later is
// not meant for the gate.
func (l *lock) file(f Facts) File {
	if f.SSHDInclude {
		return File{Path: sshdDropIn, Mode: 0o644, Text: "# " + written + "\n" + l.exempt + l.match, check: checkSSHD, lock: l}
	}
	return File{Path: sshdConfig, Block: true, Text: l.match + "Match all\n", check: checkSSHD, lock: l}
}

// draft is a configuration of sshd with the lock in it, wherever the lock will be.
func (l *lock) draft(config string) string { return l.exempt + withBlock(config, l.match) }

// keysOf is a file that sshd reads keys from, one a line.
func keysOf(all []Key) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", written)
	for _, k := range all {
		b.WriteString(k.Public + "\n")
	}
	return b.String()
}

// access lets the keys in, by sshd. What a lock names is there before it: over a
// file of revoked keys that it cannot read sshd lets in nobody. What it lets in
// comes after it: with each change of that it is tried anew.
func (m *maker) access(policy *gate.Policy) error {
	if !m.facts.SSHD {
		m.warn("there is no sshd at this host: nobody can reach its gate")
		return nil
	}
	ring := m.src.Keys
	text, from, err := keyLines(m.site, policy, ring)
	if err != nil {
		return err
	}
	principals := ""
	if len(ring.Authorities) > 0 {
		principals = m.principalLines(policy, &from)
	}
	l := &lock{match: matchBlock(len(ring.Authorities) > 0), asks: connections(m.site.Host(m.Host), from)}
	l.exempt = m.exempt(from)
	m.file(File{Path: refusedFile, Mode: 0o644, Text: keysOf(ring.Revoked)})
	if len(ring.Authorities) > 0 {
		m.file(File{Path: authoritiesFile, Mode: 0o644, Text: keysOf(ring.Authorities)})
	}
	m.file(l.file(m.facts))
	if len(ring.Authorities) > 0 {
		m.file(File{Path: principalsFile, Mode: 0o644, Text: principals, check: checkKeys, lock: l})
	}
	m.file(File{Path: keyFile, Mode: 0o644, Text: text, check: checkKeys, lock: l})
	m.SSHD = true
	return nil
}

// principalLines are the principals of certificates that may come to a host, each
// from where its own keys may. It adds those places to from.
func (m *maker) principalLines(who *gate.Policy, from *[]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", written)
	add := func(principal string, all []Key, address string) {
		if !comes(who, certified(m.src.Keys.Authorities, principal)) {
			return
		}
		var places []string
		for _, k := range all {
			places = append(places, k.From...)
		}
		if len(places) == 0 || slices.ContainsFunc(all, func(k Key) bool { return len(k.From) == 0 }) {
			places = append(places, address)
		}
		places = unique(places)
		line, err := keys.PrincipalLine(places, GateProgram, principal)
		if err != nil {
			m.warn("no certificate for %s is taken: %v (an address in the site file, or from=\"ADDRESS\" in front of its key beside it, says where it comes from)", principal, err)
			return
		}
		b.WriteString(line + "\n")
		*from = unique(append(*from, places...))
	}
	for _, p := range m.src.Keys.People {
		add(gate.PersonPrincipal(p.Name), p.Keys, "")
	}
	for _, h := range m.site.Hosts {
		add(gate.HostPrincipal(h.Name), m.src.Keys.Hosts[h.Name], h.Address)
	}
	return b.String()
}

// unique keeps the first of each.
func unique(all []string) (once []string) {
	for _, s := range all {
		if !slices.Contains(once, s) {
			once = append(once, s)
		}
	}
	return once
}

// exempt is the line by which sshd does not count the bad tries of some addresses:
// where it does, a dozen of them by anybody at a host that keys come from shuts out
// its good key as well. One list holds for all of sshd, so somebody else's is left.
func (m *maker) exempt(from []string) string {
	const option = "PerSourcePenaltyExemptList"
	line := func(all []string) string { return option + " " + strings.Join(all, ",") }
	slices.Sort(from)
	switch had := strings.Split(m.facts.Exempt, ","); {
	case m.facts.Exempt == "" || len(from) == 0:
	case m.facts.Exempt == "none" && m.facts.SSHDInclude:
		return line(from) + "\n"
	case m.facts.Exempt == "none":
		m.warn("sshd shuts out an address after some bad tries, good keys from there too, and has no folder of its own to be told of those that kido's keys come from: put this line at the top of %s: %s", sshdConfig, line(from))
	case slices.ContainsFunc(from, func(f string) bool { return !slices.Contains(had, f) }):
		m.warn("sshd shuts out an address after some bad tries, good keys from there too, and its list of exceptions is somebody else's: let it be: %s", line(unique(append(had, from...))))
	}
	return ""
}

// keyLines are the lines of the keys that may come to a host: one for each key,
// for sshd goes by the first, with all the places that it may come from.
// It lists those places too, each once.
func keyLines(s *site.Site, who *gate.Policy, ring *Keyring) (text string, from []string, err error) {
	type line struct {
		file, public string
		from         []string
	}
	var lines []*line
	byKey := map[string]*line{}
	add := func(file string, all []Key, address string) {
		for _, k := range all {
			l := byKey[k.Fingerprint]
			if l == nil {
				l = &line{file: file, public: k.Public}
				byKey[k.Fingerprint] = l
				lines = append(lines, l)
			}
			from := k.From
			if len(from) == 0 {
				from = []string{address}
			}
			for _, f := range from {
				if !slices.Contains(l.from, f) {
					l.from = append(l.from, f)
				}
			}
		}
	}
	for _, p := range ring.People {
		add(PeopleFolder+"/"+p.Name, p.Keys, "")
	}
	for _, h := range s.Hosts {
		if found := ring.Hosts[h.Name]; comes(who, fingerprints(found)) {
			add(h.Name, found, h.Address)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", written)
	for _, l := range lines {
		text, err := keys.GateLine(keys.LineOptions{From: l.from, Gate: GateProgram, Public: l.public})
		if err != nil {
			return "", nil, fmt.Errorf("keys/%s.pub: %w (from=\"ADDRESS\" in front of the key there says where it comes from)", l.file, err)
		}
		b.WriteString(text + "\n")
		for _, f := range l.from {
			if !slices.Contains(from, f) {
				from = append(from, f)
			}
		}
	}
	return b.String(), from, nil
}

// connections are those that sshd is asked about, as its option -C has them: to
// a host from each of the places, of a prefix from its first address. It is some
// at most: each costs a run of sshd.
func connections(h *site.Host, from []string) (asks []string) {
	const most = 16
	to := "127.0.0.1"
	if own, err := netip.ParseAddr(h.Address); err == nil {
		to = own.String()
	}
	if len(from) == 0 {
		from = []string{to}
	}
	for _, f := range from {
		f, _, _ = strings.Cut(f, "/") // a prefix has no host bits: keys.GateLine takes no other
		ask := fmt.Sprintf("user=%s,host=%s,addr=%[2]s,laddr=%s,lport=%d", gateUser, f, to, h.Port)
		if len(asks) < most && !slices.Contains(asks, ask) {
			asks = append(asks, ask)
		}
	}
	return asks
}

// comes reports whether a policy has a principal with one of these identities.
func comes(p *gate.Policy, identities []string) bool {
	return slices.ContainsFunc(identities, func(id string) bool { return p.Principal(id) != "" })
}

// unitVerbs is what a gate tells systemd. Never start: to polkit it is also what
// somebody asks for who runs a unit of his own making, as root; a restart starts
// what is stopped.
var unitVerbs = []string{"restart", "stop", "reload"}

// polkitRules let the gate's user do what a gate does with the units of a host,
// and nothing else that polkit decides.
func polkitRules(units []string) string {
	var m strings.Builder
	for _, u := range units {
		fmt.Fprintf(&m, "        %q: [\"%s\"],\n", u, strings.Join(unitVerbs, `", "`))
	}
	return `// ` + written + `
polkit.addRule(function (action, subject) {
    if (subject.user !== "` + gateUser + `") {
        return polkit.Result.NOT_HANDLED;
    }
    if (action.id !== "org.freedesktop.systemd1.manage-units") {
        return polkit.Result.NO;
    }
    var granted = {
` + m.String() + `    };
    var unit = action.lookup("unit"), verb = action.lookup("verb");
    if (Object.prototype.hasOwnProperty.call(granted, unit) && granted[unit].indexOf(verb) >= 0) {
        return polkit.Result.YES;
    }
    return polkit.Result.NO;
});
`
}

// sudoers lets the gate's user run exactly the commands of a policy's services,
// and tell systemd what polkit would let it.
func sudoers(p *gate.Policy) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", written)
	// No terminal is there; and in one of sudo's own (use_pty) a daemon that a
	// script leaves behind would be hung up.
	fmt.Fprintf(&b, "Defaults:%[1]s !requiretty, !use_pty\n", gateUser)
	for _, v := range p.Services {
		for _, argv := range commandsOf(p, v) {
			line, err := sudoCommand(argv)
			if err != nil {
				return "", fmt.Errorf("service %s: %w", v.Name, err)
			}
			fmt.Fprintf(&b, "%s ALL=(root) NOPASSWD: %s\n", gateUser, line)
		}
	}
	return b.String(), nil
}

// commandsOf lists what a gate runs for a service, where it does not tell its init
// by a message.
func commandsOf(p *gate.Policy, v gate.PolicyService) [][]string {
	var all [][]string
	switch site.AdapterKind(v.Adapter) {
	case site.KindExternal:
	case site.KindSystemd:
		if p.Systemctl != "" {
			for _, verb := range unitVerbs {
				all = append(all, []string{p.Systemctl, verb, v.Unit})
			}
		}
	case site.KindCommand:
		for _, argv := range [][]string{v.Start, v.Stop, v.Restart, v.Reload, v.Status} {
			if argv != nil {
				all = append(all, argv)
			}
		}
	default:
		program := []string{"/etc/init.d/" + v.Unit}
		verbs := []string{"start", "stop", "restart", "reload", "status"}
		if v.Adapter == string(site.KindOpenRC) {
			program, verbs = []string{"/sbin/rc-service", v.Unit}, append(verbs, "zap")
		}
		for _, verb := range verbs {
			all = append(all, append(slices.Clone(program), verb))
		}
	}
	return all
}

// sudoCommand spells one argv so that sudo takes it and no other: what sudo
// would expand or take for a separator is quoted, and a program without
// arguments is one that takes none.
func sudoCommand(argv []string) (string, error) {
	fields := make([]string, len(argv))
	for i, arg := range argv {
		var b strings.Builder
		for _, r := range arg {
			switch {
			case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+@%~", r):
			case strings.ContainsRune(` :,=\#*?[]!^`, r):
				b.WriteByte('\\')
			default:
				return "", fmt.Errorf("sudo cannot be told of %q in exactly these letters: put the command into a script of its own", arg)
			}
			b.WriteRune(r)
		}
		if arg == "" {
			return "", fmt.Errorf("sudo cannot be told of an empty argument of %s: put the command into a script of its own", argv[0])
		}
		fields[i] = b.String()
	}
	if len(fields) == 1 {
		fields = append(fields, `""`)
	}
	return strings.Join(fields, " "), nil
}
