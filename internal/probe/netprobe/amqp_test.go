package netprobe

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/probe"
)

// rabbitConfig is for a folder, a port, and one for TLS.
const rabbitConfig = `
listeners.tcp.1 = 127.0.0.1:%[2]d
listeners.ssl.1 = 127.0.0.1:%[3]d
ssl_options.cacertfile = %[1]s/ca
ssl_options.certfile = %[1]s/cert
ssl_options.keyfile = %[1]s/key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
log.console = true
log.file = false
load_definitions = %[1]s/definitions
`

const rabbitDefinitions = `{
"users": [{"name": "guest", "password": "guest", "tags": ""}, {"name": "kido", "password": "deep-secret", "tags": ""}],
"vhosts": [{"name": "/"}, {"name": "others"}, {"name": "full"}, {"name": "down"}],
"permissions": [
  {"user": "guest", "vhost": "/", "configure": "", "write": "", "read": ""},
  {"user": "kido", "vhost": "/", "configure": "", "write": "", "read": ""},
  {"user": "kido", "vhost": "full", "configure": "", "write": "", "read": ""},
  {"user": "kido", "vhost": "down", "configure": "", "write": "", "read": ""}],
"parameters": [{"vhost": "full", "component": "vhost-limits", "name": "limits", "value": {"max-connections": 0}}]}`

// TestAMQP asks a RabbitMQ with its own name, folder and epmd, which takes its time
// to start: there is one.
func TestAMQP(t *testing.T) {
	t.Parallel()
	const bin = "/usr/lib/rabbitmq/bin/"
	needs(t, "rabbitmq-server", "rabbitmq-server")
	epmd := needs(t, "erlang-base", "epmd")
	as := credentialOf(t, "rabbitmq")
	dir, free := shortDir(t, as), freePorts(t, 4)
	port, tlsPort, names := free[0], free[1], fmt.Sprint(free[2])
	ours := newAuthority(t)
	cert, key := ours.issue(t, "127.0.0.1", time.Hour)
	ca := write(t, as, dir+"/ca", ours.pem())
	write(t, as, dir+"/cert", cert)
	write(t, as, dir+"/key", key)
	write(t, as, dir+"/definitions", []byte(rabbitDefinitions))
	write(t, as, dir+"/plugins", []byte("[].\n"))
	env := []string{
		"RABBITMQ_NODENAME=kido@localhost", "RABBITMQ_BASE=" + dir, "RABBITMQ_MNESIA_BASE=" + dir, "RABBITMQ_LOG_BASE=" + dir,
		"RABBITMQ_CONFIG_FILE=" + write(t, as, dir+"/rabbitmq.conf", fmt.Appendf(nil, rabbitConfig, dir, port, tlsPort)),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + dir + "/none", "RABBITMQ_CONF_ENV_FILE=" + dir + "/none",
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + dir + "/plugins", "RABBITMQ_PID_FILE=" + dir + "/pid",
		"ERL_EPMD_PORT=" + names, "ERL_EPMD_ADDRESS=127.0.0.1", fmt.Sprint("RABBITMQ_DIST_PORT=", free[3]),
		"RUNNING_UNDER_SYSTEMD=yes", // no shell in between, without which it would live on when this test is killed
		// It waits without keeping a processor busy, and for nobody elsewhere.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
	}

	s := probe.Spec{Kind: probe.KindAMQP, Target: at(port), Timeout: 20 * time.Second}
	secure := s
	secure.Target = at(tlsPort)
	right, wrong := secret(t, "deep-secret"), secret(t, "wr0ng-secret")
	kido := with(s, "user", "kido", "password", right)
	mine := []string{"tls", "yes", "ca", "file:" + ca, "cert", "file:" + dir + "/cert", "key", "file:" + dir + "/key"}

	says(t, s, "connection refused")
	start(t, as, dir, env, epmd, "-port", names, "-address", "127.0.0.1") // else it starts one that stays
	until(t, "epmd answers", func() bool {
		return ask(t, probe.Spec{Kind: probe.KindTCP, Target: "127.0.0.1:" + names, Timeout: time.Second}).Ready
	})
	p := start(t, as, dir, env, bin+"rabbitmq-server")
	ready := func() bool { return !p.alive() || ask(t, s).Ready }
	_ = poll(ready) // it may take twice as long as others
	until(t, "RabbitMQ answers", ready)
	ctl := func(erlang string) string {
		t.Helper()
		return command(t, as, dir, env, bin+"rabbitmqctl", "eval", erlang)
	}

	const refused = "connected, but: 403 ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN…"
	for _, x := range []struct {
		name string
		spec probe.Spec
		want string
	}{
		{"guest", s, ""},
		{"login without rights", kido, ""},
		{"wrong password", with(kido, "password", wrong), refused},
		{"no such user", with(kido, "user", "nobody"), refused},
		{"no such vhost", with(kido, "vhost", "missing"), "connected, but: 530 NOT_ALLOWED - vhost missing not found"},
		{"another's vhost", with(kido, "vhost", "others"), "connected, but: 530 NOT_ALLOWED - access to vhost 'others' refused for user 'kido'"},
		{"too many connections", with(kido, "vhost", "full"), "connected, but: 530 NOT_ALLOWED - access to vhost 'full' refused for user 'kido': connection limit (0) is reached"},
		{"TLS", with(secure, mine...), ""},
		{"client certificate missing", with(secure, mine[:4]...), "the server refused TLS: certificate required, give cert and key"},
		{"unknown authority", with(secure, "tls", "yes"), "certificate is signed by an unknown authority"},
		{"another name", with(secure, append(mine, "name", "mq.example")...), "certificate is not for mq.example"},
		{"TLS at the wrong port", with(s, "tls", "yes"), "answered, but not in TLS"},
		{"no TLS at its port", secure, "answered in TLS: say tls"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if a := says(t, x.spec, x.want); a.Life != "" {
				t.Errorf("a life of %q", a.Life)
			}
		})
	}

	t.Run("alarm", func(t *testing.T) {
		ctl(`rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}), rabbit_vhost_sup_sup:stop_and_delete_vhost(<<"down">>).`)
		says(t, s, "") // it tells this publishers only
		says(t, with(kido, "vhost", "down"), "connected, but: 541 INTERNAL_ERROR - access to vhost 'down' refused for user 'kido': vhost 'down' is down")
		until(t, "none of ours is left at the server", func() bool { return strings.TrimSpace(ctl(`length(rabbit_networking:connections()).`)) == "0" })
	})
	t.Run("stopped", func(t *testing.T) {
		brief := s
		brief.Timeout = 300 * time.Millisecond
		p.signal(syscall.SIGSTOP)
		defer p.signal(syscall.SIGCONT)
		until(t, "all of it is stopped", func() bool { return !ask(t, brief).Ready })
		says(t, brief, "connected, but no answer within 300ms")
	})
	p.stop(t, syscall.SIGKILL)
	until(t, "all of it has ended", func() bool { return ask(t, s).Word == "connection refused" })
}

