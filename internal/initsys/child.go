package initsys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"kido/internal/wire"
)

const (
	childArg = "--child" // the program's hidden first argument
	childFD  = 3         // where the held child reads its word
	childGo  = "go"      // the word

	maxOutput = 2 << 10 // bytes of Output

	exitNotRun = 126 // of a held child that could not run its program, as in a shell
)

// step is one program that a child runs; the last takes the child's place.
type step struct {
	argv []string
	// stops, where set, is the pid file of what argv stops: the next step waits
	// until the process that it named before has ended, for at most bound.
	stops string
	bound time.Duration
}

// A step travels as one argument, so that ps shows it as it would be typed.
func (s step) String() string {
	if s.stops == "" {
		return wire.FormatLine(append([]string{"run"}, s.argv...)...)
	}
	bound := strconv.FormatInt(s.bound.Milliseconds(), 10)
	return wire.FormatLine(append([]string{"stop", s.stops, bound}, s.argv...)...)
}

func parseStep(line string) (step, error) {
	f, err := wire.ParseLine(line)
	switch {
	case err != nil:
		return step{}, err
	case len(f) >= 2 && f[0] == "run":
		return step{argv: f[1:]}, nil
	case len(f) >= 4 && f[0] == "stop":
		ms, err := strconv.ParseUint(f[2], 10, 31)
		return step{argv: f[3:], stops: f[1], bound: time.Duration(ms) * time.Millisecond}, err
	}
	return step{}, errors.New("is neither run ARGV nor stop PIDFILE MS ARGV")
}

// RunChild returns at once, unless this process was started as a held child:
// then it waits for the word and becomes the program that it was held for, or
// exits. The main of every program that prepares jobs calls it before anything
// else.
func RunChild() {
	if len(os.Args) < 2 || os.Args[1] != childArg {
		return
	}
	runtime.LockOSThread() // the signal mask is the thread's
	if err := runChild(os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "kido-gate: %v\n", err)
		syscall.Exit(exitNotRun)
	}
	syscall.Exit(0) // there is nothing to flush, and os.Exit takes a second under the race detector
}

