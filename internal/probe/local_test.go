package probe_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
	"kido/internal/probe/probetest"
	"kido/internal/wire"
)

const (
	short = 400 * time.Millisecond // for tries that must run into it
	long  = 20 * time.Second       // for tries that must not
)

// TestMain lets this binary be the program of a Local: it reads the task
// and answers by its target's host.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == probe.ChildArg {
		program()
	}
	os.Exit(m.Run())
}

func program() {
	in := bufio.NewReaderSize(os.Stdin, 16)
	line, _ := in.ReadString('\n')
	say := func(word string) { fmt.Println(wire.FormatLine("not-ready", "5", "", word)) }
	switch {
	case strings.Contains(line, "//uid"):
		groups, _ := os.Getgroups()
		say(fmt.Sprint(os.Getuid(), os.Getgid(), groups))
	case strings.Contains(line, "//echo"):
		say(strings.TrimSpace(line))
	case strings.Contains(line, "//task"):
		task, err := probe.ReadTask(io.MultiReader(strings.NewReader(line), in))
		say(fmt.Sprint(len(task.Spec.Secrets["ca"]), " ", task.Spec.Life.Token, " ", task.Within > 0 && task.Within < long, " ", err))
	case strings.Contains(line, "//leak"):
		task, _ := probe.ReadTask(io.MultiReader(strings.NewReader(line), in))
		say("password " + task.Spec.Secret("password") + " is wrong")
	case strings.Contains(line, "//environment"):
		argv, _ := os.ReadFile("/proc/self/cmdline")
		say(fmt.Sprintf("%q %q", os.Environ(), argv[bytes.IndexByte(argv, 0):]))
	case strings.Contains(line, "//degraded"):
		fmt.Println("degraded 5 \"\" read-only")
	case strings.Contains(line, "//ready"):
		fmt.Println("ready 5")
	case strings.Contains(line, "//two"):
		fmt.Println("ready 5\nready 5")
	case strings.Contains(line, "//garbage"):
		fmt.Println("\x1b]0;owned\x07")
	case strings.Contains(line, "//endless"):
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 4096)); err != nil {
				break
			}
		}
	case strings.Contains(line, "//crash"):
		syscall.Exit(7)
	case strings.Contains(line, "//hold"):
		// One of its own has the other end of its standard input, out of its group.
		holder := exec.Command("/bin/sleep", "1000")
		holder.Stdin, holder.SysProcAttr = os.Stdin, &syscall.SysProcAttr{Setsid: true}
		if err := holder.Start(); err != nil {
			say(err.Error())
		} else {
			say(strconv.Itoa(holder.Process.Pid))
		}
	case strings.Contains(line, "//silent"):
		signal.Ignore(syscall.SIGTERM)
		select {}
	}
	syscall.Exit(0)
}

// listen serves each connection of a listener on loopback with serve, and ends
// all of it with the test.
func listen(t *testing.T, address string, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("SKIPPED: cannot listen at %s: %v", address, err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-accepted })
	return l.Addr().String()
}

// says answers a request with text, and then lets the other side hang up first.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		readRequest(c)
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
	}
}

func readRequest(c net.Conn) (head string) {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		head += line
		if err != nil || line == "\r\n" {
			return head
		}
	}
}

func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// refused is an address of this host at which nobody listens: a port that was free a
// moment ago may be another test's by now.
func refused(*testing.T) string { return "127.0.0.1:1" }

type question struct {
	name string
	spec func(t *testing.T) probe.Spec
	want string // word; "" is ready
}

func tcp(address func(*testing.T) string, timeout time.Duration) func(*testing.T) probe.Spec {
	return func(t *testing.T) probe.Spec {
		return probe.Spec{Kind: probe.KindTCP, Target: address(t), Timeout: timeout}
	}
}

func http(serve func(net.Conn), timeout time.Duration, pairs ...string) func(*testing.T) probe.Spec {
	return func(t *testing.T) probe.Spec {
		return probe.Spec{Kind: probe.KindHTTP, Target: "http://" + listen(t, "127.0.0.1:0", serve) + "/health", Timeout: timeout, Options: options(pairs...)}
	}
}

