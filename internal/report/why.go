package report

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"kido/internal/plan"
	"kido/internal/run"
	"kido/internal/wire"
)

// Question is what [Explain] goes by.
type Question struct {
	Runs []History
	Now  time.Time // and the place whose times are written
	Look []Look    // the instances that are asked about
	// All tells the whole story on record, not only the last that happened.
	All bool
	// Since, where not zero, tells all from then on.
	Since time.Time
}

// Look is an instance and how it stands now.
type Look struct {
	Instance string
	Asked    bool // false: nobody was asked, and only the journals speak
	Self     plan.Observation
	Need     plan.Verdict
	Others   map[string]*wire.Status // of its upstreams, where known
}

// Answer is what a sentence comes to. The spelling is -o json's.
type Answer string

// The answers.
const (
	AnswerDone      Answer = "done"      // it was started, restarted, reloaded or stopped by a run
	AnswerUnderWay  Answer = "under-way" // a run is at work on it
	AnswerNot       Answer = "not-done"  // it was left, waived, refused, or it failed
	AnswerElsewhere Answer = "elsewhere" // something happened that no run on record has done
	AnswerNothing   Answer = "nothing"   // nothing on record
)

// Explanation is why something happened to an instance, or did not.
type Explanation struct {
	Instance string     `json:"instance"`
	Answer   Answer     `json:"answer"`
	Sentence string     `json:"sentence"`
	Evidence []Evidence `json:"evidence"` // the oldest first
	Present  string     `json:"now"`      // how it stands
	Next     string     `json:"next,omitempty"`
}

// Evidence is one thing that was seen, decided or done.
type Evidence struct {
	Time     time.Time  `json:"time"`               // by the clock of that run's machine
	Run      string     `json:"run,omitempty"`      // "" for what is seen now
	Instance string     `json:"instance,omitempty"` // "": it is about the run itself
	Phase    run.Phase  `json:"phase,omitempty"`
	What     string     `json:"what"`
	By       string     `json:"by,omitempty"`      // where a run begins: who began it
	Command  string     `json:"command,omitempty"` // likewise: what was typed
	From     string     `json:"from,omitempty"`    // likewise: where its journal was carried from
	Token    string     `json:"token,omitempty"`
	Follows  []change   `json:"follows,omitempty"` // the upstreams that are followed
	Tries    int        `json:"tries,omitempty"`   // that came to the same, up to Last
	Last     *time.Time `json:"last,omitempty"`

	part *part
}

// Explain says of each instance, in one sentence, why the last that happened to
// it did, or why it did not, with the evidence. It is pure: the same question
// has the same answer.
func Explain(q Question) []Explanation {
	r := newRecord(q.Runs)
	for _, l := range q.Look {
		if l.Self.Status != nil {
			r.see(q.Now, l.Self.Status)
		}
	}
	all := make([]Explanation, 0, len(q.Look))
	for _, l := range q.Look {
		w := &why{q: q, r: r, Look: l, episodes: r.episodes(l.Instance), picked: map[*fact]bool{}}
		answer, text := w.conclude()
		all = append(all, Explanation{
			Instance: l.Instance, Answer: answer, Sentence: l.Instance + " " + text + ".",
			Evidence: w.evidence(), Present: w.present(), Next: w.next,
		})
	}
	return all
}

// why is the explanation of one instance as it is put together.
type why struct {
	Look
	q        Question
	r        *record
	episodes []*episode // those that have to do with it
	picked   map[*fact]bool
	begun    []*part    // parts to be told of though no fact of theirs is picked
	more     []Evidence // beside the picked facts
	next     string
}

// conclude finds the sentence, without its subject. What is so now goes before
// what the last run said of it.
func (w *why) conclude() (Answer, string) {
	var e *episode
	if n := len(w.episodes); n > 0 {
		e = w.episodes[n-1]
	}
	for _, judge := range []func(*episode) (Answer, string){
		w.underWay, w.unknown, w.onPurpose, w.onHold, w.cutOff, w.unwell, w.waiting, w.owing, w.elsewhere, w.beside, w.left, w.deed, w.needless,
	} {
		if answer, text := judge(e); text != "" {
			return answer, text
		}
	}
	return w.nothing()
}

func (w *why) status() *wire.Status { return w.Self.Status }

// fine reports whether it is seen to be as it should.
func (w *why) fine() bool {
	return w.status() != nil && w.Need.Fresh() && len(w.Need.Passed) == 0 && !plan.OnPurpose(w.status())
}

