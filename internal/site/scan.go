package site

import "strings"

// scan reads the plain part of YAML that nearly every site file keeps to, JSON
// included, several times as fast as the YAML parser does. It gives up, and
// returns nil, at the first thing that is not in that part or might be a
// mistake: the YAML parser then reads the whole text, and words the error.
//
// It knows block mappings and sequences, flow collections, plain and quoted
// scalars of one line, and comments. It does not know anchors, tags, block
// scalars, documents, tabs, CRLF, empty values, booleans, keys that are not
// scalars, or anything but ASCII outside comments. What it does read it reads as the YAML
// parser would, to the tag and the column (FuzzScan).
func scan(text string) (root *node) {
	if strings.ContainsAny(text, "\t\r") {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			if _, ok := v.(gaveUp); !ok {
				panic(v)
			}
			root = nil
		}
	}()
	s := &scanner{text: text, line: 1}
	s.nextToken()
	if s.end() {
		giveUp()
	}
	root = s.block(-1, 0)
	if !s.end() {
		giveUp()
	}
	return root
}

// gaveUp unwinds the scanner: every function of it can come upon something
// that it does not know.
type gaveUp struct{}

func giveUp() { panic(gaveUp{}) }

type scanner struct {
	text      string
	pos       int
	line      int // from 1
	lineStart int // offset
	slab      []node
	open      []*node // content of the collections that are not closed yet
	pointers  []*node // room for content of closed ones
}

func (s *scanner) end() bool { return s.pos >= len(s.text) }

// at is the byte at an offset from here, 0 behind the end.
func (s *scanner) at(offset int) byte {
	if s.pos+offset < len(s.text) {
		return s.text[s.pos+offset]
	}
	return 0
}

// column is where s.pos is in its line, from 0.
func (s *scanner) column() int { return s.pos - s.lineStart }

// longestKey is less than what YAML allows, 1024.
const longestKey = 1000

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == 0 }

func (s *scanner) newNode(k kind) *node {
	if len(s.slab) == 0 {
		s.slab = make([]node, 256)
	}
	n := &s.slab[0]
	s.slab = s.slab[1:]
	n.kind, n.line, n.column = k, s.line, s.column()+1
	return n
}

// closed moves what was opened since mark into a collection.
func (s *scanner) closed(n *node, mark int) *node {
	count := len(s.open) - mark
	if len(s.pointers) < count {
		s.pointers = make([]*node, max(count, 1024))
	}
	n.content = s.pointers[:count:count]
	s.pointers = s.pointers[count:]
	copy(n.content, s.open[mark:])
	s.open = s.open[:mark]
	return n
}

func (s *scanner) spaces() {
	for s.at(0) == ' ' {
		s.pos++
	}
}

// nextToken goes on to the next thing that is neither white nor a comment.
func (s *scanner) nextToken() {
	for {
		s.spaces()
		switch {
		case s.at(0) == '#' && (s.pos == s.lineStart || s.text[s.pos-1] == ' '):
			if i := strings.IndexByte(s.text[s.pos:], '\n'); i >= 0 {
				s.pos += i
			} else {
				s.pos = len(s.text)
			}
		case s.at(0) == '\n':
			s.pos++
			s.line++
			s.lineStart = s.pos
		case s.pos == s.lineStart && (strings.HasPrefix(s.text[s.pos:], "---") || strings.HasPrefix(s.text[s.pos:], "...")):
			giveUp() // ends a document
		default:
			return
		}
	}
}

