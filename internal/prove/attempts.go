package prove

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"kido/internal/wire"
)

// attempts lists all that is tried, in the order in which it is: what costs a
// failed authentication comes last.
func (t *thief) attempts() []Attempt {
	var all []Attempt
	group := func(name string, some ...Attempt) {
		for _, a := range some {
			a.Group = name
			all = append(all, a)
		}
	}
	if t.Policy == nil {
		group("command", Attempt{Name: "commands", What: "other commands, files, requests", try: func(context.Context, *thief) verdict {
			return leftOut("any command runs the one that the key is locked to")
		}})
	} else {
		group("command", commands()...)
		group("request", t.requests()...)
	}
	group("session", sessions()...)
	group("forwarding", forwardings()...)
	group("load", t.loads()...)
	group("login", t.logins()...)
	if t.Policy != nil { // begun with the first, and the last to be over
		group("load", Attempt{Name: "slow", What: "a session that sends nothing: it is to be ended from there", beside: true, try: slow})
	}
	return all
}

// ---- commands -------------------------------------------------------------------

// commands are those that are not the one which the key is there for. None would
// change anything on a host that ran it.
func commands() []Attempt {
	all := []Attempt{{Name: "shell", What: "a login shell", try: runs("shell", nil, "id\n")}}
	for _, c := range []struct{ name, what, command string }{
		{"another command", "id", "id"},
		{"a shell's name", "/bin/sh", "/bin/sh"},
		{"the gate itself", "the gate's own program with a flag", "kido-gate --check"},
		{"a second command", "id behind the right word and a semicolon", wire.Command + "; id"},
		{"a pipe", "id behind the right word and a bar", wire.Command + " | id"},
		{"substitution", "$(id) and `id`", wire.Command + " $(id) `id`"},
		{"a newline", "id on a second line", wire.Command + "\nid"},
		{"escape sequence", "a terminal's escape sequence", wire.Command + "\x1b[2J\x1b]0;id\a"},
		{"no text", "bytes that are no text", wire.Command + "\xff\xfe"},
		{"a long command", "a command of 100 KiB", wire.Command + strings.Repeat(" id", 100<<10/3)},
		{"scp to the host", "scp -t", "scp -t /nonexistent/kido-prove"},
		{"scp from the host", "scp -f", "scp -f /etc/hostname"},
		{"rsync", "rsync --server", "rsync --server --sender . /etc/hostname"},
	} {
		all = append(all, Attempt{Name: c.name, What: c.what, try: runs("exec", execute(c.command), "")})
	}
	// The start of an SFTP session: length, INIT, version 3.
	all = append(all, Attempt{Name: "sftp", What: "the sftp subsystem", try: runs("subsystem", execute("sftp"), "\x00\x00\x00\x05\x01\x00\x00\x00\x03")})
	// OpenSSH takes a string with a zero byte in it for an attack, and hangs up.
	all = append(all, Attempt{Name: "a zero byte", What: "id behind a zero byte", try: func(ctx context.Context, t *thief) verdict {
		return t.run(ctx, "exec", execute(wire.Command+"\x00; id"), "", true)
	}})
	return append(all, Attempt{Name: "signal", What: "to kill what the key runs", try: signals})
}

func runs(kind string, payload []byte, input string) func(context.Context, *thief) verdict {
	return func(ctx context.Context, t *thief) verdict { return t.run(ctx, kind, payload, input, false) }
}

// run tries to have something run. Without an input of its own it gets a good
// request: so a gate that passed over the command would be found out. cut says that
// to hang up is an answer.
func (t *thief) run(ctx context.Context, kind string, payload []byte, input string, cut bool) verdict {
	if input == "" {
		input = t.request
	}
	c, err := t.dial(ctx, t.Target.User, nil)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	a, err := c.ask(kind, payload, input)
	if cut && (errors.Is(err, errCut) || errors.Is(err, io.EOF)) {
		return refused("sshd: %v", errCut)
	}
	return t.judge(a, err, wire.CodeInvalid, wire.CodeRefused)
}

