package report

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// vt is a small terminal: it understands exactly what the live view may send,
// and takes note of everything else.
type vt struct {
	width, height int
	above         []vtRow // scrolled off
	rows          []vtRow // the screen
	x, y          int
	pending       bool // the last column is filled: the next character wraps
	strange       []string
	rest          []byte // an unfinished sequence
}

type vtRow struct {
	cells []rune // 0: the right half of a wide character
	wraps bool   // goes on in the next row
}

func newVT(width, height int) *vt {
	return &vt{width: width, height: height, rows: make([]vtRow, height)}
}

func (t *vt) Write(p []byte) (int, error) {
	n := len(p)
	p = append(t.rest, p...)
	for len(p) > 0 {
		used := t.one(p)
		if used == 0 {
			break
		}
		p = p[used:]
	}
	t.rest = append([]byte(nil), p...)
	return n, nil
}

// one takes the first thing in p; 0 where it is not whole.
func (t *vt) one(p []byte) int {
	switch {
	case p[0] == '\r':
		t.x, t.pending = 0, false
		return 1
	case p[0] == '\n':
		t.down()
		t.pending = false
		return 1
	case p[0] == 0x1b:
		end := 2
		for end < len(p) && (p[end] < '@' || p[end] > '~') {
			end++
		}
		if end >= len(p) {
			return 0
		}
		if p[1] != '[' {
			t.strange = append(t.strange, fmt.Sprintf("%q", p[:end+1]))
		} else {
			t.csi(p[end], string(p[2:end]))
		}
		return end + 1
	case p[0] < ' ' || p[0] == 0x7f:
		t.strange = append(t.strange, fmt.Sprintf("%q", p[:1]))
		return 1
	case !utf8.FullRune(p):
		return 0
	}
	r, size := utf8.DecodeRune(p)
	t.put(r)
	return size
}

func (t *vt) csi(final byte, arg string) {
	row := &t.rows[t.y]
	switch {
	case final == 'A':
		n := 0
		fmt.Sscan(arg, &n)
		t.y, t.pending = max(0, t.y-n), false
	case final == 'K' && arg == "":
		row.cells, row.wraps = row.cells[:min(t.x, len(row.cells))], false
	case final == 'J' && arg == "":
		row.cells, row.wraps = row.cells[:min(t.x, len(row.cells))], false
		clear(t.rows[t.y+1:])
	case final == 'm':
	default:
		t.strange = append(t.strange, fmt.Sprintf("CSI %q %c", arg, final))
	}
}

func (t *vt) put(r rune) {
	wide := r >= 0x1100 && (r < 0x2000 || r >= 0x2e80) // near enough for the tests
	need := 1
	if wide {
		need = 2
	}
	if t.pending || t.x+need > t.width {
		t.rows[t.y].wraps = true
		t.x, t.pending = 0, false
		t.down()
	}
	row := &t.rows[t.y]
	for len(row.cells) < t.x+need {
		row.cells = append(row.cells, ' ')
	}
	row.cells[t.x] = r
	if wide {
		row.cells[t.x+1] = 0
	}
	if t.x += need; t.x == t.width {
		t.x, t.pending = t.width-1, true
	}
}

func (t *vt) down() {
	if t.y < t.height-1 {
		t.y++
		return
	}
	t.above = append(t.above, t.rows[0])
	t.rows = append(t.rows[1:], vtRow{})
}

// resize wraps anew what was wrapped, as terminals do. The cursor must stand at
// the beginning of a line.
func (t *vt) resize(width, height int) {
	all := append(append([]vtRow(nil), t.above...), t.rows[:t.y+1]...)
	var next []vtRow
	var line []rune
	for _, row := range all {
		line = append(line, row.cells...)
		if row.wraps {
			continue
		}
		for len(line) > width {
			next = append(next, vtRow{line[:width:width], true})
			line = line[width:]
		}
		next = append(next, vtRow{cells: line})
		line = nil
	}
	t.width, t.height, t.x, t.pending = width, height, 0, false
	cut := max(0, len(next)-height)
	t.above = next[:cut:cut]
	t.y = len(next) - cut - 1
	t.rows = append(next[cut:], make([]vtRow, height-(len(next)-cut))...)
}

func text(rows []vtRow) string {
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for _, r := range row.cells {
			if r != 0 {
				line += string(r)
			}
		}
		if row.wraps {
			b.WriteString(line)
		} else {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	return b.String()
}

func (t *vt) screen() string { return strings.TrimRight(text(t.rows), "\n") + "\n" }

// all is everything that was ever left on the terminal.
func (t *vt) all() string {
	return strings.TrimRight(text(append(append([]vtRow(nil), t.above...), t.rows...)), "\n") + "\n"
}
