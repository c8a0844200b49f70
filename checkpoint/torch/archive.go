package torch

import (
	"archive/zip"
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Bounds of an archive's directory: torch.save writes an entry for each tensor, of some 150 bytes.
const (
	maxDirectory = 16 << 20
	newestFormat = 10 // of the archive, as its entry "version" says; PyTorch 2 writes 3
)

func isZip(head []byte) bool { return bytes.HasPrefix(head, []byte("PK\x03\x04")) }

// archive is a zip file with entries NAME/data.pkl, the pickle, NAME/data/KEY, the storages, and NAME/version, NAME/byteorder.
type archive struct {
	files map[string]*zip.File // by what follows NAME/
	good  map[string]bool      // storages whose checksum was compared
}

// openArchive looks at the directory and runs the pickle.
func openArchive(r io.ReaderAt, size int64) (any, places, error) {
	bounded := &limited{r, maxDirectory}
	z, err := zip.NewReader(bounded, size)
	if err != nil {
		return nil, nil, fmt.Errorf("zip archive, which may be cut short: %w", err)
	}
	bounded.left = math.MaxInt64 // the entries are read through it too
	a := &archive{files: map[string]*zip.File{}, good: map[string]bool{}}
	if err := a.index(z.File, size); err != nil {
		return nil, nil, err
	}
	if a.files["constants.pkl"] != nil {
		return nil, nil, fmt.Errorf("it is a program of TorchScript, not a dict of tensors: %s", advice)
	}
	if err := a.checkFormat(r); err != nil {
		return nil, nil, err
	}
	at, err := a.verified("data.pkl")
	if err != nil {
		return nil, nil, err
	}
	length := int64(a.files["data.pkl"].UncompressedSize64)
	p, err := unpickle(bufio.NewReader(io.NewSectionReader(r, at, length)))
	if err != nil {
		return nil, nil, fmt.Errorf("data.pkl: %w", err)
	}
	if p.bytes != length {
		return nil, nil, fmt.Errorf("data.pkl: %d bytes follow the pickle", length-p.bytes)
	}
	return p.value, a, nil
}

// limited reads until a number of bytes is used up.
type limited struct {
	r    io.ReaderAt
	left int64
}

var errDirectory = fmt.Errorf("its directory takes more than %d bytes", maxDirectory)

func (l *limited) ReadAt(p []byte, off int64) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, errDirectory
	}
	return l.r.ReadAt(p, off)
}

// index names the entries, which must be stored as they are, once each and without overlap: so none is larger than the file.
func (a *archive) index(files []*zip.File, size int64) error {
	name := ""
	for _, f := range files {
		if dir, ok := strings.CutSuffix(f.Name, "/data.pkl"); ok && (name == "" || len(dir) < len(name)) {
			name = dir
		}
	}
	if name == "" {
		return fmt.Errorf("the archive has no data.pkl, which torch.save writes: %s", advice)
	}
	type span struct{ from, to int64 }
	var spans []span
	for _, f := range files {
		at, err := f.DataOffset()
		if err != nil {
			return fmt.Errorf("entry %.80q: %w", f.Name, err)
		}
		n := f.UncompressedSize64
		switch {
		case f.Method != zip.Store || f.CompressedSize64 != n || f.Flags&1 != 0:
			return fmt.Errorf("entry %.80q is compressed or encrypted, which torch.save never does", f.Name)
		case at > size || n > uint64(size-at):
			return fmt.Errorf("entry %.80q takes %d bytes from byte %d on, the file has %d: it is cut short", f.Name, n, at, size)
		case a.files[strings.TrimPrefix(f.Name, name+"/")] != nil:
			return fmt.Errorf("entry %.80q is there twice", f.Name)
		}
		spans = append(spans, span{at, at + int64(n)})
		a.files[strings.TrimPrefix(f.Name, name+"/")] = f
	}
	slices.SortFunc(spans, func(x, y span) int { return cmp.Or(cmp.Compare(x.from, y.from), cmp.Compare(x.to, y.to)) })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return fmt.Errorf("two entries overlap at byte %d", spans[i].from)
		}
	}
	return nil
}

// checkFormat looks at the small entries, either of which may be missing.
func (a *archive) checkFormat(r io.ReaderAt) error {
	for _, c := range []struct {
		name string
		good func(text string) bool
	}{
		{"byteorder", func(s string) bool { return s == "little" }},
		{"version", func(s string) bool { n, err := strconv.Atoi(s); return err == nil && n > 0 && n <= newestFormat }},
	} {
		f := a.files[c.name]
		if f == nil {
			continue
		}
		at, err := a.verified(c.name)
		if err != nil {
			return err
		}
		text := make([]byte, min(f.UncompressedSize64, 32))
		if _, err := r.ReadAt(text, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if s := strings.TrimSpace(string(text)); !c.good(s) {
			return fmt.Errorf("entry %s says %.32q: want byte order little, and a version of 1 to %d", c.name, s, newestFormat)
		}
	}
	return nil
}

// verified gives an entry's offset once its CRC-32 was found right.
func (a *archive) verified(name string) (int64, error) {
	f := a.files[name]
	if f == nil {
		return 0, fmt.Errorf("entry %.80q is missing", name)
	}
	at, err := f.DataOffset()
	if err != nil || a.good[name] {
		return at, err
	}
	in, err := f.Open()
	if err != nil {
		return 0, fmt.Errorf("entry %.80q: %w", name, err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return 0, fmt.Errorf("entry %.80q at byte %d is damaged: %w", name, at, errors.Join(err, in.Close()))
	}
	a.good[name] = true
	return at, in.Close()
}

// locate implements places.
func (a *archive) locate(s *storage) (int64, error) {
	name := path.Join("data", s.key)
	f := a.files[name]
	if f == nil || name != "data/"+s.key {
		return 0, fmt.Errorf("storage %.80q is not in the archive", s.key)
	}
	if want := s.count * int64(s.dtype.Bytes()); f.UncompressedSize64 != uint64(want) {
		return 0, fmt.Errorf("storage %.80q has %d bytes, %d values of %s take %d", s.key, f.UncompressedSize64, s.count, s.dtype, want)
	}
	return a.verified(name)
}
