package cli

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/verify"
	"kido/internal/wire"
)

func (a *app) verify() *cobra.Command {
	var facts bool
	var o verify.Options
	c := &cobra.Command{
		Use:   "verify [FILE|DIR…]",
		Short: "do the journals contradict what kido promises?",
		Long: `Read the journals of runs, those of this machine or of the files and folders
that are named, and hold them against what kido promises: no instance was
restarted twice for the same incarnations of its upstreams; none was acted on
for an upstream that the run had not seen ready, or that was itself behind; no
more of a service than its max_unavailable were down at once; what was owed has
been paid; and every journal is whole. Connects to nothing.

Each host that runs kido has journals of its own: bring copies of their folders,
/var/lib/kido/runs, to one place to look at all at once. The times of two hosts
are believed to within --skew.

Journals tell what runs asked for, were told and found. They do not tell what
init or a person did, nor what a service saw as it started, and an old run's is
gone when fifty others have ended. kido status tells what holds now.

Exit status 1 if something contradicts, or a journal cannot be read.`,
		Example: "  kido verify\n  kido verify /var/lib/kido/runs /mnt/web1/runs",
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			named := len(args) > 0
			if !named {
				runs, err := a.runs()
				if err != nil {
					return err
				}
				args = []string{runs.dir}
			}
			files, err := journalFiles(args, named)
			if err != nil {
				return err
			}
			all := readJournals(s, files)
			if facts {
				for _, f := range all.facts {
					fmt.Fprintln(a.stdout, f)
				}
				return all.failure()
			}
			return a.verdict(s, all, o)
		},
	}
	c.Flags().BoolVar(&facts, "facts", false, "print what the journals tell, one fact a line, and judge nothing")
	c.Flags().BoolVar(&o.EachRun, "each-run", false, "count max_unavailable in each run by itself, not over all of them together")
	c.Flags().DurationVar(&o.Skew, "skew", time.Second, "how far apart two runners may have the `time` of one moment")
	return c
}

// journalFiles lists the journals that are named, or are in folders that are: the
// runs folder, or the state folder around it. Of its own folder kido knows; in
// another one there must be some.
func journalFiles(args []string, named bool) (files []string, err error) {
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, usageError("name journals, or folders of them", "%w", err)
		}
		if !info.IsDir() {
			files = append(files, arg)
			continue
		}
		var inside []string
		for _, pattern := range []string{"*" + suffix, filepath.Join("runs", "*"+suffix)} {
			some, err := filepath.Glob(filepath.Join(arg, pattern))
			if err != nil {
				return nil, err
			}
			inside = append(inside, some...)
		}
		if len(inside) == 0 && named {
			return nil, usageError("a runner has its journals in /var/lib/kido/runs, or in ~/.local/state/kido/runs", "no journal is in %s", arg)
		}
		files = append(files, inside...)
	}
	return files, nil
}

// journals is what the journals of a site tell.
type journals struct {
	edges   []verify.Edge // of the site
	facts   []verify.Fact
	runs    int
	hosts   []string // who ran them
	live    map[string]bool
	others  int // runs of other sites
	damaged []error
}

// readJournals reads journals, in the order of their runs. A run that is there
// twice, as a copy that was carried here, counts as its longer one.
func readJournals(s *site.Site, files []string) journals {
	r := journals{edges: edgesOf(s), live: map[string]bool{}, hosts: []string{}}
	histories := map[string][]verify.Fact{}
	for _, file := range files {
		events, live, err := readRun(file)
		switch {
		case err != nil:
			r.damaged = append(r.damaged, err)
		case len(events) == 0: // it did nothing
		case events[0].Begin.Site != s.Name:
			r.others++
		default:
			id := events[0].Run
			r.live[id] = r.live[id] || live
			if facts := factsOf(r.edges, file, events, live); len(facts) > len(histories[id]) {
				histories[id] = facts
			}
		}
	}
	var all [][]verify.Fact
	for _, id := range slices.Sorted(maps.Keys(histories)) {
		all = append(all, histories[id])
		for _, f := range histories[id] {
			if f.What == verify.Opened && !slices.Contains(r.hosts, f.Host) {
				r.hosts = append(r.hosts, f.Host)
			}
		}
	}
	slices.Sort(r.hosts)
	r.runs, r.facts = len(histories), verify.Merge(all...)
	return r
}

