package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/gate"
	"kido/internal/remote/sshdtest"
	"kido/internal/verify"
)

// patience is how long anything may take that is waited for. Only a test that
// fails waits so long.
const patience = 60 * time.Second

// until waits for a condition, and fails the test where it does not come true.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// unit is a service of a site under test.
type unit struct {
	name  string
	on    []string // hosts
	after []string // as in the site file: "db: restart"
	more  []string // further lines of the site file
	ready []string // further probes; $ROOT is the folder of a host
	plain bool     // locked to one command, without a gate
}

// layout is what a site is made of.
type layout struct {
	units    []unit
	attempts int      // default 3
	connect  string   // time-out; default 10s
	unnamed  bool     // sshd does not expose who asks
	config   []string // of sshd
	enrolled bool     // keys and policy are what kido enroll brings: see loginMain
}

// shop is a database with two web servers behind it.
func shop() layout {
	return layout{units: []unit{
		{name: "db", on: []string{"db1"}},
		{name: "web", on: []string{"web1", "web2"}, after: []string{"db: restart"}},
	}}
}

// site is a site on loopback: for every host an address, an sshd and a folder.
type site struct {
	dir   string
	hosts []*host
	units []unit
	file  string // site.yaml
	state string // journals, of kido runs that name no other
	me    string

	states []string // all folders of journals
	unseen bool     // some journals are where this process cannot read them
	ends   []verify.Fact

	contradicted bool // the test has done what no invariant outlives
}

type host struct {
	name, addr, dir string
	sshd            *sshdtest.Server
	line            string // of the key file
	policy          string // file
	failpoint       string // file; see package failpoint
	passed          string // file of the points that its gates passed
}

func (u unit) port() int {
	sum := 0
	for _, c := range u.name {
		sum = sum*31 + int(c)
	}
	return 20000 + sum%10000
}

// newSite makes a site in which nothing runs yet but the sshd.
func newSite(t testing.TB, l layout) *site {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{dir: dir, units: l.units, file: filepath.Join(dir, "site.yaml"), state: filepath.Join(dir, "journals"), me: me.Username}
	s.keepAlive(t)
	network := ownNetwork(t)
	for _, u := range l.units {
		for _, name := range u.on {
			if s.find(name) != nil {
				continue
			}
			h := &host{name: name, addr: fmt.Sprint(network, 10+len(s.hosts)), dir: filepath.Join(dir, name)}
			h.policy, h.failpoint, h.passed = filepath.Join(h.dir, "policy"), filepath.Join(h.dir, "failpoint"), filepath.Join(h.dir, "passed")
			conf := l.config
			if !l.unnamed {
				conf = append([]string{"ExposeAuthInfo yes"}, conf...)
			}
			if l.enrolled {
				conf = append(s.enrolledConfig(t, h), conf...)
			}
			h.sshd = sshdtest.Start(t, sshdtest.Options{Addr: h.addr, Config: conf})
			s.hosts = append(s.hosts, h)
		}
	}
	s.write(t, s.file, s.text(t, l))
	for _, u := range l.units {
		for _, name := range u.on {
			s.install(t, u, s.find(name))
		}
	}
	s.must(t, 0, "keys", "new")
	for _, h := range s.hosts {
		s.pin(t, h, h.sshd.HostKey)
		policy := s.must(t, 0, "policy", h.name).out
		policy = strings.ReplaceAll(policy, s.root(), h.dir)
		policy = strings.ReplaceAll(policy, "state "+gate.DefaultState+"\n", "state "+filepath.Join(h.dir, "state")+"\n")
		s.write(t, h.policy, policy)
		h.line = s.gateLine(t, h)
		h.sshd.SetKeys(h.line)
	}
	t.Cleanup(func() {
		if !t.Failed() && !s.contradicted {
			s.verify(t)
		}
	})
	return s
}

