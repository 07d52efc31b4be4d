package install

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"kido/internal/gate"
	"kido/internal/site"
	"kido/internal/wire"
)

var update = flag.Bool("update", false, "write the golden parts of testdata anew")

// facts are those of the golden hosts.
func facts(init Init) Facts {
	f := Assume(init)
	f.Units = map[string]Unit{
		"httpd.service": {ID: "apache2.service"},
		"dbora.service": {ID: "dbora.service", Trap: "dbora.service is a oneshot", Along: "lsnr.service"},
		"app.service":   {ID: "app.service", Missing: true},
	}
	f.Scripts = map[string]Script{"appd": {Provides: "application", Start: 50}, "sshd": {Provides: "sshd", Start: 55}}
	if init == SysV {
		f.SSHDInclude, f.Sequential, f.Logrotate = false, true, true
	}
	return f
}

// load reads a source from an archive.
func load(t *testing.T, a *txtar.Archive) Source {
	t.Helper()
	dir := t.TempDir()
	if err := txtar.Write(&txtar.Archive{Files: a.Files}, dir); err != nil {
		t.Fatal(err)
	}
	src := Source{File: filepath.Join(dir, "site.yaml")}
	for _, f := range a.Files {
		switch f.Name {
		case "site.yaml":
			src.Text = string(f.Data)
		case "known_hosts":
			src.KnownHosts = string(f.Data)
		}
	}
	s, err := site.Load(src.File)
	if err != nil {
		t.Fatal(err)
	}
	if src.Keys, err = LoadKeyring(filepath.Join(dir, "keys"), s); err != nil {
		t.Fatal(err)
	}
	return src
}

// render writes a setup as one text, without the copies of what the test itself
// brings.
func render(s *Setup) string {
	var b strings.Builder
	for _, f := range s.Folders {
		fmt.Fprintf(&b, "folder %s %04o %s\n", f.Path, f.Mode, f.Owner)
	}
	if s.Key != "" {
		fmt.Fprintf(&b, "key %s: %s\n", s.Key, s.Comment)
	}
	for _, h := range s.Hooks {
		fmt.Fprintf(&b, "hook %s of %q: announce %v, require %v, follow %v\n", h.Name, h.Unit, h.Announce, h.Require, h.Follow)
	}
	for _, w := range s.Warnings {
		fmt.Fprintln(&b, "warning:", w)
	}
	for _, f := range s.Files {
		fmt.Fprintf(&b, "\n==> %s %04o %s%s\n", f.Path, f.Mode, f.Owner(), map[bool]string{true: ", a block"}[f.Block])
		if f.Path != siteFile && !strings.HasPrefix(f.Path, keysFolder+"/") {
			b.WriteString(f.Text)
		}
	}
	return b.String()
}

