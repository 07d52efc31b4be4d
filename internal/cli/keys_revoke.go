package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kido/internal/failpoint"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/site"
)

func (a *app) keysRevoke() *cobra.Command {
	var e enrolment
	var within time.Duration
	c := &cobra.Command{
		Use:   "revoke KEY",
		Short: "let a key do nothing anywhere, from now on",
		Long: `Put a key among the revoked ones (keys/revoked beside the site file), take it
out of the others there, and enrol every host of the site with that, all at
once: each host's sshd refuses the key from then on, and its gate no longer
knows it.

A KEY is a HOST, people/NAME or authorities/NAME, which mean all keys that they
have, and of an authority all that it has signed; a fingerprint; or a file of a
public key, FILE.pub.

A host that does not answer holds up no other, and is named at the end: the same
command completes it, and so does kido enroll. At a terminal, hosts that ask for
a password are tried again after all others, one by one.

sshd does not end sessions of the key that are open; at a host, pkill -u kido
does. A gate that was at work already when its policy changed still does what it
is asked: one request, which must have come within 15 seconds. Every later one
is refused, on a connection that was open as well.

What was put into key files by hand, for plain services, is to be taken out by
hand.`,
		Example: "  kido keys revoke db1\n  kido keys revoke people/ann\n  kido keys revoke SHA256:uNiVztksCsDhcc0u9e8BrJQXVUpKZIDTMczCvj3tD2s",
		Args:    exactly(1, "KEY"),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			return a.revoke(c.Context(), s, args[0], &e, within)
		},
		ValidArgsFunction: a.completeHosts,
	}
	e.flags(c)
	c.Flags().DurationVar(&within, "within", 2*time.Minute, "give a host up after this `time`")
	return c
}

// place is what became of something at one host.
type place struct {
	Host string `json:"host"`
	Done bool   `json:"done"`
	Why  string `json:"why,omitempty"` // not
}

// say prints a place as a line.
func (a *app) sayPlace(p place, done, not string) {
	if a.json() {
		return
	}
	if p.Done {
		fmt.Fprintf(a.text(), "%s: %s\n", p.Host, done)
		return
	}
	fmt.Fprintf(a.stderr, "kido: %s: %s: %s\n", p.Host, not, p.Why)
}

// undone names the hosts where it is not done yet.
func undone(all []place) (names []string) {
	for _, p := range all {
		if !p.Done {
			names = append(names, p.Host)
		}
	}
	return names
}

func (a *app) revoke(ctx context.Context, s *site.Site, what string, e *enrolment, within time.Duration) error {
	hosts, err := gatedHosts(s, nil)
	if err != nil {
		return err
	}
	publics, name, err := findKeys(ringOf(s), what)
	if err != nil {
		return err
	}
	done, err := e.open(s, hosts)
	if err != nil {
		return err
	}
	defer done()
	if err := revokeKeys(e.ring, "revoked", name, publics...); err != nil {
		return fmt.Errorf("cannot revoke it, and nothing was changed at any host: %w", err)
	}
	var fingerprints []string
	for _, public := range publics {
		fingerprint, err := keys.Fingerprint(public)
		if err != nil {
			return err
		}
		fingerprints = append(fingerprints, fingerprint)
		if !a.json() {
			fmt.Fprintf(a.text(), "revoked: %s (%s)\n", fingerprint, name)
		}
	}
	e.later = true // keys change, and nothing is restarted for that
	places := a.together(ctx, s, hosts, e, within)
	if term.IsTerminal(int(a.stdin.Fd())) && ctx.Err() == nil {
		a.oneByOne(ctx, s, e, places)
	}
	for _, p := range places {
		a.sayPlace(p, "done", "not done")
	}
	a.warn(a.afterRevoking(s, publics))
	if a.json() {
		if err := a.writeJSON(map[string]any{"revoked": fingerprints, "name": name, "hosts": places}); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return interrupted()
	}
	if left := undone(places); len(left) > 0 {
		return &failure{
			status: exitIncomplete,
			err:    fmt.Errorf("the key may still be taken at %s of %d: %s", count(len(left), "host", ""), len(hosts), strings.Join(left, ", ")),
			hint:   "the same command completes it, and so does kido enroll",
		}
	}
	return nil
}

// afterRevoking is what remains to be done by hand.
func (a *app) afterRevoking(s *site.Site, publics []string) (warnings []error) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Errorf(format, args...)) }
	warn("sessions of the key that are open stay so until their end; their gates refuse what they are asked from now on. To end them at a host: pkill -u kido")
	if pair, err := keys.LoadRotation(s.Identity); err == nil && slices.ContainsFunc(publics, func(p string) bool { return blob(p) == blob(pair.Current) }) {
		warn("this is the key of this machine: nothing is reached from here until it has another: kido keys rotate")
	}
	return append(warnings, plainLines(s)...)
}

