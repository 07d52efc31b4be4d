package keys

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIi"

func hostBundle() *Bundle {
	return &Bundle{
		Site: "shop", Host: "db1", Address: "192.168.0.100", Port: 22,
		From: []string{"192.168.0.100"}, Public: edKey, HostKey: otherKey,
		Grants: []Grant{
			{"web1", "web status ensure fence; oracle@db1 probe"},
			{"web2", "web status ensure fence; oracle@db1 probe"},
			{"web3", "web status fence take give"},
		},
	}
}

func personBundle() *Bundle {
	return &Bundle{Site: "shop", Person: "anna", From: []string{"192.168.0.9", "10.0.0.0/8"}, Public: edKey}
}

func text(t testing.TB, b *Bundle) string {
	t.Helper()
	s, err := b.Text()
	must(t, err)
	return s
}

func TestBundle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ecdsa := filepath.Join(dir, "ecdsa")
	sshKeygen(t, "-q", "-N", "", "-C", "", "-t", "ecdsa", "-f", ecdsa)
	ecdsaKey, err := Public(ecdsa)
	must(t, err)
	webserver := &Bundle{Site: "shop", Host: "web1", Address: "web1.example.org", Port: 2222, HostKey: ecdsaKey}
	keyOnly := hostBundle()
	keyOnly.HostKey, keyOnly.Grants = "", nil
	for name, b := range map[string]*Bundle{"host": hostBundle(), "person": personBundle(), "host key only": webserver, "key only": keyOnly} {
		full := text(t, b)
		check, err := b.Check()
		must(t, err)
		compact, err := b.Compact()
		must(t, err)
		without, _, _ := strings.Cut(full, checkMark)
		_, bareCode, _ := strings.Cut(full, codeMark)
		for form, c := range map[string]struct{ text, check string }{
			"full":             {full, ""},
			"checked":          {full, check},
			"compact":          {compact, check},
			"lower case":       {strings.ToLower(full), strings.ToLower(check)},
			"one line":         {strings.Join(strings.Fields(full), " "), ""},
			"no blanks":        {strings.Join(strings.Fields(full), ""), ""},
			"other line ends":  {strings.ReplaceAll(full, "\n", "\r\n"), ""},
			"wide":             {strings.Join(strings.Split(full, ""), " "), ""},
			"check apart":      {without, check},
			"check by blanks":  {without, strings.ReplaceAll(check, "-", "  ")},
			"no readable part": {codeMark + bareCode, ""},
			"as it was heard":  {strings.NewReplacer("1", "l", "0", "o").Replace(compact), ""},
		} {
			if form == "wide" { // the marks stay whole
				c.text = strings.NewReplacer("K I D O :", codeMark, "C H E C K :", checkMark).Replace(c.text)
			}
			got, err := ParseBundle(c.text, c.check)
			if err != nil || !reflect.DeepEqual(got, b) {
				t.Errorf("%s, %s: %+v, %v\n%s", name, form, got, err, c.text)
			}
		}
	}
}

// What has to be read out, or fits a QR code: a pair of keys and some grants.
func TestBundleLength(t *testing.T) {
	t.Parallel()
	compact, err := hostBundle().Compact()
	must(t, err)
	if n := len(compact); n != 270 {
		t.Errorf("%d characters", n)
	}
	if strings.Trim(compact, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:") != "" {
		t.Errorf("not of a QR code's alphanumeric characters: %s", compact)
	}
	check, err := hostBundle().Check()
	must(t, err)
	if n := 5 * len(strings.ReplaceAll(check, "-", "")); n < 75 {
		t.Errorf("the check code has %d bits", n)
	}
	for line := range strings.Lines(text(t, hostBundle())) {
		if len(line) > 80 {
			t.Errorf("wide: %s", line)
		}
	}
}

// same reports whether two texts differ in nothing that counts.
func same(a, b string) bool {
	fold := func(s string) string {
		head, code, _ := strings.Cut(bare(s), strings.ToLower(codeMark))
		return head + codeMark + strings.NewReplacer("-", "", "i", "1", "l", "1", "o", "0").Replace(code)
	}
	return fold(a) == fold(b)
}

