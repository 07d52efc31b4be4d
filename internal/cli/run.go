package cli

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kido/internal/journal"
	"kido/internal/plan"
	"kido/internal/report"
	"kido/internal/run"
	"kido/internal/site"
)

const (
	// lookTime is how long the look before a run may take: it only makes the
	// plan's words better, so a host that is down must not hold the run up.
	lookTime = 3 * time.Second
	// goOnTime is how long after it was cut off a repeated restart goes on with
	// the run, instead of beginning another.
	goOnTime = time.Hour
	// keepRuns is how many ended runs are kept for history.
	keepRuns = 50
)

type runFlags struct {
	keepTrying, fresh, dryRun bool
	follow                    string
	maxFailures               int
}

func (f *runFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.keepTrying, "keep-trying", false, "go on until every debt is paid, or until interrupted")
	c.Flags().IntVar(&f.maxFailures, "max-failures", 0, "begin nothing more after `N` failures (default: by service)")
}

// verbs are the commands that act.
func (a *app) verbs() []*cobra.Command {
	var all []*cobra.Command
	for _, v := range []struct {
		verb           plan.Verb
		short, long    string
		needs, example string
	}{
		{plan.Up, "start the targets and all they need, and make them fresh", `Start the targets and everything that they depend on, in order, each once its
upstreams are ready; what is up and stale is made fresh. Without a target: the
whole site. What was stopped on purpose is wanted again.`, "", "  kido up            # the whole site\n  kido up web"},
		{plan.Down, "stop the targets and all that needs them", `Stop the targets and everything that depends on them, dependents first.
Without a target: the whole site.`, "", "  kido down oracle   # web first, then oracle"},
		{plan.Start, "start the targets and nothing else", `Start the targets, in order. What they depend on must be ready: kido up starts
that too.`, "TARGET", "  kido start web@web1"},
		{plan.Stop, "stop the targets and nothing else", `Stop the targets, in reverse order. A cascade leaves alone what was stopped so,
until kido start or kido up wants it again. What depends on the targets stays
up: kido down stops that first.`, "TARGET", "  kido stop web@web1"},
		{plan.Restart, "restart the targets, then all that this makes stale", `Restart the targets, each once, wait until they are ready, and then make fresh
every instance downstream that was started against an earlier incarnation: in
order, at most max_unavailable of a service at once.`, "TARGET", "  kido restart oracle\n  kido restart web@web1"},
		{plan.Reload, "reload the targets and nothing else", `Have the targets read their configuration and drop their connections without a
new incarnation. A reload that was cut off is repeated: it happens at least
once.`, "TARGET", "  kido reload web"},
		{plan.Announce, "the targets are up: make all that depends on them fresh", `Wait until the targets are ready, then make fresh every instance downstream that
was started against an earlier incarnation. What is fresh already is left alone,
so it may be run as often as you like. This is what a database host's init runs
after the database.`, "TARGET", "  kido announce oracle\n  kido announce oracle --keep-trying"},
	} {
		var f runFlags
		c := &cobra.Command{
			Use: string(v.verb) + " [TARGET…]", Short: v.short, Long: v.long + targetHelp, Example: v.example,
			ValidArgsFunction: a.completeTargets,
		}
		if v.needs != "" {
			c.Use = string(v.verb) + " TARGET…"
			c.Args = atLeast(1, v.needs)
		}
		c.RunE = func(c *cobra.Command, targets []string) error {
			q := plan.Request{Verb: v.verb, Targets: targets}
			switch {
			case f.follow != "":
				return a.follow(c.Context(), q, f)
			case v.verb == plan.Announce && f.keepTrying:
				return a.announceAll(c.Context(), q, f)
			}
			return a.act(c.Context(), q, f)
		}
		f.add(c)
		c.Flags().BoolVarP(&f.dryRun, "dry-run", "n", false, "only print the plan, like: kido plan "+string(v.verb))
		if v.verb == plan.Announce {
			c.Flags().StringVar(&f.follow, "follow", "", "stay, and announce again at each new start of a target on this host; `next`: not its present one")
			c.Flags().Lookup("follow").NoOptDefVal = followNow
		}
		if v.verb == plan.Restart || v.verb == plan.Reload {
			c.Flags().BoolVar(&f.fresh, "new", false, "do not go on with the same that was cut off just before")
		}
		all = append(all, c)
	}
	return all
}

