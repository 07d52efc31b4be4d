package probe

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"kido/internal/wire"
)

const (
	defaultProgram = "/usr/local/bin/kido"
	maxOutput      = wire.MaxLine // bytes of a program's output that are kept
	nobody         = 65534
)

// ChildArg is the hidden first argument with which a [Local] runs its Program.
const ChildArg = "probe-child"

// execute runs a probe of the administrator's own: exit status 0 is ready, else
// the first line that it wrote is the word.
func execute(ctx context.Context, s Spec) Answer {
	output, err := run(ctx, s.Argv, "", nil)
	switch exit, ok := errors.AsType[*exec.ExitError](err); {
	case err == nil:
		return Answer{Ready: true}
	case ctx.Err() != nil:
		return s.Why(ctx, err)
	case !ok:
		return NotReady("%s: %v", s.Argv[0], errno(err))
	default:
		for line := range strings.Lines(output) {
			if line = Printable(line); line != "" {
				return NotReady("%s", line)
			}
		}
		return NotReady("%s: %v", s.Argv[0], exit)
	}
}

func (l Local) delegate(ctx context.Context, s Spec) Answer {
	program := l.Program
	if program == "" {
		program = defaultProgram
	}
	var as *syscall.Credential
	if os.Geteuid() == 0 {
		// What parses certificates and whatever a server sends needs no rights.
		as = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	output, err := run(ctx, []string{program, ChildArg}, wire.FormatLine(s.Fields()...)+"\n", as)
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return s.Why(ctx, err)
	case errors.Is(err, os.ErrNotExist):
		return NotReady("%s probes at a host need the kido program there: install it at %s or use http", s.Kind, program)
	case err != nil && !ok:
		return NotReady("%s: %v", program, errno(err))
	case err != nil:
		return NotReady("%s %s: %v", program, ChildArg, exit)
	}
	fields, err := wire.ParseLine(strings.TrimSuffix(output, "\n"))
	if err != nil {
		return NotReady("%s %s: %v", program, ChildArg, err)
	}
	a, err := ParseAnswer(fields)
	if err != nil {
		return NotReady("%s %s: %v", program, ChildArg, err)
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
// is run as somebody else and its output is a message.
func run(ctx context.Context, argv []string, stdin string, as *syscall.Credential) (output string, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Cmd{
		Path:        argv[0],
		Args:        argv,
		Dir:         "/",
		Env:         []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "HOME=/"},
		Stdout:      w,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: as},
	}
	if stdin == "" {
		cmd.Stderr = w
	} else {
		in, err := text(stdin)
		if err != nil {
			w.Close()
			return "", err
		}
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
		kept, _ := io.ReadAll(io.LimitReader(r, maxOutput))
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

// text is a file to read s from. It is short enough for a pipe to hold.
func text(s string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if _, err := w.WriteString(s); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}
