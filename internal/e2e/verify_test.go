package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sitefile "kido/internal/site"
	"kido/internal/verify"
)

// verify holds all that has happened so far against the invariants.
func (s *site) verify(t testing.TB) {
	t.Helper()
	found, facts := s.contradictions(t)
	for _, v := range found {
		t.Errorf("%s", v)
	}
	if len(found) > 0 {
		var all strings.Builder
		for _, f := range facts {
			all.WriteString(f.String() + "\n")
		}
		t.Logf("all that is known to have happened:\n%s", all.String())
	}
}

// contradictions judges by what the services wrote, what the journals tell, and
// what was on record at rest. All clocks are this machine's, so their order can be
// believed.
func (s *site) contradictions(t testing.TB) ([]verify.Violation, []verify.Fact) {
	t.Helper()
	facts := verify.Merge(s.lives(t), s.journals(t), s.ends)
	found := slices.DeleteFunc(verify.Check(s.promised(t), facts, verify.Options{}), func(v verify.Violation) bool {
		// A debt of a test that does not wait until it is paid.
		return v.Invariant == verify.NoLoss && !slices.ContainsFunc(v.Facts, func(f verify.Fact) bool { return f.What == verify.Rested })
	})
	return found, facts
}

// promised is the site as the checker knows it.
func (s *site) promised(t testing.TB) (p verify.Site) {
	t.Helper()
	file, err := sitefile.Load(s.file)
	if err != nil {
		t.Fatal(err)
	}
	p.Pools = map[string]int{}
	for _, v := range file.Services {
		p.Pools[v.Name] = v.MaxUnavailable
		for _, d := range v.After {
			for _, i := range v.Instances() {
				for _, u := range file.Service(d.Upstream).Instances() {
					if d.OnRestart != sitefile.ReactionNone && (!d.SameHost || u.Host == i.Host) {
						hard := d.Strength == sitefile.Requires && d.Of == sitefile.OfAll
						p.Edges = append(p.Edges, verify.Edge{Dependent: i.String(), Upstream: u.String(), Hard: hard})
					}
				}
			}
		}
	}
	return p
}

// lives is what the services wrote.
func (s *site) lives(t testing.TB) (facts []verify.Fact) {
	t.Helper()
	what := map[string]verify.What{started: verify.Began, readied: verify.Ready, reloaded: verify.Reloaded, stopped: verify.Ended, failed: verify.Ended}
	for n, e := range s.history(t) {
		f := verify.Fact{At: e.At, What: what[e.What], Instance: e.Instance, Token: e.Own, File: historyFile, Line: n + 1}
		for _, u := range slices.Sorted(maps.Keys(e.Saw)) {
			f.Saw = f.Saw.With(u, e.Saw[u])
		}
		switch {
		case e.What == failed:
			f.By = verify.ByItself
		case e.Someone:
			f.By = verify.BySomeone
		case e.What == started || e.What == stopped:
			f.By = verify.ByKido
		}
		facts = append(facts, f)
	}
	return facts
}

// journals is what the runs wrote, by kido's own word.
func (s *site) journals(t testing.TB) []verify.Fact {
	t.Helper()
	args := []string{"verify", "--facts"}
	for _, state := range s.states {
		some, err := filepath.Glob(filepath.Join(state, "runs", "*.journal"))
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, some...)
	}
	if s.unseen || len(args) == 2 {
		return nil
	}
	facts, err := verify.Parse("journals", s.must(t, 0, args...).out)
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// TestVerify: kido verify finds nothing wrong with what kido has done, and says
// which instance was restarted twice for one basis where a host has lost its record:
// that is the one thing against which nothing is promised.
func TestVerify(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	s.up(t)
	s.must(t, 0, "restart", "db")
	s.must(t, 0, "verify").want(t, 0, "looked at 2 runs", "nothing in their journals contradicts the invariants")

	if err := os.Remove(s.record(t, "web@web1")); err != nil {
		t.Fatal(err)
	}
	s.must(t, 0, "announce", "db")
	s.must(t, 1, "verify").want(t, 1, "I2 economy: web@web1 was restarted by kido against db@db1 as", "1 contradiction")
	var said struct {
		Good       bool
		Violations []struct {
			Instance string
			Evidence []struct{ File string }
		}
	}
	if err := json.Unmarshal([]byte(s.must(t, 1, "verify", "-o", "json").out), &said); err != nil {
		t.Fatal(err)
	}
	if said.Good || len(said.Violations) != 1 || said.Violations[0].Instance != "web@web1" || len(said.Violations[0].Evidence) < 2 {
		t.Errorf("kido verify -o json: %+v", said)
	}
	s.contradicted = true
	found, _ := s.contradictions(t)
	if len(found) != 1 || found[0].Invariant != verify.Economy || found[0].Instance != "web@web1" {
		t.Errorf("the services' own histories show: %v", found)
	}
}
