package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/gate"
	"kido/internal/keys"
	"kido/internal/remote/sshdtest"
	"kido/internal/site"
)

// box is a folder that stands for a machine, with just enough of the commands
// that an install runs: they leave behind what the real ones would.
type box struct {
	t      *testing.T
	m      *Machine
	ran    []string
	refuse func(config string) string // what sshd says against a configuration
	shown  string                     // what systemd says of a unit
}

const mainConfig = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n"

func newBox(t *testing.T, init Init) *box {
	t.Helper()
	b := &box{t: t, refuse: func(string) string { return "" }}
	b.m = &Machine{Root: t.TempDir(), Run: b.run, Trap: func(string) string { return "" }}
	for _, dir := range []string{
		"/etc/ssh/sshd_config.d", "/etc/systemd/system", "/etc/init.d", "/etc/rc2.d", "/etc/runlevels/default", "/usr/sbin",
		"/usr/local/bin", "/usr/local/sbin", "/etc/polkit-1/rules.d", "/etc/sudoers.d", "/var/lib", "/var/log", "/src", "/etc/logrotate.d",
	} {
		if err := os.MkdirAll(b.m.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.put(sshdConfig, mainConfig)
	b.put("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	b.put("/usr/sbin/useradd", "")
	b.put("/usr/sbin/update-rc.d", "")
	b.put("/etc/init.d/ssh", "")
	b.put("/src/kido", "kido 1")
	b.put("/src/kido-gate", "gate 1")
	return b
}

func (b *box) put(path, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.m.path(path), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) get(path string) string {
	b.t.Helper()
	text, err := os.ReadFile(b.m.path(path))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// tree is all that is in the box, but what kido keeps for itself.
func (b *box) tree() map[string]string {
	b.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(b.m.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, b.m.Root)
		if name == journals || name == stateFolder || name == logFolder {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil || d.IsDir() {
			all[name] = "folder"
			return err
		}
		text, err := os.ReadFile(path)
		all[name] = fmt.Sprintf("%o %s", info.Mode().Perm(), text)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

func (b *box) run(argv ...string) (string, error) {
	line := strings.Join(argv, " ")
	b.ran = append(b.ran, line)
	name := argv[len(argv)-1]
	unit := b.m.path("/etc/systemd/system/" + name)
	link := func(how, by string) string {
		return b.m.path("/etc/systemd/system/" + by + "." + how + "/" + name)
	}
	each := func(do func(path string)) {
		text, err := os.ReadFile(unit)
		if err != nil {
			b.t.Errorf("%s: %v", line, err)
		}
		for l := range strings.Lines(string(text)) {
			if by, ok := strings.CutPrefix(strings.TrimSpace(l), "WantedBy="); ok {
				do(link("wants", by))
			}
			if by, ok := strings.CutPrefix(strings.TrimSpace(l), "RequiredBy="); ok {
				do(link("requires", by))
			}
		}
	}
	var err error
	switch {
	case argv[0] == "useradd":
		b.put("/etc/passwd", b.get("/etc/passwd")+fmt.Sprintf("kido:x:61234:61234::/nonexistent:%s\n", GateProgram))
	case argv[0] == "userdel":
		b.put("/etc/passwd", strings.Split(b.get("/etc/passwd"), "kido:")[0])
	case strings.HasPrefix(line, "systemctl reenable"):
		links, _ := filepath.Glob(link("*", "*"))
		for _, l := range links {
			err = errors.Join(err, os.Remove(l))
		}
		each(func(path string) {
			err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644))
		})
	case strings.HasPrefix(line, "systemctl disable"):
		links, _ := filepath.Glob(link("*", "*"))
		for _, l := range links {
			err = errors.Join(err, os.Remove(l))
			_ = os.Remove(filepath.Dir(l))
		}
	case argv[0] == "update-rc.d" && name == "defaults":
		b.put("/etc/rc2.d/S20"+argv[1], "")
	case strings.HasPrefix(line, "rc-update add"):
		b.put("/etc/runlevels/default/"+argv[2], "")
	case strings.HasPrefix(line, "rc-update del"):
		_ = os.Remove(b.m.path("/etc/runlevels/default/" + argv[2]))
	case argv[0] == "update-rc.d":
		_ = os.Remove(b.m.path("/etc/rc2.d/S20" + argv[2]))
	case strings.HasPrefix(line, "systemctl show"):
		return b.shown, nil
	case strings.HasPrefix(line, "systemctl is-active"):
		return "active", nil
	case strings.HasPrefix(line, "/usr/sbin/sshd -t"):
		text, _ := os.ReadFile(name)
		dropIn, _ := os.ReadFile(b.m.path(sshdDropIn))
		if word := b.refuse(string(text) + string(dropIn)); word != "" {
			return word, errors.New(word)
		}
	case strings.HasPrefix(line, "/usr/sbin/sshd -T"):
		text, _ := os.ReadFile(b.m.path(sshdConfig))
		dropIn, _ := os.ReadFile(b.m.path(sshdDropIn))
		return said(string(text) + string(dropIn)), nil
	}
	return "", err
}

// said is what sshd says of connections that its configuration holds to the lock.
func said(config string) string {
	var b strings.Builder
	for line := range strings.Lines(matchBlock(strings.Contains(config, "TrustedUserCAKeys "+authoritiesFile))) {
		word, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word != "Match" {
			fmt.Fprintf(&b, "%s %s\n", strings.ToLower(word), value)
		}
	}
	return b.String()
}

const shop = `site: shop
hosts: {db1: 192.0.2.1, web1: 192.0.2.3}
services:
  oracle: {hosts: [db1, web1], ADAPTER: dbora.service, ready: {tcp: ":1521"}}
  web: {hosts: web1, ADAPTER: httpd.service, after: oracle}
`

// setup is what web1 needs in the box.
func (b *box) setup(init Init, text string, rings ...*Keyring) *Setup {
	b.t.Helper()
	rings = append(rings, &Keyring{})
	f := facts(init)
	f.Logrotate = init == SysV
	f.Kido, f.Gate = b.m.path("/src/kido"), b.m.path("/src/kido-gate")
	f.SSHDInclude = includesFolder(b.get(sshdConfig))
	if init != Systemd {
		text = strings.ReplaceAll(text, ".service", "")
	}
	s, err := Make(Source{File: "/src/site.yaml", Text: strings.ReplaceAll(text, "ADAPTER", string(init)), Keys: rings[0]}, "web1", f)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// apply does the work, at most so many steps of it, and returns the names of
// the steps.
func (b *box) apply(s *Setup, most int) (steps, warnings []string, err error) {
	b.t.Helper()
	w, err := b.m.Compare(s)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(w, most)
}

func (b *box) do(w *Work, most int) (steps, warnings []string, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err = w.Do(ctx, func(s Step) {
		steps = append(steps, s.String())
		if len(steps) == most {
			cancel()
		}
	})
	return steps, w.Warnings, err
}

func (b *box) remove(purge bool) (steps, warnings []string) {
	b.t.Helper()
	w, err := b.m.Remove(purge)
	if err == nil {
		steps, warnings, err = b.do(w, -1)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return steps, warnings
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			t.Errorf("%s: %s is there", what, path)
		} else if got[path] != want[path] {
			t.Errorf("%s: %s is\n%s\nwant\n%s", what, path, got[path], want[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if _, ok := got[path]; !ok {
			t.Errorf("%s: %s is not there", what, path)
		}
	}
}

// What is installed twice changes nothing the second time, and what is removed
// leaves the machine as it was.
func TestInstallTwiceAndRemove(t *testing.T) {
	t.Parallel()
	for _, init := range []Init{Systemd, SysV, OpenRC} {
		t.Run(string(init), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, init)
			before := b.tree()
			if steps, _, err := b.apply(b.setup(init, shop), -1); err != nil || len(steps) < 10 {
				t.Fatal(steps, err)
			}
			after := b.tree()
			if steps, warnings, err := b.apply(b.setup(init, shop), -1); err != nil || len(steps)+len(warnings) > 0 {
				t.Errorf("the second time: %q %q %v", steps, warnings, err)
			}
			same(t, "the second time", b.tree(), after)
			if _, warnings := b.remove(true); len(warnings) > 0 {
				t.Errorf("removed: %q", warnings)
			}
			same(t, "removed", b.tree(), before)
			if steps, _ := b.remove(false); len(steps) > 0 {
				t.Errorf("removed once more: %q", steps)
			}

			// In two steps: what tells of the past stays until it is purged.
			if _, _, err := b.apply(b.setup(init, shop), -1); err != nil {
				t.Fatal(err)
			}
			key := b.get("/etc/kido/id_ed25519")
			b.remove(false)
			if b.get("/etc/kido/id_ed25519") != key || !strings.Contains(b.get("/etc/passwd"), "kido:") {
				t.Error("the key or the user is gone without --purge")
			}
			b.remove(true)
			same(t, "purged later", b.tree(), before)
		})
	}
}

// Wherever an install is cut off, the next one completes it.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, init := range []Init{Systemd, SysV, OpenRC} {
		whole := newBox(t, init)
		steps, _, err := whole.apply(whole.setup(init, shop), -1)
		if err != nil {
			t.Fatal(err)
		}
		want := whole.tree()
		// The key is another in every box.
		secret := func(tree map[string]string) map[string]string {
			delete(tree, "/etc/kido/id_ed25519")
			delete(tree, "/etc/kido/id_ed25519.pub")
			return tree
		}
		for n := 1; n < len(steps); n++ {
			t.Run(fmt.Sprintf("%s/%d", init, n), func(t *testing.T) {
				t.Parallel()
				b := newBox(t, init)
				if done, _, err := b.apply(b.setup(init, shop), n); err == nil || len(done) != n {
					t.Fatalf("not interrupted: %q %v", done, err)
				}
				b.ran = nil
				if _, warnings, err := b.apply(b.setup(init, shop), -1); err != nil || len(warnings) > 0 {
					t.Fatal(warnings, err)
				}
				same(t, "completed after "+steps[n-1], secret(b.tree()), secret(maps.Clone(want)))
				reload := map[Init]string{Systemd: "systemctl daemon-reload", SysV: "/etc/init.d/ssh reload", OpenRC: "rc-service ssh reload"}[init]
				if !slices.Contains(b.ran, reload) {
					t.Errorf("completed after %s without %s", steps[n-1], reload)
				}
				if again, _, err := b.apply(b.setup(init, shop), -1); err != nil || len(again) > 0 {
					t.Errorf("once more: %q %v", again, err)
				}
			})
		}
	}
}

// What somebody else wrote is kept and comes back; what was changed by hand since
// is never lost.
func TestFilesOfOthers(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	if err := os.MkdirAll(b.m.path("/etc/kido"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.put("/etc/kido/policy", "by hand\n")
	before := b.tree()
	_, warnings, err := b.apply(b.setup(Systemd, shop), -1)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "/etc/kido/policy was there already: it is kept as /var/lib/kido/saved/etc/kido/policy") {
		t.Fatalf("%q %v", warnings, err)
	}

	ours := b.get("/etc/kido/policy")
	b.put("/etc/kido/policy", ours+"# changed\n")
	_, warnings, err = b.apply(b.setup(Systemd, shop), -1)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "was changed by hand: what it was is kept as") {
		t.Fatalf("%q %v", warnings, err)
	}
	if b.get("/etc/kido/policy") != ours {
		t.Error("it is not written anew")
	}
	kept, _ := filepath.Glob(b.m.path("/var/lib/kido/saved/etc/kido/policy.*"))
	if len(kept) != 1 {
		t.Errorf("what was changed by hand is kept as %q", kept)
	}

	const unit = "/etc/systemd/system/kido-wait-web.service"
	text := b.get(unit)
	b.put(unit, text+"# changed\n")
	_, warnings = b.remove(true)
	if len(warnings) != 1 || !strings.Contains(warnings[0], unit+" was changed by hand: it is left") {
		t.Errorf("removed: %q", warnings)
	}
	left := b.tree()
	if left[unit] == "" {
		t.Error("what was changed by hand is gone")
	}
	delete(left, unit)
	same(t, "removed", left, before)
}

// TestBury: a hook that held a start is ended once systemd knows that it is gone, and not
// where that would end a service.
func TestBury(t *testing.T) {
	t.Parallel()
	const stop, reset = "systemctl stop kido-wait-web.service", "systemctl reset-failed kido-wait-web.service"
	none := strings.Replace(shop, ", after: oracle}", "}", 1)
	for _, c := range []struct {
		shown       string
		step        bool
		ran, warned string
	}{
		{"ActiveState=active\nRequiredBy=\nBoundBy=\nConsistsOf=", true, stop, ""},
		{"RequiredBy=\nActiveState=activating", true, stop, ""},
		{"ActiveState=failed", true, reset, ""},
		{"ActiveState=active\nRequiredBy=apache2.service\nBoundBy=", true, "", "would stop apache2.service as well"},
		{"ActiveState=inactive\nRequiredBy=", false, "", ""},
	} {
		for _, how := range []string{"removed", "purged", "not needed any more"} {
			b := newBox(t, Systemd)
			if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
				t.Fatal(err)
			}
			b.ran, b.shown = nil, c.shown
			var steps, warnings []string
			if how == "not needed any more" {
				var err error
				if steps, warnings, err = b.apply(b.setup(Systemd, none), -1); err != nil {
					t.Fatal(err)
				}
			} else {
				steps, warnings = b.remove(how == "purged")
			}
			if slices.Contains(steps, "run "+stop) != c.step {
				t.Errorf("%s, %q: %q", how, c.shown, steps)
			}
			for _, line := range []string{stop, reset} {
				if at := slices.Index(b.ran, line); at >= 0 != (line == c.ran) || at >= 0 && at < slices.Index(b.ran, "systemctl daemon-reload") {
					t.Errorf("%s, %q: %s: %q", how, c.shown, line, b.ran)
				}
			}
			if warned := slices.ContainsFunc(warnings, func(w string) bool { return c.warned != "" && strings.Contains(w, c.warned) }); warned != (c.warned != "") {
				t.Errorf("%s, %q: %q", how, c.shown, warnings)
			}
		}
	}
}

// Hooks follow the site file.
func TestSiteChanged(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
		t.Fatal(err)
	}
	const links = "/etc/systemd/system/apache2.service."
	has := func(path string, want bool) {
		t.Helper()
		if _, there := b.tree()[path]; there != want {
			t.Errorf("%s is there: %v", path, there)
		}
	}
	has(links+"wants/kido-wait-web.service", true)

	leave := strings.Replace(shop, "after: oracle}", "after: oracle, wait: {otherwise: leave}}", 1)
	if _, _, err := b.apply(b.setup(Systemd, leave), -1); err != nil {
		t.Fatal(err)
	}
	has(links+"wants/kido-wait-web.service", false)
	has(links+"requires/kido-wait-web.service", true)

	none := strings.Replace(shop, ", after: oracle}", "}", 1)
	steps, _, err := b.apply(b.setup(Systemd, none), -1)
	if err != nil {
		t.Fatal(err)
	}
	has(links+"requires/kido-wait-web.service", false)
	has("/etc/systemd/system/kido-wait-web.service", false)
	has("/etc/systemd/system/kido-announce-oracle.service", false)
	if slices.Contains(steps, "run systemctl disable --now kido-wait-web.service") {
		t.Error("a hook that the service requires is stopped, and the service with it")
	}
	if !slices.Contains(steps, "run systemctl disable --now kido-announce-oracle.service") {
		t.Errorf("the announcement goes on: %q", steps)
	}
}

// sshd decides whether its configuration changes; whatever it says, what it has
// is good.
func TestSSHDRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config string
		refuse func(string) string
		want   string
	}{
		"as it is": {
			mainConfig,
			func(string) string { return "bad already" },
			"sshd refuses its configuration as it is, without kido: mend that first: bad already",
		},
		"the draft": {
			mainConfig,
			func(text string) string {
				return map[bool]string{true: "no such option"}[strings.Contains(text, "ExposeAuthInfo")]
			},
			"sshd would refuse /etc/ssh/sshd_config.d/50-kido.conf, so it is not put there: no such option",
		},
		"in place": {
			mainConfig,
			func(text string) string {
				return map[bool]string{true: "not here"}[strings.Contains(text, "ExposeAuthInfo") && !strings.Contains(text, blockBegin)]
			},
			"/etc/ssh/sshd_config.d/50-kido.conf was taken back: not here",
		},
		"a block": {
			"UsePAM yes",
			func(text string) string {
				return map[bool]string{true: "no such option"}[strings.Contains(text, "ExposeAuthInfo")]
			},
			"sshd would refuse /etc/ssh/sshd_config, so it is not put there: no such option",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, SysV)
			b.put(sshdConfig, c.config)
			b.refuse = c.refuse
			_, _, err := b.apply(b.setup(SysV, shop), -1)
			if err == nil || err.Error() != c.want {
				t.Errorf("error %v\nwant %s", err, c.want)
			}
			if got := b.get(sshdConfig); got != c.config {
				t.Errorf("sshd_config is changed: %s", got)
			}
			if left, _ := filepath.Glob(b.m.path("/etc/ssh/sshd_config*/*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if _, err := os.Stat(b.m.path(sshdConfig + ".kido")); err == nil {
				t.Error("the draft is left behind")
			}
			if links, _ := filepath.Glob(b.m.path("/etc/rc2.d/*")); len(links) > 0 {
				t.Errorf("hooks are enabled all the same: %q", links)
			}
			b.refuse = func(string) string { return "" }
			if _, _, err := b.apply(b.setup(SysV, shop), -1); err != nil {
				t.Errorf("once it is mended: %v", err)
			}
		})
	}
}

