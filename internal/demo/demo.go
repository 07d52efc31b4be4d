// Package demo shows kido at work on a small site inside one machine: a
// database host and three web hosts on loopback, each with its own SSH server,
// host key, gate processes and real child processes as services.
//
// It promises: what it shows is the real thing, for it only calls kido and reads
// what the services themselves wrote down; it checks every claim that it makes;
// and it leaves nothing behind, however it ends. Where it is killed, the services
// end by themselves and take the folder with them.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Options are what the demo needs.
type Options struct {
	// Program is kido itself: it is run as gates ("gate --policy FILE") and as
	// services ([ArgDatabase], [ArgWeb]).
	Program string
	// Kido runs one command of kido, with all that it says to out, and returns
	// its exit status. It ends early when ctx is done.
	Kido func(ctx context.Context, out *os.File, args ...string) (status int)
	Out  *os.File
}

// ErrBroken is returned by Run where a claim does not hold. Which one has been
// said.
var ErrBroken = errors.New("not all of what the demo claims is so")

// The exit statuses of kido that the story meets.
const (
	done       = 0
	incomplete = 3
)

// InterruptedError is returned by Run where its context ended before the story.
type InterruptedError struct {
	Left error // what could not be cleaned up, mostly nil
}

func (e *InterruptedError) Error() string {
	if e.Left != nil {
		return fmt.Sprintf("the demo was interrupted, and not all could be cleaned up: %v", e.Left)
	}
	return "the demo was interrupted; nothing is left behind"
}

// Run tells the story. Once ctx is done it ends early, with an
// [InterruptedError].
func Run(ctx context.Context, o Options) error {
	began := time.Now()
	place, err := newPlace(o.Program)
	d := &demo{Options: o, place: place, say: newTeller(o.Out)}
	if err == nil {
		err = d.tell(ctx)
	}
	left := place.Close()
	if ctx.Err() != nil {
		return &InterruptedError{left}
	}
	if err != nil {
		return errors.Join(err, left)
	}
	d.claim(left == nil, "nothing is left behind: no process, no open port, no file")
	d.say.verdict(d.claims, time.Since(began))
	switch {
	case d.say.err != nil:
		return d.say.err
	case !d.sound() || left != nil:
		return errors.Join(ErrBroken, left)
	}
	return nil
}

// demo is one telling of the story.
type demo struct {
	Options
	*place
	say    *teller
	claims []claim
	seen   int // marks of life that earlier scenes have dealt with
}

// claim is something that the demo says is so.
type claim struct {
	so   bool
	text string
}

func (d *demo) claim(so bool, format string, args ...any) {
	d.claims = append(d.claims, claim{so, fmt.Sprintf(format, args...)})
}

// sound reports whether every claim so far holds.
func (d *demo) sound() bool {
	for _, c := range d.claims {
		if !c.so {
			return false
		}
	}
	return true
}

func (d *demo) tell(ctx context.Context) error {
	d.say.title("kido demo: a database and three web servers, all on this machine")
	d.say.text(`Every host has an SSH server with a host key of its own. The key of the site
is locked there to kido's gate. The services are real processes.

Each web server has %d workers, and each worker keeps one connection to the
database. This is the trouble that is shown: once that connection has died, every
page of the worker fails ("%v") until the
web server is restarted.`, workers, errEnd)
	d.say.text("site.yaml, with long paths cut short:")
	d.say.quote(d.site("kido", "/…", "/…/pid"))
	for i, scene := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"The site comes up", d.comesUp},
		{"The trouble", d.trouble},
		{"The cascade", d.cascade},
		{"A web host without power", d.withoutPower},
		{"A second time", d.again},
	} {
		d.say.scene(i+1, scene.title)
		if err := scene.play(ctx); err != nil {
			return err
		}
		if d.say.err != nil || !d.sound() {
			return nil // what would come next stands on this
		}
	}
	return nil
}

