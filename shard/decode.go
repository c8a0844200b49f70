package shard

import (
	"bytes"
	"fmt"
	"image/png"

	"github.com/lockstep-ml/lockstep/shard/jpeg"
	"github.com/lockstep-ml/lockstep/shard/raster"
)

// A Decoder turns the bytes of a sample into an image. It keeps scratch memory, so each goroutine needs its own. The zero value is
// ready.
type Decoder struct {
	buf  []byte // of Dataset.Load
	jpeg jpeg.Decoder
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
