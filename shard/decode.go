package shard

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"slices"
)

// MaxPixels bounds width times height of an image, before memory is taken for it: a 100-byte file may claim to be 65,500 x 65,500.
const MaxPixels = 100 << 20

// Image is 8-bit RGB: H rows of W pixels of 3 bytes, without padding.
type Image struct {
	W, H int
	Pix  []byte
}

// resize sets the size, keeping the memory when it is large enough. The pixels are then undefined.
func (m *Image) resize(w, h int) {
	m.W, m.H = w, h
	m.Pix = slices.Grow(m.Pix[:0], 3*w*h)[:3*w*h]
}

// A Decoder turns the bytes of a sample into an Image. It keeps scratch memory, so each goroutine needs its own. The zero value is
// ready.
type Decoder struct {
	buf  []byte // of Dataset.Load
	up   upsampler
	base baseline
}

// Decode decodes b into dst, whose memory it reuses. An error says what is wrong with the bytes; it never panics on foreign data.
func (d *Decoder) Decode(dst *Image, b []byte, enc Encoding) error {
	if enc == RawPlanar32 {
		return planarToRGB(b, dst)
	}
	switch {
	case bytes.HasPrefix(b, []byte{0xff, 0xd8}):
		return d.jpeg(dst, b)
	case bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")):
		return d.png(dst, b)
	}
	return fmt.Errorf("neither JPEG nor PNG: it begins with % x", b[:min(len(b), 8)])
}

func (d *Decoder) jpeg(dst *Image, b []byte) error {
	err := d.base.decode(b)
	if err == nil {
		d.base.toRGB(dst, &d.up)
		return nil
	}
	if !errors.Is(err, errOtherJPEG) {
		return err
	}
	c, err := jpeg.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if err := checkPixels(c.Width, c.Height); err != nil {
		return err
	}
	m, err := jpeg.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return d.convert(dst, m)
}

func (d *Decoder) png(dst *Image, b []byte) error {
	c, err := png.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if err := checkPixels(c.Width, c.Height); err != nil {
		return err
	}
	m, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return d.convert(dst, m)
}

func checkPixels(w, h int) error {
	if w < 1 || h < 1 {
		return fmt.Errorf("image of %d x %d pixels", w, h)
	}
	if w > MaxPixels/h {
		return fmt.Errorf("image of %d x %d pixels: %w, the bound is %d", w, h, ErrTooLarge, MaxPixels)
	}
	return nil
}

// convert brings what the standard library decoded to RGB. Transparency is dropped, not blended, as Pillow's convert("RGB") does.
func (d *Decoder) convert(dst *Image, m image.Image) error {
	r := m.Bounds()
	dst.resize(r.Dx(), r.Dy())
	switch m := m.(type) {
	case *image.YCbCr:
		p := ycc{w: r.Dx(), h: r.Dy(), y: plane{m.Y, m.YStride}, cb: plane{m.Cb, m.CStride}, cr: plane{m.Cr, m.CStride}}
		var ok bool
		if p.hs, p.vs, ok = subsampling(m.SubsampleRatio); !ok {
			return fmt.Errorf("chroma subsampling %v is unknown", m.SubsampleRatio)
		}
		d.up.toRGB(dst, &p)
	case *image.Gray:
		for y := range dst.H {
			for x, v := range m.Pix[y*m.Stride : y*m.Stride+dst.W] {
				dst.set(x, y, v, v, v)
			}
		}
	case *image.CMYK:
		for y := range dst.H {
			for x := range dst.W {
				p := m.Pix[y*m.Stride+4*x:]
				cr, cg, cb := color.CMYKToRGB(p[0], p[1], p[2], p[3])
				dst.set(x, y, cr, cg, cb)
			}
		}
	default:
		for y := range dst.H {
			for x := range dst.W {
				c := color.NRGBAModel.Convert(m.At(r.Min.X+x, r.Min.Y+y)).(color.NRGBA)
				dst.set(x, y, c.R, c.G, c.B)
			}
		}
	}
	return nil
}

func (m *Image) set(x, y int, r, g, b byte) {
	p := m.Pix[3*(y*m.W+x):]
	p[0], p[1], p[2] = r, g, b
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
