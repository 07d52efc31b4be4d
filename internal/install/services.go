package install

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The marks around what is ours in a file that is somebody else's.
const (
	blockBegin = "# kido: begin. " + written + "\n"
	blockEnd   = "# kido: end\n"
)

// cutBlock splits a text into what is not ours and what is.
func cutBlock(text string) (rest, inner string, found bool) {
	before, after, ok := strings.Cut(text, blockBegin)
	if !ok {
		return text, "", false
	}
	inner, after, ok = strings.Cut(after, blockEnd)
	if !ok {
		return text, "", false
	}
	return before + after, inner, true
}

// withBlock is a text with our block at its end.
func withBlock(text, inner string) string {
	rest, _, _ := cutBlock(text)
	if rest != "" && !strings.HasSuffix(rest, "\n") {
		rest += "\n"
	}
	return rest + blockBegin + inner + blockEnd
}

// cut takes our block out of a file.
func (m *Machine) cut(path string) error {
	text, err := os.ReadFile(m.path(path))
	if err != nil {
		return err
	}
	rest, _, _ := cutBlock(string(text))
	return m.copy(path, path, []byte(rest))
}

// placeSSHD puts our part of sshd's configuration in place. sshd is asked three
// times: whether its configuration is good as it is, whether it would be with
// ours (as a draft that no sshd reads), and, once it is in place, whether the
// gate's user gets what it says. Where not, all is as it was: to take it back
// needs no room on the disk.
func (m *Machine) placeSSHD(w *Work, f File, text []byte) error {
	if err := m.askSSHD(sshdConfig); err != nil {
		return fmt.Errorf("sshd refuses its configuration as it is, without kido: mend that first: %w", err)
	}
	main, err := os.ReadFile(m.path(sshdConfig))
	if err != nil {
		return err
	}
	err = m.try(File{Path: sshdConfig, Mode: 0o600}, []byte(f.lock.draft(string(main))), func(draft string) error {
		if err := m.askSSHD(draft); err != nil {
			return fmt.Errorf("sshd would refuse %s, so it is not put there: %w", f.Path, tooOld(err))
		}
		return nil
	})
	if err != nil {
		return err
	}
	whole := text
	if f.Block {
		whole = []byte(withBlock(string(main), string(text)))
	}
	there, err := m.setAside(f.Path, whole)
	if err != nil {
		return err
	}
	if f.Block {
		err = m.copy(f.Path, f.Path, whole)
	} else {
		err = m.write(f, whole)
	}
	if err != nil {
		return errors.Join(err, m.remove(asideOf(f.Path)))
	}
	err = m.askSSHD(sshdConfig)
	if err == nil {
		err = m.effective(w, f.lock)
	}
	if err == nil {
		return m.remove(asideOf(f.Path))
	}
	back := m.remove
	switch {
	case there:
		back = m.restore
	case f.Block:
		back = m.cut
	}
	return fmt.Errorf("%s was taken back: %w", f.Path, errors.Join(err, back(f.Path)))
}

// setAside keeps what is at a path until what comes there is found good; there is
// false where nothing is. Where a run that was cut off has put it there already,
// what was before that is what counts.
func (m *Machine) setAside(path string, next []byte) (there bool, err error) {
	now, there, err := m.content(path, false)
	if err != nil {
		return false, err
	}
	if bytes.Equal(now, next) {
		return m.exists(asideOf(path)), nil
	}
	if err := m.remove(asideOf(path)); err != nil || !there {
		return false, err
	}
	return true, os.Link(m.path(path), m.path(asideOf(path)))
}

// restore puts back what was set aside.
func (m *Machine) restore(path string) error {
	if err := os.Rename(m.path(asideOf(path)), m.path(path)); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(m.path(path)))
}

var unknownOption = regexp.MustCompile(`Bad configuration option: (\w+)|Directive '(\w+)' is not allowed within a Match block`)

// tooOld says of a refusal what it comes from, where that is an sshd that does not
// know what it was told.
func tooOld(err error) error {
	if f := unknownOption.FindStringSubmatch(err.Error()); f != nil {
		return fmt.Errorf("it is too old for %s%s: install OpenSSH 7.6 or later: %w", f[1], f[2], err)
	}
	return err
}

