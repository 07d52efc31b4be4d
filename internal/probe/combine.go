package probe

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// combine makes a try of a combination: all of its parts at once, each by try, and
// none longer than the whole may take.
func combine(ctx context.Context, s Spec, try func(context.Context, Spec) Answer) Answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make([]Answer, len(s.Of))
	var all sync.WaitGroup
	for i, part := range s.Of {
		part.Life = s.Life
		part.Timeout = min(part.timeout(), s.timeout()).Truncate(time.Millisecond)
		all.Go(func() {
			answers[i] = try(ctx, part)
			if s.Kind == KindAny && answers[i].Ready && !answers[i].Degraded {
				cancel() // no other can answer better
			}
		})
	}
	all.Wait()
	switch s.Kind {
	case KindNot:
		return not(s.Of[0], answers[0])
	case KindAny:
		return anyOf(s.Of, answers)
	}
	return Together(s.Of, answers)
}

func about(part Spec, word string) string {
	if word == "" {
		return ""
	}
	return Printable(part.Described() + ": " + word)
}

// not turns an answer round. Where there was none to be had it has nothing to turn
// round: a file that we have no right to look for may be there or not.
func not(part Spec, a Answer) Answer {
	switch {
	case a.Untried:
		return Untried("%s", about(part, a.Word))
	case a.Ready:
		return NotReady("%s is ready, and is not to be", part.Described())
	}
	return Answer{Ready: true}
}

// anyOf is the best of the answers, of equals the first.
func anyOf(parts []Spec, answers []Answer) Answer {
	best := slices.IndexFunc(answers, func(a Answer) bool { return a.Ready && !a.Degraded })
	if best < 0 {
		best = slices.IndexFunc(answers, func(a Answer) bool { return a.Ready })
	}
	if best >= 0 {
		a := answers[best]
		a.Life, a.Age = "", 0 // which of them answers is no incarnation
		a.Word = about(parts[best], a.Word)
		return a
	}
	words := make([]string, len(answers))
	for i, a := range answers {
		words[i] = about(parts[i], a.Word)
	}
	none := NotReady("%s", strings.Join(words, "; "))
	none.Untried = slices.ContainsFunc(answers, func(a Answer) bool { return a.Untried })
	return none
}

// Together is what the answers of several probes come to where all must be ready: the
// first that is not, one that came from the service before one that says nothing about
// it. Of several, its word says whose it is. There may be fewer answers than probes:
// who asks one after the other can stop at one that is not ready. Their lives are one
// life, which changes where any of them does, and is as old as the youngest of them:
// nobody knows how old, where one of them does not say.
func Together(of []Spec, answers []Answer) Answer {
	word := func(i int) string {
		if len(of) == 1 {
			return answers[i].Word
		}
		return about(of[i], answers[i].Word)
	}
	for _, untried := range []bool{false, true} {
		for i, a := range answers {
			if !a.Ready && a.Untried == untried {
				a.Word = word(i)
				return a
			}
		}
	}
	whole, ageless := Answer{Ready: true}, false
	var lives []string
	for i, a := range answers {
		if a.Degraded && !whole.Degraded {
			whole.Degraded, whole.Word = true, word(i)
		}
		if a.Life != "" {
			lives = append(lives, a.Life)
			ageless = ageless || a.Age == 0
		}
		if a.Age > 0 && (whole.Age == 0 || a.Age < whole.Age) {
			whole.Age = a.Age
		}
	}
	if ageless {
		whole.Age = 0
	}
	whole.Life = lifeOf(strings.Join(lives, "+"))
	return whole
}
