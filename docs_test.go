package kido_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kido/internal/gate"
	"kido/internal/wire"
)

const protocol = "docs/protocol.md"

// constant is a name and its value.
type constant struct{ name, value string }

// constants lists the string constants of a type that a file declares.
func constants(t *testing.T, file, typ string) (all []constant) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); !ok || of.Name != typ {
			return true
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
			value, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, constant{spec.Names[0].Name, value})
		}
		return true
	})
	if all == nil {
		t.Fatalf("%s declares no constant of type %s", file, typ)
	}
	return all
}

// rows are the cells of the table with this header; one that is not there ends the
// test.
func rows(t *testing.T, text, header string) (all [][]string) {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n| "+header+" |\n")
	if !ok {
		t.Fatalf("%s has no table | %s |", protocol, header)
	}
	for n, line := range strings.Split(rest, "\n") {
		if !strings.HasPrefix(line, "|") {
			break
		}
		if n > 0 { // the first is the rule below the header
			var cells []string
			for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
				cells = append(cells, strings.TrimSpace(c))
			}
			all = append(all, cells)
		}
	}
	return all
}

// names are the first cells of a table, without their quotes.
func names(t *testing.T, text, header string) (all []string) {
	t.Helper()
	for _, cells := range rows(t, text, header) {
		name := strings.Trim(cells[0], "`")
		if cells[0] != "`"+name+"`" {
			t.Errorf("%s: %s is not in quotes", protocol, cells[0])
		}
		all = append(all, name)
	}
	return all
}

// TestProtocolWords: the words of the protocol are those of the code, in its order.
func TestProtocolWords(t *testing.T) {
	text := read(t, protocol)
	for _, x := range []struct{ typ, header string }{
		{"Verb", "verb | what it asks for"},
		{"Code", "code | means | on a read | on a request that changes something"},
		{"State", "state | means"},
		{"Wanted", "wanted | means"},
		{"Reaction", "reaction | means"},
	} {
		var want []string
		for _, c := range constants(t, "internal/wire/wire.go", x.typ) {
			want = append(want, c.value)
		}
		if got := names(t, text, x.header); !slices.Equal(got, want) {
			t.Errorf("%s: %s: it has %q, the code %q", protocol, x.typ, got, want)
		}
	}
	limits := map[string]int{"request": wire.MaxRequest, "reply": wire.MaxReply, "line": wire.MaxLine, "word": wire.MaxWord}
	for _, cells := range rows(t, text, "limit | bytes") {
		what, _, _ := strings.Cut(cells[0], ":")
		if limit, ok := limits[what]; !ok || cells[1] != strconv.Itoa(limit) {
			t.Errorf("%s: limit of a %s: it has %s, the code %d", protocol, what, cells[1], limit)
		}
		delete(limits, what)
	}
	if len(limits) > 0 {
		t.Errorf("%s does not say %v", protocol, limits)
	}
	if most := fmt.Sprintf("at most %d", gate.MaxBudget); !strings.Contains(text, most) {
		t.Errorf("%s does not say that reactions are %s", protocol, most)
	}
}

