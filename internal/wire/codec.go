package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrTooLong is returned by [ReadAll] where more came than is taken.
var ErrTooLong = errors.New("message is too long")

// ReadAll reads one message of at most limit bytes up to the end of r.
func ReadAll(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%w: over %d bytes", ErrTooLong, limit)
	}
	return b, err
}

// Format writes the one spelling of q.
func (q Request) Format() []byte {
	var w writer
	w.line("kido/1", "request", string(q.Verb), q.Service)
	w.text("run", q.Run)
	w.duration("timeout", q.Timeout, time.Millisecond)
	w.text("reaction", string(q.Reaction))
	w.vector("expect", q.Expect)
	w.vector("new", q.New)
	w.text("own", q.Own)
	w.number("generation", q.Generation)
	w.flag("hold", q.Hold)
	w.flag("down", q.Down)
	w.text("member", q.Member)
	w.number("most", q.Most)
	w.flag("held", q.Held)
	for _, l := range q.Lives {
		w.line("life", l.Upstream, strconv.FormatUint(uint64(max(0, l.Age)/time.Millisecond), 10))
	}
	w.number("budget", q.Budget)
	w.duration("within", q.Within, time.Millisecond)
	w.line("end")
	return w.Bytes()
}

// ParseRequest reads what Format wrote and nothing else.
func ParseRequest(text []byte) (Request, error) {
	var q Request
	err := parse(text, MaxRequest, "request", func(key string, args []string) error {
		switch key {
		case "": // the first line
			if len(args) != 2 {
				return errors.New("the first line is not: kido/1 request VERB SERVICE")
			}
			q.Verb, q.Service = Verb(args[0]), args[1]
			if len(q.Service) > MaxWord {
				return errTooLongWord
			}
			return member("verb", q.Verb, Verbs())
		case "run":
			return word(args, &q.Run)
		case "timeout":
			return duration(args, &q.Timeout, time.Millisecond)
		case "reaction":
			return enum(args, "reaction", &q.Reaction, []Reaction{ReactRestart, ReactReload})
		case "expect":
			return entry(args, &q.Expect)
		case "new":
			return entry(args, &q.New)
		case "own":
			return word(args, &q.Own)
		case "generation":
			return number(args, &q.Generation)
		case "hold":
			return flag(args, &q.Hold)
		case "down":
			return flag(args, &q.Down)
		case "member":
			return word(args, &q.Member)
		case "most":
			return number(args, &q.Most)
		case "held":
			return flag(args, &q.Held)
		case "life":
			if len(args) != 2 || args[0] == "" {
				return errors.New("takes an instance and a number")
			}
			if len(args[0]) > MaxWord {
				return errTooLongWord
			}
			l := Life{Upstream: args[0]}
			if n := len(q.Lives); n > 0 && q.Lives[n-1].Upstream >= l.Upstream {
				return errors.New("is not in the order of the instances")
			}
			err := duration(args[1:], &l.Age, time.Millisecond)
			q.Lives = append(q.Lives, l)
			return err
		case "budget":
			return number(args, &q.Budget)
		case "within":
			return duration(args, &q.Within, time.Millisecond)
		}
		return errUnknownKey
	})
	return canonical(q, text, err)
}

// Format writes the one spelling of r.
func (r Reply) Format() []byte {
	var w writer
	w.line("kido/1", "reply", string(r.Code))
	w.text("word", r.Word)
	w.text("output", r.Output)
	if s := r.Status; s != nil {
		w.line("status", s.Instance, string(s.State))
		w.text("token", s.Token)
		w.text("life", s.Life)
		w.duration("age", s.Age, time.Millisecond)
		w.flag("settled", s.Settled)
		w.flag("ready", s.Ready)
		w.flag("degraded", s.Degraded)
		w.text("why", s.Word)
		w.number("generation", s.Generation)
		w.text("wanted", string(s.Wanted))
		w.vector("basis", s.Basis)
		if s.Intent {
			w.line("intent", string(s.IntentVerb))
		}
		w.duration("on-hold", s.OnHold, time.Second)
		for _, h := range s.Held {
			w.line(h.fields()...)
		}
	}
	for _, s := range r.Slots {
		w.line("slot", s.Member, s.Run, strconv.FormatUint(s.Generation, 10))
	}
	for _, p := range r.Probes {
		w.line("probe", p.verdict(), strconv.FormatInt(max(0, p.Took.Microseconds()), 10), p.About, p.Life, p.Word)
	}
	w.line("end")
	return w.Bytes()
}

