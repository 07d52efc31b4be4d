package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"kido/internal/keys"
	"kido/internal/site"
)

// TestRevokeKeys: a key goes among the revoked ones and out of every other file,
// and nothing else changes; doing it again changes nothing at all.
func TestRevokeKeys(t *testing.T) {
	t.Parallel()
	ring := t.TempDir()
	var public [4]string
	for n := range public {
		var err error
		if public[n], err = keys.New(filepath.Join(t.TempDir(), "key"), "a key"); err != nil {
			t.Fatal(err)
		}
	}
	gone, old, kept, before := public[0], public[1], public[2], public[3]
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(ring, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("db1.pub", "# of db1\n"+gone+"\n"+old+"\n")
	put("people/ann.pub", "# Ann\nfrom=\"192.0.2.1,2001:db8::/64\" "+kept+"\nfrom=\"192.0.2.1\" "+blob(gone)+" under another comment\n")
	put("people/eve.pub", "from=\"192.0.2.9\" "+kept+"\nthis is no key\n")
	put("authorities/main.pub", gone)
	put("revoked", "# by hand\n"+before) // without its last line's end
	check := func(step string) {
		t.Helper()
		for name, want := range map[string]string{
			"db1.pub":              "",
			"people/ann.pub":       "# Ann\nfrom=\"192.0.2.1,2001:db8::/64\" " + kept + "\n",
			"people/eve.pub":       "from=\"192.0.2.9\" " + kept + "\nthis is no key\n",
			"authorities/main.pub": "",
			"revoked":              "# by hand\n" + before + "\n# revoked on DATE: db1\n" + gone + "\n# revoked on DATE: db1\n" + old + "\n",
		} {
			text, err := os.ReadFile(filepath.Join(ring, name))
			if os.IsNotExist(err) != (want == "") {
				t.Errorf("%s: %s: %v", step, name, err)
			}
			got := regexp.MustCompile(`on \d{4}-\d{2}-\d{2}:`).ReplaceAllString(string(text), "on DATE:")
			if got != want {
				t.Errorf("%s: %s:\n%s\nwant:\n%s", step, name, got, want)
			}
		}
	}
	publics, name, err := findKeys(ring, "db1")
	if err != nil || name != "db1" || strings.Join(publics, ",") != gone+","+old {
		t.Fatalf("%q %q %v", publics, name, err)
	}
	if err := revokeKeys(ring, "revoked", name, publics...); err != nil {
		t.Fatal(err)
	}
	check("revoked")

	// The same words find the same keys, now that they are nowhere else; so do
	// their fingerprints.
	again, name, err := findKeys(ring, "db1")
	if err != nil || name != "db1" || strings.Join(again, ",") != strings.Join(publics, ",") {
		t.Fatalf("again: %q %q %v", again, name, err)
	}
	fingerprint, err := keys.Fingerprint(gone)
	if err != nil {
		t.Fatal(err)
	}
	if one, _, err := findKeys(ring, fingerprint); err != nil || len(one) != 1 || one[0] != gone {
		t.Errorf("by its fingerprint: %q, %v", one, err)
	}
	if err := revokeKeys(ring, "revoked", name, again...); err != nil {
		t.Fatal(err)
	}
	check("again")
	if _, _, err := findKeys(ring, "main"); err == nil {
		t.Error("a host of the name of an authority is found")
	}
}

// TestRevokedKeyOfHost: that a host's key is revoked is said where it has no other, and
// not while it is being given one.
func TestRevokedKeyOfHost(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("site.yaml", []byte("site: shop\nhosts: {db1: 192.0.2.1, web1: 192.0.2.2}\nservices: {web: {hosts: [db1, web1], systemd: apache2}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	ring := t.TempDir()
	var public [2]string
	for n := range public {
		if public[n], err = keys.New(filepath.Join(t.TempDir(), "key"), "a key"); err != nil {
			t.Fatal(err)
		}
	}
	if err := revokeKeys(ring, "revoked", "db1", public[0]); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		next   string
		warned bool
	}{
		{"", true},
		{public[1], false},
	} {
		said, err := os.Create(filepath.Join(t.TempDir(), "said"))
		if err != nil {
			t.Fatal(err)
		}
		defer said.Close()
		if _, err := (&app{stderr: said}).keepAnnounceKeys(s, s.Host("db1"), ring, false, public[0], c.next); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(said.Name())
		if err != nil {
			t.Fatal(err)
		}
		if warned := strings.Contains(string(text), "db1: its key is revoked, so that it reaches nothing: kido keys rotate db1"); warned != c.warned || !warned && len(text) > 0 {
			t.Errorf("next %q: said %q", c.next, text)
		}
		kept, err := keyLines(filepath.Join(ring, "db1.pub"))
		if err != nil || strings.TrimSpace(strings.Join(kept, "")) != c.next {
			t.Errorf("next %q: kept %q, %v", c.next, kept, err)
		}
	}
}

// TestRevokeAtOnce: of several who revoke at the same time none undoes what another
// did.
func TestRevokeAtOnce(t *testing.T) {
	t.Parallel()
	ring := t.TempDir()
	var all sync.WaitGroup
	var public [12]string
	for n := range public {
		var err error
		if public[n], err = keys.New(filepath.Join(t.TempDir(), "key"), "a key"); err != nil {
			t.Fatal(err)
		}
	}
	for n := range public {
		all.Go(func() {
			if err := revokeKeys(ring, "revoked", "db1", public[n]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	revoked, err := loadRevoked(ring)
	if err != nil {
		t.Fatal(err)
	}
	for n := range public {
		if !revoked.has(public[n]) {
			t.Errorf("key %d is not among the revoked ones", n)
		}
	}
}
