package plan

import "hash/maphash"

// index finds the numbers of names. It is a hash table with open addressing
// that answers many questions at once: the time goes into waiting for memory,
// and in passes that touch one thing each no question waits for another.
type index struct {
	seed  maphash.Seed
	names []string
	slots []slot // a power of two, at most half full
}

type slot struct {
	tag    uint32 // upper half of the hash; the lower chose the slot
	number int32  // + 1; 0: free
}

// query is a name to be found; number is -1 where there is none.
type query struct {
	name   string
	hash   uint64
	number int32
}

// newIndex numbers names from 0. Of equal names the first counts.
func newIndex(names []string) *index {
	size := 8
	for size < 2*len(names) {
		size *= 2
	}
	x := &index{maphash.MakeSeed(), names, make([]slot, size)}
	for n, name := range names {
		hash := maphash.String(x.seed, name)
		if i, free := x.probe(hash, name); free {
			x.slots[i] = slot{uint32(hash >> 32), int32(n + 1)}
		}
	}
	return x
}

// probe finds the slot of a name, or the free one where it would be.
func (x *index) probe(hash uint64, name string) (i uint64, free bool) {
	mask := uint64(len(x.slots) - 1)
	for i = hash & mask; x.slots[i].number != 0; i = (i + 1) & mask {
		if x.slots[i].tag == uint32(hash>>32) && x.names[x.slots[i].number-1] == name {
			return i, false
		}
	}
	return i, true
}

// find fills in the numbers of all queries.
func (x *index) find(queries []query) {
	mask := uint64(len(x.slots) - 1)
	for i := range queries {
		queries[i].hash = maphash.String(x.seed, queries[i].name)
	}
	for i := range queries {
		q := &queries[i]
		q.number = -1
		if s := x.slots[q.hash&mask]; s.tag == uint32(q.hash>>32) {
			q.number = s.number - 1
		}
	}
	for i := range queries {
		q := &queries[i]
		if q.number >= 0 && x.names[q.number] == q.name {
			continue
		}
		slot, _ := x.probe(q.hash, q.name)
		q.number = x.slots[slot].number - 1
	}
}

// number finds one name; ok is false where there is none.
func (x *index) number(name string) (number int32, ok bool) {
	slot, free := x.probe(maphash.String(x.seed, name), name)
	return x.slots[slot].number - 1, !free
}
