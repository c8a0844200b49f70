package allreduce

// chunkAlign is what the borders of chunks, segments and pieces are multiples of,
// in values: one cache line of 32-bit integers, so that vector code meets no odd
// ends but the bucket's own.
const chunkAlign = 16

// plan cuts a bucket of n values into as many chunks as the inner level has
// workers, and each chunk into the same number of segments. It depends on shape and
// configuration alone, so all workers have the same.
type plan struct {
	n, chunks int
	segment   int // values of a full segment
	segments  int // per chunk; the last ones of a chunk may be short or empty
}

func newPlan(n, chunks, segmentBytes int, w Wire) plan {
	p := plan{n: n, chunks: chunks, segment: segmentBytes / w.Bytes()}
	longest := 0
	for i := range chunks {
		lo, hi := p.chunk(i)
		longest = max(longest, hi-lo)
	}
	p.segments = max(1, (longest+p.segment-1)/p.segment)
	return p
}

// chunk returns the borders of chunk i.
func (p *plan) chunk(i int) (lo, hi int) { return cut(0, p.n, i, p.chunks) }

// span returns the borders of a part of segment s.
func (p *plan) span(t part, s int) (lo, hi int) {
	lo, hi = p.chunk(t.chunk)
	lo, hi = min(hi, lo+s*p.segment), min(hi, lo+(s+1)*p.segment)
	return cut(lo, hi, t.sub, t.subs)
}

// cut returns the borders of the i-th of k pieces of lo..hi.
func cut(lo, hi, i, k int) (int, int) {
	units := (hi - lo + chunkAlign - 1) / chunkAlign
	border := func(i int) int { return min(hi, lo+units*i/k*chunkAlign) }
	return border(i), border(i + 1)
}
