package cli

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"kido/internal/initsys"
	"kido/internal/plan"
	"kido/internal/site"
	"kido/internal/wire"
)

const (
	// followPause is the longest pause between two looks at an instance that is
	// down, or whose token names no process that could be waited for.
	followPause = 10 * time.Second
	// lifePause is the same of one that may be restarted inside its unit, where its
	// probes are not asked less often.
	lifePause = 5 * time.Second
	// followRetry is the pause before what was given up is tried again, as long as
	// systemd's before it starts its unit anew.
	followRetry = 10 * time.Second
	// followTime bounds one look.
	followTime = 30 * time.Second
)

// pauseOf is how often it is looked whether any of some instances lives anew. It
// differs a little from host to host, so that they do not all ask at once.
func pauseOf(s *site.Site, here []site.Instance) time.Duration {
	pause := time.Duration(0)
	for _, i := range here {
		v := s.Service(i.Service)
		for _, p := range v.Ready {
			if often := max(lifePause, p.Interval); v.Adapter.Kind == site.KindExternal || p.TellsLife() {
				pause = min(cmp.Or(pause, often), often)
			}
		}
	}
	pause = cmp.Or(pause, followPause)
	return pause - time.Duration(rand.Int64N(int64(pause/5)))
}

// The values of --follow.
const (
	followNow  = "now"  // the present life is announced, and all that come
	followNext = "next" // only those that come
)

// errAnew ends an announcement that is overtaken by the next start.
var errAnew = errors.New("a target was started anew")

// follow announces the targets, and does so again whenever one of those on this
// host was started anew: by whomever, for an init that restarts nothing along
// with them. An announcement that still has debts by then is overtaken: what it
// owes, the next one owes too.
func (a *app) follow(ctx context.Context, q plan.Request, f runFlags) error {
	if f.follow != followNow && f.follow != followNext {
		return usageError("use: --follow, or --follow=next", "no such way to follow: %q", f.follow)
	}
	topo, targets, fleet, err := a.reach(q.Targets)
	if err != nil {
		return err
	}
	defer fleet.close()
	var here []site.Instance
	for _, i := range targets {
		if i.Host == fleet.here && topo.Site().Service(i.Service).Adapter.Kind != site.KindPlain {
			here = append(here, i)
		}
	}
	if len(here) == 0 {
		return usageError("run it at their host, where the gate has a policy; see --here", "kido announce --follow: none of the targets runs on this host")
	}
	lives, pause := fleet.lives(ctx, here), pauseOf(topo.Site(), here)
	for announce := f.follow == followNow; ; announce = true {
		life, end := context.WithCancelCause(ctx)
		next := make(chan map[site.Instance]string, 1)
		go func() {
			next <- fleet.nextLives(ctx, here, lives, pause)
			end(errAnew)
		}()
		var err error
		if announce {
			err = a.announceLife(life, q, f)
		}
		if bad, ok := errors.AsType[*failure](err); ok && bad.status == exitUsage {
			end(nil)
			return err
		}
		<-life.Done()
		if ctx.Err() != nil {
			return err
		}
		lives = <-next
	}
}

// announceLife announces until nothing is owed any more, or the life has ended:
// what a run gives up may be mended by then, as a refused key is by enrolment.
func (a *app) announceLife(life context.Context, q plan.Request, f runFlags) error {
	for {
		err := a.announceAll(life, q, f)
		bad, ok := errors.AsType[*failure](err)
		if err == nil || life.Err() != nil || ok && bad.status == exitUsage {
			return err
		}
		select {
		case <-time.After(followRetry):
		case <-life.Done():
			return err
		}
	}
}

// lives are the tokens of instances of this host, "" for one that is not up or
// cannot be told.
func (f *fleet) lives(ctx context.Context, here []site.Instance) map[site.Instance]string {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	all := map[site.Instance]string{}
	tokens := make([]string, len(here))
	var asked sync.WaitGroup // at once: one that hangs hides no other
	for n, i := range here {
		asked.Go(func() {
			r, err := f.Call(ctx, i.Host, wire.Request{Verb: wire.VerbStatus, Service: i.Service})
			if err == nil && r.Status != nil {
				tokens[n] = r.Status.Incarnation()
			}
		})
	}
	asked.Wait()
	for n, i := range here {
		all[i] = tokens[n]
	}
	return all
}

// nextLives returns once an instance is up in another life than before, or ctx
// ends.
func (f *fleet) nextLives(ctx context.Context, here []site.Instance, before map[site.Instance]string, most time.Duration) map[site.Instance]string {
	firstEnd(ctx, before)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := most / 100; ; pause = min(2*pause, most) {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return before
		}
		now := f.lives(ctx, here)
		for i, token := range now {
			if token != "" && token != before[i] {
				return now
			}
		}
		timer.Reset(pause)
	}
}

// firstEnd returns once the first of the lives has ended, ctx has, or a token
// names no process that could be waited for.
func firstEnd(ctx context.Context, lives map[site.Instance]string) {
	var processes []initsys.Child
	for _, token := range lives {
		c, ok := initsys.ParseToken(token)
		if !ok {
			return
		}
		processes = append(processes, c)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, c := range processes {
		go func() {
			_ = c.Wait(ctx) // one that cannot be waited for is looked at instead
			cancel()
		}()
	}
	<-ctx.Done()
}
