package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/remote"
	"kido/internal/site"
)

// keyKind says whose a key is.
type keyKind string

const (
	kindIdentity  keyKind = "identity"  // this machine signs with it
	kindPlain     keyKind = "plain key" // as identity, for one plain service
	kindHost      keyKind = "host"      // it announces
	kindPerson    keyKind = "person"
	kindAuthority keyKind = "authority"
	kindRevoked   keyKind = "revoked"
	kindHostKey   keyKind = "host key" // a host's sshd has it
)

// The states of a key.
const (
	stateUsed    = "in use"
	stateNext    = "next"    // it is to take the place of the one in use
	stateRetired = "retired" // it gave its place to another
	stateRevoked = "revoked"
	stateUnknown = "unknown host" // no host of the site: it may do nothing, or is not looked at
	stateRefused = "refused"      // it is not one that kido takes
)

// listedKey is a key that the site knows, as kido keys list shows it.
type listedKey struct {
	Kind        keyKind  `json:"kind"`
	Name        string   `json:"name,omitempty"`
	State       string   `json:"state"`
	Type        string   `json:"type,omitempty"`
	Fingerprint string   `json:"fingerprint,omitempty"`
	From        []string `json:"from,omitempty"`
	May         string   `json:"may,omitempty"`
	File        string   `json:"file"`
	Line        int      `json:"line,omitempty"` // none of this machine's own
	Comment     string   `json:"comment,omitempty"`
}

func (a *app) keysList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list every key that the site knows, and what it may do",
		Long: `List this machine's key, the public keys beside the site file (of hosts, people,
certificate authorities, and the revoked ones) and the pinned host keys: whose
each is, its state and fingerprint, the file that has it, from where it may come
and what it may do. Connects to nothing. Of a key of this machine's own it looks
whether the private half is that of the public one.

A key is in use, next (it takes the place of the one in use), retired, revoked,
of an unknown host (one that the site file does not name), or refused (kido does
not take it). What cannot be read is named on standard error, and the exit
status is 1; the rest is listed all the same.`,
		Args: exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			all, problems := listKeys(s)
			if err := a.writeKeys(all, problems); err != nil {
				return err
			}
			if len(problems) > 0 {
				return &failure{status: exitFailed}
			}
			return nil
		},
	}
}

func (a *app) writeKeys(all []listedKey, problems []error) error {
	for _, err := range problems {
		fmt.Fprintln(a.stderr, "kido:", oneLine(err.Error()))
	}
	if a.json() {
		return a.writeJSON(map[string][]listedKey{"keys": append([]listedKey{}, all...)})
	}
	who := func(k listedKey) string { return oneLine(strings.TrimSpace(string(k.Kind) + " " + k.Name)) }
	first, second := len("WHOSE"), len("STATE")
	for _, k := range all {
		second = max(second, len(k.State))
	}
	widest := helpWidth - len("  SHA256:") - 43 - len("  ") - second // what the rest leaves of a line
	for _, k := range all {
		if n := len(who(k)); n <= widest {
			first = max(first, n)
		}
	}
	row := func(cells ...string) error {
		_, err := fmt.Fprintf(a.stdout, "%-*s  %-*s  %s\n", first, cells[0], second, cells[1], cells[2])
		return err
	}
	if len(all) > 0 {
		if err := row("WHOSE", "STATE", "FINGERPRINT, FILE"); err != nil {
			return err
		}
	}
	for _, k := range all {
		if err := row(who(k), k.State, k.Fingerprint); err != nil {
			return err
		}
		words := []string{k.File}
		if k.Line > 0 {
			words[0] = fmt.Sprintf("%s:%d", k.File, k.Line)
		}
		if k.From != nil {
			words = append(words, "from "+strings.Join(k.From, ","))
		}
		if k.May != "" {
			words = append(words, k.May)
		}
		if _, err := fmt.Fprintf(a.stdout, "  %s\n", oneLine(strings.Join(words, "; "))); err != nil {
			return err
		}
	}
	return nil
}

