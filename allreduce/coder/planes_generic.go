package coder

import "encoding/binary"

func splitGeneric(lo, hi, src []byte) {
	n := len(src) / 2
	lo, hi = lo[:n], hi[:n]
	le := binary.LittleEndian
	i := 0
	for ; i+8 <= n; i += 8 {
		a, b := le.Uint64(src[2*i:]), le.Uint64(src[2*i+8:])
		le.PutUint64(lo[i:], evens(a)|evens(b)<<32)
		le.PutUint64(hi[i:], evens(a>>8)|evens(b>>8)<<32)
	}
	for ; i < n; i++ {
		lo[i], hi[i] = src[2*i], src[2*i+1]
	}
}

func mergeGeneric(dst, lo, hi []byte) {
	n := len(dst) / 2
	lo, hi = lo[:n], hi[:n]
	le := binary.LittleEndian
	i := 0
	for ; i+8 <= n; i += 8 {
		l, h := le.Uint64(lo[i:]), le.Uint64(hi[i:])
		le.PutUint64(dst[2*i:], spread(l)|spread(h)<<8)
		le.PutUint64(dst[2*i+8:], spread(l>>32)|spread(h>>32)<<8)
	}
	for ; i < n; i++ {
		dst[2*i], dst[2*i+1] = lo[i], hi[i]
	}
}

// evens packs bytes 0, 2, 4 and 6 of x into the low half.
func evens(x uint64) uint64 {
	x &= 0x00ff00ff00ff00ff
	x = (x | x>>8) & 0x0000ffff0000ffff
	return (x | x>>16) & 0x00000000ffffffff
}

// spread undoes evens, with zeros between.
func spread(x uint64) uint64 {
	x &= 0x00000000ffffffff
	x = (x | x<<16) & 0x0000ffff0000ffff
	return (x | x<<8) & 0x00ff00ff00ff00ff
}
