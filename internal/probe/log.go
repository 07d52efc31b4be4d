package probe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	maxLog = 16 << 20 // bytes of a log that are read: the end of a file, the beginning of a journal
	maxCut = 64 << 10 // bytes of a line; what is longer is taken as several
	tick   = 10 * time.Millisecond
)

// readLog looks for a line of this incarnation in a log file: one that matches, from the
// last line on with which an incarnation begins. It is read from its end. Where it was
// rotated since that line was written, the incarnation is not found: the older file is
// not read, for sooner or later that is gone too.
func readLog(ctx context.Context, s Spec) Answer {
	f, info, err := openFile(s.Target)
	if err != nil {
		return noFile(err, "%v", err)
	}
	defer f.Close()
	// A file's time is that of the kernel's last tick.
	if since := s.Life.Since; !since.IsZero() && info.ModTime().Before(since.Add(-tick)) {
		return NotReady("%s was not written to since this start", s.Target)
	}
	begins, match := regexp.MustCompile(s.Options["begins"]), regexp.MustCompile(s.Options["match"])
	matched, begun := false, false
	whole, err := backwards(ctx, f, info.Size(), func(line []byte) bool {
		matched = matched || match.Match(line)
		begun = begins.Match(line)
		return !begun
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return s.Why(ctx, err)
	case err != nil:
		return Untried("%s: %v", s.Target, errno(err))
	case begun && matched:
		return Answer{Ready: true}
	case begun:
		return NotReady("no line matching %s yet in this incarnation", s.Options["match"])
	case whole:
		return NotReady("no line of %s matches %s, with which an incarnation begins (one that was rotated away is not read)", s.Target, s.Options["begins"])
	}
	return NotReady("no line matches %s, with which an incarnation begins, in the last %d MiB of %s", s.Options["begins"], maxLog>>20, s.Target)
}

// backwards calls line with the lines of a file that is size bytes long, the last one
// first, until it returns false or maxLog bytes were read. It reports whether it came to
// the beginning of the file.
func backwards(ctx context.Context, f io.ReaderAt, size int64, line func([]byte) bool) (whole bool, err error) {
	var rest []byte // the end of a line whose beginning is not read yet
	seen := 0       // newlines
	for at := size; at > 0; {
		n := min(at, maxCut)
		if size-at+n > maxLog {
			return false, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		at -= n
		chunk := make([]byte, n, n+int64(len(rest)))
		// A file that was cut off meanwhile is shorter.
		if n, err := f.ReadAt(chunk, at); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		} else if chunk = chunk[:n]; n == 0 {
			continue
		}
		chunk = append(chunk, rest...)
		for {
			i := bytes.LastIndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			text := chunk[i+1:]
			chunk = chunk[:i]
			if seen++; seen == 1 && len(text) == 0 {
				continue // behind the last newline there is no line
			}
			if !line(bytes.TrimSuffix(text, []byte("\r"))) {
				return false, nil
			}
		}
		rest = chunk
		if len(rest) >= maxCut {
			if !line(rest) {
				return false, nil
			}
			rest = nil
		}
	}
	if len(rest) > 0 {
		line(bytes.TrimSuffix(rest, []byte("\r")))
	}
	return true, nil
}

// journal looks for a line in what a unit's processes wrote to systemd's journal in one
// incarnation. Of the fields that say which, this is the one that nobody else can set.
func journal(ctx context.Context, s Spec) Answer {
	if !isInvocation(s.Life.Token) {
		return Untried("which lines of the journal belong to an incarnation only systemd tells, of a unit that runs")
	}
	return searchJournal(ctx, s, "_SYSTEMD_INVOCATION_ID="+s.Life.Token)
}

// isInvocation reports whether a token is an invocation id of systemd's.
func isInvocation(token string) bool {
	return len(token) == 32 && strings.Trim(token, "0123456789abcdef") == ""
}

// searchJournal reads what journalctl finds, the oldest line first, to the one that
// matches.
func searchJournal(ctx context.Context, s Spec, args ...string) Answer {
	program := "/usr/bin/journalctl"
	if _, err := os.Stat(program); err != nil {
		program = "/bin/journalctl" // where these are two folders yet
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	plain := command(append([]string{program, "--no-pager", "--all", "--output=cat"}, args...))
	cmd.Args, cmd.Dir, cmd.Env, cmd.SysProcAttr = plain.Args, plain.Dir, plain.Env, plain.SysProcAttr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 500 * time.Millisecond
	said := bounded{most: maxOutput}
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Untried("%v", err)
	}
	switch err := cmd.Start(); {
	case err != nil && ctx.Err() != nil:
		return s.Why(ctx, err)
	case errors.Is(err, os.ErrNotExist):
		return Untried("the journal is read by %s, and that is not there", program)
	case err != nil:
		return Untried("%s: %v", program, errno(err))
	}
	match := regexp.MustCompile(s.Options["match"])
	matched, err := scan(out, match)
	over := errors.Is(err, errMuch)
	if matched || over {
		cancel() // the rest does not matter
		_ = cmd.Wait()
	} else {
		err = cmd.Wait()
	}
	switch {
	case matched:
		return Answer{Ready: true}
	case over:
		return NotReady("no line matches %s in the first %d MiB of this incarnation", s.Options["match"], maxLog>>20)
	case ctx.Err() != nil:
		return s.Why(ctx, err)
	case strings.Contains(said.String(), "insufficient permissions"), strings.Contains(said.String(), "not seeing messages from other users"):
		return Untried("the journal cannot be read: add user %s to the group systemd-journal", ourselves())
	case err != nil:
		line, _ := firstLine(said.String())
		return Untried("journalctl: %v: %s", err, line)
	}
	return NotReady("no line matching %s yet in this incarnation", s.Options["match"])
}

var errMuch = errors.New("there is more than is read")

// scan looks for a line that matches.
func scan(r io.Reader, match *regexp.Regexp) (bool, error) {
	const none = "-- No entries --" // so journalctl says to nobody in particular
	in := bufio.NewReaderSize(r, maxCut)
	for read := 0; read < maxLog; {
		line, err := in.ReadSlice('\n')
		read += len(line)
		text := bytes.TrimSuffix(line, []byte("\n"))
		if len(line) > 0 && string(text) != none && match.Match(text) {
			return true, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return false, nil // also where its process was killed: that tells why
		}
	}
	return false, errMuch
}

func ourselves() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Geteuid())
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), b.most-b.Len())])
	return len(p), nil
}
