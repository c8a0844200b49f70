package cpu

import (
	"sort"
	"unsafe"
)

// arenaAlign is the alignment of every buffer in float32s: a cache line, so that no vector load crosses one.
const arenaAlign = 16

// plan places buffers in one arena so that two that live at the same step never overlap: largest first, each at the lowest
// place that is free for its whole life. It returns the arena's length.
func plan(buffers []*buffer) int {
	order := append([]*buffer(nil), buffers...)
	sort.SliceStable(order, func(i, j int) bool { return order[i].len > order[j].len })
	var placed []*buffer // by offset
	total := 0
	for _, b := range order {
		off := 0
		for _, p := range placed {
			if p.last < b.first || b.last < p.first {
				continue
			}
			if off+b.len <= p.off {
				break
			}
			off = max(off, p.off+p.len)
		}
		b.off = off
		total = max(total, off+b.len)
		at := sort.Search(len(placed), func(i int) bool { return placed[i].off > off })
		placed = append(placed, nil)
		copy(placed[at+1:], placed[at:])
		placed[at] = b
	}
	return total
}

// aligned allocates n float32s on a cache line.
func aligned(n int) []float32 {
	s := make([]float32, n+arenaAlign)
	skip := 0
	if r := uintptr(unsafe.Pointer(unsafe.SliceData(s))) % 64; r != 0 {
		skip = int(64-r) / 4
	}
	return s[skip : skip+n : skip+n]
}

// place gives every buffer its piece of the arena.
func place(buffers []*buffer, arena []float32) {
	for _, b := range buffers {
		b.data = arena[b.off : b.off+b.len : b.off+b.len]
	}
}
