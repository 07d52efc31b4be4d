package netprobe

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"kido/internal/probe"
)

// scriptedMongoDB answers as MongoDB's documentation and the protocol's say that a mongod
// does. It is none, and neither mongod nor mongos was asked in any test here: Debian has
// no package of them.
type scriptedMongoDB struct {
	hello   bson.D                        // beside what all say; nil: it does not know the command
	process atomic.Pointer[bson.ObjectID] // made at its start; nil: it does not tell
	status  bson.D                        // of the replica set; nil: only after a login
	user    string                        // who may log in
	secret  string
	sum     bool // its messages have a checksum
	asked   atomic.Int64
}

func (m *scriptedMongoDB) serve(c net.Conn) {
	login := &scramServer{password: m.secret}
	for {
		id, command, err := readMongo(c)
		if err != nil {
			return
		}
		m.asked.Add(1)
		writeMongo(c, id, m.answer(command, login), m.sum)
	}
}

func (m *scriptedMongoDB) answer(command bson.D, login *scramServer) bson.D {
	field := func(name string) any {
		for _, e := range command {
			if e.Key == name {
				return e.Value
			}
		}
		return nil
	}
	bad := func(code int, name, text string) bson.D {
		return bson.D{{Key: "ok", Value: 0.0}, {Key: "errmsg", Value: text}, {Key: "code", Value: int32(code)}, {Key: "codeName", Value: name}}
	}
	good := func(more ...bson.E) bson.D { return append(more, bson.E{Key: "ok", Value: 1.0}) }
	switch command[0].Key {
	case "hello":
		if m.hello == nil {
			return bad(59, "CommandNotFound", "no such command: 'hello'")
		}
		d := append(good(), m.hello...)
		if process := m.process.Load(); process != nil {
			d = append(d, bson.E{Key: "topologyVersion", Value: bson.D{{Key: "processId", Value: *process}, {Key: "counter", Value: int64(6)}}})
		}
		if user, _ := field("saslSupportedMechs").(string); user != "" && user == "shop."+m.user {
			d = append(d, bson.E{Key: "saslSupportedMechs", Value: bson.A{"SCRAM-SHA-1", "SCRAM-SHA-256"}})
		} else if user == "admin.old" {
			d = append(d, bson.E{Key: "saslSupportedMechs", Value: bson.A{"SCRAM-SHA-1"}})
		}
		return d
	case "replSetGetStatus":
		if m.status == nil {
			return bad(13, "Unauthorized", "command replSetGetStatus requires authentication")
		}
		return good(m.status...)
	case "saslStart", "saslContinue":
		payload, ok := field("payload").(bson.Binary)
		failed := bad(18, "AuthenticationFailed", "Authentication failed.")
		if !ok || field("$db") != "shop" || command[0].Key == "saslStart" && !strings.HasPrefix(string(payload.Data), "n,,n="+m.user+",") {
			return failed
		}
		text, done, err := login.next(string(payload.Data))
		if err != nil {
			return failed
		}
		return good(bson.E{Key: "conversationId", Value: int32(1)}, bson.E{Key: "done", Value: done}, bson.E{Key: "payload", Value: []byte(text)})
	}
	return bad(59, "CommandNotFound", "no such command")
}

