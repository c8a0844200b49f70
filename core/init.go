package core

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// InitHe draws the initialisation of He et al., "Delving Deep into Rectifiers" (2015), which the paper uses:
// weights of convolutions and of the fully connected layer from a normal distribution of standard deviation
// sqrt(2 / fan_in), batch normalisation's weight 1 and bias 0, the fully connected bias 0; momentum 0, running
// means 0, running variances 1. Every tensor has a generator of its own, seeded by (seed, name), so a tensor's
// values do not depend on what else the network holds.
func InitHe[F Float](n *Network, seed uint64, s *State[F]) {
	for _, p := range n.Params() {
		w := s.Params[p.Offset : p.Offset+p.Len]
		switch p.Kind {
		case ConvWeight, LinearWeight:
			h := fnv.New64a()
			h.Write([]byte(p.Name)) // a hash never fails to write
			rng := rand.New(rand.NewPCG(seed, h.Sum64()))
			std := math.Sqrt(2 / float64(p.FanIn()))
			for i := range w {
				w[i] = F(rng.NormFloat64() * std)
			}
		case BNWeight:
			for i := range w {
				w[i] = 1
			}
		default:
			clear(w)
		}
	}
	clear(s.Momentum)
	clear(s.Mean)
	for i := range s.Var {
		s.Var[i] = 1
	}
}
