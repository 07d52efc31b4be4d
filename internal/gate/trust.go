package gate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The files by which sshd lets keys in to the gate of a host.
const (
	KeyFile         = "/etc/ssh/kido_keys"
	RevokedFile     = "/etc/ssh/kido_revoked"
	AuthoritiesFile = "/etc/ssh/kido_authorities"
	PrincipalsFile  = "/etc/ssh/kido_principals"
)

// keysOf lists the files by which sshd lets keys in to the gate with a policy,
// as far as it can be told: where the policy is this host's.
func keysOf(policy string) []string {
	if policy != DefaultPolicy {
		return nil
	}
	return []string{KeyFile, RevokedFile, AuthoritiesFile, PrincipalsFile}
}

// ownerOf is the user who, beside root, may change what a gate with a policy goes
// by: nobody where the policy is this host's, for what the keys' user can change
// is no lock on the keys; else whoever runs it, as he may try kido out.
func ownerOf(policy string) uint32 {
	if policy == DefaultPolicy {
		return 0
	}
	return uint32(os.Geteuid())
}

// inspect says of the gate's program, and of files of keys as far as they are
// there, which of them others than root and the user uid could change.
func inspect(program string, keys []string, uid uint32) (faults []error) {
	look := func(what, path string, judge func(*os.File, uint32) error) {
		f, err := walk(path, oPath, func(f *os.File) error { return judge(f, uid) })
		switch {
		case err == nil:
			f.Close()
		case !errors.Is(err, os.ErrNotExist):
			faults = append(faults, fmt.Errorf("%s: %w", what, err))
		}
	}
	look("the gate's program", program, trustedProgram)
	for _, file := range keys {
		look("keys", file, trusted)
	}
	return faults
}

// inspectState refuses a state folder in which others than the user uid could
// put a record, or which they could put another in the place of.
func inspectState(path string, uid uint32) error {
	f, err := walk(path, oPath, func(f *os.File) error { return trusted(f, uid) })
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || st.Uid != uid || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("state folder %s can be written by others: make it mode 0700 and owned by uid %d", path, uid)
	}
	return nil
}

// oPath opens a file for what can be asked of it without leave to read it;
// package syscall has no name for it.
const oPath = 0x200000

// openTrusted opens a regular file of which nobody but root and the user euid
// could have written anything.
func openTrusted(path string, euid uint32) (*os.File, error) {
	// A FIFO must not hold the gate.
	return walk(path, syscall.O_RDONLY|syscall.O_NONBLOCK, func(f *os.File) error { return trusted(f, euid) })
}

// walk opens what is at path with the flags last, folder by folder, so that what
// judge has passed is what is opened next, and in the end returned. Symbolic
// links on the way are refused.
func walk(path string, last int, judge func(*os.File) error) (*os.File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	at, name := syscall.O_CLOEXEC|syscall.O_NOFOLLOW, "/"
	fd, err := syscall.Open(name, at|oPath, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	for rest := strings.TrimPrefix(path, "/"); ; {
		f := os.NewFile(uintptr(fd), name)
		if err := judge(f); err != nil {
			f.Close()
			return nil, err
		}
		if rest == "" {
			return f, nil
		}
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		name = filepath.Join(name, part)
		flags := at | oPath
		if rest == "" {
			flags = at | last
		}
		fd, err = syscall.Openat(int(f.Fd()), part, flags, 0)
		f.Close()
		if errors.Is(err, syscall.ELOOP) {
			return nil, fmt.Errorf("%s is a symbolic link: name the file itself", name)
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// trusted refuses what others than root and the user euid could change. A sticky
// folder passes: in it others cannot replace what is not theirs.
func trusted(f *os.File, euid uint32) error { return trustedBut(f, euid, false) }

// trustedProgram is trusted for a program and the folders above it. Who tries
// kido out with a build of his own has files that his own group may write, where
// his umask is 002.
func trustedProgram(f *os.File, euid uint32) error { return trustedBut(f, euid, euid != 0) }

func trustedBut(f *os.File, euid uint32, ownGroup bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: cannot tell who owns it", f.Name())
	}
	mode, others := info.Mode(), os.FileMode(0o022)
	if ownGroup && st.Uid == euid && st.Gid == uint32(os.Getegid()) {
		others = 0o002
	}
	switch {
	case mode&os.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link: name the folder that it points to", f.Name())
	case !mode.IsDir() && !mode.IsRegular():
		return fmt.Errorf("%s is neither a folder nor a regular file", f.Name())
	case st.Uid != 0 && euid == 0:
		return fmt.Errorf("%s belongs to uid %d, and may only to root: chown root %[1]s", f.Name(), st.Uid)
	case st.Uid != 0 && st.Uid != euid:
		return fmt.Errorf("%s belongs to uid %d, and may only to root or to uid %d, which runs the gate: chown root %[1]s", f.Name(), st.Uid, euid)
	case mode.Perm()&others != 0 && !(mode.IsDir() && mode&os.ModeSticky != 0):
		return fmt.Errorf("%s can be written by others than its owner (mode %04o): chmod go-w %[1]s", f.Name(), mode.Perm())
	}
	return nil
}
