package remote

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// publicKey makes the n-th of a row of keys, without a file.
func publicKey(t testing.TB, n uint8) ssh.PublicKey {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed).Public())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// numbered puts keys for {0} to {9} into a text.
func numbered(t testing.TB, text string) string {
	t.Helper()
	for n := range uint8(10) {
		text = strings.ReplaceAll(text, fmt.Sprintf("{%d}", n), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(publicKey(t, n)))))
	}
	return text
}

func TestLookup(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, known   string
		host, address string
		port          int
		want          string // numbers of keys
	}{
		{"address", "192.0.2.1 {1}\n192.0.2.2 {2}", "db1", "192.0.2.1", 22, "1"},
		{"port 22 written out", "[192.0.2.1]:22 {1}", "db1", "192.0.2.1", 22, "1"},
		{"address and port", "[192.0.2.1]:2222 {1}", "db1", "192.0.2.1", 2222, "1"},
		{"another port", "192.0.2.1,[192.0.2.1]:2223 {1}", "db1", "192.0.2.1", 2222, ""},
		{"name", "db1 {1}", "db1", "192.0.2.1", 2222, "1"},
		{"the name wins", "192.0.2.1 {1}\ndb1 {2}", "db1", "192.0.2.1", 22, "2"},
		{"list", "db1,192.0.2.1 {1}", "", "192.0.2.1", 22, "1"},
		{"several, in order, once", "db1 {2}\ndb1 {1}\ndb1 {2}", "db1", "", 22, "2 1"},
		{"case", "DB1.Example.ORG {1}", "", "db1.example.org", 22, "1"},
		{"IPv6", "2001:DB8:0::1 {1}", "", "2001:db8::1", 22, "1"},
		{"IPv6 and port", "[2001:db8:0::1]:2222 {1}", "", "2001:db8::1", 2222, "1"},
		{"comment, blanks, CRLF", "# db1 {1}\r\n\r\n  db1\t{2} root@db1 note\r\n", "db1", "", 22, "2"},
		{"wildcard", "*.example.org {1}\nweb? {2}", "web1", "db1.example.org", 22, "2"},
		{"wildcard on the address", "*.example.org {1}", "db1", "db1.example.org", 22, "1"},
		{"negated", "web*,!web1 {1}\nweb1 {2}", "web1", "", 22, "2"},
		{"only negated", "!web1 {1}", "web2", "", 22, ""},
		{"star alone with port", "[*]:2222 {1}", "db1", "192.0.2.1", 2222, "1"},
		{"dot is no wildcard", "db.1 {1}", "dbx1", "", 22, ""},
		{"hashed", knownhosts.HashHostname("db1") + " {1}\n" + knownhosts.HashHostname("[192.0.2.1]:2222") + " {2}", "db1", "", 22, "1"},
		{"hashed with port", knownhosts.HashHostname("[192.0.2.1]:2222") + " {2}", "db1", "192.0.2.1", 2222, "2"},
		{"revoked", "db1 {1}\ndb1 {2}\n@revoked * {1}", "db1", "", 22, "2"},
		{"revoked for another host too", "db1 {1}\n@revoked db7 {1}", "db1", "", 22, ""},
		{"no name matches nothing", "* {1}", "", "", 22, ""},
		{"prefix is no match", "192.0.2.10 {1}", "db1", "192.0.2.1", 22, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, pin := range pins(t, numbered(t, tt.known)).Lookup(tt.host, tt.address, tt.port) {
				for n := range uint8(10) {
					if pin.Fingerprint() == ssh.FingerprintSHA256(publicKey(t, n)) {
						got = append(got, fmt.Sprint(n))
					}
				}
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got keys %v, want %q", got, tt.want)
			}
		})
	}
}

func TestParsePinsErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{"\ndb1 ssh-ed25519", "known_hosts:2: a line is"},
		{"db1 ssh-ed25519 AAAA*", "not in base64"},
		{"db1 ssh-ed25519 AAAA", "cannot be read"},
		{"db1 ssh-ed25519 AAAABRtbMkpheHh4eHh4eA==", `unknown key algorithm: \x1b[2Ja`},
		{strings.Replace(numbered(t, "db1 {1}"), "ssh-ed25519", "ssh-rsa", 1), `the line says "ssh-rsa"`},
		{numbered(t, "@cert-authority * {1}"), "@cert-authority is not taken"},
		{numbered(t, "@other * {1}"), `unknown marker "@other"`},
		{numbered(t, "db1,,db2 {1}"), "empty name"},
		{numbered(t, "db1,! {1}"), "empty name"},
		{numbered(t, "|1|x|y {1}"), "not a hashed name"},
		{numbered(t, "|2|AAAA|AAAA {1}"), "not a hashed name"},
		{"x\ny", "known_hosts:1: a line is: names, key type, key in base64\nknown_hosts:2: a line is"},
	} {
		_, err := ParsePins([]byte(tt.text), "known_hosts")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want …%q…", tt.text, err, tt.want)
		}
	}
	_, err := LoadPins("/nonexistent/known_hosts")
	wantError(t, err, "", KindHostKeyUnknown, false, "/nonexistent/known_hosts")
}

// What is written for a host is found for it, and only what x/crypto's own
// reader of the format would take for it too.
func FuzzPins(f *testing.F) {
	for _, s := range []string{"db1", "DB1", "::1", "[::1]:2222", "[h]:22", "a*", "!a", "|1|a|b", "a,b", "h:22", ":"} {
		f.Add(s, "db1 "+s, 22)
	}
	f.Fuzz(func(t *testing.T, name, text string, port int) {
		if p, err := ParsePins([]byte(numbered(t, text)), "f"); err == nil {
			p.Lookup(name, name, port)
		}
		key := publicKey(t, 1)
		port = 1 + (port&0xffff)%65535
		if strings.ContainsAny(name, ",*?!|@#[]") || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) || name == "" {
			return
		}
		line := knownName(name, port) + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
		p, err := ParsePins([]byte(line), "f")
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if found := p.Lookup("", name, port); len(found) != 1 {
			t.Fatalf("%q is not found for %q port %d", line, name, port)
		}
		if strings.Contains(name, ":") {
			return // it may be an address with a port already
		}
		if found := p.Lookup("", name, port%65535+1); len(found) != 0 {
			t.Fatalf("%q is found at another port", line)
		}
		if found := p.Lookup("", name+"x", port); len(found) != 0 {
			t.Fatalf("%q is found for another name", line)
		}
	})
}

func TestMatchPattern(t *testing.T) {
	t.Parallel()
	// Against the obvious recursion, over a small alphabet.
	var slow func(p, s string) bool
	slow = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return slow(p[1:], s) || s != "" && slow(p, s[1:])
		}
		return s != "" && (p[0] == '?' || p[0] == s[0]) && slow(p[1:], s[1:])
	}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from string) string {
		b := make([]byte, r.IntN(7))
		for i := range b {
			b[i] = from[r.IntN(len(from))]
		}
		return string(b)
	}
	for range 20000 {
		p, s := pick("ab*?"), pick("ab")
		if got, want := matchPattern(p, s), slow(p, s); got != want {
			t.Fatalf("matchPattern(%q, %q) is %v", p, s, got)
		}
	}
}
