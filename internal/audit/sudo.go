package audit

import (
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// sudo reads sudoers and what it includes (sudoers(5)). It follows aliases of
// commands and users; a line of another form is said not to be understood.
func (l *looker) sudo() {
	r := &sudoReader{l: l, aliases: map[string][]string{}, seen: map[string]bool{}}
	r.file("/etc/sudoers")
	r.finish()
}

// finish reads the lines that say who may do what, once all aliases are known.
func (r *sudoReader) finish() {
	for _, s := range r.specs {
		r.spec(s)
	}
}

type sudoLine struct {
	file string
	line int
	text string
}

type sudoReader struct {
	l       *looker
	aliases map[string][]string
	specs   []sudoLine // in the order of the files; aliases may come later
	seen    map[string]bool
}

func (r *sudoReader) file(path string) {
	text := r.l.read(path)
	if text == nil || r.seen[path] {
		return
	}
	r.seen[path] = true
	if c := r.l.chain(path); c != nil {
		r.l.SudoFiles = append(r.l.SudoFiles, c)
	}
	r.text(path, string(text))
}

func (r *sudoReader) text(path, text string) {
	lines := strings.Split(text, "\n")
	for n := 0; n < len(lines); n++ {
		at, line := n+1, lines[n]
		for strings.HasSuffix(line, `\`) && n+1 < len(lines) {
			n++
			line = strings.TrimSuffix(line, `\`) + " " + strings.TrimSpace(lines[n])
		}
		r.line(sudoLine{path, at, strings.TrimSpace(line)})
	}
}

var (
	sudoInclude = expression(`^[@#]include(dir)?\s+("[^"]+"|(?:\\.|[^"\s\\])+)\s*$`)
	sudoAlias   = expression(`^(User|Runas|Host|Cmnd|Cmd)_Alias\s+(.*)$`)
	sudoSpec    = expression(`^(.*?\S)\s+(\S+(?:\s*,\s*\S+)*)\s*=\s*(.*)$`)
	sudoTag     = expression(`^(NO)?(PASSWD|EXEC|SETENV|FOLLOW|LOG_INPUT|LOG_OUTPUT|MAIL|INTERCEPT)\s*:\s*`)
	sudoOption  = expression(`^(ROLE|TYPE|PRIVS|LIMITPRIVS|NOTBEFORE|NOTAFTER|TIMEOUT|CWD|CHROOT)=\S+\s+`)
	sudoRunAs   = expression(`^\(([^)]*)\)\s*`)
	sudoDigest  = expression(`^sha(224|256|384|512)\s*:\s*\S+\s+`)
)

func (r *sudoReader) line(s sudoLine) {
	if f := sudoInclude().FindStringSubmatch(s.text); f != nil {
		path := plainly(strings.Trim(f[2], `"`))
		if strings.Contains(path, "%") {
			r.notUnderstood(s, "%h in the path of what is included is not followed")
			return
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(s.file), path)
		}
		if f[1] == "" {
			r.file(path)
			return
		}
		for _, file := range r.l.list(path) {
			// As sudo does: what a package manager or an editor left is not read.
			if name := filepath.Base(file); !strings.Contains(name, ".") && !strings.HasSuffix(name, "~") {
				r.file(file)
			}
		}
		return
	}
	if i := comment(s.text); i >= 0 {
		s.text = strings.TrimSpace(s.text[:i])
	}
	switch f := sudoAlias().FindStringSubmatch(s.text); {
	case s.text == "":
	case f != nil:
		for _, definition := range splitSudo(f[2], ':') {
			name, list, _ := strings.Cut(definition, "=")
			r.aliases[strings.TrimSpace(name)] = splitSudo(list, ',')
		}
	case strings.HasPrefix(s.text, "Defaults"):
		if strings.Contains(s.text, "!authenticate") {
			r.notUnderstood(s, "whom it spares the password is not followed")
		}
	default:
		r.specs = append(r.specs, s)
	}
}

// comment finds a # that begins a comment: not one of a user id, nor a quoted one.
func comment(text string) int {
	for i := range len(text) {
		if text[i] != '#' || i > 0 && text[i-1] == '\\' {
			continue
		}
		if i+1 == len(text) || text[i+1] < '0' || text[i+1] > '9' {
			return i
		}
	}
	return -1
}

// splitSudo cuts a list at a separator that no backslash hides.
func splitSudo(list string, at byte) (all []string) {
	begin := 0
	for i := range len(list) {
		if list[i] == at && (i == 0 || list[i-1] != '\\') {
			all = append(all, strings.TrimSpace(list[begin:i]))
			begin = i + 1
		}
	}
	return append(all, strings.TrimSpace(list[begin:]))
}

func (r *sudoReader) notUnderstood(s sudoLine, why string) {
	r.l.note(Unread{Place: Place{File: s.file, Line: s.line}, Err: errors.New(why)})
}

// meaning is what a word of a list stands for: itself, or what an alias has, of
// which some may be aliases.
func (r *sudoReader) meaning(word string, seen map[string]bool) (all []string) {
	some, ok := r.aliases[word]
	if !ok {
		return []string{word}
	}
	for _, w := range some {
		if !seen[w] {
			seen[w] = true
			all = append(all, r.meaning(w, seen)...)
		}
	}
	return all
}

func (r *sudoReader) spec(s sudoLine) {
	f := sudoSpec().FindStringSubmatch(s.text)
	if f == nil {
		r.notUnderstood(s, "not understood: no line such as: USER HOST = (RUNAS) COMMAND")
		return
	}
	var whom []string
	for _, who := range splitSudo(f[1], ',') {
		whom = append(whom, r.meaning(who, map[string]bool{})...)
	}
	runAs, noPassword := "root", false
	for _, command := range splitSudo(f[3], ',') {
		for again := true; again; {
			again = false
			if m := sudoRunAs().FindStringSubmatch(command); m != nil {
				runAs, command, again = m[1], command[len(m[0]):], true
			}
			if m := sudoTag().FindStringSubmatch(command); m != nil {
				if m[2] == "PASSWD" {
					noPassword = m[1] == "NO"
				}
				command, again = command[len(m[0]):], true
			}
			for _, drop := range []*regexp.Regexp{sudoOption(), sudoDigest()} {
				if m := drop.FindString(command); m != "" {
					command, again = command[len(m):], true
				}
			}
		}
		for _, c := range r.meaning(command, map[string]bool{}) {
			if len(splitSudo(c, ':')) > 1 && strings.Contains(c, "=") {
				r.notUnderstood(s, "not understood: a second list behind a colon")
				return
			}
			for _, who := range whom {
				rule := SudoRule{File: s.file, Line: s.line, Who: who, RunAs: runAs, NoPassword: noPassword, Command: strings.Join(strings.Fields(c), " ")}
				if !slices.Contains(r.l.Sudo, rule) {
					r.l.Sudo = append(r.l.Sudo, rule)
				}
			}
		}
	}
}
