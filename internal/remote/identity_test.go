package remote

import (
	"crypto/rand"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"kido/internal/remote/sshdtest"
)

// certificate signs one for a key; change makes it another.
func certificate(t *testing.T, ca, key *sshdtest.Key, change func(*ssh.Certificate)) string {
	t.Helper()
	c := &ssh.Certificate{
		Key: key.Signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"host/db1"},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{"force-command": "true"}},
	}
	if change != nil {
		change(c)
	}
	if err := c.SignCert(rand.Reader, ca.Signer); err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(c))
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCertificate: the certificate beside an identity is offered before the bare
// key, and read anew for each connection. One that cannot be used holds up nobody
// who has a line; who has none hears of it.
func TestCertificate(t *testing.T) {
	t.Parallel()
	key, ca, stranger := sshdtest.NewKey(t), sshdtest.NewKey(t), sshdtest.NewKey(t)
	principals, authorities := t.TempDir()+"/principals", t.TempDir()+"/authorities"
	put(t, principals, "host/db1\n")
	put(t, authorities, ca.Public()+"\n")
	s := sshdtest.Start(t, sshdtest.Options{Config: []string{"TrustedUserCAKeys " + authorities, "AuthorizedPrincipalsFile " + principals, "ExposeAuthInfo yes"}})
	line := key.Line(sshdtest.Command("cut -d ' ' -f 2 $SSH_USER_AUTH"))
	by := func(change func(*ssh.Certificate)) string { return certificate(t, ca, key, change) }
	for _, c := range []struct {
		name, text  string // "": no file
		withoutLine string // of the error where the key has no line; "" for none
		hint        string
	}{
		{"none", "", "the host does not take the key " + ssh.FingerprintSHA256(key.Signer.PublicKey()), "is the public key of"},
		{"a good one", by(nil), "", ""},
		{"without an end", by(func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 0, math.MaxUint64 }), "", ""},
		{"expired", by(func(c *ssh.Certificate) { c.ValidBefore = c.ValidAfter + 1 }), "-cert.pub ended on 2", "have it signed anew (kido keys sign)"},
		{"not yet", by(func(c *ssh.Certificate) { c.ValidAfter += 5400 }), "is not valid before 2", "have it signed anew"},
		{"a host's", by(func(c *ssh.Certificate) { c.CertType = ssh.HostCert }), "is a host's", "have it signed anew"},
		{"of another key", certificate(t, ca, stranger, nil), "is of another key (" + ssh.FingerprintSHA256(stranger.Signer.PublicKey()), "have it signed anew"},
		{"of a stranger", certificate(t, stranger, key, nil), "nor its certificate ", "does the host trust who signed it (kido enroll)"},
		{"a key", key.Public() + "\n", "there is no certificate in ", "have it signed anew"},
		{"garbage", "\x1b[2J", "there is no certificate in ", "have it signed anew"},
	} {
		file := CertificateFile(key.Path)
		_ = os.Remove(file)
		if c.text != "" {
			put(t, file, c.text)
		}
		// One connection for each call.
		cl := client(t, Config{HostKeys: pins(t, s.KnownHosts()), Idle: time.Nanosecond})
		s.SetKeys()
		_, _, err := cl.Plain(within(t, 30*time.Second), target(s, key), 0)
		if c.withoutLine == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if e := wantError(t, err, PhaseAuth, KindAuth, false, c.withoutLine); !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: hint %q, want … %s", c.name, e.Hint, c.hint)
		}
		if c.withoutLine == "" {
			continue
		}
		s.SetKeys(line)
		_, out, err := cl.Plain(within(t, 30*time.Second), target(s, key), 0)
		if err != nil || strings.TrimSpace(out) != "ssh-ed25519" {
			t.Errorf("%s, with a line: %q, %v", c.name, out, err)
		}
	}

	// The same client, a new certificate.
	put(t, CertificateFile(key.Path), by(func(c *ssh.Certificate) { c.ValidBefore = c.ValidAfter + 1 }))
	s.SetKeys()
	cl := client(t, Config{HostKeys: pins(t, s.KnownHosts()), Identity: key.Path, Idle: time.Nanosecond})
	_, _, err := cl.Plain(within(t, 30*time.Second), target(s, key), 0)
	wantError(t, err, PhaseAuth, KindAuth, false, "ended on")
	put(t, CertificateFile(key.Path), by(nil))
	if _, _, err := cl.Plain(within(t, 30*time.Second), target(s, key), 0); err != nil {
		t.Errorf("the new certificate is not used: %v", err)
	}
}
