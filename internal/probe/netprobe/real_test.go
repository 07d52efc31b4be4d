package netprobe

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
)

// What the tests against real servers share: a server as a child process, its
// folder and port, and a try that is looked at for what it leaves behind.

// patience is how long anything may take that is waited for. Only a test that
// fails waits so long.
const patience = 60 * time.Second

// poll asks until it is so, and reports whether it came to that.
func poll(so func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			return false
		}
	}
	return true
}

// until waits for a condition, and fails the test where it does not come true.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	if !poll(so) {
		t.Fatalf("waited %v in vain: %s", patience, what)
	}
}

// needs finds a program of a Debian package, also where no PATH leads to it, and skips
// the test where it is missing; in CI that is a failure.
func needs(t testing.TB, pkg, program string, patterns ...string) string {
	t.Helper()
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	for _, pattern := range append(patterns, "/usr/sbin/"+program) {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing: install %s", program, pkg)
	}
	t.Skipf("SKIPPED: %s is missing: install %s", program, pkg)
	return ""
}

// credentialOf is for running a server as the user of its package: many refuse to be
// root. nil, which is as ourselves, where we are not root either.
func credentialOf(t testing.TB, name string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// shortDir is a folder with a name short enough for a Unix socket in it, of a user's
// own (nil: of ours), gone after the test.
func shortDir(t testing.TB, as *syscall.Credential) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kido")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	own(t, as, dir)
	return dir
}

// own gives a file or folder to a user.
func own(t testing.TB, as *syscall.Credential, path string) {
	t.Helper()
	if as == nil {
		return
	}
	if err := os.Chown(path, int(as.Uid), int(as.Gid)); err != nil {
		t.Fatal(err)
	}
}

// write makes a file that only its owner may read.
func write(t testing.TB, as *syscall.Credential, path string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	own(t, as, path)
	return path
}

// freePort is a port of 127.0.0.1 that nobody else is given by the kernel until the test
// is over: a socket is bound to it that does not listen. A server that asks for it by its
// number gets it, as servers set SO_REUSEADDR; before and after that it refuses connections.
func freePort(t testing.TB) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return name.(*syscall.SockaddrInet4).Port
}

// at is the address of a port of 127.0.0.1.
func at(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// process is a child that leads a process group of its own.
type process struct {
	pid   int
	log   string // where its output is
	ended <-chan struct{}
}

// start runs a program as a user (nil: as ourselves), in dir, where its output is kept,
// with HOME there and no other environment than env. It is killed after the test, with its
// group, and by the kernel where this process dies first.
func start(t testing.TB, as *syscall.Credential, dir string, env []string, argv ...string) *process {
	t.Helper()
	log, err := os.CreateTemp(dir, "log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append([]string{"HOME=" + dir, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C"}, env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	p := &process{pid: cmd.Process.Pid, log: log.Name(), ended: ended}
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.ended
		if t.Failed() {
			t.Logf("%s wrote:\n%s", argv[0], p.output())
		}
	})
	return p
}

// signal goes to the whole group, as long as any of it is left.
func (p *process) signal(s syscall.Signal) { _ = syscall.Kill(-p.pid, s) }

// stop sends a signal and waits for the process to end.
func (p *process) stop(t testing.TB, s syscall.Signal) {
	t.Helper()
	p.signal(s)
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("process %d did not end after the signal %v:\n%s", p.pid, s, p.output())
	}
}

// alive reports whether the process still runs.
func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// output is what it wrote so far, the end of it.
func (p *process) output() string {
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-8<<10):])
}

// command runs a program to its end, and returns its output.
func command(t testing.TB, as *syscall.Credential, dir string, env []string, argv ...string) string {
	t.Helper()
	p := start(t, as, dir, env, argv...)
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("%q does not end:\n%s", argv, p.output())
	}
	return p.output()
}

// planted is the password that the servers here are given: no answer may hold it.
const planted = "planted-Pa55word"

// asked is a probe of a kind with options as on a line: "user=kido".
func asked(kind probe.Kind, target string, options ...string) probe.Spec {
	s := probe.Spec{Kind: kind, Target: target, Timeout: 20 * time.Second, Options: map[string]string{}}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		s.Options[name] = value
	}
	return s
}

// asksShop asks a server on loopback for the database shop, as kido, with more options.
// The password is in a file of the folder.
func asksShop(t testing.TB, kind probe.Kind, port int, dir string, options []string) probe.Spec {
	t.Helper()
	password := filepath.Join(dir, "password")
	if _, err := os.Stat(password); err != nil {
		write(t, nil, password, []byte(planted+"\n"))
	}
	return asked(kind, at(port), append([]string{"user=kido", "database=shop", "password=file:" + password}, options...)...)
}

// tries tells the goroutines of one try from all others.
var tries atomic.Int64

// ask makes one try, and fails the test where it is not back in time, or leaves a
// goroutine or a connection behind, or tells the password. What other tests do meanwhile
// does not matter.
func ask(t testing.TB, s probe.Spec) probe.Answer {
	t.Helper()
	return askBy(t, Prober{}, s)
}

func askBy(t testing.TB, p Prober, s probe.Spec) probe.Answer {
	t.Helper()
	limit := 20 * time.Second // a busy machine's
	if s.Timeout > 0 {
		limit += s.Timeout
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	mark := fmt.Sprintf("try-%d", tries.Add(1))
	answer := make(chan probe.Answer, 1)
	go pprof.Do(context.Background(), pprof.Labels("kido", mark), func(context.Context) {
		answer <- p.Try(context.WithoutCancel(ctx), s)
	})
	var a probe.Answer
	select {
	case a = <-answer:
	case <-ctx.Done():
		t.Fatalf("%s: not back after %v\n%s", s.Described(), limit, goroutines(mark))
	}
	if !poll(func() bool { return goroutines(mark) == "" }) {
		t.Errorf("%s: %+v left behind\n%s", s.Described(), a, goroutines(mark))
	}
	if address := s.Address(); address != "" && !poll(func() bool { return connections(t, address) == 0 }) {
		t.Errorf("%s: %+v left %d connections", s.Described(), a, connections(t, address))
	}
	if strings.Contains(fmt.Sprintf("%+v", a), planted) {
		t.Errorf("%s: %+v tells the password", s.Described(), a)
	}
	return a
}

// goroutines are those that carry a mark, which they have from who started them.
func goroutines(mark string) string {
	var b bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
	var ours []string
	for part := range strings.SplitSeq(b.String(), "\n\n") {
		if strings.Contains(part, `"kido":"`+mark+`"`) {
			ours = append(ours, part)
		}
	}
	return strings.Join(ours, "\n\n")
}

// connections counts those of this process to a port, wherever.
func connections(t testing.TB, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", n)) {
				there["socket:["+f[9]+"]"] = true
			}
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, fd := range fds {
		if name, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && there[name] {
			count++
		}
	}
	return count
}

// authority vouches for certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kido test authority"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pem is the authority's own certificate.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue makes a certificate and its key, in PEM, that is good for some time from now (a
// negative one: it has expired), for a server of that name or address, or a client's.
func (a *authority) issue(t testing.TB, name string, good time.Duration) (cert, key []byte) {
	t.Helper()
	own := newKey(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-12 * time.Hour), NotAfter: time.Now().Add(good),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, own.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// speaker listens on 127.0.0.1 and does with each connection as it is told: a server
// that is none. It returns its address.
func speaker(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(t.Context(), func() { c.Close() })
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}
