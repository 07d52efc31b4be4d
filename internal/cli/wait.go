package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"kido/internal/install"
	"kido/internal/probe"
	"kido/internal/probe/netprobe"
	"kido/internal/report"
	"kido/internal/site"
	"kido/internal/wire"
)

// waitTime is how long kido wait waits unless told otherwise: shorter than systemd
// and most other supervisors wait for a start, so that its own last words, which say
// what is missing, come before they end it.
const waitTime = 60 * time.Second

type waitFlags struct {
	timeout, interval, tryTimeout, settle time.Duration
	successes                             int
	any, verbose                          bool
	passwordFile, passwordEnv             string

	hasInterval, hasSuccesses bool // they are given, and go before what the site says
}

func (a *app) wait() *cobra.Command {
	f := waitFlags{}
	c := &cobra.Command{
		Use:   "wait [flags] WHAT… [-- PROGRAM [ARG…]]",
		Short: "wait until all of WHAT answer, then run PROGRAM",
		Long: `Wait until all of WHAT answer, by probes that are made from here. Then, if
there is a PROGRAM, become it: same process, same environment.

WHAT is the URL of a probe, for which no site file is needed:

  tcp://db1:5432 or db1:5432                    it takes connections
  postgres://USER@HOST/DATABASE?role=primary    it answers, and takes writes
  mysql:// oracle:// redis:// mongodb://        likewise; rediss://, amqps://,
  amqp:// kafka:// ldap:// smtp://              ldaps:// and smtps:// with TLS
  http://web1/health#status=200,204&match=ok    options of http behind a #
  tls://host:443?days=14                        a certificate that lasts
  dns:NAME  file:/PATH  unit:NAME               this machine knows, has, runs it
  exec:/PATH/OF/PROGRAM ARG                     a program says so by its exit
                                                status; split at blanks
  not:URL                                       it does not answer

or a service or instance of the site file (oracle, oracle@db1): its probes, as
far as they mean the same from here. Options are those of the site file's
probes, and timeout. A password is never part of a URL: say where it is, by a
flag or by password=file:/PATH, env:VARIABLE or credential:NAME.

What does not answer is asked again soon, then more and more seldom up to the
interval, never in step with other machines. All must answer at the same time.
What happens is said on standard error, a line where something changes. After a
minute it gives up, before systemd gives up a start: see --timeout.

Exit status: 0 ready, 1 not in time, 2 the call is wrong, 130 interrupted; else
that of PROGRAM.

On a host set up by kido install, init itself holds the site's services until
their upstreams answer (kido-gate --wait), and kido knows what each was started
against. kido wait is for all other starts, and leaves no record.`,
		Example: `  kido wait db1:5432
  kido wait --timeout 5m postgres://shop@db1/shop --password-file /etc/shop/pw \
    redis://cache1 -- /usr/sbin/apache2ctl start
  kido wait --any tcp://ns1:53 tcp://ns2:53`,
		RunE: func(c *cobra.Command, args []string) error {
			what, program := args, []string(nil)
			if n := c.ArgsLenAtDash(); n >= 0 {
				what, program = args[:n], args[n:]
				if len(program) == 0 {
					return usageError("see: kido wait --help", "kido wait: PROGRAM is missing behind --")
				}
			}
			if err := atLeast(1, "WHAT")(c, what); err != nil {
				return err
			}
			f.hasInterval, f.hasSuccesses = c.Flags().Changed("interval"), c.Flags().Changed("successes")
			return a.await(c.Context(), what, program, f)
		},
		ValidArgsFunction: a.completeWhat,
	}
	flags := c.Flags()
	flags.DurationVarP(&f.timeout, "timeout", "t", waitTime, "give up after this `time`; 0: never")
	flags.DurationVar(&f.interval, "interval", time.Second, "longest `time` between two tries")
	flags.DurationVar(&f.tryTimeout, "try-timeout", 0, "`time` that one try may take (default: 3s, or as the site file says)")
	flags.IntVar(&f.successes, "successes", 1, "it must answer `N` times in a row")
	flags.DurationVar(&f.settle, "settle", 0, "it must go on answering for this `time`")
	flags.BoolVar(&f.any, "any", false, "one of WHAT is enough")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say every answer")
	flags.StringVar(&f.passwordFile, "password-file", "", "`file` with the password of the users in the URLs")
	flags.StringVar(&f.passwordEnv, "password-env", "", "environment `variable` with it")
	_ = c.MarkFlagFilename("password-file")
	return c
}