// runChild returns nil where it was let go without the word, and does not
// return where it was told to go and could.
func runChild(lines []string) error {
	if len(lines) == 0 {
		return errors.New(childArg + " is for kido's own use")
	}
	steps := make([]step, len(lines))
	for i, line := range lines {
		var err error
		if steps[i], err = parseStep(line); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	if !toldToGo() {
		return nil
	}

	if err := resetSignals(); err != nil {
		return err
	}
	syscall.Umask(0o022)
	last := len(steps) - 1
	for _, s := range steps[:last] {
		if err := s.precede(); err != nil {
			return err
		}
	}
	if err := CloseOnExec(); err != nil {
		return err
	}
	argv := steps[last].argv
	return fmt.Errorf("run %s: %w", argv[0], syscall.Exec(argv[0], argv, os.Environ()))
}

// toldToGo waits for the word, or for the end of whoever could say it.
func toldToGo() bool {
	pipe := os.NewFile(childFD, "word")
	if pipe == nil {
		return false
	}
	defer pipe.Close()
	word := make([]byte, len(childGo))
	_, err := io.ReadFull(pipe, word)
	return err == nil && string(word) == childGo
}

// precede runs a step that is not the last. That its program failed is not an
// error: scripts fail to stop what does not run. That the process stays is.
func (s step) precede() error {
	if err := CloseOnExec(); err != nil {
		return err
	}
	var was pidFile
	if s.stops != "" {
		was = readPIDFile(s.stops)
	}
	p, err := os.StartProcess(s.argv[0], s.argv, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return fmt.Errorf("run %s: %w", s.argv[0], err)
	}
	state, err := p.Wait()
	if err != nil {
		return err
	}
	if !state.Success() {
		fmt.Fprintf(os.Stderr, "kido-gate: %s: %s\n", strings.Join(s.argv, " "), state)
	}
	if was.state != pidAlive {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.bound)
	defer cancel()
	if err := was.main.Wait(ctx); err != nil {
		return fmt.Errorf("process %d still runs %v after it was told to stop (%s): not started again", was.main.PID, s.bound, state)
	}
	return nil
}

// CloseOnExec lets no descriptor but the standard three pass on to programs that
// this process starts or becomes: sshd and those before it are not trusted to
// have marked theirs.
func CloseOnExec() error {
	const (
		closeRange = 436    // since Linux 5.9; there is no such number on MIPS
		cloexec    = 1 << 2 // CLOSE_RANGE_CLOEXEC, since Linux 5.11
	)
	if _, _, errno := syscall.RawSyscall(closeRange, 3, math.MaxUint32, cloexec); errno == 0 {
		return nil
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// ExitError says how the program of an action ended.
type ExitError struct {
	Command string // "/etc/init.d/httpd start"
	Code    int    // exit status; -1: ended by a signal
	How     string // "exit status 1", "signal: killed"
}

func (e *ExitError) Error() string { return e.Command + ": " + e.How }

// job is a held child and what becomes of it.
type job struct {
	command string // for messages
	child   Child
	word    *os.File // closed by Go and Close
	log     *os.File // what the action writes; nil where nobody keeps it
	begun   bool
	lsb     bool // exit statuses are those of an LSB init script

	ended chan struct{} // closed when the child was reaped
	state *os.ProcessState
	err   error
}

// hold starts a child that will run steps, with out as its standard output and
// error, and holds it back. It has nothing else of ours: a session, an
// environment and a working directory of its own.
func hold(command string, steps []step, out *os.File) (*job, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	if out == nil {
		out = null
	}
	args := []string{"kido-gate", childArg}
	for _, s := range steps {
		args = append(args, s.String())
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// The link in /proc leads to this very program even while it is replaced.
	p, err := os.StartProcess("/proc/self/exe", args, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "HOME=/"},
		Files: []*os.File{null, out, out, r},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	r.Close()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("start a child: %w", err)
	}
	j := &job{command: command, word: w, ended: make(chan struct{})}
	if j.child, err = Identify(p.Pid); err != nil {
		err = fmt.Errorf("child of %s: %w", command, err)
	}
	go func() {
		j.state, j.err = p.Wait()
		close(j.ended)
	}()
	if err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

func (j *job) Child() (Child, bool) { return j.child, true }

func (j *job) Go() error {
	if j.begun {
		return fmt.Errorf("%s: was told to go before", j.command)
	}
	if _, err := j.word.WriteString(childGo); err != nil {
		return fmt.Errorf("%s: its child ended before it was told to go: %w", j.command, err)
	}
	j.begun = true
	return j.word.Close()
}

func (j *job) Wait(ctx context.Context) error {
	if !j.begun {
		return fmt.Errorf("%s: was not told to go", j.command)
	}
	select {
	case <-j.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if j.err != nil {
		return fmt.Errorf("%s: %w", j.command, j.err)
	}
	if j.state.Success() {
		return nil
	}
	err := &ExitError{Command: j.command, Code: j.state.ExitCode(), How: j.state.String()}
	if j.lsb && (err.Code == lsbUnimplemented || isUsage(j.Output())) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

func (j *job) Output() string {
	if j.log == nil {
		return ""
	}
	info, err := j.log.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(info.Size(), maxOutput))
	n, err := j.log.ReadAt(b, info.Size()-int64(len(b)))
	if err != nil && err != io.EOF {
		return ""
	}
	return wholeRunes(b[:n])
}

func (j *job) Close() error {
	if !j.begun {
		j.word.Close()
		<-j.ended // it ends at once, and leaves no zombie
	}
	if j.log == nil {
		return nil
	}
	return j.log.Close()
}

// kill ends what is left of a job in its process group. Another user's processes
// (behind sudo) cannot be ended from here, so the wait has an end too.
func (j *job) kill() {
	_ = syscall.Kill(-j.child.PID, syscall.SIGKILL)
	select {
	case <-j.ended:
	case <-time.After(time.Second):
	}
}

// wholeRunes drops the rest of a rune at whose middle b was cut off.
func wholeRunes(b []byte) string {
	for i := range min(len(b), utf8.UTFMax) {
		if utf8.RuneStart(b[i]) {
			return string(b[i:])
		}
	}
	return string(b)
}