// underWay is for an instance that a run is at work on.
func (w *why) underWay(*episode) (Answer, string) {
	i := slices.IndexFunc(w.episodes, func(e *episode) bool { return e.live && len(e.steps) > 0 && !e.phase().Final() })
	if i < 0 {
		return "", ""
	}
	e := w.episodes[i]
	w.pick(e)
	f, a := e.last(), e.act(w.r)
	if f == nil {
		return AnswerUnderWay, w.not(e) + " yet: " + w.turn(e)
	}
	switch f.Phase {
	case run.PhaseActing:
		return AnswerUnderWay, fmt.Sprintf("is about to be %s, asked for%s%s", past(f.deed()), w.at(f.at), w.because(a))
	case run.PhaseSettling:
		if a == nil {
			break
		}
		text := w.did(a) + "; it is not ready yet"
		if s := w.status(); s != nil && s.Ready {
			return AnswerUnderWay, w.did(a) + "; it is ready by now"
		} else if s != nil && s.Word != "" {
			text += ": " + s.Word
		}
		return AnswerUnderWay, text
	case run.PhaseRetry:
		w.next = f.Hint
		text := w.not(e) + " yet: " + w.trouble(f)
		if f.Next != nil && f.Next.After(w.q.Now) {
			text += ", next try" + w.at(*f.Next)
		}
		return AnswerUnderWay, text
	case run.PhaseOnHold:
		if s := w.status(); s == nil || holdLeft(s) > 0 {
			break
		}
		if len(w.Need.Blocked) > 0 {
			return AnswerUnderWay, w.not(e) + " yet: " + w.turn(e)
		}
		return AnswerUnderWay, fmt.Sprintf("%s yet: %s; run %s goes on within seconds%s", w.not(e), w.released(f), e.id, w.owes(w.owed()))
	}
	w.next = f.Hint
	return AnswerUnderWay, w.not(e) + " yet: " + w.trouble(f)
}

// turn says what a step waits for of which nothing is on record yet.
func (w *why) turn(e *episode) string {
	service, _, _ := strings.Cut(w.Instance, "@")
	state := map[int]*fact{}
	for _, f := range e.part.facts {
		state[f.ID] = f
	}
	for _, edge := range e.step().After {
		if f := state[edge.Step]; f == nil || !f.Phase.Final() {
			return w.upstream(e.part, e.plan.Steps[edge.Step].Name, f)
		}
	}
	for _, f := range state {
		if other, _, _ := strings.Cut(f.Instance, "@"); other == service && f.Slot && e.plan.AtOnce[service] > 0 {
			return fmt.Sprintf("at most %d of %s at once (max_unavailable), and it waits for %s", e.plan.AtOnce[service], service, f.Instance)
		}
	}
	if len(w.Need.Blocked) > 0 {
		return w.upstream(e.part, w.Need.Blocked[0].Upstream, nil)
	}
	return "its turn has just come"
}

// upstream says in which way an upstream is waited for in a part of a run, nil
// for none; f is the last that the run said of it.
func (w *why) upstream(p *part, name string, f *fact) string {
	text := name + " is not through yet"
	switch i := slices.IndexFunc(w.Need.Blocked, func(b plan.Block) bool { return b.Upstream == name }); {
	case i >= 0 && strings.HasPrefix(w.Need.Blocked[i].Why, name):
		text = w.Need.Blocked[i].Why
	case i >= 0:
		text = because(name+" is not ready", w.Need.Blocked[i].Why)
	case f == nil:
	case f.Phase == run.PhaseActing:
		text = name + " is being " + past(f.deed())
	case f.Phase == run.PhaseSettling:
		text = name + " is not ready yet"
	case f.Phase == run.PhaseRetry:
		text = because(name+" is tried again", f.Word)
	}
	if p != nil {
		for _, a := range slices.Backward(w.r.of(name)) {
			if a.part == p {
				w.pickAct(a)
				return fmt.Sprintf("%s (for %s, by run %s)", text, elapsed(w.q.Now.Sub(a.at)), p.id)
			}
		}
		return fmt.Sprintf("%s (run %s)", text, p.id)
	}
	if age := w.age(name); age > 0 {
		text += fmt.Sprintf(" (for %s)", elapsed(age))
	}
	return text
}

// age is that of an upstream's incarnation; 0 where unknown.
func (w *why) age(name string) time.Duration {
	if s := w.Others[name]; s != nil {
		return s.Age
	}
	return 0
}

