package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStory is the memo's own story: the pages of two web hosts hold connections to
// a database on a third, and die with it. Without kido a restart of the database
// costs a page of every worker. With kido, however the database came to be started
// anew, no page fails once the cascade is over; each web server was reloaded or
// restarted exactly once per life of the database, and never before it answered.
func TestStory(t *testing.T) {
	t.Parallel()
	for _, site := range []struct {
		kind      Kind
		reactions []string
	}{
		{Systemd, []string{"reload", "restart"}},
		{SystemdTrixie, []string{"restart"}},
		{SysV, []string{"restart"}}, // as in the memo
		{OpenRC, []string{"reload"}},
	} {
		t.Run(string(site.kind), func(t *testing.T) {
			t.Parallel()
			s := newStory(t, site.kind)
			s.pages = visit(t, s.Lab, webs...)
			s.everyWorker(s.pages.mark(), webs...)
			s.chapter("without kido", s.withoutKido)
			for _, reaction := range site.reactions {
				s.chapter(reaction+": kido enroll", func() { s.enrol(reaction) })
				for _, w := range s.ways() {
					s.chapter(reaction+": "+w.name, func() { s.tell(w) })
				}
				s.chapter(reaction+": stopped on purpose", s.stoppedOnPurpose)
			}
		})
	}
}

const (
	database = 1
	workers  = 3 // of a web server, as in testdata/story/prefork.conf

	readyLine = "database system is ready to accept connections" // in the database's log
)

var webs = []int{2, 3}

// story is a site with a database and two web servers, each on a machine of its
// own, and with somebody who looks at their pages all the time.
type story struct {
	*Lab
	t        testing.TB
	init     string
	cluster  string // the database, as Debian names it: 15-main
	pages    *visitor
	operator *operator
	reaction string
	settled  scene // after the last cascade
}

// newStory boots those three machines, and more if wanted.
func newStory(t testing.TB, kind Kind, more ...Kind) *story {
	t.Helper()
	s := &story{Lab: Start(t, append([]Kind{kind, kind, kind}, more...)...), t: t, init: kind.Init(), cluster: "15-main"}
	if kind == SystemdTrixie {
		s.cluster = "17-main"
	}
	config := "/etc/postgresql/" + strings.ReplaceAll(s.cluster, "-", "/")
	s.put(database, "database.conf", config+"/conf.d/story.conf")
	s.Run(database, "sh", "-c", "echo host all all samenet trust >>"+config+"/pg_hba.conf")
	if s.init == "systemd" {
		s.Put(database, "/etc/systemd/system/postgresql@.service.d/story.conf", 0o644, []byte("[Service]\nRestart=on-failure\n"))
		s.Run(database, "systemctl", "daemon-reload")
	}
	s.enable(database, "postgresql")
	s.service(database, "start", "postgresql")
	s.Run(database, "su", "-", "postgres", "-c", "createuser web && createdb -O web app")
	for _, web := range webs {
		s.put(web, "page.php", "/var/www/html/page.php")
		s.put(web, "prefork.conf", "/etc/apache2/mods-available/mpm_prefork.conf")
		s.enable(web, "apache2")
		s.service(web, "start", "apache2")
	}
	return s
}

// chapter is a part of a story: one after the other, on the same machines.
func (s *story) chapter(title string, tell func()) {
	begun := time.Now()
	tell()
	s.t.Logf("%s: %.1f s", title, time.Since(begun).Seconds())
}

// put brings a file of testdata/story to a machine, with its mode.
func (s *story) put(host int, name, path string) {
	s.t.Helper()
	name = filepath.Join("testdata/story", name)
	text, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Put(host, path, info.Mode(), text)
}

// service has a machine's own init do something, as an administrator does.
func (s *story) service(host int, verb, name string) {
	s.t.Helper()
	s.Run(host, s.words(verb, name)...)
}

func (s *story) words(verb, name string) []string {
	switch {
	case s.init == "systemd" && name == "postgresql" && verb == "restart":
		return []string{"systemctl", verb, "postgresql@" + s.cluster}
	case s.init == "systemd":
		return []string{"systemctl", verb, name}
	case s.init == "openrc":
		return []string{"rc-service", name, verb}
	}
	return []string{"service", name, verb}
}

