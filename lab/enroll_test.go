package lab

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kido/internal/install"
	"kido/internal/keys"
)

const mixedSite = `site: mixed
hosts:
  db1:  198.51.100.1
  web1: 198.51.100.2
  web2: 198.51.100.3
  web3: 198.51.100.4
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
  site:
    hosts: web3
    systemd: apache2.service
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
	l := Start(t, Systemd, SysV, OpenRC, SystemdTrixie)
	l.Run(1, "systemctl", "enable", "--now", "postgresql")
	l.Run(2, "/etc/init.d/apache2", "start")
	l.Run(3, "rc-service", "apache2", "start")
	l.Run(4, "systemctl", "enable", "--now", "apache2")
	l.Run(2, "sed", "-i", "/^Include/d", "/etc/ssh/sshd_config") // as older ones are
	o := newOperator(t, l, mixedSite)
	before := map[int]string{}
	for host := 1; host <= 4; host++ {
		before[host] = disk(l, host)
	}
	l.Run(2, "useradd", "--create-home", "--shell", "/bin/sh", "admin")
	l.Put(2, "/etc/sudoers.d/admin", 0o440, []byte("admin ALL=(ALL) NOPASSWD: ALL\n"))
	l.Run(2, "sh", "-c", "mkdir -m 700 ~admin/.ssh && cp /root/.ssh/authorized_keys ~admin/.ssh && chown -R admin: ~admin/.ssh")
	before[2] = disk(l, 2)

	// What goes wrong says what, where and what next, and is nobody else's.
	said := o.must(1, o.enrollArgs("nobody@%a")...)
	for _, want := range []string{"kido: db1: ssh could not connect", "kido: 4 hosts of 4 could not be enrolled", "hint: the same command"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in:\n%s", want, said)
		}
	}
	if disk(l, 1) != before[1] {
		t.Error("a host that could not be enrolled has changed")
	}

	// What would be done is shown, by sudo as well, and nothing is done, here or there.
	dry := append(o.enrollArgs("admin@%a"), "--dry-run", "web1")
	ring := func() string {
		out, err := exec.Command("find", o.dir, "-path", "*/keys/*").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	was := ring()
	said = o.must(0, dry...)
	for _, want := range []string{"\n+    ExposeAuthInfo yes\n", "--- /dev/null\n+++ /etc/ssh/kido_revoked\n", "put a block at the end of /etc/ssh/sshd_config\n--- /etc/ssh/sshd_config\n+++ /etc/ssh/sshd_config\n", "\nwrite /usr/local/sbin/kido-gate (mode 0755)\n  now:  none\n  then: ", "\nrun useradd "} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in:\n%s", want, said)
		}
	}
	if ring() != was {
		t.Errorf("the folder of keys has changed:\n%s", ring())
	}
	if now := disk(l, 2); now != before[2] {
		t.Errorf("a host that was only looked at has changed:\n%s", difference(before[2], now))
	}
	if left := l.Run(2, "find", "/tmp", "-name", "kido-gate"); left != "" {
		t.Errorf("what was brought there is left: %s", left)
	}

	o.enroll("db1", "web2", "web3")
	o.must(0, append(o.enrollArgs("admin@%a"), "web1")...)
	o.enroll("db1", "web2", "web3") // web1's host key is known by now
	if said := o.enroll("db1", "web2", "web3"); said != "db1: nothing to change\nweb2: nothing to change\nweb3: nothing to change\n" {
		t.Errorf("enrolled again:\n%s", said)
	}
	if said := o.must(0, dry...); !strings.HasSuffix(said, "web1: nothing to change\n") {
		t.Errorf("a dry run of what is enrolled:\n%s", said)
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

	// sshd of trixie counts bad tries by address, and is told whose not to count:
	// but not where somebody else tells it.
	exempt := func(want string) {
		t.Helper()
		const ask = "sshd -T -C user=kido,host=h1,addr=198.51.100.1,laddr=198.51.100.4,lport=22 | grep -i -e exemptlist -e revoked"
		if got := l.Run(4, "sh", "-c", ask); got != "revokedkeys /etc/ssh/kido_revoked\npersourcepenaltyexemptlist "+want+"\n" {
			t.Errorf("sshd says: %s", got)
		}
	}
	exempt("198.51.100.1,198.51.100.254")
	l.Put(4, "/etc/ssh/sshd_config.d/other.conf", 0o644, []byte("PerSourcePenaltyExemptList 198.51.100.254\n"))
	if said := o.enroll("web3"); !strings.Contains(said, "web3: 1 file changed\n  /etc/ssh/sshd_config.d/50-kido.conf\n") ||
		!strings.Contains(said, "its list of exceptions is somebody else's: let it be: PerSourcePenaltyExemptList 198.51.100.254,198.51.100.1\n") {
		t.Errorf("beside another list:\n%s", said)
	}
	exempt("198.51.100.254")
	l.Run(4, "rm", "/etc/ssh/sshd_config.d/other.conf")
	o.enroll("web3")
	exempt("198.51.100.1,198.51.100.254")

	for i, name := range []string{"db1", "web1", "web2", "web3"} {
		host := i + 1
		if name == "web3" { // in one go
			l.Run(host, "kido", "install", "--remove", "--purge")
		} else {
			if said := o.must(0, append(o.enrollArgs("root@%a"), "--remove", name)...); !strings.Contains(said, "the key of this host stay: --remove --purge takes them, too") {
				t.Errorf("nothing is said of what is left at %s:\n%s", name, said)
			}
			o.must(0, append(o.enrollArgs("root@%a"), "--remove", "--purge", name)...)
		}
		if now := disk(l, host); now != before[host] {
			t.Errorf("%s is not as it was:\n%s", name, difference(before[host], now))
		}
		o.login(host)
	}
}

// disk is what a machine is set up with: the names, modes, owners and contents of
// all files, but for what changes by itself, and what every change of an account
// and every use of sudo leaves behind.
func disk(l *Lab, host int) string {
	l.t.Helper()
	return l.Run(host, "sh", "-c", `all() {
			find /etc /usr/local /var/lib \( -path /var/lib/postgresql -o -path /var/lib/php -o -path '/var/lib/systemd/*' -o -path /var/lib/sudo \) -prune -o "$@"
		}
		{ all -printf '%p %y %m %U:%G %l\n'; all -type f -print0 | xargs -0 md5sum | sed 's/\([^ ]*\)  \(.*\)/\2 \1/'; } | sort |
		grep -v -e '^/etc/\(passwd\|shadow\|group\|gshadow\|subuid\|subgid\)- ' -e '^/etc/\.pwd\.lock ' -e '^/etc/init\.d/\.depend' -e '^/etc/mtab '`)
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

// TestEnrollBySudo: where polkit takes no rules the gate tells systemd by sudo, and
// can tell it nothing else.
func TestEnrollBySudo(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, SysV)
	sudoInsteadOfPolkit(l, 1, 2)
	l.Run(1, "systemctl", "enable", "--now", "postgresql", "apache2")
	o := newOperator(t, l, `site: sudo
