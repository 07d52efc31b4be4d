package netprobe

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kido/internal/probe"
)

// links are the kinds that are asked over a link, with what their protocol is called, and
// by whom the first word is.
var links = map[probe.Kind]string{
	probe.KindAMQP:    "AMQP 0-9-1",
	probe.KindKafka:   "Kafka's protocol",
	probe.KindLDAP:    "LDAP",
	probe.KindMongoDB: "MongoDB's protocol",
	probe.KindRedis:   "Redis's protocol",
	probe.KindSMTP:    "SMTP",
}

// secret puts a text into a file, and names it as an option does.
func secret(t testing.TB, text string) string {
	t.Helper()
	return "file:" + write(t, nil, t.TempDir()+"/secret", []byte(text))
}

// freePorts are as many of them, each another one.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		ports[i] = freePort(t)
	}
	return ports
}

// with is s with other options, in pairs.
func with(s probe.Spec, options ...string) probe.Spec {
	s.Options = maps.Clone(s.Options)
	if s.Options == nil {
		s.Options = map[string]string{}
	}
	for i := 0; i+1 < len(options); i += 2 {
		s.Options[options[i]] = options[i+1]
	}
	return s
}

// says makes a try. The word wanted begins with "degraded: " where that is; "" is
// ready. It may end with "…".
func says(t testing.TB, s probe.Spec, want string) probe.Answer {
	t.Helper()
	a := ask(t, s)
	got := a.Word
	if a.Degraded {
		got = "degraded: " + got
	}
	if strings.Contains(got, "-secret") { // as all passwords of these tests end
		t.Errorf("%s: %q tells a password", s.Described(), got)
	}
	start, cut := strings.CutSuffix(want, "…")
	if a.Ready != (want == "" || a.Degraded) || got != want && !(cut && strings.HasPrefix(got, start)) {
		t.Errorf("%s: got %s %q, want %q", s.Described(), a.Verdict(), got, want)
	}
	return a
}

// sameLife asks some times and from a program of its own, and returns the life that all tell.
func sameLife(t testing.TB, s probe.Spec) string {
	t.Helper()
	life := ask(t, s).Life
	for range 4 {
		if a := ask(t, s); a.Life != life || a.Life == "" {
			t.Fatalf("%s: a life of %q, and before of %q", s.Described(), a.Life, life)
		}
	}
	loaded, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	(Prober{}).serve(strings.NewReader(probe.Task{Spec: loaded}.String()), &out)
	if !strings.Contains(out.String(), " life="+life) {
		t.Fatalf("%s: another prober says %q, and not the life %q", s.Described(), out.String(), life)
	}
	return life
}

