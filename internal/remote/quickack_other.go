//go:build !linux

package remote

// quickack is Linux's alone.
var quickack func(fd uintptr)