hosts: {h1: 198.51.100.1}
services:
  database:
    hosts: h1
    systemd: postgresql@15-main
    ready: {exec: [/usr/bin/pg_isready, -q]}
  web:
    hosts: h1
    systemd: apache2
    after: {database: restart}
    ready: {tcp: ":80"}
`)
	before := disk(l, 1)
	o.enroll()
	o.allFresh()
	token := func() string {
		return l.Run(1, "systemctl", "show", "--property=InvocationID", "apache2.service")
	}
	for _, verb := range []string{"restart", "stop", "start", "reload"} {
		was := token()
		o.must(0, verb, "web")
		if changed := token() != was; changed != (verb == "restart" || verb == "start") {
			t.Errorf("after kido %s web its life is another one: %v", verb, changed)
		}
	}
	was := token()
	o.must(0, "restart", "database")
	o.allFresh()
	if token() == was {
		t.Error("the database was restarted, and the web server was not")
	}
	// As an announcement does it, which is root's here.
	was = token()
	l.Run(1, "systemctl", "restart", "postgresql@15-main")
	l.Until("the web server is restarted after the database", func() bool { return token() != was })

	policy := string(l.Get(1, "/etc/kido/policy"))
	if !strings.Contains(policy, "\nbecome /usr/bin/sudo -n\nsystemctl /usr/bin/systemctl\n") {
		t.Errorf("the policy does not say how units are told:\n%s", policy)
	}
	asKido := func(argv ...string) error {
		_, err := l.Exec(1, slices.Concat([]string{"setpriv", "--reuid=kido", "--regid=kido", "--clear-groups", "/usr/bin/sudo", "-n"}, argv)...)
		return err
	}
	if err := asKido("/usr/bin/systemctl", "reload", "apache2.service"); err != nil {
		t.Errorf("what is granted is refused: %v", err)
	}
	for _, argv := range [][]string{
		{"/usr/bin/systemctl", "start", "apache2.service"},
		{"/usr/bin/systemctl", "status", "apache2.service"},
		{"/usr/bin/systemctl", "restart", "ssh.service"},
		{"/usr/bin/systemctl", "restart", "apache2.service", "ssh.service"},
		{"/usr/bin/systemctl", "--no-block", "restart", "apache2.service"},
		{"/usr/bin/systemctl", "restart", "apache*"},
		{"/usr/bin/systemctl"},
		{"/bin/sh"},
		{"PATH=/tmp", "/usr/bin/systemctl", "reload", "apache2.service"},
	} {
		if err := asKido(argv...); err == nil || !strings.Contains(err.Error(), "sudo: ") {
			t.Errorf("%q: %v, want it refused by sudo", argv, err)
		}
	}
	l.Run(1, "kido", "install", "--remove", "--purge")
	if now := disk(l, 1); now != before {
		t.Errorf("it is not as it was:\n%s", difference(before, now))
	}
}

// TestEnrollCertificates: who has a certificate of an authority in the folder of
// keys comes to the gate of an enrolled host as the person that it names, and no
// more once the key, or the authority, is revoked; nobody else is shut out by that.
func TestEnrollCertificates(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, SystemdTrixie)
	o := newOperator(t, l, `site: certified