// judge says what an answer comes to: with one of these codes the gate refuses.
func (t *thief) judge(a answer, err error, codes ...wire.Code) verdict {
	if err != nil {
		return failed(err)
	}
	if !a.taken {
		return refused("sshd: does not take the request")
	}
	r, isGate := a.reply()
	switch {
	case isGate && slices.Contains(codes, r.Code):
		return refused("gate: %s", words(r.Word, maxWords))
	case isGate:
		return granted("the gate answers %s: %s", r.Code, words(r.Word, maxWords))
	case a.stdout+a.stderr == "":
		return granted("it was run, and said nothing")
	}
	return granted("it was run, and said %s", a.said())
}

// signals sends a signal to what waits for input: a gate for its request, anything
// else that the key may run.
func signals(ctx context.Context, t *thief) verdict {
	c, err := t.dial(ctx, t.Target.User, nil)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	s, err := c.session()
	if err != nil {
		return failed(err)
	}
	command := wire.Command
	if !t.gated {
		command = "cat"
	}
	if ok, err := s.SendRequest("exec", true, execute(command)); err != nil || !ok {
		return failed(because(ctx, errors.Join(err, errors.New("nothing runs that could be sent one"))))
	}
	return request(ctx, s.SendRequest, "signal", ssh.Marshal(struct{ Name string }{"KILL"}))
}

// ---- requests -------------------------------------------------------------------

// Nobody has such an instance, incarnation, run or generation.
const (
	nobody           = "kido-prove-nobody"
	never     uint64 = 1<<64 - 1
	overSized        = 1 << 20
)

// requests are those that the gate must not carry out for this key.
func (t *thief) requests() []Attempt {
	status := string(wire.Request{Verb: wire.VerbStatus, Service: nobody}.Format())
	ask := func(text string, codes ...wire.Code) func(context.Context, *thief) verdict {
		return func(ctx context.Context, t *thief) verdict {
			c, err := t.dial(ctx, t.Target.User, nil)
			if err != nil {
				return failed(err)
			}
			defer c.Close()
			a, err := c.request(text)
			return t.judge(a, err, codes...)
		}
	}
	all := []Attempt{
		{Name: "garbage", What: "bytes that are no request", try: ask("\x00\xff$(id)\x1b[2J\n", wire.CodeInvalid)},
		{Name: "half a request", What: "a request that is cut short", try: ask(status[:len(status)/2], wire.CodeInvalid)},
		{Name: "two requests", What: "two requests in one", try: ask(status+status, wire.CodeInvalid)},
		{Name: "no such verb", What: "a verb that does not exist", try: ask(strings.Replace(status, "status", "shell", 1), wire.CodeInvalid)},
		{Name: "no such service", What: "a service that does not exist", try: ask(status, wire.CodeRefused)},
	}
	for _, v := range wire.Verbs() {
		things := t.denied(v)
		if len(things) == 0 {
			continue
		}
		a := Attempt{Name: string(v), What: fmt.Sprintf("%s of what the key may not: %s", v, list(things))}
		a.try = func(ctx context.Context, t *thief) verdict { return t.denials(ctx, v, things) }
		all = append(all, a)
	}
	return all
}

// list names things, not all where they are many.
func list(things []string) string {
	if len(things) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(things[:5], ", "), len(things)-5)
	}
	return strings.Join(things, ", ")
}

// denied lists the services, and for a probe the watches, for which the policy does
// not grant a verb to the key.
func (t *thief) denied(v wire.Verb) (things []string) {
	if t.Policy == nil {
		return nil
	}
	if v == wire.VerbProbe {
		for _, w := range t.Policy.Watches {
			things = append(things, w.Instance)
		}
	} else {
		for _, s := range t.Policy.Services {
			things = append(things, s.Name)
		}
	}
	return slices.DeleteFunc(things, func(thing string) bool { return t.may(v, thing) })
}

// may reports whether the policy grants something to the key.
func (t *thief) may(v wire.Verb, thing string) bool {
	for _, g := range t.Policy.Grants {
		if g.Service == thing && slices.Contains(g.Verbs, v) &&
			slices.ContainsFunc(t.identities, func(id string) bool { return t.Policy.Principal(id) == g.Principal }) {
			return true
		}
	}
	return false
}