func (f waitFlags) check() error {
	const hint = "see: kido wait --help"
	switch {
	case f.timeout < 0:
		return usageError(hint, "--timeout %v: less than nothing", f.timeout)
	case f.interval < time.Millisecond:
		return usageError(hint, "--interval %v: at least 1ms", f.interval)
	case f.tryTimeout < 0:
		return usageError(hint, "--try-timeout %v: less than nothing", f.tryTimeout)
	case f.settle < 0:
		return usageError(hint, "--settle %v: less than nothing", f.settle)
	case f.timeout > 0 && f.settle >= f.timeout:
		return usageError("give it more time: --timeout "+(f.settle+waitTime).String(), "--settle %v: it would be over after --timeout %v", f.settle, f.timeout)
	case f.passwordFile != "" && f.passwordEnv != "":
		return usageError(hint, "--password-file and --password-env: one of them")
	case f.successes < 1 || f.successes > 100:
		return usageError(hint, "--successes %d: 1 to 100", f.successes)
	}
	return nil
}

// awaited is one probe that is waited for.
type awaited struct {
	instance  string // "" where it is of no site
	spec      probe.Spec
	interval  time.Duration
	successes int // in a row

	tries int
	last  report.Probe
	well  bool
}

// name is what is waited for, as people read it.
func (w *awaited) name() string {
	if w.instance == "" {
		return w.spec.Described()
	}
	return w.instance + " (" + w.spec.Described() + ")"
}

// await waits, tells, and becomes the program.
func (a *app) await(ctx context.Context, what, program []string, f waitFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	path := ""
	if len(program) > 0 {
		var err error // before the wait: it is better known now
		if path, err = exec.LookPath(program[0]); err != nil {
			return usageError("name a program that is there", "kido wait: %w", err)
		}
	}
	all, err := a.awaited(what, f)
	if err != nil {
		return err
	}
	begun := time.Now()
	ready := a.watch(ctx, all, f)
	took := time.Since(begun)
	if a.json() {
		if err := a.writeJSON(waited(all, ready, took)); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return &failure{status: exitInterrupted, err: errors.New("interrupted: " + missing(all))}
	case !ready:
		for _, w := range all {
			if len(all) > 1 && !w.well {
				fmt.Fprintf(&printable{to: a.stderr}, "kido: %s: %s\n", w.name(), w.last.Word)
			}
		}
		return &failure{status: exitFailed, err: fmt.Errorf("not ready after %v: %s", f.timeout, missing(all))}
	case path == "":
		return nil
	}
	return become(path, program)
}

// missing says what did not answer.
func missing(all []*awaited) string {
	if len(all) == 1 {
		return all[0].name() + ": " + all[0].last.Word
	}
	return fmt.Sprintf("%d of %d do not answer", len(unwell(all)), len(all))
}

func unwell(all []*awaited) []*awaited {
	return slices.DeleteFunc(slices.Clone(all), func(w *awaited) bool { return w.well })
}

// waited is what -o json writes.
func waited(all []*awaited, ready bool, took time.Duration) any {
	type row struct {
		report.Probe
		Well  bool `json:"ready"`
		Tries int  `json:"tries"`
	}
	rows := make([]row, len(all))
	for n, w := range all {
		rows[n] = row{w.last, w.well, w.tries}
	}
	return struct {
		Ready  bool           `json:"ready"`
		Took   report.Seconds `json:"took"`
		Probes []row          `json:"probes"`
	}{ready, report.Seconds(took), rows}
}

