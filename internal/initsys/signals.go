package initsys

import (
	"fmt"
	"syscall"
	"unsafe"
)

// resetSignals gives every signal its default action and unblocks all of them
// for this thread. Programs count on it, and exec does not do it: what is
// ignored or blocked, here or in sshd before us, would stay so in the script
// and its daemon for life (`yes | head` not ending, a daemon deaf to SIGHUP).
// The Go runtime itself does without its handlers for the little that follows.
func resetSignals() error {
	const (
		last    = 64
		setMask = 2
		setSize = last / 8
	)
	var none [64]byte // a zero sigaction of any layout: default action, no flags, empty mask
	for s := syscall.Signal(1); s <= last; s++ {
		if s == syscall.SIGKILL || s == syscall.SIGSTOP {
			continue
		}
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&none)), 0, setSize, 0, 0); errno != 0 {
			return fmt.Errorf("reset signal %d: %w", s, errno)
		}
	}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&none)), 0, setSize, 0, 0); errno != 0 {
		return fmt.Errorf("unblock signals: %w", errno)
	}
	return nil
}
