package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-ml/lockstep/core"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// newSnapshot allocates a snapshot that fits a network.
func newSnapshot(n *core.Network) *snapshot.Snapshot {
	return snapshot.New(lengthsOf(n))
}

func lengthsOf(n *core.Network) snapshot.Lengths {
	return snapshot.Lengths{Params: n.ParamLen(), Momentum: n.ParamLen(), Mean: n.NormLen(), Var: n.NormLen()}
}

// stateOf views a snapshot as an engine's state.
func stateOf(s *snapshot.Snapshot) *core.State[float32] {
	return &core.State[float32]{Params: s.Params, Momentum: s.Momentum, Mean: s.Mean, Var: s.Var}
}

// snapshot copies the committed state out of the engine. It waits for an upload that still reads the copy before.
func (w *Worker) snapshot() (*snapshot.Snapshot, error) {
	w.uploads.Wait() //bounded: each upload has TransferTimeout
	if w.copied == nil {
		w.copied = newSnapshot(w.job.Network)
	}
	if err := w.job.Engine.GetState(stateOf(w.copied)); err != nil {
		return nil, fmt.Errorf("reading the engine's state: %w", err)
	}
	w.copied.Step = w.committed.Load()
	return w.copied, nil
}

// pullState fetches the state that training starts from and gives it to the engine.
func (w *Worker) pullState(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.TransferTimeout)
	defer cancel()
	stream, err := w.control.GetState(ctx, &pb.GetStateRequest{Worker: w.cfg.Name})
	if err != nil {
		return fmt.Errorf("asking for the state: %w", err)
	}
	first, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("receiving the state: %w", err)
	}
	if first.Header == nil {
		return errors.New("receiving the state: the first chunk has no header")
	}
	h := headerOf(first.Header)
	if err := stateFits(h, w.job.Network); err != nil {
		return err
	}
	b, err := snapshot.NewBuilder(h, h.Lengths.Bytes())
	if err != nil {
		return err
	}
	for {
		c, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("receiving the state at byte %d: %w", b.Received(), err)
		}
		if err := b.Add(snapshot.Chunk{Offset: c.Offset, Data: c.Data, CRC32C: c.Crc32C}); err != nil {
			return err
		}
	}
	s, err := b.Finish()
	if err != nil {
		return err
	}
	w.behind.Store(false)
	w.kept.clear()
	return w.adopt(s)
}

func stateFits(h snapshot.Header, n *core.Network) error {
	if h.Lengths.Params != n.ParamLen() || h.Lengths.Mean != n.NormLen() {
		return fmt.Errorf("the state has %d parameters and %d normalised channels, %s has %d and %d: the settings differ",
			h.Lengths.Params, h.Lengths.Mean, n.Name, n.ParamLen(), n.NormLen())
	}
	return nil
}

// checkpoint copies the state and sends it to the coordinator beside the steps that follow.
func (w *Worker) checkpoint(ctx context.Context, step uint64) error {
	cctx, sp := w.cfg.Tracer.Start(ctx, "checkpoint")
	s, err := w.snapshot()
	if err != nil {
		sp.End()
		return err
	}
	// Detached from the window: a pause must not spoil a checkpoint of a committed step. The timeout bounds it.
	cctx = context.WithoutCancel(cctx) //bounded: upload gives it TransferTimeout
	control := w.client()
	w.uploads.Go(func() {
		defer sp.End()
		w.upload(cctx, control, s, step)
	})
	return nil
}

// upload sends a snapshot. A checkpoint that cannot be written must not end training; the coordinator, whose disk it is, warns of it.
func (w *Worker) upload(ctx context.Context, control pb.ControlClient, s *snapshot.Snapshot, step uint64) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.TransferTimeout)
	defer cancel()
	begun := time.Now()
	path, err := w.pushState(ctx, control, s)
	if err != nil {
		trace.SpanFromContext(ctx).RecordError(err)
		w.log.Info("the state was not stored", "step", step, "err", err)
		return
	}
	w.log.Debug("checkpoint stored", "step", step, "path", path, "took", time.Since(begun))
}

func (w *Worker) pushState(ctx context.Context, control pb.ControlClient, s *snapshot.Snapshot) (string, error) {
	r := snapshot.NewReader(s)
	h := r.Header()
	stream, err := control.PutState(ctx) //bounded: ctx has TransferTimeout, from upload
	if err != nil {
		return "", fmt.Errorf("offering the state: %w", err)
	}
	chunk := &pb.StateChunk{Header: &pb.StateHeader{
		Worker: w.cfg.Name, Step: h.Step, Hash: h.Hash, Params: uint64(h.Lengths.Params), Norms: uint64(h.Lengths.Mean),
	}}
	for {
		if err := stream.Send(chunk); err != nil { //bounded: ctx has TransferTimeout, from upload
			break // the stream's own error comes with CloseAndRecv
		}
		c, err := r.Next(snapshot.ChunkBytes)
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		chunk = &pb.StateChunk{Offset: c.Offset, Data: c.Data, Crc32C: c.CRC32C}
	}
	res, err := stream.CloseAndRecv() //bounded: ctx has TransferTimeout, from upload
	if err != nil {
		return "", fmt.Errorf("sending the state of step %d: %w", h.Step, err)
	}
	return res.Path, nil
}
