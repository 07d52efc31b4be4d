package lab

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const mixedSite = `site: mixed
hosts:
  db1:  198.51.100.1
  web1: 198.51.100.2
  web2: 198.51.100.3
services:
  database:
    hosts: db1
    systemd: postgresql@15-main
    ready: {exec: [/usr/bin/pg_isready, -q]}
  web:
    hosts: web1
    sysv: apache2
    pidfile: /run/apache2/apache2.pid
    after: {database: restart}
    wait: none
    ready: {tcp: ":80"}
  shop:
    hosts: web2
    openrc: apache2
    pidfile: /run/apache2/apache2.pid
    after: {database: restart, web: none}
    wait: none
    ready: {tcp: ":80"}
`

// TestEnroll: hosts of every init, of which one is only logged in to by a user
// who may use sudo, are enrolled in one go; a second go changes nothing; the keys
// do what the site says and nothing else; and all is taken back.
func TestEnroll(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, SysV, OpenRC)
	l.Run(1, "systemctl", "enable", "--now", "postgresql")
	l.Run(2, "/etc/init.d/apache2", "start")
	l.Run(3, "rc-service", "apache2", "start")
	before := map[int]string{}
	for host := 1; host <= 3; host++ {
		before[host] = etc(l, host)
	}
	o := newOperator(t, l, mixedSite)
	l.Run(2, "useradd", "--create-home", "--shell", "/bin/sh", "admin")
	l.Put(2, "/etc/sudoers.d/admin", 0o440, []byte("admin ALL=(ALL) NOPASSWD: ALL\n"))
	l.Run(2, "sh", "-c", "mkdir -m 700 ~admin/.ssh && cp /root/.ssh/authorized_keys ~admin/.ssh && chown -R admin: ~admin/.ssh")
	before[2] = etc(l, 2)

	// What goes wrong says what, where and what next, and is nobody else's.
	said := o.must(1, o.enrollArgs("nobody@%a")...)
	for _, want := range []string{"kido: db1: ssh could not connect", "kido: 3 hosts of 3 could not be enrolled", "hint: the same command"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in:\n%s", want, said)
		}
	}
	if etc(l, 1) != before[1] {
		t.Error("a host that could not be enrolled has changed")
	}

	o.enroll("db1", "web2")
	o.must(0, append(o.enrollArgs("admin@%a"), "web1")...)
	o.enroll("db1", "web2") // web1's host key is known by now
	if said := o.enroll("db1", "web2"); said != "db1: nothing to change\nweb2: nothing to change\n" {
		t.Errorf("enrolled again:\n%s", said)
	}
	o.allFresh()

	// db1's key may do what its announcements need, the operator's anything.
	policy := l.Run(2, "cat", "/etc/kido/policy")
	for _, want := range []string{"grant db1 web status ensure\n", "grant here web status ensure start stop restart reload fence take give release\n"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy of web1 has no line %q:\n%s", want, policy)
		}
	}
	if _, err := l.Exec(1, "kido", "stop", "web"); exitOf(err) != 4 {
		t.Errorf("db1 stops web: %v, want it refused (4)", err)
	}
	if out, _ := l.Exec(1, "ssh", "-i", "/etc/kido/id_ed25519", "-o", "BatchMode=yes", "kido@h2", "id"); !strings.Contains(out, "this key runs kido requests and nothing else") {
		t.Errorf("db1's key asks for a command at web1: %s", out)
	}

	for host, name := range []string{"db1", "web1", "web2"} {
		args := append(o.enrollArgs("root@%a"), "--remove", name)
		o.must(0, args...)
		l.Run(host+1, "rm", "-rf", "/etc/kido")
		if now := etc(l, host+1); now != before[host+1] {
			t.Errorf("%s is not as it was:\n%s", name, difference(before[host+1], now))
		}
		o.login(host + 1)
	}
}

// etc is what a machine's configuration holds, but for what changes by itself,
// what an account leaves, and the folder of kido's own, where the key stays.
func etc(l *Lab, host int) string {
	return l.Run(host, "sh", "-c", `cd /etc && find . -type f -o -type l | grep -v -e '^./kido/' -e 'passwd' -e 'shadow' -e 'group' -e 'subuid' -e 'subgid' -e '\.cache' -e '^./init.d/\.' -e '^./mtab' | sort | while read -r f; do if [ -L "$f" ]; then echo "$f -> $(readlink "$f")"; else echo "$f $(md5sum <"$f")"; fi; done`)
}

func difference(before, now string) string {
	was, is := strings.Split(before, "\n"), strings.Split(now, "\n")
	var b strings.Builder
	for _, line := range was {
		if !slices.Contains(is, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	return b.String()
}

func exitOf(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}
