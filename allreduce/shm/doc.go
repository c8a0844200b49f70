// Package shm moves messages between ring neighbours on one host through
// memory that both have mapped: payloads, and the headers beside them. Identity,
// liveness and the reason why a link ended stay with the transport that uses it.
//
// The sender of a link makes an Outlet: an anonymous memory file (memfd) of a
// control area and a number of slots, sealed against changing its size, and two
// bells. None has a name in any file system, so a crash of either side leaves
// nothing behind. The sender's Offer travels in the transport's handshake; the receiver
// opens it as an Inlet, which succeeds only where it reaches the very memory the
// sender meant. Nothing is concluded from addresses or host names: whoever can
// read the token is on the same host, and everybody else falls back to sending
// the payload itself.
//
//	sender                                     receiver
//	out, err := shm.Create(shm.Default())
//	out.Offer().Encode()        handshake  ->  offer, err := shm.DecodeOffer(b)
//	                                           in, err := shm.Open(offer)
//	                            <-  answer
//	out.Settle(); go out.Watch()
//	s, err := out.Await(ctx, n)
//	write to s.Bytes()
//	s.Lend(header)              memory     ->  payload, loan, err := in.Receive(header)
//	                                           read the payload, then loan.Free()
//
// What a transport and its ring must do:
//
//   - ask the outlet for the memory a payload is written to, and write it there
//     at once: a payload built elsewhere costs the copy that this saves;
//   - never write to a received payload: the receiver's mapping of the slots is
//     read-only, and a write ends the process. A payload that goes on to the next
//     neighbour is copied into a slot of the own outlet, in the pass that decodes it;
//   - free what it received, exactly once. Close unmaps when the last payload
//     has been freed, never below a reader;
//   - see to it that lent slots come back whatever the reductions do, and that
//     not all slots are taken and kept. A payload nobody waits for yet is copied out
//     when many are held (Inlet.Held), and memory is taken from the heap when
//     many are in hand (Outlet.Taken), to be copied when it is sent. Otherwise several
//     buckets that share the slots could close a circle: each neighbour waits
//     for a slot that the next one frees only after it got one itself.
//
// A payload in shared memory needs no checksum: it never leaves the memory the
// gradients themselves are in, which has none either. The header keeps its own.
//
// What a peer can do by malice or error is bounded as for any other transport:
// it can make numbers wrong, as it could by sending wrong ones. It cannot make the
// other side fault or reach outside of the slots, because the size is sealed, all pages are
// there from the start, and slot numbers and lengths are checked against the
// geometry that was agreed, never against what the memory says.
//
// On other systems than Linux, Create and Open return ErrNotHere.
package shm
