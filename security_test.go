package kido_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kido/internal/audit"
)

const security = "docs/security.md"

// threatNames are the rows of the table of subtests that TestThreats goes through.
func threatNames(t *testing.T) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "lab/threat_test.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != "threats" {
			return true
		}
		ast.Inspect(spec, func(n ast.Node) bool {
			if field, ok := n.(*ast.KeyValueExpr); ok && field.Key.(*ast.Ident).Name == "name" {
				name, err := strconv.Unquote(field.Value.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, name)
			}
			return true
		})
		return false
	})
	if names == nil {
		t.Fatal("lab/threat_test.go has no table of threats")
	}
	return names
}

// TestSecurityTable: each row of the table of threats names tests that there are,
// and each row of TestThreats is one of the document's, in its order.
func TestSecurityTable(t *testing.T) {
	tests := map[string]bool{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			for _, m := range regexp.MustCompile(`(?m)^func ((Test|Fuzz)\w+)\(`).FindAllStringSubmatch(read(t, file), -1) {
				tests[m[1]] = true
			}
		}
	}
	var played []string
	for _, cells := range rows(t, read(t, security), "threat | defence | test") {
		if len(cells) != 3 {
			t.Errorf("%s: a row with %d cells: %q", security, len(cells), cells)
			continue
		}
		named := regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(cells[2], -1)
		if len(named) == 0 {
			t.Errorf("%s: no test shows that this is defended against: %s", security, cells[0])
		}
		for _, m := range named {
			if row, ok := strings.CutPrefix(m[1], "TestThreats/"); ok {
				played = append(played, row)
			} else if !tests[m[1]] {
				t.Errorf("%s: there is no %s (%s)", security, m[1], cells[0])
			}
		}
	}
	if want := threatNames(t); !slices.Equal(played, want) {
		t.Errorf("%s has the rows\n%q, TestThreats\n%q", security, played, want)
	}
	for _, m := range regexp.MustCompile("`((Test|Fuzz)\\w+)`").FindAllStringSubmatch(read(t, security), -1) {
		if !tests[m[1]] {
			t.Errorf("%s: there is no %s", security, m[1])
		}
	}
}

// TestSecurityRules: what is said to be a rule of kido audit is one.
func TestSecurityRules(t *testing.T) {
	known := map[string]bool{}
	for _, r := range audit.Rules {
		known[r.ID] = true
	}
	lists := regexp.MustCompile("audit: ((?:`[^`]*`(?:, )?)+)").FindAllStringSubmatch(read(t, security), -1)
	if len(lists) == 0 {
		t.Errorf("%s names no rule", security)
	}
	for _, list := range lists {
		for _, m := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(list[1], -1) {
			if !known[m[1]] {
				t.Errorf("%s: kido audit has no rule %s", security, m[1])
			}
		}
	}
}
