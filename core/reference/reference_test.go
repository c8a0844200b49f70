package reference_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/enginetest"
	"github.com/lockstep-ml/lockstep/core/reference"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

func newEngine[F core.Float](net *core.Network, cfg core.CompileConfig) (core.Engine[F], error) {
	return reference.New[F](net, cfg)
}

// TestFloat64 holds the reference to PyTorch's float64 figures.
func TestFloat64(t *testing.T) {
	enginetest.Run(t, enginetest.Suite[float64]{
		New: newEngine[float64], Tolerance: enginetest.Float64, Slow: true,
		Golden: func(name string) bool {
			return !testing.Short() || strings.HasPrefix(name, "cifar-") || name == "plain18"
		},
	})
}

// TestFloat32 holds the same operations in single precision to the contract and to the float64 ones. It leaves the golden files
// out: within a few steps some activation lies closer to a ReLU's kink than float32 resolves, which engines of equal
// merit then take on different sides, and core/cpu is the float32 engine that is held to them.
func TestFloat32(t *testing.T) {
	enginetest.Run(t, enginetest.Suite[float32]{
		New: newEngine[float32], Tolerance: enginetest.Float32, Slow: true,
		Golden: func(string) bool { return false },
	})
}

// TestRefusesBF16: what others are compared with does not round to 8 bits.
func TestRefusesBF16(t *testing.T) {
	net, err := resnet.Build("cifar-resnet8", 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reference.New[float64](net, core.CompileConfig{Batch: 2, Resolution: 8, Precision: core.BF16}); !errors.Is(err, reference.ErrNoBF16) {
		t.Errorf("got %v", err)
	}
}
