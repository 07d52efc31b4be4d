package remote

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// maxIdentity is more than any private key takes, in bytes.
const maxIdentity = 64 << 10

// LoadIdentity reads a private key in OpenSSH's (or PEM) format. It refuses a
// file that others may read or write, and a key with a passphrase: nobody is
// there to type it. Errors are an [*Error] of [KindIdentity].
func LoadIdentity(file string) (ssh.Signer, error) {
	refuse := func(hint string, format string, args ...any) (ssh.Signer, error) {
		return nil, &Error{Kind: KindIdentity, Err: fmt.Errorf("private key "+format, args...), Hint: hint}
	}
	// Not blocking, so that a named pipe under that name does not hang us.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return refuse("make a key for kido alone: ssh-keygen -t ed25519 -N '' -f "+file, "%w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return refuse("", "%w", err)
	}
	if !info.Mode().IsRegular() {
		return refuse("", "%s is not a regular file", file)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return refuse("chmod 600 "+file+"; if others could read it until now, make a new key", "%s can be used by others (mode %04o)", file, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxIdentity))
	if err != nil {
		return refuse("", "%w", err)
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
