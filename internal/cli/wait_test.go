package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"kido/internal/probe"
	"kido/internal/wire"
)

func TestProbeOf(t *testing.T) {
	t.Parallel()
	for what, want := range map[string]string{
		"db1:5432":                   "tcp db1:5432",
		"[fd00::1]:5432":             "tcp [fd00::1]:5432",
		"redis:6379":                 "tcp redis:6379", // a host may be called like a kind
		"tcp://db1:5432":             "tcp db1:5432",
		"tcp://db1:5432?timeout=1s":  "tcp db1:5432 timeout=1000",
		"tcp://db1:1?slow=1s":        "tcp db1:1 slow=1000",
		"tls://host:443?days=14":     "tls host:443 days=14",
		"postgres://u@db1":           "postgres db1:5432 user=u",
		"postgresql://kido@db1/shop": "postgres db1:5432 database=shop user=kido",
		"postgres://user@db1:5433/shop?role=primary&tls=yes":                "postgres db1:5433 database=shop role=primary tls=yes user=user",
		"postgres://u@db1?tls=true&token=false&strict=true":                 "postgres db1:5432 strict=yes tls=yes token=no user=u", // as in a site file
		"postgres://u@db1/?database=a%26b%20c":                              `postgres db1:5432 "database=a&b c" user=u`,
		"postgres://u@[::1]/x?password=file:/etc/pw&tls=yes&ca=/etc/ca.pem": "postgres [::1]:5432 ca=file:/etc/ca.pem database=x password=file:/etc/pw tls=yes user=u",
		"pgsql://u@db1":                                        "postgres db1:5432 user=u",
		"mysql://u@db1/x?password=env:PW":                      "mysql db1:3306 database=x password=env:PW user=u",
		"mariadb://u@db1?role=replica":                         "mysql db1:3306 role=replica user=u",
		"oracle://u@db:1522/ORCL?role=any&password=env:P":      "oracle db:1522 password=env:P role=any service=ORCL user=u",
		"oracle://u@db?sid=X&password=env:P":                   "oracle db:1521 password=env:P sid=X user=u",
		"redis://r":                                            "redis r:6379",
		"rediss://r":                                           "redis r:6379 tls=yes",
		"mongodb://m/admin":                                    "mongodb m:27017 database=admin",
		"amqp://u@host/vhost?password=env:P":                   "amqp host:5672 password=env:P user=u vhost=vhost",
		"amqps://u@host/%2f?password=env:P":                    "amqp host:5671 password=env:P tls=yes user=u vhost=/",
		"kafka://host:9092?topic=x":                            "kafka host:9092 topic=x",
		"ldaps://host/dc=example,dc=org":                       "ldap host:636 base=dc=example,dc=org tls=yes",
		"ldap://host?tls=start":                                "ldap host:389 tls=start",
		"smtp://host":                                          "smtp host:25",
		"http://web1/health?deep=yes#status=200,204&match=a+b": `http "http://web1/health?deep=yes" match=a+b status=200,204`,
		"https://u@web1/#header.X-A=b&password=credential:web&timeout=2s": "https https://web1/ header.X-A=b password=credential:web timeout=2000 user=u",
		"dns:db1.example?address=10.0.0.1":                                "dns db1.example address=10.0.0.1",
		"file:/run/x.pid":                                                 "file /run/x.pid",
		"file:///etc/passwd?match=^root":                                  `file /etc/passwd "match=^root"`,
		"log:/var/log/x?begins=start&match=ready":                         "log /var/log/x begins=start match=ready",
		"unit:nginx":                          "systemd nginx.service",
		"unit:postgresql@15-main.service":     "systemd postgresql@15-main.service",
		"systemd:x.service?state=inactive":    "systemd x.service state=inactive",
		"exec:/usr/bin/pg_isready  -q -h db1": "exec /usr/bin/pg_isready -q -h db1",
		"not:tcp://db1:5432":                  "not 1 2 tcp db1:5432",
	} {
		s, err := probeOf(what, "")
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got := wire.FormatLine(s.Fields()...); got != want {
			t.Errorf("%s is read as %s, want %s", what, got, want)
		}
	}
}

