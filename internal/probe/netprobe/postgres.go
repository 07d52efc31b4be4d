package netprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"kido/internal/probe"
)

// postgresQuestion asks for the life, its age in milliseconds, whether it is a standby, and
// whether it takes no writes.
//
// The life is when the postmaster was started, and when it last threw its statistics
// away, which since PostgreSQL 15 it does at once with all that are the whole server's
// where it recovers from a crash. For where one server process is killed, the postmaster ends all
// connections, recovers, and goes on without a new start time. One kind of
// statistics is reset by hand too, so two must have been: the older one counts. (The
// checkpointer's pid and start would say the same, but without pg_monitor a login sees
// pids and not whose they are; and the life must not depend on a login's rights.)
// Before 15 the statistics may lag behind, so there the start time is all, and such a crash is
// not seen. A reset of all statistics by hand (pg_stat_reset_shared() since 17) looks
// like one.
//
// What only the asking login is set to says nothing about the server.
const postgresQuestion = `
SELECT to_char(began AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'),
       to_char(recovered AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'),
       floor(extract(epoch FROM clock_timestamp() - greatest(began, recovered)) * 1000)::bigint,
       pg_is_in_recovery(),
       (SELECT setting = 'on' AND source NOT IN ('user', 'database user')
          FROM pg_settings WHERE name = 'default_transaction_read_only')
  FROM (SELECT pg_postmaster_start_time() AS began,
               CASE WHEN current_setting('server_version_num')::int >= 150000
                    THEN (SELECT least(a.stats_reset, b.stats_reset) FROM pg_stat_archiver a, pg_stat_bgwriter b)
               END AS recovered) AS life`

func (p Prober) postgres(ctx context.Context, s probe.Spec) probe.Answer {
	l := &link{ctx: ctx, spec: s, protocol: "PostgreSQL's protocol"}
	defer l.Close()
	config, err := postgresConfig(l)
	if err != nil {
		return probe.NotReady("%v", err)
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return whyPostgres(l, err)
	}
	defer func() {
		_ = conn.Close(ctx)
		l.Close() // it would wait for up to 15 s in the background, after an error
		<-conn.CleanupDone()
	}()
	results, err := conn.Exec(ctx, postgresQuestion).ReadAll()
	if err != nil {
		return whyPostgres(l, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 5 {
		return probe.NotReady("connected, but: %v", errUnanswered)
	}
	var row [5]string
	for i, column := range results[0].Rows[0] {
		row[i] = string(column)
	}
	age, err := strconv.ParseInt(row[2], 10, 64)
	if err != nil {
		return probe.NotReady("connected, but: %v", err)
	}
	a := probe.Alive(strings.TrimSuffix(row[0]+"/"+row[1], "/"), time.Duration(age)*time.Millisecond)
	standby, readOnly := row[3] == "t", ""
	switch {
	case standby:
		readOnly = "it is a standby"
	case row[4] == "t":
		readOnly = "default_transaction_read_only is on"
	}
	return weighRole(s, a, standby, readOnly)
}

// postgresConfig is all that a spec says, and nothing of the environment or of files: a
// pgconn.Config must come from ParseConfig, which reads them, so each setting is given
// there, whatever it be, and then each field set.
func postgresConfig(l *link) (*pgconn.Config, error) {
	// A host that is a folder: no certificates are looked for; a password: no .pgpass.
	text := "host=/ port=1 user=x password=x sslmode=disable sslcertmode=disable sslnegotiation=postgres " +
		"connect_timeout=0 target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer require_auth=''"
	if os.Getenv("PGSERVICE") != "" { // a service cannot be unsaid, but ours says nothing
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		_, err = w.WriteString("[kido]\n")
		w.Close()
		if err != nil {
			return nil, err
		}
		text += fmt.Sprintf(" service=kido servicefile=/dev/fd/%d", r.Fd())
	}
	c, err := pgconn.ParseConfig(text)
	if err != nil {
		return nil, err
	}
	s := l.spec
	c.User, c.Password, c.Database = s.Options["user"], s.Secret("password"), s.Options["database"]
	c.RuntimeParams = map[string]string{"application_name": "kido"}
	c.SSLCertMode = "allow"
	c.MaxProtocolMessageBodyLen = maxTalk
	// Where to is the link's matter; a folder would be a Unix socket's.
	c.Host = "target"
	c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{c.Host}, nil }
	c.DialFunc = func(context.Context, string, string) (net.Conn, error) { return l, l.dial() }
	if s.Options["tls"] == "yes" {
		c.TLSConfig, err = l.tlsConfig()
	}
	return c, err
}

func whyPostgres(l *link, err error) probe.Answer {
	said, ok := errors.AsType[*pgconn.PgError](err)
	_, huge := errors.AsType[*pgproto3.ExceededMaxBodyLenErr](err)
	plain := innermost(err).Error() == "server refused TLS connection" // whatever it answered
	begin := string(l.begin())
	switch {
	case ok && said.Detail != "":
		return probe.NotReady("connected, but: %s: %s", said.Message, strings.TrimSuffix(said.Detail, "."))
	case ok:
		return probe.NotReady("connected, but: %s", said.Message)
	case plain && begin == "N":
		return probe.NotReady("connected, but: it takes no TLS")
	case strings.Contains(err.Error(), "tls: "): // as all of crypto/tls says
		return whyConnected(l.ctx, l.spec, err)
	}
	// It begins with whether it takes TLS, how we are to log in, or that we are not.
	if begin != "" && strings.Contains("SRE", begin[:1]) && !huge && !plain {
		l.understand()
	}
	return l.why(innermost(err))
}

// innermost is what is inside of an error: without what those say it happened to.
func innermost(err error) error {
	for {
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			if e.Unwrap() == nil {
				return err
			}
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			if len(e.Unwrap()) == 0 {
				return err
			}
			err = e.Unwrap()[0]
		default:
			return err
		}
	}
}

// weighRole says what an answer is worth by the role that is asked for. follows: the server
// is what the field calls a standby or a replica; readOnly is why it takes no
// writes, "" where it does.
func weighRole(s probe.Spec, a probe.Answer, follows bool, readOnly string) probe.Answer {
	switch role := s.Options["role"]; {
	case role == "any":
		return a
	case role == "primary" && readOnly != "":
		return probe.NotReady("connected, but: %s", readOnly)
	case role == "" && readOnly != "":
		return a.Degrade("read-only: " + readOnly)
	case role != "" && role != "primary" && !follows:
		return probe.NotReady("connected, but: it is no %s", role)
	}
	return a
}