func readMongo(r io.Reader) (id uint32, command bson.D, err error) {
	var head [mongoHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	document := make([]byte, binary.LittleEndian.Uint32(head[:])-mongoHead)
	if _, err := io.ReadFull(r, document); err != nil {
		return 0, nil, err
	}
	return binary.LittleEndian.Uint32(head[4:]), command, bson.Unmarshal(document, &command)
}

func writeMongo(w io.Writer, to uint32, answer bson.D, sum bool) {
	document, err := bson.Marshal(answer)
	if err != nil {
		panic(err)
	}
	flags := uint32(0)
	if sum {
		document, flags = append(document, 1, 2, 3, 4), mongoSum
	}
	var message []byte
	for _, n := range []uint32{uint32(mongoHead + len(document)), 7, to, mongoMessage, flags} {
		message = binary.LittleEndian.AppendUint32(message, n)
	}
	_, _ = w.Write(append(append(message, 0), document...))
}

// scramServer is the other side of SCRAM-SHA-256, by RFC 5802.
type scramServer struct {
	password    string
	bare, first string
}

func (s *scramServer) next(say string) (answer string, done bool, err error) {
	if s.first == "" {
		s.bare = strings.TrimPrefix(say, "n,,")
		_, nonce, _ := strings.Cut(s.bare, ",r=")
		s.first = "r=" + nonce + "server,s=" + base64.StdEncoding.EncodeToString([]byte("salt of 16 bytes")) + ",i=4096"
		return s.first, false, nil
	}
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	without, proof, _ := strings.Cut(say, ",p=")
	salted, err := pbkdf2.Key(sha256.New, s.password, []byte("salt of 16 bytes"), 4096, 32)
	if err != nil {
		return "", false, err
	}
	key := mac(salted, "Client Key")
	stored := sha256.Sum256(key)
	all := s.bare + "," + s.first + "," + without
	for i, b := range mac(stored[:], all) {
		key[i] ^= b
	}
	if base64.StdEncoding.EncodeToString(key) != proof {
		return "", false, errors.New("wrong password")
	}
	return "v=" + base64.StdEncoding.EncodeToString(mac(mac(salted, "Server Key"), all)), true, nil
}

func TestMongoDB(t *testing.T) {
	t.Parallel()
	begun := time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)
	process := bson.NewObjectIDFromTimestamp(begun)
	hello := func(more ...bson.E) bson.D {
		return append(bson.D{
			{Key: "maxBsonObjectSize", Value: int32(16 << 20)},
			{Key: "maxWireVersion", Value: int32(25)},
			{Key: "localTime", Value: begun.Add(90 * time.Minute)},
			{Key: "connectionId", Value: int32(8)},
			{Key: "readOnly", Value: false},
		}, more...)
	}
	flag := func(name string, value bool) bson.E { return bson.E{Key: name, Value: value} }
	set := bson.E{Key: "setName", Value: "rs0"}
	alone := hello(flag("isWritablePrimary", true))
	primary := hello(set, flag("isWritablePrimary", true), flag("secondary", false))
	secondary := hello(set, flag("isWritablePrimary", false), flag("secondary", true))
	neither := hello(set, flag("isWritablePrimary", false), flag("secondary", false))
	state := func(name string) bson.D {
		return bson.D{{Key: "set", Value: "rs0"}, {Key: "members", Value: bson.A{
			bson.D{{Key: "_id", Value: int32(0)}, {Key: "stateStr", Value: "PRIMARY"}},
			bson.D{{Key: "_id", Value: int32(1)}, {Key: "stateStr", Value: name}, {Key: "self", Value: true}},
		}}}
	}
	login := func(user, password string) []string {
		return []string{"user", user, "database", "shop", "password", secret(t, password)}
	}
	for _, x := range []struct {
		name    string
		server  *scriptedMongoDB
		options []string
		want    string
	}{
		{"alone", &scriptedMongoDB{hello: alone}, nil, ""},
		{"with checksums", &scriptedMongoDB{hello: alone, sum: true}, nil, ""},
		{"mongos", &scriptedMongoDB{hello: hello(flag("isWritablePrimary", true), bson.E{Key: "msg", Value: "isdbgrid"})}, []string{"role", "primary"}, ""},
		{"primary", &scriptedMongoDB{hello: primary}, nil, ""},
		{"primary wanted", &scriptedMongoDB{hello: primary}, []string{"role", "primary"}, ""},
		{"primary where a secondary is wanted", &scriptedMongoDB{hello: primary}, []string{"role", "secondary"}, "connected, but: it is no secondary"},
		{"secondary", &scriptedMongoDB{hello: secondary}, nil, "degraded: read-only: it is a secondary"},
		{"secondary wanted", &scriptedMongoDB{hello: secondary}, []string{"role", "secondary"}, ""},
		{"secondary where the primary is wanted", &scriptedMongoDB{hello: secondary}, []string{"role", "primary"}, "connected, but: it is a secondary"},
		{"any", &scriptedMongoDB{hello: secondary}, []string{"role", "any"}, ""},
		{"arbiter", &scriptedMongoDB{hello: hello(set, flag("arbiterOnly", true))}, []string{"role", "primary"}, "connected, but: it is an arbiter"},
		{"read-only", &scriptedMongoDB{hello: append(primary[:len(primary):len(primary)], flag("readOnly", true))}, nil, "degraded: read-only: its storage is read-only"},
		{"starting up", &scriptedMongoDB{hello: neither, status: state("STARTUP2")}, nil, "connected, but: it is in the state STARTUP2"},
		{"recovering", &scriptedMongoDB{hello: neither, status: state("RECOVERING")}, []string{"role", "any"}, "connected, but: it is in the state RECOVERING"},
		{"nobody may know", &scriptedMongoDB{hello: neither}, nil, "connected, but: it is neither primary nor secondary: starting up, recovering or rolling back"},
		{"login while recovering", &scriptedMongoDB{hello: neither, status: state("ROLLBACK"), user: "kido", secret: "secret"}, login("kido", "secret"), "connected, but: it is in the state ROLLBACK"},
		{"not initiated", &scriptedMongoDB{hello: hello(flag("isWritablePrimary", false), flag("secondary", false), flag("isreplicaset", true), bson.E{Key: "info", Value: "Does not have a valid replica set config"})}, nil, "connected, but: its replica set is not initiated"},
		{"login", &scriptedMongoDB{hello: primary, user: "kido", secret: "secret, of ours"}, login("kido", "secret, of ours"), ""},
		{"ligatures", &scriptedMongoDB{hello: primary, user: "kido", secret: "pass" + "fi"}, login("kido", "pass\ufb01"), ""},
		{"wrong password", &scriptedMongoDB{hello: primary, user: "kido", secret: "secret"}, login("kido", "secrets"), "connected, but: Authentication failed (18 AuthenticationFailed)"},
		{"no such user", &scriptedMongoDB{hello: primary, user: "kido", secret: "secret"}, login("kudo", "secret"), "connected, but: Authentication failed (18 AuthenticationFailed)"},
		{"user of another database", &scriptedMongoDB{hello: primary, user: "kido", secret: "secret"}, []string{"user", "kido", "password", secret(t, "secret")}, "connected, but: Authentication failed (18 AuthenticationFailed)"},
		{"old user", &scriptedMongoDB{hello: primary}, []string{"user", "old", "password", secret(t, "secret")}, "connected, but: this user logs in by SCRAM-SHA-1 only: set the password anew, for SCRAM-SHA-256"},
		{"no password", &scriptedMongoDB{hello: primary}, []string{"user", "kido"}, "mongodb: password is missing: nobody is let in by a name alone"},
		{"old", &scriptedMongoDB{}, nil, "connected, but: it is older than MongoDB 4.4.2: no such command: 'hello' (59 CommandNotFound)"},
		{"no life", &scriptedMongoDB{hello: bson.D{flag("isWritablePrimary", true)}}, nil, "connected, but: it does not tell its incarnation: no topologyVersion, which MongoDB has as of 4.4"},
		{"no life wanted", &scriptedMongoDB{hello: bson.D{flag("isWritablePrimary", true)}}, []string{"token", "no"}, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := with(probe.Spec{Kind: probe.KindMongoDB, Target: speaker(t, x.server.serve), Timeout: 10 * time.Second}, x.options...)
			if tells := len(x.server.hello) > 1; tells {
				x.server.process.Store(&process)
			}
			a := says(t, s, x.want)
			if !a.Ready || s.Options["token"] == "no" {
				return
			}
			if a.Life != process.Hex() || a.Age != 90*time.Minute {
				t.Errorf("a life of %q, for %v", a.Life, a.Age)
			}
			sameLife(t, s)
			next := bson.NewObjectIDFromTimestamp(begun) // within the second
			x.server.process.Store(&next)
			if again := ask(t, s); again.Life == a.Life {
				t.Errorf("after a restart the same life")
			}
		})
	}
}

