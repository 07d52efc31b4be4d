package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"kido/internal/gate"
	"kido/internal/initsys"
	"kido/internal/keys"
	"kido/internal/remote"
)

// place is where the demo takes place: a temporary folder, in it a folder for
// each host, and the hosts' SSH servers.
type place struct {
	program string // kido itself
	dir     string
	hosts   []*host // the database host, then the web hosts
	ports   struct{ ssh, database, web int }
	key     ssh.PublicKey // the site's
	life    life
}

// host stands for a machine: what would be in its root file system is in a
// folder of its own.
type host struct {
	name, address, root string
	kind                string // of its one service
	key                 ssh.Signer
	ssh                 *sshd // nil while the power is off
}

// newPlace makes the folder with its keys, settings and site file. Nothing runs
// yet. Close takes away whatever there is, also after an error.
func newPlace(program string) (*place, error) {
	p := &place{program: program}
	// The gate takes no policy from a path with a symbolic link in it.
	tmp, err := filepath.EvalSymlinks(os.TempDir())
	if err == nil {
		p.dir, err = os.MkdirTemp(tmp, "kido-demo-")
	}
	if err != nil {
		return p, err
	}
	p.life = life(filepath.Join(p.dir, lifeFile))
	for i, name := range []string{"db1", "web1", "web2", "web3"} {
		h := &host{name: name, root: filepath.Join(p.dir, name), kind: ArgWeb}
		if i == 0 {
			h.kind = ArgDatabase
		}
		if err := os.Mkdir(h.root, 0o700); err != nil {
			return p, err
		}
		p.hosts = append(p.hosts, h)
	}
	if err := p.findAddresses(); err != nil {
		return p, err
	}
	return p, errors.Join(p.writeKeys(), p.writeSettings(), os.WriteFile(string(p.life), nil, 0o600), p.writeSite())
}

func (p *place) database() *host { return p.hosts[0] }
func (p *place) webs() []*host   { return p.hosts[1:] }

func names(hosts []*host) (all []string) {
	for _, h := range hosts {
		all = append(all, h.name)
	}
	return all
}

// findAddresses gives every host a loopback address of its own, and every kind
// of server a port that is free there. The network is drawn by lot, so that
// several demos at once do not meet.
func (p *place) findAddresses() error {
	network := fmt.Sprintf("127.%d.%d.", 64+rand.IntN(64), rand.IntN(256))
	for i, h := range p.hosts {
		h.address = network + strconv.Itoa(10+i)
	}
	for _, x := range []struct {
		port  *int
		usual int
		hosts []*host
	}{{&p.ports.ssh, 2222, p.hosts}, {&p.ports.database, 1521, p.hosts[:1]}, {&p.ports.web, 8080, p.webs()}} {
		var err error
		for *x.port = x.usual; ; *x.port = 10000 + rand.IntN(20000) {
			if err = free(x.hosts, *x.port); !errors.Is(err, syscall.EADDRINUSE) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("the demo needs the loopback addresses 127.0.0.0/8: %w", err)
		}
	}
	return nil
}

