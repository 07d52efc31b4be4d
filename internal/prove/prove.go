// Package prove tries at a real host what a thief of its key would: everything
// but what the key is there for. It finds out what the host does, where reading
// its configuration (kido audit) finds out what it says.
//
// It changes nothing at the host. What would act where it is wrongly granted is
// sent in a form that cannot (a compare that never holds), or not at all, and
// then it says so. What sshd wrongly grants for the life of a session, such as a
// listener, is given back at once. Only a pinned host key is spoken to. All that
// a host says is quoted and short: it may be hostile.
package prove

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kido/internal/gate"
	"kido/internal/remote"
)

// Config says which key is to be tried, and where.
type Config struct {
	Target   remote.Target // User and Key are given
	HostKeys *remote.Pins

	// Policy is what the gate there is to grant: what it grants to the key, or to
	// the certificate beside it, is not tried. nil: a plain target, where any command
	// runs the one that the key is locked to, so only what runs none is tried.
	Policy *gate.Policy
	// Others are further users at the host that the key must not log in as; each
	// costs a failed authentication, for which sshd may keep this address out.
	Others []string

	// Socket is a Unix socket at the host that anybody may connect to, to try to
	// forward to; default: the system bus.
	Socket string
	// Time bounds each attempt (default 20 s) but the slow request, which ends
	// when the gate loses patience or Patience is over (default 60 s).
	Time, Patience time.Duration
}

// Attempt is one thing that a thief would try.
type Attempt struct {
	Group string // command, request, session, forwarding, load or login
	Name  string // "pty"; no two have the same
	What  string // in words

	beside bool // it takes its time, and runs beside all others
	try    func(context.Context, *thief) verdict
}

// Outcome is what came of an attempt.
type Outcome string

// The outcomes.
const (
	Refused    Outcome = "refused"
	NotRefused Outcome = "not-refused" // a finding
	NotTried   Outcome = "not-tried"   // it could not be: How says why
	LeftOut    Outcome = "left-out"    // it has no harmless form: How says what speaks for it
)

// Result is an attempt with its outcome.
type Result struct {
	Attempt
	Outcome Outcome
	How     string // in the words of who refused; printable ASCII on one line

	silent bool // time was up before anything was heard
}

type verdict struct {
	outcome Outcome
	how     string
}

func refused(format string, args ...any) verdict {
	return verdict{Refused, fmt.Sprintf(format, args...)}
}

func granted(format string, args ...any) verdict {
	return verdict{NotRefused, fmt.Sprintf(format, args...)}
}

func leftOut(why string) verdict { return verdict{LeftOut, why} }

// failed is an attempt that did not come to an answer.
func failed(err error) verdict { return verdict{NotTried, words(err.Error(), 200)} }

// Run makes all attempts, and reports each when it is through, in
// that order. First it uses the key as it is meant: where that does not work, a
// refusal would prove nothing, and it returns an error and has tried nothing. In
// the end it looks whether the key still works.
func Run(ctx context.Context, c Config, report func(Result)) error {
	t, err := newThief(c)
	if err != nil {
		return err
	}
	answer, err := t.use(ctx)
	if err != nil {
		return fmt.Errorf("the key does not work there, so a refusal would prove nothing: %w", err)
	}
	if answer != nil {
		report(*answer)
	}
	attempts := t.attempts()
	beside := map[string]chan Result{}
	slowly, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for _, done := range beside {
			<-done
		}
	}()
	for _, a := range attempts {
		if a.beside {
			done := make(chan Result, 1)
			beside[a.Name] = done
			go func() {
				defer close(done)
				done <- t.attempt(slowly, a)
			}()
		}
	}
	silent := 0 // attempts in a row
	for _, a := range attempts {
		var r Result
		if done := beside[a.Name]; done != nil {
			r = <-done
		} else {
			r = t.attempt(ctx, a)
			silent++
			if !r.silent {
				silent = 0
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		report(r)
		if silent == mostSilent {
			return fmt.Errorf("it did not answer %d attempts in a row: the rest was not tried", silent)
		}
	}
	if _, err := t.use(ctx); err != nil {
		return fmt.Errorf("after all this the key does not work any more: %w: sshd may keep this address out for a while (PerSourcePenalties; PerSourcePenaltyExemptList exempts it)", err)
	}
	return nil
}

// mostSilent is how many attempts in a row a host may leave unanswered: one that
// holds each for as long as it can would hold the whole for half an hour.
const mostSilent = 3

func (t *thief) attempt(ctx context.Context, a Attempt) Result {
	most := t.Time
	if a.beside {
		most = t.Patience
	}
	ctx, cancel := context.WithTimeoutCause(ctx, most, errNoAnswer)
	defer cancel()
	v := a.try(ctx, t)
	return Result{Attempt: a, Outcome: v.outcome, How: v.how, silent: v.outcome == NotTried && errors.Is(context.Cause(ctx), errNoAnswer)}
}

var errNoAnswer = errors.New("no answer in time")
