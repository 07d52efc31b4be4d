package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kido/internal/keys"
)

// operator is the administrator of a lab's site: a folder on this machine with
// the site file and its keys, from where kido is run over the lab's network.
type operator struct {
	t   testing.TB
	lab *Lab
	dir string
}

// enrol writes a site file and has kido enroll bring it to all hosts.
func enrol(t testing.TB, l *Lab, site string) *operator {
	t.Helper()
	o := newOperator(t, l, site)
	o.enroll()
	return o
}

// newOperator writes a site file, and gives the operator's own ssh leave to log
// in as root, and the machines' host keys; kido has nothing of either yet.
func newOperator(t testing.TB, l *Lab, site string) *operator {
	t.Helper()
	o := &operator{t: t, lab: l, dir: t.TempDir()}
	for name, pkg := range map[string]string{"kido": "kido/cmd/kido", "kido-gate": "kido/cmd/kido-gate"} {
		o.write(name, 0o755, Program(t, pkg))
	}
	o.write("site.yaml", 0o644, []byte(site))
	public, err := keys.New(o.path("login"), "the administrator's own")
	if err != nil {
		t.Fatal(err)
	}
	var known strings.Builder
	for host := 1; host <= l.size; host++ {
		l.Run(host, "sh", "-c", `echo "$1" >>/root/.ssh/authorized_keys`, "sh", public)
		known.WriteString(l.Addr(host) + " " + string(l.Get(host, "/etc/ssh/ssh_host_ed25519_key.pub")))
	}
	o.write("login_hosts", 0o644, []byte(known.String()))
	return o
}

func (o *operator) path(name string) string { return filepath.Join(o.dir, name) }

func (o *operator) write(name string, mode os.FileMode, content []byte) {
	o.t.Helper()
	if err := os.WriteFile(o.path(name), content, mode); err != nil {
		o.t.Fatal(err)
	}
}

// enroll runs kido enroll for hosts, all if none is named.
func (o *operator) enroll(hosts ...string) string {
	o.t.Helper()
	return o.must(0, append(o.enrollArgs("root@%a"), hosts...)...)
}

// enrollArgs are the words of kido enroll by the administrator's own ssh.
func (o *operator) enrollArgs(to string) []string {
	return []string{"enroll", "--to", to, "--ssh", strings.Join(o.ssh(), " ")}
}

func (o *operator) ssh() []string {
	return []string{"ssh", "-F", "none", "-i", o.path("login"), "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=" + o.path("login_hosts")}
}

// login fails the test where the administrator cannot log in to a machine.
func (o *operator) login(host int) {
	o.t.Helper()
	if out, err := o.lab.Net(append(o.ssh(), "root@"+o.lab.Addr(host), "true")...).CombinedOutput(); err != nil {
		o.t.Errorf("the administrator cannot log in to machine %d: %v\n%s", host, err, out)
	}
}

// kido is a run of kido by the operator.
func (o *operator) kido(args ...string) *exec.Cmd {
	return o.lab.Net(append([]string{o.path("kido"), "--site", o.path("site.yaml"), "--state", o.path("state"), "--here", "none"}, args...)...)
}

// must runs kido, which must end with a status, and returns all that it says.
func (o *operator) must(status int, args ...string) string {
	o.t.Helper()
	cmd := o.kido(args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		o.t.Fatalf("kido %s: %v, want exit status %d\n%s", strings.Join(args, " "), err, status, out)
	}
	return string(out)
}

// allFresh waits until every instance is ready and fresh, as the operator sees it.
func (o *operator) allFresh() {
	o.t.Helper()
	var last []byte
	defer func() {
		if o.t.Failed() {
			o.t.Logf("kido status said last:\n%s", last)
		}
	}()
	o.lab.Until("all are ready and fresh", func() bool {
		var err error
		last, err = o.kido("status").CombinedOutput()
		return err == nil && !strings.Contains(string(last), "not fresh")
	})
}
