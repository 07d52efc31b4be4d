package install

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"kido/internal/failpoint"
	"kido/internal/gate"
	"kido/internal/keys"
	"kido/internal/remote"
)

// Step is one change of a machine.
type Step struct {
	Path string   // what is written or removed; "" for a command
	Argv []string // the command; nil for a file
	Word string   // what is done: "write", "remove", "make the folder", …
	do   func() error
	soft bool // where it fails, that is said and the rest goes on
	gone bool // nothing is at Path after it

	file        *File  // what is written, where that is known before
	before, now []byte // of a file, with this step and without; nil where there is none
	digest      bool   // what is in it is not to be shown
}

func (s Step) String() string {
	if s.Argv != nil {
		return "run " + strings.Join(s.Argv, " ")
	}
	return s.Word + " " + s.Path
}

// Shown is what the step does, and to what is there now. It shows no secret: of a
// private key only that it is made.
func (s Step) Shown() ShownStep {
	shown := ShownStep{What: s.String()}
	if s.file != nil && !s.file.Block {
		shown.Mode = fmt.Sprintf("%04o", s.file.Mode)
	}
	switch {
	case bytes.Equal(s.before, s.now) && (s.before == nil) == (s.now == nil):
	case s.digest || !isText(s.before) || !isText(s.now):
		shown.Before, shown.After = digestOf(s.before), digestOf(s.now)
	default:
		names := [2]string{s.Path, s.Path}
		for i, text := range [][]byte{s.before, s.now} {
			if text == nil {
				names[i] = os.DevNull
			}
		}
		_, text, _ := strings.Cut(string(diff.Diff(names[0], s.before, names[1], s.now)), "\n") // its own command line
		shown.Diff = text
	}
	return shown
}

func isText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

func digestOf(text []byte) *Digest {
	if text == nil {
		return nil
	}
	return &Digest{len(text), sum(text)}
}

// Work is what is to be done to a machine, in order. No step: nothing is to be
// changed.
type Work struct {
	Steps    []Step
	Warnings []string

	machine *Machine
	begin   manifest  // what is on record while the work goes on
	end     *manifest // and after it; nil: nothing is left of kido
}

// Do performs the work, one step after the other; said is told of each before it
// is begun. It ends at the first step that fails, and between two steps when ctx
// does; the next [Machine.Compare] finds what is missing. Whoever calls it holds the
// machine's lock.
func (w *Work) Do(ctx context.Context, said func(Step)) error {
	if len(w.Steps) == 0 {
		return nil
	}
	if err := os.MkdirAll(w.machine.path(journals), 0o700); err != nil {
		return err
	}
	if err := w.machine.record(&w.begin); err != nil {
		return err
	}
	failpoint.Hit("install.begun")
	for _, s := range w.Steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted before: %s: run this again to complete it: %w", s, err)
		}
		said(s)
		if err := s.do(); s.soft && err != nil {
			w.Warnings = append(w.Warnings, err.Error())
		} else if err != nil {
			return err
		}
		failpoint.Hit("install.step")
	}
	return w.machine.record(w.end)
}

func (w *Work) warn(format string, args ...any) {
	w.Warnings = append(w.Warnings, fmt.Sprintf(format, args...))
}

// warnOnce is for what several questions find.
func (w *Work) warnOnce(format string, args ...any) {
	if word := fmt.Sprintf(format, args...); !slices.Contains(w.Warnings, word) {
		w.Warnings = append(w.Warnings, word)
	}
}

func (w *Work) run(argv ...string) *Step {
	w.Steps = append(w.Steps, Step{Argv: argv, do: func() error {
		_, err := w.machine.Run(argv...)
		return err
	}})
	return &w.Steps[len(w.Steps)-1]
}

// goes reports whether nothing is at a path once the work so far is done.
func (w *Work) goes(path string) bool {
	return slices.ContainsFunc(w.Steps, func(s Step) bool { return s.Path == path && s.gone })
}

func (w *Work) step(word, path string, do func() error) *Step {
	w.Steps = append(w.Steps, Step{Path: path, Word: word, do: do})
	return &w.Steps[len(w.Steps)-1]
}

