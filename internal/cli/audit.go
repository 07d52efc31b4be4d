package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"kido/internal/audit"
	"kido/internal/site"
)

func (a *app) audit() *cobra.Command {
	var e enrolment
	var prove, rules bool
	var failOn string
	c := &cobra.Command{
		Use:   "audit [HOST…]",
		Short: "how well are the keys of a host locked?",
		Long: `Look at this machine, or at HOST over your own ssh, and say where a key could do
more than it is meant to: sshd's effective configuration, every file that can
hold keys, certificates' trust, private keys, polkit and sudo, what init and
cron run and where that logs, owners and modes. Each finding says what was
found, why it matters and how to mend it. Nothing is changed.

It needs no site file, and HOST need not know kido: it is a host of the site, or
whatever your ssh takes. This program is brought to a new folder there, run as
root (by sudo, where the login is not root's) and taken away again. What could
not be read is a finding too.

` + audit.Automation + `

-o json and -o sarif (SARIF 2.1.0) are for scripts. Exit status 1 if there is a
finding at or above --fail-on, or a host could not be looked at. --rules lists
all that is looked for.

` + strings.Join(wrapped(proveHelp, helpWidth), "\n"),
		Example:     "  kido audit\n  kido audit web1 admin@192.168.0.60\n  kido audit web1 --to 'admin@%h' --ssh 'ssh -J bastion'\n  kido audit -o sarif --fail-on warning >kido.sarif\n  kido audit --prove web1",
		Annotations: map[string]string{moreFormats: "sarif"},
		RunE: func(c *cobra.Command, args []string) error {
			threshold := audit.Severity(failOn)
			switch {
			case failOn != "never" && !slices.Contains(audit.Severities(), threshold):
				return usageError("there are: error, warning, note, never", "no such severity: %q", failOn)
			case (prove || rules) && a.output == "sarif":
				return usageError("use: -o text or -o json", "-o sarif is for findings")
			case rules && (prove || len(args) > 0):
				return usageError("say: kido audit --rules", "--rules looks at no host")
			case rules:
				return a.showRules()
			case prove && len(args) != 1:
				return usageError("say: kido audit --prove HOST", "--prove takes one host")
			case prove:
				return a.prove(c.Context(), args[0])
			}
			reports, err := a.reports(c.Context(), args, &e)
			if err == nil || len(reports) > 0 {
				err = errors.Join(a.showReports(reports), err)
			}
			if err == nil && slices.ContainsFunc(reports, func(r audit.Report) bool { return r.Worst().AtLeast(threshold) }) {
				return &failure{status: exitFailed}
			}
			return err
		},
		ValidArgsFunction: a.completeHosts,
	}
	e.flags(c)
	c.Flags().StringVar(&failOn, "fail-on", string(audit.Error), "exit status 1 from this `severity` on: error, warning, note or never")
	c.Flags().BoolVar(&prove, "prove", false, "try at HOST what a thief of this machine's key would")
	c.Flags().BoolVar(&rules, "rules", false, "list all rules")
	_ = c.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions([]string{"error", "warning", "note", "never"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// reports looks at this machine, or at the named hosts. A host that fails holds up
// no other.
func (a *app) reports(ctx context.Context, names []string, e *enrolment) (reports []audit.Report, err error) {
	s, err := a.load()
	if _, bad := errors.AsType[site.Errors](err); err != nil && (a.siteFile != "" || bad && len(names) > 0) {
		return nil, err // another host than the one that is meant might be asked
	}
	if err != nil {
		s = nil // it is needed for nothing else
	}
	if len(names) == 0 {
		r, err := auditHere(s)
		return []audit.Report{r}, err
	}
	if err := e.findProgram(); err != nil {
		return nil, err
	}
	if e.control, err = os.MkdirTemp("", "kido-audit-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(e.control)
	failed := 0
	for _, name := range names {
		h := &site.Host{Name: name, Address: name, Port: 22}
		if s != nil && s.Host(name) != nil {
			h = s.Host(name)
		}
		r, err := a.auditThere(ctx, h, e)
		e.hangUp([]*site.Host{h})
		if ctx.Err() != nil {
			return reports, &failure{status: exitInterrupted, err: errors.New("interrupted"), hint: "nothing was changed"}
		}
		if err != nil {
			failed++
			fmt.Fprintf(a.stderr, "kido: %s: %v\n", name, err)
			continue
		}
		reports = append(reports, r)
	}
	if failed > 0 {
		err = &failure{status: exitFailed, err: fmt.Errorf("%s of %d could not be looked at", count(failed, "host", ""), len(names)), hint: "see if your own ssh gets there: " + e.ssh}
	}
	return reports, err
}

// findProgram finds this program as the hosts can run it.
func (e *enrolment) findProgram() (err error) {
	e.kido = filepath.Join(e.programs, "kido")
	if e.programs == "" {
		if e.kido, err = os.Executable(); err != nil {
			return err
		}
	}
	return checkProgram(e.kido)
}

// auditHere looks at this machine; s may be nil.
func auditHere(s *site.Site) (audit.Report, error) {
	name, err := os.Hostname()
	m := audit.This()
	if s != nil {
		m.Identities = []string{s.Identity}
	}
	return audit.Report{Host: name, Findings: audit.Judge(m.Look())}, err
}

// auditThere has a host look at itself. What it answers may be a lie, and meant to
// harm: it is held to what a report is.
func (a *app) auditThere(ctx context.Context, h *site.Host, e *enrolment) (r audit.Report, err error) {
	const longest = 10 * time.Minute // of which most is left to a person who types a password
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	program, err := os.ReadFile(e.kido)
	if err != nil {
		return r, err
	}
	var bundle bytes.Buffer
	w := tar.NewWriter(&bundle)
	err = w.WriteHeader(&tar.Header{Name: "kido", Mode: 0o755, Size: int64(len(program)), Format: tar.FormatUSTAR})
	if err == nil {
		_, err = w.Write(program)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return r, err
	}
	target := e.target(h)
	dir, _, err := e.unpack(ctx, a, &bundle, target, true)
	if err != nil {
		return r, err
	}
	defer func() {
		if rerr := e.clear(ctx, target, "rm -rf "+dir); err == nil {
			err = rerr
		}
	}()
	// As with enroll, the terminal is sudo's and the report a file of the login's
	// user. Where there is no sudo that user looks, and what he cannot read is found.
	script := fmt.Sprintf(`cd / && : >%[1]s/result && s= && if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null; then s=sudo; fi && $s %[1]s/kido audit -o json --fail-on never >%[1]s/result`, dir)
	if err := e.runTTY(ctx, a, target, script); err != nil {
		return r, fmt.Errorf("kido audit there: %w", err)
	}
	text, err := e.run(ctx, nil, e.stderr(a), target, "cat "+dir+"/result")
	if err != nil {
		return r, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err = d.Decode(&r); err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows it")
		}
	}
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return r, fmt.Errorf("what kido audit says there is no report: %s", oneLine(err.Error()))
	}
	r.Host = h.Name
	return r, nil
}

// showReports writes what was found.
func (a *app) showReports(reports []audit.Report) error {
	switch a.output {
	case "sarif":
		return a.writeJSON(audit.SARIF(Version, reports))
	case "json":
		for _, r := range reports {
			if err := a.writeJSON(r); err != nil {
				return err
			}
		}
		return nil
	}
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(a.text())
		}
		a.showReport(r)
	}
	return nil
}

