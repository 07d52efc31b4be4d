package sim

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/rule"
	"kido/internal/site"
	"kido/internal/wire"
)

// node is one instance, as it truly is: its daemon, its init and its state file.
type node struct {
	up       bool
	failed   bool // down, and not because somebody wants it so
	ready    bool
	nameless bool // up, and the pid file does not say as what yet
	script   bool // started by a script that forks, not by an init that has jobs
	broken   bool // it died, or failed to start, by no hand of kido's
	jobs     []job
	wait     *waiter // its own start at boot is held
	left     bool    // or is not to come: its waiter has given up

	life      int16 // of the unit: what init calls an incarnation
	inside    int16 // restarts inside this life: what only the probe can tell
	rank      int16 // counts incarnations; the latest
	everReady int16 // the latest incarnation that became ready
	lives     []life
	disk      file

	// What the invariants ask about, see invariant_test.go.
	purpose bool  // an operator wants it down
	rolled  bool  // its record was rolled back
	forgot  bool  // its record was damaged
	waived  bool  // a run has left it down, and could not put on record against what
	unseen  bool  // nothing was on record of it at first
	unsaid  bool  // it was stopped by hand, and by its record kido may owe the start
	downBy  int16 // the run that took it down, until it is ready again; 0 for none
	// unslotted: that run could not ask most keepers of its pool.
	unslotted bool
	// reactions are when gates have begun to act on an ENSURE: as the budget counts.
	reactions []gate.Moment
	ended     []uint64 // what gates have ended a life of it for: vectors, and runs that were to restart it
}

// life is one incarnation of a node, and what it was begun after: of every node,
// the latest incarnation that had been ready by then.
type life struct {
	rank     int16
	token    string
	after    []int16
	reloaded []int16 // the same for its latest reload; nil for none
	at       time.Duration
	readyAt  int32 // when it was last seen ready, in moves; 0 for never
	begunBy  cause
}

// memory is how many incarnations a node remembers: no story is about older ones.
const memory = 6

// cause is on whose behalf something is done.
type cause struct {
	who    culprit
	by     int8      // a gate's: the runner it serves
	run    int16     // and that runner's run
	verb   wire.Verb // what was asked of it
	vector uint64    // and the basis it goes for
	start  bool      // it was to start what was down
	final  bool      // it was to stop it on purpose
}

type culprit uint8

const (
	byHand culprit = iota
	byInit         // boot, or because it had died
	byGate
	inside // somebody within the unit
)

// job is a piece of work of init.
type job struct {
	action initsys.Action
	cause  cause
	id     int16 // the gate that waits for it knows it by this
	boot   bool  // it is part of a boot
	begun  bool  // a restart has stopped it
	child  int   // pid of the script's process, where a gate has put one on record
}

func (n *node) present() *life {
	if !n.up {
		return nil
	}
	return &n.lives[len(n.lives)-1]
}

func (n *node) token() string {
	if !n.up || n.nameless {
		return ""
	}
	return n.lives[len(n.lives)-1].token
}

// unit is the part of its token that init tells.
func (n *node) unit() string { return wire.Unit(n.token()) }

// asked is what the probes of a node say: to who can tell a restart inside the unit,
// which life it was that answered.
func (w *world) asked(n *node) gate.Asked {
	a := gate.Asked{Ready: n.ready, Word: "not ready"}
	if w.sc.probeWord {
		if a.Life = wire.LifeUntold; n.ready {
			_, a.Life, _ = strings.Cut(n.token(), "+")
		}
	}
	return a
}

// incarnation finds a life by its token; nil where it is long gone.
func (n *node) incarnation(token string) *life {
	for i := range n.lives {
		if n.lives[i].token == token {
			return &n.lives[i]
		}
	}
	return nil
}

// busy reports whether init, or a script of its, is at work on n. A script that is
// held at boot has not begun.
func (n *node) busy() bool { return len(n.jobs) > 0 && (!n.script || n.wait == nil || len(n.jobs) > 1) }

// child reports whether a process that is on record is at work yet.
func (n *node) childAtWork(c *initsys.Child) bool {
	return c != nil && slices.ContainsFunc(n.jobs, func(j job) bool { return j.child == c.PID })
}

// begin begins an incarnation.
func (w *world) begin(k int8, c cause) {
	n := &w.nodes[k]
	if c.who != inside {
		n.life++
		n.inside = 0
	} else {
		n.inside++
	}
	n.rank++
	token := tokens.of(n.life, n.inside)
	if w.sc.probeWord && rule.Holds(rule.InnerLife) { // else what begins inside has no name of its own
		token = tokens.joined(n.life, n.inside)
	}
	if len(n.lives) == memory {
		n.lives = slices.Delete(n.lives, 0, 1)
	}
	n.lives = append(n.lives, life{rank: n.rank, token: token, after: w.readySoFar(), at: w.now, begunBy: c})
	n.up, n.failed, n.ready, n.nameless, n.broken, n.left = true, false, false, false, false, false
	w.stirred = true
	if w.telling {
		w.say("    %s is in incarnation %s", w.names[k], token)
	}
	w.begun(k, c)
	w.announce(k)
	for d := range w.nodes { // whoever tells of it sees them again
		if slices.ContainsFunc(w.layouts[0].edges[d], func(e edge) bool { return slices.Contains(e.ups, k) }) {
			w.nodes[d].waived = false
		}
	}
}

// readySoFar is, of every node, the latest incarnation that has been ready.
func (w *world) readySoFar() []int16 {
	after := make([]int16, len(w.nodes))
	for u := range w.nodes {
		after[u] = w.nodes[u].everReady
	}
	return after
}

