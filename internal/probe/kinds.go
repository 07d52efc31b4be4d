package probe

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"sync"

	"kido/internal/wire"
)

// Kind is a sort of probe. The spelling is part of the policy file and of the
// site file.
type Kind string

// The kinds.
const (
	KindTCP      Kind = "tcp"
	KindTLS      Kind = "tls"
	KindHTTP     Kind = "http"
	KindHTTPS    Kind = "https"
	KindExec     Kind = "exec"
	KindFile     Kind = "file"
	KindLog      Kind = "log"
	KindSystemd  Kind = "systemd"
	KindDNS      Kind = "dns"
	KindPostgres Kind = "postgres"
	KindMySQL    Kind = "mysql"
	KindOracle   Kind = "oracle"
	KindRedis    Kind = "redis"
	KindMongoDB  Kind = "mongodb"
	KindAMQP     Kind = "amqp"
	KindKafka    Kind = "kafka"
	KindLDAP     Kind = "ldap"
	KindSMTP     Kind = "smtp"
	KindAll      Kind = "all"
	KindAny      Kind = "any"
	KindNot      Kind = "not"
)

// Form is what a kind asks for as its target.
type Form int

// The forms of a target.
const (
	FormNone Form = iota
	FormAddress
	FormURL
	FormPath
	FormName // of a host, as a resolver takes it
	FormUnit
	FormLog // a path, or "journal"
	FormArgv
	FormParts // other probes
)

// Sort is a kind's entry in the table of kinds.
type Sort struct {
	Kind Kind
	Form Form
	Port int // FormAddress: the usual one; 0: there is none
	// Local says that a gate makes it itself.
	Local bool
	// Life says that it tells its service's incarnation, unless its option token is "no".
	Life    bool
	Options map[string]Option // by name; an option "x." takes any name behind the dot
}

// UnitName is the full name of a systemd unit: without a suffix of systemd's it is a
// service's, as for systemctl.
func UnitName(name string) string {
	if slices.Contains(unitSuffixes, path.Ext(name)) {
		return name
	}
	return name + ".service"
}

var unitSuffixes = []string{".service", ".socket", ".device", ".mount", ".automount", ".swap", ".target", ".path", ".timer", ".slice", ".scope"}

// Option is what a kind takes beside its target.
type Option struct {
	Check func(value string) error
	// Source says that the value names where something is to be read, see [Spec.Load].
	Source bool
	Secret bool   // where Source: nobody else may read it, and no word holds it
	Help   string // what it means, in half a sentence
	Values []string
}

// Options that belong together.
var (
	forAll = map[string]Option{
		"slow":   {Check: checkMilliseconds, Help: "time after which an answer is late: degraded"},
		"strict": oneOf("an answer that is degraded is no answer", "yes"),
	}
	forLife  = map[string]Option{"token": oneOf("do not tell incarnations by it", "no")}
	forTLS   = map[string]Option{"ca": file("authorities that vouch for the server, in PEM; else the system's"), "cert": file("our certificate, in PEM"), "key": {Check: checkFile, Source: true, Secret: true, Help: "its private key, in PEM"}, "name": name("whom the server's certificate is to name; else the target's host")}
	forLogin = map[string]Option{"user": text("who logs in"), "password": source("his password")}
)

