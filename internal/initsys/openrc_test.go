package initsys

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestOpenRCStatus: what OpenRC's status says, with a stand-in for rc-service.
func TestOpenRCStatus(t *testing.T) {
	t.Parallel()
	dead := t.TempDir() + "/pid"
	if err := os.WriteFile(dead, fmt.Appendf(nil, "%d\n", 1<<22+1), 0o600); err != nil { // over any pid
		t.Fatal(err)
	}
	gone := fmt.Sprintf("pid file %s names process %d, which is gone", dead, 1<<22+1)
	for _, x := range []struct {
		name, says string
		code       int
		pidFile    string
		want       Observation
		err        string
	}{
		{"stopped", " * status: stopped", 3, "/none", Observation{State: Down}, ""},
		{"starting", " * status: starting", 8, "/none", Observation{State: Busy, Word: "openrc is starting it"}, ""},
		{"stopping", " * status: stopping", 4, "/none", Observation{State: Busy, Word: "openrc is stopping it"}, ""},
		{"an LSB script's 4", "cannot tell", 4, "/none", Observation{}, "exit status 4 does not tell whether it runs: \"cannot tell\""},
		{"inactive", " * status: inactive", 16, "/none", Observation{State: Busy, Word: "inactive: it was started, and waits for something that openrc will tell it"}, ""},
		{"crashed", " * status: crashed", 32, "/none", Observation{State: Failed, Word: "status says that it died; there is no pid file /none"}, ""},
		{"started, and dead", " * status: started", 0, dead, Observation{State: Failed, Word: gone}, ""},
		{"started, no pid file", " * status: started", 0, "/none", Observation{State: Up, Word: "status says that it runs, but there is no pid file /none"}, ""},
		{"no such service", " * rc-service: service `x' does not exist", 1, "/none", Observation{}, "openrc has no service x: rc-service --list shows those that it has"},
	} {
		t.Run(x.name, func(t *testing.T) {
			u, err := NewOpenRC(OpenRCConfig{Script: "x", PIDFile: x.pidFile})
			if err != nil {
				t.Fatal(err)
			}
			u.(*openrc).status = []string{"/bin/sh", "-c", fmt.Sprintf("cat <<'.'\n%s\n.\nexit %d", x.says, x.code), "x", "status"}
			got, err := u.Observe(t.Context())
			if got != x.want || (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
				t.Errorf("got %+v, %v\nwant %+v, %s", got, err, x.want, x.err)
			}
		})
	}
}

// TestOpenRCRevives: what is dead and called started is stopped, reset and
// started, which is more than OpenRC does by itself.
func TestOpenRCRevives(t *testing.T) {
	t.Parallel()
	made, err := NewOpenRC(OpenRCConfig{Script: "db", Become: []string{"/usr/bin/sudo", "-n"}})
	if err != nil {
		t.Fatal(err)
	}
	u := made.(*openrc)
	if u.pidFile != "/run/db.pid" || u.dead.pidFile != u.pidFile {
		t.Errorf("pid files %s and %s", u.pidFile, u.dead.pidFile)
	}
	verbs := func(steps []step) (all []string) {
		for _, s := range steps {
			if !slices.Equal(s.argv[:4], []string{"/usr/bin/sudo", "-n", "/sbin/rc-service", "db"}) {
				t.Errorf("argv %q", s.argv)
			}
			all = append(all, s.argv[4])
		}
		return all
	}
	for a, want := range map[Action][]string{
		Start: {"stop", "zap", "start"}, Restart: {"stop", "zap", "start"}, Stop: {"stop", "zap"}, Reload: {"reload"},
	} {
		if got := verbs(u.actions[a]); !slices.Equal(got, []string{string(a)}) {
			t.Errorf("%s: %v", a, got)
		}
		if got := verbs(u.dead.actions[a]); !slices.Equal(got, want) {
			t.Errorf("%s of what is dead: %v; want %v", a, got, want)
		}
	}
	for _, bad := range []OpenRCConfig{{Script: "../x"}, {Script: ""}, {Script: "x", PIDFile: "run/x"}, {Script: "x", Become: []string{"sudo"}}} {
		if _, err := NewOpenRC(bad); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}