// plainLines says where a key may be let in that kido cannot take out.
func plainLines(s *site.Site) []error {
	var hosts []string
	for _, v := range s.Services {
		if v.Adapter.Kind == site.KindPlain {
			hosts = append(hosts, v.Hosts...)
		}
	}
	if len(hosts) == 0 {
		return nil
	}
	slices.Sort(hosts)
	return []error{fmt.Errorf("kido installs nothing for plain services: where the key was put there, take its line out of the key files there by hand: %s", strings.Join(slices.Compact(hosts), ", "))}
}

// together enrols hosts all at once, each within a time, and asks nobody for
// anything. Nothing is brought home: no host has something new.
func (a *app) together(ctx context.Context, s *site.Site, hosts []*site.Host, e *enrolment, within time.Duration) []place {
	places := make([]place, len(hosts))
	var all sync.WaitGroup
	for n, h := range hosts {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			one := *e
			one.words, one.said = &lastWords{}, func(*site.Host, install.Result) {}
			_, _, err := a.enrollOne(ctx, s, h, &one, 0)
			places[n] = placeOf(h, err)
		})
	}
	all.Wait()
	return places
}

func placeOf(h *site.Host, err error) place {
	if err != nil {
		return place{Host: h.Name, Why: err.Error()}
	}
	return place{Host: h.Name, Done: true}
}

// oneByOne tries again where somebody may have to type a password.
func (a *app) oneByOne(ctx context.Context, s *site.Site, e *enrolment, places []place) {
	one := *e
	one.said = func(*site.Host, install.Result) {}
	for n, p := range places {
		if p.Done || ctx.Err() != nil || strings.Contains(p.Why, context.DeadlineExceeded.Error()) {
			continue
		}
		h := s.Host(p.Host)
		_, _, err := a.enrollOne(ctx, s, h, &one, 0)
		places[n] = placeOf(h, err)
	}
}

// ---- the ring, as files -----------------------------------------------------------

// Where public keys are in the ring, and those that may do nothing any more.
var ringFolders = []string{"", "people/", "authorities/"}

// keyLines reads the lines of a file of public keys; one that is not there has
// none.
func keyLines(file string) ([]string, error) {
	text, err := readRingFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return slices.Collect(strings.Lines(text)), nil
}

// readRingFile reads a file of the ring whole, or fails; what is none, as a FIFO,
// holds nobody.
func readRingFile(file string) (string, error) {
	const most = 1 << 20 // bytes: hosts take no more either
	text, _, err := keys.ReadSmall(file, most+1)
	if err == nil && len(text) > most {
		err = fmt.Errorf("%s is larger than %d bytes", file, most)
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the public keys: %w", err)
	}
	return string(text), nil
}

// keyIn is the public key of a line, without the options in front; "" where the
// line holds none.
func keyIn(line string) string {
	fields := strings.Fields(line)
	if len(fields) == 0 || fields[0][0] == '#' {
		return ""
	}
	for n := range fields {
		public := strings.Join(fields[n:], " ")
		if _, err := keys.Fingerprint(public); err == nil {
			return public
		}
	}
	return ""
}

