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
	groups []span                  // of images: what one thread takes of a step of several parts
	bound  bool                    // to the program's groups: a tensor's slots or a part over groups depend on them
	reuse  int                     // images that should share one reading of a convolution's weights
	whole  func(group, thread int) // all parts for one group
	trains bool                    // only when training
	// readyLo, readyHi is the run of parameters whose gradients are final after this step.
	readyLo, readyHi int
}

// part is a job over the batch: item i treats image i / per, or group i / per of the step's, and reads of the step's other parts
// only what they wrote for that image or group.
type part struct {
	name    string
	work    work
	per     int // items of an image or group
	grouped bool
	job     func(item, thread int)
}

// work is what a piece of the program costs at the least, for the whole batch.
type work struct {
	flops int64 // floating-point operations, two for a multiply-add
	bytes int64 // activations and gradients read or written, each once
}

// groupsPerThread is how many groups of images a thread must have for the parts of a step to run group by group. With fewer,
// threads would wait for the one with the last group; then each part is shared out on its own.
const groupsPerThread = 3

// byGroup says whether n images, of a batch that is cut into so many groups, are shared out group by group.
func byGroup(n, batch, groups, threads int) bool {
	return float64(n)*float64(groups) >= float64(groupsPerThread*threads)*float64(batch)
}

// run executes one step for the engine's present batch. Group by group, what one part writes is still in the
// cache when the next reads it; the result is the same either way.
func (s *step) run(e *Engine) {
	e.byGroup = len(s.parts) > 1 && byGroup(e.n, e.cfg.Batch, len(s.groups), e.cfg.Threads)
	switch {
	case s.serial != nil:
		s.serial()
	case s.job != nil:
		e.pool.run(s.fixed, s.job)
	case e.byGroup:
		e.pool.run(len(s.groups), s.whole)
	default:
		for _, p := range s.parts {
			items := e.n
			if p.grouped {
				items = len(s.groups)
			}
			e.pool.run(items*p.per, p.job)
		}
	}
}

// join makes s, which is over images, the next part of the step before it.
func (s *step) join(next step) {
	s.name += ", " + next.name
	s.parts = append(s.parts, next.parts...)
	s.bound = s.bound || next.bound
	s.reuse = max(s.reuse, next.reuse)
}

// close settles how a step of several parts is cut into groups of images. Where weights are larger than the cache and images small,
// a group takes each item of a part for all its images, so that the weights are read once for them; otherwise an image goes
// through all the parts while it is in the cache.
func (s *step) close(e *Engine) {
	if s.parts == nil {
		return
	}
	s.groups = e.groups
	if s.reuse > 1 && !s.bound {
		for n := min(s.reuse, e.cfg.Batch); n > 1; n-- {
			if g := divide(e.cfg.Batch, n); byGroup(e.cfg.Batch, e.cfg.Batch, len(g), e.cfg.Threads) {
				s.groups, s.whole = g, s.itemByItem(e, g)
				return
			}
		}
	}
	s.whole = s.imageByImage(e, e.groups)
}

func (s *step) itemByItem(e *Engine, groups []span) func(group, thread int) {
	parts := s.parts
	return func(group, thread int) {
		g := groups[group]
		images := min(g.from+g.n, e.n)
		for _, p := range parts {
			for k := range p.per {
				for image := g.from; image < images; image++ {
					p.job(image*p.per+k, thread)
				}
			}
		}
	}
}

func (s *step) imageByImage(e *Engine, groups []span) func(group, thread int) {
	parts := s.parts
	return func(group, thread int) {
		g := groups[group]
		images := min(g.from+g.n, e.n)
		for i := 0; i < len(parts); {
			if parts[i].grouped {
				for k := range parts[i].per {
					parts[i].job(group*parts[i].per+k, thread)
				}
				i++
				continue
			}
			run := i // parts up to the next one over groups go image by image
			for ; i < len(parts) && !parts[i].grouped; i++ {
			}
			for image := g.from; image < images; image++ {
				for _, p := range parts[run:i] {
					for k := range p.per {
						p.job(image*p.per+k, thread)
					}
				}
			}
		}
	}
}

// perImage makes a step over images.
func perImage(name string, items int, job func(item, thread int)) step {
	return step{name: name, parts: []part{{name: name, per: items, job: job}}}
}

// perGroup makes a step over the program's groups of images.
func perGroup(name string, items int, job func(item, thread int)) step {
	return step{name: name, parts: []part{{name: name, per: items, grouped: true, job: job}}, bound: true}
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
