package netprobe

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"kido/internal/probe"
)

// slapdConfig is for a folder, and for a port where nothing listens.
const slapdConfig = `
include /etc/ldap/schema/core.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload back_ldap
pidfile %[1]s/pid
TLSCACertificateFile %[1]s/ca
TLSCertificateFile %[1]s/cert
TLSCertificateKeyFile %[1]s/key

database mdb
suffix dc=kido
directory %[1]s/data
access to dn.base="cn=blurred,dc=kido" by * search
access to dn.base="cn=hidden,dc=kido" by * none
access to attrs=userPassword by * auth
access to * by * read

database mdb
suffix dc=known
directory %[1]s/known
require authc

database mdb
suffix dc=safe
directory %[1]s/safe
security tls=128

database mdb
suffix dc=shut
directory %[1]s/shut
restrict search

database ldap
suffix dc=far
uri ldap://127.0.0.1:%[2]d

database monitor
access to dn.subtree="cn=Monitor" by dn.exact="cn=monitor,dc=kido" read by * none
`

const slapdEntries = `
dn: dc=kido
objectClass: dcObject
objectClass: organization
dc: kido
o: kido

dn: cn=kido,dc=kido
objectClass: person
cn: kido
sn: kido
userPassword: deep-secret

dn: cn=monitor,dc=kido
objectClass: person
cn: monitor
sn: monitor
userPassword: deep-secret

dn: cn=hidden,dc=kido
objectClass: person
cn: hidden
sn: hidden

dn: cn=blurred,dc=kido
objectClass: person
cn: blurred
sn: blurred
`

