package site

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"kido/internal/probe"
)

// Which kinds of probes there are, and what each takes, is for package probe to say.
// Here is only how that is written in a site file.

// probeDraft is a probe as read.
type probeDraft struct {
	Probe
	at       *node   // its kind
	from     *node   // nil where it is the default
	parts    *node   // of a combination: read last, when its time-out is known
	hostless []*node // targets that name no host
	journals []*node // of log probes that read the journal
	absent   []*node // sources that a program which sshd has started does not have
}

const defaultProbeTimeout = 3 * time.Second

// keyHTTP stands for two kinds, which the scheme of the URL tells apart.
const keyHTTP = string(probe.KindHTTP)

func keyOf(s probe.Sort) string {
	if s.Form == probe.FormURL {
		return keyHTTP
	}
	return string(s.Kind)
}

// vocabulary is what a probe in a site file can say.
type vocabulary struct {
	sorts   map[string]probe.Sort              // the kinds by their keys, http for https as well
	fields  map[probe.Kind][]field[probeDraft] // the keys that a probe of each kind takes
	takers  map[string][]string                // the kinds that take an option, by its key, sorted
	secrets map[string]bool                    // the options that say where a secret is
}

// probeWords is made where a site is read: a program that makes one probe reads none.
var probeWords = sync.OnceValue(func() vocabulary {
	v := vocabulary{map[string]probe.Sort{}, map[probe.Kind][]field[probeDraft]{}, map[string][]string{}, map[string]bool{}}
	for _, kind := range probe.Kinds() {
		s, _ := probe.SortOf(kind)
		if kind != probe.KindHTTPS {
			v.sorts[keyOf(s)] = s
		}
		fields := []field[probeDraft]{{keyOf(s), targets[s.Form]}}
		for _, name := range slices.Sorted(maps.Keys(s.Options)) {
			f := optionField(name, s.Options[name])
			fields = append(fields, f)
			v.takers[f.key] = append(v.takers[f.key], string(kind))
			v.secrets[f.key] = v.secrets[f.key] || spellingOf(name, s.Options[name]) == spelledSecret
		}
		v.fields[kind] = append(fields, roundFields...)
	}
	return v
})

// roundFields are the keys of every probe; all but timeout belong to a whole one,
// and not to a part of a combination.
var roundFields = []field[probeDraft]{
	durationField("timeout", func(p *probeDraft) *time.Duration { return &p.Timeout }),
	{"from", func(d *decoder, n *node, p *probeDraft) {
		p.from = n
		choose(d, n, "from", &p.From, FromHost, FromDependent, FromRunner)
	}},
	durationField("interval", func(p *probeDraft) *time.Duration { return &p.Interval }),
	countField("successes", 1, 100, func(p *probeDraft) *int { return &p.Successes }),
}

// ofWhole reports whether a key belongs to whole probes alone.
func ofWhole(key string) bool { return key == "from" || key == "interval" || key == "successes" }

// targets read what a kind is given, by its form.
var targets = map[probe.Form]func(d *decoder, n *node, p *probeDraft){
	probe.FormAddress: func(d *decoder, n *node, p *probeDraft) { p.Target = d.target(n, p) },
	probe.FormURL:     func(d *decoder, n *node, p *probeDraft) { p.Target = d.url(n, p) },
	probe.FormPath:    func(d *decoder, n *node, p *probeDraft) { p.Target = d.absolute(n, string(p.Kind)) },
	probe.FormLog: func(d *decoder, n *node, p *probeDraft) {
		p.Target = d.text(n, string(p.Kind))
		switch {
		case p.Journal():
			p.journals = append(p.journals, n)
		case p.Target != "" && !path.IsAbs(p.Target):
			d.errorf(n, "", "%s: %q is neither the absolute path of a file nor the word journal", p.Kind, p.Target)
		}
	},
	probe.FormName: func(d *decoder, n *node, p *probeDraft) {
		if p.Target = d.text(n, string(p.Kind)); p.Target != "" && !validAddress(p.Target) {
			d.errorf(n, "", "%s: %q is not a host name", p.Kind, p.Target)
		}
	},
	probe.FormUnit:  func(d *decoder, n *node, p *probeDraft) { p.Target = d.probedUnit(n) },
	probe.FormArgv:  func(d *decoder, n *node, p *probeDraft) { p.Argv = d.argv(n, string(p.Kind)) },
	probe.FormParts: func(_ *decoder, n *node, p *probeDraft) { p.parts = n },
}

