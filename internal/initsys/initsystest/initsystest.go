// Package initsystest is the conformance suite of package initsys: what every
// adapter must do, tried on real processes.
//
// An adapter's test brings units that run the suite's own small service (see
// [StartArgv] and [DaemonArgv]), calls [Main] first in its TestMain, and [Run]
// with each adapter. The service lives in one folder, is steered through files
// there, and ends by itself after a minute should a test be cut off.
package initsystest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/initsys"
)

// Adapter is what the suite must know of one adapter.
type Adapter struct {
	Name string
	// Setup readies a folder for Open, once: scripts, unit files. It may be nil,
	// and may skip the test.
	Setup func(t *testing.T, dir string)
	// Open returns the unit whose service lives in dir. It is called in this
	// process and in others, which are then killed.
	Open func(dir string) (initsys.Unit, error)
	// Dead is the state after the main process was killed.
	Dead initsys.State
	// NoOutput: what an action writes goes to a log of init's own.
	NoOutput bool
}

// Files of the service in its folder.
const (
	pidFile     = "pid"     // the service's main process
	reloadsFile = "reloads" // one line for each SIGHUP
	actionsFile = "actions" // one line for each action that began
	failFile    = "fail"    // where it is there, starting fails with status 1, after chatter
	slowFile    = "slow"    // a named pipe: where it is there, starting waits for a reader's end of it
)

// PIDFile is the service's pid file.
func PIDFile(dir string) string { return filepath.Join(dir, pidFile) }

// StartArgv and its like are commands that do what their names say to the
// service in dir and fail where it cannot be done. Start of what is up and stop
// of what is down succeed. They must run in a test binary that calls [Main].
func StartArgv(dir string) []string { return self("start", dir) }

// StopArgv returns when the service has ended.
func StopArgv(dir string) []string { return self("stop", dir) }

// ReloadArgv returns when the service has taken note.
func ReloadArgv(dir string) []string { return self("reload", dir) }

// DaemonArgv is the service itself: it goes into the background, as a daemon
// of old, and writes its pid file there.
func DaemonArgv(dir string) []string { return self("daemon", dir) }

// ServeArgv is the service itself in the foreground. Where systemd waits for
// that, it is told when the service is up.
func ServeArgv(dir string) []string { return self("serve", dir) }

// BeginArgv is for init scripts that do the rest themselves: it keeps the
// record of actions for the suite, and fails or is slow where the suite wants
// a start so.
func BeginArgv(dir, action string) []string { return self("begin", dir, action) }

const selfArg = "--initsystest"

func self(args ...string) []string {
	exe, err := os.Executable()
	if err != nil {
		exe = "/proc/self/exe"
	}
	return append([]string{exe, selfArg}, args...)
}

// Main returns at once, unless this process is one that the suite started.
func Main(adapters ...Adapter) {
	initsys.RunChild()
	if len(os.Args) < 4 || os.Args[1] != selfArg {
		return
	}
	time.AfterFunc(time.Minute, func() { syscall.Exit(1) })
	if err := play(os.Args[2], os.Args[3], os.Args[4:], adapters); err != nil {
		fmt.Fprintln(os.Stderr, err)
		syscall.Exit(1)
	}
	syscall.Exit(0) // os.Exit takes a second under the race detector
}

func play(part, dir string, args []string, adapters []Adapter) error {
	switch part {
	case "start":
		if err := begin(dir, "start"); err != nil {
			return err
		}
		if _, ok := mainProcess(dir); ok {
			return nil
		}
		argv := DaemonArgv(dir)
		return syscall.Exec(argv[0], argv, os.Environ())
	case "stop":
		if err := begin(dir, "stop"); err != nil {
			return err
		}
		c, ok := mainProcess(dir)
		if !ok {
			return nil
		}
		if err := syscall.Kill(c.PID, syscall.SIGTERM); err != nil {
			return err
		}
		return c.Wait(context.Background())
	case "reload":
		if err := begin(dir, "reload"); err != nil {
			return err
		}
		c, ok := mainProcess(dir)
		if !ok {
			return errors.New("not running")
		}
		return syscall.Kill(c.PID, syscall.SIGHUP)
	case "begin":
		return begin(dir, args[0])
	case "daemon":
		return fork("session", dir)
	case "session": // of its own; what it forks can never have a terminal
		return fork("serve", dir)
	case "serve":
		return serve(dir)
	case "hold":
		return holdForever(dir, args, adapters)
	}
	return fmt.Errorf("initsystest: no part %q", part)
}

