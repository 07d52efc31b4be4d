package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"kido/internal/failpoint"
	"kido/internal/initsys"
	"kido/internal/probe"
	"kido/internal/rule"
	"kido/internal/wire"
)

// Waiter is the rule by which the start of a service by its own init is held
// until what it needs is ready. Like [Machine] it is a value, reads no clock and
// does no I/O.
//
// No key leads from here to the upstreams, so a waiter learns of them in two
// ways: it probes them, and a run that pays a debt of this instance tells by a
// change of its record. A run that is on its way to tell of a new incarnation
// comes a little later than the probes answer, hence the grace: who starts
// before it is restarted after it. Without a run in all that time the upstreams
// are taken to be those of the record, and if they are not, the next run says so.
type Waiter struct {
	wait       Wait
	looked     bool
	generation uint64        // of the record at the first look
	ready      time.Duration // since when all answer, where answering is set
	answering  bool
}

// NewWaiter begins to hold a start.
func NewWaiter(w Wait) Waiter { return Waiter{wait: w} }

// Sight is what a waiter sees at one time.
type Sight struct {
	Generation uint64      // of the record; it stays the same where the record cannot be read
	Wanted     wire.Wanted // of the record
	Starting   bool        // a gate is at work and has an intent on record: it may be this very start
	Up         bool        // the instance runs
	CalledOff  bool        // init has no start for it any more
	Ready      bool        // all that is awaited answers
	Word       string      // what does not
}

// Verdict says what is to become of a held start.
type Verdict struct {
	Over bool
	// Leave says, where it is Over, that it is not to be started.
	Leave bool
	Word  string // for people: why, or what is waited for
}

// Step takes what is seen, at a time since the start was held.
func (w Waiter) Step(now time.Duration, s Sight) (Waiter, Verdict) {
	if !w.looked {
		w.looked, w.generation = true, s.Generation
	}
	if s.Ready && !w.answering {
		w.ready = now
	}
	w.answering = s.Ready
	changed := s.Generation != w.generation && rule.Holds(rule.ToldLetsGo)
	switch {
	case s.Up:
		return w, Verdict{Over: true, Word: "it runs already"}
	case s.CalledOff:
		return w, Verdict{Over: true, Word: "init is not about to start it"}
	case s.Starting:
		return w, Verdict{Over: true, Word: "kido itself starts it"}
	case changed && s.Wanted == wire.WantedDown:
		return w, Verdict{Over: true, Leave: true, Word: "it was stopped on purpose"}
	case changed:
		return w, Verdict{Over: true, Word: "a run of kido found all that it needs ready"}
	case w.answering && (now-w.ready >= w.wait.Grace || !rule.Holds(rule.Grace)):
		return w, Verdict{Over: true, Word: "all that it needs answers"}
	case now >= w.wait.Timeout && w.wait.Leave:
		return w, Verdict{Over: true, Leave: true, Word: fmt.Sprintf("not started, for in %s what it needs did not become ready: %s", w.wait.Timeout, s.Word)}
	case now >= w.wait.Timeout:
		return w, Verdict{Over: true, Word: fmt.Sprintf("started all the same, though in %s what it needs did not become ready: %s", w.wait.Timeout, s.Word)}
	case s.Ready:
		return w, Verdict{Word: "all that it needs answers; a run of kido may be about to tell of new incarnations"}
	}
	return w, Verdict{Word: s.Word}
}

const (
	lookPause  = 100 * time.Millisecond // between two looks at the record
	probePause = time.Second            // between two tries of the probes
)

// Hold holds the start of a service until its waiter lets go, and reports
// whether it is to be started; say, if not nil, is told whenever what is waited
// for changes. A service whose policy holds nothing is let go at once. ctx ends
// the waiting with its cause.
func (g *Gate) Hold(ctx context.Context, service string, say func(word string)) (start bool, err error) {
	s := g.policy.Service(service)
	if s == nil {
		return false, fmt.Errorf("%s: the policy has no service %s", g.policy.Host, wire.Quote(service))
	}
	if s.Wait == nil {
		return true, nil
	}
	unit, err := g.unit(s)
	if err != nil {
		return false, err
	}
	defer release(unit)
	h := &holder{performer: *g.instance(s, unit).performer(0), say: say}
	h.boot, _ = initsys.BootID()
	defer h.close()
	if err := h.take(ctx); err != nil {
		return false, err
	}
	defer h.wait.Close() // and with it the lock that says so
	ctx, cancel := context.WithCancel(ctx)
	probes := make(chan struct{})
	go func() {
		defer close(probes)
		h.probe(ctx, g, s.Wait.Await)
	}()
	defer func() {
		cancel()
		<-probes
	}()
	return h.run(ctx, *s.Wait)
}

