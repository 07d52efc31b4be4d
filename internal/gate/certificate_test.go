package gate

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// signed has ssh-keygen sign a new key and returns the fields of the
// certificate's line.
func signed(t *testing.T, ca string, kind []string, args ...string) []string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	sshKeygen(t, append([]string{"-q", "-N", "", "-f", key, "-t"}, kind...)...)
	sshKeygen(t, append(append([]string{"-q", "-s", ca}, args...), key+".pub")...)
	text, err := os.ReadFile(key + "-cert.pub")
	must(t, err)
	return append(strings.Fields(string(text)), strings.Fields(sshKeygen(t, "-lf", key+".pub"))[1])
}

// authority makes one of OpenSSH's own.
func authority(t *testing.T, kind ...string) (file, fingerprint string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "ca")
	sshKeygen(t, append([]string{"-q", "-N", "", "-f", file, "-t"}, kind...)...)
	return file, strings.Fields(sshKeygen(t, "-lf", file+".pub"))[1]
}

func self(t testing.TB) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// good is how a certificate for this gate is signed.
func good(t *testing.T) []string {
	return []string{"-I", "db1, for kido", "-n", "host/db1", "-V", "-5m:+1h", "-z", "18446744073709551615", "-O", "clear", "-O", "force-command=" + self(t), "-O", "source-address=192.168.0.100,10.0.0.0/8"}
}

// TestCertificate: what ssh-keygen signs is read, of every type of key and
// authority that it makes; whoever comes with it is the principal in it, whatever
// the key is.
func TestCertificate(t *testing.T) {
	t.Parallel()
	for _, kind := range [][]string{{"ed25519"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "384"}, {"ecdsa", "-b", "521"}, {"rsa", "-b", "2048"}} {
		ca, fingerprint := authority(t, kind...)
		for _, more := range [][]string{nil, {"-O", "permit-pty", "-O", "permit-port-forwarding", "-O", "permit-user-rc", "-O", "permit-agent-forwarding", "-O", "permit-X11-forwarding"}} {
			f := signed(t, ca, kind, append(good(t), more...)...)
			got, key, err := authKey("publickey " + f[0] + " " + f[1] + "\n")
			if want := "cert:" + fingerprint + ":host/db1"; err != nil || got != want || checkIdentity(got) != nil {
				t.Errorf("%q %q: got %q, %v; want %q", kind, more, got, err, want)
			}
			if bare := f[len(f)-1]; key != bare {
				t.Errorf("%q: the key in it is %s, want %s", kind, key, bare)
			}
		}
	}
}

// TestCertificateRefused: what an sshd might let in and this gate does not.
func TestCertificateRefused(t *testing.T) {
	t.Parallel()
	ca, _ := authority(t, "ed25519")
	for _, c := range []struct {
		name string
		args []string
		want string // of the error; "" for none
	}{
		{"a person", []string{"-n", "person/keiko.b-2_x"}, ""},

		{"a host's", []string{"-h"}, "is a host's"},
		{"expired", []string{"-V", "-2h:-1s"}, "has expired"},
		{"not yet", []string{"-V", "+1h:+2h"}, "not valid yet"},
		{"two principals", []string{"-n", "host/db1,host/db2"}, "has 2 principals"},
		{"the same twice", []string{"-n", "host/db1,host/db1"}, "has 2 principals"},
		{"another kind", []string{"-n", "kido"}, "principal is kido"},
		{"a bare kind", []string{"-n", "host/"}, "principal is host/"},
		{"a path", []string{"-n", "host/../db1"}, "principal is host/../db1"},
		{"a deep one", []string{"-n", "host/db1/x"}, "principal is host/db1/x"},
		{"an identity", []string{"-n", "host/db1:x"}, "principal is host/db1:x"},
		{"a control character", []string{"-n", "host/\x1b[2J"}, `principal is "host/\x1b[2J"`},
		{"another option", []string{"-O", "critical:frobnicate=1"}, "the critical option frobnicate"},
		{"verify-required", []string{"-O", "verify-required"}, "the critical option verify-required"},
	} {
		f := signed(t, ca, []string{"ed25519"}, append(good(t), c.args...)...)
		id, _, err := authKey("publickey " + f[0] + " " + f[1] + "\n")
		if c.want == "" != (err == nil) || c.want != "" && !strings.Contains(err.Error(), c.want) || (id == "") != (err != nil) {
			t.Errorf("%s: got %q, %v; want … %s", c.name, id, err, c.want)
		}
	}
}

// build writes a certificate in hand: what ssh-keygen refuses to sign.
type build struct {
	principals, critical, extensions []string // in pairs, data as it is
	kind                             uint32
	after, before                    uint64
	authority, signature             string
	behind                           string
}

const certType = "ssh-ed25519-cert-v01@openssh.com"

