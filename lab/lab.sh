#!/usr/bin/env bash
# lab.sh - real machines in a box: each has a real init as PID 1 (systemd, SysV
# init or OpenRC), a real sshd, its own disk, network stack and address.
#
#   lab.sh check                 say what keeps a lab from running here, if anything
#   lab.sh packages              the Debian packages that are missing for it
#   lab.sh build [KIND...]       make base disks and keep them (default: all four kinds)
#   lab.sh up KIND...            add machines, boot them, wait for their sshd
#   lab.sh make KIND...          add machines and leave them off
#   lab.sh status                one line per machine
#   lab.sh boot I...             power on; returns at once
#   lab.sh wait I...             wait until the sshd of each says its banner
#   lab.sh reboot I              orderly reboot; returns when it starts again
#   lab.sh poweroff I            orderly shutdown; returns when it is off
#   lab.sh power-cut I           power cut: no shutdown, no FIN, no RST; the disk stays
#   lab.sh is-on I               exit status 0: on, 1: off
#   lab.sh boots I               how often it has been started
#   lab.sh exec I CMD...         run CMD in machine I, past its network
#   lab.sh offline I CMD...      run CMD on the disk of machine I, which is off
#   lab.sh put I FILE [MODE]     standard input to FILE of machine I, on or off
#   lab.sh get I FILE            FILE of machine I, on or off, to standard output
#   lab.sh ssh A B CMD...        in machine A, ssh to machine B and run CMD there
#   lab.sh net CMD...            run CMD at the tester's own port of the switch
#   lab.sh partition A B         drop every packet between A and B, silently
#   lab.sh heal                  undo all partitions
#   lab.sh unplug I | plug I     pull or put back the cable of I: carrier lost
#   lab.sh freeze I | thaw I     hang I: its kernel still takes TCP, nobody answers
#   lab.sh log I [LINES]         the end of its console and of its journal
#   lab.sh down                  end everything and remove all traces of this lab
#   lab.sh guard                 wait for the end of standard input, then down
#
# A KIND is systemd, sysv or openrc, with :bookworm (the default) or, for systemd,
# :trixie. A number repeats the kind after it: `up 2 systemd:trixie sysv`.
# Machine I is h1, h2, ... at 198.51.100.I; the tester is at 198.51.100.254.
#
# KIDO_LAB_ID names one lab (default lab0); several can live side by side.
# KIDO_LAB_CACHE is where base disks are kept (default ~/.cache/kido-lab).
# LAB_SERVICES replaces the packages that a base disk has beside init and sshd.
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
umask 022
SELF=$(readlink -f "$0")
ID=${KIDO_LAB_ID:-lab0}
CACHE=$(readlink -m "${KIDO_LAB_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var}/.cache}/kido-lab}")
RUN=$CACHE/run/$ID                          # a tmpfs: what this lab has written, and its network stacks
NET=198.51.100                              # TEST-NET-2; it exists in our network stacks only
KINDS=(systemd:bookworm systemd:trixie sysv:bookworm openrc:bookworm)
PATIENCE=120                                # seconds; only what has failed takes so long
cd /

