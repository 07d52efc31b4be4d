package keys

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// pairIn makes a key pair in a folder of its own.
func pairIn(t *testing.T) (path, public string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "id_ed25519")
	public, err := New(path, "kido shop: db1 announces")
	must(t, err)
	return path, public
}

// holds is the public half of the private key in a file; "" where there is none.
func holds(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return ""
	}
	must(t, err)
	signer, err := ssh.ParsePrivateKey(text)
	must(t, err)
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

func TestRotation(t *testing.T) {
	t.Parallel()
	path, first := pairIn(t)
	is := func(what string, got Rotation, err error, want Rotation) {
		t.Helper()
		if err != nil || got != want {
			t.Fatalf("%s: %+v, %v\nwant %+v", what, got, err, want)
		}
		if now, err := LoadRotation(path); err != nil || now != want {
			t.Fatalf("%s: on disk: %+v, %v\nwant %+v", what, now, err, want)
		}
		if private := holds(t, path); !strings.HasPrefix(want.Current, private+" ") {
			t.Fatalf("%s: the private key is that of %s, want %s", what, private, want.Current)
		}
		if private := holds(t, NextPath(path)); want.Next != "" && !strings.HasPrefix(want.Next, private+" ") || want.Next == "" && private != "" {
			t.Fatalf("%s: the next private key is that of %q, want %q", what, private, want.Next)
		}
	}
	r, err := LoadRotation(path)
	is("none", r, err, Rotation{Current: first})
	if r, err := FinishRotation(path); err == nil {
		t.Errorf("finished what was not begun: %+v", r)
	}
	r, err = AbandonRotation(path)
	is("nothing to abandon", r, err, Rotation{Current: first})
	r, err = CloseRotation(path)
	is("nothing to close", r, err, Rotation{Current: first})

	r, err = BeginRotation(path)
	next := r.Next
	if next == first || !strings.HasSuffix(next, " kido shop: db1 announces") {
		t.Fatalf("the next key is %q, the first %q", next, first)
	}
	is("begun", r, err, Rotation{Current: first, Next: next})
	r, err = BeginRotation(path)
	is("begun again", r, err, Rotation{Current: first, Next: next})
	if _, err := CloseRotation(path); err == nil {
		t.Error("closed in the overlap")
	}
	must(t, os.WriteFile(path+".next-cert.pub", []byte("signed"), 0o644))
	r, err = FinishRotation(path)
	if text, err := os.ReadFile(path + "-cert.pub"); string(text) != "signed" {
		t.Errorf("its certificate: %q, %v", text, err)
	}
	is("finished", r, err, Rotation{Current: next, Old: first})
	r, err = FinishRotation(path)
	is("finished again", r, err, Rotation{Current: next, Old: first})
	if r, err := BeginRotation(path); err == nil {
		t.Errorf("begun before the last was closed: %+v", r)
	}
	r, err = CloseRotation(path)
	is("closed", r, err, Rotation{Current: next})

	r, err = BeginRotation(path)
	third := r.Next
	is("begun once more", r, err, Rotation{Current: next, Next: third})
	must(t, os.WriteFile(path+".next-cert.pub", []byte("signed in vain"), 0o644))
	r, err = AbandonRotation(path)
	is("abandoned", r, err, Rotation{Current: next, Old: third})
	r, err = AbandonRotation(path)
	is("abandoned again", r, err, Rotation{Current: next, Old: third})
	r, err = CloseRotation(path)
	is("closed for good", r, err, Rotation{Current: next})
	if left, _ := filepath.Glob(path + "*"); !slices.Equal(left, []string{path, path + "-cert.pub", path + ".pub"}) {
		t.Errorf("left behind: %q", left)
	}
}

