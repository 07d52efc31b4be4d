package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kido/internal/plan"
	"kido/internal/report"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/wire"
)

// statusTime is how long `kido status` and `kido plan` wait for a host.
const statusTime = 15 * time.Second

func (a *app) check() *cobra.Command {
	var schema, example bool
	c := &cobra.Command{
		Use:   "check",
		Short: "is the site file good? Prints every problem at once",
		Long: `Read the site file and print every problem in it, with its place and, where one
is likely, what was meant. Connects to nothing.

For editors: kido check --schema > site.schema.json`,
		Args: exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			switch {
			case schema:
				_, err := a.stdout.Write(site.Schema())
				return err
			case example:
				_, err := fmt.Fprint(a.stdout, exampleSite)
				return err
			}
			s, err := a.load()
			if a.json() {
				return a.checkJSON(s, err)
			}
			if err != nil {
				return err
			}
			for _, w := range s.Warnings() {
				if !a.quiet {
					fmt.Fprintln(a.stderr, "warning:", w.Detail())
				}
			}
			if blind := blindOf(s); len(blind) > 0 && !a.quiet {
				fmt.Fprintf(a.stderr, "note: %s: a restart inside the unit is not seen, as no probe at its host tells the incarnation (that of a database does, and with token: one of http or exec)\n", strings.Join(blind, ", "))
			}
			a.warnOfCertificate(s)
			topo := plan.New(s)
			fmt.Fprintf(a.text(), "%s: good: %s, %s, %s\n", s.File, count(len(s.Hosts), "host", ""), count(len(s.Services), "service", ""), count(len(topo.Instances()), "instance", ""))
			return nil
		},
	}
	c.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of site files")
	c.Flags().BoolVar(&example, "example", false, "print a site file to start from")
	return c
}

// problem is a site.Error as -o json has it.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func problemsOf(errs []*site.Error) []problem {
	all := make([]problem, 0, len(errs))
	for _, e := range errs {
		all = append(all, problem{e.File, e.Line, e.Column, e.Message, e.Hint})
	}
	return all
}

// blindOf names the services whose restarts inside their units nobody sees.
func blindOf(s *site.Site) []string {
	names := []string{}
	for _, v := range s.Blind() {
		names = append(names, v.Name)
	}
	return names
}

// checkJSON writes the problems as lists of objects.
func (a *app) checkJSON(s *site.Site, err error) error {
	problems, ok := errors.AsType[site.Errors](err)
	if err != nil && !ok {
		return err
	}
	out := struct {
		Good     bool      `json:"good"`
		Problems []problem `json:"problems"`
		Warnings []problem `json:"warnings"`
		Blind    []string  `json:"blind"` // services: see site.Blind
	}{Good: err == nil, Problems: problemsOf(problems), Warnings: []problem{}, Blind: []string{}}
	if s != nil {
		out.Warnings, out.Blind = problemsOf(s.Warnings()), blindOf(s)
	}
	if err := a.writeJSON(out); err != nil {
		return err
	}
	if !out.Good {
		return &failure{status: exitUsage}
	}
	return nil
}

func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (a *app) plan() *cobra.Command {
	c := &cobra.Command{
		Use:   "plan VERB [TARGET…]",
		Short: "show what a verb would do now, in which order, and why",
		Long: `Look at the hosts, and show what up, down, start, stop, restart, reload or
announce would do now: the order, what runs in parallel, the reason for each
step, and what is left alone and why. Changes nothing.` + targetHelp,
		Example: "  kido plan restart oracle\n  kido plan up",
		Args:    atLeast(1, "VERB"),
		RunE: func(c *cobra.Command, args []string) error {
			q := plan.Request{Verb: plan.Verb(args[0]), Targets: args[1:]}
			verb, err := a.verb(args[0])
			if err == nil {
				err = verb.ValidateArgs(q.Targets)
			}
			if err != nil {
				return err
			}
			return a.showPlan(c.Context(), q)
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				var verbs []string
				for _, v := range a.verbs() {
					verbs = append(verbs, cobra.CompletionWithDesc(v.Name(), v.Short))
				}
				return verbs, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeTargets(c, args[1:], start)
		},
	}
	return c
}

// verb finds the command of a verb, which says of itself that it is below plan.
func (a *app) verb(name string) (*cobra.Command, error) {
	all := &cobra.Command{Use: "plan", SuggestionsMinimumDistance: 2}
	(&cobra.Command{Use: "kido"}).AddCommand(all)
	for _, v := range a.verbs() {
		all.AddCommand(v)
		if v.Name() == name {
			return v, nil
		}
	}
	hint := "there are: up, down, start, stop, restart, reload, announce"
	if near := all.SuggestionsFor(name); len(near) > 0 {
		hint = "did you mean: " + strings.Join(near, ", ") + "?"
	}
	return nil, usageError(hint, "no such verb: %q", name)
}

func (a *app) showPlan(ctx context.Context, q plan.Request) error {
	topo, targets, fleet, err := a.reach(q.Targets)
	if err != nil {
		return err
	}
	defer fleet.close()
	p, err := makePlan(topo, q, targets, fleet.observe(ctx, topo.Around(targets), statusTime))
	if err != nil {
		return err
	}
	if a.json() {
		return a.writeJSON(p)
	}
	return p.WriteText(a.stdout)
}

