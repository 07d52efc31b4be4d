package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kido/internal/gate"
	"kido/internal/keys"
)

// Where kido puts its things at a host.
const (
	gateUser    = "kido"
	gateProgram = "/usr/local/sbin/kido-gate"
	kidoFolder  = "/etc/kido"
	sshdConfig  = "/etc/ssh/sshd_config"
)

// nobodys is an address that no configuration names: of a range that is kept for
// documentation (RFC 5737).
const nobodys = "192.0.2.254"

// Machine is what is looked at.
type Machine struct {
	// Root is put in front of every path; "" is this machine.
	Root string
	// Run runs a command and returns what it wrote, on both outputs; its error
	// says how it failed.
	Run func(argv ...string) (output string, err error)
	// Identities are private keys to look at, beside those that are found.
	Identities []string
}

// This is this machine.
func This() *Machine { return &Machine{Run: execute} }

// execute runs a program from where a system has its own, whatever PATH says.
func execute(argv ...string) (string, error) {
	program := ""
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"} {
		if info, err := os.Stat(filepath.Join(dir, argv[0])); err == nil && !info.IsDir() {
			program = filepath.Join(dir, argv[0])
			break
		}
	}
	if program == "" {
		return "", fmt.Errorf("%s: %w", argv[0], exec.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER="}
	out, err := cmd.CombinedOutput()
	text := string(bytes.ToValidUTF8(out, nil))
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
		return text, fmt.Errorf("%s: %w: %s", argv[0], err, said)
	}
	return text, nil
}

// looker gathers facts.
type looker struct {
	*Machine
	Facts
	grants bool // what is looked at says who comes in, and what he may do
}

// Look gathers the facts of a machine, and changes nothing there. What it cannot
// read is among them.
func (m *Machine) Look() Facts {
	l := &looker{Machine: m, grants: true}
	l.accounts()
	l.elsewhere()
	l.server()
	l.keyFiles()
	l.certificates()
	l.polkit()
	l.sudo()
	l.grants = false
	l.scripts()
	l.logs()
	l.gate()
	l.privateKeys()
	l.units()
	return l.Facts
}

func (l *looker) path(p string) string { return filepath.Join("/", l.Root, p) }

func (l *looker) unread(path string, err error) {
	l.note(Unread{Place: Place{File: path}, Err: err, Grants: l.grants})
}

// note notes once what could not be read.
func (l *looker) note(u Unread) {
	if pe, ok := errors.AsType[*fs.PathError](u.Err); ok {
		u.Err = pe.Err
	}
	same := func(other Unread) bool {
		return other.Place.String() == u.Place.String() && (other.Err.Error() == u.Err.Error() || other.Grants && !u.Grants)
	}
	if !slices.ContainsFunc(l.Unread, same) {
		l.Unread = append(l.Unread, u)
	}
}

// Bytes that are read of a file: more than any has that matters here. One that lets
// somebody in may not hide that behind much else, for those who read it take it all.
const (
	largest       = 1 << 20
	largestGrants = 16 << 20
)

var (
	errTooLong    = errors.New("too long")
	errNotRegular = errors.New("not a regular file")
)

// read reads a file of somebody else's: a FIFO must not hold it, nor an endless one
// fill the memory. What is not there is no error, and nil.
func (l *looker) read(path string) []byte {
	most := int64(largest)
	if l.grants {
		most = largestGrants
	}
	text, err := readFile(l.path(path), most)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return text
	}
	l.unread(path, err)
	return nil
}

// readFile reads a file that has no more than most bytes.
func readFile(path string, most int64) ([]byte, error) {
	// It may be a link of somebody's to a device, and to open that can be to wind a
	// tape or to start a watchdog.
	const oPath = 0x200000 // O_PATH, for which package syscall has no name
	at, err := os.OpenFile(path, oPath|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	info, err := at.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	tooLong := fmt.Errorf("%w: it has more than %d bytes", errTooLong, most)
	if info.Size() > most {
		return nil, tooLong
	}
	open := fmt.Sprintf("/proc/self/fd/%d", at.Fd())
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		open = path
	}
	f, err := os.OpenFile(open, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		return nil, tooLong
	}
	if text == nil {
		text = []byte{}
	}
	return text, err
}