// askSSHD has sshd read a configuration.
func (m *Machine) askSSHD(config string) error {
	const missing = "Missing privilege separation directory: "
	out, err := m.Run("/usr/sbin/sshd", "-t", "-f", m.path(config))
	if _, dir, ok := strings.Cut(out, missing); err != nil && ok {
		// It is made when sshd starts, and where a socket starts sshd that may
		// not have been yet.
		dir, _, _ = strings.Cut(dir, "\n")
		if merr := os.MkdirAll(m.path(strings.TrimSpace(dir)), 0o755); merr != nil {
			return merr
		}
		_, err = m.Run("/usr/sbin/sshd", "-t", "-f", m.path(config))
	}
	return err
}

// effective fails where something else in sshd's configuration comes before the
// lock for one of its connections, and warns of what keeps the user out.
func (m *Machine) effective(w *Work, l *lock) error {
	for _, ask := range l.asks {
		out, err := m.Run("/usr/sbin/sshd", "-T", "-f", m.path(sshdConfig), "-C", ask)
		if err != nil {
			return err
		}
		has := options(out)
		for line := range strings.Lines(l.match) {
			word, want, _ := strings.Cut(strings.TrimSpace(line), " ")
			word = strings.ToLower(word)
			got := has[word]
			if word == "match" || want == "none" && len(got) == 0 { // older ones leave out what is not set
				continue
			}
			if !slices.Equal(got, []string{want}) {
				return fmt.Errorf("sshd does not hold the user %s to %q for all connections (%s: %q): another Match in its configuration comes first: move it behind, or let it leave out this user", gateUser, word+" "+want, ask, got)
			}
		}
		for _, list := range []string{"allowusers", "allowgroups"} {
			named := strings.Fields(strings.Join(has[list], " "))
			if len(named) > 0 && !slices.Contains(named, gateUser) {
				w.warnOnce("sshd lets in only those that %s names, and %s is not among them: add it, or no key of kido gets in", list, gateUser)
			}
		}
	}
	return nil
}

// options are what sshd -T says, by keyword in small letters: some come more than
// once.
func options(out string) map[string][]string {
	has := map[string][]string{}
	for line := range strings.Lines(out) {
		word, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		word = strings.ToLower(word)
		has[word] = append(has[word], value)
	}
	return has
}

// reload has sshd read its configuration again, unless it would not come back
// from that. One that does not run, or that a socket starts, reads it then.
func (m *Machine) reload(w *Work, init Init, soft bool) {
	argv := m.reloadArgv(init)
	if argv == nil {
		return
	}
	step := w.run(argv...)
	step.soft = soft
	step.do = func() error {
		if err := m.askSSHD(sshdConfig); err != nil {
			return fmt.Errorf("sshd refuses its configuration, so it is not told to read it: %w", err)
		}
		_, err := m.Run(argv...)
		return err
	}
}

func (m *Machine) reloadArgv(init Init) []string {
	for _, name := range []string{"ssh", "sshd"} {
		switch {
		case init == Systemd:
			if out, err := m.Run("systemctl", "is-active", name+".service"); err == nil && strings.HasPrefix(out, "active") {
				return []string{"systemctl", "reload", name + ".service"}
			}
		case !m.exists("/etc/init.d/" + name):
		case init == OpenRC:
			return []string{"rc-service", name, "reload"}
		default:
			return []string{"/etc/init.d/" + name, "reload"}
		}
	}
	return nil
}

// hooked reports whether init is going to run a hook.
func (m *Machine) hooked(init Init, h Hook) bool {
	there := func(path string) bool {
		_, err := os.Lstat(m.path(path))
		return err == nil
	}
	switch init {
	case Systemd:
		return !slices.ContainsFunc(h.links(), func(l string) bool { return !there(l) })
	case OpenRC:
		return there("/etc/runlevels/default/" + h.Name)
	}
	links, _ := filepath.Glob(m.path("/etc") + "/rc[2-5].d/S[0-9][0-9]" + h.Name)
	return len(links) > 0
}

