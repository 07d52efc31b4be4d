package demo

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kido/internal/initsys"
)

// marks reads "web1 up, web2 down".
func marks(text string) (all []mark) {
	for part := range strings.SplitSeq(text, ", ") {
		host, what, _ := strings.Cut(part, " ")
		all = append(all, mark{host: host, what: event(what)})
	}
	return all
}

func TestMarks(t *testing.T) {
	t.Parallel()
	webs := []string{"web1", "web2", "web3"}
	for _, c := range []struct {
		name, marks string
		births      map[string]int
		away        int
		early       bool
	}{
		{"nothing", "", map[string]int{}, 0, false},
		{
			"one at a time",
			"db1 born, db1 up, web1 down, web1 born, web1 up, web2 down, web2 born, web2 up",
			map[string]int{"db1": 1, "web1": 1, "web2": 1},
			1, false,
		},
		{
			"two at once",
			"db1 born, db1 up, web1 down, web2 down, web1 born, web2 born, web1 up, web2 up",
			map[string]int{"db1": 1, "web1": 1, "web2": 1},
			2, false,
		},
		{
			"twice",
			"web1 down, web1 born, web1 up, web1 down, web1 born, web1 up",
			map[string]int{"web1": 2},
			1, true,
		},
		{
			"before the database",
			"db1 down, db1 born, web1 down, db1 up, web1 born, web1 up",
			map[string]int{"db1": 1, "web1": 1},
			1, true,
		},
		{
			"born but not up",
			"db1 up, web1 down, web1 born, web2 down",
			map[string]int{"web1": 1},
			2, false,
		},
		{
			"the power of one is off",
			"web3 cut, db1 born, db1 up, web1 down, web1 born, web1 up",
			map[string]int{"db1": 1, "web1": 1},
			2, true,
		},
	} {
		m := marks(c.marks)
		if got := births(m); !maps.Equal(got, c.births) {
			t.Errorf("%s: births: got %v, want %v", c.name, got, c.births)
		}
		if got := mostAway(m, webs); got != c.away {
			t.Errorf("%s: away: got %d, want %d", c.name, got, c.away)
		}
		if got := touchedBefore(m, "db1", webs); got != c.early {
			t.Errorf("%s: touched before the database was up: got %v, want %v", c.name, got, c.early)
		}
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	l := life(filepath.Join(t.TempDir(), lifeFile))
	want := []mark{
		{"db1", isBorn, initsys.Child{Boot: "b", PID: 12, Start: 345}},
		{"web1", isCut, initsys.Child{Boot: "b", PID: 13, Start: 1 << 60}},
	}
	if err := l.append(want[0]); !os.IsNotExist(err) {
		t.Errorf("a line makes the file that was taken away: %v", err)
	}
	if err := os.WriteFile(string(l), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range want {
		if err := l.append(m); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.read(); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if err := os.WriteFile(string(l), []byte("db1 born\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := l.read(); err == nil {
		t.Errorf("half a line is read as %v", got)
	}
}