// end ends the present incarnation.
func (w *world) end(k int8, c cause, failed bool) {
	n := &w.nodes[k]
	if !n.up {
		return
	}
	w.ending(k, c)
	n.up, n.ready, n.nameless, n.failed = false, false, false, failed
	w.stirred = true
	for i := range w.runners { // a hook lives no longer than what it is bound to
		if w.runners[i].spec.hook == w.names[k] {
			w.killRunner(int8(i))
			w.runners[i].state = resting
		}
	}
}

// hand is what a person tells init.
func (w *world) hand(k int8, a initsys.Action) {
	w.order(k, job{action: a, cause: cause{who: byHand}})
}

// order tells init to do something, and returns the job's number, or 0 where there
// is nothing to do. What was held at boot is called off by an init that has jobs,
// for it keeps only the latest.
func (w *world) order(k int8, j job) int16 {
	n := &w.nodes[k]
	if !n.script && n.wait != nil {
		n.jobs = slices.DeleteFunc(n.jobs, func(j job) bool { return j.boot })
		j.boot = j.action != initsys.Stop // it is held in its place
	}
	if j.action == initsys.Start && !n.script {
		if n.up && len(n.jobs) == 0 {
			return 0
		}
		if j.cause.who == byGate {
			j.action = initsys.Restart // the one verb that a gate is given
		}
	}
	w.lastJob++
	j.id = w.lastJob
	n.jobs = append(n.jobs, j)
	return j.id
}

// What init may do next with a job.
const (
	doStop   = "stop"
	doStart  = "start"
	doReload = "reload"
	doNought = "nothing to do"
)

// next says what the next piece of a job is, "" for none: it is held, or another
// one comes first.
func (w *world) nextOf(k int8, at int) string {
	n := &w.nodes[k]
	j := n.jobs[at]
	switch {
	case !n.script && at > 0, j.boot && !w.turn(k):
		return ""
	case j.action == initsys.Stop && n.up, j.action == initsys.Restart && !j.begun && n.up:
		return doStop
	case j.action == initsys.Reload && n.up:
		return doReload
	case j.action == initsys.Stop, j.action == initsys.Reload, n.up:
		return doNought
	}
	return doStart
}

// turn reports whether the boot has come to a node: it is not held, and where init
// starts one script after the other, none before it is.
func (w *world) turn(k int8) bool {
	if w.nodes[k].wait != nil {
		return false
	}
	for u := range k {
		before := &w.nodes[u]
		if w.at[u] == w.at[k] && before.script && slices.ContainsFunc(before.jobs, func(j job) bool { return j.boot }) {
			return false
		}
	}
	return true
}

// advance lets a job go on by one piece.
func (w *world) advance(k int8, at int, how kind) {
	n := &w.nodes[k]
	j := &n.jobs[at]
	switch what := w.nextOf(k, at); {
	case how == initLies, how == jobDies:
		w.finish(k, at, how == jobDies)
	case what == doStop && j.action == initsys.Stop:
		w.end(k, j.cause, false)
		if j.cause.who == byHand {
			w.stoppedByHand(k)
		}
		n.purpose = n.purpose || j.cause.final
		w.finish(k, at, false)
	case what == doStop:
		w.end(k, j.cause, false)
		j.begun = true
	case what == doReload:
		n.present().reloaded = w.readySoFar()
		w.stirred = true
		w.finish(k, at, false)
	case what == doNought:
		w.finish(k, at, j.action == initsys.Reload)
	case how == startFails:
		n.failed, n.broken = true, j.cause.who != byGate
		n.purpose = n.purpose && j.cause.who == byGate // or else somebody wanted it up again
		w.finish(k, at, true)
	default:
		c := j.cause
		w.finish(k, at, false)
		w.begin(k, c)
		if how == startsBlind {
			n.nameless = true
		}
	}
}

// finish takes a job off init's hands, and tells the gate that waits for it.
func (w *world) finish(k int8, at int, failed bool) {
	n := &w.nodes[k]
	id := n.jobs[at].id
	n.jobs = slices.Delete(n.jobs, at, at+1)
	for i := range w.gates {
		if g := &w.gates[i]; g.job == id {
			g.over, g.failed = true, failed
		}
	}
}

// die is the death of a daemon.
func (w *world) die(k int8) {
	n := &w.nodes[k]
	w.end(k, cause{who: byInit}, true)
	n.broken = true
	if w.sc.autoRestart && !n.script && len(n.jobs) == 0 {
		w.order(k, job{action: initsys.Start, cause: cause{who: byInit}})
	}
}

// becomesReady is the end of a daemon's own start.
func (w *world) becomesReady(k int8) {
	n := &w.nodes[k]
	n.ready, n.everReady, n.downBy = true, n.rank, 0
	w.stirred = true
}

// bank keeps the tokens, so that no world has to print one.
type bank [64][8][2]string

var tokens = func() *bank {
	b := &bank{}
	for life := range b {
		for part := range b[life] {
			// With a probe's word it is there from the first on: "3+0".
			b[life][part] = [2]string{strconv.Itoa(life), strconv.Itoa(life) + "+" + strconv.Itoa(part)}
		}
	}
	return b
}()

func (b *bank) of(life, _ int16) string {
	if int(life) < len(b) {
		return b[life][0][0]
	}
	return strconv.Itoa(int(life))
}

func (b *bank) joined(life, part int16) string {
	if int(life) < len(b) && int(part) < len(b[0]) {
		return b[life][part][1]
	}
	return strconv.Itoa(int(life)) + "+" + strconv.Itoa(int(part))
}

// isScript reports whether an adapter's init starts scripts that fork, and shows
// no jobs.
func isScript(k site.AdapterKind) bool { return k != site.KindSystemd }
