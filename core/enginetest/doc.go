// Package enginetest is the one conformance suite that every engine faces. An engine's own test calls it:
//
//	func TestEngine(t *testing.T) {
//		enginetest.Run(t, enginetest.Suite[float32]{New: newEngine, Tolerance: enginetest.Float32})
//	}
//
// It has three parts. Golden trains the networks of a folder of JSON files and compares with what PyTorch's
// float64 run wrote down in them; Reference compares every gradient element with core/reference on small networks of
// awkward shapes; Contract holds the engine to what core.Engine promises.
//
// # Golden files
//
// The folder is the one that the environment variable LOCKSTEP_GOLDEN names, else core/testdata/golden. A relative
// name counts from the module's root, or else from a folder between there and the package under test. Every *.json in it
// is one case: a network's name, batch, resolution, learning rate, number of steps, and the figures. Nothing else is stored, for
// everything follows from formulas:
//
//	LCG(name): s = 32-bit FNV-1a of name; a draw does s = 1664525*s + 1013904223 mod 2^32
//	           and yields u = (s >> 8) / 2^24, in [0, 1); one draw an element, in C order
//	conv and fc weight:   (2u-1) * sqrt(6 / fan_in)
//	BN weight:            1 + 0.1*(2u-1)
//	BN bias, fc bias:     0.1*(2u-1)
//	running mean, var:    0, 1
//	images ("input"):     2u-1
//	label of image i:     (7*i + 3) mod classes
//
// Each case trains its steps on that one batch, with momentum 0.9 and weight decay 1e-4, and then evaluates it with
// running statistics. The go command remembers a passing test; it notices another LOCKSTEP_GOLDEN, but not a file
// that changed outside the module, so run with -count=1 after changing one there.
package enginetest
