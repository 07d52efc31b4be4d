package site

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"kido/internal/wire"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func testFiles(t testing.TB, folder string) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/" + folder + "/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata/%s: %v", folder, err)
	}
	return files
}

// TestErrors holds every message that a wrong file leads to.
func TestErrors(t *testing.T) {
	schema := compiledSchema(t)
	for _, folder := range []string{"syntax", "structural", "semantic"} {
		for _, file := range testFiles(t, folder) {
			t.Run(folder+"/"+filepath.Base(file), func(t *testing.T) {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				s, err := Parse("site.yaml", text)
				if s != nil || err == nil {
					t.Fatalf("Parse = %v, %v", s, err)
				}
				golden(t, file+".golden", err.Error()+"\n")
				switch folder {
				case "structural":
					if err := schema.Validate(plainValue(t, string(text))); err == nil {
						t.Error("the schema accepts it")
					}
				case "semantic":
					if err := schema.Validate(plainValue(t, string(text))); err != nil {
						t.Errorf("the schema refuses it: move it to structural. %v", err)
					}
				}
			})
		}
	}
}

// TestValid holds all that comes of a valid file.
func TestValid(t *testing.T) {
	schema := compiledSchema(t)
	for _, file := range testFiles(t, "valid") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Parse("/etc/kido/site.yaml", text)
			if err != nil {
				t.Fatal(err)
			}
			consistent(t, s)
			golden(t, file+".golden", dump(s))
			if err := schema.Validate(plainValue(t, strings.TrimPrefix(string(text), "\ufeff"))); err != nil {
				t.Error(err)
			}
		})
	}
}

func dump(s *Site) string {
	var b strings.Builder
	fmt.Fprintf(&b, "site %s: identity %s, known hosts %s, notify %q\n", s.Name, s.Identity, s.KnownHosts, s.Notify)
	for _, h := range s.Hosts {
		fmt.Fprintf(&b, "%+v\n", *h)
	}
	for _, v := range s.Services {
		fmt.Fprintf(&b, "%s\n  hosts %q line %d\n  %+v\n", v.Name, v.Hosts, v.Line, v.Adapter)
		for _, p := range v.Ready {
			fmt.Fprintf(&b, "  %s from %s interval %s successes %d\n", wire.FormatLine(p.Fields()...), p.From, p.Interval, p.Successes)
		}
		for _, d := range v.After {
			fmt.Fprintf(&b, "  %+v\n", d)
		}
		fmt.Fprintf(&b, "  stop after %q conflicts %q unavailable %d failures %d\n  %+v %+v wait %+v budget %+v settle %s\n  listens %q failures %d\n", v.StopAfter, v.Conflicts, v.MaxUnavailable, v.MaxFailures, v.Timeout, v.Retry, v.Wait, v.Budget, v.Settle, v.Listens, v.Failures)
	}
	for _, g := range s.groupNames() {
		fmt.Fprintf(&b, "group %s: %q\n", g, s.Groups[g])
	}
	for _, v := range s.Blind() {
		fmt.Fprintf(&b, "blind: %s\n", v.Name)
	}
	for _, w := range s.Warnings() {
		fmt.Fprintf(&b, "%s\n", w.Detail())
	}
	return b.String()
}

