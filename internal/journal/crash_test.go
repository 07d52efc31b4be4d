package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// recovered opens a journal that holds text, and checks what every recovery must
// hold: the first batches, whole, or a refusal that changes nothing; the same for
// Read; and a journal that goes on.
func recovered(t *testing.T, path string, text []byte, batches [][][]byte) (n int, err error) {
	t.Helper()
	must(t, os.WriteFile(path, text, 0o600))
	seen, _, readErr := Read(path)
	j, got, err := Open(path)
	if (readErr == nil) != (err == nil) || !equal(seen, got) {
		t.Fatalf("%q: Read gives %q, %v; Open gives %q, %v", text, seen, readErr, got, err)
	}
	if err != nil {
		bad, ok := errors.AsType[*CorruptError](err)
		if !ok || got != nil || bad.Path != path || bad.Why == "" || bad.Hint == "" ||
			bad.Line != bytes.Count(text[:bad.Offset], []byte("\n"))+1 {
			t.Fatalf("%q: not a full report: %#v, %q", text, err, got)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, text) {
			t.Fatalf("%q: refused and changed", text)
		}
		return 0, err
	}
	n = prefix(got, batches)
	if n < 0 {
		t.Fatalf("%q: wrong list: %q", text, got)
	}
	must(t, j.Append([]byte("next")))
	must(t, j.Close())
	again, _, err := Read(path)
	if err != nil || !equal(again, append(slices.Clip(got), []byte("next"))) {
		t.Fatalf("%q: does not go on: %q, %v", text, again, err)
	}
	return n, nil
}

// prefix is how many whole batches a list holds; -1 where it is no such list.
func prefix(list [][]byte, batches [][][]byte) int {
	for n := range len(batches) + 1 {
		if equal(list, payloads(batches[:n]...)) {
			return n
		}
	}
	return -1
}

// long are batches over several sectors, with the bytes that one bit makes zero
// wherever a sector may begin or end.
func long() [][][]byte {
	return [][][]byte{
		list("begin"),
		list(strings.Repeat("@", 700), "", strings.Repeat(" @\x01\x80", 100)),
		list("x"),
		list(strings.Repeat("\x02", 300), strings.Repeat("J", 900)), // J and newline are one bit apart
	}
}

// A file that ends early holds the batches that are whole in it, and no part of
// another.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	path, sampled := sample(t)
	for _, batches := range [][][][]byte{sampleBatches, long()} {
		text, ends := encode(batches...)
		for n := range len(text) + 1 {
			want := 0
			for want < len(ends) && ends[want] <= n {
				want++
			}
			c, bad := parse(text[:n])
			if bad != nil || !equal(c.payloads, payloads(batches[:want]...)) {
				t.Fatalf("cut after %d bytes: %q, %v; want %d batches", n, c.payloads, bad, want)
			}
			if bytes.HasPrefix(sampled, text) { // and so in a file
				if got, err := recovered(t, path, text[:n], batches); err != nil || got != want {
					t.Fatalf("cut after %d bytes: %d batches, %v; want %d", n, got, err, want)
				}
			}
		}
	}
}

// One bit that is wrong anywhere is damage, in the very last byte too, wherever
// the batches begin and end in their sectors.
func TestFlipEveryBit(t *testing.T) {
	t.Parallel()
	flip := func(text []byte, check func(bad []byte, line int)) {
		for i := range text {
			for bit := range 8 {
				text[i] ^= 1 << bit
				check(text, bytes.Count(text[:i], []byte("\n"))+1)
				text[i] ^= 1 << bit
			}
		}
	}
	path, text := sample(t)
	flip(text, func(bad []byte, line int) {
		_, err := recovered(t, path, bad, sampleBatches)
		if bad, ok := errors.AsType[*CorruptError](err); !ok || bad.Line != line {
			t.Fatalf("damage in line %d: %v", line, err)
		}
	})
	// Of the long ones the first batch grows, and with it the last one begins and
	// ends at every place of a sector; where all of it is behind, a step will do.
	for grown := 0; grown < sector; grown += 171 {
		batches := long()
		batches[0] = list(strings.Repeat("b", grown))
		text, _ := encode(batches...)
		flip(text, func(bad []byte, line int) {
			if c, err := parse(bad); err == nil || err.Line != line {
				t.Fatalf("grown by %d, damage in line %d: %d batches, %v", grown, line, c.batches, err)
			}
		})
	}
	for grown := range sector {
		text, ends := encode(list(strings.Repeat("b", grown)), list("x"))
		tail := text[ends[0]:]
		flip(tail, func([]byte, int) {
			if c, err := parse(text); err == nil {
				t.Fatalf("grown by %d: damage in %q was not seen: %d batches", grown, tail, c.batches)
			}
		})
	}
}

