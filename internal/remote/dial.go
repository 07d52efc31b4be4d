package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// dialTries bounds how often a connection is tried that a full sshd dropped
// before authentication; the time for connecting bounds it too.
const dialTries = 12

// connect dials until there is a connection, the time is up or trying again
// would not help.
func (c *Client) connect(ctx context.Context, g *group) (*conn, *Error) {
	var dropped *Error
	for try := 1; ; try++ {
		cn, err := c.handshake(ctx, g)
		if dropped != nil && err != nil && err.Kind == KindTimeout {
			return nil, dropped // the time ran out on one more try: this is the reason
		}
		if err == nil || err.Kind != KindDropped || err.Phase != PhaseHandshake || try == dialTries {
			return cn, err
		}
		dropped = err
		pause := backoff(try)
		c.logf("%s: %v; trying again in %v", g.endpoint, err.Err, pause.Round(time.Millisecond))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, dropped
		}
	}
}

// backoff doubles from 50 ms to 1.6 s, with full jitter over its upper half, so
// that the runners that were dropped together do not come back together.
func backoff(try int) time.Duration {
	d := 50 * time.Millisecond << min(try-1, 5)
	return d/2 + rand.N(d/2)
}

// handshake makes one connection, authenticated.
func (c *Client) handshake(ctx context.Context, g *group) (*conn, *Error) {
	g.phase.Store(PhaseConnect)
	tcp, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", g.endpoint)
	if err != nil {
		return nil, g.connectError(ctx, err)
	}
	g.phase.Store(PhaseHandshake)
	l := newLink(tcp, c.cfg.KeepaliveTimeout)
	if deadline, ok := ctx.Deadline(); ok {
		_ = l.SetDeadline(deadline) // fails only on a closed connection
	}
	stop := context.AfterFunc(ctx, func() { tcp.Close() })

	// Looked for each time, so that one that was renewed is used. The bare key
	// comes after it: a host may have the key's own line still, or yet.
	offers := []ssh.Signer{g.signer}
	certified, certErr := certify(g.identity, g.signer, time.Now())
	if certified != nil {
		offers = []ssh.Signer{certified, g.signer}
	}
	var hostKey atomic.Pointer[HostKeyError]
	sc, chans, reqs, err := ssh.NewClientConn(l, g.endpoint, &ssh.ClientConfig{
		User:              g.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(offers...)},
		ClientVersion:     "SSH-2.0-kido",
		HostKeyAlgorithms: accepted(g.pins),
		// The exchange of keys is not over before this returns: until then
		// nothing that is ours is sent.
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if bad := c.cfg.HostKeys.check(g.pins, key); bad != nil {
				hostKey.Store(bad)
				return bad
			}
			g.phase.Store(PhaseAuth)
			return nil
		},
	})
	if err != nil {
		stop()
		fault := c.handshakeError(ctx, g, l, hostKey.Load(), err)
		if fault.Kind == KindAuth {
			fault.explain(CertificateFile(g.identity), certified != nil, certErr)
		}
		return nil, fault
	}
	if !stop() || l.established() != nil {
		sc.Close()
		return nil, g.fail(PhaseAuth, KindDropped, "", errors.New("the connection was closed"))
	}
	return &conn{client: c, group: g, ssh: sc, chans: chans, reqs: reqs, ended: make(chan struct{})}, nil
}

func (g *group) fail(phase Phase, kind Kind, hint string, err error) *Error {
	return &Error{Address: g.endpoint, Phase: phase, Kind: kind, Err: err, Hint: hint}
}

func (g *group) connectError(ctx context.Context, err error) *Error {
	kind, hint := KindUnreachable, ""
	var dns *net.DNSError
	switch {
	case errors.Is(context.Cause(ctx), errClosed):
		kind, err = KindClosed, errClosed
	case errors.As(err, &dns):
		err, hint = fmt.Errorf("no address for %q: %s", g.address, dns.Err), "give the host's address in the site file"
	case errors.Is(err, syscall.ECONNREFUSED):
		kind, err, hint = KindRefused, syscall.ECONNREFUSED, "is sshd running there, at that port?"
	case isTimeout(ctx, err):
		kind, err, hint = KindTimeout, errors.New("no answer in time"), "is the host up, and does a firewall let the port through?"
	default:
		// "dial tcp 192.0.2.1:22: connect:" says again what Error says.
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err
		}
		if call, ok := errors.AsType[*os.SyscallError](err); ok {
			err = call.Err
		}
	}
	return g.fail(PhaseConnect, kind, hint, err)
}

