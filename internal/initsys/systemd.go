package initsys

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/godbus/dbus/v5"

	"kido/internal/wire"
)

// SystemdConfig is a unit of this machine's systemd.
type SystemdConfig struct {
	Unit string // "httpd.service", "postgresql@15-main"; without the suffix of a unit type it is a .service
	// NoStart brings the unit up by RestartUnit even as root. Any other user
	// does so anyway: whoever polkit grants the verb start may run anything as
	// root, by a transient unit of the name, and so it must never be granted.
	NoStart bool
	// Systemctl is the argv that tells systemd what to do, as in /usr/bin/sudo -n
	// /usr/bin/systemctl, for a user whom polkit grants nothing; nil: this process
	// does, over the bus. It is only ever given restart, stop or reload, and the
	// unit: NoStart holds. Looking goes over the bus in any case.
	Systemctl []string
	Output    string // file for what Systemctl writes, overwritten by each action; "": it is lost
}

// NewSystemd returns the unit, or says what is wrong with its configuration. It
// is an io.Closer and a [Watcher]; systemd is dialled over the system bus when it
// is first needed, and again where that connection broke.
//
// What an action writes goes to systemd's journal: Output is empty, or what
// Systemctl said. Prepare tells whether there is a reload. An action cut short by
// the death of this process was either queued whole or not at all.
func NewSystemd(c SystemdConfig) (Unit, error) {
	name, err := unitName(c.Unit)
	if err == nil && c.Systemctl != nil {
		err = checkArgv("systemctl", c.Systemctl)
	}
	if err == nil && c.Output != "" {
		err = checkPath("file for the output", c.Output)
	}
	if err != nil {
		return nil, fmt.Errorf("systemd: %w", err)
	}
	return &systemd{name: name, noStart: c.NoStart || c.Systemctl != nil || os.Geteuid() != 0, systemctl: c.Systemctl, log: c.Output}, nil
}

// Trap says what makes u deceptive as a unit to depend on, "" where nothing
// does: it can be up while the service behind it is not, or never be up at all.
// Units of other init systems have no trap.
func Trap(ctx context.Context, u Unit) (word string, err error) {
	s, ok := u.(*systemd)
	if !ok {
		return "", nil
	}
	st, err := s.status(ctx)
	if err != nil {
		return "", err
	}
	if word := st.trap(); word != "" || !strings.HasSuffix(st.id, ".service") {
		return word, nil
	}
	kind, err := s.property(ctx, st.path, "Type")
	if err != nil {
		return "", err
	}
	stays, err := s.property(ctx, st.path, "RemainAfterExit")
	switch {
	case err != nil:
		return "", err
	case kind.Value() != "oneshot":
		return "", nil
	case stays.Value() == false:
		return st.id + " is a oneshot without RemainAfterExit: it is never up, so nothing can wait for it", nil
	}
	st.sub = "exited" // as it will be once it is up
	return st.trap(), nil
}

type systemd struct {
	name      string
	noStart   bool
	systemctl []string
	log       string

	mu  sync.Mutex
	bus *bus // nil before its first use
}

// The names that systemd has on the bus.
const (
	systemdName      = "org.freedesktop.systemd1"
	systemdPath      = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerInterface = systemdName + ".Manager"
	unitInterface    = systemdName + ".Unit"
	jobInterface     = systemdName + ".Job"
	properties       = "org.freedesktop.DBus.Properties"
)

func (u *systemd) Observe(ctx context.Context) (Observation, error) {
	s, err := u.status(ctx)
	if err != nil {
		return Observation{}, err
	}
	return s.observation(monotonic())
}

// unitStatus is one look at a unit. All but the words at its end are of one
// answer of systemd's, and so of one moment.
type unitStatus struct {
	path       dbus.ObjectPath
	id         string // the name of its own, where u.name is an alias
	load       string // loaded, masked, not-found, bad-setting, error
	loadError  string
	active     string // active, reloading, inactive, failed, activating, deactivating, maintenance, refreshing
	sub        string // finer, by the type of the unit
	invocation []byte // 16 bytes; empty before its first start
	job        dbus.ObjectPath
	jobs       bool          // it has one
	begun      time.Duration // when its start began, on the monotonic clock
	entered    time.Duration // when it became active, likewise
	changed    time.Duration // when it last changed
	canReload  bool
	unmet      string   // the conditions that kept it from starting when that was last tried
	members    []string // services that are stopped and restarted with it
	script     string   // the init script that it was made from

	doing  string // "its start job is waiting"
	result string // why it failed
}