// block is what a disk writes at once.
const block = 512

// disk is a file on a machine whose power may fail: what programs see of it, and
// what is on the platter.
type disk struct {
	platter []byte
	cache   []byte
	dirty   map[int]bool // sectors that an fsync would write
	sick    bool         // an fsync fails, and the kernel takes all for written
	syncing func()       // called before an fsync, if not nil
}

func newDisk(platter []byte) *disk {
	return &disk{platter: bytes.Clone(platter), cache: bytes.Clone(platter), dirty: map[int]bool{}}
}

func (d *disk) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(d.cache).ReadAt(b, off)
}

func (d *disk) WriteAt(b []byte, off int64) (int, error) {
	if end := int(off) + len(b); end > len(d.cache) {
		d.cache = append(d.cache, make([]byte, end-len(d.cache))...)
	}
	copy(d.cache[off:], b)
	for at := int(off); at < int(off)+len(b); at += block - at%block {
		d.dirty[at/block] = true
	}
	return len(b), nil
}

func (d *disk) Truncate(size int64) error {
	d.cache = d.cache[:size:size]
	maps.DeleteFunc(d.dirty, func(s int, _ bool) bool { return s*block >= int(size) })
	return nil
}

func (d *disk) Sync() error {
	if d.syncing != nil {
		d.syncing()
	}
	if d.sick {
		d.dirty = map[int]bool{}
		return syscall.EIO
	}
	d.platter = d.written(slices.Collect(maps.Keys(d.dirty)), len(d.cache))
	d.dirty = map[int]bool{}
	return nil
}

func (d *disk) Close() error { return nil }

// written is the platter once some dirty sectors and a size have reached it.
func (d *disk) written(sectors []int, size int) []byte {
	b := append(bytes.Clone(d.platter), make([]byte, max(0, size-len(d.platter)))...)[:size]
	for _, s := range sectors {
		if at := s * block; at < size {
			copy(b[at:min(at+block, size)], d.cache[at:min(at+block, len(d.cache))])
		}
	}
	return b
}

// powerCut calls yield with all that a power cut may leave now: any of the dirty
// sectors, in any order, and any size between the old and the new one.
func (d *disk) powerCut(yield func([]byte)) {
	dirty := slices.Sorted(maps.Keys(d.dirty))
	low, high := min(len(d.platter), len(d.cache)), max(len(d.platter), len(d.cache))
	for set := range 1 << len(dirty) {
		var some []int
		for i, s := range dirty {
			if set&(1<<i) != 0 {
				some = append(some, s)
			}
		}
		for size := low; size <= high; size++ {
			// With some of the sectors, the sizes about the edges of sectors.
			edge := size%block <= 1 || size%block == block-1 || size >= high-1 || size <= low+1
			if edge || set == 0 || len(some) == len(dirty) {
				yield(d.written(some, size))
			}
		}
	}
}

// survives checks that any power cut now leaves least batches, or more of them
// where that many are whole.
func (d *disk) survives(t *testing.T, batches [][][]byte, least int) {
	t.Helper()
	d.powerCut(func(image []byte) {
		c, bad := parse(image)
		if n := prefix(c.payloads, batches); bad != nil || n < least {
			t.Fatalf("%d batches, want %d of %d: %v\n%q", n, least, len(batches), bad, image)
		}
	})
}

