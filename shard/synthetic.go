package shard

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"strconv"
	"strings"
	"sync"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// Synthetic begins the Path of a data set of noise: synthetic[:HxW[:CLASSES[:IMAGES]]]. It shows how fast training is when images cost
// nothing: a loader makes a few of them once, and then hands out copies.
const Synthetic = "synthetic"

// syntheticPool is how many images there are in truth. They stand for all: more would only cost memory.
const syntheticPool = 32

// noise says what is synthetic.
type noise struct {
	height, width, classes, images int
}

// IsSynthetic tells such a path from others.
func IsSynthetic(path string) bool {
	return path == Synthetic || strings.HasPrefix(path, Synthetic+":")
}

// parseNoise reads the path. Without more it is what ImageNet's images come to, and enough of them for a short run.
func parseNoise(path string) (noise, error) {
	n := noise{224, 224, 1000, 10_000}
	parts := strings.Split(path, ":")[1:]
	fields := []struct {
		name string
		v    *int
		max  int
	}{{"height", &n.height, 4096}, {"width", &n.width, 4096}, {"classes", &n.classes, 10_000}, {"images", &n.images, 4 << 20}}
	if len(parts) > 0 {
		h, w, ok := strings.Cut(parts[0], "x")
		if !ok {
			return n, fmt.Errorf("%s: %w: want %s:HxW:CLASSES:IMAGES, of which what is behind may be left out", path, ErrFormat, Synthetic)
		}
		parts = append([]string{h, w}, parts[1:]...)
	}
	if len(parts) > len(fields) {
		return n, fmt.Errorf("%s: %w: want %s:HxW:CLASSES:IMAGES, and no more", path, ErrFormat, Synthetic)
	}
	for i, p := range parts {
		v, err := strconv.Atoi(p)
		if f := fields[i]; err != nil || v < 1 || v > f.max {
			return n, fmt.Errorf("%s: %w: %s is %q, want 1 to %d", path, ErrFormat, f.name, p, f.max)
		}
		*fields[i].v = v
	}
	return n, nil
}

// openSynthetic makes the files: one test image for ten of training.
func openSynthetic(path string) (*tree, error) {
	n, err := parseNoise(path)
	if err != nil {
		return nil, err
	}
	s := &syntheticStore{}
	for k := range s.files {
		if s.files[k], err = n.picture(k); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	t := &tree{what: path, store: s}
	add := func(split string, images int) {
		for i := range images {
			t.members = append(t.members, member{name: fmt.Sprintf("%s/%04d/%07d.png", split, i%n.classes, i),
				size: int64(len(s.files[i%syntheticPool])), offset: int64(i), label: noLabel})
		}
	}
	add("train", n.images)
	add("test", max(1, min(n.images, max(n.classes, n.images/10))))
	return t, nil
}

// picture is image k of the pool, as a file that any reader of the data set can decode.
func (n noise) picture(k int) ([]byte, error) {
	img := image.NewNRGBA(image.Rect(0, 0, n.width, n.height))
	d := NewDraw(0, 0, k)
	for i := 0; i < len(img.Pix); i += 4 {
		v := d.Uint64()
		img.Pix[i], img.Pix[i+1], img.Pix[i+2], img.Pix[i+3] = uint8(v), uint8(v>>8), uint8(v>>16), 255
	}
	var b bytes.Buffer
	err := (&png.Encoder{CompressionLevel: png.NoCompression}).Encode(&b, img)
	return b.Bytes(), err
}

// A syntheticStore has the pool's files. sample.offset is the image's number.
type syntheticStore struct{ files [syntheticPool][]byte }

func (s *syntheticStore) read(_ context.Context, x *index, i int, _ []byte) ([]byte, error) {
	return s.files[x.samples[i].offset%syntheticPool], nil
}

func (s *syntheticStore) Close() error { return nil }
func (s *syntheticStore) inMemory()    {}

// A pool is the images of a synthetic set as a transform makes them, each when it is first wanted.
type pool [syntheticPool]func() ([]float32, error)

// newPool is nil for a data set of files.
func newPool(ds *Dataset, t Transform, seed uint64) *pool {
	s, ok := ds.store.(*syntheticStore)
	if !ok {
		return nil
	}
	p := &pool{}
	for k := range p {
		p[k] = sync.OnceValues(func() ([]float32, error) {
			var dec Decoder
			var img raster.Image
			if err := dec.Decode(&img, s.files[k], EncodedFile); err != nil {
				return nil, fmt.Errorf("%s: image %d: %w", ds.path, k, err)
			}
			out := make([]float32, t.Values())
			NewAugmenter(t).Apply(out, &img, NewDraw(seed, 0, k))
			return out, nil
		})
	}
	return p
}

// fill makes an image of the data set.
func (p *pool) fill(dst []float32, s *sample) error {
	made, err := p[s.offset%syntheticPool]()
	copy(dst, made)
	return err
}
