// Package probetest has what tests of probes share.
package probetest

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// HalfOpen is the address of a listener whose queue has no room: what is in it has gone,
// and nobody sees to that, so connections to it stay half open.
func HalfOpen(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		c, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
		if err != nil {
			return address
		}
		c.Close()
	}
	t.Fatal("the kernel lets a listener's queue grow")
	return ""
}