// Compare works out what has to be done so that the machine has what the setup
// says, and nothing that an earlier one put there. It changes nothing.
func (m *Machine) Compare(setup *Setup) (*Work, error) {
	old, err := m.recorded()
	if err != nil {
		return nil, err
	}
	if old.Host != "" && old.Host != setup.Host {
		return nil, fmt.Errorf("this machine is set up as the host %s of its site, not as %s: take that back first (kido install --remove), or say --here %[1]s", old.Host, setup.Host)
	}
	w := &Work{machine: m}
	now := manifest{Host: setup.Host, Init: setup.Init, Hooks: setup.Hooks, Key: old.Key, User: old.User, Folders: old.Folders}
	again := old.Pending // what an interrupted run has left undone cannot be seen in files

	for _, path := range m.leavings(old.Files) {
		// What a lock has taken the place of is needed until sshd has been asked.
		if !old.Pending || !slices.ContainsFunc(setup.Files, func(f File) bool { return f.check == checkSSHD && asideOf(f.Path) == path }) {
			w.step("remove what was left at", path, func() error { return m.remove(path) })
		}
	}
	var gone []Hook
	for _, h := range old.Hooks {
		if !slices.ContainsFunc(setup.Hooks, func(n Hook) bool { return n.Name == h.Name }) {
			m.unhook(w, old.Init, h)
			gone = append(gone, h)
			again = true
		}
	}
	for _, f := range setup.Folders {
		if f.Owner == "root" {
			m.folder(w, &now, f)
		}
	}
	hookFiles := map[string]bool{}
	for _, h := range setup.Hooks {
		hookFiles[h.File] = true
	}
	changed := map[string]bool{}
	put := func(pick func(File) bool) error {
		for _, f := range setup.Files {
			if !pick(f) {
				continue
			}
			did, err := m.file(w, old, &now, f)
			if err != nil {
				return err
			}
			changed[f.Path] = did
		}
		return nil
	}
	program := func(f File) bool { return f.From != "" }
	if err := put(program); err != nil {
		return nil, err
	}
	if err := m.user(w, &now); err != nil {
		return nil, err
	}
	if err := m.shutOut(w); err != nil {
		return nil, err
	}
	for _, f := range setup.Folders {
		if f.Owner != "root" {
			m.folder(w, &now, f)
		}
	}
	if err := m.key(w, &now, setup); err != nil {
		return nil, err
	}
	if err := put(func(f File) bool { return !program(f) && !hookFiles[f.Path] }); err != nil {
		return nil, err
	}
	if changed[gate.DefaultPolicy] || again {
		w.run(GateProgram, "--check")
	}
	if err := put(func(f File) bool { return hookFiles[f.Path] }); err != nil {
		return nil, err
	}
	sshd := changed[sshdDropIn] || changed[sshdConfig]
	for _, o := range slices.Backward(old.Files) {
		switch {
		case slices.ContainsFunc(setup.Files, func(f File) bool { return f.Path == o.Path && f.Block == o.Block }):
		case setup.InPlace && (o.Path == siteFile || o.Path == setup.Pins || strings.HasPrefix(o.Path, keysFolder+"/")):
			now.Files = append(now.Files, o) // a copy of earlier, the administrator's own by now
		default:
			m.unfile(w, o)
			sshd = sshd || o.Path == sshdDropIn || o.Path == sshdConfig
		}
	}
	if setup.SSHD && (sshd || again) {
		m.reload(w, setup.Init, false)
	}
	hooked := false
	for _, h := range setup.Hooks {
		k := slices.IndexFunc(old.Hooks, func(o Hook) bool { return o.Name == h.Name })
		if again || changed[h.File] || !m.hooked(setup.Init, h) || k < 0 || old.Hooks[k] != h {
			hooked = true
			if setup.Init == Systemd && !slices.ContainsFunc(w.Steps, isReload) {
				w.run("systemctl", "daemon-reload")
			}
			m.enable(w, setup.Init, h, k >= 0)
		}
	}
	if setup.Init == Systemd && !hooked && again {
		w.run("systemctl", "daemon-reload")
	}
	m.bury(w, old.Init, gone)
	if err := m.foreignStates(w, setup.Host); err != nil {
		return nil, err
	}
	if len(w.Steps) == 0 && !again {
		return w, nil
	}
	for _, h := range setup.Hooks {
		if h.Announce && !setup.Later {
			m.start(w, setup.Init, h)
		}
	}
	w.begin = old.with(now)
	w.end = &now
	if len(w.Steps) == 0 { // only the record was left to be completed
		w.step("complete", manifestFile, func() error { return nil })
	}
	return w, nil
}

