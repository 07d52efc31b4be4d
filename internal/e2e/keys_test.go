package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"kido/internal/remote/sshdtest"
	"kido/internal/wire"
)

// TestRefusedKey: what a key may do is what the policy of the host grants to that
// very key. What it does not is refused, nothing is started there, the others
// are done, and the debt stays on record.
func TestRefusedKey(t *testing.T) {
	t.Parallel()
	other := sshdtest.NewKey(t)
	for _, c := range []struct {
		name   string
		layout func(*layout)
		policy func(string) string
		word   string
	}{
		{
			"no grant", nil,
			func(p string) string { return drop(p, "grant runner web ") },
			"add a line: grant runner web status",
		},
		{
			"to look only", nil,
			func(p string) string { return drop(p, "grant runner web ") + "grant runner web status\n" },
			"add a line: grant runner web ensure",
		},
		{
			"another principal", nil,
			func(p string) string {
				return drop(p, "principal runner ") + "principal runner " + ssh.FingerprintSHA256(other.Signer.PublicKey()) + "\n"
			},
			"no principal with the key SHA256:",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, shop())
			n := s.up(t)
			web1 := s.host(t, "web1")
			policy := s.read(t, web1.policy)
			s.write(t, web1.policy, c.policy(policy))
			s.must(t, 4, "restart", "db").want(t, 4, "refused", c.word, "web@web1")
			s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web2": 1})
			s.status(t).owes(t, "web@web1", "db@db1")

			s.write(t, web1.policy, policy)
			s.must(t, 0, "resume")
			s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
			s.allFresh(t)
		})
	}
}

// drop takes out the lines that begin so.
func drop(text, prefix string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, prefix) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestUnexposedKey: where sshd does not say which key came in, nothing is
// granted to it but what the policy grants to such on purpose.
func TestUnexposedKey(t *testing.T) {
	t.Parallel()
	l := shop()
	l.unnamed = true
	s := newSite(t, l)
	s.must(t, 4, "up").want(t, 4, "ExposeAuthInfo yes")
	s.since(t, 0).counts(t, nil)
	for _, h := range s.hosts {
		printed := s.must(t, 0, "policy", h.name, "--unexposed").out
		at := strings.Index(printed, "principal runner ")
		line, _, _ := strings.Cut(printed[at:], "\n")
		s.write(t, h.policy, drop(s.read(t, h.policy), "principal runner ")+line+"\n")
	}
	s.must(t, 0, "up")
	s.allFresh(t)
}

// TestKeyNotTaken: a host that does not know our key any more.
func TestKeyNotTaken(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	n := s.up(t)
	web1 := s.host(t, "web1")
	web1.sshd.SetKeys(sshdtest.NewKey(t).Line(""))
	s.must(t, 3, "restart", "db").want(t, 3, "the host does not take the key SHA256:", "hint: is the public key of")
	s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web2": 1})
	s.status(t).owes(t, "web@web1", "db@db1")
	web1.sshd.SetKeys(web1.line)
	s.must(t, 0, "resume")
	s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
	s.allFresh(t)
}

