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

// TestInitsysBySudo: the same contract where systemd has no polkit beside it, and
// is told what to do by sudo and systemctl.
func TestInitsysBySudo(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, SysV)
	sudoInsteadOfPolkit(l, 1, 2)
	said := l.RunTests(1, "kido/internal/initsys", []string{"KIDO_LAB_INIT=systemd+sudo"}, "-test.v", "-test.run=TestMachineConformance", "-test.timeout=10m")
	if want := "--- PASS: TestMachineConformance/systemd-sudo"; !strings.Contains(said, want) {
		t.Errorf("no line %q in\n%s", want, said)
	}
}

// sudoInsteadOfPolkit makes a machine of systemd's one as older releases are: it
// gets sudo from another machine, of the same release.
func sudoInsteadOfPolkit(l *Lab, host, other int) {
	l.t.Helper()
	const bundle = "/root/sudo.tar"
	l.Run(other, "sh", "-c", "dpkg -L sudo | while read -r f; do [ -d \"$f\" ] || echo \"$f\"; done | tar -cf "+bundle+" --files-from=- --ignore-failed-read")
	l.Put(host, bundle, 0o600, l.Get(other, bundle))
	l.Run(host, "tar", "-C", "/", "-xpf", bundle)
	l.Run(host, "sh", "-c", "rm "+bundle+" && mkdir -pm 750 /etc/sudoers.d && dpkg --purge --force-depends polkitd && [ ! -e /usr/bin/pkaction ] && sudo -n true")
}
