package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"kido/internal/gate"
	"kido/internal/install"
	"kido/internal/site"
	"kido/internal/wire"
)

func (a *app) install() *cobra.Command {
	var show, dry, remove, purge, later bool
	var initName, coming string
	c := &cobra.Command{
		Use:   "install",
		Short: "set this machine up as a host of the site, or take that back",
		Long: `Write what this machine needs as a host of the site, as root: the gate, its
policy and the user it runs as; the keys that may come, and sshd's rule that
locks them to the gate; leave, by polkit or sudo, to restart the services that
the site file names and nothing else; and the hooks in its init. One announces
each start of a service that others depend on; one holds the start of a service
at boot until what it depends on is ready.

The keys that may come are those in the folder keys beside the site file:
HOST.pub is the key of a host, people/NAME.pub that of a person, who may do
everything; in front of it stands from="ADDRESS", where it comes from.

What is up and announced is announced at once: each service that depends on it
is restarted (or whatever the site says), a few at a time, where kido has not
yet seen against which start of its upstream it runs. --later leaves that to
the next start.

What is in place already is left as it is, so it may be run as often as you
like; run it again when the site file or the keys have changed. --dry-run
changes nothing and shows the difference: of each file what would be added and
removed, and the commands. It ends with status 0 whether or not there is one.`,
		Example: "  kido install --print       # all that this machine needs, in full\n  kido install --dry-run     # what would change\n  kido install\n  kido install --remove",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case initName != "" && !show:
				return usageError("kido finds out which init this machine has; to see what another would need: --print --init NAME", "--init goes with --print")
			case purge && !remove:
				return usageError("say: kido install --remove --purge", "--purge goes with --remove")
			case show && dry:
				return usageError("--print shows all that is needed, --dry-run what of it is missing", "--print and --dry-run are two questions")
			case !show && os.Geteuid() != 0:
				return usageError("run it as root; --print shows what it would do, as any user", "only root can set a machine up")
			case remove:
				return a.uninstall(c, show, dry, purge)
			}
			return a.setUp(c, show, dry, later, initName, install.Coming(coming))
		},
	}
	c.Flags().BoolVar(&show, "print", false, "change nothing: show every file in full, and every command")
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "change nothing: show what would change")
	c.Flags().BoolVar(&later, "later", false, "announce nothing now: the hooks begin with the next start")
	c.Flags().BoolVar(&remove, "remove", false, "take back what was installed, and is as it was")
	c.Flags().BoolVar(&purge, "purge", false, "with --remove: the gate's user, state, key and journals too")
	c.Flags().StringVar(&initName, "init", "", "with --print: for a host with `systemd`, sysv or openrc")
	c.Flags().StringVar(&coming, comingFlag, "", "what kido enroll, whose words these are, brings by itself")
	_ = c.Flags().MarkHidden(comingFlag)
	return c
}

// comingFlag is said by kido enroll alone, to the kido that it has brought.
const comingFlag = "coming"

func (a *app) setUp(c *cobra.Command, show, dry, later bool, initName string, coming install.Coming) error {
	s, err := a.load()
	if err != nil {
		return err
	}
	m := install.This()
	if !show && !dry {
		unlock, err := m.Lock(c.Context())
		if err != nil {
			return err
		}
		defer unlock()
	}
	host, err := a.installHost(m, s)
	if err != nil {
		return err
	}
	var facts install.Facts
	switch init := install.Init(initName); init {
	case "":
		if facts, err = m.Look(s, host); err != nil {
			return fmt.Errorf("cannot look at this machine: %w", err)
		}
	case install.Systemd, install.SysV, install.OpenRC:
		facts = install.Assume(init)
	default:
		return usageError("there are: systemd, sysv, openrc", "no such init: %q", initName)
	}
	src, err := source(s)
	if err != nil {
		return err
	}
	src.Keys.Coming = coming
	setup, err := install.Make(src, host, facts)
	if err != nil {
		return &failure{status: exitUsage, err: err, hint: "see what a host needs: kido install --print"}
	}
	setup.Later = later
	work := &install.Work{}
	if initName == "" {
		if work, err = m.Compare(setup); err != nil {
			return err
		}
	}
	work.Warnings = slices.Concat(setup.Warnings, work.Warnings)
	switch {
	case show:
		return a.showSetup(setup, work)
	case dry:
		return a.showWork(host, work)
	}
	result, err := a.work(c, host, work)
	if err != nil {
		return err
	}
	if result.PublicKey, err = m.Public(setup); err != nil {
		return err
	}
	if result.NextKey, err = m.Next(setup); err != nil {
		return err
	}
	result.HostKeys = m.HostKeys()
	if !later {
		here := &fleet{site: s, here: host, gate: install.GateProgram, policy: gate.DefaultPolicy}
		result.Behind = here.behind(c.Context(), setup.Announced)
	}
	if a.json() {
		return a.writeJSON(result)
	}
	if len(work.Steps) == 0 {
		fmt.Fprintf(a.text(), "%s: nothing to change\n", host)
	} else {
		fmt.Fprintf(a.text(), "%s: done\n", host)
	}
	if result.PublicKey != "" {
		fmt.Fprintf(a.text(), "public key of %s, to be keys/%[1]s.pub at the hosts that it reaches:\n%s\n", host, result.PublicKey)
	}
	a.warnText(work.Warnings)
	a.sayBehind(result.Behind)
	return nil
}

