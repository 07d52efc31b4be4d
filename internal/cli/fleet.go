package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/install"
	"kido/internal/keys"
	"kido/internal/plan"
	"kido/internal/probe"
	"kido/internal/probe/netprobe"
	"kido/internal/remote"
	"kido/internal/run"
	"kido/internal/site"
	"kido/internal/wire"
)

// answerTime is what a gate may take beside init jobs: waiting for its lock,
// probing, settling. The jobs may be three: one that somebody else began, one that
// an earlier request left behind, and its own.
const answerTime = 60 * time.Second

// fleet reaches the gate of every host: over SSH, directly on this machine, or,
// for a plain service, one that runs inside this process with its record here.
type fleet struct {
	site   *site.Site
	ssh    *remote.Client
	here   string // the host that this machine is; "" for none
	told   bool   // it was said which, be it none
	gate   string // this machine's gate program
	policy string // and its policy file
	plain  *os.Root
	prober probe.Prober
}

// open readies a fleet; nothing is connected yet.
func (a *app) open(s *site.Site) (*fleet, error) {
	here, err := a.hereOf(s)
	if err != nil {
		return nil, err
	}
	f := &fleet{site: s, here: here, told: a.here != "", policy: a.gatePolicy(), prober: netprobe.Prober{}}
	if here != "" {
		if f.gate, err = findGate(f.policy == gate.DefaultPolicy); err != nil {
			return nil, err
		}
	}
	pins, err := remote.LoadPins(s.KnownHosts)
	switch {
	case errors.Is(err, os.ErrNotExist):
		pins, err = remote.ParsePins(nil, s.KnownHosts) // every host but this one then says how to pin it
	case err != nil:
		return nil, usageError("mend or remove that line; kido keys pin HOST FILE writes a good one", "pinned host keys: %w", err)
	}
	if _, serr := os.Stat(s.Identity); err == nil && errors.Is(serr, os.ErrNotExist) {
		return nil, usageError("kido enroll makes it, and sets the hosts up for it; by hand: kido keys new, then its line for each host: kido keys line HOST", "the site's key is not there: %s", s.Identity)
	}
	if err == nil {
		f.ssh, err = remote.New(remote.Config{Identity: s.Identity, HostKeys: pins})
	}
	if err != nil {
		hint := "name another key in the site file (identity), or move this one away and make one: kido keys new"
		if re, ok := errors.AsType[*remote.Error](err); ok && re.Hint != "" {
			hint = re.Hint
		}
		return nil, usageError(hint, "%w", err)
	}
	if err := keys.Matches(s.Identity); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.warn([]error{fmt.Errorf("%w: a host lets in the one that was brought there: ssh-keygen -y -f %s prints the public half", err, s.Identity)})
	}
	if dir, err := a.state(); err != nil {
		return nil, err
	} else if f.plain, err = plainRoot(dir); err != nil {
		return nil, err
	}
	return f, nil
}

// unpinned is what to do about a host of which no key is pinned, where this machine has
// some addresses: one that it is itself needs none.
func (f *fleet) unpinned(v *site.Service, host string, own []net.Addr) string {
	at := net.ParseIP(f.site.Host(host).Address)
	has := func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(at) && !at.IsLoopback()
	}
	if plain := v != nil && v.Adapter.Kind == site.KindPlain; !plain && !f.told && f.here == "" && slices.ContainsFunc(own, has) {
		return fmt.Sprintf("%s is this machine's own address: if it is %[2]s, say so: --here %[2]s (kido install --here %[2]s sets it up)", at, host)
	}
	return fmt.Sprintf("carry its /etc/ssh/ssh_host_ed25519_key.pub here by a way that you trust, then: kido keys pin %s FILE", host)
}

