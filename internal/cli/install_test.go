package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kido/internal/install"
	"kido/internal/site"
)

// TestBehind: of what a host announces, why it cannot now, as its real gate says.
func TestBehind(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("kido-gate")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	if err := os.WriteFile(pid, fmt.Append(nil, os.Getpid(), "\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	service := func(name, pidfile, ready string) string {
		return fmt.Sprintf("  %s: {hosts: box, command: {start: [/bin/true], stop: [/bin/true]}, pidfile: %s, ready: %s}\n", name, pidfile, ready)
	}
	s, err := site.Parse("/src/site.yaml", []byte("site: x\nhosts: {box: 127.0.0.1}\nservices:\n"+
		service("good", pid, "{exec: [/bin/true]}")+
		service("deaf", pid, "{tcp: ':1'}")+
		service("down", filepath.Join(dir, "none"), "{tcp: ':1'}")+
		"  cloud: {hosts: box, external: true, ready: {tcp: '127.0.0.1:1'}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, _ := install.PolicyFor(s, "box", nil)
	p.State = filepath.Join(dir, "state")
	policy := filepath.Join(dir, "policy")
	if err := os.WriteFile(policy, []byte(p.Format()), 0o644); err != nil {
		t.Fatal(err)
	}
	var announced []site.Instance
	for _, name := range []string{"good", "deaf", "down", "cloud", "unheard"} {
		announced = append(announced, site.Instance{Service: name, Host: "box"})
	}
	f := &fleet{site: s, here: "box", gate: program, policy: policy}
	got := f.behind(context.Background(), announced)
	want := []string{
		"deaf@box: not ready: connection refused; its hook keeps trying: kido status",
		"down@box: down; its next start is announced",
		"cloud@box: not ready: connection refused; its hook keeps trying: kido status",
		"unheard@box: its gate says ",
	}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for n := range want {
		if !strings.HasPrefix(got[n], want[n]) {
			t.Errorf("%q, want %q", got[n], want[n])
		}
	}
}
