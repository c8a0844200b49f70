package shard

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// maxMembers bounds what one archive may list: ten times the images of ImageNet.
const maxMembers = 16 << 20

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
	if n > 0 && n < len(p) && len(p) == len(t.last) {
		var k int // a window may end within a block
		k, err = io.ReadFull(t.r, p[n:])
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		n += k
	}
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

// wanted tells whether a member can be part of a data set: image, label or CIFAR file.
func wanted(name string) bool {
	return isImage(name) || isLabel(name) || isCIFARFile(path.Base(name))
}

// scanTar calls visit for every regular file that wanted names, and checks that the archive has its end mark.
func scanTar(ctx context.Context, file string, r io.Reader, tail *tailReader, wanted func(string) bool, visit func(h *tar.Header, body io.Reader) error) error {
	tr := tar.NewReader(r)
	for n := 0; ; {
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
		if n++; n > maxMembers {
			return fmt.Errorf("%s: %w: more than %d files in one archive", file, ErrTooLarge, maxMembers)
		}
		if err := visit(h, tr); err != nil {
			return err
		}
	}
}

// scanPart scans an archive that lies in a part of a file: only headers are read, and labels. visit also gets each member's offset
// in the file.
func scanPart(ctx context.Context, what string, f source.File, start, end int64, wanted func(string) bool, visit func(h *tar.Header, offset int64, body io.Reader) error) error {
	head := newHeadReader(ctx, f, start, end)
	tail := &tailSeeker{tailReader{r: head, offset: start}, head}
	err := scanTar(ctx, what, tail, &tail.tailReader, wanted, func(h *tar.Header, body io.Reader) error {
		if sparse(h) {
			return fmt.Errorf("%s: %w: %s is a sparse member; pack the images again without -S", what, ErrFormat, h.Name)
		}
		if h.Size > head.end-tail.offset {
			return &TruncatedError{File: what, Offset: head.end, Err: fmt.Errorf("%s should have %d bytes from byte %d on", h.Name, h.Size, tail.offset)}
		}
		return visit(h, tail.offset, body)
	})
	var cut *TruncatedError
	if head.err != nil && errors.As(err, &cut) {
		return head.err // the file could not be read; the archive may be whole
	}
	return err
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

// scanArchive lists a plain .tar's images, labels and CIFAR files. file numbers it in the store.
func scanArchive(ctx context.Context, o Options, f source.File, file int32) ([]member, error) {
	key := indexKey(f)
	if members := keptMembers(o, key, f.Size(), file); members != nil {
		return members, nil
	}
	var members []member
	var names arena
	err := scanPart(ctx, f.Name(), f, 0, f.Size(), wanted, func(h *tar.Header, offset int64, body io.Reader) error {
		m := member{name: names.keep(h.Name), size: h.Size, offset: offset, file: file, label: noLabel}
		if isLabel(m.name) {
			m.label = readLabel(m.name, h.Size, body)
		}
		members = append(members, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	keepMembers(o, key, members)
	return members, nil
}

// An arena keeps strings end to end, since millions of small ones cost more than they hold.
type arena struct{ b strings.Builder }

// keep gives a copy of s.
func (a *arena) keep(s string) string {
	if a.b.Cap()-a.b.Len() < len(s) {
		a.b = strings.Builder{}
		a.b.Grow(max(len(s), 1<<16))
	}
	start := a.b.Len()
	a.b.WriteString(s)
	return a.b.String()[start:]
}
