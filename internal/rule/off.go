//go:build mutations

package rule

// off is the one rule that a test has switched off; "" for none.
var off Rule

// Holds reports whether a rule is kept.
func Holds(r Rule) bool { return r != off }

// Without runs f with a rule switched off. It is for one goroutine.
func Without(r Rule, f func()) {
	off = r
	defer func() { off = "" }()
	f()
}
