// Package worker is the training loop: it joins an engine, a ring, data and the coordinator's plan into steps.
//
// It declares what it needs of each ([core.Engine] apart) as a small interface and knows none of the packages behind them; the command
// line picks the implementations. A [Worker] attaches to a coordinator, builds a [Job] from the run's settings,
// pulls the state, and then does what plans say until the run ends:
//
//	w, err := worker.New(worker.Config{Name: "w1", Version: v, Control: client, Build: build})
//	err = w.Run(ctx) // blocks until the coordinator ends the run, or the worker cannot go on
//
// A step is a transaction. Weights, momentum and statistics are touched by [core.Engine.Update] alone, which runs
// once every bucket of the step was received and verified; whatever happens before that leaves the state of the
// last committed step.
package worker
