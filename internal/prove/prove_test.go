package prove

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"kido/internal/gate"
	"kido/internal/probe"
	"kido/internal/remote"
	"kido/internal/remote/sshdtest"
	"kido/internal/wire"
)

// argGate makes the test's own program the gate.
const argGate = "gate"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == argGate {
		os.Exit(gate.Main(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// place is a host with a gate and two services, of which the key may look at one.
type place struct {
	dir, acted string
	policy     *gate.Policy
	key        *sshdtest.Key
	sshd       *sshdtest.Server
	Config
}

func newPlace(t *testing.T, config ...string) *place {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir()) // a gate takes no policy from behind one
	if err != nil {
		t.Fatal(err)
	}
	p := &place{dir: dir, acted: filepath.Join(dir, "acted"), key: sshdtest.NewKey(t)}
	act := []string{"/usr/bin/touch", p.acted}
	service := func(name string) gate.PolicyService {
		return gate.PolicyService{Name: name, Adapter: "command", Start: act, Stop: act, Restart: act, Reload: act, PIDFile: filepath.Join(dir, name+".pid")}
	}
	id := ssh.FingerprintSHA256(p.key.Signer.PublicKey())
	p.policy = &gate.Policy{
		Host: "web1", State: filepath.Join(dir, "state"), Timeout: time.Minute,
		Services:   []gate.PolicyService{service("web"), service("mail")},
		Watches:    []gate.Watch{{Instance: "db@db1", Ready: []probe.Spec{{Kind: probe.KindTCP, Target: "127.0.0.1:1"}}}},
		Principals: []gate.Principal{{Name: "db1", Identities: []string{id}}},
		Grants:     []gate.Grant{{Principal: "db1", Service: "web", Verbs: []wire.Verb{wire.VerbStatus}}},
	}
	p.sshd = sshdtest.Start(t, sshdtest.Options{Config: config})
	pins, err := remote.ParsePins([]byte(p.sshd.KnownHosts("web1")), "known_hosts")
	if err != nil {
		t.Fatal(err)
	}
	p.Config = Config{
		Target:   remote.Target{Name: "web1", Address: p.sshd.Addr, Port: p.sshd.Port, User: p.sshd.User, Key: p.key.Path},
		HostKeys: pins, Policy: p.policy, Others: []string{"daemon"}, Patience: time.Second,
	}
	return p
}

// lock gives the key the gate as its one command, with a policy.
func (p *place) lock(t *testing.T, policy *gate.Policy) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(p.dir, "policy")
	if err := os.WriteFile(file, []byte(policy.Format()), 0o600); err != nil {
		t.Fatal(err)
	}
	p.sshd.SetKeys(p.key.Line(`restrict,from="127.0.0.1",` + sshdtest.Command(fmt.Sprintf("exec %s %s --policy %s", self, argGate, file))))
}

type results map[string]Result

func (p *place) run(t *testing.T) results {
	t.Helper()
	all := results{}
	if err := Run(t.Context(), p.Config, func(r Result) {
		if strings.ContainsFunc(r.How, func(c rune) bool { return c < ' ' || c > '~' }) || len(r.How) > 1000 {
			t.Errorf("%s: not fit for a terminal: %q", r.Name, r.How)
		}
		if _, twice := all[r.Name]; twice {
			t.Errorf("%s comes twice", r.Name)
		}
		all[r.Name] = r
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// want compares: names not mentioned are to have the outcome otherwise.
func (all results) want(t *testing.T, otherwise Outcome, others map[Outcome][]string) {
	t.Helper()
	for name, r := range all {
		want := otherwise
		for o, names := range others {
			if slices.Contains(names, name) {
				want = o
			}
		}
		if r.Outcome != want {
			t.Errorf("%s: %s, want %s: %s", name, r.Outcome, want, r.How)
		}
	}
	for _, names := range others {
		for _, name := range names {
			if _, ok := all[name]; !ok {
				t.Errorf("%s was not tried", name)
			}
		}
	}
}

// untouched checks that no service was acted upon and nothing is on record.
func (p *place) untouched(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(p.acted); err == nil {
		t.Error("a service was acted upon")
	}
	left, err := filepath.Glob(filepath.Join(p.dir, "state", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range left {
		if name := filepath.Base(file); !strings.HasSuffix(name, ".lock") && name[0] != '.' { // those are about requests
			t.Errorf("%s was written", file)
		}
	}
}

var acting = []string{"start", "stop", "restart", "release"}

// TestLocked: at a host as kido sets it up everything is refused.
func TestLocked(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "ExposeAuthInfo yes", "Subsystem sftp internal-sftp", "AllowTcpForwarding yes", "AllowAgentForwarding yes")
	p.lock(t, p.policy)
	all := p.run(t)
	all.want(t, Refused, map[Outcome][]string{
		LeftOut:    append([]string{"-R of a socket"}, acting...),
		NotRefused: {"slow"}, // a second is not enough for it
	})
	for name, how := range map[string]string{
		"shell": `gate: "this key runs kido requests and nothing else`, "pty": "sshd: ", "-L, -W, ProxyJump": "prohibited",
		"status": "the policy does not grant this", "probe": "the policy does not grant this", "oversize": "too long",
		"SSH 1": "SSH-2.0-OpenSSH", "ensure": "; left out, where it would finish a change: mail",
	} {
		if !strings.Contains(all[name].How, how) {
			t.Errorf("%s: %s, and not %s", name, all[name].How, how)
		}
	}
	for name, r := range all {
		if r.Group == "request" && r.Outcome == Refused && !strings.HasPrefix(r.How, "gate: ") {
			t.Errorf("%s was not refused by the gate: %s", name, r.How)
		}
	}
	p.untouched(t)
}

// TestGrantedByMistake: a policy at the host that grants more than the site does is
// found out, and nothing comes of the finding out.
func TestGrantedByMistake(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "ExposeAuthInfo yes")
	wrong := *p.policy
	wrong.Grants = nil
	wrong.Services = slices.Clone(wrong.Services)
	for i, s := range wrong.Services {
		wrong.Services[i].Members = &gate.Members{Most: 1, Instances: []string{s.Name + "@web1"}}
		verbs := slices.DeleteFunc(wire.Verbs(), func(v wire.Verb) bool {
			return v == wire.VerbProbe || v == wire.VerbRelease // who may release takes slots for anything
		})
		wrong.Grants = append(wrong.Grants, gate.Grant{Principal: "db1", Service: s.Name, Verbs: verbs})
	}
	wrong.Grants = append(wrong.Grants, gate.Grant{Principal: "db1", Service: "db@db1", Verbs: []wire.Verb{wire.VerbProbe}})
	p.lock(t, &wrong)
	all := p.run(t)
	for v := range all {
		if !slices.Contains(wire.Verbs(), wire.Verb(v)) {
			delete(all, v)
		}
	}
	all.want(t, NotRefused, map[Outcome][]string{LeftOut: acting})
	if len(all) != len(wire.Verbs()) {
		t.Errorf("not all verbs were tried: %v", all)
	}
	p.untouched(t)
}

// TestBareKey is the control: where nothing is locked, nearly nothing is refused.
func TestBareKey(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "Subsystem sftp internal-sftp", "AllowTcpForwarding yes", "AllowStreamLocalForwarding yes", "AllowAgentForwarding yes",
		"AcceptEnv *", "PermitTTY yes", "PasswordAuthentication yes", "MaxSessions 64")
	p.sshd.SetKeys(p.key.Line(""))
	p.Socket = filepath.Join(p.dir, "socket")
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all := p.run(t)
	delete(all, "X11") // wants an xauth at the host
	delete(all, "tun") // and a device
	if p.Target.User == "root" {
		delete(all, "signal") // sshd signals nothing that runs as root
	}
	all.want(t, NotRefused, map[Outcome][]string{
		// ENSURE, where no gate says that it would do nothing.
		LeftOut: append([]string{"-R of a socket", "ensure"}, acting...),
		Refused: {"a dialogue", "by host", "nothing", "another key", "SSH 1", "as daemon", "many sessions", "many connections", "a zero byte"},
	})
	p.untouched(t)
}

// TestPlain: at a plain target nothing is tried that would run its command.
func TestPlain(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.Policy = nil
	p.sshd.SetKeys(p.key.Line(`no-pty,` + sshdtest.Command("touch "+p.acted)))
	all := p.run(t)
	for name, r := range all {
		if want := map[string]Outcome{
			"commands": LeftOut, "-R of a socket": LeftOut, "pty": Refused, "agent": NotRefused, "many sessions": Refused,
		}[name]; want != "" && r.Outcome != want {
			t.Errorf("%s: %s, want %s: %s", name, r.Outcome, want, r.How)
		}
		if r.Group == "request" || r.Group == "command" && name != "commands" {
			t.Errorf("%s was tried", name)
		}
	}
	if len(all) < 15 {
		t.Errorf("little was tried: %v", all)
	}
	p.untouched(t)
}

// TestNoKey: where the key does not work as it should, nothing is tried.
func TestNoKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, p *place)
		says   string
	}{
		"not taken":   {func(t *testing.T, p *place) { p.sshd.SetKeys() }, "unable to authenticate"},
		"nobody home": {func(t *testing.T, p *place) { p.sshd.Stop() }, "connection refused"},
		"not pinned": {func(t *testing.T, p *place) {
			p.HostKeys, _ = remote.ParsePins(nil, "known_hosts")
		}, "no host key is pinned"},
		"another host": {func(t *testing.T, p *place) {
			line := "web1 " + sshdtest.NewKey(t).Public() + "\n"
			p.HostKeys, _ = remote.ParsePins([]byte(line), "known_hosts")
		}, "the host's key has changed"},
		"another policy": {func(t *testing.T, p *place) {
			wrong := *p.policy
			wrong.Grants = []gate.Grant{{Principal: "db1", Service: "mail", Verbs: []wire.Verb{wire.VerbStatus}}}
			p.lock(t, &wrong)
		}, "the gate does not grant what the site does"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, "ExposeAuthInfo yes")
			p.lock(t, p.policy)
			c.change(t, p)
			err := Run(t.Context(), p.Config, func(r Result) { t.Errorf("it tried %s", r.Name) })
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %s", err, c.says)
			}
		})
	}
}

