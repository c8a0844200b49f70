// Package gossip finds the other processes of a run and notices quickly when one falls silent, by means of hashicorp/memberlist.
//
// A coordinator starts a cluster; a worker joins it at any member's address and learns from the coordinator's metadata where to
// attach. What gossip says is a hint and no agreement: who takes part is decided by the coordinator alone, which asks for missing
// heartbeats or a broken connection besides.
//
//	node, err := gossip.Start(gossip.Config{Name: "w1", Role: gossip.Worker, BindAddr: "127.0.0.1:0", Join: []string{"127.0.0.1:7946"}})
//	meta, err := node.Coordinator(ctx) // meta.RPC is where to attach
//	...
//	err = node.Close()
package gossip
