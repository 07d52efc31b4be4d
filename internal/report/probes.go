package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"kido/internal/wire"
)

// Probe is what one probe answered, as a row of a table.
type Probe struct {
	Instance string `json:"instance,omitempty"` // "" where it is of no site
	From     string `json:"from,omitempty"`     // the host that asked, or Here
	// About is "postgres db1:5432"; "" where all probes of the instance are meant.
	About  string  `json:"probe,omitempty"`
	Answer string  `json:"answer"` // ready, degraded, not-ready, or Unknown
	Took   Seconds `json:"took"`
	Word   string  `json:"word,omitempty"`
	Life   string  `json:"life,omitempty"`
}

// The answers of a probe, beside Unknown.
const (
	AnswerReady    = "ready"
	AnswerDegraded = "degraded"
	AnswerNotReady = "not-ready"
)

// Here is who asked where it was this kido itself.
const Here = "here"

// Seconds is a time that JSON has in seconds.
type Seconds time.Duration

// MarshalJSON is [json.Marshaler].
func (s Seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(s).Round(time.Microsecond).Seconds())
}

// Answered makes a row of an answer.
func Answered(instance, from string, a wire.Probed) Probe {
	return Probe{instance, from, a.About, answerOf(a), Seconds(a.Took), a.Word, a.Life}
}

// Well reports whether the answer is that it is ready, if only degraded.
func (p Probe) Well() bool { return p.Answer == AnswerReady || p.Answer == AnswerDegraded }

// WriteProbes writes a table for people; with the lives that services tell, where
// lives.
func WriteProbes(out io.Writer, probes []Probe, lives bool) error {
	w := bufio.NewWriter(out)
	add := func(table [][]string, before []string, life, word string) [][]string {
		if lives {
			before = append(before, life)
		}
		row := append(before, word)
		for n := range row {
			row[n] = clean(row[n], false)
		}
		return append(table, row)
	}
	table := add(nil, []string{"INSTANCE", "FROM", "PROBE", "ANSWER", "TIME"}, "LIFE", "WORD")
	for _, p := range probes {
		took := "-"
		if p.Took > 0 {
			took = precise(time.Duration(p.Took))
		}
		table = add(table, []string{p.Instance, p.From, dash(p.About), spoken(p.Answer), took}, dash(p.Life), p.Word)
	}
	writeTable(w, table)
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func answerOf(a wire.Probed) string {
	switch {
	case !a.Ready:
		return AnswerNotReady
	case a.Degraded:
		return AnswerDegraded
	}
	return AnswerReady
}

// spoken is an answer as people read it.
func spoken(answer string) string { return strings.ReplaceAll(answer, "-", " ") }

// precise writes a short duration for people, with two or three digits that count:
// 0.42ms, 12ms, 3.05s.
func precise(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2fms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Round(time.Millisecond)/time.Millisecond)
	}
	return fmt.Sprintf("%.2fs", d.Seconds())
}