// unknown is for an instance whose gate does not believe its state file: whatever
// is on record, nobody knows whether it still holds.
func (w *why) unknown(*episode) (Answer, string) {
	word, yes := strings.CutPrefix(w.Self.Err, string(wire.CodeUnknown)+": ")
	if !yes {
		return "", ""
	}
	w.pickLast()
	w.next = fmt.Sprintf("kido restart %s makes it known again", w.Instance)
	word, _, _ = strings.Cut(word, ": what it was started against") // no need to say it twice
	return AnswerNot, because("is left alone, for what it was started against is unknown", word)
}

const nobodyStopped = "and no run on record stopped it: by hand, by its init, or never started; that counts as on purpose"

// onPurpose is for an instance that is down because somebody wants it so.
func (w *why) onPurpose(e *episode) (Answer, string) {
	waived := e != nil && e.phase() == run.PhaseWaived
	if s := w.status(); s != nil && !plan.OnPurpose(s) || s == nil && !waived {
		return "", ""
	}
	w.next = "kido start " + w.Instance + " wants it again"
	stop := w.lastDone()
	if stop != nil {
		w.pickAct(stop)
		if stop.deed() != string(wire.VerbStop) {
			stop = nil
		}
	}
	if waived || len(w.Need.Debts) > 0 {
		if waived {
			w.pick(e)
		}
		if stop == nil {
			return AnswerNot, "was not restarted: it is down, " + nobodyStopped
		}
		return AnswerNot, fmt.Sprintf("was not restarted: it was stopped on purpose%s%s", w.at(stop.when()), w.because(stop))
	}
	if stop != nil {
		return AnswerDone, "was stopped on purpose" + w.at(stop.when()) + w.because(stop)
	}
	return AnswerElsewhere, "is down, " + nobodyStopped
}

// onHold is for an instance of which a run said that it is on hold and which is
// not any more, or the other way about: no run on record has put it there.
func (w *why) onHold(e *episode) (Answer, string) {
	s := w.status()
	if s == nil || w.fine() {
		return "", ""
	}
	var put *fact
	if e != nil && len(e.steps) > 0 {
		put = e.last()
	}
	switch on := put != nil && put.onHold(); {
	case holdLeft(s) > 0 && !on && len(w.Need.Debts) > 0:
		w.pickLast()
		w.next = "calm its upstreams, then: kido release " + w.Instance
		return AnswerNot, w.fallen() + "was not restarted: " + w.holds() + w.owes(w.owed())
	case holdLeft(s) == 0 && on:
		w.pick(e)
		if answer, text := w.waiting(e); text != "" {
			return answer, text
		}
		w.goOn(e)
		if len(w.Need.Debts) > 0 {
			w.next = "kido announce " + w.Need.Debts[0].Upstream
		}
		return AnswerNot, w.fallen() + w.not(e) + ": " + w.released(put) + w.owes(w.owed())
	}
	return "", ""
}

// holdLeft is for how long yet an instance is left alone, as it reacted too often;
// 0: it is not. No budget keeps down what a run has stopped and owes the start.
func holdLeft(s *wire.Status) time.Duration {
	if s.Wanted == wire.WantedHeld {
		return 0
	}
	return s.OnHold
}

// holds says that it is on hold, and for how long yet.
func (w *why) holds() string {
	return fmt.Sprintf("it is on hold for %s yet, as it reacted too often", elapsed(holdLeft(w.status())))
}

// released says that what a run said of a hold is over.
func (w *why) released(put *fact) string {
	return fmt.Sprintf("it was put on hold%s, and nothing holds it any more", w.at(put.at))
}

// fallen says that it is down, before what else there is to say; "" where it is
// not, or nobody knows.
func (w *why) fallen() string {
	switch s := w.status(); {
	case s == nil:
	case s.State == wire.StateFailed && s.Word != "":
		return fmt.Sprintf("has failed (%s), and ", s.Word)
	case s.State == wire.StateFailed:
		return "has failed, and "
	case s.State == wire.StateDown:
		return "is down, and "
	}
	return ""
}

// cutOff is for the instances of a run that did not come to its end.
func (w *why) cutOff(e *episode) (Answer, string) {
	if e == nil || len(e.steps) == 0 || e.over || e.live || e.phase().Final() || w.fine() {
		return "", ""
	}
	w.pick(e)
	w.goOn(e)
	how := fmt.Sprintf("run %s was cut off before", e.id)
	if e.from != "" {
		how = fmt.Sprintf("the journal of run %s was carried here before", e.id)
	}
	f, a := e.last(), e.act(w.r)
	switch {
	case f == nil:
		return AnswerNot, fmt.Sprintf("%s: %s its turn%s", w.not(e), how, w.owes(w.owed()))
	case f.Phase == run.PhaseActing:
		return AnswerNot, fmt.Sprintf("was to be %s%s%s: %s it heard what came of it", past(f.deed()), w.at(f.at), w.because(a), how)
	case a != nil && a.answer != nil:
		return AnswerDone, fmt.Sprintf("%s; %s it was seen ready", w.did(a), how)
	}
	return AnswerNot, fmt.Sprintf("%s: %s; %s it was through", w.not(e), w.trouble(f), how)
}

