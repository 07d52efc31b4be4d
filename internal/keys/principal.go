package keys

import (
	"fmt"
	"strings"
)

// PrincipalLine returns the line of sshd's AuthorizedPrincipalsFile that locks
// whoever comes with a certificate for a principal, "host/NAME" or "person/NAME",
// to the gate and to the addresses that it may come from.
func PrincipalLine(from []string, gate, principal string) (string, error) {
	if err := checkGate(gate); err != nil {
		return "", err
	}
	kind, name, _ := strings.Cut(principal, "/")
	if err := checkHost(name); err != nil || kind != "host" && kind != "person" {
		return "", fmt.Errorf("principal %s is neither host/NAME nor person/NAME", quote(principal))
	}
	sources, err := sources(from)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf(`restrict,from="%s",command="%s" %s`, strings.Join(sources, ","), gate, principal)
	if len(text) > maxLine {
		return "", fmt.Errorf("the line has %d bytes, sshd takes at most %d: join addresses to prefixes", len(text), maxLine)
	}
	return text, nil
}
