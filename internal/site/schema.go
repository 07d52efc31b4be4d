package site

import (
	_ "embed"
	"slices"
)

//go:embed site.schema.json
var schema []byte

// Schema is the JSON Schema (draft 2020-12) of a site file, for editors. What
// it accepts may still be refused by Parse, which knows names and their
// relations; what it refuses Parse refuses too.
func Schema() []byte { return slices.Clone(schema) }