// probes reads what stands behind ready.
func (d *decoder) probes(n *node) (all []probeDraft) {
	items := d.list(n, "ready")
	all = make([]probeDraft, 0, len(items))
	for _, item := range items {
		if p, ok := d.probe(item, defaultProbeTimeout, 0); ok {
			all = append(all, p)
		}
	}
	return all
}

// probe reads one probe, or a part of one where it is some levels deep. Where it says
// no time-out it has the usual one.
func (d *decoder) probe(n *node, usual time.Duration, depth int) (p probeDraft, ok bool) {
	const deepest = 8 // package probe stops earlier, but a text may hold itself
	p.From, p.Interval, p.Successes = FromHost, time.Second, 1
	if n.kind != mapping {
		d.errorf(n, `write "- tcp: :1521", for instance`, "ready: a probe must be a mapping, not %s", describe(n))
		return p, false
	}
	if depth > deepest {
		d.errorf(n, "", "ready: probes are nested too deep")
		return p, false
	}
	content, ok := d.pairs(n, "ready")
	if !ok {
		return p, false
	}
	before := d.mistakes
	s, ok := d.kindOf(n, content)
	if !ok {
		return p, false
	}
	p.Kind = s.Kind
	content, p.at = d.taken(content, s, depth)
	fill(d, content, " in ready", probeWords().fields[s.Kind], &p)
	if p.parts != nil {
		d.combine(&p, cmp.Or(p.Timeout, usual), depth)
		usual = 0
		for _, part := range p.Of {
			usual = max(usual, part.Timeout)
		}
	}
	p.Timeout = cmp.Or(p.Timeout, usual)
	if d.mistakes > before {
		return p, true // what would follow from a mistake is none of its own
	}
	if err := p.CheckAbout(); err != nil {
		d.errorf(p.at, "", "ready: %s: %v", p.at.value, err)
	}
	return p, true
}

// combine reads the parts of a combination.
func (d *decoder) combine(p *probeDraft, usual time.Duration, depth int) {
	for _, item := range d.list(p.parts, string(p.Kind)) {
		part, ok := d.probe(item, usual, depth+1)
		if !ok {
			continue
		}
		p.Of = append(p.Of, part.Spec)
		p.hostless = append(p.hostless, part.hostless...)
		p.journals = append(p.journals, part.journals...)
		p.absent = append(p.absent, part.absent...)
	}
}

// kindOf finds which kind the keys of a probe name. One that is an option of another
// is that: {smtp: :25, tls: start}.
func (d *decoder) kindOf(n *node, content []*node) (s probe.Sort, ok bool) {
	kinds := make([]string, 0, 2)
	for i := 0; i+1 < len(content); i += 2 {
		if _, ok := probeWords().sorts[content[i].value]; ok && !slices.Contains(kinds, content[i].value) {
			kinds = append(kinds, content[i].value)
		}
	}
	if len(kinds) > 1 {
		kinds = slices.DeleteFunc(slices.Clone(kinds), func(key string) bool {
			return slices.ContainsFunc(kinds, func(of string) bool {
				_, option := probeWords().sorts[of].Option(key)
				return option
			})
		})
	}
	switch len(kinds) {
	case 1:
		s = probeWords().sorts[kinds[0]]
		for i := 0; i+1 < len(content) && s.Form == probe.FormURL; i += 2 {
			if content[i].value == keyHTTP && strings.HasPrefix(strings.ToLower(content[i+1].value), "https:") {
				s, _ = probe.SortOf(probe.KindHTTPS)
			}
		}
		return s, true
	case 0:
		d.noKind(n, content)
	default:
		d.errorf(n, "make it several probes: all must answer", "ready: a probe has one kind, not %s", strings.Join(kinds, " and "))
	}
	return s, false
}

