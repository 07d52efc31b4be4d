package audit

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"kido/internal/gate"
	"kido/internal/keys"
)

const (
	edKey   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4FlPK0mfqFYkH4i5j5m6kfuFqpjWnPJDGxqpBgWrUt"
	rsa1024 = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDnhytoFB6fGuycfUHiVlVtzymm0PK2CTgAIzByoGIeLbfqehGD3YCEMCG+iofefdHIRsOPKeQcFo/PE7iUmcW28CUkUs0Ab6MagBUibclAEXzzgVnaARWbPdt0xwaSvAATMzStsTr2KxwQYP9kDJhkovg2+e0579FQnQFMhyX+Ew=="
	locked  = `restrict,from="192.0.2.1",command="/usr/local/sbin/kido-gate" `
)

// hardened is what sshd does at a host to which nothing is to be said.
var hardened = map[string][]string{
	"authenticationmethods": {"publickey"}, "passwordauthentication": {"no"}, "kbdinteractiveauthentication": {"no"}, "pubkeyauthentication": {"yes"},
	"permitrootlogin": {"no"}, "permituserenvironment": {"no"}, "acceptenv": {"LANG LC_*"}, "strictmodes": {"yes"}, "usedns": {"no"}, "ignorerhosts": {"yes"},
	"disableforwarding": {"yes"}, "permittunnel": {"no"}, "permittty": {"no"}, "permituserrc": {"no"}, "usepam": {"yes"},
	"loglevel": {"VERBOSE"}, "maxauthtries": {"4"}, "maxsessions": {"10"}, "maxstartups": {"10:30:60"}, "logingracetime": {"60"}, "allowusers": {"kido", "alice"},
	"authorizedkeysfile": {".ssh/authorized_keys"}, "forcecommand": {"none"}, "persourcepenalties": {"crash:90"}, "persourcepenaltyexemptlist": {"192.0.2.1"},
	"kexalgorithms": {"curve25519-sha256"}, "ciphers": {"aes256-gcm@openssh.com"}, "macs": {"hmac-sha2-256-etm@openssh.com"},
	"pubkeyacceptedalgorithms": {"ssh-ed25519,rsa-sha2-256"}, "hostkeyalgorithms": {"ssh-ed25519"}, "revokedkeys": {"/etc/ssh/kido_revoked"},
}

func chainOf(path string, uid int, mode fs.FileMode) Chain {
	return Chain{{Path: path, UID: uid, Mode: mode}, {Path: "/", Mode: fs.ModeDir | 0o755}}
}

