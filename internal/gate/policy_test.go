package gate

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
	"kido/internal/wire"
)

const (
	keyA = "SHA256:MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"
	keyC = "SHA256:c29tZWJvZHkgZWxzZSdzLCB3aG8gaGFzIGxvc3QgaXQ"
	keyB = "SHA256:YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY"
)

// samplePolicy uses every word of the language, and what only people write.
const samplePolicy = `kido-policy 1
# the web server
host web1

prober /usr/local/bin/kido   # for https
become  /usr/bin/sudo	-n
systemctl /usr/bin/systemctl
timeout 60000
service web command
	start /usr/sbin/web --daemon "--motto=a b" ""
	stop /usr/sbin/web "--stop"
	reload /usr/sbin/web --reload
	pidfile /run/web.pid
	ready tcp 192.168.0.50:80 timeout=3000
	wait 300000 0 leave
	await oracle@db1
	await oracle@db1 cache@c1
	budget 10 600000
	pool 1 web@web1 web@web2
	peer cache@c1 cache.example:11211
	peer oracle@db1 192.168.0.100:1521 192.168.0.101:1521
service mail external
	ready tcp mail.example:25
	failures 3
service new systemd httpd@a.service
	wait 1 10000 start
service rc openrc httpd
service old sysv httpd
service older sysv httpd-1
  pidfile /var/run/httpd.pid
watch oracle@db1
  ready tcp 192.168.0.100:1521
watch cache@c1
  ready tcp 192.168.0.101:11211
principal db1 ` + keyA + ` ` + keyB + `
principal anykey unexposed
principal here local
revoked ` + keyC + `
grant db1 web ensure status
grant db1 oracle@db1 probe
grant here old stop
`

func parsed(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	p := parsed(t, samplePolicy)
	want := &Policy{
		Host:    "web1",
		State:   DefaultState,
		Prober:  "/usr/local/bin/kido",
		Become:  []string{"/usr/bin/sudo", "-n"},
		Timeout: time.Minute, Systemctl: "/usr/bin/systemctl",
		Services: []PolicyService{
			{
				Name: "web", Adapter: "command",
				Start:   []string{"/usr/sbin/web", "--daemon", "--motto=a b", ""},
				Stop:    []string{"/usr/sbin/web", "--stop"},
				Reload:  []string{"/usr/sbin/web", "--reload"},
				PIDFile: "/run/web.pid",
				Ready:   p.Services[0].Ready,
				Wait:    &Wait{Timeout: 5 * time.Minute, Leave: true, Await: [][]string{{"oracle@db1"}, {"oracle@db1", "cache@c1"}}},
				Budget:  &Budget{10, 10 * time.Minute}, Members: &Members{1, []string{"web@web1", "web@web2"}},
				Peers: []Peer{{"cache@c1", []string{"cache.example:11211"}}, {"oracle@db1", []string{"192.168.0.100:1521", "192.168.0.101:1521"}}},
			},
			{Name: "mail", Adapter: "external", Ready: p.Services[1].Ready, Failures: 3},
			{Name: "new", Adapter: "systemd", Unit: "httpd@a.service", Wait: &Wait{Timeout: time.Millisecond, Grace: 10 * time.Second}},
			{Name: "rc", Adapter: "openrc", Unit: "httpd", PIDFile: "/run/httpd.pid"},
			{Name: "old", Adapter: "sysv", Unit: "httpd", PIDFile: "/run/httpd.pid"},
			{Name: "older", Adapter: "sysv", Unit: "httpd-1", PIDFile: "/var/run/httpd.pid"},
		},
		Watches: []Watch{{Instance: "oracle@db1", Ready: p.Watches[0].Ready}, {Instance: "cache@c1", Ready: p.Watches[1].Ready}},
		Principals: []Principal{
			{"db1", []string{keyA, keyB}}, {"anykey", []string{"unexposed"}}, {"here", []string{"local"}},
		},
		Revoked: []string{keyC},
		Grants: []Grant{
			{"db1", "web", []wire.Verb{wire.VerbStatus, wire.VerbEnsure}},
			{"db1", "oracle@db1", []wire.Verb{wire.VerbProbe}},
			{"here", "old", []wire.Verb{wire.VerbStop}},
		},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	if r := p.Services[0].Ready; len(r) != 1 || r[0].Kind != probe.KindTCP || r[0].Target != "192.168.0.50:80" || r[0].Timeout != 3*time.Second {
		t.Errorf("probes of web: %+v", r)
	}
	if p.Service("older") != &p.Services[5] || p.Service("none") != nil || p.Watch("oracle@db1") != &p.Watches[0] || p.Watch("web") != nil {
		t.Error("Service or Watch finds the wrong one")
	}
	if d := parsed(t, "kido-policy 1\nhost h\n"); d.Timeout != DefaultTimeout || d.State != DefaultState {
		t.Errorf("defaults: %+v", d)
	}
	roundTrip(t, p)
}

func roundTrip(t *testing.T, p *Policy) {
	t.Helper()
	text := p.Format()
	q, err := ParsePolicy(text)
	if err != nil {
		t.Fatalf("what was written is not read back: %v\n%s", err, text)
	}
	if !reflect.DeepEqual(p, q) {
		t.Fatalf("read back differently:\n%+v\n%+v\n%s", p, q, text)
	}
	if q.Format() != text {
		t.Fatalf("not stable:\n%s\n%s", text, q.Format())
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add(samplePolicy)
	f.Add("kido-policy 1\nhost h\nservice w command\nstart /a \"\\x01#\\u00e9\"\nstop /b\npidfile /c\nready exec /d \"x y\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ParsePolicy(text); err == nil {
			roundTrip(t, p)
		} else if strings.Contains(err.Error(), "\x1b") || strings.Contains(err.Error(), "\n") {
			t.Errorf("the error is not one clean line: %q", err)
		}
	})
}

