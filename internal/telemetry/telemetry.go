// Package telemetry sends traces to an OpenTelemetry collector (Jaeger takes them as they are).
//
// Each step is one trace across all processes. Nobody has to hand its identity around: trace and root span have
// identifiers computed from (run, step), so every worker hangs its spans under the same root, which the
// coordinator records once all workers have reported the step.
//
//	t, err := telemetry.Setup(ctx, telemetry.Config{Endpoint: "127.0.0.1:4317", Process: "worker w1"})
//	ctx = telemetry.StepContext(ctx, run, step)
//	ctx, span := t.Tracer().Start(ctx, "worker step")
//	defer t.Shutdown(ctx)
package telemetry

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc/credentials"
)

// Service is the service name under which Jaeger lists the traces.
const Service = "lockstep"

// Config says where spans go.
type Config struct {
	// Endpoint is the collector's HOST:PORT for OTLP over gRPC; empty records nothing.
	Endpoint string
	// TLS protects the connection; nil speaks in clear, which the caller allows on loopback only.
	TLS *tls.Config
	// Process names this process, for people: "coordinator", "worker w1".
	Process string
	// Version of the binary.
	Version string
}

// Telemetry records spans; the zero value records none.
type Telemetry struct {
	provider *sdk.TracerProvider
}

// exportTimeout bounds one export and the final flush: a collector that is away must not hold training or its end up.
const exportTimeout = 5 * time.Second

// Setup prepares the exporter. It does not wait for the collector: spans are dropped while it is away.
func Setup(ctx context.Context, c Config) (*Telemetry, error) {
	if c.Endpoint == "" {
		return &Telemetry{}, nil
	}
	opts := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(c.Endpoint), otlptracegrpc.WithTimeout(exportTimeout)}
	if c.TLS != nil {
		opts = append(opts, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(c.TLS)))
	} else {
		opts = append(opts, otlptracegrpc.WithInsecure())
	}
	exp, err := otlptracegrpc.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("traces to %s: %w", c.Endpoint, err)
	}
	res := resource.NewSchemaless(attribute.String("service.name", Service),
		attribute.String("service.instance.id", c.Process), attribute.String("service.version", c.Version))
	return &Telemetry{provider: sdk.NewTracerProvider(
		sdk.WithBatcher(exp, sdk.WithExportTimeout(exportTimeout)), sdk.WithResource(res), sdk.WithIDGenerator(ids{}))}, nil
}

// Tracer makes spans.
func (t *Telemetry) Tracer() trace.Tracer {
	if t.provider == nil {
		return noop.NewTracerProvider().Tracer(Service)
	}
	return t.provider.Tracer("github.com/lockstep-ml/lockstep")
}

// Shutdown sends what is left, for at most a few seconds.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last traces: %w", err)
	}
	return nil
}

// StepID gives the identifiers of a step's trace and of its root span.
func StepID(run string, step uint64) trace.SpanContext {
	h := sha256.New()
	h.Write([]byte(run)) // a hash never fails to write
	var b [9]byte
	binary.LittleEndian.PutUint64(b[1:], step)
	h.Write(b[:]) // the leading zero byte ends the name
	sum := h.Sum(nil)
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(sum[:16]), SpanID: trace.SpanID(sum[16:24]), TraceFlags: trace.FlagsSampled, Remote: true,
	})
}

// StepContext puts a step's root span into ctx, as the parent of what is started with it.
func StepContext(ctx context.Context, run string, step uint64) context.Context {
	return trace.ContextWithRemoteSpanContext(ctx, StepID(run, step))
}

// RecordStep records a step's root span; tail is what of its all-reduce no computing hid, dataWait the longest wait for images.
func (t *Telemetry) RecordStep(ctx context.Context, run string, step uint64, start, end time.Time, tail, dataWait time.Duration) {
	ctx = context.WithValue(ctx, forced{}, StepID(run, step))
	_, sp := t.Tracer().Start(ctx, "step", trace.WithNewRoot(), trace.WithTimestamp(start),
		trace.WithAttributes(attribute.String("lockstep.run", run), attribute.Int64("lockstep.step", int64(step)),
			attribute.Float64("lockstep.tail_seconds", tail.Seconds()), attribute.Float64("lockstep.data_wait_seconds", dataWait.Seconds())))
	sp.End(trace.WithTimestamp(end))
}

// forced is the context key under which RecordStep tells ids what to give the root span.
type forced struct{}

// ids draws identifiers at random, but for a root span whose identifiers are given.
type ids struct{}

func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if sc, ok := ctx.Value(forced{}).(trace.SpanContext); ok {
		return sc.TraceID(), sc.SpanID()
	}
	var t trace.TraceID
	binary.LittleEndian.PutUint64(t[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(t[8:], rand.Uint64()|1) // all zeros is not valid
	return t, newSpanID()
}

func (ids) NewSpanID(context.Context, trace.TraceID) trace.SpanID { return newSpanID() }

func newSpanID() (s trace.SpanID) {
	binary.LittleEndian.PutUint64(s[:], rand.Uint64()|1)
	return s
}