// TestMatches: the halves of a pair, while it changes as well; and what is no key.
func TestMatches(t *testing.T) {
	t.Parallel()
	path, _ := pairIn(t)
	other, _ := pairIn(t)
	is := func(what, want string) {
		t.Helper()
		err := Matches(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	is("a pair", "")
	_, err := BeginRotation(path)
	must(t, err)
	is("in the overlap", "")
	must(t, os.WriteFile(path+".old.pub", []byte("old"), 0o644)) // cut off between the two renames
	must(t, os.Rename(NextPath(path), path))
	is("between the halves", "")
	must(t, os.Rename(NextPath(path)+".pub", path+".pub"))
	is("after it", "")
	good, err := os.ReadFile(path)
	must(t, err)
	foreign, err := os.ReadFile(other)
	must(t, err)
	for text, want := range map[string]string{string(foreign): "but of another key", "": "cannot be used", "no key": "cannot be used", string(good): ""} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		is(text, want)
	}
	must(t, os.Remove(path))
	is("no private key", "no such file")
	must(t, syscall.Mkfifo(path, 0o600))
	is("a FIFO", "is not a regular file")
	must(t, os.Remove(path+".pub"))
	must(t, syscall.Mkfifo(path+".pub", 0o600))
	is("two", ".pub is not a regular file")
}

// TestRotationCutOff: whatever a step that was cut off has left, who reads the
// pair finds one whole key that is let in, and each step completes it.
func TestRotationCutOff(t *testing.T) {
	t.Parallel()
	const a, b, torn = "the key in use", "the next key", "half a file"
	type pair struct{ current, next, old string }
	for _, c := range []struct {
		name           string
		files          map[string]string // beside path and path.pub, which are a; path: its own
		now            pair
		begin, abandon pair
		fails          string // to begin
		finish         pair   // nothing: it fails
	}{
		{"a draft", map[string]string{".draft": torn}, pair{a, "", ""}, pair{a, "new", ""}, pair{a, "", ""}, "", pair{}},
		{"a draft's public half", map[string]string{".draft": b, ".draft.pub": torn}, pair{a, "", ""}, pair{a, "new", ""}, pair{a, "", ""}, "", pair{}},
		{"begun by half", map[string]string{".next": b, ".draft.pub": b}, pair{a, "", ""}, pair{a, "new", ""}, pair{a, "", ""}, "", pair{}},
		{"finish has noted", map[string]string{".next": b, ".next.pub": b, ".old.pub": a}, pair{a, b, ""}, pair{a, b, ""}, pair{a, "", b}, "", pair{b, "", a}},
		{"finish noted by half", map[string]string{".next": b, ".next.pub": b, ".old.pub.draft": torn}, pair{a, b, ""}, pair{a, b, ""}, pair{a, "", b}, "", pair{b, "", a}},
		{"finished by half", map[string]string{"": b, ".next.pub": b, ".old.pub": a}, pair{b, "", a}, pair{}, pair{b, "", a}, "still to be revoked", pair{b, "", a}},
		{"abandoned by half", map[string]string{".next": b, ".old.pub": b}, pair{a, "", b}, pair{}, pair{a, "", b}, "still to be revoked", pair{a, "", b}},
		{"the next key lost", map[string]string{".next.pub": b}, pair{a, "", b}, pair{}, pair{a, "", b}, "still to be revoked", pair{a, "", b}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lay := func() (path string, name func(Rotation) pair) {
				path, first := pairIn(t)
				other, second := pairIn(t)
				for end, what := range c.files {
					from, public := map[string]string{a: path, b: other}[what], strings.HasSuffix(strings.TrimSuffix(end, ".draft"), ".pub")
					var text []byte
					if from != "" {
						if public {
							from += ".pub"
						}
						var err error
						text, err = os.ReadFile(from)
						must(t, err)
					} else {
						text = []byte("-----BEGIN OPENSSH")
					}
					must(t, os.WriteFile(path+end, text, 0o600))
				}
				names := map[string]string{first: a, second: b, "": ""}
				return path, func(r Rotation) pair {
					called := func(public string) string {
						if name, known := names[public]; known {
							return name
						}
						return "new"
					}
					return pair{called(r.Current), called(r.Next), called(r.Old)}
				}
			}
			for _, step := range []struct {
				name string
				do   func(string) (Rotation, error)
				want pair
			}{
				{"load", LoadRotation, c.now},
				{"begin", BeginRotation, c.begin},
				{"abandon", AbandonRotation, c.abandon},
				{"finish", FinishRotation, c.finish},
			} {
				path, called := lay()
				if public, err := Public(path); err != nil || !strings.HasPrefix(public, holds(t, path)+" ") {
					t.Errorf("%s: the public key is %q (%v), and the private one that of %q", step.name, public, err, holds(t, path))
				}
				r, err := step.do(path)
				if step.want == (pair{}) {
					if err == nil || step.name == "begin" && !strings.Contains(err.Error(), c.fails) {
						t.Errorf("%s: %+v, %v", step.name, called(r), err)
					}
					continue
				}
				if err != nil || called(r) != step.want {
					t.Errorf("%s: %+v, %v\nwant %+v", step.name, called(r), err, step.want)
				}
				if now, err := LoadRotation(path); err != nil || now != r {
					t.Errorf("%s: on disk: %+v, %v\nwant %+v", step.name, called(now), err, step.want)
				}
				if r.Next == "" {
					_, err := CloseRotation(path)
					must(t, err)
					_, err = BeginRotation(path)
					must(t, err)
				}
			}
		})
	}
}

// TestRotationLock: two do not change one key pair at once.
func TestRotationLock(t *testing.T) {
	t.Parallel()
	path, _ := pairIn(t)
	unlock, err := LockRotation(path)
	must(t, err)
	if _, err := LockRotation(path); err == nil || !strings.Contains(err.Error(), "somebody else is changing the key") {
		t.Errorf("two at once: %v", err)
	}
	unlock()
	unlock, err = LockRotation(path)
	must(t, err)
	unlock()
}

// TestFinishMismatch: a next key whose halves do not belong together takes no place.
func TestFinishMismatch(t *testing.T) {
	t.Parallel()
	path, first := pairIn(t)
	_, err := BeginRotation(path)
	must(t, err)
	_, other := pairIn(t)
	must(t, os.WriteFile(path+".next.pub", []byte(other+"\n"), 0o644))
	if _, err := FinishRotation(path); err == nil || !strings.Contains(err.Error(), "is not the public half of") {
		t.Errorf("finished: %v", err)
	}
	if r, err := LoadRotation(path); err != nil || r.Current != first {
		t.Errorf("%+v, %v", r, err)
	}
}