// TestCertificateBeside: the certificate of an earlier key is none of a thief's, and
// what is no file holds up nobody.
func TestCertificateBeside(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	certify := func(key *sshdtest.Key) []byte {
		c := &ssh.Certificate{Key: key.Signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"host/db1"}, ValidBefore: ssh.CertTimeInfinity}
		if err := c.SignCert(rand.Reader, key.Signer); err != nil {
			t.Fatal(err)
		}
		return ssh.MarshalAuthorizedKey(c)
	}
	file := remote.CertificateFile(p.key.Path)
	for _, c := range []struct {
		name  string
		text  []byte
		known int // identities
		err   string
	}{
		{"none", nil, 1, ""},
		{"its own", certify(p.key), 2, ""},
		{"of another key", certify(sshdtest.NewKey(t)), 1, ""},
		{"a key", []byte(p.key.Public()), 0, "there is no certificate in"},
	} {
		if c.text != nil {
			if err := os.WriteFile(file, c.text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		th, err := newThief(p.Config)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "remove it") {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case len(th.identities) != c.known || len(th.signers) != c.known:
			t.Errorf("%s: %v", c.name, th.identities)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newThief(p.Config); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a FIFO: %v", err)
	}
}

// TestAsksForNothing: of a host that lets in who has proven nothing it is not said
// that it refuses passwords.
func TestAsksForNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(p.sshd.HostKey.Signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _, _, _ = ssh.NewServerConn(c, config) }() // its client hangs up
		}
	}()
	p.Target.Port = l.Addr().(*net.TCPAddr).Port
	th, err := newThief(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Outcome{"a password": NotTried, "nothing": NotRefused} {
		for _, a := range th.logins() {
			if a.Name != name {
				continue
			}
			if r := th.attempt(t.Context(), a); r.Outcome != want {
				t.Errorf("%s: %s, %s, want %s", name, r.Outcome, r.How, want)
			}
		}
	}
}

