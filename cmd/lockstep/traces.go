package main

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel"

	"github.com/lockstep-ml/lockstep/internal/telemetry"
)

// openTraces prepares the traces of a process; finish sends what is left. Traces that get lost are worth a warning, never a run.
func openTraces(ctx context.Context, endpoint string, sec *network, process string) (t *telemetry.Telemetry, finish func(), err error) {
	t, err = telemetry.Setup(ctx, telemetry.Config{Endpoint: endpoint, TLS: sec.telemetryTLS(endpoint), Process: process, Version: buildVersion()})
	if err != nil {
		return nil, nil, err
	}
	log := newLog(false, slog.LevelWarn, process)
	lost := func(err error) { log.Warn("traces are lost: is a collector at --otlp?", "otlp", endpoint, "err", err) }
	otel.SetErrorHandler(otel.ErrorHandlerFunc(lost))
	return t, func() {
		if err := t.Shutdown(ctx); err != nil {
			lost(err)
		}
	}, nil
}
