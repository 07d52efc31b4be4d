package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// The test program is its own helper: a process that writes until it is killed,
// or until its disk is full.
func TestMain(m *testing.M) {
	switch os.Getenv("KIDO_JOURNAL_HELPER") {
	case "write":
		writeForever(os.Getenv("KIDO_JOURNAL_PATH"))
	case "fill":
		fill(os.Getenv("KIDO_JOURNAL_PATH"))
	}
	os.Exit(m.Run())
}

func helper(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "KIDO_JOURNAL_HELPER="+what, "KIDO_JOURNAL_PATH="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func list(words ...string) [][]byte {
	var all [][]byte
	for _, w := range words {
		all = append(all, []byte(w))
	}
	return all
}

func equal(a, b [][]byte) bool {
	return bytes.Equal(bytes.Join(a, []byte("\n")), bytes.Join(b, []byte("\n"))) && len(a) == len(b)
}

// sampleBatches have an empty payload, one that looks like a record, and raw bytes.
var sampleBatches = [][][]byte{
	list("first"), list("", "00000000 2 2/4 x", "\xff \r\t", "the last of four"), list("one more", "the last one"),
}

// payloads joins batches.
func payloads(batches ...[][]byte) [][]byte { return slices.Concat(batches...) }

// encode is the text of a journal, and where each batch ends.
func encode(batches ...[][]byte) (text []byte, ends []int) {
	for i, b := range batches {
		text = appendBatch(text, uint64(i)+1, b)
		ends = append(ends, len(text))
	}
	return text, ends
}

// sample writes sampleBatches to a new journal and closes it.
func sample(t *testing.T) (path string, text []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "j")
	j, err := Create(path)
	must(t, err)
	for _, b := range sampleBatches {
		must(t, j.Append(b...))
		must(t, j.Append())
	}
	must(t, j.Close())
	text, err = os.ReadFile(path)
	must(t, err)
	return path, text
}

func TestAppendAndOpen(t *testing.T) {
	t.Parallel()
	path, text := sample(t)
	if !strings.HasPrefix(string(text), "986dce1e 1 1/1 first\n") {
		t.Errorf("not in the documented form: %q", text)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info.Mode(), err)
	}
	j, got, err := Open(path)
	must(t, err)
	if !equal(got, payloads(sampleBatches...)) {
		t.Errorf("got %q", got)
	}
	must(t, j.Append([]byte("more")))
	want := append(payloads(sampleBatches...), []byte("more"))
	if got, locked, err := Read(path); err != nil || !locked || !equal(got, want) {
		t.Errorf("read beside the writer: %q, locked %v, %v", got, locked, err)
	}
	for _, bad := range []string{"not\nfine", "\x00"} {
		if err := j.Append([]byte("fine"), []byte(bad)); err == nil || !strings.Contains(err.Error(), "payload 2 of 2 holds a newline or a zero byte") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	must(t, j.Append()) // nothing was written, nothing is poisoned
	must(t, j.Close())
	if err := j.Append([]byte("late")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if err := j.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if got, locked, err := Read(path); err != nil || locked || !equal(got, want) {
		t.Errorf("read after close: %q, locked %v, %v", got, locked, err)
	}
	if _, err := Create(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("create over a journal: %v", err)
	}
	if _, _, err := Open(path + "2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open of none: %v", err)
	}
	if _, _, err := Read(path + "2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("read of none: %v", err)
	}
	if _, err := Create(filepath.Join(path, "x")); err == nil {
		t.Error("create below a file")
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j")
	j, err := Create(path)
	must(t, err)
	if _, _, err := Open(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	// Another process is kept out too, and a failed Open takes no lock away.
	cmd := helper(t, "write", path)
	cmd.Stderr = nil
	if out, err := cmd.Output(); err == nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Errorf("another process: %v, %s", err, out)
	}
	must(t, j.Append([]byte("mine")))
	must(t, j.Close())
	j, got, err := Open(path)
	must(t, err)
	defer j.Close()
	if !equal(got, list("mine")) {
		t.Errorf("got %q", got)
	}
}

// TestCloseUnlocks holds the file open a second time, as a child does that is
// being started while the journal is closed.
func TestCloseUnlocks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j")
	j, err := Create(path)
	must(t, err)
	fd, err := syscall.Dup(int(j.f.(locked).Fd()))
	must(t, err)
	defer syscall.Close(fd)
	must(t, j.Close())
	j, _, err = Open(path)
	must(t, err)
	must(t, j.Close())
}

