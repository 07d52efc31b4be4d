package netprobe

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.mongodb.org/mongo-driver/v2/bson"
	"golang.org/x/text/unicode/norm"

	"kido/internal/probe"
)

// mongodb says hello, which a mongod or mongos answers as of 4.4.2 in any state and
// without a login, and logs in, where a user is given and the member serves. Its life is
// the process id of its topology version, which is made anew at each start of the
// process and at no other time; half of it is when that was.
//
// The documents are the official driver's (bson), in OP_MSG on a link. The driver itself
// watches a server by connections and goroutines of its own, asks again until the
// time is over where nothing listens, and what is below it is not for others to use.
func (p Prober) mongodb(ctx context.Context, s probe.Spec) probe.Answer {
	m := mongoLink{link: &link{ctx: ctx, spec: s, protocol: "MongoDB's protocol"}}
	defer m.Close()
	if err := m.open(); err != nil {
		return m.why(err)
	}
	user, source := s.Options["user"], cmp.Or(s.Options["database"], "admin")
	question := bson.D{{Key: "hello", Value: 1}, {Key: "$db", Value: "admin"}}
	if user != "" {
		question = append(question, bson.E{Key: "saslSupportedMechs", Value: source + "." + user})
	}
	var hello mongoHello
	if err := m.ask(question, &hello); err != nil {
		return m.why(err)
	}
	if hello.resting() {
		return probe.NotReady("connected, but: %s", m.state(hello))
	}
	a := judgeMongoDB(s, hello)
	if a.Ready && user != "" {
		if err := m.login(user, source, hello.Mechanisms); err != nil {
			return m.why(err)
		}
	}
	return a
}

// mongoHello is what is read of the answer to hello.
type mongoHello struct {
	Writable  bool      `bson:"isWritablePrimary"`
	Secondary bool      `bson:"secondary"`
	Arbiter   bool      `bson:"arbiterOnly"`
	ReadOnly  bool      `bson:"readOnly"`
	Set       string    `bson:"setName"`
	ForSet    bool      `bson:"isreplicaset"` // it waits to become a member of one
	Now       time.Time `bson:"localTime"`
	Topology  struct {
		Process bson.ObjectID `bson:"processId"`
	} `bson:"topologyVersion"`
	Mechanisms []string `bson:"saslSupportedMechs"`
}

// resting reports whether it is a member of a replica set that does not serve.
func (h mongoHello) resting() bool { return !h.Writable && !h.Secondary && !h.Arbiter }

// judgeMongoDB says what the hello of a server that serves means.
func judgeMongoDB(s probe.Spec, h mongoHello) probe.Answer {
	a := probe.Answer{Ready: true}
	if s.TellsLife() {
		if h.Topology.Process.IsZero() {
			return probe.NotReady("connected, but: it does not tell its incarnation: no topologyVersion, which MongoDB has as of 4.4")
		}
		a = probe.Alive(h.Topology.Process.Hex(), h.Now.Sub(h.Topology.Process.Timestamp()))
	}
	readOnly := ""
	switch {
	case h.Arbiter:
		readOnly = "it is an arbiter"
	case h.Secondary:
		readOnly = "it is a secondary"
	case h.ReadOnly:
		readOnly = "its storage is read-only"
	}
	return weighRole(s, a, h.Secondary, readOnly)
}

// state is why a member does not serve, in the field's words where whoever asks may know.
func (m *mongoLink) state(h mongoHello) string {
	if h.ForSet && h.Set == "" {
		return "its replica set is not initiated"
	}
	var status struct {
		Members []struct {
			Self  bool   `bson:"self"`
			State string `bson:"stateStr"`
		} `bson:"members"`
	}
	if m.ask(bson.D{{Key: "replSetGetStatus", Value: 1}, {Key: "$db", Value: "admin"}}, &status) == nil {
		for _, member := range status.Members {
			if member.Self && member.State != "" {
				return "it is in the state " + member.State
			}
		}
	}
	return "it is neither primary nor secondary: starting up, recovering or rolling back"
}

