package netprobe

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
)

// postfixMain is for a folder.
const postfixMain = `
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = mail.example
mydestination =
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
maillog_file = /dev/stdout
smtpd_client_event_limit_exceptions =
smtpd_tls_chain_files = %[1]s/good
smtpd_tls_CAfile = %[1]s/ca
smtpd_sasl_type = dovecot
smtpd_sasl_path = %[1]s/plain
smtpd_delay_reject = no
`

// postfixPorts are what Postfix does at a port each.
var postfixPorts = map[string]string{
	"plain":   "",
	"start":   "-o smtpd_tls_security_level=may -o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes",
	"wrapped": "-o smtpd_tls_wrappermode=yes -o smtpd_sasl_auth_enable=yes",
	"expired": "-o smtpd_tls_security_level=may -o smtpd_tls_chain_files=%[1]s/old",
	"broken":  "-o smtpd_tls_security_level=may -o smtpd_tls_chain_files=%[1]s/missing",
	"certs":   "-o smtpd_tls_security_level=encrypt -o smtpd_tls_req_ccert=yes",
	"login":   "-o smtpd_sasl_auth_enable=yes -o smtpd_sasl_path=%[1]s/login",
	"other":   "-o smtpd_sasl_auth_enable=yes -o smtpd_sasl_path=%[1]s/other",
	"reject":  "-o smtpd_client_restrictions=reject",
	"defer":   "-o smtpd_client_restrictions=defer",
	"helo":    "-o smtpd_helo_restrictions=reject",
	"often":   "-o smtpd_client_connection_rate_limit=1",
}

