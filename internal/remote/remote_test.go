package remote

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"kido/internal/remote/sshdtest"
	"kido/internal/site"
	"kido/internal/wire"
)

// gateOK is a gate that reads its request and answers at once.
const gateOK = `cat >/dev/null; printf 'kido/1 reply done\nend\n'`

// pins parses the text of a known_hosts file.
func pins(t *testing.T, text string) *Pins {
	t.Helper()
	p, err := ParsePins([]byte(text), "known_hosts")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// client is closed when the test ends.
func client(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// gated runs an sshd with one key locked to command, and a client for it.
func gated(t *testing.T, command string, o sshdtest.Options, cfg Config) (*sshdtest.Server, *Client, *site.Host) {
	t.Helper()
	key := sshdtest.NewKey(t)
	o.Keys = append(o.Keys, key.Line("restrict,"+sshdtest.Command(command)))
	s := sshdtest.Start(t, o)
	cfg.Identity, cfg.HostKeys = key.Path, pins(t, s.KnownHosts())
	return s, client(t, cfg), host(s, "web1")
}

func host(s *sshdtest.Server, name string) *site.Host {
	return &site.Host{Name: name, Address: s.Addr, Port: s.Port, User: s.User}
}

func target(s *sshdtest.Server, key *sshdtest.Key) Target {
	return Target{Name: "web1", Address: s.Addr, Port: s.Port, User: s.User, Key: key.Path}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

var request = wire.Request{Verb: wire.VerbStatus, Service: "web", Run: "r1"}

// wantError checks the parts of a failure that callers decide by.
func wantError(t *testing.T, err error, phase Phase, kind Kind, sent bool, text string) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v, want an *Error", err)
	}
	if e.Phase != phase || e.Kind != kind || e.Sent != sent || !strings.Contains(e.Error(), text) {
		t.Errorf("got phase %s, kind %s, sent %v, %q; want %s, %s, %v, …%q…", e.Phase, e.Kind, e.Sent, e, phase, kind, sent, text)
	}
	if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("%q has control characters", e)
	}
	if len(e.Error()) > 4000 {
		t.Errorf("a message of %d bytes", len(e.Error()))
	}
	return e
}

// fifo is a named pipe, through which a shell and the test wait for each other.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	// Whoever still waits for us at the end gets an end of file.
	t.Cleanup(func() {
		if f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	})
	return path
}

// meet waits until the other side writes to the pipe; a call that ends before
// that fails the test.
func meet(t *testing.T, path string, answer <-chan error) {
	t.Helper()
	met := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(path)
		met <- err
	}()
	select {
	case err := <-met:
		if err != nil {
			t.Fatal(err)
		}
	case err := <-answer:
		t.Fatalf("the call ended early: %v", err)
	}
}

func TestCall(t *testing.T) {
	t.Parallel()
	got := filepath.Join(t.TempDir(), "request")
	s, c, h := gated(t, `cat >`+got+`; printf 'kido/1 reply done\nword "with \\x1b[31m in it"\nend\n'; exit 7`, sshdtest.Options{}, Config{})
	for range 3 {
		reply, err := c.Call(t.Context(), h, request, 0)
		if err != nil {
			t.Fatal(err)
		}
		if reply.Code != wire.CodeDone || reply.Word != `with \x1b[31m in it` {
			t.Errorf("got reply %+v", reply)
		}
	}
	text, err := os.ReadFile(got)
	if err != nil || !bytes.Equal(text, request.Format()) {
		t.Errorf("the gate got %q (%v), want %q", text, err, request.Format())
	}
	if n := strings.Count(s.Log(), "Accepted publickey"); n != 1 {
		t.Errorf("%d connections for three calls, want one that is shared", n)
	}
}

