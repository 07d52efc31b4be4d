package audit

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// connection is one that sshd is asked about.
type connection struct {
	addr    string // comes from; "" for nobody's address
	host    string // its name; "": addr
	laddr   string // comes to; "": loopback
	lport   string // "": 22
	rdomain string
	args    string // what sshd is started with, as [Started] has it
}

// String says which it is, "" where nothing does.
func (c connection) String() string {
	from := c.addr
	if from == "" && c.host != "" {
		from = "a host"
	}
	var s []string
	for _, word := range []struct{ what, value string }{
		{"from", from},
		{"called", c.host},
		{"at", c.laddr},
		{"on port", c.lport},
		{"in routing domain", c.rdomain},
		{"where sshd is started with", strings.ReplaceAll(c.args, "\x00", " ")},
	} {
		if word.value != "" {
			s = append(s, word.what, word.value)
		}
	}
	return strings.Join(s, " ")
}

// over is c, and what it leaves open as base has it.
func (c connection) over(base connection) connection {
	for _, f := range []struct {
		to   *string
		from string
	}{{&c.addr, base.addr}, {&c.host, base.host}, {&c.laddr, base.laddr}, {&c.lport, base.lport}, {&c.rdomain, base.rdomain}} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
	return c
}

// The bounds of what is followed.
const (
	deepest         = 16   // files from one to the next; sshd takes no more
	mostFiles       = 1000 // with those that are included more than once
	mostConnections = 64
)

// sshdReader reads sshd's files as sshd does (its servconf.c): for who can write
// them, and for the connections that their Match lines tell from others: what sshd
// does for such may be all that is wrong with it.
type sshdReader struct {
	l       *looker
	seen    map[string]bool
	matched []connection
}

// file reads a file that is in force for the connections of outer.
func (r *sshdReader) file(name string, depth int, outer []connection) {
	id := fmt.Sprint(name, outer)
	switch {
	case r.seen[id]:
		return
	case depth > deepest:
		r.l.unread(name, fmt.Errorf("sshd takes no file by way of more than %d others", deepest))
		return
	case len(r.seen) == mostFiles:
		r.l.unread(name, fmt.Errorf("more than %d files are included", mostFiles))
		return
	}
	r.seen[id] = true
	r.writable(name)
	inside, match, n := outer, false, 0
	for line := range strings.Lines(string(r.l.read(name))) {
		n++
		keyword, rest := directive(line)
		switch strings.ToLower(keyword) {
		case "match":
			match = true
			inside = r.match(name, outer, rest)
		case "include":
			for _, pattern := range splitWords(rest) {
				if folder := path.Dir(inSSH(pattern)); !match && name == sshdConfig && path.Base(pattern) == "*.conf" && !strings.ContainsAny(folder, globbing) {
					r.l.Server.Folder = folder
				}
				files, err := r.glob(inSSH(pattern))
				if err != nil {
					r.l.note(Unread{Place: Place{File: name, Line: n}, Err: fmt.Errorf("what is included by %s is not known: %w", pattern, err), Grants: true})
				}
				for _, file := range files {
					r.file(file, depth+1, inside)
				}
			}
		}
	}
}

// writable has it looked at who can write a file of sshd's, or put one into a folder
// that sshd looks into.
func (r *sshdReader) writable(name string) {
	c := r.l.chain(name)
	if c != nil && !slices.ContainsFunc(r.l.Server.ConfigFiles, func(other Chain) bool { return other.Path() == c.Path() }) {
		r.l.Server.ConfigFiles = append(r.l.Server.ConfigFiles, c)
	}
}

// inSSH is where sshd looks for a file that it is to include.
func inSSH(pattern string) string {
	if strings.HasPrefix(pattern, "/") || strings.HasPrefix(pattern, "~") {
		return pattern
	}
	return "/etc/ssh/" + pattern
}

// directive is the keyword of a line of sshd's configuration, "" where there is
// none, and what stands behind it.
func directive(line string) (keyword, rest string) {
	line, quoted := strings.CutPrefix(strings.Trim(line, " \t\r\n\f"), `"`)
	if line == "" || line[0] == '#' {
		return "", ""
	}
	end := strings.IndexAny(line+" ", " \t\"=")
	keyword, rest = line[:end], line[end:]
	if quoted {
		rest = strings.TrimPrefix(rest, `"`)
	}
	rest = strings.TrimPrefix(strings.TrimLeft(rest, " \t"), "=")
	return keyword, strings.TrimLeft(rest, " \t")
}

