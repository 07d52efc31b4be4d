package keys

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const someKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4FlPK0mfqFYkH4i5j5m6kfuFqpjWnPJDGxqpBgWrUt"

// with is options as something changes them.
func with(o Options, change func(*Options)) Options {
	change(&o)
	return o
}

func TestParseLines(t *testing.T) {
	t.Parallel()
	locked := Options{Restrict: true}
	for _, c := range []struct {
		name, line string
		want       Options
		ignored    string // in the reason
	}{
		{"bare", someKey, unrestricted(), ""},
		{"blanks", "  \t" + someKey + " a comment", unrestricted(), ""},
		{"gate", `restrict,from="192.0.2.1",command="/usr/local/sbin/kido-gate" ` + someKey, with(locked, func(o *Options) {
			o.From, o.Sourced, o.Command, o.Forced = "192.0.2.1", true, "/usr/local/sbin/kido-gate", true
		}), ""},
		{"memo", `from="192.168.0.100",no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty,command="/etc/init.d/httpd restart" ` + someKey, Options{
			From: "192.168.0.100", Sourced: true, Command: "/etc/init.d/httpd restart", Forced: true, UserRC: true,
		}, ""},
		{"taken back", `restrict,pty,Port-Forwarding ` + someKey, with(locked, func(o *Options) { o.PTY, o.Forwarding = true, true }), ""},
		{"the last one wins", `pty,restrict ` + someKey, locked, ""},
		{"escaped quotes", `command="echo \"a b\", c" ` + someKey, with(unrestricted(), func(o *Options) { o.Forced, o.Command = true, `echo "a b", c` }), ""},
		{"a backslash alone", `command="a\b" ` + someKey, with(unrestricted(), func(o *Options) { o.Forced, o.Command = true, `a\b` }), ""},
		{"empty command", `command="" ` + someKey, with(unrestricted(), func(o *Options) { o.Forced = true }), ""},
		{"forwarding", `permitopen="db:5432",permitlisten="8080",tunnel="1",environment="A=b" ` + someKey, with(unrestricted(), func(o *Options) {
			o.PermitOpen, o.PermitListen, o.Tunnel, o.Environment = []string{"db:5432"}, []string{"8080"}, "1", []string{"A=b"}
		}), ""},
		{"authority", `cert-authority,principals="a,b" ` + someKey, with(unrestricted(), func(o *Options) { o.Authority, o.Principals = true, "a,b" }), ""},
		{"expiry", `expiry-time="20301231Z" ` + someKey, with(unrestricted(), func(o *Options) { o.Expiry = "20301231Z" }), ""},
		// What hides a key from who looks, and not from sshd.
		{"a NUL", someKey + "\x00 a comment", unrestricted(), ""},
		{"blanks of other kinds", someKey[:40] + "\v\f\r" + someKey[40:] + "\v", unrestricted(), ""},
		{"options before a NUL", "restrict\x00 " + someKey, Options{}, "no public key"},
		{"stray commas", `,no-pty,, ` + someKey, with(unrestricted(), func(o *Options) { o.PTY = false }), ""},
		{"the memo's other spelling", `no-pty-forwarding ` + someKey, Options{}, "unknown option at \"-forwarding\""},
		{"unknown", `restrict,shell ` + someKey, Options{}, "unknown option"},
		{"restrict is not negated", `no-restrict ` + someKey, Options{}, "unknown option"},
		{"twice", `command="a",command="b" ` + someKey, Options{}, "command=: stands there twice"},
		{"from twice", `from="192.0.2.1",from="192.0.2.2" ` + someKey, Options{}, "from=: stands there twice"},
		{"no quotes", `command=a ` + someKey, Options{}, "not in quotes"},
		{"open quote", `command="a ` + someKey, Options{}, "not closed"},
		{"two backslashes hide a quote", `command="a\\" ` + someKey, Options{}, "not closed"},
		{"blank in the options", `restrict, command="a" ` + someKey, Options{}, "no public key"},
		{"bad environment", `environment="A" ` + someKey, Options{}, "NAME=VALUE"},
		{"bad expiry", `expiry-time="tomorrow" ` + someKey, Options{}, "not a time"},
		{"bad permitopen", `permitopen="db" ` + someKey, Options{}, "not HOST:PORT"},
		{"wrapped", `from="192.0.2.1",`, Options{}, "end in a comma"},
		{"wrapped key", `AAAAB3NzaC1yc2E`, Options{}, "unknown option"},
		{"type of another", "ssh-rsa " + strings.Fields(someKey)[1], Options{}, "unknown option"},
	} {
		lines := ParseLines("# a comment\n\n" + c.line + "\n")
		if len(lines) != 1 {
			t.Errorf("%s: %d lines", c.name, len(lines))
			continue
		}
		l := lines[0]
		if l.Number != 3 {
			t.Errorf("%s: line %d, want 3", c.name, l.Number)
		}
		if (l.Ignored == "") != (c.ignored == "") || !strings.Contains(l.Ignored, c.ignored) {
			t.Errorf("%s: ignored %q, want %q in it", c.name, l.Ignored, c.ignored)
		}
		if c.ignored == "" && !reflect.DeepEqual(l.Options, c.want) {
			t.Errorf("%s: %+v\nwant %+v", c.name, l.Options, c.want)
		}
		if c.ignored == "" && l.Key.Public != someKey {
			t.Errorf("%s: the key is %q", c.name, l.Key.Public)
		}
	}
}

