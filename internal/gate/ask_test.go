package gate

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kido/internal/initsys"
	"kido/internal/probe"
	"kido/internal/wire"
)

// said is a prober that gives prepared answers, in turn, by target.
type said map[string][]probe.Answer

var saying sync.Mutex

func (s said) Try(_ context.Context, p probe.Spec) probe.Answer {
	saying.Lock()
	defer saying.Unlock()
	a := s[p.Target][0]
	if len(s[p.Target]) > 1 {
		s[p.Target] = s[p.Target][1:]
	}
	return a
}

// asking is a gate whose service web is probed at some targets: those with a name
// that begins with life tell their incarnation.
func asking(t *testing.T, failures uint64, answers said, targets ...string) (*Gate, *PolicyService) {
	t.Helper()
	s := PolicyService{Name: "web", Adapter: adapterExternal, Failures: failures}
	for _, target := range targets {
		p := probe.Spec{Kind: probe.KindTCP, Target: target}
		if strings.HasPrefix(target, "life") {
			p = probe.Spec{Kind: probe.KindRedis, Target: target}
		}
		s.Ready = append(s.Ready, p)
	}
	return &Gate{policy: &Policy{Host: "web1", Services: []PolicyService{s}}, dir: folder(t), prober: answers}, &s
}

func TestAskForLife(t *testing.T) {
	ready, no := probe.Answer{Ready: true}, probe.NotReady("refused")
	life := func(word string) probe.Answer { return probe.Answer{Ready: true, Life: word, Age: time.Hour} }
	for name, x := range map[string]struct {
		answers said
		targets []string
		want    Asked
	}{
		"nothing to ask":           {nil, nil, Asked{Ready: true}},
		"no life":                  {said{"a": {ready}}, []string{"a"}, Asked{Ready: true}},
		"a life":                   {said{"life": {life("1")}}, []string{"life"}, Asked{Ready: true, Life: "1", Age: time.Hour}},
		"not ready":                {said{"life": {no}}, []string{"life"}, Asked{Word: "refused", Life: wire.LifeUntold}},
		"another is not ready":     {said{"life": {life("1")}, "a": {no}}, []string{"life", "a"}, Asked{Word: "tcp a: refused", Life: wire.LifeUntold}},
		"the same after":           {said{"life": {life("1")}, "a": {ready}}, []string{"life", "a"}, Asked{Ready: true, Life: "1", Age: time.Hour}},
		"another one after":        {said{"life": {life("1"), life("2")}, "a": {ready}}, []string{"life", "a"}, Asked{Word: "it was restarted inside its unit while it was looked at", Life: wire.LifeUntold}},
		"not asked twice for none": {said{"a": {ready}, "life": {life("1"), no}}, []string{"a", "life"}, Asked{Ready: true, Life: "1", Age: time.Hour}},
		"two lives":                {said{"life1": {life("1")}, "life2": {life("2")}}, []string{"life1", "life2"}, Asked{Ready: true, Life: "1+2", Age: time.Hour}},
		"two lives, one moved":     {said{"life1": {life("1"), life("3")}, "life2": {life("2")}}, []string{"life1", "life2"}, Asked{Word: "it was restarted inside its unit while it was looked at", Life: wire.LifeUntold}},
		"strict, and tells a life": {said{"life1": {{Life: "1", Age: time.Hour, Word: "read-only"}}, "life2": {life("2")}}, []string{"life1", "life2"}, Asked{Word: "redis life1: read-only", Life: wire.LifeUntold}},
		"degraded":                 {said{"life": {life("1").Degrade("read-only")}}, []string{"life"}, Asked{Ready: true, Degraded: true, Word: "read-only", Life: "1", Age: time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			g, s := asking(t, 0, x.answers, x.targets...)
			got := g.ask(t.Context(), s, Look{})
			if got.Ready != x.want.Ready || got.Degraded != x.want.Degraded || got.Word != x.want.Word || got.Life != x.want.Life || got.Age != x.want.Age {
				t.Errorf("got %+v, want %+v", got, x.want)
			}
		})
	}
}

