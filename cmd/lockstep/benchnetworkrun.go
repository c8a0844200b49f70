package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/lockstep-ml/lockstep/internal/netlab"
)

// networkPort is where members serve, each in its namespace.
const networkPort = "7950"

// overLab runs bench allreduce with a member in each node of a lab and the driver in its hub. Nothing leaves the namespaces, which nobody
// else is in, so it goes in clear.
func (o *networkOptions) overLab(ctx context.Context, lab *netlab.Lab) (*allreduceReport, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program to start workers with: %w", err)
	}
	m := &localMembers{}
	ctx, m.cancel = context.WithCancel(ctx)
	defer m.stop()
	for i := range o.workers {
		at := net.JoinHostPort(lab.Control(i), networkPort)
		cmd := lab.Command(ctx, i, self, "bench", "allreduce", "--serve", "--of-bench", "--insecure", "--listen", at, "--ring-host", lab.Data(i), "--timeout", o.timeout.String())
		if err := m.start(ctx, cmd); err != nil {
			m.cancel()
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
	}
	cmd := lab.Hub(ctx, self, "bench", "allreduce", "--json", "--insecure", "--hosts", strings.Join(m.addresses, ","),
		"--elements", fmt.Sprint(o.elements), "--bucket", fmt.Sprint(o.bucket), "--wire", fmt.Sprint(o.wire), "--replicas", fmt.Sprint(o.replicas), "--transport", o.transport, "--coding", o.coding,
		"--group", o.group.String(),
		"--rounds", fmt.Sprint(o.rounds), "--compute", o.compute.String(), "--timeout", o.timeout.String())
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.SysProcAttr, cmd.WaitDelay = childAttributes(), time.Second
	if err := cmd.Run(); err != nil { //bounded: the benchmark bounds each round by --timeout, and ctx kills it
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	r := new(allreduceReport)
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		return nil, fmt.Errorf("the benchmark's output: %w: %s", err, out.String())
	}
	return r, nil
}
