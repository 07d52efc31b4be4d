package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"kido/internal/failpoint"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/remote"
	"kido/internal/site"
	"kido/internal/wire"
)

func (a *app) keysRotate() *cobra.Command {
	var e enrolment
	var abandon bool
	var step string
	c := &cobra.Command{
		Use:   "rotate [HOST…]",
		Short: "put another key in the place of one, without a gap",
		Long: `Give this machine another key, or, with HOST, give each of them another key to
announce with. In order:

  1. the next key is made beside the one in use (IDENTITY.next);
  2. both are let in by all hosts that the key reaches (as kido enroll does);
  3. the next key is used at each of these: it asks the gate for a status;
  4. once it was taken by all, it takes the place of the old one, whose private
     half is gone after that;
  5. the old public key goes among the revoked ones, and all hosts are told.

Where a host cannot be reached nothing is removed: the old key stays in use, and
the end says where the next one is not taken yet (exit status 3). The same
command goes on, whenever and wherever it was cut off. --abandon gives the next
key up instead.

Nothing is announced or restarted. A plain service runs its one command for
whoever comes, so there the next key only logs in; its line is put there, and
the old one taken away, by hand.

--step is what this does at HOST, over your own ssh, with the kido that is
installed there; it touches nothing but the files beside the key.`,
		Example: "  kido keys rotate\n  kido keys rotate db1 db2 --to 'admin@%h'\n  kido keys rotate db1 --abandon",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			if step != "" {
				if len(args) > 0 || abandon {
					return usageError("", "--step is of this machine alone, and one at a time")
				}
				return a.rotationStep(c.Context(), s, step)
			}
			return a.rotateAll(c.Context(), s, args, &e, abandon)
		},
		ValidArgsFunction: a.completeHosts,
	}
	e.flags(c)
	e.fromFlag(c)
	c.Flags().BoolVar(&abandon, "abandon", false, "give the next key up, and keep the old one")
	c.Flags().StringVar(&step, "step", "", "one `step`, on this machine only: "+strings.Join(steps(), ", "))
	return c
}

// The steps of a change of one key pair, at the machine that has it.
const (
	stepLook    = "look"    // say how far it is
	stepBegin   = "begin"   // make the next key
	stepTry     = "try"     // use it wherever the key leads
	stepFinish  = "finish"  // put it in the place of the old one
	stepAbandon = "abandon" // or give it up
	stepClose   = "close"   // what is out of use is revoked everywhere
)

func steps() []string {
	return []string{stepLook, stepBegin, stepTry, stepFinish, stepAbandon, stepClose}
}

// stepResult is what a step says.
type stepResult struct {
	keys.Rotation
	Tried []place `json:"tried,omitempty"` // where the next key was taken, and why not
}

// rotationStep does one step for the key of this machine and says how far it is.
func (a *app) rotationStep(ctx context.Context, s *site.Site, step string) error {
	here, err := a.hereOf(s)
	if err != nil {
		return err
	}
	unlock, err := keys.LockRotation(s.Identity)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := a.step(ctx, s, step, waysFrom(s, here))
	if err != nil {
		return err
	}
	if a.json() {
		if err := a.writeJSON(r); err != nil {
			return err
		}
	} else {
		for _, line := range []struct{ what, public string }{{"in use", r.Current}, {"next", r.Next}, {"out of use", r.Old}} {
			if line.public != "" {
				fmt.Fprintf(a.text(), "%-10s %s\n", line.what, line.public)
			}
		}
		a.sayTried(r.Tried)
	}
	if left := undone(r.Tried); len(left) > 0 {
		return &failure{status: exitIncomplete, err: fmt.Errorf("the next key is not taken yet at %s", strings.Join(left, ", "))}
	}
	return nil
}

func (a *app) sayTried(all []place) {
	for _, p := range all {
		a.sayPlace(p, "takes the next key", "does not take the next key yet")
	}
}