func (d *demo) comesUp(ctx context.Context) error {
	for _, h := range d.hosts {
		if err := d.setUp(ctx, h); err != nil {
			return err
		}
	}
	d.say.text(`kido starts first what others need, and goes on when that answers: the port of
the database is open at once, its first answer comes %v later.`, recovery)
	status, err := d.kido(ctx, "up")
	if err != nil {
		return err
	}
	pages := d.pages(ctx, d.webs())
	marks, err := d.news()
	if err != nil {
		return err
	}
	d.claim(status == done && only(marks, map[string]int{"db1": 1, "web1": 1, "web2": 1, "web3": 1}),
		"kido up started the database and the web servers, each once")
	d.claim(!touchedBefore(marks, "db1", names(d.webs())), "no web server was started before the database answered")
	d.claim(pages.failed == 0, "after it, %d of %d pages fail", pages.failed, pages.asked)
	return nil
}

// setUp makes a host one that can be reached: policy and SSH server.
func (d *demo) setUp(ctx context.Context, h *host) error {
	policy, status, err := d.read(ctx, "policy", "--quiet", h.name)
	if err != nil {
		return err
	}
	if status != done {
		return fmt.Errorf("kido policy %s: exit status %d: %s", h.name, status, policy)
	}
	if err := d.install(h, string(policy)); err != nil {
		return err
	}
	return d.power(h)
}

func (d *demo) trouble(ctx context.Context) error {
	d.say.text(`Somebody restarts the database at its host. Nobody tells the web servers.`)
	d.say.command("db1#", "/etc/init.d/db restart")
	if err := d.byHand(ctx, d.database(), "stop"); err != nil {
		return err
	}
	if err := d.byHand(ctx, d.database(), "start"); err != nil {
		return err
	}
	opened := time.Now()
	if err := wait(ctx, d.asksDatabase); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	d.say.text("Its port was open at once, it answered %.1f s later. Now it is well:", time.Since(opened).Seconds())
	pages := d.pages(ctx, d.webs())
	marks, err := d.news()
	if err != nil {
		return err
	}
	d.say.text("Each web server runs, and says so at %s. Its pages stay broken until somebody\nrestarts it.", readyPath)
	d.claim(only(marks, map[string]int{"db1": 1}) && pages.failed == pages.asked,
		"after a restart of the database past kido, %d of %d pages fail", pages.failed, pages.asked)
	return nil
}

