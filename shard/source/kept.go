package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// Something kept (an index, say) is a file of the cache: magic "LSKEPT01", SHA-256 of its key, CRC-32C of what follows
// (little-endian), and the bytes.
const (
	keptMagic  = "LSKEPT01"
	keptHeadSz = 8 + sha256.Size + 4
	// maxKept bounds what is read back: the index of ImageNet takes some 50 MB.
	maxKept = 1 << 30
)

// Caches says whether there is a folder to keep things in.
func (p *Opener) Caches() bool { return p.cache != nil }

// Keep stores what was worked out about files, under a key that names their locations and versions. It may be evicted.
func (p *Opener) Keep(key string, b []byte) error {
	if p.cache == nil {
		return nil
	}
	path, id := p.cache.keptPath(key)
	head := append([]byte(keptMagic), id[:]...)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(b, castagnoli))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	err := vfs.WriteAtomic(vfs.OS{}, path, 0o644, func(w io.Writer) error {
		if _, err := w.Write(head); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	})
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return p.cache.wrote(int64(len(head) + len(b)))
}

// Kept gives what Keep stored, nil if that is not there any more. What is damaged is removed, and Warn told.
func (p *Opener) Kept(key string) []byte {
	if p.cache == nil {
		return nil
	}
	path, id := p.cache.keptPath(key)
	b, err := readKept(path, id)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			p.o.Warn(fmt.Errorf("cache: %s: %w; it is removed and made again", path, err))
			p.cache.remove(path)
		}
		return nil
	}
	return b
}

func (c *cache) keptPath(key string) (string, [sha256.Size]byte) {
	id := sha256.Sum256([]byte("kept " + key))
	name := hex.EncodeToString(id[:])
	return filepath.Join(c.dir, name[:2], name+"-kept"), id
}

func readKept(path string, id [sha256.Size]byte) (b []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err = io.ReadAll(io.LimitReader(f, maxKept))
	if err != nil {
		return nil, err
	}
	return parseKept(b, id)
}

// parseKept checks a file's bytes and gives what was kept.
func parseKept(b []byte, id [sha256.Size]byte) ([]byte, error) {
	if len(b) < keptHeadSz || string(b[:8]) != keptMagic || !bytes.Equal(b[8:8+sha256.Size], id[:]) {
		return nil, fmt.Errorf("%w: its header is wrong", errEntry)
	}
	body := b[keptHeadSz:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[keptHeadSz-4:]) {
		return nil, fmt.Errorf("%w: wrong checksum", errEntry)
	}
	return body, nil
}
