package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// maxTail is how much of a command's output is kept, in bytes.
	maxTail = 2 << 10
	// maxStderr is how much of a gate's standard error is kept, in bytes.
	maxStderr = 4 << 10
	// maxNoise is how much of it is taken, in bytes: a host that goes on is hung up
	// on, else it would cost us as much as it likes for as long as we wait.
	maxNoise = 1 << 20
	// linger is how long output is waited for after the exit status: a daemon
	// that the command left behind may hold it open for ever.
	linger = time.Second
)

// exchange is one session: a command, its input, its output and its end.
type exchange struct {
	command string
	input   []byte
	limit   int // of stdout, in bytes; more is an error
	stdout  *tail
	stderr  *tail // may be the same

	phase atomic.Value // Phase
	sent  atomic.Bool
	open  chan struct{} // closed when the session is open, or cannot be

	// the result
	status int    // exit status
	signal string // that ended the command; "" for none
	exited bool   // status or signal is known
	noisy  atomic.Bool
}

// run makes the exchange on cn, on a session that acquire took, and gives the
// session back. It returns as soon as ctx ends, whatever the peer does. again
// says that nothing was sent and another session may do better.
func (cn *conn) run(ctx context.Context, x *exchange, openTimeout time.Duration) (again bool, fault *Error) {
	c, g := cn.client, cn.group
	x.phase.Store(PhaseSession)
	x.open = make(chan struct{})
	inner, cancel := context.WithCancel(ctx)
	defer cancel() // closes the channel where it is still open
	done := make(chan error, 1)
	c.wg.Go(func() { done <- x.perform(inner, cn) })

	late := time.NewTimer(openTimeout)
	defer late.Stop()
	select {
	case <-x.open:
	case <-ctx.Done():
	case <-late.C:
		c.abandon(cn, true)
		return false, g.fail(PhaseSession, KindTimeout, "", errors.New("connected, but the host opens no session"))
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done: // it was through at the same moment
		default:
			err = ctx.Err()
		}
	}
	if err == nil {
		c.finish(cn)
		return false, nil
	}

	phase := x.phase.Load().(Phase)
	defer func() { fault.Sent = x.sent.Load() }()
	if ctx.Err() != nil {
		c.abandon(cn, false)
		return false, gaveUp(ctx, g, phase, "no answer to the request")
	}
	if refused, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
		err := fmt.Errorf("the host opens no further session: %s", quoted(refused.Message, 100))
		return c.full(cn), g.fail(phase, KindNoSession, "does MaxSessions of sshd there allow a session", err)
	}
	if x.noisy.Load() {
		err = errNoise
	}
	switch err {
	case errNoise:
		c.abandon(cn, true)
		return false, g.fail(phase, KindTooLong, gateHint, err)
	case errTooLong:
		c.abandon(cn, false)
		return false, g.fail(phase, KindTooLong, gateHint, fmt.Errorf("the reply is over %d bytes", x.limit))
	case errExec:
		c.abandon(cn, false)
		return false, g.fail(phase, KindNoSession, "see the log of sshd there", err)
	}
	select {
	case <-cn.ended:
		err = fmt.Errorf("the connection was lost: %w", printable(cn.cause))
	case <-time.After(100 * time.Millisecond): // its end comes microseconds after that of its channels
	}
	used := c.abandon(cn, false)
	if errors.Is(context.Cause(c.base), errClosed) {
		return false, g.fail(phase, KindClosed, "", errClosed)
	}
	// A connection that had served may have died while it was idle.
	return used && !x.sent.Load(), g.fail(phase, KindLost, "", printable(err))
}

var (
	errExec     = errors.New("the host does not run the command")
	errTooLong  = errors.New("too long")
	errNoise    = fmt.Errorf("the host writes over %d bytes to standard error", maxNoise)
	errNoStatus = errors.New("the host ended the session without an exit status")
)

