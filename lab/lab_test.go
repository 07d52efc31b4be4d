package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// connect is a shell command that makes a TCP connection to a machine's sshd and
// says what came of it, in at most a second: answered, hung, silence or refused.
func connect(to string) []string {
	return []string{"bash", "-c", `
		timeout 1 bash -c 'exec 3<>/dev/tcp/$0/22; echo connected; read -r line <&3; echo "$line"' "$0" >/tmp/connect.$$ 2>&1
		status=$? said=$(cat /tmp/connect.$$); rm /tmp/connect.$$
		case "$status $said" in
		"0 connected"*SSH-*) echo answered ;;
		"124 connected") echo hung ;;
		"124 ") echo silence ;;
		*refused*) echo refused ;;
		*) echo "$status $said" ;;
		esac`, to}
}

// expect waits until a connection from one machine to another's sshd comes to the
// end that is wanted: a second is not long on a machine with other work.
func (l *Lab) expect(t *testing.T, want string, from, to int) {
	t.Helper()
	var got string
	defer func() {
		if t.Failed() {
			t.Logf("machine %d connects to %d: %s; want %s", from, to, got, want)
		}
	}()
	l.Until("a connection is "+want, func() bool {
		got = strings.TrimSpace(l.Run(from, connect(l.Addr(to))...))
		return got == want
	})
}

func TestKinds(t *testing.T) {
	t.Parallel()
	l := Start(t, Kinds()...)
	ids := map[string]int{}
	for i, kind := range Kinds() {
		host := i + 1
		is := strings.TrimSpace(l.Run(host, "cat", "/proc/1/comm"))
		switch {
		case is == "init" && strings.TrimSpace(l.Run(host, "sh", "-c", "ls /run/openrc/softlevel 2>/dev/null || :")) != "":
			is = "openrc"
		case is == "init":
			is = "sysv"
		}
		if is != kind.Init() {
			t.Errorf("%s: process 1 is %s", kind, is)
		}
		if release := l.Run(host, "cat", "/etc/os-release"); !strings.Contains(release, strings.TrimPrefix(string(kind), kind.Init()+":")) {
			t.Errorf("%s is %s", kind, release)
		}
		for _, id := range []string{"/etc/ssh/ssh_host_ed25519_key", "/etc/machine-id", "/proc/sys/kernel/hostname"} {
			text := l.Run(host, "cat", id)
			if other := ids[text]; text == "" || other > 0 {
				t.Errorf("machines %d and %d have the same %s", host, other, id)
			}
			ids[text] = host
		}
		// By its own sshd, over the network, with its pinned key.
		next := fmt.Sprint("h", host%len(Kinds())+1)
		if got := strings.TrimSpace(l.Run(host, "ssh", "-o", "BatchMode=yes", next, "hostname")); got != next {
			t.Errorf("ssh from %s to %s reaches %q", kind, next, got)
		}
	}
	t.Run("lifecycle", func(t *testing.T) {
		for i, kind := range Kinds() {
			host := i + 1
			l.Reboot(host)
			l.Ready(host)
			l.Poweroff(host)
			if l.On(host) || l.Boots(host) != 2 {
				t.Errorf("%s: on %v after %d boots; want it off after 2", kind, l.On(host), l.Boots(host))
			}
		}
		l.Boot()
		l.Ready()
	})
}

func TestExec(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd)
	cmd := l.Command(1, "sh", "-c", `read -r word; echo "$word $(hostname) $HOME ${KIDO_LAB-unset}"; echo sad >&2; exit 7`)
	cmd.Stdin = strings.NewReader("hello\n")
	got, err := output(cmd)
	exit := (*exec.ExitError)(nil)
	if want := "hello h1 /root unset\n"; got != want || !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(err.Error(), "sad") {
		t.Errorf("got %q, %v; want %q, exit status 7 and the standard error", got, err, want)
	}
	// A daemon keeps neither us nor our pipe.
	l.Run(1, "sh", "-c", "sleep 1000 &")
	// Not for any price: the machines share this machine's clock.
	if _, err := l.Exec(1, "date", "-s", "2001-01-01"); err == nil {
		t.Error("a machine can set the clock")
	}
}