// behind says of instances of this host why their hooks cannot announce them now, as
// far as one look tells: each that is not ready.
func (f *fleet) behind(ctx context.Context, announced []site.Instance) []string {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	words := make([]string, len(announced))
	var asked sync.WaitGroup // at once: one that hangs holds up no other
	for n, i := range announced {
		asked.Go(func() {
			switch r, err := f.local(ctx, wire.Request{Verb: wire.VerbStatus, Service: i.Service}); {
			case err != nil:
				words[n] = err.Error()
			case r.Code != wire.CodeOK || r.Status == nil:
				words[n] = fmt.Sprintf("%s: its gate says %s: %s", i, r.Code, r.Word)
			case r.Status.Ready:
			case r.Status.State == wire.StateUp, r.Status.State == wire.StateBlind:
				words[n] = fmt.Sprintf("%s: not ready: %s; its hook keeps trying: kido status", i, r.Status.Word)
			default:
				words[n] = fmt.Sprintf("%s: %s; its next start is announced", i, r.Status.State)
			}
		})
	}
	asked.Wait()
	return slices.DeleteFunc(words, func(word string) bool { return word == "" })
}

// sayBehind tells what is not announced yet, which may be a host's word.
func (a *app) sayBehind(lines []string) {
	for _, line := range lines {
		fmt.Fprintln(a.text(), oneLine(line))
	}
}

func (a *app) uninstall(c *cobra.Command, show, dry, purge bool) error {
	m := install.This()
	if !show && !dry {
		unlock, err := m.Lock(c.Context())
		if err != nil {
			return err
		}
		defer unlock()
	}
	host, err := m.Installed()
	if err != nil {
		return err
	}
	work, err := m.Remove(purge)
	if err != nil {
		return err
	}
	switch {
	case show:
		return a.showSetup(&install.Setup{Host: host}, work)
	case dry:
		return a.showWork(host, work)
	}
	result, err := a.work(c, host, work)
	if err != nil {
		return err
	}
	if a.json() {
		return a.writeJSON(result)
	}
	if len(work.Steps) == 0 {
		fmt.Fprintln(a.text(), "nothing is installed here")
	}
	a.warnText(work.Warnings)
	return nil
}

// work does the work, and tells of each step.
func (a *app) work(c *cobra.Command, host string, work *install.Work) (install.Result, error) {
	result := install.Result{Host: host, Changed: []string{}}
	err := work.Do(c.Context(), func(s install.Step) {
		if s.Argv != nil {
			result.Commands = append(result.Commands, strings.Join(s.Argv, " "))
		} else {
			result.Changed = append(result.Changed, s.Path)
		}
		if !a.json() {
			fmt.Fprintln(a.text(), s)
		}
	})
	result.Warnings = work.Warnings
	switch {
	case err != nil && c.Context().Err() != nil:
		return result, &failure{status: exitInterrupted, err: err}
	case err != nil:
		a.warnText(work.Warnings)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return result, &failure{status: exitFailed, err: err, hint: "make room on that disk; what was done so far is on record, and sshd and init work as before: run it again to complete it"}
		}
		return result, &failure{status: exitFailed, err: err, hint: "what was done so far is on record: run it again to complete it, or kido install --remove to take it back"}
	}
	return result, nil
}

// resultOf is what work would come to.
func resultOf(host string, work *install.Work) install.Result {
	result := install.Result{Host: host, Changed: []string{}, Warnings: work.Warnings}
	for _, s := range work.Steps {
		if s.Argv != nil {
			result.Commands = append(result.Commands, strings.Join(s.Argv, " "))
		} else {
			result.Changed = append(result.Changed, s.Path)
		}
	}
	return result
}

