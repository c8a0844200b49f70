// Package reference is the engine to compare others with: plain Go, float64, one short function for each
// operation's forward and backward pass, in the layout the formulas are written in (images, channels, rows,
// columns). It is tested against PyTorch's float64 figures, against numerical derivatives and against loops
// simpler still; faster engines are tested against it.
//
//	net, err := resnet.Build("cifar-resnet20", 0)
//	eng, err := reference.New[float64](net, core.CompileConfig{Batch: 32, Resolution: 32})
//	defer eng.Close()
//
// reference.New[float32] gives the same operations in single precision, with the sums of batch normalisation
// still in float64. It is for comparing, not for training: its sums are as plain as they look.
//
// Every sum runs in one order, written down where it is made, and work is shared out so that no sum is split:
// the number of threads changes no bit. Products are rounded before they are added (the explicit conversions
// around them), so neither does the processor.
package reference
