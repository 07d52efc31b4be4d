package sockets

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that is waited for. Only a test that fails
// waits so long.
const patience = 60 * time.Second

// until waits for a condition.
func until(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// upstream is a server that takes connections and does with them what a test says.
type upstream struct {
	testing.TB
	listener *net.TCPListener
	at       netip.AddrPort
}

func listen(t testing.TB, address string) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		if os.Getenv("CI") != "" {
			t.Fatalf("there is no IPv6 here: %v", err)
		}
		t.Skipf("SKIPPED: %v: switch IPv6 on", err)
	}
	must(t, err)
	t.Cleanup(func() { l.Close() })
	tcp := l.(*net.TCPListener)
	return &upstream{t, tcp, tcp.Addr().(*net.TCPAddr).AddrPort()}
}

// pair is both ends of a connection.
func (u *upstream) pair() (client, server *net.TCPConn) {
	u.Helper()
	return u.pairBy(u.dial)
}

func (u *upstream) pairBy(dial func() *net.TCPConn) (client, server *net.TCPConn) {
	u.Helper()
	client = dial()
	server, err := u.listener.AcceptTCP()
	must(u, err)
	// No keepalives: what is heard is what a test sends.
	for _, c := range []*net.TCPConn{client, server} {
		must(u, c.SetKeepAlive(false))
		u.keep(c)
	}
	return client, server
}

// keep holds a connection until the test ends: what nobody knows is collected, and
// closed. Then it leaves no TIME_WAIT.
func (u *upstream) keep(c *net.TCPConn) {
	u.Cleanup(func() { _ = c.SetLinger(0); c.Close() })
}

func (u *upstream) dial() *net.TCPConn {
	u.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(u.at))
	must(u, err)
	return c
}

// dialMapped connects an IPv6 socket to an IPv4 address, as programs do that know IPv6
// only.
func (u *upstream) dialMapped() *net.TCPConn {
	u.Helper()
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(u, err)
	f := os.NewFile(uintptr(fd), "mapped")
	defer f.Close()
	must(u, syscall.Connect(fd, &syscall.SockaddrInet6{Port: int(u.at.Port()), Addr: u.at.Addr().As16()}))
	c, err := net.FileConn(f)
	must(u, err)
	return c.(*net.TCPConn)
}

// held is what there is to upstreams.
func held(t testing.TB, to ...netip.AddrPort) []Connection {
	t.Helper()
	all, err := To(t.Context(), to)
	must(t, err)
	return all
}

// closed counts those of which the other side has closed.
func closed(all []Connection) int { return Stale(all, 0) }

// TestTo goes through the lives of connections: which are held, and which are closed
// by the other side.
func TestTo(t *testing.T) {
	for _, family := range []struct {
		name, address string
		dial          func(*upstream) *net.TCPConn
	}{
		{"IPv4", "127.0.0.1", (*upstream).dial},
		{"IPv6", "::1", (*upstream).dial},
		{"IPv4 by an IPv6 socket", "127.0.0.1", (*upstream).dialMapped},
	} {
		for _, life := range []struct {
			name         string
			do           func(client, server *net.TCPConn) error
			held, closed int
		}{
			{"open", func(_, _ *net.TCPConn) error { return nil }, 1, 0},
			{"with words unread at both ends", func(client, server *net.TCPConn) error {
				_, err := client.Write([]byte("query"))
				_, werr := server.Write([]byte("answer"))
				return errors.Join(err, werr)
			}, 1, 0},
			{"closed there", func(_, server *net.TCPConn) error { return server.Close() }, 1, 1},
			{"closed there, with last words", func(_, server *net.TCPConn) error {
				_, err := server.Write([]byte("terminating connection due to administrator command"))
				return errors.Join(err, server.Close())
			}, 1, 1},
			{"half closed there", func(_, server *net.TCPConn) error { return server.CloseWrite() }, 1, 1},
			{"half closed here", func(client, _ *net.TCPConn) error { return client.CloseWrite() }, 0, 0},
			{"closed here", func(client, _ *net.TCPConn) error { return client.Close() }, 0, 0},
			{"closed there, then here", func(client, server *net.TCPConn) error { return errors.Join(server.Close(), client.Close()) }, 0, 0},
			// The limit that the package tells of: nothing shows that the client is still there.
			{"reset", func(_, server *net.TCPConn) error { return errors.Join(server.SetLinger(0), server.Close()) }, 0, 0},
		} {
			t.Run(family.name+"/"+life.name, func(t *testing.T) {
				u := listen(t, family.address)
				if n := len(held(t, u.at)); n != 0 {
					t.Fatalf("%d connections before the first", n)
				}
				client, server := u.pairBy(func() *net.TCPConn { return family.dial(u) })
				must(t, life.do(client, server))
				var all []Connection
				until(t, "it is as it must be", func() bool {
					all = held(t, u.at)
					return len(all) == life.held && closed(all) == life.closed
				})
				for _, c := range all {
					if c.Remote != u.at {
						t.Errorf("it is to %v; want %v", c.Remote, u.at)
					}
				}
			})
		}
	}
}

