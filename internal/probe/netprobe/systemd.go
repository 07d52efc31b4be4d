package netprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"kido/internal/probe"
)

// systemBus is the socket of the system bus. Its usual variable in the environment is
// not heard, as in package initsys.
var systemBus = "/run/dbus/system_bus_socket"

const (
	systemdName = "org.freedesktop.systemd1"
	systemdPath = "/org/freedesktop/systemd1"
)

// systemd asks for the state of a unit, which every user may.
func (p Prober) systemd(ctx context.Context, s probe.Spec) probe.Answer {
	socket, err := new(net.Dialer).DialContext(ctx, "unix", systemBus)
	if err != nil {
		word := err.Error()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			word = "there is no system bus, which dbus.service provides"
		}
		return probe.Untried("%s", word)
	}
	defer socket.Close()
	defer context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })()
	unit, err := loadUnit(ctx, socket.(*net.UnixConn), s.Target)
	if err != nil {
		if ctx.Err() != nil {
			a := s.WhyConnected(ctx, err)
			a.Untried = true
			return a
		}
		return probe.Untried("%v", err)
	}
	text := func(name string) string { v, _ := unit[name].Value().(string); return v }
	active, load := text("ActiveState"), text("LoadState")
	want := s.Options["state"]
	switch {
	case load == "not-found": // and inactive, which may be what is wanted of another name
		return probe.NotReady("no such unit")
	case active == want, want == "" && active == "active":
		return probe.Answer{Ready: true}
	case (want == "" || want == "active") && (active == "reloading" || active == "refreshing"):
		return probe.Answer{Ready: true} // it serves meanwhile
	case load != "loaded":
		return probe.NotReady("%s (%s)", load, active)
	}
	return probe.NotReady("%s (%s)", active, text("SubState"))
}

// loadUnit asks systemd for what it knows of a unit.
func loadUnit(ctx context.Context, socket *net.UnixConn, name string) (properties map[string]dbus.Variant, err error) {
	conn, err := dbus.ConnectUnix(socket)
	if err != nil {
		return nil, fmt.Errorf("the system bus does not let this user in: %w", err)
	}
	defer conn.Close()
	var path dbus.ObjectPath
	manager := conn.Object(systemdName, systemdPath)
	err = manager.CallWithContext(ctx, systemdName+".Manager.LoadUnit", dbus.FlagNoAutoStart, name).Store(&path)
	if e, ok := errors.AsType[dbus.Error](err); ok && strings.HasPrefix(e.Name, "org.freedesktop.DBus.Error.") && strings.Contains(e.Error(), systemdName) {
		return nil, errors.New("systemd is not on the system bus of this host")
	}
	if err != nil {
		return nil, err
	}
	err = conn.Object(systemdName, path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", dbus.FlagNoAutoStart, systemdName+".Unit").Store(&properties)
	return properties, err
}
