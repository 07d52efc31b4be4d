package lab

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"kido/internal/audit"
)

const memoSite = `site: memo
hosts:
  db1:  198.51.100.1
  web1: 198.51.100.2
services:
  database:
    hosts: db1
    systemd: postgresql@CLUSTER
    ready: {exec: [/usr/bin/pg_isready, -q]}
  web:
    hosts: web1
    systemd: apache2
    after: {database: restart}
    wait: none
    ready: {tcp: ":80"}
`

// TestMemo is a site before and after kido. Before, it is what the memo that began
// this project builds, to the letter: a key of RSA 1024 that root has, a line of
// root's key file with from= and command=, a script that init starts last, host keys
// that were trusted on first use, a log in a folder that all can write. kido audit
// names its weaknesses. After kido enroll, with the memo's things taken away and the
// machines hardened by the lines of docs/security.md, it finds none, and
// kido audit --prove gets nothing out of the keys.
func TestMemo(t *testing.T) {
	t.Parallel()
	for kind, cluster := range map[Kind]string{Systemd: "15-main", SystemdTrixie: "17-main"} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			m := newMemo(t, kind, cluster)
			m.before()
			m.enrolled()
			m.lost()
			m.hardened()
		})
	}
}

// memo is the memo's database host (machine 1) and web server (machine 2).
type memo struct {
	*Lab
	t       *testing.T
	op      *operator
	cluster string // the database, as Debian names it
}

const (
	memoDB  = 1
	memoWeb = 2
)

func newMemo(t *testing.T, kind Kind, cluster string) *memo {
	t.Helper()
	m := &memo{Lab: Start(t, kind, kind), t: t, cluster: cluster}
	for host := 1; host <= m.size; host++ {
		// What is there for the lab's own sake: a key with which each machine's root
		// comes to all others, and their host keys.
		m.Run(host, "sh", "-c", "rm -f /root/.ssh/* /etc/ssh/ssh_known_hosts")
	}
	m.op = newOperator(t, m.Lab, strings.ReplaceAll(memoSite, "CLUSTER", cluster))
	m.Run(memoDB, "systemctl", "enable", "--now", "postgresql")
	m.Run(memoWeb, "systemctl", "enable", "--now", "apache2")

	// The memo, step by step.
	m.Put(memoDB, "/etc/init.d/dbora", 0o755, []byte("#!/bin/sh\n#\n# chkconfig: - 98 11\nexec /etc/init.d/postgresql \"$@\"\n"))
	m.Put(memoWeb, "/etc/init.d/httpd", 0o755, []byte("#!/bin/sh\nexec /etc/init.d/apache2 \"$@\"\n"))
	m.Run(memoDB, "ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-C", "root@oraserver", "-f", "/root/.ssh/svr_restart_key")
	line := `from="198.51.100.1",no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty,command="/etc/init.d/httpd restart" ` +
		string(m.Get(memoDB, "/root/.ssh/svr_restart_key.pub"))
	m.Run(memoWeb, "sh", "-c", `echo "$1" >>/root/.ssh/authorized_keys`, "sh", strings.TrimSpace(line))
	script, err := os.ReadFile("testdata/memo/svr_restart")
	if err != nil {
		t.Fatal(err)
	}
	m.Put(memoDB, "/etc/init.d/svr_restart", 0o755, script)
	for _, level := range []string{"3", "4", "5"} {
		m.Run(memoDB, "ln", "-s", "../init.d/svr_restart", "/etc/rc"+level+".d/S99svr_restart")
	}
	// Whoever sets it up says yes when ssh asks whether it is the right host.
	m.Run(memoDB, "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-i", "/root/.ssh/svr_restart_key", m.Addr(memoWeb))
	return m
}

func (m *memo) life() string {
	m.t.Helper()
	return m.Run(memoWeb, "systemctl", "show", "-P", "InvocationID", "apache2")
}

// audit is what kido audit finds at the hosts, by the operator.
func (m *memo) audit() map[string]audit.Report {
	m.t.Helper()
	cmd := m.op.kido(append([]string{"-o", "json", "audit", "--fail-on", "never"}, append(m.op.enrollArgs("root@%a")[1:], "db1", "web1")...)...)
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("kido audit: %v: %s", err, out)
	}
	all := map[string]audit.Report{}
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var r audit.Report
		if err := d.Decode(&r); err != nil {
			m.t.Fatal(err)
		}
		all[r.Host] = r
	}
	return all
}

// found lists findings that are errors or warnings.
func found(r audit.Report) (all []audit.Finding) {
	for _, f := range r.Findings {
		if f.Severity.AtLeast(audit.Warning) {
			all = append(all, f)
		}
	}
	return all
}

// before holds what kido audit says of the memo's hosts.
func (m *memo) before() {
	m.t.Helper()
	was := m.life()
	m.Run(memoDB, "/etc/init.d/svr_restart", "start")
	if m.life() == was {
		m.t.Fatal("control: the memo's script restarts nothing")
	}
	reports := m.audit()
	const script, key, line = "/etc/init.d/svr_restart:14", "/root/.ssh/svr_restart_key", "/root/.ssh/authorized_keys:2"
	for _, want := range []struct{ host, rule, place string }{
		{"db1", "key-weak", key},
		{"db1", "private-key-plain", key},
		{"db1", "log-shared-folder", script},
		{"db1", "script-trusts-any-host", script},
		{"web1", "key-weak", line},
		{"web1", "key-not-restricted", line},
		{"web1", "sshd-not-public-key-only", "sshd: PasswordAuthentication (all users but root)"},
		{"web1", "sshd-root-login", "sshd: PermitRootLogin (user root)"},
		{"web1", "sshd-forwarding", "sshd: DisableForwarding (user root)"},
		{"web1", "account-shell-startup", "/etc/passwd (user root)"},
	} {
		if !slices.ContainsFunc(reports[want.host].Findings, func(f audit.Finding) bool {
			return f.Rule == want.rule && f.Place.String() == want.place
		}) {
			m.t.Errorf("%s: kido audit does not find %s at %s:\n%s", want.host, want.rule, want.place, told(reports[want.host].Findings))
		}
	}
}

