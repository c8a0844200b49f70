package shard

import (
	"context"
	"errors"
	"fmt"
)

// A decodeWorker is what one decoder's goroutine owns.
type decodeWorker struct {
	p   *prefetcher
	ctx context.Context // of the prefetcher's run
	aug *Augmenter
	dec Decoder
}

// fill makes these places of a batch.
func (w *decodeWorker) fill(q *pending, places []int) error {
	values, b := w.p.transform.Values(), q.batch
	for _, k := range places {
		dst := b.Images[k*values : (k+1)*values]
		index, used, err := q.index[k], -1, error(nil)
		switch {
		case index >= 0 && w.p.pool != nil:
			b.Labels[k], b.Samples[k] = int32(w.p.ds.Label(index)), index
			if err := w.p.pool.fill(dst, &w.p.ds.samples[index]); err != nil {
				return err
			}
			continue
		case index >= 0:
			used, err = w.load(dst, q.raw[k], index, NewDraw(w.p.seed, q.epoch[k], index))
		}
		if err != nil {
			return err
		}
		b.Labels[k], b.Samples[k] = -1, used
		if used < 0 {
			clear(dst)
			continue
		}
		b.Labels[k] = int32(w.p.ds.Label(used))
	}
	return nil
}

// load decodes and transforms the image and returns which one it is, -1 to leave the place empty. With SkipDamaged the next good image stands
// in for a damaged one, whoever reads it.
func (w *decodeWorker) load(dst []float32, r raw, index int, draw Draw) (used int, err error) {
	ds := w.p.ds
	for k := range ds.Len() {
		j := (index + k) % ds.Len()
		err := w.render(dst, r, j, draw)
		if err == nil {
			return j, nil
		}
		var damaged *DamagedError
		if !errors.As(err, &damaged) || !ds.skipDamaged {
			return -1, err
		}
		ds.markDamaged(j)
		if w.p.dropEmpty {
			return -1, nil
		}
		r = raw{} // what stands in was not fetched
	}
	return -1, fmt.Errorf("%s: %w that can be decoded: all %d are damaged", ds.path, ErrNoImages, ds.Len())
}

// render decodes and transforms what was fetched, or fetches it.
func (w *decodeWorker) render(dst []float32, r raw, index int, draw Draw) error {
	if r.err != nil {
		return r.err
	}
	if r.b == nil {
		return w.p.ds.Render(w.ctx, &w.dec, w.aug, dst, index, draw)
	}
	return w.p.ds.render(&w.dec, w.aug, dst, r.b, index, draw)
}