func TestParsePolicyErrors(t *testing.T) {
	t.Parallel()
	const head = "kido-policy 1\nhost web1\n"
	const web = "service web command\nstart /a\nstop /b\npidfile /c\n"
	for _, c := range []struct{ text, want string }{
		{"", "first line must be: kido-policy 1"},
		{"kido-policy 2\n", "line 1: not a policy that this gate reads"},
		{"host web1\n", "line 1: not a policy"},
		{"kido-policy 1\n", "add a line: host NAME"},
		{head + "host web2\n", "line 3: host is on line 2 already"},
		{head + "grnat db1 web status\n", "line 3: grnat is not a word of a policy: did you mean grant?"},
		{head + "\x1b[2J\n", `line 3: field 1: write "\x1b[2J"`},
		{head + "quux\n", "line 3: quux is not a word of a policy"},
		{head + "prober kido\n", "line 3: prober: kido is not an absolute path"},
		{head + "prober /usr/../bin/kido\n", "shortest form"},
		{head + "become\n", "line 3: become takes a program"},
		{head + "systemctl systemctl\n", "systemctl: systemctl is not an absolute path"},
		{head + "systemctl /usr/bin/systemctl restart\n", "systemctl takes one value"},
		{head + "systemctl /a\nsystemctl /b\n", "systemctl is on line 3 already"},
		{head + "become sudo -n\n", "sudo is not an absolute path"},
		{head + "timeout 10m\n", "line 3: timeout takes a number of milliseconds"},
		{head + "timeout 0\n", "milliseconds"},
		{head + "timeout 99999999999999999\n", "milliseconds"},
		{head + "host\n", "line 3: host is on line 2"},
		{head + "state\n", "state takes one value"},
		{head + "start /a\n", "line 3: start stands outside of a service"},
		{head + web + "timeout 5\nready tcp 1.2.3.4:5\n", "line 8: ready stands outside"},
		{head + "service web\n", "service NAME command"},
		{head + "service ../web command\n", "line 3: service ../web: a name is letters"},
		{head + "service web comand\n", "comand is not an adapter: did you mean command?"},
		{head + "service web sysv\n", "service web sysv SCRIPT"},
		{head + "service web sysv ../x\n", "script ../x: a name is"},
		{head + "service web command\nstart /a\n", "line 3: service web: a command service needs"},
		{head + web + web, "line 7: service web is on line 3 already"},
		{head + web + "stop /b\n", "line 7: stop of service web is on line 5 already"},
		{head + "service web sysv httpd\nstart /a\n", "line 4: start: sysv itself knows this of httpd: drop this line"},
		{head + "service web systemd httpd\n", "line 3: unit httpd: write it whole, as in httpd.service"},
		{head + "service web systemd ../httpd.service\n", "line 3: unit ../httpd.service: a unit's name is"},
		{head + "service web systemd\n", "service web systemd UNIT"},
		{head + "service web openrc\n", "service web openrc SCRIPT"},
		{head + "service web systemd a.service\npidfile /p\n", "line 4: pidfile: systemd itself knows this of a.service"},
		{head + web + "wait 1 2\n", "line 7: a wait line is"},
		{head + web + "wait 0 1 start\n", "line 7: a wait line is"},
		{head + web + "wait 1 1 stop\n", "line 7: a wait line is"},
		{head + web + "wait 1 1 start\nwait 1 1 start\n", "line 8: wait of service web is on line 7 already"},
		{head + web + "budget 0 1000\n", "line 7: a budget line is"},
		{head + web + "budget 31 1000\n", "line 7: a budget line is"},
		{head + web + "budget 10\n", "line 7: a budget line is"},
		{head + web + "pool 1\n", "line 7: a pool line is: pool MOST web@HOST"},
		{head + web + "pool 0 web@a\n", "line 7: a pool line is"},
		{head + web + "pool 1 db@a\n", "line 7: a pool line is"},
		{head + web + "pool 1 web@../a\n", "line 7: a pool line is"},
		{head + "revoked SHA256:abc\n", "line 3: a revoked line is"},
		{head + "revoked " + keyA + "\nrevoked " + keyA + "\n", "line 4: revoked " + keyA + " is on line 3 already"},
		{head + web + "await o@d\n", "line 7: await stands before its wait"},
		{head + web + "wait 1 1 start\nawait\n", "line 8: an await line is"},
		{head + web + "wait 1 1 start\nawait o@d\n", "line 8: await o@d of service web: there is no watch o@d"},
		{head + web + "wait 1 1 start\nawait o@d\nawait o@d\n", "line 9: await o@d of service web is on line 8 already"},
		{head + "watch o@d\nawait o@d\n", "a watch takes only"},
		{head + "service web command\nstart web\n", "line 4: start: web is not an absolute path"},
		{head + web + "ready tpc 1.2.3.4:5\n", "line 7: ready: "},
		{head + "watch oracle\n", "write SERVICE@HOST"},
		{head + "watch oracle@db1\n", "line 3: watch oracle@db1: there is nothing to probe"},
		{head + "watch oracle@db1\nstart /a\n", "line 4: a watch takes only"},
		{head + "principal db1\n", "principal NAME SHA256:"},
		{head + "principal db1 SHA256:abc\n", "SHA256:abc is not an identity: write the SHA256:"},
		{head + "principal db1 " + keyA + "=\n", "is not an identity"},
		{head + "principal db1 unexpose\n", "did you mean unexposed?"},
		{head + "principal a local\nprincipal b local\n", "line 4: a principal with local is on line 3 already"},
		{head + "principal a local\nprincipal a unexposed\n", "line 4: principal a is on line 3 already"},
		{head + web + "principal db1 local\ngrant db1 web\n", "grant PRINCIPAL SERVICE VERB"},
		{head + web + "principal db1 local\ngrant db1 web sttaus\n", "sttaus is not a verb: did you mean status?"},
		{head + web + "principal db1 local\ngrant db1 web status status\n", "status is there twice"},
		{head + web + "principal db1 local\ngrant db1 web status\ngrant db1 web stop\n", "line 9: grant db1 web is on line 8 already"},
		{head + web + "principal db1 local\ngrant db2 web status\n", "line 8: grant db2 web: there is no principal db2: did you mean db1?"},
		{head + web + "principal db1 local\ngrant db1 wab status\n", "line 8: grant db1 wab: there is no service or watch wab: did you mean web?"},
		{head + web + "principal db1 local\ngrant db1 web probe\n", "probe is for a watch"},
		{head + "watch o@d\nready tcp 1.2.3.4:5\nprincipal db1 local\ngrant db1 o@d stop\n", "a watch can only be probed"},
		{head + web + "ready https https://10.0.0.1/health\n", "line 3: service web: this https probe is made by another program"},
		{head + "watch o@d\nready https https://10.0.0.1/health\n", "line 3: watch o@d: this https probe"},
		{"kido-policy 1\r\nhost h\r\n", "line 1: the line ends in a carriage return"},
		{head + "become /a \"b\n", "line 3: field 3: the double quote is not closed"},
		{head + "become /a \"b\"c\n", "put a blank after the closing quote"},
		{head + "become /a $HOME\n", `line 3: field 3: write "$HOME"`},
		{head + "become /a \"\\x00\"\n", "NUL"},
	} {
		p, err := ParsePolicy(c.text)
		if p != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n got  %v\n want … %s", c.text, err, c.want)
		}
	}
}

