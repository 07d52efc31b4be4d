package gate

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
	"kido/internal/wire"
)

// FuzzSession gives a gate all that anybody could: what sshd passes on from a
// client, its command line, and every file that it reads. It must not panic,
// start a process, touch anything but its state folder, answer what is no reply,
// or let a key do what it has no grant for; and what it refuses a key is one line
// in the log.
func FuzzSession(f *testing.F) {
	s := newSandbox(f)
	request := func(q wire.Request) []byte { q.Service = "web"; return q.Format() }
	for _, stdin := range [][]byte{
		request(wire.Request{Verb: wire.VerbStatus}),
		request(wire.Request{Verb: wire.VerbEnsure, Run: "r", Expect: vector("a"), New: vector("b"), Generation: 7, Timeout: time.Minute}),
		request(wire.Request{Verb: wire.VerbFence, Run: "r", Generation: 3}),
		request(wire.Request{Verb: wire.VerbTake, Run: "r", Member: "web@web1", Most: 1, Generation: 1}),
		request(wire.Request{Verb: wire.VerbGive, Run: "r", Member: "web@web1", Generation: 1}),
		request(wire.Request{Verb: wire.VerbRelease, Member: "web@web1"}),
		request(wire.Request{Verb: wire.VerbRelease}),
		wire.Request{Verb: wire.VerbProbe, Service: "oracle@db1"}.Format(),
		[]byte("kido/1 request status web\n"),
		bytes.Repeat([]byte("x"), wire.MaxRequest+1),
	} {
		f.Add("", wire.Command, "", fuzzKey, stdin, fuzzPolicy, sampleRecord().Format(), somePools()[0].Format(), uint8(0), uint8(0))
	}
	for place := range uint8(len(fuzzNames)) {
		f.Add("", wire.Command, "", fuzzKey, request(wire.Request{Verb: wire.VerbTake, Run: "r", Member: "web@web1", Most: 1}), fuzzPolicy, []byte{}, []byte{}, place, place%7)
	}
	for _, args := range []string{"--check", "--wait\x00web", "--help", "-c\x00kido/1", "--policy=/etc/passwd\x00--check", "--child\x00run /bin/true"} {
		f.Add(args, wire.Command, "SSH_USER_AUTH=/proc/self/environ\nSSH_CONNECTION=\x1b[2J", fuzzKey, []byte("x"), fuzzPolicy, []byte("sum 0\n"), []byte{0xff}, uint8(0), uint8(0))
	}
	f.Add("", "$(id)\n\x1b\xff", "SSH_CONNECTION=192.0.2.7 1 192.0.2.1 22", "password\n"+fuzzKey, []byte("x"), "kido-policy 1\nhost \x1b\n", []byte{}, []byte{}, uint8(0), uint8(0))
	f.Add("", strings.Repeat("\x1b\xff", 65000), "SSH_USER_AUTH=", "", []byte{}, fuzzPolicy, []byte{}, []byte{}, uint8(0), uint8(0))

	f.Fuzz(func(t *testing.T, args, said, env, auth string, stdin []byte, policy string, state, pool []byte, place, what uint8) {
		granted := s.furnish(t, auth, policy, state, pool, fuzzNames[int(place)%len(fuzzNames)], what)
		before, children := s.outside(t), reaped(t)

		var stdout, stderr bytes.Buffer
		p := process{
			env: map[string]string{"SSH_ORIGINAL_COMMAND": said, "SSH_USER_AUTH": s.auth}, stdin: bytes.NewReader(stdin), stdout: &stdout, stderr: &stderr,
			program: s.program, logs: []string{s.socket}, patience: time.Hour,
		}
		for line := range strings.SplitSeq(env, "\n") {
			if name, value, _ := strings.Cut(line, "="); slices.Contains(sshdNames, name) {
				p.env[name] = value
			}
		}
		c, err := parseArgs(strings.Split(args, "\x00"))
		if args == "" {
			c, err = parseArgs(nil)
		}
		if err != nil {
			return // nothing else has been looked at
		}
		c.policy = s.policy
		code := p.run(c)

		if left := s.outside(t); left != before {
			t.Errorf("outside of its state folder there was\n%s\nand is\n%s", before, left)
		}
		if now := reaped(t); now != children {
			t.Errorf("it has started a process: %s, was %s", now, children)
		}
		if code < 0 || code > 2 {
			t.Errorf("exit status %d", code)
		}
		lines := s.logged(t)
		if c.check || c.help || c.wait != "" {
			return
		}
		reply, err := wire.ParseReply(stdout.Bytes())
		if err != nil {
			t.Fatalf("%v: %q", err, &stdout)
		}
		if (reply.Code == wire.CodeOK) != (len(lines) == 0) || len(lines) > 1 {
			t.Errorf("%s, and in the log %q", reply.Code, lines)
		}
		switch reply.Code {
		case wire.CodeRefused, wire.CodeInvalid, wire.CodeError, wire.CodeBusy:
			return
		}
		q, err := wire.ParseRequest(stdin)
		who, werr := Who(func(name string) string { return p.env[name] })
		switch {
		case err != nil || werr != nil || granted == nil:
			t.Errorf("%s: %v, %v, policy %v", reply.Code, err, werr, granted)
		case granted.Authorise(who, q.Verb, q.Service) != nil:
			t.Errorf("%s: %s of %s is not granted to %+v", reply.Code, q.Verb, q.Service, who)
		case who.Identity != IdentityLocal && p.env["SSH_ORIGINAL_COMMAND"] != wire.Command:
			t.Errorf("%s: for the command %q", reply.Code, said)
		}
	})
}

