package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"kido/internal/gate"
	"kido/internal/remote/sshdtest"
	"kido/internal/wire"
)

// certified is what a host's sshd has to know of certificates, as kido install
// puts it into its Match block.
type certified struct {
	dir string
	ca  *sshdtest.Key
}

func newCertified(t testing.TB) *certified {
	t.Helper()
	c := &certified{dir: t.TempDir(), ca: sshdtest.NewKey(t)}
	c.write(t, "authorities", c.ca.Public()+"\n")
	c.write(t, "revoked", "# nothing\n")
	c.principals(t, lockedPrincipal, "host/db1", "host/db2")
	return c
}

func (c *certified) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// lockedPrincipal is the line of a principal as kido install writes it. Here the
// command that is run is that of ForceCommand, for a gate has its policy elsewhere.
func lockedPrincipal(principal string) string {
	return `restrict,from="127.0.0.1",` + sshdtest.Command(gateProgram()) + " " + principal
}

func barePrincipal(principal string) string { return principal }

func (c *certified) principals(t testing.TB, line func(string) string, names ...string) {
	t.Helper()
	var b strings.Builder
	for _, n := range names {
		b.WriteString(line(n) + "\n")
	}
	c.write(t, "principals", b.String())
}

// config is the block; more of it says what else a session may not do.
func (c *certified) config(more ...string) []string {
	return append([]string{
		"TrustedUserCAKeys " + filepath.Join(c.dir, "authorities"),
		"AuthorizedPrincipalsFile " + filepath.Join(c.dir, "principals"),
		"RevokedKeys " + filepath.Join(c.dir, "revoked"),
		"AuthenticationMethods publickey",
		"ForceCommand /bin/sh " + filepath.Join(c.dir, "gate"),
	}, more...)
}

var locked = []string{"DisableForwarding yes", "PermitTunnel no", "PermitTTY no", "PermitUserRC no"}

// gates has each host's sshd run the gate with the policy of that host.
func (c *certified) gates(t testing.TB, s *site) {
	t.Helper()
	for _, h := range s.hosts {
		c.write(t, h.addr, h.policy)
	}
	c.write(t, "gate", fmt.Sprintf("set -- $SSH_CONNECTION\nexec %s --policy \"$(cat %s/$3)\"\n", gateProgram(), c.dir))
}

// identity is what policies call a principal of the authority.
func (c *certified) identity(principal string) string {
	return gate.CertificateIdentity(ssh.FingerprintSHA256(c.ca.Signer.PublicKey()), principal)
}

