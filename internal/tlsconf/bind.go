package tlsconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// ErrInClear is wrapped where an address off this machine is to be used without TLS.
var ErrInClear = errors.New("refusing to speak in clear off this machine")

// IsLoopback says whether an address, with or without a port, can only be of this machine. Names other than localhost are not looked
// up, so they are not; nor is an empty host, which stands for every interface.
func IsLoopback(addr string) bool {
	host := addr
	if h, _, err := net.SplitHostPort(addr); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// CheckBind decides whether an address may be bound or joined. The error wraps ErrInClear and says what to do.
func CheckBind(addr string, tls, insecure bool) error {
	if tls || insecure || IsLoopback(addr) {
		return nil
	}
	return fmt.Errorf("%w: %s is not a loopback address and no TLS is set up. "+
		"Make certificates with `lockstep certs DIR --host HOST` (once for each host that nodes are reached at), "+
		"copy the folder to each machine and give every node `--tls DIR`; "+
		"or say `--insecure` on a network where you trust everyone", ErrInClear, addr)
}
