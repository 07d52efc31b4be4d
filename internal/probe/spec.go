package probe

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"kido/internal/wire"
)

const (
	defaultTimeout = 3 * time.Second
	maxTimeout     = time.Hour
	maxStatuses    = 64
	maxTarget      = 2 << 10 // bytes

	keyTimeout = "timeout=" // milliseconds
	keyStatus  = "status="  // codes with commas between
)

// Fields writes s as the fields of one line (wire.FormatLine), its only
// spelling:
//
//	tcp 10.0.0.1:1521 timeout=3000
//	https https://10.0.0.1/health status=200,204
//	exec timeout=500 /usr/bin/pg_isready -q
//
// The time-out is in milliseconds. The options of exec come first, since
// behind the program everything is its own.
func (s Spec) Fields() []string {
	var options []string
	if len(s.Status) > 0 {
		codes := make([]string, len(s.Status))
		for i, c := range s.Status {
			codes[i] = strconv.Itoa(c)
		}
		options = append(options, keyStatus+strings.Join(codes, ","))
	}
	if ms := s.Timeout.Milliseconds(); ms > 0 {
		options = append(options, keyTimeout+strconv.FormatInt(ms, 10))
	}
	if s.Kind == KindExec {
		return slices.Concat([]string{string(s.Kind)}, options, s.Argv)
	}
	return slices.Concat([]string{string(s.Kind), s.Target}, options)
}

// ParseSpec is the inverse of [Spec.Fields], and checks what it read: a Spec
// that it returns can be tried.
func ParseSpec(fields []string) (Spec, error) {
	if len(fields) < 2 {
		return Spec{}, errors.New("a probe takes a kind and what to ask")
	}
	s := Spec{Kind: Kind(fields[0])}
	rest := fields[1:]
	switch s.Kind {
	case KindTCP, KindHTTP, KindHTTPS:
		s.Target, rest = rest[0], rest[1:]
	case KindExec:
	default:
		return Spec{}, fmt.Errorf("%s is no kind of probe: tcp, http, https or exec", wire.Quote(fields[0]))
	}
	for len(rest) > 0 {
		if codes, ok := strings.CutPrefix(rest[0], keyStatus); ok {
			for code := range strings.SplitSeq(codes, ",") {
				n, err := strconv.Atoi(code)
				if err != nil {
					return Spec{}, fmt.Errorf("%s: %s is not a status code", keyStatus, wire.Quote(code))
				}
				s.Status = append(s.Status, n)
			}
		} else if ms, ok := strings.CutPrefix(rest[0], keyTimeout); ok {
			n, err := strconv.ParseUint(ms, 10, 32)
			if err != nil {
				return Spec{}, fmt.Errorf("%s: %s is not a number of milliseconds", keyTimeout, wire.Quote(ms))
			}
			s.Timeout = time.Duration(n) * time.Millisecond
		} else {
			break
		}
		rest = rest[1:]
	}
	if s.Kind == KindExec {
		s.Argv, rest = slices.Clone(rest), nil
	}
	if len(rest) > 0 {
		return Spec{}, fmt.Errorf("%s: unknown option %s", s.Kind, wire.Quote(rest[0]))
	}
	if err := s.check(); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", s.Kind, err)
	}
	if !slices.Equal(s.Fields(), fields) {
		return Spec{}, fmt.Errorf("%s is not how this probe is spelled: %s", wire.FormatLine(fields...), wire.FormatLine(s.Fields()...))
	}
	return s, nil
}

