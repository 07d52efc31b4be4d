package initsys

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"kido/internal/wire"
)

// OpenRCConfig is a service of OpenRC.
type OpenRCConfig struct {
	Script  string   // its name, as for rc-service
	PIDFile string   // absolute; "": /run/SCRIPT.pid
	Become  []string // in front of every argv, as in /usr/bin/sudo -n
	Output  string   // file for what an action writes, overwritten by each; "": it is lost
}

// rcService is where every distribution has it, be it by a link.
const rcService = "/sbin/rc-service"

// NewOpenRC returns the unit, or says what is wrong with its configuration.
// Nothing is looked at yet.
//
// OpenRC remembers what it was told, and "started" may be said of a daemon that
// is dead: the pid file decides. It also refuses to start what it takes for
// started, and to restart what it cannot stop, so a dead service is stopped,
// its memory reset (zap), and then started. An LSB script under OpenRC is run
// as it is. Whether there is a reload only the script knows, so ErrUnsupported
// comes from Wait.
func NewOpenRC(c OpenRCConfig) (Unit, error) {
	if !isScriptName(c.Script) {
		return nil, fmt.Errorf("openrc: %s is not the name of a service: letters, digits and . _ - behind a letter or digit", wire.Quote(c.Script))
	}
	u := &openrc{script: script{
		actions: map[Action][]step{}, pidFile: c.PIDFile, log: c.Output, lsb: true, file: "/etc/init.d/" + c.Script,
	}}
	if u.pidFile == "" {
		u.pidFile = "/run/" + c.Script + ".pid"
	}
	verb := func(v string) step {
		return step{argv: slices.Concat(c.Become, []string{rcService, c.Script, v})}
	}
	for _, a := range Actions() {
		u.actions[a] = []step{verb(string(a))}
	}
	u.status = verb("status").argv
	reset := []step{verb("stop"), verb("zap")}
	revive := slices.Concat(reset, []step{verb("start")})
	u.dead = script{pidFile: u.pidFile, log: u.log, lsb: true, actions: map[Action][]step{
		Start: revive, Restart: revive, Stop: reset, Reload: u.actions[Reload],
	}}
	if err := u.check(c.Become); err != nil {
		return nil, err
	}
	return u, nil
}

type openrc struct {
	script
	dead script // the same service while it is dead and OpenRC does not know
}

// Exit statuses of openrc-run's status, beside those that the LSB has, too.
const (
	rcStopping = 4 // of an LSB script: unknown
	rcStarting = 8
	rcInactive = 16
	rcCrashed  = 32
)

func (u *openrc) Observe(ctx context.Context) (Observation, error) {
	code, output, err := u.ask(ctx)
	if err != nil {
		return Observation{}, err
	}
	var said claim
	switch {
	case code == lsbDead && strings.Contains(output, "does not exist"):
		return Observation{}, fmt.Errorf("openrc has no service %s: rc-service --list shows those that it has", u.status[len(u.status)-2])
	case code == rcStopping && strings.Contains(output, "stopping"):
		return Observation{State: Busy, Word: "openrc is stopping it"}, nil
	case code == rcStarting:
		return Observation{State: Busy, Word: "openrc is starting it"}, nil
	case code == rcInactive:
		return Observation{State: Busy, Word: "inactive: it was started, and waits for something that openrc will tell it"}, nil
	case code == rcCrashed:
		said = dead
	default:
		if said, err = parseStatus(code, output); err != nil {
			return Observation{}, fmt.Errorf("%s: %w", wire.FormatLine(u.status...), err)
		}
	}
	return u.judge(said)
}

func (u *openrc) Prepare(ctx context.Context, a Action) (Job, error) {
	o, err := u.Observe(ctx)
	if err != nil {
		return nil, err
	}
	if o.State == Failed {
		return u.dead.Prepare(ctx, a)
	}
	return u.script.Prepare(ctx, a)
}