func TestNotAGate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, command string
		phase         Phase
		kind          Kind
		temporary     bool
		text          string
	}{
		{"garbage", `printf 'Welcome\n\033]0;x\007'`, PhaseRequest, KindNoGate, false, `it begins "Welcome\n\x1b]0;x\a"`},
		{"nothing", `exit 0`, PhaseRequest, KindNoGate, false, "status 0"},
		{"no gate there", `/nonexistent/kido-gate`, PhaseRequest, KindNoGate, false, "/nonexistent/kido-gate: "},
		{"escapes on stderr", `printf '\033[2Jx' >&2; exit 3`, PhaseRequest, KindNoGate, false, `status 3 and said "\x1b[2Jx"`},
		{"a long line", `printf 'kido/1 reply done\nword \033'; head -c 16000 /dev/zero | tr '\0' '\033'; printf '\nend\n'`, PhaseRequest, KindNoGate, false, `not a gate's reply: "line 2: field 2: `},
		{"cut short", `printf 'kido/1 reply done\n'`, PhaseRequest, KindNoGate, false, "cut short"},
		{"endless", `exec yes`, PhaseRequest, KindTooLong, false, "over 65536 bytes"},
		{"endless on both", `yes >&2 & exec yes`, PhaseRequest, KindTooLong, false, "over 65536 bytes"},
		{"endless complaints", `exec yes >&2`, PhaseRequest, KindTooLong, false, "to standard error"},
		{"killed", `kill -9 $$`, PhaseRequest, KindLost, true, "signal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, c, h := gated(t, tt.command, sshdtest.Options{}, Config{})
			_, err := c.Call(within(t, time.Minute), h, request, 0)
			if e := wantError(t, err, tt.phase, tt.kind, true, tt.text); e.Temporary() != tt.temporary {
				t.Errorf("temporary is %v", e.Temporary())
			}
		})
	}
}

func TestHostKeys(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	s := sshdtest.Start(t, sshdtest.Options{Keys: []string{key.Line("restrict," + sshdtest.Command(gateOK))}})
	other := sshdtest.NewKey(t)
	address := fmt.Sprintf("[%s]:%d ", s.Addr, s.Port)
	call := func(known string) error {
		_, err := client(t, Config{Identity: key.Path, HostKeys: pins(t, known)}).Call(within(t, time.Minute), host(s, "web1"), request, 0)
		return err
	}

	e := wantError(t, call("web2 "+s.HostKey.Public()), PhaseConnect, KindHostKeyUnknown, false, "no host key is pinned")
	if !strings.Contains(e.Hint, strings.TrimSpace(address)) {
		t.Errorf("hint %q does not say how to pin it", e.Hint)
	}

	err := call(address + other.Public())
	wantError(t, err, PhaseHandshake, KindHostKeyChanged, false, "the host's key has changed")
	changed, ok := errors.AsType[*HostKeyError](err)
	if !ok || !strings.Contains(changed.Offered, ssh.FingerprintSHA256(s.HostKey.Signer.PublicKey())) ||
		len(changed.Pinned) != 1 || changed.Pinned[0].Fingerprint() != ssh.FingerprintSHA256(other.Signer.PublicKey()) {
		t.Errorf("got %+v, want both fingerprints", changed)
	}
	if e, _ := errors.AsType[*Error](err); e.Temporary() {
		t.Error("a changed key is not to be tried again")
	}

	// A name that is pinned is not answered for by the address's key.
	wantError(t, call("web1 "+other.Public()+"\n"+address+s.HostKey.Public()), PhaseHandshake, KindHostKeyChanged, false, "changed")
	wantError(t, call(s.KnownHosts()+"@revoked * "+s.HostKey.Public()), PhaseConnect, KindHostKeyChanged, false, "revoked")
	wantError(t, call(address+other.Public()+"\n@revoked * "+s.HostKey.Public()), PhaseHandshake, KindHostKeyChanged, false, "revoked")

	// Three came as far as the host's key, the last of them hangs up after it:
	// no user name and no key of ours is in the log.
	s.WaitLog(`\[preauth\]`, 3)
	if log := s.Log(); strings.Contains(log, "publickey") || strings.Contains(log, "user") || strings.Count(log, "Connection from") != 3 {
		t.Errorf("something was sent before the host key was checked:\n%s", log)
	}

	if err := call("web1 " + s.HostKey.Public()); err != nil {
		t.Errorf("pinned by name: %v", err)
	}
	if err := call("web1 " + other.Public() + "\nweb1 " + s.HostKey.Public()); err != nil {
		t.Errorf("one of two pinned keys: %v", err)
	}
}