func (s Spec) check() error {
	if s.Timeout < 0 || s.Timeout > maxTimeout {
		return fmt.Errorf("time-out %v: at most %v", s.Timeout, maxTimeout)
	}
	if len(s.Target) > maxTarget {
		return fmt.Errorf("target of %d bytes, at most %d are taken", len(s.Target), maxTarget)
	}
	switch s.Kind {
	case KindTCP:
		if len(s.Status) > 0 {
			return errors.New("a tcp answer has no status")
		}
		return checkAddress(s.Target)
	case KindHTTP, KindHTTPS:
		if len(s.Status) > maxStatuses {
			return fmt.Errorf("%d status codes, at most %d are taken", len(s.Status), maxStatuses)
		}
		for _, c := range s.Status {
			if c < 200 || c > 599 {
				return fmt.Errorf("status %d: a code is 200 to 599", c)
			}
		}
		_, err := s.url()
		return err
	case KindExec:
		if len(s.Status) > 0 {
			return errors.New("exit status 0 is ready, and no other")
		}
		if len(s.Argv) == 0 {
			return errors.New("no program is given")
		}
		if !path.IsAbs(s.Argv[0]) {
			return fmt.Errorf("%s is not an absolute path", wire.Quote(s.Argv[0]))
		}
		for _, arg := range s.Argv {
			if strings.ContainsRune(arg, 0) {
				return errors.New("an argument holds no zero byte")
			}
		}
		return nil
	}
	return errors.New("no such kind of probe")
}

// url is the target of an HTTP probe.
func (s Spec) url() (*url.URL, error) {
	if !isGraphic(s.Target) { // it goes into a request line as it is
		return nil, fmt.Errorf("%s: spaces and letters beyond ASCII are written as %%XX in a URL", wire.Quote(s.Target))
	}
	u, err := url.Parse(s.Target)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s is not a URL", wire.Quote(s.Target))
	case u.Scheme != string(s.Kind) || u.Opaque != "":
		return nil, fmt.Errorf("%s does not begin with %s://", wire.Quote(s.Target), s.Kind)
	case u.User != nil:
		return nil, errors.New("a probe's URL holds no user name or password")
	case u.Fragment != "":
		return nil, fmt.Errorf("%s: the part behind # never reaches a server", wire.Quote(s.Target))
	}
	return u, checkAddress(address(u))
}

// address is where the server of u listens.
func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" {
		return fmt.Errorf("%s is not ADDRESS:PORT", wire.Quote(a))
	}
	if !isGraphic(host) {
		return fmt.Errorf("%s is not an address or a name", wire.Quote(host))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %s is not 1 to 65535", wire.Quote(port))
	}
	return nil
}

// isGraphic reports whether all of s is visible ASCII.
func isGraphic(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func (s Spec) timeout() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return defaultTimeout
}

// Accepts reports whether an HTTP status code is ready.
func (s Spec) Accepts(code int) bool {
	if len(s.Status) == 0 {
		return code >= 200 && code < 400
	}
	return slices.Contains(s.Status, code)
}

const (
	answerReady    = "ready"
	answerNotReady = "not-ready"
)

// Fields writes a as the fields of one line, its only spelling; the time that
// it took in whole microseconds.
func (a Answer) Fields() []string {
	verdict := answerNotReady
	if a.Ready {
		verdict = answerReady
	}
	f := []string{verdict, strconv.FormatInt(max(0, a.Took.Microseconds()), 10)}
	if a.Word != "" {
		f = append(f, a.Word)
	}
	return f
}

// ParseAnswer is the inverse of [Answer.Fields]. The fields may come from
// anyone.
func ParseAnswer(fields []string) (Answer, error) {
	if len(fields) < 2 || len(fields) > 3 || fields[0] != answerReady && fields[0] != answerNotReady {
		return Answer{}, errors.New("not a probe's answer")
	}
	µs, err := strconv.ParseUint(fields[1], 10, 42)
	if err != nil {
		return Answer{}, errors.New("a probe's answer takes a number of microseconds")
	}
	a := Answer{Ready: fields[0] == answerReady, Took: time.Duration(µs) * time.Microsecond}
	if len(fields) == 3 {
		a.Word = fields[2]
	}
	if a.Word != Printable(a.Word) || !slices.Equal(a.Fields(), fields) {
		return Answer{}, errors.New("a probe's answer is not in its one spelling")
	}
	return a, nil
}
