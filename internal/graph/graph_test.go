package graph_test

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"kido/internal/graph"
)

type edges = []graph.Edge

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		name  string
		n     int
		edges edges
		want  []int32
		cycle []int32
	}{
		{"nothing", 0, nil, []int32{}, nil},
		{"lowest first", 3, nil, []int32{0, 1, 2}, nil},
		{"diamond", 4, edges{{3, 1}, {3, 2}, {1, 0}, {2, 0}}, []int32{3, 1, 2, 0}, nil},
		{"an edge twice", 2, edges{{1, 0}, {1, 0}, {1, 0}}, []int32{1, 0}, nil},
		{"what becomes free jumps the queue", 4, edges{{2, 0}}, []int32{1, 2, 0, 3}, nil},
		{"itself", 2, edges{{1, 1}}, []int32{0}, []int32{1}},
		{"itself before a longer one", 4, edges{{0, 1}, {1, 0}, {3, 3}}, []int32{2}, []int32{3}},
		{"round", 5, edges{{4, 2}, {2, 3}, {3, 4}, {0, 4}, {3, 1}}, []int32{0}, []int32{2, 3, 4}},
		{"the short way", 6, edges{{0, 1}, {1, 2}, {2, 3}, {3, 0}, {1, 0}, {5, 0}}, []int32{4, 5}, []int32{0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := graph.Build(c.n, c.edges)
			order, ok := g.Order()
			if !slices.Equal(order, c.want) || ok != (c.cycle == nil) {
				t.Errorf("Order() = %v, %v; want %v, %v", order, ok, c.want, c.cycle == nil)
			}
			if cycle := g.Cycle(); !slices.Equal(cycle, c.cycle) || (cycle == nil) != (c.cycle == nil) {
				t.Errorf("Cycle() = %v, want %v", cycle, c.cycle)
			}
		})
	}
}

func TestReach(t *testing.T) {
	g := graph.Build(6, edges{{0, 1}, {1, 2}, {3, 2}, {4, 4}})
	for _, c := range []struct {
		starts  []int32
		forward bool
		want    []bool
	}{
		{nil, true, []bool{5: false}},
		{[]int32{0}, true, []bool{0: true, 1: true, 2: true, 5: false}},
		{[]int32{2}, true, []bool{2: true, 5: false}},
		{[]int32{2, 4, 4}, false, []bool{0: true, 1: true, 2: true, 3: true, 4: true, 5: false}},
	} {
		if got := g.Reach(c.starts, c.forward); !slices.Equal(got, c.want) {
			t.Errorf("Reach(%v, %v) = %v, want %v", c.starts, c.forward, got, c.want)
		}
	}
}

// TestRandom holds the promises of the package against plain definitions.
func TestRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		n := 1 + random.IntN(200)
		all := randomEdges(random, n, random.IntN(3*n), random.IntN(4) == 0)
		g := graph.Build(n, all)

		shuffled := slices.Clone(all)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if !reflect.DeepEqual(graph.Build(n, append(shuffled, all...)), g) {
			t.Fatalf("the order of edges, or repeating them, changed the graph of %v", all)
		}
		for _, e := range all {
			if !slices.Contains(g.Next(e.From), e.To) || !slices.Contains(g.Prev(e.To), e.From) {
				t.Fatalf("edge %v is lost", e)
			}
		}

		order, ok := g.Order()
		if cycle := g.Cycle(); !ok {
			if len(cycle) == 0 || cycle[0] != slices.Min(cycle) {
				t.Fatalf("no order and cycle %v", cycle)
			}
			for i, node := range cycle {
				if !slices.Contains(g.Next(node), cycle[(i+1)%len(cycle)]) {
					t.Fatalf("cycle %v: no edge out of %d", cycle, node)
				}
			}
			continue
		} else if cycle != nil {
			t.Fatalf("an order and cycle %v", cycle)
		}
		if want := smallestOrder(n, all); !slices.Equal(order, want) {
			t.Fatalf("Order() = %v, want %v", order, want)
		}
	}
}

// smallestOrder is the definition: again and again the lowest node without an
// unplaced predecessor.
func smallestOrder(n int, all edges) []int32 {
	placed := make([]bool, n)
	var order []int32
	for len(order) < n {
		for node := range int32(n) {
			blocked := placed[node] || slices.ContainsFunc(all, func(e graph.Edge) bool {
				return e.To == node && !placed[e.From]
			})
			if !blocked {
				placed[node] = true
				order = append(order, node)
				break
			}
		}
	}
	return order
}

// randomEdges runs along a hidden order of the nodes, or anywhere.
func randomEdges(random *rand.Rand, n, m int, cyclic bool) edges {
	hidden := random.Perm(n)
	all := edges{}
	for len(all) < m {
		a, b := random.IntN(n), random.IntN(n)
		if !cyclic {
			if a == b {
				m--
				continue
			}
			a, b = min(a, b), max(a, b)
		}
		all = append(all, graph.Edge{From: int32(hidden[a]), To: int32(hidden[b])})
	}
	return all
}
