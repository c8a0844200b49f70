package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/coordinator"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

const (
	// outboxSize is far more than a healthy worker ever has waiting; one that lets it fill up is cut off.
	outboxSize = 64
	// maxText bounds what is kept of a worker's text.
	maxText = 4 << 10
	// maxSettings bounds a Hello.
	maxSettings = 256
)

// session is one Attach stream.
type session struct {
	id       uint64
	name     string                      // guarded by Server.mu; set before the Hello is posted
	outbox   chan *pb.CoordinatorMessage // filled by the machine's goroutine, drained by the handler
	overflow chan struct{}               // closed by the machine's goroutine when the outbox is full
	welcomed atomic.Bool                 // only then may it speak for its name
}

// Attach serves one worker: this goroutine sends, a second one receives.
func (s *Server) Attach(stream pb.Control_AttachServer) error {
	ss := s.open()
	received := make(chan error, 1)
	hello := make(chan struct{})
	s.handlers.Add(1)
	go func() {
		defer s.handlers.Done()
		received <- s.receive(ss, stream, hello)
	}()
	err := s.deliver(ss, stream, hello, received)
	s.release(ss, err)
	return err
}

func (s *Server) open() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	ss := &session{id: s.lastID, outbox: make(chan *pb.CoordinatorMessage, outboxSize), overflow: make(chan struct{})}
	s.sessions[ss.id] = ss
	return ss
}

// release forgets a session and tells the machine, if it was a worker's.
func (s *Server) release(ss *session, err error) {
	s.mu.Lock()
	delete(s.sessions, ss.id)
	speaks := s.unbind(ss)
	s.mu.Unlock()
	if !speaks {
		return
	}
	reason := "the stream ended"
	if err != nil {
		reason = status.Convert(err).Message()
	}
	s.post(coordinator.StreamBroken{Worker: ss.name, Reason: reason})
}

// unbind takes its name from a session, whose later words and whose end then mean nothing to the machine. It says whether the
// session spoke for the name until now. The caller holds mu.
func (s *Server) unbind(ss *session) bool {
	if s.byName[ss.name] == ss {
		delete(s.byName, ss.name)
	}
	return ss.welcomed.Swap(false)
}

// deliver sends what is in the outbox until the last word is out or the stream fails.
func (s *Server) deliver(ss *session, stream pb.Control_AttachServer, hello <-chan struct{}, received <-chan error) error {
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	deadline := time.NewTimer(s.cfg.HelloTimeout)
	defer deadline.Stop()
	done := s.done
	for {
		var msg *pb.CoordinatorMessage
		select {
		case msg = <-ss.outbox:
		case <-beat.C:
			msg = &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Heartbeat{Heartbeat: &pb.Heartbeat{}}}
		case <-hello:
			deadline.Stop()
			hello = nil
			continue
		case <-deadline.C:
			return status.Errorf(codes.DeadlineExceeded, "no Hello came within %v", s.cfg.HelloTimeout)
		case <-ss.overflow:
			return status.Errorf(codes.ResourceExhausted, "the worker does not read what it is sent")
		case err := <-received:
			return ended(err)
		case <-done:
			done = nil
			if len(ss.outbox) == 0 {
				return status.Error(codes.Unavailable, "the coordinator has ended")
			}
			continue
		}
		if err := stream.Send(msg); err != nil { //bounded: keepalive ends the connection of a worker that does not answer for 9 s
			return fmt.Errorf("sending: %w", err)
		}
		if isLast(msg) {
			return nil
		}
	}
}

// ended says why the receiving side stopped.
func ended(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return status.Error(codes.Aborted, "the worker closed its stream")
	case status.Code(err) == codes.Canceled || errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the connection was closed, as when a process dies")
	}
	return err
}

func isLast(msg *pb.CoordinatorMessage) bool {
	return msg.GetStop() != nil || msg.GetRefused() != nil || msg.GetRemoved() != nil
}

// receive turns a worker's messages into events. The first must be Hello.
func (s *Server) receive(ss *session, stream pb.Control_AttachServer, hello chan<- struct{}) error {
	first, err := stream.Recv() //bounded: keepalive ends the connection of a worker that does not answer for 9 s
	if err != nil {
		return err
	}
	h := first.GetHello()
	if h == nil {
		return status.Error(codes.FailedPrecondition, "the first message must be Hello")
	}
	if len(h.Settings) > maxSettings {
		return status.Errorf(codes.InvalidArgument, "Hello has %d settings, at most %d are read", len(h.Settings), maxSettings)
	}
	s.mu.Lock()
	ss.name = h.Worker
	s.mu.Unlock()
	close(hello)
	s.post(coordinator.Hello{Stream: ss.id, Worker: h.Worker, Version: clip(h.Version), Settings: h.Settings, Attached: attachment(h)})
	for {
		msg, err := stream.Recv() //bounded: keepalive ends the connection of a worker that does not answer for 9 s
		if err != nil {
			return err
		}
		ev := event(h.Worker, msg)
		if ev == nil {
			return status.Errorf(codes.InvalidArgument, "message %T makes no sense here", msg.GetBody())
		}
		if ss.welcomed.Load() {
			s.post(ev)
		}
		if msg.GetLeave() != nil {
			s.mu.Lock()
			s.unbind(ss)
			s.mu.Unlock()
		}
	}
}