// sorts is the table of kinds. It is built where a probe is looked at: most gates have none to.
var sorts = sync.OnceValue(func() map[Kind]Sort {
	withTLS := func(modes ...string) []map[string]Option {
		return []map[string]Option{forTLS, {"tls": oneOf("whether TLS is used", modes...)}}
	}
	list := []Sort{
		{Kind: KindTCP, Form: FormAddress, Local: true},
		{Kind: KindTLS, Form: FormAddress, Options: join(forTLS, map[string]Option{"days": {Check: checkDays, Help: "days that the server's certificate must be good for yet; fewer is degraded"}})},
		{Kind: KindHTTP, Form: FormURL, Local: true, Options: forHTTP()},
		{Kind: KindHTTPS, Form: FormURL, Options: join(forHTTP(), forTLS)},
		{Kind: KindExec, Form: FormArgv, Local: true, Options: map[string]Option{
			"token":    oneOf("the first line of its output tells its incarnation", "output"),
			"degraded": {Check: checkExit, Help: "exit status that means ready, but degraded"},
		}},
		{Kind: KindFile, Form: FormPath, Local: true, Options: map[string]Option{"match": pattern("what its text is to hold")}},
		{Kind: KindLog, Form: FormLog, Local: true, Options: map[string]Option{
			"match":  pattern("the line that means ready, written in this incarnation"),
			"begins": pattern("of a file: the line with which an incarnation begins"),
		}},
		{Kind: KindSystemd, Form: FormUnit, Options: map[string]Option{"state": oneOf("ActiveState that is ready; else active", "active", "inactive", "failed", "reloading")}},
		{Kind: KindDNS, Form: FormName, Options: map[string]Option{
			"server":  {Check: checkServer, Help: "resolver that is asked; else the system's"},
			"address": {Check: checkIP, Help: "address that the name is to have"},
		}},
		{Kind: KindPostgres, Form: FormAddress, Port: 5432, Life: true, Options: join(append(withTLS("no", "yes"), forLogin, map[string]Option{
			"database": text("database that is opened; else the one called as the user is"),
			"role":     oneOf("what it is to be: primary takes writes, standby does not; any is not degraded", "primary", "standby", "any"),
		})...)},
		{Kind: KindMySQL, Form: FormAddress, Port: 3306, Life: true, Options: join(append(withTLS("no", "yes"), forLogin, map[string]Option{
			"database": text("database that is opened; else none"),
			"role":     oneOf("what it is to be: primary takes writes, replica does not; any is not degraded", "primary", "replica", "any"),
		})...)},
		{Kind: KindOracle, Form: FormAddress, Port: 1521, Life: true, Options: join(append(withTLS("no", "yes"), forLogin, map[string]Option{
			"service": text("service name"), "sid": text("SID, where there is no service name"),
			"role": oneOf("what it is to be; any is not degraded", "primary", "standby", "any"),
		})...)},
		{Kind: KindRedis, Form: FormAddress, Port: 6379, Life: true, Options: join(append(withTLS("no", "yes"), forLogin, map[string]Option{
			"role": oneOf("what it is to be; any is not degraded", "primary", "replica", "any"),
		})...)},
		{Kind: KindMongoDB, Form: FormAddress, Port: 27017, Life: true, Options: join(append(withTLS("no", "yes"), forLogin, map[string]Option{
			"database": text("database in which the user is known; else admin"),
			"role":     oneOf("what it is to be; any is not degraded", "primary", "secondary", "any"),
		})...)},
		{Kind: KindAMQP, Form: FormAddress, Port: 5672, Options: join(append(withTLS("no", "yes"), forLogin, map[string]Option{"vhost": text("virtual host; else /")})...)},
		{Kind: KindKafka, Form: FormAddress, Port: 9092, Options: join(append(withTLS("no", "yes"), forLogin, map[string]Option{
			"topic": text("topic whose partitions must all have leaders"),
			"sasl":  oneOf("how the user logs in; else plain", "plain", "scram-sha-256", "scram-sha-512"),
		})...)},
		{Kind: KindLDAP, Form: FormAddress, Port: 389, Options: join(append(withTLS("no", "yes", "start"), forLogin, map[string]Option{
			"base":  text("entry that must be there"),
			"token": oneOf("tell incarnations by cn=Start,cn=Time,cn=Monitor, which must always be readable then", "monitor"),
		})...)},
		{Kind: KindSMTP, Form: FormAddress, Port: 25, Options: join(append(withTLS("no", "yes", "start"), forLogin)...)},
		{Kind: KindAll, Form: FormParts},
		{Kind: KindAny, Form: FormParts},
		{Kind: KindNot, Form: FormParts},
	}
	table := make(map[Kind]Sort, len(list))
	for _, s := range list {
		if s.Form != FormParts {
			s.Options = join(s.Options, forAll)
		}
		if s.Life {
			s.Options = join(s.Options, forLife)
		}
		table[s.Kind] = s
	}
	return table
})

// Kinds lists all kinds, sorted.
func Kinds() []Kind { return slices.Sorted(maps.Keys(sorts())) }

// SortOf finds a kind in the table.
func SortOf(k Kind) (Sort, bool) {
	s, ok := sorts()[k]
	return s, ok
}

// Option finds an option of a kind by the name that a line or a site file has.
func (s Sort) Option(name string) (Option, bool) {
	if o, ok := s.Options[name]; ok && !strings.HasSuffix(name, ".") {
		return o, true
	}
	if group, rest, ok := strings.Cut(name, "."); ok && rest != "" {
		o, ok := s.Options[group+"."]
		return o, ok
	}
	return Option{}, false
}

func forHTTP() map[string]Option {
	return join(forLogin, map[string]Option{
		"status":   {Check: checkStatuses, Help: "status codes that are ready; else 200 to 399"},
		"degraded": {Check: checkStatuses, Help: "status codes that are ready, but degraded"},
		"match":    pattern("what the beginning of the body is to hold"),
		"host":     name("name in the Host header; else the URL's"),
		"header.":  {Check: checkHeader, Help: "a header of the request"},
		"bearer":   source("a token that is sent as Authorization: Bearer"),
		"token":    {Check: checkHTTPToken, Help: "what tells its incarnation: header:NAME or json:FIELD.FIELD of the answer"},
	})
}

func join(groups ...map[string]Option) map[string]Option {
	all := map[string]Option{}
	for _, g := range groups {
		maps.Copy(all, g)
	}
	return all
}

func oneOf(help string, values ...string) Option {
	return Option{Help: help, Values: values, Check: func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("%s is not %s", wire.Quote(v), alternatives(values))
		}
		return nil
	}}
}