// allowed is the text of a request that only looks: one that the policy grants, if
// there is one.
func (t *thief) allowed() (text string, granted bool) {
	for _, v := range []wire.Verb{wire.VerbStatus, wire.VerbProbe} {
		for _, g := range t.Policy.Grants {
			if slices.Contains(g.Verbs, v) && t.may(v, g.Service) {
				return string(wire.Request{Verb: v, Service: g.Service}.Format()), true
			}
		}
	}
	return string(wire.Request{Verb: wire.VerbStatus, Service: nobody}.Format()), false
}

// harmless is a request that a gate which wrongly granted it would answer, and
// change nothing for: each compares with something that cannot be so. ok is false
// for a verb that has no such form.
func harmless(v wire.Verb, thing string) (q wire.Request, ok bool) {
	q = wire.Request{Verb: v, Service: thing, Run: nobody}
	switch v {
	case wire.VerbStatus, wire.VerbProbe:
		q.Run = ""
	case wire.VerbReload, wire.VerbFence:
		q.Generation = never
	case wire.VerbTake: // of so many instances that may be down, none: invalid
		q.Member = thing + "@" + nobody
	case wire.VerbGive:
		q.Member, q.Generation = thing+"@"+nobody, never
	case wire.VerbEnsure:
		q.Timeout, q.Generation = 1e9, never
		q.Reaction = wire.ReactReload
		q.Expect, q.New = wire.NewVector(wire.Entry{Instance: nobody, Token: "expected"}), wire.NewVector(wire.Entry{Instance: nobody, Token: "new"})
	default:
		return q, false
	}
	return q, true
}

// denials tries one verb on all things for which it is not granted.
func (t *thief) denials(ctx context.Context, v wire.Verb, things []string) verdict {
	if _, ok := harmless(v, ""); !ok {
		return leftOut("would act if it were granted; the check that refuses the other verbs decides on this one")
	}
	c, err := t.dial(ctx, t.Target.User, nil)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	last := leftOut("would finish a change that is under way, or may be, if it were granted; the check that refuses the other verbs decides on this one")
	var busy []string
	for _, thing := range things {
		if v == wire.VerbEnsure && !t.idle(c, thing) {
			busy = append(busy, thing)
			continue
		}
		q, _ := harmless(v, thing)
		a, err := c.request(string(q.Format()))
		last = t.judge(a, err, wire.CodeRefused)
		if last.outcome != Refused {
			last.how = thing + ": " + last.how
			return last
		}
	}
	if last.outcome == Refused && len(busy) > 0 {
		last.how += "; left out, where it would finish a change: " + list(busy)
	}
	return last
}

// idle reports whether no change of a service is left unfinished, as far as the key
// may look: any ENSURE, were it let through, would first finish that.
func (t *thief) idle(c *conn, service string) bool {
	if !t.may(wire.VerbStatus, service) {
		return false
	}
	a, err := c.request(string(wire.Request{Verb: wire.VerbStatus, Service: service}.Format()))
	r, isGate := a.reply()
	return err == nil && isGate && r.Code == wire.CodeOK && r.Status != nil && !r.Status.Intent
}

// ---- sessions -------------------------------------------------------------------

// sessions are the requests that belong to a session and run nothing.
func sessions() []Attempt {
	all := []Attempt{
		{Name: "pty", What: "a terminal", try: asks("pty-req", ssh.Marshal(struct {
			Term                         string
			Columns, Rows, Width, Height uint32
			Modes                        string
		}{"xterm", 80, 24, 0, 0, "\x00"}))},
		{Name: "agent", What: "to forward a key agent", try: asks("auth-agent-req@openssh.com", nil)},
		{Name: "X11", What: "to forward X11", try: asks("x11-req", ssh.Marshal(struct {
			Single           bool
			Protocol, Cookie string
			Screen           uint32
		}{false, "MIT-MAGIC-COOKIE-1", "00000000000000000000000000000000", 0}))},
	}
	for _, e := range []struct{ name, value string }{
		{"LD_PRELOAD", "/nonexistent/kido-prove.so"},
		{"BASH_ENV", "/nonexistent/kido-prove"},
		{"PATH", "/nonexistent"},
		{"GODEBUG", "http2debug=0"},
		{"SSH_USER_AUTH", "/nonexistent/kido-prove"},
		{"SSH_ORIGINAL_COMMAND", wire.Command},
	} {
		payload := ssh.Marshal(struct{ Name, Value string }{e.name, e.value})
		all = append(all, Attempt{Name: "env " + e.name, What: "to set " + e.name + " in the gate's environment", try: asks("env", payload)})
	}
	return all
}

