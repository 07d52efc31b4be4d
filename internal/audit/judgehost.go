package audit

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/keys"
)

// accounts judges the accounts that keys let in.
func (j *judge) accounts() {
	for _, a := range j.Accounts {
		if j.Server == nil || !j.hasKeys(a.Name) {
			continue
		}
		if a.Locked && j.config(a.Name).get("usepam") == "no" {
			j.add("account-locked", Warning, Place{File: "/etc/shadow", Users: []string{a.Name}}, "its password begins with !, and UsePAM is no", "usermod -p '*' "+a.Name)
		}
		if !slices.Contains([]string{"bash", "zsh", "fish", "csh", "tcsh"}, a.shell()) {
			continue
		}
		for _, line := range j.automated(a.Name) {
			if j.locked(line, a.Name) {
				severity := Warning
				if a.UID == 0 {
					severity = Note // who can write root's home needs no key
				}
				j.add("account-shell-startup", severity, Place{File: "/etc/passwd", Users: []string{a.Name}}, fmt.Sprintf("%s runs the forced command, after what it finds in %s", a.shell(), a.Home), "usermod -s /bin/sh "+a.Name+" (where that is dash), or a home of root's")
				break
			}
		}
	}
}

// polkit judges the rules about systemd's units.
func (j *judge) polkit() {
	for _, r := range j.Polkit {
		place := Place{File: r.File, Line: r.Line}
		who := strings.Join(r.Users, ", ")
		if who == "" {
			who = "whomever it asks for"
		}
		switch {
		case !r.AsksUnit:
			j.add("polkit-any-unit", Error, place, "it says yes to "+who+" without asking for the unit", `ask for action.lookup("unit") and action.lookup("verb"), and say yes to those that are meant`)
		case r.Start:
			j.add("polkit-start", Error, place, "it says yes to "+who+" for the verb start", `grant "restart" in the place of "start": it starts what is stopped`)
		}
		if !slices.Contains(r.Users, gateUser) || len(r.Units) == 0 {
			continue
		}
		for _, unit := range slices.Sorted(maps.Keys(r.Units)) {
			switch id, known := j.Units[unit]; {
			case known && id == "":
				j.add("polkit-other", Warning, place, "there is no unit "+unit, "take it out of the site file, or install it; then: kido enroll")
			case j.Gate != nil && j.Gate.Policy != nil && !j.inPolicy(unit):
				j.add("polkit-other", Warning, place, "the policy of the gate has no service of the unit "+unit, "kido enroll, or take it out of the rule")
			}
		}
	}
	if j.Gate == nil || j.Gate.Policy == nil {
		return
	}
	for _, s := range j.Gate.Policy.Services {
		granted := func(r PolkitRule) bool {
			return slices.Contains(r.Users, gateUser) && (r.Units[s.Unit] != nil || r.Units[j.Units[s.Unit]] != nil)
		}
		if s.Adapter == "systemd" && !slices.ContainsFunc(j.Polkit, granted) && !j.bySudo(s) && !j.unreadUnder("/etc/polkit-1") && !j.unreadUnder("/etc/sudoers") {
			j.add("polkit-other", Warning, Place{File: gate.DefaultPolicy}, fmt.Sprintf("nothing lets the gate restart %s, the unit of service %s", s.Unit, s.Name), "kido enroll")
		}
	}
}

// inPolicy reports whether a unit is that of a service of the gate's policy.
func (j *judge) inPolicy(unit string) bool {
	return slices.ContainsFunc(j.Gate.Policy.Services, func(s gate.PolicyService) bool {
		return s.Adapter == "systemd" && (s.Unit == unit || j.Units[s.Unit] == unit)
	})
}

// pagers are the words of systemctl that show their answer in a pager, and
// programs that do.
var pagers = []string{"status", "cat", "show", "help", "list-units", "list-unit-files", "list-timers", "list-sockets", "list-jobs", "list-dependencies"}