func TestHostKeyTypes(t *testing.T) {
	t.Parallel()
	key, second := sshdtest.NewKey(t), sshdtest.NewECDSAKey(t)
	s := sshdtest.Start(t, sshdtest.Options{
		Keys:   []string{key.Line("restrict," + sshdtest.Command(gateOK))},
		Config: []string{"HostKey " + second.Path},
	})
	for _, tt := range []struct {
		name string
		pin  *sshdtest.Key
	}{{"ed25519", s.HostKey}, {"ecdsa", second}} {
		c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "web1 "+tt.pin.Public())})
		if _, err := c.Call(t.Context(), host(s, "web1"), request, 0); err != nil {
			t.Errorf("only the %s key is pinned: %v", tt.name, err)
		}
	}

	only := sshdtest.Start(t, sshdtest.Options{Keys: []string{key.Line("restrict")}})
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "web1 "+second.Public())})
	_, err := c.Call(t.Context(), host(only, "web1"), request, 0)
	wantError(t, err, PhaseHandshake, KindHostKeyChanged, false, `no key of a pinned type, only ["ssh-ed25519"]`)
}

func TestAuthRefused(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Options{})
	key := sshdtest.NewKey(t)
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, s.KnownHosts())})
	_, err := c.Call(t.Context(), host(s, "web1"), request, 0)
	e := wantError(t, err, PhaseAuth, KindAuth, false, ssh.FingerprintSHA256(key.Signer.PublicKey()))
	if e.Hint == "" || e.Temporary() {
		t.Errorf("hint %q, temporary %v", e.Hint, e.Temporary())
	}
	// The key is let in: the same client gets through.
	s.SetKeys(key.Line("restrict," + sshdtest.Command(gateOK)))
	if _, err := c.Call(t.Context(), host(s, "web1"), request, 0); err != nil {
		t.Error(err)
	}
}

// TestLongWords: what a host says at most is kept with each try.
func TestLongWords(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(`\x1b`, 3000)
	reply := wire.Reply{Code: wire.CodeDone, Word: strings.Repeat("\x1b", 3000), Output: strings.Repeat("\n", 3000) + "end", Status: &wire.Status{
		Instance: "web@web1", State: wire.StateUp, Word: strings.Repeat("é", 3000),
	}}
	r := presentable(reply)
	if len(r.Word) > 5000 || len(r.Status.Word) > 1200 || len(r.Output) > 2200 {
		t.Errorf("%d, %d and %d bytes are left", len(r.Word), len(r.Status.Word), len(r.Output))
	}
	if !strings.HasPrefix(long, strings.TrimSuffix(r.Word, "…")) || !strings.HasSuffix(r.Word, "…") || !strings.HasPrefix(r.Output, "…\n") || !strings.HasSuffix(r.Output, "\nend") {
		t.Errorf("got %+v", r)
	}
	if reply.Status.Word == r.Status.Word {
		t.Error("the reply itself was changed")
	}

	// A host that names thousands of types of keys, none of them pinned.
	name := func(text string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text }
	h := listener(t, func(c net.Conn) {
		kex := "\x14" + strings.Repeat("c", 16) + name("curve25519-sha256") + name(strings.Repeat("\x1b[2J,", 10000)) + name("aes128-ctr") + name("aes128-ctr") +
			name("hmac-sha2-256") + name("hmac-sha2-256") + name("none") + name("none") + name("") + name("") + "\x00\x00\x00\x00\x00"
		padding := 16 - (len(kex)+5)%8
		_, _ = io.WriteString(c, "SSH-2.0-evil\r\n"+string(binary.BigEndian.AppendUint32(nil, uint32(1+len(kex)+padding)))+string(rune(padding))+kex+strings.Repeat("p", padding))
		_, _ = io.Copy(io.Discard, c)
	})
	key := sshdtest.NewKey(t)
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "web1 "+key.Public())})
	_, err := c.Call(within(t, time.Minute), h, request, 0)
	wantError(t, err, PhaseHandshake, KindHostKeyChanged, false, `only ["\x1b[2J" `)
}

