package demo

import (
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

// The first arguments with which kido runs itself as a service of the demo.
const (
	ArgDatabase = "demo-db"
	ArgWeb      = "demo-web"
)

const (
	settingsFile = "settings.json" // in a host's folder
	lifeFile     = "life"          // beside the hosts' folders
	logFile      = "log"           // in a host's folder
	readyFD      = 3               // where a service tells its start that it has begun, or why not
	begun        = "begun"
	// stopTime is how long a service may take to end before it is killed.
	stopTime = 5 * time.Second
)

// settings is what a service's process must know of its host.
type settings struct {
	Host     string        // "web1"
	Listen   string        // "address:port"
	Database string        // of a web server: where its database listens
	Owner    initsys.Child // the demo: a service does not outlive it
}

// service is one service on one host, whose folder is root.
type service struct {
	settings
	kind, root string
}

// body does a service's work on its port until the process ends; it calls ready
// before it begins to answer as one that is ready.
type body func(s settings, l net.Listener, ready func()) error

var bodies = map[string]body{ArgDatabase: database, ArgWeb: web}

// Service is kido as one of the demo's services, or as the program by which its
// host's init starts and stops it: args are the kind, a verb and the host's
// folder. It returns the exit status.
func Service(args []string, stdout, stderr io.Writer) int {
	if err := serviceMain(args, stdout); err != nil {
		fmt.Fprintf(stderr, "kido %s: %v\n", strings.Join(args, " "), err)
		return 1
	}
	return 0
}

func serviceMain(args []string, stdout io.Writer) error {
	if len(args) != 3 || bodies[args[0]] == nil {
		return errors.New("this is for the use of kido demo alone")
	}
	s, err := openService(args[0], args[2])
	if err != nil {
		return err
	}
	switch args[1] {
	case "start":
		return s.start()
	case "stop":
		return s.stop()
	case "run":
		return s.run()
	case "ready":
		return s.ready(stdout)
	}
	return fmt.Errorf("no such verb: %s", args[1])
}

func openService(kind, root string) (*service, error) {
	s := &service{kind: kind, root: root}
	text, err := os.ReadFile(filepath.Join(root, settingsFile))
	if err != nil {
		return nil, err
	}
	return s, json.Unmarshal(text, &s.settings)
}

func pidFile(root string) string { return filepath.Join(root, "pid") }

// main is the process that the pid file names, ok where it runs.
func (s *service) main() (c initsys.Child, ok bool, err error) {
	text, err := os.ReadFile(pidFile(s.root))
	if errors.Is(err, os.ErrNotExist) {
		return c, false, nil
	}
	if err != nil {
		return c, false, err
	}
	// The start time below the number keeps us from another process that has
	// the number by now.
	if _, err := fmt.Sscan(string(text), &c.PID, &c.Start); err != nil {
		return c, false, fmt.Errorf("pid file: %w", err)
	}
	if c.Boot, err = initsys.BootID(); err != nil {
		return c, false, err
	}
	ok, err = c.Alive()
	return c, ok, err
}

// start leaves a daemon behind: in a session of its own, with its pid file
// written and its port open, though perhaps not ready.
func (s *service) start() error {
	if _, ok, err := s.main(); ok || err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.root, logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(self, s.kind, "run", s.root)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	said, err := io.ReadAll(r)
	if err == nil && string(said) != begun {
		err = fmt.Errorf("it did not begin: %s", said)
	}
	return err
}

func (s *service) stop() error {
	c, ok, err := s.main()
	if err != nil {
		return err
	}
	if ok {
		if err := end(c, syscall.SIGTERM, stopTime); err != nil {
			return err
		}
	}
	if err := os.Remove(pidFile(s.root)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// end sends a signal to c, waits for its end, and kills it where that takes
// longer than most.
func end(c initsys.Child, sig os.Signal, most time.Duration) error {
	p, err := os.FindProcess(c.PID)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	// The handle holds on to whatever has the number; only now does it help to
	// know that this is c.
	if alive, err := c.Alive(); err != nil || !alive {
		return err
	}
	for _, sig := range []os.Signal{sig, os.Kill} {
		if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), most)
		err = c.Wait(ctx)
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end: %w", c.PID, err)
}

// run is the daemon.
func (s *service) run() error {
	word := os.NewFile(readyFD, "word")
	l, err := s.begin()
	said := begun
	if err != nil {
		said = err.Error()
	}
	_, _ = io.WriteString(word, said) // who started it may have gone
	word.Close()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- bodies[s.kind](s.settings, l, func() { _ = s.note(isUp) }) }()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	orphaned := make(chan struct{})
	go func() {
		if s.Owner.Wait(context.Background()) == nil {
			close(orphaned)
		}
	}()
	select {
	case err = <-ended:
	case <-term:
	case <-orphaned: // killed, it could not clean up after itself
		return os.RemoveAll(filepath.Dir(s.root))
	}
	return errors.Join(err, s.note(isDown))
}

// begin puts the process on record, in the order in which others look: its port
// is open and its birth written down before its pid file is there.
func (s *service) begin() (net.Listener, error) {
	if alive, err := s.Owner.Alive(); err != nil || !alive {
		return nil, fmt.Errorf("the demo has ended (%v)", err)
	}
	l, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return nil, err
	}
	me, err := initsys.Identify(os.Getpid())
	if err == nil {
		err = s.note(isBorn)
	}
	if err == nil {
		err = replace(pidFile(s.root), fmt.Sprintf("%d\n%d\n", me.PID, me.Start))
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// replace writes a file that is there as a whole or not at all.
func replace(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// note writes a line about this very process to the record.
func (s *service) note(what event) error {
	me, err := initsys.Identify(os.Getpid())
	if err != nil {
		return err
	}
	return life(filepath.Join(filepath.Dir(s.root), lifeFile)).append(mark{s.Host, what, me})
}

// ready asks the database a query; it is the demo's readiness probe.
func (s *service) ready(stdout io.Writer) error {
	c, err := connect(s.Listen)
	if err != nil {
		fmt.Fprintln(stdout, err) // a probe's answer
		return err
	}
	return c.Close()
}
