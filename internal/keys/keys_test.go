package keys

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const edKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBERERERERERERERERERERERERERERERERERERERERER"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sshKeygen runs OpenSSH's own reader of keys and key lines.
func sshKeygen(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("SKIPPED: no ssh-keygen to compare with: install openssh-client")
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestNew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "id_ed25519")
	public, err := New(path, "kido db1 → web")
	must(t, err)
	if !strings.HasPrefix(public, "ssh-ed25519 AAAA") || !strings.HasSuffix(public, " kido db1 → web") {
		t.Errorf("public key: %q", public)
	}
	for file, mode := range map[string]os.FileMode{path: 0o600, path + ".pub": 0o644} {
		if info, err := os.Stat(file); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	if again, err := Public(path); err != nil || again != public {
		t.Errorf("read back: %q, %v", again, err)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	signer, err := ssh.ParsePrivateKey(text)
	must(t, err)
	if format(signer.PublicKey(), "kido db1 → web") != public {
		t.Error("the two files are not a pair")
	}
	// OpenSSH reads both, and agrees on the fingerprint.
	if got := sshKeygen(t, "-y", "-P", "", "-f", path); got != public+"\n" {
		t.Errorf("ssh-keygen -y: %q", got)
	}
	sum, err := Fingerprint(public)
	must(t, err)
	if got := strings.Fields(sshKeygen(t, "-lf", path+".pub"))[1]; got != sum {
		t.Errorf("fingerprint %s, by ssh-keygen %s", sum, got)
	}
	if other, err := New(path+"2", ""); err != nil || strings.Count(other, " ") != 1 || other == public {
		t.Errorf("another: %q, %v", other, err)
	}
}

// files lists a folder, names and contents.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all strings.Builder
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		all.WriteString(e.Name() + ": " + string(text) + "\n")
	}
	return all.String()
}

func TestNewWritesOverNothing(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(dir, path string) error{
		"private key":       func(dir, path string) error { return os.WriteFile(path, []byte("mine"), 0o600) },
		"public key":        func(dir, path string) error { return os.WriteFile(path+".pub", []byte("mine"), 0o600) },
		"dangling link":     func(dir, path string) error { return os.Symlink(filepath.Join(dir, "gone"), path) },
		"dangling pub link": func(dir, path string) error { return os.Symlink(filepath.Join(dir, "gone"), path+".pub") },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "id")
		must(t, prepare(dir, path))
		var before string
		link := strings.Contains(name, "link")
		if !link {
			before = files(t, dir)
		}
		if _, err := New(path, ""); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), "never written over") {
			t.Errorf("%s: %v", name, err)
		}
		if !link && files(t, dir) != before {
			t.Errorf("%s: the folder has changed: %s", name, files(t, dir))
		}
		if _, err := os.Stat(filepath.Join(dir, "gone")); err == nil {
			t.Errorf("%s: was followed", name)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: something was left behind: %v", name, entries)
		}
	}
	dir := t.TempDir()
	if _, err := New(filepath.Join(dir, "none", "id"), ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	if _, err := New(filepath.Join(dir, "id"), "two\nlines"); err == nil || files(t, dir) != "" {
		t.Errorf("comment of two lines: %v, %s", err, files(t, dir))
	}
}

func TestPublicRefuses(t *testing.T) {
	t.Parallel()
	rsa1024 := filepath.Join(t.TempDir(), "rsa")
	sshKeygen(t, "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", rsa1024)
	weak, err := os.ReadFile(rsa1024 + ".pub")
	must(t, err)
	private, err := os.ReadFile(rsa1024)
	must(t, err)
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "not a public key"},
		{"two keys", edKey + "\n" + edKey + "\n", "these are 2 lines"},
		{"options", `command="id" ` + edKey, "without options"},
		{"bare flag", "restrict " + edKey, "without options"},
		{"comment line", "# " + edKey, "not a public key"},
		{"other type named", "ssh-rsa " + strings.Fields(edKey)[1], "type mismatch"},
		{"damaged", edKey[:40], "not a public key"},
		{"too long", edKey + " " + strings.Repeat("c", maxLine), "longer than 8192 bytes"},
		{"escape", edKey + " \x1b[2J", "does not print"},
		{"right to left override", edKey + " \u202e", "does not print"},
		{"not UTF-8", edKey + " \xff", "is not UTF-8"},
		{"weak", string(weak), "RSA of 1024 bits"},
		{"private key", string(private), "this is a private key"},
	} {
		path := write(t, "")
		must(t, os.WriteFile(path+".pub", []byte(c.text), 0o600))
		got, err := Public(path)
		if got != "" || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v; want … %s", c.name, got, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), strings.Split(string(private), "\n")[1][:20]) {
			t.Errorf("%s: the error shows the private key", c.name)
		}
	}
	if _, err := Public(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Fingerprint("nonsense"); err == nil {
		t.Error("fingerprint of nonsense")
	}
}

func TestPublicTakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, kind := range [][]string{{"rsa", "-b", "2048"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "521"}} {
		path := filepath.Join(dir, strings.Join(kind, ""))
		sshKeygen(t, append([]string{"-q", "-N", "", "-C", "me  too", "-f", path, "-t"}, kind...)...)
		text, err := os.ReadFile(path + ".pub")
		must(t, err)
		if got, err := Public(path); err != nil || got+"\n" != string(text) {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
		ca := filepath.Join(dir, "ca")
		if _, err := os.Stat(ca); err != nil {
			sshKeygen(t, "-q", "-t", "ed25519", "-N", "", "-f", ca)
		}
		sshKeygen(t, "-q", "-s", ca, "-I", "x", path+".pub")
		cert, err := os.ReadFile(path + "-cert.pub")
		must(t, err)
		if _, err := Fingerprint(string(cert)); err == nil || !strings.Contains(err.Error(), "are not taken") {
			t.Errorf("certificate: %v", err)
		}
	}
}

func TestGateLine(t *testing.T) {
	t.Parallel()
	got, err := GateLine(LineOptions{
		From: []string{"192.168.0.100", "10.0.0.0/8", "2001:DB8::1", "fd00::/8"}, Gate: "/usr/local/sbin/kido-gate", Public: edKey + " db1\n",
	})
	must(t, err)
	want := `restrict,from="192.168.0.100,10.0.0.0/8,2001:db8::1,fd00::/8",command="/usr/local/sbin/kido-gate" ` + edKey + " db1"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	understood(t, got, "/usr/local/sbin/kido-gate")
	for _, c := range []struct{ gate, want string }{
		{"kido-gate", "not an absolute path"},
		{"", "not an absolute path"},
		{"/usr/../kido-gate", "shortest form"},
		{"/opt/my gate", "sshd gives the path to a shell"},
		{"/opt/$(id)", "sshd gives the path to a shell"},
		{"/opt/x;id", "sshd gives the path to a shell"},
		{`/opt/x"`, "sshd gives the path to a shell"},
		{"/opt/x\nssh-rsa", "sshd gives the path to a shell"},
		{"/opt/gäte", "sshd gives the path to a shell"},
	} {
		got, err := GateLine(LineOptions{From: []string{"10.0.0.1"}, Gate: c.gate, Public: edKey})
		if got != "" || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %q, %v", c.gate, got, err)
		}
	}
}

func TestFrom(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, want string }{
		{"", "neither an IP address"},
		{"db1", "sshd matches names only where it looks them up"},
		{"db1.example.com", "neither an IP address"},
		{"*", "neither an IP address"},
		{"!10.0.0.1", "neither an IP address"},
		{"10.0.0.1,10.0.0.2", "neither an IP address"},
		{"10.0.0.1 ", "neither an IP address"},
		{"10.0.0.1\"", "neither an IP address"},
		{"10.0.0.1\n", `from "10.0.0.1\n": neither`},
		{"010.0.0.1", "neither an IP address"},
		{"10.0.0.0/33", "neither an IP address"},
		{"10.0.0.0/08", "neither an IP address"},
		{"127.0.0.1/8", "host bits are set, for which sshd ignores the whole line: write 127.0.0.0/8 or 127.0.0.1"},
		{"2001:db8::1/64", "write 2001:db8::/64 or 2001:db8::1"},
		{"0.0.0.0/0", "this is every address"},
		{"::/0", "this is every address"},
		{"0.0.0.0", "nothing comes from this address"},
		{"::ffff:10.0.0.1", "sees such a peer as IPv4: write 10.0.0.1"},
		{"::ffff:10.0.0.0/104", "IPv4"},
		{"fe80::1%eth0", "a zone is known to one host only: write an address without %eth0"},
	} {
		got, err := PlainLine([]string{"10.0.0.9", c.from}, "/bin/true", edKey)
		if got != "" || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %q, %v; want … %s", c.from, got, err, c.want)
		}
	}
	if got, err := PlainLine(nil, "/bin/true", edKey); got != "" || err == nil || !strings.Contains(err.Error(), "works from anywhere") {
		t.Errorf("no address: %q, %v", got, err)
	}
}