// Every kind has a URL, and its form as a hint writes it is understood.
func TestProbeOfEveryKind(t *testing.T) {
	t.Parallel()
	for _, scheme := range schemeNames() {
		sort, _ := sortOf(scheme)
		what := formOf(scheme, sort)
		what, _, _ = strings.Cut(what, "#")
		what, _, _ = strings.Cut(what, "?")
		what = strings.ReplaceAll(what, "PORT", "1")
		switch sort.Kind {
		case probe.KindSystemd:
			what += ".service"
		case probe.KindLog:
			what += "?match=x&begins=y"
		case probe.KindNot:
			what = "not:tcp://HOST:1"
		}
		if s, err := probeOf(what, "file:/pw"); err != nil || s.Kind != sort.Kind {
			t.Errorf("%s: %v, %v", what, s.Kind, err)
		}
	}
}

func TestProbeOfRefuses(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	for what, want := range map[string]string{
		"postgers://db1":                               `no such kind of probe: "postgers"; did you mean: postgres`,
		"gopher://db1":                                 `no such kind of probe: "gopher"; there are: amqp, `,
		"u:" + secret + "@db1:5432":                    `no such kind of probe: "u"`,
		"postgres://u:" + secret + "@db1/x":            "postgres://u@db1/x: a password does not stand on a command line",
		"postgres://u:%zz" + secret + "@db1/x":         "postgres:…: this is no URL",
		"postgres://u@db1/x?password=" + secret:        "password: a secret is named by file:/PATH",
		"postgres://u@db1/x?password=/" + secret:       "password: a secret is named by file:/PATH",
		"postgres://u@db1/x?pasword=" + secret:         `a postgres probe has no option "pasword"; did you mean: password`,
		"https://web1/?key=" + secret + "#statsu=2":    `https://web1/: a https probe has no option "statsu"; did you mean: status`,
		"http://u:" + secret + "@web1/":                "a password does not stand on a command line",
		"not:redis://:" + secret + "@db1":              "a password does not stand on a command line",
		"postgres://db1?password=env:PW":               "password: whose? user is missing",
		"postgres://db1?role=primry":                   `role: primry is not primary, standby or any; write postgres://USER@HOST:PORT/DATABASE`,
		"postgres://u@db1/x?user=v":                    "user is said twice",
		"postgres://u@db1/x?database=%z":               "% is %25",
		"postgres:///x":                                "postgres:///x: it names no host",
		"postgres:db1":                                 "it names no host",
		"postgres:u:" + secret + "@db1/x":              "it names no host",
		"redis:/:" + secret + "@db1":                   "redis:: it names no host",
		"postgres://db1/u:" + secret + "@x":            "postgres://db1: user is missing",
		"tcp://db1":                                    "tcp://db1: the port is missing",
		"tcp://db1:70000":                              "port 70000 is not 1 to 65535",
		"db1:70000":                                    "port 70000 is not 1 to 65535",
		"tcp://db1:1/x":                                "a path such as /x means nothing to a tcp probe",
		"tcp://u@db1:1":                                `a tcp probe has no option "user"`,
		"tcp://db1:1#x":                                "what stands behind # means nothing here",
		"tcp://db1:1?timeout=5":                        `timeout: "5" is not a time`,
		"tcp://db1:1?slow=fast":                        `slow: "fast" is not a time`,
		"oracle://u@db1":                               "service",
		"not:oracle://u@db1/x":                         "password is missing: nobody is let in by a name alone; say where it is: --password-file FILE",
		"dns://server/name":                            "a name follows the colon at once; write dns:NAME",
		"file:x":                                       "x is not an absolute path",
		"log:journal?match=x":                          "wait for its unit: unit:NAME",
		"exec:pg_isready":                              "pg_isready is not an absolute path",
		"exec:":                                        "no program is given",
		"any:tcp://a:1":                                "--any: one of them is enough",
		"not:x":                                        `no such kind of probe: "x"`,
		":5432":                                        "tcp://:5432",
		"":                                             "no such kind",
		"postgres://db1?ca=rel.pem":                    "an absolute path",
		"unit:a/b":                                     "is not a name",
		"tcp://db1:1?" + strings.Repeat("x", 100) + "": "has no option",
	} {
		_, err := probeOf(what, "")
		f, ok := errors.AsType[*failure](err)
		if !ok || f.status != exitUsage {
			t.Errorf("%s: %v, want a usage error", what, err)
			continue
		}
		said := f.err.Error() + "; " + f.hint
		if !strings.Contains(said, want) {
			t.Errorf("%s: it says %q, want %q", what, said, want)
		}
		if strings.Contains(said, secret) {
			t.Errorf("%s: it repeats the secret: %s", what, said)
		}
	}
}