func TestLDAP(t *testing.T) {
	t.Parallel()
	slapd, slapadd := needs(t, "slapd", "slapd"), needs(t, "slapd", "slapadd")
	dir, free := shortDir(t, nil), freePorts(t, 3)
	port, tlsPort := free[0], free[1]
	for _, name := range []string{"data", "known", "safe", "shut"} {
		if err := os.Mkdir(dir+"/"+name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ours := newAuthority(t)
	write(t, nil, dir+"/ca", ours.pem())
	serve := func(name string, good time.Duration) {
		cert, key := ours.issue(t, name, good)
		write(t, nil, dir+"/cert", cert)
		write(t, nil, dir+"/key", key)
	}
	serve("127.0.0.1", time.Hour)
	conf := write(t, nil, dir+"/slapd.conf", fmt.Appendf(nil, slapdConfig, dir, free[2]))
	command(t, nil, dir, nil, slapadd, "-f", conf, "-b", "dc=kido", "-l", write(t, nil, dir+"/ldif", []byte(slapdEntries)))

	s := probe.Spec{Kind: probe.KindLDAP, Target: at(port), Timeout: 20 * time.Second}
	secure := with(s, "tls", "yes", "ca", "file:"+dir+"/ca")
	secure.Target = at(tlsPort)
	up := func(options ...string) *process {
		argv := []string{slapd, "-d", "0", "-f", conf, "-h", "ldap://" + s.Target + " ldaps://" + secure.Target}
		p := start(t, nil, dir, nil, append(argv, options...)...)
		until(t, "slapd answers", func() bool { return !p.alive() || ask(t, s).Ready })
		return p
	}
	says(t, s, "connection refused")
	p := up()
	right, wrong := secret(t, "deep-secret"), secret(t, "wr0ng-secret")
	login := with(s, "user", "cn=kido,dc=kido", "password", right)
	monitor := with(s, "user", "cn=monitor,dc=kido", "password", right, "token", "monitor")
	for _, x := range []struct {
		name string
		spec probe.Spec
		want string
	}{
		{"root DSE", s, ""},
		{"base", with(s, "base", "dc=kido"), ""},
		{"login", login, ""},
		{"login and base", with(login, "base", "cn=kido,dc=kido"), ""},
		{"wrong password", with(login, "password", wrong), "connected, but: invalid credentials (49)"},
		{"no such user", with(login, "user", "cn=nobody,dc=kido"), "connected, but: invalid credentials (49)"},
		{"not a name", with(login, "user", "kido"), "connected, but: invalid dn syntax (34): invalid DN"},
		{"user without password", with(s, "user", "cn=kido,dc=kido"), "ldap: password is missing: nobody is let in by a name alone"},
		{"no such entry", with(s, "base", "cn=nobody,dc=kido"), "connected, but: no such object (32)"},
		{"no such tree", with(s, "base", "dc=other"), "connected, but: no such object (32)"},
		{"hidden entry", with(s, "base", "cn=hidden,dc=kido"), "connected, but: no such object (32)"},
		{"entry that is not shown", with(s, "base", "cn=blurred,dc=kido"), "connected, but: it does not show cn=blurred,dc=kido"},
		{"login wanted", with(s, "base", "dc=known"), "connected, but: unwilling to perform (53): authentication required"},
		{"TLS wanted", with(s, "base", "dc=safe"), "connected, but: confidentiality required (13): TLS confidentiality required"},
		{"no searches", with(s, "base", "dc=shut"), "connected, but: unwilling to perform (53): operation restricted"},
		{"behind it nobody", with(s, "base", "dc=far"), "connected, but: unavailable (52)…"},
		{"TLS", secure, ""},
		{"TLS begun", with(s, "tls", "start", "ca", "file:"+dir+"/ca"), ""},
		{"TLS begun, login", with(login, "tls", "start", "ca", "file:"+dir+"/ca"), ""},
		{"TLS begun, unknown authority", with(s, "tls", "start"), "certificate is signed by an unknown authority"},
		{"TLS begun, another name", with(s, "tls", "start", "ca", "file:"+dir+"/ca", "name", "ldap.example"), "certificate is not for ldap.example"},
		{"TLS begun twice", with(secure, "tls", "start"), "connection closed without an answer"},
		{"TLS at the wrong port", with(s, "tls", "yes"), "connection closed without an answer"},
		{"monitor hidden", with(login, "token", "monitor"), "connected, but: it does not show cn=Start,cn=Time,cn=Monitor, which is to tell its incarnation"},
		{"monitor", monitor, ""},
	} {
		t.Run(x.name, func(t *testing.T) { says(t, x.spec, x.want) })
	}
	if a := ask(t, login); a.Life != "" {
		t.Errorf("a life that nobody asked for: %q", a.Life)
	}

	t.Run("stopped", func(t *testing.T) {
		p.signal(syscall.SIGSTOP)
		defer p.signal(syscall.SIGCONT)
		brief := s
		brief.Timeout = 300 * time.Millisecond
		until(t, "all of it is stopped", func() bool { return !ask(t, brief).Ready })
		for _, x := range []probe.Spec{s, login, secure, with(s, "tls", "start")} {
			x.Timeout = 300 * time.Millisecond
			says(t, x, "connected, but no answer within 300ms")
		}
	})
	t.Run("life", func(t *testing.T) {
		first := sameLife(t, monitor)
		until(t, "its second is over", func() bool { return says(t, monitor, "").Age >= 2*time.Second })
		if again := ask(t, monitor); again.Life != first {
			t.Errorf("%q became %q", first, again.Life)
		}
		p.stop(t, syscall.SIGTERM)
		serve("127.0.0.1", -time.Hour)
		up()
		if second := sameLife(t, monitor); second == first {
			t.Errorf("the same life %q after a restart", first)
		}
		says(t, secure, "certificate expired")
		says(t, with(s, "tls", "start", "ca", "file:"+dir+"/ca"), "certificate expired")
	})
}

// TestLDAPScripted is of codes that no small server comes to, from a server that is
// scripted: it answers any request with its own message's number.
func TestLDAPScripted(t *testing.T) {
	t.Parallel()
	answer := func(tag ber.Tag, id any, code int64, text string) []byte {
		m := ber.NewSequence("")
		m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
		r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
		r.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
		r.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "", ""))
		r.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, text, ""))
		m.AppendChild(r)
		return m.Bytes()
	}
	for _, x := range []struct {
		name  string
		tls   string
		serve func(c net.Conn, id any)
		want  string
	}{
		{"busy", "no", func(c net.Conn, id any) { _, _ = c.Write(answer(ldap.ApplicationSearchResultDone, id, 51, "")) }, "connected, but: busy (51)"},
		{"unavailable", "no", func(c net.Conn, id any) {
			_, _ = c.Write(answer(ldap.ApplicationSearchResultDone, id, 52, "shutting down"))
		}, "connected, but: unavailable (52): shutting down"},
		{"time limit", "no", func(c net.Conn, id any) { _, _ = c.Write(answer(ldap.ApplicationSearchResultDone, id, 3, "")) }, "connected, but: time limit exceeded (3)"},
		{"unknown code", "no", func(c net.Conn, id any) { _, _ = c.Write(answer(ldap.ApplicationSearchResultDone, id, 199, "")) }, "connected, but: error (199)"},
		{"no TLS", "start", func(c net.Conn, id any) {
			_, _ = c.Write(answer(ldap.ApplicationExtendedResponse, id, 2, "unsupported extended operation"))
		}, "connected, but: protocol error (2): unsupported extended operation"},
		{"TLS, but garbage", "start", func(c net.Conn, id any) {
			_, _ = c.Write(answer(ldap.ApplicationExtendedResponse, id, 0, ""))
			_, _ = io.WriteString(c, "garbage, more of it than a record's head")
		}, "answered, but not in TLS"},
		{"TLS, but hangs up", "start", func(c net.Conn, id any) {
			_, _ = c.Write(answer(ldap.ApplicationExtendedResponse, id, 0, ""))
			_ = c.(*net.TCPConn).CloseWrite()
		}, "connection closed without an answer"},
		{"another's answer", "no", func(c net.Conn, _ any) { _, _ = c.Write(answer(ldap.ApplicationSearchResultDone, int64(77), 0, "")) }, "answered, but not in LDAP"},
		{"no entry", "no", func(c net.Conn, id any) { _, _ = c.Write(answer(ldap.ApplicationSearchResultDone, id, 0, "")) }, "connected, but: it shows no root DSE: give base, an entry that it shows"},
		{"entries without end", "no", func(c net.Conn, id any) {
			m := ber.NewSequence("")
			m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
			r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
			r.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "dc=a", ""))
			r.AppendChild(ber.NewSequence(""))
			m.AppendChild(r)
			for {
				if _, err := c.Write(m.Bytes()); err != nil {
					return
				}
			}
		}, "answered, but not in LDAP: it sent more than 1 MiB"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			address := speaker(t, func(c net.Conn) {
				request, err := ber.ReadPacket(c)
				if err != nil || len(request.Children) == 0 {
					return
				}
				x.serve(c, request.Children[0].Value)
				_, _ = io.Copy(io.Discard, c)
			})
			timeout := 10 * time.Second
			if x.name == "another's answer" { // for which it waits on
				timeout = 300 * time.Millisecond
			}
			says(t, probe.Spec{Kind: probe.KindLDAP, Target: address, Timeout: timeout, Options: map[string]string{"tls": x.tls}}, x.want)
		})
	}
}
