// Package remote carries requests to gates, and starts the one command of a
// plain key, over SSH.
//
// What it promises. A host is spoken to only when it has shown a pinned key
// (see [Pins]); before that nothing of ours is sent, and a host without a pin
// is not even connected to. There is no trust on first use. Every phase ends:
// connecting within the caller's time for it, everything else with the
// caller's context, and a connection whose peer no longer answers is closed.
// A failure is an [*Error] that says how far it came and whether the request
// may have arrived; nothing that may have arrived is sent twice. What a hostile
// host answers is bounded in size and never part of a message unquoted.
//
// Requests to one host share a connection, a session each, and more
// connections are made only when its sessions are in use. One dial at a time
// goes to a host; what a full sshd drops before authentication is tried again.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"kido/internal/site"
	"kido/internal/wire"
)

// Config is what a Client needs. Zero numbers take their defaults.
type Config struct {
	Identity string // private key file, for all but the targets with one of their own; may be empty
	HostKeys *Pins

	MaxHosts   int           // connections at once, over all hosts; default 256
	MaxPerHost int           // connections at once to one address and port; default 8
	Sessions   int           // sessions at once on a connection; default 8 (sshd's MaxSessions is 10)
	Idle       time.Duration // how long an unused connection is kept; default 5 s

	// A connection is asked for a sign of life every KeepaliveInterval
	// (default 15 s) and closed without one in KeepaliveTimeout (default 15 s).
	KeepaliveInterval, KeepaliveTimeout time.Duration

	// Logf, where set, is told of what is tried again.
	Logf func(format string, args ...any)
}

// DefaultConnectTimeout is the time for connecting where a call gives none.
const DefaultConnectTimeout = 10 * time.Second

// Client is a set of connections. It may be used by many goroutines.
type Client struct {
	cfg  Config
	base context.Context // ends with Close
	stop context.CancelCauseFunc
	wg   sync.WaitGroup // all goroutines, and all calls
	pool

	known sync.Mutex
	ids   map[string]ssh.Signer // by file
	pins  map[pinKey]pinSet
}

type pinKey struct {
	name, address string
	port          int
}

type pinSet struct {
	pins    []Pin
	revoked *Pin
	id      string // equal for equal sets
}

var errClosed = errors.New("the client was closed")