// TestToWhom: only what was asked for, any of it, each once.
func TestToWhom(t *testing.T) {
	a, b, c, six := listen(t, "127.0.0.1"), listen(t, "127.0.0.2"), listen(t, "127.0.0.1"), listen(t, "::1")
	a.pair()
	b.pair()
	b.pair()
	c.pairBy(c.dialMapped)
	six.pair()
	a.keep(a.dial()) // the server has not accepted it yet
	mapped := netip.AddrPortFrom(netip.AddrFrom16(a.at.Addr().As16()), a.at.Port())
	zoned := netip.AddrPortFrom(six.at.Addr().WithZone("lo"), six.at.Port())
	elsewhere := netip.AddrPortFrom(b.at.Addr(), a.at.Port())
	var many []netip.AddrPort
	for i := range maxRemotes - 1 {
		many = append(many, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)}), uint16(i+1)))
	}
	for _, row := range []struct {
		name string
		to   []netip.AddrPort
		want map[netip.AddrPort]int
	}{
		{"nobody", nil, nil},
		{"one", []netip.AddrPort{a.at}, map[netip.AddrPort]int{a.at: 2}},
		{"another at the same port", []netip.AddrPort{elsewhere}, nil},
		{"an address in its IPv6 form", []netip.AddrPort{mapped}, map[netip.AddrPort]int{a.at: 2}},
		{"an address with a zone", []netip.AddrPort{zoned}, map[netip.AddrPort]int{six.at: 1}},
		{"two", []netip.AddrPort{b.at, c.at}, map[netip.AddrPort]int{b.at: 2, c.at: 1}},
		{"all, one twice", []netip.AddrPort{a.at, six.at, b.at, elsewhere, c.at, a.at}, map[netip.AddrPort]int{a.at: 2, b.at: 2, c.at: 1, six.at: 1}},
		{"as many as may be", append(many, b.at), map[netip.AddrPort]int{b.at: 2}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := map[netip.AddrPort]int{}
			for _, c := range held(t, row.to...) {
				got[c.Remote]++
			}
			if fmt.Sprint(got) != fmt.Sprint(row.want) {
				t.Errorf("%v; want %v", got, row.want)
			}
		})
	}
	for name, to := range map[string][]netip.AddrPort{"too many": append(many, a.at, b.at), "none": {a.at, {}}} {
		if all, err := To(t.Context(), to); err == nil {
			t.Errorf("%s: %v", name, all)
		}
	}
}

// TestSilent: what comes from the other side ends the silence, what goes there only
// where it is acknowledged, and another connection's does not.
func TestSilent(t *testing.T) {
	u := listen(t, "127.0.0.1")
	const tick = 10 * time.Millisecond // the kernel's, at most
	silence := func() time.Duration {
		t.Helper()
		all := held(t, u.at)
		if len(all) != 1 {
			t.Fatalf("%d connections; want 1", len(all))
		}
		return all[0].Silent
	}
	begun := time.Now()
	client, server := u.pair()
	made := time.Now()
	bounds := func(what string, from, to time.Time) {
		t.Helper()
		before := time.Since(to)
		got := silence()
		if after := time.Since(from); got < before-tick || got > after+tick {
			t.Errorf("%s: silent for %v; want %v to %v", what, got, before, after)
		}
	}
	quiet := func(d time.Duration) {
		t.Helper()
		until(t, "it is silent for a while", func() bool { return silence() >= d })
	}
	quiet(50 * time.Millisecond)
	bounds("idle", begun, made)

	other := listen(t, "127.0.0.2")
	_, talker := other.pair()
	_, err := talker.Write([]byte("x"))
	must(t, err)
	bounds("while another is not", begun, made)

	for _, event := range []struct {
		name string
		do   func() error
	}{
		{"the other side speaks", func() error { _, err := server.Write([]byte("x")); return err }},
		{"it acknowledges", func() error { _, err := client.Write([]byte("x")); return err }},
		{"it answers a keepalive", func() error {
			return client.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Hour})
		}},
		{"it closes", func() error {
			_, err := server.Read(make([]byte, 1)) // or it would be a reset
			return errors.Join(err, server.Close())
		}},
	} {
		quiet(50 * time.Millisecond)
		begun = time.Now()
		must(t, event.do())
		until(t, event.name, func() bool { return silence() < time.Since(begun) })
	}
}

