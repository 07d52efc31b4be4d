package audit

import (
	"io/fs"
	"slices"
	"strings"

	"kido/internal/gate"
	"kido/internal/keys"
)

// Facts is what was seen of a host. Paths are the host's own.
type Facts struct {
	Accounts    []Account           // of /etc/passwd
	Groups      map[string][]string // of /etc/group: the accounts that are in it, by its name and by #GID
	Elsewhere   []Elsewhere
	Server      *Server  // nil: no sshd
	Configs     []Config // at least one for each account
	KeyFiles    []KeyFile
	Authorities []AuthorityFile // that TrustedUserCAKeys names
	Principals  []KeyFile       // that AuthorizedPrincipalsFile names; their lines have no keys
	Revoked     []RevokedFile   // that RevokedKeys names
	PrivateKeys []PrivateKey
	Polkit      []PolkitRule
	Sudo        []SudoRule
	SudoFiles   []Chain
	Scripts     []Script
	Logs        []Node            // that more than owner and group can write
	Units       map[string]string // systemd's, that rules and the policy name: by name the primary one, "" where there is none
	Gate        *Gate             // nil: nothing of kido's is here
	Unread      []Unread
}

// Unread is something that should have been looked at.
type Unread struct {
	Place  Place
	Err    error // why it was not
	Grants bool  // it may let somebody in, or give him rights
}

// Elsewhere is where accounts or sudo's rules come from that are not looked at.
type Elsewhere struct {
	Place    Place
	Database string   // of nsswitch.conf: passwd or sudoers
	Sources  []string // as in ldap
}

// Node is a file or folder.
type Node struct {
	Path     string
	UID, GID int
	Mode     fs.FileMode
}

// Chain is a file and the folders above it, up to the root.
type Chain []Node

// Path is the file's.
func (c Chain) Path() string { return c[0].Path }

// Account is a line of the password file.
type Account struct {
	Name        string
	UID, GID    int
	Home, Shell string
	Locked      bool // its password begins with !
	OwnGroup    bool // nobody else is in its group
}

// shells are the programs that read commands, as they are called.
var shells = []string{"sh", "bash", "dash", "ash", "busybox", "ksh", "ksh93", "mksh", "zsh", "fish", "csh", "tcsh", "rbash"}

func (a Account) shell() string {
	if a.Shell == "" {
		return "sh" // passwd(5)
	}
	return a.Shell[strings.LastIndexByte(a.Shell, '/')+1:]
}

func (a Account) interactive() bool { return slices.Contains(shells, a.shell()) }

// Server is this host's sshd.
type Server struct {
	Banner       string    // as in OpenSSH_9.2p1
	Major, Minor int       // 0.0: unknown
	Folder       string    // that sshd_config takes in, "" for none
	Service      string    // what init calls it
	ConfigFiles  []Chain   // and the folders that it looks into for such
	Started      []Started // with what its files do not show
	HostKeys     []HostKey
}

func (s *Server) before(major, minor int) bool {
	return (s.Major != 0 || s.Minor != 0) && (s.Major < major || s.Major == major && s.Minor < minor)
}

// Started is a command line of sshd's that stands above its files, or names others.
type Started struct {
	Place Place
	Args  string // -o OPTION and -f FILE; a NUL is between two words
}

// HostKey is a host's private key, and its public half.
type HostKey struct {
	Chain Chain
	Key   keys.Blob
}

// Config is sshd's effective configuration for a connection.
type Config struct {
	User   string
	From   string              // which, as in "from 192.0.2.1"; "" for one that nothing names
	Values map[string][]string // by keyword in lower case; several for those that may stand there often
}

func (c Config) get(keyword string) string {
	if v := c.Values[keyword]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// KeyFile is a file of authorized keys, or of principals.
type KeyFile struct {
	Chain    Chain
	Accounts []string // whose
	Second   bool     // not the first file of its accounts
	Lines    []keys.Line
	Names    []string // of principals, one a line of Lines
}

// AuthorityFile holds the keys of certificate authorities.
type AuthorityFile struct {
	Chain Chain
	Keys  []keys.Line
}

// RevokedFile holds revoked keys.
type RevokedFile struct {
	Path  string
	Chain Chain           // nil: it cannot be read
	Why   string          // it cannot be read
	Keys  map[string]bool // fingerprints, of a file of lines
}

// PrivateKey is a file that holds one.
type PrivateKey struct {
	Chain     Chain
	Account   string // whose home it is in; "" for none
	Encrypted bool
	Key       keys.Blob // its public half; empty where it cannot be told
}

// PolkitRule is a rule about systemd's units that says yes.
type PolkitRule struct {
	File     string
	Line     int
	Users    []string // that it names
	AsksUnit bool
	Start    bool                // the verb is granted, or not looked at
	Units    map[string][]string // as far as they stand in a table: unit → verbs
}

// SudoRule is one command of a line of sudoers.
type SudoRule struct {
	File       string
	Line       int
	Who, RunAs string
	NoPassword bool
	Command    string // with its arguments, as written
}

// Script is what init or cron runs.
type Script struct {
	Chain  Chain
	ByRoot bool
	Calls  []Call
	Logs   []LogWrite
}

// Call is a call of ssh, scp or sftp.
type Call struct {
	Line     int
	Identity string // -i
	AnyHost  string // the option by which it trusts any host key
	Strict   bool   // it says that it trusts none but those that are pinned
}

// LogWrite is a file that a script writes to.
type LogWrite struct {
	Line int
	Path string
}

// Gate is what is there of kido-gate.
type Gate struct {
	Files     []Chain // program, policy and key files, as far as they are there
	Program   bool    // it is there
	State     *Node
	Home      *Node        // of its user
	Policy    *gate.Policy // nil: none, or not good
	PolicyErr string
}
