package gate

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kido/internal/initsys"
	"kido/internal/probe"
	"kido/internal/wire"
)

// TestMain lets this binary be a gate, what gates start, and what those write
// down of how they were started.
func TestMain(m *testing.M) {
	initsys.RunChild()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "gate":
			syscall.Exit(asGate(os.Args[2:]))
		case "birth", probe.ChildArg:
			syscall.Exit(asChild(os.Args[1:]))
		}
	}
	os.Exit(m.Run())
}

// asGate is Main with another log and another patience.
func asGate(args []string) int {
	flags := flag.NewFlagSet("gate", flag.ExitOnError)
	log := flags.String("log", "", "")
	patience := flags.Duration("patience", time.Hour, "")
	_ = flags.Parse(args)
	p, err := begin(os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	if left := os.Environ(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "the environment is not empty:", left)
		return 9
	}
	p.logs, p.patience = []string{*log}, *patience
	return p.main(flags.Args())
}

// host is a folder in which a gate has all that it goes by: a policy with the
// principals mine and other, of a key each, and local.
type host struct {
	dir, state, policy string
	mine, other        []string // environments of sessions, by key
	log                net.PacketConn
}

func newHost(t testing.TB, services string) *host {
	t.Helper()
	dir := realTempDir(t)
	h := &host{dir: dir, state: filepath.Join(dir, "state"), policy: filepath.Join(dir, "policy")}
	text := "kido-policy 1\nhost web1\nstate " + h.state + "\n"
	if services == "" {
		services = "service web command\n  start /bin/false\n  stop /bin/false\n  pidfile " + dir + "/pid\n"
	}
	text += services + "principal here local\n"
	for _, who := range []struct {
		name string
		env  *[]string
	}{{"mine", &h.mine}, {"other", &h.other}} {
		auth := filepath.Join(dir, who.name+".auth")
		must(t, os.WriteFile(auth, []byte("publickey ssh-ed25519 "+blob("ssh-ed25519", strings.Repeat(who.name[:1], 32))+"\n"), 0o600))
		*who.env = []string{"SSH_USER_AUTH=" + auth, "SSH_CONNECTION=192.0.2.7 1 192.0.2.1 22", "SSH_ORIGINAL_COMMAND=" + wire.Command}
		is, err := Who(environ("SSH_USER_AUTH", auth))
		must(t, err)
		text += "principal " + who.name + " " + is.Identity + "\n"
	}
	for _, who := range []string{"here", "mine", "other"} {
		text += "grant " + who + " web status ensure start take\n"
	}
	must(t, os.WriteFile(h.policy, []byte(text), 0o600))
	must(t, os.Mkdir(h.state, 0o700))
	log, err := net.ListenPacket("unixgram", filepath.Join(dir, "log"))
	must(t, err)
	t.Cleanup(func() { log.Close() })
	h.log = log
	return h
}

// gate readies a session as a process of its own.
func (h *host) gate(t testing.TB, env []string, more ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", append(append([]string{"gate", "-log", filepath.Join(h.dir, "log")}, more...), "--", "--policy", h.policy)...)
	cmd.Env = append([]string{}, env...)
	return cmd
}

// ask has a session of its own answer one request.
func (h *host) ask(t testing.TB, env []string, q wire.Request) wire.Reply {
	t.Helper()
	cmd := h.gate(t, env)
	cmd.Stdin = bytes.NewReader(q.Format())
	out, err := cmd.Output()
	r, perr := wire.ParseReply(out)
	if err != nil || perr != nil {
		t.Fatalf("%v, %v: %q", err, perr, out)
	}
	return r
}

// logged is the next line that has come into the log.
func (h *host) logged(t testing.TB) string {
	t.Helper()
	b := make([]byte, 1<<16)
	must(t, h.log.SetReadDeadline(time.Now().Add(time.Minute)))
	n, _, err := h.log.ReadFrom(b)
	must(t, err)
	return string(b[:n])
}

