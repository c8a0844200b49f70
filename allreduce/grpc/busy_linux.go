package ringgrpc

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// busyTime is how long a connection has had data that the other side had not
// acknowledged, without the time in which that side had no room for more: how long
// the network took. 0 where the kernel does not say.
func busyTime(c *net.TCPConn) (busy time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	// A connection that is closed says nothing, as an old kernel does.
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			busy = time.Duration(info.Busy_time-min(info.Busy_time, info.Rwnd_limited)) * time.Microsecond
		}
	})
	return busy
}
