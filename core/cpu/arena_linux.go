package cpu

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of the pages asked for: walks over activations then miss the address cache 512 times less often.
const hugePage = 2 << 20

// allocate maps n float32s outside the Go heap, on whole huge pages where the system grants them. free gives them back.
func allocate(n int) (mem []float32, free func() error, err error) {
	size := (4*n + hugePage - 1) / hugePage * hugePage
	if size == 0 {
		return nil, func() error { return nil }, nil
	}
	raw, err := unix.Mmap(-1, 0, size+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, fmt.Errorf("cpu: no memory for an arena of %d bytes; take a smaller batch: %w", 4*n, err)
	}
	skip := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % hugePage); r != 0 {
		skip = hugePage - r
	}
	_ = unix.Madvise(raw[skip:skip+size], unix.MADV_HUGEPAGE) // advice: a system without huge pages is slower, not wrong
	mem = unsafe.Slice((*float32)(unsafe.Pointer(&raw[skip])), n)
	return mem, func() error { return unix.Munmap(raw) }, nil
}
