package probe_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"kido/internal/probe"
	"kido/internal/wire"
)

func TestSpecLines(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]probe.Spec{
		"tcp 10.0.0.1:1521 timeout=3000": {Kind: probe.KindTCP, Target: "10.0.0.1:1521", Timeout: 3 * time.Second},
		"tcp [::1]:5432":                 {Kind: probe.KindTCP, Target: "[::1]:5432"},
		"http http://web1/health":        {Kind: probe.KindHTTP, Target: "http://web1/health"},
		`https "https://10.0.0.1:8443/x?a=b&c" status=200,204 timeout=500`: {
			Kind: probe.KindHTTPS, Target: "https://10.0.0.1:8443/x?a=b&c", Status: []int{200, 204}, Timeout: 500 * time.Millisecond,
		},
		`exec timeout=500 /usr/bin/x timeout=1 "" "a b"`: {
			Kind: probe.KindExec, Argv: []string{"/usr/bin/x", "timeout=1", "", "a b"}, Timeout: 500 * time.Millisecond,
		},
	} {
		fields, err := wire.ParseLine(line)
		if err != nil {
			t.Fatal(err)
		}
		got, err := probe.ParseSpec(fields)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", line, got, err)
		}
		if back := wire.FormatLine(want.Fields()...); back != line {
			t.Errorf("%s came back as %s", line, back)
		}
	}
}

func TestSpecErrors(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"tcp":                               "a probe takes a kind and what to ask",
		"udp 1.2.3.4:5":                     "udp is no kind of probe: tcp, http, https or exec",
		"tcp 1.2.3.4":                       "tcp: 1.2.3.4 is not ADDRESS:PORT",
		"tcp :80":                           "tcp: :80 is not ADDRESS:PORT",
		"tcp a:0":                           "tcp: port 0 is not 1 to 65535",
		"tcp a:http":                        "tcp: port http is not 1 to 65535",
		"tcp a:65536":                       "tcp: port 65536 is not 1 to 65535",
		`tcp "a b:1"`:                       `tcp: "a b" is not an address or a name`,
		"tcp a:1 status=200":                "tcp: a tcp answer has no status",
		"tcp a:1 timeout=x":                 "timeout=: x is not a number of milliseconds",
		"tcp a:1 timeout=3600001":           "tcp: time-out 1h0m0.001s: at most 1h0m0s",
		"tcp a:1 timeout=0":                 "tcp a:1 timeout=0 is not how this probe is spelled: tcp a:1",
		"tcp a:1 timeout=03":                "tcp a:1 timeout=03 is not how this probe is spelled: tcp a:1 timeout=3",
		"tcp a:1 timeout=1 timeout=2":       "tcp a:1 timeout=1 timeout=2 is not how this probe is spelled: tcp a:1 timeout=2",
		"tcp a:1 retry=3":                   "tcp: unknown option retry=3",
		"http https://a/":                   "http: https://a/ does not begin with http://",
		"https http://a/":                   "https: http://a/ does not begin with https://",
		"http http:a":                       "http: http:a does not begin with http://",
		"http http://u:p@a/":                "http: a probe's URL holds no user name or password",
		`http "http://a/#x"`:                `http: "http://a/#x": the part behind # never reaches a server`,
		`http "http://a/\n"`:                `http: "http://a/\n": spaces and letters beyond ASCII are written as %XX in a URL`,
		`http "http://a/?b c"`:              `http: "http://a/?b c": spaces and letters beyond ASCII are written as %XX in a URL`,
		"http http://[::1/":                 "http: http://[::1/ is not a URL",
		"http http:///x":                    "http: :80 is not ADDRESS:PORT",
		"http http://a/ status=":            `status=: "" is not a status code`,
		"http http://a/ status=100":         "http: status 100: a code is 200 to 599",
		"http http://a/ status=+200":        `http http://a/ status=+200 is not how this probe is spelled: http http://a/ status=200`,
		"http http://a/ timeout=1 status=2": "http: status 2: a code is 200 to 599",
		"exec x":                            "exec: x is not an absolute path",
		"exec timeout=1":                    "exec: no program is given",
		`exec /x "\x00"`:                    "exec: an argument holds no zero byte",
		"exec status=200 /x":                "exec: exit status 0 is ready, and no other",
		"tcp " + strings.Repeat("a", 2048) + ":1": "tcp: target of 2050 bytes, at most 2048 are taken",
	} {
		fields, err := wire.ParseLine(line)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := probe.ParseSpec(fields); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", line, err, want)
		}
	}
}

func FuzzSpec(f *testing.F) {
	f.Add("tcp 10.0.0.1:1521 timeout=3000")
	f.Add("https https://a/ status=200,204")
	f.Add(`exec timeout=5 /bin/x "" "a b"`)
	f.Fuzz(func(t *testing.T, line string) {
		fields, err := wire.ParseLine(line)
		if err != nil {
			return
		}
		s, err := probe.ParseSpec(fields)
		if err != nil {
			return
		}
		if back := wire.FormatLine(s.Fields()...); back != line {
			t.Errorf("%q came back as %q", line, back)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add("ready 1234")
	f.Add(`not-ready 0 "HTTP 503 Service Unavailable"`)
	f.Add(`not-ready 0 "\x1b"`)
	f.Fuzz(func(t *testing.T, line string) {
		fields, err := wire.ParseLine(line)
		if err != nil {
			return
		}
		a, err := probe.ParseAnswer(fields)
		if err != nil {
			return
		}
		if back := wire.FormatLine(a.Fields()...); back != line {
			t.Errorf("%q came back as %q", line, back)
		}
		if a.Took < 0 || a.Word != probe.Printable(a.Word) {
			t.Errorf("%q gave %+v", line, a)
		}
	})
}

func TestAnswerFields(t *testing.T) {
	t.Parallel()
	for _, a := range []probe.Answer{
		{Ready: true, Took: 1234 * time.Microsecond},
		{Word: "HTTP 503 Service Unavailable"},
		{Word: "読めません", Took: time.Hour},
	} {
		if got, err := probe.ParseAnswer(a.Fields()); err != nil || got != a {
			t.Errorf("%+v became %+v, %v", a, got, err)
		}
	}
	for _, f := range [][]string{
		nil,
		{"ready"},
		{"yes", "1"},
		{"ready", "-1"},
		{"ready", "01"},
		{"ready", "1", ""},
		{"ready", "1", "a", "b"},
		{"not-ready", "1", "a\nb"},
		{"not-ready", "1", strings.Repeat("x", 257)},
		{"ready", "99999999999999999999"},
	} {
		if a, err := probe.ParseAnswer(f); err == nil {
			t.Errorf("%q: %+v", f, a)
		}
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                               "",
		" \r\n\t ":                       "",
		"  a\tb \r\nc  ":                 "a b c",
		"\x1b[31mred\x07\xff\u202e!":     "?[31mred???!",
		"データベース":                         "データベース",
		strings.Repeat("x", 300):         strings.Repeat("x", 256),
		strings.Repeat("é", 200):         strings.Repeat("é", 128),
		strings.Repeat("x", 255) + " yz": strings.Repeat("x", 255),
		strings.Repeat("x", 255) + "éz":  strings.Repeat("x", 255),
	} {
		if got := probe.Printable(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x00b\x1b[2J\n\xff")
	f.Fuzz(func(t *testing.T, text string) {
		got := probe.Printable(text)
		if len(got) > 256 || !utf8.ValidString(got) || slices.Contains([]byte(got), '\n') || probe.Printable(got) != got {
			t.Errorf("%q gave %q", text, got)
		}
	})
}