// become makes this process the program. What this one ignores would be handed down
// to it; what it catches has its default there again, and what was ignored when this
// one was started, as nohup does, is ignored.
func become(path string, argv []string) error {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signal.Reset(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := syscall.Exec(path, argv, os.Environ())
	return &failure{status: exitFailed, err: fmt.Errorf("cannot run %s: %w", path, err)}
}

// awaited works out what to ask.
func (a *app) awaited(what []string, f waitFlags) (all []*awaited, err error) {
	source, err := f.password()
	if err != nil {
		return nil, err
	}
	var s *site.Site
	used := source == ""
	for _, w := range what {
		if isURL(w) {
			spec, err := probeOf(w, source)
			if err != nil {
				return nil, err
			}
			used = used || logsIn(spec, source)
			all = append(all, &awaited{spec: spec, interval: f.interval, successes: f.successes})
			continue
		}
		if s == nil {
			if s, err = a.load(); err != nil {
				if bad, ok := errors.AsType[*failure](err); ok {
					err = usageError(fmt.Sprintf("a host takes its port, %s:PORT, and a program stands behind --; for a service of a site: %s", w, bad.hint),
						"%s is no URL of a probe, so it is looked for in the site file: %w", w, bad.err)
				}
				return nil, err
			}
		}
		some, err := a.ofSite(s, w, f)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	if !used {
		return nil, usageError("name the user: postgres://USER@HOST/DATABASE; to Redis without one: redis://HOST?password=file:/PATH", "a password is given, and no URL has a user without one")
	}
	return all, f.finish(all)
}

// password is where the password of the users in the URLs is to be read, as a probe
// has it; "" where no flag says so.
func (f waitFlags) password() (string, error) {
	switch {
	case f.passwordFile != "":
		path, err := filepath.Abs(f.passwordFile)
		return "file:" + path, err
	case f.passwordEnv != "":
		return "env:" + f.passwordEnv, nil
	}
	return "", nil
}

// logsIn reports whether a probe, or one in a not, has its password from a source.
func logsIn(s probe.Spec, source string) bool {
	return s.Options["password"] == source || slices.ContainsFunc(s.Of, func(part probe.Spec) bool { return logsIn(part, source) })
}

// finish gives the probes what flags say of all of them.
func (f waitFlags) finish(all []*awaited) error {
	for _, w := range all {
		if f.tryTimeout > 0 && (w.instance != "" || w.spec.Timeout == 0) {
			w.spec.Timeout = f.tryTimeout
		}
		if err := w.spec.Check(); err != nil {
			return usageError("see: kido wait --help", "%s: %w", w.name(), err)
		}
		w.last = report.Answered(w.instance, "", wire.Probed{About: w.spec.Described(), Word: "no answer yet"})
	}
	return nil
}

// ofSite are the probes of a target of the site, as far as they can be made from
// here; what cannot is said.
func (a *app) ofSite(s *site.Site, target string, f waitFlags) (all []*awaited, err error) {
	instances, err := s.Resolve([]string{target})
	if err != nil {
		return nil, err
	}
	here, err := a.hereOf(s)
	if err != nil {
		return nil, err
	}
	for _, i := range instances {
		var some []*awaited
		probes, left := askedHere(s, i, here)
		for _, p := range probes {
			w := &awaited{instance: i.String(), spec: p.Spec, interval: p.Interval, successes: p.Successes}
			if f.hasInterval {
				w.interval = f.interval
			}
			if f.hasSuccesses {
				w.successes = f.successes
			}
			some = append(some, w)
		}
		if len(some) == 0 {
			return nil, usageError("name a probe by its URL, such as tcp://HOST:PORT; kido probe "+i.String()+" asks at its own host",
				"%s has no probe that could be asked from here%s", i, leftOut(left))
		}
		if len(left) > 0 {
			a.warn([]error{fmt.Errorf("%s: not waited for, as it means only something at %s%s", i, i.Host, leftOut(left))})
		}
		all = append(all, some...)
	}
	return all, nil
}

func leftOut(left []probe.Spec) string {
	if len(left) == 0 {
		return ""
	}
	words := make([]string, len(left))
	for n, p := range left {
		words[n] = p.Described()
	}
	return ": " + strings.Join(words, ", ")
}

// askedHere are the probes of an instance that this machine can make, and those that
// mean only something at the instance's own host.
func askedHere(s *site.Site, i site.Instance, here string) (probes []site.Probe, left []probe.Spec) {
	for _, from := range []site.ProbeFrom{site.FromHost, site.FromDependent, site.FromRunner} {
		for _, p := range probesOf(s, i, from) {
			if from == site.FromHost && i.Host != here && !install.Reachable(p.Spec) {
				left = append(left, p.Spec)
			} else {
				probes = append(probes, p)
			}
		}
	}
	return probes, left
}

// probesOf are the probes of an instance that are meant for a place, with every
// address filled in.
func probesOf(s *site.Site, i site.Instance, from site.ProbeFrom) (all []site.Probe) {
	v := s.Service(i.Service)
	specs := install.Probes(s, v, i.Host, from)
	for _, p := range v.Ready {
		if p.From == from {
			p.Spec, specs = specs[0], specs[1:]
			all = append(all, p)
		}
	}
	return all
}

func (f waitFlags) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, f.timeout)
}

