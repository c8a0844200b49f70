package source

import (
	"os"
	"testing"
)

// image is as long as ImageNet's images are on average.
const image = 110_000

// BenchmarkRead reads images from a file of this machine, over HTTP on loopback, and from the cache.
func BenchmarkRead(b *testing.B) {
	data := content(64 << 20)
	s := serve(b, data)
	name := b.TempDir() + "/a"
	if err := os.WriteFile(name, data, 0o644); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name, location string
		options        Options
	}{{"local", name, Options{}}, {"http", s.URL, Options{}}, {"cache", s.URL, Options{Cache: b.TempDir()}}} {
		b.Run(c.name, func(b *testing.B) {
			ctx := limit(b)
			f, err := Open(ctx, c.location, c.options)
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, image)
			if c.options.Cache != "" { // fill it
				if err := f.ReadAt(ctx, make([]byte, len(data)), 0); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(image)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := f.ReadAt(ctx, buf, int64(i)*7919%int64(len(data)-image)); err != nil {
					b.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
