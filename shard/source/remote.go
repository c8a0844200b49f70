package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync/atomic"
	"time"
)

// attributes are what is known of a remote file.
type attributes struct {
	size    int64
	version string // "" where the server tells no versions apart
}

// An object is a remote file as its protocol sees it. It makes single attempts; patience is the Opener's.
type object interface {
	// stat asks for size and version.
	stat(ctx context.Context) (attributes, error)
	// expect says which version get must give. It comes before the first get.
	expect(a attributes)
	// get asks for n bytes from off, n > 0, of the expected version. The body gives at most those.
	get(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

// A bucket holds objects.
type bucket interface {
	object(key string) object
	// list gives one page of the objects below a prefix, and where the next begins; nil after the last.
	list(ctx context.Context, prefix string, token []byte) (page []listed, next []byte, err error)
	close() error
}

// listed is an object in a bucket's listing.
type listed struct {
	key string
	attributes
}

// remote is a file that is read by requests.
type remote struct {
	opener   *Opener
	location string
	obj      object
	size     int64
	version  string
	closed   atomic.Bool
}

func (r *remote) Name() string { return Clean(r.location) }
func (r *remote) Size() int64  { return r.size }

// Version implements Versioned.
func (r *remote) Version() string { return r.version }

func (r *remote) Close() error {
	r.closed.Store(true)
	return nil
}

// ReadAt asks for parts one after another.
func (r *remote) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := r.check(p, off); err != nil {
		return err
	}
	end := off + int64(len(p))
	for len(p) > 0 {
		n := min(int64(len(p)), r.opener.o.PartSize)
		got, err := r.part(ctx, p[:n], off)
		if err != nil {
			return r.fail(err, off+got, end)
		}
		p, off = p[n:], off+n
	}
	return nil
}

// check refuses reads that no file could serve.
func (r *remote) check(p []byte, off int64) error {
	if r.closed.Load() {
		return r.fail(ErrClosed, off, off+int64(len(p)))
	}
	if off < 0 || off > r.size || int64(len(p)) > r.size-off {
		return r.fail(io.ErrUnexpectedEOF, off, off+int64(len(p)))
	}
	return nil
}

func (r *remote) fail(err error, off, end int64) error {
	e := &ReadError{Location: r.location, Offset: off, End: end, Size: r.size, Err: err}
	var tried *triedError
	if errors.As(err, &tried) {
		e.Err, e.Attempts = tried.err, tried.n
	}
	return e
}

// part reads one part. Attempts after the first ask only for what is missing.
func (r *remote) part(ctx context.Context, p []byte, off int64) (got int64, err error) {
	err = r.opener.attempts(ctx, func(ctx context.Context, alive func()) error {
		body, err := r.obj.get(ctx, off+got, int64(len(p))-got)
		if err != nil {
			return err
		}
		alive()
		n, err := readFull(body, p[got:], alive)
		got += int64(n)
		return errors.Join(err, ignoreAtEnd(err, body.Close()))
	})
	return got, err
}

// ignoreAtEnd drops the error of closing where reading has failed already, or has all it wanted.
func ignoreAtEnd(readErr, _ error) error { return readErr }

// readFull is io.ReadFull that tells of every byte.
func readFull(r io.Reader, p []byte, alive func()) (int, error) {
	n := 0
	for n < len(p) {
		k, err := r.Read(p[n:])
		n += k
		if k > 0 {
			alive()
		}
		if n == len(p) {
			break
		}
		if err == io.EOF {
			return n, fmt.Errorf("the connection ended %d bytes early: %w", len(p)-n, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// triedError counts the attempts behind an error.
type triedError struct {
	err error
	n   int
}

func (e *triedError) Error() string { return e.err.Error() }
func (e *triedError) Unwrap() error { return e.err }

// statusError is an answer that is none.
type statusError struct {
	code  int
	text  string
	after time.Duration // what Retry-After asks for
}

func (e *statusError) Error() string { return "the server answers " + e.text }

// Is makes the answers that mean so match the file system's errors.
func (e *statusError) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.code == http.StatusNotFound || e.code == http.StatusGone
	case fs.ErrPermission:
		return e.code == http.StatusUnauthorized || e.code == http.StatusForbidden
	}
	return false
}

// passing says whether an attempt's failure may pass. What is not known to be final is tried again.
func passing(err error) bool {
	for _, final := range []error{ErrNoRanges, ErrChanged, ErrPlain, ErrClosed, errFinal, fs.ErrNotExist, fs.ErrPermission} {
		if errors.Is(err, final) {
			return false
		}
	}
	var s *statusError
	if errors.As(err, &s) {
		switch s.code {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return true
		}
		return s.code >= 500 && s.code != http.StatusNotImplemented
	}
	return true
}

// errFinal marks other failures that trying again will not mend.
var errFinal = errors.New("")

// final marks err.
func final(err error) error { return &finalError{err} }

type finalError struct{ err error }

func (e *finalError) Error() string        { return e.err.Error() }
func (e *finalError) Unwrap() error        { return e.err }
func (e *finalError) Is(target error) bool { return target == errFinal }

// openError tells of a file that could not be opened.
func openError(location string, err error) error {
	var tried *triedError
	n := 1
	if errors.As(err, &tried) {
		err, n = tried.err, tried.n
	}
	return &OpenError{Location: location, Attempts: n, Err: err}
}

// adviceFor says what to do.
func adviceFor(err error) string {
	var s *statusError
	switch {
	case errors.Is(err, ErrChanged):
		return "files must not change while they are read: start again, with the new ones"
	case errors.Is(err, ErrNoRanges):
		return "use a server that answers range requests with 206 (nginx, caddy, S3), or download the file and name its path"
	case errors.Is(err, ErrStalled), errors.Is(err, context.DeadlineExceeded):
		return "look at the network and the server, then start again"
	case errors.Is(err, ErrPlain):
		return "use https, or allow plain HTTP if everybody on the wire is trusted"
	case errors.Is(err, fs.ErrPermission):
		return "check the credentials, and that they may read this file"
	case errors.Is(err, fs.ErrNotExist):
		return "check the location's spelling"
	case errors.As(err, &s) && s.code >= 500:
		return "the server is in trouble: look there, or start again later"
	}
	return ""
}