// asks makes one request on a session that nothing runs on.
func asks(kind string, payload []byte) func(context.Context, *thief) verdict {
	return func(ctx context.Context, t *thief) verdict {
		c, err := t.dial(ctx, t.Target.User, nil)
		if err != nil {
			return failed(err)
		}
		defer c.Close()
		s, err := c.session()
		if err != nil {
			return failed(err)
		}
		return request(ctx, s.SendRequest, kind, payload)
	}
}

func request(ctx context.Context, send func(string, bool, []byte) (bool, error), kind string, payload []byte) verdict {
	ok, err := send(kind, true, payload)
	switch {
	case err != nil:
		return failed(because(ctx, err))
	case ok:
		return granted("sshd: grants it")
	}
	return refused("sshd: does not grant it")
}

// ---- forwarding -----------------------------------------------------------------

func forwardings() []Attempt {
	return []Attempt{
		{Name: "-L, -W, ProxyJump", What: "a connection from the host to its port 1", try: opens("direct-tcpip", func(*thief) any {
			return struct {
				Host   string
				Port   uint32
				Origin string
				From   uint32
			}{"127.0.0.1", 1, "127.0.0.1", 1}
		})},
		{Name: "-L to a socket", What: "a connection from the host to a Unix socket there", try: opens("direct-streamlocal@openssh.com", func(t *thief) any {
			return struct {
				Path     string
				Reserved string
				Zero     uint32
			}{t.Socket, "", 0}
		})},
		{Name: "-R", What: "a port of the host that leads here", try: listens},
		{Name: "-R of a socket", What: "a Unix socket of the host that leads here", try: func(context.Context, *thief) verdict {
			return leftOut("if it were granted, sshd would leave the socket's file behind")
		}},
		{Name: "tun", What: "a network device", try: opens("tun@openssh.com", func(*thief) any {
			return struct{ Mode, Unit uint32 }{1, 1<<31 - 1} // point to point, whichever is free
		})},
	}
}

// opens tries to open a channel.
func opens(kind string, payload func(*thief) any) func(context.Context, *thief) verdict {
	return func(ctx context.Context, t *thief) verdict {
		c, err := t.dial(ctx, t.Target.User, nil)
		if err != nil {
			return failed(err)
		}
		defer c.Close()
		_, _, err = c.OpenChannel(kind, ssh.Marshal(payload(t)))
		no, isNo := errors.AsType[*ssh.OpenChannelError](err)
		switch {
		case err == nil:
			return granted("sshd: opens it")
		case !isNo:
			return failed(because(ctx, err))
		case kind == "direct-tcpip" && no.Reason == ssh.ConnectionFailed:
			return granted("sshd: tried to connect, and failed: %s", words(no.Message, maxWords))
		}
		how := fmt.Sprintf("sshd: %v: %s", no.Reason, words(no.Message, maxWords))
		if no.Reason == ssh.ConnectionFailed {
			how += ", which is what it says where there is none as well"
		}
		return verdict{Refused, how}
	}
}

// listens asks for a port at the host, and gives it back at once.
func listens(ctx context.Context, t *thief) verdict {
	c, err := t.dial(ctx, t.Target.User, nil)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	type port struct {
		Address string
		Port    uint32
	}
	ok, granting, err := c.SendRequest("tcpip-forward", true, ssh.Marshal(port{"127.0.0.1", 0}))
	if ok {
		var given struct{ Port uint32 }
		_ = ssh.Unmarshal(granting, &given) // the connection's end closes it all the same
		_, _, _ = c.SendRequest("cancel-tcpip-forward", true, ssh.Marshal(port{"127.0.0.1", given.Port}))
	}
	return request(ctx, func(string, bool, []byte) (bool, error) { return ok, err }, "", nil)
}

// ---- load -----------------------------------------------------------------------

const (
	manySessions    = 32 // more than any sshd lets through on one connection
	manyConnections = 8
)