// listener serves every connection with serve until the test ends.
func listener(t *testing.T, serve func(net.Conn)) *site.Host {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(t.Context(), func() { conn.Close() })
			wg.Go(func() {
				defer stop()
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return &site.Host{Name: "web1", Address: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "kido"}
}

func TestConnectFailures(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	for _, tt := range []struct {
		name      string
		serve     func(net.Conn)
		phase     Phase
		kind      Kind
		temporary bool
		text      string
	}{
		{"hung", silent, PhaseHandshake, KindTimeout, true, "no answer in time"},
		{"slow bytes", func(c net.Conn) {
			for _, err := c.Write([]byte("x\n")); err == nil; _, err = c.Write([]byte("x\n")) {
				_, _ = c.Read(make([]byte, 1)) // one byte of theirs, one of ours
			}
		}, PhaseHandshake, KindTimeout, true, "no answer in time"},
		{"dropped", func(net.Conn) {}, PhaseHandshake, KindDropped, true, "closed by the host"},
		{"full", func(c net.Conn) { fmt.Fprint(c, "Exceeded MaxStartups\r\n") }, PhaseHandshake, KindDropped, true, "closed by the host"},
		{"another protocol", func(c net.Conn) {
			_, _ = c.Read(make([]byte, 100))
			fmt.Fprint(c, "HTTP/1.1 400 \x1b[31m\r\n\r\n")
		}, PhaseHandshake, KindNotSSH, false, `it says "HTTP/1.1 400 \x1b[31m"`},
		{"endless banner", func(c net.Conn) {
			line := []byte(strings.Repeat("x", 200) + "\n")
			for _, err := c.Write(line); err == nil; _, err = c.Write(line) {
			}
		}, PhaseHandshake, KindNotSSH, false, "it says"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := listener(t, tt.serve)
			c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "web1 "+key.Public())})
			limit := 500 * time.Millisecond
			if tt.kind == KindNotSSH { // the others are tried for as long
				limit = time.Minute
			}
			_, err := c.Call(within(t, 2*time.Minute), h, request, limit)
			if e := wantError(t, err, tt.phase, tt.kind, false, tt.text); e.Temporary() != tt.temporary {
				t.Errorf("temporary is %v", e.Temporary())
			}
		})
	}
	t.Run("dead port", func(t *testing.T) {
		t.Parallel()
		c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "* "+key.Public())})
		h := &site.Host{Name: "web1", Address: "127.0.0.1", Port: 1} // one that was free a moment ago may be another test's by now
		_, err := c.Call(t.Context(), h, request, 0)
		e := wantError(t, err, PhaseConnect, KindRefused, false, fmt.Sprintf("web1 (127.0.0.1:%d): connect: connection refused", h.Port))
		if !e.Temporary() {
			t.Error("a dead port may come back")
		}
	})
	t.Run("canceled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		h := listener(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			cancel()
			silent(c)
		})
		c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "* "+key.Public())})
		_, err := c.Call(ctx, h, request, 0)
		if wantError(t, err, PhaseHandshake, KindCanceled, false, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("%v is not context.Canceled", err)
		}
	})
}

// Of those who wait for one dead host all learn it from the same dial.
func TestFailureIsShared(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	var dials atomic.Int32
	h := listener(t, func(c net.Conn) { dials.Add(1); _, _ = io.Copy(io.Discard, c) })
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "* "+key.Public())})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			one := *h
			one.Name = fmt.Sprintf("web%d", i)
			_, err := c.Call(within(t, time.Minute), &one, request, time.Second)
			wantError(t, err, PhaseHandshake, KindTimeout, false, one.Name+" (")
		})
	}
	wg.Wait()
	if n := dials.Load(); n > 5 {
		t.Errorf("%d dials for 50 calls to one hung host", n)
	}
}

