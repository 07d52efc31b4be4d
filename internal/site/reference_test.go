package site

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"kido/internal/probe"
)

// The reference of probes is made from the table of package probe: a part of the
// schema, and the tables of docs/probes.md. `go test ./internal/site -update` writes
// both.

// readyWhen is what each kind asks, in half a sentence.
var readyWhen = map[probe.Kind]string{
	probe.KindTCP:      "a connection is accepted",
	probe.KindTLS:      "a TLS handshake succeeds, and the certificate is good",
	probe.KindHTTP:     "a GET is answered, with a status of 200 to 399; http://:80/health is the instance's own",
	probe.KindHTTPS:    "the same over TLS: the key is http here too, the URL begins with https",
	probe.KindExec:     "a program of yours ends with status 0",
	probe.KindFile:     "a file is there",
	probe.KindLog:      "a line was written in this incarnation, to a file or to the journal",
	probe.KindSystemd:  "another unit is active",
	probe.KindDNS:      "a name resolves",
	probe.KindPostgres: "PostgreSQL takes the login and answers a query",
	probe.KindMySQL:    "MySQL or MariaDB takes the login and answers a query",
	probe.KindOracle:   "the listener knows the service, the instance is open and takes the login",
	probe.KindRedis:    "Redis or Valkey answers, and is not loading its data",
	probe.KindMongoDB:  "MongoDB answers, and is not starting or recovering",
	probe.KindAMQP:     "RabbitMQ, or who else speaks AMQP 0-9-1, takes the login and opens the virtual host",
	probe.KindKafka:    "the broker answers, and knows its cluster",
	probe.KindLDAP:     "the directory takes the bind and answers a search",
	probe.KindSMTP:     "the mail server greets and takes a command",
	probe.KindAll:      "all of some probes are",
	probe.KindAny:      "one of some probes is",
	probe.KindNot:      "one probe is not",
}

// written is an example of what a kind is given.
func written(s probe.Sort) string {
	switch s.Form {
	case probe.FormAddress:
		if s.Port != 0 {
			return "[HOST][:PORT]"
		}
		return "[HOST]:PORT"
	case probe.FormURL:
		return string(s.Kind) + "://[HOST][:PORT]/PATH"
	case probe.FormPath:
		return "/PATH"
	case probe.FormName:
		return "NAME"
	case probe.FormUnit:
		return "NAME.service"
	case probe.FormLog:
		return "/PATH, or journal"
	case probe.FormArgv:
		return "[/PROGRAM, ARGUMENT]"
	case probe.FormParts:
		if s.Kind == probe.KindNot {
			return "{tcp: \":80\"}"
		}
		return "[{tcp: \":80\"}, {tcp: \":443\"}]"
	}
	return ""
}

// writtenOption is how an option is written.
func writtenOption(name string, o probe.Option) string {
	if group, ok := strings.CutSuffix(name, "."); ok {
		return group + "s: {NAME: TEXT}"
	}
	how := map[spelling]string{
		spelledText: "TEXT", spelledPath: "/PATH", spelledSecret: "{file: /PATH}", spelledToken: "{header: NAME}, {json: FIELD.FIELD}",
		spelledTime: "500ms", spelledNumber: "NUMBER", spelledCodes: "NUMBER, [NUMBER, NUMBER]",
	}[spellingOf(name, o)]
	if spellingOf(name, o) == spelledText && o.Check("(") != nil && o.Check("x") == nil {
		how = "REGEXP"
	}
	if how == "" {
		words := make([]string, len(o.Values))
		for i, w := range o.Values {
			words[i] = spelled(w)
		}
		how = strings.Join(words, ", ")
	}
	return name + ": " + how
}

// isCommon reports whether every kind but combinations has an option, with one
// meaning.
func isCommon(name string) bool {
	for _, kind := range probe.Kinds() {
		s, _ := probe.SortOf(kind)
		if _, ok := s.Options[name]; s.Form != probe.FormParts && !ok {
			return false
		}
	}
	return true
}

