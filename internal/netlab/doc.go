// Package netlab joins network namespaces of this machine by links of a chosen rate and delay, for benchmarks. It needs Linux, root, and the
// commands ip and tc.
//
//	lab, err := netlab.New(ctx, netlab.Config{Nodes: 4, BitsPerSecond: 1e9, Delay: time.Millisecond})
//	defer lab.Close()
//	cmd := lab.Command(ctx, 0, "iperf3", "-s") // runs in node 0's namespace, which is lab.Data(0) to the others
//
// Each node sends through a token bucket (htb) of the rate, and so has a link of that rate in each direction to a switch. The delay is one way,
// between any two nodes, and is made in one of three ways, which Method tells:
//
//   - none is asked for: veth pairs to a bridge;
//   - the kernel has netem: the same, with netem behind the token bucket;
//   - it has not: the nodes' interfaces are TUN devices, and this process carries the packets from one to the other, each so much later. TCP sees the
//     delay as it would a real one; carrying takes processor time, which a fast link shows.
//
// With Impairable it is always this process that carries the packets, and Impair can cut a node off, lose, delay or slow down what it sends and gets,
// while connections are open and without a word to them.
//
// Nodes have a second interface without a limit, for what drives the benchmark; the hub, a namespace of its own, is on that one only. Nothing is
// set up outside of these namespaces, and Close deletes them.
package netlab
