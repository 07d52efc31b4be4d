package wire

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

func sampleRequest() Request {
	return Request{
		Verb: VerbEnsure, Service: "web", Run: "r-7", Timeout: 90 * time.Second, Reaction: ReactReload,
		Expect: NewVector(Entry{"db@db1", "a b"}), New: NewVector(Entry{"db@db1", "c"}, Entry{"cache@h", "\x1b[2J"}),
		Own: "boot:1:2", Generation: 1<<64 - 1, Hold: true,
		Held: true, Lives: []Life{{"cache@h", 0}, {"db@db1", 1500 * time.Millisecond}},
	}
}

func sampleReply() Reply {
	return Reply{Code: CodeFailed, Word: "it is failed", Output: "line\nline\xff", Status: &Status{
		Instance: "web@web1", State: StateUp, Token: "t", Life: "1700000000.5", Age: 3 * time.Millisecond, Settled: true, Ready: true, Degraded: true, Word: "why",
		Generation: 3, Wanted: WantedUp, Basis: NewVector(Entry{"db@db1", "c"}), Intent: true, IntentVerb: VerbStop,
		Held: []Held{{Upstream: "db@db1", Open: 3, Closed: 1, Silent: []time.Duration{time.Hour, 0}}, {Upstream: "x@h"}},
	}, Probes: []Probed{{About: "tcp h:1", Ready: true, Took: time.Millisecond}, {About: "postgres h:5432", Ready: true, Degraded: true, Word: "read-only", Life: "7"}, {About: "x", Word: "refused"}}}
}

func TestRoundTrip(t *testing.T) {
	for _, q := range []Request{{Verb: VerbStatus, Service: "web"}, sampleRequest()} {
		if got, err := ParseRequest(q.Format()); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%s\nread back as %+v, %v", q.Format(), got, err)
		}
	}
	for _, r := range []Reply{{Code: CodeRefused}, sampleReply()} {
		if got, err := ParseReply(r.Format()); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s\nread back as %+v, %v", r.Format(), got, err)
		}
	}
}

