package lab

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Program is the program of a main package of this project, such as
// kido/cmd/kido-gate, linked statically so that it runs in every machine. flags
// are of go build. It is built once per test process.
func Program(t testing.TB, pkg string, flags ...string) []byte {
	t.Helper()
	return compile(t, slices.Concat([]string{"build"}, flags, []string{pkg}))
}

// TestProgram is the test program of a package of this project, linked statically,
// built once per test process. flags are of go test.
func TestProgram(t testing.TB, pkg string, flags ...string) []byte {
	t.Helper()
	return compile(t, slices.Concat([]string{"test", "-c"}, flags, []string{pkg}))
}

// RunTests runs the test program of a package as root in a machine and returns
// its output. env are further words of its environment; args are those of the test
// program, such as -test.v. If its tests fail, so does this test, with the output.
func (l *Lab) RunTests(host int, pkg string, env []string, args ...string) (said string) {
	l.t.Helper()
	file := "/root/" + path.Base(pkg) + ".test"
	l.Put(host, file, 0o755, TestProgram(l.t, pkg))
	said, err := l.Exec(host, slices.Concat([]string{"env", "-C", "/root"}, env, []string{file}, args)...)
	if err != nil {
		l.t.Errorf("%v\n%s", err, said)
	}
	return said
}

// programs holds what was built: a go command's words → its outcome.
var programs sync.Map

func compile(t testing.TB, words []string) []byte {
	t.Helper()
	once, _ := programs.LoadOrStore(strings.Join(words, "\x00"), sync.OnceValues(func() ([]byte, error) {
		dir, err := os.MkdirTemp("", "kido-lab-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "program")
		cmd := exec.Command("go", slices.Insert(slices.Clone(words), len(words)-1, "-o", file)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if _, err := output(cmd); err != nil {
			return nil, err
		}
		return os.ReadFile(file)
	}))
	program, err := once.(func() ([]byte, error))()
	if err != nil {
		t.Fatalf("lab: go %s: %v", strings.Join(words, " "), err)
	}
	return program
}
