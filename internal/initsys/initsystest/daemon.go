package initsystest

import (
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// serve is the service's main process: it has a pid file, notes each SIGHUP and
// ends on SIGTERM.
func serve(dir string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	// Renamed into place, so that no reader finds it half written.
	fresh := PIDFile(dir) + ".new"
	if err := os.WriteFile(fresh, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return err
	}
	if err := os.Rename(fresh, PIDFile(dir)); err != nil {
		return err
	}
	life := time.After(time.Minute)
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGHUP {
				return os.Remove(PIDFile(dir))
			}
			if err := appendLine(filepath.Join(dir, reloadsFile), "reload"); err != nil {
				return err
			}
		case <-life:
			return nil
		}
	}
}
