package gate

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"kido/internal/initsys"
	"kido/internal/wire"
)

// Record is what a gate keeps of one instance: the content of its state file.
// The zero Record but for its name is an instance of which nothing is known.
type Record struct {
	Instance   string
	Generation uint64      // counts the writes
	Wanted     wire.Wanted // "" where nothing was recorded yet
	Seen       wire.State  // what it was when Wanted was written; "" with it
	Own        string      // own incarnation when the basis was last written, for people
	Basis      wire.Vector
	Intent     *Intent // a change that was begun and is not known to have ended
	// Reactions are the ENSUREs that touched it lately, the oldest first, at most
	// MaxBudget of them; Hold is until when further ones are refused.
	Reactions []Moment
	Hold      Moment
}

// MaxBudget is the largest budget of reactions that a gate can keep.
const MaxBudget = 30

// Moment is a time by the clock of one boot: nothing is compared across boots, and
// nobody can set it. The zero Moment is never.
type Moment struct {
	Boot string        // the kernel's name for the boot
	At   time.Duration // since it began, asleep or awake; whole milliseconds
}

// recent lists when the instance was touched within a time before now.
func (r Record) recent(now Moment, within time.Duration) (at []time.Duration) {
	for _, m := range r.Reactions {
		if m.Boot == now.Boot && now.At-m.At < within {
			at = append(at, m.At)
		}
	}
	return at
}

// reacted is Reactions with one more; those of another boot are as good as gone.
func (r Record) reacted(now Moment) []Moment {
	all := slices.DeleteFunc(slices.Clone(r.Reactions), func(m Moment) bool { return m.Boot != now.Boot })
	if now != (Moment{}) {
		all = append(all, now)
	}
	return all[max(0, len(all)-MaxBudget):]
}

// Intent is written before init is told to change anything, so that whoever
// comes after a crash can tell from the instance itself what became of it.
type Intent struct {
	Verb   wire.Verb      // the request
	Do     initsys.Action // what init was told
	Own    string         // own incarnation then; "" where it was not up
	New    wire.Vector    // the basis, once the change is known to have worked
	Wanted wire.Wanted    // the wanted state then
	Child  *initsys.Child // the process that carries it out; nil where init does
	Boot   string         // the boot in which it was begun; "" where that could not be told
}

// Format writes the one spelling of r: lines as in package wire, the last one a
// checksum of all before it.
func (r Record) Format() []byte {
	var b strings.Builder
	line := func(fields ...string) { b.WriteString(wire.FormatLine(fields...) + "\n") }
	line("kido-state", "1", r.Instance)
	line("generation", strconv.FormatUint(r.Generation, 10))
	if r.Wanted != "" {
		line("wanted", string(r.Wanted), string(r.Seen))
	}
	if r.Own != "" {
		line("own", r.Own)
	}
	for _, e := range r.Basis {
		line("basis", e.Instance, e.Token)
	}
	if in := r.Intent; in != nil {
		line("intent", string(in.Verb), string(in.Do), string(in.Wanted))
		if in.Own != "" {
			line("intent-own", in.Own)
		}
		for _, e := range in.New {
			line("intent-new", e.Instance, e.Token)
		}
		if in.Boot != "" {
			line("intent-boot", in.Boot)
		}
		if c := in.Child; c != nil {
			line("intent-child", c.Boot, strconv.Itoa(c.PID), strconv.FormatUint(c.Start, 10))
		}
	}
	for _, m := range r.Reactions {
		line("reaction", m.Boot, strconv.FormatInt(m.At.Milliseconds(), 10))
	}
	if m := r.Hold; m.Boot != "" {
		line("hold", m.Boot, strconv.FormatInt(m.At.Milliseconds(), 10))
	}
	return summed(b.String())
}

// ParseRecord reads what Format wrote and nothing else: a record that is torn,
// altered or of another instance is an error, never an emptier record.
func ParseRecord(text []byte, instance string) (Record, error) {
	body, err := cutSum(string(text))
	if err != nil {
		return Record{}, err
	}
	var r Record
	for i, line := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
		f, err := wire.ParseLine(line)
		if err == nil {
			err = r.field(i, f)
		}
		if err != nil {
			return Record{}, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if r.Instance != instance {
		return Record{}, fmt.Errorf("it is the state of %s", wire.Quote(r.Instance))
	}
	if string(r.Format()) != string(text) {
		return Record{}, errors.New("it is not in the spelling that the gate writes")
	}
	return r, nil
}

func (r *Record) field(line int, f []string) error {
	bad := fmt.Errorf("%s is not a line of a state file", wire.FormatLine(f...))
	args := f[1:]
	if line == 0 {
		if len(f) != 3 || f[0] != "kido-state" || f[1] != "1" {
			return errors.New("not a kido-state 1 file")
		}
		r.Instance = f[2]
		return nil
	}
	if strings.HasPrefix(f[0], "intent-") && r.Intent == nil {
		return bad
	}
	var err error
	switch {
	case f[0] == "generation" && len(args) == 1:
		r.Generation, err = strconv.ParseUint(args[0], 10, 64)
	case f[0] == "wanted" && len(args) == 2:
		r.Seen = wire.State(args[1])
		if !slices.Contains(wire.States(), r.Seen) {
			return bad
		}
		r.Wanted, err = wanted(args[0])
	case f[0] == "own" && len(args) == 1:
		r.Own = args[0]
	case f[0] == "basis" && len(args) == 2:
		if !r.Basis.Extend(args[0], args[1]) {
			return bad
		}
	case f[0] == "intent" && len(args) == 3:
		r.Intent = &Intent{Verb: wire.Verb(args[0]), Do: initsys.Action(args[1])}
		if !slices.Contains(wire.Verbs(), r.Intent.Verb) || !slices.Contains(initsys.Actions(), r.Intent.Do) {
			return bad
		}
		r.Intent.Wanted, err = wanted(args[2])
	case f[0] == "intent-own" && len(args) == 1:
		r.Intent.Own = args[0]
	case f[0] == "intent-new" && len(args) == 2:
		if !r.Intent.New.Extend(args[0], args[1]) {
			return bad
		}
	case f[0] == "intent-boot" && len(args) == 1:
		r.Intent.Boot = args[0]
	case f[0] == "intent-child" && len(args) == 3:
		c := &initsys.Child{Boot: args[0]}
		if c.PID, err = strconv.Atoi(args[1]); err == nil {
			c.Start, err = strconv.ParseUint(args[2], 10, 64)
		}
		r.Intent.Child = c
	case f[0] == "reaction" && len(args) == 2 && len(r.Reactions) < MaxBudget:
		var m Moment
		m, err = moment(args)
		r.Reactions = append(r.Reactions, m)
	case f[0] == "hold" && len(args) == 2:
		r.Hold, err = moment(args)
	default:
		return bad
	}
	if err != nil {
		return bad
	}
	return nil
}

func moment(args []string) (Moment, error) {
	ms, err := strconv.ParseInt(args[1], 10, 64)
	if args[0] == "" || ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		err = errors.New("not a moment")
	}
	return Moment{args[0], time.Duration(ms) * time.Millisecond}, err
}

func wanted(s string) (wire.Wanted, error) {
	switch w := wire.Wanted(s); w {
	case wire.WantedUp, wire.WantedDown, wire.WantedHeld:
		return w, nil
	}
	return "", errors.New("not a wanted state")
}
