package initsys_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/initsys"
	"kido/internal/initsys/initsystest"
)

// labInit names the init that is process 1 here, and may be given units to run:
// the tests on real inits want a machine of their own, as the lab makes them.
const labInit = "KIDO_LAB_INIT"

// withSudo ends the name of an init that is told what to do by way of sudo.
const withSudo = "+sudo"

// onInit skips a test, loudly, unless it was asked for by way of labInit; then
// an init that is not there is a failure.
func onInit(t testing.TB, want string) {
	t.Helper()
	is := os.Getenv(labInit)
	if is != want {
		t.Skipf("SKIPPED: not tried on a real %s: it needs root on a machine of the lab whose process 1 that is, and %s=%s (which is %q)", want, labInit, want, is)
	}
	if os.Geteuid() != 0 {
		t.Fatalf("%s=%s needs root", labInit, is)
	}
	comm, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		t.Fatal(err)
	}
	_, err = os.Stat("/run/openrc/softlevel")
	got := map[string]string{"systemd": "systemd", "init": "sysv"}[strings.TrimSpace(string(comm))]
	if got == "sysv" && err == nil {
		got = "openrc"
	}
	if got != strings.TrimSuffix(want, withSudo) {
		t.Fatalf("%s=%s, but process 1 is %s", labInit, is, comm)
	}
}

var sudo = []string{"/usr/bin/sudo", "-n", "/usr/bin/systemctl"}

// machines are the adapters on real inits.
var machines = []struct {
	init string
	initsystest.Adapter
}{
	{"systemd", systemdAdapter("systemd-notify", "notify", initsystest.ServeArgv, initsys.Failed, initsys.SystemdConfig{})},
	{"systemd", systemdAdapter("systemd-exec", "exec", initsystest.ServeArgv, initsys.Failed, initsys.SystemdConfig{})},
	{"systemd", systemdAdapter("systemd-forking", "forking", initsystest.DaemonArgv, initsys.Failed, initsys.SystemdConfig{})},
	// Such a unit stays up whatever becomes of what it has started.
	{"systemd", systemdAdapter("systemd-oneshot", "oneshot", initsystest.DaemonArgv, initsys.Up, initsys.SystemdConfig{})},
	{"systemd", systemdAdapter("systemd-template", "notify", initsystest.ServeArgv, initsys.Failed, initsys.SystemdConfig{})},
	{"systemd", systemdAdapter("systemd-nostart", "notify", initsystest.ServeArgv, initsys.Failed, initsys.SystemdConfig{NoStart: true})},
	{"systemd", systemdAdapter("systemd-systemctl", "notify", initsystest.ServeArgv, initsys.Failed, initsys.SystemdConfig{Systemctl: []string{"/usr/bin/systemctl"}})},
	{"systemd" + withSudo, systemdAdapter("systemd-sudo", "notify", initsystest.ServeArgv, initsys.Failed, initsys.SystemdConfig{Systemctl: sudo})},
	{"sysv", initsystest.Adapter{
		Name:  "sysv-real",
		Setup: func(t *testing.T, dir string) { writeInitScript(t, dir, "sysv", lsbScript(dir)) },
		Open: func(dir string) (initsys.Unit, error) {
			return initsys.NewSysV(initsys.SysVConfig{Script: scriptName(dir), PIDFile: initsystest.PIDFile(dir), Output: filepath.Join(dir, "output")})
		},
		Dead: initsys.Failed,
	}},
	{"openrc", initsystest.Adapter{
		Name:  "openrc-run",
		Setup: func(t *testing.T, dir string) { writeInitScript(t, dir, "openrc", openrcScript(dir)) },
		Open:  openOpenRC,
		Dead:  initsys.Failed,
	}},
	{"openrc", initsystest.Adapter{
		Name:  "openrc-lsb",
		Setup: func(t *testing.T, dir string) { writeInitScript(t, dir, "openrc", lsbScript(dir)) },
		Open:  openOpenRC,
		Dead:  initsys.Failed,
	}},
}

func machineAdapters() (all []initsystest.Adapter) {
	for _, m := range machines {
		all = append(all, m.Adapter)
	}
	return all
}

func TestMachineConformance(t *testing.T) {
	for _, m := range machines {
		t.Run(m.Name, func(t *testing.T) {
			onInit(t, m.init)
			initsystest.Run(t, m.Adapter)
		})
	}
}

func openOpenRC(dir string) (initsys.Unit, error) {
	return initsys.NewOpenRC(initsys.OpenRCConfig{Script: scriptName(dir), PIDFile: initsystest.PIDFile(dir), Output: filepath.Join(dir, "output")})
}

