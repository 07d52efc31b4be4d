package gate

import (
	"net/netip"
	"testing"
	"time"

	"kido/internal/sockets"
)

// TestReckoned: what has been silent for the whole of a life is from before it, however
// long that has lasted; and so it is where nothing is known of the life.
func TestReckoned(t *testing.T) {
	for _, age := range []time.Duration{0, time.Second, 10 * time.Second, time.Hour, 24 * time.Hour, 40 * 24 * time.Hour} {
		if silent := max(age, 2*time.Second); sockets.Stale([]sockets.Connection{{Silent: silent}}, reckoned(age)) != 1 {
			t.Errorf("a connection that was silent for %v is not stale in a life of %v", silent, age)
		}
	}
	if sockets.Stale([]sockets.Connection{{Silent: 58 * time.Minute}}, reckoned(time.Hour)) != 0 {
		t.Error("a connection that was heard of 2 minutes after the start is stale")
	}
}

// TestResolve: an address is as the kernel's list has it.
func TestResolve(t *testing.T) {
	for of, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1:80", "[::ffff:192.0.2.1]:80": "192.0.2.1:80", "[fe80::1%lo]:80": "[fe80::1]:80",
	} {
		found, err := resolve(t.Context(), of)
		if err != nil || len(found) != 1 || found[0] != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %v, %v", of, found, err)
		}
	}
}
