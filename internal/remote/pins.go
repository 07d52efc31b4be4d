package remote

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Pins are the host keys that are trusted, from a file in the format of
// OpenSSH's known_hosts. They are read-only after the load, and indexed: plain
// names cost one map access however long the file is; only hashed names and
// patterns are walked.
//
// A host is looked up by its name in the site first ("db1"); only where no key
// is pinned for that name, by its address ("192.0.2.1", "[192.0.2.1]:2222"
// where the port is not 22). So the key of a machine that had the address
// before does not stand in for a host that is pinned by name. A key marked
// @revoked is refused for every host. Certificate authorities are not taken:
// a pinned key is the host's own.
type Pins struct {
	file     string
	exact    map[string][]Pin
	hashed   []hashedPin
	patterns []patternPin
	revoked  map[string]Pin // by wire encoding of the key
}

type hashedPin struct {
	salt, sum []byte
	Pin
}

type patternPin struct {
	list []string
	Pin
}

// LoadPins reads a known_hosts file.
func LoadPins(file string) (*Pins, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, &Error{
			Kind: KindHostKeyUnknown, Err: fmt.Errorf("pinned host keys: %w", err),
			Hint: "put one line a host there: its name in the site or its address, then what its /etc/ssh/ssh_host_ed25519_key.pub holds, carried by hand",
		}
	}
	return ParsePins(text, file)
}

// ParsePins reads the text of a known_hosts file; file is its name for
// messages. All bad lines are reported at once, each as file:line.
func ParsePins(text []byte, file string) (*Pins, error) {
	p := &Pins{file: file, exact: map[string][]Pin{}, revoked: map[string]Pin{}}
	var bad []error
	for i, line := range bytes.Split(text, []byte("\n")) {
		if err := p.add(string(line), i+1); err != nil {
			bad = append(bad, fmt.Errorf("%s:%d: %w", file, i+1, err))
		}
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	return p, nil
}

func (p *Pins) add(line string, number int) error {
	f := strings.Fields(line)
	if len(f) == 0 || strings.HasPrefix(f[0], "#") {
		return nil
	}
	marker := ""
	if strings.HasPrefix(f[0], "@") {
		marker, f = f[0], f[1:]
	}
	switch marker {
	case "", "@revoked":
	case "@cert-authority":
		return errors.New("@cert-authority is not taken here: pin the host's own key")
	default:
		return fmt.Errorf("unknown marker %q", marker)
	}
	if len(f) < 3 {
		return errors.New("a line is: names, key type, key in base64")
	}
	blob, err := base64.StdEncoding.DecodeString(f[2])
	if err != nil {
		return errors.New("the key is not in base64, or was cut")
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return fmt.Errorf("the key cannot be read: %w", printable(err))
	}
	if key.Type() != f[1] {
		return fmt.Errorf("the line says %q, its key is %s", f[1], key.Type())
	}
	if algorithms(key.Type()) == nil {
		return fmt.Errorf("a key of type %s cannot be a host key here: pin the host's ssh-ed25519 key", key.Type())
	}
	pin := Pin{Key: key, File: p.file, Line: number}
	if marker == "@revoked" {
		p.revoked[string(key.Marshal())] = pin
		return nil
	}
	if strings.HasPrefix(f[0], "|") {
		h := hashedPin{Pin: pin}
		part := strings.Split(f[0], "|")
		if len(part) == 4 && part[1] == "1" {
			h.salt, _ = base64.StdEncoding.DecodeString(part[2])
			h.sum, _ = base64.StdEncoding.DecodeString(part[3])
		}
		if len(h.salt) == 0 || len(h.sum) != sha1.Size {
			return fmt.Errorf("%q is not a hashed name", f[0])
		}
		p.hashed = append(p.hashed, h)
		return nil
	}
	names := strings.Split(f[0], ",")
	for i, n := range names {
		if strings.TrimPrefix(n, "!") == "" {
			return fmt.Errorf("empty name in %q", f[0])
		}
		names[i] = normal(n)
	}
	if strings.ContainsAny(f[0], "*?!") {
		p.patterns = append(p.patterns, patternPin{names, pin})
		return nil
	}
	for _, n := range names {
		p.exact[n] = append(p.exact[n], pin)
	}
	return nil
}

// Lookup returns the keys that a host may show, in the order of the file, each
// once, the revoked ones left out. name is the host's name in the site.
func (p *Pins) Lookup(name, address string, port int) []Pin {
	pins, _ := p.lookup(name, address, port)
	return pins
}

// lookup also returns a pin that would have counted were its key not revoked.
func (p *Pins) lookup(name, address string, port int) (pins []Pin, revoked *Pin) {
	if p == nil {
		return nil, nil
	}
	found := p.named(normal(name))
	if len(found) == 0 {
		found = p.named(knownName(address, port))
	}
	slices.SortStableFunc(found, func(a, b Pin) int { return a.Line - b.Line })
	seen := map[string]bool{}
	for _, pin := range found {
		blob := string(pin.Key.Marshal())
		if r, ok := p.revoked[blob]; ok {
			revoked = &r
			continue
		}
		if !seen[blob] {
			seen[blob] = true
			pins = append(pins, pin)
		}
	}
	return pins, revoked
}

// Only returns what lets a client of package ssh speak to a host that shows one of
// its pinned keys, and to no other: the algorithms to ask for and the check of
// what is shown, whose error is a [*HostKeyError]. The arguments are those of
// [Pins.Lookup]; where no key is pinned the error is an [*Error].
func (p *Pins) Only(name, address string, port int) (algorithms []string, check ssh.HostKeyCallback, err error) {
	pins, revoked := p.lookup(name, address, port)
	if len(pins) == 0 {
		t := Target{Name: name, Address: address, Port: port}
		return nil, nil, t.named(p.unknown(t, revoked))
	}
	return accepted(pins), func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if bad := p.check(pins, key); bad != nil {
			return bad
		}
		return nil
	}, nil
}