func (s *story) enable(host int, name string) {
	s.t.Helper()
	switch s.init {
	case "systemd":
		s.Run(host, "systemctl", "enable", name)
	case "sysv":
		s.Run(host, "update-rc.d", name, "enable")
	case "openrc":
		s.Run(host, "rc-update", "add", name, "default")
	}
}

// enrol installs kido at all machines, with the web servers' reaction.
func (s *story) enrol(reaction string) {
	s.t.Helper()
	s.reaction = reaction
	db, web := "systemd: postgresql@"+s.cluster, "systemd: apache2"
	if s.init != "systemd" {
		db = s.init + ": postgresql\n    pidfile: /run/postgresql/" + s.cluster + ".pid"
		web = s.init + ": apache2\n    pidfile: /run/apache2/apache2.pid"
	}
	site := fmt.Sprintf(`site: story
hosts: {db1: %s, web1: %s, web2: %s}
defaults: {budget: none}           # more happens here in ten minutes than it allows
services:
  database:
    hosts: db1
    %s
    ready:
      - exec: [/usr/bin/pg_isready, -q]
      - tcp: ":5432"
  web:
    hosts: [web1, web2]
    %s
    after: {database: %s}
    ready: {http: "http://:80/"}
`, s.Addr(1), s.Addr(2), s.Addr(3), db, web, reaction)
	if s.operator == nil {
		before := map[int][]string{}
		for _, web := range webs {
			before[web] = s.workers(web)
		}
		s.operator = enrol(s.t, s.Lab, site)
		// kido has not seen these web servers start, so its hook makes them fresh.
		s.rest()
		s.replaced(before, webs...)
	} else {
		s.operator.write("site.yaml", 0o644, []byte(site))
		s.operator.enroll()
		s.rest()
	}
	s.settled = s.look()
}

// replaced waits until web servers have none of their former workers, and then, from
// the mark that it returns, until all that they have answer. For a reload is asked
// for first and done by Apache later: this is its end.
func (s *story) replaced(before map[int][]string, webs ...int) (over int) {
	s.t.Helper()
	for _, web := range webs {
		s.Until(fmt.Sprintf("no worker of before is left at machine %d", web), func() bool {
			return !slices.ContainsFunc(s.workers(web), func(w string) bool { return slices.Contains(before[web], w) })
		})
	}
	over = s.pages.mark()
	s.everyWorker(over, webs...)
	return over
}

// withoutKido shows what kido is for: a restart of the database costs each worker
// exactly one page.
func (s *story) withoutKido() {
	s.t.Helper()
	s.pages.pause()
	s.service(database, "restart", "postgresql")
	s.Until("the database answers", s.answers)
	mark := s.pages.mark()
	s.pages.resume()
	s.everyWorker(mark, webs...)
	for _, web := range webs {
		bad := map[string]int{}
		for _, a := range s.pages.since(mark, web) {
			if !a.fine() {
				bad[a.worker]++
			}
		}
		if len(bad) != workers {
			s.t.Errorf("without kido, pages of %d workers of machine %d failed; want those of all %d", len(bad), web, workers)
		}
		for worker, n := range bad {
			if n != 1 {
				s.t.Errorf("without kido, %d pages of worker %s of machine %d failed; want 1", n, worker, web)
			}
		}
	}
}

// way is a way in which a database is started anew.
type way struct {
	name string
	held bool // it stays in its start-up until a page of every web server has met it there
	seen bool // and until kido has: elsewhere init begins the hook only when the start has ended
	// do begins it, and returns what waits for its end.
	do func() (end func())
}

