package audit

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"kido/internal/keys"
)

// sshd judges what sshd does for each account.
func (j *judge) sshd() {
	if j.Server == nil {
		return
	}
	s := j.Server
	for _, c := range j.Configs {
		if len(j.automated(c.User)) > 0 {
			j.forPrograms(c)
		}
		j.logins(c)
		j.manners(c)
		j.algorithms(c)
	}
	if protocol := j.config("root").get("protocol"); s.before(7, 4) && protocol != "2" {
		j.add("ssh-protocol", Error, Place{File: sshdConfig, Option: "Protocol"}, fmt.Sprintf("%s, and protocol %s", s.Banner, protocol), j.inSSHD("Protocol 2"))
	}
	for _, hole := range holes {
		if s.before(hole.major, hole.minor) && !s.before(hole.sinceMajor, hole.sinceMinor) {
			j.add("sshd-cve", Note, Place{File: "sshd"}, fmt.Sprintf("%s has %s, %s, unless the distribution has mended it", s.Banner, hole.name, hole.what), "look for "+hole.name+" in the package's changelog; bring the package up to date")
		}
	}
	for _, x := range s.Started {
		j.add("sshd-started-with", Note, x.Place, "sshd is started with "+strings.ReplaceAll(x.Args, "\x00", " "), "write it in "+sshdConfig+", and take it out there")
	}
	writable := map[string]bool{}
	for _, c := range s.ConfigFiles {
		if n, why, mend := j.others(c, 0); why != "" && !writable[n.Path] {
			writable[n.Path] = true
			j.add("sshd-config-writable", Error, Place{File: n.Path}, why+", and with it sshd's configuration", mend)
		}
	}
	for _, k := range s.HostKeys {
		place := Place{File: k.Chain.Path()}
		j.strength(place, k.Key, "the host key")
		perm := k.Chain[0].Mode.Perm()
		if n, why, mend := j.others(k.Chain, 0); why != "" {
			j.add("host-key-readable", Error, Place{File: n.Path}, why+", and with it the host key", mend)
		} else if perm&0o077 != 0 {
			j.add("host-key-readable", Error, place, fmt.Sprintf("others than root can read it (mode %04o)", perm), "chmod 600 "+k.Chain.Path())
		}
	}
}

// holes are those of sshd's versions that a banner tells: since one version, mended
// in another.
var holes = []struct {
	name, what             string
	sinceMajor, sinceMinor int
	major, minor           int
}{
	{"CVE-2023-48795", "a session whose beginning can be cut (Terrapin)", 6, 2, 9, 6},
	{"CVE-2024-6387", "a race by which a stranger may become root", 8, 5, 9, 8},
	{"CVE-2025-26466", "a way to fill its memory before a login", 9, 5, 10, 0},
}

