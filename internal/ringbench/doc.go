// Package ringbench times an all-reduce over processes, on one machine or many, and holds it against a plain TCP ring of the same processes.
//
// Each process serves a Member; one process drives them with Drive, over a connection to each. The ring itself is the caller's, behind Rings:
//
//	m := ringbench.Member{Open: open, Host: "127.0.0.1", Allow: allow} // in every process
//	err := m.Serve(ctx, listener)
//	r, err := ringbench.Drive(ctx, ringbench.Config{Members: addresses, Elements: 25557032, ...}) // in one
//
// Drive first reduces every bucket once over a ring whose messages are counted, and compares the bits with a ring of one worker's, which holds
// all replicas. Nothing wrong is timed. Then the rounds, each behind a barrier: the ring's, and the same bytes over plain TCP, in turn.
//
// Off loopback both the connection to a member and the plain ring are TLS whenever the caller gives TLS configurations; Allow must refuse what
// may not be spoken in clear.
package ringbench