// begin starts cmd and leaves its standard input open; it is ended with the test.
func begun(t testing.TB, cmd *exec.Cmd) (stdin io.WriteCloser) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return stdin
}

// admitted is the process that has a place, 0 where none has.
func (h *host) admitted(t testing.TB, principal string, place int64) int {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(h.state, ".gates."+principal), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	must(t, err)
	defer f.Close()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Start: place, Len: 1}
	must(t, syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock))
	if lock.Type == syscall.F_UNLCK {
		return 0
	}
	return int(lock.Pid)
}

// until waits for a process to come so far.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	if !poll(context.Background(), time.Minute, so) {
		t.Fatalf("in vain: %s", what)
	}
}

var status = wire.Request{Verb: wire.VerbStatus, Service: "web"}

// TestHostileCommand: whatever a client has asked for is refused and one line in
// the log, also where the client waits for no answer.
func TestHostileCommand(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	for name, said := range map[string]string{
		"metacharacters":    "$(touch x); `touch x` | touch x & \\ ' \"",
		"a line of its own": "x\nwho=here result=done",
		"escapes":           "\x1b[2J\x1b]0;owned\a\x7f\xff\u202e\u2028",
		"long":              strings.Repeat("\x1b\xff\U0010ffff", 130900/6),
		"none":              "",
	} {
		for _, gone := range []bool{false, true} {
			t.Run(fmt.Sprint(name, gone), func(t *testing.T) {
				env := append(slices.Clone(h.mine[:2]), "SSH_ORIGINAL_COMMAND="+said)
				cmd := h.gate(t, env)
				if gone {
					r, w, err := os.Pipe()
					must(t, err)
					must(t, r.Close())
					defer w.Close()
					cmd.Stdout, cmd.Stderr = w, w
					exit := new(exec.ExitError)
					if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
						t.Errorf("nobody takes its reply: %v", err)
					}
				} else {
					out, err := cmd.Output()
					must(t, err)
					if r, err := wire.ParseReply(out); err != nil || r.Code != wire.CodeInvalid {
						t.Errorf("got %q, %v", out, err)
					}
				}
				line := h.logged(t)
				if !regexp.MustCompile(`^<85>kido-gate\[\d+\]: who=mine key=SHA256:\S+ from=192\.0\.2\.7 run="" verb="" service="" result=invalid why="[ -~]+"\n$`).MatchString(line) || len(line) > 600 {
					t.Errorf("in the log: %q", line)
				}
			})
		}
	}
}

// TestLogLine: every value in one spelling, and of a length.
func TestLogLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ value, want string }{
		{"web", "web"},
		{"", `""`},
		{"a b", `"a b"`},
		{"x\nwho=y", `"x\nwho=y"`},
		{"\x1b[2J\xff", `"\x1b[2J\xff"`},
		{strings.Repeat("y", 256), strings.Repeat("y", 256)},
	} {
		if got := logLine("k", c.value, "l", "1"); got != "k="+c.want+" l=1" {
			t.Errorf("%q: %s", c.value, got)
		}
	}
	for _, long := range []string{strings.Repeat("y", 1<<16), strings.Repeat("\x1b", 257), strings.Repeat("\U0010ffff", 1<<14), strings.Repeat("é", 129)} {
		got := brief(long)
		if len(got) > maxValue || len(got) < maxValue/2 || !strings.HasSuffix(got, `\u2026"`) {
			t.Errorf("%d bytes: %d bytes: %s", len(long), len(got), got)
		}
		if _, err := wire.ParseLine(got); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
}

