package keys

import (
	"encoding/base64"
	"fmt"
	"math/big"
	"net/netip"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Line is a line of an authorized_keys file, as sshd takes it. The source of its
// rules is sshd(8), AUTHORIZED_KEYS FILE FORMAT, and what OpenSSH 9.2 does where
// that is silent.
type Line struct {
	Number  int     // in its file, from 1
	Options Options // in front of the key
	Key     Blob
	Comment string
	Ignored string // why sshd passes over the line; "" where it does not
}

// Blob is a public key as others wrote it, of any strength.
type Blob struct {
	Type        string // as in ssh-ed25519
	Bits        int    // RSA and DSA: of the modulus
	Fingerprint string // as ssh-keygen -lf prints it
	Public      string // TYPE BASE64
}

// Options are the options of a line: of a key, or of a principal in an
// AuthorizedPrincipalsFile. What a key may do without any is all that sshd's
// configuration lets it.
type Options struct {
	Command    string // run instead of what is asked for, where Forced
	Forced     bool   // there is command=
	From       string // what from= says, where Sourced
	Sourced    bool   // there is from=
	Principals string // principals=, of a certificate authority
	Authority  bool   // cert-authority
	Expiry     string // expiry-time=, the last one

	Restrict bool // stands there; later options may have taken some of it back
	Forwarding,
	Agent,
	X11,
	PTY,
	UserRC bool // what the key may do, as far as the line says

	PermitOpen, PermitListen []string // permitopen= and permitlisten=
	Tunnel                   string   // tunnel=
	Environment              []string // environment=, NAME=VALUE
}

// ParseLines reads the lines of an authorized_keys file. Empty lines and comments
// are left out; those that sshd passes over say why. Of a private key that has got
// there only the first line is returned, and that says none of it.
func ParseLines(text string) (lines []Line) {
	n, private := 0, false
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "\x00") // to sshd it ends there
		line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		l := parseLine(line)
		l.Number = n
		begins := strings.HasPrefix(line, "-----BEGIN ") && strings.Contains(line, "PRIVATE KEY")
		switch {
		case begins:
			l.Ignored = "a private key stands here: remove it, and make another in its place, for whoever could read this file may have it"
		case private && l.Key.Public == "": // what has a key counts, whatever is around it
			private = !strings.HasPrefix(line, "-----END ")
			continue
		}
		private = begins
		lines = append(lines, l)
	}
	return lines
}

// shown is what stands where something else belongs, unless it may be a part of a
// private key.
func shown(s string) string {
	const short = 40
	word := s
	if i := strings.IndexAny(s, " \t,\""); i >= 0 {
		word = s[:i]
	}
	if len(word) > short && strings.Trim(word, base64Runes) == "" {
		return fmt.Sprintf("%d characters of base64", len(word))
	}
	return quote(s)
}

const base64Runes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/="

// parseLine does as sshd: what does not begin with a key begins with options.
func parseLine(text string) Line {
	if key, comment, err := parseBlob(text); err == nil {
		return Line{Options: unrestricted(), Key: key, Comment: comment}
	}
	options, rest, err := ParseOptions(text)
	if err != nil {
		// The key is shown all the same where there is one: another line may hold it.
		if _, rest, cerr := cutOptions(text); cerr == nil {
			key, comment, _ := parseBlob(rest)
			return Line{Options: options, Key: key, Comment: comment, Ignored: err.Error()}
		}
		return Line{Options: options, Ignored: err.Error()}
	}
	key, comment, err := parseBlob(rest)
	if err != nil {
		return Line{Options: options, Ignored: err.Error()}
	}
	return Line{Options: options, Key: key, Comment: comment}
}

// parseBlob reads "TYPE BASE64 COMMENT".
func parseBlob(text string) (key Blob, comment string, err error) {
	kind, rest := cutBlank(text)
	encoded, comment := cutBlank(rest)
	// Of the blanks only two end it, and sshd passes over the others that are in it.
	blob, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\v", "", "\f", "", "\r", "").Replace(encoded))
	if err != nil || encoded == "" {
		return Blob{}, "", fmt.Errorf("no public key: %s is not followed by base64", shown(kind))
	}
	public, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return Blob{}, "", fmt.Errorf("no public key: %w", printable(err))
	}
	if public.Type() != kind {
		return Blob{}, "", fmt.Errorf("no public key: the type is %s, the key is %s", quote(kind), public.Type())
	}
	return BlobOf(public), strings.TrimRight(comment, " \t"), nil
}

