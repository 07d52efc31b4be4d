package install

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kido/internal/probe"
	"kido/internal/site"
)

const withSecret = `site: x
hosts: {db1: 192.0.2.1, web1: 192.0.2.2}
services:
  db:
    hosts: db1
    systemd: db
    ready:
      - {postgres: ":5432", user: kido, password: {file: /etc/kido/secrets/pg}}
      - any: [{tls: ":5433", ca: /etc/kido/ca.pem}, {redis: ":1", password: {env: X}}]
        from: dependent
  web: {hosts: web1, systemd: web, after: db}
`

// TestUnreadable: which files of its probes a host's gate cannot read, by their modes.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	const secret = "/etc/kido/secrets/pg"
	uid, gid := os.Getuid(), os.Getgid() // whose the files are
	stranger := fmt.Sprintf("kido:x:%d:%d:::/\n", uid+1, gid+1)
	owner := fmt.Sprintf("kido:x:%d:%d:::/\n", uid, gid+1)
	for _, c := range []struct {
		name          string
		file, folder  fs.FileMode // of the file: 0 for none
		passwd, group string
		want          string
	}{
		{"missing", 0, 0o755, stranger, "", secret + " is not there"},
		{"nobody's folder", 0o644, 0o700, stranger, "", "/etc/kido/secrets cannot be entered by the user kido: chgrp kido /etc/kido/secrets; chmod 750 /etc/kido/secrets"},
		{"root's", 0o600, 0o755, stranger, "", secret + " cannot be read by the user kido: chgrp kido " + secret + "; chmod 640 " + secret},
		{"another group's", 0o640, 0o755, stranger, "", secret + " cannot be read"},
		{"no user yet", 0o640, 0o755, "", "", secret + " cannot be read"},
		{"its group's", 0o640, 0o750, strings.Replace(stranger, fmt.Sprint(":", gid+1, ":"), fmt.Sprint(":", gid, ":"), 1), "", ""},
		{"a group's of its", 0o640, 0o755, stranger, fmt.Sprintf("a:x:%d:\nb:x:%d:other,kido\n", gid+2, gid), ""},
		{"a group's of another", 0o640, 0o755, stranger, fmt.Sprintf("b:x:%d:kid,akido\n", gid), secret + " cannot be read"},
		{"its own", 0o400, 0o700, owner, "", ""},
		{"its own, but not readable", 0o044, 0o755, owner, "", secret + " cannot be read"},
		{"everybody's", 0o604, 0o755, stranger, "", secret + " may be read or changed by everybody: chmod o= " + secret},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, Systemd)
			b.put("/etc/passwd", c.passwd)
			b.put("/etc/group", c.group)
			if err := os.MkdirAll(b.m.path(filepath.Dir(secret)), 0o755); err != nil {
				t.Fatal(err)
			}
			if c.file != 0 {
				b.put(secret, "hunter2\n")
				if err := os.Chmod(b.m.path(secret), c.file); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(b.m.path(filepath.Dir(secret)), c.folder); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(b.m.path(filepath.Dir(secret)), 0o755) })
			s, err := site.Parse("/src/site.yaml", []byte(withSecret))
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.m.unreadable(s, "db1")
			if err != nil {
				t.Fatal(err)
			}
			if why := got[secret]; !strings.HasPrefix(why, c.want) || (why == "") != (c.want == "") {
				t.Errorf("%s, want %s", why, c.want)
			}
			f := Assume(Systemd)
			f.Unreadable = got
			setup, err := Make(Source{File: "/src/site.yaml", Text: withSecret, Keys: &Keyring{}}, "db1", f)
			if err != nil {
				t.Fatal(err)
			}
			if warned := strings.Join(setup.Warnings, "\n"); strings.Contains(warned, "so the postgres probe of db fails") != (c.want != "") || strings.Contains(warned, "hunter2") {
				t.Errorf("warnings %s", warned)
			}
		})
	}
}