// sudo judges what may be run by sudo.
func (j *judge) sudo() {
	for _, c := range j.SudoFiles {
		if n, why, mend := j.others(c, 0); why != "" {
			j.add("sudo-writable", Error, Place{File: n.Path}, why+", and with it what sudo lets whom do", mend)
		}
	}
	for _, r := range j.Sudo {
		place := Place{File: r.File, Line: r.Line}
		if r.Who == "root" || strings.HasPrefix(r.Command, "!") {
			continue
		}
		f := strings.Fields(r.Command)
		program, args := "", []string(nil)
		if len(f) > 0 {
			program, args = filepath.Base(f[0]), f[1:]
		}
		severity := Error
		if !r.NoPassword {
			severity = Warning
		}
		found := fmt.Sprintf("%s may run as %s: %s", r.Who, r.RunAs, r.Command)
		exact := "write each command that is meant, with all its arguments"
		switch {
		case r.Command == "ALL":
			if r.NoPassword {
				severity := Warning
				if who := j.programs(r.Who); r.Who == "ALL" || who != "" {
					severity = Error
					if who != "" {
						found += "; by the keys of " + who + " programs log in, and nobody else"
					}
				}
				j.add("sudo-all", severity, place, found, "write the commands that are meant, or take NOPASSWD: out")
			}
		case program == "service" && (len(args) == 0 || wild(strings.Join(args, " "))):
			j.add("sudo-service", severity, place, found, "write /etc/init.d/NAME VERB for each that is meant")
		case (program == "systemctl" && len(args) > 0 && slices.Contains(pagers, args[0]) || program == "journalctl") && !slices.Contains(args, "--no-pager"):
			j.add("sudo-pager", severity, place, found, "take it out: systemctl status needs no sudo; or --no-pager behind it")
		case wild(r.Command):
			j.add("sudo-wildcard", severity, place, found, exact)
		case len(args) == 0 && r.NoPassword:
			j.add("sudo-any-arguments", Warning, place, found+", with any arguments", `write its arguments, or "" for none`)
		}
		if r.Who == gateUser && j.Gate != nil && j.Gate.Policy != nil && !slices.ContainsFunc(j.Gate.Policy.Services, func(s gate.PolicyService) bool { return j.runs(s, r.Command) }) {
			j.add("sudo-other", Warning, place, found+", and its policy has no such service", "kido enroll, or take it out")
		}
	}
	if j.Gate == nil || j.Gate.Policy == nil || len(j.Gate.Policy.Become) == 0 || j.unreadUnder("/etc/sudoers") {
		return
	}
	for _, s := range j.Gate.Policy.Services {
		if s.Adapter != "systemd" && !j.bySudo(s) {
			j.add("sudo-other", Warning, Place{File: gate.DefaultPolicy}, "sudo lets the gate run nothing for service "+s.Name, "kido enroll")
		}
	}
}

// programs is an account to which sudoers' word for a user applies, and that only
// locked keys of programs let in; "" where there is none.
func (j *judge) programs(who string) string {
	who = plainly(strings.Trim(who, `"`))
	group, isGroup := strings.CutPrefix(who, "%")
	for _, a := range j.Accounts {
		if a.UID == 0 || isGroup && !slices.Contains(j.Groups[group], a.Name) || !isGroup && who != a.Name && who != fmt.Sprintf("#%d", a.UID) {
			continue
		}
		only := j.hasKeys(a.Name)
		j.eachLine(func(_ KeyFile, line keys.Line, b Account) {
			if a.Name == b.Name && (line.Options.Authority || j.automation(line, a) == "" || !j.locked(line, a.Name)) {
				only = false
			}
		})
		if only {
			return a.Name
		}
	}
	return ""
}

// wild reports whether sudo would match a command against more than itself.
func wild(command string) bool {
	for i := range len(command) {
		if strings.IndexByte("*?[^", command[i]) >= 0 && (i == 0 || command[i-1] != '\\') {
			return true
		}
	}
	return false
}

// bySudo reports whether sudo lets the gate run something for a service.
func (j *judge) bySudo(s gate.PolicyService) bool {
	return slices.ContainsFunc(j.Sudo, func(r SudoRule) bool { return r.Who == gateUser && j.runs(s, r.Command) })
}

// runs reports whether a command of sudoers is one that a service's adapter runs.
func (j *judge) runs(s gate.PolicyService, command string) bool {
	f := strings.Fields(command)
	if len(f) < 2 {
		return false
	}
	switch s.Adapter {
	case "systemd":
		return len(f) == 3 && filepath.Base(f[0]) == "systemctl" && slices.Contains([]string{"restart", "stop", "reload"}, f[1]) &&
			(plainly(f[2]) == s.Unit || plainly(f[2]) == j.Units[s.Unit])
	case "openrc":
		return len(f) == 3 && filepath.Base(f[0]) == "rc-service" && f[1] == s.Unit
	case "sysv":
		return len(f) == 2 && f[0] == "/etc/init.d/"+s.Unit
	}
	return slices.ContainsFunc([][]string{s.Start, s.Stop, s.Restart, s.Reload, s.Status}, func(argv []string) bool {
		return argv != nil && plainly(strings.TrimSuffix(command, ` ""`)) == plainly(strings.Join(argv, " "))
	})
}

