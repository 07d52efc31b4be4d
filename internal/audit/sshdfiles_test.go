package audit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kido/internal/remote/sshdtest"
)

// TestIncludes: whatever way a Match line is included, it is found wherever a real
// sshd finds it, and nowhere else.
func TestIncludes(t *testing.T) {
	t.Parallel()
	sshd := sshdtest.Program(t)
	hostKey := privateKey(t, "", "")
	const open = "Match Address 10.9.8.7\nPermitRootLogin yes\n"
	for _, c := range []struct {
		name, config string // DIR stands for a folder that has the files below
		want         bool
		unread       string // what is said not to be followed
	}{
		{name: "one file", config: "Include DIR/sub/b.conf", want: true},
		{name: "none", config: "Include DIR/gone.conf"},
		{name: "=", config: "include=DIR/sub/b.conf", want: true},
		{name: "a quoted keyword", config: ` "Include" "DIR/sub/b.conf"`, want: true},
		{name: "several", config: "Include DIR/gone DIR/*.gone DIR/sub/b.conf # none", want: true},
		{name: "a comment", config: "#Include DIR/sub/b.conf\nInclude DIR/gone #DIR/sub/b.conf"},
		{name: "a pattern of folders", config: "Include DIR/*/b.conf", want: true},
		{name: "patterns", config: "Include DIR/su?/[ab].conf", want: true},
		{name: "not", config: "Include DIR/[!x]ub/b.conf", want: true},
		{name: "not, as shells have it", config: "Include DIR/[^x]ub/b.conf"},
		{name: "hidden", config: "Include DIR/hidden/*.conf"},
		{name: "hidden, by its dot", config: "Include DIR/hidden/.*.conf", want: true},
		{name: "a blank", config: `Include "DIR/with space.conf"`, want: true},
		{name: "a blank, another way", config: `Include 'DIR/with space.conf'`, want: true},
		{name: "a blank, escaped", config: `Include DIR/with\ space.conf`, want: true},
		{name: "a blank, not quoted", config: `Include DIR/with space.conf`},
		{name: "one after the other", config: "Include DIR/two.conf", want: true},
		{name: "sixteen", config: "Include DIR/deep/1", want: true},
		{name: "too many", config: "Include DIR/deep/0", unread: "by way of more than 16"},
		{name: "itself", config: "Include DIR/itself"},
		{name: "in a block of its own", config: "Match LocalPort 2222\nInclude DIR/sub/b.conf\n", want: true},
		{name: "in a narrower block", config: "Match Address 10.9.8.0/24\nInclude DIR/sub/b.conf\n", want: true},
		{name: "in a wider block", config: "Match Address 10.9.8.7\nInclude DIR/wider.conf\n", want: true},
		{name: "in a block for nobody", config: "Match Address 10.1.1.1\nInclude DIR/sub/b.conf\n"},
		{name: "a block behind", config: "Match LocalPort 2222\nInclude DIR/none.conf\n" + open, want: true},
		{name: "a class", config: "Include DIR/[[:alpha:]]ub/b.conf", want: true, unread: "not known"},
		{name: "a home", config: "Include ~/b.conf", unread: "not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			here := func(text string) string { return strings.ReplaceAll(text, "DIR", dir) }
			for _, name := range []string{"sub/b.conf", "with space.conf", "hidden/.b.conf"} {
				write(name, open)
			}
			write("none.conf", "PermitTTY no\n")
			write("wider.conf", "Match Address 10.9.0.0/16 LocalPort 2222\nPermitRootLogin yes\n")
			write("itself", here(strings.Repeat("Include DIR/itself\n", 2)))
			write("two.conf", here("Include DIR/sub/b.conf\n"))
			for n := range 15 {
				write(fmt.Sprintf("deep/%d", n), here(fmt.Sprintf("Include DIR/deep/%d\n", n+1)))
			}
			write("deep/15", here("Include DIR/sub/b.conf\n"))
			write("key", hostKey)
			write("config", here("HostKey DIR/key\n"+c.config)+"\nMatch all\nPermitRootLogin no\n")

			asks := func(argv ...string) (string, error) {
				out, err := exec.Command(sshd, append([]string{"-f", filepath.Join(dir, "config")}, argv[1:]...)...).CombinedOutput()
				return string(out), err
			}
			l := &looker{Machine: &Machine{Run: asks}, Facts: Facts{Server: &Server{}}, grants: true}
			opens := func(from connection) bool {
				found, ok := l.config("root", from)
				return ok && found.get("permitrootlogin") == "yes"
			}
			if real := opens(connection{addr: "10.9.8.7", lport: "2222"}); real != c.want {
				t.Fatalf("control: sshd finds it: %v", real)
			}
			r := &sshdReader{l: l, seen: map[string]bool{}}
			r.file(filepath.Join(dir, "config"), 0, []connection{{}})
			if found := slices.ContainsFunc(r.matched, opens); found != (c.want && c.unread == "") || !c.want && !strings.Contains(c.config, "Match") && len(r.matched) > 0 {
				t.Errorf("it is found: %v, with %+v", found, r.matched)
			}
			var said []string
			for _, u := range l.Unread {
				if u.Place.File != sshdConfig { // that is of sshd, which takes not so many files
					said = append(said, u.Err.Error())
				}
				if !u.Grants {
					t.Errorf("no error: %+v", u)
				}
			}
			if all := strings.Join(said, "; "); (all == "") != (c.unread == "") || !strings.Contains(all, c.unread) {
				t.Errorf("said %q", all)
			}
		})
	}
}

