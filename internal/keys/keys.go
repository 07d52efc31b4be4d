// Package keys makes the key pairs that kido uses, and the lines of
// authorized_keys and known_hosts that lock and pin them.
//
// It promises: a private key is readable by its owner alone and never written
// over; a line that it returns is one line, means to sshd what was asked for,
// and is refused rather than weakened where it cannot be: no key without the
// addresses it may come from, no option that a quote in a command could add.
package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"kido/internal/failpoint"
)

const (
	maxLine = 8 << 10 // bytes of a line that any sshd takes
	minRSA  = 2048    // bits
)

// New makes an ed25519 key pair without a passphrase: the private key at path,
// in OpenSSH's format, mode 0600, and the public key at path + ".pub", mode
// 0644. It returns the public key's line. Both are on disk when it returns. It
// writes over nothing: where either file is there it fails with os.ErrExist.
func New(path, comment string) (public string, err error) {
	return newPair(path, comment, nil)
}

// newPair is New, with a passphrase where one is given.
func newPair(path, comment string, passphrase []byte) (public string, err error) {
	if err := checkText("comment", comment); err != nil {
		return "", err
	}
	if _, err := os.Lstat(path + ".pub"); err == nil {
		return "", exists(path + ".pub")
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("cannot make a key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return "", fmt.Errorf("cannot make a key: %w", err)
	}
	var block *pem.Block
	if len(passphrase) > 0 {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, comment, passphrase)
	} else {
		block, err = ssh.MarshalPrivateKey(private, comment)
	}
	if err != nil {
		return "", fmt.Errorf("cannot make a key: %w", err)
	}
	public = format(signer.PublicKey(), comment)
	if err := writeNew(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	failpoint.Hit("keys.made.private")
	if err := writeNew(path+".pub", []byte(public+"\n"), 0o644); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	if err := syncFolder(path); err != nil {
		return "", errors.Join(fmt.Errorf("cannot make a key at %s: %w", path, err), os.Remove(path), os.Remove(path+".pub"))
	}
	return public, nil
}

// Complete makes what is missing of the key pair at path, as [New] leaves it where it
// is cut off: the public half of a private key that is there, and both where that is
// empty or not there. It returns the public key's line. A pair that is whole stays as
// it is.
func Complete(path, comment string) (public string, err error) {
	private, _, err := ReadSmall(path, maxPrivate)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("cannot read the key: %w", err)
	}
	if len(private) == 0 { // of one that was being written when the power went
		if err := forget(path); err != nil {
			return "", err
		}
		return New(path, comment)
	}
	if public, err = Public(path); !errors.Is(err, os.ErrNotExist) {
		return public, err
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return "", fmt.Errorf("%s has no public half, and cannot be read to make it: %w", path, err)
	}
	if err := checkText("comment", comment); err != nil {
		return "", err
	}
	public = format(signer.PublicKey(), comment)
	return public, writePublic(path+".pub", public)
}

func exists(path string) error {
	return fmt.Errorf("%s is there already, a key is never written over: choose another name, or move it away once nothing uses it: %w", path, os.ErrExist)
}

// writeNew writes a file of its own to disk, or leaves none.
func writeNew(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return exists(path)
	}
	if err != nil {
		return fmt.Errorf("cannot write a key: %w", err)
	}
	err = f.Chmod(mode) // whatever the umask
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot write a key: %w", err), os.Remove(path))
	}
	return nil
}

func syncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Public returns the line of the public key beside the private key at path,
// "TYPE BASE64 COMMENT".
func Public(path string) (string, error) { return readPublic(publicFile(path)) }