// unwell is for an instance whose last run did not end well for it.
func (w *why) unwell(e *episode) (Answer, string) {
	if e == nil || len(e.steps) == 0 || !e.phase().Final() || e.phase().Well() || w.fine() {
		return "", ""
	}
	f := e.last()
	w.pick(e)
	w.goOn(e)
	if f.Hint != "" && !(f.unreached() && w.status() != nil) { // that is over
		w.next += "; first: " + f.Hint
	}
	if up := w.before(f); up != nil && up.Hint != "" && !w.calm(up.Instance) {
		w.next += "; first: " + up.Hint
	}
	if a := e.act(w.r); a != nil && a.done() {
		return AnswerNot, w.did(a) + "; but then: " + w.trouble(f)
	}
	if e.step().Action == plan.ActWait {
		return AnswerNot, fmt.Sprintf("was waited for in vain by run %s: %s", e.id, w.trouble(f))
	}
	return AnswerNot, w.not(e) + ": " + w.trouble(f)
}

// trouble says what a fact that is not well comes to, and what is owed.
func (w *why) trouble(f *fact) string {
	text := f.Word
	switch {
	case f.Phase == run.PhaseRefused:
		text = "refused: " + strings.TrimPrefix(f.Word, "refused: ")
	case f.Phase == run.PhaseLeft:
		text = fmt.Sprintf("run %s was interrupted before its turn", f.id)
		for _, g := range f.facts {
			if g.ID == f.ID && g.Phase == run.PhaseRetry {
				text = fmt.Sprintf("%s; then run %s was interrupted", g.Word, f.id)
			}
		}
	case f.onHold():
		text = because("it was put on hold", f.held())
		if s := w.status(); s != nil && holdLeft(s) > 0 {
			text = w.holds()
		}
	case w.before(f) != nil:
		text = "behind " + w.before(f).Instance + ", which is on hold"
		if w.calm(w.before(f).Instance) {
			text = "behind " + w.before(f).Instance + ", which was on hold then"
		}
	case f.Phase == run.PhaseSkipped:
		// "oracle@db1 failed"; anything else is a reason of its own.
		if name, rest, _ := strings.Cut(f.Word, " "); strings.Contains(name, "@") && !strings.Contains(rest, " and ") {
			text = fmt.Sprintf("behind %s, which %s", name, rest)
		}
	case f.unreached():
		text = "its host cannot be reached: " + f.Word
		if w.status() != nil {
			text = "its host could not be reached" + w.at(f.at) + ": " + f.Word
		}
	case f.Phase != run.PhaseFailed && f.Phase != run.PhaseRetry:
		text = because("it is "+string(f.Phase), f.Word) // "it is held: …"
	case f.Word == "":
		text = "run " + f.id + " does not say why"
	}
	return text + w.owes(f.Owes)
}

// before finds the fact that an upstream is on hold, where that is why the step
// of f was not begun. To the runner such an upstream has failed.
func (w *why) before(f *fact) *fact {
	name, failed := strings.CutSuffix(f.Word, " failed")
	if f.Phase != run.PhaseSkipped || !failed {
		return nil
	}
	for _, up := range slices.Backward(f.part.facts) {
		if up.Instance == name && up.onHold() {
			return up
		}
	}
	return nil
}

// calm reports whether an upstream is seen not to be on hold.
func (w *why) calm(name string) bool {
	s := w.Others[name]
	return s != nil && holdLeft(s) == 0
}

// owes says what is owed, after something else.
func (w *why) owes(to []string) string {
	if len(to) == 0 {
		return ""
	}
	return fmt.Sprintf("; it owes %s a %s", list(to), cmp.Or(string(w.Need.Reaction), "restart"))
}

// owed lists the upstreams that it is seen to owe a reaction now.
func (w *why) owed() (all []string) {
	for _, d := range w.Need.Debts {
		all = append(all, d.Upstream)
	}
	return all
}

// goOn says how to go on with the run of an episode.
func (w *why) goOn(e *episode) {
	w.next = "kido resume " + e.id + " goes on with it"
	if e.from != "" {
		w.next += ", on the machine of that run"
	}
}

