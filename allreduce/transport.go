package allreduce

import "context"

// Transport moves messages of one generation: in each level out to the right
// neighbour, in from the left one. allreduce/grpc and allreduce/memnet implement
// it; both receive through an Inbox. All methods may be called concurrently.
//
// A payload may travel by another way than its header, in memory that both
// neighbours see: Buffer then gives out that memory, and marks the message
// Unsummed where a checksum would guard against nothing.
//
// A transport whose link breaks fails every wait in it at once, with a
// *PeerError that names the neighbour. A transport may lose, repeat, reorder or
// damage messages: the ring then fails with an error and never sums wrongly.
type Transport interface {
	// Buffer returns a message for the right neighbour in a level whose payload is
	// n bytes, at most MaxPayload, of writable memory in one piece, of unspecified
	// content. The caller owns it,
	// fills in the payload and the header, and passes it to Send or frees it. It
	// blocks at most until there is memory, the context ends or the transport
	// fails.
	Buffer(ctx context.Context, to Level, n int) (Message, error)
	// Send sends m to the right neighbour in the level of its phase. It takes
	// ownership of m, also when it fails, and blocks at most until
	// the message is queued, the context ends or the transport fails. The
	// message need not have left when Send returns. m comes from Buffer, or from
	// Recv in the same level, with another header, where it is not Bound.
	Send(ctx context.Context, m Message) error
	// Recv blocks until the message with this key is there, or any of those that
	// PhaseData stands for, the context ends or the transport fails. Each message
	// is given out once; the caller owns it. A bucket has one wait at a time, and
	// its payload has the length that its header says.
	Recv(ctx context.Context, k Key) (Message, error)
	// Forget drops what is left of a finished bucket and whatever still comes
	// of it. Does not block.
	Forget(step uint64, bucket uint32)
	// Abort fails every wait, now and later, with err, and tells all
	// neighbours the reason as far as that is possible without waiting.
	Abort(err error)
	// Close sends what is queued, within a bound of its own, says goodbye to
	// the neighbours, and returns when all goroutines of the transport have
	// ended. May be called twice, and after Abort.
	Close() error
}
