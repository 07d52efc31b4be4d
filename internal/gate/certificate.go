package gate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kido/internal/wire"
)

// certificatePrefix begins the identity of whoever came with a certificate.
const certificatePrefix = "cert:"

// CertificateIdentity is the identity (see [Caller]) of whoever comes with a
// certificate: the authority that signed it, as ssh-keygen -lf prints its key
// ("SHA256:…"), and the one principal in it, "host/NAME" or "person/NAME".
func CertificateIdentity(authority, principal string) string {
	return certificatePrefix + authority + ":" + principal
}

func isCertificateIdentity(id string) bool {
	rest, ok := strings.CutPrefix(id, certificatePrefix)
	i := strings.LastIndexByte(rest, ':') // a name has none
	return ok && i >= 0 && isFingerprint(rest[:i]) && isCertified(rest[i+1:])
}

// HostPrincipal and PersonPrincipal are what certificates call their holders. The
// kind is part of it so that a person called like a host has none of its rights.
func HostPrincipal(name string) string   { return "host/" + name }
func PersonPrincipal(name string) string { return "person/" + name }

// isCertified reports whether s can be the principal of a certificate.
func isCertified(s string) bool {
	kind, name, _ := strings.Cut(s, "/")
	if kind != "host" && kind != "person" || name == "" || strings.IndexByte("._-", name[0]) >= 0 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("._-", c) < 0 {
			return false
		}
	}
	return true
}

// The critical options that a certificate must have, and may not exceed.
const (
	optionCommand = "force-command"
	optionSource  = "source-address"
)

// userCertificate is the type of a certificate that is not a host's.
const userCertificate = 1

// certificate is what one says to a gate. Its signature is not looked at: the
// sshd that let it in has done so, and knows which authorities it trusts.
type certificate struct {
	kind          uint32 // userCertificate, or another
	principals    []string
	after, before uint64 // valid from and until, in seconds since 1970; the last one excluded
	options       []option
	key           string // fingerprint of the key that it certifies
	authority     string // and of the one that signed it
}

type option struct{ name, value string }

// certifiable says, for each type of certificate, which type of key it holds
// and in how many fields (OpenSSH, PROTOCOL.certkeys and PROTOCOL.u2f).
var certifiable = map[string]struct {
	kind   string
	fields int
}{
	"ssh-ed25519-cert-v01@openssh.com":            {"ssh-ed25519", 1},
	"ssh-rsa-cert-v01@openssh.com":                {"ssh-rsa", 2},
	"ecdsa-sha2-nistp256-cert-v01@openssh.com":    {"ecdsa-sha2-nistp256", 2},
	"ecdsa-sha2-nistp384-cert-v01@openssh.com":    {"ecdsa-sha2-nistp384", 2},
	"ecdsa-sha2-nistp521-cert-v01@openssh.com":    {"ecdsa-sha2-nistp521", 2},
	"sk-ssh-ed25519-cert-v01@openssh.com":         {"sk-ssh-ed25519@openssh.com", 2},
	"sk-ecdsa-sha2-nistp256-cert-v01@openssh.com": {"sk-ecdsa-sha2-nistp256@openssh.com", 3},
}

func isCertificate(kind string) bool { return strings.Contains(kind, "-cert-") }

// canSign reports whether a key of that type can be an authority's: one of its
// own, not again a certificate.
func canSign(kind string) bool {
	for _, key := range certifiable {
		if key.kind == kind {
			return true
		}
	}
	return false
}

var errShort = errors.New("the certificate is cut short")

// parseCertificate reads the whole of a certificate. rest is what follows its
// type.
func parseCertificate(kind string, rest []byte) (certificate, error) {
	key, ok := certifiable[kind]
	if !ok {
		return certificate{}, fmt.Errorf("certificates of the type %s are not known here: use an ed25519 key", wire.Quote(kind))
	}
	f := fields{rest: rest}
	f.string() // nonce
	certified := appendString(nil, []byte(key.kind))
	for range key.fields {
		certified = appendString(certified, f.string())
	}
	c := certificate{key: fingerprint(certified)}
	f.uint64() // serial number
	c.kind = f.uint32()
	f.string() // key id, for people
	principals := f.string()
	c.after, c.before = f.uint64(), f.uint64()
	critical, extensions := f.string(), f.string()
	f.string() // reserved: nothing says what is in it
	authority, signature := f.string(), f.string()
	switch {
	case f.short:
		return certificate{}, errShort
	case len(f.rest) > 0:
		return certificate{}, errors.New("something follows the certificate")
	case len(signature) == 0:
		return certificate{}, errors.New("the certificate is not signed")
	}
	var err error
	if c.principals, err = parsePrincipals(principals); err != nil {
		return certificate{}, err
	}
	if c.options, err = parseOptions(critical); err != nil {
		return certificate{}, err
	}
	// Extensions give what the configuration of sshd takes away again, and to a
	// gate nothing: they only have to be some.
	if _, err = parseOptions(extensions); err != nil {
		return certificate{}, err
	}
	signer := fields{rest: authority}
	if named := string(signer.string()); signer.short || !canSign(named) {
		return certificate{}, errors.New("the certificate is signed by something that is not a key")
	}
	c.authority = fingerprint(authority)
	return c, nil
}