// TestRevoked: the key of a certificate is not in its identity, and a connection
// that was open before sshd was told stays so.
func TestRevoked(t *testing.T) {
	t.Parallel()
	p := parsed(t, samplePolicy)
	if err := p.Authorise(Caller{Identity: keyA, Key: keyA}, wire.VerbEnsure, "web"); err != nil {
		t.Error(err)
	}
	if err := p.Authorise(Caller{Identity: keyA, Key: keyC}, wire.VerbEnsure, "web"); err == nil || err.Error() != "web1: the key "+keyC+" is revoked" {
		t.Errorf("whoever comes with a revoked key: %v", err)
	}
}

// TestBounded: a stolen key of a host says how often it may be used no more than
// whom it may reach, and takes slots for what there is.
func TestBounded(t *testing.T) {
	t.Parallel()
	p := parsed(t, samplePolicy+"grant here web ensure restart take release\ngrant db1 rc ensure take\n")
	policys := wire.Request{Budget: 10, Within: 10 * time.Minute}
	for _, c := range []struct {
		who     string
		verb    wire.Verb
		service string
		q       wire.Request
		want    wire.Request
		refused string
	}{
		{keyA, wire.VerbEnsure, "web", wire.Request{}, policys, ""},
		{keyA, wire.VerbEnsure, "web", wire.Request{Budget: 11, Within: 10 * time.Minute}, policys, ""},
		{keyA, wire.VerbEnsure, "web", wire.Request{Budget: 5, Within: time.Minute}, policys, ""},
		{keyA, wire.VerbEnsure, "web", wire.Request{Budget: 1, Within: 10 * 365 * 24 * time.Hour}, policys, ""},
		{keyA, wire.VerbEnsure, "rc", wire.Request{Budget: 1, Within: time.Hour}, wire.Request{}, ""},
		{keyA, wire.VerbStatus, "web", wire.Request{}, wire.Request{}, ""},
		{IdentityLocal, wire.VerbEnsure, "web", wire.Request{}, wire.Request{}, ""},
		{keyA, wire.VerbTake, "web", wire.Request{Member: "web@web2", Most: 99999}, wire.Request{Member: "web@web2", Most: 1}, ""},
		{keyA, wire.VerbTake, "web", wire.Request{Member: "web@nowhere", Most: 1}, wire.Request{Member: "web@nowhere", Most: 1}, "web1: web@nowhere is no member of the pool"},
		{keyA, wire.VerbTake, "rc", wire.Request{Member: "rc@nowhere", Most: 3}, wire.Request{Member: "rc@nowhere", Most: 3}, ""},
		{IdentityLocal, wire.VerbTake, "web", wire.Request{Member: "web@nowhere", Most: 2}, wire.Request{Member: "web@nowhere", Most: 2}, ""},
	} {
		c.q.Verb, c.q.Service, c.want.Verb, c.want.Service = c.verb, c.service, c.verb, c.service
		got, err := p.bounded(Caller{Identity: c.who}, c.q)
		if !reflect.DeepEqual(got, c.want) || (c.refused == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s %+v: %+v, %v", c.who, c.q, got, err)
		}
	}
}

