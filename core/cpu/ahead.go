package cpu

import "unsafe"

// ahead spreads prefetches of the next image's tensors over the tiles of a convolution: the passes over pixels that come before it
// are bound by memory, which is idle while it multiplies. It changes no result.
type ahead struct {
	fetches   []fetch // of one size
	now, next int     // images
	item, of  int     // which part of the image's convolution, of how many
	size      int     // bytes of an image of one tensor
}

// fetch is a tensor that passes will read from memory: soon after this convolution, or before it for the next image.
type fetch struct {
	t   *tensor
	now bool
}

// set prepares for one item, of several, of a convolution over an image.
func (h *ahead) set(e *Engine, fetches []fetch, image, item, of int) {
	h.fetches = nil
	if len(fetches) == 0 || !e.byGroup {
		return
	}
	if next := e.nextImage(image); next < e.n {
		*h = ahead{fetches: fetches, now: image, next: next, item: item, of: of, size: fetches[0].t.image}
	}
}

// piece gives what call i of n of the item should fetch, and how far to go with each of its lanes; idle is an address that is in the
// cache. All calls of an image together go through its tensors once.
func (h *ahead) piece(idle unsafe.Pointer, i, n, lanes int) (from unsafe.Pointer, step int) {
	if h.fetches == nil || lanes == 0 {
		return idle, 0
	}
	length := h.size * len(h.fetches) / (h.of * n)
	at, image := (h.item*n+i)*length, h.next
	f := h.fetches[at/h.size]
	if f.now {
		image = h.now
	}
	return unsafe.Add(f.t.start(image, 0), at%h.size), (length + lanes - 1) / lanes
}

// nextImage is what this thread is likely to take after an image: groups are handed out in turn.
func (e *Engine) nextImage(image int) int {
	next := image + 1
	if next < e.n && e.slots.from[next] == next { // the next group is another thread's
		next = min(image+1+(e.cfg.Threads-1)*e.slots.group, e.n)
	}
	return next
}

// fetching appends tensors of one size to what a convolution should fetch; others are left out.
func fetching(list []fetch, now bool, tensors ...*tensor) []fetch {
	for _, t := range tensors {
		if t != nil && !t.fleeting && (len(list) == 0 || t.image == list[0].t.image) {
			list = append(list, fetch{t, now})
		}
	}
	return list
}