// readPublic reads a file of one public key.
func readPublic(file string) (string, error) {
	text, _, err := ReadSmall(file, maxLine+1)
	if err != nil {
		return "", fmt.Errorf("cannot read the public key: %w", err)
	}
	key, comment, err := parse(string(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return format(key, comment), nil
}

// Fingerprint returns the SHA256:… of a public key, as ssh-keygen -lf prints it.
func Fingerprint(public string) (string, error) {
	key, _, err := parse(public)
	if err != nil {
		return "", err
	}
	return ssh.FingerprintSHA256(key), nil
}

// LineOptions says what the key of a gate line may do.
type LineOptions struct {
	From   []string // IP addresses and CIDR prefixes that it may come from, at least one
	Gate   string   // the gate program, an absolute path at the target
	Public string   // the public key: TYPE BASE64 COMMENT
}

// GateLine returns the line of authorized_keys that locks a key to the gate and
// to the addresses that it may come from.
func GateLine(o LineOptions) (string, error) {
	if err := checkGate(o.Gate); err != nil {
		return "", err
	}
	return line(o.From, o.Gate, o.Public)
}

func checkGate(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("gate %s is not an absolute path in its shortest form: write one such as /usr/local/sbin/kido-gate", quote(path))
	}
	for _, r := range path {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._+-", r)) {
			return fmt.Errorf("gate %s: sshd gives the path to a shell: install the gate where the path has only letters, digits and / . _ + -", quote(path))
		}
	}
	return nil
}

// PlainLine returns the line of authorized_keys that locks a key to one command
// of a target without kido, as in "/etc/init.d/httpd restart", and to the
// addresses that it may come from. sshd gives the command to the login shell of
// the user.
func PlainLine(from []string, command, public string) (string, error) {
	if strings.TrimSpace(command) == "" {
		return "", errors.New("the command is empty: sshd would then run whatever the key's holder asks for")
	}
	if err := checkText("command", command); err != nil {
		return "", err
	}
	if strings.HasSuffix(command, `\`) {
		return "", fmt.Errorf("command %s ends in a backslash, which sshd would take for the quote that follows it: leave it out", quote(command))
	}
	return line(from, command, public)
}

func line(from []string, command, public string) (string, error) {
	key, comment, err := parse(public)
	if err != nil {
		return "", err
	}
	sources, err := sources(from)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf(`restrict,from="%s",command="%s" %s`,
		strings.Join(sources, ","), strings.ReplaceAll(command, `"`, `\"`), format(key, comment))
	if len(text) > maxLine {
		return "", fmt.Errorf("the line has %d bytes, sshd takes at most %d: join addresses to prefixes, or put the command in a script", len(text), maxLine)
	}
	return text, nil
}

// sources checks what goes into from="…". sshd takes more there, but drops the
// whole line, or never matches it, over what is refused here.
func sources(from []string) ([]string, error) {
	if len(from) == 0 {
		return nil, errors.New("no address that the key may come from: without one a stolen key works from anywhere")
	}
	all := make([]string, len(from))
	for i, s := range from {
		address, prefix, err := source(s)
		if err != nil {
			return nil, err
		}
		all[i] = address.String()
		if prefix.IsValid() {
			all[i] = prefix.String()
		}
	}
	return all, nil
}

func source(s string) (address netip.Addr, prefix netip.Prefix, err error) {
	if strings.Contains(s, "/") {
		if prefix, err = netip.ParsePrefix(s); err == nil {
			address = prefix.Addr()
		}
	} else {
		address, err = netip.ParseAddr(s)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("from %s: neither an IP address nor a CIDR prefix: sshd matches names only where it looks them up, so write the address", quote(s))
	case address.Zone() != "":
		err = fmt.Errorf("from %s: a zone is known to one host only: write an address without %%%s", quote(s), address.Zone())
	case address.Is4In6():
		err = fmt.Errorf("from %s: sshd sees such a peer as IPv4: write %s", quote(s), address.Unmap())
	case address.IsUnspecified() && !prefix.IsValid():
		err = fmt.Errorf("from %s: nothing comes from this address: write the one that the key is used at", quote(s))
	case prefix.IsValid() && prefix.Bits() == 0:
		err = fmt.Errorf("from %s: this is every address: write the one that the key is used at", quote(s))
	case prefix.IsValid() && prefix != prefix.Masked():
		err = fmt.Errorf("from %s: host bits are set, for which sshd ignores the whole line: write %s or %s", quote(s), prefix.Masked(), address)
	}
	return address, prefix, err
}

// Pin returns the line of known_hosts that pins a host's public key. host is an
// IP address or a name, as it will be connected to; port is its SSH port.
func Pin(host string, port int, hostPublicKey string) (knownHostsLine string, err error) {
	if err := checkHost(host); err != nil {
		return "", err
	}
	if port < 1 || port > 65535 {
		return "", fmt.Errorf("port %d: a port is 1 to 65535", port)
	}
	key, _, err := parse(hostPublicKey)
	if err != nil {
		return "", fmt.Errorf("host key of %s: %w", host, err)
	}
	name := strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		name = ip.String()
	}
	if port != 22 {
		name = "[" + name + "]:" + strconv.Itoa(port)
	}
	return name + " " + format(key, ""), nil
}

