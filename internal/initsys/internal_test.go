package initsys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/wire"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	rest := strings.Repeat(" 0", 18) + " 4711 0 0"
	for _, x := range []struct {
		name, stat string
		state      byte
		start      uint64
		ok         bool
	}{
		{"plain", "12 (sh) S" + rest, 'S', 4711, true},
		{"spaces", "12 (tmux: server) S" + rest, 'S', 4711, true},
		{"parentheses and newline", "12 (a) R 1\n(b)) Z" + rest, 'Z', 4711, true},
		{"short", "12 (sh) S 1 2 3", 0, 0, false},
		{"empty", "", 0, 0, false},
		{"no number", "12 (sh) S" + strings.Repeat(" 0", 18) + " x 0 0", 0, 0, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			state, start, err := parseStat([]byte(x.stat))
			if (err == nil) != x.ok || x.ok && (state != x.state || start != x.start) {
				t.Errorf("got %c %d %v", state, start, err)
			}
		})
	}
}

func TestStepRoundTrip(t *testing.T) {
	t.Parallel()
	for _, s := range []step{
		{argv: []string{"/bin/x"}},
		{argv: []string{"/bin/x", "", "a b", "\x00\xff", "stop"}},
		{argv: []string{"/bin/x", "stop"}, stops: "/run/x y.pid", bound: 90 * time.Second},
	} {
		got, err := parseStep(s.String())
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%q became %+v, %v", s, got, err)
		}
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	me, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Identify(os.Getpid()); err != nil || again != me {
		t.Errorf("%v, then %v, %v", me, again, err)
	}
	if alive, err := me.Alive(); err != nil || !alive {
		t.Errorf("alive %v, %v", alive, err)
	}
	if got := wire.Quote(me.Token()); got != me.Token() || strings.Count(got, ":") != 2 {
		t.Errorf("token %q is not bare", got)
	}
	if age := me.Age(); age > time.Hour {
		t.Errorf("age %v of a test", age)
	}
	for _, x := range []Child{
		{Boot: "another", PID: me.PID, Start: me.Start},
		{Boot: me.Boot, PID: me.PID, Start: me.Start + 1},
		{Boot: me.Boot, PID: 1 << 30, Start: me.Start},
		{Boot: me.Boot, PID: -1},
		{},
	} {
		if alive, err := x.Alive(); err != nil || alive {
			t.Errorf("%v: alive %v, %v", x, alive, err)
		}
		if err := x.Wait(t.Context()); err != nil {
			t.Errorf("%v: wait: %v", x, err)
		}
	}
}

// sleeper is a process that ends when the returned function is called, and is
// not reaped before the test's end.
func sleeper(t *testing.T) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("/bin/cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	return cmd.Process.Pid, func() { in.Close() }
}

func TestWaitSeesAZombieAsGone(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(Child, context.Context) error{
		"pidfd": Child.Wait,
		"poll":  Child.poll,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pid, end := sleeper(t)
			c, err := Identify(pid)
			if err != nil {
				t.Fatal(err)
			}
			why := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			result := make(chan error)
			go func() { result <- wait(c, ctx) }()
			cancel(why)
			if err := <-result; !errors.Is(err, why) {
				t.Errorf("wait with a context that ended: %v", err)
			}
			go func() { result <- wait(c, t.Context()) }()
			end()
			if err := <-result; err != nil {
				t.Error(err)
			}
			if _, err := Identify(pid); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("a zombie was identified: %v", err)
			}
		})
	}
}