// TestLogOfAnyKind: a stream is written to as well, a log that takes nothing is
// left.
func TestLogOfAnyKind(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	stream, err := net.Listen("unix", filepath.Join(dir, "stream"))
	must(t, err)
	defer stream.Close()
	got := make(chan string)
	go func() {
		c, err := stream.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		text, _ := io.ReadAll(c)
		got <- string(text)
	}()
	tell([]string{filepath.Join(dir, "none"), filepath.Join(dir, "stream")}, "who=x")
	if text := <-got; !regexp.MustCompile(`^<85>kido-gate\[\d+\]: who=x\n$`).MatchString(text) {
		t.Errorf("a stream got %q", text)
	}

	full, err := net.ListenPacket("unixgram", filepath.Join(dir, "full"))
	must(t, err)
	defer full.Close()
	c, err := net.Dial("unixgram", filepath.Join(dir, "full"))
	must(t, err)
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	must(t, err)
	must(t, raw.Write(func(fd uintptr) bool {
		for syscall.Sendto(int(fd), []byte("x"), 0, nil) == nil {
		}
		return true
	}))
	tell([]string{filepath.Join(dir, "full")}, "who=x") // returns
}

// TestSlowRequest: neither who sends without end, nor who sends slowly, nor who
// never ends what he sends, keeps a gate.
func TestSlowRequest(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	for _, c := range []struct {
		name  string
		sends func(io.Writer)
		want  string
	}{
		{"nothing", func(io.Writer) {}, "did not come in time"},
		{"all but the end", func(w io.Writer) { _, _ = w.Write(status.Format()) }, "did not come in time"},
		{"drop by drop", func(w io.Writer) {
			for range time.Tick(time.Millisecond) {
				if _, err := w.Write([]byte("x")); err != nil {
					return
				}
			}
		}, "did not come in time"},
		{"too much", func(w io.Writer) { _, _ = w.Write(make([]byte, wire.MaxRequest+1)) }, "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			patience := "300ms"
			if c.want == "too long" {
				patience = "1m"
			}
			cmd := h.gate(t, h.mine, "-patience", patience)
			var out bytes.Buffer
			cmd.Stdout = &out
			stdin, err := cmd.StdinPipe()
			must(t, err)
			must(t, cmd.Start())
			go c.sends(stdin)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if r, err := wire.ParseReply(out.Bytes()); err != nil || r.Code != wire.CodeInvalid || !strings.Contains(r.Word, c.want) {
				t.Errorf("got %q, %v", &out, err)
			}
		})
	}
}

// TestUnreadReply: who does not take his reply keeps neither the instance nor
// the gate, and is in the log.
func TestUnreadReply(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	full := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		must(t, err)
		fd := int(w.Fd())
		must(t, syscall.SetNonblock(fd, true))
		for err == nil {
			_, err = syscall.Write(fd, make([]byte, 4096))
		}
		must(t, syscall.SetNonblock(fd, false))
		return r, w
	}
	failing := wire.Request{Verb: wire.VerbStart, Service: "web"}
	r, w := full()
	defer r.Close()
	stuck := h.gate(t, h.mine)
	stuck.Stdout = w
	stdin := begun(t, stuck)
	_, err := stdin.Write(failing.Format())
	must(t, err)
	must(t, stdin.Close())
	w.Close()
	until(t, "the gate writes its reply", func() bool {
		state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", stuck.Process.Pid))
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", stuck.Process.Pid))
		return bytes.Contains(state, []byte(") S ")) && slices.ContainsFunc(tasks, func(task string) bool {
			at, _ := os.ReadFile(task)
			return strings.Contains(string(at), "pipe")
		})
	})
	if got := h.ask(t, h.mine, status); got.Code != wire.CodeOK {
		t.Errorf("meanwhile: %s (%s)", got.Code, got.Word)
	}
	r.Close()
	if err := stuck.Wait(); stuck.ProcessState.ExitCode() != 1 {
		t.Errorf("the reader goes away: %v", err)
	}
	if line := h.logged(t); !strings.Contains(line, "verb=start service=web result=failed") {
		t.Errorf("in the log: %q", line)
	}

	r, w = full()
	defer r.Close()
	impatient := h.gate(t, h.mine, "-patience", "300ms")
	impatient.Stdin, impatient.Stdout = bytes.NewReader(failing.Format()), w
	if err := impatient.Run(); impatient.ProcessState.ExitCode() != 1 {
		t.Errorf("nobody ever reads: %v", err)
	}
	w.Close()
	if line := h.logged(t); !strings.Contains(line, "verb=start service=web result=failed") {
		t.Errorf("in the log: %q", line)
	}
}

