package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/lockstep-ml/lockstep/internal/netlab"
	"github.com/lockstep-ml/lockstep/internal/tlsconf"
)

// site is where processes run: one node for each worker's place, and behind these two for coordinators.
type site interface {
	// seat is where a coordinator serves on one of its two addresses, 0 and 1.
	seat(i int) seat
	host(node int) string // of a worker
	tls(node int) string  // folder for --tls, "" for none
	command(ctx context.Context, node int, program string, args ...string) *exec.Cmd
	impair(node int, i netlab.Impairment) error
	dial(ctx context.Context, node int, address string) (net.Conn, error)
	describe() string
	close() error
}

// seat is a coordinator's place.
type seat struct {
	node            int
	listen, control string // HOST:PORT
}

// labRate is far beyond what a small network needs: links are slow where a fault makes them so.
const labRate = 10e9

// lab is a site of network namespaces.
type lab struct {
	*netlab.Lab
	places int
	certs  string
}

// newLab makes namespaces for so many workers, and certificates for all nodes under a folder.
func newLab(ctx context.Context, places int, certs string) (*lab, error) {
	nodes := places + 2
	net, err := netlab.New(ctx, netlab.Config{Nodes: nodes, BitsPerSecond: labRate, Impairable: true})
	if err != nil {
		return nil, err
	}
	l := &lab{Lab: net, places: places, certs: certs}
	const validity = 24 * time.Hour
	for i := range nodes {
		var err error
		if hosts := []string{l.host(i)}; i == 0 {
			err = tlsconf.Generate(l.tls(0), hosts, validity)
		} else {
			err = tlsconf.Issue(l.tls(0), l.tls(i), hosts, validity)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("a certificate for node %d: %w", i, err), l.close())
		}
	}
	return l, nil
}

func (l *lab) seat(i int) seat {
	node := l.places + i
	return seat{node: node, listen: net.JoinHostPort(l.host(node), "7946"), control: net.JoinHostPort(l.host(node), "7947")}
}
func (l *lab) host(node int) string { return l.Data(node) }
func (l *lab) tls(node int) string  { return filepath.Join(l.certs, "node"+strconv.Itoa(node)) }
func (l *lab) command(ctx context.Context, node int, program string, args ...string) *exec.Cmd {
	return l.Command(ctx, node, program, args...)
}
func (l *lab) impair(node int, i netlab.Impairment) error { return l.Impair(node, i) }
func (l *lab) dial(ctx context.Context, node int, address string) (net.Conn, error) {
	return l.Dial(ctx, node, address)
}
func (l *lab) describe() string {
	return fmt.Sprintf("%d network namespaces, %s; mTLS", l.places+2, l.Method())
}
func (l *lab) close() error { return l.Close() }

// loopback is a site without links.
type loopback struct {
	seats [2]seat
}

// newLoopback finds free ports. Another process may take one before it is used, in which case a coordinator says so and the round fails.
func newLoopback() (*loopback, error) {
	l := new(loopback)
	for i := range l.seats {
		var addresses [2]string
		for j := range addresses {
			s, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			defer s.Close() // at the end, so that no port is found twice
			addresses[j] = s.Addr().String()
		}
		l.seats[i] = seat{listen: addresses[0], control: addresses[1]}
	}
	return l, nil
}

func (l *loopback) seat(i int) seat { return l.seats[i] }
func (*loopback) host(int) string   { return "127.0.0.1" }
func (*loopback) tls(int) string    { return "" }
func (*loopback) command(ctx context.Context, _ int, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, program, args...)
}
func (*loopback) impair(int, netlab.Impairment) error {
	return errors.New("loopback has no links to impair")
}
func (*loopback) dial(ctx context.Context, _ int, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}
func (*loopback) describe() string { return "loopback, in clear" }
func (*loopback) close() error     { return nil }