// foreignStates sets aside what the gate has on record under another name of this
// host: it would believe none of it.
func (m *Machine) foreignStates(w *Work, host string) error {
	names, err := filepath.Glob(m.path(gate.DefaultState + "/*.state"))
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := readSmall(name) // the folder is the gate's user's, who may be anybody by now
		if errors.Is(err, fs.ErrPermission) {
			return nil // who only looks need not see it
		}
		if err != nil {
			w.warn("%s/%s is no record of the gate: %v", gate.DefaultState, filepath.Base(name), err)
			continue
		}
		head, _, _ := strings.Cut(text, "\n")
		_, whose, ok := strings.Cut(head, "@")
		if ok && whose != host {
			w.step("set aside", gate.DefaultState+"/"+filepath.Base(name), func() error { return os.Rename(name, name+".old") })
		}
	}
	return nil
}

func isReload(s Step) bool { return slices.Equal(s.Argv, []string{"systemctl", "daemon-reload"}) }

// Remove works out what has to be done to take back what is on record. What was
// changed by hand since is left; the gate's user, its state, the key and the
// journals stay unless they are to be purged.
func (m *Machine) Remove(purge bool) (*Work, error) {
	old, err := m.recorded()
	if err != nil {
		return nil, err
	}
	w := &Work{machine: m, begin: old}
	w.begin.Pending, w.begin.Named = true, m.named(old)
	if !purge && (old.Key != "" || old.User) {
		w.end = &manifest{Init: old.Init, Key: old.Key, User: old.User, Folders: old.Folders, Named: w.begin.Named}
	}
	if old.Host == "" && !purge {
		return w, nil
	}
	if w.end != nil {
		w.warn("the user %s, what its gate has on record and the key of this host stay: --remove --purge takes them, too", gateUser)
	}
	for _, h := range old.Hooks {
		m.unhook(w, old.Init, h)
	}
	for _, path := range m.leavings(old.Files) {
		w.step("remove what was left at", path, func() error { return m.remove(path) }).gone = true
	}
	for _, f := range slices.Backward(old.Files) {
		m.unfile(w, f)
		if f.Path == sshdDropIn || f.Path == sshdConfig {
			m.reload(w, old.Init, true)
		}
	}
	if len(old.Hooks) > 0 && old.Init == Systemd {
		w.run("systemctl", "daemon-reload")
		m.bury(w, old.Init, old.Hooks)
	}
	if purge {
		m.clear(w, stateFolder)
		m.clear(w, logFolder)
		if old.Key != "" {
			for _, path := range keys.Files(old.Key) {
				if m.exists(path) {
					w.step("remove", path, func() error { return m.remove(path) }).gone = true
				}
			}
		}
	}
	for _, path := range slices.Backward(old.Folders) {
		m.unfolder(w, path)
	}
	if who, err := m.account(gateUser); purge && old.User && err == nil && who != nil {
		if old.Init == Systemd { // a login leaves it behind for a while, and no user goes while he runs something
			w.run("systemctl", "stop", fmt.Sprintf("user@%d.service", who.uid)).soft = true
		}
		m.keepSecret(w, w.begin.Named, who)
		w.run("userdel", gateUser)
	}
	if purge {
		m.clear(w, journals) // last: the record is in it
	}
	return w, nil
}

// clear removes a folder with all that is in it.
func (m *Machine) clear(w *Work, path string) {
	if m.exists(path) {
		w.step("remove the folder", path, func() error { return os.RemoveAll(m.path(path)) }).gone = true
	}
}

// unfolder removes a folder of which nothing is left once the work so far is done.
func (m *Machine) unfolder(w *Work, path string) {
	in, err := os.ReadDir(m.path(path))
	if err != nil || w.goes(path) || slices.ContainsFunc(in, func(e fs.DirEntry) bool { return !w.goes(path + "/" + e.Name()) }) {
		return
	}
	w.step("remove the folder", path, func() error {
		if err := os.Remove(m.path(path)); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}).gone = true
}