func TestMessagesArePrintable(t *testing.T) {
	for _, text := range [][]byte{sampleRequest().Format(), sampleReply().Format()} {
		for _, c := range text {
			if c != '\n' && (c < ' ' || c > '~') {
				t.Errorf("byte %#x in\n%s", c, text)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "end\n", "kido/1 request status web\n", "kido/1 request status web\nend", "kido/2 request status web\nend\n",
		"kido/1 request status\nend\n", "kido/1 request destroy web\nend\n", "kido/1 request status web\nhold\nhold\nend\n",
		"kido/1 request status web\ngeneration 0\nend\n", "kido/1 request status web\ngeneration 01\nend\n",
		"kido/1 request status web\nown a\nrun b\nend\n", "kido/1 request status \"web\"\nend\n",
		"kido/1 request status web \nend\n", "kido/1  request status web\nend\n", "kido/1 request status web\n\nend\n",
		"kido/1 request status web\r\nend\r\n", "kido/1 request status web\nnew a 1\nnew a 2\nend\n",
		"kido/1 request status web\nnew b 1\nnew a 2\nend\n", "kido/1 request status $(id)\nend\n",
		"kido/1 request status web\ntimeout 99999999999999999999\nend\n", "kido/1 request status web\ntimeout 18446744073709551615\nend\n",
		"kido/1 request status web\nend\nend\n", "kido/1 request status " + strings.Repeat("a", MaxLine) + "\nend\n",
		"kido/1 request status web\nnew x " + strings.Repeat("a", MaxWord+1) + "\nend\n",
		"kido/1 request status web\nown " + strings.Repeat("a", MaxWord+1) + "\nend\n",
		"kido/1 reply ok\nend\n", "kido/1 request ensure web\nlife b 1\nlife a 1\nend\n", "kido/1 request ensure web\nlife a -1\nend\n",
		"kido/1 request ensure web\nlife a 01\nend\n",
	} {
		if q, err := ParseRequest([]byte(text)); err == nil {
			t.Errorf("%q was taken as %+v", text, q)
		}
	}
}

func TestReadAll(t *testing.T) {
	if b, err := ReadAll(strings.NewReader("1234"), 4); err != nil || string(b) != "1234" {
		t.Errorf("four of four bytes: %q, %v", b, err)
	}
	if _, err := ReadAll(strings.NewReader("12345"), 4); err == nil {
		t.Error("five of four bytes were taken")
	}
}

func TestVector(t *testing.T) {
	v := NewVector(Entry{"b", "1"}, Entry{"a", "2"}, Entry{"b", "3"})
	if want := (Vector{{"a", "2"}, {"b", "3"}}); !v.Equal(want) {
		t.Errorf("got %v, want %v", v, want)
	}
	if v.Extend("b", "4") || v.Extend("aa", "5") || !v.Extend("c", "6") || len(v) != 3 {
		t.Errorf("extended to %v", v)
	}
	w := v.With("a", "9")
	if token, _ := v.Get("a"); token != "2" {
		t.Errorf("With changed its receiver: %v", v)
	}
	if token, ok := w.Get("a"); token != "9" || !ok {
		t.Errorf("With set %q, %t", token, ok)
	}
	if !Vector(nil).Equal(Vector{}) {
		t.Error("nil and empty differ")
	}
}

func FuzzLine(f *testing.F) {
	f.Add(`a "b c" d`)
	f.Add(`"\x1b"`)
	f.Fuzz(func(t *testing.T, line string) {
		fields, err := ParseLine(line)
		if err == nil && FormatLine(fields...) != line {
			t.Errorf("%q prints back as %q", line, FormatLine(fields...))
		}
		again, err := ParseLine(FormatLine(line, "x", line))
		if len(line) < MaxLine/16 && (err != nil || again[0] != line || again[2] != line) {
			t.Errorf("field %q came back as %q, %v", line, again, err)
		}
	})
}

// A message of the greatest length costs what its length says: nothing in it is
// copied again and again.
func TestCost(t *testing.T) {
	var lines strings.Builder
	for n := 0; lines.Len() < MaxRequest*2/3; n++ {
		fmt.Fprintf(&lines, "new %04x 1\n", n)
	}
	request := []byte("kido/1 request ensure web\n" + lines.String() + "end\n")
	reply := []byte("kido/1 reply ok\nstatus web@h up\n" + strings.ReplaceAll(lines.String(), "new", "basis") + "end\n")
	var before, between, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, requestErr := ParseRequest(request)
	runtime.ReadMemStats(&between)
	_, replyErr := ParseReply(reply)
	runtime.ReadMemStats(&after)
	if err := errors.Join(requestErr, replyErr); err != nil {
		t.Fatal(err)
	}
	if cost := between.TotalAlloc - before.TotalAlloc; cost > 40*uint64(len(request)) {
		t.Errorf("to read a request of %d bytes takes %d bytes of memory", len(request), cost)
	}
	if cost := after.TotalAlloc - between.TotalAlloc; cost > 40*uint64(len(reply)) {
		t.Errorf("to read a reply of %d bytes takes %d bytes of memory", len(reply), cost)
	}
}

// message checks what holds for every text that is taken as a message: it is
// printable, bounded, prints back as it was, and no beginning of it is a message.
func message[M interface{ Format() []byte }](t *testing.T, text []byte, limit int, parse func([]byte) (M, error)) {
	t.Helper()
	m, err := parse(text)
	if err != nil {
		var zero M
		if !reflect.DeepEqual(m, zero) {
			t.Errorf("a message beside the error %v: %+v", err, m)
		}
		return
	}
	if string(m.Format()) != string(text) || len(text) > limit {
		t.Errorf("%d bytes, %q, print back as %q", len(text), text, m.Format())
	}
	for _, c := range text {
		if c != '\n' && (c < ' ' || c > '~') {
			t.Errorf("byte %#x in %q", c, text)
		}
	}
	// It ends where "end" stands alone, so only there a shorter one could.
	for i := range text {
		if bytes.HasSuffix(text[:i], []byte("end\n")) {
			if m, err := parse(text[:i]); err == nil {
				t.Errorf("%q cut at %d is %+v", text, i, m)
			}
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(sampleRequest().Format())
	f.Fuzz(func(t *testing.T, text []byte) { message(t, text, MaxRequest, ParseRequest) })
}

func FuzzReply(f *testing.F) {
	f.Add(sampleReply().Format())
	f.Fuzz(func(t *testing.T, text []byte) { message(t, text, MaxReply, ParseReply) })
}

// FuzzSent sends any words: what is read is what was sent, or it is refused.
func FuzzSent(f *testing.F) {
	f.Add("web", "r-7", "boot:1:2", "db@db1", "a b", "line\nline\xff", uint64(7), uint32(90_000), uint8(1))
	f.Add("", "", "", "", "", "", uint64(0), uint32(0), uint8(0xff))
	f.Fuzz(func(t *testing.T, service, id, own, up, token, word string, n uint64, ms uint32, bits uint8) {
		bit := func(i int) bool { return bits>>i&1 == 1 }
		q := Request{
			Verb: Verbs()[n%uint64(len(Verbs()))], Service: service, Run: id, Timeout: time.Duration(ms) * time.Millisecond,
			Expect: NewVector(Entry{up, token}, Entry{own, id}), Own: own, Generation: n, Hold: bit(0),
		}
		if bit(1) {
			q.Reaction, q.New = ReactReload, NewVector(Entry{up, own})
		}
		if got, err := ParseRequest(q.Format()); err == nil && !reflect.DeepEqual(got, q) {
			t.Errorf("sent %+v\nread %+v", q, got)
		}
		r := Reply{Code: Codes()[n%uint64(len(Codes()))], Word: word, Output: id}
		if bit(2) {
			r.Status = &Status{
				Instance: up, State: States()[n%uint64(len(States()))], Token: token, Age: time.Duration(ms) * time.Millisecond,
				Settled: bit(3), Ready: bit(4), Word: word, Generation: n, Basis: NewVector(Entry{up, token}, Entry{own, id}),
			}
			if bit(5) {
				r.Status.Intent, r.Status.IntentVerb, r.Status.Wanted = true, q.Verb, WantedHeld
			}
		}
		if got, err := ParseReply(r.Format()); err == nil && !reflect.DeepEqual(got, r) {
			t.Errorf("sent %+v\nread %+v", r, got)
		}
	})
}

func TestIncarnation(t *testing.T) {
	for _, x := range []struct {
		token, life, want string
	}{
		{"", "", ""}, {"i", "", "i"}, {"i", "7", "i+7"}, {"i", LifeUntold, ""}, {"", "7", ""},
	} {
		s := Status{Token: x.token, Life: x.life}
		if got := s.Incarnation(); got != x.want || got != "" && Unit(got) != x.token {
			t.Errorf("%q and %q are %q of unit %q, want %q", x.token, x.life, got, Unit(got), x.want)
		}
	}
}

// TestStale: what the upstream has closed, and what has been silent for longer than it lives.
func TestStale(t *testing.T) {
	h := Held{Upstream: "db@db1", Open: 3, Closed: 2, Silent: []time.Duration{time.Hour, time.Minute, 0}}
	for age, want := range map[time.Duration]int{0: 4, time.Second: 4, time.Minute: 3, 2 * time.Hour: 2} {
		if got := h.Stale(age); got != want {
			t.Errorf("of an upstream of %s: %d, want %d", age, got, want)
		}
	}
}
