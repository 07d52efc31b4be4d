package probe

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	answerReady    = "ready"
	answerDegraded = "degraded"
	answerNotReady = "not-ready"
	answerUntried  = "untried"

	keyLife = "life="
	keyAge  = "age=" // milliseconds

	maxLife = 128 // bytes
)

// Verdict is the answer in one word: ready, degraded or not-ready.
func (a Answer) Verdict() string {
	switch {
	case !a.Ready:
		return answerNotReady
	case a.Degraded:
		return answerDegraded
	}
	return answerReady
}

// Fields writes a as the fields of one line, its only spelling; the time that
// it took in whole microseconds, the age in whole milliseconds.
func (a Answer) Fields() []string {
	verdict := a.Verdict()
	if a.Untried && !a.Ready {
		verdict = answerUntried
	}
	f := []string{verdict, strconv.FormatInt(max(0, a.Took.Microseconds()), 10)}
	if a.Life != "" {
		f = append(f, keyLife+a.Life)
	}
	if ms := a.Age.Milliseconds(); ms > 0 {
		f = append(f, keyAge+strconv.FormatInt(ms, 10))
	}
	if a.Word != "" {
		f = append(f, "", a.Word) // an empty field, for a word may look like anything
	}
	return f
}

var errAnswer = errors.New("not a probe's answer")

// ParseAnswer is the inverse of [Answer.Fields]. The fields may come from
// anyone.
func ParseAnswer(fields []string) (Answer, error) {
	if len(fields) < 2 {
		return Answer{}, errAnswer
	}
	a := Answer{Degraded: fields[0] == answerDegraded, Untried: fields[0] == answerUntried}
	a.Ready = a.Degraded || fields[0] == answerReady
	µs, err := strconv.ParseUint(fields[1], 10, 42)
	if err != nil {
		return Answer{}, errAnswer
	}
	a.Took = time.Duration(µs) * time.Microsecond
	rest := fields[2:]
	if life, ok := strings.CutPrefix(first(rest), keyLife); ok {
		a.Life, rest = life, rest[1:]
	}
	if age, ok := strings.CutPrefix(first(rest), keyAge); ok {
		ms, err := strconv.ParseUint(age, 10, 42)
		if err != nil {
			return Answer{}, errAnswer
		}
		a.Age, rest = time.Duration(ms)*time.Millisecond, rest[1:]
	}
	if len(rest) == 2 {
		a.Word = rest[1]
	}
	if a.Word != Printable(a.Word) || a.Life != lifeOf(a.Life) || !slices.Equal(a.Fields(), fields) {
		return Answer{}, errors.New("a probe's answer is not in its one spelling")
	}
	return a, nil
}

func first(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return fields[0]
}

// lifeOf makes an [Answer]'s life of a text from elsewhere: printable ASCII without
// spaces, or its digest where that or its length would hide a change.
func lifeOf(text string) string {
	text = strings.TrimSpace(text)
	s := joined.Replace(text)
	if len(s) > maxLife || !isGraphic(s) {
		return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
	}
	return s
}

// joined makes one word of several.
var joined = strings.NewReplacer(" ", "_", `"`, "_", `\`, "_")

// Alive is the answer of a service that tells its incarnation, by a text from
// elsewhere, and how long it has been so.
func Alive(life string, age time.Duration) Answer {
	return Answer{Ready: true, Life: lifeOf(life), Age: max(0, age)}
}

// Degrade is a with a reason why it is not as it should be.
func (a Answer) Degrade(word string) Answer {
	a.Degraded, a.Word = true, Printable(word)
	return a
}

// finish applies what every kind takes to an answer.
func (s Spec) finish(a Answer, took time.Duration) Answer {
	a.Took = took
	if ms, err := strconv.ParseInt(s.Options["slow"], 10, 64); err == nil && a.Ready && !a.Degraded && took > time.Duration(ms)*time.Millisecond {
		a = a.Degrade("answered after " + took.Round(time.Millisecond).String())
	}
	switch tells := s.TellsLife(); {
	case !tells:
		a.Life, a.Age = "", 0
	case a.Ready && a.Life == "":
		a = NotReady("it does not tell its incarnation")
		a.Took = took
	}
	if a.Degraded && s.Options["strict"] != "" {
		a.Ready, a.Degraded = false, false
	}
	a.Word = Printable(s.hide(a.Word))
	a.Life = lifeOf(s.hide(a.Life))
	return a
}