// Every alteration of one character is refused: another, one less, one more.
func TestBundleAlteredCharacter(t *testing.T) {
	t.Parallel()
	others := strings.Split(crockford+"UazI:;,.-", "") // a code has the first 32, and what is read as one of them
	strange := []string{"\x00", "\n", "\u200b", "\u212a", "é", "０", "О" /* Cyrillic */, "\ufffd"}
	for n, b := range []*Bundle{hostBundle(), personBundle()} {
		full := text(t, b)
		if n > 0 {
			others = others[:8] // the rest has been tried
		}
		for i := range full { // it is ASCII
			before, after := full[:i], full[i+1:]
			all := []string{before + after, before + full[i:i+1] + full[i:]}
			for _, r := range others {
				all = append(all, before+r+after)
			}
			for _, r := range strange {
				all = append(all, before+r+after)
			}
			for _, altered := range all {
				if same(altered, full) {
					continue
				}
				if _, err := ParseBundle(altered, ""); err == nil {
					t.Fatalf("taken:\n%s", altered)
				}
			}
		}
	}
}

// A check code that came by another way finds an alteration by somebody who
// makes the rest fit.
func TestBundleForged(t *testing.T) {
	t.Parallel()
	check, err := hostBundle().Check()
	must(t, err)
	for name, forge := range map[string]func(*Bundle){
		"key":     func(b *Bundle) { b.Public = strings.Replace(edKey, "RER", "RES", 1) },
		"address": func(b *Bundle) { b.From = append(b.From, "192.168.0.66") },
		"grant":   func(b *Bundle) { b.Grants[0].May += " start" },
	} {
		b := hostBundle()
		forge(b)
		forged := text(t, b)
		if _, err := ParseBundle(forged, ""); err != nil {
			t.Fatalf("%s: no good forgery: %v", name, err)
		}
		if _, err := ParseBundle(forged, check); err == nil || !strings.Contains(err.Error(), "that was given") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, wrong := range []string{check[1:], check + "0", "nonsense", "Ω", strings.Repeat("0", 16)} {
		if _, err := ParseBundle(text(t, hostBundle()), wrong); err == nil || !strings.Contains(err.Error(), "is not that of the lines before it") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// rows are the lines of a bundle's code, and what is around them.
func rows(t testing.TB) (before string, rows []string, after string) {
	t.Helper()
	before, rest, _ := strings.Cut(text(t, hostBundle()), codeMark+"\n")
	code, after, _ := strings.Cut(rest, "\n"+checkMark)
	return before + codeMark + "\n", strings.Split(code, "\n"), "\n" + checkMark + after
}

// Groups and lines in another order are refused, and the line is named.
func TestBundleExchanged(t *testing.T) {
	t.Parallel()
	before, lines, after := rows(t)
	groups := strings.Fields(strings.Join(lines, " "))
	for i := range groups {
		for j := range i {
			moved := append([]string{}, groups...)
			moved[i], moved[j] = moved[j], moved[i]
			if moved[i] == groups[i] {
				continue
			}
			if _, err := ParseBundle(before+strings.Join(moved, " ")+after, ""); err == nil {
				t.Errorf("groups %d and %d exchanged: taken", j, i)
			}
		}
	}
	for i := range lines {
		for j := range i {
			moved := append([]string{}, lines...)
			moved[i], moved[j] = moved[j], moved[i]
			_, err := ParseBundle(before+strings.Join(moved, "\n")+after, "")
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("line %d (", j+1)) {
				t.Errorf("lines %d and %d exchanged: %v", j+1, i+1, err)
			}
		}
	}
}

// The line that was misheard is named, whichever character of it was.
func TestBundleMisheard(t *testing.T) {
	t.Parallel()
	before, lines, after := rows(t)
	for n, line := range lines {
		for i := range line {
			if line[i] == ' ' {
				continue
			}
			other := crockford[(strings.IndexByte(crockford, line[i])+1+i)%32]
			if other == line[i] {
				continue
			}
			altered := append([]string{}, lines...)
			altered[n] = line[:i] + string(other) + line[i+1:]
			_, err := ParseBundle(before+strings.Join(altered, "\n")+after, "")
			want := fmt.Sprintf("line %d (%s…) of the code does not match its check: read it again", n+1, altered[n][:min(5, len(line))])
			if err == nil || err.Error() != want {
				t.Fatalf("%v; want %s", err, want)
			}
		}
	}
	lost := append([]string{}, lines...)
	lost[1] = lost[1][1:]
	_, err := ParseBundle(before+strings.Join(lost, "\n")+after, "")
	if err == nil || !strings.Contains(err.Error(), "line 2 (") || !strings.Contains(err.Error(), "a character may be missing") {
		t.Errorf("a lost character: %v", err)
	}
	_, err = ParseBundle(before+strings.Join(append([]string{lines[0][:4] + "U" + lines[0][5:]}, lines[1:]...), "\n")+after, "")
	if err == nil || err.Error() != "line 1 of the code has 'U', which no code has: read that line again" {
		t.Errorf("a letter that is none: %v", err)
	}
}

func TestParseBundleRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sshKeygen(t, "-q", "-N", "", "-t", "ed25519", "-f", filepath.Join(dir, "id"))
	private, err := os.ReadFile(filepath.Join(dir, "id"))
	must(t, err)
	full := text(t, hostBundle())
	before, lines, after := rows(t)
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "there is no KIDO: in it"},
		{"a public key", edKey, "there is no KIDO: in it"},
		{"a private key", string(private), "this is a private key"},
		{"cut before the check code", strings.Join(append([]string{before}, lines...), "\n"), "its last line, CHECK: and the check code, is missing"},
		{"an empty check code", before + strings.Join(lines, "\n") + "\nCHECK:\n", "is not that of the lines before it"},
		{"without its last line", before + strings.Join(lines[:len(lines)-1], "\n") + after, "the code"},
		{"no code", "KIDO: CHECK: 0000-0000-0000-0000", "line 1"},
		{"another head", strings.Replace(full, "site shop", "site shed", 1), "the lines before KIDO: were altered: the code says\n  site shop\n"},
		{"more rights in the head", strings.Replace(full, "probe\n", "probe; mail start\n", 1), "were altered"},
		{"less of the head", strings.Replace(full, "from 192.168.0.100\n", "", 1), "were altered"},
		{"two bundles", full + full, "were altered"},
	} {
		got, err := ParseBundle(c.text, "")
		if got != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want … %s", c.name, got, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), strings.Split(string(private), "\n")[1][:20]) {
			t.Errorf("%s: the error shows the private key", c.name)
		}
	}
}