// Another Match that comes first would let a key do what it likes.
func TestSSHDDoesOtherwise(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	run := b.m.Run
	b.m.Run = func(argv ...string) (string, error) {
		out, err := run(argv...)
		if slices.Contains(argv, "-T") {
			out = strings.Replace(out, "permittty no", "permittty yes", 1)
		}
		return out, err
	}
	_, _, err := b.apply(b.setup(Systemd, shop), -1)
	if err == nil || !strings.Contains(err.Error(), `sshd does not hold the user kido to "permittty no" for all connections`) {
		t.Errorf("error %v", err)
	}
	if b.tree()[sshdDropIn] != "" {
		t.Error("it is left in place")
	}
}

// The real sshd, asked about the places that keys come from: what it holds only
// some of them to is found, and what it is to be without.
func TestEffective(t *testing.T) {
	t.Parallel()
	sshdtest.Program(t)
	asks := connections(&site.Host{Name: "web1", Address: "192.0.2.3", Port: 22}, []string{"192.0.2.1", "198.51.100.0/24", "2001:db8::7"})
	for name, c := range map[string]struct{ first, want string }{
		"nothing":                            {"", ""},
		"authorities":                        {"", ""},
		"authorities, and another principal": {"Match Address 192.0.2.1\n  AuthorizedPrincipalsFile /etc/ssh/principals\n", `"authorizedprincipalsfile /etc/ssh/kido_principals"`},
		"authorities, and another's":         {"Match Address 192.0.2.1\n  TrustedUserCAKeys /etc/ssh/ca\n", `"trustedusercakeys /etc/ssh/kido_authorities"`},
		"somebody else":                      {"Match User ann\n  PermitTTY yes\n", ""},
		"another address":                    {"Match Address 203.0.113.0/24\n  PermitTTY yes\n", ""},
		"one address":                        {"Match Address 192.0.2.1\n  PermitTTY yes\n", `"permittty no" for all connections (user=kido,host=192.0.2.1,addr=192.0.2.1,laddr=192.0.2.3,lport=22: ["yes"])`},
		"a prefix":                           {"Match Address 198.51.100.0/25\n  ForceCommand /bin/sh\n", `"forcecommand /usr/local/sbin/kido-gate" for all connections`},
		"an IPv6 address":                    {"Match Address 2001:db8::/32\n  PermitUserRC yes\n", `"permituserrc no"`},
		"this address":                       {"Match LocalAddress 192.0.2.3\n  PermitTTY yes\n", `"permittty no"`},
		"an authority":                       {"Match Address 192.0.2.1\n  TrustedUserCAKeys /etc/ssh/ca\n", `"trustedusercakeys none"`},
		"a command":                          {"Match Address 192.0.2.1\n  AuthorizedKeysCommand /bin/keys\n  AuthorizedKeysCommandUser nobody\n", `"authorizedkeyscommand none"`},
		"no revocation":                      {"Match Address 192.0.2.1\n  RevokedKeys none\n", `"revokedkeys /etc/ssh/kido_revoked"`},
		"another file":                       {"Match Address 192.0.2.1\n  AuthorizedKeysFile /etc/ssh/kido_keys .ssh/authorized_keys\n", `"authorizedkeysfile /etc/ssh/kido_keys"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &lock{match: matchBlock(strings.HasPrefix(name, "authorities")), asks: asks}
			m := &Machine{Root: t.TempDir(), Run: execute}
			if err := os.MkdirAll(m.path("/etc/ssh"), 0o755); err != nil {
				t.Fatal(err)
			}
			hostKey := m.path("/etc/ssh/host_key")
			if _, err := keys.New(hostKey, "host"); err != nil {
				t.Fatal(err)
			}
			config := "HostKey " + hostKey + "\n" + withBlock(c.first, l.match+"Match all\n")
			if err := os.WriteFile(m.path(sshdConfig), []byte(config), 0o644); err != nil {
				t.Fatal(err)
			}
			err := m.effective(&Work{machine: m}, l)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("192.0.2.%d", i))
	}
	for name, c := range map[string]struct {
		address string
		from    []string
		count   int
		first   string
	}{
		"an address": {"192.0.2.3", []string{"192.0.2.1"}, 1, "user=kido,host=192.0.2.1,addr=192.0.2.1,laddr=192.0.2.3,lport=2222"},
		"once":       {"192.0.2.3", []string{"192.0.2.0/24", "192.0.2.0"}, 1, "user=kido,host=192.0.2.0,addr=192.0.2.0,laddr=192.0.2.3,lport=2222"},
		"a name":     {"web1.example", []string{"2001:db8::1"}, 1, "user=kido,host=2001:db8::1,addr=2001:db8::1,laddr=127.0.0.1,lport=2222"},
		"nobody":     {"192.0.2.3", nil, 1, "user=kido,host=192.0.2.3,addr=192.0.2.3,laddr=192.0.2.3,lport=2222"},
		"many":       {"192.0.2.3", many, 16, "user=kido,host=192.0.2.0,addr=192.0.2.0,laddr=192.0.2.3,lport=2222"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := connections(&site.Host{Address: c.address, Port: 2222}, c.from)
			if len(got) != c.count || got[0] != c.first {
				t.Errorf("%q", got)
			}
		})
	}
}

// A key that may come from a place where sshd would not hold it is not let in,
// also where the lock is in place already.
func TestKeysBehindTheLock(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
		t.Fatal(err)
	}
	before := b.get(keyFile)
	run := b.m.Run
	b.m.Run = func(argv ...string) (string, error) {
		out, err := run(argv...)
		if strings.Contains(argv[len(argv)-1], "addr=203.0.113.9,") {
			out = strings.Replace(out, "permittty no", "permittty yes", 1)
		}
		return out, err
	}
	_, _, err := b.apply(b.setup(Systemd, shop, ann()), -1)
	if err == nil || !strings.Contains(err.Error(), keyFile+" is not put there: sshd does not hold") {
		t.Errorf("error %v", err)
	}
	if b.get(keyFile) != before {
		t.Errorf("it is put there:\n%s", b.get(keyFile))
	}
	b.m.Run = run
	if _, _, err := b.apply(b.setup(Systemd, shop, ann()), -1); err != nil || !strings.Contains(b.get(keyFile), `from="203.0.113.9"`) {
		t.Errorf("once it is mended: %v\n%s", err, b.get(keyFile))
	}
	// The copies, too, come and go exactly.
	if _, ok := b.tree()["/etc/kido/keys/people/ann.pub"]; !ok {
		t.Error("there is no copy of the person's key")
	}
	if s := b.setup(Systemd, shop, ann()); s != nil {
		s.InPlace = true // the source is the copy now: it stays
		s.Files = slices.DeleteFunc(s.Files, func(f File) bool { return f.Path == siteFile || strings.HasPrefix(f.Path, keysFolder) })
		if steps, _, err := b.apply(s, -1); err != nil || len(steps) > 0 {
			t.Errorf("in place: %q %v", steps, err)
		}
	}
	if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.tree()["/etc/kido/keys/people/ann.pub"]; ok {
		t.Error("the copy of the person's key is left")
	}
	if _, warnings := b.remove(true); len(warnings) > 0 {
		t.Errorf("removed: %q", warnings)
	}
	if _, ok := b.tree()["/etc/kido"]; ok {
		t.Error("folders are left")
	}
}

func fingerprint(public string) string {
	id, err := keys.Fingerprint(public)
	if err != nil {
		panic(err) // it is a key
	}
	return id
}

// ann is a keyring of one person.
func ann() *Keyring {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKmd6GmeRzOUGRsP3grrzKR8yP1ySVYqsqXlpeSRnUmu"
	return &Keyring{
		People: []Person{{"ann", []Key{{Public: key, From: []string{"203.0.113.9"}, Fingerprint: fingerprint(key)}}}},
		texts:  map[string]string{"people/ann.pub": `from="203.0.113.9" ` + key + "\n"},
	}
}

// A block goes to the end of a file that is somebody else's, and out again.
func TestBlock(t *testing.T) {
	t.Parallel()
	b := newBox(t, SysV)
	const config = "UsePAM yes\nMatch User x\n  X11Forwarding no" // no line end
	b.put(sshdConfig, config)
	if _, _, err := b.apply(b.setup(SysV, shop), -1); err != nil {
		t.Fatal(err)
	}
	if want := config + "\n" + blockBegin + matchBlock(false) + "Match all\n" + blockEnd; b.get(sshdConfig) != want {
		t.Errorf("sshd_config:\n%s", b.get(sshdConfig))
	}
	b.put(sshdConfig, b.get(sshdConfig)+"# appended\n")
	if steps, _, err := b.apply(b.setup(SysV, shop), -1); err != nil || len(steps) > 0 {
		t.Errorf("again: %q %v", steps, err)
	}
	b.remove(false)
	if want := config + "\n# appended\n"; b.get(sshdConfig) != want {
		t.Errorf("removed:\n%s", b.get(sshdConfig))
	}
}

func TestCompareRefuses(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	b.put("/etc/passwd", "kido:x:1000:1000:Kido Tanaka:/home/kido:/bin/bash\n")
	_, err := b.m.Compare(b.setup(Systemd, shop))
	if err == nil || !strings.Contains(err.Error(), "there is a user kido already, with the login shell /bin/bash") {
		t.Errorf("a person called kido: %v", err)
	}
	b.put("/etc/passwd", "")
	if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
		t.Fatal(err)
	}
	s := b.setup(Systemd, shop)
	s.Host = "db1"
	if _, err := b.m.Compare(s); err == nil || !strings.Contains(err.Error(), "this machine is set up as the host web1") {
		t.Errorf("another host: %v", err)
	}
	b.put(manifestFile, "{")
	if _, err := b.m.Compare(b.setup(Systemd, shop)); err == nil || !strings.Contains(err.Error(), "what was installed here cannot be read") {
		t.Errorf("a record that is cut short: %v", err)
	}
}

// TestRenamedHost: what a host has on record under another name is set aside, or
// its gate would believe nothing of it for ever.
func TestRenamedHost(t *testing.T) {
	t.Parallel()
	m := &Machine{Root: t.TempDir()}
	dir := m.path(gate.DefaultState)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, whose := range map[string]string{"web": "web@new", "db": "db@old"} {
		if err := os.WriteFile(filepath.Join(dir, name+".state"), []byte("kido-state 1 "+whose+"\ngeneration 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := &Work{machine: m}
	if err := m.foreignStates(w, "old"); err != nil || len(w.Steps) != 1 {
		t.Fatalf("%v, %v", w.Steps, err)
	}
	if err := w.Steps[0].do(); err != nil {
		t.Fatal(err)
	}
	for name, there := range map[string]bool{"web.state": false, "web.state.old": true, "db.state": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// authority is a keyring of one authority and one revoked key.
func authority() *Keyring {
	const key, revoked = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMugAoil525RUeUzuGs7H/ocN53VuvcdaNE6pNoPe/MK", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDoOfIetwWl3+gVI81gctOqbrHB246tNcEsmHu5IMoTE"
	return &Keyring{
		Authorities: []Key{{Public: key, Fingerprint: fingerprint(key)}},
		Revoked:     []Key{{Public: revoked, Fingerprint: fingerprint(revoked)}},
		texts:       map[string]string{"authorities/root.pub": key + "\n", "revoked": revoked + "\n"},
	}
}

// What a lock names is there before the lock, and is gone only after it: over a
// file of revoked keys that it cannot read sshd lets in nobody.
func TestLockNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	b.refuse = func(config string) string {
		for _, file := range []string{refusedFile, authoritiesFile} {
			if strings.Contains(config, " "+file+"\n") && !b.m.exists(file) {
				return file + " is named and is not there"
			}
		}
		return ""
	}
	for _, ring := range []*Keyring{authority(), {}, authority()} {
		if _, _, err := b.apply(b.setup(Systemd, shop, ring), -1); err != nil {
			t.Fatal(err)
		}
		want := len(ring.Authorities) > 0
		for _, path := range []string{authoritiesFile, principalsFile, authorities + "/root.pub", keysFolder + "/revoked"} {
			if b.m.exists(path) != want {
				t.Errorf("%d authorities: %s is there: %v", len(ring.Authorities), path, !want)
			}
		}
		if strings.Contains(b.get(refusedFile), "ssh-ed25519") != want || strings.Contains(b.get(sshdDropIn), "TrustedUserCAKeys none\n") == want {
			t.Errorf("%d authorities:\n%s%s", len(ring.Authorities), b.get(refusedFile), b.get(sshdDropIn))
		}
		if steps, _, err := b.apply(b.setup(Systemd, shop, ring), -1); err != nil || len(steps) > 0 {
			t.Errorf("again: %q %v", steps, err)
		}
	}
	w, err := b.m.Remove(true)
	if err != nil {
		t.Fatal(err)
	}
	place := func(step string) int {
		return slices.IndexFunc(w.Steps, func(s Step) bool { return s.String() == step })
	}
	if block, reload, file := place("remove "+sshdDropIn), place("run systemctl reload ssh.service"), place("remove "+refusedFile); block < 0 || reload < block || file < reload {
		t.Errorf("the lock, the reload and the file are removed as steps %d, %d and %d", block, reload, file)
	}
	if _, _, err := b.do(w, -1); err != nil {
		t.Fatal(err)
	}
}

// What a run that was killed has left beside files is gone once the next one has
// come to its end, be that an install or a removal.
func TestLeavings(t *testing.T) {
	t.Parallel()
	for _, remove := range []bool{false, true} {
		b := newBox(t, Systemd)
		before := b.tree()
		if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
			t.Fatal(err)
		}
		want := b.tree()
		for _, path := range []string{newOf(sshdDropIn), asideOf(sshdDropIn), draftOf(sshdConfig), newOf(gate.DefaultPolicy), newOf("/etc/systemd/system/kido-wait-web.service")} {
			b.put(path, "half of i")
		}
		if remove {
			b.remove(true)
			want = before
		} else if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
			t.Fatal(err)
		}
		same(t, "afterwards", b.tree(), want)
	}
}

// A dry run tells what would be done, file by file, and keeps what is secret.
func TestShown(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	shown := func(ring *Keyring) map[string]ShownStep {
		t.Helper()
		before := b.tree()
		w, err := b.m.Compare(b.setup(Systemd, shop, ring))
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]ShownStep{}
		for _, s := range w.Steps {
			all[s.String()] = s.Shown()
		}
		same(t, "looked at", b.tree(), before)
		return all
	}
	if err := os.MkdirAll(b.m.path("/etc/kido"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.put("/etc/kido/policy", "a secret of somebody's\n")
	if err := os.Chmod(b.m.path("/etc/kido/policy"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := shown(&Keyring{})
	if s := first["write "+sshdDropIn]; s.Mode != "0644" || !strings.HasPrefix(s.Diff, "--- /dev/null\n+++ "+sshdDropIn+"\n@@ -0,0 +1,") || !strings.Contains(s.Diff, "\n+    ExposeAuthInfo yes\n") {
		t.Errorf("%+v", s)
	}
	if s := first["write "+GateProgram]; s.Diff == "" { // a text in the box
		t.Errorf("%+v", s)
	}
	if s := first["write /etc/kido/policy"]; s.Diff != "" || s.Before == nil || s.Before.Size != 23 || s.After == nil || len(s.After.SHA256) != 64 {
		t.Errorf("a file that not everybody may read: %+v", s)
	}
	if s := first["make the key /etc/kido/id_ed25519"]; s != (ShownStep{What: "make the key /etc/kido/id_ed25519"}) {
		t.Errorf("%+v", s)
	}
	if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
		t.Fatal(err)
	}
	if again := shown(&Keyring{}); len(again) > 0 {
		t.Errorf("%+v", again)
	}
	b.put("/src/kido-gate", "gate\x00 2")
	second := shown(ann())
	if s := second["write "+GateProgram]; s.Diff != "" || s.Before == nil || s.Before.Size != 6 || s.After == nil || s.After.Size != 7 {
		t.Errorf("a program: %+v", s)
	}
	if s := second["write "+keyFile]; !strings.Contains(s.Diff, "\n+restrict,from=\"203.0.113.9\"") || strings.Contains(s.Diff, "\n-") {
		t.Errorf("%+v", s)
	}
	w, err := b.m.Remove(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range w.Steps {
		text := s.Shown()
		if strings.Contains(text.Diff, "secret") || strings.Contains(text.Diff, "PRIVATE") {
			t.Errorf("%+v", text)
		}
		if s.String() == "remove "+sshdDropIn && !strings.Contains(text.Diff, "\n+++ /dev/null\n") {
			t.Errorf("%+v", text)
		}
	}
}

// What a block in sshd_config would change is shown within that file.
func TestShownBlock(t *testing.T) {
	t.Parallel()
	b := newBox(t, SysV)
	b.put(sshdConfig, "UsePAM yes\n")
	w, err := b.m.Compare(b.setup(SysV, shop))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(w.Steps, func(s Step) bool { return s.Path == sshdConfig })
	if i < 0 || !strings.HasPrefix(w.Steps[i].Shown().Diff, "--- "+sshdConfig+"\n+++ "+sshdConfig+"\n@@ -1,1 +1,") {
		t.Errorf("%+v", w.Steps[max(i, 0)].Shown())
	}
}

// An sshd that does not know an option is not told of it, and that is said.
func TestTooOld(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"x: line 3: Bad configuration option: ExposeAuthInfo":                         "it is too old for ExposeAuthInfo: install OpenSSH 7.6 or later: ",
		"x line 3: Directive 'DisableForwarding' is not allowed within a Match block": "it is too old for DisableForwarding: install OpenSSH 7.6 or later: ",
		"x: no such file": "",
	} {
		if got := tooOld(errors.New(said)); got.Error() != want+said {
			t.Errorf("%s", got)
		}
	}
}

// A key that was being written when the power went is made anew.
func TestEmptyKey(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	if err := os.MkdirAll(b.m.path("/etc/kido"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.put("/etc/kido/id_ed25519", "")
	if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.get("/etc/kido/id_ed25519"), "PRIVATE KEY") || !strings.HasPrefix(b.get("/etc/kido/id_ed25519.pub"), "ssh-ed25519 ") {
		t.Error("there is no key")
	}
}

// An account, or a machine, that lets nobody in is told of with what mends it.
func TestShutOut(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // day 20513
	for line, want := range map[string]string{
		"kido:*:::::::":                  "",
		"kido:*:20000:0:99999:7:::":      "",
		"kido:!:20000::::::":             "locked (!), and sshd refuses that where it goes without PAM: usermod -p '*' kido",
		"kido:!*:20000::::::":            "usermod -p '*' kido",
		"kido:*:20000:0:99999:7::20513:": "its account has expired: chage -E -1 kido",
		"kido:*:20000:0:99999:7::20514:": "",
		"kido:*:20000:0:90:7:::":         "its password has expired: chage -M -1 -d 2026-03-01 kido",
		"kido:*:0:0:99999:7:::":          "its password has expired: chage -M -1 -d 2026-03-01 kido",
		"kido:*:20500:0:90:7:::":         "",
		"kido:*:x:y:z:7::w:":             "",
	} {
		got := strings.Join(aging(strings.Split(line, ":"), now), "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %s; want %s", line, got, want)
		}
	}
	b := newBox(t, Systemd)
	if _, _, err := b.apply(b.setup(Systemd, shop), -1); err != nil {
		t.Fatal(err)
	}
	b.put("/etc/shadow", "root:*:20000::::::\nkido:!:20000::::::\n")
	b.put("/etc/nologin", "")
	steps, warnings, err := b.apply(b.setup(Systemd, shop), -1)
	if err != nil || len(steps) > 0 || len(warnings) != 2 || !strings.Contains(warnings[0], "the user kido cannot log in: its password is locked") || !strings.Contains(warnings[1], "/etc/nologin is there") {
		t.Errorf("%q %q %v", steps, warnings, err)
	}
}

// sshd's list of exceptions is somebody else's where he has written one, and ours
// where only kido has.
func TestExempt(t *testing.T) {
	t.Parallel()
	const on, list = "persourcepenalties crash:90\n", "persourcepenaltyexemptlist "
	for name, c := range map[string]struct {
		says   string // of sshd -G; "" where it does not know -G
		dropIn string
		other  string
		want   string
	}{
		"too old":     {"", "", "", ""},
		"unknown":     {"permittty yes\n", "", "", ""},
		"off":         {"persourcepenalties no\n" + list + "none\n", "", "", ""},
		"free":        {on + list + "none\n", "", "", "none"},
		"ours":        {on + list + "192.0.2.1\n", "PerSourcePenaltyExemptList 192.0.2.1\nMatch User kido\n", "", "none"},
		"another's":   {on + list + "192.0.2.9\n", "", "PerSourcePenaltyExemptList\t192.0.2.9\n", "192.0.2.9"},
		"behind ours": {on + list + "192.0.2.1\n", "PerSourcePenaltyExemptList 192.0.2.1\n", "persourcepenaltyexemptlist 192.0.2.9\n", "192.0.2.9"},
		"elsewhere":   {on + list + "192.0.2.9\n", "PerSourcePenaltyExemptList 192.0.2.1\n", "", "192.0.2.9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, Systemd)
			b.m.Run = func(...string) (string, error) {
				if c.says == "" {
					return "unknown option -- G", errors.New("unknown option -- G")
				}
				return c.says, nil
			}
			b.put(sshdDropIn, c.dropIn)
			b.put("/etc/ssh/sshd_config.d/zz.conf", c.other)
			if got := b.m.exempt(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	for name, c := range map[string]struct {
		had       string
		include   bool
		line, say string
	}{
		"no penalties": {"", true, "", ""},
		"free":         {"none", true, "PerSourcePenaltyExemptList 192.0.2.1,203.0.113.0/24\n", ""},
		"no folder":    {"none", false, "", "put this line at the top of /etc/ssh/sshd_config: PerSourcePenaltyExemptList 192.0.2.1,203.0.113.0/24"},
		"another's":    {"192.0.2.9,192.0.2.1", true, "", "let it be: PerSourcePenaltyExemptList 192.0.2.9,192.0.2.1,203.0.113.0/24"},
		"enough":       {"203.0.113.0/24,192.0.2.1", true, "", ""},
	} {
		m := &maker{facts: Facts{Exempt: c.had, SSHDInclude: c.include}}
		got := m.exempt([]string{"203.0.113.0/24", "192.0.2.1"})
		if warned := strings.Join(m.Warnings, "\n"); got != c.line || !strings.HasSuffix(warned, c.say) || (warned == "") != (c.say == "") {
			t.Errorf("%s: %q, %q", name, got, warned)
		}
	}
}

// A lock that a run has put in place just before it was killed, and that does not
// hold, is found by the next run though the file is as it should be; what was there
// before that run comes back.
func TestUnaskedLock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config string
		lock   string
		first  bool // nothing of kido was there before
	}{
		"first":         {mainConfig, sshdDropIn, true},
		"another":       {mainConfig, sshdDropIn, false},
		"first block":   {"UsePAM yes\n", sshdConfig, true},
		"another block": {"UsePAM yes\n", sshdConfig, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, SysV)
			b.put(sshdConfig, c.config)
			if !c.first {
				if _, _, err := b.apply(b.setup(SysV, shop), -1); err != nil {
					t.Fatal(err)
				}
			}
			before := b.tree()[c.lock]
			s := b.setup(SysV, shop, authority())
			w, err := b.m.Compare(s)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(w.Steps, func(s Step) bool { return s.Path == c.lock })
			if _, _, err := b.do(w, i); err == nil {
				t.Fatal("it was not interrupted")
			}
			if before != "" {
				if err := os.Link(b.m.path(c.lock), b.m.path(asideOf(c.lock))); err != nil {
					t.Fatal(err)
				}
				if err := os.Remove(b.m.path(c.lock)); err != nil {
					t.Fatal(err)
				}
			}
			b.put(c.lock, string(w.Steps[i].now))
			run := b.m.Run
			b.m.Run = func(argv ...string) (string, error) {
				out, err := run(argv...)
				return strings.Replace(out, "permittty no", "permittty yes", 1), err
			}
			if _, _, err := b.apply(s, -1); err == nil || !strings.Contains(err.Error(), c.lock+" was taken back: sshd does not hold the user kido") {
				t.Errorf("error %v", err)
			}
			if now := b.tree()[c.lock]; now != before {
				t.Errorf("taken back to\n%s\nwant\n%s", now, before)
			}
			b.m.Run = run
			if _, _, err := b.apply(s, -1); err != nil {
				t.Errorf("once it is mended: %v", err)
			}
			for path := range b.tree() {
				if strings.HasSuffix(path, "~") {
					t.Errorf("left behind: %s", path)
				}
			}
		})
	}
}

// TestLock: a run waits for the end of another one, or of its own time.
func TestLock(t *testing.T) {
	t.Parallel()
	b := newBox(t, Systemd)
	unlock, err := b.m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.m.Lock(ended); err == nil || !strings.HasPrefix(err.Error(), "another kido install is at work on this machine: wait") {
		t.Errorf("beside another run: %v", err)
	}
	second := make(chan error)
	go func() {
		unlock, err := b.m.Lock(t.Context())
		if err == nil {
			unlock()
		}
		second <- err
	}()
	unlock()
	if err := <-second; err != nil {
		t.Errorf("after another run: %v", err)
	}
}
