package jpeg

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/jpeg"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A Decoder turns JPEG files into RGB images. It keeps scratch memory, so each goroutine needs its own. The zero value is ready.
type Decoder struct {
	up   upsampler
	base baseline
}

// A View says what of an image is wanted.
type View struct {
	// Scale makes the image 1/1, 1/2, 1/4 or 1/8 of its size, rounded up, in the inverse transform; 0 means 1.
	Scale int
	// Region is the wanted part, in pixels of the scaled image; the zero Rect means all of it.
	Region raster.Rect
}

// Whole is the View of the whole image at its own size.
var Whole = View{}

// Is tells a JPEG file by its first bytes.
func Is(b []byte) bool { return bytes.HasPrefix(b, []byte{0xff, 0xd8}) }

// Size reads width and height out of the headers of b, and nothing else. Sizes beyond the bound are refused (raster.ErrTooLarge).
func (d *Decoder) Size(b []byte) (w, h int, err error) {
	c, err := jpeg.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		return 0, 0, err
	}
	return c.Width, c.Height, raster.CheckPixels(c.Width, c.Height)
}

// Decode decodes the wanted view of b into dst, whose memory it reuses: the pixels are those that decoding the whole image and
// cutting it would give. An error says what is wrong with the bytes; it never panics on foreign data.
func (d *Decoder) Decode(dst *raster.Image, b []byte, v View) error {
	if v.Scale > 1 {
		return fmt.Errorf("scale 1/%d is not there yet", v.Scale)
	}
	if err := d.whole(dst, b); err != nil {
		return err
	}
	if v.Region != (raster.Rect{}) {
		dst.Crop(v.Region)
	}
	return nil
}

func (d *Decoder) whole(dst *raster.Image, b []byte) error {
	err := d.base.decode(b)
	if err == nil {
		d.base.toRGB(dst, &d.up)
		return nil
	}
	if !errors.Is(err, errOtherJPEG) {
		return err
	}
	if _, _, err := d.Size(b); err != nil {
		return err
	}
	m, err := jpeg.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return d.convert(dst, m)
}

// convert brings what the standard library decoded to RGB.
func (d *Decoder) convert(dst *raster.Image, m image.Image) error {
	c, ok := m.(*image.YCbCr)
	if !ok {
		dst.Convert(m)
		return nil
	}
	r := m.Bounds()
	p := ycc{w: r.Dx(), h: r.Dy(), y: plane{c.Y, c.YStride}, cb: plane{c.Cb, c.CStride}, cr: plane{c.Cr, c.CStride}}
	if p.hs, p.vs, ok = subsampling(c.SubsampleRatio); !ok {
		return fmt.Errorf("chroma subsampling %v is unknown", c.SubsampleRatio)
	}
	dst.Resize(p.w, p.h)
	d.up.toRGB(dst, &p)
	return nil
}

func subsampling(s image.YCbCrSubsampleRatio) (h, v int, ok bool) {
	switch s {
	case image.YCbCrSubsampleRatio444:
		return 1, 1, true
	case image.YCbCrSubsampleRatio422:
		return 2, 1, true
	case image.YCbCrSubsampleRatio420:
		return 2, 2, true
	case image.YCbCrSubsampleRatio440:
		return 1, 2, true
	case image.YCbCrSubsampleRatio411:
		return 4, 1, true
	case image.YCbCrSubsampleRatio410:
		return 4, 2, true
	}
	return 0, 0, false
}