// TestSecretOutlivesNoGroup: what the gate's group may read is root's alone before the
// group goes, also where the policy went long before; and only folders that go are
// said to be removed.
func TestSecretOutlivesNoGroup(t *testing.T) {
	t.Parallel()
	const gid = 61234 // of the box's group
	text := strings.NewReplacer("db:\n    hosts: db1", "db:\n    hosts: web1", "/etc/kido/ca.pem", "/etc/pki/pg.pem", "systemd", "ADAPTER").Replace(withSecret)
	for _, c := range []struct {
		name   string
		purges []bool
	}{
		{"at once", []bool{true}},
		{"later", []bool{false, true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, Systemd)
			if _, _, err := b.apply(b.setup(Systemd, text), -1); err != nil {
				t.Fatal(err)
			}
			group := gid
			if os.Geteuid() != 0 { // he cannot give a file away: it is his group that goes
				group = os.Getgid()
				b.put("/etc/passwd", strings.ReplaceAll(b.get("/etc/passwd"), fmt.Sprint(gid, ":", gid), fmt.Sprint(gid, ":", group)))
			}
			for path, mode := range map[string]fs.FileMode{
				"/etc/kido/secrets": 0o750, "/etc/kido/secrets/pg": 0o640, "/etc/kido/secrets/before": 0o460, "/etc/kido/secrets/other": 0o640,
				"/etc/pki/pg.pem": 0o640,
			} {
				if err := os.MkdirAll(b.m.path(filepath.Dir(path)), 0o755); err != nil {
					t.Fatal(err)
				}
				if path == "/etc/kido/secrets" {
					if err := os.MkdirAll(b.m.path(path), 0o755); err != nil {
						t.Fatal(err)
					}
				} else {
					b.put(path, "hunter2\n")
				}
				if err := os.Chmod(b.m.path(path), mode); err != nil {
					t.Fatal(err)
				}
				if os.Geteuid() == 0 && filepath.Base(path) != "other" {
					if err := os.Chown(b.m.path(path), 0, group); err != nil {
						t.Fatal(err)
					}
				}
			}
			var steps, warnings []string
			for _, purge := range c.purges {
				more, warned := b.remove(purge)
				steps, warnings = append(steps, more...), append(warnings, warned...)
			}
			for path, want := range map[string]fs.FileMode{
				"/etc/kido/secrets": 0o700, "/etc/kido/secrets/pg": 0o600, "/etc/kido/secrets/before": 0o400,
				"/etc/pki/pg.pem": 0o600,
			} {
				info, err := os.Stat(b.m.path(path))
				if err != nil || info.Mode().Perm() != want || info.Sys().(*syscall.Stat_t).Gid != uint32(os.Getegid()) {
					t.Errorf("%s: %v, %v, want mode %o", path, info.Mode(), err, want)
				}
				at := slices.Index(steps, "make root's alone: "+path)
				if at < 0 || at > slices.Index(steps, "run userdel kido") || !slices.Contains(warnings, path+" was for the group kido, which goes: it becomes root's alone") {
					t.Errorf("%s: %q, %q", path, steps, warnings)
				}
			}
			if os.Geteuid() == 0 && slices.Contains(steps, "make root's alone: /etc/kido/secrets/other") {
				t.Error("what was for another group is taken from it")
			}
			for _, s := range steps {
				if path := s[strings.LastIndexByte(s, ' ')+1:]; strings.HasPrefix(s, "remove the folder") && b.m.exists(path) {
					t.Errorf("%s, and it is there", s)
				}
			}
			if said := strings.Join(append(steps, warnings...), "\n"); strings.Contains(said, "hunter2") {
				t.Error(said)
			}
		})
	}
}

// TestSecretOfSomebody: what is not root's is left, and said.
func TestSecretOfSomebody(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can give a file to somebody")
	}
	b := newBox(t, Systemd)
	if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
		t.Fatal(err)
	}
	const path = "/etc/kido/own"
	b.put(path, "hunter2\n")
	if err := os.Chown(b.m.path(path), 61234, 61234); err != nil {
		t.Fatal(err)
	}
	steps, warnings := b.remove(true)
	if !slices.ContainsFunc(warnings, func(w string) bool { return strings.HasPrefix(w, path+" is left to the user or group kido, which go") }) {
		t.Errorf("%q, %q", steps, warnings)
	}
	if info, err := os.Stat(b.m.path(path)); err != nil || info.Sys().(*syscall.Stat_t).Uid != 61234 {
		t.Error("it was taken from its owner", err)
	}
}

