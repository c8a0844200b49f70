package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-ml/lockstep/core"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// fetch copies one state from whoever of its holders answers. What has come of it stays when a holder dies, and the next one goes on.
type fetch struct {
	network *core.Network
	peers   Peers
	run     string
	worker  string
	step    uint64

	idle     time.Duration // longest wait for the next chunk
	patience time.Duration // longest time in which no holder gives anything

	hash    string // of the state, once a holder has told
	builder *snapshot.Builder
}

// fetchPause is the wait before all holders are asked again: one that has not come to the window yet holds nothing so far.
const fetchPause = 50 * time.Millisecond

// from asks the holders in turn until the state is whole, ctx ends, or nothing has come for as long as patience lasts.
func (f *fetch) from(ctx context.Context, holders []*pb.Member) (*snapshot.Snapshot, error) {
	if len(holders) == 0 || f.peers == nil {
		return nil, fmt.Errorf("nobody can be asked for the state of step %d", f.step)
	}
	moved, had := time.Now(), f.received()
	for {
		s, err := f.round(ctx, holders)
		if err == nil {
			return s, nil
		}
		if f.received() > had {
			moved = time.Now()
		}
		had = f.received()
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("copying the state of step %d: %w", f.step, errors.Join(context.Cause(ctx), err))
		case time.Since(moved) > f.patience:
			return nil, fmt.Errorf("copying the state of step %d: nothing came for %v: %w", f.step, f.patience, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(fetchPause):
		}
	}
}

// round asks each holder once; the error is the last one's.
func (f *fetch) round(ctx context.Context, holders []*pb.Member) (s *snapshot.Snapshot, err error) {
	unknown := 0
	for _, h := range holders {
		if s, err = f.once(ctx, h); err == nil || ctx.Err() != nil {
			return s, err
		}
		if status.Code(err) == codes.NotFound {
			unknown++
		}
		err = fmt.Errorf("from %s: %w", h.Worker, err)
	}
	if unknown == len(holders) {
		f.forget() // if the one it came from had other bits than all who are left, begin anew
	}
	return nil, err
}

// received is how many bytes have come.
func (f *fetch) received() int64 {
	if f.builder == nil {
		return 0
	}
	return f.builder.Received()
}

// forget begins anew.
func (f *fetch) forget() { f.builder, f.hash = nil, "" }

// once copies from one holder, from where the one before it has stopped.
func (f *fetch) once(ctx context.Context, holder *pb.Member) (*snapshot.Snapshot, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(f.idle, func() { cancel(fmt.Errorf("nothing came for %v", f.idle)) })
	defer watch.Stop()
	client, conn, err := f.peers.Dial(ctx, holder.RingAddress)
	if err != nil {
		return nil, err
	}
	defer conn.Close() // only read from
	req := &pb.PeerStateRequest{Run: f.run, Worker: f.worker, Step: f.step, Hash: f.hash}
	req.Offset = uint64(f.received())
	stream, err := client.GetState(ctx, req) //bounded: watch cancels it when nothing comes for f.idle
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv() //bounded: watch cancels it when nothing comes for f.idle
	if err != nil {
		return nil, because(ctx, err)
	}
	if err := f.begin(first.Header); err != nil {
		return nil, err
	}
	for {
		watch.Reset(f.idle)
		c, err := stream.Recv() //bounded: watch cancels it when nothing comes for f.idle
		if errors.Is(err, io.EOF) {
			return f.finish()
		}
		if err != nil {
			return nil, because(ctx, err)
		}
		if err := f.builder.Add(snapshot.Chunk{Offset: c.Offset, Data: c.Data, CRC32C: c.Crc32C}); err != nil {
			f.forget()
			return nil, err
		}
	}
}

// because prefers the reason for which a stream was cancelled.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && status.Code(err) == codes.Canceled {
		return cause
	}
	return err
}

// begin checks a header, and whether it is of the state that has come so far.
func (f *fetch) begin(h *pb.StateHeader) error {
	if h == nil || h.Step != f.step {
		return fmt.Errorf("the first chunk is no header of the state of step %d", f.step)
	}
	if f.builder != nil {
		if h.Hash != f.hash {
			return fmt.Errorf("its state of step %d has hash %.16s, the one copied so far %.16s", f.step, h.Hash, f.hash)
		}
		return nil
	}
	head := headerOf(h)
	if err := stateFits(head, f.network); err != nil {
		return err
	}
	b, err := snapshot.NewBuilder(head, head.Lengths.Bytes())
	if err != nil {
		return err
	}
	f.builder, f.hash = b, h.Hash
	return nil
}

func (f *fetch) finish() (*snapshot.Snapshot, error) {
	s, err := f.builder.Finish()
	if err != nil {
		f.forget()
	}
	return s, err
}

// headerOf reads a state's announcement.
func headerOf(h *pb.StateHeader) snapshot.Header {
	p, n := int(h.Params), int(h.Norms)
	return snapshot.Header{Step: h.Step, Hash: h.Hash, Lengths: snapshot.Lengths{Params: p, Momentum: p, Mean: n, Var: n}}
}
