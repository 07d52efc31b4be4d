package sim

import (
	"fmt"
	"testing"

	"kido/internal/plan"
	"kido/internal/rule"
)

// story is a way in which something went wrong once, or would without a rule.
type story struct {
	name     string
	scenario *scenario
	script   script
	lives    map[string]int16 // of some instances in the end
	// without are the rules of which each is needed here.
	without []rule.Rule
}

var stories = []story{
	{
		// op1 has read that the database is in incarnation 2. Before it acts, the
		// database is restarted once more, and op2 restarts the web server against
		// 3. A runner that reads the web server's basis only now finds 3, expects 3,
		// and has the gate put 2 in its place: that restart is lost from the record,
		// and one more is to come.
		name: "a runner that reads the upstreams before the dependent loses a restart",
		scenario: &scenario{
			name: "two announcements", text: pairSite,
			runners: []spec{op(1, plan.Announce, "db"), op(2, plan.Announce, "db")},
			faults:  faults(map[kind]uint8{handRestart: 2}),
		},
		script: script{
			"db@h1 is restarted by hand", "… db@h1 is ready",
			"op1 begins", "… op1 hears of db@h1: ok", "… op1 hears of web@h2: ok", "… op1 hears of db@h1: ok",
			"(op1 pauses)",
			"db@h1 is restarted by hand", "… db@h1 is ready",
			"op2 begins", "… gate of web@h2 for op2: Save", "… gate of web@h2 for op2: Save",
			"(op1 is back)",
		},
		lives:   map[string]int16{"db@h1": 3, "web@h2": 2},
		without: []rule.Rule{rule.SelfFirst},
	},
	{
		// Init has restarted the web server, and the gate that told it to is killed
		// before it can write that down. The intent, which was on disk before init was
		// told, and the new incarnation tell the next gate that it has happened.
		name: "a gate that dies between the restart and its record restarts once",
		scenario: &scenario{
			name: "one announcement", text: pairSite,
			runners: []spec{op(1, plan.Announce, "db")},
			faults:  faults(map[kind]uint8{handRestart: 1, gateDies: 1}),
		},
		script: script{
			"db@h1 is restarted by hand", "… db@h1 is ready",
			"op1 begins", "… init of web@h2: start", "gate of web@h2 for op1 dies before Await",
		},
		lives:   map[string]int16{"db@h1": 2, "web@h2": 2},
		without: []rule.Rule{rule.IntentFirst, rule.CommitMoved},
	},
	{
		// The whole site is off and on again, the web server first. Its start is held
		// until the database's hook has told of the new incarnation; who lets it go as
		// soon as the database answers has it started before anybody can tell, and
		// restarted right after.
		name: "a site that boots in any order starts everything once",
		scenario: &scenario{
			name: "boot", text: pairSite, hooks: true,
			faults: faults(map[kind]uint8{reboot: 2}),
		},
		script:  script{"h2 reboots", "h1 reboots", "h2 boots", "h1 boots", "… db@h1 is ready", "waiter of web@h2 looks"},
		lives:   map[string]int16{"db@h1": 2, "web@h2": 2},
		without: []rule.Rule{rule.Grace},
	},
}

// TestRegressions plays the stories that are kept.
func TestRegressions(t *testing.T) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			w := play(t, s.scenario, s.script)
			if why := s.amiss(w); why != "" {
				t.Errorf("%s\n%s", why, w.story())
			}
		})
	}
}

// amiss says what is not as the story has it in the end.
func (s *story) amiss(w *world) string {
	if w.broken != "" {
		return w.broken
	}
	for name, life := range s.lives {
		if n := w.nodes[w.byName[name]]; n.life != life {
			return fmt.Sprintf("%s is in life %d in the end, want %d", name, n.life, life)
		}
	}
	return ""
}