func (s *story) ways() []way {
	return []way{
		{name: "its init's restart", do: func() func() { return s.begin(s.words("restart", "postgresql")...) }},
		{name: "its init script", do: func() func() { return s.begin("/etc/init.d/postgresql", "restart") }},
		{name: "kido restart", do: func() func() { return func() { s.operator.must(0, "restart", "database") } }},
		{name: "kill -9", held: true, seen: s.init != "systemd", do: func() func() {
			s.Run(database, "sh", "-c", "kill -9 $(head -n 1 /var/lib/postgresql/*/main/postmaster.pid)")
			if s.init == "systemd" { // it has Restart=on-failure
				return func() {}
			}
			// Whoever starts it by hand before its last process is gone is told that
			// its memory is in use.
			s.Until("all of the database has ended", func() bool {
				_, err := s.Exec(database, "pgrep", "-u", "postgres", "-x", "postgres")
				return err != nil
			})
			return s.begin(s.words("start", "postgresql")...)
		}},
		{name: "a power cut", held: true, do: func() func() {
			s.PowerCut(database)
			s.Boot(database)
			return func() { s.Ready(database) }
		}},
	}
}

// begin begins a command at the database's host, and returns what waits for its
// success.
func (s *story) begin(argv ...string) (end func()) {
	failed := make(chan error, 1)
	go func() {
		_, err := s.Exec(database, argv...)
		failed <- err
	}()
	return func() {
		s.t.Helper()
		if err := <-failed; err != nil {
			s.t.Fatal(err)
		}
	}
}

// tell goes through a restart of the database and holds kido to its promise.
func (s *story) tell(w way) {
	s.t.Helper()
	before, mark := s.begins()
	if w.held {
		s.hold()
	}
	end := w.do()
	if w.held {
		s.Until("a page of every web server meets the database starting up", func() bool {
			return !slices.ContainsFunc(webs, func(web int) bool {
				return !slices.ContainsFunc(s.pages.since(mark, web), answer.startingUp)
			})
		})
		if w.seen {
			s.Until("kido waits for the database", func() bool { return s.waits() > before.waits })
		}
		s.letGo()
	}
	end()
	s.cascade(before, mark, webs...)
}

// begins looks at the site before something is done to it. Nothing may have become
// of a web server since the last cascade was over.
func (s *story) begins() (before scene, mark int) {
	s.t.Helper()
	before = s.look()
	if !maps.Equal(before.reactions, s.settled.reactions) {
		s.t.Errorf("a cascade that was over went on: %+v became %+v", s.settled.reactions, before.reactions)
	}
	return before, s.pages.mark()
}

// cascade waits until a restart of the database has had its consequences for web
// servers, and checks them.
func (s *story) cascade(before scene, mark int, reacting ...int) {
	s.t.Helper()
	s.Until("the database has another life", func() bool { return s.lives() > before.lives })
	s.rest()
	over := s.replaced(before.workers, reacting...)
	after := s.look()
	s.settled = after
	if n := after.lives - before.lives; n != 1 {
		s.t.Errorf("the database had %d new lives; want 1", n)
	}
	for _, web := range webs {
		want := reactions{}
		if slices.Contains(reacting, web) {
			want = s.once()
		}
		if got := after.reactions[web].minus(before.reactions[web]); got != want {
			s.t.Errorf("machine %d: %+v per life of the database; want %+v", web, got, want)
		}
		met := map[string]bool{}
		for _, a := range s.pages.since(mark, web) {
			switch {
			case a.begun > over && slices.Contains(reacting, web) && !a.fine():
				s.t.Errorf("machine %d: after the cascade a page failed: %v", web, a)
			case slices.Contains(before.workers[web], a.worker), a.worker == "", met[a.worker]:
			case !a.fine():
				s.t.Errorf("machine %d was %sed too early: the first page of a new worker: %v", web, s.reaction, a)
			}
			met[a.worker] = true
		}
	}
}

// stoppedOnPurpose: what an operator has stopped stays so, through a restart of
// the database.
func (s *story) stoppedOnPurpose() {
	s.t.Helper()
	before, mark := s.begins()
	s.operator.must(0, "stop", "web@web1")
	s.Until("web1 is down", func() bool { return len(s.workers(webs[0])) == 0 })
	down := s.pages.mark()
	s.service(database, "restart", "postgresql")
	s.cascade(before, mark, webs[1])
	for _, a := range s.pages.since(down, webs[0]) {
		if a.status != 0 {
			s.t.Errorf("stopped on purpose, it answers: %v", a)
		}
	}
	s.operator.must(0, "start", "web@web1")
	s.rest()
	over := s.pages.mark()
	s.everyWorker(over, webs...)
	s.settled = s.look()
	for web, want := range map[int]reactions{webs[0]: {starts: 1, generations: 1}, webs[1]: s.once()} {
		if got := s.settled.reactions[web].minus(before.reactions[web]); got != want {
			s.t.Errorf("machine %d: %+v, with the start of machine %d after its stop on purpose; want %+v", web, got, webs[0], want)
		}
		for _, a := range s.pages.since(over, web) {
			if !a.fine() {
				s.t.Errorf("machine %d: after the start a page failed: %v", web, a)
			}
		}
	}
}

