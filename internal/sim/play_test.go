package sim

import (
	"strings"
	"testing"
)

// A script is a story that is kept: each step is a move, by how it is called or how
// that begins. A seed would mean another story as soon as the moves change.
//
//	"op1 begins"              that move, now
//	"… db@h1 is ready"        fair play until it may happen, and then that
//	"(op1 pauses)"            in fair play no move of op1's is made any more
//	"(op1 is back)"
//
// When the script is over the world plays fairly until it comes to rest.
type script []string

// play plays a script and returns the world in the end, or where an invariant was
// violated. A step that cannot be made fails the test.
func play(t testing.TB, sc *scenario, s script) *world {
	t.Helper()
	w := newWorld(sc)
	w.tell()
	paused := map[string]bool{}
	for _, step := range s {
		name, pauses := strings.CutSuffix(strings.Trim(step, "()"), " pauses")
		back, isBack := strings.CutSuffix(name, " is back")
		switch {
		case strings.HasPrefix(step, "(") && pauses:
			paused[name] = true
			continue
		case strings.HasPrefix(step, "(") && isBack:
			delete(paused, back)
			continue
		}
		want, fairly := strings.CutPrefix(step, "… ")
		m, ok := w.called(want)
		for n := 0; fairly && !ok && n < enough && w.broken == ""; n++ {
			next, any := w.fairBut(paused)
			if !any {
				break
			}
			w.do(next)
			m, ok = w.called(want)
		}
		if w.broken != "" {
			return w
		}
		if !ok {
			var all []string
			for _, m := range w.moves() {
				all = append(all, m.String())
			}
			t.Fatalf("%q cannot happen.\nthe story so far:\n%s\nwhat can:\n  %s", want, w.story(), strings.Join(all, "\n  "))
		}
		w.do(m)
	}
	w.rest()
	return w
}

// called finds a move by its name.
func (w *world) called(name string) (move, bool) {
	for _, m := range w.moves() {
		if strings.HasPrefix(m.String(), name) {
			return m, true
		}
	}
	return move{}, false
}

// fairBut is the move of fair play that is not of anybody who pauses.
func (w *world) fairBut(paused map[string]bool) (move, bool) {
	return w.fairOf(func(m move) bool {
		return m.by < 0 || m.kind.ofHost() || !paused[w.runners[m.by].spec.name]
	})
}
