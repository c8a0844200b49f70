package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/coordinator"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// stateKey names a state that has arrived.
type stateKey struct {
	worker string
	step   uint64
}

// arrived is a verified state that waits for the machine's word, and then for the disk.
type arrived struct {
	snap  *snapshot.Snapshot
	reply chan outcome // buffered: whoever answers does not wait
}

// outcome is what became of a state.
type outcome struct {
	path string
	err  error
}

// job is a state to be written.
type job struct {
	arrived *arrived
	action  coordinator.Store
}

// GetState streams the state that training starts from.
func (s *Server) GetState(req *pb.GetStateRequest, stream pb.Control_GetStateServer) error {
	if !s.attached(req.GetWorker()) {
		return status.Errorf(codes.FailedPrecondition, "worker %.128q is not attached to run %s", req.GetWorker(), s.cfg.Machine.Run)
	}
	r := snapshot.NewReader(s.base.Load())
	h := r.Header()
	head := &pb.StateHeader{Worker: "coordinator", Step: h.Step, Params: uint64(h.Lengths.Params), Norms: uint64(h.Lengths.Mean), Hash: h.Hash}
	if err := stream.Send(&pb.StateChunk{Header: head}); err != nil { //bounded: keepalive ends the connection of a worker that does not answer for 9 s
		return err
	}
	for {
		c, err := r.Next(snapshot.ChunkBytes)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return status.Errorf(codes.Internal, "state of step %d: %v", h.Step, err)
		}
		if err := stream.Send(&pb.StateChunk{Offset: c.Offset, Data: c.Data, Crc32C: c.CRC32C}); err != nil { //bounded: keepalive ends the connection of a worker that does not answer for 9 s
			return err
		}
	}
}

func (s *Server) attached(worker string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byName[worker] != nil
}

// PutState takes a committed state and answers when it is on disk, or was found to be there already.
func (s *Server) PutState(stream pb.Control_PutStateServer) error {
	chunks := make(chan chunk)
	quit := make(chan struct{})
	defer close(quit)
	s.handlers.Add(1)
	go func() { defer s.handlers.Done(); receiveChunks(stream, chunks, quit) }()

	head, err := s.nextChunk(chunks)
	if err != nil {
		return err
	}
	key, header, err := s.expect(head.GetHeader())
	if err != nil {
		return err
	}
	select {
	case s.states <- struct{}{}:
	case <-stream.Context().Done():
		return status.FromContextError(stream.Context().Err()).Err()
	case <-s.done:
		return status.Error(codes.Unavailable, "the coordinator has ended")
	}
	began := s.published.Load()
	snap, err := s.build(header, chunks)
	if err != nil {
		<-s.states //bounded: receiveChunks gives an answer for each message and for the end, within ChunkTimeout
		s.post(coordinator.StateLost{Worker: key.worker, Step: key.step, Reason: clip(status.Convert(err).Message())})
		return err
	}
	out, err := s.await(stream.Context(), key, snap, began)
	if err != nil {
		return err
	}
	return stream.SendAndClose(&pb.PutStateResponse{Path: out.path}) //bounded: keepalive ends the connection of a worker that does not answer for 9 s
}

// chunk is one received message or the stream's end.
type chunk struct {
	msg *pb.StateChunk
	err error
}

// receiveChunks hands messages over until the stream ends or nobody listens any more.
func receiveChunks(stream pb.Control_PutStateServer, chunks chan<- chunk, quit <-chan struct{}) {
	for {
		msg, err := stream.Recv() //bounded: keepalive ends the connection of a worker that does not answer for 9 s
		select {                  //bounded: quit is closed when nextChunk's caller returns, which has ChunkTimeout for each
		case chunks <- chunk{msg, err}:
		case <-quit:
			return
		}
		if err != nil {
			return
		}
	}
}

// nextChunk waits for a message, no longer than ChunkTimeout. At the end it returns io.EOF.
func (s *Server) nextChunk(chunks <-chan chunk) (*pb.StateChunk, error) {
	late := time.NewTimer(s.cfg.ChunkTimeout)
	defer late.Stop()
	select {
	case c := <-chunks:
		return c.msg, c.err
	case <-late.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "the next chunk of the state did not come within %v", s.cfg.ChunkTimeout)
	}
}

// expect checks whose state it is and whether it can be one of the run's network.
func (s *Server) expect(h *pb.StateHeader) (stateKey, snapshot.Header, error) {
	var none snapshot.Header
	if h == nil {
		return stateKey{}, none, status.Error(codes.InvalidArgument, "the first chunk must have the header")
	}
	key := stateKey{h.Worker, h.Step}
	if !s.attached(h.Worker) {
		return key, none, status.Errorf(codes.FailedPrecondition, "worker %.128q is not attached to run %s", h.Worker, s.cfg.Machine.Run)
	}
	want := s.cfg.Initial.Lengths()
	if h.Params != uint64(want.Params) || h.Norms != uint64(want.Mean) {
		return key, none, status.Errorf(codes.InvalidArgument, "state of step %d has %d parameters and %d norms, the run's network has %d and %d",
			h.Step, h.Params, h.Norms, want.Params, want.Mean)
	}
	return key, snapshot.Header{Step: h.Step, Lengths: want, Hash: h.Hash}, nil
}

