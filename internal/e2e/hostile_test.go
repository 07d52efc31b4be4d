package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"

	"kido/internal/remote/sshdtest"
	"kido/internal/wire"
)

// evil is what no terminal may get to see: a title, colours, an erased screen, a
// line and a character overwritten, an end of the text, the same in one byte, and
// text that runs backwards.
const evil = "\x1b]0;PWNED\a\x1b[7;31mPWNED\x1b[2J\x1b[5A\rPWNED\b\x00\x7f\u009b2J\u202ePWNED\n\n"

// The bounds of what a hostile host may cost. They are generous: what breaks them
// has no bound.
const (
	hostileTime   = 4 * time.Minute // of one call of kido; its own time-outs are shorter
	hostileMemory = 200 << 20       // beyond what a call costs that asks nobody
	hostileOutput = 256 << 10
	hostileState  = 1 << 20 // in the folder of journals
)

// behaviour is what a host does with a connection; it has the pinned key.
type behaviour func(net.Conn, *sshdtest.Key)

// hostile is how the hosts of a site behave.
type hostile struct {
	name  string
	serve behaviour // all of them
	// Or each in its own way, in which only a time-out ends a call.
	hang []behaviour
}

// TestHostileHost: whatever a host does that was taken over, kido comes to an end,
// with bounded memory and disk, and its terminal sees none of it raw.
func TestHostileHost(t *testing.T) {
	t.Parallel()
	for _, h := range hostiles() {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			s := newHostileSite(t, h)
			calls, terminals := [][]string{
				{"status", "-o", "json"},
				{"restart", "web", "--new"},
				{"announce", "db", "-o", "json"},
				{"stop", "web"},
				{"resume"},
				{"why", "web@web1"},
				{"release", "web"},
			}, [][]string{{"status"}, {"announce", "db"}}
			if h.hang != nil {
				calls, terminals = [][]string{{"status"}}, nil
			}
			for _, args := range calls {
				s.call(t, args...)
			}
			for _, args := range terminals {
				s.onTerminal(t, args...)
			}
			size := int64(0)
			err := filepath.WalkDir(s.state, func(_ string, d fs.DirEntry, err error) error {
				if info, ierr := d.Info(); ierr == nil {
					size += info.Size()
				}
				return err
			})
			if err != nil || size > hostileState {
				t.Errorf("%d bytes are in the folder of journals (%v)", size, err)
			}
		})
	}
}

// newHostileSite is a site of hosts that behave so.
func newHostileSite(t *testing.T, h hostile) *site {
	t.Helper()
	dir := t.TempDir()
	key := sshdtest.NewKey(t)
	s := &site{dir: dir, file: filepath.Join(dir, "site.yaml"), state: filepath.Join(dir, "journals"), contradicted: true}
	text := fmt.Sprintf("site: shop\nidentity: %s\ndefaults:\n  retry: {attempts: 2, delay: 10ms}\n  timeout: {start: 1s, stop: 1s, ready: 1s, connect: 1s}\nhosts:\n", sshdtest.NewKey(t).Path)
	pins := ""
	for i, name := range []string{"db1", "web1", "web2", "web3"} {
		serve := h.serve
		if h.hang != nil {
			serve = h.hang[i%len(h.hang)]
		}
		text += fmt.Sprintf("  %s: %s\n", name, s.listen(t, key, serve))
		pins += name + " " + key.Public() + "\n"
	}
	text += "services:\n  db: {hosts: [db1], systemd: x.service}\n  web: {hosts: [web1, web2, web3], systemd: x.service, after: {db: restart}}\n"
	s.write(t, s.file, text)
	s.write(t, filepath.Join(dir, "known_hosts"), pins)
	return s
}

// listen serves every connection until the test ends, and says where.
func (s *site) listen(t *testing.T, key *sshdtest.Key, serve behaviour) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { c.Close() })
			wg.Go(func() {
				defer stop()
				defer c.Close()
				serve(c, key)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		wg.Wait()
	})
	return l.Addr().String()
}

