package netprobe

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	ora "github.com/sijms/go-ora/v2"
	"github.com/sijms/go-ora/v2/configurations"
	"github.com/sijms/go-ora/v2/network"

	"kido/internal/probe"
)

// oracleQuestion is the only one that is asked: one row of text, in formats that depend on no
// session's language.
const oracleQuestion = `
SELECT i.status, i.logins, i.host_name, TO_CHAR(i.instance_number),
       TO_CHAR(i.startup_time, 'YYYYMMDDHH24MISS'), TO_CHAR(ROUND((SYSDATE - i.startup_time) * 86400)),
       d.database_role, d.open_mode
  FROM v$instance i, v$database d`

// oracle reaches the listener, which knows the service or not, logs in, for which the
// instance must be open, and asks the instance how it is. Its life is when which instance
// on which host was started, so that a failover is another one. A pluggable database
// that is closed and opened while its instance runs on is the same life.
//
// go-ora is run in a process of its own. It takes memory for as many columns as a server
// says there are, reckons on a password for as many rounds as it says, and writes what
// the server warns of to the standard output; none of that can be bounded from outside.
//
// What was not run: no Oracle can be installed where this was written. Its tests play
// one, packet by packet, by go-ora's idea of the protocol, so they show what kido makes of
// an answer, and not that Oracle gives it. The question was never asked of a database.
func (p Prober) oracle(ctx context.Context, s probe.Spec) probe.Answer {
	if !p.alone {
		return probe.Local{Program: "/proc/self/exe"}.Try(ctx, s)
	}
	o := &oracleTry{ctx: ctx, spec: s}
	return o.run()
}

const (
	oracleHops  = 4                      // addresses that are gone to: a cluster's listener passes on once or twice
	oracleLeave = 250 * time.Millisecond // for the end of a session
)

// oracleTry is one try. It is where go-ora gets its connections from.
type oracleTry struct {
	ctx  context.Context
	spec probe.Spec
	hops int
	at   *link // where that has come to
}

func (o *oracleTry) run() (a probe.Answer) {
	defer func() {
		if bug := recover(); bug != nil { // go-ora believes what packets say of their parts
			a = o.why(errNotOracle)
		}
		if o.at != nil {
			o.at.Close()
		}
	}()
	config, err := o.config()
	if err != nil {
		return probe.Untried("%v", err)
	}
	conn, err := ora.NewConnection("", config)
	if err != nil {
		return probe.Untried("%v", err)
	}
	conn.NLSData.Language = config.Language // else it asks for that
	// The time-out is the network's (see link): go-ora ends on its own terms, with
	// more to say to the server.
	if err := conn.OpenWithContext(context.Background()); err != nil {
		return o.why(err)
	}
	a = o.ask(conn)
	// It takes leave, so that the server need not find out that nobody is there.
	leave := time.AfterFunc(oracleLeave, func() { o.at.raw.Close() })
	defer leave.Stop()
	_ = conn.Close()
	return a
}

// config is all that go-ora goes by: it reads no environment, no file, and writes none.
func (o *oracleTry) config() (*configurations.ConnectionConfig, error) {
	s := o.spec
	host, text, err := net.SplitHostPort(s.Target)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	us, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	c := &configurations.ConnectionConfig{
		PrefetchRows: 2,
		DatabaseInfo: configurations.DatabaseInfo{
			UserID: s.Options["user"], Password: s.Secret("password"),
			ServiceName: s.Options["service"], SID: s.Options["sid"],
			Servers:  []configurations.ServerAddr{{Addr: host, Port: port}},
			Location: "UTC", // else it asks for the server's time
		},
		SessionInfo: configurations.SessionInfo{
			Protocol: "tcp", Dialer: o, SSLVerify: true,
			SessionDataUnitSize: tnsUnit, TransportDataUnitSize: 0xffff,
		},
		// The language that errors are in.
		ClientInfo: configurations.ClientInfo{
			Language: "AMERICAN", Territory: "AMERICA",
			ProgramPath: "kido", ProgramName: "kido", DriverName: "kido", OSUserName: "kido", HostName: us, PID: os.Getpid(),
		},
	}
	if s.Options["tls"] == "yes" {
		c.Protocol = "tcps"
		if c.TLSConfig, err = tlsConfig(s, host); err != nil {
			return nil, err
		}
		if name := s.Options["name"]; name != "" {
			verifyName(c.TLSConfig, name)
		}
	}
	return c, nil
}

