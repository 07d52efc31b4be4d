package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"kido/internal/keys"
)

// Judge holds the facts of a host against [Rules]. It does no I/O.
func Judge(f Facts) []Finding {
	j := &judge{Facts: f, shared: map[string]int{}}
	j.lines()
	j.duplicates()
	j.keyFiles()
	j.certificates()
	j.privateKeys()
	j.sshd()
	j.accounts()
	j.polkit()
	j.sudo()
	j.scripts()
	j.kido()
	j.unread()
	j.everybody()
	for i := range j.found {
		x := &j.found[i]
		x.Found, x.Mend, x.Place.File = clean(x.Found), clean(x.Mend), clean(x.Place.File)
	}
	sortFindings(j.found)
	return crowded(j.found)
}

// unread says what was not looked at. To find nothing then is no good news.
func (j *judge) unread() {
	for _, u := range j.Facts.Unread {
		severity, mend := Warning, "look at it yourself"
		if u.Grants {
			severity = Error
		}
		switch {
		case errors.Is(u.Err, fs.ErrPermission):
			mend = "run kido audit as root"
		case errors.Is(u.Err, errTooLong):
			mend = "look at it yourself, or take out of it what is not needed"
		case errors.Is(u.Err, errNotRegular):
			mend = "put a file in its place, or nothing"
		case u.Place.File == sshdConfig && u.Place.Line == 0:
			mend = "run kido audit as root; if it says the same, sshd -t tells what is wrong"
		}
		j.add("not-looked-at", severity, u.Place, u.Err.Error(), mend)
	}
	for _, e := range j.Elsewhere {
		what, mend := "accounts", "look at their files of keys yourself (getent passwd NAME), or have sshd let in none of them: AllowUsers"
		if e.Database == "sudoers" {
			what, mend = "sudo's rules", "look at them yourself: sudo -l -U NAME"
		}
		j.add("not-looked-at", Warning, e.Place, fmt.Sprintf("%s that come from %s", what, strings.Join(e.Sources, ", ")), mend)
	}
}

// crowded leaves out most of what one rule says again and again of one file: whoever
// can write that must not make the report longer than can be read.
func crowded(all []Finding) (kept []Finding) {
	const most = 20
	type kind struct {
		rule, file string
		severity   Severity
	}
	last := map[kind]int{}
	times := map[kind]int{}
	for _, f := range all {
		k := kind{f.Rule, f.Place.File, f.Severity}
		if times[k]++; f.Place.File == "" || f.Place.File == sshdConfig || times[k] <= most {
			last[k] = len(kept)
			kept = append(kept, f)
		}
	}
	for k, n := range times {
		if n > most && k.file != "" && k.file != sshdConfig {
			kept[last[k]].Found += fmt.Sprintf("; and so %d times more in this file", n-most)
		}
	}
	return kept
}

type judge struct {
	Facts
	found  []Finding
	shared map[string]int // by what is found: the finding that has the users of all
}

func (j *judge) add(rule string, s Severity, place Place, found, mend string) {
	j.found = append(j.found, Finding{Rule: rule, Severity: s, Place: place, Found: found, Why: ruleOf(rule).Why, Mend: mend})
}

// addSSHD adds what sshd does for a connection; what it does for several stands
// there once.
func (j *judge) addSSHD(rule string, s Severity, option string, c Config, found, mend string) {
	who := c.User
	id := strings.Join([]string{rule, string(s), option, found, mend}, "\x00")
	i, ok := j.shared[id]
	if !ok {
		i = len(j.found)
		j.shared[id] = i
		j.add(rule, s, Place{File: sshdConfig, Option: option}, found, mend)
	}
	users := &j.found[i].Place.Users
	if slices.Contains(*users, who) {
		return // whatever the address
	}
	if c.From != "" {
		who += " " + c.From
	}
	*users = append(*users, who)
}

// everybody shortens the list of users where it is that of all accounts, or of
// nearly all.
func (j *judge) everybody() {
	for i := range j.found {
		p := &j.found[i].Place
		if p.Option == "" {
			continue
		}
		var missing []string
		for _, a := range j.Accounts {
			if !slices.Contains(p.Users, a.Name) {
				missing = append(missing, a.Name)
			}
		}
		if len(missing) == 0 || len(missing) < 4 && len(p.Users) > 2*len(missing) && len(p.Users)+len(missing) == len(j.Accounts) {
			p.Users, p.Except = nil, missing
		}
	}
}

// inSSHD is how to mend sshd's configuration. Of two values of an option the first
// counts, so the line has to come before others.
func (j *judge) inSSHD(lines ...string) string {
	where := "before all else in " + sshdConfig
	if j.Server != nil && j.Server.Folder != "" {
		where = "in " + j.Server.Folder + "/00-local.conf"
	}
	return fmt.Sprintf("%s (%s; then: sshd -t && %s)", strings.Join(lines, "; "), where, j.reload())
}

// inMatch is how to mend it for one user. Such a block goes to the end: what stands
// behind it is not for everybody any more, and would come before other blocks.
func (j *judge) inMatch(user string, lines ...string) string {
	where := "at the end of " + sshdConfig + ", with Match all below it"
	if j.Server != nil && j.Server.Folder != "" {
		where = "in " + j.Server.Folder + "/99-" + user + ".conf"
	}
	return fmt.Sprintf("Match User %s; %s (%s; then: sshd -t && %s)", user, strings.Join(lines, "; "), where, j.reload())
}

