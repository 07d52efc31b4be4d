package verify_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/verify"
)

// shop is a diamond, db over app and web over both, with two web servers of which
// one may be down.
var shop = verify.Site{
	Edges: []verify.Edge{
		{Dependent: "app@h2", Upstream: "db@h1", Hard: true},
		{Dependent: "web@h3", Upstream: "db@h1", Hard: true},
		{Dependent: "web@h3", Upstream: "app@h2", Hard: true},
		{Dependent: "web@h4", Upstream: "db@h1", Hard: true},
		{Dependent: "web@h4", Upstream: "app@h2", Hard: true},
	},
	Pools: map[string]int{"db": 1, "app": 1, "web": 1},
}

var begun = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// history reads facts without their times: a second for each line.
func history(t testing.TB, lines string) []verify.Fact {
	t.Helper()
	var b strings.Builder
	for n, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		fmt.Fprintf(&b, "%s %s\n", begun.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano), strings.TrimSpace(line))
	}
	facts, err := verify.Parse("history", b.String())
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// told is what the services and the runs of a site wrote: it comes up, db is
// restarted, and all follow, though the first runner dies in the midst and a
// second one is at work.
const told = `
opened - run=A host=op
asked db@h1 run=A verb=start
began db@h1 token=d1 by=kido
answered db@h1 token=d1 run=A code=done
ready db@h1 token=d1
found db@h1 token=d1 run=A
asked app@h2 run=A verb=start new=db@h1=d1
began app@h2 token=a1 by=kido saw=db@h1=d1
ready app@h2 token=a1
answered app@h2 token=a1 run=A basis=db@h1=d1 code=done
found app@h2 token=a1 run=A basis=db@h1=d1
asked web@h3 run=A verb=start new=app@h2=a1 new=db@h1=d1
began web@h3 token=w1 by=kido saw=app@h2=a1 saw=db@h1=d1
ready web@h3 token=w1
found web@h3 token=w1 run=A basis=app@h2=a1 basis=db@h1=d1
asked web@h4 run=A verb=start new=app@h2=a1 new=db@h1=d1
began web@h4 token=x1 by=kido saw=app@h2=a1 saw=db@h1=d1
ready web@h4 token=x1
found web@h4 token=x1 run=A basis=app@h2=a1 basis=db@h1=d1
closed - run=A
recorded app@h2 basis=db@h1=d1 wanted=up
recorded web@h3 basis=app@h2=a1 basis=db@h1=d1 wanted=up
recorded web@h4 basis=app@h2=a1 basis=db@h1=d1 wanted=up
rested -
opened - run=B host=op
asked db@h1 token=d1 run=B verb=restart own=d1 slot=yes
ended db@h1 token=d1 by=kido
began db@h1 token=d2 by=kido
ready db@h1 token=d2
answered db@h1 token=d2 run=B code=done slot=yes
found db@h1 token=d2 run=B
asked app@h2 token=a1 run=B verb=ensure reaction=restart new=db@h1=d2 basis=db@h1=d1 slot=yes owes=db@h1
ended app@h2 token=a1 by=kido
opened - run=C host=db
found db@h1 token=d2 run=C
began app@h2 token=a2 by=kido saw=db@h1=d2
ready app@h2 token=a2
found app@h2 token=a2 run=C basis=db@h1=d2
asked web@h3 token=w1 run=C verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 basis=app@h2=a1 basis=db@h1=d1 slot=yes owes=db@h1
ended web@h3 token=w1 by=kido
began web@h3 token=w2 by=kido saw=app@h2=a2 saw=db@h1=d2
ready web@h3 token=w2
answered web@h3 token=w2 run=C basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes
found web@h3 token=w2 run=C basis=app@h2=a2 basis=db@h1=d2
asked web@h4 token=x1 run=C verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 basis=app@h2=a1 basis=db@h1=d1 slot=yes owes=db@h1
ended web@h4 token=x1 by=kido
began web@h4 token=x2 by=kido saw=app@h2=a2 saw=db@h1=d2
ready web@h4 token=x2
answered web@h4 token=x2 run=C basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes
found web@h4 token=x2 run=C basis=app@h2=a2 basis=db@h1=d2
closed - run=C
recorded app@h2 basis=db@h1=d2 wanted=up
recorded web@h3 basis=app@h2=a2 basis=db@h1=d2 wanted=up
recorded web@h4 basis=app@h2=a2 basis=db@h1=d2 wanted=up
rested -
`

