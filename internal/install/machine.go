package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kido/internal/initsys"
	"kido/internal/site"
)

// Machine is where a setup is applied.
type Machine struct {
	// Root is put in front of every path; "" is this machine.
	Root string
	// Run runs a command and returns what it wrote; its error says how it failed.
	Run func(argv ...string) (output string, err error)
	// Trap says what makes a systemd unit deceptive to depend on, "" for nothing.
	Trap func(unit string) string
}

// This is this machine.
func This() *Machine { return &Machine{Run: execute, Trap: trap} }

func trap(unit string) string {
	u, err := initsys.NewSystemd(initsys.SystemdConfig{Unit: unit})
	if err != nil {
		return ""
	}
	if c, ok := u.(io.Closer); ok {
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	word, err := initsys.Trap(ctx, u)
	if err != nil {
		return "" // a unit that is not there yet is warned of elsewhere
	}
	return word
}

func (m *Machine) path(p string) string { return filepath.Join("/", m.Root, p) }

func (m *Machine) exists(p string) bool {
	_, err := os.Stat(m.path(p))
	return err == nil
}

// sbin is where the programs of a host are, whatever PATH a session has.
var sbin = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

func (m *Machine) has(program string) bool {
	return slices.ContainsFunc(sbin, func(dir string) bool { return m.exists(dir + "/" + program) })
}

// longest is how long any command may take: they set up, and wait for nothing.
const longest = 2 * time.Minute

func execute(argv ...string) (string, error) {
	program := argv[0]
	for _, dir := range sbin {
		path := filepath.Join(dir, program)
		if _, err := os.Stat(path); err == nil && !strings.Contains(program, "/") {
			program = path
			break
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, argv[1:]...)
	cmd.Env = []string{"PATH=" + strings.Join(sbin, ":"), "LC_ALL=C", "HOME=/root", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER="}
	cmd.WaitDelay = time.Second // a daemon that it leaves behind may have inherited our pipe
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(bytes.ToValidUTF8(out, nil)))
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		said := text
		if said == "" {
			said = err.Error()
		}
		return text, fmt.Errorf("%s: %s", strings.Join(argv, " "), said)
	}
	return text, nil
}

// Look gathers the facts of the machine as far as they matter for a host.
func (m *Machine) Look(s *site.Site, host string) (Facts, error) {
	f := Facts{
		Init: m.init(), SSHD: m.exists("/usr/sbin/sshd"),
		Sudo: m.sudo(), Units: map[string]Unit{}, Scripts: map[string]Script{},
		Sequential: m.has("chkconfig") && !m.has("insserv"), Logrotate: m.exists(logrotateDir),
	}
	config, err := os.ReadFile(m.path(sshdConfig))
	if err != nil && f.SSHD {
		return f, fmt.Errorf("cannot read sshd's configuration: %w", err)
	}
	f.SSHDInclude = includesFolder(string(config)) && m.exists(filepath.Dir(sshdDropIn))
	f.Exempt = m.exempt()
	f.Kido, f.Gate = m.programs()
	if f.Unreadable, err = m.unreadable(s, host); err != nil {
		return f, err
	}
	if f.Init == Systemd {
		f.Polkit, f.Systemctl = m.polkit(), m.systemctl()
		return f, m.units(s, host, f.Units)
	}
	scripts, err := os.ReadDir(m.path("/etc/init.d"))
	if err != nil {
		return f, fmt.Errorf("cannot read the init scripts: %w", err)
	}
	for _, e := range scripts {
		if text, err := readSmall(m.path("/etc/init.d/" + e.Name())); err == nil {
			f.Scripts[e.Name()] = m.head(e.Name(), text)
		}
	}
	return f, nil
}

func (m *Machine) init() Init {
	switch {
	case m.exists("/run/systemd/system"):
		return Systemd
	case m.exists("/run/openrc/softlevel"):
		return OpenRC
	}
	return SysV
}

// programs are this program and the gate that came with it.
func (m *Machine) programs() (kido, gate string) {
	kido, err := os.Executable()
	if err != nil {
		return "", ""
	}
	if real, err := filepath.EvalSymlinks(kido); err == nil {
		kido = real
	}
	for _, gate := range []string{filepath.Join(filepath.Dir(kido), "kido-gate"), m.path(GateProgram)} {
		if _, err := os.Stat(gate); err == nil {
			return kido, gate
		}
	}
	return kido, ""
}

// includesFolder reports whether an sshd_config takes in its folder for every
// connection: before the first Match.
func includesFolder(config string) bool {
	for line := range strings.Lines(config) {
		f := strings.Fields(strings.ReplaceAll(line, "=", " "))
		switch {
		case len(f) > 0 && strings.EqualFold(f[0], "Match"):
			return false
		case len(f) > 1 && strings.EqualFold(f[0], "Include"):
			for _, pattern := range f[1:] {
				pattern = strings.Trim(pattern, `"`)
				if pattern == "/etc/ssh/sshd_config.d/*.conf" || pattern == "sshd_config.d/*.conf" {
					return true
				}
			}
		}
	}
	return false
}

// exempt is sshd's list of those whose bad tries it does not count, but for what is
// in it by kido's doing: see [Facts]. An sshd that has one can say what it was told
// without reading its own keys.
func (m *Machine) exempt() string {
	const list = "persourcepenaltyexemptlist"
	out, err := m.Run("/usr/sbin/sshd", "-G", "-f", m.path(sshdConfig))
	has := options(out)
	if err != nil || len(has[list]) == 0 || slices.Equal(has["persourcepenalties"], []string{"no"}) {
		return ""
	}
	files, _ := filepath.Glob(m.path(filepath.Dir(sshdDropIn)) + "/*.conf")
	for _, file := range append(files, m.path(sshdConfig)) {
		text, err := readSmall(file)
		if given := options(strings.ReplaceAll(text, "\t", " "))[list]; err == nil && len(given) > 0 && file != m.path(sshdDropIn) {
			return strings.TrimSpace(given[0])
		}
	}
	if own, _, err := m.content(sshdDropIn, false); err == nil && slices.Equal(options(string(own))[list], has[list]) {
		return "none"
	}
	return has[list][0]
}

func (m *Machine) systemctl() string {
	for _, dir := range []string{"/usr/bin", "/bin"} {
		if path := dir + "/systemctl"; m.exists(path) {
			return path
		}
	}
	return ""
}

var includedir = regexp.MustCompile(`(?m)^\s*[@#]includedir\s+/etc/sudoers\.d/?\s*$`)

func (m *Machine) sudo() string {
	text, err := os.ReadFile(m.path("/etc/sudoers"))
	switch {
	case !m.exists(sudoProgram) || !m.has("visudo"):
		return "there is no " + sudoProgram + ": install the package sudo"
	case err != nil:
		return err.Error()
	case !includedir.Match(text):
		return "/etc/sudoers does not include /etc/sudoers.d: add a line to it: @includedir /etc/sudoers.d"
	}
	return ""
}

var number = regexp.MustCompile(`\d+(\.\d+)?`)

func (m *Machine) polkit() string {
	if !m.exists(filepath.Dir(polkitFile)) {
		return "there is no folder /etc/polkit-1/rules.d: install polkit 0.106 or later (the package polkitd, or polkit), which takes rules in JavaScript"
	}
	out, err := m.Run("pkaction", "--version")
	if err != nil {
		return "its version cannot be told (" + err.Error() + "): install polkit 0.106 or later (the package polkitd, or polkit)"
	}
	version := number.FindString(out)
	if old, ok := strings.CutPrefix(version, "0."); ok {
		if minor, err := strconv.Atoi(old); err != nil || minor < 106 {
			return "polkit " + version + " takes no rules in JavaScript: install 0.106 or later"
		}
	}
	return ""
}

// units asks systemd for the units of a host's services.
func (m *Machine) units(s *site.Site, host string, all map[string]Unit) error {
	var names []string
	for _, v := range s.Services {
		if slices.Contains(v.Hosts, host) {
			switch v.Adapter.Kind {
			case site.KindSystemd:
				names = append(names, v.Adapter.Unit)
			case site.KindSysV:
				names = append(names, v.Adapter.Unit+".service")
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	out, err := m.Run(append([]string{"systemctl", "show", "--property=Id,LoadState,RequiredBy,BoundBy,ConsistsOf", "--"}, names...)...)
	if err != nil {
		return err
	}
	blocks := strings.Split(out, "\n\n")
	if len(blocks) != len(names) {
		return fmt.Errorf("systemctl show: %d answers to %d questions", len(blocks), len(names))
	}
	for i, name := range names {
		var u Unit
		for line := range strings.Lines(blocks[i]) {
			switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
			case "Id":
				u.ID = value
			case "LoadState":
				u.Missing = value == "not-found"
			case "RequiredBy", "BoundBy", "ConsistsOf": // a stop goes to all of these (systemd.unit(5))
				u.Along = along(u.Along, value)
			}
		}
		if !u.Missing {
			u.Trap = m.Trap(u.ID)
		}
		all[name] = u
	}
	return nil
}

// along adds units to those that go down with another, each once. Hooks of kido's are
// meant to.
func along(all, more string) string {
	units := strings.Fields(all)
	for _, u := range strings.Fields(more) {
		if !strings.HasPrefix(u, "kido-") && !slices.Contains(units, u) {
			units = append(units, u)
		}
	}
	return strings.Join(units, " ")
}

var (
	providesLine  = regexp.MustCompile(`(?m)^#\s*Provides:\s*(\S+)`)
	chkconfigLine = regexp.MustCompile(`(?m)^#\s*chkconfig:\s*\S+\s+(\d+)\s+\d+`)
	startLink     = regexp.MustCompile(`^S(\d\d)`)
)

// head reads what an init script says of itself; where it has no number for
// chkconfig, the link that starts it has.
func (m *Machine) head(name, text string) (s Script) {
	if f := providesLine.FindStringSubmatch(text); f != nil {
		s.Provides = f[1]
	}
	if f := chkconfigLine.FindStringSubmatch(text); f != nil {
		s.Start, _ = strconv.Atoi(f[1])
		return s
	}
	for _, level := range []string{"3", "2"} {
		links, _ := filepath.Glob(m.path("/etc/rc"+level+".d") + "/S[0-9][0-9]" + name)
		for _, link := range links {
			s.Start, _ = strconv.Atoi(startLink.FindStringSubmatch(filepath.Base(link))[1])
			return s
		}
	}
	return s
}

// account is a line of the password file.
type account struct {
	uid, gid int
	shell    string
}

// account finds a local user; nil where there is none.
func (m *Machine) account(name string) (*account, error) {
	text, err := os.ReadFile(m.path("/etc/passwd"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 7 || f[0] != name {
			continue
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("/etc/passwd: %s: %w", name, err)
		}
		return &account{uid, gid, f[6]}, nil
	}
	return nil, nil
}

// shutOut warns of what keeps the gate's user out though his key is good: of his
// account, and of the machine.
func (m *Machine) shutOut(w *Work) error {
	text, err := os.ReadFile(m.path("/etc/shadow"))
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		text, err = nil, nil // who only looks need not see it; nor has every machine one
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), ":"); f[0] == gateUser && len(f) == 9 {
			for _, word := range aging(f, time.Now()) {
				w.warn("the user %s cannot log in: %s", gateUser, word)
			}
		}
	}
	for _, path := range []string{"/etc/nologin", "/run/nologin"} {
		if m.exists(path) {
			w.warn("%s is there: as long as it is, sshd lets in nobody but root, and so no key of kido", path)
		}
	}
	return nil
}

// aging says what in a line of the shadow file (shadow(5)) keeps a user out, and
// how that is mended.
func aging(f []string, now time.Time) (words []string) {
	today := now.Unix() / (24 * 60 * 60)
	day := func(field string, otherwise int64) int64 {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil || n < 0 {
			return otherwise
		}
		return n
	}
	if strings.HasPrefix(f[1], "!") {
		words = append(words, "its password is locked (!), and sshd refuses that where it goes without PAM: usermod -p '*' "+gateUser)
	}
	if expire := day(f[7], today+1); expire <= today {
		words = append(words, "its account has expired: chage -E -1 "+gateUser)
	}
	changed, most := day(f[2], -1), day(f[4], -1)
	if changed == 0 || changed > 0 && most >= 0 && changed+most < today {
		words = append(words, "its password has expired: chage -M -1 -d "+now.Format(time.DateOnly)+" "+gateUser)
	}
	return words
}

// HostKeys are the machine's own SSH host keys, the lines of their .pub files.
func (m *Machine) HostKeys() []string {
	var all []string
	files, _ := filepath.Glob(m.path("/etc/ssh") + "/ssh_host_*_key.pub")
	for _, file := range files {
		if text, err := readSmall(file); err == nil {
			all = append(all, strings.TrimSpace(text))
		}
	}
	return all
}
