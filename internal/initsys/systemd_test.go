package initsys

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

func TestUnitName(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ name, full, err string }{
		{"httpd", "httpd.service", ""},
		{"httpd.service", "httpd.service", ""},
		{"remote-fs.target", "remote-fs.target", ""},
		{"my.app", "my.app.service", ""},
		{"postgresql@15-main", "postgresql@15-main.service", ""},
		{"postgresql@15-main.service", "postgresql@15-main.service", ""},
		{`dev-disk-by\x2dlabel-x.mount`, `dev-disk-by\x2dlabel-x.mount`, ""},
		{"a@b@c.service", "a@b@c.service", ""},
		{strings.Repeat("x", 247), strings.Repeat("x", 247) + ".service", ""},
		{"postgresql@", "", "postgresql@.service is a template: name an instance, as in postgresql@15-main.service"},
		{"postgresql@.service", "", "is a template"},
		{"", "", "is not the name of a unit"},
		{".service", "", "is not the name of a unit"},
		{"@x.service", "", "is not the name of a unit"},
		{"../../etc/x.service", "", "is not the name of a unit"},
		{"db*.service", "", "is not the name of a unit"},
		{"a b.service", "", "is not the name of a unit"},
		{"a\n.service", "", "is not the name of a unit"},
		{"a\x00.service", "", "is not the name of a unit"},
		{"día.service", "", "is not the name of a unit"},
		{strings.Repeat("x", 248), "", "is not the name of a unit"},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := NewSystemd(SystemdConfig{Unit: x.name})
			full, nerr := unitName(x.name)
			if full != x.full || (err == nil) != (x.err == "") || (nerr == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
				t.Errorf("%q, %v; want %q, %q", full, err, x.full, x.err)
			}
		})
	}
}

func TestSystemdConfig(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]SystemdConfig{
		"systemctl: no program is given":                      {Unit: "x", Systemctl: []string{}},
		"systemctl: systemctl is not an absolute path":        {Unit: "x", Systemctl: []string{"systemctl"}},
		"file for the output: output is not an absolute path": {Unit: "x", Systemctl: []string{"/bin/systemctl"}, Output: "output"},
		`systemd: "a b" is not the name of a unit`:            {Unit: "a b", Systemctl: []string{"/bin/systemctl"}},
		"systemctl: an argument holds no zero byte":           {Unit: "x", Systemctl: []string{"/usr/bin/sudo", "\x00"}},
	} {
		if _, err := NewSystemd(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want one that says %q", err, want)
		}
	}
}

// TestUnitObservation holds what each of systemd's states means. That systemd
// reports them so is TestSystemd…'s, on a real one.
func TestUnitObservation(t *testing.T) {
	t.Parallel()
	const now = time.Hour
	id := []byte{0x5a, 1}
	for _, x := range []struct {
		name string
		s    unitStatus
		want Observation
		err  string
	}{
		{"up", unitStatus{load: "loaded", active: "active", sub: "running", invocation: id, begun: now - 2*time.Minute, entered: now - time.Minute}, Observation{State: Up, Token: "5a01", Age: time.Minute, Begun: 2 * time.Minute}, ""},
		{"up since just now", unitStatus{load: "loaded", active: "active", sub: "running", invocation: id, entered: now + 1}, Observation{State: Up, Token: "5a01"}, ""},
		{"up, no id", unitStatus{load: "loaded", active: "active", sub: "mounted"}, Observation{State: Up, Word: "systemd has no invocation id for it"}, ""},
		{"up, file removed", unitStatus{load: "not-found", active: "active", sub: "running", invocation: id}, Observation{State: Up, Token: "5a01", Word: "it runs, but could not be started again: its unit is not-found"}, ""},
		{"up, masked since", unitStatus{load: "masked", active: "active", sub: "running", invocation: id}, Observation{State: Up, Token: "5a01", Word: "it runs, but could not be started again: its unit is masked"}, ""},
		{"up with a job", unitStatus{load: "loaded", active: "active", sub: "running", invocation: id, jobs: true, doing: "its restart job is waiting"}, Observation{State: Busy, Word: "its restart job is waiting"}, ""},
		{"up from an init script", unitStatus{id: "dbora.service", load: "loaded", active: "active", sub: "exited", invocation: id, script: "/etc/init.d/dbora"}, Observation{State: Up, Token: "5a01", Word: "dbora.service was made from /etc/init.d/dbora, and systemd does not know its main process: it stays up when that dies, so name the script as sysv, with its pid file"}, ""},
		{"reloading", unitStatus{load: "loaded", active: "reloading", sub: "reload-notify", changed: now - 90*time.Second}, Observation{State: Busy, Word: "reloading for 1m30s"}, ""},
		{"refreshing", unitStatus{load: "loaded", active: "refreshing"}, Observation{State: Busy, Word: "refreshing"}, ""},
		{"activating", unitStatus{load: "loaded", active: "activating", sub: "start-pre", changed: now - 4*time.Minute}, Observation{State: Busy, Word: "starting for 4m0s (start-pre)"}, ""},
		{"deactivating", unitStatus{load: "loaded", active: "deactivating", sub: "stop-sigterm", changed: now - 4*time.Minute}, Observation{State: Busy, Word: "stopping for 4m0s (stop-sigterm)"}, ""},
		{"auto-restart", unitStatus{load: "loaded", active: "activating", sub: "auto-restart"}, Observation{State: Busy, Word: "in auto-restart: it ended, and systemd will start it again"}, ""},
		{"failed", unitStatus{load: "loaded", active: "failed", sub: "failed", invocation: id, result: "oom-kill"}, Observation{State: Failed, Word: "oom-kill"}, ""},
		{"inactive", unitStatus{load: "loaded", active: "inactive", sub: "dead", invocation: id}, Observation{State: Down}, ""},
		{"masked", unitStatus{load: "masked", active: "inactive", sub: "dead"}, Observation{State: Down, Word: "masked"}, ""},
		{"masked and failed", unitStatus{load: "masked", active: "failed", sub: "failed"}, Observation{State: Down, Word: "masked"}, ""},
		{"not found", unitStatus{id: "x.service", load: "not-found", active: "inactive"}, Observation{}, "systemd has no unit x.service: correct its name, or, where its file is new, run systemctl daemon-reload"},
		{"bad", unitStatus{id: "x.service", load: "bad-setting", loadError: "no ExecStart", active: "inactive"}, Observation{}, "systemd cannot use unit x.service (bad-setting): no ExecStart: see systemd-analyze verify x.service"},
		{"unheard of", unitStatus{id: "x.service", load: "loaded", active: "dreaming"}, Observation{}, "systemd says that x.service is dreaming, which kido does not know"},
	} {
		t.Run(x.name, func(t *testing.T) {
			got, err := x.s.observation(now)
			if got != x.want || (err == nil) != (x.err == "") || err != nil && err.Error() != x.err {
				t.Errorf("got %+v, %v\nwant %+v, %s", got, err, x.want, x.err)
			}
		})
	}
}

