// Package hugepage gives memory that lies on huge pages where the system grants
// them. Walks over large buffers then miss the address cache 512 times less often,
// which in a virtual machine is half of what a miss costs.
//
//	slab := hugepage.Make(4 << 20)
package hugepage

import "unsafe"

// Size is what a huge page holds on the systems where Make asks for them.
const Size = 2 << 20

// Make returns n zero bytes of the Go heap, the garbage collector's to take back,
// that begin at a multiple of Size. It takes up to Size bytes more than that, so
// ask for several pages at once.
func Make(n int) []byte {
	raw := make([]byte, n+Size)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % Size); r != 0 {
		skip = Size - r
	}
	b := raw[skip : skip+n : skip+n]
	if whole := n / Size * Size; whole > 0 {
		advise(b[:whole])
	}
	return b
}
