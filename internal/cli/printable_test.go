package cli

import (
	"bytes"
	"testing"
)

// TestPrintable: nothing that a host says moves the cursor, however it is cut.
func TestPrintable(t *testing.T) {
	t.Parallel()
	const said = "a\tb\r\n\x1b[2J\x07 起動 \u009b31m \xff\x9b \u202e.\n"
	const want = "a\tb\r\n?[2J? 起動 ?31m ?? ?.\n"
	for size := 1; size <= len(said); size++ {
		var out bytes.Buffer
		w := &printable{to: &out}
		for rest := []byte(said); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			part := rest[:min(size, len(rest))]
			if n, err := w.Write(part); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if out.String() != want {
			t.Errorf("in parts of %d: %q", size, out.String())
		}
	}
}
