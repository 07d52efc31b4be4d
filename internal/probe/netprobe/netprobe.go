// Package netprobe makes the probes that need more than the gate links in:
// http and https proper, with the system's roots. It is for kido only, which
// also lends it to a gate for one try at a time, see [ServeChild].
//
// What package probe promises holds here too: one try, inside its time-out,
// nothing left behind. No proxy, no redirection, no cookie.
package netprobe

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"kido/internal/probe"
	"kido/internal/wire"
)

const maxHeader = 64 << 10 // bytes of an HTTP answer that are read

// Prober makes every kind of probe from this machine.
type Prober struct {
	Roots *x509.CertPool // who may vouch for a server; nil: the system's
}

// Try makes one try of s, within its time-out.
func (p Prober) Try(ctx context.Context, s probe.Spec) probe.Answer {
	if s.Kind != probe.KindHTTP && s.Kind != probe.KindHTTPS {
		return probe.Local{}.Try(ctx, s)
	}
	start := time.Now()
	ctx, cancel := s.Limit(ctx)
	defer cancel()
	a := p.get(ctx, s)
	a.Took = time.Since(start)
	return a
}

func (p Prober) get(ctx context.Context, s probe.Spec) probe.Answer {
	if _, err := probe.ParseSpec(s.Fields()); err != nil {
		return probe.NotReady("%v", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Target, nil)
	if err != nil {
		return probe.NotReady("%v", err)
	}
	req.Header.Set("User-Agent", "kido")
	dialer := net.Dialer{KeepAlive: -1}
	transport := http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: p.Roots},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	resp, err := transport.RoundTrip(req) // one question: no redirections
	if err != nil {
		return why(ctx, s, err)
	}
	resp.Body.Close()
	if err := ctx.Err(); err != nil { // our hanging up can be what made it answer
		return why(ctx, s, err)
	}
	if s.Accepts(resp.StatusCode) {
		return probe.Answer{Ready: true}
	}
	return probe.NotReady("HTTP %s", resp.Status)
}

// why puts the errors of TLS and HTTP into words.
func why(ctx context.Context, s probe.Spec, err error) probe.Answer {
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
		if bad.Cert != nil && time.Now().Before(bad.Cert.NotBefore) {
			return probe.NotReady("certificate is not valid yet")
		}
		return probe.NotReady("certificate expired")
	}
	if bad, ok := errors.AsType[x509.HostnameError](err); ok {
		return probe.NotReady("certificate is not for %s", bad.Host)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return probe.NotReady("certificate is signed by an unknown authority")
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return probe.NotReady("certificate: %s", strings.TrimPrefix(bad.Err.Error(), "x509: "))
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return probe.NotReady("answered, but not in TLS")
	}
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return probe.NotReady("TLS: %v", alert)
	}
	return s.Why(ctx, err)
}

// ServeChild is the program that a gate runs for a probe that it cannot make
// itself: it reads one line, makes that try and writes one line. It returns the
// exit status.
func ServeChild(stdin io.Reader, stdout io.Writer) int {
	return Prober{}.serve(stdin, stdout)
}

func (p Prober) serve(stdin io.Reader, stdout io.Writer) int {
	answer := func(a probe.Answer) int {
		if _, err := fmt.Fprintln(stdout, wire.FormatLine(a.Fields()...)); err != nil {
			return 1
		}
		return 0
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, wire.MaxLine+1)).ReadString('\n')
	if err != nil {
		return answer(probe.NotReady("%s: no probe was asked for", probe.ChildArg))
	}
	fields, err := wire.ParseLine(strings.TrimSuffix(line, "\n"))
	if err != nil {
		return answer(probe.NotReady("%s: %v", probe.ChildArg, err))
	}
	s, err := probe.ParseSpec(fields)
	if err != nil {
		return answer(probe.NotReady("%s: %v", probe.ChildArg, err))
	}
	if s.Kind != probe.KindHTTP && s.Kind != probe.KindHTTPS {
		return answer(probe.NotReady("%s: no %s probes here", probe.ChildArg, s.Kind))
	}
	return answer(p.Try(context.Background(), s))
}