func sh(timeout time.Duration, script string, pairs ...string) func(*testing.T) probe.Spec {
	return func(*testing.T) probe.Spec {
		return probe.Spec{Kind: probe.KindExec, Argv: []string{"/bin/sh", "-c", script}, Timeout: timeout, Options: options(pairs...)}
	}
}

func questions() []question {
	const headers = "HTTP/1.1 200 OK\r\n"
	at := func(address string) func(*testing.T) string { return func(*testing.T) string { return address } }
	return []question{
		{"tcp", tcp(func(t *testing.T) string { return listen(t, "127.0.0.1:0", silent) }, long), ""},
		{"tcp by name", tcp(func(t *testing.T) string {
			return strings.Replace(listen(t, "127.0.0.1:0", silent), "127.0.0.1", "localhost", 1)
		}, long), ""},
		{"tcp over IPv6", tcp(func(t *testing.T) string { return listen(t, "[::1]:0", silent) }, long), ""},
		{"tcp refused", tcp(refused, long), "connection refused"},
		{"tcp half open", tcp(func(t *testing.T) string { return probetest.HalfOpen(t) }, short), "no answer within 400ms"},
		{"tcp nonsense", tcp(at("127.0.0.1"), long), "tcp: 127.0.0.1 is not ADDRESS:PORT"},

		{"http", http(says(headers+"A: b\r\n\r\nbody"), long), ""},
		{"http 1.0, bare newlines", http(says("HTTP/1.0 204\nA: b\n\n"), long), ""},
		{"http over IPv6", func(t *testing.T) probe.Spec {
			return probe.Spec{Kind: probe.KindHTTP, Target: "http://" + listen(t, "[::1]:0", says(headers+"\r\n"))}
		}, ""},
		{"http redirection", http(says("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n"), long), ""},
		{"http hints first", http(says("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n"), long), "HTTP 503 Busy"},
		{"http 503", http(says("HTTP/1.1 503 Service Unavailable\r\n\r\n"), long), "HTTP 503 Service Unavailable"},
		{"http 503 accepted", http(says("HTTP/1.1 503 Service Unavailable\r\n\r\n"), long, "status", "200,503"), ""},
		{"http 200 not accepted", http(says(headers+"\r\n"), long, "status", "204"), "HTTP 200 OK"},
		{"http hostile reason", http(says("HTTP/1.1 500 \x1b[2J\x00no\r\n\r\n"), long), "HTTP 500 ?[2J?no"},
		{"http refused", func(t *testing.T) probe.Spec {
			return probe.Spec{Kind: probe.KindHTTP, Target: "http://" + refused(t) + "/"}
		}, "connection refused"},
		{"http silent", http(silent, short), "connected, but no answer within 400ms"},
		{"http stops in its headers", http(says(headers+"A: b\r\n"), short), "connected, but no answer within 400ms"},
		{"http hangs up", http(func(c net.Conn) { readRequest(c) }, long), "connection closed without an answer"},
		{"http half closed", http(func(c net.Conn) {
			readRequest(c)
			_ = c.(*net.TCPConn).CloseWrite()
			silent(c)
		}, long), "connection closed without an answer"},
		{"http hangs up in its headers", http(func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, headers+"A: b\r\n")
		}, long), "connection closed without an answer"},
		{"http reset", http(func(c net.Conn) {
			readRequest(c)
			_ = c.(*net.TCPConn).SetLinger(0)
		}, long), "connection reset by peer"},
		{"http garbage", http(says("SSH-2.0-OpenSSH_9.2\r\n"), long), "answered, but not in HTTP/1"},
		{"http in TLS", http(says("\x15\x03\x01\x00\x02\x02\x46"), long), "answered in TLS: say https"},
		{"http bad code", http(says("HTTP/1.1 20 OK\r\n\r\n"), long), "answered, but not in HTTP/1"},
		{"http code out of range", http(says("HTTP/1.1 999 OK\r\n\r\n"), long), "answered, but not in HTTP/1"},
		{"http endless headers", http(func(c net.Conn) {
			readRequest(c)
			_, err := io.WriteString(c, headers)
			for err == nil {
				_, err = io.WriteString(c, "X: y\r\n")
			}
		}, long), "header of the HTTP answer is over 64 KiB"},
		{"http endless header", http(func(c net.Conn) {
			readRequest(c)
			_, err := io.WriteString(c, headers+"X: ")
			for err == nil {
				_, err = io.WriteString(c, strings.Repeat("y", 4096))
			}
		}, long), "header of the HTTP answer is over 64 KiB"},
		{"http long header", http(says(headers+"X: "+strings.Repeat("y", 4096-3)+"\r\nA: b\r\n\r\n"), long), ""},
		{"http long header whose rest is no blank line", http(func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, headers+"X: "+strings.Repeat("y", 4096-3)+"\r\n")
		}, long), "connection closed without an answer"},

		{"exec", sh(long, "exit 0"), ""},
		{"exec fails", sh(long, "echo; echo starting up >&2; echo more; exit 1"), "starting up"},
		{"exec fails silently", sh(long, "exit 3"), "/bin/sh: exit status 3"},
		{"exec killed", sh(long, "kill -9 $$"), "/bin/sh: signal: killed"},
		{"exec talks without end", sh(long, "yes | head -c 1000000; echo; exit 1"), "y"},
		{"exec clean environment", sh(long, `echo "$(env | sort | tr '\n' ' ') $(pwd)"; exit 1`), "HOME=/ LANG=C PATH=/usr/sbin:/usr/bin:/sbin:/bin PWD=/ /"},
		{"exec no standard input", sh(long, "read x || echo none; exit 1"), "none"},
		{"exec hangs", sh(short, "sleep 1000"), "no answer within 400ms"},
		{"exec leaves a process behind", sh(long, "sleep 1000 & exit 0"), ""},
		{"exec missing", func(*testing.T) probe.Spec {
			return probe.Spec{Kind: probe.KindExec, Argv: []string{"/nonexistent/x"}}
		}, "/nonexistent/x: no such file or directory"},
		{"exec not a program", func(t *testing.T) probe.Spec {
			return probe.Spec{Kind: probe.KindExec, Argv: []string{t.TempDir()}}
		}, "permission denied"},
		{"exec relative", func(*testing.T) probe.Spec {
			return probe.Spec{Kind: probe.KindExec, Argv: []string{"sh"}}
		}, "exec: sh is not an absolute path"},
		{"unknown kind", func(*testing.T) probe.Spec { return probe.Spec{Kind: "db2"} }, "db2: no such kind of probe"},
	}
}

