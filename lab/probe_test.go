package lab

import (
	"strings"
	"testing"
)

// TestProbes asks a real systemd about its units, and its journal about a unit's lines.
func TestProbes(t *testing.T) {
	t.Parallel()
	for _, kind := range Kinds() {
		if kind.Init() != "systemd" {
			continue
		}
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			l := Start(t, kind)
			said := l.RunTests(1, "kido/internal/probe/netprobe", []string{"KIDO_LAB_INIT=systemd"}, "-test.v", "-test.run=^TestMachine$", "-test.timeout=5m")
			if want := "--- PASS: TestMachine"; !strings.Contains(said, want) {
				t.Errorf("no line %q in\n%s", want, said)
			}
		})
	}
}
