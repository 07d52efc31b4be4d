package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestJournal reads real journals, which systemd's own program has written, by the real
// journalctl. (On a machine with systemd netprobe's TestMachine does, in the lab.)
func TestJournal(t *testing.T) {
	t.Parallel()
	writer := "/lib/systemd/systemd-journal-remote"
	for _, program := range []string{writer, "/usr/bin/journalctl"} {
		if _, err := os.Stat(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing: install systemd-journal-remote", program)
			}
			t.Skipf("SKIPPED: %s is missing: install systemd-journal-remote", program)
		}
	}
	life := func(digit string) string { return strings.Repeat(digit, 32) }
	var export bytes.Buffer
	at := time.Now().UnixMicro()
	line := func(life, text string, more ...string) {
		at++
		fmt.Fprintf(&export, "__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%[1]d\n_BOOT_ID=%s\nPRIORITY=6\n_SYSTEMD_INVOCATION_ID=%s\n%s\nMESSAGE", at, life, life, strings.Join(append(more, "X=y"), "\n"))
		if strings.ContainsAny(text, "\n\x1b") {
			export.WriteString("\n")
			export.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(text))))
			export.WriteString(text + "\n\n")
		} else {
			fmt.Fprintf(&export, "=%s\n\n", text)
		}
	}
	line(life("a"), "starting")
	line(life("a"), "is ready")
	line(life("b"), "starting")
	line(life("b"), "is ready, says somebody else", "INVOCATION_ID="+life("c"), "OBJECT_SYSTEMD_INVOCATION_ID="+life("c"))
	line(life("c"), "starting")
	line(life("d"), "\x1b[32mis ready\x1b[0m")
	line(life("d"), "one\nlast line")
	line(life("d"), strings.Repeat("x", 300_000)+" end\n")
	for range 300 {
		line(life("e"), strings.Repeat("y", 60_000))
	}
	line(life("e"), "is ready")
	dir := t.TempDir()
	file := filepath.Join(dir, "all.journal")
	cmd := exec.Command(writer, "--output="+file, "-")
	cmd.Stdin = &export
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	const yet = "no line matching %s yet in this incarnation"
	for _, x := range []struct{ life, match, want string }{
		{"a", "is ready$", ""},
		{"a", "^starting$", ""},
		{"b", "is ready$", fmt.Sprintf(yet, "is ready$")},
		{"c", "ready", fmt.Sprintf(yet, "ready")},
		{"c", "^starting$", ""},
		{"d", "is ready", ""},
		{"d", "^last line$", ""},
		{"d", " end$", ""},
		{"d", "^starting$", fmt.Sprintf(yet, "^starting$")},
		{"e", "is ready", "no line matches is ready in the first 16 MiB of this incarnation"},
		{"f", ".", fmt.Sprintf(yet, ".")}, // nor what journalctl says where there is none
	} {
		s := Spec{Kind: KindLog, Target: "journal", Options: map[string]string{"match": x.match}, Timeout: 20 * time.Second}
		ctx, cancel := s.Limit(t.Context())
		a := searchJournal(ctx, s, "--file="+file, "_SYSTEMD_INVOCATION_ID="+life(x.life))
		cancel()
		if a.Ready != (x.want == "") || a.Word != x.want || a.Untried {
			t.Errorf("%s, %s: got %+v, want %q", x.life, x.match, a, x.want)
		}
	}
	s := Spec{Kind: KindLog, Target: "journal", Options: map[string]string{"match": "x"}, Timeout: 20 * time.Second}
	if a := searchJournal(t.Context(), s, "--file="+filepath.Join(dir, "none")); a.Ready || !a.Untried || !strings.HasPrefix(a.Word, "journalctl: exit status 1: ") {
		t.Errorf("got %+v", a)
	}
	ctx, cancel := Spec{Timeout: time.Millisecond}.Limit(t.Context())
	defer cancel()
	<-ctx.Done()
	if a := searchJournal(ctx, s, "--file="+file, "--follow"); a.Ready || a.Word != "no answer within 20s" {
		t.Errorf("got %+v", a)
	}
}