// call runs kido with its outputs into pipes.
func (s *site) call(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hostileTime)
	defer cancel()
	cmd := s.command(ctx, args...)
	out := &bounded{most: hostileOutput}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	s.ended(t, cmd, err, out)
	if i := strings.IndexFunc(out.text.String(), func(r rune) bool {
		return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0xfffd)
	}); i >= 0 {
		t.Errorf("kido %s: a control byte at %d: %q", strings.Join(args, " "), i, out.text.String()[max(0, i-80):min(out.text.Len(), i+80)])
	}
}

// its are the sequences that kido itself moves the cursor with, and colours.
var its = regexp.MustCompile(`\x1b\[(?:[0-9]?A|J|K|[0-9]{1,2}(;[0-9])?m|m|\?25[hl])`)

// onTerminal runs kido with a terminal.
func (s *site) onTerminal(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hostileTime)
	defer cancel()
	cmd := s.command(ctx, args...)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	out := &bounded{most: hostileOutput}
	_, _ = io.Copy(out, master) // until EIO: nobody has it open any more
	s.ended(t, cmd, cmd.Wait(), out)
	raw := out.text.String()
	for _, bad := range []string{"\x1b]", "\x1b[7;31m", "\x1b[2J", "\x1b[5A", "\rPWNED", "\u009b", "\u202e"} {
		if strings.Contains(raw, bad) {
			t.Errorf("kido %s: %q on the terminal: %q", strings.Join(args, " "), bad, raw)
		}
	}
	rest := its.ReplaceAllString(raw, "")
	if i := strings.IndexFunc(rest, func(r rune) bool { return r != '\n' && r != '\r' && (r < ' ' || r == 0x7f) }); i >= 0 {
		t.Errorf("kido %s: a control byte: %q", strings.Join(args, " "), rest[max(0, i-80):min(len(rest), i+80)])
	}
}

// ended checks how kido came to its end.
func (s *site) ended(t *testing.T, cmd *exec.Cmd, err error, out *bounded) {
	t.Helper()
	call := "kido " + strings.Join(cmd.Args[1:], " ")
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%s: %v", call, err)
	}
	if code := cmd.ProcessState.ExitCode(); !slices.Contains([]int{0, 1, 3, 4}, code) || strings.Contains(out.text.String(), "goroutine ") {
		t.Errorf("%s: it ended with %v:\n%q", call, cmd.ProcessState, out.text.String())
	}
	if out.over {
		t.Errorf("%s: it writes over %d bytes, which begin %q", call, hostileOutput, out.text.String()[:200])
	}
	if used := maxMemory(cmd) - s.idleMemory(t); used > hostileMemory {
		t.Errorf("%s: it took %d MiB", call, used>>20)
	}
}

// maxMemory is what a child had in memory at most, in bytes: Linux counts what its
// parent had when it was forked as well.
func maxMemory(cmd *exec.Cmd) int64 {
	return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
}

// idleMemory is what a kido takes that asks nobody.
func (s *site) idleMemory(t *testing.T) int64 {
	t.Helper()
	cmd := s.command(t.Context(), "check")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return maxMemory(cmd)
}

// bounded keeps the first so many bytes.
type bounded struct {
	most int
	text bytes.Buffer
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := p[:min(len(p), b.most-b.text.Len())]
	b.over = b.over || len(keep) < len(p)
	b.text.Write(keep)
	return len(p), nil
}

// ---- behaviours -------------------------------------------------------------------

