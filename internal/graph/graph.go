// Package graph is a directed graph of numbered nodes that is built once and
// then only asked: topological order, a cycle, what can be reached.
//
// It promises: the answers depend on the nodes' numbers and the set of edges
// alone, not on the order in which edges were given; lists of neighbours are
// sorted and hold each neighbour once; every question but Cycle takes time in
// proportion to nodes and edges (times the depth of a 64-ary tree for Order).
// A Graph is never changed after Build and may be read by many goroutines.
package graph

import "slices"

// Edge says that From comes before To.
type Edge struct{ From, To int32 }

// Graph holds the neighbours of all nodes in two flat arrays (compressed
// sparse rows).
type Graph struct {
	next, prev rows
}

// rows lists the neighbours of node i in cell[at[i]:at[i+1]].
type rows struct {
	at   []int32 // one more than nodes
	cell []int32
}

func (r rows) of(node int32) []int32 {
	lo, hi := r.at[node], r.at[node+1]
	return r.cell[lo:hi:hi]
}

// Build makes the graph of the nodes 0 … n-1. An edge given twice counts once;
// an edge from a node to itself is kept, and is a cycle. Every edge's ends must
// be nodes, and there may be at most 2³¹-1 edges.
func Build(n int, edges []Edge) *Graph {
	// Bucketing by one end, then by the other, leaves every row sorted: no
	// comparison sort, and duplicates become neighbours.
	unsorted := bucket(n, edges)
	next := transpose(unsorted)
	next.dedup()
	return &Graph{next: next, prev: transpose(next)}
}

// bucket gathers the predecessors of each node, in the order of edges.
func bucket(n int, edges []Edge) rows {
	r := rows{make([]int32, n+1), make([]int32, len(edges))}
	for _, e := range edges {
		r.at[e.To]++
	}
	r.sum()
	for _, e := range edges {
		r.at[e.To]--
		r.cell[r.at[e.To]] = e.From
	}
	return r
}

// transpose turns every edge round; the rows of the result are sorted.
func transpose(r rows) rows {
	t := rows{make([]int32, len(r.at)), make([]int32, len(r.cell))}
	for _, to := range r.cell {
		t.at[to]++
	}
	t.sum()
	for i := int32(len(r.at)) - 2; i >= 0; i-- {
		for _, to := range r.of(i) {
			t.at[to]--
			t.cell[t.at[to]] = i
		}
	}
	return t
}

// sum turns the counts in at into the end of each row; filling the rows from
// the end then leaves at holding their beginnings.
func (r rows) sum() {
	var total int32
	for i, count := range r.at {
		total += count
		r.at[i] = total
	}
}

// dedup drops repeated cells of sorted rows.
func (r *rows) dedup() {
	kept, from := int32(0), int32(0)
	for i := range len(r.at) - 1 {
		begin, to := kept, r.at[i+1]
		for _, cell := range r.cell[from:to] {
			if kept == begin || r.cell[kept-1] != cell {
				r.cell[kept] = cell
				kept++
			}
		}
		r.at[i+1], from = kept, to
	}
	r.cell = r.cell[:kept]
}

// Len is the number of nodes.
func (g *Graph) Len() int { return len(g.next.at) - 1 }

// Next lists the nodes that come right after node, sorted. It is not to be
// changed.
func (g *Graph) Next(node int32) []int32 { return g.next.of(node) }

// Prev lists the nodes that come right before node, sorted. It is not to be
// changed.
func (g *Graph) Prev(node int32) []int32 { return g.prev.of(node) }

// Order lists all nodes, each after all that come before it; where several
// could be next the lowest number is (of all topological orders it is the
// lexicographically smallest). Where there is a cycle ok is false and the
// nodes on it, and those behind it, are missing.
func (g *Graph) Order() (order []int32, ok bool) {
	n := g.Len()
	waiting := make([]int32, n)
	free := newQueue(n)
	for i := range int32(n) {
		waiting[i] = int32(len(g.Prev(i)))
		if waiting[i] == 0 {
			free.add(i)
		}
	}
	order = make([]int32, 0, n)
	for {
		node, any := free.takeLowest()
		if !any {
			return order, len(order) == n
		}
		order = append(order, node)
		for _, next := range g.Next(node) {
			if waiting[next]--; waiting[next] == 0 {
				free.add(next)
			}
		}
	}
}

// Cycle returns the nodes of one cycle, in the direction of the edges and
// beginning with the lowest number, or nil where there is none. It is the
// shortest through its first node, though others may be shorter still; an edge
// from a node to itself is preferred to any other.
func (g *Graph) Cycle() []int32 {
	order, ok := g.Order()
	if ok {
		return nil
	}
	stuck := make([]bool, g.Len())
	for i := range stuck {
		stuck[i] = true
	}
	for _, node := range order {
		stuck[node] = false
	}
	start := int32(-1)
	for node := range int32(g.Len()) {
		if _, self := slices.BinarySearch(g.Next(node), node); self {
			return []int32{node}
		}
		if start < 0 && stuck[node] {
			start = node
		}
	}
	// What is stuck has something stuck before it: going back must come round,
	// and from the first repeated node on everything is on a cycle.
	seen := make([]bool, g.Len())
	for !seen[start] {
		seen[start] = true
		i := slices.IndexFunc(g.Prev(start), func(p int32) bool { return stuck[p] })
		start = g.Prev(start)[i]
	}
	round := g.shortestRound(start, stuck)
	lowest := slices.Index(round, slices.Min(round))
	return append(slices.Clone(round[lowest:]), round[:lowest]...)
}

// shortestRound searches breadth first from a node on a cycle back to it.
func (g *Graph) shortestRound(start int32, within []bool) []int32 {
	from := map[int32]int32{}
	for queue := []int32{start}; len(queue) > 0; queue = queue[1:] {
		for _, next := range g.Next(queue[0]) {
			if _, met := from[next]; met || !within[next] {
				continue
			}
			from[next] = queue[0]
			if next != start {
				queue = append(queue, next)
				continue
			}
			round := []int32{start}
			for node := from[start]; node != start; node = from[node] {
				round = append(round, node)
			}
			slices.Reverse(round[1:])
			return round
		}
	}
	return nil
}

// Reach marks the starts and every node that can be reached from them along
// the edges, or against them where forward is false.
func (g *Graph) Reach(starts []int32, forward bool) []bool {
	near := g.next
	if !forward {
		near = g.prev
	}
	reached := make([]bool, g.Len())
	var stack []int32
	visit := func(node int32) {
		if !reached[node] {
			reached[node] = true
			stack = append(stack, node)
		}
	}
	for _, node := range starts {
		visit(node)
	}
	for len(stack) > 0 {
		node := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, other := range near.of(node) {
			visit(other)
		}
	}
	return reached
}