// script is a prober that answers by the time since it was made.
type script struct {
	begun  time.Time
	answer func(at time.Duration) probe.Answer
	asked  []time.Duration
}

func (s *script) Try(context.Context, probe.Spec) probe.Answer {
	at := time.Since(s.begun)
	s.asked = append(s.asked, at)
	return s.answer(at)
}

// play asks by the clock of a bubble, until the wait is over or so long; it returns
// when it was over, 0: not.
func play(w awaited, settle, limit time.Duration, answer func(at time.Duration) probe.Answer) (asked []time.Duration, over time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	s := &script{begun: time.Now(), answer: answer}
	w.ask(ctx, s, settle, func(got seen) {
		if got.answer.Ready && got.more == "" {
			over = max(time.Since(s.begun), 1)
			cancel()
		}
	})
	return s.asked, over
}

// The first tries come soon, the later ones once an interval, and no two machines
// are in step.
func TestWaitPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		last := map[time.Duration]bool{}
		for range 20 {
			asked, over := play(awaited{interval: 8 * time.Second, successes: 1}, 0, 60*time.Second, func(time.Duration) probe.Answer { return probe.NotReady("no") })
			if over != 0 || asked[0] != 0 {
				t.Fatalf("asked at %v, over at %v", asked, over)
			}
			for n, at := range asked[1:] {
				want, pause := min(time.Second<<n, 8*time.Second), at-asked[n]
				if pause < want*8/10 || pause > want*12/10 {
					t.Errorf("pause %d is %v, want about %v", n, pause, want)
				}
			}
			last[asked[len(asked)-1]] = true
		}
		if len(last) < 15 {
			t.Errorf("20 machines asked last at %d times", len(last))
		}
	})
}

func TestWaitRow(t *testing.T) {
	t.Parallel()
	ready := func(time.Duration) probe.Answer { return probe.Answer{Ready: true} }
	for name, x := range map[string]struct {
		w        awaited
		settle   time.Duration
		answer   func(at time.Duration) probe.Answer
		from, to time.Duration // it is over between these
	}{
		"at once":     {awaited{successes: 1}, 0, ready, 0, 0},
		"three times": {awaited{successes: 3}, 0, ready, 1600 * time.Millisecond, 2400 * time.Millisecond},
		"settles":     {awaited{successes: 1}, 5 * time.Second, ready, 5 * time.Second, 8 * time.Second},
		"falls in between": {awaited{successes: 1}, 5 * time.Second, func(at time.Duration) probe.Answer {
			return probe.Answer{Ready: at < 2*time.Second || at > 4*time.Second}
		}, 9 * time.Second, 13 * time.Second},
		"is restarted in between": {awaited{successes: 1}, 5 * time.Second, func(at time.Duration) probe.Answer {
			return probe.Alive(fmt.Sprint(at > 3*time.Second), 0)
		}, 8 * time.Second, 12 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x.w.interval = time.Second
				asked, over := play(x.w, x.settle, time.Minute, x.answer)
				if over == 0 || over < x.from || over > x.to+1 {
					t.Errorf("over at %v, want %v to %v; asked at %v", over, x.from, x.to, asked)
				}
			})
		})
	}
}

