// Package audit looks at a host and judges how well its keys are locked: sshd's
// effective configuration, every file that can hold keys, certificates' trust,
// polkit and sudo, scripts and logs, owners and modes. It needs no site file, and
// the host need never have seen kido.
//
// It collects and judges apart. [Machine.Look] gathers [Facts] and decides
// nothing; [Judge] is pure, and holds them against [Rules]. It promises: nothing
// is changed; no part of a private key leaves the function that looks whether
// it has a passphrase; what could not be read is a finding, never silence. It
// shares no code with package install, whose work it judges.
package audit
