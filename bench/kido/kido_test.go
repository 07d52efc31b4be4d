// Package kido measures, in one run, what the drivers of all kinds of probes cost a kido
// that makes none:
//
//	go test -run '^$' -bench . -benchtime 300x ./bench/kido
//
// Absolute times are the machine's: read the ratios.
package kido

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// program is one that is compared.
type program struct {
	name      string
	path      string
	start     []string // begins, says something and ends
	waits     []string // reads its input
	size      int64    // bytes
	wall, cpu []time.Duration
}

// BenchmarkDrivers compares, in turns in one run, the start of kido as it is with that of
// one built without drivers, of kido-gate, which has none, and of an empty Go program;
// and how large they are, as a file and once they have started.
func BenchmarkDrivers(b *testing.B) {
	dir := b.TempDir()
	empty := filepath.Join(dir, "empty.go")
	if err := os.WriteFile(empty, []byte("package main\nimport \"os\"\nfunc main() { for len(os.Args) > 1 { os.Stdin.Read(make([]byte, 9)) } }\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	policy := filepath.Join(dir, "policy")
	text := "kido-policy 1\nhost web1\nstate " + dir + "/state\nprincipal here local\n"
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	programs := []*program{
		{name: "kido", start: []string{"version"}, waits: []string{"probe-child"}},
		{name: "kido without drivers", start: []string{"version"}, waits: []string{"probe-child"}},
		{name: "kido-gate", start: []string{"--help"}, waits: []string{"--policy", policy}},
		{name: "empty", waits: []string{"wait"}},
	}
	programs[0].build(b, dir, "kido/cmd/kido")
	programs[1].build(b, dir, "-overlay="+without(b, dir), "kido/cmd/kido")
	programs[2].build(b, dir, "kido/cmd/kido-gate")
	programs[3].build(b, dir, empty)
	for b.Loop() {
		for _, p := range programs {
			cmd := exec.Command(p.path, p.start...)
			cmd.Env = []string{}
			begun := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%s: %v\n%s", p.name, err, out)
			}
			p.wall = append(p.wall, time.Since(begun))
			p.cpu = append(p.cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
	}
	var lines strings.Builder
	table := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "\tstart ms\tbest\tCPU ms\tfile MiB\tresident MiB\tof its own\t\n")
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	held := make([][2]int64, len(programs))
	for i, p := range programs {
		held[i] = p.memory(b)
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f\t\n", p.name, ms(median(p.wall)), ms(slices.Min(p.wall)), ms(median(p.cpu)), mib(p.size), mib(held[i][0]), mib(held[i][1]))
	}
	table.Flush()
	b.Logf("medians of %d\n%s", len(programs[0].wall), lines.String())
	with, bare := programs[0], programs[1]
	b.ReportMetric(float64(median(with.wall))/float64(median(bare.wall)), "x-without-wall")
	b.ReportMetric(float64(median(with.cpu))/float64(median(bare.cpu)), "x-without-cpu")
	b.ReportMetric(ms(slices.Min(with.wall)-slices.Min(bare.wall)), "ms-more-best")
	b.ReportMetric(mib(with.size-bare.size), "MiB-more-file")
	b.ReportMetric(mib(held[0][0]-held[1][0]), "MiB-more-resident")
	b.ReportMetric(mib(held[0][1]-held[1][1]), "MiB-more-own")
}

func (p *program) build(b *testing.B, dir string, args ...string) {
	b.Helper()
	p.path = filepath.Join(dir, strings.ReplaceAll(p.name, " ", "-"))
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", p.path}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(p.path)
	if err != nil {
		b.Fatal(err)
	}
	p.size = info.Size()
}

// without is an overlay, as go build takes it, that has in place of package netprobe one
// with the same names and nothing behind them.
func without(b *testing.B, dir string) string {
	b.Helper()
	real, err := filepath.Glob("../../internal/probe/netprobe/*.go")
	if err != nil || len(real) == 0 {
		b.Fatalf("package netprobe is not found: %v", err)
	}
	replace := map[string]string{}
	for _, file := range real {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		to := ""
		if filepath.Base(file) == "netprobe.go" {
			to = absolute(b, "testdata/without.go")
		}
		replace[absolute(b, file)] = to
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		b.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return overlay
}

func absolute(b *testing.B, path string) string {
	b.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		b.Fatal(err)
	}
	return path
}

// memory is what the program holds at most once it has started and read a byte: all,
// and what it does not share with the file that it was started from. In bytes.
func (p *program) memory(b *testing.B) (held [2]int64) {
	b.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	cmd := exec.Command(p.path, p.waits...)
	cmd.Env, cmd.Stdin = []string{}, r
	err = cmd.Start()
	r.Close()
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}()
	if _, err := w.WriteString("x"); err != nil {
		b.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for late := time.After(30 * time.Second); ; {
		left, err := unix.IoctlGetInt(int(w.Fd()), unix.TIOCINQ)
		if err != nil {
			b.Fatal(err)
		}
		if left == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-late:
			b.Fatalf("%s does not read its input", p.name)
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	for i, field := range []string{"VmHWM:", "RssAnon:"} {
		_, rest, _ := strings.Cut(string(text), "\n"+field)
		if f := strings.Fields(rest); len(f) > 0 {
			n, err := strconv.ParseInt(f[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			held[i] = n << 10
		}
	}
	if held[0] == 0 {
		b.Fatalf("%s has ended", p.name)
	}
	return held
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
