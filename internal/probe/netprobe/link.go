package netprobe

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"

	"kido/internal/probe"
)

// maxTalk is how many bytes a server may send over a link; one that is well sends a
// few thousand.
const maxTalk = 1 << 20

const maxHead = 8 // bytes of its beginning that are kept

var (
	errTalk   = errors.New("it sent more than 1 MiB")
	errSecond = errors.New("a try has one connection")
)

// link is the one connection of a try, for a library that takes one that is there. It
// ends with its context, whatever deadlines the library sets, and is not read beyond
// maxTalk. What went wrong on it is kept, for libraries make text of it.
type link struct {
	ctx      context.Context
	spec     probe.Spec
	protocol string // its name for people

	net.Conn // what is spoken on, TLS or not; nil before there is a connection
	raw      net.Conn
	stop     func() bool

	mu             sync.Mutex // libraries read and write in goroutines of their own
	left           int        // of maxTalk
	head           []byte     // with which the server began
	reading, wrote error      // the first of each
	understood     bool
}

// open connects to the target, and speaks TLS where the option tls is yes.
func (l *link) open() error {
	if err := l.dial(); err != nil {
		return err
	}
	if l.spec.Options["tls"] == "yes" {
		return l.secure()
	}
	return nil
}

// dial connects to the target, once: some libraries like to ask on a second connection
// whether the first one may stop.
func (l *link) dial() error {
	if l.raw != nil {
		return errSecond
	}
	dialer := net.Dialer{KeepAlive: -1}
	raw, err := dialer.DialContext(l.ctx, "tcp", l.spec.Target)
	if err != nil {
		return err
	}
	l.Conn, l.raw, l.left = raw, raw, maxTalk
	l.stop = context.AfterFunc(l.ctx, func() { raw.Close() })
	return nil
}

// secure speaks TLS from here on.
func (l *link) secure() error {
	config, err := l.tlsConfig()
	if err != nil {
		return err
	}
	c := tls.Client(l.raw, config)
	l.Conn = c
	return c.HandshakeContext(l.ctx)
}

func (l *link) tlsConfig() (*tls.Config, error) {
	host, _, err := net.SplitHostPort(l.spec.Target)
	if err != nil {
		return nil, err
	}
	return tlsConfig(l.spec, host)
}

func (l *link) Read(b []byte) (int, error) {
	n, err := 0, errTalk
	if left := l.budget(); left > 0 {
		n, err = l.Conn.Read(b[:min(len(b), left)])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left -= n
	l.head = append(l.head, b[:min(n, maxHead-len(l.head))]...)
	if l.reading == nil {
		l.reading = err
	}
	return n, err
}

func (l *link) budget() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left
}

func (l *link) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	if err == nil {
		return n, nil
	}
	l.mu.Lock()
	if l.wrote == nil {
		l.wrote = err
	}
	l.mu.Unlock()
	if _, inTLS := l.Conn.(*tls.Conn); inTLS {
		_, _ = l.Read(make([]byte, 1)) // why it hung up has come before, to who reads
	}
	return n, err
}

// begin is how the server began, as far as that has come.
func (l *link) begin() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// understand tells that the server has said something in its protocol.
func (l *link) understand() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.understood = true
}

// Close ends the connection, at once where its context is over.
func (l *link) Close() error {
	if l.raw == nil {
		return nil
	}
	err := l.Conn.Close()
	l.stop()
	l.raw.Close()
	return err
}

// why puts into words what went wrong on the way, of which err is the library's opinion.
// What the server itself said is the driver's to tell.
func (l *link) why(err error) probe.Answer {
	if l.raw == nil {
		return why(l.ctx, l.spec, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, broke := range []error{l.wrote, l.reading} {
		if broke != nil && !errors.Is(broke, net.ErrClosed) {
			err = broke
		}
	}
	switch inTLS := strings.Contains(err.Error(), "tls: "); { // as all of crypto/tls says
	case errors.Is(l.ctx.Err(), context.Canceled):
		return l.spec.Why(l.ctx, err)
	case len(l.head) > 0 && !l.understood && err == errTalk:
		return probe.NotReady("%v: %v", foreign(l.protocol, l.head), err)
	case len(l.head) > 0 && !l.understood && !inTLS:
		return probe.NotReady("%v", foreign(l.protocol, l.head))
	case l.ctx.Err() == nil && l.understood && hungUp(err):
		return probe.NotReady("connected, but: it closed the connection in the middle")
	case l.ctx.Err() == nil && l.understood && !inTLS:
		return probe.NotReady("connected, but: %v", err)
	}
	return whyConnected(l.ctx, l.spec, err)
}

// hungUp reports whether the server closed the connection.
func (l *link) hungUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctx.Err() == nil && hungUp(l.reading)
}

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// foreign is of an answer that is not in the protocol that was spoken, by how it begins.
func foreign(protocol string, head []byte) error {
	if len(head) > 1 && head[0] == 0x15 && head[1] == 3 { // an alert
		return errors.New("answered in TLS: say tls")
	}
	return errors.New("answered, but not in " + protocol)
}