// ownNetwork finds 256 loopback addresses, "127.x.y.", that no other test, of this
// process or another, has as long as this one runs.
func ownNetwork(t testing.TB) string {
	t.Helper()
	for {
		network := fmt.Sprintf("127.%d.%d.", 128+rand.IntN(64), rand.IntN(256))
		claim, err := net.Listen("tcp", network+"1:19999")
		if err == nil {
			t.Cleanup(func() { claim.Close() })
			return network
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// gateLine is the key line that kido prints, with the policy of this host, which
// is not at its usual place, and the failpoints.
func (s *site) gateLine(t testing.TB, h *host) string {
	t.Helper()
	line := strings.TrimSpace(s.must(t, 0, "keys", "line", h.name, "--from", "127.0.0.1", "--gate", gateProgram()).out)
	command := fmt.Sprintf("KIDO_FAILPOINT=%s KIDO_FAILPOINT_LOG=%s exec %s --policy %s", h.failpoint, h.passed, gateProgram(), h.policy)
	changed := strings.Replace(line, sshdtest.Command(gateProgram()), sshdtest.Command(command), 1)
	if changed == line || !strings.HasPrefix(line, `restrict,from="127.0.0.1",`) {
		t.Fatalf("kido keys line prints %s", line)
	}
	return changed
}

// root stands for the folder of a host in the site file, where a service has
// one command for all of its hosts.
func (s *site) root() string { return filepath.Join(s.dir, "ROOT") }

func (s *site) find(name string) *host {
	for _, h := range s.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

func (s *site) host(t testing.TB, name string) *host {
	t.Helper()
	h := s.find(name)
	if h == nil {
		t.Fatalf("no host %s", name)
	}
	return h
}

// folder is where an instance, "web@web1", has its files.
func (s *site) folder(t testing.TB, instance string) string {
	t.Helper()
	service, name, _ := strings.Cut(instance, "@")
	return filepath.Join(s.host(t, name).dir, service)
}

func (s *site) write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) read(t testing.TB, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func self(t testing.TB) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// text is the site file.
func (s *site) text(t testing.TB, l layout) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if l.attempts == 0 {
		l.attempts = 3
	}
	if l.connect == "" {
		l.connect = "10s"
	}
	line("site: shop")
	line("defaults:")
	line("  user: %s", s.me)
	line("  retry: {attempts: %d, delay: 20ms, max: 200ms}", l.attempts)
	line("  timeout: {start: 30s, stop: 30s, ready: 30s, connect: %s}", l.connect)
	line("hosts:")
	for _, h := range s.hosts {
		line("  %s: %s", h.name, net.JoinHostPort(h.addr, fmt.Sprint(h.sshd.Port)))
	}
	line("services:")
	for _, u := range l.units {
		line("  %s:", u.name)
		line("    hosts: [%s]", strings.Join(u.on, ", "))
		if u.plain {
			line("    plain: {action: restart, user: %s}", s.me)
		} else {
			line("    command:")
			for _, verb := range []string{"start", "stop", "reload"} {
				line("      %s: [%q, %s, %s, %q]", verb, self(t), argService, verb, filepath.Join(s.root(), u.name))
			}
			line("    pidfile: %q", filepath.Join(s.root(), u.name, pidFile))
		}
		line("    ready:")
		for _, p := range append([]string{fmt.Sprintf("{tcp: %q, interval: 20ms}", fmt.Sprintf(":%d", u.port()))}, u.ready...) {
			line("      - %s", strings.ReplaceAll(p, "$ROOT", s.root()))
		}
		if len(u.after) > 0 {
			line("    after: {%s}", strings.Join(u.after, ", "))
		}
		for _, m := range u.more {
			line("    %s", m)
		}
	}
	return b.String()
}

// install makes an instance's folder.
func (s *site) install(t testing.TB, u unit, h *host) {
	t.Helper()
	dir := filepath.Join(h.dir, u.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := config{
		Instance: u.name + "@" + h.name, Listen: net.JoinHostPort(h.addr, fmt.Sprint(u.port())),
		Site: s.dir, Failpoint: h.failpoint, Upstreams: map[string]string{},
	}
	for _, a := range u.after {
		name, _, _ := strings.Cut(a, ":")
		i := slices.IndexFunc(s.units, func(v unit) bool { return v.name == name })
		for _, on := range s.units[i].on {
			c.Upstreams[name+"@"+on] = net.JoinHostPort(s.host(t, on).addr, fmt.Sprint(s.units[i].port()))
		}
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, filepath.Join(dir, configFile), string(text))
}

// pin carries a host's public key to the site.
func (s *site) pin(t testing.TB, h *host, key *sshdtest.Key) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ssh_host_ed25519_key.pub")
	s.write(t, file, key.Public()+"\n")
	s.must(t, 0, "keys", "pin", h.name, file)
}

// keepAlive makes what holds the site's services, and what sees them off.
func (s *site) keepAlive(t testing.TB) {
	t.Helper()
	life := filepath.Join(s.dir, lifeFile)
	if err := syscall.Mkfifo(life, 0o600); err != nil {
		t.Fatal(err)
	}
	s.write(t, filepath.Join(s.dir, historyFile), "")
	s.write(t, filepath.Join(s.dir, lockFile), "")
	hold, err := os.OpenFile(life, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hold.Close()
		for _, h := range s.hosts {
			h.sshd.Stop() // so that no gate starts another
		}
		lock, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		until(t, "the end of all services", func() bool {
			return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
		})
	})
}

// ---- kido -----------------------------------------------------------------------

// result is what a call of kido came to.
type result struct {
	args []string
	code int
	out  string
	err  string
}

func (r result) String() string {
	return fmt.Sprintf("kido %s: exit status %d\n%s%s", strings.Join(r.args, " "), r.code, r.out, r.err)
}

// process is a kido under way.
type process struct {
	cmd      *exec.Cmd
	args     []string
	out, err output
}

// output is read while it is written.
type output struct {
	mu  chan struct{}
	buf *bytes.Buffer
}

func newOutput() output {
	o := output{make(chan struct{}, 1), &bytes.Buffer{}}
	return o
}

func (o output) Write(p []byte) (int, error) {
	o.mu <- struct{}{}
	defer func() { <-o.mu }()
	return o.buf.Write(p)
}

func (o output) String() string {
	o.mu <- struct{}{}
	defer func() { <-o.mu }()
	return o.buf.String()
}

// command is kido with the site's own file and state; args may name others.
func (s *site) command(ctx context.Context, args ...string) *exec.Cmd {
	full := append([]string{"--site", s.file, "--here", "none"}, args...)
	state := s.state
	if n := slices.Index(args, "--state"); n >= 0 {
		state = args[n+1]
	} else {
		full = append([]string{"--state", s.state}, full...)
	}
	if !slices.Contains(s.states, state) {
		s.states = append(s.states, state)
	}
	cmd := exec.CommandContext(ctx, kidoProgram(), full...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C.UTF-8"}
	cmd.Dir = s.dir
	return cmd
}

// begin starts kido and does not wait for its end. It is killed with the test.
func (s *site) begin(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p := &process{cmd: s.command(ctx, args...), args: args, out: newOutput(), err: newOutput()}
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Wait() // killed
		}
	})
	return p
}

