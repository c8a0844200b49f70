package reference

// relu lets a NaN through, as PyTorch does: a comparison that keeps only what is above zero would hide it.
func (e *Engine[F]) relu(i, n int) {
	in, s := e.input(i, 0)
	x, y := e.out[in], e.out[i]
	e.parallel(n, func(img int) {
		for p := img * s.Len(); p < (img+1)*s.Len(); p++ {
			y[p] = x[p]
			if x[p] < 0 {
				y[p] = 0
			}
		}
	})
}

// reluBackward passes the gradient where the output is above zero; at zero itself the derivative is taken as zero.
func (e *Engine[F]) reluBackward(i int) {
	in, s := e.input(i, 0)
	y, dy, dx := e.out[i], e.grads[i], e.gradient(in)
	if dx == nil {
		return
	}
	e.parallel(e.cfg.Batch, func(img int) {
		for p := img * s.Len(); p < (img+1)*s.Len(); p++ {
			if !(y[p] <= 0) { // a NaN passes
				dx[p] += dy[p]
			}
		}
	})
}

func (e *Engine[F]) add(i, n int) {
	a, s := e.input(i, 0)
	b, _ := e.input(i, 1)
	x0, x1, y := e.out[a], e.out[b], e.out[i]
	e.parallel(n, func(img int) {
		for p := img * s.Len(); p < (img+1)*s.Len(); p++ {
			y[p] = x0[p] + x1[p]
		}
	})
}

func (e *Engine[F]) addBackward(i int) {
	dy := e.grads[i]
	for k := range 2 {
		in, s := e.input(i, k)
		dx := e.gradient(in)
		if dx == nil {
			continue
		}
		e.parallel(e.cfg.Batch, func(img int) {
			for p := img * s.Len(); p < (img+1)*s.Len(); p++ {
				dx[p] += dy[p]
			}
		})
	}
}

// padShortcut is option A of section 3.3: every stride-th pixel, and zero channels half before and half after.
func (e *Engine[F]) padShortcut(i, n int) {
	in, _ := e.input(i, 0)
	x, y, outLen := e.out[in], e.out[i], e.shapes[i].Len()
	clear(y[:n*outLen])
	e.eachKept(i, n, func(from, to int) { y[to] = x[from] })
}

func (e *Engine[F]) padShortcutBackward(i int) {
	in, _ := e.input(i, 0)
	dy, dx := e.grads[i], e.gradient(in)
	if dx == nil {
		return
	}
	e.eachKept(i, e.cfg.Batch, func(from, to int) { dx[from] += dy[to] })
}

// eachKept calls f with every input place that a pad-shortcut keeps and its place in the output.
func (e *Engine[F]) eachKept(i, n int, f func(from, to int)) {
	_, in := e.input(i, 0)
	out, stride := e.shapes[i], e.net.Nodes[i].Stride
	before := (out.C - in.C) / 2
	e.parallel(n, func(img int) {
		for c := range in.C {
			for y := range out.H {
				for x := range out.W {
					from := img*in.Len() + (c*in.H+y*stride)*in.W + x*stride
					to := img*out.Len() + ((before+c)*out.H+y)*out.W + x
					f(from, to)
				}
			}
		}
	})
}
