package prove

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"kido/internal/gate"
	"kido/internal/remote"
	"kido/internal/wire"
)

const (
	// maxSaid bounds what is read of an answer, in bytes of either stream: a
	// gate's whole reply, and one more to tell that there was more.
	maxSaid = wire.MaxReply + 1
	// maxWords bounds what is shown of what a host said, in bytes.
	maxWords = 160
)

// thief holds a key, and what is known of where it leads.
type thief struct {
	Config
	signers    []ssh.Signer // the certificate, where there is one, and the key
	identities []string     // what those are to a gate (see gate.Caller)
	algorithms []string
	pinned     ssh.HostKeyCallback
	request    string // one that the gate is to answer
	gated      bool   // and it was a gate that did
}

func newThief(c Config) (*thief, error) {
	if c.Target.Port == 0 {
		c.Target.Port = 22
	}
	if c.Socket == "" {
		c.Socket = "/run/dbus/system_bus_socket"
	}
	if c.Time <= 0 {
		c.Time = 20 * time.Second
	}
	if c.Patience <= 0 {
		c.Patience = time.Minute
	}
	t := &thief{Config: c}
	key, err := remote.LoadIdentity(c.Target.Key)
	if err != nil {
		return nil, err
	}
	if err := t.certificate(key); err != nil {
		return nil, err
	}
	t.signers = append(t.signers, key)
	t.identities = append(t.identities, ssh.FingerprintSHA256(key.PublicKey()))
	t.algorithms, t.pinned, err = c.HostKeys.Only(c.Target.Name, c.Target.Address, c.Target.Port)
	return t, err
}

// certificate adds the certificate beside the key, where there is one. Whether it
// is still good is for the host to say; one of another key nobody can use, and it
// is left behind where a key took another's place.
func (t *thief) certificate(key ssh.Signer) error {
	cert, err := remote.LoadCertificate(t.Target.Key)
	if err != nil {
		return fmt.Errorf("%w: remove it, or have the key signed anew (kido keys sign)", err)
	}
	if cert == nil || !bytes.Equal(cert.Key.Marshal(), key.PublicKey().Marshal()) {
		return nil
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		return fmt.Errorf("%s: %w", remote.CertificateFile(t.Target.Key), err)
	}
	t.signers = append(t.signers, signer)
	for _, principal := range cert.ValidPrincipals {
		t.identities = append(t.identities, gate.CertificateIdentity(ssh.FingerprintSHA256(cert.SignatureKey), principal))
	}
	return nil
}

// conn is a connection of its own for one attempt, so that what one attempt does
// to it cannot be taken for the answer to another.
type conn struct {
	ssh.Conn
	ctx context.Context
}

// dial connects as a user, and ends the connection with ctx. change, if not nil,
// may ask for another authentication than by the key.
func (t *thief) dial(ctx context.Context, user string, change func(*ssh.ClientConfig)) (*conn, error) {
	tcp, err := t.tcp(ctx)
	if err != nil {
		return nil, err
	}
	config := &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(t.signers...)}, ClientVersion: "SSH-2.0-kido",
		HostKeyAlgorithms: t.algorithms, HostKeyCallback: t.pinned,
	}
	if change != nil {
		change(config)
	}
	c, channels, requests, err := ssh.NewClientConn(tcp, tcp.RemoteAddr().String(), config)
	if err != nil {
		tcp.Close()
		return nil, because(ctx, err)
	}
	go ssh.DiscardRequests(requests)
	go func() {
		for ch := range channels {
			_ = ch.Reject(ssh.Prohibited, "nothing is offered here")
		}
	}()
	return &conn{c, ctx}, nil
}

// tcp connects; the connection is closed with ctx, and so nothing waits longer.
func (t *thief) tcp(ctx context.Context) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(t.Target.Address, strconv.Itoa(t.Target.Port)))
	if err != nil {
		return nil, because(ctx, err)
	}
	context.AfterFunc(ctx, func() { c.Close() })
	return c, nil
}

// because is err, or, where the time was up, that: all else follows from it.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// answer is what a host made of a session.
type answer struct {
	taken          bool // sshd took the request that runs something
	stdout, stderr string
}

// reply is the gate's, where it is one.
func (a answer) reply() (wire.Reply, bool) {
	r, err := wire.ParseReply([]byte(a.stdout))
	return r, err == nil
}

// said is the beginning of what it said on both outputs, quoted.
func (a answer) said() string { return words(a.stdout+a.stderr, maxWords) }

