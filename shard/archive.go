package shard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// A packing is how an archive is compressed.
type packing uint8

const (
	notTar packing = iota
	plainTar
	gzipTar
	zstdTar
)

const (
	// maxZstdWindow is the largest window that is unpacked: zstd --ultra --long=27 and below.
	maxZstdWindow = 128 << 20
	// streamAhead is what is read at once of an archive that is read from end to end.
	streamAhead = 1 << 20
)

// sniff tells by its first bytes how an archive is packed.
func sniff(ctx context.Context, f source.File) (packing, []byte, error) {
	head := make([]byte, min(512, f.Size()))
	if err := f.ReadAt(ctx, head, 0); err != nil {
		return notTar, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipTar, head, nil
	case isZstd(head):
		return zstdTar, head, nil
	case isTarHeader(head):
		return plainTar, head, nil
	}
	return notTar, head, nil
}

// isZstd knows frames, and the skippable ones that pzstd begins with (RFC 8878, section 3.1).
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")) || len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18"
}

// openArchive opens a file that holds all of a data set. It takes over f when it succeeds.
func openArchive(ctx context.Context, o Options, f source.File, guess bool) (*tree, error) {
	p, head, err := sniff(ctx, f)
	if err != nil {
		return nil, err
	}
	switch p {
	case plainTar:
		members, err := scanArchive(ctx, o, f, 0)
		if err != nil {
			return nil, err
		}
		return &tree{what: f.Name(), members: members, store: &fileStore{[]source.File{f}}}, nil
	case gzipTar, zstdTar:
		t, err := readPacked(ctx, o, f, p, guess)
		if err != nil {
			return nil, err
		}
		return t, f.Close()
	}
	if len(head) == 0 {
		return nil, fmt.Errorf("%s: %w: the file is empty: %s", f.Name(), ErrFormat, accepted)
	}
	return nil, fmt.Errorf("%s: %w: %s: %s", f.Name(), ErrFormat, lookalike(head), accepted)
}

// lookalike names what a user is likely to have handed over instead.
func lookalike(head []byte) string {
	for _, k := range []struct{ magic, what string }{
		{"PK\x03\x04", "a zip file; unpack it and name the folder"},
		{"BZh", "a bzip2 file; unpack it to a .tar"},
		{"\xfd7zXZ", "an xz file; unpack it to a .tar"},
		{"\xff\xd8", "a single JPEG"},
		{"<", "a page of HTML or XML, perhaps of a server that wanted a login"},
	} {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return "it is " + k.what
		}
	}
	return "it is not an archive"
}

// readPacked holds the members of a compressed archive in memory, still as JPEG: such a stream cannot be read at random.
func readPacked(ctx context.Context, o Options, f source.File, p packing, guess bool) (*tree, error) {
	what := f.Name()
	raw := &fileReader{ctx: ctx, f: f}
	zr, err := unpack(raw, p, o.MaxMemory)
	if err != nil {
		return nil, raw.blame(&TruncatedError{File: what, Err: err})
	}
	defer zr.Close() // only read from
	store := &memStore{}
	t := &tree{what: what, hashed: true, store: store}
	tail := &tailReader{r: zr}
	err = scanTar(ctx, what, tail, tail, wanted, func(h *tar.Header, body io.Reader) error {
		m := member{name: h.Name, size: h.Size, label: noLabel}
		m.leftOut = guess && ofOtherSplit(h.Name, o.Split)
		if m.leftOut && isLabel(m.name) {
			m.label = badLabel
		}
		if !m.leftOut {
			if err := holdMember(what, &m, store, tail, body, o.MaxMemory); err != nil {
				return err
			}
		}
		t.members = append(t.members, m)
		return nil
	})
	if err == nil {
		// What the stream checks itself with comes after the tar's end mark.
		if _, e := io.Copy(io.Discard, tail); e != nil {
			err = &TruncatedError{File: what, Offset: tail.offset, Err: e}
		}
	}
	if err != nil {
		return nil, raw.blame(err)
	}
	return t, nil
}

// holdMember copies one member into memory.
func holdMember(what string, m *member, store *memStore, tail *tailReader, body io.Reader, bound int64) (err error) {
	if m.size > bound-store.total {
		return fmt.Errorf("%s: %w: its images need more than %d MiB of memory; unpack it to a folder or a plain .tar (gunzip -k, unzstd), which are read from disk, or raise the bound",
			what, ErrTooLarge, bound>>20)
	}
	if m.file, m.offset, m.crc, err = store.add(body, m.size); err != nil {
		return &TruncatedError{File: what, Offset: tail.offset, Err: fmt.Errorf("in %s: %w", m.name, err)}
	}
	if isLabel(m.name) {
		b := store.chunks[m.file][m.offset : m.offset+m.size]
		m.label = parseLabel(m.name, b)
	}
	return nil
}

// unpack begins to decompress.
func unpack(r io.Reader, p packing, bound int64) (io.ReadCloser, error) {
	r = bufio.NewReaderSize(r, streamAhead)
	if p == gzipTar {
		return gzip.NewReader(r)
	}
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderMaxMemory(uint64(max(bound, maxZstdWindow))))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// A fileReader reads a file from start to end, and remembers what went wrong, which a decompressor would not tell.
type fileReader struct {
	ctx context.Context // of one pass
	f   source.File
	pos int64
	err error
}

func (r *fileReader) Read(p []byte) (int, error) {
	n := min(int64(len(p)), r.f.Size()-r.pos)
	if n == 0 {
		return 0, io.EOF
	}
	if r.err = r.f.ReadAt(r.ctx, p[:n], r.pos); r.err != nil {
		return 0, r.err
	}
	r.pos += n
	return int(n), nil
}

// blame gives the file's own error where there is one, since the archive may be whole.
func (r *fileReader) blame(err error) error {
	if r.err != nil {
		return r.err
	}
	return err
}
