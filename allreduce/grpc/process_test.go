package ringgrpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/shm"
)

const (
	memberEnv    = "LOCKSTEP_RING_TEST_MEMBER" // makes the test binary a member, with this way to share
	memberValues = 300_000
)

// member is rank 1 of a ring of two in a process of its own: it prints its
// address, reads its neighbour's, and reduces step after step until something fails.
func member(sharing string) error {
	way, err := ParseSharing(sharing)
	if err != nil {
		return err
	}
	cfg := DefaultConfig()
	cfg.Run, cfg.Credentials, cfg.Sharing = run, insecure.NewCredentials(), way
	node, err := NewNode(cfg)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(ServerOptions()...)
	node.Register(server)
	var g errgroup.Group
	g.Go(func() error { return server.Serve(l) })
	defer server.Stop()
	fmt.Println(l.Addr())
	var right string
	if _, err := fmt.Fscanln(os.Stdin, &right); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	transport, err := node.Join(ctx, 1, 1, 2, right)
	if err != nil {
		return err
	}
	ring, err := allreduce.New(pairConfig(1), transport)
	if err != nil {
		return err
	}
	return reduceForever(ring)
}

// reduceForever reduces replica 1 until an error.
func reduceForever(ring *allreduce.Ring) error {
	local := []allreduce.Contribution{{Replica: 1, Values: gradients(2, memberValues, 1)[1]}}
	for step := uint64(1); ; step++ {
		if err := ring.Reduce(context.Background(), allreduce.Bucket{Step: step}, local, make([]float32, memberValues)); err != nil {
			return err
		}
	}
}

func pairConfig(rank int) allreduce.Config {
	cfg := allreduce.DefaultConfig()
	cfg.Run, cfg.Generation, cfg.Rank, cfg.Size, cfg.Replicas = run, 1, rank, 2, 2
	cfg.BeginTimeout, cfg.HopTimeout = time.Hour, time.Hour
	cfg.SegmentBytes = 16 << 10
	return cfg
}

// spawn starts rank 1. It returns its address and where it is told its neighbour's.
func spawn(t *testing.T, sharing Sharing) (p *os.Process, addr string, tell io.Writer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), memberEnv+"="+map[Sharing]string{ShareNever: "grpc", ShareAlways: "shm"}[sharing])
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		cancel()
	})
	if addr, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return cmd.Process, strings.TrimSpace(addr), in
}

// startMember starts rank 1 and joins it as rank 0.
func startMember(t *testing.T, sharing Sharing, tweak func(*Config)) (*os.Process, allreduce.Transport) {
	t.Helper()
	process, addr, tell := spawn(t, sharing)
	cfg := DefaultConfig()
	cfg.Run, cfg.Credentials, cfg.Sharing = run, insecure.NewCredentials(), sharing
	if tweak != nil {
		tweak(&cfg)
	}
	w := newWorkerOf(t, cfg, false)
	if _, err := io.WriteString(tell, w.addr+"\n"); err != nil {
		t.Fatal(err)
	}
	join, done := context.WithTimeout(t.Context(), 20*time.Second)
	defer done()
	transport, err := w.node.Join(join, 1, 0, 2, addr)
	if err != nil {
		t.Fatal(err)
	}
	if right := WaysOf(transport)[0].Right; right.Shared != (sharing == ShareAlways) {
		t.Fatalf("linked by %v", right)
	}
	return process, transport
}

// eachProcess runs a test with a neighbour in a process of its own, both ways.
func eachProcess(t *testing.T, f func(t *testing.T, sharing Sharing)) {
	t.Run("grpc", func(t *testing.T) { f(t, ShareNever) })
	t.Run("shm", func(t *testing.T) {
		skipWithoutSharing(t)
		f(t, ShareAlways)
	})
}