// plainly is a word of sudoers without what hides its letters from sudo.
func plainly(s string) string { return strings.ReplaceAll(s, `\`, "") }

// scripts judges what init and cron run, and what is logged.
func (j *judge) scripts() {
	for _, s := range j.Scripts {
		path := s.Chain.Path()
		if n, why, mend := j.others(s.Chain, 0); why != "" && s.ByRoot {
			j.add("script-writable", Error, Place{File: n.Path}, fmt.Sprintf("%s, and with it %s, which root runs", why, path), mend)
		}
		const pin = "pin the host's key in /etc/ssh/ssh_known_hosts, and: -o StrictHostKeyChecking=yes"
		for _, c := range s.Calls {
			if c.AnyHost != "" {
				severity := Error
				if strings.Contains(c.AnyHost, "accept-new") {
					severity = Warning
				}
				j.add("script-trusts-any-host", severity, Place{File: path, Line: c.Line}, "it calls ssh with "+c.AnyHost, pin)
			} else if !c.Strict {
				j.add("script-trusts-any-host", Note, Place{File: path, Line: c.Line}, "it calls ssh and leaves open what host key it takes, so the first one that was seen is trusted", pin)
			}
		}
		for _, w := range s.Logs {
			if folder := shared(w.Path); folder != "" {
				j.add("log-shared-folder", Warning, Place{File: path, Line: w.Line}, fmt.Sprintf("it writes to %s, and everybody can write in %s", w.Path, folder), "write to a file under /var/log")
			}
		}
	}
	for _, n := range j.Logs {
		j.add("log-writable", Warning, Place{File: n.Path}, fmt.Sprintf("everybody can write it (mode %04o)", n.Mode.Perm()), "chmod o-w "+n.Path)
	}
}

func shared(path string) string {
	for _, folder := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		if strings.HasPrefix(path, folder+"/") {
			return folder
		}
	}
	return ""
}

// kido judges what is there of the gate.
func (j *judge) kido() {
	g := j.Gate
	if g == nil {
		return
	}
	for _, c := range g.Files {
		if n, why, mend := j.others(c, 0); why != "" {
			j.add("gate-files", Error, Place{File: n.Path}, why+", and with it "+c.Path(), mend)
		}
	}
	if s := g.State; s != nil && s.Mode.Perm()&0o077 != 0 {
		j.add("gate-files", Error, Place{File: s.Path}, fmt.Sprintf("others than its owner come into the state folder (mode %04o)", s.Mode.Perm()), "chmod 700 "+s.Path)
	}
	a := j.account(gateUser)
	if a.UID < 0 {
		return // a runner's host: nobody comes by a gate here
	}
	if g.PolicyErr != "" {
		j.add("gate-policy", Error, Place{File: gate.DefaultPolicy}, g.PolicyErr, "kido-gate --check; kido enroll writes it anew")
	}
	if a.Shell != gateProgram {
		j.add("gate-account", Error, Place{File: "/etc/passwd", Users: []string{gateUser}}, "its login shell is "+a.Shell, "usermod -s "+gateProgram+" "+gateUser)
	}
	if h := g.Home; h != nil && h.UID != 0 {
		j.add("gate-account", Warning, Place{File: h.Path}, fmt.Sprintf("the home of %s belongs to %s", gateUser, j.userName(h.UID)), "chown root:root "+h.Path)
	}
	c := j.config(gateUser)
	if j.Server == nil || len(c.Values) == 0 {
		return
	}
	var missing []string
	for _, want := range [][2]string{
		{"ForceCommand", gateProgram},
		{"AuthenticationMethods", "publickey"},
		{"ExposeAuthInfo", "yes"},
		{"DisableForwarding", "yes"},
		{"PermitTunnel", "no"},
		{"PermitTTY", "no"},
		{"PermitUserRC", "no"},
	} {
		if c.get(strings.ToLower(want[0])) != want[1] {
			missing = append(missing, want[0]+" "+want[1])
		}
	}
	if files := strings.Fields(c.get("authorizedkeysfile")); len(files) != 1 || !filepath.IsAbs(files[0]) {
		missing = append(missing, "AuthorizedKeysFile "+gate.KeyFile)
	}
	if len(missing) > 0 {
		j.addSSHD("gate-sshd", Error, "Match User "+gateUser, c, "not so: "+strings.Join(missing, ", "), "kido enroll")
	}
}

// unreadUnder reports whether something under a path could not be read.
func (j *judge) unreadUnder(path string) bool {
	return slices.ContainsFunc(j.Facts.Unread, func(u Unread) bool { return strings.HasPrefix(u.Place.File, path) })
}
