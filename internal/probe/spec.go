package probe

import (
	"errors"
	"fmt"
	"maps"
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
	maxTarget      = 2 << 10 // bytes, of the values of options too
	maxOptions     = 32
	maxParts       = 16 // of a combination, those of its own combinations included
	maxDepth       = 4  // of combinations in one another

	keyTimeout = "timeout" // milliseconds
)

// Fields writes s as the fields of one line (wire.FormatLine), its only
// spelling: kind, target, then the options sorted by name.
//
//	tcp 10.0.0.1:1521 timeout=3000
//	https https://10.0.0.1/health status=200,204
//	exec timeout=500 /usr/bin/pg_isready -q
//	any 2 3 tcp 10.0.0.1:80 timeout=500 2 tcp 10.0.0.1:81
//
// The time-out is in milliseconds. The options of exec come before the program,
// since behind it everything is its own. A combination says how many parts it has,
// and before each how many fields that is.
func (s Spec) Fields() []string {
	f := []string{string(s.Kind)}
	form := sorts()[s.Kind].Form
	if form != FormArgv && form != FormParts {
		f = append(f, s.Target)
	}
	options := map[string]string{}
	maps.Copy(options, s.Options)
	if ms := s.Timeout.Milliseconds(); ms > 0 {
		options[keyTimeout] = strconv.FormatInt(ms, 10)
	}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		f = append(f, name+"="+options[name])
	}
	if form == FormParts {
		f = append(f, strconv.Itoa(len(s.Of)))
		for _, part := range s.Of {
			fields := part.Fields()
			f = append(append(f, strconv.Itoa(len(fields))), fields...)
		}
	}
	return append(f, s.Argv...)
}

// ParseSpec is the inverse of [Spec.Fields], and checks what it read: a Spec
// that it returns can be tried.
func ParseSpec(fields []string) (Spec, error) {
	s, err := parseSpec(fields, maxDepth)
	if err != nil {
		return Spec{}, err
	}
	if err := s.Check(); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", s.Kind, err)
	}
	if !slices.Equal(s.Fields(), fields) {
		return Spec{}, fmt.Errorf("%s is not how this probe is spelled: %s", wire.FormatLine(fields...), wire.FormatLine(s.Fields()...))
	}
	return s, nil
}

func parseSpec(fields []string, depth int) (Spec, error) {
	if len(fields) < 2 {
		return Spec{}, errors.New("a probe takes a kind and what to ask")
	}
	s := Spec{Kind: Kind(fields[0])}
	rest := fields[1:]
	sort, ok := sorts()[s.Kind]
	if !ok {
		return Spec{}, fmt.Errorf("%s is no kind of probe", wire.Quote(fields[0]))
	}
	if sort.Form != FormArgv && sort.Form != FormParts {
		s.Target, rest = rest[0], rest[1:]
	}
	for ; len(rest) > 0 && !path.IsAbs(rest[0]); rest = rest[1:] {
		name, value, ok := strings.Cut(rest[0], "=")
		if !ok {
			break
		}
		if name == keyTimeout {
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return Spec{}, fmt.Errorf("timeout: %s is not a number of milliseconds", wire.Quote(value))
			}
			s.Timeout = time.Duration(n) * time.Millisecond
			continue
		}
		if s.Options == nil {
			s.Options = map[string]string{}
		}
		s.Options[name] = value
	}
	switch {
	case sort.Form == FormArgv:
		s.Argv, rest = slices.Clone(rest), nil
	case sort.Form == FormParts && depth == 0:
		return Spec{}, fmt.Errorf("%s: combinations go %d deep at most", s.Kind, maxDepth)
	case sort.Form == FormParts:
		var err error
		if s.Of, rest, err = parseParts(rest, depth-1); err != nil {
			return Spec{}, fmt.Errorf("%s: %w", s.Kind, err)
		}
	}
	if len(rest) > 0 {
		return Spec{}, fmt.Errorf("%s: unknown option %s", s.Kind, wire.Quote(rest[0]))
	}
	return s, nil
}

func parseParts(fields []string, depth int) (parts []Spec, rest []string, err error) {
	count := func(most int) (int, bool) {
		if len(fields) == 0 {
			return 0, false
		}
		n, err := strconv.ParseUint(fields[0], 10, 16)
		fields = fields[1:]
		return int(n), err == nil && int(n) <= most
	}
	n, ok := count(maxParts)
	if !ok {
		return nil, nil, fmt.Errorf("how many probes it is of is missing, or over %d", maxParts)
	}
	for range n {
		size, ok := count(len(fields))
		if !ok || size > len(fields) {
			return nil, nil, errors.New("a part is shorter than it says")
		}
		part, err := parseSpec(fields[:size], depth)
		if err != nil {
			return nil, nil, err
		}
		parts, fields = append(parts, part), fields[size:]
	}
	return parts, fields, nil
}