// spell writes content as a bundle that is right in everything but what it says.
func spell(content []byte) string {
	s := codeMark
	for n, data := range groups(codeEncoding.EncodeToString(content), codeRow-rowCheck) {
		s += "\n" + data + checkRow(n, data)
	}
	return s + "\n" + checkMark + checkCode(content)
}

// Whoever makes all checks fit still brings in nothing that a line would refuse.
func TestBundleContent(t *testing.T) {
	t.Parallel()
	weak := filepath.Join(t.TempDir(), "rsa")
	sshKeygen(t, "-q", "-N", "", "-C", "", "-t", "rsa", "-b", "1024", "-f", weak)
	text, err := os.ReadFile(weak + ".pub")
	must(t, err)
	blob, err := base64.StdEncoding.DecodeString(strings.Fields(string(text))[1])
	must(t, err)
	b := hostBundle()
	b.From = []string{"10.0.0.77"}
	good, err := b.encode()
	must(t, err)
	for _, c := range []struct {
		name    string
		content string
		want    string
	}{
		{"nothing", "\x00", "that this kido does not know"},
		{"a later version", "\x02" + string(good[1:]), "it is in a form, 2,"},
		{"more behind it", string(good) + "\x00", "its lengths do not fit"},
		{"cut", string(good[:len(good)-1]), "its lengths do not fit"},
		{"a huge length", "\x01\xff\xff\xff\xff\x0f", "its lengths do not fit"},
		{"a long number", "\x01\x84\x00" + string(good[2:]), "fewer words"},
		{"neither host nor person", strings.Replace(string(good), "shop\x00", "shop\x02", 1), "neither a host nor a person"},
		{"a path as name", strings.Replace(string(good), "\x03db1", "\x03../", 1), `"../" is not a name`},
		{"a newline in a right", strings.Replace(string(good), "web\x80", "we\n\x80", 1), "is not a list of services and verbs"},
		{"every address", strings.Replace(string(good), "\x01\x0910.0.0.77", "\x01\x090.0.0.0/0", 1), "this is every address"},
		{"an address in long", strings.Replace(string(good), "\x01\x0910.0.0.77", "\x01\x06FE80::", 1), "fewer words"},
		{"its own address", strings.Replace(string(good), "\x01\x0910.0.0.77", "\x01\x0d192.168.0.100", 1), "fewer words"},
		{"a verb in full", strings.Replace(string(good), "\x13web\x80", "\x19web status", 1), "fewer words"},
		{"another port", strings.Replace(string(good), "192.168.0.100\x16", "192.168.0.100\x00", 1), "a port is 1 to 65535"},
		{"a key that is none", strings.Replace(string(good), "\x20"+strings.Repeat("\x22", 32), "\x05AAAAA", 1), "not a public key"},
		{"a weak key", strings.Replace(string(good), "\x20"+strings.Repeat("\x11", 32), "\x97\x01"+string(blob), 1), "RSA of 1024 bits"},
		{"the host key as key", strings.Replace(string(good), strings.Repeat("\x11", 32), strings.Repeat("\x22", 32), 1), "its key is its sshd's host key"},
		{"a host twice", strings.Replace(string(good), "web3", "web1", 1), "is said twice"},
	} {
		if c.content == string(good) {
			t.Errorf("%s: nothing was altered", c.name)
		}
		got, err := ParseBundle(spell([]byte(c.content)), "")
		if got != nil || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, %v; want … %s", c.name, got, err, c.want)
		}
	}
}

