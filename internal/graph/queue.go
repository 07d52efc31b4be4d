package graph

import "math/bits"

// queue is a set of node numbers from which the lowest is taken: a 64-ary tree
// of bits in which a parent's bit says that the child word is not zero. Adding
// and taking walk one path, four words for sixteen million nodes.
type queue struct {
	levels [][]uint64 // leaves first; the last has one word
}

func newQueue(n int) queue {
	var q queue
	for {
		n = (n + 63) / 64
		q.levels = append(q.levels, make([]uint64, max(n, 1)))
		if n <= 1 {
			return q
		}
	}
}

func (q queue) add(i int32) {
	for _, words := range q.levels {
		was := words[i/64]
		words[i/64] = was | 1<<(i%64)
		if was != 0 {
			return
		}
		i /= 64
	}
}

func (q queue) takeLowest() (lowest int32, ok bool) {
	top := len(q.levels) - 1
	if q.levels[top][0] == 0 {
		return 0, false
	}
	for level := top; level >= 0; level-- {
		lowest = lowest*64 + int32(bits.TrailingZeros64(q.levels[level][lowest]))
	}
	i := lowest
	for _, words := range q.levels {
		words[i/64] &^= 1 << (i % 64)
		if words[i/64] != 0 {
			break
		}
		i /= 64
	}
	return lowest, true
}
