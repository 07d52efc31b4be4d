// Package lab gives a test real machines: each runs a real init as process 1, a
// real sshd, its own disk, network stack and address, and can be cut off, hung,
// unplugged and robbed of its power.
//
// A [Lab] belongs to one test. Its machines are numbered from 1 and nobody else's;
// any number of labs run side by side without seeing each other. All is gone when
// the test ends, and also when the test's process is killed.
//
// A method that cannot do what it says ends the test with the reason; it must be
// called by the test's own goroutine. Those that return an error leave that to the
// test, and may be called by any.
//
// The machines are made by the program lab.sh of this folder; README.md tells how
// to use it by hand.
package lab

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Kind is an init and the release of Debian that it comes from.
type Kind string

// The kinds of machines there are.
const (
	Systemd       Kind = "systemd:bookworm"
	SystemdTrixie Kind = "systemd:trixie"
	SysV          Kind = "sysv:bookworm"
	OpenRC        Kind = "openrc:bookworm"
)

// Kinds returns all of them.
func Kinds() []Kind { return []Kind{Systemd, SystemdTrixie, SysV, OpenRC} }

// Init is the kind's init alone: systemd, sysv or openrc.
func (k Kind) Init() string {
	init, _, _ := strings.Cut(string(k), ":")
	return init
}

// patience is how long anything may take that is waited for. Only what fails
// takes so long.
const patience = 2 * time.Minute

// Lab is a switch with machines at it.
type Lab struct {
	t    testing.TB
	id   string
	size int
}

// Need skips the test, loudly, where no lab was asked for (KIDO_LAB is not 1) or
// none can run. With CI set, what was asked for and cannot run is a failure.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv("KIDO_LAB") != "1" {
		t.Skip("SKIPPED: wants real machines; run ./test as root, or set KIDO_LAB=1")
	}
	if err := possible(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no lab can run here, and CI must run it: %v", err)
		}
		t.Skipf("SKIPPED: no lab can run here: %v", err)
	}
}

var possible = sync.OnceValue(func() error {
	script, err := script()
	if err == nil {
		_, err = output(exec.Command(script, "check"))
	}
	return err
})

// script is lab.sh in the source tree.
var script = sync.OnceValues(func() (string, error) {
	root, err := output(exec.Command("go", "list", "-m", "-f", "{{.Dir}}"))
	return filepath.Join(strings.TrimSpace(root), "lab", "lab.sh"), err
})

// Start makes one machine of each kind named, boots them all and waits until they
// answer.
func Start(t testing.TB, kinds ...Kind) *Lab {
	t.Helper()
	l := Make(t, kinds...)
	l.Boot()
	l.Ready()
	return l
}

// Make makes one machine of each kind named and leaves them off. Machine 1 is of
// the first kind, and so on. The test is skipped where [Need] says so.
func Make(t testing.TB, kinds ...Kind) *Lab {
	t.Helper()
	Need(t)
	l := &Lab{t: t, id: "t" + strings.ToLower(rand.Text()[:12])}
	l.guard()
	args := []string{"make"}
	for _, k := range kinds {
		args = append(args, string(k))
	}
	l.do(args...)
	l.size = len(kinds)
	return l
}

// guard starts the process that takes the lab down when its input ends: at the
// test's end, or when this process ends in whatever way. In a session of its own,
// as Ctrl-C must not end it.
func (l *Lab) guard() {
	l.t.Helper()
	guard := l.script("guard")
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stderr, err := os.CreateTemp("", "kido-lab-")
	if err != nil {
		l.t.Fatal(err)
	}
	os.Remove(stderr.Name())
	guard.Stderr = stderr
	input, err := guard.StdinPipe()
	if err == nil {
		err = guard.Start()
	}
	if err != nil {
		stderr.Close()
		l.t.Fatalf("cannot start the guard of the lab: %v", err)
	}
	l.t.Cleanup(func() {
		defer stderr.Close()
		if l.t.Failed() {
			l.t.Log(l.logs())
		}
		input.Close()
		if err := guard.Wait(); err != nil {
			l.t.Errorf("lab %s did not go down: %v: %s", l.id, err, contents(stderr))
		}
	})
}

// Boot switches machines on (all, if none is named) and returns at once.
func (l *Lab) Boot(hosts ...int) {
	l.t.Helper()
	l.do(append([]string{"boot"}, l.names(hosts)...)...)
}

// Ready waits until the sshd of machines (all, if none is named) answers.
func (l *Lab) Ready(hosts ...int) {
	l.t.Helper()
	l.do(append([]string{"wait"}, l.names(hosts)...)...)
}

// Reboot shuts a machine down in good order and returns when it starts again.
func (l *Lab) Reboot(host int) { l.t.Helper(); l.do("reboot", l.name(host)) }

// Poweroff shuts a machine down in good order and returns when it is off.
func (l *Lab) Poweroff(host int) { l.t.Helper(); l.do("poweroff", l.name(host)) }

// PowerCut takes a machine's power away: no shutdown, no FIN, no RST. Its disk
// stays as it is.
func (l *Lab) PowerCut(host int) { l.t.Helper(); l.do("power-cut", l.name(host)) }

// On tells whether a machine has power.
func (l *Lab) On(host int) bool {
	l.t.Helper()
	_, err := output(l.script("is-on", l.name(host)))
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		l.t.Fatal(err)
	}
	return err == nil
}

