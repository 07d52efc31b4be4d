package netprobe

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/go-sql-driver/mysql"

	"kido/internal/probe"
)

// mysqlQuestion asks for the server and when it was started, for how many seconds it has
// run, and why it takes no writes.
//
// A server's Uptime is counted from the second in which it was started to the one in
// which the statement began, and UNIX_TIMESTAMP() is that one too. So in one
// statement their difference is exact, at any time. (Two starts in one second
// look like one; no finer word of a start is open to every login.) Comments that begin with ! are for
// MySQL 5.7 and later, those with M! for MariaDB. No login needs a right for it.
// The name is for a failover behind one address: two servers may be of one second.
const mysqlQuestion = `
SELECT CONCAT_WS('/', @@hostname, @@port, /*!50700 @@server_uuid, */ UNIX_TIMESTAMP() - CAST(VARIABLE_VALUE AS SIGNED)),
       VARIABLE_VALUE, @@global.read_only, @@global.innodb_read_only
  FROM /*!50700 performance_schema.global_status */ /*M! information_schema.GLOBAL_STATUS */
 WHERE VARIABLE_NAME = 'Uptime'`

var errUnanswered = errors.New("it does not answer what it was asked")

func (p Prober) mysql(ctx context.Context, s probe.Spec) (a probe.Answer) {
	l := &link{ctx: ctx, spec: s, protocol: "MySQL's protocol"}
	defer l.Close()
	defer func() {
		// The library believes that a packet is as long as it should be. What it left of
		// itself is a goroutine that waits, which nobody else can end.
		if recover() != nil {
			a = probe.NotReady("answered, but not in %s", l.protocol)
		}
	}()
	row, err := askMySQL(l)
	if err != nil {
		return whyMySQL(l, err)
	}
	uptime, err := strconv.ParseInt(row[1], 10, 64)
	if err != nil {
		return probe.NotReady("connected, but: %v", err)
	}
	off := func(value string) bool { return value == "0" || value == "OFF" }
	readOnly := ""
	switch {
	case !off(row[2]):
		readOnly = "read_only is on"
	case !off(row[3]):
		readOnly = "innodb_read_only is on"
	}
	return weighRole(s, probe.Alive(row[0], time.Duration(uptime)*time.Second), readOnly != "", readOnly)
}

// askMySQL asks the question on a connection of its own, without a pool.
func askMySQL(l *link) (row [4]string, err error) {
	s := l.spec
	c := mysql.NewConfig()
	c.User, c.Passwd, c.DBName = s.Options["user"], s.Secret("password"), s.Options["database"]
	c.Net, c.Addr = "tcp", s.Target
	c.DialFunc = func(context.Context, string, string) (net.Conn, error) { return l, l.dial() }
	c.Logger = &mysql.NopLogger{}
	if s.Options["tls"] == "yes" {
		if c.TLS, err = l.tlsConfig(); err != nil {
			return row, err
		}
		c.AllowCleartextPasswords = true // as PAM and LDAP need: nobody else can read it
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return row, err
	}
	conn, err := connector.Connect(l.ctx)
	if err != nil {
		return row, err
	}
	defer conn.Close()
	l.understand()
	rows, err := conn.(driver.QueryerContext).QueryContext(l.ctx, mysqlQuestion, nil)
	if err != nil {
		return row, err
	}
	defer rows.Close()
	values := make([]driver.Value, len(rows.Columns()))
	err = rows.Next(values)
	if err == io.EOF || err == nil && len(values) != len(row) {
		return row, errUnanswered
	}
	if err != nil {
		return row, err
	}
	for i, v := range values {
		row[i] = column(v)
	}
	return row, nil
}

// column is a value as a text, which it is not where it is a number.
func column(v driver.Value) string {
	if text, ok := v.([]byte); ok {
		return string(text)
	}
	return fmt.Sprint(v)
}

func whyMySQL(l *link, err error) probe.Answer {
	if said, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return probe.NotReady("connected, but: error %d: %s", said.Number, said.Message)
	}
	switch {
	case err == errUnanswered:
		return probe.NotReady("connected, but: %v", err)
	case errors.Is(err, mysql.ErrNoTLS):
		return probe.NotReady("connected, but: it takes no TLS")
	case errors.Is(err, mysql.ErrCleartextPassword):
		return probe.NotReady("connected, but: it wants the password in clear text, which is for TLS only")
	case errors.Is(err, mysql.ErrUnknownPlugin):
		return probe.NotReady("connected, but: it wants a way to log in that is not known here")
	}
	// It begins with packet 0, which is a greeting of protocol 10 or an error.
	if head := l.begin(); len(head) > 4 && head[3] == 0 && (head[4] == 10 || head[4] == 0xff) {
		l.understand()
	}
	return l.why(err)
}