// login is by SCRAM.
func (m *mongoLink) login(user, source string, mechanisms []string) error {
	const mechanism = "SCRAM-SHA-256" // what MongoDB gives to a user as of 4.0
	if len(mechanisms) > 0 && !slices.Contains(mechanisms, mechanism) {
		return fmt.Errorf("this user logs in by %s only: set the password anew, for %s", strings.Join(mechanisms, ", "), mechanism)
	}
	password := norm.NFKC.String(m.spec.Secret("password"))
	session, say, err := scram.Auth{User: user, Pass: password}.AsSha256Mechanism().Authenticate(m.ctx, m.spec.Target)
	if err != nil {
		return err
	}
	session = bounded{session}
	question := bson.D{
		{Key: "saslStart", Value: 1},
		{Key: "mechanism", Value: mechanism},
		{Key: "payload", Value: say},
		{Key: "options", Value: bson.D{{Key: "skipEmptyExchange", Value: true}}},
		{Key: "$db", Value: source},
	}
	for {
		var r struct {
			Conversation int32  `bson:"conversationId"`
			Payload      []byte `bson:"payload"`
			Done         bool   `bson:"done"`
		}
		if err := m.ask(question, &r); err != nil {
			return err
		}
		done, say, err := session.Challenge(r.Payload)
		switch {
		case err != nil:
			return err
		case done && r.Done:
			return nil
		case done != r.Done:
			return errors.New("its login ends in the middle")
		}
		question = bson.D{{Key: "saslContinue", Value: 1}, {Key: "conversationId", Value: r.Conversation}, {Key: "payload", Value: say}, {Key: "$db", Value: source}}
	}
}

// mongoLink is a link to a mongod or mongos.
type mongoLink struct {
	*link
	asked uint32
}

// mongoVerdict is what every answer holds: an error, or none.
type mongoVerdict struct {
	OK   float64 `bson:"ok"`
	Code int32   `bson:"code"`
	Name string  `bson:"codeName"`
	Text string  `bson:"errmsg"`
}

func (e mongoVerdict) Error() string {
	text := fmt.Sprintf("%s (%d %s)", strings.TrimSuffix(e.Text, "."), e.Code, e.Name)
	if e.Code == 59 { // CommandNotFound
		text = "it is older than MongoDB 4.4.2: " + text
	}
	return text
}

var errNotMongo = errors.New("an answer is not in its protocol")

const (
	mongoHead    = 16 + 4 + 1 // bytes: header, flags, kind of section
	mongoMessage = 2013       // OP_MSG
	mongoSum     = 1          // the flag of a checksum behind the document
)

// ask sends one command and reads its answer.
func (m *mongoLink) ask(command bson.D, answer any) error {
	document, err := bson.Marshal(command)
	if err != nil {
		return err
	}
	m.asked++
	little := binary.LittleEndian
	var message []byte
	for _, n := range []uint32{uint32(mongoHead + len(document)), m.asked, 0, mongoMessage, 0} {
		message = little.AppendUint32(message, n)
	}
	message = append(append(message, 0), document...)
	_, _ = m.Write(message) // who hangs up may have said why

	var head [mongoHead]byte
	if _, err := io.ReadFull(m.link, head[:]); err != nil {
		return err
	}
	size, to, kind, flags := little.Uint32(head[:]), little.Uint32(head[8:]), little.Uint32(head[12:]), little.Uint32(head[16:])
	if size < mongoHead || size > maxTalk || to != m.asked || kind != mongoMessage || flags&^mongoSum != 0 || head[20] != 0 {
		return errNotMongo
	}
	document = make([]byte, size-mongoHead)
	if _, err := io.ReadFull(m.link, document); err != nil {
		return err
	}
	if flags == mongoSum { // which was not asked for: TCP has one
		document = document[:max(0, len(document)-4)]
	}
	var verdict mongoVerdict
	if bson.Unmarshal(document, &verdict) != nil || verdict == (mongoVerdict{}) {
		return errNotMongo
	}
	m.understand()
	if verdict.OK != 1 {
		return verdict
	}
	if bson.Unmarshal(document, answer) != nil {
		return errNotMongo
	}
	return nil
}