// Boots tells how often a machine was started.
func (l *Lab) Boots(host int) int {
	l.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(l.do("boots", l.name(host))))
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// Partition drops every packet between two machines, silently, until [Lab.Heal].
func (l *Lab) Partition(a, b int) { l.t.Helper(); l.do("partition", l.name(a), l.name(b)) }

// Heal ends all partitions.
func (l *Lab) Heal() { l.t.Helper(); l.do("heal") }

// Unplug pulls a machine's network cable: the machine sees its carrier lost, also
// after a reboot, until [Lab.Plug].
func (l *Lab) Unplug(host int) { l.t.Helper(); l.do("unplug", l.name(host)) }

// Plug puts the cable back.
func (l *Lab) Plug(host int) { l.t.Helper(); l.do("plug", l.name(host)) }

// Freeze hangs a machine until [Lab.Thaw]: its kernel still takes TCP connections,
// and nobody answers.
func (l *Lab) Freeze(host int) { l.t.Helper(); l.do("freeze", l.name(host)) }

// Thaw lets a frozen machine go on.
func (l *Lab) Thaw(host int) { l.t.Helper(); l.do("thaw", l.name(host)) }

// Addr is a machine's address on the lab's network. In the machines, names do as
// well: machine 1 is h1.
func (l *Lab) Addr(host int) string { return "198.51.100." + l.name(host) }

// Command is a command to be run as root in a machine that is on, past its
// network. Its environment is what a login as root has.
func (l *Lab) Command(host int, argv ...string) *exec.Cmd {
	return l.script(append([]string{"exec", l.name(host)}, argv...)...)
}

// Exec runs a command as [Lab.Command] does and returns its standard output. The
// error holds its standard error, and an *exec.ExitError with its exit status.
func (l *Lab) Exec(host int, argv ...string) (stdout string, err error) {
	stdout, err = output(l.Command(host, argv...))
	if err != nil {
		err = fmt.Errorf("machine %d: %q: %w", host, argv, err)
	}
	return stdout, err
}

// Run is [Lab.Exec] of what must succeed.
func (l *Lab) Run(host int, argv ...string) (stdout string) {
	l.t.Helper()
	stdout, err := l.Exec(host, argv...)
	if err != nil {
		l.t.Fatal(err)
	}
	return stdout
}

// Offline runs a command on the disk of a machine that is off, without network
// and init, and returns its standard output.
func (l *Lab) Offline(host int, argv ...string) (stdout string) {
	l.t.Helper()
	return l.do(append([]string{"offline", l.name(host)}, argv...)...)
}

// Net is a command to be run on this machine's disk, but at the tester's own port
// of the lab's switch, from where all machines are reached at their [Lab.Addr].
func (l *Lab) Net(argv ...string) *exec.Cmd {
	return l.script(append([]string{"net"}, argv...)...)
}

// Put writes a file, with its folder, onto the disk of a machine, be it on or off.
func (l *Lab) Put(host int, path string, mode fs.FileMode, content []byte) {
	l.t.Helper()
	cmd := l.script("put", l.name(host), path, fmt.Sprintf("%o", mode.Perm()))
	cmd.Stdin = bytes.NewReader(content)
	if _, err := output(cmd); err != nil {
		l.t.Fatalf("lab: put %s on machine %d: %v", path, host, err)
	}
}

// Get reads a file from the disk of a machine, be it on or off.
func (l *Lab) Get(host int, path string) []byte {
	l.t.Helper()
	return []byte(l.do("get", l.name(host), path))
}

// Until polls for a condition; where it does not come true, the test ends with
// what was waited for and with what the machines say.
func (l *Lab) Until(what string, so func() bool) {
	l.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-late: // the machines' own words follow, as of every test that fails
			l.t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// logs is the end of all machines' consoles and journals.
func (l *Lab) logs() string {
	var all strings.Builder
	for host := 1; host <= l.size; host++ {
		text, err := output(l.script("log", l.name(host)))
		if err != nil {
			text = err.Error()
		}
		all.WriteString(text)
	}
	return all.String()
}

func (l *Lab) name(host int) string { return strconv.Itoa(host) }

func (l *Lab) names(hosts []int) (names []string) {
	for _, host := range hosts {
		names = append(names, l.name(host))
	}
	for host := 1; len(hosts) == 0 && host <= l.size; host++ {
		names = append(names, l.name(host))
	}
	return names
}

// script is a command of lab.sh.
func (l *Lab) script(args ...string) *exec.Cmd {
	path, err := script()
	cmd := exec.Command(path, args...)
	if err != nil {
		cmd.Err = err
	}
	cmd.Env = append(os.Environ(), "KIDO_LAB_ID="+l.id, "KIDO_LAB_OWNER="+strconv.Itoa(os.Getpid()))
	return cmd
}

func (l *Lab) do(args ...string) (stdout string) {
	l.t.Helper()
	stdout, err := output(l.script(args...))
	if err != nil {
		l.t.Fatalf("lab: %s: %v", strings.Join(args, " "), err)
	}
	return stdout
}

// output runs a command and returns what it wrote to standard output; what it
// wrote to standard error is in the error. To files, as a daemon that the command
// leaves behind would hold a pipe open.
func output(cmd *exec.Cmd) (string, error) {
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp("", "kido-lab-")
		if err != nil {
			return "", err
		}
		defer f.Close()
		os.Remove(f.Name())
		files[i] = f
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(contents(files[1])))
	}
	return contents(files[0]), err
}

func contents(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		return err.Error()
	}
	return string(text)
}
