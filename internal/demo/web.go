package demo

import (
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// workers of each web server, each with a connection of its own to the
	// database.
	workers = 4
	// warmUp is how long a web server takes from its port being open to its
	// first page.
	warmUp = 200 * time.Millisecond
	// readyPath says whether the server serves; it asks no worker and no
	// database, as is usual.
	readyPath = "/ready"
)

// web is the body of a web server. A page is answered by a worker with a query
// on its connection to the database. The connections are persistent in the bad
// sense of the memo: a worker opens one when it starts, and keeps it when it is
// dead, so that each of its later pages fails until the server is restarted.
func web(s settings, l net.Listener, ready func()) error {
	pool := make(chan *worker, workers) // first in, first out: all get their turn
	var serving atomic.Bool
	time.AfterFunc(warmUp, func() {
		for range workers {
			w := &worker{address: s.Database}
			w.dial()
			pool <- w
		}
		ready()
		serving.Store(true)
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+readyPath, func(w http.ResponseWriter, _ *http.Request) {
		if !serving.Load() {
			http.Error(w, "starting up", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		k := <-pool
		defer func() { pool <- k }()
		if err := k.page(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "a page of %s\n", s.Host)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: answerTime}
	return server.Serve(l)
}

// worker answers one page at a time.
type worker struct {
	address string
	db      *connection // nil where there was none yet
	err     error       // why there is none
}

func (w *worker) dial() { w.db, w.err = connect(w.address) }

func (w *worker) page() error {
	if w.db == nil {
		w.dial()
	}
	if w.err != nil {
		return w.err
	}
	return w.db.ask(query, row)
}