func TestConcurrentAppend(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j")
	j, err := Create(path)
	must(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if err := j.Append([]byte("a"), []byte("b")); err != nil {
					t.Error(err)
				}
				if _, _, err := Read(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, j.Close())
	got, _, err := Read(path)
	if err != nil || len(got) != 160 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i, p := range got {
		if string(p) != string("ab"[i%2]) {
			t.Fatalf("batches are mixed at record %d", i+1)
		}
	}
}

// faulty fails once, in one way.
type faulty struct {
	file
	write    int   // bytes to write before failing; -1: all
	writeErr error // nil with write ≥ 0: a short write without a word
	syncErr  error
	truncErr error
}

func (f *faulty) WriteAt(b []byte, off int64) (int, error) {
	if f.write < 0 {
		return f.file.WriteAt(b, off)
	}
	n, err := f.file.WriteAt(b[:min(f.write, len(b))], off)
	if err == nil {
		err = f.writeErr
	}
	return n, err
}

func (f *faulty) Sync() error {
	if f.syncErr != nil {
		return f.syncErr
	}
	return f.file.Sync()
}

func (f *faulty) Truncate(n int64) error {
	if f.truncErr != nil {
		return f.truncErr
	}
	return f.file.Truncate(n)
}

func TestPoisoned(t *testing.T) {
	t.Parallel()
	rotten := errors.New("truncate fails too")
	for _, c := range []struct {
		name   string
		fault  faulty
		is     error
		extra  int  // batches that an unacknowledged Append may leave
		intact bool // the file is as long as it was
	}{
		{"disk full at once", faulty{write: 0, writeErr: syscall.ENOSPC}, syscall.ENOSPC, 0, true},
		{"disk full in the middle", faulty{write: 20, writeErr: syscall.ENOSPC}, syscall.ENOSPC, 0, true},
		{"short write", faulty{write: 20}, io.ErrShortWrite, 0, true},
		{"fsync fails", faulty{write: -1, syncErr: syscall.EIO}, syscall.EIO, 0, true},
		{"disk full and stuck", faulty{write: 20, writeErr: syscall.ENOSPC, truncErr: rotten}, syscall.ENOSPC, 0, false},
		{"fsync fails and stuck", faulty{write: -1, syncErr: syscall.EIO, truncErr: rotten}, syscall.EIO, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path, text := sample(t)
			j, _, err := Open(path)
			must(t, err)
			sound := j.f
			c.fault.file = sound
			j.f = &c.fault
			first := j.Append([]byte("lost"), []byte("lost too"))
			if !errors.Is(first, c.is) {
				t.Fatalf("got %v, want %v", first, c.is)
			}
			j.f = sound // the disk is well again, and yet:
			if err := j.Append([]byte("later")); err != first {
				t.Errorf("a later append: %v", err)
			}
			must(t, j.Close())
			after, err := os.ReadFile(path)
			must(t, err)
			if c.intact != bytes.Equal(after, text) {
				t.Errorf("file after the failure: %q", after)
			}
			whole := append(slices.Clip(sampleBatches), list("lost", "lost too"))
			if n, err := recovered(t, path, after, whole); err != nil || n != len(sampleBatches)+c.extra {
				t.Errorf("%d batches, %v", n, err)
			}
		})
	}
}

// writeForever appends "N" and, once it is acknowledged, says so.
func writeForever(path string) {
	j, got, err := Open(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for n := len(got) + 1; ; n += 3 {
		if err := j.Append([]byte(strconv.Itoa(n)), []byte(strconv.Itoa(n+1)), []byte(strconv.Itoa(n+2))); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n + 2)
	}
}

