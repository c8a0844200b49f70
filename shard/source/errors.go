package source

import (
	"errors"
	"fmt"
)

var (
	// ErrNoListing: the place cannot say what files it has.
	ErrNoListing = errors.New("cannot be listed")
	// ErrNoRanges: the server gives whole files only.
	ErrNoRanges = errors.New("the server does not give parts of files")
	// ErrChanged: the file is not what it was when it was opened.
	ErrChanged = errors.New("the file has changed since it was opened")
	// ErrStalled: no byte came for Options.Stall.
	ErrStalled = errors.New("no byte came")
	// ErrClosed: the File or the Opener was closed.
	ErrClosed = errors.New("closed")
	// ErrPlain: the server would have to be spoken to in clear.
	ErrPlain = errors.New("not encrypted")
)

// A ReadError tells which bytes of which file could not be read.
type ReadError struct {
	Location string
	Offset   int64 // of the first byte that is missing
	End      int64 // behind the last byte that was wanted
	Size     int64 // of the file
	Attempts int
	Err      error
}

func (e *ReadError) Error() string {
	s := fmt.Sprintf("%s: bytes %d to %d of %d: %v", Clean(e.Location), e.Offset, e.End, e.Size, e.Err)
	if e.Attempts > 1 {
		s += fmt.Sprintf(" (after %d attempts)", e.Attempts)
	}
	if advice := adviceFor(e.Err); advice != "" {
		s += "; " + advice
	}
	return s
}

func (e *ReadError) Unwrap() error { return e.Err }

// An OpenError tells of a remote file that could not be opened, or a bucket that could not be listed.
type OpenError struct {
	Location string
	Attempts int
	Err      error
}

func (e *OpenError) Error() string {
	s := fmt.Sprintf("%s: %v", Clean(e.Location), e.Err)
	if e.Attempts > 1 {
		s += fmt.Sprintf(" (after %d attempts)", e.Attempts)
	}
	if advice := adviceFor(e.Err); advice != "" {
		s += "; " + advice
	}
	return s
}

func (e *OpenError) Unwrap() error { return e.Err }
