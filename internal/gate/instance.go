package gate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"syscall"
	"time"

	"kido/internal/failpoint"
	"kido/internal/initsys"
	"kido/internal/wire"
)

const (
	// lockWait is how long a request waits for another one to be done with the
	// instance before it answers busy.
	lockWait = 5 * time.Second
	// settleTime is how long an instance may take, after its init script has
	// returned, to show what it has become: a daemon that forks writes its pid
	// file late.
	settleTime = 10 * time.Second
	// failedTime is the same where init has reported a failure: few come up
	// after that, and the next request finds out about those.
	failedTime = time.Second
)

// Instance performs the effects of [Machine] for one instance.
type Instance struct {
	Name  string // "web@web1"
	Key   string // file name stem in Dir: the service's name
	Unit  initsys.Unit
	Ask   func(context.Context, Ask) Asked                          // one try of all probes of what was seen; nil: up is ready
	Count func(context.Context, []wire.Life) (stale int, err error) // the connections from before; nil: they cannot be counted
	Dir   *os.Root                                                  // holds KEY.state, KEY.lock and KEY.wait
	// Timeout bounds one init job; a request may only ask for less.
	Timeout time.Duration
}

// Do carries out one request and returns the reply. The lock is released
// before it returns, so that a caller who does not read its reply holds up
// nobody. ctx ends waiting, not what init has begun.
func (i *Instance) Do(ctx context.Context, q wire.Request) wire.Reply {
	timeout := i.Timeout
	if q.Timeout > 0 && q.Timeout < timeout {
		timeout = q.Timeout
	}
	p := i.performer(timeout)
	defer p.close()
	m, effect := NewMachine(i.Name, q).Step(Begin{})
	for {
		if answer, ok := effect.(Answer); ok {
			return answer.Reply
		}
		failpoint.HitAt("gate.before", effect)
		ev := p.perform(ctx, effect)
		failpoint.HitAt("gate.after", effect)
		m, effect = m.Step(ev)
	}
}

// performer readies one for a request; close gives back what it has taken.
func (i *Instance) performer(timeout time.Duration) *performer {
	return &performer{Instance: i, timeout: timeout, file: file{dir: i.Dir, name: i.Key + ".state", lock: i.Key + ".lock"}}
}

// performer holds what one request has open.
type performer struct {
	*Instance
	timeout time.Duration
	file    file
	job     initsys.Job
	failed  bool // init said so of the job
}

func (p *performer) close() {
	if p.job != nil {
		p.job.Close()
	}
	p.file.release()
}