// event translates a message of an attached worker; nil if it has no place there.
func event(worker string, msg *pb.WorkerMessage) coordinator.Event {
	switch b := msg.GetBody().(type) {
	case *pb.WorkerMessage_Ready:
		return readiness(worker, b.Ready)
	case *pb.WorkerMessage_Step:
		r := b.Step
		return coordinator.StepReport{Worker: worker, Step: r.Step, Loss: r.Loss, Images: r.Images, Correct1: r.Correct1, LR: r.LearningRate,
			Start: time.Unix(0, r.StartUnixNanos), End: time.Unix(0, r.EndUnixNanos), Tail: time.Duration(max(0, r.RingWaitNanos)), StateHash: clip(r.StateHash),
			Generation: r.Generation, Sequence: r.Sequence, Last: r.Last, Behind: r.Behind, Compute: time.Duration(max(0, r.ComputeNanos)), Samples: bounded(r.Samples),
			DataWait: time.Duration(max(0, r.DataWaitNanos)), Skipped: skipped(r.Skipped)}
	case *pb.WorkerMessage_Eval:
		r := b.Eval
		return coordinator.EvalReport{Worker: worker, Step: r.Step, Images: r.Images, Correct1: r.Correct1, Correct5: r.Correct5, LossSum: r.LossSum, Skipped: skipped(r.Skipped)}
	case *pb.WorkerMessage_Measured:
		r := b.Measured
		return coordinator.Measured{Worker: worker, Traffic: coordinator.Traffic{
			Hop: time.Duration(r.HopNanos), BytesPerSecond: r.BytesPerSecond, StepBytes: r.StepBytes, Buckets: int(r.Buckets)}}
	case *pb.WorkerMessage_Aborted:
		r := b.Aborted
		return coordinator.Aborted{Worker: worker, Step: r.Step, Cause: causes[r.Cause], Reason: clip(r.Reason), Peer: clip(r.Peer),
			Generation: r.Generation, Behind: r.Behind, Kept: bounded(r.Kept), Sample: clip(r.Sample)}
	case *pb.WorkerMessage_StateHash:
		return coordinator.StateHash{Worker: worker, Step: b.StateHash.Step, Hash: clip(b.StateHash.Hash)}
	case *pb.WorkerMessage_Audit:
		r := b.Audit
		return coordinator.Audit{Worker: worker, Generation: r.Generation, Step: r.Step, Replica: int(r.Replica), Digest: clip(r.Digest)}
	case *pb.WorkerMessage_CaughtUp:
		return coordinator.CaughtUp{Worker: worker, Generation: b.CaughtUp.Generation, Step: b.CaughtUp.Step}
	case *pb.WorkerMessage_Leaving:
		return coordinator.Leaving{Worker: worker, Reason: clip(b.Leaving.Reason)}
	case *pb.WorkerMessage_Heartbeat:
		return coordinator.Heartbeat{Worker: worker}
	case *pb.WorkerMessage_Leave:
		return coordinator.Left{Worker: worker, Reason: clip(b.Leave.GetReason())}
	}
	return nil
}

// maxSkipped bounds the damaged images of one report: no step or share of an evaluation has so many images.
const maxSkipped = 1 << 16

func skipped(list []*pb.Skipped) (out []coordinator.Skipped) {
	for _, s := range list[:min(len(list), maxSkipped)] {
		out = append(out, coordinator.Skipped{Sample: int(s.GetSample()), By: int(s.GetBy()), Name: clip(s.GetName())})
	}
	return out
}

func readiness(worker string, r *pb.Ready) coordinator.Ready {
	return coordinator.Ready{Worker: worker, RingAddress: clip(r.GetRingAddress()), DataFingerprint: clip(r.GetDataFingerprint()),
		DataSummary: clip(r.GetDataSummary()), Numerics: clip(r.GetNumerics()), Engine: clip(r.GetEngine()), GossipAddress: clip(r.GetGossipAddress())}
}

// attachment is what a worker says that comes back; nil for a newcomer.
func attachment(h *pb.Hello) *coordinator.Attachment {
	a := h.Standing
	if a == nil {
		return nil
	}
	return &coordinator.Attachment{Run: clip(a.Run), Epoch: a.Epoch, Generation: a.Generation, Sequence: a.Sequence, Running: a.Running,
		Step: a.Step, Behind: a.Behind, Ready: readiness(h.Worker, a.Ready)}
}

