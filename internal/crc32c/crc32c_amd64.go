package crc32c

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// folds says whether this machine has the instructions, and nobody has forbidden them. It asks once, at first use: what reads the
// environment earlier escapes the go command's cache of tests.
var folds = sync.OnceValue(func() bool {
	family, err := simd.Choose()
	return err == nil && family >= simd.AVX512 && cpu.X86.HasAVX512VPCLMULQDQ
})

// perCall bounds the bytes of a call into assembly, during which the scheduler cannot have the core: some 10 microseconds.
const perCall = 256 << 10

// fold folds sums over whole blocks.
func fold(sums *[block]byte, p []byte) {
	for len(p) > 0 {
		n := min(len(p), perCall)
		foldBlocks(sums, unsafe.SliceData(p), n/block, &constants)
		p = p[n:]
	}
}

// foldBlocks folds sums over n blocks of 256 bytes, one or more, of any alignment.
//
//go:noescape
func foldBlocks(sums *[block]byte, p *byte, n int, k *[2]uint64)
