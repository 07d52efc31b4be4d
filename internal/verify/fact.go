package verify

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"kido/internal/wire"
)

// What is the kind of a fact.
type What string

// The kinds, and who writes them down. Their spelling is the format's.
const (
	// Of services, or of whoever watches them.
	Began    What = "began"    // a life: Token, Saw, By, Boot
	Ready    What = "ready"    // it answers from now on: Token
	Reloaded What = "reloaded" // in the same life: Token, Saw
	Ended    What = "ended"    // Token, By

	// Of runs.
	Opened   What = "opened"   // a run begins, or goes on after it was cut off: Run, Host
	Asked    What = "asked"    // a request is about to be sent: Verb and what belongs to it
	Answered What = "answered" // a gate has carried one out, or failed to: Code, Token, Basis
	Seen     What = "seen"     // the run finds it ready, or down where that is meant; it may owe something yet: Token, Basis
	Found    What = "found"    // the run finds it as it should be, and it owes nothing: Token, Basis
	Left     What = "left"     // the run leaves it as it is: Owes
	Closed   What = "closed"   // the run has come to an end

	// Of whoever looks at the end.
	Recorded What = "recorded" // what is on record at the instance's host: Basis, Wanted
	Rested   What = "rested"   // no fault lasts, and nothing is left to be done
)

// Hand is by whom a life was begun or ended.
type Hand string

// The hands; "" is unknown, and then it may have been kido.
const (
	ByKido    Hand = "kido"
	BySomeone Hand = "someone" // a person, or another program on his behalf
	ByItself  Hand = "itself"  // it died
	ByMachine Hand = "machine" // which went down with all that ran on it
)

// None stands in Saw for an upstream that did not answer.
const None = "-"

// Fact is one thing that happened, by the word of whoever wrote it down.
type Fact struct {
	At       time.Time // by the writer's clock
	What     What
	Instance string // "web@web1"; "" where it is about a run or about all
	Token    string // its incarnation; Asked: the one that the run read
	Saw      wire.Vector
	By       Hand
	Boot     string // of the machine; "" where nobody told

	Run      string
	Host     string // whose clock a run's times are by
	Verb     wire.Verb
	Reaction wire.Reaction // an ensure of what ran when the run looked
	Hold     bool          // a stop that owes the start
	Own      string        // a restart: the incarnation to be ended
	New      wire.Vector   // the basis asked for
	Basis    wire.Vector   // as last read, or on record
	Code     wire.Code
	Slot     bool     // it counts against max_unavailable of its service
	Owes     []string // upstreams
	Wanted   wire.Wanted

	File string // where it is written down
	Line int
}

// Where is the place at which a fact is written down, "file:line".
func (f Fact) Where() string { return fmt.Sprintf("%s:%d", f.File, f.Line) }

// field is one key of the format, with how it is written and read.
type field struct {
	key  string
	get  func(*Fact) []string
	take func(*Fact, string) error
}

func text[T ~string](key string, of func(*Fact) *T) field {
	return field{key, func(f *Fact) []string {
		if v := string(*of(f)); v != "" {
			return []string{v}
		}
		return nil
	}, func(f *Fact, v string) error { *of(f) = T(v); return nil }}
}

func flag(key string, of func(*Fact) *bool) field {
	return field{key, func(f *Fact) []string {
		if *of(f) {
			return []string{"yes"}
		}
		return nil
	}, func(f *Fact, v string) error {
		if *of(f) = v == "yes"; v != "yes" {
			return fmt.Errorf("%s=%s: yes is all it can be", key, v)
		}
		return nil
	}}
}

func vector(key string, of func(*Fact) *wire.Vector) field {
	return field{key, func(f *Fact) (all []string) {
		for _, e := range *of(f) {
			all = append(all, e.Instance+"="+e.Token)
		}
		return all
	}, func(f *Fact, v string) error {
		instance, token, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("%s=%s: want %s=INSTANCE=TOKEN", key, v, key)
		}
		*of(f) = of(f).With(instance, token)
		return nil
	}}
}

// fields are the keys of the format, in the order in which they are written.
var fields = []field{
	text("token", func(f *Fact) *string { return &f.Token }),
	text("by", func(f *Fact) *Hand { return &f.By }),
	text("boot", func(f *Fact) *string { return &f.Boot }),
	vector("saw", func(f *Fact) *wire.Vector { return &f.Saw }),
	text("run", func(f *Fact) *string { return &f.Run }),
	text("host", func(f *Fact) *string { return &f.Host }),
	text("verb", func(f *Fact) *wire.Verb { return &f.Verb }),
	text("reaction", func(f *Fact) *wire.Reaction { return &f.Reaction }),
	flag("hold", func(f *Fact) *bool { return &f.Hold }),
	text("own", func(f *Fact) *string { return &f.Own }),
	vector("new", func(f *Fact) *wire.Vector { return &f.New }),
	vector("basis", func(f *Fact) *wire.Vector { return &f.Basis }),
	text("code", func(f *Fact) *wire.Code { return &f.Code }),
	flag("slot", func(f *Fact) *bool { return &f.Slot }),
	{"owes", func(f *Fact) []string { return f.Owes }, func(f *Fact, v string) error { f.Owes = append(f.Owes, v); return nil }},
	text("wanted", func(f *Fact) *wire.Wanted { return &f.Wanted }),
}

