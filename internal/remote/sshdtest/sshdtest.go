// Package sshdtest runs the system's own OpenSSH server on loopback for tests:
// its own configuration, host key and key file in the test's temporary folder,
// as root or not. When the test ends nothing of it runs any more: not the
// server, its connections, nor what they started.
package sshdtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Options say what a server is like. The zero value lets nobody in.
type Options struct {
	Addr  string   // loopback address; default 127.0.0.1
	Ports int      // how many ports it listens on, 16 at most; default 1
	Keys  []string // lines of the key file: see [Key.Line]
	// Config is put before our own lines; in sshd_config the first value of a
	// keyword counts.
	Config  []string
	HostKey *Key // default: a new one
}

// Server is a running sshd.
type Server struct {
	Addr    string
	Port    int   // the first of Ports
	Ports   []int // all, ascending as given to sshd
	User    string
	HostKey *Key

	t    testing.TB
	dir  string
	conf []string
	cmd  *exec.Cmd
	log  *log
}

// Start runs a server and returns when it listens. Without an sshd it skips
// the test, or fails it where the environment has CI set.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	program := Program(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1"
	}
	if o.HostKey == nil {
		o.HostKey = NewKey(t)
	}
	s := &Server{Addr: o.Addr, User: me.Username, HostKey: o.HostKey, t: t, dir: t.TempDir(), log: &log{changed: make(chan struct{})}}
	s.conf = append(slices.Clone(o.Config),
		"HostKey "+o.HostKey.Path,
		"PidFile none",
		"AuthorizedKeysFile "+filepath.Join(s.dir, "authorized_keys"),
		"StrictModes "+yes(private(s.dir)),
		"UsePAM no",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password",
		"UseDNS no",
		"PrintMotd no",
		"LogLevel VERBOSE",
		// The mark by which Stop finds what outlived its session. With this
		// SHLVL bash does not read the user's start-up files, which can be slow
		// or write something.
		"SetEnv SHLVL=5 "+mark+s.dir,
	)
	s.SetKeys(o.Keys...)
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("log of sshd on %s:%d:\n%s", s.Addr, s.Port, s.Log())
		}
	})
	// A free port may be taken by another before sshd has it: then once more.
	for try := 1; ; try++ {
		s.Ports = freePorts(t, o.Addr, max(o.Ports, 1))
		s.Port = s.Ports[0]
		if err = s.run(program); err == nil {
			return s
		}
		if try == 5 {
			t.Fatalf("sshd does not start: %v\n%s", err, s.Log())
		}
	}
}

// mark begins the environment variable that all sessions have.
const mark = "KIDO_SSHDTEST="

// Program is the path of sshd, which root's tests can run then. Without one it skips
// the test, or fails it where the environment has CI set.
func Program(t testing.TB) string {
	t.Helper()
	if os.Geteuid() == 0 {
		// Compiled into sshd, which does nothing without it, not even sshd -T; made by
		// the system's own start-up where there is one, so it is not taken away again.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	const missing = "no sshd on this machine, so nothing is tested against a real one: install it (apt-get install openssh-server)"
	if os.Getenv("CI") != "" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// Restart runs a stopped server again, at the same ports with the same keys.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.run(Program(s.t)); err != nil {
		s.t.Fatalf("sshd does not start again: %v\n%s", err, s.Log())
	}
}

func (s *Server) run(program string) error {
	conf := filepath.Join(s.dir, "sshd_config")
	lines := slices.Clone(s.conf)
	for _, p := range s.Ports {
		lines = append(lines, "ListenAddress "+net.JoinHostPort(s.Addr, strconv.Itoa(p)))
	}
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	from := s.log.size()
	s.cmd = exec.Command(program, "-D", "-e", "-f", conf)
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What sshd starts holds its standard error too; we kill it, and do not
	// wait for a stray that escaped.
	s.cmd.WaitDelay = 5 * time.Second
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	cmd := s.cmd
	go func() {
		_ = cmd.Wait() // killed, or its log says why
		close(exited)
	}()
	s.log.exited = exited
	listening := regexp.MustCompile(`Server listening on `)
	if !s.log.wait(30*time.Second, exited, func(text []byte) bool {
		return len(listening.FindAll(text[from:], -1)) >= len(s.Ports)
	}) {
		s.Stop()
		return fmt.Errorf("it does not listen on %d ports", len(s.Ports))
	}
	return nil
}

