package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/remote"
	"kido/internal/site"
)

func (a *app) keysExport() *cobra.Command {
	var e export
	c := &cobra.Command{
		Use:   "export",
		Short: "print this machine's keys, to be carried by hand",
		Long: `Print what others must know of this machine, a few lines to be carried by hand
or read out over a telephone, and read by kido keys import at the other end: at
a host of the site its public key, its sshd's host key, its address and what its
key may do where; on another machine the public key of the person at it, who may
do everything. Nothing in it is secret; that nobody alters it is what matters.

Each line of the code has a check of its own, so that one which was misheard is
named. The check code at the end is for another way than the rest takes: --check
prints it alone.`,
		Example: "  kido keys export > /media/floppy/db1.kido\n  kido keys export --compact | qrencode -t ansiutf8\n  kido keys export --check",
		Args:    exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			b, err := a.bundle(s, &e)
			if err != nil {
				return err
			}
			return a.writeBundle(b, &e)
		},
	}
	c.Flags().StringSliceVar(&e.from, "from", nil, "`address` or network that the key comes from (default: the host's in the site file; for a person this machine's own, on its ways to the hosts)")
	c.Flags().StringVar(&e.person, "person", "", "export the key of the person at this machine under this `name`, whether it is a host or not")
	c.Flags().StringVar(&e.hostKey, "host-key", "", "public key `file` of this host's sshd (default: the best of /etc/ssh)")
	c.Flags().BoolVar(&e.compact, "compact", false, "print the code alone, in one line, as for a QR code")
	c.Flags().BoolVar(&e.check, "check", false, "print the check code alone")
	c.MarkFlagsMutuallyExclusive("compact", "check")
	c.MarkFlagsMutuallyExclusive("person", "host-key")
	return c
}

// export is one call of kido keys export.
type export struct {
	from            []string
	person, hostKey string
	compact, check  bool
}

func (a *app) writeBundle(b *keys.Bundle, e *export) error {
	text, err := b.Text()
	if err != nil {
		return &failure{status: exitUsage, err: err}
	}
	compact, err := b.Compact()
	if err != nil {
		return err
	}
	check, err := b.Check()
	if err != nil {
		return err
	}
	switch {
	case a.json():
		return a.writeJSON(struct {
			bundleShown
			Bundle  string `json:"bundle"`
			Compact string `json:"compact"`
		}{showBundle(b, check), text, compact})
	case e.check:
		text = check + "\n"
	case e.compact:
		text = compact + "\n"
	}
	_, err = io.WriteString(a.stdout, text)
	return err
}

// bundleShown is a bundle as -o json has it.
type bundleShown struct {
	Site      string       `json:"site"`
	Host      string       `json:"host,omitempty"`
	Person    string       `json:"person,omitempty"`
	Address   string       `json:"address,omitempty"`
	Port      int          `json:"port,omitempty"`
	From      []string     `json:"from,omitempty"`
	PublicKey string       `json:"publicKey,omitempty"`
	HostKey   string       `json:"hostKey,omitempty"`
	Grants    []keys.Grant `json:"grants,omitempty"`
	Check     string       `json:"check"`
}

func showBundle(b *keys.Bundle, check string) bundleShown {
	return bundleShown{b.Site, b.Host, b.Person, b.Address, b.Port, b.From, b.Public, b.HostKey, b.Grants, check}
}

// bundle collects what is to be carried from this machine.
func (a *app) bundle(s *site.Site, e *export) (*keys.Bundle, error) {
	host, err := a.hostHere(s)
	if err != nil {
		return nil, err
	}
	if host == nil || e.person != "" {
		return personBundle(s, e)
	}
	b := &keys.Bundle{Site: s.Name, Host: host.Name, Address: host.Address, Port: host.Port, Grants: install.Grants(s, host.Name)}
	switch b.Public, err = keys.Public(s.Identity); {
	case errors.Is(err, os.ErrNotExist) && len(b.Grants) > 0:
		return nil, usageError("make it: kido install, or kido keys new", "%s announces to other hosts, and has no key for it yet: %w", host.Name, err)
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, usageError("", "%w", err)
	}
	b.HostKey = bestHostKey(install.This().HostKeys())
	if e.hostKey != "" {
		if b.HostKey, err = readKey(e.hostKey); err != nil {
			return nil, err
		}
		if _, err := keys.Fingerprint(b.HostKey); err != nil {
			return nil, usageError("give the .pub file of sshd's host key", "%s: %w", e.hostKey, err)
		}
	}
	if b.HostKey == "" {
		a.warn([]error{fmt.Errorf("no host key of this machine's sshd is in /etc/ssh, so none can be pinned by what this prints: name its .pub file with --host-key")})
	}
	if b.Public == "" {
		return b, nil
	}
	b.From = e.from
	if _, err := netip.ParseAddr(host.Address); len(b.From) == 0 && err == nil {
		b.From = []string{host.Address}
	}
	if len(b.From) == 0 {
		return nil, usageError("say what others see: --from 192.168.0.100", "the address from which %s comes is not known: the site file has the name %s", host.Name, host.Address)
	}
	return b, nil
}

