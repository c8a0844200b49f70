package torch

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What a file in the layout from before PyTorch 1.6 begins with: protocol 2, and the integer 0x1950a86a20f9469cfc6c in ten bytes.
const (
	legacyMagic   = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
	legacyHead    = "\x80\x02\x8a\x0a" + legacyMagic
	legacyVersion = 1001
)

func isLegacy(head []byte) bool { return bytes.HasPrefix(head, []byte(legacyHead[:4])) }

// stream is the layout from before PyTorch 1.6: five pickles (magic, version, the writer's machine, the value, the storages' keys), and
// for each key its count of values in eight bytes and the values.
type stream struct {
	r      io.ReaderAt
	size   int64
	starts map[string]int64 // of the values
}

// openStream runs the pickles and finds the storages.
func openStream(r io.ReaderAt, size int64) (any, places, error) {
	in := bufio.NewReader(io.NewSectionReader(r, 0, size))
	var parts [5]*pickled
	var at int64
	var err error
	for i, what := range []string{"magic number", "version", "machine", "tensors", "storage keys"} {
		if parts[i], err = unpickle(in); err != nil {
			return nil, nil, fmt.Errorf("%s at byte %d: %w", what, at, err)
		}
		at += parts[i].bytes
	}
	if parts[0].value != long(legacyMagic) || parts[1].value != int64(legacyVersion) {
		return nil, nil, fmt.Errorf("magic number or version are not those of torch.save: %s", advice)
	}
	machine, ok := parts[2].value.(*dict)
	if !ok || machine.get("little_endian") != true {
		return nil, nil, errors.New("it was written on a big-endian machine: load and save it on another one")
	}
	keys, ok := parts[4].value.(*list)
	if !ok {
		return nil, nil, fmt.Errorf("the storages' keys are %s, want a list", kind(parts[4].value))
	}
	s := &stream{r: r, size: size, starts: map[string]int64{}}
	return parts[3].value, s, s.index(keys.items, parts[3].storages, at)
}

// index walks over the storages, from the byte at which the first one stands to the file's end.
func (s *stream) index(keys []any, named map[string]*storage, at int64) error {
	for _, k := range keys {
		key, ok := k.(string)
		if _, twice := s.starts[key]; !ok || twice {
			return fmt.Errorf("a storage's key is there twice, or is no string: %s", label(k))
		}
		st := named[key]
		if st == nil {
			return fmt.Errorf("storage %.80q is of no tensor, so its type is not known", key)
		}
		var head [8]byte
		if at > s.size-int64(len(head)) {
			return fmt.Errorf("the file ends at byte %d, before storage %.80q: it is cut short", s.size, key)
		}
		if _, err := s.r.ReadAt(head[:], at); err != nil {
			return fmt.Errorf("storage %.80q at byte %d: %w", key, at, err)
		}
		at += int64(len(head))
		if n := binary.LittleEndian.Uint64(head[:]); n != uint64(st.count) {
			return fmt.Errorf("storage %.80q at byte %d has %d values, its tensors want %d", key, at, n, st.count)
		}
		s.starts[key] = at
		if at += st.count * int64(st.dtype.Bytes()); at > s.size {
			return fmt.Errorf("storage %.80q ends at byte %d, the file at %d: it is cut short", key, at, s.size)
		}
	}
	if at != s.size {
		return fmt.Errorf("%d bytes follow the last storage", s.size-at)
	}
	return nil
}

// locate implements places.
func (s *stream) locate(st *storage) (int64, error) {
	at, ok := s.starts[st.key]
	if !ok {
		return 0, fmt.Errorf("storage %.80q is not in the file", st.key)
	}
	return at, nil
}
