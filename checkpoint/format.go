package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"time"
)

// The layout, byte by byte, is in docs/design/0003-checkpoint-format.md.
const (
	magic         = "LSCKPT\r\n" // a transfer that rewrites line ends spoils it at once
	formatVersion = 1
	headerBytes   = 24
	trailerBytes  = sha256.Size
	// maxManifest holds 60,000 tensors; the largest network of the grammar, cifar-resnet1202, has 9,000.
	maxManifest = 16 << 20
	// maxRatio bounds what a zstd section may claim to hold: an RLE block makes 128 KiB out of 4 bytes, nothing does better.
	maxRatio = 128 << 10 / 4
)

// Is says whether a file that begins with these bytes, 8 or more, is a checkpoint.
func Is(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

// Encoding says how a section's bytes make floats.
type Encoding string

// The encodings.
const (
	EncodingRaw  Encoding = "raw"  // little-endian float32
	EncodingZstd Encoding = "zstd" // the same, as one zstd frame
)

// Section is a line of a file's tensor table.
type Section struct {
	Name     string   `json:"name"`
	Role     Role     `json:"role"`
	Shape    []int    `json:"shape"`
	Offset   int64    `json:"offset"` // from the first byte after the manifest
	Length   int64    `json:"length"` // bytes in the file
	Encoding Encoding `json:"encoding"`
	CRC32C   uint32   `json:"crc32c"` // over the bytes in the file
}

func (s Section) key() tensorKey { return tensorKey{s.Name, s.Role} }

// Manifest is what a checkpoint file says of itself.
type Manifest struct {
	Step     uint64          `json:"step"`
	Hash     string          `json:"hash"`
	Created  time.Time       `json:"created"`
	Version  string          `json:"lockstep"`
	Config   json.RawMessage `json:"config,omitempty"`
	Schedule json.RawMessage `json:"schedule,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
	Tensors  []Section       `json:"tensors"`
}

// encodeHead lays out header and manifest.
func encodeHead(m *Manifest) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	if len(body) > maxManifest {
		return nil, fmt.Errorf("manifest of %d bytes is over the bound of %d: keep config, schedule and data position small", len(body), maxManifest)
	}
	head := make([]byte, headerBytes, headerBytes+len(body))
	copy(head, magic)
	binary.LittleEndian.PutUint32(head[8:], formatVersion)
	binary.LittleEndian.PutUint32(head[12:], uint32(len(body)))
	binary.LittleEndian.PutUint32(head[16:], crc32.Checksum(body, castagnoli))
	binary.LittleEndian.PutUint32(head[20:], crc32.Checksum(head[:20], castagnoli))
	return append(head, body...), nil
}

// readHead reads and checks header and manifest, and gives their bytes too. size is the whole file's; limit bounds the floats.
func readHead(r io.ReaderAt, size, limit int64) (*Manifest, []byte, error) {
	if size < headerBytes {
		return nil, nil, &damage{"header", 0, fmt.Errorf("the file has %d bytes, a header alone %d", size, headerBytes)}
	}
	head := make([]byte, headerBytes)
	if err := readFull(r, head, 0); err != nil {
		return nil, nil, &damage{"header", 0, err}
	}
	n, err := checkHeader(head)
	if err != nil {
		return nil, nil, &damage{"header", 0, err}
	}
	if int64(n) > size-headerBytes-trailerBytes {
		return nil, nil, &damage{"manifest", headerBytes, fmt.Errorf("cut short: it has %d bytes, the file ends at byte %d", n, size)}
	}
	head = append(head, make([]byte, n)...)
	body := head[headerBytes:]
	if err := readFull(r, body, headerBytes); err != nil {
		return nil, nil, &damage{"manifest", headerBytes, err}
	}
	if got, want := crc32.Checksum(body, castagnoli), binary.LittleEndian.Uint32(head[16:]); got != want {
		return nil, nil, &damage{"manifest", headerBytes, fmt.Errorf("CRC-32C is %08x, the header says %08x", got, want)}
	}
	m := new(Manifest)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, nil, &damage{"manifest", headerBytes, err}
	}
	if err := m.check(size-int64(len(head))-trailerBytes, limit); err != nil {
		return nil, nil, err
	}
	return m, head, nil
}

// checkHeader gives the manifest's length.
func checkHeader(head []byte) (uint32, error) {
	if string(head[:8]) != magic {
		return 0, fmt.Errorf("it begins with %q, a checkpoint with %q", head[:8], magic)
	}
	if got, want := crc32.Checksum(head[:20], castagnoli), binary.LittleEndian.Uint32(head[20:]); got != want {
		return 0, fmt.Errorf("CRC-32C is %08x, the header says %08x", got, want)
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v != formatVersion {
		return 0, fmt.Errorf("format version %d, this program reads version %d: %w", v, formatVersion, ErrVersion)
	}
	n := binary.LittleEndian.Uint32(head[12:])
	if n > maxManifest {
		return 0, fmt.Errorf("manifest of %d bytes is over the bound of %d", n, maxManifest)
	}
	return n, nil
}

// check holds the tensor table against the data area's size: sections in the order of roles, one behind the other, filling it.
func (m *Manifest) check(area, limit int64) error {
	seen := make(map[tensorKey]bool, len(m.Tensors))
	var end, floats int64
	role := 0
	for _, s := range m.Tensors {
		bad := func(format string, args ...any) error {
			return &damage{"tensor table, " + s.key().String(), headerBytes, fmt.Errorf(format, args...)}
		}
		r := slices.Index(roles, s.Role)
		if r < role {
			return bad("role %q is unknown or out of order", s.Role)
		}
		role = r
		if s.Name == "" || seen[s.key()] {
			return bad("the name is empty or there twice")
		}
		seen[s.key()] = true
		n, err := elements(s.Shape)
		if err != nil {
			return bad("%w", err)
		}
		if floats += 4 * int64(n); floats > limit {
			return bad("the tensors take more than the %d bytes allowed", limit)
		}
		if s.Offset != end || s.Length < 1 || s.Length > math.MaxInt64-end {
			return bad("%d bytes at offset %d, the section before ends at %d", s.Length, s.Offset, end)
		}
		end += s.Length
		switch {
		case s.Encoding == EncodingRaw && s.Length != 4*int64(n):
			return bad("%d bytes for shape %v, want %d", s.Length, s.Shape, 4*n)
		case s.Encoding == EncodingZstd && 4*int64(n)/maxRatio > s.Length:
			return bad("%d zstd bytes cannot hold the %d of shape %v", s.Length, 4*n, s.Shape)
		case s.Encoding != EncodingRaw && s.Encoding != EncodingZstd:
			return bad("unknown encoding %q", s.Encoding)
		}
	}
	if end != area {
		return &damage{"file length", 0, fmt.Errorf("the sections have %d bytes, the file has room for %d: it was cut short or added to", end, area)}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readFull fills p from offset; an early end is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, p []byte, offset int64) error {
	n, err := r.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// stateHash computes snapshot.Snapshot.Hash from bytes that come in the order of roles.
type stateHash struct{ h hash.Hash }

func newStateHash() stateHash { return stateHash{sha256.New()} }

func (s stateHash) write(p []byte) { s.h.Write(p) }

func (s stateHash) sum(step uint64) string {
	s.h.Write(binary.LittleEndian.AppendUint64(nil, step))
	return hex.EncodeToString(s.h.Sum(nil))
}
