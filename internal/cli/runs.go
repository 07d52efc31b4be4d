package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kido/internal/failpoint"
	"kido/internal/journal"
	"kido/internal/plan"
	"kido/internal/run"
)

// runs is the folder that holds a journal for every run.
type runs struct{ dir string }

// pastRun is what a run's journal tells at a glance.
type pastRun struct {
	id      string
	site    string // its name
	begun   time.Time
	request plan.Request
	outcome run.Outcome           // "" where it was cut off
	live    bool                  // its runner is at work
	last    time.Time             // of its last event
	about   map[string]bool       // the instances of its plan
	steps   map[int]run.StepEvent // the latest of each
	at      map[int]time.Time     // and when that was
}

// command is what was typed.
func (p *pastRun) command() string {
	return strings.Join(append([]string{"kido", string(p.request.Verb)}, p.request.Targets...), " ")
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

// create begins a journal under a new name, later than all that are there:
// which run was the last one must not depend on the clock, nor on two runs in
// one second.
func (r *runs) create() (*journal.Journal, string, error) {
	const stamp = "20060102-150405"
	at := time.Now().UTC()
	names, err := filepath.Glob(r.path("*"))
	if err != nil {
		return nil, "", err
	}
	for _, name := range names {
		name = filepath.Base(name)
		if last, err := time.Parse(stamp, name[:min(len(stamp), len(name))]); err == nil && last.Format(stamp) >= at.Format(stamp) {
			at = last.Add(time.Second)
		}
	}
	id := at.Format(stamp) + "-" + strings.ToLower(rand.Text()[:5])
	failpoint.Hit("cli.before.create")
	j, err := journal.Create(r.path(id))
	failpoint.Hit("cli.after.create")
	if err != nil {
		return nil, "", &failure{status: exitFailed, err: err, hint: "nothing was started; make room there, or name another folder with --state"}
	}
	return j, id, nil
}

func (r *runs) open(id string) (*journal.Journal, []run.Event, error) {
	j, records, err := journal.Open(r.path(id))
	if err != nil {
		if errors.Is(err, journal.ErrLocked) {
			return nil, nil, underWay(id)
		}
		return nil, nil, &failure{status: exitFailed, err: err}
	}
	events, err := decode(records)
	if err != nil {
		j.Close()
		return nil, nil, err
	}
	return j, events, nil
}

func underWay(id string) error {
	return &failure{status: exitFailed, err: fmt.Errorf("run %s is under way: another kido is at work on it", id), hint: "kido status shows how far it is; to stop it at a safe point press Ctrl-C there"}
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
		failpoint.Hit("cli.before.begin")
		err = j.Append(rec)
		failpoint.Hit("cli.after.begin")
	}
	if err != nil {
		return &failure{status: exitFailed, err: err, hint: "nothing was started; make room for the journal, or name another folder with --state"}
	}
	return nil
}

// all reads every journal and returns the runs of a site, the oldest first; one
// folder may hold those of several. damaged holds an error for
// each that cannot be read: what it owes cannot be told, but that must not keep
// anybody from a restart.
func (r *runs) all(site string) (all []*pastRun, damaged []error) {
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
		case past != nil && past.site == site:
			all = append(all, past)
		}
	}
	return all, damaged
}

// readRun reads one journal whole. There are no events where the run was cut off
// before it had a plan, and so before it did anything, or where the journal was
// pruned meanwhile; else the first one has the plan. An error names the file.
func readRun(path string) (events []run.Event, live bool, err error) {
	records, live, err := journal.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if events, err = decode(records); err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, err)
	}
	if len(events) == 0 || events[0].Begin == nil || events[0].Begin.Plan == nil {
		return nil, live, nil
	}
	return events, live, nil
}

// glance reads one journal; nil where there is nothing in it.
func (r *runs) glance(id string) (*pastRun, error) {
	events, live, err := readRun(r.path(id))
	if len(events) == 0 || err != nil {
		return nil, err
	}
	past := &pastRun{id: id, site: events[0].Begin.Site, begun: events[0].Time, request: events[0].Begin.Plan.Request, live: live, steps: map[int]run.StepEvent{}, at: map[int]time.Time{}}
	past.about = map[string]bool{}
	for _, s := range events[0].Begin.Plan.Steps {
		past.about[s.Name] = true
	}
	for _, e := range events {
		past.last = e.Time
		switch {
		case e.Begin != nil:
			past.outcome = ""
		case e.Step != nil:
			past.steps[e.Step.ID], past.at[e.Step.ID] = *e.Step, e.Time
		case e.End != nil:
			past.outcome = e.End.Outcome
		}
	}
	return past, nil
}

