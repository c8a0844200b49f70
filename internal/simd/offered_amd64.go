package simd

import "golang.org/x/sys/cpu"

// Offered lists what this machine can run, the best last.
func Offered() []Family {
	out := []Family{Generic}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		out = append(out, AVX2)
		if cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL {
			out = append(out, AVX512)
		}
	}
	return out
}
