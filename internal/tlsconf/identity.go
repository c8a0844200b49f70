package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The files of an identity.
const (
	caFile     = "ca.pem"
	certFile   = "cert.pem"
	keyFile    = "key.pem"
	gossipFile = "gossip.key"
	caKeyFile  = "ca-key.pem" // beside a CA only
)

const (
	gossipBytes = 32      // AES-256
	maxFile     = 1 << 20 // chains of certificates are a few KiB
)

// Identity is what a node needs to prove who it is and to check others. It is immutable and may be shared.
type Identity struct {
	cert   tls.Certificate
	ca     *x509.CertPool
	gossip []byte
	now    func() time.Time
}

// Load reads and checks a node's folder. The error lists every fault, each with its file and what to do: files that are missing, a
// key that does not belong to the certificate, a certificate that the CA did not sign, that may not both serve and dial, or that is
// not valid today.
func Load(dir string) (*Identity, error) { return loadAt(dir, time.Now) }

func loadAt(dir string, now func() time.Time) (*Identity, error) {
	var faults []error
	read := func(name string) []byte {
		b, err := readBounded(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: make one with `lockstep certs %s --host HOST`", err, dir)
		}
		faults = append(faults, err)
		return b
	}
	ca, cert, key, gossip := read(caFile), read(certFile), read(keyFile), read(gossipFile)
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("TLS identity: %w", err)
	}
	id := &Identity{ca: x509.NewCertPool(), now: now}
	var err error
	if !id.ca.AppendCertsFromPEM(ca) {
		faults = append(faults, fmt.Errorf("%s: no certificate in it", filepath.Join(dir, caFile)))
	}
	if id.gossip, err = parseGossipKey(gossip); err != nil {
		faults = append(faults, fmt.Errorf("%s: %w", filepath.Join(dir, gossipFile), err))
	}
	if id.cert, err = tls.X509KeyPair(cert, key); err != nil {
		faults = append(faults, fmt.Errorf("%s with %s: %w", filepath.Join(dir, certFile), keyFile, err))
	} else if err := id.checkOwn(); err != nil {
		faults = append(faults, fmt.Errorf("%s: %w", filepath.Join(dir, certFile), err))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("TLS identity: %w", err)
	}
	return id, nil
}

// checkOwn holds the node's certificate against the CA, as its peers will.
func (id *Identity) checkOwn() error {
	leaf := id.cert.Leaf
	between := x509.NewCertPool()
	for _, der := range id.cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("intermediate certificate: %w", err)
		}
		between.AddCert(c)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		o := x509.VerifyOptions{Roots: id.ca, Intermediates: between, CurrentTime: id.now(), KeyUsages: []x509.ExtKeyUsage{use}}
		if _, err := leaf.Verify(o); err != nil {
			return Explain(&tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{leaf}, Err: err})
		}
	}
	return nil
}

// Server is the configuration for accepting connections: TLS 1.3, and a certificate of the CA asked of every client.
func (id *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    id.ca,
		Time:         id.now,
	}
}

// Client is the configuration for dialling: TLS 1.3, showing the node's certificate, trusting the CA alone. The dialler sets
// ServerName to the host dialled; tls.Dial and gRPC do so by themselves.
func (id *Identity) Client() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		RootCAs:      id.ca,
		Time:         id.now,
	}
}

// GossipKey is the cluster's key for memberlist, 32 bytes for AES-256-GCM. The slice is the caller's.
func (id *Identity) GossipKey() []byte { return slices.Clone(id.gossip) }

// Explain adds to a failed handshake's error whose certificate it was about and what to do. Other errors it returns as they are.
func Explain(err error) error {
	var failed *tls.CertificateVerificationError
	if !errors.As(err, &failed) || len(failed.UnverifiedCertificates) == 0 {
		return err
	}
	c := failed.UnverifiedCertificates[0]
	who := fmt.Sprintf("certificate %q for %s", c.Subject.CommonName, strings.Join(hostsOf(c), ", "))
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%s is valid from %s to %s only: make a new one with `lockstep certs`, or set the clock right: %w",
			who, c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), err)
	case errors.As(err, &unknown):
		return fmt.Errorf("%s is not of this cluster's CA: give all nodes folders made from one CA: %w", who, err)
	case errors.As(err, &host):
		return fmt.Errorf("%s does not name the host dialled: make one that does with `lockstep certs DIR --host HOST`: %w", who, err)
	default:
		return fmt.Errorf("%s: %w", who, err)
	}
}

// hostsOf lists the names and addresses a certificate is for.
func hostsOf(c *x509.Certificate) []string {
	hosts := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

func parseGossipKey(text []byte) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("not base64: %w", err)
	}
	if len(key) != gossipBytes {
		return nil, fmt.Errorf("the key has %d bytes, want %d", len(key), gossipBytes)
	}
	return key, nil
}

// readBounded reads a small file.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s has more than %d bytes: not what belongs there", path, maxFile)
	}
	return b, nil
}

// parsePEM gives the first block's bytes, which must be of the given kind.
func parsePEM(path, kind string) ([]byte, error) {
	text, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: no PEM block %q in it", path, kind)
	}
	return block.Bytes, nil
}
