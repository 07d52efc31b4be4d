package initsys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kido/internal/wire"
)

// Exit statuses of the Linux Standard Base.
const (
	lsbRuns          = 0 // of status
	lsbDead          = 1 // of status: dead, and the pid file is there
	lsbDeadLocked    = 2 // of status: dead, and the lock file is there
	lsbStopped       = 3 // of status
	lsbUnimplemented = 3 // of an action
)

// stopBound is how long a restart made of stop and start waits in between for
// the process to be gone, once the stop program has returned.
const stopBound = 90 * time.Second

// script is a unit that programs act for and a pid file identifies: what the
// adapters for commands, SysV and OpenRC have in common.
type script struct {
	actions map[Action][]step
	status  []string // nil: only the pid file tells
	pidFile string
	log     string // file for the output of actions; "": nobody keeps it
	lsb     bool
	file    string // the init script; "" where there is none
}

func (s *script) Prepare(_ context.Context, a Action) (Job, error) {
	steps := s.actions[a]
	if steps == nil {
		return nil, fmt.Errorf("%s: %w", a, ErrUnsupported)
	}
	j, err := holdLogged(steps, s.log)
	if err != nil {
		return nil, err
	}
	j.lsb = s.lsb
	return j, nil
}

// holdLogged is hold of steps whose output goes to a file, "" for none.
func holdLogged(steps []step, file string) (*job, error) {
	var log *os.File
	if file != "" {
		// Appending, so that a daemon of an earlier start that still writes here
		// leaves no hole behind the truncation.
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
		if err == nil {
			if err = empty(f); err != nil {
				f.Close()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("file for the output: %w", err)
		}
		log = f
	}
	commands := make([]string, len(steps))
	for i, p := range steps {
		commands[i] = wire.FormatLine(p.argv...)
	}
	j, err := hold(strings.Join(commands, ", then "), steps, log)
	if err != nil {
		if log != nil {
			log.Close()
		}
		return nil, err
	}
	j.log = log
	return j, nil
}

// empty readies a file for the output of an action, if it is ours alone: what
// somebody has linked here is not.
func empty(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || st.Nlink != 1 {
		return fmt.Errorf("%s is not a file of its own: no gate has put that there, look at it and remove it", f.Name())
	}
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	return f.Truncate(0)
}

func (s *script) Observe(ctx context.Context) (Observation, error) {
	said := silent
	if s.status != nil {
		code, output, err := s.ask(ctx)
		if err != nil {
			return Observation{}, err
		}
		if said, err = parseStatus(code, output); err != nil {
			return Observation{}, fmt.Errorf("%s: %w", wire.FormatLine(s.status...), err)
		}
	}
	return s.judge(said)
}

// ask runs the status program to its end, to ctx's, or for lookTime.
func (s *script) ask(ctx context.Context) (code int, output string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTime, fmt.Errorf("it takes over %v", lookTime))
	defer cancel()
	command := wire.FormatLine(s.status...)
	r, w, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	j, err := hold(command, []step{{argv: s.status}}, w)
	w.Close()
	if err != nil {
		r.Close()
		return 0, "", err
	}
	defer j.Close()
	var end tail
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer r.Close()
		_, _ = io.Copy(&end, r)
	}()
	if err = j.Go(); err == nil {
		err = j.Wait(ctx)
	}
	if err != nil && ctx.Err() != nil {
		j.kill()
		err = fmt.Errorf("%s: no answer: %w", command, context.Cause(ctx))
	}
	// All that the program wrote is in the pipe by now; what it left running may
	// hold the other end open for ever.
	_ = r.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-read
	exit, exited := errors.AsType[*ExitError](err)
	switch {
	case err == nil:
		return 0, wholeRunes(end), nil
	case exited && exit.Code >= 0:
		return exit.Code, wholeRunes(end), nil
	}
	return 0, "", err
}

// tail keeps the last maxOutput bytes of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if over := len(*t) - maxOutput; over > 0 {
		*t = append((*t)[:0], (*t)[over:]...)
	}
	return len(p), nil
}

// claim is what a status program said.
type claim int

const (
	silent  claim = iota // there is none, or it cannot do status
	runs                 // and is wrong where the pid file says dead: some scripts know no other answer
	dead                 // should run
	stopped              // does not run
)

// parseStatus reads a status program's exit status. That it cannot do status is
// seen by its usage text only: the exit status with it is any of 0, 1, 2 and 3.
func parseStatus(code int, output string) (claim, error) {
	switch {
	case isUsage(output):
		return silent, nil
	case code == lsbRuns:
		return runs, nil
	case code == lsbDead || code == lsbDeadLocked:
		return dead, nil
	case code == lsbStopped:
		return stopped, nil
	}
	err := fmt.Errorf("exit status %d does not tell whether it runs", code)
	if output = strings.TrimSpace(output); output != "" {
		err = fmt.Errorf("%w: %s", err, wire.Quote(output[strings.LastIndexByte(output, '\n')+1:]))
	}
	return silent, err
}

