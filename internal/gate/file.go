package gate

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"kido/internal/failpoint"
)

// maxFile bounds a file in the state folder, in bytes.
const maxFile = 256 << 10

// errTooBig is a file that no gate wrote.
var errTooBig = fmt.Errorf("it is over %d bytes long", maxFile)

// file is a small file in the state folder that is replaced as a whole, under a
// lock that is a file of its own.
type file struct {
	dir  *os.Root
	name string
	lock string // is never renamed or removed: two who hold the lock hold the same file
	held *os.File
}

// openIn opens a file of the state folder, and nothing that stands in its place:
// os.Root leaves the folder by no link, but follows one that leads to another of
// our files, and a FIFO would hold the gate.
func openIn(dir *os.Root, name string, flag int) (*os.File, error) {
	switch info, err := dir.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist) && flag&os.O_CREATE != 0:
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file: no gate has put that there, look at it and remove it", filepath.Join(dir.Name(), name))
	}
	return dir.OpenFile(name, flag|syscall.O_NONBLOCK, 0o600)
}

// acquire takes the lock; ok is false where somebody else has it for long.
func (f *file) acquire(ctx context.Context) (ok bool, err error) {
	if f.held, err = openIn(f.dir, f.lock, os.O_RDWR|os.O_CREATE); err != nil {
		return false, err
	}
	ok = poll(ctx, lockWait, func() bool {
		err = syscall.Flock(int(f.held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		return !errors.Is(err, syscall.EWOULDBLOCK)
	})
	if !ok {
		return false, nil
	}
	return err == nil, err
}

// release gives the lock back.
func (f *file) release() {
	if f.held != nil {
		// Said outright: a child between fork and exec holds the file, too.
		_ = syscall.Flock(int(f.held.Fd()), syscall.LOCK_UN)
		f.held.Close()
		f.held = nil
	}
}

// read returns what is in it; it fails with fs.ErrNotExist or errTooBig, too.
func (f *file) read() ([]byte, error) {
	in, err := openIn(f.dir, f.name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = errTooBig
	}
	return text, err
}

// save makes a new content durable: temporary file, fsync, rename, fsync of the
// directory. Until the rename the old file stands. Aside keeps that under another
// name, for a person to look at: unknown must not turn into empty.
func (f *file) save(text []byte, aside bool) error {
	temporary := f.name + ".new"
	// One that a crash has left goes first. To write over it would be to write
	// through whatever link has been put in its place.
	if err := f.dir.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := f.dir.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	if err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	failpoint.Hit("gate.save.written")
	if aside {
		put := f.name + ".unreadable"
		if err := f.dir.Remove(put); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		failpoint.Hit("gate.save.cleared")
		if err := f.dir.Link(f.name, put); err != nil {
			return err
		}
		failpoint.Hit("gate.save.aside")
	}
	if err := f.dir.Rename(temporary, f.name); err != nil {
		return err
	}
	failpoint.Hit("gate.save.renamed")
	dir, err := f.dir.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// summed ends the lines of a file with their CRC-32 (IEEE: the tables of CRC-32C
// cost the gate half a millisecond to make).
func summed(body string) []byte {
	return fmt.Appendf([]byte(body), "sum %08x\n", crc32.ChecksumIEEE([]byte(body)))
}

// cutSum returns the lines that summed got.
func cutSum(text string) (body string, err error) {
	const tail = len("sum 01234567\n")
	short := errors.New("it is cut short: the last line is not its checksum")
	if len(text) <= tail {
		return "", short
	}
	body, last := text[:len(text)-tail], text[len(text)-tail:]
	sum, ok := strings.CutPrefix(strings.TrimSuffix(last, "\n"), "sum ")
	if !ok || !strings.HasSuffix(last, "\n") || !strings.HasSuffix(body, "\n") {
		return "", short
	}
	if got := fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(body))); got != sum {
		return "", fmt.Errorf("its checksum is %s, its content has %s", sum, got)
	}
	return body, nil
}