// status asks systemd.
func (u *systemd) status(ctx context.Context) (unitStatus, error) {
	b, err := u.dial(ctx)
	if err != nil {
		return unitStatus{}, err
	}
	path, err := b.loadUnit(ctx, u.name)
	if err != nil {
		return unitStatus{}, err
	}
	var p map[string]dbus.Variant
	if err := b.call(ctx, path, properties+".GetAll", unitInterface).Store(&p); err != nil {
		return unitStatus{}, fmt.Errorf("systemd: state of %s: %w", u.name, err)
	}
	s, err := parseUnit(p)
	if err != nil {
		return unitStatus{}, fmt.Errorf("systemd: state of %s: %w", u.name, err)
	}
	s.path = path
	// The rest is for people: where it is gone by now, so is what it tells of.
	if s.jobs {
		s.doing = b.doing(ctx, s.job)
	}
	if s.active == "failed" {
		s.result = b.result(ctx, s)
	}
	return s, nil
}

func (u *systemd) property(ctx context.Context, path dbus.ObjectPath, name string) (dbus.Variant, error) {
	b, err := u.dial(ctx)
	if err != nil {
		return dbus.Variant{}, err
	}
	return b.property(ctx, path, typeInterface(u.name), name)
}

// observation is what a status means to kido. An invocation id is random and
// never comes back, so it is a token without the boot id: what that looks like
// from inside a unit of a container depends on how the unit is sandboxed, and two
// who look must see the same.
func (s unitStatus) observation(now time.Duration) (Observation, error) {
	busy := func(word string) (Observation, error) { return Observation{State: Busy, Word: word}, nil }
	since := ""
	if d := now - s.changed; s.changed > 0 && d > 0 {
		since = " for " + d.Round(time.Second).String()
	}
	switch {
	case s.jobs:
		return busy(s.doing)
	case s.sub == "auto-restart" || s.sub == "auto-restart-queued":
		return busy("in auto-restart: it ended, and systemd will start it again")
	case s.active == "activating":
		return busy("starting" + since + " (" + s.sub + ")")
	case s.active == "deactivating":
		return busy("stopping" + since + " (" + s.sub + ")")
	case s.active == "reloading", s.active == "refreshing", s.active == "maintenance":
		return busy(s.active + since)
	case s.active == "active":
		o := Observation{State: Up, Word: s.trap()}
		if s.load != "loaded" {
			o.Word = "it runs, but could not be started again: its unit is " + s.load
		}
		if len(s.invocation) == 0 {
			o.Word = "systemd has no invocation id for it"
			return o, nil
		}
		o.Token = hex.EncodeToString(s.invocation)
		if s.entered > 0 {
			o.Age = max(0, now-s.entered)
		}
		if s.begun > 0 {
			o.Begun = max(0, now-s.begun)
		}
		return o, nil
	case s.load == "masked":
		return Observation{State: Down, Word: "masked"}, nil
	case s.load == "not-found":
		return Observation{}, fmt.Errorf("systemd has no unit %s: correct its name, or, where its file is new, run systemctl daemon-reload", s.id)
	case s.load != "loaded":
		return Observation{}, fmt.Errorf("systemd cannot use unit %s (%s): %s: see systemd-analyze verify %s", s.id, s.load, s.loadError, s.id)
	case s.active == "failed":
		return Observation{State: Failed, Word: s.result}, nil
	case s.active == "inactive":
		return Observation{State: Down, Word: s.unmet}, nil
	}
	return Observation{}, fmt.Errorf("systemd says that %s is %s, which kido does not know", s.id, wire.Quote(s.active))
}

// trap tells a unit that is up without being the service. Debian's
// postgresql.service is the best known: it runs /bin/true, and stays up above
// postgresql@15-main.service, whose restarts leave no mark on it.
func (s unitStatus) trap() string {
	empty := s.sub == "exited" || strings.HasSuffix(s.id, ".target")
	switch {
	case empty && len(s.members) > 0:
		return fmt.Sprintf("%s is an empty unit above %s: a restart of that is not seen here, so name that one instead", s.id, strings.Join(s.members, ", "))
	case s.sub == "exited" && s.script != "":
		return fmt.Sprintf("%s was made from %s, and systemd does not know its main process: it stays up when that dies, so name the script as sysv, with its pid file", s.id, s.script)
	}
	return ""
}

