package audit

import (
	"regexp"
	"sync"
)

// expression is compiled when it is used first: kido has this package in it whatever it
// is run for.
func expression(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}
