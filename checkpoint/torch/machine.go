package torch

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Bounds of one pickle. ResNet-152's state dict takes 20,000 instructions and 70 KB.
const (
	maxPickleBytes  = 64 << 20 // no storage is in it, so more is not a dict of tensors
	maxInstructions = 8 << 20  // one each 8 bytes of that
	maxStack        = 1 << 20  // 16 MB
	maxMemo         = 1 << 20  // what can be referred to again
	maxMarks        = 1000     // Python's own bound on depth
	maxText         = 1 << 20  // longest string
)

// machine runs one pickle. It builds the values of value.go and nothing else.
type machine struct {
	in    *bufio.Reader
	at    int64 // bytes of the pickle that were read
	stack []any
	marks int // on the stack
	memo  map[uint32]any

	storages map[string]*storage // that were named
}

// pickled is what a pickle holds.
type pickled struct {
	value    any
	bytes    int64               // its length
	storages map[string]*storage // that were named in it, each as a whole
}

// unpickle runs a pickle from its first byte to its end. The reader is at the next byte afterwards.
func unpickle(in *bufio.Reader) (*pickled, error) {
	m := &machine{in: in, memo: map[uint32]any{}, storages: map[string]*storage{}}
	for n := 0; ; n++ {
		begin := m.at
		v, done, err := m.step(n)
		if err != nil {
			return nil, fmt.Errorf("pickle, byte %d: %w", begin, err)
		}
		if done {
			return &pickled{v, m.at, m.storages}, nil
		}
	}
}

const stop = '.'

// step executes the n-th instruction. Once it is the last it gives the pickle's value.
func (m *machine) step(n int) (v any, done bool, err error) {
	op, err := m.byte()
	if err != nil {
		return nil, false, err
	}
	if op == stop {
		v, err = m.pop()
		if err == nil && len(m.stack) > 0 {
			err = fmt.Errorf("it ends with %d values too many", len(m.stack))
		}
		return v, true, err
	}
	run := instructions[op]
	switch {
	case run == nil:
		return nil, false, fmt.Errorf("instruction %#02x is not one that dicts of tensors are made of: %s", op, advice)
	case n >= maxInstructions:
		return nil, false, fmt.Errorf("more than %d instructions", maxInstructions)
	case len(m.stack) >= maxStack || len(m.memo) >= maxMemo:
		return nil, false, fmt.Errorf("more than %d values on the stack or %d in the memo", maxStack, maxMemo)
	}
	return nil, false, run(m)
}

// bytes takes n bytes from the pickle.
func (m *machine) bytes(n int64) ([]byte, error) {
	if n < 0 || n > maxText || m.at+n > maxPickleBytes {
		return nil, fmt.Errorf("%d bytes after %d, the bounds are %d for a string and %d for all", n, m.at, maxText, maxPickleBytes)
	}
	b := make([]byte, n)
	k, err := io.ReadFull(m.in, b)
	m.at += int64(k)
	return b, ended(err)
}

func (m *machine) byte() (byte, error) {
	if m.at >= maxPickleBytes {
		return 0, fmt.Errorf("it is longer than %d bytes", maxPickleBytes)
	}
	b, err := m.in.ReadByte()
	if err != nil {
		return 0, ended(err)
	}
	m.at++
	return b, nil
}

// ended turns the end of a file into an error: a pickle says itself where it ends.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// number takes a little-endian unsigned integer of 1, 2, 4 or 8 bytes.
func (m *machine) number(width int64) (uint64, error) {
	b, err := m.bytes(width)
	if err != nil {
		return 0, err
	}
	var all [8]byte
	copy(all[:], b)
	return binary.LittleEndian.Uint64(all[:]), nil
}

// text takes a string whose length stands before it in width bytes.
func (m *machine) text(width int64) (string, error) {
	n, err := m.number(width)
	if err != nil {
		return "", err
	}
	b, err := m.bytes(int64(min(n, maxPickleBytes)))
	if err == nil && !utf8.Valid(b) {
		err = fmt.Errorf("a string of %d bytes is not UTF-8", len(b))
	}
	return string(b), err
}

// line takes what stands before the next line feed.
func (m *machine) line() (string, error) {
	var b []byte
	for {
		c, err := m.byte()
		switch {
		case err != nil:
			return "", err
		case c == '\n':
			return string(b), nil
		case len(b) >= maxName:
			return "", fmt.Errorf("a name of more than %d bytes", maxName)
		}
		b = append(b, c)
	}
}

// maxName bounds the name of a module or a function.
const maxName = 4096

func (m *machine) push(v any) error {
	m.stack = append(m.stack, v)
	return nil
}

var errEmpty = errors.New("a value is taken from an empty stack")

func (m *machine) pop() (any, error) {
	if len(m.stack) == 0 {
		return nil, errEmpty
	}
	v := m.stack[len(m.stack)-1]
	if _, ok := v.(mark); ok {
		return nil, errEmpty
	}
	m.stack = m.stack[:len(m.stack)-1]
	return v, nil
}

// top looks at the last value.
func (m *machine) top() (any, error) {
	if len(m.stack) == 0 || m.stack[len(m.stack)-1] == (mark{}) {
		return nil, errEmpty
	}
	return m.stack[len(m.stack)-1], nil
}

// popMark takes everything above the last mark, and the mark.
func (m *machine) popMark() ([]any, error) {
	for i := len(m.stack) - 1; i >= 0; i-- {
		if _, ok := m.stack[i].(mark); ok {
			out := append([]any{}, m.stack[i+1:]...)
			m.stack = m.stack[:i]
			m.marks--
			return out, nil
		}
	}
	return nil, errors.New("there is no mark on the stack")
}

// popAs takes the last value, which must be of type T.
func popAs[T any](m *machine) (T, error) {
	var zero T
	v, err := m.pop()
	if err != nil {
		return zero, err
	}
	t, ok := v.(T)
	if !ok {
		return zero, fmt.Errorf("%s stands where %s is needed", kind(v), kind(zero))
	}
	return t, nil
}
