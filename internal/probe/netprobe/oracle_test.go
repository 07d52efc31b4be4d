package netprobe

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"kido/internal/probe"
)

// scriptedOracle plays a listener and a database behind it, packet by packet: the listener
// by what is public of TNS, the database by what go-ora reads. It is no Oracle, and none
// was asked in any test here.
type scriptedOracle struct {
	connect []func(*tnsServer) // what the listener does before it accepts, one after another
	login   int                // ORA- error of the login's first part
	verify  int                // of its second
	warns   bool               // that the password is to expire
	breaks  bool               // errors are announced by markers
	ask     int                // ORA- error of the question
	row     []string
	hangs   string // where it says nothing more
}

// oracleSays is how the server puts errors.
var oracleSays = map[int]string{
	942:   "ORA-00942: table or view does not exist\n",
	1017:  "ORA-01017: invalid username/password; logon denied\n",
	1033:  "ORA-01033: ORACLE initialization or shutdown in progress\nProcess ID: 0\nSession ID: 0 Serial number: 0\n",
	1034:  "ORA-01034: ORACLE not available\nORA-27101: shared memory realm does not exist\nLinux-x86_64 Error: 2: No such file or directory\n",
	1045:  "ORA-01045: user KIDO lacks CREATE SESSION privilege; logon denied\n",
	1403:  "ORA-01403: no data found\n",
	1089:  "ORA-01089: immediate shutdown or close in progress - no operations are permitted\n",
	1109:  "ORA-01109: database not open\n",
	20:    "ORA-00020: maximum number of processes (300) exceeded\n",
	28000: "ORA-28000: The account is locked.\n",
	28001: "ORA-28001: the password has expired\n",
}

// tnsServer is the server's side of a connection.
type tnsServer struct {
	net.Conn
	wide bool
}

func (s *tnsServer) receive() (kind byte, body []byte) {
	head := make([]byte, tnsHead)
	if _, err := io.ReadFull(s, head); err != nil {
		return 0, nil
	}
	size := int(binary.BigEndian.Uint16(head))
	if s.wide {
		size = int(binary.BigEndian.Uint32(head))
	}
	body = make([]byte, size-tnsHead)
	_, _ = io.ReadFull(s, body)
	return head[4], body
}

func (s *tnsServer) packet(kind, flags byte, body string) {
	head := make([]byte, tnsHead)
	if s.wide {
		binary.BigEndian.PutUint32(head, uint32(tnsHead+len(body)))
	} else {
		binary.BigEndian.PutUint16(head, uint16(tnsHead+len(body)))
	}
	head[4], head[5] = kind, flags
	_, _ = s.Write(append(head, body...))
}

func (s *tnsServer) data(body string) { s.packet(tnsData, 0, "\x00\x00"+body) }

func (s *tnsServer) accept() {
	body := make([]byte, 45-tnsHead)
	field := func(at, value int) { binary.BigEndian.PutUint16(body[at-tnsHead:], uint16(value)) }
	field(8, 317)
	field(12, 8192)
	field(14, 65535)
	field(20, 45)
	field(34, 8192)
	field(38, 65535)
	s.packet(tnsAccept, 0, string(body))
	s.wide = true
}

// refuse is a listener's answer, with the error as it writes it.
func refuse(code int) func(*tnsServer) {
	return refuseWith(fmt.Sprintf("(DESCRIPTION=(TMP=)(VSNNUM=318767104)(ERR=%d)(ERROR_STACK=(ERROR=(CODE=%[1]d)(EMFI=4))))", code))
}

func refuseWith(text string) func(*tnsServer) {
	return func(s *tnsServer) { s.packet(tnsRefuse, 0, "\x22\x00"+string(short(len(text)))+text) }
}

// redirect passes on to an address, in one packet or, as most do, in two.
func redirect(address string, apart bool) func(*tnsServer) {
	host, port, _ := net.SplitHostPort(address)
	to := fmt.Sprintf("(ADDRESS=(PROTOCOL=tcp)(HOST=%s)(PORT=%s))\x00(DESCRIPTION=(CONNECT_DATA=(SERVICE_NAME=shop)(INSTANCE_NAME=shop1)))", host, port)
	return func(s *tnsServer) {
		if apart {
			s.packet(tnsRedirect, 2, string(short(len(to))))
			s.data(to)
		} else {
			s.packet(tnsRedirect, 2, string(short(len(to)))+to)
		}
	}
}

