package worker

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// digestOf is the hex SHA-256 of the bits that a replica's pass came to: gradient, batch means, batch variances.
func digestOf(g *core.Gradients[float32]) string {
	h := sha256.New()
	for _, v := range [][]float32{g.Values, g.Mean, g.Var} {
		h.Write(snapshot.LittleEndian(v))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Faults spoils what a worker computes, as bad hardware would, so that tests can see it found out. A nil one spoils nothing.
type Faults struct {
	// Gradient may change a part of the gradient of a replica that this worker computes, which begins at parameter number offset.
	Gradient func(step uint64, replica int, values []float32, offset int)
	// State may change the parameters that this worker holds after so many committed steps; it says whether it did.
	State func(step uint64, params []float32) bool
}

func (f *Faults) gradient(step uint64, replica int, values []float32, offset int) {
	if f != nil && f.Gradient != nil {
		f.Gradient(step, replica, values, offset)
	}
}

// state spoils the engine's weights.
func (f *Faults) state(step uint64, e core.Engine[float32], n *core.Network) error {
	if f == nil || f.State == nil {
		return nil
	}
	s := core.NewState[float32](n)
	if err := e.GetState(s); err != nil {
		return err
	}
	if !f.State(step, s.Params) {
		return nil
	}
	return e.SetState(s)
}