hosts: {h1: 198.51.100.1, h2: 198.51.100.2}
services:
  web: {hosts: [h1, h2], systemd: apache2.service}
`)
	pair := func(name string) (public string) {
		t.Helper()
		public, err := keys.New(o.path(name), name)
		if err != nil {
			t.Fatal(err)
		}
		return public
	}
	ring := func(file, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(o.path("keys/"+file)), 0o755); err != nil {
			t.Fatal(err)
		}
		o.write("keys/"+file, 0o644, []byte(text+"\n"))
	}
	ca, ann := pair("ca"), pair("ann")
	ring("authorities/root.pub", ca)
	ring("people/ann.pub", `from="198.51.100.254" `+pair("other"))
	authority, err := keys.OpenAuthority(o.path("ca"), func() ([]byte, error) { return nil, errors.New("it has no passphrase") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := authority.Close(); err != nil {
			t.Error(err)
		}
	})
	certify := func(principal, from string) {
		t.Helper()
		line, err := authority.Sign(keys.CertificateOptions{
			Principal: principal, Public: ann, From: []string{from}, Gate: install.GateProgram, ID: principal, Now: time.Now(), Life: time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		o.write("ann-cert.pub", 0o644, []byte(line+"\n"))
	}
	come := func(key string, host int) string {
		out, _ := l.Net("ssh", "-F", "none", "-i", o.path(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile="+o.path("login_hosts"), "kido@"+l.Addr(host), "id").CombinedOutput()
		return string(out)
	}
	const in, out = "runs kido requests and nothing else", "Permission denied (publickey"
	expect := func(when, key, want string) {
		t.Helper()
		for host := 1; host <= 2; host++ {
			if said := come(key, host); !strings.Contains(said, want) {
				t.Errorf("%s: %s comes to machine %d: %s; want %s", when, key, host, said, want)
			}
		}
	}
	certify("person/ann", "198.51.100.254")
	expect("not enrolled", "ann", out)
	o.enroll()
	expect("enrolled", "ann", in)
	expect("enrolled", "other", in)
	certify("person/bob", "198.51.100.254")
	expect("who is nobody here", "ann", out)
	certify("person/ann", "198.51.100.77")
	expect("from elsewhere", "ann", out)
	certify("person/ann", "198.51.100.254")
	expect("certified again", "ann", in)
	ring("revoked", ann)
	o.enroll()
	expect("its key revoked", "ann", out)
	expect("another's key revoked", "other", in)
	ring("revoked", ca)
	o.enroll()
	expect("the authority revoked", "ann", out)
	expect("the authority revoked", "other", in)
	o.login(1)
	o.login(2)
}

// loneSite is a site of which one machine is there: it is held, announces, and
// lets in keys and certificates.
const loneSite = `site: lone
hosts:
  db1:  198.51.100.8
  web1: 198.51.100.1
  app1: 198.51.100.9
