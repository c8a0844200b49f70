package shard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openArchive opens a .tar or .tar.gz, told apart by its first bytes.
func openArchive(ctx context.Context, o Options, guess bool) (*tree, error) {
	f, err := os.Open(o.Path)
	if err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	t, err := readArchive(ctx, f, o, guess)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

// readArchive takes over f when it succeeds.
func readArchive(ctx context.Context, f *os.File, o Options, guess bool) (*tree, error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("open data: %w", err)
	}
	head = head[:n]
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		t, err := readTarGz(ctx, f, o, guess)
		if err != nil {
			return nil, err
		}
		return t, f.Close()
	case isTarHeader(head):
		return readTar(ctx, f, o)
	case n == 0:
		return nil, fmt.Errorf("%s: %w: the file is empty: %s", o.Path, ErrFormat, accepted)
	}
	return nil, fmt.Errorf("%s: %w: %s: %s", o.Path, ErrFormat, lookalike(head), accepted)
}

// lookalike names what a user is likely to have handed over instead.
func lookalike(head []byte) string {
	for _, k := range []struct{ magic, what string }{
		{"PK\x03\x04", "a zip file; unpack it and name the folder"},
		{"\x28\xb5\x2f\xfd", "a zstd file; unpack it to a .tar"},
		{"BZh", "a bzip2 file; unpack it to a .tar"},
		{"\xfd7zXZ", "an xz file; unpack it to a .tar"},
		{"\xff\xd8", "a single JPEG"},
	} {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return "it is " + k.what
		}
	}
	return "it is not an archive"
}

// isTarHeader checks the header checksum, which every tar dialect has, rather than the magic, which old ones lack.
func isTarHeader(b []byte) bool {
	if len(b) < 512 {
		return false
	}
	if _, err := tar.NewReader(bytes.NewReader(b[:512])).Next(); err != nil {
		// A PAX or long-name header needs the blocks that follow, so an early end still tells of a header that was understood.
		// A block of zeros is the end mark of an archive that holds nothing.
		return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && bytes.Equal(b[257:262], []byte("ustar"))
	}
	return true
}

// A tailReader counts what passes through and keeps the last block, to tell a proper end of archive (zero blocks) from a cut.
type tailReader struct {
	r      io.Reader
	offset int64
	last   [512]byte
	zero   bool // the last whole block read was all zero
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.offset += int64(n)
	if n == len(t.last) {
		copy(t.last[:], p)
		t.zero = t.last == [512]byte{}
	} else if n > 0 {
		t.zero = false
	}
	return n, err
}

// A tailSeeker is a tailReader over a file, where skipping a member costs a seek and not a read.
type tailSeeker struct {
	tailReader
	s io.Seeker
}

func (t *tailSeeker) Seek(offset int64, whence int) (int64, error) {
	n, err := t.s.Seek(offset, whence)
	if err == nil {
		t.offset = n
	}
	return n, err
}

// cleanName brings a member's name to the form CLASS/x.jpg; names that climb out of the archive are refused, though nothing is
// ever unpacked, because they would show up in messages and fingerprints.
func cleanName(name string) (string, bool) {
	name = path.Clean(strings.TrimPrefix(name, "/"))
	return name, name != "." && name != ".." && !strings.HasPrefix(name, "../")
}

// wanted tells whether a member can be part of a data set: image or CIFAR file.
func wanted(name string) bool { return isImage(name) || isCIFARFile(path.Base(name)) }

// scanTar calls visit for every wanted regular file and checks that the archive has its end mark.
func scanTar(ctx context.Context, file string, r io.Reader, tail *tailReader, visit func(h *tar.Header, body io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			if !tail.zero {
				return &TruncatedError{File: file, Offset: tail.offset, Err: errors.New("the end-of-archive mark is missing")}
			}
			return nil
		}
		if err != nil {
			return &TruncatedError{File: file, Offset: tail.offset, Err: err}
		}
		name, ok := cleanName(h.Name)
		if (h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeGNUSparse) || !ok || !wanted(name) {
			continue
		}
		h.Name = name
		if err := visit(h, tr); err != nil {
			return err
		}
	}
}

