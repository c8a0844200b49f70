package reference

import (
	"math"

	"github.com/lockstep-ml/lockstep/core"
)

// Batch normalisation (Ioffe and Szegedy, 2015) over the m = N*H*W values of a channel:
//
//	y = weight * (x - mean) / sqrt(variance + epsilon) + bias
//
// Training takes the batch's mean and biased variance (divided by m); the running variance collects the unbiased
// one (divided by m-1), as PyTorch does. Sums run over images, then pixels, in float64.

// channel calls f with channel c of each of n images in turn, as ranges of a node's values.
func channel(s core.Shape, n, c int, f func(lo, hi int)) {
	for img := range n {
		lo := img*s.Len() + c*s.H*s.W
		f(lo, lo+s.H*s.W)
	}
}

// batchStatistics sets e.mean and e.invStd for node i from its input, and writes the statistics to g.
func (e *Engine[F]) batchStatistics(i int, g *core.Gradients[F]) {
	in, s := e.input(i, 0)
	x, off := e.out[in], e.norms[i].Offset
	m := float64(e.cfg.Batch * s.H * s.W)
	e.parallel(s.C, func(c int) {
		sum := 0.0
		channel(s, e.cfg.Batch, c, func(lo, hi int) {
			for _, v := range x[lo:hi] {
				sum += float64(v)
			}
		})
		mean, squares := sum/m, 0.0
		channel(s, e.cfg.Batch, c, func(lo, hi int) {
			for _, v := range x[lo:hi] {
				d := float64(v) - mean
				squares += float64(d * d)
			}
		})
		e.mean[off+c], e.invStd[off+c] = mean, 1/math.Sqrt(squares/m+core.BNEpsilon)
		g.Mean[off+c], g.Var[off+c] = F(mean), F(squares/(m-1))
	})
}

// runningStatistics sets e.mean and e.invStd for node i from the state.
func (e *Engine[F]) runningStatistics(i int) {
	off := e.norms[i].Offset
	for c := off; c < off+e.norms[i].Channels; c++ {
		e.mean[c], e.invStd[c] = float64(e.state.Mean[c]), 1/math.Sqrt(float64(e.state.Var[c])+core.BNEpsilon)
	}
}

func (e *Engine[F]) normalise(i, n int) {
	in, s := e.input(i, 0)
	x, y, off := e.out[in], e.out[i], e.norms[i].Offset
	weight, bias := e.weights(e.state.Params, i, 0), e.weights(e.state.Params, i, 1)
	e.parallel(s.C, func(c int) {
		mean, invStd := F(e.mean[off+c]), F(e.invStd[off+c])
		channel(s, n, c, func(lo, hi int) {
			for p, v := range x[lo:hi] {
				y[lo+p] = F(weight[c]*((v-mean)*invStd)) + bias[c]
			}
		})
	})
}

// normaliseBackward: with h = (x - mean)*invStd and sums over the channel,
//
//	dbias = sum dy,  dweight = sum dy*h,  dx = weight*invStd * (dy - dbias/m - h*dweight/m)
//
// where the last two terms are the way through mean and variance, which depend on every x.
func (e *Engine[F]) normaliseBackward(i int, g *core.Gradients[F]) {
	in, s := e.input(i, 0)
	x, dy, dx, off := e.out[in], e.grads[i], e.gradient(in), e.norms[i].Offset
	weight := e.weights(e.state.Params, i, 0)
	dweight, dbias := e.weights(g.Values, i, 0), e.weights(g.Values, i, 1)
	m := float64(e.cfg.Batch * s.H * s.W)
	e.parallel(s.C, func(c int) {
		mean, invStd := F(e.mean[off+c]), F(e.invStd[off+c])
		sum, sumH := 0.0, 0.0
		channel(s, e.cfg.Batch, c, func(lo, hi int) {
			for p, v := range x[lo:hi] {
				sum += float64(dy[lo+p])
				sumH += float64(float64(dy[lo+p]) * float64((v-mean)*invStd))
			}
		})
		dbias[c], dweight[c] = F(sum), F(sumH)
		if dx == nil {
			return
		}
		scale, meanDy, meanH := weight[c]*invStd, F(sum/m), F(sumH/m)
		channel(s, e.cfg.Batch, c, func(lo, hi int) {
			for p, v := range x[lo:hi] {
				h := (v - mean) * invStd
				dx[lo+p] += F(scale * (dy[lo+p] - meanDy - F(h*meanH)))
			}
		})
	})
}
