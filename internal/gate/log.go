package gate

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"kido/internal/wire"
)

// logSockets are where the system's log takes messages.
var logSockets = []string{"/dev/log", "/var/run/syslog", "/var/run/log"}

const (
	// maxValue bounds a value in a line of the log, in bytes as it is written.
	maxValue = 256
	// logTime is how long a log may take to take a line.
	logTime = time.Second
	// logPriority is facility authpriv, severity notice (RFC 5424 §6.2.1).
	logPriority = 10<<3 | 5
)

// tell writes one line to the system's log. A log that is not there or hangs is
// no reason for a gate to fail or to stay. The line has no time: every log has
// its own, and ours would be that of the time zone which TZ names.
func tell(sockets []string, line string) {
	message := fmt.Appendf(nil, "<%d>kido-gate[%d]: %s\n", logPriority, os.Getpid(), line)
	deadline := time.Now().Add(logTime)
	for _, path := range sockets {
		for _, network := range []string{"unixgram", "unix"} {
			c, err := net.DialTimeout(network, path, logTime)
			if err != nil {
				continue
			}
			_ = c.SetDeadline(deadline)
			_, _ = c.Write(message)
			c.Close()
			return
		}
	}
}

// logLine writes pairs of a name and a value in one line: name=value, values as
// [wire.Quote] spells them, so that none can look like more than one value.
func logLine(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(pairs[i] + "=" + brief(pairs[i+1]))
	}
	return b.String()
}

// brief spells a value, cut to maxValue.
func brief(s string) string {
	q := wire.Quote(s)
	for n := min(len(s), maxValue); len(q) > maxValue; n -= 1 + n/8 {
		q = wire.Quote(cut(s, n))
	}
	return q
}