// TestCrowd: a key has so many gates at once, whatever they are at, and no other
// key fewer for it.
func TestCrowd(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	slow := h.gate(t, h.mine)
	begun(t, slow)
	until(t, "a gate that waits for its request is counted", func() bool { return h.admitted(t, "mine", 0) == slow.Process.Pid })

	f, err := os.OpenFile(filepath.Join(h.state, ".gates.mine"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for place := range int64(maxGates) {
		if ok, err := lockByte(f, place); err != nil || ok != (place > 0) {
			t.Fatalf("place %d: %v, %v", place, ok, err)
		}
	}
	if r := h.ask(t, h.mine, status); r.Code != wire.CodeBusy {
		t.Errorf("one more: %s (%s)", r.Code, r.Word)
	}
	if line := h.logged(t); !strings.Contains(line, "who=mine") || !strings.Contains(line, "result=busy") {
		t.Errorf("in the log: %q", line)
	}
	for name, env := range map[string][]string{"another key": h.other, "this host": nil} {
		if r := h.ask(t, env, status); r.Code != wire.CodeOK {
			t.Errorf("%s: %s (%s)", name, r.Code, r.Word)
		}
	}
	must(t, slow.Process.Kill())
	_ = slow.Wait()
	if r := h.ask(t, h.mine, status); r.Code != wire.CodeOK {
		t.Errorf("once one is gone: %s (%s)", r.Code, r.Word)
	}
}

// asChild writes down how this process was started.
func asChild(args []string) int {
	to := ""
	if args[0] == probe.ChildArg {
		// Its question names the file: https://FILE/
		q, _ := io.ReadAll(os.Stdin)
		to = regexp.MustCompile(`/[^ "]+\.birth`).FindString(strings.ReplaceAll(string(q), "https://x.invalid", ""))
		fmt.Println(wire.FormatLine(probe.Answer{Ready: true}.Fields()...))
	} else {
		to = args[1]
	}
	dir, _ := os.Getwd()
	var b strings.Builder
	fmt.Fprintf(&b, "dir %s\n", dir)
	for _, e := range os.Environ() {
		fmt.Fprintf(&b, "env %s\n", e)
	}
	files, _ := os.ReadDir("/proc/self/fd")
	for _, f := range files {
		// Go's own apart: its poller, and what it reads of its limits.
		to, err := os.Readlink("/proc/self/fd/" + f.Name())
		if err == nil && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "/sys/fs/cgroup/") {
			fmt.Fprintf(&b, "file %s\n", f.Name())
		}
	}
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		for _, name := range []string{"Umask", "SigIgn", "SigBlk", "NoNewPrivs"} {
			if value, ok := strings.CutPrefix(line, name+":"); ok {
				fmt.Fprintf(&b, "%s %s\n", name, strings.TrimSpace(value))
			}
		}
	}
	if os.WriteFile(to, []byte(b.String()), 0o600) != nil {
		return 1
	}
	return 0
}