func plainRoot(state string) (*os.Root, error) {
	dir := filepath.Join(state, "plain")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// findGate finds the program of a gate: the one that was built with this kido, or, for
// the policy that was installed, rather the one that was installed with it. The gate's
// user can run that, and may not be able to where somebody has built kido.
func findGate(installed bool) (string, error) {
	places := []string{install.GateProgram, "/usr/sbin/kido-gate"}
	if self, err := os.Executable(); err == nil {
		at := 0
		if installed {
			at = len(places)
		}
		places = slices.Insert(places, at, filepath.Join(filepath.Dir(self), "kido-gate"))
	}
	for _, path := range places {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", usageError("install it at /usr/local/sbin/kido-gate, or reach this host over SSH: --here none", "this machine's gate, kido-gate, is not to be found")
}

func (f *fleet) close() {
	f.ssh.Close()
	f.plain.Close()
}

// Call is a [run.Caller].
func (f *fleet) Call(ctx context.Context, host string, q wire.Request) (wire.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*q.Timeout+answerTime)
	defer cancel()
	if host == "" {
		return f.probed(ctx, q)
	}
	v := f.site.Service(q.Service)
	switch {
	case v != nil && v.Adapter.Kind == site.KindPlain:
		return f.plainCall(ctx, v, host, q)
	case host == f.here:
		return f.local(ctx, q)
	}
	timeout := time.Duration(0)
	if v != nil {
		timeout = v.Timeout.Connect
	}
	r, err := f.ssh.Call(ctx, f.site.Host(host), q, timeout)
	return r, f.callError(v, host, err)
}

func (f *fleet) callError(v *site.Service, host string, err error) error {
	re, ok := errors.AsType[*remote.Error](err)
	if !ok {
		return err
	}
	hint := re.Hint
	if re.Kind == remote.KindHostKeyUnknown {
		own, _ := net.InterfaceAddrs() // without them it is as if it were any machine
		hint = f.unpinned(v, host, own)
	}
	return &run.CallError{Err: re, Hint: hint, Final: !re.Temporary(), Unsent: !re.Sent}
}

// local runs this machine's gate as a child: the same program and the same
// policy as behind a key, with what this user may do.
func (f *fleet) local(ctx context.Context, q wire.Request) (wire.Reply, error) {
	cmd := exec.Command(f.gate, "--policy", f.policy)
	cmd.Env = []string{} // nothing that says SSH
	cmd.Stdin = bytes.NewReader(q.Format())
	// Ctrl-C is for kido, which then waits for its gates.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// A gate is never ended from here, no more than over SSH: it ends by itself,
	// and sees to what it has begun.
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := cmd.Output()
		done <- result{out, err}
	}()
	var out []byte
	var err error
	select {
	case r := <-done:
		out, err = r.out, r.err
	case <-ctx.Done():
		return wire.Reply{}, fmt.Errorf("%s: the gate of this machine did not answer in time", f.here)
	}
	if r, perr := wire.ParseReply(out); perr == nil {
		return r, nil
	}
	fault := &run.CallError{Err: fmt.Errorf("%s: the gate of this machine did not answer: %v", f.here, err)}
	if exit, ran := errors.AsType[*exec.ExitError](err); !ran || exit.Exited() {
		fault.Final = true // it was not ended from outside: it would do the same again
		fault.Hint = fmt.Sprintf("is its policy good? %s --check --policy %s", f.gate, f.policy)
	}
	return wire.Reply{}, fault
}

// probed answers a VerbProbe from here: by the probes that a run asks itself.
func (f *fleet) probed(ctx context.Context, q wire.Request) (wire.Reply, error) {
	service, host, _ := strings.Cut(q.Service, "@")
	a := f.try(ctx, site.Instance{Service: service, Host: host}, site.FromRunner)
	return wire.Reply{Code: wire.CodeOK, Status: &wire.Status{
		Instance: q.Service, State: wire.StateBlind, Settled: true, Ready: a.Ready, Degraded: a.Degraded, Word: a.Word,
	}}, nil
}

// try makes one try, from here, of the probes of an instance that are for a place.
func (f *fleet) try(ctx context.Context, i site.Instance, from site.ProbeFrom) probe.Answer {
	probes := install.Probes(f.site, f.site.Service(i.Service), i.Host, from)
	answers := make([]probe.Answer, 0, len(probes))
	for _, p := range probes {
		a := f.prober.Try(ctx, p)
		answers = append(answers, a)
		if !a.Ready {
			break
		}
	}
	return probe.Together(probes, answers)
}

// plainCall is the gate of a service whose key runs one fixed command: the
// record of what it was started against is kept at the runner.
func (f *fleet) plainCall(ctx context.Context, v *site.Service, host string, q wire.Request) (wire.Reply, error) {
	i := site.Instance{Service: v.Name, Host: host}
	unit := &plainUnit{ssh: f.ssh, host: f.site.Host(host), svc: v}
	instance := gate.Instance{
		Name: i.String(), Key: i.String(), Dir: f.plain, Timeout: v.Timeout.Start,
		Unit: unit,
		Ask: func(ctx context.Context, _ gate.Ask) gate.Asked {
			a := f.try(ctx, i, site.FromHost)
			return gate.Asked{Ready: a.Ready, Degraded: a.Degraded, Word: a.Word}
		},
	}
	r := instance.Do(ctx, q)
	if unit.fault != nil {
		// The connection's own error says more than a gate's words about it:
		// what to do, and whether to try again.
		return wire.Reply{}, f.callError(v, host, unit.fault)
	}
	return r, nil
}