// TestCertifiedRun: a runner that no host has a line for comes with a certificate
// that kido signed. Its renewal needs nothing at the hosts; without a good one the
// run says why, and a line of the key still serves.
func TestCertifiedRun(t *testing.T) {
	t.Parallel()
	c := newCertified(t)
	s := newSite(t, layout{
		units:  []unit{{name: "db", on: []string{"db1"}}, {name: "web", on: []string{"web1"}, after: []string{"db: restart"}}},
		config: c.config(locked...),
	})
	c.gates(t, s)
	key := strings.Fields(s.read(t, s.dir, "id_ed25519.pub"))
	if err := os.Mkdir(filepath.Join(s.dir, "keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(t, filepath.Join(s.dir, "keys", "db1.pub"), strings.Join(key, " ")+"\n")
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(strings.Join(key, " ")))
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := ssh.FingerprintSHA256(public)
	byKey := map[*host]string{}
	for _, h := range s.hosts {
		byKey[h] = s.read(t, h.policy)
		h.sshd.SetKeys()
	}
	sign := func(args ...string) {
		s.must(t, 0, append([]string{"keys", "sign", "db1", "--authority", c.ca.Path, "--from", "127.0.0.1", "--gate", gateProgram(), "--out", "id_ed25519-cert.pub"}, args...)...)
	}
	s.must(t, 1, "up").want(t, 1, "the host does not take the key "+fingerprint)
	sign("--valid", "1h")
	// A policy that knows the key knows nobody who comes with a certificate of it.
	s.must(t, 4, "up").want(t, 4, "no principal with the certificate "+c.identity("host/db1"))
	s.since(t, 0).counts(t, nil)
	for h, policy := range byKey {
		if changed := strings.ReplaceAll(policy, fingerprint, c.identity("host/db1")); changed != policy {
			s.write(t, h.policy, changed)
			continue
		}
		t.Fatalf("the policy does not name the key:\n%s", policy)
	}
	n := s.up(t)
	sign()
	s.must(t, 0, "restart", "db")
	s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web1": 1})
	s.status(t).wantNot(t, "warning")

	expired := c.certificate(t, public, func(k *ssh.Certificate) { k.ValidBefore = uint64(time.Now().Unix()) })
	s.write(t, filepath.Join(s.dir, "id_ed25519-cert.pub"), expired)
	s.must(t, 1, "restart", "web").want(t, 1, "the host does not take the key "+fingerprint, "id_ed25519-cert.pub ended on ", "have it signed anew (kido keys sign)")
	s.status(t).want(t, 3, "kido: warning: the certificate ", "id_ed25519-cert.pub ended on ")
	for _, h := range s.hosts {
		s.write(t, h.policy, byKey[h])
		h.sshd.SetKeys(h.line)
	}
	s.must(t, 0, "resume")
	s.allFresh(t)
}

// certificate signs one that is good, but for the change.
func (c *certified) certificate(t testing.TB, key ssh.PublicKey, change func(*ssh.Certificate)) string {
	t.Helper()
	k := &ssh.Certificate{
		Key: key, CertType: ssh.UserCert, KeyId: "for a test", ValidPrincipals: []string{"host/db1"},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{"force-command": gateProgram(), "source-address": "127.0.0.1"}},
	}
	if change != nil {
		change(k)
	}
	if err := k.SignCert(rand.Reader, c.ca.Signer); err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(k))
}

