package worker

import "github.com/lockstep-ml/lockstep/core"

// grain is what bucket boundaries are multiples of: one block of the exact ring. So the blocks, and with them the bits,
// are those of the flat vector, wherever it is cut into buckets.
const grain = 1024

// Bounds of a bucket's size in values. Below 64 Ki values (256 KiB) a hop's fixed cost, some 50 us on loopback,
// is no longer small beside its transfer; above 1 Mi values the last bucket, which nothing hides, grows for no gain.
const (
	minBucket = 64 << 10
	maxBucket = 1 << 20
)

// Span is a run [Lo, Hi) of the flat parameter vector.
type Span struct{ Lo, Hi int }

// BucketSpans cuts n parameters into buckets in the order in which the backward pass finishes them: from the end
// of the vector to its start. It depends on n alone, and aims at 16 buckets, so that the last is a small part of the whole.
func BucketSpans(n int) []Span {
	return CutSpans(n, min(max(n/16, minBucket), maxBucket)/grain*grain)
}

// CutSpans cuts n parameters in that order into buckets of a size of the caller's choice, rounded up to whole blocks. The last may be smaller.
func CutSpans(n, size int) []Span {
	size = max(1, (size+grain-1)/grain) * grain
	var out []Span
	for hi := n; hi > 0; {
		lo := max(0, (hi-1)/grain*grain-size+grain)
		out = append(out, Span{lo, hi})
		hi = lo
	}
	return out
}

// StatisticsLen is how many values the bucket of statistics has that follows a step's gradients, for a network with so many
// normalised channels (core.Network.NormLen).
func StatisticsLen(norms int) int { return newStatistics(norms).size }

// readiness counts down what is missing of each bucket while a backward pass announces final runs.
type readiness struct {
	spans   []Span
	missing []int
}

func newReadiness(spans []Span) *readiness {
	r := &readiness{spans: spans, missing: make([]int, len(spans))}
	r.reset()
	return r
}

func (r *readiness) reset() {
	for i, s := range r.spans {
		r.missing[i] = s.Hi - s.Lo
	}
}

// done marks [lo, hi) final and calls complete for each bucket that has everything now, in bucket order.
func (r *readiness) done(lo, hi int, complete func(bucket int)) {
	for i, s := range r.spans {
		overlap := min(hi, s.Hi) - max(lo, s.Lo)
		if overlap <= 0 {
			continue
		}
		if r.missing[i] -= overlap; r.missing[i] == 0 {
			complete(i)
		}
	}
}

// whole reports whether every bucket was announced.
func (r *readiness) whole() bool {
	for _, m := range r.missing {
		if m != 0 {
			return false
		}
	}
	return true
}

// statistics lays batch-normalisation statistics, metrics and notes out as one more bucket: means, variances, metrics and notes
// each begin on a block of their own, since a block's values share one exponent.
type statistics struct {
	norms                     int
	varAt, metricsAt, notesAt int
	size                      int
}

const (
	metricValues = 4 // loss sum, correct1, correct5, images
	sampleSums   = 4 // of hashes of the samples' indices
	noteValues   = 1 + sampleSums
)

// notes ride along with the statistics; they are whole numbers and change no trained bit.
type notes struct {
	yield   bool // somebody has heard that the window ends here
	samples [sampleSums]uint32
}

func newStatistics(norms int) statistics {
	up := func(n int) int { return (n + grain - 1) / grain * grain }
	s := statistics{norms: norms, varAt: up(norms)}
	s.metricsAt = s.varAt + up(norms)
	s.notesAt = s.metricsAt + up(metricValues)
	s.size = s.notesAt + noteValues
	return s
}

func (s statistics) pack(dst []float32, g *core.Gradients[float32], m core.Metrics, n notes) {
	copy(dst, g.Mean)
	copy(dst[s.varAt:], g.Var)
	copy(dst[s.metricsAt:], []float32{float32(m.LossSum), float32(m.Correct1), float32(m.Correct5), float32(m.Images)})
	dst[s.notesAt] = 0
	if n.yield {
		dst[s.notesAt] = 1
	}
	for i, v := range n.samples {
		dst[s.notesAt+1+i] = float32(v)
	}
}

// unpack takes the mean over replicas apart; metrics and notes come back as sums over the global batch.
func (s statistics) unpack(src []float32, g *core.Gradients[float32], replicas int) (core.Metrics, notes) {
	copy(g.Mean, src[:s.norms])
	copy(g.Var, src[s.varAt:s.varAt+s.norms])
	total := func(i int) float64 { return float64(src[i]) * float64(replicas) }
	whole := func(i int) int { return int(total(i) + 0.5) }
	at := s.metricsAt
	m := core.Metrics{LossSum: total(at), Correct1: whole(at + 1), Correct5: whole(at + 2), Images: whole(at + 3)}
	n := notes{yield: whole(s.notesAt) > 0}
	for i := range n.samples {
		n.samples[i] = uint32(whole(s.notesAt + 1 + i))
	}
	return m, n
}
