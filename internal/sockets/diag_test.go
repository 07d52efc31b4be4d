package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"
)

// netlink is a message of the kernel's.
func netlink(kind uint16, body []byte) []byte {
	b := native.AppendUint32(nil, uint32(headerSize+len(body)))
	b = native.AppendUint16(b, kind)
	b = append(b, make([]byte, headerSize-6)...)
	return pad(append(b, body...))
}

// attribute is one of a message's.
func attribute(kind uint16, body []byte) []byte {
	b := native.AppendUint16(nil, uint16(attrSize+len(body)))
	return pad(append(native.AppendUint16(b, kind), body...))
}

func pad(b []byte) []byte { return append(b, make([]byte, align(uint64(len(b)))-uint64(len(b)))...) }

// socket is a struct inet_diag_msg with its attributes.
func socket(family, state byte, remote netip.AddrPort, attributes ...[]byte) []byte {
	b := make([]byte, messageSize)
	b[0], b[1] = family, state
	binary.BigEndian.PutUint16(b[6:], remote.Port())
	copy(b[24:], remote.Addr().AsSlice())
	return append(b, slices.Concat(attributes...)...)
}

// info is a struct tcp_info of the kernel here.
func info(received, heard uint32) []byte {
	b := make([]byte, 280)
	native.PutUint32(b[infoReceived:], received)
	native.PutUint32(b[infoHeard:], heard)
	return attribute(attrInfo, b)
}

var (
	four   = netip.MustParseAddrPort("192.0.2.1:5432")
	six    = netip.MustParseAddrPort("[2001:db8::1]:5432")
	mapped = netip.MustParseAddrPort("[::ffff:192.0.2.1]:5432")
	end    = netlink(syscall.NLMSG_DONE, make([]byte, 4))
)

const (
	inet  = syscall.AF_INET
	inet6 = syscall.AF_INET6
)

func TestParse(t *testing.T) {
	one := netlink(sockDiagByFamily, socket(inet, established, four, info(2000, 1000)))
	errno := func(n int32) []byte { return native.AppendUint32(nil, uint32(-n)) }
	size := func(b []byte, n uint32) []byte {
		b = slices.Clone(b)
		native.PutUint32(b, n)
		return b
	}
	attr := func(n uint16) []byte {
		a := info(0, 0)
		native.PutUint16(a, n)
		return netlink(sockDiagByFamily, socket(inet, established, four, a))
	}
	for _, row := range []struct {
		name string
		sent []byte
		want []Connection
		done bool
		err  error
	}{
		{"nothing", nil, nil, false, nil},
		{"the end", end, nil, true, nil},
		{"the end, as old kernels say it", netlink(syscall.NLMSG_DONE, nil), nil, true, nil},
		{"data the younger", netlink(sockDiagByFamily, socket(inet, established, four, info(1000, 2000))), []Connection{{four, false, time.Second}}, false, nil},
		{"an acknowledgement the younger", one, []Connection{{four, false, time.Second}}, false, nil},
		{"IPv6", netlink(sockDiagByFamily, socket(inet6, established, six, info(1, 1))), []Connection{{six, false, time.Millisecond}}, false, nil},
		{"IPv4 by an IPv6 socket", netlink(sockDiagByFamily, socket(inet6, established, mapped, info(1, 1))), []Connection{{four, false, time.Millisecond}}, false, nil},
		{"closed there", netlink(sockDiagByFamily, socket(inet, closeWait, four, info(0, 0))), []Connection{{four, true, 0}}, false, nil},
		{"ended meanwhile", netlink(sockDiagByFamily, socket(inet, 7, four)), nil, false, nil},
		{"for ever", netlink(sockDiagByFamily, socket(inet, established, four, info(math.MaxUint32, math.MaxUint32))), []Connection{{four, false, math.MaxUint32 * time.Millisecond}}, false, nil},
		{"no times", netlink(sockDiagByFamily, socket(inet, established, four, attribute(8, []byte{0}))), []Connection{{four, false, 0}}, false, nil},
		{"too few times", netlink(sockDiagByFamily, socket(inet, established, four, attribute(attrInfo, make([]byte, infoSize-1)))), []Connection{{four, false, 0}}, false, nil},
		{"behind other attributes", netlink(sockDiagByFamily, socket(inet, established, four, attribute(8, []byte{1}), info(5, 5), attribute(15, nil))), []Connection{{four, false, 5 * time.Millisecond}}, false, nil},
		{"a message of another kind between", slices.Concat(one, netlink(syscall.NLMSG_NOOP, nil), one, end), []Connection{{four, false, time.Second}, {four, false, time.Second}}, true, nil},
		{"padding behind a message", slices.Concat(netlink(syscall.NLMSG_NOOP, []byte{1}), one), []Connection{{four, false, time.Second}}, false, nil},
		{"what follows the end", slices.Concat(end, one), nil, true, nil},
		{"no such module", netlink(syscall.NLMSG_ERROR, errno(int32(syscall.ENOENT))), nil, false, syscall.ENOENT},
		{"no memory, half way", slices.Concat(one, netlink(syscall.NLMSG_DONE, errno(int32(syscall.ENOBUFS)))), nil, false, syscall.ENOBUFS},
		{"half a header", end[:headerSize-1], nil, false, errCut},
		{"half a message", one[:len(one)/2], nil, false, errCut},
		{"smaller than its header", size(one, headerSize-1), nil, false, errCut},
		{"of no size", size(one, 0), nil, false, errCut},
		{"larger than all", size(one, math.MaxUint32), nil, false, errCut},
		{"half a socket", netlink(sockDiagByFamily, make([]byte, messageSize-1)), nil, false, errCut},
		{"an attribute smaller than its header", attr(attrSize - 1), nil, false, errCut},
		{"an attribute larger than its message", attr(math.MaxUint16), nil, false, errCut},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, done, err := parse(nil, row.sent)
			if !slices.Equal(got, row.want) || done != row.done || !errors.Is(err, row.err) {
				t.Errorf("%v, %t, %v; want %v, %t, %v", got, done, err, row.want, row.done, row.err)
			}
		})
	}
	if _, _, err := parse(nil, netlink(sockDiagByFamily, socket(1, established, four))); err == nil {
		t.Error("a Unix socket passes for a connection")
	}
	full := make([]Connection, maxConnections-1, maxConnections)
	if all, _, err := parse(full, one); len(all) != maxConnections || err != nil {
		t.Errorf("%d connections: %v", len(all), err)
	}
	if _, _, err := parse(full, slices.Concat(one, one)); !errors.Is(err, errMany) {
		t.Errorf("more connections than may be: %v", err)
	}
}

