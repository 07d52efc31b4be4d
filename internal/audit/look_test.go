package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kido/internal/keys"
	"kido/internal/remote/sshdtest"
)

// host is a machine in a folder. Its sshd answers from a table.
func host(t *testing.T, files map[string]string) *Machine {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Machine{Root: root, Run: func(argv ...string) (string, error) {
		switch {
		case argv[0] == "sshd" && argv[1] == "-V":
			return "unknown option -- V\nOpenSSH_9.2p1 Debian-2, OpenSSL 3\n", errors.New("exit status 1")
		case argv[0] == "sshd" && strings.HasPrefix(argv[3], "user=kido,"):
			return "a warning\nauthorizedkeysfile /etc/ssh/kido_keys\nforcecommand " + gateProgram + "\n", nil
		case argv[0] == "sshd":
			return "authorizedkeysfile .ssh/authorized_keys /etc/keys/%u\nacceptenv LANG\nacceptenv LC_*\nhostkey /etc/ssh/hk\ntrustedusercakeys /etc/ssh/ca\nauthorizedprincipalsfile /etc/ssh/principals/%u\nrevokedkeys /etc/ssh/revoked\n", nil
		case argv[0] == "systemctl" && argv[4] == "gone.service":
			return "Id=gone.service\nLoadState=not-found\n", nil
		case argv[0] == "systemctl":
			return "Id=apache2.service\nLoadState=loaded\n", nil
		}
		return "", fmt.Errorf("%s: not found", argv[0])
	}}
}

const passwd = "root:x:0:0:root:/root:/bin/bash\nkido:x:998:998::/nonexistent:/usr/local/sbin/kido-gate\nalice:x:1000:1000::/home/alice:/bin/bash\n"

