package keys

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kido/internal/remote/sshdtest"
)

// asks runs OpenSSH's client against a server, with one key and the words that
// its holder asks for.
func asks(t *testing.T, s *sshdtest.Server, identity string, options []string, words ...string) (stdout, stderr string, err error) {
	t.Helper()
	known := write(t, s.KnownHosts())
	args := append([]string{
		"-F", "none", "-i", identity, "-p", strconv.Itoa(s.Port), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "BatchMode=yes", "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes",
	}, options...)
	args = append(append(args, "--", s.User+"@"+s.Addr), words...)
	var out, failed strings.Builder
	c := exec.Command("ssh", args...)
	c.Stdout, c.Stderr = &out, &failed
	err = c.Run()
	return out.String(), failed.String(), err
}

// A plain line runs its own command, to the letter, whatever the key's holder asks
// for: what a shell makes of the command here, it makes of it behind sshd.
func TestPlainLineAtSSHD(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Options{})
	identity := filepath.Join(t.TempDir(), "id")
	public, err := New(identity, `for "web1", 100% \ `+"起動")
	must(t, err)
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	for _, command := range []string{
		`printf '%s\n' plain`,
		`printf '%s\n' "double" '"single"' \"bare\"`,
		`printf '%s\n' 'a\b' 'a\\b' "a\\b" 'a\"b' "a\"b" 'a\\"b'`,
		`printf '%s\n' '$HOME' "\$HOME" '${x}' '$(id)'`,
		`printf '%s|%5d|%%\n' '100%' 7; printf '%%h %%u\n'`,
		`printf '%s\n' 'a,b' ,no-pty, 'command="x",restrict'`,
		`printf '%s\n' 'x" ssh-ed25519 AAAA' '# no comment' 'a  b' = '!' '*'`,
		`printf '%s\n' "$SSH_ORIGINAL_COMMAND" | wc -l; printf '%s\n' '起動'`,
		` printf '%s\n' 'blanks around' `,
		`"printf" '%s\n' 'quotes first and last' "\"" "x"`,
	} {
		line, err := PlainLine([]string{"127.0.0.1"}, command, public)
		must(t, err)
		s.SetKeys(line)
		want, err := exec.Command(shell, "-c", command).Output()
		must(t, err)
		got, stderr, err := asks(t, s, identity, nil, "echo", "something", "else")
		if err != nil || got != string(want) {
			t.Errorf("%s\ngives %q behind sshd, %q here; %v\n%s", line, got, want, err, stderr)
		}
	}
}

// A gate line runs the gate, from its address only, without a terminal or a
// forwarding.
func TestGateLineAtSSHD(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Options{})
	dir := t.TempDir()
	identity, gate := filepath.Join(dir, "id"), filepath.Join(dir, "kido-gate_1.0+x")
	public, err := New(identity, "kido shop")
	must(t, err)
	must(t, os.WriteFile(gate, []byte("#!/bin/sh\nprintf 'gate, asked for: %s\\n' \"$SSH_ORIGINAL_COMMAND\"\n"), 0o755))
	lock := func(from ...string) {
		line, err := GateLine(LineOptions{From: from, Gate: gate, Public: public})
		must(t, err)
		s.SetKeys(line)
	}
	lock("192.0.2.1", "127.0.0.0/8", "2001:db8::/32")
	for _, c := range []struct {
		name    string
		options []string
		words   []string
		want    string
	}{
		{"a command", nil, []string{"id; sh"}, "gate, asked for: id; sh\n"},
		{"a shell", nil, nil, "gate, asked for: \n"},
		{"a terminal", []string{"-tt"}, []string{"id"}, ""},
		{"sftp", []string{"-s"}, []string{"sftp"}, ""}, // none is configured here
	} {
		got, stderr, err := asks(t, s, identity, c.options, c.words...)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v\n%s", c.name, got, err, stderr)
		}
	}
	if got, stderr, err := asks(t, s, identity, []string{"-W", "127.0.0.1:" + strconv.Itoa(s.Port)}); err == nil || !strings.Contains(stderr, "administratively prohibited") {
		t.Errorf("-W: %q, %v\n%s", got, err, stderr)
	}
	lock("192.0.2.1", "127.0.0.2", "127.1.0.0/16")
	if got, stderr, err := asks(t, s, identity, nil, "id"); err == nil || got != "" || !strings.Contains(stderr, "Permission denied") {
		t.Errorf("from another address: %q, %v\n%s", got, err, stderr)
	}
}