// TestStale: a count is a count of those that must be stale.
func TestStale(t *testing.T) {
	day := 24 * time.Hour
	for _, row := range []struct {
		name   string
		c      Connection
		age    time.Duration
		number int
	}{
		{"older", Connection{Silent: time.Hour}, time.Minute, 1},
		{"younger", Connection{Silent: time.Minute}, time.Hour, 0},
		{"made when the life began", Connection{Silent: time.Hour}, time.Hour, 0},
		{"by what a whole second may hide", Connection{Silent: time.Minute + time.Second}, time.Minute, 0},
		{"by more", Connection{Silent: time.Minute + 1100*time.Millisecond}, time.Minute, 1},
		{"by what two clocks may differ", Connection{Silent: 30*day + 4*time.Minute}, 30 * day, 0},
		{"by more than they differ", Connection{Silent: 30*day + 5*time.Minute}, 30 * day, 1},
		{"closed, whenever", Connection{Closed: true}, time.Hour, 1},
		{"closed, of an unknown life", Connection{Closed: true}, 0, 1},
		{"of an unknown life", Connection{Silent: day}, 0, 0},
		{"of a life yet to begin", Connection{Silent: day}, -time.Hour, 0},
		{"the kernel does not tell", Connection{}, time.Nanosecond, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			if n := Stale([]Connection{row.c}, row.age); n != row.number {
				t.Errorf("%d; want %d", n, row.number)
			}
			if n := Stale([]Connection{row.c, row.c, {}}, row.age); n != 2*row.number {
				t.Errorf("%d of two of them and a fresh one; want %d", n, 2*row.number)
			}
		})
	}
	if n := Stale(nil, time.Hour); n != 0 {
		t.Errorf("%d of none", n)
	}
}

// TestOlderThanALife: of two idle connections the one that was there before a life
// began is stale, as soon as the life is told apart from the silence.
func TestOlderThanALife(t *testing.T) {
	u := listen(t, "127.0.0.1")
	u.pair()
	made := time.Now()
	// What a life is given before it is called younger than a connection.
	until(t, "the connection is old", func() bool { return time.Since(made) > 1100*time.Millisecond })
	life := time.Now()
	u.pair()
	u.pair()
	age := time.Since(life) // first: what comes between the two makes no connection younger
	all := held(t, u.at)
	if len(all) != 3 || Stale(all, age) != 1 {
		t.Errorf("%d of %v are older than %v; want one of three", Stale(all, age), all, age)
	}
	if n := Stale(all, age+time.Since(made)); n != 0 {
		t.Errorf("%d are older than a life that began before all of them", n)
	}
}

// count is how many connections are many.
const count = 5_000

// crowd makes many connections, every third of which the other side has closed.
func (u *upstream) crowd(n int) {
	u.Helper()
	var limit syscall.Rlimit
	must(u, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if limit.Cur < uint64(2*n+100) {
		if os.Getenv("CI") != "" {
			u.Fatalf("only %d open files are allowed", limit.Cur)
		}
		u.Skipf("SKIPPED: only %d open files are allowed: ulimit -n %d", limit.Cur, 2*n+100)
	}
	for i := range n {
		if _, server := u.pair(); i%3 == 0 {
			must(u, server.Close())
		}
	}
}

func TestMany(t *testing.T) {
	u := listen(t, "127.0.0.1")
	u.crowd(count)
	var all []Connection
	until(t, "all that is closed there is", func() bool {
		all = held(t, u.at)
		return closed(all) == (count+2)/3
	})
	if len(all) != count {
		t.Errorf("%d connections; want %d", len(all), count)
	}
	if other := held(t, netip.AddrPortFrom(u.at.Addr(), 1)); len(other) != 0 {
		t.Errorf("%d connections to another port", len(other))
	}
}

// things counts what a call must not leave behind.
func things(t testing.TB) (goroutines, descriptors int) {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return runtime.NumGoroutine(), len(d)
}

// TestEnds: it ends with its context, also while the kernel says nothing, and leaves
// nothing behind.
func TestEnds(t *testing.T) {
	u := listen(t, "127.0.0.1")
	u.pair()
	held(t, u.at) // what the runtime opens once is open
	goroutines, descriptors := things(t)
	mine := errors.New("mine")
	over, end := context.WithCancelCause(t.Context())
	end(mine)
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for range 10 {
		held(t, u.at)
		if _, err := To(over, []netip.AddrPort{u.at}); !errors.Is(err, mine) {
			t.Errorf("its context has ended: %v", err)
		}
		if _, err := To(late, []netip.AddrPort{u.at}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("its time is over: %v", err)
		}
		ctx, end := context.WithCancelCause(t.Context())
		k, err := open(ctx)
		must(t, err)
		said := make(chan error)
		go func() {
			// Not a request, so there is no reply.
			_, err := k.list(nil, make([]byte, headerSize))
			said <- explain(ctx, err)
		}()
		end(mine)
		if err := <-said; !errors.Is(err, mine) {
			t.Errorf("its context ended while it waited: %v", err)
		}
		k.close()
	}
	until(t, "nothing is left", func() bool {
		g, d := things(t)
		return g <= goroutines && d <= descriptors
	})
}

// onThread runs what changes its thread for good.
func onThread(f func() error) error {
	said := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		said <- f()
	}()
	return <-said
}