// list lists a folder; one that is not there is empty.
func (l *looker) list(folder string) (paths []string) {
	entries, err := os.ReadDir(l.path(folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		l.unread(folder, err)
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(folder, e.Name()))
	}
	return paths
}

func (l *looker) exists(path string) bool {
	_, err := os.Stat(l.path(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		l.unread(path, err)
	}
	return err == nil
}

// chain is a file, where links lead to, and the folders above it; nil where there
// is none.
func (l *looker) chain(path string) (c Chain) {
	real, err := filepath.EvalSymlinks(l.path(path))
	if err != nil {
		return nil // whoever reads it has said so
	}
	root := filepath.Join("/", l.Root)
	for {
		info, err := os.Stat(real)
		if err != nil {
			return nil
		}
		n := node(real, info)
		if rel, err := filepath.Rel(root, real); err == nil && !strings.HasPrefix(rel, "..") {
			n.Path = filepath.Join("/", rel)
		}
		c = append(c, n)
		if real == root || real == "/" {
			return c
		}
		real = filepath.Dir(real)
	}
}

func node(path string, info fs.FileInfo) Node {
	n := Node{Path: path, Mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		n.UID, n.GID = int(st.Uid), int(st.Gid)
	}
	return n
}

func (l *looker) account(name string) *Account {
	for i := range l.Accounts {
		if l.Accounts[i].Name == name {
			return &l.Accounts[i]
		}
	}
	return nil
}

func (l *looker) accounts() {
	inGroup := map[int]int{} // accounts by group
	for line := range strings.Lines(string(l.read("/etc/passwd"))) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 7)
		if len(f) < 4 || f[0] == "" {
			continue
		}
		f = append(f, "", "", "") // what the C library does without
		uid, err1 := strconv.Atoi(strings.TrimSpace(f[2]))
		gid, err2 := strconv.Atoi(strings.TrimSpace(f[3]))
		if err1 != nil || err2 != nil {
			continue
		}
		inGroup[gid]++
		l.Accounts = append(l.Accounts, Account{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]})
	}
	l.Groups = map[string][]string{}
	for line := range strings.Lines(string(l.read("/etc/group"))) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 4 {
			continue
		}
		gid, err := strconv.Atoi(f[2])
		if err != nil {
			continue
		}
		var members []string
		if f[3] != "" {
			members = strings.Split(f[3], ",")
		}
		inGroup[gid] += len(members)
		for _, a := range l.Accounts {
			if a.GID == gid {
				members = append(members, a.Name)
			}
		}
		for _, name := range []string{f[0], "#" + f[2]} { // as sudoers may have it
			l.Groups[name] = append(l.Groups[name], members...)
		}
	}
	for i := range l.Accounts {
		l.Accounts[i].OwnGroup = inGroup[l.Accounts[i].GID] == 1
	}
	for line := range strings.Lines(string(l.read("/etc/shadow"))) {
		if f := strings.Split(line, ":"); len(f) > 1 {
			if a := l.account(f[0]); a != nil {
				a.Locked = strings.HasPrefix(f[1], "!")
			}
		}
	}
}

// elsewhere finds what the C library and sudo ask for accounts and rights beside the
// files that are looked at (nsswitch.conf(5)).
func (l *looker) elsewhere() {
	n := 0
	for line := range strings.Lines(string(l.read("/etc/nsswitch.conf"))) {
		n++
		line, _, _ = strings.Cut(line, "#")
		database, sources, _ := strings.Cut(line, ":")
		database = strings.TrimSpace(database)
		if database != "passwd" && database != "sudoers" {
			continue
		}
		e := Elsewhere{Place: Place{File: "/etc/nsswitch.conf", Line: n}, Database: database}
		for _, source := range strings.Fields(nssAction().ReplaceAllString(sources, " ")) {
			if !slices.Contains([]string{"files", "systemd", "compat"}, source) {
				e.Sources = append(e.Sources, source)
			}
		}
		if len(e.Sources) > 0 {
			l.Elsewhere = append(l.Elsewhere, e)
		}
	}
}

var (
	nssAction = expression(`\[[^]]*\]`) // as in [NOTFOUND=return]
	openSSH   = expression(`OpenSSH_(\d+)\.(\d+)\S*`)
)

