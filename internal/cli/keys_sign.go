package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"kido/internal/gate"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/remote"
	"kido/internal/site"
	"kido/internal/wire"
)

const (
	day = 24 * time.Hour
	// defaultLife is how long a certificate is good for unless --valid says
	// otherwise: long enough to be renewed by hand, short enough that one which
	// got lost is soon nothing.
	defaultLife = "30d"

	certificateTime = "2006-01-02 15:04:05 MST"

	peoplePrefix   = install.PeopleFolder + "/"
	certificateEnd = "-cert.pub"
)

func (a *app) keysAuthority() *cobra.Command {
	var pass passphrase
	var bare, ring bool
	c := &cobra.Command{
		Use:   "authority FILE",
		Short: "make a certificate authority's key pair",
		Long: `Make the ed25519 key pair of a certificate authority: the private key at FILE,
the public key at FILE.pub. What it signs (kido keys sign) is taken by every
host of the site, so it stays offline: on a medium in a drawer, with a
passphrase, which is asked for twice.

The hosts trust an authority whose public key is in keys/authorities beside the
site file (--ring puts it there) once kido enroll has told them.`,
		Example: "  kido keys authority /media/stick/shop-ca --ring",
		Args:    exactly(1, "FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			file := args[0]
			var to, comment string
			if ring {
				s, err := a.load()
				if err != nil {
					return err
				}
				to = filepath.Join(ringOf(s), install.AuthoritiesFolder, filepath.Base(file)+".pub")
				if _, err := os.Lstat(to); err == nil {
					return usageError("give the new one another name", "there is an authority of that name in the site already: %s", to)
				}
				comment = "kido " + s.Name + ", certificate authority"
			}
			var secret []byte
			var err error
			switch {
			case bare && pass.file != "":
				return usageError("", "--no-passphrase and --passphrase-file contradict each other")
			case !bare:
				if secret, err = a.newPassphrase(c.Context(), pass); err != nil {
					return err
				}
			}
			public, err := keys.NewAuthority(file, comment, secret)
			if err != nil {
				return err
			}
			fingerprint, err := keys.Fingerprint(public)
			if err != nil {
				return err
			}
			if ring {
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					return err
				}
				if _, err := replaceFile(to, public+"\n"); err != nil {
					return err
				}
			}
			if bare {
				a.warn([]error{fmt.Errorf("%s has no passphrase: whoever reads it can sign for any host and person of the site; keep it offline", file)})
			}
			if a.json() {
				return a.writeJSON(struct {
					Authority   string `json:"authority"`
					Public      string `json:"public"`
					Fingerprint string `json:"fingerprint"`
					Ring        string `json:"ring,omitempty"`
				}{file, public, fingerprint, to})
			}
			fmt.Fprintln(a.text(), public)
			if !a.quiet {
				fmt.Fprintf(a.stderr, "private key: %s\n", file)
				if ring {
					fmt.Fprintf(a.stderr, "public key: %s\nnext: have the hosts trust it: kido enroll\n", to)
				} else {
					fmt.Fprintf(a.stderr, "next: put %s.pub into keys/%s beside the site file, and have the hosts trust it: kido enroll\n", file, install.AuthoritiesFolder)
				}
			}
			return nil
		},
	}
	pass.flag(c)
	c.Flags().BoolVar(&bare, "no-passphrase", false, "leave the private key open to whoever can read its file")
	c.Flags().BoolVar(&ring, "ring", false, "put the public key into the site's keys/authorities, named after FILE")
	return c
}

