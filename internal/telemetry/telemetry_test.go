package telemetry_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/lockstep-ml/lockstep/internal/telemetry"
)

func TestStepIDTellsRunsAndStepsApart(t *testing.T) {
	seen := map[trace.TraceID]bool{}
	for _, run := range []string{"", "a", "b", "ab"} {
		for step := range uint64(300) {
			id := telemetry.StepID(run, step)
			if !id.IsValid() || !id.IsSampled() || !id.IsRemote() {
				t.Fatalf("run %q step %d: %+v is not a sampled remote parent", run, step, id)
			}
			if seen[id.TraceID()] {
				t.Fatalf("run %q step %d: its trace is another step's too", run, step)
			}
			seen[id.TraceID()] = true
			if again := telemetry.StepID(run, step); again.TraceID() != id.TraceID() || again.SpanID() != id.SpanID() {
				t.Fatalf("run %q step %d: two identities", run, step)
			}
		}
	}
}

// receiver is a collector that keeps what it is sent.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*otlp.Span
}

func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			r.spans = append(r.spans, ss.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// TestOneTrace lets two processes' telemetry send: the worker's span lies under the root that the coordinator records.
func TestOneTrace(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, srv := &receiver{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(srv, r)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() { srv.Stop(); <-served }()

	ctx := context.Background()
	begun := time.Now()
	for _, process := range []string{"coordinator", "worker w1"} {
		tele, err := telemetry.Setup(ctx, telemetry.Config{Endpoint: l.Addr().String(), Process: process, Version: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if process == "coordinator" {
			tele.RecordStep(ctx, "run", 7, begun, begun.Add(time.Second), time.Millisecond, time.Microsecond)
		} else {
			_, sp := tele.Tracer().Start(telemetry.StepContext(ctx, "run", 7), "worker step")
			sp.End()
		}
		if err := tele.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) != 2 {
		t.Fatalf("%d spans arrived, want 2", len(r.spans))
	}
	root, child := r.spans[0], r.spans[1]
	want := telemetry.StepID("run", 7)
	if got := trace.TraceID(root.TraceId); got != want.TraceID() || root.Name != "step" || len(root.ParentSpanId) != 0 {
		t.Errorf("root span %q of trace %s with parent %x", root.Name, got, root.ParentSpanId)
	}
	tail := 0.0
	for _, a := range root.Attributes {
		if a.Key == "lockstep.tail_seconds" {
			tail = a.Value.GetDoubleValue()
		}
	}
	if tail != 0.001 {
		t.Errorf("the root span has a tail of %g s, want 0.001", tail)
	}
	if string(child.TraceId) != string(root.TraceId) || string(child.ParentSpanId) != string(root.SpanId) {
		t.Errorf("the worker's span is of trace %x under %x, want %x under %x", child.TraceId, child.ParentSpanId, root.TraceId, root.SpanId)
	}
	if took := time.Duration(root.EndTimeUnixNano - root.StartTimeUnixNano); took != time.Second {
		t.Errorf("the root span lasts %v, want what it was given, 1s", took)
	}
}

func TestWithoutEndpoint(t *testing.T) {
	tele, err := telemetry.Setup(context.Background(), telemetry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, sp := tele.Tracer().Start(context.Background(), "x")
	if sp.SpanContext().IsValid() {
		t.Error("a span was recorded with nowhere to send it")
	}
	if err := tele.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}
