// Package gate is the target's side of the protocol: what a key may do at a
// host, and how it is done so that nothing is lost and nothing done twice.
//
// [Machine] holds the rules, as a pure step function; [Instance] performs its
// effects on a real unit and a state file; [Gate] puts the policy in front, and
// [Main] is the program. Standard library only, and no package whose start-up
// costs more than the gate's own work.
//
// Each instance has two files in the state folder: NAME.state, replaced as a
// whole by rename and checksummed, and NAME.lock, which is only ever locked.
// The lock is held from before the state is read until after it was written,
// and never while a reply or the log is written. A pool has NAME.pool and
// NAME.pool.lock in the same way. In .gates.PRINCIPAL the gates of a principal
// that are at work each lock a byte.
package gate