// isUsage tells a text like "Usage: /etc/init.d/x {start|stop|restart}", or
// OpenRC's " * x: unknown function `reload'".
func isUsage(output string) bool {
	for line := range strings.Lines(strings.ToLower(output)) {
		if strings.HasPrefix(strings.TrimSpace(line), "usage") || strings.Contains(line, "start|stop") || strings.Contains(line, ": unknown function `") {
			return true
		}
	}
	return false
}

// judge is the package's judge, with what no status program says: that the init
// script is at work right now, so that a service which is not up yet, or not down
// yet, is taken for neither.
func (s *script) judge(said claim) (Observation, error) {
	o, err := judge(said, readPIDFile(s.pidFile))
	if err != nil || s.file == "" || o.State != Down && o.State != Failed {
		return o, err
	}
	if verb, ok := atWork(s.file); ok {
		return Observation{State: Busy, Word: fmt.Sprintf("%s %s is at work", s.file, verb)}, nil
	}
	return o, nil
}

// judge makes one observation of what the status program said and what the pid
// file says. Where they differ neither wins quietly: such a unit is never Down
// (which a cascade would leave alone) and never has a token.
func judge(said claim, file pidFile) (Observation, error) {
	if file.err != nil {
		return Observation{}, file.err
	}
	switch {
	case file.state == pidAlive && (said == silent || said == runs):
		age := file.main.Age()
		return Observation{State: Up, Token: file.main.Token(), Age: age, Begun: age}, nil
	case file.state == pidAlive:
		return Observation{State: Failed, Word: "status says that it does not run, but " + file.String()}, nil
	case file.state == pidDead:
		return Observation{State: Failed, Word: file.String()}, nil
	case said == runs:
		return Observation{State: Up, Word: "status says that it runs, but " + file.String()}, nil
	case said == dead:
		return Observation{State: Failed, Word: "status says that it died; " + file.String()}, nil
	case said == silent && file.state == pidBlank:
		return Observation{State: Busy, Word: file.String()}, nil
	}
	return Observation{State: Down}, nil
}

// pidFile is one look at a pid file.
type pidFile struct {
	path  string
	state pidState
	main  Child // pidAlive
	pid   int   // pidDead
	err   error // it cannot be told
}

type pidState int

const (
	pidAbsent pidState = iota
	pidBlank           // no number in it: about to be written
	pidAlive
	pidDead
)

func (f pidFile) String() string {
	switch f.state {
	case pidAlive:
		return fmt.Sprintf("pid file %s names process %d, which runs", f.path, f.main.PID)
	case pidDead:
		return fmt.Sprintf("pid file %s names process %d, which is gone", f.path, f.pid)
	case pidBlank:
		return fmt.Sprintf("pid file %s names no process", f.path)
	}
	return fmt.Sprintf("there is no pid file %s", f.path)
}

func readPIDFile(path string) pidFile {
	file := pidFile{path: path}
	text, err := readShort(path)
	if errors.Is(err, os.ErrNotExist) {
		return file
	}
	if err != nil {
		file.err = fmt.Errorf("pid file: %w", err)
		return file
	}
	// Some write more lines below the number.
	line, _, _ := strings.Cut(text, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		file.state = pidBlank
		return file
	}
	switch file.main, err = Identify(pid); {
	case err == nil:
		file.state = pidAlive
	case errors.Is(err, syscall.ESRCH):
		file.state, file.pid = pidDead, pid
	default:
		file.err = fmt.Errorf("pid file %s: %w", path, err)
	}
	return file
}

// readShort reads the head of a file that the service's own user may have put
// there: no waiting on a pipe, no end of reading.
func readShort(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 128))
	return string(b), err
}

func checkPath(what, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s: %s is not an absolute path", what, wire.Quote(path))
	}
	if strings.ContainsRune(path, 0) {
		return fmt.Errorf("%s: a path holds no zero byte", what)
	}
	return nil
}

func checkArgv(what string, argv []string) error {
	if len(argv) == 0 {
		return fmt.Errorf("%s: no program is given", what)
	}
	for _, arg := range argv {
		if strings.ContainsRune(arg, 0) {
			return fmt.Errorf("%s: an argument holds no zero byte", what)
		}
	}
	if len(wire.FormatLine(argv...)) > wire.MaxLine/2 {
		return fmt.Errorf("%s: over %d bytes of arguments: put them into a script", what, wire.MaxLine/2)
	}
	return checkPath(what, argv[0])
}
