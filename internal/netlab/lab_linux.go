package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Lab is a set of nodes and what joins them.
type Lab struct {
	cfg    Config
	prefix string
	made   []string // namespaces
	method string
	relay  *relay
	dialer *dialer
}

// commandLimit bounds one call of ip or tc.
const commandLimit = 20 * time.Second

// Missing says why there can be no lab here, nil if there can.
func Missing() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("network namespaces need root"))
	}
	for _, name := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(name); err != nil {
			errs = append(errs, fmt.Errorf("the command %s is not here (iproute2)", name))
		}
	}
	return errors.Join(errs...)
}

// New makes a lab, which the caller closes.
func New(ctx context.Context, cfg Config) (*Lab, error) {
	if err := errors.Join(cfg.Validate(), Missing()); err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg, prefix: "lockstep-" + strconv.Itoa(os.Getpid()) + "-", dialer: newDialer()}
	if err := l.make(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) node(i int) string { return l.prefix + strconv.Itoa(i) }
func (l *Lab) hub() string       { return l.prefix + "hub" }

// Method is one of the ways to make links.
func (l *Lab) Method() string { return l.method }

// Control is a node's address on the interface without a limit.
func (l *Lab) Control(node int) string { return controlAddress(node) }

// Data is a node's address on the link.
func (l *Lab) Data(node int) string { return dataAddress(node) }

// Command is a command to run in a node's namespace.
func (l *Lab) Command(ctx context.Context, node int, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.node(node), name}, args...)...)
}

// Hub is a command to run in the hub's namespace.
func (l *Lab) Hub(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.hub(), name}, args...)...)
}

// run runs a command line of ip or tc; fields have no spaces.
func run(ctx context.Context, format string, args ...any) error {
	line := strings.Fields(fmt.Sprintf(format, args...))
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// make sets everything up; what is there after an error is for Close.
func (l *Lab) make(ctx context.Context) error {
	if err := l.namespaces(ctx); err != nil {
		return err
	}
	l.method = MethodVeth
	if l.cfg.Delay > 0 {
		l.method = MethodNetem
		if err := run(ctx, "tc -n %s qdisc add dev control root netem delay 1ms", l.hub()); err != nil {
			l.method = MethodTUN
		} else if err := run(ctx, "tc -n %s qdisc del dev control root", l.hub()); err != nil {
			return err
		}
	}
	if l.cfg.Impairable {
		l.method = MethodRelay
	}
	if l.carries() {
		var err error
		if l.relay, err = newRelay(l); err != nil {
			return err
		}
	} else if err := run(ctx, "ip -n %s link add data type bridge", l.hub()); err != nil {
		return err
	}
	if err := run(ctx, "ip -n %s link set lo up", l.hub()); err != nil {
		return err
	}
	for i := range l.cfg.Nodes {
		if err := l.join(ctx, i); err != nil {
			return err
		}
	}
	if l.carries() {
		l.relay.start()
		return nil
	}
	return run(ctx, "ip -n %s link set data up", l.hub())
}

// carries says whether this process carries the packets.
func (l *Lab) carries() bool { return l.method == MethodTUN || l.method == MethodRelay }

// Impair sets what goes wrong on a node's link from now on. Only a lab that is Impairable can.
func (l *Lab) Impair(node int, i Impairment) error {
	if err := i.Validate(); err != nil {
		return err
	}
	if !l.cfg.Impairable || node < 0 || node >= l.cfg.Nodes {
		return fmt.Errorf("node %d of %d cannot be impaired, in a lab whose links are %s", node, l.cfg.Nodes, l.method)
	}
	l.relay.ends[node].impairment.Store(&i)
	return nil
}

// Dial connects from within a node's namespace.
func (l *Lab) Dial(ctx context.Context, node int, address string) (net.Conn, error) {
	return l.dialer.dial(ctx, l.node(node), address)
}

// namespaces makes the namespaces and the control network.
func (l *Lab) namespaces(ctx context.Context) error {
	for i := -1; i < l.cfg.Nodes; i++ {
		name := l.hub()
		if i >= 0 {
			name = l.node(i)
		}
		if err := run(ctx, "ip netns add %s", name); err != nil {
			return err
		}
		l.made = append(l.made, name)
	}
	for _, line := range []string{
		"ip -n %s link add control type bridge",
		"ip -n %s addr add 198.18.0.254/24 dev control",
		"ip -n %s link set control up",
	} {
		if err := run(ctx, line, l.hub()); err != nil {
			return err
		}
	}
	return nil
}

// join gives a node its two interfaces.
func (l *Lab) join(ctx context.Context, i int) error {
	ns := l.node(i)
	if err := l.pair(ctx, i, "control"); err != nil {
		return err
	}
	if !l.carries() {
		if err := l.pair(ctx, i, "data"); err != nil {
			return err
		}
	}
	for _, line := range append([]string{
		fmt.Sprintf("ip -n %s link set lo up", ns),
		fmt.Sprintf("ip -n %s addr add %s/24 dev control", ns, controlAddress(i)),
		fmt.Sprintf("ip -n %s addr add %s/24 dev data", ns, dataAddress(i)),
		fmt.Sprintf("ip -n %s link set control up", ns),
		fmt.Sprintf("ip -n %s link set data up", ns),
	}, l.shape(ns)...) {
		if err := run(ctx, "%s", line); err != nil {
			return err
		}
	}
	return nil
}

// pair joins an interface of a node to the hub's bridge of the same name.
func (l *Lab) pair(ctx context.Context, i int, name string) error {
	end := name + strconv.Itoa(i)
	if err := run(ctx, "ip -n %s link add %s type veth peer name %s netns %s", l.hub(), end, name, l.node(i)); err != nil {
		return err
	}
	return run(ctx, "ip -n %s link set %s master %s up", l.hub(), end, name)
}

// shape gives the command lines that limit what a node sends.
func (l *Lab) shape(ns string) []string {
	// A millisecond's worth may leave at once: the kernel hands over up to 64 KiB at a time, and looks at the clock no more often than it must.
	burst := max(l.cfg.BitsPerSecond/8/1000, 128<<10)
	// What waits is bounded by packets: 64 KiB ones with segmentation left to the device, so that 1000 are plenty for TCP to find its rate.
	lines := []string{
		fmt.Sprintf("tc -n %s qdisc add dev data root handle 1: htb default 1 r2q 100000", ns),
		fmt.Sprintf("tc -n %s class add dev data parent 1: classid 1:1 htb rate %dbit burst %d cburst %d quantum 200000", ns, l.cfg.BitsPerSecond, burst, burst),
	}
	leaf := fmt.Sprintf("tc -n %s qdisc add dev data parent 1:1 handle 2: pfifo limit 1000", ns)
	if l.method == MethodNetem {
		leaf = fmt.Sprintf("tc -n %s qdisc add dev data parent 1:1 handle 2: netem delay %dus limit 100000", ns, l.cfg.Delay.Microseconds())
	}
	return append(lines, leaf)
}

// Close ends whatever still runs in the lab's interfaces and deletes it. May be called twice.
func (l *Lab) Close() error {
	var errs []error
	l.dialer.close()
	if l.relay != nil {
		errs = append(errs, l.relay.close())
		l.relay = nil
	}
	for _, ns := range l.made {
		errs = append(errs, run(context.Background(), "ip netns del %s", ns)) //bounded: run gives each command commandLimit
	}
	l.made = nil
	return errors.Join(errs...)
}
