package ringbench

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// rawChunk is what the plain ring writes and reads at once. Larger ones gain nothing on loopback and miss the cache.
const rawChunk = 256 << 10

// rawRing is a plain TCP connection to the right and one from the left: the same neighbours and bytes as the ring's, and no arithmetic.
type rawRing struct {
	right, left net.Conn
	out, in     []byte
}

// rawHello is what a neighbour says first, so that nobody else's connection is taken for its: a digest of session and rank.
func rawHello(run string, rank int) [sha256.Size]byte {
	return sha256.Sum256(binary.LittleEndian.AppendUint32([]byte(run), uint32(rank)))
}

// joinRaw connects a place of the plain ring; nil TLS configurations speak in clear.
func joinRaw(ctx context.Context, l net.Listener, dial *tls.Config, run string, p *Place, limit time.Duration) (*rawRing, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := &rawRing{out: make([]byte, rawChunk), in: make([]byte, rawChunk)}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		r.right, err = dialRaw(ctx, dial, p.Raw[p.right()], rawHello(run, p.Rank))
		if err != nil {
			return fmt.Errorf("plain ring: dialling %s: %w", p.Names[p.right()], err)
		}
		return nil
	})
	group.Go(func() (err error) {
		stop := context.AfterFunc(ctx, func() { l.Close() }) // wakes Accept; an error is there already
		defer stop()
		left := (p.Rank + len(p.Names) - 1) % len(p.Names)
		r.left, err = acceptRaw(ctx, l, rawHello(run, left))
		if err != nil {
			return fmt.Errorf("plain ring: waiting for %s: %w", p.Names[left], err)
		}
		return nil
	})
	if err := group.Wait(); err != nil { //bounded: ends within limit: dialling by ctx, accepting because l is closed then
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func dialRaw(ctx context.Context, cfg *tls.Config, addr string, hello [sha256.Size]byte) (net.Conn, error) {
	c, err := dial(ctx, cfg, addr)
	if err != nil {
		return nil, err
	}
	if err = c.SetDeadline(time.Now().Add(helloLimit)); err == nil {
		_, err = c.Write(hello[:])
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// dial connects, in clear if cfg is nil.
func dial(ctx context.Context, cfg *tls.Config, addr string) (net.Conn, error) {
	if cfg == nil {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
}

// helloLimit bounds how long a connection may take to say who it is.
const helloLimit = 5 * time.Second

// acceptRaw waits for the connection that says the expected hello; others are dropped.
func acceptRaw(ctx context.Context, l net.Listener, want [sha256.Size]byte) (net.Conn, error) {
	for {
		c, err := l.Accept() //bounded: the caller closes l when ctx ends
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
		var got [sha256.Size]byte
		if err = c.SetDeadline(time.Now().Add(helloLimit)); err == nil {
			_, err = io.ReadFull(c, got[:])
		}
		if err == nil && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			return c, nil
		}
		c.Close() // whoever that was
	}
}

// move sends n bytes to the right and reads n from the left, within limit.
func (r *rawRing) move(n int64, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	if err := errors.Join(r.right.SetDeadline(deadline), r.left.SetDeadline(deadline)); err != nil {
		return err
	}
	var group errgroup.Group
	group.Go(func() error { return r.write(n) })
	group.Go(func() error { return r.read(n) })
	return group.Wait() //bounded: both connections have the deadline
}

func (r *rawRing) write(n int64) error {
	for n > 0 {
		k, err := r.right.Write(r.out[:min(n, rawChunk)])
		if err != nil {
			return fmt.Errorf("plain ring: to the right: %w", err)
		}
		n -= int64(k)
	}
	return nil
}

func (r *rawRing) read(n int64) error {
	for n > 0 {
		k, err := r.left.Read(r.in[:min(n, rawChunk)])
		n -= int64(k)
		if err != nil && n > 0 {
			return fmt.Errorf("plain ring: from the left: %w", err)
		}
	}
	return nil
}

// circle passes one byte once round the ring, begun by rank 0.
func (r *rawRing) circle(rank int, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	if err := errors.Join(r.right.SetDeadline(deadline), r.left.SetDeadline(deadline)); err != nil {
		return err
	}
	if rank == 0 {
		return errors.Join(r.write(1), r.read(1))
	}
	return errors.Join(r.read(1), r.write(1))
}

func (r *rawRing) close() error {
	var errs []error
	for _, c := range []net.Conn{r.right, r.left} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}
