package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kido/internal/plan"
	"kido/internal/report"
	"kido/internal/site"
	"kido/internal/wire"
)

// whyTime is how long `kido why` waits for a host: its journals have an answer
// without.
const whyTime = 5 * time.Second

func (a *app) why() *cobra.Command {
	var dirs []string
	var all, noLook bool
	var since time.Duration
	c := &cobra.Command{
		Use:   "why INSTANCE…",
		Short: "why an instance was restarted, or was not",
		Long: `Say in one sentence why the last that happened to an instance happened, or why
it did not; then the evidence, the oldest first: which upstream, which
incarnation, when it was seen and by which run, what was decided and what came
of it; and how the instance stands now.

It reads the journals of this machine's runs, and asks the instance and what it
depends on; where a host does not answer, the journals speak alone. Journals of
runs that other machines made may be carried here and named.

An INSTANCE is web@web1. Of a service (web), a group or all of a host (@web1) it
is one sentence for each.`,
		Example: "  kido why web@web1\n  kido why --all web@web1\n  kido why --journals /tmp/db1/runs web",
		Args:    atLeast(1, "INSTANCE"),
		RunE: func(c *cobra.Command, targets []string) error {
			topo, chosen, err := a.resolve(targets)
			if err != nil {
				return err
			}
			q := report.Question{All: all}
			if q.Runs, err = a.histories(topo.Site().Name, dirs); err != nil {
				return err
			}
			var seen plan.Observed
			var from sights
			if !noLook {
				seen, from = a.glimpse(c.Context(), topo, chosen)
			}
			q.Now = time.Now()
			if c.Flags().Changed("since") {
				q.Since = q.Now.Add(-since)
			}
			for _, i := range chosen {
				q.Look = append(q.Look, lookAt(topo, i, seen, from[i]))
			}
			if a.json() {
				return report.WriteWhyJSON(a.stdout, topo.Site().Name, report.Explain(q))
			}
			return report.WriteWhy(a.stdout, report.Explain(q), q.Now)
		},
		ValidArgsFunction: a.completeTargets,
	}
	c.Flags().BoolVar(&all, "all", false, "all that is on record, not only the last that happened")
	c.Flags().DurationVar(&since, "since", 0, "all of the last `time`: 90s, 15m, 2h")
	c.Flags().BoolVar(&noLook, "no-look", false, "ask no host: only what is on record")
	c.Flags().StringArrayVar(&dirs, "journals", nil, "`folder` of journals that were carried from another machine; may be repeated")
	_ = c.MarkFlagDirname("journals")
	return c
}

// glimpse asks instances and all that they depend on; nil where nobody can be
// asked from here.
func (a *app) glimpse(ctx context.Context, topo *plan.Topology, chosen []site.Instance) (plan.Observed, sights) {
	fleet, err := a.open(topo.Site())
	if err != nil {
		a.warn([]error{fmt.Errorf("no host is asked: %w", err)})
		return nil, nil
	}
	defer fleet.close()
	ask := slices.Clone(chosen)
	for _, d := range chosen {
		for _, level := range topo.Ancestors(d) {
			for _, u := range level {
				if !slices.Contains(ask, u) {
					ask = append(ask, u)
				}
			}
		}
	}
	seen := fleet.observe(ctx, ask, whyTime)
	return seen, fleet.sights(ctx, topo, chosen, seen)
}

// lookAt is what was seen of one instance; seen is nil where nobody was asked.
func lookAt(topo *plan.Topology, i site.Instance, seen plan.Observed, from sight) report.Look {
	l := report.Look{Instance: i.String(), Asked: seen != nil, Self: seen[i], Others: map[string]*wire.Status{}}
	if l.Self.Status == nil {
		return l
	}
	l.Need = topo.Need(i, func(u site.Instance) plan.Observation { return seen[u] }, from.why)
	for u, o := range seen {
		if u != i {
			l.Others[u.String()] = o.Status
		}
	}
	return l
}

// histories reads the journals of a site's runs, this machine's and those in
// other folders. Of one that cannot be read it warns.
func (a *app) histories(site string, dirs []string) (all []report.History, err error) {
	own, err := a.runs()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for n, dir := range append([]string{own.dir}, dirs...) {
		carried := n > 0
		if runs := filepath.Join(dir, "runs"); carried && isDir(runs) {
			dir = runs // the folder that --state names
		}
		names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
		if err == nil && carried && len(names) == 0 {
			return nil, usageError("name a folder with *"+suffix+" in it: /var/lib/kido/runs, or a copy of one", "no journals in %s", dir)
		}
		for _, name := range names {
			id := strings.TrimSuffix(filepath.Base(name), suffix)
			if known[id] {
				continue
			}
			h, err := (&runs{dir}).history(id, site)
			switch {
			case err != nil:
				a.warn([]error{err})
			case h != nil:
				known[id] = true
				if carried {
					h.From = dir
				}
				all = append(all, *h)
			}
		}
	}
	return all, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// history reads one journal whole; nil where the run is another site's, or was
// cut off before it had a plan.
func (r *runs) history(id, site string) (*report.History, error) {
	events, live, err := readRun(r.path(id))
	if len(events) == 0 || err != nil || events[0].Begin.Site != site {
		return nil, err
	}
	return &report.History{ID: id, Live: live, Events: events}, nil
}
