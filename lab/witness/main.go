// Witness is a service for the lab that writes down its own life: when it was
// started, in which boot, and which lives of its upstreams answered then. What
// kido and the init systems say of it can be held against that.
//
//	witness -name web@web1 -listen :7003 -history FILE [-upstream db@db1=ADDR]… [-boot 500ms] [-pipe FILE]
//
// It speaks HTTP: its life with status 200 once it is ready, and 503 before, as a
// database answers that is starting up. Where -pipe is a named pipe as it starts,
// it is not ready before somebody writes to that. SIGHUP is a reload: it asks its
// upstreams anew. SIGTERM ends it.
package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Entry is a line of the history. Package lab's tests have it, too.
type Entry struct {
	Instance string            `json:"instance"`
	What     string            `json:"what"` // start, ready, reload, stop
	Life     string            `json:"life"`
	Boot     string            `json:"boot"`          // the kernel's boot id
	At       time.Time         `json:"at"`            // by the one clock that all machines of a lab share
	Saw      map[string]string `json:"saw,omitempty"` // upstream → its life; "-": it did not answer, or was not ready
}

type witness struct {
	name, life, boot string
	history          *os.File
	upstreams        map[string]string // instance → address
	ready            atomic.Bool
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	w := &witness{life: rand.Text()[:8], upstreams: map[string]string{}}
	flags := flag.NewFlagSet("witness", flag.ContinueOnError)
	flags.StringVar(&w.name, "name", "", "its `instance`")
	listen := flags.String("listen", "", "`address` to answer at")
	history := flags.String("history", "", "`file` to write its life to")
	boot := flags.Duration("boot", 0, "how long it is up before it is ready")
	pipe := flags.String("pipe", "", "named pipe, a `file`, for whose word it waits before it is ready, if it is there")
	flags.Func("upstream", "`INSTANCE=ADDRESS` of what it depends on", func(s string) error {
		name, address, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("not INSTANCE=ADDRESS")
		}
		w.upstreams[name] = address
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	w.boot = strings.TrimSpace(string(id))
	if w.history, err = os.OpenFile(*history, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	if err := w.note("start", w.look()); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- http.Serve(l, w) }()
	booted := make(chan struct{})
	go func() {
		<-time.After(*boot)
		if i, err := os.Stat(*pipe); err == nil && i.Mode()&os.ModeNamedPipe != 0 {
			if _, err := os.ReadFile(*pipe); err != nil {
				failed <- err
				return
			}
		}
		close(booted)
	}()
	for {
		select {
		case <-booted:
			booted = nil
			if err := w.note("ready", nil); err != nil {
				return err
			}
			w.ready.Store(true)
		case s := <-signals:
			if s != syscall.SIGHUP {
				return w.note("stop", nil)
			}
			if err := w.note("reload", w.look()); err != nil {
				return err
			}
		case err := <-failed:
			return err
		}
	}
}

func (w *witness) ServeHTTP(out http.ResponseWriter, _ *http.Request) {
	if !w.ready.Load() {
		http.Error(out, "the service is starting up", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprint(out, w.life)
}

// look asks every upstream for its life.
func (w *witness) look() map[string]string {
	client := http.Client{Timeout: 2 * time.Second}
	saw := map[string]string{}
	for name, address := range w.upstreams {
		saw[name] = "-"
		r, err := client.Get("http://" + address + "/")
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(r.Body, 100))
		r.Body.Close()
		if err == nil && r.StatusCode == http.StatusOK {
			saw[name] = string(text)
		}
	}
	return saw
}

// note writes an entry, and has it on disk before anything else is done: a power
// cut comes at any time.
func (w *witness) note(what string, saw map[string]string) error {
	line, err := json.Marshal(Entry{w.name, what, w.life, w.boot, time.Now(), saw})
	if err != nil {
		return err
	}
	if _, err := w.history.Write(append(line, '\n')); err != nil {
		return err
	}
	return w.history.Sync()
}