func hostiles() []hostile {
	all := []hostile{
		{name: "the handshake hangs", hang: []behaviour{
			raw(func(c net.Conn) { say(c, "S"); swallow(c) }),
			raw(func(c net.Conn) { say(c, "HTTP/1.1 "+evil+"\n"); swallow(c) }),
			speak(func(cfg *ssh.ServerConfig) {
				cfg.PreAuthConnCallback = func(c ssh.ServerPreAuthConn) {
					for c.SendAuthBanner(strings.Repeat(evil, 500)) == nil {
					}
				}
			}, nil),
			raw(func(c net.Conn) {
				say(c, "SSH-2.0-x\r\n")
				for _, err := c.Write([]byte(packet([]byte{2, 0, 0, 0, 0}))); err == nil; _, err = c.Write([]byte(packet([]byte{2, 0, 0, 0, 0}))) {
				}
			}),
		}},
		{name: "the answer hangs", hang: []behaviour{
			speak(nil, runs(func(c ssh.Channel) { say(c, "k"); swallow(c) })),
			speak(nil, runs(func(c ssh.Channel) {
				say(c, string(wire.Reply{Code: wire.CodeOK, Word: evil}.Format()))
				swallow(c)
				block(c)
			})),
			speak(func(cfg *ssh.ServerConfig) { cfg.RekeyThreshold = 1 }, runs(func(c ssh.Channel) { forever(c.Stderr(), "x") })),
			speak(nil, func(s *ssh.ServerConn, c ssh.Channel, reqs <-chan *ssh.Request) {
				go untilGone(func() error { _, _, err := s.SendRequest(evil, true, []byte(evil)); return err })
				go untilGone(func() error { _, err := c.SendRequest("exit-status", true, []byte{0, 0, 0, 0}); return err })
				runs(func(ssh.Channel) {})(s, c, reqs)
			}),
		}},
		{name: "endless garbage", serve: raw(func(c net.Conn) { forever(c, "\x00\xff\x1b[2J\x01") })},
		{name: "endless lines", serve: raw(func(c net.Conn) { forever(c, evil+"\r\n") })},
		{name: "an endless line", serve: raw(func(c net.Conn) { forever(c, strings.Repeat("x", 1000)) })},
		{name: "an evil version", serve: raw(func(c net.Conn) { say(c, "SSH-2.0-"+strings.ReplaceAll(evil, "\n", "")+"\r\n"); forever(c, evil) })},
		{name: "an evil farewell", serve: raw(func(c net.Conn) {
			say(c, "SSH-2.0-x\r\n")
			say(c, packet(append(append([]byte{1, 0, 0, 0, 2}, length(evil)...), length("")...)))
			swallow(c)
		})},
		{name: "evil algorithms", serve: raw(func(c net.Conn) {
			say(c, "SSH-2.0-x\r\n")
			offer := append([]byte{20}, make([]byte, 16)...)
			for range 10 {
				offer = append(offer, length(evil+",none")...)
			}
			say(c, packet(append(offer, 0, 0, 0, 0, 0)))
			swallow(c)
		})},
		{name: "a packet of 4 GiB", serve: raw(func(c net.Conn) { say(c, "SSH-2.0-x\r\n\xff\xff\xff\xff\x05\x14"); forever(c, "x") })},
		{name: "another key", serve: func(c net.Conn, _ *sshdtest.Key) {
			_, private, err := ed25519.GenerateKey(nil)
			if err != nil {
				return
			}
			cfg := server()
			if key, err := ssh.NewSignerFromSigner(private); err == nil {
				cfg.AddHostKey(key)
			}
			_, _, _, _ = ssh.NewServerConn(c, cfg)
		}},
		{name: "an evil banner", serve: speak(func(cfg *ssh.ServerConfig) {
			cfg.BannerCallback = func(ssh.ConnMetadata) string { return strings.Repeat(evil, 1000) }
		}, reply(func(wire.Request) wire.Reply { return wire.Reply{Code: wire.CodeOK} }))},
		{name: "the key is not taken", serve: speak(func(cfg *ssh.ServerConfig) {
			cfg.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, errors.New(evil) }
		}, nil)},
		{name: "no sessions", serve: speak(nil, nil)},
		{name: "no commands", serve: speak(nil, func(_ *ssh.ServerConn, c ssh.Channel, reqs <-chan *ssh.Request) {
			ssh.DiscardRequests(reqs)
		})},
		{name: "endless output", serve: speak(nil, runs(func(c ssh.Channel) { forever(c, evil) }))},
		{name: "endless complaints", serve: speak(nil, runs(func(c ssh.Channel) { forever(c.Stderr(), evil+strings.Repeat("x", 8000)) }))},
		{name: "no reply", serve: speak(nil, runs(func(c ssh.Channel) { say(c, evil); say(c.Stderr(), evil); exit(c, 1) }))},
		{name: "only complaints", serve: speak(nil, runs(func(c ssh.Channel) { say(c.Stderr(), evil); exit(c, 255) }))},
		{name: "an evil signal", serve: speak(nil, runs(func(c ssh.Channel) {
			_, _ = c.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Signal string
				Core   bool
				Text   string
				Lang   string
			}{evil, false, evil, evil}))
			c.Close()
		}))},
		{name: "a reply of a gigabyte", serve: speak(nil, runs(func(c ssh.Channel) {
			say(c, "kido/1 reply failed\noutput ")
			forever(c, "x")
		}))},
		{name: "a reply just too long", serve: speak(nil, reply(func(wire.Request) wire.Reply {
			return wire.Reply{Code: wire.CodeFailed, Output: strings.Repeat("x", wire.MaxReply)}
		}))},
		{name: "channels", serve: speak(nil, func(s *ssh.ServerConn, c ssh.Channel, reqs <-chan *ssh.Request) {
			for range 8 {
				go untilGone(func() error {
					_, _, err := s.OpenChannel(evil, []byte(evil))
					if _, no := errors.AsType[*ssh.OpenChannelError](err); no {
						return nil
					}
					return err
				})
			}
			reply(plausible)(s, c, reqs)
		})},
	}
	for _, code := range []wire.Code{wire.CodeOK, wire.CodeDone, wire.CodeFailed, wire.CodeOnHold, wire.CodeUnknown, wire.CodeRefused} {
		all = append(all, hostile{name: "evil words: " + string(code), serve: speak(nil, reply(func(q wire.Request) wire.Reply {
			r := plausible(q)
			if q.Verb == wire.VerbStatus && code != wire.CodeOK && code != wire.CodeUnknown {
				return r // lead it on
			}
			r.Code, r.Word, r.Output = code, evil, strings.Repeat(evil, 20)
			return r
		}))})
	}
	for name, change := range map[string]func(s *wire.Status){
		"word":        func(s *wire.Status) { s.Word, s.Ready = evil, false },
		"instance":    func(s *wire.Status) { s.Instance = evil },
		"token":       func(s *wire.Status) { s.Token = evil },
		"basis":       func(s *wire.Status) { s.Basis = wire.NewVector(wire.Entry{Instance: evil, Token: evil}) },
		"basis of db": func(s *wire.Status) { s.Basis = wire.NewVector(wire.Entry{Instance: "db@db1", Token: evil}) },
		"many bases": func(s *wire.Status) {
			for i := range 600 {
				s.Basis.Extend(fmt.Sprintf("%05d%s", i, evil), evil)
			}
		},
		"numbers": func(s *wire.Status) {
			s.Age, s.OnHold = math.MaxInt64/time.Second*time.Second, math.MaxInt64/time.Second*time.Second
			s.Generation = math.MaxUint64
		},
		"hold": func(s *wire.Status) {
			s.Intent, s.IntentVerb, s.Wanted, s.State = true, wire.VerbStop, wire.WantedHeld, wire.StateFailed
		},
		"states": func(s *wire.Status) { s.State = wire.StateBlind },
	} {
		all = append(all, hostile{name: "evil status: " + name, serve: speak(nil, reply(func(q wire.Request) wire.Reply {
			r := plausible(q)
			if r.Status != nil {
				change(r.Status)
			}
			return r
		}))})
	}
	all = append(all, hostile{name: "evil slots", serve: speak(nil, reply(func(q wire.Request) wire.Reply {
		r := plausible(q)
		if q.Verb == wire.VerbTake || q.Verb == wire.VerbGive {
			r = wire.Reply{Code: wire.CodeBusy, Word: evil}
			for range 100 {
				r.Slots = append(r.Slots, wire.Slot{Member: evil, Run: evil, Generation: math.MaxUint64})
			}
		}
		return r
	}))})
	return all
}