// TestCertificateTraps: what an authority has signed is worth what the gate is
// for, and no more; whatever sshd would make of it.
func TestCertificateTraps(t *testing.T) {
	t.Parallel()
	c, stranger := newCertified(t), newCertified(t)
	s := newSite(t, layout{units: []unit{{name: "web", on: []string{"web1"}}}, config: c.config(locked...)})
	c.gates(t, s)
	n := s.up(t)
	h := s.host(t, "web1")
	// db1 may do what the runner may; db2 may look.
	s.write(t, h.policy, s.read(t, h.policy)+
		"principal db1 "+c.identity("host/db1")+"\ngrant db1 web status stop\nprincipal db2 "+c.identity("host/db2")+"\ngrant db2 web status\n")
	key := sshdtest.NewKey(t)
	public := key.Signer.PublicKey()
	status := string(wire.Request{Verb: wire.VerbStatus, Service: "web"}.Format())
	stop := string(wire.Request{Verb: wire.VerbStop, Service: "web", Run: "r1", Timeout: time.Second}.Format())

	const denied = "Permission denied (publickey)"
	options := func(of map[string]string) func(*ssh.Certificate) {
		return func(k *ssh.Certificate) { k.CriticalOptions = of }
	}
	as := func(principals ...string) func(*ssh.Certificate) {
		return func(k *ssh.Certificate) { k.ValidPrincipals = principals }
	}
	withoutCommand := options(map[string]string{"source-address": "127.0.0.1"})
	for _, trap := range []struct {
		name    string
		by      *certified // who signs; nil: c
		change  func(*ssh.Certificate)
		line    func(string) string // of the principals; nil: as kido writes it
		revoked string              // line of the revoked keys
		request string              // default: status
		says    string
	}{
		{name: "a good one", says: "kido/1 reply ok"},
		{name: "a good one, bare principal", line: barePrincipal, says: "kido/1 reply ok"},
		{name: "of db2", change: as("host/db2"), says: "kido/1 reply ok"},
		{name: "of db2 with the grants of db1", change: as("host/db2"), request: stop, says: "grant db2 web stop"},
		{name: "of a person called db1", change: as("person/db1"), says: denied},
		{name: "of a person called db1, whom sshd lets in", change: as("person/db1"), line: func(string) string { return "person/db1" }, says: "no principal with the certificate"},
		{name: "of nobody sshd knows", change: as("host/db3"), says: denied},
		{name: "of the user", change: as(h.sshd.User), says: denied},
		{name: "of everybody", change: as(), says: denied},
		{name: "of two", change: as("host/db1", "host/db2"), says: "the certificate has 2 principals"},
		{name: "of two, one unknown", change: as("host/db1", "root"), says: "the certificate has 2 principals"},
		{name: "without a command", change: withoutCommand, says: "no critical option force-command"},
		{name: "without a command, bare principal", change: withoutCommand, line: barePrincipal, says: "no critical option force-command"},
		{name: "with a shell", change: options(map[string]string{"source-address": "127.0.0.1", "force-command": "/bin/sh"}), says: denied},
		{name: "with a shell, bare principal", line: barePrincipal, change: options(map[string]string{"source-address": "127.0.0.1", "force-command": "/bin/sh"}), says: "forces the command /bin/sh"},
		{name: "without a source", change: options(map[string]string{"force-command": gateProgram()}), says: "no critical option source-address"},
		{name: "from everywhere", change: options(map[string]string{"force-command": gateProgram(), "source-address": "0.0.0.0/0"}), says: "source-address is 0.0.0.0/0"},
		{name: "from elsewhere", change: options(map[string]string{"force-command": gateProgram(), "source-address": "192.0.2.1"}), says: denied},
		{name: "from elsewhere, bare principal", line: barePrincipal, change: options(map[string]string{"force-command": gateProgram(), "source-address": "192.0.2.1"}), says: denied},
		{name: "from elsewhere than the principal", line: func(p string) string { return strings.Replace(lockedPrincipal(p), "127.0.0.1", "192.0.2.1", 1) }, says: denied},
		{name: "with an option that nobody knows", change: func(k *ssh.Certificate) { k.CriticalOptions["frobnicate"] = "1" }, says: denied},
		{name: "a host's", change: func(k *ssh.Certificate) { k.CertType = ssh.HostCert }, says: denied},
		{name: "expired", change: func(k *ssh.Certificate) { k.ValidBefore = uint64(time.Now().Unix()) }, says: denied},
		{name: "not yet valid", change: func(k *ssh.Certificate) { k.ValidAfter, k.ValidBefore = k.ValidBefore, math.MaxUint64 }, says: denied},
		{name: "of another authority", by: stranger, says: denied},
		{name: "of another authority, for everybody", by: stranger, change: as(), says: denied},
		{name: "of a revoked key", revoked: key.Public(), says: denied},
		{name: "of a revoked authority", revoked: c.ca.Public(), says: denied},
	} {
		t.Run(trap.name, func(t *testing.T) {
			if trap.by == nil {
				trap.by = c
			}
			if trap.line == nil {
				trap.line = lockedPrincipal
			}
			if trap.request == "" {
				trap.request = status
			}
			c.principals(t, trap.line, "host/db1", "host/db2")
			c.write(t, "revoked", "# nothing\n"+trap.revoked+"\n")
			cmd := s.clientBy(t, h, key, trap.by.certificate(t, public, trap.change), h.addr, wire.Command)
			cmd.Stdin = strings.NewReader(trap.request)
			out, err := cmd.CombinedOutput()
			if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
				t.Fatal(err)
			}
			if !bytes.Contains(out, []byte(trap.says)) || strings.HasPrefix(trap.says, "kido/1") != bytes.Contains(out, []byte("reply ok")) {
				t.Errorf("%v: it does not say %q:\n%s", err, trap.says, out)
			}
			h.nothingLeft(t)
		})
	}
	s.since(t, n).counts(t, nil)
	s.allFresh(t)
}

