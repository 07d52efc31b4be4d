package graph_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"kido/internal/graph"
)

// asTsort makes this test binary behave as tsort does: a whole process that
// can be timed against it.
const asTsort = "KIDO_TEST_AS_TSORT"

func TestMain(m *testing.M) {
	if file := os.Getenv(asTsort); file != "" {
		if err := tsort(file, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func tsort(file string, out io.Writer) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	names, edges, err := graph.ReadPairs(in)
	if err != nil {
		return err
	}
	order, ok := graph.Build(len(names), edges).Order()
	if !ok {
		return errors.New("input has a cycle")
	}
	w := bufio.NewWriterSize(out, 256<<10)
	for _, node := range order {
		w.WriteString(names[node])
		w.WriteByte('\n')
	}
	return w.Flush()
}

func TestReadPairs(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	for _, c := range []struct {
		text  string
		names []string
		edges edges
		err   string
	}{
		{text: ""},
		{text: " \n\t\n"},
		{text: "a b", names: []string{"a", "b"}, edges: edges{{0, 1}}},
		{text: "a b\nb\tc\n a  c\n", names: []string{"a", "b", "c"}, edges: edges{{0, 1}, {1, 2}, {0, 2}}},
		{text: "a\nb\n", names: []string{"a", "b"}, edges: edges{{0, 1}}},
		{text: "a a b b", names: []string{"a", "b"}},
		{text: "a b a b", names: []string{"a", "b"}, edges: edges{{0, 1}, {0, 1}}},
		{text: "a b c", err: `odd number of names: the last one, "c", has no partner`},
		{text: long + " y", names: []string{long, "y"}, edges: edges{{0, 1}}},
	} {
		for kind, r := range map[string]io.Reader{
			"whole":      strings.NewReader(c.text),
			"byte-wise":  iotest.OneByteReader(strings.NewReader(c.text[:min(len(c.text), 100)])),
			"EOF with n": iotest.DataErrReader(strings.NewReader(c.text)),
		} {
			if kind == "byte-wise" && len(c.text) > 100 {
				continue
			}
			names, got, err := graph.ReadPairs(r)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("%s %.20q: error %v, want %s", kind, c.text, err, c.err)
				}
				continue
			}
			if err != nil || !slices.Equal(names, c.names) || !slices.Equal(got, c.edges) {
				t.Errorf("%s %.20q: %.60q, %v, %v", kind, c.text, names, got, err)
			}
		}
	}
	failing := iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("a b")))
	if _, _, err := graph.ReadPairs(failing); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("error of the reader came out as %v", err)
	}
}

// TestTsort orders one file with tsort and with this package and holds both
// answers to the pairs.
func TestTsort(t *testing.T) {
	file, pairs := pairsFile(t, 5000, 30000)
	checkOrder(t, "ours", run(t, "ours", file), pairs)
	if _, err := exec.LookPath("tsort"); err != nil {
		t.Skip("not compared with tsort: it is not installed (apt-get install coreutils)")
	}
	checkOrder(t, "tsort", run(t, "tsort", file), pairs)
}

// BenchmarkTsort compares whole processes on 100,000 nodes and 1,000,000 pairs,
// in turns: ours/tsort is the ratio of the sums of wall time.
func BenchmarkTsort(b *testing.B) {
	if _, err := exec.LookPath("tsort"); err != nil {
		b.Skip("tsort is not installed (apt-get install coreutils)")
	}
	file, pairs := pairsFile(b, 100_000, 1_000_000)
	took := map[string]time.Duration{}
	for b.Loop() {
		for _, who := range []string{"tsort", "ours"} {
			begin := time.Now()
			out := run(b, who, file)
			took[who] += time.Since(begin)
			b.StopTimer()
			checkOrder(b, who, out, pairs)
			b.StartTimer()
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took["ours"].Milliseconds())/float64(b.N), "ms-ours/op")
	b.ReportMetric(float64(took["tsort"].Milliseconds())/float64(b.N), "ms-tsort/op")
	b.ReportMetric(took["ours"].Seconds()/took["tsort"].Seconds(), "ours/tsort")
}

func run(tb testing.TB, who, file string) []byte {
	tb.Helper()
	cmd := exec.Command("tsort", file)
	if who == "ours" {
		cmd = exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asTsort+"="+file)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s: %v", who, err)
	}
	return out
}

// pairsFile writes m random pairs of n names that have an order.
func pairsFile(tb testing.TB, n, m int) (file string, pairs edges) {
	tb.Helper()
	pairs = randomEdges(rand.New(rand.NewPCG(3, 4)), n, m, false)
	var text bytes.Buffer
	for _, e := range pairs {
		fmt.Fprintf(&text, "%s %s\n", pairName(e.From), pairName(e.To))
	}
	file = filepath.Join(tb.TempDir(), "pairs")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file, pairs
}

func pairName(node int32) string { return fmt.Sprintf("service-%06d", node) }

func checkOrder(tb testing.TB, who string, out []byte, pairs edges) {
	tb.Helper()
	place := map[string]int{}
	lines := strings.Fields(string(out))
	for i, name := range lines {
		place[name] = i + 1
	}
	if len(place) != len(lines) {
		tb.Fatalf("%s: %d names on %d lines", who, len(place), len(lines))
	}
	for _, e := range pairs {
		from, to := place[pairName(e.From)], place[pairName(e.To)]
		if from == 0 || from >= to {
			tb.Fatalf("%s: %s on line %d, %s on line %d", who, pairName(e.From), from, pairName(e.To), to)
		}
	}
}

// FuzzReadPairs compares with the plain way to read pairs.
func FuzzReadPairs(f *testing.F) {
	f.Add("a b\nb c", uint8(3))
	f.Fuzz(func(t *testing.T, text string, chunk uint8) {
		words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\n' || r == '\t' })
		names, edges, err := graph.ReadPairs(chunked{strings.NewReader(text), int(chunk) + 1})
		if (err != nil) != (len(words)%2 == 1) {
			t.Fatalf("%d words: %v", len(words), err)
		}
		if err != nil {
			return
		}
		for i := 0; i < len(words); i += 2 {
			if words[i] == words[i+1] {
				continue
			}
			if e := edges[0]; names[e.From] != words[i] || names[e.To] != words[i+1] {
				t.Fatalf("pair %q %q came out as %q %q", words[i], words[i+1], names[e.From], names[e.To])
			}
			edges = edges[1:]
		}
		if len(edges) > 0 {
			t.Fatalf("%d edges too many", len(edges))
		}
		slices.Sort(words)
		if got := slices.Sorted(slices.Values(names)); !slices.Equal(got, slices.Compact(words)) {
			t.Fatalf("names %q of %q", got, text)
		}
	})
}

type chunked struct {
	r io.Reader
	n int
}

func (c chunked) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.n)]) }