var (
	fuzzKey    = "publickey ssh-ed25519 " + blob("ssh-ed25519", strings.Repeat("m", 32)) + "\n"
	fuzzPolicy = `kido-policy 1
host web1
service web command
  start /bin/false
  stop /bin/false
  pidfile /run/x
watch oracle@db1
  ready tcp 127.0.0.1:1
principal mine SHA256:AvXjgfktLR0ARtLMy3GZ9hTOV9OwNEmW9E/PYVeO5zw
principal here local
principal any unexposed
grant mine web status fence take give release
grant mine oracle@db1 probe
grant here web status
grant any web status
`
	// fuzzNames are those of files in the state folder in whose place something
	// is put.
	fuzzNames = []string{
		"", "web.state", "web.state.new", "web.state.unreadable", "web.lock", "web.wait", "web.out",
		"web.pool", "web.pool.new", "web.pool.unreadable", "web.pool.lock", ".gates.mine", ".gates.here", ".gates.",
	}
)

// sandbox is the folder that a gate is let loose in.
type sandbox struct {
	dir, state, policy, auth, program, socket, secret string
	log                                               *net.UnixConn
}

func newSandbox(f *testing.F) *sandbox {
	dir := realTempDir(f)
	in := func(name string) string { return filepath.Join(dir, name) }
	s := &sandbox{dir: dir, state: in("state"), policy: in("policy"), auth: in("auth"), program: in("program"), socket: in("log"), secret: in("secret")}
	must(f, os.WriteFile(s.program, nil, 0o700))
	must(f, os.WriteFile(s.secret, []byte("somebody else's\n"), 0o600))
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: s.socket})
	must(f, err)
	f.Cleanup(func() { log.Close() })
	s.log = log
	is, _, err := authKey(fuzzKey)
	must(f, err)
	fuzzPolicy = regexp.MustCompile(`SHA256:\S+`).ReplaceAllString(fuzzPolicy, is)
	return s
}

// furnish puts the files there, and returns the policy if it is one. Whoever
// writes a policy may have processes started and chooses the state folder; so one
// that is good is made to do neither.
func (s *sandbox) furnish(t *testing.T, auth, text string, state, pool []byte, name string, what uint8) *Policy {
	t.Helper()
	must(t, os.RemoveAll(s.state))
	must(t, os.Mkdir(s.state, 0o700))
	policy, err := ParsePolicy(text)
	if err == nil {
		text = s.tame(policy)
		for _, v := range policy.Services[:min(2, len(policy.Services))] {
			for file, content := range map[string][]byte{".state": state, ".pool": pool} {
				if len(content) > 0 {
					must(t, os.WriteFile(filepath.Join(s.state, v.Name+file), content, 0o600))
				}
			}
		}
	}
	must(t, os.WriteFile(s.policy, []byte(text), 0o600))
	must(t, os.WriteFile(s.auth, []byte(auth), 0o600))
	if name != "" {
		at := filepath.Join(s.state, name)
		must(t, os.RemoveAll(at))
		all := slices.Sorted(func(yield func(string) bool) {
			for kind := range planted {
				if !yield(kind) {
					return
				}
			}
		})
		must(t, planted[all[int(what)%len(all)]](s.secret, at))
	}
	return policy
}

// tame makes a policy one under which a gate starts nothing and writes nothing
// outside of the state folder, whoever asks for what.
func (s *sandbox) tame(p *Policy) string {
	p.State, p.Prober, p.Become, p.Systemctl, p.Timeout = s.state, "", nil, "", time.Millisecond
	for i, v := range p.Services {
		p.Services[i] = PolicyService{Name: v.Name, Adapter: adapterCommand, Start: []string{"/bin/false"}, Stop: []string{"/bin/false"}, PIDFile: s.dir + "/pid"}
	}
	for i := range p.Watches {
		p.Watches[i].Ready = []probe.Spec{{Kind: probe.KindTCP, Target: "127.0.0.1:1", Timeout: 10 * time.Millisecond}}
	}
	starts := []wire.Verb{wire.VerbEnsure, wire.VerbStart, wire.VerbStop, wire.VerbRestart, wire.VerbReload}
	for i := range p.Grants {
		p.Grants[i].Verbs = slices.DeleteFunc(p.Grants[i].Verbs, func(v wire.Verb) bool { return slices.Contains(starts, v) })
	}
	p.Grants = slices.DeleteFunc(p.Grants, func(g Grant) bool { return len(g.Verbs) == 0 })
	return p.Format()
}

// outside is all that is in the sandbox but the state folder.
func (s *sandbox) outside(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == s.state {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v", path, info.Mode())
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %v %q", info.ModTime(), text)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// logged is what has come into the log, each line held to its form.
func (s *sandbox) logged(t *testing.T) (lines []string) {
	t.Helper()
	raw, err := s.log.SyscallConn()
	must(t, err)
	must(t, raw.Read(func(fd uintptr) bool {
		b := make([]byte, 1<<16)
		for {
			n, err := syscall.Read(int(fd), b)
			if err != nil {
				return true
			}
			lines = append(lines, string(b[:n]))
		}
	}))
	for _, line := range lines {
		if !logForm.MatchString(line) || len(line) > 8*maxValue+200 {
			t.Errorf("in the log: %q", line)
		}
	}
	return lines
}

var logForm = regexp.MustCompile(`^<85>kido-gate\[\d+\]: who=[ -~]+\n$`)

// reaped tells of the processes that this one has ever started.
func reaped(t *testing.T) string {
	t.Helper()
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u))
	alive := ""
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	must(t, err)
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		alive += string(text)
	}
	return fmt.Sprint(u.Minflt, u.Maxrss, alive)
}
