package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"kido/internal/failpoint"
)

// The change of a key pair is kept in files beside it and nowhere else, so that
// whoever comes next can tell how far it came, wherever it was cut off:
//
//	PATH.next, PATH.next.pub  the next key, which is to take the place of PATH
//	PATH.next-cert.pub        perhaps its certificate
//	PATH.old.pub              the public key that is out of use, or about to be
//
// Each step is one rename, or the end of one file, and which are there tells them
// all apart:
//
//	old.pub next next.pub
//	   -     -      -      no change is under way
//	   -     x      -      begin was cut off: nobody has seen the next key yet
//	   -     x      x      both keys may be taken: the overlap
//	   x     x      x      finish was cut off before it began: still the overlap
//	   x     -      x      finish was cut off between its two renames
//	   x     x      -      abandon was cut off: the next key is out of use
//	   -     -      x      somebody removed the private key: out of use as well
//	   x     -      -      what is out of use is still to be revoked everywhere
//
// A draft is what nobody reads: it is thrown away by the next who begins.
const (
	certKey  = "-cert.pub" // as ssh has it
	nextKey  = ".next"
	oldKey   = ".old.pub"
	draftKey = ".draft"
)

// Rotation is how far the change of a key pair has come. Its keys are lines of
// public keys, TYPE BASE64 COMMENT.
type Rotation struct {
	Current string `json:"current"`        // in use
	Next    string `json:"next,omitempty"` // to take its place; "" for none
	Old     string `json:"old,omitempty"`  // out of use, and perhaps still taken somewhere; "" for none
}

// NextPath is the private key that is to take the place of the one at path.
func NextPath(path string) string { return path + nextKey }

// Files lists the files that a key pair at path may have.
func Files(path string) []string {
	var files []string
	for _, end := range []string{"", nextKey, draftKey} {
		files = append(files, path+end, path+end+".pub", path+end+certKey)
	}
	return append(files, path+oldKey, path+oldKey+draftKey)
}