// TestPowerCut cuts the power at every point of an Append, and again at every
// point of the recovery from that: nothing that was acknowledged is lost, nothing
// is refused, and what was not acknowledged is there as a whole or not at all.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	last := list(strings.Repeat("p", 400), "q", strings.Repeat("r", 800))
	more := list("after the cut", strings.Repeat("s", 600))
	for grown := 0; grown < sector; grown += 97 {
		first := list(strings.Repeat("b", grown))
		written := [][][]byte{first, last}
		text, _ := encode(first)
		d := newDisk(text)
		j, _, err := recoverFrom(d, "j")
		must(t, err)
		cuts := 0
		d.syncing = func() {
			d.survives(t, written, 1)
			d.powerCut(func(image []byte) {
				if cuts++; cuts%211 == 0 { // a part of them will do for the second cut
					cutAgain(t, image, written, more)
				}
			})
		}
		must(t, j.Append(last...))
		d.syncing = nil
		d.survives(t, written, 2)
	}
}

// cutAgain recovers what a power cut left of written, and cuts the power in the
// course of that, and of another Append.
func cutAgain(t *testing.T, image []byte, written [][][]byte, more [][]byte) {
	t.Helper()
	c, bad := parse(image)
	n := prefix(c.payloads, written)
	if bad != nil || n < 0 {
		t.Fatalf("%d batches, %v", n, bad)
	}
	d := newDisk(image)
	d.syncing = func() { d.survives(t, written[:n], n) }
	j, got, err := recoverFrom(d, "j")
	must(t, err)
	if !equal(got, c.payloads) {
		t.Fatalf("recovered %q of %q", got, image)
	}
	whole := append(slices.Clone(written[:n]), more)
	d.syncing = func() { d.survives(t, whole, n) }
	must(t, j.Append(more...))
	d.syncing = nil
	d.survives(t, whole, n+1)
}

// An fsync that fails leaves in the cache what is not on the platter, and no later
// fsync writes it. Whatever is read after that must outlast a power cut all the
// same, whether the batch was taken back or the writer died before it could do so.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	batches := [][][]byte{list("first"), list(strings.Repeat("lost?", 300)), list("third")}
	for _, died := range []bool{false, true} {
		text, _ := encode(batches[0])
		d := newDisk(text)
		j, _, err := recoverFrom(d, "j")
		must(t, err)
		d.sick = true
		if died {
			j.f = untruncated{d}
		}
		if err := j.Append(batches[1]...); !errors.Is(err, syscall.EIO) {
			t.Fatalf("the failed fsync is told as %v", err)
		}
		d.survives(t, batches[:2], 1)
		d.sick = false
		j, got, err := recoverFrom(d, "j")
		must(t, err)
		n := prefix(got, batches)
		if n < 1 {
			t.Fatalf("recovered %q", got)
		}
		d.survives(t, batches[:n], n)
		must(t, j.Append(batches[2]...))
		d.survives(t, append(batches[:n:n], batches[2]), n+1)
	}
}

// untruncated is a disk whose writer dies before it can cut a file.
type untruncated struct{ *disk }

func (untruncated) Truncate(int64) error { return syscall.EINTR }