services:
  database:
    hosts: db1
    systemd: postgresql@15-main
    ready: {tcp: ":5432"}
  web:
    hosts: web1
    systemd: apache2.service
    after: {database: restart}
    ready: {tcp: ":80"}
  app:
    hosts: app1
    systemd: app.service
    after: {web: restart}
`

// lone is machine 1 of a lab, ready to be installed by hand as web1 of loneSite.
type lone struct {
	*operator
	before string
}

const loneFolder = "/root/new"

func newLone(t *testing.T, l *Lab, flags ...string) lone {
	t.Helper()
	m := lone{operator: newOperator(t, l, loneSite)}
	l.Put(1, loneFolder+"/kido", 0o755, Program(t, "kido/cmd/kido", flags...))
	l.Put(1, loneFolder+"/kido-gate", 0o755, Program(t, "kido/cmd/kido-gate"))
	l.Put(1, loneFolder+"/site.yaml", 0o644, []byte(loneSite))
	for _, name := range []string{"db1.pub", "people/ann.pub", "authorities/root.pub", "revoked"} {
		public, err := keys.New(filepath.Join(t.TempDir(), "key"), name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "people/ann.pub" {
			public = `from="198.51.100.254" ` + public
		}
		l.Put(1, loneFolder+"/keys/"+name, 0o644, []byte(public+"\n"))
	}
	m.before = disk(l, 1)
	return m
}

// install runs kido install, with some words in its environment.
func (m lone) install(env []string, args ...string) (said string, err error) {
	argv := slices.Concat([]string{"env"}, env, []string{loneFolder + "/kido", "install", "--site", loneFolder + "/site.yaml", "--here", "web1"}, args)
	out, err := m.lab.Command(1, argv...).CombinedOutput()
	return string(out), err
}

// mustInstall is install of what must succeed.
func (m lone) mustInstall(args ...string) (said string) {
	m.t.Helper()
	said, err := m.install(nil, args...)
	if err != nil {
		m.t.Fatalf("kido install %s: %v\n%s", strings.Join(args, " "), err, said)
	}
	return said
}

// sound fails the test where the administrator could not log in, or could not once
// sshd is started again.
func (m lone) sound(when string) {
	m.t.Helper()
	m.login(1)
	if _, err := m.lab.Exec(1, "/usr/sbin/sshd", "-t"); err != nil {
		m.t.Errorf("%s: %v", when, err)
	}
}

// set is what was installed, but for the key, which is another each time.
func (m lone) set() string {
	m.t.Helper()
	lines := strings.Split(disk(m.lab, 1), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "/etc/kido/id_ed25519") }), "\n")
}

// TestEnrollInterrupted: kido install is killed at every point between two changes
// of the disk. Each time the administrator can log in, a second run completes it,
// and a third finds nothing to do.
func TestEnrollInterrupted(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd)
	m := newLone(t, l, "-tags=failpoints")
	const point, points = "/root/point", "/root/points"
	if said, err := m.install([]string{"KIDO_FAILPOINT_LOG=" + points}, "--later"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	want := m.set()
	all := strings.Fields(string(l.Get(1, points)))
	if len(all) < 40 {
		t.Fatalf("there are only these points: %q", all)
	}
	m.mustInstall("--remove", "--purge")
	for i, name := range all {
		if i+1 < len(all) && strings.HasPrefix(name, "install.renamed#") && strings.HasPrefix(all[i+1], "install.step#") {
			continue // there is nothing between the two
		}
		l.Put(1, point, 0o600, []byte(name))
		said, err := m.install([]string{"KIDO_FAILPOINT=" + point}, "--later")
		if _, lerr := l.Exec(1, "test", "-e", point); err == nil || lerr == nil {
			t.Fatalf("not killed at %s: %v\n%s", name, err, said)
		}
		m.sound("killed at " + name)
		m.completed("killed at "+name, want)
		m.mustInstall("--remove", "--purge")
	}
	m.restored()
}

// completed fails the test where a run does not complete what an earlier one has
// begun, or another one after it finds anything left to do.
func (m lone) completed(when, want string) {
	m.t.Helper()
	m.mustInstall("--later")
	if now := m.set(); now != want {
		m.t.Errorf("%s, and run again, it is not as it should be:\n%s", when, difference(want, now))
	}
	if said := m.mustInstall("--later"); !strings.HasPrefix(said, "web1: nothing to change\n") {
		m.t.Errorf("%s, run again, and once more:\n%s", when, said)
	}
}

// restored fails the test where the machine is not as it was before kido came.
func (m lone) restored() {
	m.t.Helper()
	if now := disk(m.lab, 1); now != m.before {
		m.t.Errorf("removed, it is not as it was:\n%s", difference(m.before, now))
	}
	m.sound("removed")
}

// TestEnrollDiskFull: wherever the disk runs full, kido install says so, the
// administrator can log in, and once there is room a second run completes it.
func TestEnrollDiskFull(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd)
	// All that kido install writes to, on a disk of its own that is small.
	l.Run(1, "sh", "-ec", `mkdir /small && mount -t tmpfs -o size=96m tmpfs /small
		for dir in /etc /usr/local /var/lib/kido /var/lib/kido-gate; do
			mkdir -p "$dir" /small/"$dir" && cp -a "$dir/." /small/"$dir" && mount --bind /small/"$dir" "$dir"
		done`)
	m := newLone(t, l)
	m.mustInstall("--later")
	want := m.set()
	pages, err := strconv.Atoi(strings.TrimSpace(l.Run(1, "sh", "-c", "cat /usr/local/bin/kido /usr/local/sbin/kido-gate | wc -c")))
	if err != nil {
		t.Fatal(err)
	}
	pages /= 4096
	m.mustInstall("--remove")
	l.Run(1, "userdel", "kido")
	l.Run(1, "rm", "-r", "/etc/kido")

	const fill = "/small/fill"
	said := ""
	for free := 0; ; free += 3 {
		if free == 9 { // now the programs have room
			free = pages
		}
		l.Run(1, "sh", "-c", "dd if=/dev/zero of="+fill+" bs=4k 2>/dev/null; truncate -s -"+strconv.Itoa(4*free)+"K "+fill)
		said, err = m.install(nil, "--later")
		if err == nil {
			if free <= pages {
				t.Errorf("%d pages were enough", free)
			}
			break
		}
		when := strconv.Itoa(free) + " pages were free"
		t.Logf("%s: %s", when, said[strings.Index(said, "kido: "):])
		if lower := strings.ToLower(said); !strings.Contains(lower, "no space left on device") && !strings.Contains(lower, "useradd: ") {
			t.Errorf("%s: that is not said:\n%s", when, said)
		}
		m.sound(when)
		l.Run(1, "rm", fill)
		m.completed(when, want)
		m.mustInstall("--remove")
		l.Run(1, "userdel", "kido")
		l.Run(1, "rm", "-r", "/etc/kido")
	}
	if now := m.set(); now != want {
		t.Errorf("installed on a disk that is nearly full:\n%s", difference(want, now))
	}
}

// pairSite is a site of services that are up at once, as they are started often.
const pairSite = `site: pair
hosts:
  db1:  198.51.100.1
  web1: 198.51.100.2