// waiting is for an instance with an upstream that is not ready.
func (w *why) waiting(*episode) (Answer, string) {
	if w.status() == nil {
		return "", ""
	}
	for _, b := range w.Need.Blocked {
		if b.Why != "stopped on purpose" && b.Upstream != w.Instance {
			w.pickLast()
			w.next = "kido why " + b.Upstream
			return AnswerNot, w.fallen() + "was not restarted: " + w.upstream(nil, b.Upstream, nil)
		}
	}
	return "", ""
}

// owing is for an instance that owes something of which no run has taken care.
func (w *why) owing(e *episode) (Answer, string) {
	if len(w.Need.Debts) == 0 {
		return "", ""
	}
	d := w.Need.Debts[0]
	w.next = "kido announce " + d.Upstream
	w.pickLast()
	a := w.r.cause(d.Upstream, d.Has)
	switch {
	case d.Had == "":
		return AnswerNot, w.fallen() + fmt.Sprintf("was not restarted yet: kido has no record of which %s it was started against%s", d.Upstream, w.owes(w.owed()))
	case a != nil:
		w.pickAct(a)
		if e != nil && e.part == a.part && e.note != "" {
			return AnswerNot, w.fallen() + fmt.Sprintf("was not restarted: %s left it alone%s", a.title(), w.owes(w.owed()))
		}
		return AnswerNot, w.fallen() + fmt.Sprintf("was not restarted: %s was %s%s by run %s, and no run on record came to this since%s",
			d.Upstream, past(a.deed()), w.at(a.when()), a.id, w.owes(w.owed()))
	}
	w.strange(d.Upstream, d.Had, d.Has)
	return AnswerNot, w.fallen() + fmt.Sprintf("was not restarted: no run on record has dealt with the new incarnation of %s%s%s",
		d.Upstream, w.sinceAbout(d.Upstream, d.Has), w.owes(w.owed()))
}

// sinceAbout is when an incarnation of an upstream began.
func (w *why) sinceAbout(instance, token string) string {
	if age := w.age(instance); age > 0 {
		return ", of about " + w.clock(w.q.Now.Add(-age))
	}
	if f := w.r.sighting(instance, token); f != nil && f.id != "" {
		return ", seen" + w.at(f.at)
	}
	return ""
}

// elsewhere is for a new incarnation that no run on record explains.
func (w *why) elsewhere(*episode) (Answer, string) {
	lives := w.r.lives(w.Instance)
	last := w.lastDone()
	if len(lives) == 0 || len(lives) == 1 && last == nil {
		return "", ""
	}
	f := lives[len(lives)-1]
	if w.r.cause(w.Instance, f.Token) != nil {
		return "", ""
	}
	if last != nil && !f.at.After(last.when()) {
		return "", "" // more has happened since
	}
	had, hadBasis := "", wire.Vector(nil)
	if len(lives) > 1 {
		had = lives[len(lives)-2].Token
	}
	for _, g := range w.r.facts {
		if had != "" && g.Instance == w.Instance && g.Token == had {
			hadBasis = g.Basis
		}
	}
	if last != nil && last.renews() && last.has == "" {
		return "", "" // it may be what that request led to
	}
	w.pickLast()
	w.strange(w.Instance, had, f.Token)
	since := fmt.Sprintf("since %s or before", w.clock(f.at))
	if s := w.status(); s != nil && same(cmp.Or(s.Incarnation(), s.Token), f.Token) && s.Age > 0 {
		since = "since about " + w.clock(w.q.Now.Add(-s.Age))
	}
	text := fmt.Sprintf("has been in incarnation %s %s, and no run on record caused that: ", brief(f.Token, had), since)
	if had != "" && !f.Basis.Equal(hadBasis) {
		w.next = w.carry()
		return AnswerElsewhere, text + "its record has changed too, so a kido on another machine did it, or its own start was held for its upstreams"
	}
	if wire.Unit(had) == wire.Unit(f.Token) {
		return AnswerElsewhere, text + "it was restarted inside its unit, which its init does not see"
	}
	return AnswerElsewhere, text + "it was restarted by hand, by its init, or from another machine"
}

// carry says how the journals of another machine are asked.
func (w *why) carry() string {
	return "if another machine runs kido, carry its journals here: kido why --journals DIR " + w.Instance
}