func TestMake(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files: ", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want string
			if last := len(a.Files) - 1; a.Files[last].Name == "want" {
				want = string(a.Files[last].Data)
				a.Files = a.Files[:last]
			}
			head := strings.Fields(strings.Split(string(a.Comment), "\n")[0])
			f := facts(Init(head[1]))
			for _, fact := range head[2:] {
				switch fact {
				case "sudo":
					f.Polkit = "it is too old"
				case "penalties":
					f.Exempt = "none"
				default:
					t.Fatalf("no such fact: %s", fact)
				}
			}
			s, err := Make(load(t, a), head[0], f)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range s.Files {
				said := map[string]bool{}
				for line := range strings.Lines(f.Text) {
					if key, _, ok := strings.Cut(line, "="); ok && strings.HasSuffix(f.Path, ".service") && said[key] {
						t.Errorf("%s says %s twice", f.Path, key)
					} else {
						said[key] = true
					}
				}
			}
			got := render(s)
			for _, f := range s.Files {
				if f.Path == gate.DefaultPolicy {
					if _, err := gate.ParsePolicy(f.Text); err != nil {
						t.Errorf("the gate does not take the policy: %v", err)
					}
				}
			}
			if *update {
				a.Files = append(a.Files, txtar.File{Name: "want", Data: []byte(got)})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("go test -update writes it anew, once it is right:\n%s", got)
			}
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		init  Init
		web   string // the service on web1
		facts func(*Facts)
		want  string
	}{
		"openrc on systemd":   {Systemd, "openrc: httpd", nil, "service web is known to openrc, and host web1 has systemd: say in the site file how that knows it (systemd: NAME)"},
		"systemd on sysv":     {SysV, "systemd: httpd.service", nil, "service web is known to systemd, and host web1 has sysv"},
		"sysv on openrc":      {OpenRC, "sysv: httpd", nil, "service web is known to sysv, and host web1 has openrc"},
		"plain":               {SysV, "plain: restart", nil, "nothing of kido is needed there"},
		"no polkit, no sudo":  {Systemd, "systemd: httpd.service", func(f *Facts) { f.Polkit, f.Sudo = "install it", "or that" }, "the gate needs polkit or sudo to restart units and nothing else: install it; or: or that"},
		"no sudo":             {SysV, "sysv: httpd", func(f *Facts) { f.Sudo = "install it" }, "the gate needs sudo to run the services' commands and nothing else: install it"},
		"no gate":             {SysV, "sysv: httpd", func(f *Facts) { f.Gate = "" }, "the program kido-gate is not to be found: put it beside kido, or at /usr/local/sbin/kido-gate"},
		"what sudo cannot be": {SysV, `command: {start: [/bin/x, "a'b"], stop: [/bin/x]}, pidfile: /run/x.pid`, nil, `service web: sudo cannot be told of "a'b" in exactly these letters`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := Assume(c.init)
			if c.facts != nil {
				c.facts(&f)
			}
			text := "site: x\nhosts: {web1: 192.0.2.3}\nservices:\n  web: {hosts: web1, " + c.web + "}\n"
			_, err := Make(Source{File: "/src/site.yaml", Text: text, Keys: &Keyring{}}, "web1", f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v\nwant %s", err, c.want)
			}
		})
	}
	_, err := Make(Source{Text: "site: x\nhosts: {web1: {user: ops}}\nservices:\n  web: {hosts: web1, sysv: httpd}\n", Keys: &Keyring{}}, "web1", Assume(SysV))
	if err == nil || !strings.Contains(err.Error(), "its gate would run as the user ops") {
		t.Errorf("another user: %v", err)
	}
}