// factsOf puts the journal of a run as facts.
func factsOf(edges []verify.Edge, file string, events []run.Event, live bool) (facts []verify.Fact) {
	p := events[0].Begin.Plan
	met, done, ended := map[int]bool{}, map[int]bool{}, false
	for n, e := range events {
		f := verify.Fact{At: e.Time, Run: e.Run, File: file, Line: n + 1}
		switch {
		case e.Begin != nil:
			ended = false
			f.What, f.Host = verify.Opened, e.Begin.By[strings.LastIndexByte(e.Begin.By, '@')+1:]
		case e.End != nil:
			ended = true
			f.What = verify.Closed
		case e.Step == nil || e.Step.ID < 0 || e.Step.ID >= len(p.Steps):
			continue
		default:
			met[e.Step.ID] = true
			done[e.Step.ID] = done[e.Step.ID] || e.Step.Acted
			if f = stepFact(f, p.Steps[e.Step.ID].Action, e.Step); f.What == "" {
				continue
			}
		}
		facts = append(facts, f)
	}
	if ended || live {
		return facts
	}
	// It was cut off: what was to follow is owed.
	for _, step := range p.Steps {
		f := verify.Fact{What: verify.Left, At: events[len(events)-1].Time, Run: events[0].Run, Instance: step.Name, File: file, Line: len(events)}
		for _, e := range step.After {
			up := p.Steps[e.Step]
			if done[e.Step] && up.Action != plan.ActHold && reactsTo(edges, step.Name, up.Name) {
				f.Owes = append(f.Owes, up.Name)
			}
		}
		if step.Action == plan.ActEnsure && !met[step.ID] && len(f.Owes) > 0 {
			facts = append(facts, f)
		}
	}
	return facts
}

// stepFact puts one event of a step as a fact, of no kind where it says nothing
// that is judged.
func stepFact(f verify.Fact, do plan.Action, e *run.StepEvent) verify.Fact {
	f.Instance, f.Token, f.Basis, f.Slot = e.Instance, e.Token, e.Basis, e.Slot
	switch {
	case e.Phase == run.PhaseActing:
		f.What, f.Verb, f.Reaction, f.New, f.Owes = verify.Asked, wire.Verb(e.Verb), e.Reaction, e.New, e.Owes
		f.Hold = do == plan.ActHold
		if e.Own != nil {
			f.Own = *e.Own
		}
	case e.Code != "" && (e.Phase == run.PhaseSettling || e.Phase == run.PhaseRetry):
		f.What, f.Code = verify.Answered, e.Code
	case e.Phase.Well() && (do == plan.ActHold || do == plan.ActWait || len(e.Owes) > 0 && do == plan.ActReload):
		f.What = verify.Seen
	case e.Phase.Well():
		f.What = verify.Found
	case e.Phase.Final():
		f.What, f.Owes = verify.Left, e.Owes
	}
	return f
}

// edgesOf are the dependencies of the site between instances.
func edgesOf(s *site.Site) (edges []verify.Edge) {
	for _, v := range s.Services {
		for _, d := range v.After {
			if d.OnRestart == site.ReactionNone {
				continue
			}
			for _, i := range v.Instances() {
				for _, u := range s.Service(d.Upstream).Instances() {
					if !d.SameHost || u.Host == i.Host {
						edges = append(edges, verify.Edge{
							Dependent: i.String(), Upstream: u.String(),
							Hard: d.Strength == site.Requires && d.Of == site.OfAll,
						})
					}
				}
			}
		}
	}
	return edges
}

func reactsTo(edges []verify.Edge, dependent, upstream string) bool {
	return slices.ContainsFunc(edges, func(e verify.Edge) bool { return e.Dependent == dependent && e.Upstream == upstream })
}

