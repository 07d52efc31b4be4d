package keys

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func neverAsk() ([]byte, error) { return nil, errors.New("it asks for a passphrase") }

// newAuthority makes one and opens it.
func newAuthority(t *testing.T) (path string, ca *Authority) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ca")
	if _, err := NewAuthority(path, "", nil); err != nil {
		t.Fatal(err)
	}
	ca, err := OpenAuthority(path, neverAsk)
	must(t, err)
	return path, ca
}

func options(t *testing.T) CertificateOptions {
	t.Helper()
	public, err := New(filepath.Join(t.TempDir(), "key"), "db1's key")
	must(t, err)
	return CertificateOptions{
		Principal: "host/db1", Public: public, From: []string{"192.168.0.100", "fd00::/64"},
		Gate: "/usr/local/sbin/kido-gate", ID: "kido shop host/db1", Now: noon, Life: time.Hour,
	}
}

// TestAuthority: its private key is on disk for its owner alone, and, where there
// is a passphrase, for nobody without it: OpenSSH agrees.
func TestAuthority(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ca")
	public, err := NewAuthority(path, "offline", []byte("correct horse"))
	must(t, err)
	for file, mode := range map[string]os.FileMode{path: 0o600, path + ".pub": 0o644} {
		if info, err := os.Stat(file); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", file, info.Mode(), err, mode)
		}
	}
	opened := func() ([]byte, error) { return []byte("correct horse"), nil }
	ca, err := OpenAuthority(path, opened)
	must(t, err)
	if want, _ := Fingerprint(public); ssh.FingerprintSHA256(ca.signer.PublicKey()) != want {
		t.Error("the private key is not that of the public key")
	}
	if _, err := OpenAuthority(path, func() ([]byte, error) { return []byte("wrong"), nil }); err == nil || !strings.Contains(err.Error(), "does not open") {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if _, err := OpenAuthority(path, neverAsk); err == nil || !strings.Contains(err.Error(), "it asks") {
		t.Errorf("nobody to ask: %v", err)
	}
	if out := sshKeygen(t, "-y", "-P", "correct horse", "-f", path); !strings.HasPrefix(public, strings.Join(strings.Fields(out)[:2], " ")) {
		t.Errorf("ssh-keygen -y: %s, want %s", out, public)
	}
	if _, err := NewAuthority(path, "", nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("it is written over: %v", err)
	}
	must(t, os.Chmod(path, 0o644))
	for file, want := range map[string]string{path: "can be used by others", path + ".pub": "can be used by others", path + ".no": "no such file", t.TempDir(): "not a regular file"} {
		if _, err := OpenAuthority(file, opened); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", file, err, want)
		}
	}
	must(t, os.Chmod(path+".pub", 0o600))
	if _, err := OpenAuthority(path+".pub", opened); err == nil || !strings.Contains(err.Error(), "is not a private key") {
		t.Errorf("the public half: %v", err)
	}
}

// TestSign: ssh-keygen -L reads what was meant, and nothing else.
func TestSign(t *testing.T) {
	t.Parallel()
	_, ca := newAuthority(t)
	o := options(t)
	line, err := ca.Sign(o)
	must(t, err)
	if !strings.HasSuffix(line, " db1's key") {
		t.Errorf("the comment is gone: %s", line)
	}
	file := filepath.Join(t.TempDir(), "key-cert.pub")
	must(t, os.WriteFile(file, []byte(line+"\n"), 0o600))
	said := sshKeygen(t, "-L", "-f", file)
	for _, want := range []string{
		"ssh-ed25519-cert-v01@openssh.com user certificate", `Key ID: "kido shop host/db1"`, "host/db1\n",
		"force-command /usr/local/sbin/kido-gate\n", "source-address 192.168.0.100,fd00::/64\n", "Extensions: (none)\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("ssh-keygen does not read %q:\n%s", want, said)
		}
	}
	c, err := ParseCertificate(line + "\n")
	must(t, err)
	key, _ := Fingerprint(o.Public)
	if c.Key != key || c.Authority != ssh.FingerprintSHA256(ca.signer.PublicKey()) || c.Host || c.ID != o.ID || !slices.Equal(c.Principals, []string{"host/db1"}) ||
		!c.After.Equal(noon.Add(-5*time.Minute)) || !c.Before.Equal(noon.Add(time.Hour)) || len(c.Options) != 2 || len(c.Extensions) != 0 {
		t.Errorf("%+v", c)
	}
	again, err := ca.Sign(o)
	must(t, err)
	if d, err := ParseCertificate(again); err != nil || d.Serial == c.Serial {
		t.Errorf("two certificates have one serial number: %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	_, ca := newAuthority(t)
	weak := weakKey(t)
	for _, c := range []struct {
		name   string
		change func(*CertificateOptions)
		want   string
	}{
		{"no address", func(o *CertificateOptions) { o.From = nil }, "a stolen key works from anywhere"},
		{"every address", func(o *CertificateOptions) { o.From = []string{"0.0.0.0/0"} }, "this is every address"},
		{"a name", func(o *CertificateOptions) { o.From = []string{"db1"} }, "neither an IP address"},
		{"a shell", func(o *CertificateOptions) { o.Gate = "sh -c id" }, "not an absolute path"},
		{"for ever", func(o *CertificateOptions) { o.Life = MaxLife + time.Second }, "is good for a second to 366 days"},
		{"not at all", func(o *CertificateOptions) { o.Life = 0 }, "is good for a second to"},
		{"the authority", func(o *CertificateOptions) { o.Public = format(ca.signer.PublicKey(), "") }, "the authority's own key"},
		{"a weak key", func(o *CertificateOptions) { o.Public = format(weak.signer.PublicKey(), "") }, "can be broken"},
		{"two lines", func(o *CertificateOptions) { o.ID = "a\nb" }, "does not print"},
		{"no key", func(o *CertificateOptions) { o.Public = "ssh-ed25519" }, "not a public key"},
	} {
		o := options(t)
		c.change(&o)
		if line, err := ca.Sign(o); line != "" || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v; want … %s", c.name, line, err, c.want)
		}
	}
	if _, err := weak.Sign(options(t)); err == nil || !strings.Contains(err.Error(), "the authority's key cannot be used") {
		t.Errorf("a weak authority: %v", err)
	}
	o := options(t)
	line, err := ca.Sign(o)
	must(t, err)
	o.Public = line
	if _, err := ca.Sign(o); err == nil {
		t.Error("a certificate is certified")
	}
}

