package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kido/internal/failpoint"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/site"
)

func (a *app) enroll() *cobra.Command {
	var e enrolment
	var show bool
	c := &cobra.Command{
		Use:   "enroll [HOST…]",
		Short: "install kido at hosts over your own ssh, and exchange keys",
		Long: `Bring what the site file says to hosts: the programs, the policy, the locked
key lines, the boot hooks; and bring back the public key of each host that
announces, and its host key, to be pinned. Without HOST: every gated host of
the site.

It runs your own ssh, with your configuration, agent and jump hosts, and trusts
a host's key where that ssh does. At the host it runs kido install, as root or
by sudo. Two rounds are made where keys of one host are new to another. Running
it again changes nothing but what the site file changed.

What is up and announced is announced at the end: each service that depends on
it is restarted once (or whatever the site says), a few at a time, for kido has
not seen it start. What is not ready by then is named; its hook keeps trying.
--later leaves that to the next start.

--dry-run changes nothing, here or there: it shows what would change at each
host, as kido install --dry-run does there, and ends with status 0 whether or
not there is a difference. Keys that hosts have yet to make are not in it.

--remove takes back what was installed, as far as nobody has changed it since;
the gate's user, its records and the host's key stay, but with --purge.

--print connects to nothing: it prints what to carry to HOST by hand instead.`,
		Example: "  kido enroll --dry-run\n  kido enroll\n  kido enroll web1 web2\n  kido enroll web1 --to 'admin@%h' --ssh 'ssh -J bastion'\n  kido enroll web1 --print",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			hosts, err := gatedHosts(s, args)
			if err != nil {
				return err
			}
			switch {
			case e.purge && !e.remove:
				return usageError("say: kido enroll --remove --purge", "--purge goes with --remove")
			case show && e.dry:
				return usageError("--print is for carrying by hand, --dry-run asks the hosts", "--print and --dry-run are two questions")
			case show:
				return a.printEnrolment(s, hosts)
			}
			return a.enrollAll(c.Context(), s, hosts, &e)
		},
		ValidArgsFunction: a.completeHosts,
	}
	e.flags(c)
	e.fromFlag(c)
	c.Flags().BoolVar(&e.later, "later", false, "announce nothing now: the hooks begin with the next start")
	c.Flags().BoolVar(&e.remove, "remove", false, "take back what was installed there")
	c.Flags().BoolVar(&e.purge, "purge", false, "with --remove: the gate's user, state, key and journals too")
	c.Flags().BoolVarP(&e.dry, "dry-run", "n", false, "change nothing: show what would change at each host")
	c.Flags().BoolVar(&show, "print", false, "print the files and lines to carry by hand")
	return c
}

// flags are those of every command that works at hosts by the administrator's ssh.
func (e *enrolment) flags(c *cobra.Command) {
	c.Flags().StringVar(&e.ssh, "ssh", "ssh", "`command` that connects, with its options")
	c.Flags().StringVar(&e.to, "to", "%a", "whom ssh connects to: %h is the host's `name` in the site, %a its address")
	c.Flags().StringVar(&e.programs, "programs", "", "`folder` with kido and kido-gate for the hosts (default: those that run here)")
}

func (e *enrolment) fromFlag(c *cobra.Command) {
	c.Flags().StringSliceVar(&e.from, "from", nil, "`address` that this machine's key comes from, as the hosts see it (default: this machine's own, on its ways there)")
}

