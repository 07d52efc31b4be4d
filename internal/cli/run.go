package cli

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	// keepRuns is how many ended runs are kept for history.
	keepRuns = 50
)

type runFlags struct {
	keepTrying, fresh, dryRun bool
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
new incarnation. A reload that was cut off is repeated: it happens at least once.`, "TARGET", "  kido reload web"},
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
			return a.act(c.Context(), plan.Request{Verb: v.verb, Targets: targets}, f)
		}
		f.add(c)
		c.Flags().BoolVarP(&f.dryRun, "dry-run", "n", false, "only print the plan, like: kido plan "+string(v.verb))
		c.Flags().BoolVar(&f.fresh, "new", false, "do not go on with an earlier run of the same that was cut off")
		all = append(all, c)
	}
	return all
}

const targetHelp = `

A TARGET is a service (web), an instance (web@web1), a group, or all of a host
(@web1).`

// act does what was asked for: it goes on with a run of the same that was cut
// off, or begins a new one.
func (a *app) act(ctx context.Context, q plan.Request, f runFlags) error {
	if f.dryRun {
		return a.showPlan(ctx, q)
	}
	topo, targets, err := a.resolve(q.Targets)
	if err != nil {
		return err
	}
	runs, err := a.runs()
	if err != nil {
		return err
	}
	if !f.fresh {
		cut, damaged := runs.cutOff(q)
		a.warn(damaged)
		if cut != nil {
			return a.goOn(ctx, topo, runs, cut, f)
		}
	}
	fleet, err := a.open(topo.Site())
	if err != nil {
		return err
	}
	defer fleet.close()
	p, err := topo.Make(q, targets, fleet.observe(ctx, topo.Around(targets), lookTime))
	if err != nil {
		return planError(err)
	}
	j, id, err := runs.create()
	if err != nil {
		return err
	}
	defer j.Close()
	e := run.Event{Time: time.Now(), Run: id, Begin: &run.BeginEvent{Plan: p, Site: topo.Site().Name}}
	if err := appendEvent(j, e); err != nil {
		return err
	}
	return a.drive(ctx, fleet, run.New(id, topo, p, f.options(id)), p, j, e, nil)
}

// warn tells of what is wrong but stops nothing.
func (a *app) warn(errs []error) {
	for _, err := range errs {
		fmt.Fprintln(a.stderr, "kido: warning:", err)
	}
}

// goOn resumes a run.
func (a *app) goOn(ctx context.Context, topo *plan.Topology, runs *runs, past *pastRun, f runFlags) error {
	j, events, err := runs.open(past.id)
	if err != nil {
		return err
	}
	defer j.Close()
	p, err := planOf(topo.Site(), past.id, events)
	if err != nil {
		return err
	}
	fleet, err := a.open(topo.Site())
	if err != nil {
		return err
	}
	defer fleet.close()
	r := run.New(past.id, topo, p, f.options(past.id))
	if err := r.Replay(events); err != nil {
		return err
	}
	if !a.quiet {
		how := map[run.Outcome]string{"": "was cut off", run.OutcomeInterrupted: "was interrupted", run.OutcomeDone: "was done"}[past.outcome]
		if how == "" {
			how = "ended " + string(past.outcome)
		}
		fmt.Fprintf(a.stderr, "kido: going on with run %s of %s, which %s (--new on a verb begins another)\n", past.id, past.begun.Local().Format(time.DateTime), how)
	}
	e := run.Event{Time: time.Now(), Run: past.id, Begin: &run.BeginEvent{Resumed: true, Site: topo.Site().Name}}
	if err := appendEvent(j, e); err != nil {
		return err
	}
	return a.drive(ctx, fleet, r, p, j, e, events)
}

// planOf takes a run's plan from its journal and checks that the site still
// has all that it speaks of.
func planOf(s *site.Site, id string, events []run.Event) (*plan.Plan, error) {
	if len(events) == 0 || events[0].Begin == nil || events[0].Begin.Plan == nil {
		return nil, fmt.Errorf("the journal of run %s has no plan: it was cut off before it began", id)
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
	outcome, err := run.Drive(ctx, r, fleet, j, progress.Event)
	progress.Close()
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
left debts behind. Without RUN it is the last such run. What was done is not
done again.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			topo, _, err := a.resolve(nil)
			if err != nil {
				return err
			}
			runs, err := a.runs()
			if err != nil {
				return err
			}
			past, err := runs.unfinished(args)
			if err != nil {
				return err
			}
			if forget {
				return runs.forget(past.id)
			}
			return a.goOn(c.Context(), topo, runs, past, f)
		},
	}
	f.add(c)
	c.Flags().BoolVar(&forget, "forget", false, "do not go on with it: take it off the record")
	return c
}

// ---- the folder of journals ----------------------------------------------------

// runs is the folder that holds a journal for every run.
type runs struct{ dir string }

// pastRun is what a run's journal tells at a glance.
type pastRun struct {
	id      string
	begun   time.Time
	request plan.Request
	outcome run.Outcome // "" where it was cut off
	live    bool        // its runner is at work
	steps   map[int]run.StepEvent
}

func (a *app) runs() (*runs, error) {
	state, err := a.state()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(state, "runs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &failure{status: exitFailed, err: fmt.Errorf("cannot make the folder of journals: %w", err), hint: "name another with --state"}
	}
	return &runs{dir}, nil
}

const suffix = ".journal"

func (r *runs) path(id string) string { return filepath.Join(r.dir, id+suffix) }

// create begins a journal under a new name, which sorts by time as long as the
// clock is not set back; nothing depends on that.
func (r *runs) create() (*journal.Journal, string, error) {
	id := time.Now().UTC().Format("20060102-150405-") + strings.ToLower(rand.Text()[:5])
	j, err := journal.Create(r.path(id))
	if err != nil {
		return nil, "", &failure{status: exitFailed, err: err, hint: "nothing was started; make room there, or name another folder with --state"}
	}
	r.prune()
	return j, id, nil
}

func (r *runs) open(id string) (*journal.Journal, []run.Event, error) {
	j, records, err := journal.Open(r.path(id))
	if err != nil {
		hint := ""
		if errors.Is(err, journal.ErrLocked) {
			hint = "its runner is at work: kido status shows it"
		}
		return nil, nil, &failure{status: exitFailed, err: err, hint: hint}
	}
	events, err := decode(records)
	if err != nil {
		j.Close()
		return nil, nil, err
	}
	return j, events, nil
}

func decode(records [][]byte) ([]run.Event, error) {
	events := make([]run.Event, 0, len(records))
	for _, rec := range records {
		e, err := run.Decode(rec)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

func appendEvent(j *journal.Journal, e run.Event) error {
	rec, err := e.Encode()
	if err == nil {
		err = j.Append(rec)
	}
	if err != nil {
		return &failure{status: exitFailed, err: err, hint: "nothing was started; make room for the journal, or name another folder with --state"}
	}
	return nil
}

// all reads every journal, the oldest run first. damaged holds an error for
// each that cannot be read: what it owes cannot be told, but that must not keep
// anybody from a restart.
func (r *runs) all() (all []*pastRun, damaged []error) {
	names, err := filepath.Glob(filepath.Join(r.dir, "*"+suffix))
	if err != nil {
		return nil, []error{err}
	}
	slices.Sort(names)
	for _, name := range names {
		past, err := r.glance(strings.TrimSuffix(filepath.Base(name), suffix))
		switch {
		case err != nil:
			damaged = append(damaged, err)
		case past != nil:
			all = append(all, past)
		}
	}
	return all, damaged
}

// glance reads one journal; nil where the run was cut off before it had a plan,
// and so before it did anything.
func (r *runs) glance(id string) (*pastRun, error) {
	records, live, err := journal.Read(r.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // pruned meanwhile
	}
	if err != nil {
		return nil, err
	}
	events, err := decode(records)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path(id), err)
	}
	if len(events) == 0 || events[0].Begin == nil || events[0].Begin.Plan == nil {
		return nil, nil
	}
	past := &pastRun{id: id, begun: events[0].Time, request: events[0].Begin.Plan.Request, live: live, steps: map[int]run.StepEvent{}}
	for _, e := range events {
		switch {
		case e.Begin != nil:
			past.outcome = ""
		case e.Step != nil:
			past.steps[e.Step.ID] = *e.Step
		case e.End != nil:
			past.outcome = e.End.Outcome
		}
	}
	return past, nil
}

// cutOff finds the last run of the same request, if that did not come to its
// end and is not under way.
func (r *runs) cutOff(q plan.Request) (past *pastRun, damaged []error) {
	all, damaged := r.all()
	for _, past := range slices.Backward(all) {
		if past.request.Verb == q.Verb && slices.Equal(past.request.Targets, q.Targets) && !past.live {
			if past.outcome == "" || past.outcome == run.OutcomeInterrupted {
				return past, damaged
			}
			break
		}
	}
	return nil, damaged
}

// unfinished finds the named run, or the last one that can be gone on with.
func (r *runs) unfinished(id []string) (*pastRun, error) {
	all, damaged := r.all()
	for _, past := range slices.Backward(all) {
		switch {
		case len(id) == 1 && past.id == id[0]:
			return past, nil
		case len(id) == 0 && past.outcome != run.OutcomeDone && !past.live:
			return past, nil
		}
	}
	if len(id) == 1 {
		return nil, usageError("kido status names the runs that are not finished", "no such run: %q", id[0])
	}
	if len(damaged) > 0 {
		return nil, &failure{status: exitFailed, err: damaged[0]}
	}
	return nil, &failure{status: exitFailed, err: errors.New("there is nothing to resume: every run on record came to its end")}
}

func (r *runs) forget(id string) error {
	j, _, err := r.open(id) // so that no runner has it
	if err != nil {
		return err
	}
	defer j.Close()
	return os.Remove(r.path(id))
}

// prune removes the oldest runs that came to their end. What cannot be read is
// kept: a person should look at it.
func (r *runs) prune() {
	all, _ := r.all()
	for n, past := range all {
		if len(all)-n > keepRuns && past.outcome == run.OutcomeDone && !past.live {
			os.Remove(r.path(past.id))
		}
	}
}