// logins judges how somebody may log in.
func (j *judge) logins(c Config) {
	is := func(keyword, value string) bool { return c.get(keyword) == value }
	account := j.account(c.User)

	// A list of methods that each asks for a key lets nobody in by a password alone.
	asksKey := !slices.ContainsFunc(strings.Fields(c.get("authenticationmethods")), func(list string) bool {
		return !slices.ContainsFunc(strings.Split(list, ","), func(m string) bool { return m == "publickey" })
	}) && c.get("authenticationmethods") != ""
	passwords := account.UID != 0 || is("permitrootlogin", "yes")
	if !asksKey {
		var found, lines []string
		for _, m := range []struct {
			keyword, option string
			counts          bool
		}{
			{"passwordauthentication", "PasswordAuthentication", passwords},
			{"kbdinteractiveauthentication", "KbdInteractiveAuthentication", passwords},
			{"challengeresponseauthentication", "ChallengeResponseAuthentication", passwords},
			{"gssapiauthentication", "GSSAPIAuthentication", true},
			{"hostbasedauthentication", "HostbasedAuthentication", true},
			{"kerberosauthentication", "KerberosAuthentication", passwords},
		} {
			if m.counts && is(m.keyword, "yes") {
				found = append(found, m.option+" yes")
				lines = append(lines, m.option+" no")
			}
		}
		if is("pubkeyauthentication", "no") {
			found, lines = append(found, "PubkeyAuthentication no"), append(lines, "PubkeyAuthentication yes")
		}
		if len(found) > 0 {
			severity := Warning
			if len(j.automated(c.User)) > 0 {
				severity = Error
			}
			option, _, _ := strings.Cut(found[0], " ")
			j.addSSHD("sshd-not-public-key-only", severity, option, c, strings.Join(found, ", "), j.inSSHD(lines...)+", once whoever is to log in has a key")
		}
	}
	if account.UID == 0 {
		v, severity := c.get("permitrootlogin"), Warning
		if v == "yes" {
			severity = Error
		}
		if v != "" && v != "no" && v != "forced-commands-only" {
			mend := "no"
			if slices.ContainsFunc(j.automated(c.User), func(l keys.Line) bool { return l.Options.Forced }) {
				mend = "forced-commands-only" // they go on to run what they are for
			}
			j.addSSHD("sshd-root-login", severity, "PermitRootLogin", c, "PermitRootLogin "+v,
				j.inSSHD("PermitRootLogin "+mend)+", once you have logged in as somebody else and become root")
		}
	}
	if is("permitemptypasswords", "yes") {
		j.addSSHD("sshd-empty-passwords", Error, "PermitEmptyPasswords", c, "PermitEmptyPasswords yes", j.inSSHD("PermitEmptyPasswords no"))
	}
	if v := c.get("permituserenvironment"); v != "" && v != "no" {
		j.addSSHD("sshd-user-environment", Error, "PermitUserEnvironment", c, "PermitUserEnvironment "+v, j.inSSHD("PermitUserEnvironment no"))
	}
	j.environmentOf(c)
	if is("strictmodes", "no") {
		j.addSSHD("sshd-strict-modes", Error, "StrictModes", c, "StrictModes no", j.inSSHD("StrictModes yes"))
	}
	if is("usedns", "yes") {
		j.addSSHD("sshd-use-dns", Warning, "UseDNS", c, "UseDNS yes", j.inSSHD("UseDNS no"))
	}
	if is("ignorerhosts", "no") {
		j.addSSHD("sshd-rhosts", Error, "IgnoreRhosts", c, "IgnoreRhosts no", j.inSSHD("IgnoreRhosts yes"))
	}
	if command := c.get("authorizedkeyscommand"); named(command) {
		j.addSSHD("key-command", Note, "AuthorizedKeysCommand", c, "keys come from "+command, "look at what it answers, or: "+j.inSSHD("AuthorizedKeysCommand none"))
	}
	if files := strings.Fields(c.get("authorizedkeysfile")); len(files) > 1 {
		j.addSSHD("key-file-second", Note, "AuthorizedKeysFile", c, "AuthorizedKeysFile "+strings.Join(files, " "), j.inSSHD("AuthorizedKeysFile "+files[0]))
	}
}

// harmless is the environment that a client may set: its language, and whether it
// wants colours.
var harmless = []string{"LANG", "LC_*", "COLORTERM", "NO_COLOR"}