// hostHere is the host of the site that this machine is, whether it has a gate yet
// or not; nil for none.
func (a *app) hostHere(s *site.Site) (*site.Host, error) {
	if a.here != "" && a.here != "none" {
		return hostOf(s, a.here)
	}
	known, err := a.hereOf(s)
	if err != nil || a.here == "none" {
		return nil, err
	}
	machine, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	short, _, _ := strings.Cut(machine, ".")
	for _, name := range []string{known, machine, short} {
		if h := s.Host(name); h != nil {
			return h, nil
		}
	}
	return nil, nil
}

// personBundle is the key of whoever runs kido on this machine, under the name
// that it has in the ring already.
func personBundle(s *site.Site, e *export) (*keys.Bundle, error) {
	public, err := publicKey(s.Identity)
	if err != nil {
		return nil, err
	}
	b := &keys.Bundle{Site: s.Name, Person: e.person, Public: public, From: e.from}
	known, _ := readRing(s)
	for _, k := range known {
		if k.kind == kindPerson && sameKey(k.key.Public, public) && (b.Person == "" || b.Person == k.name) {
			b.Person = k.name
			if len(b.From) == 0 {
				b.From = k.from
			}
		}
	}
	if b.Person == "" {
		own, err := ownName()
		if err != nil {
			return nil, err
		}
		b.Person = strings.TrimPrefix(own, peoplePrefix)
	}
	if err := checkPerson(b.Person); err != nil {
		return nil, err
	}
	if len(b.From) > 0 {
		return b, nil
	}
	hosts, err := gatedHosts(s, nil)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if address, err := wayTo(h); err == nil && !slices.Contains(b.From, address) {
			b.From = append(b.From, address)
		}
	}
	if len(b.From) == 0 {
		return nil, usageError("say which: --from ADDRESS", "no address is known that this machine's key comes from")
	}
	return b, nil
}

// checkPerson keeps the name free under which a gate knows whoever runs it on its
// own host.
func checkPerson(name string) error {
	if name == "here" {
		return usageError("choose another: kido keys export --person NAME", "a person cannot be called %s: at a gate that is whoever is logged in there", name)
	}
	return nil
}

func sameKey(one, other string) bool { return blob(one) == blob(other) }

func (a *app) keysImport() *cobra.Command {
	var check, person string
	var from []string
	var replace bool
	c := &cobra.Command{
		Use:   "import [FILE|-]",
		Short: "take the keys that kido keys export printed elsewhere",
		Long: `Read what kido keys export printed at a host or at a person's machine, from FILE
or standard input; white space, upper and lower case do not matter. The public
key goes to keys/HOST.pub or keys/people/NAME.pub beside the site file, locked
to the addresses that it comes from, and the host key to the pinned ones.

It is refused when a character was altered, when it is of another site, when the
site file here gives that host other rights or another address than the one
there, and when a key is revoked or somebody else's. A key that is there already
gives way to another one with --replace only; one of a person, who may do
everything, is taken with --person NAME only; and one of a host that comes from
other places than its address there only with --from, which names them.

Who alters the whole can make a check code that fits. So have the check code
read out to you by somebody at the other end (kido keys export --check there),
and give it with --check.`,
		Example: "  kido keys import /media/floppy/db1.kido\n  kido keys import --check 9F01-Q6JB-Y0EP-C9E2 < db1.kido\n  kido keys import --person keiko keiko.kido",
		Args:    atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			text, err := a.readBundle(args)
			if err != nil {
				return err
			}
			b, err := keys.ParseBundle(text, check)
			if err != nil {
				return &failure{status: exitUsage, err: err, hint: "nothing was taken: print it again at the other end (kido keys export), and compare"}
			}
			if b.Person != person {
				return notThatPerson(b, person)
			}
			if err := comesFromThere(s, b, from); err != nil {
				return err
			}
			return a.importBundle(s, b, check, replace)
		},
	}
	c.Flags().StringVar(&check, "check", "", "the `code` that kido keys export --check prints at the other end")
	c.Flags().StringVar(&person, "person", "", "take the key of the person of this `name`, who may do everything")
	c.Flags().StringSliceVar(&from, "from", nil, "take a host's key that comes from this `address` (default: the host's in the site file)")
	c.Flags().BoolVar(&replace, "replace", false, "put these keys in the place of others that are there")
	return c
}