// String is the line of a fact:
//
//	2026-01-31T23:59:59.5Z began web@web1 token=b7 saw=db@db1=a3 by=kido
//
// time, kind and instance ("-" for none), then what else is known of it, each as
// KEY=VALUE; a vector has one field for each of its entries.
func (f Fact) String() string {
	instance := f.Instance
	if instance == "" {
		instance = None
	}
	line := []string{f.At.UTC().Format(time.RFC3339Nano), string(f.What), instance}
	for _, k := range fields {
		for _, v := range k.get(&f) {
			line = append(line, k.key+"="+v)
		}
	}
	return wire.FormatLine(line...)
}

// Parse reads a history: the lines that String writes, in the order in which
// things happened; empty lines and those that begin with # are passed over. name
// is what Where calls it. The error tells the line.
func Parse(name, history string) ([]Fact, error) {
	var all []Fact
	number := 0
	for line := range strings.Lines(history) {
		number++
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		f, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
		f.File, f.Line = name, number
		all = append(all, f)
	}
	return all, nil
}

func parse(line string) (f Fact, err error) {
	words, err := wire.ParseLine(line)
	if err != nil {
		return f, err
	}
	if len(words) < 3 {
		return f, fmt.Errorf("%s is no fact: want a time, a kind and an instance", strconv.Quote(line))
	}
	if f.At, err = time.Parse(time.RFC3339Nano, words[0]); err != nil {
		return f, fmt.Errorf("%s is no time: %w", words[0], err)
	}
	f.What, f.Instance = What(words[1]), words[2]
	if f.Instance == None {
		f.Instance = ""
	}
	if !slices.Contains([]What{Began, Ready, Reloaded, Ended, Opened, Asked, Answered, Seen, Found, Left, Closed, Recorded, Rested}, f.What) {
		return f, fmt.Errorf("%s is no kind of fact", wire.Quote(words[1]))
	}
	for _, w := range words[3:] {
		key, value, _ := strings.Cut(w, "=")
		n := slices.IndexFunc(fields, func(k field) bool { return k.key == key })
		if n < 0 {
			return f, fmt.Errorf("%s is no key of a fact", wire.Quote(key))
		}
		if err := fields[n].take(&f, value); err != nil {
			return f, err
		}
	}
	return f, nil
}

// Merge puts histories of several writers together. Each keeps its own order,
// whatever its times say; between them the times decide, and where those are
// equal, the order of the histories. So the result can be believed as far as the
// writers' clocks agree.
func Merge(histories ...[]Fact) []Fact {
	var all []Fact
	last := make([]time.Time, len(histories)) // of each: its clock, which never goes back
	next := make([]int, len(histories))
	for {
		first := -1
		var at time.Time
		for h, facts := range histories {
			if next[h] == len(facts) {
				continue
			}
			t := facts[next[h]].At
			if t.Before(last[h]) {
				t = last[h]
			}
			if first < 0 || t.Before(at) {
				first, at = h, t
			}
		}
		if first < 0 {
			return all
		}
		all = append(all, histories[first][next[first]])
		last[first] = at
		next[first]++
	}
}

// tell puts a fact in words.
func (f Fact) tell() string {
	var s string
	switch f.What {
	case Began:
		s = fmt.Sprintf("life %s of %s began", f.Token, f.Instance)
		if f.By != "" {
			s += ", by " + string(f.By)
		}
		s += saw(f.Saw)
	case Ready:
		s = fmt.Sprintf("%s was ready in life %s", f.Instance, f.Token)
	case Reloaded:
		s = fmt.Sprintf("%s was reloaded in life %s%s", f.Instance, f.Token, saw(f.Saw))
	case Ended:
		s = fmt.Sprintf("life %s of %s ended", f.Token, f.Instance)
		if f.By != "" {
			s += ", by " + string(f.By)
		}
	case Opened:
		s = fmt.Sprintf("run %s began or went on", f.Run)
	case Asked:
		s = fmt.Sprintf("run %s asked for %s of %s", f.Run, f.Verb, f.Instance)
		if f.Token != "" {
			s += ", which it knew to live as " + f.Token
		}
		if len(f.New) > 0 {
			s += ", against " + list(f.New)
		}
	case Answered:
		s = fmt.Sprintf("run %s was told %s of %s", f.Run, f.Code, f.Instance)
		if f.Token != "" {
			s += ", which lived as " + f.Token
		}
	case Found:
		s = fmt.Sprintf("run %s found %s as it should be", f.Run, f.Instance)
		if f.Token != "" {
			s += ", in life " + f.Token
		}
	case Seen:
		s = fmt.Sprintf("run %s saw %s", f.Run, f.Instance)
		if f.Token != "" {
			s += " ready in life " + f.Token
		}
	case Left:
		s = fmt.Sprintf("run %s left %s as it was", f.Run, f.Instance)
	case Closed:
		s = fmt.Sprintf("run %s came to its end", f.Run)
	case Recorded:
		s = fmt.Sprintf("on record, %s was started against %s", f.Instance, list(f.Basis))
	case Rested:
		s = "nothing was left to be done"
	}
	if len(f.Owes) > 0 {
		s += "; it owed a reaction to " + strings.Join(f.Owes, ", ")
	}
	return s
}

func saw(v wire.Vector) string {
	if len(v) == 0 {
		return ""
	}
	return ", and saw " + list(v)
}

func list(v wire.Vector) string {
	if len(v) == 0 {
		return "nothing"
	}
	var all []string
	for _, e := range v {
		all = append(all, e.Instance+" as "+e.Token)
	}
	return strings.Join(all, ", ")
}
