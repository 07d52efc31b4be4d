package netprobe

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"

	"kido/internal/probe"
)

const (
	maxHeader = 64 << 10 // bytes of an HTTP answer's head that are read
	maxBody   = 64 << 10 // and of its body, where that is asked for
)

// http sends one GET. A redirection is an answer: where it leads is another question.
func (p Prober) http(ctx context.Context, s probe.Spec) probe.Answer {
	req, err := request(ctx, s)
	if err != nil {
		return probe.Untried("%v", err)
	}
	config, err := tlsConfig(s, req.URL.Hostname())
	if err != nil {
		return probe.Untried("%v", err)
	}
	wanted := certificateWanted(config)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var connected atomic.Bool
	dialer := net.Dialer{KeepAlive: -1}
	dial := func(network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			connected.Store(true)
			context.AfterFunc(ctx, func() { c.Close() })
		}
		return c, err
	}
	transport := http.Transport{
		// A transport goes on to connect, for whoever asks next, where its request is over.
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			c, err := dial(network, address)
			return newQuiet(ctx, c), err
		},
		DialTLSContext: func(_ context.Context, network, address string) (net.Conn, error) {
			c, err := dial(network, address)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(c, config)
			return newQuiet(ctx, secure), secure.HandshakeContext(ctx)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	why := func(err error) probe.Answer {
		if connected.Load() {
			return whyHTTP(ctx, s, err)
		}
		return why(ctx, s, err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return why(err)
	}
	defer resp.Body.Close()
	if err := ctx.Err(); err != nil { // our hanging up can be what made it answer
		return why(err)
	}
	if ready, _ := s.Weigh(resp.StatusCode); !ready {
		a := s.Judge(resp.StatusCode, resp.Status, "")
		if resp.StatusCode == http.StatusBadRequest && wanted() && len(config.Certificates) == 0 {
			return probe.NotReady("%s (it asked for a certificate: give cert and key)", a.Word)
		}
		return a
	}
	header, _ := strings.CutPrefix(s.Options["token"], "header:")
	life := resp.Header.Get(header)
	field, tellsJSON := strings.CutPrefix(s.Options["token"], "json:")
	match := s.Options["match"]
	if match == "" && !tellsJSON {
		return s.Judge(resp.StatusCode, resp.Status, life)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case err != nil:
		return why(err)
	case match != "" && !regexp.MustCompile(match).Match(body):
		return probe.NotReady("HTTP %s, but its body does not hold %s", resp.Status, match)
	case tellsJSON:
		if life, err = jsonField(body, field); err != nil {
			return probe.NotReady("HTTP %s, but it does not tell its incarnation: %v", resp.Status, err)
		}
	}
	return s.Judge(resp.StatusCode, resp.Status, life)
}

// quiet is a connection on which nothing is heard before something was said: what a
// server says unasked, as mail servers and MySQL do, a transport takes for the answer to
// nobody, and logs it.
type quiet struct {
	net.Conn
	ctx  context.Context
	said chan struct{}
	once *sync.Once
}

func newQuiet(ctx context.Context, c net.Conn) quiet {
	return quiet{c, ctx, make(chan struct{}), &sync.Once{}}
}

func (q quiet) Read(b []byte) (int, error) {
	select {
	case <-q.said:
		return q.Conn.Read(b)
	case <-q.ctx.Done():
		return 0, q.ctx.Err()
	}
}

func (q quiet) Write(b []byte) (int, error) {
	defer q.once.Do(func() { close(q.said) })
	return q.Conn.Write(b)
}

// whyHTTP is why for an error of package http after a connection was there; its own have
// no types.
func whyHTTP(ctx context.Context, s probe.Spec, err error) probe.Answer {
	text := err.Error()
	switch {
	case ctx.Err() != nil:
	case strings.Contains(text, `malformed HTTP response "\x15\x03`):
		return probe.NotReady("answered in TLS: say https")
	case strings.Contains(text, "malformed HTTP"):
		return probe.NotReady("answered, but not in HTTP/1")
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return probe.NotReady("answered, but not in TLS")
	case strings.Contains(text, "server response headers exceeded"):
		return probe.NotReady("header of the HTTP answer is over %d KiB", maxHeader>>10)
	}
	return whyConnected(ctx, s, err)
}

// request is what an http probe asks.
func request(ctx context.Context, s probe.Spec) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Target, nil)
	if err != nil {
		return nil, err
	}
	if host := s.Options["host"]; host != "" {
		req.Host = host
	}
	req.Header.Set("User-Agent", "kido")
	req.Header.Set("Accept", "*/*")
	for name, value := range s.Options {
		if name, ok := strings.CutPrefix(name, "header."); ok {
			req.Header.Add(name, value)
		}
	}
	if user := s.Options["user"]; user != "" {
		req.SetBasicAuth(user, s.Secret("password"))
	}
	if token := s.Secret("bearer"); token != "" {
		if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("bearer: what %s holds is not one word of ASCII", s.Options["bearer"])
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// jsonField is the text, number or truth value at a path of field names in a JSON object,
// as it is written there.
func jsonField(body []byte, path string) (string, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var at any
	if err := d.Decode(&at); err != nil {
		if len(body) == maxBody {
			return "", fmt.Errorf("its body is over %d KiB", maxBody>>10)
		}
		return "", fmt.Errorf("its body is not JSON")
	}
	for name := range strings.SplitSeq(path, ".") {
		object, ok := at.(map[string]any)
		if !ok {
			return "", fmt.Errorf("no field %s in its JSON", path)
		}
		at = object[name]
	}
	switch at := at.(type) {
	case nil:
		return "", fmt.Errorf("no field %s in its JSON", path)
	case string, json.Number, bool:
		return fmt.Sprint(at), nil
	}
	return "", fmt.Errorf("its field %s is not a text or a number", path)
}
