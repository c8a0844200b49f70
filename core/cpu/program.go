package cpu

// step is one entry of the program that a network compiles to: either a job of many items, or a piece for the
// calling goroutine.
type step struct {
	name     string
	perImage int // items for each image of the batch
	fixed    int // items, where their number does not depend on the batch
	job      func(item, thread int)
	serial   func()
	trains   bool // only when training
	// readyLo, readyHi is the run of parameters whose gradients are final after this step.
	readyLo, readyHi int
}

// run executes one step for the engine's present batch.
func (s *step) run(e *Engine) {
	if s.serial != nil {
		s.serial()
		return
	}
	e.pool.run(s.fixed+s.perImage*e.n, s.job)
}