func TestStopStepIsBounded(t *testing.T) {
	t.Parallel()
	pid, _ := sleeper(t)
	file := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d\nmore\n", pid), 0o600); err != nil {
		t.Fatal(err)
	}
	err := step{argv: []string{"/bin/true"}, stops: file, bound: time.Millisecond}.precede()
	if want := fmt.Sprintf("process %d still runs 1ms after it was told to stop (exit status 0): not started again", pid); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	me, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, text string) pidFile {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return readPIDFile(path)
	}
	absent := readPIDFile(filepath.Join(dir, "absent"))
	alive := file("alive", fmt.Sprintf(" %d \n/var/lib/x\n", os.Getpid()))
	gone := file("gone", "1073741824\n")
	blank := file("blank", "")
	text := file("text", "-1\n")
	if text.state != pidBlank {
		t.Errorf("a negative number: %v", text)
	}
	for _, x := range []struct {
		name string
		said claim
		file pidFile
		want State
	}{
		{"pid file alone: absent", silent, absent, Down},
		{"pid file alone: alive", silent, alive, Up},
		{"pid file alone: gone", silent, gone, Failed},
		{"pid file alone: about to be written", silent, blank, Busy},
		{"both say up", runs, alive, Up},
		{"status is always 0", runs, gone, Failed},
		{"up, no pid file yet", runs, absent, Up},
		{"up, pid file about to be written", runs, blank, Up},
		{"dead, pid file left", dead, gone, Failed},
		{"dead, pid file removed", dead, absent, Failed},
		{"dead, the number belongs to another process now", dead, alive, Failed},
		{"stopped", stopped, absent, Down},
		{"stopped, blank pid file", stopped, blank, Down},
		{"stopped, stale pid file", stopped, gone, Failed},
		{"stopped, but the process is there", stopped, alive, Failed},
	} {
		t.Run(x.name, func(t *testing.T) {
			o, err := judge(x.said, x.file)
			if err != nil || o.State != x.want {
				t.Fatalf("got %+v, %v", o, err)
			}
			sure := o.State == Up && x.file.state == pidAlive
			if sure != (o.Token == me.Token()) || !sure && o.Token != "" {
				t.Errorf("token %q", o.Token)
			}
			if !sure && o.State != Down && o.Word == "" {
				t.Errorf("no word for %+v", o)
			}
		})
	}
}

func TestPIDFileIsNoTrap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, "/dev/zero"} {
		if f := readPIDFile(path); f.err == nil {
			t.Errorf("%s: %v", path, f)
		}
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		code   int
		output string
		want   claim
		ok     bool
	}{
		{0, "httpd (pid 12) is running...", runs, true},
		{1, "dead but pid file exists", dead, true},
		{2, "dead but subsys locked", dead, true},
		{3, "stopped", stopped, true},
		{3, "Disk usage: 40 %", stopped, true},
		{4, "", silent, false},
		{126, "kido-gate: run /x: permission denied", silent, false},
		{150, "", silent, false},
		{0, "Usage: /etc/init.d/x {start|stop}", silent, true},
		{1, "usage: x start | stop", silent, true},
		{2, "x: unknown argument\n  Usage: x (start|stop)\n", silent, true},
		{3, " * x {start|stop|restart}", silent, true},
	} {
		got, err := parseStatus(x.code, x.output)
		if got != x.want || (err == nil) != x.ok {
			t.Errorf("%d %q: got %v, %v; want %v", x.code, x.output, got, err, x.want)
		}
	}
}

