package sim

import (
	"kido/internal/gate"
	"kido/internal/rule"
)

// file is the state file of a node. A process reads what is visible; a power cut
// leaves that, or what was there before and has not been replaced durably.
type file struct {
	now     content
	before  content // what a power cut may bring back, where unsynced
	pending bool    // the change from before to now is not on disk yet
	old     content // of the snapshot
}

// content is what a state file says.
type content struct {
	rec     gate.Record
	there   bool
	damaged bool
}

// The ways in which a save ends before it is done, in the order in which a gate
// gets there.
const (
	tempWritten int8 = iota // the temporary file is there, under its own name
	renamed                 // the new record is visible, the folder not synced
	saved                   // all is durable, and nobody was told
)

var saveDeaths = [...]string{"before the rename", "after the rename", "after the sync"}

// The ways in which a save fails.
const (
	diskFull   int8 = iota // nothing was written
	fsyncFails             // of the folder: the rename may be on disk, or not
)

var saveFailures = [...]string{"the disk is full", "fsync fails"}

// put makes a record visible, and durable unless the rules say that nobody waits
// for that. It is written and read back on the way, as the disk would have it.
func (f *file) put(r gate.Record, durable bool) {
	back, err := gate.ParseRecord(r.Format(), r.Instance)
	if err != nil {
		panic("a gate wrote what no gate can read: " + err.Error())
	}
	if !f.pending {
		f.before = f.now
	}
	f.now = content{rec: back, there: true}
	f.pending = !durable || !rule.Holds(rule.DurableFirst)
	if !f.pending {
		f.before = content{}
	}
}

// cut is what a power cut leaves: the new content or the old.
func (f *file) cut(old bool) {
	if f.pending && old {
		f.now = f.before
	}
	f.pending, f.before = false, content{}
}

// load is what a gate reads.
func (f *file) load(instance string) gate.Loaded {
	switch {
	case f.now.damaged:
		return gate.Loaded{Unreadable: "its checksum is wrong"}
	case !f.now.there:
		return gate.Loaded{Record: gate.Record{Instance: instance}}
	}
	return gate.Loaded{Record: f.now.rec}
}
