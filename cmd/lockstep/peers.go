package main

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/lockstep-ml/lockstep/internal/gossip"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// peers implements worker.Peers.
type peers struct{ sec *network }

// Dial implements worker.Peers. The connection is made with the first call on it, which has a deadline.
func (p peers) Dial(_ context.Context, address string) (pb.PeerClient, io.Closer, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(p.sec.client()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxControlMessage)))
	if err != nil {
		return nil, nil, fmt.Errorf("worker at %s: %w", address, err)
	}
	return pb.NewPeerClient(conn), conn, nil
}

// finder reaches the run's coordinator wherever it is at that moment.
type finder struct {
	node *gossip.Node
	join []string // members to ask when the gossip knows of no coordinator
	sec  *network
}

// dial implements worker.Config.Dial.
func (f *finder) dial(ctx context.Context) (pb.ControlClient, io.Closer, error) {
	if !f.node.HasCoordinator() {
		f.node.Reach(f.join)
	}
	meta, err := f.node.Coordinator(ctx)
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient(meta.RPC, grpc.WithTransportCredentials(f.sec.client()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxControlMessage)))
	if err != nil {
		return nil, nil, fmt.Errorf("coordinator at %s: %w", meta.RPC, err)
	}
	return pb.NewControlClient(conn), conn, nil
}
