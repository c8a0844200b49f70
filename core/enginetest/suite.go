package enginetest

import (
	"testing"

	"github.com/lockstep-ml/lockstep/core"
)

// Suite says which engine to test and how close it must come.
type Suite[F core.Float] struct {
	// New compiles an engine; the suite closes it.
	New func(*core.Network, core.CompileConfig) (core.Engine[F], error)
	// Tolerance is how far a figure may be off: Float64 or Float32, unless the engine has a reason of its own.
	Tolerance Tolerance
	// Golden says which golden cases to run, by network name; nil runs all. An engine too slow for the large
	// ones leaves them out under -short; they are skipped visibly.
	Golden func(name string) bool
	// Slow leaves out the largest network of the thread test, which takes plain Go most of a minute.
	Slow bool
	// BlockedChannels leaves out networks whose channels are not multiples of 16.
	BlockedChannels bool
	// PaperOnly leaves out networks that are put together otherwise than those of core/resnet: a convolution
	// without batch normalisation behind it, a node with three readers.
	PaperOnly bool
}

// Tolerance bounds relative deviations.
type Tolerance struct {
	// Floor is what every golden figure is allowed.
	Floor float64
	// Deviations is the multiple of a golden file's own float32_deviation that is allowed beyond Floor: how far
	// PyTorch's float32 run was from its float64 run tells how well conditioned a figure is.
	Deviations float64
	// Gradient bounds norm(g - reference) / norm(reference) of every tensor in the comparison with core/reference.
	Gradient float64
	// Coarse leaves the norms of single gradients, and logits, out of the golden cases.
	Coarse bool
}

// The tolerances of the precisions. Gradient is some fifteen times what plain float32 loops reach.
//
// With bf16 one value in some hundred comes out on the other side of a ReLU in every layer: a gradient that passes a few of them is off by
// 10 to 30 % of its norm, and in the suite's smallest network, whose statistics are over 25 pixels, by 68 %. Rounding nothing but the weights
// to bf16, in float32, does most of that, to which an engine's own tests can compare. Losses after a few steps were off by 12 % at most.
var (
	Float64 = Tolerance{Floor: 1e-9, Gradient: 1e-10}
	Float32 = Tolerance{Floor: 1e-5, Deviations: 8, Gradient: 2e-5}
	BF16    = Tolerance{Floor: 0.15, Gradient: 0.75, Coarse: true}
)

// Run runs the whole suite as subtests.
func Run[F core.Float](t *testing.T, s Suite[F]) {
	t.Run("Reference", s.reference)
	t.Run("Contract", s.contract)
	t.Run("Golden", s.golden)
}

// compile makes an engine that is closed when the test ends.
func (s Suite[F]) compile(t *testing.T, net *core.Network, cfg core.CompileConfig) core.Engine[F] {
	t.Helper()
	eng, err := s.New(net, cfg)
	if err != nil {
		t.Fatalf("compiling %s for %+v: %v", net.Name, cfg, err)
	}
	t.Cleanup(func() {
		if err := eng.Close(); err != nil {
			t.Errorf("closing %s: %v", eng.Info().Name, err)
		}
	})
	return eng
}