const targetHelp = `

A TARGET is a service (web), an instance (web@web1), a group, or all of a host
(@web1).`

// act does what was asked for: it begins a new run, or goes on with a restart or
// reload that was cut off just before.
func (a *app) act(ctx context.Context, q plan.Request, f runFlags) error {
	if f.dryRun {
		return a.showPlan(ctx, q)
	}
	topo, targets, fleet, err := a.reach(q.Targets)
	if err != nil {
		return err
	}
	defer fleet.close()
	runs, err := a.runs()
	if err != nil {
		return err
	}
	p, err := makePlan(topo, q, targets, fleet.observe(ctx, topo.Around(targets), lookTime))
	if err != nil {
		return err
	}
	if err := impossible(topo.Site(), p, targets); err != nil {
		return err
	}
	// Only what is not the same when it is done twice needs its past: all other
	// verbs go by what they find.
	past, damaged := runs.all(topo.Site().Name)
	a.warn(damaged)
	cut := cutOff(past, p)
	if repeats := q.Verb == plan.Restart || q.Verb == plan.Reload; repeats && cut != nil && !f.fresh {
		a.sayGoingOn(cut) // with --quiet as well: it is not quite what was typed
		return a.goOn(ctx, topo, fleet, runs, cut, f)
	}
	j, id, err := runs.create()
	if err != nil {
		return err
	}
	runs.prune(past)
	defer j.Close()
	e := run.Event{Time: time.Now(), Run: id, Begin: &run.BeginEvent{Plan: p, Site: topo.Site().Name, By: runnerName()}}
	if err := appendEvent(j, e); err != nil {
		return err
	}
	return a.drive(ctx, fleet, run.New(id, topo, p, f.options(id)), p, j, e, nil)
}

// announceAll announces until nothing is owed: a target that was started anew in
// the course of a run makes stale again what that run was through with, and it may
// be that nobody else tells. What is owed after a run as it was before it is left to
// whoever called: as of what only wants a target, and does not see it from where it is.
func (a *app) announceAll(ctx context.Context, q plan.Request, f runFlags) error {
	for before := []behind(nil); ; {
		if err := a.act(ctx, q, f); err != nil || f.dryRun {
			return err
		}
		owing, err := a.owing(ctx, q)
		if err != nil || len(owing) == 0 {
			return err
		}
		if slices.Equal(owing, before) {
			all := make([]string, len(owing))
			for n, o := range owing {
				all[n] = o.instance + " is behind: " + o.Why
			}
			return &failure{
				status: exitIncomplete, err: errors.New(strings.Join(all, "\n")),
				hint: "see why with: kido status; then: kido announce " + strings.Join(q.Targets, " "),
			}
		}
		before = owing
	}
}

// behind is a debt of an instance.
type behind struct {
	instance string
	plan.Debt
}

// owing says what is owed downstream of the targets, be it a reaction to a target that
// fell just when it was to be followed: what only wants it went by, and would not hear
// of it again.
func (a *app) owing(ctx context.Context, q plan.Request) (all []behind, err error) {
	topo, targets, fleet, err := a.reach(q.Targets)
	if err != nil {
		return nil, err
	}
	defer fleet.close()
	seen := fleet.observe(ctx, topo.Around(targets), lookTime)
	status := func(i site.Instance) plan.Observation { return seen[i] }
	p, err := makePlan(topo, q, targets, seen)
	if err != nil {
		return nil, err
	}
	for _, s := range p.Steps {
		st := seen[s.Instance].Status
		if s.Action != plan.ActEnsure || st == nil || plan.OnPurpose(st) {
			continue
		}
		for _, d := range topo.Need(s.Instance, status, nil).Behind(targets) {
			all = append(all, behind{s.Name, d})
		}
	}
	return all, nil
}

