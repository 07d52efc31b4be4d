package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// disk is a file system of 64 KiB in a mount namespace of its own.
type disk struct {
	enter []string // what a command line must begin with to see it
	path  string   // where it is for those outside
}

// smallDisk mounts one over a folder, for those inside.
func smallDisk(t *testing.T, over string) disk {
	t.Helper()
	if err := os.MkdirAll(over, 0o700); err != nil {
		t.Fatal(err)
	}
	unshare, enter := []string{"unshare", "--mount"}, []string{"nsenter", "--mount"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
		enter = append(enter, "--user", "--preserve-credentials")
	}
	const script = `mount -t tmpfs -o size=64k,mode=0700 tmpfs "$1" && echo mounted && read end`
	holder := exec.Command(unshare[0], append(unshare[1:], "sh", "-c", script, "sh", over)...)
	var said strings.Builder
	holder.Stderr = &said
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	line := ""
	if err = holder.Start(); err == nil {
		line, _ = bufio.NewReader(out).ReadString('\n')
		end := sync.OnceFunc(func() {
			in.Close()
			_ = holder.Wait() // read sees the end of its input
		})
		t.Cleanup(end)
		if line != "mounted\n" {
			end() // then it has said all
		}
	}
	if line != "mounted\n" {
		missing := fmt.Sprintf("no full disk can be made here, so what kido does then is not tested: %v %s; run this as root, where mount namespaces are allowed", err, said.String())
		if os.Getenv("CI") != "" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	return disk{
		enter: append(enter, fmt.Sprintf("--target=%d", holder.Process.Pid), "--"),
		path:  fmt.Sprintf("/proc/%d/root%s", holder.Process.Pid, over),
	}
}

// fill leaves no room.
func (d disk) fill(t testing.TB) {
	t.Helper()
	f, err := os.Create(filepath.Join(d.path, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func (d disk) clear(t testing.TB) {
	t.Helper()
	if err := os.Remove(filepath.Join(d.path, "fill")); err != nil {
		t.Fatal(err)
	}
}

// beginOn is begin with the journals on that disk.
func (s *site) beginOn(t testing.TB, d disk, args ...string) *process {
	t.Helper()
	cmd := s.command(t.Context(), args...)
	program, err := exec.LookPath(d.enter[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args = program, append(append([]string{}, d.enter...), append([]string{cmd.Path}, cmd.Args[1:]...)...)
	p := &process{cmd: cmd, args: args, out: newOutput(), err: newOutput()}
	cmd.Stdout, cmd.Stderr = p.out, p.err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFullDisk: without room for the journal nothing is started; where the room
// runs out in the midst of a run nothing more is begun, and what was done is not
// done again once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	// A journal has the rest of its last page of 4 KiB even on a full disk: so
	// many steps need more.
	l := layout{units: []unit{{name: "db", on: []string{"db1"}}}}
	want := map[string]int{"db@db1": 1}
	for i := range 20 {
		name := fmt.Sprintf("web%02d", i)
		l.units = append(l.units, unit{name: name, on: []string{"web1"}, after: []string{"db: restart"}})
		want[name+"@web1"] = 1
	}
	s := newSite(t, l)
	n := s.up(t)
	d := smallDisk(t, s.state)
	s.unseen = true

	d.fill(t)
	s.beginOn(t, d, "restart", "db").end(t).want(t, 1, "no space left on device", "hint: nothing was started")
	if h := s.since(t, n); len(h) > 0 {
		t.Fatalf("something was started:\n%s", h)
	}
	d.clear(t)

	slow := s.holdAt(t, "db@db1", startFile)
	run := s.beginOn(t, d, "restart", "db")
	slow.reached(t)
	d.fill(t)
	slow.release(t)
	run.end(t).want(t, 1, "no space left on device", "hint: make room for the journal", "kido resume")
	if done := len(s.since(t, n).of("db", started)); done != 1 || len(s.since(t, n)) == len(want)*3 {
		t.Errorf("the run did not stop half way:\n%s", s.since(t, n))
	}
	s.beginOn(t, d, "status").end(t).want(t, 3, "owes db@db1", "cut off")
	d.clear(t)
	s.beginOn(t, d, "resume").end(t).want(t, 0)
	s.since(t, n).counts(t, want)
	s.allFresh(t)
}

// TestUnreadableState: a record that cannot be believed is unknown, not empty:
// nothing is concluded from it, kido says what to do, and that mends it.
func TestUnreadableState(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spoil func([]byte) []byte
	}{
		{"a flipped bit", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"cut short", func(b []byte) []byte { return b[:len(b)/2] }},
		{"empty", func([]byte) []byte { return nil }},
		{"noise", func([]byte) []byte { return []byte(strings.Repeat("\xff\x00\n", 1000)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, shop())
			n := s.up(t)
			record := s.record(t, "web@web1")
			s.write(t, record, string(c.spoil([]byte(s.read(t, record)))))
			st := s.status(t)
			st.want(t, 3)
			if i := st.of(t, "web@web1"); i.Fresh || !strings.Contains(i.Why, "`kido restart web@web1`") {
				t.Errorf("web@web1 is unknown: %s", st.result)
			}
			s.must(t, 3, "restart", "db").want(t, 3, "what it was started against is unknown", "`kido restart web@web1` makes it known again")
			s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web2": 1})
			s.status(t).want(t, 3)

			s.must(t, 0, "restart", "web@web1")
			s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
			s.allFresh(t)
			s.must(t, 0, "announce", "db").want(t, 0, "nothing to do")
		})
	}
}

// TestClockSetBack: journals of runs that are dated in the future, from before the
// clock was set back, do not hide which run was the last.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	s.up(t)
	s.must(t, 0, "restart", "db")
	names, err := filepath.Glob(filepath.Join(s.state, "runs", "*.journal"))
	if err != nil || len(names) != 2 {
		t.Fatalf("want the journals of two runs: %v, %v", names, err)
	}
	if err := os.Rename(names[1], filepath.Join(s.state, "runs", "29991231-235959-aaaaa.journal")); err != nil {
		t.Fatal(err)
	}
	n := len(s.history(t))
	point := filepath.Join(s.dir, "failpoint")
	s.write(t, point, "run.after.call#1")
	s.begin(t, []string{"KIDO_FAILPOINT=" + point}, "restart", "db").end(t).want(t, -1)
	s.status(t).owes(t, "web@web1", "db@db1")
	s.must(t, 0, "restart", "db").want(t, 0, "going on with run")
	s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
	s.allFresh(t)
}