// beside is for an instance that is as it was but for its record, which follows what no
// run on record has told it to: no other trace is left of a reload.
func (w *why) beside(*episode) (Answer, string) {
	s := w.status()
	if s == nil || s.State != wire.StateUp && s.State != wire.StateBlind {
		return "", ""
	}
	var heard *fact // the last that tells its record
	var told []wire.Vector
	for _, f := range w.r.facts {
		if f.Instance == w.Instance && f.id != "" && len(f.Basis) > 0 {
			heard = f
			told = append(told, f.Basis, f.New)
		}
	}
	if heard == nil || !same(heard.Token, cmp.Or(s.Incarnation(), s.Token)) {
		return "", ""
	}
	newer := beyond(s.Basis, told...)
	if len(newer) == 0 {
		return "", ""
	}
	since := ""
	if last := w.lastDone(); last != nil {
		w.pickAct(last)
		since = fmt.Sprintf(" since it was %s%s", past(last.deed()), w.at(last.when()))
	}
	for _, u := range newer {
		if cause := w.r.cause(u.Instance, u.Token); cause != nil {
			w.pickAct(cause)
		} else {
			had, _ := heard.Basis.Get(u.Instance)
			w.strange(u.Instance, had, u.Token)
		}
	}
	w.next = w.carry()
	text := fmt.Sprintf("has followed a new incarnation of %s%s, and no run on record told it to: its record has changed, so a kido on another machine ", list(names(newer)), since)
	if s.State == wire.StateBlind {
		return AnswerElsewhere, text + "did it"
	}
	return AnswerElsewhere, text + "reloaded it, or saw that there was nothing to reload"
}

// left is for an instance that the last run has left alone.
func (w *why) left(e *episode) (Answer, string) {
	if e == nil || len(e.steps) > 0 || e.plan.Request.Verb == plan.Announce && strings.HasPrefix(e.note, "nothing reacts") {
		return "", ""
	}
	w.begun = append(w.begun, e.part)
	w.pickLast()
	return AnswerNot, fmt.Sprintf("was left alone%s by %s (run %s): %s", w.at(e.begun), e.command(), e.id, e.note)
}

// deed is for what a run did to it.
func (w *why) deed(e *episode) (Answer, string) {
	a := w.lastDone()
	if a == nil {
		return "", ""
	}
	for _, tried := range w.episodes {
		if tried.id == a.id && !tried.begun.After(a.begun) {
			w.pick(tried)
		}
	}
	text := w.did(a)
	if s := w.status(); s != nil && s.State == wire.StateFailed {
		text += because("; it has failed since", s.Word)
	}
	if e != nil && e.id != a.id && e.phase() == run.PhaseAlready && e.step().Action != plan.ActWait {
		w.pick(e)
		newer := beyond(e.last().Basis, a.leads())
		switch spared := w.spared(newer); {
		case spared != nil:
			text += fmt.Sprintf("; for the incarnation of %s since then %s %s", list(names(newer)), spared.title(), spared.nothing())
		case len(newer) > 0:
			text += fmt.Sprintf("; %s found that it follows the incarnation of %s since then, which no run on record told it to: a kido on another machine did", e.title(), list(names(newer)))
			w.next = w.carry()
		// Where that run meant to do the same, or made the upstream's incarnation,
		// it is asked why it did not.
		case e.act(w.r) != nil || w.madeBy(a, e.id):
			text += fmt.Sprintf(", by run %s; so %s had no reason to do it again", a.id, e.title())
		}
	}
	return AnswerDone, text
}

// madeBy reports whether a run made an incarnation that a request followed.
func (w *why) madeBy(a *act, id string) bool {
	return slices.ContainsFunc(a.changes(), func(c change) bool {
		cause := w.r.cause(c.Instance, c.Has)
		return cause != nil && cause.id == id
	})
}

// spared finds the last episode in which the instance was asked to follow incarnations of
// its upstreams, and nothing was left to do for it; nil for none.
func (w *why) spared(up wire.Vector) *episode {
	for _, e := range slices.Backward(w.episodes) {
		a := e.act(w.r)
		if len(up) > 0 && e.phase() == run.PhaseAlready && a != nil && !a.done() && len(beyond(up, e.last().Basis)) == 0 {
			w.pick(e)
			return e
		}
	}
	return nil
}

// nothing is what an episode says that ended with nothing to do, though that was asked
// for; in the words of the gate, where those are on record.
func (e *episode) nothing() string {
	text := "had nothing left to do"
	if f := e.last(); f.Code == wire.CodeAlready {
		text = because(text, f.Word)
	}
	return text
}

// beyond are the entries of a basis that are in none of others; none where nothing is
// known of those.
func beyond(basis wire.Vector, others ...wire.Vector) (all wire.Vector) {
	known := slices.DeleteFunc(slices.Clone(others), func(v wire.Vector) bool { return len(v) == 0 })
	for _, b := range basis {
		if len(known) > 0 && !slices.ContainsFunc(known, func(v wire.Vector) bool {
			had, _ := v.Get(b.Instance)
			return same(had, b.Token)
		}) {
			all = append(all, b)
		}
	}
	return all
}