// maxList bounds a list of numbers in a worker's message; honest ones have a handful.
const maxList = 16

func bounded[T any](list []T) []T { return list[:min(len(list), maxList)] }

var causes = map[pb.Cause]coordinator.Cause{
	pb.Cause_CAUSE_PAUSED: coordinator.CausePaused, pb.Cause_CAUSE_RING: coordinator.CauseRing,
	pb.Cause_CAUSE_NON_FINITE: coordinator.CauseNonFinite, pb.Cause_CAUSE_LOCAL: coordinator.CauseLocal, pb.Cause_CAUSE_DAMAGED: coordinator.CauseDamaged,
}

// clip bounds a text that came from outside.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	cut := maxText
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strings.Clone(text[:cut]) + "..."
}

// welcome binds a stream to its worker's name.
func (s *Server) welcome(a coordinator.Welcome) {
	s.mu.Lock()
	ss := s.sessions[a.Stream]
	if ss != nil {
		s.byName[a.Worker] = ss
		ss.welcomed.Store(true)
	}
	s.mu.Unlock()
	if ss == nil {
		// The stream ended before its Hello was looked at; nobody else will say so.
		s.follow = append(s.follow, coordinator.StreamBroken{Worker: a.Worker, Reason: "the stream ended before it was welcomed"})
		return
	}
	s.put(ss, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Welcome{Welcome: &pb.Welcome{
		Run: s.cfg.Machine.Run, Settings: s.cfg.Machine.Settings, Epoch: a.Epoch, PullState: a.PullState, Reattached: a.Reattached}}})
}

func (s *Server) refuse(a coordinator.Refuse) {
	s.mu.Lock()
	ss := s.sessions[a.Stream]
	if ss != nil {
		s.unbind(ss)
	}
	s.mu.Unlock()
	if ss != nil {
		s.put(ss, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Refused{Refused: &pb.Refused{Reason: a.Reason, Passing: a.Kind == coordinator.RefusedName || a.Kind == coordinator.RefusedEpoch}}})
	}
}

// remove tells a worker that it is out of the ring, which is also the last word on its stream.
func (s *Server) remove(a coordinator.Removed) {
	s.send(a.Worker, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Removed{Removed: &pb.Removed{Reason: a.Reason, ForGood: a.ForGood}}})
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss := s.byName[a.Worker]; ss != nil {
		s.unbind(ss)
	}
}

// stop sends a worker its last word. The end of its stream is then no loss.
func (s *Server) stop(a coordinator.Stop) {
	s.send(a.Worker, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Stop{Stop: &pb.Stop{Failed: a.Failed, Reason: a.Reason}}})
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss := s.byName[a.Worker]; ss != nil {
		s.unbind(ss)
	}
}

func (s *Server) publish(p coordinator.Plan) {
	msg := &pb.Plan{
		Generation: p.Generation, Sequence: p.Sequence, FirstStep: p.FirstStep, UntilStep: p.UntilStep,
		CheckpointAfter: p.CheckpointAfter, Group: uint32(p.Group), Measure: p.Measure,
		Epoch: p.Epoch, EvaluateAfter: p.EvaluateAfter, VerifyEvery: p.VerifyEvery, Restore: p.Restore,
	}
	s.published.Store(p.Generation)
	for _, f := range p.Followers {
		msg.Followers = append(msg.Followers, &pb.Follower{Position: uint32(f.Position), Base: f.Base})
	}
	for _, b := range p.Behind {
		msg.Behind = append(msg.Behind, uint32(b))
	}
	for _, m := range p.Ring {
		msg.Ring = append(msg.Ring, &pb.Member{Worker: m.Worker, RingAddress: m.RingAddress, GossipAddress: m.GossipAddress})
	}
	for _, h := range p.ReplicaHost {
		msg.ReplicaHost = append(msg.ReplicaHost, uint32(h))
	}
	for _, lr := range p.LearningRates {
		msg.LearningRates = append(msg.LearningRates, &pb.LearningRate{FirstStep: lr.FirstStep, Value: lr.Value})
	}
	for _, m := range p.Ring {
		s.send(m.Worker, &pb.CoordinatorMessage{Body: &pb.CoordinatorMessage_Plan{Plan: msg}})
	}
}

// send queues a message for a worker; one that is gone gets nothing.
func (s *Server) send(worker string, msg *pb.CoordinatorMessage) {
	s.mu.Lock()
	ss := s.byName[worker]
	s.mu.Unlock()
	if ss != nil {
		s.put(ss, msg)
	}
}

// put never blocks: a worker that does not read must not stop the others.
func (s *Server) put(ss *session, msg *pb.CoordinatorMessage) {
	select {
	case ss.outbox <- msg:
	default:
		select {
		case <-ss.overflow:
		default:
			close(ss.overflow)
		}
	}
}
