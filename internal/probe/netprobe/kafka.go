package netprobe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"kido/internal/probe"
)

// kafka asks the one broker of the target what it speaks and what it knows of its
// cluster, and no other broker. Ready means that it is up and a member; of a topic, that
// all its partitions have leaders. A broker tells no incarnation.
//
// The messages are franz-go's (kmsg), on a link. Its client is made to live on: it finds
// all brokers, connects anew where it was hung up on, and says less about why.
func (p Prober) kafka(ctx context.Context, s probe.Spec) probe.Answer {
	k := kafkaLink{
		link:   &link{ctx: ctx, spec: s, protocol: "Kafka's protocol"},
		format: kmsg.NewRequestFormatter(kmsg.FormatterClientID("kido")),
	}
	defer k.Close()
	if err := k.open(); err != nil {
		return k.why(err)
	}
	m, err := k.metadata(s.Options["topic"])
	if err != nil {
		return k.why(err)
	}
	return judgeKafka(s.Options["topic"], m)
}

// kafkaLink is a link to a broker.
type kafkaLink struct {
	*link
	format *kmsg.RequestFormatter
	asked  int32
	known  bool // the broker is content with who we are
}

// kafkaMetadata is the version in which a cluster is asked for. Brokers know it since 2.3,
// later ones say nothing more that is wanted here.
const kafkaMetadata = 8

// metadata logs in, where a user is given, and asks for the cluster and a topic, "" for
// none.
func (k *kafkaLink) metadata(topic string) (*kmsg.MetadataResponse, error) {
	versions, err := exchange[*kmsg.ApiVersionsResponse](k, kmsg.NewPtrApiVersionsRequest()) // 0, which all know
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(versions.ErrorCode); err != nil {
		return nil, err
	}
	request := kmsg.NewPtrMetadataRequest()
	request.Version = kafkaMetadata
	if !slices.ContainsFunc(versions.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool {
		return k.ApiKey == request.Key() && k.MinVersion <= request.Version && k.MaxVersion >= request.Version
	}) {
		return nil, errors.New("it does not speak Kafka as of 2.3")
	}
	if k.spec.Options["user"] != "" {
		if err := k.login(); err != nil {
			return nil, err
		}
		k.known = true
	}
	request.Topics = []kmsg.MetadataRequestTopic{} // none; nil are all
	if topic != "" {
		request.Topics = append(request.Topics, kmsg.MetadataRequestTopic{Topic: &topic})
	}
	return exchange[*kmsg.MetadataResponse](k, request)
}

// login is by SASL.
func (k *kafkaLink) login() error {
	user, password := k.spec.Options["user"], k.spec.Secret("password")
	var m sasl.Mechanism
	switch k.spec.Options["sasl"] {
	case "scram-sha-256":
		m = scram.Auth{User: user, Pass: password}.AsSha256Mechanism()
	case "scram-sha-512":
		m = scram.Auth{User: user, Pass: password}.AsSha512Mechanism()
	default:
		m = plain.Auth{User: user, Pass: password}.AsMechanism()
	}
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Version, hello.Mechanism = 1, m.Name()
	h, err := exchange[*kmsg.SASLHandshakeResponse](k, hello)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(h.ErrorCode); errors.Is(err, kerr.UnsupportedSaslMechanism) {
		return fmt.Errorf("it takes no login by %s, but by %s", m.Name(), strings.Join(h.SupportedMechanisms, ", "))
	} else if err != nil {
		return err
	}
	session, say, err := m.Authenticate(k.ctx, k.spec.Target)
	session = bounded{session}
	for done := false; !done && err == nil; {
		request := kmsg.NewPtrSASLAuthenticateRequest()
		request.SASLAuthBytes = say
		r, sent := exchange[*kmsg.SASLAuthenticateResponse](k, request)
		if sent != nil {
			return sent
		}
		if bad := kerr.TypedErrorForCode(r.ErrorCode); bad != nil {
			if r.ErrorMessage != nil && *r.ErrorMessage != "" {
				return kafkaError(*r.ErrorMessage, bad)
			}
			return bad
		}
		done, say, err = session.Challenge(r.SASLAuthBytes)
	}
	return err
}