// TestParseCertificate: what was altered is none.
func TestParseCertificate(t *testing.T) {
	t.Parallel()
	path, ca := newAuthority(t)
	line, err := ca.Sign(options(t))
	must(t, err)
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	must(t, err)
	altered := *public.(*ssh.Certificate)
	altered.ValidPrincipals = []string{"host/db2"}
	private, err := os.ReadFile(path)
	must(t, err)
	for name, c := range map[string]struct{ text, want string }{
		"altered":    {format(&altered, ""), "was altered"},
		"a key":      {format(ca.signer.PublicKey(), ""), "but a public key"},
		"options":    {`command="x" ` + line, "but a public key"},
		"nothing":    {"", "not a certificate"},
		"two lines":  {line + "\n" + line, "does not print"},
		"a private":  {string(private), "this is a private key"},
		"half":       {line[:len(line)/2], "not a certificate"},
		"not base64": {"ssh-ed25519-cert-v01@openssh.com ####", "not a certificate"},
	} {
		if got, err := ParseCertificate(c.text); got != nil || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: %+v, %v; want … %s", name, got, err, c.want)
		}
	}
	altered = *public.(*ssh.Certificate)
	altered.ValidBefore = ssh.CertTimeInfinity
	must(t, altered.SignCert(rand.Reader, ca.signer))
	if c, err := ParseCertificate(format(&altered, "")); err != nil || !c.Before.IsZero() {
		t.Errorf("for ever: %+v, %v", c, err)
	}
}

// TestAgentAuthority: the key may be where only an agent has it, of any type.
func TestAgentAuthority(t *testing.T) {
	t.Parallel()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	ring := agent.NewKeyring()
	var all []string
	for _, private := range []any{&edwards, curve, old} {
		must(t, ring.Add(agent.AddedKey{PrivateKey: private}))
	}
	held, err := ring.List()
	must(t, err)
	for _, k := range held {
		all = append(all, ssh.FingerprintSHA256(k))
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c) }() // ends with the connection
		}
	}()
	for _, fingerprint := range all {
		ca, err := AgentAuthority(socket, fingerprint)
		must(t, err)
		line, err := ca.Sign(options(t))
		must(t, err)
		if c, err := ParseCertificate(line); err != nil || c.Authority != fingerprint {
			t.Errorf("%s: %+v, %v", fingerprint, c, err)
		}
		if err := ca.Close(); err != nil {
			t.Error(err)
		}
	}
	for at, want := range map[string]string{"": "SSH_AUTH_SOCK is not set", socket + "x": "cannot reach the ssh-agent", socket: "ssh-add FILE"} {
		if _, err := AgentAuthority(at, "SHA256:x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", at, err, want)
		}
	}
}

// weakKey is one that x/crypto makes no more.
func weakKey(t *testing.T) *Authority {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	sshKeygen(t, "-q", "-N", "", "-t", "rsa", "-b", "1024", "-f", path)
	weak, err := OpenAuthority(path, neverAsk)
	must(t, err)
	return weak
}
