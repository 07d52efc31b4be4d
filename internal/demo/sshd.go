package demo

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// sshUser is the only user of the demo's hosts.
	sshUser = "kido"
	// handshakeTime bounds a connection until it has authenticated.
	handshakeTime = 10 * time.Second
)

// sshd is the SSH server of one host. As with a key that is locked, it takes one
// key, and whatever that asks to execute, it runs the forced command.
type sshd struct {
	listener net.Listener
	config   *ssh.ServerConfig
	key      ssh.PublicKey
	forced   []string // argv
	root     string   // the host's folder

	mu     sync.Mutex
	conns  map[net.Conn]bool
	gates  map[*os.Process]bool
	closed bool
	wg     sync.WaitGroup
}

// serveSSH listens at address until Close.
func serveSSH(address string, hostKey ssh.Signer, key ssh.PublicKey, forced []string, root string) (*sshd, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("ssh server: %w", err)
	}
	s := &sshd{
		listener: l, key: key, forced: forced, root: root,
		conns: map[net.Conn]bool{}, gates: map[*os.Process]bool{},
	}
	s.config = &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-kido-demo",
		MaxAuthTries:  3,
		PublicKeyCallback: func(c ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() != sshUser || !bytes.Equal(offered.Marshal(), key.Marshal()) {
				return nil, errors.New("not the key of this site")
			}
			return nil, nil
		},
	}
	s.config.AddHostKey(hostKey)
	s.wg.Go(s.accept)
	return s, nil
}

// Close is a power cut to the server: connections and gates end at once. It
// returns when all have.
func (s *sshd) Close() {
	s.mu.Lock()
	s.closed = true
	s.listener.Close()
	for c := range s.conns {
		c.Close()
	}
	for g := range s.gates {
		_ = g.Kill() // ended already is fine
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *sshd) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			c.Close()
		} else {
			s.conns[c] = true
			s.wg.Go(func() { s.connection(c) })
		}
		s.mu.Unlock()
	}
}

func (s *sshd) connection(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	_ = c.SetDeadline(time.Now().Add(handshakeTime)) // fails only on a closed connection
	sc, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return // a client that gave up, or was not let in: it has been told
	}
	_ = c.SetDeadline(time.Time{})
	s.wg.Go(func() { ssh.DiscardRequests(requests) })
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.Prohibited, "sessions only")
			continue
		}
		ch, requests, err := offered.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { s.session(sc, ch, requests) })
	}
}

// session takes one exec request and no other.
func (s *sshd) session(sc *ssh.ServerConn, ch ssh.Channel, requests <-chan *ssh.Request) {
	defer ch.Close()
	for r := range requests {
		var exec struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exec) != nil {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		s.wg.Go(func() { ssh.DiscardRequests(requests) })
		status, err := s.gate(sc, ch, exec.Command)
		if err != nil {
			fmt.Fprintln(ch.Stderr(), err)
			status = 255
		}
		if status >= 0 {
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
		}
		return
	}
}

// gate runs the forced command for one session, with the environment that sshd
// would give it, and returns its exit status, -1 where a signal ended it.
func (s *sshd) gate(sc *ssh.ServerConn, ch ssh.Channel, asked string) (status int, err error) {
	auth, err := os.CreateTemp(s.root, "auth-") // mode 0600
	if err != nil {
		return 0, err
	}
	defer os.Remove(auth.Name())
	_, err = fmt.Fprintf(auth, "publickey %s", ssh.MarshalAuthorizedKey(s.key)) // which ends in a newline
	if err := errors.Join(err, auth.Close()); err != nil {
		return 0, err
	}
	client, server := sc.RemoteAddr().(*net.TCPAddr), sc.LocalAddr().(*net.TCPAddr)
	cmd := exec.Command(s.forced[0], s.forced[1:]...)
	cmd.Dir = s.root
	cmd.Env = []string{
		"PATH=/usr/bin:/bin",
		"USER=" + sshUser,
		fmt.Sprintf("SSH_CONNECTION=%s %d %s %d", client.IP, client.Port, server.IP, server.Port),
		"SSH_ORIGINAL_COMMAND=" + asked,
		"SSH_USER_AUTH=" + filepath.Clean(auth.Name()),
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ch, ch, ch.Stderr()
	// Out of reach of the terminal's Ctrl-C: what a gate has begun, it ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second // a client that sends no end of its input holds up nobody

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, errors.New("the power is off")
	}
	if err := cmd.Start(); err != nil {
		s.mu.Unlock()
		return 0, err
	}
	s.gates[cmd.Process] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.gates, cmd.Process)
		s.mu.Unlock()
	}()
	_ = cmd.Wait() // its state says how it ended
	return cmd.ProcessState.ExitCode(), nil
}
