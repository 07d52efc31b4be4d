package netprobe

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
)

// startRedis starts a Redis with options, the file of its configuration first, and returns what asks it.
func startRedis(t *testing.T, options ...string) (*process, probe.Spec) {
	t.Helper()
	program := needs(t, "redis-server", "redis-server")
	port := fmt.Sprint(freePort(t))
	p := start(t, nil, shortDir(t, nil), nil, append(append([]string{program}, options...), "--port", port, "--bind", "127.0.0.1")...)
	s := probe.Spec{Kind: probe.KindRedis, Target: net.JoinHostPort("127.0.0.1", port), Timeout: 10 * time.Second}
	until(t, "Redis answers", func() bool { return !p.alive() || ask(t, s).Word != "connection refused" })
	if !p.alive() {
		t.Fatal("Redis has ended")
	}
	return p, s
}

// sayRedis has a server do something.
func sayRedis(t *testing.T, s probe.Spec, command ...string) string {
	t.Helper()
	r := dialRedis(t, s)
	defer r.Close()
	text, err := r.do(command...)
	if err != nil {
		t.Fatalf("%q: %v", command, err)
	}
	return text
}

func dialRedis(t *testing.T, s probe.Spec) resp {
	t.Helper()
	l := &link{ctx: context.WithoutCancel(t.Context()), spec: s}
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return resp{l, bufio.NewReader(l)}
}

