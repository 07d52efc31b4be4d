package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"kido/internal/run"
	"kido/internal/wire"
)

// Status is what is known of a site: of its instances now, and of the runs that
// this machine has begun and not finished.
type Status struct {
	Site      string     `json:"site"`
	Instances []Instance `json:"instances"`
	Runs      []Run      `json:"runs"` // the oldest first
}

// Unknown is the State of an instance that could not be asked.
const Unknown = "unknown"

// Instance is one row of the status.
type Instance struct {
	Name  string `json:"instance"`
	State string `json:"state"` // a wire.State, or Unknown
	Ready bool   `json:"ready"`
	// Degraded: it is ready, but not as it should be; Why says what is wrong.
	Degraded bool `json:"degraded,omitempty"`
	Fresh    bool `json:"fresh"` // nothing to do and nothing to wait for
	// OnPurpose says that it is down because somebody wants it so.
	OnPurpose bool `json:"onPurpose"`
	// Age is that of its incarnation; 0 where unknown. In JSON: "age", whole
	// seconds.
	Age  time.Duration `json:"-"`
	Why  string        `json:"why,omitempty"`  // why it is not ready, not fresh or not known
	Owes []string      `json:"owes,omitempty"` // upstreams that it owes a reaction to
	// Waits names the upstreams that are not ready or not current.
	Waits []string   `json:"waits,omitempty"`
	Next  *time.Time `json:"next,omitempty"` // when a run tries again
	// OnHold is for how long yet it is left alone by itself, as it reacted too
	// often; 0: it is not. In JSON: "onHold", whole seconds.
	OnHold time.Duration `json:"-"`
	// Stale is, of each upstream, how many connections its host holds that are older
	// than the upstream's present life; only those that are some.
	Stale []StaleConnections `json:"staleConnections,omitempty"`
}

// StaleConnections are connections to one upstream from before its present life.
type StaleConnections struct {
	Upstream string `json:"upstream"`
	Stale    int    `json:"stale"`
	Held     int    `json:"held"` // of so many in all
}

// clockSlack is how far apart two hosts may have been asked.
const clockSlack = 2 * time.Second

// StaleOf finds the connections of an instance's host that are older than the present
// lives of its upstreams, as far as those were seen.
func StaleOf(s *wire.Status, upstream func(name string) *wire.Status) (stale []StaleConnections) {
	for _, h := range s.Held {
		up := upstream(h.Upstream)
		if up == nil || up.Age == 0 || up.Incarnation() == "" {
			continue
		}
		if n := h.Stale(up.Age + clockSlack); n > 0 {
			stale = append(stale, StaleConnections{h.Upstream, n, int(h.Open + h.Closed)})
		}
	}
	return stale
}

func (s StaleConnections) String() string {
	noun := "connections"
	if s.Held == 1 {
		noun = "connection"
	}
	return fmt.Sprintf("%d of %d %s to %s from before its start", s.Stale, s.Held, noun, s.Upstream)
}

// MarshalJSON is [json.Marshaler].
func (i Instance) MarshalJSON() ([]byte, error) {
	type fields Instance
	return json.Marshal(struct {
		fields
		Age    int64 `json:"age,omitempty"`
		OnHold int64 `json:"onHold,omitempty"`
	}{fields(i), int64(i.Age / time.Second), int64(i.OnHold / time.Second)})
}

// Run is a run that is not finished.
type Run struct {
	ID      string    `json:"run"`
	Begun   time.Time `json:"begun"`
	Verb    string    `json:"verb"`
	Targets []string  `json:"targets,omitempty"`
	Outcome string    `json:"outcome,omitempty"` // a run.Outcome; "" where it did not come to its end
	Live    bool      `json:"live"`              // its runner is at work
}

// Owing reports whether any instance owes a reaction, is not ready though it is
// wanted, or cannot be told.
func (s Status) Owing() bool {
	for _, i := range s.Instances {
		if i.owing() {
			return true
		}
	}
	return false
}

func (i Instance) owing() bool {
	switch {
	case i.OnPurpose:
		return false // waived
	case i.State == Unknown, len(i.Owes) > 0, !i.Ready:
		return true
	}
	// Behind an upstream that is not current: that one owes, not this. What
	// else keeps an instance from being fresh is its own.
	return !i.Fresh && len(i.Waits) == 0
}

// WriteStatus writes s as a table for people.
func WriteStatus(w io.Writer, s Status) error { return writeStatus(w, s, time.Now()) }