func (t *thief) loads() []Attempt {
	many := Attempt{Name: "many sessions", What: fmt.Sprintf("%d sessions at once on one connection: each is to be answered or refused", manySessions), try: crowd}
	if t.Policy == nil {
		return []Attempt{many}
	}
	return []Attempt{
		{Name: "oversize", What: "a request of a megabyte", try: func(ctx context.Context, t *thief) verdict {
			return t.run(ctx, "exec", execute(wire.Command), strings.Repeat("a", overSized), false)
		}},
		{Name: "unread", What: "answers that nobody reads: they are to hold up nobody", try: unread},
		many,
		{Name: "many connections", What: fmt.Sprintf("%d connections with a request each: each is to be answered or refused", manyConnections), try: throng},
	}
}

// slow opens a session and sends nothing.
func slow(ctx context.Context, t *thief) verdict {
	c, err := t.dial(ctx, t.Target.User, nil)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	s, err := c.session()
	if err != nil {
		return failed(err)
	}
	if ok, err := s.SendRequest("exec", true, execute(wire.Command)); err != nil || !ok {
		return failed(because(ctx, errors.Join(err, errors.New("sshd runs nothing"))))
	}
	a, err := s.listen()
	if errors.Is(err, errNoAnswer) {
		return granted("it was open still after %v", t.Patience)
	}
	return t.judge(a, err, wire.CodeInvalid)
}

// unread makes requests whose answers it does not read, then one that it does.
func unread(ctx context.Context, t *thief) verdict {
	c, err := t.dial(ctx, t.Target.User, nil)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	for range 4 {
		s, err := c.session()
		if err != nil {
			return failed(err)
		}
		if ok, err := s.SendRequest("exec", true, execute(wire.Command)); err != nil || !ok {
			return failed(because(ctx, errors.Join(err, errors.New("sshd runs nothing"))))
		}
		if _, err := io.WriteString(s, t.request); err != nil {
			return failed(because(ctx, err))
		}
		_ = s.CloseWrite() // fails only where the peer has closed
	}
	a, err := c.request(t.request)
	if errors.Is(err, errNoAnswer) {
		return granted("another session got no answer")
	}
	if err != nil {
		return failed(err)
	}
	if _, isGate := a.reply(); !isGate {
		return granted("it was run, and said %s", a.said())
	}
	return refused("gate: another session was answered meanwhile")
}