func (c *Client) handshakeError(ctx context.Context, g *group, l *link, hostKey *HostKeyError, err error) *Error {
	phase := g.phase.Load().(Phase)
	var algs *ssh.AlgorithmNegotiationError
	switch {
	case hostKey != nil:
		return g.fail(phase, KindHostKeyChanged, c.cfg.HostKeys.changedHint(), hostKey)
	case errors.As(err, &algs) && strings.Contains(algs.What, "host key"):
		changed := &HostKeyError{Types: listed(algs.RequestedAlgorithms), Pinned: g.pins}
		return g.fail(phase, KindHostKeyChanged, c.cfg.HostKeys.changedHint(), changed)
	case errors.Is(context.Cause(ctx), errClosed):
		return g.fail(phase, KindClosed, "", errClosed)
	case isDropped(err) && l.sshd():
		text := "closed by the host before authentication"
		if said := l.greeting(); said != "" {
			text += ", with the words " + said
		}
		hint := "sshd there may be full or keep this address out: see MaxStartups, PerSourcePenalties and its log"
		return g.fail(phase, KindDropped, hint, errors.New(text))
	case isTimeout(ctx, err):
		return g.fail(phase, KindTimeout, "the port is open and nobody speaks: is the host hung", errors.New("connected, but no answer in time"))
	case phase == PhaseAuth:
		hint := fmt.Sprintf("is the public key of %s in the key file of %s there, does its from= allow this address, and may that account log in", g.identity, g.user)
		err := fmt.Errorf("the host does not take the key %s for user %s", ssh.FingerprintSHA256(g.signer.PublicKey()), g.user)
		return g.fail(phase, KindAuth, hint, err)
	}
	text := fmt.Errorf("no SSH server that we can speak to: %w", printable(err))
	if said := l.greeting(); said != "" {
		text = fmt.Errorf("no SSH server: it says %s", said)
	}
	return g.fail(phase, KindNotSSH, "is that the port of sshd", text)
}

// listed are names that a host gave, as many and as long as they fit a message.
func listed(names []string) string {
	const most = 10
	var all []string
	for _, n := range names[:min(len(names), most)] {
		all = append(all, quoted(n, 64))
	}
	if more := len(names) - most; more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return "[" + strings.Join(all, " ") + "]"
}

func isTimeout(ctx context.Context, err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded)
}

func isDropped(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// conn is one authenticated connection.
type conn struct {
	client *Client
	group  *group
	ssh    ssh.Conn
	chans  <-chan ssh.NewChannel // what the host asks of us: see begin
	reqs   <-chan *ssh.Request
	ended  chan struct{} // closed when the connection is gone; cause is set before
	cause  error
	silent atomic.Bool // closed by us: no answer to a keepalive

	// under client.mu
	sessions int // in use
	served   bool
	draining bool // no new session
	gone     bool // out of the pool, its place given back
	timer    *time.Timer
}

// begin sets going what may end the connection: not before it has its place in
// the pool, or is known to get none.
func (cn *conn) begin() {
	c := cn.client
	c.wg.Go(func() { ssh.DiscardRequests(cn.reqs) })
	c.wg.Go(cn.watch)
	c.wg.Go(cn.keepalive)
}

// watch turns down every channel that the host opens and ends with the
// connection.
func (cn *conn) watch() {
	for ch := range cn.chans {
		_ = ch.Reject(ssh.Prohibited, "nothing is offered here")
	}
	cn.cause = cn.ssh.Wait()
	if cn.silent.Load() {
		cn.cause = fmt.Errorf("no answer to a keepalive in %v", cn.client.cfg.KeepaliveTimeout)
	}
	close(cn.ended)
	c := cn.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(cn)
	c.settle(cn.group)
}

// keepalive closes a connection whose peer no longer answers.
func (cn *conn) keepalive() {
	cfg := &cn.client.cfg
	tick := time.NewTicker(cfg.KeepaliveInterval)
	defer tick.Stop()
	for {
		select {
		case <-cn.ended:
			return
		case <-tick.C:
		}
		dead := time.AfterFunc(cfg.KeepaliveTimeout, func() {
			cn.silent.Store(true)
			cn.ssh.Close()
		})
		// Refused or granted, both are an answer; an error ends the connection.
		_, _, _ = cn.ssh.SendRequest("keepalive@openssh.com", true, nil)
		dead.Stop()
	}
}

// expire closes a connection that was idle for long enough.
func (cn *conn) expire() {
	c := cn.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if cn.sessions == 0 {
		c.drop(cn)
	}
}