// plainCommands are the memo's, and ones that try the quoting.
var plainCommands = []string{
	"/etc/init.d/httpd restart",
	`sh -c "echo \"a\" '$HOME' \\ # , ="`,
	`"`, `""`, `\"`, `\\"`, `a\ b`, `x" ssh-ed25519 AAAA`, `x",no-pty,environment="LD_PRELOAD=/x`, "/opt/起動 restart",
}

func TestPlainLine(t *testing.T) {
	t.Parallel()
	for _, command := range plainCommands {
		got, err := PlainLine([]string{"192.168.0.100"}, command, edKey+" db1")
		must(t, err)
		understood(t, got, command)
	}
	for _, c := range []struct{ command, want string }{
		{"", "the command is empty"},
		{"  ", "the command is empty"},
		{"a\nb", "does not print"},
		{"a\rb", "does not print"},
		{"a\tb", "does not print"},
		{"a\x00b", "does not print"},
		{"a\x1b[2J", "does not print"},
		{"a\u2028b", "does not print"},
		{"a\xffb", "is not UTF-8"},
		{`a\`, "ends in a backslash"},
		{strings.Repeat("x", maxLine), "sshd takes at most 8192"},
	} {
		got, err := PlainLine([]string{"10.0.0.1"}, c.command, edKey)
		if got != "" || err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 600 {
			t.Errorf("%q: %q, %v", c.command, got, err)
		}
	}
	if got, err := PlainLine([]string{"10.0.0.1"}, "/bin/true", "nonsense"); got != "" || err == nil {
		t.Errorf("no key: %q, %v", got, err)
	}
}

// understood checks that the readers of key lines see the options that were
// meant and no others.
func understood(t *testing.T, line, command string) {
	t.Helper()
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if len(options) != 3 || options[0] != "restrict" || !strings.HasPrefix(options[1], "from=") ||
		options[2] != `command="`+strings.ReplaceAll(command, `"`, `\"`)+`"` {
		t.Errorf("%s: options %q", line, options)
	}
	if key.Type()+" "+strings.Fields(edKey)[1] != edKey {
		t.Errorf("%s: not the key", line)
	}
	sum, err := Fingerprint(edKey)
	must(t, err)
	if out := sshKeygen(t, "-lf", write(t, line+"\n")); !strings.Contains(out, sum) {
		t.Errorf("%s: ssh-keygen sees %s", line, out)
	}
}

func FuzzPlainLine(f *testing.F) {
	for _, c := range plainCommands {
		f.Add("10.0.0.1", c, "me")
	}
	f.Add("fd00::/8", "/bin/true", "")
	f.Fuzz(func(t *testing.T, from, command, comment string) {
		line, err := PlainLine([]string{from}, command, edKey+" "+comment)
		if err != nil {
			return
		}
		_, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(rest) > 0 || len(options) != 3 || strings.ContainsAny(line, "\n\r\x00") {
			t.Fatalf("%q: options %q, rest %q, %v", line, options, rest, err)
		}
		if got := dequote(t, strings.TrimPrefix(options[2], "command=")); got != command {
			t.Errorf("%q is read as %q", command, got)
		}
	})
}

// dequote reads a quoted option as sshd does: a backslash counts only before a
// quote, and the first quote without one ends it.
func dequote(t *testing.T, s string) string {
	t.Helper()
	out := ""
	for i := 1; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && s[i+1] == '"' {
			i++
		} else if s[i] == '"' {
			if i != len(s)-1 {
				t.Fatalf("%q ends early", s)
			}
			return out
		}
		out += s[i : i+1]
	}
	t.Fatalf("%q does not end", s)
	return ""
}

func TestPin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		host string
		port int
		name string // in known_hosts, and as ssh-keygen -F looks it up
	}{
		{"192.168.0.50", 22, "192.168.0.50"},
		{"192.168.0.50", 2222, "[192.168.0.50]:2222"},
		{"Web1.Example.com", 22, "web1.example.com"},
		{"web_1-a", 65535, "[web_1-a]:65535"},
		{"2001:DB8:0::1", 22, "2001:db8::1"},
		{"2001:db8::1", 2222, "[2001:db8::1]:2222"},
	} {
		got, err := Pin(c.host, c.port, edKey+" root@web1\n")
		if err != nil || got != c.name+" "+edKey {
			t.Errorf("%s: %q, %v", c.host, got, err)
			continue
		}
		file := write(t, got+"\n")
		if out := sshKeygen(t, "-F", c.name, "-f", file); !strings.Contains(out, got) {
			t.Errorf("%s: ssh-keygen -F finds %q", c.host, out)
		}
		check, err := knownhosts.New(file)
		must(t, err)
		key, _, err := parse(edKey)
		must(t, err)
		address := c.name
		if c.port == 22 {
			address = net.JoinHostPort(c.name, "22")
		}
		if err := check(address, &net.TCPAddr{}, key); err != nil {
			t.Errorf("%s: %v", c.host, err)
		}
	}
	for _, c := range []struct {
		host string
		port int
		key  string
		want string
	}{
		{"", 22, edKey, "1 to 253 bytes"},
		{"*", 22, edKey, "neither an IP address nor a host name"},
		{"web1,web2", 22, edKey, "neither"},
		{"!web1", 22, edKey, "neither"},
		{"@revoked", 22, edKey, "neither"},
		{"#web1", 22, edKey, "neither"},
		{"|1|abc", 22, edKey, "neither"},
		{"[web1]", 22, edKey, "neither"},
		{"-oProxyCommand", 22, edKey, "neither"},
		{"web1 web2", 22, edKey, "neither"},
		{"web1\nweb2", 22, edKey, "neither"},
		{"fe80::1%eth0", 22, edKey, "without its zone"},
		{strings.Repeat("w", 254), 22, edKey, "1 to 253 bytes"},
		{"web1", 0, edKey, "a port is 1 to 65535"},
		{"web1", 65536, edKey, "a port is 1 to 65535"},
		{"web1", 22, "", "host key of web1: not a public key"},
		{"web1", 22, "web1 " + edKey, "host key of web1: "},
	} {
		got, err := Pin(c.host, c.port, c.key)
		if got != "" || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q %d: %q, %v; want … %s", c.host, c.port, got, err, c.want)
		}
	}
}

// TestComplete: a pair whose making was cut off is made whole, and one that is whole
// stays as it is.
func TestComplete(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "id_ed25519")
	made, err := Complete(path, "kido shop")
	must(t, err)
	if again, err := Complete(path, "another comment"); err != nil || again != made {
		t.Errorf("what is whole: %q, %v, want %q", again, err, made)
	}
	must(t, os.Remove(path+".pub"))
	for _, want := range []string{made, made} {
		if public, err := Complete(path, "kido shop"); err != nil || public != want {
			t.Errorf("without its public half: %q, %v, want %q", public, err, want)
		}
	}
	must(t, os.Remove(path+".pub"))
	must(t, os.Truncate(path, 0))
	fresh, err := Complete(path, "kido shop")
	must(t, err)
	if public, err := Public(path); err != nil || public != fresh || fresh == made {
		t.Errorf("of an empty one: %q, %v, want %q", public, err, fresh)
	}
	must(t, os.Remove(path))
	if _, err := Complete(path, "kido shop"); !errors.Is(err, os.ErrExist) {
		t.Errorf("with a public half alone: %v, want it refused", err)
	}
	garbage := write(t, "no key")
	if _, err := Complete(garbage, "kido shop"); err == nil || !strings.Contains(err.Error(), "cannot be read to make it") {
		t.Errorf("of what is no key: %v", err)
	}
}
