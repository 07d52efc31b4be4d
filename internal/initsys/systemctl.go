package initsys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// toldJob is a job of systemd's that another program queues and waits for, as
// somebody who may.
type toldJob struct {
	*job
	unit   *systemd
	action Action
	bus    *bus
	before map[dbus.ObjectPath]jobEnd // what had ended before it was told to go
	idle   bool                       // there was nothing to do
}

// tell prepares an action by way of systemctl.
func (u *systemd) tell(a Action, b *bus) (Job, error) {
	verb := a
	if a == Start {
		verb = Restart // see NoStart
	}
	// Its input is empty and no terminal, so it asks nobody for a password.
	j, err := holdLogged([]step{{argv: slices.Concat(u.systemctl, []string{string(verb), u.name})}}, u.log)
	if err != nil {
		return nil, err
	}
	return &toldJob{job: j, unit: u, action: a, bus: b}, nil
}

func (j *toldJob) Go() error {
	if j.idle {
		return fmt.Errorf("%s of %s: was told to go before", j.action, j.unit.name)
	}
	if j.action == Start && !j.begun {
		up, err := j.unit.up(context.Background()) // lookTime bounds it
		if err != nil {
			return err
		}
		if up {
			j.idle = true
			j.word.Close() // the child ends without having done anything
			<-j.ended
			return nil
		}
	}
	j.before = j.bus.ended()
	return j.job.Go()
}

func (j *toldJob) Wait(ctx context.Context) error {
	if j.idle {
		return nil
	}
	err := j.job.Wait(ctx)
	exit, exited := errors.AsType[*ExitError](err)
	if err != nil && !exited {
		return err
	}
	// systemd answers in the order in which things happened, so what it said of
	// the job before systemctl heard of its end is here with its next answer.
	s, lerr := j.unit.status(ctx)
	if err == nil {
		if lerr != nil {
			return nil // the word for why a start was not made is lost, and whoever looks sees that it was not
		}
		j.bus.mu.Lock()
		forbidden := j.bus.unmet
		j.bus.mu.Unlock()
		return j.unit.judge(ctx, j.action, jobEnd{"done", forbidden && s.active == "inactive"})
	}
	for path, end := range j.bus.ended() {
		if _, old := j.before[path]; !old && end.result != "done" {
			return j.unit.judge(ctx, j.action, end)
		}
	}
	// No job came to its end: it was refused.
	said := strings.TrimSpace(j.Output())
	if said == "" {
		said = exit.Error()
	}
	return fmt.Errorf("%s of %s: %s: %s", j.action, j.unit.name, j.command, said[strings.LastIndexByte(said, '\n')+1:])
}
