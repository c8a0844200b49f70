// Package simulate runs a training job of many workers in virtual time: the coordinator's own state machine makes every decision, and
// workers, links and failures are models.
//
// What is real is coordinator.Machine: generations, assignments, topology, who follows and who takes over. What is modelled is a step's
// time (Model, from the formulas of docs/design/0002-exact-ring.md), the control messages' way, the linking of a ring, the copying of a
// state, and failures, which strike each worker by a Poisson process. docs/design/0010-simulation.md lists what is left out.
//
//	cfg := simulate.DefaultConfig()
//	cfg.Workers, cfg.MTBF, cfg.Model = 1024, 17*time.Hour, model
//	result, err := simulate.Run(ctx, cfg)
//
// The same Config gives the same Result: all chance comes from Seed, and nothing looks at a clock.
package simulate
