package shard

import (
	"context"
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
		t.members = append(t.members, member{name: c.Name(i), size: int64(len(c.Header) + len(c.Images[i].Scan)), offset: int64(i), label: noLabel, crc: crc})
	}
	return t, nil
}

// A builtinStore puts header and scan together. sample.offset is the image's number.
type builtinStore struct{ c *builtin.Container }

func (s *builtinStore) read(_ context.Context, x *index, i int, buf []byte) ([]byte, error) {
	sm := &x.samples[i]
	return append(append(buf[:0], s.c.Header...), s.c.Images[sm.offset].Scan...), nil
}

func (s *builtinStore) Close() error { return nil }