func (m *Machine) folder(w *Work, now *manifest, f Folder) {
	if info, err := os.Stat(m.path(f.Path)); err == nil {
		if !info.IsDir() || info.Mode().Perm()&^f.Mode != 0 && f.Mode == 0o700 {
			w.step("make private:", f.Path, func() error { return os.Chmod(m.path(f.Path), f.Mode) })
		}
		return
	}
	if f.Owner == "root" && !slices.Contains(now.Folders, f.Path) {
		now.Folders = append(now.Folders, f.Path)
	}
	w.step("make the folder", f.Path, func() error {
		if err := os.MkdirAll(m.path(f.Path), f.Mode); err != nil {
			return err
		}
		if err := os.Chmod(m.path(f.Path), f.Mode); err != nil {
			return err
		}
		return m.own(m.path(f.Path), f.Owner)
	})
}

// own gives a file or folder to a user of the machine.
func (m *Machine) own(path, owner string) error {
	who := &account{}
	if owner != "root" {
		var err error
		if who, err = m.account(owner); err != nil {
			return err
		}
		if who == nil {
			return fmt.Errorf("%s: there is no user %s", path, owner)
		}
	}
	return m.give(path, who)
}

func (m *Machine) give(path string, who *account) error {
	if os.Geteuid() != 0 && m.Root != "" {
		return nil // a folder of one's own that stands for a machine
	}
	return os.Chown(path, who.uid, who.gid)
}

// user makes the gate's user, whose login shell is the gate. It has a password that
// nothing matches: one that is locked sshd itself refuses where it goes without PAM.
func (m *Machine) user(w *Work, now *manifest) error {
	who, err := m.account(gateUser)
	switch {
	case err != nil:
		return err
	case who != nil && (who.shell != GateProgram || who.uid == 0):
		return fmt.Errorf("there is a user %s already, with the login shell %s: kido needs that name for its gate: rename that user", gateUser, who.shell)
	case who != nil:
		return nil
	case !m.has("useradd"):
		return fmt.Errorf("there is no useradd to make the user %s: install the package passwd (or shadow)", gateUser)
	}
	now.User = true
	w.run("useradd", "--system", "--user-group", "--home-dir", "/nonexistent", "--no-create-home", "--shell", GateProgram, "--password", "*", gateUser)
	return nil
}