func (a *app) graph() *cobra.Command {
	var format string
	var instances, ascii bool
	c := &cobra.Command{
		Use:   "graph [TARGET…]",
		Short: "draw what depends on what: a tree, DOT or Mermaid",
		Long: `Draw the dependencies of the site, or those around the targets: as a tree for a
terminal, for Graphviz (--format dot) or for Mermaid. Connects to nothing.`,
		Example: "  kido graph\n  kido graph --format dot | dot -Tsvg > site.svg",
		RunE: func(_ *cobra.Command, targets []string) error {
			topo, chosen, err := a.resolve(targets)
			if err != nil {
				return err
			}
			f := plan.GraphFormat(format)
			switch {
			case a.json():
				f = plan.FormatJSON
			case !slices.Contains([]plan.GraphFormat{plan.FormatTree, plan.FormatDOT, plan.FormatMermaid, plan.FormatJSON}, f):
				return usageError("there are: tree, dot, mermaid; and -o json", "no such graph format: %q", format)
			}
			return topo.WriteGraph(a.stdout, plan.GraphOptions{Format: f, Instances: instances, ASCII: ascii, Only: chosen})
		},
		ValidArgsFunction: a.completeTargets,
	}
	c.Flags().StringVar(&format, "format", "tree", "`format`: tree, dot or mermaid")
	c.Flags().BoolVar(&instances, "instances", false, "draw each instance, not each service")
	c.Flags().BoolVar(&ascii, "ascii", os.Getenv("LC_ALL") == "C", "draw the tree in ASCII")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"tree", "dot", "mermaid"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status [TARGET…]",
		Short: "what is up and fresh, what owes a restart, and to whom",
		Long: `Ask every host, and show for each instance whether it is up and ready, how old
its incarnation is, and whether it is fresh or owes a restart, and to whom; with
what the journals of this machine say of runs that are not finished, and when
they try again. Exit status 3 if anything owes.` + targetHelp,
		RunE: func(c *cobra.Command, targets []string) error {
			topo, chosen, fleet, err := a.reach(targets)
			if err != nil {
				return err
			}
			defer fleet.close()
			runs, err := a.runs()
			if err != nil {
				return err
			}
			seen := fleet.observe(c.Context(), topo.Around(chosen), statusTime)
			all, damaged := runs.all(topo.Site().Name)
			a.warn(damaged)
			a.warnOfCertificate(topo.Site())
			s := survey(topo, chosen, seen, fleet.sights(c.Context(), topo, chosen, seen), all)
			if a.json() {
				err = a.writeJSON(s)
			} else {
				err = report.WriteStatus(a.stdout, s)
			}
			if err == nil && s.Owing() {
				return &failure{status: exitIncomplete}
			}
			return err
		},
		ValidArgsFunction: a.completeTargets,
	}
}

// survey puts together what was seen, what follows from it, and what the
// journals say.
func survey(topo *plan.Topology, chosen []site.Instance, seen plan.Observed, from sights, past []*pastRun) report.Status {
	s := report.Status{Site: topo.Site().Name, Instances: []report.Instance{}, Runs: []report.Run{}}
	type last struct { // what the last run that touched an instance says of it
		run.StepEvent
		at   time.Time
		live bool
	}
	pending := map[string]last{}
	for _, p := range past {
		for _, id := range slices.Sorted(maps.Keys(p.steps)) { // what was held is also started
			st := p.steps[id]
			pending[st.Instance] = last{st, p.at[id], p.live}
		}
	}
	for _, p := range unfinishedOf(past) {
		s.Runs = append(s.Runs, report.Run{
			ID: p.id, Begun: p.begun, Verb: string(p.request.Verb), Targets: p.request.Targets,
			Outcome: string(p.outcome), Live: p.live,
		})
	}
	if n := len(s.Runs); n > 5 { // the rest is history
		s.Runs = s.Runs[n-5:]
	}
	for _, i := range chosen {
		o := seen[i]
		row := report.Instance{Name: i.String(), State: "unknown", Why: o.Err}
		st, isPending := pending[row.Name]
		if isPending && st.live && !st.Phase.Well() {
			row.Next = st.Next
		}
		if o.Status == nil {
			if isPending && !st.Phase.Well() {
				row.Owes = st.Owes // the last that was heard
			}
			s.Instances = append(s.Instances, row)
			continue
		}
		row.State, row.Ready, row.Degraded, row.Age, row.Why = string(o.Status.State), o.Status.Ready, o.Status.Degraded, o.Status.Age, o.Status.Word
		row.Stale = report.StaleOf(o.Status, func(name string) *wire.Status {
			service, host, _ := strings.Cut(name, "@")
			return seen[site.Instance{Service: service, Host: host}].Status
		})
		need := topo.Need(i, func(u site.Instance) plan.Observation { return seen[u] }, from[i].why)
		for _, d := range need.Debts {
			row.Owes = append(row.Owes, d.Upstream)
		}
		for _, b := range slices.Concat(need.Blocked, need.Passed) {
			row.Waits = append(row.Waits, b.Upstream)
		}
		row.OnPurpose, row.OnHold = plan.OnPurpose(o.Status), o.Status.OnHold
		row.Fresh = need.Fresh() && len(need.Passed) == 0
		if need.Own != "" && row.Why == "" {
			row.Why = need.Own
		}
		if live := isPending && st.live; len(need.Blocked) > 0 && row.Why == "" && !row.OnPurpose {
			row.Why = "waits for " + need.Blocked[0].Upstream + ": " + need.Blocked[0].Why
			if live && st.Limit > 0 {
				row.Why += report.Patience(time.Since(st.at)+time.Duration(st.Waited)*time.Millisecond, time.Duration(st.Limit)*time.Millisecond)
			}
		}
		s.Instances = append(s.Instances, row)
	}
	slices.SortStableFunc(s.Runs, func(x, y report.Run) int { return x.Begun.Compare(y.Begun) })
	return s
}
