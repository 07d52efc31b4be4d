package netprobe

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"kido/internal/probe"
)

// errSetup is of what a probe was given, and says nothing about the service.
type errSetup struct{ error }

// tlsConfig is how s talks TLS to a server at host, as its options ca, cert, key and
// name say. The server's certificate is always verified. It fails with an errSetup where what
// is behind these is no PEM, or cert and key do not belong together.
func tlsConfig(s probe.Spec, host string) (*tls.Config, error) {
	c := &tls.Config{ServerName: cmp.Or(s.Options["name"], host), MinVersion: tls.VersionTLS12}
	if pem, ok := s.Secrets["ca"]; ok {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errSetup{fmt.Errorf("ca: %s holds no certificate in PEM", strings.TrimPrefix(s.Options["ca"], "file:"))}
		}
	}
	if pem, ok := s.Secrets["cert"]; ok {
		pair, err := tls.X509KeyPair(pem, s.Secrets["key"])
		if err != nil {
			return nil, errSetup{fmt.Errorf("cert and key: %s", strings.TrimPrefix(err.Error(), "tls: "))}
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// tls asks for a handshake, and nothing of the protocol behind it.
func (p Prober) tls(ctx context.Context, s probe.Spec) probe.Answer {
	host, _, err := net.SplitHostPort(s.Target)
	if err != nil {
		return probe.NotReady("%v", err)
	}
	config, err := tlsConfig(s, host)
	if err != nil {
		return probe.Untried("%v", err)
	}
	wanted := certificateWanted(config)
	dialer := net.Dialer{KeepAlive: -1}
	raw, err := dialer.DialContext(ctx, "tcp", s.Target)
	if err != nil {
		return s.Why(ctx, err)
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })()
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return whyConnected(ctx, s, err)
	}
	if wanted() && c.ConnectionState().Version >= tls.VersionTLS13 {
		// Whether it takes our certificate a server of TLS 1.3 says after the handshake. We
		// have no more to say: it hangs up too, or speaks first, or was not content.
		_ = c.CloseWrite()
		_, err := c.Read(make([]byte, 1))
		if _, refused := alert(err); refused || probe.Late(ctx, err) {
			return whyConnected(ctx, s, err)
		}
	}
	return weighExpiry(s, c.ConnectionState(), time.Now())
}

// certificateWanted tells whether a server has asked for a certificate of ours.
func certificateWanted(c *tls.Config) func() bool {
	var wanted atomic.Bool
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		wanted.Store(true)
		if len(c.Certificates) == 0 {
			return &tls.Certificate{}, nil
		}
		return &c.Certificates[0], nil
	}
	return wanted.Load
}

// weighExpiry says how long the certificates of a connection are good for yet.
func weighExpiry(s probe.Spec, c tls.ConnectionState, now time.Time) probe.Answer {
	ready := probe.Answer{Ready: true}
	days, err := strconv.Atoi(s.Options["days"])
	if err != nil {
		return ready
	}
	var end time.Time // of the chain that is good for longest
	for _, chain := range c.VerifiedChains {
		soonest := chain[0].NotAfter
		for _, cert := range chain[1:] {
			if cert.NotAfter.Before(soonest) {
				soonest = cert.NotAfter
			}
		}
		if soonest.After(end) {
			end = soonest
		}
	}
	const day = 24 * time.Hour
	switch left := end.Sub(now); {
	case left >= time.Duration(days)*day:
		return ready
	case left < day:
		return ready.Degrade("certificate expires in less than a day")
	case left < 2*day:
		return ready.Degrade("certificate expires in 1 day")
	default:
		return ready.Degrade(fmt.Sprintf("certificate expires in %d days", left/day))
	}
}

// alert is what the other side of a TLS connection said when it ended it.
func alert(err error) (word string, ok bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return "", false
	}
	return strings.TrimPrefix(op.Err.Error(), "tls: "), true
}