// TestLinkForeign has all kinds that use a link meet servers that are something else, or
// not well.
func TestLinkForeign(t *testing.T) {
	t.Parallel()
	say := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, text)
			_, _ = io.Copy(io.Discard, c)
		}
	}
	var sent atomic.Int64
	endless := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			for chunk := strings.Repeat(text, 1<<10); ; {
				n, err := io.WriteString(c, chunk)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}
	}
	for kind, protocol := range links {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			foreign := "answered, but not in " + protocol
			for _, x := range []struct {
				name  string
				serve func(net.Conn)
				want  string
			}{
				{"silent", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "connected, but no answer within 500ms"},
				{"hangs up", func(c net.Conn) {
					_ = c.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, c)
				}, "connection closed without an answer…"},
				{"http", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") }, foreign},
				{"ssh", say("SSH-2.0-OpenSSH_9.2\r\n"), foreign},
				{"mysql", say("\x4a\x00\x00\x00\x0a8.0.36\x00" + strings.Repeat("\x07", 70)), foreign},
				{"wants TLS", say("\x15\x03\x01\x00\x02\x02\x46"), "answered in TLS: say tls"},
				{"zeros", endless("\x00"), foreign + "…"},
				{"one line", endless("A"), foreign + "…"},
				{"garbage", endless("\xff\xfe\x80\n"), foreign + "…"},
				{"long array", say("*2147483647\r\n"), foreign},
				{"long text", say("$99999999999999\r\n"), foreign},
				{"long packet", say("\x30\x84\x7f\xff\xff\xff\x02\x01\x01"), foreign},
				{"longer packet", say("\x30\x88\x7f\xff\xff\xff\xff\xff\xff\xff\x04\x88\x7f\xff\xff\xff\xff\xff\xff\xff"), foreign},
				{"nested", endless("\x30\x80"), foreign + "…"},
				{"long frame", say("\x01\x00\x00\xff\xff\xff\xff\x00\x0a\x00\x0a"), foreign},
				{"other AMQP", say("AMQP\x00\x01\x00\x00"), foreign},
			} {
				s := probe.Spec{Kind: kind, Target: speaker(t, x.serve), Timeout: 500 * time.Millisecond}
				t.Run(x.name, func(t *testing.T) { says(t, s, x.want) })
			}
			says(t, probe.Spec{Kind: kind, Target: at(freePort(t)), Timeout: 10 * time.Second}, "connection refused")
		})
	}
	t.Cleanup(func() {
		// What was taken in, and what sockets hold.
		if most := int64(len(links) * 4 * (maxTalk + 8<<20)); sent.Load() == 0 || sent.Load() > most {
			t.Errorf("endless servers got rid of %d bytes, at most %d are expected", sent.Load(), most)
		}
	})
}

// TestLinkTLS has them all meet what can be wrong with TLS.
func TestLinkTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	ca := secret(t, string(ours.pem()))
	cert, key := ours.issue(t, "kido", time.Hour)
	listen := func(t *testing.T, a *authority, name string, good time.Duration, client bool) string {
		pair, err := tls.X509KeyPair(a.issue(t, name, good))
		if err != nil {
			t.Fatal(err)
		}
		c := &tls.Config{Certificates: []tls.Certificate{pair}}
		if client {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
			c.ClientCAs.AddCert(ours.cert)
		}
		return speaker(t, func(raw net.Conn) {
			in := tls.Server(raw, c)
			if in.Handshake() == nil {
				in.Close()
			}
		})
	}
	for kind := range links {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			for _, x := range []struct {
				name, address string
				options       []string
				want          string
			}{
				{"closed", listen(t, ours, "127.0.0.1", time.Hour, false), nil, "connection closed without an answer"},
				{"expired", listen(t, ours, "127.0.0.1", -time.Hour, false), nil, "certificate expired"},
				{"unknown authority", listen(t, theirs, "127.0.0.1", time.Hour, false), nil, "certificate is signed by an unknown authority"},
				{"another name", listen(t, ours, "db.example", time.Hour, false), nil, "certificate is not for 127.0.0.1"},
				{"the name given", listen(t, ours, "db.example", time.Hour, false), []string{"name", "db.example"}, "connection closed without an answer"},
				{"client certificate missing", listen(t, ours, "127.0.0.1", time.Hour, true), nil, "the server refused TLS: certificate required, give cert and key"},
				{"client certificate", listen(t, ours, "127.0.0.1", time.Hour, true), []string{"cert", secret(t, string(cert)), "key", secret(t, string(key))}, "connection closed without an answer"},
				{"no TLS", speaker(t, func(c net.Conn) { _, _ = io.WriteString(c, "220 mail ESMTP\r\n") }), nil, "answered, but not in TLS"},
				{"no certificate", at(1), []string{"ca", secret(t, "nothing")}, "connection refused"},
			} {
				s := with(probe.Spec{Kind: kind, Target: x.address, Timeout: 10 * time.Second}, append([]string{"tls", "yes", "ca", ca}, x.options...)...)
				t.Run(x.name, func(t *testing.T) { says(t, s, x.want) })
			}
		})
	}
}
