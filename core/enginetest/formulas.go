package enginetest

import (
	"hash/fnv"
	"math"

	"github.com/lockstep-ml/lockstep/core"
)

// lcg calls f with the first n draws of the generator seeded by name: see the package comment.
func lcg(name string, n int, f func(i int, u float64)) {
	h := fnv.New32a()
	h.Write([]byte(name)) // a hash never fails to write
	s := h.Sum32()
	for i := range n {
		s = 1664525*s + 1013904223
		f(i, float64(s>>8)/(1<<24))
	}
}

// formulaState fills a state by the formulas of the package comment.
func formulaState[F core.Float](net *core.Network) *core.State[F] {
	s := core.NewState[F](net)
	for _, p := range net.Params() {
		base, scale := 0.0, 0.1
		switch p.Kind {
		case core.ConvWeight, core.LinearWeight:
			scale = math.Sqrt(6 / float64(p.FanIn()))
		case core.BNWeight:
			base = 1
		}
		w := s.Params[p.Offset : p.Offset+p.Len]
		lcg(p.Name, p.Len, func(i int, u float64) { w[i] = F(base + float64(scale*(2*u-1))) })
	}
	return s
}

// formulaBatch fills a batch by the formulas of the package comment. The images are exact in float32.
func formulaBatch(net *core.Network, batch, resolution int) core.Batch {
	b := core.Batch{
		Images: make([]float32, batch*net.Nodes[0].Channels*resolution*resolution),
		Labels: make([]int32, batch),
	}
	lcg("input", len(b.Images), func(i int, u float64) { b.Images[i] = float32(2*u - 1) })
	for i := range b.Labels {
		b.Labels[i] = int32((7*i + 3) % net.Classes)
	}
	return b
}