func TestLook(t *testing.T) {
	t.Parallel()
	m := host(t, map[string]string{
		"/etc/passwd":                         passwd + "a line of something else\n",
		"/etc/group":                          "alice:x:1000:\nkido:x:998:alice\n",
		"/etc/shadow":                         "kido:!:1::::::\nalice:*:1::::::\n",
		"/usr/sbin/sshd":                      "",
		"/usr/lib/systemd/system/ssh.service": "",
		"/etc/ssh/sshd_config":                "Include /etc/ssh/sshd_config.d/*.conf\nMatch User x\nInclude other\n",
		"/etc/ssh/sshd_config.d/50-a.conf":    "UseDNS no\n",
		"/etc/ssh/sshd_config.d/50-a.conf~":   "",
		"/etc/ssh/kido_keys":                  locked + edKey + "\n",
		"/etc/ssh/hk":                         "",
		"/etc/ssh/hk.pub":                     rsa1024 + " h\n",
		"/etc/ssh/ca":                         otherKey + "\n",
		"/etc/ssh/principals/alice":           "# \n" + `command="a b" host/db1` + "\nadmin\n",
		"/etc/ssh/revoked":                    "# gone\n" + otherKey + "\n",
		"/root/.ssh/authorized_keys":          "",
		"/home/alice/.ssh/authorized_keys":    "\n" + edKey + "\n",
		"/etc/keys/alice":                     otherKey + "\n",
		"/etc/polkit-1/rules.d/50-a.rules":    "polkit.addRule(function(a, s) { if (a.id == \"org.freedesktop.systemd1.manage-units\" && a.lookup(\"unit\") == \"x\") return polkit.Result.YES; });\n",
		"/etc/polkit-1/rules.d/README":        "addRule YES",
		"/etc/polkit-1/rules.d/49-kido.rules": "// a\npolkit.addRule(function (action, subject) {\n  if (subject.user !== \"kido\") { return polkit.Result.NOT_HANDLED; }\n  if (action.id !== \"org.freedesktop.systemd1.manage-units\") return polkit.Result.NO;\n  var granted = {\n    \"apache2.service\": [\"restart\", \"stop\"],\n    \"gone.service\": [\"restart\"],\n  };\n  var unit = action.lookup(\"unit\"), verb = action.lookup(\"verb\");\n  return polkit.Result.YES;\n});\n",
		"/run/systemd/system/x":               "",
		"/etc/sudoers":                        "Defaults env_reset\n@includedir /etc/sudoers.d\n",
		"/etc/sudoers.d/kido":                 "kido ALL=(root) NOPASSWD: /etc/init.d/a restart\n",
		"/etc/sudoers.d/left.dpkg-old":        "x ALL=(root) NOPASSWD: ALL\n",
		"/etc/init.d/svr_restart":             "#!/bin/bash\nKEY=\"/root/.ssh/restart_key\"\nssh -i $KEY $1 <<EOF 1>/dev/null 2>>/tmp/restart_err.log\n",
		"/etc/init.d/.depend.start":           "ssh -i /no x\n",
		"/root/.ssh/restart_key":              privateKey(t, "", ""),
		"/root/.ssh/known_hosts":              "",
		"/home/alice/.ssh/id_ed25519":         privateKey(t, "", "a passphrase"),
		"/var/log/open.log":                   "",
		"/var/log/syslog":                     "",
		"/tmp/restart_err.log":                "",
		gateProgram:                           "",
		"/etc/kido/policy":                    "kido-policy 1\nhost web1\nstate /var/lib/kido-gate\n",
		"/var/lib/kido-gate/x":                "",
	})
	for path, mode := range map[string]fs.FileMode{"/var/log/open.log": 0o666, "/tmp/restart_err.log": 0o666, "/home/alice/.ssh": 0o777} {
		if err := os.Chmod(filepath.Join(m.Root, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	f := m.Look()
	check := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
		}
	}
	check("accounts", f.Accounts, []Account{
		{Name: "root", Home: "/root", Shell: "/bin/bash", OwnGroup: true},
		{Name: "kido", UID: 998, GID: 998, Home: "/nonexistent", Shell: gateProgram, Locked: true},
		{Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice", Shell: "/bin/bash", OwnGroup: true},
	})
	check("sshd", []any{f.Server.Banner, f.Server.Major, f.Server.Minor, f.Server.Folder, f.Server.Service}, []any{"OpenSSH_9.2p1", 9, 2, "/etc/ssh/sshd_config.d", "ssh"})
	var config []string
	for _, c := range f.Server.ConfigFiles {
		config = append(config, c.Path())
	}
	check("its files", config, []string{sshdConfig, "/etc/ssh/sshd_config.d", "/etc/ssh/sshd_config.d/50-a.conf"})
	check("its host key", []any{f.Server.HostKeys[0].Chain.Path(), f.Server.HostKeys[0].Key.Bits}, []any{"/etc/ssh/hk", 1024})
	var asked []string
	for _, c := range f.Configs {
		asked = append(asked, c.User+" "+c.From)
	}
	check("connections", asked, []string{"root ", "kido ", "alice ", "kido from 192.0.2.1"})
	check("acceptenv", f.Configs[0].Values["acceptenv"], []string{"LANG", "LC_*"})
	var files []string
	for _, k := range f.KeyFiles {
		files = append(files, fmt.Sprint(k.Chain.Path(), k.Accounts, k.Second, len(k.Lines)))
	}
	check("key files", files, []string{"/root/.ssh/authorized_keys[root] false 0", "/etc/ssh/kido_keys[kido] false 1", "/home/alice/.ssh/authorized_keys[alice] false 1", "/etc/keys/alice[alice] true 1"})
	check("the line", f.KeyFiles[2].Lines[0].Number, 2)
	check("its folders", f.KeyFiles[2].Chain[1].Path+" "+f.KeyFiles[2].Chain[1].Mode.Perm().String(), "/home/alice/.ssh -rwxrwxrwx")
	check("authorities", len(f.Authorities[0].Keys), 1)
	check("principals", []any{f.Principals[0].Names, f.Principals[0].Lines[0].Options.Command, f.Principals[0].Lines[1].Options.PTY}, []any{[]string{"host/db1", "admin"}, "a b", true})
	check("revoked", f.Revoked[0].Keys, map[string]bool{blob(otherKey).Fingerprint: true})
	check("polkit", f.Polkit, []PolkitRule{
		{File: "/etc/polkit-1/rules.d/49-kido.rules", Line: 2, Users: []string{"kido"}, AsksUnit: true, Units: map[string][]string{"apache2.service": {"restart", "stop"}, "gone.service": {"restart"}}},
		{File: "/etc/polkit-1/rules.d/50-a.rules", Line: 1, AsksUnit: true, Start: true, Units: map[string][]string{}},
	})
	check("units", f.Units, map[string]string{"apache2.service": "apache2.service", "gone.service": ""})
	check("sudo", f.Sudo, []SudoRule{{"/etc/sudoers.d/kido", 1, "kido", "root", true, "/etc/init.d/a restart"}})
	check("scripts", len(f.Scripts), 1)
	check("calls", f.Scripts[0].Calls, []Call{{Line: 3, Identity: "/root/.ssh/restart_key"}})
	check("what they write", f.Scripts[0].Logs, []LogWrite{{3, "/dev/null"}, {3, "/tmp/restart_err.log"}})
	var private []string
	for _, p := range f.PrivateKeys {
		private = append(private, fmt.Sprint(p.Chain.Path(), " ", p.Account, p.Encrypted, p.Key.Type))
	}
	check("private keys", private, []string{"/root/.ssh/restart_key rootfalsessh-ed25519", "/home/alice/.ssh/id_ed25519 alicetruessh-ed25519"})
	var logs []string
	for _, n := range f.Logs {
		logs = append(logs, n.Path)
	}
	check("logs", logs, []string{"/var/log/open.log", "/tmp/restart_err.log"})
	check("gate", []any{f.Gate.Program, len(f.Gate.Files), f.Gate.State.Path}, []any{true, 2, "/var/lib/kido-gate"})
	check("unread", f.Unread, []Unread(nil))
}

// What cannot be read is said, and holds nothing up.
func TestLookUnread(t *testing.T) {
	t.Parallel()
	m := host(t, map[string]string{"/etc/passwd": passwd, "/usr/sbin/sshd": "", "/home/alice/.ssh/authorized_keys": edKey, "/etc/sudoers": "x ALL=(root) NOPASSWD: /a : OTHER = /b\nwhat is this\nDefaults:x !authenticate\n"})
	m.Run = func(argv ...string) (string, error) { return "", errors.New("no host keys") }
	if err := os.MkdirAll(filepath.Join(m.Root, "/root/.ssh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(m.Root, "/root/.ssh/authorized_keys"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(m.Root, "/home/alice/.ssh/authorized_keys2")); err != nil {
		t.Fatal(err)
	}
	f := m.Look()
	if len(f.KeyFiles) != 1 || f.KeyFiles[0].Chain.Path() != "/home/alice/.ssh/authorized_keys" {
		t.Errorf("where sshd cannot be asked, its default holds: %+v", f.KeyFiles)
	}
	var got []string
	for _, u := range f.Unread {
		got = append(got, u.Place.String()+": "+u.Err.Error())
	}
	want := []string{
		"sshd: no host keys",
		"/etc/ssh/sshd_config: its effective configuration is not known (no host keys)",
		"/root/.ssh/authorized_keys: not a regular file",
		"/home/alice/.ssh/authorized_keys2: not a regular file",
		"/etc/sudoers:3: whom it spares the password is not followed",
		"/etc/sudoers:1: not understood: a second list behind a colon",
		"/etc/sudoers:2: not understood: no line such as: USER HOST = (RUNAS) COMMAND",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %s\nwant %s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A file without leave to read it is said not to have been looked at.
func TestLookDenied(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("SKIPPED: root may read everything; run the tests as another user too")
	}
	m := host(t, map[string]string{"/etc/passwd": passwd, "/home/alice/.ssh/authorized_keys": edKey})
	if err := os.Chmod(filepath.Join(m.Root, "/home/alice/.ssh/authorized_keys"), 0); err != nil {
		t.Fatal(err)
	}
	if f := m.Look(); len(f.Unread) != 1 || f.Unread[0].Err.Error() != "permission denied" {
		t.Errorf("%+v", f.Unread)
	}
}

// realSSHD is a machine in a folder whose sshd is a real one, with a configuration
// that write replaces.
func realSSHD(t *testing.T, files map[string]string) (m *Machine, write func(config string)) {
	t.Helper()
	sshd := sshdtest.Program(t)
	m = host(t, files)
	hostKey, config := filepath.Join(m.Root, "hk"), filepath.Join(m.Root, "config")
	if err := os.WriteFile(hostKey, []byte(privateKey(t, "", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Run = func(argv ...string) (string, error) {
		if argv[0] != "sshd" {
			return "", errors.New("none")
		}
		out, err := exec.Command(sshd, append([]string{"-f", config}, argv[1:]...)...).CombinedOutput()
		return string(out), err
	}
	return m, func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte("HostKey "+hostKey+"\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLookRealSSHD: what sshd itself says of a configuration is understood.
func TestLookRealSSHD(t *testing.T) {
	t.Parallel()
	m, write := realSSHD(t, map[string]string{"/etc/passwd": passwd, "/usr/sbin/sshd": "", "/etc/ssh/kido_keys": locked + edKey})
	write("AuthorizedKeysFile .ssh/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nAcceptEnv LANG LD_*\n" +
		"Match User kido\nAuthorizedKeysFile /etc/ssh/kido_keys\nForceCommand " + gateProgram + "\nMatch Address 192.0.2.1\nMaxSessions 99\n")
	f := m.Look()
	if f.Server.Major == 0 || len(f.Configs) != 4 || len(f.KeyFiles) != 1 {
		t.Fatalf("version %s, %d connections, files %+v, unread %+v", f.Server.Banner, len(f.Configs), f.KeyFiles, f.Unread)
	}
	if from := f.Configs[3]; from.From != "from 192.0.2.1" || from.get("maxsessions") != "99" || f.Configs[1].get("maxsessions") == "99" {
		t.Errorf("what is for one address: %v", from.Values["maxsessions"])
	}
	found := rulesOf(Judge(f))
	for _, want := range []string{"sshd-accept-env", "sshd-max-sessions"} {
		if !found[want] {
			t.Errorf("nothing is found by %s", want)
		}
	}
	if found["key-not-locked"] || found["sshd-not-public-key-only"] {
		t.Errorf("%v", found)
	}
}

func rulesOf(all []Finding) map[string]bool {
	found := map[string]bool{}
	for _, x := range all {
		found[x.Rule] = true
	}
	return found
}

// TestMends: the lines that findings ask for, put where they say, mend what was
// found, and make no other finding.
func TestMends(t *testing.T) {
	t.Parallel()
	const weak = "PermitRootLogin yes\nPermitEmptyPasswords yes\nPermitUserEnvironment yes\nStrictModes no\nUseDNS yes\nIgnoreRhosts no\n" +
		"PermitTunnel yes\nX11Forwarding yes\nMaxSessions 20\nLoginGraceTime 0\nLogLevel QUIET\nCiphers +3des-cbc\nKexAlgorithms +diffie-hellman-group14-sha1\n" +
		"MACs +hmac-md5\nPubkeyAcceptedAlgorithms +ssh-rsa\nHostKeyAlgorithms +ssh-rsa\nGSSAPIAuthentication yes\nHostbasedAuthentication yes\n"
	m, write := realSSHD(t, map[string]string{
		"/etc/passwd": passwd, "/usr/sbin/sshd": "", "/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n",
		"/root/.ssh/authorized_keys": `from="192.0.2.1",command="/bin/true" ` + edKey,
	})
	write(weak)
	found := Judge(m.Look())
	var first, last []string
	mended := map[string]bool{}
	for _, x := range found {
		lines, where, _ := strings.Cut(x.Mend, " (in /etc/ssh/sshd_config.d/")
		lines = strings.ReplaceAll(lines, "; ", "\n") + "\n"
		switch {
		case strings.HasPrefix(where, "00-local.conf; "):
			first = append(first, lines)
		case strings.HasPrefix(where, "99-root.conf; "):
			last = append(last, lines)
		default:
			continue
		}
		mended[x.Rule] = true
	}
	if len(first) < 20 || len(last) != 1 {
		t.Fatalf("%d lines to come first, %d to come last", len(first), len(last))
	}
	write(strings.Join(first, "") + weak + strings.Join(last, ""))
	f := m.Look()
	if len(f.Configs) == 0 {
		t.Fatalf("sshd does not take the lines:\n%s\n%+v", first, f.Unread)
	}
	before := rulesOf(found)
	for _, x := range Judge(f) {
		if mended[x.Rule] || !before[x.Rule] {
			t.Errorf("there still, or new: %s %s: %s", x.Rule, x.Place, x.Found)
		}
	}
}

// privateKey is a new ed25519 key as ssh-keygen writes it.
func privateKey(t *testing.T, comment, passphrase string) string {
	t.Helper()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("SKIPPED: wants ssh-keygen; install the package openssh-client")
	}
	return generate(t, keygen, "-t", "ed25519", "-C", comment, "-N", passphrase)
}

func generate(t *testing.T, keygen string, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command(keygen, append(args, "-q", "-f", file)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestInspect: a passphrase is told from none in every form that a key has.
func TestInspect(t *testing.T) {
	t.Parallel()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("SKIPPED: wants ssh-keygen; install the package openssh-client")
	}
	for _, args := range [][]string{{"-t", "ed25519"}, {"-t", "rsa", "-b", "1024"}, {"-t", "rsa", "-b", "1024", "-m", "PEM"}, {"-t", "ecdsa", "-m", "PEM"}, {"-t", "ecdsa", "-m", "PKCS8"}} {
		for _, passphrase := range []string{"", "a passphrase"} {
			text := generate(t, keygen, append(slices.Clone(args), "-N", passphrase)...)
			encrypted, key, ok := inspect([]byte(text))
			known := passphrase == "" || !slices.Contains(args, "-m") // else only the .pub file tells
			if !ok || encrypted != (passphrase != "") || (key.Fingerprint != "") != known {
				t.Errorf("%v, passphrase %q: encrypted %v, key %+v, ok %v", args, passphrase, encrypted, key, ok)
			}
		}
	}
	for _, text := range []string{"", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", edKey} {
		if _, _, ok := inspect([]byte(text)); ok {
			t.Errorf("this is no private key: %q", text)
		}
	}
}

func TestScan(t *testing.T) {
	t.Parallel()
	calls, logs := scan(`#!/bin/sh
# ssh -i /no ssh
KEY='/k 1'; LOG=/tmp/a.log
export DIR="/var/log"
ssh -o BatchMode=yes -o StrictHostKeyChecking=no \
	-i "$KEY" host true >"$DIR/x.log" 2>&1
echo hello >>$LOG
/usr/bin/scp -i/k2 -oUserKnownHostsFile=/dev/null a b && true
if ssh -o "StrictHostKeyChecking yes" h; then echo; fi
echo sshd >/tmp/$$.log
`)
	wantCalls := []Call{{Line: 5, Identity: "/k 1", AnyHost: "StrictHostKeyChecking=no"}, {Line: 8, Identity: "/k2", AnyHost: "UserKnownHostsFile=/dev/null"}, {Line: 9, Strict: true}}
	if !reflect.DeepEqual(calls, wantCalls) {
		t.Errorf("calls %+v", calls)
	}
	if want := []LogWrite{{5, "/var/log/x.log"}, {7, "/tmp/a.log"}}; !reflect.DeepEqual(logs, want) {
		t.Errorf("logs %+v", logs)
	}
}

// A crontab is anybody's: none makes the audit take long, fill the memory, or say
// more than can be read.
func TestHostileScript(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"doubling":      "A=0123456789abcdef\n" + strings.Repeat("A=$A$A\n", 60) + "B=$A$A\necho >$B\n",
		"one long line": strings.Repeat("A=1;", largest/4),
		"all continued": strings.Repeat("\\\n", largest/2),
	} {
		begun := time.Now()
		_, logs := scan(text)
		if took := time.Since(begun); took > 30*time.Second || len(logs) > 1 {
			t.Errorf("%s: %s, %d logs", name, took, len(logs))
		}
	}
	if calls, _ := scan("a \\\n" + strings.Repeat("b \\\n", largest/3) + "c\nssh -i /k host\n"); len(calls) != 1 || calls[0].Identity != "/k" {
		t.Errorf("behind a long command: %+v", calls)
	}
	var f Facts
	f.Accounts = []Account{{Name: "root"}}
	key := KeyFile{Chain: Chain{{Path: "/root/.ssh/authorized_keys", Mode: 0o600}}, Accounts: []string{"root"}}
	for n := range 10 * maxFindings {
		key.Lines = append(key.Lines, keys.Line{Number: n + 1, Ignored: "no key"})
	}
	f.KeyFiles = []KeyFile{key}
	if all := Judge(f); len(all) != 20 || !strings.HasSuffix(all[19].Found, "; and so 99980 times more in this file") {
		t.Errorf("%d findings, the last one %+v", len(all), all[len(all)-1])
	}
}

// Keys that only some connections find are found, and so is what sshd does for those.
func TestMatchedConnections(t *testing.T) {
	t.Parallel()
	key := func(name string) string { return edKey + " " + name + "\n" }
	m := host(t, map[string]string{
		"/usr/sbin/sshd": "", "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
		"/etc/ssh/sshd_config":          "Include /etc/ssh/sshd_config.d/*.conf\nMatch User kido\nMatch Address !10.1.2.0/24,172.16.*\nmatch LocalPort=2222 user bob LocalAddress 192.0.2.*\n",
		"/etc/ssh/sshd_config.d/a.conf": "Match Host \"!a.example.org,*.example.org\"\nMatch Address 2001:db8::/32\nMatch User \"a b\" RDomain = red\n",
		"/etc/ssh/by-address":           key("a"), "/etc/ssh/by-port": key("p"), "/root/.ssh/authorized_keys": "",
	})
	var asked []string
	m.Run = func(argv ...string) (string, error) {
		if argv[0] != "sshd" || argv[1] != "-T" {
			return "", nil
		}
		asked = append(asked, argv[3])
		switch c := argv[3] + ","; {
		case strings.Contains(c, ",addr=172.16.1.1,"):
			return "authorizedkeysfile /etc/ssh/by-address\npasswordauthentication yes\n", nil
		case strings.Contains(c, ",lport=2222,"):
			return "authorizedkeysfile /etc/ssh/by-port\n", nil
		}
		return "authorizedkeysfile .ssh/authorized_keys\n", nil
	}
	f := m.Look()
	want := []string{
		"user=root,host=192.0.2.254,addr=192.0.2.254,laddr=127.0.0.1,lport=22",
		"user=root,host=1.example.org,addr=192.0.2.254,laddr=127.0.0.1,lport=22",
		"user=root,host=2001:db8::,addr=2001:db8::,laddr=127.0.0.1,lport=22",
		"user=root,host=192.0.2.254,addr=192.0.2.254,laddr=127.0.0.1,lport=22,rdomain=red",
		"user=root,host=10.1.2.0,addr=10.1.2.0,laddr=127.0.0.1,lport=22",
		"user=root,host=172.16.1.1,addr=172.16.1.1,laddr=127.0.0.1,lport=22",
		"user=root,host=192.0.2.254,addr=192.0.2.254,laddr=192.0.2.1,lport=2222",
	}
	if !slices.Equal(asked, want) {
		t.Errorf("asked:\n%s\nwant:\n%s", strings.Join(asked, "\n"), strings.Join(want, "\n"))
	}
	var files []string
	for _, k := range f.KeyFiles {
		files = append(files, k.Chain.Path())
	}
	if !slices.Contains(files, "/etc/ssh/by-address") || !slices.Contains(files, "/etc/ssh/by-port") {
		t.Errorf("files of keys: %q", files)
	}
	if !slices.ContainsFunc(Judge(f), func(x Finding) bool {
		return x.Rule == "sshd-not-public-key-only" || x.Rule == "key-not-locked" && x.Place.File == "/etc/ssh/by-port"
	}) {
		t.Error("nothing is found of them")
	}
}

// A command that runs whatever is asked for locks nothing.
func TestRunsAnything(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]bool{
		"$SSH_ORIGINAL_COMMAND": true, `sh -c "$SSH_ORIGINAL_COMMAND"`: true, "eval ${SSH_ORIGINAL_COMMAND}": true,
		`exec /bin/bash -lc "$SSH_ORIGINAL_COMMAND"`: true, "sudo $SSH_ORIGINAL_COMMAND": true,
		"/bin/bash": true, "exec bash -l": true, "sh": true, "zsh --login": true,
		"": false, "/etc/init.d/httpd restart": false, "/usr/local/sbin/kido-gate": false, "internal-sftp": false, "sh /root/backup": false,
		"/usr/bin/rrsync -ro /srv": false, `/usr/local/bin/check "$SSH_ORIGINAL_COMMAND"`: false, `sh -c 'echo no'`: false,
		`case "$SSH_ORIGINAL_COMMAND" in a) /bin/a;; esac`: false,
	} {
		if got := runsAnything(command); got != want {
			t.Errorf("%q: %v, want %v", command, got, want)
		}
	}
}

// The C library takes less than a whole line of /etc/passwd, and what it takes
// logs in.
func TestShortAccounts(t *testing.T) {
	t.Parallel()
	m := host(t, map[string]string{"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nshort:x: 0:0::/short\nshorter:x:0:0\nnone:x:0\n"})
	l := &looker{Machine: m}
	l.accounts()
	want := []Account{{Name: "root", Home: "/root", Shell: "/bin/bash"}, {Name: "short", Home: "/short"}, {Name: "shorter"}}
	if !slices.Equal(l.Accounts, want) {
		t.Errorf("%+v", l.Accounts)
	}
}

func TestSudoReader(t *testing.T) {
	t.Parallel()
	m := host(t, map[string]string{"/etc/sudoers": `Cmnd_Alias WEB = /etc/init.d/a restart, /etc/init.d/a stop : DB = /bin/db
User_Alias OPS = alice, STAFF : STAFF = %ops, OPS
root ALL=(ALL:ALL) ALL
OPS, bob ALL = (www) NOPASSWD: WEB, PASSWD: /bin/x, \
	(root) NOPASSWD:SETENV: /bin/y a\, b # all of it
#1000 ALL=(root) NOPASSWD: sha224:0123 /bin/z ""
#include local
#include "a b"
#includedir none
`, "/etc/local": "carol ALL=NOPASSWD: DB\n", "/etc/a b": "dave ALL=NOPASSWD: DB\n"})
	l := &looker{Machine: m}
	l.sudo()
	var got []string
	for _, r := range l.Sudo {
		got = append(got, fmt.Sprint(r.Line, " ", r.Who, " ", r.RunAs, " ", r.NoPassword, " ", r.Command))
	}
	want := []string{
		"3 root ALL:ALL false ALL",
		"4 alice www true /etc/init.d/a restart", "4 %ops www true /etc/init.d/a restart", "4 bob www true /etc/init.d/a restart",
		"4 alice www true /etc/init.d/a stop", "4 %ops www true /etc/init.d/a stop", "4 bob www true /etc/init.d/a stop",
		"4 alice www false /bin/x", "4 %ops www false /bin/x", "4 bob www false /bin/x",
		`4 alice root true /bin/y a\, b`, `4 %ops root true /bin/y a\, b`, `4 bob root true /bin/y a\, b`,
		`6 #1000 root true /bin/z ""`,
		"1 carol root true /bin/db",
		"1 dave root true /bin/db",
	}
	if !slices.Equal(got, want) || len(l.Unread) > 0 {
		t.Errorf("got %s\nwant %s\nunread %v", strings.Join(got, "\n"), strings.Join(want, "\n"), l.Unread)
	}
}

func TestPolkitRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       []PolkitRule
	}{
		{"another action", `polkit.addRule(function(a, s) { if (a.id == "org.freedesktop.login1.reboot") return polkit.Result.YES; });`, nil},
		{"no", `polkit.addRule(function(a, s) { if (a.id == "org.freedesktop.systemd1.manage-units") return polkit.Result.NO; });`, nil},
		{"only a comment", "// polkit.addRule(org.freedesktop.systemd1 polkit.Result.YES)\n/* addRule org.freedesktop.systemd1 polkit.Result.YES */", nil},
		{"any action", "\n\npolkit.addRule(function(a, s) { return polkit.Result.YES; });", []PolkitRule{{File: "f", Line: 3, Start: true, Units: map[string][]string{}}}},
		{"any unit", `polkit.addRule(function(a, s) { if (a.id.indexOf("org.freedesktop.systemd1.") == 0 && s.user === 'x') return polkit.Result.YES; });`, []PolkitRule{{File: "f", Line: 1, Users: []string{"x"}, Start: true, Units: map[string][]string{}}}},
		{
			"a verb", `polkit.addRule(function(a, s) { if (a.id == "org.freedesktop.systemd1.manage-units" && a.lookup('unit') == "x.service" && a.lookup("verb") == "restart") return polkit.Result.YES; });`,
			[]PolkitRule{{File: "f", Line: 1, AsksUnit: true, Units: map[string][]string{}}},
		},
	} {
		if got := polkitRules("f", c.text); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	old := polkitOldRules("f", "[a]\nIdentity=unix-user:x;unix-group:y\nAction=org.freedesktop.systemd1.*\nResultAny=yes\n[b]\nAction=org.freedesktop.login1.reboot\nResultAny=yes\n")
	if want := []PolkitRule{{File: "f", Line: 1, Users: []string{"x"}, Start: true, Units: map[string][]string{}}}; !reflect.DeepEqual(old, want) {
		t.Errorf("%+v", old)
	}
}

// FuzzJudge: whatever stands in the files of a host, reading and judging it ends,
// and what is said can be shown.
func FuzzJudge(f *testing.F) {
	f.Add(locked+edKey, "x ALL=(ALL) NOPASSWD: /a, \\\n /b", "ssh -i $K h >>/tmp/l", "polkit.addRule(YES)")
	f.Add("\x1b]0;x\a ssh-rsa AAAA", "Cmnd_Alias A = ,:=\nkido ALL=NOPASSWD:A,/etc/init.d/* ?", "A=$A\nssh \\", "/* addRule")
	f.Add("x", "y ALL = NOPASSWD: ALL", "Match Address 10.*,!10.1.1.1 Host = \"a b\"\nInclude '/a b'/[!c]?*\\\nOPTS=-D -oA=b -f/c $D", "LocalPort 22,2222")
	f.Add("host/db1", "#include /x\n@includedir y", "A=1;B=2 # c", "[x]\nAction=*\nResultAny=yes\nIdentity=unix-user:kido")
	f.Fuzz(func(t *testing.T, keyFile, sudoers, script, rules string) {
		x := good()
		x.keysOf("alice", "/home/alice/.ssh/authorized_keys", 1000, keyFile)
		x.principals(keyFile)
		l := &looker{Machine: &Machine{Root: "/nonexistent"}}
		r := &sudoReader{l: l, aliases: map[string][]string{}, seen: map[string]bool{}}
		r.text("/etc/sudoers", sudoers)
		r.finish()
		l.Server = &Server{}
		files := &sshdReader{l: l, seen: map[string]bool{}}
		for line := range strings.Lines(script) {
			_, rest := directive(line)
			inside := files.match(sshdConfig, []connection{{}}, rest)
			files.match(sshdConfig, inside, rules)
			for _, word := range splitWords(rest) {
				_, _ = files.glob(inSSH(word))
			}
			l.start(Place{File: "/etc/default/ssh"}, rest)
		}
		x.Server.Started = l.Server.Started
		x.Sudo, x.Unread = append(x.Sudo, l.Sudo...), l.Unread
		s := Script{Chain: chainOf("/etc/init.d/x", 0, 0o755)}
		s.Calls, s.Logs = scan(script)
		x.Scripts = append(x.Scripts, s)
		x.Polkit = slices.Concat(x.Polkit, polkitRules("a.rules", rules), polkitOldRules("a.pkla", rules))
		if encrypted, key, ok := inspect([]byte(keyFile)); ok {
			x.PrivateKeys = []PrivateKey{{chainOf("/root/.ssh/id", 0, 0o600), "root", encrypted, key}}
		}
		report := Report{Findings: Judge(x)}
		before := slices.Clone(report.Findings)
		if err := report.Check(); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(before, report.Findings) {
			t.Fatal("what is said cannot be shown as it is")
		}
	})
}
