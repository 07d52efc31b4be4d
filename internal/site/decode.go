package site

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decoder turns nodes into values. It goes on after a mistake, so that all of
// a file's mistakes are found; it leaves the zero value where one is.
type decoder struct {
	reporter
	kind, name string // what is being read, for messages: "service", "web"
	key        *node  // the key whose value a field's set is called with
	visited    int    // entries of mappings and lists seen so far
	bomb       bool   // too many: everything else is left unread
	mistakes   int    // so far, also those that were reported before
}

func (d *decoder) errorf(at *node, hint, format string, args ...any) {
	d.mistakes++
	context := ""
	if d.kind != "" {
		context = d.kind + " " + d.name
	}
	d.report(position{at.line, at.column}, context, fmt.Sprintf(format, args...), hint)
}

// field is one key of a mapping with a fixed set of keys. The tables of fields
// are the one place that knows which keys there are.
type field[T any] struct {
	key string
	set func(d *decoder, n *node, to *T)
}

// object reads a mapping with fixed keys; what names it unless it is d.name
// itself. It is false where a key or the whole
// was not understood: what is missing is then better not complained about.
func object[T any](d *decoder, n *node, what string, fields []field[T], to *T) bool {
	content, ok := d.pairs(n, what)
	where := ""
	if what != "" {
		where = " in " + what
	}
	return fill(d, content, where, fields, to) && ok
}

// fill is object for keys and values that were read already.
func fill[T any](d *decoder, content []*node, where string, fields []field[T], to *T) bool {
	ok := true
	var given [32]*node
	for i := 0; i+1 < len(content); i += 2 {
		key, value := content[i], content[i+1]
		f := slices.IndexFunc(fields, func(f field[T]) bool { return f.key == key.value })
		switch {
		case key.kind != scalar:
			d.errorf(key, "", "a key must be a word, not %s", describe(key))
			ok = false
		case f < 0:
			keys := keysOf(fields)
			hint := d.suggest(key.value, keys)
			if hint == "" {
				hint = "known keys: " + strings.Join(keys, ", ")
			}
			d.errorf(key, hint, "unknown key %q%s", key.value, where)
			ok = false
		case given[f] != nil:
			d.errorf(key, "", "key %q is given twice%s, first in line %d", key.value, where, given[f].line)
			ok = false
		case value.tag == "!!null":
			given[f] = key
			d.errorf(value, "give it a value or remove the key", "%s is empty", key.value)
			ok = false
		default:
			given[f] = key
			d.key = key
			f := fields[f]
			f.set(d, value, to)
		}
	}
	return ok
}

func keysOf[T any](fields []field[T]) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

// named reads a mapping whose keys are names.
func (d *decoder) named(n *node, what string, each func(name, value *node)) {
	content, ok := d.pairs(n, what)
	if !ok {
		return
	}
	if len(content) == 0 {
		d.errorf(n, "", "%s is empty", what)
	}
	// Most mappings are short, and a map for each would cost more than looking.
	const short = 8
	var index map[string]*node
	if len(content) > 2*short {
		index = make(map[string]*node, len(content)/2)
	}
	for i := 0; i+1 < len(content); i += 2 {
		key := content[i]
		if key.kind != scalar || key.tag == "!!null" {
			d.errorf(key, "", "a key of %s must be a name, not %s", what, describe(key))
			continue
		}
		first := index[key.value]
		for j := 0; j < i && index == nil && first == nil; j += 2 {
			if content[j].value == key.value {
				first = content[j]
			}
		}
		if first != nil {
			d.errorf(key, "", "%q is given twice in %s, first in line %d", key.value, what, first.line)
			continue
		}
		if index != nil {
			index[key.value] = key
		}
		each(key, content[i+1])
	}
}

// pairs gives the keys and values of a mapping in turn, with what "<<" merges
// taken in.
func (d *decoder) pairs(n *node, what string) ([]*node, bool) {
	if n.kind != mapping {
		if what == "" {
			what = "it"
		}
		d.errorf(n, "", "%s must be a mapping (key: value), not %s", what, describe(n))
		return nil, false
	}
	if !d.visit(n) {
		return nil, false
	}
	for i := 0; i < len(n.content); i += 2 {
		if k := n.content[i]; k.tag == "!!merge" {
			return d.merged(n, 0)
		}
	}
	return n.content, true
}

// merged is the slow path of pairs. Own keys win over merged ones, and
// earlier merges over later ones.
func (d *decoder) merged(n *node, depth int) ([]*node, bool) {
	const deepest = 10
	var own, sources []*node
	for i := 0; i+1 < len(n.content); i += 2 {
		key, value := n.content[i], n.content[i+1]
		switch {
		case key.tag != "!!merge":
			own = append(own, key, value)
		case value.kind == sequence:
			sources = append(sources, value.content...)
		default:
			sources = append(sources, value)
		}
	}
	for _, source := range sources {
		if source.kind != mapping {
			d.errorf(source, "", "<< takes a mapping or a list of mappings, not %s", describe(source))
			return nil, false
		}
		if depth == deepest {
			d.errorf(source, "", "<< is nested more than %d deep, or in itself", deepest)
			return nil, false
		}
		if !d.visit(source) {
			return nil, false
		}
		more, ok := d.merged(source, depth+1)
		if !ok {
			return nil, false
		}
		have := map[string]bool{}
		for i := 0; i < len(own); i += 2 {
			have[own[i].value] = true
		}
		for i := 0; i < len(more); i += 2 {
			if !have[more[i].value] {
				own = append(own, more[i], more[i+1])
			}
		}
	}
	return own, true
}