// ParseReply reads what Format wrote and nothing else. The text may come from
// a hostile target.
func ParseReply(text []byte) (Reply, error) {
	var r Reply
	var s Status
	err := parse(text, MaxReply, "reply", func(key string, args []string) error {
		switch key {
		case "":
			return enum(args, "code", &r.Code, Codes())
		case "word":
			return one(args, &r.Word)
		case "output":
			return one(args, &r.Output)
		case "status":
			if len(args) != 2 {
				return errors.New("status takes an instance and a state")
			}
			r.Status, s.Instance, s.State = &s, args[0], State(args[1])
			return member("state", s.State, States())
		case "token":
			return word(args, &s.Token)
		case "life":
			return word(args, &s.Life)
		case "age":
			return duration(args, &s.Age, time.Millisecond)
		case "settled":
			return flag(args, &s.Settled)
		case "ready":
			return flag(args, &s.Ready)
		case "degraded":
			return flag(args, &s.Degraded)
		case "why":
			return one(args, &s.Word)
		case "generation":
			return number(args, &s.Generation)
		case "wanted":
			return enum(args, "wanted state", &s.Wanted, []Wanted{WantedUp, WantedDown, WantedHeld})
		case "basis":
			return entry(args, &s.Basis)
		case "intent":
			s.Intent = true
			return enum(args, "verb", &s.IntentVerb, Verbs())
		case "on-hold":
			return duration(args, &s.OnHold, time.Second)
		case "held":
			h, err := parseHeld(args)
			s.Held = append(s.Held, h)
			return err
		case "probe":
			p, err := parseProbed(args)
			r.Probes = append(r.Probes, p)
			return err
		case "slot":
			slot, err := ParseSlot(args)
			r.Slots = append(r.Slots, slot)
			return err
		}
		return errUnknownKey
	})
	return canonical(r, text, err)
}

var errUnknownKey = errors.New("no such field")

// canonical lets a parsed message pass only where it prints back to text: so
// order, repetition and spelling need no checks of their own.
func canonical[M interface{ Format() []byte }](m M, text []byte, err error) (M, error) {
	var zero M
	if err != nil {
		return zero, err
	}
	if !bytes.Equal(m.Format(), text) {
		return zero, errors.New("message is not in its one spelling (order, repetition or a default written out)")
	}
	return m, nil
}

// parse walks the lines of a message; the first line's arguments come under
// the key "".
func parse(text []byte, limit int, kind string, field func(key string, args []string) error) error {
	if len(text) > limit {
		return fmt.Errorf("%w: over %d bytes", ErrTooLong, limit)
	}
	body, ok := strings.CutSuffix(string(text), "\nend\n")
	if !ok {
		return errors.New("message is cut short: no line \"end\"")
	}
	for i, line := range strings.Split(body, "\n") {
		f, err := ParseLine(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		key, args := f[0], f[1:]
		if i == 0 {
			if len(f) < 2 || f[0] != "kido/1" || f[1] != kind {
				return fmt.Errorf("not a kido/1 %s", kind)
			}
			key, args = "", f[2:]
		}
		if err := field(key, args); err != nil {
			return fmt.Errorf("line %d: %s: %w", i+1, Quote(key), err)
		}
	}
	return nil
}

// writer leaves out what has its default value.
type writer struct{ bytes.Buffer }

func (w *writer) line(fields ...string) {
	w.WriteString(FormatLine(fields...))
	w.WriteByte('\n')
}

func (w *writer) text(key, value string) {
	if value != "" {
		w.line(key, value)
	}
}

func (w *writer) flag(key string, set bool) {
	if set {
		w.line(key)
	}
}

func (w *writer) number(key string, n uint64) {
	if n != 0 {
		w.line(key, strconv.FormatUint(n, 10))
	}
}

func (w *writer) duration(key string, d, unit time.Duration) {
	if d >= unit {
		w.number(key, uint64(d/unit))
	}
}

func (w *writer) vector(key string, v Vector) {
	for _, e := range v {
		w.line(key, e.Instance, e.Token)
	}
}

func one(args []string, to *string) error {
	if len(args) != 1 || args[0] == "" {
		return errors.New("takes one value")
	}
	*to = args[0]
	return nil
}

// ParseSlot takes the fields of a line that says a slot: member, run, generation.
func ParseSlot(args []string) (Slot, error) {
	bad := errors.New("takes an instance, a run and a number")
	if len(args) != 3 || args[0] == "" || args[1] == "" {
		return Slot{}, bad
	}
	if len(args[0]) > MaxWord || len(args[1]) > MaxWord {
		return Slot{}, errTooLongWord
	}
	n, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return Slot{}, bad
	}
	return Slot{args[0], args[1], n}, nil
}