// build puts the state together.
func (s *Server) build(h snapshot.Header, chunks <-chan chunk) (*snapshot.Snapshot, error) {
	b, err := snapshot.NewBuilder(h, h.Lengths.Bytes())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	for {
		msg, err := s.nextChunk(chunks)
		if errors.Is(err, io.EOF) {
			snap, err := b.Finish()
			if err != nil {
				return nil, status.Error(codes.DataLoss, err.Error())
			}
			return snap, nil
		}
		if err != nil {
			return nil, err
		}
		if err := b.Add(snapshot.Chunk{Offset: msg.Offset, Data: msg.Data, CRC32C: msg.Crc32C}); err != nil {
			return nil, status.Error(codes.DataLoss, err.Error())
		}
	}
}

// await gives the state to the machine and waits for what becomes of it. The state's token goes back when it is out of memory,
// which may be after the sender has gone.
func (s *Server) await(ctx context.Context, key stateKey, snap *snapshot.Snapshot, began uint64) (outcome, error) {
	a := &arrived{snap: snap, reply: make(chan outcome, 1)}
	s.mu.Lock()
	twice := s.pending[key] != nil
	if !twice {
		s.pending[key] = a
	}
	s.mu.Unlock()
	if twice {
		<-s.states //bounded: this goroutine's own token is in it
		return outcome{}, status.Errorf(codes.AlreadyExists, "worker %s has sent the state of step %d already", key.worker, key.step)
	}
	s.post(coordinator.StateArrived{Worker: key.worker, Step: key.step, Hash: snap.Hash(), Began: began})
	var out outcome
	select {
	case out = <-a.reply:
	case <-ctx.Done():
		return outcome{}, status.FromContextError(ctx.Err()).Err()
	case <-s.done:
		select {
		case out = <-a.reply: // the answer and the end came together
		default:
			return outcome{}, status.Error(codes.Unavailable, "the coordinator has ended")
		}
	}
	if out.err != nil {
		return outcome{}, status.Error(codes.Unavailable, out.err.Error())
	}
	return out, nil
}

// take removes a state from those that wait for the machine.
func (s *Server) take(worker string, step uint64) *arrived {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := stateKey{worker, step}
	a := s.pending[key]
	if a == nil {
		panic(fmt.Sprintf("coordinator server: the machine speaks of a state of step %d from %s that never arrived", step, worker))
	}
	delete(s.pending, key)
	return a
}

// store queues a state for writing. The queue has room for every state that can be in memory.
func (s *Server) store(a coordinator.Store) {
	s.jobs <- job{s.take(a.Worker, a.Step), a} //bounded: room for every state that can be in memory, see maxStates
}

func (s *Server) discard(a coordinator.Discard) {
	out := outcome{path: a.Path}
	if a.Path == "" {
		out.err = fmt.Errorf("the state of step %d from worker %s is not needed", a.Step, a.Worker)
	}
	s.take(a.Worker, a.Step).reply <- out //bounded: the channel has room for the one outcome
	<-s.states                            //bounded: the state's own token is in it
}

// storeStates writes states one after the other until ctx ends.
func (s *Server) storeStates(ctx context.Context) {
	for {
		select {
		case j := <-s.jobs:
			s.write(ctx, j)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) write(ctx context.Context, j job) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Machine.StoreTimeout)
	defer cancel()
	path, err := s.cfg.Store.Put(ctx, j.arrived.snap, s.meta(j.action))
	j.arrived.reply <- outcome{path, err} //bounded: the channel has room for the one outcome
	<-s.states                            //bounded: the state's own token is in it
	if err != nil {
		s.post(coordinator.StoreFailed{Step: j.action.Step, Reason: err.Error()})
		return
	}
	s.post(coordinator.Stored{Step: j.action.Step, Path: path})
}

// Status says where the run stands.
func (s *Server) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	st := s.standing.Load()
	r := &pb.StatusResponse{Run: s.cfg.Machine.Run, Epoch: s.cfg.Machine.Epoch, Phase: st.Phase, Step: st.Step, TotalSteps: st.Total, Generation: st.Generation, Loss: st.Loss, ImagesPerSecond: st.ImagesPerSecond}
	for _, m := range st.Ring {
		r.Members = append(r.Members, &pb.Member{Worker: m.Worker, RingAddress: m.RingAddress, GossipAddress: m.GossipAddress})
	}
	return r, nil
}