func (p *performer) perform(ctx context.Context, effect Effect) Event {
	switch e := effect.(type) {
	case Lock:
		return p.acquire(ctx)
	case Load:
		return p.load()
	case See:
		look := p.see(ctx)
		working := look.State == wire.StateBusy
		if e.Child != nil && !working {
			alive, err := e.Child.Alive()
			working = alive || err != nil
		}
		return Looked{Look: look, Waiting: working}
	case Unlock:
		p.file.release()
		return Unlocked{}
	case Idle:
		ctx, cancel := context.WithTimeout(ctx, p.timeout)
		defer cancel()
		return p.idle(ctx, e.Child)
	case Ask:
		if p.Ask == nil {
			return Asked{Ready: true}
		}
		return p.Ask(ctx, e)
	case Count:
		if p.Count == nil {
			return Counted{Err: "nobody counts them here"}
		}
		stale, err := p.Count(ctx, e.Lives)
		return Counted{stale, message(err)}
	case Save:
		return Stored{message(p.file.save(e.Record.Format(), e.Aside))}
	case Prepare:
		job, err := p.Unit.Prepare(ctx, e.Do)
		if err != nil {
			return Prepared{Err: err.Error(), Unsupported: errors.Is(err, initsys.ErrUnsupported)}
		}
		p.job = job
		boot, _ := initsys.BootID() // where it cannot be told, a waiter takes the intent for an old one
		if child, ok := job.Child(); ok {
			return Prepared{Child: &child, Boot: boot}
		}
		return Prepared{Boot: boot}
	case Go:
		return Gone{message(p.job.Go())}
	case Await:
		ctx, cancel := context.WithTimeout(ctx, p.timeout)
		defer cancel()
		err := p.job.Wait(ctx)
		p.failed = err != nil
		return Ended{Err: message(err), Running: err != nil && ctx.Err() != nil, Output: p.job.Output()}
	case Settle:
		limit := settleTime
		switch {
		case e.Released:
			limit = p.timeout
		case p.failed:
			limit = failedTime
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return Looked{Look: p.until(ctx, p.settled(e))}
	}
	panic(fmt.Sprintf("gate: effect %T has no performer", effect)) // a hole in this switch, not bad input
}

// settled is what a Settle waits for.
func (p *performer) settled(e Settle) func(Look) bool {
	var idle time.Time // since when no start is under way
	return func(l Look) bool {
		switch {
		case l.State == wire.StateBlind:
			return true
		case e.Released && l.State == wire.StateFailed:
			return true
		case e.Released && l.State == wire.StateDown && !l.Held:
			// Between the waiter's end and the service's start a script's init shows
			// nothing; one that has jobs shows that this one was called off.
			if idle.IsZero() {
				idle = time.Now()
			}
			return p.jobs() || time.Since(idle) > settleTime
		}
		idle = time.Time{}
		return l.State != wire.StateBusy && e.Up == l.up() && (e.Up || l.State != wire.StateUp)
	}
}

// jobs reports whether the unit's init shows a start that it has begun, or is
// about to begin, as a job.
func (p *performer) jobs() bool {
	_, tells := p.Unit.(initsys.Watcher)
	return tells
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (p *performer) acquire(ctx context.Context) Event {
	ok, err := p.file.acquire(ctx)
	return Locked{OK: ok, Err: message(err)}
}

func (p *performer) load() Event {
	now := present()
	text, err := p.file.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Loaded{Record: Record{Instance: p.Name}, Now: now}
	case errors.Is(err, errTooBig):
		return Loaded{Unreadable: err.Error(), Now: now}
	case err != nil:
		return Loaded{Err: err.Error()}
	}
	r, err := ParseRecord(text, p.Name)
	if err != nil {
		return Loaded{Unreadable: err.Error(), Now: now}
	}
	return Loaded{Record: r, Now: now}
}

// present is the clock of this boot; the zero Moment where it cannot be told, to
// which nothing is recent.
func present() Moment {
	boot, err := initsys.BootID()
	if err != nil {
		return Moment{}
	}
	return Moment{Boot: boot, At: initsys.Uptime().Truncate(time.Millisecond)}
}

func (p *performer) see(ctx context.Context) Look { return p.look(p.Unit.Observe(ctx)) }

func (p *performer) look(o initsys.Observation, err error) Look {
	if err != nil {
		return Look{Err: err.Error()}
	}
	// A waiter holds a start back only where there is one to come: what is up was
	// started by somebody else, and a start without a job was called off.
	if o.State != initsys.Up && (o.State == initsys.Busy || !p.jobs()) && p.held() {
		return Look{State: wire.StateDown, Held: true, Word: "its start waits for what it needs"}
	}
	return Look{State: states[o.State], Token: o.Token, Age: o.Age, Begun: o.Begun, Word: o.Word}
}

// held reports whether a waiter is at work.
func (p *performer) held() bool {
	f, err := openIn(p.Dir, p.Key+".wait", os.O_RDONLY)
	if err != nil {
		return false // there never was one
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

var states = map[initsys.State]wire.State{
	initsys.Down: wire.StateDown, initsys.Up: wire.StateUp, initsys.Failed: wire.StateFailed,
	initsys.Busy: wire.StateBusy, initsys.Blind: wire.StateBlind,
}

// idle waits until neither the child on record nor init is at work.
func (p *performer) idle(ctx context.Context, child *initsys.Child) Event {
	if child != nil && child.Wait(ctx) != nil {
		return Looked{Look: p.see(context.WithoutCancel(ctx)), Waiting: true}
	}
	look := p.until(ctx, func(l Look) bool { return l.State != wire.StateBusy })
	return Looked{Look: look, Waiting: look.State == wire.StateBusy}
}

// until looks again until the instance is as it should be, or ctx ends, and
// returns the last look.
func (p *performer) until(ctx context.Context, so func(Look) bool) Look {
	for {
		// Init says nothing of a waiter that begins or lets go.
		turn, end := context.WithCancel(ctx)
		held := p.held()
		go func() {
			poll(turn, math.MaxInt64, func() bool { return p.held() != held })
			end()
		}()
		var l Look
		enough := false
		_, _ = initsys.Until(turn, p.Unit, func(o initsys.Observation, err error) bool {
			l = p.look(o, err)
			enough = l.Err != "" || so(l)
			return enough
		})
		end()
		if enough || ctx.Err() != nil {
			return l
		}
	}
}

// poll asks until it is so, more and more slowly, at most for limit.
func poll(ctx context.Context, limit time.Duration, so func() bool) bool {
	if so() { // as a rule, and then no timer is needed
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
		if so() {
			return true
		}
	}
}
