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

	"kido/internal/keys"
	"kido/internal/site"
)

// peopleFolder is where in the folder of keys those of people are. They are apart
// so that a host's key does not become a person's when its host leaves the site.
const peopleFolder = "people"

// Keyring is the public keys that may come to the hosts of a site: a folder
// keys beside the site file.
type Keyring struct {
	Hosts    map[string][]Key  // by host: HOST.pub
	People   []Person          // sorted by name: people/NAME.pub
	Warnings []string          // of files that grant nothing
	texts    map[string]string // by path in the folder
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

// LoadKeyring reads the *.pub files of a folder: HOST.pub of the site's hosts, and
// people/NAME.pub. Each holds one key a line, as its .pub file has it, with
// from="ADDRESS,…" in front: of a host's key that is only needed where it comes
// from another address than the site file names. Empty lines and those that
// begin with # are passed over. X.pub grants nothing where the site has no host X:
// it is not read, and warned of. A folder that is not there holds no keys.
func LoadKeyring(dir string, s *site.Site) (*Keyring, error) {
	r := &Keyring{Hosts: map[string][]Key{}, texts: map[string]string{}}
	names, err := publicKeys(dir)
	if err != nil {
		return nil, err
	}
	whose := map[string]string{} // fingerprint → host
	for _, name := range names {
		if s.Host(name) == nil {
			// %q without its quotes: the name is anything that a file can have.
			shown := strings.Trim(fmt.Sprintf("%q", name), `"`)
			r.Warnings = append(r.Warnings, fmt.Sprintf("keys/%s.pub: the site has no host %[1]s: its key may do nothing; remove the file, or, for a person's key, move it to keys/%s/", shown, peopleFolder))
			continue
		}
		r.Hosts[name], err = r.load(dir, name+".pub", func(k Key) error {
			if other := whose[k.Fingerprint]; other != "" && other != name {
				return fmt.Errorf("this is the key of %s too: each host has its own", other)
			}
			whose[k.Fingerprint] = name
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if names, err = publicKeys(filepath.Join(dir, peopleFolder)); err != nil {
		return nil, err
	}
	for _, name := range names {
		file := filepath.Join(peopleFolder, name+".pub")
		if name == principalHere || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || strings.IndexAny(name, "._-") == 0 {
			return nil, fmt.Errorf("%q: a person's key is named after its owner, in letters, digits and . _ -, and not %s: rename it", filepath.Join(dir, file), principalHere)
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
		r.People = append(r.People, Person{name, found})
	}
	return r, nil
}

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

// load reads the keys of one file and keeps its text.
func (r *Keyring) load(dir, file string, check func(Key) error) (found []Key, err error) {
	path := filepath.Join(dir, file)
	text, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read a public key: %w", err)
	}
	for n, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		k, err := parseKey(line)
		if err == nil {
			err = check(k)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
		}
		found = append(found, k)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s holds no key: remove it, or put the line of the .pub file there", path)
	}
	r.texts[file] = text
	return found, nil
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