func (h Held) fields() []string {
	f := []string{"held", h.Upstream, strconv.FormatUint(h.Open, 10), strconv.FormatUint(h.Closed, 10)}
	for _, silent := range h.Silent {
		f = append(f, strconv.FormatUint(uint64(max(0, silent)/time.Second), 10))
	}
	return f
}

func parseHeld(args []string) (h Held, err error) {
	if len(args) < 3 || len(args) > 3+MaxSilent || args[0] == "" {
		return h, fmt.Errorf("takes an instance, two numbers and at most %d times", MaxSilent)
	}
	if len(args[0]) > MaxWord {
		return h, errTooLongWord
	}
	h.Upstream = args[0]
	if err := errors.Join(number(args[1:2], &h.Open), number(args[2:3], &h.Closed)); err != nil {
		return h, err
	}
	if h.Closed > maxCount || h.Open > maxCount {
		return h, errors.New("is more than a host has")
	}
	for i := range args[3:] {
		var silent time.Duration
		if err := duration(args[3+i:4+i], &silent, time.Second); err != nil {
			return h, err
		}
		h.Silent = append(h.Silent, silent)
	}
	return h, nil
}

const maxCount = 1 << 24 // connections that a host may say it holds

const (
	probeReady    = "ready"
	probeDegraded = "degraded"
	probeNotReady = "not-ready"
)

func (p Probed) verdict() string {
	switch {
	case !p.Ready:
		return probeNotReady
	case p.Degraded:
		return probeDegraded
	}
	return probeReady
}

func parseProbed(args []string) (p Probed, err error) {
	if len(args) != 5 {
		return p, errors.New("takes an answer, a time, what was asked, a life and a word")
	}
	verdict := args[0]
	if err := member("answer", verdict, []string{probeReady, probeDegraded, probeNotReady}); err != nil {
		return p, err
	}
	p = Probed{About: args[2], Ready: verdict != probeNotReady, Degraded: verdict == probeDegraded, Life: args[3], Word: args[4]}
	return p, duration(args[1:2], &p.Took, time.Microsecond)
}

var errTooLongWord = fmt.Errorf("a name or token of over %d bytes", MaxWord)

func word(args []string, to *string) error {
	if len(args) == 1 && len(args[0]) > MaxWord {
		return errTooLongWord
	}
	return one(args, to)
}

func flag(args []string, to *bool) error {
	if len(args) != 0 {
		return errors.New("takes no value")
	}
	*to = true
	return nil
}

func number(args []string, to *uint64) error {
	var text string
	if err := one(args, &text); err != nil {
		return err
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return errors.New("takes a number")
	}
	*to = n
	return nil
}

func duration(args []string, to *time.Duration, unit time.Duration) error {
	var n uint64
	if err := number(args, &n); err != nil {
		return err
	}
	if n > uint64(1<<63-1)/uint64(unit) {
		return errors.New("is too long a time")
	}
	*to = time.Duration(n) * unit
	return nil
}

func enum[T ~string](args []string, what string, to *T, all []T) error {
	var text string
	if err := one(args, &text); err != nil {
		return err
	}
	*to = T(text)
	return member(what, *to, all)
}

func member[T ~string](what string, x T, all []T) error {
	if !slices.Contains(all, x) {
		return fmt.Errorf("%s is not a %s", Quote(string(x)), what)
	}
	return nil
}

func entry(args []string, to *Vector) error {
	if len(args) != 2 || args[0] == "" || args[1] == "" {
		return errors.New("takes an instance and a token")
	}
	if len(args[0]) > MaxWord || len(args[1]) > MaxWord {
		return errTooLongWord
	}
	if !to.Extend(args[0], args[1]) {
		return errors.New("is not in the order of the instances")
	}
	return nil
}