// notThatPerson fails for a bundle that is of somebody else than who imports it
// thinks: what comes from a host must not make a person of it, unasked.
func notThatPerson(b *keys.Bundle, person string) error {
	switch {
	case b.Person == "":
		return usageError("nothing was taken; if that is meant, leave out --person", "this is of the host %s, and not of a person", b.Host)
	case person == "":
		return usageError("nothing was taken; if that is meant: --person "+b.Person, "this is the key of a person, %s, who may then do everything at every host", b.Person)
	}
	return usageError("nothing was taken; ask who printed it", "this is the key of the person %s, and not of %q", b.Person, person)
}

// comesFromThere fails for a host's key that is to be used from elsewhere than the
// site file says, unasked: who took over one host could print a bundle of another,
// with a key and an address of his own.
func comesFromThere(s *site.Site, b *keys.Bundle, from []string) error {
	h := s.Host(b.Host)
	if b.Person != "" || b.Public == "" || h == nil {
		return nil
	}
	if len(from) == 0 {
		from = []string{b.Address} // which must be the site file's, too
	}
	if slices.Equal(slices.Sorted(slices.Values(from)), slices.Sorted(slices.Values(b.From))) {
		return nil
	}
	return usageError("nothing was taken; ask at "+h.Name+", and if that is meant: --from "+strings.Join(b.From, ","),
		"the key of %s is said to come from %s, not from %s", h.Name, strings.Join(b.From, ", "), strings.Join(from, ", "))
}

func (a *app) readBundle(args []string) (string, error) {
	if len(args) == 1 && args[0] != "-" {
		return readKey(args[0])
	}
	if term.IsTerminal(int(a.stdin.Fd())) && !a.quiet {
		fmt.Fprintln(a.stderr, "type what kido keys export printed, and Ctrl-D on a line of its own")
	}
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(a.stdin, most))
	if err != nil {
		return "", fmt.Errorf("cannot read what was exported: %w", err)
	}
	return string(text), nil
}

// importBundle takes what was carried here, as a whole: all is checked before
// the first file is written.
func (a *app) importBundle(s *site.Site, b *keys.Bundle, given string, replace bool) error {
	if b.Site != s.Name {
		return usageError("name that site's file: --site FILE", "this is of the site %s, and %s is the site %s", b.Site, s.File, s.Name)
	}
	if b.Host != "" {
		if err := checkAgreed(s, b); err != nil {
			return err
		}
	} else if err := checkPerson(b.Person); err != nil {
		return err
	}
	if err := checkRevoked(s, b); err != nil {
		return err
	}
	ring, err := ringFor(s, b, replace)
	if err != nil {
		return err
	}
	pins, err := pinsFor(s, b, replace)
	if err != nil {
		return err
	}
	// The pin first: a key that may come, of a host that cannot be reached, is the
	// lesser half.
	changed := []string{}
	for _, f := range []newText{pins, ring} {
		if f.path == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
			return err
		}
		wrote, err := replaceFile(f.path, f.text)
		if err != nil {
			return fmt.Errorf("cannot keep what was carried here: %w", err)
		}
		if wrote {
			changed = append(changed, f.path)
		}
	}
	return a.sayImported(b, given, changed, ring.gone, pins.gone)
}

// newText is a file as it is to be; no path where it stays as it is.
type newText struct {
	path, text string
	gone       []string // fingerprints of keys that are not in it any more
}

