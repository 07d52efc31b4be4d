package site

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v4"
)

// outline writes a tree with all that a node holds.
func outline(b *strings.Builder, n *node, indent int) {
	fmt.Fprintf(b, "%*s%d %d:%d %s %q\n", indent, "", n.kind, n.line, n.column, n.tag, n.value)
	for _, c := range n.content {
		outline(b, c, indent+1)
	}
}

// compareScan fails where the scanner reads what the YAML parser does not, or
// reads it otherwise.
func compareScan(t *testing.T, text string) (read bool) {
	t.Helper()
	r := reporter{source: text}
	if !r.checkText() {
		return false
	}
	ours := scan(text)
	if ours == nil {
		return false
	}
	var doc yaml.Node
	if err := yaml.Load([]byte(text), &doc); err != nil {
		t.Fatalf("the scanner reads what is not YAML: %v\n%q", err, text)
	}
	theirs := converter{}.convert(doc.Content[0])
	var got, want strings.Builder
	outline(&got, ours, 0)
	outline(&want, untagged(theirs), 0)
	if got.String() != want.String() {
		t.Fatalf("%q\nscanner:\n%s\nYAML parser:\n%s", text, &got, &want)
	}
	return true
}

// untagged drops the tags of collections, which nobody asks for.
func untagged(n *node) *node {
	if n.kind != scalar {
		n.tag = ""
	}
	for _, c := range n.content {
		untagged(c)
	}
	return n
}

func TestScanReadsWhatPeopleWrite(t *testing.T) {
	for _, text := range []string{
		"a: b\n",
		"a: b",
		"# c\n\na: b # c\n  # c\n\nb: c#d\n#c",
		"a:\n  b: c\n  d:\n    - e\n    - f: g\n      h: i\n    -\n      j: k\n    - - l\n      - m\nnn: o\n",
		"a:\n- b\n- c: d\n  e: f\ng: h\n",
		"a:\n  - b\n  -   c:   d\n      e: f\n",
		"a: [b, 'c', \"d\\\"e\", [f], {g: h}]\nb: {c: d, e: [f, g], \"h\":1, 'i': j, }\n",
		"{\"a\":1,\"b\":[2,\"x\"],\"c\":{\"d\":\"e\"}}",
		"{\n  \"a\": 1,\n  \"b\": [\n    2\n  ]\n}\n",
		"a: [\n  b,\n  c\n  ]\n",
		"a: :1521\nb: http://:80/health\nc: 10.0.0.1\nd: 90s\ne: 25%\nf: -x\ng: a b c\nh: a, b [c]\n",
		"a: {tcp: 'x:1', http: http://:80/health}\n",
		"a: 1\nb: 0\nc: 1.2.3\nd: 2001:db8::1\ne: [--x, -y]\nf: none\n1: g\n",
		"\"a b\": c\n'd': \"e\"\nf : g\n",
		"- a\n- b\n",
		"[a, b]",
		"\"x\"\n",
	} {
		if !compareScan(t, text) {
			t.Errorf("the scanner gave up on %q", text)
		}
	}
}

func TestScanGivesUp(t *testing.T) {
	for _, text := range []string{
		"", "# c\n", "a:\n", "a: b\n c: d\n", "a: b: c\n", "a: &b c\nd: *b\n", "a: !x b\n", "a: |\n  b\n", "a: >\n  b\n", "a: b\n  c\n",
		"a: \"b\n  c\"\n", "a: [b\nc]\n", "a:\n\t- b\n", "a: b\r\n", "--- \na: b\n", "a: b\n---\nc: d\n", "a: b\n...\n", "a: [b, , c]\n", "a: {b}\n", "a: {b: }\n",
		"? a\n: b\n", "[a]: b\n", "{a: b}: c\n", "a: \"\\u0041\"\n", "a: 'it''s'\n", "a: @b\n", "a: [b: c]\n", "a: - b\n", "a:\n  - b\n c: d\n", "- a\nb: c\n",
		"a: [b]c\n", "a: \"b\"c\n", "a: [\"b\"c]\n", "ü: a\n", "a: [b", "a: \"b", "{a: b", "a: b #c\n  d\n", "a: [b #c\n  , d]]\n", strings.Repeat("[", 100), strings.Repeat("- ", 100) + "a",
		"a: 1.5\n", "a: 0x10\n", "a: true\n", "a: No\n", "a: ~\n", "a: null\n", "a: 2001-01-01\n", "a: 1e3\n", "a: 1_000\n", "a: .inf\n", "a: 08\n", "a: -1\n", "a: y\n", "<<: {a: b}\n",
		strings.Repeat("a", 2000) + ": b\n",
	} {
		if compareScan(t, text) {
			t.Errorf("the scanner read %q", text)
		}
	}
}

// FuzzScan holds the scanner against the YAML parser.
func FuzzScan(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("a: [b, {c: d}]\n- e\nf:\n- g: \"h\"\n  i: 'j' # k\n")
	f.Fuzz(func(t *testing.T, text string) { compareScan(t, text) })
}
