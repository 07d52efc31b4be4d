package netprobe

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
)

// webServer is nginx or Apache with a folder, and ports for what is asked of it.
type webServer struct {
	dir                                                string
	as                                                 *syscall.Credential
	authority                                          *authority
	plain, secure, expired, otherName, wantsOurs, none int
	ca, password                                       string
	unavailable                                        string   // what it calls 503
	ours                                               []string // options
	*process
}

func newWebServer(t *testing.T) *webServer {
	t.Helper()
	v := &webServer{as: credentialOf(t, "www-data"), authority: newAuthority(t)}
	v.dir = shortDir(t, v.as)
	for _, port := range []*int{&v.plain, &v.secure, &v.expired, &v.otherName, &v.wantsOurs, &v.none} {
		*port = freePort(t)
	}
	v.file(t, "ca.pem", string(v.authority.pem()))
	v.certificate(t, "good", "127.0.0.1", time.Hour)
	v.certificate(t, "expired", "127.0.0.1", -time.Hour)
	v.certificate(t, "other", "db.example", time.Hour)
	v.certificate(t, "ours", "kido", time.Hour)
	v.file(t, "password", "open sesame\n")
	sum := sha1.Sum([]byte("open sesame"))
	v.file(t, "users", "kido:{SHA}"+base64.StdEncoding.EncodeToString(sum[:])+"\n")
	v.file(t, "health", "status: up\n")
	v.ca, v.password = "file:"+v.in("ca.pem"), "file:"+v.in("password")
	v.ours = []string{"cert", "file:" + v.in("ours.pem"), "key", "file:" + v.in("ours.key")}
	return v
}

func (v *webServer) in(name string) string { return filepath.Join(v.dir, name) }

func (v *webServer) file(t *testing.T, name, text string) {
	t.Helper()
	write(t, v.as, v.in(name), []byte(text))
}

func (v *webServer) certificate(t *testing.T, name, whose string, good time.Duration) {
	t.Helper()
	cert, key := v.authority.issue(t, whose, good)
	v.file(t, name+".pem", string(cert))
	v.file(t, name+".key", string(key))
}