// scriptName is the name in init's own namespace of what lives in dir.
func scriptName(dir string) string {
	h := fnv.New64a()
	h.Write([]byte(dir))
	return fmt.Sprintf("kido-test-%x", h.Sum64())
}

func shell(argv []string) string { return "'" + strings.Join(argv, "' '") + "'" }

func writeInitScript(t *testing.T, dir, init, text string) {
	t.Helper()
	onInit(t, init)
	file := "/etc/init.d/" + scriptName(dir)
	t.Cleanup(func() {
		if init == "openrc" { // or it remembers a service that is gone
			_ = exec.Command("rc-service", scriptName(dir), "zap").Run()
		}
		os.Remove(file)
	})
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// openrcScript leaves to openrc-run what it does by itself, and so is told that
// the service is started whatever became of it.
func openrcScript(dir string) string {
	daemon := initsystest.DaemonArgv(dir)
	return fmt.Sprintf(`#!/sbin/openrc-run
description="the service of the conformance suite"
command=%[1]s
command_args="%[2]s"
pidfile=%[3]s
extra_started_commands=reload
start_pre() { %[4]s; }
reload() { kill -HUP $(cat %[3]s); }
`, daemon[0], strings.Join(daemon[1:], " "), initsystest.PIDFile(dir), shell(initsystest.BeginArgv(dir, "start")))
}

func systemdAdapter(name, kind string, argv func(dir string) []string, dead initsys.State, c initsys.SystemdConfig) initsystest.Adapter {
	unit := func(dir string) string { return scriptName(dir) + ".service" }
	file := unit
	if name == "systemd-template" {
		unit = func(dir string) string { return scriptName(dir) + "@15-main.service" }
		file = func(dir string) string { return scriptName(dir) + "@.service" }
	}
	return initsystest.Adapter{
		Name: name,
		Setup: func(t *testing.T, dir string) {
			if slices.Contains(c.Systemctl, sudo[0]) {
				onInit(t, "systemd"+withSudo)
			} else {
				onInit(t, "systemd")
			}
			more := ""
			switch kind {
			case "forking":
				more = "PIDFile=" + initsystest.PIDFile(dir)
			case "oneshot":
				more = "RemainAfterExit=yes"
			}
			writeUnit(t, file(dir), unit(dir), fmt.Sprintf("[Service]\nType=%s\nExecStartPre=%s\nExecStart=%s\nExecReload=%s\n%s\n",
				kind, strings.Join(initsystest.BeginArgv(dir, "start"), " "), strings.Join(argv(dir), " "), strings.Join(initsystest.ReloadArgv(dir), " "), more))
		},
		Open: func(dir string) (initsys.Unit, error) {
			c.Unit = unit(dir)
			return initsys.NewSystemd(c)
		},
		Dead:     dead,
		NoOutput: true,
	}
}

const unitDir = "/run/systemd/system/"

func systemctl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		t.Fatalf("systemctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// writeUnit makes a unit known to systemd for the time of a test.
func writeUnit(t *testing.T, file, unit, text string) {
	t.Helper()
	t.Cleanup(func() {
		_ = exec.Command("systemctl", "kill", "--signal=KILL", unit).Run() // a stop may be made to hang
		_ = exec.Command("systemctl", "stop", unit).Run()
		_ = exec.Command("systemctl", "reset-failed", unit).Run()
		os.Remove(unitDir + file)
	})
	if err := os.WriteFile(unitDir+file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	findUnit(t, unit)
}

// findUnit makes systemd find a new unit. A daemon-reload would do, and would
// make it forget what the tests beside this one look for: how often a unit was
// started, which of its conditions were not met. So the folder is marked as
// changed: another file may have come in the same tick of its clock.
func findUnit(t *testing.T, unit string) {
	t.Helper()
	for {
		out, err := exec.Command("systemctl", "show", "--property=LoadState", "--value", unit).Output()
		if err != nil || t.Context().Err() != nil {
			t.Fatalf("unit %s is not found: %s %v", unit, out, err)
		}
		if strings.TrimSpace(string(out)) != "not-found" {
			return
		}
		now := time.Now()
		if err := os.Chtimes(unitDir, now, now); err != nil {
			t.Fatal(err)
		}
	}
}

// systemdUnit is a unit of a test of its own.
type systemdUnit struct {
	initsys.Unit
	name string
	dir  string
}

// newSystemdUnit makes one of a unit file in which DIR stands for a folder.
func newSystemdUnit(t *testing.T, text string) systemdUnit {
	t.Helper()
	onInit(t, "systemd")
	dir := t.TempDir()
	u := systemdUnit{name: scriptName(dir) + ".service", dir: dir}
	writeUnit(t, u.name, u.name, strings.ReplaceAll(text, "DIR", dir))
	u.Unit = openSystemd(t, u.name)
	return u
}

func openSystemd(t *testing.T, name string) initsys.Unit {
	t.Helper()
	u, err := initsys.NewSystemd(initsys.SystemdConfig{Unit: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.(interface{ Close() error }).Close(); err != nil {
			t.Error(err)
		}
	})
	return u
}

func begin(t *testing.T, u initsys.Unit, a initsys.Action) initsys.Job {
	t.Helper()
	j, err := u.Prepare(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	if err := j.Go(); err != nil {
		t.Fatal(err)
	}
	return j
}

// do carries an action out and returns its error, wherever that came from.
func do(t *testing.T, u initsys.Unit, a initsys.Action) error {
	t.Helper()
	j, err := u.Prepare(t.Context(), a)
	if err != nil {
		return err
	}
	defer j.Close()
	if err := j.Go(); err != nil {
		return err
	}
	return j.Wait(t.Context())
}

func must(t *testing.T, u initsys.Unit, a initsys.Action) {
	t.Helper()
	if err := do(t, u, a); err != nil {
		t.Fatal(err)
	}
}

func settle(t *testing.T, u initsys.Unit, want ...initsys.State) initsys.Observation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o, err := initsys.Settle(ctx, u, want...)
	if err != nil {
		t.Fatalf("waiting for %v: %v; last seen: %+v", want, err, o)
	}
	return o
}

// busy waits until the unit is busy with that.
func busy(t *testing.T, u initsys.Unit, word string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o, err := initsys.Until(ctx, u, func(o initsys.Observation, err error) bool {
		return err != nil || o.State == initsys.Busy && strings.Contains(o.Word, word)
	})
	if err != nil || o.State != initsys.Busy || !strings.Contains(o.Word, word) {
		t.Errorf("%+v, %v; want busy: %s", o, err, word)
	}
}

func wantWord(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: %q does not say %q", what, got, want)
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v; want one that says %q", err, want)
	}
}

// pipe makes a named pipe in which a start or a stop gets stuck by reading it,
// and returns what lets that go on.
func pipe(t *testing.T, dir string) (release func()) {
	t.Helper()
	name := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		w, err := os.OpenFile(name, os.O_WRONLY, 0) // waits for the reader
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
}

const (
	sleeps    = "[Service]\nType=exec\nExecStart=/bin/sleep 600\n"
	slowStart = "[Service]\nType=exec\nExecStartPre=/bin/cat DIR/pipe\nExecStart=/bin/sleep 600\n"
)

func TestSystemdMasked(t *testing.T) {
	t.Parallel()
	onInit(t, "systemd")
	name := scriptName(t.TempDir()) + ".service"
	t.Cleanup(func() { os.Remove(unitDir + name) })
	if err := os.Symlink(os.DevNull, unitDir+name); err != nil {
		t.Fatal(err)
	}
	findUnit(t, name)
	u := openSystemd(t, name)
	if o := settle(t, u, initsys.Down); o.Word != "masked" {
		t.Errorf("%+v", o)
	}
	wantError(t, do(t, u, initsys.Start), "it is masked: systemctl unmask "+name)
}

func TestSystemdMissing(t *testing.T) {
	onInit(t, "systemd")
	u := openSystemd(t, "kido-test-none@1")
	_, err := u.Observe(t.Context())
	wantError(t, err, "systemd has no unit kido-test-none@1.service: correct its name")
	wantError(t, do(t, u, initsys.Restart), "restart of kido-test-none@1.service: ")
	u = openSystemd(t, "kido-test-none.socket")
	_, err = u.Observe(t.Context())
	wantError(t, err, "systemd has no unit kido-test-none.socket")
}

func TestSystemdBadUnitFile(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, "[Service]\nType=simple\n")
	_, err := u.Observe(t.Context())
	wantError(t, err, "systemd cannot use unit "+u.name+" (bad-setting)")
}

func TestSystemdFails(t *testing.T) {
	for _, x := range []struct{ name, text, result string }{
		{"exit", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 3'\n", "exit-code (exit status 3)"},
		{"before", "[Service]\nType=exec\nExecStartPre=/bin/false\nExecStart=/bin/sleep 600\n", "exit-code"},
		{"signal", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'kill -9 $$$$'\n", "signal (killed)"},
		{"timeout", "[Service]\nType=notify\nTimeoutStartSec=100ms\nExecStart=/bin/sleep 600\n", "timeout"},
		{"protocol", "[Service]\nType=notify\nExecStart=/bin/true\n", "protocol"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			u := newSystemdUnit(t, x.text)
			wantError(t, do(t, u, initsys.Start), "start of "+u.name+": failed: "+x.result+"; journalctl -u "+u.name+" says more")
			if o := settle(t, u, initsys.Failed); o.Word != x.result {
				t.Errorf("%+v; want %s", o, x.result)
			}
			must(t, u, initsys.Stop) // of what has failed: nothing to do
		})
	}
}

func TestSystemdStartLimit(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=1\n"+sleeps)
	must(t, u, initsys.Start)
	err := do(t, u, initsys.Restart)
	wantError(t, err, "start-limit-hit: it was started too often; systemctl reset-failed "+u.name)
	wantWord(t, "word", settle(t, u, initsys.Failed).Word, "start-limit-hit")
}

func TestSystemdNeedsAnother(t *testing.T) {
	t.Parallel()
	broken := newSystemdUnit(t, "[Service]\nType=oneshot\nExecStart=/bin/false\n")
	dir := t.TempDir()
	name := scriptName(dir) + ".service"
	writeUnit(t, name, name, "[Unit]\nRequires="+broken.name+"\nAfter="+broken.name+"\n"+sleeps)
	wantError(t, do(t, openSystemd(t, name), initsys.Start), "a unit that it needs did not start")
}

func TestSystemdConditions(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, "[Unit]\nConditionPathExists=/proc\nConditionPathExists=!DIR\n"+sleeps)
	if o := settle(t, u, initsys.Down); o.Word != "" {
		t.Errorf("never tried: %+v", o)
	}
	const word = "not started, as its conditions are not met"
	// Nothing wants this unit, so systemd forgets it at once.
	wantError(t, do(t, u, initsys.Start), "start of "+u.name+": "+word)
	wanting := scriptName(t.TempDir()) + ".service"
	writeUnit(t, wanting, wanting, "[Unit]\nWants="+u.name+"\n"+sleeps)
	must(t, openSystemd(t, wanting), initsys.Start)
	wantError(t, do(t, u, initsys.Start), "start of "+u.name+": "+word+": ConditionPathExists=!"+u.dir)
	wantWord(t, "word", settle(t, u, initsys.Down).Word, word+": ConditionPathExists=!"+u.dir)
	must(t, u, initsys.Stop) // is not an attempt to start it
}

func TestSystemdAsserts(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, "[Unit]\nAssertPathExists=/none\n"+sleeps)
	wantError(t, do(t, u, initsys.Start), "one of its assertions")
}