// holder performs what a [Waiter] decides.
type holder struct {
	performer
	wait *os.File
	boot string
	say  func(string)
	said string

	mu        sync.Mutex
	up        bool
	calledOff bool
	ready     bool
	word      string
}

// take marks the instance as held, for as long as this process lives.
func (h *holder) take(ctx context.Context) error {
	f, err := openIn(h.Dir, h.Key+".wait", os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	h.wait = f
	// A gate that looks holds it for a moment; another waiter for long, and then
	// there is nothing to mark.
	poll(ctx, lockWait, func() bool {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		return !errors.Is(err, syscall.EWOULDBLOCK)
	})
	if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		return err
	}
	return nil
}

func (h *holder) run(ctx context.Context, wait Wait) (bool, error) {
	begun := time.Now()
	w := NewWaiter(wait)
	tick := time.NewTicker(lookPause)
	defer tick.Stop()
	s := Sight{}
	for {
		s = h.look(s)
		var v Verdict
		w, v = w.Step(time.Since(begun), s)
		if v.Word != h.said && h.say != nil {
			h.said = v.Word
			h.say(v.Word)
		}
		switch {
		case v.Over && v.Leave:
			failpoint.Hit("gate.before.owe")
			err := h.owe(ctx)
			failpoint.Hit("gate.after.owe")
			return false, err
		case v.Over:
			failpoint.Hit("gate.before.letgo")
			return true, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// look reads the record without the lock: a gate that holds it may be waiting for
// this very start. It is replaced as a whole, so what is read is one record.
func (h *holder) look(before Sight) Sight {
	s := Sight{Generation: before.Generation, Wanted: before.Wanted}
	if l, ok := h.load().(Loaded); ok && l.Err == "" && l.Unreadable == "" {
		s.Generation, s.Wanted = l.Record.Generation, l.Record.Wanted
		if in := l.Record.Intent; in != nil && in.Do != initsys.Stop {
			s.Starting = h.starting(in)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Up, s.CalledOff, s.Ready, s.Word = h.up, h.calledOff, h.ready, h.word
	return s
}

// starting reports whether a gate is at work on an intent. One of an earlier boot
// was cut off with it: a gate that is at work now only looks.
func (h *holder) starting(in *Intent) bool {
	if in.Child != nil {
		alive, err := in.Child.Alive()
		return err == nil && alive
	}
	return in.Boot == h.boot && h.boot != "" && h.busy()
}

// busy reports whether a gate is at work on the instance.
func (h *holder) busy() bool {
	f, err := openIn(h.Dir, h.Key+".lock", os.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// probe asks again and again for the instance itself and all that is awaited.
func (h *holder) probe(ctx context.Context, g *Gate, await [][]string) {
	tick := time.NewTicker(probePause)
	defer tick.Stop()
	for {
		// An adapter that cannot look is no reason to hold for ever, nor to let go.
		o, err := h.Unit.Observe(ctx)
		var missing []string
		for _, some := range await {
			if word, ready := g.anyReady(ctx, some); !ready {
				missing = append(missing, word)
			}
		}
		h.mu.Lock()
		h.up = err == nil && o.State == initsys.Up
		h.calledOff = err == nil && o.State == initsys.Down && h.jobs()
		h.ready, h.word = len(missing) == 0, strings.Join(missing, "; ")
		h.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// anyReady tries the watches of some instances until one is ready.
func (g *Gate) anyReady(ctx context.Context, some []string) (word string, ready bool) {
	var words []string
	for _, instance := range some {
		a := g.each(ctx, g.policy.Watch(instance).Ready, probe.Life{}, false)
		if a.Ready {
			return "", true
		}
		words = append(words, instance+": "+a.Word)
	}
	return strings.Join(words, ", "), false
}

// owe puts on record that the instance is down without anybody having stopped it,
// so that the next run which finds its upstreams ready starts it.
func (h *holder) owe(ctx context.Context) error {
	if l, ok := h.acquire(ctx).(Locked); !ok || !l.OK {
		return nil // a gate is at work on it: it decides
	}
	defer h.file.release()
	l, ok := h.load().(Loaded)
	if !ok || l.Err != "" || l.Unreadable != "" || l.Record.Wanted == wire.WantedDown {
		return nil
	}
	r := l.Record
	r.Generation++
	r.Wanted, r.Seen = wire.WantedHeld, wire.StateDown
	return h.file.save(r.Format(), false)
}