// plausible is what a gate could answer: all is up, and the web servers owe a
// reaction that never works.
func plausible(q wire.Request) wire.Reply {
	name := map[bool]string{true: "db@db1", false: q.Service + "@web1"}[q.Service == "db"]
	r := wire.Reply{Code: wire.CodeOK, Status: &wire.Status{
		Instance: name, State: wire.StateUp, Token: "token", Settled: true, Ready: true, Generation: 1, Wanted: wire.WantedUp,
	}}
	if q.Verb != wire.VerbStatus {
		r.Code = wire.CodeFailed
	}
	return r
}

func raw(do func(net.Conn)) behaviour {
	return func(c net.Conn, _ *sshdtest.Key) { do(c) }
}

func server() *ssh.ServerConfig {
	return &ssh.ServerConfig{
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil },
	}
}

// speak is a server that lets everybody in and does so with every session; nil: it
// opens none.
func speak(change func(*ssh.ServerConfig), session func(*ssh.ServerConn, ssh.Channel, <-chan *ssh.Request)) behaviour {
	return func(c net.Conn, key *sshdtest.Key) {
		cfg := server()
		cfg.AddHostKey(key.Signer)
		if change != nil {
			change(cfg)
		}
		s, channels, requests, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		for ch := range channels {
			if session == nil {
				_ = ch.Reject(ssh.ResourceShortage, evil)
				continue
			}
			if ch, reqs, err := ch.Accept(); err == nil {
				go session(s, ch, reqs)
			}
		}
	}
}

