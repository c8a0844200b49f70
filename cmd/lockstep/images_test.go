package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func init() {
	shared.images = sync.OnceValue(func() string {
		dir := filepath.Join(shared.dir(), "images")
		for _, f := range imageFiles() {
			path := filepath.Join(dir, f.name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				panic(err)
			}
			if err := os.WriteFile(path, f.data, 0o644); err != nil {
				panic(err)
			}
		}
		return dir
	})
}

type imageFile struct {
	name string
	data []byte
}

// imageFiles is a data set of three classes: 60 training and 15 test images of 32x32, each with a pattern of its class.
var imageFiles = sync.OnceValue(func() []imageFile {
	var files []imageFile
	for class, name := range []string{"checks", "rings", "stripes"} {
		for i := range 25 {
			split := "train"
			if i >= 20 {
				split = "test"
			}
			files = append(files, imageFile{fmt.Sprintf("%s/%s/%03d.jpg", split, name, i), pattern(class, i)})
		}
	}
	slices.SortFunc(files, func(a, b imageFile) int { return strings.Compare(a.name, b.name) })
	return files
})

func pattern(class, i int) []byte {
	img := image.NewRGBA(image.Rect(0, 0, 32, 32))
	for y := range 32 {
		for x := range 32 {
			on := [3]bool{(x/4+y/4+i)%2 == 0, ((x-16)*(x-16)+(y-16)*(y-16))/(40+i)%2 == 0, (x+i)/3%2 == 0}[class]
			c := color.RGBA{uint8(8 * x), uint8(5*i + y), uint8(40 * class), 255}
			if on {
				c.R, c.G = 255-c.R, 200
			}
			img.Set(x, y, c)
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 90}); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// archive writes the data set as a .tar, each file as change makes it; nil drops it.
func archive(t *testing.T, path string, change func(name string, data []byte) []byte) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range imageFiles() {
		data := change(f.name, slices.Clone(f.data))
		if data == nil {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, path, b.Bytes())
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