// crowd opens many sessions on one connection, and only when all are open, or
// refused, uses them.
func crowd(ctx context.Context, t *thief) verdict {
	c, err := t.dial(ctx, t.Target.User, nil)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	var answered, no atomic.Int64
	opened := make(chan *session, manySessions)
	for range manySessions {
		wg.Go(func() {
			s, err := c.session()
			if _, isNo := errors.AsType[*ssh.OpenChannelError](err); isNo {
				no.Add(1)
			}
			if err != nil {
				return
			}
			if t.Policy != nil {
				if ok, err := s.SendRequest("exec", true, execute(wire.Command)); err != nil || !ok {
					return
				}
			}
			opened <- s
		})
	}
	wg.Wait()
	close(opened)
	for s := range opened {
		wg.Go(func() {
			if t.Policy == nil {
				answered.Add(1)
				return
			}
			if a, err := s.hear(t.request); err == nil && a.stdout+a.stderr != "" {
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	return tally(ctx, manySessions, answered.Load(), no.Load())
}

// throng makes many connections, with a request on each.
func throng(ctx context.Context, t *thief) verdict {
	var wg sync.WaitGroup
	var answered, no atomic.Int64
	for range manyConnections {
		wg.Go(func() {
			c, err := t.dial(ctx, t.Target.User, nil)
			if err != nil {
				no.Add(1)
				return
			}
			defer c.Close()
			if a, err := c.request(t.request); err == nil && a.stdout+a.stderr != "" {
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	return tally(ctx, manyConnections, answered.Load(), no.Load())
}

func tally(ctx context.Context, all, answered, no int64) verdict {
	if ctx.Err() == nil && answered+no == all {
		return refused("%d answered, %d refused, none left hanging", answered, no)
	}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errNoAnswer) {
		return failed(context.Cause(ctx))
	}
	return granted("of %d, %d were answered, %d refused, and the others neither", all, answered, no)
}

// ---- login ----------------------------------------------------------------------

func (t *thief) logins() []Attempt {
	all := []Attempt{
		{Name: "a password", What: "to log in with a password", try: methods("password")},
		{Name: "a dialogue", What: "to log in by keyboard-interactive", try: methods("keyboard-interactive")},
		{Name: "by host", What: "to log in by the word of another host, or by Kerberos", try: methods("hostbased", "gssapi-with-mic", "gssapi-keyex")},
		{Name: "nothing", What: "to log in with nothing", try: unsigned},
		{Name: "another key", What: "to log in with a key made just now", try: stranger},
		{Name: "SSH 1", What: "to speak the old protocol", try: protocol1},
	}
	for _, user := range t.Others {
		all = append(all, Attempt{Name: "as " + user, What: "to log in as another user with this key", try: func(ctx context.Context, t *thief) verdict {
			c, err := t.dial(ctx, user, nil)
			switch {
			case err == nil:
				c.Close()
				return granted("sshd: lets it in")
			case strings.Contains(err.Error(), "unable to authenticate"):
				return refused("sshd: does not take the key for that user")
			}
			return failed(err)
		}})
	}
	return all
}

// methods asks which ways to log in are open, and takes none but the key: a wrong
// password is a failed login on record, and may lock an account.
func methods(names ...string) func(context.Context, *thief) verdict {
	return func(ctx context.Context, t *thief) verdict {
		var open []string
		c, err := t.dial(ctx, t.Target.User, func(config *ssh.ClientConfig) {
			config.AuthCallback = func(a *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
				open = a.AllowedMethods
				return nil, nil // as usual: the key
			}
		})
		if err != nil {
			return failed(err)
		}
		defer c.Close()
		for _, name := range names {
			if slices.Contains(open, name) {
				return granted("sshd: offers %s", name)
			}
		}
		if len(open) == 0 { // it let us in before it said which
			return failed(errors.New("sshd asks for nothing"))
		}
		return refused("sshd: offers only %s", words(strings.Join(open, " "), maxWords))
	}
}

// watched is a key that notes whether it was asked for a signature: sshd asks for
// one only where it takes the key.
type watched struct {
	ssh.AlgorithmSigner
	asked *atomic.Bool
}

func (w watched) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	w.asked.Store(true)
	return w.AlgorithmSigner.SignWithAlgorithm(r, data, algorithm)
}

// unsigned looks whether sshd lets in who has proven nothing.
func unsigned(ctx context.Context, t *thief) verdict {
	asked := false
	c, err := t.dial(ctx, t.Target.User, func(config *ssh.ClientConfig) {
		config.AuthCallback = func(*ssh.ClientAuthContext) (ssh.AuthMethod, error) {
			asked = true // only after that was turned down
			return nil, nil
		}
	})
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	if !asked {
		return granted("sshd: lets it in")
	}
	return refused("sshd: asks for more")
}

// stranger offers a key that nobody knows before the good one, so that the login is
// no failure in the end.
func stranger(ctx context.Context, t *thief) verdict {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return failed(err)
	}
	key, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return failed(err)
	}
	var asked atomic.Bool
	c, err := t.dial(ctx, t.Target.User, func(config *ssh.ClientConfig) {
		offer := append([]ssh.Signer{watched{key.(ssh.AlgorithmSigner), &asked}}, t.signers...)
		config.Auth = []ssh.AuthMethod{ssh.PublicKeys(offer...)}
	})
	if asked.Load() {
		return granted("sshd: takes it")
	}
	if err != nil {
		return failed(err)
	}
	c.Close()
	return refused("sshd: does not take it")
}

// protocol1 says that it speaks SSH 1 only. By its own first line a host says
// whether it speaks that too (RFC 4253, section 5.1).
func protocol1(ctx context.Context, t *thief) verdict {
	c, err := t.tcp(ctx)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "SSH-1.5-kido\r\n"); err != nil {
		return failed(because(ctx, err))
	}
	said := bufio.NewReader(io.LimitReader(c, maxSaid))
	for {
		line, err := said.ReadBytes('\n')
		if !bytes.HasPrefix(line, []byte("SSH-")) && err == nil {
			continue // others may come before it
		}
		switch {
		case bytes.HasPrefix(line, []byte("SSH-2.0-")):
			return refused("sshd: %s", words(string(line), maxWords))
		case bytes.HasPrefix(line, []byte("SSH-")):
			return granted("sshd: %s", words(string(line), maxWords))
		}
		return failed(because(ctx, err))
	}
}
