package audit

// Severity is how much a finding matters. Its three words are those of SARIF.
type Severity string

// The severities, the worst first.
const (
	Error   Severity = "error"   // somebody can do what he was not meant to, or kido's lock does not hold
	Warning Severity = "warning" // one more mistake, or one more hole elsewhere, and he can
	Note    Severity = "note"    // a good host does better
)

// Severities lists all of them, the worst first.
func Severities() []Severity { return []Severity{Error, Warning, Note} }

// Rule is something that a host should hold to.
type Rule struct {
	ID       string   `json:"id"`       // stable: scripts and reports name it
	Severity Severity `json:"severity"` // the worst that a finding of it has
	Title    string   `json:"title"`
	Why      string   `json:"why"`    // one sentence
	Source   string   `json:"source"` // who says so
}

// Rules is every rule that [Judge] knows, in the order in which findings are told.
// Where the source is kido's threat table, what the sentence says was seen on a
// real sshd of OpenSSH 9.2 and 10.0.
var Rules = []Rule{
	// The memo's three.
	{"ssh-protocol", Error, "SSH protocol 2 only", "Protocol 1 can be read and changed on its way; OpenSSH before 7.4 speaks it unless told not to.", "OpenSSH 7.4 release notes; Lynis"},
	{"sshd-not-public-key-only", Error, "public keys only", "A password can be guessed, and asked for by a false server; a key cannot.", "CIS Debian 12, 5.1.9 and 5.1.10; Mozilla"},
	{"key-not-locked", Error, "an automation key runs one command", "Whoever steals a key without command= has a shell, or at least a way through this host.", "sshd(8), AUTHORIZED_KEYS FILE FORMAT"},

	// Lines of keys.
	{"key-not-restricted", Warning, "an automation key has restrict", "What the line does not forbid, the key may do beside its command: forwardings, a terminal, ~/.ssh/rc, and what later versions add.", "sshd(8), restrict"},
	{"key-from-anywhere", Warning, "an automation key has from=", "Without from= a stolen key works from every address.", "sshd(8), from"},
	{"key-from-wide", Error, "from= is narrow", "Every machine of the network that from= names can use a stolen key.", "sshd(8), from"},
	{"key-from-name", Warning, "from= has addresses, not names", "sshd matches names only with UseDNS, and then whoever answers for the DNS says who comes.", "sshd_config(5), UseDNS"},
	{"key-from-broken", Error, "sshd takes from=", "sshd lets nobody in by a line whose from= it cannot read, and goes on to the next line of the same key.", "sshd(8), from; kido's threat table"},
	{"key-line-ignored", Warning, "sshd takes the line", "sshd passes over the line, and takes the next one that has the same key, whatever that allows.", "sshd(8), AUTHORIZED_KEYS FILE FORMAT"},
	{"key-duplicate", Error, "a key stands on one line", "sshd goes by the first line whose from= matches, so a second line of the same key lets it do what the first forbids.", "kido's threat table"},
	{"key-bare-beside-locked", Error, "a locked key is locked everywhere", "From an address that the locked line does not name, or as the other user, the bare line of the same key gives a shell.", "kido's threat table"},
	{"key-grants-forwarding", Warning, "an automation key forwards nothing", "A forwarding makes the key a way to other machines, past whatever keeps its holder from them.", "sshd(8), permitopen and port-forwarding"},
	{"key-grants-tunnel", Error, "an automation key opens no tunnel", "tunnel= gives the key's holder a network device at this host.", "sshd(8), tunnel"},
	{"key-environment", Warning, "a line sets no environment", "With PermitUserEnvironment the line sets LD_PRELOAD, BASH_ENV and the like for whatever sshd runs.", "sshd(8), environment"},
	{"key-weak", Error, "keys are strong enough", "RSA below 2048 bits and DSA can be broken, and sshd takes whoever has done it for the key's owner.", "NIST SP 800-57; OpenSSH 7.0 and 10.0 release notes"},
	{"key-short", Note, "keys will be strong enough", "RSA below 3072 bits is less than what is asked of keys beyond 2030.", "NIST SP 800-57"},
	{"key-authority", Error, "a certificate authority in a key file is locked", "Whoever has the authority's key signs himself a key that may do all that the line does not forbid.", "sshd(8), cert-authority"},
	{"key-revoked-kept", Note, "revoked keys are taken out", "The line lets nobody in as long as the list of revoked keys is read, and everybody with the key once it is not.", "sshd_config(5), RevokedKeys"},

	// Files of keys.
	{"key-file-second", Warning, "one file of keys an account", "sshd reads both files, and whoever looks at the first one does not see what the second allows.", "sshd_config(5), AuthorizedKeysFile"},
	{"key-file-owner", Warning, "locked keys are in a file of root's", "Who runs as the account can take the lock off its keys, or add keys of his own.", "kido's threat table; sshd(8), FILES"},
	{"key-file-writable", Error, "nobody else can write the file of keys", "Who can write the file, or a folder above it, can let any key in.", "sshd_config(5), StrictModes"},
	{"key-command", Note, "keys are in files", "What the command answers is not looked at here: keys that nobody sees can come in by it.", "sshd_config(5), AuthorizedKeysCommand"},
	{"revoked-keys-file", Error, "the list of revoked keys can be read", "sshd refuses every key when it cannot read the file, and lets revoked ones in when others can write it.", "sshd_config(5), RevokedKeys"},

	// Certificates.
	{"authority-trusted", Error, "authorities name whom they let in", "Without a file of principals, whoever has the authority's key signs himself in as any user of this host.", "sshd_config(5), TrustedUserCAKeys"},
	{"authority-unlocked", Warning, "a principal is locked", "A certificate without force-command and source-address is as good as a bare key, unless its principal's line has both.", "sshd(8), AUTHORIZED_KEYS FILE FORMAT; kido's threat table"},

	// Private keys.
	{"private-key-unlocked", Error, "a key without passphrase is locked", "Who can read the file has a shell here, for the line of its public half has no command=.", "kido's threat table"},
	{"private-key-readable", Error, "a private key is its owner's alone", "Who else can read a key, or replace it, can be its owner.", "ssh(1), FILES"},
	{"private-key-plain", Note, "a key without passphrase is accounted for", "Who reads the file has the key: each host that takes it must lock it to one command and to this host's address.", "the memo; ssh-keygen(1)"},

	// sshd.
	{"sshd-root-login", Error, "root does not log in", "Whoever logs in as root leaves no trace of who he is, and a guess gives everything at once.", "CIS Debian 12, 5.1.20; Lynis"},
	{"sshd-empty-passwords", Error, "no empty passwords", "An account without a password is open to everybody.", "CIS Debian 12, 5.1.19"},
	{"sshd-user-environment", Error, "no environment from users", "Who can write his own environment gets past a forced command by LD_PRELOAD or BASH_ENV.", "CIS Debian 12, 5.1.21; Lynis"},
	{"sshd-accept-env", Error, "no environment from clients", "What a client sets is there before the forced command runs, and a shell or a library may act on it.", "kido's threat table; sshd_config(5), AcceptEnv"},
	{"sshd-user-rc", Warning, "no ~/.ssh/rc for locked keys", "Who can write the account's ~/.ssh/rc has it run before the forced command.", "CVE-2008-1657; sshd(8), SSHRC"},
	{"sshd-forwarding", Warning, "no forwarding for locked keys", "One line without restrict, and its key reaches every port that this host can.", "CIS Debian 12, 5.1.8; Lynis"},
	{"sshd-tunnel", Warning, "no tunnel devices", "Before OpenSSH 10.5 restrict does not keep a key from opening a network device.", "kido's threat table; sshd_config(5), PermitTunnel"},
	{"sshd-disable-forwarding", Warning, "DisableForwarding does what it says", "Before OpenSSH 10.0 it left X11 and agent forwarding on, and before 10.4 tunnels.", "CVE-2025-32728; CVE-2026-59999"},
	{"sshd-strict-modes", Error, "sshd looks at who owns key files", "Without StrictModes sshd takes keys from files that anybody can write.", "CIS; Lynis"},
	{"sshd-use-dns", Warning, "sshd asks no DNS", "With UseDNS whoever answers for an address's name decides which from= it matches.", "Lynis; sshd_config(5), UseDNS"},
	{"sshd-rhosts", Error, "no trust in hosts", "With .rhosts another machine's word is enough to log in.", "CIS Debian 12, 5.1.11; Lynis"},
	{"sshd-log-level", Warning, "sshd logs which key came", "At a lower level than INFO the log does not say who came, and at INFO not which options and keys were tried.", "Mozilla; Lynis; CIS Debian 12, 5.1.14"},
	{"sshd-max-auth-tries", Note, "few tries a connection", "Each connection may try that many keys and passwords.", "CIS Debian 12, 5.1.16"},
	{"sshd-max-sessions", Note, "few sessions a connection", "One stolen key can start that many programs over one connection.", "CIS Debian 12, 5.1.17"},
	{"sshd-max-startups", Note, "few logins at once", "Many connections that never log in keep those out that would.", "CIS Debian 12, 5.1.18"},
	{"sshd-login-grace", Warning, "little time to log in", "A connection that does not log in holds a slot for that long.", "CIS Debian 12, 5.1.13"},
	{"sshd-kex", Warning, "strong key exchange", "What was recorded can be read once the exchange is broken.", "ssh-audit; CIS Debian 12, 5.1.12"},
	{"sshd-ciphers", Warning, "strong ciphers", "A weak cipher lets parts of a session be read or changed.", "ssh-audit; CIS Debian 12, 5.1.6"},
	{"sshd-macs", Warning, "strong MACs", "A weak MAC makes it easier to change a session on its way.", "ssh-audit; CIS Debian 12, 5.1.15"},
	{"sshd-signatures", Warning, "strong signatures", "Signatures over SHA-1 and of DSA can be forged.", "OpenSSH 8.8 release notes; ssh-audit"},
	{"sshd-cve", Note, "no known holes in sshd", "The version has known holes; a distribution mends them without a new number, so look whether it has.", "OpenSSH security page; ssh-audit"},
	{"sshd-allow-users", Note, "sshd knows who may log in", "Every account with a shell and a key can log in, those that a package makes too.", "CIS Debian 12, 5.1.4"},
	{"sshd-penalties", Note, "penalties spare the automation", "Since OpenSSH 9.8 a few bad tries from an address shut out its good keys too, and with them the restart that is owed.", "kido's threat table; sshd_config(5), PerSourcePenaltyExemptList"},
	{"sshd-config-writable", Error, "nobody else can write sshd's configuration", "Who can write sshd's configuration can let himself in as root.", "CIS Debian 12, 5.1.1"},
	{"sshd-started-with", Note, "sshd's options are in its file", "What sshd is started with comes before its file, and whoever looks at that does not see it.", "sshd(8), -f and -o"},
	{"host-key-readable", Error, "a host key is root's alone", "Who has the host key can be this host to everybody who has pinned it.", "CIS Debian 12, 5.1.2; Lynis"},

	// Accounts.
	{"account-locked", Warning, "accounts of keys are not locked", "Without PAM sshd refuses every key of an account whose password begins with !, and what comes by it is not done.", "sshd(8), AUTHENTICATION"},
	{"account-shell-startup", Warning, "no shell files before a forced command", "sshd has the login shell run the forced command, and bash and zsh first read files from a home that the account can write.", "kido's threat table; bash(1), INVOCATION"},

	// Rights.
	{"polkit-start", Error, "polkit grants no start", "systemd asks for the verb start too when somebody runs a unit of his own making, and that runs as root.", "kido's threat table; systemd 257"},
	{"polkit-any-unit", Error, "polkit grants units by name", "Who may manage units without a name being looked at may manage all of them, and is root.", "kido's threat table"},
	{"polkit-other", Warning, "polkit grants what the policy has", "What the rule grants and the gate's policy does not, or no unit is there for, is a right that nobody looks after.", "kido"},
	{"sudo-wildcard", Error, "sudo commands have no wildcards", "A * matches blanks and slashes as well, so more can be run than is seen.", "sudoers(5), Wildcards; kido's threat table"},
	{"sudo-service", Error, "sudo grants no service command with any name", "service takes a path outside /etc/init.d, and runs it as root.", "kido's threat table"},
	{"sudo-pager", Error, "sudo grants no systemctl that pages", "The pager of systemctl status gives a root shell.", "CVE-2023-26604"},
	{"sudo-any-arguments", Warning, "sudo commands have their arguments", "A command without arguments in sudoers may be given any.", "sudoers(5), Cmnd"},
	{"sudo-all", Error, "no sudo for everything without a password", "Whoever gets the account gets root, and is asked for nothing.", "CIS Debian 12, 5.2.4; Lynis"},
	{"sudo-other", Warning, "sudo grants what the policy has", "What sudo lets the gate do and its policy does not is a right that nobody looks after.", "kido"},
	{"sudo-writable", Error, "nobody else can write sudo's files", "Who can write them is root.", "sudoers(5)"},

	// Scripts and logs.
	{"script-writable", Error, "nobody else can write what root runs", "Who can write a script that root runs, or a folder above it, is root.", "CIS; kido"},
	{"script-trusts-any-host", Error, "a script pins host keys", "A script that takes any host key gives what it sends to whoever answers.", "ssh_config(5), StrictHostKeyChecking"},
	{"log-shared-folder", Warning, "logs are not in folders that all can write", "In such a folder anybody can put a link or a file of his own where the log is to be, and read or forge it.", "the memo; CWE-377"},
	{"log-writable", Warning, "nobody else can write logs", "Who can write a log can take out what he did, or fill the disk.", "CIS Debian 12, 6.1; Lynis"},

	// kido's own.
	{"gate-files", Error, "the gate's files are root's", "Who can write the gate or its policy decides what every key may do.", "kido"},
	{"gate-account", Error, "the gate is its user's login shell", "With another shell, files in the user's home run before the gate.", "kido's threat table"},
	{"gate-sshd", Error, "sshd locks the gate's user", "Without these lines of sshd's configuration a key whose line lost its lock has a shell, or the gate does not know who asks.", "kido's threat table"},
	{"gate-policy", Error, "the gate takes its policy", "The gate refuses everybody while its policy is not good.", "kido"},

	// The audit itself.
	{"not-looked-at", Error, "all was looked at", "What was not looked at may hide anything.", "kido"},
}

func ruleOf(id string) Rule {
	for _, r := range Rules {
		if r.ID == id {
			return r
		}
	}
	return Rule{ID: id, Severity: Error}
}