// DialContext is one way to a server, the target or where a listener has passed us on to.
func (o *oracleTry) DialContext(_ context.Context, _, address string) (net.Conn, error) {
	if o.hops++; o.hops > oracleHops {
		return nil, errPassedOn
	}
	if o.at != nil {
		o.at.Close()
	}
	s := o.spec
	s.Target = address
	o.at = &link{ctx: o.ctx, spec: s, protocol: "Oracle's protocol"}
	return &tns{link: o.at}, o.at.dial()
}

var (
	errPassedOn  = errors.New("the listener passes on without end")
	errPackets   = errors.New("it sends packets without end")
	errNotOracle = errors.New("an answer is not in its protocol")
)

// ask asks the question. Its cursor ends with the session.
func (o *oracleTry) ask(conn *ora.Connection) probe.Answer {
	rows, err := conn.QueryContext(context.Background(), oracleQuestion, nil)
	if err != nil {
		return o.why(err)
	}
	values := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(values); err != nil {
		return o.why(err)
	}
	var row [8]string
	for i := range min(len(row), len(values)) {
		if values[i] != nil {
			row[i] = fmt.Sprint(values[i])
		}
	}
	return judgeOracle(o.spec, row)
}

// judgeOracle says what the answer to the question means.
func judgeOracle(s probe.Spec, row [8]string) probe.Answer {
	status, logins, host, number, begun, age, role, mode := row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]
	seconds, err := strconv.ParseInt(age, 10, 32)
	switch {
	case status != "OPEN" && status != "":
		return probe.NotReady("connected, but: the instance is %s", status)
	case host == "" || begun == "" || err != nil:
		return probe.NotReady("connected, but: v$instance does not tell when the instance was started")
	}
	standby, readOnly := role != "PRIMARY", ""
	switch {
	case standby:
		readOnly = "it is a " + role
	case mode != "READ WRITE":
		readOnly = "it is opened " + mode
	}
	a := weighRole(s, probe.Alive(host+"/"+number+"/"+begun, time.Duration(seconds)*time.Second), standby, readOnly)
	if logins == "RESTRICTED" && a.Ready && !a.Degraded {
		return a.Degrade("logins are restricted: most users cannot log in")
	}
	return a
}

// oracleWords are for what a listener answers by a number only.
var oracleWords = map[int]string{
	12505: "the listener does not know the SID: the database is not started, or not registered yet",
	12506: "the listener's access list does not let this host in",
	12514: "the listener does not know the service: the database is not started, or not registered yet",
	12516: "the listener has nobody who takes the connection: there are too many, or the database is starting up",
	12518: "the listener could not hand the connection to the database",
	12519: "the listener has nobody who takes the connection: there are too many, or the database is starting up",
	12520: "the listener has nobody who takes the connection: there are too many, or the database is starting up",
	12521: "the listener does not know the instance",
	12526: "the instance is in restricted mode",
	12527: "the instance is in restricted mode, or takes no connections",
	12528: "the instance takes no connections: it is starting up or shutting down",
	12564: "the listener refuses the connection",
}

