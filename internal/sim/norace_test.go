//go:build !race

package sim

// raced says that the race detector is on: a seed takes ten times as long.
const raced = false
