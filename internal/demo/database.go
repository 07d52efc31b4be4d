package demo

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// The protocol of the demo's database: a line is answered by a line. While it
// starts up, it says so to whoever comes, and hangs up.
const (
	hello      = "hello"
	query      = "select"
	welcome    = "welcome"
	row        = "row"
	startingUp = "the database system is starting up"
)

const (
	// recovery is how long the database takes from its port being open to its
	// first answer.
	recovery = 700 * time.Millisecond
	// answerTime bounds one exchange with the database.
	answerTime = 2 * time.Second
)

// database is the body of the database server.
func database(_ settings, l net.Listener, ready func()) error {
	var open atomic.Bool
	time.AfterFunc(recovery, func() {
		ready()
		open.Store(true)
	})
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			converse(c, open.Load())
		}()
	}
}

func converse(c net.Conn, open bool) {
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		answer := map[string]string{hello: welcome, query: row}[lines.Text()]
		if !open {
			answer = startingUp
		}
		if _, err := fmt.Fprintln(c, answer); err != nil || answer == "" || !open {
			return
		}
	}
}

// connection is a client's connection to the database.
type connection struct {
	net.Conn
	r *bufio.Reader
}

// connect opens a connection on which the database has answered.
func connect(address string) (*connection, error) {
	c, err := net.DialTimeout("tcp", address, answerTime)
	if err != nil {
		return nil, err
	}
	db := &connection{c, bufio.NewReader(c)}
	if err := db.ask(hello, welcome); err != nil {
		c.Close()
		return nil, err
	}
	return db, nil
}

// errEnd is what the client library of a database says of a dead connection.
var errEnd = errors.New("end-of-file on communication channel")

func (c *connection) ask(what, want string) error {
	if err := c.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, what); err != nil {
		return errEnd
	}
	line, err := c.r.ReadString('\n')
	switch answer := strings.TrimSuffix(line, "\n"); {
	case err != nil:
		return errEnd
	case answer != want:
		return errors.New(answer)
	}
	return nil
}