func TestDisk(t *testing.T) {
	t.Parallel()
	l := Make(t, Systemd)
	l.Put(1, "/srv/new/file", 0o750, []byte("written while off"))
	if got := l.Offline(1, "stat", "-c", "%a %U", "/srv/new/file", "/root", "/bin/sh"); got != "750 root\n700 root\n777 root\n" {
		t.Errorf("modes are %q", got)
	}
	l.Offline(1, "systemctl", "-q", "enable", "apache2.service")
	l.Boot()
	if got := l.Run(1, "cat", "/srv/new/file"); got != "written while off" {
		t.Errorf("the file is %q once the machine is on", got)
	}
	l.Until("apache2 runs, which was enabled before the first boot", func() bool {
		_, err := l.Exec(1, "systemctl", "-q", "is-active", "apache2.service")
		return err == nil
	})
	l.Put(1, "/srv/new/file", 0o640, []byte("written while on"))
	l.Poweroff(1)
	if got := string(l.Get(1, "/srv/new/file")); got != "written while on" {
		t.Errorf("the file is %q once the machine is off", got)
	}
}

func TestPartition(t *testing.T) {
	t.Parallel()
	l := Start(t, SysV, SysV, SysV)
	l.Partition(1, 2)
	l.expect(t, "silence", 1, 2)
	l.expect(t, "silence", 2, 1)
	l.expect(t, "answered", 1, 3)
	l.expect(t, "answered", 3, 2)
	l.Reboot(2)
	l.Ready(2) // which the tester can see
	l.expect(t, "silence", 1, 2)
	l.Heal()
	l.expect(t, "answered", 1, 2)
	l.expect(t, "answered", 2, 1)
}

func TestUnplug(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, Systemd)
	carrier := func(want string) {
		t.Helper()
		l.Until("carrier is "+want, func() bool {
			got, err := l.Exec(1, "cat", "/sys/class/net/eth0/carrier")
			return err == nil && strings.TrimSpace(got) == want
		})
	}
	carrier("1")
	l.Unplug(1)
	carrier("0")
	l.expect(t, "silence", 2, 1)
	l.Reboot(1)
	carrier("0")
	l.Plug(1)
	carrier("1")
	l.Ready(1)
	l.expect(t, "answered", 2, 1)
}

func TestFreeze(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, Systemd)
	l.Freeze(1)
	l.expect(t, "hung", 2, 1)
	if _, err := l.Exec(1, "true"); err == nil || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("a command in a frozen machine: %v; want it to be refused", err)
	}
	l.Thaw(1)
	l.expect(t, "answered", 2, 1)
	l.Freeze(1)
	l.PowerCut(1)
	l.Boot(1)
	l.Ready(1)
	l.expect(t, "answered", 2, 1)
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, Systemd)
	// A connection, as its other end sees it.
	peer := l.Command(2, "nc", "-d", l.Addr(1), "22")
	banner, err := peer.StdoutPipe()
	if err == nil {
		err = peer.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Process.Kill(); peer.Wait() })
	if line, err := bufio.NewReader(banner).ReadString('\n'); err != nil {
		t.Fatalf("the connection said %q, %v", line, err)
	}
	state := func() string {
		return strings.TrimSpace(l.Run(2, "sh", "-c", "ss -Htn dst "+l.Addr(1)+":22 | cut -d' ' -f1"))
	}
	before := l.Run(1, "cat", "/etc/machine-id")
	l.Run(1, "sh", "-c", "echo kept >/srv/file; systemctl -q start postgresql; sleep 1000 >/dev/null 2>&1 &")

	l.PowerCut(1)
	if l.On(1) || state() != "ESTAB" {
		t.Errorf("on %v, connection %q; want it off, and the peer none the wiser", l.On(1), state())
	}
	l.expect(t, "silence", 2, 1)
	if got := string(l.Get(1, "/srv/file")); got != "kept\n" {
		t.Errorf("the disk has %q", got)
	}
	l.Boot(1)
	l.PowerCut(1) // while it boots
	l.Boot(1)
	l.Ready(1)
	if l.Boots(1) != 3 || l.Run(1, "cat", "/srv/file") != "kept\n" || l.Run(1, "cat", "/etc/machine-id") != before || state() != "ESTAB" {
		t.Errorf("%d boots, connection %q; want 3, with the disk and the machine's identity kept, and the peer none the wiser", l.Boots(1), state())
	}
	if got, err := l.Exec(1, "pgrep", "sleep|postgres"); err == nil {
		t.Errorf("processes have outlived the power cut: %s", got)
	}
}