// parseUnit takes a status from the properties of a unit.
func parseUnit(p map[string]dbus.Variant) (unitStatus, error) {
	var (
		s   unitStatus
		job struct {
			ID   uint32
			Path dbus.ObjectPath
		}
		loadError                      struct{ Name, Message string }
		begun, entered, changed, tried uint64
		conditions                     []condition
		met                            bool
	)
	for _, x := range []struct {
		name string
		to   any
	}{
		{"Id", &s.id},
		{"LoadState", &s.load},
		{"LoadError", &loadError},
		{"ActiveState", &s.active},
		{"SubState", &s.sub},
		{"InvocationID", &s.invocation},
		{"Job", &job},
		{"InactiveExitTimestampMonotonic", &begun},
		{"ActiveEnterTimestampMonotonic", &entered},
		{"StateChangeTimestampMonotonic", &changed},
		{"CanReload", &s.canReload},
		{"Conditions", &conditions},
		{"ConditionResult", &met},
		{"ConditionTimestampMonotonic", &tried},
		{"ConsistsOf", &s.members},
		{"SourcePath", &s.script},
	} {
		v, ok := p[x.name]
		if !ok {
			return s, fmt.Errorf("there is no property %s: systemd 232 or later is needed", x.name)
		}
		if err := v.Store(x.to); err != nil {
			return s, fmt.Errorf("property %s: %w", x.name, err)
		}
	}
	s.job, s.jobs = job.Path, job.ID != 0
	s.loadError = loadError.Message
	s.begun = time.Duration(begun) * time.Microsecond
	s.entered, s.changed = time.Duration(entered)*time.Microsecond, time.Duration(changed)*time.Microsecond
	if tried > 0 && !met {
		s.unmet = unmet(conditions)
	}
	s.members = slices.DeleteFunc(s.members, func(m string) bool { return !strings.HasSuffix(m, ".service") })
	slices.Sort(s.members)
	if !strings.HasPrefix(s.script, "/etc/init.d/") && !strings.HasPrefix(s.script, "/etc/rc.d/") {
		s.script = ""
	}
	return s, nil
}

// condition is an element of the property Conditions.
type condition struct {
	Name            string
	Trigger, Negate bool
	Parameter       string
	Result          int32 // 0: not tried; below: not met
}

func unmet(conditions []condition) string {
	var words []string
	for _, c := range conditions {
		if c.Result < 0 {
			not := ""
			if c.Negate {
				not = "!"
			}
			words = append(words, c.Name+"="+not+c.Parameter)
		}
	}
	word := "not started, as its conditions are not met"
	if words == nil { // which ones it forgets when it reads its files anew
		return word
	}
	return word + ": " + strings.Join(words, ", ")
}

// unitName checks a name as systemd does, and completes it.
func unitName(name string) (string, error) {
	full := name
	if i := strings.LastIndexByte(name, '.'); i < 0 || !slices.Contains(unitTypes, name[i+1:]) {
		full += ".service"
	}
	stem := full[:strings.LastIndexByte(full, '.')]
	at := strings.IndexByte(stem, '@')
	switch {
	case stem == "" || at == 0 || len(full) > 255 || strings.Trim(full, alnum+`:-_.\@`) != "":
		return "", fmt.Errorf(`%s is not the name of a unit: up to 255 letters, digits and : - _ . \ @, as in httpd.service`, wire.Quote(name))
	case at > 0 && at == len(stem)-1:
		return "", fmt.Errorf("%s is a template: name an instance, as in %s15-main%s", full, stem, full[len(stem):])
	}
	return full, nil
}

var unitTypes = []string{"service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope"}

// typeInterface is the interface that only units of the name's type have.
func typeInterface(name string) string {
	kind := name[strings.LastIndexByte(name, '.')+1:]
	return systemdName + "." + strings.ToUpper(kind[:1]) + kind[1:]
}

// monotonic is the clock of systemd's …TimestampMonotonic.
func monotonic() time.Duration {
	const clockMonotonic = 1
	var t syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&t)), 0)
	return time.Duration(t.Nano())
}

// Close ends the connection. The unit may be used again after that.
func (u *systemd) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bus == nil {
		return nil
	}
	b := u.bus
	u.bus = nil
	return b.conn.Close()
}

// dial returns the connection, a new one where there is none that works.
func (u *systemd) dial(ctx context.Context) (*bus, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bus != nil && !u.bus.broken() {
		return u.bus, nil
	}
	b, err := dialBus(ctx)
	if err != nil {
		return nil, err
	}
	u.bus = b
	return b, nil
}

