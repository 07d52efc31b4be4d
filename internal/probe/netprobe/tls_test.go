package netprobe

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kido/internal/probe"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := newWeb(t)
	foreign := newAuthority(t)
	keep := func(name string, text []byte) string { return "file:" + write(t, nil, filepath.Join(dir, name), text) }
	pair := func(name string, a *authority) []string {
		cert, key := a.issue(t, "kido", time.Hour)
		return []string{"cert", keep(name+".pem", cert), "key", keep(name+".key", key)}
	}
	ours, foreigners := pair("ours", w.authority), pair("foreigners", foreign)
	vouched := x509.NewCertPool()
	vouched.AddCert(w.authority.cert)

	// at is a server that does as it is told after the handshake.
	at := func(change func(*tls.Config), serve func(*tls.Conn)) string {
		config := w.pair(t, "127.0.0.1", 73*time.Hour+time.Minute)
		change(config)
		return speaker(t, func(c net.Conn) {
			in := tls.Server(c, config)
			if in.HandshakeContext(t.Context()) == nil {
				serve(in)
			}
			in.Close()
		})
	}
	asItIs := func(*tls.Config) {}
	wants := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, vouched }
	wants12 := func(c *tls.Config) { wants(c); c.MaxVersion = tls.VersionTLS12 }
	asks := func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }
	listens := func(c *tls.Conn) { _, _ = io.Copy(io.Discard, c) }
	speaks := func(c *tls.Conn) { _, _ = io.WriteString(c, "* OK IMAP4rev1\r\n"); listens(c) }
	hangs := func(*tls.Conn) { <-t.Context().Done() }
	hangsUp := func(*tls.Conn) {}
	plain := speaker(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "SSH-2.0-x\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	endless := speaker(t, func(c net.Conn) {
		for _, err := io.WriteString(c, "\x16\x03\x03\x40\x00"); err == nil; {
			_, err = c.Write(make([]byte, 1<<14))
		}
	})
	closes := speaker(t, func(c net.Conn) { // with all read, else the kernel resets the connection
		head := make([]byte, 5)
		if _, err := io.ReadFull(c, head); err == nil {
			_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[3:])))
		}
	})
	silent := speaker(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })

	for _, x := range []struct {
		name, address string
		options       []string
		want          string
	}{
		{"listens", at(asItIs, listens), nil, ""},
		{"speaks first", at(asItIs, speaks), nil, ""},
		{"hangs after the handshake", at(asItIs, hangs), nil, ""},
		{"hangs up after the handshake", at(asItIs, hangsUp), nil, ""},

		{"good for longer", at(asItIs, listens), []string{"days", "3"}, ""},
		{"good for three days", at(asItIs, listens), []string{"days", "4"}, "degraded: certificate expires in 3 days"},
		{"good for one day", at(func(c *tls.Config) { *c = *w.pair(t, "127.0.0.1", 25*time.Hour) }, listens), []string{"days", "4"}, "degraded: certificate expires in 1 day"},
		{"good for hours", at(func(c *tls.Config) { *c = *w.pair(t, "127.0.0.1", 2*time.Hour) }, listens), []string{"days", "1"}, "degraded: certificate expires in less than a day"},
		{"good for too short", at(asItIs, listens), []string{"days", "4", "strict", "yes"}, "certificate expires in 3 days"},
		{"expired", at(func(c *tls.Config) { *c = *w.pair(t, "127.0.0.1", -time.Hour) }, listens), []string{"days", "4"}, "certificate expired"},
		{"not valid yet", at(func(c *tls.Config) { c.Certificates = []tls.Certificate{tomorrow(t, w.authority)} }, listens), nil, "certificate is not valid yet"},

		{"another name", at(asItIs, listens), []string{"name", "db.example"}, "certificate is not for db.example"},
		{"by another name", at(func(c *tls.Config) { *c = *w.pair(t, "db.example", time.Hour) }, listens), []string{"name", "db.example"}, ""},
		{"unknown authority", at(asItIs, listens), []string{"ca", keep("foreign", foreign.pem())}, "certificate is signed by an unknown authority"},

		{"wants a certificate, none", at(wants, listens), nil, "the server refused TLS: certificate required, give cert and key"},
		{"wants a certificate, given", at(wants, listens), ours, ""},
		{"wants a certificate, given, speaks first", at(wants, speaks), ours, ""},
		{"wants a certificate, given, hangs", at(wants, hangs), ours, "connected, but no answer within 300ms"},
		{"wants a certificate, foreign", at(wants, listens), foreigners, "the server refused TLS: unknown certificate authority"},
		{"wants a certificate, none, TLS 1.2", at(wants12, listens), nil, "the server refused TLS: handshake failure"},
		{"wants a certificate, given, TLS 1.2", at(wants12, listens), ours, ""},
		{"wants a certificate, given, hangs, TLS 1.2", at(wants12, hangs), ours, ""},
		{"asks for a certificate, none", at(asks, listens), nil, ""},
		{"key of another certificate", at(wants, listens), []string{"cert", ours[1], "key", foreigners[3]}, "cert and key: private key does not match public key"},

		{"TLS 1.1", at(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, listens), nil, "the server refused TLS: protocol version not supported"},
		{"another protocol", plain, nil, "answered, but not in TLS"},
		{"endless", endless, nil, "tls: "},
		{"hangs up", closes, nil, "connection closed without an answer"},
		{"silent", silent, nil, "connected, but no answer within 300ms"},
		{"refused", "127.0.0.1:1", nil, "connection refused"},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := probe.Spec{Kind: probe.KindTLS, Target: x.address, Options: map[string]string{"ca": w.ca}, Timeout: 20 * time.Second}
			for i := 0; i < len(x.options); i += 2 {
				s.Options[x.options[i]] = x.options[i+1]
			}
			if strings.HasPrefix(x.want, "connected") {
				s.Timeout = 300 * time.Millisecond
			}
			a := ask(t, s)
			word, degraded := strings.CutPrefix(x.want, "degraded: ")
			if a.Ready != (word == "" || degraded) || a.Degraded != degraded || !strings.HasPrefix(a.Word, word) || a.Ready && !degraded && a.Word != "" {
				t.Errorf("got %+v, want %q", a, x.want)
			}
			if a.Untried != strings.HasPrefix(x.want, "cert and key") {
				t.Errorf("untried: %v", a.Untried)
			}
		})
	}
}

