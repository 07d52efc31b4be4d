package gate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kido/internal/sockets"
	"kido/internal/wire"
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

// TestFit: what is for people alone is not what a reply becomes too long by.
func TestFit(t *testing.T) {
	status := wire.Status{Instance: "web@web1", State: wire.StateUp, Token: "t", Wanted: wire.WantedUp}
	long := wire.Reply{Code: wire.CodeOK, Status: &status}
	for n := range MaxPeers {
		status.Held = append(status.Held, wire.Held{Upstream: fmt.Sprintf("db@db%03d", n), Open: 64, Silent: slices.Repeat([]time.Duration{time.Hour}, wire.MaxSilent)})
	}
	word := wire.Probed{About: "tcp db1:1", Word: strings.Repeat("x", 256)}
	many := wire.Reply{Code: wire.CodeOK, Status: &wire.Status{Instance: "web@web1", State: wire.StateBlind}, Probes: slices.Repeat([]wire.Probed{word}, 500)}
	for _, r := range []wire.Reply{long, many} {
		got := fit(r)
		if got.Code != wire.CodeOK || got.Status.Token != r.Status.Token || len(got.Format()) > wire.MaxReply {
			t.Errorf("%s: %s, %d bytes", got.Code, got.Word, len(got.Format()))
		}
	}
	if len(status.Held) != MaxPeers {
		t.Error("the reply itself was changed")
	}
	status.Held = status.Held[:2]
	if got := fit(long); len(got.Status.Held) != 2 {
		t.Errorf("of a short one %d are left", len(got.Status.Held))
	}
}
