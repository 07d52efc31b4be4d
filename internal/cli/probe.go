package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"kido/internal/plan"
	"kido/internal/probe"
	"kido/internal/probe/netprobe"
	"kido/internal/report"
	"kido/internal/site"
	"kido/internal/wire"
)

func (a *app) probe() *cobra.Command {
	var from string
	var verbose bool
	c := &cobra.Command{
		Use:   "probe TARGET…",
		Short: "run the probes of the targets now, and show each answer",
		Long: `Run the readiness probes of the targets once, each from where the site file
wants it asked: at the instance's own host, at the hosts of its dependents, and
here. Show what each answered, how long that took, and why it is not ready.
Nothing is changed.

With --from HOST only that host is asked, for what it probes of the target; with
--from here this machine makes the probes itself, as far as they mean the same
from here. With --verbose there is also the life that a service tells of: what
kido compares to see a restart inside a unit.

Exit status: 0 all are ready, 1 some are not or could not be asked.` + targetHelp,
		Example: "  kido probe oracle\n  kido probe oracle@db1 --from web1 --verbose",
		Args:    atLeast(1, "TARGET"),
		RunE: func(c *cobra.Command, targets []string) error {
			topo, chosen, err := a.resolve(targets)
			if err != nil {
				return err
			}
			var f *fleet
			if from == report.Here { // no key is needed
				f = &fleet{site: topo.Site(), prober: netprobe.Prober{}}
				f.here, err = a.hereOf(topo.Site())
			} else if f, err = a.open(topo.Site()); err == nil {
				defer f.close()
			}
			if err != nil {
				return err
			}
			questions, err := a.questions(topo, f, chosen, from)
			if err != nil {
				return err
			}
			rows := ask(c.Context(), questions)
			if c.Context().Err() != nil {
				return &failure{status: exitInterrupted, err: context.Cause(c.Context())}
			}
			if a.json() {
				err = a.writeJSON(rows)
			} else {
				err = report.WriteProbes(a.text(), rows, verbose)
			}
			if err == nil && slices.ContainsFunc(rows, func(p report.Probe) bool { return !p.Well() }) {
				err = &failure{status: exitFailed}
			}
			return err
		},
		ValidArgsFunction: a.completeTargets,
	}
	c.Flags().StringVar(&from, "from", "", "ask only this `host`, or make the probes here")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the lives that services tell of")
	_ = c.RegisterFlagCompletionFunc("from", func(c *cobra.Command, _ []string, start string) ([]string, cobra.ShellCompDirective) {
		hosts, directive := a.completeHosts(c, nil, start)
		return append(hosts, report.Here), directive
	})
	return c
}

// probing is a question, and how it is answered.
type probing func(context.Context) []report.Probe

// only leaves of the answers those of some probes, and what is of no one probe.
func (q probing) only(of []site.Probe) probing {
	return func(ctx context.Context) []report.Probe {
		return slices.DeleteFunc(q(ctx), func(r report.Probe) bool {
			return r.About != "" && !slices.ContainsFunc(of, func(p site.Probe) bool { return probe.Printable(p.Described()) == r.About })
		})
	}
}

// ask asks all at once, and returns the answers in the order of the questions.
func ask(ctx context.Context, questions []probing) []report.Probe {
	answers := make([][]report.Probe, len(questions))
	var all sync.WaitGroup
	for n, q := range questions {
		all.Go(func() { answers[n] = q(ctx) })
	}
	all.Wait()
	return slices.Concat(answers...)
}

// questions works out who is to be asked what: "" of from is wherever the site file
// wants it.
func (a *app) questions(topo *plan.Topology, f *fleet, chosen []site.Instance, from string) (all []probing, err error) {
	s := topo.Site()
	if from != "" && from != report.Here {
		if _, err := hostOf(s, from); err != nil {
			return nil, fmt.Errorf("--from: %w", err)
		}
	}
	watchers := watchersIn(topo)
	for _, i := range chosen {
		plain := s.Service(i.Service).Adapter.Kind == site.KindPlain // no gate is there: it is looked at from here
		before := len(all)
		if from == report.Here {
			probes, left := askedHere(s, i, f.here)
			switch {
			case len(probes) == 0:
				return nil, usageError("ask at its own host: kido probe "+i.String(), "%s has no probe that could be asked from here%s", i, leftOut(left))
			case len(left) > 0:
				a.warn([]error{fmt.Errorf("%s: left out, as it means only something at %s%s", i, i.Host, leftOut(left))})
			}
			all = append(all, f.fromHere(i, probes))
			continue
		}
		if from == "" || from == i.Host {
			if probes := probesOf(s, i, site.FromHost); plain {
				all = append(all, f.fromHere(i, probes))
			} else {
				all = append(all, f.fromOwn(i, len(probes) > 0))
			}
		}
		hosts := watchers[i]
		if from != "" {
			hosts = slices.DeleteFunc([]string{from}, func(host string) bool {
				return !slices.Contains(watchers[i], host) && (host == i.Host || !dependsAt(s, host, i))
			})
		}
		for _, host := range hosts {
			q := f.fromGate(i, host, wire.Request{Verb: wire.VerbProbe, Service: i.String()})
			if host == i.Host { // whose own probes were asked
				q = q.only(probesOf(s, i, site.FromDependent))
			}
			all = append(all, q)
		}
		if from == "" {
			all = append(all, f.fromHere(i, probesOf(s, i, site.FromRunner)))
		}
		if len(all) == before {
			return nil, usageError("name a host with something that depends on it, or ask from here: --from here", "--from %s: nothing there depends on %s", from, i)
		}
	}
	return all, nil
}

