package shard

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"time"

	"github.com/lockstep-ml/lockstep/shard/jpeg"
	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A Decoder turns the bytes of a sample into an image. It keeps scratch memory, so each goroutine needs its own. The zero value is
// ready.
type Decoder struct {
	buf  []byte // of Dataset.Load
	img  raster.Image
	jpeg jpeg.Decoder
	took time.Duration
}

// Took is the time that Render has spent decoding so far.
func (d *Decoder) Took() time.Duration { return d.took }

// Fallbacks counts the JPEG files that were left to the standard library's decoder, by what made them special.
func (d *Decoder) Fallbacks() map[string]int {
	return d.jpeg.Fallbacks()
}

// Decode decodes b into dst, whose memory it reuses. An error says what is wrong with the bytes; it never panics on foreign data.
func (d *Decoder) Decode(dst *raster.Image, b []byte, enc Encoding) error {
	if enc == RawPlanar32 {
		return planarToRGB(b, dst)
	}
	switch {
	case jpeg.Is(b):
		return d.jpeg.Decode(dst, b, jpeg.Whole)
	case bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")):
		return decodePNG(dst, b)
	}
	return fmt.Errorf("neither JPEG nor PNG: it begins with % x", b[:min(len(b), 8)])
}

// Render decodes as much of b as a's Transform and draw want, and writes that to dst as Augmenter.Apply does.
func (d *Decoder) Render(dst []float32, b []byte, enc Encoding, a *Augmenter, draw Draw) error {
	a.check(dst)
	begun := time.Now()
	if enc != RawPlanar32 && jpeg.Is(b) && a.t.ViewCount() == 1 {
		return d.renderJPEG(dst, b, a, draw, begun)
	}
	if err := d.Decode(&d.img, b, enc); err != nil {
		return err
	}
	d.took += time.Since(begun)
	a.Apply(dst, &d.img, draw)
	return nil
}

func (d *Decoder) renderJPEG(dst []float32, b []byte, a *Augmenter, draw Draw, begun time.Time) error {
	w, h, err := d.jpeg.Size(b)
	if err != nil {
		return err
	}
	c := a.t.Crop(w, h, 0, draw)
	need := c.Needs()
	err = d.jpeg.Decode(&d.img, b, jpeg.View{Scale: c.Reduction, Region: need})
	if err != nil && c.Reduction > 1 { // a kind of file that cannot be reduced, if it is not damaged
		c.Reduction = 1
		need = c.Needs()
		err = d.jpeg.Decode(&d.img, b, jpeg.View{Region: need})
	}
	if err != nil {
		return err
	}
	d.took += time.Since(begun)
	a.render(dst, &d.img, need.X, need.Y, c)
	return nil
}

// Render does Load and Augmenter.Apply in one, and decodes no more of the image than it takes. Errors are those of Load.
func (d *Dataset) Render(ctx context.Context, dec *Decoder, aug *Augmenter, dst []float32, i int, draw Draw) error {
	b, err := d.Read(ctx, i, dec.buf)
	if err != nil {
		return err
	}
	if d.copies {
		dec.buf = b
	}
	return d.render(dec, aug, dst, b, i, draw)
}

// render is Render of bytes that have been read.
func (d *Dataset) render(dec *Decoder, aug *Augmenter, dst []float32, b []byte, i int, draw Draw) error {
	if err := dec.Render(dst, b, d.encoding, aug, draw); err != nil {
		return &DamagedError{Archive: d.path, Member: d.name(i), Offset: d.samples[i].offset, Err: err}
	}
	return nil
}

func decodePNG(dst *raster.Image, b []byte) error {
	c, err := png.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if err := raster.CheckPixels(c.Width, c.Height); err != nil {
		return err
	}
	m, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	dst.Convert(m)
	return nil
}