// Check fails where s cannot be tried.
func (s Spec) Check() error { return s.check(true, maxDepth) }

// CheckAbout is Check for a probe whose target has no host yet.
func (s Spec) CheckAbout() error { return s.check(false, maxDepth) }

func (s Spec) check(whole bool, depth int) error {
	sort, ok := sorts()[s.Kind]
	switch {
	case !ok:
		return errors.New("no such kind of probe")
	case s.Timeout < 0 || s.Timeout > maxTimeout:
		return fmt.Errorf("time-out %v: at most %v", s.Timeout, maxTimeout)
	case s.Timeout%time.Millisecond != 0:
		return fmt.Errorf("time-out %v: whole milliseconds are taken", s.Timeout)
	case len(s.Target) > maxTarget:
		return fmt.Errorf("target of %d bytes, at most %d are taken", len(s.Target), maxTarget)
	case sort.Form != FormArgv && len(s.Argv) > 0,
		sort.Form != FormParts && len(s.Of) > 0,
		(sort.Form == FormArgv || sort.Form == FormParts) && s.Target != "":
		return errors.New("it is given what another kind takes")
	case len(s.Options) > maxOptions:
		return fmt.Errorf("%d options, at most %d are taken", len(s.Options), maxOptions)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Options)) {
		o, ok := sort.Option(name)
		if !ok {
			return fmt.Errorf("unknown option %s", wire.Quote(name))
		}
		if n := len(s.Options[name]); n > maxTarget {
			return fmt.Errorf("%s of %d bytes, at most %d are taken", name, n, maxTarget)
		}
		if err := o.Check(s.Options[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, header, ok := strings.Cut(name, "."); ok {
			if err := checkHeaderName(header); err != nil {
				return err
			}
		}
	}
	if err := s.checkTogether(); err != nil {
		return err
	}
	switch sort.Form {
	case FormAddress:
		if !whole {
			return nil
		}
		return checkAddress(s.Target)
	case FormURL:
		if !whole {
			return nil
		}
		_, err := s.URL()
		return err
	case FormPath:
		return checkAbsolute(s.Target)
	case FormLog:
		if s.Target == logJournal {
			return nil
		}
		return checkAbsolute(s.Target)
	case FormName, FormUnit:
		if checkName(s.Target) != nil || strings.Contains(s.Target, "/") {
			return fmt.Errorf("%s is not a name", wire.Quote(s.Target))
		}
		if sort.Form == FormUnit && !strings.Contains(s.Target, ".") {
			return fmt.Errorf("%s says not what kind of unit it is: %[1]s.service?", wire.Quote(s.Target))
		}
		return nil
	case FormArgv:
		return checkArgv(s.Argv)
	case FormParts:
		return s.checkParts(whole, depth)
	}
	return nil
}

// logJournal is the target of a log probe of the journal.
const logJournal = "journal"

// Journal reports whether a log probe reads the journal, and no file.
func (s Spec) Journal() bool { return s.Kind == KindLog && s.Target == logJournal }

// ErrNoPassword is the error of a probe that is to log in where nobody can without a
// password, and is not told where it is.
var ErrNoPassword = errors.New("password is missing: nobody is let in by a name alone")

// neverByName are the kinds whose logins have a password, always. The others' servers
// may be told to know somebody by his address or his certificate.
var neverByName = []Kind{KindOracle, KindMongoDB, KindAMQP, KindKafka, KindLDAP, KindSMTP}

// checkTogether holds the rules that concern more than one option.
func (s Spec) checkTogether() error {
	has := func(name string) bool { _, ok := s.Options[name]; return ok }
	switch {
	case has("password") && !has("user") && s.Kind != KindRedis:
		return errors.New("password: whose? user is missing")
	case has("sasl") && !has("user"):
		return errors.New("sasl is how a user logs in: user is missing")
	case has("key") != has("cert"):
		return errors.New("cert and key belong together")
	case has("bearer") && has("user"):
		return errors.New("bearer and user: one of them")
	case s.Kind == KindLog && !has("match"):
		return errors.New("match is missing: the line that means ready")
	case s.Kind == KindLog && !s.Journal() && !has("begins"):
		return errors.New("begins is missing: the line with which an incarnation begins, for a file may hold older ones")
	case s.Journal() && has("begins"):
		return errors.New("begins: the journal knows itself what belongs to an incarnation")
	case s.Kind == KindOracle && has("service") == has("sid"):
		return errors.New("service or sid, one of them, names the instance")
	case s.Kind == KindPostgres && !has("user"), s.Kind == KindMySQL && !has("user"), s.Kind == KindOracle && !has("user"):
		return errors.New("user is missing: without a login it cannot be told whether it answers")
	case has("user") && !has("password") && slices.Contains(neverByName, s.Kind):
		return ErrNoPassword
	}
	if s.Options["tls"] == "no" || s.Options["tls"] == "" && s.Kind != KindHTTPS && s.Kind != KindTLS {
		for _, name := range slices.Sorted(maps.Keys(forTLS)) {
			if has(name) {
				return fmt.Errorf("%s is for TLS: say tls as well", name)
			}
		}
	}
	return nil
}

func (s Spec) checkParts(whole bool, depth int) error {
	switch n := len(s.Of); {
	case depth == 0:
		return fmt.Errorf("combinations go %d deep at most", maxDepth)
	case s.Kind == KindNot && n != 1:
		return errors.New("it is of one probe")
	case n == 0:
		return errors.New("it is of no probe")
	}
	if n := s.size(); n > maxParts { // all of them are made at once
		return fmt.Errorf("it is of %d probes, at most %d are taken", n, maxParts)
	}
	for _, part := range s.Of {
		if err := part.check(whole, depth-1); err != nil {
			return fmt.Errorf("%s: %w", part.Kind, err)
		}
	}
	return nil
}

// size is of how many probes s is.
func (s Spec) size() int {
	if len(s.Of) == 0 {
		return 1
	}
	n := 0
	for _, part := range s.Of {
		n += part.size()
	}
	return n
}

// Uses reports whether s is a probe of a kind, or has one among its parts.
func (s Spec) Uses(k Kind) bool {
	return s.Kind == k || slices.ContainsFunc(s.Of, func(part Spec) bool { return part.Uses(k) })
}

func checkArgv(argv []string) error {
	if len(argv) == 0 {
		return errors.New("no program is given")
	}
	if !path.IsAbs(argv[0]) {
		return fmt.Errorf("%s is not an absolute path", wire.Quote(argv[0]))
	}
	for _, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return errors.New("an argument holds no zero byte")
		}
	}
	return nil
}