// documented are the tables of docs/probes.md.
func documented() string {
	var b strings.Builder
	b.WriteString("| kind | ready when | usual port | asked by | tells the incarnation |\n| --- | --- | --- | --- | --- |\n")
	type option struct{ written, help string }
	kinds := map[option][]string{}
	for _, kind := range probe.Kinds() {
		s, _ := probe.SortOf(kind)
		port, by, life := "", "kido", ""
		if s.Port != 0 {
			port = fmt.Sprint(s.Port)
		}
		_, tokened := s.Options["token"]
		switch {
		case s.Life:
			life = "yes"
		case kind == probe.KindAll:
			life = "where a part does"
		case tokened:
			life = "with token"
		}
		switch {
		case s.Form == probe.FormParts:
			by = ""
		case s.Local:
			by = "gate"
		}
		fmt.Fprintf(&b, "| `%s: %s` | %s | %s | %s | %s |\n", keyOf(s), written(s), readyWhen[kind], port, by, life)
		for name, o := range s.Options {
			if !isCommon(name) {
				x := option{writtenOption(name, o), o.Help}
				kinds[x] = append(kinds[x], string(kind))
			}
		}
	}
	b.WriteString("\n| option | means | goes with |\n| --- | --- | --- |\n")
	tcp, _ := probe.SortOf(probe.KindTCP)
	for _, name := range slices.Sorted(maps.Keys(tcp.Options)) {
		fmt.Fprintf(&b, "| `%s` | %s | all kinds but combinations |\n", writtenOption(name, tcp.Options[name]), tcp.Options[name].Help)
	}
	all := slices.SortedFunc(maps.Keys(kinds), func(x, y option) int {
		return strings.Compare(x.written+"\n"+kinds[x][0], y.written+"\n"+kinds[y][0])
	})
	for _, x := range all {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", x.written, x.help, strings.Join(kinds[x], ", "))
	}
	return b.String()
}

