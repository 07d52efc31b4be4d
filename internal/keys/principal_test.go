package keys

import (
	"strings"
	"testing"
)

func TestPrincipalLine(t *testing.T) {
	t.Parallel()
	const gate = "/usr/local/sbin/kido-gate"
	for _, c := range []struct {
		from      []string
		gate      string
		principal string
		want, err string
	}{
		{[]string{"192.0.2.1", "2001:DB8::/32"}, gate, "host/db1", `restrict,from="192.0.2.1,2001:db8::/32",command="/usr/local/sbin/kido-gate" host/db1`, ""},
		{[]string{"192.0.2.1"}, gate, "person/ann", `restrict,from="192.0.2.1",command="/usr/local/sbin/kido-gate" person/ann`, ""},
		{nil, gate, "host/db1", "", "no address that the key may come from"},
		{[]string{"192.0.2.1\",command=\"/bin/sh"}, gate, "host/db1", "", "neither an IP address nor a CIDR prefix"},
		{[]string{"192.0.2.1"}, "/bin/sh -c", "host/db1", "", "sshd gives the path to a shell"},
		{[]string{"192.0.2.1"}, gate, "db1", "", "neither host/NAME nor person/NAME"},
		{[]string{"192.0.2.1"}, gate, "root/db1", "", "neither host/NAME nor person/NAME"},
		{[]string{"192.0.2.1"}, gate, "host/db1\nperson/ann", "", "neither host/NAME nor person/NAME"},
		{[]string{"192.0.2.1"}, gate, "host/a,host/b", "", "neither host/NAME nor person/NAME"},
		{[]string{"192.0.2.1"}, gate, "host/", "", "neither host/NAME nor person/NAME"},
	} {
		got, err := PrincipalLine(c.from, c.gate, c.principal)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q %q: %s, %v; want %s %s", c.from, c.principal, got, err, c.want, c.err)
		}
	}
}