// LockRotation keeps others from changing the key pair at path until unlock is
// called. It waits for nobody: where another is at it, it fails.
func LockRotation(path string) (unlock func(), err error) {
	d, err := os.Open(filepath.Dir(path)) // a lock of its own would be one more file to leave behind
	if err != nil {
		return nil, fmt.Errorf("cannot lock the folder of the key: %w", err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		d.Close()
		return nil, fmt.Errorf("somebody else is changing the key %s at this moment: wait for him: %w", path, err)
	}
	return func() {
		// Not by closing alone: a program that is being started just now has a copy
		// of the descriptor until it runs.
		_ = syscall.Flock(int(d.Fd()), syscall.LOCK_UN)
		d.Close()
	}, nil
}

// LoadRotation reads how far the change of the key pair at path has come. It
// changes nothing.
func LoadRotation(path string) (r Rotation, err error) {
	if r.Current, err = Public(path); err != nil {
		return r, err
	}
	old, next, public := rotationFiles(path)
	switch {
	case next && public:
		r.Next, err = Public(path + nextKey)
	case old:
		r.Old, err = readPublic(path + oldKey)
	case public:
		r.Old, err = Public(path + nextKey)
	}
	return r, err
}

func rotationFiles(path string) (old, next, public bool) {
	there := func(name string) bool {
		_, err := os.Lstat(name)
		return err == nil
	}
	return there(path + oldKey), there(path + nextKey), there(path + nextKey + ".pub")
}

// publicFile is where the public half of the private key at path is: between
// the two renames of [FinishRotation] it still has its earlier name.
func publicFile(path string) string {
	if old, next, public := rotationFiles(path); old && !next && public {
		return path + nextKey + ".pub"
	}
	return path + ".pub"
}

// settle completes what was cut off and was past its first step.
func settle(path string) error {
	old, next, public := rotationFiles(path)
	switch {
	case old && !next && public:
		return placePublic(path)
	case old && next && !public:
		return remove(path + nextKey)
	case !old && !next && public:
		return rename(path+nextKey+".pub", path+oldKey)
	}
	return nil
}

// BeginRotation makes the next key of the one at path, with its comment. One
// that is there is gone on with. It fails where the key of an earlier change is
// still to be revoked (see [CloseRotation]).
func BeginRotation(path string) (Rotation, error) {
	if err := settle(path); err != nil {
		return Rotation{}, err
	}
	r, err := LoadRotation(path)
	switch {
	case err != nil || r.Next != "":
		return r, err
	case r.Old != "":
		return r, fmt.Errorf("the key that %s took the place of is still to be revoked everywhere: complete that first", path)
	}
	_, comment, err := parse(r.Current)
	if err != nil {
		return r, err
	}
	draft := path + draftKey
	if err := forget(draft, draft+".pub", path+nextKey); err != nil {
		return r, err
	}
	if r.Next, err = New(draft, comment); err != nil {
		return r, err
	}
	failpoint.Hit("keys.begin.made")
	if err := rename(draft, path+nextKey); err != nil {
		return r, err
	}
	failpoint.Hit("keys.begin.private")
	if err := rename(draft+".pub", path+nextKey+".pub"); err != nil {
		return r, err
	}
	failpoint.Hit("keys.begin.public")
	return r, nil
}

// forget removes what nobody has seen.
func forget(paths ...string) error {
	for _, path := range paths {
		if err := remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// FinishRotation puts the next key in the place of the one at path, whose
// private half is gone after that. Whoever reads the pair meanwhile finds one
// key or the other: see [Public]. Once it is done it does nothing.
func FinishRotation(path string) (Rotation, error) {
	if err := settle(path); err != nil {
		return Rotation{}, err
	}
	r, err := LoadRotation(path)
	if err != nil || r.Next == "" && r.Old != "" {
		return r, err
	}
	if r.Next == "" {
		return r, fmt.Errorf("no next key of %s is there: begin with one", path)
	}
	// It must be one key to all who read it: what is put in place is what is proven.
	if err := matches(path+nextKey, r.Next); err != nil {
		return r, fmt.Errorf("%w: give the next key up, and begin anew", err)
	}
	if err := writePublic(path+oldKey, r.Current); err != nil {
		return r, err
	}
	failpoint.Hit("keys.finish.noted")
	if err := rename(path+nextKey, path); err != nil {
		return r, err
	}
	failpoint.Hit("keys.finish.private")
	if err := placePublic(path); err != nil {
		return r, err
	}
	failpoint.Hit("keys.finish.public")
	return Rotation{Current: r.Next, Old: r.Current}, nil
}

// placePublic gives the public half of what is in place by now its place.
func placePublic(path string) error {
	// First what may be missing: the public key is the last that tells of the next.
	if err := rename(path+nextKey+certKey, path+certKey); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return rename(path+nextKey+".pub", path+".pub")
}

// AbandonRotation gives the next key of the one at path up. As its public half
// may have been carried about it is out of use then, and to be revoked.
func AbandonRotation(path string) (Rotation, error) {
	if err := settle(path); err != nil {
		return Rotation{}, err
	}
	r, err := LoadRotation(path)
	if err != nil || r.Old != "" {
		return r, err
	}
	if r.Next == "" {
		return r, forget(path + nextKey)
	}
	if err := forget(path + nextKey + certKey); err != nil {
		return r, err
	}
	if err := rename(path+nextKey+".pub", path+oldKey); err != nil {
		return r, err
	}
	failpoint.Hit("keys.abandon.public")
	if err := remove(path + nextKey); err != nil {
		return r, err
	}
	failpoint.Hit("keys.abandon.private")
	return Rotation{Current: r.Current, Old: r.Next}, nil
}

// CloseRotation ends a change: what is out of use is revoked, and taken nowhere.
func CloseRotation(path string) (Rotation, error) {
	if err := settle(path); err != nil {
		return Rotation{}, err
	}
	r, err := LoadRotation(path)
	switch {
	case err != nil:
		return r, err
	case r.Next != "":
		return r, fmt.Errorf("the next key of %s is not in its place yet: finish or abandon it first", path)
	case r.Old == "":
		return r, nil
	}
	if err := remove(path + oldKey); err != nil {
		return r, err
	}
	failpoint.Hit("keys.closed")
	return Rotation{Current: r.Current}, nil
}

// Matches fails where the private key at path cannot be used, or is not that of the
// public one beside it.
func Matches(path string) error {
	for again := true; ; again = false {
		public, err := Public(path)
		if err == nil {
			err = matches(path, public)
		}
		if err == nil || !again { // once more: it may have been changed between the two
			return err
		}
	}
}

// matches fails where a private key is not that of a public one.
func matches(path, public string) error {
	text, _, err := ReadSmall(path, maxPrivate)
	if err != nil {
		return fmt.Errorf("cannot read the private key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return fmt.Errorf("the private key %s cannot be used: %w", path, err)
	}
	key, _, err := parse(public)
	if err != nil {
		return err
	}
	if string(key.Marshal()) != string(signer.PublicKey().Marshal()) {
		return fmt.Errorf("%s.pub is not the public half of %[1]s, but of another key", path)
	}
	return nil
}

// writePublic writes a public key to disk, as a whole or not at all.
func writePublic(path, public string) error {
	draft := path + draftKey
	if err := forget(draft); err != nil {
		return err
	}
	if err := writeNew(draft, []byte(strings.TrimSpace(public)+"\n"), 0o644); err != nil {
		return err
	}
	return rename(draft, path)
}

func rename(from, to string) error {
	err := os.Rename(from, to)
	if err == nil {
		err = syncFolder(to)
	}
	if err != nil {
		return fmt.Errorf("cannot put the key in its place: %w", err)
	}
	return nil
}

func remove(path string) error {
	err := os.Remove(path)
	if err == nil {
		err = syncFolder(path)
	}
	if err != nil {
		return fmt.Errorf("cannot remove the key: %w", err)
	}
	return nil
}
