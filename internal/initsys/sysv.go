package initsys

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"kido/internal/wire"
)

// SysVConfig is a unit of one init script.
type SysVConfig struct {
	Script  string   // its name, without a folder
	Dir     string   // where it is; "": /etc/init.d
	PIDFile string   // absolute; "": /run/SCRIPT.pid
	Become  []string // in front of every argv, as in /usr/bin/sudo -n
	Output  string   // file for what an action writes, overwritten by each; "": it is lost
}

// NewSysV returns the unit, or says what is wrong with its configuration.
// Nothing is looked at yet. The script's status and the pid file are both
// heard: where the script has no status, or says "running" of a process that
// the pid file shows to be gone, the pid file decides. Whether it has a reload
// only the script knows, so ErrUnsupported comes from Wait.
func NewSysV(c SysVConfig) (Unit, error) {
	if !isScriptName(c.Script) {
		return nil, fmt.Errorf("sysv: %s is not the name of an init script: letters, digits and . _ - behind a letter or digit", wire.Quote(c.Script))
	}
	dir := c.Dir
	if dir == "" {
		dir = "/etc/init.d"
	}
	if err := checkPath("sysv", dir); err != nil {
		return nil, err
	}
	u := &script{
		actions: map[Action][]step{}, pidFile: c.PIDFile, log: c.Output, lsb: true, file: filepath.Join(dir, c.Script),
	}
	if u.pidFile == "" {
		u.pidFile = "/run/" + c.Script + ".pid"
	}
	argv := func(verb string) []string {
		return slices.Concat(c.Become, []string{u.file, verb})
	}
	for _, a := range []Action{Start, Stop, Restart, Reload} {
		u.actions[a] = []step{{argv: argv(string(a))}}
	}
	u.status = argv("status")
	if err := u.check(c.Become); err != nil {
		return nil, err
	}
	return u, nil
}

const alnum = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// isScriptName keeps a name from leading out of its folder or being taken for
// an option.
func isScriptName(name string) bool {
	return name != "" && len(name) <= 255 && strings.IndexByte(alnum, name[0]) >= 0 &&
		strings.Trim(name, alnum+"._-") == ""
}