// ---- the program, against real servers ---------------------------------------------

// waiting is a kido wait under way.
type waiting struct {
	cmd *exec.Cmd
	out bytes.Buffer
	mu  sync.Mutex
	err bytes.Buffer
}

func (w *waiting) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err.Write(p)
}

func (w *waiting) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err.String()
}

// says waits until it has said something.
func (w *waiting) says(t *testing.T, text string) {
	t.Helper()
	tick, late := time.NewTicker(2*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for !strings.Contains(w.said(), text) {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it never says %q:\n%s", text, w.said())
		}
	}
}

func begin(t *testing.T, args ...string) *waiting {
	t.Helper()
	return beginIn(t, "LC_ALL=C.UTF-8", args...)
}

// beginIn begins with one more variable in the environment.
func beginIn(t *testing.T, env string, args ...string) *waiting {
	t.Helper()
	w := &waiting{cmd: exec.Command("kido", append([]string{"wait", "--interval", "40ms"}, args...)...)}
	w.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", env)
	w.cmd.Stdout, w.cmd.Stderr = &w.out, w
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if w.cmd.ProcessState == nil {
			_ = w.cmd.Process.Kill()
			_ = w.cmd.Wait()
		}
	})
	return w
}

// ends waits for its end, with that exit status.
func (w *waiting) ends(t *testing.T, status int) {
	t.Helper()
	if err := w.cmd.Wait(); err != nil && w.cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if got := w.cmd.ProcessState.ExitCode(); got != status {
		t.Fatalf("exit status %d, want %d:\n%s%s", got, status, w.out.String(), w.said())
	}
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// closedPort is an address at which nobody listens, and nobody but us is going to: it
// is bound.
func closedPort(t *testing.T) (address string, open func()) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port), func() {
		if err := syscall.Listen(fd, 16); err != nil {
			t.Error(err)
		}
	}
}

func TestWaitLate(t *testing.T) {
	t.Parallel()
	address, open := closedPort(t)
	w := begin(t, address)
	w.says(t, "kido: waits for tcp "+address+": connection refused, ")
	w.says(t, "s of 1m00s\n")
	open()
	w.ends(t, 0)
	w.says(t, "kido: tcp "+address+" is ready after ")
	if w.out.Len() > 0 {
		t.Errorf("on standard output: %s", w.out.String())
	}
}

func TestWaitNever(t *testing.T) {
	t.Parallel()
	address, _ := closedPort(t)
	w := begin(t, "--timeout", "1s", address)
	w.ends(t, 1)
	w.says(t, "kido: not ready after 1s: tcp "+address+": connection refused\n")
	w = begin(t, "--timeout", "1s", "--quiet", address)
	w.ends(t, 1)
	if want := "kido: not ready after 1s: tcp " + address + ": connection refused\n"; w.said() != want {
		t.Errorf("with --quiet it says %q", w.said())
	}
}