// TestNothingStays: no try leaves a descriptor, a goroutine or a process
// behind. It is not parallel, so that what it counts is its own.
func TestNothingStays(t *testing.T) {
	for _, q := range questions() {
		t.Run(q.name, func(t *testing.T) {
			s := q.spec(t)
			files, goroutines, processes := openFiles(t), runtime.NumGoroutine(), children()
			probe.Local{}.Try(t.Context(), s)
			// A server on our side notices the hang-up in its own time.
			eventually(t, func() error {
				if now := openFiles(t); len(now) > len(files) {
					return fmt.Errorf("files before: %v; after: %v", files, now)
				}
				if now := runtime.NumGoroutine(); now > goroutines {
					stacks := make([]byte, 1<<16)
					return fmt.Errorf("%d goroutines before, %d after: %s", goroutines, now, stacks[:runtime.Stack(stacks, true)])
				}
				if now := children(); now > processes {
					return fmt.Errorf("%d processes before, %d after", processes, now)
				}
				return nil
			})
		})
	}
}

func eventually(t *testing.T, done func() error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(long)
	defer limit.Stop()
	for {
		err := done()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal(err)
		}
	}
}

func openFiles(t *testing.T) []string {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var links []string
	for _, e := range all {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(link, "anon_inode:") { // the runtime's own
			links = append(links, link)
		}
	}
	return links
}

