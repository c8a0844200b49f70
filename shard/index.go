package shard

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
)

// A sample is one labelled image: where its bytes are, and what it is called. With 32 bytes, and the 20 of its name in the index, the
// 1.28 million of ImageNet take 67 MB.
type sample struct {
	offset int64  // in its file
	file   int32  // of the store
	size   uint32 // bytes
	label  int32
	crc    uint32 // CRC-32C of the bytes; 0 unless the data set is hashed
	dir    uint32 // which of the index's dirs the name begins with
	base   uint32 // where the rest of the name begins in the index's names
}

// An index is the samples of a data set. Names are kept as a folder, of which there are few, and what follows it; those lie end to
// end in the order of the samples, so that each ends where the next begins. A string for each would take twice the memory of all
// else, and be looked at by every garbage collection.
type index struct {
	samples []sample
	dirs    []string
	names   []byte
	dirOf   map[string]uint32 // while it is built
}

// add appends a sample that is called name; s.dir and s.base are set here.
func (x *index) add(name string, s sample) error {
	dir, base := path.Split(name)
	n, ok := x.dirOf[dir]
	if !ok {
		n = uint32(len(x.dirs))
		if x.dirOf == nil {
			x.dirOf = map[string]uint32{}
		}
		dir = strings.Clone(dir) // a part of it would keep all the names alive that it lies among
		x.dirOf[dir] = n
		x.dirs = append(x.dirs, dir)
	}
	if len(x.names)+len(base) > math.MaxUint32 || len(x.samples) == math.MaxInt32 {
		return fmt.Errorf("%s: %w: more than %d images, or 4 GiB of names", name, ErrTooLarge, len(x.samples))
	}
	s.dir, s.base = n, uint32(len(x.names))
	x.names = append(x.names, base...)
	x.samples = append(x.samples, s)
	return nil
}

// name is the full name of sample i.
func (x *index) name(i int) string {
	return x.dirs[x.samples[i].dir] + string(x.base(i))
}

// base is what follows the folder in the name of sample i.
func (x *index) base(i int) []byte {
	end := len(x.names)
	if i+1 < len(x.samples) {
		end = int(x.samples[i+1].base)
	}
	return x.names[x.samples[i].base:end]
}

// twice finds a name that two samples have. Names mostly rise; only where they do not, they are sorted.
func (x *index) twice() (string, bool) {
	order := make([]int32, len(x.samples))
	rising := true
	for i := range order {
		order[i] = int32(i)
		rising = rising && (i == 0 || x.compare(int32(i-1), int32(i)) < 0)
	}
	if rising {
		return "", false
	}
	slices.SortFunc(order, x.compare)
	for k := 1; k < len(order); k++ {
		if x.compare(order[k-1], order[k]) == 0 {
			return x.name(int(order[k])), true
		}
	}
	return "", false
}

// compare orders names by folder and then by what follows.
func (x *index) compare(i, j int32) int {
	a, b := &x.samples[i], &x.samples[j]
	if a.dir != b.dir {
		return cmp.Compare(a.dir, b.dir)
	}
	return bytes.Compare(x.base(int(i)), x.base(int(j)))
}

// done drops what only building needs, and the room to grow.
func (x *index) done() {
	x.dirOf = nil
	x.samples = append(make([]sample, 0, len(x.samples)), x.samples...)
	x.names = append(make([]byte, 0, len(x.names)), x.names...)
}
