package shard

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A PixelMean is the mean of a data set's images at every place: three planes of Resolution x Resolution values in 0..1. The paper
// subtracts it from CIFAR-10's images (section 4.2), before padding.
type PixelMean struct {
	Resolution int
	Values     []float32
}

// MeanOf is the mean of all images of ds at a resolution, to which those of another size are resized. The sums are whole numbers: the result
// is the same on every machine. A damaged image is an error, unless ds skips those.
func MeanOf(ctx context.Context, ds *Dataset, resolution int) (*PixelMean, error) {
	if resolution < 1 || resolution > maxResolution {
		return nil, fmt.Errorf("mean of images: resolution %d, want 1..%d", resolution, maxResolution)
	}
	plane := resolution * resolution
	sums, count := make([]uint64, 3*plane), uint64(0)
	var dec Decoder
	var img, small raster.Image
	var resize raster.Resampler
	for i := range ds.Len() {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("mean of %d images, at image %d: %w", ds.Len(), i, context.Cause(ctx))
		}
		if err := ds.Load(ctx, &dec, &img, i); err != nil {
			var damaged *DamagedError
			if !errors.As(err, &damaged) || !ds.skipDamaged {
				return nil, err
			}
			ds.markDamaged(i)
			continue
		}
		from := &img
		if img.W != resolution || img.H != resolution {
			z := raster.Resizing{Box: raster.Box(0, 0, img.W, img.H), W: resolution, H: resolution, Window: raster.Box(0, 0, resolution, resolution)}
			resize.Resample(&small, &img, z, 0, 0)
			from = &small
		}
		for k := range plane {
			for c := range 3 {
				sums[c*plane+k] += uint64(from.Pix[3*k+c])
			}
		}
		count++
	}
	if count == 0 {
		return nil, fmt.Errorf("%s: mean: %w that can be decoded", ds.path, ErrNoImages)
	}
	m := &PixelMean{Resolution: resolution, Values: make([]float32, len(sums))}
	for i, s := range sums {
		m.Values[i] = float32(float64(s) / float64(255*count))
	}
	return m, nil
}

// row normalises pixels from (x, y) of the image on: (v/255 - mean) / std.
func (m *PixelMean) row(red, green, blue []float32, src []byte, x, y int, crop Crop, std [3]float32) {
	n := m.Resolution
	for c, out := range [3][]float32{red, green, blue} {
		mean := m.Values[c*n*n+y*n+x:]
		for i := range out {
			at := i
			if crop.Flip {
				at = len(out) - 1 - i
			}
			v := float32(src[3*i+c])/255 + crop.Shift[c]
			out[at] = float32(v-mean[i]) / std[c]
		}
	}
}