// unknown says that no key is pinned for a target, or only a revoked one.
func (p *Pins) unknown(t Target, revoked *Pin) *Error {
	e := &Error{Address: t.endpoint(), Phase: PhaseConnect, Kind: KindHostKeyUnknown}
	if revoked != nil {
		e.Kind, e.Err, e.Hint = KindHostKeyChanged, &HostKeyError{Revoked: revoked}, p.changedHint()
		return e
	}
	e.Err = fmt.Errorf("no host key is pinned for it in %s: nothing was sent", p.file)
	e.Hint = fmt.Sprintf("add a line to %s: %s, then what /etc/ssh/ssh_host_ed25519_key.pub holds at that host, carried by hand", p.file, knownName(t.Address, t.Port))
	return e
}

func (p *Pins) changedHint() string {
	return "if the host was installed anew, carry its new key here by hand and replace that line of " + p.file + "; if it was not, someone is in between"
}

// check returns nil for a pinned key.
func (p *Pins) check(pins []Pin, key ssh.PublicKey) *HostKeyError {
	blob := string(key.Marshal())
	if r, ok := p.revoked[blob]; ok {
		return &HostKeyError{Offered: ssh.FingerprintSHA256(key), Revoked: &r}
	}
	for _, pin := range pins {
		if string(pin.Key.Marshal()) == blob {
			return nil
		}
	}
	return &HostKeyError{Offered: key.Type() + " " + ssh.FingerprintSHA256(key), Pinned: pins}
}

func (p *Pins) named(name string) []Pin {
	if name == "" {
		return nil
	}
	found := slices.Clone(p.exact[name])
	for _, h := range p.hashed {
		mac := hmac.New(sha1.New, h.salt)
		mac.Write([]byte(name))
		if bytes.Equal(mac.Sum(nil), h.sum) {
			found = append(found, h.Pin)
		}
	}
	for _, e := range p.patterns {
		if matchList(e.list, name) {
			found = append(found, e.Pin)
		}
	}
	return found
}

// knownName is how known_hosts spells a host: the port only where it is not 22.
func knownName(address string, port int) string {
	if port == 22 || port == 0 {
		return normal(address)
	}
	return normal(net.JoinHostPort(address, strconv.Itoa(port)))
}

// normal brings the spellings of one name together: lower case, IP addresses
// in their canonical form, brackets only with a port other than 22.
func normal(name string) string {
	name = strings.ToLower(name)
	host, port := name, "22"
	if h, p, err := net.SplitHostPort(name); err == nil && (strings.HasPrefix(name, "[") || strings.Count(name, ":") == 1) {
		host, port = h, p
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.String()
	}
	if port == "22" {
		return host
	}
	return "[" + host + "]:" + port
}

// matchList is OpenSSH's rule: one pattern matches and no negated one does.
func matchList(list []string, name string) bool {
	matched := false
	for _, pattern := range list {
		positive, negated := strings.CutPrefix(pattern, "!")
		if matchPattern(positive, name) {
			if negated {
				return false
			}
			matched = true
		}
	}
	return matched
}

// matchPattern knows * (any run of characters) and ? (one), and takes time in
// proportion to the product of the lengths at most.
func matchPattern(pattern, name string) bool {
	star, retry := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			retry++
			p, n = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// accepted lists the signature algorithms by which a host may prove one of its
// pinned keys.
func accepted(pins []Pin) (all []string) {
	for _, pin := range pins {
		for _, a := range algorithms(pin.Key.Type()) {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	return all
}

// algorithms are the signature algorithms that a host may prove a key of the
// given type with; nil for a type that is not taken.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	if strings.Contains(keyType, "-cert-") || !slices.Contains(ssh.SupportedAlgorithms().HostKeys, keyType) {
		return nil
	}
	return []string{keyType}
}
