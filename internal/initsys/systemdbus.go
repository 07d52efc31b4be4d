package initsys

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// The socket of the system bus. Its usual variable in the environment is not
// heard: whoever could set that would answer in systemd's place.
const systemBus = "/run/dbus/system_bus_socket"

// bus is a private connection to systemd over the system bus, of one unit.
type bus struct {
	conn *dbus.Conn

	listening sync.Mutex // held while listen asks
	heard     bool       // listen has been through

	mu      sync.Mutex
	changed chan struct{}              // closed by the next signal
	ends    map[dbus.ObjectPath]jobEnd // of the unit's jobs that were seen to end
	unmet   bool                       // when last seen it was inactive because of its conditions
	lives   int                        // how often systemd has come back to the bus
	gone    bool                       // the connection has ended; changed stays closed
}

// jobEnd is what became of a job.
type jobEnd struct {
	result string // done, canceled, timeout, failed, dependency, skipped, assert and so on
	unmet  bool   // the unit's conditions kept it from starting
}

func dialBus(ctx context.Context) (*bus, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	socket, err := new(net.Dialer).DialContext(ctx, "unix", systemBus)
	if err != nil {
		return nil, fmt.Errorf("systemd: cannot reach the system bus, which dbus.service provides: %w", err)
	}
	b := &bus{changed: make(chan struct{}), ends: map[dbus.ObjectPath]jobEnd{}}
	stop := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	b.conn, err = dbus.ConnectUnix(socket.(*net.UnixConn), dbus.WithSignalHandler(b))
	if !stop() && err == nil {
		b.conn.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("systemd: the system bus does not let this user in: %w", err)
	}
	return b, nil
}

// call calls systemd, for at most lookTime.
func (b *bus) call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	return b.callTo(ctx, b.conn.Object(systemdName, path), method, args...)
}

func (b *bus) callTo(ctx context.Context, o dbus.BusObject, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTime, fmt.Errorf("no answer within %v", lookTime))
	defer cancel()
	call := o.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	if call.Err != nil && ctx.Err() != nil {
		call.Err = context.Cause(ctx)
	}
	return call
}

// loadUnit finds a unit, also one that nothing has asked for yet.
func (b *bus) loadUnit(ctx context.Context, name string) (path dbus.ObjectPath, err error) {
	if err := b.call(ctx, systemdPath, managerInterface+".LoadUnit", name).Store(&path); err != nil {
		return "", fmt.Errorf("systemd: load %s: %w", name, err)
	}
	return path, nil
}

func (b *bus) property(ctx context.Context, path dbus.ObjectPath, of, name string) (v dbus.Variant, err error) {
	err = b.call(ctx, path, properties+".Get", of, name).Store(&v)
	return v, err
}

// doing says what a job is about.
func (b *bus) doing(ctx context.Context, job dbus.ObjectPath) string {
	kind, err := b.property(ctx, job, jobInterface, "JobType")
	if err != nil {
		return "it had a job just now"
	}
	word := fmt.Sprintf("its %v job ", kind.Value())
	if state, err := b.property(ctx, job, jobInterface, "State"); err == nil && state.Value() == "waiting" {
		return word + "is waiting"
	}
	return word + "is running"
}

// result says why a unit failed: "exit-code (exit status 3)".
func (b *bus) result(ctx context.Context, s unitStatus) string {
	of := typeInterface(s.id)
	v, err := b.property(ctx, s.path, of, "Result")
	if err != nil {
		return ""
	}
	result, _ := v.Value().(string)
	switch result {
	case "start-limit-hit":
		return "start-limit-hit: it was started too often; systemctl reset-failed " + s.id + " allows the next start"
	case "exit-code", "signal", "core-dump":
	default:
		return result
	}
	// They are the main process's. Where it is another that failed, as in
	// ExecStartPre=, they tell of an earlier life, or of none.
	code, err1 := b.property(ctx, s.path, of, "ExecMainCode")
	status, err2 := b.property(ctx, s.path, of, "ExecMainStatus")
	n, ok := status.Value().(int32)
	if err1 != nil || err2 != nil || !ok {
		return result
	}
	const exited, killed, dumped = 1, 2, 3 // CLD_EXITED and so on
	switch how := code.Value(); {
	case result == "exit-code" && how == int32(exited) && n != 0:
		return fmt.Sprintf("%s (exit status %d)", result, n)
	case result != "exit-code" && (how == int32(killed) || how == int32(dumped)):
		return fmt.Sprintf("%s (%v)", result, syscall.Signal(n))
	}
	return result
}

