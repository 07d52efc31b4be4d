package sim

import (
	"strconv"
	"strings"
)

// move is one thing that may happen next. It is comparable, and means the same in
// every world with the same past.
type move struct {
	kind   kind
	on     int8   // a node, or a host
	by     int8   // a runner, or a host
	at     int16  // position in the list that the move is about: mails, gates, jobs
	n      int8   // which way it goes
	what   string // a verb or an effect
	ground *ground
}

// kind is what a move is about.
type kind uint8

const (
	// What happens by itself.
	arrives     kind = iota // a request reaches its gate, which takes the lock and looks
	performs                // a gate performs its next effect
	waitsNot                // a gate waits no longer
	goesOn                  // a job of init goes on
	isReady                 // a daemon answers its probes
	namesItself             // a daemon writes its pid file
	replies                 // a reply reaches its runner
	ticks                   // a runner's timer fires
	sees                    // a waiter looks, and finds that something has changed
	waited                  // a waiter's time is over
	begins                  // a runner begins its run
	resumes                 // a runner that was cut off, or has failed, goes on
	heals                   // a cut link is whole again
	boots                   // a host boots
	granted                 // a revoked key works again

	// What goes wrong, each as often as the scenario allows.
	gateDies      // between two effects
	saveDies      // within a save
	saveFails     // it could not be written, and says so
	slow          // a gate waits no longer though something is yet at work
	startFails    // init starts it, and it does not come up
	initLies      // init says that it has restarted it, and has done nothing
	jobDies       // its script is killed between stop and start
	startsBlind   // it is up before its pid file is
	dies          // a daemon dies
	goesDeaf      // a daemon answers no probe for a while
	refused       // a request does not get through, and its runner knows
	lost          // a request is lost, and its runner gives up
	late          // a runner gives up on a request that arrives yet
	repeated      // a request is there twice
	replyLost     // a reply is lost
	runnerDies    // a runner is killed
	runnerDoomed  // a runner dies in the midst of its next step
	interrupted   // Ctrl-C
	journalFull   // a runner cannot write its journal
	clockJumps    // a runner's clock jumps ahead
	linkCut       // a host reaches another one no more
	hostCut       // a host is reached by nobody
	keyRevoked    // a host's policy refuses everybody
	powerCut      // what was not fsynced may vanish
	reboot        // in good order
	unreadable    // a state file is damaged
	snapshot      // the state files of a host are put by
	rollback      // and come back
	handRestart   // systemctl restart, not kido
	handStop      // systemctl stop
	handStart     // systemctl start
	released      // kido release: a hold is over
	insideRestart // a DBA restarts it inside its unit: only a probe can tell

	kinds
)

// words says what each kind is called: {on} is a node or host, {by} who acts,
// {what} a verb or effect.
var words = [kinds]string{
	arrives:     "{what} of {by} reaches {on}",
	performs:    "gate of {on} for {by}: {what}",
	waitsNot:    "gate of {on} for {by}: {what}: waits no longer",
	goesOn:      "init of {on}: {what}",
	isReady:     "{on} is ready",
	namesItself: "{on} writes its pid file",
	replies:     "{by} hears of {on}: {what}",
	ticks:       "timer of {by}",
	sees:        "waiter of {on} looks",
	waited:      "waiter of {on} has waited",
	begins:      "{by} begins",
	resumes:     "{by} goes on",
	heals:       "link of {on} and {by} heals",
	boots:       "{on} boots",
	granted:     "{on} takes keys again",

	gateDies:      "gate of {on} for {by} dies before {what}",
	saveDies:      "gate of {on} for {by} dies in Save, {what}",
	saveFails:     "gate of {on} for {by} cannot save: {what}",
	slow:          "gate of {on} for {by}: {what}: gives up on what is slow",
	startFails:    "init of {on}: start fails",
	initLies:      "init of {on}: {what}: says done, and does nothing",
	jobDies:       "init of {on}: is killed before {what}",
	startsBlind:   "init of {on}: start, and the pid file is late",
	dies:          "{on} dies",
	goesDeaf:      "{on} answers no probe",
	refused:       "{what} of {by} does not get through to {on}",
	lost:          "{what} of {by} to {on} is lost",
	late:          "{by} gives up on {what} to {on}, which is under way yet",
	repeated:      "{what} of {by} to {on} is there twice",
	replyLost:     "what {by} was to hear of {on} is lost: {what}",
	runnerDies:    "{by} is killed",
	runnerDoomed:  "{by} will die {what}",
	interrupted:   "{by} is interrupted",
	journalFull:   "{by} has a full disk",
	clockJumps:    "clock of {by} jumps",
	linkCut:       "link of {on} and {by} is cut",
	hostCut:       "{on} is cut off",
	keyRevoked:    "{on} refuses keys",
	powerCut:      "power cut at {on}, {what}",
	reboot:        "{on} reboots",
	unreadable:    "state file of {on} is damaged",
	snapshot:      "snapshot of {on}",
	rollback:      "{on} is rolled back",
	handRestart:   "{on} is restarted by hand",
	handStop:      "{on} is stopped by hand",
	handStart:     "{on} is started by hand",
	released:      "somebody releases {on}",
	insideRestart: "{on} is restarted inside its unit",
}

// hosts are about hosts, not about nodes.
func (k kind) ofHost() bool {
	switch k {
	case heals, boots, granted, linkCut, hostCut, keyRevoked, powerCut, reboot, snapshot, rollback:
		return true
	}
	return false
}

// fault reports whether the scenario's budget counts it.
func (k kind) fault() bool { return k >= gateDies }

func (m move) String() string {
	g := m.ground
	on, by := "", ""
	switch {
	case m.kind.ofHost():
		on = g.hosts[m.on]
		if m.kind == heals || m.kind == linkCut {
			by = g.hosts[m.by]
		}
	case m.on >= 0:
		on = g.names[m.on]
	}
	if by == "" && m.by >= 0 && int(m.by) < len(g.specs) {
		by = g.specs[m.by].name
	} else if by == "" && m.by >= 0 {
		by = mender + strconv.Itoa(int(m.by)-len(g.specs)+1)
	}
	return strings.NewReplacer("{on}", on, "{by}", by, "{what}", m.what).Replace(words[m.kind])
}
