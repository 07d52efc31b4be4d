package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kido/internal/journal"
	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/wire"
)

const town = `
site: town
hosts: {h1: 192.0.2.1, h2: 192.0.2.2, h3: 192.0.2.3}
defaults: {retry: {attempts: 2, delay: 1s}}
services:
  db: {hosts: [h1], sysv: db}
  app: {hosts: [h2], sysv: app, after: {db: stop-first}}
  web: {hosts: [h3], sysv: web, after: {db: restart}}
`

// gates answers for all gates of a site, which do at once what they are told.
type gates struct {
	mu   sync.Mutex
	of   map[string]*wire.Status // by instance
	away map[string]bool         // hosts
	next string                  // host that will be away after its next stop
}

func newGates(topo *plan.Topology) *gates {
	g := &gates{of: map[string]*wire.Status{}, away: map[string]bool{}}
	for _, i := range topo.Instances() {
		g.of[i.String()] = &wire.Status{Instance: i.String(), Generation: 1, Wanted: wire.WantedUp, Settled: true, Ready: true, State: wire.StateUp, Token: "1", Basis: wire.Vector{}}
		for _, d := range topo.Site().Service(i.Service).After {
			for _, u := range topo.Site().Service(d.Upstream).Instances() {
				g.of[i.String()].Basis = g.of[i.String()].Basis.With(u.String(), "1")
			}
		}
	}
	return g
}

func (g *gates) Call(_ context.Context, host string, q wire.Request) (wire.Reply, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away[host] {
		return wire.Reply{}, &run.CallError{Err: fmt.Errorf("%s: no route to host", host), Unsent: true}
	}
	st := *g.of[q.Service+"@"+host]
	code := wire.CodeDone
	switch q.Verb {
	case wire.VerbStatus:
		code = wire.CodeOK
	case wire.VerbStop:
		st.State, st.Token, st.Ready, st.Wanted, st.Generation = wire.StateDown, "", false, wire.WantedHeld, st.Generation+1
	default:
		st.Generation++
		st.State, st.Token, st.Ready, st.Wanted, st.Basis = wire.StateUp, fmt.Sprint(st.Generation), true, wire.WantedUp, q.New
	}
	g.of[st.Instance] = &st
	if q.Verb == wire.VerbStop && host == g.next {
		g.away[host] = true
	}
	return wire.Reply{Code: code, Status: &st}, nil
}

// acknowledged is a journal that remembers how long its file was after each
// Append, and what it got.
type acknowledged struct {
	*journal.Journal
	path    string
	sizes   []int64
	batches [][][]byte
}

func (a *acknowledged) Append(records ...[]byte) error {
	err := a.Journal.Append(records...)
	info, statErr := os.Stat(a.path)
	if err == nil && statErr == nil {
		a.sizes, a.batches = append(a.sizes, info.Size()), append(a.batches, records)
	}
	return errors.Join(err, statErr)
}

// owed is what `kido status` tells of the journals of a folder where no host
// answers, and which of them it cannot read.
func owed(topo *plan.Topology, dir string) (list string, damaged []error) {
	all, damaged := (&runs{dir}).all(topo.Site().Name)
	seen := plan.Observed{}
	for _, i := range topo.Instances() {
		seen[i] = plan.Observation{Err: "it was not asked"}
	}
	status := survey(topo, topo.Instances(), seen, nil, all)
	text, err := json.Marshal(status)
	if err != nil {
		damaged = append(damaged, err)
	}
	return string(text), damaged
}