die() { echo "lab.sh: $*" >&2; exit 1; }
[[ $ID =~ ^[a-z0-9]{1,20}$ ]] || die "KIDO_LAB_ID is \"$ID\"; use up to 20 of a-z and 0-9"
[[ $CACHE != *[:,\\\"]* && $CACHE/ != /run/* ]] || die "the cache folder $CACHE must not be in /run, nor have : , \\ or \" in its name; set KIDO_LAB_CACHE"

hosts() { local d; for d in "$RUN"/h[0-9]*; do [ ! -d "$d" ] || echo "${d##*/h}"; done | sort -n; }
known() { [ -d "$RUN/h$1" ] || die "lab $ID has no machine $1"; }
is_on() { [ -e "$RUN/h$1/on" ]; }
answering() { known "$1"; is_on "$1" || die "machine $1 is off"; [ ! -e "$RUN/h$1/frozen" ] || die "machine $1 is frozen; thaw it first"; }
off() { known "$1"; ! is_on "$1" || die "machine $1 is on"; }
# One change at a time; and none for a tester who is gone, as its guard has ended the lab.
alone() {
  mkdir -p "$CACHE/run"; exec 8>"$RUN.lock"; flock 8
  [ -z "${KIDO_LAB_OWNER:-}" ] || kill -0 "$KIDO_LAB_OWNER" 2>/dev/null || die "whoever wanted lab $ID is gone"
}
until_true() { # CMD...: poll for CMD, with patience
  local end=$((SECONDS + PATIENCE)); until "$@"; do ((SECONDS < end)) || return 1; sleep .05; done; }

# ---- what must be here -------------------------------------------------------
packages() {
  local c p; while read -r c p; do command -v "$c" >/dev/null || echo "$p"; done <<'E' | sort -u
mmdebstrap mmdebstrap
systemd-nspawn systemd-container
ip iproute2
nft nftables
ssh-keygen openssh-client
nsenter util-linux
setpriv util-linux
flock util-linux
E
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
}
check() { # the last one tries everything, where nobody else sees it
  local miss out
  [ "$(uname -s)" = Linux ] || die "a lab needs Linux"
  [ "$(id -u)" = 0 ] || die "a lab needs root"
  miss=$(packages); [ -z "$miss" ] || die "missing; install them:" $miss
  [ -n "$(cg_v2)" ] && [ -w "$(cg_v2)/cgroup.procs" ] || die "no control groups of version 2 that we may write to, in /sys/fs/cgroup"
  out=$(unshare --mount --net --propagation private sh -ec '
    mount -t tmpfs tmpfs /run; cd /run; mkdir up wk root; chown 33:33 up
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/up,workdir=/run/wk root
    ip link add br0 type bridge; ip link add p1 type veth peer name eth0
    nft "table bridge lab { set cut { type ifname . ifname; }; chain pass { type filter hook forward priority 0; iifname . oifname @cut drop; }; }"
  ' 2>&1) || die "users, mount namespaces, overlayfs, bridge, veth and nftables do not all work here: $out"
}

# ---- base disks --------------------------------------------------------------
recipe() { # KIND: sets FLAVOUR, SUITE, PACKAGES, and BASE, where the disk is kept
  local init more
  FLAVOUR=${1%%:*} SUITE=bookworm; [[ $1 != *:* ]] || SUITE=${1#*:}
  [[ " ${KINDS[*]} " == *" $FLAVOUR:$SUITE "* ]] || die "no such kind of machine: $1; there are ${KINDS[*]}"
  case $FLAVOUR in
    systemd) init=systemd-sysv,dbus,libpam-systemd more=polkitd ;;
    sysv)    init=sysvinit-core,initscripts,insserv more=sudo ;;
    openrc)  init=sysvinit-core,openrc,initscripts,insserv more=sudo ;;
  esac
  more=${LAB_SERVICES-apache2,libapache2-mod-php,php-pgsql,postgresql,$more}
  PACKAGES=$init,openssh-server,iproute2,iputils-ping,procps,ca-certificates,curl,netcat-openbsd${more:+,$more}
  BASE=$CACHE/$FLAVOUR-$SUITE-$(echo "$PACKAGES $FINISH" | sha256sum | cut -c1-12) # new recipe, new name
}
# Done in the new root when all packages are in. Every service but ssh is left
# off: a test switches on what it wants. Who a machine is comes in new_disk.
FINISH='cd "$1"
  rm -f etc/ssh/ssh_host_* etc/resolv.conf etc/hostname var/lib/dbus/machine-id
  : >etc/resolv.conf; : >etc/machine-id
  for s in apache2 nginx postgresql mariadb redis-server; do
    [ -e etc/init.d/$s ] || continue
    if [ -e lib/systemd/systemd ]; then chroot . systemctl -q disable $s
    else [ ! -e sbin/rc-update ] || chroot . rc-update -a del $s; chroot . update-rc.d $s disable; fi
  done >/dev/null 2>&1
  if [ -e lib/systemd/systemd ]; then
    mkdir -p var/log/journal # the journal outlives its boot
    chroot . systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
  else sed -i "/getty/d" etc/inittab; fi'

build() ( # KIND; a second builder of the same waits for the first
  local new
  recipe "$1"; [ ! -d "$BASE" ] || exit 0
  mkdir -p "$CACHE/debs"; exec 9>"$CACHE/.$FLAVOUR-$SUITE.lock"; flock 9
  [ ! -d "$BASE" ] || exit 0
  new=$CACHE/.new-$FLAVOUR-$SUITE; rm -rf --one-file-system "$new"
  trap 'rm -rf --one-file-system "$new"' EXIT; trap 'exit 130' INT TERM HUP
  echo "lab.sh: building $FLAVOUR:$SUITE in $CACHE" >&2
  # The builds share what they download, by hard links. In a mount namespace, so
  # that a build that is killed leaves no mount.
  DEBS=$CACHE/debs unshare --mount --propagation private -- mmdebstrap --quiet --variant=minbase --format=directory \
    --include="$PACKAGES" --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --skip=download/empty --skip=essential/unlink \
    --setup-hook='mkdir -p "$1/var/cache/apt/archives"; cp -aln "$DEBS/." "$1/var/cache/apt/archives/"' \
    --customize-hook='for f in "$1"/var/cache/apt/archives/*.deb; do ln -f "$f" "$DEBS/"; rm "$f"; done' \
    --customize-hook="$FINISH" "$SUITE" "$new" >&2 9>&- ||
    die "could not build $FLAVOUR:$SUITE; what went wrong stands above"
  mv -T "$new" "$BASE"
)
build_all() { # KIND...: as many at a time as there are processors
  local k
  check; [ $# -gt 0 ] || set -- "${KINDS[@]}"
  for k; do recipe "$k"; done
  printf '%s\n' "$@" | sort -u | xargs -P "$(nproc)" -n 1 "$SELF" _build || die "not all base disks could be built"
}

# ---- control groups ----------------------------------------------------------
# One group per machine, at the top of each hierarchy at hand (version 2 alone, or
# a hybrid), so that two inits do not meet and all of a machine is found again by
# name. Outside of whatever unit we run in, so that a systemd here neither counts
# the machines as its own nor ends them with a session.
cg_v2() { local d; for d in /sys/fs/cgroup /sys/fs/cgroup/unified; do [ ! -e "$d/cgroup.controllers" ] || { echo "$d"; return; }; done; }
cg_roots() { local d; for d in $(cg_v2) /sys/fs/cgroup/{systemd,memory,freezer,pids}; do [ ! -e "$d/cgroup.procs" ] || echo "$d"; done; }
cg_enter() { local r; for r in $(cg_roots); do mkdir -p "$r/$ID-h$1"; echo "$BASHPID" >"$r/$ID-h$1/cgroup.procs"; done; }
cg_join() { # PID: into its groups, so that what hangs or ends it hangs or ends us
  local x name path d; while IFS=: read -r x name path; do
    case $name in '') d=$(cg_v2) ;; *) d=/sys/fs/cgroup/${name#name=} ;; esac
    [ ! -e "$d$path/cgroup.procs" ] || echo "$BASHPID" >"$d$path/cgroup.procs"
  done <"/proc/$1/cgroup"; }
cg_frozen() { grep -q "^frozen $2" "$(cg_v2)/$ID-h$1/cgroup.events"; }
cg_freeze() { echo "$2" >"$(cg_v2)/$ID-h$1/cgroup.freeze"; until_true cg_frozen "$1" "$2" || die "machine $1 does not change to frozen $2"; }
cg_end() { # kill all that runs in machine I's groups, wait for its end, remove the groups
  local r p end=$((SECONDS + PATIENCE))
  for r in $(cg_roots); do r=$r/$ID-h$1; [ -d "$r" ] || continue
    while [ ! -e "$r/cgroup.kill" ] || echo 1 >"$r/cgroup.kill"
      p=$(find "$r" -name cgroup.procs -exec cat {} + 2>/dev/null); [ -n "$p" ]
    do kill -9 $p 2>/dev/null || :; ((SECONDS < end)) || die "machine $1: cannot end process" $p; sleep .02; done
    # A process that is gone from the list is not gone from its group at once.
    until rm_groups=$(find "$r" -depth -type d -exec rmdir {} + 2>&1); do ((SECONDS < end)) || die "cannot remove the control group $r: $rm_groups"; sleep .02; done
  done; }

# ---- network -----------------------------------------------------------------
# Network stacks are files in the lab's own folder, not names of `ip netns`: that
# would leave a mount at /run/netns.
in_sw() { nsenter --net="$RUN/net/sw" -- "$@"; }
in_port() { local n=$1; shift; nsenter --net="$RUN/net/h$n" -- "$@"; }
net_up() {
  [ ! -e "$RUN/net/sw" ] || return 0
  mkdir "$RUN/net"; : >"$RUN/net/sw"; unshare --net="$RUN/net/sw" true
  in_sw ip link set lo up
  # An address of its own: else it has that of a port, and another one when that goes.
  in_sw ip link add br0 address 02:00:00:00:00:fe type bridge
  in_sw ip addr add "$NET.254/24" dev br0
  in_sw ip link set br0 up
  in_sw nft 'table bridge lab {
    set cut { type ifname . ifname; }
    chain pass { type filter hook forward priority 0; policy accept; iifname . oifname @cut drop; }
  }'
}
port_up() { # a new network stack for machine I, at the end of its cable
  local n=$1 s=up; [ ! -e "$RUN/h$n/unplugged" ] || s=down
  port_down "$n"
  : >"$RUN/net/h$n"; unshare --net="$RUN/net/h$n" true
  in_sw ip link add "p$n" type veth peer name eth0 netns "$RUN/net/h$n" address "$(printf 02:00:00:00:00:%02x "$n")"
  in_port "$n" ip link set lo up
  in_port "$n" ip addr add "$NET.$n/24" dev eth0
  in_port "$n" ip link set eth0 up
  in_sw ip link set "p$n" master br0 $s
}
port_down() { [ ! -e "$RUN/net/h$1" ] || { in_sw ip link del "p$1" 2>/dev/null || :; umount -l "$RUN/net/h$1" 2>/dev/null || :; rm -f "$RUN/net/h$1"; }; }
cable() { # I up|down
  known "$1"; if [ "$2" = down ]; then : >"$RUN/h$1/unplugged"; else rm -f "$RUN/h$1/unplugged"; fi
  ! is_on "$1" || in_sw ip link set "p$1" "$2"; }
sever() { known "$1"; known "$2"; in_sw nft "add element bridge lab cut { p$1 . p$2, p$2 . p$1 }"; }

# ---- machines ----------------------------------------------------------------
new_disk() { # I KIND: a thin layer over the base, with what makes it this machine
  local d=$RUN/h$1; recipe "$2"
  mkdir -p "$d"/{root,wk,up/etc/ssh,up/root/.ssh}; chmod 700 "$d"/up/root{,/.ssh}
  echo "$BASE" >"$d/base"; echo "h$1" >"$d/up/etc/hostname"; echo 0 >"$d/boots"
  tr -d - </proc/sys/kernel/random/uuid >"$d/up/etc/machine-id"
  ssh-keygen -q -t ed25519 -N '' -C "h$1" -f "$d/up/etc/ssh/ssh_host_ed25519_key"
  cp "$RUN/key" "$d/up/root/.ssh/id_ed25519"; cp "$RUN/key.pub" "$d/up/root/.ssh/authorized_keys"
}
acquaint() { # tell all machines the names and host keys of all
  local n; { echo "127.0.0.1 localhost"; for n in $(hosts); do echo "$NET.$n h$n"; done; } >"$RUN/hosts"
  for n in $(hosts); do echo "h$n,$NET.$n $(cut -d' ' -f1,2 "$RUN/h$n/up/etc/ssh/ssh_host_ed25519_key.pub")"; done >"$RUN/known_hosts"
  for n in $(hosts); do
    if is_on "$n"; then put "$n" /etc/hosts <"$RUN/hosts"; put "$n" /etc/ssh/ssh_known_hosts <"$RUN/known_hosts"
    else cp "$RUN/hosts" "$RUN/h$n/up/etc/hosts"; cp "$RUN/known_hosts" "$RUN/h$n/up/etc/ssh/ssh_known_hosts"; fi
  done
}
make() { # KIND...: prints the new machines' numbers
  local a k n m=1 kinds=() limit=/proc/sys/fs/inotify/max_user_instances
  for a; do
    if [[ $a =~ ^[1-9][0-9]*$ ]]; then m=$a; else for ((; m > 0; m--)); do kinds+=("$a"); done; m=1; fi
  done
  [ ${#kinds[@]} -gt 0 ] || die "which machines? There are ${KINDS[*]}"
  build_all "${kinds[@]}"; alone
  n=$(hosts | tail -n 1); n=${n:-0}; [ $((n + ${#kinds[@]})) -le 250 ] || die "a lab has room for 250 machines"
  # A systemd takes 7 inotify instances, and all machines' roots are one user to
  # the kernel: its usual 128 end at 18 machines ("Too many open files").
  [ "$(<$limit)" -ge 1024 ] || echo 1024 2>/dev/null >$limit || :
  mkdir -p "$RUN"; mountpoint -q "$RUN" || mount -t tmpfs -o mode=700,size=75% "kido-lab-$ID" "$RUN"
  [ -e "$RUN/key" ] || ssh-keygen -q -t ed25519 -N '' -C lab -f "$RUN/key"
  net_up
  for k in "${kinds[@]}"; do n=$((n + 1)); new_disk "$n" "$k"; echo "$n"; done
  acquaint
}
boot() { # I...
  local n; for n; do known "$n"; done; alone
  for n; do
    off "$n"; : >"$RUN/h$n/on"; count "$n"
    # Into its groups first, so that a power cut right after this finds it.
    ( cg_enter "$n"; setsid bash "$SELF" _keeper "$n" </dev/null >>"$RUN/h$n/keeper.log" 2>&1 8>&- & )
  done
  exec 8>&-
}
count() { echo $(($(<"$RUN/h$1/boots") + 1)) >"$RUN/h$1/boots.new"; mv "$RUN/h$1/boots.new" "$RUN/h$1/boots"; }
keeper() { # keeps machine I while its power is on; lives in its control groups
  local n=$1 d=$RUN/h$1 rc
  while :; do
    port_up "$n"
    # In the machine's network stack from the start: nspawn's --network-namespace-path
    # would show it our interfaces in /sys.
    nsenter --net="$RUN/net/h$n" -- unshare --mount --propagation slave bash "$SELF" _machine "$n" --boot --console=read-only --capability=CAP_NET_ADMIN \
      </dev/null >>"$d/console.log" 2>&1 &
    echo $! >"$d/nspawn.pid"; rc=0; wait $! || rc=$?
    rm -f "$d/nspawn.pid"; port_down "$n"
    [ $rc = 133 ] || break                # nspawn's word for "it reboots"
    count "$n"
  done
  rm -f "$d/on"                           # last: whoever waits for "off" may boot at once
}
machine() { # I ARG...: nspawn; in our own mount namespace: the mounts vanish with it, however it ends
  local n=$1 d=$RUN/h$1 base f; shift; read -r base <"$d/base"
  for f in "$RUN"/net/*; do [ "$f" = "$RUN/net/h$n" ] || umount "$f" 2>/dev/null || :; done # or we would keep them alive
  mount -t overlay overlay -o "lowerdir=$base,upperdir=$d/up,workdir=$d/wk" "$d/root"
  mount -t tmpfs tmpfs /run               # nspawn writes there, and talks to nobody there
  # A systemd here is told of nothing: we have our own control groups, and all is ended
  # by us. Inside there is version 2 only.
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --quiet --settings=no --keep-unit --register=no \
    -D "$d/root" -M "$ID-h$n" --hostname="h$n" --resolv-conf=off --timezone=off --link-journal=no "$@"
}
offline() { # I CMD...
  local n=$1 rc=0; shift; off "$n"
  ( cg_enter "$n"; exec unshare --mount --propagation slave bash "$SELF" _machine "$n" --as-pid2 --console=pipe --private-network -- "$@" ) || rc=$?
  cg_end "$n"; return $rc
}
find_init() { # sets INIT: PID 1 of machine I as seen from here, once it is the init and no more nspawn's child
  local k p s; { read -r k <"$RUN/h$1/nspawn.pid" && s=$(</proc/$k/task/$k/children); } 2>/dev/null || return 1
  for p in $s; do
    s=$(</proc/$p/status) 2>/dev/null || continue
    [[ ! $s =~ NSpid:[0-9$'\t']*$'\t'1$'\n' ]] || [[ $s != Name:$'\t'@(systemd|init)$'\n'* ]] || { INIT=$p; return; }
  done; return 1; }
enter() { # I CMD...: ends this shell
  local n=$1 b i last drop=; shift; answering "$n"
  until_true find_init "$n" || die "machine $n has no init; see lab.sh log $n"
  # A bare nsenter would bring our full powers in (such as setting the clock of the
  # real machine!), so first drop whatever the machine's PID 1 may not do.
  b=$(</proc/$INIT/status); b=${b##*CapBnd:$'\t'}; b=$((16#${b%%$'\n'*}))
  last=$(</proc/sys/kernel/cap_last_cap); for ((i = 0; i <= last; i++)); do (( b >> i & 1 )) || drop+=,-cap_$i; done
  cg_join "$INIT"
  exec setpriv ${drop:+--bounding-set="${drop#,}"} nsenter -t "$INIT" -m -u -i -n -p -C -- \
    env -i PATH="$PATH" HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 "$@"
}
within() { if is_on "$1"; then ( enter "$@" ); else offline "$@"; fi; }
put() { known "$1"; within "$1" sh -c 'mkdir -p "${1%/*}/" && cat >"$1.new~" && chmod "$2" "$1.new~" && mv -T "$1.new~" "$1"' - "$2" "${3:-644}"; }
wait_ssh() { # I: short tries, as a lost first ARP or SYN costs 1 s
  local n=$1; answering "$n"
  in_sw timeout $PATIENCE bash -c '
    while [ -e "$1" ]; do
      ! timeout .2 bash -c "read -r l </dev/tcp/$0/22 && [[ \$l == SSH-* ]]" 2>/dev/null || exit 0
      sleep .05
    done; exit 1' "$NET.$n" "$RUN/h$n/on" || { log "$n" >&2; die "machine $n: no sshd; its console stands above"; }
}
power_cut() { # first all hang at once, then the cable goes, so that no dying socket says good-bye
  known "$1"; ! is_on "$1" || { cg_freeze "$1" 1; in_sw ip link del "p$1" 2>/dev/null || :; }
  cg_end "$1"; port_down "$1"; rm -f "$RUN/h$1"/{on,frozen,nspawn.pid}; }
is_off() { ! is_on "$1"; }
started_again() { [ "$(<"$RUN/h$1/boots")" -gt "$2" ]; }
log() {
  known "$1"; echo "== h$1: console"; tail -n "${2:-30}" "$RUN/h$1/console.log" "$RUN/h$1/keeper.log" 2>/dev/null | sed 's/\x1b\[[0-9;?]*[a-zA-Z]//g' || :
  ! is_on "$1" || [ -e "$RUN/h$1/frozen" ] || ! find_init "$1" ||
    ( enter "$1" sh -c 'if [ -d /run/systemd/system ]; then echo "== $(hostname): journal"; journalctl -b --no-pager -o short-monotonic -n "$0"; fi' "${2:-30}" ) || :
}
status() {
  local n s INIT; for n in $(hosts); do s=off
    if [ -e "$RUN/h$n/frozen" ]; then s=frozen; elif is_on "$n"; then s=on; fi
    ! find_init "$n" || s+=" init=$(tr '\0' ' ' <"/proc/$INIT/cmdline")"
    echo "h$n $NET.$n $(basename "$(<"$RUN/h$n/base")") boots=$(<"$RUN/h$n/boots") disk=$(du -sm "$RUN/h$n/up" | cut -f1)MiB $s"
  done
}
down() { # by name and not by what we remember, so that it also clears up after a crash
  local r n; unset KIDO_LAB_OWNER; alone
  for n in $( { hosts; for r in $(cg_roots); do ls "$r" | sed -n "s/^$ID-h\([0-9]*\)$/\1/p"; done; } | sort -nu); do
    cg_end "$n"; done
  ! mountpoint -q "$RUN" || umount -R "$RUN" 2>/dev/null || umount -R -l "$RUN"
  [ ! -e "$RUN" ] || rmdir "$RUN"
  rm -f "$RUN.lock"; rmdir "$CACHE/run" "$CACHE" 2>/dev/null || :
}

c=${1:-help}; shift || :
case $c in
  check) check ;;           packages) packages ;;    build) build_all "$@" ;;
  make) make "$@" ;;        status) status ;;
  up) new=$(make "$@"); boot $new; for n in $new; do wait_ssh "$n"; done ;;
  boot) boot "$@" ;;        wait) for n; do wait_ssh "$n"; done ;;
  reboot) answering "$1"; b=$(<"$RUN/h$1/boots"); ( enter "$1" reboot ) >/dev/null 2>&1 || :
    until_true started_again "$1" "$b" || die "machine $1 does not reboot; see lab.sh log $1" ;;
  poweroff) answering "$1"; ( enter "$1" poweroff ) >/dev/null 2>&1 || :
    until_true is_off "$1" || die "machine $1 does not go off; see lab.sh log $1" ;;
  power-cut) power_cut "$1" ;;          is-on) known "$1"; is_on "$1" ;;  boots) known "$1"; cat "$RUN/h$1/boots" ;;
  exec) enter "$@" ;;       offline) offline "$@" ;;
  put) put "$@" ;;          get) known "$1"; within "$1" cat "$2" ;;
  ssh) a=$1 b=$2; shift 2; enter "$a" ssh -o BatchMode=yes "h$b" "$@" ;;
  net) in_sw "$@" ;;
  partition) sever "$1" "$2" ;;  heal) in_sw nft flush set bridge lab cut ;;
  unplug) cable "$1" down ;;     plug) cable "$1" up ;;
  freeze) answering "$1"; cg_freeze "$1" 1; : >"$RUN/h$1/frozen" ;;
  thaw) known "$1"; cg_freeze "$1" 0; rm -f "$RUN/h$1/frozen" ;;
  log) log "$@" ;;          down) down ;;
  guard) trap '' INT TERM HUP PIPE; cat >/dev/null || :; down ;;
  _build) build "$1" ;;     _keeper) keeper "$1" ;;  _machine) machine "$@" ;;
  *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac; exit                                  # here, as whoever edits this file may not have ended his labs
