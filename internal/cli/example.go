package cli

import _ "embed"

// exampleSite is the memo's site, to start from.
//
//go:embed example.yaml
var exampleSite string