// checkAgreed fails where the site file at a host and the one here differ in what
// they say of it: one of the two is not what somebody thinks that it is.
func checkAgreed(s *site.Site, b *keys.Bundle) error {
	h, err := hostOf(s, b.Host)
	if err != nil {
		return err
	}
	const hint = "nothing was taken: bring the two site files together, then kido keys export there again"
	if h.Address != b.Address || h.Port != b.Port {
		return &failure{status: exitFailed, hint: hint, err: fmt.Errorf("the site file there has %s at %s port %d, %s here at %s port %d", h.Name, b.Address, b.Port, s.File, h.Address, h.Port)}
	}
	may := func(all []keys.Grant, host string) string {
		for _, g := range all {
			if g.Host == host {
				return g.May
			}
		}
		return "nothing"
	}
	here := install.Grants(s, h.Name)
	var hosts []string
	for _, g := range slices.Concat(b.Grants, here) {
		if !slices.Contains(hosts, g.Host) {
			hosts = append(hosts, g.Host)
		}
	}
	var lines []string
	for _, host := range hosts {
		if there, here := may(b.Grants, host), may(here, host); there != here {
			lines = append(lines, fmt.Sprintf("  at %s\n    there: %s\n    here:  %s", host, there, here))
		}
	}
	if lines != nil {
		return &failure{status: exitFailed, hint: hint, err: fmt.Errorf("the site file there and %s here do not give %s the same rights:\n%s", s.File, h.Name, strings.Join(lines, "\n"))}
	}
	return nil
}

// checkRevoked fails where a key that was carried here is among the revoked ones:
// such a key may be nothing anywhere.
func checkRevoked(s *site.Site, b *keys.Bundle) error {
	revoked, err := loadRevoked(ringOf(s))
	if err != nil {
		return err
	}
	for what, public := range map[string]string{"key": b.Public, "host key": b.HostKey} {
		if public == "" || !revoked.has(public) {
			continue
		}
		fingerprint, err := keys.Fingerprint(public)
		if err != nil {
			return err
		}
		return &failure{status: exitFailed, err: fmt.Errorf("its %s %s is revoked (%s)", what, fingerprint, filepath.Join(ringOf(s), install.RevokedFile)), hint: "nothing was taken; that machine needs another one"}
	}
	return nil
}

// ringFor is the file of the ring that is to hold the bundle's key.
func ringFor(s *site.Site, b *keys.Bundle, replace bool) (f newText, err error) {
	if b.Public == "" {
		return f, nil
	}
	fingerprint, err := keys.Fingerprint(b.Public)
	if err != nil {
		return f, err
	}
	kind, name, file := kindHost, b.Host, b.Host+".pub"
	if b.Person != "" {
		kind, name, file = kindPerson, b.Person, filepath.Join(install.PeopleFolder, b.Person+".pub")
	}
	path := filepath.Join(ringOf(s), file)
	known, _ := readRing(s) // what is wrong in other files is for kido keys list
	kept := false
	for _, k := range known {
		switch own := k.kind == kind && k.name == name; {
		case !own && k.key.Fingerprint == fingerprint:
			return f, &failure{status: exitFailed, err: fmt.Errorf("its key %s is that of %s %s (%s): each has its own", fingerprint, k.kind, k.name, k.place()), hint: "nothing was taken; make a key at one of the two: kido keys new"}
		case !own:
		case k.key.Fingerprint == fingerprint && slices.Equal(k.comesFrom(s), b.From):
			kept = true
		case k.key.Fingerprint == fingerprint && !replace:
			return f, notReplaced("%s says that the key of %s comes from %s; what was carried here says from %s", k.place(), name, strings.Join(k.comesFrom(s), ", "), strings.Join(b.From, ", "))
		case k.key.Fingerprint != fingerprint:
			f.gone = append(f.gone, k.key.Fingerprint)
		}
	}
	if kept { // and perhaps another, while it changes its keys
		return newText{}, nil
	}
	if len(f.gone) > 0 && !replace {
		return f, notReplaced("%s has another key of %s, %s; the one that was carried here is %s", path, name, strings.Join(f.gone, ", "), fingerprint)
	}
	if _, err := os.Lstat(path); err == nil && len(f.gone) == 0 && !replace {
		return f, notReplaced("%s is there, and what it holds is no key that kido takes", path)
	}
	f.path = path
	f.text = fmt.Sprintf("from=%q %s kido %s, %s\n", strings.Join(b.From, ","), b.Public, b.Site, name)
	return f, nil
}

func notReplaced(format string, args ...any) error {
	return &failure{status: exitFailed, err: fmt.Errorf(format, args...), hint: "nothing was taken; if that is meant: --replace"}
}

