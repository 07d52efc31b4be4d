package initsys

import "slices"

// CommandConfig is a unit of plain commands. Every argv has an absolute path
// for its program; no shell is involved.
type CommandConfig struct {
	Start, Stop []string // required
	Restart     []string // none: Stop, then Start once the process is gone
	Reload      []string // none: there is no reload
	Status      []string // exit statuses as the LSB has them: 0 up, 1 and 2 failed, 3 down; none: the pid file tells
	PIDFile     string   // absolute, required: the main process
	Become      []string // in front of every argv, as in /usr/bin/sudo -n
	Output      string   // file for what an action writes, overwritten by each; "": it is lost
}

// NewCommand returns the unit, or says what is wrong with its configuration.
// Nothing is looked at yet.
func NewCommand(c CommandConfig) (Unit, error) {
	u := &script{actions: map[Action][]step{}, pidFile: c.PIDFile, log: c.Output}
	for _, x := range []struct {
		action   Action
		argv     []string
		required bool
	}{{Start, c.Start, true}, {Stop, c.Stop, true}, {Restart, c.Restart, false}, {Reload, c.Reload, false}} {
		if x.argv == nil && !x.required {
			continue
		}
		if err := checkArgv(string(x.action), x.argv); err != nil {
			return nil, err
		}
		u.actions[x.action] = []step{{argv: slices.Concat(c.Become, x.argv)}}
	}
	if c.Restart == nil {
		// Both in one child: a gate that dies in between loses no start.
		u.actions[Restart] = []step{
			{argv: u.actions[Stop][0].argv, stops: c.PIDFile, bound: stopBound},
			u.actions[Start][0],
		}
	}
	if c.Status != nil {
		if err := checkArgv("status", c.Status); err != nil {
			return nil, err
		}
		u.status = slices.Concat(c.Become, c.Status)
	}
	if err := u.check(c.Become); err != nil {
		return nil, err
	}
	return u, nil
}

func (s *script) check(become []string) error {
	if become != nil {
		if err := checkArgv("become", become); err != nil {
			return err
		}
	}
	if s.log != "" {
		if err := checkPath("file for the output", s.log); err != nil {
			return err
		}
	}
	return checkPath("pid file", s.pidFile)
}
