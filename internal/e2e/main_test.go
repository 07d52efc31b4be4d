package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bin is the folder of the programs under test, with their failpoints.
var bin string

func kidoProgram() string { return filepath.Join(bin, "kido") }
func gateProgram() string { return filepath.Join(bin, "kido-gate") }

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == argService {
		serviceMain(os.Args[2:]) // does not return
	}
	if len(os.Args) > 1 && os.Args[1] == argLogin {
		loginMain(os.Args[2:]) // does not return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kido-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		// A gate takes no policy from a path with a symbolic link in it.
		bin, err = filepath.EvalSymlinks(dir)
	}
	if err == nil {
		err = readSources()
	}
	if err == nil {
		build := exec.Command("go", "build", "-tags", "failpoints", "-o", bin+"/", "kido/cmd/kido", "kido/cmd/kido-gate")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as a host gets them
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: cannot build the programs under test:", err)
		return 1
	}
	return m.Run()
}

// readSources looks at what the programs are made of, so that go test knows: else it
// would take the result of a test of other programs, which it has in its cache, for
// that of these.
func readSources() error {
	for _, dir := range []string{"../../cmd", "../../internal"} {
		if err := filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			return err
		}
	}
	return nil
}
