package torch

import "github.com/lockstep-ml/lockstep/checkpoint"

// What a pickle may build: nil, bool, int64, float64, string, and these.
type (
	// long is an integer of more than 8 bytes, little-endian two's complement.
	long string
	// tuple may stand in the memo, so it is not changed once made.
	tuple []any
	list  struct{ items []any }
	// dict keeps the order of insertion, and keys that are there twice: whoever takes entries out reports them.
	dict struct{ entries []entry }
	// global is a name that is allowed, as MODULE.NAME.
	global string
	// mark is where a variable number of values begins on the stack.
	mark struct{}
)

type entry struct{ key, value any }

// get finds the last value under a key, as Python's dict would have it.
func (d *dict) get(key string) any {
	for i := len(d.entries) - 1; i >= 0; i-- {
		if d.entries[i].key == key {
			return d.entries[i].value
		}
	}
	return nil
}

// storage is a run of values in the file.
type storage struct {
	key   string
	dtype checkpoint.DType
	count int64 // values of the whole storage
	from  int64 // a view's first value; 0 unless it is one
	view  int64 // a view's values; count unless it is one
}

// tensor looks at a storage: value (i, j, ...) is at offset + i*stride[0] + j*stride[1] + ...
type tensor struct {
	storage       *storage
	offset        int64
	shape, stride []int64
}
