package netprobe

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"kido/internal/probe"
)

// nameServer answers questions over UDP by the first label of the name, with addresses
// or with a code. It is scripted: the words are net's, which asks as it does anywhere.
func nameServer(t *testing.T) (address string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		question := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(question)
			if err != nil {
				return
			}
			if n < 18 {
				continue
			}
			label := string(question[13 : 13+int(question[12])])
			end := 12
			for question[end] != 0 {
				end += 1 + int(question[end])
			}
			end += 5
			kind := binary.BigEndian.Uint16(question[end-4:])
			var code byte
			var addresses [][]byte
			switch label {
			case "one":
				addresses = [][]byte{{192, 0, 2, 1}}
			case "many":
				for i := range byte(6) {
					addresses = append(addresses, []byte{192, 0, 2, 6 - i})
				}
			case "missing":
				code = 3
			case "broken":
				code = 2
			case "silent":
				continue
			}
			if kind != 1 {
				addresses = nil
			}
			a := append([]byte{}, question[:end]...)
			a[2], a[3] = 0x81, 0x80|code
			binary.BigEndian.PutUint16(a[6:], uint16(len(addresses)))
			binary.BigEndian.PutUint32(a[8:], 0)
			for _, ip := range addresses {
				a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
				a = append(a, ip...)
			}
			_, _ = c.WriteTo(a, from)
		}
	}()
	return c.LocalAddr().String()
}

func TestDNS(t *testing.T) {
	t.Parallel()
	server := nameServer(t)
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, x := range []struct {
		name, server, address, want string
	}{
		{"one.example.", server, "", ""},
		{"one.example.", server, "192.0.2.1", ""},
		{"one.example.", server, "192.0.2.2", "resolves to 192.0.2.1, not to 192.0.2.2"},
		{"many.example.", server, "192.0.2.6", ""},
		{"many.example.", server, "::1", "resolves to 192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, …, not to ::1"},
		{"missing.example.", server, "", "no such host: missing.example."},
		{"none.example.", server, "", "no such host: none.example."},
		{"broken.example.", server, "", "name lookup of broken.example. failed: server misbehaving"},
		{"silent.example.", server, "", "no answer within 300ms"},
		{"one.example.", gone.LocalAddr().String(), "", "name lookup of one.example. failed: connection refused"},
		{"localhost", "", "127.0.0.1", ""},
		{"localhost", server, "", "localhost is in /etc/hosts, so the server was not asked"},
		{"192.0.2.1", "", "192.0.2.2", "resolves to 192.0.2.1, not to 192.0.2.2"},
	} {
		t.Run(strings.Join([]string{x.name, x.address, x.want}, " "), func(t *testing.T) {
			s := probe.Spec{Kind: probe.KindDNS, Target: x.name, Options: map[string]string{}, Timeout: 20 * time.Second}
			if x.server != "" {
				s.Options["server"] = x.server
			}
			if x.address != "" {
				s.Options["address"] = x.address
			}
			if x.want == "no answer within 300ms" {
				s.Timeout = 300 * time.Millisecond
			}
			if a := ask(t, s); a.Ready != (x.want == "") || a.Word != x.want {
				t.Errorf("got %+v, want %q", a, x.want)
			}
		})
	}
}
