package probe

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	maxHeader = 64 << 10 // bytes of an HTTP answer that are read
	maxLine   = 4 << 10  // bytes of an HTTP status line
	maxText   = 1 << 20  // bytes of a file that are read

	tokenHeader = "header:" // an HTTP answer's option token
	tokenJSON   = "json:"
)

// Local makes probes from this machine: what is local of them itself. All others
// it hands to Program, a kido, which it runs for the one try as `PROGRAM
// probe-child`, with a [Task] as standard input and an Answer's line
// expected as standard output; where this process is root, as nobody.
type Local struct {
	Program string // absolute path; "": /usr/local/bin/kido
}

// Try makes one try of s, within its time-out.
func (l Local) Try(ctx context.Context, s Spec) Answer { return Make(ctx, s, l.once) }

// Make makes one try of s, for the kinds that once can do: it minds the time-out,
// reads the secrets, takes combinations apart, and applies what every kind takes. once
// gets a Spec that is checked, with its secrets, and no combination.
func Make(ctx context.Context, s Spec, once func(context.Context, Spec) Answer) Answer {
	start := time.Now()
	var a Answer
	if err := s.Check(); err != nil {
		a = Untried("%s: %v", s.Kind, err)
	} else if a = s.try(ctx, once); a.Ready && len(s.Of) > 0 && ctx.Err() != nil {
		a = Untried("interrupted") // a part that was cut off does not make a not of it ready
	}
	a.Took = time.Since(start)
	return a
}

func (s Spec) try(ctx context.Context, once func(context.Context, Spec) Answer) Answer {
	start := time.Now()
	ctx, cancel := s.Limit(ctx)
	defer cancel()
	var a Answer
	if len(s.Of) > 0 {
		a = combine(ctx, s, func(ctx context.Context, part Spec) Answer { return part.try(ctx, once) })
	} else if loaded, err := s.Load(); err != nil {
		a = Untried("%v", err)
	} else {
		s = loaded
		a = once(ctx, s)
	}
	return s.finish(a, time.Since(start))
}

func (l Local) once(ctx context.Context, s Spec) Answer {
	if !s.Local() {
		return l.delegate(ctx, s)
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
	case KindFile:
		return inTime(ctx, s, look)
	case KindLog:
		if s.Journal() {
			return journal(ctx, s)
		}
		return inTime(ctx, s, readLog)
	default:
		return execute(ctx, s)
	}
}

// inTime gives up on what reads a file where its file system hangs; nothing can make
// it end then.
func inTime(ctx context.Context, s Spec, read func(context.Context, Spec) Answer) Answer {
	answer := make(chan Answer, 1)
	go func() { answer <- read(ctx, s) }()
	select {
	case a := <-answer:
		return a
	case <-ctx.Done():
		return s.Why(ctx, ctx.Err())
	}
}

// look looks for a file, and into it where that is asked for.
func look(_ context.Context, s Spec) Answer {
	if _, err := os.Stat(s.Target); err != nil {
		return noFile(err, "%s: %v", s.Target, errno(err))
	}
	want := s.Options["match"]
	if want == "" {
		return Answer{Ready: true}
	}
	f, _, err := openFile(s.Target)
	if err != nil {
		return noFile(err, "%v", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText))
	switch {
	case err != nil:
		return Untried("%s: %v", s.Target, errno(err))
	case !regexp.MustCompile(want).Match(text):
		return NotReady("%s does not hold %s", s.Target, want)
	}
	return Answer{Ready: true}
}

// noFile is the answer where a file could not be read: that it is not there, or is none,
// is an answer.
func noFile(err error, format string, args ...any) Answer {
	a := NotReady(format, args...)
	_, ours := errors.AsType[syscall.Errno](err)
	a.Untried = ours && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
	return a
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1}
	return d.DialContext(ctx, "tcp", address)
}

// get sends one GET and takes the head of the answer. A redirection is an
// answer: where it leads is another question.
func get(ctx context.Context, s Spec) Answer {
	u, err := s.URL()
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
	host := cmp.Or(s.Options["host"], u.Host)
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: kido\r\nAccept: */*\r\nConnection: close\r\n%s\r\n", u.RequestURI(), host, headers(s)); err != nil {
		return s.WhyConnected(ctx, err)
	}
	tells, _ := strings.CutPrefix(s.Options["token"], tokenHeader)
	left := io.LimitedReader{R: c, N: maxHeader}
	r := bufio.NewReaderSize(&left, maxLine)
	for {
		code, status, life, err := readHead(r, tells)
		switch {
		case err == errNotHTTP || err == errTLS:
			return NotReady("%v", err)
		case err != nil && left.N <= 0:
			return NotReady("header of the HTTP answer is over %d KiB", maxHeader>>10)
		case err != nil:
			return s.WhyConnected(ctx, err)
		case code < 200: // "early hints" and the like, the answer follows
			continue
		}
		return s.Judge(code, status, life)
	}
}

// headers are those of the site's own in the request.
func headers(s Spec) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.Options)) {
		if header, ok := strings.CutPrefix(name, "header."); ok {
			fmt.Fprintf(&b, "%s: %s\r\n", header, s.Options[name])
		}
	}
	return b.String()
}

// Judge is what an HTTP status means, and what the server says of its life, "" where
// it was not asked or does not say.
func (s Spec) Judge(code int, status, life string) Answer {
	ready, degraded := s.Weigh(code)
	if !ready {
		return NotReady("HTTP %s", status)
	}
	a := Answer{Ready: true}
	if s.TellsLife() {
		if life == "" {
			return NotReady("HTTP %s, but it does not tell its incarnation: no %s", status, s.Options["token"])
		}
		a = Alive(life, 0)
	}
	if degraded {
		return a.Degrade("HTTP " + status)
	}
	return a
}

var (
	errNotHTTP = errors.New("answered, but not in HTTP/1")
	errTLS     = errors.New("answered in TLS: say https")
)

// readHead reads a status line ("503 Service Unavailable" of it is returned)
// and all headers behind it, of which it returns one.
func readHead(r *bufio.Reader, header string) (code int, status, value string, err error) {
	switch head, err := r.Peek(2); {
	case err != nil:
		return 0, "", "", err
	case string(head) == "\x15\x03": // an alert
		return 0, "", "", errTLS
	}
	line, _, err := r.ReadLine()
	if err != nil {
		return 0, "", "", err
	}
	version, status, _ := strings.Cut(string(line), " ")
	digits, _, _ := strings.Cut(status, " ")
	code, err = strconv.Atoi(digits)
	if version != "HTTP/1.1" && version != "HTTP/1.0" || err != nil || len(digits) != 3 || code < 100 || code > 599 {
		return 0, "", "", errNotHTTP
	}
	for wanted, inLine := false, false; ; {
		line, more, err := r.ReadLine()
		if err != nil {
			return 0, "", "", err
		}
		if len(line) == 0 && !inLine {
			return code, status, strings.TrimSpace(value), nil
		}
		if !inLine {
			name, text, ok := strings.Cut(string(line), ":")
			wanted = ok && header != "" && value == "" && strings.EqualFold(name, header)
			line = []byte(text)
		}
		if wanted {
			value += string(line)
		}
		inLine = more // what follows is the rest of a long header, be it empty
	}
}