// TestAMQPScripted is of brokers that are not RabbitMQ, or end in the middle.
func TestAMQPScripted(t *testing.T) {
	t.Parallel()
	method := func(class, number uint16, arguments string) string {
		payload := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, class), number)
		payload = append(payload, arguments...)
		frame := append([]byte{1, 0, 0}, binary.BigEndian.AppendUint32(nil, uint32(len(payload)))...)
		return string(frame) + string(payload) + "\xce"
	}
	long := func(text string) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text
	}
	begin := func(mechanisms string) string {
		return method(10, 10, "\x00\x09"+long("")+long(mechanisms)+long("en_US"))
	}
	closing := method(10, 50, "\x01\x40\x11CONNECTION_FORCED\x00\x00\x00\x00")
	for _, x := range []struct {
		name string
		says []string // one after each of what it receives
		want string
	}{
		{"no PLAIN", []string{begin("EXTERNAL GSSAPI")}, "connected, but: it takes no login by PLAIN"},
		{"hangs up at the login", []string{begin("PLAIN")}, "connected, but: it closed the connection at the login: wrong user or password?"},
		{"hangs up later", []string{begin("PLAIN"), method(10, 30, "\x00\x10\x00\x02\x00\x00\x00\x00")}, "connected, but: it closed the connection in the middle"},
		{"is shut down", []string{begin("PLAIN"), closing}, "connected, but: 320 CONNECTION_FORCED"},
		{"says what nobody asked", []string{begin("PLAIN") + begin("PLAIN") + begin("PLAIN")}, "connected, but: its answer to the login is none"},
		{"garbage later", []string{begin("PLAIN"), strings.Repeat("garbage", 10)}, "connected, but: its answer to the login is none"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			address := speaker(t, func(c net.Conn) {
				for _, text := range x.says {
					if _, err := c.Read(make([]byte, 4<<10)); err != nil {
						return
					}
					_, _ = io.WriteString(c, text)
				}
				_, _ = c.Read(make([]byte, 4<<10))
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			})
			says(t, probe.Spec{Kind: probe.KindAMQP, Target: address, Timeout: 10 * time.Second}, x.want)
		})
	}
}
