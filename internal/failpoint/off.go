//go:build !failpoints

// Package failpoint lets tests kill a program between two durable effects. In
// ordinary builds Hit does nothing; with the build tag failpoints it kills the
// process, once, at the point that a test has named.
package failpoint

// Hit marks a point.
func Hit(string) {}

// HitAt marks the point that is named after what is being done: its type.
func HitAt(string, any) {}