// cutOff finds the run that a repeated request means to go on with: the very
// last one, if that was the same, did not come to its end a short while ago, and
// is about all that the request is about now. Whatever ran since, or changed in
// the site, makes the request a new wish.
func cutOff(all []*pastRun, now *plan.Plan) *pastRun {
	if len(all) == 0 {
		return nil
	}
	past := all[len(all)-1]
	over := past.outcome != "" && past.outcome != run.OutcomeInterrupted
	if over || past.live || time.Since(past.last) > goOnTime ||
		past.request.Verb != now.Request.Verb || !slices.Equal(past.request.Targets, now.Request.Targets) {
		return nil
	}
	for _, s := range now.Steps {
		if !past.about[s.Name] {
			return nil
		}
	}
	return past
}

// unfinishedOf leaves out the runs that came to their end, those after which the
// same was asked for again (the later run owes all that the earlier one did, and
// to go on with that would do old work over), and those whose debts later runs
// have paid.
func unfinishedOf(all []*pastRun) (unfinished []*pastRun) {
	again, paid := map[string]bool{}, map[string]bool{}
	for _, past := range slices.Backward(all) {
		ended := past.outcome != "" && past.outcome != run.OutcomeInterrupted
		owes := !ended
		for _, s := range past.steps {
			owes = owes || !s.Phase.Well() && !paid[s.Instance]
		}
		if past.live || past.outcome != run.OutcomeDone && owes && !again[past.command()] {
			unfinished = append(unfinished, past)
		}
		again[past.command()] = true
		for _, s := range past.steps {
			if s.Phase.Well() {
				paid[s.Instance] = true
			}
		}
	}
	slices.Reverse(unfinished)
	return unfinished
}

// unfinished finds the named run, or the last one that can be gone on with; nil
// where there is none.
func (a *app) unfinished(r *runs, site string, id []string) (*pastRun, error) {
	if len(id) == 1 {
		past, err := r.find(id[0])
		switch {
		case err != nil:
		case past.live:
			err = underWay(past.id)
		case past.site != site:
			err = usageError("name that one's file: kido resume --site FILE "+past.id, "run %s is of the site %s, not of %s", past.id, past.site, site)
		}
		return past, err
	}
	all, damaged := r.all(site)
	a.warn(damaged)
	var live, idle []*pastRun
	for _, past := range unfinishedOf(all) {
		if past.live {
			live = append(live, past)
		} else {
			idle = append(idle, past)
		}
	}
	switch {
	case len(idle) > 1:
		fmt.Fprintf(a.stderr, "kido: %s not finished; this goes on with the last one, kido status names them\n", count(len(idle), "run", "are"))
		fallthrough
	case len(idle) == 1:
		return idle[len(idle)-1], nil
	case len(live) > 0:
		return nil, underWay(live[len(live)-1].id)
	case len(damaged) > 0:
		return nil, &failure{status: exitFailed, err: errors.New("no other run is to be gone on with"), hint: "make sure by: kido status; then take it off the record: kido resume --forget RUN"}
	}
	fmt.Fprintln(a.text(), "nothing to resume: every run on record came to its end")
	return nil, nil
}

// find reads the named run.
func (r *runs) find(id string) (*pastRun, error) {
	var past *pastRun
	var err error
	if id == filepath.Base(id) {
		past, err = r.glance(id)
	}
	if err != nil {
		return nil, &failure{status: exitFailed, err: err, hint: "what it owes cannot be told: see kido status; kido resume --forget " + id + " takes it off the record"}
	}
	if past == nil {
		return nil, usageError("kido status names the runs that are not finished", "no such run: %q", id)
	}
	return past, nil
}

// forget takes a run off the record. A journal that cannot be read is put aside
// for a person to look at.
func (a *app) forget(args []string) error {
	if len(args) == 0 {
		return usageError("kido status names the runs that are not finished", "kido resume --forget: RUN is missing")
	}
	r, err := a.runs()
	if err != nil {
		return err
	}
	id := args[0]
	_, err = r.find(id)
	aside := ""
	if _, damaged := errors.AsType[*journal.CorruptError](err); damaged {
		aside = filepath.Join(r.dir, id+".damaged")
		err = os.Rename(r.path(id), aside)
	} else if err == nil {
		err = r.remove(id)
	}
	if err != nil {
		return err
	}
	if a.json() {
		return a.writeJSON(map[string]any{"run": id, "forgotten": true})
	}
	fmt.Fprintf(a.text(), "run %s is forgotten: nothing goes on with it", id)
	if aside != "" {
		fmt.Fprintf(a.text(), "; what is left of its journal is in %s", aside)
	}
	fmt.Fprintln(a.text())
	return nil
}

func (r *runs) remove(id string) error {
	j, _, err := r.open(id) // so that no runner has it
	if err != nil {
		return err
	}
	defer j.Close()
	return os.Remove(r.path(id))
}

// prune removes the oldest of all runs of a site, where they came to their end.
// What cannot be read is kept: a person should look at it.
func (r *runs) prune(all []*pastRun) {
	unfinished := unfinishedOf(all)
	for n, past := range all {
		if len(all)-n > keepRuns && !past.live && !slices.Contains(unfinished, past) {
			os.Remove(r.path(past.id))
		}
	}
}
