package e2e

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"kido/internal/gate"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/remote/sshdtest"
	sitefile "kido/internal/site"
	"kido/internal/wire"
)

// argLogin is the first argument with which the test binary is the administrator's
// ssh, for kido enroll and what works as it does:
//
//	login BIN SITE [SSH-OPTION…] [-p PORT] -- ADDRESS SCRIPT
//
// It runs the script on this machine, but for two programs. What kido install
// would put into /etc and /usr goes into the folder of the host: what is in these
// files is kido's own (kido install --print). And the kido that is installed there
// is the one under test, with that folder for /etc/kido.
const argLogin = "login"

// The files of a host that is enrolled.
const (
	keysFile    = "kido_keys"
	revokedFile = "kido_revoked"
	offFile     = "off"  // while it is there nobody can log in
	hangFile    = "hang" // while it is there a login comes to nothing
)

// enrolledConfig has a host's sshd read the files that kido enroll brings.
func (s *site) enrolledConfig(t testing.TB, h *host) []string {
	t.Helper()
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(t, filepath.Join(h.dir, revokedFile), "")
	return []string{"AuthorizedKeysFile " + filepath.Join(h.dir, keysFile), "RevokedKeys " + filepath.Join(h.dir, revokedFile)}
}

func loginMain(args []string) {
	err := login(args[0], args[1], args[2:])
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ssh:", err)
		os.Exit(255)
	}
	os.Exit(0)
}

