package ringgrpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// mutualTLS makes credentials that all workers of a test share: one certificate,
// its own authority.
func mutualTLS(t *testing.T) credentials.TransportCredentials {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})
}

func TestMutualTLS(t *testing.T) {
	creds := mutualTLS(t)
	workers := []*worker{
		newWorkerWith(t, run, false, 2, creds, grpc.Creds(creds)),
		newWorkerWith(t, run, false, 2, creds, grpc.Creds(creds)),
	}
	rings := joinAll(t, workers, 1, 2, nil)
	_, errs := reduce(t.Context(), rings, allreduce.Bucket{Step: 1}, gradients(2, 100_000, 1))
	for rank, err := range errs {
		if err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
	closeAll(t, rings)

	stranger := newWorkerWith(t, run, false, 2, insecure.NewCredentials())
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error {
		if _, err := stranger.node.Join(ctx, 2, 1, 2, workers[0].addr); err == nil {
			t.Error("a stranger without a certificate joined")
		}
		return nil
	})
	if _, err := workers[0].node.Join(ctx, 2, 0, 2, stranger.addr); err == nil {
		t.Error("joined a stranger without a certificate")
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