// block reads the node at s.pos, which is indented more than parent, and goes
// on to the next token, which is indented less than the node or as it is.
func (s *scanner) block(parent, depth int) *node {
	if depth > maxDepth/2 {
		giveUp()
	}
	if s.at(0) == '-' && isSpace(s.at(1)) {
		return s.blockSequence(depth)
	}
	mark, indent := len(s.open), s.column()
	first := s.inline(parent, depth)
	if !s.colon() {
		s.lastOfLine(parent)
		return first
	}
	n := s.newNode(mapping)
	n.line, n.column = first.line, first.column
	for key := first; ; key = s.inline(indent, depth) {
		if !s.colon() || key.kind != scalar || s.column()-indent > longestKey {
			giveUp()
		}
		s.pos++
		s.open = append(s.open, key, s.blockValue(indent, depth))
		if s.end() || s.column() < indent {
			return s.closed(n, mark)
		}
		if s.column() > indent || s.at(0) == '-' && isSpace(s.at(1)) {
			giveUp()
		}
	}
}

// colon says whether the key that was just read is one.
func (s *scanner) colon() bool {
	s.spaces()
	return s.at(0) == ':' && isSpace(s.at(1))
}

// blockValue reads what stands behind the colon of a block mapping.
func (s *scanner) blockValue(indent, depth int) *node {
	line := s.line
	s.nextToken()
	switch dash := s.at(0) == '-' && isSpace(s.at(1)); {
	case s.end():
		giveUp()
	case s.line == line && dash:
		giveUp()
	case s.line == line:
		n := s.inline(indent, depth+1)
		s.lastOfLine(indent)
		return n
	case s.column() == indent && dash:
		return s.blockSequence(depth + 1)
	case s.column() <= indent:
		giveUp()
	}
	return s.block(indent, depth+1)
}

func (s *scanner) blockSequence(depth int) *node {
	if depth > maxDepth/2 {
		giveUp()
	}
	n, mark, indent := s.newNode(sequence), len(s.open), s.column()
	for {
		s.pos++
		s.nextToken()
		if s.end() || s.column() <= indent {
			giveUp()
		}
		s.open = append(s.open, s.block(indent, depth+1))
		if s.end() || s.column() < indent || s.column() == indent && !(s.at(0) == '-' && isSpace(s.at(1))) {
			return s.closed(n, mark)
		}
		if s.column() > indent {
			giveUp()
		}
	}
}

// lastOfLine goes on from the end of a value, which must be the end of its
// line, to the next token. A line indented more than indent would go on with
// the value.
func (s *scanner) lastOfLine(indent int) {
	s.spaces()
	if !s.end() && s.at(0) != '\n' && (s.at(0) != '#' || s.text[s.pos-1] != ' ') {
		giveUp()
	}
	s.nextToken()
	if !s.end() && s.column() > indent {
		giveUp()
	}
}

// inline reads a scalar or a flow collection, up to its last character.
func (s *scanner) inline(indent, depth int) *node {
	switch s.at(0) {
	case '[', '{':
		return s.flow(indent, depth)
	}
	return s.scalar(false)
}

func (s *scanner) scalar(inFlow bool) *node {
	n := s.newNode(scalar)
	switch c := s.at(0); c {
	case '"', '\'':
		n.tag, n.value = "!!str", s.quotedText(c)
	case '-', ':':
		if next := s.at(1); inFlow && c == ':' || isSpace(next) || strings.IndexByte(",[]{}", next) >= 0 {
			giveUp()
		}
		n.value = s.plainText(inFlow)
		n.tag = tagOf(n.value)
	case '?', ',', ']', '}', '#', '&', '*', '!', '|', '>', '%', '@', '`':
		giveUp()
	default:
		n.value = s.plainText(inFlow)
		n.tag = tagOf(n.value)
	}
	return n
}

// special marks the bytes at which a plain scalar may end or be unknown here.
var special = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 0x80 || c < ' ' || strings.IndexByte(" :#,[]{}", byte(c)) >= 0
	}
	return t
}()

