package lab

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestConnections: the connections that web servers hold to a database, as package
// sockets counts them at their hosts. After a restart of the database as many are
// stale as there are workers that hold one, whether it said good-bye or lost its
// power; once the web server was reloaded or restarted, none.
func TestConnections(t *testing.T) {
	t.Parallel()
	s := newStory(t, Systemd)
	counter := TestProgram(t, "kido/internal/sockets")
	for _, web := range webs {
		s.Put(web, socketsProgram, 0o755, counter)
		// With keepalives, a connection to a host that has lost its power is reset when it
		// is back, or given up before: then it is in no list, dead as it is.
		page := strings.Replace(string(s.Get(web, "/var/www/html/page.php")), "keepalives_idle=1", "keepalives=0", 1)
		if !strings.Contains(page, "keepalives=0") {
			t.Fatal("the page has no keepalives that could be switched off")
		}
		s.Put(web, "/var/www/html/page.php", 0o644, []byte(page))
	}
	s.pages = visit(t, s.Lab, webs...)
	s.everyWorker(s.pages.mark(), webs...)
	s.pages.pause()

	fresh, shut, silent := connections{held: workers}, connections{workers, workers, workers}, connections{workers, workers, 0}
	s.chapter("all is fresh", func() { s.count(fresh, webs...) })
	s.chapter("the database restarts", func() {
		s.service(database, "restart", "postgresql")
		s.Until("the database answers", s.answers)
		s.count(shut, webs...)
	})
	s.chapter("one web server is reloaded, the other restarted", func() { s.freshAgain("reload", "restart") })
	s.chapter("the database loses its power", func() {
		cut := time.Now()
		s.PowerCut(database)
		s.Until("it is off for long enough to be told from what a second may hide", func() bool { return time.Since(cut) > 2*time.Second })
		s.Boot(database)
		s.Ready(database)
		s.Until("the database answers", s.answers)
		s.count(silent, webs...)
	})
	s.chapter("the other way round", func() { s.freshAgain("restart", "reload") })
	s.pages.resume()
}

// socketsProgram is the tests of package sockets on a web server's disk.
const socketsProgram = "/usr/local/bin/sockets.test"

// connections is what a host holds to the database.
type connections struct{ held, stale, closed int }

// freshAgain does a thing to each web server: it lets go of all that it held, and what it
// holds then is fresh.
func (s *story) freshAgain(verbs ...string) {
	s.t.Helper()
	for i, web := range webs {
		before := s.workers(web)
		s.service(web, verbs[i], "apache2")
		s.Until(fmt.Sprintf("no worker of before is left at machine %d", web), func() bool {
			return !slices.ContainsFunc(s.workers(web), func(w string) bool { return slices.Contains(before, w) })
		})
	}
	s.count(connections{}, webs...)
	mark := s.pages.mark()
	s.pages.resume()
	s.everyWorker(mark, webs...)
	s.pages.pause()
	s.count(connections{held: workers}, webs...)
	for _, web := range webs {
		for _, a := range s.pages.since(mark, web) {
			if !a.fine() {
				s.t.Errorf("machine %d: after its %v a page failed: %v", web, verbs, a)
			}
		}
	}
}

// count asks hosts, as a user without rights, for their connections to the database, of
// which the database says how old it is.
func (s *story) count(want connections, hosts ...int) {
	s.t.Helper()
	for _, host := range hosts {
		asked := time.Now()
		said := s.Run(database, "su", "-", "postgres", "-c", "psql -qAtc 'select extract(epoch from now() - pg_postmaster_start_time())'")
		age, err := time.ParseDuration(strings.TrimSpace(said) + "s")
		if err != nil {
			s.t.Fatalf("the database's age: %v", err)
		}
		age += time.Since(asked)
		said = s.Run(host, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env",
			"KIDO_LAB_REMOTE="+net.JoinHostPort(s.Addr(database), "5432"), "KIDO_LAB_AGE="+age.String(),
			socketsProgram, "-test.run=TestMachine$")
		var got connections
		if _, err := fmt.Sscanf(said, "held %d, stale %d, closed %d\n", &got.held, &got.stale, &got.closed); err != nil {
			s.t.Fatalf("machine %d: %v: %s", host, err, said)
		}
		if got != want {
			s.t.Errorf("machine %d holds %+v to a database of age %v; want %+v", host, got, age, want)
		}
	}
}