// Changed is Watcher's.
func (u *systemd) Changed(ctx context.Context) (<-chan struct{}, error) {
	b, err := u.listen(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed, nil
}

// listen returns a connection that hears of the unit.
func (u *systemd) listen(ctx context.Context) (*bus, error) {
	b, err := u.dial(ctx)
	if err != nil {
		return nil, err
	}
	return b, b.listen(ctx, u.name)
}

func (u *systemd) Prepare(ctx context.Context, a Action) (Job, error) {
	if !slices.Contains(Actions(), a) {
		return nil, fmt.Errorf("%s: %w", a, ErrUnsupported)
	}
	if a == Reload {
		s, err := u.status(ctx)
		if err != nil {
			return nil, err
		}
		if !s.canReload {
			return nil, fmt.Errorf("%s: %s has no ExecReload=: %w", a, s.id, ErrUnsupported)
		}
	}
	// Before the call, or the end of a quick job would go unheard.
	b, err := u.listen(ctx)
	if err != nil {
		return nil, err
	}
	if u.systemctl != nil {
		return u.tell(a, b)
	}
	return &systemdJob{unit: u, action: a, bus: b}, nil
}

// systemdJob is a job of systemd's own: it is queued by one call, and then no
// more of this process's business.
type systemdJob struct {
	unit   *systemd
	action Action
	bus    *bus
	begun  bool
	path   dbus.ObjectPath // "": there was nothing to do
}

func (j *systemdJob) Child() (Child, bool) { return Child{}, false }
func (j *systemdJob) Output() string       { return "" }
func (j *systemdJob) Close() error         { return nil }

func (j *systemdJob) Go() error {
	if j.begun {
		return fmt.Errorf("%s of %s: was told to go before", j.action, j.unit.name)
	}
	method, verb := map[Action]string{Start: "StartUnit", Stop: "StopUnit", Restart: "RestartUnit", Reload: "ReloadUnit"}[j.action], string(j.action)
	ctx := context.Background() // call bounds it
	if j.action == Start && j.unit.noStart {
		if up, err := j.unit.up(ctx); err != nil || up { // RestartUnit would restart it
			j.begun = up
			return err
		}
		method, verb = "RestartUnit", "restart"
	}
	err := j.bus.call(ctx, systemdPath, managerInterface+"."+method, j.unit.name, "replace").Store(&j.path)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", j.action, j.unit.name, refusal(err, verb, j.unit.name))
	}
	j.begun = true
	return nil
}

func (u *systemd) up(ctx context.Context) (bool, error) {
	o, err := u.Observe(ctx)
	return o.State == Up, err
}

// refusal says what to do about a job that systemd did not queue.
func refusal(err error, verb, unit string) error {
	e, ok := errors.AsType[dbus.Error](err)
	if !ok {
		return err
	}
	switch e.Name {
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
		return fmt.Errorf("access denied: a polkit rule must let user id %d do the verb %s on unit %s (action org.freedesktop.systemd1.manage-units), and there is none", os.Geteuid(), verb, unit)
	case systemdName + ".UnitMasked":
		return fmt.Errorf("it is masked: systemctl unmask %s", unit)
	case systemdName + ".JobTypeNotApplicable":
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

func (j *systemdJob) Wait(ctx context.Context) error {
	switch {
	case !j.begun:
		return fmt.Errorf("%s of %s: was not told to go", j.action, j.unit.name)
	case j.path == "":
		return nil
	}
	end, err := j.bus.jobEnd(ctx, j.path)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s of %s: %w", j.action, j.unit.name, err)
	}
	return j.unit.judge(ctx, j.action, end)
}

// judge is nil where a job with this end did what was asked for.
func (u *systemd) judge(ctx context.Context, a Action, end jobEnd) error {
	if why := u.why(ctx, a, end); why != "" {
		return fmt.Errorf("%s of %s: %s", a, u.name, why)
	}
	return nil
}

// why says in what way a job with this end did not do what was asked for,
// "" where it did.
func (u *systemd) why(ctx context.Context, a Action, end jobEnd) string {
	switch end.result {
	case "done":
		// A start that its conditions forbid is done, says systemd.
		if !end.unmet || a != Start && a != Restart {
			return ""
		}
		if s, err := u.status(ctx); err == nil && s.unmet != "" {
			return s.unmet
		}
		return unmet(nil) // it has forgotten the unit, as it does where nothing else wants it
	case "failed":
		why := "failed"
		if s, err := u.status(ctx); err == nil && s.result != "" {
			why += ": " + s.result
		}
		return why + "; journalctl -u " + u.name + " says more"
	case "canceled":
		return "canceled: systemd was told something else meanwhile"
	case "timeout":
		return "its job timed out before its turn came (JobTimeoutSec=)"
	case "dependency":
		return "a unit that it needs did not start; systemctl list-dependencies " + u.name + " says which"
	case "skipped":
		return "skipped: it is in no state to " + string(a)
	case "assert":
		return "one of its assertions (Assert…=) is not met"
	}
	return "its job ended as " + wire.Quote(end.result)
}
