package lab

import (
	"strings"
	"testing"
)

// TestInitsys holds every adapter to the contract of package initsys, on the init
// that it is for.
func TestInitsys(t *testing.T) {
	t.Parallel()
	for _, kind := range Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			l := Start(t, kind)
			said := l.RunTests(1, "kido/internal/initsys", []string{"KIDO_LAB_INIT=" + kind.Init()}, "-test.v", "-test.timeout=15m")
			if want := "--- PASS: TestMachineConformance/" + kind.Init(); !strings.Contains(said, want) {
				t.Errorf("no line %q in\n%s", want, said)
			}
		})
	}
}
