package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// Bundle is what a machine's keys are carried in, to where its key is to be
// taken: short enough to be read out over a telephone.
//
// As text it is a few lines for people, and after KIDO: the same in
// characters that are hard to mishear: Crockford's base32, in lines of five
// groups whose last two characters are a check of that line. After CHECK:
// follows the check code of the whole, 80 bits of its SHA-256, which may travel
// by another way. White space and case mean nothing in any of it, nor line
// breaks; each other alteration is refused.
type Bundle struct {
	Site   string
	Host   string // whose keys these are: a host of the site,
	Person string // or somebody who may do everything

	Address string // of the host, as the site file there has it
	Port    int    // of its sshd

	From    []string // addresses and prefixes that Public may be used from
	Public  string   // the key that asks at gates, TYPE BASE64; "" where the host has none
	HostKey string   // the host's own, to be pinned, TYPE BASE64; "" where it is not known
	Grants  []Grant  // what Public may do, by the site file there
}

// Grant is what a key may do at one host.
type Grant struct {
	Host string `json:"host"`
	May  string `json:"may"` // as in "web status ensure; oracle@db1 probe"
}

const (
	codeMark  = "KIDO:"  // the O and the colon are in no code
	checkMark = "CHECK:" // as above

	bundleVersion = 1
	bundleHost    = 0
	bundlePerson  = 1

	codeGroup = 5
	codeRow   = 25 // characters of a line, its check included
	rowCheck  = 2
	checkSize = 10 // bytes of a check code
)

// crockford leaves out I, L and O, which look like 1 and 0, and U.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

var codeEncoding = base32.NewEncoding(crockford).WithPadding(base32.NoPadding)

// Text is the bundle in full, with the lines for people.
func (b *Bundle) Text() (string, error) {
	rows, check, err := b.code()
	if err != nil {
		return "", err
	}
	var t strings.Builder
	t.WriteString(b.head() + "\n" + codeMark + "\n")
	for _, row := range rows {
		for i, group := range groups(row, codeGroup) {
			if i > 0 {
				t.WriteByte(' ')
			}
			t.WriteString(group)
		}
		t.WriteByte('\n')
	}
	t.WriteString(checkMark + " " + check + "\n")
	return t.String(), nil
}

// Compact is the bundle without the lines for people, in one line of the
// characters that a QR code holds two of in eleven bits.
func (b *Bundle) Compact() (string, error) {
	rows, check, err := b.code()
	if err != nil {
		return "", err
	}
	return codeMark + strings.Join(rows, "") + checkMark + strings.ReplaceAll(check, "-", ""), nil
}

// Check is the check code of the bundle, as in 4KJ0-….
func (b *Bundle) Check() (string, error) {
	_, check, err := b.code()
	return check, err
}

// ParseBundle reads the text of a bundle. check is its check code where that came
// by another way, "" where it did not; then it must be in the text. The error
// names the lines that were misheard. A bundle that it returns is whole, and
// holds no key or address that [GateLine] or [Pin] would refuse.
func ParseBundle(text, check string) (*Bundle, error) {
	if strings.Contains(text, "PRIVATE KEY") { // first: no other error may show it
		return nil, errors.New("this is a private key, which never leaves its machine: give what kido keys export prints there")
	}
	head, code, ok := cutLast(text, codeMark)
	if !ok {
		return nil, fmt.Errorf("there is no %s in it: give all that kido keys export printed", codeMark)
	}
	code, written, ok := cutLast(code, checkMark)
	if !ok && check == "" {
		return nil, fmt.Errorf("its last line, %s and the check code, is missing: read it too, or give it with --check", checkMark)
	}
	content, err := decodeRows(code)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct{ code, what string }{{written, "in it"}, {check, "that was given"}} {
		if c.code == "" && (c.what != "in it" || !ok) {
			continue
		}
		if !sameCheck(c.code, checkCode(content)) {
			return nil, fmt.Errorf("the check code %s, %s, is not that of the lines before it, %s: one of the two was altered, or is of another export", c.what, quote(strings.TrimSpace(c.code)), checkCode(content))
		}
	}
	b := &Bundle{}
	if err := b.decode(content); err != nil {
		return nil, err
	}
	if strings.TrimSpace(head) != "" && bare(head) != bare(b.head()) {
		return nil, fmt.Errorf("the lines before %s were altered: the code says\n%s", codeMark, strings.TrimRight(indent(b.head()), "\n"))
	}
	return b, nil
}

