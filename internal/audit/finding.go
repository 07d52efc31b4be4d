package audit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Place is where a finding is: a file and perhaps a line, and for what sshd does,
// the option and for whom.
type Place struct {
	File   string   `json:"file,omitempty"`
	Line   int      `json:"line,omitempty"`
	Option string   `json:"option,omitempty"` // of sshd
	Users  []string `json:"users,omitempty"`  // that it holds for; none: for all
	Except []string `json:"except,omitempty"` // but these
}

// String is FILE:LINE, or "sshd: OPTION (user a, b)", or "(all users but a, b)".
func (p Place) String() string {
	s := p.File
	switch {
	case p.Option != "":
		s = "sshd: " + p.Option
	case p.Line > 0:
		s = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if n := len(p.Users); n > 0 {
		const most = 4
		who := strings.Join(p.Users[:min(n, most)], ", ")
		if n > most {
			who += fmt.Sprintf(" and %d more", n-most)
		}
		s += " (user " + who + ")"
	} else if len(p.Except) > 0 {
		s += " (all users but " + strings.Join(p.Except, ", ") + ")"
	}
	return s
}

// Finding is one thing that a host should do better.
type Finding struct {
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	Place    Place    `json:"place"`
	Found    string   `json:"found"`
	Why      string   `json:"why"`
	Mend     string   `json:"mend"` // the line to write or the command to run
}

// Report is what an audit of a host says.
type Report struct {
	Host     string    `json:"host"`
	Findings []Finding `json:"findings"` // sorted: the worst first, then as Rules has them
}

// Worst is the severity of the worst finding; "" where there is none.
func (r Report) Worst() Severity {
	if len(r.Findings) == 0 {
		return ""
	}
	return slices.MinFunc(r.Findings, func(a, b Finding) int { return a.Severity.rank() - b.Severity.rank() }).Severity
}

func (s Severity) rank() int { return slices.Index(Severities(), s) }

// AtLeast reports whether s is as bad as other, or worse.
func (s Severity) AtLeast(other Severity) bool {
	return s.rank() >= 0 && s.rank() <= other.rank()
}

func sortFindings(all []Finding) {
	order := map[string]int{}
	for i, r := range Rules {
		order[r.ID] = i
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(a.Severity.rank()-b.Severity.rank(), order[a.Rule]-order[b.Rule],
			cmp.Compare(a.Place.File, b.Place.File), a.Place.Line-b.Place.Line)
	})
}

// maxFindings is more than any host has that is worth a report.
const maxFindings = 10000

// Check holds a report that another host has made to what a report is: rules that
// there are, text that can be shown. What does not print is replaced; anything
// else that is not as it should be is an error.
func (r *Report) Check() error {
	if len(r.Findings) > maxFindings {
		return fmt.Errorf("it has %d findings, more than there can be", len(r.Findings))
	}
	r.Host = clean(r.Host)
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Severity.rank() < 0 || !slices.ContainsFunc(Rules, func(r Rule) bool { return r.ID == f.Rule }) {
			return fmt.Errorf("it has a finding of no rule: %q, %q", cut(f.Rule), cut(string(f.Severity)))
		}
		if f.Place.Line < 0 {
			return errors.New("it has a finding on a line below none")
		}
		for _, s := range []*string{&f.Place.File, &f.Place.Option, &f.Found, &f.Why, &f.Mend} {
			*s = clean(*s)
		}
		for _, names := range [][]string{f.Place.Users, f.Place.Except} {
			for j := range names {
				names[j] = clean(names[j])
			}
		}
	}
	sortFindings(r.Findings)
	return nil
}

// longest is how much of one text a report has, in bytes: file names, comments of
// keys and answers of programs are anybody's.
const longest = 2000

func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}

func cut(s string) string { return s[:min(len(s), 60)] }
