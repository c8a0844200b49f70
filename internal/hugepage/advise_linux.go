package hugepage

import "golang.org/x/sys/unix"

// advise asks for huge pages. It is advice: a system that does not follow it is
// slower, not wrong.
func advise(b []byte) {
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(b, unix.MADV_COLLAPSE) // also where the heap had used the memory before
}