func TestAuthorise(t *testing.T) {
	t.Parallel()
	p := parsed(t, samplePolicy)
	for _, c := range []struct {
		identity string
		verb     wire.Verb
		service  string
		refused  string // "" for granted
	}{
		{keyA, wire.VerbEnsure, "web", ""},
		{keyB, wire.VerbStatus, "web", ""},
		{keyA, wire.VerbProbe, "oracle@db1", ""},
		{IdentityLocal, wire.VerbStop, "old", ""},
		{keyA, wire.VerbStop, "web", "web1: the policy does not grant this: add a line: grant db1 web stop"},
		{keyA, wire.VerbStatus, "old", "add a line: grant db1 old status"},
		{keyA, wire.VerbStatus, "no-such", "web1: the policy does not grant this: add a line: grant db1 no-such status"},
		{keyA, wire.VerbStatus, "oracle@db1", "does not grant"},
		{keyA, wire.VerbStatus, "we\x1bb", `grant db1 "we\x1bb" status`},
		{IdentityUnexposed, wire.VerbStatus, "web", "grant anykey web status"},
		{IdentityLocal, wire.VerbStatus, "old", "does not grant"},
		{strings.ToLower(keyA), wire.VerbStatus, "web", "no principal with the key"},
		{"", wire.VerbStatus, "web", "no principal"},
	} {
		err := p.Authorise(Caller{Identity: c.identity}, c.verb, c.service)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s %s %s: got %v, want %q", c.identity, c.verb, c.service, err, c.refused)
		}
	}
	none := parsed(t, "kido-policy 1\nhost h\n")
	for _, id := range []string{keyA, IdentityLocal, IdentityUnexposed, ""} {
		for _, v := range wire.Verbs() {
			if none.Authorise(Caller{Identity: id}, v, "web") == nil {
				t.Errorf("an empty policy grants %s to %q", v, id)
			}
		}
	}
}