// TestRights: it takes none, and what is in another network is not seen.
func TestRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can be somebody else: run this as root (all else here is run as you)")
	}
	u := listen(t, "127.0.0.1")
	u.pair()
	for _, row := range []struct {
		name string
		be   func() error
		held int
	}{
		{"nobody", func() error {
			const nobody = 65534
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
				return errno
			}
			return nil
		}, 1},
		{"a container", func() error { return syscall.Unshare(syscall.CLONE_NEWNET) }, 0},
	} {
		err := onThread(func() error {
			if err := row.be(); err != nil {
				return err
			}
			all, err := To(t.Context(), []netip.AddrPort{u.at})
			if err == nil && len(all) != row.held {
				return fmt.Errorf("%d connections; want %d", len(all), row.held)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// TestMachine tells what a machine holds, in the words that a test in package lab
// reads: that test runs it there.
func TestMachine(t *testing.T) {
	to := os.Getenv("KIDO_LAB_REMOTE")
	if to == "" {
		t.Skip("it is for a machine of the lab, see TestConnections there")
	}
	remote, err := netip.ParseAddrPort(to)
	must(t, err)
	age, err := time.ParseDuration(os.Getenv("KIDO_LAB_AGE"))
	must(t, err)
	all := held(t, remote)
	fmt.Printf("held %d, stale %d, closed %d\n", len(all), Stale(all, age), closed(all))
}

// BenchmarkTo compares with what else would tell the number: the kernel's file, which
// has no times, and ss. "busy" is a host with as many connections to another port.
func BenchmarkTo(b *testing.B) {
	crowd, few := listen(b, "127.0.0.1"), listen(b, "127.0.0.1")
	crowd.crowd(count)
	few.pair()
	for _, host := range []struct {
		name string
		at   netip.AddrPort
		held int
	}{{"many", crowd.at, count}, {"busy", few.at, 1}} {
		for _, way := range []struct {
			name  string
			count func() (int, error)
		}{
			{"netlink", func() (int, error) {
				all, err := To(b.Context(), []netip.AddrPort{host.at})
				return len(all), err
			}},
			{"proc", func() (int, error) { return proc(host.at) }},
			{"ss", func() (int, error) {
				out, err := exec.Command("ss", "-tinHO", "dst", host.at.String()).Output()
				return bytes.Count(out, []byte("\n")), err
			}},
		} {
			b.Run(host.name+"/"+way.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					n, err := way.count()
					if errors.Is(err, exec.ErrNotFound) {
						b.Skip("SKIPPED: no ss: install iproute2")
					}
					if err != nil || n != host.held {
						b.Fatalf("%d connections, %v; want %d", n, err, host.held)
					}
				}
			})
		}
	}
}

// proc counts by /proc/net/tcp and its twin.
func proc(remote netip.AddrPort) (n int, err error) {
	four := remote.Addr().As4()
	want := fmt.Sprintf("%08X:%04X", native.Uint32(four[:]), remote.Port())
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			field := strings.Fields(lines.Text())
			if len(field) > 3 && (field[2] == want || field[2] == "0000000000000000FFFF0000"+want) && (field[3] == "01" || field[3] == "08") {
				n++
			}
		}
		if err := lines.Err(); err != nil {
			return 0, err
		}
	}
	return n, nil
}