// One that hangs holds up none of the others; and it is named at the end.
func TestWaitHung(t *testing.T) {
	t.Parallel()
	hung, good := listen(t, "127.0.0.1:0"), httptest.NewServer(http.NotFoundHandler())
	defer good.Close()
	silent := "http://" + hung.Addr().String() + "/"
	w := begin(t, "--timeout", "2s", "-o", "json", silent, good.URL+"/#status=404", good.URL+"/#degraded=404")
	w.ends(t, 1)
	w.says(t, "kido: "+good.URL+"/ is ready after ")
	w.says(t, "kido: "+good.URL+"/ is degraded after ")
	w.says(t, ": HTTP 404 Not Found\n")
	w.says(t, "kido: "+silent+": no answer yet\nkido: not ready after 2s: 1 of 3 do not answer\n")
	var out struct {
		Ready  bool
		Took   float64
		Probes []struct {
			Probe, Answer, Word string
			Ready               bool
			Tries               int
			Took                float64
		}
	}
	if err := json.Unmarshal(w.out.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	if out.Ready || out.Took < 2 || len(out.Probes) != 3 {
		t.Fatalf("-o json: %s", w.out.String())
	}
	if p := out.Probes[0]; p.Ready || p.Answer != "not-ready" || p.Word != "no answer yet" || p.Tries != 0 || p.Probe != silent {
		t.Errorf("of the one that hangs: %+v", p)
	}
	if p := out.Probes[1]; !p.Ready || p.Answer != "ready" || p.Tries < 2 || p.Took == 0 {
		t.Errorf("of the good one: %+v", p)
	}
	if p := out.Probes[2]; !p.Ready || p.Answer != "degraded" || p.Word != "HTTP 404 Not Found" {
		t.Errorf("of the degraded one: %+v", p)
	}

	// Each try has a time-out of its own.
	w = begin(t, "--timeout", "10m", "--try-timeout", "20ms", silent)
	w.says(t, "no answer within 20ms")
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.ends(t, 130)
}

func TestWaitAny(t *testing.T) {
	t.Parallel()
	closed, _ := closedPort(t)
	w := begin(t, "--any", closed, listen(t, "127.0.0.1:0").Addr().String())
	w.ends(t, 0)
}

// All must be well at the same time: one that answered and went away is waited for
// again.
func TestWaitTogether(t *testing.T) {
	t.Parallel()
	first, open := closedPort(t)
	var fine atomic.Bool
	fine.Store(true)
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !fine.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer second.Close()
	w := begin(t, first, second.URL+"/")
	w.says(t, "/ is ready")
	fine.Store(false)
	w.says(t, "waits for "+second.URL+"/: HTTP 503")
	open()
	w.says(t, "tcp "+first+" is ready")
	fine.Store(true)
	w.ends(t, 0)
	if n := strings.Count(w.said(), second.URL+"/ is ready"); n != 2 {
		t.Errorf("it was said to be ready %d times:\n%s", n, w.said())
	}
}

func TestWaitMany(t *testing.T) {
	t.Parallel()
	var all []string
	var opens []func()
	for range 200 {
		address, open := closedPort(t)
		all, opens = append(all, address), append(opens, open)
	}
	w := begin(t, all...)
	for n, open := range opens {
		if n == 100 {
			w.says(t, "connection refused")
		}
		open()
	}
	w.ends(t, 0)
	if n := strings.Count(w.said(), " is ready after "); n != len(all) {
		t.Errorf("%d of %d were said to be ready", n, len(all))
	}
}

// The program has the process, the environment, the descriptors and the signals that
// it would have without kido in front; and its exit status is its own.
func TestWaitProgram(t *testing.T) {
	t.Parallel()
	address := listen(t, "127.0.0.1:0").Addr().String()
	const tell = `echo pid $$; env | grep -v ^_= | sort; grep -i '^Sig[BIC]' /proc/self/status; ulimit -n; ls /proc/self/fd; exit 7`
	script := func(before string, args ...string) (string, int) {
		t.Helper()
		// The shell that a program is begun from ignores a signal, or does not.
		line := append([]string{"-c", before + `exec "$@"`, "sh"}, args...)
		cmd := exec.Command("/bin/sh", line...)
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "A=b c")
		out, err := cmd.Output()
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			t.Fatal(err)
		}
		return strings.Replace(string(out), fmt.Sprintf("pid %d\n", cmd.Process.Pid), "pid the same\n", 1), cmd.ProcessState.ExitCode()
	}
	for _, before := range []string{"", "trap '' HUP INT; "} {
		want, status := script(before, "/bin/sh", "-c", tell)
		got, gotStatus := script(before, "kido", "wait", "-q", address, "--", "/bin/sh", "-c", tell)
		if status != 7 || gotStatus != 7 || !strings.Contains(want, "pid the same\n") {
			t.Errorf("exit status %d, without kido %d:\n%s", gotStatus, status, want)
		}
		if got != want {
			t.Errorf("%sit sees\n%s\nwithout kido\n%s", before, got, want)
		}
	}
}

