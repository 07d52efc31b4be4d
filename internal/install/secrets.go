package install

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"kido/internal/gate"
	"kido/internal/probe"
	"kido/internal/site"
)

// named is what a probe wants a file for.
type named struct {
	by     string // "postgres probe of db"
	secret bool   // one that everybody may read is refused
}

// filesOf lists the files that the probes of a policy name.
func filesOf(p *gate.Policy) map[string]named {
	files := map[string]named{}
	var note func(s probe.Spec, of string)
	note = func(s probe.Spec, of string) {
		sort, _ := probe.SortOf(s.Kind)
		for name, value := range s.Options {
			o, _ := sort.Option(name)
			if file, ok := strings.CutPrefix(value, "file:"); ok && o.Source {
				files[file] = named{fmt.Sprintf("%s probe of %s", s.Kind, of), o.Secret || files[file].secret}
			}
		}
		for _, part := range s.Of {
			note(part, of)
		}
	}
	for _, v := range p.Services {
		for _, s := range v.Ready {
			note(s, v.Name)
		}
	}
	for _, w := range p.Watches {
		for _, s := range w.Ready {
			note(s, w.Instance)
		}
	}
	return files
}

// named lists the files that the probes of what is installed name; those on record
// where there is no policy.
func (m *Machine) named(old manifest) []string {
	text, err := os.ReadFile(m.path(gate.DefaultPolicy))
	if err != nil {
		return old.Named
	}
	p, err := gate.ParsePolicy(string(text))
	if err != nil {
		return old.Named
	}
	return slices.Sorted(maps.Keys(filesOf(p)))
}

// unreadable says of the files that probes of a host name why its gate
// cannot use them, as far as the one who looks can tell.
func (m *Machine) unreadable(s *site.Site, host string) (map[string]string, error) {
	files := filesOf(newPolicy(s, host).policy)
	if len(files) == 0 {
		return nil, nil
	}
	uid, gids, err := m.whose(gateUser)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for file, f := range files {
		why := m.closed(file, uid, gids)
		if info, err := os.Stat(m.path(file)); why == "" && err == nil && f.secret && info.Mode().Perm()&0o007 != 0 {
			why = fmt.Sprintf("%s may be read or changed by everybody: chmod o= %[1]s", file)
		}
		if why != "" {
			all[file] = why
		}
	}
	return all, nil
}

// whose is a user's number and those of his groups; the number is -1 where there is
// no such user yet.
func (m *Machine) whose(name string) (uid int, gids []int, err error) {
	who, err := m.account(name)
	if err != nil || who == nil {
		return -1, nil, err
	}
	gids = []int{who.gid}
	text, err := os.ReadFile(m.path("/etc/group"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return -1, nil, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), name) {
			continue
		}
		if gid, err := strconv.Atoi(f[2]); err == nil {
			gids = append(gids, gid)
		}
	}
	return who.uid, gids, nil
}

// closed says why a user cannot read a file; "" where he can, or where that cannot be
// told.
func (m *Machine) closed(file string, uid int, gids []int) string {
	for _, p := range append(above(file), file) {
		info, err := os.Stat(m.path(p))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return p + " is not there"
		case err != nil:
			return ""
		}
		need, word, mode := uint32(4), "read", "640"
		if p != file {
			need, word, mode = 1, "entered", "750"
		}
		if !permits(info, m.path(p), uid, gids, need) {
			return fmt.Sprintf("%s cannot be %s by the user %s: chgrp %[3]s %[1]s; chmod %[4]s %[1]s", p, word, gateUser, mode)
		}
	}
	return ""
}

// above are the folders that lead to a path, from the root down.
func above(p string) (folders []string) {
	for p = path.Dir(path.Clean(p)); p != "/"; p = path.Dir(p) {
		folders = append(folders, p)
	}
	slices.Reverse(folders)
	return folders
}

// permits reports whether a user has some right (4: to read, 1: to enter), as the
// mode says. An access control list may say otherwise, and is believed to.
func permits(info fs.FileInfo, p string, uid int, gids []int, need uint32) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if n, err := syscall.Getxattr(p, "system.posix_acl_access", nil); !ok || err == nil && n > 0 {
		return true
	}
	switch {
	case int(st.Uid) == uid:
		return st.Mode>>6&need != 0
	case slices.Contains(gids, int(st.Gid)):
		return st.Mode>>3&need != 0
	}
	return st.Mode&need != 0
}

// keepSecret keeps from whoever gets the number of the gate's group next what that group
// may read: of what probes name, and of all in kido's folder.
func (m *Machine) keepSecret(w *Work, files []string, who *account) {
	all := slices.Clone(files)
	for _, file := range files {
		all = append(all, above(file)...)
	}
	_ = filepath.WalkDir(m.path(folder), func(p string, _ fs.DirEntry, _ error) error {
		all = append(all, strings.TrimPrefix(p, strings.TrimSuffix(m.path("/"), "/")))
		return nil // what cannot be read is not there, or not for the group either
	})
	slices.Sort(all)
	for _, file := range slices.Compact(all) {
		info, err := os.Stat(m.path(file))
		if err != nil || w.goes(file) {
			continue
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || int(st.Uid) != who.uid && int(st.Gid) != who.gid {
			continue
		}
		if !m.roots(st) {
			w.warn("%s is left to the user or group %s, which go, and who gets their number next may read it: chown root:root %[1]s; chmod go= %[1]s", file, gateUser)
			continue
		}
		w.warn("%s was for the group %s, which goes: it becomes root's alone", file, gateUser)
		w.step("make root's alone:", file, func() error {
			if err := m.rootsAlone(file, who.gid); err != nil {
				return fmt.Errorf("%s is left to a group that goes, and whose number the next one gets: %w", file, err)
			}
			return nil
		}).soft = true
	}
}

// rootsAlone takes a file or folder of root's from a group. It asks what it has in
// hand, whatever is under that name by now.
func (m *Machine) rootsAlone(file string, gid int) error {
	f, err := os.OpenFile(m.path(file), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !m.roots(st) || int(st.Gid) != gid {
		return errors.New("it was changed just now")
	}
	if err := f.Chmod(info.Mode().Perm() &^ 0o070); err != nil || os.Geteuid() != 0 {
		return err
	}
	return f.Chown(0, 0)
}

// secrets warns of the files without which probes fail.
func (m *maker) secrets(p *gate.Policy) {
	files := filesOf(p)
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if why := m.facts.Unreadable[file]; why != "" {
			m.warn("%s, so the %s fails", why, files[file].by)
		}
	}
}
