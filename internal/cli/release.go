package cli

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"kido/internal/site"
	"kido/internal/wire"
)

func (a *app) release() *cobra.Command {
	return &cobra.Command{
		Use:   "release TARGET…",
		Short: "end a hold, and free the slots of what is never coming back",
		Long: `An instance that reacted to its upstreams too often (budget in the site file) is
on hold: by itself it is left alone until all is calm. This ends the hold; what
owes it a reaction goes on within seconds.

It also frees the slots of the targets. An instance that may be down by the hand
of a run has one, and the rest of its pool waits for it as max_unavailable says,
also where its host died in the midst of that. Only do it when you know that the
instance is no longer being restarted.` + targetHelp,
		Example: "  kido release web@web1\n  kido release web",
		Args:    atLeast(1, "TARGET"),
		RunE: func(c *cobra.Command, targets []string) error {
			_, chosen, fleet, err := a.reach(targets)
			if err != nil {
				return err
			}
			defer fleet.close()
			return a.releaseAll(c.Context(), fleet, chosen)
		},
		ValidArgsFunction: a.completeTargets,
	}
}

// released is what came of one request.
type released struct {
	Instance string `json:"instance"`
	Keeper   string `json:"keeper,omitempty"` // of its slot; "" for its hold
	Done     bool   `json:"done"`             // something was released
	Word     string `json:"word"`
	failed   bool
}

func (a *app) releaseAll(ctx context.Context, f *fleet, chosen []site.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	all := make([]released, 0, len(chosen))
	for _, i := range chosen {
		all = append(all, released{Instance: i.String()})
		for _, keeper := range f.site.Service(i.Service).Keepers() {
			all = append(all, released{Instance: i.String(), Keeper: keeper})
		}
	}
	var wg sync.WaitGroup
	next := 0
	for _, i := range chosen {
		keepers := append([]string{""}, f.site.Service(i.Service).Keepers()...)
		for range keepers {
			r := &all[next]
			next++
			wg.Go(func() { f.releaseOne(ctx, i, r) })
		}
	}
	wg.Wait()
	failed := slices.ContainsFunc(all, func(r released) bool { return r.failed })
	if a.json() {
		if err := a.writeJSON(all); err != nil {
			return err
		}
	} else {
		for _, r := range all {
			if r.Done || r.failed || r.Keeper == "" {
				fmt.Fprintf(a.text(), "%s: %s\n", r.Instance, r.Word)
			}
		}
	}
	if failed {
		return &failure{status: exitFailed}
	}
	return nil
}

// releaseOne ends the hold of an instance, or frees its slot at a keeper.
func (f *fleet) releaseOne(ctx context.Context, i site.Instance, r *released) {
	q := wire.Request{Verb: wire.VerbRelease, Service: i.Service}
	host := i.Host
	if r.Keeper != "" {
		host, q.Member = r.Keeper, i.String()
	}
	reply, err := f.Call(ctx, host, q)
	switch {
	case err != nil:
		r.failed, r.Word = true, err.Error()
	case reply.Code == wire.CodeDone && r.Keeper != "":
		r.Done, r.Word = true, fmt.Sprintf("its slot at %s is free", r.Keeper)
	case reply.Code == wire.CodeDone:
		r.Done, r.Word = true, "it is no longer on hold: "+reply.Word
	case reply.Code == wire.CodeAlready && r.Keeper != "":
		r.Word = fmt.Sprintf("it has no slot at %s", r.Keeper)
	case reply.Code == wire.CodeAlready:
		r.Word = "it is not on hold"
	default:
		r.failed, r.Word = true, fmt.Sprintf("%s: %s: %s", host, reply.Code, reply.Word)
	}
	if r.failed && r.Keeper != "" {
		r.Word = "its slot: " + r.Word
	}
}
