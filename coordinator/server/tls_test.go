package server

import (
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/tlsconf"
)

// identity makes a cluster of its own and returns a node of it.
func identity(t *testing.T, name string) *tlsconf.Identity {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := tlsconf.Generate(dir, []string{"127.0.0.1"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	id, err := tlsconf.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestTLS: with certificates of the cluster a run goes through; a stranger's certificate and clear text get not even a status.
func TestTLS(t *testing.T) {
	ours, theirs := identity(t, "ours"), identity(t, "theirs")
	cfg, _ := testConfig(t, 1)
	cfg.TLS = ours.Server()
	r := start(t, cfg)
	for what, creds := range map[string]credentials.TransportCredentials{
		"a stranger": credentials.NewTLS(theirs.Client()), "clear text": insecure.NewCredentials(),
	} {
		conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pb.NewControlClient(conn).Status(t.Context(), &pb.StatusRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	wg := crew(dialWith(t, r.addr, "1", credentials.NewTLS(ours.Client())))
	result, err := r.wait()
	wg.Wait()
	if err != nil || result.Step != 12 {
		t.Errorf("ended at step %d with %v", result.Step, err)
	}
}