// blob is the key itself, without its comment: equal for equal keys.
func blob(public string) string {
	fields := strings.Fields(public)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

// revokedKeys are the lines of the file of revoked keys.
type revokedKeys []string

func loadRevoked(ring string) (revokedKeys, error) {
	return keyLines(filepath.Join(ring, install.RevokedFile))
}

func (r revokedKeys) has(public string) bool {
	return slices.ContainsFunc(r, func(line string) bool { return blob(keyIn(line)) == blob(public) })
}

// of are the keys that were revoked under a name.
func (r revokedKeys) of(name string) (publics []string) {
	title := false
	for _, line := range r {
		switch public := keyIn(line); {
		case public == "":
			title = strings.HasPrefix(line, "# revoked ") && strings.HasSuffix(strings.TrimSpace(line), ": "+name)
		case title:
			publics = append(publics, public)
		}
	}
	return publics
}

// findKeys finds the keys that a word means: those of a name in the ring, or
// that were revoked under it before; one by its fingerprint; or the one in a file.
func findKeys(ring, what string) (publics []string, name string, err error) {
	revoked, err := loadRevoked(ring)
	if err != nil {
		return nil, "", err
	}
	folder, base := filepath.Split(what)
	switch {
	case strings.HasPrefix(what, "SHA256:"):
		public, name, err := findFingerprint(ring, revoked, what)
		return []string{public}, name, err
	case strings.HasSuffix(what, ".pub"):
		text, err := readKey(what)
		if err != nil {
			return nil, "", err
		}
		if _, err := keys.Fingerprint(text); err != nil {
			return nil, "", usageError("", "%s: %w", what, err)
		}
		return []string{strings.TrimSpace(text)}, filepath.Base(what), nil
	case !slices.Contains(ringFolders, folder) || base == "":
		return nil, "", usageError("say: HOST, people/NAME, authorities/NAME, SHA256:…, or a FILE.pub", "no keys are kept as %q", what)
	}
	lines, err := keyLines(filepath.Join(ring, what+".pub"))
	if err != nil {
		return nil, "", err
	}
	for _, line := range append(lines, revoked.of(what)...) {
		if public := keyIn(line); public != "" && !slices.ContainsFunc(publics, func(p string) bool { return blob(p) == blob(public) }) {
			publics = append(publics, public)
		}
	}
	if len(publics) == 0 {
		return nil, "", usageError("kido keys list shows what is known", "no key of %s is known: %s is not there, or holds none", what, filepath.Join(ring, what+".pub"))
	}
	return publics, what, nil
}

func findFingerprint(ring string, revoked revokedKeys, fingerprint string) (public, name string, err error) {
	is := func(line string) bool {
		public = keyIn(line)
		found, err := keys.Fingerprint(public)
		return err == nil && found == fingerprint
	}
	files, err := ringFiles(ring)
	if err != nil {
		return "", "", err
	}
	for _, file := range files {
		lines, err := keyLines(file)
		if err != nil {
			return "", "", err
		}
		if slices.ContainsFunc(lines, is) {
			name, err := filepath.Rel(ring, file)
			return public, strings.TrimSuffix(name, ".pub"), err
		}
	}
	if slices.ContainsFunc(revoked, is) {
		return public, install.RevokedFile, nil
	}
	return "", "", usageError("give the file of the public key instead: kido keys revoke FILE.pub", "no key with the fingerprint %s is known here", fingerprint)
}

func ringFiles(ring string) (files []string, err error) {
	for _, folder := range ringFolders {
		some, err := filepath.Glob(filepath.Join(ring, folder, "*.pub"))
		if err != nil {
			return nil, err
		}
		files = append(files, some...)
	}
	return files, nil
}

// revokeKeys puts keys among the revoked ones, then takes them out of the
// others: whoever reads the ring in between finds that they may do nothing. how
// and name say why they are there. It may be done again.
func revokeKeys(ring, how, name string, publics ...string) error {
	if err := os.MkdirAll(ring, 0o755); err != nil {
		return err
	}
	unlock, err := lockFolder(ring)
	if err != nil {
		return err
	}
	defer unlock()
	revoked, err := loadRevoked(ring)
	if err != nil {
		return err
	}
	text := strings.Join(revoked, "")
	for _, public := range publics {
		if !revoked.has(public) {
			if text != "" && !strings.HasSuffix(text, "\n") {
				text += "\n"
			}
			text += fmt.Sprintf("# %s on %s: %s\n%s\n", how, time.Now().UTC().Format(time.DateOnly), name, public)
		}
	}
	if _, err := replaceFile(filepath.Join(ring, install.RevokedFile), text); err != nil {
		return err
	}
	failpoint.Hit("cli.revoked")
	files, err := ringFiles(ring)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := takeOut(file, publics); err != nil {
			return err
		}
	}
	failpoint.Hit("cli.taken-out")
	return nil
}

// lockFolder waits until nobody else works at a folder: of two who read a file,
// add to it and write it one would undo what the other did. It is held for no
// longer than that takes.
func lockFolder(path string) (unlock func(), err error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { d.Close() }, nil
}

// takeOut takes keys out of a file, and the file away where no other is left.
func takeOut(file string, publics []string) error {
	lines, err := keyLines(file)
	if err != nil {
		return err
	}
	var kept []string
	others := false
	for _, line := range lines {
		public := keyIn(line)
		if public != "" && slices.ContainsFunc(publics, func(p string) bool { return blob(p) == blob(public) }) {
			continue
		}
		kept = append(kept, line)
		others = others || public != ""
	}
	switch {
	case len(kept) == len(lines):
		return nil
	case !others:
		return removeFile(file)
	}
	_, err = replaceFile(file, strings.Join(kept, ""))
	return err
}
