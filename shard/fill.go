package shard

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A decodeWorker is what one decoder's goroutine owns.
type decodeWorker struct {
	p   *prefetcher
	ctx context.Context // of the prefetcher's run
	aug *Augmenter
	dec Decoder
	img raster.Image
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
			used, err = w.load(q.raw[k], index)
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
		w.aug.Apply(dst, &w.img, NewDraw(w.p.seed, q.epoch[k], index))
	}
	return nil
}

// load decodes the image into w.img and returns which one it is, -1 to leave the place empty. With SkipDamaged the next good image stands
// in for a damaged one, whoever reads it.
func (w *decodeWorker) load(r raw, index int) (used int, err error) {
	ds := w.p.ds
	for k := range ds.Len() {
		j := (index + k) % ds.Len()
		err := w.decode(r, j)
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

// decode decodes what was fetched, or fetches it.
func (w *decodeWorker) decode(r raw, index int) error {
	if r.err != nil {
		return r.err
	}
	if r.b == nil {
		return w.p.ds.Load(w.ctx, &w.dec, &w.img, index)
	}
	return w.p.ds.decode(&w.dec, &w.img, r.b, index)
}
