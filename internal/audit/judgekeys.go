package audit

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"kido/internal/keys"
)

const sticky = fs.ModeSticky

// lines judges each line of authorized keys by itself.
func (j *judge) lines() {
	for _, f := range j.KeyFiles {
		for _, line := range f.Lines {
			if line.Ignored != "" {
				j.add("key-line-ignored", Warning, at(f, line), fmt.Sprintf("sshd passes over %s: %s", called(line), line.Ignored), "write the line anew, or take it out")
				continue
			}
			j.strength(at(f, line), line.Key, called(line))
			j.source(f, line)
			j.environment(f, line)
			if line.Options.Authority {
				j.authority(f, line)
				continue
			}
			j.lock(f, line)
			for _, name := range f.Accounts {
				if j.revokes(name, line.Key.Fingerprint) {
					j.add("key-revoked-kept", Note, at(f, line), called(line)+" is revoked", "take the line out")
					break
				}
			}
		}
	}
}

// lock judges what a key may do. One account that it lets in without a lock is
// enough.
func (j *judge) lock(f KeyFile, line keys.Line) {
	o := line.Options
	for _, name := range f.Accounts {
		a := j.account(name)
		why := j.automation(line, a)
		if !j.locked(line, name) {
			severity, may := Note, "may run anything"
			if !o.Sourced {
				may += ", from every address"
			}
			found := fmt.Sprintf("%s %s; it is a person's, as far as can be seen", called(line), may)
			if why != "" {
				severity, found = Error, fmt.Sprintf("%s %s, and is a program's: %s", called(line), may, why)
			}
			mend := "put in front of the key: " + lockFor(o)
			if a.UID == 0 {
				mend += "; if it is a person's, it belongs to an account of his own: take it out once he has become root from there"
			}
			j.add("key-not-locked", severity, at(f, line), found, mend)
			return
		}
		if why == "" {
			continue
		}
		if !o.Restrict {
			left := permitted(o)
			found := called(line) + ": nothing more is left to it today, but later versions may add to that"
			if left != "" {
				found = called(line) + " may use: " + left
			}
			j.add("key-not-restricted", Warning, at(f, line), found, "in place of its options: "+lockFor(o))
		} else if left := permitted(o); left != "" {
			j.add("key-grants-forwarding", Warning, at(f, line), called(line)+" has restrict, and may use "+left+" all the same", "in place of its options: "+lockFor(o))
		}
		if len(o.PermitOpen)+len(o.PermitListen) > 0 {
			j.add("key-grants-forwarding", Warning, at(f, line), called(line)+" may forward "+strings.Join(slices.Concat(o.PermitOpen, o.PermitListen), ", "), "take permitopen= and permitlisten= out")
		}
		if o.Tunnel != "" {
			j.add("key-grants-tunnel", Error, at(f, line), called(line)+" may open the tunnel device "+o.Tunnel, "take tunnel= out, and: "+j.inSSHD("PermitTunnel no"))
		}
		if !o.Sourced {
			j.add("key-from-anywhere", Warning, at(f, line), called(line)+" works from every address", `put in front of the key: `+lockFor(o))
		}
		return
	}
}

// permitted are the things beside its command that a line leaves to a key.
func permitted(o keys.Options) string {
	var left []string
	for _, x := range []struct {
		name string
		may  bool
	}{{"port forwarding", o.Forwarding}, {"agent forwarding", o.Agent}, {"X11 forwarding", o.X11}, {"a terminal", o.PTY}, {"~/.ssh/rc", o.UserRC}} {
		if x.may {
			left = append(left, x.name)
		}
	}
	return strings.Join(left, ", ")
}

// lockFor is what should stand in front of a key. What is right in its options is
// kept.
func lockFor(o keys.Options) string {
	from, command := "ADDRESS", "COMMAND"
	if o.Sourced {
		from = o.From
	}
	if o.Forced {
		command = o.Command
	}
	return fmt.Sprintf(`restrict,from="%s",command="%s"`, from, strings.ReplaceAll(command, `"`, `\"`))
}

// strength judges a key, wherever it stands.
func (j *judge) strength(place Place, key keys.Blob, name string) {
	const mend = "make a new one: ssh-keygen -t ed25519"
	switch {
	case key.Type == "ssh-dss":
		j.add("key-weak", Error, place, name+" is a DSA key", mend)
	case key.Bits > 0 && key.Bits < 2048:
		j.add("key-weak", Error, place, fmt.Sprintf("%s has %d bits", name, key.Bits), mend)
	case key.Bits > 0 && key.Bits < 3072:
		j.add("key-short", Note, place, fmt.Sprintf("%s has %d bits", name, key.Bits), mend)
	}
}

// The narrowest networks that are called wide, in bits of their prefix: a segment
// is narrow, a site is not.
const (
	wide4 = 24
	wide6 = 64
)

