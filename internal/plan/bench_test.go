package plan_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/plan"
	"kido/internal/site"
)

// BenchmarkMake plans the start of a whole site of 100,000 services with
// 1,000,000 dependencies, from the parsed site to the last step, in turns with
// tsort on the same pairs: make/tsort is the ratio of the sums of wall time,
// cpu-make/tsort that of processor time, which a busy machine blurs less. tsort
// reads the pairs in random order, as in the benchmark of package graph, and,
// for make/grouped, dependent by dependent, which spares it many cache misses.
func BenchmarkMake(b *testing.B) {
	if _, err := exec.LookPath("tsort"); err != nil {
		b.Skip("tsort is not installed (apt-get install coreutils)")
	}
	s := bigSite(100_000, 1_000_000)
	var pairs []string
	for _, v := range s.Services {
		for _, d := range v.After {
			pairs = append(pairs, d.Upstream+" "+v.Name+"\n")
		}
	}
	write := func(name string) string {
		file := filepath.Join(b.TempDir(), name)
		if err := os.WriteFile(file, []byte(strings.Join(pairs, "")), 0o600); err != nil {
			b.Fatal(err)
		}
		return file
	}
	grouped := write("grouped")
	rand.New(rand.NewPCG(9, 10)).Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	random := write("random")
	pairs = nil

	tsort := func(file string) (wall, cpu time.Duration) {
		begin := time.Now()
		cmd := exec.Command("tsort", file)
		cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		return time.Since(begin), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	var ours, oursCPU, randoms, randomsCPU, groupeds time.Duration
	for b.Loop() {
		wall, cpu := tsort(random)
		randoms += wall
		randomsCPU += cpu
		wall, _ = tsort(grouped)
		groupeds += wall

		runtime.GC() // as after a site was read, not after the last round
		begin, used := time.Now(), cpuTime(b)
		p, err := plan.New(s).Make(plan.Request{Verb: plan.Up}, nil, nil)
		ours += time.Since(begin)
		oursCPU += cpuTime(b) - used
		if err != nil || len(p.Steps) != len(s.Services) {
			b.Fatal(len(p.Steps), err)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(ours.Milliseconds())/float64(b.N), "ms-make/op")
	b.ReportMetric(float64(randoms.Milliseconds())/float64(b.N), "ms-tsort/op")
	b.ReportMetric(ours.Seconds()/randoms.Seconds(), "make/tsort")
	b.ReportMetric(oursCPU.Seconds()/randomsCPU.Seconds(), "cpu-make/tsort")
	b.ReportMetric(ours.Seconds()/groupeds.Seconds(), "make/grouped")
}

// cpuTime is what this process has used so far, garbage collection included.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bigSite has m random dependencies along a hidden order of n services.
func bigSite(n, m int) *site.Site {
	random := rand.New(rand.NewPCG(7, 8))
	hidden := random.Perm(n)
	s := &site.Site{Name: "big"}
	for i := range n {
		s.Services = append(s.Services, &site.Service{Name: fmt.Sprintf("service-%06d", i), Hosts: []string{fmt.Sprintf("h%d", i%500)}})
	}
	after := make([]map[int]bool, n)
	for count := 0; count < m; {
		a, b := random.IntN(n), random.IntN(n)
		if a == b {
			continue
		}
		up, down := hidden[min(a, b)], hidden[max(a, b)]
		if after[down] == nil {
			after[down] = map[int]bool{}
		}
		if after[down][up] {
			continue
		}
		after[down][up] = true
		count++
	}
	for down, ups := range after {
		for _, up := range slices.Sorted(maps.Keys(ups)) {
			s.Services[down].After = append(s.Services[down].After, site.Dependency{
				Upstream: strings.Clone(s.Services[up].Name), OnRestart: site.ReactionRestart,
				Strength: site.Requires, Of: site.OfAll,
			})
		}
	}
	return s
}
