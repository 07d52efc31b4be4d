package remote

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxIdentity is more than any private key, or certificate, takes, in bytes.
const maxIdentity = 64 << 10

// LoadIdentity reads a private key in OpenSSH's (or PEM) format. It refuses a
// file that others may read or write, and a key with a passphrase: nobody is
// there to type it. Errors are an [*Error] of [KindIdentity].
func LoadIdentity(file string) (ssh.Signer, error) {
	refuse := func(hint string, format string, args ...any) (ssh.Signer, error) {
		return nil, &Error{Kind: KindIdentity, Err: fmt.Errorf("private key "+format, args...), Hint: hint}
	}
	text, mode, err := readSmall(file)
	if errors.Is(err, os.ErrNotExist) {
		return refuse("make a key for kido alone: ssh-keygen -t ed25519 -N '' -f "+file, "%w", err)
	}
	if err != nil {
		return refuse("", "%w", err)
	}
	if mode.Perm()&0o077 != 0 {
		return refuse("chmod 600 "+file+"; if others could read it until now, make a new key", "%s can be used by others (mode %04o)", file, mode.Perm())
	}
	signer, err := ssh.ParsePrivateKey(text)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		return refuse("make a key for kido alone, without one: ssh-keygen -t ed25519 -N '' -f NEW", "%s has a passphrase, and nobody is there to type it", file)
	}
	if err != nil {
		return refuse("", "%s cannot be read: %w", file, err)
	}
	return signer, nil
}

// readSmall reads a file, and not a named pipe under that name, which would hang us.
func readSmall(file string) (text []byte, mode os.FileMode, err error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", file)
	}
	text, err = io.ReadAll(io.LimitReader(f, maxIdentity))
	return text, info.Mode(), err
}

// CertificateFile is where the certificate of an identity is looked for, as ssh
// does.
func CertificateFile(identity string) string { return identity + "-cert.pub" }

// LoadCertificate reads the certificate of an identity, whatever it is worth: nil
// where there is none.
func LoadCertificate(identity string) (*ssh.Certificate, error) {
	file := CertificateFile(identity)
	text, _, err := readSmall(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	cert, ok := public.(*ssh.Certificate)
	if err != nil || !ok {
		return nil, fmt.Errorf("there is no certificate in %s", file)
	}
	return cert, nil
}

// certify returns what signs with the certificate of an identity: nil where there
// is none. An error says why the one that is there cannot be used.
func certify(identity string, signer ssh.Signer, now time.Time) (ssh.Signer, error) {
	file := CertificateFile(identity)
	cert, err := LoadCertificate(identity)
	if cert == nil || err != nil {
		return nil, err
	}
	const day = "2006-01-02 15:04:05 MST"
	from, to := time.Unix(int64(cert.ValidAfter), 0), time.Unix(int64(cert.ValidBefore), 0)
	switch {
	case cert.CertType != ssh.UserCert:
		return nil, fmt.Errorf("the certificate %s is a host's", file)
	case now.Before(from):
		return nil, fmt.Errorf("the certificate %s is not valid before %s", file, from.Format(day))
	case cert.ValidBefore != ssh.CertTimeInfinity && !now.Before(to):
		return nil, fmt.Errorf("the certificate %s ended on %s", file, to.Format(day))
	}
	certified, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s is of another key (%s)", file, ssh.FingerprintSHA256(cert.Key))
	}
	return certified, nil
}

// explain says what a certificate has to do with a key that was not taken.
func (e *Error) explain(file string, offered bool, unusable error) {
	switch {
	case unusable != nil:
		e.Err = fmt.Errorf("%w, and %w", e.Err, unusable)
		e.Hint = "have it signed anew (kido keys sign), or remove it where the key has a line of its own"
	case offered:
		e.Err = fmt.Errorf("%w, nor its certificate %s", e.Err, file)
		e.Hint = "does the host trust who signed it (kido enroll), and may it come from this address: kido keys show " + file
	}
}
