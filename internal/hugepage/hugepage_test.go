package hugepage

import (
	"testing"
	"unsafe"
)

func TestMemoryIsAlignedAndZero(t *testing.T) {
	for _, n := range []int{0, 1, 5000, Size, 3*Size + 17} {
		b := Make(n)
		if len(b) != n || cap(b) != n {
			t.Errorf("asked for %d bytes, got %d of %d", n, len(b), cap(b))
		}
		if n > 0 && uintptr(unsafe.Pointer(&b[0]))%Size != 0 {
			t.Errorf("%d bytes begin at %p", n, &b[0])
		}
		for i := range b {
			if b[i] != 0 {
				t.Fatalf("byte %d of %d is %d", i, n, b[i])
			}
			b[i] = 1
		}
	}
}