func lengths(fields ...string) string {
	var b []byte
	for _, f := range fields {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return string(b)
}

func wellMade(t testing.TB) build {
	return build{
		principals: []string{"host/db1"}, kind: 1, before: math.MaxUint64,
		critical:  []string{"force-command", lengths(self(t)), "source-address", lengths("10.0.0.1")},
		authority: lengths("ssh-ed25519", strings.Repeat("a", 32)), signature: lengths("ssh-ed25519", "s"),
	}
}

func (b build) blob() []byte {
	text := []byte(lengths(certType, "nonce", strings.Repeat("k", 32)))
	text = binary.BigEndian.AppendUint64(text, 7)
	text = binary.BigEndian.AppendUint32(text, b.kind)
	text = append(text, lengths("id", lengths(b.principals...))...)
	text = binary.BigEndian.AppendUint64(text, b.after)
	text = binary.BigEndian.AppendUint64(text, b.before)
	text = append(text, lengths(lengths(b.critical...), lengths(b.extensions...), "", b.authority, b.signature)...)
	return append(text, b.behind...)
}

func asked(blob []byte) (string, error) {
	id, _, err := authKey("publickey " + certType + " " + base64.StdEncoding.EncodeToString(blob) + "\n")
	return id, err
}

func TestCertificateMalformed(t *testing.T) {
	t.Parallel()
	source := func(list string) func(*build) {
		return func(b *build) { b.critical[3] = lengths(list) }
	}
	command := func(command string) func(*build) {
		return func(b *build) { b.critical[1] = lengths(command) }
	}
	link := filepath.Join(t.TempDir(), "gate")
	must(t, os.Symlink(self(t), link))
	for _, c := range []struct {
		name   string
		change func(*build)
		want   string
	}{
		{"as it should be", func(*build) {}, ""},
		{"one address, IPv6", source("fd00::5"), ""},
		{"by a link", command(link), ""},
		{"no command", func(b *build) { b.critical = b.critical[2:] }, "no critical option force-command"},
		{"no source", func(b *build) { b.critical = b.critical[:2] }, "no critical option source-address"},
		{"no principal", func(b *build) { b.principals = nil }, "has 0 principals"},
		{"no option", func(b *build) { b.critical = nil }, "no critical option force-command"},
		{"another command", command("/bin/sh"), "forces the command /bin/sh"},
		{"an argument", command(self(t) + " --policy /dev/stdin"), "forces the command "},
		{"a relative path", command(filepath.Base(self(t))), "forces the command "},
		{"something behind", func(b *build) { b.behind = "\x00" }, "something follows"},
		{"no signature", func(b *build) { b.signature = "" }, "not signed"},
		{"signed by a certificate", func(b *build) { b.authority = lengths(certType, "n") }, "signed by something that is not a key"},
		{"signed by nothing", func(b *build) { b.authority = "" }, "signed by something that is not a key"},
		{"another type", func(b *build) { b.kind = 3 }, "is a host's"},
		{"an option twice", func(b *build) { b.critical = append(slices.Clone(b.critical[:2]), b.critical...) }, "comes twice or out of order"},
		{"out of order", func(b *build) { b.critical = append(slices.Clone(b.critical[2:]), b.critical[:2]...) }, "comes twice or out of order"},
		{"an extension twice", func(b *build) { b.extensions = []string{"permit-pty", "", "permit-pty", ""} }, "comes twice or out of order"},
		{"a bare value", func(b *build) { b.critical[1] = self(t) }, "is not one string"},
		{"two values", func(b *build) { b.critical[1] += lengths("/bin/sh") }, "is not one string"},
		{"half an option", func(b *build) { b.critical = b.critical[:3] }, "cut short"},
		{"an empty command", func(b *build) { b.critical[1] = "" }, `forces the command ""`},
		{"no address", source(""), `source-address is ""`},
		{"everywhere", source("10.0.0.1,0.0.0.0/0"), "source-address is 10.0.0.1,0.0.0.0/0"},
		{"everywhere, IPv6", source("::/0"), "source-address is ::/0"},
		{"a name", source("db1.example.org"), "source-address is db1.example.org"},
		{"a pattern", source("10.*"), `source-address is "10.*"`},
		{"an empty entry", source("10.0.0.1,"), "source-address is 10.0.0.1,"},
		{"before 1970", func(b *build) { b.before = 0 }, "has expired"},
	} {
		b := wellMade(t)
		c.change(&b)
		id, err := asked(b.blob())
		if c.want == "" != (err == nil) || c.want != "" && !strings.Contains(err.Error(), c.want) || (id == "") != (err != nil) {
			t.Errorf("%s: got %q, %v; want … %s", c.name, id, err, c.want)
		}
	}
	whole := wellMade(t).blob()
	for n := range whole {
		if id, err := asked(whole[:n]); err == nil {
			t.Fatalf("the first %d bytes are taken for %s", n, id)
		}
	}
}

// TestJudgeCertificate: a certificate may be judged elsewhere, before it is used.
func TestJudgeCertificate(t *testing.T) {
	t.Parallel()
	ca, fingerprint := authority(t, "ed25519")
	line := strings.Join(signed(t, ca, []string{"ed25519"}, "-I", "x", "-n", "person/keiko", "-V", "-5m:+1h", "-O", "force-command=/usr/local/sbin/kido-gate", "-O", "source-address=10.0.0.1"), " ")
	if id, err := JudgeCertificate(line+"\n", "/usr/local/sbin/kido-gate", time.Now()); err != nil || id != CertificateIdentity(fingerprint, "person/keiko") {
		t.Errorf("got %q, %v", id, err)
	}
	if _, err := JudgeCertificate(line, "/usr/sbin/kido-gate", time.Now()); err == nil || !strings.Contains(err.Error(), "forces the command /usr/local/sbin/kido-gate") {
		t.Errorf("for another gate: %v", err)
	}
	for _, other := range []string{"", "ssh-ed25519 AAAA", "x"} {
		if _, err := JudgeCertificate(other, "/gate", time.Now()); err == nil || !strings.Contains(err.Error(), "not a certificate") {
			t.Errorf("%q: %v", other, err)
		}
	}
}

func TestCertificateTime(t *testing.T) {
	t.Parallel()
	b := wellMade(t)
	b.after, b.before = 1000, 2000
	blob := b.blob()
	c, err := parseCertificate(certType, blob[4+len(certType):])
	must(t, err)
	for at, want := range map[int64]bool{-1: false, 0: false, 999: false, 1000: true, 1999: true, 2000: false, math.MaxInt64: false} {
		if _, err := c.identity(self(t), time.Unix(at, 0)); (err == nil) != want {
			t.Errorf("at %d: %v", at, err)
		}
	}
}

func TestCertificateIdentity(t *testing.T) {
	t.Parallel()
	const sum = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for id, want := range map[string]bool{
		CertificateIdentity(sum, "host/db1"):         true,
		CertificateIdentity(sum, "person/keiko"):     true,
		CertificateIdentity(sum, "people/keiko"):     false,
		CertificateIdentity(sum, "host/"):            false,
		CertificateIdentity(sum, "host/.db1"):        false,
		CertificateIdentity(sum, "host/db1 x"):       false,
		CertificateIdentity(sum, "host/データ"):         false,
		CertificateIdentity("SHA256:AAA", "host/d"):  false,
		CertificateIdentity("", "host/d"):            false,
		"cert:" + sum:                                false,
		sum + ":host/db1":                            false,
		CertificateIdentity(sum, "host/x:host/db1"):  false,
		CertificateIdentity("cert:"+sum, "host/db1"): false,
	} {
		if err := checkIdentity(id); (err == nil) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
	p, err := ParsePolicy("kido-policy 1\nhost web1\nservice web systemd web.service\nprincipal db1 " + CertificateIdentity(sum, "host/db1") + "\ngrant db1 web status\n")
	must(t, err)
	if got := p.Principal(CertificateIdentity(sum, "host/db1")); got != "db1" {
		t.Errorf("the policy has %q for it", got)
	}
	for _, other := range []string{sum, CertificateIdentity(sum, "host/db2"), CertificateIdentity(sum, "person/db1")} {
		if err := p.Authorise(Caller{Identity: other}, "status", "web"); err == nil || !strings.Contains(err.Error(), "no principal with the ") {
			t.Errorf("%s: %v", other, err)
		}
	}
}

// FuzzCertificate holds the reader to that of another implementation: what both
// read, they read alike; and what makes somebody known is whole, one byte less or
// more makes it nothing.
func FuzzCertificate(f *testing.F) {
	add := func(change func(*build)) {
		b := wellMade(f)
		change(&b)
		f.Add(b.blob())
	}
	add(func(*build) {})
	add(func(b *build) { b.principals = []string{"host/db1", "person/x"} })
	add(func(b *build) { b.kind, b.after, b.critical = 2, 99, nil })
	add(func(b *build) { b.extensions = []string{"permit-pty", "", "x", lengths("y")} })
	f.Fuzz(func(t *testing.T, blob []byte) {
		id, err := asked(blob)
		if err == nil {
			if checkIdentity(id) != nil {
				t.Errorf("%q is no identity", id)
			}
			for _, other := range [][]byte{blob[:len(blob)-1], append(slices.Clone(blob), 0)} {
				if id, err := asked(other); err == nil {
					t.Errorf("a byte less or more makes %q", id)
				}
			}
		}
		head := fields{rest: blob}
		if string(head.string()) != certType {
			return
		}
		ours, err := parseCertificate(certType, head.rest)
		parsed, theirErr := ssh.ParsePublicKey(blob)
		theirs, ok := parsed.(*ssh.Certificate)
		if err != nil || theirErr != nil || !ok {
			return
		}
		options := map[string]string{}
		for _, o := range ours.options {
			options[o.name] = o.value
		}
		if got, want := fmt.Sprint(ours.kind, ours.principals, ours.after, ours.before, ours.authority),
			fmt.Sprint(theirs.CertType, theirs.ValidPrincipals, theirs.ValidAfter, theirs.ValidBefore, ssh.FingerprintSHA256(theirs.SignatureKey)); got != want {
			t.Errorf("ours reads %s, the other %s", got, want)
		}
		if !maps.Equal(options, theirs.CriticalOptions) {
			t.Errorf("ours reads %q, the other %q", options, theirs.CriticalOptions)
		}
	})
}
