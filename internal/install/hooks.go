package install

import (
	"fmt"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/probe"
	"kido/internal/site"
)

// Init is an init system that hooks can be hung into.
type Init string

// The init systems.
const (
	Systemd Init = "systemd"
	SysV    Init = "sysv"
	OpenRC  Init = "openrc"
)

// Hook is a unit or script that a host's init runs beside a service.
type Hook struct {
	Name    string // kido-announce-oracle
	Unit    string // the service's own unit or script; "" for a command, which init does not know
	File    string // where the hook is
	Require bool   // systemd: without the hook's success the unit does not start
	// Follow is a hook that runs for as long as the host does: it is announced by
	// looking, for init says nothing.
	Follow   bool
	Announce bool // else it holds the start
}

// links are the links by which systemd pulls the hook in.
func (h Hook) links() []string {
	unit, how := h.Unit, "wants"
	if unit == "" {
		unit = "multi-user.target"
	}
	if h.Require {
		how = "requires"
	}
	return []string{"/etc/systemd/system/" + unit + "." + how + "/" + h.Name + ".service"}
}

const written = "Written by kido install, from " + siteFile + "; what is changed here is lost."

// announce is the hook that tells all that depends on an instance of a new
// incarnation of it. One that may be restarted inside its unit is looked at for as
// long as the unit is up: init notices nothing.
func announce(init Init, i site.Instance, unit string, f Facts, bare, inner bool) (Hook, File) {
	h := Hook{Name: "kido-announce-" + i.Service, Unit: unit, Announce: true, Follow: init != Systemd || unit == ""}
	argv := kidoProgram + " announce " + i.String() + " --keep-trying"
	if h.Follow || inner {
		argv += " --follow"
	}
	what := "once " + i.Service + " is up, make all that depends on it fresh"
	switch init {
	case Systemd:
		h.File = unitFile(h.Name)
		var b strings.Builder
		fmt.Fprintf(&b, "# %s\n[Unit]\nDescription=kido: %s\nStartLimitIntervalSec=0\n", written, what)
		wanted := "multi-user.target"
		if unit != "" {
			fmt.Fprintf(&b, "After=%[1]s\nBindsTo=%[1]s\n", unit)
			wanted = unit
		}
		fmt.Fprintf(&b, `
[Service]
Type=exec
Environment=KIDO_SITE=%s KIDO_HERE=%s
ExecStart=%s
Restart=on-failure
RestartSec=10
StateDirectory=kido
StateDirectoryMode=0700
# To be killed in the middle is no failure: the journal is whole at any time, and
# what a gate began goes on to its end without us. To wait for that here would
# hold up the unit that this one is bound to. Killed by anybody else, it is
# started again.
KillMode=process
KillSignal=SIGKILL
SuccessExitStatus=130 SIGKILL
RestartForceExitStatus=SIGKILL
`, siteFile, i.Host, argv)
		if bare {
			// No sandbox and no NoNewPrivileges: the commands of this host's
			// services run in it, by sudo, and their daemons stay in it.
			b.WriteString("# No sandbox: a command of this host may be started from here.\n")
		} else {
			b.WriteString(sandbox)
		}
		fmt.Fprintf(&b, "\n[Install]\nWantedBy=%s\n", wanted)
		return h, File{Path: h.File, Mode: 0o644, Text: b.String()}
	case OpenRC:
		h.File = "/etc/init.d/" + h.Name
		depend := "after net " + unit
		return h, File{Path: h.File, Mode: 0o755, Text: fmt.Sprintf(`#!/sbin/openrc-run
# %s
description=%q

depend() {
	%s
}

%s
start() {
	ebegin "Starting $name"
	begin
	eend $?
}

stop() {
	ebegin "Stopping $name"
	finish
	eend $?
}

status() {
	if running; then einfo "status: started"; return 0; fi
	if service_started; then eerror "status: crashed"; return 32; fi
	einfo "status: stopped"
	return 3
}
`, written, what, strings.TrimSpace(depend), daemon(h.Name, i.Host, argv))}
	}
	h.File = "/etc/init.d/" + h.Name
	after := ""
	if unit != "" {
		after = f.script(unit).Provides
	}
	return h, File{Path: h.File, Mode: 0o755, Text: fmt.Sprintf(`#!/bin/sh
# %s
#
# chkconfig: 345 99 01
# description: %s
#
### BEGIN INIT INFO
# Provides:          %s
# Required-Start:    $remote_fs $network
# Required-Stop:     $remote_fs $network
# Should-Start:      %s
# Should-Stop:       %[4]s
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: %[2]s
### END INIT INFO

%[5]s
case $1 in
start) begin ;;
stop) finish ;;
restart | force-reload) finish && begin ;;
status)
	if running; then echo "$name runs"; exit 0; fi
	if [ -e "$pidfile" ]; then echo "$name is dead, and $pidfile is there"; exit 1; fi
	echo "$name is stopped"
	exit 3
	;;
*)
	echo "usage: $0 start|stop|restart|status" >&2
	exit 2
	;;
esac
`, written, what, h.Name, strings.TrimSpace("$syslog "+after), daemon(h.Name, i.Host, argv))}
}