// key makes the key pair with which the host announces. One that is there is
// used, whoever made it.
func (m *Machine) key(w *Work, now *manifest, setup *Setup) error {
	if setup.Key == "" {
		return nil
	}
	private, err := os.Stat(m.path(setup.Key))
	switch {
	case err == nil && m.exists(setup.Key+".pub"):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	now.Key = setup.Key
	if err == nil && private.Size() > 0 { // a run was cut off between the two
		w.step("write the public key", setup.Key+".pub", func() error {
			if _, err := remote.LoadIdentity(m.path(setup.Key)); err != nil {
				return err
			}
			_, err := keys.Complete(m.path(setup.Key), setup.Comment)
			return err
		})
		return nil
	}
	w.step("make the key", setup.Key, func() error {
		_, err := keys.Complete(m.path(setup.Key), setup.Comment)
		return err
	})
	return nil
}

// Public is the public half of a setup's key; "" where it has none yet.
func (m *Machine) Public(setup *Setup) (string, error) {
	if setup.Key == "" || !m.exists(setup.Key+".pub") {
		return "", nil
	}
	return keys.Public(m.path(setup.Key))
}

// file plans one file. It reports whether the file is to be written.
func (m *Machine) file(w *Work, old manifest, now *manifest, f File) (bool, error) {
	text, err := m.text(f)
	if err != nil {
		return false, err
	}
	before, there, err := m.content(f.Path, f.Block)
	if err != nil {
		return false, err
	}
	mine := old.find(f.Path, f.Block)
	unasked := old.Pending && f.check == checkSSHD // a run may have been cut off before sshd was asked about it
	if there && bytes.Equal(before, text) && m.moded(f) && !unasked {
		if mine != nil {
			now.Files = append(now.Files, owned{Path: f.Path, Sums: []string{sum(text)}, Block: f.Block, Saved: mine.Saved})
		}
		return false, nil // where it was not ours before, it is not now
	}
	entry := owned{Path: f.Path, Sums: []string{sum(text)}, Block: f.Block}
	var kept []byte
	if mine != nil && mine.Saved != "" {
		entry.Saved = mine.Saved
		if kept, err = os.ReadFile(m.path(mine.Saved)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	switch {
	case !there || f.From != "" || f.Block || bytes.Equal(before, text):
	case mine == nil || mine.Saved != "" && kept == nil: // or a run was cut off before it was kept
		entry.Saved = savedFolder + f.Path
		m.save(w, f.Path, entry.Saved, before)
		w.warn("%s was there already: it is kept as %s, and comes back with kido install --remove", f.Path, entry.Saved)
	case !slices.Contains(mine.Sums, sum(before)) && !bytes.Equal(before, kept):
		aside := savedFolder + f.Path + "." + sum(before)[:8]
		m.save(w, f.Path, aside, before)
		w.warn("%s was changed by hand: what it was is kept as %s", f.Path, aside)
	}
	now.Files = append(now.Files, entry)
	word := "write"
	if f.Block {
		word = "put a block at the end of"
	}
	s := w.step(word, f.Path, func() error { return m.place(w, f, text) })
	s.file, s.now = &f, text
	if there {
		s.before = before
		info, err := os.Stat(m.path(f.Path))
		s.digest = mine == nil && !f.Block && (err != nil || info.Mode().Perm()&0o004 == 0) // somebody else's, and not for everybody
	}
	if f.Block {
		whole, _, err := m.content(f.Path, false)
		if err != nil {
			return false, err
		}
		s.before, s.now = whole, []byte(withBlock(string(whole), string(text)))
	}
	return true, nil
}

func (m *Machine) save(w *Work, path, to string, text []byte) {
	w.step("keep", path+" as "+to, func() error {
		if err := os.MkdirAll(filepath.Dir(m.path(to)), 0o700); err != nil {
			return err
		}
		return m.copy(path, to, text)
	})
}

// copy writes a text to a file that shall be like another, whoever owns that.
func (m *Machine) copy(like, to string, text []byte) error {
	info, err := os.Stat(m.path(like))
	if err != nil {
		return err
	}
	f := File{Path: to, Mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.whose = &account{uid: int(st.Uid), gid: int(st.Gid)}
	}
	return m.write(f, text)
}

// text is what is to be in a file.
func (m *Machine) text(f File) ([]byte, error) {
	if f.From == "" {
		return []byte(f.Text), nil
	}
	text, err := os.ReadFile(f.From)
	if err != nil {
		return nil, fmt.Errorf("cannot read the program: %w", err)
	}
	return text, nil
}

// content is what is in a file, or in our block of it.
func (m *Machine) content(path string, block bool) (text []byte, there bool, err error) {
	text, err = os.ReadFile(m.path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if block {
		_, inner, found := cutBlock(string(text))
		return []byte(inner), found, nil
	}
	return text, true, nil
}

func (m *Machine) moded(f File) bool {
	info, err := os.Lstat(m.path(f.Path))
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return f.Block || info.Mode().Perm() == f.Mode && ok && m.roots(st)
}

// roots reports whether something is root's, or belongs to who acts for him in a
// folder that stands for a machine.
func (m *Machine) roots(st *syscall.Stat_t) bool {
	return st.Uid == 0 || m.Root != "" && int(st.Uid) == os.Geteuid()
}

// place puts a file in place once whoever reads it would take it.
func (m *Machine) place(w *Work, f File, text []byte) error {
	if f.check == checkSSHD {
		return m.placeSSHD(w, f, text)
	}
	if f.check == checkKeys {
		if err := m.effective(w, f.lock); err != nil {
			return fmt.Errorf("%s is not put there: %w", f.Path, err)
		}
	}
	if f.check == checkSudo {
		err := m.try(f, text, func(draft string) error {
			if _, err := m.Run("visudo", "-c", "-f", m.path(draft)); err != nil {
				return fmt.Errorf("sudo would not take %s, so it is not put there: %w", f.Path, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return m.write(f, text)
}

// What is beside a file for a moment. Nobody reads a name like these: it begins
// with a dot and ends in a tilde. It is the same each time, so that what a run
// that was cut off has left is written over, or found and removed.
func beside(path, word string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".kido-"+word+"~")
}

func newOf(path string) string   { return beside(path, "new") }   // what it will be
func draftOf(path string) string { return beside(path, "draft") } // for somebody to judge
func asideOf(path string) string { return beside(path, "old") }   // what it was

// write replaces a file as a whole.
func (m *Machine) write(f File, text []byte) error {
	path, fresh := m.path(f.Path), m.path(newOf(f.Path))
	if err := m.fill(fresh, f, text); err != nil {
		_ = os.Remove(fresh)
		return fmt.Errorf("cannot write %s: %w", f.Path, err)
	}
	failpoint.Hit("install.written")
	if err := os.Rename(fresh, path); err != nil {
		_ = os.Remove(fresh)
		return fmt.Errorf("cannot write %s: %w", f.Path, err)
	}
	failpoint.Hit("install.renamed")
	return syncFolder(filepath.Dir(path))
}

// fill makes a new file that holds a text, on disk.
func (m *Machine) fill(path string, f File, text []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	t, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = t.Write(text)
	if err == nil {
		err = t.Chmod(f.Mode)
	}
	if err == nil {
		err = m.give(path, cmp.Or(f.whose, &account{}))
	}
	if err == nil {
		err = t.Sync()
	}
	return errors.Join(err, t.Close())
}

// try has somebody judge a draft of a file.
func (m *Machine) try(f File, text []byte, judge func(draft string) error) error {
	draft := draftOf(f.Path)
	err := m.fill(m.path(draft), f, text)
	if err != nil {
		err = fmt.Errorf("cannot write a draft of %s: %w", f.Path, err)
	} else {
		failpoint.Hit("install.draft")
		err = judge(draft)
	}
	if rerr := os.Remove(m.path(draft)); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// leavings are what a run that was cut off has left beside files.
func (m *Machine) leavings(files []owned) (left []string) {
	for _, path := range append([]string{sshdConfig}, paths(files)...) {
		for _, path := range []string{newOf(path), draftOf(path), asideOf(path)} {
			if _, err := os.Lstat(m.path(path)); err == nil {
				left = append(left, path)
			}
		}
	}
	return left
}

func paths(files []owned) (all []string) {
	for _, o := range files {
		all = append(all, o.Path)
	}
	return all
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // an earlier run has removed it, and all in it
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// unfile takes a file back, as far as it is still ours; what was there before
// comes back.
func (m *Machine) unfile(w *Work, o owned) {
	text, there, err := m.content(o.Path, o.Block)
	if err != nil {
		w.warn("%s is left: %v", o.Path, err)
		return
	}
	if there && !slices.Contains(o.Sums, sum(text)) {
		w.warn("%s was changed by hand: it is left", o.Path)
		return
	}
	saved, err := os.Stat(m.path(o.Saved))
	var step *Step
	switch {
	case o.Block && there:
		step = w.step("take the block out of", o.Path, func() error { return m.cut(o.Path) })
		if step.before, _, err = m.content(o.Path, false); err != nil {
			w.warn("%s: %v", o.Path, err)
		}
		rest, _, _ := cutBlock(string(step.before))
		step.now = []byte(rest)
	case o.Saved != "" && err == nil:
		before, err := os.ReadFile(m.path(o.Saved))
		if err != nil {
			w.warn("%s is left: what was there before kido cannot be read: %v", o.Path, err)
			return
		}
		step = w.step("put back", o.Path, func() error {
			if err := m.copy(o.Saved, o.Path, before); err != nil { // it may be on another disk
				return err
			}
			return m.remove(o.Saved)
		})
		step.before, step.now, step.digest = text, before, saved.Mode().Perm()&0o004 == 0
	case there:
		step = w.step("remove", o.Path, func() error { return m.remove(o.Path) })
		step.before, step.gone = text, true
	}
}

func (m *Machine) remove(path string) error {
	if err := os.Remove(m.path(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncFolder(filepath.Dir(m.path(path)))
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}