// seen is what one try came to.
type seen struct {
	n      int
	answer wire.Probed
	more   string // what is yet to come where it answers and that is not enough
}

// watch asks each on its own until all are well at the same time, or one of any, or
// time is over. No try is under way when it returns.
func (a *app) watch(ctx context.Context, all []*awaited, f waitFlags) (ready bool) {
	names := make([]string, len(all))
	for n, w := range all {
		names[n] = w.name()
	}
	view := report.Wait(a.stderr, names, report.WaitOptions{Limit: f.timeout, Quiet: a.quiet, Verbose: f.verbose})
	defer view.Close()
	ctx, cancel := f.limit(ctx)
	var tries sync.WaitGroup
	defer tries.Wait()
	defer cancel()
	answers := make(chan seen)
	for n, w := range all {
		tries.Go(func() {
			w.ask(ctx, netprobe.Prober{}, f.settle, func(s seen) {
				s.n = n
				select {
				case answers <- s:
				case <-ctx.Done():
				}
			})
		})
	}
	most := 0 // may be missing at the end
	if f.any {
		most = len(all) - 1
	}
	for len(unwell(all)) > most {
		select {
		case s := <-answers:
			w := all[s.n]
			w.tries++
			w.well = s.answer.Ready && s.more == ""
			w.last = report.Answered(w.instance, "", s.answer)
			if s.more != "" {
				w.last.Word = s.more
			}
			view.Answer(s.n, s.answer, s.more)
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// ask asks again and again: soon at first, and at most once an interval. The pauses
// differ by up to a fifth, so that a thousand machines that boot do not ask in step.
func (w *awaited) ask(ctx context.Context, prober probe.Prober, settle time.Duration, tell func(seen)) {
	const soonest = 8 // of an interval
	pause, row := w.interval/soonest, 0
	var since time.Time // of the row's first answer
	var life string     // all of a row are of one life
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		asked := time.Now()
		a := prober.Try(ctx, w.spec)
		if over(ctx) {
			return // it was not let finish
		}
		s := seen{answer: answered(w.spec, a)}
		next := w.interval
		if !a.Ready || a.Life != life {
			row = 0
		}
		if row == 0 {
			since, life = asked, a.Life
		}
		row++
		switch left := settle - time.Since(since); {
		case !a.Ready:
			row, next, pause = 0, pause, min(2*pause, w.interval)
		case row < w.successes:
			s.more = fmt.Sprintf("answered %d of %d times", row, w.successes)
		case left > 0:
			s.more = fmt.Sprintf("answers, and is to do so for %v", settle)
			next = min(next, left)
		}
		tell(s)
		timer.Reset(time.Duration((0.8 + 0.4*rand.Float64()) * float64(next)))
	}
}

// over reports whether ctx has ended, or is about to: what goes by its deadline may
// have seen that first.
func over(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && !time.Now().Before(deadline)
}

// completeWhat offers the beginnings of URLs, and what the site has.
func (a *app) completeWhat(c *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	if n := c.ArgsLenAtDash(); n >= 0 && n < len(args) { // but for the program itself: cobra does not tell
		return nil, cobra.ShellCompDirectiveDefault
	}
	all, _ := a.completeTargets(c, args, start)
	for _, name := range schemeNames() {
		sort, _ := sortOf(name)
		switch sort.Form {
		case probe.FormAddress, probe.FormURL:
			name += "://"
		default:
			name += ":"
		}
		all = append(all, name)
	}
	return all, cobra.ShellCompDirectiveNoSpace // and files where none of these fits: the program
}

func answered(s probe.Spec, a probe.Answer) wire.Probed {
	return wire.Probed{About: s.Described(), Ready: a.Ready, Degraded: a.Degraded, Word: a.Word, Took: a.Took, Life: a.Life}
}