// watchersIn lists, for each instance, the hosts whose gates probe it for what
// depends on it there, in the order of the site file.
func watchersIn(topo *plan.Topology) map[site.Instance][]string {
	all := map[site.Instance][]string{}
	for _, d := range topo.Instances() {
		if topo.Site().Service(d.Service).Adapter.Kind == site.KindPlain {
			continue // no gate is there
		}
		for _, u := range topo.ProbedFrom(d, site.FromDependent) {
			if !slices.Contains(all[u], d.Host) {
				all[u] = append(all[u], d.Host)
			}
		}
	}
	return all
}

// dependsAt reports whether something on a host depends on an instance: its gate then
// looks at that at least before its own service is started.
func dependsAt(s *site.Site, host string, i site.Instance) bool {
	return slices.ContainsFunc(s.Services, func(v *site.Service) bool {
		return v.Adapter.Kind != site.KindPlain && slices.Contains(v.Hosts, host) && slices.ContainsFunc(v.After, func(d site.Dependency) bool {
			return d.Upstream == i.Service && (!d.SameHost || host == i.Host)
		})
	})
}

// fromHere makes probes from this machine, all at once.
func (f *fleet) fromHere(i site.Instance, probes []site.Probe) probing {
	return func(ctx context.Context) []report.Probe {
		rows := make([]report.Probe, len(probes))
		var all sync.WaitGroup
		for n, p := range probes {
			all.Go(func() {
				rows[n] = report.Answered(i.String(), report.Here, answered(p.Spec, f.prober.Try(ctx, p.Spec)))
			})
		}
		all.Wait()
		return rows
	}
}

// fromOwn asks the gate of the instance's own host. Without a probe, and where the
// gate is too old to tell its answers one by one, its status is the answer.
func (f *fleet) fromOwn(i site.Instance, probes bool) probing {
	status := f.fromGate(i, i.Host, wire.Request{Verb: wire.VerbStatus, Service: i.Service})
	if !probes {
		return status
	}
	each := f.fromGate(i, i.Host, wire.Request{Verb: wire.VerbProbe, Service: i.Service})
	return func(ctx context.Context) []report.Probe {
		rows := each(ctx)
		if rows[0].Answer != report.Unknown {
			return rows
		}
		if whole := status(ctx); whole[0].Answer != report.Unknown {
			return whole
		}
		return rows
	}
}

// fromGate asks a host's gate, which makes the probes one after the other.
func (f *fleet) fromGate(i site.Instance, host string, q wire.Request) probing {
	limit := statusTime
	for _, p := range f.site.Service(i.Service).Ready {
		limit += p.Timeout
	}
	return func(ctx context.Context) []report.Probe {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		begun := time.Now()
		r, err := f.Call(ctx, host, q)
		unknown := report.Probe{Instance: i.String(), From: host, Answer: report.Unknown}
		switch {
		case err != nil:
			unknown.Word = err.Error()
			return []report.Probe{unknown}
		case r.Code != wire.CodeOK || r.Status == nil:
			unknown.Word = fmt.Sprintf("%s: %s", r.Code, r.Word)
			return []report.Probe{unknown}
		case len(r.Probes) == 0:
			whole := wire.Probed{Ready: r.Status.Ready, Degraded: r.Status.Degraded, Life: r.Status.Life, Took: time.Since(begun)}
			whole.Word = cmp.Or(r.Status.Word, string(r.Status.State))
			return []report.Probe{report.Answered(i.String(), host, whole)}
		}
		rows := make([]report.Probe, len(r.Probes))
		for n, p := range r.Probes {
			rows[n] = report.Answered(i.String(), host, p)
		}
		return rows
	}
}
