package site

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// plainValue is the text as the JSON values that a schema is asked about.
func plainValue(t testing.TB, text string) any {
	t.Helper()
	d := &decoder{reporter: reporter{source: text}}
	root := d.document()
	if root == nil {
		t.Fatalf("not YAML: %v", d.problems)
	}
	return plain(d, root)
}

func plain(d *decoder, n *node) any {
	switch n.kind {
	case mapping:
		pairs, _ := d.pairs(n, "")
		m := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			key := pairs[i].value
			if _, ok := m[key]; ok {
				key += " (again)" // JSON has no word for it; an unknown key is as wrong
			}
			m[key] = plain(d, pairs[i+1])
		}
		return m
	case sequence:
		list := make([]any, len(n.content))
		for i, c := range n.content {
			list[i] = plain(d, c)
		}
		return list
	}
	switch n.tag {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.value, "true")
	case "!!int":
		if i, err := strconv.ParseInt(n.value, 0, 64); err == nil {
			return i
		}
		return 0.5
	case "!!float":
		return 0.5
	}
	return n.value
}

// TestSchemaKnowsTheDecodersKeys holds every object of the schema against the
// decoder's table of it, and every list of words.
func TestSchemaKnowsTheDecodersKeys(t *testing.T) {
	type object struct {
		Properties map[string]json.RawMessage
		Enum       []string
		Additional *bool `json:"additionalProperties"`
	}
	var root object
	var defs struct {
		Defs map[string]json.RawMessage `json:"$defs"`
	}
	for _, into := range []any{&root, &defs} {
		if err := json.Unmarshal(Schema(), into); err != nil {
			t.Fatal(err)
		}
	}
	objects := map[string]object{"": root}
	for name, text := range defs.Defs {
		var o object
		// A definition that is no object with fixed keys need not fit.
		if json.Unmarshal(text, &o) == nil && o.Properties != nil {
			objects[name] = o
		}
	}
	tables := map[string][]string{
		"": keysOf(fileFields), "defaults": keysOf(defaultsFields), "timeout": keysOf(timeoutFields), "retry": keysOf(retryFields),
		"host": keysOf(hostFields), "service": keysOf(serviceFields), "command": keysOf(commandFields), "plain": keysOf(plainFields),
		"dependency": keysOf(edgeFields), "probe": probeKeys(),
		"secret": secretKeys, "teller": tokenKeys,
		"hold": keysOf(waitFields), "allowance": keysOf(budgetFields),
	}
	if got, want := slices.Sorted(maps.Keys(objects)), slices.Sorted(maps.Keys(tables)); !slices.Equal(got, want) {
		t.Errorf("objects of the schema: %q\ntables of the decoder: %q", got, want)
	}
	for name, keys := range tables {
		o := objects[name]
		if o.Additional == nil || *o.Additional {
			t.Errorf("%q takes unknown keys", name)
		}
		if got := slices.Sorted(maps.Keys(o.Properties)); !slices.Equal(got, slices.Sorted(slices.Values(keys))) {
			t.Errorf("%q: schema has %q, decoder has %q", name, got, keys)
		}
		for key, text := range o.Properties {
			var p struct {
				Ref         string `json:"$ref"`
				Description string
			}
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatal(err)
			}
			if p.Description == "" && p.Ref == "" {
				t.Errorf("%s.%s has no description", name, key)
			}
		}
	}
}

// probeKeys are all that any kind of probe takes.
func probeKeys() []string {
	var keys []string
	for _, fields := range probeWords().fields {
		keys = append(keys, keysOf(fields)...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// TestSchemaKnowsTheDecodersWords tries every word of every choice, and one
// that is none, on both.
func TestSchemaKnowsTheDecodersWords(t *testing.T) {
	schema := compiledSchema(t)
	for _, test := range []struct {
		text  string
		words []string
	}{
		{"after: {b: %s}", []string{"restart", "reload", "stop-first", "none", "stop"}},
		{"after: {b: {on_restart: %s}}", []string{"restart", "reload", "stop-first", "none", "stop"}},
		{"after: {b: {strength: %s}}", []string{"requires", "wants", "needs"}},
		{"after: {b: {of: %s}}", []string{"all", "any", "one"}},
		{"after: {b: {when: %s}}", []string{"same-host", "always"}},
		{"ready: {tcp: ':1', from: %s}", []string{"host", "dependent", "runner", "here"}},
		{"ready: {tcp: ':1', strict: %s}", []string{"true", "false", "yes", "no", "1"}},
		{"ready: {redis: ':1', token: %s}", []string{"false", "true", "no", "yes", "1"}},
		{"listens: %s", []string{"':1'", "'db:1'", "'[::1]:1'", "1", "db"}},
		{"after: {b: {on_restart: reload, if: %s}}", []string{"stale-connections", "stale"}},
		{"timeout: {start: %s}", []string{"1ms", "90s", "1h30m", "1.5s", "1d", "s"}},
		{"max_unavailable: %s", []string{"1", "1000000", "1%", "100%", "0", "101%", "-1", "1000001", "'%'"}},
		{"wait: %s", []string{"none", "{}", "off"}},
		{"wait: {otherwise: %s}", []string{"start", "leave", "stop"}},
		{"budget: %s", []string{"none", "{}", "off"}},
		{"budget: {reactions: %s}", []string{"1", "30", "0", "31"}},
		{"settle: %s", []string{"1ms", "5s", "5"}},
		{"retry: {attempts: %s}", []string{"1", "100", "0", "101"}},
		{"hosts: %s, max_failures: 1", []string{"h", "[h]", "[]", "[h, h]"}},
	} {
		for _, word := range test.words {
			hosts := "hosts: h, "
			if test.text[:5] == "hosts" {
				hosts = ""
			}
			text := fmt.Sprintf("site: x\nhosts: {h: 10.0.0.1}\nservices:\n  b: {hosts: h, systemd: b, listens: ':1'}\n  c: {hosts: h, systemd: c, after: {a: restart}}\n  a: {"+hosts+"systemd: a, "+test.text+"}\n", word)
			_, ours := Parse("x", []byte(text))
			theirs := schema.Validate(plainValue(t, text))
			if (ours == nil) != (theirs == nil) {
				t.Errorf("%s\ndecoder: %v\nschema: %v", text, ours, theirs)
			}
		}
	}
}
