package audit

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// scriptFolders hold what init and cron run.
var (
	scriptFolders = []string{"/etc/init.d", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/etc/local.d"}
	scriptFiles   = []string{"/etc/crontab", "/etc/rc.local", "/etc/rc.d/rc.local"}
	crontabs      = []string{"/var/spool/cron/crontabs", "/var/spool/cron"} // one file an account
	unitFolder    = "/etc/systemd/system"
)

var unitExec = expression(`(?m)^Exec\w+=[-@:+!|]*(/\S+)`)

// scripts reads what init and cron run: their own scripts, and those that an
// administrator's units name.
func (l *looker) scripts() {
	seen := map[string]bool{}
	look := func(path string, byRoot bool) {
		if seen[path] || strings.HasPrefix(filepath.Base(path), ".") {
			return // neither init nor cron runs what is hidden: insserv keeps notes there
		}
		seen[path] = true
		c := l.chain(path)
		if c == nil || !c[0].Mode.IsRegular() {
			return
		}
		s := Script{Chain: c, ByRoot: byRoot}
		// A program is not read: it is none of those that are written by hand.
		if text, err := readFile(l.path(path), largest); err == nil && !slices.Contains(text, 0) {
			s.Calls, s.Logs = scan(string(text))
		} else if err != nil && !errors.Is(err, errTooLong) {
			l.unread(path, err)
		}
		l.Scripts = append(l.Scripts, s)
	}
	for _, folder := range scriptFolders {
		for _, path := range l.list(folder) {
			look(path, true)
		}
	}
	for _, path := range scriptFiles {
		look(path, true)
	}
	for _, folder := range crontabs {
		for _, path := range l.list(folder) {
			look(path, filepath.Base(path) == "root")
		}
	}
	for _, path := range l.list(unitFolder) {
		if to, err := os.Readlink(l.path(path)); filepath.Ext(path) != ".service" || err == nil && to == "/dev/null" {
			continue // what is masked does not run
		}
		unit := string(l.read(path))
		for _, f := range unitExec().FindAllStringSubmatch(unit, -1) {
			look(f[1], !strings.Contains(unit, "\nUser="))
		}
	}
}

var (
	assignment = expression(`^(?:export\s+|readonly\s+|local\s+)?([A-Za-z_]\w*)=("[^"]*"|'[^']*'|[^\s;]*)\s*(?:;\s*(.*)|#.*)?$`)
	variable   = expression(`\$(?:\{(\w+)\}|(\w+))`)
	sshCall    = expression(`(?:^|[\s;&|(` + "`" + `!"'])(?:/usr(?:/local)?)?(?:/bin/)?(?:ssh|scp|sftp)\s+(.*)$`)
	identity   = expression(`(?:^|\s)-i\s*("[^"]+"|'[^']+'|\S+)`)
	anyHost    = expression(`(?i)(StrictHostKeyChecking\s*[= ]\s*"?(?:no|off|accept-new)\b|UserKnownHostsFile\s*[= ]\s*"?/dev/null)`)
	strict     = expression(`(?i)StrictHostKeyChecking\s*[= ]\s*"?yes\b`)
	redirect   = expression(`(?:^|[^<>=-])(?:[12&])?>>?\|?\s*("[^"]+"|'[^']+'|[^\s;&|<>()]+)`)
)

// A crontab is anybody's, and must neither hold the audit nor fill its memory. No
// script that is written by hand has more.
const (
	longestCommand  = 8 << 10 // bytes of a line, with those that continue it
	mostAssignments = 64      // in a line
	mostExpansion   = 1 << 20 // bytes that variables add to a script
)

// scan finds in a shell script the calls of ssh, and the files with a fixed name
// that it writes to. Variables that are set to a plain word are followed.
func scan(text string) (calls []Call, logs []LogWrite) {
	vars := map[string]string{}
	added := 0
	expand := func(s string) string {
		return variable().ReplaceAllStringFunc(s, func(ref string) string {
			value, ok := vars[strings.Trim(ref, "${}")]
			if !ok || added+len(value) > mostExpansion {
				return ref
			}
			added += len(value)
			return value
		})
	}
	unquote := func(s string) string { return strings.Trim(s, `"'`) }
	lines := strings.Split(text, "\n")
	for n := 0; n < len(lines); n++ {
		at, line := n+1, strings.TrimSpace(lines[n])
		for more := strings.HasSuffix(line, `\`); more && n+1 < len(lines); {
			n++
			next := strings.TrimSpace(lines[n])
			more = strings.HasSuffix(next, `\`)
			if len(line)+len(next) < longestCommand {
				line = strings.TrimSuffix(line, `\`) + " " + next
			}
		}
		if line = line[:min(len(line), longestCommand)]; strings.HasPrefix(line, "#") {
			continue
		}
		for range mostAssignments {
			f := assignment().FindStringSubmatch(line)
			if f == nil {
				break
			}
			vars[f[1]] = expand(unquote(f[2]))
			line = f[3] // what stands behind it
		}
		if f := sshCall().FindStringSubmatch(line); f != nil {
			words := expand(f[1])
			c := Call{Line: at, AnyHost: anyHost().FindString(words), Strict: strict().MatchString(words)}
			if i := identity().FindStringSubmatch(f[1]); i != nil {
				c.Identity = expand(unquote(i[1]))
			}
			calls = append(calls, c)
		}
		for _, f := range redirect().FindAllStringSubmatch(line, -1) {
			if path := expand(unquote(f[1])); filepath.IsAbs(path) && !strings.Contains(path, "$") {
				logs = append(logs, LogWrite{at, filepath.Clean(path)})
			}
		}
	}
	return calls, logs
}