func login(bin, dir string, args []string) error {
	if args[0] == "install" {
		return installAt(bin, dir, args[1], args[slices.Index(args, "--here")+1])
	}
	n := slices.Index(args, "--")
	if len(args) != n+3 {
		return nil // ssh -O exit
	}
	s, err := sitefile.Load(filepath.Join(dir, "site.yaml"))
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.Hosts, func(h *sitefile.Host) bool { return h.Address == args[n+1] })
	if i < 0 {
		return fmt.Errorf("no such host: %s", args[n+1])
	}
	host := filepath.Join(dir, s.Hosts[i].Name)
	if _, err := os.Stat(filepath.Join(host, offFile)); err == nil {
		return errors.New("no route to host")
	}
	if _, err := os.Stat(filepath.Join(host, hangFile)); err == nil {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, os.Interrupt)
		<-stop
		return errors.New("interrupted")
	}
	me, err := os.Executable()
	if err != nil {
		return err
	}
	script := strings.NewReplacer(
		"s=sudo", "s=",
		install.KidoProgram+" keys rotate --site /etc/kido/site.yaml",
		fmt.Sprintf("%s/kido --policy %[2]s/policy keys rotate --site %[2]s/site.yaml", bin, host),
	).Replace(args[n+2])
	script = regexp.MustCompile(`(/\S+)/kido install `).ReplaceAllString(script, strings.Join([]string{me, argLogin, bin, dir, "install", "$1", ""}, " "))
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KIDO_FAILPOINT") }),
		"KIDO_FAILPOINT="+filepath.Join(host, "failpoint"), "KIDO_FAILPOINT_LOG="+filepath.Join(host, "passed"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// installAt does at a host what kido install would, with what was brought there.
func installAt(bin, dir, brought, name string) error {
	own, err := os.ReadFile(filepath.Join(dir, "site.yaml"))
	if err != nil {
		return err
	}
	// A host's gate runs as the user kido, and here as whoever tests.
	theirs := regexp.MustCompile(`(?m)^  user: .*$`).ReplaceAll(own, []byte("  user: kido"))
	if err := os.WriteFile(brought+"/site.yaml", theirs, 0o600); err != nil {
		return err
	}
	text, err := exec.Command(bin+"/kido", "install", "--print", "--init", "systemd", "-o", "json", "--site", brought+"/site.yaml", "--here", name).Output()
	if err != nil {
		return err
	}
	var r install.Result
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	host := filepath.Join(dir, name)
	files := map[string]string{"site.yaml": string(own)}
	for _, f := range r.Files {
		switch f.Path {
		case gate.DefaultPolicy:
			f.Text = strings.ReplaceAll(f.Text, filepath.Join(dir, "ROOT"), host)
			f.Text = strings.ReplaceAll(f.Text, "state "+gate.DefaultState+"\n", "state "+filepath.Join(host, "state")+"\n")
			files["policy"] = drop(f.Text, "become ")
		case "/etc/ssh/" + keysFile:
			command := fmt.Sprintf("KIDO_FAILPOINT=%s KIDO_FAILPOINT_LOG=%s exec %s --policy %s", host+"/failpoint", host+"/passed", bin+"/kido-gate", host+"/policy")
			f.Text = strings.ReplaceAll(f.Text, sshdtest.Command(install.GateProgram), sshdtest.Command(command))
			files[keysFile] = regexp.MustCompile(`from="[^"]*"`).ReplaceAllString(f.Text, `from="127.0.0.1"`)
		}
	}
	for from, to := range map[string]string{"keys/revoked": revokedFile, "known_hosts": "known_hosts"} {
		text, err := os.ReadFile(filepath.Join(brought, from))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		files[to] = string(text)
	}
	r = install.Result{Host: name, Changed: []string{}}
	for file, text := range files {
		draft := filepath.Join(host, file+".draft")
		if err := errors.Join(os.WriteFile(draft, []byte(text), 0o600), os.Rename(draft, filepath.Join(host, file))); err != nil {
			return err
		}
		r.Changed = append(r.Changed, file)
	}
	s, err := sitefile.Load(filepath.Join(host, "site.yaml"))
	if err != nil {
		return err
	}
	if len(install.Reach(s, name)) > 0 {
		if _, err := keys.New(s.Identity, "kido shop: "+name+" announces"); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		pair, err := keys.LoadRotation(s.Identity)
		if err != nil {
			return err
		}
		r.PublicKey, r.NextKey = pair.Current, pair.Next
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// byLogin are the words of a command that works at hosts by the administrator's ssh.
func (s *site) byLogin(t testing.TB, args ...string) []string {
	t.Helper()
	return append(args, "--programs", s.programs(t), "--ssh", strings.Join([]string{self(t), argLogin, bin, s.dir}, " "))
}

// programs are what is brought to a host, where nobody runs it: two files that are
// quicker to carry than those of kido.
func (s *site) programs(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(s.dir, "programs")
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	gate, err := elf.Open(gateProgram())
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	head := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(gate.Machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(head.Ident[:], []byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(gate.Data), byte(elf.EV_CURRENT)})
	var text bytes.Buffer
	if err := errors.Join(binary.Write(&text, gate.ByteOrder, head), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	s.write(t, filepath.Join(dir, "kido"), text.String())
	s.write(t, filepath.Join(dir, "kido-gate"), text.String())
	return dir
}

// enrolledSite is a database and web servers behind it, all up, as kido enroll
// sets it up.
func enrolledSite(t *testing.T, webs ...string) *site {
	t.Helper()
	s := newSite(t, layout{enrolled: true, units: []unit{
		{name: "db", on: []string{"db1"}},
		{name: "web", on: webs, after: []string{"db: restart"}},
	}})
	s.must(t, 0, s.byLogin(t, "enroll", "--later", "--from", "127.0.0.1")...)
	s.up(t)
	return s
}

// off takes a host off the network; on brings it back.
func (s *site) off(t testing.TB, h *host) {
	t.Helper()
	s.write(t, filepath.Join(h.dir, offFile), "")
	h.sshd.Stop()
}

func (s *site) on(t testing.TB, h *host) {
	t.Helper()
	if err := os.Remove(filepath.Join(h.dir, offFile)); err != nil {
		t.Fatal(err)
	}
	h.sshd.Restart()
}

// copyKey keeps a private key as a thief would.
func (s *site) copyKey(t testing.TB, path string) (stolen string) {
	t.Helper()
	stolen = filepath.Join(t.TempDir(), "stolen")
	s.write(t, stolen, s.read(t, path))
	return stolen
}

// takes reports whether a host's sshd lets a key in, and its gate answers.
func (s *site) takes(t testing.TB, h *host, key string) bool {
	t.Helper()
	service := map[string]string{"db1": "db"}[h.name]
	if service == "" {
		service = "web"
	}
	cmd := s.client(t, h, "-o", "ControlPath=none", h.addr, wire.Command)
	n := slices.Index(cmd.Args, "-i")
	cmd.Args[n+1] = key
	cmd.Stdin = bytes.NewReader(wire.Request{Verb: wire.VerbStatus, Service: service}.Format())
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && bytes.HasPrefix(out, []byte("kido/1 reply ok")):
		return true
	case err != nil && bytes.Contains(out, []byte("Permission denied")), bytes.HasPrefix(out, []byte("kido/1 reply refused")):
		return false
	}
	t.Fatalf("%s with the key %s: %v\n%s", h.name, key, err, out)
	return false
}

// taken fails the test unless exactly the hosts named take a key.
func (s *site) taken(t testing.TB, key string, by ...string) {
	t.Helper()
	for _, h := range s.hosts {
		if _, err := os.Stat(filepath.Join(h.dir, offFile)); err == nil {
			continue
		}
		if got, want := s.takes(t, h, key), slices.Contains(by, h.name); got != want {
			t.Errorf("%s takes the key %s: %v, want %v", h.name, filepath.Base(key), got, want)
		}
	}
}

// quiet fails the test where something lies beside a key that is at rest.
func (s *site) quiet(t testing.TB, key string) {
	t.Helper()
	for _, path := range keys.Files(key) {
		if _, err := os.Stat(path); err == nil && path != key && path != key+".pub" {
			t.Errorf("%s is left behind", path)
		}
	}
}

// TestRotate: the key of the administrator's machine, with a host off in between:
// nothing is removed before the next key was taken everywhere, both work until
// then, and after that the old one is nothing.
func TestRotate(t *testing.T) {
	t.Parallel()
	s := enrolledSite(t, "web1", "web2")
	n := len(s.history(t))
	key := filepath.Join(s.dir, "id_ed25519")
	stolen := s.copyKey(t, key)
	all := []string{"db1", "web1", "web2"}
	rotate := s.byLogin(t, "keys", "rotate", "--from", "127.0.0.1")

	web2 := s.host(t, "web2")
	s.off(t, web2)
	r := s.must(t, 3, rotate...)
	r.want(t, 3, "db1: takes the next key\n", "web1: takes the next key\n", "kido: web2: does not take the next key yet: web2 ",
		"kido: the next key is not taken yet at 1 of 3 places: web2\n", "hint: nothing that is in use was removed; the same command goes on")
	s.taken(t, key, "db1", "web1")
	s.taken(t, key+".next", "db1", "web1")
	if s.read(t, key) != s.read(t, stolen) {
		t.Error("the key in use has changed")
	}
	next := s.read(t, key+".next")

	s.on(t, web2)
	s.taken(t, key+".next", "db1", "web1") // web2 has not heard of it
	s.must(t, 0, rotate...).want(t, 0, "this machine: the next key is in use now: SHA256:", "this machine: revoked: SHA256:")
	if s.read(t, key) != next {
		t.Error("the key in use is not the one that was tried")
	}
	s.taken(t, key, all...)
	s.taken(t, stolen)
	s.quiet(t, key)
	if revoked := s.read(t, s.dir, "keys", "revoked"); strings.Count(revoked, "ssh-ed25519 ") != 1 || !strings.HasPrefix(revoked, "# retired on 20") {
		t.Errorf("the revoked keys:\n%s", revoked)
	}
	s.allFresh(t)

	// A next key is given up, and is nothing after that.
	s.off(t, web2)
	s.must(t, 3, rotate...)
	given := s.copyKey(t, key+".next")
	s.must(t, 3, append(rotate, "--abandon")...).want(t, 3, "the next key is given up", "may still be let in at 1 host: web2")
	s.on(t, web2)
	s.must(t, 0, append(rotate, "--abandon")...)
	s.taken(t, key, all...)
	s.taken(t, given)
	s.quiet(t, key)
	s.must(t, 0, append(rotate, "--abandon")...).want(t, 0, "this machine: there is no next key\n")
	s.since(t, n).counts(t, nil) // no service was touched
}

// TestRotateHost: the same for a host's own key, from the administrator's machine.
func TestRotateHost(t *testing.T) {
	t.Parallel()
	s := enrolledSite(t, "web1", "web2")
	n := len(s.history(t))
	db1, web2 := s.host(t, "db1"), s.host(t, "web2")
	key := filepath.Join(db1.dir, "id_ed25519")
	stolen := s.copyKey(t, key)
	reached := []string{"web1", "web2"}
	s.taken(t, key, reached...)

	s.off(t, web2)
	s.must(t, 3, s.byLogin(t, "keys", "rotate", "db1")...).want(t, 3, "web1: takes the next key\n", "not taken yet at 1 of 2 places: web2\n")
	s.taken(t, key, "web1")
	s.taken(t, key+".next", "web1")
	if ring := s.read(t, s.dir, "keys", "db1.pub"); strings.Count(ring, "ssh-ed25519 ") != 2 {
		t.Errorf("the keys of db1 in the overlap:\n%s", ring)
	}
	s.must(t, 0, s.byLogin(t, "enroll", "--later", "--from", "127.0.0.1", "db1", "web1")...) // is not in the way
	s.taken(t, key+".next", "web1")

	s.on(t, web2)
	r := s.must(t, 0, s.byLogin(t, "keys", "rotate", "db1", "-o", "json")...)
	var said struct {
		Keys []struct {
			Of, Current, Old string
			Done             bool
			Hosts            []struct{ Host string }
		}
	}
	if err := json.Unmarshal([]byte(r.out), &said); err != nil || len(said.Keys) != 1 || !said.Keys[0].Done || said.Keys[0].Of != "db1" || len(said.Keys[0].Hosts) != 2 {
		t.Errorf("%v: %s", err, r)
	}
	s.taken(t, key, reached...)
	s.taken(t, stolen)
	s.quiet(t, key)
	if ring := s.read(t, s.dir, "keys", "db1.pub"); strings.Count(ring, "ssh-ed25519 ") != 1 {
		t.Errorf("the keys of db1:\n%s", ring)
	}
	s.since(t, n).counts(t, nil)

	// A host that has no key, and one that cannot be reached.
	s.must(t, 2, s.byLogin(t, "keys", "rotate", "web1")...).want(t, 2, "web1 has no key of its own")
	s.off(t, db1)
	s.must(t, 3, s.byLogin(t, "keys", "rotate", "db1")...).want(t, 3, "ssh could not connect")
}

// TestRotateKilled kills kido by SIGKILL at every point that it passes while it
// changes a key, at the administrator's machine and at the host that has the key.
// Whatever was reached, the key in use works, and the same command completes it.
func TestRotateKilled(t *testing.T) {
	t.Parallel()
	const sites = 3
	free := make(chan *site, sites)
	for range sites {
		free <- enrolledSite(t, "web1")
	}
	for _, of := range []string{"", "db1"} {
		s := <-free
		kido, host := s.rotationPoints(t, of)
		free <- s
		if of != "" { // what is left is where the two know differently of one another
			kido = slices.DeleteFunc(kido, func(p string) bool {
				return !slices.Contains([]string{"cli.rotate.kept#1", "cli.rotate.finished#1", "cli.taken-out#1"}, p)
			})
		}
		for n, p := range append(kido, host...) {
			at := "kido"
			if n >= len(kido) {
				at = of
			}
			t.Run(strings.TrimSpace(of+" "+at+" at "+p), func(t *testing.T) {
				t.Parallel()
				s := <-free
				defer func() { free <- s }()
				s.killedRotation(t, of, at, p)
			})
		}
	}
}

func (s *site) rotation(t testing.TB, of string) (args []string, key string) {
	t.Helper()
	if of == "" {
		return s.byLogin(t, "keys", "rotate", "--from", "127.0.0.1"), filepath.Join(s.dir, "id_ed25519")
	}
	return s.byLogin(t, "keys", "rotate", of), filepath.Join(s.host(t, of).dir, "id_ed25519")
}

// rotationPoints are those that kido passes, here and at the host that has the key.
func (s *site) rotationPoints(t testing.TB, of string) (kido, host []string) {
	t.Helper()
	args, _ := s.rotation(t, of)
	passed := filepath.Join(s.dir, "passed-rotation")
	var at string
	if of != "" {
		at = s.host(t, of).passed
		if err := os.Remove(at); err != nil {
			t.Fatal(err)
		}
	}
	s.begin(t, []string{"KIDO_FAILPOINT_LOG=" + passed}, args...).end(t).want(t, 0)
	ours := func(file string) []string {
		return slices.DeleteFunc(unique(s.read(t, file)), func(p string) bool { return !strings.HasPrefix(p, "keys.") && !strings.HasPrefix(p, "cli.") })
	}
	kido = ours(passed)
	if of != "" {
		host = ours(at)
	}
	for _, want := range []string{"keys.begin.private#1", "keys.finish.noted#1", "keys.finish.private#1", "keys.closed#1", "cli.revoked#1"} {
		if !slices.Contains(append(kido, host...), want) {
			t.Fatalf("%s is not passed: %v %v", want, kido, host)
		}
	}
	return kido, host
}

func (s *site) killedRotation(t *testing.T, of, at, point string) {
	args, key := s.rotation(t, of)
	before := s.copyKey(t, key)
	file, env, code := filepath.Join(s.dir, "failpoint-rotation"), []string(nil), 3
	if at == "kido" {
		env, code = []string{"KIDO_FAILPOINT=" + file}, -1
	} else {
		file = s.host(t, at).failpoint
	}
	s.write(t, file, point)
	s.begin(t, env, args...).end(t).want(t, code)
	if _, err := os.Stat(file); err == nil {
		t.Fatalf("nothing was killed: %s is still there", file)
	}
	reached := []string{"db1", "web1"}
	if of != "" {
		reached = reached[1:]
	}
	// Of the public half OpenSSH's own client believes the file, so it gets the
	// private one alone.
	s.taken(t, s.copyKey(t, key), reached...)
	public, err := keys.Public(key)
	if err != nil || !strings.HasPrefix(public, s.publicOf(t, key)) {
		t.Errorf("the public key is %q (%v), the private one is that of %s", public, err, s.publicOf(t, key))
	}
	s.must(t, 0, args...)
	s.taken(t, key, reached...)
	s.quiet(t, key)
	if s.read(t, key) == s.read(t, before) {
		t.Error("the key is the same")
	}
	s.taken(t, before)
}

func (s *site) publicOf(t testing.TB, key string) string {
	t.Helper()
	signer, err := ssh.ParsePrivateKey([]byte(s.read(t, key)))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

// TestRevoke: a key is nothing at once wherever a host can be reached; one that
// cannot is named, and told by the same command; what is asked on a connection
// that was open before is refused; and what is revoked does not come back by
// itself.
func TestRevoke(t *testing.T) {
	t.Parallel()
	s := enrolledSite(t, "web1", "web2")
	db1, web1, web2 := s.host(t, "db1"), s.host(t, "web1"), s.host(t, "web2")
	key := filepath.Join(db1.dir, "id_ed25519")
	s.taken(t, key, "web1", "web2")
	open := s.dial(t, web1, key)
	if said := ask(t, open); !strings.HasPrefix(said, "kido/1 reply ok") {
		t.Fatalf("before: %s", said)
	}

	s.off(t, web2)
	revoke := s.byLogin(t, "keys", "revoke", "db1")
	s.must(t, 3, revoke...).want(t, 3, "revoked: SHA256:", "db1: done\n", "web1: done\n", "kido: web2: not done: ssh could not connect: ssh: no route to host",
		"sessions of the key that are open stay so", "kido: the key may still be taken at 1 host of 3: web2\n", "hint: the same command completes it")
	s.taken(t, key)
	if said := ask(t, open); !strings.HasPrefix(said, "kido/1 reply refused") {
		t.Errorf("on the open connection: %s", said)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "keys", "db1.pub")); err == nil {
		t.Error("the key is still in the ring")
	}

	s.on(t, web2)
	s.taken(t, key, "web2")
	r := s.must(t, 0, append(revoke, "-o", "json")...)
	var said struct {
		Name    string
		Revoked []string
		Hosts   []struct {
			Host string
			Done bool
		}
	}
	if err := json.Unmarshal([]byte(r.out), &said); err != nil || said.Name != "db1" || len(said.Revoked) != 1 || len(said.Hosts) != 3 || !said.Hosts[2].Done {
		t.Errorf("%v: %s", err, r)
	}
	s.taken(t, key)
	if n := strings.Count(s.read(t, s.dir, "keys", "revoked"), "ssh-ed25519 "); n != 1 {
		t.Errorf("%d keys are revoked", n)
	}
	s.must(t, 0, s.byLogin(t, "enroll", "--later", "--from", "127.0.0.1")...).want(t, 0, "warning: db1: its key is revoked")
	s.taken(t, key)
	s.must(t, 0, s.byLogin(t, "keys", "rotate", "db1")...)
	s.taken(t, key, "web1", "web2")

	// A host that hangs holds up no other.
	s.write(t, filepath.Join(web1.dir, hangFile), "")
	p := s.begin(t, nil, revoke...)
	until(t, "web2 has heard of it", func() bool { return !s.takes(t, web2, key) })
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.end(t).want(t, 130, "hint: the same command goes on")
	s.taken(t, key, "web1")
	if err := os.Remove(filepath.Join(web1.dir, hangFile)); err != nil {
		t.Fatal(err)
	}
	s.must(t, 0, revoke...)
	s.taken(t, key)
	s.must(t, 0, s.byLogin(t, "keys", "rotate", "db1")...)
	s.taken(t, key, "web1", "web2")

	// This machine's own: said, and mended by another.
	own := filepath.Join(s.dir, "id_ed25519")
	fingerprint, err := keys.Fingerprint(s.publicOf(t, own))
	if err != nil {
		t.Fatal(err)
	}
	s.must(t, 0, s.byLogin(t, "keys", "revoke", fingerprint)...).want(t, 0, "(people/operator-", "this is the key of this machine", "kido keys rotate")
	s.taken(t, own)
	s.must(t, 0, s.byLogin(t, "keys", "rotate", "--from", "127.0.0.1")...)
	s.taken(t, own, "db1", "web1", "web2")
	s.allFresh(t)

	s.must(t, 2, s.byLogin(t, "keys", "revoke", "SHA256:"+strings.Repeat("A", 43))...).want(t, 2, "no key with the fingerprint")
	s.must(t, 2, s.byLogin(t, "keys", "revoke", "people/nobody")...).want(t, 2, "no key of people/nobody is known")
	s.must(t, 2, s.byLogin(t, "keys", "revoke", "../site")...).want(t, 2, `no keys are kept as "../site"`)
	s.must(t, 2, s.byLogin(t, "keys", "revoke", own+".nowhere.pub")...).want(t, 2, "cannot read the public key")
}

// dial connects to a host with a key, and stays.
func (s *site) dial(t testing.TB, h *host, key string) *ssh.Client {
	t.Helper()
	signer, err := ssh.ParsePrivateKey([]byte(s.read(t, key)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", net.JoinHostPort(h.addr, fmt.Sprint(h.sshd.Port)), &ssh.ClientConfig{
		User: s.me, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(h.sshd.HostKey.Signer.PublicKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends one request on a connection.
func ask(t testing.TB, c *ssh.Client) string {
	t.Helper()
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	session.Stdin = bytes.NewReader(wire.Request{Verb: wire.VerbStatus, Service: "web"}.Format())
	out, err := session.Output(wire.Command)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestRotatePlain: where the key runs one command for whoever comes, the next key
// only logs in: that is not run. Its line is put there by hand, and until then the
// old key stays.
func TestRotatePlain(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{enrolled: true, units: []unit{
		{name: "db", on: []string{"db1"}},
		{name: "memo", on: []string{"old1"}, after: []string{"db: restart"}, plain: true},
	}})
	old1 := s.host(t, "old1")
	key, ran := filepath.Join(s.dir, "id_ed25519"), filepath.Join(old1.dir, "ran")
	byHand := func(keys ...string) {
		var lines strings.Builder
		for _, key := range keys {
			fmt.Fprintf(&lines, "restrict,%s %s\n", sshdtest.Command("touch "+ran), s.publicOf(t, key))
		}
		s.write(t, filepath.Join(old1.dir, keysFile), lines.String())
	}
	byHand(key)
	s.must(t, 0, s.byLogin(t, "enroll", "--later", "--from", "127.0.0.1")...)
	rotate := s.byLogin(t, "keys", "rotate", "--from", "127.0.0.1")
	s.must(t, 3, rotate...).want(t, 3, "db1: takes the next key\n", "kido: old1: does not take the next key yet: old1 ", "auth: ", "with the next key ("+key+".next.pub) in it")
	byHand(key, key+".next")
	s.must(t, 0, rotate...).want(t, 0, "old1: takes the next key\n", "take its line out of the key files there by hand: old1")
	if _, err := os.Stat(ran); err == nil {
		t.Error("the command was run")
	}
	s.quiet(t, key)
}
