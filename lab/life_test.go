package lab

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestLife: what only the database can tell. It is restarted inside its unit, or loses
// all its connections in a crash, or takes its time to recover, at its own host or at one
// that has no kido, and each time all that depends on it is made fresh once, when it
// answers from where that matters. What was needed for that, passwords, is nowhere to be
// found afterwards.
func TestLife(t *testing.T) {
	t.Parallel()
	s := newLife(t, Systemd)
	for _, part := range []struct {
		name string
		tell func(*life)
	}{
		{"restarted inside its unit", (*life).inside},
		{"built in somebody's home", (*life).atHome},
		{"where nobody tells", (*life).blind},
		{"a crash of one backend", (*life).backend},
		{"a recovery", (*life).recovers},
		{"stale connections", (*life).stale},
		{"external", (*life).external},
		{"external and blind", (*life).outages},
		{"from a dependent", (*life).fromDependent},
		{"from a runner", (*life).fromRunner},
		{"secrets", (*life).hidden},
	} {
		t.Run(strings.ReplaceAll(part.name, " ", "_"), func(t *testing.T) { part.tell(s.in(t)) })
	}
}

// TestLifeSysV: the same where no unit is restarted by anybody, and a hook looks at the
// database all the time.
func TestLifeSysV(t *testing.T) {
	t.Parallel()
	s := newStory(t, SysV)
	s.reaction = "restart"
	password := rand.Text()
	s.login(database, password)
	s.pages = visit(t, s.Lab, webs...)
	s.everyWorker(s.pages.mark(), webs...)
	s.operator = newOperator(t, s.Lab, `site: life
hosts: {db1: 198.51.100.1, web1: 198.51.100.2, web2: 198.51.100.3}
defaults: {budget: none}
services:
  database:
    hosts: db1
    sysv: postgresql
    pidfile: /run/postgresql/15-main.pid
    ready: {postgres: ":5432", user: kido, password: {file: /etc/kido/secrets/pg}, database: app}
  web:
    hosts: [web1, web2]
    sysv: apache2
    pidfile: /run/apache2/apache2.pid
    after: {database: restart}
    ready: {http: "http://:80/"}
`)
	s.operator.enroll()
	s.secret(database, "pg", password)
	s.rest()
	s.everyWorker(s.pages.mark(), webs...)
	s.settled = s.look()
	// Another process: its init could tell, and the database can.
	s.tell(way{name: "its administrator's restart", do: func() func() {
		s.dba("restart -m fast")
		return func() {}
	}})
	// The same process: only the database can tell.
	s.tell(way{name: "a crash of one backend", do: func() func() {
		s.Run(database, "kill", "-9", s.psql(database, "select pid from pg_stat_activity where usename = 'web' limit 1"))
		return func() {}
	}})
	s.begins() // and nothing has come after it
}

// external is the machine that has a database and no kido.
const external = 4

// life is the story's site, whose database's unit is none that follows it.
type life struct {
	*story
	secrets map[string]string // name → password
	said    *transcript
	site    *string // what is enrolled
}

// transcript is all that kido has said.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

func newLife(t *testing.T, kind Kind) *life {
	t.Helper()
	s := &life{story: newStory(t, kind, kind), secrets: map[string]string{}, said: &transcript{}, site: new(string)}
	for _, name := range []string{"pg", "ledger", "http", "redis"} {
		s.secrets[name] = "Geheim-" + name + "-" + rand.Text()
	}
	s.Run(database, "systemctl", "disable", "--now", "postgresql", "postgresql@15-main")
	s.testdata(database, "dba.service", "/etc/systemd/system/dba.service")
	s.Run(database, "sh", "-c", "echo log_connections=on >>"+clusterConfig+"/conf.d/story.conf")
	s.Run(database, "systemctl", "enable", "--now", "dba")
	s.put(external, "database.conf", clusterConfig+"/conf.d/story.conf")
	s.service(external, "start", "postgresql")
	for host, secret := range map[int]string{database: "pg", external: "ledger"} {
		s.login(host, s.secrets[secret])
	}
	s.testdata(webs[0], "front.service", "/etc/systemd/system/front.service")
	s.Run(webs[0], "systemctl", "daemon-reload")
	s.Run(webs[0], "systemctl", "start", "front")
	s.operator = newOperator(t, s.Lab, "")
	s.pages = visit(t, s.Lab, webs...)
	s.everyWorker(s.pages.mark(), webs...)
	return s
}

const clusterConfig = "/etc/postgresql/15/main"

// in is s for a subtest.
func (s *life) in(t *testing.T) *life {
	l, op, st := *s.Lab, *s.operator, *s.story
	l.t, op.t, op.lab = t, t, &l
	st.Lab, st.t, st.operator = &l, t, &op
	n := *s
	n.story = &st
	return &n
}

