package netprobe

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"kido/internal/probe"
)

// BenchmarkThousandProbes compares, in one run against the same real server, what 1,000
// probes cost: by kido, all at once in one process; by the kido that a gate runs for each
// one, as many at once as there may be gates; and by what a user would run for each
// one, as many at once. Memory is what all processes of a way hold at most, beyond what
// this one held before.
//
//	go test -run '^$' -bench Thousand -benchtime 1x -v ./internal/probe/netprobe
//
// What is not installed is skipped. Absolute times are the machine's: read the ratios.
func BenchmarkThousandProbes(b *testing.B) {
	kido := buildKido(b)
	for _, x := range []struct {
		kind probe.Kind
		tool []string // program and package
		run  func(b *testing.B) (probe.Spec, []string)
	}{
		{probe.KindTCP, []string{"bash", "bash"}, func(b *testing.B) (probe.Spec, []string) {
			s := benchRedis(b)
			host, port, _ := net.SplitHostPort(s.Target)
			s.Kind = probe.KindTCP
			return s, []string{"-c", ": </dev/tcp/" + host + "/" + port} // wait-for-it's way
		}},
		{probe.KindHTTP, []string{"curl", "curl"}, func(b *testing.B) (probe.Spec, []string) {
			s := benchNginx(b)
			return s, []string{"-fsSo", "/dev/null", s.Target}
		}},
		{probe.KindRedis, []string{"redis-cli", "redis-tools"}, func(b *testing.B) (probe.Spec, []string) {
			s := benchRedis(b)
			_, port, _ := net.SplitHostPort(s.Target)
			return s, []string{"-h", "127.0.0.1", "-p", port, "ping"}
		}},
		// Not Debian's wrapper of it, which is in Perl and costs ten times as much.
		{probe.KindPostgres, []string{"/usr/lib/postgresql/*/bin/pg_isready", "postgresql-client"}, func(b *testing.B) (probe.Spec, []string) {
			g := newPostgres(b)
			g.configure("max_connections = 1100")
			g.restart(syscall.SIGINT)
			_, port, _ := net.SplitHostPort(at(g.port))
			return g.spec(), []string{"-q", "-h", "127.0.0.1", "-p", port}
		}},
	} {
		b.Run(string(x.kind), func(b *testing.B) {
			tool := needs(b, x.tool[1], x.tool[0], x.tool[0])
			s, args := x.run(b)
			s.Timeout = time.Minute
			ways := []way{
				{"kido, one process", thousand, func(ctx context.Context) error { return failed(Prober{}.Try(ctx, s)) }},
				{"kido, one process each", gates, func(ctx context.Context) error {
					return failed(probe.Local{Program: kido}.Try(ctx, s))
				}},
				{filepath.Base(tool), gates, func(ctx context.Context) error {
					return exec.CommandContext(ctx, tool, args...).Run()
				}},
			}
			if s.Local() { // for which a gate needs no other program
				ways = append(ways[:1], ways[2])
			}
			costs := make([][]toll, len(ways))
			for b.Loop() {
				for i, w := range ways {
					costs[i] = append(costs[i], w.measure(b))
				}
			}
			tell(b, ways, costs)
		})
	}
}

const (
	thousand = 1000
	gates    = 32 // at once, of one principal
)

// way is one way to make a probe.
type way struct {
	name   string
	atOnce int
	once   func(context.Context) error
}

// toll is what a thousand took.
type toll struct {
	wall, cpu time.Duration
	memory    int64 // bytes
}

func (w way) measure(b *testing.B) toll {
	b.Helper()
	// From here on the kernel keeps the most that this process holds.
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
	before, used := status(b, "VmRSS"), cpuTime(b)
	done, sampled := make(chan struct{}), make(chan int64, 1)
	go func() { sampled <- childrenPeak(done) }()
	var wrong atomic.Pointer[error]
	places := make(chan struct{}, w.atOnce)
	var all sync.WaitGroup
	begun := time.Now()
	for range thousand {
		places <- struct{}{}
		all.Go(func() {
			if err := w.once(b.Context()); err != nil {
				wrong.Store(&err)
			}
			<-places
		})
	}
	all.Wait()
	t := toll{wall: time.Since(begun), cpu: cpuTime(b) - used, memory: status(b, "VmHWM") - before}
	close(done)
	t.memory += <-sampled
	if err := wrong.Load(); err != nil {
		b.Fatalf("%s: %v", w.name, *err)
	}
	return t
}

