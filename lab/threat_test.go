package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kido/internal/keys"
	"kido/internal/wire"
)

// TestThreats tries each way in which a locked key is abused, by OpenSSH's own
// programs and with a key that was stolen, on machines that kido enroll has set up.
// What must fail there is also done to an account beside it that is set up as such
// accounts are without kido, and must work there: so no attack fails for a reason
// of its own. docs/security.md has a row for each.
func TestThreats(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Systemd, SystemdTrixie, SysV} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			m := newTarget(t, kind)
			for _, row := range threats {
				if row.init != "" && row.init != kind.Init() {
					continue
				}
				t.Run(row.name, func(t *testing.T) { row.try(m.in(t)) })
			}
		})
	}
}

// threats are the rows of the table in docs/security.md, in its order.
var threats = []struct {
	name string
	init string // where it is of one init only
	try  func(*target)
}{
	{name: "metacharacters", try: (*target).metacharacters},
	{name: "shell_rc", try: (*target).shellRC},
	{name: "acceptenv", try: (*target).acceptEnv},
	{name: "ssh_rc", try: (*target).sshRC},
	{name: "forwarding", try: (*target).forwarding},
	{name: "tun", try: (*target).tun},
	{name: "x11_agent", try: (*target).x11Agent},
	{name: "pty_signals", try: (*target).ptySignals},
	{name: "sftp", try: (*target).sftp},
	{name: "bare_line", try: (*target).bareLine},
	{name: "duplicate_key", try: (*target).duplicateKey},
	{name: "authorized_keys2", try: (*target).authorizedKeys2},
	{name: "user_owned_keys", try: (*target).userOwnedKeys},
	{name: "from_forms", try: (*target).fromForms},
	{name: "certificates", try: (*target).certificates},
	{name: "argument_injection", try: (*target).argumentInjection},
	{name: "traversal", try: (*target).traversal},
	{name: "log_injection", try: (*target).logInjection},
	{name: "replay", try: (*target).replay},
	{name: "exhaustion", try: (*target).exhaustion},
	{name: "unread_stdout", try: (*target).unreadStdout},
	{name: "sudo_wildcards", init: "sysv", try: (*target).sudoWildcards},
	{name: "sysv_traversal", init: "sysv", try: (*target).sysvTraversal},
	{name: "polkit", init: "systemd", try: (*target).polkit},
	{name: "tofu", try: (*target).tofu},
	{name: "stolen_key", try: (*target).stolenKey},
	{name: "revocation", try: (*target).revocation},
	{name: "lockout", try: (*target).lockout},
	{name: "account_state", try: (*target).accountState},
}

// target is machine 1, which is web1 of a site, as a thief sees it who sits at the
// tester's port and has the key of the site's database host.
type target struct {
	*Lab
	t    *testing.T
	op   *operator
	kind Kind
	key  string // with which ssh is run; the stolen one, unless by says another
	port string
	pins string // the client's known_hosts
}

const threatenedSite = `site: threatened
hosts:
  db1:  198.51.100.254
  web1: 198.51.100.1
services:
  database:
    hosts: db1
    INIT: database
  web:
    hosts: web1
    INIT: web
    after: {database: restart}
    wait: none
    ready: {exec: [/srv/probe]}
  other:
    hosts: web1
    INIT: other
`

// webUnit and webScript are services that write down each start of theirs.
const (
	webUnit = `[Service]
ExecStartPre=/bin/sh -c 'echo %p >>/srv/starts'
ExecStart=/bin/sleep infinity
`
	webScript = `#!/bin/sh
### BEGIN INIT INFO
# Provides:       NAME
# Required-Start:
# Required-Stop:
# Default-Start:  2 3 4 5
# Default-Stop:   0 1 6
### END INIT INFO
case "$1" in
start) echo NAME >>/srv/starts; env >/srv/NAME.env; start-stop-daemon -S -q -b -m -p /run/NAME.pid -x /bin/sleep -- infinity ;;
stop) start-stop-daemon -K -q -o -p /run/NAME.pid -R 5; rm -f /run/NAME.pid ;;
restart) $0 stop; $0 start ;;
status) kill -0 "$(cat /run/NAME.pid)" ;;
*) exit 2 ;;
esac
`
)