// New checks the identity and returns a Client; nothing is connected yet.
func New(cfg Config) (*Client, error) {
	if cfg.HostKeys == nil {
		return nil, errors.New("remote: no pinned host keys were given")
	}
	for _, n := range []struct {
		value    *int
		standard int
	}{{&cfg.MaxHosts, 256}, {&cfg.MaxPerHost, 8}, {&cfg.Sessions, 8}} {
		if *n.value <= 0 {
			*n.value = n.standard
		}
	}
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&cfg.Idle, 5 * time.Second}, {&cfg.KeepaliveInterval, 15 * time.Second}, {&cfg.KeepaliveTimeout, 15 * time.Second}} {
		if *d.value <= 0 {
			*d.value = d.standard
		}
	}
	c := &Client{cfg: cfg, ids: map[string]ssh.Signer{}, pins: map[pinKey]pinSet{}}
	c.groups, c.per = map[route]*group{}, map[string]int{}
	c.base, c.stop = context.WithCancelCause(context.Background())
	if cfg.Identity != "" {
		if _, err := c.identity(cfg.Identity); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Close ends all connections and all calls under way, and waits for them.
func (c *Client) Close() error {
	c.stop(errClosed)
	c.mu.Lock()
	c.closed = true
	for _, g := range c.groups {
		for _, w := range g.waiters {
			w.got <- grant{err: g.fail(PhaseConnect, KindClosed, "", errClosed)}
		}
		g.waiters = nil
		for len(g.conns) > 0 {
			c.drop(g.conns[0])
		}
	}
	c.queue = nil
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// Call sends one request to the gate at host h, on a session of its own, and
// returns its reply. connectTimeout bounds the connecting as a whole (TCP, host
// key, our key, tries), 0 is [DefaultConnectTimeout]; ctx bounds everything.
// Errors are of type [*Error].
func (c *Client) Call(ctx context.Context, h *site.Host, q wire.Request, connectTimeout time.Duration) (wire.Reply, error) {
	t := Target{Name: h.Name, Address: h.Address, Port: h.Port, User: h.User}
	input := q.Format()
	if len(input) > wire.MaxRequest {
		return wire.Reply{}, t.named(&Error{Phase: PhaseRequest, Kind: KindTooLong, Err: fmt.Errorf("the request has %d bytes, a gate takes %d", len(input), wire.MaxRequest)})
	}
	x, fault := c.exchange(ctx, t, connectTimeout, func() *exchange {
		return &exchange{
			command: wire.Command, input: input, limit: wire.MaxReply,
			stdout: &tail{keep: wire.MaxReply}, stderr: &tail{keep: maxStderr},
		}
	})
	if fault != nil {
		return wire.Reply{}, t.named(fault)
	}
	reply, fault := gateReply(x)
	if fault != nil {
		fault.Phase, fault.Sent = PhaseRequest, true
		return wire.Reply{}, t.named(fault)
	}
	return reply, nil
}

const gateHint = `is the key locked to kido-gate there: command="…/kido-gate"`

// gateReply reads what came back from a session as a gate's reply. The reply
// rules; how the command ended only explains why there is none.
func gateReply(x *exchange) (wire.Reply, *Error) {
	stdout, stderr := x.stdout.String(), x.stderr.String()
	reply, err := wire.ParseReply([]byte(stdout))
	if err == nil {
		return presentable(reply), nil
	}
	switch {
	case notLocked(x.status, stderr, wire.Command):
		return reply, notLockedError()
	case stdout == "" && (x.signal != "" || x.status > 128 && x.status < 160):
		// 128+n is how a shell between sshd and the gate puts it.
		how := "signal " + wire.Quote(x.signal)
		if x.signal == "" {
			how = fmt.Sprintf("signal %d", x.status-128)
		}
		return reply, &Error{Kind: KindLost, Err: fmt.Errorf("the gate was ended by %s", how)}
	case stdout == "":
		text := fmt.Sprintf("no reply: the command ended with status %d", x.status)
		if stderr != "" {
			text += " and said " + quoted(stderr, 400)
		}
		return reply, &Error{Kind: KindNoGate, Err: errors.New(text), Hint: gateHint}
	}
	return reply, &Error{Kind: KindNoGate, Err: fmt.Errorf("not a gate's reply: %w; it begins %s", printable(err), quoted(stdout, 80)), Hint: gateHint}
}

// presentable is a reply whose words can be shown: what moves a cursor or hides text
// is written as Go escapes, so that no place where they are shown can forget to.
// Only an output may have more lines than one. They go to a journal with each try,
// so what is longer than a gate makes them is cut.
func presentable(r wire.Reply) wire.Reply {
	const word, output = 1100, 2100
	fit := func(s string) string {
		if len(s) > word {
			s = s[:word] + "…"
		}
		return escaped(s, "")
	}
	if over := len(r.Output) - output; over > 0 {
		r.Output = "…" + r.Output[over:]
	}
	r.Word, r.Output = fit(r.Word), escaped(r.Output, "\n\t")
	if r.Status != nil {
		s := *r.Status
		s.Word = fit(s.Word)
		r.Status = &s
	}
	return r
}

func escaped(text, but string) string {
	var b strings.Builder
	for text != "" {
		r, size := utf8.DecodeRuneInString(text)
		piece := text[:size]
		switch {
		case r == utf8.RuneError && size == 1:
			piece = fmt.Sprintf(`\x%02x`, text[0])
		case !unicode.IsPrint(r) && !strings.ContainsRune(but, r):
			quoted := strconv.QuoteRuneToASCII(r)
			piece = quoted[1 : len(quoted)-1]
		}
		b.WriteString(piece)
		text = text[size:]
	}
	return b.String()
}

// Target is where a plain key leads.
type Target struct {
	Name    string // of the host in the site, for its pin and for messages
	Address string
	Port    int    // 0: 22
	User    string // "": root
	Key     string // private key file; "": the client's identity
}

// plainCommand is what a plain target is asked to run: the forced command
// takes its place. It is no command anywhere, so that a key which is not
// locked does nothing and gives itself away.
const plainCommand = "kido-plain/1"

// Plain runs the single command that the key is locked to and returns its exit
// status and the last 2 KiB of its output, both streams together, raw. A
// status other than 0 is no error here. A daemon that the command leaves behind
// does not hold it up. connectTimeout and ctx are as for [Client.Call]; errors
// are of type [*Error].
func (c *Client) Plain(ctx context.Context, t Target, connectTimeout time.Duration) (exit int, output string, err error) {
	if t.User == "" {
		t.User = "root"
	}
	x, fault := c.exchange(ctx, t, connectTimeout, func() *exchange {
		out := &tail{keep: maxTail}
		return &exchange{command: plainCommand, stdout: out, stderr: out}
	})
	if fault != nil {
		return 0, "", t.named(fault)
	}
	output = x.stdout.String()
	switch {
	case notLocked(x.status, output, plainCommand):
		fault = notLockedError()
	case x.signal != "":
		fault = &Error{Kind: KindLost, Err: fmt.Errorf("the command was ended by signal %s", wire.Quote(x.signal))}
	default:
		return x.status, output, nil
	}
	fault.Phase, fault.Sent = PhaseRequest, true
	return 0, output, t.named(fault)
}

func notLockedError() *Error {
	return &Error{
		Kind: KindNotLocked,
		Err:  errors.New("this key is not locked: the host ran a shell with it"),
		Hint: `put restrict,command="…" in front of the key in that host's key file now: who has the key can run anything there`,
	}
}

// notLocked reports whether a shell answered that it knows no such command.
func notLocked(status int, said, command string) bool {
	return (status == 126 || status == 127) && strings.Contains(said, command)
}

// Login shows a target the key and asks it for nothing: without an error, it has
// taken the key, and run nothing. connectTimeout and ctx are as for [Client.Call];
// errors are of type [*Error].
func (c *Client) Login(ctx context.Context, t Target, connectTimeout time.Duration) error {
	if t.User == "" {
		t.User = "root"
	}
	if _, fault := c.exchange(ctx, t, connectTimeout, func() *exchange { return nil }); fault != nil {
		return t.named(fault)
	}
	return nil
}

// exchange finds a connection to t and makes the exchange; while nothing was
// sent it tries again on another connection where that may help. Where create
// makes none, the connection is all that was wanted.
func (c *Client) exchange(ctx context.Context, t Target, connectTimeout time.Duration, create func() *exchange) (*exchange, *Error) {
	if connectTimeout <= 0 {
		connectTimeout = DefaultConnectTimeout
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, &Error{Kind: KindClosed, Err: errClosed}
	}
	c.wg.Add(1) // before Close can wait
	c.mu.Unlock()
	defer c.wg.Done()

	if t.Port == 0 {
		t.Port = 22
	}
	if t.Key == "" {
		t.Key = c.cfg.Identity
	}
	signer, err := c.identity(t.Key)
	if err != nil {
		e, _ := errors.AsType[*Error](err)
		return nil, e
	}
	pins := c.pinned(t)
	if len(pins.pins) == 0 {
		return nil, c.cfg.HostKeys.unknown(t, pins.revoked)
	}
	r := route{address: t.Address, port: t.Port, user: t.User, identity: t.Key, keys: pins.id}
	join := func() *group {
		return &group{route: r, endpoint: t.endpoint(), signer: signer, pins: pins.pins, sessions: c.cfg.Sessions}
	}
	for try := 1; ; try++ {
		cn, fault := c.acquire(ctx, r, join, connectTimeout)
		if fault != nil {
			return nil, fault
		}
		x := create()
		if x == nil {
			c.mu.Lock()
			c.release(cn)
			c.mu.Unlock()
			return nil, nil
		}
		again, fault := cn.run(ctx, x, connectTimeout)
		if fault == nil {
			return x, nil
		}
		if !again || try == maxTries {
			return nil, fault
		}
		c.logf("%s: %v; trying again on another session", t.endpoint(), fault.Err)
	}
}

// maxTries bounds how often a request that was not sent changes connection or
// waits for a session: as often as the host can take sessions away.
const maxTries = 16

// identity loads a key file once.
func (c *Client) identity(file string) (ssh.Signer, error) {
	if file == "" {
		return nil, &Error{Kind: KindIdentity, Err: errors.New("no private key is given"), Hint: "name one in the site file"}
	}
	c.known.Lock()
	defer c.known.Unlock()
	if s := c.ids[file]; s != nil {
		return s, nil
	}
	s, err := LoadIdentity(file)
	if err == nil {
		c.ids[file] = s
	}
	return s, err
}

// pinned looks a target's keys up once.
func (c *Client) pinned(t Target) pinSet {
	key := pinKey{t.Name, t.Address, t.Port}
	c.known.Lock()
	defer c.known.Unlock()
	set, ok := c.pins[key]
	if !ok {
		set.pins, set.revoked = c.cfg.HostKeys.lookup(t.Name, t.Address, t.Port)
		for _, p := range set.pins {
			set.id += p.Fingerprint() + " "
		}
		c.pins[key] = set
	}
	return set
}

func (c *Client) logf(format string, args ...any) {
	if c.cfg.Logf != nil {
		c.cfg.Logf(format, args...)
	}
}

func (t Target) endpoint() string {
	port := t.Port
	if port == 0 {
		port = 22
	}
	return net.JoinHostPort(t.Address, strconv.Itoa(port))
}

// named puts the target into a failure that may be shared by several.
func (t Target) named(e *Error) *Error {
	named := *e
	if named.Kind != KindIdentity {
		named.Host, named.Address = t.Name, t.endpoint()
		if named.Host == "" {
			named.Host = t.Address
		}
	}
	return &named
}