// TestMongoDBHostile has a server begin well and go on otherwise.
func TestMongoDBHostile(t *testing.T) {
	t.Parallel()
	deep := bson.D{}
	for range 2000 {
		deep = bson.D{{Key: "isWritablePrimary", Value: deep}}
	}
	ok := bson.E{Key: "ok", Value: 1.0}
	garbled := "connected, but: an answer is not in its protocol"
	for _, x := range []struct {
		name   string
		answer bson.D
		want   string
	}{
		{"other types", bson.D{ok, {Key: "isWritablePrimary", Value: "yes"}}, garbled},
		{"other life", bson.D{ok, {Key: "topologyVersion", Value: bson.A{1}}}, garbled},
		{"deep", append(deep, ok), garbled},
		{"nothing", bson.D{}, "answered, but not in MongoDB's protocol"},
		{"long word", bson.D{{Key: "errmsg", Value: strings.Repeat("x", 1<<16)}, {Key: "code", Value: int32(1)}}, "connected, but: xxx…"},
		{"login of rounds", bson.D{ok, {Key: "isWritablePrimary", Value: true}, {Key: "payload", Value: []byte("r=x,s=c2FsdA==,i=999999999")}}, "connected, but: it wants 999999999 rounds of SCRAM, at most 1000000 are done"},
		{"endless login", bson.D{ok, {Key: "isWritablePrimary", Value: true}, {Key: "payload", Value: []byte("x")}}, "connected, but: got 1 kvs…"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			s := probe.Spec{Kind: probe.KindMongoDB, Timeout: 10 * time.Second, Target: speaker(t, func(c net.Conn) {
				for {
					id, _, err := readMongo(c)
					if err != nil {
						return
					}
					writeMongo(c, id, x.answer, false)
				}
			})}
			says(t, with(s, "token", "no", "user", "kido", "password", secret(t, "secret")), x.want)
		})
	}
}

func TestMongoDBTLS(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	pair, err := tls.X509KeyPair(ours.issue(t, "127.0.0.1", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	m := &scriptedMongoDB{hello: bson.D{{Key: "isWritablePrimary", Value: true}}}
	s := probe.Spec{Kind: probe.KindMongoDB, Timeout: 10 * time.Second, Target: speaker(t, func(c net.Conn) {
		in := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
		defer in.Close()
		m.serve(in)
	})}
	s = with(s, "token", "no")
	says(t, with(s, "tls", "yes", "ca", secret(t, string(ours.pem()))), "")
	if m.asked.Load() != 1 {
		t.Errorf("%d questions", m.asked.Load())
	}
	says(t, with(s, "tls", "yes"), "certificate is signed by an unknown authority")
}