// head is what people should see of a bundle.
func (b *Bundle) head() string {
	var t strings.Builder
	fmt.Fprintf(&t, "site %s\n", b.Site)
	if b.Person != "" {
		fmt.Fprintf(&t, "the key of %s\n", b.Person)
	} else {
		what := "the key and the host key"
		switch {
		case b.HostKey == "":
			what = "the key"
		case b.Public == "":
			what = "the host key"
		}
		fmt.Fprintf(&t, "%s of host %s, %s port %d\n", what, b.Host, b.Address, b.Port)
	}
	if b.Public == "" {
		return t.String()
	}
	fmt.Fprintf(&t, "from %s\n", strings.Join(b.From, ", "))
	switch {
	case b.Person != "":
		t.WriteString("may do everything at every host\n")
	case len(b.Grants) == 0:
		t.WriteString("may do nothing at any gate\n")
	}
	for _, g := range b.granted() {
		fmt.Fprintf(&t, "may %s\n  at %s\n", g.may, strings.Join(g.hosts, ", "))
	}
	return t.String()
}

// shared is one set of rights, and the hosts that give it.
type shared struct {
	may   string
	hosts []string
}

// granted brings the hosts together that give the same.
func (b *Bundle) granted() (all []shared) {
	for _, g := range b.Grants {
		i := slices.IndexFunc(all, func(s shared) bool { return s.may == g.May })
		if i < 0 {
			i, all = len(all), append(all, shared{may: g.May})
		}
		all[i].hosts = append(all[i].hosts, g.Host)
	}
	return all
}

// code is the bundle's characters, line by line with the checks of each, and
// its check code.
func (b *Bundle) code() (rows []string, check string, err error) {
	if err := b.check(); err != nil {
		return nil, "", err
	}
	content, err := b.encode()
	if err != nil {
		return nil, "", err
	}
	for n, data := range groups(codeEncoding.EncodeToString(content), codeRow-rowCheck) {
		rows = append(rows, data+checkRow(n, data))
	}
	return rows, checkCode(content), nil
}

// check holds a bundle to what can be locked and pinned.
func (b *Bundle) check() error {
	if (b.Host == "") == (b.Person == "") {
		return errors.New("a bundle is of a host or of a person")
	}
	if err := checkNames(b.Site, b.Host+b.Person); err != nil {
		return err
	}
	switch {
	case b.Person != "" && (b.Public == "" || b.HostKey != "" || b.Address != "" || b.Port != 0 || len(b.Grants) > 0):
		return fmt.Errorf("the bundle of a person, %s, has a key and nothing of a host", b.Person)
	case b.Public == "" && b.HostKey == "":
		return fmt.Errorf("host %s has no key to be carried", b.Host)
	case b.Public == "" && (len(b.From) > 0 || len(b.Grants) > 0):
		return fmt.Errorf("host %s has rights, and no key to use them with", b.Host)
	case b.Public != "" && sameKey(b.Public, b.HostKey):
		return fmt.Errorf("host %s: its key is its sshd's host key: whoever reads the one is the other; make one of its own: kido keys new", b.Host)
	}
	if b.Host != "" {
		pinned := b.HostKey
		if pinned == "" {
			pinned = b.Public // the address and port are held to the same rules
		}
		if _, err := Pin(b.Address, b.Port, pinned); err != nil {
			return err
		}
	}
	if b.Public != "" {
		if _, _, err := parse(b.Public); err != nil {
			return err
		}
		if _, err := sources(b.From); err != nil {
			return err
		}
	}
	for i, g := range b.Grants {
		if err := checkNames(g.Host); err != nil {
			return err
		}
		if strings.Trim(g.May, nameRunes+" ;@") != "" || g.May == "" {
			return fmt.Errorf("what it may do at %s, %s, is not a list of services and verbs", g.Host, quote(g.May))
		}
		if slices.ContainsFunc(b.Grants[:i], func(o Grant) bool { return o.Host == g.Host }) {
			return fmt.Errorf("what it may do at %s is said twice", g.Host)
		}
	}
	return nil
}

func sameKey(a, b string) bool {
	one, err := Fingerprint(a)
	other, oerr := Fingerprint(b)
	return err == nil && oerr == nil && one == other
}

const nameRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// checkNames holds names to what a site file, a policy and a file's name can have.
func checkNames(names ...string) error {
	for _, name := range names {
		if strings.Trim(name, nameRunes) != "" || strings.IndexAny(name, "._-") == 0 || name == "" || len(name) > 63 {
			return fmt.Errorf("%s is not a name: one has letters, digits and . _ -, begins with a letter or digit, and is at most 63 long", quote(name))
		}
	}
	return nil
}

