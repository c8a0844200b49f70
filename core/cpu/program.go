package cpu

// step is one entry of the program that a network compiles to: a piece for the calling goroutine, a job of a fixed
// number of items, or one or more jobs over the batch's images.
type step struct {
	name   string
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
	perImage int
	job      func(item, thread int)
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
	return step{name: name, parts: []part{{items, job}}}
}

// fixed makes a step of a fixed number of items.
func fixed(name string, items int, job func(item, thread int)) step {
	return step{name: name, fixed: items, job: job}
}