// A private key that has got into a file of public ones is named and not shown, and
// hides no key behind it.
func TestLinesOfAPrivateKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	if _, err := New(path, ""); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Split(strings.TrimSpace(string(text)), "\n")
	body = body[1 : len(body)-1]
	for name, c := range map[string]struct {
		text string
		want []int // the numbers of the lines, below zero where they have no key
	}{
		"whole":          {string(text) + someKey + "\n", []int{-1, len(body) + 3}},
		"without an end": {"-----BEGIN RSA PRIVATE KEY-----\n" + body[1] + "\n" + someKey + "\n" + someKey + "\n", []int{-1, 3, 4}},
		"a key in it":    {"-----BEGIN PRIVATE KEY-----\nrestrict " + someKey + "\n" + "no-shell " + someKey + "\n", []int{-1, 2, 3}},
		"without a head": {strings.Join(body[:2], "\n"), []int{-1, -2}},
		"as an option":   {body[1] + " " + body[1], []int{-1}},
	} {
		var got []int
		for _, l := range ParseLines(c.text) {
			n := l.Number
			if l.Key.Public == "" {
				n = -n
			}
			got = append(got, n)
			for _, secret := range body {
				if strings.Contains(l.Ignored, secret[:10]) {
					t.Errorf("%s: line %d shows the key: %s", name, l.Number, l.Ignored)
				}
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: lines %v, want %v", name, got, c.want)
		}
	}
}

// What somebody named a key's type in the key itself is not shown as it is.
func TestHostileType(t *testing.T) {
	t.Parallel()
	blob := "\x00\x00\x00\x07\x1b[2Jabc" + strings.Repeat("x", 40)
	evil := "x ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte(blob))
	_, ferr := Fingerprint(evil)
	_, cerr := ParseCertificate(evil)
	_, berr := ParseBlob(evil[2:])
	_, uerr := unpackKey(blob)
	for name, err := range map[string]error{"key": ferr, "certificate": cerr, "blob": berr, "bundle": uerr} {
		if err == nil || !strings.Contains(err.Error(), `\x1b[2Jabc`) || checkText("", err.Error()) != nil {
			t.Errorf("%s: %q", name, err)
		}
	}
}

func TestLineKeepsTheKeyOfAnIgnoredLine(t *testing.T) {
	t.Parallel()
	l := ParseLines(`no-pty-forwarding ` + someKey + " db1")[0]
	if l.Key.Fingerprint == "" || l.Comment != "db1" {
		t.Errorf("%+v", l)
	}
}

func TestSourcePatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from string
		want string // prefixes; ! before what is negated, ~ before a name
		err  string
	}{
		{"192.0.2.1,2001:db8::/32", "192.0.2.1/32 2001:db8::/32", ""},
		{"!192.0.2.1,192.0.2.0/24", "!192.0.2.1/32 192.0.2.0/24", ""},
		{"*.example.com,db1,192.0.2.*", "~*.example.com ~db1 ~192.0.2.*", ""},
		{"name/8", "~name/8", ""},
		{"192.0.2.1,127.0.0.1/8", "192.0.2.1/32", "host bits"},
		{"192.0.2.0/33", "", "no prefix length"},
		{"192.0.2.1,", "192.0.2.1/32", "empty"},
		{"", "", "empty"},
	} {
		all, err := SourcePatterns(c.from)
		var got []string
		for _, p := range all {
			s := p.Prefix.String()
			if p.Name {
				s = "~" + p.Text
			}
			if p.Negated {
				s = "!" + s
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %q, %v; want %q, %q", c.from, got, err, c.want, c.err)
		}
	}
}

// A parser that errs on the quiet side would hide a key. ssh-keygen cuts a line
// into options and key as sshd does.
func TestLinesAgainstSSHKeygen(t *testing.T) {
	t.Parallel()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("SKIPPED: wants ssh-keygen; install the package openssh-client")
	}
	for _, line := range []string{
		someKey, "\t" + someKey + " x", `command="a b" ` + someKey, `command="a \" b" ` + someKey, `command="a \\" ` + someKey,
		`command="a ` + someKey, "# " + someKey, `restrict,,pty ` + someKey, "ssh-rsa " + strings.Fields(someKey)[1],
		`restrict, command="a" ` + someKey, "garbage",
	} {
		file := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		want := ""
		if out, err := exec.Command(keygen, "-lf", file).Output(); err == nil {
			want = strings.Fields(string(out))[1]
		}
		got := ""
		for _, l := range ParseLines(line) {
			got = l.Key.Fingerprint
		}
		if got != want {
			t.Errorf("%s: %q, ssh-keygen says %q", line, got, want)
		}
	}
}

// FuzzLine: whatever stands in a file of keys, it is read without a crash, with a
// key or a reason; and a line that kido writes is read as it was meant.
func FuzzLine(f *testing.F) {
	for _, s := range []string{
		someKey, `restrict,from="192.0.2.1",command="/usr/local/sbin/kido-gate" ` + someKey, `command="a\"b",no-pty ` + someKey,
		`cert-authority,principals="a" ` + someKey, "\x00", `"`, `\"`, ",", `permitopen="` + someKey, "ssh-rsa AAAAB3NzaC1yc2E=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, l := range ParseLines(text) {
			if l.Key.Public == "" && l.Ignored == "" {
				t.Fatalf("no key and no reason: %+v", l)
			}
			_, _ = SourcePatterns(l.Options.From)
		}
		line, err := PlainLine([]string{"192.0.2.1"}, text, someKey)
		if err != nil {
			return
		}
		l := ParseLines(line)
		if len(l) != 1 || l[0].Ignored != "" || l[0].Options.Command != text || !l[0].Options.Restrict || l[0].Options.PTY || l[0].Options.From != "192.0.2.1" {
			t.Fatalf("%s is read as %+v", line, l)
		}
	})
}
