package coordinator

import "time"

// meter keeps the figures of ring[0]'s reports. Times are differences of one machine's clock.
type meter struct {
	step     uint64 // newest committed
	loss     float64
	top1     float64
	lr       float64
	end      time.Time     // of the newest step
	smooth   time.Duration // a step's time, averaged over about ten
	first    time.Duration // the first step's time, and its images: only used while it is the only one
	firstN   uint64
	training time.Duration // all later steps' time, and their images
	images   uint64
	tail     time.Duration // of the newest step that everybody has committed; the sum over all but the first; how many there were
	tails    time.Duration
	dataWait time.Duration // as tail
	waits    time.Duration // as tails
	observed uint64
}

// smoothing is the weight of the newest step. Larger and the time left jumps about; smaller and a changed pace shows too late.
const smoothing = 0.1

// add takes a report. The first step of a window counts from its own start, so that evaluations are no training time; every other
// from the end of the step before it.
func (t *meter) add(r StepReport, opensWindow bool) {
	took := r.End.Sub(r.Start)
	if !opensWindow && !t.end.IsZero() {
		took = r.End.Sub(t.end)
	}
	took = max(took, 0)
	t.step, t.loss, t.lr, t.end = r.Step, r.Loss, r.LR, r.End
	t.top1 = 0
	if r.Images > 0 {
		t.top1 = float64(r.Correct1) / float64(r.Images)
	}
	if t.firstN == 0 {
		t.first, t.firstN = took, r.Images
		t.smooth = took
		return
	}
	if t.images == 0 {
		t.smooth = took // the first step warms caches up: forget it
	}
	t.training += took
	t.images += r.Images
	t.smooth += time.Duration(float64(smoothing * float64(took-t.smooth)))
}

// observe takes a step that everybody has committed.
func (t *meter) observe(s StepDone) {
	t.tail, t.dataWait = s.Tail, s.DataWait
	if t.observed++; t.observed > 1 { // the first step warms caches and connections up
		t.tails += s.Tail
		t.waits += s.DataWait
	}
}

// averageTail is the mean over all steps but the first; of the first if there is no other.
func (t *meter) averageTail() time.Duration {
	if t.observed < 2 {
		return t.tail
	}
	return t.tails / time.Duration(t.observed-1)
}

// dataShare is the part of the training time that went into waiting for images.
func (t *meter) dataShare() float64 {
	if t.training <= 0 {
		return 0
	}
	return min(1, t.waits.Seconds()/t.training.Seconds())
}

// current is the smoothed pace in images per second, 0 before the first step.
func (t *meter) current(batch int) float64 {
	if t.smooth <= 0 {
		return 0
	}
	return float64(batch) / t.smooth.Seconds()
}

// average is the pace over all steps but the first; of the first if there is no other.
func (t *meter) average() float64 {
	took, images := t.training, t.images
	if images == 0 {
		took, images = t.first, t.firstN
	}
	if took <= 0 {
		return 0
	}
	return float64(images) / took.Seconds()
}