// listen asks to hear of what happens to a unit: before it returns nothing is
// heard, after that nothing is missed until the connection breaks.
func (b *bus) listen(ctx context.Context, name string) error {
	b.listening.Lock()
	defer b.listening.Unlock()
	if b.heard {
		return nil
	}
	path, err := b.loadUnit(ctx, name)
	if err != nil {
		return err
	}
	id, err := b.property(ctx, path, unitInterface, "Id") // signals do not know aliases
	if err != nil {
		return fmt.Errorf("systemd: name of %s: %w", name, err)
	}
	const from = "type='signal',sender='" + systemdName + "',"
	for _, rule := range []string{
		from + "interface='" + properties + "',member='PropertiesChanged',path='" + string(path) + "'",
		from + "interface='" + managerInterface + "',member='JobRemoved',arg2='" + fmt.Sprint(id.Value()) + "'",
		from + "interface='" + managerInterface + "',member='Reloading'",
		"type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='" + systemdName + "'",
	} {
		if err := b.callTo(ctx, b.conn.BusObject(), "org.freedesktop.DBus.AddMatch", rule).Err; err != nil {
			return fmt.Errorf("systemd: listen for %s: %w", name, err)
		}
	}
	if err := b.subscribe(ctx); err != nil {
		return err
	}
	b.heard = true
	return nil
}

// subscribe makes systemd speak: it sends signals only while somebody listens.
func (b *bus) subscribe(ctx context.Context) error {
	err := b.call(ctx, systemdPath, managerInterface+".Subscribe").Err
	if e, ok := errors.AsType[dbus.Error](err); err == nil || ok && e.Name == systemdName+".AlreadySubscribed" {
		return nil
	}
	return fmt.Errorf("systemd: subscribe to its signals: %w", err)
}

// DeliverSignal is dbus.SignalHandler's: it is called for one signal after the
// other, in the order in which they were sent, and must not call the bus.
func (b *bus) DeliverSignal(_, member string, s *dbus.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return
	}
	switch member {
	case "JobRemoved": // number, path, unit, result
		if len(s.Body) == 4 {
			path, _ := s.Body[1].(dbus.ObjectPath)
			result, _ := s.Body[3].(string)
			b.ends[path] = jobEnd{result, b.unmet}
		}
	case "PropertiesChanged": // interface, values, names without values; a job's end comes after it
		if len(s.Body) == 3 && s.Body[0] == unitInterface {
			p, _ := s.Body[1].(map[string]dbus.Variant)
			tried, _ := p["ConditionTimestampMonotonic"].Value().(uint64)
			b.unmet = tried > 0 && p["ConditionResult"].Value() == false && p["ActiveState"].Value() == "inactive"
		}
	case "NameOwnerChanged": // name, old owner, new owner
		if len(s.Body) != 3 || s.Body[2] == "" {
			return // it will be back
		}
		b.lives++
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// Terminate is dbus.Terminator's: the connection has ended.
func (b *bus) Terminate() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone = true
	close(b.changed)
}

func (b *bus) broken() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gone
}

// ended returns how the unit's jobs have ended so far.
func (b *bus) ended() map[dbus.ObjectPath]jobEnd {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.ends)
}

// jobEnd waits for the end of a job.
func (b *bus) jobEnd(ctx context.Context, job dbus.ObjectPath) (jobEnd, error) {
	lives := 0
	for {
		b.mu.Lock()
		end, ended := b.ends[job]
		changed, now, gone := b.changed, b.lives, b.gone
		b.mu.Unlock()
		if ended {
			return end, nil
		}
		if gone {
			return end, errors.New("the connection to systemd broke: how its job ends is not known")
		}
		if now != lives { // re-executed: it takes its jobs along, but not for sure who listens
			lives = now
			if err := b.subscribe(ctx); err != nil {
				return end, err
			}
			if _, err := b.property(ctx, job, jobInterface, "State"); err != nil {
				b.mu.Lock()
				end, ended = b.ends[job]
				b.mu.Unlock()
				if ended {
					return end, nil
				}
				return end, fmt.Errorf("systemd was re-executed meanwhile: how its job ended is not known: %w", err)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return end, context.Cause(ctx)
		}
	}
}