// end waits for it. A kido that was killed has the exit status -1.
func (p *process) end(t testing.TB) result {
	t.Helper()
	err := p.cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return result{p.args, p.cmd.ProcessState.ExitCode(), p.out.String(), p.err.String()}
}

// kido runs kido to its end.
func (s *site) kido(t testing.TB, args ...string) result {
	t.Helper()
	return s.begin(t, nil, args...).end(t)
}

// must runs kido, which is to end with that status.
func (s *site) must(t testing.TB, code int, args ...string) result {
	t.Helper()
	r := s.kido(t, args...)
	r.want(t, code)
	return r
}

func (r result) want(t testing.TB, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("want exit status %d: %s", code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.out+r.err, w) {
			t.Errorf("it does not say %q: %s", w, r)
		}
	}
}

func (r result) wantNot(t testing.TB, words ...string) {
	t.Helper()
	for _, w := range words {
		if strings.Contains(r.out+r.err, w) {
			t.Errorf("it says %q: %s", w, r)
		}
	}
}

// status is what `kido status -o json` says.
type status struct {
	result
	Instances []instanceStatus
	Runs      []struct {
		Run, Outcome string
		Live         bool
	}
}

type instanceStatus struct {
	Instance, State, Why    string
	Ready, Fresh, OnPurpose bool
	Owes                    []string
}

