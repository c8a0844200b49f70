// Package core says what a network is, and what an engine must do with one.
//
// A [Network] is data: a list of [Node]s in the order of the forward pass, with parameters that carry
// torchvision's names. Package core/resnet builds the paper's networks; an [Engine] compiles one for a batch
// size and a resolution and then trains it. Engines differ in speed and precision and in nothing else:
// core/reference is float64 and plain, core/cpu is float32 and vectorised, and one suite (core/enginetest)
// holds both to the same numbers.
//
// State has one canonical layout, which every engine reads and writes whatever it uses inside: all parameters
// in torchvision's order, each in C order of its shape, in one flat vector; momentum likewise; running means
// and running variances likewise, one entry a batch-normalised channel. Checkpoints, hashes and the ring see
// only that layout.
//
//	net, err := resnet.Build("cifar-resnet20", 10)
//	eng, err := cpu.New(net, core.CompileConfig{Batch: 32, Resolution: 32})
//	state := core.NewState[float32](net)
//	core.InitHe(net, 1, state)
//	eng.SetState(state)
//	grads := eng.NewGradients()
//	m, err := eng.Train(batch, grads, core.Hooks{Ready: func(lo, hi int) { /* params[lo:hi] have their gradient */ }})
//	err = eng.Update(grads, core.SGD{LR: 0.1, Momentum: 0.9, WeightDecay: 1e-4})
package core
