package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kido/internal/failpoint"
	"kido/internal/initsys"
	"kido/internal/probe"
	"kido/internal/wire"
)

// DefaultPolicy is where a gate looks for its policy.
const DefaultPolicy = "/etc/kido/policy"

// patience is how long a client may take to send its request, and how long to
// take the reply.
const patience = 15 * time.Second

const usage = `kido-gate is all that a kido key can run at a host.

sshd starts it, as the forced command of a key (command="…") or as the login
shell of the user kido; it reads one request from standard input, does what
the policy of this host grants to that key, answers, and ends.

  kido-gate [--policy FILE]           answer one request
  kido-gate --check [--policy FILE]   say all that is wrong with the policy, and
                                      whether others could change it, the keys,
                                      this program or the state folder
  kido-gate --wait SERVICE            hold the start of SERVICE at boot until what
                                      it needs is ready; 1: do not start it

Where root runs it, it becomes the user who owns the state folder.
The policy is /etc/kido/policy unless FILE is given; ` + "`kido policy HOST`" + ` prints
what belongs there.
`

// sshdNames are all that a gate takes from its environment.
var sshdNames = []string{"SSH_USER_AUTH", "SSH_CONNECTION", "SSH_CLIENT", "SSH_ORIGINAL_COMMAND"}

// Main is the program kido-gate; it returns its exit status: 0 when a reply
// was written, 1 when not, 2 for a call that cannot be understood.
func Main(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	initsys.RunChild() // does not return where this process is the child of a job
	p, err := begin(stdin, stdout, stderr)
	if err != nil {
		fmt.Fprintln(p.stderr, "kido-gate:", err)
		return 1
	}
	return p.main(args)
}

// begin takes from around this process what it needs, and gets rid of the rest.
func begin(stdin *os.File, stdout, stderr io.Writer) (process, error) {
	p := process{
		env: map[string]string{}, stdin: stdin, stdout: outlet(stdout), stderr: outlet(stderr),
		logs: logSockets, patience: patience,
	}
	for _, name := range sshdNames {
		p.env[name] = os.Getenv(name)
	}
	// What a client has a say in, by AcceptEnv, reaches no library of this process,
	// and no child of it a descriptor that sshd or those before it have left open.
	os.Clearenv()
	syscall.Umask(0o022) // of probes; our own files have modes of their own
	err := initsys.CloseOnExec()
	if err == nil {
		p.program, err = os.Executable()
	}
	return p, err
}

// outlet is a file to write to of which the other end may be gone: a Go program
// ends by SIGPIPE, without a word in the log, where that is so of its descriptors
// 1 and 2, of any other it is told. (To ignore the signal would be to have all
// children ignore it.)
func outlet(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return w
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return io.Discard // it is closed
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), f.Name())
}

// process is one run of the program, with all that it takes from around it.
type process struct {
	env            map[string]string // sshdNames
	stdin          io.Reader
	stdout, stderr io.Writer
	program        string        // the file that it runs
	logs           []string      // sockets of the system's log
	patience       time.Duration // for a client to send its request, and again to take the reply
}

func (p process) main(args []string) int {
	c, err := parseArgs(args)
	if err != nil {
		fmt.Fprintln(p.stderr, "kido-gate:", err)
		return 2
	}
	return p.run(c)
}

func (p process) run(c call) int {
	if c.help {
		fmt.Fprint(p.stdout, usage)
		return 0
	}
	policy, err := LoadPolicy(c.policy)
	if c.check {
		return p.check(c.policy, policy, err)
	}
	if err == nil {
		err = becomeOwner(policy.State)
	}
	if err == nil {
		if faults := inspect(p.program, keysOf(c.policy), ownerOf(c.policy)); len(faults) > 0 {
			err = faults[0]
		}
	}
	if err == nil {
		dropRights(policy)
	}
	if c.wait != "" {
		return wait(policy, err, c.wait, p.stderr)
	}
	s := session{process: p, policy: policy}
	defer s.leave()
	s.serve(err)
	failpoint.Hit("gate.before.reply")
	_, err = within(p.patience, func() (int, error) { return p.stdout.Write(fit(s.reply).Format()) })
	s.record()
	if err != nil {
		return 1
	}
	return 0
}