// TestChildrenGetNothing: nothing that a client or sshd has a say in reaches what
// a gate starts, and nothing that it has open.
func TestChildrenGetNothing(t *testing.T) {
	t.Parallel()
	dir := realTempDir(t)
	born := filepath.Join(dir, "born")
	must(t, os.Mkdir(born, 0o700))
	// Where this is root, some of it is nobody's.
	must(t, os.Chmod(filepath.Dir(dir), 0o711))
	must(t, os.Chmod(born, 0o777))
	file := func(name string) string { return filepath.Join(born, name+".birth") }
	own, err := os.Executable()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "pid"), fmt.Append(nil, os.Getpid()), 0o600))
	h := newHost(t, "prober /proc/self/exe\nservice web command\n  start /bin/false\n  stop /bin/false\n"+
		"  restart "+own+" birth "+file("restart")+"\n  status "+own+" birth "+file("status")+"\n  pidfile "+dir+"/pid\n"+
		"  ready exec "+own+" birth "+file("probe")+"\n  ready https https://x.invalid"+file("prober")+"\n")
	open, err := os.Open(dir)
	must(t, err)
	defer open.Close()
	for _, q := range []wire.Request{status, {Verb: wire.VerbEnsure, Service: "web", New: vector("b")}} {
		cmd := h.gate(t, append([]string{
			"LD_PRELOAD=/tmp/x.so", "BASH_ENV=/tmp/x", "ENV=/tmp/x", "BASH_FUNC_ls%%=() { id; }", "SHELLOPTS=xtrace", "PATH=/tmp", "IFS=/", "TZ=/tmp/x",
			"DBUS_SYSTEM_BUS_ADDRESS=unixexec:path=/bin/sh", "GODEBUG=gctrace=1", "GOTRACEBACK=crash", "LC_ALL=x", "HOME=/tmp",
		}, h.mine...))
		cmd.Dir = dir
		cmd.Stdin = bytes.NewReader(q.Format())
		cmd.ExtraFiles = []*os.File{nil, open, open}
		sh := exec.Command("/bin/sh", append([]string{"-c", `umask 0777; exec "$0" "$@"`, own}, cmd.Args[1:]...)...)
		sh.Env, sh.Dir, sh.Stdin, sh.ExtraFiles = cmd.Env, cmd.Dir, cmd.Stdin, cmd.ExtraFiles
		if out, err := sh.Output(); err != nil {
			t.Fatalf("%v: %q", err, out)
		}
	}
	// What whoever started us ignores (nohup) a service may; a probe inherits it.
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	ours := regexp.MustCompile(`SigIgn.*`).FindString(strings.ReplaceAll(string(status), ":\t", " "))
	for _, name := range []string{"restart", "status", "probe", "prober"} {
		ignored := "SigIgn 0000000000000000"
		if strings.HasPrefix(name, "probe") {
			ignored = ours
		}
		got, err := os.ReadFile(file(name))
		must(t, err)
		want := "dir /\nenv PATH=/usr/sbin:/usr/bin:/sbin:/bin\nenv LANG=C\nenv HOME=/\nfile 0\nfile 1\nfile 2\n" +
			"Umask 0022\nSigBlk 0000000000000000\n" + ignored + "\nNoNewPrivs 0\n"
		if string(got) != want {
			t.Errorf("%s was born with\n%s", name, got)
		}
	}
}

// TestDropsRights: where nothing that a gate starts is to get rights by a file's
// set-uid bit, nothing can.
func TestDropsRights(t *testing.T) {
	t.Parallel()
	const systemd = "service web systemd web.service\n"
	// As it ships: under the race detector there are threads that Go does not know.
	program := filepath.Join(t.TempDir(), "kido-gate")
	build := exec.Command("go", "build", "-o", program, "kido/cmd/kido-gate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range []struct{ name, services, want string }{
		{"systemd", systemd, "1"},
		{"systemd, with a probe that is no program", systemd + "  ready tcp 127.0.0.1:1\n", "1"},
		{"a probe of the administrator's", systemd + "  ready exec /bin/true\n", "0"},
		{"a watch by such a probe", systemd + "watch db@db1\n  ready exec /bin/true\n", "0"},
		{"by sudo", "become /usr/bin/sudo -n\n" + systemd, "0"},
		{"a command", "", "0"},
		{"a script", systemd + "service app sysv app\n", "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, c.services)
			cmd := exec.Command(program, "--policy", h.policy)
			cmd.Env = h.mine
			begun(t, cmd)
			until(t, "the gate waits for its request", func() bool { return h.admitted(t, "mine", 0) == cmd.Process.Pid })
			tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
			must(t, err)
			for _, task := range tasks {
				if text, err := os.ReadFile(task); err == nil && !strings.Contains(string(text), "\nNoNewPrivs:\t"+c.want+"\n") {
					t.Errorf("%s is not NoNewPrivs %s", task, c.want)
				}
			}
		})
	}
}

