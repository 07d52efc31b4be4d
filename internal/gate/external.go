package gate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"kido/internal/initsys"
	"kido/internal/wire"
)

// external is the unit of a service that is none of kido's: nobody here starts or
// stops it, and whether it is up is for its probes to say.
type external struct{}

// externalToken is the part of its incarnations that no probe tells.
const externalToken = "external"

// Observe is [initsys.Unit].
func (external) Observe(context.Context) (initsys.Observation, error) {
	return initsys.Observation{State: initsys.Up, Token: externalToken}, nil
}

// Prepare is [initsys.Unit].
func (external) Prepare(context.Context, initsys.Action) (initsys.Job, error) {
	return nil, fmt.Errorf("it is external, and only looked at from here: %w", initsys.ErrUnsupported)
}

// outages is what a host has seen of a service that tells no incarnation: each time
// that it was away and came back it lives anew. What happens between two looks
// nobody sees.
type outages struct {
	epoch  string // of this record; another one where it was lost: then nobody knows what was missed
	count  uint64
	missed uint64 // tries in a row that have failed, missPause or more from one to the next
	away   bool   // so many that it is taken to have been away
	at     Moment // of the last change
}

// missPause is what lies between two failed tries that both count, as between the tries
// of one who looks: where several look, a moment's failure would be an outage.
const missPause = time.Second

// seen is what follows from one try, begun at a moment. A try that is older than
// the record says nothing any more: ok is false.
func (o outages) seen(ready bool, begun Moment, failures uint64) (next outages, ok bool) {
	if begun.Boot != "" && o.at.Boot == begun.Boot && begun.At <= o.at.At {
		return o, false
	}
	next = o
	switch {
	case ready && o.away:
		next.count++
		next.missed, next.away = 0, false
	case ready:
		next.missed = 0
	case o.away, o.missed > 0 && begun.Boot != "" && begun.Boot == o.at.Boot && begun.At < o.at.At+missPause:
	default:
		next.missed++
		next.away = next.missed >= failures
	}
	return next, true
}

func (o outages) life() string { return fmt.Sprintf("%s-%d", o.epoch, o.count) }

// remember puts on record what a try of a service without a life of its own has
// found, and lends it one.
func (g *Gate) remember(ctx context.Context, s *PolicyService, a Asked, begun Moment) Asked {
	unknown := func(why string) Asked { return Asked{Word: why, Life: wire.LifeUntold} }
	// No service has a name with @, whose own files these could be.
	f := file{dir: g.dir, name: s.Name + "@outages", lock: s.Name + "@outages.lock"}
	ok, err := f.acquire(ctx)
	defer f.release()
	if err != nil || !ok {
		return unknown(fmt.Sprintf("its outages cannot be looked up: %s", orBusy(err)))
	}
	before, aside := outages{}, false
	text, err := f.read()
	if err == nil {
		before, err = parseOutages(text)
		aside = err != nil // unreadable is unknown: whatever happened before, it lives anew
	}
	if err != nil && !aside && !errors.Is(err, fs.ErrNotExist) {
		return unknown(fmt.Sprintf("its outages cannot be looked up: %s", err))
	}
	if before.epoch == "" {
		epoch, err := epoch()
		if err != nil {
			return unknown(fmt.Sprintf("its outages cannot be recorded: %s", err))
		}
		before = outages{epoch: epoch}
	}
	after, current := before.seen(a.Ready, begun, s.Failures)
	if !current {
		return unknown("somebody else looked at the same time: look again")
	}
	if after != before || len(text) == 0 || aside {
		after.at = present()
		if err := f.save(after.format(), aside); err != nil {
			return unknown(fmt.Sprintf("what was seen of it cannot be put on record: %s", err))
		}
	}
	if a.Life = wire.LifeUntold; a.Ready {
		a.Life = after.life()
	} else if after.away {
		a.Word += ": it counts as away"
	}
	return a
}

// epoch draws the name of a record. From the kernel: crypto/rand is more than a gate
// needs to link for it.
func epoch() (string, error) {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b [6]byte
	_, err = io.ReadFull(f, b[:])
	return hex.EncodeToString(b[:]), err
}

func orBusy(err error) string {
	if err == nil {
		return "others are at it"
	}
	return err.Error()
}

const outagesHead = "kido-outages"

func (o outages) format() []byte {
	return summed(wire.FormatLine(outagesHead, "1", o.epoch, strconv.FormatUint(o.count, 10), strconv.FormatUint(o.missed, 10),
		strconv.FormatBool(o.away), o.at.Boot, strconv.FormatInt(int64(o.at.At), 10)) + "\n")
}

func parseOutages(text []byte) (o outages, err error) {
	body, err := cutSum(string(text))
	if err != nil {
		return o, err
	}
	f, err := wire.ParseLine(strings.TrimSuffix(body, "\n"))
	if err != nil || len(f) != 8 || f[0] != outagesHead || f[1] != "1" || f[2] == "" {
		return o, errors.New("not a record of outages")
	}
	o.epoch, o.at.Boot = f[2], f[6]
	var at int64
	for _, e := range []error{
		parseTo(&o.count, f[3]), parseTo(&o.missed, f[4]),
		func() (err error) { o.away, err = strconv.ParseBool(f[5]); return err }(),
		func() (err error) { at, err = strconv.ParseInt(f[7], 10, 64); return err }(),
	} {
		if e != nil {
			return outages{}, errors.New("not a record of outages")
		}
	}
	o.at.At = time.Duration(at)
	return o, nil
}

func parseTo(n *uint64, text string) (err error) {
	*n, err = strconv.ParseUint(text, 10, 64)
	return err
}
