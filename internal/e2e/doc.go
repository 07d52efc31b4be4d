// Package e2e tests kido end to end: the programs kido and kido-gate as they
// are built, a real sshd for every host, real processes as services. It holds
// tests only.
//
// What the tests believe is not what kido says but what the services saw: each
// notes its own starts, stops and reloads, and the incarnations of its upstreams
// that it connected to, in one file of its site, whose order is the order of
// events. At its end every test has that, the journals of its runs and the records
// held against the invariants by package verify. Nothing that a test starts outlives
// it.
package e2e