// TestProbesOfKinds: what a policy has of the newer kinds, here and seen from
// elsewhere.
func TestProbesOfKinds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ready  string
		at     string // as the host's gate has it
		from   string // as a dependent's host sees it; "": not at all
		prober bool
	}{
		{`{tcp: ":1"}`, "tcp 192.0.2.1:1 timeout=3000", "tcp 192.0.2.1:1 timeout=3000", false},
		{`{tcp: "localhost:1"}`, "tcp localhost:1 timeout=3000", "", false},
		{`{tcp: "[::1]:1"}`, "tcp [::1]:1 timeout=3000", "", false},
		{`{amqp: ":5672"}`, "amqp 192.0.2.1:5672 timeout=3000", "amqp 192.0.2.1:5672 timeout=3000", true},
		{`{amqp: mq.example}`, "amqp mq.example:5672 timeout=3000", "amqp mq.example:5672 timeout=3000", true},
		{`{redis: ":6379", password: {file: /x}}`, "redis 192.0.2.1:6379 password=file:/x timeout=3000", "tcp 192.0.2.1:6379 timeout=3000", true},
		{`{tls: ":443", ca: /x}`, "tls 192.0.2.1:443 ca=file:/x timeout=3000", "tcp 192.0.2.1:443 timeout=3000", true},
		{`{http: "https:///health"}`, "https https://192.0.2.1/health timeout=3000", "https https://192.0.2.1/health timeout=3000", true},
		{`{http: "http://:80/", match: x}`, "http http://192.0.2.1:80/ match=x timeout=3000", "http http://192.0.2.1:80/ match=x timeout=3000", true},
		{`[{redis: ":6379", password: {file: /x}}, {tcp: "pool:1", from: dependent}]`, "redis 192.0.2.1:6379 password=file:/x timeout=3000", "tcp pool:1 timeout=3000", true},
		{`[{tcp: ":5432"}, {tcp: "pool:1", from: dependent}]`, "tcp 192.0.2.1:5432 timeout=3000", "tcp pool:1 timeout=3000", false},
		{`{exec: [/x]}`, "exec timeout=3000 /x", "", false},
		{`{log: journal, match: x}`, "log journal match=x timeout=3000", "", false},
		{`{dns: a.example}`, "dns a.example timeout=3000", "", true},
		{`{systemd: x}`, "systemd x.service timeout=3000", "", true},
		{`{any: [{tcp: ":1"}, {not: {tcp: ":2"}}]}`, "any timeout=3000 2 3 tcp 192.0.2.1:1 timeout=3000 7 not timeout=3000 1 3 tcp 192.0.2.1:2 timeout=3000", "any timeout=3000 2 3 tcp 192.0.2.1:1 timeout=3000 7 not timeout=3000 1 3 tcp 192.0.2.1:2 timeout=3000", false},
		{`{any: [{tcp: ":1"}, {file: /x}]}`, "any timeout=3000 2 3 tcp 192.0.2.1:1 timeout=3000 3 file /x timeout=3000", "", false},
		{`{all: [{tcp: ":1"}, {redis: ":2"}]}`, "all timeout=3000 2 3 tcp 192.0.2.1:1 timeout=3000 3 redis 192.0.2.1:2 timeout=3000", "all timeout=3000 2 3 tcp 192.0.2.1:1 timeout=3000 3 redis 192.0.2.1:2 timeout=3000", true},
	} {
		text := "site: x\nhosts: {db1: 192.0.2.1, web1: 192.0.2.2}\nservices:\n  db: {hosts: db1, systemd: db, ready: " + c.ready + "}\n  web: {hosts: web1, systemd: web, after: db}\n"
		s, err := site.Parse("/src/site.yaml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", c.ready, err)
			continue
		}
		lines := func(specs []probe.Spec) string {
			var all []string
			for _, p := range specs {
				if err := p.Check(); err != nil {
					t.Errorf("%s: %v", c.ready, err)
				}
				all = append(all, strings.Join(p.Fields(), " "))
			}
			return strings.Join(all, "\n")
		}
		if got := lines(Probes(s, s.Service("db"), "db1", site.FromHost)); got != c.at {
			t.Errorf("%s: at its host %s", c.ready, got)
		}
		if got := lines(seenFrom(s, s.Service("db"), "db1", "web1")); got != c.from {
			t.Errorf("%s: from elsewhere %s", c.ready, got)
		}
		policy, _ := PolicyFor(s, "db1", nil)
		if (policy.Prober != "") != c.prober {
			t.Errorf("%s: prober %s", c.ready, policy.Prober)
		}
		held, warnings := PolicyFor(s, "web1", nil)
		if blind := slices.ContainsFunc(warnings, func(w string) bool { return strings.HasPrefix(w, "cannot see from here whether db@db1 is ready") }); blind != (c.from == "") || blind == (held.Services[0].Wait != nil) {
			t.Errorf("%s: warnings %q", c.ready, warnings)
		}
	}
}