// clientBy is OpenSSH's own, with another key and its certificate.
func (s *site) clientBy(t testing.TB, h *host, key *sshdtest.Key, certificate string, args ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cert.pub")
	s.write(t, file, certificate)
	cmd := s.client(t, h, append([]string{"-o", "CertificateFile=" + file}, args...)...)
	for i, arg := range cmd.Args {
		if arg == filepath.Join(s.dir, "id_ed25519") {
			cmd.Args[i] = key.Path
		}
	}
	return cmd
}

// dial makes a connection with a key's certificate.
func (h *host) dial(t testing.TB, key *sshdtest.Key, certificate string) *ssh.Client {
	t.Helper()
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(certificate))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(public.(*ssh.Certificate), key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", fmt.Sprintf("%s:%d", h.addr, h.sshd.Port), &ssh.ClientConfig{
		User: h.sshd.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(h.sshd.HostKey.Signer.PublicKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestCertificateExtensions: what a certificate's extensions give is taken away by
// the line of its principal, and by the configuration of sshd: by either alone.
func TestCertificateExtensions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config []string
		line   func(string) string
	}{
		"by the principal":     {[]string{"AllowTcpForwarding yes", "PermitTTY yes"}, lockedPrincipal},
		"by the configuration": {locked, barePrincipal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			known := newCertified(t)
			known.principals(t, c.line, "host/db1")
			s := newSite(t, layout{units: []unit{{name: "web", on: []string{"web1"}}}, config: known.config(c.config...)})
			known.gates(t, s)
			s.up(t)
			h := s.host(t, "web1")
			s.write(t, h.policy, s.read(t, h.policy)+"principal db1 "+known.identity("host/db1")+"\ngrant db1 web status\n")
			key := sshdtest.NewKey(t)
			all := known.certificate(t, key.Signer.PublicKey(), func(k *ssh.Certificate) {
				k.Extensions = map[string]string{"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": "", "permit-X11-forwarding": "", "permit-user-rc": ""}
			})
			address := h.addr + ":" + fmt.Sprint(unit{name: "web"}.port())
			request := string(wire.Request{Verb: wire.VerbStatus, Service: "web"}.Format())
			for want, args := range map[string][]string{
				"kido/1 reply ok":               {h.addr, wire.Command},
				"PTY allocation request failed": {"-tt", h.addr, wire.Command},
				"administratively prohibited":   {"-W", address, h.addr},
				"remote port forwarding failed": {"-o", "ExitOnForwardFailure=yes", "-R", h.addr + ":0:" + address, h.addr, wire.Command},
			} {
				cmd := s.clientBy(t, h, key, all, args...)
				cmd.Stdin = strings.NewReader(request)
				if out, _ := cmd.CombinedOutput(); !bytes.Contains(out, []byte(want)) { // what it ended with is in the words
					t.Errorf("%q: it does not say %q:\n%s", args, want, out)
				}
				h.nothingLeft(t)
			}
			client := h.dial(t, key, all)
			session, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			x11 := ssh.Marshal(struct {
				Single           bool
				Protocol, Cookie string
				Screen           uint32
			}{false, "MIT-MAGIC-COOKIE-1", "00", 0})
			for request, payload := range map[string][]byte{"auth-agent-req@openssh.com": nil, "x11-req": x11} {
				if ok, err := session.SendRequest(request, true, payload); err != nil || ok {
					t.Errorf("%s is granted: %v, %v", request, ok, err)
				}
			}
			client.Close()
			s.allFresh(t)
		})
	}
}

