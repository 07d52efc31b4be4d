package site

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// maxFile is the largest site file, in bytes. 100,000 services take about 20 MiB.
const maxFile = 64 << 20

// maxDepth is far above what the format needs, and keeps "[[[[…" cheap.
const maxDepth = 64

// document parses text into the root node of its only document, or reports why
// it cannot and returns nil.
func (r *reporter) document() *node {
	if !r.checkText() {
		return nil
	}
	if root := scan(r.source); root != nil {
		return root
	}
	loader, err := yaml.NewLoader(strings.NewReader(r.source), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		r.report(position{1, 1}, "", fmt.Sprintf("cannot be read as YAML: %v", err), "")
		return nil
	}
	var doc, second yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF) || err == nil && isEmpty(&doc):
		r.report(position{1, 1}, "", "the site file is empty", "it needs at least site, hosts and services")
		return nil
	case err != nil:
		r.reportSyntax(err)
		return nil
	}
	switch err := loader.Load(&second); {
	case err == nil:
		r.report(position{second.Line, second.Column}, "", "a second document begins here", "a site is one document: remove the line ---, or split the file")
		return nil
	case !errors.Is(err, io.EOF):
		r.reportSyntax(err)
		return nil
	}
	return converter{}.convert(doc.Content[0])
}

func isEmpty(doc *yaml.Node) bool {
	return len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].Value == ""
}

// checkText finds what no YAML text may hold. It is done here because the YAML
// parser does not say where such a byte is, and because it takes some rare
// characters for line breaks that no editor does.
func (r *reporter) checkText() bool {
	if len(r.source) > maxFile {
		r.source = "" // no line of it is worth showing
		r.report(position{1, 1}, "", fmt.Sprintf("the site file is larger than %d MiB", maxFile>>20), "")
		return false
	}
	for i := 0; i < len(r.source); {
		c := rune(r.source[i])
		size := 1
		if c >= utf8.RuneSelf {
			c, size = utf8.DecodeRuneInString(r.source[i:])
		}
		what, hint := "", ""
		switch {
		case c == utf8.RuneError && size == 1:
			what, hint = "not valid UTF-8", "save the file as UTF-8"
		case c == '\r' && !strings.HasPrefix(r.source[i:], "\r\n"):
			what, hint = "carriage return without a line feed", "end lines with a line feed"
		case c < ' ' && c != '\t' && c != '\n' && c != '\r', c >= 0x7f && c <= 0x9f:
			what = fmt.Sprintf("control character %U", c)
		case c == 0x2028 || c == 0x2029 || c == 0xfeff || c >= 0xfffe && c <= 0xffff:
			what = fmt.Sprintf("character %U has no place in a site file", c)
		}
		if what != "" {
			before := r.source[:i]
			begin := strings.LastIndexByte(before, '\n') + 1
			r.report(position{strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[begin:]) + 1}, "", what, hint)
			return false
		}
		i += size
	}
	return true
}

// reportSyntax words what the YAML parser says.
func (r *reporter) reportSyntax(err error) {
	e, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		r.report(position{1, 1}, "", fmt.Sprintf("not valid YAML: %v", err), "")
		return
	}
	at, what, hint := e.Mark, e.Message, ""
	if e.ContextMsg != "" {
		if strings.Contains(what, "unexpected end of stream") {
			// The end of the file is where it was noticed, not where it is wrong.
			at = e.ContextMark
		}
		what += " " + e.ContextMsg
		if e.ContextMark.Line != 0 && e.ContextMark.Line != at.Line {
			what += fmt.Sprintf(" that begins at line %d", e.ContextMark.Line)
		}
	}
	place := position{at.Line, at.Column}
	begin := 0
	for range place.line - 1 {
		begin = min(r.lineEnd(begin)+1, len(r.source))
	}
	line := r.source[begin:]
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	if tab := strings.IndexByte(indent, '\t'); tab >= 0 {
		place.column, what, hint = tab+1, "a tab in the indentation", "YAML is indented with spaces only"
	} else if strings.HasPrefix(what, "mapping values are not allowed") {
		what, hint = `": " is not allowed here`, "put a value that holds \": \" in quotes, and look whether this line is indented like its neighbours"
	}
	r.report(place, "", "not valid YAML: "+what, hint)
}