// TestHostileWords: what a host says comes out short and printable, and does not end
// the attempts.
func TestHostileWords(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.sshd.SetKeys(p.key.Line("restrict," + sshdtest.Command(`while printf '\033]0;refused\007\r\n\200'; do :; done`)))
	all := p.run(t)
	if r := all["shell"]; r.Outcome != NotRefused || !strings.Contains(r.How, `\x1b]0;refused`) {
		t.Errorf("%+v", r)
	}
}

// TestTarpit: a host that takes connections and says nothing is given up, and not
// waited for once for each attempt.
func TestTarpit(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "ExposeAuthInfo yes")
	p.lock(t, p.policy)
	sshd := net.JoinHostPort(p.Target.Address, strconv.Itoa(p.Target.Port))
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	defer accepting.Wait()
	defer front.Close()
	accepting.Go(func() { // the first connection is let through, for the key works
		for n := 0; ; n++ {
			in, err := front.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { in.Close() })
			if n > 0 {
				continue
			}
			out, err := net.Dial("tcp", sshd)
			if err != nil {
				t.Error(err)
				return
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() { _, _ = io.Copy(in, out); in.Close() }()
		}
	})
	p.Target.Port = front.Addr().(*net.TCPAddr).Port
	p.Time, p.Patience = 3*time.Second, time.Millisecond
	tried := 0
	err = Run(t.Context(), p.Config, func(Result) { tried++ })
	if err == nil || !strings.Contains(err.Error(), "it did not answer 3 attempts in a row") || tried > 10 {
		t.Errorf("after %d attempts: %v", tried, err)
	}
}

// TestInterrupted: an interrupted run ends, with nothing under way.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "ExposeAuthInfo yes")
	p.lock(t, p.policy)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	err := Run(ctx, p.Config, func(Result) { cancel(enough) })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}