func TestRedis(t *testing.T) {
	t.Parallel()
	t.Run("life", func(t *testing.T) {
		t.Parallel()
		dir := shortDir(t, nil)
		p, s := startRedis(t, "--dir", dir)
		first := sameLife(t, s)
		if first == "" {
			t.Error("no life")
		}
		until(t, "a second is over", func() bool { return says(t, s, "").Age >= time.Second })
		says(t, with(s, "role", "primary"), "")
		says(t, with(s, "role", "any"), "")
		says(t, with(s, "role", "replica"), "connected, but: it is no replica")
		if a := says(t, with(s, "token", "no"), ""); a.Life != "" {
			t.Errorf("a life of %q, though none was asked for", a.Life)
		}

		p.signal(syscall.SIGSTOP)
		short := s
		short.Timeout = 300 * time.Millisecond
		until(t, "it is stopped", func() bool { return !ask(t, short).Ready })
		says(t, short, "connected, but no answer within 300ms")
		p.signal(syscall.SIGCONT)
		if a := says(t, s, ""); a.Life != first {
			t.Errorf("another life after it was stopped for a while")
		}
		until(t, "none of ours is left at the server", func() bool { return strings.Count(sayRedis(t, s, "CLIENT", "LIST"), " addr=") == 1 })

		p.stop(t, syscall.SIGTERM)
		says(t, s, "connection refused")
		_, port, _ := net.SplitHostPort(s.Target)
		start(t, nil, dir, nil, needs(t, "redis-server", "redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "")
		until(t, "it answers again", func() bool { return ask(t, s).Ready })
		if second := sameLife(t, s); second == first {
			t.Error("the same life after a restart")
		}
	})

	t.Run("loading", func(t *testing.T) {
		t.Parallel()
		dir := shortDir(t, nil)
		p, s := startRedis(t, "--dir", dir, "--enable-debug-command", "yes")
		sayRedis(t, s, "DEBUG", "POPULATE", "20000", "key", "100")
		sayRedis(t, s, "SAVE")
		p.stop(t, syscall.SIGTERM)
		// At 20 s for all of them it is still at it whenever it is asked, and then let go.
		_, s = startRedis(t, "--dir", dir, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
		says(t, s, "connected, but: it is loading its dataset (…")
		sayRedis(t, s, "CONFIG", "SET", "key-load-delay", "0")
		until(t, "it has loaded", func() bool {
			a := ask(t, s)
			if !a.Ready && !strings.HasPrefix(a.Word, "connected, but: it is loading its dataset (") {
				t.Fatalf("%q while it loads", a.Word)
			}
			return a.Ready
		})
	})

	t.Run("logins", func(t *testing.T) {
		t.Parallel()
		_, s := startRedis(t, write(t, nil, shortDir(t, nil)+"/conf", []byte("requirepass deep-secret\n"+
			"user kido on >other-secret +info\nuser blind on >other-secret +ping\nuser open on nopass +info\n")))
		right, wrong, other := secret(t, "deep-secret"), secret(t, "wr0ng-secret"), secret(t, "other-secret")
		says(t, s, "connected, but: NOAUTH Authentication required")
		says(t, with(s, "password", right), "")
		says(t, with(s, "user", "kido", "password", other), "")
		says(t, with(s, "user", "open"), "")
		const refused = "connected, but: WRONGPASS invalid username-password pair or user is disabled"
		says(t, with(s, "password", wrong), refused)
		says(t, with(s, "user", "kido", "password", wrong), refused)
		says(t, with(s, "user", "nobody", "password", other), refused)
		says(t, with(s, "user", "blind", "password", other), "connected, but: NOPERM this user has no permissions to run the 'info' command: …")

		_, s = startRedis(t)
		says(t, with(s, "password", right), "connected, but: ERR AUTH <password> called without any password configured …")
	})

	t.Run("replica", func(t *testing.T) {
		t.Parallel()
		primary, s := startRedis(t)
		_, port, _ := net.SplitHostPort(s.Target)
		_, replica := startRedis(t, "--replicaof", "127.0.0.1 "+port)
		until(t, "it follows", func() bool { return ask(t, with(replica, "role", "replica")).Verdict() == "ready" })
		says(t, replica, "degraded: read-only: it is a replica")
		says(t, with(replica, "strict", "yes"), "read-only: it is a replica")
		says(t, with(replica, "role", "any"), "")
		says(t, with(replica, "role", "primary"), "connected, but: it is a replica")
		primary.stop(t, syscall.SIGKILL)
		until(t, "it has lost its primary", func() bool { return ask(t, with(replica, "role", "replica")).Degraded })
		says(t, with(replica, "role", "replica"), "degraded: its link to its primary is down")
		says(t, with(replica, "role", "any"), "degraded: its link to its primary is down")
		sayRedis(t, replica, "REPLICAOF", "NO", "ONE")
		says(t, with(replica, "role", "primary"), "")
	})

	t.Run("full", func(t *testing.T) {
		t.Parallel()
		_, s := startRedis(t, "--maxclients", "1")
		_, port, _ := net.SplitHostPort(s.Target)
		other := start(t, nil, shortDir(t, nil), nil, needs(t, "redis-tools", "redis-cli"), "-p", port, "SUBSCRIBE", "news")
		until(t, "its one connection is another's", func() bool {
			if !other.alive() { // it came when a try was there
				other = start(t, nil, shortDir(t, nil), nil, needs(t, "redis-tools", "redis-cli"), "-p", port, "SUBSCRIBE", "news")
			}
			return ask(t, s).Word == "connected, but: ERR max number of clients reached"
		})
		for range 20 { // it says so and hangs up, at times before it was asked
			says(t, s, "connected, but: ERR max number of clients reached")
		}
		other.stop(t, syscall.SIGKILL)
		until(t, "it has room again", func() bool { return ask(t, s).Ready })
	})

	t.Run("cannot save", func(t *testing.T) {
		t.Parallel()
		dir := shortDir(t, nil)
		_, s := startRedis(t, "--dir", dir)
		sayRedis(t, s, "SET", "a", "b")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		sayRedis(t, s, "BGSAVE")
		until(t, "its save has failed", func() bool { return ask(t, s).Degraded })
		says(t, s, "degraded: the last background save failed: it may refuse writes (MISCONF)")
	})

	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		_, s := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(freePort(t)), "--cluster-node-timeout", "1000")
		says(t, s, "connected, but: the cluster is down (CLUSTERDOWN)")
		sayRedis(t, s, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
		until(t, "all slots are served", func() bool { return ask(t, s).Ready })
	})

	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		dir, port := shortDir(t, nil), freePort(t)
		conf := write(t, nil, dir+"/sentinel.conf", fmt.Appendf(nil, "port %d\nbind 127.0.0.1\n", port))
		p := start(t, nil, dir, nil, needs(t, "redis-server", "redis-server"), conf, "--sentinel")
		s := probe.Spec{Kind: probe.KindRedis, Target: at(port), Timeout: 10 * time.Second}
		until(t, "it answers", func() bool { return !p.alive() || ask(t, s).Ready })
		sameLife(t, s)
		says(t, with(s, "role", "primary"), "connected, but: it tells no role")
	})

	t.Run("tls", func(t *testing.T) {
		t.Parallel()
		dir, port := shortDir(t, nil), freePort(t)
		ours := newAuthority(t)
		ca := write(t, nil, dir+"/ca", ours.pem())
		cert, key := ours.issue(t, "127.0.0.1", time.Hour)
		options := []string{
			"--tls-port", fmt.Sprint(port), "--tls-ca-cert-file", ca,
			"--tls-cert-file", write(t, nil, dir+"/cert", cert), "--tls-key-file", write(t, nil, dir+"/key", key),
		}
		_, plain := startRedis(t, options...)
		s := plain
		s.Target = at(port)
		mine := []string{"tls", "yes", "ca", "file:" + ca, "cert", "file:" + dir + "/cert", "key", "file:" + dir + "/key"}
		if a, b := says(t, plain, ""), says(t, with(s, mine...), ""); a.Life != b.Life {
			t.Errorf("two lives: %+v, %+v", a, b)
		}
		says(t, with(s, mine[:4]...), "the server refused TLS: certificate required, give cert and key")
		says(t, with(s, append(mine[4:], "tls", "yes")...), "certificate is signed by an unknown authority")
		says(t, s, "connection reset by peer")
		plain.Timeout = 300 * time.Millisecond // to it TLS is the beginning of a long command
		says(t, with(plain, mine...), "connected, but no answer within 300ms")
	})
}

// TestRedisScripted is what no Redis comes into by itself: a server that is scripted.
func TestRedisScripted(t *testing.T) {
	t.Parallel()
	bulk := func(text string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text) }
	for answer, want := range map[string]string{
		"+OK\r\n":               "connected, but: it does not tell its incarnation: no run_id",
		bulk("a:b\n"):           "connected, but: it does not tell its incarnation: no run_id",
		bulk("run_id:x\r\na:b"): "",
		bulk("run_id:x\naof_last_write_status:err\n"): "degraded: the last write to its append-only file failed: it refuses writes (MISCONF)",
		bulk("run_id:x\nmaster_sync_in_progress:1\n"): "degraded: it is fetching its dataset from its primary",
		"$4000\r\nrun_id:x\n":                         "answered, but not in Redis's protocol",
		"-MASTERDOWN Link with MASTER is down.\r\n":   "connected, but: MASTERDOWN Link with MASTER is down",
	} {
		address := speaker(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1<<10))
			_, _ = c.Write([]byte(answer))
		})
		says(t, probe.Spec{Kind: probe.KindRedis, Target: address, Timeout: 10 * time.Second}, want)
	}
}
