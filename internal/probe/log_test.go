package probe_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
)

func TestFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	keep(t, in("file"), "state: up\nrole: primary\n", 0o644)
	keep(t, in("long"), strings.Repeat("x", 1<<20)+"needle", 0o644)
	keep(t, in("empty"), "", 0o644)
	if err := syscall.Mkfifo(in("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"link": "file", "dangling": "none", "loop": "loop"} {
		if err := os.Symlink(to, in(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		file, match, want string
		untried           bool
	}{
		{in("file"), "", "", false},
		{in("link"), "", "", false},
		{in("empty"), "", "", false},
		{in("pipe"), "", "", false}, // there it is
		{dir, "", "", false},
		{in("none"), "", in("none") + ": no such file or directory", false},
		{in("dangling"), "", in("dangling") + ": no such file or directory", false},
		{in("file/x"), "", in("file/x") + ": not a directory", false},
		{in("loop"), "", in("loop") + ": too many levels of symbolic links", true},
		{in("file"), "(?m)^role: primary$", "", false},
		{in("file"), "standby", in("file") + " does not hold standby", false},
		{in("empty"), "x", in("empty") + " does not hold x", false},
		{in("long"), "needle", in("long") + " does not hold needle", false},
		{in("pipe"), "x", in("pipe") + " is not a file", false},
		{dir, "x", dir + " is not a file", false},
		{"/dev/zero", "x", "/dev/zero is not a file", false},
		{in("none"), "x", in("none") + ": no such file or directory", false},
	} {
		s := probe.Spec{Kind: probe.KindFile, Target: x.file, Timeout: long}
		if x.match != "" {
			s.Options = options("match", x.match)
		}
		a := probe.Local{}.Try(t.Context(), s)
		if a.Ready != (x.want == "") || a.Word != x.want || a.Untried != x.untried {
			t.Errorf("%s, %q: got %+v, want %q", x.file, x.match, a, x.want)
		}
		if b := (probe.Local{}).Try(t.Context(), probe.Spec{Kind: probe.KindNot, Of: []probe.Spec{s}}); b.Ready != (x.want != "" && !x.untried) || b.Untried != x.untried {
			t.Errorf("not %s, %q: got %+v", x.file, x.match, b)
		}
	}
}

func TestLogFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const begins, match = "^start", "ready$"
	const yet, none = "no line matching ready$ yet in this incarnation", " matches ^start, with which an incarnation begins"
	started := time.Now()
	written := map[string]time.Time{"older": started.Add(-time.Second), "a tick older": started.Add(-5 * time.Millisecond)}
	x64 := strings.Repeat("x", 64<<10)
	for name, x := range map[string]struct{ text, want string }{
		"ready":                  {"start\nis ready\n", ""},
		"ready, more":            {"start\nis ready\nmore\n", ""},
		"ready, no newline":      {"start\nis ready", ""},
		"ready, of DOS":          {"start\r\nis ready\r\n", ""},
		"begins only":            {"start\n", yet},
		"begins, no newline":     {"start", yet},
		"one line for both":      {"start and ready\n", ""},
		"of the life before":     {"start\nis ready\nstart\n", yet},
		"of both lives":          {"start\nis ready\nstart\nis ready\n", ""},
		"before it begins":       {"is ready\nstart\n", yet},
		"never begun":            {"is ready\n", "no line of FILE" + none + " (one that was rotated away is not read)"},
		"empty":                  {"", "no line of FILE" + none + " (one that was rotated away is not read)"},
		"blank":                  {"\n\n", "no line of FILE" + none + " (one that was rotated away is not read)"},
		"older":                  {"start\nis ready\n", "FILE was not written to since this start"},
		"a tick older":           {"start\nis ready\n", ""},
		"long lines":             {"start\n" + x64 + x64 + "\nis ready\n" + x64 + x64, ""},
		"across a block":         {"start\n" + x64[:len(x64)-9] + "\nis ready\n" + x64[:len(x64)-4], ""},
		"many blocks":            {"start\nis ready\n" + strings.Repeat("a line\n", 30_000), ""},
		"many blocks, not ready": {"start\n" + strings.Repeat("a line\n", 30_000), yet},
		"of too much":            {"start\nis ready\n" + strings.Repeat(x64[1:]+"\n", 256), "no line" + none + ", in the last 16 MiB of FILE"},
		"of just as much":        {"start\nis ready\n" + strings.Repeat(x64[1:]+"\n", 255), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			keep(t, file, x.text, 0o600)
			if at, ok := written[name]; ok {
				if err := os.Chtimes(file, at, at); err != nil {
					t.Fatal(err)
				}
			}
			s := probe.Spec{
				Kind: probe.KindLog, Target: file, Options: options("begins", begins, "match", match), Timeout: long,
				Life: probe.Life{Since: started},
			}
			a := probe.Local{}.Try(t.Context(), s)
			if want := strings.ReplaceAll(x.want, "FILE", file); a.Ready != (want == "") || a.Word != want || a.Untried {
				t.Errorf("got %+v, want %q", a, want)
			}
		})
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{pipe: pipe + " is not a file", dir + "/none": dir + "/none: no such file or directory"} {
		if a := (probe.Local{}).Try(t.Context(), probe.Spec{Kind: probe.KindLog, Target: file, Options: options("begins", begins, "match", match)}); a.Ready || a.Word != want {
			t.Errorf("got %+v, want %s", a, want)
		}
	}
}

// TestLogHuge: of a file of 100 GB the end is read, and its holes cost nothing.
func TestLogHuge(t *testing.T) {
	t.Parallel()
	file := keep(t, filepath.Join(t.TempDir(), "log"), "", 0o600)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(100 << 30); err != nil {
		t.Skipf("SKIPPED: this file system takes no file of 100 GiB: %v", err)
	}
	s := probe.Spec{Kind: probe.KindLog, Target: file, Options: options("begins", "^start", "match", "ready"), Timeout: long}
	if a := (probe.Local{}).Try(t.Context(), s); a.Word != "no line matches ^start, with which an incarnation begins, in the last 16 MiB of "+file {
		t.Errorf("got %+v", a)
	}
	if _, err := f.WriteAt([]byte("\nstart\nready\n"), 100<<30); err != nil {
		t.Fatal(err)
	}
	if a := (probe.Local{}).Try(t.Context(), s); !a.Ready {
		t.Errorf("got %+v", a)
	}
	s.Timeout = time.Millisecond
	s.Options["begins"] = "(a|b|c|aa|bb|cc|x*y*z*)*q$" // takes its time
	if a := (probe.Local{}).Try(t.Context(), s); a.Ready || a.Word != "no answer within 1ms" {
		t.Errorf("got %+v", a)
	}
}

func TestJournalWithoutSystemd(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", "0f", strings.Repeat("g", 32), strings.Repeat("A", 32), "--file=/etc/shadow" + strings.Repeat("x", 14)} {
		s := probe.Spec{Kind: probe.KindLog, Target: "journal", Options: options("match", "x"), Life: probe.Life{Token: token}}
		a := probe.Local{}.Try(t.Context(), s)
		if a.Ready || !a.Untried || a.Word != "which lines of the journal belong to an incarnation only systemd tells, of a unit that runs" {
			t.Errorf("%q: got %+v", token, a)
		}
	}
}