func begin(dir, action string) error {
	if err := appendLine(filepath.Join(dir, actionsFile), action); err != nil {
		return err
	}
	if action != "start" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, failFile)); err == nil {
		for i := range 1000 {
			fmt.Println("chatter", i)
		}
		return errors.New("cannot open the database")
	}
	if _, err := os.Stat(filepath.Join(dir, slowFile)); err == nil {
		_, err := os.ReadFile(filepath.Join(dir, slowFile))
		return err
	}
	return nil
}

func fork(part, dir string) error {
	argv := self(part, dir)
	_, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setsid: part == "session"},
	})
	return err
}

// holdForever prepares an action, and begins it if so told, for a test that
// kills it there.
func holdForever(dir string, args []string, adapters []Adapter) error {
	for _, a := range adapters {
		if a.Name != args[0] {
			continue
		}
		u, err := a.Open(dir)
		if err != nil {
			return err
		}
		j, err := u.Prepare(context.Background(), initsys.Action(args[1]))
		if err != nil {
			return err
		}
		c, _ := j.Child()
		if args[2] == "go" {
			if err := j.Go(); err != nil {
				return err
			}
		}
		fmt.Println(c.Boot, c.PID, c.Start)
		select {}
	}
	return fmt.Errorf("initsystest: no adapter %q", args[0])
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

func mainProcess(dir string) (initsys.Child, bool) {
	text, err := os.ReadFile(PIDFile(dir))
	if err != nil {
		return initsys.Child{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return initsys.Child{}, false
	}
	c, err := initsys.Identify(pid)
	return c, err == nil
}

// Run holds adapter a to the contract of initsys.Unit.
func Run(t *testing.T, a Adapter) {
	t.Run("life", func(t *testing.T) { t.Parallel(); life(t, open(t, a)) })
	t.Run("killed", func(t *testing.T) { t.Parallel(); killed(t, open(t, a)) })
	t.Run("failed start", func(t *testing.T) { t.Parallel(); failedStart(t, open(t, a)) })
	t.Run("slow start", func(t *testing.T) { t.Parallel(); slowStart(t, open(t, a)) })
	t.Run("closed before go", func(t *testing.T) { t.Parallel(); closedBeforeGo(t, open(t, a)) })
	t.Run("order of calls", func(t *testing.T) { t.Parallel(); orderOfCalls(t, open(t, a)) })
	t.Run("preparer dies before go", func(t *testing.T) { t.Parallel(); diesBeforeGo(t, open(t, a)) })
	for _, action := range []initsys.Action{initsys.Start, initsys.Restart} {
		t.Run("preparer dies after go/"+string(action), func(t *testing.T) {
			t.Parallel()
			diesAfterGo(t, open(t, a), action)
		})
	}
}

// fixture is one unit with its service's folder.
type fixture struct {
	Adapter
	unit initsys.Unit
	dir  string
}

// patience is far more than anything here takes; a test that runs into it failed.
const patience = 30 * time.Second

func open(t *testing.T, a Adapter) fixture {
	t.Helper()
	dir := t.TempDir()
	if a.Setup != nil {
		a.Setup(t, dir)
	}
	u, err := a.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c, ok := mainProcess(dir); ok {
			_ = syscall.Kill(c.PID, syscall.SIGKILL)
			_ = c.Wait(context.Background())
		}
	})
	return fixture{a, u, dir}
}

func (f fixture) file(name string) string { return filepath.Join(f.dir, name) }

