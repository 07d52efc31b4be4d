package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"kido/internal/site"
	"kido/internal/wire"
)

func (a *app) release() *cobra.Command {
	var slot bool
	c := &cobra.Command{
		Use:   "release TARGET…",
		Short: "end a hold; or free the slot of what is never coming back",
		Long: `An instance that reacted to its upstreams too often (budget in the site file) is
on hold: by itself it is left alone until all is calm. This ends the hold; what
owes it a reaction goes on within seconds.

With --slot it frees the slots of the targets instead. An instance that may be
down by the hand of a run has one, and the rest of its pool waits for it as
max_unavailable says, also where its host died in the midst of that. Only do it
when you know that nothing is being done to the instance. It need not be in the
site file any more.` + targetHelp,
		Example: "  kido release web\n  kido release --slot web@web1",
		Args:    atLeast(1, "TARGET"),
		RunE: func(c *cobra.Command, targets []string) error {
			s, err := a.load()
			if err != nil {
				return err
			}
			var chosen []site.Instance
			for _, t := range targets {
				some, err := s.Resolve([]string{t})
				if i, known := departed(s, t); err != nil && slot && known {
					some, err = []site.Instance{i}, nil
				}
				if err != nil {
					return err
				}
				chosen = append(chosen, some...)
			}
			fleet, err := a.open(s)
			if err != nil {
				return err
			}
			defer fleet.close()
			ctx, cancel := context.WithTimeout(c.Context(), statusTime)
			defer cancel()
			if slot {
				return a.released(fleet.freeSlots(ctx, chosen))
			}
			return a.released(fleet.endHolds(ctx, chosen))
		},
		ValidArgsFunction: a.completeTargets,
	}
	c.Flags().BoolVar(&slot, "slot", false, "free the slots of the targets, instead of ending their hold")
	return c
}

// departed takes SERVICE@HOST for an instance whose host may have left the site.
func departed(s *site.Site, target string) (site.Instance, bool) {
	service, host, ok := strings.Cut(target, "@")
	return site.Instance{Service: service, Host: host}, ok && host != "" && s.Service(service) != nil
}

// release is what came of one request.
type release struct {
	Instance string `json:"instance"`
	Keeper   string `json:"keeper,omitempty"` // of its slot; "" for its hold
	Done     bool   `json:"done"`             // something was released
	Word     string `json:"word"`
	failed   bool
}

// endHolds ends the hold of instances.
func (f *fleet) endHolds(ctx context.Context, chosen []site.Instance) []release {
	all := make([]release, len(chosen))
	var wg sync.WaitGroup
	for n, i := range chosen {
		wg.Go(func() {
			all[n] = f.release(ctx, i.Host, wire.Request{Verb: wire.VerbRelease, Service: i.Service}, release{Instance: i.String()})
		})
	}
	wg.Wait()
	return all
}

// freeSlots frees the slots of instances at all their keepers. Where an instance's
// gate answers, nothing can come of the slot any more before it is free.
func (f *fleet) freeSlots(ctx context.Context, chosen []site.Instance) []release {
	var mu sync.Mutex
	var all []release
	var wg sync.WaitGroup
	for _, i := range chosen {
		wg.Go(func() {
			f.fence(ctx, i)
			for _, keeper := range f.site.Service(i.Service).Keepers() {
				r := f.release(ctx, keeper, wire.Request{Verb: wire.VerbRelease, Service: i.Service, Member: i.String()}, release{Instance: i.String(), Keeper: keeper})
				mu.Lock()
				all = append(all, r)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortStableFunc(all, func(a, b release) int { return strings.Compare(a.Instance, b.Instance) })
	return all
}

func (f *fleet) fence(ctx context.Context, i site.Instance) {
	if f.site.Host(i.Host) == nil {
		return
	}
	r, err := f.Call(ctx, i.Host, wire.Request{Verb: wire.VerbStatus, Service: i.Service})
	if err == nil && r.Status != nil { // one that does not answer is why a person does this
		_, _ = f.Call(ctx, i.Host, wire.Request{Verb: wire.VerbFence, Service: i.Service, Generation: r.Status.Generation})
	}
}

func (f *fleet) release(ctx context.Context, host string, q wire.Request, r release) release {
	reply, err := f.Call(ctx, host, q)
	switch {
	case err != nil:
		r.failed, r.Word = true, err.Error()
	case reply.Code == wire.CodeDone && r.Keeper != "":
		r.Done, r.Word = true, "its slot at "+r.Keeper+" is free"
	case reply.Code == wire.CodeDone:
		r.Done, r.Word = true, "it is no longer on hold: "+reply.Word
	case reply.Code == wire.CodeAlready && r.Keeper != "":
		r.Word = "it has no slot at " + r.Keeper
	case reply.Code == wire.CodeAlready:
		r.Word = "it is not on hold"
	default:
		r.failed, r.Word = true, fmt.Sprintf("%s: %s: %s", host, reply.Code, reply.Word)
	}
	if r.failed && r.Keeper != "" {
		r.Word = "its slot: " + r.Word
	}
	return r
}

// released says what came of it.
func (a *app) released(all []release) error {
	if a.json() {
		if err := a.writeJSON(all); err != nil {
			return err
		}
	} else {
		for _, r := range all {
			fmt.Fprintf(a.text(), "%s: %s\n", r.Instance, r.Word)
		}
		if len(all) == 0 {
			fmt.Fprintln(a.text(), "no slots are kept for that: all of it may be down at once")
		}
	}
	if slices.ContainsFunc(all, func(r release) bool { return r.failed }) {
		return &failure{status: exitFailed}
	}
	return nil
}
