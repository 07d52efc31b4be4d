package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"kido/internal/gate"
)

const (
	journals     = "/var/lib/kido"
	manifestFile = journals + "/installed.json"
	lockFile     = journals + "/installed.lock"
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
		for _, path := range []string{lockFile, manifestFile} {
			if err := os.Remove(m.path(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return m.write(File{Path: manifestFile, Mode: 0o600}, append(text, '\n'))
}

// lock keeps a second run away.
func (m *Machine) lock() (unlock func(), err error) {
	if err := os.MkdirAll(m.path(filepath.Dir(lockFile)), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(m.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.New("another kido install is at work on this machine: wait for its end")
	}
	return func() {
		// Not by closing alone: a program that is being started just now has a copy
		// of the descriptor until it runs.
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		f.Close()
	}, nil
}
