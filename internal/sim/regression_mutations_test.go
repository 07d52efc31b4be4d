//go:build mutations

package sim

import (
	"testing"

	"kido/internal/rule"
)

// TestRegressionsNeedTheirRules plays the same stories without each of the rules
// that they are about: an invariant must be violated, or a life too many lived.
func TestRegressionsNeedTheirRules(t *testing.T) {
	for _, s := range stories {
		for _, r := range s.without {
			t.Run(s.name+" without "+string(r), func(t *testing.T) {
				rule.Without(r, func() {
					w := play(t, s.scenario, s.script)
					if why := s.amiss(w); why != "" {
						t.Log(why)
					} else {
						t.Errorf("all is as it should be without it\n%s", w.story())
					}
				})
			})
		}
	}
}
