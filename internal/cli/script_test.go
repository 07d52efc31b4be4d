package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"kido/internal/gate"
	"kido/internal/initsys"
)

func TestMain(m *testing.M) {
	initsys.RunChild() // does not return where a gate of these tests has a job done
	testscript.Main(m, map[string]func(){
		"kido": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		// os.Exit takes a second under the race detector, unless GORACE says
		// otherwise; and a gate has no environment.
		"kido-gate": func() { syscall.Exit(gate.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script. Beside the commands of package testscript
// its scripts have
//
//	exits STATUS COMMAND…    run it: it must end with this status
//	fill FILE…               write the folder of the script for $WORK
//	json [-lines] PATH…      the last output is JSON, and has these; a PATH is
//	                         a.0.b or a.0.b=value, with -1 for the last of a list;
//	                         with -lines it is a list of one object a line
//	lastrun NAME             set $NAME to the last run on record
//	terminal [-at TEXT FIFO] COMMAND…
//	                         run it in a terminal of 100 columns; once that shows
//	                         TEXT, let go what waits at FIFO. What is on the
//	                         screen at the end is the output, and the file raw
//	                         all that was written
//
// and the service program $WORK/svc.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               setUp,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition: func(name string) (bool, error) {
			switch name {
			case "root":
				return os.Geteuid() == 0, nil
			case "installed": // kido, on this machine
				_, err := os.Stat(etc)
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"fill":     fillIn,
			"json":     checkJSONOutput,
			"lastrun":  lastRun,
			"terminal": terminal,
		},
	})
}

// svc is a service: svc start|stop|reload NAME. It ends with the test. Where a
// FIFO NAME.hold is there, start says so at the FIFO NAME.reached, if there is
// one, and waits until somebody opens and closes the other.
const svc = `cd $WORK
case $1 in
start)
	if [ -p $2.hold ]; then
		if [ -p $2.reached ]; then echo reached >$2.reached; fi
		cat $2.hold
	fi
	if [ -e $2.fail ]; then cat $2.fail; exit 1; fi
	setsid cat life </dev/null >/dev/null 2>&1 &
	echo $! >$2.pid ;;
stop)
	if [ -e $2.pid ]; then kill $(cat $2.pid); fi
	rm -f $2.pid ;;
reload)
	echo reloaded >>$2.log ;;
esac
`

func setUp(e *testscript.Env) error {
	e.Setenv("GORACE", "atexit_sleep_ms=0")
	e.Setenv("LC_ALL", "C.UTF-8")
	e.Setenv("KIDO_STATE", filepath.Join(e.WorkDir, "state")) // root's default is the machine's own
	e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
	life := filepath.Join(e.WorkDir, "life")
	if err := syscall.Mkfifo(life, 0o600); err != nil {
		return err
	}
	hold, err := os.OpenFile(life, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	e.Defer(func() {
		hold.Close()
		// While a service reads from it, it can be opened for writing.
		tick, late := time.NewTicker(2*time.Millisecond), time.After(30*time.Second)
		defer tick.Stop()
		for {
			w, err := os.OpenFile(life, os.O_WRONLY|syscall.O_NONBLOCK, 0)
			if errors.Is(err, syscall.ENXIO) {
				return
			}
			if err == nil {
				w.Close()
			}
			select {
			case <-tick.C:
			case <-late:
				e.T().Fatal("a service outlives its test")
			}
		}
	})
	return os.WriteFile(filepath.Join(e.WorkDir, "svc"), []byte(strings.ReplaceAll(svc, "$WORK", e.WorkDir)), 0o755)
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND…")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit status %d, want %s", code, args[0])
	}
}

func fillIn(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := strings.ReplaceAll(ts.ReadFile(name), "$WORK", ts.Getenv("WORK"))
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}

func lastRun(ts *testscript.TestScript, _ bool, args []string) {
	names, err := filepath.Glob(filepath.Join(ts.Getenv("KIDO_STATE"), "runs", "*"+suffix))
	ts.Check(err)
	if len(names) == 0 || len(args) != 1 {
		ts.Fatalf("usage: lastrun NAME, after a run")
	}
	ts.Setenv(args[0], strings.TrimSuffix(filepath.Base(slices.Max(names)), suffix))
}

func checkJSONOutput(ts *testscript.TestScript, neg bool, args []string) {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	var all []any
	for {
		var v any
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		all = append(all, v)
	}
	var root any = all
	if len(args) > 0 && args[0] == "-lines" {
		args = args[1:]
		if lines := strings.Count(ts.ReadFile("stdout"), "\n"); lines != len(all) {
			ts.Fatalf("%d objects on %d lines", len(all), lines)
		}
	} else {
		if len(all) != 1 {
			ts.Fatalf("%d JSON values, want 1", len(all))
		}
		root = all[0]
	}
	for _, want := range args {
		path, value, compare := strings.Cut(want, "=")
		got, ok := at(root, strings.Split(path, "."))
		switch {
		case neg && ok:
			ts.Fatalf("%s is there: %v", path, got)
		case neg:
		case !ok:
			ts.Fatalf("no %s", path)
		case compare && fmt.Sprint(got) != value:
			ts.Fatalf("%s is %v, want %s", path, got, value)
		}
	}
}

func at(v any, path []string) (any, bool) {
	if len(path) == 0 {
		return v, true
	}
	switch v := v.(type) {
	case map[string]any:
		inner, ok := v[path[0]]
		if !ok {
			return nil, false
		}
		return at(inner, path[1:])
	case []any:
		n, err := strconv.Atoi(path[0])
		if n < 0 {
			n += len(v)
		}
		if err != nil || n < 0 || n >= len(v) {
			return nil, false
		}
		return at(v[n], path[1:])
	}
	return nil, false
}

func terminal(ts *testscript.TestScript, neg bool, args []string) {
	var text, fifo string
	if len(args) > 3 && args[0] == "-at" {
		text, fifo, args = args[1], ts.MkAbs(args[2]), args[3:]
	}
	program, err := exec.LookPath(args[0])
	ts.Check(err)
	cmd := exec.Command(program, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "WORK", "GORACE", "LC_ALL", "KIDO_SITE", "KIDO_STATE", "KIDO_HERE", "KIDO_POLICY", "NO_COLOR"} {
		if v := ts.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	master, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	ts.Check(err)
	defer master.Close()
	var raw bytes.Buffer
	for buf := make([]byte, 4096); ; {
		n, err := master.Read(buf)
		raw.Write(buf[:n])
		if text != "" && bytes.Contains(raw.Bytes(), []byte(text)) {
			text = ""
			w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
			ts.Check(err)
			w.Close()
		}
		if err != nil { // EIO: all its descriptors are closed
			break
		}
	}
	if err := cmd.Wait(); (err != nil) != neg {
		ts.Fatalf("%v: %v\n%s", args, err, raw.String())
	}
	if text != "" {
		ts.Fatalf("the terminal never showed %q:\n%q", text, raw.String())
	}
	ts.Check(os.WriteFile(ts.MkAbs("raw"), raw.Bytes(), 0o644))
	fmt.Fprint(ts.Stdout(), screen(raw.String()))
}

// screen is what a terminal shows after it was written to, as far as kido uses
// one: carriage return, line feed, up, erase to the end of line or screen;
// colours are not kept. A line that wraps is not understood.
func screen(raw string) string {
	rows, y, x := [][]rune{nil}, 0, 0
	for text := []rune(raw); len(text) > 0; {
		r := text[0]
		text = text[1:]
		switch {
		case r == '\r':
			x = 0
		case r == '\n':
			if y++; y == len(rows) {
				rows = append(rows, nil)
			}
		case r == '\x1b' && len(text) > 0 && text[0] == '[':
			end := slices.IndexFunc(text[1:], func(r rune) bool { return r >= '@' && r <= '~' }) + 1
			n, err := strconv.Atoi(string(text[1:end]))
			if err != nil {
				n = 1
			}
			switch text[end] {
			case 'A':
				y = max(0, y-n)
			case 'J':
				rows = rows[:y+1]
				fallthrough
			case 'K':
				rows[y] = rows[y][:min(x, len(rows[y]))]
			case 'm':
			default:
				return fmt.Sprintf("escape sequence %q is not known to this test", string(text[:end+1]))
			}
			text = text[end+1:]
		default:
			for len(rows[y]) <= x {
				rows[y] = append(rows[y], ' ')
			}
			rows[y][x] = r
			x++
		}
	}
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(string(row) + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}