// why puts into words what went wrong.
func (o *oracleTry) why(err error) probe.Answer {
	if said, ok := errors.AsType[*network.OracleError](err); ok && o.ctx.Err() == nil {
		code := fmt.Sprintf("ORA-%05d", said.ErrCode)
		text, _, _ := strings.Cut(said.ErrMsg, "\n")
		_, text, _ = strings.Cut(text, ": ")
		text = cmp.Or(oracleWords[said.ErrCode], strings.TrimSpace(text))
		if said.ErrCode == 942 {
			text = fmt.Sprintf("the login may not see v$instance and v$database: GRANT SELECT ON SYS.V_$INSTANCE TO %s, and SYS.V_$DATABASE", o.spec.Options["user"])
		}
		return probe.NotReady("connected, but: %s", strings.TrimSuffix(code+": "+text, ": "))
	}
	switch {
	case errors.Is(err, errPassedOn):
		return probe.NotReady("connected, but: %v", err)
	case o.at == nil:
		return why(o.ctx, o.spec, err)
	case errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) && o.at.reading == nil:
		err = errors.New("it ended the session in the middle")
	case errors.Is(err, network.ErrConnReset):
		err = errors.New("it broke off the login")
	}
	a := o.at.why(err)
	if o.hops > 1 && o.ctx.Err() == nil {
		a.Word = probe.Printable("passed on to " + o.at.spec.Target + ": " + a.Word)
	}
	return a
}

// tns looks at the packets of TNS before go-ora sees them, which takes memory for what
// they say is their length, be that 4 GiB. Inside TLS, of a server that has shown who it
// is, they cannot be looked at; the link counts their bytes there too.
type tns struct {
	*link
	opaque  bool   // TLS is spoken
	wide    bool   // their lengths have 4 bytes
	left    []byte // of a packet
	packets int
}

// Kinds of packets, and what is expected of them.
const (
	tnsAccept   = 2
	tnsRefuse   = 4
	tnsRedirect = 5
	tnsData     = 6
	tnsResend   = 11
	tnsMarker   = 12
	tnsHighest  = 19

	tnsHead    = 8
	tnsUnit    = 8 << 10  // bytes of a packet that we ask for
	tnsLongest = 64 << 10 // bytes of one that we take
	tnsWide    = 315      // the version as of which lengths have 4 bytes
	tnsPackets = 200      // in one try; a login and a question take some 20
)

func (t *tns) Write(b []byte) (int, error) {
	if len(b) > 0 && b[0] == 0x16 { // TLS begins
		t.opaque = true
		t.understand() // what is wrong now TLS will tell
	}
	return t.link.Write(b)
}

func (t *tns) Read(b []byte) (int, error) {
	if t.opaque {
		return t.link.Read(b)
	}
	if len(t.left) == 0 {
		if err := t.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, t.left)
	t.left = t.left[n:]
	return n, nil
}

// next reads a packet.
func (t *tns) next() error {
	var head [tnsHead]byte
	if _, err := io.ReadFull(t.link, head[:]); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint16(head[:]))
	if t.wide {
		size = int(binary.BigEndian.Uint32(head[:]))
	}
	if t.packets++; t.packets > tnsPackets {
		return errPackets
	}
	if size < tnsHead || size > tnsLongest {
		return errNotOracle
	}
	packet := append(head[:], make([]byte, size-tnsHead)...)
	if _, err := io.ReadFull(t.link, packet[tnsHead:]); err != nil {
		return err
	}
	if !isTNS(packet) {
		return errNotOracle
	}
	if packet[4] == tnsAccept {
		t.wide = binary.BigEndian.Uint16(packet[8:]) >= tnsWide
	}
	t.understand()
	t.left = packet
	return nil
}

// isTNS reports whether a packet has the fields of its kind.
func isTNS(packet []byte) bool {
	field := func(at int) int { return int(binary.BigEndian.Uint16(packet[at:])) }
	switch n := len(packet); packet[4] {
	case tnsAccept:
		return n >= 32 && field(20) <= n && field(18) == n-field(20) && (field(8) < tnsWide || n >= 40)
	case tnsRefuse:
		return n >= 12 && 12+field(10) <= n
	case tnsRedirect: // its data may be in a packet of its own
		return n == 10 || n > 10 && 10+field(8) <= n
	case tnsData:
		return n >= 10
	case tnsMarker:
		return n == 11
	}
	return packet[4] != 0 && packet[4] <= tnsHighest
}

// verifyName has the server's certificate verified for a name, also where somebody puts
// another into the configuration, as go-ora does.
func verifyName(c *tls.Config, name string) {
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(state tls.ConnectionState) error {
		others := x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			others.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: name, Roots: c.RootCAs, Intermediates: others})
		if err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		return nil
	}
}
