package probe_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
)

// keep makes a file with exactly that mode.
func keep(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		return "file:" + keep(t, filepath.Join(dir, name), text, mode)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("good", link); err != nil {
		t.Fatal(err)
	}
	credentials := filepath.Join(dir, "credentials")
	if err := os.Mkdir(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	keep(t, filepath.Join(credentials, "pg"), "of systemd", 0o400)
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	t.Setenv("KIDO_TEST_PASSWORD", "of env\n")
	t.Setenv("KIDO_TEST_EMPTY", "")
	long := strings.Repeat("x", 512<<10)
	plain := func(name string) string { return filepath.Join(dir, name) }
	for _, x := range []struct{ option, from, want, err string }{
		{"password", file("good", "s3cret\n", 0o600), "s3cret", ""},
		{"password", file("group", "s3cret\r\n", 0o640), "s3cret", ""},
		{"password", file("lines", " a\n\n", 0o600), " a\n", ""},
		{"password", file("run", "s3cret", 0o701), "s3cret", ""},
		{"password", "file:" + link, "s3cret", ""},
		{"password", file("readable", "s3cret", 0o644), "", "its password: " + plain("readable") + " may be read or changed by everybody: chmod o= " + plain("readable")},
		{"password", file("writable", "s3cret", 0o602), "", "its password: " + plain("writable") + " may be read or changed by everybody: chmod o= " + plain("writable")},
		{"key", file("key", "PEM", 0o604), "", "its key: " + plain("key") + " may be read or changed by everybody: chmod o= " + plain("key")},
		{"ca", file("ca", "PEM", 0o644), "PEM", ""},
		{"ca", file("ca2", "PEM", 0o646), "", "its ca: " + plain("ca2") + " may be read or changed by everybody: chmod o= " + plain("ca2")},
		{"password", file("empty", "", 0o600), "", "its password: " + plain("empty") + " is empty"},
		{"password", file("newline", "\n", 0o600), "", "its password: " + plain("newline") + " is empty"},
		{"password", file("longest", long, 0o600), long, ""},
		{"password", file("too-long", long+"x", 0o600), "", "its password: " + plain("too-long") + " is over 512 KiB"},
		{"password", "file:" + dir, "", "its password: " + dir + " is not a file"},
		{"password", "file:" + pipe, "", "its password: " + pipe + " is not a file"},
		{"password", "file:/dev/zero", "", "its password: /dev/zero is not a file"},
		{"password", "file:" + plain("none"), "", "its password: " + plain("none") + ": no such file or directory"},
		{"password", "env:KIDO_TEST_PASSWORD", "of env", ""},
		{"password", "env:KIDO_TEST_EMPTY", "", "its password: KIDO_TEST_EMPTY is empty"},
		{"password", "env:KIDO_TEST_NONE", "", "its password: the environment variable KIDO_TEST_NONE is not set"},
		{"password", "credential:pg", "of systemd", ""},
		{"password", "credential:none", "", "its password: " + credentials + "/none: no such file or directory"},
	} {
		s := probe.Spec{Kind: probe.KindPostgres, Target: "a:1", Options: options(x.option, x.from, "user", "kido", "tls", "yes")}
		if x.option == "key" {
			s.Options["cert"] = x.from
		}
		if err := s.Check(); err != nil {
			t.Errorf("%q: %v", x.from, err)
		}
		loaded, err := s.Load()
		if err != nil && err.Error() != x.err || err == nil && x.err != "" {
			t.Errorf("%.80q: got %v, want %s", x.from, err, x.err)
		}
		if got := loaded.Secret(x.option); got != x.want {
			t.Errorf("%.80q: got %.80q", x.from, got)
		}
		if s.Secrets != nil {
			t.Errorf("%.80q: loading changed what was loaded from", x.from)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	s := probe.Spec{Kind: probe.KindPostgres, Target: "a:1", Options: options("password", "credential:pg", "user", "kido")}
	if _, err := s.Load(); err == nil || err.Error() != "its password: there are no credentials: systemd hands pg to a unit that has LoadCredential=pg:PATH" {
		t.Errorf("got %v", err)
	}
	if a := (probe.Local{}).Try(t.Context(), s); a.Ready || !a.Untried || !strings.Contains(a.Word, "there are no credentials") {
		t.Errorf("got %+v", a)
	}
	s.Secrets = probe.Secrets{"password": []byte("given")} // as a child has it
	if loaded, err := s.Load(); err != nil || loaded.Secret("password") != "given" {
		t.Errorf("got %q, %v", loaded.Secret("password"), err)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	s := probe.Spec{Kind: probe.KindRedis, Target: "a:1", Secrets: probe.Secrets{"password": []byte("hunter2")}}
	shown := fmt.Sprintf("%v %+v %#v %s %q %x %+v", s, s, s, s.Secrets, s.Secrets, s.Secrets, &s)
	for _, form := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), strings.Trim(fmt.Sprint([]byte("hunter2")), "[]")} {
		if strings.Contains(shown, form) {
			t.Errorf("shown as %s in %s", form, shown)
		}
	}
}

// TestHidden: a service that repeats a secret in its words does not bring it into ours.
func TestHidden(t *testing.T) {
	t.Parallel()
	const secret = "pa55 \"word\"&more\tis  long"
	for name, word := range map[string]string{
		"as it is":       "login failed: " + secret + "!",
		"twice":          secret + secret,
		"quoted":         fmt.Sprintf("login failed: %q", secret),
		"in a URL":       "postgres://kido:pa55%20%22word%22&more%09is%20%20long@db",
		"in a query":     "GET /?p=pa55+%22word%22%26more%09is++long",
		"in base64":      "AUTH " + base64.StdEncoding.EncodeToString([]byte(secret)),
		"as Basic":       "Basic " + base64.StdEncoding.EncodeToString([]byte("kido:"+secret)),
		"cut off":        strings.Repeat("x", 256-10) + secret,
		"cut off in URL": strings.Repeat("x", 256-12) + "pa55%20%22word%22&more%09is%20%20long",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := probe.Spec{Kind: probe.KindMySQL, Target: "a:1", Options: options("user", "kido"), Secrets: probe.Secrets{"password": []byte(secret), "ca": []byte("x")}}
			for _, a := range []probe.Answer{probe.NotReady("%s", word), probe.Answer{Ready: true, Life: "y"}.Degrade(word), probe.Alive(word, 0)} {
				got := probe.Make(t.Context(), s, func(context.Context, probe.Spec) probe.Answer { return a })
				text := got.Word + got.Life
				if strings.Contains(text, "pa55") || strings.Contains(text, "word") || strings.Contains(text, "cGE1") {
					t.Errorf("got %+v", got)
				}
				if got.Ready != a.Ready || got.Word != probe.Printable(got.Word) {
					t.Errorf("got %+v of %+v", got, a)
				}
			}
		})
	}
}

