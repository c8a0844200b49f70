package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/lockstep-ml/lockstep/coordinator/server"
)

// errHandedOver ends a coordinator that leaves its run to the next one.
var errHandedOver = errors.New("this coordinator was told to go and leaves the run as it is: start one with --continue")

// runUntilTold runs the server. Signals end the run in good order; with handOver that is SIGINT's part, and SIGTERM, by which machines
// and clusters move a process elsewhere, ends the coordinator alone: what it has decided is on disk, and workers are told nothing. ctx
// is the command's, which either signal ends.
func runUntilTold(ctx context.Context, s *server.Server, handOver bool) (server.Result, error) {
	run, cancel := context.WithCancelCause(context.WithoutCancel(ctx)) //bounded: Run returns when the run is over, or shortly after Interrupt
	defer cancel(nil)
	restore := func() {}
	if handOver {
		interrupted, stop := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt) //bounded: stop, when Run has returned
		defer stop()
		restore = stop
		told, ignore := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGTERM) //bounded: ignore, when Run has returned
		defer ignore()
		defer context.AfterFunc(told, func() { cancel(errHandedOver) })()
		ctx = interrupted
	}
	defer context.AfterFunc(ctx, func() {
		restore() // a second signal ends the process
		s.Interrupt("interrupted")
	})()
	res, err := s.Run(run)
	if errors.Is(context.Cause(run), errHandedOver) && err != nil {
		return server.Result{}, errHandedOver
	}
	return res, err
}
