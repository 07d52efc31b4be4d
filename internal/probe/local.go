package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	maxHeader = 64 << 10 // bytes of an HTTP answer that are read
	maxLine   = 4 << 10  // bytes of an HTTP status line
)

// Local makes probes from this machine: tcp, http and exec itself. Every other
// kind it hands to Program, a kido, which it runs for the one try as `PROGRAM
// probe-child`, with a Spec's line as standard input and an Answer's line
// expected as standard output; where this process is root, as nobody.
type Local struct {
	Program string // absolute path; "": /usr/local/bin/kido
}

// Try makes one try of s, within its time-out.
func (l Local) Try(ctx context.Context, s Spec) Answer {
	start := time.Now()
	ctx, cancel := s.Limit(ctx)
	defer cancel()
	a := l.try(ctx, s)
	a.Took = time.Since(start)
	return a
}

func (l Local) try(ctx context.Context, s Spec) Answer {
	if err := s.check(); err != nil {
		return NotReady("%s: %v", s.Kind, err)
	}
	switch s.Kind {
	case KindTCP:
		c, err := dial(ctx, s.Target)
		if err != nil {
			return s.Why(ctx, err)
		}
		c.Close()
		return Answer{Ready: true}
	case KindHTTP:
		return get(ctx, s)
	case KindExec:
		return execute(ctx, s)
	}
	return l.delegate(ctx, s)
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1}
	return d.DialContext(ctx, "tcp", address)
}

// get sends one GET and takes the head of the answer. A redirection is an
// answer: where it leads is another question.
func get(ctx context.Context, s Spec) Answer {
	u, err := s.url()
	if err != nil {
		return NotReady("%v", err)
	}
	c, err := dial(ctx, address(u))
	if err != nil {
		return s.Why(ctx, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: kido\r\nAccept: */*\r\nConnection: close\r\n\r\n", u.RequestURI(), u.Host); err != nil {
		return s.Why(ctx, err)
	}
	left := io.LimitedReader{R: c, N: maxHeader}
	r := bufio.NewReaderSize(&left, maxLine)
	for {
		code, status, err := readHead(r)
		switch {
		case err == errNotHTTP:
			return NotReady("%v", err)
		case err != nil && left.N <= 0:
			return NotReady("header of the HTTP answer is over %d KiB", maxHeader>>10)
		case err != nil:
			return s.Why(ctx, err)
		case code < 200: // "early hints" and the like, the answer follows
			continue
		case s.Accepts(code):
			return Answer{Ready: true}
		}
		return NotReady("HTTP %s", status)
	}
}

var errNotHTTP = errors.New("answered, but not in HTTP/1")

// readHead reads a status line ("503 Service Unavailable" of it is returned)
// and all headers behind it.
func readHead(r *bufio.Reader) (code int, status string, err error) {
	line, _, err := r.ReadLine()
	if err != nil {
		return 0, "", err
	}
	version, status, _ := strings.Cut(string(line), " ")
	digits, _, _ := strings.Cut(status, " ")
	code, err = strconv.Atoi(digits)
	if version != "HTTP/1.1" && version != "HTTP/1.0" || err != nil || len(digits) != 3 || code < 100 || code > 599 {
		return 0, "", errNotHTTP
	}
	for inLine := false; ; {
		line, more, err := r.ReadLine()
		if err != nil {
			return 0, "", err
		}
		if len(line) == 0 && !inLine {
			return code, status, nil
		}
		inLine = more // what follows is the rest of a long header, be it empty
	}
}
