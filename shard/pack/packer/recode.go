package packer

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"slices"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/pack"
	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A recoder turns a sample's bytes into what goes into the set. It keeps scratch memory: one for each goroutine.
type recoder struct {
	side, quality int // as in Config
	always        bool

	dec          shard.Decoder
	img, resized raster.Image
	resize       raster.Resampler
	rgba         image.RGBA
	out          bytes.Buffer
}

func (c *Config) newRecoder() *recoder {
	return &recoder{side: c.ShorterSide, quality: c.quality(), always: c.ShorterSide == 0 && c.Quality > 0}
}

// recode decodes b whole, so that what is damaged is found now and not while training, and gives the bytes to store: b itself, or
// memory of the recoder that holds until the next call. Of the entry it sets W, H and Kind. An error is one of the image.
func (r *recoder) recode(e *pack.Entry, b []byte, enc shard.Encoding) ([]byte, error) {
	if err := r.dec.Decode(&r.img, b, enc); err != nil {
		return nil, err
	}
	img := &r.img
	if short := min(img.W, img.H); r.side > 0 && short > r.side {
		w, h := img.W*r.side/short, img.H*r.side/short // as torchvision's Resize: the longer side is cut to whole pixels
		r.resize.Resample(&r.resized, img, raster.Resizing{Box: raster.Box(0, 0, img.W, img.H), W: w, H: h, Window: raster.Box(0, 0, w, h)}, 0, 0)
		img = &r.resized
	}
	e.W, e.H, e.Kind = img.W, img.H, pack.JPEG
	switch {
	case img == &r.resized || r.always:
		return r.encode(img, func(m image.Image) error { return jpeg.Encode(&r.out, m, &jpeg.Options{Quality: r.quality}) })
	case enc == shard.RawPlanar32:
		e.Kind = pack.PNG // keeps every pixel, and any reader knows it
		return r.encode(img, func(m image.Image) error { return png.Encode(&r.out, m) })
	case !bytes.HasPrefix(b, []byte{0xff, 0xd8}):
		e.Kind = pack.PNG
	}
	return b, nil
}

// encode hands the image to one of the standard library's encoders, whose quick paths want RGBA.
func (r *recoder) encode(img *raster.Image, with func(image.Image) error) ([]byte, error) {
	n := img.W * img.H
	r.rgba = image.RGBA{Pix: slices.Grow(r.rgba.Pix[:0], 4*n)[:4*n], Stride: 4 * img.W, Rect: image.Rect(0, 0, img.W, img.H)}
	for i := range n {
		copy(r.rgba.Pix[4*i:], img.Pix[3*i:3*i+3])
		r.rgba.Pix[4*i+3] = 0xff
	}
	r.out.Reset()
	if err := with(&r.rgba); err != nil {
		return nil, fmt.Errorf("encode again: %w", err)
	}
	return r.out.Bytes(), nil
}
