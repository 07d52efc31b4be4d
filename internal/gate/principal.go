package gate

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

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
	Identity string // the key's fingerprint as ssh-keygen -lf prints it, a CertificateIdentity, IdentityUnexposed or IdentityLocal
	Key      string // fingerprint of the key that was used, also of one in a certificate; "" where there is none
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
		c.Identity, c.Key, err = authKey(text)
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

// authKey returns the identity of whoever came with the one key in a list of
// authentication methods, and that key's fingerprint. There is a line for each,
// "publickey TYPE BASE64" for a key.
func authKey(text string) (identity, key string, err error) {
	body, ok := strings.CutSuffix(text, "\n")
	if !ok {
		return "", "", errors.New("the file is cut short: its last line has no end")
	}
	for _, line := range strings.Split(body, "\n") {
		f := strings.Split(line, " ")
		for _, s := range f {
			if s == "" || wire.Quote(s) != s {
				return "", "", fmt.Errorf("not a line that sshd writes: %s", wire.Quote(line))
			}
		}
		if f[0] != "publickey" {
			continue
		}
		if len(f) != 3 {
			return "", "", fmt.Errorf("not a key as sshd writes it: %s", wire.Quote(line))
		}
		if identity != "" {
			return "", "", errors.New("more than one key was used: let sshd ask for one (AuthenticationMethods publickey)")
		}
		if identity, key, err = identityOf(f[1], f[2]); err != nil {
			return "", "", err
		}
	}
	if identity == "" {
		return "", "", errors.New("no key was used: let sshd ask for one (AuthenticationMethods publickey)")
	}
	return identity, key, nil
}

const fingerprintPrefix = "SHA256:"

var fingerprintEncoding = base64.RawStdEncoding.Strict()

func isFingerprint(s string) bool {
	sum, ok := strings.CutPrefix(s, fingerprintPrefix)
	b, err := fingerprintEncoding.DecodeString(sum)
	return ok && err == nil && len(b) == sha256.Size
}

// identityOf is what a policy calls whoever came with a key: what ssh-keygen -lf
// prints of it. A certificate makes another caller of whoever has it than the key
// that it certifies: where that has a line of its own, it has limits of its own.
func identityOf(kind, text string) (identity, key string, err error) {
	if isCertificate(kind) {
		own, err := os.Executable()
		if err != nil {
			return "", "", fmt.Errorf("cannot tell which program this is: %w", err)
		}
		c, err := readCertificate(kind, text)
		if err != nil {
			return "", "", err
		}
		identity, err = c.identity(own, time.Now())
		return identity, c.key, err
	}
	blob, _, err := decodeKey(kind, text)
	if err != nil {
		return "", "", err
	}
	return fingerprint(blob), fingerprint(blob), nil
}

// fingerprint is what ssh-keygen -lf prints of a key.
func fingerprint(blob []byte) string {
	sum := sha256.Sum256(blob)
	return fingerprintPrefix + fingerprintEncoding.EncodeToString(sum[:])
}

// decodeKey returns a key, and what is in it behind its type.
func decodeKey(kind, text string) (blob, behind []byte, err error) {
	blob, err = base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, nil, errors.New("the key is not base64")
	}
	f := fields{rest: blob}
	if named := f.string(); f.short || string(named) != kind {
		return nil, nil, fmt.Errorf("the key is not of the type %s that its line names", wire.Quote(kind))
	}
	return blob, f.rest, nil
}
