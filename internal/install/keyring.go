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

// Keyring is the public keys that may come to the hosts of a site: a folder
// keys beside the site file.
type Keyring struct {
	Hosts  map[string][]Key // by host: HOST.pub
	People []Person         // sorted by name: NAME.pub, where NAME is no host
	texts  map[string]string
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

// LoadKeyring reads the *.pub files of a folder. Each holds one key a line, as
// its .pub file has it, with from="ADDRESS,…" in front: of a host's key that is
// only needed where it comes from another address than the site file names.
// Empty lines and those that begin with # are passed over. A folder that is not
// there holds no keys.
func LoadKeyring(dir string, s *site.Site) (*Keyring, error) {
	r := &Keyring{Hosts: map[string][]Key{}, texts: map[string]string{}}
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the folder of public keys: %w", err)
	}
	whose := map[string]string{} // fingerprint → host
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".pub")
		if !ok {
			continue
		}
		path := filepath.Join(dir, f.Name())
		text, err := readSmall(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read a public key: %w", err)
		}
		host := s.Host(name) != nil
		if !host && (name == principalHere || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || strings.IndexAny(name, "._-") == 0) {
			return nil, fmt.Errorf("%s: a key is named after its host or its owner, in letters, digits and . _ -: rename it", path)
		}
		var found []Key
		for n, line := range strings.Split(text, "\n") {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			k, err := parseKey(line)
			if err == nil && !host && len(k.From) == 0 {
				err = errors.New(`it does not say where it may come from: put from="ADDRESS" and a blank in front (or is it a host's? then name it HOST.pub)`)
			}
			if other := whose[k.Fingerprint]; err == nil && host && other != "" && other != name {
				err = fmt.Errorf("this is the key of %s too: each host has its own", other)
			}
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
			}
			if host {
				whose[k.Fingerprint] = name
			}
			found = append(found, k)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s holds no key: remove it, or put the line of the .pub file there", path)
		}
		r.texts[f.Name()] = text
		if host {
			r.Hosts[name] = found
		} else {
			r.People = append(r.People, Person{name, found})
		}
	}
	return r, nil
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