// gatedHosts lists the named hosts, or all where a gate belongs.
func gatedHosts(s *site.Site, names []string) ([]*site.Host, error) {
	gated := map[string]bool{}
	for _, v := range s.Services {
		for _, h := range v.Hosts {
			gated[h] = gated[h] || v.Adapter.Kind != site.KindPlain
		}
	}
	var hosts []*site.Host
	for _, name := range names {
		h, err := hostOf(s, name)
		if err != nil {
			return nil, err
		}
		if !gated[h.Name] {
			return nil, usageError("carry its key's line there: kido keys line "+h.Name+" --plain COMMAND --from ADDRESS", "%s has only plain services: nothing is installed there", h.Name)
		}
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	if len(names) == 0 {
		for _, h := range s.Hosts {
			if gated[h.Name] {
				hosts = append(hosts, h)
			}
		}
	}
	return hosts, nil
}

// hostTime is how long one host may take, of which most is left to a person who
// types a password: one that is up and says nothing must not hold up the others.
const hostTime = 15 * time.Minute

// enrolment is one call of kido enroll.
type enrolment struct {
	ssh, to  string
	programs string
	from     []string
	remove   bool
	purge    bool // with remove
	later    bool
	dry      bool

	// Of a host that is worked at beside others nobody is asked for a password,
	// and what it says is kept instead of shown.
	words *lastWords
	// said, where set, is told of what was done at a host instead of the user.
	said func(*site.Host, install.Result)

	ring       string        // folder of the public keys
	kido, gate string        // the programs for the hosts
	control    string        // folder of ssh's shared connections
	limit      time.Duration // for one host; 0: hostTime
	coming     install.Coming
}

// enrollAll installs at every host; a host that fails holds up no other.
func (a *app) enrollAll(ctx context.Context, s *site.Site, hosts []*site.Host, e *enrolment) error {
	done, err := e.open(s, hosts)
	if err != nil {
		return err
	}
	defer done()
	if e.dry {
		if err := e.copyRing(); err != nil {
			return err
		}
	}
	if !e.remove {
		if err := e.own(a, s); err != nil {
			return err
		}
	}
	if gated, err := gatedHosts(s, nil); err == nil && len(hosts) == len(gated) {
		e.coming = install.ComingAll
	}
	failed := a.rounds(ctx, s, hosts, e)
	if ctx.Err() != nil {
		return interrupted()
	}
	if len(failed) > 0 {
		return &failure{status: exitFailed, err: fmt.Errorf("%s of %d could not be enrolled", count(len(failed), "host", ""), len(hosts)), hint: "the same command goes on where it was"}
	}
	return nil
}

func interrupted() error {
	return &failure{status: exitInterrupted, err: errors.New("interrupted"), hint: "the same command goes on where it was"}
}

// rounds enrolls hosts one by one, and once more where what one gave is new to
// another. It returns what failed, by host; that has been said.
func (a *app) rounds(ctx context.Context, s *site.Site, hosts []*site.Host, e *enrolment) map[string]error {
	failed := map[string]error{}
	warnings, behind := map[string][]string{}, map[string][]string{} // of the last round: what the first one lacked it may have
	for round := range 2 {
		news := false
		for _, h := range hosts {
			if failed[h.Name] != nil || ctx.Err() != nil {
				continue
			}
			r, here, err := a.enrollOne(ctx, s, h, e, round)
			changed := false
			if err == nil && !e.remove && !e.dry {
				changed, err = takeHome(a, s, h, e.ring, r, here)
			}
			if err != nil {
				failed[h.Name] = err
				fmt.Fprintf(a.stderr, "kido: %s: %v\n", h.Name, err)
			}
			warnings[h.Name], behind[h.Name] = r.Warnings, r.Behind
			news = news || changed
		}
		if !news {
			break
		}
	}
	for _, h := range hosts {
		for _, w := range warnings[h.Name] {
			fmt.Fprintf(a.stderr, "kido: warning: %s: %s\n", h.Name, oneLine(w))
		}
	}
	for _, h := range hosts {
		if !a.json() { // where it is in what was done there
			a.sayBehind(behind[h.Name])
		}
	}
	return failed
}

// ringOf is the folder of a site's public keys.
func ringOf(s *site.Site) string { return filepath.Join(filepath.Dir(s.File), "keys") }

// open checks what every host needs before the first one is touched, and makes a
// place for the shared connections; done ends them.
func (e *enrolment) open(s *site.Site, hosts []*site.Host) (done func(), err error) {
	if err := e.findPrograms(); err != nil {
		return nil, err
	}
	e.ring = ringOf(s)
	if e.control, err = os.MkdirTemp("", "kido-enroll-"); err != nil {
		return nil, err
	}
	return func() {
		e.hangUp(hosts)
		os.RemoveAll(e.control)
	}, nil
}

// copyRing has what is done with the folder of keys done with a copy of it.
func (e *enrolment) copyRing() error {
	ring := filepath.Join(e.control, "keys")
	if _, err := os.Stat(e.ring); err == nil {
		if err := os.CopyFS(ring, os.DirFS(e.ring)); err != nil {
			return err
		}
	}
	e.ring = ring
	return nil
}

func (e *enrolment) findPrograms() error {
	e.kido, e.gate = filepath.Join(e.programs, "kido"), filepath.Join(e.programs, "kido-gate")
	if e.programs == "" {
		var err error
		if e.kido, err = os.Executable(); err != nil {
			return err
		}
		if e.gate, err = findGate(false); err != nil {
			e.gate = filepath.Join(filepath.Dir(e.kido), "kido-gate")
		}
	}
	for _, program := range []string{e.kido, e.gate} {
		if err := checkProgram(program); err != nil {
			return err
		}
	}
	return nil
}

// own makes this machine's key where there is none, or not all of it, and keeps it in
// the ring.
func (e *enrolment) own(a *app, s *site.Site) error {
	_, private := os.Stat(s.Identity)
	_, public := keys.Public(s.Identity)
	if errors.Is(errors.Join(private, public), os.ErrNotExist) {
		if e.dry {
			a.warn([]error{errors.New("this machine has no key yet: kido enroll makes it, and adds its line at each host")})
			return nil
		}
		me, _ := os.Hostname()
		if _, err := keys.Complete(s.Identity, fmt.Sprintf("kido %s, made on %s", s.Name, me)); err != nil {
			return err
		}
		fmt.Fprintf(a.text(), "made this machine's key, %s\n", s.Identity)
	}
	return e.keepOwn(a, s)
}

// checkProgram fails where a program would not run elsewhere.
func checkProgram(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return usageError("build both into one folder, and name it with --programs: CGO_ENABLED=0 go build -o FOLDER ./cmd/...", "cannot read the program for the hosts: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return usageError("build it with CGO_ENABLED=0", "%s needs the C library of this machine, which a host may not have", path)
		}
	}
	return nil
}

