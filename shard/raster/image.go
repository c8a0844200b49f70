package raster

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"slices"
)

// MaxPixels bounds width times height of an image, before memory is taken for it: a 100-byte file may claim to be 65,500 x 65,500.
const MaxPixels = 100 << 20

// ErrTooLarge: the bound on pixels would be passed.
var ErrTooLarge = errors.New("too large")

// CheckPixels refuses sizes that are empty or beyond MaxPixels (ErrTooLarge).
func CheckPixels(w, h int) error {
	if w < 1 || h < 1 {
		return fmt.Errorf("image of %d x %d pixels", w, h)
	}
	if w > MaxPixels/h {
		return fmt.Errorf("image of %d x %d pixels: %w, the bound is %d", w, h, ErrTooLarge, MaxPixels)
	}
	return nil
}

// A Rect is a window of whole pixels.
type Rect struct{ X, Y, W, H int }

// Box is the Rect of w x h pixels whose corner is (x, y).
func Box(x, y, w, h int) Rect { return Rect{x, y, w, h} }

// Image is 8-bit RGB: H rows of W pixels of 3 bytes, without padding.
type Image struct {
	W, H int
	Pix  []byte
}

// Resize sets the size, keeping the memory when it is large enough. The pixels are then undefined.
func (m *Image) Resize(w, h int) {
	m.W, m.H = w, h
	m.Pix = slices.Grow(m.Pix[:0], 3*w*h)[:3*w*h]
}

// Set gives the pixel at column x and row y its colour.
func (m *Image) Set(x, y int, r, g, b byte) {
	p := m.Pix[3*(y*m.W+x):]
	p[0], p[1], p[2] = r, g, b
}

// Crop cuts the image down to r, which must lie inside it.
func (m *Image) Crop(r Rect) {
	for y := range r.H {
		from := 3 * ((r.Y+y)*m.W + r.X)
		copy(m.Pix[3*y*r.W:3*(y+1)*r.W], m.Pix[from:from+3*r.W])
	}
	m.W, m.H, m.Pix = r.W, r.H, m.Pix[:3*r.W*r.H]
}

// Convert brings what the standard library decoded to RGB. Transparency is dropped, not blended, as Pillow's convert("RGB") does.
func (m *Image) Convert(src image.Image) {
	r := src.Bounds()
	m.Resize(r.Dx(), r.Dy())
	switch src := src.(type) {
	case *image.Gray:
		for y := range m.H {
			for x, v := range src.Pix[y*src.Stride : y*src.Stride+m.W] {
				m.Set(x, y, v, v, v)
			}
		}
	case *image.CMYK:
		for y := range m.H {
			for x := range m.W {
				p := src.Pix[y*src.Stride+4*x:]
				cr, cg, cb := color.CMYKToRGB(p[0], p[1], p[2], p[3])
				m.Set(x, y, cr, cg, cb)
			}
		}
	default:
		for y := range m.H {
			for x := range m.W {
				c := color.NRGBAModel.Convert(src.At(r.Min.X+x, r.Min.Y+y)).(color.NRGBA)
				m.Set(x, y, c.R, c.G, c.B)
			}
		}
	}
}
