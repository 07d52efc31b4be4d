package netprobe

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"kido/internal/probe"
)

// postgres is a cluster of its own, in which the role kido has a password.
type postgres struct {
	t      testing.TB
	as     *syscall.Credential
	bin    string
	dir    string
	port   int
	server *process
}

func newPostgres(t testing.TB) *postgres {
	t.Helper()
	initdb := needs(t, "postgresql", "initdb", "/usr/lib/postgresql/*/bin/initdb")
	if real, err := filepath.EvalSymlinks(initdb); err == nil {
		initdb = real
	}
	as := credentialOf(t, "postgres")
	g := &postgres{t: t, as: as, bin: filepath.Dir(initdb), dir: shortDir(t, as), port: freePort(t)}
	command(t, as, g.dir, nil, initdb, "-D", g.dir+"/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	g.file("pg_hba.conf", `
local   all      all                     trust
host    all      outsider   127.0.0.1/32 reject
hostssl all      tlsonly    127.0.0.1/32 scram-sha-256
hostssl all      holder     127.0.0.1/32 cert
host    shop     kido       127.0.0.1/32 scram-sha-256
host    missing  kido       127.0.0.1/32 scram-sha-256
`)
	g.configure("")
	g.start()
	g.sql("CREATE DATABASE shop", "CREATE ROLE kido LOGIN PASSWORD '"+planted+"'", "CREATE ROLE tlsonly LOGIN PASSWORD '"+planted+"'",
		"CREATE ROLE holder LOGIN", "CREATE ROLE watcher LOGIN PASSWORD '"+planted+"'", "GRANT pg_monitor TO watcher")
	return g
}

// file writes a file of the cluster.
func (g *postgres) file(name, text string) {
	g.t.Helper()
	write(g.t, g.as, filepath.Join(g.dir, "data", name), []byte(text))
}

// configure sets what differs from the defaults.
func (g *postgres) configure(more string) {
	g.t.Helper()
	g.file("postgresql.conf", fmt.Sprintf(`
listen_addresses = '127.0.0.1'
port = %d
unix_socket_directories = '%s'
max_connections = 12
fsync = off
shared_buffers = 4MB
checkpoint_timeout = 1h
restore_command = 'touch %[2]s/held; while [ -e %[2]s/hold ]; do sleep .01; done; false'
%[3]s
`, g.port, g.dir, more))
}

// begin begins a life of it, and waits until it listens.
func (g *postgres) begin() {
	g.t.Helper()
	// A killed one's children hold its memory for a moment, in which no other one starts.
	until(g.t, "postgres starts", func() bool {
		g.server = start(g.t, g.as, g.dir, nil, g.bin+"/postgres", "-D", g.dir+"/data")
		return poll(func() bool {
			text, _ := os.ReadFile(g.dir + "/data/postmaster.pid")
			lines := strings.Split(string(text), "\n") // the eighth is its state, once it listens
			return !g.server.alive() || lines[0] == strconv.Itoa(g.server.pid) && len(lines) > 8
		}) && g.server.alive()
	})
	server := g.server
	g.t.Cleanup(func() { // its children have groups of their own
		server.signal(syscall.SIGQUIT)
		server.signal(syscall.SIGCONT)
		<-server.ended
	})
}

func (g *postgres) start() {
	g.t.Helper()
	g.begin()
	until(g.t, "postgres is ready", func() bool {
		text, _ := os.ReadFile(g.dir + "/data/postmaster.pid")
		return strings.Contains(string(text), "\nready")
	})
}

func (g *postgres) restart(s syscall.Signal) {
	g.t.Helper()
	g.server.stop(g.t, s)
	g.start()
}

func (g *postgres) reload() {
	g.t.Helper()
	g.sql("SELECT pg_reload_conf()")
}

// sql runs statements as the superuser, each for itself, and returns what the last one says.
func (g *postgres) sql(statements ...string) string {
	g.t.Helper()
	c := g.connect("postgres", "postgres")
	defer c.Close(context.Background())
	said := ""
	for _, statement := range statements {
		results, err := c.Exec(g.t.Context(), statement).ReadAll()
		if err != nil {
			g.t.Fatalf("%s: %v", statement, err)
		}
		said = ""
		if rows := results[0].Rows; len(rows) > 0 {
			said = string(rows[0][0])
		}
	}
	return said
}

// connect holds a connection over the socket.
func (g *postgres) connect(user, database string) *pgconn.PgConn {
	g.t.Helper()
	c, err := g.dial(user, database)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func (g *postgres) dial(user, database string) (*pgconn.PgConn, error) {
	return pgconn.Connect(context.Background(), fmt.Sprintf("host=%s port=%d user=%s database=%s", g.dir, g.port, user, database))
}

// spec asks it as kido, with more options.
func (g *postgres) spec(options ...string) probe.Spec {
	g.t.Helper()
	return asksShop(g.t, probe.KindPostgres, g.port, g.dir, options)
}

// expect is a row of a table: the answer to a try.
func expect(t *testing.T, a probe.Answer, verdict, word string) {
	t.Helper()
	if a.Verdict() != verdict || a.Word != word {
		t.Errorf("got %s %q, want %s %q", a.Verdict(), a.Word, verdict, word)
	}
	if a.Ready != (a.Life != "") {
		t.Errorf("life of %+v", a)
	}
}

func TestPostgres(t *testing.T) {
	g := newPostgres(t)
	short := func(s probe.Spec) probe.Spec {
		s.Timeout = time.Second
		return s
	}

	t.Run("login", func(t *testing.T) {
		wrong := write(t, nil, filepath.Join(t.TempDir(), "p"), []byte("wrong"))
		none := g.spec()
		delete(none.Options, "password")
		for _, x := range []struct {
			name string
			spec probe.Spec
			want string
		}{
			{"right", g.spec(), ""},
			{"wrong password", g.spec("password=file:" + wrong), `connected, but: password authentication failed for user "kido"`},
			{"no password", none, `connected, but: password authentication failed for user "kido"`},
			{"no such database", g.spec("database=missing"), `connected, but: database "missing" does not exist`},
			{"no such user", g.spec("user=nobody"), `connected, but: no pg_hba.conf entry for host "127.0.0.1", user "nobody", database "shop", no encryption`},
			{"rejected", g.spec("user=outsider"), `connected, but: pg_hba.conf rejects connection for host "127.0.0.1", user "outsider", database "shop", no encryption`},
			{"TLS wanted by it", g.spec("user=tlsonly"), `connected, but: no pg_hba.conf entry for host "127.0.0.1", user "tlsonly", database "shop", no encryption`},
			{"TLS wanted by us", g.spec("tls=yes"), "connected, but: it takes no TLS"},
		} {
			t.Run(x.name, func(t *testing.T) {
				verdict := "not-ready"
				if x.want == "" {
					verdict = "ready"
				}
				expect(t, ask(t, x.spec), verdict, x.want)
			})
		}
		until(t, "no session of kido's is left at the server", func() bool {
			return g.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kido'") == "0"
		})
	})

	t.Run("environment and files", func(t *testing.T) {
		home := t.TempDir()
		t.Setenv("HOME", home)
		fifo := filepath.Join(home, "fifo") // to read it takes for ever
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(fifo, filepath.Join(home, ".pgpass")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(fifo, filepath.Join(home, ".pg_service.conf")); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{
			"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGAPPNAME", "PGCONNECT_TIMEOUT", "PGSSLMODE", "PGSSLKEY",
			"PGSSLCERT", "PGSSLCERTMODE", "PGSSLSNI", "PGSSLROOTCERT", "PGSSLPASSWORD", "PGSSLNEGOTIATION", "PGTARGETSESSIONATTRS", "PGSERVICE",
			"PGSERVICEFILE", "PGTZ", "PGOPTIONS", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION", "PGCHANNELBINDING", "PGREQUIREAUTH",
		} {
			t.Setenv(name, fifo)
		}
		none := g.spec()
		delete(none.Options, "password")
		expect(t, ask(t, g.spec()), "ready", "")
		expect(t, ask(t, none), "not-ready", `connected, but: password authentication failed for user "kido"`)
	})

	t.Run("life", func(t *testing.T) {
		g.file("pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
		g.reload()
		first := ask(t, g.spec())
		if first.Life == "" || first.Age <= 0 || first.Age > time.Hour {
			t.Fatalf("got %+v", first)
		}
		same := func(what string, s probe.Spec) {
			t.Helper()
			if a := ask(t, s); a.Life != first.Life || a.Age < first.Age {
				t.Errorf("%s: %+v was %+v", what, a, first)
			}
		}
		same("again", g.spec())
		same("another database", g.spec("database=postgres"))
		same("a login that sees more", g.spec("user=watcher"))
		g.sql("ALTER ROLE kido SET timezone = 'Asia/Tokyo'", "ALTER ROLE kido SET lc_time = 'C'", "ALTER ROLE kido SET datestyle = 'German'", "ALTER ROLE kido SET extra_float_digits = -15")
		same("settings of its own", g.spec())
		g.sql("SELECT pg_stat_reset_shared('bgwriter')", "SELECT pg_stat_reset()", "CHECKPOINT")
		g.reload()
		same("one kind of statistics reset by hand, a checkpoint, a reload", g.spec())

		g.restart(syscall.SIGINT)
		second := ask(t, g.spec())
		if second.Life == first.Life || second.Age >= first.Age+time.Hour {
			t.Errorf("restarted: %+v was %+v", second, first)
		}

		victim := g.connect("kido", "shop")
		defer victim.Close(context.Background())
		if err := syscall.Kill(int(victim.PID()), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := victim.ReceiveMessage(t.Context()); err == nil {
			t.Fatal("it lives")
		}
		var third probe.Answer
		until(t, "it has recovered", func() bool {
			third = ask(t, g.spec())
			return third.Ready && third.Life != second.Life // it may not have seen yet that one of its own is dead
		})
		if text, err := os.ReadFile(g.dir + "/data/postmaster.pid"); err != nil || !g.server.alive() || !bytes.HasPrefix(text, []byte(strconv.Itoa(g.server.pid)+"\n")) {
			t.Errorf("the postmaster is to be the same: %s, %v", text, err)
		}
		if third.Life == first.Life || third.Age > second.Age+time.Hour || ask(t, g.spec()).Life != third.Life {
			t.Errorf("crashed inside: %+v was %+v", third, second)
		}
	})

	t.Run("role", func(t *testing.T) {
		role := func(role, verdict, word string) {
			t.Helper()
			s := g.spec()
			if role != "" {
				s.Options["role"] = role
			}
			expect(t, ask(t, s), verdict, word)
		}
		role("primary", "ready", "")
		role("any", "ready", "")
		role("standby", "not-ready", "connected, but: it is no standby")

		g.sql("ALTER ROLE kido SET default_transaction_read_only = on")
		role("", "ready", "")
		g.sql("ALTER ROLE kido RESET default_transaction_read_only", "ALTER SYSTEM SET default_transaction_read_only = on")
		g.reload()
		until(t, "it is read-only", func() bool { return g.sql("SHOW default_transaction_read_only") == "on" })
		role("", "degraded", "read-only: default_transaction_read_only is on")
		role("primary", "not-ready", "connected, but: default_transaction_read_only is on")
		role("any", "ready", "")
		g.sql("BEGIN READ WRITE; COMMIT", "ALTER SYSTEM RESET default_transaction_read_only")
		g.reload()

		g.file("standby.signal", "")
		g.restart(syscall.SIGINT)
		role("", "degraded", "read-only: it is a standby")
		role("primary", "not-ready", "connected, but: it is a standby")
		role("standby", "ready", "")
		role("any", "ready", "")

		g.configure("hot_standby = off")
		g.server.stop(t, syscall.SIGINT)
		g.begin()
		var a probe.Answer
		until(t, "it follows", func() bool {
			a = ask(t, g.spec())
			return a.Word != "connected, but: the database system is starting up"
		})
		expect(t, a, "not-ready", "connected, but: the database system is not accepting connections: Hot standby mode is disabled")
		g.configure("")
		if err := os.Remove(g.dir + "/data/standby.signal"); err != nil {
			t.Fatal(err)
		}
		g.restart(syscall.SIGINT)
		role("", "ready", "")
	})

	t.Run("killed under load", func(t *testing.T) {
		before := ask(t, g.spec())
		g.sql("CREATE TABLE load AS SELECT generate_series(1, 1000) AS n")
		writer := g.connect("postgres", "postgres")
		defer writer.Close(context.Background())
		ended := make(chan error, 1)
		go func() {
			_, err := writer.Exec(context.Background(), "INSERT INTO load SELECT generate_series(1, 2000000)").ReadAll()
			ended <- err
		}()
		start := g.sql("SELECT pg_current_wal_lsn()")
		until(t, "it has written 16 MiB", func() bool {
			return g.sql("SELECT pg_current_wal_lsn() - '"+start+"'::pg_lsn > 16 * 1024 * 1024") == "t"
		})
		g.server.stop(t, syscall.SIGKILL)
		if err := syscall.Kill(int(writer.PID()), syscall.SIGKILL); err != nil { // it would finish first
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Fatal("the writer was not interrupted")
		}
		expect(t, ask(t, g.spec()), "not-ready", "connection refused")

		_ = os.Remove(g.dir + "/held")
		hold := write(t, nil, g.dir+"/hold", nil) // by recovery's restore_command
		g.file("recovery.signal", "")
		g.begin()
		until(t, "it is held in recovery", func() bool {
			_, err := os.Stat(g.dir + "/held")
			return err == nil
		})
		expect(t, ask(t, g.spec()), "not-ready", "connected, but: the database system is starting up")
		if err := os.Remove(hold); err != nil {
			t.Fatal(err)
		}
		words := map[string]bool{}
		var a probe.Answer
		until(t, "it has recovered", func() bool {
			a = ask(t, g.spec("role=primary"))
			words[a.Word] = true
			return a.Ready
		})
		t.Logf("on the way: %q", slices.Sorted(maps.Keys(words)))
		if a.Life == before.Life || a.Life == "" {
			t.Errorf("%+v was %+v", a, before)
		}
	})

	t.Run("busy", func(t *testing.T) {
		var held []*pgconn.PgConn
		for range 9 { // of 12, 3 are the superuser's
			until(t, "there is room for one more", func() bool { // a session that has just ended may still count
				c, err := g.dial("kido", "shop")
				if err == nil {
					held = append(held, c)
				}
				return err == nil
			})
		}
		var a probe.Answer
		until(t, "it is full", func() bool { // a session that has just ended may still count
			a = ask(t, g.spec())
			return !a.Ready
		})
		expect(t, a, "not-ready", "connected, but: remaining connection slots are reserved for non-replication superuser connections")
		for _, c := range held {
			c.Close(context.Background())
		}
		until(t, "it has room", func() bool { return ask(t, g.spec()).Ready })
		g.sql("ALTER ROLE kido CONNECTION LIMIT 0")
		expect(t, ask(t, g.spec()), "not-ready", `connected, but: too many connections for role "kido"`)
		g.sql("ALTER ROLE kido CONNECTION LIMIT -1", "ALTER DATABASE shop ALLOW_CONNECTIONS off")
		expect(t, ask(t, g.spec()), "not-ready", `connected, but: database "shop" is not currently accepting connections`)
		g.sql("ALTER DATABASE shop ALLOW_CONNECTIONS on")
	})

	t.Run("stopped", func(t *testing.T) {
		if err := syscall.Kill(g.server.pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		expect(t, ask(t, short(g.spec())), "not-ready", "connected, but no answer within 1s")
		if err := syscall.Kill(g.server.pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		expect(t, ask(t, g.spec()), "ready", "")

		// One that answers the login, and then no question.
		lock := g.connect("postgres", "shop")
		defer lock.Close(context.Background())
		if _, err := lock.Exec(t.Context(), "BEGIN; LOCK pg_catalog.pg_class IN ACCESS EXCLUSIVE MODE; LOCK pg_catalog.pg_proc IN ACCESS EXCLUSIVE MODE").ReadAll(); err != nil {
			t.Fatal(err)
		}
		expect(t, ask(t, short(g.spec())), "not-ready", "connected, but no answer within 1s")
	})

	t.Run("TLS", func(t *testing.T) {
		ours, theirs := newAuthority(t), newAuthority(t)
		dir := t.TempDir()
		ca := write(t, nil, dir+"/ca", ours.pem())
		other := write(t, nil, dir+"/other", theirs.pem())
		cert, key := ours.issue(t, "holder", time.Hour)
		client := []string{"tls=yes", "ca=file:" + ca, "cert=file:" + write(t, nil, dir+"/cert", cert), "key=file:" + write(t, nil, dir+"/key", key)}
		g.file("pg_hba.conf", "local all all trust\nhostssl all holder 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
		g.file("ca.crt", string(ours.pem()))
		serve := func(name string, good time.Duration) {
			t.Helper()
			cert, key := ours.issue(t, name, good)
			g.file("server.crt", string(cert))
			g.file("server.key", string(key))
			g.configure("ssl = on\nssl_ca_file = 'ca.crt'")
			before := g.sql("SELECT pg_conf_load_time()")
			g.reload()
			until(t, "it has the certificate", func() bool { return g.sql("SELECT pg_conf_load_time()") != before })
		}
		serve("127.0.0.1", time.Hour)
		for _, x := range []struct {
			name    string
			spec    probe.Spec
			verdict string
			word    string
		}{
			{"good", g.spec("tls=yes", "ca=file:"+ca), "ready", ""},
			{"unknown authority", g.spec("tls=yes", "ca=file:"+other), "not-ready", "certificate is signed by an unknown authority"},
			{"the system's authorities", g.spec("tls=yes"), "not-ready", "certificate is signed by an unknown authority"},
			{"another name", g.spec("tls=yes", "ca=file:"+ca, "name=db.example"), "not-ready", "certificate is not for db.example"},
			{"our certificate", g.spec(append(client, "user=holder")...), "ready", ""},
			{"our certificate is missing", g.spec("user=holder", "tls=yes", "ca=file:"+ca), "not-ready", "connected, but: connection requires a valid client certificate"},
			{"no TLS", g.spec(), "not-ready", `connected, but: no pg_hba.conf entry for host "127.0.0.1", user "kido", database "shop", no encryption`},
		} {
			t.Run(x.name, func(t *testing.T) { expect(t, ask(t, x.spec), x.verdict, x.word) })
		}
		strange, key := theirs.issue(t, "holder", time.Hour)
		strangers := g.spec(append(client, "cert=file:"+write(t, nil, dir+"/strange", strange), "key=file:"+write(t, nil, dir+"/strange.key", key))...)
		until(t, "its alert comes before its reset", func() bool {
			a := ask(t, strangers)
			if a.Word == "connected, but: it closed the connection in the middle" {
				return false
			}
			expect(t, a, "not-ready", "the server refused TLS: unknown certificate authority")
			return true
		})
		serve("127.0.0.1", -time.Hour)
		expect(t, ask(t, g.spec("tls=yes", "ca=file:"+ca)), "not-ready", "certificate expired")
		g.configure("")
		g.file("pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
		g.reload()
	})

	t.Run("ends", func(t *testing.T) {
		until(t, "it takes connections without TLS", func() bool { return ask(t, g.spec()).Ready })
		last := g.connect("postgres", "postgres")
		if err := syscall.Kill(g.server.pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		var a probe.Answer
		until(t, "it is shutting down", func() bool {
			a = ask(t, g.spec())
			return !a.Ready
		})
		expect(t, a, "not-ready", "connected, but: the database system is shutting down")
		last.Close(context.Background())
		<-g.server.ended
		expect(t, ask(t, g.spec()), "not-ready", "connection refused")
	})
}

// TestNoPostgres is of servers that are none.
func TestNoPostgres(t *testing.T) {
	t.Parallel()
	const foreign = "answered, but not in PostgreSQL's protocol"
	says := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = bufio.NewReader(c).Peek(1)
			_, _ = c.Write([]byte(text))
			_, _ = c.Read(make([]byte, 1<<10))
			_, _ = c.Read(make([]byte, 1)) // until we hang up
		}
	}
	endless := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			for err := error(nil); err == nil; {
				_, err = c.Write([]byte(strings.Repeat(text, 1<<10)))
			}
		}
	}
	message := func(kind byte, text string) string {
		n := len(text) + 4
		return string([]byte{kind, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + text
	}
	for name, x := range map[string]struct {
		serve     func(net.Conn)
		want, tls string
	}{
		"silent": {
			func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<10)); _, _ = c.Read(make([]byte, 1)) },
			"connected, but no answer within 1s", "connected, but no answer within 1s",
		},
		"hangs up":         {func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<10)) }, "connection closed without an answer", "connection closed without an answer"},
		"HTTP":             {says("HTTP/1.1 400 Bad Request\r\n\r\n"), foreign, foreign},
		"SSH":              {says("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"), foreign, "answered, but not in TLS"},
		"MySQL":            {says("J\x00\x00\x00\x0a10.11.19-MariaDB\x00"), foreign, foreign},
		"Redis":            {says("-ERR Protocol error\r\n"), foreign, foreign},
		"endless garbage":  {endless("xyzzy"), foreign, foreign},
		"endless notices":  {endless(message('N', "SNOTICE\x00Mfor ever\x00\x00")), foreign + ": it sent more than 1 MiB", "connected, but: it takes no TLS"},
		"endless settings": {endless(message('S', "name\x00value\x00")), "connected, but: it sent more than 1 MiB", "answered, but not in TLS"},
		"a huge message":   {says("R\x7f\xff\xff\xff"), foreign, foreign},
		"an unknown login": {says(message('R', "\x00\x00\x00\x63")), "connected, but: unknown authentication type: 99", foreign},
		"dies in the middle": {
			func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1<<10))
				_, _ = c.Write([]byte(message('R', "\x00\x00\x00\x03"))) // a password, in clear text
				_, _ = c.Read(make([]byte, 1<<10))
			},
			"connected, but: it closed the connection in the middle", foreign,
		},
		"an answer to nothing": {
			func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1<<10))
				_, _ = c.Write([]byte(message('R', "\x00\x00\x00\x00") + message('Z', "I")))
				_, _ = c.Read(make([]byte, 1<<10))
				_, _ = c.Write([]byte(message('C', "SELECT 0\x00") + message('Z', "I")))
				_, _ = c.Read(make([]byte, 1<<10))
			},
			"connected, but: it does not answer what it was asked", foreign,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int32
			address := speaker(t, func(c net.Conn) {
				connections.Add(1)
				x.serve(c)
			})
			s := asked(probe.KindPostgres, address, "user=kido")
			s.Timeout = time.Second
			expect(t, ask(t, s), "not-ready", x.want)
			s.Options["tls"] = "yes"
			expect(t, ask(t, s), "not-ready", x.tls)
			if n := connections.Load(); n != 2 {
				t.Errorf("%d connections for 2 tries", n)
			}
		})
	}
	closed := asked(probe.KindPostgres, at(freePort(t)), "user=kido")
	expect(t, ask(t, closed), "not-ready", "connection refused")
	expect(t, ask(t, asked(probe.KindPostgres, "db.invalid:5432", "user=kido")), "not-ready", "no such host: db.invalid")
	expect(t, ask(t, asked(probe.KindPostgres, "/run/postgresql:5432", "user=kido")), "not-ready", "no such host: /run/postgresql")
}