func TestBundleIncomplete(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		alter func(*Bundle)
		want  string
	}{
		"no site":            {func(b *Bundle) { b.Site = "" }, "is not a name"},
		"a long name":        {func(b *Bundle) { *b = *personBundle(); b.Person = strings.Repeat("a", 64) }, "at most 63 long"},
		"host and person":    {func(b *Bundle) { b.Person = "anna" }, "of a host or of a person"},
		"neither":            {func(b *Bundle) { b.Host = "" }, "of a host or of a person"},
		"no key at all":      {func(b *Bundle) { b.Public, b.HostKey = "", "" }, "has no key to be carried"},
		"rights, no key":     {func(b *Bundle) { b.Public = "" }, "no key to use them with"},
		"no address":         {func(b *Bundle) { b.Address = "" }, "a name has 1 to 253 bytes"},
		"name as source":     {func(b *Bundle) { b.From = []string{"db1"} }, "neither an IP address"},
		"no source":          {func(b *Bundle) { b.From = nil }, "works from anywhere"},
		"key with options":   {func(b *Bundle) { b.Public = "restrict " + b.Public }, "without options"},
		"person's host key":  {func(b *Bundle) { *b = *personBundle(); b.HostKey = otherKey }, "nothing of a host"},
		"person without key": {func(b *Bundle) { *b = *personBundle(); b.Public = "" }, "nothing of a host"},
	} {
		b := hostBundle()
		c.alter(b)
		for form, write := range map[string]func() (string, error){"text": b.Text, "compact": b.Compact, "check": b.Check} {
			if got, err := write(); got != "" || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %q, %v; want … %s", name, form, got, err, c.want)
			}
		}
	}
}

// What is taken says one thing, in one spelling.
func FuzzParseBundle(f *testing.F) {
	for _, b := range []*Bundle{hostBundle(), personBundle()} {
		content, err := b.encode()
		must(f, err)
		f.Add(content, text(f, b), "")
	}
	f.Add([]byte("\x01"), "KIDO: 0\nCHECK: 0", "0000-0000")
	f.Fuzz(func(t *testing.T, content []byte, full, check string) {
		for _, text := range []string{spell(content), full} {
			b, err := ParseBundle(text, check)
			if err != nil {
				continue
			}
			again, err := b.Text()
			must(t, err)
			back, err := ParseBundle(again, check)
			if err != nil || !reflect.DeepEqual(back, b) {
				t.Errorf("%q is %+v, and that again %+v: %v", text, b, back, err)
			}
			if _, err := GateLine(LineOptions{From: b.From, Gate: "/gate", Public: b.Public}); b.Public != "" && err != nil {
				t.Errorf("%+v: %v", b, err)
			}
		}
	})
}

// Every alteration of several characters at once is refused too.
func TestBundleScrambled(t *testing.T) {
	t.Parallel()
	full := text(t, hostBundle())
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		altered := []byte(full)
		for range 1 + r.IntN(8) {
			altered[r.IntN(len(altered))] = full[r.IntN(len(full))]
		}
		if got, err := ParseBundle(string(altered), ""); err == nil && !same(string(altered), full) {
			t.Fatalf("seed %d: taken as %+v:\n%s", seed, got, altered)
		}
	}
}
