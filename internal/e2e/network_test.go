package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"kido/internal/remote/sshdtest"
)

// owes checks that an instance that cannot be reached is on record with what it
// owes.
func (st status) owes(t testing.TB, instance, upstream string) {
	t.Helper()
	st.want(t, 3)
	if i := st.of(t, instance); !slices.Contains(i.Owes, upstream) || i.Fresh {
		t.Errorf("%s is not said to owe anything to %s: %s", instance, upstream, st.result)
	}
}

// TestDeadTarget: what a dead host owes stays on record while the others are
// done, and is paid once when it is back.
func TestDeadTarget(t *testing.T) {
	t.Parallel()
	for _, again := range [][]string{{"resume"}, {"announce", "db"}} {
		t.Run(again[0], func(t *testing.T) {
			t.Parallel()
			s := newSite(t, shop())
			n := s.up(t)
			web1 := s.host(t, "web1")
			web1.sshd.Stop()
			s.must(t, 3, "restart", "db").want(t, 3, "connection refused", "web@web1 owes a reaction to db@db1", "kido resume")
			s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web2": 1})
			s.status(t).owes(t, "web@web1", "db@db1")

			web1.sshd.Restart()
			s.status(t).owes(t, "web@web1", "db@db1")
			s.must(t, 0, again...)
			h := s.since(t, n)
			h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
			h.against(t, "web@web1", "db@db1")
			s.allFresh(t)
		})
	}
}

// TestKeepTrying: the debt is paid by itself when the host comes back.
func TestKeepTrying(t *testing.T) {
	t.Parallel()
	s := newSite(t, shop())
	n := s.up(t)
	web1 := s.host(t, "web1")
	web1.sshd.Stop()
	run := s.begin(t, nil, "restart", "db", "--keep-trying")
	// Its attempts, 3, are used up by then.
	until(t, "a fifth attempt", func() bool { return strings.Contains(run.out.String(), "(attempt 5)") })
	web1.sshd.Restart()
	run.end(t).want(t, 0)
	h := s.since(t, n)
	h.counts(t, map[string]int{"db@db1": 1, "web@web1": 1, "web@web2": 1})
	h.against(t, "web@web1", "db@db1")
	s.allFresh(t)
}

// TestHungTarget: a host that takes connections and says nothing costs its own
// time-out and holds up nobody.
func TestHungTarget(t *testing.T) {
	t.Parallel()
	l := shop()
	l.connect, l.attempts = "4s", 1 // in which those that do answer are to have answered
	s := newSite(t, l)
	n := s.up(t)
	web1 := s.host(t, "web1")
	web1.sshd.Stop()
	silent, err := net.Listen("tcp", net.JoinHostPort(web1.addr, fmt.Sprint(web1.sshd.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	// Were it not bounded, patience would run out and kido be killed.
	s.must(t, 3, "restart", "db").want(t, 3, "no answer in time", "web@web1 owes a reaction to db@db1")
	s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web2": 1})
	s.status(t).owes(t, "web@web1", "db@db1")
}

// TestManyBehindOneServer: a hundred dependents behind one sshd, whose
// MaxStartups is OpenSSH's own 10:30:100, are restarted once each, at once.
func TestManyBehindOneServer(t *testing.T) {
	t.Parallel()
	l := layout{units: []unit{{name: "db", on: []string{"db1"}}}}
	want := map[string]int{"db@db1": 1}
	for i := range 100 {
		name := fmt.Sprintf("web%02d", i)
		l.units = append(l.units, unit{name: name, on: []string{"many"}, after: []string{"db: restart"}})
		want[name+"@many"] = 1
	}
	s := newSite(t, l)
	s.must(t, 0, "up")
	n := len(s.history(t))
	r := s.must(t, 0, "restart", "db")
	r.wantNot(t, "retry")
	s.since(t, n).counts(t, want)
	s.allFresh(t)
}

// TestHostKey: to a host that shows another key than the pinned one, or for
// which none is pinned, nothing of ours is sent.
func TestHostKey(t *testing.T) {
	t.Parallel()
	other := sshdtest.NewKey(t)
	for _, c := range []struct {
		name, host string
		pin        *sshdtest.Key
		code       int
		words      []string
	}{
		{"changed", "web1", other, 3, []string{"the host's key has changed", ssh.FingerprintSHA256(other.Signer.PublicKey()), "known_hosts:", "hint: if the host was installed anew"}},
		{"unknown", "web1", nil, 3, []string{"no host key is pinned", "nothing was sent", "ssh_host_ed25519_key.pub"}},
		{"upstream changed", "db1", other, 1, []string{"the host's key has changed"}},
		{"upstream unknown", "db1", nil, 1, []string{"no host key is pinned"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, shop())
			n := s.up(t)
			s.must(t, 0, "announce", "db") // all connections are idle or gone
			h := s.host(t, c.host)
			var pins []string
			for _, line := range strings.Split(strings.TrimSpace(s.read(t, s.dir, "known_hosts")), "\n") {
				if !strings.HasPrefix(line, fmt.Sprintf("[%s]:%d ", h.addr, h.sshd.Port)) {
					pins = append(pins, line)
				}
			}
			s.write(t, s.dir+"/known_hosts", strings.Join(pins, "\n")+"\n")
			words := c.words
			if c.pin != nil {
				s.pin(t, h, c.pin)
				words = append(words, ssh.FingerprintSHA256(h.sshd.HostKey.Signer.PublicKey()))
			}
			// What came in until now has been told to its end.
			h.sshd.WaitLog("Closing connection to", strings.Count(h.sshd.Log(), "Accepted publickey"))
			before := len(h.sshd.Log())
			s.must(t, c.code, "restart", "db").want(t, c.code, words...)
			for _, said := range []string{"user", "Accepted", "Postponed", "Failed", "Starting session"} {
				if log := h.sshd.Log()[before:]; strings.Contains(log, said) {
					t.Errorf("something was sent to %s:\n%s", c.host, log)
				}
			}
			if c.host == "db1" {
				s.since(t, n).counts(t, nil)
				s.status(t).want(t, 3)
				return
			}
			s.since(t, n).counts(t, map[string]int{"db@db1": 1, "web@web2": 1})
			s.status(t).owes(t, "web@web1", "db@db1")
		})
	}
}