// TestIncludedFiles: who can write what is included, or could have something
// included, is looked at; what cannot be read is an error.
func TestIncludedFiles(t *testing.T) {
	t.Parallel()
	m := host(t, map[string]string{
		"/etc/passwd": passwd, "/usr/sbin/sshd": "",
		"/etc/ssh/sshd_config": "Include a.d/*.conf\nMatch Address 2001:db8:*\nMatch Address web1\n",
		"/etc/ssh/a.d/a.conf":  "Include more/*/b\n",
		"/etc/ssh/more/x/b":    "Include b\n",
		"/srv/b":               "UseDNS yes\n",
	})
	if err := errors.Join(
		os.Symlink(filepath.Join(m.Root, "/srv/b"), filepath.Join(m.Root, "/etc/ssh/b")),
		syscall.Mkfifo(filepath.Join(m.Root, "/etc/ssh/a.d/fifo.conf"), 0o600),
		os.Chmod(filepath.Join(m.Root, "/etc/ssh/more"), 0o777),
		os.Chmod(filepath.Join(m.Root, "/srv/b"), 0o666),
	); err != nil {
		t.Fatal(err)
	}
	f := m.Look()
	for i := range f.Server.ConfigFiles { // whoever runs the test owns them
		for n := range f.Server.ConfigFiles[i] {
			f.Server.ConfigFiles[i][n].UID = 0
		}
	}
	var got []string
	for _, x := range Judge(f) {
		if x.Rule == "sshd-config-writable" || x.Rule == "not-looked-at" {
			got = append(got, fmt.Sprint(x.Severity, " ", x.Rule, " ", x.Place, " | ", x.Mend))
		}
	}
	want := []string{
		"error sshd-config-writable /etc/ssh/more | chmod go-w /etc/ssh/more",
		"error sshd-config-writable /srv/b | chmod go-w /srv/b",
		"error not-looked-at /etc/ssh/a.d/fifo.conf | put a file in its place, or nothing",
		"error not-looked-at /etc/ssh/sshd_config | run kido audit as root; if it says the same, sshd -t tells what is wrong",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestLargeFiles: what stands behind much else in a file of keys is found, as sshd
// finds it; what is too much is an error, as is what cannot be read.
func TestLargeFiles(t *testing.T) {
	t.Parallel()
	comments := strings.Repeat("# a comment, and nothing else is in it\n", 1_100_000/39)
	m := host(t, map[string]string{
		"/etc/passwd":                       passwd + "bob:x:1001:1001::/home/bob:/bin/sh\n",
		"/root/.ssh/authorized_keys":        comments + edKey + "\n",
		"/home/alice/.ssh/authorized_keys":  strings.Repeat("x\n", mostKeys) + otherKey + "\n",
		"/home/alice/.ssh/authorized_keys2": "",
		"/home/alice/.ssh/big":              "",
		"/etc/sudoers":                      comments + "bob ALL=(root) NOPASSWD: ALL\n@include b\n",
		"/home/bob/.ssh/x":                  "",
	})
	if err := errors.Join(
		os.Truncate(filepath.Join(m.Root, "/home/alice/.ssh/authorized_keys2"), largestGrants+1),
		os.Truncate(filepath.Join(m.Root, "/home/alice/.ssh/big"), largest+1),
		syscall.Mkfifo(filepath.Join(m.Root, "/home/bob/.ssh/authorized_keys"), 0o600),
		os.Mkdir(filepath.Join(m.Root, "/etc/b"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	f := m.Look()
	found := Judge(f)
	for _, rule := range []string{"key-not-locked", "sudo-all"} {
		if !rulesOf(found)[rule] {
			t.Errorf("nothing is found by %s", rule)
		}
	}
	var got []string
	for _, x := range found {
		if x.Rule == "not-looked-at" {
			got = append(got, fmt.Sprint(x.Severity, " ", x.Place, " | ", x.Mend))
		}
	}
	const shorten, replace = "look at it yourself, or take out of it what is not needed", "put a file in its place, or nothing"
	want := []string{
		"error /etc/b | " + replace,
		"error /home/alice/.ssh/authorized_keys | " + shorten,
		"error /home/alice/.ssh/authorized_keys2 | " + shorten,
		"error /home/bob/.ssh/authorized_keys | " + replace,
		"warning /home/alice/.ssh/big | " + shorten,
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if mend := mendsOf(Facts{Unread: []Unread{{Place{File: "/root/.ssh/authorized_keys"}, syscall.EACCES, true}, {Place{File: "x"}, syscall.EPERM, true}}}); !slices.Equal(mend, []string{"run kido audit as root", "run kido audit as root"}) {
		t.Errorf("what root may read: %q", mend)
	}
}

func mendsOf(f Facts) (all []string) {
	for _, x := range Judge(f) {
		all = append(all, x.Mend)
	}
	return all
}

// TestElsewhere: accounts and rights that come from elsewhere are said not to be
// looked at.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"passwd: files systemd\nsudoers: files\nhosts: dns\n": "",
		"# passwd: ldap\npasswd: compat # ldap\n":             "",
		"passwd:files [NOTFOUND=return] sss ldap\n":           "/etc/nsswitch.conf:1 passwd sss,ldap",
		"group: ldap\n\npasswd :\twinbind files\n":            "/etc/nsswitch.conf:3 passwd winbind",
		"sudoers: files sss\n":                                "/etc/nsswitch.conf:1 sudoers sss",
	} {
		got := ""
		for _, e := range host(t, map[string]string{"/etc/passwd": passwd, "/etc/nsswitch.conf": text}).Look().Elsewhere {
			got += fmt.Sprint(e.Place, " ", e.Database, " ", strings.Join(e.Sources, ","))
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestStarted: what sshd is started with is found, and a real sshd asked with it.
func TestStarted(t *testing.T) {
	t.Parallel()
	m, write := realSSHD(t, map[string]string{
		"/etc/passwd": passwd, "/usr/sbin/sshd": "", "/etc/ssh/sshd_config": "",
		"/etc/default/ssh":                         "# SSHD_OPTS=-oUseDNS=yes\nSSHD_OPTS=\"-4D -o PermitRootLogin=yes -o 'AuthorizedKeysFile /srv/keys'\" # -o X=y\n",
		"/etc/systemd/system/ssh.service.d/a.conf": "[Service]\nExecStart=\nExecStart=-/usr/sbin/sshd -D \\\n  -oUseDNS=yes $SSHD_OPTS\n",
		"/lib/systemd/system/ssh.service":          "[Service]\nExecStartPre=/usr/sbin/sshd -t\nExecStart=/usr/sbin/sshd -D $SSHD_OPTS\n",
		"/etc/sysconfig/sshd":                      "OPTIONS=\"-u0 -o LogLevel=$LEVEL\"\n",
		"/srv/keys":                                edKey + "\n",
		"/proc/10/cmdline":                         "sshd: /usr/sbin/sshd -D -p 2222 -o MaxSessions 99 [listener] 0 of 10-100 startups\x00\x00",
		"/proc/11/cmdline":                         "sshd: alice -o StrictModes=no\x00",
		"/proc/12/cmdline":                         "/usr/sbin/sshd\x00-o\x00StrictModes=no\x00",
		"/proc/13/cmdline":                         "/usr/bin/ssh\x00-o\x00StrictModes=no\x00",
		"/proc/14/cmdline":                         "/usr/sbin/sshd\x00-D\x00-f\x00/etc/ssh/second\x00",
		"/proc/15/cmdline":                         "/usr/sbin/sshd\x00-f\x00" + sshdConfig + "\x00",
		"/etc/ssh/second":                          "Match Address 10.9.8.7\n",
	})
	write("PermitRootLogin no\nAuthorizedKeysFile none\n")
	for process, of := range map[string]struct{ exe, root string }{
		"10": {"/usr/sbin/sshd", m.Root},
		"11": {"/usr/sbin/sshd", m.Root},
		"12": {"/usr/sbin/sshd", t.TempDir()}, // in a container
		"13": {"/usr/bin/ssh", m.Root},
		"14": {"/usr/sbin/sshd (deleted)", m.Root},
		"15": {"/usr/sbin/sshd", m.Root},
	} {
		folder := filepath.Join(m.Root, "/proc", process)
		if err := errors.Join(os.Symlink(of.exe, folder+"/exe"), os.Symlink(of.root, folder+"/root")); err != nil {
			t.Fatal(err)
		}
	}
	ask := m.Run
	m.Run = func(argv ...string) (string, error) {
		if i := slices.Index(argv, "/etc/ssh/second"); i >= 0 && argv[i-1] == "-f" {
			return "strictmodes no\n", nil // the real one is asked for another file
		}
		return ask(argv...)
	}
	f := m.Look()
	var got []string
	for _, s := range f.Server.Started {
		got = append(got, s.Place.String()+" "+strings.ReplaceAll(s.Args, "\x00", "|"))
	}
	want := []string{
		"/etc/default/ssh:2 -o|PermitRootLogin=yes|-o|AuthorizedKeysFile /srv/keys",
		"/etc/systemd/system/ssh.service.d/a.conf:3 -o|UseDNS=yes",
		"sshd -o|MaxSessions 99",
		"sshd -f|/etc/ssh/second",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(f.Unread) != 1 || f.Unread[0].Place.String() != "/etc/sysconfig/sshd:1" || !f.Unread[0].Grants {
		t.Errorf("unread: %+v", f.Unread)
	}
	all := ""
	for _, x := range Judge(f) {
		all += fmt.Sprintf("%s %s %s: %s\n", x.Severity, x.Rule, x.Place, x.Found)
	}
	for _, want := range []string{
		"error sshd-root-login sshd: PermitRootLogin (user root where sshd is started with -o PermitRootLogin=yes -o AuthorizedKeysFile /srv/keys",
		"warning sshd-use-dns sshd: UseDNS",
		"error sshd-strict-modes sshd: StrictModes (user root where sshd is started with -f /etc/ssh/second",
		"root from 10.9.8.7 where sshd is started with -f /etc/ssh/second",
		"note sshd-max-sessions sshd: MaxSessions",
		"error key-not-locked /srv/keys:1",
		"note sshd-started-with /etc/default/ssh:2",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

// TestConnectionString: a finding says of whom it is in words.
func TestConnectionString(t *testing.T) {
	t.Parallel()
	for c, want := range map[connection]string{
		{}:                                  "",
		{addr: "192.0.2.1"}:                 "from 192.0.2.1",
		{host: "web1"}:                      "from a host called web1",
		{addr: "192.0.2.1", host: "w"}:      "from 192.0.2.1 called w",
		{laddr: "192.0.2.2", lport: "2222"}: "at 192.0.2.2 on port 2222",
		{rdomain: "red"}:                    "in routing domain red",
		{args: "-o\x00UseDNS=yes"}:          "where sshd is started with -o UseDNS=yes",
	} {
		if got := c.String(); got != want {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
	}
}