func TestKilledWriter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j")
	j, err := Create(path)
	must(t, err)
	must(t, j.Close())
	for round := range 20 {
		cmd := helper(t, "write", path)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		acked, lines := 0, bufio.NewScanner(out)
		for seen := 0; lines.Scan(); seen++ {
			if acked, err = strconv.Atoi(lines.Text()); err != nil {
				t.Errorf("the writer says %q", lines.Text())
				break
			}
			if seen == 2+round {
				must(t, cmd.Process.Kill()) // SIGKILL, and what it still says counts
			}
		}
		_ = cmd.Wait()
		got, locked, err := Read(path)
		if err != nil || locked || len(got) < acked || len(got)%3 != 0 {
			t.Fatalf("round %d: %d records, %d acknowledged, locked %v, %v", round, len(got), acked, locked, err)
		}
		for i, p := range got {
			if string(p) != strconv.Itoa(i+1) {
				t.Fatalf("round %d: record %d is %q", round, i+1, p)
			}
		}
	}
}

// fill mounts a tiny file system over path, where only this process sees it,
// and writes a journal there until it is full.
func fill(path string) {
	check := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	check(syscall.Mount("tmpfs", path, "tmpfs", 0, "size=16k"))
	path = filepath.Join(path, "j")
	j, err := Create(path)
	check(err)
	payload := bytes.Repeat([]byte("x"), 700)
	n := 0
	for ; err == nil; n++ {
		err = j.Append(payload)
	}
	n-- // the last one failed
	if again := j.Append(nil); !errors.Is(err, syscall.ENOSPC) || again != err {
		check(fmt.Errorf("append: %v, then %v", err, again))
	}
	check(j.Close())
	j, got, err := Open(path)
	check(err)
	if len(got) != n || n == 0 {
		check(fmt.Errorf("%d records, %d acknowledged", len(got), n))
	}
	check(j.Close())
	text, err := os.ReadFile(path)
	check(err)
	if c, bad := parse(text); bad != nil || int(c.size) != len(text) {
		check(fmt.Errorf("a partial write was left: %d of %d bytes, %v", c.size, len(text), bad))
	}
	fmt.Println("held")
	os.Exit(0)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	cmd := helper(t, "fill", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.Output()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EACCES) ||
		strings.Contains(string(out), "not permitted") || strings.Contains(string(out), "denied") {
		t.Skipf("SKIPPED: no full disk here: user namespaces and mounts in them are needed: %v %s", err, out)
	}
	if err != nil || string(out) != "held\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// BenchmarkAppend compares with the floor: a write and an fsync of as many
// bytes to a bare file.
func BenchmarkAppend(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		must(b, err)
		defer f.Close()
		line := bytes.Repeat([]byte("x"), 200)
		for b.Loop() {
			_, err := f.Write(line)
			must(b, errors.Join(err, f.Sync()))
		}
	})
	for _, batch := range []int{1, 16} {
		b.Run(strconv.Itoa(batch), func(b *testing.B) {
			j, err := Create(filepath.Join(b.TempDir(), "j"))
			must(b, err)
			defer j.Close()
			all := make([][]byte, batch)
			for i := range all {
				all[i] = bytes.Repeat([]byte("x"), 200)
			}
			for b.Loop() {
				must(b, j.Append(all...))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/record")
		})
	}
}

// BenchmarkOpen reads a journal of 100,000 records back.
func BenchmarkOpen(b *testing.B) {
	var text []byte
	payload := bytes.Repeat([]byte("x"), 200)
	for i := range 100_000 {
		text = appendBatch(text, uint64(i)+1, [][]byte{payload})
	}
	path := filepath.Join(b.TempDir(), "j")
	must(b, os.WriteFile(path, text, 0o600))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		_, _, err := Read(path)
		must(b, err)
	}
}