func TestCorrupt(t *testing.T) {
	t.Parallel()
	path, _ := sample(t)
	rec := func(batch, index, of uint64, payload string) string {
		return string(record{batch, index, of, []byte(payload)}.append(nil))
	}
	spelled := func(body string) string {
		return fmt.Sprintf("%08x %s\n", crc32.Checksum([]byte(body), castagnoli()), body)
	}
	one, two, three := rec(1, 1, 1, "one"), rec(2, 1, 2, "two"), rec(2, 2, 2, "three")
	fill := rec(2, 1, 2, strings.Repeat("f", 600)) // holds all of a sector
	brim := rec(2, 1, 1, strings.Repeat("f", sector-len(one)-len(rec(2, 1, 1, ""))+1))
	brim = strings.TrimSuffix(brim, "\n") // it ends with its sector
	hole := func(text string) string {    // without its second sector
		return text[:sector] + strings.Repeat("\x00", sector) + text[2*sector:]
	}
	for _, c := range []struct {
		name, text string
		n          int    // batches
		why        string // "" for recovered
		line       int
	}{
		{"empty", "", 0, "", 0},
		{"zeros after a power cut", one + strings.Repeat("\x00", 4096), 1, "", 0},
		{"zeros for a whole sector's share", one + strings.Repeat("\x00", sector-len(one)) + "f\n" + three, 1, "", 0},
		{"last record without its newline", one + strings.TrimSuffix(rec(2, 1, 1, "two"), "\n"), 1, "", 0},
		{"newline in a sector that was not written", one + brim + "\x00", 1, "", 0},
		{"newline in a sector that was written", one + brim + "\v", 0, "the newline after the last record", 2},
		{"batch without its end", one + two, 1, "", 0},
		{"batch with a hole", hole(one + fill + three + strings.Repeat(three, 30)), 1, "", 0},
		{"hole, and a later batch", hole(one + fill + rec(2, 2, 2, strings.Repeat("g", 500)) + rec(3, 1, 1, "four")), 0, "record 1/1 of batch 3 follows, and a part of batch 2 was never written", 3},
		{"bad last record", one + "deadbeef 2 1/1 two\n", 0, "the checksum does not match", 2},
		{"zero byte", strings.Replace(one+two+three, "three", "thr\x00e", 1), 0, "the checksum does not match", 3},
		{"zeros within a sector", one + fill[:100] + strings.Repeat("\x00", 300) + fill[400:] + three, 0, "the checksum does not match", 2},
		{"bad record before a good one", one + "deadbeef 2 1/2 two\n" + three, 0, "checksum", 2},
		{"bad record before a torn one", one + "deadbeef 2 1/2 two\n" + "dead", 0, "checksum", 2},
		{"newline of the last record", one + two + strings.TrimSuffix(three, "\n") + "\v", 0, "the newline after the last record is another byte", 3},
		{"empty line", one + "\n" + two + three, 0, "checksum", 2},
		{"gap", one + three, 0, "record 2/2 of batch 2 is where record 1 of batch 2 should be", 2},
		{"gap of a batch", one + rec(3, 1, 1, "three"), 0, "record 1/1 of batch 3 is where record 1 of batch 2 should be", 2},
		{"repeated", one + one, 0, "record 1/1 of batch 1 is where record 1 of batch 2 should be", 2},
		{"repeated within a batch", one + two + two, 0, "record 1/2 of batch 2 is where record 2 of batch 2 should be", 3},
		{"batch of another length", one + rec(2, 1, 3, "two") + three, 0, "record 2/2 of batch 2 is where", 3},
		{"first is missing", two + three, 0, "record 1/2 of batch 2 is where record 1 of batch 1 should be", 1},
		{"another file", "root:x:0:0\nbin:x:1:1\n", 0, "checksum", 1},
		{"sum in capitals", strings.ToUpper(one[:8]) + one[8:] + two + three, 0, "checksum", 1},
		{"of an older kido", spelled("1 one"), 0, "in no form that this kido writes", 1},
		{"number in another spelling", spelled("01 1/1 one"), 0, "in no form", 1},
		{"from zero", spelled("0 1/1 one"), 0, "in no form", 1},
		{"record 0", spelled("1 0/1 one"), 0, "in no form", 1},
		{"more than all", spelled("1 2/1 one"), 0, "in no form", 1},
		{"no payload", spelled("1 1/1"), 0, "in no form", 1},
	} {
		n, err := recovered(t, path, []byte(c.text), [][][]byte{list("one"), list("two", "three")})
		bad, _ := errors.AsType[*CorruptError](err)
		switch {
		case c.why == "" && (err != nil || n != c.n):
			t.Errorf("%s: %d batches, %v", c.name, n, err)
		case c.why != "" && (bad == nil || !strings.Contains(bad.Why, c.why) || bad.Line != c.line):
			t.Errorf("%s: %v", c.name, err)
		case bad != nil:
			// The hint is true: cut there, it is a journal.
			size := 0
			if _, err := fmt.Sscanf(bad.Hint, "keep a copy; cut to its first %d bytes", &size); err != nil && !strings.HasPrefix(bad.Hint, "put it aside") {
				t.Errorf("%s: hint: %s", c.name, bad.Hint)
			}
			if c, still := parse([]byte(c.text)[:size]); still != nil || int(c.size) != size {
				t.Errorf("cut at %d it is no journal", size)
			}
		}
	}
	if got := (&CorruptError{Path: "/j", Offset: 40, Line: 3, Why: "w", Hint: "h"}).Error(); got != "journal /j:3 (byte 40) is damaged: w; h" {
		t.Errorf("told as %q", got)
	}
}