services:
  database:
    hosts: db1
    systemd: database
    ready: {exec: [/bin/true]}
  web:
    hosts: web1
    systemd: web
    after: {database: restart}
    wait: none
    ready: {exec: [/bin/true]}
`

// pair is the operator of two machines, db1 and web1 of pairSite, that kido has not
// come to yet.
type pair struct {
	*operator
	before [3]string // of machines 1 and 2, what they were set up with
}

func newPair(t *testing.T, l *Lab) *pair {
	t.Helper()
	for host, name := range []string{1: "database", 2: "web"} {
		if name != "" {
			l.Put(host, "/etc/systemd/system/"+name+".service", 0o644, []byte("[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"))
			l.Run(host, "systemctl", "enable", "--now", name)
		}
	}
	p := &pair{operator: newOperator(t, l, pairSite)}
	// The operator's program is one that can be killed, those of the hosts are not.
	if err := os.Mkdir(p.path("programs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kido", "kido-gate"} {
		if err := os.Rename(p.path(name), p.path("programs/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	p.write("kido", 0o755, Program(t, "kido/cmd/kido", "-tags=failpoints"))
	for host := 1; host <= 2; host++ {
		p.before[host] = disk(l, host)
	}
	return p
}

// enrolling is a run of kido enroll, with some words in its environment.
func (p *pair) enrolling(env ...string) *exec.Cmd {
	cmd := p.kido(append(p.enrollArgs("root@%a"), "--programs", p.path("programs"))...)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// killed has kido enroll killed at a point. The ssh that it ran then goes on alone,
// and so does what keeps the connection; both are ended with the test.
func (p *pair) killed(point string) {
	p.t.Helper()
	tmp, err := os.MkdirTemp("", "kido-") // in a short one, as there are sockets in it
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		sockets, err := filepath.Glob(tmp + "/kido-enroll-*/*")
		if err != nil {
			p.t.Error(err)
		}
		for _, socket := range sockets { // of one that has ended by itself there is nothing to say
			_ = exec.Command("ssh", "-F", "none", "-q", "-S", socket, "-O", "exit", "host").Run()
		}
		if err := os.RemoveAll(tmp); err != nil {
			p.t.Error(err)
		}
	})
	p.write("point", 0o600, []byte(point))
	out, err := p.output(p.enrolling("TMPDIR="+tmp, "KIDO_FAILPOINT="+p.path("point")))
	if _, serr := os.Stat(p.path("point")); err == nil || serr == nil {
		p.t.Fatalf("not killed at %s: %v\n%s", point, err, out)
	}
}

// output is all that a command says, which may leave others behind that could say more.
func (p *pair) output(cmd *exec.Cmd) (string, error) {
	p.t.Helper()
	f, err := os.CreateTemp(p.dir, "said-")
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	return contents(f), err
}

// sound fails the test where the administrator could not log in to a machine, or could
// not once its sshd is started again.
func (p *pair) sound(when string) {
	p.t.Helper()
	for host := 1; host <= 2; host++ {
		p.login(host)
		if _, err := p.lab.Exec(host, "/usr/sbin/sshd", "-t"); err != nil {
			p.t.Errorf("%s: %v", when, err)
		}
	}
}

// complete fails the test where one run of kido enroll does not complete what earlier
// ones have begun: all is fresh then, and a restart of the one is followed by that of
// the other.
func (p *pair) complete(when string) {
	p.t.Helper()
	if said, err := p.output(p.enrolling()); err != nil {
		p.t.Fatalf("%s, the second run: %v\n%s", when, err, said)
	}
	p.follows()
}

func (p *pair) follows() {
	p.t.Helper()
	p.allFresh()
	life := func() string { return p.lab.Run(2, "systemctl", "show", "-p", "InvocationID", "web") }
	was := life()
	p.lab.Run(1, "systemctl", "restart", "database")
	p.lab.Until("the restart of the database is followed", func() bool { return life() != was })
	p.allFresh()
}

// anew removes kido from the machines, and all from the operator's folder that kido
// enroll has put there.
func (p *pair) anew() {
	p.t.Helper()
	for host := 1; host <= 2; host++ {
		p.lab.Run(host, "kido", "install", "--remove", "--purge")
		p.lab.Run(host, "sh", "-c", "rm -rf /tmp/tmp.*") // what was brought by those who were killed
	}
	for _, name := range []string{"id_ed25519", "id_ed25519.pub", "keys", "known_hosts", "state"} {
		if err := os.RemoveAll(p.path(name)); err != nil {
			p.t.Fatal(err)
		}
	}
}

// TestEnrollKilled: kido enroll of two hosts, one upstream of the other, is killed in
// the midst of each thing that it has a host do, and before each change of the
// operator's own files. What it had begun at a host is cut off or goes on alone. Each
// time the administrator can log in to both, and a second run completes it.
func TestEnrollKilled(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, Systemd)
	p := newPair(t, l)
	if said, err := p.output(p.enrolling("KIDO_FAILPOINT_LOG=" + p.path("points"))); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	p.follows()
	all := strings.Fields(string(read(t, p.path("points"))))
	for _, want := range []string{"keys.made.private#1", "file.written#4", "enroll.ssh.begun#16"} {
		if !slices.Contains(all, want) {
			t.Fatalf("%s is not among the points: %q", want, all)
		}
	}
	for i, name := range all {
		what, n, _ := strings.Cut(name, "#")
		visit, err := strconv.Atoi(n) // is to bring, to install, to ask for the result, and to clear up
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case i+1 == len(all):
		case what == "file.renamed", what == "enroll.ssh.ended":
			continue // there is nothing between this and the next one
		case what == "enroll.ssh.begun" && visit%4 == 0:
			continue // killed where it asks for the result it does not clear up either
		}
		p.anew()
		p.killed(name)
		p.sound("killed at " + name)
		p.complete("killed at " + name)
	}
	p.anew()
	for host := 1; host <= 2; host++ {
		if now := disk(l, host); now != p.before[host] {
			t.Errorf("removed, machine %d is not as it was:\n%s", host, difference(p.before[host], now))
		}
	}
}

// TestEnrollMeetsItself: what a killed kido enroll has left behind at a host is still
// at work there when the next one comes, which waits for its end and completes it.
func TestEnrollMeetsItself(t *testing.T) {
	t.Parallel()
	l := Start(t, Systemd, Systemd)
	p := newPair(t, l)
	const useradd, held = "/usr/sbin/useradd", "/run/held"
	l.Run(1, "mv", useradd, useradd+".real")
	l.Put(1, useradd, 0o755, []byte("#!/bin/sh\nwhile [ -e "+held+" ]; do sleep .05; done\nexec "+useradd+".real \"$@\"\n"))
	l.Put(1, held, 0o600, nil)
	installers := func() int {
		said := l.Run(1, "sh", "-c", "ps -C kido -o args= | grep -c ' install ' || :")
		n, err := strconv.Atoi(strings.TrimSpace(said))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	p.killed("enroll.ssh.begun#2")
	l.Until("what was left behind adds a user", func() bool {
		_, err := l.Exec(1, "pgrep", "-f", "^/bin/sh "+useradd)
		return err == nil
	})
	p.sound("killed while a host is at work")
	done := make(chan error, 1)
	second := p.enrolling()
	said, err := os.Create(p.path("second"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	second.Stdout, second.Stderr = said, said
	go func() { done <- second.Run() }()
	l.Until("the second run has come to the host", func() bool { return len(done) > 0 || installers() == 2 })
	l.Run(1, "rm", held)
	if err := <-done; err != nil {
		t.Errorf("the second run: %v\n%s", err, contents(said))
	}
	p.follows()
}