// pinsFor is the file of pinned host keys with the bundle's host key in it.
func pinsFor(s *site.Site, b *keys.Bundle, replace bool) (f newText, err error) {
	if b.HostKey == "" {
		return f, nil
	}
	h := s.Host(b.Host)
	fingerprint, err := keys.Fingerprint(b.HostKey)
	if err != nil {
		return f, err
	}
	line, err := keys.Pin(h.Address, h.Port, b.HostKey)
	if err != nil {
		return f, err
	}
	text, err := os.ReadFile(s.KnownHosts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return f, fmt.Errorf("cannot read the pinned host keys: %w", err)
	}
	pins, err := remote.ParsePins(text, s.KnownHosts)
	if err != nil {
		return f, usageError("mend that line", "a line of the pinned keys is wrong, and kido connects to nothing before it is mended: %w", err)
	}
	lines := slices.Collect(strings.Lines(string(text)))
	marked := []string{line}
	for _, l := range lines {
		if strings.HasPrefix(strings.TrimSpace(l), "@revoked") {
			marked = append(marked, strings.TrimSpace(l))
		}
	}
	if alone, err := remote.ParsePins([]byte(strings.Join(marked, "\n")), s.KnownHosts); err != nil || len(alone.Lookup(h.Address, h.Address, h.Port)) == 0 {
		return f, &failure{status: exitFailed, err: fmt.Errorf("its host key %s is revoked in %s", fingerprint, s.KnownHosts), hint: "nothing was taken; that machine needs another one"}
	}
	found := pins.Lookup(h.Name, h.Address, h.Port)
	if slices.ContainsFunc(found, func(p remote.Pin) bool { return p.Fingerprint() == fingerprint }) {
		return f, nil
	}
	for _, p := range found {
		f.gone = append(f.gone, p.Fingerprint())
		if names := strings.Fields(lines[p.Line-1])[0]; strings.ContainsAny(names, ",*?") && replace {
			return f, &failure{status: exitFailed, err: fmt.Errorf("%s pins another host key of %s, %s, and not for it alone", p, h.Name, p.Fingerprint()), hint: "nothing was taken; take " + h.Name + " out of that line by hand"}
		}
		lines[p.Line-1] = ""
	}
	if len(found) > 0 && !replace {
		return f, notReplaced("%s has another host key of %s, %s; the one that was carried here is %s", s.KnownHosts, h.Name, strings.Join(f.gone, ", "), fingerprint)
	}
	f.path, f.text = s.KnownHosts, strings.Join(lines, "")
	if f.text != "" && !strings.HasSuffix(f.text, "\n") {
		f.text += "\n"
	}
	f.text += line + "\n"
	return f, nil
}

// sayImported tells what was taken, and in the place of which keys and host keys.
func (a *app) sayImported(b *keys.Bundle, given string, changed, oldKeys, oldHostKeys []string) error {
	check, err := b.Check()
	if err != nil {
		return err
	}
	if a.json() {
		return a.writeJSON(struct {
			bundleShown
			Compared bool     `json:"compared"`
			Changed  []string `json:"changed"`
			Replaced []string `json:"replaced,omitempty"`
		}{showBundle(b, check), given != "", changed, slices.Concat(oldKeys, oldHostKeys)})
	}
	out := a.text()
	for _, k := range []struct {
		public, what string
		old          []string
	}{{b.Public, "key", oldKeys}, {b.HostKey, "host key", oldHostKeys}} {
		if k.public == "" {
			continue
		}
		fingerprint, err := keys.Fingerprint(k.public)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s%s: %s %s\n", b.Host, b.Person, k.what, fingerprint)
		for _, old := range k.old {
			fmt.Fprintf(out, "  in the place of %s\n", old)
		}
	}
	if b.Public != "" {
		fmt.Fprintf(out, "  from %s\n", strings.Join(b.From, ", "))
	}
	for _, g := range b.Grants {
		fmt.Fprintf(out, "  may at %s: %s\n", g.Host, g.May)
	}
	if b.Person != "" {
		fmt.Fprintln(out, "  may do everything at every host")
	}
	for _, file := range changed {
		fmt.Fprintf(out, "written: %s\n", file)
	}
	if len(changed) == 0 {
		fmt.Fprintln(out, "nothing to change: it is all there")
	}
	if a.quiet {
		return nil
	}
	if given == "" {
		fmt.Fprintf(a.stderr, "its check code, %s, was not compared: have it read out to you at the other end, where this prints it: %s\n", check, exportCommand(b))
	}
	if len(changed) > 0 {
		fmt.Fprintln(a.stderr, "next, to let the hosts know: kido enroll; or at each of them: kido install")
	}
	return nil
}

// exportCommand prints the check code of a bundle where it was made.
func exportCommand(b *keys.Bundle) string {
	command := "kido keys export --check"
	if b.Person != "" {
		command += " --person " + b.Person
	}
	if len(b.From) > 0 && !slices.Equal(b.From, []string{b.Address}) {
		command += " --from " + strings.Join(b.From, ",")
	}
	return command
}
