package remote

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Phase is how far a request had come.
type Phase string

// The phases, in their order.
const (
	PhaseConnect   Phase = "connect"   // name look-up and TCP
	PhaseHandshake Phase = "handshake" // versions, key exchange, host key
	PhaseAuth      Phase = "auth"      // our key
	PhaseSession   Phase = "session"   // a session on the connection, the command accepted
	PhaseRequest   Phase = "request"   // request and reply
)

// Kind says what went wrong.
type Kind string

// The kinds.
const (
	KindIdentity       Kind = "identity"         // our own key file cannot be used
	KindUnreachable    Kind = "unreachable"      // no such name, no route, the host is down
	KindRefused        Kind = "refused"          // nothing listens at that port
	KindTimeout        Kind = "timeout"          // no answer in time
	KindNotSSH         Kind = "not-ssh"          // the peer is no SSH server that we can speak to
	KindHostKeyUnknown Kind = "host-key-unknown" // no key is pinned for the host: nothing was sent to it
	KindHostKeyChanged Kind = "host-key-changed" // not the pinned key, or a revoked one: see [HostKeyError]
	KindAuth           Kind = "auth"             // the host does not take our key
	KindDropped        Kind = "dropped"          // closed by the host before authentication was through
	KindNoSession      Kind = "no-session"       // authenticated, but no session or command is allowed
	KindLost           Kind = "lost"             // connection or gate ended in the midst of a request
	KindNoGate         Kind = "no-gate"          // what answered is not a gate
	KindNotLocked      Kind = "not-locked"       // the key has no forced command: the host ran a shell
	KindTooLong        Kind = "too-long"         // request or reply is over its limit
	KindCanceled       Kind = "canceled"         // the caller gave up
	KindClosed         Kind = "closed"           // the client was closed
)

// Error is what every request that fails returns.
type Error struct {
	Host    string // as the site names it; "" for an error of our own key file
	Address string // "address:port"
	Phase   Phase
	Kind    Kind
	Err     error
	Hint    string // what to do next; may be empty

	// Sent says that the request may have reached the gate, or started the
	// command: whether it was carried out is not known.
	Sent bool
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Host != "" {
		b.WriteString(e.Host)
		if e.Address != "" && !strings.HasPrefix(e.Address, e.Host+":") {
			fmt.Fprintf(&b, " (%s)", e.Address)
		}
		b.WriteString(": ")
	}
	if e.Phase != "" {
		fmt.Fprintf(&b, "%s: ", e.Phase)
	}
	return b.String() + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same request may succeed later without
// anybody's doing. Where Sent is set, read the state before sending again.
func (e *Error) Temporary() bool {
	switch e.Kind {
	case KindUnreachable, KindRefused, KindTimeout, KindDropped, KindLost:
		return true
	}
	return false
}

// HostKeyError says that a host showed another key than the pinned ones, or
// one that is revoked. Nothing of ours was sent: no name, no key.
type HostKeyError struct {
	Offered string // fingerprint of the host's key, "SHA256:…"; "" where it has no key of a pinned type
	Types   string // instead of Offered: the key types that it has
	Pinned  []Pin
	Revoked *Pin // set where the offered key is revoked
}

func (e *HostKeyError) Error() string {
	if e.Revoked != nil {
		return fmt.Sprintf("the host's key %s is revoked (%s)", e.Revoked.Fingerprint(), e.Revoked)
	}
	pins := make([]string, len(e.Pinned))
	for i, p := range e.Pinned {
		pins[i] = fmt.Sprintf("%s %s (%s)", p.Key.Type(), p.Fingerprint(), p)
	}
	pinned := strings.Join(pins, ", ")
	if e.Offered == "" {
		return fmt.Sprintf("the host has no key of a pinned type, only %s; pinned: %s", e.Types, pinned)
	}
	return fmt.Sprintf("the host's key has changed: it is %s; pinned: %s", e.Offered, pinned)
}

// Pin is one key that a host may show, and where that is written.
type Pin struct {
	Key  ssh.PublicKey
	File string
	Line int
}

// Fingerprint is the key's, as OpenSSH prints it: "SHA256:…".
func (p Pin) Fingerprint() string { return ssh.FingerprintSHA256(p.Key) }

// String is the place: "known_hosts:3".
func (p Pin) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }
