// Package journal is a crash-safe append-only record of byte payloads, written in
// batches; what they mean is its caller's affair.
//
// It promises: a batch that Append acknowledged is there, whole and in its place,
// whenever the journal is read again, or the journal is refused ([CorruptError]).
// No list of payloads is ever wrong. One process at a time can write.
//
// A crash of the process or of the machine leaves, of the one batch that was not
// acknowledged, any part: the file ends early, and sectors in it that were not
// written yet are zeros, also before others that were. Such a batch is dropped as
// a whole, for nobody has acted on it, and a part of it may say what never was.
// Nothing else passes for torn, least of all one bit that is wrong in the last
// record: a sum that does not match is damage unless the line ends with the file,
// or holds a sector of zeros. One bit can do neither, for payloads hold no zero
// byte, and a whole record that lacks nothing but its newline is known as such.
//
// A journal is a text file, one record a line: CRC-32C in hexadecimal, number of
// the batch from 1, place in the batch, payload; the sum covers all that follows
// it but the newline.
//
//	9d1b7fd6 1 1/1 first payload
//	cb6a7ca2 2 1/2 second payload
//	bb4b5838 2 2/2 third payload
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
	size   int64  // bytes that are known to be whole batches
	batch  uint64 // number of the last one
	failed error  // the first failure; no record is written after it
	closed bool
}

// file is what a journal does to the file that it writes.
type file interface {
	io.ReaderAt
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

// Open opens a journal for writing and returns the payloads in it. A batch that a
// crash left half-written at its end is cut off. All that is returned is on disk,
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
	if err := syncFolder(path); err != nil { // its creator may have died before it did
		held.Close()
		return nil, nil, fmt.Errorf("cannot open the journal %s: %w", path, err)
	}
	return j, payloads, nil
}

func recoverFrom(f file, path string) (*Journal, [][]byte, error) {
	text, c, err := load(f, path)
	if err != nil {
		return nil, nil, err
	}
	if int64(len(text)) > c.size {
		err = f.Truncate(c.size)
	}
	if err == nil {
		// Its fsync may have failed just before the writer died: then the kernel
		// shows it, takes it for written, and would fsync nothing.
		_, err = f.WriteAt(text[c.last:c.size], c.last)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot recover the journal %s: %w", path, err)
	}
	return &Journal{f: f, path: path, size: c.size, batch: c.batches}, c.payloads, nil
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
	_, c, err := load(f, path)
	return c.payloads, writing, err
}

func load(f io.ReaderAt, path string) (text []byte, c content, err error) {
	text, err = io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	if err != nil {
		return nil, content{}, fmt.Errorf("cannot read the journal %s: %w", path, err)
	}
	c, bad := parse(text)
	if bad != nil {
		bad.Path = path
		return nil, content{}, bad
	}
	return text, c, nil
}

// Append writes payloads as one batch, in one write and one fsync. None may hold
// a newline or a zero byte. After nil they are on disk. After an error none may be
// relied on, and as nobody can tell what a failed fsync left on disk, every later
// Append fails with the same error: open the journal again to go on.
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
	for i, p := range payloads {
		if bytes.ContainsAny(p, "\n\x00") {
			return fmt.Errorf("journal %s: payload %d of %d holds a newline or a zero byte", j.path, i+1, len(payloads))
		}
	}
	b := appendBatch(nil, j.batch+1, payloads)
	n, err := j.f.WriteAt(b, j.size)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.failed = fmt.Errorf("cannot write the journal %s, nothing more is recorded in it: %w", j.path, err)
		// Best effort: what stays is a torn batch, or a whole one that was not
		// acknowledged, and Open copes with both.
		_ = j.f.Truncate(j.size)
		return j.failed
	}
	j.size += int64(len(b))
	j.batch++
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

var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

const (
	sumLen = 8 // of the checksum, in hexadecimal digits
	// sector is the least that a disk writes at once, in bytes; pages and blocks
	// are whole multiples of it.
	sector = 512
)

// record is one line of a journal: a payload, the index-th of the "of" in its batch.
type record struct {
	batch, index, of uint64
	payload          []byte
}

func (r record) String() string {
	return fmt.Sprintf("record %d/%d of batch %d", r.index, r.of, r.batch)
}

