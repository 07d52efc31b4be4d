package sim

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kido/internal/gate"
	"kido/internal/journal"
	"kido/internal/run"
	"kido/internal/wire"
)

var writeCorpus = flag.Bool("sim.corpus", false, "play seeds, and write what the fuzz targets of gate, journal and wire begin with anew")

const (
	corpusSeeds = 330
	corpusFiles = 40       // of one fuzz target, at most
	corpusBytes = 64 << 10 // of them all
	// corpusName is the instance that the fuzz target of state files reads for.
	corpusName = "web@web1"
)

// corpus is what one fuzz target begins with: texts from simulated worlds, each
// with something in it that no other has.
type corpus struct {
	target string                  // its folder, from here
	args   string                  // what the target takes beside the text
	room   int                     // bytes
	read   func(text []byte) error // as the program does
	texts  [][]byte
	seen   map[string]bool
}

func corpora(t *testing.T) (states, journals, requests, replies *corpus) {
	states = &corpus{target: "gate/testdata/fuzz/FuzzRecord", args: "uint(0)\n", room: corpusBytes / 4, read: func(text []byte) error {
		_, err := gate.ParseRecord(text, corpusName)
		return err
	}}
	path := filepath.Join(t.TempDir(), "j")
	journals = &corpus{target: "journal/testdata/fuzz/FuzzParse", args: "uint(0)\n", room: corpusBytes / 4, read: func(text []byte) error {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
		records, _, err := journal.Read(path)
		for _, r := range records {
			if _, decodeErr := run.Decode(r); decodeErr != nil {
				return decodeErr
			}
		}
		if err == nil && len(records) == 0 {
			err = fmt.Errorf("there is no record in it")
		}
		return err
	}}
	requests = &corpus{target: "wire/testdata/fuzz/FuzzRequest", room: corpusBytes / 8, read: func(text []byte) error {
		_, err := wire.ParseRequest(text)
		return err
	}}
	replies = &corpus{target: "wire/testdata/fuzz/FuzzReply", room: corpusBytes / 8, read: func(text []byte) error {
		_, err := wire.ParseReply(text)
		return err
	}}
	return states, journals, requests, replies
}

