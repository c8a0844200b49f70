package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"
)

// An entry of the cache is a header of 128 bytes and the chunk's bytes. All numbers are little-endian.
//
//	offset  bytes
//	     0      8  magic "LSCHUNK1"
//	     8     32  SHA-256 of location, version and size of the file
//	    40      8  number of the chunk
//	    48      4  length of the chunk, at most 1 MiB
//	    52     64  CRC-32C of each 64 KiB of it, the last ones 0 where it is short
//	   116      8  zero
//	   124      4  CRC-32C of the 124 bytes before
//
// A sum for each 64 KiB lets an image be read, and checked, without the rest of its chunk.
const (
	entryMagic  = "LSCHUNK1"
	entryHeadSz = 128
	blockSize   = 64 << 10
	blocks      = chunkSize / blockSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blockBuffers hold the blocks that one read checks.
var blockBuffers = sync.Pool{New: func() any { return new([]byte) }}

var errEntry = errors.New("the entry is damaged")

func entryHeader(id chunkID, data []byte) []byte {
	h := make([]byte, entryHeadSz)
	copy(h, entryMagic)
	copy(h[8:], id.file[:])
	binary.LittleEndian.PutUint64(h[40:], uint64(id.index))
	binary.LittleEndian.PutUint32(h[48:], uint32(len(data)))
	for b := 0; b*blockSize < len(data); b++ {
		block := data[b*blockSize : min(len(data), (b+1)*blockSize)]
		binary.LittleEndian.PutUint32(h[52+4*b:], crc32.Checksum(block, castagnoli))
	}
	binary.LittleEndian.PutUint32(h[124:], crc32.Checksum(h[:124], castagnoli))
	return h
}

// readEntry fills p from byte from of an entry's chunk, and checks every block that it touches.
func readEntry(r io.ReaderAt, id chunkID, p []byte, from int64) error {
	var h [entryHeadSz]byte
	if n, err := r.ReadAt(h[:], 0); n < len(h) {
		return fmt.Errorf("%w: %w in its header", errEntry, err)
	}
	if string(h[:8]) != entryMagic || crc32.Checksum(h[:124], castagnoli) != binary.LittleEndian.Uint32(h[124:]) {
		return fmt.Errorf("%w: its header is wrong", errEntry)
	}
	size := int64(binary.LittleEndian.Uint32(h[48:]))
	if !bytes.Equal(h[8:40], id.file[:]) || binary.LittleEndian.Uint64(h[40:]) != uint64(id.index) || size > chunkSize {
		return fmt.Errorf("%w: it holds another chunk than its name says", errEntry)
	}
	if from+int64(len(p)) > size {
		return fmt.Errorf("%w: it has %d bytes, want %d", errEntry, size, from+int64(len(p)))
	}
	first := from / blockSize * blockSize
	end := min(size, (from+int64(len(p))+blockSize-1)/blockSize*blockSize)
	scratch := blockBuffers.Get().(*[]byte)
	defer blockBuffers.Put(scratch)
	*scratch = slices.Grow((*scratch)[:0], int(end-first))[:end-first]
	b := *scratch
	if n, err := r.ReadAt(b, entryHeadSz+first); n < len(b) {
		return fmt.Errorf("%w: %w at byte %d", errEntry, err, first+int64(n))
	}
	for off := first; off < end; off += blockSize {
		sum := binary.LittleEndian.Uint32(h[52+4*(off/blockSize):])
		if crc32.Checksum(b[off-first:min(off+blockSize, end)-first], castagnoli) != sum {
			return fmt.Errorf("%w: wrong checksum at byte %d", errEntry, off)
		}
	}
	copy(p, b[from-first:])
	return nil
}
