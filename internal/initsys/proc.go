package initsys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// userHZ is the unit of the start time in /proc/PID/stat, in ticks a second:
// part of the kernel's interface, and the same on every machine Go runs on.
const userHZ = 100

// BootID returns the kernel's name for this boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" || strings.Trim(id, "0123456789abcdef-") != "" {
		return "", fmt.Errorf("boot id: %q is none", id)
	}
	return id, nil
}

// Identify tells which process has the number pid now. The error wraps
// syscall.ESRCH where none has it, or one that has ended and is not yet reaped.
func Identify(pid int) (Child, error) {
	boot, err := BootID()
	if err != nil {
		return Child{}, err
	}
	start, err := startTime(pid)
	if err != nil {
		return Child{}, err
	}
	return Child{Boot: boot, PID: pid, Start: start}, nil
}

// Token is the incarnation of which c is the main process, "boot:pid:start".
// It is written bare on the wire.
func (c Child) Token() string {
	return c.Boot + ":" + strconv.Itoa(c.PID) + ":" + strconv.FormatUint(c.Start, 10)
}

// ParseToken finds the process that a token names; ok is false where it names
// none, as those of systemd do.
func ParseToken(token string) (c Child, ok bool) {
	f := strings.Split(token, ":")
	if len(f) != 3 {
		return Child{}, false
	}
	pid, err := strconv.Atoi(f[1])
	start, serr := strconv.ParseUint(f[2], 10, 64)
	c = Child{Boot: f[0], PID: pid, Start: start}
	return c, err == nil && serr == nil && c.Token() == token
}

// Alive reports whether c still runs: same boot, same number, same start time,
// and not only waiting to be reaped. It fails where that cannot be seen.
func (c Child) Alive() (bool, error) {
	if boot, err := BootID(); err != nil || boot != c.Boot {
		return false, err // of an earlier boot: whoever has the number now is another
	}
	now, err := Identify(c.PID)
	if errors.Is(err, syscall.ESRCH) {
		return false, nil
	}
	return now == c, err
}

// Age is how long c has run by the kernel's clock, 0 where that is unknown.
func (c Child) Age() time.Duration {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	up, _, _ := strings.Cut(string(b), " ")
	seconds, err := strconv.ParseFloat(up, 64)
	if err != nil {
		return 0
	}
	// A container may have an uptime of its own beside the host's start times.
	return max(0, time.Duration((seconds-float64(c.Start)/userHZ)*float64(time.Second)))
}

// Uptime is the time since the kernel was booted, asleep or awake (CLOCK_BOOTTIME
// of clock_gettime(2)): nobody can set it.
func Uptime() time.Duration {
	const clockBoottime = 7
	var t syscall.Timespec
	// It cannot fail: the kernel has had this clock since 2.6.39.
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&t)), 0)
	return time.Duration(t.Nano())
}

// Wait returns nil once c has ended, or ctx's cause before that. It need not be
// a child of this process.
func (c Child) Wait(ctx context.Context) error {
	if c.PID <= 0 {
		return nil
	}
	fd, err := pidfdOpen(c.PID)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil { // a kernel before 5.3, or a sandbox
		return c.poll(ctx)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return c.poll(ctx)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// The descriptor holds on to whatever has the number now, so looking after
	// it was opened tells whether that is c. An end before the first look leaves
	// no event to wait for, hence look and wait, never wait alone.
	var alive bool
	var blind error
	err = conn.Read(func(uintptr) bool {
		alive, blind = c.Alive()
		return !alive || blind != nil
	})
	switch {
	case err == nil:
		return blind
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.Cause(ctx)
	}
	return c.poll(ctx)
}

func (c Child) poll(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if alive, err := c.Alive(); err != nil || !alive {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func pidfdOpen(pid int) (int, error) {
	const sysPidfdOpen = 434 // on every architecture that Go has; the syscall package is older
	fd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(pid), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	if err := syscall.SetNonblock(int(fd), true); err != nil { // os.NewFile polls only such
		syscall.Close(int(fd))
		return -1, err
	}
	return int(fd), nil
}

// startTime reads field 22 of /proc/PID/stat.
func startTime(pid int) (uint64, error) {
	gone := fmt.Errorf("process %d: %w", pid, syscall.ESRCH)
	if pid <= 0 {
		return 0, gone
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		if syscall.Kill(pid, 0) == syscall.EPERM {
			return 0, fmt.Errorf("process %d is there, but hidden from this user: /proc is mounted with hidepid, add the user to the group that its gid= names", pid)
		}
		return 0, gone
	}
	if err != nil {
		return 0, err
	}
	state, start, err := parseStat(stat)
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	if state == 'X' || state == 'Z' && !threadsLeft(stat) {
		return 0, gone
	}
	return start, nil
}

// threadsLeft reports whether a process whose first thread has ended has others.
// It shows as a zombie while they are being ended, or run on; until the last one
// is gone so is nothing that the process holds, its port above all.
func threadsLeft(stat []byte) bool {
	const threadsField = 20 - 3
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	return len(fields) > threadsField && string(fields[threadsField]) != "1" && string(fields[threadsField]) != "0"
}

// parseStat takes the state and the start time from a stat line. The second
// field is the program's own name in parentheses: it may hold anything, more
// parentheses, spaces and newlines included, so count from the last one.
func parseStat(stat []byte) (state byte, start uint64, err error) {
	const startField = 22 - 3 // the first behind the name is field 3
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= startField || len(fields[0]) != 1 {
		return 0, 0, errors.New("too few fields")
	}
	start, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	return fields[0][0], start, err
}

// atWork reports whether an init script is being run, and with which verb. Its
// status changes nothing and does not count; nor does what it has left behind, a
// daemon that is a part of the script itself: such a process has no parent but
// init. A script that this user cannot see is not at work.
func atWork(script string) (verb string, ok bool) {
	folder, err := os.Open("/proc")
	if err != nil {
		return "", false
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return "", false
	}
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		cmdline, err := os.ReadFile("/proc/" + name + "/cmdline")
		if err != nil || !bytes.Contains(cmdline, []byte(filepath.Base(script))) {
			continue
		}
		args := strings.Split(string(cmdline), "\x00")
		for i, arg := range args[:len(args)-1] {
			if isScript(arg, script) && args[i+1] != "" && args[i+1] != "status" && parent(name) > 1 {
				return args[i+1], true
			}
		}
	}
	return "", false
}

// isScript reports whether a path is that of an init script, or of the link by
// which a runlevel knows it, as in /etc/rc3.d/S85httpd.
func isScript(path, script string) bool {
	if path == script {
		return true
	}
	folder, name := filepath.Split(path)
	return strings.HasPrefix(folder, "/etc/rc") && strings.HasSuffix(folder, ".d/") &&
		len(name) > 3 && (name[0] == 'S' || name[0] == 'K') && strings.Trim(name[1:3], "0123456789") == "" &&
		name[3:] == filepath.Base(script)
}

// parent is the number of a process's parent, 0 where it is gone.
func parent(pid string) int {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(string(fields[1]))
	return n
}