// noKind reports a probe that does not say of which kind it is.
func (d *decoder) noKind(n *node, content []*node) {
	before := d.mistakes
	kinds := slices.Sorted(maps.Keys(probeWords().sorts))
	for i := 0; i+1 < len(content); i += 2 {
		if key := content[i].value; probeWords().takers[key] == nil && key != "timeout" && !ofWhole(key) {
			d.unknownInProbe(content[i], content[i+1], "", kinds)
		}
	}
	if d.mistakes == before {
		d.errorf(n, "it has one of the keys "+strings.Join(kinds, ", "), "ready: a probe has a kind")
	}
}

// taken leaves of the keys of a probe those that its kind takes, and reports the
// others. It returns the key of the kind as well.
func (d *decoder) taken(content []*node, s probe.Sort, depth int) (good []*node, at *node) {
	good = make([]*node, 0, len(content))
	for i := 0; i+1 < len(content); i += 2 {
		key, value := content[i], content[i+1]
		takes := slices.ContainsFunc(probeWords().fields[s.Kind], func(f field[probeDraft]) bool { return f.key == key.value })
		switch {
		case key.value == keyOf(s) && value.tag == "!!null" && s.Form == probe.FormAddress:
			d.errorf(value, addressHint(s.Port), "%s is empty", key.value)
		case takes && depth > 0 && ofWhole(key.value):
			d.errorf(key, "say it of the whole", "%s is not for a part of a combination", key.value)
		case takes:
			good = append(good, key, value)
		default:
			d.unknownInProbe(key, value, s.Kind, keysOf(probeWords().fields[s.Kind]))
		}
		if key.value == keyOf(s) {
			at = key
		}
	}
	return good, at
}

// unknownInProbe reports a key that a probe of some kind does not take. Its value may
// be a secret under a name with a slip in it, and is not shown then.
func (d *decoder) unknownInProbe(key, value *node, kind probe.Kind, keys []string) {
	if key.kind != scalar {
		d.errorf(key, "", "a key must be a word, not %s", describe(key))
		return
	}
	known := "known keys: " + strings.Join(keys, ", ")
	kinds := probeWords().takers[key.value]
	if kinds == nil {
		if meant := nearest(key.value, keys); meant == "" || probeWords().secrets[meant] {
			d.conceal(value)
		}
		d.errorf(key, cmp.Or(d.suggest(key.value, keys), known), "unknown key %q in ready", key.value)
		return
	}
	if probeWords().secrets[key.value] {
		d.conceal(value)
	}
	hint := known
	switch https := string(probe.KindHTTPS); {
	case kind == probe.KindHTTP && slices.Contains(kinds, https):
		hint = "it goes with https"
	case len(kinds) < 4:
		hint = "it goes with " + strings.Join(kinds, ", ")
	}
	d.errorf(key, hint, "ready: %s takes no %q", kind, key.value)
}

// optionField is the key of an option: what a line of a policy has in one word may
// be said in a better way here.
func optionField(name string, o probe.Option) field[probeDraft] {
	set := func(p *probeDraft, name, text string) {
		if text == "" {
			return
		}
		if p.Options == nil {
			p.Options = map[string]string{}
		}
		p.Options[name] = text
	}
	if group, ok := strings.CutSuffix(name, "."); ok { // header.X-A is headers: {X-A: …}
		key := group + "s"
		return field[probeDraft]{key, func(d *decoder, n *node, p *probeDraft) {
			d.named(n, key, func(inner, value *node) {
				set(p, name+inner.value, d.option(value, key+": "+inner.value, o, spelledText))
			})
		}}
	}
	how := spellingOf(name, o)
	return field[probeDraft]{name, func(d *decoder, n *node, p *probeDraft) {
		text := d.option(n, name, o, how)
		set(p, name, text)
		if how == spelledSecret && text != "" && !strings.HasPrefix(text, "file:") {
			p.absent = append(p.absent, n)
		}
	}}
}

// spelling is how the value of an option is written in a site file.
type spelling int

const (
	spelledText   spelling = iota
	spelledWord            // one of a few, of which yes and no are true and false
	spelledPath            // of a file
	spelledSecret          // {file: /PATH}, {env: VARIABLE} or {credential: NAME}
	spelledToken           // {header: NAME} or {json: FIELD.FIELD}
	spelledTime            // 500ms
	spelledNumber          // 14
	spelledCodes           // 200 or [200, 204]
)

