package cli

import (
	"cmp"
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

	"github.com/spf13/cobra"

	"kido/internal/probe"
)

// schemes are what URLs call the kinds of probes otherwise than their table.
var schemes = map[string]struct {
	kind probe.Kind
	port int // the usual one with TLS from the start; 0: there is none of its own
}{
	"unit":       {kind: probe.KindSystemd},
	"postgresql": {kind: probe.KindPostgres},
	"pgsql":      {kind: probe.KindPostgres},
	"mariadb":    {kind: probe.KindMySQL},
	"rediss":     {kind: probe.KindRedis, port: 6379},
	"amqps":      {kind: probe.KindAMQP, port: 5671},
	"ldaps":      {kind: probe.KindLDAP, port: 636},
	"smtps":      {kind: probe.KindSMTP, port: 465},
}

// pathOptions are what the path of a URL means to those kinds that have one.
var pathOptions = map[probe.Kind]string{
	probe.KindPostgres: "database",
	probe.KindMySQL:    "database",
	probe.KindMongoDB:  "database",
	probe.KindOracle:   "service",
	probe.KindAMQP:     "vhost",
	probe.KindLDAP:     "base",
}

// isURL tells the URL of a probe from a target of the site: those have no colon.
func isURL(what string) bool { return strings.Contains(what, ":") }

// probeOf reads a probe from its URL, or from HOST:PORT as other programs that wait
// take it. Its user's password is in source, where that is not empty and the URL does not say
// where it is itself. An error does not repeat what may be secret.
func probeOf(what, source string) (probe.Spec, error) {
	if _, port, err := net.SplitHostPort(what); err == nil && !strings.Contains(what, "/") {
		if _, err := strconv.ParseUint(port, 10, 64); err == nil {
			what = "tcp://" + what
		}
	}
	scheme, rest, _ := strings.Cut(what, ":")
	sort, ok := sortOf(scheme)
	if !ok {
		return probe.Spec{}, usageError(cmp.Or(meant(scheme, schemeNames()), "there are: "+strings.Join(schemeNames(), ", ")), "no such kind of probe: %q", scheme)
	}
	s := probe.Spec{Kind: sort.Kind}
	if schemes[scheme].port != 0 {
		s.Options = map[string]string{"tls": "yes"}
	}
	fail := func(shown string, err error) (probe.Spec, error) {
		if f, ok := errors.AsType[*failure](err); ok {
			return s, &failure{status: exitUsage, err: fmt.Errorf("%s: %w", shown, f.err), hint: f.hint}
		}
		return s, usageError("write "+formOf(scheme, sort), "%s: %w", shown, err)
	}
	switch sort.Form {
	case probe.FormArgv:
		s.Argv = strings.Fields(rest)
	case probe.FormParts:
		if s.Kind != probe.KindNot {
			return fail(scheme+":", usageError("name all of them as arguments; --any: one of them is enough", "there is no URL for several probes"))
		}
		part, err := probeOf(rest, source)
		if err != nil {
			return fail(scheme, err)
		}
		s.Of = []probe.Spec{part}
	default:
		u, err := url.Parse(what)
		if err != nil { // and that repeats all of it
			return fail(scheme+":…", errors.New("this is no URL"))
		}
		if err := readURL(&s, sort, u); err != nil {
			return fail(shown(u), err)
		}
		what = shown(u)
	}
	if s.Journal() {
		return fail(what, usageError("wait for its unit: unit:NAME", "the journal is read for one start of a unit, and none is named here"))
	}
	// A probe that names no user, as Redis's may, is not told: the password may be that
	// of somebody else.
	if _, takes := sort.Option("password"); takes && source != "" && s.Options["user"] != "" && s.Options["password"] == "" {
		s.Options["password"] = source
	}
	err := s.Check()
	if errors.Is(err, probe.ErrNoPassword) {
		err = usageError(sayWhere, "%w", err)
	}
	if err != nil {
		return fail(what, err)
	}
	return s, nil
}

// sayWhere is the hint about where a password may stand.
const sayWhere = "say where it is: --password-file FILE, --password-env VARIABLE, or password=file:/PATH in the URL"

// sortOf is the kind of probe that a scheme means.
func sortOf(scheme string) (probe.Sort, bool) {
	return probe.SortOf(cmp.Or(schemes[scheme].kind, probe.Kind(scheme)))
}

