package allreduce

import "github.com/lockstep-ml/lockstep/internal/crc32c"

// stride is how many bytes of a payload are summed, checked and added at a
// time: what is read and written of them then stays in the first-level cache.
const stride = 16 << 10

// reader gives out the values of a payload in pieces as contiguous runs.
type reader struct {
	width int // bytes of a value
	next  int // index of the next value in the bucket
	// A value that straddles pieces is put together here.
	split  [4]byte
	filled int
}

// runs calls f for the whole of m's payload, whose first value is lo: values
// lo..hi as the bytes in. It returns the CRC32C of the payload unless m is
// Unsummed.
func (r *reader) runs(m *Message, lo int, f func(in []byte, lo, hi int)) (sum uint32) {
	r.next, r.filled = lo, 0
	for _, piece := range m.Payload {
		for len(piece) > 0 {
			part := piece[:min(stride, len(piece))]
			piece = piece[len(part):]
			if !m.Unsummed {
				sum = crc32c.Update(sum, part)
			}
			r.run(part, f)
		}
	}
	return sum
}

func (r *reader) run(part []byte, f func(in []byte, lo, hi int)) {
	if r.filled > 0 {
		n := copy(r.split[r.filled:r.width], part)
		r.filled += n
		part = part[n:]
		if r.filled < r.width {
			return
		}
		r.filled = 0
		f(r.split[:r.width], r.next, r.next+1)
		r.next++
	}
	n := len(part) / r.width
	if n > 0 {
		f(part[:n*r.width], r.next, r.next+n)
		r.next += n
	}
	r.filled = copy(r.split[:], part[n*r.width:])
}

// payloadSum is the CRC32C of a payload in pieces.
func payloadSum(m *Message) (sum uint32) {
	if m.Unsummed {
		return 0
	}
	for _, piece := range m.Payload {
		sum = crc32c.Update(sum, piece)
	}
	return sum
}