// children counts this process's own, zombies included. What those left behind
// is for TestGrandchild.
func children() int {
	files, _ := filepath.Glob("/proc/self/task/*/children")
	n := 0
	for _, file := range files {
		text, _ := os.ReadFile(file)
		n += len(strings.Fields(string(text)))
	}
	return n
}

func TestLocal(t *testing.T) {
	t.Parallel()
	for _, q := range questions() {
		t.Run(q.name, func(t *testing.T) {
			t.Parallel()
			a := probe.Local{}.Try(t.Context(), q.spec(t))
			if a.Ready != (q.want == "") || !strings.HasSuffix(a.Word, q.want) || a.Ready && a.Word != "" {
				t.Errorf("got %+v, want %q", a, q.want)
			}
			if a.Took <= 0 {
				t.Errorf("took %v", a.Took)
			}
		})
	}
}

// TestExec: what the output and the exit status of an administrator's own probe mean.
func TestExec(t *testing.T) {
	t.Parallel()
	token, both := options("token", "output"), options("token", "output", "degraded", "2")
	for _, x := range []struct {
		script  string
		options map[string]string
		want    probe.Answer
	}{
		{"echo x", nil, probe.Answer{Ready: true}},
		{"echo; echo ' 2026-01-01 10:00 '; echo more", token, probe.Answer{Ready: true, Life: "2026-01-01_10:00"}},
		{"exit 0", token, probe.Answer{Word: "/bin/sh does not tell its incarnation: it wrote nothing"}},
		{"echo; echo", token, probe.Answer{Word: "/bin/sh does not tell its incarnation: it wrote nothing"}},
		{"echo down; exit 1", token, probe.Answer{Word: "down"}},
		{"echo slow; exit 2", options("degraded", "2"), probe.Answer{Ready: true, Degraded: true, Word: "slow"}},
		{"exit 2", options("degraded", "2"), probe.Answer{Ready: true, Degraded: true, Word: "/bin/sh: exit status 2"}},
		{"echo down; exit 3", options("degraded", "2"), probe.Answer{Word: "down"}},
		{"echo slow; exit 2", options("degraded", "2", "strict", "yes"), probe.Answer{Word: "slow"}},
		{"echo run-5; echo slow; exit 2", both, probe.Answer{Ready: true, Degraded: true, Word: "slow", Life: "run-5"}},
		{"echo run-5; exit 2", both, probe.Answer{Ready: true, Degraded: true, Word: "/bin/sh: exit status 2", Life: "run-5"}},
		{"exit 2", both, probe.Answer{Word: "/bin/sh does not tell its incarnation: it wrote nothing"}},
		{"kill -9 $$", both, probe.Answer{Word: "/bin/sh: signal: killed"}},
	} {
		s := sh(long, x.script)(t)
		s.Options = x.options
		got := probe.Local{}.Try(t.Context(), s)
		if got.Took = 0; got != x.want {
			t.Errorf("%s, %v: got %+v, want %+v", x.script, x.options, got, x.want)
		}
	}
	// The end of a long line counts.
	var lives []string
	for _, end := range []string{"1", "2"} {
		s := sh(long, "printf %01000d%s 0 "+end)(t)
		s.Options = token
		lives = append(lives, probe.Local{}.Try(t.Context(), s).Life)
	}
	if lives[0] == lives[1] || lives[0] == "" {
		t.Errorf("two lives are told as %q", lives)
	}
}