// step does one step for the key of this machine, which leads along ways.
func (a *app) step(ctx context.Context, s *site.Site, step string, ways []way) (r stepResult, err error) {
	if _, err := publicKey(s.Identity); err != nil {
		return r, err
	}
	switch step {
	case stepLook:
		r.Rotation, err = keys.LoadRotation(s.Identity)
	case stepBegin:
		r.Rotation, err = keys.BeginRotation(s.Identity)
	case stepTry:
		if r.Rotation, err = keys.LoadRotation(s.Identity); err == nil && r.Next == "" {
			err = usageError("begin with one: kido keys rotate", "there is no next key to be tried")
		}
		if err == nil {
			r.Tried, err = tryNext(ctx, s, ways)
		}
	case stepFinish:
		r.Rotation, err = keys.FinishRotation(s.Identity)
	case stepAbandon:
		r.Rotation, err = keys.AbandonRotation(s.Identity)
	case stepClose:
		r.Rotation, err = keys.CloseRotation(s.Identity)
	default:
		err = usageError("there are: "+strings.Join(steps(), ", "), "no such step: %q", step)
	}
	return r, err
}

// way is one place that a key leads to: the gate of a host, or a plain service's
// key file there.
type way struct {
	host    *site.Host
	service *site.Service
}

// waysFrom lists the ways of the key of a machine: of the host here those that
// its announcements go, of any other machine all of the site.
func waysFrom(s *site.Site, here string) (ways []way) {
	instances := install.Reach(s, here)
	if here == "" {
		for _, v := range s.Services {
			instances = append(instances, v.Instances()...)
		}
	}
	seen := map[string]bool{}
	for _, i := range instances {
		v, h := s.Service(i.Service), s.Host(i.Host)
		place := i.Host // one gate
		if v.Adapter.Kind == site.KindPlain {
			place += " " + v.Adapter.User
		}
		switch {
		case seen[place], v.Adapter.Kind == site.KindPlain && v.Adapter.Key != s.Identity, v.Adapter.Kind != site.KindPlain && i.Host == here:
			continue // another key leads there, or none is needed
		}
		seen[place] = true
		ways = append(ways, way{h, v})
	}
	return ways
}

// tryNext uses the next key of this machine along all ways at once, and says where
// it was taken. A gate is asked for a status; to a plain service the key only logs
// in, for it would run its command.
func tryNext(ctx context.Context, s *site.Site, ways []way) ([]place, error) {
	pins, err := remote.LoadPins(s.KnownHosts)
	if errors.Is(err, os.ErrNotExist) {
		pins, err = remote.ParsePins(nil, s.KnownHosts)
	}
	if err != nil {
		return nil, usageError("mend or remove that line", "pinned host keys: %w", err)
	}
	client, err := remote.New(remote.Config{Identity: keys.NextPath(s.Identity), HostKeys: pins})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	tried := make([]place, len(ways))
	var all sync.WaitGroup
	for n, w := range ways {
		all.Go(func() {
			tried[n] = placeOf(w.host, w.try(ctx, client))
		})
	}
	all.Wait()
	return tried, ctx.Err()
}

func (w way) try(ctx context.Context, client *remote.Client) error {
	h, v := w.host, w.service
	if v.Adapter.Kind == site.KindPlain {
		err := client.Login(ctx, remote.Target{Name: h.Name, Address: h.Address, Port: h.Port, User: v.Adapter.User}, v.Timeout.Connect)
		if re, ok := errors.AsType[*remote.Error](err); ok && re.Kind == remote.KindAuth {
			return fmt.Errorf("%w; put the line of the key in use there once more, with the next key (%s.pub) in it", err, keys.NextPath(v.Adapter.Key))
		}
		return err
	}
	r, err := client.Call(ctx, h, wire.Request{Verb: wire.VerbStatus, Service: v.Name}, v.Timeout.Connect)
	if err != nil {
		return err
	}
	switch r.Code {
	case wire.CodeRefused, wire.CodeInvalid, wire.CodeError:
		return fmt.Errorf("its gate says %s: %s", r.Code, oneLine(r.Word))
	}
	return nil // it was let in, and its request was for it to decide
}

// ---- over all machines ---------------------------------------------------------