func names(v wire.Vector) (all []string) {
	for _, e := range v {
		all = append(all, e.Instance)
	}
	return all
}

// needless is for an instance at which runs found nothing to do.
func (w *why) needless(e *episode) (Answer, string) {
	if e == nil || len(e.steps) == 0 || e.last() == nil {
		return "", ""
	}
	w.pick(e)
	f := e.last()
	up := names(f.Basis)
	spared := w.spared(f.Basis)
	switch {
	case e.step().Action == plan.ActWait:
		return AnswerNothing, fmt.Sprintf("was only waited for: %s found it ready%s, and no run on record did anything to it", e.title(), w.at(f.at))
	case f.Phase == run.PhaseActing && e.act(w.r) != nil: // else it is told as done, or as cut off
		return AnswerDone, fmt.Sprintf("was to be %s%s%s: run %s was cut off before it heard what came of it, and it is fresh now", past(f.deed()), w.at(f.at), w.because(e.act(w.r)), e.id)
	case f.Phase == run.PhaseAlready && spared != nil:
		return AnswerNot, fmt.Sprintf("%s: %s %s", w.not(spared), spared.title(), spared.nothing())
	case f.Phase == run.PhaseAlready && len(up) > 0 && e.step().Action == plan.ActEnsure:
		possessive := "the present incarnation of "
		if len(up) > 1 {
			possessive = "the present incarnations of "
		}
		return AnswerNot, "was not restarted: it was started or reloaded after " + possessive + list(up) + ": there is no reason to"
	}
	return AnswerNot, fmt.Sprintf("%s by %s: %s", w.not(e), e.title(), cmp.Or(f.Word, string(f.Phase)))
}

// nothing is for an instance of which no run on record says anything.
func (w *why) nothing() (Answer, string) {
	text := "is not spoken of by any run on record"
	switch s := w.status(); {
	case !w.Asked:
	case s == nil:
		text += ", and it cannot be asked"
	case w.fine() && s.Ready:
		text += ", and it is fresh"
	default:
		text += ", and it is " + string(s.State)
	}
	return AnswerNothing, text
}

// not says that what a step is for was not done.
func (w *why) not(e *episode) string {
	deed := map[plan.Action]string{plan.ActStart: "start", plan.ActStop: "stop", plan.ActHold: "stop", plan.ActReload: "reload"}[e.step().Action]
	if deed == "" {
		if a := e.act(w.r); a != nil {
			deed = string(a.Reaction)
		}
		deed = cmp.Or(string(w.Need.Reaction), deed, "restart")
	}
	return "was not " + past(deed)
}

// did says what a request did, when and why.
func (w *why) did(a *act) string {
	return "was " + past(a.deed()) + w.at(a.when()) + w.because(a)
}

// when is the time at which the gate said that it was done, else that at which
// it was asked for.
func (a *act) when() time.Time {
	if a.answer != nil {
		return a.answer.at
	}
	return a.at
}

// because says why something was asked for, after what that is.
func (w *why) because(a *act) string {
	if wire.Verb(a.Verb) != wire.VerbEnsure {
		wish := a.wish()
		if strings.Contains(wish, a.by) {
			return fmt.Sprintf(": %s (%s)", wish, a.command())
		}
		return fmt.Sprintf(": %s (%s by %s)", wish, a.command(), a.by)
	}
	var renewed, unknown []string
	for _, c := range a.changes() {
		if c.Had == "" && len(a.New) > 0 {
			unknown = append(unknown, c.Instance)
		} else {
			renewed = append(renewed, c.Instance)
		}
	}
	switch {
	case a.step.Action == plan.ActEnsure && a.deed() == "start" && len(renewed) > 0:
		return ", after " + list(renewed) + " had a new incarnation"
	case len(renewed) == 1:
		return " because " + renewed[0] + " had a new incarnation" + w.root(a, renewed[0])
	case len(renewed) > 1:
		return " because " + list(renewed) + " had new incarnations"
	case len(unknown) > 0:
		return ": it was not on record against which " + list(unknown) + " it was started"
	case a.Reaction == "":
		return ": it was not running, and owed its start"
	}
	return ": an unfinished change was on record"
}

// root names what an upstream's own restart was for.
func (w *why) root(a *act, upstream string) string {
	has, _ := a.New.Get(upstream)
	seen := map[*act]bool{}
	var first string
	for a = w.r.cause(upstream, has); a != nil && !seen[a] && len(a.changes()) > 0; {
		seen[a] = true
		c := a.changes()[0]
		first = c.Instance
		a = w.r.cause(c.Instance, c.Has)
	}
	if first == "" {
		return ""
	}
	return ", which followed " + first
}

