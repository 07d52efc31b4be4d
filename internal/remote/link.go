package remote

import (
	"bufio"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// link is the TCP connection below SSH. It asks for immediate ACKs before every
// read (a server that sets TCP_NODELAY late waits 40 ms for a delayed one),
// keeps what the peer said first, for messages, and once the connection is up
// bounds every write, so that a peer that takes nothing blocks nobody.
type link struct {
	net.Conn
	raw      syscall.RawConn
	quickack func(fd uintptr)
	r        *bufio.Reader // small: the version exchange reads byte by byte
	heard    string        // the first bytes that came; set during the version exchange
	patience time.Duration // of one write
	up       atomic.Bool
}

func newLink(c net.Conn, patience time.Duration) *link {
	l := &link{Conn: c, patience: patience, quickack: quickack}
	if sc, ok := c.(syscall.Conn); ok && l.quickack != nil {
		l.raw, _ = sc.SyscallConn()
	}
	l.r = bufio.NewReaderSize(arrival{l}, 256)
	return l
}

func (l *link) Read(p []byte) (int, error) { return l.r.Read(p) }

func (l *link) Write(p []byte) (int, error) {
	if l.up.Load() {
		_ = l.SetWriteDeadline(time.Now().Add(l.patience)) // fails only on a closed connection, as the write will
	}
	return l.Conn.Write(p)
}

// established ends the handshake's deadline.
func (l *link) established() error {
	l.up.Store(true)
	return l.SetDeadline(time.Time{})
}

// greeting is what a peer said that is not SSH, quoted, or "".
func (l *link) greeting() string {
	line, _, _ := strings.Cut(l.heard, "\n")
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "SSH-") {
		return ""
	}
	return strconv.QuoteToASCII(line[:min(len(line), 80)])
}

// sshd reports whether what was heard may be from an sshd, one that turned us
// away before its version included.
func (l *link) sshd() bool {
	for _, words := range []string{"SSH-", "Exceeded MaxStartups", "Not allowed at this time"} {
		if strings.HasPrefix(l.heard, words) {
			return true
		}
	}
	return l.heard == ""
}

// arrival is the reading end below link's buffer.
type arrival struct{ *link }

func (a arrival) Read(p []byte) (int, error) {
	if a.raw != nil {
		_ = a.raw.Control(a.quickack) // fails only on a closed connection, as the read will
	}
	n, err := a.Conn.Read(p)
	if n > 0 && a.heard == "" {
		a.heard = string(p[:n])
	}
	return n, err
}
