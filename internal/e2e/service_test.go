package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kido/internal/initsys"
)

// argService is the first argument with which the test binary is a service:
//
//	svc start|stop|restart|reload|serve FOLDER
const argService = "svc"

// bySomeone is in the environment of a service program that a person has called, as
// it is in that of no gate.
const bySomeone = "SVC_BY_SOMEONE"

// The files of an instance's folder.
const (
	configFile = "config.json"
	pidFile    = "pid"
	holdFile   = "hold"  // a FIFO: the daemon boots no further until it was opened and closed
	startFile  = "begin" // a FIFO: start does not begin before that
	failFile   = "fail"  // start fails, and says what is in it
	armFile    = "arm"   // becomes the host's failpoint once something is told to start
)

// The files of a site's folder that its services use.
const (
	historyFile = "history"
	lifeFile    = "life"      // a FIFO: at its end every service ends
	lockFile    = "life.lock" // held, shared, by every process of a service
)

// config is what a service knows of itself.
type config struct {
	Instance  string
	Listen    string
	Site      string            // folder
	Failpoint string            // the file that the host's gates are killed by
	Upstreams map[string]string // instance → address
}

// The kinds of an entry.
const (
	started  = "start"
	readied  = "ready" // it listens from now on
	reloaded = "reload"
	stopped  = "stop"
	failed   = "fail" // it ends, and not because it was told to
)

// entry is what a service says of itself.
type entry struct {
	At       time.Time
	Instance string
	What     string
	Someone  bool              // start, stop: it was a person who called for it, not kido
	Own      string            // its incarnation, as the gate has it
	Saw      map[string]string // start, reload: upstream → the incarnation that it connected to, or "-"
	Why      string            // fail
}

type service struct {
	config
	dir string
}

// serviceMain is the service program. It ends by syscall.Exit, as os.Exit takes
// a second under the race detector.
func serviceMain(args []string) {
	if err := runService(args); err != nil {
		fmt.Fprintln(os.Stderr, "svc:", err)
		syscall.Exit(1)
	}
	syscall.Exit(0)
}

func runService(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want a verb and a folder, got %q", args)
	}
	s := &service{dir: args[1]}
	text, err := os.ReadFile(s.path(configFile))
	if err == nil {
		err = json.Unmarshal(text, &s.config)
	}
	if err == nil {
		err = s.live()
	}
	if err != nil {
		return err
	}
	switch args[0] {
	case "start":
		return s.start()
	case "stop":
		return s.stop()
	case "restart":
		return errors.Join(s.stop(), s.start())
	case "reload":
		_, err := talk(s.Listen, "reload")
		return err
	case "serve":
		return s.serve()
	}
	return fmt.Errorf("no such verb: %q", args[0])
}

func (s *service) path(name string) string { return filepath.Join(s.dir, name) }

// live ends this process with the site, and lets the site know when it is gone.
func (s *service) live() error {
	lock, err := os.OpenFile(filepath.Join(s.Site, lockFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH); err != nil {
		return err
	}
	life, err := os.OpenFile(filepath.Join(s.Site, lifeFile), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, life) // its end is all that matters
		syscall.Exit(3)
	}()
	return nil
}

// pass waits at a FIFO, where there is one, until somebody opens and closes it.
func pass(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
	}
	return err
}

func (s *service) running() (initsys.Child, bool) {
	text, err := os.ReadFile(s.path(pidFile))
	if err != nil {
		return initsys.Child{}, false
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return initsys.Child{}, false
	}
	c, err := initsys.Identify(pid)
	return c, err == nil
}

func (s *service) start() error {
	if err := os.Rename(s.path(armFile), s.Failpoint); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := pass(s.path(startFile)); err != nil {
		return err
	}
	if why, err := os.ReadFile(s.path(failFile)); err == nil {
		return errors.New(string(why))
	}
	if _, ok := s.running(); ok {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, argService, "serve", s.dir)
	cmd.Dir, cmd.Env = "/", os.Environ()
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	said, err := io.ReadAll(r)
	if err == nil && string(said) != "begun" {
		err = fmt.Errorf("the daemon did not begin: %s", said)
	}
	return err
}

func (s *service) stop() error {
	main, ok := s.running()
	if !ok {
		return nil
	}
	sig := syscall.SIGTERM
	if os.Getenv(bySomeone) != "" {
		sig = syscall.SIGINT
	}
	if err := syscall.Kill(main.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return main.Wait(ctx)
}

// serve is the daemon. Who connects may ask who it is, or for a reload.
func (s *service) serve() error {
	report := os.NewFile(3, "report")
	self, err := initsys.Identify(os.Getpid())
	if err != nil {
		return err
	}
	own := self.Token()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	if err := s.note(entry{What: started, Own: own, Saw: s.look(), Someone: os.Getenv(bySomeone) != ""}); err != nil {
		return err
	}
	temporary := s.path(pidFile + ".new")
	if err := os.WriteFile(temporary, fmt.Appendf(nil, "%d\n", self.PID), 0o644); err != nil {
		return err
	}
	if err := os.Rename(temporary, s.path(pidFile)); err != nil {
		return err
	}
	fmt.Fprint(report, "begun")
	report.Close()
	broken := make(chan error, 1)
	go func() { broken <- s.answer(own) }()
	var told os.Signal
	select {
	case err := <-broken:
		return errors.Join(err, s.note(entry{What: failed, Own: own, Why: err.Error()}))
	case told = <-term:
	}
	return errors.Join(s.note(entry{What: stopped, Own: own, Someone: told == syscall.SIGINT}), os.Remove(s.path(pidFile)))
}

func (s *service) answer(own string) error {
	if err := pass(s.path(holdFile)); err != nil {
		return err
	}
	// Said first: who connects must come after it.
	if err := s.note(entry{What: readied, Own: own}); err != nil {
		return err
	}
	l, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			word, _ := bufio.NewReader(c).ReadString('\n') // a probe says nothing
			if strings.TrimSpace(word) == "reload" && s.note(entry{What: reloaded, Own: own, Saw: s.look()}) != nil {
				return
			}
			fmt.Fprintln(c, own)
		}()
	}
}

// look connects to every upstream and learns its incarnation.
func (s *service) look() map[string]string {
	saw := map[string]string{}
	for instance, address := range s.Upstreams {
		own, err := talk(address, "who")
		if err != nil {
			own = "-"
		}
		saw[instance] = own
	}
	return saw
}

// talk says a word to a service and returns its incarnation.
func talk(address, word string) (own string, err error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, word); err != nil {
		return "", err
	}
	own, err = bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(own), err
}

// note appends one line in one write, so that lines of all services come in the
// order of events.
func (s *service) note(e entry) error {
	e.At, e.Instance = time.Now(), s.Instance
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.Site, historyFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}
