package netprobe

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"kido/internal/probe"
	"kido/internal/wire"
)

// server answers as its path says, over TLS where it has a certificate.
func server(t *testing.T, cert *tls.Certificate) (url string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirection":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/silent":
			<-r.Context().Done()
		case "/headers":
			w.Header().Set("X", strings.Repeat("y", 1<<17))
		case "/abort":
			panic(http.ErrAbortHandler)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if cert == nil {
		s.Start()
	} else {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s.URL
}

// certificate is for a name and a time, and vouched for by itself.
func certificate(t *testing.T, name string, from, to time.Time) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kido test"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if ip := net.ParseIP(name); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestProber(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:1")
	t.Setenv("HTTPS_PROXY", "http://192.0.2.1:1")
	now := time.Now()
	good, roots := certificate(t, "127.0.0.1", now.Add(-time.Hour), now.Add(time.Hour))
	old, oldRoots := certificate(t, "127.0.0.1", now.Add(-2*time.Hour), now.Add(-time.Hour))
	early, earlyRoots := certificate(t, "127.0.0.1", now.Add(time.Hour), now.Add(2*time.Hour))
	other, otherRoots := certificate(t, "db.example", now.Add(-time.Hour), now.Add(time.Hour))
	secure, plain := server(t, good), server(t, nil)
	closed := httptest.NewServer(nil)
	closed.Close()

	for _, x := range []struct {
		name, url string
		roots     *x509.CertPool
		status    []int
		want      string
	}{
		{"http", plain + "/", nil, nil, ""},
		{"https", secure + "/", roots, nil, ""},
		{"redirection", secure + "/redirection", roots, nil, ""},
		{"busy", secure + "/busy", roots, nil, "HTTP 503 Service Unavailable"},
		{"busy accepted", secure + "/busy", roots, []int{503}, ""},
		{"ok not accepted", plain + "/", nil, []int{204}, "HTTP 200 OK"},
		{"expired", server(t, old), oldRoots, nil, "certificate expired"},
		{"not valid yet", server(t, early), earlyRoots, nil, "certificate is not valid yet"},
		{"another name", server(t, other), otherRoots, nil, "certificate is not for 127.0.0.1"},
		{"unknown authority", secure + "/", nil, nil, "certificate is signed by an unknown authority"},
		{"no TLS", strings.Replace(plain, "http:", "https:", 1), roots, nil, "answered, but not in TLS"},
		{"refused", closed.URL, nil, nil, "connection refused"},
		{"aborted", plain + "/abort", nil, nil, "connection closed without an answer"},
		{"silent", secure + "/silent", roots, nil, "no answer within 1s"},
		{"much header", plain + "/headers", nil, nil, "net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 65536 bytes; aborted"},
		{"a password", "http://u:p@127.0.0.1/", nil, nil, "http: a probe's URL holds no user name or password"},
	} {
		t.Run(x.name, func(t *testing.T) {
			kind, _, _ := strings.Cut(x.url, ":")
			s := probe.Spec{Kind: probe.Kind(kind), Target: x.url, Status: x.status, Timeout: 20 * time.Second}
			if x.name == "silent" {
				s.Timeout = time.Second
			}
			a := Prober{Roots: x.roots}.Try(t.Context(), s)
			if a.Ready != (x.want == "") || a.Word != x.want {
				t.Errorf("got %+v, want %q", a, x.want)
			}
		})
	}
}

func TestOtherKinds(t *testing.T) {
	t.Parallel()
	a := Prober{}.Try(t.Context(), probe.Spec{Kind: probe.KindExec, Argv: []string{"/bin/true"}})
	if !a.Ready {
		t.Errorf("got %+v", a)
	}
}

func TestServeChild(t *testing.T) {
	t.Parallel()
	now := time.Now()
	cert, roots := certificate(t, "127.0.0.1", now.Add(-time.Hour), now.Add(time.Hour))
	url := server(t, cert)
	for question, want := range map[string]string{
		"https " + url + "/\n":         "",
		"https " + url + "/busy\n":     "HTTP 503 Service Unavailable",
		"https " + url + "/":           "probe-child: no probe was asked for",
		"":                             "probe-child: no probe was asked for",
		"tcp 127.0.0.1:22\n":           "probe-child: no tcp probes here",
		"exec /bin/true\n":             "probe-child: no exec probes here",
		"https\n":                      "probe-child: a probe takes a kind and what to ask",
		"a  b\n":                       "probe-child: field 2: \"\" must be quoted",
		strings.Repeat("x", 1<<16):     "probe-child: no probe was asked for",
		"http http://a/ redirect=no\n": "probe-child: http: unknown option redirect=no",
	} {
		var out bytes.Buffer
		if code := (Prober{Roots: roots}).serve(strings.NewReader(question), &out); code != 0 {
			t.Errorf("%.80q: exit status %d", question, code)
		}
		fields, err := wire.ParseLine(strings.TrimSuffix(out.String(), "\n"))
		if err != nil {
			t.Fatalf("%.80q: %q: %v", question, out.String(), err)
		}
		if a, err := probe.ParseAnswer(fields); err != nil || a.Ready != (want == "") || a.Word != want {
			t.Errorf("%.80q: got %+v, %v; want %q", question, a, err, want)
		}
	}
}
