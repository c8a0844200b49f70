package coder

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/huff0"

	"github.com/lockstep-ml/lockstep/internal/simd"
)

// BlockBytes is how many bytes of values are coded with one table. A table is
// about 100 bytes, so shorter blocks pay more for it; these stay in the
// second-level cache with all that is made of them.
const BlockBytes = 64 << 10

const plane = BlockBytes / 2

// choose is made once, at first use: what reads the environment earlier escapes
// the go command's cache of tests.
var choose = sync.OnceValues(simd.Choose)

// family is that of the kernels. That the environment asks for what the machine
// lacks is package fixed's to report; both then use the plain ones.
func family() simd.Family {
	f, _ := choose()
	return f
}

// The kinds of a block.
const (
	kindPlain = iota
	kindConstant
	kindCoded
)

// ErrDamaged is what Decode's errors wrap: the bytes are not what Encode made.
var ErrDamaged = errors.New("not the coded form of so many values")

// Coder codes and decodes. The zero value is ready; it takes 250 KiB once it is
// used. One goroutine at a time may use it.
type Coder struct {
	enc, dec *huff0.Scratch
	in       reader
	block    []byte // values that lay in several pieces
	lo, hi   []byte
}

func (c *Coder) prepare() {
	if c.enc != nil {
		return
	}
	c.enc = &huff0.Scratch{Reuse: huff0.ReusePolicyNone, Out: make([]byte, 0, plane+plane/8)}
	c.dec = &huff0.Scratch{MaxDecodedSize: plane}
	c.block = make([]byte, BlockBytes)
	c.lo, c.hi = make([]byte, plane), make([]byte, plane)
}

// Encode writes the coded form of the values in src, 16-bit integers in pieces
// that may end anywhere, to dst and returns its length. It says no where it would be
// longer than dst, which then holds nothing of use, or where src is no whole number
// of values. Encode keeps nothing of either.
func (c *Coder) Encode(dst []byte, src [][]byte) (n int, ok bool) {
	c.prepare()
	c.in.reset(src)
	defer c.in.reset(nil)
	left := c.in.left()
	if left%2 != 0 {
		return 0, false
	}
	out := dst[:0:len(dst)]
	for left > 0 {
		block, _ := c.in.take(min(left, BlockBytes), c.block)
		left -= len(block)
		if out, ok = c.encodeBlock(out, block); !ok {
			return 0, false
		}
	}
	return len(out), true
}

// encodeBlock appends a block to out unless that has no room for it.
func (c *Coder) encodeBlock(out, block []byte) ([]byte, bool) {
	half := len(block) / 2
	lo, hi := c.lo[:half], c.hi[:half]
	split(family(), lo, hi, block)
	coded, _, err := huff0.Compress4X(hi, c.enc)
	room := cap(out) - len(out)
	switch {
	case errors.Is(err, huff0.ErrUseRLE) && 2+half <= room:
		return append(append(out, kindConstant, hi[0]), lo...), true
	case err == nil && 3+len(coded) < half && 3+len(coded)+half <= room:
		out = append(out, kindCoded, byte(len(coded)), byte(len(coded)>>8))
		return append(append(out, coded...), lo...), true
	case 1+len(block) <= room:
		return append(append(out, kindPlain), block...), true
	}
	return out, false
}

// Decode sets dst to the values whose coded form is src, in pieces that may end
// anywhere. The error wraps ErrDamaged, and dst then holds nothing of use; it never
// reads or writes beyond them, whatever the bytes. Decode keeps nothing of either.
func (c *Coder) Decode(dst []byte, src [][]byte) error {
	c.prepare()
	c.in.reset(src)
	defer c.in.reset(nil)
	if len(dst)%2 != 0 {
		return fmt.Errorf("coder: %d bytes of values: %w", len(dst), ErrDamaged)
	}
	for at := 0; at < len(dst); at += BlockBytes {
		if err := c.decodeBlock(dst[at:min(len(dst), at+BlockBytes)]); err != nil {
			return fmt.Errorf("coder: block at byte %d of %d: %w: %w", at, len(dst), ErrDamaged, err)
		}
	}
	if n := c.in.left(); n > 0 {
		return fmt.Errorf("coder: %d bytes of values, and %d more bytes: %w", len(dst), n, ErrDamaged)
	}
	return nil
}

var (
	errShort = errors.New("it ends early")
	errKind  = errors.New("its kind is unknown")
)

func (c *Coder) decodeBlock(dst []byte) error {
	kind, ok := c.in.take(1, c.block)
	if !ok {
		return errShort
	}
	half := len(dst) / 2
	hi := c.hi[:half]
	switch kind[0] {
	case kindPlain:
		if !c.in.copy(dst) {
			return errShort
		}
		return nil
	case kindConstant:
		b, ok := c.in.take(1, c.block)
		if !ok {
			return errShort
		}
		for i := range hi {
			hi[i] = b[0]
		}
	case kindCoded:
		if err := c.decodeHigh(hi); err != nil {
			return err
		}
	default:
		return errKind
	}
	lo, ok := c.in.take(half, c.lo)
	if !ok {
		return errShort
	}
	merge(family(), dst, lo, hi)
	return nil
}

// decodeHigh reads the high bytes of a coded block.
func (c *Coder) decodeHigh(hi []byte) error {
	b, ok := c.in.take(2, c.block)
	if !ok {
		return errShort
	}
	n := int(b[0]) | int(b[1])<<8
	if n >= len(hi) { // Encode leaves such a block plain
		return fmt.Errorf("%d bytes for %d values", n, len(hi))
	}
	coded, ok := c.in.take(n, c.block)
	if !ok {
		return errShort
	}
	s, streams, err := huff0.ReadTable(coded, c.dec)
	if err != nil {
		return err
	}
	c.dec = s
	out, err := s.Decoder().Decompress4X(hi[:0:len(hi)], streams)
	if err == nil && len(out) != len(hi) {
		err = fmt.Errorf("%d values of %d", len(out), len(hi))
	}
	return err
}