// Ctrl-C ends the wait, and what it had begun.
func TestWaitInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hangs, pids, never := filepath.Join(dir, "hangs"), filepath.Join(dir, "pids"), filepath.Join(dir, "never")
	if err := os.WriteFile(hangs, []byte("#!/bin/sh\necho $$ >>"+pids+"\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	const many = 30
	what := slices.Repeat([]string{"exec:" + hangs}, many)
	w := begin(t, append(append([]string{"--timeout", "0", "--try-timeout", "10m", "file:/nowhere"}, what...), "--", "/bin/touch", never)...)
	w.says(t, "waits for file /nowhere: ")
	tick, late := time.NewTicker(2*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	var children []string
	for len(children) < many {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%d probes were run", len(children))
		}
		text, _ := os.ReadFile(pids) // not there yet
		if children = strings.Fields(string(text)); !bytes.HasSuffix(text, []byte("\n")) {
			children = nil
		}
	}
	if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	w.ends(t, 130)
	w.says(t, "kido: interrupted: 31 of 31 do not answer\n")
	for _, child := range children {
		if _, err := os.Stat("/proc/" + child); err == nil {
			t.Errorf("the probe's program %s is still there", child)
		}
	}
	if _, err := os.Stat(never); err == nil {
		t.Error("the program was run")
	}
}

// A password comes from a file or the environment, is used, and is nowhere said.
func TestWaitPassword(t *testing.T) {
	t.Parallel()
	const secret = "s3cret-word"
	asked := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		asked <- user + ":" + password
		if password != secret {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, password)
		}
	}))
	defer server.Close()
	url := strings.Replace(server.URL, "http://", "http://kido@", 1) + "/"
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("file", func(t *testing.T) {
		w := begin(t, "-v", "-o", "json", "--password-file", file, url)
		w.ends(t, 0)
		if got := <-asked; got != "kido:"+secret {
			t.Errorf("it logged in as %s", got)
		}
		if all := w.said() + w.out.String(); strings.Contains(all, secret) {
			t.Errorf("the secret is said: %s", all)
		}
	})
	t.Run("environment", func(t *testing.T) {
		w := beginIn(t, "KIDO_TEST_PW="+secret, "-v", "--password-env", "KIDO_TEST_PW", "not:"+url, url, "--any")
		w.ends(t, 0)
		if strings.Contains(w.said(), secret) {
			t.Errorf("the secret is said: %s", w.said())
		}
	})
	t.Run("missing", func(t *testing.T) {
		w := begin(t, "--timeout", "1s", "--password-file", file+"-gone", url)
		w.ends(t, 1)
		w.says(t, "its password: "+file+"-gone: no such file or directory")
	})
	t.Run("of another", func(t *testing.T) { // one that names no user is not told it
		l := listen(t, "127.0.0.1:0")
		heard := make(chan string, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			said := make([]byte, 4096)
			n, _ := c.Read(said)
			heard <- string(said[:n])
			_, _ = io.WriteString(c, "$21\r\nrun_id:1\r\nrole:master\r\n")
		}()
		w := begin(t, "--password-file", file, url, "redis://"+l.Addr().String())
		w.ends(t, 0)
		if got := <-heard; got != "*1\r\n$4\r\nINFO\r\n" {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("of nobody", func(t *testing.T) {
		w := begin(t, "--password-file", file, server.URL)
		w.ends(t, 2)
		w.says(t, "no URL has a user without one")
	})
}