// good is a host where a gate is, and nothing is to be said.
func good() Facts {
	policy := &gate.Policy{Services: []gate.PolicyService{{Name: "web", Adapter: "systemd", Unit: "apache2.service"}, {Name: "old", Adapter: "sysv", Unit: "old"}}, Become: []string{"/usr/bin/sudo", "-n"}}
	f := Facts{
		Accounts: []Account{
			{Name: "root", Home: "/root", Shell: "/bin/bash"},
			{Name: "kido", UID: 998, GID: 998, Home: "/nonexistent", Shell: gateProgram},
			{Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice", Shell: "/bin/bash", OwnGroup: true},
		},
		Server:   &Server{Banner: "OpenSSH_10.5", Major: 10, Minor: 5, Folder: "/etc/ssh/sshd_config.d"},
		KeyFiles: []KeyFile{{Chain: chainOf("/etc/ssh/kido_keys", 0, 0o644), Accounts: []string{"kido"}, Lines: keys.ParseLines(locked + edKey)}},
		Revoked:  []RevokedFile{{Path: "/etc/ssh/kido_revoked", Chain: chainOf("/etc/ssh/kido_revoked", 0, 0o644)}},
		Polkit:   []PolkitRule{{File: "/etc/polkit-1/rules.d/50-kido.rules", Line: 2, Users: []string{"kido"}, AsksUnit: true, Units: map[string][]string{"apache2.service": {"restart"}}}},
		Sudo:     []SudoRule{{File: "/etc/sudoers.d/kido", Line: 3, Who: "kido", RunAs: "root", NoPassword: true, Command: "/etc/init.d/old restart"}},
		Units:    map[string]string{"apache2.service": "apache2.service"},
		Gate:     &Gate{Files: []Chain{chainOf(gateProgram, 0, 0o755)}, Program: true, State: &Node{Path: "/var/lib/kido-gate", UID: 998, Mode: fs.ModeDir | 0o700}, Policy: policy},
	}
	for _, a := range f.Accounts {
		f.Configs = append(f.Configs, Config{User: a.Name, Values: maps.Clone(hardened)})
	}
	f.set("kido", "forcecommand", gateProgram)
	f.set("kido", "exposeauthinfo", "yes")
	f.set("kido", "authorizedkeysfile", "/etc/ssh/kido_keys")
	return f
}

// set changes an option of sshd for a user, "" for all.
func (f *Facts) set(user, keyword string, values ...string) {
	for _, c := range f.Configs {
		if user == "" || c.User == user {
			c.Values[keyword] = values
		}
	}
}

// keysOf adds a file of keys.
func (f *Facts) keysOf(account, path string, uid int, text string) {
	f.KeyFiles = append(f.KeyFiles, KeyFile{Chain: chainOf(path, uid, 0o600), Accounts: []string{account}, Lines: keys.ParseLines(text)})
}

const otherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINFqDX3E1gVAoFTNJmbuwvYSlQ7WSXnLOrMX0kPPd29r"

// judged are the cases of Judge: what is changed at a good host, and what is found.
var judged = []struct {
	name   string
	change func(*Facts)
	want   []string // SEVERITY RULE PLACE | some of what was found; sorted as findings are
}{
	{"a good host", func(*Facts) {}, nil},
	{"an old sshd", func(f *Facts) { f.Server.Major, f.Server.Minor = 7, 3; f.set("", "protocol", "2,1") }, []string{"error ssh-protocol sshd: Protocol | protocol 2,1", "note sshd-cve sshd | CVE-2023-48795"}},
	{"7.4 needs no Protocol", func(f *Facts) { f.Server.Major, f.Server.Minor = 7, 4 }, []string{"note sshd-cve sshd | CVE-2023-48795"}},
	{"holes", func(f *Facts) { f.Server.Major, f.Server.Minor = 9, 6 }, []string{"note sshd-cve sshd | CVE-2024-6387", "note sshd-cve sshd | CVE-2025-26466"}},
	{"passwords for persons", func(f *Facts) {
		f.set("alice", "authenticationmethods", "any")
		f.set("alice", "passwordauthentication", "yes")
	}, []string{"warning sshd-not-public-key-only sshd: PasswordAuthentication (user alice) | PasswordAuthentication yes"}},
	{"passwords for a program's account", func(f *Facts) {
		f.set("kido", "authenticationmethods", "publickey keyboard-interactive")
		f.set("kido", "kbdinteractiveauthentication", "yes")
	}, []string{
		"error sshd-not-public-key-only sshd: KbdInteractiveAuthentication (user kido) | KbdInteractiveAuthentication yes",
		"error gate-sshd sshd: Match User kido (user kido) | AuthenticationMethods publickey",
	}},
	{"a password behind a key", func(f *Facts) {
		f.set("alice", "authenticationmethods", "publickey,password")
		f.set("alice", "passwordauthentication", "yes")
	}, nil},
	{"passwords that root may not use", func(f *Facts) {
		f.set("root", "authenticationmethods", "any")
		f.set("root", "passwordauthentication", "yes")
		f.set("root", "permitrootlogin", "without-password")
	}, []string{"warning sshd-root-login sshd: PermitRootLogin (user root) | without-password"}},
	{"root logs in", func(f *Facts) { f.set("root", "permitrootlogin", "yes") }, []string{"error sshd-root-login sshd: PermitRootLogin (user root) | yes"}},
	{"no public keys", func(f *Facts) {
		f.set("alice", "authenticationmethods", "any")
		f.set("alice", "pubkeyauthentication", "no")
	}, []string{"warning sshd-not-public-key-only sshd: PubkeyAuthentication (user alice) | PubkeyAuthentication no"}},

	{"a bare key of root's", func(f *Facts) { f.keysOf("root", "/root/.ssh/authorized_keys", 0, otherKey) }, []string{"error key-not-locked /root/.ssh/authorized_keys:1 | it lets in root"}},
	{"a bare key of a person's", func(f *Facts) { f.keysOf("alice", "/home/alice/.ssh/authorized_keys", 1000, otherKey) }, []string{"note key-not-locked /home/alice/.ssh/authorized_keys:1 | a person's"}},
	{"a bare key whose private half is here", func(f *Facts) {
		f.keysOf("alice", "/home/alice/.ssh/authorized_keys", 1000, otherKey)
		f.PrivateKeys = []PrivateKey{{Chain: chainOf("/root/.ssh/id", 0, 0o600), Key: blob(otherKey)}}
	}, []string{
		"error key-not-locked /home/alice/.ssh/authorized_keys:1 | without a passphrase",
		"error private-key-unlocked /root/.ssh/id | /home/alice/.ssh/authorized_keys:1 lets its holder in as alice",
		"warning key-file-owner /home/alice/.ssh/authorized_keys | alice can change",
	}},
	{"the same with a passphrase", func(f *Facts) {
		f.keysOf("alice", "/home/alice/.ssh/authorized_keys", 1000, otherKey)
		f.PrivateKeys = []PrivateKey{{Chain: chainOf("/root/.ssh/id", 0, 0o600), Key: blob(otherKey), Encrypted: true}}
	}, []string{"note key-not-locked /home/alice/.ssh/authorized_keys:1 | a person's"}},
	{"a key without passphrase that is used elsewhere", func(f *Facts) {
		f.PrivateKeys = []PrivateKey{{Chain: chainOf("/root/.ssh/id", 0, 0o600), Key: blob(otherKey)}}
	}, []string{"note private-key-plain /root/.ssh/id | no passphrase"}},
	{"a private key that others can read", func(f *Facts) {
		f.PrivateKeys = []PrivateKey{{Chain: chainOf("/root/.ssh/id", 0, 0o644), Encrypted: true}}
	}, []string{"error private-key-readable /root/.ssh/id | mode 0644"}},
	{"sshd's own lock", func(f *Facts) { f.KeyFiles[0].Lines = keys.ParseLines(edKey) }, []string{
		"warning key-not-restricted /etc/ssh/kido_keys:1 | port forwarding, agent forwarding, X11 forwarding, a terminal, ~/.ssh/rc",
		"warning key-from-anywhere /etc/ssh/kido_keys:1 | every address",
	}},
	{"the memo's line", func(f *Facts) {
		f.keysOf("root", "/root/.ssh/authorized_keys", 0, `from="192.168.0.100",no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty,command="/etc/init.d/httpd restart" `+rsa1024)
		f.set("root", "permituserrc", "yes")
		f.set("root", "disableforwarding", "no")
	}, []string{
		"error key-weak /root/.ssh/authorized_keys:1 | 1024 bits",
		"warning key-not-restricted /root/.ssh/authorized_keys:1 | may use: ~/.ssh/rc",
		"warning sshd-user-rc sshd: PermitUserRC (user root) | PermitUserRC yes",
		"note sshd-forwarding sshd: DisableForwarding (user root) | only the lines",
		"note account-shell-startup /etc/passwd (user root) | bash runs the forced command",
	}},
	{"all forbidden, one by one", func(f *Facts) {
		f.KeyFiles[0].Lines = keys.ParseLines(strings.Replace(locked, "restrict", "no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty,no-user-rc", 1) + edKey)
	}, []string{"warning key-not-restricted /etc/ssh/kido_keys:1 | later versions"}},
	{"restrict, taken back", func(f *Facts) {
		f.KeyFiles[0].Lines = keys.ParseLines(strings.Replace(locked, "restrict", `restrict,pty,tunnel="1",permitopen="db:5432"`, 1) + edKey)
	}, []string{
		"error key-grants-tunnel /etc/ssh/kido_keys:1 | device 1",
		"warning key-grants-forwarding /etc/ssh/kido_keys:1 | may use a terminal",
		"warning key-grants-forwarding /etc/ssh/kido_keys:1 | db:5432",
	}},
	{"wide from=", func(f *Facts) {
		f.KeyFiles[0].Lines = keys.ParseLines(strings.Replace(locked, "192.0.2.1", "192.0.0.0/16,*,10.*,2001:db8::/32,192.0.2.0/24", 1) + edKey)
	}, []string{
		"error key-from-wide /etc/ssh/kido_keys:1 | from= has *, which is every address",
		"warning key-from-wide /etc/ssh/kido_keys:1 | 192.0.0.0/16",
		"warning key-from-wide /etc/ssh/kido_keys:1 | 10.*",
		"warning key-from-wide /etc/ssh/kido_keys:1 | 2001:db8::/32",
	}},
	{"a name in from=", func(f *Facts) {
		f.KeyFiles[0].Lines = keys.ParseLines(strings.Replace(locked, "192.0.2.1", "db1.example.com,!*.example.net", 1) + edKey)
	}, []string{"warning key-from-name /etc/ssh/kido_keys:1 | db1.example.com"}},
	{"host bits in from=", func(f *Facts) {
		f.KeyFiles[0].Lines = keys.ParseLines(strings.Replace(locked, "192.0.2.1", "127.0.0.1/8", 1) + edKey)
	}, []string{"warning key-from-broken /etc/ssh/kido_keys:1 | host bits"}},
	{"an unknown option", func(f *Facts) {
		f.KeyFiles[0].Lines = keys.ParseLines("no-pty-forwarding," + locked + edKey)
	}, []string{"warning key-line-ignored /etc/ssh/kido_keys:1 | -forwarding"}},
	{"environment", func(f *Facts) {
		f.KeyFiles[0].Lines = keys.ParseLines(`environment="SECRET=x",` + locked + edKey)
	}, []string{"warning key-environment /etc/ssh/kido_keys:1 | sets SECRET"}},
	{"a duplicate", func(f *Facts) { f.KeyFiles[0].Lines = keys.ParseLines(locked + edKey + "\n" + locked + edKey) }, []string{"error key-duplicate /etc/ssh/kido_keys:2 | /etc/ssh/kido_keys:1"}},
	{"a person with two accounts", func(f *Facts) {
		f.keysOf("alice", "/home/alice/.ssh/authorized_keys", 1000, otherKey+"\n"+otherKey)
	}, []string{
		"warning key-duplicate /home/alice/.ssh/authorized_keys:2 | authorized_keys:1",
		"note key-not-locked /home/alice/.ssh/authorized_keys:1 | person",
		"note key-not-locked /home/alice/.ssh/authorized_keys:2 | person",
	}},
	{"a bare line beside a locked one", func(f *Facts) {
		f.keysOf("alice", "/home/alice/.ssh/authorized_keys", 1000, edKey)
	}, []string{
		"error key-bare-beside-locked /home/alice/.ssh/authorized_keys:1 | locked at /etc/ssh/kido_keys:1",
		"note key-not-locked /home/alice/.ssh/authorized_keys:1 | person",
	}},
	{"a short key", func(f *Facts) {
		l := &f.KeyFiles[0].Lines[0]
		l.Key.Type, l.Key.Bits = "ssh-rsa", 2048
	}, []string{"note key-short /etc/ssh/kido_keys:1 | 2048 bits"}},
	{"a DSA key", func(f *Facts) {
		l := &f.KeyFiles[0].Lines[0]
		l.Key.Type, l.Key.Bits = "ssh-dss", 1024
	}, []string{"error key-weak /etc/ssh/kido_keys:1 | DSA"}},
	{"an authority in a key file", func(f *Facts) {
		f.keysOf("alice", "/home/alice/.ssh/authorized_keys", 1000, "cert-authority "+otherKey)
	}, []string{"error key-authority /home/alice/.ssh/authorized_keys:1 | may run anything"}},
	{"an authority without addresses", func(f *Facts) {
		f.keysOf("kido", "/etc/ssh/more", 0, "cert-authority "+otherKey)
	}, []string{"warning key-authority /etc/ssh/more:1 | from every address"}},
	{"a revoked key that is still there", func(f *Facts) {
		f.Revoked[0].Keys = map[string]bool{blob(edKey).Fingerprint: true}
	}, []string{"note key-revoked-kept /etc/ssh/kido_keys:1 | revoked"}},

	{"a second file", func(f *Facts) { f.KeyFiles[0].Second = true }, []string{"warning key-file-second /etc/ssh/kido_keys | 1 keys"}},
	{"two names of files", func(f *Facts) { f.set("", "authorizedkeysfile", ".ssh/authorized_keys .ssh/authorized_keys2") }, []string{
		"error gate-sshd sshd: Match User kido (user kido) | AuthorizedKeysFile",
		"note key-file-second sshd: AuthorizedKeysFile | authorized_keys2",
	}},
	{"a locked key in a file of its account's", func(f *Facts) { f.KeyFiles[0].Chain[0].UID = 998 }, []string{"warning key-file-owner /etc/ssh/kido_keys | kido can change"}},
	{"a key file of another's", func(f *Facts) { f.KeyFiles[0].Chain[0].UID = 1000 }, []string{"error key-file-writable /etc/ssh/kido_keys | belongs to alice"}},
	{"a key file that everybody can write", func(f *Facts) { f.KeyFiles[0].Chain[0].Mode = 0o646 }, []string{"error key-file-writable /etc/ssh/kido_keys | everybody"}},
	{"a folder that a group can write", func(f *Facts) { f.KeyFiles[0].Chain[1].Mode, f.KeyFiles[0].Chain[1].GID = fs.ModeDir|0o775, 50 }, []string{"error key-file-writable / | group 50"}},
	{"an account's own group", func(f *Facts) {
		f.keysOf("alice", "/home/alice/.ssh/authorized_keys", 1000, otherKey)
		f.KeyFiles[1].Chain[0].Mode, f.KeyFiles[1].Chain[0].GID = 0o664, 1000
	}, []string{"note key-not-locked /home/alice/.ssh/authorized_keys:1 | person"}},
	{"a sticky folder", func(f *Facts) { f.KeyFiles[0].Chain[1].Mode = fs.ModeDir | fs.ModeSticky | 0o777 }, nil},
	{"a command for keys", func(f *Facts) { f.set("alice", "authorizedkeyscommand", "/usr/bin/keys") }, []string{"note key-command sshd: AuthorizedKeysCommand (user alice) | /usr/bin/keys"}},
	{"no list of revoked keys", func(f *Facts) { f.Revoked[0].Chain, f.Revoked[0].Why = nil, "no such file" }, []string{"error revoked-keys-file /etc/ssh/kido_revoked | no such file"}},
	{"a list of revoked keys that others write", func(f *Facts) { f.Revoked[0].Chain[0].Mode = 0o666 }, []string{"error revoked-keys-file /etc/ssh/kido_revoked | everybody"}},

	{"an authority for everybody", func(f *Facts) { f.set("alice", "trustedusercakeys", "/etc/ssh/ca") }, []string{"error authority-trusted sshd: TrustedUserCAKeys (user alice) | may be any user"}},
	{"an authority for everybody, to one command", func(f *Facts) { f.set("kido", "trustedusercakeys", "/etc/ssh/ca") }, []string{"warning authority-trusted sshd: TrustedUserCAKeys (user kido) | any user"}},
	{"an authority with principals from a command", func(f *Facts) {
		f.set("alice", "trustedusercakeys", "/etc/ssh/ca")
		f.set("alice", "authorizedprincipalscommand", "/usr/bin/who")
	}, []string{"note key-command sshd: AuthorizedPrincipalsCommand (user alice) | /usr/bin/who"}},
	{"kido's principals", func(f *Facts) { f.principals(locked + "host/db1") }, nil},
	{"a bare principal", func(f *Facts) { f.principals("host/db1") }, []string{"warning authority-unlocked /etc/ssh/kido_principals:1 | host/db1"}},
	{"an authority's file that others write", func(f *Facts) {
		f.Authorities = []AuthorityFile{{Chain: chainOf("/etc/ssh/ca", 0, 0o666), Keys: keys.ParseLines(rsa1024)}}
	}, []string{"error key-weak /etc/ssh/ca:1 | 1024", "error key-file-writable /etc/ssh/ca | lets sign"}},

	{"empty passwords", func(f *Facts) { f.set("", "permitemptypasswords", "yes") }, []string{"error sshd-empty-passwords sshd: PermitEmptyPasswords | yes"}},
	{"environment from users", func(f *Facts) { f.set("", "permituserenvironment", "LANG") }, []string{"error sshd-user-environment sshd: PermitUserEnvironment | LANG"}},
	{"environment from clients", func(f *Facts) { f.set("", "acceptenv", "LANG", "LC_*", "GIT_*") }, []string{"warning sshd-accept-env sshd: AcceptEnv | AcceptEnv GIT_*"}},
	{"preloads from clients", func(f *Facts) { f.set("", "acceptenv", "LD_*") }, []string{"error sshd-accept-env sshd: AcceptEnv | LD_*"}},
	{"Debian's colours", func(f *Facts) { f.set("", "acceptenv", "LANG LC_* COLORTERM NO_COLOR") }, nil},
	{"forwarding for programs", func(f *Facts) {
		f.KeyFiles[0].Lines = keys.ParseLines(strings.Replace(locked, "restrict", "restrict,port-forwarding", 1) + edKey)
		f.set("kido", "disableforwarding", "no")
	}, []string{
		"error gate-sshd sshd: Match User kido (user kido) | DisableForwarding yes",
		"warning key-grants-forwarding /etc/ssh/kido_keys:1 | port forwarding",
		"warning sshd-forwarding sshd: DisableForwarding (user kido) | not every line",
	}},
	{"tunnels", func(f *Facts) { f.set("kido", "permittunnel", "yes") }, []string{
		"error gate-sshd sshd: Match User kido (user kido) | PermitTunnel no",
		"warning sshd-tunnel sshd: PermitTunnel (user kido) | yes",
	}},
	{"DisableForwarding that does not", func(f *Facts) {
		f.Server.Major, f.Server.Minor = 9, 2
		f.set("kido", "x11forwarding", "yes")
		f.KeyFiles[0].Lines = keys.ParseLines(strings.Replace(locked, "restrict", "restrict,x11-forwarding", 1) + edKey)
	}, []string{
		"warning key-grants-forwarding /etc/ssh/kido_keys:1 | X11",
		"warning sshd-disable-forwarding sshd: DisableForwarding (user kido) | yes",
		"note sshd-cve sshd | CVE-2023-48795", "note sshd-cve sshd | CVE-2024-6387",
	}},
	{"no StrictModes", func(f *Facts) { f.set("", "strictmodes", "no") }, []string{"error sshd-strict-modes sshd: StrictModes | no"}},
	{"UseDNS", func(f *Facts) { f.set("", "usedns", "yes") }, []string{"warning sshd-use-dns sshd: UseDNS | yes"}},
	{"rhosts", func(f *Facts) { f.set("", "ignorerhosts", "no") }, []string{"error sshd-rhosts sshd: IgnoreRhosts | no"}},
	{"a quiet log", func(f *Facts) { f.set("", "loglevel", "QUIET") }, []string{"warning sshd-log-level sshd: LogLevel | QUIET"}},
	{"Debian's log", func(f *Facts) { f.set("", "loglevel", "INFO") }, []string{"note sshd-log-level sshd: LogLevel | INFO"}},
	{"Debian's limits", func(f *Facts) {
		f.set("", "maxauthtries", "6")
		f.set("", "maxsessions", "11")
		f.set("", "maxstartups", "10:30:100")
		f.set("", "logingracetime", "120")
	}, []string{
		"note sshd-max-auth-tries sshd: MaxAuthTries | 6", "note sshd-max-sessions sshd: MaxSessions | 11",
		"note sshd-max-startups sshd: MaxStartups | 10:30:100", "note sshd-login-grace sshd: LoginGraceTime | 120",
	}},
	{"time without end", func(f *Facts) { f.set("", "logingracetime", "0") }, []string{"warning sshd-login-grace sshd: LoginGraceTime | 0"}},
	{"weak algorithms", func(f *Facts) {
		f.set("", "kexalgorithms", "curve25519-sha256,diffie-hellman-group14-sha1")
		f.set("", "ciphers", "aes128-cbc,3des-cbc")
		f.set("", "macs", "hmac-md5,hmac-sha1,hmac-sha1-96")
		f.set("", "pubkeyacceptedalgorithms", "ssh-ed25519,ssh-rsa")
	}, []string{
		"warning sshd-kex sshd: KexAlgorithms | diffie-hellman-group14-sha1", "warning sshd-ciphers sshd: Ciphers | aes128-cbc,3des-cbc",
		"warning sshd-macs sshd: MACs | MACs has hmac-md5,hmac-sha1-96", "warning sshd-signatures sshd: PubkeyAcceptedAlgorithms | ssh-rsa",
		"note sshd-macs sshd: MACs | MACs has hmac-sha1",
	}},
	{"anybody may log in", func(f *Facts) {
		for _, c := range f.Configs {
			delete(c.Values, "allowusers")
		}
	}, []string{"note sshd-allow-users sshd: AllowUsers | neither"}},
	{"penalties", func(f *Facts) { f.set("", "persourcepenaltyexemptlist", "none") }, []string{"note sshd-penalties sshd: PerSourcePenaltyExemptList | no address is spared"}},
	{"sshd_config that others write", func(f *Facts) { f.Server.ConfigFiles = []Chain{chainOf(sshdConfig, 0, 0o666)} }, []string{"error sshd-config-writable /etc/ssh/sshd_config | everybody"}},
	{"two files in a folder that others write", func(f *Facts) {
		f.Server.ConfigFiles = []Chain{chainOf(sshdConfig, 0, 0o600), chainOf("/etc/ssh/a.conf", 0, 0o600)}
		for _, c := range f.Server.ConfigFiles {
			c[1] = Node{Path: "/etc/ssh", Mode: fs.ModeDir | 0o777}
		}
	}, []string{"error sshd-config-writable /etc/ssh | everybody"}},
	{"sshd with options of its own", func(f *Facts) {
		f.Server.Started = []Started{{Place{File: "/etc/default/ssh", Line: 5}, "-o\x00PermitRootLogin=yes"}}
	}, []string{"note sshd-started-with /etc/default/ssh:5 | -o PermitRootLogin=yes"}},
	{"a host key that others read", func(f *Facts) {
		f.Server.HostKeys = []HostKey{{chainOf("/etc/ssh/ssh_host_rsa_key", 0, 0o644), blob(rsa1024)}}
	}, []string{"error key-weak /etc/ssh/ssh_host_rsa_key | 1024 bits", "error host-key-readable /etc/ssh/ssh_host_rsa_key | 0644"}},
	{"another address", func(f *Facts) {
		c := Config{User: "kido", From: "from 192.0.2.1", Values: maps.Clone(f.Configs[1].Values)}
		c.Values["loglevel"] = []string{"QUIET"}
		f.Configs = append(f.Configs, c)
	}, []string{"warning sshd-log-level sshd: LogLevel (user kido from 192.0.2.1) | QUIET"}},

	{"a locked account", func(f *Facts) { f.Accounts[1].Locked = true; f.set("", "usepam", "no") }, []string{"warning account-locked /etc/shadow (user kido) | begins with !"}},
	{"a locked account, and PAM", func(f *Facts) { f.Accounts[1].Locked = true }, nil},
	{"bash before a forced command", func(f *Facts) {
		f.keysOf("alice", "/etc/ssh/keys/alice", 0, locked+otherKey)
	}, []string{"warning account-shell-startup /etc/passwd (user alice) | /home/alice"}},

	{"polkit without a unit", func(f *Facts) {
		f.Polkit = append(f.Polkit, PolkitRule{File: "/etc/polkit-1/rules.d/a.rules", Line: 1, Users: []string{"deploy"}, Start: true})
	}, []string{"error polkit-any-unit /etc/polkit-1/rules.d/a.rules:1 | deploy"}},
	{"polkit with start", func(f *Facts) { f.Polkit[0].Start = true }, []string{"error polkit-start /etc/polkit-1/rules.d/50-kido.rules:2 | start"}},
	{"polkit for what is not there", func(f *Facts) { f.Units["apache2.service"] = "" }, []string{"warning polkit-other /etc/polkit-1/rules.d/50-kido.rules:2 | no unit apache2.service"}},
	{"polkit for what the policy has not", func(f *Facts) { f.Polkit[0].Units["ssh.service"] = []string{"stop"} }, []string{"warning polkit-other /etc/polkit-1/rules.d/50-kido.rules:2 | no service of the unit ssh.service"}},
	{"polkit for an alias", func(f *Facts) {
		f.Gate.Policy.Services[0].Unit = "web.service"
		f.Units["web.service"] = "apache2.service"
	}, nil},
	{"sudo in the place of polkit", func(f *Facts) { f.Polkit = nil; f.sudoAdd("kido", "/usr/bin/systemctl restart apache2.service") }, nil},
	{"sudo for systemctl, of another unit", func(f *Facts) { f.sudoAdd("kido", "/usr/bin/systemctl restart ssh.service") }, []string{"warning sudo-other /etc/sudoers:1 | ssh.service"}},
	{"polkit lacks what the policy has", func(f *Facts) { f.Polkit = nil }, []string{"warning polkit-other /etc/kido/policy | apache2.service"}},

	{"sudo with a wildcard", func(f *Facts) { f.sudoAdd("deploy", "/etc/init.d/db* restart") }, []string{"error sudo-wildcard /etc/sudoers:1 | db*"}},
	{"a wildcard that is none", func(f *Facts) { f.sudoAdd("deploy", `/bin/echo \*`) }, nil},
	{"sudo service", func(f *Facts) { f.sudoAdd("deploy", "/usr/sbin/service * restart") }, []string{"error sudo-service /etc/sudoers:1 | service *"}},
	{"sudo with a pager", func(f *Facts) { f.sudoAdd("deploy", "/usr/bin/systemctl status apache2") }, []string{"error sudo-pager /etc/sudoers:1 | status"}},
	{"sudo without arguments", func(f *Facts) { f.sudoAdd("deploy", "/usr/bin/apt-get") }, []string{"warning sudo-any-arguments /etc/sudoers:1 | apt-get"}},
	{"sudo for all", func(f *Facts) { f.sudoAdd("deploy", "ALL") }, []string{"warning sudo-all /etc/sudoers:1 | ALL"}},
	{"sudo for all, for anybody", func(f *Facts) { f.sudoAdd("ALL", "ALL") }, []string{"error sudo-all /etc/sudoers:1 | ALL may run"}},
	{"sudo for all, for a program", func(f *Facts) {
		f.keysOf("alice", "/etc/ssh/keys/alice", 0, locked+otherKey)
		f.Accounts[2].Shell = "/bin/sh"
		f.sudoAdd("alice", "ALL")
	}, []string{"error sudo-all /etc/sudoers:1 | by the keys of alice"}},
	{"sudo for all, for a program's group", func(f *Facts) {
		f.keysOf("alice", "/etc/ssh/keys/alice", 0, locked+otherKey)
		f.Accounts[2].Shell = "/bin/sh"
		f.Groups = map[string][]string{"ops": {"alice"}}
		f.sudoAdd("%ops", "ALL")
		f.sudoAdd("%others", "ALL")
	}, []string{"error sudo-all /etc/sudoers:1 | %ops", "warning sudo-all /etc/sudoers:1 | %others"}},
	{"sudo for all, for a person", func(f *Facts) {
		f.keysOf("alice", "/home/alice/.ssh/authorized_keys", 0, otherKey)
		f.sudoAdd("alice", "ALL")
	}, []string{"warning sudo-all /etc/sudoers:1 | alice", "note key-not-locked /home/alice/.ssh/authorized_keys:1 | person"}},
	{"sudo for all, for root", func(f *Facts) {
		f.keysOf("root", "/etc/ssh/keys/root", 0, locked+otherKey)
		f.Accounts[0].Shell = "/bin/sh"
		f.Groups = map[string][]string{"wheel": {"root"}}
		f.sudoAdd("%wheel", "ALL")
	}, []string{"warning sudo-all /etc/sudoers:1 | %wheel"}},
	{"sudo with a password", func(f *Facts) { f.sudoAdd("%sudo", "ALL"); f.Sudo[1].NoPassword = false }, nil},
	{"sudo for what the policy has not", func(f *Facts) { f.sudoAdd("kido", "/etc/init.d/other restart") }, []string{"warning sudo-other /etc/sudoers:1 | other"}},
	{"sudo lacks what the policy has", func(f *Facts) { f.Sudo = nil }, []string{"warning sudo-other /etc/kido/policy | old"}},
	{"sudoers that others write", func(f *Facts) { f.SudoFiles = []Chain{chainOf("/etc/sudoers", 0, 0o442)} }, []string{"error sudo-writable /etc/sudoers | everybody"}},

	{"a script that others write", func(f *Facts) {
		f.Scripts = []Script{{Chain: chainOf("/etc/init.d/a", 1000, 0o755), ByRoot: true}, {Chain: chainOf("/var/spool/cron/crontabs/alice", 1000, 0o600)}}
	}, []string{"error script-writable /etc/init.d/a | belongs to alice"}},
	{"a script that calls ssh", func(f *Facts) {
		f.Scripts = []Script{{Chain: chainOf("/etc/init.d/a", 0, 0o755), Calls: []Call{{Line: 1, AnyHost: "StrictHostKeyChecking=no"}, {Line: 2, AnyHost: "StrictHostKeyChecking=accept-new"}, {Line: 3}, {Line: 4, Strict: true}}}}
	}, []string{
		"error script-trusts-any-host /etc/init.d/a:1 | =no",
		"warning script-trusts-any-host /etc/init.d/a:2 | accept-new",
		"note script-trusts-any-host /etc/init.d/a:3 | leaves open",
	}},
	{"logs that others write", func(f *Facts) {
		f.Scripts = []Script{{Chain: chainOf("/etc/init.d/a", 0, 0o755), Logs: []LogWrite{{9, "/tmp/err.log"}, {10, "/var/log/a.log"}}}}
		f.Logs = []Node{{Path: "/var/log/a.log", Mode: 0o666}}
	}, []string{"warning log-shared-folder /etc/init.d/a:9 | /tmp/err.log", "warning log-writable /var/log/a.log | 0666"}},

	{"a gate that others write", func(f *Facts) { f.Gate.Files[0][0].Mode = 0o777 }, []string{"error gate-files /usr/local/sbin/kido-gate | everybody"}},
	{"a state folder that others read", func(f *Facts) { f.Gate.State.Mode = fs.ModeDir | 0o755 }, []string{"error gate-files /var/lib/kido-gate | 0755"}},
	{"another login shell", func(f *Facts) { f.Accounts[1].Shell = "/bin/sh" }, []string{"error gate-account /etc/passwd (user kido) | /bin/sh"}},
	{"a home of the gate's user", func(f *Facts) { f.Gate.Home = &Node{Path: "/home/kido", UID: 998} }, []string{"warning gate-account /home/kido | belongs to kido"}},
	{"a bad policy", func(f *Facts) { f.Gate.Policy, f.Gate.PolicyErr = nil, "line 3: no" }, []string{"error gate-policy /etc/kido/policy | line 3"}},
	{"a runner's host", func(f *Facts) {
		f.Accounts = slices.Delete(f.Accounts, 1, 2)
		f.KeyFiles, f.Polkit, f.Sudo = nil, nil, nil
		f.Gate.Policy, f.Gate.PolicyErr = nil, "there is none"
	}, nil},
	{"a host without kido", func(f *Facts) {
		f.Accounts = slices.Delete(f.Accounts, 1, 2)
		f.Configs = slices.Delete(f.Configs, 1, 2)
		f.KeyFiles, f.Polkit, f.Sudo, f.Gate = nil, nil, nil, nil
	}, nil},
	{"a host without sshd", func(f *Facts) { f.Server, f.Configs = nil, nil }, nil},
	{"nothing could be read", func(f *Facts) {
		*f = Facts{Unread: []Unread{{Place{File: "/etc/passwd"}, fs.ErrPermission, true}}}
	}, []string{"error not-looked-at /etc/passwd | permission denied"}},
	{"sshd does not say what it does", func(f *Facts) {
		f.Configs = nil
		f.Unread = []Unread{{Place{File: sshdConfig}, errors.New("its effective configuration is not known"), true}, {Place{File: "/var/log/x"}, fs.ErrPermission, false}}
	}, []string{"error not-looked-at /etc/ssh/sshd_config | not known", "warning not-looked-at /var/log/x | denied"}},
	{"accounts of a directory", func(f *Facts) {
		f.Elsewhere = []Elsewhere{{Place{File: "/etc/nsswitch.conf", Line: 2}, "passwd", []string{"sss", "ldap"}}, {Place{File: "/etc/nsswitch.conf", Line: 3}, "sudoers", []string{"sss"}}}
	}, []string{"warning not-looked-at /etc/nsswitch.conf:2 | accounts that come from sss, ldap", "warning not-looked-at /etc/nsswitch.conf:3 | sudo's rules that come from sss"}},
}

func blob(public string) keys.Blob {
	key, err := keys.ParseBlob(public)
	if err != nil {
		panic(err)
	}
	return key
}

func (f *Facts) sudoAdd(who, command string) {
	f.Sudo = append(f.Sudo, SudoRule{File: "/etc/sudoers", Line: 1, Who: who, RunAs: "root", NoPassword: true, Command: command})
}

// principals has sshd trust an authority for the gate's user.
func (f *Facts) principals(text string) {
	f.set("kido", "trustedusercakeys", "/etc/ssh/kido_authorities")
	f.set("kido", "authorizedprincipalsfile", "/etc/ssh/kido_principals")
	file := KeyFile{Chain: chainOf("/etc/ssh/kido_principals", 0, 0o644), Accounts: []string{"kido"}}
	parsePrincipals(text, &file)
	f.Principals = append(f.Principals, file)
}

// TestJudge: each rule finds what it is for, there, and nothing else does.
func TestJudge(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range judged {
		f := good()
		c.change(&f)
		found := Judge(f)
		var got []string
		for _, x := range found {
			seen[x.Rule] = true
			got = append(got, string(x.Severity)+" "+x.Rule+" "+x.Place.String()+" | "+x.Found)
			if r := ruleOf(x.Rule); x.Severity.rank() < r.Severity.rank() || r.Title == "" {
				t.Errorf("%s: %s is %s, the rule is at most %s", c.name, x.Rule, x.Severity, r.Severity)
			}
			if x.Found == "" || x.Why == "" || x.Mend == "" {
				t.Errorf("%s: %s does not say all: %+v", c.name, x.Rule, x)
			}
		}
		ok := len(got) == len(c.want)
		for i := range min(len(got), len(c.want)) {
			place, found, _ := strings.Cut(c.want[i], " | ")
			ok = ok && strings.HasPrefix(got[i], place+" | ") && strings.Contains(got[i], found)
		}
		if !ok {
			t.Errorf("%s:\n got %s\nwant %s", c.name, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
	for _, r := range Rules {
		if !seen[r.ID] {
			t.Errorf("no case finds anything by the rule %s", r.ID)
		}
	}
}

// TestRules: each rule says all, once, and its why is one sentence.
func TestRules(t *testing.T) {
	t.Parallel()
	ids := map[string]bool{}
	for _, r := range Rules {
		if ids[r.ID] || r.Title == "" || r.Source == "" || r.Severity.rank() < 0 {
			t.Errorf("%+v", r)
		}
		if !strings.HasSuffix(r.Why, ".") || strings.Contains(r.Why, ". ") {
			t.Errorf("%s: not one sentence: %s", r.ID, r.Why)
		}
		ids[r.ID] = true
	}
}

// TestMendsLeaveAWayIn: what is to be done about logins says how not to be shut out,
// and goes by what is there.
func TestMendsLeaveAWayIn(t *testing.T) {
	t.Parallel()
	mends := func(line string) string {
		f := good()
		f.Server.Service = "sshd"
		f.set("root", "permitrootlogin", "yes")
		f.set("alice", "authenticationmethods", "any")
		f.set("alice", "passwordauthentication", "yes")
		delete(f.Configs[0].Values, "allowusers")
		f.keysOf("root", "/root/.ssh/authorized_keys", 0, line)
		all := ""
		for _, x := range Judge(f) {
			all += x.Rule + " > " + x.Mend + "\n"
		}
		return all
	}
	bare, forced := mends(otherKey), mends(`restrict,from="192.0.2.1",command="/etc/init.d/httpd restart" `+otherKey)
	for _, c := range []struct{ in, want string }{
		{bare, "sshd-root-login > PermitRootLogin no (in "},
		{forced, "sshd-root-login > PermitRootLogin forced-commands-only (in "},
		{bare, "; then: sshd -t && service sshd reload), once you have logged in as somebody else and become root\n"},
		{bare, "key-not-locked > put in front of the key: restrict,from=\"ADDRESS\",command=\"COMMAND\"; if it is a person's, "},
		{bare, ", with all others who are to log in\n"},
		{bare, "sshd-not-public-key-only > PasswordAuthentication no (in /etc/ssh/sshd_config.d/00-local.conf; then: sshd -t && service sshd reload), once whoever is to log in has a key\n"},
	} {
		if !strings.Contains(c.in, c.want) {
			t.Errorf("no %q in\n%s", c.want, c.in)
		}
	}
}