// runs takes every command.
func runs(do func(ssh.Channel)) func(*ssh.ServerConn, ssh.Channel, <-chan *ssh.Request) {
	return func(_ *ssh.ServerConn, c ssh.Channel, reqs <-chan *ssh.Request) {
		for r := range reqs {
			_ = r.Reply(r.Type == "exec", nil)
			if r.Type == "exec" {
				go do(c)
			}
		}
	}
}

// reply answers every request so.
func reply(to func(wire.Request) wire.Reply) func(*ssh.ServerConn, ssh.Channel, <-chan *ssh.Request) {
	return runs(func(c ssh.Channel) {
		text, _ := io.ReadAll(c)
		q, _ := wire.ParseRequest(text)
		say(c, string(to(q).Format()))
		exit(c, 0)
	})
}

func exit(c ssh.Channel, status uint32) {
	_, _ = c.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, status))
	c.Close()
}

func say(w io.Writer, text string) { _, _ = io.WriteString(w, text) }

func forever(w io.Writer, text string) {
	for {
		if _, err := io.WriteString(w, text); err != nil {
			return
		}
	}
}

// swallow takes all that comes, for as long as it does.
func swallow(r io.Reader) { _, _ = io.Copy(io.Discard, r) }

// untilGone does something again and again, until the connection is gone.
func untilGone(once func() error) {
	for once() == nil {
	}
}

// block keeps a session open until its connection is gone.
func block(c ssh.Channel) {
	untilGone(func() error { _, err := c.SendRequest("nothing", true, nil); return err })
}

// length puts its length before a text, as SSH has it.
func length(text string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// packet is the binary packet of SSH, as it is before there are keys.
func packet(payload []byte) string {
	padding := 8 - (len(payload)+5)%8
	if padding < 4 {
		padding += 8
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	b = append(append(b, byte(padding)), payload...)
	return string(append(b, make([]byte, padding)...))
}
