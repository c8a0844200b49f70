package cpu

import (
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/enginetest"
)

// TestConformance runs the suite that every engine faces.
func TestConformance(t *testing.T) {
	enginetest.Run(t, enginetest.Suite[float32]{
		New:       func(net *core.Network, cfg core.CompileConfig) (core.Engine[float32], error) { return New(net, cfg) },
		Tolerance: enginetest.Float32,
		Golden:    func(name string) bool { return !testing.Short() || !strings.HasPrefix(name, "resnet50") },
	})
}