// dovecot is who tells Postfix whether a password is right, as Dovecot does it, but
// scripted: the mechanisms are what it offers.
func dovecot(t *testing.T, path string, mechanisms ...string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	serve := func(c net.Conn) {
		defer c.Close()
		fmt.Fprint(c, "VERSION\t1\t1\n")
		for _, m := range mechanisms {
			fmt.Fprintf(c, "MECH\t%s\tplaintext\n", m)
		}
		fmt.Fprint(c, "SPID\t1\nCUID\t1\nCOOKIE\t0123456789abcdef0123456789abcdef\nDONE\n")
		var said []string
		for in := bufio.NewScanner(c); in.Scan(); {
			f := strings.Split(in.Text(), "\t")
			if len(f) < 3 || f[0] != "AUTH" && f[0] != "CONT" {
				continue
			}
			if f[0] == "AUTH" {
				said = nil
			}
			text, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(f[len(f)-1], "resp="))
			switch {
			case f[0] == "AUTH" && f[2] == "LOGIN":
				fmt.Fprintf(c, "CONT\t%s\t%s\n", f[1], encode([]byte("Username:")))
				continue
			case f[0] == "AUTH":
				said = strings.Split(string(text), "\x00")[1:]
			default:
				said = append(said, string(text))
			}
			switch {
			case len(said) == 1:
				fmt.Fprintf(c, "CONT\t%s\t%s\n", f[1], encode([]byte("Password:")))
			case strings.Join(said, " ") == "kido deep-secret":
				fmt.Fprintf(c, "OK\t%s\tuser=kido\n", f[1])
			default:
				fmt.Fprintf(c, "FAIL\t%s\tuser=%s\n", f[1], said[0])
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
}

// TestSMTP asks a Postfix that has its own folder, of which only master and smtpd are
// at work.
func TestSMTP(t *testing.T) {
	t.Parallel()
	master := needs(t, "postfix", "master", "/usr/lib/postfix/sbin/master")
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("Postfix is started by root only: run this as root")
		}
		t.Skip("SKIPPED: Postfix is started by root only: run this as root")
	}
	as := credentialOf(t, "postfix")
	dir := shortDir(t, as)
	for _, name := range []string{"data", "queue", "queue/pid", "queue/private", "queue/public"} {
		if err := os.Mkdir(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
		own(t, as, dir+"/"+name)
	}
	own(t, &syscall.Credential{}, dir+"/queue")
	own(t, &syscall.Credential{}, dir+"/queue/pid")
	ours := newAuthority(t)
	write(t, nil, dir+"/ca", ours.pem())
	ca := "file:" + dir + "/ca"
	for name, good := range map[string]time.Duration{"good": time.Hour, "old": -time.Hour} {
		cert, key := ours.issue(t, "127.0.0.1", good)
		write(t, nil, dir+"/"+name, append(key, cert...))
	}
	dovecot(t, dir+"/plain", "PLAIN", "LOGIN")
	dovecot(t, dir+"/login", "LOGIN")
	dovecot(t, dir+"/other", "NTLM", "GSSAPI")
	write(t, nil, dir+"/main.cf", fmt.Appendf(nil, postfixMain, dir))
	services := "tlsmgr unix - - n - 1 tlsmgr\nanvil unix - - n - 1 anvil\nrewrite unix - - n - - trivial-rewrite\n" +
		"proxymap unix - - n - - proxymap\npostlog unix-dgram n - n - 1 postlogd\n"
	ports := map[string]string{}
	free := freePorts(t, len(postfixPorts))
	for name, options := range postfixPorts {
		ports[name] = at(free[len(ports)])
		services += fmt.Sprintf("%s inet n - n - - smtpd %s\n", ports[name], strings.ReplaceAll(options, "%[1]s", dir))
	}
	write(t, nil, dir+"/master.cf", []byte(services))

	on := func(port string, options ...string) probe.Spec {
		return with(probe.Spec{Kind: probe.KindSMTP, Target: ports[port], Timeout: 20 * time.Second}, options...)
	}
	says(t, on("plain"), "connection refused")
	p := start(t, nil, dir, nil, master, "-c", dir, "-d")
	until(t, "Postfix answers", func() bool { return !p.alive() || ask(t, on("plain")).Ready })
	until(t, "it has written of a try that was ended well", func() bool { return strings.Contains(p.output(), "ehlo=1 noop=1 quit=1 commands=3") })

	right, wrong := secret(t, "deep-secret"), secret(t, "wr0ng-secret")
	login := []string{"user", "kido", "password", right}
	cert, key := ours.issue(t, "kido", time.Hour)
	for _, x := range []struct {
		name string
		spec probe.Spec
		want string
	}{
		{"plain", on("plain", "tls", "no"), ""},
		{"TLS begun", on("start", "tls", "start", "ca", ca), ""},
		{"TLS begun, login", on("start", append(login, "tls", "start", "ca", ca)...), ""},
		{"TLS begun, wrong password", on("start", "user", "kido", "password", wrong, "tls", "start", "ca", ca), "connected, but: 535 5.7.8 Error: authentication failed:…"},
		{"login without TLS", on("start", login...), "connected, but: it takes no login without TLS: say tls: start"},
		{"TLS begun, unknown authority", on("start", "tls", "start"), "certificate is signed by an unknown authority"},
		{"TLS begun, another name", on("start", "tls", "start", "ca", ca, "name", "mail.example"), "certificate is not for mail.example"},
		{"TLS begun, expired", on("expired", "tls", "start", "ca", ca), "certificate expired"},
		{"TLS without a certificate", on("broken", "tls", "start", "ca", ca), "the server refused TLS: handshake failure"},
		{"TLS is not offered", on("plain", "tls", "start"), "connected, but: it offers no STARTTLS"},
		{"TLS", on("wrapped", "tls", "yes", "ca", ca), ""},
		{"TLS, login", on("wrapped", append(login, "tls", "yes", "ca", ca)...), ""},
		{"client certificate missing", on("certs", "tls", "start", "ca", ca), "connected, but: 421 4.7.1 mail.example Error: No client certificate presented"},
		{"client certificate", on("certs", "tls", "start", "ca", ca, "cert", secret(t, string(cert)), "key", secret(t, string(key))), ""},
		{"TLS at the wrong port", on("plain", "tls", "yes"), "answered, but not in TLS"},
		{"login by LOGIN", on("login", login...), ""},
		{"login by LOGIN, wrong password", on("login", "user", "kido", "password", wrong), "connected, but: 535 5.7.8 Error: authentication failed:…"},
		{"login by something else", on("other", login...), "connected, but: it takes no login by PLAIN or LOGIN, but NTLM, GSSAPI"},
		{"login where there is none", on("plain", login...), "connected, but: it takes no login"},
		{"rejected", on("reject"), "connected, but: 554 5.7.1 <localhost[127.0.0.1]>: Client host rejected: Access denied"},
		{"deferred", on("defer"), "connected, but: 450 4.3.2 <localhost[127.0.0.1]>: Client host rejected: Try again later"},
		{"EHLO rejected", on("helo"), "connected, but: 554 5.7.1 <[127.0.0.1]>: Helo command rejected: Access denied"},
		{"once", on("often"), ""},
		{"too often", on("often"), "connected, but: 421 4.7.0 mail.example Error: too many connections from 127.0.0.1"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if a := says(t, x.spec, x.want); a.Life != "" {
				t.Errorf("a life of %q", a.Life)
			}
		})
	}

	t.Run("stopped", func(t *testing.T) {
		p.signal(syscall.SIGSTOP)
		defer p.signal(syscall.SIGCONT)
		brief := on("plain")
		brief.Timeout = 300 * time.Millisecond
		until(t, "all of it is stopped", func() bool { return !ask(t, brief).Ready })
		for _, s := range []probe.Spec{on("plain"), on("start", "tls", "start"), on("wrapped", "tls", "yes")} {
			s.Timeout = 300 * time.Millisecond
			says(t, s, "connected, but no answer within 300ms")
		}
	})
	p.stop(t, syscall.SIGTERM)
	until(t, "all of it has ended", func() bool { return ask(t, on("plain")).Word == "connection refused" })
}

// TestSMTPScripted is of servers that end in the middle, or say what Postfix does not.
func TestSMTPScripted(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name  string
		lines []string // one before the client says anything, then one for each of its own
		want  string
	}{
		{"closing down", []string{"421 mail.example Service not available, closing transmission channel"}, "connected, but: 421 mail.example Service not available, closing transmission channel"},
		{"several lines", []string{"554-no\r\n554 service here"}, "connected, but: 554 no service here"},
		{"hangs up after its greeting", []string{"220 mail.example"}, "connected, but: it closed the connection in the middle"},
		{"no EHLO, but HELO", []string{"220 mail.example", "502 what?", "250 mail.example", "250 well", "221 bye"}, ""},
		{"ftp", []string{"220 ProFTPD", "500 EHLO not understood", "500 HELO not understood"}, "connected, but: 500 HELO not understood"},
		{"not well", []string{"220 mail.example", "250 mail.example", "451 4.3.0 disk full"}, "connected, but: 451 4.3.0 disk full"},
		{"QUIT is not answered", []string{"220 mail.example", "250 mail.example", "250 well"}, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			address := speaker(t, func(c net.Conn) {
				in := bufio.NewReader(c)
				for i, line := range x.lines {
					if i > 0 {
						if _, err := in.ReadString('\n'); err != nil {
							return
						}
					}
					fmt.Fprintf(c, "%s\r\n", line)
				}
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, in)
			})
			says(t, probe.Spec{Kind: probe.KindSMTP, Target: address, Timeout: 10 * time.Second}, x.want)
		})
	}
}
