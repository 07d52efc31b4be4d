package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/journal"
	"kido/internal/report"
	"kido/internal/run"
	"kido/internal/verify"
)

// witnessed is a line of the history that package main of lab/witness keeps.
type witnessed struct {
	What string // start, ready, reload, stop
	Life string
	Boot string
	At   time.Time
	Saw  map[string]string // upstream → its life; "-": none that was ready
}

// trio is a site of three machines, each with a witness as a service of its init,
// enabled at boot: db on machine 1, app on machine 2, after db, and web on machine
// 3, after db and app. Files of testdata/witness say the rest.
type trio struct {
	*Lab
	t    *testing.T
	op   *operator
	init string
	mark [4]int // how long each machine's history was when the present part of the test began

	enrolled time.Time      // from when on kido was there
	calm     *[]verify.Fact // when all had settled
}

// The machines.
const (
	dbHost  = 1
	appHost = 2
	webHost = 3
)

var (
	trioHosts     = []int{dbHost, appHost, webHost}
	upstreamHosts = []int{dbHost, appHost} // those that announce
)

// serviceOn is the service of each machine, upstreamsOf those of its upstreams.
var (
	serviceOn   = map[int]string{dbHost: "db", appHost: "app", webHost: "web"}
	upstreamsOf = map[int][]int{appHost: {dbHost}, webHost: {dbHost, appHost}}
)

func newTrio(t *testing.T, kind Kind) *trio {
	t.Helper()
	s := &trio{Lab: Make(t, kind, kind, kind), t: t, init: kind.Init(), calm: &[]verify.Fact{}}
	program := Program(t, "kido/lab/witness")
	for _, host := range trioHosts {
		name := serviceOn[host]
		args := fmt.Sprintf("-name %s@h%d -listen :%d -history /srv/history -boot 1s -pipe /srv/boot.pipe", name, host, 7000+host)
		for _, u := range upstreamsOf[host] {
			args += fmt.Sprintf(" -upstream %s=%s:%d", serviceOn[u], s.Addr(u), 7000+u)
		}
		service := strings.NewReplacer("NAME", name, "ARGS", args).Replace(s.testdata("witness." + map[string]string{"systemd": "service"}[s.init] + map[bool]string{true: s.init}[s.init != "systemd"]))
		file, enable := "/etc/init.d/"+name, []string{"update-rc.d", name, "defaults"}
		switch s.init {
		case "systemd":
			file, enable = "/etc/systemd/system/"+name+".service", []string{"systemctl", "-q", "enable", name}
		case "openrc":
			enable = []string{"rc-update", "add", name, "default"}
		}
		s.Put(host, file, 0o755, []byte(service))
		s.Put(host, "/srv/witness", 0o755, program)
		s.Put(host, "/srv/pause", 0o755, []byte(s.testdata("pause")))
		s.Offline(host, enable...)
	}
	s.Boot()
	s.Ready()
	s.op = enrol(t, s.Lab, strings.ReplaceAll(s.testdata("site.yaml"), "INIT", s.init))
	s.enrolled = time.Now()
	s.settle()
	t.Cleanup(func() {
		if !t.Failed() {
			s.verify()
		}
	})
	return s
}

func (s *trio) testdata(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "witness", name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// part is a part of a test. It begins with all machines on and everything fresh,
// and must end so.
type part struct {
	name       string
	do         func(*trio)
	want       map[int]int // how often the service of each machine is to be started
	everywhere bool        // chosen for every kind of machine
}

// each says how often each service is to be started.
func each(db, app, web int) map[int]int {
	return map[int]int{dbHost: db, appHost: app, webHost: web}
}

// chosen are those parts that are played everywhere.
func chosen(parts []part) []part {
	return slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return !p.everywhere })
}

// play plays parts one after the other. Where one fails, what comes after it would
// fail only from that.
func (s *trio) play(parts ...part) {
	s.t.Helper()
	for _, p := range parts {
		ok := s.t.Run(p.name, func(t *testing.T) {
			l, op := *s.Lab, *s.op
			l.t, op.t, op.lab = t, t, &l
			now := &trio{Lab: &l, t: t, op: &op, init: s.init, enrolled: s.enrolled, calm: s.calm}
			for _, host := range trioHosts {
				now.mark[host] = len(now.history(host))
			}
			p.do(now)
			now.ends(p.want)
		})
		if !ok {
			s.t.FailNow()
		}
	}
}

