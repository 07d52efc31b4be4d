package initsys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// leaderless makes a copy of the test program one whose first thread has ended,
// while the others hold on until their input ends.
const leaderless = "KIDO_TEST_LEADERLESS"

func init() {
	if os.Getenv(leaderless) == "" {
		return
	}
	go func() {
		os.Stdout.WriteString("begun\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		syscall.Exit(0)
	}()
	// This is the first thread: init functions run on it.
	_, _, _ = syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0)
}

// TestFirstThreadEnds: a process whose first thread has ended is a zombie to ps,
// and has yet to give back what it holds, its port above all.
func TestFirstThreadEnds(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), leaderless+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	late := time.Now().Add(30 * time.Second)
	for state := byte(0); state != 'Z'; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.PID))
		if err == nil {
			state, _, err = parseStat(stat)
		}
		if err != nil || time.Now().After(late) {
			t.Fatalf("its first thread does not end: state %c, %v", state, err)
		}
	}
	if alive, err := c.Alive(); !alive || err != nil {
		t.Errorf("it is said to be gone (%v), and its other threads run", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the wait for its end ended before it: %v", err)
	}
	in.Close()
	if err := c.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