// TestHeaderLife: a header that is longer than a line's buffer is read to its end.
func TestHeaderLife(t *testing.T) {
	t.Parallel()
	life := func(headers string) string {
		s := http(says("HTTP/1.1 200 OK\r\n"+headers+"\r\n"), long, "token", "header:X-Started")(t)
		return probe.Local{}.Try(t.Context(), s).Life
	}
	y := strings.Repeat("y", 10_000)
	if a, b := life("X-Started: "+y+"1\r\n"), life("X-Started: "+y+"2\r\n"); a == b || a == "" {
		t.Errorf("two lives are told as %s", a)
	}
	for headers, want := range map[string]string{
		"x-started:a\r\n":                              "a",
		"X-Started: a\r\nX-Started: b\r\n":             "a",
		"X-Started-At: b\r\nX-Started:  a  \r\n":       "a",
		"Y: " + y + "X-Started: b\r\nX-Started: a\r\n": "a",
	} {
		if got := life(headers); got != want {
			t.Errorf("%.80q: got %q", headers, got)
		}
	}
}

func TestWhy(t *testing.T) {
	t.Parallel()
	done, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancel()
	on := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, x := range []struct {
		ctx  context.Context
		err  error
		want string
	}{
		{context.Background(), on(&net.DNSError{Name: "db1", Err: "no such host", IsNotFound: true}), "no such host: db1"},
		{context.Background(), on(&net.DNSError{Name: "db1", Err: "server misbehaving"}), "name lookup of db1 failed: server misbehaving"},
		{context.Background(), on(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), "no route to host"},
		{context.Background(), on(os.NewSyscallError("connect", syscall.ENETUNREACH)), "network is unreachable"},
		{context.Background(), on(os.NewSyscallError("connect", syscall.ETIMEDOUT)), "connection timed out"},
		{context.Background(), on(os.ErrDeadlineExceeded), "no answer within 3s"},
		{context.Background(), on(context.DeadlineExceeded), "no answer within 3s"}, // the dialer's clock is the first
		{late, on(syscall.ECONNREFUSED), "no answer within 3s"},
		{done, on(syscall.ECONNREFUSED), "interrupted"},
		{context.Background(), errors.New("a\nb"), "a b"},
	} {
		if a := (probe.Spec{}).Why(x.ctx, x.err); a.Ready || a.Word != x.want {
			t.Errorf("%v: got %+v, want %s", x.err, a, x.want)
		}
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	address := listen(t, "127.0.0.1:0", func(c net.Conn) {
		got <- readRequest(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	})
	a := probe.Local{}.Try(t.Context(), probe.Spec{Kind: probe.KindHTTP, Target: "http://" + address + "?a=%0d%0ab"})
	if !a.Ready {
		t.Fatal(a)
	}
	if head, want := <-got, "GET /?a=%0d%0ab HTTP/1.1\r\nHost: "+address+"\r\nUser-Agent: kido\r\nAccept: */*\r\nConnection: close\r\n\r\n"; head != want {
		t.Errorf("got %q, want %q", head, want)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]func(*testing.T) probe.Spec{
		"http": http(silent, long),
		"exec": sh(long, "sleep 1000"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spec(t)
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan probe.Answer)
			go func() { got <- probe.Local{}.Try(ctx, s) }()
			cancel()
			if a := <-got; a.Ready || a.Word != "interrupted" {
				t.Errorf("got %+v", a)
			}
		})
	}
}

// TestGrandchild: what a probe started ends with it, also where it hides its
// parent's death behind a fork.
func TestGrandchild(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"time-out": "(sleep 1000 & echo $! > FILE; wait) & wait",
		"success":  "(sleep 1000 & echo $! > FILE; wait) & until [ -s FILE ]; do :; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			timeout := long
			if name == "time-out" {
				timeout = 2 * time.Second // by then it has written it down
			}
			probe.Local{}.Try(t.Context(), sh(timeout, strings.ReplaceAll(script, "FILE", file))(t))
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if errors.Is(err, os.ErrNotExist) || err == nil && strings.Contains(string(stat), ") Z") {
					return nil
				}
				return fmt.Errorf("process %d still runs", pid)
			})
		})
	}
}

// reachable is this binary where nobody can run it.
func reachable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kido-probe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	program := filepath.Join(dir, "program")
	f, err := os.OpenFile(program, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, self); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return program
}

