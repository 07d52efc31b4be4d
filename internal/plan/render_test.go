package plan_test

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"kido/internal/plan"
	"kido/internal/site"
)

var update = flag.Bool("update", false, "write what is printed now to testdata")

// golden compares with testdata/name.
func golden(t *testing.T, name string, write func(io.Writer) error) string {
	t.Helper()
	var got bytes.Buffer
	if err := write(&got); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s: got:\n%s\nwant:\n%s\n(go test -update writes it anew)", name, &got, want)
	}
	return got.String()
}

func TestWriteText(t *testing.T) {
	s := parse(t, shop)
	for _, c := range []struct {
		name     string
		verb     plan.Verb
		targets  string
		observed plan.Observed
	}{
		{"restart.txt", plan.Restart, "oracle", nil},
		{"up.txt", plan.Up, "", nil},
		{"announce-fresh.txt", plan.Announce, "cache@app2", observe(
			"oracle@db1 up o1", "cache@app2 up c2", "app@app2 up a2 oracle@db1=o1 cache@app2=c2", "app@app1 purpose",
			"web@web1 up w1 app@app2=a2 oracle@db1=o1", "web@web2 up w2 app@app2=a0 oracle@db1=o1", "web@web3 unreachable", "mail@app2 down")},
		{"announce-idle.txt", plan.Announce, "mail", observe(
			"oracle@db1 up o1", "mail@app2 up m1", "web@web1 up w1 oracle@db1=o1 mail@app2=m1 app@app2=a2",
			"cache@app2 up c2", "app@app2 up a2 oracle@db1=o1 cache@app2=c2",
			"web@web2 purpose", "web@web3 purpose")},
		{"announce-nothing.txt", plan.Announce, "web@web1", nil},
	} {
		words := strings.Fields(c.targets)
		p, err := plan.New(s).Make(plan.Request{Verb: c.verb, Targets: words}, targets(s, words...), c.observed)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, c.name, p.WriteText)
	}
}

func TestWriteGraph(t *testing.T) {
	topology := plan.New(parse(t, shop))
	web1 := []site.Instance{{Service: "web", Host: "web1"}}
	for _, c := range []struct {
		name    string
		options plan.GraphOptions
	}{
		{"services.tree", plan.GraphOptions{}},
		{"services-ascii.tree", plan.GraphOptions{Format: plan.FormatTree, ASCII: true}},
		{"instances.tree", plan.GraphOptions{Instances: true}},
		{"services.dot", plan.GraphOptions{Format: plan.FormatDOT}},
		{"instances.dot", plan.GraphOptions{Format: plan.FormatDOT, Instances: true}},
		{"services.mmd", plan.GraphOptions{Format: plan.FormatMermaid}},
		{"instances.mmd", plan.GraphOptions{Format: plan.FormatMermaid, Instances: true}},
		{"services.json", plan.GraphOptions{Format: plan.FormatJSON}},
		{"web1.tree", plan.GraphOptions{Only: web1}},
		{"web1-instances.tree", plan.GraphOptions{Instances: true, Only: web1}},
	} {
		text := golden(t, c.name, func(w io.Writer) error { return topology.WriteGraph(w, c.options) })
		if c.options.ASCII && strings.ContainsFunc(text, func(r rune) bool { return r > '~' }) {
			t.Errorf("%s is not ASCII", c.name)
		}
		checkSyntax(t, filepath.Ext(c.name), text)
	}
	if err := topology.WriteGraph(io.Discard, plan.GraphOptions{Format: "png"}); err == nil {
		t.Error("a graph in png")
	}
}

// TestHostileNames draws names that no site file allows, but a hand-made Site
// may hold.
func TestHostileNames(t *testing.T) {
	names := []string{`a"b`, `c\`, "d\ne", `f\"; evil [x=y]`, "#g&<h>`i`", `"]`, "|j|", "日本"}
	s := &site.Site{Name: `"}`}
	for i, name := range names {
		v := &site.Service{Name: name, Hosts: names[i : i+1]}
		if i > 0 {
			v.After = []site.Dependency{{Upstream: names[i-1]}}
		}
		s.Services = append(s.Services, v)
	}
	for _, instances := range []bool{false, true} {
		var dot, mermaid bytes.Buffer
		topology := plan.New(s)
		if err := topology.WriteGraph(&dot, plan.GraphOptions{Format: plan.FormatDOT, Instances: instances}); err != nil {
			t.Fatal(err)
		}
		if err := topology.WriteGraph(&mermaid, plan.GraphOptions{Format: plan.FormatMermaid, Instances: instances}); err != nil {
			t.Fatal(err)
		}
		checkSyntax(t, ".dot", dot.String())
		checkSyntax(t, ".mmd", mermaid.String())
		if n := strings.Count(dot.String(), "->"); n != len(names)-1 {
			t.Errorf("%d arrows in DOT", n)
		}
		if n := strings.Count(mermaid.String(), "-->"); n != len(names)-1 {
			t.Errorf("%d arrows in Mermaid", n)
		}
	}
}

var (
	dotQuoted = `"(?:[^"\\\n]|\\["\\n])*"`
	dotValue  = `(?:` + dotQuoted + `|[a-zA-Z0-9-]+)`
	dotList   = `(?: \[[a-z]+=` + dotValue + `(?:, [a-z]+=` + dotValue + `)*\])?`
	dotLine   = regexp.MustCompile(`^(?:digraph ` + dotQuoted + ` \{|  subgraph ` + dotQuoted + ` \{| *\}| *[a-z]+=` + dotValue + `;|  (?:node|edge)` + dotList + `;| *` + dotQuoted + `(?: -> ` + dotQuoted + `)?` + dotList + `;)$`)

	mermaidQuoted = `"(?:[^"<>&` + "`" + `\n]|<br>)*"`
	mermaidLine   = regexp.MustCompile(`^(?:flowchart LR| *n\d+\(` + mermaidQuoted + `\)|  subgraph h\d+\[` + mermaidQuoted + `\]|  end|  n\d+ (?:-->|-\.->)(?:\|` + mermaidQuoted + `\|)? n\d+)$`)
)

// checkSyntax holds every line to the part of the language that is used here.
func checkSyntax(t *testing.T, language, text string) {
	t.Helper()
	line := map[string]*regexp.Regexp{".dot": dotLine, ".mmd": mermaidLine}[language]
	if line == nil {
		return
	}
	for l := range strings.Lines(text) {
		if l = strings.TrimSuffix(l, "\n"); !line.MatchString(l) {
			t.Errorf("not %s: %s", language, l)
		}
	}
	if language == ".dot" && strings.Count(text, "{\n") != strings.Count(text, "}\n") {
		t.Errorf("braces do not match: %s", text)
	}
}