func task() probe.Task {
	return probe.Task{
		Spec: probe.Spec{
			Kind: probe.KindPostgres, Target: "a:1", Options: options("password", "env:X", "user", "kido"), Timeout: time.Second,
			Life:    probe.Life{Token: "a b", Since: time.UnixMilli(1_700_000_000_123)},
			Secrets: probe.Secrets{"password": []byte("a\nsecret password 3\nfoo"), "ca": {}},
		},
		Within: 750 * time.Millisecond,
	}
}

func TestTask(t *testing.T) {
	t.Parallel()
	const text = "postgres a:1 password=env:X timeout=1000 user=kido\nwithin 750\nlife \"a b\" 1700000000123\nsecret ca 0\n\nsecret password 23\na\nsecret password 3\nfoo\n"
	if got := task().String(); got != text {
		t.Errorf("got %q", got)
	}
	got, err := probe.ReadTask(strings.NewReader(text))
	if err != nil || got.String() != text || !bytes.Equal(got.Spec.Secrets["password"], task().Spec.Secrets["password"]) || got.Within != task().Within || !got.Spec.Life.Since.Equal(task().Spec.Life.Since) {
		t.Errorf("got %+v, %v", got, err)
	}
	most := task()
	for _, name := range []string{"ca", "cert", "key", "password"} {
		most.Spec.Secrets[name] = bytes.Repeat([]byte("x"), 512<<10)
	}
	if _, err := probe.ReadTask(strings.NewReader(most.String())); err != nil {
		t.Errorf("the longest secrets: %v", err)
	}

	const head = "redis a:1\n"
	for text, want := range map[string]string{
		"":                                                  "no probe was asked for",
		"redis a:1":                                         "no probe was asked for",
		"redis a\n":                                         "redis: a is not ADDRESS:PORT",
		"redis  a:1\n":                                      `field 2: "" must be quoted`,
		head + "\n":                                         "not a task of a probe",
		head + "x\n":                                        "not a task of a probe",
		head + "secret password 3\nfoo":                     "not a task of a probe",
		head + "secret password 4\nfoo\n":                   "not a task of a probe",
		head + "secret password 2\nfoo\n":                   "not a task of a probe",
		head + "secret password -1\nfoo\n":                  "not a task of a probe",
		head + "secret password 03\nfoo\n":                  "not a task of a probe",
		head + "secret password\nfoo\n":                     "not a task of a probe",
		head + "secret password 1e1\nfoo\n":                 "not a task of a probe",
		head + "secret b 1\nx\nsecret a 1\nx\n":             "not a task of a probe",
		head + "secret a 1\nx\nsecret a 1\nx\n":             "not a task of a probe",
		head + "secret a 1\nx\nwithin 5\n":                  "not a task of a probe",
		head + "secret password 9223372036854775807\nfoo\n": "not a task of a probe",
		head + "within 0\n":                                 "not a task of a probe",
		head + "within 5\nwithin 5\n":                       "not a task of a probe",
		head + "within 3600001\n":                           "not a task of a probe",
		head + "life \"\" 0\n":                              "not a task of a probe",
		head + "life x 1\nlife x 1\n":                       "not a task of a probe",
		strings.Repeat("x", 3<<20):                          "a task of over 2179072 bytes",
	} {
		if got, err := probe.ReadTask(strings.NewReader(text)); err == nil || err.Error() != want {
			t.Errorf("%.80q: got %+v, %v; want %s", text, got, err, want)
		}
	}
}

func FuzzTask(f *testing.F) {
	f.Add(task().String())
	f.Add("redis a:1\nsecret password 3\nfoo\n")
	f.Add("all 1 2 tcp a:1\nlife 5d1f 0\n")
	f.Add("redis a:1\nwithin 1\nlife x -5\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := probe.ReadTask(strings.NewReader(text))
		if err != nil {
			return
		}
		if back := got.String(); back != text {
			t.Errorf("%q came back as %q", text, back)
		}
		if err := got.Spec.Check(); err != nil {
			t.Errorf("%q cannot be tried: %v", text, err)
		}
	})
}

// TestSecretOfOthers: what the gate's user may not read is told with what would let him.
func TestSecretOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pg")
	keep(t, path, "s3cret", 0)
	if os.Getuid() == 0 { // who may read everything, but for a thread that is nobody's
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := syscall.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Setfsuid(0) }()
	}
	s := probe.Spec{Kind: probe.KindPostgres, Target: "a:1", Options: options("password", "file:"+path, "user", "kido")}
	want := "its password: " + path + ": permission denied; for user kido: chgrp kido " + path + ", chmod 640, and let it into the folder"
	if _, err := s.Load(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
