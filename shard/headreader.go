package shard

import (
	"context"
	"errors"
	"io"

	"github.com/lockstep-ml/lockstep/shard/source"
)

const (
	// farAway is how long a member of a remote archive must be for its bytes to be skipped; shorter ones are read through, since a
	// request costs as much as they do. On this machine only what a page of the disk holds anyway is read.
	farAway, farAwayHere = 64 << 10, 4 << 10
	// leastAhead holds a header and the names that may follow it.
	leastAhead = 4 << 10
	// mostAhead is one request for the headers of many short members.
	mostAhead = 1 << 20
)

// A headReader reads a part of a file forward, a window at a time, for somebody who looks at headers and skips what is between them.
// While what is skipped is short the windows grow; after a long skip they are small again. It remembers the file's error, which
// archive/tar would turn into one of its own.
type headReader struct {
	ctx  context.Context // of one scan
	f    source.File
	pos  int64
	end  int64
	far  int64 // skips longer than this begin a small window
	err  error
	skip int64 // how far the last Seek went

	window []byte
	start  int64 // of the window, in the file
}

func newHeadReader(ctx context.Context, f source.File, start, end int64) *headReader {
	r := &headReader{ctx: ctx, f: f, pos: start, end: end, start: start, far: farAwayHere, window: make([]byte, 0, leastAhead)}
	if source.Remote(f.Name()) {
		r.far = farAway
	}
	return r
}

func (r *headReader) Read(p []byte) (int, error) {
	if r.pos >= r.end {
		return 0, io.EOF
	}
	if r.pos < r.start || r.pos >= r.start+int64(len(r.window)) {
		if err := r.fill(); err != nil {
			r.err = err
			return 0, err
		}
	}
	n := copy(p, r.window[r.pos-r.start:])
	r.pos += int64(n)
	return n, nil
}

// fill reads the window that begins at pos.
func (r *headReader) fill() error {
	n := max(leastAhead, min(2*len(r.window), mostAhead))
	if r.skip > r.far {
		n = leastAhead
	}
	if n > cap(r.window) || n < cap(r.window)/4 {
		r.window = make([]byte, n)
	}
	n = int(min(int64(n), r.end-r.pos))
	r.window, r.start, r.skip = r.window[:n], r.pos, 0
	if err := r.f.ReadAt(r.ctx, r.window, r.pos); err != nil {
		r.window = r.window[:0]
		return err
	}
	return nil
}

// Seek moves from where it stands; archive/tar needs no more. Beyond the end there is nothing to read, which is how a cut shows.
func (r *headReader) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return 0, errors.New("headReader: seeks forward only")
	}
	r.pos += min(offset, max(r.end-r.pos, 0))
	r.skip = offset
	return r.pos, nil
}