// enrollOne installs at one host what the folder of keys has in the end: where
// somebody revokes a key meanwhile he may have been at the host in between, and
// what was taken from the folder before would let the key in again.
func (a *app) enrollOne(ctx context.Context, s *site.Site, h *site.Host, e *enrolment, round int) (r install.Result, here bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.limit, hostTime))
	defer cancel()
	for range 3 {
		before, err := ringText(e.ring)
		if err != nil {
			return r, false, err
		}
		if r, here, err = a.installAt(ctx, s, h, e, round); err != nil || e.remove || e.dry {
			return r, here, err
		}
		if after, err := ringText(e.ring); err != nil || after == before {
			return r, here, err
		}
	}
	return r, here, errors.New("somebody else changes the public keys again and again, and the last of that may not be there")
}

// ringText is all that is in the files of a folder of public keys.
func ringText(ring string) (string, error) {
	files, err := ringFiles(ring)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, file := range append(files, filepath.Join(ring, install.RevokedFile)) {
		lines, err := keyLines(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%q %q\n", file, lines)
	}
	return b.String(), nil
}

// installAt installs at one host, and returns what was done there and whether it
// is this machine. What a host says may be a lie: it is shown, and what of it is
// used was checked.
func (a *app) installAt(ctx context.Context, s *site.Site, h *site.Host, e *enrolment, round int) (r install.Result, here bool, err error) {
	target := e.target(h)
	dir, here, err := e.upload(ctx, a, s, target, round == 0)
	if err != nil {
		return r, false, err
	}
	file := dir + "/site.yaml"
	if at, err := filepath.Abs(s.File); here && err == nil && at == filepath.Join(etc, "site.yaml") {
		// A copy would take the place of what it is made from: of the pinned keys
		// and those of people only what this host needs would be left.
		file = at
	}
	defer func() {
		if rerr := e.clear(ctx, target, "rm -rf "+dir); err == nil {
			err = rerr
		}
	}()
	flags := ""
	switch {
	case e.purge:
		flags = " --remove --purge"
	case e.remove:
		flags = " --remove"
	case e.later:
		flags = " --later"
	}
	if e.dry {
		flags += " --dry-run"
	}
	if !e.remove {
		flags += " --" + comingFlag + "=" + string(cmp.Or(e.coming, install.ComingSome))
	}
	// sudo may ask for a password, so the terminal is its own and the result a
	// file of the login's user. Nothing in these words comes from outside: the
	// folder's name was checked, a host's name is letters, digits and ._-
	script := fmt.Sprintf(`: >%[1]s/result && if [ "$(id -u)" = 0 ]; then s=; else s=sudo; fi && $s %[1]s/kido install --site %[4]s --here %[2]s -o json%[3]s >%[1]s/result`, dir, h.Name, flags, file)
	if err := e.runTTY(ctx, a, target, script); err != nil {
		return r, false, fmt.Errorf("kido install there: %w", err)
	}
	text, err := e.run(ctx, nil, e.stderr(a), target, "cat "+dir+"/result")
	if err != nil {
		return r, false, err
	}
	err = json.Unmarshal(text, &r)
	nothing := e.remove && r.Host == "" // there was nothing to remove
	if err != nil || r.Host != h.Name && !nothing {
		return r, false, errors.New("kido install there did not say what it did")
	}
	if e.said != nil {
		e.said(h, r)
	} else {
		a.sayInstalled(h, r, round, e.dry)
	}
	if e.remove && !e.dry {
		err = removeFile(filepath.Join(e.ring, h.Name+".pub"))
	}
	return r, here, err
}

// oneLine is what a host said, as it may be shown.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// sayInstalled tells what was done at a host.
func (a *app) sayInstalled(h *site.Host, r install.Result, round int, dry bool) {
	if a.json() {
		_ = a.writeJSON(r)
		return
	}
	out := a.text()
	switch {
	case dry:
		r.Host = h.Name
		showSteps(out, r)
	case len(r.Changed) > 0:
		fmt.Fprintf(out, "%s: %s\n", h.Name, count(len(r.Changed), "file", "changed"))
		for _, c := range r.Changed {
			fmt.Fprintln(out, "  "+oneLine(c))
		}
	case round == 0:
		fmt.Fprintf(out, "%s: nothing to change\n", h.Name)
	}
}

// takeHome keeps a host's public key and pins its host key; changed reports
// whether one was new, so that other hosts have to be told.
func takeHome(a *app, s *site.Site, h *site.Host, ring string, r install.Result, here bool) (changed bool, err error) {
	if r.PublicKey != "" {
		if changed, err = a.keepAnnounceKeys(s, h, ring, here, r.PublicKey, r.NextKey); err != nil {
			return false, fmt.Errorf("its public key: %w", err)
		}
	}
	key := bestHostKey(r.HostKeys)
	if key == "" {
		return changed, nil
	}
	line, err := keys.Pin(h.Address, h.Port, key)
	if err != nil {
		return false, fmt.Errorf("its host key: %w", err)
	}
	fingerprint, err := keys.Fingerprint(key)
	if err != nil {
		return false, fmt.Errorf("its host key: %w", err)
	}
	pinned, err := appendLine(s.KnownHosts, line)
	if err != nil {
		return false, err
	}
	a.warn(otherPins(s, h, fingerprint))
	return changed || pinned, nil
}

// keepAnnounceKeys keeps the keys with which a host announces: one, or two while
// it changes them. What is revoked is not kept, and changed is not true for it.
func (a *app) keepAnnounceKeys(s *site.Site, h *site.Host, ring string, here bool, publics ...string) (changed bool, err error) {
	all, err := install.LoadKeyring(ring, s)
	if err != nil {
		return false, err
	}
	revoked, err := loadRevoked(ring)
	if err != nil {
		return false, err
	}
	from := "" // what was said of where it comes from still holds
	if found := all.Hosts[h.Name]; len(found) > 0 && len(found[0].From) > 0 {
		from = fmt.Sprintf("from=%q ", strings.Join(found[0].From, ","))
	}
	var text strings.Builder
	for _, public := range publics {
		if public == "" {
			continue
		}
		if err := checkAnnounceKey(h, all, public, here); err != nil {
			return false, err
		}
		if !revoked.has(public) {
			text.WriteString(from + public + "\n")
		}
	}
	file := filepath.Join(ring, h.Name+".pub")
	if text.Len() == 0 { // else it is being given another
		a.warn([]error{fmt.Errorf("%s: its key is revoked, so that it reaches nothing: kido keys rotate %[1]s gives it another", h.Name)})
		return false, removeFile(file)
	}
	return replaceFile(file, text.String())
}

// checkAnnounceKey refuses what a host must not give as its own key: what is not
// one, and one that is somebody else's, which would then have its rights or lose
// its own. On this machine the two may be the same.
func checkAnnounceKey(h *site.Host, all *install.Keyring, public string, here bool) error {
	fingerprint, err := keys.Fingerprint(public)
	if err != nil {
		return err
	}
	has := func(k install.Key) bool { return k.Fingerprint == fingerprint }
	for host, found := range all.Hosts {
		if host != h.Name && slices.ContainsFunc(found, has) {
			return fmt.Errorf("it is that of %s", host)
		}
	}
	for _, p := range all.People {
		if !here && slices.ContainsFunc(p.Keys, has) {
			return fmt.Errorf("it is that of %s", p.Name)
		}
	}
	if slices.ContainsFunc(all.Authorities, has) { // with the host's key it would be revoked
		return errors.New("it is that of an authority, which signs certificates")
	}
	return nil
}

// keepOwn keeps this machine's key among those of people, with the addresses that
// it comes from, and the one that is to take its place. What a host says of that
// is not asked: the key would be as good as unlocked if it lied.
func (e *enrolment) keepOwn(a *app, s *site.Site) error {
	if _, err := publicKey(s.Identity); err != nil {
		return err
	}
	pair, err := keys.LoadRotation(s.Identity)
	if err != nil {
		return err
	}
	revoked, err := loadRevoked(e.ring)
	if err != nil {
		return err
	}
	from := e.from
	if len(from) == 0 {
		hosts, err := gatedHosts(s, nil)
		if err != nil {
			return err
		}
		for _, h := range hosts {
			address, err := wayTo(h)
			if err != nil {
				a.warn([]error{fmt.Errorf("%s: no way there, so its key file may not know from where this machine's key comes: %w", h.Name, err)})
				continue
			}
			from = append(from, address)
		}
	}
	slices.Sort(from)
	from = slices.Compact(from)
	if len(from) == 0 {
		return usageError("say which: --from ADDRESS", "no address is known that this machine's key comes from")
	}
	var text strings.Builder
	for _, public := range []string{pair.Current, pair.Next} {
		if public == "" {
			continue
		}
		if revoked.has(public) {
			continue
		}
		if _, err := keys.GateLine(keys.LineOptions{From: from, Gate: install.GateProgram, Public: public}); err != nil {
			return &failure{status: exitUsage, err: err, hint: "give addresses or networks: --from 192.168.0.10"}
		}
		fmt.Fprintf(&text, "from=%q %s\n", strings.Join(from, ","), public)
	}
	name, err := ownName()
	if err != nil {
		return err
	}
	file := filepath.Join(e.ring, name+".pub")
	if text.Len() == 0 { // else it is being given another
		a.warn([]error{errors.New("this machine's own key is revoked, so that it reaches nothing: kido keys rotate gives it another")})
		return removeFile(file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	_, err = replaceFile(file, text.String())
	return err
}

// ownName is what this machine's key is called in the ring.
func ownName() (string, error) {
	name, err := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	return "people/operator-" + name, err
}

// wayTo is the address that packets from here to a host bear. Nothing is sent.
func wayTo(h *site.Host) (string, error) {
	c, err := net.Dial("udp", net.JoinHostPort(h.Address, strconv.Itoa(h.Port)))
	if err != nil {
		return "", err
	}
	defer c.Close()
	at, err := netip.ParseAddrPort(c.LocalAddr().String())
	return at.Addr().Unmap().WithZone("").String(), err
}

// bestHostKey is the host key to pin: Ed25519 where there is one.
func bestHostKey(all []string) string {
	for _, kind := range []string{"ssh-ed25519 ", "ecdsa-", "ssh-rsa "} {
		for _, k := range all {
			if strings.HasPrefix(k, kind) {
				return k
			}
		}
	}
	return ""
}

// printEnrolment prints what to carry to hosts by hand.
func (a *app) printEnrolment(s *site.Site, hosts []*site.Host) error {
	src, err := source(s)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		setup, err := install.Make(src, h.Name, install.Assume(initOf(s, h)))
		if err != nil {
			return &failure{status: exitUsage, err: err}
		}
		if err := a.showSetup(setup, &install.Work{Warnings: setup.Warnings}); err != nil {
			return err
		}
	}
	return nil
}

// initOf is the init that a host must have for its services' sake.
func initOf(s *site.Site, h *site.Host) install.Init {
	for _, v := range s.Services {
		if !slices.Contains(v.Hosts, h.Name) {
			continue
		}
		switch v.Adapter.Kind {
		case site.KindSysV:
			return install.SysV
		case site.KindOpenRC:
			return install.OpenRC
		}
	}
	return install.Systemd
}

// target is what tells ssh where to go. A port in the site file is sshd's, but
// whoever names the target himself may mean one of his own configuration's.
func (e *enrolment) target(h *site.Host) []string {
	to := strings.NewReplacer("%h", h.Name, "%a", h.Address, "%%", "%").Replace(e.to)
	if h.Port != 22 && !strings.Contains(e.to, "%h") {
		return []string{"-p", strconv.Itoa(h.Port), "--", to}
	}
	return []string{"--", to}
}

// remoteFolder is what mktemp -d names. The folder is removed in the end, as root
// perhaps, so a login that prints a path of its own must not pass for it.
var remoteFolder = regexp.MustCompile(`^/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*tmp\.[A-Za-z0-9]{6,}$`)

// whoami tells one machine from another, clones and containers included.
const whoami = `cat /etc/machine-id /proc/sys/kernel/random/boot_id 2>/dev/null; uname -n`

// upload brings the site to a folder of its own at the host, and returns that, and
// whether the host is this machine.
func (e *enrolment) upload(ctx context.Context, a *app, s *site.Site, target []string, first bool) (dir string, here bool, err error) {
	bundle, err := e.bundle(s)
	if err != nil {
		return "", false, err
	}
	dir, who, err := e.unpack(ctx, a, bundle, target, first)
	if err != nil {
		return "", false, err
	}
	me, err := exec.CommandContext(ctx, "/bin/sh", "-c", whoami).Output()
	return dir, err == nil && who == string(me), nil
}

// unpack brings a tar with the program kido to a new folder at the host, of the
// login alone, and returns that, and what whoami says there.
func (e *enrolment) unpack(ctx context.Context, a *app, bundle *bytes.Buffer, target []string, first bool) (dir, who string, err error) {
	const script = `umask 077 && d=$(mktemp -d) && tar -xf - -C "$d" && uname -m && echo "$d" && { ` + whoami + `; }`
	out, err := e.run(ctx, bundle, e.stderr(a), target, script)
	if err != nil {
		return "", "", err
	}
	lines := strings.SplitN(string(out), "\n", 3)
	if len(lines) < 3 || !remoteFolder.MatchString(lines[1]) {
		return "", "", fmt.Errorf("the login there prints something of its own: %q: make it silent where nobody types", cutLine(string(out)))
	}
	if machine := lines[0]; first && !machineRuns(machine, e.kido) {
		_ = e.clear(ctx, target, "rm -rf "+lines[1])
		return "", "", fmt.Errorf("it is a %s machine, and %s is not for it: build both programs with GOARCH and CGO_ENABLED=0, and name their folder with --programs", oneLine(machine), e.kido)
	}
	return lines[1], lines[2], nil
}

func cutLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line[:min(len(line), 80)]
}

// machineRuns reports whether a machine, as uname calls it, runs a program. A
// machine of a kind that is not known here is given the benefit of the doubt.
func machineRuns(machine, program string) bool {
	want, known := map[string]elf.Machine{
		"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64, "i686": elf.EM_386, "armv7l": elf.EM_ARM,
		"ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390, "riscv64": elf.EM_RISCV,
	}[machine]
	f, err := elf.Open(program)
	if err != nil {
		return false
	}
	defer f.Close()
	return !known || f.Machine == want || machine == "x86_64" && f.Machine == elf.EM_386
}

// bundle is what kido install needs at a host.
func (e *enrolment) bundle(s *site.Site) (*bytes.Buffer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name, path string, mode int64, must bool) error {
		text, err := os.ReadFile(path)
		if err != nil {
			if !must && errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(text)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	err := errors.Join(
		add("kido", e.kido, 0o755, true),
		add("kido-gate", e.gate, 0o755, true),
		add("site.yaml", s.File, 0o644, true),
		add("known_hosts", s.KnownHosts, 0o644, false),
	)
	for _, folder := range ringFolders {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "keys/" + folder, Typeflag: tar.TypeDir, Mode: 0o755, Format: tar.FormatUSTAR}))
		names, gerr := filepath.Glob(filepath.Join(e.ring, folder, "*.pub"))
		err = errors.Join(err, gerr)
		for _, name := range names {
			err = errors.Join(err, add("keys/"+folder+filepath.Base(name), name, 0o644, true))
		}
	}
	err = errors.Join(err, add("keys/"+install.RevokedFile, filepath.Join(e.ring, install.RevokedFile), 0o644, false))
	return &b, errors.Join(err, w.Close())
}

