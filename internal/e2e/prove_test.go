package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kido/internal/remote/sshdtest"
)

// proof is what `kido audit --prove HOST -o json` says.
type proof struct {
	Host  string
	Good  bool
	Users []struct {
		User    string
		Plain   bool
		Error   string
		Results []struct{ Group, Name, Outcome, How string }
	}
}

func (r result) proof(t testing.TB) proof {
	t.Helper()
	var p proof
	if err := json.Unmarshal([]byte(r.out), &p); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	return p
}

// outcomes lists the attempts by what came of them.
func (p proof) outcomes() map[string][]string {
	all := map[string][]string{}
	for _, u := range p.Users {
		for _, r := range u.Results {
			all[r.Outcome] = append(all[r.Outcome], r.Name+": "+r.How)
		}
	}
	return all
}

// TestProve: with the key that kido uses nothing else can be done at a host, the
// proof of it leaves the host as it was, and the key works as before.
func TestProve(t *testing.T) {
	t.Parallel()
	l := shop()
	l.config = []string{"Subsystem sftp internal-sftp", "AllowTcpForwarding yes", "AllowAgentForwarding yes"}
	s := newSite(t, l)
	n := s.up(t)
	h := s.host(t, "web1")
	before := s.read(t, s.record(t, "web@web1"))

	r := s.must(t, 0, "audit", "--prove", "web1", "-o", "json")
	p := r.proof(t)
	all := p.outcomes()
	if !p.Good || len(p.Users) != 1 || p.Users[0].User != s.me || len(all["not-refused"])+len(all["not-tried"]) > 0 {
		t.Errorf("something was not refused: %s", r)
	}
	if len(all["refused"]) < 40 {
		t.Errorf("only %d attempts were made: %s", len(all["refused"]), r)
	}
	for _, want := range []string{"slow: gate: \"the request did not come in time\"", "pty: sshd: ", "shell: gate: ", "no such service: gate: "} {
		if !strings.Contains(strings.Join(all["refused"], "\n"), want) {
			t.Errorf("not refused as it is to be: %s: %s", want, r)
		}
	}
	if after := s.read(t, s.record(t, "web@web1")); after != before {
		t.Errorf("the record is another:\n%s\nbefore:\n%s", after, before)
	}
	h.nothingLeft(t)
	s.since(t, n).counts(t, nil)
	s.allFresh(t)
}

// TestProveFinds: a key that is not locked is found out, with exit status 1; one that
// does not work, or a host with another key, proves nothing: 3.
func TestProveFinds(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{units: []unit{{name: "web", on: []string{"web1"}}}})
	h := s.host(t, "web1")
	h.sshd.SetKeys(s.read(t, s.dir, "id_ed25519.pub"))
	r := s.must(t, 1, "audit", "--prove", "web1")
	r.want(t, 1, "NOT refused  request", "NOT refused  shell", "NOT refused  pty")

	h.sshd.SetKeys(sshdtest.NewKey(t).Line(""))
	s.must(t, 3, "audit", "--prove", "web1").want(t, 3, "a refusal would prove nothing")

	s.write(t, filepath.Join(s.dir, "known_hosts"), "web1 "+sshdtest.NewKey(t).Public()+"\n")
	s.must(t, 3, "audit", "--prove", "web1").want(t, 3, "the host's key has changed")
}

// TestProvePlain: at a plain target the one command is not run.
func TestProvePlain(t *testing.T) {
	t.Parallel()
	s := newSite(t, layout{units: []unit{{name: "web", on: []string{"web1"}, plain: true}}})
	ran := filepath.Join(s.dir, "ran")
	s.host(t, "web1").sshd.SetKeys(s.memoLine(t, "touch "+ran))
	r := s.must(t, 0, "audit", "--prove", "web1")
	r.want(t, 0, "a plain target", "left out     commands", "refused      pty")
	if _, err := os.Stat(ran); err == nil {
		t.Errorf("the command was run: %s", r)
	}
}