// TestAskForThisStart: what was written while it was being started is of this
// incarnation. A daemon that forks says that it is ready, and only then is its unit active.
func TestAskForThisStart(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("start\nready\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-time.Minute)
	if err := os.Chtimes(log, then, then); err != nil {
		t.Fatal(err)
	}
	s := PolicyService{Name: "web", Ready: []probe.Spec{{Kind: probe.KindLog, Target: log, Options: map[string]string{"begins": "start", "match": "ready"}}}}
	g := &Gate{prober: probe.Local{}}
	for begun, ready := range map[time.Duration]bool{2 * time.Minute: true, 50 * time.Second: false} {
		if a := g.ask(t.Context(), &s, Look{Age: 40 * time.Second, Begun: begun}); a.Ready != ready {
			t.Errorf("begun %v ago, active 40s: %+v", begun, a)
		}
	}
}

// TestOutagesSeen is the rule by which a host tells the lives of what tells none.
func TestOutagesSeen(t *testing.T) {
	at := func(n int) Moment { return Moment{"boot", time.Duration(n) * time.Second} }
	o := outages{epoch: "e"}
	for n, x := range []struct {
		ready bool
		life  string
	}{
		{true, "e-0"},
		{false, "e-0"},
		{false, "e-0"},
		{true, "e-0"}, // two failures are none yet
		{false, "e-0"},
		{false, "e-0"},
		{false, "e-0"},
		{false, "e-0"},
		{true, "e-1"},
		{true, "e-1"},
		{false, "e-1"},
		{true, "e-1"},
	} {
		next, ok := o.seen(x.ready, at(n+1), 3)
		if !ok || next.life() != x.life {
			t.Fatalf("try %d: %+v, %t; want life %s", n, next, ok, x.life)
		}
		if next != o {
			next.at = at(n + 1)
		}
		o = next
	}
	// Several who look at a moment's failure see one try that failed; who looks again
	// later, another.
	blip := outages{epoch: "e", missed: 1, at: at(1)}
	if next, ok := blip.seen(false, Moment{"boot", at(1).At + missPause - 1}, 3); !ok || next != blip {
		t.Errorf("at the same moment: %+v, %t", next, ok)
	}
	if next, ok := blip.seen(false, at(2), 3); !ok || next.missed != 2 {
		t.Errorf("later: %+v, %t", next, ok)
	}
	if next, ok := blip.seen(false, Moment{"another boot", 0}, 3); !ok || next.missed != 2 {
		t.Errorf("after a reboot: %+v, %t", next, ok)
	}
	if _, ok := o.seen(true, at(1), 3); ok {
		t.Error("a try that began before the latest change counted")
	}
	if _, ok := o.seen(true, Moment{"another boot", 0}, 3); !ok {
		t.Error("after a reboot no try counts any more")
	}
	if _, ok := (outages{at: Moment{}}).seen(true, Moment{}, 3); !ok {
		t.Error("without a clock no try counts")
	}
}

func TestExternal(t *testing.T) {
	away, there := probe.NotReady("refused"), probe.Answer{Ready: true}
	g, s := asking(t, 2, said{"a": {there, away, there, away, away, there, there}}, "a")
	var lives []string
	for range 7 {
		a := g.ask(t.Context(), s, Look{})
		lives = append(lives, a.Life)
		if a.Ready == (a.Life == wire.LifeUntold) {
			t.Errorf("got %+v", a)
		}
		earlier(t, g, s)
	}
	first, last := lives[0], lives[5]
	if lives[2] != first || last == first || lives[6] != last || lives[1] != wire.LifeUntold {
		t.Errorf("lives %q", lives)
	}

	// What could not be asked for was not away.
	g.prober = said{"a": {{Word: "no password", Untried: true}, {Word: "no password", Untried: true}, {Word: "no password", Untried: true}, there}}
	for range 3 {
		if a := g.ask(t.Context(), s, Look{}); a.Ready || a.Life != wire.LifeUntold {
			t.Errorf("untried: %+v", a)
		}
	}
	if a := g.ask(t.Context(), s, Look{}); a.Life != last {
		t.Errorf("after tries that asked nothing: life %s, was %s", a.Life, last)
	}

	// What nobody can read any more is unknown: it lives anew, and the file is kept.
	path := filepath.Join(g.dir.Name(), "web@outages")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, slices.Concat(text[:10], []byte("x"), text[10:]), 0o600); err != nil {
		t.Fatal(err)
	}
	if a := g.ask(t.Context(), s, Look{}); !a.Ready || a.Life == last || a.Life == first {
		t.Errorf("with a damaged record: %+v", a)
	}
	if _, err := os.Stat(path + ".unreadable"); err != nil {
		t.Error(err)
	}

	// Nobody here starts or stops it.
	unit, err := g.unit(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []wire.Verb{wire.VerbStop, wire.VerbRestart, wire.VerbReload} {
		q := wire.Request{Verb: verb, Service: "web", Own: externalToken}
		if r := g.instance(s, unit).Do(t.Context(), q); r.Code != wire.CodeInvalid {
			t.Errorf("%s: %+v", verb, r)
		}
	}
	earlier(t, g, s) // the last change was within this millisecond
	if r := g.instance(s, unit).Do(t.Context(), wire.Request{Verb: wire.VerbStatus, Service: "web"}); r.Code != wire.CodeOK || !r.Status.Ready || wire.Unit(r.Status.Incarnation()) != externalToken {
		t.Errorf("status: %+v of %+v", r, r.Status)
	}
}

// earlier puts what is on record of a service's outages so far back that the next try
// counts.
func earlier(t *testing.T, g *Gate, s *PolicyService) {
	t.Helper()
	path := filepath.Join(g.dir.Name(), s.Name+"@outages")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o, err := parseOutages(text)
	if err != nil {
		t.Fatal(err)
	}
	o.at.At -= missPause
	if err := os.WriteFile(path, o.format(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzOutages(f *testing.F) {
	f.Add(outages{epoch: "e", count: 3, missed: 1, away: true, at: Moment{"boot", time.Second}}.format())
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := parseOutages(text)
		if err != nil {
			return
		}
		if again, err := parseOutages(o.format()); err != nil || again != o {
			t.Errorf("%q became %+v, then %+v, %v", text, o, again, err)
		}
	})
}

// TestProbeOneByOne: each answer on its own, of an own service for whoever may ask for its status.
func TestProbeOneByOne(t *testing.T) {
	g, s := asking(t, 0, said{"a": {probe.NotReady("refused")}, "life": {{Ready: true, Life: "7", Took: time.Second}}}, "a", "life")
	s.Adapter = adapterSysV
	g.policy.Watches = []Watch{{Instance: "db@db1", Ready: s.Ready[:1]}}
	g.policy.Principals = []Principal{{"here", []string{IdentityLocal}}, {"db1", []string{keyA}}}
	g.policy.Grants = []Grant{{"here", "web", []wire.Verb{wire.VerbStatus}}, {"here", "db@db1", []wire.Verb{wire.VerbProbe}}}
	r := g.Serve(t.Context(), Caller{Identity: IdentityLocal}, wire.Request{Verb: wire.VerbProbe, Service: "web"})
	if r.Code != wire.CodeOK || r.Status.Ready || r.Status.Word != "tcp a: refused" || r.Status.Instance != "web@web1" || len(r.Probes) != 2 {
		t.Fatalf("got %+v", r)
	}
	if got := r.Probes[0]; got.Ready || got.Word != "refused" || got.About != "tcp a" {
		t.Errorf("the first: %+v", got)
	}
	if got := r.Probes[1]; !got.Ready || got.Life != "7" || got.Took != time.Second || got.About != "redis life" {
		t.Errorf("the second: %+v", got)
	}
	if r := g.Serve(t.Context(), Caller{Identity: IdentityLocal}, wire.Request{Verb: wire.VerbProbe, Service: "db@db1"}); r.Code != wire.CodeOK || len(r.Probes) != 1 {
		t.Errorf("of a watch: %+v", r)
	}
	// To whom nothing is granted all services look alike, whether they are there or not.
	there := g.Serve(t.Context(), Caller{Identity: keyA}, wire.Request{Verb: wire.VerbProbe, Service: "web"})
	none := g.Serve(t.Context(), Caller{Identity: keyA}, wire.Request{Verb: wire.VerbProbe, Service: "wed"})
	if there.Code != wire.CodeRefused || strings.Replace(there.Word, "web ", "wed ", 1) != none.Word {
		t.Errorf("refused with %q and %q", there.Word, none.Word)
	}
}

// TestStrayed: what runs past its init, which calls it failed, is told apart from what is
// down, in words alone.
func TestStrayed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	port := probe.Spec{Kind: probe.KindTCP, Target: listener.Addr().String()}
	file := probe.Spec{Kind: probe.KindFile, Target: "/proc/self"}
	no := probe.Spec{Kind: probe.KindFile, Target: "/proc/none"}
	const yet = ", yet its probes answer: it seems to run outside of its unit; stop it there, then: kido start web@web1"
	status := wire.Request{Verb: wire.VerbStatus, Service: "web"}
	for name, x := range map[string]struct {
		failed bool
		record []byte
		ready  []probe.Spec
		told   bool
	}{
		"its probe answers":         {true, nil, []probe.Spec{port}, true},
		"all of its probes":         {true, nil, []probe.Spec{port, file}, true},
		"one of them does not":      {true, nil, []probe.Spec{port, no}, false},
		"a file outlives it":        {true, nil, []probe.Spec{file}, false},
		"any, be it the file":       {true, nil, []probe.Spec{{Kind: probe.KindAny, Of: []probe.Spec{port, file}}}, false},
		"all of several":            {true, nil, []probe.Spec{{Kind: probe.KindAll, Of: []probe.Spec{port, file}}}, true},
		"nothing is asked":          {true, nil, nil, false},
		"down":                      {false, nil, []probe.Spec{port}, false},
		"failed as it was stopped":  {true, Record{Instance: "web@web1", Generation: 1, Wanted: wire.WantedDown, Seen: wire.StateFailed}.Format(), []probe.Spec{port}, false},
		"its record cannot be read": {true, []byte("garbage"), []probe.Spec{port}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pid := filepath.Join(realTempDir(t), "pid")
			if x.failed { // no process has that number
				must(t, os.WriteFile(pid, []byte("4194304"), 0o600))
			}
			g, s := asking(t, 0, nil)
			g.prober = probe.Local{}
			*s = PolicyService{Name: "web", Adapter: adapterCommand, Start: []string{"/bin/false"}, Stop: []string{"/bin/true"}, PIDFile: pid, Ready: x.ready}
			g.policy.Services[0], g.policy.State, g.policy.Timeout = *s, g.dir.Name(), time.Minute
			g.policy.Principals = []Principal{{"here", []string{IdentityLocal}}}
			g.policy.Grants = []Grant{{"here", "web", []wire.Verb{wire.VerbStatus, wire.VerbStart}}}
			if x.record != nil {
				must(t, g.dir.WriteFile("web.state", x.record, 0o600))
			}
			r := g.Serve(t.Context(), Caller{Identity: IdentityLocal}, status)
			if r.Status == nil || r.Status.Ready || r.Status.Settled || (r.Status.State == wire.StateFailed) != x.failed {
				t.Fatalf("got %+v of %+v", r, r.Status)
			}
			if strings.HasSuffix(r.Status.Word, yet) != x.told || strings.Contains(r.Word, yet) {
				t.Errorf("status: %q, %q", r.Word, r.Status.Word)
			}
			if x.record != nil {
				return
			}
			r = g.Serve(t.Context(), Caller{Identity: IdentityLocal}, wire.Request{Verb: wire.VerbStart, Service: "web"})
			if r.Code != wire.CodeFailed || strings.HasSuffix(r.Word, yet) != (x.told || !x.failed) {
				t.Errorf("start: %s, %q", r.Code, r.Word)
			}
		})
	}
}

var _ initsys.Unit = external{}
