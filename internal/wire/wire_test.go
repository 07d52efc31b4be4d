package wire

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func sampleRequest() Request {
	return Request{
		Verb: VerbEnsure, Service: "web", Run: "r-7", Timeout: 90 * time.Second, Reaction: ReactReload,
		Expect: NewVector(Entry{"db@db1", "a b"}), New: NewVector(Entry{"db@db1", "c"}, Entry{"cache@h", "\x1b[2J"}),
		Own: "boot:1:2", Generation: 1<<64 - 1, Hold: true,
	}
}

func sampleReply() Reply {
	return Reply{Code: CodeFailed, Word: "it is failed", Output: "line\nline\xff", Status: &Status{
		Instance: "web@web1", State: StateUp, Token: "t", Age: 3 * time.Second, Settled: true, Ready: true, Word: "why",
		Generation: 3, Wanted: WantedUp, Basis: NewVector(Entry{"db@db1", "c"}), Intent: true, IntentVerb: VerbStop,
	}}
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
		"kido/1 reply ok\nend\n",
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

func FuzzRequest(f *testing.F) {
	f.Add(sampleRequest().Format())
	f.Fuzz(func(t *testing.T, text []byte) {
		if q, err := ParseRequest(text); err == nil && string(q.Format()) != string(text) {
			t.Errorf("%q prints back as %q", text, q.Format())
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(sampleReply().Format())
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := ParseReply(text); err == nil && string(r.Format()) != string(text) {
			t.Errorf("%q prints back as %q", text, r.Format())
		}
	})
}