// client is OpenSSH's own, with the site's key.
func (s *site) client(t testing.TB, h *host, args ...string) *exec.Cmd {
	t.Helper()
	program, err := exec.LookPath("ssh")
	if err != nil {
		const missing = "no ssh on this machine: install it (apt-get install openssh-client)"
		if os.Getenv("CI") != "" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	full := []string{
		"-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "UserKnownHostsFile=" + filepath.Join(s.dir, "known_hosts"), "-i", filepath.Join(s.dir, "id_ed25519"),
		"-p", fmt.Sprint(h.sshd.Port), "-l", s.me,
	}
	cmd := exec.CommandContext(t.Context(), program, append(full, args...)...)
	cmd.WaitDelay = patience
	return cmd
}

// TestKeyRunsNothingElse: whoever has the key can make kido requests and nothing
// else: no other command, no forwarding, no terminal, no file transfer; and what
// is no request starts nothing.
func TestKeyRunsNothingElse(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{
		units:  []unit{{name: "web", on: []string{"web1"}}},
		config: []string{"Subsystem sftp internal-sftp", "AllowTcpForwarding yes", "AllowAgentForwarding yes"},
	})
	n := s.up(t)
	h := s.host(t, "web1")
	address := h.addr + ":" + fmt.Sprint(unit{name: "web"}.port())
	request := string(wire.Request{Verb: wire.VerbStatus, Service: "web"}.Format())
	for _, c := range []struct {
		name  string
		args  []string // ADDRESS: the host
		stdin string
		says  string // on either output
		code  int    // of ssh
	}{
		{"a request", []string{"ADDRESS", wire.Command}, request, "kido/1 reply ok", 0},
		{"metacharacters", []string{"ADDRESS", "$(touch PWNED); `touch PWNED`; touch PWNED | touch PWNED & touch PWNED\n\x1b[2J"}, request, "kido/1 reply invalid", 0},
		{"metacharacters behind the word", []string{"ADDRESS", wire.Command + "; touch PWNED"}, request, "kido/1 reply invalid", 0},
		{"another command", []string{"ADDRESS", "/bin/sh"}, "touch PWNED\n", "kido/1 reply invalid", 0},
		{"no command", []string{"ADDRESS"}, "touch PWNED\n", "kido/1 reply invalid", 0},
		{"a policy of its own", []string{"ADDRESS", gateProgram() + " --policy /dev/stdin"}, "kido-policy 1\n", "kido/1 reply invalid", 0},
		{"sftp", []string{"-s", "ADDRESS", "sftp"}, "", "kido/1 reply invalid", 0},
		{"scp", []string{"ADDRESS", "scp -t /tmp"}, "", "kido/1 reply invalid", 0},
		{"a terminal", []string{"-tt", "ADDRESS", wire.Command}, request, "PTY allocation request failed", 255},
		{"forwarding out", []string{"-W", address, "ADDRESS"}, "who\n", "administratively prohibited", 255},
		{"forwarding in", []string{"-o", "ExitOnForwardFailure=yes", "-R", h.addr + ":0:" + address, "ADDRESS", wire.Command}, request, "remote port forwarding failed", 255},
		{"garbage", []string{"ADDRESS", wire.Command}, "\x00\xff$(touch PWNED)\n" + request, "kido/1 reply invalid", 0},
		{"half a request", []string{"ADDRESS", wire.Command}, request[:len(request)/2], "kido/1 reply invalid", 0},
		{"two requests", []string{"ADDRESS", wire.Command}, request + request, "kido/1 reply invalid", 0},
		{"a megabyte", []string{"ADDRESS", wire.Command}, strings.Repeat("a", 1<<20), "kido/1 reply invalid", 0},
		{"a megabyte of lines", []string{"ADDRESS", wire.Command}, strings.TrimSuffix(request, "end\n") + strings.Repeat("new a b\n", 1<<17) + "end\n", "kido/1 reply invalid", 0},
		{"another service", []string{"ADDRESS", wire.Command}, string(wire.Request{Verb: wire.VerbStop, Service: "sshd"}.Format()), "kido/1 reply refused", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.args {
				c.args[i] = strings.ReplaceAll(c.args[i], "ADDRESS", h.addr)
			}
			_ = os.Remove(h.passed)
			cmd := s.client(t, h, c.args...)
			cmd.Stdin = strings.NewReader(c.stdin)
			out, err := cmd.CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
				t.Fatal(err)
			} else if c.code != 0 != (err != nil) || c.code != 0 && exit.ExitCode() != c.code {
				t.Errorf("ssh ended with %v, want %d\n%s", err, c.code, out)
			}
			if !bytes.Contains(out, []byte(c.says)) {
				t.Errorf("it does not say %q:\n%s", c.says, out)
			}
			if bytes.ContainsAny(out, "\x1b\xff") {
				t.Errorf("what was sent comes back raw: %q", out)
			}
			// A request that is not good gets nowhere near the instance.
			if passed, err := os.ReadFile(h.passed); err == nil && strings.Contains(c.says, "invalid") && strings.Contains(string(passed), "gate.Lock") {
				t.Errorf("the gate went to work:\n%s", passed)
			}
			h.nothingLeft(t)
		})
	}
	for _, dir := range []string{s.dir, h.dir, "/", "/tmp"} {
		if _, err := os.Stat(filepath.Join(dir, "PWNED")); err == nil {
			t.Errorf("a command was run in %s", dir)
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		if _, err := os.Stat(filepath.Join(home, "PWNED")); err == nil {
			t.Errorf("a command was run in %s", home)
		}
	}
	s.since(t, n).counts(t, nil)
	s.allFresh(t)
}

// nothingLeft waits until no session runs at the host any more.
func (h *host) nothingLeft(t testing.TB) {
	t.Helper()
	until(t, "no process is left of the session", func() bool { return len(h.sshd.Children()) == 0 })
}

// TestSlowRequest: a client that does not come to the point is sent away, and
// meanwhile holds up nobody.
func TestSlowRequest(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{units: []unit{{name: "web", on: []string{"web1"}}}})
	s.up(t)
	h := s.host(t, "web1")
	cmd := s.client(t, h, h.addr, wire.Command)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "kido/1 request st"); err != nil {
		t.Fatal(err)
	}
	s.must(t, 0, "restart", "web")
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "kido/1 reply invalid") {
		t.Errorf("%v\n%s", err, out.String())
	}
	h.nothingLeft(t)
	s.allFresh(t)
}