// harmful is some of what makes a shell, a loader or an interpreter run code.
var harmful = []string{"LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "PATH", "IFS", "SHELLOPTS", "PYTHONPATH", "PERL5LIB", "PERL5OPT", "RUBYOPT", "NODE_OPTIONS", "SSH_ORIGINAL_COMMAND"}

func (j *judge) environmentOf(c Config) {
	severity := Warning
	var more []string
	for _, pattern := range strings.Fields(strings.Join(c.Values["acceptenv"], " ")) {
		if slices.Contains(harmless, pattern) || strings.HasPrefix(pattern, "LC_") {
			continue
		}
		more = append(more, pattern)
		if slices.ContainsFunc(harmful, func(name string) bool { ok, _ := path.Match(pattern, name); return ok }) {
			severity = Error
		}
	}
	if len(more) > 0 {
		j.addSSHD("sshd-accept-env", severity, "AcceptEnv", c, "AcceptEnv "+strings.Join(more, " "), "AcceptEnv LANG LC_* in the place of every other AcceptEnv of "+sshdConfig+" and what it includes")
	}
}

// forPrograms judges what sshd leaves to the keys of programs, beside their lines.
func (j *judge) forPrograms(c Config) {
	lines := j.automated(c.User)
	forwards, rc := false, false
	for _, l := range lines {
		forwards = forwards || l.Options.Forwarding || l.Options.Agent || l.Options.X11
		rc = rc || l.Options.UserRC
	}
	leaks := j.Server.before(10, 0) && (c.get("x11forwarding") == "yes" || c.get("allowagentforwarding") == "yes")
	whole := []string{"DisableForwarding yes"}
	if leaks {
		whole = append(whole, "X11Forwarding no", "AllowAgentForwarding no")
	}
	if c.get("disableforwarding") == "no" {
		severity, found := Note, "DisableForwarding no; only the lines of keys forbid it"
		if forwards {
			severity, found = Warning, "DisableForwarding no, and not every line of a program's key forbids it"
		}
		j.addSSHD("sshd-forwarding", severity, "DisableForwarding", c, found, j.inMatch(c.User, whole...))
	}
	if v := c.get("permittunnel"); v != "" && v != "no" {
		j.addSSHD("sshd-tunnel", Warning, "PermitTunnel", c, "PermitTunnel "+v, j.inSSHD("PermitTunnel no"))
	}
	if c.get("permituserrc") == "yes" && rc {
		j.addSSHD("sshd-user-rc", Warning, "PermitUserRC", c, "PermitUserRC yes, and not every line of a program's key forbids it", j.inSSHD("PermitUserRC no"))
	}
	if c.get("disableforwarding") == "yes" {
		var open []string
		if leaks && forwards {
			open = append(open, whole[1:]...)
		}
		if v := c.get("permittunnel"); j.Server.before(10, 4) && v != "" && v != "no" {
			open = append(open, "PermitTunnel no")
		}
		if len(open) > 0 {
			j.addSSHD("sshd-disable-forwarding", Warning, "DisableForwarding", c, "DisableForwarding yes in "+j.Server.Banner, j.inSSHD(open...))
		}
	}
	if penalties := c.get("persourcepenalties"); penalties != "" && penalties != "no" && !named(c.get("persourcepenaltyexemptlist")) {
		from := strings.Join(sources(lines, 4), ",")
		if from == "" {
			from = "ADDRESS"
		}
		j.addOnce("sshd-penalties", Note, "PerSourcePenaltyExemptList", "no address is spared the penalties", j.inSSHD("PerSourcePenaltyExemptList "+from))
	}
}

// addOnce adds what holds for all connections, once.
func (j *judge) addOnce(rule string, s Severity, option, found, mend string) {
	if _, ok := j.shared[rule]; !ok {
		j.shared[rule] = len(j.found)
		j.add(rule, s, Place{File: sshdConfig, Option: option}, found, mend)
	}
}

// manners judges what keeps sshd in reach and its log of use. Of most of these
// sshd has one value for all connections.
func (j *judge) manners(c Config) {
	switch v := c.get("loglevel"); v {
	case "QUIET", "FATAL", "ERROR":
		j.addSSHD("sshd-log-level", Warning, "LogLevel", c, "LogLevel "+v, j.inSSHD("LogLevel VERBOSE"))
	case "INFO":
		j.addSSHD("sshd-log-level", Note, "LogLevel", c, "LogLevel "+v, j.inSSHD("LogLevel VERBOSE"))
	}
	for _, x := range []struct {
		rule, option string
		most         int
	}{
		{"sshd-max-auth-tries", "MaxAuthTries", 4},
		{"sshd-max-sessions", "MaxSessions", 10},
	} {
		if n, err := strconv.Atoi(c.get(strings.ToLower(x.option))); err == nil && n > x.most {
			j.addSSHD(x.rule, Note, x.option, c, fmt.Sprintf("%s %d", x.option, n), j.inSSHD(fmt.Sprintf("%s %d", x.option, x.most)))
		}
	}
	if n, err := strconv.Atoi(c.get("logingracetime")); err == nil && (n == 0 || n > 60) {
		severity := Note
		if n == 0 {
			severity = Warning // for ever
		}
		j.addOnce("sshd-login-grace", severity, "LoginGraceTime", fmt.Sprintf("LoginGraceTime %d", n), j.inSSHD("LoginGraceTime 60"))
	}
	if v := c.get("maxstartups"); v != "" && !few(v) {
		j.addOnce("sshd-max-startups", Note, "MaxStartups", "MaxStartups "+v, j.inSSHD("MaxStartups 10:30:60"))
	}
	if _, allowed := c.Values["allowusers"]; !allowed && len(c.Values["allowgroups"]) == 0 && len(c.Values) > 0 {
		j.addSSHD("sshd-allow-users", Note, "AllowUsers", c, "neither AllowUsers nor AllowGroups is set", j.inSSHD("AllowUsers "+j.withKeys())+", with all others who are to log in")
	}
}

// few reports whether MaxStartups START:RATE:FULL is 10:30:60 or less.
func few(v string) bool {
	f := strings.Split(v, ":")
	full, err := strconv.Atoi(f[len(f)-1])
	start, serr := strconv.Atoi(f[0])
	return err == nil && serr == nil && start <= 10 && full <= 60
}

// withKeys are the accounts that keys let in.
func (j *judge) withKeys() string {
	var names []string
	for _, a := range j.Accounts {
		if j.hasKeys(a.Name) {
			names = append(names, a.Name)
		}
	}
	if len(names) == 0 {
		return "NAME"
	}
	return strings.Join(names, " ")
}

// algorithms are lists of names, each of which a connection may come to use.
func (j *judge) algorithms(c Config) {
	for _, list := range []struct {
		rule, option string
		weak         []string // patterns
		aged         []string // patterns: to be left behind
	}{
		{
			"sshd-kex", "KexAlgorithms",
			[]string{"diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1", "rsa1024-sha1", "gss-*-sha1-*"},
			nil,
		},
		{"sshd-ciphers", "Ciphers", []string{"3des*", "*-cbc", "arcfour*", "blowfish*", "cast128*", "rijndael*", "none"}, nil},
		{"sshd-macs", "MACs", []string{"hmac-md5*", "hmac-sha1-96*", "hmac-ripemd160*", "none"}, []string{"hmac-sha1*", "umac-64*"}},
		{"sshd-signatures", "PubkeyAcceptedAlgorithms", []string{"ssh-dss*", "ssh-rsa", "ssh-rsa-cert-v01@openssh.com"}, nil},
		{"sshd-signatures", "HostKeyAlgorithms", []string{"ssh-dss*", "ssh-rsa", "ssh-rsa-cert-v01@openssh.com"}, nil},
	} {
		offered := strings.Split(c.get(strings.ToLower(list.option)), ",")
		matching := func(patterns []string) (names []string) {
			for _, name := range offered {
				if slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok }) {
					names = append(names, name)
				}
			}
			return names
		}
		weak := matching(list.weak)
		aged := slices.DeleteFunc(matching(list.aged), func(name string) bool { return slices.Contains(weak, name) })
		drop := j.inSSHD(list.option + " -" + strings.Join(slices.Concat(weak, aged), ","))
		if len(weak) > 0 {
			j.addSSHD(list.rule, Warning, list.option, c, list.option+" has "+strings.Join(weak, ","), drop)
		}
		if len(aged) > 0 {
			j.addSSHD(list.rule, Note, list.option, c, list.option+" has "+strings.Join(aged, ","), drop)
		}
	}
}