// ParseBlob reads the line of a .pub file, of whatever strength the key is.
func ParseBlob(line string) (Blob, error) {
	key, _, err := parseBlob(strings.TrimSpace(line))
	return key, err
}

// BlobOf is a public key that has been read.
func BlobOf(public ssh.PublicKey) Blob {
	return Blob{
		Type: public.Type(), Bits: modulusBits(public), Fingerprint: ssh.FingerprintSHA256(public),
		Public: strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(public)), "\n"),
	}
}

// modulusBits is the size that makes an RSA or DSA key strong or weak; 0 for
// other types, whose name says it.
func modulusBits(key ssh.PublicKey) int {
	switch key.Type() {
	case ssh.KeyAlgoRSA:
		return rsaBits(key)
	case "ssh-dss":
		var fields struct {
			Type       string
			P, Q, G, Y *big.Int
		}
		if ssh.Unmarshal(key.Marshal(), &fields) == nil {
			return fields.P.BitLen()
		}
	}
	return 0
}

func cutBlank(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// cutOptions finds where the options end: at the first blank outside quotes. A
// backslash hides the quote after it and nothing else.
func cutOptions(text string) (options, rest string, err error) {
	quoted := false
	i := 0
	for ; i < len(text) && (quoted || text[i] != ' ' && text[i] != '\t'); i++ {
		if strings.HasPrefix(text[i:], `\"`) {
			i++
		} else if text[i] == '"' {
			quoted = !quoted
		}
	}
	if quoted {
		return "", "", fmt.Errorf("a quote is not closed")
	}
	return text[:i], strings.TrimLeft(text[i:], " \t"), nil
}

func unrestricted() Options {
	return Options{Forwarding: true, Agent: true, X11: true, PTY: true, UserRC: true}
}

// ParseOptions reads the options that stand in front of a key or a principal, and
// returns what follows them. Its error is why sshd passes over the whole line:
// an option that it does not know is one.
func ParseOptions(text string) (o Options, rest string, err error) {
	o = unrestricted()
	all, rest, err := cutOptions(text)
	if err != nil {
		return o, "", err
	}
	for all != "" {
		if all, err = o.take(all); err != nil {
			return o, rest, err
		}
		if all == "" {
			break
		}
		if all[0] != ',' {
			return o, rest, fmt.Errorf("unknown option at %s", shown(all))
		}
		if all = all[1:]; all == "" && rest == "" {
			return o, rest, fmt.Errorf("the options end in a comma")
		}
	}
	return o, rest, nil
}

// take reads one option from the front. What it does not know it leaves there.
func (o *Options) take(all string) (rest string, err error) {
	for _, flag := range []struct {
		name    string
		negated bool // there is no-NAME too
		to      *bool
	}{
		{"cert-authority", false, &o.Authority},
		{"port-forwarding", true, &o.Forwarding},
		{"agent-forwarding", true, &o.Agent},
		{"x11-forwarding", true, &o.X11},
		{"pty", true, &o.PTY},
		{"user-rc", true, &o.UserRC},
		{"no-touch-required", false, new(bool)},
		{"verify-required", false, new(bool)},
	} {
		if rest, ok := cutFold(all, flag.name); ok {
			*flag.to = true
			return rest, nil
		}
		if rest, ok := cutFold(all, "no-"+flag.name); ok && flag.negated {
			*flag.to = false
			return rest, nil
		}
	}
	if rest, ok := cutFold(all, "restrict"); ok {
		o.Restrict = true
		o.Forwarding, o.Agent, o.X11, o.PTY, o.UserRC = false, false, false, false, false
		return rest, nil
	}
	for _, option := range []struct {
		name  string
		write func(value string) error
	}{
		{"command", func(v string) error { return once(&o.Command, &o.Forced, v) }},
		{"from", func(v string) error { return once(&o.From, &o.Sourced, v) }},
		{"principals", func(v string) error {
			given := o.Principals != ""
			return once(&o.Principals, &given, v)
		}},
		{"expiry-time", func(v string) error { o.Expiry = v; return checkExpiry(v) }},
		{"environment", func(v string) error { o.Environment = append(o.Environment, v); return checkEnvironment(v) }},
		{"permitopen", func(v string) error { o.PermitOpen = append(o.PermitOpen, v); return checkPermit(v, false) }},
		{"permitlisten", func(v string) error { o.PermitListen = append(o.PermitListen, v); return checkPermit(v, true) }},
		{"tunnel", func(v string) error { o.Tunnel = v; return nil }},
	} {
		quoted, ok := cutFold(all, option.name+"=")
		if !ok {
			continue
		}
		value, rest, err := unquoted(quoted)
		if err == nil {
			err = option.write(value)
		}
		if err != nil {
			return "", fmt.Errorf("%s=: %w", option.name, err)
		}
		return rest, nil
	}
	return all, nil
}

func cutFold(s, prefix string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

func once(to *string, given *bool, value string) error {
	if *given {
		return fmt.Errorf("stands there twice")
	}
	*to, *given = value, true
	return nil
}

func unquoted(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", fmt.Errorf("its value is not in quotes")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		case strings.HasPrefix(s[i:], `\"`):
			i++
			fallthrough
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", fmt.Errorf("its quote is not closed")
}

// checkExpiry takes YYYYMMDD, with HHMM or HHMMSS behind it, and Z for UTC.
func checkExpiry(v string) error {
	digits := strings.TrimSuffix(strings.TrimSuffix(v, "Z"), "z")
	if n := len(digits); n != 8 && n != 12 && n != 14 || strings.Trim(digits, "0123456789") != "" {
		return fmt.Errorf("%s is not a time", quote(v))
	}
	return nil
}

func checkEnvironment(v string) error {
	name, _, ok := strings.Cut(v, "=")
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			ok = false
		}
	}
	if !ok || name == "" {
		return fmt.Errorf("%s is not NAME=VALUE", quote(v))
	}
	return nil
}

