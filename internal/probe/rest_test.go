package probe

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// TestRest: a reader who comes when the time is over finds what was written before, and
// waits for nobody who could write more.
func TestRest(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		written string
		most    int
		want    string
	}{{"ready 12\n", 100, "ready 12\n"}, {"ready 12\n", 5, "ready"}, {"", 100, ""}, {"ready", 0, ""}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		if _, err := io.WriteString(w, x.written); err != nil {
			t.Fatal(err)
		}
		if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		late := func() {
			if text, err := io.ReadAll(r); len(text) > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q: read %q, %v", x.written, text, err)
			}
		}
		late()
		if got := rest(r, x.most); string(got) != x.want {
			t.Errorf("of %q got %q, want %q", x.written, got, x.want)
		}
		late()
	}
}