// source judges from=.
func (j *judge) source(f KeyFile, line keys.Line) {
	if !line.Options.Sourced {
		return
	}
	const mend = `name the addresses: from="192.0.2.1"`
	patterns, err := keys.SourcePatterns(line.Options.From)
	if err != nil {
		j.add("key-from-broken", Warning, at(f, line), fmt.Sprintf("%s: from=: %v", called(line), err), mend)
	}
	for _, p := range patterns {
		found := fmt.Sprintf("%s: from= has %s", called(line), p.Text)
		switch {
		case p.Negated:
		case strings.Trim(p.Text, "*.:?") == "" || p.Prefix.IsValid() && p.Prefix.Bits() == 0:
			j.add("key-from-wide", Error, at(f, line), found+", which is every address", mend)
		case p.Name && strings.Trim(strings.ToLower(p.Text), "0123456789abcdef.:*?") == "" && strings.ContainsAny(p.Text, "*?"):
			j.add("key-from-wide", Warning, at(f, line), found, mend)
		case p.Name:
			j.add("key-from-name", Warning, at(f, line), found, mend)
		case p.Prefix.Addr().Is4() && p.Prefix.Bits() < wide4, p.Prefix.Addr().Is6() && p.Prefix.Bits() < wide6:
			j.add("key-from-wide", Warning, at(f, line), found, mend)
		}
	}
}

func (j *judge) environment(f KeyFile, line keys.Line) {
	if len(line.Options.Environment) > 0 {
		var names []string
		for _, e := range line.Options.Environment {
			name, _, _ := strings.Cut(e, "=") // a value may be a secret
			names = append(names, name)
		}
		j.add("key-environment", Warning, at(f, line), called(line)+" sets "+strings.Join(names, ", "), "take environment= out, and: "+j.inSSHD("PermitUserEnvironment no"))
	}
}

func (j *judge) authority(f KeyFile, line keys.Line) {
	for _, name := range f.Accounts {
		switch o := line.Options; {
		case !j.locked(line, name):
			j.add("key-authority", Error, at(f, line), called(line)+" signs keys that may run anything", "put in front of the key: cert-authority,"+lockFor(o))
		case !o.Sourced:
			j.add("key-authority", Warning, at(f, line), called(line)+" signs keys that work from every address", "put in front of the key: cert-authority,"+lockFor(o))
		default:
			continue
		}
		return
	}
}

// revokes reports whether sshd refuses a key to an account, by a list of lines.
func (j *judge) revokes(account, fingerprint string) bool {
	path := j.config(account).get("revokedkeys")
	return slices.ContainsFunc(j.Revoked, func(r RevokedFile) bool { return r.Path == path && r.Keys[fingerprint] })
}

// duplicates finds keys that stand on more than one line, of any file.
func (j *judge) duplicates() {
	type seen struct {
		file    KeyFile
		line    keys.Line
		locked  bool
		program bool
	}
	byKey := map[string][]seen{}
	var order []string
	for _, f := range j.KeyFiles {
		for _, line := range f.Lines {
			if line.Ignored != "" || line.Options.Authority {
				continue
			}
			s := seen{file: f, line: line, locked: true}
			for _, name := range f.Accounts {
				s.locked = s.locked && j.locked(line, name)
				s.program = s.program || j.automation(line, j.account(name)) != ""
			}
			id := line.Key.Fingerprint
			if byKey[id] == nil {
				order = append(order, id)
			}
			byKey[id] = append(byKey[id], s)
		}
	}
	for _, id := range order {
		all := byKey[id]
		if len(all) < 2 {
			continue
		}
		locked := slices.IndexFunc(all, func(s seen) bool { return s.locked })
		program := slices.ContainsFunc(all, func(s seen) bool { return s.program })
		for n, s := range all {
			switch {
			case !s.locked && locked >= 0:
				j.add("key-bare-beside-locked", Error, at(s.file, s.line), fmt.Sprintf("%s may run anything here, and is locked at %s", called(s.line), at(all[locked].file, all[locked].line)), "take this line out")
			case n > 0:
				severity := Warning // a person who has two accounts
				if program {
					severity = Error
				}
				j.add("key-duplicate", severity, at(s.file, s.line), fmt.Sprintf("%s stands at %s too", called(s.line), at(all[0].file, all[0].line)), "take one of the two lines out")
			}
		}
	}
}