// TestCorpus: what is checked in for the fuzz targets is read without an error. With
// -sim.corpus it is written anew first, which a change of a format asks for.
func TestCorpus(t *testing.T) {
	states, journals, requests, replies := corpora(t)
	all := []*corpus{states, journals, requests, replies}
	if *writeCorpus {
		for seed := range uint64(corpusSeeds) {
			playForCorpus(t, seed, states, journals, requests, replies)
		}
		for _, c := range all {
			c.write(t)
		}
	}
	size := 0
	for _, c := range all {
		names, err := filepath.Glob(filepath.Join("..", c.target, "sim-*"))
		if err != nil || len(names) == 0 || len(names) > corpusFiles {
			t.Errorf("%s: %d files, %v", c.target, len(names), err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			size += len(text)
			lines := strings.SplitN(string(text), "\n", 3)
			quoted, _ := strings.CutPrefix(lines[1], "[]byte(")
			plain, err := strconv.Unquote(strings.TrimSuffix(quoted, ")"))
			if err == nil {
				err = c.read([]byte(plain))
			}
			if err != nil {
				t.Errorf("%s: %v\nwrite it anew: go test ./internal/sim -run Corpus -sim.corpus", name, err)
			}
		}
	}
	if size > corpusBytes {
		t.Errorf("%d bytes are more than a repository should carry", size)
	}
}

// playForCorpus plays a world in which anything may go wrong, and takes what it
// writes and sends.
func playForCorpus(t *testing.T, seed uint64, states, journals, requests, replies *corpus) {
	s := swarm{rng: rand.New(rand.NewPCG(seed, 0)), often: 60}
	var b budget
	for k := range b {
		b[k] = 2
	}
	w := newWorld(scenarios[seed%uint64(len(scenarios))].with(b))
	type past struct { // what a runner has written
		number  int16
		batches [][][]byte
		events  int
	}
	runs := make([]past, len(w.runners))
	for range 400 {
		m, ok := s.pick(w.moves())
		if !ok || w.broken != "" {
			break
		}
		w.do(m)
		for k := range w.nodes {
			if c := w.nodes[k].disk.now; c.there && !c.damaged {
				c.rec.Instance = corpusName
				states.take(c.rec.Format(), shapes(c.rec.Format()))
			}
		}
		for i := range w.mails {
			switch m := &w.mails[i]; {
			case !m.reply:
				requests.take(m.q.Format(), shapes(m.q.Format()))
			case m.err == "":
				replies.take(m.r.Format(), shapes(m.r.Format()))
			}
		}
		for k := range runs {
			p, r := &runs[k], &w.runners[k]
			if p.number != r.number && r.plan != nil {
				begin := run.Event{Run: r.spec.name, Begin: &run.BeginEvent{Plan: r.plan, Site: "shop"}}
				*p = past{number: r.number, batches: [][][]byte{encoded(t, begin)}}
			}
			if len(r.journal) == p.events {
				continue
			}
			p.batches = append(p.batches, encoded(t, r.journal[p.events:]...))
			p.events = len(r.journal)
			if features := phases(r.journal, p.batches); journals.lacks(features) {
				journals.take(journalOf(t, p.batches), features)
			}
		}
	}
}

// take keeps a text that has a feature no other has, as long as there is room. A
// longer one takes the place of one that is its beginning.
func (c *corpus) take(text []byte, features []string) {
	if !c.lacks(features) {
		return
	}
	texts := slices.DeleteFunc(slices.Clone(c.texts), func(t []byte) bool { return bytes.HasPrefix(text, t) })
	texts = append(texts, text)
	room := c.room
	for _, t := range texts {
		room -= len(strconv.Quote(string(t))) + 64
	}
	if room < 0 || len(texts) > corpusFiles {
		return
	}
	c.texts = texts
	if c.seen == nil {
		c.seen = map[string]bool{}
	}
	for _, f := range features {
		c.seen[f] = true
	}
}

// lacks reports whether one of these features is in none of its texts.
func (c *corpus) lacks(features []string) bool {
	return slices.ContainsFunc(features, func(f string) bool { return !c.seen[f] })
}

// write replaces what is there from earlier worlds.
func (c *corpus) write(t *testing.T) {
	dir := filepath.Join("..", c.target)
	old, err := filepath.Glob(filepath.Join(dir, "sim-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for n, text := range c.texts {
		file := fmt.Sprintf("go test fuzz v1\n[]byte(%s)\n%s", strconv.Quote(string(text)), c.args)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("sim-%02d", n)), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// shapes are the lines of a text, with which words of the protocol each has, and
// which follow one another.
func shapes(text []byte) (all []string) {
	last := ""
	for _, line := range strings.Split(string(text), "\n") {
		fields, err := wire.ParseLine(line)
		if err != nil {
			continue
		}
		for i, f := range fields {
			if strings.ContainsAny(f, "0123456789@ ") {
				fields[i] = "*"
			}
		}
		shape := strings.Join(fields, " ")
		all = append(all, last+"\n"+shape)
		last = shape
	}
	return all
}

// phases are what each record of a journal tells, and how many were written at once.
func phases(events []run.Event, batches [][][]byte) (all []string) {
	for _, b := range batches {
		all = append(all, fmt.Sprint("batch of ", min(len(b), 4)))
	}
	for _, e := range events {
		switch {
		case e.Step != nil:
			all = append(all, fmt.Sprint(e.Step.Phase, " ", e.Step.Verb, " ", e.Step.Reaction, " ", e.Step.Code, " ", len(e.Step.Owes) > 0, e.Step.Slot, e.Step.Own != nil))
		case e.End != nil:
			all = append(all, string(e.End.Outcome))
		}
	}
	return all
}

// encoded are the records of events.
func encoded(t *testing.T, events ...run.Event) (records [][]byte) {
	for _, e := range events {
		r, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	return records
}

// journalOf is the text of a journal of these batches.
func journalOf(t *testing.T, batches [][][]byte) []byte {
	path := filepath.Join(t.TempDir(), "j")
	j, err := journal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for _, b := range batches {
		if err := j.Append(b...); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