// TestDebtList cuts the journal of a run that left a debt and was resumed to pay
// it at every byte, and turns every bit of it: what `kido status` tells is owed is
// what was so when the last whole batch was acknowledged, or the journal is named
// as damaged.
func TestDebtList(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("site.yaml", []byte(town))
	if err != nil {
		t.Fatal(err)
	}
	topo := plan.New(s)
	dir := t.TempDir()
	const id = "20260131-235959-abcde"
	j := &acknowledged{path: (&runs{dir}).path(id)}
	if j.Journal, err = journal.Create(j.path); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { liveThrough(t, topo, id, j) })
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(j.path)
	if err != nil {
		t.Fatal(err)
	}

	// What was so after each batch, from journals that nothing ever happened to.
	truth := make([]string, len(j.batches)+1)
	for n := range truth {
		var damaged []error
		if truth[n], damaged = owed(topo, undamaged(t, id, j.batches[:n])); damaged != nil {
			t.Fatal(damaged)
		}
	}
	last := len(truth) - 1
	if strings.Contains(truth[0], id) || strings.Contains(truth[last], id) || strings.Contains(truth[last], `"owes"`) ||
		!slices.ContainsFunc(truth, func(list string) bool { return strings.Count(list, `"owes":["db@h1"]`) == 2 }) {
		t.Fatalf("no debt comes and goes here:\n%s", strings.Join(truth, "\n"))
	}

	f, err := os.OpenFile(j.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flipped := 0
	for i := range text {
		for bit := range 8 {
			if _, err := f.WriteAt([]byte{text[i] ^ 1<<bit}, int64(i)); err != nil {
				t.Fatal(err)
			}
			all, damaged := (&runs{dir}).all(topo.Site().Name)
			if len(all) > 0 || len(damaged) != 1 {
				t.Fatalf("bit %d of byte %d: %d runs are taken from it, %v", bit, i, len(all), damaged)
			}
			if bad, ok := errors.AsType[*journal.CorruptError](damaged[0]); !ok || bad.Path != j.path {
				t.Fatalf("bit %d of byte %d: not named as damaged: %v", bit, i, damaged[0])
			}
			flipped++
		}
		if _, err := f.WriteAt(text[i:i+1], int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	for cut := len(text); cut >= 0; cut-- {
		if err := f.Truncate(int64(cut)); err != nil {
			t.Fatal(err)
		}
		n, whole := slices.BinarySearch(j.sizes, int64(cut))
		if whole {
			n++
		}
		if list, damaged := owed(topo, dir); damaged != nil || list != truth[n] {
			t.Fatalf("cut after %d of %d bytes, %d of %d batches: %v\ngot  %s\nwant %s", cut, len(text), n, last, damaged, list, truth[n])
		}
	}
	t.Logf("%d bytes, %d batches: %d cuts, %d bits", len(text), last, len(text)+1, flipped)
}

// liveThrough has a database restarted while the host of one dependent is away and
// that of another goes away once its service was stopped for it; and the run
// resumed when both are back.
func liveThrough(t *testing.T, topo *plan.Topology, id string, j *acknowledged) {
	g := newGates(topo)
	seen := plan.Observed{}
	for _, i := range topo.Instances() {
		seen[i] = plan.Observation{Status: g.of[i.String()]}
	}
	targets, err := topo.Site().Resolve([]string{"db"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := topo.Make(plan.Request{Verb: plan.Restart, Targets: []string{"db"}}, targets, seen)
	if err != nil {
		t.Fatal(err)
	}
	var past []run.Event
	for _, part := range []struct {
		away  bool
		begin run.BeginEvent
		want  run.Outcome
	}{
		{true, run.BeginEvent{Plan: p, Site: topo.Site().Name}, run.OutcomeFailed},
		{false, run.BeginEvent{Resumed: true, Site: topo.Site().Name}, run.OutcomeDone},
	} {
		// Nobody calls yet.
		g.away, g.next = map[string]bool{"h3": part.away}, map[bool]string{true: "h2"}[part.away]
		first, err := run.Event{Time: time.Now(), Run: id, Begin: &part.begin}.Encode()
		if err == nil {
			err = j.Append(first)
		}
		r := run.New(id, topo, p, run.Options{})
		if err := errors.Join(err, r.Replay(past)); err != nil {
			t.Fatal(err)
		}
		if o, err := run.Drive(t.Context(), r, g, j, func(e run.Event) { past = append(past, e) }); o != part.want || err != nil {
			t.Fatalf("it ended %s, %v, want %s", o, err, part.want)
		}
	}
}

// undamaged is a folder with a journal of these batches.
func undamaged(t *testing.T, id string, batches [][][]byte) (dir string) {
	dir = t.TempDir()
	j, err := journal.Create(filepath.Join(dir, id+suffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		err = errors.Join(err, j.Append(b...))
	}
	if err := errors.Join(err, j.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}
