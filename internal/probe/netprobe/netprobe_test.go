package netprobe

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kido/internal/probe"
	"kido/internal/probe/probetest"
	"kido/internal/wire"
)

// TestDrivers: every kind is made by somebody.
func TestDrivers(t *testing.T) {
	t.Parallel()
	for _, k := range probe.Kinds() {
		sort, _ := probe.SortOf(k)
		if drivers[k] == nil && !sort.Local && sort.Form != probe.FormParts {
			t.Errorf("there is no driver for %s", k)
		}
	}
}

func TestOtherKinds(t *testing.T) {
	t.Parallel()
	yes := probe.Spec{Kind: probe.KindExec, Argv: []string{"/bin/true"}}
	missing := probe.Spec{Kind: probe.KindFile, Target: "/nonexistent"}
	for _, s := range []probe.Spec{
		yes,
		{Kind: probe.KindNot, Of: []probe.Spec{missing}},
		{Kind: probe.KindAny, Of: []probe.Spec{missing, {Kind: probe.KindHTTPS, Target: "https://127.0.0.1:1/"}, yes}},
	} {
		if a := (Prober{}).Try(t.Context(), s); !a.Ready {
			t.Errorf("%s: got %+v", s.Described(), a)
		}
	}
}

// TestHalfOpen: a server whose queue is full lets connections stay half open, and every
// kind gives them up in time.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	password := "password=file:" + write(t, nil, filepath.Join(t.TempDir(), "password"), []byte(planted))
	options := map[probe.Kind][]string{
		probe.KindPostgres: {"user=kido"}, probe.KindMySQL: {"user=kido"}, probe.KindOracle: {"user=kido", password, "service=shop"},
	}
	for _, kind := range probe.Kinds() {
		sort, _ := probe.SortOf(kind)
		if sort.Form != probe.FormAddress && sort.Form != probe.FormURL {
			continue
		}
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := asked(kind, probetest.HalfOpen(t), options[kind]...)
			if sort.Form == probe.FormURL {
				s.Target = string(kind) + "://" + s.Target + "/"
			}
			s.Timeout = 300 * time.Millisecond
			says(t, s, "no answer within 300ms")
		})
	}
}

// TestSurprised: what a library does not survive is an answer.
func TestSurprised(t *testing.T) {
	const kind = probe.KindSMTP
	kept := drivers[kind]
	t.Cleanup(func() { drivers[kind] = kept })
	drivers[kind] = func(Prober, context.Context, probe.Spec) probe.Answer {
		var none []byte
		return probe.NotReady("%d", none[7])
	}
	a := Prober{}.Try(t.Context(), probe.Spec{Kind: kind, Target: "a:25"})
	if a.Ready || !a.Untried || !strings.HasPrefix(a.Word, "the smtp driver failed: runtime error: index out of range") {
		t.Errorf("got %+v", a)
	}
	delete(drivers, kind)
	if a := (Prober{}).Try(t.Context(), probe.Spec{Kind: kind, Target: "a:25"}); a.Ready || a.Word != "smtp probes are not made here" {
		t.Errorf("got %+v", a)
	}
}

func TestServeChild(t *testing.T) {
	t.Parallel()
	w := newWeb(t)
	spec := func(path string, options ...string) string {
		s := w.spec("https", path, options...)
		loaded, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		return probe.Task{Spec: loaded}.String()
	}
	within := probe.Task{Spec: w.spec("https", "/silent"), Within: 100 * time.Millisecond}
	within.Spec.Timeout = time.Hour
	within.Spec.Secrets = probe.Secrets{"ca": w.authority.pem()}
	for _, x := range []struct{ question, want string }{
		{spec("/"), ""},
		{spec("/busy"), "HTTP 503 Service Unavailable"},
		{within.String(), "connected, but no answer within 1h0m0s"},
		{"https " + w.url("https", "/"), "probe-child: no probe was asked for"},
		{"", "probe-child: no probe was asked for"},
		{"tcp 127.0.0.1:22\n", "probe-child: who asks makes tcp probes itself"},
		{"exec /bin/true\n", "probe-child: who asks makes exec probes itself"},
		{"https\n", "probe-child: a probe takes a kind and what to ask"},
		{"a  b\n", "probe-child: field 2: \"\" must be quoted"},
		{strings.Repeat("x", 1<<22), "probe-child: a task of over 2179072 bytes"},
		{"http http://a/ redirect=no\n", "probe-child: http: unknown option redirect"},
	} {
		var out bytes.Buffer
		if code := (Prober{}).serve(strings.NewReader(x.question), &out); code != 0 {
			t.Errorf("%.80q: exit status %d", x.question, code)
		}
		fields, err := wire.ParseLine(strings.TrimSuffix(out.String(), "\n"))
		if err != nil {
			t.Fatalf("%.80q: %q: %v", x.question, out.String(), err)
		}
		a, err := probe.ParseAnswer(fields)
		if err != nil || a.Ready != (x.want == "") || a.Word != x.want || a.Untried != strings.HasPrefix(x.want, "probe-child") {
			t.Errorf("%.80q: got %+v, %v; want %q", x.question, a, err, x.want)
		}
	}
}
