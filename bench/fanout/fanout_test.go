// Package fanout measures, in one run, what it costs to reach many targets and
// one target with kido's transport and with what a user would pick instead:
//
//	go test -run '^$' -bench . -benchtime 1x ./bench/fanout
//
// All clients speak to the same real sshd on loopback, with the same forced
// command; sshd listens at as many ports as there are targets. Absolute times
// are the machine's and mostly sshd's own work: read the ratios. What is not
// installed is left out and named. Flags go last: … ./bench/fanout -rounds 5.
package fanout

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"kido/internal/remote"
	"kido/internal/remote/sshdtest"
	"kido/internal/site"
	"kido/internal/wire"
)

var (
	targets = flag.Int("targets", 100, "targets of the fan-out")
	rounds  = flag.Int("rounds", 3, "rounds, interleaved; the median counts")
)

// clientArg makes this binary kido's side of the comparison, as a process of
// its own like the others.
const clientArg = "fanout-client"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == clientArg {
		if err := client(os.Args[2], os.Args[3], os.Args[4:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// client sends one request to every "name=address:port" at once.
func client(identity, knownHosts string, hosts []string) error {
	pins, err := remote.LoadPins(knownHosts)
	if err != nil {
		return err
	}
	c, err := remote.New(remote.Config{Identity: identity, HostKeys: pins})
	if err != nil {
		return err
	}
	defer c.Close()
	failed := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { failed[i] = call(c, h) })
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func call(c *remote.Client, target string) error {
	name, address, _ := strings.Cut(target, "=")
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	reply, err := c.Call(context.Background(), &site.Host{Name: name, Address: host, Port: number, User: os.Getenv("KIDO_BENCH_USER")},
		wire.Request{Verb: wire.VerbStatus, Service: "web"}, time.Minute)
	if err == nil && reply.Code != wire.CodeDone {
		err = fmt.Errorf("%s: got %q", target, reply.Code)
	}
	return err
}

// field is a set of targets, as each of the clients wants it.
type field struct {
	dir   string
	key   *sshdtest.Key
	names []string // ssh's host names
	kido  []string // kido's targets
	conf  string   // ssh_config
	known string   // known_hosts
}

// newField runs sshd with n targets. One sshd listens at 16 addresses at most.
func newField(b *testing.B, n int) *field {
	b.Helper()
	f := &field{dir: b.TempDir(), key: sshdtest.NewKey(b)}
	f.conf, f.known = filepath.Join(f.dir, "ssh_config"), filepath.Join(f.dir, "known_hosts")
	line := f.key.Line("restrict," + sshdtest.Command(`printf 'kido/1 reply done\nend\n'`))
	var conf, known strings.Builder
	for len(f.names) < n {
		s := sshdtest.Start(b, sshdtest.Options{
			Keys: []string{line}, Ports: min(16, n-len(f.names)),
			Config: []string{"MaxStartups 1000"}, // the clients' limits are compared elsewhere
		})
		b.Setenv("KIDO_BENCH_USER", s.User)
		known.WriteString(s.KnownHosts())
		for _, port := range s.Ports {
			name := fmt.Sprintf("t%03d", len(f.names))
			f.names = append(f.names, name)
			f.kido = append(f.kido, fmt.Sprintf("%s=%s", name, net.JoinHostPort(s.Addr, strconv.Itoa(port))))
			fmt.Fprintf(&conf, "Host %s\n HostName %s\n Port %d\n User %s\n", name, s.Addr, port, s.User)
		}
	}
	fmt.Fprintf(&conf, "Host *\n IdentityFile %s\n IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile %s\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n BatchMode yes\n LogLevel ERROR\n", f.key.Path, f.known)
	for path, text := range map[string]string{
		f.conf: conf.String(), f.known: known.String(),
		filepath.Join(f.dir, "ansible.cfg"): "",
		filepath.Join(f.dir, "hosts"):       strings.Join(f.names, "\n") + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return f
}

// method is one way to reach all targets of a field.
type method struct {
	name string
	tool string // that must be installed; "" for none
	once bool   // too slow for more than one round
	argv []string
	env  []string
}

func (f *field) methods(b *testing.B) []method {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	hosts := filepath.Join(f.dir, "hosts")
	return []method{
		{name: "kido", argv: append([]string{self, clientArg, f.key.Path, f.known}, f.kido...)},
		{name: "xargs -P32 ssh, curve25519", tool: "ssh", argv: []string{
			"xargs", "-a", hosts, "-P32", "-I{}", "ssh", "-nF", f.conf, "-oKexAlgorithms=curve25519-sha256", "{}", "x",
		}},
		{name: "the memo's loop of ssh", tool: "ssh", once: true, argv: []string{
			"sh", "-c", `for h in $(cat "$1"); do ssh -nF "$2" "$h" x || exit 1; done`, "sh", hosts, f.conf,
		}},
		{name: "pssh -p 32", tool: "parallel-ssh", argv: []string{"parallel-ssh", "-h", hosts, "-p", "32", "-t", "0", "-x", "-F " + f.conf, "x"}},
		{name: "clush -f 32", tool: "clush", argv: []string{
			"clush", "-S", "-N", "-f", "32", "-o", "-F " + f.conf, "-w", strings.Join(f.names, ","), "x",
		}},
		{
			name: "ansible raw -f 50", tool: "ansible", argv: []string{"ansible", "all", "-i", strings.Join(f.names, ",") + ",", "-m", "raw", "-a", "x", "-f", "50"},
			env: []string{"ANSIBLE_SSH_ARGS=-F " + f.conf + " -o ControlMaster=no", "ANSIBLE_LOCAL_TEMP=" + f.dir, "ANSIBLE_CONFIG=" + filepath.Join(f.dir, "ansible.cfg"), "ANSIBLE_SSH_USETTY=False", "LC_ALL=C.UTF-8"},
		},
	}
}

// cost is what one run took.
type cost struct {
	wall, cpu time.Duration
	peak      int64 // bytes resident, all processes of the client together, sampled
}

func (m method) run(b *testing.B) cost {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.argv[0], m.argv[1:]...)
	cmd.Cancel = func() error {
		for _, p := range sshdtest.Descendants(cmd.Process.Pid) {
			_ = syscall.Kill(p, syscall.SIGKILL) // gone already is fine
		}
		return cmd.Process.Kill()
	}
	cmd.Env = append(os.Environ(), m.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatalf("%s: %v", m.name, err)
	}
	ended, sampled := make(chan struct{}), make(chan int64)
	go func() { sampled <- peak(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	c := cost{wall: time.Since(begin)}
	close(ended)
	c.peak = <-sampled
	if err != nil {
		b.Fatalf("%s: %v\n%s", m.name, err, out.Bytes())
	}
	c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() // its children's too: it waited for them
	return c
}

// peak looks 20 times a second at what a process and those below it have
// resident, and returns the most. Shared pages count in each.
func peak(pid int, ended <-chan struct{}) int64 {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var most int64
	for {
		var sum int64
		for _, p := range append(sshdtest.Descendants(pid), pid) {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p))
			if f := strings.Fields(string(text)); err == nil && len(f) > 1 {
				pages, _ := strconv.ParseInt(f[1], 10, 64) // 0 where it is gone
				sum += pages * int64(os.Getpagesize())
			}
		}
		most = max(most, sum)
		select {
		case <-ended:
			return most
		case <-tick.C:
		}
	}
}

func median[T ~int64](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkFanout compares the cost of one forced command at every target.
func BenchmarkFanout(b *testing.B) {
	f := newField(b, *targets)
	var missing []string
	methods := slices.DeleteFunc(f.methods(b), func(m method) bool {
		if m.tool == "" {
			return false
		}
		if _, err := exec.LookPath(m.tool); err != nil {
			missing = append(missing, m.name)
			return true
		}
		return false
	})
	costs := map[string][]cost{}
	for b.Loop() {
		for round := range *rounds {
			for _, m := range methods {
				if round == 0 || !m.once {
					costs[m.name] = append(costs[m.name], m.run(b))
				}
			}
		}
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d targets\twall s\tkido is\tclient CPU ms a target\tkido is\tpeak MiB\tkido is\t\n", *targets)
	middle := func(name string) (wall, cpu, peak float64) {
		var walls, cpus []time.Duration
		var peaks []int64
		for _, c := range costs[name] {
			walls, cpus, peaks = append(walls, c.wall), append(cpus, c.cpu), append(peaks, c.peak)
		}
		return median(walls).Seconds(), median(cpus).Seconds() * 1000 / float64(*targets), float64(median(peaks)) / (1 << 20)
	}
	kw, kc, kp := middle("kido")
	for _, m := range methods {
		wall, cpu, peak := middle(m.name)
		fmt.Fprintf(w, "%s\t%.2f\t%.2fx\t%.2f\t%.2fx\t%.0f\t%.2fx\t\n", m.name, wall, kw/wall, cpu, kc/cpu, peak, kp/peak)
		if m.name != "kido" {
			b.ReportMetric(kc/cpu, "cpu/"+strings.Fields(m.name)[0])
		}
	}
	w.Flush()
	if len(missing) > 0 {
		fmt.Fprintf(&text, "not installed, so not compared: %s\n", strings.Join(missing, ", "))
	}
	b.Logf("medians of %d rounds\n%s", *rounds, text.String())
}

// BenchmarkOneTarget compares the time to one reply: a process of its own and
// a new connection (cold), and a new session on a connection that is there
// (warm).
func BenchmarkOneTarget(b *testing.B) {
	if _, err := exec.LookPath("ssh"); err != nil {
		b.Skip("no ssh on this machine to compare with: install it (apt-get install openssh-client)")
	}
	f := newField(b, 1)
	const cold, coldSSH, coldCurve, warm, warmSSH = "kido", "ssh", "ssh, curve25519", "kido, warm", "ssh, ControlMaster"

	control := filepath.Join(f.dir, "c")
	master := exec.Command("ssh", "-nNMF", f.conf, "-S", control, f.names[0])
	if err := master.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = master.Process.Kill()
		_ = master.Wait() // killed
	}()
	for late := time.Now().Add(30 * time.Second); exec.Command("ssh", "-F", f.conf, "-S", control, "-Ocheck", f.names[0]).Run() != nil; {
		if time.Now().After(late) {
			b.Fatal("the ControlMaster does not come up")
		}
	}
	pins, err := remote.LoadPins(f.known)
	if err != nil {
		b.Fatal(err)
	}
	c, err := remote.New(remote.Config{Identity: f.key.Path, HostKeys: pins, Idle: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if err := call(c, f.kido[0]); err != nil {
		b.Fatal(err)
	}

	run := func(argv ...string) error { return exec.Command(argv[0], argv[1:]...).Run() }
	ways := []struct {
		name string
		do   func() error
	}{
		{cold, func() error { return run(f.methods(b)[0].argv...) }},
		{coldSSH, func() error { return run("ssh", "-nF", f.conf, f.names[0], "x") }},
		{coldCurve, func() error { return run("ssh", "-nF", f.conf, "-oKexAlgorithms=curve25519-sha256", f.names[0], "x") }},
		{warm, func() error { return call(c, f.kido[0]) }},
		{warmSSH, func() error { return run("ssh", "-nF", f.conf, "-S", control, f.names[0], "x") }},
	}
	times := map[string][]time.Duration{}
	for b.Loop() {
		for range 5 * *rounds {
			for _, way := range ways {
				begin := time.Now()
				if err := way.do(); err != nil {
					b.Fatalf("%s: %v", way.name, err)
				}
				times[way.name] = append(times[way.name], time.Since(begin))
			}
		}
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "one target\tms\tkido is\t\n")
	for _, way := range ways {
		ours := cold
		if way.name == warm || way.name == warmSSH {
			ours = warm
		}
		took := median(times[way.name])
		ratio := median(times[ours]).Seconds() / took.Seconds()
		fmt.Fprintf(w, "%s\t%.1f\t%.2fx\t\n", way.name, took.Seconds()*1000, ratio)
		switch way.name {
		case coldCurve:
			b.ReportMetric(ratio, "cold/ssh")
		case warmSSH:
			b.ReportMetric(ratio, "warm/ControlMaster")
		}
	}
	w.Flush()
	b.Logf("medians of %d\n%s", len(times[cold]), text.String())
}
