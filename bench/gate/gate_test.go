// Package gate measures, in one run, what a gate's life costs: against Go
// programs that do nothing, and through sshd against /bin/true.
//
//	go test -run '^$' -bench . -benchtime 300x ./bench/gate
//
// Absolute times are the machine's: read the ratios.
package gate

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kido/internal/remote/sshdtest"
	"kido/internal/wire"
)

// BenchmarkStart compares, in turns in one run, the gate's start alone and its
// whole life for one STATUS with that of a Go program that does nothing and of one that prints
// hello. The aim is 1.25 times the latter; run it with -benchtime 500x.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	program := func(name, text string) string {
		source := filepath.Join(dir, name+".go")
		if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		return build(b, filepath.Join(dir, name), source)
	}
	policy := writePolicy(b, dir)
	request := wire.Request{Verb: wire.VerbStatus, Service: "web"}.Format()
	commands := [][]string{
		{program("empty", "package main\nfunc main() {}\n")},
		{program("hello", "package main\nimport \"fmt\"\nfunc main() { fmt.Println(\"hello\") }\n")},
		{build(b, filepath.Join(dir, "gate"), "kido/cmd/kido-gate"), "--policy", policy},
	}
	commands = append(commands, []string{commands[2][0], "--help"}) // its start alone
	wall, cpu := make([][]time.Duration, len(commands)), make([][]time.Duration, len(commands))
	for b.Loop() {
		for i, argv := range commands {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Env = []string{}
			cmd.Stdin = bytes.NewReader(request)
			begun := time.Now()
			out, err := cmd.Output()
			wall[i] = append(wall[i], time.Since(begun))
			cpu[i] = append(cpu[i], cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
			if i == 2 && !strings.Contains(string(out), "reply ok") {
				b.Fatalf("the gate answered %q, %v", out, err)
			}
		}
	}
	b.ReportMetric(ratio(median(wall[3]), median(wall[0])), "x-empty-start")
	for i, than := range []string{"empty", "hello"} {
		b.ReportMetric(ratio(median(wall[2]), median(wall[i])), "x-"+than+"-wall")
		b.ReportMetric(ratio(median(cpu[2]), median(cpu[i])), "x-"+than+"-cpu")
		// The quickest of all runs is the one that other work disturbed least.
		b.ReportMetric(ratio(slices.Min(wall[2]), slices.Min(wall[i])), "x-"+than+"-best")
	}
}

// BenchmarkThroughSSHD is the same over a real sshd: one ssh client, one session,
// the key's forced command being the gate or /bin/true. The aim is at most 1 ms
// more than /bin/true; what ssh and sshd cost is in both.
func BenchmarkThroughSSHD(b *testing.B) {
	dir := b.TempDir()
	gate := build(b, filepath.Join(dir, "gate"), "kido/cmd/kido-gate")
	withGate, withTrue := sshdtest.NewKey(b), sshdtest.NewKey(b)
	server := sshdtest.Start(b, sshdtest.Options{
		Config: []string{"ExposeAuthInfo yes"},
		Keys: []string{
			withGate.Line(`restrict,` + sshdtest.Command(gate+" --policy "+writePolicy(b, dir))),
			withTrue.Line(`restrict,` + sshdtest.Command("exec /bin/true")),
		},
	})
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(server.KnownHosts()), 0o600); err != nil {
		b.Fatal(err)
	}
	request := wire.Request{Verb: wire.VerbStatus, Service: "web"}.Format()
	took := make([][]time.Duration, 2)
	for b.Loop() {
		for i, key := range []*sshdtest.Key{withTrue, withGate} {
			cmd := exec.Command("ssh", "-F", "none", "-T", "-i", key.Path, "-o", "UserKnownHostsFile="+known, "-o", "StrictHostKeyChecking=yes",
				"-o", "IdentitiesOnly=yes", "-o", "KexAlgorithms=curve25519-sha256", "-p", strconv.Itoa(server.Port), server.User+"@"+server.Addr, wire.Command)
			cmd.Stdin = bytes.NewReader(request)
			begun := time.Now()
			out, err := cmd.CombinedOutput()
			took[i] = append(took[i], time.Since(begun))
			if err != nil || i == 1 && !strings.Contains(string(out), "kido/1 reply") {
				b.Fatalf("%v: %s", err, out)
			}
		}
	}
	b.ReportMetric(float64((median(took[1])-median(took[0])).Microseconds())/1000, "ms-more-than-true")
	b.ReportMetric(ratio(median(took[1]), median(took[0])), "x-true")
}

func writePolicy(b *testing.B, dir string) string {
	b.Helper()
	policy := filepath.Join(dir, "policy")
	text := "kido-policy 1\nhost web1\nstate " + dir + "/state\nservice web command\n  start /bin/true\n  stop /bin/true\n  pidfile " +
		dir + "/web.pid\nprincipal here local\nprincipal anykey unexposed\ngrant here web status\ngrant anykey web status\n"
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return policy
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func build(b *testing.B, to, what string) string {
	b.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, what)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return to
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
