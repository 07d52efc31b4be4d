package netprobe

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kido/internal/probe"
)

// web is a server over HTTP and HTTPS that answers as its path says.
type web struct {
	authority     *authority
	ca            string // option
	plain, secure string // URLs
}

func newWeb(t *testing.T) web {
	t.Helper()
	w := web{authority: newAuthority(t)}
	w.ca = "file:" + write(t, nil, filepath.Join(t.TempDir(), "ca"), w.authority.pem())
	w.plain = serveHTTP(t, nil)
	w.secure = serveHTTP(t, w.pair(t, "127.0.0.1", time.Hour))
	return w
}

func (w web) url(scheme, path string) string {
	return map[string]string{"http": w.plain, "https": w.secure}[scheme] + path
}

// spec is a probe with options, names and values by turns.
func (w web) spec(scheme, path string, options ...string) probe.Spec {
	s := probe.Spec{Kind: probe.Kind(scheme), Target: w.url(scheme, path), Options: map[string]string{}, Timeout: 20 * time.Second}
	if scheme == "https" {
		s.Options["ca"] = w.ca
	}
	for i := 0; i < len(options); i += 2 {
		s.Options[options[i]] = options[i+1]
	}
	return s
}

// pair is a certificate of the authority's.
func (w web) pair(t *testing.T, name string, good time.Duration) *tls.Config {
	t.Helper()
	cert, key := w.authority.issue(t, name, good)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// serveHTTP answers as its path says, over TLS where it is given how.
func serveHTTP(t *testing.T, config *tls.Config) (url string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirection":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/slow-down":
			w.Header().Set("X-Started", "16:00")
			w.WriteHeader(http.StatusTooManyRequests)
		case "/silent":
			<-r.Context().Done()
		case "/headers":
			w.Header().Set("X", strings.Repeat("y", 1<<17))
		case "/started":
			w.Header().Set("X-Started", "2026-01-01 10:00")
			w.Header().Add("X-Started", "later")
		case "/json":
			_, _ = io.WriteString(w, `{"app": {"started": 1700000000.50, "id": "a b", "up": true, "list": [1], "none": null}}`)
		case "/long-json":
			_, _ = io.WriteString(w, `{"a": "`+strings.Repeat("x", maxBody)+`"}`)
		case "/late":
			_, _ = io.WriteString(w, strings.Repeat("x", maxBody)+"needle")
		case "/endless":
			for _, err := io.WriteString(w, "x"); err == nil; {
				_, err = w.Write(make([]byte, 1<<16))
			}
		case "/stops":
			_, _ = io.WriteString(w, "begin")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/short":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "begin")
		case "/echo":
			w.Header().Set("X-Started", r.Header.Get("Authorization"))
			fmt.Fprintf(w, "%s|%s|%s|%q|%s|%s", r.Host, r.UserAgent(), r.Header.Get("Authorization"), r.Header["X-A"], r.Header.Get("Accept"), r.Header.Get("Accept-Encoding"))
		case "/secret":
			w.WriteHeader(http.StatusForbidden)
		case "/abort":
			panic(http.ErrAbortHandler)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if config == nil {
		s.Start()
	} else {
		s.TLS = config
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s.URL
}

func TestHTTP(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:1")
	t.Setenv("HTTPS_PROXY", "http://192.0.2.1:1")
	t.Setenv("BEARER", "t0ken")
	t.Setenv("TWO_WORDS", "two words")
	dir := t.TempDir()
	w := newWeb(t)
	own := "file:" + write(t, nil, filepath.Join(dir, "own.pem"), []byte("no certificate"))
	password := "file:" + write(t, nil, filepath.Join(dir, "password"), []byte("pa55word\n"))
	pem, key := w.authority.issue(t, "kido", time.Hour)
	cert := []string{
		"cert", "file:" + write(t, nil, filepath.Join(dir, "cert"), pem),
		"key", "file:" + write(t, nil, filepath.Join(dir, "key"), key),
	}
	vouched := x509.NewCertPool()
	vouched.AddCert(w.authority.cert)
	demanding := w.pair(t, "127.0.0.1", time.Hour)
	demanding.ClientAuth, demanding.ClientCAs = tls.RequireAndVerifyClientCert, vouched
	strict := serveHTTP(t, demanding)
	closed := httptest.NewServer(nil)
	closed.Close()
	silent := speaker(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	garbage := speaker(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 mail ESMTP\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	of := w.pair(t, "127.0.0.1", time.Hour)
	secureGarbage := speaker(t, func(c net.Conn) {
		c = tls.Server(c, of)
		_, _ = io.WriteString(c, "220 mail ESMTP\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	elsewhere := func(url string, s probe.Spec) probe.Spec {
		s.Target = url
		return s
	}

	for _, x := range []struct {
		name string
		spec probe.Spec
		want string // word; "" is ready; with "degraded: " before it, that
		life string
	}{
		{"http", w.spec("http", "/"), "", ""},
		{"https", w.spec("https", "/"), "", ""},
		{"redirection", w.spec("https", "/redirection"), "", ""},
		{"busy", w.spec("https", "/busy"), "HTTP 503 Service Unavailable", ""},
		{"busy accepted", w.spec("https", "/busy", "status", "503"), "", ""},
		{"ok not accepted", w.spec("http", "/", "status", "204", "match", "x"), "HTTP 200 OK", ""},
		{"degraded by status", w.spec("https", "/slow-down", "degraded", "429"), "degraded: HTTP 429 Too Many Requests", ""},
		{"degraded is not enough", w.spec("https", "/slow-down", "degraded", "429", "strict", "yes"), "HTTP 429 Too Many Requests", ""},

		{"certificate of another name", elsewhere(serveHTTP(t, w.pair(t, "db.example", time.Hour)), w.spec("https", "/")), "certificate is not for 127.0.0.1", ""},
		{"certificate of the name that is asked for", elsewhere(serveHTTP(t, w.pair(t, "db.example", time.Hour)), w.spec("https", "/", "name", "db.example")), "", ""},
		{"certificate not of the name that is asked for", w.spec("https", "/", "name", "db.example"), "certificate is not for db.example", ""},
		{"certificate expired", elsewhere(serveHTTP(t, w.pair(t, "127.0.0.1", -time.Hour)), w.spec("https", "/")), "certificate expired", ""},
		{"unknown authority", func() probe.Spec {
			s := w.spec("https", "/")
			s.Options = nil
			return s
		}(), "certificate is signed by an unknown authority", ""},
		{"no authority", w.spec("https", "/", "ca", own), "ca: " + strings.TrimPrefix(own, "file:") + " holds no certificate in PEM", ""},
		{"certificate of ours wanted", elsewhere(strict, w.spec("https", "/")), "the server refused TLS: certificate required, give cert and key", ""},
		{"certificate of ours given", elsewhere(strict, w.spec("https", "/", cert...)), "", ""},
		{"certificate of ours without its key", elsewhere(strict, w.spec("https", "/", "cert", own, "key", cert[3])), "cert and key: failed to find any PEM data in certificate input", ""},
		{"no TLS", elsewhere(strings.Replace(w.plain, "http:", "https:", 1), w.spec("https", "/")), "answered, but not in TLS", ""},
		{"TLS", elsewhere(strings.Replace(w.secure, "https:", "http:", 1)+"/", w.spec("http", "/", "match", "x")), "HTTP 400 Bad Request", ""}, // so Go says to those who forget it
		{"another protocol in place of TLS", elsewhere("https://"+garbage+"/", w.spec("https", "/")), "answered, but not in TLS", ""},

		{"refused", elsewhere(closed.URL, w.spec("http", "/")), "connection refused", ""},
		{"aborted", w.spec("http", "/abort"), "connection closed without an answer", ""},
		{"silent", w.spec("https", "/silent", "slow", "1"), "connected, but no answer within 300ms", ""},
		{"silent before TLS", elsewhere("https://"+silent+"/", w.spec("https", "/")), "connected, but no answer within 300ms", ""},
		{"much header", w.spec("http", "/headers"), "header of the HTTP answer is over 64 KiB", ""},
		{"another protocol", elsewhere("http://"+garbage+"/", w.spec("http", "/")), "answered, but not in HTTP/1", ""},
		{"another protocol over TLS", elsewhere("https://"+secureGarbage+"/", w.spec("https", "/")), "answered, but not in HTTP/1", ""},
		{"no such host", elsewhere("http://no-such-host.invalid/", w.spec("http", "/")), "no such host: no-such-host.invalid", ""},
		{"a password", elsewhere("http://u:p@127.0.0.1/", w.spec("http", "/")), "http: a probe's URL holds no user name or password", ""},

		{"match", w.spec("http", "/json", "match", `"up": +true`), "", ""},
		{"no match", w.spec("http", "/json", "match", "down"), "HTTP 200 OK, but its body does not hold down", ""},
		{"match too far", w.spec("http", "/late", "match", "needle"), "HTTP 200 OK, but its body does not hold needle", ""},
		{"match in an endless body", w.spec("http", "/endless", "match", "^x"), "", ""},
		{"body stops", w.spec("http", "/stops", "match", "begin"), "connected, but no answer within 300ms", ""},
		{"body too short", w.spec("http", "/short", "match", "begin"), "connection closed without an answer", ""},

		{"life of a header", w.spec("https", "/started", "token", "header:x-started"), "", "2026-01-01_10:00"},
		{"life of a header, degraded", w.spec("https", "/slow-down", "token", "header:X-Started", "degraded", "429"), "degraded: HTTP 429 Too Many Requests", "16:00"},
		{"life of no header", w.spec("https", "/", "token", "header:X-Started"), "HTTP 200 OK, but it does not tell its incarnation: no header:X-Started", ""},
		{"life of a number", w.spec("https", "/json", "token", "json:app.started"), "", "1700000000.50"},
		{"life of a text", w.spec("https", "/json", "token", "json:app.id", "match", "started"), "", "a_b"},
		{"life of a truth", w.spec("https", "/json", "token", "json:app.up"), "", "true"},
		{"life of a list", w.spec("https", "/json", "token", "json:app.list"), "HTTP 200 OK, but it does not tell its incarnation: its field app.list is not a text or a number", ""},
		{"life of null", w.spec("https", "/json", "token", "json:app.none"), "HTTP 200 OK, but it does not tell its incarnation: no field app.none in its JSON", ""},
		{"life of no field", w.spec("https", "/json", "token", "json:app.id.x"), "HTTP 200 OK, but it does not tell its incarnation: no field app.id.x in its JSON", ""},
		{"life of no JSON", w.spec("https", "/late", "match", "x", "token", "json:a"), "HTTP 200 OK, but it does not tell its incarnation: its body is over 64 KiB", ""},
		{"life of long JSON", w.spec("https", "/long-json", "token", "json:a"), "HTTP 200 OK, but it does not tell its incarnation: its body is over 64 KiB", ""},
		{"life of an empty body", w.spec("https", "/", "token", "json:a"), "HTTP 200 OK, but it does not tell its incarnation: its body is not JSON", ""},

		{"request", w.spec("http", "/echo", "host", "shop.example", "header.x-a", "b c", "match", `^shop\.example\|kido\|\|\["b c"\]\|\*/\*\|$`), "", ""},
		{"user and password", w.spec("http", "/echo", "user", "kido", "password", password, "match", `\|Basic `+base64.StdEncoding.EncodeToString([]byte("kido:pa55word"))+`\|`), "", ""},
		{"bearer", w.spec("http", "/echo", "bearer", "env:BEARER", "match", `\|Bearer t0ken\|`), "", ""},
		{"bearer of two words", w.spec("http", "/echo", "bearer", "env:TWO_WORDS"), "bearer: what env:TWO_WORDS holds is not one word of ASCII", ""},
		{"bearer not there", w.spec("http", "/echo", "bearer", "env:KIDO_NO_SUCH"), "its bearer: the environment variable KIDO_NO_SUCH is not set", ""},
		{"a secret that is echoed", w.spec("http", "/echo", "bearer", "env:BEARER", "token", "header:X-Started"), "", "Bearer_***"},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := x.spec
			s.Options = maps.Clone(s.Options)
			if strings.HasPrefix(x.want, "connected, but no answer") {
				s.Timeout = 300 * time.Millisecond
			}
			a := ask(t, s)
			word, degraded := strings.CutPrefix(x.want, "degraded: ")
			if a.Ready != (x.want == "" || degraded) || a.Degraded != degraded || a.Word != word || a.Life != x.life {
				t.Errorf("got %+v, want %q, life %q", a, x.want, x.life)
			}
		})
	}
}

// TestGateSaysTheSame: what a gate asks itself it asks and judges as kido does.
func TestGateSaysTheSame(t *testing.T) {
	t.Parallel()
	w := newWeb(t)
	for _, s := range []probe.Spec{
		w.spec("http", "/"),
		w.spec("http", "/busy"),
		w.spec("http", "/abort"),
		w.spec("http", "/headers"),
		w.spec("http", "/started", "token", "header:x-started"),
		w.spec("http", "/", "token", "header:x-started"),
		w.spec("http", "/slow-down", "token", "header:x-started", "degraded", "429"),
		w.spec("http", "/echo", "host", "shop.example", "header.x-a", "b c"),
	} {
		if !s.Local() {
			t.Errorf("%s %v is not a gate's", s.Target, s.Options)
		}
		gate, kido := probe.Local{}.Try(t.Context(), s), Prober{}.Try(t.Context(), s)
		gate.Took, kido.Took = 0, 0
		if gate != kido {
			t.Errorf("%s %v: a gate says %+v, kido %+v", s.Target, s.Options, gate, kido)
		}
	}
}

func TestRefusedAlerts(t *testing.T) {
	t.Parallel()
	s := probe.Spec{Kind: probe.KindTLS, Target: "a:1"}
	for err, want := range map[error]string{
		&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")}:   "the server refused TLS: handshake failure",
		&net.OpError{Op: "remote error", Err: tls.AlertError(45)}:                     "the server refused TLS: expired certificate",
		fmt.Errorf("x: %w", &net.OpError{Op: "read", Err: errors.New("tls: no way")}): "x: read: tls: no way",
	} {
		if a := why(t.Context(), s, err); a.Word != want {
			t.Errorf("%v: %+v, want %s", err, a, want)
		}
	}
}
