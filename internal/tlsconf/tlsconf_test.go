package tlsconf

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testDeadline = 10 * time.Second

func generate(t *testing.T, hosts ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	if err := Generate(dir, append(hosts, "127.0.0.1"), time.Hour); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t *testing.T, dir string) *Identity {
	t.Helper()
	id, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// meet lets a client speak to a server over a real socket: the client sends a byte and waits for it to come back. It gives what each
// side met. In TLS 1.3 a client learns of its refusal only when it reads.
func meet(t *testing.T, server *tls.Config, client func(addr string) (net.Conn, error)) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(testDeadline)); err != nil {
				return err
			}
			s := tls.Server(c, server)
			if err := s.Handshake(); err != nil {
				return err
			}
			_, err = io.CopyN(s, s, 1)
			return err
		}()
	}()
	clientErr = func() error {
		c, err := client(l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(testDeadline)); err != nil {
			return err
		}
		if _, err := c.Write([]byte{42}); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}()
	return <-done, clientErr
}

// dial is a client with a configuration.
func dial(c *tls.Config) func(string) (net.Conn, error) {
	return func(addr string) (net.Conn, error) {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: testDeadline}, "tcp", addr, c)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
}

func TestNodesOfOneCASpeak(t *testing.T) {
	first := generate(t)
	second := filepath.Join(t.TempDir(), "second")
	if err := Issue(first, second, []string{"gpu7.example", "192.0.2.7"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	a, b := load(t, first), load(t, second)
	for _, pair := range [][2]*Identity{{a, a}, {a, b}, {b, a}} {
		if serverErr, clientErr := meet(t, pair[0].Server(), dial(pair[1].Client())); serverErr != nil || clientErr != nil {
			t.Errorf("server: %v, client: %v", serverErr, clientErr)
		}
	}
	named := b.Client()
	named.ServerName = "gpu7.example"
	if serverErr, clientErr := meet(t, b.Server(), dial(named)); serverErr != nil || clientErr != nil {
		t.Errorf("by name: server: %v, client: %v", serverErr, clientErr)
	}
	if string(a.GossipKey()) != string(b.GossipKey()) || len(a.GossipKey()) != 32 {
		t.Error("two nodes of one cluster have different gossip keys, or not 32 bytes")
	}
	a.GossipKey()[0] ^= 1
	if string(a.GossipKey()) != string(b.GossipKey()) {
		t.Error("a caller can spoil the gossip key")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	us, stranger := load(t, generate(t)), load(t, generate(t))
	if string(us.GossipKey()) == string(stranger.GossipKey()) {
		t.Error("two clusters share a gossip key")
	}
	// The stranger trusts anyone, so that it is our side that must refuse.
	trusting := stranger.Client()
	trusting.InsecureSkipVerify = true
	serverErr, clientErr := meet(t, us.Server(), dial(trusting))
	if serverErr == nil || clientErr == nil || !strings.Contains(Explain(serverErr).Error(), "not of this cluster's CA") {
		t.Errorf("a stranger's client: server %v, client %v", serverErr, clientErr)
	}
	open := stranger.Server()
	open.ClientAuth = tls.RequestClientCert
	_, clientErr = meet(t, open, dial(us.Client()))
	if clientErr == nil || !strings.Contains(Explain(clientErr).Error(), "not of this cluster's CA") {
		t.Errorf("a stranger's server: %v", clientErr)
	}
	bare := us.Client()
	bare.Certificates = nil
	if serverErr, clientErr = meet(t, us.Server(), dial(bare)); serverErr == nil || clientErr == nil {
		t.Errorf("a client without a certificate: server %v, client %v", serverErr, clientErr)
	}
	old := us.Client()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if serverErr, clientErr = meet(t, us.Server(), dial(old)); serverErr == nil || clientErr == nil {
		t.Errorf("a client of TLS 1.2: server %v, client %v", serverErr, clientErr)
	}
}

func TestPlaintextIsRefused(t *testing.T) {
	serverErr, clientErr := meet(t, load(t, generate(t)).Server(), func(addr string) (net.Conn, error) {
		c, err := net.DialTimeout("tcp", addr, testDeadline)
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
		return c, err
	})
	var record tls.RecordHeaderError
	if !errors.As(serverErr, &record) {
		t.Errorf("the server met %v, want a record header error", serverErr)
	}
	// The client is not a TLS one: it may read an alert's first byte, or lose the connection.
	t.Logf("the client met %v", clientErr)
}

func TestAnotherHostsCertificateIsRefused(t *testing.T) {
	id := load(t, generate(t, "gpu7.example"))
	c := id.Client()
	c.ServerName = "gpu8.example"
	_, err := meet(t, id.Server(), dial(c))
	if err == nil || !strings.Contains(Explain(err).Error(), "does not name the host dialled") || !strings.Contains(Explain(err).Error(), "gpu7.example") {
		t.Errorf("not refused, or not explained: %v", Explain(err))
	}
}

func TestExpiredCertificateIsNamed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	past := time.Now().Add(-48 * time.Hour)
	if err := generateAt(dir, []string{"127.0.0.1", "gpu7.example"}, time.Hour, past); err != nil {
		t.Fatal(err)
	}
	end := past.Add(time.Hour).UTC().Format(time.RFC3339)
	_, err := Load(dir)
	for _, want := range []string{"cert.pem", "gpu7.example", "valid from", end, "lockstep certs"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("Load of an expired certificate does not say %q: %v", want, err)
		}
	}
	// One that was loaded while it was valid is refused by its peers from the moment it is not.
	old, err := loadAt(dir, func() time.Time { return past })
	if err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := Issue(dir, fresh, []string{"127.0.0.1"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	client, server := old.Client(), old.Server()
	client.Time, server.Time = time.Now, time.Now
	serverErr, _ := meet(t, load(t, fresh).Server(), dial(client))
	if serverErr == nil || !strings.Contains(Explain(serverErr).Error(), end) {
		t.Errorf("a client with an expired certificate: %v", Explain(serverErr))
	}
	_, clientErr := meet(t, server, dial(load(t, fresh).Client()))
	if clientErr == nil || !strings.Contains(Explain(clientErr).Error(), end) {
		t.Errorf("a server with an expired certificate: %v", Explain(clientErr))
	}
}

func TestGenerateKeepsSecretsAndOverwritesNothing(t *testing.T) {
	dir := generate(t)
	for name, perm := range map[string]os.FileMode{caFile: 0o644, caKeyFile: 0o600, certFile: 0o644, keyFile: 0o600, gossipFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&^perm != 0 {
			t.Errorf("%s has mode %o, want at most %o", name, info.Mode().Perm(), perm)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"Generate": func() error { return Generate(dir, []string{"a"}, time.Hour) },
		"Issue":    func() error { return Issue(dir, dir, []string{"a"}, time.Hour) },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), keyFile) {
			t.Errorf("%s into a used folder: %v", name, err)
		}
	}
	after, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil || string(after) != string(before) {
		t.Errorf("the key changed (%v)", err)
	}
}

func TestRequestsReportEveryFault(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	err := Generate(dir, []string{"0.0.0.0", "gpu7:7070", ""}, 0)
	for _, want := range []string{"validity", "0.0.0.0", `"gpu7:7070"`, "empty"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not speak of %s: %v", want, err)
		}
	}
	if err := Generate(dir, nil, time.Hour); err == nil {
		t.Error("a certificate for no host is made")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused request left something behind: %v", err)
	}
	if err := Issue(t.TempDir(), dir, []string{"a"}, time.Hour); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Issue without a CA: %v", err)
	}
}