// tomorrow is a certificate that is not valid yet.
func tomorrow(t *testing.T, a *authority) tls.Certificate {
	t.Helper()
	key := newKey(t)
	der := signed(t, a, &x509.Certificate{
		NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, key.Public())
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	now := time.Now()
	in := func(d time.Duration) *x509.Certificate { return &x509.Certificate{NotAfter: now.Add(d)} }
	const day = 24 * time.Hour
	for _, x := range []struct {
		chains [][]*x509.Certificate
		want   string
	}{
		{[][]*x509.Certificate{{in(14 * day), in(99 * day)}}, ""},
		{[][]*x509.Certificate{{in(14*day - time.Second), in(99 * day)}}, "certificate expires in 13 days"},
		{[][]*x509.Certificate{{in(99 * day), in(2 * day), in(99 * day)}}, "certificate expires in 2 days"},
		{[][]*x509.Certificate{{in(99 * day), in(2*day - time.Second)}}, "certificate expires in 1 day"},
		{[][]*x509.Certificate{{in(99 * day), in(time.Hour)}, {in(99 * day), in(50 * day)}}, ""}, // another root will do
		{[][]*x509.Certificate{{in(99 * day), in(time.Hour)}, {in(99 * day), in(5 * day)}}, "certificate expires in 5 days"},
	} {
		s := probe.Spec{Kind: probe.KindTLS, Options: map[string]string{"days": "14"}}
		if a := weighExpiry(s, tls.ConnectionState{VerifiedChains: x.chains}, now); !a.Ready || a.Word != x.want || a.Degraded != (x.want != "") {
			t.Errorf("got %+v, want %q", a, x.want)
		}
	}
}

func signed(t *testing.T, a *authority, c *x509.Certificate, key any) []byte {
	t.Helper()
	c.SerialNumber = big.NewInt(2)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
