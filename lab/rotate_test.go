package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const rotateSite = `site: rotate
defaults:
  timeout: {connect: 3s}
hosts:
  db1:  198.51.100.1
  web1: 198.51.100.2
services:
  database:
    hosts: db1
    systemd: postgresql@15-main
    ready: {exec: [/usr/bin/pg_isready, -q]}
  web:
    hosts: web1
    systemd: apache2
    after: {database: reload}
    wait: none
    ready: {tcp: ":80"}
`

// TestRotate: on real machines, of Debian 12 and 13, the operator's key and that
// of a host are changed, with a host cut off in between; then the host's is
// revoked. Both keys are taken until the next one was, everywhere; the old one is
// nothing after that; and no service is touched.
func TestRotate(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, SystemdTrixie)
	l.Run(1, "systemctl", "enable", "--now", "postgresql")
	l.Run(2, "systemctl", "enable", "--now", "apache2")
	o := enrol(t, l, rotateSite)
	o.allFresh()
	lives := func() string {
		return l.Run(1, "systemctl", "show", "-p", "InvocationID", "postgresql@15-main") + l.Run(2, "systemctl", "show", "-p", "InvocationID", "apache2")
	}
	before := lives()
	key := o.path("id_ed25519")
	stolen := o.path("stolen")
	o.write("stolen", 0o600, read(t, key))
	taken := func(host int, key string, want bool) {
		t.Helper()
		out, err := l.Net("ssh", "-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile="+o.path("login_hosts"), "kido@"+l.Addr(host), "id").CombinedOutput()
		if got := strings.Contains(string(out), "this key runs kido requests and nothing else"); got != want || !want && !strings.Contains(string(out), "Permission denied") {
			t.Errorf("machine %d takes the key %s: %v, want %v (%v)\n%s", host, filepath.Base(key), got, want, err, out)
		}
	}
	words := func(args ...string) []string {
		return append(args, "--to", "root@%a", "--ssh", strings.Join(o.ssh(), " ")+" -o ConnectTimeout=3")
	}

	l.Unplug(2)
	said := o.must(3, words("keys", "rotate")...)
	for _, want := range []string{"db1: takes the next key\n", "web1: does not take the next key yet: ", "not taken yet at 1 of 2 places: web1"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in:\n%s", want, said)
		}
	}
	taken(1, key, true)
	taken(1, key+".next", true)
	l.Plug(2)
	l.Until("web1 is back", func() bool { return l.Net(append(o.ssh(), "root@"+l.Addr(2), "true")...).Run() == nil })
	taken(2, key, true)
	o.must(0, words("keys", "rotate")...)
	for host := 1; host <= 2; host++ {
		taken(host, key, true)
		taken(host, stolen, false)
	}
	o.allFresh()

	// The same for the key with which db1 announces.
	const announceKey = "/etc/kido/id_ed25519"
	l.Run(1, "cp", announceKey, "/root/stolen")
	o.must(0, words("keys", "rotate", "db1")...)
	fromDB := func(key string, more ...string) string {
		out, _ := l.Exec(1, append([]string{"ssh", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=/etc/kido/known_hosts", "kido@" + l.Addr(2)}, more...)...)
		return out
	}
	if out := fromDB("/root/stolen", "id"); out != "" {
		t.Errorf("web1 lets the old key of db1 in: %s", out)
	}
	if out := l.Run(1, "kido", "announce", "database"); !strings.Contains(out, "web@web1") {
		t.Errorf("db1 announces: %s", out)
	}
	if out := l.Run(1, "sh", "-c", "ls /etc/kido/id_ed25519*"); out != "/etc/kido/id_ed25519\n/etc/kido/id_ed25519.pub\n" {
		t.Errorf("beside the key of db1: %s", out)
	}

	// Revoked: at once, on connections that are open too.
	const status = "printf 'kido/1 request status web\\nend\\n' | ssh -o ControlPath=/run/open -o ControlMaster=no kido@198.51.100.2 kido/1"
	l.Run(1, "ssh", "-f", "-N", "-M", "-S", "/run/open", "-i", announceKey, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=/etc/kido/known_hosts", "kido@"+l.Addr(2))
	if out := l.Run(1, "sh", "-c", status); !strings.HasPrefix(out, "kido/1 reply ok") {
		t.Errorf("on the open connection, before: %s", out)
	}
	o.must(0, words("keys", "revoke", "db1")...)
	if out := l.Run(1, "sh", "-c", status); !strings.HasPrefix(out, "kido/1 reply refused") {
		t.Errorf("on the open connection: %s", out)
	}
	if out := fromDB(announceKey, "id"); out != "" {
		t.Errorf("web1 lets a revoked key in: %s", out)
	}
	if _, err := l.Exec(1, "kido", "announce", "database"); err == nil {
		t.Error("db1 announces with a revoked key")
	}
	if now := lives(); now != before {
		t.Errorf("a service was touched:\n%s\nbefore:\n%s", now, before)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