// FuzzParse: whatever is sent, nothing is read that was not, what is understood makes
// sense, and it does not matter how much comes at once.
func FuzzParse(f *testing.F) {
	f.Add(slices.Concat(netlink(sockDiagByFamily, socket(inet, established, four, attribute(8, []byte{0}), info(7, 5))), end))
	f.Add(slices.Concat(netlink(sockDiagByFamily, socket(inet6, closeWait, mapped, info(7, 5))), netlink(syscall.NLMSG_NOOP, nil)))
	f.Add(netlink(syscall.NLMSG_ERROR, native.AppendUint32(nil, math.MaxUint32)))
	for _, said := range captured(f) {
		f.Add(said)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, done, err := parse(nil, b)
		if err != nil {
			if all != nil || done {
				t.Errorf("%v, %t beside the error %v", all, done, err)
			}
			return
		}
		if len(all) > len(b)/(headerSize+messageSize) {
			t.Errorf("%d connections in %d bytes", len(all), len(b))
		}
		for _, c := range all {
			if !c.Remote.IsValid() || c.Remote.Addr().Is4In6() || c.Silent < 0 || c.Silent > math.MaxUint32*time.Millisecond {
				t.Errorf("a connection that cannot be: %+v", c)
			}
		}
		if len(b) == 0 {
			return
		}
		first := min(align(uint64(native.Uint32(b))), uint64(len(b)))
		pieces, pdone, perr := parse(nil, b[:first])
		if !pdone && perr == nil {
			pieces, pdone, perr = parse(pieces, b[first:])
		}
		if !slices.Equal(pieces, all) || pdone != done || perr != nil {
			t.Errorf("in two pieces %v, %t, %v; at once %v, %t", pieces, pdone, perr, all, done)
		}
	})
}

// captured is what the kernel here says of two connections, one of them closed there.
func captured(t testing.TB) (said [][]byte) {
	t.Helper()
	u := listen(t, "127.0.0.1")
	u.pairBy(u.dialMapped)
	_, server := u.pair()
	must(t, server.Close())
	until(t, "one is closed", func() bool { return closed(held(t, u.at)) == 1 })
	for _, family := range []uint8{inet, inet6} {
		k, err := open(context.Background())
		must(t, err)
		defer k.close()
		_, err = k.file.Write(request(family, []netip.AddrPort{u.at}))
		must(t, err)
		b := make([]byte, 64<<10)
		n, err := k.file.Read(b)
		must(t, err)
		if all, _, err := parse(nil, b[:n]); err != nil || len(all) != 1 {
			t.Fatalf("%d connections, %v; want 1", len(all), err)
		}
		said = append(said, b[:n])
	}
	return said
}