func spellingOf(name string, o probe.Option) spelling {
	only := func(example string) bool { return o.Check(example) == nil && o.Check("x") != nil }
	switch {
	case len(o.Values) > 0:
		return spelledWord
	case o.Source && only("env:X"):
		return spelledSecret
	case o.Source:
		return spelledPath
	case name == "slow":
		return spelledTime
	case only("1"):
		return spelledNumber
	case only("200,204"):
		return spelledCodes
	case only("header:x"):
		return spelledToken
	}
	return spelledText
}

var (
	secretKeys = []string{"file", "env", "credential"}
	tokenKeys  = []string{"header", "json"}
)

// option reads the value of an option into the spelling of a line; "" after a
// mistake.
func (d *decoder) option(n *node, what string, o probe.Option, how spelling) string {
	var text string
	switch how {
	case spelledWord:
		return d.word(n, what, o.Values)
	case spelledSecret:
		return d.secret(n, what, o)
	case spelledNumber, spelledCodes:
		return d.numbers(n, what, o, how == spelledCodes)
	case spelledTime:
		if t := d.duration(n, what); t > 0 {
			text = strconv.FormatInt(t.Milliseconds(), 10)
		}
	case spelledPath:
		if text = d.absolute(n, what); text != "" {
			text = "file:" + text
		}
	case spelledToken:
		text = d.pair(n, what, tokenKeys)
	default:
		text = d.text(n, what)
	}
	if text == "" {
		return ""
	}
	if err := o.Check(text); err != nil {
		d.errorf(n, "", "%s: %v", what, err)
		return ""
	}
	return text
}

// word reads one of a few words.
func (d *decoder) word(n *node, what string, words []string) string {
	shown := make([]string, len(words))
	for i, word := range words {
		shown[i] = spelled(word)
		if n.kind == scalar && (n.value == word || n.tag == "!!bool" && strings.ToLower(n.value) == shown[i]) {
			return word
		}
	}
	if isSwitch(words) && n.tag == "!!bool" {
		return "" // its usual position: as if it were not there
	}
	d.noneOf(n, what, shown)
	return ""
}

// isSwitch reports whether an option with these words is on or off, and only one of
// the two says anything.
func isSwitch(words []string) bool { return len(words) == 1 && spelled(words[0]) != words[0] }

// spelled is a word of an option as people write it.
func spelled(word string) string {
	switch word {
	case "yes":
		return "true"
	case "no":
		return "false"
	}
	return word
}

// secret reads where a secret is. What stands there instead may be the secret itself,
// and is not repeated.
func (d *decoder) secret(n *node, what string, o probe.Option) string {
	if n.kind == mapping && len(n.content) == 2 && slices.Contains(secretKeys, n.content[0].value) && n.content[1].tag == "!!str" {
		if text := n.content[0].value + ":" + n.content[1].value; o.Check(text) == nil {
			return text
		}
	}
	d.conceal(n)
	hint := fmt.Sprintf("write %s: {file: /PATH}, {env: VARIABLE} or {credential: NAME}", what)
	if n.kind == mapping {
		d.errorf(n, hint, "%s: it is to say in which one place the secret is", what)
	} else {
		d.errorf(n, hint, "%s: a secret never stands in the site file", what)
	}
	return ""
}

// pair reads a mapping with one of a few keys, as "key:value".
func (d *decoder) pair(n *node, what string, keys []string) string {
	if n.kind == mapping && len(n.content) == 2 && slices.Contains(keys, n.content[0].value) {
		if text := d.text(n.content[1], what); text != "" {
			return n.content[0].value + ":" + text
		}
		return ""
	}
	forms := make([]string, len(keys))
	for i, key := range keys {
		forms[i] = fmt.Sprintf("{%s: …}", key)
	}
	d.errorf(n, "write "+what+": "+strings.Join(forms, " or "), "%s cannot be %s", what, describe(n))
	return ""
}

