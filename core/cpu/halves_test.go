package cpu

import (
	"testing"

	"github.com/lockstep-ml/lockstep/core"
)

// bfNetworks are what families and threads are compared on.
func bfNetworks(t *testing.T) []struct {
	net               *core.Network
	batch, resolution int
} {
	return []struct {
		net               *core.Network
		batch, resolution int
	}{
		{build(t, "cifar-resnet20", 10), 3, 15}, {build(t, "cifar-resnet8-B", 3), 2, 32}, {build(t, "resnet18", 5), 1, 40},
		{build(t, "resnet50-v1.5", 5), 1, 48}, {build(t, "resnet34-A", 5), 1, 33}, {odd(t), 3, 24},
	}
}

// TestBFFamiliesAgree: all families of kernels for bf16 give the same bits.
func TestBFFamiliesAgree(t *testing.T) {
	for _, c := range bfNetworks(t) {
		t.Run(c.net.Name, func(t *testing.T) {
			cfg := core.CompileConfig{Batch: c.batch, Resolution: c.resolution, Threads: 2}
			want := trainBF(t, c.net, cfg, bfGeneric, 1)
			for _, k := range bfFamilies()[1:] {
				equal(t, k.name, trainBF(t, c.net, cfg, k, 1), want)
			}
		})
	}
}
