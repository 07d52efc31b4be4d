package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"kido/internal/initsys"
	"kido/internal/probe"
	"kido/internal/wire"
)

// Gate answers for one host, as far as its policy goes.
type Gate struct {
	policy *Policy
	dir    *os.Root
	prober probe.Prober
}

// Open readies a gate. The folder of the state files is made where it is
// missing, and refused where others could write to it, or put another in its
// place. Close gives it back.
func Open(p *Policy, prober probe.Prober) (*Gate, error) {
	if err := os.Mkdir(p.State, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("state folder: %w: make it, for the gate's user and mode 0700", err)
	}
	if err := inspectState(p.State, uint32(os.Geteuid())); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(p.State)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	return &Gate{policy: p, dir: dir, prober: prober}, nil
}

// Close releases the state folder.
func (g *Gate) Close() error { return g.dir.Close() }

// Serve answers one request of who. The policy decides first, and in the same
// words whether or not there is such a service.
func (g *Gate) Serve(ctx context.Context, who Caller, q wire.Request) wire.Reply {
	if err := g.policy.Authorise(who, q.Verb, q.Service); err != nil {
		return wire.Reply{Code: wire.CodeRefused, Word: err.Error()}
	}
	if q.Verb == wire.VerbProbe {
		return g.probe(ctx, q.Service)
	}
	s := g.policy.Service(q.Service)
	q, err := g.policy.bounded(who, q)
	if err != nil { // not refused: the key may take slots, and a proof is to find that out
		return wire.Reply{Code: wire.CodeInvalid, Word: err.Error()}
	}
	if q.Verb == wire.VerbTake || q.Verb == wire.VerbGive || q.Verb == wire.VerbRelease && q.Member != "" {
		return g.keep(ctx, s, q)
	}
	unit, err := g.unit(s)
	if err != nil {
		return wire.Reply{Code: wire.CodeError, Word: err.Error()}
	}
	defer release(unit)
	return g.strayed(ctx, s, unit, q, g.instance(s, unit).Do(ctx, q))
}

// release gives back what a unit holds open.
func release(u initsys.Unit) {
	if c, ok := u.(io.Closer); ok {
		_ = c.Close()
	}
}

func (g *Gate) instance(s *PolicyService, unit initsys.Unit) *Instance {
	return &Instance{
		Name: s.Name + "@" + g.policy.Host, Key: s.Name, Unit: unit, Dir: g.dir, Timeout: g.policy.Timeout,
		Ask: func(ctx context.Context, e Ask) Asked {
			a := g.ask(ctx, s, e.Of)
			if e.Held {
				a.Held = g.held(ctx, s)
			}
			return a
		},
		Count: func(ctx context.Context, lives []wire.Life) (int, error) { return g.stale(ctx, s, lives) },
	}
}

func (g *Gate) unit(s *PolicyService) (initsys.Unit, error) {
	output := filepath.Join(g.policy.State, s.Name+".out")
	switch s.Adapter {
	case adapterExternal:
		return external{}, nil
	case adapterSystemd:
		c := initsys.SystemdConfig{Unit: s.Unit}
		if g.policy.Systemctl != "" {
			c.Systemctl, c.Output = append(slices.Clone(g.policy.Become), g.policy.Systemctl), output
		}
		return initsys.NewSystemd(c)
	case adapterOpenRC:
		return initsys.NewOpenRC(initsys.OpenRCConfig{
			Script: s.Unit, PIDFile: s.PIDFile, Become: g.policy.Become, Output: output,
		})
	case adapterSysV:
		return initsys.NewSysV(initsys.SysVConfig{
			Script: s.Unit, PIDFile: s.PIDFile, Become: g.policy.Become, Output: output,
		})
	default:
		return initsys.NewCommand(initsys.CommandConfig{
			Start: s.Start, Stop: s.Stop, Restart: s.Restart, Reload: s.Reload, Status: s.Status,
			PIDFile: s.PIDFile, Become: g.policy.Become, Output: output,
		})
	}
}