func checkAbsolute(name string) error {
	if !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%s is not an absolute path", wire.Quote(name))
	}
	return nil
}

// Local reports whether a gate makes s itself.
func (s Spec) Local() bool {
	if len(s.Of) > 0 {
		return !slices.ContainsFunc(s.Of, func(part Spec) bool { return !part.Local() })
	}
	return sorts()[s.Kind].Local && (s.Kind != KindHTTP || !s.beyondHead())
}

// beyondHead reports whether an http probe asks for more than the head of an answer to
// a plain request: a gate reads no bodies and sends no credentials.
func (s Spec) beyondHead() bool {
	for _, name := range []string{"match", "user", "password", "bearer"} {
		if _, ok := s.Options[name]; ok {
			return true
		}
	}
	return strings.HasPrefix(s.Options["token"], tokenJSON)
}

// TellsLife reports whether an answer of s says which incarnation it came from.
func (s Spec) TellsLife() bool {
	switch token := s.Options["token"]; {
	case s.Kind == KindAll:
		return slices.ContainsFunc(s.Of, Spec.TellsLife)
	case token == "no":
		return false
	default:
		return token != "" || sorts()[s.Kind].Life
	}
}

// URL is the target of an HTTP probe.
func (s Spec) URL() (*url.URL, error) {
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

// Address is the host and port that s connects to; "" where it is no connection.
func (s Spec) Address() string {
	switch sorts()[s.Kind].Form {
	case FormAddress:
		return s.Target
	case FormURL:
		if u, err := s.URL(); err == nil {
			return address(u)
		}
	}
	return ""
}

func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" {
		return fmt.Errorf("%s is not ADDRESS:PORT", wire.Quote(a))
	}
	if len(host) > maxWord || !isGraphic(host) {
		return fmt.Errorf("%s is not an address or a name", wire.Quote(host))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
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
	if len(s.Of) == 0 {
		return defaultTimeout
	}
	longest := time.Duration(0)
	for _, part := range s.Of {
		longest = max(longest, part.timeout())
	}
	return longest
}

// Weigh says what an HTTP status code means.
func (s Spec) Weigh(code int) (ready, degraded bool) {
	has := func(option string) bool {
		return slices.Contains(strings.Split(s.Options[option], ","), strconv.Itoa(code))
	}
	switch {
	case has("degraded"):
		return true, true
	case s.Options["status"] == "":
		return code >= 200 && code < 400, false
	}
	return has("status"), false
}