// history is what a machine's witness has written so far.
func (s *trio) history(host int) []witnessed {
	s.t.Helper()
	return s.entries(s.Get(host, "/srv/history"))
}

func (s *trio) entries(text []byte) (all []witnessed) {
	s.t.Helper()
	for line := range strings.Lines(string(text)) {
		var e witnessed
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			s.t.Fatalf("line %q of a history: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// since is the history of a machine since the present part of the test began.
func (s *trio) since(host int) []witnessed { s.t.Helper(); return s.history(host)[s.mark[host]:] }

// times counts entries of one kind.
func times(history []witnessed, what string) (n int) {
	for _, e := range history {
		if e.What == what {
			n++
		}
	}
	return n
}

// snapshot is what can be seen of a machine that is on.
type snapshot struct {
	boot    string
	history []witnessed
	run     []run.Event // of its last run of kido
}

// look looks at a machine; ok is false where it is not far enough up.
func (s *trio) look(host int) (v snapshot, ok bool) {
	s.t.Helper()
	out, err := s.Exec(host, "sh", "-c", `
		cat /proc/sys/kernel/random/boot_id && cat /srv/history && echo -- || exit
		cd /var/lib/kido/runs 2>/dev/null || exit 0
		last=$(ls | tail -n 1)
		[ -z "$last" ] || cat "$last"`)
	head, tail, cut := strings.Cut(out, "\n--\n")
	boot, lines, _ := strings.Cut(head, "\n")
	if err != nil || !cut {
		return v, false
	}
	v.boot, v.history = boot, s.entries([]byte(lines))
	file := s.op.path("journal")
	s.op.write("journal", 0o600, []byte(tail))
	records, _, err := journal.Read(file)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range records {
		e, err := run.Decode(r)
		if err != nil {
			s.t.Fatal(err)
		}
		v.run = append(v.run, e)
	}
	return v, true
}

// life is the life of the witness that runs, "" where there is none that is ready
// in the present boot.
func (v snapshot) life() string {
	life := ""
	for _, e := range v.history {
		switch {
		case e.What == "ready" && e.Boot == v.boot:
			life = e.Life
		case e.What == "start" || e.What == "stop":
			life = ""
		}
	}
	return life
}

// last is the last witnessed that is a start, or one of what.
func (v snapshot) last(what ...string) (last witnessed) {
	for _, e := range v.history {
		if slices.Contains(what, e.What) {
			last = e
		}
	}
	return last
}

// announced reports whether the machine's last run of kido began after the
// present life of its service did, and came to a good end.
func (v snapshot) announced() bool {
	n := len(v.run)
	return n > 0 && v.run[0].Time.After(v.last("start").At) && v.run[n-1].End != nil && v.run[n-1].End.Outcome == run.OutcomeDone
}

// step reports whether the machine's last run of kido has come to a phase with an
// instance.
func (v snapshot) step(instance string, phase run.Phase, attempt int) bool {
	for _, e := range v.run {
		if e.Step != nil && e.Step.Instance == instance && e.Step.Phase == phase && e.Step.Attempt >= attempt {
			return true
		}
	}
	return false
}

// status is what kido says of the site, asked by the operator.
func (s *trio) status() report.Status {
	s.t.Helper()
	out, err := output(s.op.kido("status", "-o", "json"))
	var st report.Status
	if jerr := json.Unmarshal([]byte(out), &st); jerr != nil {
		s.t.Fatalf("kido status: %v, %v: %s", err, jerr, out)
	}
	return st
}

// settle waits until nothing is left to be done: every service is ready in the
// present boot of its machine, both announcements of the present lives have come
// to a good end, and kido finds everything fresh. Nobody does anything after that.
func (s *trio) settle() (seen map[int]snapshot) {
	s.t.Helper()
	s.Until("every service is ready and announced, and status says that all is fresh", func() bool {
		seen = map[int]snapshot{}
		for _, host := range trioHosts {
			v, ok := s.look(host)
			if !ok || v.life() == "" || host != webHost && !v.announced() {
				return false
			}
			seen[host] = v
		}
		for _, i := range s.status().Instances {
			if !i.Ready || !i.Fresh {
				return false
			}
		}
		return true
	})
	*s.calm = append(*s.calm, verify.Fact{At: time.Now(), What: verify.Rested, File: "the test", Line: len(*s.calm) + 1})
	return seen
}

// ends waits until all has settled, and holds the end against what must be: every
// service has been started as often as want says since this part of the test
// began (by its init's own journal, too), the last start saw the present life of
// each upstream, ready, and no two of one boot saw the same ones.
func (s *trio) ends(want map[int]int) {
	s.t.Helper()
	seen := s.settle()
	for _, host := range trioHosts {
		name, v := serviceOn[host], seen[host]
		history := v.history[s.mark[host]:]
		if got, counted := want[host]; counted && times(history, "start") != got {
			s.t.Errorf("%s was started %d times, want %d", name, times(history, "start"), got)
		}
		saw := v.last("start", "reload").Saw
		for _, u := range upstreamsOf[host] {
			if life := seen[u].life(); saw[serviceOn[u]] != life {
				s.t.Errorf("%s was started when %s lived as %q; now it lives as %q", name, serviceOn[u], saw[serviceOn[u]], life)
			}
		}
		met := map[string]bool{}
		for _, e := range history {
			if key := fmt.Sprint(e.Boot, e.Saw); e.What == "start" && len(upstreamsOf[host]) > 0 {
				if met[key] && !slices.Contains(slices.Collect(maps.Values(e.Saw)), "-") {
					s.t.Errorf("%s was started twice in one boot against the same lives, %v", name, e.Saw)
				}
				met[key] = true
			}
		}
		s.holdAgainstInit(host, v)
	}
	if s.t.Failed() {
		s.t.Log(s.story())
	}
}

// verify holds all that the witnesses have written against the invariants, and has
// kido verify do so with the journals of all runners. The clock is one.
func (s *trio) verify() {
	s.t.Helper()
	var site verify.Site
	histories := [][]verify.Fact{*s.calm}
	what := map[string]verify.What{"start": verify.Began, "ready": verify.Ready, "reload": verify.Reloaded, "stop": verify.Ended}
	for _, host := range trioHosts {
		instance := func(host int) string { return fmt.Sprintf("%s@h%d", serviceOn[host], host) }
		var facts []verify.Fact
		for n, e := range s.history(host) {
			f := verify.Fact{
				At: e.At, What: what[e.What], Instance: instance(host), Token: e.Life,
				File: fmt.Sprintf("h%d:/srv/history", host), Line: n + 1,
			}
			if e.What == "start" {
				f.Boot = e.Boot
				if e.At.Before(s.enrolled) {
					f.By = verify.BySomeone // init, with nobody to hold it
				}
			}
			for _, u := range upstreamsOf[host] {
				if life, ok := e.Saw[serviceOn[u]]; ok {
					f.Saw = f.Saw.With(instance(u), life)
				}
			}
			facts = append(facts, f)
		}
		histories = append(histories, facts)
		for _, u := range upstreamsOf[host] {
			site.Edges = append(site.Edges, verify.Edge{Dependent: instance(host), Upstream: instance(u), Hard: true})
		}
	}
	facts := verify.Merge(histories...)
	found := verify.Check(site, facts, verify.Options{})
	for _, v := range found {
		s.t.Errorf("the witnesses: %s", v)
	}
	if len(found) > 0 {
		for _, f := range facts {
			s.t.Log(f)
		}
	}

	folders, err := filepath.Glob(s.op.path("state/runs/*.journal")) // the operator may have run nothing
	if err != nil {
		s.t.Fatal(err)
	}
	for _, host := range upstreamHosts {
		folders = append(folders, s.runs(host))
	}
	s.t.Log(s.op.must(0, append([]string{"verify"}, folders...)...))
}

// runs is a copy of the journals that a machine's runs of kido have written.
func (s *trio) runs(host int) (folder string) {
	s.t.Helper()
	folder = fmt.Sprintf("runs%d", host)
	if err := os.MkdirAll(s.op.path(folder), 0o700); err != nil {
		s.t.Fatal(err)
	}
	all := s.Run(host, "sh", "-c", `cd /var/lib/kido/runs && for f in *.journal; do printf '\n== %s\n' "$f"; cat "$f"; done`)
	for _, file := range strings.Split(all, "\n== ")[1:] {
		name, text, _ := strings.Cut(file, "\n")
		s.op.write(filepath.Join(folder, name), 0o600, []byte(text))
	}
	return s.op.path(folder)
}

// holdAgainstInit compares the starts of a machine's present boot with those that
// systemd's journal has. The other inits keep none.
func (s *trio) holdAgainstInit(host int, v snapshot) {
	s.t.Helper()
	if s.init != "systemd" {
		return
	}
	const started = "MESSAGE_ID=39f53479d3a045ac8e11786248231fbf"
	s.Run(host, "journalctl", "--sync")
	out := s.Run(host, "journalctl", "-q", "-b", "-u", serviceOn[host], "-o", "cat", started)
	inBoot := slices.DeleteFunc(slices.Clone(v.history), func(e witnessed) bool { return e.Boot != v.boot })
	if got, want := strings.Count(out, "\n"), times(inBoot, "start"); got != want {
		s.t.Errorf("by systemd's journal %s was started %d times in this boot, by its own history %d times:\n%s", serviceOn[host], got, want, out)
	}
}

// story is what happened in this part of the test, in order.
func (s *trio) story() string {
	s.t.Helper()
	type line struct {
		witnessed
		host int
	}
	var lines []line
	for _, host := range trioHosts {
		for _, e := range s.since(host) {
			lines = append(lines, line{e, host})
		}
	}
	slices.SortFunc(lines, func(x, y line) int { return x.At.Compare(y.At) })
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%s %-3s %-6s %s boot %.8s saw %v\n", l.At.Format("15:04:05.000"), serviceOn[l.host], l.What, l.Life, l.Boot, l.Saw)
	}
	return b.String()
}

// blackout cuts the power of all machines.
func (s *trio) blackout() {
	s.t.Helper()
	for _, host := range trioHosts {
		if s.On(host) {
			s.PowerCut(host)
		}
	}
}

// waitReady waits until the service of each machine is ready in the present boot.
func (s *trio) waitReady(hosts ...int) {
	s.t.Helper()
	for _, host := range hosts {
		s.Until(serviceOn[host]+" is ready", func() bool {
			v, ok := s.look(host)
			return ok && v.life() != ""
		})
	}
}

// waitHeld waits until the start of a machine's service is held.
func (s *trio) waitHeld(host int) {
	s.t.Helper()
	s.Until("the start of "+serviceOn[host]+" is held", func() bool { return s.held(host) })
}

func (s *trio) held(host int) bool {
	s.t.Helper()
	_, err := s.Exec(host, "sh", "-c", `[ -e "$1" ] && ! flock -n -s "$1" true`, "sh", "/var/lib/kido-gate/"+serviceOn[host]+".wait")
	return err == nil
}

// waitTried waits until a machine's announcement has failed to reach an instance
// so many times.
func (s *trio) waitTried(host, dependent, attempts int) {
	s.t.Helper()
	instance := fmt.Sprintf("%s@h%d", serviceOn[dependent], dependent)
	s.Until(fmt.Sprintf("the announcement of %s has tried %s %d times", serviceOn[host], instance, attempts), func() bool {
		v, ok := s.look(host)
		return ok && v.step(instance, run.PhaseRetry, attempts)
	})
}

// pause makes the start of a machine's service stop at a place, be the machine on
// or off: before the witness runs, after it was started, or while it boots.
func (s *trio) pause(host int, place string) {
	s.t.Helper()
	s.within(host, "mkfifo", "/srv/"+place+".pipe")
}

// paused waits until a start has come to the place.
func (s *trio) paused(host int, place string) {
	s.t.Helper()
	s.Until(fmt.Sprintf("the start of %s has stopped %s it", serviceOn[host], place), func() bool {
		_, err := s.Exec(host, "test", "-e", "/srv/"+place+".paused")
		return err == nil
	})
}

// resume lets a start go on that has stopped at the place.
func (s *trio) resume(host int, place string) {
	s.t.Helper()
	s.Run(host, "timeout", "60", "sh", "-c", `exec 3>"$1" && rm "$1" && echo >&3`, "sh", "/srv/"+place+".pipe")
}

// unpause takes the place away again from a machine that is off.
func (s *trio) unpause(host int, place string) {
	s.t.Helper()
	s.within(host, "rm", "-f", "/srv/"+place+".pipe", "/srv/"+place+".paused")
}

func (s *trio) within(host int, argv ...string) {
	s.t.Helper()
	if s.On(host) {
		s.Run(host, argv...)
	} else {
		s.Offline(host, argv...)
	}
}

// restart has a machine's init restart its service, past kido.
func (s *trio) restart(host int) {
	s.t.Helper()
	argv := map[string][]string{
		"systemd": {"systemctl", "restart"}, "sysv": {"service"}, "openrc": {"rc-service"},
	}[s.init]
	argv = append(argv, serviceOn[host])
	if s.init != "systemd" {
		argv = append(argv, "restart")
	}
	s.Run(host, argv...)
}
