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

// sshdBlock locks the user of the gate to the gate, whatever a key's line says
// or fails to say. It names no other user, so it shuts out nobody.
const sshdBlock = `Match User ` + gateUser + `
    AuthorizedKeysFile ` + keyFile + `
    AuthorizedKeysCommand none
    TrustedUserCAKeys none
    ForceCommand ` + GateProgram + `
    ExposeAuthInfo yes
    AuthenticationMethods publickey
    DisableForwarding yes
    PermitTunnel no
    PermitTTY no
    PermitUserRC no
`

// sshdFile is the block as a file of its own, or as the end of sshd_config where
// that includes no folder: there the block is closed, for whatever is appended
// later is not meant for the gate.
func sshdFile(f Facts) File {
	if f.SSHDInclude {
		return File{Path: sshdDropIn, Mode: 0o644, Text: "# " + written + "\n" + sshdBlock, check: checkSSHD}
	}
	return File{Path: sshdConfig, Block: true, Text: sshdBlock + "Match all\n", check: checkSSHD}
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
		add(peopleFolder+"/"+p.Name, p.Keys, "")
	}
	for _, h := range s.Hosts {
		if found := ring.Hosts[h.Name]; comes(who, found) {
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

// comes reports whether a policy has a principal with one of these keys.
func comes(p *gate.Policy, all []Key) bool {
	return slices.ContainsFunc(all, func(k Key) bool { return p.Principal(k.Fingerprint) != "" })
}

// polkitRules let the gate's user restart, stop and reload the units of a host,
// and nothing else that polkit decides. Never start: systemd asks for it too when
// somebody runs a unit of his own making, and that runs as root; a restart
// starts what is stopped.
func polkitRules(units []string) string {
	var m strings.Builder
	for _, u := range units {
		fmt.Fprintf(&m, "        %q: [\"restart\", \"stop\", \"reload\"],\n", u)
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

// sudoers lets the gate's user run exactly the commands of a policy's services.
func sudoers(p *gate.Policy) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", written)
	// No terminal is there; and in one of sudo's own (use_pty) a daemon that a
	// script leaves behind would be hung up.
	fmt.Fprintf(&b, "Defaults:%[1]s !requiretty, !use_pty\n", gateUser)
	for _, v := range p.Services {
		if !needsRoot(v) {
			continue
		}
		for _, argv := range commandsOf(v) {
			line, err := sudoCommand(argv)
			if err != nil {
				return "", fmt.Errorf("service %s: %w", v.Name, err)
			}
			fmt.Fprintf(&b, "%s ALL=(root) NOPASSWD: %s\n", gateUser, line)
		}
	}
	return b.String(), nil
}

// commandsOf lists what a gate runs for a service that its init does not start
// by a message.
func commandsOf(v gate.PolicyService) [][]string {
	var all [][]string
	switch site.AdapterKind(v.Adapter) {
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
