package demo_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kido/internal/demo"
)

// kido is the program, built once.
var kido = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kido-demo-test-")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "kido")
	out, err := exec.Command("go", "build", "-o", program, "kido/cmd/kido").CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
})

func TestMain(m *testing.M) {
	flag.Parse()
	// Demos mostly wait: let them, all at once.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	status := m.Run()
	if program, _ := kido(); program != "" {
		os.RemoveAll(filepath.Dir(program))
	}
	os.Exit(status)
}

func program(t *testing.T) string {
	t.Helper()
	p, err := kido()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// command is kido with a temporary folder of its own, which is tmp.
func command(t *testing.T, args ...string) (cmd *exec.Cmd, tmp string) {
	t.Helper()
	tmp, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{tmp, filepath.Dir(tmp)} { // whatever the umask: no gate reads a policy from below a folder that others may write
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd = exec.Command(program(t), args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	return cmd, tmp
}

// within lists the processes whose command line has a text in it.
func within(t *testing.T, text string) (all []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err == nil && bytes.Contains(line, []byte(text)) {
			all = append(all, string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return all
}

func left(t *testing.T, tmp string) (all []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(tmp, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(files, within(t, tmp)...)
}

func TestDemo(t *testing.T) {
	t.Parallel()
	cmd, tmp := command(t, "demo")
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, want := range []string{
		"── 1. The site comes up",
		"$ kido up\n",
		"24 asked, 24 failed",
		"end-of-file on communication channel",
		"$ kido announce db\n",
		"24 asked, 0 failed",
		"$ kido restart db\n",
		"(exit status 3)",
		"$ kido resume\n",
		"✓ nothing is left behind",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	_, verdict, _ := strings.Cut(text, "── What was claimed, and checked")
	if strings.Contains(verdict, "✗") || strings.Count(verdict, "✓") < 10 {
		t.Error("not all claims hold, or they are not listed")
	}
	if strings.Contains(text, "\x1b") {
		t.Error("there are escape sequences in a pipe")
	}
	if all := left(t, tmp); len(all) > 0 {
		t.Errorf("left behind: %q", all)
	}
	if t.Failed() {
		t.Log(text)
	}
}

// A kido that does not what it should must not pass.
func TestBrokenClaim(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		kido func(args []string) (instead []string, skip bool)
		want string
	}{
		{"announce does nothing", func(args []string) ([]string, bool) {
			return args, slices.Contains(args, "announce")
		}, "✗ kido announce db restarted every web server once, and the database not at all"},
		{"announce restarts the database too", func(args []string) ([]string, bool) {
			if i := slices.Index(args, "announce"); i >= 0 {
				args[i] = "restart"
			}
			return args, false
		}, "✗ kido announce db restarted every web server once, and the database not at all"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "out")
			out, err := os.Create(file)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			dir := ""
			err = demo.Run(t.Context(), demo.Options{
				Program: program(t), Out: out,
				Kido: func(ctx context.Context, out *os.File, args ...string) int {
					if i := slices.Index(args, "--site"); i >= 0 {
						dir = filepath.Dir(args[i+1])
					}
					args, skip := c.kido(args)
					if skip {
						return 0
					}
					cmd := exec.CommandContext(ctx, program(t), args...)
					cmd.Stdout, cmd.Stderr = out, out
					_ = cmd.Run() // the exit status says it
					return cmd.ProcessState.ExitCode()
				},
			})
			if !errors.Is(err, demo.ErrBroken) {
				t.Errorf("got %v, want %v", err, demo.ErrBroken)
			}
			text, rerr := os.ReadFile(file)
			if rerr != nil || !strings.Contains(string(text), c.want) {
				t.Errorf("it does not say %q: %v\n%s", c.want, rerr, text)
			}
			if _, err := os.Stat(dir); dir == "" || !os.IsNotExist(err) {
				t.Errorf("the folder %q is left: %v", dir, err)
			}
			if all := within(t, dir); len(all) > 0 {
				t.Errorf("left behind: %q", all)
			}
		})
	}
}

// start begins a demo and returns once it has said a text.
func start(t *testing.T, cmd *exec.Cmd, until string) (rest *bytes.Buffer, ended chan error) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	// As a terminal does it, a signal goes to the whole group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := &bytes.Buffer{}
	one := make([]byte, 1)
	for !strings.Contains(said.String(), until) {
		if _, err := out.Read(one); err != nil {
			t.Fatalf("it ended before it said %q: %v: %v\n%s", until, err, cmd.Wait(), said)
		}
		said.Write(one)
	}
	ended = make(chan error, 1)
	rest = &bytes.Buffer{}
	go func() {
		_, _ = io.Copy(rest, out)
		ended <- cmd.Wait()
	}()
	return rest, ended
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, until := range []string{"$ kido up\n", "db1# ", "$ kido announce db\n", "$ kido restart db\n"} {
		t.Run(strings.TrimSpace(until), func(t *testing.T) {
			t.Parallel()
			cmd, tmp := command(t, "demo")
			rest, ended := start(t, cmd, until)
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			err := <-ended
			if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(rest.String(), "nothing is left behind") {
				t.Errorf("%v, want exit status 130:\n%s", err, rest)
			}
			if all := left(t, tmp); len(all) > 0 {
				t.Errorf("left behind: %q", all)
			}
		})
	}
}

// Killed, the demo cannot clean up: its services do.
func TestKilled(t *testing.T) {
	t.Parallel()
	cmd, tmp := command(t, "demo")
	_, ended := start(t, cmd, "$ kido announce db\n")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for all := left(t, tmp); len(all) > 0; all = left(t, tmp) {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("left behind: %q", all)
		}
	}
}

func TestHiddenArguments(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{demo.ArgDatabase},
		{demo.ArgWeb, "start"},
		{demo.ArgWeb, "start", "/nowhere"},
		{demo.ArgWeb, "start", "/nowhere", "more"},
	} {
		cmd, _ := command(t, args...)
		out, err := cmd.CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), "kido "+args[0]) {
			t.Errorf("%q: %v: %s", args, err, out)
		}
	}
}