func TestLoadPolicy(t *testing.T) {
	t.Parallel()
	// write makes DIR/etc/policy and lets spoil change it.
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir, file string) (path string)
		want  string // "" for loaded
	}{
		{"as it should be", func(t *testing.T, dir, file string) string { return file }, ""},
		{"group may write", func(t *testing.T, dir, file string) string {
			return file + chmod(t, file, 0o664)
		}, "policy can be written by others than its owner (mode 0664): chmod go-w"},
		{"others may write", func(t *testing.T, dir, file string) string {
			return file + chmod(t, file, 0o646)
		}, "mode 0646"},
		{"folder that the group may write", func(t *testing.T, dir, file string) string {
			return file + chmod(t, dir, 0o775)
		}, "etc can be written by others"},
		{"folder above that others may write", func(t *testing.T, dir, file string) string {
			return file + chmod(t, filepath.Dir(dir), 0o777)
		}, "mode 0777"},
		{"sticky folder", func(t *testing.T, dir, file string) string {
			return file + chmod(t, dir, 0o777|os.ModeSticky)
		}, ""},
		{"symbolic link", func(t *testing.T, dir, file string) string {
			link := filepath.Join(dir, "link")
			must(t, os.Symlink(file, link))
			return link
		}, "link is a symbolic link"},
		{"folder through a symbolic link", func(t *testing.T, dir, file string) string {
			link := filepath.Join(filepath.Dir(dir), "link")
			must(t, os.Symlink(dir, link))
			return filepath.Join(link, "policy")
		}, "link is a symbolic link"},
		{"FIFO", func(t *testing.T, dir, file string) string {
			must(t, os.Remove(file))
			must(t, syscall.Mkfifo(file, 0o600))
			return file
		}, "neither a folder nor a regular file"},
		{"folder", func(t *testing.T, dir, file string) string { return dir }, "etc: "},
		{"file as folder", func(t *testing.T, dir, file string) string { return file + "/policy" }, "not a directory"},
		{"missing", func(t *testing.T, dir, file string) string { return file + "2" }, "policy2: no such file"},
		{"too long", func(t *testing.T, dir, file string) string {
			must(t, os.WriteFile(file, []byte(samplePolicy+strings.Repeat("#\n", MaxPolicy/2)), 0o600))
			return file
		}, "message is too long"},
		{"with an error in it", func(t *testing.T, dir, file string) string {
			must(t, os.WriteFile(file, []byte("kido-policy 1\nhots h\n"), 0o600))
			return file
		}, "etc/policy: line 2: hots is not a word of a policy: did you mean host?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(realTempDir(t), "etc")
			must(t, os.Mkdir(dir, 0o755))
			file := filepath.Join(dir, "policy")
			must(t, os.WriteFile(file, []byte(samplePolicy), 0o644))
			p, err := LoadPolicy(c.spoil(t, dir, file))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				roundTrip(t, p)
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want … %s", err, c.want)
			}
		})
	}
}

func TestPolicyOfAnotherUser(t *testing.T) {
	t.Parallel()
	file := filepath.Join(realTempDir(t), "policy")
	must(t, os.WriteFile(file, []byte(samplePolicy), 0o644))
	reader := uint32(os.Geteuid()) + 1 // to it, the file is another user's
	if os.Geteuid() == 0 {
		must(t, os.Chown(file, 4242, -1))
		reader = 0
	}
	f, err := openTrusted(file, reader)
	if err == nil {
		f.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "belongs to uid") || !strings.Contains(err.Error(), "chown root") {
		t.Errorf("got %v", err)
	}
}

// realTempDir is t.TempDir without symbolic links on the way.
func realTempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	return dir
}

func chmod(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	must(t, os.Chmod(path, mode))
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