// run starts it, and waits until it listens.
func (v *webServer) run(t *testing.T, argv ...string) {
	t.Helper()
	v.process = start(t, v.as, v.dir, nil, argv...)
	until(t, argv[0]+" listens", func() bool {
		c, err := net.DialTimeout("tcp", at(v.plain), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil || !v.alive()
	})
	if !v.alive() {
		t.Fatalf("%s ended: %s", argv[0], v.output())
	}
}

func (v *webServer) spec(kind string, port int, path string, options ...string) probe.Spec {
	s := probe.Spec{Kind: probe.Kind(kind), Options: map[string]string{}, Timeout: 20 * time.Second}
	if s.Target = at(port); kind != "tls" {
		s.Target = kind + "://" + at(port) + path
	}
	if kind != "http" {
		s.Options["ca"] = v.ca
	}
	for i := 0; i < len(options); i += 2 {
		s.Options[options[i]] = options[i+1]
	}
	return s
}

type webRow struct {
	name string
	spec probe.Spec
	want string // word; "" is ready
	life string
}

// rows are what holds of both.
func (v *webServer) rows() []webRow {
	return []webRow{
		{"http", v.spec("http", v.plain, "/health"), "", ""},
		{"body", v.spec("http", v.plain, "/health", "match", "^status: up$|^status: up\n$"), "", ""},
		{"another body", v.spec("https", v.secure, "/health", "match", "status: down"), "HTTP 200 OK, but its body does not hold status: down", ""},
		{"503", v.spec("http", v.plain, "/busy"), "HTTP 503 " + v.unavailable, ""},
		{"503 accepted", v.spec("http", v.plain, "/busy", "status", "503", "match", "503"), "", ""},
		{"not there", v.spec("http", v.plain, "/none", "match", "x"), "HTTP 404 Not Found", ""},
		{"no password", v.spec("http", v.plain, "/private/health", "match", "up"), "HTTP 401 Unauthorized", ""},
		{"password", v.spec("http", v.plain, "/private/health", "match", "up", "user", "kido", "password", v.password), "", ""},
		{"wrong user", v.spec("http", v.plain, "/private/health", "match", "up", "user", "root", "password", v.password), "HTTP 401 Unauthorized", ""},
		{"https", v.spec("https", v.secure, "/health"), "", ""},
		{"life", v.spec("https", v.secure, "/health", "token", "header:X-Started"), "", "10:00"},
		{"expired", v.spec("https", v.expired, "/health"), "certificate expired", ""},
		{"another name", v.spec("https", v.otherName, "/health"), "certificate is not for 127.0.0.1", ""},
		{"another name asked for", v.spec("https", v.otherName, "/health", "name", "db.example", "host", "db.example"), "", ""},
		{"unknown authority", v.spec("https", v.secure, "/health", "ca", "file:"+v.in("other.pem")), "certificate is signed by an unknown authority", ""},
		{"certificate of ours", v.spec("https", v.wantsOurs, "/health", v.ours...), "", ""},
		{"no TLS", v.spec("https", v.plain, "/health"), "answered, but not in TLS", ""},
		{"not running", v.spec("https", v.none, "/health"), "connection refused", ""},
		{"tls", v.spec("tls", v.secure, ""), "", ""},
		{"tls, expired", v.spec("tls", v.expired, ""), "certificate expired", ""},
		{"tls, another name", v.spec("tls", v.otherName, ""), "certificate is not for 127.0.0.1", ""},
		{"tls, expires", v.spec("tls", v.secure, "", "days", "1", "strict", "yes"), "certificate expires in less than a day", ""},
		{"tls, certificate of ours", v.spec("tls", v.wantsOurs, "", v.ours...), "", ""},
		{"tls, no TLS", v.spec("tls", v.plain, ""), "answered, but not in TLS", ""},
	}
}

func (r webRow) try(t *testing.T) {
	t.Run(r.name, func(t *testing.T) {
		if a := ask(t, r.spec); a.Ready != (r.want == "") || a.Word != r.want || a.Life != r.life {
			t.Errorf("got %+v, want %q, life %q", a, r.want, r.life)
		}
	})
}

// hangs: SIGSTOP, and what is ready again after it.
func (v *webServer) hangs(t *testing.T) {
	v.signal(syscall.SIGSTOP)
	for _, s := range []probe.Spec{v.spec("http", v.plain, "/health"), v.spec("https", v.secure, "/health"), v.spec("tls", v.secure, "")} {
		s.Timeout = 300 * time.Millisecond
		webRow{"stopped " + string(s.Kind), s, "connected, but no answer within 300ms", ""}.try(t)
	}
	v.signal(syscall.SIGCONT)
	webRow{"continued", v.spec("https", v.secure, "/health"), "", ""}.try(t)
}

// reloads: none of the tries beside a reload fails, and what it is for comes to be.
func (v *webServer) reloads(t *testing.T, signal syscall.Signal) {
	v.certificate(t, "expired", "127.0.0.1", time.Hour)
	old, other := v.spec("https", v.expired, "/health"), v.spec("http", v.plain, "/health")
	if err := syscall.Kill(v.pid, signal); err != nil {
		t.Fatal(err)
	}
	until(t, "the new certificate is there", func() bool {
		webRow{"meanwhile", other, "", ""}.try(t)
		a := ask(t, old)
		if !a.Ready && a.Word != "certificate expired" {
			t.Errorf("got %+v", a)
		}
		return a.Ready
	})
}

func TestNginx(t *testing.T) {
	t.Parallel()
	program := needs(t, "nginx-light", "nginx")
	v := newWebServer(t)
	v.unavailable = "Service Temporarily Unavailable"
	secure := func(port int, name, more string) string {
		return fmt.Sprintf(`
  server {
    listen 127.0.0.1:%d ssl; root %s; add_header X-Started 10:00; %s
    ssl_certificate %[4]s.pem; ssl_certificate_key %[4]s.key;
  }`, port, v.dir, more, v.in(name))
	}
	v.file(t, "nginx.conf", fmt.Sprintf(`
daemon off; worker_processes 1; pid %[1]s/pid;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3; uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
  server {
    listen 127.0.0.1:%[2]d; root %[1]s;
    location /busy { return 503; }
    location /private/ { alias %[1]s/; auth_basic kido; auth_basic_user_file %[1]s/users; }
  }`, v.dir, v.plain)+
		secure(v.secure, "good", "")+secure(v.expired, "expired", "")+secure(v.otherName, "other", "")+
		secure(v.wantsOurs, "good", "ssl_verify_client on; ssl_client_certificate "+v.in("ca.pem")+";")+"\n}\n")
	v.run(t, program, "-e", "stderr", "-c", v.in("nginx.conf"))
	for _, r := range v.rows() {
		r.try(t)
	}
	for _, r := range []webRow{
		{"no certificate of ours", v.spec("https", v.wantsOurs, "/health"), "HTTP 400 Bad Request (it asked for a certificate: give cert and key)", ""},
		{"tls, no certificate of ours", v.spec("tls", v.wantsOurs, ""), "", ""}, // it minds only when it is asked for a page
		{"TLS", v.spec("http", v.secure, "/health"), "HTTP 400 Bad Request", ""},
	} {
		r.try(t)
	}
	v.hangs(t)
	v.reloads(t, syscall.SIGHUP)
	v.stop(t, syscall.SIGTERM)
	webRow{"ended", v.spec("http", v.plain, "/health"), "connection refused", ""}.try(t)
}

func TestApache(t *testing.T) {
	t.Parallel()
	program := needs(t, "apache2-bin", "apache2")
	v := newWebServer(t)
	v.unavailable = "Service Unavailable"
	t.Cleanup(func() {
		if text, _ := os.ReadFile(v.in("errors")); t.Failed() {
			t.Logf("apache2 wrote:\n%s", text)
		}
	})
	var b strings.Builder
	for _, module := range []string{"mpm_prefork", "authz_core", "authz_user", "authn_core", "authn_file", "auth_basic", "alias", "headers", "ssl", "socache_shmcb"} {
		fmt.Fprintf(&b, "LoadModule %s_module /usr/lib/apache2/modules/mod_%[1]s.so\n", module)
	}
	fmt.Fprintf(&b, `
ServerRoot %[1]s
DefaultRuntimeDir %[1]s
PidFile pid
ErrorLog errors
ServerName 127.0.0.1
StartServers 1
MinSpareServers 1
MaxSpareServers 2
ServerLimit 2
MaxRequestWorkers 2
DocumentRoot %[1]s
SSLSessionCache none
Redirect 503 /busy
Alias /private %[1]s
Header always set X-Started 10:00
<Location /private>
  AuthType Basic
  AuthName kido
  AuthUserFile %[1]s/users
  Require valid-user
</Location>
Listen 127.0.0.1:%[2]d
`, v.dir, v.plain)
	secure := func(port int, name, more string) {
		fmt.Fprintf(&b, `
Listen 127.0.0.1:%d
<VirtualHost 127.0.0.1:%[1]d>
  SSLEngine on
  SSLCertificateFile %s.pem
  SSLCertificateKeyFile %[2]s.key
  %s
</VirtualHost>
`, port, v.in(name), more)
	}
	secure(v.secure, "good", "")
	secure(v.expired, "expired", "")
	secure(v.otherName, "other", "ServerName db.example")
	secure(v.wantsOurs, "good", "SSLVerifyClient require\n  SSLCACertificateFile "+v.in("ca.pem"))
	v.file(t, "apache.conf", b.String())
	v.run(t, program, "-f", v.in("apache.conf"), "-DFOREGROUND")
	for _, r := range v.rows() {
		r.try(t)
	}
	for _, r := range []webRow{
		{"no certificate of ours", v.spec("https", v.wantsOurs, "/health"), "the server refused TLS: certificate required, give cert and key", ""},
		{"tls, no certificate of ours", v.spec("tls", v.wantsOurs, ""), "the server refused TLS: certificate required, give cert and key", ""},
		{"TLS", v.spec("http", v.secure, "/health"), "HTTP 400 Bad Request", ""},
	} {
		r.try(t)
	}
	v.hangs(t)
	v.reloads(t, syscall.SIGUSR1)

	// All its workers wait for the rest of a request: the kernel goes on to take connections.
	var held []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", at(v.plain))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\n")); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	busy := v.spec("https", v.secure, "/health") // at another port: its connections are counted
	busy.Timeout = time.Second
	until(t, "all workers are busy", func() bool { return !ask(t, busy).Ready })
	webRow{"too busy", busy, "connected, but no answer within 1s", ""}.try(t)
	for _, c := range held {
		c.Close()
	}
	webRow{"no longer", v.spec("http", v.plain, "/health"), "", ""}.try(t)
	v.stop(t, syscall.SIGTERM)
	webRow{"ended", v.spec("http", v.plain, "/health"), "connection refused", ""}.try(t)
}
