package cli

import (
	"io"
	"unicode"
	"unicode/utf8"
)

// printable passes on what prints, and ends of lines: no escape sequence of a
// host's reaches the terminal.
type printable struct {
	to   io.Writer
	rest []byte // of a character that has not come whole
}

func (w *printable) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	var out []byte
	for utf8.FullRune(w.rest) {
		r, size := utf8.DecodeRune(w.rest)
		w.rest = w.rest[size:]
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) && r != '\n' && r != '\r' && r != '\t' {
			r = '?'
		}
		out = utf8.AppendRune(out, r)
	}
	if _, err := w.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