// wait asks again and again, until there is no error or ctx ends.
func wait(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

func (d *demo) cascade(ctx context.Context) error {
	d.say.text(`This is what the database host's init runs once it has started the database.
The web servers follow, one at a time (max_unavailable: 1).`)
	status, err := d.kido(ctx, "announce", "db")
	if err != nil {
		return err
	}
	pages := d.pages(ctx, d.webs())
	marks, err := d.news()
	if err != nil {
		return err
	}
	d.claim(status == done && only(marks, map[string]int{"web1": 1, "web2": 1, "web3": 1}),
		"kido announce db restarted every web server once, and the database not at all")
	d.claim(mostAway(marks, names(d.webs())) == 1, "never more than one web server was away")
	d.claim(pages.failed == 0, "after it, %d of %d pages fail", pages.failed, pages.asked)
	return nil
}

func (d *demo) withoutPower(ctx context.Context) error {
	web3 := d.hosts[3]
	d.say.text("web3 loses its power. Then the database has to be restarted, by kido this time.")
	if err := d.cut(web3); err != nil {
		return err
	}
	status, err := d.kido(ctx, "restart", "db")
	if err != nil {
		return err
	}
	pages := d.pages(ctx, d.webs()[:2])
	marks, err := d.news()
	if err != nil {
		return err
	}
	d.claim(only(marks, map[string]int{"db1": 1, "web1": 1, "web2": 1}),
		"with web3 down, kido restart db restarted db, web1 and web2 once each")
	d.claim(status == incomplete, "its exit status is %d: debts remain", status)
	d.claim(!touchedBefore(marks, "db1", []string{"web1", "web2"}), "no web server was restarted before the database answered")
	d.claim(pages.failed == 0, "after it, %d of %d pages of web1 and web2 fail", pages.failed, pages.asked)
	d.say.text("web3 could not be asked, and is not forgotten:")
	status, err = d.kido(ctx, "status")
	if err != nil {
		return err
	}
	d.claim(status == incomplete, "kido status says with exit status %d that web3 is unknown", status)

	d.say.text(`The power is back, and web3's own init starts its web server before anything
else. Against which database it was started is not on record, so it owes a
restart:`)
	if err := d.power(web3); err != nil {
		return err
	}
	if err := d.byHand(ctx, web3, "start"); err != nil {
		return err
	}
	if err := wait(ctx, func() error { return page(ctx, d.url(web3, readyPath)) }); err != nil {
		return fmt.Errorf("web3 does not answer: %w", err)
	}
	if _, err = d.kido(ctx, "status", "web"); err != nil {
		return err
	}
	debts, err := d.debts(ctx)
	if err != nil {
		return err
	}
	d.claim(maps.Equal(debts, map[string]string{"web@web3": "db@db1"}), "back again, web3 owes a restart to the database, and no other owes anything")
	if _, err := d.news(); err != nil { // the start by init
		return err
	}
	if status, err = d.kido(ctx, "resume"); err != nil {
		return err
	}
	pages = d.pages(ctx, d.webs())
	if marks, err = d.news(); err != nil {
		return err
	}
	d.claim(status == done && only(marks, map[string]int{"web3": 1}), "kido resume restarted web3 once, and nothing else")
	d.claim(pages.failed == 0, "after it, %d of %d pages fail", pages.failed, pages.asked)
	return nil
}

// debts asks kido, as a script would, who owes something to whom.
func (d *demo) debts(ctx context.Context) (map[string]string, error) {
	text, _, err := d.read(ctx, "status", "--output", "json")
	if err != nil {
		return nil, err
	}
	var status struct {
		Instances []struct {
			Instance string
			Owes     []string
		}
	}
	if err := json.Unmarshal(text, &status); err != nil {
		return nil, fmt.Errorf("kido status: %w: %s", err, text)
	}
	debts := map[string]string{}
	for _, i := range status.Instances {
		if len(i.Owes) > 0 {
			debts[i.Instance] = strings.Join(i.Owes, " ")
		}
	}
	return debts, nil
}

func (d *demo) again(ctx context.Context) error {
	d.say.text("The database host's hook may run as often as it likes:")
	status, err := d.kido(ctx, "announce", "db")
	if err != nil {
		return err
	}
	marks, err := d.news()
	if err != nil {
		return err
	}
	d.claim(status == done && len(marks) == 0, "a second kido announce db had nothing to do, and touched nothing")
	return nil
}

// kido runs one command in sight.
func (d *demo) kido(ctx context.Context, args ...string) (status int, err error) {
	d.say.command("$ kido", args...)
	status = d.Kido(ctx, d.Out, d.args(args...)...)
	if status != done {
		d.say.status(status)
	}
	return status, ctx.Err()
}

// read runs one command out of sight and returns what it says.
func (d *demo) read(ctx context.Context, args ...string) (text []byte, status int, err error) {
	file, err := os.CreateTemp(d.dir, "said-")
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	status = d.Kido(ctx, file, d.args(args...)...)
	text, err = os.ReadFile(file.Name())
	return text, status, errors.Join(ctx.Err(), err)
}

// args adds what keeps kido to the demo's site and record.
func (d *demo) args(args ...string) []string {
	return append([]string{"--site", d.siteFile(), "--state", filepath.Join(d.dir, "runner"), "--here", "none"}, args...)
}

// news are the marks of life that came since the last time.
func (d *demo) news() ([]mark, error) {
	all, err := d.life.read()
	if err != nil {
		return nil, err
	}
	fresh := all[d.seen:]
	d.seen = len(all)
	return fresh, nil
}

// only reports whether just these processes began.
func only(marks []mark, want map[string]int) bool { return maps.Equal(births(marks), want) }