// holder is a machine that has a key pair of the site.
type holder struct {
	name    string
	file    string       // of its keys in the ring, without its end
	targets []*site.Host // where the key's lines are
	step    func(ctx context.Context, step string) (stepResult, error)
	keep    func(stepResult) error // brings its public keys into the ring
	may     func(public string) bool
}

// rotated is what became of one key pair, as JSON has it.
type rotated struct {
	Of      string  `json:"of"`
	Done    bool    `json:"done"`
	Current string  `json:"current"`        // fingerprints
	Next    string  `json:"next,omitempty"` // made, and not in its place yet
	Old     string  `json:"old,omitempty"`  // out of use
	Hosts   []place `json:"hosts"`          // where Next was tried; with Old, where it is revoked
}

func (a *app) rotateAll(ctx context.Context, s *site.Site, names []string, e *enrolment, abandon bool) error {
	gated, err := gatedHosts(s, nil)
	if err != nil {
		return err
	}
	here, err := a.inPlace(s)
	if err != nil {
		return err
	}
	var holders []*holder
	for _, name := range names {
		if name == here {
			return usageError("it is this machine's own key, which reaches more: kido keys rotate", "%s is this machine", name)
		}
		h, err := a.hostHolder(s, name, e)
		if err != nil {
			return err
		}
		holders = append(holders, h)
	}
	if len(names) == 0 {
		if _, err := publicKey(s.Identity); err != nil {
			return err
		}
		unlock, err := keys.LockRotation(s.Identity)
		if err != nil {
			return err
		}
		defer unlock()
		own, err := a.ownHolder(s, gated, e)
		if err != nil {
			return err
		}
		holders = []*holder{own}
	}
	done, err := e.open(s, gated)
	if err != nil {
		return err
	}
	defer done()
	e.later = true // keys change, and nothing is restarted for that
	if a.json() {
		e.said = func(*site.Host, install.Result) {}
	}
	results := []rotated{}
	failed := map[string]error{}
	for _, h := range holders {
		r, err := a.rotate(ctx, s, h, e, abandon)
		if ctx.Err() != nil {
			return interrupted()
		}
		if err != nil {
			failed[h.name] = err
		}
		results = append(results, r)
	}
	if a.json() {
		if err := a.writeJSON(map[string]any{"keys": results}); err != nil {
			return err
		}
	}
	if len(holders) == 1 {
		return failed[holders[0].name]
	}
	var left []string
	for _, h := range holders {
		if err := failed[h.name]; err != nil {
			fmt.Fprintf(a.stderr, "kido: %s: %v\n", h.name, err)
			left = append(left, h.name)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return notYet("the keys of %s of %d are not changed yet: %s", count(len(left), "host", ""), len(holders), strings.Join(left, ", "))
}

// notYet is a change that cannot be completed now.
func notYet(format string, args ...any) error {
	return &failure{
		status: exitIncomplete, err: fmt.Errorf(format, args...),
		hint: "nothing that is in use was removed; the same command goes on where it was, and --abandon gives the next key up",
	}
}

// inPlace is the host that this machine is where its site file is that of its
// gate, so that it announces with the key with which it works; else "".
func (a *app) inPlace(s *site.Site) (string, error) {
	if file, err := filepath.Abs(s.File); err != nil || file != filepath.Join(etc, "site.yaml") {
		return "", err
	}
	return a.hereOf(s)
}

// ownHolder is this machine.
func (a *app) ownHolder(s *site.Site, targets []*site.Host, e *enrolment) (*holder, error) {
	name, err := ownName()
	if err != nil {
		return nil, err
	}
	return &holder{
		name: "this machine", file: name, targets: targets,
		step: func(ctx context.Context, step string) (stepResult, error) {
			return a.step(ctx, s, step, waysFrom(s, ""))
		},
		keep: func(stepResult) error { return e.keepOwn(a, s) },
		may:  func(string) bool { return true },
	}, nil
}

// hostHolder is a host that announces.
func (a *app) hostHolder(s *site.Site, name string, e *enrolment) (*holder, error) {
	h, err := hostOf(s, name)
	if err != nil {
		return nil, err
	}
	reach := install.Reach(s, h.Name)
	if len(reach) == 0 {
		return nil, usageError("", "%s has no key of its own: no service there is announced to others", h.Name)
	}
	hold := &holder{name: h.Name, file: h.Name}
	gated, err := gatedHosts(s, nil)
	if err != nil {
		return nil, err
	}
	for _, to := range gated {
		if to != h && slices.ContainsFunc(reach, func(i site.Instance) bool { return i.Host == to.Name }) {
			hold.targets = append(hold.targets, to)
		}
	}
	hold.step = func(ctx context.Context, step string) (stepResult, error) {
		r, err := a.stepAt(ctx, h, step, e)
		if err != nil {
			err = notYet("%w", err)
		}
		return r, err
	}
	hold.keep = func(r stepResult) error {
		_, err := a.keepAnnounceKeys(s, h, e.ring, false, r.Current, r.Next)
		return err
	}
	// What a host says of itself may be a lie: it must not have others' keys revoked.
	hold.may = func(public string) bool {
		lines, err := keyLines(filepath.Join(e.ring, hold.file+".pub"))
		return err == nil && slices.ContainsFunc(lines, func(line string) bool { return blob(keyIn(line)) == blob(public) })
	}
	return hold, nil
}

// rotate takes one key pair as far as it comes.
func (a *app) rotate(ctx context.Context, s *site.Site, h *holder, e *enrolment, abandon bool) (out rotated, err error) {
	out = rotated{Of: h.name, Hosts: []place{}}
	r, err := h.step(ctx, stepLook)
	if err != nil {
		return out, err
	}
	defer func() { out.show(r) }()
	revoked, err := loadRevoked(e.ring)
	if err != nil {
		return out, err
	}
	if r.Next != "" && (abandon || revoked.has(r.Next)) {
		if r, err = h.step(ctx, stepAbandon); err != nil {
			return out, err
		}
		a.sayKey(h, "the next key is given up", r.Old)
	}
	switch {
	case r.Old != "": // what is begun is completed first
		if err := a.retire(ctx, s, h, e, &r, &out); err != nil || abandon || !revoked.has(r.Current) {
			return out, err
		}
		out.Done = false
	case abandon:
		if !a.json() {
			fmt.Fprintf(a.text(), "%s: there is no next key\n", h.name)
		}
		out.Done = true
		return out, nil
	}
	if r, err = a.overlap(ctx, s, h, e); err != nil {
		return out, err
	}
	out.Hosts = r.Tried
	if left := undone(r.Tried); len(left) > 0 {
		return out, notYet("the next key is not taken yet at %d of %s: %s", len(left), count(len(r.Tried), "place", ""), strings.Join(left, ", "))
	}
	if r, err = h.step(ctx, stepFinish); err != nil {
		return out, err
	}
	failpoint.Hit("cli.rotate.finished")
	a.sayKey(h, "the next key is in use now", r.Current)
	return out, a.retire(ctx, s, h, e, &r, &out)
}

// show says how far a key pair is, by fingerprints.
func (out *rotated) show(r stepResult) {
	for _, f := range []struct {
		to     *string
		public string
	}{{&out.Current, r.Current}, {&out.Next, r.Next}, {&out.Old, r.Old}} {
		*f.to, _ = keys.Fingerprint(f.public) // "" for none
	}
}

// sayKey tells what became of a key, by its fingerprint.
func (a *app) sayKey(h *holder, what, public string) {
	fingerprint, err := keys.Fingerprint(public)
	if err == nil && !a.json() {
		fmt.Fprintf(a.text(), "%s: %s: %s\n", h.name, what, fingerprint)
	}
}

// overlap lets both keys in everywhere, and tries the next one.
func (a *app) overlap(ctx context.Context, s *site.Site, h *holder, e *enrolment) (stepResult, error) {
	r, err := h.step(ctx, stepBegin)
	if err != nil {
		return r, err
	}
	a.sayKey(h, "the next key", r.Next)
	if err := h.keep(r); err != nil {
		return r, err
	}
	failpoint.Hit("cli.rotate.kept")
	a.rounds(ctx, s, h.targets, e) // where it fails, the next key is not taken
	failpoint.Hit("cli.rotate.enrolled")
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if r, err = h.step(ctx, stepTry); err != nil {
		return r, err
	}
	a.sayTried(r.Tried)
	failpoint.Hit("cli.rotate.tried")
	return r, nil
}

// retire revokes what is out of use, and has all hosts know.
func (a *app) retire(ctx context.Context, s *site.Site, h *holder, e *enrolment, r *stepResult, out *rotated) error {
	revoked, err := loadRevoked(e.ring)
	if err != nil {
		return err
	}
	switch {
	case revoked.has(r.Old) || h.may(r.Old):
		if err := revokeKeys(e.ring, "retired", h.file, r.Old); err != nil {
			return err
		}
	default:
		a.warn([]error{fmt.Errorf("%s: it says that this was its key, and nothing here does, so it is not revoked: %s", h.name, oneLine(r.Old))})
	}
	if err := h.keep(*r); err != nil {
		return err
	}
	failpoint.Hit("cli.rotate.retired")
	failed := a.rounds(ctx, s, h.targets, e)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	out.Hosts = nil
	for _, to := range h.targets {
		out.Hosts = append(out.Hosts, placeOf(to, failed[to.Name]))
	}
	if len(failed) > 0 {
		return &failure{
			status: exitIncomplete,
			err:    fmt.Errorf("the key that is out of use may still be let in at %s: %s", count(len(failed), "host", ""), strings.Join(undone(out.Hosts), ", ")),
			hint:   "its private half is gone; the same command completes it",
		}
	}
	failpoint.Hit("cli.rotate.told")
	old := r.Old
	if *r, err = h.step(ctx, stepClose); err != nil {
		return err
	}
	out.Done = true
	a.sayKey(h, "revoked", old)
	a.warn(plainLines(s))
	return nil
}

var stepFile = regexp.MustCompile(`^/[A-Za-z0-9._/-]+\n$`)

// stepAt does one step at a host, with the kido that is installed there. What it
// answers may be a lie: the keys are checked before they are kept, and of what it
// tried nothing can be known but what it says.
func (a *app) stepAt(ctx context.Context, h *site.Host, step string, e *enrolment) (r stepResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.limit, hostTime))
	defer cancel()
	target := e.target(h)
	// As in installAt: sudo may ask for a password, so the result is a file.
	out, err := e.run(ctx, nil, e.stderr(a), target, "umask 077 && mktemp")
	if err != nil {
		return r, err
	}
	if !stepFile.Match(out) {
		return r, fmt.Errorf("the login there prints something of its own: %q: make it silent where nobody types", cutLine(string(out)))
	}
	file := strings.TrimSpace(string(out))
	defer func() { _ = e.clear(ctx, target, "rm -f "+file) }()
	script := fmt.Sprintf(`if [ "$(id -u)" = 0 ]; then s=; else s=sudo; fi; $s %s keys rotate --site %s/site.yaml --step %s -o json >%s`, install.KidoProgram, etc, step, file)
	failed := e.runTTY(ctx, a, target, script) // also where the next key is not taken everywhere
	text, err := e.run(ctx, nil, e.stderr(a), target, "cat "+file)
	if err != nil {
		return r, errors.Join(failed, err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		if failed != nil {
			return r, fmt.Errorf("kido keys rotate --step %s there: %w; bring a kido that knows it: kido enroll %s", step, failed, h.Name)
		}
		return r, fmt.Errorf("kido keys rotate --step %s there did not say what it did", step)
	}
	for n := range r.Tried {
		r.Tried[n].Host, r.Tried[n].Why = oneLine(r.Tried[n].Host), oneLine(r.Tried[n].Why)
	}
	for _, public := range []string{r.Current, r.Next, r.Old} {
		if public == "" {
			continue
		}
		if _, err := keys.Fingerprint(public); err != nil {
			return r, fmt.Errorf("its public key: %w", err)
		}
	}
	return r, nil
}