// journals is what only the runs of the same site wrote, on two hosts.
const journals = `
opened - run=A host=op
asked db@h1 token=d1 run=A verb=restart own=d1 slot=yes
answered db@h1 token=d2 run=A code=done slot=yes
found db@h1 token=d2 run=A
asked app@h2 token=a1 run=A verb=ensure reaction=restart new=db@h1=d2 basis=db@h1=d1 slot=yes owes=db@h1
answered app@h2 token=a2 run=A basis=db@h1=d2 code=done slot=yes
found app@h2 token=a2 run=A basis=db@h1=d2
asked web@h3 token=w1 run=A verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 basis=app@h2=a1 basis=db@h1=d1 slot=yes owes=app@h2
answered web@h3 token=w2 run=A basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes
found web@h3 token=w2 run=A basis=app@h2=a2 basis=db@h1=d2
left web@h4 run=A owes=app@h2 owes=db@h1
closed - run=A
opened - run=B host=db
found db@h1 token=d2 run=B
found app@h2 token=a2 run=B basis=db@h1=d2
asked web@h4 token=x1 run=B verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 basis=app@h2=a1 basis=db@h1=d1 slot=yes owes=app@h2
answered web@h4 token=x2 run=B basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes
found web@h4 token=x2 run=B basis=app@h2=a2 basis=db@h1=d2
closed - run=B
`

// services is what only the services wrote: two boots, and a restart of db by hand.
const services = `
began db@h1 token=d1 boot=b1
ready db@h1 token=d1
began app@h2 token=a2 boot=b2 saw=db@h1=d1
ready app@h2 token=a2
began web@h3 token=w1 boot=b3 saw=app@h2=a2 saw=db@h1=d1
ready web@h3 token=w1
rested -
ended db@h1 token=d1
began db@h1 token=d2 boot=b1
ready db@h1 token=d2
ended app@h2 token=a2
began app@h2 token=a3 boot=b2 saw=db@h1=d2
ready app@h2 token=a3
ended web@h3 token=w1
began web@h3 token=w2 boot=b3 saw=app@h2=a3 saw=db@h1=d2
ready web@h3 token=w2
rested -
ended web@h3 token=w2 by=machine
began web@h3 token=w3 boot=b4 saw=app@h2=a3 saw=db@h1=d2
ready web@h3 token=w3
rested -
`

// hands is what people did, and kido left alone or put in order.
const hands = `
opened - run=A host=op
asked db@h1 run=A verb=start
began db@h1 token=d1 by=kido
ready db@h1 token=d1
asked app@h2 run=A verb=start new=db@h1=d1
began app@h2 token=a1 by=kido saw=db@h1=d1
ready app@h2 token=a1
found db@h1 token=d1 run=A
found app@h2 token=a1 run=A basis=db@h1=d1
closed - run=A
ended app@h2 token=a1 by=someone
ended db@h1 token=d1 by=someone
began db@h1 token=d2 by=someone
ready db@h1 token=d2
opened - run=B host=op
asked app@h2 run=B verb=ensure new=db@h1=d2 basis=db@h1=d1
found app@h2 run=B basis=db@h1=d2
closed - run=B
rested -
opened - run=C host=op
asked app@h2 run=C verb=start new=db@h1=d2 basis=db@h1=d2
began app@h2 token=a2 by=kido saw=db@h1=d2
ended app@h2 token=a2 by=itself
asked app@h2 run=C verb=start new=db@h1=d2 basis=db@h1=d2
began app@h2 token=a3 by=kido saw=db@h1=d2
ready app@h2 token=a3
found app@h2 token=a3 run=C basis=db@h1=d2
closed - run=C
recorded app@h2 basis=db@h1=d2 wanted=up
rested -
opened - run=D host=op
asked app@h2 token=a3 run=D verb=stop
ended app@h2 token=a3 by=kido
answered app@h2 run=D code=done
found app@h2 run=D
closed - run=D
rested -
`

// TestGood: nothing is said of a history in which nothing is wrong.
func TestGood(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string]string{"told": told, "journals": journals, "services": services, "hands": hands} {
		for _, each := range []bool{false, true} {
			for _, v := range verify.Check(shop, history(t, lines), verify.Options{EachRun: each}) {
				t.Errorf("%s: %s", name, v)
			}
		}
	}
}