// wish says who asked for what an explicit verb did, or what it was needed for.
// The plan's reasons are told to whoever typed the command; here they are retold.
func (f *fact) wish() string {
	reason, _, _ := strings.Cut(f.step.Reason, " (not reached: ")
	if rest, ok := strings.CutPrefix(reason, "it is "); ok {
		reason = "it was " + rest
	}
	reason = strings.NewReplacer("you asked for it", f.by+" asked for it", "you announced", f.by+" announced").Replace(reason)
	if f.step.Action == plan.ActHold {
		reason = "it " + reason
	}
	return reason
}

// at is " at 03:12:07", or " on 2026-10-01 at 03:12:07" where that is not today.
func (w *why) at(t time.Time) string {
	day, clock, dated := strings.Cut(w.clock(t), " ")
	if !dated {
		return " at " + day
	}
	return " on " + day + " at " + clock
}

func (w *why) clock(t time.Time) string { return clock(t, w.q.Now) }

// clock writes a time as at the place of now; with the date only where that is
// not today's.
func clock(t, now time.Time) string {
	t = t.In(now.Location())
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// present says how the instance stands now.
func (w *why) present() string {
	if !w.Asked {
		return "not asked"
	}
	s := w.status()
	if s == nil {
		return because("cannot be told", w.Self.Err)
	}
	text := string(s.State)
	switch {
	case s.Degraded:
		text = because(text+" and ready, but degraded", s.Word)
	case s.Ready:
		text += " and ready"
	case s.State == wire.StateUp:
		text = because(text+", not ready", s.Word)
	case s.Word != "":
		text = because(text, s.Word)
	}
	if s.Age > 0 {
		text += ", for " + elapsed(s.Age)
	}
	switch {
	case plan.OnPurpose(s):
		text += ", on purpose"
	case len(w.Need.Debts) > 0:
		text += fmt.Sprintf(", owes %s a %s", list(w.owed()), cmp.Or(string(w.Need.Reaction), "restart"))
	case w.fine():
		text += ", fresh"
	case w.Need.Own != "" && s.State == wire.StateUp:
		text += ", " + w.Need.Own
	}
	for _, stale := range StaleOf(s, func(name string) *wire.Status { return w.Others[name] }) {
		text += ", holds " + stale.String()
	}
	if left := holdLeft(s); left > 0 {
		text += fmt.Sprintf(", on hold for %s yet", elapsed(left))
	}
	if behind := slices.Concat(w.Need.Blocked, w.Need.Passed); len(behind) > 0 {
		text += "; waits for "
		if b := behind[0]; strings.HasPrefix(b.Why, b.Upstream) {
			text += b.Why
		} else {
			text += because(b.Upstream, b.Why)
		}
	}
	return text
}

// WriteWhy writes explanations for people: of one instance all, of several one
// sentence each.
func WriteWhy(out io.Writer, all []Explanation, now time.Time) error {
	w := bufio.NewWriter(out)
	for _, e := range all {
		fmt.Fprintln(w, clean(e.Sentence, false))
	}
	if len(all) != 1 {
		return w.Flush()
	}
	e := all[0]
	runs := map[string]bool{}
	for _, l := range e.Evidence {
		runs[l.Run] = true
	}
	if len(e.Evidence) > 0 {
		fmt.Fprintln(w)
	}
	width := 0
	for _, l := range e.Evidence {
		width = max(width, len(clock(l.Time, now)))
	}
	for _, l := range e.Evidence {
		which := ""
		if len(runs) > 1 {
			which = fmt.Sprintf("%-5s  ", (&part{id: l.Run}).short())
		}
		what := l.What
		if l.Instance != "" {
			what = l.Instance + ": " + what
		}
		fmt.Fprintf(w, "  %*s  %s\n", width, clock(l.Time, now), clean(which+what, false))
	}
	fmt.Fprintf(w, "\nnow:  %s\n", clean(e.Present, false))
	if e.Next != "" {
		fmt.Fprintf(w, "next: %s\n", clean(e.Next, false))
	}
	return w.Flush()
}

// WriteWhyJSON writes explanations for scripts.
func WriteWhyJSON(out io.Writer, site string, all []Explanation) error {
	text, err := json.MarshalIndent(struct {
		Site      string        `json:"site"`
		Instances []Explanation `json:"instances"`
	}{site, all}, "", "  ")
	if err == nil {
		_, err = out.Write(append(appendASCII(nil, text), '\n'))
	}
	return err
}