// SetKeys replaces the lines of the key file.
func (s *Server) SetKeys(lines ...string) {
	s.t.Helper()
	file := filepath.Join(s.dir, "authorized_keys")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Stop kills the server, its connections and what they run, daemons included
// that still have their session's environment. It may be called more than once.
func (s *Server) Stop() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	// Stopped first, it starts nothing while we look for its children, which
	// are in sessions of their own.
	pid := s.cmd.Process.Pid
	_ = s.cmd.Process.Signal(syscall.SIGSTOP) // gone already is fine
	for {
		family := append(Descendants(pid), marked(mark+s.dir)...)
		for _, p := range family {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		if len(family) == 0 {
			break
		}
	}
	_ = s.cmd.Process.Kill()
	<-s.log.exited
	s.cmd = nil
}

// Children lists the processes below the server, connections first; zombies
// are left out.
func (s *Server) Children() []int { return Descendants(s.cmd.Process.Pid) }

// Log is what sshd has written so far.
func (s *Server) Log() string { return s.log.String() }

// WaitLog waits until the log matches the expression n times, and fails the
// test where that takes half a minute.
func (s *Server) WaitLog(expression string, n int) {
	s.t.Helper()
	re := regexp.MustCompile(expression)
	if !s.log.wait(30*time.Second, s.log.exited, func(text []byte) bool { return len(re.FindAll(text, n)) >= n }) {
		s.t.Fatalf("the log of sshd does not have %q %d times:\n%s", expression, n, s.Log())
	}
}

// KnownHosts is the text of a known_hosts file with this server's key, for all
// its ports, or for the names given.
func (s *Server) KnownHosts(names ...string) string {
	if len(names) == 0 {
		for _, p := range s.Ports {
			names = append(names, fmt.Sprintf("[%s]:%d", s.Addr, p))
		}
	}
	return strings.Join(names, ",") + " " + s.HostKey.Public() + "\n"
}

// Key is a key pair; the private key is in a file without passphrase.
type Key struct {
	Path   string
	Signer ssh.Signer
}

// NewKey makes an ed25519 key in the test's temporary folder.
func NewKey(t testing.TB) *Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return newKey(t, private, err)
}

// NewECDSAKey makes a key of another type, as a second host key.
func NewECDSAKey(t testing.TB) *Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return newKey(t, private, err)
}

func newKey(t testing.TB, private crypto.Signer, err error) *Key {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	k := &Key{Path: filepath.Join(t.TempDir(), "id")}
	if err := os.WriteFile(k.Path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if k.Signer, err = ssh.NewSignerFromSigner(private); err != nil {
		t.Fatal(err)
	}
	return k
}

// Public is the public key: its type and the key in base64.
func (k *Key) Public() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.Signer.PublicKey())))
}

// Line is a line of a key file: the options, comma-separated ("" for none),
// and the key. See [Command].
func (k *Key) Line(options string) string { return strings.TrimSpace(options + " " + k.Public()) }

// Command is the option command="…" of a key line, quoted as sshd wants it.
func Command(command string) string {
	return `command="` + strings.ReplaceAll(command, `"`, `\"`) + `"`
}

// freePorts finds n ports that nobody listens on.
func freePorts(t testing.TB, addr string, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // only at the end, so that no port comes twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// private reports whether sshd's StrictModes accepts what is below dir: no
// folder up to the root may be written by others.
func private(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o022 != 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Descendants lists all processes below pid that are not zombies.
func Descendants(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	below := map[int][]int{}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // gone
		}
		// pid (command) state ppid …; the command may hold anything.
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || len(f) < 2 || f[0] == "Z" {
			continue
		}
		if parent, err := strconv.Atoi(f[1]); err == nil {
			below[parent] = append(below[parent], id)
		}
	}
	var all []int
	for next := below[pid]; len(next) > 0; {
		all = append(all, next...)
		var deeper []int
		for _, p := range next {
			deeper = append(deeper, below[p]...)
		}
		next = deeper
	}
	return all
}

// marked lists the processes with a variable in their environment.
func marked(variable string) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is well formed
	var all []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(append([]byte{0}, text...), append(append([]byte{0}, variable...), 0)) {
			continue // gone, of somebody else, or a zombie, whose environment is empty
		}
		if id, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			all = append(all, id)
		}
	}
	return all
}

// log collects what sshd writes.
type log struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed and replaced with every write
	exited  chan struct{} // closed when sshd has ended
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

func (l *log) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.text)
}

// wait waits until the text is as wanted.
func (l *log) wait(most time.Duration, exited <-chan struct{}, wanted func(text []byte) bool) bool {
	late := time.NewTimer(most)
	defer late.Stop()
	for {
		l.mu.Lock()
		ok, changed := wanted(l.text), l.changed
		l.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-exited:
			l.mu.Lock()
			defer l.mu.Unlock()
			return wanted(l.text)
		case <-late.C:
			return false
		}
	}
}
