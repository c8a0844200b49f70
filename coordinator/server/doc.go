// Package server is the shell around coordinator.Machine: it serves the control protocol over gRPC, feeds the machine with what
// arrives and carries its decisions out.
//
// The caller opens a listener, gives the state that training starts from and a Store for checkpoints, and calls Run, which blocks
// until every worker has been stopped. Interrupt ends the run in good order; ending Run's context ends it at once.
//
//	cfg := server.DefaultConfig()
//	cfg.Machine.Run, cfg.Machine.TotalSteps, ... = "demo", 400, ...
//	cfg.Listener, cfg.Initial, cfg.Store = listener, state, store
//	s, err := server.New(cfg)
//	result, err := s.Run(ctx)
//
// One goroutine owns the machine. Each attached worker has one that sends and one that receives; one more writes checkpoints.
// Run waits for all of them.
package server