// splitWords cuts what stands behind a keyword, as sshd's argv_split does.
func splitWords(text string) (words []string) {
	var word []byte
	inWord, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		c, next := text[i], byte(0)
		if i+1 < len(text) {
			next = text[i+1]
		}
		blank := c == ' ' || c == '\t'
		switch {
		case !inWord && blank:
			continue
		case !inWord && c == '#':
			return words
		case quote == 0 && blank:
			words = append(words, string(word))
			word, inWord = nil, false
			continue
		case c == '\\' && (next == '\'' || next == '"' || next == '\\' || next == ' ' && quote == 0):
			i++
			word = append(word, next)
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		default:
			word = append(word, c)
		}
		inWord = true
	}
	if inWord {
		words = append(words, string(word))
	}
	return words
}

// globbing is what makes a pattern of a path.
const globbing = `*?[\`

// asGo makes a pattern of glob(3) one of path.Match.
var asGo = strings.NewReplacer(`\\`, `\\`, `\[`, `\[`, "[!", "[^", "[^", `[\^`)

// glob lists the files that a pattern stands for, as glob(3) does. Its error says
// why that is not known.
func (r *sshdReader) glob(pattern string) (files []string, err error) {
	if !strings.HasPrefix(pattern, "/") {
		return nil, errors.New("sshd takes it from the folder in which it was started")
	}
	files = []string{"/"}
	for part := range strings.SplitSeq(pattern, "/") {
		var next []string
		match := asGo.Replace(part)
		_, err := path.Match(match, "")
		if err != nil || strings.Contains(part, "[:") {
			return nil, errors.New("no pattern that is understood")
		}
		for _, folder := range files {
			if !strings.ContainsAny(part, globbing) {
				next = append(next, path.Join(folder, part))
				continue
			}
			r.writable(folder)
			for _, file := range r.l.list(folder) {
				name := path.Base(file)
				hidden := name[0] == '.' && part[0] != '.'
				if ok, _ := path.Match(match, name); ok && !hidden {
					next = append(next, file)
				}
			}
		}
		files = next
	}
	return slices.DeleteFunc(files, func(file string) bool { return !r.l.exists(file) }), nil
}

var equals = expression(`\s*=\s*`)

// match is which connections the block of a Match line is for, inside of those of
// outer.
func (r *sshdReader) match(name string, outer []connection, criteria string) (inside []connection) {
	var c connection
	from := []string{""}
	words := splitWords(equals().ReplaceAllString(criteria, " "))
	for n := 0; n+1 < len(words); n += 2 {
		patterns := strings.Split(words[n+1], ",")
		first := ""
		if i := slices.IndexFunc(patterns, func(p string) bool { return !strings.HasPrefix(p, "!") }); i >= 0 {
			first = matching(patterns[i])
		}
		switch strings.ToLower(words[n]) {
		case "all", "invalid-user":
			n-- // they have no pattern
		case "address":
			from = patterns
		case "host":
			c.host = first
		case "localaddress":
			c.laddr = r.whole(name, first)
		case "localport":
			c.lport = first
		case "rdomain":
			c.rdomain = first
		}
	}
	for _, pattern := range from {
		c.addr = r.whole(name, matching(pattern))
		for _, o := range outer {
			// Each of the two may be the narrower.
			for _, both := range []connection{c.over(o), o.over(c)} {
				switch {
				case slices.Contains(inside, both):
				case len(inside) == mostConnections:
					r.tooMany(name)
					return inside
				default:
					inside = append(inside, both)
					r.asks(name, both)
				}
			}
		}
	}
	return inside
}

// asks has sshd asked about a connection.
func (r *sshdReader) asks(name string, c connection) {
	switch {
	case c == connection{} || slices.Contains(r.matched, c):
	case len(r.matched) == mostConnections:
		r.tooMany(name)
	default:
		r.matched = append(r.matched, c)
	}
}

func (r *sshdReader) tooMany(name string) {
	r.l.unread(name, fmt.Errorf("more than %d kinds of connections are told apart by Match", mostConnections))
}

// matching is something that a pattern matches: whatever * and ? stand for, there is
// a 1. Of a prefix it is the first address: sshd takes none with bits behind it.
func matching(pattern string) string {
	pattern, _, _ = strings.Cut(strings.TrimPrefix(pattern, "!"), "/")
	return strings.NewReplacer("*", "1", "?", "1").Replace(pattern)
}

// whole is an address that a pattern matches of which each * is a 1: that may have
// stood for several numbers. "" is none.
func (r *sshdReader) whole(name, pattern string) string {
	for a := pattern; a != "" && strings.Count(a, ".") < 4; a += ".1" {
		for _, end := range []string{"", "::1"} {
			if addr, err := netip.ParseAddr(a + end); err == nil {
				return addr.String()
			}
		}
	}
	if pattern != "" {
		r.l.unread(name, fmt.Errorf("what Match has for the addresses %q is not followed", pattern))
	}
	return ""
}

// Where it stands what sshd is started with: files of init's, and units.
var (
	sshdDefaults    = []string{"/etc/default/ssh", "/etc/default/sshd", "/etc/sysconfig/ssh", "/etc/sysconfig/sshd", "/etc/conf.d/ssh", "/etc/conf.d/sshd"}
	sshdUnitFolders = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
	sshdUnits       = []string{"ssh.service", "sshd.service", "ssh@.service", "sshd@.service"}
	sshdStart       = expression(`(?m)^[ \t]*(?:ExecStart=[-@:+!|]*\S*/sshd[ \t]+|(?:export[ \t]+|Environment=["']?)?(?i:SSHD_OPTS|SSHD_OPTIONS|OPTIONS)=)(.*)$`)
)

// started finds what sshd is started with that its files do not show: by init, and
// as it runs now.
func (l *looker) started() {
	files := slices.Clone(sshdDefaults)
	for _, folder := range sshdUnitFolders {
		for _, unit := range sshdUnits {
			unit = path.Join(folder, unit)
			files = append(append(files, unit), l.list(unit+".d")...)
		}
	}
	for _, file := range files {
		text := l.read(file)
		text = bytes.ReplaceAll(text, []byte("\\\n"), []byte("  ")) // a line of a unit goes on
		for _, m := range sshdStart().FindAllSubmatchIndex(text, -1) {
			l.start(Place{File: file, Line: 1 + bytes.Count(text[:m[2]], []byte("\n"))}, string(text[m[2]:m[3]]))
		}
	}
	here, err := os.Stat(l.path("/"))
	if err != nil {
		return
	}
	for _, process := range l.list("/proc") {
		exe, _ := os.Readlink(l.path(process + "/exe"))
		if path.Base(strings.TrimSuffix(exe, " (deleted)")) != "sshd" {
			continue
		}
		if root, err := os.Stat(l.path(process + "/root")); err != nil || !os.SameFile(root, here) {
			continue // a container's: with accounts and files of its own
		}
		line, err := os.ReadFile(l.path(process + "/cmdline"))
		if err != nil {
			continue // it has ended
		}
		words := string(bytes.ReplaceAll(line, []byte{0}, []byte(" ")))
		if title, ok := strings.CutPrefix(words, "sshd: "); ok {
			if words, _, ok = strings.Cut(title, " [listener]"); !ok {
				continue // a connection's
			}
		}
		l.start(Place{File: "sshd"}, words)
	}
}

// start notes what a command line of sshd has of -o and -f. A running sshd shows no
// quotes, and so none are looked at: a value goes up to the next option.
func (l *looker) start(place Place, line string) {
	words := slices.DeleteFunc(strings.Fields(strings.NewReplacer(`"`, " ", `'`, " ").Replace(line)), func(word string) bool {
		return strings.HasPrefix(word, "$") // what that holds stands where it is set
	})
	if i := slices.IndexFunc(words, func(word string) bool { return word[0] == '#' }); i >= 0 {
		words = words[:i]
	}
	var args []string
	for i := 0; i < len(words); i++ {
		at := 1
		for words[i][0] == '-' && at < len(words[i]) && strings.IndexByte("CEbcfghkopu", words[i][at]) < 0 {
			at++ // an option without a value
		}
		if words[i][0] != '-' || at == len(words[i]) {
			continue
		}
		option, value := words[i][at], words[i][at+1:]
		for i+1 < len(words) && words[i+1][0] != '-' && (value == "" || option == 'o') {
			i++
			value = strings.TrimSpace(value + " " + words[i])
		}
		if value != "" && (option == 'o' || option == 'f' && value != sshdConfig) {
			args = append(args, "-"+string(option), value)
		}
	}
	s := Started{place, strings.Join(args, "\x00")}
	switch same := func(other Started) bool { return other.Args == s.Args }; {
	case len(args) == 0 || slices.ContainsFunc(l.Server.Started, same):
	case strings.Contains(s.Args, "$"):
		l.note(Unread{Place: place, Err: fmt.Errorf("sshd is started with %s, and what $ stands for is not followed", strings.Join(args, " ")), Grants: true})
	default:
		l.Server.Started = append(l.Server.Started, s)
	}
}

// alsoFile is the file that is read in the place of sshd's own, "" for none.
func (s Started) alsoFile() string {
	args := strings.Split(s.Args, "\x00")
	for i := len(args) - 2; i >= 0; i -= 2 { // of several the last counts
		if args[i] == "-f" {
			return filepath.Clean(args[i+1])
		}
	}
	return ""
}