// reload is how sshd is told, by whichever init.
func (j *judge) reload() string {
	name := "ssh"
	if j.Server != nil && j.Server.Service != "" {
		name = j.Server.Service
	}
	return "service " + name + " reload"
}

func (j *judge) account(name string) Account {
	for _, a := range j.Accounts {
		if a.Name == name {
			return a
		}
	}
	return Account{Name: name, UID: -1}
}

func (j *judge) config(user string) Config {
	for _, c := range j.Configs {
		if c.User == user {
			return c
		}
	}
	return Config{User: user}
}

// automation says why a key is a program's and not a person's, "" for a person's.
// It goes by what can be seen: a person who has locked his key to a command or an
// address loses nothing by being told how to do it well.
func (j *judge) automation(line keys.Line, account Account) string {
	switch {
	case line.Options.Forced:
		return "its line has command="
	case line.Options.Sourced:
		return "its line has from="
	case account.UID == 0:
		return "it lets in root"
	case !account.interactive():
		return "it lets in " + account.Name + ", who has no shell"
	case slices.ContainsFunc(j.PrivateKeys, func(p PrivateKey) bool { return !p.Encrypted && p.Key.Fingerprint == line.Key.Fingerprint }):
		return "its private half lies here without a passphrase"
	}
	return ""
}

// Automation is how the help says what automation does.
const Automation = `A key is taken for a program's, and must be locked, if its line has command= or
from=, if it lets in root or an account without a shell, or if its private half
lies on this machine without a passphrase. Any other is a person's: there a
missing lock is a note.`

// locked reports whether a key runs one command, by its line or by sshd's
// configuration for the account.
func (j *judge) locked(line keys.Line, account string) bool {
	if forced := j.config(account).get("forcecommand"); named(forced) { // over whatever the line says
		return !runsAnything(forced)
	}
	return line.Options.Forced && !runsAnything(line.Options.Command)
}

// asked is a command that is nothing but what was asked for, however it is run.
var asked = expression(`^(?:(?:exec|eval|(?:/\S*/)?(?:env|sudo|nice|(?:ba|da|k|z|a)?sh)|-\w+)\s+)*["']*\$\{?SSH_ORIGINAL_COMMAND\b[^|&;]*$`)

// runsAnything reports whether a forced command is a shell, or runs what it is asked
// to: it forces nothing then.
func runsAnything(command string) bool {
	if asked().MatchString(strings.TrimSpace(command)) {
		return true
	}
	f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(command), "exec "))
	if len(f) == 0 {
		return false
	}
	reads := !slices.ContainsFunc(f[1:], func(arg string) bool {
		return !slices.Contains([]string{"-l", "-i", "-s", "-li", "-il", "--login"}, arg)
	})
	return reads && slices.Contains(shells, f[0][strings.LastIndexByte(f[0], '/')+1:])
}

// eachLine calls do for each line that sshd takes, and each account that it lets in.
func (j *judge) eachLine(do func(f KeyFile, line keys.Line, account Account)) {
	for _, f := range j.KeyFiles {
		for _, line := range f.Lines {
			if line.Ignored != "" {
				continue
			}
			for _, name := range f.Accounts {
				do(f, line, j.account(name))
			}
		}
	}
}

// automated lists the lines of programs' keys that let an account in.
func (j *judge) automated(account string) (all []keys.Line) {
	j.eachLine(func(_ KeyFile, line keys.Line, a Account) {
		if a.Name == account && !line.Options.Authority && j.automation(line, a) != "" {
			all = append(all, line)
		}
	})
	return all
}

// hasKeys reports whether any line lets an account in.
func (j *judge) hasKeys(account string) (found bool) {
	j.eachLine(func(_ KeyFile, _ keys.Line, a Account) { found = found || a.Name == account })
	return found
}

// others says who beside root and a user could write a file, or put another in
// its place; "" for nobody. (A sticky folder passes: in it others cannot replace
// what is not theirs.)
func (j *judge) others(c Chain, uid int) (n Node, why, mend string) {
	for _, n := range c {
		perm := n.Mode.Perm()
		if n.Mode.IsDir() && n.Mode&sticky != 0 {
			perm &^= 0o022
		}
		switch {
		case n.UID != 0 && n.UID != uid:
			return n, fmt.Sprintf("%s belongs to %s", n.Path, j.userName(n.UID)), "chown root " + n.Path
		case perm&0o002 != 0:
			return n, fmt.Sprintf("everybody can write %s (mode %04o)", n.Path, n.Mode.Perm()), "chmod go-w " + n.Path
		case perm&0o020 != 0 && n.GID != 0 && !slices.ContainsFunc(j.Accounts, func(a Account) bool { return a.UID == uid && a.GID == n.GID && a.OwnGroup }):
			return n, fmt.Sprintf("group %d can write %s (mode %04o)", n.GID, n.Path, n.Mode.Perm()), "chmod g-w " + n.Path
		}
	}
	return Node{}, "", ""
}

func (j *judge) userName(uid int) string {
	for _, a := range j.Accounts {
		if a.UID == uid {
			return a.Name
		}
	}
	return fmt.Sprintf("uid %d", uid)
}

func at(f KeyFile, line keys.Line) Place { return Place{File: f.Chain.Path(), Line: line.Number} }

// called is a key as a finding names it.
func called(line keys.Line) string {
	if line.Key.Type == "" {
		return "the line"
	}
	name := line.Key.Type + " " + line.Key.Fingerprint
	if line.Comment != "" {
		name += " (" + line.Comment + ")"
	}
	return name
}
