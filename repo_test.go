// Package kido_test holds the tree to its own rules: who imports whom, what the
// documents name, what the gate is made of.
package kido_test

import (
	"bytes"
	"debug/elf"
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

// gateLinks is all of the standard library that the gate is made of, but for its
// internal packages.
const gateLinks = `bufio bytes cmp context crypto crypto/cipher crypto/fips140 crypto/sha256 crypto/subtle
	encoding/base64 encoding/binary encoding/hex errors fmt hash hash/crc32 io io/fs iter maps math math/bits
	net net/netip net/url os os/exec os/user path path/filepath reflect regexp regexp/syntax runtime slices sort strconv strings
	sync sync/atomic syscall time unicode unicode/utf8 unique unsafe weak`

// TestGateDependencies: the gate runs with privileges at every host, so all that
// is linked into it must be short enough to be known. What is not in the list is
// added for a reason that outweighs it, and never these: net/http and crypto/tls
// (start-up; https is the prober's), encoding/json (the wire has one spelling; a
// decoder that guesses has not), log/slog (start-up), plugin, runtime/cgo.
func TestGateDependencies(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "./cmd/kido-gate")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	ours := []string{
		"kido/cmd/kido-gate", "kido/internal/gate", "kido/internal/initsys", "kido/internal/probe", "kido/internal/wire", "kido/internal/failpoint", "kido/internal/rule", "kido/internal/sockets",
		"github.com/godbus/dbus/v5",
	}
	want := append(strings.Fields(gateLinks), ours...)
	var got []string
	for _, pkg := range strings.Fields(string(out)) {
		standard := !slices.Contains(ours, pkg) && !strings.HasPrefix(pkg, "kido/")
		if standard && (strings.HasPrefix(pkg, "internal/") || strings.Contains(pkg, "/internal/") || strings.HasPrefix(pkg, "vendor/")) {
			continue
		}
		got = append(got, pkg)
		if !slices.Contains(want, pkg) {
			t.Errorf("the gate links %s: add it to the list only if a host needs it", pkg)
		}
	}
	for _, pkg := range want {
		if !slices.Contains(got, pkg) {
			t.Errorf("the gate links %s no more: drop it from the list", pkg)
		}
	}
}

// TestGateReproducible: whoever builds the gate from these sources has the bytes
// that everybody has; and they need nothing of a host but its kernel.
func TestGateReproducible(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("SKIPPED: it compiles all of the gate a second time")
	}
	list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./cmd/kido-gate")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	for _, file := range []string{"go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(elsewhere, file), []byte(read(t, file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, pkg := range strings.Fields(string(out)) {
		if dir, ok := strings.CutPrefix(pkg, "kido/"); ok {
			if err := os.CopyFS(filepath.Join(elsewhere, dir), os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	bin := t.TempDir()
	build := func(dir, name string, env ...string) []byte {
		file := filepath.Join(bin, name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", file, "./cmd/kido-gate")
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return []byte(read(t, file))
	}
	// Nothing that was compiled before, and another place, time zone and language.
	one := build(".", "one")
	other := build(elsewhere, "other", "GOCACHE="+t.TempDir(), "TZ=Asia/Tokyo", "LC_ALL=ja_JP.UTF-8")
	if !bytes.Equal(one, other) {
		t.Errorf("two builds differ: %d and %d bytes", len(one), len(other))
	}
	program, err := elf.NewFile(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the gate is not static: it has a segment %v", p.Type)
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
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/probes.md", "docs/protocol.md", "docs/security.md"} {
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
