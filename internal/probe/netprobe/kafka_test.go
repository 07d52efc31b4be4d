package netprobe

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"kido/internal/probe"
)

// TestKafka asks kfake, a cluster by the authors of the client library that speaks Kafka's
// protocol and answers like Kafka. It is not Kafka itself: that is not in Debian.
func TestKafka(t *testing.T) {
	t.Parallel()
	cluster := func(t *testing.T, options ...kfake.Opt) (*kfake.Cluster, probe.Spec) {
		t.Helper()
		c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.SeedTopics(4, "orders")}, options...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c, probe.Spec{Kind: probe.KindKafka, Target: c.ListenAddrs()[0], Timeout: 10 * time.Second}
	}
	// tells has each answer about the cluster changed.
	tells := func(c *kfake.Cluster, change func(*kmsg.MetadataResponse)) {
		c.ControlKey(3, func(request kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			topic := kmsg.NewMetadataResponseTopic()
			for i := range int32(7) {
				p := kmsg.NewMetadataResponseTopicPartition()
				p.Partition, p.Leader, p.Replicas, p.ISR = i, 1, []int32{0, 1, 2}, []int32{0, 1, 2}
				topic.Partitions = append(topic.Partitions, p)
			}
			m := request.ResponseKind().(*kmsg.MetadataResponse)
			m.ControllerID = 1
			m.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "127.0.0.1", Port: 9092}}
			for _, asked := range request.(*kmsg.MetadataRequest).Topics {
				topic.Topic = asked.Topic
				m.Topics = append(m.Topics, topic)
			}
			change(m)
			return m, nil, true
		})
	}

	t.Run("as it is", func(t *testing.T) {
		t.Parallel()
		_, s := cluster(t)
		says(t, s, "")
		says(t, with(s, "topic", "orders"), "")
		says(t, with(s, "topic", "order"), "connected, but: there is no topic order (UNKNOWN_TOPIC_OR_PARTITION)")
		says(t, with(s, "topic", "no such/topic"), "connected, but: …")
	})
	t.Run("the cluster", func(t *testing.T) {
		t.Parallel()
		for _, x := range []struct {
			name   string
			change func(*kmsg.MetadataResponse)
			want   string
		}{
			{"well", func(*kmsg.MetadataResponse) {}, ""},
			{"no controller", func(m *kmsg.MetadataResponse) { m.ControllerID = -1 }, "degraded: the cluster has no controller: nothing takes over from a broker that fails"},
			{"no broker", func(m *kmsg.MetadataResponse) { m.Brokers = nil }, "connected, but: it knows no broker that serves, not even itself"},
			{"no leader", func(m *kmsg.MetadataResponse) {
				m.Topics[0].ErrorCode = kerr.LeaderNotAvailable.Code
				m.Topics[0].Partitions[3].Leader, m.Topics[0].Partitions[0].Leader = -1, -1
			}, "connected, but: topic orders: 2 of 7 partitions (0, 3) without a leader"},
			{"no leaders", func(m *kmsg.MetadataResponse) {
				for i := range m.Topics[0].Partitions {
					m.Topics[0].Partitions[i].Leader = -1
				}
			}, "connected, but: topic orders: 7 of 7 partitions (0, 1, 2, 3, 4, …) without a leader"},
			{"behind", func(m *kmsg.MetadataResponse) { m.Topics[0].Partitions[2].ISR = []int32{1} }, "degraded: topic orders: 1 of 7 partitions (2) with replicas that lag behind"},
			{"being made", func(m *kmsg.MetadataResponse) { m.Topics[0].Partitions = nil }, "connected, but: topic orders has no partitions"},
			{"not for us", func(m *kmsg.MetadataResponse) {
				m.Topics[0].Partitions, m.Topics[0].ErrorCode = nil, kerr.TopicAuthorizationFailed.Code
			}, "connected, but: this login may not see topic orders (TOPIC_AUTHORIZATION_FAILED)"},
			{"of something else", func(m *kmsg.MetadataResponse) { m.Topics = nil }, "connected, but: it does not answer for topic orders"},
		} {
			t.Run(x.name, func(t *testing.T) {
				c, s := cluster(t)
				tells(c, x.change)
				says(t, with(s, "topic", "orders"), x.want)
			})
		}
	})
	t.Run("login", func(t *testing.T) {
		t.Parallel()
		_, s := cluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "kido", "plain secret"),
			kfake.Superuser("SCRAM-SHA-256", "kido", "secret, of 256"), kfake.Superuser("SCRAM-SHA-512", "kido", "secret of 512"))
		for _, x := range []struct{ how, password, want string }{
			{"", "plain secret", ""},
			{"plain", "plain secret", ""},
			{"scram-sha-256", "secret, of 256", ""},
			{"scram-sha-512", "secret of 512", ""},
			// kfake hangs up where Kafka says why.
			{"plain", "wrong", "connected, but: it closed the connection in the middle: it does not take this login"},
			{"scram-sha-256", "wrong", "connected, but: it closed the connection in the middle: it does not take this login"},
			{"scram-sha-512", "wrong", "connected, but: it closed the connection in the middle: it does not take this login"},
		} {
			login := with(s, "user", "kido", "password", secret(t, x.password))
			if x.how != "" {
				login = with(login, "sasl", x.how)
			}
			says(t, login, x.want)
		}
		says(t, s, "connected, but: it closed the connection in the middle: does it want a login?")
		says(t, with(s, "user", "kido"), "kafka: password is missing: nobody is let in by a name alone")
	})
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		c, s := cluster(t, kfake.EnableSASL())
		c.ControlKey(36, func(request kmsg.Request) (kmsg.Response, error, bool) {
			r := request.ResponseKind().(*kmsg.SASLAuthenticateResponse)
			r.ErrorCode, r.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr("Authentication failed: Invalid username or password")
			return r, nil, true
		})
		says(t, with(s, "user", "kido", "password", secret(t, "secret")), "connected, but: Authentication failed: Invalid username or password (SASL_AUTHENTICATION_FAILED)")
	})
	t.Run("no login there", func(t *testing.T) {
		t.Parallel()
		c, s := cluster(t)
		c.ControlKey(17, func(request kmsg.Request) (kmsg.Response, error, bool) {
			h := request.ResponseKind().(*kmsg.SASLHandshakeResponse)
			h.ErrorCode = kerr.IllegalSaslState.Code
			return h, nil, true
		})
		says(t, with(s, "user", "kido", "password", secret(t, "secret")), "connected, but: Request is not valid given the current SASL state (ILLEGAL_SASL_STATE)")
	})
	t.Run("another way to log in", func(t *testing.T) {
		t.Parallel()
		c, s := cluster(t, kfake.EnableSASL())
		c.ControlKey(17, func(request kmsg.Request) (kmsg.Response, error, bool) {
			h := request.ResponseKind().(*kmsg.SASLHandshakeResponse)
			h.ErrorCode, h.SupportedMechanisms = kerr.UnsupportedSaslMechanism.Code, []string{"GSSAPI", "OAUTHBEARER"}
			return h, nil, true
		})
		says(t, with(s, "user", "kido", "password", secret(t, "secret")), "connected, but: it takes no login by PLAIN, but by GSSAPI, OAUTHBEARER")
	})
	t.Run("rounds", func(t *testing.T) {
		t.Parallel()
		c, s := cluster(t, kfake.EnableSASL())
		c.ControlKey(36, func(request kmsg.Request) (kmsg.Response, error, bool) {
			r := request.ResponseKind().(*kmsg.SASLAuthenticateResponse)
			_, nonce, _ := bytes.Cut(request.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes, []byte("r="))
			r.SASLAuthBytes = []byte("r=" + string(nonce) + "x,s=c2FsdA==,i=2000000000")
			return r, nil, true
		})
		says(t, with(s, "user", "admin", "sasl", "scram-sha-256", "password", secret(t, "admin")),
			"connected, but: it wants 2000000000 rounds of SCRAM, at most 1000000 are done")
	})
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		ours := newAuthority(t)
		pair, err := tls.X509KeyPair(ours.issue(t, "127.0.0.1", time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		_, s := cluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}))
		says(t, with(s, "tls", "yes", "ca", secret(t, string(ours.pem())), "topic", "orders"), "")
		says(t, with(s, "tls", "yes"), "certificate is signed by an unknown authority")
		says(t, s, "connection closed without an answer: does it want TLS?")
	})
	t.Run("one broker", func(t *testing.T) {
		t.Parallel()
		c, s := cluster(t)
		var others atomic.Int64
		tells(c, func(m *kmsg.MetadataResponse) {
			if c.CurrentNode() != 0 {
				others.Add(1)
			}
		})
		for range 5 {
			says(t, with(s, "topic", "orders"), "")
		}
		if others.Load() > 0 {
			t.Errorf("%d questions to other brokers", others.Load())
		}
	})
	t.Run("hung", func(t *testing.T) {
		t.Parallel()
		c, s := cluster(t)
		c.ControlKey(3, func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, true })
		s.Timeout = 500 * time.Millisecond
		says(t, s, "connected, but no answer within 500ms")
	})
	t.Run("too old", func(t *testing.T) {
		t.Parallel()
		c, s := cluster(t)
		c.ControlKey(18, func(request kmsg.Request) (kmsg.Response, error, bool) {
			v := request.ResponseKind().(*kmsg.ApiVersionsResponse)
			v.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: 3, MaxVersion: 7}, {ApiKey: 18, MaxVersion: 2}}
			return v, nil, true
		})
		says(t, s, "connected, but: it does not speak Kafka as of 2.3")
	})
	t.Run("garbage behind a good beginning", func(t *testing.T) {
		t.Parallel()
		_, real := cluster(t)
		for name, x := range map[string]struct{ text, want string }{
			"an endless message": {"\x00\x0f\xff\xff\x00\x00\x00\x02", "connected, but no answer within 500ms"},
			"a long one":         {"\x7f\xff\xff\xff\x00\x00\x00\x02", "connected, but: an answer is not in its protocol"},
			"a negative one":     {"\xff\xff\xff\xff\x00\x00\x00\x02", "connected, but: an answer is not in its protocol"},
			"to something else":  {"\x00\x00\x00\x08\x00\x00\x00\x03\x00\x00\x00\x00", "connected, but: an answer is not in its protocol"},
			"many brokers":       {"\x00\x00\x00\x0c\x00\x00\x00\x02\x00\x00\x00\x00\x7f\xff\xff\xff", "connected, but: an answer is not in its protocol"},
			"nothing":            {"", "connected, but: it closed the connection in the middle: does it want a login?"},
		} {
			t.Run(name, func(t *testing.T) {
				s := real
				s.Timeout = 500 * time.Millisecond
				s.Target = speaker(t, func(c net.Conn) {
					broker, err := net.Dial("tcp", real.Target)
					if err != nil {
						return
					}
					defer broker.Close()
					for _, way := range [][2]net.Conn{{c, broker}, {broker, c}} { // ApiVersions
						var size [4]byte
						if _, err := io.ReadFull(way[0], size[:]); err != nil {
							return
						}
						_, _ = way[1].Write(size[:])
						_, _ = io.CopyN(way[1], way[0], int64(size[2])<<8+int64(size[3]))
					}
					if x.text == "" {
						_, _ = c.Read(make([]byte, 1<<10))
						return
					}
					_, _ = io.WriteString(c, x.text)
					_, _ = io.Copy(io.Discard, c)
				})
				says(t, s, x.want)
			})
		}
	})
}