// full sets every field of a struct, in those that it points to as well: what it
// prints then has every line that there is.
func full(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case wire.Vector:
		v.Set(reflect.ValueOf(wire.NewVector(wire.Entry{Instance: "a@b", Token: "c"})))
		return
	case time.Duration:
		v.Set(reflect.ValueOf(time.Hour))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			full(t, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		full(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		full(t, v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(1)
	case reflect.Uint64:
		v.SetUint(1)
	default:
		t.Fatalf("a field of type %s: teach this test to set it", v.Type())
	}
}

// TestProtocolFields: every line that a message or a file can have is in its table,
// and in the order in which it is printed.
func TestProtocolFields(t *testing.T) {
	text := read(t, protocol)
	for _, x := range []struct {
		heading string
		message interface{ Format() []byte }
	}{
		{"#### Fields of a request", new(wire.Request)},
		{"#### Fields of a reply", new(wire.Reply)},
		{"#### Lines of a state file", new(gate.Record)},
		{"#### Lines of a pool file", new(gate.Pool)},
	} {
		full(t, reflect.ValueOf(x.message).Elem())
		var want []string
		lines := strings.Split(strings.TrimSpace(string(x.message.Format())), "\n")
		for _, line := range lines[1 : len(lines)-1] { // but for the head, and the end or the sum
			name, _, _ := strings.Cut(line, " ")
			want = append(want, name)
		}
		_, section, ok := strings.Cut(text, "\n"+x.heading+"\n")
		header := regexp.MustCompile(`(?m)^\| (line \|.*) \|$`).FindStringSubmatch(section)
		if !ok || header == nil {
			t.Errorf("%s has no table below %q", protocol, x.heading)
			continue
		}
		if got := names(t, section, header[1]); !slices.Equal(got, want) {
			t.Errorf("%s: %s: it has\n%q, the code prints\n%q", protocol, x.heading, got, want)
		}
	}
}

// TestProtocolRules: every rule has an entry, and every entry is a rule; it says
// where the rule is kept, and what goes wrong without it.
func TestProtocolRules(t *testing.T) {
	text := read(t, protocol)
	ids := map[string]string{} // by rule
	for _, c := range constants(t, "internal/rule/rule.go", "Rule") {
		ids[c.value] = c.name
	}
	asked := map[string]bool{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`rule\.Holds\(rule\.(\w+)\)`).FindAllStringSubmatch(read(t, file), -1) {
			asked[m[1]] = true
		}
	}
	_, section, ok := strings.Cut(text, "\n## 9. The rules\n")
	section, _, more := strings.Cut(section, "\n## ")
	if !ok || !more {
		t.Fatalf("%s has no section of the rules", protocol)
	}
	table, _, _ := strings.Cut(section, "\n### ")
	kept := regexp.MustCompile("[Kk]ept in\\s`(internal/[^`]+)`,\\s`(\\w+)`( and\\s`(\\w+)`)?\\.")
	entries := strings.Split(section, "\n#### ")[1:]
	for _, entry := range entries {
		name, body, _ := strings.Cut(entry, "\n")
		id, known := ids[name]
		if !known {
			t.Errorf("%s explains the rule %s twice, or there is none", protocol, name)
			continue
		}
		delete(ids, name)
		if n := strings.Count(table, "]("+"#"+name+")"); n != 1 {
			t.Errorf("%s: the table of the rules has %s %d times", protocol, name, n)
		}
		if !strings.Contains(body, "\n*Without it:* ") {
			t.Errorf("%s does not say what goes wrong without %s", protocol, name)
		}
		m := kept.FindStringSubmatch(body)
		if m == nil {
			t.Errorf("%s does not say where %s is kept", protocol, name)
			continue
		}
		code := read(t, m[1])
		for _, function := range []string{m[2], m[4]} {
			if function != "" && !regexp.MustCompile(`(?m)^func (\([^)]*\) )?`+function+`\(`).MatchString(code) {
				t.Errorf("%s: %s is kept in %s of %s, which is not there", protocol, name, function, m[1])
			}
		}
		if asked[id] && !strings.Contains(code, "rule."+id+")") {
			t.Errorf("%s: %s is not kept in %s", protocol, name, m[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ids)) {
		t.Errorf("%s does not explain the rule %s", protocol, name)
	}
}

// example is a block of the document.
type example struct {
	line int
	kind string   // request, reply, state, pool, line or text
	args []string // of a state the instance, of a pool the service; then a name
	text string
}

func examples(t *testing.T) (all []example) {
	t.Helper()
	var open *example
	for n, line := range strings.SplitAfter(read(t, protocol), "\n") {
		info, fence := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "```")
		switch {
		case fence && open == nil:
			f := strings.Fields(info)
			if len(f) == 0 {
				t.Fatalf("%s:%d: a block does not say what it is", protocol, n+1)
			}
			open = &example{line: n + 1, kind: f[0], args: f[1:]}
		case fence:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	return all
}

// TestProtocolExamples: what is shown as a message or a file is one, to the byte.
func TestProtocolExamples(t *testing.T) {
	count := map[string]int{}
	for _, e := range examples(t) {
		count[e.kind]++
		printed, err := "", error(nil)
		switch {
		case e.kind == "request":
			var q wire.Request
			q, err = wire.ParseRequest([]byte(e.text))
			printed = string(q.Format())
		case e.kind == "reply":
			var r wire.Reply
			r, err = wire.ParseReply([]byte(e.text))
			printed = string(r.Format())
		case e.kind == "state" && len(e.args) > 0:
			var r gate.Record
			r, err = gate.ParseRecord([]byte(e.text), e.args[0])
			printed = string(r.Format())
		case e.kind == "pool" && len(e.args) > 0:
			var p gate.Pool
			p, err = gate.ParsePool([]byte(e.text), e.args[0])
			printed = string(p.Format())
		case e.kind == "line":
			for line := range strings.Lines(e.text) {
				f, bad := wire.ParseLine(strings.TrimSuffix(line, "\n"))
				if bad != nil {
					err = bad
				}
				printed += wire.FormatLine(f...) + "\n"
			}
		case e.kind == "text":
			continue
		default:
			t.Errorf("%s:%d: a block of a kind that nothing checks: %s %q", protocol, e.line, e.kind, e.args)
			continue
		}
		if err != nil || printed != e.text {
			t.Errorf("%s:%d: it is not a %s: %v: it prints as\n%s", protocol, e.line, e.kind, err, printed)
		}
	}
	for _, kind := range []string{"request", "reply", "state", "pool", "line"} {
		if count[kind] == 0 {
			t.Errorf("%s has no example of a %s", protocol, kind)
		}
	}
}

// TestProtocolStory plays the document's example to the gate that ships: its
// requests come to the replies and the files that are shown.
func TestProtocolStory(t *testing.T) {
	shown := map[string]string{}
	for _, e := range examples(t) {
		shown[strings.Join(append([]string{e.kind}, e.args...), " ")] = e.text
	}
	same := func(what string, got []byte) {
		t.Helper()
		if shown[what] == "" || shown[what] != string(got) {
			t.Errorf("%s shows as %q\n%s, the gate has\n%s", protocol, what, shown[what], got)
		}
	}
	request := func(name string) wire.Request {
		t.Helper()
		q, err := wire.ParseRequest([]byte(shown["request "+name]))
		if err != nil {
			t.Fatalf("request %s: %v", name, err)
		}
		return q
	}
	take := request("take")
	pool, taken := gate.Pool{Service: "web"}.Step(take)
	same("reply taken", taken.Format())
	same("pool web", pool.Format())
	other := take
	other.Member, other.Run = "web@web2", "another"
	_, crowded := pool.Step(other)
	same("reply crowded", crowded.Format())

	before, err := gate.ParseRecord([]byte(shown["state web@web1 before"]), "web@web1")
	if err != nil {
		t.Fatal(err)
	}
	ensured, err := wire.ParseReply([]byte(shown["reply ensured"]))
	if err != nil || ensured.Status == nil {
		t.Fatalf("reply ensured: %v", err)
	}
	const boot = "5d5a3c8e-0b0f-4b44-8a53-0c9a2f1f6b11"
	m, effect := gate.NewMachine("web@web1", request("ensure")).Step(gate.Begin{})
	var saved [][]byte
	for _, ev := range []gate.Event{
		gate.Locked{OK: true},
		gate.Loaded{Record: before, Now: gate.Moment{Boot: boot, At: 93412345 * time.Millisecond}},
		gate.Looked{Look: gate.Look{State: wire.StateUp, Token: before.Own}},
		gate.Prepared{Boot: boot},
		gate.Stored{},
		gate.Gone{},
		gate.Ended{},
		gate.Looked{Look: gate.Look{State: wire.StateUp, Token: ensured.Status.Token, Age: ensured.Status.Age}},
		gate.Stored{},
	} {
		m, effect = m.Step(ev)
		if s, ok := effect.(gate.Save); ok {
			saved = append(saved, s.Record.Format())
		}
	}
	answer, ok := effect.(gate.Answer)
	if !ok || len(saved) != 2 {
		t.Fatalf("the gate ends with %T after %d writes: %s", effect, len(saved), bytes.Join(saved, nil))
	}
	same("state web@web1 during", saved[0])
	same("state web@web1 after", saved[1])
	same("reply ensured", answer.Reply.Format())
}

// TestProtocolLinks: what the document points to within itself is there.
func TestProtocolLinks(t *testing.T) {
	text := read(t, protocol)
	there := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		kept := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		there[strings.ReplaceAll(kept, " ", "-")] = true
	}
	for _, m := range regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		if !there[m[1]] {
			t.Errorf("%s points to #%s, which is not there", protocol, m[1])
		}
	}
}
