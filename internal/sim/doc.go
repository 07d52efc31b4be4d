// Package sim proves the protocol on the code that ships. It has tests only: a
// simulated world of hosts, disks, init systems, networks and runners around the
// real step functions gate.Machine, gate.Waiter and run.Run, in one goroutine.
//
// A world offers its moves: whatever may happen next, faults included. Who picks
// the moves makes the proof: a seed (TestSeeds) plays thousands of long, unlucky
// stories, a breadth-first search visits every state of a small one, and a
// regression plays one story again. The invariants are checked after every move,
// on what is truly so and not on what any record says.
//
// What no story is about proves nothing: TestSeeds also counts what happens, and
// fails where a fault, a reply or a verdict has become too rare (coverage_test.go).
//
// To read it: scenario_test.go (what there is, and what may go wrong),
// world_test.go (the moves), invariant_test.go (what must hold), then one file for
// each thing that can fail: node, disk, net, gate, waiter and runner.
package sim