func told(all []audit.Finding) string {
	var b strings.Builder
	for _, f := range all {
		b.WriteString(string(f.Severity) + " " + f.Rule + " " + f.Place.String() + ": " + f.Found + "\n")
	}
	return b.String()
}

// enrolled replaces the memo's set-up by kido's. What is found then is of Debian's
// defaults, and that the operator of this test logs in as root.
func (m *memo) enrolled() {
	m.t.Helper()
	m.op.enroll()
	m.op.allFresh()
	m.Run(memoDB, "sh", "-c", "rm /etc/init.d/svr_restart /etc/rc?.d/S99svr_restart /root/.ssh/svr_restart_key* /root/.ssh/known_hosts /tmp/restart_err.log")
	m.Run(memoWeb, "sed", "-i", "/httpd restart/d", "/root/.ssh/authorized_keys")
	was := m.life()
	m.Run(memoDB, "systemctl", "restart", "postgresql@"+m.cluster)
	m.Until("kido does what the memo's script did", func() bool { return m.life() != was })
	m.op.allFresh()

	defaults := []string{"sshd-not-public-key-only", "sshd-root-login", "sshd-user-rc", "sshd-forwarding"}
	for host, r := range m.audit() {
		all := slices.DeleteFunc(found(r), func(f audit.Finding) bool {
			return slices.Contains(defaults, f.Rule) && !slices.Contains(f.Place.Users, "kido") ||
				f.Rule == "key-not-locked" && strings.Contains(f.Found, "the administrator's own")
		})
		if len(all) > 0 {
			m.t.Errorf("%s, enrolled: kido audit finds\n%s", host, told(all))
		}
	}
}

// lost plays the emergency of docs/security.md.
func (m *memo) lost() {
	m.t.Helper()
	for line := range strings.Lines(m.guide("sh emergency")[0]) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if words[1] == "keys" {
			words = append(words, m.op.enrollArgs("root@%a")[1:]...)
		}
		m.op.must(0, words[1:]...)
		if slices.Contains(words, "revoke") {
			if out, err := m.Exec(memoDB, "kido", "status"); err == nil {
				m.t.Errorf("the host whose key is revoked is served:\n%s", out)
			}
		}
	}
	m.Run(memoDB, "kido", "status")
}

// guide returns the blocks of docs/security.md that begin with these words.
func (m *memo) guide(info string) (blocks []string) {
	m.t.Helper()
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, b := range regexp.MustCompile("(?ms)^```(.+?)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if strings.HasPrefix(b[1], info) {
			blocks = append(blocks, b[2])
		}
	}
	if blocks == nil {
		m.t.Fatalf("docs/security.md has no block of %s", info)
	}
	return blocks
}

// hardened does what docs/security.md says, after which nothing is found and
// nothing is to be had.
func (m *memo) hardened() {
	m.t.Helper()
	const conf = "/etc/ssh/sshd_config.d/10-hardening.conf"
	public, err := os.ReadFile(m.op.path("login.pub"))
	if err != nil {
		m.t.Fatal(err)
	}
	for host, name := range []string{memoDB: "db1", memoWeb: "web1"} {
		if name == "" {
			continue
		}
		m.Run(host, "sh", "-c", `useradd -m -s /bin/bash -p '*' admin && mkdir -m 700 ~admin/.ssh && echo "$1" >~admin/.ssh/authorized_keys && chown -R admin: ~admin/.ssh`, "sh", strings.TrimSpace(string(public)))
		m.Put(host, "/usr/bin/sudo", 0o755, []byte("#!/bin/sh\n[ \"$1\" = -u ] && shift 2\nexec \"$@\"\n")) // this machine has none
		m.Put(host, conf, 0o644, []byte(m.guide("file " + conf)[0]))
		for _, block := range m.guide("sh hardening") {
			m.Run(host, "env", "ADMIN=admin", "bash", "-ec", block)
		}
		m.Run(host, "rm", "/usr/bin/sudo")
		var r audit.Report
		if err := json.Unmarshal([]byte(m.Run(host, "kido", "audit", "-o", "json", "--fail-on", "never")), &r); err != nil {
			m.t.Fatal(err)
		}
		if all := found(r); len(all) > 0 {
			m.t.Errorf("%s, hardened: kido audit finds\n%s", name, told(all))
		}
		if m.op.as("admin", host) != nil || m.op.as("root", host) == nil {
			m.t.Errorf("%s, hardened: the administrator cannot log in as himself, or root can", name)
		}
	}
	m.op.must(0, "audit", "--prove", "web1")
	if said, err := m.Exec(memoDB, "kido", "audit", "--prove", "web1"); err != nil || !strings.Contains(said, "refused") {
		m.t.Errorf("with the key of the database host: %v\n%s", err, said)
	}
	m.op.allFresh()
}

// as logs in to a machine as a user, with the administrator's own key.
func (o *operator) as(user string, host int) error {
	return o.lab.Net(append(o.ssh(), user+"@"+o.lab.Addr(host), "true")...).Run()
}
