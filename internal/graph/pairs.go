package graph

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
)

// ReadPairs reads the input of tsort: names in pairs, separated by spaces, tabs
// and newlines. The first of a pair comes before the second; a name paired with
// itself is only a node. Names are numbered in the order of their first
// appearance. An odd number of names is an error, as is one of r.
func ReadPairs(r io.Reader) (names []string, edges []Edge, err error) {
	in := newInterner()
	buf := make([]byte, 64<<10)
	kept := 0 // bytes of a name cut by the end of the last read
	half := int32(-1)
	for err == nil {
		if kept == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
		var n int
		n, err = r.Read(buf[kept:])
		text := buf[:kept+n]
		rest := in.split(text, err != nil)
		in.resolve(text)
		kept = copy(buf, text[rest:])
		if len(edges)+len(in.words) > math.MaxInt32 {
			return nil, nil, fmt.Errorf("more than %d pairs: split the input", math.MaxInt32)
		}
		if cap(edges)-len(edges) < len(in.words) {
			edges = slices.Grow(edges, max(len(edges), len(in.words)))
		}
		for _, w := range in.words {
			if half < 0 {
				half = w.node
				continue
			}
			if half != w.node {
				edges = append(edges, Edge{half, w.node})
			}
			half = -1
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	names = in.names()
	if half >= 0 {
		return nil, nil, fmt.Errorf("odd number of names: the last one, %q, has no partner", names[half])
	}
	return names, edges, nil
}

// interner numbers names by a hash table with open addressing.
//
// Nearly all its time would be spent on waiting for memory: for a slot, for a
// name's place, for the name. So it works on a bufferful of words in passes of
// which each touches one of these, and no word waits for the one before it.
type interner struct {
	seed  maphash.Seed
	slots []slot // a power of two, at most half full
	text  []byte // all names, one after another
	ends  []int  // of each name in text; the first is the beginning of the first
	words []word // of the buffer at hand
}

type slot struct {
	tag  uint32 // upper half of the hash; the lower chose the slot
	node int32  // number + 1; 0: free
}

type word struct {
	begin, end int
	hash       uint64
	node       int32
}

func newInterner() *interner {
	return &interner{seed: maphash.MakeSeed(), slots: make([]slot, 1<<12), ends: []int{0}}
}

// split finds the words of text and hashes them. It returns where a word begins
// that the end of text may have cut; at the end of all input there is none.
func (in *interner) split(text []byte, last bool) (rest int) {
	in.words = in.words[:0]
	begin := 0
	add := func(end int) {
		if begin < end {
			in.words = append(in.words, word{begin, end, maphash.Bytes(in.seed, text[begin:end]), -1})
		}
		begin = end + 1
	}
	for i, c := range text {
		if c == ' ' || c == '\n' || c == '\t' {
			add(i)
		}
	}
	if last {
		add(len(text))
	}
	return min(begin, len(text))
}

// resolve gives every word its number.
func (in *interner) resolve(text []byte) {
	mask := uint64(len(in.slots) - 1)
	for i := range in.words {
		w := &in.words[i]
		if s := in.slots[w.hash&mask]; s.tag == uint32(w.hash>>32) {
			w.node = s.node - 1
		}
	}
	for i := range in.words {
		w := &in.words[i]
		name := text[w.begin:w.end]
		if w.node < 0 || string(in.name(w.node)) != string(name) {
			w.node = in.number(w.hash, name)
		}
	}
}

func (in *interner) name(node int32) []byte { return in.text[in.ends[node]:in.ends[node+1]] }

func (in *interner) number(hash uint64, name []byte) int32 {
	tag, mask := uint32(hash>>32), uint64(len(in.slots)-1)
	i := hash & mask
	for ; in.slots[i].node != 0; i = (i + 1) & mask {
		if s := in.slots[i]; s.tag == tag && string(in.name(s.node-1)) == string(name) {
			return s.node - 1
		}
	}
	in.text = append(in.text, name...)
	in.ends = append(in.ends, len(in.text))
	in.slots[i] = slot{tag, int32(len(in.ends) - 1)}
	if 2*len(in.ends) > len(in.slots) {
		in.grow()
	}
	return int32(len(in.ends) - 2)
}

func (in *interner) grow() {
	in.slots = make([]slot, 4*len(in.slots))
	mask := uint64(len(in.slots) - 1)
	for node := range int32(len(in.ends) - 1) {
		hash := maphash.Bytes(in.seed, in.name(node))
		i := hash & mask
		for in.slots[i].node != 0 {
			i = (i + 1) & mask
		}
		in.slots[i] = slot{uint32(hash >> 32), node + 1}
	}
}

func (in *interner) names() []string {
	text := string(in.text)
	names := make([]string, len(in.ends)-1)
	for i := range names {
		names[i] = text[in.ends[i]:in.ends[i+1]]
	}
	return names
}