// TestBad: each invariant, contradicted by as little as does.
func TestBad(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		good      string // from this history
		old, new  string // with this exchanged, "\n" between lines
		invariant verify.Invariant
		instance  string
		sentence  string
	}{
		{
			"started before the upstream was ready", told,
			"ready db@h1 token=d2\nanswered db@h1 token=d2 run=B code=done slot=yes\nfound db@h1 token=d2 run=B\nasked app@h2 token=a1 run=B verb=ensure reaction=restart new=db@h1=d2 basis=db@h1=d1 slot=yes owes=db@h1\n",
			"answered db@h1 token=d2 run=B code=done slot=yes\nasked app@h2 token=a1 run=B verb=ensure reaction=restart new=db@h1=d2 basis=db@h1=d1 slot=yes owes=db@h1\nready db@h1 token=d2\nfound db@h1 token=d2 run=B\n",
			verify.Order, "app@h2", "life d2 of db@h1, which was not ready",
		},
		{
			"by the journal, too", journals,
			"found db@h1 token=d2 run=A\n", "",
			verify.Order, "app@h2", "life d2 of db@h1, which was not ready",
		},
		{
			"a basis that the life is too old for", told,
			"ended web@h4 token=x1 by=kido\nbegan web@h4 token=x2 by=kido saw=app@h2=a2 saw=db@h1=d2\nready web@h4 token=x2\nanswered web@h4 token=x2 run=C basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes\nfound web@h4 token=x2 run=C",
			"found web@h4 token=x1 run=C",
			verify.Order, "web@h4", "and was started before that was ready",
		},
		{
			"held by nobody at boot", services,
			"began db@h1 token=d1 boot=b1\nready db@h1 token=d1\nbegan app@h2 token=a2 boot=b2 saw=db@h1=d1\n",
			"began app@h2 token=a2 boot=b2 saw=db@h1=-\nbegan db@h1 token=d1 boot=b1\nready db@h1 token=d1\n",
			verify.Order, "app@h2", "began when db@h1 was not ready",
		},
		{
			"restarted twice for one basis", told,
			"found web@h3 token=w2 run=C basis=app@h2=a2 basis=db@h1=d2\n",
			"asked web@h3 token=w2 run=C verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 slot=yes\nended web@h3 token=w2 by=kido\nbegan web@h3 token=w3 by=kido saw=app@h2=a2 saw=db@h1=d2\nready web@h3 token=w3\nanswered web@h3 token=w3 run=C code=done slot=yes\nfound web@h3 token=w3 run=C\n",
			verify.Economy, "web@h3", "in life w2, and in life w3 again",
		},
		{
			"by two runs whose journals tell", journals,
			"found web@h4 token=x2 run=B basis=app@h2=a2 basis=db@h1=d2\n",
			"found web@h4 token=x2 run=B basis=app@h2=a2 basis=db@h1=d2\nopened - run=C host=h2\nasked web@h4 token=x2 run=C verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 slot=yes\nanswered web@h4 token=x3 run=C code=done slot=yes\nfound web@h4 token=x3 run=C\n",
			verify.Economy, "web@h4", "in life x2, and in life x3 again",
		},
		{
			"one wish, two restarts", told,
			"found db@h1 token=d2 run=B\n",
			"asked db@h1 token=d2 run=B verb=restart own=d1 slot=yes\nended db@h1 token=d2 by=kido\nbegan db@h1 token=d3 by=kido\nready db@h1 token=d3\nanswered db@h1 token=d3 run=B code=done\nfound db@h1 token=d3 run=B\n",
			verify.Economy, "db@h1", "twice for one restart of run B",
		},
		{
			"asked for by nobody", told,
			"asked web@h3 run=A verb=start new=app@h2=a1 new=db@h1=d1\n", "",
			verify.Economy, "web@h3", "no run had asked for it",
		},
		{
			"two starts in one boot", services,
			"ended web@h3 token=w1\nbegan web@h3 token=w2 boot=b3 saw=app@h2=a3 saw=db@h1=d2\nready web@h3 token=w2\n",
			"ended web@h3 token=w1\nbegan web@h3 token=w2 boot=b3 saw=app@h2=a3 saw=db@h1=d2\nready web@h3 token=w2\nended web@h3 token=w2\nbegan web@h3 token=w4 boot=b3 saw=app@h2=a3 saw=db@h1=d2\nready web@h3 token=w4\n",
			verify.Economy, "web@h3", "was started twice against app@h2 as a3, db@h1 as d2",
		},
		{
			"lost", told,
			"ended web@h4 token=x1 by=kido\nbegan web@h4 token=x2 by=kido saw=app@h2=a2 saw=db@h1=d2\nready web@h4 token=x2\nanswered web@h4 token=x2 run=C basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes\nfound web@h4 token=x2 run=C basis=app@h2=a2 basis=db@h1=d2\n",
			"",
			verify.NoLoss, "web@h4", "runs against life a1 of app@h2, which lives as a2 now",
		},
		{
			"left down", told,
			"began web@h4 token=x2 by=kido saw=app@h2=a2 saw=db@h1=d2\nready web@h4 token=x2\nanswered web@h4 token=x2 run=C basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes\nfound web@h4 token=x2 run=C",
			"found web@h4 run=C",
			verify.NoLoss, "web@h4", "is down, and nobody has stopped it on purpose",
		},
		{
			"up and no more", services,
			"ready web@h3 token=w3\n", "",
			verify.NoLoss, "web@h3", "never became ready",
		},
		{
			"on record as of old", told,
			"recorded app@h2 basis=db@h1=d2 wanted=up", "recorded app@h2 basis=db@h1=d1 wanted=up",
			verify.NoLoss, "app@h2", `on record as started against "d1" of db@h1, which lives as d2 now`,
		},
		{
			"a debt that no run has paid", journals,
			"opened - run=B host=db\nfound db@h1 token=d2 run=B\nfound app@h2 token=a2 run=B basis=db@h1=d2\nasked web@h4 token=x1 run=B verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 basis=app@h2=a1 basis=db@h1=d1 slot=yes owes=app@h2\nanswered web@h4 token=x2 run=B basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes\nfound web@h4 token=x2 run=B basis=app@h2=a2 basis=db@h1=d2\nclosed - run=B\n",
			"",
			verify.NoLoss, "web@h4", "owes a reaction to app@h2, db@h1 since run A",
		},
		{
			"the foot of the diamond before its side", journals,
			"basis=db@h1=d2 code=done slot=yes\nfound app@h2 token=a2 run=A basis=db@h1=d2\nasked web@h3 token=w1 run=A verb=ensure reaction=restart new=app@h2=a2",
			"basis=db@h1=d2 code=done slot=yes\nfound app@h2 token=a2 run=A basis=db@h1=d2\nasked web@h3 token=w1 run=A verb=ensure reaction=restart new=app@h2=a1",
			verify.Barrier, "web@h3", "life a1 of app@h2, which was itself started against d1",
		},
		{
			"the end of a chain before its middle", `
				opened - run=A host=op
				found db@h1 token=d1 run=A
				found app@h2 token=a1 run=A basis=db@h1=d1
				closed - run=A
				opened - run=B host=op
				found db@h1 token=d2 run=B
				CHAIN`,
			"CHAIN", "asked web@h3 token=w1 run=B verb=ensure reaction=restart new=app@h2=a1",
			verify.Barrier, "web@h3", "not yet against life d2 of db@h1",
		},
		{
			"too many of a pool", told,
			"began web@h3 token=w2 by=kido saw=app@h2=a2 saw=db@h1=d2\nready web@h3 token=w2\nanswered web@h3 token=w2 run=C basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes\nfound web@h3 token=w2 run=C basis=app@h2=a2 basis=db@h1=d2\nasked web@h4 token=x1 run=C verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 basis=app@h2=a1 basis=db@h1=d1 slot=yes owes=db@h1\nended web@h4 token=x1 by=kido\n",
			"asked web@h4 token=x1 run=C verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 basis=app@h2=a1 basis=db@h1=d1 slot=yes owes=db@h1\nended web@h4 token=x1 by=kido\nbegan web@h3 token=w2 by=kido saw=app@h2=a2 saw=db@h1=d2\nready web@h3 token=w2\nanswered web@h3 token=w2 run=C basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes\nfound web@h3 token=w2 run=C basis=app@h2=a2 basis=db@h1=d2\n",
			verify.Availability, "web@h4", "2 of web were down by kido's hand at once, at most 1 may be",
		},
		{
			"too many by the journal", journals,
			"answered web@h3 token=w2 run=A basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes\n",
			"asked web@h4 token=x1 run=A verb=ensure reaction=restart new=app@h2=a2 new=db@h1=d2 slot=yes\nanswered web@h4 token=x2 run=A code=done slot=yes\nanswered web@h3 token=w2 run=A basis=app@h2=a2 basis=db@h1=d2 code=done slot=yes\n",
			verify.Availability, "web@h4", "2 of web were down by kido's hand at once",
		},
		{
			"started again though stopped by hand", hands,
			"found app@h2 run=B basis=db@h1=d2\n", "began app@h2 token=a9 by=kido saw=db@h1=d2\nready app@h2 token=a9\nended app@h2 token=a9 by=someone\nfound app@h2 run=B basis=db@h1=d2\n",
			verify.OnPurpose, "app@h2", "was stopped on purpose",
		},
		{
			"started again though stopped by kido", hands,
			"closed - run=D\n", "closed - run=D\nopened - run=E host=op\nasked app@h2 run=E verb=ensure new=db@h1=d2\nbegan app@h2 token=a4 by=kido saw=db@h1=d2\nready app@h2 token=a4\nfound app@h2 token=a4 run=E\nclosed - run=E\n",
			verify.OnPurpose, "app@h2", "was stopped on purpose",
		},
		{
			"two at once", services,
			"ended web@h3 token=w1\n", "",
			verify.Sound, "web@h3", "life w2 of web@h3 began, and life w1 had not ended",
		},
		{
			"a gate that lies", told,
			"answered web@h4 token=x2", "answered web@h4 token=x9",
			verify.Sound, "web@h4", "the gate says done of life x9 of web@h4, which never began",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			good := strings.TrimSpace(c.good) + "\n"
			if strings.Count(good, c.old) != 1 {
				t.Fatalf("what is to be exchanged is there %d times", strings.Count(good, c.old))
			}
			found := verify.Check(shop, history(t, strings.Replace(good, c.old, c.new, 1)), verify.Options{})
			n := slices.IndexFunc(found, func(v verify.Violation) bool {
				return v.Invariant == c.invariant && v.Instance == c.instance && strings.Contains(v.Sentence, c.sentence)
			})
			if n < 0 {
				t.Fatalf("not found: %s of %s: …%s…\nbut: %v", c.invariant, c.instance, c.sentence, found)
			}
			if len(found[n].Facts) == 0 || found[n].Facts[0].File != "history" || found[n].Facts[0].Line == 0 {
				t.Errorf("no evidence: %s", found[n])
			}
		})
	}
}