// TestParseUnit: an answer that lacks something, or has it in another type, is
// an error and never half a status.
func TestParseUnit(t *testing.T) {
	t.Parallel()
	as := func(signature string, v any) dbus.Variant { // as it comes off the wire
		return dbus.MakeVariantWithSignature(v, dbus.ParseSignatureMust(signature))
	}
	whole := func() map[string]dbus.Variant {
		return map[string]dbus.Variant{
			"Id": dbus.MakeVariant("db.service"), "LoadState": dbus.MakeVariant("loaded"),
			"LoadError":   as("(ss)", []any{"name", "message"}),
			"ActiveState": dbus.MakeVariant("active"), "SubState": dbus.MakeVariant("running"),
			"InvocationID":                   dbus.MakeVariant([]byte{1, 2}),
			"Job":                            as("(uo)", []any{uint32(7), dbus.ObjectPath("/job/7")}),
			"InactiveExitTimestampMonotonic": dbus.MakeVariant(uint64(500)), "ActiveEnterTimestampMonotonic": dbus.MakeVariant(uint64(1000)), "StateChangeTimestampMonotonic": dbus.MakeVariant(uint64(2000)),
			"CanReload": dbus.MakeVariant(true), "ConditionResult": dbus.MakeVariant(false), "ConditionTimestampMonotonic": dbus.MakeVariant(uint64(3)),
			"Conditions": as("a(sbbsi)", [][]any{{"ConditionPathExists", false, true, "/a", int32(-1)}, {"ConditionHost", false, false, "x", int32(0)}}),
			"ConsistsOf": dbus.MakeVariant([]string{"b.socket", "d.service", "c.service"}), "SourcePath": dbus.MakeVariant("/etc/fstab"),
		}
	}
	got, err := parseUnit(whole())
	want := unitStatus{
		id: "db.service", load: "loaded", loadError: "message", active: "active", sub: "running", invocation: []byte{1, 2},
		job: "/job/7", jobs: true, begun: 500 * time.Microsecond, entered: time.Millisecond, changed: 2 * time.Millisecond, canReload: true,
		unmet: "not started, as its conditions are not met: ConditionPathExists=!/a", members: []string{"c.service", "d.service"},
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) || err != nil {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	for name := range whole() {
		p := whole()
		delete(p, name)
		if _, err := parseUnit(p); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
		p[name] = dbus.MakeVariant(map[string]string{"a": "b"})
		if _, err := parseUnit(p); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("with a dictionary as %s: %v", name, err)
		}
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	plain := errors.New("broken pipe")
	for _, x := range []struct {
		err         error
		want        string
		unsupported bool
	}{
		{plain, "broken pipe", false},
		{dbus.Error{Name: "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"}, fmt.Sprintf("access denied: a polkit rule must let user id %d do the verb restart on unit db.service (action org.freedesktop.systemd1.manage-units), and there is none", os.Geteuid()), false},
		{dbus.Error{Name: "org.freedesktop.systemd1.UnitMasked"}, "it is masked: systemctl unmask db.service", false},
		{dbus.Error{Name: "org.freedesktop.systemd1.JobTypeNotApplicable", Body: []any{"Job type reload is not applicable"}}, ErrUnsupported.Error() + ": Job type reload is not applicable", true},
		{dbus.Error{Name: "org.freedesktop.systemd1.NoSuchUnit", Body: []any{"Unit db.service not found."}}, "Unit db.service not found.", false},
	} {
		if got := refusal(x.err, "restart", "db.service"); got.Error() != x.want || errors.Is(got, ErrUnsupported) != x.unsupported {
			t.Errorf("%v became %v; want %s", x.err, got, x.want)
		}
	}
}