// shortVerbs and longVerbs put a byte for each verb of the gate, in a text that
// is ASCII otherwise. A word that is not among them is spelled out. New ones go
// to the end: their places are part of the form.
var shortVerbs, longVerbs = func() (short, long *strings.Replacer) {
	var to, back []string
	for i, verb := range []string{"status", "ensure", "start", "stop", "restart", "reload", "probe", "fence", "take", "give", "release"} {
		code := string([]byte{byte(0x80 + i)})
		to, back = append(to, " "+verb, code), append(back, code, " "+verb)
	}
	return strings.NewReplacer(to...), strings.NewReplacer(back...)
}()

// encode writes the content: numbers as varints, each text behind its length.
func (b *Bundle) encode() ([]byte, error) {
	out := []byte{bundleVersion}
	number := func(n int) { out = binary.AppendUvarint(out, uint64(n)) }
	text := func(s string) {
		number(len(s))
		out = append(out, s...)
	}
	texts := func(all []string) {
		number(len(all))
		for _, s := range all {
			text(s)
		}
	}
	text(b.Site)
	if b.Person != "" {
		number(bundlePerson)
		text(b.Person)
	} else {
		number(bundleHost)
		text(b.Host)
		text(b.Address)
		number(b.Port)
		blob, err := packKey(b.HostKey)
		if err != nil {
			return nil, err
		}
		text(string(blob))
	}
	blob, err := packKey(b.Public)
	if err != nil {
		return nil, err
	}
	text(string(blob))
	var from []string
	if b.Public != "" {
		if from, err = sources(b.From); err != nil {
			return nil, err
		}
	}
	if slices.Equal(from, []string{b.Address}) {
		from = nil
	}
	texts(from)
	granted := b.granted()
	number(len(granted))
	for _, g := range granted {
		text(shortVerbs.Replace(g.may))
		texts(g.hosts)
	}
	return out, nil
}

// ed25519Head is what stands before the 32 bytes of each ed25519 key (RFC 8709
// §4), and so need not be read out.
const ed25519Head = "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"

func packKey(public string) ([]byte, error) {
	if public == "" {
		return nil, nil
	}
	key, _, err := parse(public)
	if err != nil {
		return nil, err
	}
	return bytes.TrimPrefix(key.Marshal(), []byte(ed25519Head)), nil
}

func unpackKey(blob string) (public string, err error) {
	if len(blob) == 32 {
		blob = ed25519Head + blob
	}
	key, err := ssh.ParsePublicKey([]byte(blob))
	if err != nil {
		return "", fmt.Errorf("not a public key: %w", printable(err))
	}
	return format(key, ""), nil
}

// decode is the opposite of encode: it takes no other spelling.
func (b *Bundle) decode(content []byte) error {
	in := content
	short := false
	number := func() int {
		n, size := binary.Uvarint(in)
		if size <= 0 || n > 1<<20 {
			short, in = true, nil
			return 0
		}
		in = in[size:]
		return int(n)
	}
	text := func() string {
		n := number()
		if n > len(in) {
			short, in = true, nil
			return ""
		}
		s := string(in[:n])
		in = in[n:]
		return s
	}
	texts := func() (all []string) {
		for n := number(); n > 0 && !short; n-- {
			all = append(all, text())
		}
		return all
	}
	if version := number(); version != bundleVersion {
		return fmt.Errorf("it is in a form, %d, that this kido does not know: use one of the same version at both ends", version)
	}
	b.Site = text()
	kind := number()
	var hostKey string
	switch kind {
	case bundlePerson:
		b.Person = text()
	case bundleHost:
		b.Host, b.Address, b.Port, hostKey = text(), text(), number(), text()
	default:
		return fmt.Errorf("it is of neither a host nor a person: kind %d", kind)
	}
	public := text()
	b.From = texts()
	for n := number(); n > 0 && !short; n-- {
		may := longVerbs.Replace(text())
		for _, host := range texts() {
			b.Grants = append(b.Grants, Grant{Host: host, May: may})
		}
	}
	if short || len(in) > 0 {
		return errors.New("it is not what kido keys export prints: its lengths do not fit")
	}
	for _, k := range []struct {
		to   *string
		blob string
	}{{&b.Public, public}, {&b.HostKey, hostKey}} {
		if k.blob == "" {
			continue
		}
		var err error
		if *k.to, err = unpackKey(k.blob); err != nil {
			return err
		}
	}
	if b.From == nil && b.Public != "" && b.Host != "" {
		b.From = []string{b.Address} // as it is, unless the host comes from elsewhere
	}
	if err := b.check(); err != nil {
		return err
	}
	if again, err := b.encode(); err != nil || !bytes.Equal(again, content) {
		return errors.New("it is not what kido keys export prints: it could be said in fewer words")
	}
	return nil
}

