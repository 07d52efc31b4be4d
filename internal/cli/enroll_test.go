package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kido/internal/keys"
	"kido/internal/site"
)

// TestAnnounceKeyIsItsOwn: what a host gives as its key is kept only where it is
// nobody else's. What is kept is revoked when the host changes its key, and it
// must not have that of others revoked.
func TestAnnounceKeyIsItsOwn(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("site.yaml", []byte("site: shop\nhosts: {db1: 192.0.2.1, web1: 192.0.2.2}\nservices: {web: {hosts: [db1, web1], systemd: apache2}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	ring := t.TempDir()
	public := map[string]string{}
	for name, file := range map[string]string{"db1": "", "web1": "web1.pub", "ann": "people/ann.pub", "main": "authorities/main.pub"} {
		if public[name], err = keys.New(filepath.Join(t.TempDir(), "key"), "a key"); err != nil {
			t.Fatal(err)
		}
		text := public[name] + "\n"
		if name == "ann" {
			text = `from="192.0.2.9" ` + text
		}
		if file == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(ring, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(ring, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		whose string
		here  bool
		want  string // of the error
	}{
		{"web1", false, "it is that of web1"},
		{"web1", true, "it is that of web1"},
		{"ann", false, "it is that of ann"},
		{"ann", true, ""},
		{"main", false, "it is that of an authority"},
		{"main", true, "it is that of an authority"},
		{"db1", false, ""},
	} {
		_, err := (&app{}).keepAnnounceKeys(s, s.Host("db1"), ring, c.here, public[c.whose], "")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("db1 gives the key of %s (here: %v): %v, want %q", c.whose, c.here, err, c.want)
		}
	}
}

// TestSilentHost: a host that takes the connection and says nothing is given up, at
// each step, and what it was asked is taken away again.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("site.yaml", "site: shop\nhosts: {db1: 192.0.2.1}\nservices: {db: {hosts: db1, systemd: db}}\n")
	s, err := site.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := &app{stdin: null, stdout: null, stderr: null}
	for _, silent := range []string{"mktemp -d", "kido install", "/result", "mktemp", "--step", "cat /tmp/tmp.aB3dEf"} {
		ssh := write("ssh", `#!/bin/sh
case "$*" in
*"rm -"*) ;;
*"`+silent+`"*) exec sleep 60 ;;
*"mktemp -d"*) cat >/dev/null; printf 'x86_64\n/tmp/tmp.aB3dEf\nme\n' ;;
*mktemp*) echo /tmp/tmp.aB3dEf ;;
esac
`)
		e := &enrolment{ssh: ssh, to: "%a", ring: filepath.Join(dir, "keys"), control: dir, kido: file, gate: file, limit: 300 * time.Millisecond}
		begun := time.Now()
		if strings.HasPrefix(silent, "mktemp -d") || strings.HasPrefix(silent, "kido") || strings.HasPrefix(silent, "/") {
			_, _, err = a.enrollOne(t.Context(), s, s.Host("db1"), e, 1)
		} else {
			_, err = a.stepAt(t.Context(), s.Host("db1"), stepLook, e)
		}
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 30*time.Second {
			t.Errorf("silent at %q: %v, after %s", silent, err, time.Since(begun))
		}
	}
}
