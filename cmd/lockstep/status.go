package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/lockstep-ml/lockstep/internal/gossip"
	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
)

// statusOptions say whom to ask.
type statusOptions struct {
	join    []string
	control string
	wait    time.Duration
	asJSON  bool
	sec     network
}

func statusCommand() *cobra.Command {
	o := &statusOptions{}
	cmd := &cobra.Command{
		Use:   "status --join HOST:PORT",
		Short: "Say where a run stands",
		Long: `Asks a run's coordinator where the run stands: its step, its generation and the workers of that. The coordinator is found
through any member of the cluster (--join), or asked at its own address (--control).`,
		Example: `  lockstep status --join 127.0.0.1:7946
  lockstep status --join 10.0.0.1:7946 --tls certs/node1 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (len(o.join) == 0) == (o.control == "") {
				return errors.New("whom to ask? Give --join HOST:PORT of any member, or --control HOST:PORT of the coordinator")
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), o.wait, fmt.Errorf("gave up after %v", o.wait))
			defer cancel()
			st, err := o.ask(ctx)
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), st, o.asJSON)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringSliceVar(&o.join, "join", nil, "HOST:PORT where the coordinator or a worker gossips; several may be given")
	f.StringVar(&o.control, "control", "", "HOST:PORT of the coordinator's control service, instead of --join")
	f.DurationVar(&o.wait, "wait", 10*time.Second, "how long to try")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object as the last line")
	o.sec.addFlags(f)
	return cmd
}

// ask finds the coordinator and asks it.
func (o *statusOptions) ask(ctx context.Context) (*pb.StatusResponse, error) {
	at := o.control
	if at == "" {
		host, err := facing(o.join[0])
		if err != nil {
			return nil, err
		}
		if err := o.sec.open(append([]string{host}, o.join...)...); err != nil {
			return nil, err
		}
		if at, err = o.find(ctx, host); err != nil {
			return nil, err
		}
	} else if err := o.sec.open(at); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(at, grpc.WithTransportCredentials(o.sec.client()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxControlMessage)))
	if err != nil {
		return nil, fmt.Errorf("coordinator at %s: %w", at, err)
	}
	defer conn.Close() // nothing is lost by it
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st, err := pb.NewControlClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("coordinator at %s: %w", at, err)
	}
	return st, nil
}

// statusTimeout bounds the coordinator's answer, which it has at hand.
const statusTimeout = 10 * time.Second

// find joins the gossip for a moment, to learn where the coordinator is.
func (o *statusOptions) find(ctx context.Context, listen string) (at string, err error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("this machine has no name: %w", err)
	}
	node, err := gossip.Start(gossip.Config{Name: fmt.Sprintf("status-%s-%d", host, os.Getpid()), Role: gossip.Worker, BindAddr: listen,
		Meta: gossip.Meta{Version: buildVersion()}, Key: o.sec.gossipKey(), Join: o.join, Label: gossipLabel})
	if err != nil {
		return "", err
	}
	defer node.Close() // its goodbye is a courtesy
	meta, err := node.Coordinator(ctx)
	return meta.RPC, err
}

// facing gives this machine's address on the way to another, with a free port. No packet is sent for it.
func facing(addr string) (string, error) {
	conn, err := net.DialTimeout("udp", addr, 5*time.Second)
	if err != nil {
		return "", fmt.Errorf("--join %s: %w", addr, err)
	}
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return net.JoinHostPort(host, "0"), errors.Join(err, conn.Close())
}

// statusReport is the last line of --json.
type statusReport struct {
	Run             string         `json:"run"`
	Epoch           uint64         `json:"epoch"` // counts the run's coordinators
	Phase           string         `json:"phase"` // gathering, reattaching, running, pausing, saving or over
	Step            uint64         `json:"step"`
	TotalSteps      uint64         `json:"total_steps"`
	Generation      uint64         `json:"generation"`
	Loss            float64        `json:"loss"`
	ImagesPerSecond float64        `json:"images_per_second"`
	Members         []statusMember `json:"members"` // in the ring's order
}

type statusMember struct {
	Worker string `json:"worker"`
	Ring   string `json:"ring"`   // HOST:PORT
	Gossip string `json:"gossip"` // likewise
}

func printStatus(w io.Writer, st *pb.StatusResponse, asJSON bool) error {
	r := statusReport{Run: st.Run, Epoch: st.Epoch, Phase: st.Phase, Step: st.Step, TotalSteps: st.TotalSteps, Generation: st.Generation,
		Loss: st.Loss, ImagesPerSecond: st.ImagesPerSecond, Members: []statusMember{}}
	for _, m := range st.Members {
		r.Members = append(r.Members, statusMember{m.Worker, m.RingAddress, m.GossipAddress})
	}
	if asJSON {
		return printJSON(w, r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "run %s: %s, coordinator %d\nstep %d of %d, loss %.4f, %.0f img/s\ngeneration %d, workers in the ring: %d\n",
		r.Run, r.Phase, r.Epoch, r.Step, r.TotalSteps, r.Loss, r.ImagesPerSecond, r.Generation, len(r.Members))
	for _, m := range r.Members {
		fmt.Fprintf(&b, "  %s  ring %s  gossip %s\n", m.Worker, m.Ring, m.Gossip)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