func TestLabsAreApart(t *testing.T) {
	t.Parallel()
	l, other := Start(t, SysV, SysV), Start(t, SysV)
	l.Partition(1, 2)
	l.Put(1, "/srv/file", 0o644, []byte("mine"))
	if out, err := other.Exec(1, "cat", "/srv/file"); err == nil {
		t.Errorf("another lab's machine has the file: %q", out)
	}
	other.PowerCut(1)
	if !l.On(1) || !l.On(2) {
		t.Error("a power cut in one lab has hit another")
	}
	l.expect(t, "silence", 1, 2)
}

// traces lists what there is of a lab on this machine.
func traces(t *testing.T, id string) (found []string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/" + id + "*", "/sys/fs/cgroup/*/" + id + "*", "/run/*/" + id + "*", "/run/netns/" + id + "*", "/tmp/*" + id + "*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, files...)
	}
	// Mounts of every namespace, and command lines.
	for _, pattern := range []string{"/proc/[0-9]*/mounts", "/proc/[0-9]*/cmdline", "/proc/[0-9]*/cgroup"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if ended, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline")); len(ended) == 0 {
				continue // and waits for its parent, which is not ours
			}
			if err == nil && strings.Contains(string(text), id) {
				found = append(found, file)
			}
		}
	}
	script, err := script()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(script)
	if err != nil || !strings.Contains(string(text), "RUN=$CACHE/run/$ID") {
		t.Fatalf("where does lab.sh keep its files? %v", err)
	}
	cache := os.Getenv("KIDO_LAB_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "kido-lab")
	}
	files, _ := filepath.Glob(filepath.Join(cache, "run", id+"*"))
	return append(found, files...)
}

func TestDownLeavesNothing(t *testing.T) {
	t.Parallel()
	var id string
	t.Run("lab", func(t *testing.T) {
		l := Start(t, Systemd, SysV)
		id = l.id
		l.Run(1, "sh", "-c", "sleep 1000 &")
		l.Poweroff(2)
		l.Freeze(1)
		if len(traces(t, id)) == 0 {
			t.Error("a lab that is up has left no trace: this test sees nothing")
		}
	})
	if id == "" {
		return
	}
	// What another test begins meanwhile may have this lab's mounts for a moment.
	var found []string
	defer func() {
		if t.Failed() {
			t.Logf("left behind: %s", found)
		}
	}()
	(&Lab{t: t}).Until("a lab that is down has left nothing", func() bool {
		found = traces(t, id)
		return len(found) == 0
	})
}

// TestKilledTester is a tester that dies without a word while its lab is up.
func TestKilledTester(t *testing.T) {
	const victim = "KIDO_LAB_TEST_VICTIM"
	t.Parallel()
	Need(t)
	if os.Getenv(victim) != "" {
		l := Start(t, Systemd, SysV)
		fmt.Println("lab", l.id)
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledTester$")
	cmd.Env = append(os.Environ(), victim+"=1")
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var id string
	for lines := bufio.NewScanner(stdout); id == "" && lines.Scan(); {
		id, _ = strings.CutPrefix(lines.Text(), "lab ")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if len(id) != 13 {
		t.Fatalf("the tester said %q before it had a lab", id)
	}
	(&Lab{t: t}).Until("the lab of a killed tester is gone", func() bool { return len(traces(t, id)) == 0 })
}