func TestHungGate(t *testing.T) {
	t.Parallel()
	pipe := fifo(t)
	s, c, h := gated(t, `dd bs=1 count=1 >/dev/null 2>&1; echo >`+pipe+`; kill -STOP $$`, sshdtest.Options{}, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, h, request, 0)
		failed <- err
	}()
	meet(t, pipe, failed)
	e := wantError(t, <-failed, PhaseRequest, KindTimeout, true, "no answer to the request")
	if !e.Temporary() {
		t.Error("a time-out is temporary")
	}
	s.SetKeys(sshdtest.NewKey(t).Line("restrict"))
	// Nothing more goes over a connection with a hung request.
	_, err := c.Call(t.Context(), h, request, 0)
	wantError(t, err, PhaseAuth, KindAuth, false, "")
}

// A peer that is gone without a word is noticed without any time-out of the
// caller's.
func TestKeepalive(t *testing.T) {
	t.Parallel()
	pipe, release := fifo(t), fifo(t)
	s, c, h := gated(t, `dd bs=1 count=1 >/dev/null 2>&1; echo >`+pipe+`; cat `+release+`; `+gateOK,
		sshdtest.Options{Config: []string{"LogLevel DEBUG1"}},
		Config{KeepaliveInterval: 20 * time.Millisecond, KeepaliveTimeout: time.Hour})
	answer := make(chan error, 1)
	call := func() {
		_, err := c.Call(t.Context(), h, request, 0)
		answer <- err
	}
	go call()
	meet(t, pipe, answer)
	s.WaitLog("keepalive@openssh.com", 3)
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatalf("a healthy connection was closed: %v", err)
	}

	cfg := c.cfg
	cfg.KeepaliveTimeout = 3 * time.Second
	c = client(t, cfg)
	go call()
	meet(t, pipe, answer)
	for _, p := range s.Children() {
		if err := syscall.Kill(p, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	e := wantError(t, <-answer, PhaseRequest, KindLost, true, "no answer to a keepalive in 3s")
	if !e.Temporary() {
		t.Error("a lost connection is temporary")
	}
}

func TestServerKilled(t *testing.T) {
	t.Parallel()
	pipe := fifo(t)
	s, c, h := gated(t, `dd bs=1 count=1 >/dev/null 2>&1; echo >`+pipe+`; kill -STOP $$`, sshdtest.Options{}, Config{})
	answer := make(chan error, 1)
	go func() {
		_, err := c.Call(t.Context(), h, request, 0)
		answer <- err
	}()
	meet(t, pipe, answer)
	s.Stop()
	wantError(t, <-answer, PhaseRequest, KindLost, true, "connection was lost")
	_, err := c.Call(t.Context(), h, request, 0)
	wantError(t, err, PhaseConnect, KindRefused, false, "")
}

// A connection that died while nobody used it costs no call.
func TestServerRestarted(t *testing.T) {
	t.Parallel()
	s, c, h := gated(t, gateOK, sshdtest.Options{}, Config{Idle: time.Hour})
	for range 3 {
		if _, err := c.Call(t.Context(), h, request, 0); err != nil {
			t.Fatal(err)
		}
		s.Stop()
		s.Restart()
	}
}

// The same where the end is noticed only when the next session is asked for.
// On a connection that never served it is a failure.
func TestConnectionDiesWhenAsked(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	for _, tt := range []struct {
		name   string
		serves int
	}{{"served before", 1}, {"never served", 0}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int32
			h := listener(t, func(c net.Conn) {
				connections.Add(1)
				chans := server(c, key)
				for range tt.serves {
					if open, ok := <-chans; ok {
						answer(open, "kido/1 reply done\nend\n")
					}
				}
				<-chans // and hang up
			})
			c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "* "+key.Public()), Idle: time.Hour})
			for range 4 {
				_, err := c.Call(t.Context(), h, request, 0)
				if tt.serves == 0 {
					wantError(t, err, PhaseSession, KindLost, false, "connection was lost")
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if n := connections.Load(); n != 4 {
				t.Errorf("%d connections for four calls", n)
			}
		})
	}
}

// server is an SSH server inside the test that lets everybody in. It returns
// the channels that are asked for, closed with the connection.
func server(c net.Conn, key *sshdtest.Key) <-chan ssh.NewChannel {
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	cfg.AddHostKey(key.Signer)
	_, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		none := make(chan ssh.NewChannel)
		close(none)
		return none
	}
	go ssh.DiscardRequests(reqs)
	return chans
}

