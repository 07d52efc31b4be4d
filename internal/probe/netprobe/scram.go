package netprobe

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
)

// scramRounds are at most done for a password. It is the server that says how many, and
// nothing interrupts them: servers ask for 4,096 to 15,000, a million takes about half a
// second.
const scramRounds = 1_000_000

// bounded is SCRAM with a server that may want to keep us busy.
type bounded struct{ sasl.Session }

func (b bounded) Challenge(text []byte) (done bool, reply []byte, err error) {
	for field := range strings.SplitSeq(string(text), ",") {
		if rounds, ok := strings.CutPrefix(field, "i="); ok {
			if n, err := strconv.Atoi(rounds); err != nil || n > scramRounds {
				return false, nil, fmt.Errorf("it wants %.20s rounds of SCRAM, at most %d are done", rounds, scramRounds)
			}
		}
	}
	return b.Session.Challenge(text)
}
