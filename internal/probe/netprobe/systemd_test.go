package netprobe

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
)

// TestMain lets this binary be the program of a probe.Local.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == probe.ChildArg {
		os.Exit(ServeChild(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// TestNoSystemd: what there is to say where systemd cannot be asked. It is not
// parallel, for it moves the bus.
func TestNoSystemd(t *testing.T) {
	kept := systemBus
	t.Cleanup(func() { systemBus = kept })
	dir := shortDir(t, nil)
	socket := func(name string, serve func(net.Conn)) string {
		file := filepath.Join(dir, name)
		l, err := net.Listen("unix", file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				serve(c)
				c.Close()
			}
		}()
		return file
	}
	for _, x := range []struct{ name, bus, want string }{
		{"no bus", filepath.Join(dir, "none"), "there is no system bus, which dbus.service provides"},
		{"silent bus", socket("silent", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "connected, but no answer within 300ms"},
		{"bus hangs up", socket("closed", func(net.Conn) {}), "the system bus does not let this user in: "},
		{"bus without systemd", realBus(t, dir), "systemd is not on the system bus of this host"},
	} {
		t.Run(x.name, func(t *testing.T) {
			systemBus = x.bus
			s := probe.Spec{Kind: probe.KindSystemd, Target: "ssh.service", Timeout: 20 * time.Second}
			if x.name == "silent bus" {
				s.Timeout = 300 * time.Millisecond
			}
			if a := ask(t, s); a.Ready || !a.Untried || !strings.HasPrefix(a.Word, x.want) {
				t.Errorf("got %+v, want %q", a, x.want)
			}
		})
	}
}

// realBus is a message bus of our own, to which nobody else is connected.
func realBus(t *testing.T, dir string) (socket string) {
	t.Helper()
	program := needs(t, "dbus-daemon", "dbus-daemon")
	socket = filepath.Join(dir, "bus")
	config := write(t, nil, filepath.Join(dir, "bus.conf"), fmt.Appendf(nil, `<busconfig>
  <type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
  <policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>`, socket))
	start(t, nil, dir, nil, program, "--config-file="+config, "--nofork", "--nopidfile")
	until(t, "the bus is there", func() bool { _, err := os.Stat(socket); return err == nil })
	return socket
}

// TestMachine asks a real systemd and its journal; the lab runs it.
func TestMachine(t *testing.T) {
	if is := os.Getenv("KIDO_LAB_INIT"); is != "systemd" {
		t.Skipf("SKIPPED: not tried on a real systemd: TestProbes of the lab runs it on a machine of its own")
	}
	const folder = "/run/systemd/system/"
	unit := func(name, text string) {
		write(t, nil, folder+name, []byte("[Service]\n"+text+"\n"))
	}
	systemctl := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("systemctl", args...).CombinedOutput()
		if err != nil && args[0] != "start" {
			t.Fatalf("systemctl %q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	// It is ready when it is told so.
	const talks = `ExecStart=/bin/sh -c 'echo it begins; until [ -e /run/kido-go ]; do sleep 0.05; done; echo ready to serve; echo done; exec sleep 1000'`
	unit("kido-talks.service", talks)
	unit("kido-fails.service", "Type=oneshot\nExecStart=/bin/false")
	unit("kido-starts.service", "Type=notify\nExecStart=/bin/sleep 1000")
	unit("kido-off.service", "ExecStart=/bin/sleep 1000")
	systemctl("daemon-reload")
	systemctl("mask", "--runtime", "kido-masked.service")
	systemctl("start", "kido-talks.service")
	systemctl("start", "kido-fails.service")
	systemctl("start", "--no-block", "kido-starts.service")

	// A gate runs its program as nobody.
	program := filepath.Join(shortDir(t, nil), "kido")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ unit, state, want string }{
		{"kido-talks.service", "", ""},
		{"kido-talks.service", "active", ""},
		{"kido-talks.service", "inactive", "active (running)"},
		{"kido-off.service", "", "inactive (dead)"},
		{"kido-off.service", "inactive", ""},
		{"kido-fails.service", "", "failed (failed)"},
		{"kido-fails.service", "failed", ""},
		{"kido-starts.service", "", "activating (start)"},
		{"kido-masked.service", "", "masked (inactive)"},
		{"kido-none.service", "", "no such unit"},
		{"kido-none.service", "inactive", "no such unit"},
	} {
		s := probe.Spec{Kind: probe.KindSystemd, Target: x.unit}
		if x.state != "" {
			s.Options = map[string]string{"state": x.state}
		}
		check := func(who string, a probe.Answer) {
			if a.Ready != (x.want == "") || a.Word != x.want {
				t.Errorf("%s %s, %s: got %+v, want %q", x.unit, x.state, who, a, x.want)
			}
		}
		until(t, "systemd has done its part", func() bool {
			a := ask(t, s)
			return a.Ready == (x.want == "") && a.Word == x.want || a.Word != "inactive (dead)" && a.Word != "activating (start)"
		})
		check("as root", ask(t, s))
		check("as nobody", probe.Local{Program: program}.Try(t.Context(), s))
	}

	life := func() probe.Life {
		return probe.Life{Token: systemctl("show", "--property=InvocationID", "--value", "kido-talks.service")}
	}
	waits := func(match string) probe.Spec {
		return probe.Spec{Kind: probe.KindLog, Target: "journal", Options: map[string]string{"match": match}, Life: life()}
	}
	became := func(s probe.Spec, want string) {
		t.Helper()
		var a probe.Answer
		if !poll(func() bool { a = ask(t, s); return a.Ready == (want == "") && a.Word == want }) {
			t.Errorf("got %+v, want %q", a, want)
		}
	}
	const yet = "no line matching ^ready yet in this incarnation"
	became(waits("^it begins$"), "")
	became(waits("^ready"), yet)
	if err := os.WriteFile("/run/kido-go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	became(waits("^ready"), "")
	became(waits("^done$"), "")
	old := waits("^ready")
	if err := os.Remove("/run/kido-go"); err != nil {
		t.Fatal(err)
	}
	systemctl("restart", "kido-talks.service")
	became(waits("^it begins$"), "")
	became(waits("^ready"), yet) // what its earlier life said does not count
	became(old, "")
	none := waits("^ready")
	none.Life.Token = strings.Repeat("0", 32)
	became(none, yet)

	// Whoever has no right to the journal says so, and takes it for no answer.
	cmd := exec.Command(program, "-test.run=^TestMachineAsNobody$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "KIDO_LAB_LIFE="+life().Token)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credentialOf(t, "nobody")}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestMachineAsNobody") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMachineAsNobody(t *testing.T) {
	life := os.Getenv("KIDO_LAB_LIFE")
	if life == "" {
		t.Skip("SKIPPED: TestMachine runs it, as nobody")
	}
	a := ask(t, probe.Spec{Kind: probe.KindLog, Target: "journal", Options: map[string]string{"match": "begins"}, Life: probe.Life{Token: life}})
	if want := "the journal cannot be read: add user nobody to the group systemd-journal"; a.Ready || !a.Untried || a.Word != want {
		t.Errorf("got %+v, want %s", a, want)
	}
}

// TestChildKeepsToItself: others who run as nobody cannot look into a program that was
// given secrets.
func TestChildKeepsToItself(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can run it as nobody")
	}
	dir := shortDir(t, nil)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "kido")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, probe.ChildArg)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credentialOf(t, "nobody"), Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "its memory is root's", func() bool {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid))
		return err == nil && info.Sys().(*syscall.Stat_t).Uid == 0
	})
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
