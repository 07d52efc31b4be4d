package gate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"kido/internal/failpoint"
	"kido/internal/rule"
	"kido/internal/wire"
)

// Pool is what a gate keeps of a service whose instances must not all be down at
// once: who may be. Some of the service's hosts keep it, and a run that asks most
// of them holds a slot against every other run.
//
// A slot has no time-out: a clock cannot tell a slow runner from a dead one. It
// ends when it is given back, which also another run does that has seen the member
// ready in a later generation than the slot is for: nothing can pass with it any
// more.
type Pool struct {
	Service string
	Slots   []wire.Slot
}

// Step answers a request about the pool; next differs from p where that must be on
// record before the reply.
func (p Pool) Step(q wire.Request) (next Pool, r wire.Reply) {
	next = Pool{p.Service, slices.Clone(p.Slots)}
	mine := slices.IndexFunc(p.Slots, func(s wire.Slot) bool { return s.Member == q.Member && s.Run == q.Run })
	switch q.Verb {
	case wire.VerbTake:
		slot := wire.Slot{Member: q.Member, Run: q.Run, Generation: q.Generation}
		switch {
		case q.Run == "" || q.Most == 0 || !strings.HasPrefix(q.Member, p.Service+"@"):
			return p, wire.Reply{Code: wire.CodeInvalid, Word: "a slot is for a member of the pool and a run, of so many"}
		case mine >= 0 && p.Slots[mine] == slot:
			return p, wire.Reply{Code: wire.CodeAlready}
		case mine >= 0:
			next.Slots[mine] = slot
		case p.others(q.Member) >= q.Most && rule.Holds(rule.Slot):
			return p, wire.Reply{Code: wire.CodeBusy, Word: fmt.Sprintf("%d of %s may be down at once, and are", q.Most, p.Service), Slots: p.Slots[:min(len(p.Slots), maxTold)]}
		default:
			next.Slots = append(next.Slots, slot)
			if len(next.Format()) > maxFile {
				return p, wire.Reply{Code: wire.CodeBusy, Word: "no more slots fit into its file", Slots: p.Slots[:1]}
			}
		}
	case wire.VerbGive:
		if mine < 0 || p.Slots[mine].Generation != q.Generation {
			return p, wire.Reply{Code: wire.CodeAlready}
		}
		next.Slots = slices.Delete(next.Slots, mine, mine+1)
	case wire.VerbRelease:
		next.Slots = slices.DeleteFunc(next.Slots, func(s wire.Slot) bool { return s.Member == q.Member })
		if len(next.Slots) == len(p.Slots) {
			return p, wire.Reply{Code: wire.CodeAlready}
		}
	}
	return next, wire.Reply{Code: wire.CodeDone}
}

// maxTold is how many slots a reply names: who waits needs one of them to be free.
const maxTold = 32

// others counts the members but this one that have a slot. Its own, of another run,
// is not in the way: an instance cannot be down twice, of two requests for it one is
// stale, and to be restarted may be all that makes it ready.
func (p Pool) others(member string) uint64 {
	all := map[string]bool{}
	for _, s := range p.Slots {
		if s.Member != member {
			all[s.Member] = true
		}
	}
	return uint64(len(all))
}

// Format writes the one spelling of p, as [Record] does.
func (p Pool) Format() []byte {
	var b strings.Builder
	b.WriteString(wire.FormatLine("kido-pool", "1", p.Service) + "\n")
	for _, s := range p.Slots {
		b.WriteString(wire.FormatLine("slot", s.Member, s.Run, strconv.FormatUint(s.Generation, 10)) + "\n")
	}
	return summed(b.String())
}

// ParsePool reads what Format wrote and nothing else.
func ParsePool(text []byte, service string) (Pool, error) {
	body, err := cutSum(string(text))
	if err != nil {
		return Pool{}, err
	}
	p := Pool{Service: service}
	for i, line := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
		f, err := wire.ParseLine(line)
		switch {
		case err != nil:
		case i == 0 && !slices.Equal(f, []string{"kido-pool", "1", service}):
			err = fmt.Errorf("it is not the pool of %s", wire.Quote(service))
		case i > 0 && f[0] != "slot":
			err = fmt.Errorf("%s is not a line of a pool", wire.FormatLine(f...))
		case i > 0:
			var s wire.Slot
			s, err = wire.ParseSlot(f[1:])
			p.Slots = append(p.Slots, s)
		}
		if err != nil {
			return Pool{}, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if string(p.Format()) != string(text) {
		return Pool{}, errors.New("it is not in the spelling that the gate writes")
	}
	return p, nil
}

// keep carries out one request about the pool of a service.
func (g *Gate) keep(ctx context.Context, s *PolicyService, q wire.Request) wire.Reply {
	f := &file{dir: g.dir, name: s.Name + ".pool", lock: s.Name + ".pool.lock"}
	defer f.release()
	switch ok, err := f.acquire(ctx); {
	case err != nil:
		return wire.Reply{Code: wire.CodeError, Word: "cannot lock its pool: " + err.Error()}
	case !ok:
		return wire.Reply{Code: wire.CodeBusy, Word: "another request is at work on its pool"}
	}
	text, err := f.read()
	pool, aside := Pool{Service: s.Name}, false
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !errors.Is(err, errTooBig):
		return wire.Reply{Code: wire.CodeError, Word: "cannot read its pool: " + err.Error()}
	default:
		if err == nil {
			pool, err = ParsePool(text, s.Name)
		}
		if err == nil {
			break
		}
		// Unknown is not empty: somebody may be down by a slot that was in it.
		if q.Verb != wire.VerbRelease {
			return wire.Reply{Code: wire.CodeUnknown, Word: fmt.Sprintf("the slots of its pool cannot be believed (%s): `kido release --slot %s` begins anew", err, s.Name)}
		}
		pool, aside = Pool{Service: s.Name}, true
	}
	next, reply := pool.Step(q)
	if aside {
		reply = wire.Reply{Code: wire.CodeDone}
	}
	if aside || !slices.Equal(next.Slots, pool.Slots) {
		failpoint.Hit("gate.before.pool")
		if err := f.save(next.Format(), aside); err != nil {
			return wire.Reply{Code: wire.CodeError, Word: "cannot write its pool: " + err.Error()}
		}
	}
	failpoint.Hit("gate.after.pool")
	return reply
}