// execute is the payload of an exec request, and of a subsystem's.
func execute(command string) []byte { return ssh.Marshal(struct{ Command string }{command}) }

// ask opens a session, makes the request that runs something there, gives it the
// input, and reads what comes back.
func (c *conn) ask(kind string, payload []byte, input string) (answer, error) {
	s, err := c.session()
	if err != nil {
		return answer{}, err
	}
	defer s.Close()
	taken, err := s.SendRequest(kind, true, payload)
	if err != nil || !taken {
		return answer{}, because(c.ctx, err)
	}
	return s.hear(input)
}

// request asks a gate on a session of its own.
func (c *conn) request(text string) (answer, error) {
	return c.ask("exec", execute(wire.Command), text)
}

// session is a session channel.
type session struct {
	ssh.Channel
	ctx    context.Context
	status chan bool // whether what ran on it has ended: told once it is closed
}

// session opens a session that nothing runs on yet.
func (c *conn) session() (*session, error) {
	ch, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		return nil, because(c.ctx, err)
	}
	s := &session{ch, c.ctx, make(chan bool, 1)}
	go func() {
		ended := false
		for r := range requests {
			ended = ended || r.Type == "exit-status" || r.Type == "exit-signal"
			if r.WantReply {
				_ = r.Reply(false, nil) // fails only with the connection
			}
		}
		s.status <- ended
	}()
	return s, nil
}

// errCut is the end of a connection in the midst of a session.
var errCut = errors.New("the host closed the connection")

// hear gives a session its input and reads what it says to the end.
func (s *session) hear(input string) (answer, error) {
	var fed sync.WaitGroup
	fed.Go(func() {
		// Who refuses does not read on: what it says counts.
		_, _ = io.WriteString(s, input)
		_ = s.CloseWrite()
	})
	a, err := s.listen()
	s.Close() // and with it the input that nobody takes
	fed.Wait()
	return a, err
}

// listen reads what a session says to the end.
func (s *session) listen() (answer, error) {
	var stderr strings.Builder
	var other sync.WaitGroup
	other.Go(func() {
		_, _ = io.Copy(&stderr, io.LimitReader(s.Stderr(), maxWords))
		_, _ = io.Copy(io.Discard, s.Stderr()) // else a full window would hold up the other stream
	})
	stdout, err := io.ReadAll(io.LimitReader(s, maxSaid))
	ended := len(stdout) == maxSaid
	if ended {
		s.Close()
	} else {
		ended = <-s.status
	}
	other.Wait()
	if err == nil && !ended {
		err = errCut
	}
	return answer{taken: true, stdout: string(stdout), stderr: stderr.String()}, because(s.ctx, err)
}

// words are a host's, fit for a line: quoted printable ASCII, and not many.
func words(text string, most int) string {
	text = strings.TrimSpace(text)
	if len(text) > most {
		text = text[:most] + "..."
	}
	return strconv.QuoteToASCII(text)
}

// use makes the request that the key is there for, or, at a plain target, opens a
// session and runs nothing. The result is a finding where what answers is no gate;
// nil where all is well.
func (t *thief) use(ctx context.Context) (*Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.Time, errNoAnswer)
	defer cancel()
	c, err := t.dial(ctx, t.Target.User, nil)
	if err != nil {
		return nil, plainly(err)
	}
	defer c.Close()
	if t.Policy == nil {
		_, err := c.session()
		return nil, plainly(err)
	}
	var good bool
	t.request, good = t.allowed()
	a, err := c.request(t.request)
	if err != nil {
		return nil, plainly(err)
	}
	if !a.taken {
		return nil, errors.New("sshd runs no command for it")
	}
	r, isGate := a.reply()
	t.gated = isGate
	switch {
	case !isGate:
		return &Result{
			Attempt: Attempt{Group: "command", Name: "request", What: "a request of kido's own: only a gate may answer"},
			Outcome: NotRefused, How: "no gate answers: " + a.said(),
		}, nil
	case good && r.Code == wire.CodeRefused:
		return nil, fmt.Errorf("the gate does not grant what the site does: %s: kido install brings the policy there", words(r.Word, maxWords))
	case r.Code == wire.CodeInvalid || r.Code == wire.CodeError:
		return nil, fmt.Errorf("the gate answers %s: %s", r.Code, words(r.Word, maxWords))
	}
	return nil, nil
}

// plainly is an error without a host's raw words in it.
func plainly(err error) error {
	if err == nil || errors.Is(err, errNoAnswer) || errors.Is(err, context.Canceled) {
		return err
	}
	return errors.New(strings.Trim(words(err.Error(), 300), `"`))
}