func failed(a probe.Answer) error {
	if a.Ready {
		return nil
	}
	return fmt.Errorf("%s: %s", a.Verdict(), a.Word)
}

// status is a field of this process's status, in bytes.
func status(b *testing.B, field string) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n"+field+":")
	f := strings.Fields(rest)
	if len(f) == 0 {
		b.Fatalf("no %s in /proc/self/status", field)
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n << 10
}

// cpuTime is that of this process and of its children that have ended.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	sum := time.Duration(0)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// childrenPeak looks at what the children of this process hold, beside what
// servers that run already hold, and returns the most.
func childrenPeak(done <-chan struct{}) int64 {
	held := func() (sum int64) {
		lists, _ := filepath.Glob("/proc/self/task/*/children")
		for _, list := range lists {
			text, _ := os.ReadFile(list) // that thread may be gone
			for _, pid := range strings.Fields(string(text)) {
				text, _ := os.ReadFile("/proc/" + pid + "/statm")
				if f := strings.Fields(string(text)); len(f) > 1 {
					pages, _ := strconv.ParseInt(f[1], 10, 64) // none where it has ended
					sum += pages * int64(os.Getpagesize())
				}
			}
		}
		return sum
	}
	first := held()
	most := first
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return most - first
		case <-tick.C:
			most = max(most, held())
		}
	}
}

// tell writes a table, and what is compared as metrics.
func tell(b *testing.B, ways []way, costs [][]toll) {
	b.Helper()
	least := func(of []toll, what func(toll) float64) float64 { // what other work disturbed least
		n := what(of[0])
		for _, t := range of[1:] {
			n = min(n, what(t))
		}
		return n
	}
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "%d probes\tat once\twall ms\tCPU µs a probe\tKiB a probe at once\t\n", thousand)
	var ours [2]float64
	for i, w := range ways {
		wall := least(costs[i], func(t toll) float64 { return float64(t.wall.Microseconds()) / 1000 })
		cpu := least(costs[i], func(t toll) float64 { return float64(t.cpu.Microseconds()) / thousand })
		memory := least(costs[i], func(t toll) float64 { return float64(t.memory) / 1024 / float64(w.atOnce) })
		fmt.Fprintf(table, "%s\t%d\t%.0f\t%.0f\t%.0f\t\n", w.name, w.atOnce, wall, cpu, memory)
		if i == 0 {
			ours = [2]float64{wall, cpu}
			b.ReportMetric(wall, "ms-wall")
			b.ReportMetric(cpu, "µs-cpu/probe")
			b.ReportMetric(memory, "KiB/probe")
			continue
		}
		name := strings.ReplaceAll(strings.ReplaceAll(w.name, ",", ""), " ", "-")
		b.ReportMetric(wall/ours[0], "x-wall-"+name)
		b.ReportMetric(cpu/ours[1], "x-cpu-"+name)
	}
	table.Flush()
	b.Logf("\n%s", text.String())
}

// buildKido is the program as it is released.
func buildKido(b *testing.B) string {
	b.Helper()
	dir := shortDir(b, nil)
	if err := os.Chmod(dir, 0o755); err != nil { // a gate that is root runs it as nobody
		b.Fatal(err)
	}
	program := filepath.Join(dir, "kido")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "kido/cmd/kido")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return program
}

func benchRedis(b *testing.B) probe.Spec {
	b.Helper()
	program := needs(b, "redis-server", "redis-server")
	port := freePort(b)
	start(b, nil, shortDir(b, nil), nil, program, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--tcp-backlog", "2048")
	return listens(b, probe.Spec{Kind: probe.KindRedis, Target: at(port)})
}

func benchNginx(b *testing.B) probe.Spec {
	b.Helper()
	program := needs(b, "nginx-light", "nginx")
	dir, port := shortDir(b, nil), freePort(b)
	conf := write(b, nil, filepath.Join(dir, "nginx.conf"), fmt.Appendf(nil, `
daemon off; master_process off; pid %s/pid; error_log stderr;
events { worker_connections 4096; }
http { access_log off; server { listen %s backlog=2048; location / { return 204; } } }
`, dir, at(port)))
	start(b, nil, dir, nil, program, "-p", dir, "-c", conf)
	return listens(b, probe.Spec{Kind: probe.KindHTTP, Target: "http://" + at(port) + "/"})
}

// listens waits for a server.
func listens(b *testing.B, s probe.Spec) probe.Spec {
	b.Helper()
	until(b, "it listens", func() bool { return ask(b, s).Ready })
	return s
}
