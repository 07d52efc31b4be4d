package probe

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"kido/internal/wire"
)

// Task is one try that a [Local] hands to another program, on its standard input,
// which nobody else can read: the spec's line, how long the try may take and the life
// that is asked for, both in milliseconds and where they are known, and the secrets.
//
//	postgres 10.0.0.1:5432 password=file:/etc/kido/db user=kido
//	within 2750
//	life 5d1f… 1700000000000
//	secret password 8
//	…8 bytes…
type Task struct {
	Spec   Spec
	Within time.Duration // 0: as long as Spec says
}

const (
	taskWithin = "within"
	taskLife   = "life"
	taskSecret = "secret"

	maxSecrets = 4 // ca, cert, key, and a password or the like
	maxTask    = (1+maxSecrets)*wire.MaxLine + maxSecrets*maxSecret
)

// String writes the task, its only spelling.
func (t Task) String() string {
	var b strings.Builder
	line := func(fields ...string) { b.WriteString(wire.FormatLine(fields...) + "\n") }
	line(t.Spec.Fields()...)
	if ms := t.Within.Milliseconds(); ms > 0 {
		line(taskWithin, strconv.FormatInt(ms, 10))
	}
	if l := t.Spec.Life; l != (Life{}) {
		since := int64(0)
		if !l.Since.IsZero() {
			since = l.Since.UnixMilli()
		}
		line(taskLife, l.Token, strconv.FormatInt(since, 10))
	}
	for _, name := range slices.Sorted(maps.Keys(t.Spec.Secrets)) {
		text := t.Spec.Secrets[name]
		line(taskSecret, name, strconv.Itoa(len(text)))
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String()
}

var errTask = errors.New("not a task of a probe")

// ReadTask is the inverse of [Task.String], to the end of r.
func ReadTask(r io.Reader) (Task, error) {
	all, err := io.ReadAll(io.LimitReader(r, maxTask+1))
	if err != nil {
		return Task{}, err
	}
	if len(all) > maxTask {
		return Task{}, fmt.Errorf("a task of over %d bytes", maxTask)
	}
	t, err := parseTask(string(all))
	if err == nil && t.String() != string(all) {
		err = errTask
	}
	if err != nil {
		return Task{}, err
	}
	return t, nil
}

func parseTask(text string) (t Task, err error) {
	line, rest, ok := strings.Cut(text, "\n")
	if !ok {
		return t, errors.New("no probe was asked for")
	}
	fields, err := wire.ParseLine(line)
	if err != nil {
		return t, err
	}
	if t.Spec, err = ParseSpec(fields); err != nil {
		return t, err
	}
	for rest != "" {
		line, rest, _ = strings.Cut(rest, "\n")
		if fields, err = wire.ParseLine(line); err != nil {
			return t, errTask // and its text is not repeated: it may be a secret's
		}
		n, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
		switch {
		case err != nil:
			return t, errTask
		case fields[0] == taskWithin && len(fields) == 2 && n <= maxTimeout.Milliseconds():
			t.Within = time.Duration(n) * time.Millisecond
		case fields[0] == taskLife && len(fields) == 3:
			t.Spec.Life.Token = fields[1]
			if n != 0 {
				t.Spec.Life.Since = time.UnixMilli(n)
			}
		case fields[0] == taskSecret && len(fields) == 3 && n >= 0 && n < int64(len(rest)):
			if t.Spec.Secrets == nil {
				t.Spec.Secrets = Secrets{}
			}
			t.Spec.Secrets[fields[1]] = []byte(rest[:n])
			rest = rest[n+1:] // that there is a newline between, its spelling shows
		default:
			return t, errTask
		}
	}
	return t, nil
}
