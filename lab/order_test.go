package lab

import (
	"slices"
	"strings"
	"testing"
)

// orders are all orders in which the machines can be switched on.
var orders = [][]int{
	{dbHost, appHost, webHost},
	{dbHost, webHost, appHost},
	{appHost, dbHost, webHost},
	{appHost, webHost, dbHost},
	{webHost, dbHost, appHost},
	{webHost, appHost, dbHost},
}

// TestBootOrders switches the machines on in every order after a power cut of
// them all, and in ways that are no order. Each service is started once for each
// boot of its machine, and a dependent once more for each boot of an upstream that
// it was up in.
func TestBootOrders(t *testing.T) {
	t.Parallel()
	for kind, parts := range map[Kind][]part{Systemd: boots, SysV: chosen(boots)} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newTrio(t, kind)
			s.play(allOrders()...)
			s.play(parts...)
		})
	}
}

// TestOtherInits plays a part of all that the other tests play with the rest of the
// kinds of machines.
func TestOtherInits(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{SystemdTrixie, OpenRC} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newTrio(t, kind)
			s.play(chosen(slices.Concat(allOrders(), boots, faults))...)
		})
	}
}

// allOrders is a part for each order in which the machines can be switched on after
// a power cut of all, each once the one before has its sshd up, and again each once
// the service of the one before has come as far as it can.
func allOrders() []part {
	parts := []part{{"at once", func(s *trio) {
		s.blackout()
		s.Boot()
	}, each(1, 1, 1), true}}
	for n, order := range orders {
		var names []string
		for _, host := range order {
			names = append(names, serviceOn[host])
		}
		name := strings.Join(names, " before ")
		parts = append(parts, part{name, func(s *trio) {
			s.blackout()
			for _, host := range order {
				s.Boot(host)
				s.Ready(host)
			}
		}, each(1, 1, 1), n == 0})
		parts = append(parts, part{name + ", each as far as it comes", func(s *trio) {
			s.blackout()
			ready := map[int]bool{}
			for _, host := range order {
				s.Boot(host)
				if ready[host] = !slices.ContainsFunc(upstreamsOf[host], func(u int) bool { return !ready[u] }); ready[host] {
					s.waitReady(host)
				} else {
					s.waitHeld(host)
				}
			}
		}, each(1, 1, 1), n == len(orders)-1})
	}
	return parts
}

// boots are boots that do not go as they should, each from where the one before
// has left the machines: with all on, and everything fresh.
var boots = []part{
	{"web comes up late", func(s *trio) {
		s.blackout()
		s.Boot(dbHost, appHost)
		s.waitTried(dbHost, webHost, 3)
		s.waitTried(appHost, webHost, 3)
		s.Boot(webHost)
	}, each(1, 1, 1), false},
	{"app comes up late", func(s *trio) {
		s.blackout()
		s.Boot(dbHost, webHost)
		s.waitTried(dbHost, appHost, 3)
		s.waitHeld(webHost)
		s.Boot(appHost)
	}, each(1, 1, 1), false},
	{"web dies while its start is held", func(s *trio) {
		s.blackout()
		s.Boot(webHost)
		s.waitHeld(webHost)
		s.PowerCut(webHost)
		s.Boot(dbHost, appHost)
		s.waitReady(dbHost, appHost)
		s.Boot(webHost)
	}, each(1, 1, 1), false},
	{"app dies while its start is held", func(s *trio) {
		s.blackout()
		s.Boot(appHost, webHost)
		s.waitHeld(appHost)
		s.PowerCut(appHost)
		s.Boot(dbHost)
		s.waitTried(dbHost, appHost, 1)
		s.Boot(appHost)
	}, each(1, 1, 1), false},
	{"db dies while it starts", func(s *trio) {
		s.blackout()
		s.pause(dbHost, "before")
		s.Boot()
		s.paused(dbHost, "before")
		s.PowerCut(dbHost)
		s.unpause(dbHost, "before")
		s.Boot(dbHost)
	}, each(1, 1, 1), false},
	{"db dies before it is ready", func(s *trio) {
		s.blackout()
		s.pause(dbHost, "boot")
		s.Boot()
		s.Until("db is up and refuses, and the others wait for it", func() bool {
			return len(s.since(dbHost)) > 0 && s.held(appHost) && s.held(webHost)
		})
		s.PowerCut(dbHost)
		s.unpause(dbHost, "boot")
		s.Boot(dbHost)
	}, each(2, 1, 1), true},
	{"web dies while it starts", func(s *trio) {
		s.blackout()
		s.pause(webHost, "before")
		s.Boot()
		s.paused(webHost, "before")
		s.PowerCut(webHost)
		s.unpause(webHost, "before")
		s.Boot(webHost)
	}, each(1, 1, 1), false},
	{"web boots twice", func(s *trio) { s.Reboot(webHost) }, each(0, 0, 1), false},
	{"app boots twice", func(s *trio) { s.Reboot(appHost) }, each(0, 1, 1), true},
	{"db boots twice", func(s *trio) { s.Reboot(dbHost) }, each(1, 1, 1), false},
	{"db boots twice, by a power cut", func(s *trio) {
		s.PowerCut(dbHost)
		s.Boot(dbHost)
	}, each(1, 1, 1), false},
}
