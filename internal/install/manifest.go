package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"kido/internal/gate"
)

const (
	journals     = "/var/lib/kido"
	manifestFile = journals + "/installed.json"
	lockFile     = "/var/run/kido-install.lock" // where the disk is not full, and nothing is left
	savedFolder  = journals + "/saved"
	stateFolder  = gate.DefaultState
	logFolder    = "/var/log/kido"
)

// manifest is what was put on a machine: what may be taken back.
type manifest struct {
	Host    string   `json:"host"`
	Init    Init     `json:"init"`
	Pending bool     `json:"pending,omitempty"` // a run has not come to its end
	Files   []owned  `json:"files"`             // in the order in which they were put in place
	Folders []string `json:"folders,omitempty"`
	Hooks   []Hook   `json:"hooks,omitempty"`
	Key     string   `json:"key,omitempty"`  // made here
	User    bool     `json:"user,omitempty"` // made here
	// Named are files of others that probes read, as far as there is no policy any
	// more that names them.
	Named []string `json:"named,omitempty"`
}

// owned is a file that kido wrote.
type owned struct {
	Path  string   `json:"path"`
	Sums  []string `json:"sha256"` // of what it may hold and be ours: two while it is being replaced
	Block bool     `json:"block,omitempty"`
	Saved string   `json:"saved,omitempty"` // what was there before kido
}

func (m manifest) find(path string, block bool) *owned {
	i := slices.IndexFunc(m.Files, func(o owned) bool { return o.Path == path && o.Block == block })
	if i < 0 {
		return nil
	}
	return &m.Files[i]
}

// with is what is on record while a machine goes from m to next: all of both.
func (m manifest) with(next manifest) manifest {
	both := next
	both.Pending = true
	both.Files = nil
	for _, o := range m.Files {
		if n := next.find(o.Path, o.Block); n == nil {
			both.Files = append(both.Files, o)
		}
	}
	for _, n := range next.Files {
		if o := m.find(n.Path, n.Block); o != nil {
			n.Sums = slices.Compact(slices.Concat(o.Sums, n.Sums))
		}
		both.Files = append(both.Files, n)
	}
	both.Hooks = slices.Clone(next.Hooks)
	for _, h := range m.Hooks {
		if !slices.ContainsFunc(next.Hooks, func(n Hook) bool { return n.Name == h.Name }) {
			both.Hooks = append(both.Hooks, h)
		}
	}
	return both
}

// Installed is the host that the machine was last set up as; "" for none.
func (m *Machine) Installed() (host string, err error) {
	r, err := m.recorded()
	return r.Host, err
}

// recorded reads what is on record; nothing, where nothing is.
func (m *Machine) recorded() (manifest, error) {
	var r manifest
	text, err := os.ReadFile(m.path(manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, fmt.Errorf("what was installed here cannot be read: %s: %w: move that file away, and what it names counts as somebody else's", manifestFile, err)
	}
	return r, nil
}

// record puts a manifest on record; nil takes the record away.
func (m *Machine) record(r *manifest) error {
	if r == nil {
		if err := os.RemoveAll(m.path(savedFolder)); err != nil {
			return err
		}
		return m.remove(manifestFile)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return m.write(File{Path: manifestFile, Mode: 0o600}, append(text, '\n'))
}

// busy is how long a run waits for another one's end.
const busy = time.Minute

// Lock keeps other runs away until unlock is called: from before [Machine.Compare] or
// [Machine.Remove], as what they find must still be so when the work is done. It waits
// for a run that is at work already, as one does that a kido enroll has left behind
// which was killed: until ctx ends, or for a minute.
func (m *Machine) Lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(m.path(filepath.Dir(lockFile)), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(m.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, busy)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another kido install is at work on this machine: wait for its end, then run this again: %w", err)
		}
	}
	return func() {
		// Not by closing alone: a program that is being started just now has a copy
		// of the descriptor until it runs.
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		f.Close()
	}, nil
}