func (a *app) keysSign() *cobra.Command {
	var pass passphrase
	var key, authority, valid, gatePath, out string
	var from []string
	c := &cobra.Command{
		Use:   "sign HOST|people/NAME",
		Short: "sign a certificate for the key of a host or a person",
		Long: `Sign a certificate with which the holder of a key may come to the gates of the
site, as that host or person, until it ends: with the gate as its only command
(force-command), from the host's own address or those in the site's keys
(source-address), and with no extension: no terminal, no forwarding.

It goes beside the private key, as IDENTITY-cert.pub, and is used from then on.
So does its successor: there is nothing to be done at the hosts.

The authority is the file of its private key, or one that an ssh-agent holds,
named by its .pub file or as agent:SHA256:….`,
		Example: "  kido keys sign db1 --authority /media/stick/shop-ca\n  kido keys sign people/keiko --authority /media/stick/shop-ca.pub --valid 12h",
		Args:    exactly(1, "HOST"),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			ring, err := keyring(s)
			if err != nil {
				return err
			}
			who, err := subjectOf(s, ring, args[0], key, from)
			if err != nil {
				return err
			}
			life, err := parseLife(valid)
			if err != nil {
				return err
			}
			if authority == "" {
				return usageError("name the file that kido keys authority made: --authority FILE", "--authority is missing: somebody must sign")
			}
			if out == "" {
				out = certificatePath(s, args[0], key)
			}
			if inRing(s, out) {
				return usageError("name another place: --out FILE", "%s is among the public keys of the site, where a certificate would be taken for one of them", out)
			}
			if err := replaceable(out, who.fingerprint); err != nil {
				return err
			}
			ca, err := a.openAuthority(c.Context(), authority, pass)
			if err != nil {
				return err
			}
			line, err := ca.Sign(keys.CertificateOptions{
				Principal: who.principal, Public: who.public, From: who.from, Gate: gatePath,
				ID: "kido " + s.Name + " " + who.principal, Now: time.Now(), Life: life,
			})
			if err = errors.Join(err, ca.Close()); err != nil {
				return &failure{status: exitUsage, err: err}
			}
			r, err := a.judge(line, gatePath)
			if err != nil {
				return err
			}
			r.File, r.Certificate = out, line
			if r.trust(ring); !r.Good {
				return usageError("", "no gate would take this certificate, and it is not written: %s", r.Fault)
			}
			if _, err := replaceFile(out, line+"\n"); err != nil {
				return fmt.Errorf("cannot write the certificate: %w", err)
			}
			if a.json() {
				return a.writeJSON(r)
			}
			r.write(a.text())
			a.warnText(r.Warnings)
			if !a.quiet {
				fmt.Fprintf(a.stderr, "next: put it beside the private key of %s, as %s\n", args[0], filepath.Base(remote.CertificateFile(s.Identity)))
			}
			return nil
		},
		ValidArgsFunction: a.completeHosts,
	}
	c.Flags().StringVar(&authority, "authority", "", "`file` of the authority's private key; FILE.pub or agent:SHA256:…: an ssh-agent has it")
	c.Flags().StringVar(&key, "key", "", "public key `file` to certify (default: the one in the site's keys)")
	c.Flags().StringVar(&valid, "valid", defaultLife, "how `long` it is good for: 12h, 30d, 8w; 366d at most")
	c.Flags().StringSliceVar(&from, "from", nil, "`address` or network that it may be used from (default: from= in the site's keys, else the host's own)")
	c.Flags().StringVar(&gatePath, "gate", install.GateProgram, "`path` of the gate at the hosts")
	c.Flags().StringVar(&out, "out", "", "`file` to write (default: FILE-cert.pub beside --key FILE.pub, else NAME-cert.pub here)")
	pass.flag(c)
	return c
}

func (a *app) keysShow() *cobra.Command {
	var gatePath string
	c := &cobra.Command{
		Use:   "show FILE-cert.pub",
		Short: "what a certificate says, and whether a gate takes it",
		Long: `Show what is in a certificate, and judge it as a gate does. Where there is a
site file, its keys say whether the hosts trust who signed it. Exit status 1
where it is not taken.`,
		Args: exactly(1, "FILE-cert.pub"),
		RunE: func(_ *cobra.Command, args []string) error {
			line, err := readKey(args[0])
			if err != nil {
				return err
			}
			r, err := a.judge(line, gatePath)
			if err != nil {
				return usageError("", "%s: %w", args[0], err)
			}
			r.File = args[0]
			if s, err := a.load(); err == nil { // without a site it is judged by itself
				ring, err := keyring(s)
				if err != nil {
					return err
				}
				r.trust(ring)
			}
			if a.json() {
				err = a.writeJSON(r)
			} else {
				r.write(a.text())
				a.warnText(r.Warnings)
			}
			if err == nil && !r.Good {
				return &failure{status: exitFailed} // the fault is said
			}
			return err
		},
	}
	c.Flags().StringVar(&gatePath, "gate", install.GateProgram, "`path` of the gate at the hosts")
	return c
}

// subject is for whom a certificate is signed.
type subject struct {
	principal   string // "host/NAME" or "person/NAME"
	public      string
	fingerprint string
	from        []string
}