// answer runs one session: whatever the command, reply and status 0.
func answer(open ssh.NewChannel, reply string) {
	ch, reqs, err := open.Accept()
	if err != nil {
		return
	}
	go func() {
		for r := range reqs {
			_ = r.Reply(r.Type == "exec", nil) // the client sees a failure
		}
	}()
	_, _ = io.Copy(io.Discard, ch)
	_, _ = io.WriteString(ch, reply)
	_, _ = ch.SendRequest("exit-status", false, make([]byte, 4))
	ch.Close()
}

// 100 dependents on one host behind a default sshd: no failure.
func TestMaxStartups(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	s := sshdtest.Start(t, sshdtest.Options{
		Keys:   []string{key.Line("restrict," + sshdtest.Command(gateOK))},
		Config: []string{"MaxStartups 10:30:100"},
	})
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, s.KnownHosts())})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := c.Call(t.Context(), host(s, fmt.Sprintf("web%d", i)), request, time.Minute); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(s.Log(), "Connection from"); n > 8 {
		t.Errorf("%d connections, want 8 at most", n)
	}
}

// Keys that cannot share a connection still keep to eight at once.
func TestManyKeysOneHost(t *testing.T) {
	t.Parallel()
	var keys []*sshdtest.Key
	var lines []string
	for i := range 30 {
		keys = append(keys, sshdtest.NewKey(t))
		lines = append(lines, keys[i].Line("restrict,"+sshdtest.Command(fmt.Sprintf("exit %d", i))))
	}
	s := sshdtest.Start(t, sshdtest.Options{Keys: lines, Config: []string{"MaxStartups 9:100:9"}})
	c := client(t, Config{HostKeys: pins(t, s.KnownHosts()), Idle: time.Hour})
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() {
			exit, _, err := c.Plain(t.Context(), target(s, key), time.Minute)
			if err != nil || exit != i {
				t.Errorf("key %d: exit %d, %v", i, exit, err)
			}
		})
	}
	wg.Wait()
	if strings.Contains(s.Log(), "MaxStartups") {
		t.Errorf("more than eight at once:\n%s", s.Log())
	}
}

