package keys

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const (
	// MaxLife is how long a certificate may be good for. What lives longer is
	// not kept short by its end, and a key line does as well.
	MaxLife = 366 * 24 * time.Hour
	// skew is how much earlier than now a certificate begins: the clock of the
	// host that judges it may be behind by so much.
	skew = 5 * time.Minute
	// maxPrivate is more than any private key takes, in bytes.
	maxPrivate = 64 << 10
)

// The critical options of a certificate (OpenSSH, PROTOCOL.certkeys).
const (
	optionCommand = "force-command"
	optionSource  = "source-address"
)

// NewAuthority makes the key pair of a certificate authority as [New] does; its
// private key is encrypted where there is a passphrase.
func NewAuthority(path, comment string, passphrase []byte) (public string, err error) {
	return newPair(path, comment, passphrase)
}

// Authority is a certificate authority that can sign.
type Authority struct {
	signer ssh.Signer
	agent  io.Closer // the connection to it; nil: the key is in this process
}

// Close ends the connection to an ssh-agent.
func (a *Authority) Close() error {
	if a.agent == nil {
		return nil
	}
	return a.agent.Close()
}

// OpenAuthority reads the private key of a certificate authority. Where it has a
// passphrase, ask is called for it. It refuses a file that others may use.
func OpenAuthority(path string, ask func() ([]byte, error)) (*Authority, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the authority's key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		passphrase, aerr := ask()
		if aerr != nil {
			return nil, aerr
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(text, passphrase)
		if err != nil {
			return nil, fmt.Errorf("the passphrase does not open %s", path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not a private key: give the file that kido keys authority made, not its .pub file: %w", path, err)
	}
	return &Authority{signer: signer}, nil
}

func readPrivate(path string) ([]byte, error) {
	text, mode, err := ReadSmall(path, maxPrivate)
	if err == nil && mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be used by others (mode %04o): chmod 600 it, and if others could read it until now make a new one", path, mode.Perm())
	}
	return text, err
}

// ReadSmall reads a regular file, up to so many bytes. What is none is an error, and
// holds nobody, as a FIFO would.
func ReadSmall(path string, most int64) (text []byte, mode fs.FileMode, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", path)
	}
	text, err = io.ReadAll(io.LimitReader(f, most))
	return text, info.Mode(), err
}

// AgentAuthority finds the key with a fingerprint ("SHA256:…") in the ssh-agent
// that listens at socket ($SSH_AUTH_SOCK). It is the agent that signs.
func AgentAuthority(socket, fingerprint string) (*Authority, error) {
	if socket == "" {
		return nil, errors.New("there is no ssh-agent: SSH_AUTH_SOCK is not set")
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the ssh-agent: %w", err)
	}
	all, err := agent.NewClient(c).Signers()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the ssh-agent does not answer: %w", err), c.Close())
	}
	i := slices.IndexFunc(all, func(s ssh.Signer) bool { return ssh.FingerprintSHA256(s.PublicKey()) == fingerprint })
	if i < 0 {
		return nil, errors.Join(fmt.Errorf("the ssh-agent has no key %s: add it (ssh-add FILE)", quote(fingerprint)), c.Close())
	}
	return &Authority{signer: all[i], agent: c}, nil
}

// CertificateOptions say what a certificate is for.
type CertificateOptions struct {
	Principal string        // who comes with it: host/NAME or person/NAME
	Public    string        // the key that it certifies: TYPE BASE64 COMMENT
	From      []string      // IP addresses and CIDR prefixes that it may come from, at least one
	Gate      string        // the gate program, an absolute path at the targets
	ID        string        // what sshd writes into its log of it
	Now       time.Time     // the beginning, a few minutes before it
	Life      time.Duration // from Now to its end, whole seconds, [MaxLife] at most
}

