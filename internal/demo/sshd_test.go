package demo

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"kido/internal/initsys"
)

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// testServer runs script for every session.
func testServer(t *testing.T, hostKey, key ssh.Signer, script string) *sshd {
	t.Helper()
	s, err := serveSSH("127.0.0.1:0", hostKey, key.PublicKey(), []string{"/bin/sh", "-c", script}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func dial(s *sshd, hostKey, key ssh.Signer, user string) (*ssh.Client, error) {
	return ssh.Dial("tcp", s.listener.Addr().String(), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.FixedHostKey(hostKey.PublicKey()),
	})
}

func session(t *testing.T, s *sshd, hostKey, key ssh.Signer) *ssh.Session {
	t.Helper()
	c, err := dial(s, hostKey, key, sshUser)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	x, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestForcedCommand(t *testing.T) {
	t.Parallel()
	hostKey, key := newKey(t), newKey(t)
	s := testServer(t, hostKey, key, `cat; echo "[$SSH_ORIGINAL_COMMAND] $SSH_CONNECTION"; stat -c %a "$SSH_USER_AUTH"; cat "$SSH_USER_AUTH"; exit 7`)
	x := session(t, s, hostKey, key)
	x.Stdin = strings.NewReader("input\n")
	out, err := x.Output("rm -rf /")
	if exit, ok := errors.AsType[*ssh.ExitError](err); !ok || exit.ExitStatus() != 7 {
		t.Errorf("got %v, want exit status 7", err)
	}
	want := `^input\n\[rm -rf /\] 127\.0\.0\.1 \d+ 127\.0\.0\.1 \d+\n600\npublickey ` + regexp.QuoteMeta(string(ssh.MarshalAuthorizedKey(key.PublicKey()))) + `$`
	if !regexp.MustCompile(want).Match(out) {
		t.Errorf("got %q, want %s", out, want)
	}
	if left, _ := filepath.Glob(filepath.Join(s.root, "auth-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNothingButTheKeyAndExec(t *testing.T) {
	t.Parallel()
	hostKey, key := newKey(t), newKey(t)
	s := testServer(t, hostKey, key, "echo ran")
	if c, err := dial(s, hostKey, newKey(t), sshUser); err == nil {
		c.Close()
		t.Error("another key is let in")
	}
	if c, err := dial(s, hostKey, key, "root"); err == nil {
		c.Close()
		t.Error("another user is let in")
	}
	x := session(t, s, hostKey, key)
	if err := x.Setenv("LD_PRELOAD", "x"); err == nil {
		t.Error("an environment variable is taken")
	}
	if err := x.RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("a terminal is given")
	}
	if err := x.RequestSubsystem("sftp"); err == nil {
		t.Error("a subsystem is given")
	}
	if err := x.Shell(); err == nil {
		t.Error("a shell is given")
	}
	c, err := dial(s, hostKey, key, sshUser)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if conn, err := c.Dial("tcp", s.listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("a connection is forwarded")
	}
}

func TestCloseEndsGates(t *testing.T) {
	t.Parallel()
	hostKey, key := newKey(t), newKey(t)
	s := testServer(t, hostKey, key, `echo $$; exec sleep 1000`)
	x := session(t, s, hostKey, key)
	out, err := x.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Start("x"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 32)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	gate, err := initsys.Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if alive, err := gate.Alive(); alive || err != nil {
		t.Errorf("the gate runs on: %v", err)
	}
	if _, err := io.ReadAll(out); err != nil {
		t.Errorf("the session does not end: %v", err)
	}
	if c, err := dial(s, hostKey, key, sshUser); err == nil {
		c.Close()
		t.Error("a server without power lets in")
	}
	if _, err := os.Stat(s.root); err != nil {
		t.Error(err)
	}
}