// observe asks for the status of instances, all at once, within a time.
func (f *fleet) observe(ctx context.Context, instances []site.Instance, within time.Duration) plan.Observed {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := plan.Observed{}
	for _, i := range instances {
		wg.Go(func() {
			var o plan.Observation
			q := wire.Request{Verb: wire.VerbStatus, Service: i.Service, Held: true}
			r, err := f.Call(ctx, i.Host, q)
			if err == nil && r.Code == wire.CodeInvalid { // a gate of before does not count them
				q.Held = false
				r, err = f.Call(ctx, i.Host, q)
			}
			switch {
			case err != nil:
				o.Err = err.Error()
			case r.Code != wire.CodeOK || r.Status == nil:
				o.Err = fmt.Sprintf("%s: %s", r.Code, r.Word)
			default:
				o.Status = r.Status
			}
			mu.Lock()
			defer mu.Unlock()
			seen[i] = o
		})
	}
	wg.Wait()
	return seen
}

// sight is why an instance's own host, or the runner, finds upstreams of it not ready.
type sight map[site.Instance]string

func (s sight) why(u site.Instance) string { return s[u] }

// sights are those of several instances.
type sights map[site.Instance]sight

// sights asks the hosts of the instances that owe a reaction what they see of their
// upstreams, where a probe is to be asked from there, and this one likewise: it may be
// why nothing happens.
func (f *fleet) sights(ctx context.Context, topo *plan.Topology, instances []site.Instance, seen plan.Observed) sights {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	type question struct {
		host     string // "": the runner
		upstream site.Instance
	}
	asked := map[question][]site.Instance{} // once, however many wait for the answer
	for _, d := range instances {
		need := topo.Need(d, func(u site.Instance) plan.Observation { return seen[u] }, nil)
		if len(need.Debts) == 0 {
			continue
		}
		for _, u := range topo.ProbedFrom(d, site.FromRunner) {
			asked[question{"", u}] = append(asked[question{"", u}], d)
		}
		if f.site.Service(d.Service).Adapter.Kind == site.KindPlain {
			continue // nothing there can probe
		}
		for _, u := range topo.ProbedFrom(d, site.FromDependent) {
			asked[question{d.Host, u}] = append(asked[question{d.Host, u}], d)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := sights{}
	for q, dependents := range asked {
		wg.Go(func() {
			r, err := f.Call(ctx, q.host, wire.Request{Verb: wire.VerbProbe, Service: q.upstream.String()})
			if err != nil || r.Code != wire.CodeOK || r.Status == nil || r.Status.Ready {
				return // who may not ask is no wiser than before
			}
			mu.Lock()
			defer mu.Unlock()
			for _, d := range dependents {
				if all[d] == nil {
					all[d] = sight{}
				}
				if _, told := all[d][q.upstream]; !told || q.host == "" {
					all[d][q.upstream] = "as seen from " + cmp.Or(q.host, "the runner") + ": " + r.Status.Word
				}
			}
		})
	}
	wg.Wait()
	return all
}

// plainUnit is a unit of which only the exit status of its one command is known.
type plainUnit struct {
	ssh   *remote.Client
	host  *site.Host
	svc   *site.Service
	fault *remote.Error // why it could not be run
}

// Observe is [initsys.Unit].
func (*plainUnit) Observe(context.Context) (initsys.Observation, error) {
	return initsys.Observation{State: initsys.Blind}, nil
}

// Prepare is [initsys.Unit]; whatever is asked for, the key runs its command,
// so only what that command does is accepted.
func (u *plainUnit) Prepare(_ context.Context, do initsys.Action) (initsys.Job, error) {
	if string(do) != string(u.svc.Adapter.Action) {
		return nil, fmt.Errorf("its key runs one command, a %s: %w", u.svc.Adapter.Action, initsys.ErrUnsupported)
	}
	return &plainJob{plainUnit: u}, nil
}

// plainJob runs the one command.
type plainJob struct {
	*plainUnit
	output string
}

func (*plainJob) Child() (initsys.Child, bool) { return initsys.Child{}, false }

// Go does nothing: the command begins with the wait for its end, whose time
// bounds it.
func (*plainJob) Go() error { return nil }

func (j *plainJob) Wait(ctx context.Context) error {
	exit, output, err := j.ssh.Plain(ctx, remote.Target{
		Name: j.host.Name, Address: j.host.Address, Port: j.host.Port, User: j.svc.Adapter.User, Key: j.svc.Adapter.Key,
	}, j.svc.Timeout.Connect)
	j.output = output
	j.fault, _ = errors.AsType[*remote.Error](err)
	if err == nil && exit != 0 {
		err = fmt.Errorf("the command ended with status %d", exit)
	}
	return err
}

func (j *plainJob) Output() string { return j.output }

func (*plainJob) Close() error { return nil }
