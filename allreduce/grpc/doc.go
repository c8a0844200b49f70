// Package ringgrpc carries the ring of package allreduce over gRPC.
//
// Each process has one Node. It serves its left neighbours on a *grpc.Server
// of the caller's, and joins generation after generation; each JoinGroups dials the
// right neighbour of each level, shakes hands with all and returns the transport of
// that generation: a link for each level, with one inbox. A link has several
// connections, Config.Lanes, since gRPC writes each from one goroutine; which one a
// message takes is chance.
//
// Frames flow one way, from client to server, in a codec of its own: a fixed
// binary header and the payload, without protocol buffers. The other direction
// carries only how the stream ended.
//
// What the caller must do: make the server with ServerOptions (without them it
// works, but slowly), pass credentials (insecure ones only by its own decision),
// close each transport, and close the Node before it stops the server.
//
//	node, err := ringgrpc.NewNode(ringgrpc.Config{Run: run, Credentials: creds})
//	...
//	server := grpc.NewServer(append(ringgrpc.ServerOptions(), grpc.Creds(creds))...)
//	node.Register(server)
//	go server.Serve(listener)
//	transport, err := node.JoinGroups(ctx, generation, rank, group, addresses)
//	ring, err := allreduce.New(cfg, transport) // ring.Close closes transport
//
// On the wire: method /lockstep.ring.v1.Ring/Link, content-subtype
// "lockstep-ring". The request metadata "lockstep-ring-hello-bin" holds the
// handshake (see hello); response headers mean that the neighbour has joined
// the same generation, a status FailedPrecondition that it refused, and why.
// Each message begins with four bytes: "LSR1", a ring message (see
// allreduce.Header), its payload plain or coded (see coding), or "LSA1", the sender's reason to give up, as text.
//
// Neighbours on one host move messages through memory that they share instead
// (package shm), if Config.Sharing lets them; Ways tells. The offer is in the request
// metadata "lockstep-ring-shm-bin", the answer in the response header
// "lockstep-ring-shm-answer-bin".
package ringgrpc
