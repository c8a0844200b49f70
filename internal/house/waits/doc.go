// Package waits holds the test that nothing in the module waits without a bound; it has no other code.
//
// The test type-checks every package and finds what can block: channels, select, groups, condition variables, child
// processes, sockets, gRPC, HTTP, system calls, loops that sleep. Each such wait must either have a bound that is seen at
// once (a deadline, a timer, a context's end, a channel with room for all that is sent to it), or say what ends it:
//
//	group.Wait() //bounded: each reader ends with its connection, which has a deadline
//
// The comment stands on the wait's line or alone above it. On the declaration of a channel it says what closes that channel, and
// bounds every select that also receives from it:
//
//	over chan struct{} //bounded: closed by the first error, and by Close
//
// A comment that bounds nothing is an error too. What is not looked at: mutexes, and reads of files, which may be pipes.
//
//	go test ./internal/house/waits
package waits