func sysv(t *testing.T, body string) Unit {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	u, err := NewSysV(SysVConfig{Script: "x", Dir: dir, PIDFile: filepath.Join(dir, "pid"), Output: filepath.Join(dir, "out")})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUnsupportedActions(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		body string
		want bool
	}{
		"LSB":             {"exit 3", true},
		"usage and 1":     {"echo 'Usage: x {start|stop}' >&2; exit 1", true},
		"a failed reload": {"echo 'bad configuration'; exit 1", false},
		"no privilege":    {"exit 4", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j, err := sysv(t, x.body).Prepare(t.Context(), Reload)
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			if err := j.Go(); err != nil {
				t.Fatal(err)
			}
			err = j.Wait(t.Context())
			if _, ok := errors.AsType[*ExitError](err); !ok || errors.Is(err, ErrUnsupported) != x.want {
				t.Errorf("got %v", err)
			}
		})
	}
	u, err := NewCommand(CommandConfig{Start: []string{"/bin/true"}, Stop: []string{"/bin/true"}, PIDFile: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Prepare(t.Context(), Reload); !errors.Is(err, ErrUnsupported) {
		t.Errorf("command without reload: %v", err)
	}
}

func TestStatusProgram(t *testing.T) {
	t.Parallel()
	t.Run("cannot tell", func(t *testing.T) {
		t.Parallel()
		_, err := sysv(t, "echo a; echo 'must be root'; exit 4").Observe(t.Context())
		if err == nil || !strings.HasSuffix(err.Error(), `exit status 4 does not tell whether it runs: "must be root"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("much talk", func(t *testing.T) {
		t.Parallel()
		o, err := sysv(t, "yes | head -n 100000; exit 3").Observe(t.Context())
		if err != nil || o.State != Down {
			t.Errorf("got %+v, %v", o, err)
		}
	})
	t.Run("leaves a process with its output", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		pipe := filepath.Join(dir, "pipe")
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := sysv(t, "read x < "+pipe+" & exit 3").Observe(t.Context())
		if err != nil || o.State != Down {
			t.Errorf("got %+v, %v", o, err)
		}
		if err := os.WriteFile(pipe, nil, 0); err != nil { // lets it end
			t.Error(err)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		pipe := filepath.Join(dir, "pipe")
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		u := sysv(t, "echo $$ > "+pipe+"; while :; do sleep 60; done")
		go func() {
			_, err := u.Observe(ctx)
			result <- err
		}()
		text, err := os.ReadFile(pipe)
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		fmt.Sscan(string(text), &pid)
		c, err := Identify(pid)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := c.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	ok := func() CommandConfig {
		return CommandConfig{Start: []string{"/bin/a"}, Stop: []string{"/bin/b"}, PIDFile: "/run/x.pid"}
	}
	for name, change := range map[string]func(*CommandConfig){
		"no start":         func(c *CommandConfig) { c.Start = nil },
		"no stop":          func(c *CommandConfig) { c.Stop = nil },
		"empty restart":    func(c *CommandConfig) { c.Restart = []string{} },
		"empty reload":     func(c *CommandConfig) { c.Reload = []string{} },
		"relative start":   func(c *CommandConfig) { c.Start = []string{"a"} },
		"relative status":  func(c *CommandConfig) { c.Status = []string{"a"} },
		"no pid file":      func(c *CommandConfig) { c.PIDFile = "" },
		"relative pid":     func(c *CommandConfig) { c.PIDFile = "x.pid" },
		"zero byte":        func(c *CommandConfig) { c.Stop = []string{"/bin/b", "\x00"} },
		"too long":         func(c *CommandConfig) { c.Stop = []string{"/bin/b", strings.Repeat("x", 20000)} },
		"relative become":  func(c *CommandConfig) { c.Become = []string{"sudo"} },
		"relative output":  func(c *CommandConfig) { c.Output = "out" },
		"zero byte in pid": func(c *CommandConfig) { c.PIDFile = "/a\x00" },
	} {
		c := ok()
		change(&c)
		if u, err := NewCommand(c); err == nil || u != nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewCommand(ok()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", ".", "..", "../x", "a/b", "-x", ".hidden", "a b", "a\n", "é", strings.Repeat("a", 256)} {
		if u, err := NewSysV(SysVConfig{Script: name}); err == nil || u != nil {
			t.Errorf("script %q: no error", name)
		}
	}
	u, err := NewSysV(SysVConfig{Script: "postgresql-9.6"})
	if err != nil {
		t.Fatal(err)
	}
	if s := u.(*script); s.pidFile != "/run/postgresql-9.6.pid" || s.status[0] != "/etc/init.d/postgresql-9.6" {
		t.Errorf("defaults: %+v", s)
	}
}