func (r record) append(b []byte) []byte {
	body := fmt.Appendf(nil, "%d %d/%d %s", r.batch, r.index, r.of, r.payload)
	b = fmt.Appendf(b, "%08x ", crc32.Checksum(body, castagnoli()))
	return append(append(b, body...), '\n')
}

func appendBatch(b []byte, batch uint64, payloads [][]byte) []byte {
	for i, p := range payloads {
		b = record{batch, uint64(i) + 1, uint64(len(payloads)), p}.append(b)
	}
	return b
}

// content is what a journal holds.
type content struct {
	payloads [][]byte
	batches  uint64
	size     int64 // of the whole batches, in bytes; what follows is torn
	last     int64 // where the last of them begins
}

// parse takes the whole batches of a journal, and makes sure that what follows them
// is nothing but what a crash leaves of one more.
func parse(text []byte) (content, *CorruptError) {
	var c content
	var batch [][]byte // what was read of the one after c
	var of uint64      // how many records that one has, once the first has said so
	torn := false      // a part of it was never written
	for at, line := 0, 1; at < len(text); line++ {
		damaged := func(why string) (content, *CorruptError) {
			hint := "put it aside: nothing before that is whole"
			if c.size > 0 {
				hint = fmt.Sprintf("keep a copy; cut to its first %d bytes it is a journal again, without what follows", c.size)
			}
			return content{}, &CorruptError{Offset: int64(at), Line: line, Why: why, Hint: hint}
		}
		row, _, ended := bytes.Cut(text[at:], []byte("\n"))
		r, why := parseRecord(row)
		fits := r.batch == c.batches+1 && (torn || r.index == uint64(len(batch))+1 && (r.index == 1 || r.of == of))
		switch {
		case why != "" && unwritten(text, int(c.size), at, at+len(row)):
			torn = true
		case !ended:
			if _, why := parseRecord(row[:len(row)-1]); why == "" {
				return damaged("the newline after the last record is another byte")
			}
			return c, nil
		case why != "":
			return damaged(why)
		case !fits && torn:
			return damaged(fmt.Sprintf("%s follows, and a part of batch %d was never written", r, c.batches+1))
		case !fits:
			return damaged(fmt.Sprintf("%s is where record %d of batch %d should be", r, len(batch)+1, c.batches+1))
		case !torn:
			batch, of = append(batch, r.payload), r.of
		}
		at += len(row) + 1
		if !torn && uint64(len(batch)) == of {
			c = content{payloads: append(c.payloads, batch...), batches: c.batches + 1, size: int64(at), last: c.size}
			batch = nil
		}
	}
	return c, nil
}

// unwritten reports whether all of a sector's share of the batch that begins at
// start lies in [from, to) of text, a line, and is zeros.
func unwritten(text []byte, start, from, to int) bool {
	for begin := from - from%sector; begin < to; begin += sector {
		first, end := max(begin, start), min(begin+sector, len(text))
		if first >= from && end <= to && len(bytes.Trim(text[first:end], "\x00")) == 0 {
			return true
		}
	}
	return false
}

// parseRecord takes the one spelling of a record, without its newline; why is what
// is wrong with it, "" for nothing.
func parseRecord(line []byte) (r record, why string) {
	if len(line) < sumLen+1 || line[sumLen] != ' ' ||
		string(fmt.Appendf(nil, "%08x", crc32.Checksum(line[sumLen+1:], castagnoli()))) != string(line[:sumLen]) {
		return record{}, "the checksum does not match"
	}
	batch, rest, _ := bytes.Cut(line[sumLen+1:], []byte(" "))
	place, payload, whole := bytes.Cut(rest, []byte(" "))
	index, of, _ := bytes.Cut(place, []byte("/"))
	number := func(text []byte) uint64 {
		n, err := strconv.ParseUint(string(text), 10, 64)
		whole = whole && err == nil && n > 0 && strconv.FormatUint(n, 10) == string(text)
		return n
	}
	r = record{number(batch), number(index), number(of), slices.Clip(payload)}
	if !whole || r.index > r.of {
		return record{}, "the checksum matches, and it is in no form that this kido writes"
	}
	return r, ""
}

// syncFolder makes the name of a file in its folder outlast a power cut.
func syncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