// numbers reads one number, or a list of them as well.
func (d *decoder) numbers(n *node, what string, o probe.Option, several bool) string {
	items := []*node{n}
	if several {
		items = d.list(n, what)
	}
	var all []string
	for _, item := range items {
		if item.kind != scalar || item.tag != "!!int" {
			d.errorf(item, "", "%s must be a whole number, not %s", what, describe(item))
		} else if err := o.Check(item.value); err != nil {
			d.errorf(item, "", "%s: %v", what, err)
		} else {
			all = append(all, item.value)
		}
	}
	text := strings.Join(all, ",")
	if len(all) > 1 {
		if err := o.Check(text); err != nil {
			d.errorf(n, "", "%s: %v", what, err)
			return ""
		}
	}
	return text
}

// addressHint says how an address is written, of a kind with a usual port or, where
// that is 0, without.
func addressHint(usual int) string {
	if usual == 0 {
		return `write ":1521", "db1.example.org:1521" or "[2001:db8::1]:1521"`
	}
	return fmt.Sprintf(`write ":%d" for that port of the instance's own host, or "db1.example.org" for the same port there`, usual)
}

// hostPort reads "host:port". The host is "" where it is the instance's own; the port
// may be left out where there is a usual one, which is not 0.
func (d *decoder) hostPort(n *node, what string, usual int) (host, port string, ok bool) {
	hint := addressHint(usual)
	if n.kind == scalar && validPort(n.value) {
		hint = fmt.Sprintf("write %q for that port of the host itself", ":"+n.value)
	}
	if n.kind != scalar || n.tag == "!!int" {
		d.errorf(n, hint, "%s must be host:port, not %s", what, describe(n))
		return "", "", false
	}
	text := d.text(n, what)
	if text == "" {
		return "", "", false
	}
	if host, port, ok = splitAddress(text, usual); !ok {
		d.errorf(n, hint, "%s: %s is not host:port", what, d.shown(n))
	}
	return host, port, ok
}

// target reads what a connection is made to, as host:port: the instance's own host
// is left out, and the usual port of a kind may be.
func (d *decoder) target(n *node, p *probeDraft) string {
	s, _ := probe.SortOf(p.Kind)
	host, port, ok := d.hostPort(n, string(s.Kind), s.Port)
	if !ok {
		return ""
	}
	if host == "" {
		p.hostless = append(p.hostless, n)
	}
	return net.JoinHostPort(host, port)
}

// shown is a text in quotes, but for one that may hold a password.
func (d *decoder) shown(n *node) string {
	if strings.Contains(n.value, "@") {
		d.conceal(n)
		return "what it is given"
	}
	return strconv.Quote(n.value)
}

// splitAddress takes "host:port" apart, where usual is not 0 also a host alone.
func splitAddress(text string, usual int) (host, port string, ok bool) {
	if usual != 0 {
		bare := text
		if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
			bare = strings.TrimSuffix(inner, "]")
		}
		if validAddress(bare) && !validPort(bare) { // a port is no host
			return bare, strconv.Itoa(usual), true
		}
	}
	host, port, err := net.SplitHostPort(text)
	return host, port, err == nil && validPort(port) && (host == "" || validAddress(host))
}

func (d *decoder) url(n *node, p *probeDraft) string {
	text := d.text(n, keyHTTP)
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	bad := ""
	switch {
	case err != nil:
		bad = "is not a URL"
	case u.Scheme != "http" && u.Scheme != "https":
		bad = "must begin with http:// or https://"
	case u.Opaque != "" || !strings.HasPrefix(text[len(u.Scheme):], "://"):
		bad = "is not a URL"
	case u.User != nil:
		bad = "must not hold a password or user"
	case u.Fragment != "":
		bad = "must not have a fragment (#…)"
	case u.Port() != "" && !validPort(u.Port()), strings.HasSuffix(u.Host, ":"):
		bad = "has no valid port"
	case u.Hostname() != "" && !validAddress(u.Hostname()):
		bad = "has no valid host"
	}
	if bad != "" {
		d.errorf(n, `write it like "http://:80/health"; without a host it is the instance's own`, "http: %s %s", d.shown(n), bad)
		return ""
	}
	if u.Hostname() == "" {
		p.hostless = append(p.hostless, n)
	}
	return text
}

