// Package cpu is the engine for CPUs, in float32 or bf16: convolutions blocked by 16 channels, vector kernels chosen at run
// time, every buffer planned when the network is compiled.
//
// Compile a network with [New], give it a state with SetState, and call Train, Update and Eval from one goroutine;
// Close ends the engine's threads. Nothing is allocated in a steady step.
//
//	eng, err := cpu.New(net, core.CompileConfig{Batch: 32, Resolution: 32, Threads: 2})
//	if err != nil { ... }
//	defer eng.Close()
//
// # Bits
//
// Results are a function of the compiled shapes and the data alone. Work is divided by shape, each output element
// is accumulated in one fixed order with fused multiply-adds, and reductions run lane by lane in memory order. So
// the number of threads changes nothing, and the AVX-512, the AVX2 and the generic kernels give the same bits: the
// generic ones emulate the fused multiply-add of float32 exactly.
//
// # bf16
//
// With core.BF16 activations, their gradients and the weights that convolutions multiply by take 16 bits; sums, statistics and updates
// stay float32. It has a set of bits of its own, again the same for every family of kernels. New refuses it with [ErrNoBF16] where the
// processor has no AVX512_BF16.
//
// # Kernels
//
// LOCKSTEP_SIMD=generic|avx2|avx512 forces a family; New fails when the machine lacks it. The assembly is written
// by the generator in _gen:
package cpu

//go:generate go run -C _gen . ..
