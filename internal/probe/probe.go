// Package probe asks whether a service answers. It knows every kind of probe, how
// it is written on a line and what it takes; tcp, http, exec, file, log and the
// combinations are made here, standard library without net/http, because this is
// linked into the gate. What needs more (TLS, databases) is asked by another
// program, see [Local], with the drivers of package netprobe.
//
// A try is one question with one answer, inside its time-out, and leaves no
// connection, process or goroutine behind. What comes back from elsewhere is
// bounded, and made printable before it is a word. Intervals, consecutive successes and
// the start deadline belong to whoever asks again (internal/run).
package probe

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Spec is one probe as a policy file or a prober knows it: everything resolved.
type Spec struct {
	Kind    Kind
	Target  string            // what is asked, as the kind spells it: "address:port", a URL, a path, a name; "" where it has none
	Argv    []string          // KindExec: program as an absolute path, exit status 0 is ready
	Of      []Spec            // KindAll, KindAny, KindNot
	Options map[string]string // what else the kind takes, in the spelling of a line; nil: nothing
	Timeout time.Duration     // of one try, whole milliseconds; 0: 3 s, of a combination the longest of its parts

	// For one try, and never written into a line:

	Life    Life    // the incarnation that is asked for
	Secrets Secrets // what is behind the options that name a source, see [Spec.Load]
}

// Secrets are by the name of their option, and not shown by package fmt.
type Secrets map[string][]byte

// Format implements [fmt.Formatter].
func (Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "(secrets)") }

// Life is an incarnation as its init knows it.
type Life struct {
	Token string    // systemd: the invocation id
	Since time.Time // when it began; zero where that is not known
}

// Answer is what one try learned.
type Answer struct {
	Ready bool
	// Untried, where not Ready: there was no answer to be had, for a reason on our side:
	// a secret, a right or a program is missing, or we were interrupted. It says nothing
	// about the service.
	Untried bool
	// Degraded, where Ready: it answers, but not as it should; Word says what is wrong.
	Degraded bool
	Word     string // why not, in the field's words: "connection refused"; printable, one line, at most 256 bytes
	Took     time.Duration
	// Life is the service's own word of its incarnation, such as when a database was
	// started: it changes where the service was restarted inside its unit, and at no other
	// time. Printable, without spaces, at most 128 bytes. Where it is ready there is one
	// just if [Spec.TellsLife].
	Life string
	Age  time.Duration // of that life, by the service's own clock; 0 where unknown
}

// Prober makes one try.
type Prober interface {
	Try(ctx context.Context, s Spec) Answer
}
