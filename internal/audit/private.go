package audit

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"kido/internal/keys"
)

// privateKeys finds the private keys in the accounts' ~/.ssh, in kido's folder, and
// where scripts name them.
func (l *looker) privateKeys() {
	seen := map[string]bool{}
	look := func(path, account string) {
		if seen[path] || strings.HasSuffix(path, ".pub") {
			return
		}
		seen[path] = true
		text, err := readFile(l.path(path), largest)
		if err != nil {
			// Of a long file of keys all was looked at.
			keyFile := func(f KeyFile) bool { return f.Chain.Path() == path }
			if info := l.chain(path); info != nil && info[0].Mode.IsRegular() && !slices.ContainsFunc(l.KeyFiles, keyFile) {
				l.unread(path, err)
			}
			return
		}
		encrypted, key, ok := inspect(text)
		if !ok {
			return
		}
		if key.Fingerprint == "" { // where it cannot be told, nor a .pub file tells, it is not known
			key, _ = keys.ParseBlob(string(l.read(path + ".pub")))
		}
		if c := l.chain(path); c != nil {
			l.PrivateKeys = append(l.PrivateKeys, PrivateKey{c, account, encrypted, key})
		}
	}
	for _, a := range l.Accounts {
		const most = 200 // in a folder of somebody's
		folder := filepath.Join(a.Home, ".ssh")
		for n, path := range l.list(folder) {
			if n == most {
				l.unread(folder, fmt.Errorf("more than %d files", most))
				break
			}
			look(path, a.Name)
		}
	}
	for _, path := range slices.Concat(l.list(kidoFolder), l.Identities) {
		look(path, "")
	}
	for _, s := range l.Scripts {
		for _, c := range s.Calls {
			if filepath.IsAbs(c.Identity) {
				look(filepath.Clean(c.Identity), "")
			}
		}
	}
}

// opensshKey begins the one block of OpenSSH's own format (OpenSSH, PROTOCOL.key).
const opensshKey = "openssh-key-v1\x00"

// inspect says of a file whether it is a private key, whether a passphrase guards
// it, and which public key is its other half, none where it cannot be told. Nothing
// of the private one leaves it.
func inspect(text []byte) (encrypted bool, key keys.Blob, ok bool) {
	block, _ := pem.Decode(text)
	if block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return false, key, false
	}
	if block.Type == "OPENSSH PRIVATE KEY" {
		var head struct {
			Cipher, KDF, Options string
			N                    uint32
			Public               []byte
			Rest                 []byte `ssh:"rest"`
		}
		rest, found := bytes.CutPrefix(block.Bytes, []byte(opensshKey))
		if !found || ssh.Unmarshal(rest, &head) != nil {
			return false, key, false
		}
		if public, err := ssh.ParsePublicKey(head.Public); err == nil {
			key = keys.BlobOf(public)
		}
		return head.Cipher != "none", key, true
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return true, key, true
	}
	private, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		return false, key, true
	}
	if with, ok := private.(interface{ Public() crypto.PublicKey }); ok {
		if public, err := ssh.NewPublicKey(with.Public()); err == nil {
			key = keys.BlobOf(public)
		}
	}
	return false, key, true
}