func TestMaxHosts(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	s := sshdtest.Start(t, sshdtest.Options{Ports: 12, Keys: []string{key.Line("restrict," + sshdtest.Command(gateOK))}})
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, s.KnownHosts()), MaxHosts: 2, Idle: time.Hour})
	var wg sync.WaitGroup
	for _, port := range s.Ports {
		wg.Go(func() {
			h := host(s, "web")
			h.Port = port
			if _, err := c.Call(t.Context(), h, request, time.Minute); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open > 2 || len(c.idle) != c.open {
		t.Errorf("%d connections, %d idle; want 2 at most, all idle", c.open, len(c.idle))
	}
}

// What a full sshd dropped is tried again until there is room.
func TestDroppedBeforeAuthentication(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	s := sshdtest.Start(t, sshdtest.Options{
		Keys:   []string{key.Line("restrict," + sshdtest.Command(gateOK))},
		Config: []string{"MaxStartups 1:100:1"},
	})
	squatter, err := net.Dial("tcp", net.JoinHostPort(s.Addr, fmt.Sprint(s.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	if _, err := io.ReadFull(squatter, make([]byte, 4)); err != nil { // it has its place
		t.Fatal(err)
	}
	var dropped atomic.Int32
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, s.KnownHosts()), Logf: func(string, ...any) {
		if dropped.Add(1) == 2 {
			squatter.Close()
		}
	}})
	if _, err := c.Call(t.Context(), host(s, "web1"), request, time.Minute); err != nil {
		t.Fatal(err)
	}
	if dropped.Load() < 2 {
		t.Errorf("dropped %d times, want two at least", dropped.Load())
	}
}

func TestMaxSessions(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			t.Parallel()
			_, c, h := gated(t, gateOK, sshdtest.Options{Config: []string{fmt.Sprintf("MaxSessions %d", most)}}, Config{})
			var wg sync.WaitGroup
			for range 25 {
				wg.Go(func() {
					if _, err := c.Call(t.Context(), h, request, time.Minute); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		})
	}
	t.Run("0", func(t *testing.T) {
		t.Parallel()
		_, c, h := gated(t, gateOK, sshdtest.Options{Config: []string{"MaxSessions 0"}}, Config{})
		_, err := c.Call(t.Context(), h, request, 0)
		wantError(t, err, PhaseSession, KindNoSession, false, "no further session")
	})
}

func TestPlain(t *testing.T) {
	t.Parallel()
	memo := "no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty,from=\"127.0.0.1\","
	held := fifo(t)
	for _, tt := range []struct {
		name, command string
		exit          int
		output        string
	}{
		{"done", `echo "Restarting httpd: done"`, 0, "Restarting httpd: done\n"},
		{"failed", `echo "Restarting httpd: FAILED" >&2; exit 1`, 1, "Restarting httpd: FAILED\n"},
		{"script missing", `/nonexistent/httpd restart 2>/dev/null`, 127, ""},
		{"much output", `yes | head -c 3000000; echo end`, 0, strings.Repeat("y\n", (maxTail-4)/2) + "end\n"},
		{"daemon holds the output", `cat ` + held + ` & echo started; exit 5`, 5, "started\n"},
		{"reads input", `cat; exit 4`, 4, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			key := sshdtest.NewKey(t)
			s := sshdtest.Start(t, sshdtest.Options{Keys: []string{key.Line(memo + sshdtest.Command(tt.command))}})
			c := client(t, Config{HostKeys: pins(t, s.KnownHosts())})
			exit, output, err := c.Plain(within(t, time.Minute), target(s, key), 0)
			if err != nil || exit != tt.exit || output != tt.output {
				t.Errorf("got %d, %q, %v; want %d, %q", exit, output, err, tt.exit, tt.output)
			}
		})
	}
}

func TestPlainFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, command string
		kind          Kind
		text          string
	}{
		{"endless", `exec yes`, KindTimeout, "no answer"},
		{"killed", `kill -9 $$`, KindLost, "signal KILL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			key := sshdtest.NewKey(t)
			s := sshdtest.Start(t, sshdtest.Options{Keys: []string{key.Line("restrict," + sshdtest.Command(tt.command))}})
			c := client(t, Config{HostKeys: pins(t, s.KnownHosts())})
			limit := time.Minute
			if tt.kind == KindTimeout {
				limit = 5 * time.Second
			}
			_, _, err := c.Plain(within(t, limit), target(s, key), 0)
			wantError(t, err, PhaseRequest, tt.kind, true, tt.text)
		})
	}
}

func TestKeyNotLocked(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	s := sshdtest.Start(t, sshdtest.Options{Keys: []string{key.Line("")}})
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, s.KnownHosts())})
	_, _, err := c.Plain(t.Context(), target(s, key), 0)
	wantError(t, err, PhaseRequest, KindNotLocked, true, "this key is not locked: the host ran a shell")
	_, err = c.Call(t.Context(), host(s, "web1"), request, 0)
	wantError(t, err, PhaseRequest, KindNotLocked, true, "this key is not locked: the host ran a shell")
}

