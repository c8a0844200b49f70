// Command gen makes shard/builtin/sample.bin: 500 training and 100 test images of each CIFAR-10 class, drawn with a fixed seed.
//
//	go run shard/builtin/_gen/main.go CIFAR10.tar.gz shard/builtin/sample.bin
//
// CIFAR10.tar.gz holds CIFAR-10 as JPEG files, train/CLASS/NNNN.jpg and test/CLASS/NNNN.jpg, all from one encoder at one quality.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/builtin"
)

// seed keys the choice; the class and split are mixed in as the epoch of the permutation.
const seed = 2015

var perClass = map[string]int{"train": 500, "test": 100}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go run shard/builtin/_gen/main.go CIFAR10.tar.gz shard/builtin/sample.bin")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	c := &builtin.Container{}
	for s, split := range []string{"train", "test"} {
		if err := add(c, s, split, in); err != nil {
			return err
		}
	}
	return write(out, builtin.Encode(c))
}

// add draws one split's images and appends them in the data set's order.
func add(c *builtin.Container, s int, split, in string) error {
	ctx := context.Background()
	ds, err := shard.Open(ctx, shard.Options{Path: in, Split: split})
	if err != nil {
		return err
	}
	defer ds.Close() // read-only
	c.Splits = append(c.Splits, split)
	c.Classes = ds.Classes()
	first := 0
	for class := range c.Classes {
		end := first
		for end < ds.Len() && ds.Label(end) == class {
			end++
		}
		perm := shard.NewPermutation(seed, uint64(2*class+s), end-first)
		picked := make([]int, perClass[split])
		for i := range picked {
			picked[i] = first + perm.At(i)
		}
		slices.Sort(picked)
		for _, i := range picked {
			if err := addImage(ctx, c, s, ds, i); err != nil {
				return err
			}
		}
		first = end
	}
	return nil
}

// scanStart finds the end of the start-of-scan segment: marker, two bytes of length, parameters.
func scanStart(b []byte) int {
	at := bytes.Index(b, []byte{0xff, 0xda})
	if at < 0 || at+4 > len(b) {
		return -1
	}
	return min(len(b), at+2+int(b[at+2])<<8+int(b[at+3]))
}

func addImage(ctx context.Context, c *builtin.Container, s int, ds *shard.Dataset, i int) error {
	b, err := ds.Read(ctx, i, nil)
	if err != nil {
		return err
	}
	cut := scanStart(b)
	if cut < 0 {
		return fmt.Errorf("%s has no scan", ds.Name(i))
	}
	if c.Header == nil {
		c.Header = bytes.Clone(b[:cut])
	}
	if !bytes.Equal(c.Header, b[:cut]) {
		return fmt.Errorf("%s has another header than the images before it", ds.Name(i))
	}
	number, err := strconv.Atoi(strings.TrimSuffix(path.Base(ds.Name(i)), ".jpg"))
	if err != nil {
		return fmt.Errorf("%s: name is not a number: %w", ds.Name(i), err)
	}
	c.Images = append(c.Images, builtin.Image{Split: s, Class: ds.Label(i), Number: number, Scan: bytes.Clone(b[cut:])})
	return nil
}

// write replaces the file whole: temporary file, fsync, rename.
func write(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".sample-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	for _, step := range []func() error{func() error { return f.Chmod(0o644) }, f.Sync, f.Close} {
		if e := step(); err == nil {
			err = e
		}
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name()) // the first error counts
	}
	return err
}