// hold makes the next start of the database a slow one: see testdata/story/database.conf.
func (s *story) hold() {
	s.t.Helper()
	s.Run(database, "su", "-", "postgres", "-c", "touch held "+strings.ReplaceAll(s.cluster, "-", "/")+"/recovery.signal")
}

func (s *story) letGo() {
	s.t.Helper()
	s.Run(database, "rm", "/var/lib/postgresql/held")
}

func (s *story) answers() bool {
	_, err := s.Exec(database, "pg_isready", "-q")
	return err == nil
}

// lives counts the lives of the database, by its own log.
func (s *story) lives() int {
	log := s.Get(database, "/var/log/postgresql/postgresql-"+s.cluster+".log")
	return strings.Count(string(log), readyLine)
}

// waits counts how often kido's hook came upon a database that was not ready, where
// it is a process that follows the database and has a log.
func (s *story) waits() int {
	s.t.Helper()
	if s.init == "systemd" {
		return 0
	}
	return strings.Count(string(s.Get(database, "/var/log/kido/kido-announce-database.log")), "waiting until ready")
}

// rest waits until all is fresh by what the operator is told, and the database's
// host is at work on nothing any more.
func (s *story) rest() {
	s.t.Helper()
	s.Until("kido status: all is fresh", func() bool { return s.operator.kido("status").Run() == nil })
	s.Until("no run of kido is under way at the database's host", func() bool {
		if s.init == "systemd" && strings.TrimSpace(s.Run(database, "systemctl", "show", "-P", "ActiveState", "kido-announce-database")) != "inactive" {
			return false
		}
		out, err := s.Exec(database, "kido", "--site", "/etc/kido/site.yaml", "--here", "db1", "-o", "json", "status")
		var status struct {
			Runs []struct{ Live bool }
		}
		if uerr := json.Unmarshal([]byte(out), &status); uerr != nil {
			s.t.Fatalf("kido status at the database's host: %v: %v", err, uerr)
		}
		return !slices.ContainsFunc(status.Runs, func(r struct{ Live bool }) bool { return r.Live })
	})
}

// reactions is what became of a web server, by its init's journal (which only
// systemd has) and its own log.
type reactions struct {
	starts, reloads int
	generations     int // of its workers: one for each start and each reload
}

// once is what becomes of a web server in a life of the database.
func (s *story) once() reactions {
	if s.reaction == "reload" {
		return reactions{reloads: 1, generations: 1}
	}
	return reactions{starts: 1, generations: 1}
}

func (r reactions) minus(o reactions) reactions {
	return reactions{r.starts - o.starts, r.reloads - o.reloads, r.generations - o.generations}
}

func (s *story) reactions(web int) (r reactions) {
	s.t.Helper()
	log := string(s.Get(web, "/var/log/apache2/error.log"))
	r.generations = strings.Count(log, "resuming normal operations")
	if s.init != "systemd" {
		r.reloads = strings.Count(log, "Graceful restart requested")
		r.starts = r.generations - r.reloads
		return r
	}
	journal := s.Run(web, "sh", "-c", "journalctl --sync; journalctl -q -o json --output-fields=MESSAGE_ID UNIT=apache2.service")
	r.starts = strings.Count(journal, "7d4958e842da4a758f6c1cdc7b36dcc5")  // "Starting …"
	r.reloads = strings.Count(journal, "d34d037fff1847e6ae669a370e694725") // "Reloading …"
	return r
}

// scene is the site at one time.
type scene struct {
	lives     int
	waits     int
	workers   map[int][]string
	reactions map[int]reactions
}