// A host that asks back is turned down, and a command that it does not run is
// said to be so.
func TestHostAsksBack(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	type asked struct {
		forward, request error
		granted          bool
	}
	answers := make(chan asked, 1)
	h := listener(t, func(c net.Conn) {
		cfg := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
		cfg.AddHostKey(key.Signer)
		sc, chans, reqs, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		var a asked
		_, _, a.forward = sc.OpenChannel("auth-agent@openssh.com", nil)
		a.granted, _, a.request = sc.SendRequest("hostkeys-00@openssh.com", true, nil)
		answers <- a
		for ch := range chans {
			_, in, err := ch.Accept()
			if err != nil {
				return
			}
			ssh.DiscardRequests(in) // "exec" too
		}
	})
	c := client(t, Config{Identity: key.Path, HostKeys: pins(t, "* "+key.Public())})
	_, err := c.Call(within(t, time.Minute), h, request, 0)
	wantError(t, err, PhaseSession, KindNoSession, false, "does not run the command")
	a := <-answers
	if _, ok := errors.AsType[*ssh.OpenChannelError](a.forward); !ok || a.granted || a.request != nil {
		t.Errorf("got %+v, want both turned down", a)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	key := sshdtest.NewKey(t)
	for _, tt := range []struct {
		name string
		make func(path string) error
		text string
	}{
		{"missing", func(string) error { return nil }, "no such file"},
		{"readable by others", func(p string) error { return copyFile(p, key.Path, 0o640) }, "can be used by others (mode 0640)"},
		{"passphrase", func(p string) error { return os.WriteFile(p, withPassphrase(t), 0o600) }, "has a passphrase"},
		{"not a key", func(p string) error { return os.WriteFile(p, []byte("\x1b[31m"), 0o600) }, "cannot be read"},
		{"a pipe", func(p string) error { return syscall.Mkfifo(p, 0o600) }, "not a regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "id")
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			_, err := New(Config{Identity: path, HostKeys: pins(t, "")})
			wantError(t, err, "", KindIdentity, false, tt.text)
		})
	}
	if err := os.Chmod(key.Path, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(key.Path); err != nil {
		t.Error(err)
	}
	c := client(t, Config{HostKeys: pins(t, "* "+key.Public())})
	_, _, err := c.Plain(t.Context(), Target{Address: "127.0.0.1", Key: "/nonexistent/id"}, 0)
	wantError(t, err, "", KindIdentity, false, "/nonexistent/id")
}

func withPassphrase(t *testing.T) []byte {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}

func copyFile(to, from string, mode os.FileMode) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, text, mode); err != nil {
		return err
	}
	return os.Chmod(to, mode)
}

// After Close nothing is left: neither goroutine nor descriptor, whatever was
// under way. Not parallel, so that what is counted is its own.
func TestClose(t *testing.T) {
	pipe := fifo(t)
	key, hangs := sshdtest.NewKey(t), sshdtest.NewKey(t)
	s := sshdtest.Start(t, sshdtest.Options{Keys: []string{
		key.Line("restrict," + sshdtest.Command(gateOK)),
		hangs.Line("restrict," + sshdtest.Command("echo >"+pipe+"; kill -STOP $$")),
	}})
	accepted := make(chan struct{}, 1)
	silent := listener(t, func(c net.Conn) { accepted <- struct{}{}; _, _ = io.Copy(io.Discard, c) })
	before := sockets(t)

	c, err := New(Config{Identity: key.Path, HostKeys: pins(t, s.KnownHosts()+"silent "+key.Public())})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Call(t.Context(), host(s, "web1"), request, 0); err != nil {
		t.Fatal(err)
	}
	silent.Name = "silent"
	called, ran := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), silent, request, time.Hour)
		called <- err
	}()
	go func() {
		_, _, err := c.Plain(context.Background(), target(s, hangs), time.Hour)
		ran <- err
	}()
	<-accepted
	meet(t, pipe, ran)
	c.Close()
	wantError(t, <-called, PhaseConnect, KindClosed, false, "the client was closed")
	wantError(t, <-ran, PhaseRequest, KindClosed, true, "the client was closed")
	_, err = c.Call(t.Context(), host(s, "web1"), request, 0)
	wantError(t, err, "", KindClosed, false, "the client was closed")

	// x/crypto's own goroutines end by themselves, a moment after the close.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for late := time.After(10 * time.Second); ; {
		text := make([]byte, 1<<20)
		text = text[:runtime.Stack(text, true)]
		n := strings.Count(string(text), "golang.org/x/crypto/ssh.") + strings.Count(string(text), "remote.(*Client)") + strings.Count(string(text), "remote.(*conn)")
		open := sockets(t) - 1 // the silent listener's end of the connection may still be open
		if n == 0 && open <= before {
			break
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%d sockets, %d before; %d frames of ours in\n%s", open, before, n, text)
		}
	}
}

func sockets(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here: descriptors cannot be counted")
	}
	n := 0
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}
