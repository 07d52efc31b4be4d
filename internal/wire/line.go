package wire

import (
	"fmt"
	"strconv"
	"strings"
)

// A line is a list of fields separated by one space. A field is written bare
// where all its bytes are in the bare set, and as a double-quoted Go string
// (strconv.QuoteToASCII) otherwise. Every list of fields thus has exactly one
// spelling, ParseLine accepts no other, and what a line holds can be logged or
// put on a terminal as it is: it is printable ASCII.

// MaxLine is the longest line, in bytes, that ParseLine takes.
const MaxLine = 16 << 10

// FormatLine writes fields as one line, without the newline.
func FormatLine(fields ...string) string {
	var b strings.Builder
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(Quote(f))
	}
	return b.String()
}

// Quote writes one field: bare where it can be, quoted otherwise.
func Quote(field string) string {
	if isBare(field) {
		return field
	}
	return strconv.QuoteToASCII(field)
}

// ParseLine is the inverse of FormatLine: it fails on every spelling that
// FormatLine would not have written.
func ParseLine(line string) ([]string, error) {
	if len(line) > MaxLine {
		return nil, fmt.Errorf("line of %d bytes, at most %d are taken", len(line), MaxLine)
	}
	var fields []string
	for rest := line; ; {
		var field string
		if strings.HasPrefix(rest, `"`) {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, fmt.Errorf("field %d: quote is not closed or not well formed", len(fields)+1)
			}
			if field, err = strconv.Unquote(quoted); err != nil {
				return nil, fmt.Errorf("field %d: %s is not a quoted string", len(fields)+1, quoted)
			}
			if Quote(field) != quoted {
				return nil, fmt.Errorf("field %d: %s is not how this field is spelled", len(fields)+1, quoted)
			}
			rest = rest[len(quoted):]
		} else {
			end := strings.IndexByte(rest, ' ')
			if end < 0 {
				end = len(rest)
			}
			field, rest = rest[:end], rest[end:]
			if !isBare(field) {
				return nil, fmt.Errorf("field %d: %s must be quoted", len(fields)+1, strconv.QuoteToASCII(field))
			}
		}
		fields = append(fields, field)
		if rest == "" {
			return fields, nil
		}
		if rest[0] != ' ' {
			return nil, fmt.Errorf("field %d: text after the closing quote", len(fields))
		}
		rest = rest[1:]
	}
}

func isBare(s string) bool {
	for i := range len(s) {
		if !bareByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func bareByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("@%+=:,./_-~[]", c) >= 0
}
