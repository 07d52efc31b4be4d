package remote

import "syscall"

// quickack turns delayed ACKs off; the kernel turns them on again by itself,
// hence before every read.
func quickack(fd uintptr) {
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1) // an optimisation only
}
