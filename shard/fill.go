package shard

import (
	"errors"
	"fmt"
)

// A decodeWorker is what one decoder's goroutine owns.
type decodeWorker struct {
	p   *prefetcher
	aug *Augmenter
	dec Decoder
}

// fill makes places from..to-1 of the batch.
func (w *decodeWorker) fill(b *Batch, from, to int) error {
	values := w.p.transform.Values()
	for k := from; k < to; k++ {
		dst := b.Images[k*values : (k+1)*values]
		epoch, index := w.p.locate(b.Step, b.Replicas[k/w.p.places], k%w.p.places)
		label, err := w.load(dst, index, NewDraw(w.p.seed, epoch, index))
		if err != nil {
			return err
		}
		b.Labels[k], b.Samples[k] = label, index
		if label < 0 {
			clear(dst)
		}
	}
	return nil
}

// load decodes and transforms the image and returns its label, -1 for an empty place. With SkipDamaged the next good image stands in
// for a damaged one, whoever reads it.
func (w *decodeWorker) load(dst []float32, index int, draw Draw) (int32, error) {
	if index < 0 {
		return -1, nil
	}
	ds := w.p.ds
	for k := range ds.Len() {
		j := (index + k) % ds.Len()
		err := ds.Render(&w.dec, w.aug, dst, j, draw)
		if err == nil {
			return int32(ds.Label(j)), nil
		}
		var damaged *DamagedError
		if !errors.As(err, &damaged) || !ds.skipDamaged {
			return 0, err
		}
		ds.markDamaged(j)
		if w.p.dropEmpty {
			return -1, nil
		}
	}
	return 0, fmt.Errorf("%s: %w that can be decoded: all %d are damaged", ds.path, ErrNoImages, ds.Len())
}
