package audit

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		place Place
		want  string
	}{
		{Place{File: "/a"}, "/a"},
		{Place{File: "/a", Line: 3}, "/a:3"},
		{Place{File: "/a", Option: "UseDNS"}, "sshd: UseDNS"},
		{Place{File: "/a", Option: "UseDNS", Users: []string{"x", "y"}}, "sshd: UseDNS (user x, y)"},
		{Place{File: "/a", Option: "UseDNS", Users: []string{"a", "b", "c", "d", "e", "f"}}, "sshd: UseDNS (user a, b, c, d and 2 more)"},
		{Place{File: "/a", Option: "UseDNS", Except: []string{"root"}}, "sshd: UseDNS (all users but root)"},
	} {
		if got := c.place.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestEverybody: what sshd does for all accounts names none, and for nearly all the
// others.
func TestEverybody(t *testing.T) {
	t.Parallel()
	f := good()
	for _, name := range []string{"a", "b", "c", "d"} {
		f.Accounts = append(f.Accounts, Account{Name: name, UID: 2000, Shell: "/bin/sh"})
		f.Configs = append(f.Configs, Config{User: name, Values: map[string][]string{"allowusers": {"x"}, "usedns": {"yes"}}})
	}
	for users, want := range map[string]string{"": "sshd: UseDNS", "alice": "sshd: UseDNS (all users but root, kido)"} {
		g := f
		g.set(users, "usedns", "yes")
		if users != "" {
			g.set("root", "usedns", "no")
			g.set("kido", "usedns", "no")
		}
		if found := Judge(g); len(found) != 1 || found[0].Place.String() != want {
			t.Errorf("%q: %v, want %s", users, found, want)
		}
	}
}

// TestReportCheck: what another host says is a report, or an error.
func TestReportCheck(t *testing.T) {
	t.Parallel()
	r := Report{Host: "h\x1b[2J", Findings: []Finding{
		{Rule: "key-short", Severity: Note, Place: Place{File: "/a\nb", Users: []string{"\x07"}}, Found: strings.Repeat("x", 3*longest)},
		{Rule: "key-weak", Severity: Error, Mend: "\u202e\u009b"},
	}}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if f := r.Findings[1]; r.Findings[0].Rule != "key-weak" || f.Place.File != "/a?b" || f.Place.Users[0] != "?" || len(f.Found) > longest+3 || r.Host != "h?[2J" || r.Findings[0].Mend != "??" {
		t.Errorf("%+v", r)
	}
	for name, f := range map[string]Finding{
		"no such rule":     {Rule: "x", Severity: Note},
		"no such severity": {Rule: "key-weak", Severity: "fatal"},
		"a line below 1":   {Rule: "key-weak", Severity: Note, Place: Place{Line: -1}},
	} {
		if err := (&Report{Findings: []Finding{f}}).Check(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := (&Report{Findings: make([]Finding, maxFindings+1)}).Check(); err == nil {
		t.Error("too many: taken")
	}
}

func TestWorst(t *testing.T) {
	t.Parallel()
	if w := (Report{}).Worst(); w != "" || w.AtLeast(Note) {
		t.Errorf("of nothing: %q", w)
	}
	w := (Report{Findings: []Finding{{Severity: Note}, {Severity: Warning}}}).Worst()
	if w != Warning || !w.AtLeast(Note) || !w.AtLeast(Warning) || w.AtLeast(Error) || w.AtLeast("never") {
		t.Errorf("%q", w)
	}
}

// TestSARIF holds what is written to what SARIF 2.1.0 asks of it, as far as it is
// used here (section 3.27 and the schema).
func TestSARIF(t *testing.T) {
	t.Parallel()
	f := good()
	f.keysOf("root", "/root/.ssh/authorized keys", 0, otherKey)
	f.set("", "usedns", "yes")
	text, err := json.Marshal(SARIF("1.0", []Report{{"web1", Judge(f)}, {"web2", nil}}))
	if err != nil {
		t.Fatal(err)
	}
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID, Name string } }
			}
			AutomationDetails struct{ ID string }
			Results           []struct {
				RuleID, Level string
				RuleIndex     int
				Message       struct{ Text string }
				Locations     []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine int }
					}
				}
				PartialFingerprints map[string]string
			}
		}
	}
	if err := json.Unmarshal(text, &log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || len(log.Runs) != 2 || log.Runs[1].Results == nil || log.Runs[0].AutomationDetails.ID != "kido audit/web1" {
		t.Errorf("%.300s", text)
	}
	rules := log.Runs[0].Tool.Driver.Rules
	if len(rules) != len(Rules) || rules[0].Name != "SshProtocol" {
		t.Errorf("%d rules, the first is %+v", len(rules), rules[0])
	}
	lines := map[int]bool{}
	for _, r := range log.Runs[0].Results {
		if rules[r.RuleIndex].ID != r.RuleID || Severity(r.Level).rank() < 0 || r.Message.Text == "" || len(r.PartialFingerprints) != 1 || len(r.Locations) != 1 {
			t.Errorf("%+v", r)
		}
		at := r.Locations[0].PhysicalLocation
		if u, err := url.Parse(at.ArtifactLocation.URI); err != nil || u.Scheme != "file" || strings.Contains(at.ArtifactLocation.URI, " ") {
			t.Errorf("%s: %v", at.ArtifactLocation.URI, err)
		}
		lines[at.Region.StartLine] = true
	}
	if len(lines) != 2 || !lines[1] {
		t.Errorf("lines %v", lines)
	}
}
