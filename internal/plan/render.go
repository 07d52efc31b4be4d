package plan

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// WriteText writes the plan for people. Steps with one number wait for nothing
// of one another; a step begins as soon as what it waits for is done.
func (p *Plan) WriteText(out io.Writer) error {
	w := bufio.NewWriter(out)
	wave := p.waves()
	byWave := make([]int, len(p.Steps))
	for i := range byWave {
		byWave[i] = i
	}
	slices.SortStableFunc(byWave, func(a, b int) int { return wave[a] - wave[b] })

	fmt.Fprintf(w, "%s: %s\n", p.Request.command(), p.summary(wave))
	digits, name := len(fmt.Sprint(slices.Max(append(wave, 0)))), 0
	for _, s := range p.Steps {
		name = max(name, utf8.RuneCountInString(s.Name))
	}
	if len(byWave) > 0 {
		fmt.Fprintln(w)
	}
	last := 0
	for n, i := range byWave {
		s, number := p.Steps[i], ""
		if wave[i] != last {
			last = wave[i]
			number = fmt.Sprint(last)
		}
		fmt.Fprintf(w, "  %*s  %-7s  %s  %s\n", digits, number, s.Action, pad(s.Name, name), s.Reason)
		endOfPool := n+1 == len(byWave) || wave[byWave[n+1]] != last || p.Steps[byWave[n+1]].Instance.Service != s.Instance.Service
		if most, ok := p.AtOnce[s.Instance.Service]; ok && endOfPool && s.Action != ActHold {
			fmt.Fprintf(w, "  %*s  %-7s  (%s: %d at a time)\n", digits, "", "", s.Instance.Service, most)
		}
	}
	if len(p.Alone) > 0 {
		fmt.Fprint(w, "\nleft alone:\n")
		name = 0
		for _, a := range p.Alone {
			name = max(name, utf8.RuneCountInString(a.Instance))
		}
		for _, a := range p.Alone {
			fmt.Fprintf(w, "  %s  %s\n", pad(a.Instance, name), a.Reason)
		}
	}
	return w.Flush()
}

// command is the request as it was typed.
func (r Request) command() string {
	return strings.Join(append([]string{"kido", string(r.Verb)}, r.Targets...), " ")
}

func (p *Plan) summary(wave []int) string {
	if len(p.Steps) == 0 {
		return "nothing to do"
	}
	hosts, idle, together := map[string]bool{}, 0, false
	seen := map[int]bool{}
	for i, s := range p.Steps {
		hosts[s.Instance.Host] = true
		if !s.Likely {
			idle++
		}
		together = together || seen[wave[i]]
		seen[wave[i]] = true
	}
	text := fmt.Sprintf("%s on %s", count(len(p.Steps), "step"), count(len(hosts), "host"))
	if together {
		text += ", those with the same number at the same time"
	}
	switch idle {
	case 0:
	case len(p.Steps):
		text += "; as it stands there is nothing to do"
	default:
		text += fmt.Sprintf("; as it stands nothing to do for %d of them", idle)
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// waves numbers the steps: one more than the highest of those waited for.
func (p *Plan) waves() []int {
	wave := make([]int, len(p.Steps))
	for i, s := range p.Steps {
		wave[i] = 1
		for _, e := range s.After {
			wave[i] = max(wave[i], wave[e.Step]+1)
		}
	}
	return wave
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}
