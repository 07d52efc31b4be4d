package lab

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

const certifiedSite = `site: certified
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
    hosts: [web1, web2]
    systemd: apache2.service
    after: {database: restart}
    wait: none
    ready: {tcp: ":80"}
`

// TestCertificates: a host of which no other has a key comes with the certificate
// that an authority of the site has signed, to the sshd of Debian 12 and of 13 as
// kido enroll has set them up; what else the authority might have signed for its
// key is no use there; and when the authority is revoked, it is over.
func TestCertificates(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, Systemd, SystemdTrixie)
	l.Run(1, "systemctl", "enable", "--now", "postgresql")
	for _, host := range []int{2, 3} {
		l.Run(host, "systemctl", "enable", "--now", "apache2")
	}
	o := newOperator(t, l, certifiedSite)
	o.must(0, "keys", "authority", o.path("ca"), "--no-passphrase", "--ring")
	o.enroll()
	o.allFresh()
	if err := os.Rename(o.path("keys/db1.pub"), o.path("db1.pub")); err != nil {
		t.Fatal(err)
	}
	o.enroll("web1", "web2")
	status := func() string {
		out, _ := l.Exec(1, "kido", "status") // its exit status says the same as its words
		return out
	}
	if said := status(); strings.Count(said, "the host does not take the key") != 2 {
		t.Fatalf("db1 without a line:\n%s", said)
	}

	o.must(0, "keys", "sign", "db1", "--key", o.path("db1.pub"), "--authority", o.path("ca"))
	certificate, err := os.ReadFile(o.path("db1-cert.pub"))
	if err != nil {
		t.Fatal(err)
	}
	l.Put(1, "/etc/kido/id_ed25519-cert.pub", 0o644, certificate)
	if said := l.Run(1, "kido", "status"); strings.Contains(said, "not fresh") {
		t.Errorf("db1 with its certificate:\n%s", said)
	}
	since := func(host int) string {
		return l.Run(host, "sh", "-c", "systemctl show -P InvocationID apache2")
	}
	before := []string{since(2), since(3)}
	l.Run(1, "systemctl", "restart", "postgresql@15-main")
	l.Until("the restart of the database has come to the web servers", func() bool { return since(2) != before[0] && since(3) != before[1] })
	o.allFresh()
	for _, host := range []int{2, 3} {
		if said := l.Run(host, "journalctl", "--no-pager", "-g", "Accepted publickey for kido"); !strings.Contains(said, "ED25519-CERT ") || !strings.Contains(said, "ID kido certified host/db1 ") {
			t.Errorf("machine %d does not say that a certificate was used:\n%s", host, said)
		}
	}
	if out, err := l.Exec(1, "kido", "stop", "web"); exitOf(err) != 4 {
		t.Errorf("db1 stops web: %v, want it refused (4)\n%s", err, out)
	}

	// What ssh-keygen signs with the same authority, for the same key.
	for _, c := range []struct {
		name string
		args []string
	}{
		{"without options", []string{"-n", "host/db1"}},
		{"for the user", []string{"-n", "kido"}},
		{"for root", []string{"-n", "root"}},
		{"without a command", []string{"-n", "host/db1", "-O", "source-address=198.51.100.1"}},
		{"without a source", []string{"-n", "host/db1", "-O", "force-command=/usr/local/sbin/kido-gate"}},
		{"with a shell", []string{"-n", "host/db1", "-O", "force-command=/bin/sh", "-O", "source-address=198.51.100.1"}},
		{"for two", []string{"-n", "host/db1,host/web2", "-O", "force-command=/usr/local/sbin/kido-gate", "-O", "source-address=198.51.100.1"}},
	} {
		if out, err := exec.Command("ssh-keygen", append(append([]string{"-q", "-s", o.path("ca"), "-I", "trap"}, c.args...), o.path("db1.pub"))...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
		trap, err := os.ReadFile(o.path("db1-cert.pub"))
		if err != nil {
			t.Fatal(err)
		}
		l.Put(1, "/root/trap-cert.pub", 0o644, trap)
		for _, to := range []string{"kido@h2", "kido@h3", "root@h2", "root@h3"} {
			out, _ := l.Exec(1, "sh", "-c", "ssh -i /etc/kido/id_ed25519 -o CertificateFile=/root/trap-cert.pub -o IdentitiesOnly=yes -o BatchMode=yes "+to+" id 2>&1")
			if strings.Contains(out, "uid=") || !strings.Contains(out, "Permission denied") && !strings.Contains(out, "kido/1 reply refused") {
				t.Errorf("a certificate %s, at %s: %s", c.name, to, out)
			}
		}
	}

	public, err := os.ReadFile(o.path("ca.pub"))
	if err != nil {
		t.Fatal(err)
	}
	o.write("keys/revoked", 0o644, public)
	o.enroll("web1", "web2")
	if said := status(); strings.Count(said, "nor its certificate /etc/kido/id_ed25519-cert.pub") != 2 {
		t.Errorf("db1 after the authority was revoked:\n%s", said)
	}
}