// keyFiles judges the files that keys stand in.
func (j *judge) keyFiles() {
	for _, f := range j.KeyFiles {
		path := f.Chain.Path()
		if f.Second && len(f.Lines) > 0 {
			j.add("key-file-second", Warning, Place{File: path}, fmt.Sprintf("it holds %d keys beside those of the first file", len(f.Lines)), "bring its lines into the first file, and: rm "+path)
		}
		for _, name := range f.Accounts {
			a := j.account(name)
			if n, why, mend := j.others(f.Chain, a.UID); why != "" {
				j.add("key-file-writable", Error, Place{File: n.Path}, fmt.Sprintf("%s, and with it the keys of %s in %s", why, name, path), mend)
				break
			}
		}
		for _, name := range f.Accounts {
			a := j.account(name)
			owns := slices.ContainsFunc(f.Chain, func(n Node) bool { return n.UID == a.UID })
			program := slices.ContainsFunc(f.Lines, func(l keys.Line) bool { return l.Ignored == "" && j.automation(l, a) != "" })
			if a.UID > 0 && owns && program {
				j.add("key-file-owner", Warning, Place{File: path}, fmt.Sprintf("%s can change the file, and so take the lock off its keys", name),
					fmt.Sprintf("move it to /etc/ssh/keys/%s, of root's and mode 0644, and: %s", name, j.inSSHD("AuthorizedKeysFile /etc/ssh/keys/%u")))
				break
			}
		}
	}
	for _, f := range j.Authorities {
		if n, why, mend := j.others(f.Chain, 0); why != "" {
			j.add("key-file-writable", Error, Place{File: n.Path}, why+", and with it whom sshd lets sign keys", mend)
		}
		for _, line := range f.Keys {
			if line.Ignored == "" {
				j.strength(Place{File: f.Chain.Path(), Line: line.Number}, line.Key, called(line))
			}
		}
	}
	for _, r := range j.Revoked {
		if r.Why != "" {
			j.add("revoked-keys-file", Error, Place{File: r.Path}, "it cannot be read: "+r.Why, "touch "+r.Path+" && chmod 644 "+r.Path)
		} else if n, why, mend := j.others(r.Chain, 0); why != "" {
			j.add("revoked-keys-file", Error, Place{File: n.Path}, why, mend)
		}
	}
}

// certificates judges what sshd makes of certificates.
func (j *judge) certificates() {
	for _, c := range j.Configs {
		path := c.get("trustedusercakeys")
		if !named(path) {
			continue
		}
		switch {
		case named(c.get("authorizedprincipalsfile")):
		case named(c.get("authorizedprincipalscommand")):
			j.addSSHD("key-command", Note, "AuthorizedPrincipalsCommand", c, "principals come from "+c.get("authorizedprincipalscommand"), "look at what it answers")
		default:
			severity := Error
			if named(c.get("forcecommand")) {
				severity = Warning
			}
			j.addSSHD("authority-trusted", severity, "TrustedUserCAKeys", c, "whoever "+path+" lets sign may be any user", j.inSSHD("AuthorizedPrincipalsFile /etc/ssh/principals/%u"))
		}
	}
	for _, f := range j.Principals {
		for _, name := range f.Accounts {
			a := j.account(name)
			if !named(j.config(name).get("trustedusercakeys")) {
				continue
			}
			if n, why, mend := j.others(f.Chain, a.UID); why != "" {
				j.add("key-file-writable", Error, Place{File: n.Path}, fmt.Sprintf("%s, and with it the principals of %s", why, name), mend)
			}
			for i, line := range f.Lines {
				o := line.Options
				if line.Ignored != "" || j.locked(line, name) && o.Sourced {
					continue
				}
				j.add("authority-unlocked", Warning, at(f, line), fmt.Sprintf("principal %s comes in as %s with what its certificate lacks", f.Names[i], name), "in place of the line: "+lockFor(o)+" "+f.Names[i])
			}
			break
		}
	}
}

// privateKeys judges the private keys that lie here.
func (j *judge) privateKeys() {
	for _, p := range j.PrivateKeys {
		path := p.Chain.Path()
		place := Place{File: path}
		owner := p.Chain[0].UID
		if n, why, mend := j.others(p.Chain, owner); why != "" {
			j.add("private-key-readable", Error, Place{File: n.Path}, fmt.Sprintf("%s, and with it the private key %s", why, path), mend)
		} else if perm := p.Chain[0].Mode.Perm(); perm&0o077 != 0 {
			j.add("private-key-readable", Error, place, fmt.Sprintf("others than its owner can read it (mode %04o)", perm), "chmod 600 "+path)
		}
		j.strength(place, p.Key, "the private key")
		if p.Encrypted {
			continue
		}
		open := ""
		j.eachLine(func(f KeyFile, line keys.Line, a Account) {
			if line.Key.Fingerprint == p.Key.Fingerprint && !line.Options.Authority && !j.locked(line, a.Name) {
				open = fmt.Sprintf("%s lets its holder in as %s, to run anything", at(f, line), a.Name)
			}
		})
		if open != "" {
			j.add("private-key-unlocked", Error, place, "it has no passphrase, and "+open, "lock that line, or give the key a passphrase: ssh-keygen -p -f "+path)
			continue
		}
		j.add("private-key-plain", Note, place, "it has no passphrase", "see that each host that takes it locks it: kido audit there")
	}
}
