package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"os/user"
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

// requestTime is how long a client may take to send its request.
const requestTime = 15 * time.Second

const usage = `kido-gate is all that a kido key can run at a host.

sshd starts it, as the forced command of a key (command="…") or as the login
shell of the user kido; it reads one request from standard input, does what
the policy of this host grants to that key, answers, and ends.

  kido-gate [--policy FILE]           answer one request
  kido-gate --check [--policy FILE]   say whether the policy is good
  kido-gate --wait SERVICE            hold the start of SERVICE at boot until what
                                      it needs is ready; 1: do not start it

Where root runs it, it becomes the user who owns the state folder.
The policy is /etc/kido/policy unless FILE is given; ` + "`kido policy HOST`" + ` prints
what belongs there.
`

// Main is the program kido-gate; it returns its exit status: 0 when a reply
// was written, 1 when not, 2 for a call that cannot be understood.
func Main(args []string, stdin *os.File, stdout, stderr io.Writer) int {
	initsys.RunChild() // does not return where this process is the child of a job
	c, err := parseArgs(args)
	if err != nil {
		fmt.Fprintln(stderr, "kido-gate:", err)
		return 2
	}
	if c.help {
		fmt.Fprint(stdout, usage)
		return 0
	}
	policy, err := LoadPolicy(c.policy)
	if c.check {
		if err != nil {
			fmt.Fprintln(stderr, "kido-gate:", err)
			return 1
		}
		fmt.Fprintf(stdout, "%s: good: host %s, %d services, %d grants\n", c.policy, wire.Quote(policy.Host), len(policy.Services), len(policy.Grants))
		return 0
	}
	if err == nil {
		err = becomeOwner(policy.State)
	}
	if c.wait != "" {
		return wait(policy, err, c.wait, stderr)
	}
	who, q, reply := session(policy, err, stdin)
	failpoint.Hit("gate.before.reply")
	err = answer(stdout, reply)
	record(who, q, reply)
	if err != nil {
		return 1
	}
	return 0
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

// answer writes the reply. The client may be gone: a write to a broken pipe on
// the standard output itself would end a Go program by SIGPIPE before it has
// told the log, on any other descriptor it is an error. (Package os/signal could
// ignore the signal, at a tenth of the gate's start-up.)
func answer(stdout io.Writer, r wire.Reply) error {
	if f, ok := stdout.(*os.File); ok {
		fd, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			return err
		}
		syscall.CloseOnExec(fd)
		out := os.NewFile(uintptr(fd), "standard output")
		defer out.Close()
		stdout = out
	}
	_, err := stdout.Write(fit(r).Format())
	return err
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

// session finds out who asks for what, and has it done.
func session(policy *Policy, policyErr error, stdin *os.File) (who Caller, q wire.Request, reply wire.Reply) {
	refuse := func(code wire.Code, err error) (Caller, wire.Request, wire.Reply) {
		return who, q, wire.Reply{Code: code, Word: err.Error()}
	}
	who, err := Who(os.Getenv)
	if err != nil {
		return refuse(wire.CodeRefused, err)
	}
	if policyErr != nil {
		// The words may be the policy's own: a key learns that it is bad, the
		// log and whoever is at this host learn why.
		if who.Identity != IdentityLocal {
			record(who, q, wire.Reply{Code: wire.CodeError, Word: policyErr.Error()})
			policyErr = errors.New("the policy of this host cannot be used: kido-gate --check there says why")
		}
		return refuse(wire.CodeError, policyErr)
	}
	if said := os.Getenv("SSH_ORIGINAL_COMMAND"); who.Identity != IdentityLocal && said != wire.Command {
		return refuse(wire.CodeInvalid, fmt.Errorf("this key runs kido requests and nothing else; it was asked for %s", wire.Quote(cut(said, 100))))
	}
	text, err := readRequest(stdin)
	if err == nil {
		q, err = wire.ParseRequest(text)
	}
	if err != nil {
		return refuse(wire.CodeInvalid, err)
	}
	g, err := Open(policy, probe.Local{Program: policy.Prober})
	if err != nil {
		return refuse(wire.CodeError, err)
	}
	defer g.Close()
	return who, q, g.Serve(context.Background(), who, q)
}

// readRequest reads what the client sends, within a time and a size.
func readRequest(stdin *os.File) ([]byte, error) {
	// A file descriptor that can be waited for has a deadline; a plain file,
	// which has none, is never late. The description behind it is a pipe or
	// socket of which sshd holds the other end.
	in := stdin
	if fd := int(stdin.Fd()); syscall.SetNonblock(fd, true) == nil {
		in = os.NewFile(uintptr(fd), "standard input")
		_ = in.SetReadDeadline(time.Now().Add(requestTime))
	}
	text, err := wire.ReadAll(in, wire.MaxRequest)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errors.New("the request did not come in time")
	}
	return text, err
}

// fit keeps a reply within what a runner takes: words are for people, and the
// first to go.
func fit(r wire.Reply) wire.Reply {
	r.Word, r.Output = cut(r.Word, 1024), cutFront(r.Output, 2048)
	if r.Status != nil {
		s := *r.Status
		s.Word = cut(s.Word, 1024)
		r.Status = &s
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

// record says in the system's log who asked for what and what came of it. It
// comes after the reply: a log that hangs holds up nobody. Mere looks that were
// answered are not logged.
func record(who Caller, q wire.Request, r wire.Reply) {
	if r.Code == wire.CodeOK {
		return
	}
	log, err := syslog.New(syslog.LOG_INFO|syslog.LOG_AUTHPRIV, "kido-gate")
	if err != nil {
		return // a host without a log is no reason to fail
	}
	defer log.Close()
	_ = log.Info(wire.FormatLine("who="+who.Identity, "from="+who.Peer, "run="+cut(q.Run, 64), "verb="+string(q.Verb),
		"service="+cut(q.Service, 64), "result="+string(r.Code), "why="+cut(r.Word, 256)))
}