// consistent fails where a Site breaks one of the package's promises.
func consistent(t *testing.T, s *Site) {
	t.Helper()
	check := func(ok bool, format string, args ...any) {
		t.Helper()
		if !ok {
			t.Errorf(format, args...)
		}
	}
	check(s.Name != "" && len(s.Hosts) > 0 && len(s.Services) > 0, "site, hosts or services are missing")
	check(filepath.IsAbs(s.Identity) && filepath.IsAbs(s.KnownHosts), "identity %q, known hosts %q", s.Identity, s.KnownHosts)
	for _, h := range s.Hosts {
		check(s.Host(h.Name) == h && h.Address != "" && h.Port > 0 && h.User != "", "host %+v", h)
	}
	started := map[string]bool{}
	for range s.Services { // as many passes as the longest chain can need
		for _, v := range s.Services {
			if !slices.ContainsFunc(v.After, func(d Dependency) bool { return !started[d.Upstream] }) {
				started[v.Name] = true
			}
		}
		if len(started) == len(s.Services) {
			break
		}
	}
	check(len(started) == len(s.Services), "the start order has a cycle")
	for _, v := range s.Services {
		check(s.Service(v.Name) == v && len(v.Hosts) > 0 && v.Line > 0, "service %+v", v)
		for _, h := range v.Hosts {
			check(s.Host(h) != nil, "%s: host %q", v.Name, h)
		}
		for _, d := range v.After {
			check(s.Service(d.Upstream) != nil && d.OnRestart != "" && d.Strength != "" && d.Of != "" && d.Line > 0, "%s: %+v", v.Name, d)
		}
		check(slices.IsSortedFunc(v.After, func(a, b Dependency) int { return strings.Compare(a.Upstream, b.Upstream) }), "%s: after is not sorted", v.Name)
		for _, name := range v.StopAfter {
			check(s.Service(name) != nil, "%s: stop after %q", v.Name, name)
		}
		for _, name := range v.Conflicts {
			check(s.Service(name) != nil && slices.Contains(s.Service(name).Conflicts, v.Name), "%s: conflicts with %q", v.Name, name)
		}
		check(v.MaxUnavailable > 0 && v.MaxFailures > 0 && v.Retry.Attempts > 0, "%s: limits %+v", v.Name, v)
		check(min(v.Timeout.Start, v.Timeout.Stop, v.Timeout.Ready, v.Timeout.Connect, v.Retry.Delay, v.Retry.Max, v.Wait.Timeout, v.Wait.Grace) > 0, "%s: times %+v %+v", v.Name, v.Timeout, v.Retry)
		for _, p := range v.Ready {
			check(p.CheckAbout() == nil && p.Interval > 0 && p.Timeout > 0 && p.Successes > 0 && p.From != "", "%s: probe %+v", v.Name, p)
		}
		external := v.Adapter.Kind == KindExternal
		check(external == (v.Failures > 0) && (!external || len(v.Ready) > 0 && v.After == nil && v.Conflicts == nil && v.StopAfter == nil), "%s: external %+v", v.Name, v)
		a := v.Adapter
		check(a.Kind == KindPlain == (a.Key != "" && a.User != "" && a.Action != ""), "%s: %+v", v.Name, a)
		check(a.Kind == KindCommand == (a.Start != nil && a.Stop != nil), "%s: %+v", v.Name, a)
		check(slices.Contains([]AdapterKind{KindSystemd, KindSysV, KindOpenRC}, a.Kind) == (a.Unit != ""), "%s: %+v", v.Name, a)
		check(slices.Contains([]AdapterKind{KindCommand, KindSysV, KindOpenRC}, a.Kind) == (a.PIDFile != ""), "%s: %+v", v.Name, a)
	}
	for group, members := range s.Groups {
		check(s.Service(group) == nil && slices.IsSorted(members), "group %s", group)
		for _, m := range members {
			check(s.Service(m) != nil, "group %s: %q", group, m)
		}
	}
	all, err := s.Resolve(nil)
	check(err == nil && len(all) >= len(s.Services), "Resolve(nil) = %v, %v", all, err)
}

// positioned fails where an error does not point into the text, or at another
// line than it shows.
func positioned(t *testing.T, text string, problems []*Error) {
	t.Helper()
	lines := strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n")
	last := &Error{}
	for _, e := range problems {
		if e.Line < 1 || e.Line > len(lines) || e.Column < 1 || e.Column > utf8.RuneCountInString(lines[e.Line-1])+1 {
			t.Errorf("%v is not in the text", e)
		}
		if e.Line < last.Line || e.Line == last.Line && e.Column < last.Column {
			t.Errorf("%v comes after %v", e, last)
		}
		if e.Message == "" || strings.ContainsFunc(e.Source, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			t.Errorf("%v: source %q", e, e.Source)
		}
		last = e
	}
}

func FuzzParse(f *testing.F) {
	for _, folder := range []string{"valid", "structural", "semantic", "syntax"} {
		for _, file := range testFiles(f, folder) {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			if len(text) < 4<<10 {
				f.Add(text)
			}
		}
	}
	schema := compiledSchema(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse("site.yaml", text)
		if err != nil {
			problems, ok := errors.AsType[Errors](err)
			if !ok || len(problems) == 0 || s != nil {
				t.Fatalf("Parse = %v, %#v", s, err)
			}
			positioned(t, string(text), problems)
			return
		}
		consistent(t, s)
		positioned(t, string(text), s.Warnings())
		if err := schema.Validate(plainValue(t, strings.TrimPrefix(string(text), "\ufeff"))); err != nil {
			t.Errorf("the schema refuses what Parse accepts: %v", err)
		}
	})
}