func resend(s *tnsServer) { s.packet(tnsResend, 0, "") }

func raw(text string) func(*tnsServer) {
	return func(s *tnsServer) { _, _ = io.WriteString(s, text) }
}

func short(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

// ttc builds what is in data packets.
type ttc struct{ bytes.Buffer }

func (b *ttc) bytes(some ...byte) *ttc { b.Write(some); return b }

func (b *ttc) ints(all ...int) *ttc {
	for _, n := range all {
		text := bytes.TrimLeft(binary.BigEndian.AppendUint64(nil, uint64(n)), "\x00")
		b.bytes(byte(len(text))).Write(text)
	}
	return b
}

func (b *ttc) clr(text string) *ttc {
	b.bytes(byte(len(text))).WriteString(text)
	return b
}

func (b *ttc) dlc(text string) *ttc {
	if b.ints(len(text)); text != "" {
		b.clr(text)
	}
	return b
}

func (b *ttc) pair(key, value string, number int) *ttc { return b.dlc(key).dlc(value).ints(number) }

// summary ends an answer.
func (b *ttc) summary(code int) *ttc {
	b.bytes(4).ints(0, code, 0, 0, 1, 0).bytes(0, 0).ints(0, 0).bytes(0, 0).ints(0, 0).bytes(0).ints(0, 0, 0).bytes(0, 0).ints(0, 0, 0)
	if b.ints(0, 0, 0, code, 1); code != 0 {
		b.clr(oracleSays[code])
	}
	return b
}

func (o *scriptedOracle) serve(c net.Conn) {
	s := &tnsServer{Conn: c}
	hang := func(where string) bool {
		if o.hangs == where {
			_, _ = io.Copy(io.Discard, c)
		}
		return o.hangs == where
	}
	fail := func(code int) {
		if o.breaks {
			s.packet(tnsMarker, 0, "\x01\x00\x01")
			if kind, _ := s.receive(); kind != tnsMarker {
				return
			}
			s.packet(tnsMarker, 0, "\x01\x00\x02")
		}
		s.data(new(ttc).summary(code).String())
	}
	connects := 0
	for {
		kind, body := s.receive()
		switch {
		case kind == 1:
			if hang("connect") {
				return
			}
			if connects++; connects <= len(o.connect) {
				o.connect[connects-1](s)
				continue
			}
			s.accept()
		case kind != tnsData || len(body) < 4:
			return
		case bytes.HasPrefix(body[2:], []byte{1, 6, 0}): // the protocol
			if hang("negotiation") {
				return
			}
			capabilities := make([]byte, 39)
			capabilities[4], capabilities[7] = 32, 11
			b := new(ttc).bytes(1, 6, 0)
			b.WriteString("x86_64/Linux 2.4.xx\x00\x69\x03\x01\x00\x00") // a name, AL32UTF8, flags, no elements
			b.Write(append(short(11), 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0xd0))
			b.bytes(39).Write(capabilities)
			s.data(b.bytes(7, 2, 1, 0, 0, 0, 0, 0).String())
		case body[2] == 2: // types
			s.data("\x02" + "\x80\x00\x00\x00\x3c\x3c\x3c\x80\x00\x00\x00" + "\x00")
		case bytes.HasPrefix(body[2:], []byte{3, 0x76}): // who are you
			switch {
			case hang("login"):
				return
			case o.login != 0:
				fail(o.login)
				continue
			}
			s.data(new(ttc).bytes(8).ints(5).
				pair("AUTH_SESSKEY", strings.Repeat("0123456789ABCDEF", 4), 0).
				pair("AUTH_VFR_DATA", strings.Repeat("89ABCDEF", 4), 18453).
				pair("AUTH_PBKDF2_CSK_SALT", strings.Repeat("01234567", 4), 0).
				pair("AUTH_PBKDF2_VGEN_COUNT", "4096", 0).
				pair("AUTH_PBKDF2_SDER_COUNT", "3", 0).summary(0).String())
		case bytes.HasPrefix(body[2:], []byte{3, 0x73}): // prove it
			if o.verify != 0 {
				fail(o.verify)
				continue
			}
			b := new(ttc).bytes(8).ints(3).pair("AUTH_SESSION_ID", "42", 0).pair("AUTH_SERIAL_NUM", "4242", 0).pair("AUTH_SC_SERVER_HOST", "db1", 0)
			if o.warns {
				b.bytes(15).ints(28002, 51, 0).clr("ORA-28002: the password will expire within 6 days\n")
			}
			s.data(b.summary(0).String())
		case bytes.HasPrefix(body[2:], []byte{3, 0x3b}): // version
			s.data(new(ttc).bytes(8).ints(6).clr("Oracle").ints(0x13000000).bytes(9).String())
		case bytes.Contains(body, []byte("v$instance")):
			switch {
			case hang("question"):
				return
			case o.ask != 0:
				fail(o.ask)
				continue
			}
			b := new(ttc).bytes(16, 0).ints(1000, len(o.row)).bytes(0)
			for i := range o.row {
				b.bytes(1, 0, 0, 0).ints(128, 0, 0).dlc("").ints(0, 873).bytes(1).ints(128, 0).bytes(1, 4).dlc("C"+strconv.Itoa(i)).dlc("").dlc("").ints(0, 0)
			}
			b.dlc("").ints(0, 0, 0, 0).dlc("")
			b.bytes(6, 0).ints(len(o.row), 0, 1, 0).dlc("").dlc("")
			b.bytes(7)
			for _, text := range o.row {
				b.clr(text)
			}
			s.data(b.summary(1403).String())
		case hang("leave"):
			return
		default: // closes a cursor, ends the session
			s.data("\x09")
		}
	}
}

// saysAlone is says for a driver that is run in a process of its own: here in this one.
func saysAlone(t *testing.T, s probe.Spec, want string) probe.Answer {
	t.Helper()
	a := askBy(t, Prober{alone: true}, s)
	word := a.Word
	if a.Degraded {
		word = "degraded: " + word
	}
	start, cut := strings.CutSuffix(want, "…")
	if a.Ready != (want == "" || a.Degraded) || word != want && !(cut && strings.HasPrefix(word, start)) {
		t.Errorf("got %s %q, want %q", a.Verdict(), word, want)
	}
	return a
}

func oracleSpec(t *testing.T, address string) probe.Spec {
	t.Helper()
	return probe.Spec{Kind: probe.KindOracle, Target: address, Timeout: 20 * time.Second, Options: map[string]string{"user": "kido", "password": secret(t, "a secret"), "service": "shop"}}
}

// oracleRow is the answer of an instance, with other values, in pairs of place and value.
func oracleRow(other ...any) []string {
	row := []string{"OPEN", "ALLOWED", "db1.example", "1", "20250301120000", "5400", "PRIMARY", "READ WRITE"}
	for i := 0; i+1 < len(other); i += 2 {
		row[other[i].(int)] = other[i+1].(string)
	}
	return row
}

func TestOracleScripted(t *testing.T) {
	t.Parallel()
	closed := at(freePort(t))
	open := func() string { return speaker(t, (&scriptedOracle{row: oracleRow()}).serve) }
	var endless []func(*tnsServer)
	for range tnsPackets + 10 {
		endless = append(endless, resend)
	}
	passesOn := speaker(t, func(c net.Conn) {
		(&scriptedOracle{connect: []func(*tnsServer){redirect(c.LocalAddr().String(), true)}}).serve(c)
	})
	garbled := "connected, but: an answer is not in its protocol"
	foreign := "answered, but not in Oracle's protocol"
	type list = []func(*tnsServer)
	for _, x := range []struct {
		name    string
		server  scriptedOracle
		options []string
		want    string
	}{
		// The listener.
		{"service unknown", scriptedOracle{connect: list{refuse(12514)}}, nil, "connected, but: ORA-12514: the listener does not know the service: the database is not started, or not registered yet"},
		{"SID unknown", scriptedOracle{connect: list{refuse(12505)}}, nil, "connected, but: ORA-12505: the listener does not know the SID: the database is not started, or not registered yet"},
		{"blocked", scriptedOracle{connect: list{refuse(12528)}}, nil, "connected, but: ORA-12528: the instance takes no connections: it is starting up or shutting down"},
		{"restricted", scriptedOracle{connect: list{refuse(12526)}}, nil, "connected, but: ORA-12526: the instance is in restricted mode"},
		{"full", scriptedOracle{connect: list{refuse(12519)}}, nil, "connected, but: ORA-12519: the listener has nobody who takes the connection: there are too many, or the database is starting up"},
		{"not let in", scriptedOracle{connect: list{refuse(12506)}}, nil, "connected, but: ORA-12506: the listener's access list does not let this host in"},
		{"another refusal", scriptedOracle{connect: list{refuse(12999)}}, nil, "connected, but: ORA-12999"},
		{"no reason", scriptedOracle{connect: list{refuseWith("")}}, nil, "connected, but: ORA-12564: the listener refuses the connection"},
		{"passes on", scriptedOracle{connect: list{redirect(open(), false)}}, nil, ""},
		{"passes on in two packets", scriptedOracle{connect: list{redirect(open(), true)}}, nil, ""},
		{"passes on to nobody", scriptedOracle{connect: list{redirect(closed, true)}}, nil, "passed on to " + closed + ": connection refused"},
		{"passes on without end", scriptedOracle{connect: list{redirect(passesOn, false)}}, nil, "connected, but: the listener passes on without end"},
		{"wants it again", scriptedOracle{connect: list{resend, resend}, row: oracleRow()}, nil, ""},
		{"wants it again for ever", scriptedOracle{connect: endless}, nil, "connected, but: it sends packets without end"},
		{"marker", scriptedOracle{connect: list{raw("\x00\x0b\x00\x00\x0c\x00\x00\x00\x01\x00\x01")}}, nil, "connected, but: connection refused by the server due to unknown reason"},

		// The login, with an instance that is not open, or for us.
		{"starting up", scriptedOracle{login: 1033}, nil, "connected, but: ORA-01033: ORACLE initialization or shutdown in progress"},
		{"starting up, with markers", scriptedOracle{login: 1033, breaks: true}, nil, "connected, but: ORA-01033: ORACLE initialization or shutdown in progress"},
		{"not there", scriptedOracle{login: 1034}, nil, "connected, but: ORA-01034: ORACLE not available"},
		{"shutting down", scriptedOracle{login: 1089, breaks: true}, nil, "connected, but: ORA-01089: immediate shutdown or close in progress - no operations are permitted"},
		{"not open", scriptedOracle{verify: 1109}, nil, "connected, but: ORA-01109: database not open"},
		{"too many processes", scriptedOracle{login: 20}, nil, "connected, but: ORA-00020: maximum number of processes (300) exceeded"},
		{"wrong password", scriptedOracle{verify: 1017}, nil, "connected, but: ORA-01017: invalid username/password; logon denied"},
		{"wrong password, with markers", scriptedOracle{verify: 1017, breaks: true}, nil, "connected, but: ORA-01017: invalid username/password; logon denied"},
		{"locked", scriptedOracle{verify: 28000}, nil, "connected, but: ORA-28000: The account is locked."},
		{"expired", scriptedOracle{verify: 28001}, nil, "connected, but: ORA-28001: the password has expired"},
		{"no right to log in", scriptedOracle{verify: 1045}, nil, "connected, but: ORA-01045: user KIDO lacks CREATE SESSION privilege; logon denied"},

		// The question.
		{"open", scriptedOracle{row: oracleRow()}, nil, ""},
		{"mounted", scriptedOracle{row: oracleRow(0, "MOUNTED")}, nil, "connected, but: the instance is MOUNTED"},
		{"may not ask", scriptedOracle{ask: 942}, nil, "connected, but: ORA-00942: the login may not see v$instance and v$database: GRANT SELECT ON SYS.V_$INSTANCE TO kido, and SYS.V_$DATABASE"},
		{"may not ask, with markers", scriptedOracle{ask: 942, breaks: true}, nil, "connected, but: ORA-00942: the login may not see…"},
		{"shut down meanwhile", scriptedOracle{ask: 1089, breaks: true}, nil, "connected, but: it ended the session in the middle"},
		{"standby", scriptedOracle{row: oracleRow(6, "PHYSICAL STANDBY", 7, "READ ONLY WITH APPLY")}, nil, "degraded: read-only: it is a PHYSICAL STANDBY"},
		{"standby wanted", scriptedOracle{row: oracleRow(6, "PHYSICAL STANDBY", 7, "READ ONLY")}, []string{"role", "standby"}, ""},
		{"warns", scriptedOracle{row: oracleRow(), warns: true}, nil, ""},
		{"one column", scriptedOracle{row: []string{"OPEN"}}, nil, "connected, but: v$instance does not tell when the instance was started"},
		{"does not take leave", scriptedOracle{row: oracleRow(), hangs: "leave"}, nil, ""},

		// What is no Oracle, or not well.
		{"http", scriptedOracle{connect: list{raw("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + strings.Repeat(" ", 1<<15))}}, nil, foreign},
		{"no length", scriptedOracle{connect: list{raw(strings.Repeat("\x00", 100))}}, nil, foreign},
		{"short acceptance", scriptedOracle{connect: list{raw("\x00\x09\x00\x00\x02\x00\x00\x00\x01")}}, nil, foreign},
		{"odd acceptance", scriptedOracle{connect: list{func(s *tnsServer) { s.packet(tnsAccept, 0, strings.Repeat("\xff", 40)) }}}, nil, foreign},
		{"odd refusal", scriptedOracle{connect: list{func(s *tnsServer) { s.packet(tnsRefuse, 0, "\x00\x00\xff\xff") }}}, nil, foreign},
		{"odd redirection", scriptedOracle{connect: list{func(s *tnsServer) { s.packet(tnsRedirect, 0, "\xff\xffx") }}}, nil, foreign},
		{"redirection to nowhere", scriptedOracle{connect: list{func(s *tnsServer) { s.packet(tnsRedirect, 0, "\x00\x01x") }}}, nil, "connected, but: no address passed in connection string"},
		{"4 GiB", scriptedOracle{connect: list{func(s *tnsServer) { s.accept(); _, _ = io.WriteString(s, "\xff\xff\xff\xff\x06\x00\x00\x00") }}}, nil, garbled},
		{"empty data", scriptedOracle{connect: list{func(s *tnsServer) { s.accept(); s.packet(tnsData, 0, "") }}}, nil, garbled},
		{"end of data", scriptedOracle{connect: list{func(s *tnsServer) { s.accept(); s.packet(tnsData, 0, "\x00\x40") }}}, nil, "connected, but: it ended the session in the middle"},
		{"a bug of go-ora", scriptedOracle{connect: list{func(s *tnsServer) {
			s.accept()
			s.data("\x01\x06\x00" + strings.Repeat("x", 49) + "\x00\x69\x03\x01\x00\x00\x00\x00\x00")
		}}}, nil, garbled},
		{"hangs up", scriptedOracle{connect: list{func(s *tnsServer) { s.Close() }}}, nil, "connection closed without an answer"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := with(oracleSpec(t, speaker(t, x.server.serve)), x.options...)
			a := saysAlone(t, s, x.want)
			if a.Ready && x.name != "one column" && (a.Life != "db1.example/1/20250301120000" || a.Age != 90*time.Minute) {
				t.Errorf("a life of %q, for %v", a.Life, a.Age)
			}
		})
	}
	for _, where := range []string{"connect", "negotiation", "login", "question"} {
		t.Run("hangs at the "+where, func(t *testing.T) {
			t.Parallel()
			s := oracleSpec(t, speaker(t, (&scriptedOracle{row: oracleRow(), hangs: where}).serve))
			s.Timeout = 500 * time.Millisecond
			saysAlone(t, s, "connected, but no answer within 500ms")
		})
	}
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		saysAlone(t, oracleSpec(t, closed), "connection refused")
		saysAlone(t, with(probe.Spec{Kind: probe.KindOracle, Target: closed}, "user", "kido", "sid", "shop"), "oracle: password is missing: nobody is let in by a name alone")
	})
}

// TestOracleAlone has the driver in a process of its own, as it is always run.
func TestOracleAlone(t *testing.T) {
	t.Parallel()
	server := &scriptedOracle{row: oracleRow(), warns: true}
	s := oracleSpec(t, speaker(t, server.serve))
	life := sameLife(t, s)
	another := &scriptedOracle{row: oracleRow(4, "20250301120001", 5, "1")}
	if next := says(t, oracleSpec(t, speaker(t, another.serve)), "").Life; next == life {
		t.Errorf("after a restart the same life %q", life)
	}
	failover := &scriptedOracle{row: oracleRow(2, "db2.example", 3, "2")}
	if next := says(t, oracleSpec(t, speaker(t, failover.serve)), "").Life; next == life {
		t.Errorf("on another host the same life %q", life)
	}
	// Where memory is not promised without end it dies of a terabyte of columns; we do not.
	fatal := speaker(t, func(c net.Conn) {
		(&scriptedOracle{connect: []func(*tnsServer){func(s *tnsServer) {
			s.accept()
		}}, row: nil}).serve(&answering{Conn: c, question: new(ttc).bytes(16, 0).ints(1000, 1<<31-1).bytes(0).String()})
	})
	s = oracleSpec(t, fatal)
	s.Timeout = 5 * time.Second
	if a := ask(t, s); a.Ready || a.Word == "" {
		t.Errorf("got %+v", a)
	}
}

// answering is a connection on which the question is answered otherwise.
type answering struct {
	net.Conn
	question string
}

func (a *answering) Write(b []byte) (int, error) {
	if len(b) > 10 && b[4] == tnsData && b[10] == 16 {
		s := tnsServer{Conn: a.Conn, wide: true}
		s.data(a.question)
		return len(b), nil
	}
	return a.Conn.Write(b)
}

func TestOracleTLS(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	ca := secret(t, string(ours.pem()))
	listen := func(name string, good time.Duration) probe.Spec {
		pair, err := tls.X509KeyPair(ours.issue(t, name, good))
		if err != nil {
			t.Fatal(err)
		}
		return with(oracleSpec(t, speaker(t, func(c net.Conn) {
			in := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
			defer in.Close()
			(&scriptedOracle{row: oracleRow()}).serve(in)
		})), "tls", "yes", "ca", ca)
	}
	saysAlone(t, listen("127.0.0.1", time.Hour), "")
	saysAlone(t, listen("127.0.0.1", -time.Hour), "certificate expired")
	saysAlone(t, listen("db.example", time.Hour), "certificate is not for 127.0.0.1")
	saysAlone(t, with(listen("db.example", time.Hour), "name", "db.example"), "")
	saysAlone(t, with(listen("127.0.0.1", time.Hour), "name", "db.example"), "certificate is not for db.example")
	plain := oracleSpec(t, speaker(t, (&scriptedOracle{connect: []func(*tnsServer){refuse(12514)}}).serve))
	plain.Timeout = 500 * time.Millisecond
	saysAlone(t, with(plain, "tls", "yes", "ca", ca), "connected, but no answer within 500ms")
	secure := listen("127.0.0.1", time.Hour)
	delete(secure.Options, "tls")
	delete(secure.Options, "ca")
	saysAlone(t, secure, "connection closed without an answer")
}

func TestJudgeOracle(t *testing.T) {
	t.Parallel()
	standby := []any{6, "PHYSICAL STANDBY", 7, "READ ONLY WITH APPLY"}
	for _, x := range []struct {
		role string
		row  []string
		want string
	}{
		{"", oracleRow(), "ready"},
		{"primary", oracleRow(), "ready"},
		{"standby", oracleRow(), "not-ready connected, but: it is no standby"},
		{"any", oracleRow(), "ready"},
		{"", oracleRow(standby...), "degraded read-only: it is a PHYSICAL STANDBY"},
		{"primary", oracleRow(standby...), "not-ready connected, but: it is a PHYSICAL STANDBY"},
		{"standby", oracleRow(standby...), "ready"},
		{"any", oracleRow(standby...), "ready"},
		{"", oracleRow(7, "READ ONLY"), "degraded read-only: it is opened READ ONLY"},
		{"primary", oracleRow(7, "READ ONLY"), "not-ready connected, but: it is opened READ ONLY"},
		{"any", oracleRow(7, "READ ONLY"), "ready"},
		{"", oracleRow(0, "STARTED"), "not-ready connected, but: the instance is STARTED"},
		{"any", oracleRow(0, "OPEN MIGRATE"), "not-ready connected, but: the instance is OPEN MIGRATE"},
		{"", oracleRow(1, "RESTRICTED"), "degraded logins are restricted: most users cannot log in"},
		{"any", oracleRow(1, "RESTRICTED"), "degraded logins are restricted: most users cannot log in"},
		{"", oracleRow(4, ""), "not-ready connected, but: v$instance does not tell when the instance was started"},
		{"", oracleRow(5, "-3"), "ready"},
	} {
		s := probe.Spec{Kind: probe.KindOracle, Options: map[string]string{"role": x.role}}
		a := judgeOracle(s, [8]string(x.row))
		if got := strings.TrimSpace(a.Verdict() + " " + a.Word); got != x.want {
			t.Errorf("%q of %q: got %q, want %q", x.row, x.role, got, x.want)
		}
		if a.Ready && (a.Life != "db1.example/1/20250301120000" || a.Age < 0) {
			t.Errorf("%q: a life of %q, for %v", x.row, a.Life, a.Age)
		}
	}
}
