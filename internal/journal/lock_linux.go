package journal

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// Locks of an open file description (fcntl(2)): like those of flock(2) they
// belong to the open file and end with it, however its process ends; unlike
// those they can be asked about without being taken, so that Read never stands
// in the way of Open. Package syscall has no names for the commands.
const (
	ofdGetLock = 36
	ofdSetLock = 37
)

func wholeFile(kind int16) syscall.Flock_t {
	return syscall.Flock_t{Type: kind, Whence: io.SeekStart}
}

// locked is a file that this Journal has the lock of.
type locked struct{ *os.File }

// lock fails with ErrLocked where another open file has the lock.
func lock(f *os.File) (locked, error) {
	l := wholeFile(syscall.F_WRLCK)
	err := syscall.FcntlFlock(f.Fd(), ofdSetLock, &l)
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return locked{}, ErrLocked
	}
	return locked{f}, os.NewSyscallError("fcntl", err)
}

// Close gives the lock up before it closes the file: a child that another
// goroutine is starting just now has the file open too, until its exec.
func (f locked) Close() error {
	l := wholeFile(syscall.F_UNLCK)
	err := syscall.FcntlFlock(f.Fd(), ofdSetLock, &l)
	return errors.Join(os.NewSyscallError("fcntl", err), f.File.Close())
}

func isLocked(f *os.File) (bool, error) {
	l := wholeFile(syscall.F_WRLCK)
	if err := syscall.FcntlFlock(f.Fd(), ofdGetLock, &l); err != nil {
		return false, os.NewSyscallError("fcntl", err)
	}
	return l.Type != syscall.F_UNLCK, nil
}