// steps reduces some steps as rank 0, and then goes on until an error.
func steps(t *testing.T, ring *allreduce.Ring, after int, then func()) error {
	t.Helper()
	all := gradients(2, memberValues, 1)
	want := alone(t, allreduce.Bucket{}, all)
	for step := 1; ; step++ {
		got := make([]float32, memberValues)
		err := ring.Reduce(t.Context(), allreduce.Bucket{Step: uint64(step)}, []allreduce.Contribution{{Replica: 0, Values: all[0]}}, got)
		if err != nil {
			return err
		}
		if got[0] != want[0] || got[memberValues-1] != want[memberValues-1] {
			t.Fatalf("step %d: a wrong sum", step)
		}
		if step == after {
			then()
		}
	}
}

func TestNeighbourProcessIsKilled(t *testing.T) {
	eachProcess(t, func(t *testing.T, sharing Sharing) {
		before := regions(t)
		process, transport := startMember(t, sharing, nil)
		ring, err := allreduce.New(pairConfig(0), transport)
		if err != nil {
			t.Fatal(err)
		}
		var kill errgroup.Group
		err = steps(t, ring, 5, func() { kill.Go(process.Kill) }) // somewhere in what follows
		if err := kill.Wait(); err != nil {
			t.Error(err)
		}
		var hop *allreduce.HopError
		if !errors.As(err, &hop) || hop.Peer != 1 || hop.Step < 6 {
			t.Errorf("got %v, want a HopError that names rank 1", err)
		}
		if err := ring.Close(); err != nil {
			t.Error(err)
		}
		if after := regions(t); after != before {
			t.Errorf("%d regions are mapped, %d were before", after, before)
		}
	})
}

func TestNeighbourProcessFreezes(t *testing.T) {
	eachProcess(t, func(t *testing.T, sharing Sharing) {
		process, transport := startMember(t, sharing, nil)
		cfg := pairConfig(0)
		cfg.BeginTimeout, cfg.HopTimeout = 2*time.Second, 2*time.Second
		ring, err := allreduce.New(cfg, transport)
		if err != nil {
			t.Fatal(err)
		}
		defer ring.Close()
		err = steps(t, ring, 3, func() {
			if err := process.Signal(syscall.SIGSTOP); err != nil {
				t.Error(err)
			}
		})
		var hop *allreduce.HopError
		if !errors.As(err, &hop) || hop.Peer != 1 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a missed deadline that names rank 1", err)
		}
	})
}

// A frozen neighbour gives no slot back: the wait for one ends with its
// deadline, and when the neighbour dies.
func TestWaitForASlotOfAFrozenNeighbour(t *testing.T) {
	skipWithoutSharing(t)
	process, transport := startMember(t, ShareAlways, func(c *Config) { c.Region = shm.Geometry{Slots: 2, SlotBytes: 4096} })
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer transport.Close()
	header := allreduce.Header{
		Key: allreduce.Key{Step: 1, Phase: allreduce.PhaseReduceScatter}, Run: allreduce.RunDigest(run), Generation: 1, Wire: 32, Length: 4096,
	}
	fill := func(wait time.Duration) error {
		for {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			m, err := transport.Buffer(ctx, allreduce.Inner, 4096)
			if err != nil {
				return err
			}
			header.Segment++
			m.Header = header
			if err := transport.Send(ctx, m); err != nil {
				return err
			}
		}
	}
	if err := fill(200 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a missed deadline", err)
	}
	var killed errgroup.Group
	killed.Go(process.Kill)
	var broken *allreduce.PeerError
	if err := fill(time.Hour); !errors.As(err, &broken) || broken.Peer != 1 {
		t.Errorf("got %v, want a PeerError that names rank 1", err)
	}
	if err := killed.Wait(); err != nil {
		t.Error(err)
	}
}

// regions counts the regions that this process has mapped; 0 where that cannot be seen.
func regions(t *testing.T) int {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Logf("mapped regions not counted: %v", err)
		return 0
	}
	return strings.Count(string(maps), "memfd:lockstep-ring")
}
