package netprobe

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"kido/internal/probe"
)

// ldap binds, by name and password where they are given and else as nobody, and asks
// for one entry: base, or the root DSE, which servers show to everybody.
//
// Its life, where token is monitor, is when OpenLDAP's monitor backend says that the server
// was started, to the second. It is asked for only on demand: where it could be read at
// some times and not at others, that would look like restarts.
func (p Prober) ldap(ctx context.Context, s probe.Spec) probe.Answer {
	user, password := s.Options["user"], s.Secret("password")
	l := &link{ctx: ctx, spec: s, protocol: "LDAP"}
	defer l.Close()
	if err := l.open(); err != nil {
		return l.why(err)
	}
	if s.Options["tls"] == "start" {
		if err := startTLS(l); err != nil {
			return whyLDAP(l, err)
		}
		l.understand()
		if err := l.secure(); err != nil {
			return whyConnected(ctx, s, err)
		}
	}
	c := ldap.NewConn(l, s.Options["tls"] != "")
	c.Start()
	defer c.Unbind()
	if user != "" {
		if err := c.Bind(user, password); err != nil {
			return whyLDAP(l, err)
		}
		l.understand()
	}
	base := s.Options["base"]
	found, err := c.Search(ldapSearch(base, ldap.ScopeBaseObject, "1.1")) // 1.1: no attributes
	switch {
	case err != nil:
		return whyLDAP(l, err)
	case len(found.Entries) == 0 && base == "":
		return probe.NotReady("connected, but: it shows no root DSE: give base, an entry that it shows")
	case len(found.Entries) == 0:
		return probe.NotReady("connected, but: it does not show %s", base)
	case !s.TellsLife():
		return probe.Answer{Ready: true}
	}
	l.understand()
	found, err = c.Search(ldapSearch("cn=Time,cn=Monitor", ldap.ScopeSingleLevel, "cn", "monitorTimestamp", "monitoredInfo"))
	if _, said := ldapSaid(err); err != nil && !said {
		return whyLDAP(l, err)
	}
	return lifeOfLDAP(found)
}

// lifeOfLDAP reads the entries below cn=Time,cn=Monitor.
func lifeOfLDAP(found *ldap.SearchResult) probe.Answer {
	life, age := "", time.Duration(0)
	for _, e := range found.Entries {
		switch strings.ToLower(e.GetAttributeValue("cn")) {
		case "start":
			life = e.GetAttributeValue("monitorTimestamp")
		case "uptime":
			up, _ := strconv.ParseUint(e.GetAttributeValue("monitoredInfo"), 10, 32)
			age = time.Duration(up) * time.Second
		}
	}
	if life == "" {
		return probe.NotReady("connected, but: it does not show cn=Start,cn=Time,cn=Monitor, which is to tell its incarnation")
	}
	return probe.Alive(life, age)
}

func ldapSearch(base string, scope int, attributes ...string) *ldap.SearchRequest {
	return ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=*)", attributes, nil)
}

// startTLS asks for TLS in a connection that is there. The library would do it, but tell of
// what is wrong with TLS in a text only.
func startTLS(l *link) error {
	message := ber.NewSequence("LDAPMessage")
	message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, 1, "messageID"))
	request := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationExtendedRequest, nil, "ExtendedRequest")
	request.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, "1.3.6.1.4.1.1466.20037", "StartTLS"))
	message.AppendChild(request)
	if _, err := l.Write(message.Bytes()); err != nil {
		return err
	}
	answer, err := ber.ReadPacket(l) // not a byte more: what follows is TLS
	if err != nil {
		return err
	}
	return ldap.GetLDAPError(answer)
}

// ldapSaid is what the server itself answered with.
func ldapSaid(err error) (e *ldap.Error, ok bool) {
	e, ok = errors.AsType[*ldap.Error](err)
	return e, ok && e.ResultCode < ldap.ErrorNetwork // from there on they are the library's own
}

// whyLDAP puts an error into words: "invalid credentials (49)".
func whyLDAP(l *link, err error) probe.Answer {
	said, ok := ldapSaid(err)
	if !ok {
		return l.why(err)
	}
	word := strings.ToLower(ldap.LDAPResultCodeMap[said.ResultCode])
	if word == "" {
		word = "error"
	}
	word += " (" + strconv.Itoa(int(said.ResultCode)) + ")"
	if text := said.Err.Error(); text != "" {
		word += ": " + text
	}
	return probe.NotReady("connected, but: %s", word)
}
