package initsys_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"kido/internal/initsys"
)

// helperMain is this test binary as a gate that starts a child under the worst
// conditions: SIGPIPE and SIGHUP ignored, SIGTERM and SIGUSR1 blocked, a
// descriptor that nobody marked, a hostile environment, another umask and
// folder, no standard input. Its arguments: output file, pid file, argv.
func helperMain() {
	if len(os.Args) < 5 || os.Args[1] != "--hostile" {
		return
	}
	runtime.LockOSThread()
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	blocked := uint64(1<<(syscall.SIGTERM-1) | 1<<(syscall.SIGUSR1-1))
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 0, uintptr(unsafe.Pointer(&blocked)), 0, 8, 0, 0); errno != 0 {
		panic(errno)
	}
	if _, err := syscall.Dup(1); err != nil {
		panic(err)
	}
	syscall.Umask(0o777)
	fmt.Println("output:", act(os.Args[2], os.Args[3], os.Args[4:]))
	syscall.Exit(0)
}

func act(output, pidFile string, argv []string) error {
	u, err := initsys.NewCommand(initsys.CommandConfig{Start: argv, Stop: argv, PIDFile: pidFile, Output: output})
	if err != nil {
		return err
	}
	j, err := u.Prepare(context.Background(), initsys.Start)
	if err != nil {
		return err
	}
	defer j.Close()
	if err := j.Go(); err != nil {
		return err
	}
	return j.Wait(context.Background())
}

// TestChildIsClean: nothing of the gate, of sshd or of who connected reaches
// the script.
func TestChildIsClean(t *testing.T) {
	t.Parallel()
	const script = `
pwd; umask; env | sort; ulimit -Sn
echo fds $(ls /proc/self/fd | grep -v 3)   # 3 is the folder that ls itself has open
readlink /proc/self/fd/0
cut -d' ' -f6 /proc/$$/stat | sed "s/^$$\$/own session/"
grep -E 'SigBlk|SigIgn' /proc/self/status
`
	dir := t.TempDir()
	output := filepath.Join(dir, "output")
	cmd := exec.Command("/proc/self/exe", "--hostile", output, filepath.Join(dir, "pid"), "/bin/sh", "-c", script)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH=/tmp", "SSH_ORIGINAL_COMMAND=$(id)", "GODEBUG=http2debug=1")
	if text, err := cmd.CombinedOutput(); err != nil || string(text) != "output: <nil>\n" {
		t.Fatalf("%s%v", text, err)
	}
	limit, err := exec.Command("/bin/sh", "-c", "ulimit -Sn").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := `/
0022
HOME=/
LANG=C
PATH=/usr/sbin:/usr/bin:/sbin:/bin
PWD=/
` + string(limit) + `fds 0 1 2
/dev/null
own session
SigBlk:	0000000000000000
SigIgn:	0000000000000000
`
	got, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("the script saw:\n%s\nwant:\n%s", got, want)
	}
	if info, err := os.Stat(output); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file for the output: %v, %v", info.Mode(), err)
	}
}

// TestSIGPIPE shows what the clean signals are good for.
func TestSIGPIPE(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	output := filepath.Join(dir, "output")
	cmd := exec.Command("/proc/self/exe", "--hostile", output, filepath.Join(dir, "pid"),
		"/bin/sh", "-c", `(trap 'echo ended $?' EXIT; while :; do echo y; done) 2>/dev/null | head -n1; echo done`)
	if text, err := cmd.CombinedOutput(); err != nil || string(text) != "output: <nil>\n" {
		t.Fatalf("%s%v", text, err)
	}
	if got, _ := os.ReadFile(output); string(got) != "y\ndone\n" {
		t.Errorf("got %q", got)
	}
}

