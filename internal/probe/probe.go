// Package probe asks whether a service answers: tcp, http and exec here,
// standard library without net/http, because it is linked into the gate; what
// needs more (https, later databases) is asked by another program, see [Local].
//
// A try is one question with one answer, inside its time-out, and leaves no
// connection, process or goroutine behind. What comes back from elsewhere is
// bounded, and made printable before it is a word. Intervals, consecutive successes and
// the start deadline belong to whoever asks again (internal/run).
package probe

import (
	"context"
	"time"
)

// Spec is one probe as a policy file or a prober knows it: everything resolved.
type Spec struct {
	Kind    Kind
	Target  string        // KindTCP: "address:port"; KindHTTP, KindHTTPS: the URL
	Argv    []string      // KindExec: program as an absolute path, exit status 0 is ready
	Status  []int         // KindHTTP, KindHTTPS: accepted codes; none: 200 to 399
	Timeout time.Duration // of one try, whole milliseconds; 0: 3 s
}

// Kind is a sort of probe. The spelling is part of the policy file.
type Kind string

// The kinds.
const (
	KindTCP   Kind = "tcp"
	KindHTTP  Kind = "http"
	KindHTTPS Kind = "https"
	KindExec  Kind = "exec"
)

// Answer is what one try learned.
type Answer struct {
	Ready bool
	Word  string // why not, in the field's words: "connection refused"; printable, one line, at most 256 bytes
	Took  time.Duration
}

// Prober makes one try.
type Prober interface {
	Try(ctx context.Context, s Spec) Answer
}
