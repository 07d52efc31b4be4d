package lab

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkReaction takes the time from "the database is ready", by the database's
// own log, to "the web server is being restarted", by its init's journal, on two
// web hosts: for kido's announce hook; for the memo's script, as a unit after the
// database; and for a loop on each web host that asks systemctl is-active over ssh
// once a second. Their files are in testdata/story. All take turns at starting the same
// database on the same machines, whose clock is this machine's.
//
// Reported are the medians for the first and the last web host, what share of the
// others' time kido takes until the last, and, as active-ms, how long after the
// database was ready its unit was active: Debian's goes on testing for two seconds,
// and all three wait for it.
func BenchmarkReaction(b *testing.B) {
	s := newStory(b, Systemd)
	s.enrol("restart")
	rivals := s.rivals()
	for _, r := range rivals {
		r.off()
	}
	laps := map[string][]lap{}
	for b.Loop() {
		for _, r := range rivals {
			laps[r.name] = append(laps[r.name], s.race(r))
		}
	}
	median := func(laps []lap, of func(lap) time.Duration) float64 {
		var all []time.Duration
		for _, l := range laps {
			all = append(all, of(l))
		}
		slices.Sort(all)
		return float64(all[len(all)/2].Microseconds()) / 1000
	}
	last := func(l lap) time.Duration { return l.last }
	b.ReportMetric(0, "ns/op") // most of it is the database's
	b.ReportMetric(median(slices.Concat(slices.Collect(maps.Values(laps))...), func(l lap) time.Duration { return l.active }), "active-ms")
	for _, r := range rivals {
		b.ReportMetric(median(laps[r.name], func(l lap) time.Duration { return l.first }), r.name+"-first-ms")
		b.ReportMetric(median(laps[r.name], last), r.name+"-last-ms")
		if r.name != "kido" {
			b.ReportMetric(median(laps["kido"], last)/median(laps[r.name], last), "kido/"+r.name)
		}
	}
}

// rival is a way for web servers to be restarted after their database.
type rival struct {
	name    string
	on, off func()
	seen    func() bool // whether it knows that the database is down
}

func (s *story) rivals() []rival {
	s.t.Helper()
	s.put(database, "svr_restart", "/root/svr_restart")
	s.put(database, "svr_restart.service", "/etc/systemd/system/svr_restart.service")
	s.Run(database, "systemctl", "daemon-reload")
	s.Run(database, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/restart_key")
	key := string(s.Get(database, "/root/.ssh/restart_key.pub"))
	locked := `from="` + s.Addr(database) + `",no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty,command="systemctl restart apache2" ` + key
	for _, web := range webs {
		s.Run(web, "sh", "-c", `printf %s "$1" >>/root/.ssh/authorized_keys`, "sh", locked)
		s.put(web, "poll", "/root/poll")
		s.put(web, "poll.service", "/etc/systemd/system/poll.service")
		s.Run(web, "systemctl", "daemon-reload")
	}
	hook := func(unit string) (on, off func()) {
		return func() { s.Run(database, "systemctl", "enable", unit) },
			func() { s.Run(database, "systemctl", "disable", unit) }
	}
	onWebs := func(words ...string) func() {
		return func() {
			for _, web := range webs {
				s.Run(web, words...)
			}
		}
	}
	kido := rival{name: "kido", seen: func() bool { return true }}
	kido.on, kido.off = hook("kido-announce-database")
	memo := rival{name: "memo", seen: kido.seen}
	memo.on, memo.off = hook("svr_restart")
	poll := rival{
		name: "poll", on: onWebs("systemctl", "start", "poll"), off: onWebs("systemctl", "stop", "poll"),
		seen: func() bool {
			return !slices.ContainsFunc(webs, func(web int) bool {
				is, err := s.Exec(web, "cat", "/run/poll")
				return err != nil || strings.TrimSpace(is) != "inactive"
			})
		},
	}
	return []rival{kido, memo, poll}
}

// lap is how long after the database was ready its unit was active, and the restart
// of the first and of the last web server began.
type lap struct{ active, first, last time.Duration }

// race stops and starts the database, for one rival.
func (s *story) race(r rival) (took lap) {
	s.t.Helper()
	r.on()
	unit := "postgresql@" + s.cluster
	s.Run(database, "systemctl", "stop", unit)
	s.Until(r.name+" knows that the database is down", r.seen)
	// For how long it is down must not be in step with a loop of seconds.
	s.Run(database, "sleep", strconv.FormatFloat(rand.Float64(), 'f', 3, 64))
	before := map[int]int{}
	for _, web := range webs {
		before[web] = len(s.journal(web, "apache2", unitStopping))
	}
	s.Run(database, "systemctl", "start", unit)
	for _, web := range webs {
		s.Until("the web server is restarted by "+r.name, func() bool {
			state, _ := s.Exec(web, "systemctl", "is-active", "apache2")
			return len(s.journal(web, "apache2", unitStopping)) > before[web] && strings.TrimSpace(state) == "active"
		})
	}
	s.Until("the hooks of the database have ended", func() bool {
		return strings.TrimSpace(s.Run(database, "sh", "-c", "systemctl show -P ActiveState kido-announce-database svr_restart | grep -xv inactive || :")) == ""
	})
	r.off()
	ready := s.readySince()
	starts := s.journal(database, unit, unitStarted)
	took.active = starts[len(starts)-1].Sub(ready)
	var restarts []time.Duration
	for _, web := range webs {
		stops := s.journal(web, "apache2", unitStopping)
		if n := len(stops) - before[web]; n != 1 {
			s.t.Errorf("machine %d was restarted %d times by %s; want once", web, n, r.name)
		}
		restarts = append(restarts, stops[before[web]].Sub(ready))
	}
	took.first, took.last = slices.Min(restarts), slices.Max(restarts)
	return took
}

// readySince is when the database was ready, by its log.
func (s *story) readySince() (at time.Time) {
	s.t.Helper()
	for line := range strings.Lines(string(s.Get(database, "/var/log/postgresql/postgresql-"+s.cluster+".log"))) {
		if !strings.Contains(line, readyLine) {
			continue
		}
		const layout = "2006-01-02 15:04:05.000 MST"
		var err error
		if at, err = time.Parse(layout, line[:len(layout)]); err != nil {
			s.t.Fatal(err)
		}
	}
	return at
}

// Messages of systemd, by their ids.
const (
	unitStarted  = "39f53479d3a045ac8e11786248231fbf"
	unitStopping = "de5b426a63be47a7b6ac3eaac82e2f6f"
)

// journal is when systemd said something of a unit, each time.
func (s *story) journal(host int, unit, message string) (all []time.Time) {
	s.t.Helper()
	for line := range strings.Lines(s.Run(host, "sh", "-c", "journalctl --sync; journalctl -q -o short-unix UNIT="+unit+".service MESSAGE_ID="+message)) {
		at, _, _ := strings.Cut(line, " ")
		seconds, err := strconv.ParseFloat(at, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, time.UnixMicro(int64(seconds*1e6)))
	}
	return all
}