func (s *site) status(t testing.TB, args ...string) status {
	t.Helper()
	st := status{result: s.kido(t, append([]string{"status", "-o", "json"}, args...)...)}
	if err := json.Unmarshal([]byte(st.out), &st); err != nil {
		t.Fatalf("%v: %s", err, st.result)
	}
	return st
}

func (st status) of(t testing.TB, instance string) instanceStatus {
	t.Helper()
	for _, i := range st.Instances {
		if i.Instance == instance {
			return i
		}
	}
	t.Fatalf("nothing of %s: %s", instance, st.result)
	return instanceStatus{}
}

// allFresh checks what holds once all is done: every instance is up and fresh, and
// every record at the hosts is whole.
func (s *site) allFresh(t testing.TB) {
	t.Helper()
	st := s.status(t)
	st.want(t, 0)
	for _, i := range st.Instances {
		if !i.Ready || !i.Fresh {
			t.Errorf("%s is not ready and fresh: %s", i.Instance, st.result)
		}
	}
	s.records(t)
	s.end(verify.Fact{What: verify.Rested})
}

// end adds to what is known of the end.
func (s *site) end(f verify.Fact) {
	f.At, f.File, f.Line = time.Now(), "the test", len(s.ends)+1
	s.ends = append(s.ends, f)
}

// records checks the state files, and keeps what is in them.
func (s *site) records(t testing.TB) {
	t.Helper()
	life := map[string]string{}
	for _, e := range s.history(t) {
		if e.What == started {
			life[e.Instance] = e.Own
		}
	}
	for _, u := range s.units {
		for _, on := range u.on {
			if u.plain {
				continue
			}
			text, err := os.ReadFile(s.record(t, u.name+"@"+on))
			if err != nil {
				t.Fatal(err)
			}
			name := u.name + "@" + on
			r, err := gate.ParseRecord(text, name)
			if err != nil {
				t.Errorf("the record of %s: %v\n%s", name, err, text)
				continue
			}
			basis := r.Basis
			if in := r.Intent; in != nil && in.Own != life[name] {
				basis = in.New // it has happened, and the next request writes that down
			}
			s.end(verify.Fact{What: verify.Recorded, Instance: name, Basis: basis, Wanted: r.Wanted})
		}
	}
}

// record is the state file of an instance.
func (s *site) record(t testing.TB, instance string) string {
	t.Helper()
	service, name, _ := strings.Cut(instance, "@")
	return filepath.Join(s.host(t, name).dir, "state", service+".state")
}

// ---- services -------------------------------------------------------------------

// history is what the services noted, in order.
type history []entry

func (s *site) history(t testing.TB) history {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, historyFile))
	if err != nil {
		t.Fatal(err)
	}
	var all history
	for line := range strings.Lines(string(text)) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// since is the history from its nth entry on.
func (s *site) since(t testing.TB, n int) history {
	t.Helper()
	return s.history(t)[n:]
}

func (h history) String() string {
	var b strings.Builder
	for _, e := range h {
		fmt.Fprintf(&b, "%-8s %s %s %v%s\n", e.What, e.Instance, e.Own, e.Saw, e.Why)
	}
	return b.String()
}

