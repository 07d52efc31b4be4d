package gate

import (
	"reflect"
	"testing"

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

// No damage to a state file makes another record of it: cut anywhere, or with
// any one bit turned, it is refused.
func TestRecordDamage(t *testing.T) {
	text := sampleRecord().Format()
	for n := range text {
		if _, err := ParseRecord(text[:n], "web@web1"); err == nil {
			t.Errorf("cut after %d bytes it is still read", n)
		}
		for bit := range 8 {
			text[n] ^= 1 << bit
			if _, err := ParseRecord(text, "web@web1"); err == nil {
				t.Errorf("with bit %d of byte %d turned it is still read", bit, n)
			}
			text[n] ^= 1 << bit
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(Record{Instance: "web@web1"}.Format())
	f.Add(sampleRecord().Format())
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecord(text, "web@web1")
		if err == nil && string(r.Format()) != string(text) {
			t.Errorf("%q prints back as %q", text, r.Format())
		}
	})
}
