package initsys_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kido/internal/initsys"
	"kido/internal/initsys/initsystest"
)

var adapters = []initsystest.Adapter{
	{
		Name: "command",
		Open: func(dir string) (initsys.Unit, error) {
			return initsys.NewCommand(initsys.CommandConfig{
				Start:   initsystest.StartArgv(dir),
				Stop:    initsystest.StopArgv(dir),
				Reload:  initsystest.ReloadArgv(dir),
				PIDFile: initsystest.PIDFile(dir),
				Output:  filepath.Join(dir, "output"),
			})
		},
		Dead: initsys.Failed,
	},
	{
		Name:  "sysv",
		Setup: writeScript,
		Open: func(dir string) (initsys.Unit, error) {
			return initsys.NewSysV(initsys.SysVConfig{
				Script:  "probed",
				Dir:     dir,
				PIDFile: initsystest.PIDFile(dir),
				Become:  []string{"/usr/bin/env", "KIDO_TEST=1"}, // stands in for sudo -n
				Output:  filepath.Join(dir, "output"),
			})
		},
		Dead: initsys.Failed,
	},
}

func TestMain(m *testing.M) {
	initsystest.Main(append(machineAdapters(), adapters...)...)
	nobodyMain()
	helperMain()
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	for _, a := range adapters {
		t.Run(a.Name, func(t *testing.T) { initsystest.Run(t, a) })
	}
}

func writeScript(t *testing.T, dir string) {
	t.Helper()
	if _, err := exec.LookPath("start-stop-daemon"); err != nil {
		t.Skip("SKIPPED: no start-stop-daemon here (Debian's package dpkg has it), so the SysV adapter is not tried on a real init script")
	}
	script := strings.Replace(lsbScript(dir), "\nstart()", "\n[ \"$KIDO_TEST\" = 1 ] || exit 4\nstart()", 1)
	if err := os.WriteFile(filepath.Join(dir, "probed"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// lsbScript is an LSB init script as Debian's are.
func lsbScript(dir string) string {
	daemon := initsystest.DaemonArgv(dir)
	return fmt.Sprintf(`#!/bin/sh
### BEGIN INIT INFO
# Provides:          probed
# Required-Start:    $remote_fs
# Required-Stop:     $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: the service of the conformance suite
### END INIT INFO

start() { start-stop-daemon --start --quiet --oknodo --pidfile %[1]s --exec %[2]s -- %[3]s; }
stop() { start-stop-daemon --stop --quiet --oknodo --retry TERM/20 --pidfile %[1]s --exec %[2]s; }

case "$1" in
start) %[4]s && start ;;
stop) %[5]s && stop ;;
restart) stop; %[4]s && start ;;
reload) start-stop-daemon --stop --quiet --signal HUP --pidfile %[1]s --exec %[2]s ;;
status) start-stop-daemon --status --pidfile %[1]s --exec %[2]s ;;
*) echo "Usage: $0 {start|stop|restart|reload|status}" >&2; exit 3 ;;
esac
`, initsystest.PIDFile(dir), daemon[0], shell(daemon[1:]),
		shell(initsystest.BeginArgv(dir, "start")), shell(initsystest.BeginArgv(dir, "stop")))
}

// unit answers with one observation after the other, the last one for ever.
type unit []initsys.Observation

func (u *unit) Observe(ctx context.Context) (initsys.Observation, error) {
	o := (*u)[0]
	if len(*u) > 1 {
		*u = (*u)[1:]
	}
	if o.State == 0 {
		return o, errors.New(o.Word)
	}
	return o, ctx.Err()
}

func (*unit) Prepare(context.Context, initsys.Action) (initsys.Job, error) {
	return nil, initsys.ErrUnsupported
}

func TestSettle(t *testing.T) {
	var (
		up    = initsys.Observation{State: initsys.Up, Token: "t"}
		bare  = initsys.Observation{State: initsys.Up, Word: "no pid file"}
		down  = initsys.Observation{State: initsys.Down}
		dead  = initsys.Observation{State: initsys.Failed}
		blind = initsys.Observation{Word: "permission denied"}
	)
	for _, x := range []struct {
		name string
		sees unit
		want []initsys.State
		got  initsys.Observation
		err  string
	}{
		{"at once", unit{up}, []initsys.State{initsys.Up}, up, ""},
		{"pid file comes late", unit{down, bare, up}, []initsys.State{initsys.Up}, up, ""},
		{"pid file never comes", unit{down, bare}, []initsys.State{initsys.Up}, bare, "context deadline exceeded"},
		{"stopped", unit{up, dead, down}, []initsys.State{initsys.Down}, down, ""},
		{"stopped, pid file stays", unit{up, dead}, []initsys.State{initsys.Down, initsys.Failed}, dead, ""},
		{"one look fails", unit{blind, up}, []initsys.State{initsys.Up}, up, ""},
		{"no look succeeds", unit{blind}, []initsys.State{initsys.Up}, initsys.Observation{}, "permission denied"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				got, err := initsys.Settle(ctx, &x.sees, x.want...)
				if got != x.got || (err == nil) != (x.err == "") || err != nil && err.Error() != x.err {
					t.Errorf("got %+v, %v; want %+v, %q", got, err, x.got, x.err)
				}
			})
		})
	}
}

// watched is a unit of an init that says when something happens.
type watched struct {
	unit
	looks   int
	deaf    int // how often asking for the channel fails
	changes int // how often, an hour after the last look, it changes
}

func (w *watched) Observe(ctx context.Context) (initsys.Observation, error) {
	w.looks++
	return w.unit.Observe(ctx)
}

func (w *watched) Changed(context.Context) (<-chan struct{}, error) {
	if w.deaf > 0 {
		w.deaf--
		return nil, errors.New("the bus is away")
	}
	changed := make(chan struct{})
	if w.changes > 0 {
		w.changes--
		time.AfterFunc(time.Hour, func() { close(changed) })
	}
	return changed, nil
}

// TestUntilWatches: a unit that says when it has changed is looked at then and
// not before; one that cannot say so just now is looked at again and again.
func TestUntilWatches(t *testing.T) {
	down, up := initsys.Observation{State: initsys.Down}, initsys.Observation{State: initsys.Up, Token: "t"}
	isUp := func(o initsys.Observation, err error) bool { return err == nil && o.State == initsys.Up }
	for _, x := range []struct {
		name    string
		deaf    int
		changes int
		limit   time.Duration
		looks   int
		want    initsys.Observation
	}{
		{"told twice", 0, 2, 24 * time.Hour, 3, up},
		{"never told", 0, 0, time.Hour, 1, down},
		{"deaf", 2, 0, time.Hour, 3, up},
		{"no time at all", 0, 0, 0, 1, down},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &watched{unit: unit{down, down, up}, deaf: x.deaf, changes: x.changes}
				ctx, cancel := context.WithTimeout(t.Context(), x.limit)
				defer cancel()
				o, err := initsys.Until(ctx, w, isUp)
				if o != x.want || err != nil || w.looks != x.looks {
					t.Errorf("%+v, %v after %d looks; want %+v after %d", o, err, w.looks, x.want, x.looks)
				}
			})
		})
	}
}
