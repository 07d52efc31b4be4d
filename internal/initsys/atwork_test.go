package initsys

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestScriptAtWork: a service whose init script is at work is neither up nor down,
// whoever runs the script; what the script has left behind is not the script.
func TestScriptAtWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, fifo := range []string{"go", "end"} {
		if err := syscall.Mkfifo(path(fifo), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const script = `#!/bin/sh
case $1 in
start) read x <"$0.d/go"; (read x <"$0.d/end") & echo -n $! >"$0.d/left" ;;
status) exit 3 ;;
esac
`
	if err := os.WriteFile(path("svc"), []byte(script), 0o755); err != nil { //nolint:gosec // a script
		t.Fatal(err)
	}
	if err := os.Symlink(dir, path("svc.d")); err != nil {
		t.Fatal(err)
	}
	u, err := NewSysV(SysVConfig{Script: "svc", Dir: dir, PIDFile: path("pid")})
	if err != nil {
		t.Fatal(err)
	}
	state := func() State {
		o, err := u.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return o.State
	}
	until := func(want State) {
		t.Helper()
		limit := time.Now().Add(30 * time.Second)
		for got := state(); got != want; got = state() {
			if time.Now().After(limit) {
				t.Fatalf("state %v, want %v", got, want)
			}
		}
	}
	let := func(fifo string) {
		f, err := os.OpenFile(path(fifo), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.WriteString("\n")
		f.Close()
	}
	if got := state(); got != Down {
		t.Fatalf("before: state %v", got)
	}
	byHand := exec.Command(path("svc"), "start")
	if err := byHand.Start(); err != nil {
		t.Fatal(err)
	}
	until(Busy)
	let("go")
	if err := byHand.Wait(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadFile(path("left"))
	if err != nil {
		t.Fatal(err)
	}
	if parent(string(left)) > 1 { // a subreaper takes orphans in init's place
		let("end")
		t.Skip("SKIPPED: the parent of an orphan is not process 1 on this machine")
	}
	until(Down) // though its child runs on
	let("end")

	for path, want := range map[string]bool{
		"/etc/init.d/httpd": true, "/etc/rc3.d/S85httpd": true, "/etc/rc.d/rc5.d/K15httpd": true, "/etc/rc2.d/S01httpd2": false,
		"/etc/init.d/httpd2": false, "/tmp/rc2.d/S01httpd": false, "/etc/rc2.d/S1httpd": false, "httpd": false,
	} {
		if isScript(path, "/etc/init.d/httpd") != want {
			t.Errorf("%s is a way to run httpd: %v", path, !want)
		}
	}
}
