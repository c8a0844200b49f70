package shard

import (
	"encoding/binary"
	"fmt"

	"github.com/lockstep-ml/lockstep/shard/source"
)

// What a scan of an archive found is kept beside the cache: going from header to header through 138 GB takes minutes, and hours on a
// distant server. The form is "members 1", the number of members, and for each: how many bytes its name shares with that before,
// how many follow, and those; how far it begins behind the end of the one before; its size; its label + 2. Numbers are varints.
const membersMagic = "members 1\n"

// indexKey names an archive's index, "" where the file's version is not known.
func indexKey(f source.File) string {
	v, ok := f.(source.Versioned)
	if !ok || v.Version() == "" {
		return ""
	}
	return fmt.Sprintf("members of %q %q %d", f.Name(), v.Version(), f.Size())
}

// keepMembers stores a scan's result. A cache that cannot be written to makes the next start slow, not this one wrong.
func keepMembers(o Options, key string, members []member) {
	if key == "" || !o.opener.Caches() {
		return
	}
	b := binary.AppendUvarint([]byte(membersMagic), uint64(len(members)))
	prev, end := "", int64(0)
	for i := range members {
		m := &members[i]
		same := shared(prev, m.name)
		b = binary.AppendUvarint(b, uint64(same))
		b = binary.AppendUvarint(b, uint64(len(m.name)-same))
		b = append(b, m.name[same:]...)
		b = binary.AppendUvarint(b, uint64(m.offset-end))
		b = binary.AppendUvarint(b, uint64(m.size))
		b = binary.AppendUvarint(b, uint64(m.label-noLabel))
		prev, end = m.name, m.offset+m.size
	}
	if err := o.opener.Keep(key, b); err != nil && o.Source.Warn != nil {
		o.Source.Warn(err)
	}
}

// keptMembers gives what keepMembers stored, nil where that is not to be had.
func keptMembers(o Options, key string, size int64, file int32) []member {
	if key == "" {
		return nil
	}
	b := o.opener.Kept(key)
	if b == nil {
		return nil
	}
	members, err := parseMembers(b, size, file)
	if err != nil {
		if o.Source.Warn != nil {
			o.Source.Warn(err)
		}
		return nil
	}
	return members
}

// shared is how many bytes two names have in common at their start.
func shared(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// parseMembers reads what keepMembers wrote, and holds it against the archive's size.
func parseMembers(b []byte, size int64, file int32) ([]member, error) {
	if len(b) < len(membersMagic) || string(b[:len(membersMagic)]) != membersMagic {
		return nil, fmt.Errorf("kept index: %w", ErrFormat)
	}
	r := varints{b: b[len(membersMagic):]}
	n := r.next(int64(len(r.b)) / 5)
	members := make([]member, 0, n)
	var names arena
	var name []byte
	end := int64(0)
	for range n {
		name = name[:r.next(int64(len(name)))]
		name = append(name, r.bytes(r.next(1<<20))...)
		offset := end + r.next(size-end)
		length := r.next(size - offset)
		label := int32(r.next(maxLabel-noLabel)) + noLabel
		if r.bad {
			break
		}
		end = offset + length
		members = append(members, member{name: names.keep(string(name)), size: length, offset: offset, file: file, label: label})
	}
	if r.bad || len(r.b) > 0 {
		return nil, fmt.Errorf("kept index: %w", ErrFormat)
	}
	return members, nil
}

// varints takes numbers from the front of b. After something that is not there, bad is set and all is zero.
type varints struct {
	b   []byte
	bad bool
}

// next takes a number of at most most.
func (r *varints) next(most int64) int64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || most < 0 || v > uint64(most) {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

func (r *varints) bytes(n int64) []byte {
	if n > int64(len(r.b)) {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}