// Sign returns the line of a certificate that lets the holder of a key run the
// gate and nothing else, from the addresses that it may come from, until its end.
// It grants none of what sshd calls extensions: no terminal, no forwarding.
func (a *Authority) Sign(o CertificateOptions) (line string, err error) {
	if err := checkGate(o.Gate); err != nil {
		return "", err
	}
	key, comment, err := parse(o.Public)
	if err != nil {
		return "", err
	}
	from, err := sources(o.From)
	if err != nil {
		return "", err
	}
	if err := checkText("key id", o.ID); err != nil {
		return "", err
	}
	if o.Life < time.Second || o.Life > MaxLife {
		return "", fmt.Errorf("a certificate is good for a second to %d days, not for %v: for a key that is to stay, use its line", MaxLife/(24*time.Hour), o.Life)
	}
	own := a.signer.PublicKey()
	if _, _, err := parse(format(own, "")); err != nil {
		return "", fmt.Errorf("the authority's key cannot be used: %w", err)
	}
	if string(own.Marshal()) == string(key.Marshal()) {
		return "", errors.New("this is the authority's own key: it stays offline, certify the key of a host or a person")
	}
	var serial [8]byte
	if _, err := rand.Read(serial[:]); err != nil {
		return "", fmt.Errorf("cannot sign: %w", err)
	}
	cert := &ssh.Certificate{
		Key:             key,
		Serial:          binary.BigEndian.Uint64(serial[:]),
		CertType:        ssh.UserCert,
		KeyId:           o.ID,
		ValidPrincipals: []string{o.Principal},
		ValidAfter:      uint64(o.Now.Add(-skew).Unix()),
		ValidBefore:     uint64(o.Now.Add(o.Life).Unix()),
		Permissions:     ssh.Permissions{CriticalOptions: map[string]string{optionCommand: o.Gate, optionSource: strings.Join(from, ",")}},
	}
	if err := cert.SignCert(rand.Reader, a.signer); err != nil {
		return "", fmt.Errorf("cannot sign: %w", err)
	}
	return format(cert, comment), nil
}

// Certificate is what a certificate says.
type Certificate struct {
	Key        string // fingerprint of the key that it certifies
	Authority  string // fingerprint of the key that signed it
	Host       bool   // a host's, by which it would be known to those who connect
	ID         string
	Serial     uint64
	Principals []string
	After      time.Time // valid from
	Before     time.Time // and until, excluded; zero: for ever
	Options    map[string]string
	Extensions []string // sorted
}

// ParseCertificate reads the line of a certificate, and checks its signature.
// Whether anybody trusts who signed it is not its question.
func ParseCertificate(line string) (*Certificate, error) {
	const hint = "give the one line of a -cert.pub file"
	line = strings.TrimSuffix(line, "\n")
	if strings.Contains(line, "PRIVATE KEY") { // first: no other error may show it
		return nil, fmt.Errorf("this is a private key: %s, and keep the other to yourself", hint)
	}
	if err := checkText("certificate", line); err != nil {
		return nil, fmt.Errorf("%w: %s", err, hint)
	}
	public, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, fmt.Errorf("not a certificate (%w): %s", printable(err), hint)
	}
	c, ok := public.(*ssh.Certificate)
	if !ok || len(options) > 0 {
		return nil, fmt.Errorf("not a certificate, but a public key: %s", hint)
	}
	// What is signed is the whole but for the signature, and its length.
	unsigned := *c
	unsigned.Signature = nil
	text := unsigned.Marshal()
	if err := c.SignatureKey.Verify(text[:len(text)-4], c.Signature); err != nil {
		return nil, fmt.Errorf("the certificate was altered: its signature is not of what it says: %s", hint)
	}
	found := &Certificate{
		Key: ssh.FingerprintSHA256(c.Key), Authority: ssh.FingerprintSHA256(c.SignatureKey),
		Host: c.CertType == ssh.HostCert, ID: c.KeyId, Serial: c.Serial, Principals: c.ValidPrincipals,
		After: time.Unix(int64(c.ValidAfter), 0), Options: c.CriticalOptions,
	}
	if c.ValidBefore != ssh.CertTimeInfinity {
		found.Before = time.Unix(int64(c.ValidBefore), 0)
	}
	for name := range c.Extensions {
		found.Extensions = append(found.Extensions, name)
	}
	slices.Sort(found.Extensions)
	return found, nil
}