func parsePrincipals(b []byte) (all []string, err error) {
	f := fields{rest: b}
	for len(f.rest) > 0 {
		all = append(all, string(f.string()))
	}
	if f.short {
		return nil, errShort
	}
	return all, nil
}

// parseOptions reads options, each of which comes once, in the order of their
// names. A value is a string in a string; an option without one has "".
func parseOptions(b []byte) (all []option, err error) {
	f := fields{rest: b}
	for len(f.rest) > 0 {
		o := option{name: string(f.string())}
		if data := (fields{rest: f.string()}); len(data.rest) > 0 {
			o.value = string(data.string())
			if data.short || len(data.rest) > 0 {
				return nil, fmt.Errorf("the certificate's option %s has a value that is not one string", wire.Quote(cut(o.name, 100)))
			}
		}
		if n := len(all); n > 0 && all[n-1].name >= o.name {
			return nil, fmt.Errorf("the certificate's option %s comes twice or out of order", wire.Quote(cut(o.name, 100)))
		}
		all = append(all, o)
	}
	if f.short {
		return nil, errShort
	}
	return all, nil
}

// JudgeCertificate is the identity that a gate gives at a time to whoever comes
// with a certificate: the line of a -cert.pub file. The gate is the program at
// that absolute path. An error says why it takes none.
func JudgeCertificate(line, program string, now time.Time) (identity string, err error) {
	f := strings.Fields(line)
	if len(f) < 2 || !isCertificate(f[0]) {
		return "", errors.New("this is not a certificate: its line begins with a type such as ssh-ed25519-cert-v01@openssh.com")
	}
	c, err := readCertificate(f[0], f[1])
	if err != nil {
		return "", err
	}
	return c.identity(program, now)
}

func readCertificate(kind, text string) (certificate, error) {
	_, behind, err := decodeKey(kind, text)
	if err != nil {
		return certificate{}, err
	}
	return parseCertificate(kind, behind)
}

// identity is who came with the certificate, if its whole purpose is the program.
// An sshd may be configured to let in more: a certificate without these limits,
// or one of several principals, of which nobody could say who it is. And it
// looks at the time once, at the beginning of a connection, in which sessions
// may be opened long after.
func (c certificate) identity(program string, now time.Time) (string, error) {
	switch t := uint64(max(now.Unix(), 0)); {
	case c.kind != userCertificate:
		return "", errors.New("the certificate is a host's: have one made for a user")
	case t < c.after:
		return "", errors.New("the certificate is not valid yet: is the clock of this host right?")
	case t >= c.before:
		return "", errors.New("the certificate has expired: have a new one signed")
	case len(c.principals) != 1:
		return "", fmt.Errorf("the certificate has %d principals: have one made for a single one, host/NAME or person/NAME", len(c.principals))
	case !isCertified(c.principals[0]):
		return "", fmt.Errorf("the certificate's principal is %s: have one made for host/NAME or person/NAME", wire.Quote(cut(c.principals[0], 100)))
	}
	for _, o := range []string{optionCommand, optionSource} {
		if !slices.ContainsFunc(c.options, func(have option) bool { return have.name == o }) {
			return "", fmt.Errorf("the certificate has no critical option %s: have one made with it", o)
		}
	}
	for _, o := range c.options {
		var err error
		switch o.name {
		case optionCommand:
			err = checkCommand(o.value, program)
		case optionSource:
			err = checkSource(o.value)
		default:
			err = fmt.Errorf("the certificate has the critical option %s, of which a gate knows nothing", wire.Quote(cut(o.name, 100)))
		}
		if err != nil {
			return "", err
		}
	}
	return CertificateIdentity(c.authority, c.principals[0]), nil
}

// checkCommand holds the command that a certificate forces to one program: its
// path alone, by whatever links it is reached.
func checkCommand(command, program string) error {
	if command == program {
		return nil
	}
	if filepath.IsAbs(command) {
		if path, err := filepath.EvalSymlinks(command); err == nil && path == program {
			return nil
		}
	}
	return fmt.Errorf("the certificate forces the command %s, and the gate is %s: have one made for that", wire.Quote(cut(command, 100)), wire.Quote(program))
}

// checkSource holds source addresses to what binds a certificate to some place;
// whether the session came from there, sshd has looked.
func checkSource(list string) error {
	for s := range strings.SplitSeq(list, ",") {
		prefix, err := netip.ParsePrefix(s)
		if address, aerr := netip.ParseAddr(s); aerr == nil {
			prefix, err = address.Prefix(address.BitLen())
		}
		if err != nil || prefix.Bits() == 0 {
			return fmt.Errorf("the certificate's source-address is %s: have one made for the addresses that it is used from", wire.Quote(cut(list, 100)))
		}
	}
	return nil
}

// fields takes one field after the other off a blob (RFC 4251 §5). Once one is
// cut short so are all behind it, and they are empty.
type fields struct {
	rest  []byte
	short bool
}

func (f *fields) take(n uint64) []byte {
	if n > uint64(len(f.rest)) {
		f.rest, f.short = nil, true
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) uint32() uint32 {
	if b := f.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (f *fields) uint64() uint64 {
	if b := f.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// string takes a length and so many bytes.
func (f *fields) string() []byte { return f.take(uint64(f.uint32())) }
