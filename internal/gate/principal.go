package gate

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"kido/internal/wire"
)

// Identities that are not a key's fingerprint.
const (
	// IdentityUnexposed is whoever came over ssh where sshd does not say by
	// which key (no ExposeAuthInfo).
	IdentityUnexposed = "unexposed"
	// IdentityLocal is whoever runs the gate on this host without ssh.
	IdentityLocal = "local"
)

// Caller is who asks.
type Caller struct {
	Identity string // the key's fingerprint as ssh-keygen -lf prints it, IdentityUnexposed or IdentityLocal
	Peer     string // IP address that the session came from, for the log; "" where there is none
}

// maxUserAuth bounds the file that sshd names in SSH_USER_AUTH, in bytes: a
// line for each method, and a key or certificate in it of a few KiB.
const maxUserAuth = 64 << 10

// Who says who asks, from the environment that sshd gave this process
// (os.Getenv). Where sshd exposes the key, only the key counts: an error of any
// kind on the way to it is an error here, never a lesser identity.
func Who(env func(string) string) (Caller, error) {
	c := Caller{Identity: IdentityLocal, Peer: peer(env)}
	path := env("SSH_USER_AUTH")
	if path == "" {
		for _, name := range []string{"SSH_CONNECTION", "SSH_CLIENT", "SSH_ORIGINAL_COMMAND"} {
			if env(name) != "" {
				c.Identity = IdentityUnexposed
			}
		}
		return c, nil
	}
	text, err := readUserAuth(path)
	if err == nil {
		c.Identity, err = authKey(text)
	}
	if err != nil {
		return Caller{}, fmt.Errorf("cannot tell which key asks: SSH_USER_AUTH: %w", err)
	}
	return c, nil
}

func peer(env func(string) string) string {
	for _, name := range []string{"SSH_CONNECTION", "SSH_CLIENT"} {
		address, _, _ := strings.Cut(env(name), " ")
		if ip, err := netip.ParseAddr(address); err == nil {
			return ip.String()
		}
	}
	return ""
}

// readUserAuth reads the file that sshd wrote as the user of the session.
// Where a host lets clients set SSH_* (AcceptEnv) and does not expose keys, the
// name is the client's choice: it must not lead to standard input, to /proc
// (whose files say that they are empty) or to what another user wrote.
func readUserAuth(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if err := trusted(f, uint32(os.Geteuid())); err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return "", fmt.Errorf("%s is not the file that sshd writes: it is empty or no regular file", wire.Quote(path))
	}
	text, err := wire.ReadAll(f, maxUserAuth)
	return string(text), err
}

// authKey returns the fingerprint of the one key in a list of authentication
// methods: a line for each, "publickey TYPE BASE64" for a key.
func authKey(text string) (string, error) {
	body, ok := strings.CutSuffix(text, "\n")
	if !ok {
		return "", errors.New("the file is cut short: its last line has no end")
	}
	found := ""
	for _, line := range strings.Split(body, "\n") {
		f := strings.Split(line, " ")
		for _, s := range f {
			if s == "" || wire.Quote(s) != s {
				return "", fmt.Errorf("not a line that sshd writes: %s", wire.Quote(line))
			}
		}
		if f[0] != "publickey" {
			continue
		}
		if len(f) != 3 {
			return "", fmt.Errorf("not a key as sshd writes it: %s", wire.Quote(line))
		}
		key, err := fingerprint(f[1], f[2])
		if err != nil {
			return "", err
		}
		if found != "" {
			return "", errors.New("more than one key was used: let sshd ask for one (AuthenticationMethods publickey)")
		}
		found = key
	}
	if found == "" {
		return "", errors.New("no key was used: let sshd ask for one (AuthenticationMethods publickey)")
	}
	return found, nil
}

const fingerprintPrefix = "SHA256:"

var fingerprintEncoding = base64.RawStdEncoding.Strict()

func isFingerprint(s string) bool {
	sum, ok := strings.CutPrefix(s, fingerprintPrefix)
	b, err := fingerprintEncoding.DecodeString(sum)
	return ok && err == nil && len(b) == sha256.Size
}

// fingerprint is what ssh-keygen -lf prints of a key; of a certificate, it is
// that of the key which it certifies.
func fingerprint(kind, text string) (string, error) {
	blob, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return "", errors.New("the key is not base64")
	}
	named, rest, ok := cutString(blob)
	if !ok || string(named) != kind {
		return "", fmt.Errorf("the key is not of the type %s that its line names", kind)
	}
	if strings.Contains(kind, "-cert-") {
		if blob, err = certified(kind, rest); err != nil {
			return "", err
		}
	}
	sum := sha256.Sum256(blob)
	return fingerprintPrefix + fingerprintEncoding.EncodeToString(sum[:]), nil
}

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

// certified returns the key in a certificate, as a blob of its own. rest is
// what follows the certificate's type: a nonce, then the key's fields.
func certified(kind string, rest []byte) ([]byte, error) {
	key, ok := certifiable[kind]
	if !ok {
		return nil, fmt.Errorf("certificates of the type %s are not known here: use an ed25519 key", wire.Quote(kind))
	}
	_, rest, ok = cutString(rest)
	blob := appendString(nil, []byte(key.kind))
	for range key.fields {
		var field []byte
		if ok {
			field, rest, ok = cutString(rest)
		}
		blob = appendString(blob, field)
	}
	if !ok {
		return nil, errors.New("the certificate is cut short")
	}
	return blob, nil
}

// cutString takes one length-prefixed string (RFC 4251 §5) off b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
