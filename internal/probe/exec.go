package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kido/internal/wire"
)

const (
	defaultProgram = "/usr/local/bin/kido"
	maxOutput      = wire.MaxLine // bytes of a program's output that are kept
	nobody         = 65534
	// childMargin is how much of a try its program keeps to start and to answer.
	childMargin = 300 * time.Millisecond
)

// ChildArg is the hidden first argument with which a [Local] runs its Program.
const ChildArg = "probe-child"

// execute runs a probe of the administrator's own: exit status 0 is ready, else
// the first line that it wrote is the word. Where it tells its incarnation that comes
// first, and the word after it.
func execute(ctx context.Context, s Spec) Answer {
	output, err := run(ctx, s.Argv, "", nil)
	exit, ended := errors.AsType[*exec.ExitError](err)
	degraded := ended && strconv.Itoa(exit.ExitCode()) == s.Options["degraded"]
	a := Answer{Ready: err == nil || degraded}
	if a.Ready && s.TellsLife() {
		life, rest := firstLine(output)
		if life == "" {
			return NotReady("%s does not tell its incarnation: it wrote nothing", s.Argv[0])
		}
		a, output = Alive(life, 0), rest
	}
	line, _ := firstLine(output)
	switch {
	case err == nil:
		return a
	case degraded:
		return a.Degrade(cmp.Or(Printable(line), fmt.Sprintf("%s: %v", s.Argv[0], exit)))
	case ctx.Err() != nil:
		return s.Why(ctx, err)
	case !ended:
		return Untried("%s: %v", s.Argv[0], errno(err))
	}
	return NotReady("%s", cmp.Or(Printable(line), fmt.Sprintf("%s: %v", s.Argv[0], exit)))
}

// firstLine is the first line of a text that says anything, and what follows it.
func firstLine(text string) (line, rest string) {
	for line == "" && text != "" {
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimSpace(line)
	}
	return line, text
}

// delegate has another program make the try. That has a little less time, so that it
// can say more than that its time was over.
func (l Local) delegate(ctx context.Context, s Spec) Answer {
	program := cmp.Or(l.Program, defaultProgram)
	var as *syscall.Credential
	if os.Geteuid() == 0 {
		// What parses certificates and whatever a server sends needs no rights.
		as = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	end, _ := ctx.Deadline() // there is one, see Limit
	left := time.Until(end)
	task := Task{Spec: s, Within: max(time.Millisecond, left-min(childMargin, left/4))}
	output, err := run(ctx, []string{program, ChildArg}, task.String(), as)
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return s.Why(ctx, err)
	case errors.Is(err, os.ErrNotExist):
		return Untried("%s probes at a host need the kido program there: install it at %s", s.Kind, program)
	case !ended:
		return Untried("%s: %v", program, errno(err))
	default:
		return Untried("%s %s: %v", program, ChildArg, exit)
	}
	fields, err := wire.ParseLine(strings.TrimSuffix(output, "\n"))
	if err != nil {
		return Untried("%s %s: %v", program, ChildArg, err)
	}
	a, err := ParseAnswer(fields)
	if err != nil {
		return Untried("%s %s: %v", program, ChildArg, err)
	}
	return a
}

// errno is the short form of an error of the system: "permission denied".
func errno(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// run runs argv to its end or to ctx's, and returns the beginning of what it
// wrote. Its process group has ended when run returns, children that it left
// behind included. Its standard error is kept with its output, except where it
// is told something and its output is a message.
func run(ctx context.Context, argv []string, stdin string, as *syscall.Credential) (output string, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := command(argv)
	cmd.Stdout = w
	cmd.SysProcAttr.Credential = as
	if stdin == "" {
		cmd.Stderr = w
	} else {
		in, stop, err := feed(stdin)
		if err != nil {
			w.Close()
			return "", err
		}
		defer stop()
		defer in.Close()
		cmd.Stdin = in
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", err
	}
	read := make(chan string)
	go func() {
		kept, late := io.ReadAll(io.LimitReader(r, maxOutput))
		if errors.Is(late, os.ErrDeadlineExceeded) { // we are, on a busy machine: it has written
			kept = append(kept, rest(r, maxOutput-len(kept))...)
		}
		if stdin == "" {
			_, _ = io.Copy(io.Discard, r) // let it talk on: its exit status counts
		} else {
			r.Close() // a message has an end
		}
		read <- string(kept)
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	group := -cmd.Process.Pid
	select {
	case err = <-ended:
		_ = syscall.Kill(group, syscall.SIGKILL) // what it left behind
	case <-ctx.Done():
		_ = syscall.Kill(group, syscall.SIGKILL)
		select {
		case err = <-ended:
		case <-time.After(500 * time.Millisecond): // another user's, behind sudo: not ours to kill
			err = context.Cause(ctx)
		}
	}
	// Nothing of the group can write any more, and what it wrote is in the pipe.
	// A process that left the group may hold the other end open for ever.
	_ = r.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	return <-read, err
}

// rest is what is in a pipe whose deadline is over, of that at most so many bytes.
func rest(r *os.File, most int) []byte {
	text, n := make([]byte, most), 0
	_ = r.SetReadDeadline(time.Time{})
	if raw, err := r.SyscallConn(); err == nil {
		_ = raw.Read(func(fd uintptr) bool {
			n, _ = syscall.Read(int(fd), text) // it does not wait: EAGAIN where there is nothing
			return true
		})
	}
	_ = r.SetReadDeadline(time.Unix(1, 0))
	return text[:max(0, n)]
}

// command is a program with a process group and an environment of its own.
func command(argv []string) *exec.Cmd {
	return &exec.Cmd{
		Path:        argv[0],
		Args:        argv,
		Dir:         "/",
		Env:         []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "HOME=/"},
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
}

// feed is a file to read s from. When stop has returned nobody writes to it any
// more, whether or not it was read to its end.
func feed(s string) (r *os.File, stop func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.WriteString(w, s) // who does not read it to its end answers nothing that counts
		w.Close()
	}()
	return r, func() { w.Close(); <-done }, nil
}