func TestLoadNamesWhatIsWrong(t *testing.T) {
	other := generate(t)
	spoil := map[string]struct {
		change func(dir string) error
		want   []string
	}{
		"missing": {func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, caFile)), os.Remove(filepath.Join(d, keyFile)))
		}, []string{caFile, keyFile, "lockstep certs"}},
		"other key": {func(d string) error { return copyFile(filepath.Join(other, keyFile), filepath.Join(d, keyFile)) }, []string{certFile, keyFile}},
		"other CA":  {func(d string) error { return copyFile(filepath.Join(other, caFile), filepath.Join(d, caFile)) }, []string{certFile, "not of this cluster's CA"}},
		"no CA":     {func(d string) error { return os.WriteFile(filepath.Join(d, caFile), []byte("x"), 0o644) }, []string{caFile, "no certificate"}},
		"short gossip key": {func(d string) error {
			return os.WriteFile(filepath.Join(d, gossipFile), []byte("AAAA"), 0o600)
		}, []string{gossipFile, "3 bytes, want 32"}},
		"huge": {func(d string) error { return os.Truncate(filepath.Join(d, gossipFile), maxFile+1) }, []string{gossipFile, "more than"}},
	}
	for name, s := range spoil {
		dir := generate(t)
		if err := s.change(dir); err != nil {
			t.Fatal(err)
		}
		_, err := Load(dir)
		for _, want := range s.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error does not say %q: %v", name, want, err)
			}
		}
	}
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

func TestLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:80": true, "127.8.9.1": true, "localhost:1": true, "LOCALHOST": true, "[::1]:80": true, "::1": true, "[::1]": true,
		"[::ffff:127.0.0.1]:80": true,
		":80":                   false, "": false, "0.0.0.0:80": false, "[::]:80": false, "10.0.0.1:80": false, "example.com:80": false,
		"localhost.example.com:80": false, "127.0.0.1.example.com": false,
	} {
		if got := IsLoopback(addr); got != want {
			t.Errorf("IsLoopback(%q) = %v", addr, got)
		}
		refused := CheckBind(addr, false, false)
		if (refused == nil) != want || refused != nil && !errors.Is(refused, ErrInClear) {
			t.Errorf("CheckBind(%q) without TLS: %v", addr, refused)
		}
		if err := errors.Join(CheckBind(addr, true, false), CheckBind(addr, false, true)); err != nil {
			t.Errorf("CheckBind(%q) with TLS or --insecure: %v", addr, err)
		}
	}
	text := CheckBind("10.0.0.1:7070", false, false).Error()
	for _, want := range []string{"10.0.0.1:7070", "lockstep certs DIR --host", "--tls DIR", "--insecure"} {
		if !strings.Contains(text, want) {
			t.Errorf("the refusal does not say %q: %s", want, text)
		}
	}
}