func TestDelegate(t *testing.T) {
	t.Parallel()
	program := reachable(t)
	who := fmt.Sprint(os.Getuid(), os.Getgid())
	if os.Geteuid() == 0 {
		who = "65534 65534 []"
	} else {
		t.Log("not root: that a root's prober runs as nobody was not tried")
	}
	for target, want := range map[string]string{
		"https://ready":        "",
		"https://uid/":         who,
		"https://echo/?a&b":    `https "https://echo/?a&b" status=204 timeout=`,
		"https://environment/": `["PATH=/usr/sbin:/usr/bin:/sbin:/bin" "LANG=C" "HOME=/"] "\x00probe-child\x00"`,
		"https://degraded/":    "read-only",
		"https://two/":         program + " probe-child: field 2: ",
		"https://garbage/":     program + " probe-child: field 1: ",
		"https://endless/":     program + " probe-child: signal: broken pipe",
		"https://crash/":       program + " probe-child: exit status 7",
		"https://nothing/":     program + " probe-child: field 1: ",
		"https://silent/":      "no answer within 400ms",
		"https://u:p@ready/":   "https: a probe's URL holds no user name or password",
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			s := probe.Spec{Kind: probe.KindHTTPS, Target: target, Options: options("status", "204"), Timeout: long}
			if target == "https://silent/" {
				s.Timeout = short
			}
			a := probe.Local{Program: program}.Try(t.Context(), s)
			if a.Ready != (want == "" || a.Degraded) || !strings.HasPrefix(a.Word, want) || a.Word != probe.Printable(a.Word) {
				t.Errorf("got %+v, want %q", a, want)
			}
			if untried := strings.Contains(want, "probe-child: ") || strings.HasSuffix(want, "password"); a.Untried != untried {
				t.Errorf("untried: %v", a.Untried)
			}
		})
	}
}

// TestDelegateSecrets: they go to the program and nowhere else, are longer than a pipe
// takes at once, and need not be read.
func TestDelegateSecrets(t *testing.T) {
	t.Parallel()
	program, dir := reachable(t), t.TempDir()
	keep := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file:" + file
	}
	const password = "s3cr3t phrase"
	given := options("ca", keep("ca", strings.Repeat("x", 500<<10)), "password", keep("password", password+"\n"), "user", "kido")
	try := func(host string, timeout time.Duration) probe.Answer {
		s := probe.Spec{Kind: probe.KindHTTPS, Target: "https://" + host + "/", Options: given, Timeout: timeout}
		s.Life.Token = "life-1"
		return probe.Local{Program: program}.Try(t.Context(), s)
	}
	for host, want := range map[string]string{
		"task":        "512000 life-1 true <nil>",
		"leak":        "password *** is wrong",
		"echo":        "https https://echo/ ca=file:",
		"crash":       program + " probe-child: exit status 7",
		"environment": `["PATH=/usr/sbin:/usr/bin:/sbin:/bin" "LANG=C" "HOME=/"] "\x00probe-child\x00"`,
	} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			if a := try(host, long); a.Ready || !strings.HasPrefix(a.Word, want) || strings.Contains(a.Word, password) {
				t.Errorf("got %+v, want %s", a, want)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		if a := try("silent", 500*time.Millisecond); a.Word != "no answer within 500ms" {
			t.Errorf("got %+v", a)
		}
	})
	t.Run("hold", func(t *testing.T) {
		t.Parallel()
		a := try("hold", long)
		pid, err := strconv.Atoi(a.Word)
		if err != nil {
			t.Fatalf("got %+v", a)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil { // it was there all the time
			t.Error(err)
		}
	})
}

func TestDelegateMissing(t *testing.T) {
	t.Parallel()
	a := probe.Local{Program: "/nonexistent/kido"}.Try(t.Context(), probe.Spec{Kind: probe.KindHTTPS, Target: "https://a/"})
	if want := "https probes at a host need the kido program there: install it at /nonexistent/kido"; a.Ready || !a.Untried || a.Word != want {
		t.Errorf("got %+v, want %s", a, want)
	}
}
