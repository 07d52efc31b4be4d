package site

import yaml "go.yaml.in/yaml/v4"

// node is one value of the text with its place: what of YAML the rest of the
// package needs. Aliases are resolved: a node may be shared, and may even be
// inside itself.
type node struct {
	kind         kind
	line, column int    // from 1; the column counts characters
	tag          string // of a scalar, in its short form: "!!str", "!!int", "!!null", "!!merge", …
	value        string // of a scalar
	content      []*node
}

type kind uint8

const (
	scalar kind = iota
	sequence
	mapping // content holds keys and values in turn
)

// converter makes nodes of those of the YAML parser.
type converter map[*yaml.Node]*node // the anchored ones

func (c converter) convert(from *yaml.Node) *node {
	if from.Kind == yaml.AliasNode {
		return c[from.Alias] // an anchor comes before its aliases
	}
	n := &node{tag: from.Tag, value: from.Value, line: from.Line, column: from.Column}
	switch from.Kind {
	case yaml.MappingNode:
		n.kind = mapping
	case yaml.SequenceNode:
		n.kind = sequence
	}
	if from.Anchor != "" {
		c[from] = n
	}
	for _, inner := range from.Content {
		n.content = append(n.content, c.convert(inner))
	}
	return n
}
