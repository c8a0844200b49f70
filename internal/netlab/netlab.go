package netlab

import (
	"errors"
	"fmt"
	"time"
)

// Config describes the links.
type Config struct {
	Nodes         int           // 2..MaxNodes
	BitsPerSecond int64         // of each node, in each direction
	Delay         time.Duration // one way; 0 adds none
	Impairable    bool          // carry the packets in this process in any case, so that Impair can be used
}

// Impairment is what goes wrong on a node's link. The zero value is a link in order.
type Impairment struct {
	DropSent      bool          // nothing that the node sends arrives, and nobody is told
	DropReceived  bool          // nothing that is sent to the node arrives
	Loss          float64       // share of packets lost, in each direction, 0..1; TCP's are of up to 64 KiB here
	Delay         time.Duration // in each direction, beside the lab's
	BitsPerSecond int64         // in each direction; 0: the lab's rate
}

// Cut is a link that is down: no connection hears of it.
var Cut = Impairment{DropSent: true, DropReceived: true}

// Validate reports every fault at once.
func (i Impairment) Validate() error {
	var errs []error
	if !(i.Loss >= 0 && i.Loss <= 1) {
		errs = append(errs, fmt.Errorf("a loss of %g, must be 0..1", i.Loss))
	}
	if i.Delay < 0 || i.Delay > maxDelay {
		errs = append(errs, fmt.Errorf("a delay of %v, must be 0..%v", i.Delay, maxDelay))
	}
	if i.BitsPerSecond != 0 && (i.BitsPerSecond < minImpairedRate || i.BitsPerSecond > maxRate) {
		errs = append(errs, fmt.Errorf("%d bit/s, must be %g..%g", i.BitsPerSecond, float64(minImpairedRate), float64(maxRate)))
	}
	return errors.Join(errs...)
}

const (
	// MaxNodes is what the addresses have room for, and far more than a machine's cores.
	MaxNodes = 64
	// maxDelay bounds what is under way, and so in this process's memory.
	maxDelay = time.Second
	// maxRate likewise: 100 Gbit/s.
	maxRate = 100e9
	// minImpairedRate lets a packet of 64 KiB pass in half a second, which is what may wait.
	minImpairedRate = 1e6
)

// Validate reports every fault at once.
func (c Config) Validate() error {
	var errs []error
	if c.Nodes < 2 || c.Nodes > MaxNodes {
		errs = append(errs, fmt.Errorf("%d nodes, must be 2..%d", c.Nodes, MaxNodes))
	}
	if c.BitsPerSecond < 1e6 || c.BitsPerSecond > maxRate {
		errs = append(errs, fmt.Errorf("%d bit/s, must be 1e6..1e11", c.BitsPerSecond))
	}
	if c.Delay < 0 || c.Delay > maxDelay {
		errs = append(errs, fmt.Errorf("a delay of %v, must be 0..%v", c.Delay, maxDelay))
	}
	return errors.Join(errs...)
}

// How the links are made.
const (
	MethodVeth  = "veth, bridge, htb"
	MethodNetem = "veth, bridge, htb, netem"
	MethodTUN   = "TUN, htb; delayed in user space, for this kernel has no netem"
	MethodRelay = "TUN, htb; carried in user space, which can impair it"
)

// Addresses are of 198.18.0.0/15, which is set aside for benchmarks.
func controlAddress(node int) string { return fmt.Sprintf("198.18.0.%d", node+1) }
func dataAddress(node int) string    { return fmt.Sprintf("198.19.0.%d", node+1) }

// nodeOf is the node with a data address, -1 for any other.
func nodeOf(ip []byte) int {
	if len(ip) != 4 || ip[0] != 198 || ip[1] != 19 || ip[2] != 0 || ip[3] == 0 {
		return -1
	}
	return int(ip[3]) - 1
}
