package cpu

// step is one entry of the program that a network compiles to: a piece for the calling goroutine, a job of a fixed
// number of items, or one or more jobs over the batch's images.
type step struct {
	name   string
	work   work // of serial or job
	serial func()
	fixed  int // items of job
	job    func(item, thread int)
	parts  []part
	whole  func(image, thread int) // all parts for one image
	trains bool                    // only when training
	// readyLo, readyHi is the run of parameters whose gradients are final after this step.
	readyLo, readyHi int
}

// part is a job over the batch: item i treats image i / perImage, and reads of the step's other parts only what
// they wrote for that image.
type part struct {
	name     string
	work     work
	perImage int
	job      func(item, thread int)
}

// work is what a piece of the program costs at the least, for the whole batch.
type work struct {
	flops int64 // floating-point operations, two for a multiply-add
	bytes int64 // activations and gradients read or written, each once
}

// imagesPerThread is how many images a thread must have for the parts of a step to run image by image. With fewer,
// threads would wait for the one with the last image; then each part is shared out on its own.
const imagesPerThread = 4

// run executes one step for the engine's present batch. Image by image, what one part writes is still in the
// cache when the next reads it; the result is the same either way.
func (s *step) run(e *Engine) {
	switch {
	case s.serial != nil:
		s.serial()
	case s.job != nil:
		e.pool.run(s.fixed, s.job)
	case len(s.parts) > 1 && e.n >= imagesPerThread*e.cfg.Threads:
		e.pool.run(e.n, s.whole)
	default:
		for _, p := range s.parts {
			e.pool.run(e.n*p.perImage, p.job)
		}
	}
}

// join makes s, which is over images, the next part of the step before it.
func (s *step) join(next step) {
	s.name += ", " + next.name
	s.parts = append(s.parts, next.parts...)
	parts := s.parts
	s.whole = func(image, thread int) {
		for _, p := range parts {
			for i := range p.perImage {
				p.job(image*p.perImage+i, thread)
			}
		}
	}
}

// perImage makes a step over images.
func perImage(name string, items int, job func(item, thread int)) step {
	return step{name: name, parts: []part{{name: name, perImage: items, job: job}}}
}

// costing says how many floating-point operations a step of one piece takes.
func (s step) costing(flops int64) step {
	s.charge(work{flops: flops})
	return s
}

// charge adds to the cost of the step's last piece.
func (s *step) charge(w work) {
	to := &s.work
	if len(s.parts) > 0 {
		to = &s.parts[len(s.parts)-1].work
	}
	to.flops += w.flops
	to.bytes += w.bytes
}

// fixed makes a step of a fixed number of items.
func fixed(name string, items int, job func(item, thread int)) step {
	return step{name: name, fixed: items, job: job}
}
