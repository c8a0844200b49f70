package ringgrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/grpc/metadata"

	"github.com/lockstep-ml/lockstep/allreduce"
)

const (
	helloKey     = "lockstep-ring-hello-bin"
	helloMagic   = 0x3148534c // "LSH1"
	helloVersion = 4
	helloFixed   = 31
	maxRunName   = 512
	// maxLanes bounds the connections that a neighbour can make this worker wait for.
	maxLanes = 16
)

// hello is the handshake, from a worker to its right neighbour. Little-endian:
//
//	 0  4  magic "LSH1"
//	 4  2  version of the protocol, 4
//	 6  2  sender's rank among all workers
//	 8  2  number of all workers
//	10  8  generation
//	18  8  run digest
//	26  1  lane, from 0
//	27  1  lanes, 1..16
//	28  2  workers in a group; as many as all in a flat ring
//	30  1  level, 0 inner or 1 outer
//	31  …  name of the run, at most 512 bytes
type hello struct {
	version    uint16
	rank, size uint16
	generation uint64
	digest     uint64
	lane       uint8
	lanes      uint8
	group      uint16
	level      allreduce.Level
	run        string
}

func (h *hello) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, helloFixed, helloFixed+len(h.run))
	le.PutUint32(b, helloMagic)
	le.PutUint16(b[4:], h.version)
	le.PutUint16(b[6:], h.rank)
	le.PutUint16(b[8:], h.size)
	le.PutUint64(b[10:], h.generation)
	le.PutUint64(b[18:], h.digest)
	b[26], b[27] = h.lane, h.lanes
	le.PutUint16(b[28:], h.group)
	b[30] = byte(h.level)
	return append(b, h.run[:min(len(h.run), maxRunName)]...)
}

func decodeHello(b []byte) (hello, error) {
	le := binary.LittleEndian
	if len(b) < helloFixed || len(b) > helloFixed+maxRunName || le.Uint32(b) != helloMagic {
		return hello{}, errors.New("the handshake is not one of a ring")
	}
	h := hello{
		version: le.Uint16(b[4:]), rank: le.Uint16(b[6:]), size: le.Uint16(b[8:]),
		generation: le.Uint64(b[10:]), digest: le.Uint64(b[18:]), lane: b[26], lanes: b[27],
		group: le.Uint16(b[28:]), level: allreduce.Level(b[30]), run: string(b[helloFixed:]),
	}
	// Of another version nothing but that is known.
	if h.version == helloVersion && (h.lane >= h.lanes || h.lanes > maxLanes) {
		return hello{}, fmt.Errorf("the handshake is for lane %d of %d, at most %d are allowed", h.lane, h.lanes, maxLanes)
	}
	return h, nil
}

// helloFrom reads the handshake of an incoming stream.
func helloFrom(ctx context.Context) (hello, error) {
	md, _ := metadata.FromIncomingContext(ctx) // none reads as an empty one
	values := md.Get(helloKey)
	if len(values) != 1 {
		return hello{}, fmt.Errorf("the request has %d handshakes, must have one", len(values))
	}
	return decodeHello([]byte(values[0]))
}

// refuse says why a worker of another protocol or run must not link here; ""
// when it may.
func (h *hello) refuse(run string) string {
	switch {
	case h.version != helloVersion:
		return fmt.Sprintf("ring protocol version %d here, %d there: use the same build on all workers", helloVersion, h.version)
	case h.digest != allreduce.RunDigest(run):
		return fmt.Sprintf("this worker belongs to run %q, not to %q", run, h.run)
	}
	return ""
}
