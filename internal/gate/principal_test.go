package gate

import (
	"encoding/base64"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestWhoWithoutKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  []string
		want Caller
	}{
		{nil, Caller{Identity: "local", Peer: ""}},
		{[]string{"SSH_CONNECTION", "192.168.0.100 40000 192.168.0.50 22"}, Caller{Identity: "unexposed", Peer: "192.168.0.100"}},
		{[]string{"SSH_CLIENT", "fe80::1%eth0 40000 22"}, Caller{Identity: "unexposed", Peer: "fe80::1%eth0"}},
		{[]string{"SSH_CONNECTION", "UNKNOWN 65535 UNKNOWN 65535"}, Caller{Identity: "unexposed", Peer: ""}},
		{[]string{"SSH_CONNECTION", "\x1b[2J"}, Caller{Identity: "unexposed", Peer: ""}},
		{[]string{"SSH_ORIGINAL_COMMAND", "kido/1"}, Caller{Identity: "unexposed", Peer: ""}},
	} {
		got, err := Who(environ(c.env...))
		if err != nil || got != c.want {
			t.Errorf("%q: got %+v, %v; want %+v", c.env, got, err, c.want)
		}
	}
}

// sshKeygen runs OpenSSH's own tool, the judge of fingerprints.
func sshKeygen(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("SKIPPED: no ssh-keygen to compare fingerprints with: install openssh-client")
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = nil
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestWhoByKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, kind := range [][]string{{"ed25519"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "384"}, {"ecdsa", "-b", "521"}, {"rsa", "-b", "1024"}} {
		key := filepath.Join(dir, strings.Join(kind, ""))
		sshKeygen(t, append([]string{"-q", "-N", "", "-f", key, "-t"}, kind...)...)
		want := strings.Fields(sshKeygen(t, "-lf", key+".pub"))[1]
		if !isFingerprint(want) {
			t.Errorf("%s is not taken for a fingerprint", want)
		}
		text, err := os.ReadFile(key + ".pub")
		must(t, err)
		f := strings.Fields(string(text))
		for _, methods := range []string{"", "keyboard-interactive/pam\n"} {
			file := key + ".auth"
			must(t, os.WriteFile(file, []byte(methods+"publickey "+f[0]+" "+f[1]+"\n"), 0o600))
			got, err := Who(environ("SSH_USER_AUTH", file, "SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22"))
			if err != nil || got != (Caller{want, want, "10.0.0.1"}) {
				t.Errorf("%s: got %+v, %v; want %s", key, got, err, want)
			}
		}
	}
}

// blob writes a key of given fields, the first one being the type.
func blob(fields ...string) string {
	var b []byte
	for _, f := range fields {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return base64.StdEncoding.EncodeToString(b)
}

func TestAuthKeyRefuses(t *testing.T) {
	t.Parallel()
	good := "publickey ssh-ed25519 " + blob("ssh-ed25519", strings.Repeat("k", 32)) + "\n"
	other := "publickey ssh-ed25519 " + blob("ssh-ed25519", strings.Repeat("l", 32)) + "\n"
	if _, _, err := authKey(good); err != nil {
		t.Fatal(err)
	}
	const cert = "ssh-ed25519-cert-v01@openssh.com"
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "\n", "not a line that sshd writes"},
		{"no key", "password\n", "no key was used"},
		{"two keys", good + other, "more than one key"},
		{"the same key twice", good + good, "more than one key"},
		{"cut short", strings.TrimSuffix(good, "\n"), "cut short"},
		{"empty line", good + "\n", "not a line that sshd writes"},
		{"two blanks", strings.Replace(good, " ", "  ", 1), "not a line"},
		{"comment", strings.TrimSuffix(good, "\n") + " me\n", "not a key as sshd writes it"},
		{"no blob", "publickey ssh-ed25519\n", "not a key as sshd writes it"},
		{"NUL", good + "A=b\x00C=d\n", "not a line that sshd writes"},
		{"not base64", "publickey ssh-ed25519 AAAA=AAA\n", "not base64"},
		{"slack bits in base64", "publickey ssh-ed25519 AAAAB4==\n", "base64"},
		{"other type inside", "publickey ssh-rsa " + blob("ssh-ed25519", "k") + "\n", "not of the type"},
		{"no type inside", "publickey ssh-rsa AAAA\n", "not of the type"},
		{"length beyond the end", "publickey ssh-rsa /////w==\n", "not of the type"},
		{"unknown certificate", "publickey x-cert-v01 " + blob("x-cert-v01", "n", "k") + "\n", "not known here"},
		{"certificate cut short", "publickey " + cert + " " + blob(cert, "nonce") + "\n", "certificate is cut short"},
		{"certificate without nonce", "publickey " + cert + " " + blob(cert) + "\n", "certificate is cut short"},
	} {
		if id, _, err := authKey(c.text); id != "" || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %q, %v; want … %s", c.name, id, err, c.want)
		}
	}
}

// TestWhoFailsClosed: a file that cannot be believed is an error, never a
// caller of another kind.
func TestWhoFailsClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := []byte("publickey ssh-ed25519 " + blob("ssh-ed25519", strings.Repeat("k", 32)) + "\n")
	write := func(name string, text []byte, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, text, mode))
		must(t, os.Chmod(file, mode))
		return file
	}
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(write("good", good, 0o600), link))
	fifo := filepath.Join(dir, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	cases := map[string]string{
		"empty":             write("empty", nil, 0o600),
		"malformed":         write("malformed", []byte("publickey\n"), 0o600),
		"too long":          write("long", append([]byte(strings.Repeat("password\n", maxUserAuth/9+1)), good...), 0o600),
		"written by others": write("shared", good, 0o666),
		"missing":           filepath.Join(dir, "missing"),
		"symbolic link":     link,
		"FIFO":              fifo,
		"folder":            dir,
		"standard input":    "/dev/stdin",
		"descriptor":        "/proc/self/fd/0",
		"environment":       "/proc/self/environ",
		"device":            "/dev/zero",
	}
	if os.Geteuid() == 0 {
		file := write("foreign", good, 0o600)
		must(t, os.Chown(file, 4242, -1))
		cases["of another user"] = file
	}
	for name, path := range cases {
		c, err := Who(environ("SSH_USER_AUTH", path, "SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22"))
		if err == nil || c != (Caller{}) || !strings.Contains(err.Error(), "cannot tell which key asks") {
			t.Errorf("%s: got %+v, %v", name, c, err)
		}
	}
	if c, err := Who(environ("SSH_USER_AUTH", filepath.Join(dir, "good"))); err != nil || !isFingerprint(c.Identity) {
		t.Errorf("the good one: %+v, %v", c, err)
	}
}

func FuzzAuthKey(f *testing.F) {
	f.Add("publickey ssh-ed25519 " + blob("ssh-ed25519", strings.Repeat("k", 32)) + "\n")
	f.Add("keyboard-interactive\npublickey ssh-rsa-cert-v01@openssh.com " + blob("ssh-rsa-cert-v01@openssh.com", "n", "e", "n", "rest") + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		id, _, err := authKey(text)
		if (err == nil) != isFingerprint(id) || err != nil && id != "" {
			t.Errorf("got %q, %v", id, err)
		}
	})
}