// A key that is a host's and a person's may do what either may; another key of
// the same host gains nothing by that.
func TestSharedKey(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("site.yaml", []byte(strings.ReplaceAll(shop, "ADAPTER", "systemd")))
	if err != nil {
		t.Fatal(err)
	}
	// Any three fingerprints will do.
	a, b := "SHA256:"+strings.Repeat("A", 43), "SHA256:"+strings.Repeat("B", 42)+"A"
	p, _ := PolicyOf(s, "web1", &Keyring{
		People: []Person{{"ann", []Key{{Fingerprint: a}}}},
		Hosts:  map[string][]Key{"db1": {{Fingerprint: a}, {Fingerprint: b}}},
	})
	for id, want := range map[string]string{a: "ann", b: "db1"} {
		if got := p.Principal(id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	for id, may := range map[string]map[wire.Verb]bool{
		a: {wire.VerbStatus: true, wire.VerbEnsure: true, wire.VerbStop: true, wire.VerbRestart: true},
		b: {wire.VerbStatus: true, wire.VerbEnsure: true, wire.VerbStop: false, wire.VerbRestart: false},
	} {
		for verb, want := range may {
			if got := p.Authorise(gate.Caller{Identity: id}, verb, "web") == nil; got != want {
				t.Errorf("%s may %s web: %v", p.Principal(id), verb, got)
			}
		}
	}
}

func TestLoadKeyring(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("site.yaml", []byte(strings.ReplaceAll(shop, "ADAPTER", "systemd")))
	if err != nil {
		t.Fatal(err)
	}
	const key, other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKmd6GmeRzOUGRsP3grrzKR8yP1ySVYqsqXlpeSRnUmu", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDXlspwUMQdGNhpKwgM0IAMV8AIEjj+cUBgcuw1G7Gq3"
	const from = `from="192.0.2.9" `
	for name, c := range map[string]struct {
		files map[string]string
		want  string // of the error; "" for none
	}{
		"good":            {map[string]string{"db1.pub": key + "\n", "people/ann.pub": "# ann\n\nfrom=\"192.0.2.9\" " + other, "README": "?"}, ""},
		"rotation":        {map[string]string{"db1.pub": key + "\n" + other}, ""},
		"no address":      {map[string]string{"people/ann.pub": key}, "ann.pub:1: it does not say where it may come from"},
		"private":         {map[string]string{"db1.pub": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"}, "db1.pub:1: this is a private key"},
		"other options":   {map[string]string{"db1.pub": `command="sh" ` + key}, "db1.pub:1: public key"},
		"empty":           {map[string]string{"db1.pub": "# nothing\n"}, "db1.pub holds no key"},
		"two hosts' own":  {map[string]string{"db1.pub": key, "web1.pub": key}, "this is the key of db1 too: each host has its own"},
		"a name":          {map[string]string{"people/a b.pub": from + key}, "a person's key is named after its owner"},
		"not closed":      {map[string]string{"people/ann.pub": `from="192.0.2.9 ` + key}, `from="…" is not closed`},
		"the local name":  {map[string]string{"people/here.pub": from + key}, "a person's key is named after"},
		"an authority":    {map[string]string{"db1.pub": key, "authorities/root.pub": "# offline\n" + other}, ""},
		"its place":       {map[string]string{"authorities/root.pub": from + key}, "root.pub:1: each certificate says where it may come from"},
		"no authority":    {map[string]string{"authorities/root.pub": "\n"}, "root.pub holds no key"},
		"revoked":         {map[string]string{"db1.pub": other, "revoked": "# gone\n" + from + key + " old\nssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDFabg4Ywa2lE8ayC2nETif6nuqaAKgnLLgDNpUFZ/mHardSwNJcKhWnPnbb8UddguWrflBWjAj2br78zM8tQkR6zoOjASClePvA6ycIlPG5CypkFpYevt+chJOMBHTthqyD22L20ttg/EAToDWQ4aPZ828lLNyeMEU0XVn6giyxw=="}, ""},
		"revoked nothing": {map[string]string{"revoked": "what\n"}, "revoked:1: not a public key"},
		"revoked private": {map[string]string{"revoked": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"}, "revoked:1: this is a private key"},
		"revoked dsa":     {map[string]string{"revoked": "ssh-dss AAAAB3NzaC1kc3MAAAACAQEAAAAVAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAgAAAAEB\n"}, "revoked:1: "},
		"nothing is fine": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "keys")
			if c.files != nil {
				for _, folder := range []string{"people", "authorities"} {
					if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			for file, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			r, err := LoadKeyring(dir, s)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want == "" && r.Empty() != (c.files == nil):
				t.Errorf("%+v", r)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v\nwant %s", err, c.want)
			case err != nil && strings.Contains(err.Error(), "AAAA"):
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

// A revoked key is nothing anywhere, and stands in nobody's way.
func TestRevoked(t *testing.T) {
	t.Parallel()
	const gone, good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKmd6GmeRzOUGRsP3grrzKR8yP1ySVYqsqXlpeSRnUmu", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDXlspwUMQdGNhpKwgM0IAMV8AIEjj+cUBgcuw1G7Gq3"
	src := load(t, &txtar.Archive{Files: []txtar.File{
		{Name: "site.yaml", Data: []byte(strings.ReplaceAll(shop, "ADAPTER", "systemd"))},
		{Name: "keys/db1.pub", Data: []byte(gone + "\n" + good)},
		{Name: "keys/web1.pub", Data: []byte(gone)},
		{Name: "keys/people/ann.pub", Data: []byte(`from="192.0.2.7" ` + gone)},
		{Name: "keys/authorities/root.pub", Data: []byte(gone)},
		{Name: "keys/revoked", Data: []byte(gone + " stolen\n" + gone)},
	}})
	r := src.Keys
	if len(r.Hosts) != 1 || len(r.Hosts["db1"]) != 1 || r.Hosts["db1"][0].Public != good || len(r.People)+len(r.Authorities) > 0 || len(r.Revoked) != 1 || len(r.Warnings) != 4 {
		t.Errorf("%+v", r)
	}
	s, err := Make(src, "web1", facts(Systemd))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.Files {
		if f.Path == gate.DefaultPolicy && !strings.Contains(f.Text, "\nrevoked "+r.Revoked[0].Fingerprint+"\n") {
			t.Errorf("the gate is not told, for connections that are open: %s", f.Text)
		}
		if named := strings.Contains(f.Text, strings.Fields(gone)[1]); named != (f.Path == refusedFile || strings.HasPrefix(f.Path, keysFolder)) {
			t.Errorf("%s: %s", f.Path, f.Text)
		}
	}
}

// A certificate for a host that has no address that sshd can check is not taken.
func TestCertificateFromNowhere(t *testing.T) {
	t.Parallel()
	src := Source{File: "/src/site.yaml", Text: strings.NewReplacer("ADAPTER", "systemd", "192.0.2.1", "db1.example").Replace(shop), Keys: authority()}
	s, err := Make(src, "web1", facts(Systemd))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, "no certificate for host/db1 is taken: ") }) {
		t.Errorf("%q", s.Warnings)
	}
	for _, f := range s.Files {
		if f.Path == principalsFile && strings.Contains(f.Text, "host/db1") {
			t.Errorf("%s", f.Text)
		}
	}
}

// The key of a host that left the site does not become somebody's who may do
// everything, nor does it keep anything from being done.
func TestKeyOfNoHost(t *testing.T) {
	t.Parallel()
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKmd6GmeRzOUGRsP3grrzKR8yP1ySVYqsqXlpeSRnUmu"
	src := load(t, &txtar.Archive{Files: []txtar.File{
		{Name: "site.yaml", Data: []byte(strings.ReplaceAll(shop, "ADAPTER", "systemd"))},
		{Name: "keys/gone.pub", Data: []byte(`from="192.0.2.7" ` + key)},
		{Name: "keys/bare.pub", Data: []byte(key)},
		{Name: "keys/what.pub", Data: []byte("no key\n")},
		{Name: "keys/a\tb.pub", Data: []byte(key)},
	}})
	if !src.Keys.Empty() {
		t.Errorf("%+v", src.Keys)
	}
	s, err := Make(src, "web1", facts(Systemd))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gone", "bare", "what", `a\tb`} {
		want := "keys/" + name + ".pub: the site has no host " + name + ": its key may do nothing; remove the file, or, for a person's key, move it to keys/people/"
		if !slices.Contains(s.Warnings, want) {
			t.Errorf("no warning %q in %q", want, s.Warnings)
		}
	}
	for _, f := range s.Files {
		if strings.HasPrefix(f.Path, keysFolder) || strings.Contains(f.Text, key) {
			t.Errorf("%s: %s", f.Path, f.Text)
		}
		if f.Path == gate.DefaultPolicy && strings.Count(f.Text, "principal") != 1 {
			t.Errorf("more than the local principal:\n%s", f.Text)
		}
	}
}

// A script that waits comes after the scripts of this host that it waits for, by
// whatever way: before them it would wait for what init starts only after it.
func TestHoldBeside(t *testing.T) {
	t.Parallel()
	const text = `site: x
hosts: {a: 192.0.2.1, b: 192.0.2.2}
services:
  store: {hosts: a, ADAPTER: stored, ready: {tcp: ":1"}}
  other: {hosts: b, ADAPTER: otherd, after: store, ready: {tcp: ":2"}}
  db: {hosts: a, ADAPTER: dbd, ready: {tcp: ":3"}}
  web: {hosts: a, ADAPTER: webd, after: [other, db]}
`
	const hook = "/etc/init.d/kido-wait-web"
	for name, c := range map[string]struct {
		init        Init
		sequential  bool
		store, own  int
		want, warns string // want "": there is no hook
	}{
		"openrc":            {OpenRC, false, 0, 0, "\tafter net sshd ssh dbd stored\n\tbefore webd\n", ""},
		"by dependencies":   {SysV, false, 50, 50, "# Should-Start:      ssh sshd database stored\n# X-Start-Before:    webd\n", ""},
		"by numbers":        {SysV, true, 48, 50, "# chkconfig: 345 49 51\n", ""},
		"no number between": {SysV, true, 49, 50, "", "service web: its start is not held: webd depends on stored of this host, and has no start number that leaves room for a hook behind it (50, 49): give webd a number of 51 or more"},
		"the same number":   {SysV, true, 50, 50, "", "(50, 50): give webd a number of 52 or more"},
		"no number at all":  {SysV, true, 20, 0, "", "its start is not held"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := Assume(c.init)
			f.Sequential = c.sequential
			f.Scripts = map[string]Script{"webd": {Start: c.own}, "stored": {Start: c.store}, "dbd": {Provides: "database", Start: 10}}
			s, err := Make(Source{File: "/src/site.yaml", Text: strings.ReplaceAll(text, "ADAPTER", string(c.init)), Keys: &Keyring{}}, "a", f)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(s.Files, func(f File) bool { return f.Path == hook })
			hooked := slices.ContainsFunc(s.Hooks, func(h Hook) bool { return h.File == hook })
			if hooked != (c.want != "") || hooked != (i >= 0) {
				t.Fatalf("there is a hook: %v, its file: %v", hooked, i >= 0)
			}
			if hooked && !strings.Contains(s.Files[i].Text, c.want) {
				t.Errorf("%s\nwant %s", s.Files[i].Text, c.want)
			}
			if warned := strings.Join(s.Warnings, "\n"); !strings.Contains(warned, c.warns) || hooked && strings.Contains(warned, "is not held:") {
				t.Errorf("warnings %q\nwant %s", s.Warnings, c.warns)
			}
		})
	}
}

// What sudo is told must mean one command.
func TestSudoCommand(t *testing.T) {
	t.Parallel()
	for want, argv := range map[string][]string{
		`/etc/init.d/x start`:           {"/etc/init.d/x", "start"},
		`/opt/x ""`:                     {"/opt/x"},
		`/opt/x a\ b c\,d\:e\=f g\\h`:   {"/opt/x", "a b", "c,d:e=f", `g\h`},
		`/opt/x \* \? \[a\] \! \#1 \^a`: {"/opt/x", "*", "?", "[a]", "!", "#1", "^a"},
	} {
		if got, err := sudoCommand(argv); err != nil || got != want {
			t.Errorf("%q: %s, %v\nwant %s", argv, got, err, want)
		}
	}
	for _, argv := range [][]string{{"/opt/x", ""}, {"/opt/x", "a\nb"}, {"/opt/x", `"`}, {"/opt/é"}} {
		if got, err := sudoCommand(argv); err == nil {
			t.Errorf("%q is written as %s", argv, got)
		}
	}
}

func TestIncludesFolder(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"Include /etc/ssh/sshd_config.d/*.conf\n":               true,
		"\tinclude=\"sshd_config.d/*.conf\"\n":                  true,
		"Port 22\n#Include /etc/ssh/sshd_config.d/*.conf\n":     false,
		"Match User x\nInclude /etc/ssh/sshd_config.d/*.conf\n": false,
		"Include /etc/ssh/sshd_config.d/10-mine.conf\n":         false,
		"": false,
	} {
		if got := includesFolder(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("site.yaml", []byte(strings.ReplaceAll(shop, "ADAPTER", "systemd")))
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(t, Systemd)
	b.put("/usr/sbin/sshd", "")
	b.put("/etc/init.d/appd", "#!/bin/sh\n# chkconfig: 345 85 15\n# Provides: application app\n")
	b.put("/etc/init.d/old", "#!/bin/sh\n")
	b.put("/etc/rc2.d/S07old", "")
	f, err := b.m.Look(s, "web1")
	if err != nil {
		t.Fatal(err)
	}
	if f.Init != SysV || !f.SSHD || !f.SSHDInclude || f.Sequential || !f.Logrotate {
		t.Errorf("%+v", f)
	}
	if f.Scripts["appd"] != (Script{"application", 85}) || f.Scripts["old"] != (Script{"", 7}) {
		t.Errorf("scripts: %+v", f.Scripts)
	}
	if !strings.Contains(f.Sudo, "install the package sudo") {
		t.Errorf("sudo: %s", f.Sudo)
	}

	if err := os.MkdirAll(b.m.path("/run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	version := "pkaction version 0.105"
	b.m.Trap = func(unit string) string { return "trap " + unit }
	b.m.Run = func(argv ...string) (string, error) {
		if argv[0] == "pkaction" {
			return version, nil
		}
		return "Id=dbora.service\nLoadState=loaded\nRequiredBy=app.service kido-wait-app.service\nConsistsOf=app.service lsnr.service\n\nId=httpd.service\nLoadState=not-found", nil
	}
	if f, err = b.m.Look(s, "web1"); err != nil {
		t.Fatal(err)
	}
	if f.Init != Systemd || !strings.Contains(f.Polkit, "polkit 0.105 takes no rules in JavaScript") {
		t.Errorf("%+v", f)
	}
	if want := (Unit{ID: "dbora.service", Trap: "trap dbora.service", Along: "app.service lsnr.service"}); f.Units["dbora.service"] != want || !f.Units["httpd.service"].Missing {
		t.Errorf("units: %+v", f.Units)
	}
	for _, version = range []string{"pkaction version 0.120", "pkaction version 122"} {
		if f, err = b.m.Look(s, "web1"); err != nil || f.Polkit != "" {
			t.Errorf("%s: %s %v", version, f.Polkit, err)
		}
	}
}

// TestHooksDoNotWaitForEachOther: where init starts one script after the other, a
// hook comes behind every service that does not depend on what it holds; else two
// hosts whose databases the other's web server needs would never boot.
func TestHooksDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("/etc/kido/site.yaml", []byte(`site: crossed
hosts: {h4: 10.0.0.4, h6: 10.0.0.6}
services:
  dbx: {hosts: h4, openrc: dbx, ready: {tcp: ":1"}}
  dby: {hosts: h6, openrc: dby, ready: {tcp: ":1"}}
  webx: {hosts: h4, openrc: webx, after: [dby]}
  weby: {hosts: h6, openrc: weby, after: [dbx]}
  other: {hosts: h4, openrc: other, after: [dby]}
  last: {hosts: h4, openrc: last, after: [webx]}
`))
	if err != nil {
		t.Fatal(err)
	}
	m := &maker{Setup: Setup{Host: "h4", Init: OpenRC}, site: s}
	for service, want := range map[string]string{"webx": "dbx other", "other": "dbx", "last": "dbx other webx"} {
		if got := strings.Join(m.beside(s.Service(service)), " "); got != want {
			t.Errorf("the hook of %s comes after %q, want %q", service, got, want)
		}
	}
}