func (f fixture) lines(t *testing.T, name string) []string {
	t.Helper()
	b, err := os.ReadFile(f.file(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

// do carries one action out and returns what came of it.
func (f fixture) do(t *testing.T, a initsys.Action) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	j, err := f.unit.Prepare(ctx, a)
	if err != nil {
		t.Fatalf("prepare %s: %v", a, err)
	}
	defer j.Close()
	c, ok := j.Child()
	if ok {
		if alive, err := c.Alive(); err != nil || !alive {
			t.Errorf("%s: child before go: alive %v, %v", a, alive, err)
		}
	}
	if err := j.Go(); err != nil {
		t.Fatalf("%s: go: %v", a, err)
	}
	err = j.Wait(ctx)
	if ok {
		if alive, err := c.Alive(); err != nil || alive {
			t.Errorf("%s: child after the end: alive %v, %v", a, alive, err)
		}
	}
	return j.Output(), err
}

func (f fixture) must(t *testing.T, a initsys.Action) {
	t.Helper()
	if output, err := f.do(t, a); err != nil {
		t.Fatalf("%s: %v; it wrote: %s", a, err, output)
	}
}

// settle waits for a state and returns the token.
func (f fixture) settle(t *testing.T, want ...initsys.State) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o, err := initsys.Settle(ctx, f.unit, want...)
	if err != nil {
		t.Fatalf("waiting for state %v: %v; last seen: %+v", want, err, o)
	}
	if (o.State == initsys.Up) != (o.Token != "") {
		t.Fatalf("state %v with token %q", o.State, o.Token)
	}
	return o.Token
}

// up starts the service and returns its token once it is deaf to nothing: some
// inits call up what has only just begun.
func (f fixture) up(t *testing.T) string {
	t.Helper()
	f.must(t, initsys.Start)
	token := f.settle(t, initsys.Up)
	until(t, "the service has written its pid file", func() bool { _, ok := mainProcess(f.dir); return ok })
	return token
}

// until polls for what a real process does in its own time.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func life(t *testing.T, f fixture) {
	if o, err := f.unit.Observe(t.Context()); err != nil || o.State != initsys.Down {
		t.Fatalf("fresh: %+v, %v; want down", o, err)
	}
	first := f.up(t)
	f.must(t, initsys.Start)
	if again := f.settle(t, initsys.Up); again != first {
		t.Errorf("start of what is up changed the token from %s to %s", first, again)
	}

	f.must(t, initsys.Reload)
	until(t, "the service acknowledges the reload", func() bool { return len(f.lines(t, reloadsFile)) == 1 })
	if again := f.settle(t, initsys.Up); again != first {
		t.Errorf("reload changed the token from %s to %s", first, again)
	}

	f.must(t, initsys.Restart)
	second := f.settle(t, initsys.Up)
	if second == first {
		t.Errorf("restart kept the token %s", first)
	}

	f.must(t, initsys.Stop)
	f.settle(t, initsys.Down)
	f.must(t, initsys.Restart) // of what is down: it starts
	if third := f.settle(t, initsys.Up); third == second || third == first {
		t.Errorf("token %s came back", third)
	}
}

func killed(t *testing.T, f fixture) {
	before := f.up(t)
	c, ok := mainProcess(f.dir)
	if !ok {
		t.Fatal("no main process")
	}
	if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.settle(t, f.Dead)
	f.must(t, initsys.Restart)
	if after := f.settle(t, initsys.Up); after == before {
		t.Errorf("token %s outlived its process", before)
	}
}

