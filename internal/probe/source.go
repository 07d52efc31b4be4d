package probe

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"kido/internal/wire"
)

// Where a secret is, as a line and a site file say: in a file, in an environment
// variable, or among what systemd hands to a unit (LoadCredential=). Never the
// secret itself.
const (
	sourceFile       = "file:"
	sourceEnv        = "env:"
	sourceCredential = "credential:"

	maxSecret = 512 << 10 // bytes; a file of authorities is the longest
)

func checkSource(v string) error {
	kind, name, _ := strings.Cut(v, ":")
	ok := name != "" && isGraphic(name)
	switch kind + ":" {
	case sourceFile:
		ok = ok && path.IsAbs(name)
	case sourceEnv:
		ok = ok && !strings.Contains(name, "=")
	case sourceCredential:
		ok = ok && !strings.Contains(name, "/") && name != "." && name != ".."
	default:
		ok = false
	}
	if !ok { // and it is not repeated: it may be the secret
		return errors.New("a secret is named by file:/PATH, env:VARIABLE or credential:NAME, and never written here")
	}
	return nil
}

// Load returns s with what is behind its options that name a source, read by this
// process. A secret that everybody may read is refused, for it is none, and so is
// what everybody may change. The parts of a combination are loaded each on its own.
func (s Spec) Load() (Spec, error) {
	sort := sorts()[s.Kind]
	for _, name := range slices.Sorted(maps.Keys(s.Options)) {
		o, _ := sort.Option(name)
		if _, loaded := s.Secrets[name]; !o.Source || loaded {
			continue
		}
		text, err := read(s.Options[name], o.Secret)
		if err != nil {
			return s, fmt.Errorf("its %s: %w", name, err)
		}
		s.Secrets = maps.Clone(s.Secrets)
		if s.Secrets == nil {
			s.Secrets = Secrets{}
		}
		s.Secrets[name] = text
	}
	return s, nil
}

func read(from string, secret bool) ([]byte, error) {
	kind, name, _ := strings.Cut(from, ":")
	var text []byte
	var err error
	switch kind + ":" {
	case sourceFile:
		text, err = readFile(name, secret)
	case sourceCredential:
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, fmt.Errorf("there are no credentials: systemd hands %s to a unit that has LoadCredential=%[1]s:PATH", name)
		}
		text, err = readFile(filepath.Join(dir, name), secret)
	default:
		value, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("the environment variable %s is not set", name)
		}
		text = []byte(value)
	}
	if err != nil {
		return nil, err
	}
	if text = trimNewline(text); len(text) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}
	return text, nil
}

func readFile(name string, secret bool) ([]byte, error) {
	f, info, err := openFile(name)
	switch {
	case errors.Is(err, os.ErrPermission) && secret:
		// Who asks is mostly a gate, and its user's group is called as it is.
		return nil, fmt.Errorf("%w; for user kido: chgrp kido %s, chmod 640, and let it into the folder", err, name)
	case err != nil:
		return nil, err
	}
	defer f.Close()
	if others := info.Mode().Perm() & 0o006; others&0o002 != 0 || secret && others != 0 {
		return nil, fmt.Errorf("%s may be read or changed by everybody: chmod o= %[1]s", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %v", name, errno(err))
	case len(text) > maxSecret:
		return nil, fmt.Errorf("%s is over %d KiB", name, maxSecret>>10)
	}
	return text, nil
}

// openFile opens a file to read, and nothing that only looks like one: to open or read a
// pipe or a device may take for ever, or do something.
func openFile(name string) (*os.File, os.FileInfo, error) {
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a file", name)
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	}
	if err == nil {
		if info, err = f.Stat(); err == nil && info.Mode().IsRegular() {
			return f, info, nil
		}
		f.Close()
	}
	if err == nil { // it was changed meanwhile
		return nil, nil, fmt.Errorf("%s is not a file", name)
	}
	return nil, nil, fmt.Errorf("%s: %w", name, errno(err))
}

// trimNewline takes away the one that an editor puts behind a password.
func trimNewline(text []byte) []byte {
	return []byte(strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"))
}

// hide takes secrets out of a text that came from elsewhere, in the spellings that
// libraries, servers and this package use, and of one that was cut off its beginning.
func (s Spec) hide(word string) string {
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		secret := string(s.Secrets[name])
		if o, _ := sorts()[s.Kind].Option(name); !o.Secret || secret == "" {
			continue
		}
		quoted := strconv.Quote(secret)
		for _, sent := range []string{
			secret, quoted[1 : len(quoted)-1], url.QueryEscape(secret), url.PathEscape(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)),
			base64.StdEncoding.EncodeToString([]byte(s.Options["user"] + ":" + secret)),
		} {
			for _, spelling := range []string{sent, Printable(sent), joined.Replace(sent)} {
				word = mask(word, spelling)
			}
		}
	}
	return word
}

func mask(word, secret string) string {
	const stars, shortest = "***", 4
	if secret == "" {
		return word
	}
	word = strings.ReplaceAll(word, secret, stars)
	for n := min(len(secret)-1, len(word)); n >= shortest && len(word) > maxWord-utf8.UTFMax; n-- {
		if rest, cut := strings.CutSuffix(word, secret[:n]); cut {
			return rest + stars
		}
	}
	return word
}

// Secret is what is behind an option that names a source; "" where it is not given.
func (s Spec) Secret(option string) string { return string(s.Secrets[option]) }

// Described is s in words for people, without its options: "postgres db1:5432".
func (s Spec) Described() string {
	switch sorts()[s.Kind].Form {
	case FormArgv:
		return wire.FormatLine(string(s.Kind), first(s.Argv)) // its arguments are nobody else's business
	case FormURL:
		return s.Target
	case FormParts:
		parts := make([]string, len(s.Of))
		for i, part := range s.Of {
			parts[i] = part.Described()
		}
		if s.Kind == KindNot {
			return "not " + parts[0]
		}
		return string(s.Kind) + " of (" + strings.Join(parts, ", ") + ")"
	}
	return wire.FormatLine(string(s.Kind), s.Target)
}