func alternatives(values []string) string {
	n := len(values)
	if n == 1 {
		return values[0]
	}
	return strings.Join(values[:n-1], ", ") + " or " + values[n-1]
}

func text(help string) Option    { return Option{Help: help, Check: checkText} }
func pattern(help string) Option { return Option{Help: help, Check: checkPattern} }
func name(help string) Option    { return Option{Help: help, Check: checkName} }
func source(help string) Option {
	return Option{Help: help, Check: checkSource, Source: true, Secret: true}
}

// file is a source that is a file and nothing secret needs to be in it.
func file(help string) Option { return Option{Help: help, Check: checkFile, Source: true} }

func checkText(v string) error {
	if v == "" || Printable(v) != v {
		return errors.New("one line of at most 256 printable characters is wanted")
	}
	return nil
}

// checkName takes what names a host.
func checkName(v string) error {
	if v == "" || len(v) > maxWord || !isGraphic(v) {
		return fmt.Errorf("%s is not a name", wire.Quote(v))
	}
	return nil
}

func checkPattern(v string) error {
	if v == "" || len(v) > maxWord {
		return fmt.Errorf("a pattern of 1 to %d bytes is wanted", maxWord)
	}
	if _, err := regexp.Compile(v); err != nil {
		bad, _ := errors.AsType[*syntax.Error](err)
		return fmt.Errorf("%s is not a regular expression: %s", wire.Quote(v), bad.Code)
	}
	return nil
}

func checkIP(v string) error {
	if ip, err := netip.ParseAddr(v); err != nil || ip.String() != v {
		return fmt.Errorf("%s is not an IP address", wire.Quote(v))
	}
	return nil
}

// checkServer takes an address, or one with a port.
func checkServer(v string) error {
	if checkIP(v) == nil {
		return nil
	}
	return checkAddress(v)
}

func checkFile(v string) error {
	name, ok := strings.CutPrefix(v, sourceFile)
	if !ok || !path.IsAbs(name) || Printable(name) != name {
		return fmt.Errorf("%s is not %s and an absolute path", wire.Quote(v), sourceFile)
	}
	return nil
}

func checkMilliseconds(v string) error {
	if n, err := strconv.ParseUint(v, 10, 31); err != nil || n == 0 || strconv.FormatUint(n, 10) != v {
		return fmt.Errorf("%s is not a number of milliseconds", wire.Quote(v))
	}
	return nil
}

func checkDays(v string) error {
	if n, err := strconv.ParseUint(v, 10, 31); err != nil || n == 0 || n > 3650 || strconv.FormatUint(n, 10) != v {
		return fmt.Errorf("%s is not a number of days, 1 to 3650", wire.Quote(v))
	}
	return nil
}

func checkExit(v string) error {
	if n, err := strconv.ParseUint(v, 10, 8); err != nil || n == 0 || strconv.FormatUint(n, 10) != v {
		return fmt.Errorf("%s is not an exit status of 1 to 255", wire.Quote(v))
	}
	return nil
}

func checkStatuses(v string) error {
	codes := strings.Split(v, ",")
	if len(codes) > maxStatuses {
		return fmt.Errorf("%d status codes, at most %d are taken", len(codes), maxStatuses)
	}
	for _, code := range codes {
		if n, err := strconv.ParseUint(code, 10, 16); err != nil || n < 200 || n > 599 || strconv.FormatUint(n, 10) != code {
			return fmt.Errorf("%s is not a status code of 200 to 599", wire.Quote(code))
		}
	}
	return nil
}

func checkHeader(v string) error {
	if len(v) > maxWord || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("a header is at most %d characters of ASCII", maxWord)
	}
	return nil
}

// checkHeaderName refuses what a probe writes itself, and where a secret would stand.
func checkHeaderName(name string) error {
	switch name := strings.ToLower(name); {
	case !isToken(name):
		return fmt.Errorf("%s is not the name of a header", wire.Quote(name))
	case slices.Contains([]string{"authorization", "proxy-authorization", "cookie"}, name):
		return fmt.Errorf("a secret never stands in the header %s: use bearer, or user and password", name)
	case slices.Contains([]string{"host", "user-agent", "accept", "connection", "content-length", "transfer-encoding", "trailer", "te", "upgrade", "expect"}, name):
		return fmt.Errorf("the header %s is the probe's own; host says another host", name)
	}
	return nil
}

func checkHTTPToken(v string) error {
	name, header := strings.CutPrefix(v, tokenHeader)
	field, json := strings.CutPrefix(v, tokenJSON)
	if !(header && isToken(name) || json && isToken(field)) {
		return fmt.Errorf("%s is not header:NAME or json:FIELD.FIELD", wire.Quote(v))
	}
	return nil
}

// isToken reports whether s can be the name of a header or a path of JSON fields.
func isToken(s string) bool {
	return s != "" && len(s) <= maxWord && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}
