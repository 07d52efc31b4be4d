package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// group is what all requests share that may share a connection.
type group struct {
	route
	endpoint string // "address:port"
	signer   ssh.Signer
	pins     []Pin
	phase    atomic.Value // Phase of the dial under way

	// under client.mu
	conns   []*conn
	waiters []*waiter // oldest first
	dialing bool
	queued  bool
	limit   int // connections at once
	// sessions at once on a connection: ours to begin with, less where the host
	// takes fewer.
	sessions int
}

// route tells groups apart.
type route struct {
	address  string
	port     int
	user     string
	identity string // key file
	keys     string // the host keys that will do
}

// waiter is a request that waits for a session.
type waiter struct {
	got     chan grant // buffered: given under client.mu, never blocking
	timeout time.Duration
}

type grant struct {
	conn *conn
	err  *Error
}

// pool is the state of all connections: every change ends in settle.
type pool struct {
	mu     sync.Mutex
	closed bool
	groups map[route]*group
	queue  []*group       // those that want one more connection, oldest first
	open   int            // connections and dials
	per    map[string]int // the same by endpoint
	idle   []*conn        // longest idle first
}

// acquire takes a session on a connection to g, dialing where needed.
func (c *Client) acquire(ctx context.Context, r route, create func() *group, timeout time.Duration) (*conn, *Error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, &Error{Kind: KindClosed, Err: errClosed}
	}
	g := c.groups[r]
	if g == nil {
		g = create()
		c.groups[r] = g
	}
	w := &waiter{got: make(chan grant, 1), timeout: timeout}
	g.waiters = append(g.waiters, w)
	c.settle(g)
	c.mu.Unlock()

	select {
	case got := <-w.got:
		return got.conn, got.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(g.waiters, w); i >= 0 {
		g.waiters = slices.Delete(g.waiters, i, i+1)
		phase, what := PhaseSession, "all sessions with the host are in use"
		if len(g.conns) == 0 {
			phase, what = PhaseConnect, "too many hosts at once"
			if g.dialing {
				phase, what = g.phase.Load().(Phase), "no answer from the host"
			}
		}
		c.settle(g)
		return nil, gaveUp(ctx, g, phase, what)
	}
	got := <-w.got
	if got.conn != nil {
		c.release(got.conn)
	}
	if got.err != nil {
		return nil, got.err
	}
	return nil, gaveUp(ctx, g, PhaseSession, "connected too late")
}

// gaveUp says that the caller's context ended a request.
func gaveUp(ctx context.Context, g *group, phase Phase, what string) *Error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return g.fail(phase, KindTimeout, "", fmt.Errorf("time is up: %s", what))
	}
	return g.fail(phase, KindCanceled, "", context.Cause(ctx))
}

// settle hands free sessions to those who wait, oldest first, and asks for one
// more connection where that does not do. c.mu is held.
func (c *Client) settle(g *group) {
	for len(g.waiters) > 0 {
		cn := g.free()
		if cn == nil {
			break
		}
		w := g.waiters[0]
		g.waiters = g.waiters[1:]
		if cn.sessions == 0 {
			cn.timer.Stop()
			c.idle = slices.DeleteFunc(c.idle, func(o *conn) bool { return o == cn })
		}
		cn.sessions++
		w.got <- grant{conn: cn}
	}
	if len(g.conns) == 0 {
		g.limit = c.cfg.MaxPerHost
	}
	if len(g.waiters) > 0 && !g.dialing && !g.queued && len(g.conns) < g.limit {
		g.queued = true
		c.queue = append(c.queue, g)
	}
	c.dialNext()
	if len(g.waiters) == 0 && len(g.conns) == 0 && !g.dialing && !g.queued && c.groups[g.route] == g {
		delete(c.groups, g.route)
	}
}

func (g *group) free() *conn {
	for _, cn := range g.conns {
		if !cn.draining && cn.sessions < g.sessions {
			return cn
		}
	}
	return nil
}

// dialNext begins the dials that the limits let through; an idle connection
// makes room for one that is wanted. c.mu is held.
func (c *Client) dialNext() {
	for i := 0; i < len(c.queue); {
		g := c.queue[i]
		if len(g.waiters) > 0 && !c.room(g.endpoint) {
			if c.open >= c.cfg.MaxHosts && len(c.idle) == 0 {
				return // full: nobody behind fits either
			}
			i++
			continue
		}
		c.queue = slices.Delete(c.queue, i, i+1)
		g.queued = false
		if len(g.waiters) == 0 {
			if len(g.conns) == 0 && c.groups[g.route] == g {
				delete(c.groups, g.route)
			}
			continue
		}
		g.dialing = true
		g.phase.Store(PhaseConnect)
		c.open++
		c.per[g.endpoint]++
		timeout := g.waiters[0].timeout
		c.wg.Go(func() { c.dial(g, timeout) })
	}
}

func (c *Client) room(endpoint string) bool {
	if c.per[endpoint] >= c.cfg.MaxPerHost {
		i := slices.IndexFunc(c.idle, func(cn *conn) bool { return cn.group.endpoint == endpoint })
		if i < 0 {
			return false
		}
		c.drop(c.idle[i])
	}
	if c.open >= c.cfg.MaxHosts {
		if len(c.idle) == 0 {
			return false
		}
		c.drop(c.idle[0])
	}
	return true
}

// dial makes a connection for g and hands out its sessions, or its failure to
// all who wait for it.
func (c *Client) dial(g *group, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(c.base, timeout)
	defer cancel()
	cn, err := c.connect(ctx, g)

	c.mu.Lock()
	defer c.mu.Unlock()
	g.dialing = false
	switch {
	case err != nil:
		c.leave(g.endpoint)
		g.limit = len(g.conns) // where there are some, the host takes no more
		if len(g.conns) == 0 {
			for _, w := range g.waiters {
				w.got <- grant{err: err}
			}
			g.waiters = nil
		}
	case c.closed:
		c.leave(g.endpoint)
		cn.gone = true
		cn.begin()
		c.wg.Go(func() { cn.ssh.Close() })
	default:
		g.conns = append(g.conns, cn)
		c.idle = append(c.idle, cn)
		cn.timer = time.AfterFunc(c.cfg.Idle, cn.expire)
		cn.begin()
	}
	c.settle(g)
}

// release gives a session back. c.mu is held.
func (c *Client) release(cn *conn) {
	cn.sessions--
	cn.served = true
	if cn.sessions == 0 && !cn.gone {
		if cn.draining {
			c.drop(cn)
		} else {
			c.idle = append(c.idle, cn)
			cn.timer.Reset(c.cfg.Idle)
		}
	}
	c.settle(cn.group)
}

// drop takes a connection out of the pool and closes it. c.mu is held; the
// close is not waited for, since it may have to write.
func (c *Client) drop(cn *conn) {
	if cn.gone {
		return
	}
	cn.gone, cn.draining = true, true
	cn.timer.Stop()
	same := func(o *conn) bool { return o == cn }
	c.idle = slices.DeleteFunc(c.idle, same)
	cn.group.conns = slices.DeleteFunc(cn.group.conns, same)
	c.leave(cn.group.endpoint)
	c.wg.Go(func() { cn.ssh.Close() })
}

func (c *Client) leave(endpoint string) {
	c.open--
	if c.per[endpoint]--; c.per[endpoint] == 0 {
		delete(c.per, endpoint)
	}
}
