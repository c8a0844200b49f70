package ringgrpc

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/experimental"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/shm"
)

const (
	// streamWindow is how many bytes a neighbour may have under way on a stream.
	// 10 Gbit/s over 5 ms need 6 MB; more only takes memory.
	streamWindow = 8 << 20
	// connWindow leaves room for other streams of the caller's server.
	connWindow = 2 * streamWindow
	// ioBuffer is gRPC's read and write buffer. HTTP/2 frames are 16 KiB; larger
	// buffers save system calls, beyond this they only miss the cache.
	ioBuffer = 256 << 10
	// abortGrace bounds the wait to tell the right neighbour why we gave up.
	abortGrace = 250 * time.Millisecond
	// maxWaiting bounds the streams that wait for this node to join a
	// generation: the lanes of two neighbours, some retries.
	maxWaiting = 6 * maxLanes
)

// Config describes a Node.
type Config struct {
	// Run names the training job; neighbours of another run are refused.
	Run string
	// Credentials are used to dial the right neighbour. There is no default:
	// whoever wants none says so with insecure.NewCredentials().
	Credentials credentials.TransportCredentials
	// InboxBytes bounds what waits here for one generation's ring; 0 means
	// allreduce.DefaultInboxBytes.
	InboxBytes int
	// Lanes is how many connections lead to the right neighbour, 1..16. Two keep a
	// second core busy where there is one; more pay on links that outrun two.
	// Neighbours may differ in it.
	Lanes int
	// QueueLength is how many messages may wait to be written.
	QueueLength int
	// JoinWait bounds how long a left neighbour's stream waits here for this
	// node to join its generation.
	JoinWait time.Duration
	// JoinTimeout bounds how long Join and JoinGroups wait for the neighbours. Above
	// JoinWait, so that a neighbour that lives has said before why it refuses.
	JoinTimeout time.Duration
	// CloseTimeout bounds the wait for the right neighbour to have read
	// everything when a transport is closed.
	CloseTimeout time.Duration
	// Sharing says whether memory is shared with neighbours on the same host. Each
	// level's link has its own region, and finds out for itself.
	Sharing Sharing
	// Region is the memory that is then shared with the right neighbour. Payloads
	// that are longer than its slots go over gRPC.
	Region shm.Geometry
	// Coding says whether 16-bit data is coded on its way to the right neighbour.
	Coding Coding
	// CodingChanged, if not nil, is told when the link of a level starts or stops
	// coding. It must not block.
	CodingChanged func(allreduce.Level, CodingFigures)
}

// DefaultConfig returns a Config for which the caller sets Run and Credentials.
func DefaultConfig() Config {
	return Config{Lanes: 2, QueueLength: 16, JoinWait: time.Minute, JoinTimeout: 2 * time.Minute, CloseTimeout: 2 * time.Second, Region: shm.Default()}
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	if c.Run == "" || len(c.Run) > maxRunName {
		faults = append(faults, fmt.Errorf("config.Run has %d bytes, must have 1..%d", len(c.Run), maxRunName))
	}
	if c.Credentials == nil {
		faults = append(faults, errors.New("config.Credentials are missing: pass TLS credentials, or insecure.NewCredentials() where clear text is meant"))
	}
	if c.InboxBytes < 0 {
		faults = append(faults, fmt.Errorf("InboxBytes is %d, must be 0 or more", c.InboxBytes))
	}
	if c.Lanes < 1 || c.Lanes > maxLanes {
		faults = append(faults, fmt.Errorf("config.Lanes is %d, must be 1..%d", c.Lanes, maxLanes))
	}
	if c.QueueLength < 1 {
		faults = append(faults, fmt.Errorf("QueueLength is %d, must be 1 or more", c.QueueLength))
	}
	if c.JoinWait <= 0 || c.JoinTimeout <= 0 || c.CloseTimeout <= 0 {
		faults = append(faults, fmt.Errorf("JoinWait is %v, JoinTimeout %v and CloseTimeout %v, must be above zero", c.JoinWait, c.JoinTimeout, c.CloseTimeout))
	}
	if c.Sharing > ShareAlways {
		faults = append(faults, fmt.Errorf("config.Sharing is %d, must be ShareAuto, ShareNever or ShareAlways", c.Sharing))
	}
	if err := c.Region.Validate(); err != nil && c.Sharing != ShareNever {
		faults = append(faults, fmt.Errorf("config.Region: %w", err))
	}
	if c.Coding > CodeAlways {
		faults = append(faults, fmt.Errorf("config.Coding is %d, must be CodeAuto, CodeNever or CodeAlways", c.Coding))
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("ringgrpc: bad config: %w", errors.Join(faults...))
}

// ServerOptions are the options with which the caller should make the server
// that a Node is registered on: static flow-control windows and large buffers.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		experimental.BufferPool(&frames),
	}
}

func dialOptions(creds credentials.TransportCredentials) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDisableRetry(), // a retry would hold on to sent payloads
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.CallContentSubtype(codecName), grpc.MaxCallRecvMsgSize(maxFrame)),
	}
}