// makePlan plans a request. Where no target was named the whole site is meant, of
// which a plan may leave a part out.
func makePlan(topo *plan.Topology, q plan.Request, targets []site.Instance, seen plan.Observed) (*plan.Plan, error) {
	if len(q.Targets) == 0 {
		targets = nil
	}
	p, err := topo.Make(q, targets, seen)
	if err != nil {
		return nil, planError(err)
	}
	return p, nil
}

// impossible is an error where a plan does nothing of what was asked for by
// name.
func impossible(s *site.Site, p *plan.Plan, targets []site.Instance) error {
	if len(p.Steps) > 0 || len(p.Request.Targets) == 0 || p.Request.Verb == plan.Announce {
		return nil // that nothing depends on what is announced is no mistake
	}
	for _, n := range p.Alone {
		at := slices.IndexFunc(targets, func(i site.Instance) bool { return i.String() == n.Instance })
		if at < 0 {
			continue
		}
		hint := "nothing was done; kido plan restart " + n.Instance + " says what a restart would do"
		if s.Service(targets[at].Service).Adapter.Kind == site.KindExternal {
			hint = "nothing was done; ask it: kido probe " + n.Instance + "; make what depends on it fresh: kido announce " + n.Instance
		}
		return usageError(hint, "kido %s: %s: %s", p.Request.Verb, n.Instance, n.Reason)
	}
	return nil
}

// warn tells of what is wrong but stops nothing.
func (a *app) warn(errs []error) {
	for _, err := range errs {
		fmt.Fprintln(&printable{to: a.stderr}, "kido: warning:", err)
	}
}

// goOn resumes a run.
func (a *app) goOn(ctx context.Context, topo *plan.Topology, fleet *fleet, runs *runs, past *pastRun, f runFlags) error {
	j, events, err := runs.open(past.id)
	if err != nil {
		return err
	}
	defer j.Close()
	p, err := planOf(topo.Site(), past.id, events)
	if err != nil {
		return err
	}
	r := run.New(past.id, topo, p, f.options(past.id))
	if err := r.Replay(events); err != nil {
		return err
	}
	e := run.Event{Time: time.Now(), Run: past.id, Begin: &run.BeginEvent{Resumed: true, Site: topo.Site().Name, By: runnerName()}}
	if err := appendEvent(j, e); err != nil {
		return err
	}
	return a.drive(ctx, fleet, r, p, j, e, events)
}