// writeStatus writes times as they are now and at the place of now.
func writeStatus(out io.Writer, s Status, now time.Time) error {
	w := bufio.NewWriter(out)
	table := make([][]string, 0, len(s.Instances)+1)
	table = append(table, []string{"INSTANCE", "STATE", "READY", "AGE", "FRESH", "WHY/NEXT"})
	for _, i := range s.Instances {
		row := i.row(now)
		for n := range row {
			row[n] = clean(row[n], false)
		}
		table = append(table, row)
	}
	writeTable(w, table)
	if len(s.Instances) > 1 {
		fmt.Fprintf(w, "\n%s\n", s.tally())
	}
	if len(s.Runs) > 0 {
		fmt.Fprintln(w)
	}
	for _, r := range s.Runs {
		fmt.Fprintln(w, clean(r.sentence(now), false))
	}
	return w.Flush()
}

// writeTable aligns all columns but the last.
func writeTable(w *bufio.Writer, table [][]string) {
	width := make([]int, len(table[0]))
	for _, row := range table {
		for n, field := range row {
			width[n] = max(width[n], utf8.RuneCountInString(field))
		}
	}
	for _, row := range table {
		var b strings.Builder
		for n, field := range row {
			b.WriteString(field)
			if n < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[n]-utf8.RuneCountInString(field)+2))
			}
		}
		w.WriteString(strings.TrimRight(b.String(), " "))
		w.WriteByte('\n')
	}
}

func (i Instance) row(now time.Time) []string {
	ready, old := "no", "-"
	switch {
	case i.State == Unknown:
		ready = "-"
	case i.Degraded:
		ready = "degraded"
	case i.Ready:
		ready = "yes"
	}
	if i.Age > 0 {
		old = age(i.Age)
	}
	why := i.Why
	for _, s := range i.Stale {
		why = strings.TrimPrefix(why+"; "+s.String(), "; ")
	}
	if i.OnHold > 0 {
		hold := fmt.Sprintf("on hold for %s yet, as it reacted too often; kido release %s ends that", elapsed(i.OnHold), i.Name)
		if why != "" {
			hold += ": "
		}
		why = hold + why
	}
	if i.Next != nil && i.Next.After(now) {
		next := "next try in " + elapsed(i.Next.Sub(now).Round(time.Second))
		if why != "" {
			next += ": "
		}
		why = next + why
	}
	return []string{i.Name, i.State, ready, old, i.freshness(), why}
}

// freshness says in words whether an instance is fresh.
func (i Instance) freshness() string {
	switch {
	case i.OnPurpose:
		return "stopped on purpose"
	case len(i.Owes) > 0:
		return "owes " + list(i.Owes)
	case i.State == Unknown:
		return Unknown
	case i.Fresh:
		return "fresh"
	case len(i.Waits) > 0:
		return "waits for " + list(i.Waits)
	}
	return "not fresh"
}

// tally counts the instances.
func (s Status) tally() string {
	var well, degraded, onPurpose, owing, unknown, waiting int
	for _, i := range s.Instances {
		switch {
		case i.OnPurpose:
			onPurpose++
		case i.State == Unknown:
			unknown++
		case i.owing():
			owing++
		case i.Fresh && i.Degraded:
			degraded++
		case i.Fresh:
			well++
		default:
			waiting++
		}
	}
	text := fmt.Sprintf("%d instances", len(s.Instances))
	separator := ": "
	for _, p := range []struct {
		n    int
		what string
	}{
		{well, "ready and fresh"},
		{degraded, "degraded and fresh"},
		{onPurpose, "stopped on purpose"},
		{waiting, "behind an upstream"},
		{owing, "not ready or not fresh"},
		{unknown, "unknown"},
	} {
		if p.n > 0 {
			text += fmt.Sprintf("%s%d %s", separator, p.n, p.what)
			separator = ", "
		}
	}
	return text
}

func (r Run) sentence(now time.Time) string {
	request := strings.Join(append([]string{r.Verb}, r.Targets...), " ")
	text := fmt.Sprintf("run %s of %s: %s: ", r.ID, r.Begun.In(now.Location()).Format(time.DateTime), request)
	switch {
	case r.Live:
		return text + "under way"
	case r.Outcome == "":
		text += "cut off"
	default:
		text += r.Outcome
	}
	if r.Outcome == string(run.OutcomeDone) {
		return text
	}
	return text + "; `kido resume` goes on with it"
}
