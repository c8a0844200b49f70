package worker

import (
	"errors"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// maxServed bounds the workers that copy a state at the same time: each takes a link's whole rate for a while, and the rest ask again.
const maxServed = 4

// StateServer gives the states that a worker holds to others, beside training. It serves from before a worker has any until its
// gRPC server ends; the zero value is ready for use.
type StateServer struct {
	pb.UnimplementedPeerServer
	mu     sync.Mutex
	run    string
	held   []*heldState
	active int
}

// heldState is a state that is served; it is never changed.
type heldState struct {
	*snapshot.Snapshot
	hash func() string // computed for the first who asks: it takes a moment, and often nobody does
}

// open says for which run there will be states.
func (s *StateServer) open(run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = run
}

// keep forgets the states of all other steps.
func (s *StateServer) keep(steps []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = slices.DeleteFunc(s.held, func(h *heldState) bool { return !slices.Contains(steps, h.Step) })
}

// add takes a state over.
func (s *StateServer) add(state *snapshot.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(slices.DeleteFunc(s.held, func(h *heldState) bool { return h.Step == state.Step }), &heldState{state, sync.OnceValue(state.Hash)})
}

func (s *StateServer) has(step uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.held, func(h *heldState) bool { return h.Step == step })
}

// take finds a state and counts its reader.
func (s *StateServer) take(req *pb.PeerStateRequest) (*heldState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.GetRun() != s.run {
		return nil, status.Errorf(codes.FailedPrecondition, "this worker trains run %q, not %.128q", s.run, req.GetRun())
	}
	for _, h := range s.held {
		if h.Step != req.GetStep() {
			continue
		}
		if s.active == maxServed {
			return nil, status.Errorf(codes.ResourceExhausted, "%d workers copy states from here already", s.active)
		}
		s.active++
		return h, nil
	}
	return nil, status.Errorf(codes.NotFound, "the state of step %d is not held here", req.GetStep())
}

func (s *StateServer) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
}

// GetState implements pb.PeerServer.
func (s *StateServer) GetState(req *pb.PeerStateRequest, stream pb.Peer_GetStateServer) error {
	state, err := s.take(req)
	if err != nil {
		return err
	}
	defer s.release()
	r := snapshot.NewReaderOf(state.Snapshot, state.hash())
	h := r.Header()
	if want := req.GetHash(); want != "" && want != h.Hash {
		return status.Errorf(codes.NotFound, "the state of step %d here has hash %s, not %.80q", h.Step, h.Hash, want)
	}
	if err := r.Skip(req.GetOffset()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	head := &pb.StateHeader{Step: h.Step, Params: uint64(h.Lengths.Params), Norms: uint64(h.Lengths.Mean), Hash: h.Hash}
	if err := stream.Send(&pb.StateChunk{Header: head}); err != nil { //bounded: keepalive ends the connection of a worker that does not answer; the other side's watch one that is slow
		return err
	}
	for {
		c, err := r.Next(snapshot.ChunkBytes)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		if err := stream.Send(&pb.StateChunk{Offset: c.Offset, Data: c.Data, Crc32C: c.CRC32C}); err != nil { //bounded: keepalive ends the connection of a worker that does not answer
			return err
		}
	}
}