// subjectOf finds the key of a host, or of "people/NAME", in the site's keys; or
// takes the one in keyFile. from, where given, is in place of where those say that
// it comes from.
func subjectOf(s *site.Site, ring *install.Keyring, name, keyFile string, from []string) (*subject, error) {
	var known []install.Key
	who := &subject{from: from}
	if person, ok := strings.CutPrefix(name, peoplePrefix); ok {
		i := slices.IndexFunc(ring.People, func(p install.Person) bool { return p.Name == person })
		if i < 0 {
			return nil, usageError("put the .pub file there, with from=\"ADDRESS\" in front of the key: that is how the site knows people", "nobody of that name: there is no keys/%s.pub beside the site file", name)
		}
		known, who.principal = ring.People[i].Keys, gate.PersonPrincipal(person)
	} else {
		h, err := hostOf(s, name)
		if err != nil {
			return nil, err
		}
		known, who.principal = ring.Hosts[h.Name], gate.HostPrincipal(h.Name)
		if len(who.from) == 0 && !slices.ContainsFunc(known, func(k install.Key) bool { return len(k.From) > 0 }) {
			if _, err := netip.ParseAddr(h.Address); err != nil {
				return nil, usageError("say from which: --from ADDRESS", "the site names %s as %s, and a certificate is good from addresses only", h.Name, h.Address)
			}
			who.from = []string{h.Address}
		}
	}
	var err error
	switch {
	case keyFile != "":
		who.public, err = readKey(keyFile)
	case len(known) == 1:
		who.public = known[0].Public
	case len(known) == 0:
		err = usageError("carry its .pub file here: --key FILE.pub", "the site has no key of %s: there is no keys/%[1]s.pub beside the site file", name)
	default:
		err = usageError("say which: --key FILE.pub", "the site has %d keys of %s", len(known), name)
	}
	if err != nil {
		return nil, err
	}
	if who.fingerprint, err = keys.Fingerprint(who.public); err != nil {
		return nil, &failure{status: exitUsage, err: err}
	}
	if other := ownerOf(ring, who.fingerprint); other != "" && other != name {
		return nil, usageError("each has its own: carry the right one here", "this is the key of %s", other)
	}
	for _, k := range known {
		if len(who.from) == 0 || len(from) == 0 && k.Fingerprint == who.fingerprint && len(k.From) > 0 {
			who.from = k.From
		}
	}
	return who, nil
}

// ownerOf is whose key the site takes one for, as it is named on the command
// line; "" for nobody's.
func ownerOf(ring *install.Keyring, fingerprint string) string {
	has := func(k install.Key) bool { return k.Fingerprint == fingerprint }
	for name, all := range ring.Hosts {
		if slices.ContainsFunc(all, has) {
			return name
		}
	}
	for _, p := range ring.People {
		if slices.ContainsFunc(p.Keys, has) {
			return peoplePrefix + p.Name
		}
	}
	return ""
}

// parseLife reads a length of time, in days and weeks too.
func parseLife(s string) (time.Duration, error) {
	for unit, d := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			if n, err := strconv.ParseUint(number, 10, 16); err == nil {
				return time.Duration(n) * d, nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, usageError("write such as 12h, 30d or 8w", "--valid %q: not a length of time", s)
	}
	return d, nil
}

// certificatePath is where ssh-keygen would put it; among the site's keys, where
// every .pub file is somebody's key, it would be taken for one.
func certificatePath(s *site.Site, name, keyFile string) string {
	if keyFile == "" || inRing(s, keyFile) {
		return filepath.Base(name) + certificateEnd
	}
	return strings.TrimSuffix(keyFile, ".pub") + certificateEnd
}

