package cpu

import (
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/enginetest"
)

// TestConformance runs the suite that every engine faces. The generic kernels give the bits of the others (TestFamiliesAgree) a hundred
// times more slowly, so where they are used they face one golden case, and none in a short run.
func TestConformance(t *testing.T) {
	k, err := choose()
	if err != nil {
		t.Fatal(err)
	}
	slow := k == genericKernels
	enginetest.Run(t, enginetest.Suite[float32]{
		New:       func(net *core.Network, cfg core.CompileConfig) (core.Engine[float32], error) { return New(net, cfg) },
		Tolerance: enginetest.Float32,
		Slow:      slow,
		Golden: func(name string) bool {
			if slow {
				return !testing.Short() && name == "cifar-resnet20"
			}
			return !testing.Short() || !strings.HasPrefix(name, "resnet50")
		},
	})
}