// checkPermit takes HOST:PORT, and a port alone where it is one to listen at.
func checkPermit(v string, bare bool) error {
	i := strings.LastIndexByte(v, ':')
	port := v[i+1:]
	if i < 0 && !bare || port == "" || port != "*" && strings.Trim(port, "0123456789") != "" {
		return fmt.Errorf("%s is not HOST:PORT", quote(v))
	}
	return nil
}

// Pattern is one of what from= lists.
type Pattern struct {
	Text    string
	Negated bool
	Prefix  netip.Prefix // an address is one of all its bits; not valid where Name
	Name    bool         // or wildcards: matched against a name, and an address as it is written
}

// SourcePatterns reads what from= says. An error is why sshd then lets nobody in
// by the line: it reads addresses up to one that it cannot.
func SourcePatterns(from string) (all []Pattern, err error) {
	for _, text := range strings.Split(from, ",") {
		p := Pattern{Text: text}
		text, p.Negated = strings.CutPrefix(text, "!")
		if text == "" {
			return all, fmt.Errorf("an entry is empty")
		}
		if ip, aerr := netip.ParseAddr(text); aerr == nil {
			p.Prefix = netip.PrefixFrom(ip.WithZone(""), ip.BitLen())
		} else if address, bits, ok := strings.Cut(text, "/"); ok {
			if _, aerr := netip.ParseAddr(address); aerr != nil {
				p.Name = true // sshd takes it for a pattern, which no peer matches
			} else if p.Prefix, err = netip.ParsePrefix(text); err != nil {
				return all, fmt.Errorf("%s has no prefix length of its address: %s", quote(text), quote(bits))
			} else if p.Prefix != p.Prefix.Masked() {
				return all, fmt.Errorf("%s has host bits set: write %s or %s", quote(text), p.Prefix.Masked(), address)
			}
		} else {
			p.Name = true
		}
		all = append(all, p)
	}
	return all, nil
}