// visit bounds what a few lines of aliases to aliases can be made to mean. A
// text without aliases has fewer entries than bytes.
func (d *decoder) visit(n *node) bool {
	const spare = 1_000_000
	d.visited += len(n.content)
	if !d.bomb && d.visited > len(d.source)+spare {
		d.bomb = true
		d.errorf(n, "write the values out", "aliases stand for more than %d values", spare)
	}
	return !d.bomb
}

// list gives the entries of a list; one value alone is a list of one.
func (d *decoder) list(n *node, what string) []*node {
	if n.kind != sequence {
		return []*node{n}
	}
	if !d.visit(n) {
		return nil
	}
	if len(n.content) == 0 {
		d.errorf(n, "", "%s is an empty list", what)
	}
	return n.content
}

// names reads a list of different names, or one name.
func (d *decoder) names(n *node, what string) []*node {
	if n.kind == mapping {
		d.errorf(n, "", "%s must be a name or a list of names, not a mapping", what)
		return nil
	}
	all := d.list(n, what)
	var good []*node
	for _, item := range all {
		if d.text(item, what) == "" {
			continue
		}
		if slices.ContainsFunc(good, func(g *node) bool { return g.value == item.value }) {
			d.errorf(item, "", "%s names %q twice", what, item.value)
			continue
		}
		good = append(good, item)
	}
	return good
}

// text reads a non-empty string without control characters; "" after a
// mistake.
func (d *decoder) text(n *node, what string) string {
	switch {
	case n.kind != scalar || n.tag == "!!null":
		d.errorf(n, "", "%s must be text, not %s", what, describe(n))
	case n.tag != "!!str":
		d.errorf(n, fmt.Sprintf("write it in quotes: %q", n.value), "%s must be text, not %s", what, describe(n))
	case n.value == "":
		d.errorf(n, "", "%s is empty", what)
	case strings.ContainsFunc(n.value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		d.errorf(n, "", "%s holds a control character", what)
	default:
		return n.value
	}
	return ""
}

func (d *decoder) count(n *node, what string, low, high int) int {
	if n.kind != scalar || n.tag != "!!int" {
		d.errorf(n, "", "%s must be a whole number, not %s", what, describe(n))
		return 0
	}
	i, err := strconv.Atoi(n.value)
	if err != nil || i < low || i > high {
		d.errorf(n, "", "%s must be a number from %d to %d, not %s", what, low, high, n.value)
		return 0
	}
	return i
}

const longest = 24 * time.Hour

func (d *decoder) duration(n *node, what string) time.Duration {
	if n.kind == scalar && (n.tag == "!!int" || n.tag == "!!float") {
		d.errorf(n, fmt.Sprintf("say %q", n.value+"s"), "%s has no unit", what)
		return 0
	}
	text := d.text(n, what)
	if text == "" {
		return 0
	}
	t, err := time.ParseDuration(text)
	switch {
	case err != nil && strings.Trim(text, "0123456789") == "":
		d.errorf(n, fmt.Sprintf("say %q", text+"s"), "%s has no unit", what)
	case err != nil:
		d.errorf(n, `write it like "500ms", "90s", "5m" or "1h30m"`, "%s: %q is not a duration", what, text)
	case t < time.Millisecond || t > longest || t%time.Millisecond != 0:
		d.errorf(n, "", "%s must be from 1ms to 24h in whole milliseconds, not %s", what, text)
	default:
		return t
	}
	return 0
}

// choose reads one of a few words.
func choose[E ~string](d *decoder, n *node, what string, to *E, all ...E) {
	if n.kind == scalar && slices.Contains(all, E(n.value)) {
		*to = E(n.value)
		return
	}
	*to = ""
	words := make([]string, len(all))
	for i, e := range all {
		words[i] = string(e)
	}
	d.noneOf(n, what, words)
}

// noneOf reports what should be one of a few words.
func (d *decoder) noneOf(n *node, what string, words []string) {
	text := n.value
	if n.kind != scalar || text == "" {
		d.text(n, what)
		return
	}
	hint := d.suggest(text, words)
	if hint == "" && len(words) > 1 {
		hint = "one of " + quoted(words)
	} else if hint == "" {
		hint = "it can only be " + quoted(words)
	}
	d.errorf(n, hint, "%s cannot be %q", what, text)
}

// describe names what a node is, for "must be …, not …".
func describe(n *node) string {
	switch n.kind {
	case mapping:
		return "a mapping"
	case sequence:
		return "a list"
	}
	switch n.tag {
	case "!!null":
		return "nothing"
	case "!!str":
		return fmt.Sprintf("the text %q", n.value)
	case "!!int", "!!float":
		return "the number " + n.value
	case "!!bool":
		return "the truth value " + n.value
	}
	return fmt.Sprintf("%q, which YAML takes for %s", n.value, n.tag)
}

// Fields that many tables have.

func textField[T any](key string, at func(*T) *string) field[T] {
	return field[T]{key, func(d *decoder, n *node, to *T) { *at(to) = d.text(n, key) }}
}

func countField[T any](key string, low, high int, at func(*T) *int) field[T] {
	return field[T]{key, func(d *decoder, n *node, to *T) { *at(to) = d.count(n, key, low, high) }}
}

func durationField[T any](key string, at func(*T) *time.Duration) field[T] {
	return field[T]{key, func(d *decoder, n *node, to *T) { *at(to) = d.duration(n, key) }}
}

func choiceField[T any, E ~string](key string, at func(*T) *E, all ...E) field[T] {
	return field[T]{key, func(d *decoder, n *node, to *T) { choose(d, n, key, at(to), all...) }}
}

func argvField[T any](key string, at func(*T) *[]string) field[T] {
	return field[T]{key, func(d *decoder, n *node, to *T) { *at(to) = d.argv(n, key) }}
}