// runnerName is the user and machine on whose behalf a run acts, for the record.
func runnerName() string {
	name, host := strconv.Itoa(os.Geteuid()), "?"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// sayGoingOn tells that an earlier run is resumed.
func (a *app) sayGoingOn(past *pastRun) {
	how := map[run.Outcome]string{"": "was cut off", run.OutcomeInterrupted: "was interrupted", run.OutcomeDone: "was done"}[past.outcome]
	if how == "" {
		how = "ended " + string(past.outcome)
	}
	fmt.Fprintf(a.stderr, "kido: going on with run %s of %s, which %s (--new on a verb begins another)\n", past.id, past.begun.Local().Format(time.DateTime), how)
}

// planOf takes a run's plan from its journal and checks that the site still
// has all that it speaks of.
func planOf(s *site.Site, id string, events []run.Event) (*plan.Plan, error) {
	if len(events) == 0 || events[0].Begin == nil || events[0].Begin.Plan == nil {
		return nil, &failure{
			status: exitUsage, err: fmt.Errorf("the journal of run %s has no plan: it was cut off before it began", id),
			hint: "ask for it again; nothing was done",
		}
	}
	p := events[0].Begin.Plan
	for i := range p.Steps {
		st := &p.Steps[i]
		service, host, _ := strings.Cut(st.Name, "@")
		st.Instance = site.Instance{Service: service, Host: host}
		if v := s.Service(service); v == nil || !slices.Contains(v.Hosts, host) {
			return nil, &failure{
				status: exitUsage, err: fmt.Errorf("run %s cannot be resumed: %s is no longer in the site file", id, st.Name),
				hint: "begin another with --new, or forget it: kido resume --forget " + id,
			}
		}
	}
	return p, nil
}

func (f runFlags) options(id string) run.Options {
	var seed [8]byte
	copy(seed[:], id[max(0, len(id)-8):])
	return run.Options{KeepTrying: f.keepTrying, MaxFailures: f.maxFailures, Seed: binary.LittleEndian.Uint64(seed[:])}
}

// drive executes a run, whose past is that of a resumed one, shows it, and turns its outcome into an exit status.
func (a *app) drive(ctx context.Context, fleet *fleet, r *run.Run, p *plan.Plan, j *journal.Journal, first run.Event, past []run.Event) error {
	progress := report.New(a.stdout, p, report.Options{JSON: a.json(), Quiet: a.quiet, Past: past})
	progress.Event(first)
	notices := newNotifier(fleet.site, func(err error) { a.warn([]error{err}) })
	outcome, err := run.Drive(ctx, r, fleet, j, func(e run.Event) {
		progress.Event(e)
		notices.event(e)
	})
	progress.Close()
	notices.close()
	if err != nil {
		return &failure{status: exitFailed, err: err, hint: "make room for the journal; what was begun is on record and goes on with: kido resume"}
	}
	status := map[run.Outcome]int{
		run.OutcomeDone: exitDone, run.OutcomeFailed: exitFailed, run.OutcomeIncomplete: exitIncomplete,
		run.OutcomeRefused: exitRefused, run.OutcomeInterrupted: exitInterrupted,
	}[outcome]
	if status == exitDone {
		return nil
	}
	return &failure{status: status} // the report has said why
}

func planError(err error) error {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return &failure{status: exitUsage, err: err, hint: h.Hint()}
	}
	return &failure{status: exitUsage, err: err}
}

func (a *app) resume() *cobra.Command {
	var f runFlags
	var forget bool
	c := &cobra.Command{
		Use:   "resume [RUN]",
		Short: "go on with a run that was cut off or left debts",
		Long: `Go on with a run that was cut off (by a crash, Ctrl-C or a power cut) or that
left debts behind. Without RUN it is the last such run; where there is none,
there is nothing to do. What was done is not done again. A run is over once the
same was asked for again.`,
		Example: "  kido resume\n  kido resume --keep-trying\n  kido resume --forget 20260131-235959-ab3de",
		Args:    atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			if forget {
				return a.forget(args)
			}
			topo, _, err := a.resolve(nil)
			if err != nil {
				return err
			}
			runs, err := a.runs()
			if err != nil {
				return err
			}
			past, err := a.unfinished(runs, topo.Site().Name, args)
			if past == nil || err != nil {
				return err
			}
			if !a.quiet {
				a.sayGoingOn(past)
			}
			fleet, err := a.open(topo.Site())
			if err != nil {
				return err
			}
			defer fleet.close()
			return a.goOn(c.Context(), topo, fleet, runs, past, f)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (ids []string, _ cobra.ShellCompDirective) {
			s, err := a.load()
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			if runs, err := a.runs(); err == nil {
				all, _ := runs.all(s.Name)
				for _, past := range unfinishedOf(all) {
					ids = append(ids, cobra.CompletionWithDesc(past.id, past.command()))
				}
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
	}
	f.add(c)
	c.Flags().BoolVar(&forget, "forget", false, "do not go on with RUN: take it off the record")
	return c
}