// TestWritableByOthers: a gate that others could change says so and does nothing;
// --check says all of it at once.
func TestWritableByOthers(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	h.dir = realTempDir(t)
	lib, sbin := filepath.Join(h.dir, "lib"), filepath.Join(h.dir, "sbin")
	program := filepath.Join(sbin, "kido-gate")
	for _, dir := range []string{lib, sbin, filepath.Join(lib, "state")} {
		must(t, os.Mkdir(dir, 0o700))
	}
	text, err := os.ReadFile(h.policy)
	must(t, err)
	h.policy = filepath.Join(h.dir, "policy")
	must(t, os.WriteFile(h.policy, bytes.Replace(text, []byte(h.state), []byte(lib+"/state"), 1), 0o600))
	must(t, os.WriteFile(program, nil, 0o755))
	ask := func(args ...string) (code int, out, errs string) {
		var stdout, stderr bytes.Buffer
		p := process{env: map[string]string{}, stdin: bytes.NewReader(status.Format()), stdout: &stdout, stderr: &stderr, program: program, patience: time.Hour}
		code = p.main(append(args, "--policy", h.policy))
		return code, stdout.String(), stderr.String()
	}
	if _, out, _ := ask(); !strings.HasPrefix(out, "kido/1 reply ok") {
		t.Fatalf("as it should be: %s", out)
	}
	if code, _, errs := ask("--check"); code != 0 {
		t.Fatalf("as it should be: %s", errs)
	}
	wrong := map[string]string{
		program:        "the gate's program: " + program + " can be written by others than its owner (mode 0757): chmod go-w " + program,
		sbin:           "the gate's program: " + sbin + " can be written by others than its owner",
		lib:            "state folder: " + lib + " can be written by others than its owner",
		lib + "/state": "state folder: " + lib + "/state can be written by others than its owner",
	}
	for path, want := range wrong {
		must(t, os.Chmod(path, 0o757))
		if _, out, _ := ask(); !strings.HasPrefix(out, "kido/1 reply error\nword ") || !strings.Contains(out, want) {
			t.Errorf("%s: got %q", path, out)
		}
		must(t, os.Chmod(path, 0o700))
	}
	for _, path := range []string{program, lib + "/state"} {
		must(t, os.Chmod(path, 0o757))
	}
	code, _, errs := ask("--check")
	for _, path := range []string{program, lib + "/state"} {
		if code != 1 || strings.Count(errs, "\n") != 2 || !strings.Contains(errs, "kido-gate: "+wrong[path]) {
			t.Errorf("exit status %d, %s", code, errs)
		}
	}
	keys := filepath.Join(h.dir, "keys")
	must(t, os.WriteFile(keys, nil, 0o600))
	must(t, os.Chmod(keys, 0o606))
	must(t, os.Chmod(program, 0o700))
	faults := inspect(program, []string{keys, keys + "2"}, uint32(os.Geteuid()))
	if len(faults) != 1 || !strings.Contains(faults[0].Error(), "keys: "+keys+" can be written by others") {
		t.Errorf("got %v", faults)
	}
}

// TestProgramOfOnesOwn: who has built a gate himself, where files are written
// with the umask 002, can try it out.
func TestProgramOfOnesOwn(t *testing.T) {
	t.Parallel()
	file := filepath.Join(realTempDir(t), "gate")
	must(t, os.WriteFile(file, nil, 0o700))
	must(t, os.Chmod(file, 0o775))
	err := walkOnly(file, trustedProgram)
	if root := os.Geteuid() == 0; (err == nil) == root {
		t.Errorf("root %v: %v", root, err)
	}
	must(t, os.Chmod(file, 0o777))
	if err := walkOnly(file, trustedProgram); err == nil {
		t.Error("everybody may write it")
	}
}