// checkHost holds a host to what is one literal name in known_hosts, where
// commas, stars, question and exclamation marks mean more.
func checkHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return fmt.Errorf("host %s: write the address without its zone", quote(host))
		}
		return nil
	}
	for i, r := range host {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || r != '.' && r != '-' && r != '_') {
			return fmt.Errorf("host %s: neither an IP address nor a host name", quote(host))
		}
	}
	if host == "" || len(host) > 253 {
		return errors.New("host: a name has 1 to 253 bytes")
	}
	return nil
}

// parse takes one public key: TYPE BASE64, then perhaps a comment.
func parse(public string) (key ssh.PublicKey, comment string, err error) {
	const hint = "give the one line of the .pub file"
	public = strings.TrimRight(public, "\r\n")
	if strings.Contains(public, "PRIVATE KEY") { // first: no other error may show it
		return nil, "", fmt.Errorf("this is a private key: %s, and keep the other to yourself", hint)
	}
	if n := strings.Count(public, "\n"); n > 0 {
		return nil, "", fmt.Errorf("public key: these are %d lines: %s, of one key", n+1, hint)
	}
	if err := checkText("public key", public); err != nil {
		return nil, "", fmt.Errorf("%w: %s", err, hint)
	}
	if len(public) > maxLine {
		return nil, "", fmt.Errorf("public key: longer than %d bytes: %s", maxLine, hint)
	}
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		return nil, "", fmt.Errorf("not a public key (%w): %s", printable(err), hint)
	}
	kind, _, _ := strings.Cut(public, " ")
	if len(options) > 0 || len(rest) > 0 || kind != key.Type() {
		return nil, "", fmt.Errorf("public key: it does not begin with the type of its key (%s): %s, without options", key.Type(), hint)
	}
	switch kind {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
	case ssh.KeyAlgoRSA:
		if n := rsaBits(key); n < minRSA {
			return nil, "", fmt.Errorf("public key: RSA of %d bits can be broken: make an ed25519 key", n)
		}
	default:
		return nil, "", fmt.Errorf("public key: keys of type %s are not taken: make an ed25519 key", kind)
	}
	return key, comment, nil
}

func rsaBits(key ssh.PublicKey) int {
	var fields struct {
		Type string
		E, N *big.Int
	}
	if ssh.Unmarshal(key.Marshal(), &fields) != nil {
		return 0
	}
	return fields.N.BitLen()
}

func format(key ssh.PublicKey, comment string) string {
	text := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
	if comment != "" {
		text += " " + comment
	}
	return text
}

// checkText fails on what would end a line, or hide in one.
func checkText(what, text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("%s %s is not UTF-8", what, quote(text))
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s %s holds a character that does not print: leave it out", what, quote(text))
		}
	}
	return nil
}

// printable is err where it can be shown as it is: what was read into a key says
// in it what type the key is of.
func printable(err error) error {
	const most = 200
	if text := err.Error(); len(text) > most || checkText("", text) != nil {
		return errors.New(quote(text))
	}
	return err
}

// quote shows what was given, at a length that fits a message.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