// judgeKafka is what a broker's view of its cluster means. Without a controller the leaders
// that there are go on to serve, so that is degraded; a partition without a leader
// takes nothing and gives nothing.
func judgeKafka(topic string, m *kmsg.MetadataResponse) probe.Answer {
	if len(m.Brokers) == 0 {
		return probe.NotReady("connected, but: it knows no broker that serves, not even itself")
	}
	a := probe.Answer{Ready: true}
	if m.ControllerID < 0 {
		a = a.Degrade("the cluster has no controller: nothing takes over from a broker that fails")
	}
	if topic == "" {
		return a
	}
	if len(m.Topics) != 1 {
		return probe.NotReady("connected, but: it does not answer for topic %s", topic)
	}
	t := m.Topics[0]
	var headless, thin []int32
	for _, p := range t.Partitions {
		switch {
		case p.Leader < 0:
			headless = append(headless, p.Partition)
		case len(p.ISR) < len(p.Replicas):
			thin = append(thin, p.Partition)
		}
	}
	switch bad := kerr.TypedErrorForCode(t.ErrorCode); {
	case len(headless) > 0:
		return probe.NotReady("connected, but: topic %s: %s without a leader", topic, partitions(headless, t))
	case bad == kerr.UnknownTopicOrPartition:
		return probe.NotReady("connected, but: there is no topic %s (%s)", topic, bad.Message)
	case bad == kerr.TopicAuthorizationFailed:
		return probe.NotReady("connected, but: this login may not see topic %s (%s)", topic, bad.Message)
	case bad != nil:
		return probe.NotReady("connected, but: topic %s: %v", topic, kafkaError(bad.Description, bad))
	case len(t.Partitions) == 0:
		return probe.NotReady("connected, but: topic %s has no partitions", topic)
	case len(thin) > 0 && !a.Degraded:
		return a.Degrade(fmt.Sprintf("topic %s: %s with replicas that lag behind", topic, partitions(thin, t)))
	}
	return a
}

// partitions names some of a topic's: "2 of 6 partitions (0, 3)".
func partitions(some []int32, of kmsg.MetadataResponseTopic) string {
	const most = 5
	slices.Sort(some)
	var names []string
	for _, p := range some[:min(most, len(some))] {
		names = append(names, strconv.Itoa(int(p)))
	}
	if len(some) > most {
		names = append(names, "…")
	}
	return fmt.Sprintf("%d of %d partitions (%s)", len(some), len(of.Partitions), strings.Join(names, ", "))
}

// kafkaError puts the name of an error, by which people look it up, behind what it means.
func kafkaError(word string, e *kerr.Error) error {
	return fmt.Errorf("%s (%s)", strings.TrimSuffix(word, "."), e.Message)
}

// why is that of the link, knowing that a broker hangs up on whom it does not like.
func (k *kafkaLink) why(err error) probe.Answer {
	if bad, ok := errors.AsType[*kerr.Error](err); ok {
		err = kafkaError(bad.Description, bad)
	}
	a := k.link.why(err)
	if !k.hungUp() {
		return a
	}
	switch user := k.spec.Options["user"]; {
	case !k.understood && k.spec.Options["tls"] != "yes":
		a.Word += ": does it want TLS?"
	case k.understood && user == "":
		a.Word += ": does it want a login?"
	case k.understood && !k.known:
		a.Word += ": it does not take this login"
	}
	return a
}

var errNotKafka = errors.New("an answer is not in its protocol")

// exchange sends a request and reads its response, of the kind that the request says. Both
// are in a version without tagged fields.
func exchange[R kmsg.Response](k *kafkaLink, request kmsg.Request) (response R, err error) {
	k.asked++
	// Who hangs up may have said why.
	_, _ = k.Write(k.format.AppendRequest(nil, request, k.asked))
	var head [8]byte
	if _, err := io.ReadFull(k.link, head[:]); err != nil {
		return response, err
	}
	size, id := int32(binary.BigEndian.Uint32(head[:])), int32(binary.BigEndian.Uint32(head[4:]))
	if size < 4 || size > maxTalk || id != k.asked {
		return response, errNotKafka
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(k.link, body); err != nil {
		return response, err
	}
	response, ok := request.ResponseKind().(R)
	if !ok || response.ReadFrom(body) != nil {
		return response, errNotKafka
	}
	k.understand()
	return response, nil
}
