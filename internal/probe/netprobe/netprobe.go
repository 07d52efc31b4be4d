// Package netprobe makes every kind of probe: those of package probe, and with
// well-kept drivers those that need more than the gate links in. It is for kido
// only, which also lends it to a gate for one try at a time, see [ServeChild].
//
// What package probe promises holds here too: one try, inside its time-out,
// nothing left behind. A driver is one function, see drivers.
package netprobe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kido/internal/probe"
	"kido/internal/wire"
)

// Prober makes every kind of probe from this machine.
type Prober struct {
	alone bool // this process is for one try, and may come to harm by it
}

// drivers are the functions by which kinds are asked, each within ctx, which holds
// the time-out. A Spec that comes here is checked and has its secrets.
var drivers = map[probe.Kind]func(Prober, context.Context, probe.Spec) probe.Answer{
	probe.KindAMQP:     Prober.amqp,
	probe.KindDNS:      Prober.dns,
	probe.KindHTTP:     Prober.http,
	probe.KindHTTPS:    Prober.http,
	probe.KindKafka:    Prober.kafka,
	probe.KindLDAP:     Prober.ldap,
	probe.KindMongoDB:  Prober.mongodb,
	probe.KindMySQL:    Prober.mysql,
	probe.KindOracle:   Prober.oracle,
	probe.KindPostgres: Prober.postgres,
	probe.KindRedis:    Prober.redis,
	probe.KindSMTP:     Prober.smtp,
	probe.KindSystemd:  Prober.systemd,
	probe.KindTLS:      Prober.tls,
}

// Try makes one try of s, within its time-out.
func (p Prober) Try(ctx context.Context, s probe.Spec) probe.Answer {
	return probe.Make(ctx, s, p.once)
}

func (p Prober) once(ctx context.Context, s probe.Spec) (a probe.Answer) {
	// What a server says is for libraries to parse, and some of them are surprised.
	defer func() {
		if bug := recover(); bug != nil {
			a = probe.Untried("the %s driver failed: %v", s.Kind, bug)
		}
	}()
	if driver, ok := drivers[s.Kind]; ok {
		return driver(p, ctx, s)
	}
	if s.Local() {
		return probe.Local{}.Try(ctx, s)
	}
	return probe.Untried("%s probes are not made here", s.Kind) // and not handed to ourselves
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
	if word, ok := alert(err); ok {
		if word == "certificate required" {
			word += ", give cert and key"
		}
		return probe.NotReady("the server refused TLS: %s", word)
	}
	if bad, ok := errors.AsType[errSetup](err); ok {
		return probe.Untried("%v", bad)
	}
	return s.Why(ctx, err)
}

// whyConnected is why for an error after a connection was there.
func whyConnected(ctx context.Context, s probe.Spec, err error) probe.Answer {
	a := why(ctx, s, err)
	if probe.Late(ctx, err) {
		return probe.NotReady("connected, but %s", a.Word)
	}
	return a
}

// ServeChild is the program that a gate runs for a probe that it cannot make
// itself: it reads a [probe.Task], makes that try and writes one line. It returns the
// exit status.
func ServeChild(stdin io.Reader, stdout io.Writer) int {
	// Others run as nobody too, and are not to look for our secrets.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	os.Stdout = nil // some library may print something there
	return Prober{alone: true}.serve(stdin, stdout)
}

func (p Prober) serve(stdin io.Reader, stdout io.Writer) int {
	answer := func(a probe.Answer) int {
		if _, err := fmt.Fprintln(stdout, wire.FormatLine(a.Fields()...)); err != nil {
			return 1
		}
		return 0
	}
	task, err := probe.ReadTask(stdin)
	if err != nil {
		return answer(probe.Untried("%s: %v", probe.ChildArg, err))
	}
	if task.Spec.Local() {
		return answer(probe.Untried("%s: who asks makes %s probes itself", probe.ChildArg, task.Spec.Kind))
	}
	ctx := context.Background()
	if task.Within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, task.Within)
		defer cancel()
	}
	return answer(p.Try(ctx, task.Spec))
}
