package install

import (
	"slices"
	"strings"
	"testing"

	"kido/internal/keys"
	"kido/internal/site"
)

// What a bundle says that a host may do is what the gates let it do.
func TestGrants(t *testing.T) {
	t.Parallel()
	s, err := site.Parse("site.yaml", []byte(`
site: shop
hosts: {db1: 10.0.0.1, db2: 10.0.0.2, web1: 10.0.1.1, web2: 10.0.1.2, old: 10.0.1.3, mail: 10.0.2.1}
services:
  oracle: {hosts: [db1, db2], systemd: dbora, ready: {tcp: ":1521"}}
  web: {hosts: [web1, web2], systemd: httpd, after: {oracle: {on_restart: reload, of: any}}, ready: {http: "http://:80/"}}
  legacy: {hosts: old, plain: restart, after: {oracle: restart}}
  mail: {hosts: mail, systemd: exim, after: {web: restart}}
`))
	if err != nil {
		t.Fatal(err)
	}
	const public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBERERERERERERERERERERERERERERERERERERERERER"
	fingerprint, err := keys.Fingerprint(public)
	if err != nil {
		t.Fatal(err)
	}
	granted := 0
	for _, h := range s.Hosts {
		var want []keys.Grant
		for _, at := range s.Hosts {
			p, _ := PolicyOf(s, at.Name, &Keyring{Hosts: map[string][]Key{h.Name: {{Public: public, Fingerprint: fingerprint}}}})
			who := p.Principal(fingerprint)
			if who == "" || at == h {
				continue
			}
			var may []string
			for _, g := range p.Grants {
				if g.Principal != who {
					continue
				}
				words := g.Service
				for _, v := range g.Verbs {
					words += " " + string(v)
				}
				may = append(may, words)
			}
			want = append(want, keys.Grant{Host: at.Name, May: strings.Join(may, "; ")})
		}
		got := Grants(s, h.Name)
		if !slices.Equal(got, want) {
			t.Errorf("%s\ngot  %q\nwant %q", h.Name, got, want)
		}
		granted += len(got)
		if got == nil {
			continue
		}
		b := &keys.Bundle{Site: s.Name, Host: h.Name, Address: h.Address, Port: h.Port, From: []string{h.Address}, Public: public, Grants: got}
		if _, err := b.Text(); err != nil {
			t.Errorf("%s: %v", h.Name, err)
		}
	}
	if granted < 6 {
		t.Errorf("%d grants in all: the site says nothing of interest", granted)
	}
}
