package audit

import (
	"path/filepath"
	"strconv"
	"strings"
)

// polkitFolders is where polkit has its rules (polkit(8)); the old ones are of
// another form.
var (
	polkitFolders = []string{"/etc/polkit-1/rules.d", "/run/polkit-1/rules.d", "/usr/local/share/polkit-1/rules.d", "/usr/share/polkit-1/rules.d"}
	polkitOld     = []string{"/etc/polkit-1/localauthority", "/var/lib/polkit-1/localauthority"}
)

const manageUnits = "org.freedesktop.systemd1.manage-units"

var (
	askedUnit  = expression(`lookup\(\s*["']unit["']\s*\)`)
	askedVerb  = expression(`lookup\(\s*["']verb["']\s*\)`)
	verbStart  = expression(`["']start["']`)
	askedUser  = expression(`\.user\s*[!=]==?\s*["']([^"']+)["']`)
	askedID    = expression(`\.id\b`)
	unitTable  = expression(`["']([^"'\s]+\.[a-z]+)["']\s*:\s*\[([^\]]*)\]`)
	word       = expression(`["']([^"']+)["']`)
	jsComments = expression(`(?s)/\*.*?\*/|(?m)^\s*//[^\n]*`)
	oldVersion = expression(`\b0\.(\d+)\b`)
)

// polkit reads the rules that are about systemd's units. A rule is a program; what
// is looked for is what it must say to grant anything, so that a rule which hides
// it is not understood, and one that grants is not missed by its layout.
func (l *looker) polkit() {
	scripts := true
	if out, err := l.Run("pkaction", "--version"); err == nil {
		if f := oldVersion().FindStringSubmatch(out); f != nil {
			minor, _ := strconv.Atoi(f[1])
			scripts = minor >= 106
		}
	}
	if scripts {
		for _, folder := range polkitFolders {
			for _, path := range l.list(folder) {
				if strings.HasSuffix(path, ".rules") {
					l.Polkit = append(l.Polkit, polkitRules(path, string(l.read(path)))...)
				}
			}
		}
	}
	for _, base := range polkitOld {
		for _, folder := range l.list(base) {
			for _, path := range l.list(folder) {
				if filepath.Ext(path) == ".pkla" {
					l.Polkit = append(l.Polkit, polkitOldRules(path, string(l.read(path)))...)
				}
			}
		}
	}
}

func polkitRules(path, text string) (all []PolkitRule) {
	blank := func(s string) string { // comments are taken out, lines stay
		return strings.Repeat("\n", strings.Count(s, "\n"))
	}
	text = jsComments().ReplaceAllStringFunc(text, blank)
	parts := strings.Split(text, "addRule")
	line := 1 + strings.Count(parts[0], "\n")
	for _, part := range parts[1:] {
		at := line
		line += strings.Count(part, "\n")
		about := strings.Contains(part, "org.freedesktop.systemd1") || !askedID().MatchString(part)
		if !about || !strings.Contains(part, "Result.YES") {
			continue
		}
		r := PolkitRule{
			File: path, Line: at, AsksUnit: askedUnit().MatchString(part), Units: map[string][]string{},
			Start: !askedVerb().MatchString(part) || verbStart().MatchString(part),
		}
		for _, f := range askedUser().FindAllStringSubmatch(part, -1) {
			r.Users = append(r.Users, f[1])
		}
		for _, f := range unitTable().FindAllStringSubmatch(part, -1) {
			for _, verb := range word().FindAllStringSubmatch(f[2], -1) {
				r.Units[f[1]] = append(r.Units[f[1]], verb[1])
			}
		}
		all = append(all, r)
	}
	return all
}

// polkitOldRules reads a .pkla file, whose rules cannot look at a unit or verb.
func polkitOldRules(path, text string) (all []PolkitRule) {
	n, begin, about, yes := 0, 0, false, false
	var users []string
	end := func() {
		if about && yes {
			all = append(all, PolkitRule{File: path, Line: begin, Users: users, Start: true, Units: map[string][]string{}})
		}
		about, yes, users = false, false, nil
	}
	for line := range strings.Lines(text) {
		n++
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case strings.HasPrefix(key, "["):
			end()
			begin = n
		case key == "Action":
			for _, pattern := range strings.Split(value, ";") {
				if ok, _ := filepath.Match(pattern, manageUnits); ok {
					about = true
				}
			}
		case key == "Identity":
			for _, who := range strings.Split(value, ";") {
				if name, ok := strings.CutPrefix(who, "unix-user:"); ok {
					users = append(users, name)
				}
			}
		case strings.HasPrefix(key, "Result") && value == "yes":
			yes = true
		}
	}
	end()
	return all
}