// server asks sshd what it would do with each account.
func (l *looker) server() {
	if !slices.ContainsFunc([]string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"}, l.exists) {
		return
	}
	s := &Server{Service: "sshd"}
	l.Server = s
	if slices.ContainsFunc([]string{"/etc/init.d/ssh", "/lib/systemd/system/ssh.service", "/usr/lib/systemd/system/ssh.service"}, l.exists) {
		s.Service = "ssh" // as Debian has it
	}
	// Before 9.3 -V is an option that sshd does not know; it names itself all the same.
	out, err := l.Run("sshd", "-V")
	f := openSSH().FindStringSubmatch(out)
	if f == nil {
		if err == nil {
			err = errors.New("sshd -V names no version of OpenSSH")
		}
		l.unread("sshd", err)
	} else {
		s.Banner = strings.TrimRight(f[0], ",")
		s.Major, _ = strconv.Atoi(f[1])
		s.Minor, _ = strconv.Atoi(f[2])
	}
	l.started()
	r := &sshdReader{l: l, seen: map[string]bool{}}
	r.file(sshdConfig, 0, []connection{{}})
	for _, s := range s.Started {
		if file := s.alsoFile(); file != "" {
			r.file(file, 0, []connection{{}})
		}
	}
	for _, s := range append([]Started{{}}, s.Started...) {
		for _, from := range append([]connection{{}}, r.matched...) {
			from.args = s.Args
			for _, a := range l.Accounts {
				if c, ok := l.config(a.Name, from); ok {
					l.Configs = append(l.Configs, c)
				}
			}
			if len(l.Configs) == 0 {
				return // sshd does not say
			}
		}
	}
	for _, path := range l.Configs[0].Values["hostkey"] {
		l.hostKey(path)
	}
}

// config asks sshd -T for a connection. Its failure is said once: it is the same
// for everybody.
func (l *looker) config(user string, from connection) (Config, bool) {
	c := Config{User: user, From: from.String(), Values: map[string][]string{}}
	addr := cmp.Or(from.addr, nobodys)
	spec := fmt.Sprintf("user=%s,host=%s,addr=%s,laddr=%s,lport=%s", user, cmp.Or(from.host, addr), addr, cmp.Or(from.laddr, "127.0.0.1"), cmp.Or(from.lport, "22"))
	if from.rdomain != "" {
		spec += ",rdomain=" + from.rdomain
	}
	argv := []string{"sshd", "-T", "-C", spec}
	if from.args != "" {
		argv = append(argv, strings.Split(from.args, "\x00")...)
	}
	out, err := l.Run(argv...)
	if err != nil {
		l.unread(sshdConfig, fmt.Errorf("its effective configuration is not known (%w)", err))
		return c, false
	}
	for line := range strings.Lines(out) {
		keyword, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		c.Values[keyword] = append(c.Values[keyword], value)
	}
	return c, true
}

func (l *looker) hostKey(path string) {
	c := l.chain(path)
	if c == nil {
		return // sshd does without it
	}
	key, err := keys.ParseBlob(string(l.read(path + ".pub")))
	if err != nil && l.exists(path+".pub") {
		l.unread(path+".pub", err)
	}
	l.Server.HostKeys = append(l.Server.HostKeys, HostKey{Chain: c, Key: key})
}

// defaultKeyFiles is what sshd looks at where it cannot be asked.
const defaultKeyFiles = ".ssh/authorized_keys .ssh/authorized_keys2"

// keyFiles reads every file that lets a key in, for every account.
func (l *looker) keyFiles() {
	for _, a := range l.Accounts {
		known := false
		for _, c := range l.Configs {
			if c.User == a.Name {
				known = true
				l.keyFilesOf(a, c)
			}
		}
		if !known {
			l.keyFilesOf(a, Config{Values: map[string][]string{"authorizedkeysfile": {defaultKeyFiles}}})
		}
	}
	// A configuration may say otherwise where the key comes from.
	const most = 16
	for _, f := range slices.Clone(l.KeyFiles) {
		for _, name := range f.Accounts {
			for _, from := range sources(f.Lines, most) {
				if c, ok := l.config(name, connection{addr: from}); ok {
					l.Configs = append(l.Configs, c)
					l.keyFilesOf(*l.account(name), c)
				}
			}
		}
	}
}