// verdict judges and says what came of it.
func (a *app) verdict(s *site.Site, r journals, o verify.Options) error {
	pools := map[string]int{}
	for _, v := range s.Services {
		pools[v.Name] = v.MaxUnavailable
	}
	found := verify.Check(verify.Site{Edges: r.edges, Pools: pools}, r.facts, o)
	// What a run that is under way owes, it is about to pay.
	found = slices.DeleteFunc(found, func(v verify.Violation) bool {
		return v.Invariant == verify.NoLoss && r.live[v.Facts[len(v.Facts)-1].Run]
	})
	if a.json() {
		if err := a.writeJSON(r.toJSON(s, found)); err != nil {
			return err
		}
	} else {
		a.sayVerdict(r, found)
	}
	if len(found) > 0 {
		return &failure{status: exitFailed}
	}
	return r.failure()
}

// failure is what becomes of journals that cannot be read; they were named.
func (r journals) failure() error {
	if len(r.damaged) == 0 {
		return nil
	}
	return &failure{
		status: exitFailed, err: fmt.Errorf("%s cannot be read: %w", count(len(r.damaged), "journal", ""), errors.Join(r.damaged...)),
		hint: "kido resume --forget RUN puts one of this machine aside, once kido status finds nothing owed",
	}
}

func (a *app) sayVerdict(r journals, found []verify.Violation) {
	w := a.text()
	if r.runs == 0 {
		fmt.Fprintln(w, "no run of this site is on record: there is nothing to look at")
	} else {
		const minute = "2006-01-02 15:04 MST"
		fmt.Fprintf(w, "looked at %s by %s, from %s to %s\n", count(r.runs, "run", ""), strings.Join(r.hosts, ", "),
			r.facts[0].At.Local().Format(minute), r.facts[len(r.facts)-1].At.Local().Format(minute))
	}
	for id, live := range r.live {
		if live {
			fmt.Fprintf(w, "run %s is under way: what it owes is not counted\n", id)
		}
	}
	if r.others > 0 {
		fmt.Fprintf(w, "passed over %s of other sites\n", count(r.others, "run", ""))
	}
	for _, v := range found {
		fmt.Fprintln(a.stdout, v)
	}
	switch {
	case len(found) > 0:
		fmt.Fprintf(a.stdout, "%s\n", count(len(found), "contradiction", ""))
	case r.runs > 0:
		fmt.Fprintln(w, "nothing in their journals contradicts the invariants")
	}
}

// toJSON is the verdict as -o json has it.
func (r journals) toJSON(s *site.Site, found []verify.Violation) any {
	type evidence struct {
		File string    `json:"file"`
		Line int       `json:"line"`
		Time time.Time `json:"time"`
		Fact string    `json:"fact"` // as --facts prints it
	}
	type violation struct {
		Invariant verify.Invariant `json:"invariant"`
		Instance  string           `json:"instance"`
		Sentence  string           `json:"sentence"`
		Evidence  []evidence       `json:"evidence"`
	}
	out := struct {
		Site       string      `json:"site"`
		Good       bool        `json:"good"`
		Runs       int         `json:"runs"`
		Hosts      []string    `json:"hosts"`
		From       *time.Time  `json:"from,omitempty"`
		To         *time.Time  `json:"to,omitempty"`
		Live       []string    `json:"live"`
		Others     int         `json:"others"`
		Damaged    []string    `json:"damaged"`
		Violations []violation `json:"violations"`
	}{
		Site: s.Name, Good: len(found)+len(r.damaged) == 0, Runs: r.runs, Hosts: r.hosts, Others: r.others,
		Live: []string{}, Damaged: []string{}, Violations: []violation{},
	}
	if n := len(r.facts); n > 0 {
		out.From, out.To = &r.facts[0].At, &r.facts[n-1].At
	}
	for _, id := range slices.Sorted(maps.Keys(r.live)) {
		if r.live[id] {
			out.Live = append(out.Live, id)
		}
	}
	for _, err := range r.damaged {
		out.Damaged = append(out.Damaged, err.Error())
	}
	for _, v := range found {
		w := violation{Invariant: v.Invariant, Instance: v.Instance, Sentence: v.Sentence}
		for _, f := range v.Facts {
			w.Evidence = append(w.Evidence, evidence{f.File, f.Line, f.At, f.String()})
		}
		out.Violations = append(out.Violations, w)
	}
	return out
}