// perform is the exchange itself. When ctx ends it closes the channel; where
// the peer does not answer that, it ends with the connection.
func (x *exchange) perform(ctx context.Context, cn *conn) error {
	ch, reqs, err := cn.ssh.OpenChannel("session", nil)
	close(x.open)
	if err != nil {
		return err
	}
	defer ch.Close() // nothing, where both sides have closed
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()

	var streams sync.WaitGroup
	streams.Go(func() { x.follow(ch, reqs) })
	streams.Go(func() { x.heed(cn, ch.Stderr()) })

	if x.input == nil {
		x.sent.Store(true) // the command is the request
		x.phase.Store(PhaseRequest)
	}
	ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{x.command}))
	if err != nil {
		return err
	}
	if !ok {
		return errExec
	}
	if x.input != nil {
		x.phase.Store(PhaseRequest)
		x.sent.Store(true)
		// A gate that refuses ends without reading: what it says counts.
		if _, err = ch.Write(x.input); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	_ = ch.CloseWrite() // fails only where the peer has closed: the reply counts

	var from io.Reader = ch
	if x.limit > 0 {
		from = io.LimitReader(ch, int64(x.limit)+1)
	}
	n, err := io.Copy(x.stdout, from)
	if err != nil {
		return err
	}
	if x.limit > 0 && n > int64(x.limit) {
		return errTooLong
	}
	streams.Wait()
	switch {
	case !stop(): // the channel was closed by us, and what ended the command is that
		return ctx.Err()
	case !x.exited:
		return errNoStatus
	}
	return nil
}

// heed keeps the end of the standard error, up to that of the channel. A fixed
// command may say as much as it likes there, a gate has no reason to.
func (x *exchange) heed(cn *conn, stderr io.Reader) {
	if x.limit == 0 {
		_, _ = io.Copy(x.stderr, stderr) // a tail takes all
		return
	}
	if n, _ := io.Copy(x.stderr, io.LimitReader(stderr, maxNoise+1)); n > maxNoise {
		x.noisy.Store(true)
		cn.ssh.Close()
	}
}

// follow notes how the command ended. Output that somebody else holds open is
// waited for a little and then let go.
func (x *exchange) follow(ch ssh.Channel, reqs <-chan *ssh.Request) {
	letGo := time.AfterFunc(linger, func() { ch.Close() })
	letGo.Stop()
	defer letGo.Stop()
	leaving := false
	for r := range reqs {
		switch r.Type {
		case "exit-status":
			if len(r.Payload) == 4 {
				x.exited, x.status = true, int(binary.BigEndian.Uint32(r.Payload))
			}
		case "exit-signal":
			var m struct {
				Signal     string
				CoreDumped bool
				Message    string
				Language   string
			}
			if ssh.Unmarshal(r.Payload, &m) == nil {
				x.exited, x.signal = true, m.Signal
			}
		}
		if r.WantReply {
			_ = r.Reply(false, nil) // fails only with the connection
		}
		if x.exited && !leaving { // once: a host could go on for ever with requests
			leaving = true
			letGo.Reset(linger)
		}
	}
}

// finish gives back the session of an exchange that is through.
func (c *Client) finish(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release(cn)
}

// abandon gives back a session that may go on at the host: nothing new goes
// over that connection, and it is closed with its last session, or now. It
// reports whether the connection had served before.
func (c *Client) abandon(cn *conn, now bool) (served bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	served, cn.draining = cn.served, true
	if now {
		c.drop(cn)
	}
	c.release(cn)
	return served
}

// full learns from a session that was turned down how many the host takes, and
// reports whether it is worth asking again.
func (c *Client) full(cn *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := cn.sessions > 1 || cn.served
	if cn.sessions > 1 {
		cn.group.sessions = min(cn.group.sessions, cn.sessions-1)
	} else {
		c.drop(cn)
	}
	cn.sessions--
	c.settle(cn.group)
	return again
}

// tail keeps the last bytes of what is written to it, all writers' together.
type tail struct {
	mu   sync.Mutex
	keep int
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[max(0, len(p)-t.keep):]...)
	if over := len(t.text) - t.keep; over > 0 {
		t.text = t.text[:copy(t.text, t.text[over:])]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// quoted is text from a host, fit for a message: printable ASCII on one line.
func quoted(text string, most int) string {
	text = strings.TrimSpace(text)
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strconv.QuoteToASCII(text)
}

// printable is err where its text is short printable ASCII, else its text
// quoted: it may hold a peer's words.
func printable(err error) error {
	text := err.Error()
	if len(text) > 300 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return errors.New(quoted(text, 300))
	}
	return err
}
