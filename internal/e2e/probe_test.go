package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"kido/internal/gate"
)

// probed is a row of `kido probe -o json`.
type probed struct {
	Instance, From, Probe, Answer, Word, Life string
	Took                                      float64
}

// probe is what kido probe finds, with that exit status.
func (s *site) probe(t testing.TB, code int, args ...string) (rows []probed) {
	t.Helper()
	r := s.must(t, code, append([]string{"probe", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(r.out), &rows); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	return rows
}

// TestProbe: each probe is made where the site file wants it, by the gates of real
// hosts, and each answer is shown.
func TestProbe(t *testing.T) {
	t.Parallel()
	l := shop()
	l.units[0].ready = []string{
		`{file: "$ROOT/open", from: host}`,
		`{file: /etc/passwd, from: dependent}`,
		`{file: /etc/passwd, match: "^root:", from: runner}`,
	}
	s := newSite(t, l)
	want := func(rows []probed, want ...string) {
		t.Helper()
		var got []string
		for _, r := range rows {
			text := strings.Join([]string{r.Instance, r.From, strings.Fields(r.Probe + " -")[0], r.Answer}, " ")
			got = append(got, text)
			if (r.Answer == "not-ready" || r.Answer == "unknown") != (r.Word != "") || r.Answer != "unknown" && r.Took <= 0 {
				t.Errorf("%s: the word %q after %v s", text, r.Word, r.Took)
			}
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("the answers are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}

	// Nothing runs yet; one word for each.
	rows := s.probe(t, 1, "db")
	want(rows, "db@db1 db1 tcp not-ready", "db@db1 db1 file not-ready", "db@db1 web1 file ready", "db@db1 web2 file ready", "db@db1 here file ready")
	if rows[0].Word != "connection refused" || !strings.Contains(rows[1].Word, "no such file or directory") {
		t.Errorf("the words are %q and %q", rows[0].Word, rows[1].Word)
	}

	s.write(t, filepath.Join(s.host(t, "db1").dir, "open"), "")
	s.must(t, 0, "up")
	want(s.probe(t, 0, "db", "web@web2"),
		"db@db1 db1 tcp ready", "db@db1 db1 file ready", "db@db1 web1 file ready", "db@db1 web2 file ready", "db@db1 here file ready",
		"web@web2 web2 tcp ready")
	want(s.probe(t, 0, "db@db1", "--from", "web1"), "db@db1 web1 file ready")
	want(s.probe(t, 0, "db", "--from", "here"), "db@db1 here file ready", "db@db1 here file ready")
	// Its address is one of this machine's own, and so means something else elsewhere.
	s.must(t, 2, "probe", "web@web1", "--from", "here").want(t, 2, "web@web1 has no probe that could be asked from here: tcp 127.")
	s.must(t, 2, "probe", "web@web1", "--from", "db1").want(t, 2, "--from db1: nothing there depends on web@web1")

	// And kido wait makes the same from here.
	s.must(t, 0, "wait", "db").want(t, 0, "kido: db@db1 (file /etc/passwd) is ready after ", "warning: db@db1: not waited for, as it means only something at db1: tcp ")

	// A host that is off does not hide the others.
	s.host(t, "web1").sshd.Stop()
	want(s.probe(t, 1, "db", "web"),
		"db@db1 db1 tcp ready", "db@db1 db1 file ready", "db@db1 web1 - unknown", "db@db1 web2 file ready", "db@db1 here file ready",
		"web@web1 web1 - unknown", "web@web2 web2 tcp ready")
}

// TestProbeRefused: whom the policy does not let look gets no answer, and its words.
func TestProbeRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	h := s.host(t, "db1")
	policy := s.read(t, h.policy)
	s.write(t, h.policy, strings.ReplaceAll(policy, "grant ", "# "))
	r := s.must(t, 1, "probe", "db")
	r.want(t, 1, "db@db1    db1   -      unknown  -     refused: ")
	if _, err := gate.LoadPolicy(h.policy); err != nil {
		t.Error(err)
	}
}
