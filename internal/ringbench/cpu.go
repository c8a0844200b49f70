package ringbench

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"
)

// cpuTime is what this process has used of the processor, user and system.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic("ringbench: getrusage of this very process failed: " + err.Error())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// secured lets a listener speak TLS, if there is a configuration.
func secured(l net.Listener, cfg *tls.Config) net.Listener {
	if cfg == nil {
		return l
	}
	return tls.NewListener(l, cfg)
}