// readTar indexes an uncompressed archive: only headers are read, and images later at random.
func readTar(ctx context.Context, f *os.File, o Options) (*tree, error) {
	t := &tree{what: o.Path, store: &tarStore{f: f}}
	src := &tailSeeker{tailReader{r: f}, f}
	err := scanTar(ctx, o.Path, src, &src.tailReader, func(h *tar.Header, _ io.Reader) error {
		if sparse(h) {
			return fmt.Errorf("%s: %w: %s is stored sparse; make the archive again without -S", o.Path, ErrFormat, h.Name)
		}
		t.members = append(t.members, member{name: h.Name, size: h.Size, offset: src.offset})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// sparse tells of a member whose bytes do not lie in one piece.
func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords { // any order: the answer is one bit
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

type tarStore struct{ f *os.File }

func (s *tarStore) read(sm *sample, buf []byte) ([]byte, error) {
	return readAt(s.f, sm.name, sm.offset, sm.size, buf)
}

func (s *tarStore) Close() error { return s.f.Close() }

// readTarGz holds the members of a compressed archive in memory, still as JPEG: a gzip stream cannot be read at random.
func readTarGz(ctx context.Context, f io.Reader, o Options, guess bool) (*tree, error) {
	zr, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<18))
	if err != nil {
		return nil, &TruncatedError{File: o.Path, Err: err}
	}
	store := &memStore{}
	t := &tree{what: o.Path, hashed: true, store: store}
	tail := &tailReader{r: zr}
	err = scanTar(ctx, o.Path, tail, tail, func(h *tar.Header, body io.Reader) error {
		if guess && ofOtherSplit(h.Name, o.Split) {
			t.members = append(t.members, member{name: h.Name, size: h.Size, leftOut: true})
			return nil
		}
		if store.total+h.Size > o.MaxMemory {
			return fmt.Errorf("%s: %w: its images need more than %d MiB of memory; unpack it to a folder or a plain .tar (gunzip -k), which are read from disk, or raise the bound",
				o.Path, ErrTooLarge, o.MaxMemory>>20)
		}
		m := member{name: h.Name, size: h.Size}
		var err error
		if m.file, m.offset, m.crc, err = store.add(body, h.Size); err != nil {
			return &TruncatedError{File: o.Path, Offset: tail.offset, Err: fmt.Errorf("in %s: %w", h.Name, err)}
		}
		t.members = append(t.members, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	// The gzip trailer's checksum comes after the tar's end mark.
	if _, err := io.Copy(io.Discard, tail); err != nil {
		return nil, &TruncatedError{File: o.Path, Offset: tail.offset, Err: err}
	}
	return t, nil
}

// memChunk is the unit of a memStore: large enough that 50,000 small images are a handful of objects to the garbage collector,
// small enough that the last, half-empty one does not matter.
const memChunk = 4 << 20

// A memStore holds samples in memory, many to a chunk. sample.file is the chunk.
type memStore struct {
	chunks [][]byte
	total  int64
}

// add copies size bytes of r. Memory is taken as bytes arrive, never on the word of a header.
func (s *memStore) add(r io.Reader, size int64) (file int32, offset int64, crc uint32, err error) {
	if size > memChunk {
		var b bytes.Buffer
		n, err := io.Copy(&b, io.LimitReader(r, size))
		if err == nil && n < size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, 0, 0, err
		}
		return s.own(b.Bytes())
	}
	last := len(s.chunks) - 1
	if last < 0 || int64(cap(s.chunks[last])-len(s.chunks[last])) < size {
		s.chunks = append(s.chunks, make([]byte, 0, memChunk))
		last++
	}
	c := s.chunks[last]
	dst := c[len(c) : int64(len(c))+size]
	if _, err := io.ReadFull(r, dst); err != nil {
		return 0, 0, 0, err
	}
	s.chunks[last] = c[:len(c)+len(dst)]
	s.total += size
	return int32(last), int64(len(c)), crc32.Checksum(dst, castagnoli), nil
}

// own takes over b as a chunk of its own.
func (s *memStore) own(b []byte) (file int32, offset int64, crc uint32, err error) {
	s.chunks = append(s.chunks, b)
	s.total += int64(len(b))
	return int32(len(s.chunks) - 1), 0, crc32.Checksum(b, castagnoli), nil
}

func (s *memStore) read(sm *sample, _ []byte) ([]byte, error) {
	return s.chunks[sm.file][sm.offset : sm.offset+sm.size : sm.offset+sm.size], nil
}

func (s *memStore) Close() error { return nil }