func (s *scanner) plainText(inFlow bool) string {
	from := s.pos
	to := from // behind the last byte that is not a space
loop:
	for i := from; i < len(s.text); i++ {
		c := s.text[i]
		if !special[c] {
			to = i + 1
			continue
		}
		switch {
		case c >= 0x80:
			giveUp()
		case c == '\n':
			break loop
		case c == ' ':
			continue
		case c == ':' && (i+1 == len(s.text) || isSpace(s.text[i+1])):
			break loop
		case c == ':' && inFlow && strings.IndexByte(",[]{}", s.text[i+1]) >= 0:
			giveUp()
		case c == '#' && i > from && s.text[i-1] == ' ':
			break loop
		case inFlow && c != ':' && c != '#':
			break loop
		}
		to = i + 1
	}
	if to == from {
		giveUp()
	}
	s.pos = to
	return s.text[from:to]
}

func (s *scanner) quotedText(quote byte) string {
	s.pos++
	from, escaped := s.pos, false
	for ; s.at(0) != quote; s.pos++ {
		switch c := s.at(0); {
		case c == '\\' && quote == '"':
			if next := s.at(1); next != '"' && next != '\\' && next != '/' {
				giveUp()
			}
			escaped = true
			s.pos++
		case c < ' ' || c >= 0x80:
			giveUp()
		}
	}
	text := s.text[from:s.pos]
	s.pos++
	switch next := s.at(0); {
	case next == quote, !isSpace(next) && strings.IndexByte(",]}:", next) < 0:
		giveUp()
	case escaped:
		text = unescape.Replace(text)
	}
	return text
}

var unescape = strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\/`, `/`)

// flow reads […] or {…}. Its lines must be indented more than indent.
func (s *scanner) flow(indent, depth int) *node {
	if depth > maxDepth/2 {
		giveUp()
	}
	closer, k := byte(']'), sequence
	if s.at(0) == '{' {
		closer, k = '}', mapping
	}
	n, mark := s.newNode(k), len(s.open)
	s.pos++
	for s.flowToken(indent); s.at(0) != closer; s.flowToken(indent) {
		if k == mapping {
			key := s.scalar(true)
			s.flowToken(indent)
			if s.line != key.line || s.at(0) != ':' || !isSpace(s.at(1)) && s.text[s.pos-1] != '"' || s.column()-key.column > longestKey {
				giveUp()
			}
			s.pos++
			s.flowToken(indent)
			s.open = append(s.open, key)
		}
		s.open = append(s.open, s.flowValue(indent, depth))
		s.flowToken(indent)
		if s.at(0) == ',' {
			s.pos++
		} else if s.at(0) != closer {
			giveUp()
		}
	}
	s.pos++
	return s.closed(n, mark)
}

func (s *scanner) flowValue(indent, depth int) *node {
	if c := s.at(0); c == '[' || c == '{' {
		return s.flow(indent, depth+1)
	}
	return s.scalar(true)
}

func (s *scanner) flowToken(indent int) {
	line := s.line
	s.nextToken()
	if s.end() || s.line != line && s.column() <= indent {
		giveUp()
	}
}

// tagOf is what YAML takes a plain scalar for. It gives up where that is not
// plain: booleans, nulls, times and numbers but decimal ones are rare here.
func tagOf(text string) string {
	first, last := text[0], text[len(text)-1]
	switch {
	case isLetter(first):
		if len(text) <= len("false") {
			switch strings.ToLower(text) {
			case "true", "false", "yes", "no", "on", "off", "y", "n", "null":
				giveUp()
			}
		}
		return "!!str"
	case (first >= '1' && first <= '9' || text == "0") && len(text) < 18 && strings.Trim(text, "0123456789") == "":
		return "!!int"
	case first >= '0' && first <= '9' && strings.IndexByte("smh%", last) >= 0, // durations, percentages
		first >= '0' && first <= '9' && (strings.Count(text, ".") > 1 || strings.Contains(text, "::")), // IP addresses
		first == '/', first == ':', // paths, ports
		first == '-' && len(text) > 1 && (isLetter(text[1]) || text[1] == '-'): // options
		return "!!str"
	}
	giveUp()
	return ""
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
