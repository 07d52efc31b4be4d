package lab

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	} {
		t.Run(strings.ReplaceAll(part.name, " ", "_"), func(t *testing.T) { part.tell(s.in(t)) })
	}
}

// external is the machine that has a database and no kido.
const external = 4

// life is the story's site, whose database's unit is none that follows it.
type life struct {
	*story
	secrets map[string]string // name → password
	said    *transcript
}

// transcript is all that kido has said.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

func newLife(t *testing.T, kind Kind) *life {
	t.Helper()
	s := &life{story: newStory(t, kind, kind), secrets: map[string]string{}, said: &transcript{}}
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
		s.Run(host, "sed", "-i", "1i host all kido samenet scram-sha-256", clusterConfig+"/pg_hba.conf")
		s.Until("the database answers", func() bool {
			_, err := s.Exec(host, "pg_isready", "-q")
			return err == nil
		})
		s.psql(host, "create user kido password '"+s.secrets[secret]+"'; select pg_reload_conf()")
	}
	s.testdata(webs[0], "front.service", "/etc/systemd/system/front.service")
	s.Run(webs[0], "systemctl", "daemon-reload")
	s.Run(webs[0], "systemctl", "start", "front")
	s.operator = newOperator(t, s.Lab, "")
	s.pages = visit(t, s.Lab, webs...)
	s.everyWorker(s.pages.mark(), webs...)
	s.pages.pause()
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
func (s *life) psql(host int, statements string) string {
	s.t.Helper()
	cmd := s.Command(host, "su", "-", "postgres", "-c", "psql -qAt -v ON_ERROR_STOP=1")
	cmd.Stdin = strings.NewReader(statements)
	out, err := output(cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// dba does something to the database as its administrator does, whom init does not
// hear.
func (s *life) dba(words string) {
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
	s.operator.write("site.yaml", 0o644, []byte(site))
	s.note("check", s.operator.must(0, "check"))
	for range 2 { // there is nobody to whom secrets could belong before
		s.note("enroll", s.operator.enroll())
		for _, host := range []int{database, webs[0], webs[1]} {
			for name, secret := range s.secrets {
				s.secret(host, name, secret)
			}
		}
	}
	s.pages.resume()
	s.settles()
	s.everyWorker(s.pages.mark(), webs...)
	s.pages.pause()
}

func (s *life) secret(host int, name, secret string) {
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

// kido runs kido as the operator, who may see any of some exit statuses.
func (s *life) kido(status int, args ...string) string {
	s.t.Helper()
	return s.note(strings.Join(args, " "), s.operator.must(status, args...))
}

// kidoAt runs kido at a host, as its administrator.
func (s *life) kidoAt(host, status int, args ...string) string {
	s.t.Helper()
	here := map[int]string{1: "db1", 2: "web1", 3: "web2"}[host]
	out, err := s.Command(host, slices.Concat([]string{"kido", "--site", "/etc/kido/site.yaml", "--here", here}, args)...).CombinedOutput()
	s.note(strings.Join(args, " ")+" # at "+here, string(out))
	if exitOf(err) != status {
		s.t.Errorf("kido %s at %s: %v, want exit status %d\n%s", strings.Join(args, " "), here, err, status, out)
	}
	return string(out)
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
	for _, host := range []int{database, webs[0]} {
		s.Until("no run is under way", func() bool {
			out, err := s.Exec(host, "kido", "--site", "/etc/kido/site.yaml", "--here", map[int]string{1: "db1", 2: "web1"}[host], "-o", "json", "status")
			var status struct{ Runs []struct{ Live bool } }
			if uerr := json.Unmarshal([]byte(out), &status); uerr != nil {
				s.t.Fatalf("kido status at machine %d: %v: %v", host, err, uerr)
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
	s.pages.resume()
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
	over := s.replaced(before.workers, webs...)
	s.pages.pause()
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
	_, rest, _ := strings.Cut(string(s.Get(web, "/var/lib/kido-gate/web")), "database@db1 ")
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
	s.cascade(func() {
		s.dba("restart -m fast")
		_, _ = s.operator.kido("status").CombinedOutput()
	}, "start apache2 2, start apache2 3", "start front 2")
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

var _ = exec.Command
