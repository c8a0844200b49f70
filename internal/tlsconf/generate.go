package tlsconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

const (
	// caValidity outlives the nodes, so that Issue can renew them without touching the others.
	caValidity = 10 * 365 * 24 * time.Hour
	// clockSkew is how far a machine's clock may be behind the one that made the certificate.
	clockSkew = time.Hour
)

// authority signs.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Generate makes a folder with a new CA, a gossip key and one node certificate, good for serving and dialling at the given hosts
// (names or addresses, without ports; loopback is always among them) for the given time. Private files are readable by their owner
// alone. It overwrites nothing: if any of its files is there, the error names it.
func Generate(dir string, hosts []string, validity time.Duration) error {
	return generateAt(dir, hosts, validity, time.Now())
}

func generateAt(dir string, hosts []string, validity time.Duration, now time.Time) error {
	if err := checkRequest(dir, hosts, validity, caFile, caKeyFile, certFile, keyFile, gossipFile); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	ca, err := newAuthority(now, max(validity, caValidity))
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	gossip := make([]byte, gossipBytes)
	rand.Read(gossip) // crypto/rand never fails: it ends the process instead
	files := []outFile{
		{caFile, 0o644, encodePEM("CERTIFICATE", ca.cert.Raw)},
		{caKeyFile, 0o600, caKey},
		{gossipFile, 0o600, []byte(base64.StdEncoding.EncodeToString(gossip) + "\n")},
	}
	node, err := ca.node(hosts, validity, now)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	return writeAll(dir, append(files, node...))
}

// Issue makes the folder of a further machine from one that Generate made: a node certificate of the same CA for the given hosts,
// and copies of the CA's certificate and the gossip key. Like Generate it overwrites nothing.
func Issue(caDir, dir string, hosts []string, validity time.Duration) error {
	if err := checkRequest(dir, hosts, validity, caFile, certFile, keyFile, gossipFile); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	ca, err := loadAuthority(caDir)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	gossip, err := readBounded(filepath.Join(caDir, gossipFile))
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	node, err := ca.node(hosts, validity, time.Now())
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	return writeAll(dir, append(node, outFile{caFile, 0o644, encodePEM("CERTIFICATE", ca.cert.Raw)}, outFile{gossipFile, 0o600, gossip}))
}

// checkRequest reports everything that is wrong with a request at once.
func checkRequest(dir string, hosts []string, validity time.Duration, files ...string) error {
	var faults []error
	if validity <= 0 {
		faults = append(faults, fmt.Errorf("validity is %s, want more than 0", validity))
	}
	if len(hosts) == 0 {
		faults = append(faults, errors.New("no host: name those at which the nodes reach each other"))
	}
	for _, h := range hosts {
		faults = append(faults, checkHost(h))
	}
	for _, name := range files {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			faults = append(faults, fmt.Errorf("%s is there already: choose another folder, or remove it first", path))
		} else if !errors.Is(err, os.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func checkHost(h string) error {
	if ip := net.ParseIP(h); ip != nil {
		if ip.IsUnspecified() {
			return fmt.Errorf("host %s stands for every address: give the one that other machines use", h)
		}
		return nil
	}
	for _, c := range h {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._*", c) {
			return fmt.Errorf("host %q is neither a name nor an address (a port does not belong to it)", h)
		}
	}
	if h == "" {
		return errors.New("a host is empty")
	}
	return nil
}

func newAuthority(now time.Time, validity time.Duration) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "lockstep CA"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

func loadAuthority(dir string) (*authority, error) {
	certDER, certErr := parsePEM(filepath.Join(dir, caFile), "CERTIFICATE")
	keyDER, keyErr := parsePEM(filepath.Join(dir, caKeyFile), "PRIVATE KEY")
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	cert, certErr := x509.ParseCertificate(certDER)
	key, keyErr := x509.ParsePKCS8PrivateKey(keyDER)
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("read the CA in %s: %w", dir, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("read the CA in %s: %s is not the key of %s", dir, caKeyFile, caFile)
	}
	return &authority{cert, ec}, nil
}

// node makes a node's certificate and key.
func (a *authority) node(hosts []string, validity time.Duration, now time.Time) ([]outFile, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "lockstep node"},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return []outFile{{certFile, 0o644, encodePEM("CERTIFICATE", der)}, {keyFile, 0o600, keyPEM}}, nil
}

// serial is 128 random bits: certificates of one CA must not share a number.
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // crypto/rand never fails: it ends the process instead
	return new(big.Int).SetBytes(b[:])
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encodePEM("PRIVATE KEY", der), nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// outFile is a file to be written.
type outFile struct {
	name string
	perm fs.FileMode
	body []byte
}

// writeAll writes all files or none.
func writeAll(dir string, files []outFile) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	for i, f := range files {
		err := vfs.WriteAtomic(vfs.OS{}, filepath.Join(dir, f.name), f.perm, func(w io.Writer) error {
			_, err := w.Write(f.body)
			return err
		})
		if err != nil {
			err = fmt.Errorf("make certificates: %w", err)
			for _, written := range files[:i] {
				err = errors.Join(err, os.Remove(filepath.Join(dir, written.name)))
			}
			return err
		}
	}
	return nil
}