func failedStart(t *testing.T, f fixture) {
	if err := os.WriteFile(f.file(failFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := f.do(t, initsys.Start)
	if err == nil {
		t.Fatal("no error of a start that failed")
	}
	// Some inits have a last word of their own.
	if !f.NoOutput && (len(output) > 2<<10 || !strings.Contains(output, "chatter") || !strings.Contains(output, "cannot open the database\n")) {
		t.Errorf("output of %d bytes is not the end of what the start wrote: %q", len(output), output)
	}
	if o, err := f.unit.Observe(t.Context()); err != nil || o.State == initsys.Up {
		t.Errorf("after a failed start: %+v, %v", o, err)
	}
	if err := os.Remove(f.file(failFile)); err != nil {
		t.Fatal(err)
	}
	if output, err := f.do(t, initsys.Start); err != nil || strings.Contains(output, "chatter") {
		t.Errorf("the next start: %v; its output: %q", err, output)
	}
	f.settle(t, initsys.Up)
}

// slow makes the next start wait, and returns what lets it go on.
func (f fixture) slow(t *testing.T) (release func()) {
	t.Helper()
	if err := syscall.Mkfifo(f.file(slowFile), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		until(t, "the start waits at the pipe", func() bool {
			w, err := os.OpenFile(f.file(slowFile), os.O_WRONLY|syscall.O_NONBLOCK, 0)
			if err != nil {
				return false // nobody reads yet
			}
			_ = os.Remove(f.file(slowFile))
			_ = w.Close()
			return true
		})
	}
}

func slowStart(t *testing.T, f fixture) {
	release := f.slow(t)
	j, err := f.unit.Prepare(t.Context(), initsys.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := j.Go(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with a context that has ended: %v", err)
	}
	if c, ok := j.Child(); ok {
		if alive, err := c.Alive(); err != nil || !alive {
			t.Errorf("child during the action: alive %v, %v", alive, err)
		}
		if err := c.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("wait for the child with a context that has ended: %v", err)
		}
	}
	release()
	if err := j.Wait(t.Context()); err != nil {
		t.Errorf("wait after that: %v", err)
	}
	f.settle(t, initsys.Up)
}

func closedBeforeGo(t *testing.T, f fixture) {
	j, err := f.unit.Prepare(t.Context(), initsys.Start)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := j.Child()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if ok {
		if alive, err := c.Alive(); err != nil || alive {
			t.Errorf("child of a job that was closed: alive %v, %v", alive, err)
		}
	}
	f.untouched(t)
}

func (f fixture) untouched(t *testing.T) {
	t.Helper()
	if did := f.lines(t, actionsFile); len(did) != 0 {
		t.Errorf("it ran: %v", did)
	}
	if o, err := f.unit.Observe(t.Context()); err != nil || o.State != initsys.Down {
		t.Errorf("%+v, %v; want down", o, err)
	}
}

func orderOfCalls(t *testing.T, f fixture) {
	j, err := f.unit.Prepare(t.Context(), initsys.Stop)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := j.Wait(t.Context()); err == nil {
		t.Error("wait before go: no error")
	}
	if err := j.Go(); err != nil {
		t.Fatal(err)
	}
	if err := j.Go(); err == nil {
		t.Error("go twice: no error")
	}
	if err := j.Wait(t.Context()); err != nil {
		t.Errorf("stop of what is down: %v", err)
	}
}

// preparer is another process that prepared an action.
func (f fixture) preparer(t *testing.T, a initsys.Action, point string) (kill func(), c initsys.Child) {
	t.Helper()
	argv := self("hold", f.dir, f.Name, string(a), point)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the preparing process said %q, then: %v", line, err)
	}
	if word := strings.Fields(line); len(word) == 3 { // a unit without a child has no boot id there
		c.Boot = word[0]
		c.PID, _ = strconv.Atoi(word[1])
		c.Start, _ = strconv.ParseUint(word[2], 10, 64)
		if alive, err := c.Alive(); err != nil || !alive {
			t.Fatalf("child %v of the preparing process: alive %v, %v", c, alive, err)
		}
	}
	return kill, c
}

func diesBeforeGo(t *testing.T, f fixture) {
	kill, c := f.preparer(t, initsys.Start, "prepared")
	kill()
	if err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.untouched(t)
}

func diesAfterGo(t *testing.T, f fixture, a initsys.Action) {
	before := ""
	if a == initsys.Restart {
		before = f.up(t)
	}
	release := f.slow(t)
	kill, c := f.preparer(t, a, "go")
	kill()
	if c != (initsys.Child{}) {
		if alive, err := c.Alive(); err != nil || !alive {
			t.Errorf("child after its preparer's death: alive %v, %v", alive, err)
		}
	}
	release()
	if err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := f.settle(t, initsys.Up); after == before {
		t.Errorf("token %s is the one from before the restart", after)
	}
}
