// Package kido_test holds the tree to its own rules: who imports whom, what the
// documents name, what the gate is made of.
package kido_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// goFiles lists the Go files of the tree, sorted.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return nil
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files: %v", err)
	}
	return files
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestImports holds the table of ARCHITECTURE.md, in both directions: what is
// imported must be in it, and what is in it must be imported.
func TestImports(t *testing.T) {
	quoted := regexp.MustCompile("`([^`]+)`")
	allowed := map[string][]string{}
	for _, line := range strings.Split(read(t, "ARCHITECTURE.md"), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`cmd/") && !strings.HasPrefix(strings.TrimSpace(cells[1]), "`internal/") {
			continue
		}
		var imports []string
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			imports = append(imports, "kido/internal/"+m[1])
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			allowed[m[1]] = imports
		}
	}
	used := map[string]map[string]bool{}
	for _, file := range goFiles(t) {
		dir := filepath.Dir(file)
		if !strings.HasPrefix(dir, "cmd/") && !strings.HasPrefix(dir, "internal/") {
			continue
		}
		pkg := dir
		// Programs that only a package's own tests build belong to it.
		if i := strings.Index(dir, "/internal/"); i > 0 {
			pkg = dir[:i]
		}
		if used[pkg] == nil {
			used[pkg] = map[string]bool{}
		}
		if strings.HasSuffix(file, "_test.go") || pkg != dir {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			if path := strings.Trim(imp.Path.Value, `"`); strings.HasPrefix(path, "kido/") {
				used[pkg][path] = true
				if !slices.Contains(allowed[pkg], path) {
					t.Errorf("%s imports %s, which the table in ARCHITECTURE.md does not let %s do", file, path, pkg)
				}
			}
		}
	}
	for pkg, imports := range allowed {
		if used[pkg] == nil {
			t.Errorf("ARCHITECTURE.md has a package %s, the tree has not", pkg)
		}
		for _, path := range imports {
			if used[pkg] != nil && !used[pkg][path] {
				t.Errorf("ARCHITECTURE.md says that %s imports %s; it does not", pkg, path)
			}
		}
	}
	for pkg := range used {
		if _, ok := allowed[pkg]; !ok {
			t.Errorf("%s is not in the table of ARCHITECTURE.md", pkg)
		}
	}
}

// TestGateDependencies: the gate runs with privileges at every host, so all that
// is linked into it must be short enough to be known.
func TestGateDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/kido-gate").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for pkg, why := range map[string]string{
		"net/http":      "start-up, and a network client that follows redirects",
		"crypto/tls":    "start-up; https is the prober's",
		"encoding/json": "the wire has one spelling; a decoder that guesses has not",
		"log/slog":      "start-up",
		"text/template": "nothing here is a template",
		"plugin":        "no code from elsewhere",
		"cgo":           "the gate is static",
	} {
		if slices.Contains(deps, pkg) {
			t.Errorf("the gate links %s, and must not: %s", pkg, why)
		}
	}
	for _, pkg := range deps {
		first, _, _ := strings.Cut(pkg, "/")
		if strings.Contains(first, ".") && pkg != "github.com/godbus/dbus/v5" {
			t.Errorf("the gate links %s, which is neither of the standard library nor the D-Bus client", pkg)
		}
		if strings.HasPrefix(pkg, "kido/") && !slices.Contains([]string{
			"kido/cmd/kido-gate", "kido/internal/gate", "kido/internal/initsys", "kido/internal/probe", "kido/internal/wire", "kido/internal/failpoint", "kido/internal/rule",
		}, pkg) {
			t.Errorf("the gate links %s: add it here only if a host needs it", pkg)
		}
	}
}

// TestPackageDocs: every package says what it promises.
func TestPackageDocs(t *testing.T) {
	documented := map[string]bool{}
	for _, file := range goFiles(t) {
		dir := filepath.Dir(file)
		if strings.HasSuffix(file, "_test.go") && dir == "." {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		documented[dir] = documented[dir] || f.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no comment", dir)
		}
	}
}

// TestDocumentsNameWhatIs: every path and every test that a document names exists.
func TestDocumentsNameWhatIs(t *testing.T) {
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+|Benchmark\w+)\(`)
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			for _, m := range declared.FindAllStringSubmatch(read(t, file), -1) {
				tests[m[1]] = true
			}
		}
	}
	path := regexp.MustCompile("`((?:cmd|internal|bench|docs|tools)/[\\w./-]+)`")
	name := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)\\w+)`")
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/protocol.md"} {
		text := read(t, doc)
		for _, m := range path.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(m[1]); err != nil {
				t.Errorf("%s names %s, which is not there", doc, m[1])
			}
		}
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]] {
				t.Errorf("%s names the test %s, which is not there", doc, m[1])
			}
		}
	}
}

// TestNoSleep: a test waits for a condition, not for a while.
func TestNoSleep(t *testing.T) {
	sleep := "time." + "Sleep("
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") && strings.Contains(read(t, file), sleep) {
			t.Errorf("%s sleeps", file)
		}
	}
}