// decodeRows turns the characters of a code back into its content.
func decodeRows(code string) ([]byte, error) {
	letters, err := codeLetters(code)
	if err != nil {
		return nil, err
	}
	rows := groups(letters, codeRow)
	var data strings.Builder
	var bad []int
	for n, row := range rows {
		end := len(row) - rowCheck
		if end < 1 || checkRow(n, row[:end]) != row[end:] {
			bad = append(bad, n)
			continue
		}
		data.WriteString(row[:end])
	}
	if len(bad) > 0 {
		return nil, misheard(rows, bad)
	}
	content, err := codeEncoding.DecodeString(data.String())
	if err != nil || len(content) == 0 || codeEncoding.EncodeToString(content) != data.String() {
		return nil, fmt.Errorf("the code ends too early or too late: read it again, from %s to %s", codeMark, checkMark)
	}
	return content, nil
}

// misheard names the lines that do not match their checks.
func misheard(rows []string, bad []int) error {
	name := func(n int) string {
		return fmt.Sprintf("line %d (%s…)", n+1, rows[n][:min(len(rows[n]), codeGroup)])
	}
	switch first := name(bad[0]); len(bad) {
	case 1:
		return fmt.Errorf("%s of the code does not match its check: read it again", first)
	case 2:
		return fmt.Errorf("%s and %s of the code do not match their checks: read them again", first, name(bad[1]))
	default:
		return fmt.Errorf("%s of the code does not match its check, nor do %d lines after it: read that one again first, a character may be missing there, or one too many", first, len(bad)-1)
	}
}

// checkRow are the last two characters of a line of a code. They are another for
// a line in another's place, for one character that is another one, and for two
// that are exchanged: 1021 is a prime, of which 10 is a primitive root. All else
// goes unnoticed once in a thousand times, and then the check code tells.
func checkRow(n int, data string) string {
	const prime, root = 1021, 10
	h := n + 1
	for i := range len(data) {
		h = (h*root + strings.IndexByte(crockford, data[i])) % prime
	}
	return crockford[h>>5:][:1] + crockford[h&31:][:1]
}

func checkCode(content []byte) string {
	sum := sha256.Sum256(content)
	return strings.Join(groups(codeEncoding.EncodeToString(sum[:checkSize]), 4), "-")
}

// sameCheck compares a check code as somebody wrote it; the hyphens are as good
// as blanks.
func sameCheck(written, code string) bool {
	got, err := codeLetters(strings.ReplaceAll(written, "-", " "))
	return err == nil && got == strings.ReplaceAll(code, "-", "")
}

// codeLetters brings the spellings of a code together: upper case, no white
// space, and what is taken for a 1 or a 0 as that.
func codeLetters(s string) (string, error) {
	var out strings.Builder
	for _, r := range s {
		if unicode.IsSpace(r) {
			continue
		}
		if r >= 'a' && r <= 'z' {
			r -= 'a' - 'A'
		}
		switch r {
		case 'I', 'L':
			r = '1'
		case 'O':
			r = '0'
		}
		if !strings.ContainsRune(crockford, r) {
			n := out.Len()/codeRow + 1
			return "", fmt.Errorf("line %d of the code has %s, which no code has: read that line again", n, strconv.QuoteRuneToASCII(r))
		}
		out.WriteRune(r)
	}
	return out.String(), nil
}

// bare is a text without white space and case, of ASCII only: no other letter
// counts as one of it.
func bare(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return -1
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// cutLast cuts a text at a mark, in whatever case.
func cutLast(text, mark string) (before, after string, found bool) {
	upper := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - ('a' - 'A')
		}
		return r
	}, text)
	i := strings.LastIndex(upper, mark)
	if i < 0 || len(upper) != len(text) { // what is not UTF-8 is no bundle
		return text, "", false
	}
	return text[:i], text[i+len(mark):], true
}

func groups(s string, size int) (all []string) {
	for len(s) > size {
		all, s = append(all, s[:size]), s[size:]
	}
	return append(all, s)
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}
