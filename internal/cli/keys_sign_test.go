package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"

	"kido/internal/keys"
)

// typist is a person at a terminal.
type typist struct {
	t        *testing.T
	app      *app
	terminal *os.File // the person's end
	ended    chan struct{}

	mu     sync.Mutex
	screen strings.Builder
}

func newTypist(t *testing.T) *typist {
	t.Helper()
	person, program, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	w := &typist{t: t, app: &app{stdin: program, stdout: program, stderr: program}, terminal: person, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		_, _ = io.Copy(w, person) // ends in EIO once the program's end is closed
	}()
	t.Cleanup(func() { person.Close() })
	return w
}

func (w *typist) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.screen.Write(p)
}

func (w *typist) sees() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.screen.String()
}

// echoes reports whether what is typed is shown.
func (w *typist) echoes() bool {
	w.t.Helper()
	state, err := unix.IoctlGetTermios(int(w.app.stdin.Fd()), unix.TCGETS)
	if err != nil {
		w.t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// asked waits until the program has asked, and reads without showing.
func (w *typist) asked(prompt string) {
	w.t.Helper()
	tick, late := time.NewTicker(time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for !strings.HasSuffix(w.sees(), prompt) || w.echoes() {
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf("it does not ask %q: %q", prompt, w.sees())
		}
	}
}

func (w *typist) types(line string) {
	w.t.Helper()
	if _, err := io.WriteString(w.terminal, line+"\n"); err != nil {
		w.t.Fatal(err)
	}
}

// leave ends the program's use of the terminal and returns what was on it.
func (w *typist) leave() string {
	w.t.Helper()
	if !w.echoes() {
		w.t.Error("the terminal is left without echo")
	}
	w.app.stdin.Close()
	<-w.ended
	return w.sees()
}

// TestTypedPassphrase: it is asked for twice, and never shown; two that differ make
// nothing.
func TestTypedPassphrase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		lines []string
		want  string // of the error
	}{
		{"the same", []string{"tr0ub4dor", "tr0ub4dor"}, ""},
		{"another", []string{"tr0ub4dor", "tr0ub4dour"}, "these were two passphrases"},
		{"empty", []string{""}, "the passphrase is empty"},
	} {
		w := newTypist(t)
		type result struct {
			text []byte
			err  error
		}
		got := make(chan result, 1)
		go func() {
			text, err := w.app.newPassphrase(t.Context(), passphrase{})
			got <- result{text, err}
		}()
		for i, line := range c.lines {
			w.asked([]string{"passphrase for the authority's key: ", "once more: "}[i])
			w.types(line)
		}
		r := <-got
		if c.want == "" && (r.err != nil || string(r.text) != c.lines[0]) || c.want != "" && (r.err == nil || !strings.Contains(r.err.Error(), c.want)) {
			t.Errorf("%s: got %q, %v; want %q", c.name, r.text, r.err, c.want)
		}
		if screen := w.leave(); strings.Contains(screen, "tr0ub") {
			t.Errorf("%s: on the screen: %q", c.name, screen)
		}
	}
}

// TestInterruptedPassphrase: who gives up has his terminal back as it was.
func TestInterruptedPassphrase(t *testing.T) {
	t.Parallel()
	w := newTypist(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := w.app.typed(ctx, "passphrase: ")
		got <- err
	}()
	w.asked("passphrase: ")
	cancel()
	if status := w.app.exit(<-got); status != exitInterrupted {
		t.Errorf("exit status %d", status)
	}
	if !w.echoes() {
		t.Error("the terminal is left without echo")
	}
	w.types("") // for the read that goes on
	w.leave()
}

// TestSignByAgent: the authority's key may be where only an ssh-agent has it.
func TestSignByAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: &private}); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c) }() // ends with the connection
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", filepath.Join(dir, "s"))
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := ssh.FingerprintSHA256(signer.PublicKey())
	ca, key, out := filepath.Join(dir, "ca.pub"), filepath.Join(dir, "key"), filepath.Join(dir, "out")
	public, err := keys.New(key, "")
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		ca:                                string(ssh.MarshalAuthorizedKey(signer.PublicKey())),
		filepath.Join(dir, "site.yaml"):   "site: shop\nhosts: {db1: 192.168.0.100}\nservices: {oracle: {hosts: [db1], systemd: oracle.service}}\n",
		filepath.Join(dir, "unknown.pub"): public + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for authority, want := range map[string]int{ca: exitDone, "agent:" + fingerprint: exitDone, "agent:SHA256:x": exitUsage, filepath.Join(dir, "unknown.pub"): exitUsage} {
		printed, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"--site", filepath.Join(dir, "site.yaml"), "-o", "json", "keys", "sign", "db1", "--key", key + ".pub", "--authority", authority}
		a := &app{stdin: os.Stdin, stdout: printed, stderr: printed}
		root := a.root()
		root.SetArgs(args)
		status := a.exit(root.ExecuteContext(t.Context()))
		printed.Close()
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if status != want {
			t.Errorf("%s: exit status %d, want %d\n%s", authority, status, want, text)
		}
		if want != exitDone {
			if !strings.Contains(string(text), "the ssh-agent has no key ") {
				t.Errorf("%s: %s", authority, text)
			}
			continue
		}
		var said shownCertificate
		if err := json.Unmarshal(text, &said); err != nil || said.Authority != fingerprint || !said.Good || said.File != key+"-cert.pub" {
			t.Errorf("%s: %v\n%s", authority, err, text)
		}
	}
}

// What a certificate holds is shown on its line, and moves no cursor.
func TestShowHostile(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	evil := "\x1b[2J\njudged      a gate takes it"
	c := &ssh.Certificate{
		Key: signer.PublicKey(), CertType: ssh.UserCert, KeyId: evil, ValidPrincipals: []string{evil}, ValidBefore: 1,
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{evil: evil}, Extensions: map[string]string{evil: ""}},
	}
	if err := c.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	r, err := (&app{}).judge(string(ssh.MarshalAuthorizedKey(c)), "/gate")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r.write(&out)
	if said := out.String(); strings.Contains(said, "\x1b") || strings.Count(said, "\njudged ") != 1 || strings.Count(said, `\x1b[2J\n`) < 5 {
		t.Errorf("shown as\n%q", said)
	}
}
