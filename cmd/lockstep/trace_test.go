package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// receiver is an OpenTelemetry collector that keeps what it gets.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	addr string

	mu    sync.Mutex
	spans []received
}

type received struct {
	*tracepb.Span
	process string // service.instance.id
	service string
}

func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		process, service := attribute(rs.Resource.Attributes, "service.instance.id"), attribute(rs.Resource.Attributes, "service.name")
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				r.spans = append(r.spans, received{s, process, service})
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func attribute(attrs []*common.KeyValue, key string) string {
	for _, a := range attrs {
		if a.Key == key {
			if s, ok := a.Value.Value.(*common.AnyValue_StringValue); ok {
				return s.StringValue
			}
			return fmt.Sprint(a.Value.GetIntValue())
		}
	}
	return ""
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{addr: l.Addr().String()}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

// traces gives the spans by trace, once every process has sent what it had.
func (r *receiver) traces() map[string][]received {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string][]received{}
	for _, s := range r.spans {
		id := hex.EncodeToString(s.TraceId)
		out[id] = append(out[id], s)
	}
	return out
}

// Each step is one trace, over all processes.
func TestTraces(t *testing.T) {
	t.Parallel()
	const workers, steps = 3, 4
	r := newReceiver(t)
	lockstep(t, 0, train(steps, "--workers", fmt.Sprint(workers), "--otlp", r.addr, "--checkpoint-every", "2", "--verify-every", "2")...)

	traces := r.traces()
	if len(traces) != steps {
		t.Errorf("%d traces, want one for each of %d steps", len(traces), steps)
	}
	seen := map[string]bool{}
	for id, spans := range traces {
		seen[checkTrace(t, id, spans, workers)] = true
	}
	if want := []string{"0", "1", "2", "3"}; !slices.Equal(slices.Sorted(maps.Keys(seen)), want) {
		t.Errorf("traces of the steps %v, want %v", seen, want)
	}
}

// checkTrace checks one step's trace and gives the step's number.
func checkTrace(t *testing.T, id string, spans []received, workers int) string {
	t.Helper()
	byID := map[string]received{}
	names := map[string]map[string]int{} // process, span name: count
	var root received
	for _, s := range spans {
		byID[string(s.SpanId)] = s
		if names[s.process] == nil {
			names[s.process] = map[string]int{}
		}
		names[s.process][s.Name]++
		if len(s.ParentSpanId) == 0 {
			if root.Span != nil {
				t.Errorf("trace %s has two roots, %s and %s", id, root.Name, s.Name)
			}
			root = s
		}
	}
	if root.Span == nil || root.Name != "step" || root.process != "coordinator" || root.service != "lockstep" {
		t.Fatalf("trace %s has the root %+v, want the coordinator's step", id, root)
	}
	step := attribute(root.Attributes, "lockstep.step")
	for _, s := range spans {
		checkSpan(t, step, s, root, byID)
	}
	replicas, stored := 0, 0
	for i := range workers {
		n := names[fmt.Sprintf("worker w%d", i+1)]
		buckets := n["all-reduce"]
		if n["worker step"] != 1 || n["data wait"] != 1 || n["update"] != 1 || n["ring wait"] != 1 || n["forward"] == 0 || n["forward"] != n["backward"] || buckets < 3 {
			t.Errorf("step %s, worker w%d has the spans %v", step, i+1, n)
		}
		if other := names["worker w1"]["all-reduce"]; buckets != other {
			t.Errorf("step %s: worker w%d reduced %d buckets, w1 %d", step, i+1, buckets, other)
		}
		replicas += n["forward"]
		stored += n["checkpoint"]
	}
	if want := 4 + map[string]int{"0": 1, "2": 1}[step]; replicas != want {
		t.Errorf("step %s has %d forward passes, want %d: one for each of 4 replicas, and behind each comparison of states one more", step, replicas, want)
	}
	if want := map[string]int{"1": 1}[step]; stored != want {
		t.Errorf("step %s has %d checkpoint spans, want %d", step, stored, want)
	}
	return step
}

// checkSpan checks a span's place in its trace: under a span of its own process, or a worker's step under the root.
func checkSpan(t *testing.T, step string, s, root received, byID map[string]received) {
	t.Helper()
	if s.EndTimeUnixNano < s.StartTimeUnixNano || s.StartTimeUnixNano == 0 {
		t.Errorf("step %s: %s of %s lasts from %d to %d", step, s.Name, s.process, s.StartTimeUnixNano, s.EndTimeUnixNano)
	}
	if len(s.ParentSpanId) == 0 {
		return
	}
	parent, ok := byID[string(s.ParentSpanId)]
	switch {
	case !ok:
		t.Errorf("step %s: the parent of %s of %s is not in the trace", step, s.Name, s.process)
	case s.Name == "worker step":
		if parent.Name != root.Name {
			t.Errorf("step %s: worker step of %s hangs under %s", step, s.process, parent.Name)
		}
	case parent.Name != "worker step" || parent.process != s.process:
		t.Errorf("step %s: %s of %s hangs under %s of %s", step, s.Name, s.process, parent.Name, parent.process)
	case s.StartTimeUnixNano < parent.StartTimeUnixNano || s.Name != "checkpoint" && s.EndTimeUnixNano > parent.EndTimeUnixNano:
		t.Errorf("step %s: %s of %s is not within its parent", step, s.Name, s.process)
	}
}

// A collector that is away costs the traces and nothing else.
func TestTracesWithoutCollector(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the exporter's last try")
	}
	t.Parallel()
	p := lockstep(t, 0, train(4, "--otlp", freeAddress(t), "--out", filepath.Join(t.TempDir(), "run"))...)
	if got, want := p.report().Hash, uninterrupted(t, 4); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	p.line(`^w[12]: .*traces are lost`)
	p.line(`^time.*traces are lost`)
}