func TestExitErrors(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name   string
		argv   []string
		code   int
		text   string
		output string
	}{
		{"status", []string{"/bin/sh", "-c", "echo no; exit 7"}, 7, `/bin/sh -c "echo no; exit 7": exit status 7`, "no\n"},
		{"signal", []string{"/bin/sh", "-c", "kill -9 $$"}, -1, `/bin/sh -c "kill -9 $$": signal: killed`, ""},
		{"missing", []string{"/nonexistent/x"}, 126, "/nonexistent/x: exit status 126", "kido-gate: run /nonexistent/x: no such file or directory\n"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			output := filepath.Join(dir, "output")
			err := act(output, filepath.Join(dir, "pid"), x.argv)
			exit, ok := errors.AsType[*initsys.ExitError](err)
			if !ok || exit.Code != x.code || err.Error() != x.text {
				t.Errorf("got %v, want %q", err, x.text)
			}
			if got, _ := os.ReadFile(output); string(got) != x.output {
				t.Errorf("output %q, want %q", got, x.output)
			}
		})
	}
}

// TestRestartIsOneChild: stop and start of a unit without a restart of its own,
// where the process takes its time to end.
func TestRestartIsOneChild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pidFile, log := filepath.Join(dir, "pid"), filepath.Join(dir, "log")

	// The process ends only when the test closes its standard input.
	old := exec.Command("/bin/sh", "-c", "read x; echo gone >> "+log)
	in, err := old.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	defer old.Wait()
	defer in.Close()
	if err := os.WriteFile(pidFile, fmt.Append(nil, old.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}

	// The stop program reports through a pipe that it has run, and fails.
	stopped := filepath.Join(dir, "stopped")
	if err := syscall.Mkfifo(stopped, 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := initsys.NewCommand(initsys.CommandConfig{
		Start:   []string{"/bin/sh", "-c", "echo start >> " + log},
		Stop:    []string{"/bin/sh", "-c", fmt.Sprintf("echo stop >> %s; rm %s; echo stopped > %s; exit 1", log, pidFile, stopped)},
		PIDFile: pidFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	j, err := u.Prepare(t.Context(), initsys.Restart)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := j.Go(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(stopped); err != nil {
		t.Fatal(err)
	}
	in.Close()
	// It must be reaped for a start to be right: a zombie counts as gone.
	if err := j.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(log); string(got) != "stop\ngone\nstart\n" {
		t.Errorf("order was %q", got)
	}
}

// TestDaemonKeepsNoDoorOpen: a daemon that keeps its standard output neither
// holds the session's streams open nor loses its own.
func TestDaemonKeepsNoDoorOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	output, pidFile := filepath.Join(dir, "output"), filepath.Join(dir, "pid")
	script := fmt.Sprintf(`mkfifo %[1]s/go; (echo started; read x < %[1]s/go; echo still here) & echo $! > %[2]s`, dir, pidFile)
	cmd := exec.Command("/proc/self/exe", "--hostile", output, pidFile, "/bin/sh", "-c", script)
	text, err := cmd.CombinedOutput() // returns only when nobody holds the pipe any more
	if err != nil || string(text) != "output: <nil>\n" {
		t.Fatalf("%s%v", text, err)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	fmt.Fscan(bytes.NewReader(pid), &n)
	c, err := initsys.Identify(n)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(output); string(got) != "started\nstill here\n" {
		t.Errorf("output %q", got)
	}
}

func TestOutputIsNoLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	victim, output := filepath.Join(dir, "victim"), filepath.Join(dir, "output")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, output); err != nil {
		t.Fatal(err)
	}
	if err := act(output, filepath.Join(dir, "pid"), []string{"/bin/echo"}); err == nil {
		t.Error("no error")
	}
	if got, _ := os.ReadFile(victim); string(got) != "precious" {
		t.Errorf("the link's target became %q", got)
	}
}

func TestChildArgumentIsForKidoOnly(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--child"},
		{"--child", "run /bin/echo ran"},
		{"--child", `run "unclosed`},
		{"--child", "stop /x 1"},
	} {
		out, _ := exec.Command("/proc/self/exe", args...).Output()
		if strings.Contains(string(out), "ran") || bufio.NewScanner(bytes.NewReader(out)).Scan() {
			t.Errorf("%q: it wrote %q", args, out)
		}
	}
}