// listKeys collects the keys that a site knows; what cannot be read is a
// problem, and holds up nothing else.
func listKeys(s *site.Site) (all []listedKey, problems []error) {
	all, problems = identities(s)
	next := map[string]bool{}
	for _, k := range all {
		next[k.Fingerprint] = k.State == stateNext
	}
	ring, bad := readRing(s)
	problems = append(problems, bad...)
	revoked := map[string]bool{}
	for _, k := range ring {
		l := listedKey{
			Kind: k.kind, Name: k.name, State: stateUsed, Type: k.key.Type, Fingerprint: k.key.Fingerprint,
			From: k.from, File: k.file, Line: k.line, Comment: k.comment,
		}
		switch k.kind {
		case kindRevoked:
			l.State, revoked[l.Fingerprint] = stateRevoked, true
		case kindPerson:
			l.May = "may do everything at every host"
		case kindAuthority:
			l.May = "signs certificates of hosts and people"
		case kindHost:
			if s.Host(k.name) == nil {
				l.State = stateUnknown
				break
			}
			l.From, l.May = k.comesFrom(s), reach(s, k.name)
		}
		if next[l.Fingerprint] {
			l.State = stateNext
		}
		if k.err != nil && k.kind != kindRevoked {
			l.State = stateRefused
		}
		all = append(all, l)
	}
	for i, k := range all {
		if revoked[k.Fingerprint] {
			all[i].State = stateRevoked
		}
	}
	if len(bad) == 0 {
		// Whoever uses the ring takes it as a whole; what else is wrong in it he says.
		if _, err := install.LoadKeyring(ringOf(s), s); err != nil {
			problems = append(problems, err)
		}
	}
	pins, bad := pinnedKeys(s)
	return append(all, pins...), append(problems, bad...)
}

// identities are the keys that this machine signs with.
func identities(s *site.Site) (all []listedKey, problems []error) {
	type own struct {
		kind       keyKind
		name, path string
	}
	paths := []own{{kindIdentity, "", s.Identity}}
	for _, v := range s.Services {
		if v.Adapter.Key != "" && v.Adapter.Key != s.Identity {
			paths = append(paths, own{kindPlain, v.Name, v.Adapter.Key})
		}
	}
	for _, o := range paths {
		pair, err := keys.LoadRotation(o.path)
		if errors.Is(err, os.ErrNotExist) {
			if _, serr := os.Lstat(o.path); serr != nil {
				continue // the key of another machine, or of none yet
			}
		}
		if err != nil {
			problems = append(problems, err)
		}
		for _, k := range []struct{ public, state, private string }{
			{pair.Current, stateUsed, o.path},
			{pair.Next, stateNext, keys.NextPath(o.path)},
			{pair.Old, stateRetired, ""},
		} {
			if k.public == "" {
				continue
			}
			line := keys.ParseLines(k.public)[0]
			l := listedKey{
				Kind: o.kind, Name: o.name, State: k.state, Type: line.Key.Type, Fingerprint: line.Key.Fingerprint,
				File: o.path, Comment: line.Comment, May: "this machine signs with it",
			}
			if k.private != "" {
				// Who may not read the private key is no wiser than before.
				if err := keys.Matches(k.private); err != nil && !errors.Is(err, os.ErrPermission) {
					problems = append(problems, err)
					l.State = stateRefused
				}
			}
			if l.State != stateUsed {
				l.May = ""
			}
			all = append(all, l)
		}
	}
	return all, problems
}

// reach says where the announcements of a host ask for something.
func reach(s *site.Site, host string) string {
	var names []string
	for _, i := range install.Reach(s, host) {
		if i.Host != host && !slices.Contains(names, i.Host) {
			names = append(names, i.Host)
		}
	}
	switch {
	case len(names) == 0:
		return "may do nothing: no other host depends on it"
	case len(names) > 8:
		names = append(names[:8], "…")
	}
	return "announces to " + strings.Join(names, ", ")
}

// ringKey is a line of the ring, whatever it is worth.
type ringKey struct {
	kind    keyKind
	name    string // of the host, person or authority
	file    string
	line    int
	from    []string // as written; none where it does not say
	key     keys.Blob
	comment string
	err     error // why kido does not take it
}

