// Package journal is a crash-safe append-only record of byte payloads; what
// they mean is its caller's affair.
//
// It promises: a payload that Append acknowledged is on disk, and is there, in
// its place, whenever the journal is read again, across crashes of the process
// and of the machine. What a crash cut off in the middle of an Append is dropped
// from the end, so that a batch may come back in part, as its first payloads;
// a last record that was damaged later looks the same, and goes the same way.
// Any other damage is reported ([CorruptError]) rather than read past: no list
// of payloads is ever wrong. One process at a time can write.
//
// A journal is a text file, one record a line: CRC-32C in hexadecimal, sequence
// number from 1, payload; the sum covers all that follows it but the newline.
//
//	e6d44b81 1 first payload
//	173a1569 2 second payload
package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

// ErrLocked is returned by Open and Create where another process (or another
// Journal of this one) has the journal.
var ErrLocked = errors.New("another process is writing the journal")

// CorruptError says that a journal holds what no crash of its writer leaves
// behind. Nothing was read from it and nothing changed in it.
type CorruptError struct {
	Path   string
	Offset int64 // where the bad line begins, in bytes
	Line   int   // its number, from 1
	Why    string
	Hint   string // what to do
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal %s:%d (byte %d) is damaged: %s; %s", e.Path, e.Line, e.Offset, e.Why, e.Hint)
}

// Journal is a journal open for writing. Its methods may be called by several
// goroutines.
type Journal struct {
	mu     sync.Mutex
	f      file
	path   string
	size   int64  // bytes that are known to be whole records
	last   uint64 // sequence number of the last record
	failed error  // the first failure; no record is written after it
	closed bool
}

// file is what a journal does to the file that it writes.
type file interface {
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	io.Closer
}

// Create makes an empty journal, mode 0600, for writing. It fails with
// os.ErrExist where there is one.
func Create(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot create the journal: %w", err)
	}
	held, err := lock(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot create the journal %s: %w", path, err)
	}
	if err := syncFolder(path); err != nil {
		os.Remove(path) // else it would be in the way of the next try
		held.Close()
		return nil, fmt.Errorf("cannot create the journal %s: %w", path, err)
	}
	return &Journal{f: held, path: path}, nil
}

// Open opens a journal for writing and returns the payloads in it. What a crash
// left half-written at its end is cut off. All that is returned is on disk,
// also where the writer died before it could see to that. It fails with
// ErrLocked, os.ErrNotExist or a *CorruptError.
func Open(path string) (*Journal, [][]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the journal: %w", err)
	}
	held, err := lock(f)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("cannot open the journal %s: %w", path, err)
	}
	j, payloads, err := recoverFrom(held, path)
	if err != nil {
		held.Close()
		return nil, nil, err
	}
	return j, payloads, nil
}

func recoverFrom(f locked, path string) (*Journal, [][]byte, error) {
	payloads, size, err := load(f.File, path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > size {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncFolder(path) // its creator may have died before it did
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot recover the journal %s: %w", path, err)
	}
	return &Journal{f: f, path: path, size: size, last: uint64(len(payloads))}, payloads, nil
}

// Read returns the payloads in a journal and whether a process has it open for
// writing. It changes nothing and disturbs no writer; what is being written may
// be missing at the end. It fails with os.ErrNotExist or a *CorruptError.
func Read(path string) (payloads [][]byte, writing bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, fmt.Errorf("cannot read the journal: %w", err)
	}
	defer f.Close()
	// Asked first: a writer that ends in between has then written all there is.
	if writing, err = isLocked(f); err != nil {
		return nil, false, fmt.Errorf("cannot read the journal %s: %w", path, err)
	}
	payloads, _, err = load(f, path)
	return payloads, writing, err
}

func load(f *os.File, path string) (payloads [][]byte, size int64, err error) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the journal %s: %w", path, err)
	}
	payloads, size, bad := parse(text)
	if bad != nil {
		bad.Path = path
		return nil, 0, bad
	}
	return payloads, size, nil
}

// Append writes payloads, in one write and one fsync. None may hold a newline.
// After nil they are on disk. After an error none may be relied on, and as
// nobody can tell what a failed fsync left on disk, every later Append fails
// with the same error: open the journal again to go on.
func (j *Journal) Append(payloads ...[]byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return j.failed
	}
	if j.closed {
		return fmt.Errorf("journal %s: %w", j.path, os.ErrClosed)
	}
	if len(payloads) == 0 {
		return nil
	}
	var b []byte
	for i, p := range payloads {
		if bytes.IndexByte(p, '\n') >= 0 {
			return fmt.Errorf("journal %s: payload %d of %d holds a newline", j.path, i+1, len(payloads))
		}
		b = appendRecord(b, j.last+uint64(i)+1, p)
	}
	n, err := j.f.WriteAt(b, j.size)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.failed = fmt.Errorf("cannot write the journal %s, nothing more is recorded in it: %w", j.path, err)
		// Best effort: what stays is a torn tail, or records that were not
		// acknowledged, and Open copes with both.
		_ = j.f.Truncate(j.size)
		return j.failed
	}
	j.size += int64(len(b))
	j.last += uint64(len(payloads))
	return nil
}

// Close lets others open the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fmt.Errorf("journal %s: %w", j.path, os.ErrClosed)
	}
	j.closed = true
	return j.f.Close()
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumLen = 8 // of the checksum, in hexadecimal digits

func appendRecord(b []byte, seq uint64, payload []byte) []byte {
	body := append(strconv.AppendUint(nil, seq, 10), ' ')
	body = append(body, payload...)
	b = fmt.Appendf(b, "%08x ", crc32.Checksum(body, castagnoli))
	return append(append(b, body...), '\n')
}

// parse returns the payloads in text and the length of what holds them. What
// follows is the torn tail: one record that a crash cut off or left unwritten.
func parse(text []byte) (payloads [][]byte, size int64, bad *CorruptError) {
	corrupt := func(why string) *CorruptError {
		return &CorruptError{
			Offset: size, Line: len(payloads) + 1, Why: why,
			Hint: fmt.Sprintf("keep a copy; cut to its first %d bytes it is a journal again, without what follows", size),
		}
	}
	for rest := text; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		seq, payload, ok := parseRecord(line)
		switch want := uint64(len(payloads)) + 1; {
		case !whole:
			return payloads, size, nil
		case !ok && len(after) == 0:
			return payloads, size, nil
		case !ok:
			return nil, 0, corrupt("the checksum does not match, and more records follow")
		case seq != want:
			return nil, 0, corrupt(fmt.Sprintf("record %d is where record %d should be", seq, want))
		}
		payloads = append(payloads, payload)
		size += int64(len(line)) + 1
		rest = after
	}
	return payloads, size, nil
}

// parseRecord takes the one spelling of a record, without its newline.
func parseRecord(line []byte) (seq uint64, payload []byte, ok bool) {
	if len(line) < sumLen+1 || line[sumLen] != ' ' {
		return 0, nil, false
	}
	sum, body := line[:sumLen], line[sumLen+1:]
	if string(fmt.Appendf(nil, "%08x", crc32.Checksum(body, castagnoli))) != string(sum) {
		return 0, nil, false
	}
	number, payload, ok := bytes.Cut(body, []byte(" "))
	seq, err := strconv.ParseUint(string(number), 10, 64)
	if !ok || err != nil || strconv.FormatUint(seq, 10) != string(number) {
		return 0, nil, false
	}
	return seq, slices.Clip(payload), true
}

// syncFolder makes the name of a file in its folder outlast a power cut.
func syncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