// inRing reports whether a file is, or would be, among the site's keys, whatever
// links its folder is reached by.
func inRing(s *site.Site, file string) bool {
	ring, err := os.Stat(ringOf(s))
	dir, aerr := filepath.Abs(filepath.Dir(file))
	for ; err == nil && aerr == nil; dir = filepath.Dir(dir) {
		if info, serr := os.Stat(dir); serr == nil && os.SameFile(info, ring) {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
	return false
}

// replaceable holds what is written over to a certificate of the same key: it is
// no use beside its successor.
func replaceable(path, fingerprint string) error {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	text, err := readKey(path)
	if err != nil {
		return err
	}
	if old, err := keys.ParseCertificate(text); err != nil || old.Key != fingerprint {
		return usageError("name another: --out FILE", "%s is there already, and is no certificate of this key", path)
	}
	return nil
}

// openAuthority finds who signs.
func (a *app) openAuthority(ctx context.Context, name string, pass passphrase) (ca *keys.Authority, err error) {
	fingerprint, inAgent := strings.CutPrefix(name, "agent:")
	if !inAgent && strings.HasSuffix(name, ".pub") {
		public, err := readKey(name)
		if err != nil {
			return nil, err
		}
		if fingerprint, err = keys.Fingerprint(public); err != nil {
			return nil, usageError("", "%s: %w", name, err)
		}
		inAgent = true
	}
	if inAgent {
		ca, err = keys.AgentAuthority(os.Getenv("SSH_AUTH_SOCK"), fingerprint)
	} else {
		ca, err = keys.OpenAuthority(name, func() ([]byte, error) {
			return a.passphrase(ctx, pass, "passphrase of "+name+": ")
		})
	}
	if _, said := errors.AsType[*failure](err); err != nil && !said {
		err = &failure{status: exitUsage, err: err}
	}
	return ca, err
}

// passphrase is how one is come by: never on the command line, where every
// program of the machine can read it.
type passphrase struct{ file string }

func (p *passphrase) flag(c *cobra.Command) {
	c.Flags().StringVar(&p.file, "passphrase-file", "", "read the passphrase from the first line of this `file`, or of a descriptor: /dev/fd/3")
}

// passphrase reads one that is known.
func (a *app) passphrase(ctx context.Context, p passphrase, prompt string) ([]byte, error) {
	if p.file != "" {
		return readPassphrase(p.file)
	}
	if !term.IsTerminal(int(a.stdin.Fd())) {
		return nil, usageError("run it at a terminal, or give --passphrase-file FILE; an ssh-agent can hold the key too", "the authority's key has a passphrase, and nobody is there to type it")
	}
	return a.typed(ctx, prompt)
}

// newPassphrase asks for one twice.
func (a *app) newPassphrase(ctx context.Context, p passphrase) ([]byte, error) {
	if p.file != "" {
		return readPassphrase(p.file)
	}
	if !term.IsTerminal(int(a.stdin.Fd())) {
		return nil, usageError("run it at a terminal, or give --passphrase-file FILE, or --no-passphrase", "the authority's key gets a passphrase, and nobody is there to type it")
	}
	first, err := a.typed(ctx, "passphrase for the authority's key: ")
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		return nil, usageError("if that is what you want: --no-passphrase", "the passphrase is empty")
	}
	again, err := a.typed(ctx, "once more: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, again) {
		return nil, usageError("nothing was made: try again", "these were two passphrases")
	}
	return first, nil
}

func readPassphrase(file string) ([]byte, error) {
	const most = 4 << 10
	f, err := os.Open(file)
	if err != nil {
		return nil, usageError("", "cannot read the passphrase: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, usageError("", "cannot read the passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if len(line) == 0 {
		return nil, usageError("", "there is no passphrase in the first line of %s", file)
	}
	return line, nil
}

// typed asks for a line that is not shown. An interrupt gives the terminal back
// as it was.
func (a *app) typed(ctx context.Context, prompt string) ([]byte, error) {
	before, err := term.GetState(int(a.stdin.Fd()))
	if err != nil {
		return nil, err
	}
	// A read of a terminal cannot be called off. The one that is left behind sets the
	// terminal anew when it ends, and keeps a descriptor of its own so that it is this.
	fd, err := unix.FcntlInt(a.stdin.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	type answer struct {
		line []byte
		err  error
	}
	got := make(chan answer, 1)
	fmt.Fprint(a.stderr, prompt)
	go func() {
		line, err := term.ReadPassword(fd)
		_ = unix.Close(fd)
		got <- answer{line, err}
	}()
	defer fmt.Fprintln(a.stderr)
	select {
	case r := <-got:
		if errors.Is(r.err, io.EOF) {
			r.err = errors.New("no passphrase was typed")
		}
		return r.line, r.err
	case <-ctx.Done():
		return nil, errors.Join(&failure{status: exitInterrupted, err: errors.New("interrupted"), hint: "nothing was written"}, term.Restore(int(a.stdin.Fd()), before))
	}
}

// shownCertificate is what a person and a script see of a certificate.
type shownCertificate struct {
	File        string   `json:"file"`
	Good        bool     `json:"good"`               // a gate takes it now
	Fault       string   `json:"fault,omitempty"`    // why not
	Identity    string   `json:"identity,omitempty"` // as policies have it
	Principals  []string `json:"principals"`
	Key         string   `json:"key"`
	Authority   string   `json:"authority"`
	ID          string   `json:"id"`
	Serial      string   `json:"serial"` // more than a number of JSON holds
	ValidFrom   string   `json:"validFrom"`
	ValidUntil  string   `json:"validUntil,omitempty"` // not there: without end
	Options     []pair   `json:"options"`
	Extensions  []string `json:"extensions"`
	Certificate string   `json:"certificate,omitempty"` // its line; of one that was signed
	Warnings    []string `json:"warnings,omitempty"`

	parsed *keys.Certificate
}

type pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// judge reads a certificate and has the gate's own rules say what it is worth.
func (a *app) judge(line, gatePath string) (*shownCertificate, error) {
	c, err := keys.ParseCertificate(line)
	if err != nil {
		return nil, err
	}
	r := &shownCertificate{
		Principals: append([]string{}, c.Principals...), Key: c.Key, Authority: c.Authority, ID: c.ID, Serial: strconv.FormatUint(c.Serial, 10),
		ValidFrom: c.After.Format(time.RFC3339), Options: []pair{}, Extensions: append([]string{}, c.Extensions...), parsed: c,
	}
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		r.Options = append(r.Options, pair{name, c.Options[name]})
	}
	now := time.Now()
	if r.Identity, err = gate.JudgeCertificate(line, gatePath, now); err != nil {
		r.Fault = err.Error()
	}
	r.Good = err == nil
	if c.Before.IsZero() {
		r.warn("it never ends: have one signed that does (--valid), so that one which is lost is soon nothing")
	} else {
		r.ValidUntil = c.Before.Format(time.RFC3339)
		if c.Before.Sub(c.After) > keys.MaxLife+day {
			r.warn("it is good for %d days: have one signed for a shorter time", c.Before.Sub(c.After)/day)
		}
	}
	if len(c.Extensions) > 0 {
		r.warn("it has extensions, which a gate has no use for: on a host without kido's part in sshd's configuration they would count")
	}
	return r, nil
}

func (r *shownCertificate) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// trust says what the hosts, by the site's keys, make of it.
func (r *shownCertificate) trust(ring *install.Keyring) {
	has := func(all []install.Key, fingerprint string) bool {
		return slices.ContainsFunc(all, func(k install.Key) bool { return k.Fingerprint == fingerprint })
	}
	switch {
	case has(ring.Revoked, r.Key):
		r.refuse("its key is revoked (keys/revoked)")
	case has(ring.Revoked, r.Authority):
		r.refuse("the authority that signed it is revoked (keys/revoked)")
	case !has(ring.Authorities, r.Authority):
		r.warn("the site does not trust who signed it: put the authority's .pub file into keys/%s, then: kido enroll", install.AuthoritiesFolder)
	}
}

func (r *shownCertificate) refuse(fault string) {
	if r.Good {
		r.Good, r.Fault = false, fault
	}
}

// write is for people; what a certificate holds is shown as it cannot be taken
// for anything else.
func (r *shownCertificate) write(w io.Writer) {
	line := func(name, value string) { fmt.Fprintf(w, "%-12s%s\n", name, value) }
	shown := func(all []string) string {
		quoted := make([]string, len(all))
		for i, s := range all {
			quoted[i] = wire.Quote(s)
		}
		return strings.Join(quoted, ", ")
	}
	line("file", r.File)
	line("who", shown(r.Principals))
	line("key", r.Key)
	line("signed by", r.Authority)
	line("id", wire.Quote(r.ID)+", serial number "+r.Serial)
	until := "for ever"
	if !r.parsed.Before.IsZero() {
		until = "until " + r.parsed.Before.Format(certificateTime)
	}
	line("valid", "from "+r.parsed.After.Format(certificateTime)+", "+until)
	for _, o := range r.Options {
		line("only", wire.Quote(o.Name)+" "+wire.Quote(o.Value))
	}
	if len(r.Extensions) > 0 {
		line("extensions", shown(r.Extensions))
	}
	if r.Good {
		line("judged", "a gate takes it, as "+r.Identity)
	} else {
		line("judged", "a gate refuses it: "+r.Fault)
	}
}

// warnOfCertificate warns of the end of the certificate that this machine comes
// with.
func (a *app) warnOfCertificate(s *site.Site) {
	if err := certificateFault(s.Identity, time.Now()); err != nil && !a.quiet {
		a.warn([]error{err})
	}
}

// certificateFault is what there is to say of the certificate of an identity:
// nothing where there is none, or a good one. What is left of it is little in its
// last week, or last third where it is a short one.
func certificateFault(identity string, now time.Time) error {
	file := remote.CertificateFile(identity)
	if _, err := os.Lstat(file); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	text, err := readKey(file)
	if err != nil {
		return err
	}
	c, err := keys.ParseCertificate(text)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", file, err)
	case c.Before.IsZero():
		return nil
	case !now.Before(c.Before):
		return fmt.Errorf("the certificate %s ended on %s: have it signed anew (kido keys sign); until then only the key itself is shown", file, c.Before.Format(certificateTime))
	case c.Before.Sub(now) < min(7*day, c.Before.Sub(c.After)/3):
		return fmt.Errorf("the certificate %s ends on %s: have it signed anew (kido keys sign)", file, c.Before.Format(certificateTime))
	}
	return nil
}
