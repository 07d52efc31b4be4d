package site

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one problem of a site file.
type Error struct {
	File    string // as given to Load or Parse
	Line    int    // from 1
	Column  int    // from 1, in characters
	Message string // "service web: no such upstream \"oracel\""
	Hint    string // what to do about it: "did you mean \"oracle\"?"; may be empty
	// Source is the offending line, fit for a terminal: what is not printable
	// is replaced, and of a very long line only the part around the column is
	// left.
	Source string

	caret int // where in Source the column is, in characters from 0
}

// Error is one line: file:line:column: message.
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Detail is the whole report in several lines, without a final newline: the
// line of Error, the hint, the source line and a caret under the column.
func (e *Error) Detail() string {
	var b strings.Builder
	b.WriteString(e.Error())
	if e.Hint != "" {
		b.WriteString("\n  " + e.Hint)
	}
	if e.Source != "" {
		number := fmt.Sprintf("%5d", e.Line)
		fmt.Fprintf(&b, "\n%s | %s\n%s | ", number, e.Source, strings.Repeat(" ", len(number)))
		for i, r := range []rune(e.Source) {
			if i == e.caret {
				break
			}
			if r != '\t' { // a tab under a tab keeps the caret in its place
				r = ' '
			}
			b.WriteRune(r)
		}
		b.WriteByte('^')
	}
	return b.String()
}

// Errors are all problems of one file, sorted by position; never empty where
// it is returned as an error.
type Errors []*Error

// Error is the Detail of every problem.
func (es Errors) Error() string {
	all := make([]string, len(es))
	for i, e := range es {
		all[i] = e.Detail()
	}
	return strings.Join(all, "\n")
}

// Unwrap lets errors.As and errors.Is see each problem.
func (es Errors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return all
}

// position is a place in the text, both from 1; the column counts characters.
type position struct{ line, column int }

// reporter collects the problems of one text.
type reporter struct {
	file     string
	source   string // the whole file, without a byte order mark
	problems Errors
	seen     map[mistake]bool
	secret   map[int]bool // lines that may hold a secret
	effort   int          // names compared for suggestions so far
}

// mistake identifies a problem: an anchored value that is used by ten services
// is wrong once.
type mistake struct {
	at   position
	what string
}

// report adds one problem. The context ("service web") goes in front of the
// message, and does not tell two mistakes apart.
func (r *reporter) report(at position, context, what, hint string) {
	if r.seen[mistake{at, what}] {
		return
	}
	if r.seen == nil {
		r.seen = map[mistake]bool{}
	}
	r.seen[mistake{at, what}] = true
	if context != "" {
		what = context + ": " + what
	}
	r.problems = append(r.problems, &Error{File: r.file, Line: at.line, Column: at.column, Message: what, Hint: hint})
}

// sorted ends the collecting: it puts the problems in the order of the file,
// each inside the text and with its source line.
func (r *reporter) sorted() Errors {
	slices.SortStableFunc(r.problems, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	// One walk for all problems: a JSON file may be a single line of megabytes
	// with thousands of them.
	line, begin := 1, 0
	end := r.lineEnd(begin)
	column, at := 1, 0
	looked := 0 // the last line that was searched for a secret
	for _, e := range r.problems {
		// Behind the last line feed is no line to be shown: what was missed
		// there is missing at the end of the line before.
		for line < e.Line && end+1 < len(r.source) {
			line, begin = line+1, end+1
			end = r.lineEnd(begin)
			column, at = 1, begin
		}
		text := strings.TrimSuffix(r.source[begin:end], "\r")
		for at < begin+len(text) && (column < e.Column || line < e.Line) {
			_, size := utf8.DecodeRuneInString(r.source[at:])
			column, at = column+1, at+size
		}
		e.Line, e.Column = line, column
		if looked != line {
			looked = line
			if mayHoldSecret.MatchString(text) {
				r.concealLine(line)
			}
		}
		if !r.secret[line] {
			e.Source, e.caret = excerpt(text, at-begin)
		}
	}
	return r.problems
}

// mayHoldSecret finds a key under which people write secrets, with a value in place
// of where it is to be found.
var mayHoldSecret = regexp.MustCompile(`(?i)(pass?w\w*|passphrase|bearer|authorization|cookie)["']?[ \t]*:[ \t]*[^\s{*#]`)

// conceal has no message show the lines at which a value begins.
func (r *reporter) conceal(n *node) { r.concealInside(n, 4) }

func (r *reporter) concealLine(line int) {
	if r.secret == nil {
		r.secret = map[int]bool{}
	}
	r.secret[line] = true
}

func (r *reporter) concealInside(n *node, depth int) {
	r.concealLine(n.line)
	for i := 0; i < len(n.content) && depth > 0; i++ {
		r.concealInside(n.content[i], depth-1)
	}
}

// lineEnd is the offset of the line feed that ends the line at begin, or of
// the end of the text.
func (r *reporter) lineEnd(begin int) int {
	if i := strings.IndexByte(r.source[begin:], '\n'); i >= 0 {
		return begin + i
	}
	return len(r.source)
}

// excerpt cuts at most 120 characters out of a line, 100 of them before the
// offset at, and makes them printable. caret is where at is, in characters.
func excerpt(line string, at int) (printable string, caret int) {
	const before, widest = 100, 120
	from := at
	for ; from > 0 && caret < before; caret++ {
		_, size := utf8.DecodeLastRuneInString(line[:from])
		from -= size
	}
	var b strings.Builder
	characters := 0
	for _, c := range line[from:] {
		if characters++; characters > widest {
			break
		}
		if c != '\t' && !unicode.IsPrint(c) {
			c = unicode.ReplacementChar
		}
		b.WriteRune(c)
	}
	return b.String(), caret
}

// suggest is didYouMean with a bound: a file that is wrong from end to end must
// not take minutes to say so.
func (r *reporter) suggest(wrong string, names []string) string {
	const enough = 2_000_000
	if r.effort > enough {
		return ""
	}
	r.effort += len(names)
	return didYouMean(wrong, names)
}

// didYouMean words the name that was probably meant as a hint; "" where none is
// near enough. Of several the first one wins.
func didYouMean(wrong string, names []string) string {
	if best := nearest(wrong, names); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return ""
}

func nearest(wrong string, names []string) string {
	wrong = strings.ToLower(wrong)
	best, least := "", min(max(1, len(wrong)/3), 3)+1
	for _, name := range names {
		if gap := len(name) - len(wrong); gap >= least || -gap >= least {
			continue
		}
		if d := distance(wrong, strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is the number of insertions, deletions, substitutions and swaps of
// neighbours between two words (optimal string alignment), in bytes.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func quoted(names []string) string {
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(all, ", ")
}