// keep holds what is between two marks of a file to a text, or puts it there.
func keep(t *testing.T, file, begin, end, text string) {
	t.Helper()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(whole), begin)
	old, after, ok2 := strings.Cut(rest, end)
	switch {
	case !ok1 || !ok2:
		t.Fatalf("%s has no part between %q and %q", file, begin, end)
	case old == text:
	case *update:
		if err := os.WriteFile(file, []byte(before+begin+text+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the table of kinds makes of it: go test ./internal/site -update", file)
	}
}

func TestProbesAreDocumented(t *testing.T) {
	for _, kind := range probe.Kinds() {
		if readyWhen[kind] == "" {
			t.Errorf("it is not said when a %s probe is ready", kind)
		}
	}
	keep(t, "../../docs/probes.md", "<!-- tables: made from internal/probe/kinds.go -->\n", "<!-- end of tables -->", documented())
}

func TestSchemaOfProbes(t *testing.T) {
	keep(t, "site.schema.json", `    "probe": `, `,
    "part": `, indented(t, probeSchema()))
}

// jsonObject is a JSON object in the order in which it is written.
type jsonObject []member

type member struct {
	key   string
	value any
}

// inline writes JSON on one line, as the rest of the schema is written.
func inline(t *testing.T, v any) string {
	t.Helper()
	var items []string
	switch v := v.(type) {
	case jsonObject:
		for _, m := range v {
			items = append(items, fmt.Sprintf("%q: %s", m.key, inline(t, m.value)))
		}
		return "{" + strings.Join(items, ", ") + "}"
	case []any:
		for _, item := range v {
			items = append(items, inline(t, item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// indented writes JSON on one line where that is not long.
func indented(t *testing.T, v any) string {
	t.Helper()
	var b strings.Builder
	var write func(v any, indent string)
	write = func(v any, indent string) {
		const longest = 160
		text := inline(t, v)
		o, isObject := v.(jsonObject)
		list, isList := v.([]any)
		switch {
		case isObject && len(text) > longest:
			b.WriteString("{\n")
			for i, m := range o {
				fmt.Fprintf(&b, "%s  %q: ", indent, m.key)
				write(m.value, indent+"  ")
				b.WriteString(map[bool]string{true: "\n", false: ",\n"}[i == len(o)-1])
			}
			b.WriteString(indent + "}")
		case isList && len(text) > longest:
			b.WriteString("[\n")
			for i, item := range list {
				b.WriteString(indent + "  ")
				write(item, indent+"  ")
				b.WriteString(map[bool]string{true: "\n", false: ",\n"}[i == len(list)-1])
			}
			b.WriteString(indent + "]")
		default:
			b.WriteString(text)
		}
	}
	write(v, "    ")
	return b.String()
}

func ref(name string) jsonObject { return jsonObject{{"$ref", "#/$defs/" + name}} }

// oneOrList is a schema of a value or a list of such.
func oneOrList(item any) jsonObject {
	return jsonObject{{"anyOf", []any{item, jsonObject{{"type", "array"}, {"minItems", 1}, {"items", item}}}}}
}

// probeSchema is the schema of a whole probe: a branch for each kind says which keys
// it takes, and the properties what they mean.
func probeSchema() jsonObject {
	means := map[string][]string{} // by key, each once
	mean := func(key, text string) {
		if !slices.Contains(means[key], text) {
			means[key] = append(means[key], text)
		}
	}
	var branches []any
	for _, kind := range probe.Kinds() {
		s, _ := probe.SortOf(kind)
		names := []any{}
		properties := jsonObject{{keyOf(s), targetSchema(s)}}
		mean(keyOf(s), capital(readyWhen[kind]))
		for _, f := range probeWords().fields[kind] {
			names = append(names, f.key)
		}
		for _, name := range slices.Sorted(maps.Keys(s.Options)) {
			o := s.Options[name]
			f := optionField(name, o)
			properties = append(properties, member{f.key, optionSchema(name, o)})
			mean(f.key, capital(o.Help))
		}
		branches = append(branches, jsonObject{
			{"required", []any{keyOf(s)}},
			{"propertyNames", jsonObject{{"enum", names}}},
			{"properties", properties},
		})
	}
	round := jsonObject{
		{"from", jsonObject{{"description", "Where it is asked: at the instance's own host, at each dependent's host, or where kido runs. Default: host."}, {"enum", []any{FromHost, FromDependent, FromRunner}}}},
		{"interval", append(ref("duration"), member{"description", "Between tries. Default: 1s."})},
		{"timeout", append(ref("duration"), member{"description", "Of one try. Default: 3s."})},
		{"successes", jsonObject{{"description", "Tries in a row that must succeed. Default: 1."}, {"type", "integer"}, {"minimum", 1}, {"maximum", 100}}},
	}
	var properties jsonObject
	for _, key := range slices.Sorted(maps.Keys(means)) {
		properties = append(properties, member{key, jsonObject{{"description", strings.Join(means[key], " ")}}})
	}
	return jsonObject{
		{"description", "One readiness check: exactly one kind, and what goes with it."},
		{"type", "object"},
		{"oneOf", branches},
		{"additionalProperties", false},
		{"properties", append(properties, round...)},
	}
}

func capital(text string) string { return strings.ToUpper(text[:1]) + text[1:] + "." }

func targetSchema(s probe.Sort) any {
	switch s.Form {
	case probe.FormAddress:
		if s.Port == 0 {
			return jsonObject{{"type", "string"}, {"pattern", ":[0-9]+$"}}
		}
	case probe.FormURL:
		if s.Kind == probe.KindHTTPS {
			return jsonObject{{"type", "string"}, {"pattern", "^[Hh][Tt][Tt][Pp][Ss]://"}}
		}
		return jsonObject{{"type", "string"}, {"pattern", "^[Hh][Tt][Tt][Pp]://"}}
	case probe.FormPath:
		return ref("path")
	case probe.FormLog:
		return jsonObject{{"anyOf", []any{jsonObject{{"const", "journal"}}, ref("path")}}}
	case probe.FormUnit:
		return ref("unit")
	case probe.FormArgv:
		return ref("argv")
	case probe.FormParts:
		return oneOrList(ref("part"))
	}
	return ref("text")
}

func optionSchema(name string, o probe.Option) any {
	if strings.HasSuffix(name, ".") {
		return jsonObject{{"type", "object"}, {"minProperties", 1}, {"additionalProperties", ref("text")}}
	}
	number := jsonObject{{"type", "integer"}, {"minimum", 1}}
	switch spellingOf(name, o) {
	case spelledWord:
		var words []any
		for _, w := range o.Values {
			if spelled(w) != w {
				words = append(words, w == "yes")
			}
			words = append(words, w)
		}
		if isSwitch(o.Values) {
			words = append(words, o.Values[0] != "yes")
		}
		return jsonObject{{"enum", words}}
	case spelledPath:
		return ref("path")
	case spelledSecret:
		return ref("secret")
	case spelledToken:
		return ref("teller")
	case spelledTime:
		return ref("duration")
	case spelledNumber:
		return number
	case spelledCodes:
		return oneOrList(number)
	}
	return ref("text")
}