// openAsDB1 is a connection to web1 that is open, by a certificate of db1's, changed,
// and a policy that grants db1 what the lines say.
func openAsDB1(t *testing.T, grants string, change func(*ssh.Certificate)) (*site, *host, *ssh.Client, *sshdtest.Key) {
	t.Helper()
	c := newCertified(t)
	s := newSite(t, layout{units: []unit{{name: "web", on: []string{"web1"}}}, config: c.config(locked...)})
	c.gates(t, s)
	s.up(t)
	h := s.host(t, "web1")
	s.write(t, h.policy, s.read(t, h.policy)+"principal db1 "+c.identity("host/db1")+"\n"+grants)
	key := sshdtest.NewKey(t)
	client := h.dial(t, key, c.certificate(t, key.Signer.PublicKey(), change))
	t.Cleanup(func() { client.Close() })
	return s, h, client, key
}

// request sends one over a connection that is open.
func request(t testing.TB, client *ssh.Client, q wire.Request) string {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	session.Stdin = bytes.NewReader(q.Format())
	out, err := session.CombinedOutput(wire.Command)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestRevokedOnOpenConnection: sshd asks for the list of revoked keys when a
// connection begins; the gate asks its policy with every request, and a key in a
// certificate is revoked as well.
func TestRevokedOnOpenConnection(t *testing.T) {
	t.Parallel()
	s, h, client, key := openAsDB1(t, "grant db1 web status\n", func(*ssh.Certificate) {})
	status := wire.Request{Verb: wire.VerbStatus, Service: "web"}
	if out := request(t, client, status); !strings.Contains(out, "kido/1 reply ok") {
		t.Errorf("a good certificate: %s", out)
	}
	s.write(t, h.policy, s.read(t, h.policy)+"revoked "+ssh.FingerprintSHA256(key.Signer.PublicKey())+"\n")
	if out := request(t, client, status); !strings.Contains(out, "kido/1 reply refused") || !strings.Contains(out, "is revoked") {
		t.Errorf("its key is revoked: %s", out)
	}
}

// TestStolenKeyIsBounded: whoever has a host's key can make up one token after the
// other, and say that his requests have no budget; they have the policy's.
func TestStolenKeyIsBounded(t *testing.T) {
	t.Parallel()
	s, h, client, _ := openAsDB1(t, "grant db1 web status ensure\n", func(*ssh.Certificate) {})
	s.write(t, h.policy, strings.Replace(s.read(t, h.policy), "service web command\n", "service web command\n  budget 2 3600000\n", 1))
	s.contradicted = true // no run of kido asks for what the thief does
	for _, want := range []string{"done", "done", "on-hold"} {
		reply, err := wire.ParseReply([]byte(request(t, client, wire.Request{Verb: wire.VerbStatus, Service: "web"})))
		if err != nil || reply.Status == nil {
			t.Fatalf("%+v, %v", reply, err)
		}
		news := wire.NewVector(wire.Entry{Instance: "oracle@db1", Token: fmt.Sprintf("made-up-%d", reply.Status.Generation)})
		out := request(t, client, wire.Request{Verb: wire.VerbEnsure, Service: "web", Reaction: wire.ReactRestart, Expect: reply.Status.Basis, New: news, Generation: reply.Status.Generation})
		if !strings.Contains(out, "kido/1 reply "+want) {
			t.Errorf("want %s: %s", want, out)
		}
	}
}

// TestCertificateEndsConnection: sshd looks at the time when a connection begins;
// the gate looks with every request. So a connection that is held open serves no
// longer than the certificate by which it came in.
func TestCertificateEndsConnection(t *testing.T) {
	t.Parallel()
	_, _, client, _ := openAsDB1(t, "grant db1 web status\n", func(k *ssh.Certificate) { k.ValidBefore = uint64(time.Now().Add(10 * time.Second).Unix()) })
	ask := func() string { return request(t, client, wire.Request{Verb: wire.VerbStatus, Service: "web"}) }
	if out := ask(); !strings.Contains(out, "kido/1 reply ok") {
		t.Errorf("a good certificate: %s", out)
	}
	last := ""
	until(t, "the certificate serves no more", func() bool { last = ask(); return !strings.Contains(last, "kido/1 reply ok") })
	if !strings.Contains(last, "the certificate has expired") {
		t.Error(last)
	}
}
