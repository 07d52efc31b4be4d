package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

const maxWord = 256 // bytes

// Printable makes an [Answer]'s word of a text from elsewhere: one line of
// printable characters with single spaces, at most 256 bytes.
func Printable(text string) string {
	var b strings.Builder
	gap := false
	for _, r := range text {
		switch {
		case unicode.IsSpace(r):
			gap = b.Len() > 0
			continue
		case r == utf8.RuneError || !unicode.IsPrint(r):
			r = '?'
		}
		n := utf8.RuneLen(r)
		if gap {
			n++
		}
		if b.Len()+n > maxWord {
			break
		}
		if gap {
			b.WriteByte(' ')
			gap = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// NotReady is the answer that says why.
func NotReady(format string, args ...any) Answer {
	return Answer{Word: Printable(fmt.Sprintf(format, args...))}
}

// Untried is the answer that says why nothing could be asked.
func Untried(format string, args ...any) Answer {
	a := NotReady(format, args...)
	a.Untried = true
	return a
}

// Why is the answer for an error on the way to the service, within ctx (which
// holds the time-out of s).
func (s Spec) Why(ctx context.Context, err error) Answer {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return Untried("interrupted")
	case ctx.Err() != nil || overdue(err):
		return NotReady("no answer within %v", s.timeout())
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return NotReady("no such host: %s", dns.Name)
		}
		word := dns.Err
		if strings.Contains(word, "->") { // "read udp 127.0.0.1:39895->…: read: connection refused", each time another
			word = word[strings.LastIndex(word, ": ")+2:]
		}
		return NotReady("name lookup of %s failed: %s", dns.Name, word)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok { // "connection refused", "no route to host"
		return NotReady("%s", errno.Error())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return NotReady("connection closed without an answer")
	}
	return NotReady("%v", err)
}

// WhyConnected is Why for an error after a connection was there.
func (s Spec) WhyConnected(ctx context.Context, err error) Answer {
	a := s.Why(ctx, err)
	if Late(ctx, err) {
		return NotReady("connected, but %s", a.Word)
	}
	return a
}

// Late reports whether an error came of the time-out that ctx holds.
func Late(ctx context.Context, err error) bool {
	return errors.Is(ctx.Err(), context.DeadlineExceeded) || ctx.Err() == nil && overdue(err)
}

// overdue reports whether an error is a deadline's: of a connection, or of the dialer, which
// may notice it before the context does.
func overdue(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// Limit is ctx with the time-out of s.
func (s Spec) Limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout())
}