// testdata brings a file of testdata/life to a machine.
func (s *life) testdata(host int, name, path string) {
	s.t.Helper()
	s.put(host, "../life/"+name, path)
}

// psql has a database do something; what, is on no command line.
func (s *story) psql(host int, statements string) string {
	s.t.Helper()
	cmd := s.Command(host, "su", "-", "postgres", "-c", "psql -qAt -v ON_ERROR_STOP=1")
	cmd.Stdin = strings.NewReader(statements)
	out, err := output(cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// login lets kido log in to a database, by a password.
func (s *story) login(host int, password string) {
	s.t.Helper()
	s.Run(host, "sed", "-i", "1i host all kido samenet scram-sha-256", clusterConfig+"/pg_hba.conf")
	s.Until("the database answers", func() bool {
		_, err := s.Exec(host, "pg_isready", "-q")
		return err == nil
	})
	s.psql(host, "create user kido password '"+password+"'; select pg_reload_conf()")
}

// dba does something to the database as its administrator does, whom init does not
// hear.
func (s *story) dba(words string) {
	s.t.Helper()
	s.Run(database, "su", "-", "postgres", "-c", "pg_ctlcluster 15 main "+words)
}

// lifeSite is a site with what is particular about each service.
func lifeSite(services ...string) string {
	return `site: life
hosts: {db1: 198.51.100.1, web1: 198.51.100.2, web2: 198.51.100.3}
defaults: {budget: none}
services:
` + strings.Join(services, "")
}

const (
	databaseService = `  database:
    hosts: db1
    systemd: dba
    ready:
      - postgres: :5432
        user: kido
        password: {file: /etc/kido/secrets/pg}
        database: app
`
	blindDatabase = `  database:
    hosts: db1
    systemd: dba
    ready: {tcp: ":5432"}
`
	webService = `  web:
    hosts: [web1, web2]
    systemd: apache2
    after: {database: restart}
    max_unavailable: 1
    ready: {http: "http://:80/"}
`
	frontService = `  front:
    hosts: web1
    systemd: front
    after: {web: restart}
`
)

// enrolled brings a site to its hosts, with the secrets that it names, and waits until
// nothing is owed.
func (s *life) enrolled(site string) {
	s.t.Helper()
	if *s.site == site {
		s.settles()
		return
	}
	*s.site = site
	s.operator.write("site.yaml", 0o644, []byte(site))
	s.note("check", s.operator.must(0, "check"))
	s.note("enroll", s.operator.enroll())
	if _, err := s.Exec(database, "test", "-e", "/etc/kido/secrets"); err != nil {
		// Only now there is somebody to whom they could belong.
		for _, host := range []int{database, webs[0], webs[1]} {
			for name, secret := range s.secrets {
				s.secret(host, name, secret)
			}
		}
		s.note("enroll", s.operator.enroll())
	}
	s.settles()
	s.everyWorker(s.pages.mark(), webs...)
}

// secret puts a secret where a host's gate may read it, and nobody else.
func (s *story) secret(host int, name, secret string) {
	s.t.Helper()
	path := "/etc/kido/secrets/" + name
	s.Put(host, path, 0o640, []byte(secret+"\n"))
	s.Run(host, "chgrp", "kido", path)
}

// note keeps what was said, and shows it to whoever looks.
func (s *life) note(asked, said string) string {
	s.said.mu.Lock()
	defer s.said.mu.Unlock()
	text := "$ kido " + asked + "\n" + said
	s.said.text.WriteString(text)
	s.t.Log(text)
	return said
}

// kido runs kido as the operator.
func (s *life) kido(status int, args ...string) string {
	s.t.Helper()
	out, err := s.operator.kido(args...).CombinedOutput()
	return s.ended(strings.Join(args, " "), string(out), err, status)
}

func (s *life) ended(asked, said string, err error, status int) string {
	s.t.Helper()
	s.note(asked, said)
	if exitOf(err) != status || err != nil && exitOf(err) == 0 {
		s.t.Errorf("kido %s: %v, want exit status %d\n%s", asked, err, status, said)
	}
	return said
}

// kidoAt runs kido at a host, as its administrator.
func (s *life) kidoAt(host, status int, args ...string) string {
	s.t.Helper()
	here := map[int]string{1: "db1", 2: "web1", 3: "web2"}[host]
	out, err := s.Command(host, slices.Concat([]string{"kido", "--site", "/etc/kido/site.yaml", "--here", here}, args)...).CombinedOutput()
	return s.ended(strings.Join(args, " ")+" # at "+here, string(out), err, status)
}

// settles waits until nothing is owed and nobody is at work.
func (s *life) settles() {
	s.t.Helper()
	last := ""
	defer func() {
		if s.t.Failed() {
			s.t.Log(last)
		}
	}()
	s.Until("kido status: all is fresh", func() bool {
		out, err := s.operator.kido("status").CombinedOutput()
		last = string(out)
		return err == nil
	})
	for host, name := range map[int]string{database: "db1", webs[0]: "web1"} {
		if _, err := s.Exec(host, "test", "-e", "/etc/kido/id_ed25519"); err != nil {
			continue // nothing is announced from there
		}
		s.Until("no run is under way", func() bool {
			out, err := s.Exec(host, "kido", "--site", "/etc/kido/site.yaml", "--here", name, "-o", "json", "status")
			var status struct{ Runs []struct{ Live bool } }
			if uerr := json.Unmarshal([]byte(out), &status); uerr != nil {
				s.t.Fatalf("kido status at %s: %v: %v", name, err, uerr)
			}
			return !slices.ContainsFunc(status.Runs, func(r struct{ Live bool }) bool { return r.Live })
		})
	}
}

// deed is something that init did to a dependent.
type deed struct {
	what string // "start apache2 2"
	at   time.Time
}

// deeds are all that were done, in order.
func (s *life) deeds() (all []deed) {
	s.t.Helper()
	verbs := map[string]string{"7d4958e842da4a758f6c1cdc7b36dcc5": "start", "d34d037fff1847e6ae669a370e694725": "reload"}
	for _, host := range webs {
		out := s.Run(host, "sh", "-c", `journalctl --sync
			journalctl -q -o json --output-fields=UNIT,MESSAGE_ID UNIT=apache2.service UNIT=front.service MESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5 MESSAGE_ID=d34d037fff1847e6ae669a370e694725`)
		for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
			var e struct {
				Unit string `json:"UNIT"`
				ID   string `json:"MESSAGE_ID"`
				At   string `json:"__REALTIME_TIMESTAMP"`
			}
			if err := d.Decode(&e); err != nil {
				s.t.Fatal(err)
			}
			at, err := strconv.ParseInt(e.At, 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			all = append(all, deed{fmt.Sprintf("%s %s %d", verbs[e.ID], strings.TrimSuffix(e.Unit, ".service"), host), time.UnixMicro(at)})
		}
	}
	slices.SortFunc(all, func(a, b deed) int { return a.at.Compare(b.at) })
	return all
}

// done waits until all has settled, and fails the test unless since before exactly these
// were done, in this order; those of one text, which it splits at commas, in any.
func (s *life) done(before []deed, want ...string) (done []deed) {
	s.t.Helper()
	s.settles()
	done = s.deeds()[len(before):]
	var got []string
	for _, d := range done {
		got = append(got, d.what)
	}
	var wanted []string
	for _, group := range want {
		some := strings.Split(group, ", ")
		if begin := len(wanted); begin+len(some) <= len(got) {
			slices.Sort(got[begin : begin+len(some)])
		}
		slices.Sort(some)
		wanted = append(wanted, some...)
	}
	if !slices.Equal(got, wanted) {
		s.t.Errorf("this was done: %q; want %q", got, wanted)
	}
	return done
}

// asked counts how often kido has logged in to the database.
func (s *life) asked() int {
	s.t.Helper()
	return strings.Count(s.log(), "connection authorized: user=kido")
}

func (s *life) log() string {
	s.t.Helper()
	return string(s.Get(database, "/var/log/postgresql/postgresql-"+s.cluster+".log"))
}

// stays fails the test where anything is done to anybody though the database's host
// looks twice more, and somebody announces it once more.
func (s *life) stays() {
	s.t.Helper()
	before, asked := s.deeds(), s.asked()
	s.Until("the hook of the database has looked twice more", func() bool { return s.asked() >= asked+2 })
	s.kido(0, "announce", "database")
	s.done(before)
}

// cascade has something done to the database, and checks that once all is over this was
// done to its dependents, and nothing before it answered; and no page fails after it.
func (s *life) cascade(do func(), want ...string) {
	s.t.Helper()
	before, lives := s.look(), s.lives()
	deeds := s.deeds()
	do()
	s.Until("the database has another life", func() bool { return s.lives() > lives })
	done := s.done(deeds, want...)
	ready := s.readySince()
	for _, d := range done {
		if d.at.Before(ready) {
			s.t.Errorf("%s at %v, and the database answers since %v", d.what, d.at, ready)
		}
	}
	s.noneFails(s.replaced(before.workers, webs...))
}

// noneFails fails the test where a page did that was asked for after a mark.
func (s *life) noneFails(over int) {
	s.t.Helper()
	for _, web := range webs {
		for _, a := range s.pages.since(over, web) {
			if !a.fine() {
				s.t.Errorf("machine %d: after the cascade a page failed: %v", web, a)
			}
		}
	}
}

// basis is what a web server was last made fresh against, by the gate's own record.
func (s *life) basis(web int) string {
	s.t.Helper()
	_, rest, _ := strings.Cut(string(s.Get(web, "/var/lib/kido-gate/web.state")), "\nbasis database@db1 ")
	basis, _, _ := strings.Cut(rest, "\n")
	return basis
}

// unit is all that init knows of the database's life.
func (s *life) unit() string {
	s.t.Helper()
	return s.Run(database, "systemctl", "show", "--property=InvocationID,ActiveEnterTimestampMonotonic,ActiveState,SubState", "dba")
}

func (s *life) contains(said string, words ...string) {
	s.t.Helper()
	for _, w := range words {
		if !strings.Contains(said, w) {
			s.t.Errorf("no %q in:\n%s", w, said)
		}
	}
}

// inside: the database's administrator restarts it, and init notices nothing.
func (s *life) inside() {
	s.enrolled(lifeSite(databaseService, webService, frontService))
	unit, basis := s.unit(), s.basis(webs[0])
	s.kido(0, "status")
	s.cascade(func() { s.dba("restart -m fast") }, allInOrder...)
	s.kido(0, "status")
	s.kidoAt(database, 0, "why", "web@web1")
	s.kido(0, "why", "web@web1")
	s.note("basis", s.basis(webs[0]))
	if now := s.unit(); now != unit {
		s.t.Errorf("init has noticed:\n%s\n%s", unit, now)
	}
	now, invocation := s.basis(webs[0]), strings.TrimSpace(s.Run(database, "systemctl", "show", "-P", "InvocationID", "dba"))
	if !strings.HasPrefix(now, invocation+"+20") || !strings.HasPrefix(basis, invocation+"+20") || now == basis || now != s.basis(webs[1]) {
		s.t.Errorf("the bases were %q, and are %q and %q", basis, now, s.basis(webs[1]))
	}
	s.stays()
}

// atHome: who has built kido in a folder of his own at the database's host uses the gate
// that is installed there, for the gate's user cannot run the other.
func (s *life) atHome() {
	s.Run(database, "mkdir", "-m", "700", "/root/built")
	s.Run(database, "cp", "/usr/local/bin/kido", "/usr/local/sbin/kido-gate", "/root/built")
	out := s.Run(database, "/root/built/kido", "--site", "/etc/kido/site.yaml", "--here", "db1", "status", "database")
	s.contains(s.note("status database # as built at db1", out), "database@db1  up")
}

// blind: where no probe tells the life, nobody sees that restart, and that is said before.
func (s *life) blind() {
	s.enrolled(lifeSite(blindDatabase, webService))
	s.contains(s.kido(0, "check"), "note: database: a restart inside the unit is not seen")
	before := s.deeds()
	s.dba("restart -m fast")
	s.contains(s.kido(0, "announce", "database"), "nothing to do")
	s.kido(0, "status")
	s.done(before)
	s.Until("the hook that has nothing to follow has ended", func() bool {
		state, _ := s.Exec(database, "systemctl", "is-active", "kido-announce-database")
		return state == "inactive\n"
	})
}

// backend: one server process is killed, and the postmaster ends the connections of all
// and goes on.
func (s *life) backend() {
	s.enrolled(lifeSite(databaseService, webService, frontService))
	postmaster := s.postmaster()
	s.cascade(func() {
		s.Run(database, "kill", "-9", s.psql(database, "select pid from pg_stat_activity where usename = 'web' limit 1"))
	}, allInOrder...)
	if now := s.postmaster(); now != postmaster {
		s.t.Errorf("the postmaster is another one: %s and %s", postmaster, now)
	}
	s.kido(0, "why", "web@web1")
	s.kidoAt(database, 0, "why", "web@web1")
	s.stays()
}

func (s *story) postmaster() string {
	s.t.Helper()
	return strings.TrimSpace(s.Run(database, "head", "-n", "1", "/var/lib/postgresql/15/main/postmaster.pid"))
}

// allInOrder is what a new life of the database is to bring about.
var allInOrder = []string{"start apache2 2, start apache2 3", "start front 2"}

// recovers: a database that is started after a crash has its port open, and its unit is
// up all the time, long before it answers.
func (s *life) recovers() {
	s.enrolled(lifeSite(databaseService, webService, frontService))
	s.cascade(func() {
		s.hold()
		before := s.deeds()
		s.Run(database, "kill", "-9", s.postmaster())
		s.Until("all of the database has ended", func() bool {
			_, err := s.Exec(database, "pgrep", "-u", "postgres", "-x", "postgres")
			return err != nil
		})
		s.kido(3, "status")
		s.dba("start -- -W")
		const word = "connected, but: the database system is starting up"
		s.Until("the database is starting up", func() bool {
			out, _ := s.operator.kido("probe", "database").CombinedOutput()
			return strings.Contains(string(out), word)
		})
		s.contains(s.kido(1, "probe", "database"), word)
		s.contains(s.kido(3, "status"), word)
		end, said := s.begun("announce", "database")
		s.Until("the progress says so", func() bool { return strings.Contains(said(), word) })
		s.kido(0, "why", "web@web1")
		if now := s.deeds(); len(now) > len(before) {
			s.t.Errorf("before it answers: %v", now[len(before):])
		}
		s.letGo()
		end(0)
	}, allInOrder...)
	s.stays()
}

// begun begins a kido of the operator's, and returns what waits for its end and what
// tells what it has said so far.
func (s *life) begun(args ...string) (end func(status int), said func() string) {
	s.t.Helper()
	cmd := s.operator.kido(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // kido is a child of what is run here
	f, err := os.Create(filepath.Join(s.t.TempDir(), "said"))
	if err == nil {
		cmd.Stdout, cmd.Stderr = f, f
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	wait := sync.OnceValue(cmd.Wait)
	said = func() string { return contents(f) }
	s.t.Cleanup(func() { // only where the test has failed is it still at work
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = wait()
		f.Close()
	})
	return func(status int) {
		s.t.Helper()
		err := wait()
		s.ended(strings.Join(args, " "), said(), err, status)
	}, said
}

// stale: how many connections from before a web server holds is told, and decides.
func (s *life) stale() {
	s.enrolled(lifeSite(databaseService, strings.ReplaceAll(webService, "database: restart", "database: {on_restart: reload, if: stale-connections}")))
	before := s.look()
	s.silently(func() {
		s.Run(database, "systemctl", "stop", "kido-announce-database") // to have a look in between
		s.service(webs[1], "restart", "apache2")
		deeds := s.deeds()
		s.dba("restart -m fast")
		said := s.kido(3, "status")
		s.contains(said, "3 of 3 connections to database@db1 from before its start")
		if n := strings.Count(said, "connections"); n != 1 {
			s.t.Errorf("connections of %d instances are told of; want those of web1", n)
		}
		s.contains(s.kido(0, "why", "web@web1"), "holds 3 of 3 connections to database@db1 from before its start")
		s.kido(0, "why", "web@web2")
		s.Run(database, "systemctl", "start", "kido-announce-database")
		s.done(deeds, "reload apache2 2")
		s.kidoAt(database, 0, "why", "web")
		s.kido(0, "status")
		if one, other := s.basis(webs[0]), s.basis(webs[1]); one != other {
			s.t.Errorf("the bases are %q and %q", one, other)
		}
		s.Until("web1's workers are others", func() bool {
			return !slices.ContainsFunc(s.workers(webs[0]), func(w string) bool { return slices.Contains(before.workers[webs[0]], w) })
		})
		// None is held by anybody now. The hook tells of the next start at once, when the
		// unit has been up for some tenths of a second, and that is an age as any other.
		deeds = s.deeds()
		s.Run(database, "systemctl", "restart", "dba")
		s.done(deeds)
	})
	over := s.pages.mark()
	s.everyWorker(over, webs...)
	s.noneFails(over)
}

// silently does something while nobody asks for a page.
func (s *life) silently(do func()) {
	s.t.Helper()
	s.pages.pause()
	defer s.pages.resume()
	do()
}

const (
	ledgerService = `  ledger:
    external: true
    hosts: web1
    ready:
      - postgres: h4
        user: kido
        password: {file: /etc/kido/secrets/ledger}
        database: postgres
`
	blindLedger = `  ledger:
    external: true
    hosts: web1
    failures: 20 # of one second each: a hiccup, with the restart in it, is well over by then
    ready: {tcp: "h4:5432"}
`
	ledgerUsers = `  web:
    hosts: [web1, web2]
    systemd: apache2
    after: {ledger: restart}
    max_unavailable: 1
    ready: {http: "http://:80/"}
  front:
    hosts: web1
    systemd: front
    after: {ledger: restart}
`
)

// external: a database at a host without kido is restarted there.
func (s *life) external() {
	s.enrolled(lifeSite(blindDatabase, ledgerService, ledgerUsers))
	s.kido(0, "status")
	before := s.deeds()
	s.Run(external, "systemctl", "restart", "postgresql@15-main")
	done := s.done(before, "start apache2 2, start apache2 3, start front 2")
	since, err := strconv.ParseFloat(s.psql(external, "select extract(epoch from pg_postmaster_start_time())"), 64)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range done {
		if d.at.Before(time.UnixMicro(int64(since * 1e6))) {
			s.t.Errorf("%s at %v, before the start of what it depends on", d.what, d.at)
		}
	}
	s.kido(0, "status")
	s.kidoAt(webs[0], 0, "why", "web")
	s.kido(0, "probe", "--verbose", "ledger")
}

// outages: where nothing tells its life, it lives anew after an outage that was seen, and
// not after a hiccup.
func (s *life) outages() {
	s.enrolled(lifeSite(blindDatabase, blindLedger, ledgerUsers))
	s.kido(0, "check")
	look := func() (o struct {
		count, missed int
		away          bool
	},
	) {
		s.t.Helper()
		_, _ = s.operator.kido("status", "ledger").CombinedOutput()
		f := strings.Fields(string(s.Get(webs[0], "/var/lib/kido-gate/ledger@outages")))
		var err error
		if o.count, err = strconv.Atoi(f[3]); err == nil {
			if o.missed, err = strconv.Atoi(f[4]); err == nil {
				o.away, err = strconv.ParseBool(f[5])
			}
		}
		if err != nil {
			s.t.Fatal(err)
		}
		return o
	}
	before, was := s.deeds(), look()
	s.Run(external, "systemctl", "stop", "postgresql@15-main")
	s.Until("it was missed", func() bool { return look().missed >= 2 })
	s.kido(3, "status")
	s.Run(external, "systemctl", "start", "postgresql@15-main")
	s.Until("it is there again", func() bool { return look().missed == 0 })
	s.kidoAt(webs[0], 0, "announce", "ledger")
	s.done(before)
	if now := look(); now.count != was.count {
		s.t.Errorf("a hiccup is %d outages", now.count-was.count)
	}

	s.Run(external, "systemctl", "stop", "postgresql@15-main")
	s.Until("it is away", func() bool { return look().away })
	s.kido(3, "status")
	s.Run(external, "systemctl", "start", "postgresql@15-main")
	s.done(before, "start apache2 2, start apache2 3, start front 2")
	if now := look(); now.count != was.count+1 {
		s.t.Errorf("an outage is %d", now.count-was.count)
	}
	s.kidoAt(webs[0], 0, "why", "web")
	s.kidoAt(webs[0], 0, "announce", "ledger")
	s.done(s.deeds())
}

// wall keeps who is behind it from the database's port, and from nothing else.
var wall = []string{"to", "198.51.100.1", "ipproto", "tcp", "dport", "5432", "unreachable"}

// fromDependent: who does not reach the database himself is left as he is.
func (s *life) fromDependent() {
	s.enrolled(lifeSite(databaseService+`      - {tcp: ":5432", from: dependent}
`, webService))
	s.kido(0, "probe", "database")
	s.Run(webs[1], slices.Concat([]string{"ip", "rule", "add"}, wall)...)
	before := s.deeds()
	end, said := s.begun("restart", "database")
	s.Until("web1 is restarted", func() bool { return len(s.deeds()) > len(before) })
	const word = "as seen from web2: "
	s.Until("the progress says why web2 is not", func() bool { return strings.Contains(said(), word) })
	status := s.kido(3, "status")
	s.contains(status, "owes database@db1")
	s.contains(status, word)
	s.contains(s.kido(0, "why", "web@web2"), word)
	s.kido(1, "probe", "database")
	s.kido(1, "probe", "database", "--from", "web2")
	s.kido(0, "probe", "database", "--from", "web1")
	s.kido(0, "probe", "database", "--from", "db1", "-v")
	s.contains(s.kido(0, "probe", "database", "--from", "here"), "left out, as it means only something at db1: postgres")
	if done := s.deeds()[len(before):]; len(done) != 1 || done[0].what != "start apache2 2" {
		s.t.Errorf("while web2 does not reach the database: %v", done)
	}
	s.Run(webs[1], slices.Concat([]string{"ip", "rule", "del"}, wall)...)
	end(0)
	s.done(before, "start apache2 2", "start apache2 3")
}

// fromRunner: whoever runs kido is to reach the database, too.
func (s *life) fromRunner() {
	s.enrolled(lifeSite(databaseService+`      - {tcp: ":5432", from: runner}
`, webService))
	s.Run(database, "systemctl", "stop", "kido-announce-database") // it is another runner, and reaches it
	rule := func(verb string) {
		s.t.Helper()
		if _, err := output(s.Net(slices.Concat([]string{"ip", "rule", verb}, wall)...)); err != nil {
			s.t.Fatal(err)
		}
	}
	rule("add")
	before := s.deeds()
	s.dba("restart -m fast")
	end, said := s.begun("announce", "database")
	s.Until("the progress says so", func() bool { return strings.Contains(said(), "as seen from the runner: ") })
	s.contains(s.kido(3, "status"), "as seen from the runner: ")
	s.contains(s.kido(0, "why", "web@web1"), "as seen from the runner: ")
	s.kido(1, "probe", "database")
	s.kido(1, "probe", "database", "--from", "here")
	if done := s.deeds()[len(before):]; len(done) != 0 {
		s.t.Errorf("while the runner does not reach the database: %v", done)
	}
	rule("del")
	end(0)
	s.done(before, "start apache2 2, start apache2 3")
	s.Run(database, "systemctl", "start", "kido-announce-database")
}

const (
	guardedDatabase = `  database:
    hosts: db1
    systemd: dba
    ready:
      - &login
        postgres: :5432
        user: kido
        password: {file: /etc/kido/secrets/pg}
        database: app
        timeout: 15s
      - {<<: *login, from: dependent}
`
	guardedCache = `  cache:
    external: true
    hosts: web1
    ready: {redis: h4, password: {file: /etc/kido/secrets/redis}}
`
	guardedWeb = `  web:
    hosts: [web1, web2]
    systemd: apache2
    after: {database: restart}
    max_unavailable: 1
    ready: {http: "http://:80/health.php", bearer: {file: /etc/kido/secrets/http}, match: ^fine}
`
)

// hidden: no secret that a probe was given is anywhere but in its file, whatever went
// wrong.
func (s *life) hidden() {
	s.redis(s.secrets["redis"])
	health := func(token string) {
		s.t.Helper()
		for _, web := range webs {
			s.testdata(web, "health.php", "/var/www/html/health.php")
			s.Put(web, "/etc/health", 0o644, fmt.Appendf(nil, "%x", sha256.Sum256([]byte("Bearer "+token))))
		}
	}
	health(s.secrets["http"])
	s.enrolled(lifeSite(guardedDatabase, ledgerService, guardedCache, guardedWeb))
	all := []string{"database", "ledger", "cache", "web"}
	look := func(status int) {
		s.t.Helper()
		limit := "2s"
		if status == 0 {
			limit = "1m"
		}
		_, _ = s.operator.kido("status").CombinedOutput()
		s.kido(status, append([]string{"probe", "-v"}, all...)...)
		s.kido(status, append([]string{"probe", "-o", "json"}, all...)...)
		for host, what := range map[int]string{database: "postgres://kido@h1/app", webs[0]: "postgres://kido@h4/postgres"} {
			secret := map[int]string{database: "pg", webs[0]: "ledger"}[host]
			s.kidoAt(host, status, "wait", "--timeout", limit, "--verbose", what, "--password-file", "/etc/kido/secrets/"+secret)
		}
		s.kidoAt(webs[0], status, "wait", "--timeout", limit, "--verbose", "redis://h4?password=file:/etc/kido/secrets/redis")
		s.kidoAt(webs[0], status, "wait", "--timeout", limit, "--verbose", "database", "cache", "web@web1")
	}
	look(0)
	s.dba("restart -m fast")
	s.settles()

	// Who is asked has other passwords.
	for _, host := range []int{database, external} {
		s.psql(host, "alter user kido password 'another'")
	}
	s.redis("another")
	health("another")
	look(1)
	s.kido(3, "status")
	for host, secret := range map[int]string{database: "pg", external: "ledger"} {
		s.psql(host, "alter user kido password '"+s.secrets[secret]+"'")
	}
	s.redis(s.secrets["redis"])
	health(s.secrets["http"])

	// Everybody may read it.
	s.Run(database, "chmod", "644", "/etc/kido/secrets/pg")
	s.contains(s.kido(1, "probe", "database", "--from", "db1"), "may be read or changed by everybody")
	s.Run(database, "chmod", "640", "/etc/kido/secrets/pg")

	// It hangs, and who asks it can be looked at.
	s.Run(database, "systemd-run", "--quiet", "--unit=planted", "--setenv=PLANTED="+planted, "/bin/sleep", "infinity")
	s.Run(database, "kill", "-STOP", s.postmaster())
	end, _ := s.begun("probe", "-v", "database")
	for _, host := range []int{database, webs[0]} {
		sample := ""
		s.Until("somebody asks the database that hangs", func() bool {
			sample = s.Run(host, "sh", "-c", `cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' ' '`)
			return strings.Contains(sample, "/kido probe-child ")
		})
		if host == database && !strings.Contains(sample, "PLANTED="+planted) {
			s.t.Error("the environments of processes cannot be seen")
		}
		for _, secret := range s.spellings() {
			if strings.Contains(sample, secret) {
				s.t.Errorf("machine %d: a process has a secret:\n%s", host, sample)
			}
		}
	}
	end(1)
	s.Run(database, "kill", "-CONT", s.postmaster())
	s.settles()

	var files []string
	for name := range s.secrets {
		files = append(files, "/etc/kido/secrets/"+name)
	}
	slices.Sort(files)
	for host := 1; host <= external; host++ {
		s.Put(host, "/var/log/planted", 0o600, []byte("a "+planted))
		s.Run(host, "sh", "-c", "logger a "+planted)
		if found := s.found(host, []string{planted}); !slices.Contains(found, "/var/log/planted") || !slices.Contains(found, "the journal") {
			s.t.Errorf("machine %d: what was planted is found in %q only", host, found)
		}
		want := files
		if host == external {
			want = nil
		}
		if found := s.found(host, s.spellings()); !slices.Equal(found, want) {
			s.t.Errorf("machine %d: secrets are in %q; want %q", host, found, want)
		}
	}
	if err := os.WriteFile(s.operator.path("state/planted"), []byte("a "+planted), 0o600); err != nil {
		s.t.Fatal(err)
	}
	for secret, want := range map[string]int{planted: 1, strings.Join(s.spellings(), "\n"): 0} {
		found := 0
		err := filepath.WalkDir(s.operator.dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			for one := range strings.SplitSeq(secret, "\n") {
				if strings.Contains(string(text), one) {
					found++
					s.t.Logf("found in %s", path)
				}
			}
			return err
		})
		if err != nil || found != want {
			s.t.Errorf("the operator's files: %d hits, %v; want %d", found, err, want)
		}
	}
	for _, secret := range s.spellings() {
		if strings.Contains(s.said.text.String(), secret) {
			s.t.Errorf("kido has said the secret %s", secret)
		}
	}
}

// planted is what is to be found.
const planted = "Planted-where-it-is-seen"

// spellings are all that would give a secret away.
func (s *life) spellings() (all []string) {
	for _, secret := range s.secrets {
		all = append(all, secret, strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "="),
			strings.TrimRight(base64.StdEncoding.EncodeToString([]byte("kido:"+secret)), "="))
	}
	return all
}

// found lists where on a machine any of some texts are.
func (s *life) found(host int, texts []string) []string {
	s.t.Helper()
	cmd := s.Command(host, "sh", "-c", `cat >/dev/shm/texts
		journalctl --sync; journalctl -aq -o export | grep -qaF -f /dev/shm/texts && echo the journal
		grep -rlaF -D skip -f /dev/shm/texts /boot /etc /home /opt /root /run /srv /tmp /usr/local /var
		rm /dev/shm/texts`)
	cmd.Stdin = strings.NewReader(strings.Join(texts, "\n"))
	out, err := output(cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	found := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(found)
	return slices.DeleteFunc(found, func(path string) bool { return path == "" })
}

// redis runs a redis of this machine's at the one without kido, with a password that
// it knows by its hash only.
func (s *life) redis(password string) {
	s.t.Helper()
	const dir = "/opt/redis/"
	if _, err := s.Exec(external, "test", "-e", dir+"redis-server"); err != nil {
		program, err := exec.LookPath("redis-server")
		if err != nil && os.Getenv("CI") == "" {
			s.t.Skip("SKIPPED: there is no redis-server here to be brought to a machine: install redis-server")
		}
		bring := func(from, to string) {
			s.t.Helper()
			text, err := os.ReadFile(from)
			if err != nil {
				s.t.Fatal(err)
			}
			s.Put(external, to, 0o755, text)
		}
		bring(program, dir+"redis-server")
		libraries, err := output(exec.Command("ldd", program))
		if err != nil {
			s.t.Fatal(err)
		}
		for word := range strings.FieldsSeq(libraries) {
			if strings.HasPrefix(word, "/") {
				bring(word, dir+filepath.Base(word))
			}
		}
	}
	_, _ = s.Exec(external, "systemctl", "stop", "redis")
	s.Put(external, dir+"users", 0o644, fmt.Appendf(nil, "user default on #%x ~* &* +@all\n", sha256.Sum256([]byte(password))))
	s.Run(external, "systemd-run", "--quiet", "--unit=redis", dir+"ld-linux-x86-64.so.2", "--library-path", dir, dir+"redis-server",
		"--bind", "0.0.0.0", "--aclfile", dir+"users", "--dir", "/opt/redis", "--save", "")
	s.Until("redis listens", func() bool {
		_, err := s.Exec(external, "nc", "-z", "127.0.0.1", "6379")
		return err == nil
	})
}