// TestAcrossRuns: two runs that count apart are told from two that should not.
func TestAcrossRuns(t *testing.T) {
	t.Parallel()
	const twice = `
		opened - run=A host=op
		opened - run=B host=db
		asked web@h3 token=w1 run=A verb=ensure reaction=restart new=db@h1=d2 slot=yes
		asked web@h4 token=x1 run=B verb=ensure reaction=restart new=db@h1=d2 slot=yes
		answered web@h3 token=w2 run=A basis=db@h1=d2 code=done slot=yes
		answered web@h4 token=x2 run=B basis=db@h1=d2 code=done slot=yes
		found web@h3 token=w2 run=A basis=db@h1=d2
		found web@h4 token=x2 run=B basis=db@h1=d2`
	for _, c := range []struct {
		o    verify.Options
		want int
	}{
		{verify.Options{EachRun: true}, 0},
		{verify.Options{}, 1},
		{verify.Options{Skew: 900 * time.Millisecond}, 1},
		{verify.Options{Skew: time.Second}, 0}, // they overlap for one
	} {
		if found := verify.Check(shop, history(t, twice), c.o); len(found) != c.want {
			t.Errorf("%+v: %d violations, want %d: %v", c.o, len(found), c.want, found)
		}
	}
}

// TestMutations: a good history in which something is dropped, told twice, told at
// another time or told of another life is mostly a bad one: so many percent of such
// changes to what the services told, and to what anybody told. The rest is what
// nothing depends on: two facts that could as well have happened the other way
// round, or less evidence, which is held against nobody.
func TestMutations(t *testing.T) {
	t.Parallel()
	type percent struct{ lives, all int }
	for _, c := range []struct {
		name, good string
		caught     map[string]percent
	}{
		{"told", told, map[string]percent{"drop": {90, 45}, "duplicate": {95, 45}, "swap": {70, 45}, "token": {95, 95}}},
		{"services", services, map[string]percent{"drop": {90, 75}, "duplicate": {95, 85}, "swap": {80, 75}, "token": {95, 95}}},
		{"journals", journals, map[string]percent{"drop": {0, 35}, "duplicate": {0, 25}, "swap": {0, 40}, "token": {0, 10}}},
		{"hands", hands, map[string]percent{"drop": {75, 30}, "duplicate": {95, 30}, "swap": {60, 40}, "token": {95, 95}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(1, 2))
			good := history(t, c.good)
			for _, kind := range []string{"drop", "duplicate", "swap", "token"} {
				var made, caught percent
				for range 1000 {
					bad, what := mutate(rng, kind, good)
					n := 0
					if len(verify.Check(shop, bad, verify.Options{})) > 0 {
						n = 1
					}
					made.all, caught.all = made.all+1, caught.all+n
					if slices.Contains([]verify.What{verify.Began, verify.Ready, verify.Ended}, what) {
						made.lives, caught.lives = made.lives+1, caught.lives+n
					}
				}
				got := percent{caught.lives * 100 / max(made.lives, 1), caught.all * 100 / made.all}
				t.Logf("%-9s caught: %3d%% of the services' facts, %3d%% of all", kind, got.lives, got.all)
				if want := c.caught[kind]; got.lives < want.lives || got.all < want.all {
					t.Errorf("%s: %+v are caught, want %+v", kind, got, want)
				}
			}
		})
	}
}