// command is the administrator's ssh. Its connection is shared by all that is run
// at a host, so that one login is enough. A host that does not answer is given up,
// after times of ours where --ssh names none.
func (e *enrolment) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append(strings.Fields(e.ssh), "-o", "ControlMaster=auto", "-o", "ControlPath="+filepath.Join(e.control, "%C"), "-o", "ControlPersist=60",
		"-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15")
	if e.words != nil {
		argv = append(argv, "-o", "BatchMode=yes")
	}
	argv = append(argv, args...)
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	return c
}

// clear runs the command that takes away what was brought to a host, whatever became
// of it, and even where that was interrupted.
func (e *enrolment) clear(ctx context.Context, target []string, remove string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_, err := e.run(ctx, nil, io.Discard, target, remove)
	return err
}

// run runs a script at a host and returns what it prints, also where it fails.
func (e *enrolment) run(ctx context.Context, stdin *bytes.Buffer, stderr io.Writer, target []string, script string) ([]byte, error) {
	c := e.command(ctx, append(target, script)...)
	if stdin != nil {
		c.Stdin = stdin
	}
	var out answer
	c.Stdout, c.Stderr = &out, stderr
	err := pass(c)
	if out.over {
		return nil, fmt.Errorf("it said more than %d bytes", maxAnswer)
	}
	return out.text, e.sshError(ctx, err)
}