func (k ringKey) place() string { return fmt.Sprintf("%s:%d", k.file, k.line) }

// comesFrom is where a key may be used from.
func (k ringKey) comesFrom(s *site.Site) []string {
	if h := s.Host(k.name); len(k.from) == 0 && k.kind == kindHost && h != nil {
		return []string{h.Address}
	}
	return k.from
}

// readRing reads every line of the public keys beside a site file, one by one:
// unlike [install.LoadKeyring], which is what gives them rights, it goes on where
// something is wrong.
func readRing(s *site.Site) (all []ringKey, problems []error) {
	ring := ringOf(s)
	files, err := ringFiles(ring)
	if err != nil {
		problems = append(problems, err)
	}
	if _, err := os.Lstat(filepath.Join(ring, install.RevokedFile)); err == nil {
		files = append(files, filepath.Join(ring, install.RevokedFile))
	}
	for _, file := range files {
		k := ringKey{file: file, name: strings.TrimSuffix(filepath.Base(file), ".pub")}
		switch filepath.Dir(file) {
		case filepath.Join(ring, install.PeopleFolder):
			k.kind = kindPerson
		case filepath.Join(ring, install.AuthoritiesFolder):
			k.kind = kindAuthority
		default:
			k.kind = kindHost
		}
		if file == filepath.Join(ring, install.RevokedFile) {
			k.kind, k.name = kindRevoked, ""
		}
		text, err := readRingFile(file)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		for _, l := range keys.ParseLines(text) {
			k.line, k.key, k.comment = l.Number, l.Key, l.Comment
			k.from = nil
			if l.Options.Sourced {
				k.from = strings.Split(l.Options.From, ",")
			}
			_, k.err = keys.Fingerprint(l.Key.Public)
			if l.Ignored != "" {
				k.err = errors.New(l.Ignored)
			}
			if k.err != nil && k.kind != kindRevoked || k.key.Public == "" {
				problems = append(problems, fmt.Errorf("%s: %w", k.place(), k.err))
			}
			if k.key.Public != "" {
				all = append(all, k)
			}
		}
	}
	return all, problems
}

// pinnedKeys are the lines of the pinned host keys, by host.
func pinnedKeys(s *site.Site) (all []listedKey, problems []error) {
	text, err := os.ReadFile(s.KnownHosts)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []error{err}
	}
	lines := strings.Split(string(text), "\n")
	if _, err := remote.ParsePins(text, s.KnownHosts); err != nil {
		problems = append(problems, apart(err)...)
		for n, line := range lines {
			if _, err := remote.ParsePins([]byte(line), s.KnownHosts); err != nil {
				lines[n] = ""
			}
		}
	}
	pins, err := remote.ParsePins([]byte(strings.Join(lines, "\n")), s.KnownHosts)
	if err != nil {
		return nil, append(problems, err)
	}
	names := map[int][]string{} // hosts that a line is for, by number
	for _, h := range s.Hosts {
		for _, p := range pins.Lookup(h.Name, h.Address, h.Port) {
			names[p.Line] = append(names[p.Line], h.Name)
		}
	}
	revoked := map[string]bool{}
	for n, line := range lines {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		l := listedKey{Kind: kindHostKey, State: stateUsed, File: s.KnownHosts, Line: n + 1}
		if fields[0][0] == '@' {
			l.State, fields = stateRevoked, fields[1:]
		}
		key, err := keys.ParseBlob(strings.Join(fields[1:3], " "))
		if err != nil {
			problems = append(problems, fmt.Errorf("%s:%d: %w", l.File, l.Line, err))
			continue
		}
		l.Type, l.Fingerprint, l.Comment = key.Type, key.Fingerprint, strings.Join(fields[3:], " ")
		l.Name = strings.Join(names[l.Line], ",")
		switch {
		case l.State == stateRevoked:
			revoked[l.Fingerprint] = true
		case l.Name == "":
			l.Name, l.State = fields[0], stateUnknown
		}
		all = append(all, l)
	}
	for i, k := range all {
		if revoked[k.Fingerprint] {
			all[i].State = stateRevoked
		}
	}
	return all, problems
}

// apart are the errors that were joined to one.
func apart(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
