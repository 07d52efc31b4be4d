package install

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"kido/internal/keys"
	"kido/internal/site"
)

// What is in the folder of keys beside those of hosts. People's are apart so that
// a host's key does not become a person's when its host leaves the site.
const (
	PeopleFolder      = "people"
	AuthoritiesFolder = "authorities"
	RevokedFile       = "revoked"
)

// Keyring is the public keys that may come to the hosts of a site, and those that
// may no more: a folder keys beside the site file.
type Keyring struct {
	Hosts       map[string][]Key // by host: HOST.pub
	People      []Person         // sorted by name: people/NAME.pub
	Authorities []Key            // who may sign certificates: authorities/NAME.pub
	Revoked     []Key            // what may be nothing anywhere: revoked
	Warnings    []string         // of what grants nothing
	Coming      Coming

	texts map[string]string // by path in the folder
}

// Coming says which keys need not be asked for, since kido enroll brings them.
type Coming string

// What is brought.
const (
	ComingNone Coming = ""     // it is not kido enroll that asks
	ComingSome Coming = "some" // those of the hosts that are named to it
	ComingAll  Coming = "all"  // also those that are missing here by now
)

// missing is the word of a key that is not here: "" where it comes by itself. byHand is
// what else is to be done about it, as enrol is where kido enroll asks.
func (c Coming) missing(what, byHand, enrol string) string {
	switch c {
	case ComingAll:
		return ""
	case ComingSome:
		return what + ": " + enrol
	}
	return what + ": " + byHand
}

// Person is somebody who may do everything at every host.
type Person struct {
	Name string
	Keys []Key
}

// Key is a public key and where it may come from.
type Key struct {
	Public      string   // TYPE BASE64 COMMENT
	From        []string // IP addresses and CIDR prefixes; none: the host's own address
	Fingerprint string
}

func fingerprints(all []Key) (ids []string) {
	for _, k := range all {
		if !slices.Contains(ids, k.Fingerprint) {
			ids = append(ids, k.Fingerprint)
		}
	}
	return ids
}

// maxPerson is how long a person's name may be, in bytes: a host's name is no longer,
// and every gate takes it.
const maxPerson = 63