// check says all that is wrong with the policy and with who could change what
// the gate goes by.
func (p process) check(file string, policy *Policy, err error) int {
	var faults []error
	uid := uint32(os.Geteuid())
	if err != nil {
		faults = append(faults, err)
	} else if info, err := os.Lstat(policy.State); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && uid == 0 {
			uid = st.Uid // whom it will become
		}
		if err := inspectState(policy.State, uid); err != nil {
			faults = append(faults, err)
		}
	}
	faults = append(faults, inspect(p.program, keysOf(file), ownerOf(file))...)
	for _, err := range faults {
		fmt.Fprintln(p.stderr, "kido-gate:", err)
	}
	if len(faults) > 0 {
		return 1
	}
	fmt.Fprintf(p.stdout, "%s: good: host %s, %d services, %d grants\n", file, wire.Quote(policy.Host), len(policy.Services), len(policy.Grants))
	return 0
}

// dropRights gives up, for this process and its children, what a program gets by
// being set-uid or by capabilities of its file; no_new_privs, in the kernel's
// words. That can be only where no child is to use it: sudo does, an init script,
// a command and the daemons that they leave behind may, and a probe of the
// administrator's own. So it is where systemd acts by itself.
func dropRights(p *Policy) {
	const setNoNewPrivs = 38 // PR_SET_NO_NEW_PRIVS, for which package syscall has no name
	if len(p.Become) > 0 || p.Systemctl != "" {
		return
	}
	own := func(s probe.Spec) bool { return s.Uses(probe.KindExec) }
	for _, s := range p.Services {
		if s.Adapter != adapterSystemd && s.Adapter != adapterExternal || slices.ContainsFunc(s.Ready, own) {
			return
		}
	}
	for _, w := range p.Watches {
		if slices.ContainsFunc(w.Ready, own) {
			return
		}
	}
	// It is each thread's own, and they are all to have it. A kernel older than 3.5
	// has none to give up, and nothing rests on this.
	_, _, _ = syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, setNoNewPrivs, 1, 0, 0, 0, 0)
}

// becomeOwner makes root the user who owns the state folder: what a hook of this
// host's init or a run of kido here does, it does with the rights that the keys
// have, and leaves no file behind that they could not read.
func becomeOwner(state string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(state)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it is going to be made, and root's
	}
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return nil
	}
	for _, err := range []error{syscall.Setgroups(groupsOf(st)), syscall.Setgid(int(st.Gid)), syscall.Setuid(int(st.Uid))} {
		if err != nil {
			return fmt.Errorf("cannot become uid %d, who owns %s: %w", st.Uid, state, err)
		}
	}
	return nil
}

// groupsOf lists the groups of a file's owner, as a login would: one may let him
// see /proc, or run a probe.
func groupsOf(st *syscall.Stat_t) []int {
	groups := []int{int(st.Gid)}
	u, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10))
	if err != nil {
		return groups
	}
	ids, _ := u.GroupIds()
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil {
			groups = append(groups, gid)
		}
	}
	return groups
}

// wait holds the start of a service; its exit status says whether to start it.
func wait(policy *Policy, err error, service string, stderr io.Writer) int {
	say := func(word string) {
		if word != "" {
			fmt.Fprintf(stderr, "kido-gate: %s: %s\n", wire.Quote(service), word)
		}
	}
	// What is wrong with the hook must not keep a service down: it starts as it
	// would without kido, and what it owes is paid by the next run.
	fail := func(err error) int {
		say(err.Error() + ": it is not held")
		return 0
	}
	if err != nil {
		return fail(err)
	}
	g, err := Open(policy, probe.Local{Program: policy.Prober})
	if err != nil {
		return fail(err)
	}
	defer g.Close()
	start, err := g.Hold(context.Background(), service, say)
	switch {
	case err != nil:
		return fail(err)
	case !start:
		return 1
	}
	return 0
}

type call struct {
	policy      string
	wait        string // the service whose start is to be held
	check, help bool
}

// parseArgs reads the command line. As a login shell the gate is called with
// -c and the forced command; what that says is not looked at, for a key without
// a forced command could say anything.
func parseArgs(args []string) (call, error) {
	c := call{policy: DefaultPolicy}
	if len(args) == 2 && args[0] == "-c" {
		return c, nil
	}
	for i := 0; i < len(args); i++ {
		switch name, value, has := strings.Cut(args[i], "="); {
		case name == "--check" && !has:
			c.check = true
		case (name == "--help" || name == "-h") && !has:
			c.help = true
		case name == "--wait" && !has && i+1 < len(args):
			i++
			c.wait = args[i]
		case name == "--policy" && has:
			c.policy = value
		case name == "--policy" && i+1 < len(args):
			i++
			c.policy = args[i]
		default:
			return c, fmt.Errorf("%s is not understood: see kido-gate --help", wire.Quote(args[i]))
		}
	}
	return c, nil
}