func free(hosts []*host, port int) error {
	for _, h := range hosts {
		l, err := net.Listen("tcp", h.at(port))
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

func (h *host) at(port int) string { return net.JoinHostPort(h.address, strconv.Itoa(port)) }

// servesAt is where the host's service listens.
func (p *place) servesAt(h *host) string {
	if h.kind == ArgDatabase {
		return h.at(p.ports.database)
	}
	return h.at(p.ports.web)
}

// writeKeys makes the site's key, every host's own, and the pins.
func (p *place) writeKeys() error {
	public, err := keys.New(filepath.Join(p.dir, "id_ed25519"), "kido demo")
	if err != nil {
		return err
	}
	if p.key, _, _, _, err = ssh.ParseAuthorizedKey([]byte(public)); err != nil {
		return err
	}
	var pins []string
	for _, h := range p.hosts {
		file := filepath.Join(h.root, "ssh_host_ed25519_key")
		public, err := keys.New(file, h.name)
		if err != nil {
			return err
		}
		if h.key, err = remote.LoadIdentity(file); err != nil {
			return err
		}
		pin, err := keys.Pin(h.address, p.ports.ssh, public)
		if err != nil {
			return err
		}
		pins = append(pins, pin+"\n")
	}
	return os.WriteFile(filepath.Join(p.dir, "known_hosts"), []byte(strings.Join(pins, "")), 0o600)
}

func (p *place) writeSettings() error {
	me, err := initsys.Identify(os.Getpid())
	if err != nil {
		return err
	}
	for _, h := range p.hosts {
		text, err := json.Marshal(settings{Host: h.name, Listen: p.servesAt(h), Database: p.servesAt(p.database()), Owner: me})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(h.root, settingsFile), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// root is what the site file has for the folder of a host: one service has one
// command at all its hosts, and these are one machine here.
func (p *place) root() string { return filepath.Join(p.dir, "root") }

func (p *place) siteFile() string { return filepath.Join(p.dir, "site.yaml") }

func (p *place) writeSite() error {
	return os.WriteFile(p.siteFile(), []byte(p.site(strconv.Quote(p.program), strconv.Quote(p.root()), strconv.Quote(pidFile(p.root())))), 0o600)
}

// site is the text of the site file with its paths as they are given.
func (p *place) site(program, root, pidFile string) string {
	return strings.NewReplacer(
		"SSH", strconv.Itoa(p.ports.ssh), "WEB", strconv.Itoa(p.ports.web),
		"DB1", p.hosts[0].address, "W1", p.hosts[1].address, "W2", p.hosts[2].address, "W3", p.hosts[3].address,
		"KIDO", program, "ROOT", root, "PIDFILE", pidFile,
	).Replace(`site: demo
hosts:
  db1:  DB1:SSH
  web1: W1:SSH
  web2: W2:SSH
  web3: W3:SSH
services:
  db:
    hosts: db1
    command:
      start: [KIDO, demo-db, start, ROOT]
      stop:  [KIDO, demo-db, stop, ROOT]
    pidfile: PIDFILE
    ready:                       # an open port is not enough: it must answer a query
      - exec: [KIDO, demo-db, ready, ROOT]
        interval: 100ms
  web:
    hosts: [web1, web2, web3]
    command:
      start: [KIDO, demo-web, start, ROOT]
      stop:  [KIDO, demo-web, stop, ROOT]
    pidfile: PIDFILE
    after:
      db: restart                # a new incarnation of db: restart web
    max_unavailable: 1           # one at a time
    ready:
      - http: http://:WEB/ready
        interval: 100ms
defaults:
  retry:   {attempts: 2, delay: 500ms}
  timeout: {start: 20s, stop: 20s, ready: 20s, connect: 5s}
`)
}

// install puts a host's policy there, as `kido policy` prints it.
func (p *place) install(h *host, printed string) error {
	policy, err := gate.ParsePolicy(strings.ReplaceAll(printed, p.root(), h.root))
	if err != nil {
		return fmt.Errorf("policy of %s: %w", h.name, err)
	}
	policy.State = filepath.Join(h.root, "state")
	if err := os.WriteFile(h.policyFile(), []byte(policy.Format()), 0o600); err != nil {
		return err
	}
	if _, err := gate.LoadPolicy(h.policyFile()); err != nil {
		return fmt.Errorf("the gates will not take what is below %s: %w; name another folder: TMPDIR=/tmp kido demo", os.TempDir(), err)
	}
	return nil
}

func (h *host) policyFile() string { return filepath.Join(h.root, "policy") }

// power switches a host's SSH server on.
func (p *place) power(h *host) (err error) {
	h.ssh, err = serveSSH(h.at(p.ports.ssh), h.key, p.key, []string{p.program, "gate", "--policy", h.policyFile()}, h.root)
	return err
}

// cut switches a host off: whatever runs there ends without a word.
func (p *place) cut(h *host) error {
	if h.ssh != nil {
		h.ssh.Close()
		h.ssh = nil
	}
	marks, err := p.life.read()
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing can have been started yet
	}
	if err != nil {
		return err
	}
	var failed []error
	for _, m := range marks {
		if m.host != h.name || m.what != isBorn {
			continue
		}
		alive, err := m.main.Alive()
		if alive {
			err = errors.Join(end(m.main, os.Kill, stopTime), p.life.append(mark{h.name, isCut, m.main}))
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// byHand runs a host's own start or stop program, as its init or a person does. It
// ends what it has begun, out of reach of the terminal's Ctrl-C: a start that is cut
// off half way leaves a daemon that has not yet said that it was born.
func (p *place) byHand(ctx context.Context, h *host, verb string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	cmd := exec.Command(p.program, h.kind, verb, h.root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s %s of %s: %w: %s", h.kind, verb, h.name, err, out)
	}
	return ctx.Err()
}

// asksDatabase returns nil where the database answers.
func (p *place) asksDatabase() error {
	c, err := connect(p.servesAt(p.database()))
	if err != nil {
		return err
	}
	return c.Close()
}

// Close ends all that runs and removes the folder. It returns what it could not
// do, and what is still there nevertheless.
func (p *place) Close() error {
	if p.dir == "" {
		return nil
	}
	var failed []error
	for _, h := range p.hosts {
		failed = append(failed, p.cut(h))
	}
	marks, err := p.life.read()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		failed = append(failed, err)
	}
	failed = append(failed, os.RemoveAll(p.dir))
	for _, m := range marks {
		if alive, err := m.main.Alive(); alive || err != nil {
			failed = append(failed, fmt.Errorf("%s: process %d still runs (%v)", m.host, m.main.PID, err))
		}
	}
	for _, h := range p.hosts {
		for _, address := range []string{h.at(p.ports.ssh), p.servesAt(h)} {
			if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
				c.Close()
				failed = append(failed, fmt.Errorf("%s: something still listens at %s", h.name, address))
			}
		}
	}
	return errors.Join(failed...)
}
