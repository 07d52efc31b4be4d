package netprobe

import (
	"cmp"
	"context"
	"errors"

	"github.com/rabbitmq/amqp091-go"

	"kido/internal/probe"
)

// amqp logs in, as guest where no user is given, opens the virtual host and a channel
// there, and asks whether amq.direct is there, which is in every virtual host and for
// which a login needs no rights but to connect.
//
// It is blind: a broker tells no incarnation over AMQP. Nor does it tell of a memory or
// disk alarm those who publish nothing, and a probe publishes nothing.
func (p Prober) amqp(ctx context.Context, s probe.Spec) probe.Answer {
	l := &link{ctx: ctx, spec: s, protocol: "AMQP 0-9-1"}
	defer l.Close()
	if err := l.open(); err != nil {
		return l.why(err)
	}
	login := amqpLogin{link: l, properties: amqp091.Table{"product": "kido", "connection_name": "kido probe"}}
	login.Username, login.Password = "guest", "guest"
	if user := s.Options["user"]; user != "" {
		login.Username, login.Password = user, s.Secret("password")
	}
	c, err := amqp091.Open(l, amqp091.Config{
		SASL:       []amqp091.Authentication{&login},
		Vhost:      cmp.Or(s.Options["vhost"], "/"),
		Locale:     "en_US",
		FrameSize:  maxTalk,
		Properties: login.properties,
	})
	// Its goroutines end by Close only, and Close waits for the server but on a connection
	// that is closed.
	defer func() {
		l.Close()
		_ = c.Close()
	}()
	if err != nil {
		return whyAMQP(l, err)
	}
	channel, err := c.Channel()
	if err != nil {
		return whyAMQP(l, err)
	}
	if err := channel.ExchangeDeclarePassive("amq.direct", amqp091.ExchangeDirect, true, false, false, false, nil); err != nil {
		return whyAMQP(l, err)
	}
	_ = c.Close() // it has answered
	return probe.Answer{Ready: true}
}

// amqpLogin is PLAIN.
type amqpLogin struct {
	amqp091.PlainAuth
	link       *link
	properties amqp091.Table // of this client
}

// Response is asked for once the server has begun. The library has by then entered
// what it can do, but not that it can be told of a failed login: without that a
// server hangs up and does not say why.
func (a *amqpLogin) Response() string {
	a.link.understand()
	if can, ok := a.properties["capabilities"].(amqp091.Table); ok {
		can["authentication_failure_close"] = true
	}
	return a.PlainAuth.Response()
}

// whyAMQP puts an error into words: "530 NOT_ALLOWED - vhost shop not found".
func whyAMQP(l *link, err error) probe.Answer {
	said, ok := errors.AsType[*amqp091.Error](err)
	switch {
	case !ok:
		return l.why(err)
	case said.Server:
		return probe.NotReady("connected, but: %d %s", said.Code, said.Reason)
	case said == amqp091.ErrSASL:
		return probe.NotReady("connected, but: it takes no login by PLAIN")
	case said == amqp091.ErrCredentials && l.hungUp(): // the library's guess
		return probe.NotReady("connected, but: it closed the connection at the login: wrong user or password?")
	case said == amqp091.ErrCredentials, said == amqp091.ErrVhost: // so are these
		return l.why(errors.New("its answer to the login is none"))
	}
	return l.why(errors.New(said.Reason))
}