func walkOnly(file string, judge func(*os.File, uint32) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return judge(f, uint32(os.Geteuid()))
}

// planted is what can be put in the place of a file in the state folder.
var planted = map[string]func(secret, name string) error{
	"a link out of it":  func(secret, name string) error { return os.Symlink(secret, name) },
	"a link within it":  func(_, name string) error { return os.Symlink("other.state", name) },
	"a link to nothing": func(secret, name string) error { return os.Symlink(secret+".new", name) },
	"a hard link":       os.Link,
	"a FIFO":            func(_, name string) error { return syscall.Mkfifo(name, 0o600) },
	"a folder":          func(_, name string) error { return os.Mkdir(name, 0o700) },
}

// TestStateFolder: whatever is put in the place of whichever file there, a gate
// ends, and writes nothing anywhere else.
func TestStateFolder(t *testing.T) {
	t.Parallel()
	const secret = "somebody else's\n"
	var all sync.WaitGroup
	for _, name := range []string{
		"web.state", "web.state.new", "web.state.unreadable", "web.lock", "web.wait", "web.out",
		"web.pool", "web.pool.new", "web.pool.unreadable", "web.pool.lock", ".gates.mine",
	} {
		for what, plant := range planted {
			h := newHost(t, "")
			outside, other := filepath.Join(h.dir, "secret"), filepath.Join(h.state, "other.state")
			for _, file := range []string{outside, other} {
				must(t, os.WriteFile(file, []byte(secret), 0o640))
			}
			must(t, plant(outside, filepath.Join(h.state, name)))
			p, err := LoadPolicy(h.policy)
			must(t, err)
			g, err := Open(p, probe.Local{})
			must(t, err)
			all.Go(func() {
				defer g.Close()
				if f, err := g.admit(t.Context(), "mine"); err == nil {
					f.Close()
				}
				for _, q := range []wire.Request{
					status,
					{Verb: wire.VerbStart, Service: "web"},
					status,
					{Verb: wire.VerbTake, Service: "web", Member: "web@web1", Run: "r", Most: 1},
				} {
					g.Serve(t.Context(), Caller{Identity: IdentityLocal}, q)
				}
				for _, file := range []string{outside, other} {
					if text, err := os.ReadFile(file); err != nil || string(text) != secret {
						t.Errorf("%s is %s: %s holds %q, %v", name, what, file, text, err)
					}
					if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 {
						t.Errorf("%s is %s: %s: %v, %v", name, what, file, info, err)
					}
				}
				if _, err := os.Lstat(outside + ".new"); err == nil {
					t.Errorf("%s is %s: a file was made outside", name, what)
				}
			})
		}
	}
	all.Wait()
}

// TestStateFolderRace: nor does a swap in the middle help.
func TestStateFolderRace(t *testing.T) {
	t.Parallel()
	h := newHost(t, "")
	outside := filepath.Join(h.dir, "secret")
	must(t, os.WriteFile(outside, []byte("secret\n"), 0o640))
	p, err := LoadPolicy(h.policy)
	must(t, err)
	g, err := Open(p, probe.Local{})
	must(t, err)
	defer g.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(h.state, []string{"web.state", "web.state.new", "web.lock", "web.pool", "web.pool.new"}[i%5])
			link := filepath.Join(h.state, "link")
			_ = os.Symlink(outside, link)
			_ = os.Rename(link, name)
			_ = os.Remove(name)
		}
	}()
	for i := range 300 {
		g.Serve(t.Context(), Caller{Identity: IdentityLocal}, wire.Request{Verb: wire.VerbTake, Service: "web", Member: "web@web1", Run: strconv.Itoa(i), Most: 1})
		g.Serve(t.Context(), Caller{Identity: IdentityLocal}, wire.Request{Verb: wire.VerbStatus, Service: "web"})
	}
	close(stop)
	<-stopped
	if text, err := os.ReadFile(outside); err != nil || string(text) != "secret\n" {
		t.Errorf("it holds %q, %v", text, err)
	}
}