// enable has init run a hook; again where it was to run another of that name.
func (m *Machine) enable(w *Work, init Init, h Hook, again bool) {
	switch {
	case init == Systemd:
		w.run("systemctl", "reenable", h.Name+".service")
	case init == OpenRC:
		if !m.hooked(init, h) {
			w.run("rc-update", "add", h.Name, "default")
		}
	case m.has("chkconfig"):
		if again {
			w.run("chkconfig", "--del", h.Name) // it looks at numbers only once
		}
		w.run("chkconfig", "--add", h.Name)
	case m.has("update-rc.d"):
		w.run("update-rc.d", h.Name, "defaults")
	case m.has("insserv"):
		w.run("insserv", h.Name)
	default:
		w.warn("neither chkconfig nor update-rc.d nor insserv is here: have %s started at boot yourself", h.File)
	}
}

// unhook ends a hook and has init forget it. Of a hook that holds a start only
// the link is taken away: to stop it could stop the service with it, as long as systemd
// knows of the link (see [Machine.bury]).
func (m *Machine) unhook(w *Work, init Init, h Hook) {
	switch {
	case init == Systemd && h.Announce:
		w.run("systemctl", "disable", "--now", h.Name+".service").soft = true
	case init == Systemd:
		w.run("systemctl", "disable", h.Name+".service").soft = true
	case init == OpenRC:
		if h.Announce {
			w.run("rc-service", h.Name, "stop").soft = true
		} else {
			w.run("rc-service", h.Name, "zap").soft = true
		}
		w.run("rc-update", "del", h.Name, "default").soft = true
	default:
		if h.Announce && m.exists(h.File) {
			w.run(h.File, "stop").soft = true
		}
		switch {
		case m.has("chkconfig"):
			w.run("chkconfig", "--del", h.Name).soft = true
		case m.has("update-rc.d"):
			w.run("update-rc.d", "-f", h.Name, "remove").soft = true
		case m.has("insserv"):
			w.run("insserv", "-r", h.Name).soft = true
		}
	}
}

// bury ends what is left in systemd of hooks that held a start, once it has read that
// they are gone: else each is listed as not found until the next boot.
func (m *Machine) bury(w *Work, init Init, hooks []Hook) {
	if init != Systemd {
		return
	}
	for _, h := range hooks {
		unit := h.Name + ".service"
		const asked = "--property=ActiveState,RequiredBy,RequisiteOf,BoundBy,ConsistsOf,PropagatesStopTo" // a stop goes to all of these (systemd.unit(5))
		state := func() (active, along string, err error) {
			out, err := m.Run("systemctl", "show", asked, "--", unit)
			for line := range strings.Lines(out) {
				if key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key == "ActiveState" {
					active = value
				} else {
					along = strings.TrimSpace(along + " " + value)
				}
			}
			return active, along, err
		}
		if active, _, err := state(); h.Announce || err != nil || active == "" || active == "inactive" {
			continue
		}
		step := w.run("systemctl", "stop", unit)
		step.soft = true
		step.do = func() error {
			active, along, err := state()
			switch {
			case err != nil:
				return err
			case along != "":
				return fmt.Errorf("%s is gone, and listed by systemd until the next boot: to stop it now would stop %s as well", unit, along)
			case active == "failed":
				_, err = m.Run("systemctl", "reset-failed", unit)
			case active != "inactive":
				_, err = m.Run("systemctl", "stop", unit)
			}
			return err
		}
	}
}

// start begins to announce what is up already, as the next boot would.
func (m *Machine) start(w *Work, init Init, h Hook) {
	switch {
	case init == Systemd && h.Follow:
		w.run("systemctl", "restart", "--no-block", h.Name+".service").soft = true
	case init == Systemd:
		if out, err := m.Run("systemctl", "is-active", h.Unit); err == nil && strings.HasPrefix(out, "active") {
			w.run("systemctl", "restart", "--no-block", h.Name+".service").soft = true
		}
	case init == OpenRC:
		w.run("rc-service", h.Name, "restart").soft = true
	default:
		w.run(h.File, "restart").soft = true
	}
}
