package shard

import (
	"fmt"
	"hash/crc32"

	"github.com/lockstep-ml/lockstep/shard/builtin"
)

// openBuiltin reads the embedded sample.
func openBuiltin() (*tree, error) {
	c, err := builtin.Decode(builtin.Data())
	if err != nil {
		return nil, fmt.Errorf("the built-in sample: %w; the binary is damaged, build it again", err)
	}
	t := &tree{what: Builtin, hashed: true, store: &builtinStore{c}}
	for i := range c.Images {
		crc := crc32.Update(crc32.Checksum(c.Header, castagnoli), castagnoli, c.Images[i].Scan)
		t.members = append(t.members, member{name: c.Name(i), size: int64(len(c.Header) + len(c.Images[i].Scan)), offset: int64(i), crc: crc})
	}
	return t, nil
}

// A builtinStore puts header and scan together. sample.offset is the image's number.
type builtinStore struct{ c *builtin.Container }

func (s *builtinStore) read(sm *sample, buf []byte) ([]byte, error) {
	return append(append(buf[:0], s.c.Header...), s.c.Images[sm.offset].Scan...), nil
}

func (s *builtinStore) Close() error { return nil }
