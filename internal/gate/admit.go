package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	// maxGates is how many requests of one principal are answered at once. Each
	// has a process; a run that asks for more is told that the gate is busy, and
	// asks again.
	maxGates = 32
	// admitWait is how long a request waits for one of them to end.
	admitWait = 2 * time.Second
)

var errCrowded = errors.New("as many requests of this principal as are answered at once are being answered")

// admit counts this process among those that work for a principal ("": for
// whoever is none), until the file that it returns is closed or the process
// ends, in whatever way. Each principal is counted for itself, so that the key
// of one cannot keep the others out. It fails with errCrowded.
func (g *Gate) admit(ctx context.Context, principal string) (*os.File, error) {
	// No service is called so: a name begins with a letter or digit.
	f, err := openIn(g.dir, ".gates."+principal, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("cannot count who is at work: %w", err)
	}
	in := poll(ctx, admitWait, func() bool {
		for place := range int64(maxGates) {
			var ok bool
			if ok, err = lockByte(f, place); ok || err != nil {
				return true
			}
		}
		return false
	})
	if !in {
		err = errCrowded
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockByte takes the lock of one byte of a file for this process, whose threads
// and children do not share it; ok is false where another process has it. (POSIX
// record locks: the kernel gives them back however the process ends, and one
// file is enough.)
func lockByte(f *os.File, at int64) (ok bool, err error) {
	err = syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK, Start: at, Len: 1})
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return false, nil
	}
	return err == nil, err
}
