package demo

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"kido/internal/initsys"
)

// life is the file in which the demo's services write down what becomes of
// them, each by itself: what the demo claims of them is read from there. The
// order of its lines is the order in which things happened.
type life string

// mark is one line.
type mark struct {
	host string
	what event
	main initsys.Child
}

// event is what happened to a service.
type event string

// The events.
const (
	isBorn event = "born" // a new process; nothing answers yet
	isUp   event = "up"   // about to answer
	isDown event = "down" // told to stop: about to answer no more
	isCut  event = "cut"  // killed without a word; written by the demo
)

// append writes one line; it makes no file, so that nothing comes back once the
// demo has cleaned up.
func (l life) append(m mark) error {
	f, err := os.OpenFile(string(l), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "%s %s %s %d %d\n", m.host, m.what, m.main.Boot, m.main.PID, m.main.Start)
	return err
}

// read returns all lines.
func (l life) read() ([]mark, error) {
	text, err := os.ReadFile(string(l))
	if err != nil {
		return nil, err
	}
	var all []mark
	for line := range strings.Lines(string(text)) {
		var m mark
		if _, err := fmt.Sscan(line, &m.host, &m.what, &m.main.Boot, &m.main.PID, &m.main.Start); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", l, line, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// births counts the processes that began, by host; hosts without one are left
// out.
func births(marks []mark) map[string]int {
	n := map[string]int{}
	for _, m := range marks {
		if m.what == isBorn {
			n[m.host]++
		}
	}
	return n
}

// mostAway is how many of the hosts were away at once at most, of those that
// were up when marks begin.
func mostAway(marks []mark, hosts []string) int {
	most, away := 0, map[string]bool{}
	for _, m := range marks {
		if slices.Contains(hosts, m.host) && m.what != isBorn {
			away[m.host] = m.what != isUp
		}
		n := 0
		for _, a := range away {
			if a {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// touchedBefore reports whether anything happened to one of the hosts before the
// given one was up.
func touchedBefore(marks []mark, host string, hosts []string) bool {
	for _, m := range marks {
		if m.host == host && m.what == isUp {
			return false
		}
		if slices.Contains(hosts, m.host) {
			return true
		}
	}
	return false
}
