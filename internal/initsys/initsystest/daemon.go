package initsystest

import (
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
)

// serve is the service's main process: it has a pid file, tells systemd where
// that asks to be told, notes each SIGHUP and ends on SIGTERM.
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
	if err := notify(); err != nil {
		return err
	}
	for s := range signals {
		if s != syscall.SIGHUP {
			break
		}
		if err := appendLine(filepath.Join(dir, reloadsFile), "reload"); err != nil {
			return err
		}
	}
	return os.Remove(PIDFile(dir))
}

// notify tells systemd that the service is up, as sd_notify does.
func notify() error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("READY=1"))
	return err
}
