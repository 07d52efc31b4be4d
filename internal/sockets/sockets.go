// Package sockets tells which TCP connections this host holds to somewhere else, and
// which of them are stale: closed by the other side, or older than its present life.
// The kernel answers (netlink's sock_diag(7), which needs no privilege); nothing is
// sent to anybody, nothing stays behind.
//
// The kernel does not know when a connection was made, but when it last heard from the
// other side. What has heard nothing for longer than that side's life has lasted
// belongs to an earlier one, since a connection of this life began with an
// acknowledgement. The converse does not hold, so this is a lower bound:
//
//   - A connection that was reset is in no list. Its owner learns of it with the next
//     use, as of one that is still listed: that none is held does not say that none
//     is broken.
//   - Of what goes through a proxy, a pooler, a tunnel or a load balancer only the part
//     up to there is seen, where others acknowledge and answer keepalives.
//   - Containers and units with a network of their own are not seen, nor Unix sockets.
//   - Times are the kernel's ticks, 1 to 10 ms each. They do not pass while the host
//     is suspended, and begin anew after 49 days of silence: both make a connection
//     look younger than it is.
//
// All programs of the host count, whoever runs them. What this host has closed itself,
// or half of it, is not held. What it has accepted counts only where it came from just
// such an address and port.
package sockets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Connection is one TCP connection of this host's to somewhere else.
type Connection struct {
	Remote netip.AddrPort // of IPv4 also where the program spoke IPv6 to ::ffff:a.b.c.d
	Closed bool           // the other side has closed it; this one has not noticed, or not cared
	Silent time.Duration  // since anything came from the other side, whole milliseconds; 0 where the kernel does not tell
}

const (
	maxRemotes     = 1_000
	maxConnections = 1 << 16
)

// To lists the connections to any of some remotes, in no order. Of an address with a
// zone the zone does not matter. A connection that is made or ends meanwhile may be
// missing, or be there twice. It fails where the kernel has no such list or a sandbox
// keeps it from us, where there are more than 1,000 remotes or 65,536 connections, and
// with ctx's cause.
func To(ctx context.Context, remotes []netip.AddrPort) ([]Connection, error) {
	if len(remotes) > maxRemotes {
		return nil, fmt.Errorf("connections to %d addresses: at most %d are looked for at once", len(remotes), maxRemotes)
	}
	var v4, all []netip.AddrPort
	for _, r := range remotes {
		if !r.IsValid() {
			return nil, errors.New("connections to an address that is none")
		}
		r = netip.AddrPortFrom(r.Addr().Unmap(), r.Port())
		if r.Addr().Is4() {
			v4 = append(v4, r)
		}
		all = append(all, r)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t, err := open(ctx)
	if err != nil {
		return nil, explain(ctx, err)
	}
	defer t.close()
	var held []Connection
	for _, of := range []struct {
		family  uint8
		remotes []netip.AddrPort
	}{{syscall.AF_INET, v4}, {syscall.AF_INET6, all}} { // an IPv6 socket may be connected to an IPv4 address
		if len(of.remotes) == 0 {
			continue
		}
		if held, err = t.list(held, request(of.family, of.remotes)); err != nil {
			return nil, explain(ctx, err)
		}
	}
	return held, nil
}

// Stale counts the connections that are closed by the other side, in whichever life,
// or older than its life of that age; 0 is an age that is not known. It is the age at
// the moment of the look, since the life first took connections. Where in doubt take
// more: who asks first and looks later adds the time in between. A second, and a
// ten-thousandth for clocks that differ, are added here, for a connection of this life
// must not be called stale.
func Stale(all []Connection, age time.Duration) (n int) {
	for _, c := range all {
		if c.Closed || age > 0 && c.Silent > age+time.Second+age/10_000 {
			n++
		}
	}
	return n
}

// table is a socket to the kernel's list.
type table struct {
	file *os.File
	stop func() bool // ctx has no say any more
}

func open(ctx context.Context) (*table, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, syscall.NETLINK_INET_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Connected to the kernel, it hears nobody else.
	if err := syscall.Connect(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		syscall.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	f := os.NewFile(uintptr(fd), "sock_diag")
	return &table{f, context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })}, nil
}

func (t *table) close() {
	t.stop()
	_ = t.file.Close()
}

// explain says what an error of the list means.
func explain(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errMany):
		return err
	}
	return fmt.Errorf("the kernel's list of TCP connections: %w; it needs the kernel's module tcp_diag, and a sandbox that allows AF_NETLINK", err)
}

// list adds to all what the kernel has to say to a request.
func (t *table) list(all []Connection, request []byte) ([]Connection, error) {
	if _, err := t.file.Write(request); err != nil {
		return nil, err
	}
	b := make([]byte, 64<<10) // the kernel sends at most 32 KiB at once
	for done := false; !done; {
		n, err := t.file.Read(b)
		if err != nil {
			return nil, err
		}
		if all, done, err = parse(all, b[:n]); err != nil {
			return nil, err
		}
	}
	return all, nil
}