// FuzzParse takes any text as a journal, and what is left of it where the power
// was cut and where a bit went wrong.
func FuzzParse(f *testing.F) {
	f.Add([]byte("00000000 1 1/1 x\n"), uint(0))
	for _, batches := range [][][][]byte{sampleBatches, long()} {
		text, _ := encode(batches...)
		f.Add(text, uint(len(text)-1))
		f.Add(text[:len(text)-3], uint(7))
	}
	f.Fuzz(func(t *testing.T, text []byte, at uint) {
		c, bad := parse(text)
		if bad != nil {
			if c.payloads != nil || bad.Offset > int64(len(text)) || bad.Line != bytes.Count(text[:bad.Offset], []byte("\n"))+1 {
				t.Errorf("a list beside an error, or at no line: %q, %#v", c.payloads, bad)
			}
			return
		}
		// What was read is written back as it was.
		n := 0
		for line := range bytes.Lines(text[:c.size]) {
			r, why := parseRecord(bytes.TrimSuffix(line, []byte("\n")))
			if why != "" || !bytes.Equal(r.append(nil), line) || !bytes.Equal(r.payload, c.payloads[n]) {
				t.Errorf("%q is read as %v %q, %s", line, r, c.payloads[n], why)
			}
			n++
		}
		if n != len(c.payloads) {
			t.Errorf("%d lines, %d payloads", n, len(c.payloads))
		}
		text = text[:c.size]
		if len(text) == 0 || bytes.IndexByte(text, 0) >= 0 {
			return
		}
		damage(t, text, c.payloads, at)
	})
}

// damage cuts a whole journal at a byte, turns a bit of it, and takes a sector
// out of it.
func damage(t *testing.T, text []byte, all [][]byte, at uint) {
	t.Helper()
	i := int(at/8) % len(text)
	short, bad := parse(text[:i])
	if bad != nil || !equal(short.payloads, all[:len(short.payloads)]) || i > 0 && int(short.size) > i {
		t.Errorf("%q cut at %d: %q, %v", text, i, short.payloads, bad)
	}
	turned := bytes.Clone(text)
	turned[i] ^= 1 << (at % 8)
	if c, bad := parse(turned); bad == nil {
		t.Errorf("%q with bit %d of byte %d turned is read as %q", text, at%8, i, c.payloads)
	}
	blank := bytes.Clone(text)
	clear(blank[i-i%sector : min(i-i%sector+sector, len(text))])
	if c, bad := parse(blank); bad == nil && !equal(c.payloads, all[:len(c.payloads)]) {
		t.Errorf("%q without the sector of byte %d is read as %q", text, i, c.payloads)
	}
}

// FuzzBatches writes a journal of any payloads: a batch per 0xff, a payload per
// newline.
func FuzzBatches(f *testing.F) {
	f.Add([]byte("a\nb\xffc"), uint(9))
	for _, batches := range [][][][]byte{sampleBatches, long()} {
		var words [][]byte
		for _, b := range batches {
			words = append(words, bytes.Join(b, []byte("\n")))
		}
		f.Add(bytes.Join(words, []byte("\xff")), uint(2000))
	}
	f.Fuzz(func(t *testing.T, words []byte, at uint) {
		words = bytes.ReplaceAll(words, []byte("\x00"), nil)
		var batches [][][]byte
		for b := range bytes.SplitSeq(words, []byte("\xff")) {
			batches = append(batches, bytes.Split(b, []byte("\n")))
		}
		text, _ := encode(batches...)
		c, bad := parse(text)
		if bad != nil || prefix(c.payloads, batches) != len(batches) || int(c.size) != len(text) {
			t.Fatalf("%q is read as %q, %v", text, c.payloads, bad)
		}
		damage(t, text, c.payloads, at)
	})
}
