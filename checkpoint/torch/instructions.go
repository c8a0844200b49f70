package torch

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// instructions are those that Python's pickle module writes for dicts of tensors in protocols 2 to 5, by the byte that stands for
// each (the names are those of the pickletools module). Objects, byte strings, sets and the text forms of protocol 0 are left out.
var instructions = [256]func(m *machine) error{
	0x80: protocol,                                                          // PROTO
	0x95: func(m *machine) error { return m.skip(8) },                       // FRAME
	'N':  func(m *machine) error { return m.push(nil) },                     // NONE
	0x88: func(m *machine) error { return m.push(true) },                    // NEWTRUE
	0x89: func(m *machine) error { return m.push(false) },                   // NEWFALSE
	'K':  func(m *machine) error { return m.pushNumber(1) },                 // BININT1
	'M':  func(m *machine) error { return m.pushNumber(2) },                 // BININT2
	'J':  binInt,                                                            // BININT
	0x8a: longInt,                                                           // LONG1
	'G':  binFloat,                                                          // BINFLOAT
	'X':  func(m *machine) error { return m.pushText(4) },                   // BINUNICODE
	0x8c: func(m *machine) error { return m.pushText(1) },                   // SHORT_BINUNICODE
	'T':  func(m *machine) error { return m.pushText(4) },                   // BINSTRING, of Python 2
	'U':  func(m *machine) error { return m.pushText(1) },                   // SHORT_BINSTRING, of Python 2
	'(':  setMark,                                                           // MARK
	'0':  func(m *machine) error { _, err := m.pop(); return err },          // POP
	'1':  func(m *machine) error { _, err := m.popMark(); return err },      // POP_MARK
	']':  func(m *machine) error { return m.push(&list{}) },                 // EMPTY_LIST
	'}':  func(m *machine) error { return m.push(&dict{}) },                 // EMPTY_DICT
	')':  func(m *machine) error { return m.push(tuple{}) },                 // EMPTY_TUPLE
	'a':  appendOne,                                                         // APPEND
	'e':  appendAll,                                                         // APPENDS
	's':  setItem,                                                           // SETITEM
	'u':  setItems,                                                          // SETITEMS
	't':  markedTuple,                                                       // TUPLE
	0x85: func(m *machine) error { return m.pushTuple(1) },                  // TUPLE1
	0x86: func(m *machine) error { return m.pushTuple(2) },                  // TUPLE2
	0x87: func(m *machine) error { return m.pushTuple(3) },                  // TUPLE3
	'q':  func(m *machine) error { return m.put(1) },                        // BINPUT
	'r':  func(m *machine) error { return m.put(4) },                        // LONG_BINPUT
	0x94: func(m *machine) error { return m.remember(uint32(len(m.memo))) }, // MEMOIZE
	'h':  func(m *machine) error { return m.recall(1) },                     // BINGET
	'j':  func(m *machine) error { return m.recall(4) },                     // LONG_BINGET
	'c':  namedGlobal,                                                       // GLOBAL
	0x93: stackGlobal,                                                       // STACK_GLOBAL
	'R':  reduce,                                                            // REDUCE
	0x81: reduce,                                                            // NEWOBJ: an object made of its class, which is called too
	'b':  build,                                                             // BUILD
	'Q':  persistent,                                                        // BINPERSID
}

func (m *machine) skip(n int64) error {
	_, err := m.bytes(n)
	return err
}

const newestProtocol = 5

func protocol(m *machine) error {
	v, err := m.number(1)
	if err == nil && v > newestProtocol {
		err = fmt.Errorf("pickle protocol %d, the newest known is %d: %s", v, newestProtocol, advice)
	}
	return err
}

func (m *machine) pushNumber(width int64) error {
	v, err := m.number(width)
	if err != nil {
		return err
	}
	return m.push(int64(v))
}

func binInt(m *machine) error {
	v, err := m.number(4)
	if err != nil {
		return err
	}
	return m.push(int64(int32(v)))
}

// longInt is two's complement of any length.
func longInt(m *machine) error {
	n, err := m.number(1)
	if err != nil {
		return err
	}
	b, err := m.bytes(int64(n))
	if err != nil {
		return err
	}
	if len(b) > 8 {
		return m.push(long(b))
	}
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	shift := 64 - 8*len(b) // carries the sign up, and down again
	return m.push(int64(v<<shift) >> shift)
}

// binFloat is the one big-endian number of the format.
func binFloat(m *machine) error {
	v, err := m.number(8)
	if err != nil {
		return err
	}
	return m.push(math.Float64frombits(bits.ReverseBytes64(v)))
}

func (m *machine) pushText(width int64) error {
	s, err := m.text(width)
	if err != nil {
		return err
	}
	return m.push(s)
}

func setMark(m *machine) error {
	if m.marks++; m.marks > maxMarks {
		return fmt.Errorf("nested deeper than %d", maxMarks)
	}
	return m.push(mark{})
}

func appendOne(m *machine) error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	return m.extend([]any{v})
}

func appendAll(m *machine) error {
	values, err := m.popMark()
	if err != nil {
		return err
	}
	return m.extend(values)
}

func (m *machine) extend(values []any) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	l, ok := v.(*list)
	if !ok {
		return fmt.Errorf("%s is appended to, which only a list can be", kind(v))
	}
	l.items = append(l.items, values...)
	return nil
}

func setItem(m *machine) error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	k, err := m.pop()
	if err != nil {
		return err
	}
	return m.insert([]any{k, v})
}

func setItems(m *machine) error {
	values, err := m.popMark()
	if err != nil {
		return err
	}
	return m.insert(values)
}

// insert puts keys and values that alternate into the dict on top.
func (m *machine) insert(values []any) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	d, ok := v.(*dict)
	if !ok {
		return fmt.Errorf("items are set of %s, which only a dict has", kind(v))
	}
	if len(values)%2 != 0 {
		return errors.New("a key without a value")
	}
	for i := 0; i < len(values); i += 2 {
		d.entries = append(d.entries, entry{values[i], values[i+1]})
	}
	return nil
}

func markedTuple(m *machine) error {
	values, err := m.popMark()
	if err != nil {
		return err
	}
	return m.push(tuple(values))
}

func (m *machine) pushTuple(n int) error {
	t := make(tuple, n)
	for i := n - 1; i >= 0; i-- {
		v, err := m.pop()
		if err != nil {
			return err
		}
		t[i] = v
	}
	return m.push(t)
}

// put remembers the last value under a number that follows.
func (m *machine) put(width int64) error {
	n, err := m.number(width)
	if err != nil {
		return err
	}
	return m.remember(uint32(n))
}

func (m *machine) remember(n uint32) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	m.memo[n] = v
	return nil
}

func (m *machine) recall(width int64) error {
	n, err := m.number(width)
	if err != nil {
		return err
	}
	v, ok := m.memo[uint32(n)]
	if !ok {
		return fmt.Errorf("the memo has no entry %d", n)
	}
	return m.push(v)
}