// LoadKeyring reads the *.pub files of a folder: HOST.pub of the site's hosts,
// people/NAME.pub, authorities/NAME.pub, and the file revoked. Each holds one key
// a line, as its .pub file has it, with from="ADDRESS,…" in front: of a host's key
// that is only needed where it comes from another address than the site file
// names. Empty lines and those that begin with # are passed over. X.pub grants
// nothing where the site has no host X: it is not read, and warned of. A revoked
// key is left out of all the others, and warned of. A folder that is not there
// holds no keys.
func LoadKeyring(dir string, s *site.Site) (*Keyring, error) {
	r := &Keyring{Hosts: map[string][]Key{}, texts: map[string]string{}}
	if err := r.loadRevoked(dir); err != nil {
		return nil, err
	}
	names, err := publicKeys(dir)
	if err != nil {
		return nil, err
	}
	whose := map[string]string{} // fingerprint → host
	for _, name := range names {
		if s.Host(name) == nil {
			// %q without its quotes: the name is anything that a file can have.
			shown := strings.Trim(fmt.Sprintf("%q", name), `"`)
			r.Warnings = append(r.Warnings, fmt.Sprintf("keys/%s.pub: the site has no host %[1]s: its key may do nothing; remove the file, or, for a person's key, move it to keys/%s/", shown, PeopleFolder))
			continue
		}
		found, err := r.load(dir, name+".pub", func(k Key) error {
			if other := whose[k.Fingerprint]; other != "" && other != name {
				return fmt.Errorf("this is the key of %s too: each host has its own", other)
			}
			whose[k.Fingerprint] = name
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			r.Hosts[name] = found
		}
	}
	if names, err = publicKeys(filepath.Join(dir, PeopleFolder)); err != nil {
		return nil, err
	}
	for _, name := range names {
		file := filepath.Join(PeopleFolder, name+".pub")
		if len(name) > maxPerson || name == principalHere || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || strings.IndexAny(name, "._-") == 0 {
			return nil, fmt.Errorf("%q: a person's key is named after its owner, in at most %d letters, digits and . _ -, and not %s: rename it", filepath.Join(dir, file), maxPerson, principalHere)
		}
		found, err := r.load(dir, file, func(k Key) error {
			if len(k.From) == 0 {
				return errors.New(`it does not say where it may come from: put from="ADDRESS" and a blank in front`)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			r.People = append(r.People, Person{name, found})
		}
	}
	if names, err = publicKeys(filepath.Join(dir, AuthoritiesFolder)); err != nil {
		return nil, err
	}
	for _, name := range names {
		found, err := r.load(dir, filepath.Join(AuthoritiesFolder, name+".pub"), func(k Key) error {
			if len(k.From) > 0 {
				return errors.New("each certificate says where it may come from: take from= away from the key of who signs them")
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for _, k := range found {
			if !slices.ContainsFunc(r.Authorities, k.is) {
				r.Authorities = append(r.Authorities, k)
			}
		}
	}
	return r, nil
}

func (k Key) is(other Key) bool { return k.Fingerprint == other.Fingerprint }

// publicKeys lists the *.pub files of a folder without that end, sorted.
func publicKeys(dir string) (names []string, err error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the folder of public keys: %w", err)
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".pub"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// load reads the keys of one file and keeps its text. Those that are revoked it
// does not return.
func (r *Keyring) load(dir, file string, check func(Key) error) (found []Key, err error) {
	empty := true
	text, err := eachLine(filepath.Join(dir, file), func(n int, line string) error {
		empty = false
		k, err := parseKey(line)
		switch {
		case err != nil:
			return err
		case slices.ContainsFunc(r.Revoked, k.is):
			r.Warnings = append(r.Warnings, fmt.Sprintf("keys/%s:%d: this key is revoked (keys/%s) and may do nothing: remove the line", file, n, RevokedFile))
			return nil
		}
		found = append(found, k)
		return check(k)
	})
	if err != nil {
		return nil, err
	}
	if empty {
		return nil, fmt.Errorf("%s holds no key: remove it, or put the line of the .pub file there", filepath.Join(dir, file))
	}
	r.texts[file] = text
	return found, nil
}

// loadRevoked reads the file of revoked keys.
func (r *Keyring) loadRevoked(dir string) error {
	text, err := eachLine(filepath.Join(dir, RevokedFile), func(_ int, line string) error {
		k, err := parseRevoked(line)
		if err == nil && !slices.ContainsFunc(r.Revoked, k.is) {
			r.Revoked = append(r.Revoked, k)
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.texts[RevokedFile] = text
	return nil
}

// eachLine calls do for the lines of a file that hold something, counted from 1,
// and returns its text.
func eachLine(path string, do func(n int, line string) error) (text string, err error) {
	if text, err = readSmall(path); err != nil {
		return "", fmt.Errorf("cannot read public keys: %w", err)
	}
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if err := do(i+1, line); err != nil {
			return "", fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
	}
	return text, nil
}

// parseRevoked reads a line of the file of revoked keys. More may be revoked than
// may come, what can be broken above all; but sshd lets in nobody at all over a
// line of that file which it cannot read.
func parseRevoked(line string) (Key, error) {
	const hint = "put the line of the .pub file there"
	if strings.Contains(line, "PRIVATE KEY") {
		return Key{}, fmt.Errorf("this is a private key: %s", hint)
	}
	key, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return Key{}, fmt.Errorf("not a public key (%v): %s", err, hint)
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSA:
	default:
		return Key{}, fmt.Errorf("a key of type %s cannot be revoked here: no host of kido takes one, so remove the line", key.Type())
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	return Key{Public: strings.TrimSpace(public + " " + comment), Fingerprint: ssh.FingerprintSHA256(key)}, nil
}

// Empty reports whether there is no key at all.
func (r *Keyring) Empty() bool { return len(r.Hosts) == 0 && len(r.People) == 0 }

// parseKey reads a line of authorized_keys that has no option but from.
func parseKey(line string) (k Key, err error) {
	k.Public = line
	if rest, ok := strings.CutPrefix(line, `from="`); ok {
		from, public, closed := strings.Cut(rest, `" `)
		if !closed {
			return Key{}, errors.New(`from="…" is not closed, or there is no key behind it`)
		}
		k.From, k.Public = strings.Split(from, ","), strings.TrimSpace(public)
	}
	if k.Fingerprint, err = keys.Fingerprint(k.Public); err != nil {
		return Key{}, err
	}
	return k, nil
}

// readSmall reads a file of a few lines; a FIFO holds nobody.
func readSmall(path string) (string, error) {
	const most = 1 << 20
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(text) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return string(text), err
}