// session is one request and what comes of it.
type session struct {
	process
	policy  *Policy // nil where it cannot be used
	gate    *Gate
	place   *os.File // see Gate.admit
	who     Caller
	request wire.Request
	reply   wire.Reply
	why     string // for the log, where that is more than the reply says
}

// serve finds out who asks for what, and has it done. broken says why this gate
// can do nothing.
func (s *session) serve(broken error) {
	env := func(name string) string { return s.env[name] }
	refuse := func(code wire.Code, err error) { s.reply = wire.Reply{Code: code, Word: err.Error()} }
	var err error
	if s.who, err = Who(env); err != nil {
		s.who = Caller{Peer: peer(env)}
		refuse(wire.CodeRefused, err)
		return
	}
	if broken != nil {
		// The words may be the policy's own: a key learns that it is bad, the
		// log and whoever is at this host learn why.
		if s.who.Identity != IdentityLocal {
			s.why, broken = broken.Error(), errors.New("the gate of this host cannot be used: kido-gate --check there says why")
		}
		refuse(wire.CodeError, broken)
		return
	}
	if said := s.env["SSH_ORIGINAL_COMMAND"]; s.who.Identity != IdentityLocal && said != wire.Command {
		refuse(wire.CodeInvalid, fmt.Errorf("this key runs kido requests and nothing else; it was asked for %s", wire.Quote(cut(said, 100))))
		return
	}
	if s.gate, err = Open(s.policy, probe.Local{Program: s.policy.Prober}); err != nil {
		refuse(wire.CodeError, err)
		return
	}
	// Before the request is read: one that comes slowly counts, too.
	switch s.place, err = s.gate.admit(context.Background(), s.policy.Principal(s.who.Identity)); {
	case errors.Is(err, errCrowded):
		refuse(wire.CodeBusy, err)
		return
	case err != nil:
		refuse(wire.CodeError, err)
		return
	}
	text, err := within(s.patience, func() ([]byte, error) { return wire.ReadAll(s.stdin, wire.MaxRequest) })
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("the request did not come in time")
	}
	if err == nil {
		s.request, err = wire.ParseRequest(text)
	}
	if err != nil {
		refuse(wire.CodeInvalid, err)
		return
	}
	s.reply = s.gate.Serve(context.Background(), s.who, s.request)
}

// leave gives back what the session holds open.
func (s *session) leave() {
	if s.place != nil {
		s.place.Close()
	}
	if s.gate != nil {
		s.gate.Close()
	}
}

// record says in the system's log who asked for what and what came of it. It
// comes after the reply, for which nobody is to wait longer. Mere looks that were
// answered are not logged.
func (s *session) record() {
	if s.reply.Code == wire.CodeOK {
		return
	}
	who, why := "", s.why
	if s.policy != nil {
		who = s.policy.Principal(s.who.Identity)
	}
	if why == "" {
		why = s.reply.Word
	}
	tell(s.logs, logLine("who", who, "key", s.who.Identity, "from", s.who.Peer, "run", s.request.Run, "verb", string(s.request.Verb),
		"service", s.request.Service, "result", string(s.reply.Code), "why", why))
}

// within gives f so long and no longer. What takes longer is left to itself, and
// ends with the process: that works for whatever the descriptors are, where a
// deadline needs one that can be polled, and nobody else's.
func within[T any](limit time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(limit):
		var none T
		return none, os.ErrDeadlineExceeded
	}
}

// fit keeps a reply within what a runner takes: words are for people, and the
// first to go.
func fit(r wire.Reply) wire.Reply {
	r.Word, r.Output = cut(r.Word, 1024), cutFront(r.Output, 2048)
	if r.Status != nil {
		s := *r.Status
		s.Word = cut(s.Word, 1024)
		r.Status = &s
		if len(s.Held) > 0 && len(r.Format()) > wire.MaxReply {
			s.Held = nil
		}
	}
	if len(r.Probes) > 0 && len(r.Format()) > wire.MaxReply {
		r.Probes = nil // the status has the word that counts
	}
	if len(r.Format()) > wire.MaxReply {
		return wire.Reply{Code: wire.CodeError, Word: "the reply is too long: the basis has too many entries"}
	}
	return r
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func cutFront(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + strings.ToValidUTF8(s[len(s)-n:], "")
}