// of are the entries of one kind, of one instance or, for "web", of a service.
func (h history) of(name, what string) history {
	var all history
	for _, e := range h {
		if service, _, _ := strings.Cut(e.Instance, "@"); e.What == what && (e.Instance == name || service == name) {
			all = append(all, e)
		}
	}
	return all
}

// at is the place of the only entry of a kind.
func (h history) at(t testing.TB, instance, what string) int {
	t.Helper()
	if n := len(h.of(instance, what)); n != 1 {
		t.Fatalf("%s has %d entries %q, want 1:\n%s", instance, n, what, h)
	}
	return slices.IndexFunc(h, func(e entry) bool { return e.Instance == instance && e.What == what })
}

// counts compares how often each of the named was started, and that no other was.
func (h history) counts(t testing.TB, want map[string]int) {
	t.Helper()
	got := map[string]int{}
	for _, e := range h {
		if e.What == started {
			got[e.Instance]++
		}
	}
	for _, names := range []map[string]int{got, want} {
		for name := range names {
			if got[name] != want[name] {
				t.Fatalf("%s was started %d times, want %d:\n%s", name, got[name], want[name], h)
			}
		}
	}
}

// against checks that every start of a dependent found its upstream ready, and
// in the incarnation that the upstream began last before it.
func (h history) against(t testing.TB, dependent, upstream string) {
	t.Helper()
	ready := "" // not noted in this part of the history
	for _, e := range h {
		switch {
		case e.Instance == upstream && e.What == readied:
			ready = e.Own
		case e.Instance == dependent && e.What == started && (e.Saw[upstream] == "-" || ready != "" && e.Saw[upstream] != ready):
			t.Errorf("%s was started against %s of %s, which was %s:\n%s", dependent, e.Saw[upstream], upstream, ready, h)
		}
	}
}

// up brings the whole site up and returns the length of its history then.
func (s *site) up(t testing.TB) int {
	t.Helper()
	s.must(t, 0, "up")
	s.allFresh(t)
	return len(s.history(t))
}

// byHand does what an administrator does at a host, or its init.
func (s *site) byHand(t testing.TB, instance, verb string) {
	t.Helper()
	cmd := exec.Command(self(t), argService, verb, s.folder(t, instance))
	cmd.Env = append(os.Environ(), bySomeone+"=yes")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", verb, instance, err, out)
	}
	if verb == "stop" {
		return
	}
	dir := s.folder(t, instance)
	if _, err := os.Stat(filepath.Join(dir, holdFile)); err != nil {
		until(t, instance+" answers", func() bool { _, err := talk(s.address(t, instance), "who"); return err == nil })
	}
}

func (s *site) address(t testing.TB, instance string) string {
	t.Helper()
	var c config
	text, err := os.ReadFile(filepath.Join(s.folder(t, instance), configFile))
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Listen
}

// hold is a place at which a service waits.
type hold struct {
	path string
	w    *os.File
}

// holdAt makes an instance wait at its holdFile or startFile.
func (s *site) holdAt(t testing.TB, instance, file string) *hold {
	t.Helper()
	h := &hold{path: filepath.Join(s.folder(t, instance), file)}
	if err := syscall.Mkfifo(h.path, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if h.w != nil {
			h.w.Close()
		}
	})
	return h
}

// reached waits until the service is there.
func (h *hold) reached(t testing.TB) {
	t.Helper()
	until(t, "a service is at "+h.path, func() bool {
		w, err := os.OpenFile(h.path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			h.w = w
		}
		return err == nil
	})
}

// release lets it go, and others pass.
func (h *hold) release(t testing.TB) {
	t.Helper()
	if h.w == nil {
		h.reached(t)
	}
	if err := os.Remove(h.path); err != nil {
		t.Fatal(err)
	}
	if err := h.w.Close(); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	h.w = nil
}
