package probe_test

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"kido/internal/probe"
	"kido/internal/wire"
)

// twoParts are those of a combination, behind its options.
const twoParts = "2 2 tcp a:1 3 tcp b:2 timeout=500"

func TestSpecLines(t *testing.T) {
	t.Parallel()
	two := []probe.Spec{
		{Kind: probe.KindTCP, Target: "a:1"},
		{Kind: probe.KindTCP, Target: "b:2", Timeout: 500 * time.Millisecond},
	}
	for line, want := range map[string]probe.Spec{
		"tcp 10.0.0.1:1521 timeout=3000":    {Kind: probe.KindTCP, Target: "10.0.0.1:1521", Timeout: 3 * time.Second},
		"tcp [::1]:5432 slow=20 strict=yes": {Kind: probe.KindTCP, Target: "[::1]:5432", Options: options("slow", "20", "strict", "yes")},
		"http http://web1/health":           {Kind: probe.KindHTTP, Target: "http://web1/health"},
		`https "https://10.0.0.1:8443/x?a=b&c" status=200,204 timeout=500`: {
			Kind: probe.KindHTTPS, Target: "https://10.0.0.1:8443/x?a=b&c", Options: options("status", "200,204"), Timeout: 500 * time.Millisecond,
		},
		`http http://a/ header.X-A= "header.x-b=a=b c"`: {
			Kind: probe.KindHTTP, Target: "http://a/", Options: options("header.X-A", "", "header.x-b", "a=b c"),
		},
		`exec timeout=500 /usr/bin/x timeout=1 "" "a b"`: {
			Kind: probe.KindExec, Argv: []string{"/usr/bin/x", "timeout=1", "", "a b"}, Timeout: 500 * time.Millisecond,
		},
		"exec degraded=2 token=output /x":                       {Kind: probe.KindExec, Argv: []string{"/x"}, Options: options("degraded", "2", "token", "output")},
		"postgres db:5432 password=file:/etc/kido/pg user=kido": {Kind: probe.KindPostgres, Target: "db:5432", Options: options("password", "file:/etc/kido/pg", "user", "kido")},
		"file /etc/maintenance":                                 {Kind: probe.KindFile, Target: "/etc/maintenance"},
		"log journal match=ready":                               {Kind: probe.KindLog, Target: "journal", Options: options("match", "ready")},
		"log /l begins=a match=b":                               {Kind: probe.KindLog, Target: "/l", Options: options("begins", "a", "match", "b")},
		"systemd nginx.service state=inactive":                  {Kind: probe.KindSystemd, Target: "nginx.service", Options: options("state", "inactive")},
		"dns db.example address=::1 server=10.0.0.1":            {Kind: probe.KindDNS, Target: "db.example", Options: options("address", "::1", "server", "10.0.0.1")},
		"all " + twoParts:                                       {Kind: probe.KindAll, Of: two},
		"any timeout=700 " + twoParts:                           {Kind: probe.KindAny, Of: two, Timeout: 700 * time.Millisecond},
		"not 1 2 file /etc/maintenance":                         {Kind: probe.KindNot, Of: []probe.Spec{{Kind: probe.KindFile, Target: "/etc/maintenance"}}},
		"all 2 9 any " + twoParts + " 5 exec timeout=1 /x 2 y": {
			Kind: probe.KindAll, Of: []probe.Spec{{Kind: probe.KindAny, Of: two}, {Kind: probe.KindExec, Argv: []string{"/x", "2", "y"}, Timeout: time.Millisecond}},
		},
	} {
		fields, err := wire.ParseLine(line)
		if err != nil {
			t.Fatal(line, err)
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

// options are names and values by turns.
func options(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

func TestSpecErrors(t *testing.T) {
	t.Parallel()
	x := "2 tcp a:1 "
	nested := "tcp a:1"
	for range 5 {
		nested = "not 1 " + strconv.Itoa(len(strings.Fields(nested))) + " " + nested
	}
	for line, want := range map[string]string{
		"tcp":                                   "a probe takes a kind and what to ask",
		"udp 1.2.3.4:5":                         "udp is no kind of probe",
		"tcp 1.2.3.4":                           "tcp: 1.2.3.4 is not ADDRESS:PORT",
		"tcp :80":                               "tcp: :80 is not ADDRESS:PORT",
		"tcp a:0":                               "tcp: port 0 is not 1 to 65535",
		"tcp a:080":                             "tcp: port 080 is not 1 to 65535",
		"tcp a:http":                            "tcp: port http is not 1 to 65535",
		"tcp a:65536":                           "tcp: port 65536 is not 1 to 65535",
		`tcp "a b:1"`:                           `tcp: "a b" is not an address or a name`,
		"tcp a:1 status=200":                    "tcp: unknown option status",
		"tcp a:1 /x":                            "tcp: unknown option /x",
		"tcp a:1 slow=0":                        "tcp: slow: 0 is not a number of milliseconds",
		"tcp a:1 slow=01":                       "tcp: slow: 01 is not a number of milliseconds",
		"tcp a:1 strict=no":                     "tcp: strict: no is not yes",
		"tcp a:1 timeout=x":                     "timeout: x is not a number of milliseconds",
		"tcp a:1 timeout=3600001":               "tcp: time-out 1h0m0.001s: at most 1h0m0s",
		"tcp a:1 timeout=0":                     "tcp a:1 timeout=0 is not how this probe is spelled: tcp a:1",
		"tcp a:1 timeout=03":                    "tcp a:1 timeout=03 is not how this probe is spelled: tcp a:1 timeout=3",
		"tcp a:1 timeout=1 timeout=2":           "tcp a:1 timeout=1 timeout=2 is not how this probe is spelled: tcp a:1 timeout=2",
		"tcp a:1 timeout=1 slow=2":              "tcp a:1 timeout=1 slow=2 is not how this probe is spelled: tcp a:1 slow=2 timeout=1",
		"tcp a:1 retry=3":                       "tcp: unknown option retry",
		"tcp a:1 slow.x=3":                      "tcp: unknown option slow.x",
		"http https://a/":                       "http: https://a/ does not begin with http://",
		"https http://a/":                       "https: http://a/ does not begin with https://",
		"http http:a":                           "http: http:a does not begin with http://",
		"http http://u:p@a/":                    "http: a probe's URL holds no user name or password",
		`http "http://a/#x"`:                    `http: "http://a/#x": the part behind # never reaches a server`,
		`http "http://a/\n"`:                    `http: "http://a/\n": spaces and letters beyond ASCII are written as %XX in a URL`,
		`http "http://a/?b c"`:                  `http: "http://a/?b c": spaces and letters beyond ASCII are written as %XX in a URL`,
		"http http://[::1/":                     "http: http://[::1/ is not a URL",
		"http http:///x":                        "http: :80 is not ADDRESS:PORT",
		"http http://a/ status=":                `http: status: "" is not a status code of 200 to 599`,
		"http http://a/ status=100":             "http: status: 100 is not a status code of 200 to 599",
		"http http://a/ status=+200":            "http: status: +200 is not a status code of 200 to 599",
		"http http://a/ status=200,":            `http: status: "" is not a status code of 200 to 599`,
		"http http://a/ header.=x":              "http: unknown option header.",
		"http http://a/ header.a:b=x":           "http: a:b is not the name of a header",
		`http http://a/ "header.a=x\r\ny"`:      "http: header.a: a header is at most 256 characters of ASCII",
		"http http://a/ header.Host=x":          "http: the header host is the probe's own; host says another host",
		"http http://a/ header.Cookie=x":        "http: a secret never stands in the header cookie: use bearer, or user and password",
		`http http://a/ "host=a b"`:             `http: host: "a b" is not a name`,
		"http http://a/ match=":                 "http: match: a pattern of 1 to 256 bytes is wanted",
		`http http://a/ "match=\x1b("`:          `http: match: "\x1b(" is not a regular expression: missing closing )`,
		"http http://a/ token=no":               "http: token: no is not header:NAME or json:FIELD.FIELD",
		"http http://a/ token=json:":            "http: token: json: is not header:NAME or json:FIELD.FIELD",
		"http http://a/ ca=file:/x":             "http: unknown option ca",
		"http http://a/ password=hunter2":       "http: password: a secret is named by file:/PATH, env:VARIABLE or credential:NAME, and never written here",
		"http http://a/ password=file:x":        "http: password: a secret is named by file:/PATH, env:VARIABLE or credential:NAME, and never written here",
		"http http://a/ password=env:X=Y":       "http: password: a secret is named by file:/PATH, env:VARIABLE or credential:NAME, and never written here",
		"http http://a/ password=credential:..": "http: password: a secret is named by file:/PATH, env:VARIABLE or credential:NAME, and never written here",
		"http http://a/ password=env:X":         "http: password: whose? user is missing",
		"http http://a/ bearer=env:X user=a":    "http: bearer and user: one of them",
		"https https://a/ cert=file:/x":         "https: cert and key belong together",
		"https https://a/ ca=env:X":             "https: ca: env:X is not file: and an absolute path",
		"https https://a/ ca=file:x":            "https: ca: file:x is not file: and an absolute path",
		"tls a:1 days=0":                        "tls: days: 0 is not a number of days, 1 to 3650",
		"tls a:1 days=3651":                     "tls: days: 3651 is not a number of days, 1 to 3650",
		"postgres a:1":                          "postgres: user is missing: without a login it cannot be told whether it answers",
		"postgres a:1 user=":                    "postgres: user: one line of at most 256 printable characters is wanted",
		"postgres a:1 ca=file:/x user=a":        "postgres: ca is for TLS: say tls as well",
		"postgres a:1 ca=file:/x tls=no user=a": "postgres: ca is for TLS: say tls as well",
		"postgres a:1 role=main user=a":         "postgres: role: main is not primary, standby or any",
		"oracle a:1 user=a":                     "oracle: service or sid, one of them, names the instance",
		"oracle a:1 sid=a user=a":               "oracle: password is missing: nobody is let in by a name alone",
		"ldap a:1 user=a":                       "ldap: password is missing: nobody is let in by a name alone",
		"kafka a:1 sasl=plain":                  "kafka: sasl is how a user logs in: user is missing",
		"log journal":                           "log: match is missing: the line that means ready",
		"log journal begins=a match=b":          "log: begins: the journal knows itself what belongs to an incarnation",
		"log /l match=b":                        "log: begins is missing: the line with which an incarnation begins, for a file may hold older ones",
		"log l begins=a match=b":                "log: l is not an absolute path",
		"file x":                                "file: x is not an absolute path",
		"systemd nginx":                         "systemd: nginx says not what kind of unit it is: nginx.service?",
		"systemd a/b.service":                   "systemd: a/b.service is not a name",
		"dns a/b":                               "dns: a/b is not a name",
		"dns a address=1.2.3":                   "dns: address: 1.2.3 is not an IP address",
		"dns a address=0:0::1":                  "dns: address: 0:0::1 is not an IP address",
		"dns a server=ns":                       "dns: server: ns is not ADDRESS:PORT",
		"exec x":                                "exec: x is not an absolute path",
		"exec timeout=1":                        "exec: no program is given",
		`exec /x "\x00"`:                        "exec: an argument holds no zero byte",
		"exec status=200 /x":                    "exec: unknown option status",
		"exec degraded=0 /x":                    "exec: degraded: 0 is not an exit status of 1 to 255",
		"all x":                                 "all: how many probes it is of is missing, or over 16",
		"all 17":                                "all: how many probes it is of is missing, or over 16",
		"all 0":                                 "all: it is of no probe",
		"all 1":                                 "all: a part is shorter than it says",
		"all 2 2 tcp a:1":                       "all: a part is shorter than it says",
		"all 1 9 tcp a:1":                       "all: a part is shorter than it says",
		"all 1 3 tcp a:1":                       "all: a part is shorter than it says",
		"all 1 1 tcp":                           "all: a probe takes a kind and what to ask",
		"all 1 2 tcp a:1 x":                     "all: unknown option x",
		"all 01 2 tcp a:1":                      "all 01 2 tcp a:1 is not how this probe is spelled: all 1 2 tcp a:1",
		"all 1 +2 tcp a:1":                      "all: a part is shorter than it says",
		"all 1 2 tcp a":                         "all: tcp: a is not ADDRESS:PORT",
		"all strict=yes 1 2 tcp a:1":            "all: unknown option strict",
		"not 2 2 tcp a:1 2 tcp b:1":             "not: it is of one probe",
		"all 2 " + strings.TrimSpace("29 all 9 "+strings.Repeat(x, 9)) + " 26 all 8 " + strings.TrimSpace(strings.Repeat(x, 8)): "all: it is of 17 probes, at most 16 are taken",
		nested: "not: not: not: not: not: combinations go 4 deep at most",
		"tcp " + strings.Repeat("a", 2048) + ":1":                                "tcp: target of 2050 bytes, at most 2048 are taken",
		"tcp " + strings.Repeat("a", 257) + ":1":                                 "tcp: " + strings.Repeat("a", 257) + " is not an address or a name",
		"http http://a/ password=file:/" + strings.Repeat("a", 2048) + " user=a": "http: password of 2054 bytes, at most 2048 are taken",
	} {
		fields, err := wire.ParseLine(line)
		if err != nil {
			t.Fatal(line, err)
		}
		if _, err := probe.ParseSpec(fields); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", line, err, want)
		}
	}
}

// TestCheck: what no line can say, and a program could.
func TestCheck(t *testing.T) {
	t.Parallel()
	tcp := probe.Spec{Kind: probe.KindTCP, Target: "a:1"}
	with := func(change func(s *probe.Spec)) probe.Spec {
		s := tcp
		change(&s)
		return s
	}
	many := map[string]string{}
	for i := range 33 {
		many["header.X"+strconv.Itoa(i)] = "x"
	}
	const foreign = "it is given what another kind takes"
	for _, x := range []struct {
		spec probe.Spec
		want string
	}{
		{with(func(s *probe.Spec) { s.Of = []probe.Spec{tcp} }), foreign},
		{with(func(s *probe.Spec) { s.Argv = []string{"/x"} }), foreign},
		{probe.Spec{Kind: probe.KindExec, Target: "x", Argv: []string{"/x"}}, foreign},
		{probe.Spec{Kind: probe.KindNot, Target: "x", Of: []probe.Spec{tcp}}, foreign},
		{with(func(s *probe.Spec) { s.Options = options("timeout", "3") }), "unknown option timeout"},
		{with(func(s *probe.Spec) { s.Options = options("", "3") }), `unknown option ""`},
		{with(func(s *probe.Spec) { s.Timeout = time.Microsecond }), "time-out 1µs: whole milliseconds are taken"},
		{with(func(s *probe.Spec) { s.Timeout = -time.Second }), "time-out -1s: at most 1h0m0s"},
		{probe.Spec{Kind: probe.KindHTTP, Target: "http://a/", Options: many}, "33 options, at most 32 are taken"},
		{probe.Spec{}, "no such kind of probe"},
	} {
		if err := x.spec.Check(); err == nil || err.Error() != x.want {
			t.Errorf("%+v: got %v, want %s", x.spec, err, x.want)
		}
	}
	about := probe.Spec{Kind: probe.KindAll, Of: []probe.Spec{{Kind: probe.KindTCP, Target: ":1521"}, {Kind: probe.KindHTTP, Target: "http://:80/"}}}
	if err := about.CheckAbout(); err != nil {
		t.Errorf("targets without a host: %v", err)
	}
	if err := about.Check(); err == nil {
		t.Error("targets without a host can be tried")
	}
}

// TestKinds: of every kind the shortest line, where it is made and what it tells.
func TestKinds(t *testing.T) {
	t.Parallel()
	const local, life = 1, 2
	lines := map[string]int{
		"tcp a:1": local, "tls a:1": 0, "https https://a/": 0, "https https://a/ token=header:X": life,
		"http http://a/": local, "http http://a/ header.X=y host=b slow=1 status=200 strict=yes": local,
		"http http://a/ token=header:X":              local | life,
		"http http://a/ token=json:a.b":              life,
		"http http://a/ match=x":                     0,
		"http http://a/ match=x token=header:X":      life, // once read without its match
		"http http://a/ user=x":                      0,
		"http http://a/ token=header:X user=x":       life,
		"http http://a/ bearer=env:X token=header:X": life,
		"exec /x": local, "exec token=output /x": local | life,
		"file /x": local, "log journal match=x": local, "log /x begins=x match=x": local,
		"systemd a.service": 0, "dns a": 0,
		"postgres a:1 user=x": life, "mysql a:1 user=x": life, "oracle a:1 password=env:X sid=x user=x": life,
		"postgres a:1 token=no user=x": 0,
		"redis a:1":                    life, "mongodb a:1": life, "amqp a:1": 0, "kafka a:1": 0, "ldap a:1": 0, "smtp a:1": 0,
		"all 2 2 tcp a:1 2 redis b:1": life, "all 1 2 tcp a:1": local,
		"any 1 2 redis b:1": 0, "not 1 2 redis b:1": 0, "not 1 2 file /x": local,
	}
	seen := map[probe.Kind]bool{}
	for line, want := range lines {
		s, err := probe.ParseSpec(strings.Fields(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		seen[s.Kind] = true
		if s.Local() != (want&local != 0) || s.TellsLife() != (want&life != 0) {
			t.Errorf("%s: local %v, tells its life %v", line, s.Local(), s.TellsLife())
		}
	}
	for _, k := range probe.Kinds() {
		if !seen[k] {
			t.Errorf("no line of kind %s", k)
		}
		sort, _ := probe.SortOf(k)
		for name, o := range sort.Options {
			if o.Check == nil || o.Help == "" {
				t.Errorf("%s: option %s cannot be checked, or has no help", k, name)
			}
			if o.Secret && !o.Source {
				t.Errorf("%s: option %s holds a secret itself", k, name)
			}
		}
	}
	if nested := (probe.Spec{Kind: probe.KindNot, Of: []probe.Spec{{Kind: probe.KindExec}}}); !nested.Uses(probe.KindExec) || nested.Uses(probe.KindTCP) {
		t.Error("Uses does not look into combinations")
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"tcp a:1": "a:1", "http http://a/x": "a:80", "https https://[::1]/": "[::1]:443", "http http://a:8080/": "a:8080",
		"exec /x": "", "file /x": "", "dns a": "", "all 1 2 tcp a:1": "",
	} {
		if s, err := probe.ParseSpec(strings.Fields(line)); err != nil || s.Address() != want {
			t.Errorf("%s: %q, %v", line, s.Address(), err)
		}
	}
}

func TestDescribed(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"postgres db1:5432 password=file:/x user=kido": "postgres db1:5432",
		"https https://a/?b status=204":                "https://a/?b",
		"exec timeout=5 /x y":                          "exec /x",
		"not 1 2 file /x":                              "not file /x",
		"all 2 8 any 2 2 tcp a:1 2 dns b 2 file /x":    "all of (any of (tcp a:1, dns b), file /x)",
	} {
		s, err := probe.ParseSpec(strings.Fields(line))
		if err != nil || s.Described() != want {
			t.Errorf("%s: %q, %v", line, s.Described(), err)
		}
	}
}

func TestWeigh(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		options         map[string]string
		code            int
		ready, degraded bool
	}{
		{nil, 199, false, false},
		{nil, 200, true, false},
		{nil, 399, true, false},
		{nil, 400, false, false},
		{options("status", "204,503"), 200, false, false},
		{options("status", "204,503"), 503, true, false},
		{options("status", "204,503"), 20, false, false},
		{options("degraded", "429"), 429, true, true},
		{options("degraded", "429"), 200, true, false},
		{options("degraded", "200", "status", "200"), 200, true, true},
	} {
		ready, degraded := (probe.Spec{Kind: probe.KindHTTP, Options: x.options}).Weigh(x.code)
		if ready != x.ready || degraded != x.degraded {
			t.Errorf("%v, %d: %v, %v", x.options, x.code, ready, degraded)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	plain := probe.Spec{Kind: probe.KindHTTP, Options: options("degraded", "429")}
	told := probe.Spec{Kind: probe.KindHTTP, Options: options("degraded", "429", "token", "header:X-Started")}
	for _, x := range []struct {
		spec         probe.Spec
		code         int
		status, life string
		want         probe.Answer
	}{
		{plain, 200, "200 OK", "", probe.Answer{Ready: true}},
		{plain, 200, "200 OK", "x", probe.Answer{Ready: true}},
		{plain, 429, "429 Slow", "", probe.Answer{Ready: true, Degraded: true, Word: "HTTP 429 Slow"}},
		{plain, 500, "500 \x1b", "", probe.Answer{Word: "HTTP 500 ?"}},
		{told, 200, "200 OK", "x y", probe.Answer{Ready: true, Life: "x_y"}},
		{told, 429, "429 Slow", "x", probe.Answer{Ready: true, Degraded: true, Word: "HTTP 429 Slow", Life: "x"}},
		{told, 200, "200 OK", "", probe.Answer{Word: "HTTP 200 OK, but it does not tell its incarnation: no header:X-Started"}},
		{told, 503, "503 Busy", "x", probe.Answer{Word: "HTTP 503 Busy"}},
	} {
		if a := x.spec.Judge(x.code, x.status, x.life); a != x.want {
			t.Errorf("%d, %q: %+v", x.code, x.life, a)
		}
	}
}

func FuzzSpec(f *testing.F) {
	f.Add("tcp 10.0.0.1:1521 timeout=3000")
	f.Add("https https://a/ status=200,204")
	f.Add(`exec timeout=5 /bin/x "" "a b"`)
	f.Add("all 2 9 any " + twoParts + " 5 exec timeout=1 /x 2 y")
	f.Add("not 1 2 file /etc/maintenance")
	f.Add(`http http://a/ bearer=env:X header.X-A= "match=a|b" token=json:a.b`)
	f.Add("log /l begins=a match=b")
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
		if s.Described() == "" || s.Uses("") {
			t.Errorf("%q: described as %q", line, s.Described())
		}
		_, _, _ = s.Address(), s.Local(), s.TellsLife()
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add("ready 1234")
	f.Add(`not-ready 0 "HTTP 503 Service Unavailable"`)
	f.Add(`not-ready 0 "\x1b"`)
	f.Add(`degraded 5 life=2026-01-01_10:00 age=5000 "" "read-only"`)
	f.Add(`untried 5 "" interrupted`)
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
		if a.Ready && a.Untried || a.Age < 0 || len(a.Life) > 128 || strings.Contains(a.Life, " ") {
			t.Errorf("%q gave %+v", line, a)
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
		{Untried: true, Word: "interrupted"},
		{Ready: true, Degraded: true, Word: "life=x", Life: "16:00", Age: 5 * time.Second},
		{Ready: true, Life: "age=5"},
		{Ready: true, Word: "age=5"},
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
		{"ready", "1", "a"},
		{"ready", "1", "life="},
		{"ready", "1", "life=a b"},
		{"ready", "1", "life=é"},
		{"ready", "1", "life=" + strings.Repeat("x", 129)},
		{"ready", "1", "age=0"},
		{"ready", "1", "age=-1"},
		{"ready", "1", "age=5", "life=x"},
		{"ready", "1", "life=x", "word"},
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
