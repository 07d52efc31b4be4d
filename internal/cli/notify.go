package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"kido/internal/run"
	"kido/internal/site"
)

const (
	// notifyTime bounds one call of the site's notify program.
	notifyTime = 30 * time.Second
	// notices is how many may wait to be told; a run waits for none of them.
	notices = 4096
	// patientTries is the first attempt of which somebody is told; after that at
	// doubling counts.
	patientTries = 4
)

// notifier calls the site's notify program with what a person should hear of, one
// JSON object a line. It holds up no run, and what is wrong with the program is a
// warning.
type notifier struct {
	site  string
	held  map[string]bool // instances of whose hold it has told
	argv  []string
	queue chan []byte
	done  chan struct{}
	warn  func(error)
}

func newNotifier(s *site.Site, warn func(error)) *notifier {
	n := &notifier{site: s.Name, argv: s.Notify, held: map[string]bool{}, queue: make(chan []byte, notices), done: make(chan struct{}), warn: warn}
	go func() {
		defer close(n.done)
		for text := range n.queue {
			// All that waits goes into one call: a thousand hosts may fail at once.
			for more := true; more; {
				select {
				case next, open := <-n.queue:
					text, more = append(text, next...), open
				default:
					more = false
				}
			}
			if err := n.call(text); err != nil {
				n.warn(fmt.Errorf("notify: %s: %w", n.argv[0], err))
			}
		}
	}()
	return n
}

// notice is what the program reads.
type notice struct {
	Site string `json:"site"`
	run.Event
}

// event tells what is worth it: something is on hold, failed or was refused, or a
// run has left debts.
func (n *notifier) event(e run.Event) {
	switch {
	case n.argv == nil:
		return
	case e.Step != nil:
		s := e.Step
		switch {
		case s.Phase == run.PhaseOnHold && !n.held[s.Instance]:
			n.held[s.Instance] = true
		case s.Phase == run.PhaseFailed, s.Phase == run.PhaseRefused:
		// Who keeps trying never fails: it is told when it has gone on for a while.
		case s.Phase == run.PhaseRetry && s.Attempt >= patientTries && s.Attempt&(s.Attempt-1) == 0:
		default:
			if s.Phase.Well() {
				delete(n.held, s.Instance)
			}
			return
		}
	case e.End != nil && e.End.Outcome != run.OutcomeDone && e.End.Outcome != run.OutcomeInterrupted:
	default:
		return
	}
	text, err := json.Marshal(notice{n.site, e})
	if err != nil {
		n.warn(fmt.Errorf("notify: %w", err))
		return
	}
	select {
	case n.queue <- append(text, '\n'):
	default:
		n.warn(fmt.Errorf("notify: %s is too slow: a notice was left out", n.argv[0]))
	}
}

func (n *notifier) call(text []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), notifyTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.argv[0], n.argv[1:]...)
	cmd.Stdin = bytes.NewReader(text)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}                                 // Ctrl-C is for kido
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // and what it has started
	cmd.WaitDelay = time.Second
	return cmd.Run()
}

// close waits until all is told, as long as one call may take.
func (n *notifier) close() {
	close(n.queue)
	select {
	case <-n.done:
	case <-time.After(notifyTime):
		n.warn(fmt.Errorf("notify: %s is too slow: not all was told", n.argv[0]))
	}
}