func (s *story) look() scene {
	s.t.Helper()
	now := scene{s.lives(), s.waits(), map[int][]string{}, map[int]reactions{}}
	for _, web := range webs {
		now.workers[web], now.reactions[web] = s.workers(web), s.reactions(web)
	}
	return now
}

// workers lists the process ids of a web server's workers; none if it is down.
func (s *story) workers(web int) []string {
	s.t.Helper()
	return strings.Fields(s.Run(web, "sh", "-c", "p=$(cat /run/apache2/apache2.pid 2>/dev/null) && pgrep -P $p || :"))
}

// everyWorker waits until every worker of web servers has answered a page with
// success that was asked for after a mark.
func (s *story) everyWorker(mark int, webs ...int) {
	s.t.Helper()
	for _, web := range webs {
		s.Until(fmt.Sprintf("every worker of machine %d answers", web), func() bool {
			now := s.workers(web)
			fine := map[string]bool{}
			for _, a := range s.pages.since(mark, web) {
				fine[a.worker] = a.fine()
			}
			return len(now) == workers && !slices.ContainsFunc(now, func(w string) bool { return !fine[w] })
		})
	}
}

// answer is what came of asking for a page.
type answer struct {
	host   int
	begun  int    // the last mark before it was asked for
	status int    // of HTTP; 0 where nothing came back
	worker string // the process id of who answered
	said   string
}

func (a answer) fine() bool { return a.status == http.StatusOK }
func (a answer) startingUp() bool {
	return strings.Contains(a.said, "the database system is starting up")
}

// visitor asks for pages of web servers all the time, of each one after the other,
// from the tester's port, and keeps all answers.
type visitor struct {
	mu      sync.Mutex
	marks   int
	paused  sync.RWMutex // held for reading while a page is asked for
	answers []answer
}

// visitPause is between two pages of one web server.
const visitPause = 10 * time.Millisecond

func visit(t testing.TB, l *Lab, hosts ...int) *visitor {
	t.Helper()
	port := tester(t, l)
	v := &visitor{}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		done.Wait()
		port.Close()
	})
	for _, host := range hosts {
		address := net.JoinHostPort(l.Addr(host), "80")
		done.Go(func() {
			// The thread is in another network from now on, so it ends with this.
			runtime.LockOSThread()
			if err := unix.Setns(int(port.Fd()), unix.CLONE_NEWNET); err != nil {
				t.Errorf("cannot get to the tester's port of the switch: %v", err)
				return
			}
			tick := time.NewTicker(visitPause)
			defer tick.Stop()
			for ctx.Err() == nil {
				v.paused.RLock()
				a := answer{host: host, begun: v.mark()}
				a.status, a.worker, a.said = page(ctx, address)
				v.keep(a)
				v.paused.RUnlock()
				<-tick.C
			}
		})
	}
	return v
}

// tester opens the network stack at the tester's own port of the switch.
func tester(t testing.TB, l *Lab) *os.File {
	t.Helper()
	holder := l.Net("sh", "-c", "echo $$; exec cat")
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	defer stdin.Close()
	pid, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port, err := os.Open("/proc/" + strings.TrimSpace(pid) + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// page asks for the page, on a connection of its own.
func page(ctx context.Context, address string) (status int, worker, said string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, "", err.Error()
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.WriteString(conn, "GET /page.php HTTP/1.0\r\n\r\n"); err != nil {
		return 0, "", err.Error()
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err.Error()
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, "", err.Error()
	}
	worker, said, _ = strings.Cut(string(text), " ")
	return r.StatusCode, worker, said
}

// mark returns a number that is greater than that of every page asked for before.
func (v *visitor) mark() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.marks++
	return v.marks
}

func (v *visitor) keep(a answer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answers = append(v.answers, a)
}

// since returns the answers of a web server to what was asked for after a mark.
func (v *visitor) since(mark, host int) (all []answer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, a := range v.answers {
		if a.begun > mark && a.host == host {
			all = append(all, a)
		}
	}
	return all
}

// pause returns when no page is asked for any more, until resume.
func (v *visitor) pause()  { v.paused.Lock() }
func (v *visitor) resume() { v.paused.Unlock() }
