// Package coordinator decides what a run does: who takes part, which steps come next and at what learning rate, when to evaluate
// and to store a checkpoint, and how the run ends when something fails.
//
// Machine is a pure state machine: events go in, actions come out. It has no clock (Tick carries the time), no socket, no
// goroutine and no disk, and it never ranges over a map where the order could show, so the same events always give the same
// actions. Package coordinator/server is the shell that feeds it from sockets and carries its actions out.
//
// A caller must feed every event from one goroutine, carry out the actions in the order given, send a Tick several times a
// second, and report back what came of asynchronous actions (Store with Stored or StoreFailed, SendState with StateArrived).
//
//	m, err := coordinator.New(cfg)
//	for ev := range events {
//		for _, action := range m.Step(ev) {
//			carryOut(action)
//		}
//	}
//
// Schedule is the learning rate: constant, a list of steps, or divided on a plateau of the validation error, with a warm-up in
// front of any. See ParseSchedule for the grammar.
package coordinator
