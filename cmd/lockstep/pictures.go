package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxPicture bounds an image file: a JPEG of the largest image that is decoded (raster.MaxPixels) is smaller.
const maxPicture = 256 << 20

// standardInput is the argument that means one image on standard input.
const standardInput = "-"

var pictureSuffixes = []string{".jpg", ".jpeg", ".png"}

// findImages gives the files that arguments mean; of a folder those whose names end as images' do, in the order of their names.
func findImages(args []string) ([]string, error) {
	var out []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		switch {
		case arg == standardInput && slices.Contains(out, arg):
			return nil, fmt.Errorf("%s is given twice: standard input holds one image", arg)
		case arg == standardInput || err == nil && !info.IsDir():
			out = append(out, arg)
			continue
		case err != nil:
			return nil, err
		}
		before := len(out)
		err = filepath.WalkDir(arg, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && slices.Contains(pictureSuffixes, strings.ToLower(filepath.Ext(path))) {
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(out) == before {
			return nil, fmt.Errorf("%s: no images in this folder (%s)", arg, strings.Join(pictureSuffixes, ", "))
		}
	}
	return out, nil
}

// readImage gives the bytes of an image.
func readImage(stdin io.Reader, path string) ([]byte, error) {
	if path == standardInput {
		return readUpTo(stdin, maxPicture)
	}
	return readBounded(path, maxPicture)
}

// readUpTo reads to the end, which must come within limit bytes.
func readUpTo(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return b, err
}
