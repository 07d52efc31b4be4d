//go:build failpoints

// Package failpoint lets tests kill a program between two durable effects. In
// ordinary builds Hit does nothing; with the build tag failpoints it kills the
// process, once, at the point that a test has named.
package failpoint

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"syscall"
)

var (
	mu   sync.Mutex
	hits = map[string]int{}

	// Read at once: a gate clears its environment.
	armed  = os.Getenv("KIDO_FAILPOINT")
	passed = os.Getenv("KIDO_FAILPOINT_LOG")
)

// Hit kills the process by SIGKILL where the file that KIDO_FAILPOINT names
// holds this point's name and how many times this process has come by, as in
// "gate.after.Save#2". The file is removed first, so a point kills once.
// Passed points are appended to the file that KIDO_FAILPOINT_LOG names, which
// is how a test learns which points there are.
func Hit(point string) {
	mu.Lock()
	hits[point]++
	name := fmt.Sprintf("%s#%d", point, hits[point])
	mu.Unlock()
	if passed != "" {
		if f, err := os.OpenFile(passed, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			fmt.Fprintln(f, name)
			f.Close()
		}
	}
	if armed == "" {
		return
	}
	if text, err := os.ReadFile(armed); err == nil && string(bytes.TrimSpace(text)) == name && os.Remove(armed) == nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	}
}

// HitAt marks the point that is named after what is being done: its type.
func HitAt(point string, what any) { Hit(fmt.Sprintf("%s.%T", point, what)) }