func TestEachMistakeOnce(t *testing.T) {
	text := `site: once
hosts: {h1: 10.0.0.1}
services:
  a: {hosts: [h1], systemd: a, ready: &r [{tcp: 80}]}
  b: {hosts: [h1], systemd: b, ready: *r}
  c: {hosts: [h1], systemd: c, ready: *r}
`
	_, err := Parse("x", []byte(text))
	if problems, _ := errors.AsType[Errors](err); len(problems) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	_, err := Parse("x", bytes.Repeat([]byte("#"), maxFile+1))
	if err == nil || err.Error() != "x:1:1: the site file is larger than 64 MiB" {
		t.Errorf("got %v", err)
	}
}

// A file that is wrong all over is reported in one walk, even where it is a
// single line: if not, this test takes minutes.
func TestManyMistakes(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"site": "x", "hosts": {"h1": "10.0.0.1"}, "services": {`)
	const services = 20_000
	for i := range services {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `"service%d": {"hosts": ["h1"], "systemd": "x", "after": ["servise%d"]}`, i, i)
	}
	b.WriteString("}}")
	_, err := Parse("x", []byte(b.String()))
	problems, _ := errors.AsType[Errors](err)
	if len(problems) != services {
		t.Fatalf("%d problems", len(problems))
	}
	positioned(t, b.String(), problems[:100])
	if problems[0].Hint != `did you mean "service0"?` {
		t.Errorf("hint %q", problems[0].Hint)
	}
}

func TestLongCycle(t *testing.T) {
	var b strings.Builder
	b.WriteString("site: x\nhosts: {h1: 10.0.0.1}\nservices:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  s%d: {hosts: [h1], systemd: x, after: [s%d]}\n", i, (i+1)%1000)
	}
	_, err := Parse("x", []byte(b.String()))
	problems, _ := errors.AsType[Errors](err)
	if len(problems) != 1 || !strings.Contains(problems[0].Message, "s0 (line 4) after s1 (line 5)") || !strings.Contains(problems[0].Message, "… 980 more …") {
		t.Errorf("got %v", err)
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	s, err := Load("testdata/valid/json.yaml")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := filepath.Abs("testdata/valid")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(folder, "id_ed25519"); s.Identity != want || s.File != "testdata/valid/json.yaml" {
		t.Errorf("identity %q of %q, want %q", s.Identity, s.File, want)
	}
}

func TestResolve(t *testing.T) {
	s, err := Load("testdata/valid/whole.yaml")
	if err != nil {
		t.Fatal(err)
	}
	unused, err := Load("testdata/valid/warnings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		site    *Site
		targets string
		want    string // instances, or the error and its hint
	}{
		{unused, "", "db@h1 web@h1 web@h2"},
		{s, "web oracle", "oracle@db1 web@web1 web@web2 web@web3 web@web4"},
		{s, "web@web2 web@web1 web@web2", "web@web1 web@web2"},
		{s, "@web4 older", "web@web4 legacyweb@web4 older@web9"},
		{s, "back @db1", "oracle@db1 cache@db1 queue@db1"},
		{s, "frontend", "cache@web1 cache@web2 cache@db1 web@web1 web@web2 web@web3 web@web4"},
		{s, "oracel", `target "oracel": no such service or group, did you mean "oracle"?`},
		{s, "frontned", `target "frontned": no such service or group, did you mean "frontend"?`},
		{s, "web1", `target "web1": no such service or group, for all on host web1 say "@web1"`},
		{s, "web@wbe1", `target "web@wbe1": no such host, did you mean "web1"?`},
		{s, "wbe@web1", `target "wbe@web1": no such service, did you mean "web"?`},
		{s, "old@web1", `target "old@web1": service old is not on host web1, it is on web9`},
		{s, "@xyzzy", `target "@xyzzy": no such host, `},
		{unused, "@spare", `target "@spare": no service runs on host spare, `},
	} {
		all, err := test.site.Resolve(strings.Fields(test.targets))
		var words []string
		for _, i := range all {
			words = append(words, i.String())
		}
		got := strings.Join(words, " ")
		if e, ok := errors.AsType[*TargetError](err); ok {
			got = e.Error() + ", " + e.Hint
		}
		if got != test.want {
			t.Errorf("%q: got %q, want %q", test.targets, got, test.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"oracel", "oracle", 1}, {"kitten", "sitting", 3}, {"web", "web", 0}, {"abcd", "badc", 2}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func compiledSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("site.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("site.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}
