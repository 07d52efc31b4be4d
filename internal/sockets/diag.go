package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"
)

// The messages of sock_diag(7), as linux/netlink.h, linux/inet_diag.h and linux/tcp.h
// lay them out. Integers are this machine's, addresses and their ports the network's.
const (
	sockDiagByFamily = 20 // type of a request, and of each message that answers it

	headerSize  = 16            // struct nlmsghdr
	requestSize = 56            // struct inet_diag_req_v2
	messageSize = 72            // struct inet_diag_msg
	infoSize    = infoHeard + 4 // as much of struct tcp_info as is read here

	attrSize     = 4 // struct nlattr
	attrProgram  = 1 // INET_DIAG_REQ_BYTECODE
	attrInfo     = 2 // INET_DIAG_INFO
	attrTypeMask = 1<<14 - 1

	infoReceived = 52 // tcpi_last_data_recv: ms since there was data
	infoHeard    = 56 // tcpi_last_ack_recv: ms since there was an acknowledgement

	established = 1 // TCP_ESTABLISHED
	closeWait   = 8 // TCP_CLOSE_WAIT

	opSize   = 4 // struct inet_diag_bc_op
	opJump   = 1 // INET_DIAG_BC_JMP
	opRemote = 8 // INET_DIAG_BC_D_COND
	condSize = 8 // struct inet_diag_hostcond, without the address
)

var native = binary.NativeEndian

var (
	errCut  = errors.New("a message that is cut short")
	errMany = fmt.Errorf("more than %d TCP connections: too many to be looked at", maxConnections)
)

// request asks for the connections of one family of sockets to any of some remotes.
// None of what has been closed at this end, or half of it: no one can send a query
// there any more.
func request(family uint8, remotes []netip.AddrPort) []byte {
	p := program(remotes)
	b := make([]byte, 0, headerSize+requestSize+attrSize+len(p))

	b = native.AppendUint32(b, uint32(cap(b)))
	b = native.AppendUint16(b, sockDiagByFamily)
	b = native.AppendUint16(b, syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	b = append(b, make([]byte, 8)...) // sequence number and port: there is one question at a time

	b = append(b, family, syscall.IPPROTO_TCP, 1<<(attrInfo-1), 0)
	b = native.AppendUint32(b, 1<<established|1<<closeWait)
	b = append(b, make([]byte, 48)...) // any address, the program chooses

	b = native.AppendUint16(b, uint16(attrSize+len(p)))
	b = native.AppendUint16(b, attrProgram)
	return append(b, p...)
}

// program has the kernel choose, so that a host with many connections copies few. It
// is a condition for each remote. Where one holds, what follows is a jump to the end,
// which accepts; else that jump is passed over. Behind the last condition there is
// no jump, and to pass over the end refuses. (inet_diag_bc_run of net/ipv4/inet_diag.c.)
func program(remotes []netip.AddrPort) []byte {
	var p []byte
	var jumps []int
	for i, r := range remotes {
		family, address := uint8(syscall.AF_INET6), r.Addr().AsSlice()
		if r.Addr().Is4() {
			family = syscall.AF_INET // of an IPv6 socket as well
		}
		size := opSize + condSize + len(address)
		p = append(p, opRemote, uint8(size))
		p = native.AppendUint16(p, uint16(size+opSize))
		p = append(p, family, uint8(8*len(address)), 0, 0)
		p = native.AppendUint32(p, uint32(r.Port()))
		p = append(p, address...)
		if i < len(remotes)-1 {
			jumps = append(jumps, len(p))
			p = append(p, opJump, opSize, 0, 0)
		}
	}
	for _, at := range jumps {
		native.PutUint16(p[at+2:], uint16(len(p)-at))
	}
	return p
}

// parse adds to all the connections in b, which the kernel sent at once. done: it has
// no more to send. That a list was changed while it was sent (NLM_F_DUMP_INTR) the
// kernel does not say of this one.
func parse(all []Connection, b []byte) (_ []Connection, done bool, err error) {
	for len(b) > 0 {
		if len(b) < headerSize {
			return nil, false, errCut
		}
		size := uint64(native.Uint32(b))
		if size < headerSize || size > uint64(len(b)) {
			return nil, false, errCut
		}
		kind, body := native.Uint16(b[4:]), b[headerSize:size]
		b = b[min(align(size), uint64(len(b))):]
		switch kind {
		case syscall.NLMSG_DONE, syscall.NLMSG_ERROR:
			if len(body) >= 4 {
				if errno := -int32(native.Uint32(body)); errno > 0 {
					return nil, false, syscall.Errno(errno)
				}
			}
			return all, true, nil
		case sockDiagByFamily:
			c, held, err := parseOne(body)
			if err != nil {
				return nil, false, err
			}
			if held && len(all) == maxConnections {
				return nil, false, errMany
			}
			if held {
				all = append(all, c)
			}
		}
	}
	return all, false, nil
}

// parseOne reads a struct inet_diag_msg and its attributes. A connection may have gone
// on since the kernel chose it, and is not held any more.
func parseOne(b []byte) (c Connection, held bool, err error) {
	if len(b) < messageSize {
		return Connection{}, false, errCut
	}
	family, state, port, address := b[0], b[1], binary.BigEndian.Uint16(b[6:]), b[24:40]
	switch family {
	case syscall.AF_INET:
		c.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(address)), port)
	case syscall.AF_INET6:
		c.Remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte(address)).Unmap(), port)
	default:
		return Connection{}, false, fmt.Errorf("a socket of family %d", family)
	}
	c.Closed = state == closeWait
	for b = b[messageSize:]; len(b) >= attrSize; {
		size := uint64(native.Uint16(b))
		if size < attrSize || size > uint64(len(b)) {
			return Connection{}, false, errCut
		}
		kind, body := native.Uint16(b[2:])&attrTypeMask, b[attrSize:size]
		b = b[min(align(size), uint64(len(b))):]
		if kind == attrInfo && len(body) >= infoSize {
			// The younger sign. Where there never was data, kernels before 4.11 count that
			// from their boot.
			ms := min(native.Uint32(body[infoReceived:]), native.Uint32(body[infoHeard:]))
			c.Silent = time.Duration(ms) * time.Millisecond
		}
	}
	return c, state == established || state == closeWait, nil
}

// align rounds up to where the next message or attribute begins.
func align(n uint64) uint64 { return (n + 3) &^ 3 }
