package sim

import (
	"fmt"
	"strings"

	"kido/internal/plan"
)

// times end each service of a site file. Patience is short and looks are rare: else
// most moves would be looks.
const (
	timesBegin = ", timeout:"
	times      = timesBegin + " {ready: 30s}, ready: [{tcp: ':1', interval: 5s}]}"
)

// siteOf writes a site file: services as "name hosts: more".
func siteOf(services ...string) string {
	var b strings.Builder
	b.WriteString("site: shop\nhosts: {h1: 192.0.2.1, h2: 192.0.2.2, h3: 192.0.2.3, h4: 192.0.2.4}\nservices:\n")
	for _, s := range services {
		head, more, _ := strings.Cut(s, ": ")
		name, hosts, _ := strings.Cut(head, " ")
		if !strings.Contains(more, "sysv:") {
			more = strings.TrimSuffix("systemd: "+name+".service, "+more, ", ")
		}
		if !strings.Contains(more, "wait:") {
			more += ", wait: {timeout: 60s}"
		}
		fmt.Fprintf(&b, "  %s: {hosts: [%s], %s%s\n", name, hosts, more, times)
	}
	return b.String()
}

// The sites. Those on two kinds of init have scripts on the odd hosts.
var (
	pairSite    = siteOf("db h1", "web h2: after: {db: restart}")
	oldPairSite = siteOf("db h1: sysv: db", "web h2: sysv: web, after: {db: restart}")
	poolSite    = siteOf("db h1", "web h2, h3, h4: after: {db: restart}, max_unavailable: 1, max_failures: 3")
	poolOfTwo   = siteOf("db h1: sysv: db", "web h2, h3, h4: sysv: web, after: {db: restart}, max_unavailable: 2, max_failures: 3")
	diamondSite = siteOf("a h1", "b h2: sysv: b, after: {a: restart}", "c h3: after: {a: restart}", "d h4: after: {b: restart, c: restart}")
	chainSite   = siteOf("a h1", "b h2, h3: after: {a: restart}, max_unavailable: 2, max_failures: 2", "c h2, h3: sysv: c, after: {b: {on_restart: restart, when: same-host}}")
	stopFirst   = siteOf("db h1", "web h2, h3: after: {db: stop-first}")
	mixedSite   = siteOf("db h1, h2", "cache h3: sysv: cache", "web h3, h4: after: {db: {of: any}, cache: {strength: wants}}, max_failures: 2")
	reloadSite  = siteOf("db h1", "web h2: after: {db: reload}", "front h3: sysv: front, after: {web: restart, db: reload}")
	lessSite    = siteOf("db h1", "cache h2", "web h3, h4: after: {db: restart}, max_failures: 2")
	moreSite    = siteOf("db h1", "cache h2", "web h3, h4: after: {db: restart, cache: restart}, max_failures: 2")
	budgetSite  = siteOf("db h1", "web h2, h3: after: {db: restart}, budget: {reactions: 1, within: 10m}", "front h4: sysv: front, after: {web: {of: any}}, budget: {reactions: 2, within: 5m}")
	settleSite  = siteOf("db h1: settle: 30s", "cache h2: sysv: cache, after: {db: restart}, settle: 10s", "web h3: after: {db: reload, cache: restart}")
	afarSite    = strings.Replace(siteOf("db h1", "web h2, h3: after: {db: restart}, max_failures: 2"), "interval: 5s", "interval: 5s, from: dependent", 1)
	leaveSite   = siteOf("db h1", "web h2: after: {db: restart}, wait: {timeout: 20s, otherwise: leave}", "front h3: after: {web: restart}, wait: {timeout: 20s, otherwise: leave}")
)

// op is somebody at a desk on the first host that types one command.
func op(n int, verb plan.Verb, targets ...string) spec {
	return spec{name: fmt.Sprintf("op%d", n), host: "h1", verb: verb, targets: targets}
}

// scenarios are those that seeds play. Which faults there are, and how many, is the
// seed's to say.
var scenarios = []*scenario{
	{name: "pair", text: pairSite, hooks: true, autoRestart: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Up), op(3, plan.Stop, "web")}},
	{name: "old pair", text: oldPairSite, hooks: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Restart, "web"), op(3, plan.Start, "web")}},
	{name: "pool", text: poolSite, hooks: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Restart, "web"), op(3, plan.Up, "web")}},
	{name: "pool of two", text: poolOfTwo, hooks: true, autoRestart: true, runners: []spec{op(1, plan.Announce, "db"), op(2, plan.Reload, "web"), op(3, plan.Down, "db"), op(4, plan.Up)}},
	{name: "diamond", text: diamondSite, hooks: true, runners: []spec{op(1, plan.Restart, "a"), op(2, plan.Restart, "b"), op(3, plan.Up)}},
	{name: "chain", text: chainSite, hooks: true, autoRestart: true, runners: []spec{op(1, plan.Restart, "a"), op(2, plan.Down, "b"), op(3, plan.Up)}},
	{name: "stop first", text: stopFirst, hooks: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Restart, "db"), op(3, plan.Stop, "web@h2")}},
	{name: "any of, and wants", text: mixedSite, hooks: true, runners: []spec{op(1, plan.Restart, "db@h1"), op(2, plan.Restart, "cache"), op(3, plan.Down, "db@h2"), op(4, plan.Up)}},
	{name: "reload", text: reloadSite, hooks: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Reload, "web"), op(3, plan.Up)}},
	{name: "two site files", text: moreSite, other: lessSite, hooks: true, runners: []spec{op(1, plan.Restart, "db"), {name: "op2", host: "h2", verb: plan.Announce, targets: []string{"db"}, other: true}}},
	{name: "budget", text: budgetSite, hooks: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Announce, "db"), op(3, plan.Up)}},
	{name: "settle window", text: settleSite, hooks: true, autoRestart: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Announce, "db"), op(3, plan.Up)}},
	{name: "probes from afar", text: afarSite, hooks: true, autoRestart: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Restart, "web"), op(3, plan.Up)}},
	{name: "otherwise leave", text: leaveSite, hooks: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Up), op(3, plan.Stop, "web")}},
	{name: "restarts inside the unit", text: poolSite, hooks: true, probeWord: true, runners: []spec{op(1, plan.Restart, "db"), op(2, plan.Announce, "db")}},
}
