package netprobe

import (
	"bytes"
	"context"
	"database/sql/driver"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"kido/internal/probe"
)

// mariadb is a server of its own, in which the account kido has a password.
type mariadb struct {
	t      testing.TB
	as     *syscall.Credential
	daemon string
	dir    string
	port   int
	server *process
}

func newMariaDB(t testing.TB) *mariadb {
	t.Helper()
	install := needs(t, "mariadb-server", "mariadb-install-db")
	as := credentialOf(t, "mysql")
	m := &mariadb{t: t, as: as, daemon: needs(t, "mariadb-server", "mariadbd"), dir: shortDir(t, as), port: freePort(t)}
	command(t, as, m.dir, nil, install, "--no-defaults", "--datadir="+m.dir+"/data", "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
	m.start()
	account := "kido@127.0.0.1 IDENTIFIED BY '" + planted + "'"
	m.sql("CREATE DATABASE shop", "CREATE USER "+account, "GRANT SELECT ON shop.* TO kido@127.0.0.1",
		"CREATE USER bare@127.0.0.1",
		"INSTALL SONAME 'auth_ed25519'", "CREATE USER modern@127.0.0.1 IDENTIFIED VIA ed25519 USING PASSWORD('"+planted+"')",
		"CREATE USER tlsonly@127.0.0.1 IDENTIFIED BY '"+planted+"' REQUIRE SSL",
		"CREATE USER holder@127.0.0.1 REQUIRE X509",
		"CREATE USER locked@127.0.0.1 IDENTIFIED BY '"+planted+"' ACCOUNT LOCK")
	return m
}

// begin begins a life of it, which is not waited for.
func (m *mariadb) begin(options ...string) {
	m.t.Helper()
	m.server = start(m.t, m.as, m.dir, nil, append([]string{
		m.daemon, "--no-defaults", "--datadir=" + m.dir + "/data", "--socket=" + m.dir + "/socket", fmt.Sprintf("--port=%d", m.port),
		"--bind-address=127.0.0.1", "--skip-name-resolve", "--pid-file=" + m.dir + "/pid", "--innodb-buffer-pool-size=8M", "--innodb-flush-log-at-trx-commit=0",
	}, options...)...)
}

func (m *mariadb) start(options ...string) {
	m.t.Helper()
	m.begin(options...)
	until(m.t, "mariadb is ready", func() bool {
		c, err := m.open()
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

func (m *mariadb) restart(s syscall.Signal, options ...string) {
	m.t.Helper()
	m.server.stop(m.t, s)
	m.start(options...)
}

// open is a connection of root's over the socket.
func (m *mariadb) open() (driver.Conn, error) {
	c := mysql.NewConfig()
	c.Logger = &mysql.NopLogger{}
	c.User, c.Net, c.Addr = "root", "unix", m.dir+"/socket"
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return connector.Connect(context.Background())
}

// sql runs statements as root, and returns what the last one says.
func (m *mariadb) sql(statements ...string) string {
	m.t.Helper()
	c, err := m.open()
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	said := ""
	for _, statement := range statements {
		rows, err := c.(driver.QueryerContext).QueryContext(m.t.Context(), statement, nil)
		if err != nil {
			m.t.Fatalf("%s: %v", statement, err)
		}
		said = ""
		if row := make([]driver.Value, len(rows.Columns())); len(row) > 0 && rows.Next(row) == nil {
			said = column(row[0])
		}
		rows.Close()
	}
	return said
}

// spec asks it as kido, with more options.
func (m *mariadb) spec(options ...string) probe.Spec {
	m.t.Helper()
	return asksShop(m.t, probe.KindMySQL, m.port, m.dir, options)
}

func TestMySQL(t *testing.T) {
	t.Parallel()
	m := newMariaDB(t)
	short := func(s probe.Spec) probe.Spec {
		s.Timeout = time.Second
		return s
	}
	without := func(s probe.Spec, names ...string) probe.Spec {
		for _, name := range names {
			delete(s.Options, name)
		}
		return s
	}

	t.Run("login", func(t *testing.T) {
		wrong := write(t, nil, filepath.Join(t.TempDir(), "p"), []byte("wrong"))
		for _, x := range []struct {
			name string
			spec probe.Spec
			want string
		}{
			{"right", m.spec(), ""},
			{"no database", without(m.spec(), "database"), ""},
			{"no rights", without(m.spec("user=bare"), "database", "password"), ""},
			{"ed25519", without(m.spec("user=modern"), "database"), ""},
			{"wrong password", m.spec("password=file:" + wrong), "connected, but: error 1045: Access denied for user 'kido'@'127.0.0.1' (using password: YES)"},
			{"no password", without(m.spec(), "password"), "connected, but: error 1045: Access denied for user 'kido'@'127.0.0.1' (using password: NO)"},
			{"no such user", m.spec("user=nobody"), "connected, but: error 1045: Access denied for user 'nobody'@'127.0.0.1' (using password: YES)"},
			{"locked", m.spec("user=locked"), "connected, but: error 4151: Access denied, this account is locked"},
			{"not this database", m.spec("database=mysql"), "connected, but: error 1044: Access denied for user 'kido'@'127.0.0.1' to database 'mysql'"},
			{"TLS wanted by it", m.spec("user=tlsonly"), "connected, but: error 1045: Access denied for user 'tlsonly'@'127.0.0.1' (using password: YES)"},
			{"TLS wanted by us", m.spec("tls=yes"), "connected, but: it takes no TLS"},
		} {
			t.Run(x.name, func(t *testing.T) {
				verdict := "not-ready"
				if x.want == "" {
					verdict = "ready"
				}
				expect(t, ask(t, x.spec), verdict, x.want)
			})
		}
		m.sql("GRANT SELECT ON missing.* TO kido@127.0.0.1")
		expect(t, ask(t, m.spec("database=missing")), "not-ready", "connected, but: error 1049: Unknown database 'missing'")
		until(t, "no session is left at the server", func() bool {
			return m.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER NOT IN ('root', 'system user')") == "0"
		})
	})

	t.Run("host", func(t *testing.T) {
		var accounts []string
		for _, user := range []string{"root", "kido", "bare", "modern", "tlsonly", "holder", "locked"} {
			accounts = append(accounts, user+"@127.0.0.1 TO "+user+"@192.0.2.1")
		}
		m.sql("RENAME USER " + strings.Join(accounts, ", "))
		expect(t, ask(t, m.spec()), "not-ready", "connected, but: error 1130: Host '127.0.0.1' is not allowed to connect to this MariaDB server")
		m.sql(strings.NewReplacer("127.0.0.1", "192.0.2.1", "192.0.2.1", "127.0.0.1").Replace("RENAME USER " + strings.Join(accounts, ", ")))
		expect(t, ask(t, m.spec()), "ready", "")
	})

	t.Run("life", func(t *testing.T) {
		first := ask(t, m.spec())
		if !regexp.MustCompile(`^[^/]+/\d+/\d{10}$`).MatchString(first.Life) || first.Age > time.Hour {
			t.Fatalf("got %+v", first)
		}
		// Over more than two seconds' ends, as closely as it goes.
		began := m.sql("SELECT UNIX_TIMESTAMP()")
		tries := 0
		until(t, "three seconds have passed at the server", func() bool {
			for range 50 {
				tries++
				if a := (Prober{}).Try(t.Context(), m.spec()); a.Life != first.Life || a.Age < first.Age || !a.Ready {
					t.Fatalf("try %d: %+v was %+v", tries, a, first)
				}
			}
			return m.sql("SELECT UNIX_TIMESTAMP() >= "+began+" + 3") == "1"
		})
		t.Logf("%d tries said the same", tries)
		m.sql("FLUSH STATUS", "FLUSH PRIVILEGES", "SET GLOBAL time_zone = '+09:00'")
		for what, s := range map[string]probe.Spec{
			"another login": without(m.spec("user=bare"), "password", "database"),
			"again":         m.spec(),
		} {
			if a := ask(t, s); a.Life != first.Life {
				t.Errorf("%s: %+v was %+v", what, a, first)
			}
		}
		// A life is known by the second in which it began.
		next := func() {
			t.Helper()
			until(t, "another second has begun", func() bool { return ask(t, m.spec()).Age > 0 })
		}
		next()
		m.restart(syscall.SIGTERM)
		second := ask(t, m.spec())
		if second.Life == first.Life || !second.Ready || second.Age > first.Age+time.Minute {
			t.Errorf("restarted: %+v was %+v", second, first)
		}
		next()
		m.restart(syscall.SIGKILL, "--performance-schema=ON")
		third := ask(t, m.spec())
		if third.Life == second.Life || !third.Ready {
			t.Errorf("killed: %+v was %+v", third, second)
		}
		// What MySQL is asked, as far as MariaDB can tell: it has that table too.
		forMySQL := regexp.MustCompile(`/\*M!.*?\*/`).ReplaceAllString(mysqlQuestion, "")
		forMySQL = strings.NewReplacer("/*!50700", "", "*/", "", "@@server_uuid", "'uuid'").Replace(forMySQL)
		started := third.Life[strings.LastIndex(third.Life, "/"):]
		if got, want := m.sql(forMySQL), strings.Replace(third.Life, started, "/uuid"+started, 1); got != want {
			t.Errorf("MySQL's form says %s, want %s", got, want)
		}
	})

	t.Run("role", func(t *testing.T) {
		role := func(role, verdict, word string) {
			t.Helper()
			s := m.spec()
			if role != "" {
				s.Options["role"] = role
			}
			expect(t, ask(t, s), verdict, word)
		}
		role("", "ready", "")
		role("primary", "ready", "")
		role("any", "ready", "")
		role("replica", "not-ready", "connected, but: it is no replica")
		m.sql("SET GLOBAL read_only = ON")
		role("", "degraded", "read-only: read_only is on")
		role("primary", "not-ready", "connected, but: read_only is on")
		role("any", "ready", "")
		role("replica", "ready", "")
		m.restart(syscall.SIGTERM, "--innodb-read-only")
		role("", "degraded", "read-only: innodb_read_only is on")
		m.restart(syscall.SIGTERM)
		role("", "ready", "")
	})

	t.Run("busy", func(t *testing.T) {
		m.sql("SET GLOBAL max_connections = 10")
		var held []driver.Conn
		for range 10 {
			c, err := m.open()
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
		}
		expect(t, ask(t, m.spec()), "not-ready", "connected, but: error 1040: Too many connections")
		for _, c := range held {
			c.Close()
		}
		until(t, "it has room", func() bool { return ask(t, m.spec()).Ready })
		m.sql("SET GLOBAL max_connections = 100", "ALTER USER kido@127.0.0.1 WITH MAX_CONNECTIONS_PER_HOUR 1")
		var a probe.Answer
		until(t, "this hour's are used up", func() bool {
			a = ask(t, m.spec())
			return !a.Ready
		})
		expect(t, a, "not-ready", "connected, but: error 1226: User 'kido' has exceeded the 'max_connections_per_hour' resource (current value: 1)")
		m.sql("ALTER USER kido@127.0.0.1 WITH MAX_CONNECTIONS_PER_HOUR 0")
	})

	t.Run("stopped", func(t *testing.T) {
		m.server.signal(syscall.SIGSTOP)
		expect(t, ask(t, short(m.spec())), "not-ready", "connected, but no answer within 1s")
		m.server.signal(syscall.SIGCONT)
		until(t, "it goes on", func() bool { return ask(t, m.spec()).Ready })
	})

	t.Run("starts and ends", func(t *testing.T) {
		// It listens before it runs the statements of its start, and answers after them.
		file := write(t, m.as, filepath.Join(m.dir, "init.sql"), []byte("CREATE TABLE shop.begun (n INT);\nSELECT SLEEP(3600);\n"))
		m.server.stop(t, syscall.SIGTERM)
		expect(t, ask(t, m.spec()), "not-ready", "connection refused")
		m.begin("--init-file=" + file)
		until(t, "it listens", func() bool {
			_, err := os.Stat(filepath.Join(m.dir, "data/shop/begun.frm"))
			return err == nil
		})
		expect(t, ask(t, short(m.spec())), "not-ready", "connected, but no answer within 1s")
		m.restart(syscall.SIGKILL)
		m.sql("DROP TABLE shop.begun", "CREATE TABLE shop.t (n INT)")
		expect(t, ask(t, m.spec()), "ready", "")
	})

	t.Run("TLS", func(t *testing.T) {
		ours, theirs := newAuthority(t), newAuthority(t)
		dir := t.TempDir()
		ca := write(t, nil, dir+"/ca", ours.pem())
		other := write(t, nil, dir+"/other", theirs.pem())
		cert, key := ours.issue(t, "holder", time.Hour)
		client := []string{"user=holder", "tls=yes", "ca=file:" + ca, "cert=file:" + write(t, nil, dir+"/cert", cert), "key=file:" + write(t, nil, dir+"/key", key)}
		serve := func(name string, good time.Duration) {
			t.Helper()
			cert, key := ours.issue(t, name, good)
			m.restart(syscall.SIGTERM, "--ssl-ca="+write(t, m.as, m.dir+"/ca.pem", ours.pem()),
				"--ssl-cert="+write(t, m.as, m.dir+"/cert.pem", cert), "--ssl-key="+write(t, m.as, m.dir+"/key.pem", key))
		}
		serve("127.0.0.1", time.Hour)
		for _, x := range []struct {
			name    string
			spec    probe.Spec
			verdict string
			word    string
		}{
			{"good", m.spec("tls=yes", "ca=file:"+ca), "ready", ""},
			{"required", without(m.spec("user=tlsonly", "tls=yes", "ca=file:"+ca), "database"), "ready", ""},
			{"unknown authority", m.spec("tls=yes", "ca=file:"+other), "not-ready", "certificate is signed by an unknown authority"},
			{"another name", m.spec("tls=yes", "ca=file:"+ca, "name=db.example"), "not-ready", "certificate is not for db.example"},
			{"our certificate", without(m.spec(client...), "database", "password"), "ready", ""},
			{"our certificate is missing", without(m.spec("user=holder", "tls=yes", "ca=file:"+ca), "database", "password"), "not-ready", "connected, but: error 1045: Access denied for user 'holder'@'127.0.0.1' (using password: NO)"},
		} {
			t.Run(x.name, func(t *testing.T) { expect(t, ask(t, x.spec), x.verdict, x.word) })
		}
		serve("127.0.0.1", -time.Hour)
		expect(t, ask(t, m.spec("tls=yes", "ca=file:"+ca)), "not-ready", "certificate expired")
	})
}

// TestNoMySQL is of servers that are none, and of words that no server here can be
// brought to say.
func TestNoMySQL(t *testing.T) {
	t.Parallel()
	const foreign = "answered, but not in MySQL's protocol"
	says := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Write([]byte(text))
			_, _ = c.Read(make([]byte, 1<<10))
			_, _ = c.Read(make([]byte, 1)) // until we hang up
		}
	}
	packet := func(number byte, text string) string {
		return string([]byte{byte(len(text)), byte(len(text) >> 8), byte(len(text) >> 16), number}) + text
	}
	greeting := func(plugin string) string {
		return packet(0, "\x0a8.0.44\x00\x01\x00\x00\x0012345678\x00\xff\xf7\xff\x02\x00\xff\xdf\x15"+strings.Repeat("\x00", 10)+"123456789012\x00"+plugin+"\x00")
	}
	then := func(begin string, answers ...string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Write([]byte(begin))
			for _, answer := range answers {
				if _, err := c.Read(make([]byte, 4<<10)); err != nil {
					return
				}
				_, _ = c.Write([]byte(answer))
			}
		}
	}
	for name, x := range map[string]struct {
		serve func(net.Conn)
		want  string
	}{
		"silent":          {func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }, "connected, but no answer within 1s"},
		"hangs up":        {func(net.Conn) {}, "connection closed without an answer"},
		"SMTP":            {says("220 mail.example ESMTP Postfix\r\n"), foreign},
		"SMTP hangs up":   {func(c net.Conn) { _, _ = c.Write([]byte("421 too busy\r\n")) }, foreign},
		"SSH":             {says("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"), foreign},
		"endless garbage": {func(c net.Conn) { _, _ = bytes.NewReader(bytes.Repeat([]byte("xyzzy"), 1<<20)).WriteTo(c) }, foreign + ": it sent more than 1 MiB"},
		"endless packet": {func(c net.Conn) {
			_, _ = c.Write([]byte("\xff\xff\xff\x00\x0a"))
			_, _ = bytes.NewReader(bytes.Repeat([]byte("x"), 4<<20)).WriteTo(c)
		}, "connected, but: it sent more than 1 MiB"},
		"an old one":               {says(packet(0, "\x093.20\x00")), foreign},
		"dies in the login":        {then(greeting("mysql_native_password"), ""), "connected, but: it closed the connection in the middle"},
		"shuts down":               {then(greeting("mysql_native_password"), packet(2, "\xff\x1d\x04#08S01Server shutdown in progress")), "connected, but: error 1053: Server shutdown in progress"},
		"offline":                  {then(greeting("mysql_native_password"), packet(2, "\xff\xd8\x0b#HY000The server is currently in offline mode")), "connected, but: error 3032: The server is currently in offline mode"},
		"blocked":                  {says(packet(0, "\xff\x69\x04Host '192.0.2.1' is blocked because of many connection errors; unblock with 'mariadb-admin flush-hosts'")), "connected, but: error 1129: Host '192.0.2.1' is blocked because of many connection errors; unblock with 'mariadb-admin flush-hosts'"},
		"an unknown login":         {then(greeting("mysql_native_password"), packet(2, "\xfeauthentication_kerberos_client\x00x")), "connected, but: it wants a way to log in that is not known here"},
		"a password in clear text": {then(greeting("mysql_native_password"), packet(2, "\xfemysql_clear_password\x00")), "connected, but: it wants the password in clear text, which is for TLS only"},
		"asks for a file":          {then(greeting("mysql_native_password"), packet(2, "\x00\x00\x00\x02\x00\x00\x00"), packet(1, "\xfb/etc/passwd"), packet(3, "\x00\x00\x00\x02\x00\x00\x00")), "connected, but: local file '/etc/passwd' is not registered"},
		"an answer to nothing":     {then(greeting("mysql_native_password"), packet(2, "\x00\x00\x00\x02\x00\x00\x00"), packet(1, "\x00\x00\x00\x02\x00\x00\x00")), "connected, but: it does not answer what it was asked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := asked(probe.KindMySQL, speaker(t, x.serve), "user=kido")
			s.Timeout = time.Second
			expect(t, ask(t, s), "not-ready", x.want)
		})
	}
	// The library panics at these, and leaves a goroutine that waits.
	for name, serve := range map[string]func(net.Conn){
		"a greeting that is none": says(packet(0, "\x0a"+strings.Repeat("x", 4080)+"\x00xxxx")),
		"an error that is none":   then(greeting("mysql_native_password"), packet(2, "\xff")),
	} {
		s := asked(probe.KindMySQL, speaker(t, serve), "user=kido")
		expect(t, Prober{}.Try(t.Context(), s), "not-ready", foreign)
		if n := connections(t, s.Target); n != 0 {
			t.Errorf("%s left %d connections", name, n)
		}
	}
	expect(t, ask(t, asked(probe.KindMySQL, at(freePort(t)), "user=kido")), "not-ready", "connection refused")
	expect(t, ask(t, asked(probe.KindMySQL, "db.invalid:3306", "user=kido")), "not-ready", "no such host: db.invalid")
}