// showWork shows what the work would change.
func (a *app) showWork(host string, work *install.Work) error {
	result := resultOf(host, work)
	for _, s := range work.Steps {
		result.Steps = append(result.Steps, s.Shown())
	}
	if a.json() {
		return a.writeJSON(result)
	}
	showSteps(a.stdout, result)
	a.warnText(work.Warnings)
	return nil
}

// showSteps writes the steps of a result, which may be a host's word.
func showSteps(out io.Writer, r install.Result) {
	name := r.Host
	if name == "" {
		name = "this machine"
	}
	if len(r.Steps) == 0 {
		fmt.Fprintf(out, "%s: nothing to change\n", name)
		return
	}
	fmt.Fprintf(out, "%s: %s would be done\n", name, count(len(r.Steps), "step", ""))
	known := func(d *install.Digest) string {
		if d == nil {
			return "none"
		}
		return fmt.Sprintf("%d bytes, sha256 %s", d.Size, oneLine(d.SHA256))
	}
	for _, s := range r.Steps {
		what := oneLine(s.What)
		if s.Mode != "" {
			what += " (mode " + oneLine(s.Mode) + ")"
		}
		fmt.Fprintln(out, what)
		if s.Before != nil || s.After != nil {
			fmt.Fprintf(out, "  now:  %s\n  then: %s\n", known(s.Before), known(s.After))
		}
		for line := range strings.Lines(s.Diff) {
			cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			for i, cell := range cells {
				cells[i] = oneLine(cell)
			}
			fmt.Fprintln(out, strings.Join(cells, "\t"))
		}
	}
}

// showSetup shows all of a setup, and the work that is left.
func (a *app) showSetup(setup *install.Setup, work *install.Work) error {
	result := resultOf(setup.Host, work)
	if a.json() {
		for _, f := range setup.Files {
			result.Files = append(result.Files, f.Shown())
		}
		return a.writeJSON(result)
	}
	out := a.stdout
	for _, f := range setup.Folders {
		fmt.Fprintf(out, "==> %s/ (mode %04o, %s)\n", f.Path, f.Mode, f.Owner)
	}
	for _, f := range setup.Files {
		switch {
		case f.From != "":
			fmt.Fprintf(out, "\n==> %s (mode %04o, %s): copied from %s\n", f.Path, f.Mode, f.Owner(), f.From)
		case f.Block:
			fmt.Fprintf(out, "\n==> at the end of %s\n%s", f.Path, f.Text)
		default:
			fmt.Fprintf(out, "\n==> %s (mode %04o, %s)\n%s", f.Path, f.Mode, f.Owner(), f.Text)
		}
	}
	if len(work.Steps) > 0 {
		fmt.Fprintln(out, "\n==> what would be done now")
	}
	for _, s := range work.Steps {
		fmt.Fprintln(out, s)
	}
	a.warnText(work.Warnings)
	return nil
}

// installHost is the host of the site that this machine is to be.
func (a *app) installHost(m *install.Machine, s *site.Site) (string, error) {
	if a.here != "" && a.here != "none" {
		h, err := hostOf(s, a.here)
		if err != nil {
			return "", fmt.Errorf("--here: %w", err)
		}
		return h.Name, nil
	}
	name, err := m.Installed()
	if err != nil {
		return "", err
	}
	if name != "" && s.Host(name) != nil {
		return name, nil
	}
	name, err = os.Hostname()
	if err != nil {
		return "", err
	}
	short, _, _ := strings.Cut(name, ".")
	for _, n := range []string{name, short} {
		if s.Host(n) != nil {
			return n, nil
		}
	}
	return "", usageError("say which one it is: --here HOST (hosts of the site: "+hostNames(s)+")", "this machine is called %s, and the site has no host of that name", name)
}

// source is the site as it is to be installed.
func source(s *site.Site) (install.Source, error) {
	file, err := filepath.Abs(s.File)
	if err != nil {
		return install.Source{}, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return install.Source{}, err
	}
	ring, err := keyring(s)
	if err != nil {
		return install.Source{}, err
	}
	known, err := os.ReadFile(s.KnownHosts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return install.Source{}, fmt.Errorf("pinned host keys: %w", err)
	}
	return install.Source{File: file, Text: string(text), Keys: ring, KnownHosts: string(known)}, nil
}

// warnText is warn for what is only a text, and may be left unsaid.
func (a *app) warnText(warnings []string) {
	if a.quiet {
		return
	}
	for _, w := range warnings {
		fmt.Fprintln(&printable{to: a.stderr}, "kido: warning:", w)
	}
}