func (l *looker) keyFilesOf(a Account, c Config) {
	l.add(&l.KeyFiles, a, strings.Fields(c.get("authorizedkeysfile")), func(text string, f *KeyFile) { f.Lines = keys.ParseLines(text) })
}

// mostKeys is more lines of keys than any file has: it may be anybody's, and each
// takes far more memory than it has bytes.
const mostKeys = 20000

// keyText is the text of a file of keys or principals, as far as it is looked at.
func (l *looker) keyText(path string, text []byte) string {
	n, end := 0, 0
	for line := range bytes.Lines(text) {
		if begin := bytes.TrimLeft(line, " \t\r\n"); len(begin) > 0 && begin[0] != '#' {
			if n++; n > mostKeys {
				l.unread(path, fmt.Errorf("%w: it has more than %d lines that are no comments", errTooLong, mostKeys))
				break
			}
		}
		end += len(line)
	}
	return string(text[:end])
}

// sources are the addresses that lines name, of a prefix its first.
func sources(lines []keys.Line, most int) (all []string) {
	for _, line := range lines {
		if !line.Options.Sourced {
			continue
		}
		patterns, _ := keys.SourcePatterns(line.Options.From)
		for _, p := range patterns {
			if s := p.Prefix.Addr().String(); p.Prefix.IsValid() && !slices.Contains(all, s) && len(all) < most {
				all = append(all, s)
			}
		}
	}
	return all
}

// add reads the files of an account that the patterns name. A file may be that of
// several accounts.
func (l *looker) add(to *[]KeyFile, a Account, patterns []string, parse func(text string, f *KeyFile)) {
	for n, pattern := range patterns {
		if strings.EqualFold(pattern, "none") {
			continue
		}
		path := expand(pattern, a)
		if i := slices.IndexFunc(*to, func(f KeyFile) bool { return f.Chain.Path() == path }); i >= 0 {
			if f := &(*to)[i]; !slices.Contains(f.Accounts, a.Name) {
				f.Accounts = append(f.Accounts, a.Name)
			}
			continue
		}
		text := l.read(path)
		if text == nil {
			continue
		}
		f := KeyFile{Chain: l.chain(path), Accounts: []string{a.Name}, Second: n > 0}
		if f.Chain == nil {
			continue
		}
		f.Chain[0].Path = path // by the name that sshd knows, whatever it links to
		parse(l.keyText(path, text), &f)
		*to = append(*to, f)
	}
}

// expand is what sshd makes of a pattern (sshd_config(5), TOKENS).
func expand(pattern string, a Account) string {
	path := strings.NewReplacer("%%", "%", "%h", a.Home, "%u", a.Name, "%U", strconv.Itoa(a.UID)).Replace(pattern)
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.Home, path)
	}
	return filepath.Clean(path)
}

// certificates reads whom sshd trusts to sign keys, whom they may be, and what is
// revoked.
func (l *looker) certificates() {
	for _, c := range l.Configs {
		a := l.account(c.User)
		if path := c.get("trustedusercakeys"); named(path) && !slices.ContainsFunc(l.Authorities, func(f AuthorityFile) bool { return f.Chain.Path() == path }) {
			if text, chain := l.read(path), l.chain(path); text != nil && chain != nil {
				chain[0].Path = path
				l.Authorities = append(l.Authorities, AuthorityFile{chain, keys.ParseLines(l.keyText(path, text))})
			}
		}
		if path := c.get("authorizedprincipalsfile"); named(path) && a != nil {
			l.add(&l.Principals, *a, []string{path}, parsePrincipals)
		}
		if path := c.get("revokedkeys"); named(path) && !slices.ContainsFunc(l.Revoked, func(f RevokedFile) bool { return f.Path == path }) {
			l.Revoked = append(l.Revoked, l.revoked(path))
		}
	}
}

func named(path string) bool { return path != "" && !strings.EqualFold(path, "none") }