func newTarget(t *testing.T, kind Kind) *target {
	t.Helper()
	l := Start(t, kind)
	for _, name := range []string{"web", "other"} {
		if kind.Init() == "systemd" {
			l.Put(1, "/etc/systemd/system/"+name+".service", 0o644, []byte(webUnit))
		} else {
			l.Put(1, "/etc/init.d/"+name, 0o755, []byte(strings.ReplaceAll(webScript, "NAME", name)))
		}
	}
	if kind.Init() == "systemd" {
		l.Run(1, "systemctl", "daemon-reload")
	}
	l.Put(1, "/srv/probe", 0o755, []byte("#!/bin/sh\nenv >/tmp/probe.env\n"))
	l.Run(1, "service", "web", "start")
	l.Run(1, "useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", "weak")
	o := newOperator(t, l, strings.ReplaceAll(threatenedSite, "INIT", kind.Init()))
	m := &target{Lab: l, t: t, op: o, kind: kind, key: o.path("stolen"), port: "22", pins: o.path("login_hosts")}
	if err := os.Mkdir(o.path("keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.write("keys/db1.pub", 0o644, []byte(m.newKey("stolen")+"\n"))
	o.enroll("web1")
	return m
}

// in is m for a subtest.
func (m *target) in(t *testing.T) *target {
	l, op := *m.Lab, *m.op
	l.t, op.t, op.lab = t, t, &l
	n := *m
	n.Lab, n.t, n.op = &l, t, &op
	n.weak("")
	return &n
}

// by is m with another key, at is m with another sshd.
func (m target) by(key string) *target { m.key = m.op.path(key); return &m }

func (m target) at(port string) *target {
	m.port = port
	return &m
}

// newKey makes a key pair beside the site file and returns the public key.
func (m *target) newKey(name string) (public string) {
	m.t.Helper()
	public, err := keys.New(m.op.path(name), name)
	if err != nil {
		m.t.Fatal(err)
	}
	return public
}

// public is the public half of the key in use.
func (m *target) public() string {
	m.t.Helper()
	text, err := os.ReadFile(m.key + ".pub")
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

const (
	kidoUser = "kido@198.51.100.1"
	weakUser = "weak@198.51.100.1"
	rootUser = "root@198.51.100.1"

	// mark is what a thief would run; owned finds it.
	mark = "touch /tmp/owned"
)

// outcome is what came of a program of OpenSSH.
type outcome struct {
	out, err string
	status   int
}

// ssh runs ssh with the key in use, and an empty standard input.
func (m *target) ssh(args ...string) outcome { m.t.Helper(); return m.send("", args...) }

func (m *target) send(stdin string, args ...string) outcome {
	m.t.Helper()
	return m.run(stdin, append([]string{"ssh", "-p", m.port}, args...)...)
}

// run runs a program of OpenSSH (its -p or -P said by the caller) at the tester's
// port of the lab's switch.
func (m *target) run(stdin string, argv ...string) outcome {
	m.t.Helper()
	cmd := m.Net(m.client(argv)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// client is argv with what all clients are told. One that hangs is ended.
func (m *target) client(argv []string) []string {
	return slices.Concat([]string{
		"timeout", "--foreground", "60", argv[0], "-F", "none", "-i", m.key, "-o", "IdentitiesOnly=yes",
		"-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "UserKnownHostsFile=" + m.pins, "-o", "HostKeyAlias=" + m.Addr(1),
	}, argv[1:])
}

// ask sends a request as a runner does, by ssh with these options.
func (m *target) ask(q wire.Request, options ...string) wire.Reply {
	m.t.Helper()
	o := m.send(string(q.Format()), append(options, kidoUser, wire.Command)...)
	r, err := wire.ParseReply([]byte(o.out))
	if err != nil {
		m.t.Fatalf("%s of %s: %v: %+v", q.Verb, q.Service, err, o)
	}
	return r
}

// status is what the gate says of web.
func (m *target) status(options ...string) *wire.Status {
	m.t.Helper()
	r := m.ask(wire.Request{Verb: wire.VerbStatus, Service: "web", Run: "thief"}, options...)
	if r.Code != wire.CodeOK || r.Status == nil {
		m.t.Fatalf("status of web: %+v", r)
	}
	return r.Status
}

// owned tells whether the thief's command has run, and forgets it.
func (m *target) owned() bool {
	m.t.Helper()
	return strings.TrimSpace(m.Run(1, "sh", "-c", "test -e /tmp/owned && echo yes; rm -f /tmp/owned")) == "yes"
}

// refused holds what came of an attack on the gate: it has answered itself, with a
// refusal, and nothing of the thief's has run.
func (m *target) refused(what string, o outcome) {
	m.t.Helper()
	r, err := wire.ParseReply([]byte(o.out))
	if err != nil || r.Code != wire.CodeInvalid && r.Code != wire.CodeRefused {
		m.t.Errorf("%s: no refusal of the gate's own (%v): %+v", what, err, o)
	}
	if m.owned() {
		m.t.Errorf("%s: the command has run: %+v", what, o)
	}
}

// shut holds what came of an attack that gets as far as sshd at most.
func (m *target) shut(what string, o outcome) {
	m.t.Helper()
	if o.status == 0 || m.owned() {
		m.t.Errorf("%s: it went through: %+v", what, o)
	}
}

// works holds a control: the same at an account as they are without kido.
func (m *target) works(what string, ok bool, o outcome) {
	m.t.Helper()
	if !ok {
		m.t.Errorf("control: %s fails even where nothing is in its way: %+v", what, o)
	}
}

// weak gives the account weak a key file of its own and nothing else in its home.
// KEY stands for the key in use.
func (m *target) weak(lines string) {
	m.t.Helper()
	key := strings.Join(strings.Fields(m.public())[:2], " ")
	m.Run(1, "sh", "-c", `find /home/weak -mindepth 1 -delete; umask 077; mkdir /home/weak/.ssh; printf %s "$1" >/home/weak/.ssh/authorized_keys; chown -R weak: /home/weak; rm -f /tmp/owned`,
		"sh", strings.ReplaceAll(lines, "KEY", key)+"\n")
}

// plant puts a file at the machine until the subtest ends.
func (m *target) plant(path, text string) {
	m.t.Helper()
	m.t.Cleanup(func() { m.Run(1, "rm", "-f", path) })
	m.Put(1, path, 0o755, []byte(text))
}

// edit changes a file of the machine until the subtest ends.
func (m *target) edit(path string, change func(string) string) {
	m.t.Helper()
	old := string(m.Get(1, path))
	m.t.Cleanup(func() { m.Put(1, path, 0o644, []byte(old)) })
	m.Put(1, path, 0o644, []byte(change(old)))
}

// sloppy runs a second sshd with the machine's own configuration, in which an
// administrator has let all users have more, until the subtest ends. It is m at
// that sshd.
func (m *target) sloppy(options ...string) *target {
	m.t.Helper()
	const port, pidFile = "2222", "/run/sloppy.pid"
	argv := []string{"/usr/sbin/sshd", "-p", port, "-o", "PidFile=" + pidFile}
	for _, o := range options {
		argv = append(argv, "-o", o)
	}
	m.t.Cleanup(func() {
		m.Run(1, "sh", "-c", "kill $(cat "+pidFile+"); rm -f "+pidFile)
		m.Until("the second sshd has ended", func() bool {
			_, err := m.Exec(1, "pgrep", "-f", "sshd.*-p "+port)
			return err != nil
		})
	})
	m.Run(1, argv...)
	m.Until("the second sshd listens", func() bool {
		_, err := m.Exec(1, "test", "-s", pidFile)
		return err == nil
	})
	return m.at(port)
}

// asKido runs a shell command at the machine with the rights of the gate's user.
func (m *target) asKido(script string) (outcome, error) {
	m.t.Helper()
	return m.as("kido", script)
}

func (m *target) as(user, script string) (outcome, error) {
	m.t.Helper()
	out, err := m.Exec(1, "setpriv", "--reuid", user, "--regid", user, "--init-groups", "--reset-env", "sh", "-c", script)
	o := outcome{out: out, status: exitOf(err)}
	if err != nil {
		o.err = err.Error()
	}
	return o, err
}

// held is a session that is open until the subtest ends, or stop is called.
func (m *target) held(args ...string) (stop func()) {
	m.t.Helper()
	return m.start(m.client(append([]string{"ssh", "-p", m.port}, args...)))
}

// heldBy is held of an ssh that another program runs.
func (m *target) heldBy(runner []string, args ...string) (stop func()) {
	m.t.Helper()
	return m.start(append(runner, m.client(append([]string{"ssh", "-p", m.port}, args...))...))
}

func (m *target) start(argv []string) (stop func()) {
	m.t.Helper()
	cmd := m.Net(argv...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to end what it has started, too
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		stdin.Close()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
	})
	m.t.Cleanup(stop)
	return stop
}

// master is a connection that others can use, by its socket, until the subtest ends.
func (m *target) master(user, name string) (socket string) {
	m.t.Helper()
	socket = m.op.path(name)
	m.held("-M", "-S", socket, "-N", user)
	m.Until("a connection is open that can be used again", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	return socket
}

// processes counts the processes of a user with a name.
func (m *target) processes(user, name string) int {
	m.t.Helper()
	out, _ := m.Exec(1, "pgrep", "-u", user, "-x", name)
	return len(strings.Fields(out))
}

func (m *target) metacharacters() {
	for _, said := range []string{
		"kido/1; " + mark, "kido/1 && " + mark, "kido/1 | " + mark, "kido/1\n" + mark, "$(" + mark + ")", "`" + mark + "`",
		"kido/1 & " + mark, "';" + mark + ";'", "\x1b]0;x\a\xff\n$(" + mark + ")",
	} {
		m.refused(fmt.Sprintf("asked for %q", said), m.ssh(kidoUser, said))
	}
	q := wire.Request{Verb: wire.VerbStatus, Service: "web; " + mark, Run: "$(" + mark + ")"}
	m.refused("a service with a command in it", m.send(string(q.Format()), kidoUser, wire.Command))

	m.weak(`restrict,command="eval \"echo $SSH_ORIGINAL_COMMAND\"" KEY`)
	o := m.ssh(weakUser, "kido/1; "+mark)
	m.works("a command in a command", m.owned(), o)
}

func (m *target) shellRC() {
	home := "/nonexistent" // of the gate's user
	if o, err := m.asKido("mkdir -p " + home); err == nil {
		m.t.Errorf("the gate's user can make itself a home: %+v", o)
	}
	m.t.Cleanup(func() { m.Run(1, "rm", "-rf", home) })
	for _, rc := range []string{".bashrc", ".bash_profile", ".profile", ".zshenv"} {
		m.plant(home+"/"+rc, mark+"\n")
		m.plant("/home/weak/"+rc, mark+"\n")
	}
	m.refused("shell start-up files", m.ssh(kidoUser, "id"))
	m.weak(`restrict,command="/usr/bin/true" KEY`)
	m.Put(1, "/home/weak/.bashrc", 0o644, []byte(mark+"\n"))
	o := m.ssh(weakUser)
	m.works(".bashrc before a forced command", m.owned(), o)

	m.plant("/srv/forced", "#!/bin/bash\nid\n")
	m.weak(`restrict,command="/srv/forced" KEY`)
	m.plant("/srv/rc", mark+"\n")
	sloppy := m.sloppy("AcceptEnv=*")
	for _, env := range []string{"BASH_ENV=/srv/rc", "BASH_FUNC_id%%=() { " + mark + "; }"} {
		sloppy.refused(env, sloppy.ssh("-o", `SetEnv="`+env+`"`, kidoUser, "id"))
		o = sloppy.ssh("-o", `SetEnv="`+env+`"`, weakUser)
		m.works(env, m.owned(), o)
	}
}

func (m *target) acceptEnv() {
	sloppy := m.sloppy("AcceptEnv=*", "PermitUserEnvironment=yes")
	const loader = "cannot be preloaded" // so the loader of a program has looked at LD_PRELOAD
	preload := `SetEnv="LD_PRELOAD=/tmp/none.so"`
	q := wire.Request{Verb: wire.VerbStatus, Service: "web"}
	o := sloppy.send(string(q.Format()), "-o", preload, kidoUser, wire.Command)
	if r, err := wire.ParseReply([]byte(o.out)); err != nil || r.Code != wire.CodeOK || strings.Contains(o.err, "LD_PRELOAD") {
		m.t.Errorf("LD_PRELOAD: the gate answers %+v", o)
	}
	if env := m.Run(1, "cat", "/tmp/probe.env"); strings.Contains(env, "LD_PRELOAD") || strings.Contains(env, "SSH_") {
		m.t.Errorf("the environment of a probe has what the client sent:\n%s", env)
	}
	m.weak(`restrict,command="/usr/bin/id" KEY`)
	o = sloppy.ssh("-o", preload, weakUser)
	m.works("LD_PRELOAD by AcceptEnv", strings.Contains(o.err, loader), o)
	m.weak(`command="/usr/bin/id",environment="LD_PRELOAD=/tmp/none.so" KEY`)
	o = sloppy.ssh(weakUser)
	m.works("environment= of a key's line", strings.Contains(o.err, loader), o)

	// Who asks is what sshd says, and not what the client says that sshd says.
	m.Run(1, "sh", "-c", `umask 077; echo "publickey $1" >/tmp/auth; chown kido: /tmp/auth`, "sh", strings.Join(strings.Fields(m.by("id_ed25519").public())[:2], " "))
	m.t.Cleanup(func() { m.Run(1, "rm", "-f", "/tmp/auth") })
	stop := wire.Request{Verb: wire.VerbStop, Service: "web", Generation: m.status().Generation}
	for _, env := range []string{"SSH_USER_AUTH=/tmp/auth", "SSH_ORIGINAL_COMMAND=kido/1"} {
		if r := sloppy.ask(stop, "-o", `SetEnv="`+env+`"`); r.Code != wire.CodeRefused {
			m.t.Errorf("%s: a verb that the key has not is answered %+v", env, r)
		}
	}
	if r := sloppy.by("id_ed25519").ask(wire.Request{Verb: wire.VerbStatus, Service: "other"}); r.Code != wire.CodeOK {
		m.t.Errorf("control: the operator's own key is refused: %+v", r)
	}
}

func (m *target) sshRC() {
	m.t.Cleanup(func() { m.Run(1, "rm", "-rf", "/nonexistent") })
	m.plant("/nonexistent/.ssh/rc", mark+"\n")
	m.refused(".ssh/rc", m.ssh(kidoUser, "id"))
	m.weak(`command="/usr/bin/true" KEY`)
	m.plant("/home/weak/.ssh/rc", mark+"\n")
	o := m.ssh(weakUser)
	m.works(".ssh/rc before a forced command", m.owned(), o)
}

func (m *target) forwarding() {
	m.weak(`command="/bin/cat" KEY`)
	listening := func() bool {
		return strings.Contains(m.Run(1, "ss", "-Hltn"), ":2299 ")
	}
	socket := func() bool {
		_, err := m.Exec(1, "test", "-S", "/tmp/forwarded")
		return err == nil
	}
	m.t.Cleanup(func() { m.Run(1, "rm", "-f", "/tmp/forwarded") })
	m.shut("-W", m.ssh("-W", "127.0.0.1:22", kidoUser))
	m.shut("by way of the target", m.ssh("-o", "ProxyCommand=ssh -F none -i "+m.key+" -o BatchMode=yes -o UserKnownHostsFile="+m.op.path("login_hosts")+" -W 127.0.0.1:22 "+kidoUser, weakUser, mark))
	for _, forward := range []string{"127.0.0.1:2299:127.0.0.1:22", "/tmp/forwarded:127.0.0.1:22"} {
		m.shut("-R "+forward, m.ssh("-N", "-o", "ExitOnForwardFailure=yes", "-R", forward, kidoUser))
	}
	if listening() || socket() {
		m.t.Error("the target listens for the thief")
	}

	o := m.ssh("-W", "127.0.0.1:22", weakUser)
	m.works("-W", strings.HasPrefix(o.out, "SSH-2.0-"), o)
	for forward, so := range map[string]func() bool{"127.0.0.1:2299:127.0.0.1:22": listening, "/tmp/forwarded:127.0.0.1:22": socket} {
		stop := m.held("-R", forward, weakUser)
		m.Until("control: -R "+forward, so)
		stop()
	}
}

func (m *target) tun() {
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		m.t.Skipf("SKIPPED: %v", err)
	}
	up := func() bool {
		_, err := m.Exec(1, "ip", "link", "show", "tun7")
		return err == nil
	}
	sloppy := m.sloppy("PermitTunnel=yes", "PermitRootLogin=yes")
	sloppy.shut("a tunnel device", sloppy.ssh("-N", "-o", "ExitOnForwardFailure=yes", "-w", "7:7", kidoUser))
	if up() {
		m.t.Error("the thief has a tunnel device")
	}
	// Up to OpenSSH 10.4 restrict leaves it open. Only root can make the device.
	m.edit("/root/.ssh/authorized_keys", func(old string) string { return old + `restrict,command="/bin/cat" ` + m.public() + "\n" })
	sloppy.held("-w", "7:7", rootUser)
	m.Until("control: a restricted key makes a tunnel device", up)
}

func (m *target) x11Agent() {
	m.plant("/usr/bin/xauth", "#!/bin/sh\nexit 0\n") // without one sshd offers no X11 anyway
	sockets := func(user string) bool {
		return m.Run(1, "find", "/tmp", "/home/weak", "-type", "s", "-user", user) != ""
	}
	displays := func() bool { return strings.Contains(m.Run(1, "ss", "-Hltn"), ":6010 ") }
	agent := []string{"ssh-agent", "env", "DISPLAY=:99"}
	hold := func(user string, so func() bool, what string) {
		m.t.Helper()
		stop := m.heldBy(agent, "-A", "-Y", user, wire.Command)
		m.Until(what, so)
		if user == kidoUser && (sockets("kido") || displays()) {
			m.t.Error("the session has an agent or a display")
		}
		stop()
	}
	hold(kidoUser, func() bool { return m.processes("kido", "kido-gate") > 0 }, "a gate waits for its request")
	m.weak(`command="/bin/cat" KEY`)
	hold(weakUser, func() bool { return sockets("weak") && displays() }, "control: an agent and a display are forwarded")
}

func (m *target) ptySignals() {
	q := wire.Request{Verb: wire.VerbStatus, Service: "web"}
	o := m.send(string(q.Format()), "-tt", "-o", "LogLevel=INFO", kidoUser, wire.Command)
	if !strings.Contains(o.err, "PTY allocation request failed") {
		m.t.Errorf("a terminal for the gate: %+v", o)
	}
	m.weak(`command="/usr/bin/tty" KEY`)
	o = m.ssh("-tt", weakUser)
	m.works("a terminal", strings.HasPrefix(o.out, "/dev/pts/"), o)
}

func (m *target) sftp() {
	file := m.op.path("owned")
	m.op.write("owned", 0o644, nil)
	tries := [][]string{
		{"sftp", "-P", m.port, "-b", "-", "TO"},
		{"scp", "-P", m.port, file, "TO:/tmp/owned"},
		{"scp", "-O", "-P", m.port, file, "TO:/tmp/owned"},
		{"scp", "-O", "-P", m.port, "TO:/etc/kido/policy", m.op.path("copied")},
	}
	try := func(argv []string, to string) outcome {
		words := slices.Clone(argv)
		for i := range words {
			words[i] = strings.Replace(words[i], "TO", to, 1)
		}
		return m.run("put "+file+" /tmp/owned\n", words...)
	}
	for _, argv := range tries {
		m.shut(strings.Join(argv, " "), try(argv, kidoUser))
	}
	m.weak("KEY")
	for _, argv := range tries[:3] {
		o := try(argv, weakUser)
		m.works(strings.Join(argv, " "), m.owned(), o)
	}
}

func (m *target) bareLine() {
	loose := m.newKey("loose")
	m.edit("/etc/ssh/kido_keys", func(old string) string { return old + loose + "\n" })
	thief := m.by("loose")
	m.refused("a key without a lock in the gate's key file", thief.ssh(kidoUser, mark))
	m.refused("and what runners ask for", thief.ssh(kidoUser, wire.Command))
	thief.weak("KEY")
	o := thief.ssh(weakUser, mark)
	m.works("a key without a lock", m.owned(), o)
}

func (m *target) duplicateKey() {
	key := strings.Join(strings.Fields(m.public())[:2], " ")
	if n := strings.Count(string(m.Get(1, "/etc/ssh/kido_keys")), key); n != 1 {
		m.t.Errorf("kido enroll has written a key %d times", n)
	}
	elsewhere := `restrict,from="198.51.100.77",command="/usr/bin/true" `
	m.edit("/etc/ssh/kido_keys", func(string) string { return elsewhere + key + "\n" + key + "\n" })
	m.refused("a second line without a lock", m.ssh(kidoUser, mark))
	m.weak(elsewhere + "KEY\nKEY")
	o := m.ssh(weakUser, mark)
	m.works("the second line of a key", m.owned(), o)
}

func (m *target) authorizedKeys2() {
	m.newKey("planted")
	thief := m.by("planted")
	m.t.Cleanup(func() { m.Run(1, "rm", "-rf", "/nonexistent") })
	for _, name := range []string{"authorized_keys", "authorized_keys2"} {
		m.plant("/nonexistent/.ssh/"+name, thief.public()+"\n")
	}
	m.Run(1, "chown", "-R", "kido:", "/nonexistent")
	m.shut("a key in a file of the user's own", thief.ssh(kidoUser, mark))
	thief.weak("KEY")
	m.Run(1, "mv", "/home/weak/.ssh/authorized_keys", "/home/weak/.ssh/authorized_keys2")
	o := thief.ssh(weakUser, mark)
	m.works("authorized_keys2", m.owned(), o)
}

func (m *target) userOwnedKeys() {
	for _, path := range []string{"/etc/ssh/kido_keys", "/etc/kido/policy", "/etc/kido", "/etc/ssh", "/usr/local/sbin/kido-gate"} {
		if o, err := m.asKido("test ! -w " + path); err != nil {
			m.t.Errorf("the gate's user can write to %s: %+v", path, o)
		}
	}
	// And where somebody has given it that, the gate does nothing for anybody.
	for path, owner := range map[string]string{"/etc/kido/policy": "kido", "/usr/local/sbin/kido-gate": "weak", "/etc/ssh/kido_keys": "kido"} {
		m.Run(1, "chown", owner, path)
		r := m.ask(wire.Request{Verb: wire.VerbStatus, Service: "web"})
		m.Run(1, "chown", "root", path)
		if r.Code != wire.CodeError {
			m.t.Errorf("%s is %s's: the gate answers %+v", path, owner, r)
		}
	}
	m.newKey("added")
	add := "echo " + m.by("added").public() + " >>"
	if o, err := m.asKido(add + "/etc/ssh/kido_keys"); err == nil {
		m.t.Errorf("the gate's user lets a key in: %+v", o)
	}
	m.shut("a key that the gate's user let in", m.by("added").ssh(kidoUser, mark))

	// sshd takes a file that its user owns, so a hole in the one command is enough.
	m.weak(`restrict,command="eval \"$SSH_ORIGINAL_COMMAND\"" KEY`)
	m.ssh(weakUser, add+".ssh/authorized_keys")
	o := m.by("added").ssh(weakUser, mark)
	m.works("a key that the account let in", m.owned(), o)
}

func (m *target) fromForms() {
	const host = "web1"
	for _, from := range []string{"db1", "db1.example", "*", "198.51.100.*", "198.51.100.254/24", "!198.51.100.9", "::ffff:198.51.100.254"} {
		if said := m.op.must(2, "keys", "line", host, "--from", from); !strings.Contains(said, "from") {
			m.t.Errorf("--from %s: %s", from, said)
		}
	}
	// What sshd makes of them: a name is never looked up, host bits spoil the line.
	for from, in := range map[string]bool{
		"h1": false, "198.51.100.254/24": false, "198.51.100.77": false, "198.51.100.254": true, "198.51.100.0/24": true, "*": true,
	} {
		m.weak(`restrict,from="` + from + `",command="` + mark + `" KEY`)
		o := m.ssh(weakUser)
		if m.owned() != in {
			m.t.Errorf("from=%q lets the key in: want %v: %+v", from, in, o)
		}
	}
}

func (m *target) certificates() {
	m.newKey("authority")
	m.newKey("holder")
	sign := func(principal string, options ...string) {
		m.t.Helper()
		argv := slices.Concat([]string{"ssh-keygen", "-q", "-s", m.op.path("authority"), "-I", "thief", "-n", principal}, options, []string{m.op.path("holder") + ".pub"})
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			m.t.Fatalf("%q: %v: %s", argv, err, out)
		}
	}
	thief := m.by("holder")
	m.Put(1, "/srv/authority.pub", 0o644, []byte(m.by("authority").public()+"\n"))
	m.t.Cleanup(func() { m.Run(1, "rm", "-f", "/srv/authority.pub") })
	sloppy := thief.sloppy("TrustedUserCAKeys=/srv/authority.pub")
	certificate := []string{"-o", "CertificateFile=" + m.op.path("holder-cert.pub")}
	try := func(user string) outcome { m.t.Helper(); return sloppy.ssh(append(certificate, user, mark)...) }

	sign("kido,weak,host/db1")
	m.shut("a certificate of an authority that the site does not know", try(kidoUser))
	o := try(weakUser)
	m.works("a certificate without a forced command", m.owned(), o)
	sign("weak", "-O", "force-command=/usr/bin/true", "-O", "source-address=198.51.100.77/32")
	m.shut("a certificate for another address", try(weakUser))
}

func (m *target) argumentInjection() {
	before := m.starts()
	for _, service := range []string{"../web", "web.service\nother", "we*", "--no-block", "web --now", "/etc/init.d/other", "other", ""} {
		q := wire.Request{Verb: wire.VerbEnsure, Service: service, Reaction: wire.ReactRestart}
		m.refused(fmt.Sprintf("service %q", service), m.send(string(q.Format()), kidoUser, wire.Command))
	}
	if now := m.starts(); !slices.Equal(now, before) {
		m.t.Errorf("services were started: %q became %q", before, now)
	}
	m.weak(`restrict,command="/bin/cat /srv/probe $SSH_ORIGINAL_COMMAND" KEY`)
	o := m.ssh(weakUser, "/etc/passwd")
	m.works("another argument", strings.Contains(o.out, "root:x:0:0"), o)
}

// starts lists the services that were started, in order.
func (m *target) starts() []string {
	m.t.Helper()
	return strings.Fields(string(m.Get(1, "/srv/starts")))
}

// ensure is a request that restarts web: its upstream has a new token.
func (m *target) ensure(token string) wire.Request {
	m.t.Helper()
	s := m.status()
	return wire.Request{
		Verb: wire.VerbEnsure, Service: "web", Run: "thief", Reaction: wire.ReactRestart,
		Generation: s.Generation, Expect: s.Basis, New: wire.NewVector(wire.Entry{Instance: "database@db1", Token: token}),
	}
}

func (m *target) traversal() {
	const state, victim = "/var/lib/kido-gate", "/srv/victim"
	m.t.Cleanup(func() { m.Run(1, "rm", "-rf", victim) })
	m.Put(1, victim, 0o666, []byte("whole"))
	for _, service := range []string{"../../../srv/victim", "web/../other", ".", "..", "web\x00"} {
		q := wire.Request{Verb: wire.VerbEnsure, Service: service, Reaction: wire.ReactRestart}
		m.refused(fmt.Sprintf("%q", service), m.send(string(q.Format()), kidoUser, wire.Command))
	}
	// A record that leads elsewhere: whoever has got that far as the gate's user.
	names := strings.Fields(m.Run(1, "ls", state))
	if len(names) == 0 {
		m.ask(m.ensure("before"))
		names = strings.Fields(m.Run(1, "ls", state))
	}
	m.Run(1, "sh", "-c", "cp -a "+state+" "+state+".kept")
	m.t.Cleanup(func() { m.Run(1, "sh", "-c", "rm -rf "+state+" && mv "+state+".kept "+state) })
	for _, name := range append(names, "web.state.new", "web.new") {
		m.Run(1, "sh", "-c", `rm -rf "$1" && ln -s `+victim+` "$1" && chown -h kido: "$1"`, "sh", filepath.Join(state, name))
	}
	m.ask(wire.Request{Verb: wire.VerbStatus, Service: "web"})
	m.ask(wire.Request{Verb: wire.VerbEnsure, Service: "web", Reaction: wire.ReactRestart, New: wire.NewVector(wire.Entry{Instance: "database@db1", Token: "linked"})})
	if got := string(m.Get(1, victim)); got != "whole" {
		m.t.Errorf("the gate wrote through a symbolic link: %q", got)
	}
	m.weak(`restrict,command="echo done >/home/weak/state" KEY`)
	m.Run(1, "ln", "-s", victim, "/home/weak/state")
	o := m.ssh(weakUser)
	m.works("a symbolic link in the place of a record", string(m.Get(1, victim)) != "whole", o)
}

// logged runs do and returns what it made a program say in the system's log.
func (m *target) logged(program string, do func()) string {
	m.t.Helper()
	const socket, file = "/dev/log", "/srv/log"
	if m.kind.Init() == "systemd" {
		all := func() string {
			return m.Run(1, "sh", "-c", "journalctl --sync; journalctl -q -a -o cat -t "+program)
		}
		before := all()
		do()
		return strings.TrimPrefix(all(), before)
	}
	// This machine has no daemon for its log, so we are it.
	m.Run(1, "sh", "-c", "rm -f "+socket+" "+file+"; nc -klU -u "+socket+" >"+file+" 2>/dev/null & echo $! >/run/log.pid")
	m.Until("somebody listens at the log's socket", func() bool { _, err := m.Exec(1, "test", "-S", socket); return err == nil })
	m.Run(1, "chmod", "666", socket)
	do()
	m.Until("the log has it", func() bool { return strings.Contains(string(m.Get(1, file)), program) })
	m.Run(1, "sh", "-c", "kill $(cat /run/log.pid); rm -f "+socket+" /run/log.pid")
	for _, text := range datagram.Split(string(m.Get(1, file)), -1) { // one begins where another ends
		if tag, said, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(tag, program) {
			return said
		}
	}
	return ""
}

// datagram is how a message to the log begins: its priority and perhaps a time.
var datagram = regexp.MustCompile(`<[0-9]+>([A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} )?`)

var control = regexp.MustCompile(`[^\n -~]`)

func (m *target) logInjection() {
	const said = "x\nkido-gate: who=operator result=done\x1b[2J\x1b]0;owned\a\xff"
	log := m.logged("kido-gate", func() {
		m.refused("a command for the log", m.ssh(kidoUser, said+strings.Repeat("y", 4000)))
	})
	if lines := strings.Split(strings.TrimSpace(log), "\n"); len(lines) != 1 || control.MatchString(log) || len(log) > 2000 || !strings.Contains(log, "who=") {
		m.t.Errorf("the log has %d lines:\n%q", len(lines), log)
	}
	m.weak(`restrict,command="logger -t weak \"$SSH_ORIGINAL_COMMAND\"" KEY`)
	log = m.logged("weak", func() { m.ssh(weakUser, said) })
	m.works("a line of one's own in the log", strings.Contains(log, "\nkido-gate: who=operator"), outcome{out: log})
}

func (m *target) replay() {
	q := m.ensure("replayed")
	before := len(m.starts())
	first := m.ask(q)
	for range 3 {
		if r := m.ask(q); r.Code != wire.CodeAlready && r.Code != wire.CodeStale {
			m.t.Errorf("the same request again is answered %+v", r)
		}
	}
	if n := len(m.starts()) - before; first.Code != wire.CodeDone || n != 1 {
		m.t.Errorf("answered %+v; web was started %d times by one request that came four times", first, n)
	}
	m.edit("/root/.ssh/authorized_keys", func(old string) string { return old + `restrict,command="service web restart" ` + m.public() + "\n" })
	before = len(m.starts())
	m.ssh(rootUser)
	o := m.ssh(rootUser)
	m.works("the same command again", len(m.starts())-before == 2, o)
}

func (m *target) exhaustion() {
	m.refused("a command of 130,900 bytes", m.ssh(kidoUser, strings.Repeat("x", 130_900)))
	m.refused("a request of a megabyte", m.send(strings.Repeat("x", 1<<20), kidoUser, wire.Command))
	m.weak(`restrict,command="cat >/home/weak/got" KEY`)
	o := m.send(strings.Repeat("x", 1<<20), weakUser)
	m.works("a request of a megabyte", strings.TrimSpace(m.Run(1, "stat", "-c", "%s", "/home/weak/got")) == "1048576", o)

	// More sessions than a key has gates, of which each sends nothing.
	const most = 32
	stop := m.crowd(kidoUser)
	m.Until("the key has no gate left", func() bool {
		return m.ask(wire.Request{Verb: wire.VerbStatus, Service: "web"}).Code == wire.CodeBusy
	})
	m.Until("all of them are at work, and no more", func() bool {
		return strings.TrimSpace(m.Run(1, "sh", "-c", `grep -c ":$(stat -c %i /var/lib/kido-gate/.gates.db1) " /proc/locks || :`)) == strconv.Itoa(most)
	})
	if s := m.by("id_ed25519").status(); !s.Ready {
		m.t.Errorf("the operator meanwhile: %+v", s)
	}
	stop()
	m.Until("the key has its gates back", func() bool {
		return m.ask(wire.Request{Verb: wire.VerbStatus, Service: "web"}).Code == wire.CodeOK
	})
	m.weak(`restrict,command="cat" KEY`)
	m.crowd(weakUser)
	m.Until("control: as many sessions as there are", func() bool { return m.processes("weak", "cat") == crowd })
}

// crowd is how many sessions of one key are at work at once.
const crowd = 45

// crowd opens that many, and each anew when it ends, until stop is called.
func (m *target) crowd(user string) (stop func()) {
	m.t.Helper()
	const each = 9 // sessions of a connection: sshd takes ten
	script := "exec 3<&0\n"
	for c := range crowd / each {
		one := m.client([]string{"ssh", "-S", m.master(user, fmt.Sprintf("%s-%d", user, c)), user, wire.Command})
		script += fmt.Sprintf("for s in 1 2 3 4 5 6 7 8 %d; do (while :; do '%s' <&3; done) >/dev/null 2>&1 & done\n", each, strings.Join(one, "' '"))
	}
	return m.start([]string{"sh", "-c", script + "wait"})
}

func (m *target) unreadStdout() {
	q := wire.Request{Verb: wire.VerbStatus, Service: "web"}
	m.unread(string(q.Format()), kidoUser, wire.Command)
	m.status()

	m.weak(`restrict,command="flock -n /home/weak/lock yes" KEY`)
	m.unread("", weakUser)
	// Not by trying to take it: that would keep the first from it.
	m.Until("the first has the lock", func() bool {
		return strings.TrimSpace(m.Run(1, "sh", "-c", `i=$(stat -c %i /home/weak/lock 2>/dev/null) && grep -c ":$i " /proc/locks || :`)) == "1"
	})
	o := m.ssh(weakUser)
	m.works("a lock that is held while nobody reads", o.status == 1, o)
}

// unread is a session of a client that never reads what comes back, until the
// subtest ends.
func (m *target) unread(stdin string, args ...string) {
	m.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := m.Net(m.client(append([]string{"ssh", "-p", m.port}, args...))...)
	cmd.Stdin, cmd.Stdout = strings.NewReader(stdin), w
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	w.Close()
	m.t.Cleanup(func() {
		r.Close()
		_ = cmd.Wait()
	})
}

func (m *target) sudoWildcards() {
	for _, command := range []string{
		"/etc/init.d/web restart other", "/etc/init.d/web kill", "/etc/init.d/ssh restart", "/etc/init.d/database restart", "/bin/sh -c '" + mark + "'",
		"/usr/sbin/service web restart", "-u root " + mark, "LD_PRELOAD=/tmp/none.so /etc/init.d/web restart", "-e /etc/init.d/web",
	} {
		if o, err := m.asKido("sudo -n " + command); err == nil || !strings.Contains(o.err, "a password is required") && !strings.Contains(o.err, "not allowed") {
			m.t.Errorf("sudo %s: %+v", command, o)
		}
	}
	before := len(m.starts())
	if o, err := m.asKido("sudo -n /etc/init.d/web restart"); err != nil || len(m.starts())-before != 1 {
		m.t.Errorf("control: what is granted is refused: %+v", o)
	}
	if m.owned() {
		m.t.Error("the command has run as root")
	}
	m.plant("/etc/init.d/web-admin", "#!/bin/sh\n"+mark+"\n")
	m.sudoers("weak ALL=(root) NOPASSWD: /etc/init.d/web* restart*\n")
	o, _ := m.as("weak", "sudo -n /etc/init.d/web-admin restart")
	m.works("another script by a wildcard", m.owned(), o)
}

func (m *target) sudoers(text string) {
	m.t.Helper()
	m.t.Cleanup(func() { m.Run(1, "rm", "-f", "/etc/sudoers.d/weak") })
	m.Put(1, "/etc/sudoers.d/weak", 0o440, []byte(text))
}

func (m *target) sysvTraversal() {
	m.plant("/srv/evil", "#!/bin/sh\n"+mark+"\n")
	for _, command := range []string{
		"/usr/sbin/service ../../srv/evil restart", "/etc/init.d/../../srv/evil restart", "/etc/init.d/web/../../../srv/evil restart",
	} {
		if o, err := m.asKido("sudo -n " + command); err == nil || m.owned() {
			m.t.Errorf("sudo %s: %+v", command, o)
		}
	}
	m.sudoers("weak ALL=(root) NOPASSWD: /usr/sbin/service *\n")
	o, _ := m.as("weak", "sudo -n /usr/sbin/service ../../srv/evil restart")
	m.works("a path for the name of a service", m.owned(), o)
}

func (m *target) polkit() {
	before := len(m.starts())
	if o, err := m.asKido("systemctl --no-ask-password restart web.service"); err != nil || len(m.starts())-before != 1 {
		m.t.Fatalf("control: what is granted is refused: %+v", o)
	}
	transient := func(unit string) string {
		return "systemd-run --no-ask-password --quiet --wait --unit " + unit + " " + mark
	}
	const ctl = "systemctl --no-ask-password "
	for _, script := range []string{
		transient("web.service"), transient("mine.service"), transient("other"),
		ctl + "start web.service", ctl + "start ssh.service", ctl + "restart ssh.service", ctl + "stop ssh.service",
		ctl + "kill web.service", ctl + "set-property --runtime web.service CPUWeight=1", ctl + "freeze web.service",
		ctl + "enable web.service", ctl + "mask web.service", ctl + "daemon-reload", ctl + "daemon-reexec", ctl + "isolate web.service",
		ctl + "set-environment LD_PRELOAD=/tmp/none.so", ctl + "link /srv/probe", ctl + "poweroff", ctl + "edit web.service",
	} {
		if o, err := m.asKido(script); err == nil || m.owned() {
			m.t.Errorf("%s: %+v", script, o)
		}
	}
	// A unit that is granted and has no file: its name is free for a transient one.
	m.Run(1, "sh", "-c", "mv /etc/systemd/system/other.service /srv/ && systemctl daemon-reload")
	m.t.Cleanup(func() {
		m.Run(1, "sh", "-c", "mv /srv/other.service /etc/systemd/system/ && systemctl daemon-reload")
	})
	if o, err := m.asKido(transient("other.service")); err == nil || m.owned() {
		m.t.Errorf("a transient unit of a granted name: %+v", o)
	}

	// The usual rule: it looks at the unit, and grants start. Up to systemd 256
	// the rule is asked without a unit; there the usual one does not look at it.
	rule := `if (action.lookup("unit") == "other.service" && action.lookup("verb") == "start")`
	if m.kind == Systemd {
		rule = ""
	}
	m.plant("/etc/polkit-1/rules.d/40-weak.rules", `polkit.addRule(function (action, subject) {
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "weak") { `+rule+` return polkit.Result.YES; }
});
`)
	m.Run(1, "chmod", "644", "/etc/polkit-1/rules.d/40-weak.rules")
	var o outcome
	m.Until("control: who may start a unit runs what he likes as root", func() bool { // polkitd sees the file soon
		o, _ = m.as("weak", transient("other.service"))
		return strings.TrimSpace(m.Run(1, "sh", "-c", "stat -c %U /tmp/owned 2>/dev/null || :")) == "root"
	})
	m.works("a transient unit", m.owned(), o)
}

func (m *target) tofu() {
	// Somebody else at the address: he has another host key.
	m.t.Cleanup(func() {
		m.Run(1, "sh", "-c", "cd /etc/ssh && mv kept/* . && rmdir kept && service ssh restart")
		m.Ready()
	})
	m.Run(1, "sh", "-c", `cd /etc/ssh && mkdir kept && mv ssh_host_* kept && ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key && service ssh restart`)
	m.Ready()
	said := m.op.must(3, "status", "web")
	if !strings.Contains(said, "the host's key has changed") {
		m.t.Errorf("kido status at a host with another key:\n%s", said)
	}
	pins := m.op.path("known_hosts")
	old, err := os.ReadFile(pins)
	if err != nil {
		m.t.Fatal(err)
	}
	defer m.op.write("known_hosts", 0o644, old)
	m.op.write("known_hosts", 0o644, nil)
	said = m.op.must(3, "status", "web")
	if now, err := os.ReadFile(pins); !strings.Contains(said, "pin") || err != nil || len(now) > 0 {
		m.t.Errorf("kido status at a host with no key on record, then %q on record, %v:\n%s", now, err, said)
	}
	m.weak("KEY")
	trusting := *m
	trusting.pins = m.op.path("trusted")
	o := trusting.ssh("-o", "StrictHostKeyChecking=accept-new", weakUser, mark)
	m.works("a host that is trusted on first use", m.owned(), o)
}

// elsewhere gives the tester's port a second address until the subtest ends.
func (m *target) elsewhere(address string) {
	m.t.Helper()
	change := func(verb string) {
		if out, err := m.Net("ip", "address", verb, address+"/24", "dev", "br0").CombinedOutput(); err != nil {
			m.t.Fatalf("%v: %s", err, out)
		}
	}
	m.t.Cleanup(func() { change("del") })
	change("add")
}

func (m *target) stolenKey() {
	const elsewhere = "198.51.100.253"
	m.elsewhere(elsewhere)
	m.shut("from another address", m.ssh("-b", elsewhere, kidoUser, wire.Command))
	m.weak("KEY")
	o := m.ssh("-b", elsewhere, weakUser, mark)
	m.works("from another address", m.owned(), o)
	m.weak("")
	for _, user := range []string{rootUser, weakUser} {
		m.shut("as another user", m.ssh(user, mark))
	}
	// And from the right one it may do what its host needs, and nothing else.
	s := m.status()
	before := len(m.starts())
	for _, verb := range wire.Verbs() {
		service := "web"
		if verb == wire.VerbStatus || verb == wire.VerbProbe || verb == wire.VerbEnsure { // of web it may
			service = "other"
		}
		q := wire.Request{Verb: verb, Service: service, Own: s.Token, Generation: s.Generation, Member: service + "@web1"}
		m.refused(fmt.Sprintf("%s of %s", verb, service), m.send(string(q.Format()), kidoUser, wire.Command))
	}
	if n := len(m.starts()); n != before {
		m.t.Errorf("services were started: %q", m.starts()[before:])
	}
}

func (m *target) revocation() {
	lost := m.newKey("lost")
	if err := os.MkdirAll(m.op.path("keys/people"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	m.op.write("keys/people/lost.pub", 0o644, []byte(`from="198.51.100.254" `+lost+"\n"))
	m.op.enroll("web1")
	thief := m.by("lost")
	thief.weak("KEY")
	thief.status()
	over := []string{"-S", thief.master(kidoUser, "open")}
	shell := thief.master(weakUser, "shell")
	if s := thief.status(over...); !s.Ready {
		m.t.Errorf("control: over the open connection: %+v", s)
	}

	// Of the site's hosts only one answers, and that is told.
	if said := m.op.must(3, append([]string{"keys", "revoke", "people/lost"}, m.op.enrollArgs("root@%a")[1:]...)...); !strings.Contains(said, "db1") {
		m.t.Errorf("kido keys revoke does not name the host that it could not reach:\n%s", said)
	}
	m.Run(1, "sh", "-c", "rm /home/weak/.ssh/authorized_keys")
	m.shut("a revoked key", thief.ssh(kidoUser, wire.Command))
	m.shut("a revoked key", thief.ssh(weakUser, mark))
	q := wire.Request{Verb: wire.VerbStatus, Service: "web"}
	thief.refused("a revoked key over an open connection", thief.send(string(q.Format()), append(over, kidoUser, wire.Command)...))
	o := thief.ssh("-S", shell, weakUser, mark)
	m.works("a connection that is open when its key is taken away", m.owned(), o)
	m.status()
}

func (m *target) lockout() {
	const elsewhere = "198.51.100.252"
	m.elsewhere(elsewhere)
	m.newKey("stranger")
	m.weak("KEY")
	for range 12 {
		m.shut("a strange key", m.by("stranger").ssh(kidoUser, wire.Command))
		m.by("stranger").ssh("-b", elsewhere, weakUser, mark)
	}
	m.status()
	penalties := strings.Contains(m.Run(1, "/usr/sbin/sshd", "-T"), "persourcepenalties ")
	var o outcome
	m.Until("control: bad tries have the good key shut out, where sshd counts them", func() bool { // not for long: they are forgiven by the second
		m.by("stranger").ssh("-b", elsewhere, weakUser, mark)
		o = m.ssh("-b", elsewhere, weakUser, mark)
		return m.owned() != penalties
	})
	m.works("bad tries have the good key shut out", o.status == 0 != penalties, o)
}

func (m *target) accountState() {
	fields := strings.Split(strings.TrimSpace(m.Run(1, "getent", "shadow", "kido")), ":")
	if len(fields) != 9 || fields[1] != "*" || fields[4] != "" || fields[6] != "" || fields[7] != "" {
		m.t.Errorf("the account can be locked out by time or a lock: %q", fields)
	}
	sloppy := m.sloppy("UsePAM=no")
	if s := sloppy.status(); !s.Ready {
		m.t.Errorf("where sshd asks no PAM: %+v", s)
	}
	m.weak("KEY")
	m.t.Cleanup(func() { m.Run(1, "usermod", "-p", "*", "-e", "", "weak") })
	m.Run(1, "usermod", "-p", "!", "weak")
	o := sloppy.ssh(weakUser, mark)
	m.works("a locked account is kept out", !m.owned(), o)
	m.Run(1, "usermod", "-p", "*", "-e", "1970-01-02", "weak")
	o = m.ssh(weakUser, mark)
	m.works("an account that has expired is kept out", !m.owned(), o)

	// Not defended against: who says that nobody is to log in says it to kido, too.
	m.plant("/run/nologin", "")
	m.shut("while nobody may log in", m.ssh(kidoUser, wire.Command))
}
