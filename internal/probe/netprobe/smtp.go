package netprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"

	"kido/internal/probe"
)

// smtp waits for the greeting, says EHLO, begins TLS and logs in where that is asked for,
// and says NOOP and QUIT: no mail is begun. An MTA tells no incarnation.
//
// It goes by net/smtp, which gets no more features but is kept up with Go itself: that gives
// the server's words as they are, and leaves the deadlines alone.
func (p Prober) smtp(ctx context.Context, s probe.Spec) probe.Answer {
	l := &link{ctx: ctx, spec: s, protocol: "SMTP"}
	defer l.Close()
	if err := l.open(); err != nil {
		return l.why(err)
	}
	if err := converse(l); err != nil {
		return whySMTP(l, err)
	}
	return probe.Answer{Ready: true}
}

func converse(l *link) error {
	host, _, err := net.SplitHostPort(l.spec.Target)
	if err != nil {
		return err
	}
	c, err := smtp.NewClient(l, host)
	if err != nil {
		return err
	}
	l.understand()
	if err := c.Hello(literal(l.LocalAddr())); err != nil {
		return err
	}
	if l.spec.Options["tls"] == "start" {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return errSMTP("it offers no STARTTLS")
		}
		config, err := l.tlsConfig()
		if err != nil {
			return err
		}
		if err := c.StartTLS(config); err != nil {
			return err
		}
	}
	if user := l.spec.Options["user"]; user != "" {
		canTLS, _ := c.Extension("STARTTLS")
		if err := c.Auth(&smtpLogin{user: user, password: l.spec.Secret("password"), canTLS: canTLS}); err != nil {
			return err
		}
	}
	if err := c.Noop(); err != nil {
		return err
	}
	_ = c.Quit() // it has answered
	return nil
}

// literal is how one without a name of its own says EHLO (RFC 5321, 4.1.3).
func literal(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	host, _, _ = strings.Cut(host, "%")
	if strings.Contains(host, ":") {
		host = "IPv6:" + host
	}
	return "[" + host + "]"
}

// errSMTP is what is wrong with what the server said.
type errSMTP string

func (e errSMTP) Error() string { return string(e) }

func whySMTP(l *link, err error) probe.Answer {
	if said, ok := errors.AsType[*textproto.Error](err); ok {
		return probe.NotReady("connected, but: %03d %s", said.Code, said.Msg)
	}
	if wrong, ok := errors.AsType[errSMTP](err); ok {
		return probe.NotReady("connected, but: %v", wrong)
	}
	return l.why(err)
}

// smtpLogin logs in by PLAIN, or by LOGIN where there is no PLAIN. The one of net/smtp
// knows no LOGIN, and takes no TLS but its own for TLS.
type smtpLogin struct {
	user, password string
	canTLS         bool
	asked          int
}

func (a *smtpLogin) Start(server *smtp.ServerInfo) (mechanism string, response []byte, err error) {
	switch {
	case slices.Contains(server.Auth, "PLAIN"):
		return "PLAIN", []byte("\x00" + a.user + "\x00" + a.password), nil
	case slices.Contains(server.Auth, "LOGIN"):
		return "LOGIN", nil, nil
	case len(server.Auth) > 0:
		return "", nil, errSMTP(fmt.Sprintf("it takes no login by PLAIN or LOGIN, but %s", strings.Join(server.Auth, ", ")))
	case a.canTLS:
		return "", nil, errSMTP("it takes no login without TLS: say tls: start")
	}
	return "", nil, errSMTP("it takes no login")
}

func (a *smtpLogin) Next(_ []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	a.asked++ // LOGIN asks for the name, then for the password, in whatever words
	switch a.asked {
	case 1:
		return []byte(a.user), nil
	case 2:
		return []byte(a.password), nil
	}
	return nil, errSMTP("it asks for more than a name and a password")
}