// readURL takes all that a URL says into s.
func readURL(s *probe.Spec, sort probe.Sort, u *url.URL) error {
	query, fragment := u.RawQuery, u.EscapedFragment()
	if sort.Form == probe.FormURL {
		query, fragment = fragment, "" // its query is for the server
	}
	for text := range strings.SplitSeq(query, "&") {
		if text == "" {
			continue
		}
		if err := readOption(s, sort, text); err != nil {
			return err
		}
	}
	if u.User != nil {
		if _, given := u.User.Password(); given {
			return usageError(sayWhere, "a password does not stand on a command line, which everybody on this machine can read")
		}
		if err := setOption(s, sort, "user", u.User.Username()); err != nil {
			return err
		}
	}
	switch sort.Form {
	case probe.FormAddress:
		if u.Host == "" {
			return errors.New("it names no host")
		}
		number := u.Port()
		if usual := cmp.Or(schemes[u.Scheme].port, sort.Port); number == "" && usual != 0 {
			number = strconv.Itoa(usual)
		}
		if number == "" {
			return fmt.Errorf("the port is missing: a %s probe has no usual one", s.Kind)
		}
		s.Target = net.JoinHostPort(u.Hostname(), number)
		if inside := strings.TrimPrefix(u.Path, "/"); inside != "" {
			name := pathOptions[s.Kind]
			if name == "" {
				return fmt.Errorf("a path such as /%s means nothing to a %s probe", inside, s.Kind)
			}
			if err := setOption(s, sort, name, inside); err != nil {
				return err
			}
		}
	case probe.FormURL:
		bare := *u
		bare.User, bare.Fragment, bare.RawFragment = nil, "", ""
		s.Target = bare.String()
	case probe.FormPath, probe.FormLog:
		s.Target = u.Path + u.Opaque
	default: // a name
		if s.Target = u.Opaque; u.Host != "" || u.Path != "" {
			return errors.New("a name follows the colon at once")
		}
		if sort.Form == probe.FormUnit && s.Target != "" {
			s.Target = probe.UnitName(s.Target)
		}
	}
	if fragment != "" {
		return errors.New("what stands behind # means nothing here")
	}
	return nil
}

// readOption reads NAME=VALUE, with %XX for what a URL could not hold. Times are
// written as such, and files by their paths.
func readOption(s *probe.Spec, sort probe.Sort, text string) error {
	name, value, _ := strings.Cut(text, "=")
	name, err := url.PathUnescape(name)
	if err == nil {
		value, err = url.PathUnescape(value)
	}
	if err != nil {
		return errors.New("an option is not written as in a URL: % is %25, & is %26, # is %23")
	}
	if name == "timeout" {
		if s.Timeout, err = time.ParseDuration(value); err != nil || s.Timeout < time.Millisecond {
			return fmt.Errorf("timeout: %q is not a time such as 500ms or 3s", value)
		}
		return nil
	}
	if name == "slow" {
		slow, err := time.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("slow: %q is not a time such as 500ms or 3s", value)
		}
		value = strconv.FormatInt(slow.Milliseconds(), 10)
	}
	o, known := sort.Option(name)
	if word := map[string]string{"true": "yes", "false": "no"}[value]; slices.Contains(o.Values, word) {
		value = word // as the site file has it
	}
	onlyFile := known && o.Source && o.Check("env:X") != nil
	if onlyFile && path.IsAbs(value) {
		value = "file:" + value
	}
	return setOption(s, sort, name, value)
}

func setOption(s *probe.Spec, sort probe.Sort, name, value string) error {
	o, known := sort.Option(name)
	if !known {
		names := append(slices.Sorted(maps.Keys(sort.Options)), "timeout")
		return usageError(cmp.Or(meant(name, names), "it takes: "+strings.Join(names, ", ")), "a %s probe has no option %q", s.Kind, name)
	}
	if old, twice := s.Options[name]; twice && old != value {
		return fmt.Errorf("%s is said twice", name)
	}
	if err := o.Check(value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if s.Options == nil {
		s.Options = map[string]string{}
	}
	s.Options[name] = value
	return nil
}

// shown is a URL without what may be secret in it.
func shown(u *url.URL) string {
	bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, Opaque: u.Opaque}
	if sort, _ := sortOf(u.Scheme); sort.Form == probe.FormAddress || sort.Form == probe.FormURL {
		// With a slash too few or too many, a user and his password are elsewhere in it.
		if bare.Opaque = ""; strings.Contains(bare.Path, "@") {
			bare.Path = ""
		}
	}
	if u.User != nil {
		bare.User = url.User(u.User.Username())
	}
	return bare.String()
}

// formOf is how the URL of a kind looks.
func formOf(scheme string, sort probe.Sort) string {
	switch sort.Form {
	case probe.FormAddress:
		text := scheme + "://"
		if _, user := sort.Option("user"); user {
			text += "USER@"
		}
		if text += "HOST:PORT"; pathOptions[sort.Kind] != "" {
			text += "/" + strings.ToUpper(pathOptions[sort.Kind])
		}
		return text + "?OPTION=VALUE&…"
	case probe.FormURL:
		return scheme + "://HOST:PORT/PATH#OPTION=VALUE&…"
	case probe.FormPath, probe.FormLog:
		return scheme + ":/PATH?OPTION=VALUE&…"
	case probe.FormArgv:
		return scheme + ":/PATH/OF/PROGRAM"
	case probe.FormParts:
		return scheme + ":URL"
	}
	return scheme + ":NAME?OPTION=VALUE&…"
}

// schemeNames are all schemes that a URL may have.
func schemeNames() (names []string) {
	for _, kind := range probe.Kinds() {
		if kind != probe.KindAll && kind != probe.KindAny {
			names = append(names, string(kind))
		}
	}
	names = slices.AppendSeq(names, maps.Keys(schemes))
	slices.Sort(names)
	return names
}

// meant asks back where one of names is near to what was written; "" where none is.
func meant(wrong string, names []string) string {
	all := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, name := range names {
		all.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	if near := all.SuggestionsFor(wrong); len(near) > 0 && wrong != "" {
		return "did you mean: " + strings.Join(near, ", ") + "?"
	}
	return ""
}