// confined leaves what a run and the gate that it starts here need: the network,
// the bus, root to become the gate's user, and reading whatever a probe reads; the
// kernel's tables of connections are asked for by netlink.
// Neither ProtectKernelTunables nor ProtectControlGroups: in a container they lay
// bare the boot id of the kernel outside, and an incarnation would have another
// token in here.
const confined = `NoNewPrivileges=yes
ProtectHome=read-only
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
UMask=0077
`

// sandbox is for a run, which may write where programs do, but not to theirs.
const sandbox = confined + "ProtectSystem=full\n"

// cell leaves what a gate needs that only looks: the network, the bus, and its
// state folder to write to.
const cell = confined + `ProtectSystem=strict
CapabilityBoundingSet=
ReadWritePaths=-` + gate.DefaultState + `
PrivateDevices=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
TasksMax=64
`

// onlyLooks reports whether a gate that holds a service runs no program but
// kido's own: the status command of a script may need sudo, and a probe of the
// administrator's whatever it likes.
func onlyLooks(policy *gate.Policy, v gate.PolicyService) bool {
	if v.Adapter != string(site.KindSystemd) {
		return false
	}
	for _, any := range v.Wait.Await {
		for _, instance := range any {
			if slices.ContainsFunc(policy.Watch(instance).Ready, func(s probe.Spec) bool { return s.Uses(probe.KindExec) }) {
				return false
			}
		}
	}
	return true
}

// daemon is the part of a script that runs a command in the background: begin,
// finish and running. A pid counts only while it is that of the command: after
// a power cut another process may have it.
func daemon(name, host, argv string) string {
	return fmt.Sprintf(`name=%s
command=%q
pidfile=/var/run/%[1]s.pid
log=/var/log/kido/%[1]s.log

running() {
	pid=$(cat "$pidfile" 2>/dev/null) || return 1
	case $pid in '' | *[!0-9]*) return 1 ;; esac
	[ "$({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null)" = "$command " ]
}

begin() {
	running && return 0
	(
		umask 027
		mkdir -p /var/log/kido && cd / || exit 1
		export KIDO_SITE=%[3]s KIDO_HERE=%[4]s
		setsid $command </dev/null >>"$log" 2>&1 &
		umask 022
		echo $! >"$pidfile"
	)
}

finish() {
	for signal in TERM KILL; do
		running && kill -"$signal" "$pid"
		left=15
		while running && [ $left -gt 0 ]; do
			sleep 1
			left=$((left - 1))
		done
	done
	rm -f "$pidfile"
}
`, name, argv, siteFile, host)
}

// holdAt is the start number of the hook that holds a script of a number.
func holdAt(own int) int { return max(1, own-1) }

// hold is the hook that holds the start of a service, once the scripts beside it
// are started. looks says that all it does is to look: see onlyLooks.
func hold(init Init, v *site.Service, unit string, beside []string, looks bool, f Facts) (Hook, File) {
	h := Hook{Name: "kido-wait-" + v.Name, Unit: unit, Require: v.Wait.Leave && init == Systemd}
	argv := GateProgram + " --wait " + v.Name
	what := "hold the start of " + v.Name + " until what it depends on is ready"
	switch init {
	case Systemd:
		h.File = unitFile(h.Name)
		by := "WantedBy"
		if h.Require {
			by = "RequiredBy"
		}
		confined := "# No sandbox: a program of this host may be started from here.\n"
		if looks {
			confined = cell
		}
		return h, File{Path: h.File, Mode: 0o644, Text: fmt.Sprintf(`# %s
[Unit]
Description=kido: %s
Before=%s

[Service]
Type=oneshot
RemainAfterExit=yes
User=%s
ExecStart=%s
TimeoutStartSec=infinity
%s
[Install]
%s=%[3]s
`, written, what, unit, gateUser, argv, confined, by)}
	case OpenRC:
		h.File = "/etc/init.d/" + h.Name
		return h, File{Path: h.File, Mode: 0o755, Text: fmt.Sprintf(`#!/sbin/openrc-run
# %s
description=%q

depend() {
	after %s
	before %s
}

start() {
	ebegin "Waiting for what %s depends on"
	%s
	eend $?
}
`, written, what, strings.Join(append([]string{"net sshd ssh"}, beside...), " "), unit, v.Name, argv)}
	}
	h.File = "/etc/init.d/" + h.Name
	script := f.script(unit)
	at, after := holdAt(script.Start), "ssh sshd"
	for _, name := range beside {
		after += " " + f.script(name).Provides
	}
	return h, File{Path: h.File, Mode: 0o755, Text: fmt.Sprintf(`#!/bin/sh
# %s
#
# chkconfig: 345 %02d %02d
# description: %s
#
### BEGIN INIT INFO
# Provides:          %s
# Required-Start:    $remote_fs $network
# Required-Stop:
# Should-Start:      %[8]s
# X-Start-Before:    %[6]s
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: %[4]s
### END INIT INFO

case $1 in
start) exec %[7]s ;;
stop | restart | force-reload | status) ;; # nothing stays behind
*)
	echo "usage: $0 start|stop" >&2
	exit 2
	;;
esac
`, written, at, min(99, 100-at), what, h.Name, script.Provides, argv, after)}
}

func unitFile(name string) string { return "/etc/systemd/system/" + name + ".service" }
