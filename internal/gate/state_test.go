package gate

import (
	"bytes"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/initsys"
	"kido/internal/wire"
)

func sampleRecord() Record {
	return Record{
		Instance: "web@web1", Generation: 12, Wanted: wire.WantedHeld, Seen: wire.StateDown, Own: "boot:1:2",
		Basis: wire.NewVector(wire.Entry{Instance: "db@db1", Token: "t 1"}, wire.Entry{Instance: "cache@h", Token: "x"}),
		Intent: &Intent{
			Verb: wire.VerbEnsure, Do: initsys.Restart, Own: "boot:1:2", Wanted: wire.WantedUp,
			New:   wire.NewVector(wire.Entry{Instance: "db@db1", Token: "t 2"}),
			Child: &initsys.Child{Boot: "b-1", PID: 4711, Start: 99},
			Boot:  "b-1",
		},
		Reactions: []Moment{{"b-1", 5 * time.Second}, {"b-1", 7 * time.Second}},
		Hold:      Moment{"b-1", 65 * time.Second},
	}
}

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range []Record{{Instance: "web@web1"}, sampleRecord()} {
		got, err := ParseRecord(r.Format(), r.Instance)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s\nread back as %+v, %v", r.Format(), got, err)
		}
	}
	if _, err := ParseRecord(sampleRecord().Format(), "app@web1"); err == nil {
		t.Error("the record of another instance was taken")
	}
}

// someRecords are what a state file may hold: nothing but its name, all that a
// record has, and each kind of intent.
func someRecords() []Record {
	all := []Record{{Instance: "web@web1"}, sampleRecord()}
	for _, wanted := range []wire.Wanted{wire.WantedUp, wire.WantedDown} {
		for n, do := range initsys.Actions() {
			r := sampleRecord()
			r.Generation, r.Wanted, r.Seen = uint64(n), wanted, wire.StateUp
			r.Intent = &Intent{Verb: wire.VerbEnsure, Do: do, New: r.Basis, Wanted: wanted}
			all = append(all, r)
		}
	}
	return all
}

func somePools() []Pool {
	return []Pool{{Service: "web"}, {Service: "web", Slots: []wire.Slot{{Member: "web@web1", Run: "r-1", Generation: 7}, {Member: "web@web2", Run: "r 2", Generation: 1}}}}
}

// damages calls yield with all that one fault makes of the text of a file: cut
// anywhere, any one bit turned, a sector's length of zeros, more behind its end.
func damages(text []byte, yield func(what string, text []byte)) {
	for n := range text {
		yield(fmt.Sprintf("cut after %d bytes", n), text[:n])
		yield(fmt.Sprintf("without its first %d bytes", n+1), text[n+1:])
		for bit := range 8 {
			text[n] ^= 1 << bit
			yield(fmt.Sprintf("with bit %d of byte %d turned", bit, n), text)
			text[n] ^= 1 << bit
		}
		blank := bytes.Clone(text)
		clear(blank[n:min(n+512, len(blank))])
		yield(fmt.Sprintf("with zeros from byte %d", n), blank)
	}
	for _, more := range []string{"\n", "\x00", strings.Repeat("\x00", 4096-len(text)), string(text), "sum 00000000\n"} {
		yield(fmt.Sprintf("with %q behind it", more), slices.Concat(text, []byte(more)))
	}
}

// No damage to a state file makes another record of it, nor an emptier one: it is
// refused. (A CRC-32 differs for any two texts of one length that differ in one
// bit, or within 32 in a row.)
func TestRecordDamage(t *testing.T) {
	for _, r := range someRecords() {
		damages(r.Format(), func(what string, text []byte) {
			if r, err := ParseRecord(text, "web@web1"); err == nil || !reflect.DeepEqual(r, Record{}) {
				t.Errorf("%s it is read as %+v, %v:\n%s", what, r, err, text)
			}
		})
	}
	for _, p := range somePools() {
		damages(p.Format(), func(what string, text []byte) {
			if p, err := ParsePool(text, "web"); err == nil || !reflect.DeepEqual(p, Pool{}) {
				t.Errorf("%s it is read as %+v, %v:\n%s", what, p, err, text)
			}
		})
	}
}

// A state file of the greatest length costs what its length says: nothing in it is
// copied again and again.
func TestRecordCost(t *testing.T) {
	r := Record{Instance: "web@web1", Intent: &Intent{Verb: wire.VerbEnsure, Do: initsys.Restart, Wanted: wire.WantedUp}}
	for n := 0; len(r.Basis) < 6000; n++ {
		r.Basis.Extend(fmt.Sprintf("u%06d@h", n), "t")
		r.Intent.New.Extend(fmt.Sprintf("u%06d@h", n), "t")
	}
	text := r.Format()
	if len(text) > maxFile {
		t.Fatalf("%d bytes are more than a state file has", len(text))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := ParseRecord(text, r.Instance); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	cost := after.TotalAlloc - before.TotalAlloc
	if cost > 40*uint64(len(text)) {
		t.Errorf("to read %d bytes takes %d bytes of memory", len(text), cost)
	}
}

// FuzzRecord reads any text as a state file, as it is and with the right checksum
// behind it, and once more with some damage where it was taken.
func FuzzRecord(f *testing.F) {
	for _, r := range someRecords() {
		f.Add(r.Format(), uint(0))
	}
	f.Fuzz(func(t *testing.T, text []byte, at uint) {
		body, _, _ := bytes.Cut(text, []byte("\nsum "))
		for _, text := range [][]byte{text, summed(string(body) + "\n")} {
			r, err := ParseRecord(text, "web@web1")
			if err != nil {
				if !reflect.DeepEqual(r, Record{}) {
					t.Errorf("%+v beside the error %v", r, err)
				}
				continue
			}
			if string(r.Format()) != string(text) {
				t.Errorf("%q prints back as %q", text, r.Format())
			}
			i := int(at/8) % len(text)
			if r, err := ParseRecord(text[:i], "web@web1"); err == nil {
				t.Errorf("%q cut at %d is read as %+v", text, i, r)
			}
			turned := bytes.Clone(text)
			turned[i] ^= 1 << (at % 8)
			if r, err := ParseRecord(turned, "web@web1"); err == nil {
				t.Errorf("with a bit of byte %d turned it is read as %+v: %q", i, r, turned)
			}
		}
	})
}