// probedUnit reads the name of a systemd unit; without a suffix it is a service.
func (d *decoder) probedUnit(n *node) string {
	unit := d.unitName(n, string(probe.KindSystemd))
	if unit == "" {
		return ""
	}
	return probe.UnitName(unit)
}

// checkReady holds the rules between a service and its probes, and fills in what
// follows from them.
func (d *decoder) checkReady(v *serviceDraft) {
	if len(v.probes) > 0 {
		v.Ready = make([]Probe, 0, len(v.probes))
	}
	for i := range v.probes {
		p := &v.probes[i]
		v.Ready = append(v.Ready, p.Probe)
		for _, n := range p.journals {
			switch {
			case v.Adapter.Kind != "" && v.Adapter.Kind != KindSystemd:
				d.errorf(n, "name the file that it logs to", "log: the journal tells the incarnations of systemd's units only")
			case p.From != FromHost && p.From != "":
				d.errorf(n, "leave out from: "+string(p.From), "log: the journal is read at the instance's own host")
			}
		}
	}
	if v.Adapter.Kind == KindExternal {
		d.checkExternal(v)
	} else if v.failuresKey != nil {
		d.errorf(v.failuresKey, "", "failures goes with external only: of any other service its init knows whether it is up")
	}
	for i := 0; i < len(v.Ready) && v.Listens == ""; i++ {
		v.Listens = addressOf(v.Ready[i].Spec)
	}
}

// checkExternal holds what is different for a service that is none of ours.
func (d *decoder) checkExternal(v *serviceDraft) {
	if v.readyKey == nil {
		d.errorf(v.at, "add ready: {tcp: \"db.example.org:1521\"}, for instance", "it is external: its probes are all that is known of it, and it has none")
	}
	for i := range v.probes {
		p := &v.probes[i]
		if p.From != FromHost && p.From != "" {
			d.errorf(p.from, "leave it out; its hosts are those that look", "an external service is looked at from its hosts only")
		}
		for _, n := range p.hostless {
			d.errorf(n, "say where it is: \"db.example.org:1521\", for instance", "it is external, and runs on none of its hosts: its probe must name a host")
		}
	}
	if host, _, err := net.SplitHostPort(v.Listens); err == nil && host == "" {
		d.errorf(v.listensAt, "say where it is: \"db.example.org:1521\", for instance", "it is external, and runs on none of its hosts: listens must name a host")
	}
	for _, at := range v.ours {
		d.errorf(at, "", "%s does not go with external: %s", at.value, ours[at.value])
	}
	v.Failures = cmp.Or(v.Failures, 3)
}

// ours are the keys that say what kido is to do with a service, and why an external
// one has none of them.
var ours = map[string]string{
	"after":           "kido neither starts nor restarts it",
	"stop_after":      "kido does not stop it",
	"conflicts":       "kido does not know where it is up",
	"max_unavailable": "kido takes none of it down",
	"max_failures":    "kido does nothing with it that could fail",
	"retry":           "kido does nothing with it that could fail",
	"wait":            "kido does not hold its start",
	"budget":          "it reacts to nothing",
}

// addressOf is the host and port that a probe connects to, without the host where
// it is the instance's; "" where there is none that means the same from elsewhere.
func addressOf(s probe.Spec) string {
	sort, _ := probe.SortOf(s.Kind)
	address := ""
	switch {
	case s.Kind == probe.KindNot: // what is not to answer is not the service
	case sort.Form == probe.FormParts:
		for i := 0; i < len(s.Of) && address == ""; i++ {
			address = addressOf(s.Of[i])
		}
	case sort.Form == probe.FormURL:
		if u, err := url.Parse(s.Target); err == nil {
			address = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]))
		}
	case sort.Form == probe.FormAddress:
		address = s.Target
	}
	if host, _, err := net.SplitHostPort(address); err != nil || Loopback(host) {
		return ""
	}
	return address
}

// Loopback reports whether a host, by name or address, is whatever machine asks for
// it, and so another one from elsewhere.
func Loopback(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback() || ip.IsUnspecified()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