// parsePrincipals reads lines of options and a name (sshd_config(5),
// AuthorizedPrincipalsFile).
func parsePrincipals(text string, f *KeyFile) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		l := keys.Line{Number: n}
		name := line
		// The name is the last word: what stands before it is options.
		if i := strings.LastIndexAny(line, " \t"); i >= 0 {
			options, rest, err := keys.ParseOptions(line)
			l.Options, name = options, rest
			if err != nil {
				l.Ignored = err.Error()
			}
		} else {
			l.Options, _, _ = keys.ParseOptions("")
		}
		f.Lines, f.Names = append(f.Lines, l), append(f.Names, name)
	}
}

func (l *looker) revoked(path string) RevokedFile {
	f := RevokedFile{Path: path, Keys: map[string]bool{}}
	text, err := readFile(l.path(path), largestGrants)
	if errors.Is(err, fs.ErrPermission) {
		l.unread(path, err)
	}
	if err != nil {
		f.Why = err.Error()
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			f.Why = pe.Err.Error()
		}
		return f
	}
	f.Chain = l.chain(path)
	for line := range strings.Lines(string(text)) { // of a KRL none is a key
		if key, err := keys.ParseBlob(line); err == nil {
			f.Keys[key.Fingerprint] = true
		}
	}
	return f
}

// logs are the files and folders under /var/log, and the logs of scripts, that
// everybody can write.
func (l *looker) logs() {
	const most = 20000
	seen := 0
	base := l.path("/var/log")
	_ = filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		own := "/" + strings.TrimPrefix(strings.TrimPrefix(path, filepath.Join("/", l.Root)), "/")
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				l.unread(own, err)
			}
			return nil
		}
		if seen++; seen > most {
			l.unread("/var/log", fmt.Errorf("more than %d files", most))
			return fs.SkipAll
		}
		info, err := d.Info()
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		if n := node(own, info); n.Mode.Perm()&0o002 != 0 && !(n.Mode.IsDir() && n.Mode&fs.ModeSticky != 0) {
			l.Logs = append(l.Logs, n)
		}
		return nil
	})
	for _, s := range l.Scripts {
		for _, w := range s.Logs {
			c := l.chain(w.Path)
			if c != nil && c[0].Mode.IsRegular() && c[0].Mode.Perm()&0o002 != 0 && !slices.Contains(l.Logs, c[0]) {
				l.Logs = append(l.Logs, c[0])
			}
		}
	}
}

// gate looks at what is kido's.
func (l *looker) gate() {
	g := &Gate{}
	user := l.account(gateUser)
	paths := []string{gateProgram, gate.DefaultPolicy}
	g.Program = l.exists(gateProgram)
	if !g.Program && !l.exists(gate.DefaultPolicy) && (user == nil || user.Shell != gateProgram) {
		return
	}
	l.Gate = g
	for _, path := range paths {
		if c := l.chain(path); c != nil {
			g.Files = append(g.Files, c)
		}
	}
	text := l.read(gate.DefaultPolicy)
	state := gate.DefaultState
	switch p, err := gate.ParsePolicy(string(text)); {
	case text == nil:
		g.PolicyErr = "there is none that can be read"
	case err != nil:
		g.PolicyErr = err.Error()
	default:
		g.Policy, state = p, p.State
	}
	if c := l.chain(state); c != nil {
		g.State = &c[0]
	}
	if user != nil {
		if c := l.chain(user.Home); c != nil {
			g.Home = &c[0]
		}
	}
}

// units asks systemd which of the units there are that the rules and the policy name.
func (l *looker) units() {
	l.Units = map[string]string{}
	var names []string
	if !l.exists("/run/systemd/system") {
		return
	}
	for _, r := range l.Polkit {
		for unit := range r.Units {
			names = append(names, unit)
		}
	}
	if l.Gate != nil && l.Gate.Policy != nil {
		for _, s := range l.Gate.Policy.Services {
			if s.Adapter == "systemd" {
				names = append(names, s.Unit)
			}
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		out, err := l.Run("systemctl", "show", "--property=Id,LoadState", "--", name)
		if err != nil {
			l.unread(name, err)
			continue
		}
		id := ""
		for line := range strings.Lines(out) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), "Id="); ok {
				id = value
			}
		}
		if strings.Contains(out, "LoadState=not-found") {
			id = ""
		}
		l.Units[name] = id
	}
}