// mutate makes one change to a history, and tells to what kind of fact.
func mutate(rng *rand.Rand, kind string, good []verify.Fact) ([]verify.Fact, verify.What) {
	facts := slices.Clone(good)
	n := rng.IntN(len(facts))
	what := facts[n].What
	switch kind {
	case "drop":
		facts = slices.Delete(facts, n, n+1)
	case "duplicate":
		facts = slices.Insert(facts, n+1+rng.IntN(len(facts)-n), facts[n])
	case "swap": // two that are close, and their times with them
		n = min(n, len(facts)-2)
		m := min(n+1+rng.IntN(4), len(facts)-1)
		what = facts[n].What
		facts[n], facts[m] = facts[m], facts[n]
		facts[n].At, facts[m].At = facts[m].At, facts[n].At
	case "token":
		for facts[n].Token == "" {
			n = rng.IntN(len(facts))
		}
		what = facts[n].What
		facts[n].Token += "x"
	}
	return facts, what
}

// TestFormat: what is written is read again as it was; what is no fact is refused.
func TestFormat(t *testing.T) {
	t.Parallel()
	for _, lines := range []string{told, journals, services, hands} {
		for _, f := range history(t, lines) {
			again, err := verify.Parse("history", strings.Repeat("\n", f.Line-1)+f.String()+"\n")
			if err != nil || len(again) != 1 || fmt.Sprint(again[0]) != fmt.Sprint(f) {
				t.Errorf("%s: read again as %v, %v", f, again, err)
			}
		}
	}
	for line, why := range map[string]string{
		"now began web@web1":                                   "now is no time",
		"2026-01-31T12:00:00Z began":                           "want a time, a kind and an instance",
		"2026-01-31T12:00:00Z begun web@web1":                  "begun is no kind of fact",
		"2026-01-31T12:00:00Z began web@web1 tokn=a":           "tokn is no key of a fact",
		"2026-01-31T12:00:00Z began web@web1 saw=db":           "want saw=INSTANCE=TOKEN",
		"2026-01-31T12:00:00Z asked web@web1 slot=no":          "yes is all it can be",
		"2026-01-31T12:00:00Z began web@web1  token=a":         "must be quoted",
		"2026-01-31T12:00:00Z began web@web1 token=\x1b[2Jfoo": "must be quoted",
	} {
		if _, err := verify.Parse("history", "# a comment\n\n"+line+"\n"); err == nil || !strings.Contains(err.Error(), why) || !strings.HasPrefix(err.Error(), "history:3: ") {
			t.Errorf("%q: %v, want …%s…", line, err, why)
		}
	}
}

// TestMerge: each writer's own order is kept, also where its clock was set back.
func TestMerge(t *testing.T) {
	t.Parallel()
	at := func(run string, seconds ...int) (all []verify.Fact) {
		for n, s := range seconds {
			all = append(all, verify.Fact{Run: run, Line: n + 1, At: begun.Add(time.Duration(s) * time.Second)})
		}
		return all
	}
	var got []string
	for _, f := range verify.Merge(at("A", 1, 5, 2, 7), at("B", 3, 5, 6)) {
		got = append(got, fmt.Sprint(f.Run, f.Line))
	}
	if want := "A1 B1 A2 A3 B2 B3 A4"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", got, want)
	}
}