// maxAnswer is more than any script here prints, in bytes.
const maxAnswer = 1 << 20

// answer keeps what a host says, up to maxAnswer.
type answer struct {
	text []byte
	over bool
}

func (a *answer) Write(p []byte) (int, error) {
	if len(a.text)+len(p) > maxAnswer {
		a.over = true
		return 0, errors.New("too long")
	}
	a.text = append(a.text, p...)
	return len(p), nil
}

// lastWords keep the end of what a host says where that is not shown as it comes.
type lastWords struct{ text []byte }

func (w *lastWords) Write(p []byte) (int, error) {
	const most = 2 << 10
	w.text = append(w.text, p...)
	w.text = w.text[max(0, len(w.text)-most):]
	return len(p), nil
}

// String is the last line, as it may be shown.
func (w *lastWords) String() string {
	lines := strings.Split(strings.TrimSpace(string(w.text)), "\n")
	return oneLine(strings.TrimSpace(lines[len(lines)-1]))
}

// stderr is where what a host says goes.
func (e *enrolment) stderr(a *app) io.Writer {
	if e.words != nil {
		return e.words
	}
	return &printable{to: a.stderr}
}

// runTTY runs a script whose programs may ask the person at the terminal.
func (e *enrolment) runTTY(ctx context.Context, a *app, target []string, script string) error {
	args := append(target, script)
	if e.words == nil && term.IsTerminal(int(a.stdin.Fd())) {
		args = append([]string{"-t", "-q"}, args...)
	}
	c := e.command(ctx, args...)
	c.Stdout, c.Stderr = e.stderr(a), e.stderr(a)
	if e.words == nil {
		c.Stdin = a.stdin
	}
	return e.sshError(ctx, pass(c))
}

// pass runs the administrator's ssh.
func pass(c *exec.Cmd) error {
	if err := c.Start(); err != nil {
		return err
	}
	failpoint.Hit("enroll.ssh.begun")
	err := c.Wait()
	failpoint.Hit("enroll.ssh.ended")
	return err
}

func (e *enrolment) sshError(ctx context.Context, err error) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("it did not answer in time: %w", ctx.Err())
	}
	why := " (see above)"
	if e.words != nil {
		why = ": " + e.words.String()
	}
	if exit.ExitCode() == 255 {
		return fmt.Errorf("ssh could not connect%s; try it by hand, or say how with --to and --ssh", why)
	}
	return fmt.Errorf("it ended with status %d%s", exit.ExitCode(), why)
}

// hangUp ends the shared connections.
func (e *enrolment) hangUp(hosts []*site.Host) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, h := range hosts {
		_ = e.command(ctx, append([]string{"-q", "-O", "exit"}, e.target(h)...)...).Run()
	}
}