func (a *app) showReport(r audit.Report) {
	w := a.text()
	if len(r.Findings) == 0 {
		fmt.Fprintf(w, "%s: nothing was found\n", r.Host)
		return
	}
	between := ""
	for _, s := range audit.Severities() {
		found := slices.DeleteFunc(slices.Clone(r.Findings), func(f audit.Finding) bool { return f.Severity != s })
		if len(found) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s%s: %s\n", between, r.Host, count(len(found), string(s), ""))
		between = "\n"
		for _, f := range found {
			fmt.Fprintf(w, "\n  %s  [%s]\n", f.Place, f.Rule)
			for _, line := range slices.Concat(wrapped(upper(f.Found)+".", helpWidth-6), wrapped(f.Why, helpWidth-6)) {
				fmt.Fprintf(w, "      %s\n", line)
			}
			fmt.Fprintf(w, "      > %s\n", f.Mend) // whole: it is there to be copied
		}
	}
}

// upper is a sentence from what was found, which may begin with a name of a file or
// of an option.
func upper(s string) string {
	if first, rest, _ := strings.Cut(s, " "); rest != "" && strings.Trim(first, "abcdefghijklmnopqrstuvwxyz") == "" {
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}

// wrapped breaks a text into lines of at most so many characters; a word that is
// longer has a line of its own.
func wrapped(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func (a *app) showRules() error {
	if a.json() {
		return a.writeJSON(audit.Rules)
	}
	for _, r := range audit.Rules {
		fmt.Fprintf(a.stdout, "%s  %s: %s\n", r.ID, r.Severity, r.Title)
		for _, line := range wrapped(r.Why+" ["+r.Source+"]", helpWidth-4) {
			fmt.Fprintf(a.stdout, "    %s\n", line)
		}
	}
	return nil
}