// TestSystemdSlowStart: while a unit starts it is busy, for as long as it takes;
// who waits for it is told, and a start that is called off says so.
func TestSystemdSlowStart(t *testing.T) {
	t.Parallel()
	t.Run("released", func(t *testing.T) {
		u := newSystemdUnit(t, slowStart)
		release := pipe(t, u.dir)
		j := begin(t, u, initsys.Start)
		busy(t, u, "its start job is running")
		starting := time.Now()
		go release()
		if err := j.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		ready := time.Now()
		o := settle(t, u, initsys.Up)
		if len(o.Token) != 32 || o.Age <= 0 || o.Age > time.Hour {
			t.Errorf("%+v", o)
		}
		if since := ready.Sub(starting); o.Begun <= o.Age || o.Begun < since || o.Begun > time.Hour {
			t.Errorf("it was being started already %v before it was up: %+v", since, o)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		u := newSystemdUnit(t, slowStart)
		pipe(t, u.dir)
		j := begin(t, u, initsys.Start)
		must(t, openSystemd(t, u.name), initsys.Stop)
		wantError(t, j.Wait(t.Context()), "start of "+u.name+": canceled: systemd was told something else meanwhile")
		settle(t, u, initsys.Down, initsys.Failed)
	})
	t.Run("waits for its turn", func(t *testing.T) {
		first := newSystemdUnit(t, slowStart)
		release := pipe(t, first.dir)
		name := scriptName(t.TempDir()) + ".service"
		writeUnit(t, name, name, "[Unit]\nAfter="+first.name+"\n"+sleeps)
		u := openSystemd(t, name)
		begin(t, first, initsys.Start)
		j := begin(t, u, initsys.Start)
		busy(t, u, "its start job is waiting")
		go release()
		if err := j.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestSystemdReloads: systemd reads its files anew, and is replaced by itself (as
// a package upgrade does) while a start is waited for. Both are everybody's
// business, so nothing runs beside this.
func TestSystemdReloads(t *testing.T) {
	for _, how := range []string{"daemon-reload", "daemon-reexec"} {
		t.Run(how, func(t *testing.T) {
			u := newSystemdUnit(t, slowStart)
			release := pipe(t, u.dir)
			j := begin(t, u, initsys.Start)
			systemctl(t, how)
			go release()
			if err := j.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			before := settle(t, u, initsys.Up)
			systemctl(t, how)
			if after := settle(t, u, initsys.Up); after.Token != before.Token {
				t.Errorf("%+v became %+v", before, after)
			}
		})
	}
}

// TestSystemdStuckInStop: a unit that does not end is busy, with or without a
// job of systemd's.
func TestSystemdStuckInStop(t *testing.T) {
	t.Parallel()
	text := "[Service]\nType=exec\nExecStart=/bin/sh -c 'echo $$$$ >DIR/pid; exec /bin/sleep 600'\nExecStopPost=/bin/cat DIR/pipe\nTimeoutStopSec=infinity\n"
	t.Run("job", func(t *testing.T) {
		u := newSystemdUnit(t, text)
		release := pipe(t, u.dir)
		must(t, u, initsys.Start)
		j := begin(t, u, initsys.Stop)
		busy(t, u, "its stop job is running")
		go release()
		if err := j.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		settle(t, u, initsys.Down)
	})
	t.Run("no job", func(t *testing.T) {
		u := newSystemdUnit(t, text)
		release := pipe(t, u.dir)
		must(t, u, initsys.Start)
		kill(t, u)
		busy(t, u, "stopping")
		go release()
		if o := settle(t, u, initsys.Failed); o.Word != "signal (killed)" {
			t.Errorf("%+v", o)
		}
	})
}

// kill kills the unit's main process, by the pid that it writes into a file.
func kill(t *testing.T, u systemdUnit) {
	t.Helper()
	if out, err := exec.Command("systemctl", "kill", "--signal=KILL", "--kill-who=main", u.name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestSystemdAutoRestart(t *testing.T) {
	t.Parallel()
	t.Run("at once", func(t *testing.T) {
		u := newSystemdUnit(t, "[Service]\nType=exec\nExecStart=/bin/sleep 600\nRestart=always\nRestartSec=0\n")
		must(t, u, initsys.Start)
		before := settle(t, u, initsys.Up)
		kill(t, u)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		o, err := initsys.Until(ctx, u, func(o initsys.Observation, err error) bool {
			return err != nil || o.State == initsys.Up && o.Token != before.Token
		})
		if err != nil || o.State != initsys.Up || o.Token == before.Token {
			t.Errorf("%+v, %v; before: %+v", o, err, before)
		}
	})
	t.Run("later", func(t *testing.T) {
		u := newSystemdUnit(t, "[Service]\nType=exec\nExecStart=/bin/sleep 600\nRestart=always\nRestartSec=1h\n")
		must(t, u, initsys.Start)
		before := settle(t, u, initsys.Up)
		kill(t, u)
		busy(t, u, "in auto-restart")
		must(t, u, initsys.Restart)
		if after := settle(t, u, initsys.Up); after.Token == before.Token {
			t.Errorf("the token stayed %s", after.Token)
		}
	})
}

func TestSystemdNoReload(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, sleeps)
	if err := do(t, u, initsys.Reload); !errors.Is(err, initsys.ErrUnsupported) {
		t.Errorf("reload of a unit without one: %v", err)
	}
}

func TestSystemdAlias(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, sleeps)
	name := scriptName(t.TempDir()) + ".service"
	if err := os.Symlink(u.name, unitDir+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(unitDir + name) })
	findUnit(t, name)
	alias := openSystemd(t, name)
	must(t, alias, initsys.Start)
	if a, b := settle(t, alias, initsys.Up), settle(t, u, initsys.Up); a.Token != b.Token {
		t.Errorf("%+v by one name, %+v by the other", a, b)
	}
	must(t, alias, initsys.Stop)
	settle(t, u, initsys.Down)
}

// TestSystemdWatch: looking is no change, or a wait would keep itself busy.
func TestSystemdWatch(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, sleeps)
	w := u.Unit.(initsys.Watcher)
	changed, err := w.Changed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		settle(t, u, initsys.Down)
	}
	select {
	case <-changed:
		t.Error("looking was heard as a change")
	default:
	}
	must(t, openSystemd(t, u.name), initsys.Start)
	select {
	case <-changed:
	case <-t.Context().Done():
		t.Error("a start went unheard")
	}
	if changed, err = w.Changed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := u.Unit.(interface{ Close() error }).Close(); err != nil {
		t.Fatal(err)
	}
	<-changed // who waits is not left waiting
	settle(t, u, initsys.Up)
}

// TestSystemdTrap: an empty unit above the real one, as Debian's postgresql.
func TestSystemdTrap(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, "[Service]\nType=oneshot\nExecStart=/bin/true\nExecReload=/bin/true\nRemainAfterExit=yes\n")
	if word, err := initsys.Trap(t.Context(), u.Unit); word != "" || err != nil {
		t.Errorf("a unit with nothing below it: %q, %v", word, err)
	}
	below := strings.TrimSuffix(u.name, ".service") + "@.service"
	real := strings.TrimSuffix(u.name, ".service") + "@15-main.service"
	writeUnit(t, below, real, "[Unit]\nPartOf="+u.name+"\nBefore="+u.name+"\n"+sleeps)
	must(t, openSystemd(t, real), initsys.Start)
	want := u.name + " is an empty unit above " + real + ": a restart of that is not seen here, so name that one instead"
	if word, err := initsys.Trap(t.Context(), u.Unit); word != want || err != nil {
		t.Errorf("while it is down: %q, %v; want %q", word, err, want)
	}
	must(t, u, initsys.Start)
	if o := settle(t, u, initsys.Up); o.Word != want {
		t.Errorf("%+v; want %q", o, want)
	}
	if word, err := initsys.Trap(t.Context(), openSystemd(t, real)); word != "" || err != nil {
		t.Errorf("the real unit: %q, %v", word, err)
	}
	if word, err := initsys.Trap(t.Context(), newPair(t)); word != "" || err != nil {
		t.Errorf("a unit with a main process, while it is down: %q, %v", word, err)
	}
	over := newOneshot(t)
	word, err := initsys.Trap(t.Context(), over)
	if err != nil {
		t.Error(err)
	}
	wantWord(t, "trap", word, "is a oneshot without RemainAfterExit: it is never up")
}

// newPair is a real service with another one that is part of it.
func newPair(t *testing.T) initsys.Unit {
	t.Helper()
	name, part := scriptName(t.TempDir())+".service", scriptName(t.TempDir())+".service"
	writeUnit(t, name, name, sleeps)
	writeUnit(t, part, part, "[Unit]\nPartOf="+name+"\n"+sleeps)
	must(t, openSystemd(t, part), initsys.Start)
	return openSystemd(t, name)
}

func newOneshot(t *testing.T) initsys.Unit {
	t.Helper()
	name := scriptName(t.TempDir()) + ".service"
	writeUnit(t, name, name, "[Service]\nType=oneshot\nExecStart=/bin/true\n")
	return openSystemd(t, name)
}

// BenchmarkSystemdLook compares a look from nothing, as each gate takes one,
// with the one program that a script would run for it.
func BenchmarkSystemdLook(b *testing.B) {
	onInit(b, "systemd")
	var ours, theirs time.Duration
	for b.Loop() {
		begun := time.Now()
		u, err := initsys.NewSystemd(initsys.SystemdConfig{Unit: "ssh"})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := u.Observe(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := u.(interface{ Close() error }).Close(); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(begun)
		begun = time.Now()
		if err := exec.Command("systemctl", "show", "--property=ActiveState,InvocationID,Job", "ssh").Run(); err != nil {
			b.Fatal(err)
		}
		theirs += time.Since(begun)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "x-systemctl")
}

// asNobody makes a copy of the test program carry one action out, on a unit that
// the variable names, for a user without rights.
const asNobody = "KIDO_TEST_AS_NOBODY"

func nobodyMain() {
	verb, unit, ok := strings.Cut(os.Getenv(asNobody), " ")
	if !ok {
		return
	}
	u, err := initsys.NewSystemd(initsys.SystemdConfig{Unit: unit})
	if err == nil {
		var j initsys.Job
		if j, err = u.Prepare(context.Background(), initsys.Action(verb)); err == nil {
			if err = j.Go(); err == nil {
				err = j.Wait(context.Background())
			}
		}
	}
	fmt.Println(err)
	os.Exit(0)
}

// TestSystemdAccess: what polkit grants, and nothing else. A start goes by the
// verb restart.
func TestSystemdAccess(t *testing.T) {
	t.Parallel()
	u := newSystemdUnit(t, sleeps)
	if _, err := exec.LookPath("pkaction"); err != nil {
		t.Skip("SKIPPED: there is no polkit here (package polkitd), so what a user without rights may do is not tried")
	}
	const nobody = 65534
	as := func(a initsys.Action) string {
		t.Helper()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{asNobody + "=" + string(a) + " " + u.name}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	denied := func(a initsys.Action, verb string) string {
		return fmt.Sprintf("%s of %s: access denied: a polkit rule must let user id %d do the verb %s on unit %s (action org.freedesktop.systemd1.manage-units), and there is none", a, u.name, nobody, verb, u.name)
	}
	for a, verb := range map[initsys.Action]string{initsys.Start: "restart", initsys.Stop: "stop", initsys.Restart: "restart"} {
		if got := as(a); got != denied(a, verb) {
			t.Errorf("%s without a rule: %s", a, got)
		}
	}
	settle(t, u, initsys.Down)

	rule := "/etc/polkit-1/rules.d/10-" + u.name + ".rules"
	t.Cleanup(func() { os.Remove(rule) })
	if err := os.WriteFile(rule, fmt.Appendf(nil, `polkit.addRule(function(a, s) {
	if (a.id == "org.freedesktop.systemd1.manage-units" && s.user == "nobody" && a.lookup("unit") == %q && a.lookup("verb") == "restart") return polkit.Result.YES;
});
`, u.name), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "restart", "polkit.service")
	if got := as(initsys.Start); got != "<nil>" {
		t.Errorf("start with the verb restart: %s", got)
	}
	before := settle(t, u, initsys.Up)
	if got := as(initsys.Start); got != "<nil>" {
		t.Errorf("start of what is up: %s", got)
	}
	if o := settle(t, u, initsys.Up); o.Token != before.Token {
		t.Error("start of what is up restarted it")
	}
	if got := as(initsys.Restart); got != "<nil>" {
		t.Errorf("restart: %s", got)
	}
	if o := settle(t, u, initsys.Up); o.Token == before.Token {
		t.Error("restart did nothing")
	}
	if got := as(initsys.Stop); got != denied(initsys.Stop, "stop") {
		t.Errorf("stop, which the rule does not grant: %s", got)
	}
}

// TestSystemctl: whoever goes by way of systemctl hears the same of what became
// of an action as whoever asks systemd himself.
func TestSystemctl(t *testing.T) {
	tell := func(t *testing.T, u systemdUnit) initsys.Unit {
		t.Helper()
		told, err := initsys.NewSystemd(initsys.SystemdConfig{Unit: u.name, Systemctl: []string{"/usr/bin/systemctl"}, Output: filepath.Join(u.dir, "output")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := told.(interface{ Close() error }).Close(); err != nil {
				t.Error(err)
			}
		})
		return told
	}
	for _, x := range []struct{ name, text, want string }{
		{"fails", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 3'\n", "failed: exit-code (exit status 3); journalctl -u "},
		{"conditions", "[Unit]\nConditionPathExists=!/proc\n" + sleeps, "not started, as its conditions are not met"},
		{"asserts", "[Unit]\nAssertPathExists=/none\n" + sleeps, "one of its assertions"},
		{"refused", "[Unit]\nRefuseManualStart=yes\n" + sleeps, "/usr/bin/systemctl restart "},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			u := tell(t, newSystemdUnit(t, x.text))
			for _, a := range []initsys.Action{initsys.Start, initsys.Restart} {
				err := do(t, u, a)
				wantError(t, err, string(a)+" of kido-test-")
				wantError(t, err, x.want)
			}
		})
	}
	t.Run("canceled", func(t *testing.T) {
		t.Parallel()
		u := newSystemdUnit(t, slowStart)
		pipe(t, u.dir)
		j := begin(t, tell(t, u), initsys.Start)
		busy(t, u, "its start job is running")
		must(t, u, initsys.Stop)
		wantError(t, j.Wait(t.Context()), "start of "+u.name+": canceled: systemd was told something else meanwhile")
	})
	t.Run("no reload", func(t *testing.T) {
		t.Parallel()
		if err := do(t, tell(t, newSystemdUnit(t, sleeps)), initsys.Reload); !errors.Is(err, initsys.ErrUnsupported) {
			t.Errorf("reload of a unit without one: %v", err)
		}
	})
	t.Run("up already", func(t *testing.T) {
		t.Parallel()
		plain := newSystemdUnit(t, sleeps)
		u := tell(t, plain)
		must(t, u, initsys.Start)
		before := settle(t, u, initsys.Up)
		must(t, u, initsys.Start)
		if o := settle(t, u, initsys.Up); o.Token != before.Token {
			t.Error("start of what is up restarted it")
		}
	})
}

// TestDebianServices: the scripts that Debian ships, which know nothing of kido.
func TestDebianServices(t *testing.T) {
	is := os.Getenv(labInit)
	if is != "sysv" && is != "openrc" {
		t.Skipf("SKIPPED: Debian's own init scripts are not tried: it needs a machine of the lab with %s=sysv or openrc (which is %q)", labInit, is)
	}
	onInit(t, is)
	for _, x := range []struct{ script, pidFile string }{
		{"apache2", "/run/apache2/apache2.pid"},
		{"postgresql", "/run/postgresql/15-main.pid"},
		{"ssh", "/run/sshd.pid"},
	} {
		t.Run(x.script, func(t *testing.T) {
			if _, err := os.Stat("/etc/init.d/" + x.script); err != nil {
				t.Skipf("SKIPPED: this machine has no %s", x.script)
			}
			open := func(pidFile string) initsys.Unit {
				t.Helper()
				output := filepath.Join(t.TempDir(), "output")
				u, err := initsys.NewSysV(initsys.SysVConfig{Script: x.script, PIDFile: pidFile, Output: output})
				if is == "openrc" {
					u, err = initsys.NewOpenRC(initsys.OpenRCConfig{Script: x.script, PIDFile: pidFile, Output: output})
				}
				if err != nil {
					t.Fatal(err)
				}
				return u
			}
			u := open(x.pidFile)
			first, err := u.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			back := initsys.Start
			if first.State == initsys.Down {
				back = initsys.Stop
			}
			t.Cleanup(func() {
				j, err := u.Prepare(context.Background(), back)
				if err == nil {
					defer j.Close()
					if err = j.Go(); err == nil {
						err = j.Wait(context.Background())
					}
				}
				if err != nil {
					t.Errorf("%s in the end: %v", back, err)
				}
			})
			must(t, u, initsys.Start)
			one := settle(t, u, initsys.Up)
			must(t, u, initsys.Start)
			must(t, u, initsys.Reload)
			if o := settle(t, u, initsys.Up); o.Token != one.Token {
				t.Errorf("start of what is up and reload: %+v became %+v", one, o)
			}
			wrong, err := open("").Observe(t.Context()) // none of them has the usual pid file
			if err != nil || wrong.State != initsys.Up || wrong.Token != "" {
				t.Errorf("with the wrong pid file: %+v, %v", wrong, err)
			}
			wantWord(t, "word", wrong.Word, "there is no pid file /run/"+x.script+".pid")
			must(t, u, initsys.Restart)
			two := settle(t, u, initsys.Up)
			if two.Token == one.Token {
				t.Error("restart kept the token")
			}

			killMain(t, x.pidFile)
			if o := settle(t, u, initsys.Failed); o.Token != "" {
				t.Errorf("killed: %+v", o)
			}
			must(t, u, initsys.Restart)
			if o := settle(t, u, initsys.Up); o.Token == two.Token {
				t.Error("it came back with the token of the process that was killed")
			}
			must(t, u, initsys.Stop)
			settle(t, u, initsys.Down)
			must(t, u, initsys.Restart)
			settle(t, u, initsys.Up)
		})
	}
}

// killMain kills a daemon with its process group: Debian's apache2 touches no
// workers whose master is gone, and so they keep its port until a person comes.
func killMain(t *testing.T, pidFile string) {
	t.Helper()
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	c, err := initsys.Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRCStates(t *testing.T) {
	onInit(t, "openrc")
	none, err := initsys.NewOpenRC(initsys.OpenRCConfig{Script: "kido-test-none"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = none.Observe(t.Context())
	wantError(t, err, "openrc has no service kido-test-none")

	dir := t.TempDir()
	writeInitScript(t, dir, "openrc", fmt.Sprintf(`#!/sbin/openrc-run
start() { cat %[1]s/pipe; echo $$ >/run/${RC_SVCNAME}.pid; }
stop() { rm -f /run/${RC_SVCNAME}.pid; cat %[1]s/pipe; }
`, dir))
	release := pipe(t, dir)
	u, err := initsys.NewOpenRC(initsys.OpenRCConfig{Script: scriptName(dir), Output: filepath.Join(dir, "output")})
	if err != nil {
		t.Fatal(err)
	}
	j := begin(t, u, initsys.Start)
	busy(t, u, "openrc is starting it")
	go release()
	if err := j.Wait(t.Context()); err != nil {
		t.Fatal(err, j.Output())
	}
	j = begin(t, u, initsys.Stop)
	busy(t, u, "openrc is stopping it")
	go release()
	if err := j.Wait(t.Context()); err != nil {
		t.Fatal(err, j.Output())
	}
	settle(t, u, initsys.Down)
	if err := do(t, u, initsys.Reload); !errors.Is(err, initsys.ErrUnsupported) {
		t.Errorf("reload of a script without one: %v", err)
	}
}
